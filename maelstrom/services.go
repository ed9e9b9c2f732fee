package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"dongne/maelstrom/check"
	"dongne/maelstrom/cluster"
	"dongne/maelstrom/edn"
	"dongne/maelstrom/report"
	"dongne/maelstrom/services"
)

// servicesCommand runs one of our own services under faults.
func servicesCommand(ctx context.Context, w world) (int, error) {
	o := services.Options{}
	var nemesis string
	store := "store"
	var limit, interval, recovery, patience float64
	set := flag.NewFlagSet("services", flag.ContinueOnError)
	set.SetOutput(w.stderr)
	for _, name := range []string{"w", "workload"} {
		set.StringVar(&o.Workload, name, "chat", "`NAME` of the service: chat, pay")
	}
	set.IntVar(&o.NodeCount, "node-count", 3, "`N` processes of the service, n1 to nN")
	set.IntVar(&o.Shards, "shards", 1, "`N` logs that pay spreads its accounts over; 16 at most")
	set.IntVar(&o.Concurrency, "concurrency", 0, "clients that write; 0: twice the nodes")
	set.IntVar(&o.Readers, "readers", 0, "clients that follow a stream; 0: twice the nodes")
	set.Float64Var(&limit, "time-limit", 60, "`SECONDS` that clients write")
	set.Float64Var(&o.Rate, "rate", 50, "operations per second over all writers")
	set.StringVar(&nemesis, "nemesis", "", "faults, separated by commas: partition, kill, pause, delay; of the store's servers too")
	set.Float64Var(&interval, "nemesis-interval", 5, "mean `SECONDS` between two operations of a kind of fault")
	set.Float64Var(&recovery, "recovery", 30, "`SECONDS` that the nodes have at most to agree once all is healed")
	set.Float64Var(&patience, "patience", 0.1, "least `SECONDS` before a writer gives up on a node and asks another; 2 at most")
	set.Uint64Var(&o.Seed, "seed", 0, "draws clients and faults; 0: from the clock")
	set.StringVar(&o.Binary, "bin", "", "a built service; without it one is built from this checkout")
	set.Func("store", "file or etcd: where the service keeps its data (chat: file, pay: etcd); any other `NAME` is the folder of the reports (store)", func(value string) error {
		if value == "file" || value == "etcd" {
			o.Store = value
		} else {
			store = value
		}
		return nil
	})
	if err := set.Parse(w.args); errors.Is(err, flag.ErrHelp) {
		return 0, errHelp
	} else if err != nil {
		return 0, badArgument("%w", err)
	}
	for kind := range strings.SplitSeq(nemesis, ",") {
		if kind = strings.TrimSpace(kind); kind != "" {
			o.Nemesis = append(o.Nemesis, kind)
		}
	}
	for name, value := range map[string]float64{"time-limit": limit, "nemesis-interval": interval, "recovery": recovery, "patience": patience} {
		if !(value > 0) {
			return 0, badArgument("--%s %v: above 0", name, value)
		}
	}
	o.TimeLimit, o.Interval, o.Recovery, o.Patience = seconds(limit), seconds(interval), seconds(recovery), seconds(patience)
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano())
	}
	if o.Binary != "" {
		path, err := cluster.Program(o.Binary)
		if err != nil {
			return 0, badArgument("--bin: %w", err)
		}
		o.Binary = path
	}
	if err := o.Check(); err != nil {
		return 0, badArgument("%w", err)
	}
	return runServices(ctx, w, o, store)
}

func runServices(ctx context.Context, w world, o services.Options, store string) (int, error) {
	dir, err := report.Create(store, o.Workload, time.Now())
	if err != nil {
		return 0, err
	}
	console, err := newConsole(w.stdout, filepath.Join(dir, "jepsen.log"), true)
	if err != nil {
		return 0, err
	}
	defer console.close()
	console.line(fmt.Sprintf("%s on %s: %d processes, %v operations/s for %v, %s; seed %d", o.Workload, o.Store, o.NodeCount, o.Rate, o.TimeLimit, faultsInWords(o.Nemesis), o.Seed))
	o.Dir = dir
	o.Log = func(format string, args ...any) { console.line(fmt.Sprintf(format, args...)) }
	run, results, err := services.Run(ctx, o)
	if err != nil {
		return 0, err
	}
	replay := strings.Join(append([]string{"maelstrom", "services"}, replayed(o)...), " ")
	if err := report.Write(dir, run, results, report.Options{Replay: replay}); err != nil {
		return 0, err
	}
	if results.Valid == check.True { // of a run that failed somebody may want to look at it
		if err := os.RemoveAll(filepath.Join(dir, "data")); err != nil {
			return 0, err
		}
	}
	console.line("")
	load, _ := results.Fields.Get("workload").(edn.Map)
	for _, p := range load {
		console.line(fmt.Sprintf("  %-18s %s", strings.TrimPrefix(string(edn.Append(nil, p.Key)), ":"), edn.Append(nil, p.Value)))
	}
	console.line(fmt.Sprintf("  %-18s %s", "faults", edn.Append(nil, results.Fields.Get("faults"))))
	console.line("")
	console.line("  " + verdictInWords(results))
	for _, reason := range results.Reasons {
		console.line("  - " + reason)
	}
	return verdictLines(console, dir, results), nil
}

// replayed are the options that draw the same clients and faults again; the timing is another each time.
func replayed(o services.Options) []string {
	all := []string{"-w", o.Workload, "--store", o.Store, "--node-count", fmt.Sprint(o.NodeCount), "--concurrency", fmt.Sprint(o.Concurrency), "--readers", fmt.Sprint(o.Readers),
		"--rate", fmt.Sprint(o.Rate), "--time-limit", fmt.Sprint(o.TimeLimit.Seconds()), "--recovery", fmt.Sprint(o.Recovery.Seconds()),
		"--patience", fmt.Sprint(o.Patience.Seconds()), "--seed", fmt.Sprint(o.Seed)}
	if o.Shards > 1 {
		all = append(all, "--shards", fmt.Sprint(o.Shards))
	}
	if len(o.Nemesis) > 0 {
		all = append(all, "--nemesis", strings.Join(o.Nemesis, ","), "--nemesis-interval", fmt.Sprint(o.Interval.Seconds()))
	}
	return all
}

// verdictLines prints where the report is, and upstream's last words; it returns the exit code.
func verdictLines(console *console, dir string, results check.Results) int {
	console.line("")
	console.line("Report: " + filepath.Join(dir, "index.html"))
	switch results.Valid {
	case check.True:
		console.line("Everything looks good! ヽ(‘ー`)ノ")
		return exitValid
	case check.Unknown:
		console.line("Errors occurred during analysis, but no anomalies found. ಠ~ಠ")
		return exitUnknown
	}
	console.line("Analysis invalid! (ﾉಥ益ಥ）ﾉ ┻━┻")
	return exitInvalid
}
