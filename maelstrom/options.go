package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"dongne/maelstrom/history"
	"dongne/maelstrom/network"
	"dongne/maelstrom/workload"
)

var errHelp = errors.New("help was asked for")

// options are those of test; sim takes most of them too.
type options struct {
	bin         string
	workload    string
	nodes       []string
	concurrency int
	timeLimit   time.Duration
	rate        float64
	latency     time.Duration
	spread      network.Distribution
	nemesis     []string
	interval    time.Duration
	topology    string
	topologySet bool    // it was given
	available   float64 // 0: any
	recovery    time.Duration
	fresh       bool          // counters' reads must have what was acknowledged
	staleness   time.Duration // so long before
	compat      bool
	seed        uint64
	nemesisSeed uint64
	store       string
	logStderr   bool
	logSend     bool
	logRecv     bool
	args        []string // of the nodes
	mutant      string   // sim: runs instead of the workload's program
}

// badArgument says which option is wrong, and how.
func badArgument(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errArguments, fmt.Errorf(format, args...))
}

// inert are options of upstream that have nothing to act on here.
var inert = map[string]string{
	"no-ssh": "bool", "username": "", "password": "", "strict-host-key-checking": "bool", "ssh-private-key": "",
	"consistency-models": "", "key-count": "", "max-txn-length": "", "max-writes-per-key": "",
	"leave-db-running": "bool", "logging-json": "bool",
}

// flags are an options' raw values.
type flags struct {
	set                                                             *flag.FlagSet
	nodeCount, timeLimit, latency, testCount                        int
	interval, recovery                                              float64
	nodeList, nodesFile, concurrency, availability, nemesis, spread string
	staleness                                                       string
	named                                                           []string
}

// declare adds the options that test and sim share.
func (o *options) declare(f *flags, set *flag.FlagSet, timeLimit int) {
	f.set = set
	for _, name := range []string{"w", "workload"} {
		set.StringVar(&o.workload, name, "lin-kv", "`NAME` of the workload: "+strings.Join(workload.Names(), ", "))
	}
	set.IntVar(&f.nodeCount, "node-count", 0, "`N` nodes, n0 to n(N-1); instead of --node, --nodes and --nodes-file")
	named := func(name string) error { f.named = append(f.named, name); return nil }
	set.Func("n", "`NAME` of a node; may be repeated (default n1 n2 n3 n4 n5)", named)
	set.Func("node", "the same", named)
	set.StringVar(&f.nodeList, "nodes", "", "names of nodes, separated by commas")
	set.StringVar(&f.nodesFile, "nodes-file", "", "`FILE` with a name of a node a line")
	set.StringVar(&f.concurrency, "concurrency", "1n", "client workers; with an n behind it: times the nodes")
	set.IntVar(&f.timeLimit, "time-limit", timeLimit, "`SECONDS` that operations are made")
	set.Float64Var(&o.rate, "rate", 5, "operations per second over all workers; 0: none")
	set.IntVar(&f.latency, "latency", 0, "mean latency between nodes in `MS`")
	set.StringVar(&f.spread, "latency-dist", "constant", "constant, uniform or exponential")
	set.StringVar(&f.nemesis, "nemesis", "", "faults, separated by commas")
	set.Float64Var(&f.interval, "nemesis-interval", 10, "mean `SECONDS` between two operations of the nemesis")
	set.StringVar(&o.topology, "topology", "grid", "what broadcast's nodes are told: "+strings.Join(workload.Topologies(), ", "))
	set.StringVar(&f.availability, "availability", "", "least part of the operations that must succeed: total, or 0 to 1")
	set.Float64Var(&f.recovery, "recovery", 10, "`SECONDS` from the healing of all faults to the last reads")
	set.StringVar(&f.staleness, "staleness", "", "counters' reads must have what was acknowledged `SECONDS` before; otherwise the last ones alone")
	set.BoolVar(&o.compat, "compat", false, "give the verdict that upstream would give, with what it overlooks")
	set.Uint64Var(&o.nemesisSeed, "nemesis-seed", 0, "draws the faults; 0: the seed does")
	set.StringVar(&o.store, "store", "store", "`FOLDER` of the reports")
	for name, kind := range inert {
		if kind == "bool" {
			set.Bool(name, false, "upstream's; without effect here")
		} else {
			set.String(name, "", "upstream's; without effect here")
		}
	}
}

// parse reads the command line. What it finds wrong it says with the option's name.
func (o *options) parse(f *flags, w world) error {
	f.set.SetOutput(w.stderr)
	f.set.Usage = func() {
		fmt.Fprintf(w.stderr, "usage: maelstrom %s [OPTIONS] [-- NODE ARGUMENTS]\n\n", f.set.Name())
		f.set.PrintDefaults()
	}
	if err := f.set.Parse(w.args); errors.Is(err, flag.ErrHelp) {
		return errHelp
	} else if err != nil {
		return badArgument("%w", err)
	}
	o.args = f.set.Args()
	f.set.Visit(func(given *flag.Flag) {
		o.topologySet = o.topologySet || given.Name == "topology"
		if _, without := inert[given.Name]; without {
			fmt.Fprintf(w.stderr, "maelstrom: --%s has no effect here\n", given.Name)
		}
	})
	return errors.Join(f.readNodes(o), f.readNumbers(o), f.readNames(o))
}

func (f *flags) readNodes(o *options) error {
	o.nodes = f.named
	if f.nodeList != "" {
		o.nodes = strings.Split(f.nodeList, ",")
	}
	if f.nodesFile != "" {
		text, err := os.ReadFile(f.nodesFile)
		if err != nil {
			return badArgument("--nodes-file: %w", err)
		}
		o.nodes = strings.Fields(string(text))
	}
	if len(o.nodes) == 0 {
		o.nodes = []string{"n1", "n2", "n3", "n4", "n5"}
	}
	given := false
	f.set.Visit(func(g *flag.Flag) { given = given || g.Name == "node-count" })
	if given {
		if f.nodeCount < 1 {
			return badArgument("--node-count %d: at least 1", f.nodeCount)
		}
		o.nodes = nil
		for i := range f.nodeCount {
			o.nodes = append(o.nodes, fmt.Sprintf("n%d", i))
		}
	}
	for i, name := range o.nodes {
		if err := network.ValidName(name); err != nil {
			return badArgument("--nodes: %w", err)
		}
		if slices.Contains(o.nodes[:i], name) {
			return badArgument("--nodes: %q stands twice", name)
		}
		if history.IsClient(name) {
			return badArgument("--nodes: %q begins with c, as clients do", name)
		}
	}
	return nil
}

func (f *flags) readNumbers(o *options) error {
	number, each := strings.CutSuffix(f.concurrency, "n")
	c, err := strconv.Atoi(number)
	if each {
		c *= len(o.nodes)
	}
	if o.concurrency = c; err != nil || c < 1 {
		return badArgument("--concurrency %q: a positive number, perhaps with an n behind it", f.concurrency)
	}
	if f.timeLimit < 1 {
		return badArgument("--time-limit %d: at least 1 second", f.timeLimit)
	}
	if f.latency < 0 {
		return badArgument("--latency %d: not negative", f.latency)
	}
	if !(o.rate >= 0) {
		return badArgument("--rate %v: not negative", o.rate)
	}
	if !(f.interval > 0) {
		return badArgument("--nemesis-interval %v: above 0", f.interval)
	}
	if !(f.recovery >= 0) {
		return badArgument("--recovery %v: not negative", f.recovery)
	}
	o.timeLimit, o.latency = time.Duration(f.timeLimit)*time.Second, time.Duration(f.latency)*time.Millisecond
	o.interval, o.recovery = seconds(f.interval), seconds(f.recovery)
	if o.fresh = f.staleness != ""; o.fresh {
		age, err := strconv.ParseFloat(f.staleness, 64)
		if o.staleness = seconds(age); err != nil || !(age >= 0) {
			return badArgument("--staleness %q: a number of seconds, not negative", f.staleness)
		}
	}
	switch a := f.availability; a {
	case "":
	case "total":
		o.available = 1
	default:
		if o.available, err = strconv.ParseFloat(a, 64); err != nil || !(o.available >= 0 && o.available <= 1) {
			return badArgument("--availability %q: total, or a number from 0 to 1", a)
		}
	}
	return nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func (f *flags) readNames(o *options) error {
	o.spread = network.Distribution(f.spread)
	if !slices.Contains([]network.Distribution{network.Constant, network.Uniform, network.Exponential}, o.spread) {
		return badArgument("--latency-dist %q: constant, uniform or exponential", f.spread)
	}
	if !slices.Contains(workload.Names(), o.workload) {
		return badArgument("--workload %q is not here yet; choose -w %s", o.workload, strings.Join(workload.Names(), "|"))
	}
	if _, err := workload.Topology(o.topology, o.nodes); err != nil {
		return badArgument("--topology: %w", err)
	}
	for kind := range strings.SplitSeq(f.nemesis, ",") {
		if kind = strings.TrimSpace(kind); kind != "" && !slices.Contains(o.nemesis, kind) {
			o.nemesis = append(o.nemesis, kind)
		}
	}
	return nil
}

// allow fails for a kind of fault that the command cannot make.
func (o *options) allow(kinds ...string) error {
	for _, kind := range o.nemesis {
		if !slices.Contains(kinds, kind) {
			return badArgument("--nemesis %q: there are %s", kind, strings.Join(kinds, ", "))
		}
	}
	return nil
}

func (o *options) isCounter() bool { return o.workload == "g-counter" || o.workload == "pn-counter" }

// settings are what the report shows.
func (o *options) settings(more ...history.Setting) []history.Setting {
	all := []history.Setting{
		{Name: "workload", Value: o.workload},
		{Name: "nodes", Value: fmt.Sprintf("%d: %s", len(o.nodes), strings.Join(o.nodes, " "))},
		{Name: "concurrency", Value: strconv.Itoa(o.concurrency)},
		{Name: "rate", Value: fmt.Sprintf("%v operations/s", o.rate)},
		{Name: "time limit", Value: o.timeLimit.String()},
		{Name: "latency", Value: fmt.Sprintf("%v, %s", o.latency, o.spread)},
		{Name: "nemesis", Value: cmp.Or(strings.Join(o.nemesis, ", "), "none")},
	}
	if len(o.nemesis) > 0 {
		all = append(all, history.Setting{Name: "nemesis interval", Value: o.interval.String()})
	}
	if o.workload == "broadcast" {
		all = append(all, history.Setting{Name: "topology", Value: o.topology})
	}
	if o.workload == "broadcast" || o.isCounter() {
		all = append(all, history.Setting{Name: "recovery", Value: o.recovery.String()})
	}
	if o.isCounter() && o.fresh {
		all = append(all, history.Setting{Name: "staleness", Value: "at most " + o.staleness.String()})
	}
	return append(append(all, history.Setting{Name: "seed", Value: fmt.Sprint(o.seed)}), more...)
}
