package simulate

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"dongne/internal/sim"
	"dongne/maelstrom/check"
	"dongne/maelstrom/history"
	"dongne/maelstrom/interpreter"
	"dongne/maelstrom/node"
	"dongne/maelstrom/service"
	"dongne/maelstrom/workload"

	"github.com/google/go-cmp/cmp"
)

// config is a run of five nodes, 10 ms from each other and with two clients each, that does some 200 operations in 10 s.
func config(t testing.TB, name string, spec node.Spec, seed uint64, kinds ...string) Config {
	t.Helper()
	nodes := []string{"n0", "n1", "n2", "n3", "n4"}
	topology, err := workload.Topology("grid", nodes)
	if err != nil {
		t.Fatal(err)
	}
	load, err := workload.New(name, topology)
	if err != nil {
		t.Fatal(err)
	}
	r := func(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }
	return Config{Seed: seed, Spec: spec, Nodes: nodes, Services: service.All(r(1), false), Latency: sim.Exponential(10 * time.Millisecond),
		Disk: 500 * time.Microsecond, Interpreter: interpreter.Config{Workload: load, Nodes: nodes, Concurrency: 10, Rate: 20,
			TimeLimit: 10 * time.Second, Timeout: 5 * time.Second, Recovery: 10 * time.Second, Kinds: kinds, Interval: 2 * time.Second,
			Rand: r(2), Faults: r(3)}}
}

// judge carries out a run and judges it.
func judge(t testing.TB, c Config, name string) (*history.Run, check.Results) {
	t.Helper()
	return judgeBy(t, c, name, check.Options{})
}

func judgeBy(t testing.TB, c Config, name string, o check.Options) (*history.Run, check.Results) {
	t.Helper()
	run, _, err := Run(c)
	if err != nil {
		t.Fatalf("seed %d: %v", c.Seed, err)
	}
	run.Workload, o.NemesisAsked = name, len(c.Interpreter.Kinds) > 0
	return run, check.Check(run, o)
}

// replay is the command that runs a seed again.
func replay(workload string, seed uint64, more string) string {
	return fmt.Sprintf("go run ./maelstrom sim -w %s --seed %d %s", workload, seed, more)
}

// seedsMax bounds what DONGNE_SEEDS wants: a seed takes 10 to 60 ms.
const seedsMax = 1000

func seeds() uint64 {
	if n, err := strconv.ParseUint(os.Getenv("DONGNE_SEEDS"), 10, 64); err == nil {
		return min(n, seedsMax)
	}
	switch {
	case testing.Short():
		return 5
	case raceEnabled: // it takes ten times as long, and one goroutine has no races
		return 10
	}
	return 50
}

// words of a reason, by the rule that finds a mutant; any of them will do.
var words = map[string][]string{
	"wrong-echo":    {" to echo "},
	"unanswered":    {"did not answer echo"},
	"failed":        {"did not answer echo"},
	"bad-reply":     {"that the protocol does not know"},
	"duplicate":     {" was given out ", " copies of "},
	"phantom":       {"which nobody had broadcast by then"},
	"lost":          {"'s final read at", " was lost: "},
	"missing-final": {"'s final read at", "never agreed on"},
	"wrong-sum":     {"'s final read at"},
	"impossible":    {"what was added by then makes"},
	"backwards":     {"the counter went back from"},
	"torn":          {" in all accounts, and there are "},
	"overdrawn":     {" overdrawn: it has "},
	"ended-twice":   {" was ended twice: by the "},
	"wrong-effect":  {"what was acknowledged makes "},
	"no-order":      {"no order of all operations explains"},
	"bad-line":      {"printed a line on stdout that is no message"},
	"bad-address":   {"in the name of", "which does not exist"},
	"exited":        {"ended by itself"},
}

// Each mutant is found, by the rule that is there for it; and its twin, which differs in nothing else, is right in the same
// runs.
func TestMutantsAreCaught(t *testing.T) {
	rules := map[string]bool{}
	for _, m := range node.Mutants() {
		rules[m.Rule] = true
		t.Run(m.Name, func(t *testing.T) {
			var kinds []string
			if m.Nemesis != "" {
				kinds = []string{m.Nemesis}
			}
			for seed := uint64(1); seed <= 40; seed++ {
				_, results := judge(t, config(t, m.Workload, m.Spec, seed, kinds...), m.Workload)
				caught := slices.ContainsFunc(results.Reasons, func(reason string) bool {
					return slices.ContainsFunc(words[m.Rule], func(w string) bool { return strings.Contains(reason, w) })
				})
				if _, twin := judge(t, config(t, m.Workload, m.Twin, seed, kinds...), m.Workload); twin.Ours == check.False {
					t.Fatalf("seed %d: its twin is wrong: %q", seed, twin.Reasons)
				}
				if results.Ours == check.False && caught {
					return
				}
			}
			t.Errorf("no seed found by rule %q that it %s", m.Rule, m.Wrong)
		})
	}
	for rule := range words {
		if !rules[rule] {
			t.Errorf("no mutant breaks the rule %q", rule)
		}
	}
}

// What upstream's checkers overlook, ours find; with Compat the verdict is upstream's.
func TestUpstreamOverlooks(t *testing.T) {
	for _, name := range []string{"broadcast-twice", "broadcast-phantom"} {
		i := slices.IndexFunc(node.Mutants(), func(m node.Mutant) bool { return m.Name == name })
		run, results := judge(t, config(t, "broadcast", node.Mutants()[i].Spec, 1), "broadcast")
		compat := check.Check(run, check.Options{Compat: true})
		if results.Valid != check.False || results.Upstream != check.True || compat.Valid != check.True || compat.Ours != check.False {
			t.Errorf("%s: ours %v, upstream %v; with Compat %v, ours %v", name, results.Valid, results.Upstream, compat.Valid, compat.Ours)
		}
	}
}

// promised is what counters promise beyond what everybody has to: no read lacks what was acknowledged a second before.
var promised = check.Options{Fresh: true, Staleness: time.Second}

// A counter that is told to show nothing old shows nothing old, over lin-kv too, and over upstream's seq-kv, which may go
// back in time; and one that is not does, though nothing that is older than it may be.
func TestCountersAreFresh(t *testing.T) {
	faults := []string{"partition", "kill", "pause", "loss", "stall"}
	for _, c := range []struct {
		workload string
		args     []string
		options  check.Options
		right    bool
		compat   bool // upstream's services
	}{
		{"g-counter", []string{"--staleness", "0s"}, check.Options{Fresh: true}, true, false},
		{"g-counter", []string{"--staleness", "0s"}, check.Options{Fresh: true}, true, true},
		{"pn-counter", []string{"--staleness", "0s", "--store", "lin-kv"}, check.Options{Fresh: true}, true, false},
		{"pn-counter", []string{"--store=lin-kv"}, promised, true, false},
		{"pn-counter", nil, promised, true, true},
		{"g-counter", nil, check.Options{Fresh: true}, false, false},
		{"g-counter", []string{"--staleness", "9s"}, promised, false, false},
	} {
		spec, _ := node.Find(c.workload)
		right := true
		for seed := uint64(1); seed <= 10; seed++ {
			run := config(t, c.workload, spec, seed, faults...)
			run.Args, run.Services = c.args, service.All(rand.New(rand.NewPCG(seed, 1)), c.compat)
			_, results := judgeBy(t, run, c.workload, c.options)
			right = right && results.Ours != check.False
			if results.Ours == check.False && c.right {
				t.Errorf("%s %q, seed %d: %q", c.workload, c.args, seed, results.Reasons)
			}
		}
		if right && !c.right {
			t.Errorf("%s %q: no read is older than %v", c.workload, c.args, c.options.Staleness)
		}
	}
}

// The programs that are right are right under every fault, alone and all together, and two runs of a seed are the same.
func TestSeeds(t *testing.T) {
	for _, spec := range node.Programs() {
		for _, kinds := range append([][]string{nil, Kinds()}, singles(Kinds())...) {
			if spec.Name == "echo" && kinds != nil {
				continue // a request that a fault loses is an error of echo
			}
			t.Run(spec.Name+" "+strings.Join(kinds, ","), func(t *testing.T) {
				t.Parallel()
				last := seeds()
				if len(kinds) == 1 {
					last = (last + 9) / 10 // alone they find less
				}
				for seed := uint64(1); seed <= last; seed++ {
					_, results := judgeBy(t, config(t, spec.Name, spec, seed, kinds...), spec.Name, promised)
					if results.Ours == check.False || results.Ours == check.Unknown && results.Vacuous == "" {
						t.Fatalf("%s\nreplay: %s", strings.Join(results.Reasons, "\n"), replay(spec.Name, seed, "--nemesis "+strings.Join(kinds, ",")))
					}
				}
			})
		}
	}
}

func singles(all []string) (lists [][]string) {
	for _, one := range all {
		lists = append(lists, []string{one})
	}
	return lists
}

func TestDeterministic(t *testing.T) {
	spec, _ := node.Find("broadcast")
	var runs [2]*history.Run
	var hashes [2]uint64
	for i := range runs {
		var err error
		if runs[i], hashes[i], err = Run(config(t, "broadcast", spec, 7, Kinds()...)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(runs[0], runs[1]); diff != "" || hashes[0] != hashes[1] {
		t.Errorf("two runs of a seed differ, traces %x and %x:\n%s", hashes[0], hashes[1], diff)
	}
}

// The faults happen: each kind leaves its mark on a run.
func TestFaultsTakeEffect(t *testing.T) {
	spec, _ := node.Find("broadcast")
	calm, _ := judge(t, config(t, "broadcast", spec, 3), "broadcast")
	if calm.Journal.Dropped != 0 || calm.Journal.Servers.Sent != calm.Journal.Servers.Received {
		t.Errorf("without faults: %+v, %d dropped", calm.Journal.Servers, calm.Journal.Dropped)
	}
	for _, kind := range Kinds() {
		workload, calm, spec := "broadcast", calm, spec
		if kind == "stall" || kind == "lost-reply" { // it takes a program that asks a service
			workload = "g-counter"
			spec, _ = node.Find(workload)
			calm, _ = judge(t, config(t, workload, spec, 3), workload)
		}
		run, _ := judge(t, config(t, workload, spec, 3, kind), workload)
		if len(run.Faults()) == 0 {
			t.Errorf("%s: no fault", kind)
		}
		lost, more, late := run.Journal.Dropped, run.Journal.Servers.Received-run.Journal.Servers.Sent, longest(run.Journal.Events)
		switch kind {
		case "partition", "one-way", "loss", "lost-reply":
			if lost == 0 {
				t.Errorf("%s dropped nothing", kind)
			}
		case "duplicate":
			if more <= 0 {
				t.Errorf("%d sent, %d received, though some are doubled", run.Journal.Servers.Sent, run.Journal.Servers.Received)
			}
		case "kill":
			if failed := count(run.Ops, history.Fail) + count(run.Ops, history.Info); failed == 0 {
				t.Errorf("%s: every operation is ok", kind)
			}
		case "slow", "reorder":
			if calm := longest(calm.Journal.Events); late < 2*calm {
				t.Errorf("%s: the slowest message took %v, without it %v", kind, late, calm)
			}
		case "pause", "slow-disk", "stall":
			if a, b := slowest(calm.Ops), slowest(run.Ops); b < a+5*time.Millisecond {
				t.Errorf("%s: the slowest operation took %v, without it %v", kind, b, a)
			}
		}
	}
}

func count(ops []history.Op, want history.Type) (n int) {
	for _, op := range ops {
		if op.Process != history.Nemesis && op.Type == want {
			n++
		}
	}
	return n
}

// longest is how long a message was under way, at worst.
func longest(events []history.Event) (worst time.Duration) {
	sent := map[int64]time.Duration{}
	for _, e := range events {
		if e.Received {
			worst = max(worst, e.Time-sent[e.ID])
		}
		sent[e.ID] = e.Time
	}
	return worst
}

// slowest is how long a client waited, at worst.
func slowest(ops []history.Op) (worst time.Duration) {
	for i, other := range history.Completions(ops) {
		if other > i && ops[i].Process != history.Nemesis {
			worst = max(worst, ops[other].Time-ops[i].Time)
		}
	}
	return worst
}

// A node that asks a service is answered, over the network.
func TestServices(t *testing.T) {
	c := config(t, "echo", asker(), 1)
	run, results := judge(t, c, "echo")
	if results.Ours != check.True || run.Journal.Servers.Sent < 2*count(run.Ops, history.OK) {
		t.Errorf("%v: %v; %+v", results.Ours, results.Reasons, run.Journal.Servers)
	}
}

// BenchmarkSeeds reports simulated seconds a second, on one core.
func BenchmarkSeeds(b *testing.B) {
	spec, _ := node.Find("broadcast")
	var simulated time.Duration
	seed := uint64(0)
	for b.Loop() {
		seed++
		run, _ := judge(b, config(b, "broadcast", spec, seed, "partition", "kill", "loss"), "broadcast")
		simulated += run.Elapsed
	}
	b.ReportMetric(simulated.Seconds()/b.Elapsed().Seconds(), "simulated_s/s")
	b.ReportMetric(float64(b.N)/b.Elapsed().Minutes(), "seeds/min")
}
