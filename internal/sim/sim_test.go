package sim

import (
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The same flags as gossipsim's, so that one command line fits both packages.
var (
	seedFlag  = flag.Uint64("seed", 1, "the first seed of TestPartitions")
	seedsFlag = flag.Uint64("seeds", 20, "how many seeds TestPartitions takes, at most 1000")
)

func TestOrder(t *testing.T) {
	w := New(1, nil)
	var got []string
	note := func(s string) func() { return func() { got = append(got, fmt.Sprint(w.Now(), s)) } }
	w.At(2, note("c"))
	w.At(1, note("a"))
	w.At(2, func() { note("d")(); w.At(0, note("late")); w.After(1, note("f")) })
	w.At(1, note("b"))
	w.At(9, note("never"))
	w.Run(5)
	if diff := cmp.Diff([]string{"1nsa", "1nsb", "2nsc", "2nsd", "2nslate", "3nsf"}, got); diff != "" {
		t.Errorf("order mismatch (-want +got):\n%s", diff)
	}
	if w.Now() != 5 {
		t.Errorf("Now() = %v after Run(5)", w.Now())
	}
}

func TestStreams(t *testing.T) {
	draw := func(seed uint64, label string) uint64 { return New(seed, nil).Rand(label).Uint64() }
	if first, again := draw(1, "a"), draw(1, "a"); first != again {
		t.Errorf("a stream begins with %d, then with %d", first, again)
	}
	if draw(1, "a") == draw(1, "b") || draw(1, "a") == draw(2, "a") {
		t.Error("two labels or two seeds share a stream")
	}
}

func TestHashSeesEverything(t *testing.T) {
	hash := func(at time.Duration, what, who, whom, content string) uint64 {
		w := New(1, nil)
		w.Run(at)
		w.Note(what, who, whom, []byte(content))
		return w.Hash()
	}
	base := hash(1, "send", "a", "b", "x")
	if base != hash(1, "send", "a", "b", "x") {
		t.Error("equal notes have different hashes")
	}
	for _, other := range []uint64{hash(2, "send", "a", "b", "x"), hash(1, "drop", "a", "b", "x"), hash(1, "send", "b", "a", "x"),
		hash(1, "send", "ab", "", "x"), hash(1, "send", "a", "b", "y"), New(1, nil).Hash()} {
		if other == base {
			t.Error("different notes have equal hashes")
		}
	}
}

// blocks returns how many ordered pairs are cut, and whether all are in both directions.
func blocks(c Cut) (pairs int, symmetric bool) {
	symmetric = true
	for to, froms := range c {
		pairs += len(froms)
		for _, from := range froms {
			symmetric = symmetric && from != to && slices.Contains(c[from], to)
		}
	}
	return pairs, symmetric
}

func TestPartitions(t *testing.T) {
	for seed := *seedFlag; seed < *seedFlag+min(*seedsFlag, 1000); seed++ {
		r := rand.New(rand.NewPCG(seed, 0))
		for n := 1; n <= 25; n++ {
			var nodes []string
			for i := range n {
				nodes = append(nodes, fmt.Sprintf("n%d", i))
			}
			for name, c := range map[string]struct {
				cut  Cut
				side int // nodes on the smaller side
			}{
				"one":            {CutOne(r, nodes), 1},
				"minority-third": {CutMinorityThird(r, nodes), (n - 1) / 3},
				"majority":       {CutMajority(r, nodes), n / 2},
			} {
				if pairs, symmetric := blocks(c.cut); pairs != 2*c.side*(n-c.side) || !symmetric {
					t.Fatalf("%s of %d, seed %d: %d pairs cut, symmetric %v: %v", name, n, seed, pairs, symmetric, c.cut)
				}
			}
			if n >= 2 {
				if pairs, _ := blocks(CutOneWay(r, nodes)); pairs != 1 {
					t.Fatalf("one-way of %d cuts %d pairs", n, pairs)
				}
			}
			checkRing(t, CutMajoritiesRing(r, nodes), n)
		}
	}
}

// In a majorities ring everybody hears a majority, itself included: exactly one in small rings.
func checkRing(t *testing.T, c Cut, n int) {
	t.Helper()
	pairs, symmetric := blocks(c)
	if n <= 5 && pairs != n*(n-n/2-1) || symmetric != (n != 3) {
		t.Fatalf("ring of %d: %d pairs cut, symmetric %v: %v", n, pairs, symmetric, c)
	}
	for node, deaf := range c {
		if len(deaf) > n-n/2-1 {
			t.Fatalf("ring of %d: %s hears only %d", n, node, n-len(deaf))
		}
	}
}

// town is a Target that writes down what happens to it.
type town struct{ got []string }

func (x *town) Kill(node string, s State) {
	x.got = append(x.got, fmt.Sprintf("kill %s %v", node, stateNames[s]))
}
func (x *town) Start(node string)  { x.got = append(x.got, "start "+node) }
func (x *town) Pause(node string)  { x.got = append(x.got, "pause "+node) }
func (x *town) Resume(node string) { x.got = append(x.got, "resume "+node) }
func (x *town) Disk(node string, d time.Duration, full bool) {
	x.got = append(x.got, fmt.Sprintf("disk %s %v %v", node, d, full))
}

func TestInject(t *testing.T) {
	w := New(1, nil)
	x := &town{}
	Inject(w, NewNetwork(w, Constant(0)), x, []Fault{
		{At: 1, For: 3, Kind: Kill, Nodes: []string{"a", "b"}, State: RolledBack},
		{At: 2, For: 4, Kind: Pause, Nodes: []string{"c"}},
		{At: 3, For: 4, Kind: SlowDisk, Nodes: []string{"c"}, Delay: 5},
		{At: 8, For: 1, Kind: FullDisk, Nodes: []string{"c"}},
	})
	w.Run(9)
	if diff := cmp.Diff([]string{"kill a rolled back", "kill b rolled back", "pause c", "disk c 5ns false", "start a", "start b",
		"resume c", "disk c 0s false", "disk c 0s true", "disk c 0s false"}, x.got); diff != "" {
		t.Errorf("faults mismatch (-want +got):\n%s", diff)
	}
}

// traffic sends a message from a to b every millisecond for a second and returns when they came.
func traffic(faults ...Fault) []time.Duration {
	w := New(1, nil)
	n := NewNetwork(w, Constant(10*time.Millisecond))
	var came []time.Duration
	n.Listen("b", func(string, []byte) { came = append(came, w.Now()) })
	for i := range 1000 {
		w.At(time.Duration(i)*time.Millisecond, func() { n.Send("a", "b", []byte{byte(i)}) })
	}
	Inject(w, n, &town{}, faults)
	w.Run(time.Minute)
	return came
}

func TestNetwork(t *testing.T) {
	during := func(f Fault) []time.Duration {
		f.At, f.For = 200*time.Millisecond, 500*time.Millisecond
		return traffic(f)
	}
	count := func(name string, got []time.Duration, low, high int) {
		t.Helper()
		if len(got) < low || len(got) > high {
			t.Errorf("%s: %d messages came, want %d to %d", name, len(got), low, high)
		}
	}
	count("no fault", traffic(), 1000, 1000)
	count("partition", during(Fault{Kind: Partition, Cut: Cut{"b": {"a"}}}), 500, 500)
	count("the other way", during(Fault{Kind: Partition, Cut: Cut{"a": {"b"}}}), 1000, 1000)
	count("loss of others", during(Fault{Kind: Loss, Probability: 1, Nodes: []string{"c"}}), 1000, 1000)
	count("loss", during(Fault{Kind: Loss, Probability: 0.5}), 700, 800)
	count("duplication", during(Fault{Kind: Duplication, Probability: 0.5}), 1200, 1300)
	partitioned := during(Fault{Kind: Partition, Cut: Cut{"b": {"a"}}})
	if i := slices.IndexFunc(partitioned, func(at time.Duration) bool { return at >= 200*time.Millisecond }); partitioned[i] != 700*time.Millisecond {
		t.Errorf("the first message after the cut came at %v: those under way at its end are delivered", partitioned[i])
	}
	if slow := during(Fault{Kind: Slowness, Probability: 1, Delay: time.Second}); slow[len(slow)-1] != 1710*time.Millisecond {
		t.Errorf("slowness: the last came at %v, want 1.71s", slow[len(slow)-1])
	}
	if late := during(Fault{Kind: Reordering, Probability: 0.5, Delay: time.Second}); len(late) != 1000 || late[999] < 1100*time.Millisecond {
		t.Errorf("reordering: %d came, the last at %v", len(late), late[len(late)-1])
	}
}

func TestLatencies(t *testing.T) {
	for name, l := range map[string]Latency{"constant": Constant(time.Second), "uniform": Uniform(time.Second), "exponential": Exponential(time.Second)} {
		r, sum, most := rand.New(rand.NewPCG(1, 1)), time.Duration(0), time.Duration(0)
		for range 10_000 {
			d := l(r)
			sum, most = sum+d, max(most, d)
		}
		if mean := sum / 10_000; mean < 950*time.Millisecond || mean > 1050*time.Millisecond {
			t.Errorf("%s: mean %v, want 1s", name, mean)
		}
		if want := map[string]bool{"constant": most == time.Second, "uniform": most < 2*time.Second && most > 1900*time.Millisecond,
			"exponential": most > 5*time.Second}[name]; !want {
			t.Errorf("%s: most %v", name, most)
		}
	}
}

func TestTrace(t *testing.T) {
	var b strings.Builder
	New(1, &b).Note("send", "a", "b", []byte("x"))
	if got := b.String(); !strings.Contains(got, "send") || !strings.Contains(got, "a b 1 ") {
		t.Errorf("trace %q", got)
	}
}

// TestPure: a simulator with a clock, a lock or luck of its own would not be one.
func TestPure(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 3 {
		t.Fatalf("sources %q, %v", files, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range file.Imports {
			if slices.Contains([]string{`"os"`, `"sync"`, `"net"`, `"context"`, `"runtime"`, `"crypto/rand"`, `"math/rand"`}, i.Path.Value) {
				t.Errorf("%s imports %s", name, i.Path.Value)
			}
		}
	}
}
