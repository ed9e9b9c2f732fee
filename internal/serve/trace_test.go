package serve

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const (
	sampleTrace  = "0af7651916cd43dd8448eb211c80319c"
	sampleSpan   = "b7ad6b7169203331"
	sampleParent = "00-" + sampleTrace + "-" + sampleSpan + "-01"
)

func TestTraceparent(t *testing.T) {
	for value, valid := range map[string]bool{
		sampleParent: true,
		"00-" + sampleTrace + "-" + sampleSpan + "-00":                  true,
		"00-" + sampleTrace + "-" + sampleSpan + "-ff":                  true,
		"cc-" + sampleTrace + "-" + sampleSpan + "-01":                  true,
		"cc-" + sampleTrace + "-" + sampleSpan + "-01-more":             true,
		"cc-" + sampleTrace + "-" + sampleSpan + "-01more":              false,
		"ff-" + sampleTrace + "-" + sampleSpan + "-01":                  false,
		"00-" + sampleTrace + "-" + sampleSpan + "-01-more":             false,
		"00-" + sampleTrace + "-" + sampleSpan + "-1":                   false,
		"00-" + sampleTrace + "-" + sampleSpan:                          false,
		"00-" + strings.ToUpper(sampleTrace) + "-" + sampleSpan + "-01": false,
		"00-" + strings.Repeat("0", 32) + "-" + sampleSpan + "-01":      false,
		"00-" + sampleTrace + "-" + strings.Repeat("0", 16) + "-01":     false,
		"00_" + sampleTrace + "-" + sampleSpan + "-01":                  false,
		"0g-" + sampleTrace + "-" + sampleSpan + "-01":                  false,
		"": false, "-": false,
	} {
		var tc traceContext
		if got := tc.parse(value); got != valid {
			t.Errorf("parse(%q) = %v, want %v", value, got, valid)
		}
	}
}

func TestTraceparentRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		random := func() uint64 { return rapid.Uint64Min(1).Draw(t, "random") }
		begun := newTrace(http.Header{}, random)
		begun.sampled = rapid.Bool().Draw(t, "sampled")
		next := newTrace(http.Header{"Traceparent": {begun.traceparent(begun.span)}}, random)
		if next.id != begun.id || next.parent != begun.span || next.sampled != begun.sampled {
			t.Fatalf("%+v continues as %+v", begun, next)
		}
	})
}

func TestTraceOfARequest(t *testing.T) {
	_, srv, _ := handler(t, defaultLimits, Service{Routes: map[string]Handler{
		"GET /{$}": func(w http.ResponseWriter, r *http.Request) error { return JSON(w, 200, TraceID(r.Context())) },
	}})
	get := func(values ...string) string {
		var header []string
		for _, v := range values {
			header = append(header, "traceparent", v)
		}
		_, body := do(t, "GET", srv.URL+"/", "", header...)
		return strings.Trim(body, "\"\n")
	}
	if got := get(sampleParent); got != sampleTrace {
		t.Errorf("valid: trace = %s, want %s", got, sampleTrace)
	}
	other := "00-" + strings.Repeat("1", 32) + "-" + sampleSpan + "-01"
	for name, values := range map[string][]string{
		"none": nil, "invalid": {"00-xyz"}, "duplicated": {sampleParent, sampleParent}, "two": {sampleParent, other},
	} {
		first, second := get(values...), get(values...)
		if len(first) != 32 || first == sampleTrace || first == second || first == strings.Repeat("1", 32) {
			t.Errorf("%s: traces = %s, %s; want two new ones", name, first, second)
		}
	}
	resp, body := do(t, "GET", srv.URL+"/nowhere", "", "traceparent", sampleParent)
	if p := wantProblem(t, resp, body, 404, "not-found"); p.TraceID != sampleTrace {
		t.Errorf("trace_id of a problem = %s, want %s", p.TraceID, sampleTrace)
	}
}

// collector is an OpenTelemetry collector; each request's spans come out of the channel.
func collector(t *testing.T, status int) (string, <-chan otlpRequest) {
	got := make(chan otlpRequest, 100)
	return newTestServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req otlpRequest
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &req); err != nil || r.Method != "POST" || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("collector got %s %s %q: %v", r.Method, r.URL, body, err)
		}
		got <- req
		w.WriteHeader(status)
	})), got
}

func TestSpansOfACall(t *testing.T) {
	endpoint, got := collector(t, 200)
	header := make(chan http.Header, 2)
	upstream := newTestServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { header <- r.Header }))
	client := http.Client{Transport: Transport(nil)}
	s := start(t, defaultLimits, Service{Name: "chat", Routes: map[string]Handler{
		"GET /call/{id}": func(w http.ResponseWriter, r *http.Request) error {
			req, err := http.NewRequestWithContext(r.Context(), "GET", upstream, nil)
			if err != nil {
				return err
			}
			req.Header.Set("Traceparent", "what the caller sent") // as a proxy would copy it
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			resp.Body.Close()
			if got := req.Header.Get("Traceparent"); got != "what the caller sent" {
				t.Errorf("Transport changed its request: %s", got)
			}
			return JSON(w, 200, 1)
		},
	}}, "OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
	do(t, "GET", s.url+"/call/7", "", "traceparent", sampleParent, "tracestate", "a=1", "tracestate", "b=2")
	if err := s.end(t); err != nil {
		t.Fatal(err)
	}
	req := <-got // the shutdown sends what is queued
	spans := req.ResourceSpans[0].ScopeSpans[0].Spans
	if len(spans) != 2 {
		t.Fatalf("%d spans, want the call's and the request's", len(spans))
	}
	for i := range spans {
		if spans[i].Start > spans[i].End || len(spans[i].Start) < 19 {
			t.Errorf("span %d lasts from %s to %s", i, spans[i].Start, spans[i].End)
		}
		spans[i].Start, spans[i].End = "", ""
	}
	own, call := spans[1].SpanID, spans[0].SpanID
	status := otlpAttribute{"http.response.status_code", map[string]string{"intValue": "200"}}
	method := otlpString("http.request.method", "GET")
	want := []otlpSpan{
		{TraceID: sampleTrace, SpanID: call, ParentID: own, Name: "GET", Kind: spanClient,
			Attributes: []otlpAttribute{method, otlpString("server.address", strings.TrimPrefix(upstream, "http://")), status}},
		{TraceID: sampleTrace, SpanID: own, ParentID: sampleSpan, Name: "GET /call/{id}", Kind: spanServer,
			Attributes: []otlpAttribute{method, otlpString("http.route", "GET /call/{id}"), status}},
	}
	if diff := cmp.Diff(want, spans); diff != "" {
		t.Errorf("spans mismatch (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]otlpAttribute{otlpString("service.name", "chat")}, req.ResourceSpans[0].Resource.Attributes); diff != "" {
		t.Errorf("resource mismatch (-want +got):\n%s", diff)
	}
	sent := <-header
	if got, want := sent.Get("Traceparent"), "00-"+sampleTrace+"-"+call+"-01"; got != want {
		t.Errorf("traceparent sent on = %s, want %s", got, want)
	}
	if got := sent.Get("Tracestate"); got != "a=1,b=2" {
		t.Errorf("tracestate sent on = %s, want a=1,b=2", got)
	}
	// Outside of a request nothing is added.
	resp, err := client.Get(upstream)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if h := <-header; h.Get("Traceparent") != "" {
		t.Errorf("outside of a request: traceparent %s", h.Get("Traceparent"))
	}
}

func TestUnsampledTraceIsNotExported(t *testing.T) {
	endpoint, got := collector(t, 200)
	s := start(t, defaultLimits, Service{Routes: map[string]Handler{"GET /a": ok}}, "OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
	do(t, "GET", s.url+"/a", "", "traceparent", "00-"+sampleTrace+"-"+sampleSpan+"-00")
	do(t, "GET", s.url+"/a", "", "traceparent", "00-"+strings.Repeat("2", 32)+"-"+sampleSpan+"-01")
	if err := s.end(t); err != nil {
		t.Fatal(err)
	}
	spans := (<-got).ResourceSpans[0].ScopeSpans[0].Spans
	if len(spans) != 1 || spans[0].TraceID != strings.Repeat("2", 32) {
		t.Errorf("spans = %+v, want the sampled one alone", spans)
	}
}

func exporterTo(t *testing.T, endpoint string) *exporter {
	u, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	return newExporter(u, "test")
}

func TestExporterBatchesAndTicks(t *testing.T) {
	endpoint, got := collector(t, 200)
	e := exporterTo(t, endpoint)
	ticks := make(chan time.Time)
	go e.run(ticks)
	for range spanBatchMax {
		e.add(span{})
	}
	if n := len((<-got).ResourceSpans[0].ScopeSpans[0].Spans); n != spanBatchMax { // full: no tick needed
		t.Errorf("first batch has %d spans, want %d", n, spanBatchMax)
	}
	e.queue <- span{}
	for len(e.queue) > 0 { // the next tick must find it in the batch; each empty tick sends nothing
		ticks <- time.Time{}
	}
	ticks <- time.Time{}
	if n := len((<-got).ResourceSpans[0].ScopeSpans[0].Spans); n != 1 {
		t.Errorf("batch at the tick has %d spans, want 1", n)
	}
	e.add(span{})
	e.close(t.Context())
	if n := len((<-got).ResourceSpans[0].ScopeSpans[0].Spans); n != 1 {
		t.Errorf("batch at the end has %d spans, want 1", n)
	}
	if e.exported.Load() != spanBatchMax+2 || e.dropped.Load() != 0 {
		t.Errorf("exported %d, dropped %d; want all and none", e.exported.Load(), e.dropped.Load())
	}
}

func TestExporterDropsAndCounts(t *testing.T) {
	endpoint, _ := collector(t, 503)
	e := exporterTo(t, endpoint)
	for range spanQueueMax + 3 { // nobody takes them: add must not block
		e.add(span{})
	}
	if e.dropped.Load() != 3 {
		t.Errorf("dropped = %d at a full queue, want 3", e.dropped.Load())
	}
	go e.run(nil)
	e.close(t.Context())
	if e.dropped.Load() != spanQueueMax+3 || e.exported.Load() != 0 {
		t.Errorf("collector refuses: dropped %d, exported %d; want all and none", e.dropped.Load(), e.exported.Load())
	}
}

func TestExporterEndsBesideAStalledCollector(t *testing.T) {
	stalled := make(chan struct{})
	inside := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(inside); <-stalled }))
	defer srv.Close()
	defer close(stalled)
	e := exporterTo(t, srv.URL)
	go e.run(nil)
	for range spanBatchMax {
		e.add(span{})
	}
	<-inside
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // as spanFlushMax would in the end
	e.close(ctx)
	if e.dropped.Load() != spanBatchMax {
		t.Errorf("dropped = %d, want %d", e.dropped.Load(), spanBatchMax)
	}
}

func TestSpanMetrics(t *testing.T) {
	endpoint, _ := collector(t, 200)
	s, srv, _ := handler(t, defaultLimits, Service{}, "OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
	t.Cleanup(func() { s.spans.close(t.Context()) })
	s.spans.dropped.Store(5)
	if _, body := do(t, "GET", srv.URL+"/metrics", ""); !strings.Contains(body, "trace_spans_total{outcome=\"dropped\"} 5\n") {
		t.Errorf("metrics do not count dropped spans:\n%s", body)
	}
}

func TestSpanIDsAreNeverZero(t *testing.T) {
	n := uint64(0)
	random := func() uint64 { n++; return n / 4 } // three zeros first
	tc := newTrace(http.Header{}, random)
	if tc.id == [16]byte{} || tc.span == [8]byte{} {
		t.Errorf("trace %s, span %s", hex.EncodeToString(tc.id[:]), hex.EncodeToString(tc.span[:]))
	}
}
