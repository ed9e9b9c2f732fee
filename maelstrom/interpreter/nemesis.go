package interpreter

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"time"

	"dongne/internal/sim"
)

// A Fault is what the nemesis wants done: one thing begins, or all of its kind end.
type Fault struct {
	F     string // "start-partition", "stop-partition", "kill", "start", "pause", "resume", or start- and stop- of another kind
	Kind  string // "partition", "kill", "pause", …
	Begin bool
	Cut   sim.Cut         // partition: receiver → senders that it does not hear
	Nodes []string        // kill, pause: whom it hits
	Value json.RawMessage // what the history says when it is done
}

// A nemesis plans faults: of each kind one begins and ends in turn, at gaps that are uniform in [0, 2·interval). The
// first begins at once. It is pure.
type nemesis struct {
	kinds    []*kindPlan
	nodes    []string
	interval time.Duration
	rand     *rand.Rand
	compat   bool
}

type kindPlan struct {
	name string
	on   bool
	at   time.Duration
}

func newNemesis(kinds, nodes []string, interval time.Duration, r *rand.Rand, compat bool) *nemesis {
	n := &nemesis{nodes: nodes, interval: interval, rand: r, compat: compat}
	for _, name := range kinds {
		n.kinds = append(n.kinds, &kindPlan{name: name})
	}
	return n
}

// due returns the kind whose turn comes next; nil if there is none.
func (n *nemesis) due() *kindPlan {
	if len(n.kinds) == 0 {
		return nil
	}
	return slices.MinFunc(n.kinds, func(a, b *kindPlan) int { return int(a.at - b.at) })
}

// next returns the fault of the kind whose turn it is, and plans the one after it.
func (n *nemesis) next(k *kindPlan) Fault {
	k.on = !k.on
	k.at += time.Duration(n.rand.Int64N(max(1, 2*int64(n.interval))))
	if k.on {
		return n.begin(k.name)
	}
	return n.end(k.name)
}

// last returns what ends everything that may still be going on.
func (n *nemesis) last() []Fault {
	var all []Fault
	for _, k := range n.kinds {
		k.on = false
		all = append(all, n.end(k.name))
	}
	return all
}

func (n *nemesis) begin(kind string) Fault {
	f := Fault{Kind: kind, Begin: true, F: "start-" + kind}
	switch kind {
	case "partition":
		f.Cut = n.cut()
		cut := map[string][]string{} // of those that are cut off from anybody
		for node, from := range f.Cut {
			if len(from) > 0 {
				cut[node] = slices.Sorted(slices.Values(from))
			}
		}
		f.Value = value("isolated", cut)
	case "kill":
		f.F, f.Nodes = kind, n.targets()
		f.Value = value("killed", f.Nodes)
	case "pause":
		f.F, f.Nodes = kind, n.targets()
		f.Value = value("paused", f.Nodes)
	default:
		f.Value = value("started", kind)
	}
	return f
}

func (n *nemesis) end(kind string) Fault {
	f := Fault{Kind: kind, F: "stop-" + kind}
	switch kind {
	case "partition":
		f.Value = json.RawMessage(`"network-healed"`)
	case "kill":
		f.F, f.Value = "start", value("started", n.nodes)
	case "pause":
		f.F, f.Value = "resume", value("resumed", n.nodes)
	default:
		f.Value = value("stopped", kind)
	}
	return f
}

func value(word string, what any) json.RawMessage {
	b, err := json.Marshal([]any{word, what})
	if err != nil {
		panic("interpreter: " + err.Error()) // strings and maps of strings
	}
	return b
}

// cut draws one of Jepsen's four partitions. Upstream also draws those that cut nothing in so small a cluster.
func (n *nemesis) cut() sim.Cut {
	for {
		c := sim.Partitions[n.rand.IntN(4)](n.rand, n.nodes)
		if n.compat || len(n.nodes) < 2 || !empty(c) {
			return c
		}
	}
}

func empty(c sim.Cut) bool {
	for _, from := range c {
		if len(from) > 0 {
			return false
		}
	}
	return true
}

// targets draws whom a kill or a pause hits: as Jepsen's db package, a random set, one, a third, a minority, a majority,
// or all, but never nobody.
func (n *nemesis) targets() []string {
	s := slices.Clone(n.nodes)
	n.rand.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	count := len(s)
	size := []int{1 + n.rand.IntN(count), 1, (count - 1) / 3, (count - 1) / 2, count/2 + 1, count}[n.rand.IntN(6)]
	return slices.Sorted(slices.Values(s[:max(1, size)]))
}
