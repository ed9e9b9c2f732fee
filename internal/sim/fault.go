package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A Kind says what goes wrong.
type Kind uint8

const (
	Partition   Kind = iota // Cut: messages over its links are lost
	Loss                    // each message is lost with Probability
	Duplication             // each message is doubled with Probability
	Reordering              // each message is late by up to Delay with Probability
	Slowness                // each message is late by Delay with Probability
	Pause                   // Nodes stand still; what reaches them waits
	Kill                    // Nodes are killed, and started again at the end with the disk that State says
	SlowDisk                // every write of Nodes takes Delay
	FullDisk                // every write of Nodes fails
)

var kindNames = [...]string{"partition", "loss", "duplication", "reordering", "slowness", "pause", "kill", "slow disk", "full disk"}

func (k Kind) String() string { return kindNames[k] }

// A State says what a killed node finds on its disk when it starts again.
type State uint8

const (
	Kept       State = iota // everything durable, and of the writes under way a beginning
	Lost                    // nothing
	RolledBack              // an old backup: a beginning of what was durable
)

var stateNames = [...]string{"kept", "lost", "rolled back"}

func (s State) String() string { return stateNames[s] }

// A Fault is something that goes wrong for some time.
type Fault struct {
	At, For     time.Duration
	Kind        Kind
	Nodes       []string // whom it hits; for the network kinds: senders and receivers, nil is everybody
	Cut         Cut
	State       State
	Probability float64
	Delay       time.Duration
}

// End returns when it is over.
func (f Fault) End() time.Duration { return f.At + f.For }

// String describes the fault in one line.
func (f Fault) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v for %v: %v", f.At, f.For, f.Kind)
	if f.Kind == Kill {
		fmt.Fprintf(&b, ", state %v", f.State)
	}
	if f.Kind == Partition {
		fmt.Fprintf(&b, " %v", map[string][]string(f.Cut))
	}
	if f.Nodes != nil {
		fmt.Fprintf(&b, " of %v", f.Nodes)
	}
	if f.Probability > 0 {
		fmt.Fprintf(&b, ", probability %.2f", f.Probability)
	}
	if f.Delay > 0 {
		fmt.Fprintf(&b, ", delay %v", f.Delay)
	}
	return b.String()
}

func (f Fault) concerns(from, to string) bool {
	return f.Nodes == nil || slices.Contains(f.Nodes, from) || slices.Contains(f.Nodes, to)
}

// A Target carries out the faults that happen to nodes rather than to the network. Faults may overlap: a target counts.
type Target interface {
	Kill(node string, state State)
	Start(node string)
	Pause(node string)
	Resume(node string)
	// Disk says how long a write takes from now on, and whether it fails.
	Disk(node string, delay time.Duration, full bool)
}

// Inject plans the faults.
func Inject(w *World, n *Network, t Target, faults []Fault) {
	for i := range faults {
		f := &faults[i]
		w.At(f.At, func() {
			w.Note("fault", f.Kind.String(), "", []byte(f.String()))
			begin(n, t, f)
		})
		w.At(f.End(), func() {
			w.Note("heal", f.Kind.String(), "", nil)
			end(n, t, f)
		})
	}
}

func begin(n *Network, t Target, f *Fault) {
	if f.Kind <= Slowness {
		n.Begin(f)
		return
	}
	for _, node := range f.Nodes {
		switch f.Kind {
		case Pause:
			t.Pause(node)
		case Kill:
			t.Kill(node, f.State)
		case SlowDisk, FullDisk:
			t.Disk(node, f.Delay, f.Kind == FullDisk)
		}
	}
}

func end(n *Network, t Target, f *Fault) {
	if f.Kind <= Slowness {
		n.End(f)
		return
	}
	for _, node := range f.Nodes {
		switch f.Kind {
		case Pause:
			t.Resume(node)
		case Kill:
			t.Start(node)
		case SlowDisk, FullDisk:
			t.Disk(node, 0, false)
		}
	}
}

// A Cut says for each receiver whose messages do not reach it.
type Cut map[string][]string

// between cuts every link between the two sides, in both directions.
func between(a, b []string) Cut {
	c := Cut{}
	for _, node := range a {
		c[node] = slices.Clone(b)
	}
	for _, node := range b {
		c[node] = slices.Clone(a)
	}
	return c
}

func shuffled(r *rand.Rand, nodes []string) []string {
	s := slices.Clone(nodes)
	r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	return s
}

// The four partitions of Jepsen's nemesis (jepsen/nemesis/combined.clj), and a one-way cut.
var Partitions = []func(*rand.Rand, []string) Cut{CutOne, CutMinorityThird, CutMajority, CutMajoritiesRing, CutOneWay}

// CutOne separates one node from all others.
func CutOne(r *rand.Rand, nodes []string) Cut {
	s := shuffled(r, nodes)
	return between(s[:min(1, len(s))], s[min(1, len(s)):])
}

// CutMinorityThird separates ⌊(n-1)/3⌋ nodes from the others: nobody if there are three or fewer.
func CutMinorityThird(r *rand.Rand, nodes []string) Cut {
	s := shuffled(r, nodes)
	k := max(0, len(s)-1) / 3
	return between(s[:k], s[k:])
}

// CutMajority separates ⌊n/2⌋ nodes from the others.
func CutMajority(r *rand.Rand, nodes []string) Cut {
	s := shuffled(r, nodes)
	return between(s[:len(s)/2], s[len(s)/2:])
}

// CutOneWay loses what one node sends to another, and nothing else.
func CutOneWay(r *rand.Rand, nodes []string) Cut {
	if len(nodes) < 2 {
		return Cut{}
	}
	s := shuffled(r, nodes)
	return Cut{s[0]: {s[1]}}
}

// CutMajoritiesRing lets every node see a majority, and no two the same if it can be helped. Up to five nodes stand in a
// ring and the middle one of each window of ⌊n/2⌋+1 hears its window only, so that three nodes hear one neighbour each,
// one way round. More than five are linked at random, the least connected first, until each has a majority.
func CutMajoritiesRing(r *rand.Rand, nodes []string) Cut {
	n := len(nodes)
	m := n/2 + 1
	hears := map[string][]string{}
	if s := shuffled(r, nodes); n <= 5 {
		for i := range s {
			window := make([]string, 0, m)
			for k := range m {
				window = append(window, s[(i+k)%n])
			}
			hears[window[m/2]] = window
		}
	} else {
		for _, node := range s {
			hears[node] = []string{node}
		}
		for {
			a := leastConnected(r, s, hears, nil)
			if len(hears[a]) >= m {
				break
			}
			b := leastConnected(r, s, hears, hears[a])
			hears[a], hears[b] = append(hears[a], b), append(hears[b], a)
		}
	}
	c := Cut{}
	for _, node := range nodes {
		for _, other := range nodes {
			if !slices.Contains(hears[node], other) {
				c[node] = append(c[node], other)
			}
		}
	}
	return c
}

// leastConnected returns a random one of the nodes with the fewest links, of those not in except; "" if there is none.
func leastConnected(r *rand.Rand, nodes []string, hears map[string][]string, except []string) string {
	var best []string
	for _, node := range nodes {
		if slices.Contains(except, node) {
			continue
		}
		if len(best) > 0 && len(hears[node]) < len(hears[best[0]]) {
			best = best[:0]
		}
		if len(best) == 0 || len(hears[node]) == len(hears[best[0]]) {
			best = append(best, node)
		}
	}
	if len(best) == 0 {
		return ""
	}
	return best[r.IntN(len(best))]
}
