package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// front is a real server behind a Listener. Its handler answers refusals, and everything else with the request's
// message as JSON; it remembers what reached it.
type front struct {
	addr string

	mu       sync.Mutex
	reached  []message // guarded by mu
	failed   []error   // guarded by mu; of reading bodies
	refusals []string  // guarded by mu
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if refusal := Refused(r); refusal != nil {
		if refusal.Status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", Allow)
		}
		http.Error(w, refusal.Code, refusal.Status)
		return
	}
	body, err := io.ReadAll(r.Body)
	m := message{r.Method, r.RequestURI, r.Host, string(body)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.failed = append(f.failed, err)
		http.Error(w, "body-unreadable", http.StatusBadRequest)
		return
	}
	f.reached = append(f.reached, m)
	json.NewEncoder(w).Encode(m)
}

func (f *front) seen() (reached []message, failed []error, refusals []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reached, f.failed, f.refusals
}

// start returns a front whose server config changes before it starts.
func start(t testing.TB, config func(*http.Server), handler http.Handler) *front {
	t.Helper()
	f := &front{}
	if handler == nil {
		handler = f
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = inner.Addr().String()
	server := &http.Server{Handler: handler, DisableGeneralOptionsHandler: true}
	if config != nil {
		config(server)
	}
	listener := Listener(inner, Options{OnRefusal: func(peer net.Addr, r *Refusal) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.refusals = append(f.refusals, r.Code)
	}})
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-done })
	return f
}

// talk sends stream and returns what came back until the server closed the connection; it fails the test if it does
// not.
func talk(t testing.TB, addr, stream string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	go io.WriteString(conn, stream) // the server may answer and close before it has read all
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("%q: after %q: %v", stream, answer, err)
	}
	return string(answer)
}

// statuses returns the status codes of the answers in a stream, and the last one's body.
func statuses(t testing.TB, answers string, methods ...string) (codes []int, last *http.Response, body string) {
	t.Helper()
	in := bufio.NewReader(strings.NewReader(answers))
	for i := 0; ; i++ {
		if _, err := in.Peek(1); err != nil {
			return codes, last, body
		}
		var req *http.Request
		if i < len(methods) {
			req = &http.Request{Method: methods[i]}
		}
		answer, err := http.ReadResponse(in, req)
		if err != nil {
			t.Fatalf("%q: %v", answers, err)
		}
		if answer.StatusCode == http.StatusContinue {
			continue
		}
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatalf("%q: %v", answers, err)
		}
		codes, last, body = append(codes, answer.StatusCode), answer, string(text)
	}
}

const (
	before = "POST /before HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
	after  = "GET /after HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
)

// Each request of the corpus, between two innocent ones, over TCP: the one before is answered, a bad one is refused
// and ends the connection, and then nothing reaches the handler any more.
func TestCorpusOverTCP(t *testing.T) {
	status := map[string]int{}
	for _, r := range refusals {
		status[r.Code] = r.Status
	}
	for _, r := range corpus(t) {
		f := start(t, nil, nil)
		codes, last, body := statuses(t, talk(t, f.addr, before+r.bytes+after))
		reached, failed, noted := f.seen()
		if len(reached) == 0 || reached[0] != (message{"POST", "/before", "a", "hi"}) {
			t.Errorf("%q: the request before it did not reach the handler as it was: %v", r.bytes, reached)
		}
		want := []int{200, status[r.code]}
		switch {
		case r.code == "ok" && strings.Contains(r.bytes, "HTTP/1.0") && !strings.Contains(r.bytes, "keep-alive"):
			want = []int{200, 200}
		case r.code == "ok":
			want = []int{200, 200, 200}
		case r.inBody:
			want = []int{200, 400}
		}
		if diff := cmp.Diff(want, codes); diff != "" {
			t.Errorf("%q: statuses mismatch (-want +got):\n%s", r.bytes, diff)
			continue
		}
		if r.code == "ok" {
			if len(reached) != len(want) || len(failed)+len(noted) > 0 {
				t.Errorf("%q: %d requests reached the handler, want %d; %v %v", r.bytes, len(reached), len(want), failed, noted)
			}
			continue
		}
		if len(reached) != 1 || !r.inBody && body != r.code+"\n" || !last.Close {
			t.Errorf("%q: %d requests reached the handler, want 1; last answer %q, closing %v",
				r.bytes, len(reached), body, last.Close)
		}
		if diff := cmp.Diff([]string{r.code}, noted); diff != "" || r.inBody != (len(failed) == 1) {
			t.Errorf("%q: %v; refusals mismatch (-want +got):\n%s", r.bytes, failed, diff)
		}
		if last.StatusCode == 405 && last.Header.Get("Allow") != Allow {
			t.Errorf("%q: Allow = %q", r.bytes, last.Header.Get("Allow"))
		}
	}
}

// Heads larger than what net/http reads at a time come through, up to the limit; over it the answer is ours.
func TestLargeHeadsOverTCP(t *testing.T) {
	f := start(t, nil, nil)
	head := func(n int) string {
		return "GET /large HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", n) + "\r\n\r\n"
	}
	codes, _, _ := statuses(t, talk(t, f.addr, before+head(5000)+head(60_000)+after))
	if diff := cmp.Diff([]int{200, 200, 200, 200}, codes); diff != "" {
		t.Errorf("below the limit: statuses mismatch (-want +got):\n%s", diff)
	}
	codes, _, body := statuses(t, talk(t, f.addr, before+head(headBytesDefault)+after))
	if diff := cmp.Diff([]int{200, 431}, codes); diff != "" || body != "head-too-large\n" {
		t.Errorf("over the limit: last body %q, statuses mismatch (-want +got):\n%s", body, diff)
	}
}

// The answer to a refused request arrives although its sender goes on sending: closing at once would reset it away.
func TestRefusedSenderReadsItsAnswer(t *testing.T) {
	f := start(t, nil, nil)
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +100000\r\n\r\n")
	io.WriteString(conn, strings.Repeat("x", 100_000))
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
		t.Errorf("after 100000 bytes more: %q, %v; want a 400 and the end", answer, err)
	}
}

// pieceConn is a net.Conn's reading side that gives the pieces it is told to.
type pieceConn struct {
	net.Conn
	rest string
	cut  func(int) int
}

func (c *pieceConn) Read(p []byte) (int, error) {
	if c.rest == "" {
		return 0, io.EOF
	}
	n := copy(p, c.rest[:c.cut(len(c.rest))])
	c.rest = c.rest[n:]
	return n, nil
}

func (c *pieceConn) RemoteAddr() net.Addr { return &net.TCPAddr{} }

// What is accepted comes through unchanged, in whatever pieces it arrives and is read; what is refused becomes what
// was passed and the substitute.
func TestReadPassesBytesUnchanged(t *testing.T) {
	all := corpus(t)
	rapid.Check(t, func(t *rapid.T) {
		var stream string
		for range rapid.IntRange(1, 4).Draw(t, "requests") {
			stream += all[rapid.IntRange(0, len(all)-1).Draw(t, "request")].bytes
		}
		_, passed, code := scanAll(stream, whole)
		want := stream[:passed]
		if code != "" {
			s := newScanner()
			s.scan([]byte(stream))
			want = string(s.substitute([]byte(want), "/"))
		}
		incoming := rapid.SliceOfN(rapid.IntRange(1, 60), 1, -1).Draw(t, "incoming")
		reading := rapid.SliceOfN(rapid.IntRange(1, 60), 1, -1).Draw(t, "reading")
		i := 0
		cut := func(n int) int { i++; return min(n, incoming[i%len(incoming)]) }
		conn := Wrap(&pieceConn{rest: stream, cut: cut}, Options{})
		var got strings.Builder
		for j := 0; got.Len() < len(want); j++ {
			p := make([]byte, reading[j%len(reading)])
			n, err := conn.Read(p)
			got.Write(p[:n])
			if n == 0 || err != nil {
				break
			}
		}
		if diff := cmp.Diff(want, got.String()); diff != "" {
			t.Fatalf("read of %q mismatch (-want +got):\n%s", stream, diff)
		}
	})
}

// Generated good requests over TCP, in random pieces, reach the handler as they are.
func TestGoodRequestsReachTheHandler(t *testing.T) {
	f := start(t, nil, nil)
	rapid.Check(t, func(t *rapid.T) {
		var stream string
		var want []message
		for range rapid.IntRange(1, 4).Draw(t, "requests") {
			raw, m := goodRequest(t)
			stream, want = stream+raw, append(want, m)
		}
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		sizes := rapid.SliceOfN(rapid.IntRange(1, 500), 1, -1).Draw(t, "pieces")
		go func() {
			for i, rest := 0, stream; rest != ""; i++ {
				n := min(sizes[i%len(sizes)], len(rest))
				if _, err := io.WriteString(conn, rest[:n]); err != nil {
					return // the test fails by what it reads
				}
				rest = rest[n:]
			}
		}()
		in := bufio.NewReader(conn)
		for _, m := range want {
			answer, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("%q: %v", stream, err)
			}
			var got message
			if err := json.NewDecoder(answer.Body).Decode(&got); err != nil {
				t.Fatalf("%q: %d, %v", stream, answer.StatusCode, err)
			}
			io.Copy(io.Discard, answer.Body)
			if diff := cmp.Diff(m, got); diff != "" {
				t.Fatalf("%q: handler's message mismatch (-want +got):\n%s", stream, diff)
			}
		}
	})
}

// goodRequest draws a request and what its handler must see.
func goodRequest(t *rapid.T) (string, message) {
	m := message{
		Method: rapid.SampledFrom([]string{"GET", "POST", "PUT", "DELETE", "PATCH", "A", "LONG_METHOD-X"}).Draw(t, "method"),
		Host:   rapid.StringMatching(`[a-z0-9-]{1,9}(\.[a-z0-9_]{1,9}){0,3}(:[1-9][0-9]{0,3})?`).Draw(t, "host"),
		Body:   rapid.StringN(0, 300, 6000).Draw(t, "body"),
	}
	const target = `(/[a-z0-9._~!$&'()*+,;=:@-]{0,9}(%[0-9a-f]{2})?){1,3}(\?[a-z=&%/?]{0,9})?`
	m.Target = rapid.StringMatching(target).Draw(t, "target")
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", m.Method, m.Target)
	field := rapid.StringMatching(`X-[a-zA-Z0-9!#$%&'*+.^_|~-]{1,20}:[ \t]{0,2}[ -~]{0,40}`)
	for _, line := range rapid.SliceOfN(field, 0, 6).Draw(t, "fields") {
		b.WriteString(line + "\r\n")
	}
	fmt.Fprintf(&b, "host: %s\r\n", m.Host)
	if !rapid.Bool().Draw(t, "chunked") {
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(m.Body), m.Body)
		return b.String(), m
	}
	b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
	for rest := m.Body; rest != ""; {
		n := rapid.IntRange(1, len(rest)).Draw(t, "chunk")
		extension := rapid.SampledFrom([]string{"", ";a", "; b = \"c\""}).Draw(t, "extension")
		fmt.Fprintf(&b, "%x%s\r\n%s\r\n", n, extension, rest[:n])
		rest = rest[n:]
	}
	b.WriteString("0\r\n" + rapid.SampledFrom([]string{"", "X-Sum: 1\r\n"}).Draw(t, "trailer") + "\r\n")
	return b.String(), m
}

// A pipelined head that comes in pieces while the request before it is still with its handler neither disturbs that
// one, nor is it lost.
func TestPiecesDuringAHandler(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	var ended error
	f := start(t, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			entered <- struct{}{}
			<-leave
			ended = r.Context().Err()
		}
		io.WriteString(w, cmpOr(Refused(r), r.URL.Path))
	}))
	for _, c := range []struct{ rest, want string }{
		{"T /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "/next"},
		{"T /next HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "duplicate-host"},
		{"\x00", "bad-method"},
	} {
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(conn, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
		<-entered
		io.WriteString(conn, "GE")
		io.WriteString(conn, c.rest[:1])
		leave <- struct{}{}
		io.WriteString(conn, c.rest[1:])
		answers, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		codes, _, body := statuses(t, string(answers))
		if len(codes) != 2 || body != c.want || ended != nil {
			t.Errorf("%q: statuses %v, last body %q, want two and %q; first request's context: %v",
				c.rest, codes, body, c.want, ended)
		}
		conn.Close()
	}
}

func cmpOr(r *Refusal, s string) string {
	if r != nil {
		return r.Code
	}
	return s
}

// Slow senders are still the server's to end: heads by ReadHeaderTimeout, also the second of a connection, bodies by
// ReadTimeout, connections by IdleTimeout.
func TestSlowSendersAreCut(t *testing.T) {
	f := start(t, func(s *http.Server) {
		s.ReadHeaderTimeout, s.ReadTimeout, s.IdleTimeout = 50*time.Millisecond, 100*time.Millisecond, time.Hour
	}, nil)
	idle := start(t, func(s *http.Server) { s.IdleTimeout = 50 * time.Millisecond }, nil)
	for _, c := range []struct {
		name, addr, stream string
		want               []int
	}{
		{"head", f.addr, "GET / HTTP/1.1\r\nHost:", []int{400}},
		{"method", f.addr, "GE", []int{400}},
		{"second head", f.addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost:", []int{200, 400}},
		{"second target", f.addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET ", []int{200, 400}},
		{"body", f.addr, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell", []int{400}},
		{"chunk size", f.addr, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5", []int{400}},
		{"trailer", f.addr, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n", []int{400}},
		{"idle", idle.addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", []int{200}},
		{"idle in the method", idle.addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", []int{200}},
	} {
		t.Run(c.name, func(t *testing.T) {
			codes, _, _ := statuses(t, talk(t, c.addr, c.stream))
			if diff := cmp.Diff(c.want, codes); diff != "" {
				t.Errorf("%q: statuses mismatch (-want +got):\n%s", c.stream, diff)
			}
		})
	}
}

const upgradeHead = "GET /ws HTTP/1.1\r\nHost: a\r\n" +
	"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n\r\n"

// upgrading returns a front whose handler is a reverse proxy to a service that switches to a protocol of echoes. Each
// request waits at the service until released.
func upgrading(t *testing.T, release <-chan struct{}) *front {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-release
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.Copy(conn, rw)
	}))
	t.Cleanup(service.Close)
	target, err := url.Parse(service.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:      func(p *httputil.ProxyRequest) { p.SetURL(target) },
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {},
	}
	return start(t, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refusal := Refused(r); refusal != nil {
			http.Error(w, refusal.Code, refusal.Status)
			return
		}
		proxy.ServeHTTP(Upgradable(w), r)
	}))
}

func TestUpgradedConnectionsAreOpaque(t *testing.T) {
	release := make(chan struct{}, 1)
	f := upgrading(t, release)
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, upgradeHead)
	release <- struct{}{}
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, nil)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("answer %v, %v; want 101", answer, err)
	}
	const frames = "\x81\x85\x00\r\nnot HTTP\n\n" + "GET / HTTP/1.1\r\nHost : x\r\n\r\n"
	for range 3 {
		io.WriteString(conn, frames)
		got := make([]byte, len(frames))
		if _, err := io.ReadFull(in, got); err != nil || string(got) != frames {
			t.Fatalf("echo %q, %v; want %q", got, err, frames)
		}
	}
}

// Bytes sent before the answer are HTTP to us and frames to the service: the connection ends before either reads them.
func TestEarlyBytesEndAnUpgrade(t *testing.T) {
	for _, early := range []string{"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", "\x81\x85", "G", "GET /par"} {
		release := make(chan struct{}, 1)
		f := upgrading(t, release)
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(conn, upgradeHead+early) // one segment: the bytes are here before the service is asked
		release <- struct{}{}
		if answer, _ := io.ReadAll(conn); strings.Contains(string(answer), "101") {
			t.Errorf("early %q: switched: %q", early, answer)
		}
		conn.Close()
	}
}

func TestOpaqueNeedsAWholeRequest(t *testing.T) {
	for stream, want := range map[string]error{
		upgradeHead: nil,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n": errEarly,
		upgradeHead + "x": errEarly,
		upgradeHead + "G": errEarly,
	} {
		conn := Wrap(&pieceConn{rest: stream, cut: whole}, Options{}).(*Conn)
		if _, err := conn.Read(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		if err := conn.Opaque(); !errors.Is(err, want) {
			t.Errorf("Opaque() behind %q = %v, want %v", stream, err, want)
		}
	}
}

// A server's shutdown sees the connections as its own: idle ones end at once.
func TestShutdown(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{}
	server := &http.Server{Handler: f}
	done := make(chan error, 1)
	go func() { done <- server.Serve(Listener(inner, Options{})) }()
	conn, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, before)
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, answer.Body)
	if err := server.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("after the shutdown: %v, want EOF", err)
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("Serve = %v", err)
	}
}

func TestRefusedOfUnscannedRequests(t *testing.T) {
	for _, c := range []struct {
		method string
		header http.Header
		want   *Refusal
	}{
		{"GET", http.Header{}, nil},
		{"TRACE", http.Header{}, methodNotAllowed},
		{"CONNECT", http.Header{}, methodNotAllowed},
		{"GET", http.Header{"Authorization": {"a"}}, nil},
		{"GET", http.Header{"Authorization": {"a", "a"}}, duplicateAuth},
		{"GET", http.Header{refusedField: {"obs-fold"}}, obsFold},
		{"GET", http.Header{refusedField: {"forged"}}, reservedField},
	} {
		if got := Refused(&http.Request{Method: c.method, Header: c.header, TLS: &tls.ConnectionState{}}); got != c.want {
			t.Errorf("Refused(%s %v) = %v, want %v", c.method, c.header, got, c.want)
		}
	}
}

// fixed gives the same bytes at each Read.
type fixed struct {
	net.Conn
	bytes []byte
}

func (c *fixed) Read(p []byte) (int, error) { return copy(p, c.bytes), nil }

// typicalHead is 500 bytes.
var typicalHead = func() []byte {
	head := "GET /chat/rooms/r_01J9Z0/messages?after=41&limit=50 HTTP/1.1\r\nHost: dongne.example\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
		"Accept: application/json\r\nAccept-Language: ko-KR,ko;q=0.8,en-US;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n" +
		"Connection: keep-alive\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-origin\r\nCookie: session="
	return []byte(head + strings.Repeat("s", 500-len(head)-4) + "\r\n\r\n")
}()

func TestCommonRequestsDoNotAllocate(t *testing.T) {
	conn := Wrap(&fixed{bytes: typicalHead}, Options{})
	p := make([]byte, 4096)
	if n := testing.AllocsPerRun(1000, func() { conn.Read(p) }); n > 0 {
		t.Errorf("a Read of a 500 byte head allocates %v times", n)
	}
}

func BenchmarkRead500(b *testing.B) {
	conn := Wrap(&fixed{bytes: typicalHead}, Options{})
	p := make([]byte, 4096)
	b.SetBytes(int64(len(typicalHead)))
	b.ReportAllocs()
	for b.Loop() {
		conn.Read(p)
	}
}
