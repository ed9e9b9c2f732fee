package serve_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"dongne/internal/serve"
	"dongne/internal/serve/servetest"
)

const patience = 20 * time.Second

// TestWithAuth: with AUTH_URL a service verifies by itself, may listen on any address, and a revocation reaches its streams.
func TestWithAuth(t *testing.T) {
	auth := servetest.NewAuth(t)
	ctx, stop := context.WithCancel(t.Context())
	values := map[string]string{"AUTH_URL": auth.URL, "HOST": "0.0.0.0"}
	in, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- serve.Run(ctx, serve.Env(nil, func(name string) string { return values[name] }), out, serve.Service{
			Name: "x", Streams: []string{"GET /stream"}, Strict: []string{"GET /stream"},
			Routes: map[string]serve.Handler{"GET /stream": stream},
		})
		out.Close()
	}()
	base := awaitListening(t, in)
	servetest.AwaitReady(t, base)
	if status, body := get(t, base+"/whoami", auth.Token("ana", "pay:read")); status != 200 {
		t.Errorf("whoami: %d %s", status, body)
	}
	if status, body := get(t, base+"/whoami", auth.Token("ana")+"x"); status != 401 {
		t.Errorf("whoami with a forged token: %d %s", status, body)
	}
	lines := open(t, base+"/stream", auth.Token("ana"))
	other := open(t, base+"/stream", auth.Token("bo"))
	revoked := time.Now()
	auth.Revoke(servetest.SessionOf("ana"))
	if line := next(t, lines); line != "event: bye" {
		t.Errorf("after the revocation the stream says %q", line)
	}
	t.Logf("%v from the revocation to the stream's last event", time.Since(revoked))
	if status, _ := get(t, base+"/whoami", auth.Token("ana")); status != 401 {
		t.Errorf("whoami of a revoked session: %d", status)
	}
	select {
	case line := <-other:
		t.Errorf("another session's stream says %q", line)
	default:
	}
	stop()
	if line := next(t, other); line != "event: bye" {
		t.Errorf("at the shutdown the other stream says %q", line)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// stream says hello, and bye when it is to end.
func stream(w http.ResponseWriter, r *http.Request) error {
	if _, err := serve.User(r); err != nil {
		return err
	}
	io.WriteString(w, "event: hello\n")
	if err := http.NewResponseController(w).Flush(); err != nil {
		return err
	}
	select {
	case <-serve.Draining(r.Context()):
		io.WriteString(w, "event: bye\n")
	case <-r.Context().Done():
	}
	return nil
}

// awaitListening returns the URL that the log tells, with a loopback address, and goes on reading the log.
func awaitListening(t *testing.T, log io.Reader) string {
	t.Helper()
	found := make(chan string, 1)
	go func() {
		for s := bufio.NewScanner(log); s.Scan(); {
			var line struct{ Msg, Addr string }
			if json.Unmarshal(s.Bytes(), &line) == nil && line.Msg == "listening" {
				found <- line.Addr
			}
		}
	}()
	select {
	case addr := <-found:
		u, err := url.Parse("http://" + addr)
		if err != nil {
			t.Fatal(err)
		}
		return "http://127.0.0.1:" + u.Port()
	case <-time.After(patience):
		t.Fatal("the service does not listen")
		return ""
	}
}

func request(t *testing.T, url, token string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func get(t *testing.T, url, token string) (int, string) {
	t.Helper()
	answer := request(t, url, token)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// open opens a stream, and returns its lines behind the first.
func open(t *testing.T, url, token string) <-chan string {
	t.Helper()
	answer := request(t, url, token)
	t.Cleanup(func() { answer.Body.Close() })
	lines := make(chan string, 10)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(answer.Body); s.Scan(); {
			lines <- s.Text()
		}
	}()
	if line := next(t, lines); line != "event: hello" {
		t.Fatalf("%s: %d, %q", url, answer.StatusCode, line)
	}
	return lines
}

func next(t *testing.T, lines <-chan string) string {
	t.Helper()
	select {
	case line := <-lines:
		return line
	case <-time.After(patience):
		t.Fatal("nothing comes on the stream")
		return ""
	}
}
