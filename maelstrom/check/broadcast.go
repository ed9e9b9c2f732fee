package check

import (
	"fmt"
	"math"
	"slices"
)

// checkBroadcast wants every value that is known to be everywhere in the end, once, and no other. Upstream looks at the
// reads of all nodes as at those of one set; we look at every node.
func checkBroadcast(ops *operations, j *judge) part {
	s := newSetFull(ops, "broadcast")
	j.wrong(s.missing()...)
	j.wrong(s.disagreements()...)
	j.wrong(s.lost()...)
	j.wrong(s.phantoms...)
	j.wrong(s.twice...)
	j.wrong(s.noArrays...)
	s.ends(j, s.finalFrom < math.MaxInt)
	s.unread(j)
	return s.upstream()
}

// foundTwice says which values a read, the one looked at, has several copies of.
func (s *setFull) foundTwice(i int) {
	for _, n := range s.seen {
		if e := &s.elements[n]; e.copies > 1 && !e.toldTwice {
			e.toldTwice = true
			s.twice = append(s.twice, fmt.Sprintf("%s's read at %s has %d copies of %s", s.node(i), s.at(i), e.copies, cut(e.value)))
		}
	}
}

func (s *setFull) foundPhantom(i int, e *element) {
	if !e.toldPhantom {
		e.toldPhantom = true
		s.phantoms = append(s.phantoms, fmt.Sprintf("%s's read at %s has %s, which nobody had broadcast by then", s.node(i), s.at(i), cut(e.value)))
	}
}

// knownEarly says whether the value was known before the first final read began.
func (s *setFull) knownEarly(e *element) bool { return e.known >= 0 && e.known < s.finalFrom }

// since says from when on a known value is so.
func (s *setFull) since(e *element) string {
	if s.Ops[e.known].F == "read" {
		return fmt.Sprintf("%s (%s's read had it at %s)", cut(e.value), s.node(e.known), s.at(e.known))
	}
	return fmt.Sprintf("%s (acknowledged by %s at %s)", cut(e.value), s.node(e.known), s.at(e.known))
}

// missing says what final reads lack of what was known before them. Upstream overlooks it if the last read to be invoked
// has the value.
func (s *setFull) missing() (wrong []string) {
	for _, f := range s.finals {
		s.mark(f)
		var lacks []string
		for _, n := range s.added {
			if e := &s.elements[n]; e.read != s.reads && s.knownEarly(e) {
				e.toldLost = true
				lacks = append(lacks, s.since(e))
			}
		}
		if len(lacks) > 0 {
			wrong = append(wrong, fmt.Sprintf("%s's final read at %s lacks %s", s.node(f.done), s.at(f.done), list(lacks)))
		}
	}
	return wrong
}

// mark makes a final read the last read.
func (s *setFull) mark(f finalRead) {
	s.reads++
	for _, n := range f.seen {
		s.elements[n].read = s.reads
	}
}

// lost are those of upstream's lost values that are in no other reason yet.
func (s *setFull) lost() (wrong []string) {
	for _, n := range s.added {
		e := &s.elements[n]
		if became, _ := s.fate(e); became == lost && !e.toldLost {
			e.toldLost = true
			wrong = append(wrong, fmt.Sprintf("%s was lost: %s's read, begun at %s, lacks it, and no later one has it",
				s.since(e), s.node(e.lastAbsent), s.at(e.lastAbsent)))
		}
	}
	return wrong
}

// disagreements are values that were not known before, and are in some final reads only.
func (s *setFull) disagreements() (wrong []string) {
	holders := make([]int, len(s.elements))
	for _, f := range s.finals {
		for _, n := range f.seen {
			holders[n]++
		}
	}
	for n, count := range holders {
		e := &s.elements[n]
		if count == 0 || count == len(s.finals) || s.knownEarly(e) || !e.isAdded {
			continue
		}
		e.toldLost = true
		has := func(f finalRead) bool { return slices.Contains(f.seen, n) }
		with := s.finals[slices.IndexFunc(s.finals, has)]
		without := s.finals[slices.IndexFunc(s.finals, func(f finalRead) bool { return !has(f) })]
		wrong = append(wrong, fmt.Sprintf("%s and %s never agreed on %s: the final read at %s has it, the one at %s lacks it",
			s.node(with.done), s.node(without.done), cut(e.value), s.at(with.done), s.at(without.done)))
	}
	return wrong
}

// unread says which acknowledged values no read could have shown. If there is none, upstream has a verdict too: each is
// then in the last read, or lost.
func (s *setFull) unread(j *judge) {
	acked := false
	var late []string
	for _, n := range s.added {
		e := &s.elements[n]
		acked = acked || e.acked >= 0
		if e.acked > s.lastRead {
			late = append(late, s.since(e))
		}
	}
	switch {
	case !acked:
		j.nothing("no broadcast was acknowledged")
	case s.lastRead < 0:
		j.nothing("no read was ok")
	case len(late) > 0:
		j.unclear("no read that was ok began after these were acknowledged: " + list(late))
	}
}
