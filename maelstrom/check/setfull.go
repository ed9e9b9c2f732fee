package check

import (
	"cmp"
	"math"
	"slices"
	"time"

	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
)

// setFull follows the elements of a set through a history: those added, and what reads saw of them. Its rules are those of
// set-full in jepsen.checker. The numbers of operations are their indexes in the history, none is -1.
type setFull struct {
	*operations
	addF     string // what an operation that adds is called
	index    index
	elements []element
	added    []int // the elements that were added, in order
	reads    int   // how many were looked at

	finals    []finalRead
	finalFrom int // the first final read's invocation
	lastRead  int // of all invocations of ok reads, the last

	noArrays, twice, phantoms []string // what our rules say of single reads

	values [][]byte // of one read, kept for the memory alone
	seen   []int
}

// element is one value, added or only read.
type element struct {
	value       []byte
	isAdded     bool
	acked       int // completion of its add, if that was ok
	known       int // that, or the completion of the first ok read that has it
	lastPresent int // the last invocation of an ok read that has it
	lastAbsent  int // and of one that has not
	read        int // the last that has it of those looked at, from 1 on
	copies      int // that it has
	// What a reason was already given for.
	toldTwice, toldPhantom, toldLost bool
}

// finalRead is an ok read of the last phase.
type finalRead struct {
	done int
	seen []int // elements
}

func newSetFull(ops *operations, addF string) *setFull {
	s := &setFull{operations: ops, addF: addF, finalFrom: math.MaxInt, lastRead: -1}
	for i := range ops.Ops {
		op := &ops.Ops[i]
		switch {
		case op.Process == history.Nemesis:
		case op.Type == history.Invoke:
			s.invoked(i, op)
		case op.Type != history.OK || ops.other[i] < 0:
		case op.F == addF:
			s.acknowledged(i)
		case op.F == "read":
			s.readOK(i, op)
		}
	}
	return s
}

func (s *setFull) number(value []byte) int {
	n, isNew := s.index.number(value)
	if isNew {
		s.elements = append(s.elements, element{value: value, acked: -1, known: -1, lastPresent: -1, lastAbsent: -1})
	}
	return n
}

func (s *setFull) invoked(i int, op *history.Op) {
	if op.Final {
		s.finalFrom = min(s.finalFrom, i)
	}
	if op.F != s.addF {
		return
	}
	n := s.number(op.Value)
	e := &s.elements[n]
	if !e.isAdded {
		s.added = append(s.added, n)
	}
	e.isAdded = true
	e.acked, e.known, e.lastPresent, e.lastAbsent = -1, -1, -1, -1 // as upstream: a second add begins anew
}

func (s *setFull) acknowledged(i int) {
	e := &s.elements[s.number(s.Ops[s.other[i]].Value)]
	e.acked = i
	if e.known < 0 {
		e.known = i
	}
}

func (s *setFull) readOK(i int, op *history.Op) {
	var isArray bool
	if s.values, isArray = split(s.values[:0], op.Value); !isArray {
		s.noArrays = append(s.noArrays, s.node(i)+"'s read at "+s.at(i)+" is no array: "+cut(op.Value))
		return
	}
	s.reads++
	invoked := s.other[i]
	s.lastRead = max(s.lastRead, invoked)
	s.seen = s.seen[:0]
	present := 0 // of the elements added
	for _, value := range s.values {
		n := s.number(value)
		e := &s.elements[n]
		if e.read == s.reads {
			e.copies++
			continue
		}
		e.read, e.copies = s.reads, 1
		s.seen = append(s.seen, n)
		if !e.isAdded {
			s.foundPhantom(i, e)
			continue
		}
		present++
		e.lastPresent = max(e.lastPresent, invoked)
		if e.known < 0 {
			e.known = i
		}
	}
	if present < len(s.added) {
		s.absent(invoked)
	}
	if len(s.seen) < len(s.values) {
		s.foundTwice(i)
	}
	if s.Ops[invoked].Final {
		s.finals = append(s.finals, finalRead{i, slices.Clone(s.seen)})
	}
}

// absent notes what the read before it lacks.
func (s *setFull) absent(invoked int) {
	for _, n := range s.added {
		if e := &s.elements[n]; e.read != s.reads {
			e.lastAbsent = max(e.lastAbsent, invoked)
		}
	}
}

// fate is what became of an element.
type fate uint8

const (
	stable    fate = iota // from some time on, all reads have it
	lost                  // from some time on, none has it
	neverRead             // neither can be said
)

// fate also returns how long after it was known the element became what it is, in whole milliseconds.
func (s *setFull) fate(e *element) (fate, int) {
	after := func(last int) int {
		since := time.Duration(0)
		if last >= 0 {
			since = s.Ops[last].Time + 1
		}
		return int(max(0, since-s.Ops[e.known].Time) / time.Millisecond)
	}
	switch {
	case e.lastPresent >= 0 && e.lastAbsent < e.lastPresent:
		return stable, after(e.lastAbsent)
	case e.known >= 0 && e.lastPresent < e.lastAbsent && e.known < e.lastAbsent:
		return lost, after(e.lastPresent)
	}
	return neverRead, 0
}

const worstStaleMax = 8

// upstream returns set-full's results.
func (s *setFull) upstream() part {
	sorted := slices.Clone(s.added)
	if !sortByValue(sorted, func(n int) []byte { return s.elements[n].value }) {
		return part{Unknown, edn.Map{}.With("error", "the elements are of several types, and cannot be sorted")}
	}
	byFate, stale := [...]edn.Vector{stable: {}, lost: {}, neverRead: {}}, edn.Vector{}
	var latencies [len(byFate)][]int
	var worst []staleElement
	for _, n := range sorted {
		e := &s.elements[n]
		f, latency := s.fate(e)
		byFate[f] = append(byFate[f], edn.Raw(e.value))
		latencies[f] = append(latencies[f], latency)
		if f == stable && latency > 0 {
			stale = append(stale, edn.Raw(e.value))
			worst = append(worst, staleElement{e, latency})
		}
	}
	valid := True
	if len(byFate[lost]) > 0 {
		valid = False
	} else if len(byFate[stable]) == 0 {
		valid = Unknown
	}
	m := edn.Map{}.With("attempt-count", len(s.added)).With("stable-count", len(byFate[stable])).
		With("lost-count", len(byFate[lost])).With("lost", byFate[lost]).
		With("never-read-count", len(byFate[neverRead])).With("never-read", byFate[neverRead]).
		With("stale-count", len(stale)).With("stale", stale).With("worst-stale", s.worst(worst))
	if len(latencies[stable]) > 0 {
		m = m.With("stable-latencies", quantiles(latencies[stable]))
	}
	if len(latencies[lost]) > 0 {
		m = m.With("lost-latencies", quantiles(latencies[lost]))
	}
	// Upstream looks for values that are in a read less than once, so that it finds no duplicates.
	return part{valid, m.With("duplicated-count", 0).With("duplicated", edn.Map{})}
}

type staleElement struct {
	*element
	latency int
}

// worst returns those with the greatest latencies; of equal ones the later come first.
func (s *setFull) worst(stale []staleElement) edn.Vector {
	slices.SortStableFunc(stale, func(a, b staleElement) int { return cmp.Compare(a.latency, b.latency) })
	slices.Reverse(stale)
	all := edn.Vector{}
	for _, e := range stale[:min(len(stale), worstStaleMax)] {
		all = append(all, edn.Map{}.With("element", edn.Raw(e.value)).With("outcome", edn.Keyword("stable")).
			With("stable-latency", e.latency).With("lost-latency", nil).
			With("known", s.Ops[e.known].EDN()).With("last-absent", s.Ops[e.lastAbsent].EDN()))
	}
	return all
}

func quantiles(values []int) edn.Map {
	slices.Sort(values)
	m := edn.Map{}
	for _, q := range []struct {
		key      any
		fraction float64
	}{{0, 0}, {0.5, 0.5}, {0.95, 0.95}, {0.99, 0.99}, {1, 1}} {
		at := min(len(values)-1, int(float64(len(values))*q.fraction))
		m = append(m, edn.Pair{Key: q.key, Value: values[at]})
	}
	return m
}
