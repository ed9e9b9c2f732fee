package check

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/maelstrom/history"
)

// script returns a run from lines, each of which takes 10 ms:
//
//	n1 broadcast 7             invoked, and ok 1 ms later; n1/2 is another client of n1
//	n1 read [7]                the value is that of the answer
//	n1 begin read              an invocation ...
//	n1 end read [7]            ... and its completion
//	n1 fail read net-timeout   invoked and failed, with this error; so info
//	nemesis kill ["killed",["n1"]]   begun, and done
//	final                      all that follows is of the last phase
//	wait 300                   for so many milliseconds
//
// The nodes are those that the script names, and those given.
func script(workload, text string, nodes ...string) *history.Run {
	s := scripted{run: &history.Run{Workload: workload, Nodes: nodes}, processes: map[string]int{}}
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		s.line(strings.TrimSpace(line))
		s.now += 10 * time.Millisecond
	}
	s.run.Elapsed = s.now
	slices.Sort(s.run.Nodes)
	return s.run
}

type scripted struct {
	run       *history.Run
	now       time.Duration
	processes map[string]int
	final     bool
}

func (s *scripted) line(line string) {
	words := strings.SplitN(line, " ", 4)
	for len(words) < 4 {
		words = append(words, "")
	}
	who, what, f, value := words[0], words[1], words[2], words[3]
	switch {
	case who == "final":
		s.final = true
		return
	case who == "wait":
		var ms int
		fmt.Sscan(what, &ms)
		s.now += time.Duration(ms) * time.Millisecond
		return
	}
	switch what {
	case "begin":
		s.op(who, history.Invoke, f, value, "")
	case "end":
		s.op(who, history.OK, f, value, "")
	case "fail":
		s.op(who, history.Invoke, f, sent(f, "0"), "")
		s.op(who, history.Fail, f, sent(f, "0"), value)
	case "info":
		name, value, _ := strings.Cut(value, " ")
		s.op(who, history.Invoke, f, value, "")
		s.op(who, history.Info, f, value, name)
	default:
		f, value = what, strings.TrimSpace(f+" "+value)
		s.op(who, history.Invoke, f, sent(f, value), "")
		s.op(who, history.OK, f, value, "")
	}
}

// sent is what an operation was asked with, whose answer is the value.
func sent(f, value string) string {
	if f == "broadcast" || f == "echo" || f == "add" {
		return value
	}
	return ""
}

func (s *scripted) op(who string, t history.Type, f, value, problem string) {
	op := history.Op{Index: len(s.run.Ops), Time: s.now, Type: t, Process: history.Nemesis, F: f, Final: s.final}
	if t != history.Invoke {
		op.Time += time.Millisecond
	}
	if value != "" {
		op.Value = json.RawMessage(value)
	}
	if problem != "" {
		op.Error = history.Error{Name: problem}
	}
	if who == "nemesis" {
		op.Type, op.Final = history.Info, false
	} else {
		if _, known := s.processes[who]; !known {
			s.processes[who] = len(s.processes)
		}
		op.Process = s.processes[who]
		op.Node, _, _ = strings.Cut(who, "/")
		if !slices.Contains(s.run.Nodes, op.Node) {
			s.run.Nodes = append(s.run.Nodes, op.Node)
		}
	}
	s.run.Ops = append(s.run.Ops, op)
}

// wantVerdict fails unless Check has our verdict, and a reason with these words; it must not give any if all is well.
func wantVerdict(t *testing.T, run *history.Run, o Options, want Verdict, words string) Results {
	t.Helper()
	r := Check(run, o)
	if r.Ours != want || r.Valid != want {
		t.Errorf("Check is %v, ours %v, want %v: %q", r.Valid, r.Ours, want, r.Reasons)
	}
	if want == True && (len(r.Reasons) > 0 || r.Vacuous != "") {
		t.Errorf("Check is true, and says %q, vacuous %q", r.Reasons, r.Vacuous)
	}
	if want != True && !slices.ContainsFunc(r.Reasons, func(reason string) bool { return strings.Contains(reason, words) }) {
		t.Errorf("nothing about %q in %q", words, r.Reasons)
	}
	return r
}
