package servetest

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"unicode/utf8"
)

const (
	bodyBytesMax   = 1 << 20  // kept of a body
	streamBytesMax = 64 << 10 // kept of a hijacked connection
)

// Exchange is one line of the record.
type Exchange struct {
	Test     string   `json:"test"`
	Method   string   `json:"method"`
	URL      string   `json:"url"` // as in the request line
	Host     string   `json:"host"`
	Route    string   `json:"route"`
	Stream   bool     `json:"stream"`
	Request  Message  `json:"request"`
	Response Response `json:"response"`
}

// Message is a header and a body.
type Message struct {
	Header    http.Header `json:"header"`
	Body      string      `json:"body"`
	Base64    bool        `json:"base64,omitempty"`    // Body is in base64
	Truncated bool        `json:"truncated,omitempty"` // the body went on
}

// Response is a Message with a status.
type Response struct {
	Status int `json:"status"`
	Message
}

// Record returns handler, wrapped so that its exchanges are recorded (see the package comment), or handler itself when
// DONGNE_EXCHANGES is not set. The lines are written when the test ends. A hijacked connection is handed on as another
// TCP connection, whose bytes are relayed: the handler may take its file descriptor.
func Record(t testing.TB, service string, handler http.Handler) http.Handler {
	t.Helper()
	dir := os.Getenv("DONGNE_EXCHANGES")
	if dir == "" {
		return handler
	}
	return record(t, filepath.Join(dir, service+".jsonl"), handler)
}

func record(t testing.TB, file string, handler http.Handler) http.Handler {
	rec := &recorder{test: t.Name(), handler: handler}
	t.Cleanup(func() {
		if err := rec.save(file); err != nil {
			t.Errorf("servetest: record: %v", err)
		}
	})
	return rec
}

type recorder struct {
	test    string
	handler http.Handler
	inside  sync.WaitGroup // handlers; net/http does not wait for those that hijacked
	mu      sync.Mutex
	done    []*writer // guarded by mu
	relays  []*relay  // guarded by mu
}

// ServeHTTP implements http.Handler.
func (rec *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec.inside.Add(1)
	defer rec.inside.Done()
	rw := &writer{
		ResponseWriter: w, recorder: rec, isHead: r.Method == http.MethodHead,
		request: kept{max: bodyBytesMax}, response: kept{max: bodyBytesMax},
	}
	rw.exchange = Exchange{
		Test: rec.test, Method: r.Method, URL: r.RequestURI, Host: r.Host,
		Request: Message{Header: r.Header.Clone()},
	}
	if r.Body != nil {
		r.Body = teeBody{r.Body, &rw.request}
	}
	rec.handler.ServeHTTP(rw, r) // a panic, that is a cut connection, is not recorded
	rw.exchange.Route = r.Pattern
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.done = append(rec.done, rw)
}

// save appends everything to file, with one write.
func (rec *recorder) save(file string) error {
	rec.mu.Lock()
	for _, r := range rec.relays {
		r.end()
	}
	rec.mu.Unlock()
	rec.inside.Wait()
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	enc.SetEscapeHTML(false)
	for _, w := range rec.done {
		if err := enc.Encode(w.finish()); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.Write(lines.Bytes()); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// kept is the first bytes of something. It is safe for concurrent use: an HTTP handler may read and write at once.
type kept struct {
	max       int
	mu        sync.Mutex
	bytes     []byte // guarded by mu
	truncated bool   // guarded by mu
}

// Write keeps what fits and never fails.
func (k *kept) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := min(len(p), k.max-len(k.bytes))
	k.bytes = append(k.bytes, p[:n]...)
	k.truncated = k.truncated || n < len(p)
	return len(p), nil
}

// fill puts what was kept into m.
func (k *kept) fill(m *Message) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m.Truncated = k.truncated
	if m.Base64 = !utf8.Valid(k.bytes); m.Base64 {
		m.Body = base64.StdEncoding.EncodeToString(k.bytes)
	} else {
		m.Body = string(k.bytes)
	}
}

type teeBody struct {
	io.ReadCloser
	kept *kept
}

// Read implements io.Reader.
func (b teeBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.kept.Write(p[:n])
	return n, err
}

// writer notes what a handler answers.
type writer struct {
	http.ResponseWriter
	recorder          *recorder
	exchange          Exchange
	isHead            bool
	request, response kept
	relay             *relay // after Hijack
}

// Unwrap lets http.ResponseController reach the connection.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader notes the head.
func (w *writer) WriteHeader(status int) {
	w.ResponseWriter.WriteHeader(status)
	if w.exchange.Response.Status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.exchange.Response.Status = status
		w.exchange.Response.Header = maps.Clone(w.Header())
	}
}

// Write notes the body.
func (w *writer) Write(p []byte) (int, error) {
	if w.exchange.Response.Status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(p)
	if !w.isHead {
		w.response.Write(p[:n])
	}
	return n, err
}

// FlushError notes that the answer is a stream.
func (w *writer) FlushError() error {
	if w.exchange.Response.Status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.exchange.Stream = true
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack hands a relayed connection out.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	client, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	inner, outer, err := connPair()
	if err != nil {
		client.Close()
		return nil, nil, err
	}
	w.relay = startRelay(client, buffered.Reader, outer)
	w.recorder.mu.Lock()
	defer w.recorder.mu.Unlock()
	w.recorder.relays = append(w.recorder.relays, w.relay)
	w.exchange.Stream = true
	return inner, bufio.NewReadWriter(bufio.NewReader(inner), bufio.NewWriter(inner)), nil
}

// finish completes the exchange, after its handler and its relay ended.
func (w *writer) finish() Exchange {
	e := &w.exchange
	w.request.fill(&e.Request)
	if w.relay != nil {
		w.relay.answer(e.Method, &e.Response)
		return *e
	}
	if e.Response.Status == 0 { // net/http sends this for a handler that wrote nothing
		e.Response.Status, e.Response.Header = http.StatusOK, w.Header().Clone()
	}
	w.response.fill(&e.Response.Message)
	return *e
}

// relay copies bytes between the client and a hijacking handler, and keeps the first ones of the answer.
type relay struct {
	client, outer net.Conn
	copies        sync.WaitGroup
	sent          kept
}

// connPair returns the two ends of a TCP connection through loopback.
func connPair() (inner, outer net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if outer, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	if inner, err = l.Accept(); err != nil {
		outer.Close()
		return nil, nil, err
	}
	return inner, outer, nil
}

// startRelay relays until the handler's side is closed. The end of what the client sends is passed on.
func startRelay(client net.Conn, fromClient io.Reader, outer net.Conn) *relay {
	r := &relay{client: client, outer: outer, sent: kept{max: streamBytesMax}}
	r.copies.Go(func() {
		io.Copy(outer, fromClient)
		outer.(*net.TCPConn).CloseWrite()
	})
	r.copies.Go(func() {
		io.Copy(io.MultiWriter(&r.sent, client), outer)
		client.Close() // ends the other copy too
		outer.Close()
	})
	return r
}

func (r *relay) end() {
	r.client.Close()
	r.outer.Close()
	r.copies.Wait()
}

// answer parses what was sent as an HTTP/1.1 answer; what is not one has status 0 and everything as its body.
func (r *relay) answer(method string, to *Response) {
	raw := bufio.NewReader(bytes.NewReader(r.sent.bytes))
	resp, err := http.ReadResponse(raw, &http.Request{Method: method})
	if err != nil {
		r.sent.fill(&to.Message)
		return
	}
	defer resp.Body.Close()
	body := kept{max: streamBytesMax}
	io.Copy(&body, resp.Body) // ends with an error where the stream was cut: that is its end
	to.Status, to.Header = resp.StatusCode, resp.Header
	body.fill(&to.Message)
	to.Truncated = r.sent.truncated
}
