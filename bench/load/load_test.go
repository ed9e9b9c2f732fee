package load

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// texts are the texts with these numbers, each in what a server may put around it.
func texts(numbers ...int) []byte {
	var b []byte
	for _, n := range numbers {
		b = append(AppendText(append(b, "id: 7\ndata: "...), n), "\n\n"...)
	}
	return b
}

func TestTextHasItsLength(t *testing.T) {
	if text := AppendText(nil, 123); len(text) != TextBytes || bytes.IndexByte(text, mark) != TextBytes-1 {
		t.Errorf("AppendText(nil, 123) = %q, want %d bytes with the mark at the end", text, TextBytes)
	}
}

func TestSampleTakesTextsCutAnywhere(t *testing.T) {
	stream := texts(1, 0, 2)
	for cut := range len(stream) {
		s := sample{}
		s.read(stream[:cut])
		s.read(stream[cut:])
		if err := s.finish(3); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
}

func TestSampleCatches(t *testing.T) {
	damaged := texts(0, 1, 2)
	damaged[len(damaged)-50] ^= 1
	for name, stream := range map[string][]byte{
		"a duplicate":                 texts(0, 1, 1, 2),
		"a duplicate in place of one": texts(0, 1, 1),
		"a loss":                      texts(0, 2),
		"a stranger":                  texts(0, 1, 3),
		"damage":                      damaged,
		"a mark alone":                append(texts(0, 1), mark),
	} {
		s := sample{}
		s.read(stream)
		if s.finish(3) == nil {
			t.Errorf("finish(3) after %s: no error", name)
		}
	}
}

// hall is a server that sends to each of its streams what a test says.
type hall struct {
	addr  string
	conns chan net.Conn
}

func newHall(t *testing.T) *hall {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hall{l.Addr().String(), make(chan net.Conn, 1000)}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			request := make([]byte, len("hello 000"))
			conn.Read(request)
			fmt.Fprint(conn, "welcome\n")
			h.conns <- conn
		}
	}()
	return h
}

// openCrowd opens a crowd and returns the server's ends of its streams.
func openCrowd(t *testing.T, count int) (*Crowd, []net.Conn) {
	h := newHall(t)
	crowd, err := Open(t.Context(), Streams{Addr: h.addr, Count: count, Rooms: []string{"a", "b"}, Request: "hello {stream}", Ready: "welcome\n"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(crowd.Close)
	conns := make([]net.Conn, count)
	for i := range conns {
		conns[i] = <-h.conns
		t.Cleanup(func() { conns[i].Close() })
	}
	return crowd, conns
}

func TestCrowdCountsEveryStream(t *testing.T) {
	crowd, conns := openCrowd(t, 120)
	for _, conn := range conns {
		conn.Write(texts(0, 1, 2))
	}
	checked, err := crowd.Check(3)
	want := Checked{Total: 360, Slowest: 3, Fastest: 3, Sampled: 3}
	if got := fmt.Sprint(checked); err != nil || got != fmt.Sprint(want) {
		t.Errorf("Check(3) = %v, %v; want %v", got, err, want)
	}
	if at := crowd.Progress(); at.Slowest != 3 || at.Total != 360 || at.Time.IsZero() {
		t.Errorf("Progress() = %+v, want 3 texts on the slowest of 360", at)
	}
}

func TestCrowdCatches(t *testing.T) {
	for name, test := range map[string]struct {
		last func(conns []net.Conn)
		want string
	}{
		"a text too many on one stream": {func(conns []net.Conn) { conns[7].Write(texts(1)) }, "the streams got 2 to 3"},
		"the wrong text":                {func(conns []net.Conn) {}, "sampled streams are wrong"},
		"a stream that ends":            {func(conns []net.Conn) { conns[3].Close() }, "the server ended a stream"},
	} {
		t.Run(name, func(t *testing.T) {
			crowd, conns := openCrowd(t, 10)
			second := 1
			if name == "the wrong text" {
				second = 0
			}
			for _, conn := range conns {
				conn.Write(texts(0, second))
			}
			if err := crowd.Wait(2); err != nil {
				t.Fatal(err)
			}
			test.last(conns)
			n := 2
			if strings.HasSuffix(name, "ends") {
				n = 3 // never comes
			}
			if _, err := crowd.Check(n); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Check(%d): error %v, want one with %q", n, err, test.want)
			}
		})
	}
}

func TestCrowdEndsWithItsContext(t *testing.T) {
	h := newHall(t)
	ctx, cancel := context.WithCancel(t.Context())
	crowd, err := Open(ctx, Streams{Addr: h.addr, Count: 2, Rooms: []string{"a"}, Request: "hello", Ready: "welcome\n"})
	if err != nil {
		t.Fatal(err)
	}
	defer crowd.Close()
	cancel()
	if crowd.Wait(1) == nil {
		t.Error("Wait(1) after the end of the context: no error")
	}
}

func TestOpenSaysWhatTheServerSaid(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	_, err := Open(t.Context(), Streams{Addr: srv.Listener.Addr().String(), Count: 1, Rooms: []string{"a"},
		Request: "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", Ready: "\r\n\r\n"})
	if err == nil || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("Open: error %v, want one with the answer's status", err)
	}
}

func TestHTTPKeepsItsConnection(t *testing.T) {
	peers := map[string]bool{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peers[r.RemoteAddr] = true
		var body bytes.Buffer
		body.ReadFrom(r.Body)
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL.Path, r.Header.Get("X-User"), body.Bytes())
	}))
	defer srv.Close()
	conn, err := DialHTTP(t.Context(), srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 3 {
		status, body, err := conn.Do("POST", "/rooms", "X-User: u1\r\n", []byte("hi"))
		if want := "POST /rooms u1 hi"; status != 201 || string(body) != want || err != nil {
			t.Fatalf("Do = %d, %q, %v; want 201, %q", status, body, err, want)
		}
	}
	if len(peers) != 1 {
		t.Errorf("%d connections were used, want 1", len(peers))
	}
}

func TestHTTPReadsChunksAndAHeader(t *testing.T) {
	want := strings.Repeat("0123456789", 10_000)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/chunks" {
			w.Header().Set("X-Mark", "yes")
			for i := 0; i < len(want); i += 30_000 {
				fmt.Fprint(w, want[i:min(len(want), i+30_000)])
				w.(http.Flusher).Flush()
			}
		}
	}))
	defer srv.Close()
	conn, err := DialHTTP(t.Context(), srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Watch = "x-mark"
	for range 2 {
		if status, body, err := conn.Do("GET", "/chunks", "", nil); status != 200 || string(body) != want || err != nil || conn.Watched != "yes" {
			t.Fatalf("Do(/chunks) = %d, %d bytes, %v, mark %q; want 200, %d bytes, mark yes", status, len(body), err, conn.Watched, len(want))
		}
		if status, body, err := conn.Do("GET", "/empty", "", nil); status != 200 || len(body) > 0 || err != nil || conn.Watched != "" {
			t.Fatalf("Do(/empty) = %d, %q, %v, mark %q; want 200 and nothing", status, body, err, conn.Watched)
		}
	}
}

func TestMetricsSumsOverLabels(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "# HELP a_total 9\na_total{x=\"1 2\"} 3\na_total{x=\"2\"} 4\nb 1.5\na_total_more 100\n")
	}))
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	if got, err := Metrics(t.Context(), addr, "b", "a_total"); err != nil || fmt.Sprint(got) != "[1.5 7]" {
		t.Errorf("Metrics(b, a_total) = %v, %v; want 1.5 and 7", got, err)
	}
	if _, err := Metrics(t.Context(), addr, "b", "c"); err == nil || !strings.Contains(err.Error(), `"c"`) {
		t.Errorf("Metrics(b, c): error %v, want one that names c", err)
	}
}
