// Gateway measures our gateway beside nginx and Caddy, in turn in one run, and prints the ratios: what a GET with a token
// costs that a service answers with 200 bytes.
//
//   - ours: the gateway as it comes, which verifies the token by itself; and the same without a token;
//   - nginx, bare: a proxy that asks nobody; nginx + auth_request: it asks our auth, as dongne/auth/forward documents;
//   - Caddy in the same two ways;
//   - what Go's library has, httputil.ReverseProxy on http.Transport, without a log or anything else, for comparison.
//
// Run it in the folder bench: go run ./gateway. wrk, nginx and caddy are Debian's; wrk must be there, a proxy that is not
// installed is left out, and says how to install it.
//
// The load is wrk with one thread, over connections that each wait for their answer; so requests/s and the quantiles are
// those of a full proxy. The service is a lean one in this process, the same for all. Every proxy keeps its connections and writes an
// access log to a file. The cost of a request is the user and system time of all processes of the proxy, and of auth,
// over the number of requests. Before and after each measurement it is checked that a proxy that authenticates lets nobody in
// without a token that is good, and tells the service who calls. The exit code is not zero when ours fails.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"dongne/bench/authserver"
	"dongne/bench/report"
)

// The goals.
const (
	cpuGoal     = 55.0 // µs of CPU for a request of ours, at most
	authGoal    = 0.6  // of nginx + auth_request, at most
	caddyGoal   = 0.7  // of Caddy, at most
	bareGoal    = 5.0  // of nginx that asks nobody, at most
	bareStretch = 2.5
)

// options are the flags.
type options struct {
	seconds     float64
	rounds      int
	connections int
	only        string
	profile     string
}

func (o options) duration() time.Duration { return time.Duration(o.seconds * float64(time.Second)) }

func main() {
	stockMain()
	var o options
	flag.Float64Var(&o.seconds, "seconds", 5, "length of a measurement, in whole seconds")
	flag.IntVar(&o.rounds, "rounds", 3, "measurements of each system")
	flag.IntVar(&o.connections, "connections", 64, "connections of wrk")
	flag.StringVar(&o.only, "only", "", "words, separated by commas, with one of which a system's name begins; empty: all")
	flag.StringVar(&o.profile, "profile", "", "folder for profiles of ours; empty: none")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}

// run measures and prints. The error is about ours; what goes wrong with a peer stands in its row.
func run(ctx context.Context, o options, out io.Writer) error {
	dir, err := os.MkdirTemp("", "dongne-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	found, err := findSystems(ctx, dir)
	if err != nil {
		return err
	}
	if o.only != "" {
		found.all = slices.DeleteFunc(found.all, func(s system) bool {
			return !slices.ContainsFunc(strings.Split(o.only, ","), func(word string) bool { return strings.HasPrefix(s.name, word) })
		})
	}
	return compare(ctx, o, found, dir, out)
}

// compare measures every system in turn, several times, and prints the medians.
func compare(ctx context.Context, o options, found systems, dir string, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	service, err := startUpstream(ctx)
	if err != nil {
		return err
	}
	auth, err := authserver.Start(ctx, found.auth, filepath.Join(dir, "auth"), 1)
	if err != nil {
		return err
	}
	defer auth.Process.Stop()
	r := report.Report{Out: out}
	rows := make([]report.Row, len(found.all))
	for i, sys := range found.all {
		rows[i] = report.Row{Name: sys.name, Ours: sys.ours, Absent: found.absent[sys.name]}
	}
	results, remarks := report.Rounds(ctx, &r, o.rounds, rows, func(i int) (result, error) {
		return measure(ctx, found.all[i], auth, service, o)
	})
	table(&r, o, rows, results, remarks)
	goals(&r, results)
	r.PrintGoals()
	return errors.Join(r.Failed, ctx.Err())
}

func table(r *report.Report, o options, rows []report.Row, results map[string][]result, remarks map[string]string) {
	title := fmt.Sprintf("GET of %d bytes with a token, %d connections; median of %d × %v s (min..max)", answerBytes, o.connections, o.rounds, o.seconds)
	columns := []string{"CPU/request", "", "of it auth", "÷ ours", "requests/s", "", "p50", "p99", "other programs, cores"}
	own := report.Median(results[ours], result.cpu)
	r.Table(title, columns, rows, remarks, func(name string) []string {
		got := results[name]
		cpu := report.Pick(got, result.cpu)
		rate := report.Pick(got, func(r result) float64 { return r.perSecond })
		ratio := "-"
		if own > 0 {
			ratio = fmt.Sprintf("%.2f", report.Mid(cpu)/own)
		}
		return []string{micros(report.Mid(cpu)), report.Span(cpu, micros), micros(report.Median(got, func(r result) float64 { return r.authCPU })), ratio,
			report.Count(report.Mid(rate)), report.Span(rate, report.Count),
			report.Millis(report.Median(got, func(r result) float64 { return float64(r.p50) })),
			report.Millis(report.Median(got, func(r result) float64 { return float64(r.p99) })),
			fmt.Sprintf("%.2f", report.Median(got, func(r result) float64 { return r.noise }))}
	})
}

func goals(r *report.Report, results map[string][]result) {
	cost := func(name string) float64 { return report.Median(results[name], result.cpu) }
	own := cost(ours)
	r.Goal("CPU of a request, µs", "≤", own/1000, cpuGoal)
	r.Goal("÷ nginx + auth_request", "≤", own/cost(nginxAuth), authGoal)
	r.Goal("÷ Caddy + forward_auth", "≤", own/cost(caddyAuth), caddyGoal)
	r.Goal("÷ Caddy, bare", "≤", own/cost(caddyBare), caddyGoal)
	r.Goal("÷ nginx, bare", "≤", own/cost(nginxBare), bareGoal)
	r.Goal("÷ nginx, bare (stretch)", "≤", own/cost(nginxBare), bareStretch)
}

// micros writes nanoseconds as microseconds.
func micros(nanos float64) string { return fmt.Sprintf("%.1f µs", nanos/1000) }
