package interpreter

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/maelstrom/history"
	"dongne/maelstrom/network"
	"dongne/maelstrom/workload"

	"github.com/google/go-cmp/cmp"
)

// world drives an interpreter in virtual time: every request is answered after a while, as answer says.
type world struct {
	t       *testing.T
	p       *Interpreter
	now     time.Duration
	pending []arrival // by time
	faults  []string
	notes   []string
	open    map[string]bool
	slow    time.Duration // how long a fault takes
}

type arrival struct {
	at time.Duration
	do func()
}

const delay = 10 * time.Millisecond

// run carries a run to its end. answer returns the reply's body without in_reply_to, "" for none.
func run(t *testing.T, c Config, answer func(m network.Message, head network.Head) string) *world {
	t.Helper()
	if c.Rand == nil {
		c.Rand, c.Faults = rand.New(rand.NewPCG(1, 1)), rand.New(rand.NewPCG(1, 2))
	}
	w := &world{t: t, p: New(c), open: map[string]bool{}}
	w.p.Start(0)
	for steps := 0; !w.p.Done(); steps++ {
		if steps > 1_000_000 {
			t.Fatal("the run does not end")
		}
		for _, a := range w.p.Step(w.now) {
			w.act(a, answer)
		}
		if w.p.Done() {
			break
		}
		next := w.p.Wake()
		if len(w.pending) > 0 && w.pending[0].at <= next {
			a := w.pending[0]
			w.pending = w.pending[1:]
			w.now = a.at
			a.do()
		} else if next > w.now {
			w.now = next
		}
	}
	for _, a := range w.p.Step(w.now) {
		w.act(a, answer)
	}
	if len(w.open) > 0 {
		t.Errorf("clients left open: %v", w.open)
	}
	return w
}

func (w *world) later(at time.Duration, do func()) {
	i := len(w.pending)
	for i > 0 && w.pending[i-1].at > at {
		i--
	}
	w.pending = slices.Insert(w.pending, i, arrival{at, do})
}

func (w *world) act(a Action, answer func(network.Message, network.Head) string) {
	switch {
	case a.Open != "":
		w.open[a.Open] = true
	case a.Close != "":
		delete(w.open, a.Close)
	case a.Note != "":
		w.notes = append(w.notes, fmt.Sprint(w.now, " ", a.Note))
	case a.Fault != nil:
		w.faults = append(w.faults, fmt.Sprint(w.now.Milliseconds(), " ", a.Fault.F))
		w.later(w.now+w.slow, func() { w.p.FaultDone(w.now, a.Fault) })
	case a.Send != nil:
		if !w.open[a.Send.Src] {
			w.t.Errorf("%s sends and is not open", a.Send.Src)
		}
		m := *a.Send
		head, _, err := network.ParseBody(m.Body)
		if err != nil || head.MsgID == nil {
			w.t.Fatalf("request %s: %v", m.Body, err)
		}
		if body := answer(m, head); body != "" {
			reply := fmt.Appendf([]byte(strings.TrimSuffix(body, "}")), `,"in_reply_to":%d}`, *head.MsgID)
			w.later(w.now+delay, func() { w.p.Receive(w.now, network.Message{Src: m.Dest, Dest: m.Src, Body: reply}) })
		}
	}
}

func ok(m network.Message, head network.Head) string {
	switch head.Type {
	case "read":
		return `{"type":"read_ok","messages":[]}`
	case "echo":
		return `{"type":"echo_ok","echo":1}`
	case "generate":
		return `{"type":"generate_ok","id":1}`
	}
	return `{"type":"` + head.Type + `_ok"}`
}

func config(t *testing.T, name string) Config {
	t.Helper()
	nodes := []string{"n0", "n1", "n2"}
	load, err := workload.New(name, map[string][]string{})
	if err != nil {
		t.Fatal(err)
	}
	return Config{Workload: load, Nodes: nodes, Concurrency: 3, Rate: 10, TimeLimit: 20 * time.Second, Timeout: 5 * time.Second,
		Recovery: 10 * time.Second, Interval: 4 * time.Second}
}

func TestSchedule(t *testing.T) {
	c := config(t, "broadcast")
	c.Kinds = []string{"partition"}
	c.FirstClient = 3
	w := run(t, c, ok)
	ops, findings, origin := w.p.History()
	if len(findings) > 0 || origin != delay {
		t.Errorf("findings %v, origin %v", findings, origin)
	}
	if ops[0].Time != 0 || ops[0].F != "start-partition" || ops[0].Process != history.Nemesis {
		t.Errorf("the history begins with %+v, want the first fault at 0", ops[0])
	}
	reads := map[string]int{}
	var main int
	var lastMain, healed, firstFinal time.Duration
	for i, op := range ops {
		switch {
		case op.Index != i:
			t.Fatalf("op %d has index %d", i, op.Index)
		case op.Process == history.Nemesis:
			healed = op.Time
		case op.Type == history.Invoke && op.Final:
			reads[op.Node]++
			firstFinal = op.Time
		case op.Type == history.Invoke:
			main++
			lastMain = op.Time
		case op.Type != history.OK:
			t.Errorf("op %+v, want ok", op)
		}
	}
	if main < 170 || main > 230 {
		t.Errorf("%d operations in 20 s at 10 a second", main)
	}
	if lastMain >= c.TimeLimit || healed < c.TimeLimit || firstFinal != healed+c.Recovery {
		t.Errorf("last operation at %v, healed at %v, final reads at %v", lastMain, healed, firstFinal)
	}
	if diff := cmp.Diff(map[string]int{"n0": 1, "n1": 1, "n2": 1}, reads); diff != "" {
		t.Errorf("final reads mismatch (-want +got):\n%s", diff)
	}
	for i, f := range w.faults {
		want := "start-partition"
		if i%2 == 1 {
			want = "stop-partition"
		}
		if !strings.HasSuffix(f, want) && i < len(w.faults)-1 { // the last ends whatever there is
			t.Errorf("faults %q do not alternate", w.faults)
		}
	}
	if last := w.faults[len(w.faults)-1]; !strings.HasSuffix(last, "stop-partition") || len(w.faults) < 3 {
		t.Errorf("faults %q, want some, and an end at last", w.faults)
	}
	if len(w.notes) != 1 || !strings.HasSuffix(w.notes[0], "Waiting for recovery...") {
		t.Errorf("notes %q", w.notes)
	}
}

// Without a final phase the run ends with the last reply, whatever is still broken.
func TestNoFinalPhase(t *testing.T) {
	c := config(t, "echo")
	c.Kinds = []string{"partition"}
	w := run(t, c, ok)
	if w.now > c.TimeLimit+2*delay {
		t.Errorf("the run ends at %v, its limit is %v", w.now, c.TimeLimit)
	}
}

func TestNoOperations(t *testing.T) {
	c := config(t, "echo")
	c.Rate = 0
	w := run(t, c, ok)
	if ops, _, _ := w.p.History(); len(ops) > 0 || w.now != c.TimeLimit {
		t.Errorf("%d operations until %v", len(ops), w.now)
	}
}

// What becomes of an operation: by what was answered to it, whether it is idempotent, and whether the client goes on.
func TestOutcomes(t *testing.T) {
	refusal := func(code int) string {
		return fmt.Sprintf(`{"type":"error","code":%d,"text":"because","more":1}`, code)
	}
	for _, c := range []struct {
		name, workload, f, answer string
		want                      history.Type
		err                       history.Error
		exception, finding        string
	}{
		{"timeout of a write", "broadcast", "broadcast", "", history.Info, history.Error{Name: "net-timeout"}, "", ""},
		{"timeout of a read", "broadcast", "read", "", history.Fail, history.Error{Name: "net-timeout"}, "", ""},
		{"timeout of an id", "unique-ids", "generate", "", history.Info, history.Error{Name: "net-timeout"}, "", ""},
		{"definite error", "broadcast", "broadcast", refusal(11), history.Fail, history.Error{Name: "temporarily-unavailable", Text: "because"}, "", ""},
		{"indefinite error", "broadcast", "broadcast", refusal(13), history.Info, history.Error{Name: "crash", Text: "because"}, "", ""},
		{"indefinite error of a read", "broadcast", "read", refusal(0), history.Fail, history.Error{Name: "timeout", Text: "because"}, "", ""},
		{"code of one's own", "broadcast", "broadcast", refusal(1001), history.Info, history.Error{Name: "unknown", Text: "because"}, "", ""},
		{"no code", "broadcast", "broadcast", `{"type":"error","text":"x"}`, history.Info, history.Error{}, "without an integer code", `integer "code"`},
		{"other type", "broadcast", "read", `{"type":"raed_ok","messages":[]}`, history.Info, history.Error{Text: `indeterminate: the reply to read has type "raed_ok", it should be "read_ok"`}, "raed_ok", "raed_ok"},
		{"no member", "broadcast", "read", `{"type":"read_ok"}`, history.Info, history.Error{Text: `indeterminate: read_ok has no member "messages"`}, "no member", "no member"},
		{"no array", "broadcast", "read", `{"type":"read_ok","messages":{}}`, history.Info, history.Error{Text: `indeterminate: "messages" of read_ok must be an array, not {}`}, "array", "array"},
		{"extra member", "broadcast", "broadcast", `{"type":"broadcast_ok","ok":true}`, history.Info, history.Error{Text: `indeterminate: broadcast_ok has a member "ok" that the protocol does not know`}, `"ok"`, `"ok"`},
		{"timeout of a counter's read", "g-counter", "read", "", history.Info, history.Error{Name: "net-timeout"}, "net-timeout", ""},
		{"definite error of a counter", "pn-counter", "read", refusal(11), history.Info, history.Error{Name: "temporarily-unavailable", Text: "because"},
			"temporarily-unavailable: because", ""},
		{"no integer", "pn-counter", "read", `{"type":"read_ok","value":1.5}`, history.Info,
			history.Error{Text: `indeterminate: "value" of read_ok must be an integer, not 1.5`}, "integer", "integer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config(t, c.workload)
			cfg.TimeLimit = 30 * time.Second
			w := run(t, cfg, func(m network.Message, head network.Head) string {
				if head.Type == c.f {
					return c.answer
				}
				return ok(m, head)
			})
			ops, findings, _ := w.p.History()
			other := history.Completions(ops)
			processes := map[int]bool{}
			seen := 0
			for i, op := range ops {
				if op.F != c.f || op.Type == history.Invoke {
					continue
				}
				seen++
				if c.exception != "" && !strings.Contains(op.Exception, c.exception) || c.exception == "" && op.Exception != "" {
					t.Fatalf("exception %q, want one with %q", op.Exception, c.exception)
				}
				if c.finding == "" || c.err != (history.Error{}) {
					if op.Type != c.want || op.Error != c.err {
						t.Fatalf("completed as %v, %+v, want %v, %+v", op.Type, op.Error, c.want, c.err)
					}
				}
				if string(op.Value) != string(ops[other[i]].Value) {
					t.Fatalf("value %s, was invoked with %s", op.Value, ops[other[i]].Value)
				}
				if op.Type == history.Info && processes[op.Process] {
					t.Fatalf("process %d goes on after an unknown outcome", op.Process)
				}
				processes[op.Process] = true
			}
			if seen == 0 {
				t.Fatal("never completed")
			}
			if found := len(findings) > 0 && strings.Contains(findings[0].Text, c.finding) && findings[0].Kind == history.BadReply; found != (c.finding != "") {
				t.Errorf("findings %+v, want one with %q", findings, c.finding)
			}
		})
	}
}

func TestValues(t *testing.T) {
	cfg := config(t, "unique-ids")
	w := run(t, cfg, func(m network.Message, head network.Head) string {
		return `{"type":"generate_ok","msg_id":9,"id":"a-1"}`
	})
	ops, _, _ := w.p.History()
	if string(ops[1].Value) != `"a-1"` {
		t.Errorf("generate is completed with %s", ops[1].Value)
	}
	w = run(t, config(t, "echo"), ok)
	ops, _, _ = w.p.History()
	if !strings.HasPrefix(string(ops[0].Value), `"Please echo `) || string(ops[1].Value) != `{"type":"echo_ok","echo":1,"in_reply_to":1}` {
		t.Errorf("echo %s is completed with %s, want the whole body", ops[0].Value, ops[1].Value)
	}
}

// A reply to an older request, to one that was never made, or to none, completes nothing; all but the first are findings.
func TestStrayReplies(t *testing.T) {
	p := New(Config{Workload: config(t, "echo").Workload, Nodes: []string{"n0"}, Concurrency: 1, Rate: 1, TimeLimit: time.Second,
		Timeout: time.Second, Rand: rand.New(rand.NewPCG(1, 1)), Faults: rand.New(rand.NewPCG(1, 1))})
	p.Start(0)
	p.Step(0)
	p.workers[0].msgID = 5 // it has asked before
	for _, body := range []string{`{"type":"echo_ok","echo":1,"in_reply_to":4}`, `{"type":"echo_ok","echo":1,"in_reply_to":7}`, `{"type":"echo_ok","echo":1}`, `{"type":"echo_ok","echo":1,"in_reply_to":"1"}`} {
		p.Receive(1, network.Message{Src: "n0", Dest: "c0", Body: json.RawMessage(body)})
	}
	p.Receive(1, network.Message{Src: "n0", Dest: "c7", Body: json.RawMessage(`{}`)})
	ops, findings, _ := p.History()
	if len(ops) != 1 || len(findings) != 3 || !strings.Contains(findings[0].Text, `"in_reply_to" is 7, and must be the "msg_id" of the request`) {
		t.Errorf("%d ops, findings %+v; want the invocation, and three findings, that of number 7 first", len(ops), findings)
	}
}

func TestSetupFails(t *testing.T) {
	for want, answer := range map[string]string{
		`did not answer "topology" within 5s`: "",
		"not topology_ok":                     `{"type":"error","code":10}`,
	} {
		w := run(t, config(t, "broadcast"), func(network.Message, network.Head) string { return answer })
		if err := w.p.Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Err() = %v, want one with %q", err, want)
		}
	}
}

// The nemesis does one thing at a time, and nothing is left broken in the end.
func TestManyFaults(t *testing.T) {
	cfg := config(t, "broadcast")
	cfg.Kinds, cfg.Interval = []string{"partition", "kill", "pause", "loss"}, time.Second
	w := &world{}
	for seed := range uint64(20) {
		cfg.Workload, _ = workload.New("broadcast", nil)
		cfg.Rand, cfg.Faults = rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))
		w = run(t, cfg, ok)
		ops, _, _ := w.p.History()
		busy := false
		for _, op := range ops {
			if op.Process != history.Nemesis {
				continue
			}
			if busy = !busy; busy != (op.Value == nil) {
				t.Fatalf("seed %d: nemesis op %+v while another is going on", seed, op)
			}
		}
		going := map[string]bool{}
		for _, f := range (&history.Run{Ops: ops}).Faults() {
			going[f.Name] = f.Unfinished
		}
		if diff := cmp.Diff(map[string]bool{"partition": false, "kill": false, "pause": false, "loss": false}, going); diff != "" {
			t.Fatalf("seed %d: what is left broken mismatch (-want +got):\n%s", seed, diff)
		}
	}
}

func TestNemesisDraws(t *testing.T) {
	nodes := []string{"n0", "n1", "n2"}
	r := rand.New(rand.NewPCG(1, 1))
	ours, theirs := newNemesis(nil, nodes, 1, r, false), newNemesis(nil, nodes, 1, r, true)
	empties := 0
	for range 400 {
		if f := ours.begin("partition"); string(f.Value) == `["isolated",{}]` {
			t.Fatal("our partition cuts nothing")
		}
		if f := theirs.begin("partition"); string(f.Value) == `["isolated",{}]` {
			empties++
		}
		if f := ours.begin("kill"); len(f.Nodes) == 0 || !slices.IsSorted(f.Nodes) {
			t.Fatalf("a kill hits %v", f.Nodes)
		}
	}
	if empties < 60 || empties > 140 {
		t.Errorf("%d of upstream's 400 partitions of three nodes cut nothing, want a quarter", empties)
	}
	if f := newNemesis(nil, nodes[:1], 1, r, false).begin("partition"); string(f.Value) != `["isolated",{}]` {
		t.Errorf("a partition of one node says %s", f.Value)
	}
}

// Two runs of one seed are the same.
func TestDeterministic(t *testing.T) {
	record := func() []history.Op {
		cfg := config(t, "broadcast")
		cfg.Kinds = []string{"partition", "kill"}
		ops, _, _ := run(t, cfg, ok).p.History()
		return ops
	}
	if diff := cmp.Diff(record(), record()); diff != "" {
		t.Errorf("two runs differ:\n%s", diff)
	}
}
