package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"dongne/internal/sim"
	"dongne/maelstrom/check"
	"dongne/maelstrom/cluster"
	"dongne/maelstrom/history"
	"dongne/maelstrom/interpreter"
	"dongne/maelstrom/network"
	"dongne/maelstrom/report"
	"dongne/maelstrom/service"
	"dongne/maelstrom/workload"
)

const requestTimeout = 5 * time.Second

// test runs a workload against real processes.
func test(ctx context.Context, w world) (int, error) {
	var o options
	var f flags
	set := flag.NewFlagSet("test", flag.ContinueOnError)
	o.declare(&f, set, 60)
	set.StringVar(&o.bin, "bin", "", "the node program; without it the built-in one of the workload runs")
	set.IntVar(&f.testCount, "test-count", 1, "`N` runs, until one is not valid")
	set.Uint64Var(&o.seed, "seed", 0, "draws operations and faults; 0: from the clock")
	set.BoolVar(&o.logStderr, "log-stderr", false, "show what nodes print on stderr")
	set.BoolVar(&o.logSend, "log-net-send", false, "show each message when it is sent")
	set.BoolVar(&o.logRecv, "log-net-recv", false, "show each message when it is delivered")
	if err := o.parse(&f, w); err != nil {
		return 0, err
	}
	if err := o.allow("partition", "kill", "pause"); err != nil {
		return 0, err
	}
	program, args, err := o.program()
	if err != nil {
		return 0, err
	}
	if f.testCount < 1 {
		return 0, badArgument("--test-count %d: at least 1", f.testCount)
	}
	for n := range f.testCount {
		if f.testCount > 1 {
			fmt.Fprintf(w.stdout, "run %d of %d\n", n+1, f.testCount)
		}
		run := o
		if run.seed == 0 {
			run.seed = uint64(time.Now().UnixNano())
		} else {
			run.seed += uint64(n)
		}
		if code, err := run.once(ctx, w, program, args); err != nil || code != exitValid {
			return code, err
		}
	}
	return exitValid, nil
}

// program returns what every node runs.
func (o *options) program() (path string, args []string, err error) {
	if o.bin != "" {
		if path, err = cluster.Program(o.bin); err != nil {
			return "", nil, badArgument("--bin: %w", err)
		}
		return path, o.args, nil
	}
	if path, err = os.Executable(); err != nil {
		return "", nil, err
	}
	args = []string{"node", o.workload}
	if o.workload == "broadcast" && o.topologySet { // whoever chooses a topology wants it used
		args = append(args, "--profile", "topology")
	}
	return path, append(args, o.args...), nil
}

// once is one run: its report is written, and its verdict printed.
func (o *options) once(ctx context.Context, w world, program string, args []string) (int, error) {
	began := time.Now()
	dir, err := report.Create(o.store, o.workload, began)
	if err != nil {
		return 0, err
	}
	console, err := newConsole(w.stdout, filepath.Join(dir, "jepsen.log"), o.logStderr || o.logSend || o.logRecv)
	if err != nil {
		return 0, err
	}
	defer console.close()
	console.line(fmt.Sprintf("%s: %s, %v operations/s for %v, %s; seed %d", o.workload, nodesInWords(len(o.nodes)), o.rate, o.timeLimit, faultsInWords(o.nemesis), o.seed))
	config, err := o.cluster(program, args, dir, console)
	if err != nil {
		return 0, err
	}
	run, err := cluster.Run(ctx, config)
	console.clear()
	if run == nil {
		return 0, err
	}
	run.Workload, run.Settings = o.workload, o.settings(history.Setting{Name: "program", Value: strings.Join(append([]string{filepath.Base(program)}, args...), " ")})
	if err != nil {
		for _, line := range evidence(run.Findings) {
			console.line(line)
		}
		return 0, errors.Join(err, report.WriteHistory(dir, run))
	}
	return o.conclude(console, dir, run)
}

func nodesInWords(n int) string {
	if n == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", n)
}

func faultsInWords(kinds []string) string {
	if len(kinds) == 0 {
		return "no faults"
	}
	return "faults: " + strings.Join(kinds, ", ")
}

// cluster puts together what the run needs. Everything random comes from the seed.
func (o *options) cluster(program string, args []string, dir string, console *console) (cluster.Config, error) {
	c := cluster.Config{Program: program, Args: args, Nodes: o.nodes, Dir: dir, Compat: o.compat, Log: console.line,
		Services: service.All(o.rand("services"), o.compat), Network: network.New(o.latency, o.spread, o.rand("network"))}
	if console.terminal {
		c.Progress = console.progress
	} else {
		c.Progress = console.sometimes
	}
	c.Fault = func(at time.Duration, f *interpreter.Fault) {
		console.line(fmt.Sprintf("%6.1f s %s", at.Seconds(), faultInWords(f, o.nodes)))
	}
	if o.logStderr {
		c.Stderr = console.line
	}
	show := func(word string) func(*network.Message) {
		return func(m *network.Message) {
			console.line(fmt.Sprintf("%s %s", word, strings.TrimSpace(string(m.AppendLine(nil)))))
		}
	}
	if o.logSend {
		c.Sent = show("send")
	}
	if o.logRecv {
		c.Taken = show("recv")
	}
	var err error
	c.Interpreter, err = o.interpreter()
	return c, err
}

func (o *options) interpreter() (interpreter.Config, error) {
	topology, err := workload.Topology(o.topology, o.nodes)
	if err != nil {
		return interpreter.Config{}, err
	}
	load, err := workload.New(o.workload, topology)
	return interpreter.Config{Workload: load, Nodes: o.nodes, Concurrency: o.concurrency, Rate: o.rate, TimeLimit: o.timeLimit,
		Timeout: requestTimeout, Recovery: o.recovery, Kinds: o.nemesis, Interval: o.interval, Rand: o.rand("clients"),
		Faults: o.rand("nemesis"), Compat: o.compat}, err
}

// rand is the stream of random numbers of the run that belongs to the label.
func (o *options) rand(label string) *rand.Rand {
	seed := o.seed
	if label == "nemesis" && o.nemesisSeed != 0 {
		seed = o.nemesisSeed
	}
	return sim.Stream(seed, label)
}

// conclude judges the run, writes its report, and says what came of it.
func (o *options) conclude(console *console, dir string, run *history.Run) (int, error) {
	results := o.judge(run)
	if o.compat && aborted(run) { // as upstream, which judges no run whose node has ended
		return 0, errors.Join(errors.New(results.Reasons[0]), report.WriteHistory(dir, run))
	}
	if err := report.Write(dir, run, results, report.Options{Replay: o.replay(run.Simulated)}); err != nil {
		return 0, err
	}
	for _, line := range conclusion(run, results, o) {
		console.line(line)
	}
	return verdictLines(console, dir, results), nil
}

func (o *options) judge(run *history.Run) check.Results {
	return check.Check(run, check.Options{Compat: o.compat, Availability: o.available, NemesisAsked: len(o.nemesis) > 0,
		Fresh: o.fresh, Staleness: o.staleness})
}

func aborted(run *history.Run) bool {
	for _, f := range run.Findings {
		if f.Kind == history.Exited || f.Kind == history.NotAnswering {
			return true
		}
	}
	return false
}

// serveStore is the command serve.
func serveStore(ctx context.Context, w world) (int, error) {
	set := flag.NewFlagSet("serve", flag.ContinueOnError)
	set.SetOutput(w.stderr)
	host, port, store := "127.0.0.1", 8080, "store"
	for _, name := range []string{"b", "host"} {
		set.StringVar(&host, name, host, "address to listen on")
	}
	for _, name := range []string{"p", "port"} {
		set.IntVar(&port, name, port, "port to listen on; 0: any")
	}
	set.StringVar(&store, "store", store, "`FOLDER` of the reports")
	if err := set.Parse(w.args); errors.Is(err, flag.ErrHelp) {
		return 0, errHelp
	} else if err != nil {
		return 0, badArgument("%w", err)
	}
	return exitValid, listen(ctx, w.stdout, host, port, report.Handler(store))
}
