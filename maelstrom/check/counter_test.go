package check

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"

	"pgregory.net/rapid"
)

// What upstream's checker says; the first are those of its own tests (test/maelstrom/workload/pn_counter_test.clj).
func TestUpstreamCounter(t *testing.T) {
	const wrong = `[{:index 7, :time 41000000, :type :ok, :process 0, :f :read, :value %d, :final? true, :node "n1"}]`
	for _, c := range []struct {
		name, text string
		want       Verdict
		fields     map[string]string
	}{
		{"empty", "wait 1", True, map[string]string{"acceptable": "[[0 0]]", "errors": "nil", "final-reads": "[]"}},
		{"definite", "n1 add 2\nn1 add 3\nfinal\nn1 read 5\nn1 read 4", False,
			map[string]string{"acceptable": "[[5 5]]", "final-reads": "[5 4]", "errors": fmt.Sprintf(wrong, 4)}},
		{"indefinite", "n1 add 10\nn1 info add net-timeout 5\nn1 info add net-timeout -1\nn1 info add net-timeout -1\nfinal\nn1 read 11\nn1 read 15", False,
			map[string]string{"acceptable": "[[8 10] [13 15]]", "final-reads": "[11 15]"}},
		{"touching", "n1 add 1\nn1 info add net-timeout 1\nn1 info add net-timeout 2\nfinal\nn1 read 2", True, map[string]string{"acceptable": "[[1 4]]"}},
		{"not final", "n1 add 1\nn1 read 100\nfinal\nn1 read 1", True, map[string]string{"errors": "nil", "final-reads": "[1]"}},
		{"no final read", "n1 add 1\nn1 read 0", True, map[string]string{"errors": "nil", "final-reads": "[]"}},
		{"final read failed", "n1 add 1\nn1 read 1\nfinal\nn1 info read net-timeout", True, map[string]string{"final-reads": "[]"}},
		{"refused", "n1 add 1\nn1 info add abort 2\nfinal\nn1 read 3", True, map[string]string{"acceptable": "[[1 1] [3 3]]"}},
	} {
		for _, workload := range []string{"pn-counter", "g-counter"} {
			part := Check(script(workload, c.text), Options{}).Fields.Get("workload").(edn.Map)
			if got := text(part.Get("valid?")); got != text(c.want.EDN()) {
				t.Errorf("%s of %s: valid? %s, want %v", c.name, workload, got, c.want)
			}
			wantFields(t, part, c.fields)
		}
	}
}

// Each of our rules has a history that breaks it, and one that differs as little as possible and is right.
func TestCounterRules(t *testing.T) {
	fresh := Options{Fresh: true}
	for _, c := range []struct {
		name, workload string
		options        Options
		bad, reason    string
		want           Verdict
		good           string
	}{
		{"wrong sum", "g-counter", Options{}, "n1 add 2\nn2 add 3\nfinal\nn1 read 5\nn2 read 4",
			"n2's final read at 0.041 s shows 4, and the sum of what was acknowledged is 5", False, "n1 add 2\nn2 add 3\nfinal\nn1 read 5\nn2 read 5"},
		{"wrong sum, some unknown", "pn-counter", Options{}, "n1 add 2\nn1 info add net-timeout -4\nfinal\nn1 read -1",
			"shows -1, and the sum of what was acknowledged is 2 (with adds of which nobody knows whether they happened: -2 and 2)", False,
			"n1 add 2\nn1 info add net-timeout -4\nfinal\nn1 read -2"},
		{"refused, and added", "pn-counter", Options{}, "n1 add 2\nn1 info add abort 4\nfinal\nn1 read 6", "shows 6, and the sum", False,
			"n1 add 2\nn1 info add crash 4\nfinal\nn1 read 6"},
		{"disagreement", "g-counter", Options{}, "n1 add 2\nn1 info add net-timeout 4\nfinal\nn1 read 2\nn2 read 6",
			"n1 and n2 never agreed: the final read at 0.031 s shows 2, the one at 0.041 s 6", False,
			"n1 add 2\nn1 info add net-timeout 4\nfinal\nn1 read 6\nn2 read 6"},
		{"too much", "g-counter", Options{}, "n1 add 2\nn1 begin add 4\nn2 read 7\nn1 end add 4\nfinal\nn1 read 6\nn2 read 6",
			"n2's read at 0.021 s shows 7, and what was added by then makes at least 0 and at most 6", False,
			"n1 add 2\nn1 begin add 4\nn2 read 6\nn1 end add 4\nfinal\nn1 read 6\nn2 read 6"},
		{"too early", "g-counter", Options{}, "n1 add 2\nn2 read 6\nn1 add 4\nfinal\nn1 read 6\nn2 read 6", "shows 6, and what was added by then", False,
			"n1 add 2\nn2 begin read\nn1 add 4\nn2 end read 6\nfinal\nn1 read 6\nn2 read 6"},
		{"too little", "pn-counter", Options{}, "n1 add 3\nn1 add -2\nn2 read -3\nfinal\nn1 read 1\nn2 read 1",
			"shows -3, and what was added by then makes at least -2 and at most 3", False, "n1 add 3\nn1 add -2\nn2 read -2\nfinal\nn1 read 1\nn2 read 1"},
		{"backwards", "g-counter", Options{}, "n1 add 3\nn2 read 3\nn2 read 0\nfinal\nn1 read 3\nn2 read 3",
			"the counter went back from 3 to 0: n2's reads at 0.011 s and at 0.021 s, both by process 1", False,
			"n1 add 3\nn2 read 3\nn3 read 0\nfinal\nn1 read 3\nn2 read 3\nn3 read 3"},
		{"stale", "g-counter", fresh, "n1 add 1\nn1 add 3\nwait 100\nn2 read 1\nfinal\nn1 read 4\nn2 read 4",
			"n2's read at 0.131 s shows 1, as if the add of 3 were missing that was acknowledged by n1 at 0.011 s, 0.119 s before", False,
			"n1 add 1\nn1 add 3\nwait 100\nn2 read 4\nfinal\nn1 read 4\nn2 read 4"},
		{"staler than allowed", "pn-counter", Options{Fresh: true, Staleness: 100 * time.Millisecond},
			"n1 add -3\nwait 100\nn2 read 0\nfinal\nn1 read -3\nn2 read -3", "0.119 s before", False,
			"n1 add -3\nwait 80\nn2 read 0\nfinal\nn1 read -3\nn2 read -3"},
		{"final read timed out", "g-counter", Options{}, "n1 add 1\nfinal\nn1 read 1\nn3 info read net-timeout",
			"what n3 has at the end is not known: its final read timed out", Unknown, "n1 add 1\nfinal\nn1 read 1\nn3 read 1"},
		{"no final read", "g-counter", Options{}, "n1 add 1\nn1 read 1", "there was no final read", Unknown, "n1 add 1\nfinal\nn1 read 1"},
		{"no final read is ok", "pn-counter", Options{}, "n1 add 1\nn1 read 1\nfinal\nn1 info read net-timeout", "its final read timed out", Unknown,
			"n1 add 1\nn1 read 1\nfinal\nn1 read 1"},
		{"nothing acknowledged", "g-counter", Options{NemesisAsked: true}, partition + "\nn1 info add net-timeout 1\nfinal\nn1 read 0",
			"no add was acknowledged", Unknown, partition + "\nn1 add 1\nfinal\nn1 read 1"},
		{"nothing added", "g-counter", Options{}, "n1 add 0\nfinal\nn1 read 0", "nothing but 0 was added", Unknown, "n1 add 0\nn1 add 1\nfinal\nn1 read 1"},
		{"no sum", "g-counter", Options{}, "n1 add 1\nn1 read \"1\"\nfinal\nn1 read 1", `n1's read at 0.011 s shows no sum: "1"`, False,
			"n1 add 1\nn1 read 1\nfinal\nn1 read 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantVerdict(t, script(c.workload, c.bad), c.options, c.want, c.reason)
			wantVerdict(t, script(c.workload, c.good), c.options, True, "")
		})
	}
	stale := wantVerdict(t, script("g-counter", "n1 add 1\nwait 100\nn2 read 0\nn2 read 1\nfinal\nn1 read 1\nn2 read 1"), Options{}, True, "")
	wantNote(t, stale, "1 of 4 reads were stale, which is no error here; n2's at 0.121 s the most, by 0.119 s")
	wantFields(t, stale.Fields.Get("workload"), map[string]string{"read-count": "4", "stale-count": "1", "worst-stale-ms": "119"})
	backwards := wantVerdict(t, script("pn-counter", "n1 add 3\nn2 read 3\nn2 read 0\nfinal\nn1 read 3\nn2 read 3"), Options{}, True, "")
	wantNote(t, backwards, "1 of 4 reads were stale")
}

// What is accepted does not depend on how the intervals are kept: it is each sum of some of the deltas.
func TestIntervals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := intervals{{0, 0}}
		sums := map[int64]bool{0: true}
		for _, delta := range rapid.SliceOfN(rapid.Int64Range(-30, 30), 0, 8).Draw(t, "deltas") {
			v = v.orShifted(delta)
			more := map[int64]bool{}
			for sum := range sums {
				more[sum], more[sum+delta] = true, true
			}
			sums = more
		}
		for n := int64(-300); n <= 300; n++ {
			if v.has(n) != sums[n] {
				t.Fatalf("has(%d) = %v of %v, want %v", n, v.has(n), v, sums[n])
			}
		}
	})
	many := intervals{{0, 0}}
	for i := range 20 {
		many = many.orShifted(1 << (2 * i))
	}
	if len(many) > intervalsMax || !many.has(1<<38) {
		t.Errorf("%d intervals, want at most %d; has 2^38: %v", len(many), intervalsMax, many.has(1<<38))
	}
}

// A counter that is linearizable is right by every rule, whatever its clients see of it; and one read too low or too high
// is found where it is out of the bounds.
func TestPerfectCounters(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		grows := seed%2 == 0
		run := perfectCounter(r, grows)
		if results := Check(run, Options{Fresh: true}); results.Ours != True || results.Upstream != True {
			t.Fatalf("seed %d: ours %v, upstream's %v: %q", seed, results.Ours, results.Upstream, results.Reasons)
		}
		i := slices.IndexFunc(run.Ops, func(op history.Op) bool { return op.F == "read" && op.Type == history.OK && op.Final })
		run.Ops[i].Value = fmt.Append(nil, number(run.Ops[i].Value)+1000)
		if results := Check(run, Options{}); results.Ours != False || results.Upstream != False {
			t.Fatalf("seed %d, one final read raised: ours %v, upstream's %v", seed, results.Ours, results.Upstream)
		}
	}
}

// perfectCounter returns a run of three clients with a counter that is one variable. Some answers get lost, some adds too.
func perfectCounter(r *rand.Rand, grows bool) *history.Run {
	run := &history.Run{Workload: "pn-counter", Nodes: []string{"n0", "n1", "n2"}}
	if grows {
		run.Workload = "g-counter"
	}
	sum := int64(0)
	record := func(op history.Op, t history.Type) {
		op.Index, op.Type, op.Time = len(run.Ops), t, time.Duration(len(run.Ops))*time.Millisecond
		run.Ops = append(run.Ops, op)
		run.Elapsed = op.Time
	}
	type client struct {
		op   history.Op
		step int // 0: idle, 1: invoked, 2: carried out
	}
	clients := []*client{{}, {}, {}}
	advance := func(i int, final bool) {
		c := clients[i]
		switch c.step++; c.step {
		case 1:
			c.op = history.Op{Process: i, F: "read", Node: run.Nodes[i], Final: final}
			if !final && r.IntN(2) == 0 {
				delta := r.IntN(10) - 5
				if grows {
					delta = 1 + r.IntN(4)
				}
				c.op.F, c.op.Value = "add", json.RawMessage(strconv.Itoa(delta))
			}
			record(c.op, history.Invoke)
		case 2:
			if c.op.F == "read" {
				c.op.Value = fmt.Append(nil, sum)
				return
			}
			if lost := r.IntN(10); lost == 0 && !final {
				record(c.op, history.Info)
				c.step = 0
				return
			}
			sum += number(c.op.Value)
		case 3:
			c.step = 0
			record(c.op, history.OK)
		}
	}
	record(history.Op{Process: 0, F: "add", Value: json.RawMessage("7"), Node: "n0"}, history.Invoke)
	sum += 7
	record(history.Op{Process: 0, F: "add", Value: json.RawMessage("7"), Node: "n0"}, history.OK)
	for range 150 {
		advance(r.IntN(3), false)
	}
	for i, c := range clients {
		for c.step > 0 {
			advance(i, true)
		}
	}
	for i, c := range clients {
		for advance(i, true); c.step > 0; advance(i, true) {
		}
	}
	return run
}
