package gateway

import (
	"fmt"
	"io"

	"dongne/internal/gateway/breaker"
	"dongne/internal/gateway/shadow"
	"dongne/internal/serve"
)

// Metrics writes what the routes count in Prometheus text.
func (f *Front) Metrics(w io.Writer) {
	limited, retried, broken, shadowed := map[string]uint64{}, map[string]uint64{}, map[string]uint64{}, map[string]uint64{}
	open, now := 0, f.Now()
	for _, l := range f.lanes {
		limited[l.Name], retried[l.Name], broken[l.Name] = l.stats.limited.Load(), l.stats.retried.Load(), l.stats.broken.Load()
		for _, o := range []shadow.Outcome{shadow.Status, shadow.Header, shadow.Body} {
			shadowed[l.Name] += l.shadow.Count(o)
		}
		l.mu.Lock()
		for _, b := range l.breakers {
			if b.State(now).Mode != breaker.Closed {
				open++
			}
		}
		l.mu.Unlock()
	}
	serve.WriteCounter(w, "gateway_rate_limited_total", "Requests that a rate refused.", "route", limited)
	serve.WriteCounter(w, "gateway_retries_total", "Attempts after the first.", "route", retried)
	serve.WriteCounter(w, "gateway_circuit_refused_total", "Requests that a circuit breaker refused.", "route", broken)
	serve.WriteCounter(w, "gateway_shadow_mismatches_total", "Shadow answers that differed.", "route", shadowed)
	fmt.Fprintf(w, "# HELP gateway_circuits_open Circuit breakers that let nothing, or one probe, pass.\n"+
		"# TYPE gateway_circuits_open gauge\ngateway_circuits_open %d\n", open)
	fmt.Fprintf(w, "# HELP gateway_retries_refused_total Retries that the budget refused.\n"+
		"# TYPE gateway_retries_refused_total counter\ngateway_retries_refused_total %d\n", f.budget.State(now).Refused)
}
