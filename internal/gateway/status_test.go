package gateway

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The page asks for nothing from elsewhere, and may post to the gateway alone.
func TestPage(t *testing.T) {
	g := open(t, setup{})
	answer, body := get(t, g.url+"/")
	policy := answer.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "connect-src 'self'", "form-action 'self'", "frame-ancestors 'none'", "script-src 'sha256-"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy %q lacks %q", policy, want)
		}
	}
	if answer.StatusCode != http.StatusOK || !strings.Contains(body, `action="login"`) {
		t.Errorf("GET /: %d %s", answer.StatusCode, body)
	}
	if from := regexp.MustCompile(`(src|href|action)="(https?:|//)`).FindString(body); from != "" {
		t.Errorf("the page has %s", from)
	}
}

// Everybody sees what is up; where it is, and what is set and counted, only operators do.
func TestStatus(t *testing.T) {
	g := open(t, setup{targets: map[string]*url.URL{"chat": nil, "geo": text(t, ""), "pay": {Scheme: "http", Host: "127.0.0.1:1"},
		"logs": service(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })}})
	get(t, g.url+"/geo/")
	var public struct{ Items []RouteStatus }
	answer, body := get(t, g.url+"/status")
	if err := json.Unmarshal([]byte(body), &public); err != nil || answer.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s, %v, %v", body, err, answer.Header)
	}
	want := []RouteStatus{{Name: "auth", Title: "chat", Up: true}, {Name: "chat", Title: "chat", Why: "chat is starting"}, {Name: "geo", Title: "chat", Up: true},
		{Name: "logs", Title: "chat", Why: "logs is not ready: 503 Service Unavailable"}, {Name: "pay", Title: "chat", Why: "pay does not answer"}}
	if diff := cmp.Diff(want, public.Items); diff != "" {
		t.Errorf("GET /status mismatch (-want +got):\n%s", diff)
	}
	if _, others := get(t, g.url+"/status", g.auth.bearer("minji", "chat")); others != body {
		t.Errorf("somebody without the scope sees %s", others)
	}
	if _, others := get(t, g.url+"/status", "Authorization: Bearer nonsense"); others != body {
		t.Errorf("somebody with a bad token sees %s", others)
	}
	for _, secret := range []string{"127.0.0.1", "refused", "requests"} {
		if strings.Contains(body, secret) {
			t.Errorf("everybody sees %q in %s", secret, body)
		}
	}
	all := g.status()
	if all[2].Stats == nil || all[2].Stats.Requests != 1 || all[2].Mode != "on" || all[2].Canary.Phase != "idle" || !strings.Contains(all[4].Why, "127.0.0.1:1") {
		t.Errorf("operators see %+v", all)
	}
}

// However many look, a service is asked seldom.
func TestStatusProbes(t *testing.T) {
	var probes atomic.Int64
	target := service(t, func(w http.ResponseWriter, r *http.Request) { probes.Add(1) })
	g := open(t, setup{targets: map[string]*url.URL{"chat": target}})
	began := time.Now()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 20 {
				get(t, g.url+"/status")
			}
		})
	}
	wg.Wait()
	if most := 1 + int64(time.Since(began)/probeEvery); probes.Load() == 0 || probes.Load() > most {
		t.Errorf("400 looks asked the service %d times, want at most %d", probes.Load(), most)
	}
}

// The stream tells again at once when something is set, and ends with the gateway.
func TestStatusStream(t *testing.T) {
	g := open(t, setup{targets: map[string]*url.URL{"chat": text(t, "")}})
	conn, r := dial(t, g.url)
	io.WriteString(conn, "GET /status HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"+g.auth.bearer("ana", AdminScope)+"\r\n\r\n")
	answer, err := http.ReadResponse(r, nil)
	if err != nil || answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%v, %v", answer, err)
	}
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	next := func() (items []RouteStatus) {
		t.Helper()
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if err := json.Unmarshal([]byte(data), &items); err != nil {
					t.Fatal(err)
				}
				return items
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
		return nil
	}
	if mode := next()[1].Mode; mode != "on" {
		t.Errorf("at first chat is %s", mode)
	}
	began := time.Now()
	g.operate("PUT", "chat/switch", `{"mode":"off"}`)
	for next()[1].Mode != "off" {
	}
	t.Logf("the page knows after %v", time.Since(began).Round(time.Millisecond))
	g.stop()
	for lines.Scan() {
	}
	if lines.Err() != nil {
		t.Errorf("the stream ends with %v", lines.Err())
	}
}

// Prometheus' own tool has nothing against the metrics.
func TestMetrics(t *testing.T) {
	g := open(t, setup{targets: map[string]*url.URL{"chat": text(t, "")}})
	get(t, g.url+"/chat/")
	get(t, g.url+"/none")
	_, body := get(t, g.url+"/metrics")
	for _, want := range []string{`http_requests_total{route="/chat/",status="200"} 1`, `gateway_rate_limited_total{route="chat"} 0`, "gateway_circuits_open 0", "gateway_control_registers 0"} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("no line %q in\n%s", want, body)
		}
	}
	path, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("promtool is not there; apt-get install prometheus has it")
		}
		t.Skip("promtool is not there; apt-get install prometheus has it")
	}
	check := func(metrics string) (string, error) {
		cmd := exec.Command(path, "check", "metrics")
		cmd.Stdin = strings.NewReader(metrics)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}
	if out, err := check(body); err != nil || out != "" {
		t.Errorf("promtool: %v\n%s", err, out)
	}
	for _, mutant := range []string{"gateway_requests 1\n", "# HELP a_total A.\n# TYPE a_total counter\na_total{b=\"c} 1\n"} {
		if _, err := check(body + mutant); err == nil {
			t.Errorf("promtool has nothing against %q", mutant)
		}
	}
}
