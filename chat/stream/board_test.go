package stream

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// op is one step of a script for a board with a few conns and topics.
type op struct {
	kind  string
	conn  int
	topic int
}

const (
	scriptConns  = 4
	scriptTopics = 3
)

var scripts = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) op {
	kinds := []string{"publish", "publish", "publish", "publish", "subscribe", "subscribe", "unsubscribe", "send", "end", "flush"}
	return op{
		rapid.SampledFrom(kinds).Draw(t, "kind"),
		rapid.IntRange(0, scriptConns-1).Draw(t, "conn"),
		rapid.IntRange(0, scriptTopics-1).Draw(t, "topic"),
	}
}), 1, 80)

// playBoard runs a script against a board and against the definition of what it does: an event reaches, at once and in
// order, whoever is subscribed when it is published. It returns the first difference. mutate, if not nil, damages each
// window on its way.
func playBoard(script []op, mutate func(*window)) error {
	b := newBoard()
	var w window
	var conns [scriptConns]*Conn
	var want, got [scriptConns]string
	var subscribed [scriptConns][scriptTopics]bool
	var ended, gotEnd [scriptConns]bool
	for i := range conns {
		conns[i] = &Conn{}
	}
	flush := func() {
		b.take(&w)
		if mutate != nil {
			mutate(&w)
		}
		w.plan()
		var m merger
		for i := range w.deliveries {
			d := &w.deliveries[i]
			c := slices.Index(conns[:], d.conn)
			frames, _ := m.render(d)
			got[c] += string(frames)
			gotEnd[c] = gotEnd[c] || d.end
		}
		w.reset()
	}
	for i, o := range append(script, op{kind: "flush"}) {
		frame := strconv.Itoa(i) + ","
		topic := Topic(strconv.Itoa(o.topic))
		switch o.kind {
		case "publish":
			b.publish(topic, []byte(frame))
			for c := range conns {
				if subscribed[c][o.topic] {
					want[c] += frame
				}
			}
		case "subscribe":
			if !ended[o.conn] {
				b.subscribe(conns[o.conn], topic)
				subscribed[o.conn][o.topic] = true
			}
		case "unsubscribe":
			b.unsubscribe(conns[o.conn], topic)
			subscribed[o.conn][o.topic] = false
		case "send", "end":
			if ended[o.conn] {
				continue
			}
			ended[o.conn] = o.kind == "end"
			b.send(conns[o.conn], []byte(frame), ended[o.conn])
			want[o.conn] += frame
			if ended[o.conn] {
				b.unsubscribeAll(conns[o.conn])
				subscribed[o.conn] = [scriptTopics]bool{}
			}
		case "flush":
			flush()
		}
	}
	if want != got || ended != gotEnd {
		return fmt.Errorf("streams got %q, ended %v; want %q, ended %v", got, gotEnd, want, ended)
	}
	for _, c := range conns {
		b.unsubscribeAll(c)
	}
	if len(b.topics) > 0 || !b.empty() || b.bytes != 0 {
		return fmt.Errorf("%d topics, %d dirty, %d bytes are left without a subscriber", len(b.topics), len(b.dirty), b.bytes)
	}
	return nil
}

func TestBoard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if err := playBoard(scripts.Draw(t, "script"), nil); err != nil {
			t.Fatal(err)
		}
	})
}

// TestBoardMutants: the check finds each way in which a board could be wrong.
func TestBoardMutants(t *testing.T) {
	for name, mutate := range map[string]func(*window){
		"an event of before Subscribe": func(w *window) {
			for i := range w.members {
				w.members[i].since = 0
			}
		},
		"an event of after Unsubscribe": func(w *window) {
			for i := range w.members {
				w.members[i].until = 0
			}
		},
		"lost at Unsubscribe": func(w *window) {
			for i, m := range w.members {
				if m.until > 0 {
					w.members[i].since = m.until
				}
			}
		},
		"topics one after another": func(w *window) {
			for i, b := range w.batches {
				for j := range b.entries {
					b.entries[j].seq = uint64(i)
				}
			}
		},
		"sent frames after published ones": func(w *window) {
			for _, d := range w.directs {
				for j := range d.batch.entries {
					d.batch.entries[j].seq += 1 << 32
				}
			}
		},
		"an end forgotten": func(w *window) {
			for i := range w.directs {
				w.directs[i].end = false
			}
		},
	} {
		caught := false
		for seed := 0; seed < 500 && !caught; seed++ {
			caught = playBoard(scripts.Example(seed), mutate) != nil
		}
		if !caught {
			t.Errorf("a board with %s passes the check", name)
		}
	}
}

// TestSubscribersShare: streams with the same events share one buffer, the frame itself when it is alone, and a merge
// that is more than a worker may keep is made again instead.
func TestSubscribersShare(t *testing.T) {
	b := newBoard()
	one, two := &Conn{}, &Conn{}
	render := func(m *merger) [2][]byte {
		var w window
		b.take(&w)
		w.plan()
		if len(w.deliveries) != 2 {
			t.Fatalf("%d deliveries, want 2", len(w.deliveries))
		}
		first, n := m.render(&w.deliveries[0])
		second, k := m.render(&w.deliveries[1])
		if n != k || string(first) != string(second) {
			t.Errorf("two streams with the same topics got %q (%d events) and %q (%d)", first, n, second, k)
		}
		return [2][]byte{first, second}
	}
	for _, c := range []*Conn{one, two} {
		b.subscribe(c, "a")
		b.subscribe(c, "b")
	}
	frame := []byte("frame")
	b.publish("a", frame)
	if got := render(&merger{}); &got[0][0] != &frame[0] || &got[1][0] != &frame[0] {
		t.Error("a single frame is copied")
	}
	b.publish("a", frame)
	b.publish("b", frame)
	b.publish("a", frame)
	if got := render(&merger{}); &got[0][0] != &got[1][0] {
		t.Error("a merge for the same topics is not shared")
	}
	b.publish("a", frame)
	b.publish("b", frame)
	m := &merger{bytes: mergedBytesMax}
	if render(m); m.bytes != 2*len(frame) {
		t.Errorf("merger holds %d bytes, want %d after it went over its limit", m.bytes, 2*len(frame))
	}
}

// TestBoardCost: a window costs the same few allocations for one subscriber as for a thousand.
func TestBoardCost(t *testing.T) {
	allocs := func(conns int) float64 {
		b := newBoard()
		var w window
		for range conns {
			b.subscribe(&Conn{}, "a")
		}
		frame := []byte("frame")
		return testing.AllocsPerRun(100, func() {
			for range 10 {
				b.publish("a", frame)
			}
			b.take(&w)
			w.plan()
			w.reset()
		})
	}
	if one, many := allocs(1), allocs(1000); many > one {
		t.Errorf("%v allocations a window for 1,000 subscribers, %v for one", many, one)
	}
}

// TestTopicShrinks: a topic does not keep the room that a crowd once needed.
func TestTopicShrinks(t *testing.T) {
	b := newBoard()
	var conns []*Conn
	for range 4096 {
		c := &Conn{}
		b.subscribe(c, "a")
		conns = append(conns, c)
	}
	for _, c := range conns[10:] {
		b.unsubscribe(c, "a")
	}
	if got := cap(b.topics["a"].subs); got > 64 {
		t.Errorf("room for %d subscribers is kept for 10", got)
	}
	b.publish("a", []byte("x"))
	var w window
	b.take(&w)
	w.plan()
	if len(w.deliveries) != 10 {
		t.Errorf("%d deliveries, want 10", len(w.deliveries))
	}
}
