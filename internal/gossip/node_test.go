package gossip

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// cluster drives nodes over a perfect network with one latency: the smallest driver there is.
type cluster struct {
	now     time.Duration
	latency time.Duration
	names   []string
	nodes   map[string]*Node
	stores  map[string]*MemoryStorage
	got     map[string][]Entry
	wire    []packet
	sent    int
	cut     func(from, to string) bool
}

type packet struct {
	at       time.Duration
	from, to string
	data     []byte
}

func newCluster(size int, profile Profile) *cluster {
	c := &cluster{latency: 10 * time.Millisecond, nodes: map[string]*Node{}, stores: map[string]*MemoryStorage{},
		got: map[string][]Entry{}, cut: func(string, string) bool { return false }}
	for i := range size {
		c.names = append(c.names, fmt.Sprintf("n%d", i))
	}
	for _, name := range c.names {
		c.stores[name] = &MemoryStorage{}
		c.start(name, profile, 1)
	}
	return c
}

func (c *cluster) start(name string, profile Profile, incarnation uint64) {
	c.nodes[name] = New(Config{Self: name, Peers: c.names, Incarnation: incarnation, Restored: c.stores[name].Vector(),
		Storage: c.stores[name], Profile: profile, Rand: rand.New(rand.NewPCG(incarnation, uint64(len(name))))})
}

func (c *cluster) append(name, data string) Entry {
	e := c.nodes[name].Append(c.now, []byte(data))
	c.persist(name, e)
	return e
}

func (c *cluster) persist(name string, entries ...Entry) {
	c.stores[name].Append(entries...)
	c.got[name] = append(c.got[name], entries...)
	c.nodes[name].Persisted(c.now, len(entries))
}

// run steps in whole milliseconds.
func (c *cluster) run(d time.Duration) {
	for end := c.now + d; c.now < end; c.now += time.Millisecond {
		for len(c.wire) > 0 && c.wire[0].at <= c.now {
			p := c.wire[0]
			c.wire = c.wire[1:]
			m, err := ParseMessage(p.data)
			if err != nil {
				panic(err)
			}
			c.persist(p.to, c.nodes[p.to].Receive(c.now, p.from, m)...)
		}
		for _, name := range c.names {
			if c.nodes[name].Wake() > c.now {
				continue
			}
			for _, e := range c.nodes[name].Ready(c.now) {
				c.sent++
				if !c.cut(name, e.To) {
					c.wire = append(c.wire, packet{c.now + c.latency, name, e.To, e.Message.AppendBinary(nil)})
				}
			}
		}
	}
}

func (c *cluster) converged() error {
	want := c.nodes[c.names[0]].Have()
	for _, name := range c.names {
		if have := c.nodes[name].Have(); !have.Equal(want) {
			return fmt.Errorf("%s has %q, %s has %q", name, have, c.names[0], want)
		}
	}
	return nil
}

// The profiles as a small cluster sees them, and the two ways to lay out a tree.
func profiles() map[string]Profile {
	tree := Profile{Topology: Tree, Fanout: 2, Tick: time.Second, Settle: time.Second, Pull: time.Second}
	star := tree
	star.Neighbors = []string{"n3"} // n3 counts itself, which is ignored: it passes nothing on, and the tick must do
	return map[string]Profile{"fast": Fast, "balanced": Balanced, "frugal": Frugal, "lan": LAN, "tree": tree, "star": star}
}

func TestSpreads(t *testing.T) {
	for name, profile := range profiles() {
		t.Run(name, func(t *testing.T) {
			c := newCluster(7, profile)
			c.run(time.Second)
			for i := range 3 {
				for _, n := range c.names {
					c.append(n, fmt.Sprint(n, i))
				}
				c.run(40 * time.Millisecond)
			}
			c.run(20 * time.Second)
			if err := c.converged(); err != nil {
				t.Fatal(err)
			}
			for _, n := range c.names {
				if got := len(c.got[n]); got != 21 {
					t.Errorf("%s got %d entries, want 21", n, got)
				}
				if have, stable := c.nodes[n].Have(), c.nodes[n].Stable(); !stable.Equal(have) {
					t.Errorf("%s has %q, stable are only %q", n, have, stable)
				}
			}
			sent := c.sent
			c.run(20 * time.Second)
			if got, most := c.sent-sent, 7*(1+int(20*time.Second/profile.Tick)); got > most {
				t.Errorf("%d messages in 20 s of silence, want at most %d digests", got, most)
			}
		})
	}
}

func TestNothingLeavesBeforePersisted(t *testing.T) {
	c := newCluster(2, LAN)
	c.run(time.Second)
	n := c.nodes["n0"]
	e := n.Append(c.now, []byte("a"))
	for _, out := range n.Ready(c.now + time.Hour) {
		if len(out.Message.Entries) > 0 || out.Message.Vector[e.Origin] > 0 {
			t.Errorf("before Persisted: %+v", out)
		}
	}
	c.now += 2 * time.Hour
	c.persist("n0", e)
	out := n.Ready(c.now)
	if len(out) != 1 || len(out[0].Message.Entries) != 1 {
		t.Errorf("after Persisted: %+v, want the entry", out)
	}
}

func TestDiscard(t *testing.T) {
	c := newCluster(2, LAN)
	kept := c.append("n0", "kept")
	c.run(time.Second)
	n0, n1 := c.nodes["n0"], c.nodes["n1"]
	n0.Append(c.now, []byte("own, lost"))
	theirs := c.append("n1", "theirs")
	for _, out := range n1.Ready(c.now) {
		if got := n0.Receive(c.now, "n1", out.Message); len(got) != 1 {
			t.Fatalf("Receive = %v, want one entry", got)
		}
	}
	n0.Discard()
	if e := n0.Append(c.now, []byte("own, again")); e.Seq != kept.Seq+1 || e.Origin != kept.Origin {
		t.Errorf("after Discard Append = %s:%d, want %s:%d", e.Origin, e.Seq, kept.Origin, kept.Seq+1)
	} else {
		c.persist("n0", e)
	}
	c.run(2 * time.Second)
	if err := c.converged(); err != nil || !n0.Have().Covers(Vector{theirs.Origin: theirs.Seq}) {
		t.Errorf("n0 has %q, %v", n0.Have(), err)
	}
}

func TestRestoredLogIsContinuedOnceConfirmed(t *testing.T) {
	c := newCluster(3, LAN)
	first := c.append("n0", "1")
	c.run(time.Second)
	c.start("n0", LAN, 2)
	c.run(time.Second)
	if e := c.append("n0", "2"); e.Origin != first.Origin || e.Seq != 2 {
		t.Errorf("with everybody's word Append = %s:%d, want %s:2", e.Origin, e.Seq, first.Origin)
	}
	c.run(time.Second)
	c.start("n0", LAN, 3)
	c.cut = func(from, to string) bool { return from == "n2" && to == "n0" }
	c.run(time.Second)
	if e := c.append("n0", "3"); e.Origin == first.Origin || e.Seq != 1 {
		t.Errorf("without n2's word Append = %s:%d, want a new incarnation", e.Origin, e.Seq)
	}
	c.cut = func(string, string) bool { return false }
	c.run(2 * time.Second)
	if err := c.converged(); err != nil {
		t.Error(err)
	}
	if got := c.nodes["n0"].Stats().Rollbacks; got != 0 {
		t.Errorf("%d roll-backs, want 0", got)
	}
	alone := newCluster(1, LAN)
	alone.append("n0", "1")
	alone.start("n0", LAN, 2)
	if e := alone.append("n0", "2"); e.Seq != 2 {
		t.Errorf("alone Append = %s:%d, want :2", e.Origin, e.Seq)
	}
}

func TestOldBackupIsNoticed(t *testing.T) {
	for name, early := range map[string]bool{"before it appends": false, "after it appended": true} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(3, LAN)
			first := c.append("n0", "1")
			c.append("n0", "2")
			c.append("n0", "3")
			c.run(time.Second)
			backup := &MemoryStorage{}
			backup.Append(first)
			c.stores["n0"] = backup
			c.start("n0", LAN, 2)
			if early {
				c.append("n0", "new")
			}
			c.run(2 * time.Second)
			if got := c.nodes["n0"].Stats().Rollbacks; got != 1 {
				t.Errorf("%d roll-backs, want 1", got)
			}
			if got := c.nodes["n0"].Have()[first.Origin]; got != 3 {
				t.Errorf("%d of the old log came back, want 3", got)
			}
			if e := c.append("n0", "newer"); e.Origin == first.Origin {
				t.Errorf("Append = %s:%d continues the rolled-back log", e.Origin, e.Seq)
			}
			c.run(2 * time.Second)
			if err := c.converged(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	c := newCluster(2, LAN)
	n := c.nodes["n0"]
	entry := func(seq uint64) []Entry { return []Entry{{Origin{"n1", 1}, seq, Vector{}, []byte("x")}} }
	if got := n.Receive(0, "stranger", Message{Sender: 1, Entries: entry(1)}); got != nil {
		t.Errorf("a stranger's entries were accepted: %v", got)
	}
	n.Receive(0, "n1", Message{Sender: 1, Entries: entry(3)}) // waits for 1 and 2
	n.Receive(0, "n1", Message{Sender: 2, Vector: Vector{}})
	if got := n.Receive(0, "n1", Message{Sender: 1, Entries: entry(1)}); got != nil {
		t.Errorf("a former process's entries were accepted: %v", got)
	}
	if s := n.Stats(); s.Refused != 2 || s.HeldNow != 0 {
		t.Errorf("Stats() = %+v, want 2 refused and nothing of the former process waiting", s)
	}
}

func TestHoldsBack(t *testing.T) {
	n := newCluster(3, LAN).nodes["n0"]
	a, b := Origin{"n1", 1}, Origin{"n2", 1}
	effect := Entry{b, 1, Vector{a: 2}, []byte("effect")}
	if got := n.Receive(0, "n2", Message{Sender: 1, Entries: []Entry{effect, effect}}); got != nil {
		t.Errorf("the effect was accepted before its causes: %v", got)
	}
	n.Receive(0, "n1", Message{Sender: 1, Entries: []Entry{{a, 2, Vector{}, nil}}})
	got := n.Receive(0, "n1", Message{Sender: 1, Entries: []Entry{{a, 1, Vector{}, nil}}})
	if len(got) != 3 || got[0].Seq != 1 || got[1].Seq != 2 || got[2].Origin != b {
		t.Errorf("Receive = %v, want causes, then effect", got)
	}
	for seq := uint64(10); seq < 10+2*heldEntriesMax; seq++ {
		n.Receive(0, "n1", Message{Sender: 1, Entries: []Entry{{a, seq, Vector{}, make([]byte, 100)}}})
	}
	if s := n.Stats(); s.HeldNow != heldEntriesMax || s.Dropped != heldEntriesMax || s.Duplicates != 1 {
		t.Errorf("Stats() = %+v, want %d held, as many dropped, 1 duplicate", s, heldEntriesMax)
	}
	n.Receive(0, "n1", Message{Sender: 1, Entries: []Entry{{a, 5000, Vector{}, make([]byte, heldBytesMax)}}})
	if s := n.Stats(); s.HeldNow != 1 {
		t.Errorf("%d held beside one that fills the room, want 1", s.HeldNow)
	}
}

// A long suffix of entries that depend on each other across origins arrives in messages far smaller than it, and far
// smaller than what one origin has: each message brings the receiver forward.
func TestRepairInSmallMessages(t *testing.T) {
	profile := LAN
	profile.MessageBytes = 600
	c := newCluster(3, profile)
	c.cut = func(from, to string) bool { return from == "n2" || to == "n2" }
	for i := range 400 {
		c.append(c.names[i%2], "a payload of some bytes")
		c.run(15 * time.Millisecond)
	}
	c.cut = func(string, string) bool { return false }
	c.run(5 * time.Second)
	if err := c.converged(); err != nil {
		t.Fatal(err)
	}
	if s := c.nodes["n2"].Stats(); s.Dropped > 0 || s.HeldNow > 0 {
		t.Errorf("n2: %+v, want nothing dropped nor waiting", s)
	}
}

// n0 hears everybody and nobody hears it: the others take n1 for the hub and stay with it for a while.
func TestDeafHubIsReplaced(t *testing.T) {
	c := newCluster(5, Balanced)
	c.cut = func(from, to string) bool { return to == "n0" }
	c.run(time.Second)
	for range 20 {
		c.append("n3", "x")
		c.append("n0", "y")
		c.run(400 * time.Millisecond)
	}
	c.run(time.Second)
	if hub := c.nodes["n3"].Hub(); hub != "n1" {
		t.Errorf("n3 takes %s for the hub, want n1", hub)
	}
	if a, b := len(c.got["n4"]), len(c.got["n3"]); a != 40 || b != 40 {
		t.Errorf("n4 got %d entries, n3 %d, want 40", a, b)
	}
	c.cut = func(string, string) bool { return false }
	c.run(15 * time.Second)
	if hub := c.nodes["n3"].Hub(); hub != "n0" {
		t.Errorf("healed: n3 takes %s for the hub, want n0", hub)
	}
	if err := c.converged(); err != nil {
		t.Error(err)
	}
}

func TestPersistedTooMuchPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("Persisted(1) without an entry did not panic")
		}
	}()
	newCluster(2, LAN).nodes["n0"].Persisted(0, 1)
}

// While n1 has entries of n0 that are not durable yet, what it shows proves nothing about how much of n0 it knows.
func TestNoProofWhileEntriesWaitForTheDisk(t *testing.T) {
	c := newCluster(2, LAN)
	c.run(time.Second)
	n1 := c.nodes["n1"]
	waiting := n1.Receive(c.now, "n0", Message{Sender: 1, Entries: []Entry{{Origin{"n0", 1}, 1, Vector{}, nil}}})
	n1.Receive(c.now, "n0", Message{Sender: 2, Vector: Vector{}})
	heard := func() uint64 {
		t.Helper()
		c.now += time.Second
		out := n1.Ready(c.now)
		if len(out) != 1 {
			t.Fatalf("Ready = %+v, want the digest", out)
		}
		return out[0].Message.Heard
	}
	if got := heard(); got != 0 {
		t.Errorf("Heard = %d before Persisted, want 0", got)
	}
	c.persist("n1", waiting...)
	if got := heard(); got != 2 {
		t.Errorf("Heard = %d after Persisted, want 2", got)
	}
}

// A Tree passes fresh entries on along the neighbours that it was given last.
func TestSetNeighbors(t *testing.T) {
	c := newCluster(4, Profile{Topology: Tree, Tick: time.Hour, Settle: time.Second, Pull: time.Second})
	for name, neighbors := range map[string][]string{"n0": {"n3"}, "n3": {"n0", "n1", "stranger"}, "n1": {"n3"}, "n2": nil} {
		c.nodes[name].SetNeighbors(neighbors)
	}
	c.run(100 * time.Millisecond) // past the first digests
	e := c.append("n0", "x")
	c.run(100 * time.Millisecond)
	for name, want := range map[string]uint64{"n1": 1, "n2": 0, "n3": 1} {
		if got := c.nodes[name].Have()[e.Origin]; got != want {
			t.Errorf("%s has %d entries of n0, want %d", name, got, want)
		}
	}
}
