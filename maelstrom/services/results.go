package services

import (
	"math"
	"slices"
	"time"

	"dongne/maelstrom/check"
	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
)

// history is the run as reports want it.
func (r *run) history() *history.Run {
	ops := r.record.ops
	return &history.Run{Workload: r.Workload, Started: r.record.started, Nodes: r.cluster.names, Settings: r.settings(),
		Ops: ops, Findings: r.record.findings, Elapsed: ops[len(ops)-1].Time}
}

func (r *run) results() check.Results {
	c := r.count()
	res := check.Results{Ours: check.True, Vacuous: r.vacuous(&c)}
	for _, f := range r.record.findings {
		if len(res.Reasons) < reasonsMax {
			res.Reasons = append(res.Reasons, f.Text)
		}
	}
	res.Reasons = append(res.Reasons, checkAll(&r.observed)...)
	switch {
	case len(res.Reasons) > 0:
		res.Ours = check.False
	case res.Vacuous != "":
		res.Ours = check.Unknown
		res.Reasons = []string{res.Vacuous}
	}
	res.Valid, res.Upstream = res.Ours, res.Ours
	res.Fields = edn.Map{}.With("valid?", res.Valid.EDN()).With("stats", stats(r.record.ops)).With("workload", c.fields(res.Ours)).With("faults", r.exposure())
	return res
}

// vacuous says what was asked for and did not happen.
func (r *run) vacuous(c *counts) string {
	if c.acknowledged == 0 {
		return "nothing was acknowledged"
	}
	s := &r.cluster.stats
	hit := map[string]int64{
		partition: s.Cut.Load() + s.Refused.Load() + s.Swallowed.Load(),
		kill:      int64(r.cluster.killed),
		pause:     int64(r.cluster.paused),
		delay:     s.Held.Load(),
	}
	for _, kind := range r.Nemesis {
		if hit[kind] == 0 {
			return "no " + kind + " hit anything: give it more time, or a shorter interval"
		}
	}
	return ""
}

// exposure is what was done to the nodes.
func (r *run) exposure() edn.Map {
	m := edn.Map{}
	for _, kind := range r.Nemesis {
		m = m.With(kind, r.nemesis.faults[kind])
	}
	s := &r.cluster.stats
	return m.With("connections-cut", s.Cut.Load()).With("connections-refused", s.Refused.Load()).
		With("bytes-swallowed", s.Swallowed.Load()).With("bytes-held", s.Held.Load()).
		With("processes-killed", r.cluster.killed).With("processes-paused", r.cluster.paused)
}

// stats counts how clients' operations ended, in all and by what they ask.
func stats(ops []history.Op) edn.Map {
	var all [history.Info + 1]int
	by := map[string]*[history.Info + 1]int{}
	for _, op := range ops {
		if op.Process == history.Nemesis {
			continue
		}
		if by[op.F] == nil {
			by[op.F] = new([history.Info + 1]int)
		}
		by[op.F][op.Type]++
		all[op.Type]++
	}
	line := func(n [history.Info + 1]int) edn.Map {
		return edn.Map{}.With("count", n[history.OK]+n[history.Fail]+n[history.Info]).
			With("ok-count", n[history.OK]).With("fail-count", n[history.Fail]).With("info-count", n[history.Info])
	}
	byF := edn.Map{}
	for _, f := range sorted(by) {
		byF = byF.With(f, line(*by[f]))
	}
	return line(all).With("by-f", byF)
}

// counts are what clients did and saw.
type counts struct {
	sends, acknowledged, indeterminate int
	edits, deletions                   int // acknowledged
	marks, retries, requests           int64
	moves, fetches                     int64
	resets, copies                     int // that were seen
	replays                            int64
	histories, messages                int // that were compared at the end; of all rooms, on one node
	recovery                           time.Duration
	acknowledgements, propagation      []time.Duration // sorted
}

func (r *run) count() counts {
	c := counts{recovery: r.recovery, requests: r.observed.requests}
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

func (c *counts) fields(valid check.Verdict) edn.Map {
	return edn.Map{}.With("valid?", valid.EDN()).With("sends", c.sends).With("acknowledged", c.acknowledged).
		With("indeterminate", c.indeterminate).With("refused", c.sends-c.acknowledged-c.indeterminate).
		With("edits", c.edits).With("deletions", c.deletions).With("read-marks", c.marks).
		With("requests", c.requests).With("retries", c.retries).With("replays", c.replays).With("copies", c.copies).
		With("moves", c.moves).With("fetches", c.fetches).With("resets", c.resets).
		With("histories", c.histories).With("messages", c.messages).
		With("recovery-ms", milliseconds(c.recovery)).
		With("ack-latencies", quantiles(c.acknowledgements)).
		With("stable-latencies", quantiles(c.propagation))
}

// quantiles of sorted times in milliseconds, as Jepsen takes them; none of none.
func quantiles(times []time.Duration) edn.Map {
	m := edn.Map{}
	if len(times) == 0 {
		return m
	}
	for _, q := range []float64{0.5, 0.95, 0.99} {
		m = append(m, edn.Pair{Key: q, Value: milliseconds(times[int(float64(len(times))*q)])})
	}
	return append(m, edn.Pair{Key: 1, Value: milliseconds(times[len(times)-1])})
}

// milliseconds with two decimals.
func milliseconds(d time.Duration) float64 {
	return math.Round(float64(d)/float64(10*time.Microsecond)) / 100
}
