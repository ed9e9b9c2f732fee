package check

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
)

// counterRun is what a history says of a counter.
//
// What an add does to the counter is known but for when, and for adds that were not acknowledged whether. So a read can
// only show a sum between two bounds: each add that was invoked before the read ended may be in it, and each that was
// acknowledged before the read began is, if reads are to be fresh. An add that was refused with a definite error is in no
// read.
type counterRun struct {
	*operations
	grows bool // it is a g-counter
	// The adds that may have happened, by invocation, with sums of their increases and of their decreases up to each.
	invoked []addition
	// And those of them that were ok, by completion.
	acked []addition
	reads []counterRead // ok, by completion
}

// addition is an add, with what it and those before it in its list add up to.
type addition struct {
	at                   int // its invocation, or its completion
	delta                int64
	increases, decreases int64
}

// counterRead is an ok read.
type counterRead struct {
	invoked, done int
	value         int64
	final         bool
}

func checkPNCounter(ops *operations, j *judge) part { return checkCounter(ops, j, false) }
func checkGCounter(ops *operations, j *judge) part  { return checkCounter(ops, j, true) }

// checkCounter wants every read to show what may have been added by then, those of a g-counter never less than the one
// before, and final reads that show everything. Upstream looks at final reads alone, and takes it for well if there is none.
func checkCounter(ops *operations, j *judge, grows bool) part {
	c := newCounterRun(ops, grows, j)
	expected := c.acceptable(func(op *history.Op) bool { return !op.Error.Definite() })
	if wrong := c.wrongFinals(expected); len(wrong) > 0 {
		j.wrong(wrong...)
	} else {
		j.wrong(c.disagreement()...)
	}
	j.wrong(c.impossible()...)
	if grows {
		j.wrong(c.backwards()...)
	}
	stale := c.staleness(j)
	finalFrom := slices.IndexFunc(ops.Ops, func(op history.Op) bool { return op.Final && op.Type == history.Invoke })
	ops.ends(j, finalFrom >= 0)
	c.tested(j)
	return c.upstream(stale)
}

func newCounterRun(ops *operations, grows bool, j *judge) *counterRun {
	c := &counterRun{operations: ops, grows: grows}
	var strange []string
	for i := range ops.Ops {
		op, done := &ops.Ops[i], ops.other[i]
		switch {
		case op.Process == history.Nemesis:
		case op.F == "add" && op.Type == history.Invoke:
			if done < 0 || ops.Ops[done].Type == history.OK || !ops.Ops[done].Error.Definite() {
				c.invoked = sumUp(c.invoked, i, number(op.Value))
			}
		case op.Type != history.OK || done < 0:
		case op.F == "add":
			c.acked = sumUp(c.acked, i, number(ops.Ops[done].Value))
		case op.F == "read":
			value, err := strconv.ParseInt(string(op.Value), 10, 64)
			if err != nil {
				strange = append(strange, fmt.Sprintf("%s's read at %s shows no sum: %s", ops.node(i), ops.at(i), cut(op.Value)))
				continue
			}
			c.reads = append(c.reads, counterRead{done, i, value, op.Final || ops.Ops[done].Final})
		}
	}
	j.wrong(strange...)
	return c
}

// number reads a delta that the harness made itself.
func number(value json.RawMessage) int64 {
	n, _ := strconv.ParseInt(string(value), 10, 64)
	return n
}

func sumUp(all []addition, at int, delta int64) []addition {
	a := addition{at: at, delta: delta, increases: max(delta, 0), decreases: min(delta, 0)}
	if len(all) > 0 {
		last := all[len(all)-1]
		a.increases, a.decreases = last.increases+a.increases, last.decreases+a.decreases
	}
	return append(all, a)
}

// before returns how many of the additions are before an index of the history, and their sums.
func before(all []addition, at int) (count int, increases, decreases int64) {
	count, _ = slices.BinarySearchFunc(all, at, func(a addition, at int) int { return cmp.Compare(a.at, at) })
	return count, sum(all, count).increases, sum(all, count).decreases
}

// sum returns the sums of the first additions.
func sum(all []addition, count int) addition {
	if count == 0 {
		return addition{}
	}
	return all[count-1]
}

// bounds are what a read can show at least and at most that has the first acknowledged additions, so many of them.
func (c *counterRun) bounds(r counterRead, acked int) (low, high int64) {
	_, increases, decreases := before(c.invoked, r.done)
	certain := sum(c.acked, acked)
	return certain.increases + decreases, certain.decreases + increases
}

// impossible says which reads show what cannot have been added, fresh or stale. Of final ones more is demanded.
func (c *counterRun) impossible() (wrong []string) {
	for _, r := range c.reads {
		if low, high := c.bounds(r, 0); !r.final && (r.value < low || r.value > high) {
			wrong = append(wrong, fmt.Sprintf("%s's read at %s shows %d, and what was added by then makes at least %d and at most %d",
				c.node(r.done), c.at(r.done), r.value, low, high))
		}
	}
	return wrong
}

// backwards says where a process was shown less than before.
func (c *counterRun) backwards() (wrong []string) {
	last := map[int]counterRead{}
	for _, r := range c.reads {
		process := c.Ops[r.done].Process
		if l, some := last[process]; some && r.value < l.value {
			wrong = append(wrong, fmt.Sprintf("the counter went back from %d to %d: %s's reads at %s and at %s, both by process %d",
				l.value, r.value, c.node(r.done), c.at(l.done), c.at(r.done), process))
		}
		last[process] = r
	}
	return wrong
}

// wrongFinals says which final reads do not show everything.
func (c *counterRun) wrongFinals(expected intervals) (wrong []string) {
	total := sum(c.acked, len(c.acked))
	for _, r := range c.reads {
		if !r.final || expected.has(r.value) {
			continue
		}
		words := fmt.Sprintf("%s's final read at %s shows %d, and the sum of what was acknowledged is %d",
			c.node(r.done), c.at(r.done), r.value, total.increases+total.decreases)
		if len(expected) > 1 || expected[0].low != expected[0].high {
			words += fmt.Sprintf(" (with adds of which nobody knows whether they happened: %s)", expected)
		}
		wrong = append(wrong, words)
	}
	return wrong
}

// disagreement says that final reads differ, though each for itself could be right.
func (c *counterRun) disagreement() []string {
	var first *counterRead
	for i := range c.reads {
		r := &c.reads[i]
		switch {
		case !r.final:
		case first == nil:
			first = r
		case first.value != r.value:
			return []string{fmt.Sprintf("%s and %s never agreed: the final read at %s shows %d, the one at %s %d",
				c.node(first.done), c.node(r.done), c.at(first.done), first.value, c.at(r.done), r.value)}
		}
	}
	return nil
}

// age returns how old what a read shows is at least: how long before the read the first addition that it may lack was
// acknowledged; lacks is its number, and false says that the read may well be fresh.
func (c *counterRun) age(r counterRead) (age time.Duration, lacks int, stale bool) {
	acked, _, _ := before(c.acked, r.invoked)
	has := func(count int) bool {
		low, high := c.bounds(r, count)
		return low <= r.value && r.value <= high
	}
	for lacks = acked; lacks > 0 && !has(lacks); lacks-- {
	}
	if lacks == acked || !has(0) || r.final { // what is impossible is not old; of final reads more is demanded
		return 0, 0, false
	}
	return c.Ops[r.invoked].Time - c.Ops[c.acked[lacks].at].Time, lacks, true
}

// staleness judges how fresh reads are, and returns it in figures.
func (c *counterRun) staleness(j *judge) edn.Map {
	var ages []time.Duration
	var wrong []string
	worst, worstAge := counterRead{}, time.Duration(0)
	for _, r := range c.reads {
		age, lacks, stale := c.age(r)
		if !stale {
			continue
		}
		if ages = append(ages, age); age > worstAge {
			worst, worstAge = r, age
		}
		if c.fresh && age > c.freshness {
			a := c.acked[lacks]
			wrong = append(wrong, fmt.Sprintf(
				"%s's read at %s shows %d, as if the add of %d were missing that was acknowledged by %s at %s, %s before", c.node(r.done), c.at(r.done), r.value, a.delta, c.node(a.at), c.at(a.at), seconds(age)))
		}
	}
	j.wrong(wrong...)
	if len(ages) > 0 && !c.fresh {
		j.note("%d of %d reads were stale, which is no error here; %s's at %s the most, by %s",
			len(ages), len(c.reads), c.node(worst.done), c.at(worst.done), seconds(worstAge))
	}
	return edn.Map{}.With("read-count", len(c.reads)).With("stale-count", len(ages)).
		With("worst-stale-ms", worstAge.Milliseconds())
}

// tested says whether there was anything to find.
func (c *counterRun) tested(j *judge) {
	switch total := sum(c.acked, len(c.acked)); {
	case len(c.acked) == 0:
		j.nothing("no add was acknowledged")
	case total.increases == 0 && total.decreases == 0:
		j.nothing("nothing but 0 was added")
	case len(c.reads) == 0:
		j.nothing("no read was ok")
	}
}

// upstream returns pn-counter's results, and ours behind them.
func (c *counterRun) upstream(stale edn.Map) part {
	acceptable := c.acceptable(func(*history.Op) bool { return true })
	var errors any
	var wrong edn.Vector
	finals, ranges := edn.Vector{}, edn.Vector{}
	for i := range c.Ops {
		op := &c.Ops[i]
		if op.Process == history.Nemesis || op.F != "read" || op.Type != history.OK || !op.Final {
			continue
		}
		finals = append(finals, edn.Raw(op.Value))
		if value, err := strconv.ParseInt(string(op.Value), 10, 64); err != nil || !acceptable.has(value) {
			wrong = append(wrong, op.EDN())
		}
	}
	if len(wrong) > 0 {
		errors = wrong
	}
	for _, v := range acceptable {
		ranges = append(ranges, edn.Vector{v.low, v.high})
	}
	return part{verdict(len(wrong) == 0), append(edn.Map{}.With("errors", errors).With("final-reads", finals).
		With("acceptable", ranges), stale...)}
}

// acceptable are the sums of all acknowledged adds and of some of those of which nobody knows, of the unknown ones that
// counts says.
func (c *counterRun) acceptable(counts func(done *history.Op) bool) intervals {
	total := sum(c.acked, len(c.acked))
	definite := total.increases + total.decreases
	all := intervals{{definite, definite}}
	for i := range c.Ops {
		op, done := &c.Ops[i], c.other[i]
		if op.Process == history.Nemesis || op.F != "add" || op.Type != history.Invoke {
			continue
		}
		if done < 0 || c.Ops[done].Type == history.Info && counts(&c.Ops[done]) {
			all = all.orShifted(number(op.Value))
		}
	}
	return all
}

// intervals are integers: those from low to high of each, ascending and apart.
type intervals []interval

type interval struct{ low, high int64 }

// intervalsMax bounds them; beyond it they are taken together, so that more is accepted. Deltas of one digit come
// nowhere near.
const intervalsMax = 10_000

// orShifted returns the integers, and those that are delta more. Intervals that touch are one.
func (v intervals) orShifted(delta int64) intervals {
	all := slices.Clone(v)
	for _, one := range v {
		all = append(all, interval{one.low + delta, one.high + delta})
	}
	slices.SortFunc(all, func(a, b interval) int { return cmp.Compare(a.low, b.low) })
	merged := all[:1]
	for _, one := range all[1:] {
		if last := &merged[len(merged)-1]; one.low <= last.high+1 || len(merged) == intervalsMax {
			last.high = max(last.high, one.high)
		} else {
			merged = append(merged, one)
		}
	}
	return merged
}

func (v intervals) has(n int64) bool {
	return slices.ContainsFunc(v, func(one interval) bool { return one.low <= n && n <= one.high })
}

func (v intervals) String() string {
	var all []string
	for _, one := range v {
		text := strconv.FormatInt(one.low, 10)
		if one.high > one.low {
			text = fmt.Sprintf("%d to %d", one.low, one.high)
		}
		all = append(all, text)
	}
	return list(all)
}
