package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// dial opens a connection to the gateway, which ends within patience.
func dial(t *testing.T, base string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn, bufio.NewReader(conn)
}

// rawService answers each connection by hand.
func rawService(t *testing.T, answer func(c net.Conn, r *bufio.Reader)) *url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				answer(c, bufio.NewReader(c))
			}()
		}
	}()
	return &url.URL{Scheme: "http", Host: l.Addr().String()}
}

// A service that hangs in the middle of its answer holds up nobody but those who asked, and they can go.
func TestHangsInMidBody(t *testing.T) {
	gone := make(chan bool, 1)
	target := rawService(t, func(c net.Conn, r *bufio.Reader) {
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if request.URL.Path != "/hang" {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
		c.SetReadDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
		gone <- err == io.EOF
	})
	g := open(t, setup{targets: map[string]*url.URL{"chat": target}, routes: `{"defaults":{"timeout":"50ms"}}`})
	conn, r := dial(t, g.url)
	io.WriteString(conn, "GET /chat/hang HTTP/1.1\r\nHost: localhost\r\n\r\n")
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	half := make([]byte, 4)
	if _, err := io.ReadFull(answer.Body, half); err != nil || string(half) != "half" {
		t.Fatalf("read %q, %v", half, err)
	}
	if _, body := get(t, g.url+"/chat/"); body != "ok" {
		t.Errorf("somebody else: %s", body)
	}
	conn.Close()
	if !<-gone {
		t.Error("the service's connection did not end with the client's")
	}
	soon(t, "the request has ended", func() bool { return g.backends["chat"].short.Load() == 0 })
}

// A service that breaks off after its head, or in its body, makes no answer that looks whole.
func TestResetsAfterHead(t *testing.T) {
	for _, head := range []string{"Content-Length: 100\r\n\r\n", "Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "Transfer-Encoding: chunked\r\n\r\n"} {
		target := rawService(t, func(c net.Conn, r *bufio.Reader) {
			if _, err := http.ReadRequest(r); err == nil {
				io.WriteString(c, "HTTP/1.1 200 OK\r\n"+head)
				c.(*net.TCPConn).SetLinger(0)
			}
		})
		g := open(t, setup{targets: map[string]*url.URL{"chat": target}})
		answer, err := http.Get(g.url + "/chat/")
		if err == nil {
			_, err = io.ReadAll(answer.Body)
			answer.Body.Close()
		}
		if err == nil {
			t.Errorf("after %q the answer looks whole", head)
		}
		g.stop()
	}
}

// A 503 that never ends keeps no retry waiting.
func TestRetryOverHangingAnswer(t *testing.T) {
	first := make(chan bool, 1)
	first <- true
	target := rawService(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		select {
		case <-first:
			io.WriteString(c, "HTTP/1.1 503 No\r\nContent-Length: 100\r\n\r\nhalf")
			c.Read(make([]byte, 1))
		default:
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
		}
	})
	g := open(t, setup{targets: map[string]*url.URL{"chat": target}})
	if answer, body := get(t, g.url+"/chat/"); body != "ok" {
		t.Errorf("%d %s", answer.StatusCode, body)
	}
}

// Slow clients are cut off in time, and hold up nobody: one that never ends its header is no request, one that never ends its
// body gets a 408.
func TestSlowloris(t *testing.T) {
	t.Parallel() // it waits for the shell's own limits, half a minute
	g := open(t, setup{targets: map[string]*url.URL{"chat": service(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })},
		routes: `{"defaults":{"timeout":"100ms","retries":{"attempts":1}}}`})
	const each = 50
	type slow struct {
		conn net.Conn
		r    *bufio.Reader
		drip string
	}
	var all []slow
	began := time.Now()
	for _, begin := range []string{"GET /chat/ HTTP/1.1\r\nHost: localhost\r\n", "POST /chat/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n",
		"POST /chat/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"} {
		for range each {
			conn, r := dial(t, g.url)
			conn.SetDeadline(began.Add(time.Minute))
			io.WriteString(conn, begin)
			drip := "x"
			if strings.Contains(begin, "chunked") {
				drip = "1\r\nx\r\n"
			}
			if strings.HasPrefix(begin, "GET") {
				drip = "A: b\r\n"
			}
			all = append(all, slow{conn, r, drip})
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // a byte now and then
		for tick := time.Tick(time.Second); ; {
			select {
			case <-tick:
				for _, s := range all {
					io.WriteString(s.conn, s.drip)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	for i, s := range all {
		answer, err := http.ReadResponse(s.r, nil)
		switch {
		case i < each && err == nil && answer.StatusCode != http.StatusBadRequest: // of net/http, or nothing
			t.Fatalf("a header without end is answered %d", answer.StatusCode)
		case i >= each && (err != nil || answer.StatusCode != http.StatusRequestTimeout):
			t.Fatalf("a body without end: %v, %v; want a 408", answer, err)
		}
		if i == 0 {
			if answer, _ := get(t, g.url+"/chat/"); answer.StatusCode != http.StatusOK {
				t.Errorf("somebody else meanwhile: %d", answer.StatusCode)
			}
		}
	}
	if took := time.Since(began); took > 40*time.Second {
		t.Errorf("the last was cut off after %v", took)
	}
	state := g.front.Lane("chat").breaker(mustWhere(g)).State(time.Now())
	if state.Trips > 0 {
		t.Errorf("slow clients tripped the service's breaker: %+v", state)
	}
}

func mustWhere(g *gate) *url.URL {
	target, _ := g.backends["chat"].Where()
	return target
}

// A client may take its time: the service's time-out runs from the last byte of the request.
func TestSlowUploadIsNotSlowService(t *testing.T) {
	target := service(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprint(w, len(body), err)
	})
	g := open(t, setup{targets: map[string]*url.URL{"chat": target}, routes: `{"defaults":{"timeout":"60ms"}}`})
	r, w := io.Pipe()
	go func() {
		for range 3 {
			w.Write([]byte("part"))
			<-time.After(100 * time.Millisecond) // longer than the time-out
		}
		w.Close()
	}()
	request, err := http.NewRequestWithContext(t.Context(), "POST", g.url+"/chat/", r)
	if err != nil {
		t.Fatal(err)
	}
	if answer, body := fetch(t, request); answer.StatusCode != http.StatusOK || body != "12 <nil>" {
		t.Errorf("%d %s", answer.StatusCode, body)
	}
}

// Large bodies go through whole, both ways, of known length and not, and are not kept in memory.
func TestLargeBodies(t *testing.T) {
	const size = 64 << 20
	target := service(t, func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		w.Header().Set("Sum", fmt.Sprintf("%d %x %v", n, sum.Sum(nil), err))
		if r.Header.Get("Known") != "" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		io.Copy(w, noise(size))
	})
	g := open(t, setup{targets: map[string]*url.URL{"chat": target}, routes: `{"defaults":{"body_bytes_max":67108864}}`})
	sum := sha256.New()
	io.Copy(sum, noise(size))
	want := fmt.Sprintf("%d %x <nil>", size, sum.Sum(nil))
	for _, known := range []bool{true, false} {
		r, err := http.NewRequestWithContext(t.Context(), "POST", g.url+"/chat/", noise(size))
		if err != nil {
			t.Fatal(err)
		}
		if known {
			r.ContentLength = size
			r.Header.Set("Known", "yes")
		}
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		back := sha256.New()
		n, err := io.Copy(back, answer.Body)
		answer.Body.Close()
		if got := fmt.Sprintf("%d %x %v", n, back.Sum(nil), err); got != want || answer.Header.Get("Sum") != want {
			t.Errorf("known length %v: %s came back, %s arrived, want %s", known, got, answer.Header.Get("Sum"), want)
		}
		if _, err := io.ReadAll(io.LimitReader(noise(size), 1)); err != nil {
			t.Fatal(err)
		}
	}
}

// noise is some bytes that are the same each time.
func noise(size int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{7}), size)
}

// HEAD, informational answers, an expectation and trailers go through.
func TestProtocol(t *testing.T) {
	target := service(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Sum")
		w.Header().Set("Link", "</a>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Etag", `"1"`)
		if r.Method == "HEAD" {
			w.Header().Set("Content-Length", "5")
			return
		}
		if r.URL.Path == "/none" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Write(body)
		w.(http.Flusher).Flush()
		w.Header().Set("Sum", "15")
	})
	g := open(t, setup{targets: map[string]*url.URL{"chat": target}})
	answer, body := call(t, "HEAD", g.url+"/chat/", "")
	if answer.StatusCode != http.StatusOK || answer.ContentLength != 5 || body != "" || answer.Header.Get("Etag") != `"1"` {
		t.Errorf("HEAD: %d %v %q", answer.StatusCode, answer.Header, body)
	}
	if answer, body := get(t, g.url+"/chat/none"); answer.StatusCode != http.StatusNoContent || body != "" {
		t.Errorf("204: %d %v %q", answer.StatusCode, answer.Header, body)
	}
	conn, r := dial(t, g.url)
	io.WriteString(conn, "POST /chat/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	line, err := r.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("the client is not told to go on: %q, %v", line, err)
	}
	r.ReadString('\n')
	io.WriteString(conn, "hello")
	answer, err = http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(answer.Body)
	if string(text) != "hello" || err != nil || answer.Trailer.Get("Sum") != "15" {
		t.Errorf("%d %q, %v, trailer %v", answer.StatusCode, text, err, answer.Trailer)
	}
}

// websocket is a service that upgrades, and echoes until its connection ends.
func websocket(t *testing.T, ended chan<- bool) *url.URL {
	return rawService(t, func(c net.Conn, r *bufio.Reader) {
		request, err := http.ReadRequest(r)
		if err != nil || request.Header.Get("Upgrade") != "websocket" || request.Header.Get("Connection") != "Upgrade" {
			io.WriteString(c, "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-Websocket-Accept: x\r\n\r\nhello\n")
		io.Copy(c, r)
		ended <- true
	})
}

const upgrade = "GET /chat/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"

// An upgraded connection passes bytes as they are, is no request under way, and ends with the gateway or the caller's session.
func TestUpgrade(t *testing.T) {
	for _, ends := range []string{"the client goes", "the session is revoked", "the gateway ends"} {
		t.Run(ends, func(t *testing.T) {
			ended := make(chan bool, 1)
			g := open(t, setup{targets: map[string]*url.URL{"chat": websocket(t, ended)}})
			conn, r := dial(t, g.url)
			io.WriteString(conn, upgrade+g.auth.bearer("minji")+"\r\n\r\n")
			answer, err := http.ReadResponse(r, nil)
			if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("%v, %v", answer, err)
			}
			if line, err := r.ReadString('\n'); line != "hello\n" {
				t.Fatalf("read %q, %v", line, err)
			}
			for _, line := range []string{"one\n", "GET / HTTP/1.1 \x00\n"} {
				io.WriteString(conn, line)
				if got, err := r.ReadString('\n'); got != line {
					t.Fatalf("read %q, %v, want %q", got, err, line)
				}
			}
			if n := g.backends["chat"].short.Load(); n != 0 {
				t.Errorf("it counts as %d requests under way", n)
			}
			switch ends {
			case "the client goes":
				conn.Close()
			case "the session is revoked":
				g.auth.set(func() { g.auth.revoked = append(g.auth.revoked, "s_minji") })
			default:
				g.stop()
			}
			select {
			case <-ended:
			case <-time.After(patience):
				t.Error("the service's end of it stays open")
			}
			if ends != "the client goes" {
				if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
					t.Errorf("the client's end of it: %q, %v", rest, err)
				}
			}
		})
	}
}

// events is a service with a stream that ends with its client alone.
func events(t *testing.T, ended chan<- bool) *url.URL {
	return service(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: one\n\n")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		ended <- true
	})
}

// A stream of a service elsewhere ends well for its client, at once, when the gateway or the caller's session does.
func TestStreamEnds(t *testing.T) {
	for _, ends := range []string{"the client goes", "the session is revoked", "the gateway ends"} {
		t.Run(ends, func(t *testing.T) {
			ended := make(chan bool, 1)
			g := open(t, setup{targets: map[string]*url.URL{"chat": events(t, ended)}})
			conn, r := dial(t, g.url)
			io.WriteString(conn, "GET /chat/ HTTP/1.1\r\nHost: localhost\r\n"+g.auth.bearer("minji")+"\r\n\r\n")
			answer, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			first := make([]byte, len("data: one\n\n"))
			if _, err := io.ReadFull(answer.Body, first); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			switch ends {
			case "the client goes":
				conn.Close()
			case "the session is revoked":
				g.auth.set(func() { g.auth.revoked = append(g.auth.revoked, "s_minji") })
			default:
				g.stop()
			}
			select {
			case <-ended:
			case <-time.After(patience):
				t.Error("the service's end of it stays open")
			}
			if ends != "the client goes" {
				if rest, err := io.ReadAll(answer.Body); err != nil || len(rest) > 0 {
					t.Errorf("the stream ends with %q, %v", rest, err)
				}
				if took := time.Since(began); took > streamGrace/2 {
					t.Errorf("it took %v", took)
				}
			}
		})
	}
}

// A client that reads nothing of a stream, and one that stops in the middle of an answer, do not keep the gateway from ending.
func TestUnread(t *testing.T) {
	target := service(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		line := bytes.Repeat([]byte("x"), 64<<10)
		for {
			if _, err := w.Write(line); err != nil {
				return
			}
		}
	})
	g := open(t, setup{targets: map[string]*url.URL{"chat": target}})
	conn, r := dial(t, g.url)
	io.WriteString(conn, "GET /chat/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if _, err := http.ReadResponse(r, nil); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	soon(t, "the stream has ended", func() bool {
		_, text := get(t, g.url+"/metrics")
		return strings.Contains(text, `http_requests_in_flight{kind="stream"} 0`)
	})
}
