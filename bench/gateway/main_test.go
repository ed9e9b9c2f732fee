package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dongne/bench/authserver"
)

func TestMain(m *testing.M) {
	stockMain()
	os.Exit(m.Run())
}

const wrkText = `Running 1s test @ http://127.0.0.1:1/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.10ms    1.02ms  14.11ms   79.11%
    Req/Sec    30.11k     2.01k   33.10k    70.00%
  Latency Distribution
     50%    1.88ms
     75%  900.00us
     90%    3.33ms
     99%    5.43ms
  30000 requests in 1.50s, 3.00MB read
Requests/sec:  20000.00
Transfer/sec:      2.00MB
`

func TestParseWrk(t *testing.T) {
	got, err := parseWrk(wrkText)
	want := wrk{requests: 30000, took: 1500 * time.Millisecond, perSecond: 20000, p50: 1880 * time.Microsecond, p99: 5430 * time.Microsecond}
	if err != nil || got != want {
		t.Errorf("parseWrk = %+v, %v; want %+v", got, err, want)
	}
	for _, text := range []string{
		"", strings.Replace(wrkText, "99%", "98%", 1), strings.Replace(wrkText, "30000 requests", "0 requests", 1),
		wrkText + "  Non-2xx or 3xx responses: 7\n", wrkText + "  Socket errors: connect 0, read 1, write 0, timeout 0\n",
	} {
		if got, err := parseWrk(text); err == nil {
			t.Errorf("parseWrk(%q) = %+v, want an error", text, got)
		}
	}
}

func needWrk(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("wrk"); err != nil && os.Getenv("CI") == "" {
		t.Skip("apt-get install wrk")
	}
}

func TestComparePrintsEveryGoal(t *testing.T) {
	needWrk(t)
	found, err := findSystems(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if testing.Short() {
		found.all = found.all[:2] // ours
	}
	var out strings.Builder
	if err := compare(t.Context(), options{seconds: 1, rounds: 1, connections: 8}, found, t.TempDir(), &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, want := range []string{"CPU of a request", "÷ nginx + auth_request: ", "÷ Caddy + forward_auth: ", "÷ nginx, bare: "} {
		if !strings.Contains(out.String(), "\n"+want) {
			t.Errorf("no line %q", want)
		}
	}
	if strings.Contains(out.String(), "failed") {
		t.Errorf("a system failed:\n%s", &out)
	}
}

// A gateway that lets everybody in, and one that does not say who calls, must not be measured.
func TestCheckCatches(t *testing.T) {
	needWrk(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir := t.TempDir()
	found, err := findSystems(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	service, err := startUpstream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := authserver.Start(ctx, found.auth, filepath.Join(dir, "auth"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer auth.Process.Stop()
	open := found.all[1] // ours, where a token is not needed
	open.authenticates = true
	if _, err := measure(ctx, open, auth, service, options{seconds: 1, connections: 1}); err == nil || !strings.Contains(err.Error(), "is answered 200") {
		t.Errorf("a gateway that lets everybody in: error %v", err)
	}
	silent := system{name: "silent", authenticates: true, start: func(ctx context.Context, dir string, b behind) (*server, error) {
		return found.all[0].start(ctx, dir, behind{upstream: auth.Addr, auth: b.auth})
	}}
	if _, err := measure(ctx, silent, auth, service, options{seconds: 1, connections: 1}); err == nil || !strings.Contains(err.Error(), "a request with a token") {
		t.Errorf("a gateway in front of another service: error %v", err)
	}
}
