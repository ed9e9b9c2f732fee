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

func TestSpreads(t *testing.T) {
	for name, profile := range map[string]Profile{"fast": Fast, "balanced": Balanced, "frugal": Frugal, "lan": LAN,
		"tree": {Topology: Tree, Fanout: 2, Tick: time.Second, Settle: time.Second, Pull: time.Second}} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(7, profile)
			c.run(time.Second)
			for i := range 3 {
				for _, n := range c.names {
					c.append(n, fmt.Sprint(n, i))
				}
				c.run(40 * time.Millisecond)
			}
			c.run(1500 * time.Millisecond)
			if err := c.converged(); err != nil {
				t.Fatal(err)
			}
			if got := len(c.got["n0"]); got != 21 {
				t.Fatalf("n0 got %d entries, want 21", got)
			}
			t.Logf("%d messages, %+v", c.sent, c.nodes["n0"].Stats())
		})
	}
}
