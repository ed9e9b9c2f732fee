package check

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"dongne/maelstrom/history"

	"pgregory.net/rapid"
)

// atomic makes histories of a perfect broadcast: one set, to which operations are applied at one moment between their
// invocation and their completion.
type atomic struct {
	run  *history.Run
	now  time.Duration
	set  []int
	next int // the next value
}

// client is one of them; what it has begun it must end.
type client struct {
	process int
	op      history.Op
	open    bool
	applied bool
	answer  json.RawMessage
}

func (a *atomic) record(op history.Op) {
	a.now += time.Millisecond
	op.Index, op.Time = len(a.run.Ops), a.now
	a.run.Ops = append(a.run.Ops, op)
	a.run.Elapsed = a.now
}

// step moves a client on: it begins, is applied, or ends. lost says that the answer is.
func (a *atomic) step(c *client, write, final, lost bool) {
	switch {
	case !c.open:
		c.op = history.Op{Process: c.process, F: "read", Node: a.run.Nodes[c.process%len(a.run.Nodes)], Final: final}
		if write {
			c.op.F, c.op.Value = "broadcast", json.RawMessage(strconv.Itoa(a.next))
			a.next++
		}
		c.open, c.applied = true, false
		a.record(c.op)
	case !c.applied:
		c.applied, c.answer = true, array(a.set)
		if c.op.F == "broadcast" {
			value, _ := strconv.Atoi(string(c.op.Value))
			c.answer, a.set = c.op.Value, append(a.set, value)
		}
	default:
		c.open, c.op.Type = false, history.OK
		if c.op.Value = c.answer; lost {
			c.op.Type, c.op.Value, c.op.Error = history.Info, nil, history.Error{Name: "net-timeout"}
		}
		a.record(c.op)
	}
}

func (a *atomic) finish(clients []*client) {
	for _, c := range clients {
		for c.open {
			a.step(c, false, false, false)
		}
	}
}

func array(set []int) json.RawMessage {
	text, _ := json.Marshal(slices.Clone(set))
	if set == nil {
		return json.RawMessage("[]")
	}
	return text
}

// drawRun returns a perfect run on some nodes, in which one broadcast at least was acknowledged.
func drawRun(t *rapid.T) *history.Run {
	a := &atomic{run: &history.Run{Workload: "broadcast"}}
	var clients []*client
	for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
		a.run.Nodes = append(a.run.Nodes, fmt.Sprint("n", i))
		clients = append(clients, &client{process: i})
	}
	a.step(clients[0], true, false, false)
	a.finish(clients)
	for range rapid.IntRange(0, 60).Draw(t, "steps") {
		c := rapid.SampledFrom(clients).Draw(t, "client")
		a.step(c, rapid.Bool().Draw(t, "write"), false, rapid.IntRange(0, 9).Draw(t, "lost") == 0)
	}
	a.finish(clients)
	for range 3 {
		for _, c := range rapid.Permutation(clients).Draw(t, "order") {
			if c.open || !slices.ContainsFunc(a.run.Ops, func(op history.Op) bool { return op.Final && op.Process == c.process }) {
				a.step(c, false, true, false)
			}
		}
	}
	a.finish(clients)
	return a.run
}

func TestPerfectRunsAreTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		run := drawRun(t)
		r := Check(run, Options{})
		if r.Ours != True || r.Upstream != True || r.Vacuous != "" {
			t.Fatalf("ours %v, upstream's %v, reasons %q, of\n%s", r.Ours, r.Upstream, r.Reasons, lines(run))
		}
	})
}

// One fault in one read of a perfect run makes our verdict false; upstream's stays as it was with all but the first.
func TestOneFaultIsFalse(t *testing.T) {
	for name, harm := range map[string]func(*rapid.T, *history.Op){
		"drop an acknowledged value": func(t *rapid.T, op *history.Op) {
			values, _ := split(nil, op.Value)
			at := slices.IndexFunc(values, func(v []byte) bool { return string(v) == "0" }) // the first was acknowledged
			op.Value = join(slices.Delete(values, at, at+1))
		},
		"add a phantom": func(t *rapid.T, op *history.Op) {
			values, _ := split(nil, op.Value)
			at := rapid.IntRange(0, len(values)).Draw(t, "at")
			op.Value = join(slices.Insert(values, at, []byte(rapid.SampledFrom([]string{`"ghost"`, "-1", "1000", "0.0"}).Draw(t, "ghost"))))
		},
		"duplicate": func(t *rapid.T, op *history.Op) {
			values, _ := split(nil, op.Value)
			op.Value = join(append(values, rapid.SampledFrom(values).Draw(t, "value")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				run := drawRun(t)
				var finals []*history.Op
				for i := range run.Ops {
					if op := &run.Ops[i]; op.Final && op.Type == history.OK {
						finals = append(finals, op)
					}
				}
				harm(t, rapid.SampledFrom(finals).Draw(t, "read"))
				r := Check(run, Options{})
				if r.Ours != False || len(r.Reasons) == 0 {
					t.Fatalf("ours %v, reasons %q, of\n%s", r.Ours, r.Reasons, lines(run))
				}
				if name != "drop an acknowledged value" && r.Upstream != True {
					t.Fatalf("upstream's %v of\n%s", r.Upstream, lines(run))
				}
			})
		})
	}
}

func join(values [][]byte) json.RawMessage {
	var texts []string
	for _, v := range values {
		texts = append(texts, string(v))
	}
	return json.RawMessage("[" + strings.Join(texts, ",") + "]")
}

func lines(run *history.Run) string {
	var b strings.Builder
	history.WriteJSON(&b, run.Ops)
	return b.String()
}

// BenchmarkBroadcast checks 1,000 values that are broadcast, and then read 1,000 times.
func BenchmarkBroadcast(b *testing.B) {
	for _, c := range []struct {
		name    string
		missing int // of a read's values
	}{{"all", 0}, {"some missing", 1}} {
		b.Run(c.name, func(b *testing.B) {
			a := &atomic{run: &history.Run{Workload: "broadcast", Nodes: []string{"n1"}}}
			do := &client{}
			for i := range 2000 {
				for range 3 {
					a.step(do, i < 1000, i == 1999, false)
				}
				if i == 1000 {
					a.set = a.set[c.missing:]
				}
			}
			for b.Loop() {
				if r := Check(a.run, Options{}); (r.Ours == True) != (c.missing == 0) {
					b.Fatal(r.Reasons)
				}
			}
		})
	}
}
