package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHealth(t *testing.T) {
	_, srv, _ := handler(t, defaultLimits, Service{Name: "chat"})
	_, body := do(t, "GET", srv.URL+"/health", "")
	var got map[string]any
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if got["service"] != "chat" || got["uptime_seconds"].(float64) < 0 {
		t.Errorf("health = %s", body)
	}
	for _, k := range []string{"version", "commit", "commit_time"} {
		if v, _ := got[k].(string); v == "" {
			t.Errorf("health has no %s: %s", k, body)
		}
	}
	if _, ok := got["dirty"]; !ok {
		t.Errorf("health has no dirty: %s", body)
	}
}

func TestReadBuild(t *testing.T) {
	yes := true
	for name, tt := range map[string]struct {
		info *debug.BuildInfo
		want build
	}{
		"none":   {nil, build{unknown, unknown, unknown, nil}},
		"no vcs": {&debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, build{"(devel)", unknown, unknown, nil}},
		"dirty": {&debug.BuildInfo{Main: debug.Module{Version: "v1.0.0"}, Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"},
		}}, build{"v1.0.0", "abc", "2026-01-02T03:04:05Z", &yes}},
	} {
		if diff := cmp.Diff(tt.want, readBuild(tt.info), cmp.AllowUnexported(build{})); diff != "" {
			t.Errorf("%s: readBuild mismatch (-want +got):\n%s", name, diff)
		}
	}
}

func TestReady(t *testing.T) {
	var notYet error = errors.New("replaying the log")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	draining := make(chan (<-chan struct{}), 1)
	l := newLogs()
	s, err := New(ctx, env(), l, Service{
		Ready:  func(context.Context) error { return notYet },
		Routes: map[string]Handler{"GET /d": func(w http.ResponseWriter, r *http.Request) error { draining <- Draining(r.Context()); return nil }},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := newTestServer(t, s)
	resp, body := do(t, "GET", srv+"/ready", "")
	if p := wantProblem(t, resp, body, 503, "starting"); p.Detail != "replaying the log" || resp.Header.Get("Retry-After") == "" {
		t.Errorf("starting = %+v, Retry-After %q", p, resp.Header.Get("Retry-After"))
	}
	notYet = nil
	if resp, body = do(t, "GET", srv+"/ready", ""); resp.StatusCode != 200 || body != "{\"ready\":true}\n" {
		t.Errorf("ready = %d %q", resp.StatusCode, body)
	}
	do(t, "GET", srv+"/d", "")
	drain := <-draining
	select {
	case <-drain:
		t.Error("draining before the shutdown")
	default:
	}
	cancel()
	<-drain
	resp, body = do(t, "GET", srv+"/ready", "")
	wantProblem(t, resp, body, 503, "draining")
	if resp, _ = do(t, "GET", srv+"/health", ""); resp.StatusCode != 200 {
		t.Errorf("health while draining = %d, want 200", resp.StatusCode)
	}
}

func TestOutsideOfARequest(t *testing.T) {
	ctx := t.Context()
	if Draining(ctx) != nil || TraceID(ctx) != "" {
		t.Errorf("Draining = %v, TraceID = %q; want neither", Draining(ctx), TraceID(ctx))
	}
	Logger(ctx).Info("goes nowhere")
	r, _ := http.NewRequest("GET", "/", nil)
	if _, err := User(r); err == nil {
		t.Error("User outside of a request: no error")
	}
}

func TestOpenAPI(t *testing.T) {
	_, srv, _ := handler(t, defaultLimits, Service{OpenAPI: []byte("openapi: 3.1.0\n")})
	resp, body := do(t, "GET", srv.URL+"/openapi.yaml", "")
	if body != "openapi: 3.1.0\n" || resp.Header.Get("Content-Type") != "application/yaml" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("openapi.yaml = %q, %v", body, resp.Header)
	}
}

// sampleLine is one line of the Prometheus text format: a comment of two kinds, or a sample.
var sampleLine = regexp.MustCompile(`^(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{[a-z]+="([^"\\]|\\.)*"(,[a-z]+="([^"\\]|\\.)*")*\})? [0-9.e+-]+)$`)

func TestMetrics(t *testing.T) {
	_, srv, log := handler(t, defaultLimits, Service{
		Name:    "chat",
		Routes:  map[string]Handler{"GET /rooms/{room}": ok, "GET /stream": ok},
		Streams: []string{"GET /stream"},
		Metrics: func(w io.Writer) { fmt.Fprint(w, "# TYPE chat_rooms gauge\nchat_rooms 7\n") },
	})
	for _, path := range []string{"/rooms/a", "/rooms/b", "/secret", "/stream"} {
		do(t, "GET", srv.URL+path, "")
	}
	log.await(t, "request", 3) // the line comes after the counters
	resp, body := do(t, "GET", srv.URL+"/metrics", "")
	if ct := resp.Header.Get("Content-Type"); ct != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("Content-Type = %q", ct)
	}
	for _, want := range []string{
		`http_requests_total{route="GET /rooms/{room}",status="200"} 2`,
		`http_requests_total{route="unmatched",status="404"} 1`,
		`http_requests_total{route="GET /stream",status="200"} 1`,
		`http_request_duration_seconds_bucket{route="GET /rooms/{room}",le="+Inf"} 2`,
		`http_request_duration_seconds_count{route="GET /rooms/{room}"} 2`,
		`http_requests_in_flight{kind="shell"} 1`,
		`http_requests_in_flight{kind="request"} 0`,
		`chat_rooms 7`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("metrics lack %s:\n%s", want, body)
		}
	}
	for _, never := range []string{"secret", `duration_seconds_count{route="GET /stream"}`} {
		if strings.Contains(body, never) {
			t.Errorf("metrics have %s:\n%s", never, body)
		}
	}
	for _, m := range runtimeMetrics {
		if !strings.Contains(body, "\n"+m.name+" ") {
			t.Errorf("metrics lack %s", m.name)
		}
	}
	for line := range strings.Lines(body) {
		if !sampleLine.MatchString(strings.TrimSuffix(line, "\n")) {
			t.Errorf("not a line of the Prometheus text format: %q", line)
		}
	}
}

func TestHistogramBuckets(t *testing.T) {
	var m routeMetrics
	for _, d := range append(durationBuckets[:], 0, durationBuckets[0]+1, 1<<62) {
		m.add(200, d, true)
	}
	var b strings.Builder
	m.writeHistogram(&b, "d", `"r"`)
	for _, want := range []string{
		`d_bucket{route="r",le="0.0005"} 2`, `d_bucket{route="r",le="0.001"} 4`, `d_bucket{route="r",le="10"} 16`, `d_bucket{route="r",le="+Inf"} 17`,
	} {
		if !strings.Contains(b.String(), want+"\n") {
			t.Errorf("histogram lacks %s:\n%s", want, b.String())
		}
	}
}

func TestMetricLabel(t *testing.T) {
	if got := metricLabel("a\\b\"c\nd"); got != `"a\\b\"c\nd"` {
		t.Errorf("metricLabel = %s", got)
	}
}

// TestSampleLineCatchesMutants: the check of the metrics' format is not one that lets everything pass.
func TestSampleLineCatchesMutants(t *testing.T) {
	for _, line := range []string{"", "name", "name 1 x", `name{route="a"b"} 1`, `name{route=a} 1`, `name{route="a",} 1`, "# HELP name", "name NaN%"} {
		if sampleLine.MatchString(line) {
			t.Errorf("%q passes as a line of the Prometheus text format", line)
		}
	}
}
