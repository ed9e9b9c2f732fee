package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
	"unicode/utf8"
)

// lineBytesMax bounds what is kept of one log line; the rest of it is counted
// and dropped, so that a service cannot fill the gateway's memory.
const lineBytesMax = 64 << 10

// Lines lets several writers share one output, a whole line at a time.
type Lines struct {
	mu  sync.Mutex
	out io.Writer // guarded by mu
}

// NewLines writes to out.
func NewLines(out io.Writer) *Lines { return &Lines{out: out} }

// Write passes p on in one piece.
func (l *Lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

// A Relay is the writer that a service's output goes to. A line that is a JSON
// object goes on as it is with a "service" field in front (unless it has one);
// any other line is wrapped in such an object; an empty one is dropped. The
// bytes of a line may arrive in any pieces.
type Relay struct {
	out       *Lines
	service   string
	labelled  []byte            // how a line begins that has the service's name in front
	level     string            // of a wrapped line
	now       func() time.Time  // stamps a wrapped line
	listening func(addr string) // told the address in a line whose msg is "listening"; may be nil

	mu   sync.Mutex
	line []byte // guarded by mu: the line so far, at most lineBytesMax
	full []byte // guarded by mu: room for a line with its label
	lost int    // guarded by mu: bytes of the line beyond that
}

// NewRelay passes the lines of service on to out. Lines that are not JSON get
// the level and the time now. The address of a "listening" line is told to
// listening, if that is not nil.
func NewRelay(out *Lines, service, level string, now func() time.Time, listening func(addr string)) *Relay {
	name, _ := json.Marshal(service) // a string always can be
	return &Relay{out: out, service: service, labelled: fmt.Appendf(nil, `{"service":%s,`, name), level: level, now: now, listening: listening}
}

// Write takes the next bytes. The error is that of the output.
func (r *Relay) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(p)
	for {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			r.keep(p)
			return n, nil
		}
		r.keep(p[:end])
		p = p[end+1:]
		if err := r.pass(); err != nil {
			return n - len(p), err
		}
	}
}

// Close passes on a last line that has no end.
func (r *Relay) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pass()
}

func (r *Relay) keep(p []byte) {
	kept := min(len(p), lineBytesMax-len(r.line))
	r.line = append(r.line, p[:kept]...)
	r.lost += len(p) - kept
}

// pass writes the collected line out and begins a new one.
func (r *Relay) pass() error {
	line := bytes.TrimSpace(r.line)
	lost := r.lost
	r.line, r.lost = r.line[:0], 0
	if len(line) == 0 {
		return nil
	}
	if lost == 0 && plain(line) {
		r.full = append(append(append(r.full[:0], r.labelled...), line[1:]...), '\n')
		_, err := r.out.Write(r.full)
		return err
	}
	var fields map[string]json.RawMessage
	if lost > 0 || !utf8.Valid(line) || json.Unmarshal(line, &fields) != nil || fields == nil {
		return r.wrap(line, lost)
	}
	if r.listening != nil && string(fields["msg"]) == `"listening"` {
		var addr string
		if json.Unmarshal(fields["addr"], &addr) == nil {
			r.listening(addr)
		}
	}
	return r.label(line, fields)
}

// plain says of a line that it surely is a JSON object which has fields, and among them neither a service nor the message
// "listening". Almost all lines are such.
func plain(line []byte) bool {
	for _, unusual := range []string{`"service"`, `"listening"`, `\u`} {
		if bytes.Contains(line, []byte(unusual)) {
			return false
		}
	}
	return len(line) > 2 && line[0] == '{' && line[1] == '"' && utf8.Valid(line) && json.Valid(line)
}

// label writes a line that is a JSON object with the service's name in front.
func (r *Relay) label(line []byte, fields map[string]json.RawMessage) error {
	var b bytes.Buffer
	if _, has := fields["service"]; !has {
		name, _ := json.Marshal(r.service)
		b.WriteString(`{"service":`)
		b.Write(name)
		if len(fields) > 0 {
			b.WriteByte(',')
		}
		line = line[1:]
	}
	b.Write(line)
	b.WriteByte('\n')
	_, err := r.out.Write(b.Bytes())
	return err
}

// wrap writes a line that is not JSON, or was cut, as the message of one that is.
func (r *Relay) wrap(line []byte, lost int) error {
	b, err := json.Marshal(struct {
		Service string    `json:"service"`
		Time    time.Time `json:"time"`
		Level   string    `json:"level"`
		Msg     string    `json:"msg"`
		Lost    int       `json:"lost_bytes,omitempty"`
	}{r.service, r.now().UTC(), r.level, string(line), lost})
	if err != nil {
		return err
	}
	_, err = r.out.Write(append(b, '\n'))
	return err
}
