package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"dongne/internal/gateway/breaker"
	"dongne/internal/gateway/shadow"
	"dongne/internal/serve"
)

const (
	statusEvery  = time.Second
	statusWithin = 10 * time.Second // a write of it, or the client is taken for gone
)

// Status is GET /status: how all routes fare; everything with an operator's token, and without one no more than what is
// up. With Accept: text/event-stream it is a stream, which tells again each second and whenever an operator changes something.
func (a *Admin) Status(w http.ResponseWriter, r *http.Request) error {
	operator := false
	if len(r.Header["Authorization"]) > 0 {
		caller, err := serve.Caller(r)
		operator = err == nil && caller.May(AdminScope)
	}
	if !strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		return serve.List(w, a.probed(r.Context(), operator), "")
	}
	if err := serve.Stream(r); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	rc := http.NewResponseController(w)
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	draining := serve.Draining(r.Context())
	for {
		changed := a.Control.Changed()
		if _, err := fmt.Fprintf(w, "event: status\ndata: %s\n\n", encode(a.probed(r.Context(), operator))); err != nil {
			return err
		}
		rc.SetWriteDeadline(time.Now().Add(statusWithin)) // an error means a connection of a test, without time-outs
		if err := rc.Flush(); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-draining:
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
}

// probed is status, with every service asked whether it is ready.
func (a *Admin) probed(ctx context.Context, operator bool) []RouteStatus {
	all := a.status(operator)
	var backends []*Backend
	var at []int
	for i, l := range a.Front.lanes {
		if l.Backend != nil {
			backends, at = append(backends, l.Backend), append(at, i)
		}
	}
	for i, err := range probe(ctx, backends) {
		if err != nil {
			all[at[i]].Up, all[at[i]].Why = false, err.Error()
		}
	}
	return all
}

// Metrics writes what the routes count in Prometheus text.
func (f *Front) Metrics(w io.Writer) {
	limited, retried, broken, shadowed := map[string]uint64{}, map[string]uint64{}, map[string]uint64{}, map[string]uint64{}
	open := map[string]uint64{}
	now := f.Now()
	for _, l := range f.lanes {
		limited[l.Name], retried[l.Name], broken[l.Name] = l.stats.limited.Load(), l.stats.retried.Load(), l.stats.broken.Load()
		for _, o := range []shadow.Outcome{shadow.Status, shadow.Header, shadow.Body} {
			shadowed[l.Name] += l.shadow.Count(o)
		}
		l.mu.Lock()
		for name, b := range l.breakers {
			if b.State(now).Mode != breaker.Closed {
				open[l.Name+" "+name] = 1
			}
		}
		l.mu.Unlock()
	}
	serve.WriteCounter(w, "gateway_rate_limited_total", "Requests that a rate refused.", "route", limited)
	serve.WriteCounter(w, "gateway_retries_total", "Attempts after the first.", "route", retried)
	serve.WriteCounter(w, "gateway_circuit_refused_total", "Requests that a circuit breaker refused.", "route", broken)
	serve.WriteCounter(w, "gateway_shadow_mismatches_total", "Shadow answers that differed.", "route", shadowed)
	fmt.Fprintf(w, "# HELP gateway_circuits_open Circuit breakers that let nothing, or one probe, pass.\n# TYPE gateway_circuits_open gauge\ngateway_circuits_open %d\n", len(open))
	state := f.budget.State(now)
	fmt.Fprintf(w, "# HELP gateway_retries_refused_total Retries that the budget refused.\n# TYPE gateway_retries_refused_total counter\ngateway_retries_refused_total %d\n", state.Refused)
}
