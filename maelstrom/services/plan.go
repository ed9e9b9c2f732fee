package services

import (
	"math/rand/v2"
	"slices"
	"time"

	"dongne/internal/sim"
)

// delayMin and delayMax bound for how long bytes are held, one way. Requests give up after requestMax.
const (
	delayMin = 50 * time.Millisecond
	delayMax = 800 * time.Millisecond
)

// Kinds of faults. Each has an operation that begins it and one that ends it, everywhere.
const (
	partition = "partition"
	kill      = "kill"
	pause     = "pause"
	delay     = "delay"
)

var operations = map[string][2]string{
	partition: {"start-partition", "stop-partition"},
	kill:      {"kill", "start"},
	pause:     {"pause", "resume"},
	delay:     {"start-delay", "stop-delay"},
}

// A step is one operation of the nemesis.
type step struct {
	at        time.Duration // since the start of the run
	f         string
	cut       sim.Cut       // of a partition
	blackhole bool          // whether its links swallow bytes; otherwise connections are closed and refused
	nodes     []string      // whom it hits, sorted
	delay     time.Duration // of every byte to and from them
}

// plan draws what the nemesis does before limit. Every kind begins and ends in turn, a time between 0 and twice the
// interval apart; the first time within one interval. The same seed makes the same plan.
func plan(seed uint64, kinds, nodes []string, interval, limit time.Duration) []step {
	var steps []step
	for _, kind := range kinds {
		r := sim.Stream(seed, "nemesis "+kind)
		gap := func(max time.Duration) time.Duration { return time.Duration(r.Float64() * float64(max)) }
		begin := true
		for at := gap(interval); at < limit; at += gap(2 * interval) {
			s := step{at: at, f: operations[kind][1]}
			if begin {
				s = drawFault(r, kind, nodes)
				s.at = at
			}
			steps = append(steps, s)
			begin = !begin
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return int(a.at - b.at) })
	return steps
}

func drawFault(r *rand.Rand, kind string, nodes []string) step {
	s := step{f: operations[kind][0]}
	switch kind {
	case partition:
		for !cuts(s.cut) { // of three nodes there is no minority third; CutOne always cuts
			s.cut = sim.Partitions[r.IntN(len(sim.Partitions))](r, nodes)
		}
		s.blackhole = r.IntN(2) == 0
	case delay:
		s.nodes = drawNodes(r, nodes)
		s.delay = delayMin + time.Duration(r.Int64N(int64(delayMax-delayMin)))
	default:
		s.nodes = drawNodes(r, nodes)
	}
	return s
}

// cuts says whether anybody is cut off from anybody.
func cuts(c sim.Cut) bool {
	for _, senders := range c {
		if len(senders) > 0 {
			return true
		}
	}
	return false
}

// drawNodes gives one node, a minority, a majority or all.
func drawNodes(r *rand.Rand, nodes []string) []string {
	n := len(nodes)
	count := []int{1, max(1, (n-1)/2), n/2 + 1, n}[r.IntN(4)]
	drawn := make([]string, count)
	for i, at := range r.Perm(n)[:count] {
		drawn[i] = nodes[at]
	}
	slices.Sort(drawn)
	return drawn
}
