package gossipsim

import (
	"testing"
	"time"

	"dongne/internal/gossip"
	"dongne/internal/sim"
)

// load is Gossip Glomers' setting: 25 nodes, 100 ms constant between them, 100 operations a second, half of them reads.
func load(profile gossip.Profile) Options {
	return Options{Seed: 1, Nodes: 25, Profile: profile, Latency: sim.Constant(100 * time.Millisecond), Rate: 100,
		Busy: 20 * time.Second, Converge: 10 * time.Second, Quiet: 60 * time.Second}
}

// TestCost prints and bounds what each profile costs. Messages count from the start until 10 s after the last operation.
func TestCost(t *testing.T) {
	for _, c := range []struct {
		name        string
		profile     gossip.Profile
		messages    float64 // per operation
		median, max time.Duration
	}{
		{"Fast", gossip.Fast, 12.5, 110 * time.Millisecond, 110 * time.Millisecond},
		{"Balanced", gossip.Balanced, 1.5, 360 * time.Millisecond, 520 * time.Millisecond},
		{"Frugal", gossip.Frugal, 0.7, 950 * time.Millisecond, 1500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Run(load(c.profile))
			if len(r.Violations) > 0 {
				t.Fatal(r.Violations)
			}
			perOperation := float64(r.Messages) / float64(r.Operations)
			t.Logf("%.3f messages and %.0f bytes per operation, propagation median %v p95 %v max %v, stable-latencies "+
				"0.5: %v 0.95: %v 0.99: %v 1: %v, idle %.1f messages/s", perOperation, float64(r.Bytes)/float64(r.Operations),
				Quantile(r.Latencies, 0.5), Quantile(r.Latencies, 0.95), Quantile(r.Latencies, 1), Quantile(r.Stable, 0.5),
				Quantile(r.Stable, 0.95), Quantile(r.Stable, 0.99), Quantile(r.Stable, 1), r.QuietRate)
			if len(r.Latencies) != r.Appends {
				t.Errorf("%d of %d entries came everywhere", len(r.Latencies), r.Appends)
			}
			if perOperation > c.messages {
				t.Errorf("%.3f messages per operation, want at most %.2f", perOperation, c.messages)
			}
			if median, worst := Quantile(r.Latencies, 0.5), Quantile(r.Latencies, 1); median > c.median || worst > c.max {
				t.Errorf("propagation %v median, %v max, want at most %v and %v", median, worst, c.median, c.max)
			}
		})
	}
}

// TestHubKilled kills the hub under full load, with everything it had, and a little later its successor too: everything
// still comes everywhere. It prints what the change-over costs.
func TestHubKilled(t *testing.T) {
	for name, c := range map[string]struct {
		profile gossip.Profile
		max     time.Duration
	}{"Balanced": {gossip.Balanced, 5 * time.Second}, "Frugal": {gossip.Frugal, 12 * time.Second}} {
		t.Run(name, func(t *testing.T) {
			o := load(c.profile)
			o.Faults = []sim.Fault{
				{Kind: sim.Kill, State: sim.Lost, Nodes: []string{"n0"}, At: 5050 * time.Millisecond, For: 10 * time.Second},
				{Kind: sim.Kill, State: sim.Lost, Nodes: []string{"n1"}, At: 10 * time.Second, For: 6 * time.Second},
			}
			r := Run(o)
			if len(r.Violations) > 0 {
				t.Fatal(r.Violations)
			}
			var suspected uint64
			for _, s := range r.Stats {
				suspected += s.Suspected
			}
			if suspected == 0 {
				t.Error("nobody noticed that the hub was gone")
			}
			worst := Quantile(r.Latencies, 1)
			t.Logf("propagation median %v p95 %v p99 %v max %v, %.3f messages per operation", Quantile(r.Latencies, 0.5),
				Quantile(r.Latencies, 0.95), Quantile(r.Latencies, 0.99), worst, float64(r.Messages)/float64(r.Operations))
			if worst > c.max {
				t.Errorf("propagation took up to %v, want at most %v", worst, c.max)
			}
		})
	}
}
