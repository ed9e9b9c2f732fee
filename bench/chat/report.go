package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"dongne/bench/proc"
	"dongne/bench/report"
)

// The goals: our figure over the peer's.
const (
	fanOutGoal    = 3.0  // at least, over the fastest NATS core
	idleBytesGoal = 2560 // at most
	idleGoal      = 0.25 // at most, over nchan
	durableGoal   = 4.0  // at least, over JetStream
)

// benchmark measures every system in turn, several times, and prints the medians.
type benchmark struct {
	report.Report
	options options
	absent  map[string]string
}

func (b *benchmark) rows(all []system) []report.Row {
	rows := make([]report.Row, len(all))
	for i, sys := range all {
		rows[i] = report.Row{Name: sys.name, Ours: sys.ours, Absent: b.absent[sys.name]}
	}
	return rows
}

// table prints a row of cells for each system, or the remark on it.
func (b *benchmark) table(title string, columns []string, all []system, remarks map[string]string, cells func(name string) []string) {
	title = fmt.Sprintf("%s; median of %d × %v s (min..max)", title, b.options.rounds, b.options.seconds)
	b.Table(title, columns, b.rows(all), remarks, cells)
}

func (b *benchmark) fanOut(ctx context.Context, all []system) {
	o := b.options
	results, remarks := report.Rounds(ctx, &b.Report, o.rounds, b.rows(all), func(i int) ([]fanOut, error) {
		return measureChoices(ctx, all[i], o)
	})
	columns := []string{"in flight", "publishes/s", "deliveries/s", "", "per server CPU s", "server cores", "reader cores", "other programs",
		"writes/delivery", "p50", "p99"}
	title := fmt.Sprintf("fan-out: %d publishers, %d streams, latency at %d texts/s", o.publishers, o.streams, latencyRate)
	b.table(title, columns, all, remarks, func(name string) []string {
		got := best(results[name])
		deliveries := report.Pick(got, fanOut.rate)
		writes := "-"
		if n := report.Median(got, func(f fanOut) float64 { return f.writes }); n > 0 {
			writes = fmt.Sprintf("%.4f", n)
		}
		return []string{fmt.Sprint(got[0].inFlight), report.Count(report.Median(got, func(f fanOut) float64 { return f.publishes })),
			report.Count(report.Mid(deliveries)), report.Span(deliveries, report.Count),
			report.Count(report.Median(got, func(f fanOut) float64 { return f.perCPU })),
			fmt.Sprintf("%.2f", report.Median(got, func(f fanOut) float64 { return f.cores })),
			fmt.Sprintf("%.2f", report.Median(got, func(f fanOut) float64 { return f.reader })),
			fmt.Sprintf("%.2f", report.Median(got, func(f fanOut) float64 { return f.noise })), writes,
			report.Millis(report.Median(got, func(f fanOut) float64 { return float64(f.p50) })),
			report.Millis(report.Median(got, func(f fanOut) float64 { return float64(f.p99) }))}
	})
	ours, fastest := report.Median(best(results[all[0].name]), fanOut.rate), 0.0
	for _, sys := range all {
		if strings.HasPrefix(sys.name, natsCore) {
			fastest = max(fastest, report.Median(best(results[sys.name]), fanOut.rate))
		}
	}
	b.Goal("fan-out ÷ NATS core", "≥", ours/fastest, fanOutGoal)
}

func (b *benchmark) idle(ctx context.Context, all []system) {
	results, remarks := report.Rounds(ctx, &b.Report, b.options.rounds, b.rows(all), func(i int) (idle, error) {
		return measureIdle(ctx, all[i], b.options)
	})
	title := fmt.Sprintf("idle: bytes of server memory per stream, %d streams", b.options.idle)
	columns := []string{"PSS", "", "RSS", "RSS before collection"}
	b.table(title, columns, all, remarks, func(name string) []string {
		pss := report.Pick(results[name], func(i idle) float64 { return i.pss })
		return []string{report.Count(report.Mid(pss)), report.Span(pss, report.Count),
			report.Count(report.Median(results[name], func(i idle) float64 { return i.rss })),
			report.Count(report.Median(results[name], func(i idle) float64 { return i.opened }))}
	})
	ours := report.Median(results[all[0].name], func(i idle) float64 { return i.pss })
	b.Goal("idle, KiB", "≤", ours/1024, float64(idleBytesGoal)/1024)
	b.Goal("idle ÷ nchan", "≤", ours/report.Median(results[all[1].name], func(i idle) float64 { return i.pss }), idleGoal)
}

func (b *benchmark) durable(ctx context.Context, all []system, dir string) {
	var raw []float64
	results, remarks := report.Rounds(ctx, &b.Report, b.options.rounds, b.rows(all), func(i int) (durable, error) {
		rate, err := proc.RawSyncs(ctx, dir, b.options.duration()/4)
		if err != nil {
			return durable{}, err
		}
		raw = append(raw, rate)
		return measureDurable(ctx, all[i], b.options)
	})
	title := fmt.Sprintf("durable: %d publishers, each waiting for its acknowledgement", b.options.ackers)
	columns := []string{"acks/s", "", "per server CPU s", "other programs, cores", "disk flushes/ack", "p50", "p99"}
	b.table(title, columns, all, remarks, func(name string) []string {
		got := results[name]
		acks := report.Pick(got, func(d durable) float64 { return d.acks })
		return []string{report.Count(report.Mid(acks)), report.Span(acks, report.Count), report.Count(report.Median(got, func(d durable) float64 { return d.perCPU })),
			fmt.Sprintf("%.2f", report.Median(got, func(d durable) float64 { return d.noise })),
			fmt.Sprintf("%.3f", report.Median(got, func(d durable) float64 { return d.flushes })),
			report.Millis(report.Median(got, func(d durable) float64 { return float64(d.p50) })),
			report.Millis(report.Median(got, func(d durable) float64 { return float64(d.p99) }))}
	})
	slices.Sort(raw)
	fmt.Fprintf(b.Out, "  the disk itself: %s write + fdatasync/s %s\n\n", report.Count(report.Mid(raw)), report.Span(raw, report.Count))
	ours := report.Median(results[all[0].name], func(d durable) float64 { return d.acks })
	b.Goal("durable acks ÷ JetStream", "≥", ours/report.Median(results[all[1].name], func(d durable) float64 { return d.acks }), durableGoal)
}
