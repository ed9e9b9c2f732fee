package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dongne/internal/serve"
	"dongne/internal/token"
)

// patience bounds every wait for what happens by itself.
const patience = 20 * time.Second

// variables are those of the program, with values for tests.
var variables = []serve.Var{{Name: "ROUTES"}, {Name: "ADMIN_ADDR", Default: "off"}, {Name: "GATEWAY_ID", Default: "g1"}, {Name: "PEERS"},
	{Name: "PEER_SECRET"}, {Name: "TLS_CERT"}, {Name: "TLS_KEY"}, {Name: "DATA_DIR"}}

// setup is what a test says of its gateway.
type setup struct {
	routes  string              // JSON of ROUTES; empty: the defaults
	targets map[string]*url.URL // services beside auth; nil: one that is to be started
	auth    *fakeAuth           // nil: a new one
	env     map[string]string   // beside PORT=0 and a folder
}

// gate is a gateway that runs, with its auth.
type gate struct {
	*Gateway
	t        *testing.T
	url      string // of its own port
	admin    string // of ADMIN_ADDR
	auth     *fakeAuth
	backends map[string]*Backend
	log      *logs
	stop     func() // ends it, and fails the test if something was cut off
}

// open runs a gateway until the end of the test, or stop.
func open(t *testing.T, s setup) *gate {
	t.Helper()
	if s.auth == nil {
		s.auth = newFakeAuth(t)
	}
	g := &gate{t: t, auth: s.auth, backends: map[string]*Backend{}, log: newLogs()}
	transport := serve.Transport(NewTransport())
	all := []*Backend{NewBackend("auth", []byte(chatSpec), s.auth.url, transport)}
	for name, target := range s.targets {
		all = append(all, NewBackend(name, []byte(chatSpec), target, transport))
	}
	slices.SortFunc(all, func(a, b *Backend) int { return strings.Compare(a.Name, b.Name) })
	for _, b := range all {
		g.backends[b.Name] = b
	}
	env := map[string]string{"DATA_DIR": t.TempDir()}
	for name, value := range s.env {
		env[name] = value
	}
	if s.routes != "" {
		env["ROUTES"] = filepath.Join(t.TempDir(), "routes.json")
		if err := os.WriteFile(env["ROUTES"], []byte(s.routes), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	getenv := serve.Env(append(slices.Clone(variables), serve.Var{Name: "PORT", Default: "0"}), func(name string) string { return env[name] })
	if g.Gateway, err = Open(ctx, getenv, []byte(rootSpec), all, g.log); err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	g.url = g.Scheme() + "://" + g.log.addr(t, "listening")
	if env["ADMIN_ADDR"] != "" && env["ADMIN_ADDR"] != "off" {
		g.admin = g.Scheme() + "://" + g.log.addr(t, "admin listening")
	}
	g.stop = sync.OnceFunc(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the gateway ended: %v", err)
			}
		case <-time.After(patience):
			t.Fatal("the gateway does not end")
		}
	})
	t.Cleanup(g.stop)
	return g
}

// logs is where a gateway's log goes: it can be asked for the addresses in it.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer           // guarded by mu
	told map[string]chan string // by message
}

func newLogs() *logs {
	return &logs{told: map[string]chan string{"listening": make(chan string, 1), "admin listening": make(chan string, 1)}}
}

// Write keeps a line, and tells the address in it.
func (l *logs) Write(p []byte) (int, error) {
	var line struct{ Msg, Addr string }
	if json.Unmarshal(p, &line) == nil && line.Addr != "" && l.told[line.Msg] != nil {
		l.told[line.Msg] <- line.Addr
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logs) addr(t *testing.T, msg string) string {
	t.Helper()
	select {
	case addr := <-l.told[msg]:
		return addr
	case <-time.After(patience):
		t.Fatalf("no line %q in the log:\n%s", msg, l)
		return ""
	}
}

// service runs handler and returns its URL.
func service(t testing.TB, handler http.HandlerFunc) *url.URL {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	target, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// text is a service that answers the same to everything but /ready.
func text(t testing.TB, answer string) *url.URL {
	return service(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, answer) })
}

// call sends a request, with "Name: value" header lines, and returns the answer as it came: no redirection is followed.
func call(t testing.TB, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	var from io.Reader
	if body != "" {
		from = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, url, from)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range header {
		if line == "" {
			continue
		}
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	return fetch(t, r)
}

func fetch(t testing.TB, r *http.Request) (*http.Response, string) {
	t.Helper()
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	return answer, string(body)
}

func get(t testing.TB, url string, header ...string) (*http.Response, string) {
	t.Helper()
	return call(t, http.MethodGet, url, "", header...)
}

// wantProblem checks that an answer is a problem with a status and a code, and returns what is known of the outcome.
func wantProblem(t testing.TB, answer *http.Response, body string, status int, code string) (outcome string) {
	t.Helper()
	var problem struct {
		Status  int
		Code    string
		TraceID string `json:"trace_id"`
		Outcome string
	}
	if err := json.Unmarshal([]byte(body), &problem); err != nil {
		t.Errorf("%d %q is no problem: %v", answer.StatusCode, body, err)
	}
	if answer.StatusCode != status || problem.Status != status || problem.Code != code || problem.TraceID == "" ||
		answer.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("the answer is %d %v %s, want %d %s", answer.StatusCode, answer.Header, body, status, code)
	}
	return problem.Outcome
}

// soon waits until a condition holds.
func soon(t testing.TB, what string, holds func() bool) {
	t.Helper()
	limit := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// fakeAuth is an auth that gives anybody tokens, and does as it is told.
type fakeAuth struct {
	url *url.URL
	key *token.Private

	mu        sync.Mutex
	refreshes map[string]string // refresh token → successor; "" is refused
	asked     map[string]int    // requests by path
	last      http.Header       // of the last request to a path of ours, beside those of verifiers
	body      string
	life      time.Duration  // of the tokens of log-ins and refreshes
	serial    int            // of tokens
	revoked   []string       // sessions
	changed   chan struct{}  // closed at the next change
	gate      chan struct{}  // log-ins, refreshes and log-outs wait until it is closed; nil: they do not
	answers   map[string]int // statuses instead of what is right, by path
}

const fakeIssuer = "https://auth.example"

func newFakeAuth(t testing.TB) *fakeAuth {
	t.Helper()
	var seed [32]byte
	copy(seed[:], "gateway tests")
	key, err := token.Generate(token.ES256, rand.NewChaCha8(seed))
	if err != nil {
		t.Fatal(err)
	}
	a := &fakeAuth{key: key, refreshes: map[string]string{}, asked: map[string]int{}, life: 5 * time.Minute, changed: make(chan struct{}), answers: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(map[string]string{"issuer": fakeIssuer})
	})
	mux.HandleFunc("GET /.well-known/jwks.json", func(w http.ResponseWriter, r *http.Request) {
		set, err := token.Set{key.Key()}.Encode()
		if err != nil {
			t.Error(err)
		}
		w.Write(set)
	})
	mux.HandleFunc("GET /revocations", a.feed)
	mux.HandleFunc("POST /login", a.logIn)
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("POST /oauth2/token", a.refresh)
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "{}") })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "auth %s %s", r.URL.Path, r.Header.Get("Authorization"))
	})
	a.url = service(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			if !a.note(w, r) {
				return
			}
		}
		mux.ServeHTTP(w, r)
	})
	return a
}

// note keeps what was asked; false: it is answered.
func (a *fakeAuth) note(w http.ResponseWriter, r *http.Request) bool {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	a.mu.Lock()
	a.asked[r.URL.Path]++
	a.last, a.body = r.Header.Clone(), string(body)
	gate, status := a.gate, a.answers[r.URL.Path]
	a.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-r.Context().Done():
		}
	}
	if status != 0 {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"code":"status-%d"}`, status)
	}
	return status == 0
}

// set changes what it does.
func (a *fakeAuth) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *fakeAuth) count(path string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[path]
}

// mint returns a token of a user's session s_<user>, good for life.
func (a *fakeAuth) mint(user string, life time.Duration, scope ...string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sign(user, life, scope...)
}

// sign is mint with mu held.
func (a *fakeAuth) sign(user string, life time.Duration, scope ...string) string {
	a.serial++
	now := time.Now()
	raw, err := a.key.Sign(token.Claims{Issuer: fakeIssuer, Audience: []string{serve.Audience}, Subject: user, ID: fmt.Sprintf("t_%d", a.serial),
		Session: "s_" + user, Scope: scope, Issued: now.Add(min(life, 0) - time.Second).Truncate(time.Second), Expires: now.Add(life).Truncate(time.Second)})
	if err != nil {
		panic(err)
	}
	return raw
}

// bearer is the header line of mint, for an hour.
func (a *fakeAuth) bearer(user string, scope ...string) string {
	return "Authorization: Bearer " + a.mint(user, time.Hour, scope...)
}

func (a *fakeAuth) logIn(w http.ResponseWriter, r *http.Request) {
	var q struct{ Login, Password, Code string }
	json.NewDecoder(r.Body).Decode(&q)
	if q.Password != "right" {
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"code":"credentials-wrong"}`)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	refresh := fmt.Sprintf("dr_%d", a.serial)
	a.refreshes[refresh] = refresh + "x"
	json.NewEncoder(w).Encode(map[string]string{"access_token": a.sign(q.Login, a.life, "admin"), "refresh_token": refresh})
}

func (a *fakeAuth) refresh(w http.ResponseWriter, r *http.Request) {
	old := r.FormValue("refresh_token")
	a.mu.Lock()
	defer a.mu.Unlock()
	next := a.refreshes[old]
	if next == "" {
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"error":"invalid_grant"}`)
		return
	}
	a.refreshes[next] = next + "x"
	json.NewEncoder(w).Encode(map[string]string{"access_token": a.sign("minji", a.life), "refresh_token": next})
}

// feed tells on revocations.
func (a *fakeAuth) feed(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for told := 0; ; {
		a.mu.Lock()
		revoked, changed := a.revoked, a.changed
		a.mu.Unlock()
		for ; told < len(revoked); told++ {
			fmt.Fprintf(w, "event: revocation\ndata: {\"seq\":%d,\"kind\":\"session\",\"id\":%q,\"expires_at\":%q}\n\n", told+1, revoked[told],
				time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		}
		fmt.Fprintf(w, "event: alive\ndata: {\"seq\":%d}\n\n", told)
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

var ports sync.Map // test and name → port

// freePort returns a port that was free a moment ago, the same for the same test and name: gateways must know each other's
// before they listen.
func freePort(t testing.TB, name string) string {
	t.Helper()
	key := t.Name() + " " + name
	if port, ok := ports.Load(key); ok {
		return port.(string)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	ports.Store(key, port)
	return port
}
