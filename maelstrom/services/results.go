package services

import (
	"math"
	"slices"
	"time"

	"dongne/maelstrom/check"
	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
	"dongne/maelstrom/services/books"
)

// history is the run as reports want it.
func (r *run) history() *history.Run {
	ops := r.record.ops
	return &history.Run{Workload: r.Workload, Started: r.record.started, Nodes: r.cluster.all(), Settings: r.settings(),
		Ops: ops, Findings: r.record.findings, Elapsed: ops[len(ops)-1].Time}
}

func (r *run) results() check.Results {
	j := r.load.judge(r.recovery)
	res := check.Results{Ours: check.True, Vacuous: r.vacuous(j.acknowledged)}
	var found []string
	for _, f := range r.record.findings {
		found = append(found, f.Text)
	}
	res.Reasons = slices.Concat(books.Some(found), j.wrong, r.verified)
	switch {
	case len(res.Reasons) > 0:
		res.Ours = check.False
	case res.Vacuous != "":
		res.Ours = check.Unknown
		res.Reasons = []string{res.Vacuous}
	}
	res.Valid, res.Upstream = res.Ours, res.Ours
	load := append(edn.Map{}.With("valid?", res.Ours.EDN()), j.fields...)
	res.Fields = edn.Map{}.With("valid?", res.Valid.EDN()).With("stats", stats(r.record.ops)).With("workload", load).With("faults", r.exposure())
	return res
}

// vacuous says what was asked for and did not happen.
func (r *run) vacuous(acknowledged int) string {
	if acknowledged == 0 {
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
