package services

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var allKinds = []string{partition, kill, pause, delay}

// TestPlan: kinds begin and end in turn, on known nodes, in time; every choice is drawn now and then.
func TestPlan(t *testing.T) {
	nodes := []string{"n1", "n2", "n3"}
	all := func(from, to string) bool { return from != to }
	drawn := map[any]bool{}
	for seed := range uint64(40) {
		steps := plan(seed, allKinds, [][]string{nodes}, all, time.Second, 20*time.Second)
		if diff := cmp.Diff(steps, plan(seed, allKinds, [][]string{nodes}, all, time.Second, 20*time.Second), cmp.AllowUnexported(step{})); diff != "" {
			t.Fatalf("plan(%d) twice:\n%s", seed, diff)
		}
		active := map[string]bool{}
		last := time.Duration(0)
		for _, s := range steps {
			if s.at < last || s.at >= 20*time.Second {
				t.Errorf("plan(%d): a step at %v after one at %v", seed, s.at, last)
			}
			last = s.at
			for kind, f := range operations {
				if s.f == f[0] && active[kind] || s.f == f[1] && !active[kind] {
					t.Errorf("plan(%d): %s out of turn at %v", seed, s.f, s.at)
				}
				if s.f == f[0] || s.f == f[1] {
					active[kind] = s.f == f[0]
				}
			}
			drawn[s.f] = true
			switch s.f {
			case "start-partition":
				if !slices.ContainsFunc(slices.Collect(maps.Values(s.cut)), func(from []string) bool { return len(from) > 0 }) {
					t.Errorf("plan(%d): a partition that cuts nothing", seed)
				}
				drawn[s.blackhole] = true
			case "kill", "pause":
				drawn[len(s.nodes)] = true
			case "start-delay":
				if s.delay < delayMin || s.delay >= delayMax || len(s.nodes) == 0 {
					t.Errorf("plan(%d): %v of %v", seed, s.delay, s.nodes)
				}
			}
		}
	}
	for _, want := range []any{"start-partition", "stop-partition", "kill", "start", "pause", "resume", "start-delay", "stop-delay", true, false, 1, 2, 3} {
		if !drawn[want] {
			t.Errorf("%v was never drawn", want)
		}
	}
	if cmp.Equal(plan(1, allKinds, [][]string{nodes}, all, time.Second, 20*time.Second), plan(2, allKinds, [][]string{nodes}, all, time.Second, 20*time.Second), cmp.AllowUnexported(step{})) {
		t.Error("two seeds make one plan")
	}
}

// TestPlanOfTwoGroups: nodes of the service and of its storage are hit, alone and together, and partitions cut a link that
// there is.
func TestPlanOfTwoGroups(t *testing.T) {
	groups := [][]string{{"n1", "n2"}, {"e1", "e2", "e3"}}
	linked := func(from, to string) bool { return to[0] == 'e' && from != to }
	drawn := map[string]bool{}
	for seed := range uint64(40) {
		for _, s := range plan(seed, []string{partition, kill}, groups, linked, time.Second, 20*time.Second) {
			hit := map[byte]bool{}
			for _, name := range s.nodes {
				hit[name[0]] = true
			}
			drawn[fmt.Sprint(hit)] = true
			if s.cut == nil {
				continue
			}
			real := false
			for to, senders := range s.cut {
				for _, from := range senders {
					real = real || linked(from, to) || linked(to, from)
				}
			}
			if !real {
				t.Errorf("plan(%d): the cut %v cuts no link", seed, s.cut)
			}
		}
	}
	for _, want := range []map[byte]bool{{'n': true}, {'e': true}, {'n': true, 'e': true}} {
		if !drawn[fmt.Sprint(want)] {
			t.Errorf("%v were never hit alone", want)
		}
	}
}
