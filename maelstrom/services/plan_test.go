package services

import (
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
	drawn := map[any]bool{}
	for seed := range uint64(40) {
		steps := plan(seed, allKinds, nodes, time.Second, 20*time.Second)
		if diff := cmp.Diff(steps, plan(seed, allKinds, nodes, time.Second, 20*time.Second), cmp.AllowUnexported(step{})); diff != "" {
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
	if cmp.Equal(plan(1, allKinds, nodes, time.Second, 20*time.Second), plan(2, allKinds, nodes, time.Second, 20*time.Second), cmp.AllowUnexported(step{})) {
		t.Error("two seeds make one plan")
	}
}
