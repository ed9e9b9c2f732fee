package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestPublic(t *testing.T) {
	for _, address := range []string{
		"127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1",
		"169.254.169.254", "169.254.0.1", "100.64.0.1", "100.100.100.200", "100.127.255.255", "168.63.129.16", "192.0.0.192",
		"192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.9", "224.0.0.1", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "fe80::1", "fe80::1%eth0", "fc00::1",
		"fd00:ec2::254", "fec0::1", "ff02::1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2001::1", "2001:db8::1", "2002:7f00:1::1", "3fff::1",
		"100::1", "4000::1", "2600::1%eth0",
	} {
		if public(netip.MustParseAddr(address)) {
			t.Errorf("%s passes for public", address)
		}
	}
	for _, address := range []string{
		"8.8.8.8", "1.1.1.1", "9.255.255.255", "11.0.0.1", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.1", "169.253.1.1",
		"192.167.1.1", "223.255.255.254", "::ffff:8.8.8.8", "2600::1", "2606:4700:4700::1111", "2a00:1450:4001::1", "2001:4860:4860::8888",
	} {
		if !public(netip.MustParseAddr(address)) {
			t.Errorf("%s does not pass for public", address)
		}
	}
}

// Every way to a private address ends before a connection is made; a name that resolves to one too.
func TestGuard(t *testing.T) {
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	guarded, open := newTransport(false), newTransport(true)
	defer guarded.CloseIdleConnections()
	defer open.CloseIdleConnections()
	get := func(transport *http.Transport, host string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+net.JoinHostPort(host, port), nil)
		if err != nil {
			return err
		}
		response, err := newClient(transport).Do(r)
		if err == nil {
			response.Body.Close()
		}
		return err
	}
	for _, host := range []string{
		"127.0.0.1", "localhost", "10.1.2.3", "::1", "::ffff:127.0.0.1", "169.254.169.254", "0.0.0.0", "fd00:ec2::254",
	} {
		if err := get(guarded, host); !errors.Is(err, errNotPublic) {
			t.Errorf("%s: %v, want %v", host, err, errNotPublic)
		}
	}
	if n := connections.Load(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
	// The checker's own check: without the guard the same way leads there.
	if err := get(open, "localhost"); err != nil || connections.Load() != 1 {
		t.Errorf("localhost, private addresses allowed: %v, %d connections", err, connections.Load())
	}
	if guarded.Proxy != nil || open.Proxy != nil {
		t.Error("a proxy would dial in the guard's place")
	}
}

func TestCheckURL(t *testing.T) {
	for _, text := range []string{"https://a.example", "https://a.example:8443/hook?x=1", "https://[2600::1]/", "https://8.8.8.8/"} {
		if err := checkURL(text, false); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	private := []string{
		"http://a.example/", "https://127.0.0.1/", "https://[::1]/", "https://[::ffff:7f00:1]/",
		"https://169.254.169.254/latest/", "https://10.0.0.8:80/",
	}
	for _, text := range private {
		if err := checkURL(text, false); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want %v", text, err, ErrInvalid)
		}
		if err := checkURL(text, true); err != nil {
			t.Errorf("%s, private addresses allowed: %v", text, err)
		}
	}
	for _, text := range []string{
		"", "a.example", "//a.example/", "ftp://a.example/", "file:///etc/passwd", "https:///x", "https://:443/", "https://u:p@a.example/",
		"https://a.example/#x", "https://a.example:0/", "https://a.example:70000/", "https://a.example/\n", "https:a.example", "javascript:1",
		"https://a.example/" + strings.Repeat("x", urlBytesMax),
	} {
		err := checkURL(text, true)
		var invalid *InvalidError
		if !errors.As(err, &invalid) || invalid.Field != "url" || !errors.Is(err, ErrInvalid) {
			t.Errorf("%.40q: %v, want an invalid url", text, err)
		}
	}
}

func TestCheckTypes(t *testing.T) {
	long := strings.Repeat("a", typeBytesMax+1)
	for _, types := range [][]string{
		{""}, {"*"}, {"a*"}, {"a.*.b"}, {".a"}, {"a."}, {"a b"}, {"a..b"}, {"ok", long}, {"a", "a"}, make([]string, typesMax+1),
	} {
		if err := checkTypes(types); !errors.Is(err, ErrInvalid) {
			t.Errorf("types %.60q: %v, want %v", types, err, ErrInvalid)
		}
	}
	if err := checkTypes([]string{"a", "a.b_c.d-e", "a.*", "a.b.*"}); err != nil {
		t.Error(err)
	}
}

// What an endpoint's owner reads of an error names nothing of our network.
func TestExplain(t *testing.T) {
	wrap := func(err error) error { return &url.Error{Op: "Post", URL: "https://a.example", Err: err} }
	for want, o := range map[string]outcome{
		"answered 500": {status: 500},
		"answered 302: redirects are not followed": {status: 302},
		"the address is not public":                {err: wrap(&net.OpError{Op: "dial", Err: errNotPublic})},
		"the host name was not resolved":           {err: wrap(&net.DNSError{Err: "no such host", Name: "a", Server: "10.0.0.53:53"})},
		"no answer within 15s":                     {err: wrap(context.DeadlineExceeded)},
		"the connection failed":                    {err: wrap(errors.New("read tcp 10.0.0.7:4711: connection reset by peer"))},
		"the URL must begin with https://":         {err: checkURL("http://a.example", false)},
	} {
		if got := o.explain(); got != want {
			t.Errorf("explain(%v) = %q, want %q", o.err, got, want)
		}
	}
}

// following is a mutant of the client: it follows a redirect.
type following struct{ http.RoundTripper }

func (f following) RoundTrip(q *http.Request) (*http.Response, error) {
	response, err := f.RoundTripper.RoundTrip(q)
	if err != nil || response.StatusCode/100 != 3 {
		return response, err
	}
	response.Body.Close()
	next, err := http.NewRequestWithContext(q.Context(), http.MethodPost, response.Header.Get("Location"), http.NoBody)
	if err != nil {
		return nil, err
	}
	return f.RoundTripper.RoundTrip(next)
}

// A redirect is a failure and leads nowhere; the mutant that follows it is caught.
func TestRedirect(t *testing.T) {
	redirected := func(transport http.RoundTripper) (o outcome, reached bool) {
		var there atomic.Bool
		target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { there.Store(true) }))
		defer target.Close()
		for _, status := range []int{301, 302, 303, 307, 308} {
			server := httptest.NewServer(http.RedirectHandler(target.URL, status))
			o = attemptOnce(t, transport, server.URL)
			server.Close()
			if o.delivered() || there.Load() {
				break
			}
		}
		return o, there.Load()
	}
	transport := newTransport(true)
	defer transport.CloseIdleConnections()
	if o, reached := redirected(transport); o.delivered() || reached {
		t.Errorf("a redirect: %+v, target reached: %v", o, reached)
	}
	if o, reached := redirected(following{transport}); !o.delivered() || !reached {
		t.Errorf("the mutant that follows was not caught: %+v, %v", o, reached)
	}
}

// attemptOnce sends one event to a URL.
func attemptOnce(t *testing.T, transport http.RoundTripper, target string) outcome {
	t.Helper()
	h := &Hooks{config: Config{AllowPrivate: true}, client: newClient(transport)}
	text, err := NewSecret(seeded(Config{}, 1).Secret)
	if err != nil {
		t.Fatal(err)
	}
	e := endpoint{URL: target, Secrets: []secret{{Text: text}}}
	return h.attempt(t.Context(), e, Event{ID: "e1", Body: []byte("{}")}, time.Now())
}

// endless is a transport whose answers have no end; it counts what is read of them.
type endless struct{ read int }

func (e *endless) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(e)}, nil
}

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return len(p), nil
}

// An answer without end neither fills memory nor holds the attempt up.
func TestEndlessAnswer(t *testing.T) {
	var e endless
	if o := attemptOnce(t, &e, "http://a.example"); !o.delivered() || e.read != responseBytesMax {
		t.Errorf("endless answer: %+v, %d bytes read, want %d", o, e.read, responseBytesMax)
	}
}

func TestStatuses(t *testing.T) {
	transport := newTransport(true)
	defer transport.CloseIdleConnections()
	for _, status := range []int{200, 201, 202, 204, 299, 300, 304, 400, 401, 404, 409, 410, 429, 500, 503} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "77")
			w.WriteHeader(status)
		}))
		o := attemptOnce(t, transport, server.URL)
		server.Close()
		if o.status != status || o.delivered() != (status < 300) || o.gone() != (status == 410) || o.retryAfter != 77*time.Second {
			t.Errorf("status %d: %+v, delivered %v, gone %v", status, o, o.delivered(), o.gone())
		}
	}
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer server.Close()
	if o := attemptOnce(t, transport, server.URL); o.err == nil || o.delivered() {
		t.Errorf("a connection cut without an answer: %+v", o)
	}
	server.Close()
	if o := attemptOnce(t, transport, server.URL); fmt.Sprint(o.explain()) != "the connection was refused" {
		t.Errorf("nobody there: %q, %v", o.explain(), o.err)
	}
}
