// Package gossipsim drives gossip nodes through a simulated world and checks what must hold whatever happens: nothing
// is lost, invented or delivered twice, causes come before effects, no sequence number is used twice, nothing is shown
// before it is durable, everybody agrees soon after the last fault, and then there is silence but for the digests.
package gossipsim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"dongne/internal/gossip"
	"dongne/internal/sim"
)

// A Core is what the simulator drives: a gossip.Node, or a broken one that the checks must catch.
type Core interface {
	Append(now time.Duration, data []byte) gossip.Entry
	Receive(now time.Duration, from string, m gossip.Message) []gossip.Entry
	Persisted(now time.Duration, count int)
	Discard()
	Ready(now time.Duration) []gossip.Envelope
	Wake() time.Duration
	Have() gossip.Vector
	Stable() gossip.Vector
	Stats() gossip.Stats
}

// Options say what happens in one run.
type Options struct {
	Seed    uint64
	Nodes   int // 1 to 64
	Profile gossip.Profile
	Latency sim.Latency
	Disk    time.Duration // of every write
	Faults  []sim.Fault

	Rate     float64       // client operations per second over the whole cluster, half appends and half reads
	Busy     time.Duration // operations come until then
	Converge time.Duration // from the end of the operations and the last fault until everybody must have everything
	Quiet    time.Duration // from then on only digests may be sent

	Trace io.Writer                           // nil: none
	Start func(gossip.Config) Core            // nil: gossip.New. Broken cores are put here
	Store func(gossip.Storage) gossip.Storage // nil: as it is. Broken storage is put here
}

// A Result is what came of it.
type Result struct {
	Hash       uint64 // of the trace: equal for equal options
	Violations []string
	Operations int
	Appends    int
	Messages   uint64 // before the quiet time
	Bytes      uint64
	QuietRate  float64         // messages per second in the quiet time
	Latencies  []time.Duration // sorted: from the append until the last node had accepted it; killed and paused nodes do not count
	Stable     []time.Duration // sorted: what Jepsen's set-full checker would call stable-latencies
	Stats      map[string]gossip.Stats
	Elapsed    time.Duration // virtual
}

// Quantile returns the value at index min(n-1, ⌊n·q⌋) of the sorted values, 0 if there are none.
func Quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(float64(len(sorted))*q))]
}

// cluster is one run.
type cluster struct {
	Options
	world  *sim.World
	net    *sim.Network
	client *rand.Rand
	disk   *rand.Rand
	names  []string
	hosts  []*host
	byName map[string]*host
	checker
	operations int
}

// Run carries out the options.
func Run(o Options) Result {
	if o.Start == nil {
		o.Start = func(c gossip.Config) Core { return gossip.New(c) }
	}
	if o.Store == nil {
		o.Store = func(s gossip.Storage) gossip.Storage { return s }
	}
	w := sim.New(o.Seed, o.Trace)
	c := &cluster{Options: o, world: w, net: sim.NewNetwork(w, o.Latency), client: w.Rand("clients"),
		disk: w.Rand("disks"), byName: map[string]*host{}, checker: newChecker()}
	for i := range o.Nodes {
		h := &host{cluster: c, name: fmt.Sprintf("n%d", i), number: i, delay: o.Disk}
		c.names, c.hosts = append(c.names, h.name), append(c.hosts, h)
		c.byName[h.name] = h
		if !slices.ContainsFunc(o.Faults, func(f sim.Fault) bool {
			return (f.Kind == sim.Kill || f.Kind == sim.Pause) && slices.Contains(f.Nodes, h.name)
		}) {
			c.steady |= 1 << i
		}
	}
	for _, h := range c.hosts {
		h.loadDisk(nil)
		h.start()
		c.net.Listen(h.name, h.deliver)
	}
	sim.Inject(w, c.net, c, o.Faults)
	if o.Rate > 0 {
		w.After(c.gap(), c.operation)
	}
	return c.finish()
}

// finish runs the world to its end and checks what must hold there.
func (c *cluster) finish() Result {
	healed := c.Busy
	for _, f := range c.Faults {
		healed = max(healed, f.End())
	}
	c.world.Run(healed + c.Converge)
	r := Result{Messages: c.net.Sent, Bytes: c.net.Bytes, Operations: c.operations, Appends: len(c.ops)}
	c.checkConverged(c.hosts)
	c.checkRollbacks(c.hosts)
	c.quiet = true
	before := c.net.Sent
	c.world.Run(healed + c.Converge + c.Quiet)
	if c.Quiet > 0 {
		r.QuietRate = float64(c.net.Sent-before) / c.Quiet.Seconds()
		c.checkQuiet(c.hosts, c.net.Sent-before, uint64(c.Nodes)*uint64(c.Quiet/c.Profile.Tick+2))
	}
	r.Hash, r.Violations, r.Elapsed = c.world.Hash(), c.violations, c.world.Now()
	r.Latencies, r.Stable = c.latencies()
	r.Stats = map[string]gossip.Stats{}
	for _, h := range c.hosts {
		r.Stats[h.name] = h.core.Stats()
	}
	return r
}

// gap is the time between two operations: as in Jepsen's stagger, uniform between 0 and twice the mean.
func (c *cluster) gap() time.Duration {
	return time.Duration(c.client.Float64() * 2 / c.Rate * float64(time.Second))
}

// operation is one client's append or read at a random node.
func (c *cluster) operation() {
	now := c.world.Now()
	if now >= c.Busy {
		return
	}
	if h := c.hosts[c.client.IntN(len(c.hosts))]; h.up && !h.paused {
		c.operations++
		if c.operations%2 == 0 {
			c.read(now, h.number)
		} else {
			h.append()
		}
	}
	c.world.After(c.gap(), c.operation)
}

// Kill implements sim.Target.
func (c *cluster) Kill(node string, state sim.State) {
	h := c.byName[node]
	if h.downs++; h.downs > 1 {
		return
	}
	h.kill(state)
}

// Start implements sim.Target.
func (c *cluster) Start(node string) {
	if h := c.byName[node]; h.downs > 0 {
		if h.downs--; h.downs == 0 {
			h.start()
		}
	}
}

// Pause implements sim.Target.
func (c *cluster) Pause(node string) {
	h := c.byName[node]
	h.pauses++
	h.paused = true
}

// Resume implements sim.Target.
func (c *cluster) Resume(node string) {
	h := c.byName[node]
	if h.pauses--; h.pauses == 0 {
		h.paused = false
		waiting := h.waiting
		h.waiting = nil
		for _, do := range waiting {
			do()
		}
	}
}

// Disk implements sim.Target.
func (c *cluster) Disk(node string, delay time.Duration, full bool) {
	h := c.byName[node]
	h.delay, h.full = max(delay, c.Options.Disk), full
}
