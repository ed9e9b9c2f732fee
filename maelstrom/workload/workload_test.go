package workload

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"dongne/maelstrom/network"

	"github.com/google/go-cmp/cmp"
)

func names(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("n%d", i))
	}
	return all
}

func TestTopologies(t *testing.T) {
	for _, c := range []struct {
		name string
		n    int
		want string // neighbours of each node, by number
	}{
		{"line", 1, "map[]"},
		{"line", 3, "map[n0:[n1] n1:[n0 n2] n2:[n1]]"},
		{"grid", 1, "map[n0:[]]"},
		{"grid", 5, "map[n0:[n3 n1] n1:[n4 n2 n0] n2:[n1] n3:[n0 n4] n4:[n1 n3]]"},
		{"grid", 9, "map[n0:[n3 n1] n1:[n4 n2 n0] n2:[n5 n1] n3:[n6 n0 n4] n4:[n7 n1 n5 n3] n5:[n8 n2 n4] n6:[n3 n7] n7:[n4 n8 n6] n8:[n5 n7]]"},
		{"tree", 4, "map[n0:[n1 n2] n1:[n0 n3] n2:[n0] n3:[n1]]"},
		{"tree2", 4, "map[n0:[n1 n2] n1:[n0 n3] n2:[n0] n3:[n1]]"},
		{"tree3", 5, "map[n0:[n1 n2 n3] n1:[n0 n4] n2:[n0] n3:[n0] n4:[n1]]"},
		{"tree4", 6, "map[n0:[n1 n2 n3 n4] n1:[n0 n5] n2:[n0] n3:[n0] n4:[n0] n5:[n1]]"},
		{"total", 3, "map[n0:[n1 n2] n1:[n0 n2] n2:[n0 n1]]"},
	} {
		got, err := Topology(c.name, names(c.n))
		if fmt.Sprint(got) != c.want || err != nil {
			t.Errorf("Topology(%s, %d) = %v, %v, want %s", c.name, c.n, got, err, c.want)
		}
	}
	if _, err := Topology("ring", names(3)); err == nil || !strings.Contains(err.Error(), "line, grid") {
		t.Errorf("Topology(ring) fails with %v", err)
	}
}

// Whoever is a neighbour has one; and everybody is connected.
func TestTopologiesConnect(t *testing.T) {
	for _, name := range Topologies() {
		for n := 2; n <= 30; n++ {
			top, err := Topology(name, names(n))
			if err != nil {
				t.Fatal(err)
			}
			reached, todo := map[string]bool{"n0": true}, []string{"n0"}
			for ; len(todo) > 0; todo = todo[1:] {
				for _, near := range top[todo[0]] {
					if !strings.Contains(fmt.Sprint(top[near], " "), todo[0]) {
						t.Errorf("%s, %d: %s is a neighbour of %s, not the other way round", name, n, near, todo[0])
					}
					if !reached[near] {
						reached[near] = true
						todo = append(todo, near)
					}
				}
			}
			if len(reached) != n {
				t.Errorf("%s, %d: n0 reaches %d nodes", name, n, len(reached))
			}
		}
	}
}

func TestWorkloads(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, c := range []struct {
		name, request, setup, final string
	}{
		{"echo", `{"echo":"Please echo N","type":"echo"}`, "null", ""},
		{"unique-ids", `{"type":"generate"}`, "null", ""},
		{"broadcast", `{"message":N,"type":"broadcast"}`, `{"topology":{"n0":["n1"]},"type":"topology"}`, "read"},
		{"g-counter", `{"delta":N,"type":"add"}`, "null", "read"},
		{"pn-counter", `{"delta":N,"type":"add"}`, "null", "read"},
	} {
		w, err := New(c.name, map[string][]string{"n0": {"n1"}})
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := json.Marshal(w.Setup("n0")); string(b) != c.setup {
			t.Errorf("%s: Setup = %s, want %s", c.name, b, c.setup)
		}
		if inv, ok := w.Final(); inv.F != c.final || ok != (c.final != "") {
			t.Errorf("%s: Final = %v, %v", c.name, inv, ok)
		}
		kinds, values := map[string]int{}, map[string]bool{}
		for range 1000 {
			inv := w.Next(r)
			kinds[inv.F]++
			b, err := json.Marshal(w.Request(inv))
			if err != nil {
				t.Fatal(err)
			}
			shown := strings.Map(func(c rune) rune {
				if '0' <= c && c <= '9' || c == '-' {
					return -1
				}
				return c
			}, string(b))
			if want := strings.Replace(c.request, "N", "", 1); shown != want && string(b) != `{"type":"read"}` {
				t.Errorf("%s: Request = %s, want like %s", c.name, b, c.request)
			}
			if c.name == "broadcast" && inv.F == "broadcast" && values[string(inv.Value)] {
				t.Errorf("%s is broadcast twice", inv.Value)
			}
			values[string(inv.Value)] = true
		}
		if c.name == "broadcast" && (kinds["read"] < 400 || kinds["broadcast"] < 400) {
			t.Errorf("operations %v, want as many of both", kinds)
		}
	}
	if _, err := New("kafka", nil); err == nil || !strings.Contains(err.Error(), "broadcast, echo, g-counter, pn-counter, unique-ids") {
		t.Errorf("New(kafka) fails with %v", err)
	}
}

// The operations of counters are as frequent, and their deltas as large, as upstream's: a g-counter draws anew what it
// cannot have.
func TestCounterOperations(t *testing.T) {
	for name, want := range map[string]struct {
		adds float64 // of all operations
		low  int
	}{"g-counter": {1. / 3, 0}, "pn-counter": {1. / 2, -5}} {
		w, err := New(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		const all = 30_000
		r, deltas, adds := rand.New(rand.NewPCG(1, 2)), map[string]int{}, 0
		for range all {
			if inv := w.Next(r); inv.F == "add" {
				adds++
				deltas[string(inv.Value)]++
			} else if inv.F != "read" || inv.Value != nil {
				t.Fatalf("%s: %+v", name, inv)
			}
		}
		if got := float64(adds) / all; got < want.adds-0.02 || got > want.adds+0.02 {
			t.Errorf("%s: %.3f of the operations are adds, want %.3f", name, got, want.adds)
		}
		even := adds / (5 - want.low)
		for delta := want.low; delta < 5; delta++ {
			if count := deltas[fmt.Sprint(delta)]; count < even*8/10 || count > even*12/10 {
				t.Errorf("%s: %d adds of %d, want about %d", name, count, delta, even)
			}
		}
		if len(deltas) != 5-want.low {
			t.Errorf("%s: deltas %v, want %d to 4", name, deltas, want.low)
		}
		if w.Idempotent("read") || w.Reusable() || w.Refusable() {
			t.Errorf("%s: to upstream's clients every error is one of which nobody knows", name)
		}
	}
}

func TestShapes(t *testing.T) {
	inv := Invocation{"f", json.RawMessage("7")}
	for _, c := range []struct {
		shape      Shape
		body, want string // or the error
	}{
		{Shape{Type: "f_ok"}, `{"type":"f_ok","in_reply_to":1,"msg_id":2}`, "7"},
		{Shape{Type: "f_ok", Member: "m"}, `{"type":"f_ok","in_reply_to":1,"m":null}`, "null"},
		{Shape{Type: "f_ok", Member: "m", Array: true}, `{"type":"f_ok","in_reply_to":1,"m":[3]}`, "[3]"},
		{Shape{Type: "f_ok", Member: "m", Whole: true}, `{"type":"f_ok","m":3}`, `{"type":"f_ok","m":3}`},
		{Shape{Type: "f_ok", Member: "m", Integer: true}, `{"type":"f_ok","m":-30}`, `-30`},
		{Shape{Type: "f_ok", Member: "m", Integer: true}, `{"type":"f_ok","m":3e1}`, `"m" of f_ok must be an integer, not 3e1`},
		{Shape{Type: "f_ok", Member: "m", Integer: true}, `{"type":"f_ok","m":"3"}`, `"m" of f_ok must be an integer, not "3"`},
		{Shape{Type: "f_ok", Member: "m", Integer: true}, `{"type":"f_ok","m":null}`, `"m" of f_ok must be an integer, not null`},
		{Shape{Type: "f_ok"}, `{"type":"g_ok"}`, `the reply to f has type "g_ok", it should be "f_ok"`},
		{Shape{Type: "f_ok"}, `{"type":"f_ok","m":1}`, `f_ok has a member "m" that the protocol does not know`},
		{Shape{Type: "f_ok", Member: "m"}, `{"type":"f_ok"}`, `f_ok has no member "m"`},
		{Shape{Type: "f_ok", Member: "m", Array: true}, `{"type":"f_ok","m":"[3]"}`, `"m" of f_ok must be an array, not "[3]"`},
	} {
		head, members, err := network.ParseBody(json.RawMessage(c.body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.shape.Read(inv, head, json.RawMessage(c.body), members)
		if err != nil {
			got = json.RawMessage(err.Error())
		}
		if diff := cmp.Diff(c.want, string(got)); diff != "" {
			t.Errorf("Read(%s) mismatch (-want +got):\n%s", c.body, diff)
		}
	}
}
