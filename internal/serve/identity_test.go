package serve

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dongne/internal/token"
	"dongne/internal/verify"

	"github.com/google/go-cmp/cmp"
)

// fake is a Verifier that knows its tokens by heart.
type fake struct {
	mu      sync.Mutex
	tokens  map[string]*token.Claims
	err     error // of all others
	age     time.Duration
	ready   error
	watches map[*func()]string // guarded by mu: what to call → the session
}

func newFake(tokens map[string]*token.Claims) *fake {
	return &fake{tokens: tokens, err: errors.New("unknown"), watches: map[*func()]string{}}
}

func (f *fake) Verify(raw string) (*token.Claims, error) {
	if c := f.tokens[raw]; c != nil {
		return c, nil
	}
	return nil, f.err
}

func (f *fake) AfterRevoked(c *token.Claims, do func()) (stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := &do
	f.watches[key] = c.Session
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watches, key)
	}
}

func (f *fake) revoke(session string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for do, of := range f.watches {
		if of == session {
			go (*do)()
		}
	}
}

func (f *fake) watched() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.watches)
}

func (f *fake) Age() time.Duration  { return f.age }
func (f *fake) Ready() error        { return f.ready }
func (f *fake) Metrics(w io.Writer) { fmt.Fprintln(w, "fake_metric 1") }

func claims(user string, scopes ...string) *token.Claims {
	return &token.Claims{Subject: user, Session: "s_" + user, Scope: scopes, Expires: time.Now().Add(5 * time.Minute)}
}

// TestCaller: with a verifier a request is its bearer's, and X-User counts for nothing.
func TestCaller(t *testing.T) {
	f := newFake(map[string]*token.Claims{
		"ana": claims("ana"), "admin": claims("svc", "pay:read", "admin"), "odd": claims("a b"), "long": claims(strings.Repeat("a", 65)),
	})
	_, srv, log := handler(t, defaultLimits, Service{Verifier: f, Routes: map[string]Handler{
		"GET /me": func(w http.ResponseWriter, r *http.Request) error {
			first, err := Caller(r)
			if err != nil {
				return err
			}
			again, err := Caller(r)
			if diff := cmp.Diff(first, again); diff != "" || err != nil {
				t.Errorf("a second Caller mismatch (-first +second): %v\n%s", err, diff)
			}
			return JSON(w, 200, first.User)
		},
		"POST /admin": func(w http.ResponseWriter, r *http.Request) error {
			caller, err := Scope(r, "admin")
			if err != nil {
				return err
			}
			return JSON(w, 200, []bool{caller.May("admin"), caller.May("pay:read"), caller.May("pay")})
		},
	}})
	for _, tt := range []struct {
		header    []string
		status    int
		code      string
		challenge string
	}{
		{[]string{"Authorization", "Bearer ana", "X-User", "bo"}, 200, "", ""},
		{[]string{"Authorization", "bEARER   ana"}, 200, "", ""},
		{[]string{"X-User", "ana"}, 401, "unauthenticated", "Bearer"},
		{nil, 401, "unauthenticated", "Bearer"},
		{[]string{"Authorization", "Bearer nobody"}, 401, "token-invalid", `Bearer error="invalid_token"`},
		{[]string{"Authorization", "Bearer odd"}, 401, "token-invalid", `Bearer error="invalid_token"`},
		{[]string{"Authorization", "Bearer long"}, 401, "token-invalid", `Bearer error="invalid_token"`},
		{[]string{"Authorization", "Bearer ana", "Authorization", "Bearer ana"}, 400, "authorization-invalid", `Bearer error="invalid_request"`},
		{[]string{"Authorization", "Bearer "}, 400, "authorization-invalid", `Bearer error="invalid_request"`},
		{[]string{"Authorization", "Basic ana"}, 400, "authorization-invalid", `Bearer error="invalid_request"`},
		{[]string{"Authorization", "ana"}, 400, "authorization-invalid", `Bearer error="invalid_request"`},
	} {
		resp, body := do(t, "GET", srv.URL+"/me", "", tt.header...)
		if tt.status == 200 {
			if resp.StatusCode != 200 || body != "\"ana\"\n" {
				t.Errorf("%q: %d %s", tt.header, resp.StatusCode, body)
			}
			continue
		}
		wantProblem(t, resp, body, tt.status, tt.code)
		if got := resp.Header.Get("WWW-Authenticate"); got != tt.challenge {
			t.Errorf("%q: WWW-Authenticate %q, want %q", tt.header, got, tt.challenge)
		}
	}
	if line := log.await(t, "request", 0); line["user"] != "ana" {
		t.Errorf("log line %v, want the user ana", line)
	}
	resp, body := do(t, "POST", srv.URL+"/admin", "", "Authorization", "Bearer ana")
	wantProblem(t, resp, body, 403, "scope-missing")
	if got, want := resp.Header.Get("WWW-Authenticate"), `Bearer error="insufficient_scope", scope="admin"`; got != want {
		t.Errorf("WWW-Authenticate %q, want %q", got, want)
	}
	if _, body = do(t, "POST", srv.URL+"/admin", "", "Authorization", "Bearer admin"); body != "[true,true,false]\n" {
		t.Errorf("rights of an admin's token: %s", body)
	}
	f.err = fmt.Errorf("%w: no keys", verify.ErrUnavailable)
	resp, body = do(t, "GET", srv.URL+"/me", "", "Authorization", "Bearer nobody")
	if p := wantProblem(t, resp, body, 503, "auth-away"); !p.Retryable || resp.Header.Get("WWW-Authenticate") != "" {
		t.Errorf("without keys: %s, WWW-Authenticate %q: nothing is known against the token", body, resp.Header.Get("WWW-Authenticate"))
	}
}

// TestOpenMode: without a verifier a request is X-User's, who may do anything, and a token counts for nothing.
func TestOpenMode(t *testing.T) {
	_, srv, _ := handler(t, defaultLimits, Service{Strict: []string{"GET /me"}, Routes: map[string]Handler{
		"GET /me": func(w http.ResponseWriter, r *http.Request) error {
			caller, err := Scope(r, "anything")
			if err != nil {
				return err
			}
			return JSON(w, 200, caller.User)
		},
	}})
	if _, body := do(t, "GET", srv.URL+"/me", "", "X-User", "bo", "Authorization", "Bearer ana"); body != "\"bo\"\n" {
		t.Errorf("in open mode: %s", body)
	}
	resp, body := do(t, "GET", srv.URL+"/me", "", "Authorization", "Bearer ana")
	wantProblem(t, resp, body, 401, "unauthenticated")
}

func TestWhoami(t *testing.T) {
	ends := time.Date(2100, 1, 2, 3, 4, 5, 0, time.UTC)
	f := newFake(map[string]*token.Claims{"ana": {Subject: "ana", Scope: []string{"pay:read", "x"}, Expires: ends}})
	_, closed, _ := handler(t, defaultLimits, Service{Verifier: f})
	_, open, _ := handler(t, defaultLimits, Service{})
	for _, tt := range []struct {
		url    string
		header []string
		want   string // the answer, or the code of a problem
	}{
		{closed.URL, []string{"Authorization", "Bearer ana"}, `{"user":"ana","scope":["pay:read","x"],"open":false,"expires_at":"2100-01-02T03:04:05Z"}` + "\n"},
		{closed.URL, nil, "unauthenticated"},
		{closed.URL, []string{"Authorization", "Bearer bo"}, "token-invalid"},
		{open.URL, nil, `{"user":"","scope":[],"open":true}` + "\n"},
		{open.URL, []string{"X-User", "bo"}, `{"user":"bo","scope":[],"open":true}` + "\n"},
	} {
		resp, body := do(t, "GET", tt.url+"/whoami", "", tt.header...)
		if resp.StatusCode != 200 {
			wantProblem(t, resp, body, 401, tt.want)
		} else if body != tt.want {
			t.Errorf("whoami of %v = %s, want %s", tt.header, body, tt.want)
		}
	}
	resp, body := do(t, "GET", open.URL+"/whoami", "", "X-User", "a b")
	wantProblem(t, resp, body, 400, "user-invalid")
}

// TestStrict: a strict route is closed while it is not known which tokens were revoked, other routes are not.
func TestStrict(t *testing.T) {
	f := newFake(map[string]*token.Claims{"ana": claims("ana")})
	entered := 0
	_, srv, _ := handler(t, defaultLimits, Service{Verifier: f, Strict: []string{"POST /money"}, Routes: map[string]Handler{
		"POST /money": func(w http.ResponseWriter, r *http.Request) error { entered++; return ok(w, r) },
		"GET /money":  ok,
	}})
	f.age = revocationsAgeMax
	if resp, body := do(t, "POST", srv.URL+"/money", "", "Authorization", "Bearer ana"); resp.StatusCode != 200 || entered != 1 {
		t.Errorf("at an age of %v: %d %s", f.age, resp.StatusCode, body)
	}
	f.age++
	resp, body := do(t, "POST", srv.URL+"/money", "", "Authorization", "Bearer ana")
	if p := wantProblem(t, resp, body, 503, "revocations-unknown"); !p.Retryable || p.Outcome != "not_applied" || entered != 1 {
		t.Errorf("%s; the handler ran %d times, want 1", body, entered)
	}
	if resp, _ := do(t, "GET", srv.URL+"/money", ""); resp.StatusCode != 200 {
		t.Errorf("a route that is not strict: %d", resp.StatusCode)
	}
	if _, err := New(t.Context(), env(), io.Discard, Service{Name: "x", Strict: []string{"GET /none"}}); err == nil || !strings.Contains(err.Error(), "GET /none") {
		t.Errorf("New with a strict pattern that is no route: %v", err)
	}
}

// TestReadyWaitsForKeys: a service that cannot verify yet gets no requests; its metrics are the verifier's, too.
func TestReadyWaitsForKeys(t *testing.T) {
	f := newFake(nil)
	f.ready = errors.New("no keys yet")
	_, srv, _ := handler(t, defaultLimits, Service{Verifier: f})
	resp, body := do(t, "GET", srv.URL+"/ready", "")
	if p := wantProblem(t, resp, body, 503, "starting"); p.Detail != "no keys yet" {
		t.Errorf("ready: %s", body)
	}
	f.ready = nil
	if resp, _ := do(t, "GET", srv.URL+"/ready", ""); resp.StatusCode != 200 {
		t.Errorf("ready with keys: %d", resp.StatusCode)
	}
	if _, body := do(t, "GET", srv.URL+"/metrics", ""); !strings.Contains(body, "\nfake_metric 1\n") {
		t.Error("the verifier's metrics are not in /metrics")
	}
	if resp, body := do(t, "GET", srv.URL+"/health", "", "Host", "pay.example"); resp.StatusCode != 200 {
		t.Errorf("a Host that is not loopback, with a verifier: %d %s", resp.StatusCode, body)
	}
}

// TestGuard: the guard sees every request before any route, may change it, and refuses with a problem.
func TestGuard(t *testing.T) {
	_, srv, _ := handler(t, defaultLimits, Service{
		Guard: func(w http.ResponseWriter, r *http.Request) error {
			if r.URL.Path == "/closed" {
				return Problem(http.StatusForbidden, "guarded", "not here")
			}
			r.Header.Set("X-User", "guarded")
			w.Header().Set("X-Seen", "yes")
			return nil
		},
		Routes: map[string]Handler{"POST /a": func(w http.ResponseWriter, r *http.Request) error {
			user, err := User(r)
			if err != nil {
				return err
			}
			return JSON(w, 200, user)
		}},
	})
	resp, body := do(t, "POST", srv.URL+"/a", "", "X-User", "ana")
	if body != "\"guarded\"\n" || resp.Header.Get("X-Seen") != "yes" {
		t.Errorf("behind the guard: %s %v", body, resp.Header)
	}
	resp, body = do(t, "POST", srv.URL+"/closed", "")
	if p := wantProblem(t, resp, body, 403, "guarded"); p.Outcome != "not_applied" {
		t.Errorf("refused by the guard: %s", body)
	}
}

// TestListener: what the service puts between the network and net/http is used, and its scheme is told.
func TestListener(t *testing.T) {
	certificate := httptest.NewTLSServer(nil)
	defer certificate.Close()
	s := start(t, defaultLimits, Service{
		Name: "x", Secure: true, Routes: map[string]Handler{"GET /a": ok},
		Listener: func(l net.Listener) (net.Listener, error) { return tls.NewListener(l, certificate.TLS), nil },
	})
	if !strings.HasPrefix(s.url, "https://") {
		t.Fatalf("url %s", s.url)
	}
	resp, err := certificate.Client().Get(s.url + "/a")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.TLS == nil {
		t.Errorf("GET /a = %d, TLS %v", resp.StatusCode, resp.TLS)
	}
	broken := errors.New("no certificate")
	err = run(t.Context(), env(), io.Discard, Service{Name: "x", Listener: func(net.Listener) (net.Listener, error) { return nil, broken }}, defaultLimits)
	if !errors.Is(err, broken) {
		t.Errorf("a listener that fails: %v", err)
	}
}

// TestAddress: X-Forwarded-For is believed of TRUSTED_PROXIES alone, from the right.
func TestAddress(t *testing.T) {
	routes := map[string]Handler{"GET /": func(w http.ResponseWriter, r *http.Request) error {
		_, err := fmt.Fprint(w, Address(r), " ", Proxied(r))
		return err
	}}
	for _, tt := range []struct {
		trusted   string
		forwarded []string
		want      string
	}{
		{"", nil, "127.0.0.1 false"},
		{"", []string{"192.0.2.1"}, "127.0.0.1 false"},
		{"10.0.0.0/8", []string{"192.0.2.1"}, "127.0.0.1 false"},
		{"127.0.0.1", []string{"192.0.2.1"}, "192.0.2.1 true"},
		{"127.0.0.0/8, 10.0.0.0/8", []string{"192.0.2.9, 192.0.2.1, 10.1.1.1"}, "192.0.2.1 true"},
		{"127.0.0.0/8", []string{"192.0.2.9", "junk"}, "127.0.0.1 true"},
	} {
		_, srv, _ := handler(t, defaultLimits, Service{Routes: routes}, "TRUSTED_PROXIES", tt.trusted)
		var header []string
		for _, line := range tt.forwarded {
			header = append(header, "X-Forwarded-For", line)
		}
		if _, body := do(t, "GET", srv.URL+"/", "", header...); body != tt.want {
			t.Errorf("TRUSTED_PROXIES=%s, X-Forwarded-For %q: %s, want %s", tt.trusted, tt.forwarded, body, tt.want)
		}
	}
	if a := Address(httptest.NewRequest("GET", "/", nil)); a.IsValid() {
		t.Errorf("Address outside of the shell = %v", a)
	}
}

// TestStreamEndsWithItsToken: Draining says when the token of a stream's caller ends or is revoked, and AfterToken does
// for what outlives its handler. Nothing is left behind. In virtual time.
func TestStreamEndsWithItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		f := newFake(map[string]*token.Claims{"ana": claims("ana"), "bo": claims("bo")})
		f.tokens["bo"].Expires = began.Add(90 * time.Second)
		ended := make(chan string, 10)
		stops := make(chan func(), 10)
		tell := func(r *http.Request, what string) {
			ended <- fmt.Sprintf("%s of %s after %v", what, r.URL.Query().Get("as"), time.Since(began))
		}
		handler := func(w http.ResponseWriter, r *http.Request) error {
			if _, err := User(r); err != nil {
				return err
			}
			<-Draining(r.Context())
			<-Draining(r.Context()) // as often as asked
			tell(r, "draining")
			return nil
		}
		outlived := func(w http.ResponseWriter, r *http.Request) error {
			if _, err := User(r); err != nil {
				return err
			}
			stops <- AfterToken(r, func() { tell(r, "after") })
			return nil
		}
		s, err := newServer(env(), io.Discard, Service{Verifier: f, Streams: []string{"GET /stream"},
			Routes: map[string]Handler{"GET /stream": handler, "GET /outlived": outlived}}, defaultLimits)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/stream?as=ana", "/stream?as=bo", "/outlived?as=ana", "/outlived?as=bo", "/outlived?as=bo"} {
			r := httptest.NewRequest("GET", path, nil)
			r.Header.Set("Authorization", "Bearer "+r.URL.Query().Get("as"))
			go s.ServeHTTP(httptest.NewRecorder(), r)
			synctest.Wait()
		}
		<-stops
		<-stops
		(<-stops)() // the last one is not told any more
		<-time.After(30 * time.Second)
		f.revoke("s_ana")
		synctest.Wait()
		<-time.After(10 * time.Minute)
		synctest.Wait()
		close(ended)
		var got []string
		for line := range ended {
			got = append(got, line)
		}
		slices.Sort(got)
		// The one that is not stopped after its revocation is told again when its token ends.
		want := []string{"after of ana after 30s", "after of ana after 5m0s", "after of bo after 1m30s", "draining of ana after 30s", "draining of bo after 1m30s"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ends mismatch (-want +got):\n%s", diff)
		}
		if n := f.watched(); n != 2 { // those that outlived their handlers and were never stopped
			t.Errorf("%d watches are left, want 2", n)
		}
		s.drain()
	})
}

// TestAfterTokenInOpenMode: without a token there is no end.
func TestAfterTokenInOpenMode(t *testing.T) {
	AfterToken(httptest.NewRequest("GET", "/", nil), func() { t.Error("the end of nothing was told") })()
	_, srv, _ := handler(t, defaultLimits, Service{Routes: map[string]Handler{
		"GET /a": func(w http.ResponseWriter, r *http.Request) error {
			if _, err := User(r); err != nil {
				return err
			}
			AfterToken(r, func() { t.Error("the end of an open mode's caller was told") })()
			return ok(w, r)
		},
	}})
	do(t, "GET", srv.URL+"/a", "", "X-User", "ana")
}
