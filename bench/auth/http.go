package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"dongne/bench/authserver"
	"dongne/bench/load"
	"dongne/bench/proc"
	"dongne/bench/report"
)

const (
	refreshGoal    = 2000.0   // per second and core, at least
	introspectGoal = 10_000.0 // likewise
	sessionsEach   = 50       // of a user; auth keeps 100
)

// A rate is what clients got done.
type rate struct {
	perSecond float64
	perCore   float64
	cores     float64
	flushes   float64 // of the disk, for each request
	p50, p99  time.Duration
}

// work runs one worker for each client until the time is over; each call is one request. It measures auth meanwhile.
func (b *bench) work(ctx context.Context, auth *authserver.Server, part, debug string, workers []func() error) (r rate, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.options.duration())
	defer cancel()
	saved := make(chan error, 1)
	go func() { saved <- b.saveProfile(debug, part) }()
	before, err1 := auth.Process.CPU()
	flushed, err2 := proc.Flushes(b.dir)
	began := time.Now()
	var mu sync.Mutex
	var took []time.Duration
	var failed error
	var all sync.WaitGroup
	for _, request := range workers {
		all.Go(func() {
			own := make([]time.Duration, 0, 1<<16)
			for ctx.Err() == nil {
				at := time.Now()
				if err := request(); err != nil {
					mu.Lock()
					defer mu.Unlock()
					failed = errors.Join(failed, err)
					cancel()
					return
				}
				own = append(own, time.Since(at))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
		})
	}
	all.Wait()
	elapsed := time.Since(began)
	after, err3 := auth.Process.CPU()
	n := float64(len(took))
	if err := errors.Join(failed, err1, err3, <-saved); err != nil {
		return r, err
	}
	if flushedAfter, err := proc.Flushes(b.dir); err == nil && err2 == nil {
		r.flushes = float64(flushedAfter-flushed) / n
	}
	r.perSecond, r.perCore, r.cores = n/elapsed.Seconds(), n/(after-before).Seconds(), (after-before).Seconds()/elapsed.Seconds()
	r.p50, r.p99 = report.Quantiles(took)
	return r, nil
}

// saveProfile writes auth's CPU profile of the time of a measurement, if it is wanted.
func (b *bench) saveProfile(debug, part string) error {
	if debug == "" {
		return nil
	}
	profile, err := load.Get(context.Background(), fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", debug, max(1, int(b.options.seconds))))
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	return os.WriteFile(b.profileFile(part), profile, 0o600)
}

// A newWorker makes a session's worker: each call of request is one request, and check is called at the end.
type newWorker func(ctx context.Context, addr string, p authserver.Pair) (request, check func() error, err error)

// overHTTP measures a part with a fresh auth each round. workers makes one worker of each session, and a check for the end.
func (b *bench) overHTTP(ctx context.Context, part, title string, goal float64, worker newWorker) {
	rows := []report.Row{{Name: "ours (auth)", Ours: true}}
	results, remarks := report.Rounds(ctx, &b.Report, b.options.rounds, rows, func(int) (rate, error) {
		dir, err := b.folder()
		if err != nil {
			return rate{}, err
		}
		debug, env, err := b.debugEnv()
		if err != nil {
			return rate{}, err
		}
		auth, err := authserver.Start(ctx, b.auth, dir, 1+b.options.clients/sessionsEach, env...)
		if err != nil {
			return rate{}, err
		}
		defer auth.Process.Stop()
		sessions, err := auth.Sessions(ctx, b.options.clients)
		if err != nil {
			return rate{}, err
		}
		inner, cancel := context.WithCancel(ctx) // closes the connections
		defer cancel()
		var requests, checks []func() error
		for _, session := range sessions {
			request, check, err := worker(inner, auth.Addr, session)
			if err != nil {
				return rate{}, err
			}
			requests, checks = append(requests, request), append(checks, check)
		}
		r, err := b.work(ctx, auth, part, debug, requests)
		for _, check := range checks {
			if err == nil {
				err = check()
			}
		}
		return r, err
	})
	columns := []string{"requests/s", "", "per core", "auth's cores", "disk flushes/request", "p50", "p99"}
	b.Table(b.title(title), columns, rows, remarks, func(name string) []string {
		got := results[name]
		all := report.Pick(got, func(r rate) float64 { return r.perSecond })
		return []string{report.Count(report.Mid(all)), report.Span(all, report.Count),
			report.Count(report.Median(got, func(r rate) float64 { return r.perCore })),
			fmt.Sprintf("%.2f", report.Median(got, func(r rate) float64 { return r.cores })),
			fmt.Sprintf("%.3f", report.Median(got, func(r rate) float64 { return r.flushes })),
			report.Millis(report.Median(got, func(r rate) float64 { return float64(r.p50) })),
			report.Millis(report.Median(got, func(r rate) float64 { return float64(r.p99) }))}
	})
	b.Goal(part+" per second and core", "≥", report.Median(results[rows[0].Name], func(r rate) float64 { return r.perCore }), goal)
}

// refresh measures chains of refreshes.
func (b *bench) refresh(ctx context.Context) {
	b.overHTTP(ctx, "refresh", fmt.Sprintf("refresh, %d sessions, durable", b.options.clients), refreshGoal,
		func(ctx context.Context, addr string, p authserver.Pair) (func() error, func() error, error) {
			conn, err := load.DialHTTP(ctx, addr)
			if err != nil {
				return nil, nil, err
			}
			before := ""
			request := func() error {
				var next authserver.Pair
				status, answer, err := conn.Do("POST", "/oauth2/token", authserver.FormType, []byte("grant_type=refresh_token&refresh_token="+p.Refresh))
				fresh := err == nil && status == http.StatusOK && json.Unmarshal(answer, &next) == nil && next.Refresh != "" &&
					next.Refresh != p.Refresh && next.Access != p.Access
				if err == nil && !fresh {
					err = fmt.Errorf("refresh: status %d: %s", status, answer)
				}
				before, p = p.Refresh, next
				return err
			}
			check := func() error {
				if before == "" {
					return errors.New("a session was never refreshed")
				}
				return errors.Join(active(conn, p.Refresh, true), active(conn, before, false), active(conn, p.Access, true))
			}
			return request, check, nil
		})
}

const clientLogin = "client_id=bench&client_secret=" + authserver.ClientSecret

// active says whether a token is what it should be, by introspection.
func active(conn *load.HTTP, token string, want bool) error {
	status, answer, err := conn.Do("POST", "/oauth2/introspect", authserver.FormType, []byte(clientLogin+"&token="+token))
	if err == nil && (status != http.StatusOK || strings.Contains(string(answer), `"active":true`) != want) {
		err = fmt.Errorf("introspect: status %d: %s, want active to be %v", status, answer, want)
	}
	return err
}

// introspect measures introspections of access tokens.
func (b *bench) introspect(ctx context.Context) {
	b.overHTTP(ctx, "introspect", fmt.Sprintf("introspection of access tokens, %d clients", b.options.clients), introspectGoal,
		func(ctx context.Context, addr string, p authserver.Pair) (func() error, func() error, error) {
			conn, err := load.DialHTTP(ctx, addr)
			if err != nil {
				return nil, nil, err
			}
			return func() error { return active(conn, p.Access, true) }, func() error { return nil }, nil
		})
}
