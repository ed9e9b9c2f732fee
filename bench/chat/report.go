package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// The goals: our figure over the peer's.
const (
	fanOutGoal    = 3.0  // at least, over the fastest NATS core
	idleBytesGoal = 2560 // at most
	idleGoal      = 0.25 // at most, over nchan
	durableGoal   = 4.0  // at least, over JetStream
)

// report measures every system in turn, several times, and prints the medians.
type report struct {
	out     io.Writer
	options options
	absent  map[string]string
	goals   []string
	failed  error // of ours
}

// rounds measures all systems once, then all again, and returns the results by the systems' names. A system that fails
// is left alone and gets a row that says why.
func rounds[R any](ctx context.Context, r *report, all []system, measure func(system) (R, error)) (map[string][]R, map[string]string) {
	results, remarks := map[string][]R{}, map[string]string{}
	for range r.options.rounds {
		for _, sys := range all {
			if why := r.absent[sys.name]; why != "" {
				remarks[sys.name] = why
			}
			if remarks[sys.name] != "" || ctx.Err() != nil {
				continue
			}
			result, err := measure(sys)
			if err != nil {
				remarks[sys.name] = "failed: " + strings.ReplaceAll(err.Error(), "\n", " ")
				delete(results, sys.name)
				if sys.ours {
					r.failed = errors.Join(r.failed, fmt.Errorf("%s: %w", sys.name, err))
				}
				continue
			}
			results[sys.name] = append(results[sys.name], result)
		}
	}
	for _, sys := range all {
		if len(results[sys.name]) == 0 && remarks[sys.name] == "" {
			remarks[sys.name] = "not measured" // cut short
		}
	}
	return results, remarks
}

// table prints a row of cells for each system, or the remark on it.
func (r *report) table(title string, columns []string, all []system, remarks map[string]string, cells func(name string) []string) {
	fmt.Fprintf(r.out, "%s; median of %d × %v s (min..max)\n", title, r.options.rounds, r.options.seconds)
	w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  system\t"+strings.Join(columns, "\t"))
	for _, sys := range all {
		if remark := remarks[sys.name]; remark != "" {
			fmt.Fprintf(w, "  %s\t%s\n", sys.name, remark)
		} else {
			fmt.Fprintf(w, "  %s\t%s\n", sys.name, strings.Join(cells(sys.name), "\t"))
		}
	}
	w.Flush()
	fmt.Fprintln(r.out)
}

func (r *report) fanOut(ctx context.Context, all []system) {
	o := r.options
	results, remarks := rounds(ctx, r, all, func(sys system) ([]fanOut, error) { return measureChoices(ctx, sys, o) })
	columns := []string{"in flight", "publishes/s", "deliveries/s", "", "per server CPU s", "server cores", "reader cores", "other programs",
		"writes/delivery", "p50", "p99"}
	title := fmt.Sprintf("fan-out: %d publishers, %d streams, latency at %d texts/s", o.publishers, o.streams, latencyRate)
	r.table(title, columns, all, remarks, func(name string) []string {
		got := best(results[name])
		deliveries := pick(got, fanOut.rate)
		writes := "-"
		if n := median(got, func(f fanOut) float64 { return f.writes }); n > 0 {
			writes = fmt.Sprintf("%.4f", n)
		}
		return []string{fmt.Sprint(got[0].inFlight), count(median(got, func(f fanOut) float64 { return f.publishes })),
			count(mid(deliveries)), span(deliveries, count),
			count(median(got, func(f fanOut) float64 { return f.perCPU })),
			fmt.Sprintf("%.2f", median(got, func(f fanOut) float64 { return f.cores })),
			fmt.Sprintf("%.2f", median(got, func(f fanOut) float64 { return f.reader })),
			fmt.Sprintf("%.2f", median(got, func(f fanOut) float64 { return f.noise })), writes,
			millis(median(got, func(f fanOut) float64 { return float64(f.p50) })),
			millis(median(got, func(f fanOut) float64 { return float64(f.p99) }))}
	})
	ours, fastest := median(best(results[all[0].name]), fanOut.rate), 0.0
	for _, sys := range all {
		if strings.HasPrefix(sys.name, natsCore) {
			fastest = max(fastest, median(best(results[sys.name]), fanOut.rate))
		}
	}
	r.goal("fan-out ÷ NATS core", "≥", ours/fastest, fanOutGoal)
}

func (r *report) idle(ctx context.Context, all []system) {
	results, remarks := rounds(ctx, r, all, func(sys system) (idle, error) { return measureIdle(ctx, sys, r.options) })
	title := fmt.Sprintf("idle: bytes of server memory per stream, %d streams", r.options.idle)
	columns := []string{"PSS", "", "RSS", "RSS before collection"}
	r.table(title, columns, all, remarks, func(name string) []string {
		pss := pick(results[name], func(i idle) float64 { return i.pss })
		return []string{count(mid(pss)), span(pss, count), count(median(results[name], func(i idle) float64 { return i.rss })),
			count(median(results[name], func(i idle) float64 { return i.opened }))}
	})
	ours := median(results[all[0].name], func(i idle) float64 { return i.pss })
	r.goal("idle, KiB", "≤", ours/1024, float64(idleBytesGoal)/1024)
	r.goal("idle ÷ nchan", "≤", ours/median(results[all[1].name], func(i idle) float64 { return i.pss }), idleGoal)
}

func (r *report) durable(ctx context.Context, all []system, dir string) {
	var raw []float64
	results, remarks := rounds(ctx, r, all, func(sys system) (durable, error) {
		rate, err := measureRaw(ctx, dir, r.options.duration()/4)
		if err != nil {
			return durable{}, err
		}
		raw = append(raw, rate)
		return measureDurable(ctx, sys, r.options)
	})
	title := fmt.Sprintf("durable: %d publishers, each waiting for its acknowledgement", r.options.ackers)
	columns := []string{"acks/s", "", "per server CPU s", "other programs, cores", "disk flushes/ack", "p50", "p99"}
	r.table(title, columns, all, remarks, func(name string) []string {
		got := results[name]
		acks := pick(got, func(d durable) float64 { return d.acks })
		return []string{count(mid(acks)), span(acks, count), count(median(got, func(d durable) float64 { return d.perCPU })),
			fmt.Sprintf("%.2f", median(got, func(d durable) float64 { return d.noise })),
			fmt.Sprintf("%.3f", median(got, func(d durable) float64 { return d.flushes })),
			millis(median(got, func(d durable) float64 { return float64(d.p50) })),
			millis(median(got, func(d durable) float64 { return float64(d.p99) }))}
	})
	slices.Sort(raw)
	fmt.Fprintf(r.out, "  the disk itself: %s write + fdatasync/s %s\n\n", count(mid(raw)), span(raw, count))
	ours := median(results[all[0].name], func(d durable) float64 { return d.acks })
	r.goal("durable acks ÷ JetStream", "≥", ours/median(results[all[1].name], func(d durable) float64 { return d.acks }), durableGoal)
}

// goal notes a goal; sign is ≥ or ≤. A figure that is no number, for want of a peer, is not measured.
func (r *report) goal(name, sign string, got, want float64) {
	verdict := "missed"
	switch {
	case !(got > 0 && got < 1e300):
		r.goals = append(r.goals, fmt.Sprintf("%s: not measured (goal %s %.2f)", name, sign, want))
		return
	case sign == "≥" && got >= want, sign == "≤" && got <= want:
		verdict = "met"
	}
	r.goals = append(r.goals, fmt.Sprintf("%s: %.2f (goal %s %.2f: %s)", name, got, sign, want, verdict))
}

func (r *report) printGoals() {
	for _, line := range r.goals {
		fmt.Fprintln(r.out, line)
	}
}

// pick returns one figure of every result, sorted.
func pick[R any](results []R, figure func(R) float64) []float64 {
	var picked []float64
	for _, result := range results {
		picked = append(picked, figure(result))
	}
	slices.Sort(picked)
	return picked
}

// mid is the median of sorted figures, 0 of none.
func mid(sorted []float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)/2]
}

func median[R any](results []R, figure func(R) float64) float64 { return mid(pick(results, figure)) }

// span writes the least and the most of sorted figures.
func span(sorted []float64, write func(float64) string) string {
	if len(sorted) == 0 {
		return ""
	}
	return "(" + write(sorted[0]) + ".." + write(sorted[len(sorted)-1]) + ")"
}

// count writes a whole number with a comma at every thousand.
func count(n float64) string {
	text := fmt.Sprintf("%.0f", n)
	for at := len(text) - 3; at > 0 && text[at-1] != '-'; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

func millis(nanos float64) string {
	return fmt.Sprintf("%.2f ms", nanos/float64(time.Millisecond))
}
