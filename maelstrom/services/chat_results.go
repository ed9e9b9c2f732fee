package services

import (
	"slices"
	"time"

	"dongne/maelstrom/edn"
)

// counts are what clients did and saw.
type counts struct {
	sends, acknowledged, indeterminate int
	edits, deletions                   int // acknowledged
	marks, retries, requests           int64
	moves, fetches                     int64
	resets, copies                     int // that were seen
	replays                            int64
	ordered                            int // messages of streams whose order was compared with the histories'
	histories, messages                int // that were compared at the end; of all rooms, on one node
	recovery                           time.Duration
	acknowledgements, propagation      []time.Duration // sorted
}

func (r *chat) count() counts {
	c := counts{requests: r.observed.requests}
	for _, w := range r.writers {
		c.marks += w.marks.Load()
		c.retries += w.retries.Load()
		c.replays += w.client.replays.Load()
	}
	for _, m := range r.observed.sent {
		c.sends++
		switch m.posted {
		case sure:
			c.acknowledged++
			c.acknowledgements = append(c.acknowledgements, m.acknowledged-m.asked)
		case possible:
			c.indeterminate++
		}
		if m.edited == sure {
			c.edits++
		}
		if m.deleted == sure {
			c.deletions++
		}
	}
	for _, reader := range r.readers {
		c.moves += reader.moves.Load()
		c.fetches += reader.fetches.Load()
		c.copies += reader.picture.copies // no stream runs any more
		first := reader.picture.firsts()
		for _, m := range r.observed.sent {
			if at, told := first[m.text]; told && m.posted == sure {
				c.propagation = append(c.propagation, max(0, at-m.acknowledged))
			}
		}
	}
	for _, s := range r.observed.readers {
		c.resets += len(s.resets)
		for _, part := range s.told {
			if r.observed.ordered {
				c.ordered += len(part)
			}
		}
	}
	for _, v := range r.observed.views {
		c.histories += len(v.histories)
	}
	for _, h := range r.observed.views[0].histories {
		c.messages += len(h)
	}
	slices.Sort(c.acknowledgements)
	slices.Sort(c.propagation)
	return c
}

func (c *counts) fields() edn.Map {
	return edn.Map{}.With("sends", c.sends).With("acknowledged", c.acknowledged).
		With("indeterminate", c.indeterminate).With("refused", c.sends-c.acknowledged-c.indeterminate).
		With("edits", c.edits).With("deletions", c.deletions).With("read-marks", c.marks).
		With("requests", c.requests).With("retries", c.retries).With("replays", c.replays).With("copies", c.copies).
		With("moves", c.moves).With("fetches", c.fetches).With("resets", c.resets).
		With("histories", c.histories).With("messages", c.messages).With("ordered", c.ordered).
		With("recovery-ms", milliseconds(c.recovery)).
		With("ack-latencies", quantiles(c.acknowledgements)).
		With("stable-latencies", quantiles(c.propagation))
}
