package gossipsim

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/internal/gossip"
)

// Each mutant breaks one promise; the checks must say so, in these words, within some seeds.
func TestMutantsAreCaught(t *testing.T) {
	for _, m := range []struct {
		name, want string
		start      func(gossip.Config) Core
		store      func(gossip.Storage) gossip.Storage
	}{
		{name: "reuses sequence numbers", want: "used twice", start: func(c gossip.Config) Core {
			c.Incarnation = 1 // and forgets that it must be different at every start
			return gossip.New(c)
		}},
		{name: "forgets an entry", want: "all together have", store: func(s gossip.Storage) gossip.Storage { return forgetful{s} }},
		{name: "delivers twice", want: "delivered twice", start: wrap(func(n *gossip.Node) Core { return twice{n} })},
		{name: "leaves one out", want: "delivered after", start: wrap(func(n *gossip.Node) Core { return &gap{Node: n} })},
		{name: "invents an entry", want: "never appended", start: wrap(func(n *gossip.Node) Core { return inventor{n} })},
		{name: "ignores causes", want: "before its causes", start: wrap(func(n *gossip.Node) Core { return acausal{n} })},
		{name: "shows what is not durable", want: "has durable", start: wrap(func(n *gossip.Node) Core { return hasty{n} })},
		{name: "sends what is not durable", want: "before it is durable", start: wrap(func(n *gossip.Node) Core { return hasty{n} })},
		{name: "never stops sending entries", want: "after everybody has everything", start: wrap(func(n *gossip.Node) Core { return &parrot{Node: n} })},
		{name: "never stops sending digests", want: "digests are due", start: wrap(func(n *gossip.Node) Core { return chatter{n} })},
		{name: "never heals", want: "all together have", start: func(c gossip.Config) Core {
			c.Profile.Tick = time.Hour
			return gossip.New(c)
		}},
		{name: "overlooks a roll-back", want: "has not noticed", start: wrap(func(n *gossip.Node) Core { return blind{n} })},
		{name: "sees roll-backs everywhere", want: "and was not", start: wrap(func(n *gossip.Node) Core { return timid{n} })},
		{name: "never forgets", want: "cannot forget", start: wrap(func(n *gossip.Node) Core { return hoarder{n} })},
		{name: "holds back without bound", want: "holds back", start: wrap(func(n *gossip.Node) Core { return dam{n} })},
	} {
		t.Run(m.name, func(t *testing.T) {
			for seed := uint64(1); seed <= 400; seed++ {
				o := Random(seed)
				o.Start, o.Store = m.start, m.store
				if o.Nodes < 25 && strings.Contains(strings.Join(Run(o).Violations, "\n"), m.want) {
					return
				}
			}
			t.Errorf("no seed reported %q", m.want)
		})
	}
}

// TestLuckIsCaught gives a core luck of its own: two runs of one seed must then differ.
func TestLuckIsCaught(t *testing.T) {
	o, luck := Random(1), uint64(0)
	o.Start = func(c gossip.Config) Core {
		luck++
		c.Rand = rand.New(rand.NewPCG(luck, 0))
		return gossip.New(c)
	}
	if first, second := Run(o).Hash, Run(o).Hash; first == second {
		t.Errorf("two runs with luck have the hash %x both", first)
	}
}

func wrap(with func(*gossip.Node) Core) func(gossip.Config) Core {
	return func(c gossip.Config) Core { return with(gossip.New(c)) }
}

type forgetful struct{ gossip.Storage }

func (f forgetful) Entries(o gossip.Origin, after uint64, bytesMax int) []gossip.Entry {
	if after == 4 {
		return nil
	}
	entries := f.Storage.Entries(o, after, bytesMax)
	return slices.DeleteFunc(slices.Clone(entries), func(e gossip.Entry) bool { return after < 4 && e.Seq > 4 })
}

type twice struct{ *gossip.Node }

func (n twice) Receive(now time.Duration, from string, m gossip.Message) []gossip.Entry {
	entries := n.Node.Receive(now, from, m)
	if len(entries) > 0 {
		entries = append(entries, entries[0])
	}
	return entries
}

func (n twice) Persisted(time.Duration, int) {}

type gap struct {
	*gossip.Node
	left bool
}

func (n *gap) Receive(now time.Duration, from string, m gossip.Message) []gossip.Entry {
	entries := n.Node.Receive(now, from, m)
	if !n.left && len(entries) > 0 {
		n.left = true
		return entries[1:]
	}
	return entries
}

func (n *gap) Persisted(time.Duration, int) {}

type inventor struct{ *gossip.Node }

func (n inventor) Receive(now time.Duration, from string, m gossip.Message) []gossip.Entry {
	entries := n.Node.Receive(now, from, m)
	for i := range entries {
		entries[i].Data = []byte("invented")
	}
	return entries
}

type acausal struct{ *gossip.Node }

func (n acausal) Receive(now time.Duration, from string, m gossip.Message) []gossip.Entry {
	for i := range m.Entries {
		m.Entries[i].Deps = nil
	}
	return n.Node.Receive(now, from, m)
}

// hasty acknowledges before persisting.
type hasty struct{ *gossip.Node }

func (n hasty) Append(now time.Duration, data []byte) gossip.Entry {
	e := n.Node.Append(now, data)
	n.Node.Persisted(now, 1)
	return e
}

func (n hasty) Receive(now time.Duration, from string, m gossip.Message) []gossip.Entry {
	entries := n.Node.Receive(now, from, m)
	n.Node.Persisted(now, len(entries))
	return entries
}

func (n hasty) Persisted(time.Duration, int) {}

// Ready sends of its own entries also those that storage does not give yet.
func (n hasty) Ready(now time.Duration) []gossip.Envelope {
	out := n.Node.Ready(now)
	for i := range out {
		for o, seq := range out[i].Message.Vector {
			out[i].Message.Entries = append(out[i].Message.Entries, gossip.Entry{Origin: o, Seq: seq})
		}
	}
	return out
}

type parrot struct {
	*gossip.Node
	last []gossip.Entry
}

func (n *parrot) Ready(now time.Duration) []gossip.Envelope {
	out := n.Node.Ready(now)
	for i := range out {
		if e := out[i].Message.Entries; len(e) > 0 {
			n.last = e
		}
		out[i].Message.Entries = n.last
	}
	return out
}

type chatter struct{ *gossip.Node }

func (n chatter) Ready(now time.Duration) []gossip.Envelope {
	out := n.Node.Ready(now)
	return append(out, out...)
}

type blind struct{ *gossip.Node }

func (n blind) Stats() gossip.Stats {
	s := n.Node.Stats()
	s.Rollbacks = 0
	return s
}

type timid struct{ *gossip.Node }

func (n timid) Stats() gossip.Stats {
	s := n.Node.Stats()
	s.Rollbacks++
	return s
}

type hoarder struct{ *gossip.Node }

func (hoarder) Stable() gossip.Vector { return nil }

type dam struct{ *gossip.Node }

func (n dam) Stats() gossip.Stats {
	s := n.Node.Stats()
	s.HeldNow += 10 * int(s.Pushed)
	return s
}
