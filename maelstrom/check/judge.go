package check

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
)

// operations are those of a run, with what all checkers need.
type operations struct {
	*history.Run
	other     []int         // history.Completions
	fresh     bool          // reads must have what was acknowledged
	freshness time.Duration // so long before
}

func newOperations(run *history.Run, o Options) *operations {
	return &operations{run, history.Completions(run.Ops), o.Fresh, o.Staleness}
}

// node names who was asked in an operation, of which i is one half.
func (o *operations) node(i int) string {
	if name := o.Ops[i].Node; name != "" {
		return name
	}
	if at := o.other[i]; at >= 0 && o.Ops[at].Node != "" {
		return o.Ops[at].Node
	}
	return "the node of process " + strconv.Itoa(o.Ops[i].Process)
}

func (o *operations) at(i int) string { return seconds(o.Ops[i].Time) }

// failure says how an operation ended that was not ok; done is -1 if it never ended.
func (o *operations) failure(done int) string {
	if done < 0 {
		return "was never answered"
	}
	switch op := o.Ops[done]; {
	case op.Error.Name == "net-timeout":
		return "timed out at " + o.at(done)
	case op.Error != (history.Error{}):
		return fmt.Sprintf("failed at %s: %s", o.at(done), cut(strings.TrimSpace(op.Error.Name+" "+op.Error.Text)))
	default:
		return fmt.Sprintf("failed at %s: %s", o.at(done), cut(cmp.Or(op.Exception, "nobody knows why")))
	}
}

// ends says on which nodes it is not known what they have at the end. asked says that there was a last phase.
func (o *operations) ends(j *judge, asked bool) {
	var unclear, unasked []string
	for _, node := range o.Nodes {
		switch i, isOK := o.finalOf(node); {
		case isOK:
		case i < 0:
			unasked = append(unasked, node)
		default:
			unclear = append(unclear, fmt.Sprintf("what %s has at the end is not known: its final read %s", node, o.failure(o.other[i])))
		}
	}
	switch {
	case !asked:
		unclear = append(unclear, "what the nodes have at the end is not known: there was no final read")
	case len(unasked) > 0:
		j.note("what %s had at the end is not known: no final read went there", strings.Join(unasked, ", "))
	}
	j.unclear(unclear...)
}

// finalOf returns the invocation of a node's final read, -1 if there is none, one that was ok if there is.
func (o *operations) finalOf(node string) (invoked int, isOK bool) {
	invoked = -1
	for i := range o.Ops {
		op := &o.Ops[i]
		if !op.Final || op.Type != history.Invoke || o.node(i) != node {
			continue
		}
		done := o.other[i]
		if invoked = i; done >= 0 && o.Ops[done].Type == history.OK {
			return i, true
		}
	}
	return invoked, false
}

// A judge collects what our rules find, a list for each rule, the most telling first.
type judge struct {
	wrongs, doubts [][]string
	vacuous        string
	notes          []string // never change the verdict
}

func (j *judge) wrong(reasons ...string)   { j.wrongs = append(j.wrongs, reasons) }
func (j *judge) unclear(reasons ...string) { j.doubts = append(j.doubts, reasons) }
func (j *judge) note(format string, args ...any) {
	j.notes = append(j.notes, fmt.Sprintf(format, args...))
}

// nothing says that nothing was put to the test; the first word counts.
func (j *judge) nothing(format string, args ...any) {
	if j.vacuous == "" {
		j.vacuous = fmt.Sprintf(format, args...)
		j.unclear("nothing was put to the test: " + j.vacuous)
	}
}

func (j *judge) verdict() Verdict {
	switch {
	case total(j.wrongs) > 0:
		return False
	case total(j.doubts) > 0:
		return Unknown
	}
	return True
}

const reasonsMax = 12 // a reader looks at no more

// reasons returns some of every rule's.
func (j *judge) reasons() []string {
	rules := append(j.wrongs[:len(j.wrongs):len(j.wrongs)], j.doubts...)
	all, taken := total(rules), make([]int, len(rules))
	for left := min(all, reasonsMax); left > 0; {
		for i, rule := range rules {
			if left > 0 && taken[i] < len(rule) {
				taken[i]++
				left--
			}
		}
	}
	var some []string
	for i, rule := range rules {
		some = append(some, rule[:taken[i]]...)
	}
	if all > reasonsMax {
		some = append(some, fmt.Sprintf("… and %d more", all-reasonsMax))
	}
	return some
}

func total(rules [][]string) (n int) {
	for _, rule := range rules {
		n += len(rule)
	}
	return n
}

func (j *judge) edn(exposed edn.Map) edn.Map {
	m := edn.Map{}.With("valid?", j.verdict().EDN()).With("reasons", vector(j.reasons()))
	if j.vacuous == "" {
		m = m.With("vacuous", nil)
	} else {
		m = m.With("vacuous", j.vacuous)
	}
	return m.With("exposure", exposed).With("notes", vector(j.notes))
}

func vector[T any](all []T) edn.Vector {
	v := edn.Vector{}
	for _, one := range all {
		v = append(v, one)
	}
	return v
}

func seconds(d time.Duration) string {
	return strconv.FormatFloat(float64(d.Round(time.Millisecond).Milliseconds())/1000, 'f', -1, 64) + " s"
}

const (
	quotedBytesMax = 80 // of what a node said, in a reason
	listedMax      = 5  // values in a reason
)

// cut shortens what a node said for a reason.
func cut[T ~string | ~[]byte](said T) string {
	if len(said) <= quotedBytesMax {
		return string(said)
	}
	return strings.ToValidUTF8(string(said[:quotedBytesMax]), "") + "…"
}

// list returns "a, b and c", or "a, b, c, d, e and 7 more".
func list(all []string) string {
	if len(all) > listedMax+1 {
		all = append(all[:listedMax:listedMax], fmt.Sprintf("%d more", len(all)-listedMax))
	}
	last := len(all) - 1
	if last < 1 {
		return strings.Join(all, "")
	}
	return strings.Join(all[:last], ", ") + " and " + all[last]
}
