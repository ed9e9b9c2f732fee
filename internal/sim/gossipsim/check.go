package gossipsim

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"dongne/internal/gossip"
)

// checker watches a run from outside: it keeps books of its own and trusts nothing that a core says.
type checker struct {
	ops        []operation
	byPosition map[position]uint64 // what stands under a sequence number, anywhere
	open       []uint64            // operations not yet everywhere
	steady     uint64              // bit i: node i is neither killed nor paused in this run
	origins    map[gossip.Origin]bool
	violations []string
	quiet      bool // only digests may be sent now
}

type position struct {
	origin gossip.Origin
	seq    uint64
}

// operation is one append.
type operation struct {
	at          time.Duration
	entry       gossip.Entry
	past        gossip.Vector // what its origin had seen of every log
	nodes       uint64        // bit i: node i accepted it
	everywhere  time.Duration // when the last steady one did
	lastAbsent  time.Duration // of the reads that missed it; -1: none did
	lastPresent time.Duration
}

const violationsMax = 8 // one run reports no more

func newChecker() checker {
	return checker{byPosition: map[position]uint64{}, origins: map[gossip.Origin]bool{}}
}

func (c *checker) violate(format string, args ...any) {
	if len(c.violations) < violationsMax {
		c.violations = append(c.violations, fmt.Sprintf(format, args...))
	}
}

func payload(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

func (c *checker) newOperation(now time.Duration) uint64 {
	c.ops = append(c.ops, operation{at: now, lastAbsent: -1, lastPresent: -1})
	id := uint64(len(c.ops) - 1)
	c.open = append(c.open, id)
	return id
}

func (c *checker) appended(id uint64, e gossip.Entry, seen gossip.Vector) {
	c.ops[id].entry, c.ops[id].past = e, seen.Clone()
	c.origins[e.Origin] = true
}

// operationOf returns the operation that the entry must come from, and whether it is just as that was appended.
func (c *checker) operationOf(e gossip.Entry) (uint64, bool) {
	if len(e.Data) != 8 {
		return 0, false
	}
	id := binary.BigEndian.Uint64(e.Data)
	if id >= uint64(len(c.ops)) {
		return 0, false
	}
	was := c.ops[id].entry
	return id, was.Origin == e.Origin && was.Seq == e.Seq
}

func (c *checker) reached(now time.Duration, node int, e gossip.Entry) {
	if id, ok := c.operationOf(e); ok {
		op := &c.ops[id]
		if op.nodes&c.steady != c.steady && op.nodes&(1<<node) == 0 {
			op.everywhere = now
		}
		op.nodes |= 1 << node
	}
}

// read is a client's look at a node's entries: it keeps what Jepsen's set-full checker would keep of it.
func (c *checker) read(now time.Duration, node int) {
	c.open = slices.DeleteFunc(c.open, func(id uint64) bool { return c.came(id) && c.ops[id].lastPresent >= 0 })
	for _, id := range c.open {
		if c.ops[id].nodes&(1<<node) != 0 {
			c.ops[id].lastPresent = now
		} else {
			c.ops[id].lastAbsent = now
		}
	}
}

// came says whether the operation's entry was accepted by every steady node.
func (c *checker) came(id uint64) bool { return c.ops[id].nodes&c.steady == c.steady }

// latencies returns the true propagation times and upstream's estimate of them, both sorted.
func (c *checker) latencies() (propagation, stable []time.Duration) {
	for id, op := range c.ops {
		if c.came(uint64(id)) {
			propagation = append(propagation, op.everywhere-op.at)
		}
		if op.lastPresent > op.lastAbsent {
			stable = append(stable, max(0, op.lastAbsent+1-op.at).Truncate(time.Millisecond))
		}
	}
	slices.Sort(propagation)
	slices.Sort(stable)
	return propagation, stable
}

// checkWrite is asked before an entry becomes durable and visible to the application.
func (c *checker) checkWrite(h *host, e gossip.Entry) bool {
	id, ok := c.operationOf(e)
	switch {
	case !ok:
		c.violate("%s: %s:%d was never appended like this", h.name, e.Origin, e.Seq)
		return false
	case e.Seq <= h.durable[e.Origin]:
		c.violate("%s: %s:%d delivered twice", h.name, e.Origin, e.Seq)
		return false
	case e.Seq > h.durable[e.Origin]+1:
		c.violate("%s: %s:%d delivered after :%d", h.name, e.Origin, e.Seq, h.durable[e.Origin])
		return false
	}
	if past := c.ops[id].past; !h.durable.Covers(past) {
		c.violate("%s: %s:%d delivered before its causes: has %q, needs %q", h.name, e.Origin, e.Seq, h.durable, past)
	}
	c.checkReuse(e, id)
	return true
}

// checkReuse keeps the books of sequence numbers.
func (c *checker) checkReuse(e gossip.Entry, id uint64) {
	at := position{e.Origin, e.Seq}
	if was, ok := c.byPosition[at]; ok && was != id {
		c.violate("%s:%d used twice: for operations %d and %d", e.Origin, e.Seq, was, id)
	}
	c.byPosition[at] = id
}

// forgotten strikes from the books what a disk lost and no other node has: its number is free again, unless a message
// still under way brings it back.
func (c *checker) forgotten(hosts []*host, lost []gossip.Entry) {
	for _, e := range lost {
		if !slices.ContainsFunc(hosts, func(h *host) bool { return h.knows(e) }) {
			delete(c.byPosition, position{e.Origin, e.Seq})
		}
	}
}

func (h *host) knows(e gossip.Entry) bool {
	if h.up {
		return h.seen[e.Origin] >= e.Seq
	}
	return h.durable[e.Origin] >= e.Seq
}

// checkSend is asked before a message leaves.
func (c *checker) checkSend(h *host, e gossip.Envelope) {
	if !h.durable.Covers(e.Message.Vector) {
		c.violate("%s shows %q, has durable %q", h.name, e.Message.Vector, h.durable)
	}
	for _, entry := range e.Message.Entries {
		if h.durable[entry.Origin] < entry.Seq {
			c.violate("%s sends %s:%d before it is durable", h.name, entry.Origin, entry.Seq)
		}
		if id, ok := c.operationOf(entry); ok {
			c.checkReuse(entry, id)
		}
	}
	if c.quiet && len(e.Message.Entries) > 0 {
		c.violate("%s sends %d entries to %s after everybody has everything", h.name, len(e.Message.Entries), e.To)
	}
}

// checkBounds looks at what a core keeps in memory.
func (c *checker) checkBounds(h *host) {
	if s := h.core.Stats(); s.HeldNow > heldMax || s.Origins > len(c.origins) {
		c.violate("%s holds back %d entries, knows %d origins of %d", h.name, s.HeldNow, s.Origins, len(c.origins))
	}
}

// heldMax is what a core may hold back, in entries.
const heldMax = 512

// checkConverged is asked when everybody must have everything: whatever is durable anywhere must be everywhere, so that
// nothing which reached a surviving disk is lost.
func (c *checker) checkConverged(hosts []*host) {
	union := gossip.Vector{}
	for _, h := range hosts {
		union.Merge(h.durable)
	}
	for _, h := range hosts {
		if !h.durable.Equal(union) {
			c.violate("%s has %q, all together have %q", h.name, h.durable, union)
		}
		if have := h.core.Have(); !have.Equal(h.durable) {
			c.violate("%s says that it has %q, it has %q", h.name, have, h.durable)
		}
	}
}

// checkRollbacks is asked when everybody has everything. A node whose log came back from others had been rolled back
// and must have noticed, if it had any of that log left to compare; a node with its disk intact must not.
func (c *checker) checkRollbacks(hosts []*host) {
	for _, h := range hosts {
		noticed := h.core.Stats().Rollbacks > 0
		if !h.mayHaveLost && noticed {
			c.violate("%s believes that it was rolled back, and was not", h.name)
		}
		if !noticed && slices.ContainsFunc(h.lost, h.cameBack) {
			c.violate("%s was rolled back and has not noticed", h.name)
		}
	}
}

// cameBack says whether a lost entry of our newest restored log, or a later one, is here again.
func (h *host) cameBack(lost gossip.Entry) bool {
	if lost.Origin.Node != h.name || lost.Origin.Incarnation < h.newest || h.newest == 0 {
		return false
	}
	return slices.ContainsFunc(h.log, func(e gossip.Entry) bool { return string(e.Data) == string(lost.Data) })
}

// checkQuiet is asked after the quiet time.
func (c *checker) checkQuiet(hosts []*host, sent, sentMax uint64) {
	if sent > sentMax {
		c.violate("%d messages in the quiet time, at most %d digests are due", sent, sentMax)
	}
	for _, h := range hosts {
		h.store.Trim(h.core.Stable())
		if left := h.store.Len(); left > 0 {
			c.violate("%s cannot forget %d entries that everybody has", h.name, left)
		}
	}
}
