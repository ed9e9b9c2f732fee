package gossipsim

import (
	"testing"
	"time"

	"dongne/internal/gossip"
	"dongne/internal/sim"
)

// BenchmarkSimulator reports simulated seconds per second of wall time on one core.
func BenchmarkSimulator(b *testing.B) {
	small := Options{Seed: 1, Nodes: 5, Profile: gossip.LAN, Latency: sim.Exponential(5 * time.Millisecond), Rate: 30,
		Busy: 10 * time.Second, Converge: time.Second}
	for _, c := range []struct {
		name    string
		options func(i int) Options
	}{
		{"seeds", func(i int) Options { return Random(uint64(i)) }},
		{"5nodes", func(int) Options { return small }},
		{"25nodes/Fast", func(int) Options { return load(gossip.Fast) }},
		{"25nodes/Balanced", func(int) Options { return load(gossip.Balanced) }},
		{"25nodes/Frugal", func(int) Options { return load(gossip.Frugal) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			var simulated time.Duration
			for i := 0; b.Loop(); i++ {
				r := Run(c.options(i + 1))
				if len(r.Violations) > 0 {
					b.Fatal(r.Violations)
				}
				simulated += r.Elapsed
			}
			b.ReportMetric(simulated.Seconds()/b.Elapsed().Seconds(), "simulated_s/s")
		})
	}
}
