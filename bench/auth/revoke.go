package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"dongne/bench/authserver"
	"dongne/bench/load"
	"dongne/bench/report"
	"dongne/internal/verify"
)

const (
	revokeGoal = 100.0 // ms at p99, at most
	revokeLate = 5 * time.Second
)

// revoke measures how long an ended session's token is still taken by a verifier that follows auth's feed.
func (b *bench) revoke(ctx context.Context) {
	rows := []report.Row{{Name: "ours (auth)", Ours: true}}
	results, remarks := report.Rounds(ctx, &b.Report, b.options.rounds, rows, func(int) (quantiles, error) { return b.revocations(ctx) })
	title := fmt.Sprintf("from POST /oauth2/revoke to a verifier that refuses: %d sessions; median of %d (min..max)", b.options.ends, b.options.rounds)
	b.Table(title, []string{"p50", "p99", ""}, rows, remarks, func(name string) []string {
		got := results[name]
		p99 := report.Pick(got, func(q quantiles) float64 { return float64(q.p99) })
		p50 := report.Median(got, func(q quantiles) float64 { return float64(q.p50) })
		return []string{report.Millis(p50), report.Millis(report.Mid(p99)), report.Span(p99, report.Millis)}
	})
	b.Goal("revocation p99, ms", "≤", report.Median(results[rows[0].Name], func(q quantiles) float64 { return float64(q.p99) })/1e6, revokeGoal)
}

func (b *bench) revocations(ctx context.Context) (q quantiles, err error) {
	dir, err := b.folder()
	if err != nil {
		return q, err
	}
	auth, err := authserver.Start(ctx, b.auth, dir, 1+b.options.ends/sessionsEach)
	if err != nil {
		return q, err
	}
	defer auth.Process.Stop()
	sessions, err := auth.Sessions(ctx, b.options.ends)
	if err != nil {
		return q, err
	}
	v := verify.Start(ctx, verify.HTTP(&url.URL{Scheme: "http", Host: auth.Addr}, &http.Transport{}), verify.Options{Audience: "dongne"})
	defer v.Close()
	for v.Ready() != nil {
		if err := load.Wait(ctx, time.Millisecond); err != nil {
			return q, err
		}
	}
	conn, err := load.DialHTTP(ctx, auth.Addr)
	if err != nil {
		return q, err
	}
	defer conn.Close()
	var took []time.Duration
	for _, session := range sessions {
		d, err := endOne(conn, v, session)
		if err != nil {
			return q, err
		}
		took = append(took, d)
	}
	q.p50, q.p99 = report.Quantiles(took)
	return q, nil
}

// endOne ends a session and waits until its token, good before, is refused.
func endOne(conn *load.HTTP, v *verify.Verifier, session authserver.Pair) (time.Duration, error) {
	claims, err := v.Verify(session.Access)
	if err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	stop := v.AfterRevoked(claims, func() { close(ended) })
	defer stop()
	late := time.NewTimer(revokeLate)
	defer late.Stop()
	began := time.Now()
	status, answer, err := conn.Do("POST", "/oauth2/revoke", authserver.FormType, []byte("token="+session.Refresh))
	if err != nil || status != http.StatusOK {
		return 0, fmt.Errorf("revoke: status %d: %s: %w", status, answer, err)
	}
	select {
	case <-ended:
	case <-late.C:
		return 0, fmt.Errorf("the session is not revoked after %v", revokeLate)
	}
	d := time.Since(began)
	if _, err := v.Verify(session.Access); !errors.Is(err, verify.ErrRevoked) {
		return 0, fmt.Errorf("the token of an ended session: %w", err)
	}
	return d, nil
}
