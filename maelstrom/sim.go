package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"dongne/internal/sim"
	"dongne/maelstrom/check"
	"dongne/maelstrom/history"
	"dongne/maelstrom/network"
	"dongne/maelstrom/node"
	"dongne/maelstrom/report"
	"dongne/maelstrom/service"
	"dongne/maelstrom/simulate"
)

const (
	failuresShown = 5                      // of many seeds
	diskDefault   = 500 * time.Microsecond // of a write and its sync
)

// simulation is what sim runs.
type simulation struct {
	options
	spec        node.Spec
	first, last uint64
}

// simulate runs a built-in node in virtual time.
func simulateCommand(ctx context.Context, w world) (int, error) {
	s, err := readSimulation(w)
	if err != nil {
		return 0, err
	}
	if s.first == s.last {
		s.seed = s.first
		return s.report(w)
	}
	return s.sweep(ctx, w)
}

func readSimulation(w world) (*simulation, error) {
	var s simulation
	var f flags
	var seeds, mutant string
	set := flag.NewFlagSet("sim", flag.ContinueOnError)
	s.declare(&f, set, 10)
	for name, value := range map[string]string{"node-count": "5", "nemesis-interval": "2", "rate": "20", "latency": "10", "latency-dist": "exponential"} {
		option := set.Lookup(name) // in virtual time more is free
		option.Value.Set(value)
		option.DefValue = value
	}
	set.Uint64Var(&s.seed, "seed", 1, "run this seed, and write its report")
	set.StringVar(&seeds, "seeds", "", "run the seeds `A-B`, and write reports of those that fail")
	set.StringVar(&mutant, "mutant", "", "run a program that is wrong on purpose; maelstrom node lists them")
	if err := s.parse(&f, w); err != nil {
		return nil, err
	}
	if err := s.allow(simulate.Kinds()...); err != nil {
		return nil, err
	}
	if s.spec, _ = node.Find(s.workload); mutant != "" {
		found, ok := findMutant(mutant)
		if !ok || found.Workload != s.workload {
			return nil, badArgument("--mutant %q: none of the workload %s; maelstrom node lists them", mutant, s.workload)
		}
		s.spec = found.Spec
		s.mutant = mutant
	} else if s.workload == "broadcast" && s.topologySet {
		s.args = append([]string{"--profile", "topology"}, s.args...)
	}
	s.first, s.last = s.seed, s.seed
	if seeds == "" {
		return &s, nil
	}
	a, b, ok := strings.Cut(seeds, "-")
	first, err := strconv.ParseUint(a, 10, 64)
	last, err2 := strconv.ParseUint(b, 10, 64)
	if s.first, s.last = first, last; !ok || err != nil || err2 != nil || last < first {
		return nil, badArgument("--seeds %q: the first and the last, as in 1-1000", seeds)
	}
	return &s, nil
}

// run is one seed.
func (s *simulation) run(seed uint64) (*history.Run, uint64, error) {
	o := s.options
	o.seed = seed
	players, err := o.interpreter()
	if err != nil {
		return nil, 0, err
	}
	latency := map[network.Distribution]func(time.Duration) sim.Latency{
		network.Constant: sim.Constant, network.Uniform: sim.Uniform, network.Exponential: sim.Exponential}[o.spread]
	run, hash, err := simulate.Run(simulate.Config{Seed: seed, Spec: s.spec, Args: o.args, Nodes: o.nodes, Disk: diskDefault,
		Services: service.All(o.rand("services"), o.compat), Latency: latency(o.latency), Interpreter: players})
	if run != nil {
		run.Workload, run.Settings = o.workload, o.settings(history.Setting{Name: "program", Value: strings.Join(append([]string{s.spec.Name}, o.args...), " ")})
	}
	return run, hash, err
}

// report runs one seed and says all about it.
func (s *simulation) report(w world) (int, error) {
	began := time.Now()
	dir, err := report.Create(s.store, s.workload, began)
	if err != nil {
		return 0, err
	}
	console, err := newConsole(w.stdout, filepath.Join(dir, "jepsen.log"), true)
	if err != nil {
		return 0, err
	}
	defer console.close()
	run, hash, err := s.run(s.seed)
	if err != nil {
		return 0, err // it says which node does not start; nothing has happened yet
	}
	console.line(fmt.Sprintf("%s: %s, simulated, %s; seed %d, trace %016x", s.workload, nodesInWords(len(s.nodes)), faultsInWords(s.nemesis), s.seed, hash))
	return s.conclude(console, dir, run)
}

// tally is what came of many seeds.
type tally struct {
	mu                   sync.Mutex
	runs                 map[check.Verdict]int
	vacuous              int // of the unknown ones: nothing was put to the test
	operations, messages int
	dropped              int
	simulated            time.Duration
	failed               []uint64 // seeds; the first failuresShown have a report
	err                  error
	next                 uint64
}

// sweep runs many seeds on all cores.
func (s *simulation) sweep(ctx context.Context, w world) (int, error) {
	began := time.Now()
	t := &tally{runs: map[check.Verdict]int{}, next: s.first}
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for ctx.Err() == nil {
				t.mu.Lock()
				seed := t.next
				t.next++
				stop := t.err != nil
				t.mu.Unlock()
				if seed > s.last || stop {
					return
				}
				s.try(t, seed, w)
			}
		})
	}
	workers.Wait()
	if err := errors.Join(t.err, ctx.Err()); err != nil {
		return 0, err
	}
	total := t.runs[check.True] + t.runs[check.False] + t.runs[check.Unknown]
	wall := time.Since(began)
	fmt.Fprintf(w.stdout, "%s, %s: %d seeds: %d valid, %d invalid, %d unknown, %d that tested nothing; %d operations, %d messages between nodes, %d of them lost\n",
		s.workload, faultsInWords(s.nemesis), total, t.runs[check.True], t.runs[check.False], t.runs[check.Unknown]-t.vacuous, t.vacuous, t.operations, t.messages, t.dropped)
	fmt.Fprintf(w.stdout, "%.1f s of wall time for %.0f s of virtual time: %.0f seeds a minute, %.0f simulated seconds a second\n",
		wall.Seconds(), t.simulated.Seconds(), float64(total)/wall.Minutes(), t.simulated.Seconds()/wall.Seconds())
	switch {
	case t.runs[check.False] > 0:
		return exitInvalid, nil
	case t.runs[check.Unknown] > t.vacuous || t.runs[check.True] == 0:
		return exitUnknown, nil
	}
	return exitValid, nil
}

// try runs a seed of many; one that fails gets a report, and a line that replays it.
func (s *simulation) try(t *tally, seed uint64, w world) {
	run, _, err := s.run(seed)
	o := s.options
	o.seed = seed
	if err != nil {
		t.mu.Lock()
		t.err = fmt.Errorf("seed %d: %w; replay: %s", seed, err, o.replay(true))
		t.mu.Unlock()
		return
	}
	results := o.judge(run)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.runs[results.Valid]++
	t.operations += len(run.Ops) / 2
	t.messages += run.Journal.Servers.Sent
	t.dropped += run.Journal.Dropped
	t.simulated += run.Elapsed
	if results.Valid == check.Unknown && results.Vacuous != "" {
		t.vacuous++ // as when all nodes were down most of the time
		return
	}
	if results.Valid == check.True {
		return
	}
	if t.failed = append(t.failed, seed); len(t.failed) > failuresShown {
		return
	}
	dir, err := report.Create(s.store, s.workload, time.Now())
	if err == nil {
		err = report.Write(dir, run, results, report.Options{Replay: o.replay(true)})
	}
	t.err = err
	fmt.Fprintf(w.stdout, "seed %d: %s\n", seed, verdictInWords(results))
	for _, reason := range results.Reasons {
		fmt.Fprintf(w.stdout, "  - %s\n", reason)
	}
	fmt.Fprintf(w.stdout, "  replay: %s\n  report: %s\n", o.replay(true), filepath.Join(dir, "index.html"))
}

func findMutant(name string) (node.Mutant, bool) {
	for _, m := range node.Mutants() {
		if m.Name == name {
			return m, true
		}
	}
	return node.Mutant{}, false
}
