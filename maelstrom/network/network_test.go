package network

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"dongne/maelstrom/history"

	"github.com/google/go-cmp/cmp"
)

const ms = time.Millisecond

func newNetwork(mean time.Duration, spread Distribution) *Network {
	n := New(mean, spread, rand.New(rand.NewPCG(1, 1)))
	for _, name := range []string{"n1", "n2", "n3", "c1", "seq-kv"} {
		n.Open(name)
	}
	return n
}

func send(t *testing.T, n *Network, now time.Duration, src, dest, text string) {
	t.Helper()
	body := json.RawMessage(`{"type":"` + text + `"}`)
	if _, err := n.Send(now, Message{Src: src, Dest: dest, Body: body}); err != nil {
		t.Fatal(err)
	}
}

// received returns the types of all that an endpoint is given at a time.
func received(n *Network, now time.Duration, name string) (all []string) {
	for m, ok := n.Take(now, name); ok; m, ok = n.Take(now, name) {
		head, _, _ := ParseBody(m.Body)
		all = append(all, head.Type)
	}
	return all
}

func TestLatency(t *testing.T) {
	n := newNetwork(100*ms, Constant)
	send(t, n, 0, "n1", "n2", "a")
	send(t, n, 10*ms, "n1", "n2", "b")
	send(t, n, 10*ms, "c1", "n3", "client")
	send(t, n, 10*ms, "n1", "seq-kv", "service")
	if got := n.Due(0, "n2"); got != 100*ms {
		t.Errorf("Due(n2) = %v", got)
	}
	if got := received(n, 99*ms, "n2"); got != nil {
		t.Errorf("at 99 ms n2 has %q", got)
	}
	if got := received(n, 105*ms, "n2"); !slices.Equal(got, []string{"a"}) {
		t.Errorf("at 105 ms n2 has %q", got)
	}
	if got := n.Lag(); got != 5*ms || n.Lag() != 0 {
		t.Errorf("lag %v, want 5 ms, and 0 when asked again", got)
	}
	if got := n.Due(10*ms, "n3"); got != 10*ms {
		t.Errorf("a client's message is due at %v, want at once", got)
	}
	if got := n.Due(10*ms, "seq-kv"); got != 110*ms {
		t.Errorf("a service's message is due at %v, want 110 ms", got)
	}
	if got := n.Due(10*ms, "n1"); got != Never {
		t.Errorf("Due of an empty queue = %v", got)
	}
}

// A receiver that waits for one message does not look at others, even if they are due before.
func TestHeadOfLine(t *testing.T) {
	n := newNetwork(100*ms, Constant)
	send(t, n, 0, "n1", "n2", "slow")
	if got := n.Due(0, "n2"); got != 100*ms { // from now on it waits
		t.Fatalf("Due = %v", got)
	}
	send(t, n, 10*ms, "c1", "n2", "client")
	if got := received(n, 99*ms, "n2"); got != nil {
		t.Errorf("at 99 ms n2 has %q", got)
	}
	if got := received(n, 100*ms, "n2"); !slices.Equal(got, []string{"slow", "client"}) {
		t.Errorf("at 100 ms n2 has %q", got)
	}
	if lag := n.Lag(); lag != 0 { // the client's message could not be taken before
		t.Errorf("lag %v", lag)
	}
}

// Whether a message is cut off is decided when its receiver begins to wait for it.
func TestPartition(t *testing.T) {
	n := newNetwork(100*ms, Constant)
	cut := map[string][]string{"n2": {"n1"}}
	send(t, n, 0, "n1", "n2", "waited for")
	n.Due(0, "n2")
	send(t, n, 1*ms, "n1", "n2", "queued when the cut begins")
	n.Block(cut)
	send(t, n, 2*ms, "n2", "n1", "the other way")
	send(t, n, 2*ms, "n3", "n2", "from another")
	if got := received(n, 200*ms, "n2"); !slices.Equal(got, []string{"waited for", "from another"}) {
		t.Errorf("n2 has %q", got)
	}
	if got := received(n, 200*ms, "n1"); !slices.Equal(got, []string{"the other way"}) {
		t.Errorf("n1 has %q", got)
	}
	send(t, n, 300*ms, "n1", "n2", "not looked at before it heals")
	n.Block(nil)
	if got := received(n, 400*ms, "n2"); !slices.Equal(got, []string{"not looked at before it heals"}) {
		t.Errorf("n2 has %q", got)
	}
	if got := n.Journal().Dropped; got != 1 {
		t.Errorf("%d dropped, want 1", got)
	}
}

func TestAddresses(t *testing.T) {
	n := newNetwork(0, Constant)
	for _, m := range []Message{{Src: "n1", Dest: "n9"}, {Src: "n9", Dest: "n1"}} {
		if _, err := n.Send(0, m); fmt.Sprint(err) != `there is no "n9" in the network` {
			t.Errorf("Send(%v) = %v", m, err)
		}
	}
	send(t, n, 0, "n1", "n2", "x")
	n.Open("n2")
	if got := received(n, ms, "n2"); got != nil {
		t.Errorf("an endpoint that was opened again still has %q", got)
	}
	n.Close("n2")
	if n.Has("n2") || !n.Has("n1") {
		t.Error("Has is wrong")
	}
}

func TestJournal(t *testing.T) {
	n := newNetwork(0, Constant)
	send(t, n, 1, "c1", "n1", "init")
	send(t, n, 2, "c1", "n1", "echo")
	send(t, n, 3, "n1", "n2", "gossip")
	received(n, 4, "n1")
	if m := n.Carry(5, Message{Src: "n1", Dest: "n3", Body: json.RawMessage(`{"type":"init_ok"}`)}); m.ID != 3 {
		t.Errorf("a message that is carried has id %d", m.ID)
	}
	j := n.Journal()
	want := history.Journal{All: history.Count{Sent: 4, Received: 3}, Clients: history.Count{Sent: 2, Received: 2}, Servers: history.Count{Sent: 2, Received: 1}}
	want.Events = []history.Event{
		{Time: 2, ID: 1, Src: "c1", Dest: "n1", Body: json.RawMessage(`{"type":"echo"}`)},
		{Time: 3, ID: 2, Src: "n1", Dest: "n2", Body: json.RawMessage(`{"type":"gossip"}`)},
		{Time: 4, ID: 1, Received: true, Src: "c1", Dest: "n1", Body: json.RawMessage(`{"type":"echo"}`)},
		{Time: 5, ID: 3, Src: "n1", Dest: "n3", Body: json.RawMessage(`{"type":"init_ok"}`)},
		{Time: 5, ID: 3, Received: true, Src: "n1", Dest: "n3", Body: json.RawMessage(`{"type":"init_ok"}`)},
	}
	if diff := cmp.Diff(want, j); diff != "" {
		t.Errorf("Journal() mismatch (-want +got):\n%s", diff)
	}
	for range history.EventsMax {
		send(t, n, 5, "n1", "n2", "x")
	}
	if j := n.Journal(); !j.Truncated || len(j.Events) != history.EventsMax || j.All.Sent != 4+history.EventsMax {
		t.Errorf("after many: truncated %v, %d events, %d sent", j.Truncated, len(j.Events), j.All.Sent)
	}
}

func TestDistributions(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		spread    Distribution
		low, high time.Duration
	}{{Constant, 50 * ms, 50 * ms}, {Uniform, 0, 99 * ms}, {Exponential, 0, 2 * time.Second}} {
		var sum, lowest, highest time.Duration = 0, time.Hour, 0
		for range 20_000 {
			d := c.spread.Draw(50*ms, r)
			if d%ms != 0 {
				t.Fatalf("%s drew %v, want whole milliseconds", c.spread, d)
			}
			sum, lowest, highest = sum+d, min(lowest, d), max(highest, d)
		}
		if mean := sum / 20_000; mean < 48*ms || mean > 52*ms || lowest < c.low || highest > c.high {
			t.Errorf("%s: mean %v of 50 ms, from %v to %v, want %v to %v", c.spread, mean, lowest, highest, c.low, c.high)
		}
		if d := c.spread.Draw(0, r); d != 0 {
			t.Errorf("%s with mean 0 drew %v", c.spread, d)
		}
	}
}

// BenchmarkNetwork is the core alone: a message sent, looked for, and taken.
func BenchmarkNetwork(b *testing.B) {
	n := New(0, Constant, rand.New(rand.NewPCG(1, 1)))
	n.Open("n1")
	n.Open("n2")
	line := []byte(`{"src":"n1","dest":"n2","body":{"type":"echo","echo":"Please echo 35","msg_id":12}}`)
	for b.Loop() {
		m, err := ParseLine(line)
		if err != nil {
			b.Fatal(err)
		}
		n.Send(0, m)
		n.Take(0, "n2")
	}
}
