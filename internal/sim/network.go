package sim

import (
	"math/rand/v2"
	"slices"
	"time"
)

// A Latency draws how long one message takes.
type Latency func(*rand.Rand) time.Duration

// Constant is always the mean.
func Constant(mean time.Duration) Latency {
	return func(*rand.Rand) time.Duration { return mean }
}

// Uniform is between 0 and twice the mean.
func Uniform(mean time.Duration) Latency {
	return func(r *rand.Rand) time.Duration { return time.Duration(r.Int64N(max(1, 2*int64(mean)))) }
}

// Exponential has a long tail.
func Exponential(mean time.Duration) Latency {
	return func(r *rand.Rand) time.Duration { return time.Duration(r.ExpFloat64() * float64(mean)) }
}

// A Network carries bytes between named nodes. Messages overtake each other when their latencies differ.
type Network struct {
	world    *World
	latency  Latency
	rand     *rand.Rand
	handlers map[string]func(from string, data []byte)
	blocked  map[link]int // number of faults that cut the link
	weather  []*Fault     // loss, duplication, reordering and delay that are going on

	Sent, Delivered, Dropped, Bytes uint64 // messages sent, delivered, lost by faults; bytes sent
}

type link struct{ from, to string }

// NewNetwork returns a network without nodes.
func NewNetwork(w *World, latency Latency) *Network {
	return &Network{world: w, latency: latency, rand: w.Rand("network"), blocked: map[link]int{},
		handlers: map[string]func(string, []byte){}}
}

// Listen gives the node's messages to handle.
func (n *Network) Listen(node string, handle func(from string, data []byte)) {
	n.handlers[node] = handle
}

// Send puts a message on its way. Whether the link is cut is decided when it arrives, as in Maelstrom: what is under
// way when a partition starts is lost, what is still under way when it ends is not. The data must not change afterwards.
func (n *Network) Send(from, to string, data []byte) {
	n.Sent++
	n.Bytes += uint64(len(data))
	n.world.Note("send", from, to, data)
	copies, delay := 1, time.Duration(0)
	for _, f := range n.weather {
		if !f.concerns(from, to) || f.Probability < 1 && n.rand.Float64() >= f.Probability {
			continue
		}
		switch f.Kind {
		case Loss:
			copies = 0
		case Duplication:
			copies *= 2
		case Reordering:
			delay += time.Duration(n.rand.Int64N(int64(f.Delay) + 1))
		case Slowness:
			delay += f.Delay
		}
	}
	if copies == 0 {
		n.Dropped++
	}
	for range min(copies, 4) {
		n.world.After(delay+n.latency(n.rand), func() { n.deliver(from, to, data) })
	}
}

func (n *Network) deliver(from, to string, data []byte) {
	handle := n.handlers[to]
	if handle == nil || n.blocked[link{from, to}] > 0 {
		n.Dropped++
		n.world.Note("drop", from, to, nil)
		return
	}
	n.Delivered++
	n.world.Note("deliver", from, to, data)
	handle(from, data)
}

// Begin lets a fault of the network begin: a partition or worse weather. Its times do not count.
func (n *Network) Begin(f *Fault) {
	if f.Kind == Partition {
		n.cut(f.Cut, 1)
	} else {
		n.weather = append(n.weather, f)
	}
}

// End lets a fault end that Begin was given.
func (n *Network) End(f *Fault) {
	if f.Kind == Partition {
		n.cut(f.Cut, -1)
	} else {
		n.weather = slices.DeleteFunc(n.weather, func(x *Fault) bool { return x == f })
	}
}

func (n *Network) cut(c Cut, by int) {
	for to, froms := range c {
		for _, from := range froms {
			n.blocked[link{from, to}] += by
		}
	}
}
