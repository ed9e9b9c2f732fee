package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// wrk is what Debian's wrk found.
type wrk struct {
	requests  int
	took      time.Duration
	perSecond float64
	p50, p99  time.Duration
}

// runWrk loads url for d over connections that each wait for their answer. Any answer but 2xx and 3xx is an error.
func runWrk(ctx context.Context, url, header string, connections int, d time.Duration) (wrk, error) {
	args := []string{"-t1", "-c" + strconv.Itoa(connections), "-d" + strconv.Itoa(max(1, int(d.Round(time.Second).Seconds()))) + "s", "--latency"}
	if header != "" {
		args = append(args, "-H", header)
	}
	out, err := exec.CommandContext(ctx, "wrk", append(args, url)...).CombinedOutput()
	if err != nil {
		return wrk{}, fmt.Errorf("wrk: %w: %s", err, out)
	}
	return parseWrk(string(out))
}

var (
	wrkTotal    = regexp.MustCompile(`(\d+) requests in ([\d.]+\w+),`)
	wrkQuantile = regexp.MustCompile(`(?m)^\s+(50|99)%\s+([\d.]+\w+)$`)
)

// parseWrk reads the text that wrk prints.
func parseWrk(text string) (w wrk, err error) {
	for _, bad := range []string{"Non-2xx or 3xx responses", "Socket errors"} {
		if at := strings.Index(text, bad); at >= 0 {
			line, _, _ := strings.Cut(text[at:], "\n")
			return w, fmt.Errorf("wrk: %s", line)
		}
	}
	total := wrkTotal.FindStringSubmatch(text)
	if total == nil {
		return w, fmt.Errorf("wrk: no total in %q", text)
	}
	if w.requests, err = strconv.Atoi(total[1]); err == nil {
		w.took, err = wrkDuration(total[2])
	}
	if err != nil || w.requests == 0 || w.took == 0 {
		return w, fmt.Errorf("wrk: %q: %w", total[0], err)
	}
	w.perSecond = float64(w.requests) / w.took.Seconds()
	for _, m := range wrkQuantile.FindAllStringSubmatch(text, -1) {
		to := &w.p50
		if m[1] == "99" {
			to = &w.p99
		}
		if *to, err = wrkDuration(m[2]); err != nil {
			return w, err
		}
	}
	if w.p50 == 0 || w.p99 == 0 {
		return w, fmt.Errorf("wrk: no quantiles in %q", text)
	}
	return w, nil
}

// wrkDuration reads wrk's durations, which are Go's but for "2.00m".
func wrkDuration(text string) (time.Duration, error) { return time.ParseDuration(text) }
