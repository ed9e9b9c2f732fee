package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dongne/bench/load"
	"dongne/bench/report"
)

// The goals: our figure over the peer's, all at least.
const (
	hotProcedureGoal     = 20.0
	hotCombinerGoal      = 0.7
	uniformProcedureGoal = 2.5
	uniformBoltGoal      = 1.5
	oneClientGoal        = 0.7 // over the disk's own rate
	hotUniformGoal       = 0.9 // ours over ours
	batchGoal            = 2.0 // items, over the combiner's single transfers
	etcdGoal             = 100.0
	stormGoal            = 30_000.0 // per second
)

// benchmark is what was measured, and prints the medians.
type benchmark struct {
	report.Report
	options options
	rows    []report.Row
	results map[string][]measured
	remarks map[string]string
	raw     []float64 // write + fdatasync per second
}

func (b *benchmark) print() {
	if b.options.wants("transfers") {
		b.table("transfers, accounts drawn evenly", uniformPart)
		b.table("transfers, one hot account", hotPart)
		slices.Sort(b.raw)
		fmt.Fprintf(b.Out, "the disk itself: %s write + fdatasync/s %s\n\n",
			report.Count(report.Mid(b.raw)), report.Span(b.raw, report.Count))
	}
	if b.options.wants("batch") {
		for _, items := range b.options.items {
			part := fmt.Sprint(batchPart, items)
			b.table("items per second in "+part, part)
		}
	}
	if b.options.wants("storm") {
		b.table("replays, none with an effect", stormPart)
	}
	b.noteGoals()
	b.PrintGoals()
}

// table prints a part for all systems that have it: a rate for each number of clients, the rest for the most clients.
func (b *benchmark) table(title, part string) {
	var clients []int
	rows := slices.DeleteFunc(slices.Clone(b.rows), func(row report.Row) bool {
		for _, m := range b.results[row.Name] {
			for c := range m {
				if c.part == part && !slices.Contains(clients, c.clients) {
					clients = append(clients, c.clients)
				}
			}
		}
		return len(b.results[row.Name]) > 0 && !slices.ContainsFunc(b.results[row.Name], func(m measured) bool { return m.has(part) })
	})
	slices.Sort(clients)
	var columns []string
	for _, n := range clients {
		columns = append(columns, fmt.Sprintf("%d clients", n), "")
	}
	columns = append(columns, "p50", "p99", "per server CPU s", "disk flushes each", "other programs, cores")
	title = fmt.Sprintf("%s; median of %d × %v s (min..max)", title, b.options.rounds, b.options.seconds)
	b.Table(title, columns, rows, b.remarks, func(name string) []string {
		var cells []string
		for _, n := range clients {
			rates := report.Pick(b.of(name, cell{part, n}), func(f figures) float64 { return f.perSecond })
			cells = append(cells, report.Count(report.Mid(rates)), report.Span(rates, report.Count))
		}
		got := b.of(name, cell{part, slices.Max(clients)})
		return append(cells,
			report.Millis(report.Median(got, func(f figures) float64 { return float64(f.p50) })),
			report.Millis(report.Median(got, func(f figures) float64 { return float64(f.p99) })),
			report.Count(report.Median(got, func(f figures) float64 { return f.perCPU })),
			fmt.Sprintf("%.4f", report.Median(got, func(f figures) float64 { return f.flushes })),
			fmt.Sprintf("%.2f", report.Median(got, func(f figures) float64 { return f.noise })))
	})
}

func (m measured) has(part string) bool {
	for c := range m {
		if c.part == part {
			return true
		}
	}
	return false
}

// of returns the figures of a system's cell in all rounds.
func (b *benchmark) of(name string, c cell) (all []figures) {
	for _, m := range b.results[name] {
		if f, ok := m[c]; ok {
			all = append(all, f)
		}
	}
	return all
}

func (b *benchmark) noteGoals() {
	rate := func(name, part string, clients int) float64 {
		return report.Median(b.of(name, cell{part, clients}), func(f figures) float64 { return f.perSecond })
	}
	if b.options.wants("transfers") {
		ours := rate(oursName, hotPart, 64)
		b.Goal("hot, 64 clients ÷ procedure", "≥", ours/rate(procedureName, hotPart, 64), hotProcedureGoal)
		b.Goal("hot, 64 clients ÷ sets of 64", "≥", ours/rate(combinerName, hotPart, 64), hotCombinerGoal)
		for _, n := range []int{16, 64} {
			ours := rate(oursName, uniformPart, n)
			b.Goal(fmt.Sprintf("uniform, %d clients ÷ procedure", n), "≥", ours/rate(procedureName, uniformPart, n), uniformProcedureGoal)
			b.Goal(fmt.Sprintf("uniform, %d clients ÷ bbolt's Batch", n), "≥", ours/rate(boltBatchName, uniformPart, n), uniformBoltGoal)
		}
		b.Goal("one client ÷ the disk's own rate", "≥", rate(oursName, uniformPart, 1)/report.Mid(b.raw), oneClientGoal)
		b.Goal("hot ÷ uniform, 64 clients", "≥", ours/rate(oursName, uniformPart, 64), hotUniformGoal)
		b.Goal("on etcd: hot, 64 clients ÷ naive CAS", "≥", rate(oursEtcdName, hotPart, 64)/rate(casName, hotPart, 64), etcdGoal)
	}
	if b.options.wants("batch") {
		part := fmt.Sprint(batchPart, slices.Max(b.options.items))
		ours := rate(oursName, part, b.options.batchers)
		if b.options.wants("transfers") {
			b.Goal(part+" items ÷ sets of 64, single transfers", "≥", ours/rate(combinerName, uniformPart, 64), batchGoal)
		}
		b.Goal(part+" items ÷ the same of PostgreSQL", "≥", ours/rate(combinerName, part, b.options.batchers), batchGoal)
	}
	if b.options.wants("storm") {
		b.Goal("replays per second", "≥", rate(oursName, stormPart, 64), stormGoal)
	}
}

// profiler returns what saves a CPU profile of ours, as long as a measurement takes; nil: there is no folder for it.
func (o options) profiler(s *server, sys system, c cell) func(context.Context) error {
	if o.profile == "" || s.debug == "" {
		return nil
	}
	return func(ctx context.Context) error {
		seconds := max(1, int(o.duration()/time.Second))
		profile, err := load.Get(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", s.debug, seconds))
		if err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		name := strings.NewReplacer(" ", "-", ",", "").Replace(fmt.Sprintf("%s-%s-%d.pprof", sys.name, c.part, c.clients))
		return os.WriteFile(filepath.Join(o.profile, name), profile, 0o600)
	}
}
