package check

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
)

// The checks that all workloads share.

// counts are of client operations.
type counts struct {
	invoked int
	all     outcomes
	byF     map[string]*outcomes
	done    map[string]bool // F → one was ok, or, of a bank, what is as good
}

// outcomes are counts by how operations ended, by history.Type.
type outcomes [history.Info + 1]int

func (c outcomes) total() int { return c[history.OK] + c[history.Fail] + c[history.Info] }

func (c outcomes) part(valid Verdict) part {
	return part{valid, edn.Map{}.With("count", c.total()).With("ok-count", c[history.OK]).
		With("fail-count", c[history.Fail]).With("info-count", c[history.Info])}
}

func count(ops *operations) counts {
	c := counts{byF: map[string]*outcomes{}, done: map[string]bool{}}
	for i := range ops.Ops {
		op := &ops.Ops[i]
		switch {
		case op.Process == history.Nemesis:
		case op.Type == history.Invoke:
			c.invoked++
		default:
			if c.byF[op.F] == nil {
				c.byF[op.F] = &outcomes{}
			}
			c.byF[op.F][op.Type]++
			c.done[op.F] = c.done[op.F] || op.Type == history.OK
			c.all[op.Type]++
		}
	}
	if ops.Workload == "bank" {
		bankDone(ops, c.done)
	}
	return c
}

// stats: every f must have been ok at least once. Where faults were wanted, they may be the reason.
func (c counts) stats(asked bool, j *judge) part {
	valid, byF := True, edn.Map{}
	var never []string
	for _, f := range slices.Sorted(maps.Keys(c.byF)) {
		of := c.byF[f]
		well := verdict(c.done[f])
		if valid = min(valid, well); well == False {
			never = append(never, fmt.Sprintf("not one of %d %s operations was ok", of.total(), f))
		}
		byF = byF.With(f, of.part(well).edn())
	}
	if asked {
		j.unclear(never...)
	} else {
		j.wrong(never...)
	}
	if c.invoked == 0 {
		j.nothing("there was no operation at all")
	} else if c.all[history.OK] == 0 {
		j.nothing("not one of %d operations was ok", c.invoked)
	}
	p := c.all.part(valid)
	p.fields = p.fields.With("by-f", byF)
	return p
}

func (c counts) availability(least float64, j *judge) part {
	fraction := 1.0
	if c.invoked > 0 {
		fraction = float64(c.all[history.OK]) / float64(c.invoked)
	}
	if fraction < least {
		j.wrong(fmt.Sprintf("only %d of %d operations were ok, and a fraction of %v was wanted", c.all[history.OK], c.invoked, least))
	}
	return part{verdict(fraction >= least), edn.Map{}.With("ok-fraction", fraction)}
}

func (c counts) network(journal history.Journal) edn.Map {
	stats := func(n history.Count, perOp bool) edn.Map {
		m := edn.Map{}.With("send-count", n.Sent).With("recv-count", n.Received).With("msg-count", n.Sent)
		if perOp && c.invoked > 0 {
			m = m.With("msgs-per-op", float64(n.Sent)/float64(c.invoked))
		}
		return m
	}
	return edn.Map{}.With("all", stats(journal.All, true)).With("clients", stats(journal.Clients, false)).
		With("servers", stats(journal.Servers, true)).With("valid?", true)
}

// exceptions lists the sorts of exceptions, the most frequent first. A sort is what stands before the first colon.
func exceptions(ops *operations) edn.Map {
	type sort struct {
		class          string
		count, example int
	}
	byClass := map[string]*sort{}
	for i := range ops.Ops {
		op := &ops.Ops[i]
		if op.Type != history.Info || op.Exception == "" {
			continue
		}
		class, _, _ := strings.Cut(op.Exception, ":")
		if byClass[class] == nil {
			byClass[class] = &sort{class: class, example: i}
		}
		byClass[class].count++
	}
	m := edn.Map{}.With("valid?", true)
	if len(byClass) == 0 {
		return m
	}
	sorts := slices.SortedFunc(maps.Values(byClass), func(a, b *sort) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.class, b.class))
	})
	var all edn.Vector
	for _, s := range sorts {
		all = append(all, edn.Map{}.With("count", s.count).With("class", s.class).With("example", ops.Ops[s.example].EDN()))
	}
	return m.With("exceptions", all)
}

// findings: a node that breaks the protocol is wrong; a late reply is legal. Of each node and kind the first is told.
func (j *judge) findings(run *history.Run) {
	type group struct {
		node string
		kind history.Kind
	}
	count := map[group]int{}
	for _, f := range run.Findings {
		count[group{f.Node, f.Kind}] += 1 + f.More
	}
	var wrong []string
	for _, f := range run.Findings {
		n := count[group{f.Node, f.Kind}]
		if n == 0 {
			continue // told
		}
		delete(count, group{f.Node, f.Kind})
		said := fmt.Sprintf("at %s %s", seconds(f.Time), f.Text)
		if !strings.HasPrefix(f.Text, f.Node) {
			said = fmt.Sprintf("at %s, %s: %s", seconds(f.Time), f.Node, f.Text)
		}
		if n > 1 {
			said += fmt.Sprintf(" (%d times)", n)
		}
		if f.Kind == history.LateReply {
			j.note("%s", said)
		} else {
			wrong = append(wrong, said)
		}
	}
	j.wrong(wrong...)
}

func findingsEDN(findings []history.Finding) edn.Vector {
	all := edn.Vector{}
	for _, f := range findings {
		all = append(all, edn.Map{}.With("node", f.Node).With("kind", edn.Keyword(f.Kind)).With("text", f.Text).With("time", int64(f.Time)))
	}
	return all
}

// abortion says why upstream would have no verdict: it ends a test whose node exits or does not answer, unchecked.
func abortion(run *history.Run) string {
	for _, f := range run.Findings {
		if f.Kind == history.Exited || f.Kind == history.NotAnswering {
			return fmt.Sprintf("%s (%s): %s", f.Node, f.Kind, f.Text)
		}
	}
	return ""
}

// exposure says how much of the run met faults.
func exposure(ops *operations, asked bool, j *judge) edn.Map {
	var faults []history.Fault
	partitions := 0
	for _, f := range ops.Faults() {
		if touches(f.Value) {
			faults = append(faults, f)
			if f.Name == "partition" {
				partitions++
			}
		}
	}
	during, outside := 0, 0
	for i, op := range ops.Ops {
		if op.Process == history.Nemesis || op.Type != history.Invoke {
			continue
		}
		end := max(ops.Elapsed, op.Time)
		if done := ops.other[i]; done >= 0 {
			end = ops.Ops[done].Time
		}
		if slices.ContainsFunc(faults, func(f history.Fault) bool { return overlap(f, op.Time, end) }) {
			during++
		} else {
			outside++
		}
	}
	switch dropped := ops.Journal.Dropped; {
	case asked && len(faults) == 0:
		j.nothing("faults were wanted, and not one cut, killed or paused anything")
	case len(faults) > 0 && during == 0:
		j.note("no operation was under way during a fault")
	case partitions > 0 && dropped == 0:
		j.note("the partitions dropped no message: perhaps the nodes do not talk to each other")
	}
	return edn.Map{}.With("faults", len(faults)).With("dropped-messages", ops.Journal.Dropped).
		With("ops-during-faults", during).With("ops-outside", outside)
}

func overlap(f history.Fault, from, to time.Duration) bool { return from <= f.To && f.From <= to }

// touches says whether what the nemesis did met anybody: ["isolated", {receiver: [senders…]}], ["killed", [nodes…]], and
// ["started", "loss"], which meets everybody.
func touches(value json.RawMessage) bool {
	var did [2]json.RawMessage
	if json.Unmarshal(value, &did) != nil {
		return false
	}
	var kind string
	if json.Unmarshal(did[1], &kind) == nil {
		return true
	}
	var nodes []string
	if json.Unmarshal(did[1], &nodes) == nil {
		return len(nodes) > 0
	}
	var cut map[string][]string
	if json.Unmarshal(did[1], &cut) != nil {
		return false
	}
	for _, senders := range cut {
		if len(senders) > 0 {
			return true
		}
	}
	return false
}
