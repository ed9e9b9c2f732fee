package stdio

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dongne/internal/sharedlog"
	"dongne/maelstrom/node"
)

// process is a driver between pipes.
type process struct {
	*testing.T
	driver *driver
	in     *io.PipeWriter
	lines  *bufio.Reader
	out    *io.PipeWriter
	stderr bytes.Buffer
	ended  chan error
}

func program(t *testing.T, name string) node.Spec {
	t.Helper()
	for _, m := range node.Mutants() {
		if m.Name == name {
			return m.Spec
		}
	}
	s, found := node.Find(name)
	if !found {
		t.Fatalf("no program %q", name)
	}
	return s
}

// prepare makes a process that launch starts.
func prepare(t *testing.T, name, dir string, args ...string) *process {
	p := &process{T: t, ended: make(chan error, 1)}
	stdin, in := io.Pipe()
	lines, out := io.Pipe()
	p.in, p.lines, p.out = in, bufio.NewReader(lines), out
	getenv := func(variable string) string { return map[string]string{"MAELSTROM_NODE_DIR": dir}[variable] }
	p.driver = newDriver(program(t, name), args, Surroundings{Stdin: stdin, Stdout: out, Stderr: &p.stderr, Getenv: getenv,
		Now: time.Now, Rand: rand.New(rand.NewPCG(1, 2))})
	return p
}

func (p *process) launch() *process {
	go func() {
		p.ended <- p.driver.run()
		p.out.Close()
	}()
	return p
}

// send sends a body from c1.
func (p *process) send(body string) {
	p.Helper()
	p.sendFrom("c1", body)
}

func (p *process) sendFrom(src, body string) {
	p.Helper()
	if _, err := fmt.Fprintf(p.in, `{"id":1,"src":%q,"dest":"n0","body":%s}`+"\n", src, body); err != nil {
		p.Fatal(err)
	}
}

// want reads a line.
func (p *process) want(line string) {
	p.Helper()
	if got := p.read(); got != line {
		p.Errorf("got %s\nwant %s", got, line)
	}
}

func (p *process) read() string {
	p.Helper()
	line, err := p.lines.ReadString('\n')
	if err != nil {
		p.Fatal(err)
	}
	return strings.TrimSuffix(line, "\n")
}

func (p *process) init(nodes ...string) {
	p.Helper()
	text, _ := json.Marshal(nodes)
	p.send(`{"type":"init","msg_id":1,"node_id":"n0","node_ids":` + string(text) + `}`)
	p.want(`{"src":"n0","dest":"c1","body":{"in_reply_to":1,"type":"init_ok"}}`)
}

// end closes stdin and waits for Run, which must return no error.
func (p *process) end() {
	p.Helper()
	p.in.Close()
	if err := <-p.ended; err != nil {
		p.Errorf("Run: %v", err)
	}
}

func TestEcho(t *testing.T) {
	p := prepare(t, "echo", "").launch()
	p.init("n0")
	p.send(`{"type":"echo","msg_id":2,"echo":"hello"}`)
	p.want(`{"src":"n0","dest":"c1","body":{"echo":"hello","in_reply_to":2,"type":"echo_ok"}}`)
	p.send(`{"type":"add","msg_id":3,"element":1}`) // at which the library alone would end
	p.want(`{"src":"n0","dest":"c1","body":{"code":10,"in_reply_to":3,"text":"message type \"add\" is not supported","type":"error"}}`)
	p.send(`{"type":"init","msg_id":4,"node_id":"n1","node_ids":["n1"]}`)
	if line := p.read(); !strings.Contains(line, `"text":"a second init"`) {
		t.Errorf("a second init is answered with %s", line)
	}
	p.end()
}

// A program that asks a service gets the answers: the library did not ask, and would keep them.
func TestService(t *testing.T) {
	p := prepare(t, "g-counter", "", "--delay", "0s").launch()
	p.init("n0")
	p.send(`{"type":"add","msg_id":2,"delta":5}`)
	var asked struct {
		Dest string
		Body struct {
			Key   string
			MsgID int64 `json:"msg_id"`
		}
	}
	line := p.read()
	if err := json.Unmarshal([]byte(line), &asked); err != nil || asked.Dest != "seq-kv" || asked.Body.Key != "log/1" {
		t.Fatalf("sends %s: %v", line, err)
	}
	p.sendFrom("seq-kv", fmt.Sprintf(`{"type":"cas_ok","in_reply_to":%d}`, asked.Body.MsgID))
	p.want(`{"src":"n0","dest":"c1","body":{"in_reply_to":2,"type":"add_ok"}}`)
	p.send(`{"type":"read","msg_id":3}`)
	p.want(`{"src":"n0","dest":"c1","body":{"in_reply_to":3,"type":"read_ok","value":5}}`)
	p.end()
}

func TestBadInput(t *testing.T) {
	for line, want := range map[string]string{
		"{":                     "unmarshal message: unexpected end",
		`{"src":"c1","body":1}`: "unmarshal message body",
		strings.Repeat(" ", 1<<16) + `{"body":{"type":"echo"}}`: "token too long",
		`{"body":{"type":"echo","msg_id":1}}`:                   "", // before init: lost
	} {
		err := Run(program(t, "echo"), nil, Surroundings{Stdin: strings.NewReader(line), Stdout: io.Discard, Stderr: io.Discard,
			Getenv: func(string) string { return "" }, Now: time.Now})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("Run(%.40q) = %v, want %q", line, err, want)
		}
	}
}

// The library logs every message; as the process we decide where to.
func TestVerbose(t *testing.T) {
	defer log.SetOutput(log.Writer())
	for _, args := range [][]string{nil, {"--verbose"}} {
		var stdout, stderr bytes.Buffer
		err := Run(program(t, "echo"), args, Surroundings{
			Stdin:  strings.NewReader(`{"src":"c1","body":{"type":"init","msg_id":1,"node_id":"n0","node_ids":["n0"]}}` + "\n"),
			Stdout: &stdout, Stderr: &stderr, Getenv: func(string) string { return "" }, Now: time.Now, OwnsLog: true})
		if err != nil || !strings.Contains(stdout.String(), "init_ok") || strings.Contains(stderr.String(), "Received") != (args != nil) {
			t.Errorf("Run with %q: %v; stdout %q, stderr %q", args, err, &stdout, &stderr)
		}
	}
}

func TestBadArgument(t *testing.T) {
	p := prepare(t, "broadcast", "", "--loud").launch()
	p.send(`{"type":"init","msg_id":1,"node_id":"n0","node_ids":["n0"]}`)
	const reason = `unknown argument "--loud"`
	if line := p.read(); !strings.Contains(line, `"code":13`) || !strings.Contains(p.stderr.String(), reason) {
		t.Errorf("init is answered with %s, on stderr is %q", line, &p.stderr)
	}
	p.end()
}

// What was acknowledged is there when the node is started again on the same directory, and no id is given twice.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	var seen []uint64
	for life := range 3 {
		p := prepare(t, "broadcast", dir)
		p.driver.Now = func() time.Time { return time.UnixMicro(int64(100 - life)) } // a clock that goes back
		p.launch()
		p.init("n0")
		p.send(`{"type":"topology","msg_id":2,"topology":{"n0":[]}}`)
		p.want(`{"src":"n0","dest":"c1","body":{"in_reply_to":2,"type":"topology_ok"}}`)
		p.send(fmt.Sprintf(`{"type":"broadcast","msg_id":3,"message":%d}`, life))
		p.want(`{"src":"n0","dest":"c1","body":{"in_reply_to":3,"type":"broadcast_ok"}}`)
		p.send(`{"type":"read","msg_id":4}`)
		p.want(`{"src":"n0","dest":"c1","body":{"in_reply_to":4,"messages":[` + "0,1,2"[:1+2*life] + `],"type":"read_ok"}}`)
		p.end()
		seen = append(seen, p.driver.disk.incarnation)
	}
	if diff := cmp.Diff([]uint64{100, 101, 102}, seen); diff != "" {
		t.Errorf("incarnations mismatch (-want +got):\n%s", diff)
	}
}

func TestDiskInUse(t *testing.T) {
	dir := t.TempDir()
	first := prepare(t, "unique-ids", dir).launch()
	first.init("n0")
	second := prepare(t, "unique-ids", dir).launch()
	second.send(`{"type":"init","msg_id":1,"node_id":"n0","node_ids":["n0"]}`)
	if line := second.read(); !strings.Contains(line, `"code":13`) {
		t.Errorf("init is answered with %s", line)
	}
	second.end()
	first.end()
}

// memory is an engine whose creates wait for the gate.
type memory struct {
	slots [][]byte
	gate  chan error
}

func (m *memory) First() uint64 { return 1 }
func (m *memory) Tail() uint64  { return uint64(len(m.slots)) }
func (m *memory) Close() error  { return nil }

func (m *memory) Get(_ context.Context, slot uint64) ([]byte, error) { return m.slots[slot-1], nil }

func (m *memory) Create(_ context.Context, _ uint64, data []byte) (sharedlog.Outcome, error) {
	if len(m.slots) > 0 { // the first is that of the start
		if err := <-m.gate; err != nil {
			return sharedlog.Unknown, err
		}
	}
	m.slots = append(m.slots, data)
	return sharedlog.Created, nil
}

// While a slot is being written the node answers, and what comes meanwhile shares the next slot.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &memory{gate: make(chan error)}
		p := prepare(t, "broadcast", "disk")
		p.driver.open = func(string) (engine, error) { return log, nil }
		p.launch().init("n0")
		for i := range 5 {
			p.send(fmt.Sprintf(`{"type":"broadcast","msg_id":%d,"message":%d}`, 2+i, i))
			synctest.Wait()
		}
		p.send(`{"type":"read","msg_id":9}`)
		p.want(`{"src":"n0","dest":"c1","body":{"in_reply_to":9,"messages":[],"type":"read_ok"}}`)
		for _, ids := range [][]int{{2}, {3, 4, 5, 6}} {
			log.gate <- nil
			for _, id := range ids {
				p.want(fmt.Sprintf(`{"src":"n0","dest":"c1","body":{"in_reply_to":%d,"type":"broadcast_ok"}}`, id))
			}
		}
		p.end()
		if len(log.slots) != 3 {
			t.Errorf("%d slots, want 3: the start, the first, the others", len(log.slots))
		}
		records, _, err := (&disk{log: log}).load()
		if len(records) != 5 || err != nil {
			t.Errorf("%d records are on disk, %v", len(records), err)
		}
	})
}

func TestDiskFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, broken := &memory{gate: make(chan error, 1)}, errors.New("broken")
		p := prepare(t, "broadcast", "disk")
		p.driver.open = func(string) (engine, error) { return log, nil }
		p.launch().init("n0")
		log.gate <- broken
		p.send(`{"type":"broadcast","msg_id":2,"message":1}`)
		if err := <-p.ended; !errors.Is(err, broken) {
			t.Errorf("Run: %v", err)
		}
		p.in.Close()
	})
}

func TestBadDisk(t *testing.T) {
	for content, want := range map[string]string{"\xff": "no incarnation", "\x01\x05ab": "slot 1 ends within a record", "\x01\x80": "slot 1 ends within"} {
		if _, err := (&disk{log: &memory{slots: [][]byte{[]byte(content)}}}).begin(1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("begin with %q: %v, want %q", content, err, want)
		}
	}
}

// The program is woken: a second after its start the node shows its peer what it has.
func TestWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := prepare(t, "broadcast", "").launch()
		p.init("n0", "n1")
		began := time.Now()
		if line := p.read(); !strings.HasPrefix(line, `{"src":"n0","dest":"n1","body":{"type":"gossip"`) || time.Since(began) != time.Second {
			t.Errorf("after %v: %s", time.Since(began), line)
		}
		p.end()
	})
}

// Mutants may do what programs do not.
func TestOutlaws(t *testing.T) {
	for name, want := range map[string]string{"broadcast-babbler": "all is well so far", "broadcast-quitter": ""} {
		p := prepare(t, name, "").launch()
		p.init("n0")
		for i := range 20 {
			p.send(`{"type":"read","msg_id":2}`)
			if line := p.read(); !strings.Contains(line, "read_ok") {
				t.Errorf("%s: read %d is answered with %s", name, i, line)
			}
		}
		if want != "" {
			p.want(want)
			p.end()
		} else if err := <-p.ended; !errors.Is(err, ErrExited) {
			t.Errorf("%s: Run: %v", name, err)
		}
		p.in.Close()
	}
}
