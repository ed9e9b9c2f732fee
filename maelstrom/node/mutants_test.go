package node

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"dongne/internal/sim"
)

var nemeses = map[string]func(*rand.Rand, []string) []sim.Fault{"": nil, "partition": partitions, "kill": kills, "lost-reply": deafness}

// scenarioOf is one in which the right program does nothing wrong.
func scenarioOf(workload, nemesis string) scenario {
	s := scenario{workload: workload, nodes: 5, latency: 10 * time.Millisecond, disk: 2 * time.Millisecond, rate: 30,
		faults: nemeses[nemesis], recovery: 5 * time.Second}
	if workload == "unique-ids" {
		s.rate = 300
	}
	s.spec, _ = Find(workload)
	return s
}

// Each mutant does what it says it does wrong, within some seeds, and only where it says that this takes a nemesis.
func TestMutantsAreWrong(t *testing.T) {
	for _, m := range Mutants() {
		if m.Workload == "bank" {
			continue // TestBankMutantsAreWrong
		}
		t.Run(m.Name, func(t *testing.T) {
			s := scenarioOf(m.Workload, m.Nemesis)
			s.spec = m.Spec
			if !slices.ContainsFunc([]uint64{1, 2, 3, 4, 5}, func(seed uint64) bool { return slices.Contains(s.run(seed), m.Rule) }) {
				t.Errorf("no seed shows %q", m.Rule)
			}
			if s.faults = nil; m.Nemesis != "" {
				if wrong := s.run(1); len(wrong) > 0 {
					t.Errorf("is %q without a %s", wrong, m.Nemesis)
				}
			}
		})
	}
}

func TestMutantsAreDescribed(t *testing.T) {
	names := map[string]bool{}
	for _, m := range Mutants() {
		_, known := Find(m.Workload)
		_, isRight := Find(m.Name)
		_, nemesis := nemeses[m.Nemesis]
		if !known || !nemesis || isRight || names[m.Name] || m.Wrong == "" || m.Rule == "" || m.Spec.Name != m.Name {
			t.Errorf("mutant %+v", m)
		}
		names[m.Name] = true
	}
}
