package node

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/internal/sharedlog"

	"github.com/google/go-cmp/cmp"
)

// bench is a counter on a bench: a test says what its messages bring.
type bench struct {
	t   *testing.T
	p   Program
	now time.Duration
	out []body // sent and not yet taken
	to  []string
}

func newBench(t *testing.T, s Start) *bench {
	return &bench{t: t, p: start(t, "g-counter", s)}
}

func (b *bench) receive(src, data string, args ...any) {
	b.p.Receive(b.now, src, json.RawMessage(fmt.Sprintf(data, args...)))
	b.ready()
}

func (b *bench) ready() {
	for _, m := range b.p.Ready(b.now).Send {
		b.out, b.to = append(b.out, m.Body.(body)), append(b.to, m.To)
	}
}

// pass lets time pass.
func (b *bench) pass(d time.Duration) {
	for end := b.now + d; ; {
		wake := b.p.Wake()
		if wake < 0 || wake > end {
			b.now = end
			return
		}
		b.now = max(wake, b.now)
		b.ready()
		if b.p.Wake() == b.now {
			b.t.Fatal("it wakes again and again")
		}
	}
}

// take returns the next message that was sent, which must be of that type, and to that node.
func (b *bench) take(to, kind string) body {
	b.t.Helper()
	if len(b.out) == 0 {
		b.t.Fatalf("sends nothing, want %s to %s", kind, to)
	}
	m, dest := b.out[0], b.to[0]
	b.out, b.to = b.out[1:], b.to[1:]
	if m["type"] != kind || dest != to {
		b.t.Fatalf("sends %v to %s, want %s to %s", m, dest, kind, to)
	}
	return m
}

func (b *bench) wantSilence() {
	b.t.Helper()
	if len(b.out) > 0 {
		b.t.Fatalf("sends %v to %v, want nothing", b.out, b.to)
	}
}

// anothers is the batch of another node at a slot behind one with that hash.
func anothers(slot uint64, prev sharedlog.Hash, delta int) (data []byte, text string) {
	batch := sharedlog.Batch{Slot: slot, Time: int64(slot) * 1000, Writer: sharedlog.Writer{1}, N: slot, Prev: prev,
		Commands: []sharedlog.Command{{Data: fmt.Appendf(nil, `{"c":"c77","n":%d,"d":%d}`, slot, delta)}}}
	data = batch.Encode()
	return data, base64.StdEncoding.EncodeToString(data)
}

// An add is answered when the store has said that its slot was created, and not before; reads are then answered from
// memory until that is too old.
func TestAddLands(t *testing.T) {
	b := newBench(t, Start{})
	b.receive("c1", `{"type":"add","msg_id":1,"delta":4}`)
	b.wantSilence()
	b.pass(counterDelay)
	cas := b.take("seq-kv", "cas")
	if cas["key"] != "log/1" || cas["from"] != nil || cas["create_if_not_exists"] != true {
		t.Errorf("creates slot 1 by %v", cas)
	}
	b.wantSilence()
	b.receive("seq-kv", `{"type":"cas_ok","in_reply_to":%d}`, cas["msg_id"])
	b.take("c1", "add_ok")
	b.receive("c2", `{"type":"read","msg_id":7}`)
	if read := b.take("c2", "read_ok"); read["value"] != int64(4) || read["in_reply_to"] != int64(7) {
		t.Errorf("reads %v", read)
	}
	b.wantSilence()
	if wake := b.p.Wake(); wake >= 0 {
		t.Errorf("idle, it wakes at %v", wake)
	}
	b.pass(2 * counterStaleness)
	b.receive("c2", `{"type":"read","msg_id":8}`)
	b.wantSilence()
	b.pass(counterDelay)
	if cas := b.take("seq-kv", "cas"); cas["key"] != "log/2" {
		t.Errorf("a read that must be fresh creates %v", cas["key"])
	}
}

// What a store says to any try is true of all of them, and what it said to another life of the node is nothing.
func TestSilenceOfTheStore(t *testing.T) {
	b := newBench(t, Start{})
	b.receive("c1", `{"type":"add","msg_id":1,"delta":4}`)
	b.pass(counterDelay)
	first := b.take("seq-kv", "cas")
	b.pass(storeTimeout / 4)
	second := b.take("seq-kv", "cas")
	if first["msg_id"] == second["msg_id"] || first["to"] != second["to"] || first["key"] != second["key"] {
		t.Errorf("tries %v, then %v: want another msg_id, and nothing else", first, second)
	}
	earlier := newBench(t, Start{Incarnation: 37})
	earlier.receive("c1", `{"type":"add","msg_id":1,"delta":4}`)
	earlier.pass(counterDelay)
	b.receive("seq-kv", `{"type":"cas_ok","in_reply_to":%d}`, earlier.take("seq-kv", "cas")["msg_id"])
	b.receive("seq-kv", `{"type":"error","code":13,"text":"","in_reply_to":%d}`, second["msg_id"])
	b.wantSilence()
	b.receive("seq-kv", `{"type":"cas_ok","in_reply_to":%d}`, first["msg_id"])
	b.take("c1", "add_ok")
	b.pass(time.Minute)
	b.wantSilence()
}

// The slot is taken: by ourselves, as an answer was lost; or by another, whose add then counts too, and ours goes behind it.
func TestSlotIsTaken(t *testing.T) {
	for _, ours := range []bool{true, false} {
		b := newBench(t, Start{})
		b.receive("c1", `{"type":"add","msg_id":1,"delta":4}`)
		b.pass(counterDelay)
		cas := b.take("seq-kv", "cas")
		b.receive("seq-kv", `{"type":"error","code":22,"text":"","in_reply_to":%d}`, cas["msg_id"])
		read := b.take("seq-kv", "read")
		b.receive("seq-kv", `{"type":"error","code":20,"text":"","in_reply_to":%d}`, read["msg_id"]) // a stale read proves nothing
		again := b.take("seq-kv", "cas")
		if again["to"] != cas["to"] || again["key"] != cas["key"] {
			t.Errorf("after a stale read creates %v, want the same as before", again)
		}
		b.receive("seq-kv", `{"type":"error","code":22,"text":"","in_reply_to":%d}`, again["msg_id"])
		read = b.take("seq-kv", "read")
		data, text := anothers(1, sharedlog.Hash{}, 10)
		sum := int64(14)
		if ours {
			text, sum = cas["to"].(string), 4
		}
		b.receive("seq-kv", `{"type":"read_ok","value":%q,"in_reply_to":%d}`, text, read["msg_id"])
		if !ours {
			b.wantSilenceFromClient()
			next := b.take("seq-kv", "cas")
			behind, err := base64.StdEncoding.DecodeString(next["to"].(string))
			if err != nil || next["key"] != "log/2" {
				t.Fatalf("creates %v: %v", next, err)
			}
			if batch, err := sharedlog.DecodeBatch(behind); err != nil || batch.Prev != sharedlog.Sum(data) {
				t.Errorf("the batch at slot 2 is %+v, %v", batch, err)
			}
			b.receive("seq-kv", `{"type":"cas_ok","in_reply_to":%d}`, next["msg_id"])
		}
		b.take("c1", "add_ok")
		b.receive("c1", `{"type":"read","msg_id":2}`)
		if read := b.take("c1", "read_ok"); read["value"] != sum {
			t.Errorf("ours %v: reads %v, want %d", ours, read["value"], sum)
		}
	}
}

func (b *bench) wantSilenceFromClient() {
	b.t.Helper()
	if slices.Contains(b.to, "c1") {
		b.t.Fatalf("answers before its add has landed: %v", b.out)
	}
}

// What is no batch stops the log, and nothing is said to have happened, or not to.
func TestDamagedSlot(t *testing.T) {
	for _, value := range []string{`"AAAA"`, `"%"`, `17`, `null`} {
		b := newBench(t, Start{})
		b.receive("c1", `{"type":"add","msg_id":1,"delta":4}`)
		b.pass(counterDelay)
		b.receive("seq-kv", `{"type":"error","code":22,"text":"","in_reply_to":%d}`, b.take("seq-kv", "cas")["msg_id"])
		b.p.Receive(b.now, "seq-kv", json.RawMessage(fmt.Sprint(`{"type":"read_ok","value":`, value, `,"in_reply_to":`, b.take("seq-kv", "read")["msg_id"], `}`)))
		b.ready()
		if answer := b.take("c1", "error"); answer["code"] != codeCrash {
			t.Errorf("%s: answers %v, want an error that says nothing of the add", value, answer)
		}
		b.receive("c1", `{"type":"add","msg_id":2,"delta":4}`)
		b.pass(counterDelay)
		if answer := b.take("c1", "error"); answer["code"] != codeUnavailable {
			t.Errorf("%s: the next add is answered with %v", value, answer)
		}
	}
}

// Adds go to the first node, those that come while it has some together; if it does not answer the node adds itself.
func TestHandOver(t *testing.T) {
	b := newBench(t, Start{Nodes: []string{"n1", "n0"}}) // it is n1; n0 would be preferred if it stood first
	p := b.p.(*counterProgram)
	p.log.nodes = []string{"n0", "n1"}
	b.receive("c1", `{"type":"add","msg_id":1,"delta":1}`)
	first := b.take("n0", "forward")
	b.receive("c2", `{"type":"add","msg_id":1,"delta":2}`)
	b.receive("c3", `{"type":"add","msg_id":1,"delta":3}`)
	b.wantSilence()
	b.receive("n0", `{"type":"forward_ok","in_reply_to":%d,"results":[{"s":5,"v":10}]}`, first["msg_id"])
	second := b.take("n0", "forward")
	if n := len(second["requests"].([]json.RawMessage)); n != 2 {
		t.Errorf("hands over %d adds, want 2", n)
	}
	b.take("c1", "add_ok")
	b.receive("c1", `{"type":"read","msg_id":2}`)
	if read := b.take("c1", "read_ok"); read["value"] != int64(10) {
		t.Errorf("reads %v, want what the other node told", read["value"])
	}
	b.receive("c3", `{"type":"add","msg_id":2,"delta":4}`)
	b.pass(forwardTimeout + patience*counterDelay)
	cas := b.take("seq-kv", "cas")
	b.receive("n0", `{"type":"forward_ok","in_reply_to":%d,"results":[{"s":6,"v":15},{"s":6,"v":15}]}`, second["msg_id"]) // too late
	if slices.Contains(b.to, "c2") {
		t.Error("an answer that is too late is one")
	}
	b.receive("seq-kv", `{"type":"cas_ok","in_reply_to":%d}`, cas["msg_id"])
	var answered []string
	for i, m := range b.out {
		if m["type"] == "add_ok" {
			answered = append(answered, b.to[i])
		}
	}
	slices.Sort(answered)
	if diff := cmp.Diff([]string{"c2", "c3"}, slices.Compact(answered)); diff != "" {
		t.Errorf("answered mismatch (-want +got):\n%s", diff)
	}
}

// The first node answers what another handed over when it stands in the log.
func TestTakeOver(t *testing.T) {
	b := newBench(t, Start{Nodes: []string{"n0", "n1"}})
	const forward = `{"type":"forward","msg_id":%d,"requests":[{"c":"c9","n":1,"d":3},{"c":"c8","n":1,"d":4},{"r":true}]}`
	for id := 50; id < 52; id++ { // the second time it is late, or doubled
		b.receive("n1", forward, id)
		b.pass(counterDelay)
		b.receive("seq-kv", `{"type":"cas_ok","in_reply_to":%d}`, b.take("seq-kv", "cas")["msg_id"])
		answer := b.take("n1", "forward_ok")
		text, _ := json.Marshal(answer["results"])
		want := map[int]string{50: `[{"s":1,"v":7},{"s":1,"v":7},{"s":0,"v":0}]`, 51: `[{"s":2,"v":7},{"s":2,"v":7},{"s":1,"v":7}]`}[id]
		if answer["in_reply_to"] != int64(id) || string(text) != want {
			t.Errorf("answers %d with %s, want %s", id, text, want)
		}
	}
}

// A node that is far behind asks for many slots at once, and then adds.
func TestCatchUp(t *testing.T) {
	const slots = 200
	stored, prev := []string{""}, sharedlog.Hash{}
	for slot := uint64(1); slot <= slots; slot++ {
		data, text := anothers(slot, prev, 1)
		stored, prev = append(stored, text), sharedlog.Sum(data)
	}
	b := newBench(t, Start{})
	b.receive("c1", `{"type":"add","msg_id":1,"delta":4}`)
	b.pass(counterDelay)
	rounds, messages := 0, 0
	for ; len(b.out) > 0 && b.to[0] != "c1"; rounds++ {
		asked := b.out
		b.out, b.to = nil, nil
		for _, m := range asked {
			messages++
			var slot int
			fmt.Sscanf(m["key"].(string), "log/%d", &slot)
			switch {
			case m["type"] == "read" && slot <= slots:
				b.receive("seq-kv", `{"type":"read_ok","value":%q,"in_reply_to":%d}`, stored[slot], m["msg_id"])
			case m["type"] == "read":
				b.receive("seq-kv", `{"type":"error","code":20,"text":"","in_reply_to":%d}`, m["msg_id"])
			case slot <= slots:
				b.receive("seq-kv", `{"type":"error","code":22,"text":"","in_reply_to":%d}`, m["msg_id"])
			default:
				b.receive("seq-kv", `{"type":"cas_ok","in_reply_to":%d}`, m["msg_id"])
			}
		}
	}
	b.take("c1", "add_ok")
	if read := b.p.(*counterProgram).known; read.Value != slots+4 || rounds > 60 || messages > slots*3/2 {
		t.Errorf("after %d rounds and %d requests: %+v", rounds, messages, read)
	}
}

// A sum that would not fit is refused, and so is less in a g-counter; an add that is not new changes nothing.
func TestSums(t *testing.T) {
	m := &sums{dedups: true, known: map[addID]bool{}}
	for i, c := range []struct {
		client        string
		number, delta int64
		ok            bool
		sum           int64
	}{
		{"a", 1, 5, true, 5}, {"a", 1, 5, true, 5}, {"a", 2, -7, true, -2}, {"a", 1, 5, true, -2}, {"b", 1, 1, true, -1},
		{"b", 2, math.MinInt64, false, -1}, {"b", 2, math.MaxInt64, true, math.MaxInt64 - 1}, {"a", 3, 2, false, math.MaxInt64 - 1},
		{"a", 3, 1, true, math.MaxInt64}, {"a", 4, 0, true, math.MaxInt64},
	} {
		if ok := m.add(counterRequest{Client: c.client, Number: c.number, Delta: c.delta}); ok != c.ok || m.sum != c.sum {
			t.Errorf("%d: add %+v: %v, sum %d", i, c, ok, m.sum)
		}
	}
	m.grows = true
	if m.add(counterRequest{Client: "a", Number: 9, Delta: -1}) {
		t.Error("a g-counter shrinks")
	}
	for i := range addsMax + 10 {
		m.add(counterRequest{Client: "c", Number: int64(i)})
	}
	if len(m.known) != addsMax || len(m.order) != addsMax {
		t.Errorf("remembers %d adds, at most %d", len(m.known), addsMax)
	}
}

// What a counter costs: messages between nodes and with the store for each request, at three nodes and 100 requests a second.
func TestCounterCost(t *testing.T) {
	for workload, most := range map[string]float64{"g-counter": 1.1, "pn-counter": 1.5} {
		s := scenarioOf(workload, "")
		s.nodes, s.rate, s.latency = 3, 100, time.Millisecond
		w := s.play(1)
		if perOp := float64(w.sent) / float64(len(w.ops)); perOp > most || perOp < 0.2 {
			t.Errorf("%s: %.2f messages per request, at most %v", workload, perOp, most)
		}
		if wrong := w.verdict(); len(wrong) > 0 {
			t.Errorf("%s: %q", workload, wrong)
		}
	}
}

// Every acknowledged add is in the end counted, once, whatever happens on the way.
func TestCountersConverge(t *testing.T) {
	for _, workload := range []string{"g-counter", "pn-counter"} {
		for _, args := range [][]string{nil, {"--store", "lin-kv"}, {"--staleness", "0s", "--delay", "0s"}} {
			s := scenarioOf(workload, "")
			s.faults, s.args = everything, args
			for seed := range uint64(20) {
				if wrong := s.run(seed); len(wrong) > 0 {
					t.Errorf("%s %s, seed %d: %q", workload, strings.Join(args, " "), seed, wrong)
				}
			}
		}
	}
}
