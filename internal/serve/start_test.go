package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for something that must come; it is never waited out by a test that passes.
const patience = 20 * time.Second

// TestMain lets the test binary play a service in a process of its own: see process_test.go.
func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		childMain()
		return
	}
	os.Exit(m.Run())
}

// logs collects JSON log lines, and lets a test wait for one.
type logs struct {
	mu    sync.Mutex
	lines []map[string]any // guarded by mu
	more  chan struct{}    // guarded by mu; closed by the next line
}

func newLogs() *logs { return &logs{more: make(chan struct{})} }

func (l *logs) Write(p []byte) (int, error) {
	line := map[string]any{}
	if err := json.Unmarshal(p, &line); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	close(l.more)
	l.more = make(chan struct{})
	return len(p), nil
}

// await returns the nth line (from 0) with the message msg, waiting for it.
func (l *logs) await(t *testing.T, msg string, nth int) map[string]any {
	t.Helper()
	timeout := time.After(patience)
	for {
		l.mu.Lock()
		more, seen := l.more, 0
		for _, line := range l.lines {
			if line["msg"] == msg {
				if seen == nth {
					l.mu.Unlock()
					return line
				}
				seen++
			}
		}
		l.mu.Unlock()
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("no log line %q number %d", msg, nth)
		}
	}
}

// env is an environment of the given name, value, name, value, …
func env(pairs ...string) func(string) string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return Env(nil, func(name string) string { return m[name] })
}

// handler starts a service's handler on a test server without the time-outs of Run.
func handler(t *testing.T, lim limits, service Service, pairs ...string) (*Server, *httptest.Server, *logs) {
	t.Helper()
	l := newLogs()
	s, err := newServer(env(pairs...), l, service, lim)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return s, srv, l
}

// running is a service under Run.
type running struct {
	url  string
	log  *logs
	stop context.CancelFunc
	done chan error
}

// start runs a service until the test ends.
func start(t *testing.T, lim limits, service Service, pairs ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{log: newLogs(), stop: cancel, done: make(chan error, 1)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := run(ctx, env(pairs...), r.log, service, lim)
		r.done <- err
	}()
	t.Cleanup(func() { cancel(); <-ended })
	r.url = r.log.await(t, "listening", 0)["url"].(string)
	return r
}

// end stops the service and returns run's error.
func (r *running) end(t *testing.T) error {
	t.Helper()
	r.stop()
	select {
	case err := <-r.done:
		return err
	case <-time.After(patience):
		t.Fatal("run did not return")
		return nil
	}
}

// do sends a request and reads the whole answer.
func do(t *testing.T, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, url, reader)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: read answer: %v", method, url, err)
	}
	return resp, string(all)
}

// wantProblem checks that an answer is the problem code with status, and returns it.
func wantProblem(t *testing.T, resp *http.Response, body string, status int, code string) problemJSON {
	t.Helper()
	var p problemJSON
	dec := json.NewDecoder(bytes.NewReader([]byte(body)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		t.Fatalf("answer %d %q is no problem: %v", resp.StatusCode, body, err)
	}
	if resp.StatusCode != status || p.Status != status || p.Code != code || p.Type != problemType(code) || p.Title == "" {
		t.Errorf("answer = %d %s, want problem %d %s", resp.StatusCode, body, status, code)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("Content-Type = %q, want application/problem+json", ct)
	}
	if len(p.TraceID) != 32 {
		t.Errorf("trace_id = %q, want 32 hex digits", p.TraceID)
	}
	return p
}

// ok is a handler that answers {}.
func ok(w http.ResponseWriter, r *http.Request) error { return JSON(w, http.StatusOK, struct{}{}) }
