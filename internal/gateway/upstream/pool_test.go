package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const patience = 20 * time.Second

// service returns a service's URL and the number of connections that it was opened.
func service(t testing.TB, handler http.HandlerFunc) (string, *atomic.Int64) {
	t.Helper()
	var opened atomic.Int64
	server := httptest.NewUnstartedServer(handler)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	return server.URL, &opened
}

// raw serves each connection with f, in order; the last f serves all that come after.
func raw(t testing.TB, f ...func(c net.Conn, r *bufio.Reader)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for i := 0; ; i++ {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f[min(i, len(f)-1)](c, bufio.NewReader(c))
			}()
		}
	}()
	return "http://" + listener.Addr().String()
}

func newRequest(t testing.TB, ctx context.Context, method, url, body string) *http.Request {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// send returns the answer's status and whole body.
func send(t testing.TB, p *Pool, r *http.Request) (int, string, error) {
	t.Helper()
	answer, err := p.RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(body), err
}

func TestOneConnectionForOneAfterTheOther(t *testing.T) {
	url, opened := service(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, body)
	})
	var p Pool
	defer p.CloseIdleConnections()
	for _, c := range []struct{ method, path, body, want string }{
		{"GET", "/a?b=c", "", "GET /a?b=c "},
		{"POST", "/a%2Fb", "hello", "POST /a%2Fb hello"},
		{"PUT", "/", strings.Repeat("x", inlineMax+1), "PUT / " + strings.Repeat("x", inlineMax+1)},
		{"GET", "/", "", "GET / "},
	} {
		status, body, err := send(t, &p, newRequest(t, t.Context(), c.method, url+c.path, c.body))
		if status != 200 || body != c.want || err != nil {
			t.Errorf("%s %s = %d %.80q, %v, want 200 %.80q", c.method, c.path, status, body, err, c.want)
		}
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("%d connections were opened, want 1", n)
	}
}

func TestManyAtOnce(t *testing.T) {
	url, opened := service(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) })
	var p Pool
	defer p.CloseIdleConnections()
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			for j := range 40 {
				path := fmt.Sprintf("/%d/%d", i, j)
				if _, body, err := send(t, &p, newRequest(t, t.Context(), "GET", url+path, "")); body != path || err != nil {
					t.Errorf("GET %s = %q, %v", path, body, err)
				}
			}
		})
	}
	all.Wait()
	if n := opened.Load(); n > 50 {
		t.Errorf("%d connections for 50 callers", n)
	}
}

// TestClosedWhileIdle: a connection that the service closed is not used again, whatever the method.
func TestClosedWhileIdle(t *testing.T) {
	gone := make(chan struct{})
	url := raw(t, func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")
		c.Close()
		gone <- struct{}{}
	})
	var p Pool
	for range 3 {
		if _, body, err := send(t, &p, newRequest(t, t.Context(), "POST", url, "x")); body != "1" || err != nil {
			t.Fatalf("POST = %q, %v", body, err)
		}
		<-gone
	}
}

// TestBreaksBeforeTheAnswer: what may be sent twice is, once, if its connection was a kept one; nothing else.
func TestBreaksBeforeTheAnswer(t *testing.T) {
	for _, c := range []struct {
		method, body, key string
		kept, want        bool
	}{
		{"GET", "", "", true, true},
		{"GET", "", "", false, false},
		{"PUT", "x", "", true, true},
		{"POST", "x", "", true, false},
		{"POST", "x", "k", true, true},
		{"PATCH", "", "", true, false},
	} {
		answerOnce := func(c net.Conn, r *bufio.Reader) {
			if req, err := http.ReadRequest(r); err == nil {
				io.Copy(io.Discard, req.Body)
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")
			}
		}
		breaks := func(c net.Conn, r *bufio.Reader) {
			if req, err := http.ReadRequest(r); err == nil {
				io.Copy(io.Discard, req.Body)
			}
		}
		first := breaks
		if c.kept {
			first = func(c net.Conn, r *bufio.Reader) { answerOnce(c, r); breaks(c, r) }
		}
		url := raw(t, first, answerOnce)
		var p Pool
		if c.kept {
			if _, _, err := send(t, &p, newRequest(t, t.Context(), "GET", url, "")); err != nil {
				t.Fatal(err)
			}
		}
		r := newRequest(t, t.Context(), c.method, url, c.body)
		if c.key != "" {
			r.Header.Set("Idempotency-Key", c.key)
		}
		_, body, err := send(t, &p, r)
		if got := err == nil && body == "1"; got != c.want {
			t.Errorf("%+v: answered %q, %v", c, body, err)
		}
		if errors.Is(err, ErrNotSent) {
			t.Errorf("%+v: %v, but it was sent", c, err)
		}
	}
}

func TestNotSent(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	var p Pool
	if _, _, err := send(t, &p, newRequest(t, t.Context(), "POST", "http://"+listener.Addr().String(), "x")); !errors.Is(err, ErrNotSent) {
		t.Errorf("err = %v, want ErrNotSent", err)
	}
}

func TestGivenUp(t *testing.T) {
	arrived, release := make(chan struct{}, 2), make(chan struct{})
	url, _ := service(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- struct{}{}
			<-release
		}
		io.WriteString(w, "ok")
	})
	defer close(release)
	var p Pool
	defer p.CloseIdleConnections()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, _, err := send(t, &p, newRequest(t, ctx, "GET", url+"/slow", "")); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: err = %v, want context.Canceled", err)
	}
	timed := Pool{HeadTimeout: 20 * time.Millisecond}
	_, _, err := send(t, &timed, newRequest(t, t.Context(), "GET", url+"/slow", ""))
	var network net.Error
	if !errors.As(err, &network) || !network.Timeout() {
		t.Errorf("too slow: err = %v, want a time-out", err)
	}
	if _, body, err := send(t, &timed, newRequest(t, t.Context(), "GET", url, "")); body != "ok" || err != nil {
		t.Errorf("afterwards: %q, %v", body, err)
	}
}

// TestStream: the answer's body comes as it is written, and the head's time-out does not end it.
func TestStream(t *testing.T) {
	next := make(chan string)
	url, _ := service(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		for line := range next {
			io.WriteString(w, line+"\n")
			http.NewResponseController(w).Flush()
		}
	})
	p := Pool{HeadTimeout: 50 * time.Millisecond}
	answer, err := p.RoundTrip(newRequest(t, t.Context(), "GET", url, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	<-time.After(2 * p.HeadTimeout)
	for _, want := range []string{"a", "b"} {
		next <- want
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("read %q, %v, want %q", lines.Text(), lines.Err(), want)
		}
	}
	close(next)
	if lines.Scan() || lines.Err() != nil {
		t.Errorf("after the end: %q, %v", lines.Text(), lines.Err())
	}
}

// TestEarlyAnswer: a service may answer before it has read a long body, and close; the client gets the answer.
func TestEarlyAnswer(t *testing.T) {
	url := raw(t, func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
		io.CopyN(io.Discard, r, 1<<20)
	})
	var p Pool
	body, writer := io.Pipe()
	defer writer.Close()
	r := newRequest(t, t.Context(), "POST", url, "")
	r.Body = body
	r.ContentLength = 1 << 30
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if status, text, err := send(t, &p, r.WithContext(ctx)); status != 413 || text != "no" || err != nil {
		t.Errorf("= %d %q, %v, want 413 no", status, text, err)
	}
}

func TestHeads(t *testing.T) {
	head := func(text string) func(c net.Conn, r *bufio.Reader) {
		return func(c net.Conn, r *bufio.Reader) { http.ReadRequest(r); io.WriteString(c, text) }
	}
	for _, c := range []struct{ name, answer, want string }{
		{"informational", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok"},
		{"until it closes", "HTTP/1.0 200 OK\r\n\r\nok", "ok"},
		{"too long", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", headBytesMax) + "\r\n\r\n", "the head of the answer is over"},
		{"for ever informational", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", headsMax+1), "informational answers"},
		{"no HTTP", "SSH-2.0-x\r\n", "malformed HTTP"},
		{"cut", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", "unexpected EOF"},
	} {
		var p Pool
		_, body, err := send(t, &p, newRequest(t, t.Context(), "GET", raw(t, head(c.answer)), ""))
		if got := fmt.Sprint(body, err); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, %v, want %q", c.name, body, err, c.want)
		}
	}
}

// TestRest: an answer with more bytes than it says poisons nobody else's.
func TestRest(t *testing.T) {
	url := raw(t,
		func(c net.Conn, r *bufio.Reader) {
			http.ReadRequest(r)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
			http.ReadRequest(r)
		},
		func(c net.Conn, r *bufio.Reader) {
			http.ReadRequest(r)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
		})
	var p Pool
	for _, want := range []string{"ok", "good"} {
		if _, body, err := send(t, &p, newRequest(t, t.Context(), "GET", url, "")); body != want || err != nil {
			t.Errorf("= %q, %v, want %q", body, err, want)
		}
	}
}

func TestUpgrade(t *testing.T) {
	url := raw(t, func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhi ")
		io.Copy(c, r)
	})
	var p Pool
	r := newRequest(t, t.Context(), "GET", url, "")
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "echo")
	answer, err := p.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	both, ok := answer.Body.(io.ReadWriteCloser)
	if !ok {
		t.Fatalf("the body is a %T", answer.Body)
	}
	defer both.Close()
	io.WriteString(both, "you")
	got := make([]byte, len("hi you"))
	if _, err := io.ReadFull(both, got); err != nil || string(got) != "hi you" {
		t.Errorf("read %q, %v", got, err)
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	url, _ := service(b, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, strings.Repeat("x", 200)) })
	for _, c := range []struct {
		name      string
		transport http.RoundTripper
	}{{"pool", &Pool{HeadTimeout: 30 * time.Second}}, {"http.Transport", &http.Transport{MaxIdleConnsPerHost: 256, ResponseHeaderTimeout: 30 * time.Second, DisableCompression: true}}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					answer, err := c.transport.RoundTrip(newRequest(b, b.Context(), "GET", url, ""))
					if err != nil {
						b.Error(err)
						return
					}
					io.Copy(io.Discard, answer.Body)
					answer.Body.Close()
				}
			})
		})
	}
}
