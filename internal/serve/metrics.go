package serve

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"runtime/debug"
	rtmetrics "runtime/metrics"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// durationBuckets are the upper bounds of the request duration histogram.
var durationBuckets = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// statusMax is one more than the highest status that net/http lets a handler write.
const statusMax = 1000

// routeMetrics counts the requests of one route. The zero value is ready; it is safe for concurrent use.
type routeMetrics struct {
	byStatus [statusMax]atomic.Uint64 // index 0: hijacked, or aborted before a status
	buckets  [len(durationBuckets) + 1]atomic.Uint64
	nanos    atomic.Uint64
}

// add counts one finished request; timed says whether its duration belongs into the histogram (a stream's does not).
func (m *routeMetrics) add(status int, d time.Duration, timed bool) {
	m.byStatus[status].Add(1)
	if !timed {
		return
	}
	i := 0
	for i < len(durationBuckets) && d > durationBuckets[i] {
		i++
	}
	m.buckets[i].Add(1)
	m.nanos.Add(uint64(max(d, 0)))
}

// metrics answers in the Prometheus text format, version 0.0.4.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) error {
	var b strings.Builder
	s.writeRequestMetrics(&b)
	s.writeProcessMetrics(&b)
	if s.verifier != nil {
		s.verifier.Metrics(&b)
	}
	if s.service.Metrics != nil {
		s.service.Metrics(&b)
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, err := io.WriteString(w, b.String())
	return err
}

func metricHead(w io.Writer, name, kind, help string) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// WriteCounter writes a counter with one label, by the label's values.
func WriteCounter(w io.Writer, name, help, label string, values map[string]uint64) {
	metricHead(w, name, "counter", help)
	for _, value := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(w, "%s{%s=%s} %d\n", name, label, metricLabel(value), values[value])
	}
}

// metricLabel quotes a label's value.
func metricLabel(v string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(v) + `"`
}

func (s *Server) writeRequestMetrics(w io.Writer) {
	const total, seconds = "http_requests_total", "http_request_duration_seconds"
	metricHead(w, total, "counter", "Finished requests by route pattern and status; status 0 was hijacked or aborted.")
	for _, r := range s.routes {
		for status := range r.metrics.byStatus {
			if n := r.metrics.byStatus[status].Load(); n > 0 {
				fmt.Fprintf(w, "%s{route=%s,status=\"%d\"} %d\n", total, metricLabel(r.pattern), status, n)
			}
		}
	}
	metricHead(w, seconds, "histogram", "Duration of finished requests, streams left out.")
	for _, r := range s.routes {
		r.metrics.writeHistogram(w, seconds, metricLabel(r.pattern))
	}
	metricHead(w, "http_requests_in_flight", "gauge", "Requests that are being answered, by kind.")
	for _, g := range []struct {
		kind string
		gate *gate
	}{{"request", &s.requests}, {"stream", &s.streams}, {"shell", &s.shell}} {
		fmt.Fprintf(w, "http_requests_in_flight{kind=%q} %d\n", g.kind, g.gate.inside())
	}
}

func (m *routeMetrics) writeHistogram(w io.Writer, name, route string) {
	nanos := m.nanos.Load()
	var buckets [len(durationBuckets) + 1]uint64
	var count uint64
	for i := range buckets {
		count += m.buckets[i].Load()
		buckets[i] = count
	}
	if count == 0 {
		return
	}
	for i, bound := range durationBuckets {
		fmt.Fprintf(w, "%s_bucket{route=%s,le=\"%v\"} %d\n", name, route, bound.Seconds(), buckets[i])
	}
	fmt.Fprintf(w, "%s_bucket{route=%s,le=\"+Inf\"} %d\n", name, route, count)
	fmt.Fprintf(w, "%s_sum{route=%s} %v\n%s_count{route=%s} %d\n", name, route, time.Duration(nanos).Seconds(), name, route, count)
}

// runtimeMetrics are the figures of runtime/metrics that /metrics shows.
var runtimeMetrics = []struct{ source, name, kind, help string }{
	{"/sched/goroutines:goroutines", "go_goroutines", "gauge", "Live goroutines."},
	{"/sched/gomaxprocs:threads", "go_sched_gomaxprocs_threads", "gauge", "GOMAXPROCS."},
	{"/memory/classes/total:bytes", "go_memory_mapped_bytes", "gauge", "Memory mapped by the Go runtime."},
	{"/memory/classes/heap/released:bytes", "go_memory_released_bytes", "gauge", "Of that, given back to the system."},
	{"/memory/classes/heap/objects:bytes", "go_memory_heap_objects_bytes", "gauge", "Live and not yet swept objects."},
	{"/memory/classes/heap/stacks:bytes", "go_memory_stacks_bytes", "gauge", "Goroutine stacks."},
	{"/gc/heap/live:bytes", "go_gc_heap_live_bytes", "gauge", "Heap that the last collection found alive."},
	{"/gc/heap/goal:bytes", "go_gc_heap_goal_bytes", "gauge", "Heap size at which the next collection ends."},
	{"/gc/gomemlimit:bytes", "go_gc_memory_limit_bytes", "gauge", "Memory limit of the Go runtime."},
	{"/gc/heap/allocs:bytes", "go_gc_heap_allocs_bytes_total", "counter", "Bytes allocated on the heap."},
	{"/gc/heap/allocs:objects", "go_gc_heap_allocs_objects_total", "counter", "Objects allocated on the heap."},
	{"/gc/cycles/total:gc-cycles", "go_gc_cycles_total", "counter", "Finished garbage collections."},
	{"/cpu/classes/gc/total:cpu-seconds", "go_gc_cpu_seconds_total", "counter", "CPU spent in collection, an estimate."},
	{"/sync/mutex/wait/total:seconds", "go_sync_mutex_wait_seconds_total", "counter", "Time that goroutines waited for mutexes."},
}

func (s *Server) writeProcessMetrics(w io.Writer) {
	info, _ := debug.ReadBuildInfo()
	b := readBuild(info)
	metricHead(w, "build_info", "gauge", "What runs here; always 1.")
	fmt.Fprintf(w, "build_info{service=%s,version=%s,commit=%s} 1\n", metricLabel(s.service.Name), metricLabel(b.version), metricLabel(b.commit))
	metricHead(w, "start_time_seconds", "gauge", "When the service started, in Unix time.")
	fmt.Fprintf(w, "start_time_seconds %.3f\n", float64(s.started.UnixMilli())/1000)
	if s.spans != nil {
		metricHead(w, "trace_spans_total", "counter", "Spans by what became of them.")
		fmt.Fprintf(w, "trace_spans_total{outcome=\"exported\"} %d\n", s.spans.exported.Load())
		fmt.Fprintf(w, "trace_spans_total{outcome=\"dropped\"} %d\n", s.spans.dropped.Load())
	}
	samples := make([]rtmetrics.Sample, len(runtimeMetrics))
	for i, m := range runtimeMetrics {
		samples[i].Name = m.source
	}
	rtmetrics.Read(samples)
	for i, m := range runtimeMetrics {
		switch v := samples[i].Value; v.Kind() {
		case rtmetrics.KindUint64:
			metricHead(w, m.name, m.kind, m.help)
			fmt.Fprintf(w, "%s %d\n", m.name, v.Uint64())
		case rtmetrics.KindFloat64:
			metricHead(w, m.name, m.kind, m.help)
			fmt.Fprintf(w, "%s %v\n", m.name, v.Float64())
		}
	}
}
