package gossipsim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"dongne/internal/gossip"
	"dongne/internal/sim"
)

// Random returns the scenario of a seed: a small cluster, now and then a large one, with several faults at once and one
// after another, any topology, any distribution of latencies.
func Random(seed uint64) Options {
	r := sim.New(seed, nil).Rand("scenario")
	o := Options{Seed: seed, Nodes: 2 + r.IntN(4), Profile: profile(r), Rate: 10 + 60*r.Float64(),
		Busy: 1500 * time.Millisecond, Converge: time.Second}
	if r.IntN(50) == 0 {
		o.Nodes = 25
	}
	mean := time.Duration(1+r.IntN(12)) * time.Millisecond
	o.Latency = []func(time.Duration) sim.Latency{sim.Constant, sim.Uniform, sim.Exponential}[r.IntN(3)](mean)
	if r.IntN(2) == 0 {
		o.Disk = time.Duration(r.IntN(4000)) * time.Microsecond
	}
	o.Quiet = max(time.Second, time.Duration(o.Nodes+1)*o.Profile.Tick)
	var names []string
	for i := range o.Nodes {
		names = append(names, fmt.Sprintf("n%d", i))
	}
	for range r.IntN(5) {
		o.Faults = append(o.Faults, fault(r, names))
	}
	return o
}

// profile returns one that repairs within a second; most are flat.
func profile(r *rand.Rand) gossip.Profile {
	p := gossip.LAN
	switch r.IntN(8) {
	case 0:
		p.Topology, p.Fanout = gossip.Tree, 1+r.IntN(3)
	case 1, 2:
		p.Topology, p.HubInterval, p.Suspicion = gossip.Hub, 20*time.Millisecond, 120*time.Millisecond
		p.Delay = time.Duration(r.IntN(2)) * 15 * time.Millisecond
	case 3:
		p.MessageBytes = 400 // a repair takes many messages
	}
	return p
}

func fault(r *rand.Rand, names []string) sim.Fault {
	f := sim.Fault{At: time.Duration(r.IntN(1200)) * time.Millisecond, For: time.Duration(20+r.IntN(600)) * time.Millisecond}
	some := []string{names[r.IntN(len(names))]}
	f.Probability = 0.05 + 0.6*r.Float64()
	switch r.IntN(9) {
	case 0, 1:
		f.Kind, f.Cut, f.Probability = sim.Partition, sim.Partitions[r.IntN(len(sim.Partitions))](r, names), 0
	case 2:
		f.Kind = []sim.Kind{sim.Loss, sim.Duplication}[r.IntN(2)]
	case 3:
		f.Kind, f.Delay = sim.Reordering, time.Duration(1+r.IntN(200))*time.Millisecond
	case 4:
		f.Kind, f.Delay, f.Nodes = sim.Slowness, time.Duration(1+r.IntN(100))*time.Millisecond, some
	case 5:
		f.Kind, f.Nodes = sim.Pause, some
	case 6, 7:
		f.Kind, f.Nodes = sim.Kill, some
		f.State = []sim.State{sim.Kept, sim.Kept, sim.Lost, sim.RolledBack}[r.IntN(4)]
	case 8:
		f.Kind, f.Nodes, f.Delay = sim.SlowDisk, some, time.Duration(1+r.IntN(200))*time.Millisecond
		if r.IntN(3) == 0 {
			f.Kind = sim.FullDisk
		}
	}
	return f
}
