package serve

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// newTestServer serves h until the test ends and returns its URL.
func newTestServer(t *testing.T, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestShutdownEndsStreamsAndWaitsForRequests(t *testing.T) {
	inside, finish := make(chan struct{}), make(chan struct{})
	var s *running
	s = start(t, defaultLimits, Service{
		Routes: map[string]Handler{
			"GET /stream": func(w http.ResponseWriter, r *http.Request) error {
				io.WriteString(w, "event: hello\n\n")
				http.NewResponseController(w).Flush()
				<-Draining(r.Context())
				// No new connections by now: a client that comes back at once goes to another node.
				if resp, err := http.Get(s.url + "/ready"); err == nil {
					resp.Body.Close()
					t.Error("the stream ends, but the listener still accepts")
				}
				_, err := io.WriteString(w, "event: bye\n\n")
				return err
			},
			"GET /slow": func(w http.ResponseWriter, r *http.Request) error {
				close(inside)
				<-finish
				return ok(w, r)
			},
		},
		Streams: []string{"GET /stream"},
	})
	stream, err := http.Get(s.url + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	lines := bufio.NewReader(stream.Body)
	if first, err := lines.ReadString('\n'); first != "event: hello\n" {
		t.Fatalf("first line = %q, %v", first, err)
	}
	slow := make(chan string, 1)
	go func() {
		resp, err := http.Get(s.url + "/slow")
		if err != nil {
			slow <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		slow <- string(body)
	}()
	<-inside
	s.stop()
	rest, err := io.ReadAll(lines)
	if string(rest) != "\nevent: bye\n\n" || err != nil {
		t.Errorf("rest of the stream = %q, %v; want the last event", rest, err)
	}
	select {
	case err := <-s.done:
		t.Fatalf("run returned (%v) while a request was in flight", err)
	default:
	}
	close(finish)
	if got := <-slow; got != "{}\n" {
		t.Errorf("request in flight got %q", got)
	}
	if err := s.end(t); err != nil {
		t.Errorf("run = %v, want nil: nothing was cut", err)
	}
	if line := s.log.await(t, "draining", 0); line["requests"] != 1.0 || line["streams"] != 1.0 {
		t.Errorf("log line = %v, want 1 request and 1 stream", line)
	}
}

func TestShutdownCutsWhatDoesNotEnd(t *testing.T) {
	lim := defaultLimits
	lim.drain, lim.cutGrace = time.Millisecond, patience
	inside := make(chan struct{})
	s := start(t, lim, Service{Routes: map[string]Handler{
		"GET /": func(w http.ResponseWriter, r *http.Request) error {
			close(inside)
			<-r.Context().Done()
			return r.Context().Err()
		},
	}})
	answer := make(chan error, 1)
	go func() {
		resp, err := http.Get(s.url)
		if err != nil {
			answer <- err
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		wantProblem(t, resp, string(body), 503, "cut")
		answer <- nil
	}()
	<-inside
	if err := s.end(t); err == nil || !strings.Contains(err.Error(), "1 requests") {
		t.Errorf("run = %v, want an error that says that 1 request was cut", err)
	}
	if err := <-answer; err != nil {
		t.Errorf("a handler that heeds its context could not answer: %v", err)
	}
}

func TestShutdownGivesUpOnWhatHeedsNothing(t *testing.T) {
	lim := defaultLimits
	lim.drain, lim.cutGrace = time.Millisecond, time.Millisecond
	inside, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	s := start(t, lim, Service{Routes: map[string]Handler{
		"GET /": func(w http.ResponseWriter, r *http.Request) error { close(inside); <-release; return nil },
	}})
	go http.Get(s.url) // its error is the cut connection
	<-inside
	if err := s.end(t); err == nil || !strings.Contains(err.Error(), "cut") {
		t.Errorf("run = %v, want an error", err)
	}
}

func TestShutdownWaitsForHijackedHandlers(t *testing.T) {
	release := make(chan struct{})
	s := start(t, defaultLimits, Service{
		Routes: map[string]Handler{"GET /": func(w http.ResponseWriter, r *http.Request) error {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return err
			}
			defer conn.Close()
			io.WriteString(conn, "hello")
			<-Draining(r.Context())
			io.WriteString(conn, "bye")
			<-release
			return nil
		}},
		Streams: []string{"GET /"},
	})
	conn := dial(t, s.url, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if _, err := io.ReadFull(conn, make([]byte, len("hello"))); err != nil {
		t.Fatal(err)
	}
	s.stop()
	if _, err := io.ReadFull(conn, make([]byte, len("bye"))); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.done:
		t.Fatalf("run returned (%v) while a hijacked handler ran", err)
	default:
	}
	close(release)
	if err := s.end(t); err != nil {
		t.Errorf("run = %v, want nil", err)
	}
	if line := s.log.await(t, "request", 0); line["hijacked"] != true || line["status"] != nil {
		t.Errorf("log line = %v, want hijacked without a status", line)
	}
}

func TestShutdownDoesNotWaitForUnusedConnections(t *testing.T) {
	lim := defaultLimits
	lim.drain = 4 * time.Second // net/http alone would wait 5 s
	s := start(t, lim, Service{Routes: map[string]Handler{"GET /": ok}})
	unused := dial(t, s.url, "")
	do(t, "GET", s.url+"/", "") // accepted after the unused one
	s.stop()
	if got, err := io.ReadAll(unused); len(got) > 0 {
		t.Errorf("unused connection: %q, %v", got, err)
	}
	if err := s.end(t); err != nil {
		t.Errorf("run = %v, want nil", err)
	}
}

func TestTwoServicesInOneProcess(t *testing.T) {
	a := start(t, defaultLimits, Service{Name: "a", Routes: map[string]Handler{"GET /a": ok}})
	b := start(t, defaultLimits, Service{Name: "b", Routes: map[string]Handler{"GET /b": ok}})
	if err := a.end(t); err != nil {
		t.Fatal(err)
	}
	if resp, _ := do(t, "GET", b.url+"/b", ""); resp.StatusCode != 200 {
		t.Errorf("b after a's end = %d, want 200", resp.StatusCode)
	}
	if resp, _ := do(t, "GET", b.url+"/a", ""); resp.StatusCode != 404 {
		t.Errorf("a's route on b = %d, want 404", resp.StatusCode)
	}
}

func TestDebugAddr(t *testing.T) {
	s := start(t, defaultLimits, Service{Routes: map[string]Handler{"GET /a": ok}}, "DEBUG_ADDR", "127.0.0.1:0")
	debug := "http://" + s.log.await(t, "debug listening", 0)["addr"].(string)
	for path, want := range map[string]string{"/debug/pprof/": "goroutine", "/debug/vars": "memstats", "/debug/pprof/heap?debug=1": "heap profile"} {
		if resp, body := do(t, "GET", debug+path, ""); resp.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("%s = %d, want 200 with %q", path, resp.StatusCode, want)
		}
		if resp, _ := do(t, "GET", s.url+path, ""); resp.StatusCode != 404 {
			t.Errorf("%s on the service's own port = %d, want 404", path, resp.StatusCode)
		}
	}
	if resp, _ := do(t, "GET", debug+"/debug/vars", "", "Host", "evil.example"); resp.StatusCode != 421 {
		t.Errorf("Host evil.example = %d, want 421", resp.StatusCode)
	}
	if err := s.end(t); err != nil {
		t.Fatal(err)
	}
	if resp, err := http.Get(debug + "/debug/vars"); err == nil {
		resp.Body.Close()
		t.Error("the debug listener outlived run")
	}
}
