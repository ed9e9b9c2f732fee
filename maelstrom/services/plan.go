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
// interval apart; the first time within one interval. The nodes are those of the service and, as a group of their own, those
// of its storage; a partition cuts one of the links that there are at least. The same seed makes the same plan.
func plan(seed uint64, kinds []string, groups [][]string, linked func(from, to string) bool, interval, limit time.Duration) []step {
	var steps []step
	for _, kind := range kinds {
		r := sim.Stream(seed, "nemesis "+kind)
		gap := func(max time.Duration) time.Duration { return time.Duration(r.Float64() * float64(max)) }
		begin := true
		for at := gap(interval); at < limit; at += gap(2 * interval) {
			s := step{at: at, f: operations[kind][1]}
			if begin {
				s = drawFault(r, kind, groups, linked)
				s.at = at
			}
			steps = append(steps, s)
			begin = !begin
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return int(a.at - b.at) })
	return steps
}

func drawFault(r *rand.Rand, kind string, groups [][]string, linked func(from, to string) bool) step {
	s := step{f: operations[kind][0]}
	switch kind {
	case partition:
		for !cuts(s.cut, linked) { // of three nodes there is no minority third; CutOne always cuts
			s.cut = sim.Partitions[r.IntN(len(sim.Partitions))](r, slices.Concat(groups...))
		}
		s.blackhole = r.IntN(2) == 0
	case delay:
		s.nodes = drawNodes(r, groups)
		s.delay = delayMin + time.Duration(r.Int64N(int64(delayMax-delayMin)))
	default:
		s.nodes = drawNodes(r, groups)
	}
	return s
}

// cuts says whether any link is cut, in one of its directions.
func cuts(c sim.Cut, linked func(from, to string) bool) bool {
	for to, senders := range c {
		if slices.ContainsFunc(senders, func(from string) bool { return linked(from, to) || linked(to, from) }) {
			return true
		}
	}
	return false
}

// drawNodes gives one node, a minority, a majority or all; of one group, or of each of several.
func drawNodes(r *rand.Rand, groups [][]string) []string {
	if len(groups) > 1 {
		if which := r.IntN(len(groups) + 1); which < len(groups) {
			groups = groups[which : which+1]
		}
	}
	var drawn []string
	for _, nodes := range groups {
		n := len(nodes)
		count := []int{1, max(1, (n-1)/2), n/2 + 1, n}[r.IntN(4)]
		for _, at := range r.Perm(n)[:count] {
			drawn = append(drawn, nodes[at])
		}
	}
	slices.Sort(drawn)
	return drawn
}
