package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"dongne/maelstrom/check"
	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
	"dongne/maelstrom/interpreter"
	"dongne/maelstrom/network"
	"dongne/maelstrom/report"
)

// conclusion is what is printed when a run is over, but for the last line.
func conclusion(run *history.Run, results check.Results, o *options) []string {
	lines := []string{""}
	add := func(name, format string, args ...any) {
		lines = append(lines, fmt.Sprintf("  %-12s %s", name, fmt.Sprintf(format, args...)))
	}
	stats, _ := results.Fields.Get("stats").(edn.Map)
	add("operations", "%v: %v ok, %v failed, %v unknown", stats.Get("count"), stats.Get("ok-count"), stats.Get("fail-count"), stats.Get("info-count"))
	net, _ := results.Fields.Get("net").(edn.Map)
	servers, _ := net.Get("servers").(edn.Map)
	perOp, counted := servers.Get("msgs-per-op").(float64)
	messages := fmt.Sprintf("%d with clients, %d between nodes", run.Journal.Clients.Sent, run.Journal.Servers.Sent)
	if counted {
		messages += fmt.Sprintf(" (%.2f per operation)", perOp)
	}
	add("messages", "%s, %d dropped by partitions", messages, run.Journal.Dropped)
	if faults := run.Faults(); len(faults) > 0 {
		add("faults", "%s", countFaults(faults))
	}
	load, _ := results.Fields.Get("workload").(edn.Map)
	latencies, measured := load.Get("stable-latencies").(edn.Map)
	if measured {
		add("propagation", "stable-latencies %s", quantiles(latencies))
	}
	if reads, counted := load.Get("read-count").(int); counted {
		add("counter", "final reads %s, acceptable %s; %v of %d reads stale, by %v ms at most", edn.Append(nil, load.Get("final-reads")),
			edn.Append(nil, load.Get("acceptable")), load.Get("stale-count"), reads, load.Get("worst-stale-ms"))
	}
	if done, is := load.Get("done-count").(int); is {
		add("bank", "%d transfers, holds and ends of holds done, %v refused, %v unknown; %v asked for again", done, load.Get("refused-count"),
			load.Get("unknown-count"), load.Get("repeat-count"))
	}
	lines = append(lines, o.challenge(perOp, latencies)...)
	lines = append(lines, "", "  "+verdictInWords(results))
	for _, reason := range results.Reasons {
		lines = append(lines, "  - "+reason)
	}
	strict, _ := results.Fields.Get("strict").(edn.Map)
	notes, _ := strict.Get("notes").(edn.Vector)
	for _, note := range notes {
		lines = append(lines, fmt.Sprintf("  Note: %v", note))
	}
	lines = append(lines, evidence(run.Findings)...)
	if results.Ours != results.Upstream {
		lines = append(lines, fmt.Sprintf("  Upstream's checkers would say %v, ours say %v.", results.Upstream, results.Ours))
	}
	return lines
}

const (
	findingsShown = 3 // with what the node printed; the report has all
	tailShown     = 8 // lines
)

// evidence is what nodes printed where they broke the protocol, or before they ended.
func evidence(findings []history.Finding) []string {
	var lines []string
	shown := 0
	for _, f := range findings {
		if f.Kind == history.LateReply || f.Line == "" && len(f.Tail) == 0 {
			continue
		}
		if shown++; shown > findingsShown {
			break
		}
		lines = append(lines, fmt.Sprintf("  %s at %.1f s:", f.Node, max(0, f.Time.Seconds())))
		if f.Line != "" {
			lines = append(lines, "    | "+f.Line)
		}
		tail := slices.DeleteFunc(slices.Clone(f.Tail), func(line string) bool { return !strings.HasPrefix(line, "stderr: ") })
		if len(tail) == 0 {
			tail = f.Tail
		}
		for _, line := range tail[max(0, len(tail)-tailShown):] {
			lines = append(lines, "    | "+line)
		}
	}
	return lines
}

// faultInWords is the line of a fault that begins or ends.
func faultInWords(f *interpreter.Fault, nodes []string) string {
	if !f.Begin {
		return f.F
	}
	return f.F + ": " + report.Describe(f.Kind, f.Value, nodes)
}

func countFaults(faults []history.Fault) string {
	var names []string
	count, total := map[string]int{}, map[string]time.Duration{}
	for _, f := range faults {
		if count[f.Name]++; count[f.Name] == 1 {
			names = append(names, f.Name)
		}
		total[f.Name] += f.To - f.From
	}
	for i, name := range names {
		names[i] = fmt.Sprintf("%d × %s, %.1f s in all", count[name], name, total[name].Seconds())
	}
	return strings.Join(names, "; ")
}

func quantiles(latencies edn.Map) string {
	var parts []string
	for _, p := range latencies {
		parts = append(parts, fmt.Sprintf("%v: %v ms", p.Key, p.Value))
	}
	return strings.Join(parts, ", ")
}

func verdictInWords(r check.Results) string {
	switch {
	case r.Valid == check.Unknown && r.Vacuous != "":
		return "VACUOUS: " + r.Vacuous
	case r.Valid == check.True:
		return "VALID"
	case r.Valid == check.False:
		return "INVALID"
	}
	return "UNKNOWN"
}

// challenge compares with the targets of Gossip Glomers 3d and 3e (fly.io/dist-sys), where the run is theirs: broadcast
// with 25 nodes at 100 ms and 100 operations a second.
func (o *options) challenge(perOp float64, latencies edn.Map) []string {
	if o.workload != "broadcast" || len(o.nodes) != 25 || o.latency != 100*time.Millisecond || o.spread != network.Constant ||
		o.rate < 100 || latencies == nil {
		return nil
	}
	median, worst := milliseconds(latencies, 0.5), milliseconds(latencies, 1)
	var lines []string
	for _, target := range []struct {
		name                 string
		perOp, median, worst float64
	}{{"3d", 30, 400, 600}, {"3e", 20, 1000, 2000}} {
		verdict := "met"
		if perOp >= target.perOp || median >= target.median || worst >= target.worst {
			verdict = "missed"
		}
		lines = append(lines, fmt.Sprintf("  %-12s %s: %.2f messages per operation (below %v), median %v ms (below %v), maximum %v ms (below %v): %s",
			"challenge", target.name, perOp, target.perOp, median, target.median, worst, target.worst, verdict))
	}
	return lines
}

func milliseconds(latencies edn.Map, quantile float64) float64 {
	for _, p := range latencies {
		if key, err := strconv.ParseFloat(fmt.Sprint(p.Key), 64); err == nil && key == quantile {
			ms, _ := strconv.ParseFloat(fmt.Sprint(p.Value), 64)
			return ms
		}
	}
	return 0
}

// replay is the command line that does the same again.
func (o *options) replay(simulated bool) string {
	parts := []string{"maelstrom", "test", "-w", o.workload}
	if simulated {
		parts[1] = "sim"
	}
	option := func(name string, value any) { parts = append(parts, "--"+name, quoted(fmt.Sprint(value))) }
	if o.bin != "" {
		option("bin", o.bin)
	}
	if o.mutant != "" {
		option("mutant", o.mutant)
	}
	option("nodes", strings.Join(o.nodes, ","))
	option("concurrency", o.concurrency)
	option("rate", o.rate)
	option("time-limit", int(o.timeLimit.Seconds()))
	option("latency", o.latency.Milliseconds())
	option("latency-dist", string(o.spread))
	if len(o.nemesis) > 0 {
		option("nemesis", strings.Join(o.nemesis, ","))
		option("nemesis-interval", o.interval.Seconds())
	}
	if o.nemesisSeed != 0 {
		option("nemesis-seed", o.nemesisSeed)
	}
	if o.topologySet {
		option("topology", o.topology)
	}
	option("recovery", o.recovery.Seconds())
	if o.available > 0 {
		option("availability", o.available)
	}
	if o.fresh {
		option("staleness", o.staleness.Seconds())
	}
	if o.compat {
		parts = append(parts, "--compat")
	}
	option("seed", o.seed)
	if len(o.args) > 0 {
		parts = append(parts, "--")
		for _, a := range o.args {
			parts = append(parts, quoted(a))
		}
	}
	return strings.Join(parts, " ")
}

// quoted returns the argument as a shell takes it.
func quoted(s string) string {
	plain := func(c rune) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("-_./,:=+@%", c)
	}
	if s != "" && strings.IndexFunc(s, func(c rune) bool { return !plain(c) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
