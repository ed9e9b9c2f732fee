package gateway

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// front returns the URL of a gateway with one service, chat, at target.
func front(t *testing.T, target *url.URL) (*Backend, string) {
	t.Helper()
	g := open(t, setup{targets: map[string]*url.URL{"chat": target}})
	return g.backends["chat"], g.url
}

func TestProxyRequest(t *testing.T) {
	type seen struct {
		Method, URI, Host, Body string
		Header                  map[string]string
	}
	got := make(chan seen, 1)
	target := service(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s := seen{r.Method, r.RequestURI, r.Host, string(body), map[string]string{}}
		for name := range r.Header {
			s.Header[name] = strings.Join(r.Header[name], "|")
		}
		got <- s
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, "done")
	})
	_, base := front(t, target)
	gatewayHost := strings.TrimPrefix(base, "http://")

	req, err := http.NewRequest(http.MethodPost, base+"/chat/rooms/a%3Ab/x%20y?q=1;2&z=%zz", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"X-User": "u1", "X-Auth-Request-User": "u1", "X_user": "u1", "Idempotency-Key": "k", "Accept-Encoding": "br", "User-Agent": "me",
		"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "evil", "X-Forwarded-Prefix": "/evil", "Forwarded": "for=6.6.6.6",
		"Connection": "X-Secret-Hop", "X-Secret-Hop": "1",
		"Origin":      "http://" + gatewayHost,
		"Traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
	} {
		req.Header.Set(name, value)
	}
	answer, body := fetch(t, req)
	if answer.StatusCode != http.StatusCreated || body != "done" {
		t.Errorf("answer is %d %q, want 201 done", answer.StatusCode, body)
	}
	if diff := cmp.Diff([]string{"nosniff"}, answer.Header["X-Content-Type-Options"]); diff != "" {
		t.Errorf("a header that both set mismatch (-want +got):\n%s", diff)
	}
	if answer.Header.Get("X-Hop") != "" {
		t.Error("a hop-by-hop header of the answer came through")
	}

	s := <-got
	if !strings.HasPrefix(s.Header["Traceparent"], "00-0123456789abcdef0123456789abcdef-") ||
		s.Header["Traceparent"] == req.Header.Get("Traceparent") {
		t.Errorf("traceparent %q does not carry the trace on in a span of its own", s.Header["Traceparent"])
	}
	delete(s.Header, "Traceparent")
	want := seen{http.MethodPost, "/rooms/a%3Ab/x%20y?q=1;2&z=%zz", target.Host, "hello", map[string]string{
		"Idempotency-Key": "k", "Accept-Encoding": "br", "User-Agent": "me", "Content-Length": "5",
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": gatewayHost, "X-Forwarded-Proto": "http", "X-Forwarded-Prefix": "/chat",
		"Origin": target.String(),
	}}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("the service's request mismatch (-want +got):\n%s", diff)
	}
}

func TestProxyPaths(t *testing.T) {
	target := service(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) })
	_, base := front(t, target)
	deeper := *target
	deeper.Path = "/under"
	_, under := front(t, &deeper)
	for _, c := range []struct{ base, path, want string }{
		{base, "/chat/", "/"},
		{base, "/chat/?", "/?"},
		{base, "/chat/rooms", "/rooms"},
		{base, "/chat/chat/", "/chat/"},
		{base, "/%63hat/a%3Ab", "/a%3Ab"},
		{under, "/chat/rooms?a=b", "/under/rooms?a=b"},
	} {
		if answer, got := get(t, c.base+c.path); answer.StatusCode != http.StatusOK || got != c.want {
			t.Errorf("GET %s becomes %d %q, want %q", c.path, answer.StatusCode, got, c.want)
		}
	}
	if answer, _ := get(t, base+"/chat"); answer.StatusCode/100 != 3 || answer.Header.Get("Location") != "/chat/" {
		t.Errorf("GET /chat answers %d to %q, want a redirection here", answer.StatusCode, answer.Header.Get("Location"))
	}
}

func TestProxyRelocates(t *testing.T) {
	var location string
	target := service(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusSeeOther)
	})
	_, base := front(t, target)
	for _, c := range []struct{ location, want string }{
		{"/rooms/1?a=b#c", "/chat/rooms/1?a=b#c"},
		{"/a%2Fb", "/chat/a%2Fb"},
		{target.String() + "/rooms", "/chat/rooms"},
		{"rooms", "rooms"},
		{"?page=2", "?page=2"},
		{"https://elsewhere.example/x", "https://elsewhere.example/x"},
		{"//elsewhere.example/x", "//elsewhere.example/x"},
	} {
		location = c.location
		if answer, _ := get(t, base+"/chat/"); answer.Header.Get("Location") != c.want {
			t.Errorf("Location %q becomes %q, want %q", c.location, answer.Header.Get("Location"), c.want)
		}
	}
}

// Events arrive one by one while the service's answer is still open, however
// the service writes it; a stream does not hold up the shutdown as a request does.
func TestProxyStreams(t *testing.T) {
	for _, c := range []struct {
		name  string
		begin func(t *testing.T, w http.ResponseWriter) (write func(string), end func())
	}{
		{"flushed", func(t *testing.T, w http.ResponseWriter) (func(string), func()) {
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			return func(s string) {
				io.WriteString(w, s)
				http.NewResponseController(w).Flush()
			}, func() {}
		}},
		{"hijacked", func(t *testing.T, w http.ResponseWriter) (func(string), func()) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
			}
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
			return func(s string) { io.WriteString(conn, s) }, func() { conn.Close() }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			next := make(chan string)
			target := service(t, func(w http.ResponseWriter, r *http.Request) {
				write, end := c.begin(t, w)
				defer end()
				for event := range next {
					write(event)
				}
			})
			b, base := front(t, target)
			events := []string{"data: one\n", "data: two\n"}
			go func() { next <- events[0] }()
			answer, err := http.Get(base + "/chat/stream")
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			lines := bufio.NewReader(answer.Body)
			for i, want := range events {
				if i > 0 {
					next <- want
				}
				if got, err := lines.ReadString('\n'); got != want {
					t.Fatalf("read %q, %v; want %q", got, err, want)
				}
				if n := b.short.Load(); n != 0 {
					t.Errorf("a stream counts as %d requests", n)
				}
			}
			close(next)
			if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
				t.Errorf("the stream ends with %q, %v", rest, err)
			}
		})
	}
}

// A client that goes away takes its request to the service with it.
func TestProxyClientGone(t *testing.T) {
	began, gone := make(chan bool), make(chan bool)
	target := service(t, func(w http.ResponseWriter, r *http.Request) {
		began <- true
		<-r.Context().Done()
		close(gone)
	})
	b, base := front(t, target)
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/chat/", nil)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		_, err := http.DefaultTransport.RoundTrip(req)
		failed <- err
	}()
	<-began
	if n := b.short.Load(); n != 1 {
		t.Errorf("one request under way counts as %d", n)
	}
	cancel()
	<-gone
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("the client's error is %v", err)
	}
}

// wantDown checks the problem of a service that is away.
func wantDown(t *testing.T, answer *http.Response, body string, status int) {
	t.Helper()
	wantProblem(t, answer, body, status, "service-down")
	if answer.Header.Get("Retry-After") != "1" || !strings.Contains(body, `"retryable":true`) {
		t.Errorf("nothing says that it may pass: %v %s", answer.Header, body)
	}
}

func TestProxyServiceAway(t *testing.T) {
	b, base := front(t, nil)
	answer, body := get(t, base+"/chat/rooms")
	wantDown(t, answer, body, http.StatusServiceUnavailable)
	wantOutcome(t, base, http.StatusServiceUnavailable, "not_applied")

	// A port that was just given back and is most likely free; whoever has it
	// now is no HTTP server that answers 200.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	b.listening(l.Addr().String())
	answer, body = get(t, base+"/chat/rooms")
	wantDown(t, answer, body, http.StatusBadGateway)

	b.away(Restarting)
	answer, body = get(t, base+"/chat/rooms")
	wantDown(t, answer, body, http.StatusServiceUnavailable)
	if !strings.Contains(body, "chat is restarting") {
		t.Errorf("body %q does not say that it is restarting", body)
	}
}

func TestProxyHangsUp(t *testing.T) {
	target := service(t, func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	_, base := front(t, target)
	answer, body := get(t, base+"/chat/rooms")
	wantDown(t, answer, body, http.StatusBadGateway)
	wantOutcome(t, base, http.StatusBadGateway, "unknown")
}

// wantOutcome checks that a request which asks for a change is told that much of it, and one that does not is told nothing.
func wantOutcome(t *testing.T, base string, status int, outcome string) {
	t.Helper()
	if _, body := get(t, base+"/chat/rooms"); strings.Contains(body, "outcome") {
		t.Errorf("a read has an outcome: %s", body)
	}
	answer, err := http.Post(base+"/chat/rooms", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != status || !strings.Contains(string(body), `"outcome":"`+outcome+`"`) {
		t.Errorf("POST: %d %s, %v; want %d with outcome %s", answer.StatusCode, body, err, status, outcome)
	}
}

func TestProxyTimeout(t *testing.T) {
	target := service(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	g := open(t, setup{targets: map[string]*url.URL{"chat": target}, routes: `{"routes":{"chat":{"timeout":"5ms"}}}`})
	answer, body := get(t, g.url+"/chat/rooms")
	wantDown(t, answer, body, http.StatusGatewayTimeout)
}

// Half an answer does not look whole.
func TestProxyBrokenAnswer(t *testing.T) {
	target := service(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	_, base := front(t, target)
	answer, err := http.Get(base + "/chat/")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); err == nil {
		t.Errorf("a broken answer reads as %q without an error", body)
	}
}

// A body over the gateway's limit is the client's fault, not the service's.
func TestProxyBodyTooLarge(t *testing.T) {
	target := service(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	_, base := front(t, target)
	for _, known := range []bool{true, false} {
		req, err := http.NewRequest(http.MethodPost, base+"/chat/", strings.NewReader(strings.Repeat("x", 1<<20+1)))
		if err != nil {
			t.Fatal(err)
		}
		if !known {
			req.ContentLength = -1
		}
		if answer, body := fetch(t, req); answer.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("length known %v: answer is %d %s, want 413", known, answer.StatusCode, body)
		}
	}
}

func TestReady(t *testing.T) {
	status := http.StatusOK
	target := service(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ready" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.WriteHeader(status)
	})
	ok := NewBackend("chat", nil, target, NewTransport())
	away := NewBackend("geo", nil, nil, NewTransport())
	if err := Ready(t.Context(), []*Backend{ok}); err != nil {
		t.Errorf("Ready of a service that is: %v", err)
	}
	if err := Ready(t.Context(), []*Backend{ok, away}); err == nil || err.Error() != "geo is starting" {
		t.Errorf("Ready with one that starts: %v", err)
	}
	status = http.StatusServiceUnavailable
	if err := Ready(t.Context(), []*Backend{ok}); err == nil || !strings.Contains(err.Error(), "chat is not ready: 503") {
		t.Errorf("Ready of a service that is not: %v", err)
	}
}
