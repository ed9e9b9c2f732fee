package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"dongne/bench/authserver"
	"dongne/bench/load"
	"dongne/bench/proc"
	"dongne/bench/report"
)

const (
	stormGoal = 2.0 // of the p99 without log-ins, at most
	askers    = 8   // connections that are asked in turn
	askEvery  = 2 * time.Millisecond
)

// A storm is what log-ins did to those who verify.
type storm struct {
	quiet, during [2]quantiles // in chat, in auth
	logins        float64      // a second that were let in
	busy          float64      // a second that were told to come back
}

type quantiles struct{ p50, p99 time.Duration }

var verifiers = [2]string{"chat, with AUTH_URL", "auth itself"}

// logIns measures verification beside log-ins.
func (b *bench) logIns(ctx context.Context) {
	rows := []report.Row{{Name: verifiers[0], Ours: true}, {Name: verifiers[1], Ours: true}}
	results, remarks := report.Rounds(ctx, &b.Report, b.options.rounds, rows[:1], func(int) (storm, error) { return b.storm(ctx) })
	all := results[verifiers[0]]
	remarks[verifiers[1]] = remarks[verifiers[0]]
	columns := []string{"p50", "p99", "p50 beside log-ins", "p99 beside log-ins", "p99 ÷ p99", "log-ins/s", "told to wait/s"}
	title := b.title(fmt.Sprintf("GET with a token, each %v, beside %d parallel log-ins", askEvery, b.options.logins))
	b.Table(title, columns, rows, remarks, func(name string) []string {
		of := index(name)
		mid := func(pick func(s storm) time.Duration) string {
			return report.Millis(report.Median(all, func(s storm) float64 { return float64(pick(s)) }))
		}
		return []string{
			mid(func(s storm) time.Duration { return s.quiet[of].p50 }),
			mid(func(s storm) time.Duration { return s.quiet[of].p99 }),
			mid(func(s storm) time.Duration { return s.during[of].p50 }),
			mid(func(s storm) time.Duration { return s.during[of].p99 }),
			fmt.Sprintf("%.2f", report.Median(all, func(s storm) float64 { return s.ratio(of) })),
			fmt.Sprintf("%.1f", report.Median(all, func(s storm) float64 { return s.logins })),
			report.Count(report.Median(all, func(s storm) float64 { return s.busy })),
		}
	})
	for i, name := range verifiers {
		b.Goal("p99 beside log-ins ÷ alone, "+name, "≤", report.Median(all, func(s storm) float64 { return s.ratio(i) }), stormGoal)
	}
}

func index(name string) int {
	if name == verifiers[0] {
		return 0
	}
	return 1
}

func (s storm) ratio(of int) float64 { return float64(s.during[of].p99) / float64(s.quiet[of].p99) }

// storm is one measurement: alone first, and then beside log-ins.
func (b *bench) storm(ctx context.Context) (s storm, err error) {
	dir, err := b.folder()
	if err != nil {
		return s, err
	}
	auth, err := authserver.Start(ctx, b.auth, dir, 4)
	if err != nil {
		return s, err
	}
	defer auth.Process.Stop()
	chatAddr, chat, err := b.startChat(ctx, auth)
	if err != nil {
		return s, err
	}
	defer chat.Stop()
	pair, err := auth.LogIn(ctx, 0)
	if err != nil {
		return s, err
	}
	ask := func() (both [2]quantiles, err error) { // at the same time, so that what else happens here happens to both
		var all sync.WaitGroup
		var errs [2]error
		for of, addr := range [2]string{chatAddr, auth.Addr} {
			all.Go(func() { both[of], errs[of] = probe(ctx, addr, pair, b.options.duration()) })
		}
		all.Wait()
		return both, errors.Join(errs[0], errs[1])
	}
	if s.quiet, err = ask(); err != nil {
		return s, err
	}
	inner, cancel := context.WithCancel(ctx)
	var in, busy atomic.Int64
	began := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- logIns(inner, auth, b.options.logins, &in, &busy) }()
	for err == nil && in.Load() == 0 && len(ended) == 0 { // until the first is in: the queue stands
		err = load.Wait(ctx, askEvery)
	}
	if err == nil && in.Load() > 0 {
		s.during, err = ask()
	}
	elapsed := time.Since(began).Seconds()
	s.logins, s.busy = float64(in.Load())/elapsed, float64(busy.Load())/elapsed
	cancel()
	err = errors.Join(err, <-ended)
	if err == nil && in.Load() == 0 {
		err = errors.New("nobody was logged in meanwhile")
	}
	return s, err
}

func (b *bench) startChat(ctx context.Context, auth *authserver.Server) (addr string, p *proc.Process, err error) {
	addrs, ports, err := proc.FreeAddrs(1)
	if err != nil {
		return "", nil, err
	}
	dir, err := b.folder()
	if err != nil {
		return "", nil, err
	}
	env := []string{"HOST=127.0.0.1", "PORT=" + ports[0], "DATA_DIR=" + dir, "AUTH_URL=http://" + auth.Addr,
		"LOGS_URL=", "DEBUG_ADDR=", "LOG_LEVEL=warn"}
	if p, err = proc.Start(env, b.chat); err != nil {
		return "", nil, err
	}
	err = p.Await(ctx, func() error { _, err := load.Get(ctx, "http://"+addrs[0]+"/ready"); return err })
	if err != nil {
		p.Stop()
	}
	return addrs[0], p, err
}

// probe asks a service who calls, at a steady pace and whatever the answers take, over connections in turn. A request that is
// late because the one before it on its connection took so long counts from when it was due.
func probe(ctx context.Context, addr string, pair authserver.Pair, d time.Duration) (quantiles, error) {
	ctx, cancel := context.WithTimeout(ctx, d+10*time.Second)
	defer cancel()
	due := make(chan time.Time, int(d/askEvery)+1)
	var all sync.WaitGroup
	var mu sync.Mutex
	var took []time.Duration
	var failed error
	for range askers {
		conn, err := load.DialHTTP(ctx, addr)
		if err != nil {
			return quantiles{}, err
		}
		all.Go(func() {
			defer conn.Close()
			for at := range due {
				status, answer, err := conn.Do("GET", "/whoami", pair.Bearer(), nil)
				if err == nil && status != http.StatusOK {
					err = fmt.Errorf("whoami: status %d: %s", status, answer)
				}
				mu.Lock()
				took, failed = append(took, time.Since(at)), errors.Join(failed, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < d; {
		due <- <-tick.C
	}
	close(due)
	all.Wait()
	var q quantiles
	q.p50, q.p99 = report.Quantiles(took)
	return q, failed
}

// logIns keeps n log-ins under way until ctx ends: each client that was told to come back does so after a moment.
func logIns(ctx context.Context, auth *authserver.Server, n int, in, busy *atomic.Int64) error {
	var all sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for i := range n {
		all.Go(func() {
			err := logInUntil(ctx, auth, i, in, busy)
			if err != nil && ctx.Err() == nil {
				mu.Lock()
				failed = errors.Join(failed, err)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return failed
}

func logInUntil(ctx context.Context, auth *authserver.Server, i int, in, busy *atomic.Int64) error {
	conn, err := load.DialHTTP(ctx, auth.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	body := auth.LogInBody(i)
	for ctx.Err() == nil {
		status, answer, err := conn.Do("POST", "/login", "Content-Type: application/json\r\n", body)
		switch {
		case err != nil:
			return err
		case status == http.StatusOK:
			in.Add(1)
		case status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests:
			busy.Add(1)
			if load.Wait(ctx, time.Second) != nil {
				return nil
			}
		default:
			return fmt.Errorf("log-in: status %d: %s", status, answer)
		}
	}
	return nil
}
