package serve

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAccessLog(t *testing.T) {
	_, srv, log := handler(t, defaultLimits, Service{Routes: map[string]Handler{
		"GET /rooms/{room}": func(w http.ResponseWriter, r *http.Request) error {
			if _, err := User(r); err != nil {
				return err
			}
			Logger(r.Context()).Info("inside")
			return JSON(w, http.StatusCreated, r.PathValue("room"))
		},
	}})
	do(t, "GET", srv.URL+"/rooms/secret?token=secret", "", "X-User", "minji")
	line := log.await(t, "request", 0)
	trace, _ := line["trace_id"].(string)
	if len(trace) != 32 || log.await(t, "inside", 0)["trace_id"] != trace {
		t.Errorf("trace ids: request %q, inside %v", trace, log.await(t, "inside", 0)["trace_id"])
	}
	if at, err := time.Parse(time.RFC3339Nano, line["time"].(string)); err != nil || !strings.HasSuffix(line["time"].(string), "Z") {
		t.Errorf("time = %v (%v), want RFC 3339 in UTC", at, err)
	}
	if d, ok := line["duration_ms"].(float64); !ok || d < 0 {
		t.Errorf("duration_ms = %v", line["duration_ms"])
	}
	for _, k := range []string{"trace_id", "time", "duration_ms"} {
		delete(line, k)
	}
	want := map[string]any{"level": "INFO", "msg": "request", "method": "GET", "route": "GET /rooms/{room}",
		"status": 201.0, "bytes": float64(len("\"secret\"\n")), "user": "minji"}
	if diff := cmp.Diff(want, line); diff != "" {
		t.Errorf("log line mismatch (-want +got):\n%s", diff)
	}
}

// TestQuiet: the successes of a quiet route are not in the log, its failures are.
func TestQuiet(t *testing.T) {
	_, srv, log := handler(t, defaultLimits, Service{
		Quiet: []string{"GET /quiet"},
		Routes: map[string]Handler{
			"GET /loud": ok,
			"GET /quiet": func(w http.ResponseWriter, r *http.Request) error {
				if r.URL.RawQuery != "" {
					return Problem(http.StatusConflict, "odd", "odd")
				}
				return ok(w, r)
			},
		},
	})
	do(t, "GET", srv.URL+"/quiet", "")
	do(t, "GET", srv.URL+"/quiet?fail", "")
	do(t, "GET", srv.URL+"/loud", "")
	if got := log.await(t, "request", 0)["code"]; got != "odd" {
		t.Errorf("the first line is of a request with code %v, want odd", got)
	}
	if got := log.await(t, "request", 1)["route"]; got != "GET /loud" {
		t.Errorf("the second line is of %v, want GET /loud", got)
	}
}

func TestUnmatched(t *testing.T) {
	_, srv, log := handler(t, defaultLimits, Service{Routes: map[string]Handler{
		"GET /a": ok, "POST /a": ok, "GET /tree/": ok,
		"GET /own404": func(w http.ResponseWriter, r *http.Request) error { w.WriteHeader(404); return nil },
	}})
	resp, body := do(t, "GET", srv.URL+"/nowhere", "")
	if p := wantProblem(t, resp, body, 404, "not-found"); p.Outcome != "" {
		t.Errorf("a read has the outcome %q", p.Outcome)
	}
	if got := log.await(t, "request", 0)["route"]; got != "unmatched" {
		t.Errorf("route of a 404 = %q, want unmatched", got)
	}
	resp, body = do(t, "DELETE", srv.URL+"/a", "")
	if p := wantProblem(t, resp, body, 405, "method-not-allowed"); p.Outcome != "not_applied" {
		t.Errorf("outcome of a DELETE that has no handler = %q, want not_applied", p.Outcome)
	}
	if allow := resp.Header.Get("Allow"); allow != "GET, HEAD, POST" {
		t.Errorf("Allow = %q, want GET, HEAD, POST", allow)
	}
	resp, body = do(t, "HEAD", srv.URL+"/a", "")
	if resp.StatusCode != 200 || body != "" || resp.ContentLength != 3 {
		t.Errorf("HEAD = %d, %q, length %d; want 200, nothing, 3", resp.StatusCode, body, resp.ContentLength)
	}
	if resp, _ = do(t, "GET", srv.URL+"/tree", ""); resp.StatusCode != 200 || resp.Request.URL.Path != "/tree/" {
		t.Errorf("GET /tree = %d at %s, want the mux's redirect to /tree/", resp.StatusCode, resp.Request.URL)
	}
	if resp, body = do(t, "GET", srv.URL+"/own404", ""); resp.StatusCode != 404 || body != "" {
		t.Errorf("a handler's own 404 = %d %q, want it untouched", resp.StatusCode, body)
	}
}

func TestHandlerErrors(t *testing.T) {
	cause := errors.New("disk on fire")
	_, srv, log := handler(t, defaultLimits, Service{Routes: map[string]Handler{
		"GET /known": func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("ETag", `"x"`)
			return fmt.Errorf("wrapped: %w", Problem(http.StatusConflict, "room-exists", "room %q exists", "a").RetryAfter(1500*time.Millisecond))
		},
		"GET /unknown": func(w http.ResponseWriter, r *http.Request) error { return cause },
		"GET /because": func(w http.ResponseWriter, r *http.Request) error {
			return Problem(http.StatusInsufficientStorage, "disk-full", "the disk is full").Because(cause)
		},
		"GET /silent":  func(w http.ResponseWriter, r *http.Request) error { return nil },
		"GET /unjson":  func(w http.ResponseWriter, r *http.Request) error { return JSON(w, 200, func() {}) },
		"GET /partial": func(w http.ResponseWriter, r *http.Request) error { io.WriteString(w, "half"); return cause },
	}})
	resp, body := do(t, "GET", srv.URL+"/known", "")
	p := wantProblem(t, resp, body, 409, "room-exists")
	if p.Detail != `room "a" exists` || !p.Retryable || resp.Header.Get("Retry-After") != "2" || resp.Header.Get("ETag") != "" {
		t.Errorf("problem = %+v, Retry-After %q, ETag %q", p, resp.Header.Get("Retry-After"), resp.Header.Get("ETag"))
	}
	resp, body = do(t, "GET", srv.URL+"/unknown", "")
	if p = wantProblem(t, resp, body, 500, "internal"); p.Detail != "" || p.Retryable {
		t.Errorf("bare 500 = %+v, want no detail, not retryable", p)
	}
	line := log.await(t, "request", 1)
	if line["error"] != "disk on fire" || line["level"] != "ERROR" || line["trace_id"] != p.TraceID {
		t.Errorf("log line of the 500 = %v", line)
	}
	resp, body = do(t, "GET", srv.URL+"/because", "")
	if p = wantProblem(t, resp, body, 507, "disk-full"); strings.Contains(body, "fire") {
		t.Errorf("the cause is in the answer: %s", body)
	}
	if line = log.await(t, "request", 2); line["error"] != "disk on fire" || line["code"] != "disk-full" {
		t.Errorf("log line of the 507 = %v", line)
	}
	if resp, body = do(t, "GET", srv.URL+"/silent", ""); resp.StatusCode != 200 || body != "" || log.await(t, "request", 3)["status"] != 200.0 {
		t.Errorf("silent handler: %d %q, logged %v", resp.StatusCode, body, log.await(t, "request", 3)["status"])
	}
	resp, body = do(t, "GET", srv.URL+"/unjson", "")
	wantProblem(t, resp, body, 500, "internal")
	wantCut(t, srv.URL+"/partial")
	if line = log.await(t, "request", 5); line["aborted"] != true || line["status"] != 200.0 || line["error"] != "disk on fire" {
		t.Errorf("log line of the cut answer = %v", line)
	}
}

// wantCut checks that an answer does not come to a whole end.
func wantCut(t *testing.T, url string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("GET %s = %d %q, want a cut connection", url, resp.StatusCode, body)
	}
}

func TestPanics(t *testing.T) {
	_, srv, log := handler(t, defaultLimits, Service{Routes: map[string]Handler{
		"GET /before": func(w http.ResponseWriter, r *http.Request) error { panic("secret one") },
		"GET /after": func(w http.ResponseWriter, r *http.Request) error {
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic("secret two")
		},
		"GET /buffered": func(w http.ResponseWriter, r *http.Request) error { io.WriteString(w, "half"); panic("secret three") },
		"GET /flushed":  func(w http.ResponseWriter, r *http.Request) error { http.NewResponseController(w).Flush(); panic("x") },
		"GET /abort":    func(w http.ResponseWriter, r *http.Request) error { panic(http.ErrAbortHandler) },
		"GET /hijacked": func(w http.ResponseWriter, r *http.Request) error {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return err
			}
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
			panic("secret four")
		},
		"GET /status": func(w http.ResponseWriter, r *http.Request) error { w.WriteHeader(1000); return nil },
	}})
	resp, body := do(t, "GET", srv.URL+"/before", "")
	wantProblem(t, resp, body, 500, "internal")
	if strings.Contains(body, "secret") {
		t.Errorf("the panic is in the answer: %s", body)
	}
	line := log.await(t, "request", 0)
	if line["error"] != "panic: secret one" || !strings.Contains(fmt.Sprint(line["stack"]), "TestPanics") || line["status"] != 500.0 {
		t.Errorf("log line of the panic = %v", line)
	}
	for i, path := range []string{"/after", "/buffered", "/flushed", "/abort", "/hijacked"} {
		wantCut(t, srv.URL+path)
		line := log.await(t, "request", i+1)
		if line["route"] != "GET "+path || (line["aborted"] != true && line["hijacked"] != true) || (line["stack"] == nil) != (path == "/abort") {
			t.Errorf("log line of %s = %v", path, line)
		}
	}
	resp, body = do(t, "GET", srv.URL+"/status", "")
	wantProblem(t, resp, body, 500, "internal")
}

func TestBodyLimit(t *testing.T) {
	lim := defaultLimits
	lim.bodyBytes = 10
	_, srv, _ := handler(t, lim, Service{Routes: map[string]Handler{
		"POST /json": func(w http.ResponseWriter, r *http.Request) error {
			var v any
			if err := Decode(r, &v); err != nil {
				return err
			}
			return JSON(w, 200, v)
		},
		"POST /raw": func(w http.ResponseWriter, r *http.Request) error {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				return fmt.Errorf("raw: %w", err)
			}
			return JSON(w, 200, len(b))
		},
		"POST /more": func(w http.ResponseWriter, r *http.Request) error {
			LimitBody(r, 20)
			b, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			return JSON(w, 200, len(b))
		},
	}})
	for _, tt := range []struct {
		path   string
		bytes  int
		status int
	}{
		{"/json", 10, 200}, {"/json", 11, 413}, {"/raw", 10, 200}, {"/raw", 11, 413}, {"/more", 20, 200}, {"/more", 21, 413},
	} {
		body := strings.Repeat(" ", tt.bytes-1) + "1"
		for _, reader := range []io.Reader{strings.NewReader(body), io.MultiReader(strings.NewReader(body))} { // with a length; chunked
			resp, err := http.Post(srv.URL+tt.path, "application/json", reader)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.status {
				t.Errorf("POST %s of %d bytes (%T) = %d, want %d", tt.path, tt.bytes, reader, resp.StatusCode, tt.status)
			}
			if tt.status == 413 {
				wantProblem(t, resp, string(got), 413, "body-too-large")
			}
		}
	}
}

func TestHeaderAndURILimits(t *testing.T) {
	s := start(t, defaultLimits, Service{Routes: map[string]Handler{"GET /": ok}})
	resp, body := do(t, "GET", s.url+"/"+strings.Repeat("x", defaultLimits.uriBytes), "")
	wantProblem(t, resp, body, 414, "uri-too-long")
	resp, body = do(t, "GET", s.url+"/", "", "X-Long", strings.Repeat("x", defaultLimits.headerBytes))
	wantProblem(t, resp, body, 431, "header-too-large")
	// Far over the limit net/http answers by itself.
	if resp, _ = do(t, "GET", s.url+"/", "", "X-Long", strings.Repeat("x", 3*defaultLimits.headerBytes)); resp.StatusCode != 431 {
		t.Errorf("status = %d, want 431", resp.StatusCode)
	}
	if resp, _ = do(t, "GET", s.url+"/", "", "X-Long", strings.Repeat("x", defaultLimits.headerBytes/2)); resp.StatusCode != 200 {
		t.Errorf("status within the limit = %d, want 200", resp.StatusCode)
	}
}

// dial opens a connection to a service and sends text.
func dial(t *testing.T, url, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestStalledHeader(t *testing.T) {
	lim := defaultLimits
	lim.readHeader = 20 * time.Millisecond
	s := start(t, lim, Service{Routes: map[string]Handler{"GET /": ok}})
	conn := dial(t, s.url, "GET / HTTP/1.1\r\nHost: local")
	if got, err := io.ReadAll(conn); err != nil || len(got) > 0 {
		t.Errorf("stalled header: read %q, %v; want a closed connection", got, err)
	}
}

func TestStalledBody(t *testing.T) {
	lim := defaultLimits
	lim.read = 20 * time.Millisecond
	s := start(t, lim, Service{Routes: map[string]Handler{
		"POST /json": func(w http.ResponseWriter, r *http.Request) error {
			var v any
			return Decode(r, &v)
		},
		"POST /raw": func(w http.ResponseWriter, r *http.Request) error {
			_, err := io.ReadAll(r.Body)
			return fmt.Errorf("raw: %w", err)
		},
	}})
	for _, path := range []string{"/json", "/raw"} {
		conn := dial(t, s.url, "POST "+path+" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		p := wantProblem(t, resp, string(body), 408, "body-timeout")
		if !p.Retryable || !resp.Close {
			t.Errorf("%s: retryable %v, close %v; want both", path, p.Retryable, resp.Close)
		}
		if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
			t.Errorf("%s: after the 408: %q, %v; want the end", path, rest, err)
		}
	}
}

func TestStreamsOutliveTheTimeouts(t *testing.T) {
	lim := defaultLimits
	lim.read, lim.write = 20*time.Millisecond, 20*time.Millisecond
	// The streams stand still until an answer beside them, in another connection, was cut by the same time-outs.
	beside := make(chan struct{})
	stream := func(w http.ResponseWriter, r *http.Request) error {
		if err := Stream(r); err != nil {
			return err
		}
		http.NewResponseController(w).Flush()
		select {
		case <-beside:
		case <-r.Context().Done():
		}
		_, err := io.WriteString(w, "alive")
		return err
	}
	s := start(t, lim, Service{
		Routes: map[string]Handler{"GET /declared": stream, "GET /found": stream, "GET /slow": func(w http.ResponseWriter, r *http.Request) error {
			for { // until the write time-out
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return err
				}
			}
		}},
		Streams: []string{"GET /declared"},
	})
	var bodies []io.ReadCloser
	for _, path := range []string{"/declared", "/found"} {
		resp, err := http.Get(s.url + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		bodies = append(bodies, resp.Body)
	}
	wantCut(t, s.url+"/slow")
	s.log.await(t, "request", 0)
	close(beside)
	for i, body := range bodies {
		if got, err := io.ReadAll(body); string(got) != "alive" || err != nil {
			t.Errorf("stream %d = %q, %v; want alive", i, got, err)
		}
	}
}

func TestConcurrencyLimits(t *testing.T) {
	lim := defaultLimits
	lim.requests, lim.streams = 1, 1
	release := make(chan struct{})
	var once sync.Once
	defer once.Do(func() { close(release) })
	hold := func(w http.ResponseWriter, r *http.Request) error {
		http.NewResponseController(w).Flush()
		<-release
		return nil
	}
	late := func(w http.ResponseWriter, r *http.Request) error {
		if err := Stream(r); err != nil {
			return err
		}
		return hold(w, r)
	}
	s, srv, log := handler(t, lim, Service{
		Routes:  map[string]Handler{"GET /hold": hold, "GET /stream": hold, "GET /late": late, "GET /a": ok, "POST /a": ok},
		Streams: []string{"GET /stream"},
	})
	open := func(path string) io.Closer {
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Body
	}
	defer open("/stream").Close()
	if resp, _ := do(t, "GET", srv.URL+"/a", ""); resp.StatusCode != 200 {
		t.Errorf("beside an open stream: %d, want 200", resp.StatusCode)
	}
	for _, path := range []string{"/stream", "/late"} {
		resp, body := do(t, "GET", srv.URL+path, "")
		if wantProblem(t, resp, body, 503, "too-many-streams"); resp.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	defer open("/hold").Close()
	resp, body := do(t, "GET", srv.URL+"/a", "")
	if p := wantProblem(t, resp, body, 503, "overloaded"); !p.Retryable || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("overloaded: %+v, Retry-After %q", p, resp.Header.Get("Retry-After"))
	}
	resp, body = do(t, "POST", srv.URL+"/a", "")
	if p := wantProblem(t, resp, body, 503, "overloaded"); p.Outcome != "not_applied" {
		t.Errorf("outcome of a POST that was not let in = %q, want not_applied", p.Outcome)
	}
	for _, path := range []string{"/health", "/ready", "/metrics"} {
		if resp, _ := do(t, "GET", srv.URL+path, ""); resp.StatusCode != 200 {
			t.Errorf("%s under overload = %d, want 200", path, resp.StatusCode)
		}
	}
	once.Do(func() { close(release) })
	log.await(t, "request", 8) // the last of the nine has left
	for name, g := range map[string]*gate{"requests": &s.requests, "streams": &s.streams, "shell": &s.shell} {
		if !g.wait(t.Context()) || g.inside() != 0 {
			t.Errorf("%s: %d inside at the end, want 0", name, g.inside())
		}
	}
}

func TestOnlyLoopbackNamesAndOwnPages(t *testing.T) {
	_, srv, _ := handler(t, defaultLimits, Service{Routes: map[string]Handler{"GET /a": ok, "POST /a": ok}})
	for host, want := range map[string]int{
		"localhost": 200, "localhost:1": 200, "LOCALHOST": 200, "127.0.0.1:9": 200, "127.9.9.9": 200, "[::1]:9": 200, "[::1]": 200,
		"evil.example": 421, "localhost.evil.example": 421, "127.0.0.1.evil.example:80": 421, "10.0.0.1": 421, "[::2]:1": 421, "0.0.0.0": 421,
	} {
		resp, body := do(t, "GET", srv.URL+"/a", "", "Host", host)
		if resp.StatusCode != want {
			t.Errorf("Host %s = %d, want %d", host, resp.StatusCode, want)
		}
		if want == 421 {
			wantProblem(t, resp, body, 421, "host-not-loopback")
		}
	}
	resp, body := do(t, "POST", srv.URL+"/a", "", "Origin", "https://evil.example")
	if p := wantProblem(t, resp, body, 403, "cross-origin"); p.Outcome != "not_applied" {
		t.Errorf("outcome of a POST that reached no handler = %q, want not_applied", p.Outcome)
	}
	resp, body = do(t, "POST", srv.URL+"/a", "", "Sec-Fetch-Site", "cross-site")
	wantProblem(t, resp, body, 403, "cross-origin")
	for _, h := range [][]string{{"Sec-Fetch-Site", "same-origin"}, {"Origin", srv.URL}, {}} {
		if resp, _ := do(t, "POST", srv.URL+"/a", "", h...); resp.StatusCode != 200 {
			t.Errorf("POST with %v = %d, want 200", h, resp.StatusCode)
		}
	}
	if resp, _ := do(t, "GET", srv.URL+"/a", "", "Origin", "https://evil.example"); resp.StatusCode != 200 {
		t.Errorf("a safe method across origins = %d, want 200", resp.StatusCode)
	}
}

func TestUserAndIdempotencyKey(t *testing.T) {
	_, srv, _ := handler(t, defaultLimits, Service{Routes: map[string]Handler{
		"GET /": func(w http.ResponseWriter, r *http.Request) error {
			user, err := User(r)
			if err != nil {
				return err
			}
			key, err := IdempotencyKey(r)
			if err != nil {
				return err
			}
			return JSON(w, 200, user+"|"+key)
		},
	}})
	for _, tt := range []struct {
		header []string
		want   string // answer, or code
		status int
	}{
		{[]string{"X-User", "a"}, "\"a|\"\n", 200},
		{[]string{"X-User", "Az0._-"}, "\"Az0._-|\"\n", 200},
		{[]string{"X-User", strings.Repeat("a", 64)}, "\"" + strings.Repeat("a", 64) + "|\"\n", 200},
		{nil, "unauthenticated", 401},
		{[]string{"X-User", ""}, "user-invalid", 400},
		{[]string{"X-User", strings.Repeat("a", 65)}, "user-invalid", 400},
		{[]string{"X-User", "a b"}, "user-invalid", 400},
		{[]string{"X-User", "이웃"}, "user-invalid", 400},
		{[]string{"X-User", "a", "X-User", "b"}, "user-invalid", 400},
		{[]string{"X-User", "a", "Idempotency-Key", "k!~"}, "\"a|k!~\"\n", 200},
		{[]string{"X-User", "a", "Idempotency-Key", strings.Repeat("k", 255)}, "\"a|" + strings.Repeat("k", 255) + "\"\n", 200},
		{[]string{"X-User", "a", "Idempotency-Key", strings.Repeat("k", 256)}, "idempotency-key-invalid", 400},
		{[]string{"X-User", "a", "Idempotency-Key", ""}, "idempotency-key-invalid", 400},
		{[]string{"X-User", "a", "Idempotency-Key", "a b"}, "idempotency-key-invalid", 400},
		{[]string{"X-User", "a", "Idempotency-Key", "é"}, "idempotency-key-invalid", 400},
		{[]string{"X-User", "a", "Idempotency-Key", "k", "Idempotency-Key", "k"}, "idempotency-key-invalid", 400},
	} {
		resp, body := do(t, "GET", srv.URL+"/", "", tt.header...)
		if tt.status != 200 {
			wantProblem(t, resp, body, tt.status, tt.want)
			if (resp.Header.Get("WWW-Authenticate") != "") != (tt.status == 401) {
				t.Errorf("WWW-Authenticate of a %d = %q", tt.status, resp.Header.Get("WWW-Authenticate"))
			}
		} else if resp.StatusCode != 200 || body != tt.want {
			t.Errorf("%v = %d %q, want %q", tt.header, resp.StatusCode, body, tt.want)
		}
	}
}

func TestClientGone(t *testing.T) {
	inside := make(chan struct{})
	s := start(t, defaultLimits, Service{Routes: map[string]Handler{
		"GET /": func(w http.ResponseWriter, r *http.Request) error {
			close(inside)
			<-r.Context().Done()
			return r.Context().Err()
		},
	}})
	conn := dial(t, s.url, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-inside
	conn.Close()
	if line := s.log.await(t, "request", 0); line["status"] != 499.0 || line["level"] != "INFO" {
		t.Errorf("log line = %v, want status 499", line)
	}
}
