// Package check judges runs: it has Jepsen's and Maelstrom's rules, and our own, which are stricter. Its functions are pure.
package check

import (
	"fmt"
	"time"

	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
)

// A Verdict is what a checker says; the lowest of the parts is that of the whole.
type Verdict uint8

// False: what was promised did not hold. Unknown: nobody can say, as when nothing was put to the test.
const (
	False Verdict = iota
	Unknown
	True
)

// EDN returns true, false or :unknown, as Jepsen writes it.
func (v Verdict) EDN() any {
	switch v {
	case True:
		return true
	case False:
		return false
	}
	return edn.Keyword("unknown")
}

func (v Verdict) String() string { return [...]string{"false", "unknown", "true"}[v] }

// verdict is True if all is well, else False.
func verdict(well bool) Verdict {
	if well {
		return True
	}
	return False
}

// Options of Check.
type Options struct {
	Compat       bool    // upstream's verdict, with what it overlooks (specification section 9)
	Availability float64 // the least fraction of operations that must be ok; 0: any, 1: total
	NemesisAsked bool    // faults were wanted
	// Fresh: counters' reads must have everything that was acknowledged Staleness before them. Otherwise they need not
	// before the end, as upstream's counters are eventually consistent; how old they were is measured.
	Fresh     bool
	Staleness time.Duration
}

// Results are what is found in a run.
type Results struct {
	Valid    Verdict  // the verdict: ours, or with Options.Compat upstream's
	Ours     Verdict  // by our rules
	Upstream Verdict  // by upstream's
	Vacuous  string   // why nothing was put to the test; "" if something was
	Reasons  []string // why Ours is not True, a sentence each, the most telling first
	Fields   edn.Map  // results.edn
}

// A part is one of upstream's checkers' results.
type part struct {
	valid  Verdict
	fields edn.Map // without :valid?
}

func (p part) edn() edn.Map { return append(edn.Map{}.With("valid?", p.valid.EDN()), p.fields...) }

// checkers has for each workload what judges the operations: by our rules, into the judge, and by upstream's.
var checkers = map[string]func(*operations, *judge) part{
	"echo":       checkEcho,
	"unique-ids": checkUniqueIDs,
	"broadcast":  checkBroadcast,
	"g-counter":  checkGCounter,
	"pn-counter": checkPNCounter,
	"bank":       checkBank,
}

func checkUnknown(ops *operations, j *judge) part {
	problem := fmt.Sprintf("there is no checker for the workload %q", ops.Workload)
	j.unclear(problem)
	return part{Unknown, edn.Map{}.With("error", problem)}
}

// Check judges a run of one of the workloads
//   - echo: the value of an "echo" is what is sent, and when it is ok the body of the reply,
//   - unique-ids: the value of a "generate" that is ok is the id,
//   - broadcast: the value of a "broadcast" is the message, and of a "read" that is ok the array of messages,
//   - g-counter, pn-counter: the value of an "add" is the delta, and of a "read" that is ok the sum,
//   - bank: the value of a deed is what it was asked with, and of a "read" that is ok what each account has.
func Check(run *history.Run, o Options) Results {
	ops, j := newOperations(run, o), &judge{}
	j.findings(run)
	counted := count(ops)
	checker := checkers[run.Workload]
	if checker == nil {
		checker = checkUnknown
	}
	stats := counted.stats(o.NemesisAsked, j)
	workload := checker(ops, j)
	available := counted.availability(o.Availability, j)
	exposed := exposure(ops, o.NemesisAsked, j)

	r := Results{Ours: j.verdict(), Upstream: min(stats.valid, available.valid, workload.valid), Vacuous: j.vacuous, Reasons: j.reasons()}
	aborted := abortion(run)
	if aborted != "" {
		r.Upstream = Unknown
	}
	if r.Valid = r.Ours; o.Compat {
		r.Valid = r.Upstream
	}
	always := edn.Map{}.With("valid?", true)
	r.Fields = edn.Map{}.
		With("perf", edn.Map{}.With("latency-graph", always).With("rate-graph", always).With("valid?", true)).
		With("timeline", always).
		With("exceptions", exceptions(ops)).
		With("stats", stats.edn()).
		With("availability", available.edn()).
		With("net", counted.network(run.Journal)).
		With("workload", workload.edn()).
		With("valid?", r.Valid.EDN()).
		With("strict", j.edn(exposed)).
		With("upstream-valid?", r.Upstream.EDN())
	if aborted != "" {
		r.Fields = r.Fields.With("error", aborted)
	}
	r.Fields = r.Fields.With("findings", findingsEDN(run.Findings))
	return r
}
