package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dongne/auth/node"
	"dongne/internal/serve"
	"dongne/internal/serve/servetest"
)

// TestContract: the routes that take any method are described by those that a client of their kind has.
func TestContract(t *testing.T) {
	routes := maps.Clone(service(&node.Node{}, node.Config{}, "").Routes)
	for pattern, methods := range map[string][]string{
		"/authz/ext-authz/{path...}": {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"},
		"/authz/auth-request":        {"GET"}, "/authz/traefik": {"GET"}, "/authz/caddy": {"GET"},
	} {
		if routes[pattern] == nil {
			t.Errorf("%s is not served", pattern)
		}
		for _, method := range methods {
			routes[method+" "+pattern] = routes[pattern]
		}
		delete(routes, pattern)
	}
	servetest.Routes(t, openapi, routes)
}

const (
	patience = 20 * time.Second // how long a test waits for what must come: one that passes never waits that long
	passes   = "five grey herons wade"
	other    = "nine loud magpies sing"
	secret   = "a client's secret of thirty-two bytes"
)

// auth is a service in this process, behind an HTTP server of its own, on a real log.
type auth struct {
	t       *testing.T
	env     map[string]string
	ahead   atomic.Int64 // of its clock
	node    *node.Node
	front   *httptest.Server
	handler atomic.Pointer[http.Handler] // nil while it is down
	logs    bytes.Buffer                 // read it when the service is down
	stop    func()
}

// start brings up a service, with variables as pairs; it stops when the test ends. There are the users ana, bo and, an
// administrator, root, and the client mailer.
func start(t *testing.T, env ...string) *auth {
	t.Helper()
	a := &auth{t: t, env: map[string]string{"DATA_DIR": t.TempDir(), "TRUSTED_PROXIES": "127.0.0.1", "CLIENTS": "mailer:" + secret + ":introspect mail",
		"SEED": fmt.Sprintf(`[{"login":"ana","password":%q,"name":"Ana"},{"login":"bo","password":%[1]q,"email":"bo@example.com"},
			{"login":"root","password":%[1]q,"groups":["admin","pay:write"]}]`, passes)}}
	for i := 0; i < len(env); i += 2 {
		a.env[env[i]] = env[i+1]
	}
	a.front = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler := a.handler.Load()
		if handler == nil {
			panic(http.ErrAbortHandler) // nobody listens
		}
		(*handler).ServeHTTP(w, r)
	}))
	a.env["ISSUER"] = a.front.URL
	t.Cleanup(a.front.Close)
	a.open()
	t.Cleanup(func() { a.stop() })
	return a
}

func (a *auth) now() time.Time          { return time.Now().Add(time.Duration(a.ahead.Load())) }
func (a *auth) advance(d time.Duration) { a.ahead.Add(int64(d)) }

// open starts it on the folder, and at the URL, that it has.
func (a *auth) open() {
	a.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	getenv := serve.Env(vars, func(name string) string { return a.env[name] })
	config, err := configure(getenv, io.Discard)
	if err != nil {
		a.t.Fatal(err)
	}
	config.Now, config.Hasher.Rounds = a.now, 10
	config.Logger = slog.New(slog.NewTextHandler(a.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	if a.node, err = node.Open(ctx, config); err != nil {
		a.t.Fatal(err)
	}
	until(a.t, "it is ready", func() bool { return a.node.Verifier().Ready() == nil })
	server, err := serve.New(ctx, getenv, &a.logs, service(a.node, config, getenv("LEGACY_COOKIE")))
	if err != nil {
		a.t.Fatal(err)
	}
	handler := servetest.Record(a.t, "auth", server)
	a.handler.Store(&handler)
	a.stop = func() {
		a.handler.Store(nil)
		cancel()
		a.front.CloseClientConnections()
		if err := a.node.Close(); err != nil {
			a.t.Errorf("close: %v", err)
		}
		a.stop = func() {}
	}
}

// until waits for what comes without a signal.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline, tick := time.NewTimer(patience), time.NewTicker(time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// pair is what a log-in or a refresh gives.
type pair struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Type    string `json:"token_type"`
	Expires int    `json:"expires_in"`
	Scope   string `json:"scope"`
	Session string `json:"session"`
	User    string `json:"user"`
	Error   string `json:"error"`
}

// as is a client: somebody with a token, or nobody, at an address.
type as struct {
	auth    *auth
	token   string
	address string
}

func (a *auth) nobody() as { return as{a, "", "192.0.2.1"} }

// as logs a user in.
func (a *auth) as(login string) as {
	a.t.Helper()
	return as{a, a.logIn(login).Access, "192.0.2.1"}
}

func (a *auth) logIn(login string) pair {
	a.t.Helper()
	return decode[pair](a.nobody().do("POST", "/login", object{"login": login, "password": passes}).want(200, ""))
}

type object = map[string]any

type answer struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	body   string
}

// do sends a request; body is marshalled unless it is a string, a form or nil. headers are pairs.
func (c as) do(method, path string, body any, headers ...string) answer {
	c.auth.t.Helper()
	a, err := c.try(method, path, body, headers...)
	if err != nil {
		c.auth.t.Fatal(err)
	}
	return a
}

func (c as) try(method, path string, body any, headers ...string) (answer, error) {
	content, kind := "", ""
	switch b := body.(type) {
	case nil:
	case string:
		content, kind = b, "application/json"
	case url.Values:
		content, kind = b.Encode(), "application/x-www-form-urlencoded"
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return answer{}, err
		}
		content, kind = string(text), "application/json"
	}
	r, err := http.NewRequest(method, c.auth.front.URL+path, strings.NewReader(content))
	if err != nil {
		return answer{}, err
	}
	if c.address != "" {
		r.Header.Set("X-Forwarded-For", c.address)
	}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answer{c.auth.t, method + " " + path, response.StatusCode, response.Header, string(text)}, err
}

// want fails the test unless the status is that, and the code, of a problem or of OAuth.
func (a answer) want(status int, code string) answer {
	a.t.Helper()
	got := ""
	if a.status >= 400 && a.body != "" {
		var p struct{ Code, Error string }
		if err := json.Unmarshal([]byte(a.body), &p); err != nil {
			a.t.Fatalf("%s: %d is not JSON: %s", a.what, a.status, a.body)
		}
		if kind := a.header.Get("Content-Type"); (p.Error == "") != (kind == "application/problem+json") || (p.Error != "") != (kind == "application/json") {
			a.t.Errorf("%s: %d is of type %q: %s", a.what, a.status, kind, a.body)
		}
		got = p.Code + p.Error
	}
	if a.status == 401 && a.header.Get("WWW-Authenticate") == "" {
		a.t.Errorf("%s: 401 without WWW-Authenticate", a.what)
	}
	if a.status != status || got != code {
		a.t.Fatalf("%s: %d %s, want %d %s", a.what, a.status, a.body, status, code)
	}
	return a
}

func decode[T any](a answer) T {
	a.t.Helper()
	var v T
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		a.t.Fatalf("%s: %v in %s", a.what, err, a.body)
	}
	return v
}

type pageOf[T any] struct {
	Items []T
	Next  string
	Seq   uint64
	Reset bool
}

// refresh asks for the next pair.
func (c as) refresh(token string) answer {
	c.auth.t.Helper()
	return c.do("POST", "/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
}

// event is one of the feed's.
type event struct{ name, id, data string }

// follow opens the stream of revocations; the channel closes with it.
func (a *auth) follow(after string) <-chan event {
	a.t.Helper()
	r, err := http.NewRequestWithContext(a.t.Context(), "GET", a.front.URL+"/revocations"+after, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	if response.StatusCode != 200 || response.Header.Get("Content-Type") != "text/event-stream" {
		a.t.Fatalf("GET /revocations: %s %v", response.Status, response.Header)
	}
	events := make(chan event, 1000)
	go func() {
		defer close(events)
		defer response.Body.Close()
		var e event
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			field, value, _ := strings.Cut(lines.Text(), ": ")
			switch field {
			case "event":
				e.name = value
			case "id":
				e.id = value
			case "data":
				e.data = value
			case "":
				events <- e
				e = event{}
			}
		}
	}()
	return events
}

// next waits for an event of a name; others may come before it.
func next(t *testing.T, events <-chan event, name string) event {
	t.Helper()
	for {
		select {
		case e, open := <-events:
			if !open {
				t.Fatalf("the stream ended before an event %q", name)
			}
			if e.name == name {
				return e
			}
		case <-time.After(patience):
			t.Fatalf("no event %q comes", name)
		}
	}
}

// TestBadConfiguration: a value that cannot be stops the start, and names its variable without repeating a secret.
func TestBadConfiguration(t *testing.T) {
	for _, test := range [][2]string{
		{"TOKEN_ALG", "none"}, {"TOKEN_ALG", "HS256"}, {"AUTH_KEY", "secret, too short"}, {"KEY_CACHE", "0s"}, {"KEY_CACHE", "soon"},
		{"CLIENTS", "mailer:secret, too short:mail"}, {"CLIENTS", "mailer"}, {"CLIENTS", ":" + secret + ":mail"}, {"CLIENTS", "a:" + secret + ":x,a:" + secret + ":y"},
		{"CLIENTS", `a:` + secret + `:"`}, {"PEPPERS", "secret, without an id"}, {"PEPPERS", "p:" + secret + ",p:" + secret},
		{"SEED", "{}"}, {"SEED", `[{"login":"a","secret":"b"}]`}, {"ISSUER", "auth"}, {"ISSUER", "ftp://auth"}, {"ISSUER", "http://auth?x=1"},
	} {
		getenv := serve.Env(vars, func(name string) string {
			if name == test[0] {
				return test[1]
			}
			return ""
		})
		_, err := configure(getenv, io.Discard)
		if err == nil || !strings.HasPrefix(err.Error(), test[0]) || strings.Contains(err.Error(), "secret,") || strings.Contains(err.Error(), secret) {
			t.Errorf("%s=%q: error %v", test[0], test[1], err)
		}
	}
	good := serve.Env(vars, func(name string) string {
		return map[string]string{"PEPPERS": "new:" + secret + ",old:another " + secret, "CLIENTS": "a:" + secret + ":x y,b:" + secret + ":", "ISSUER": "https://dongne.example/auth/"}[name]
	})
	config, err := configure(good, io.Discard)
	if err != nil || config.Hasher.Pepper != "new" || len(config.Hasher.Peppers) != 2 || len(config.Clients) != 2 || config.Issuer != "https://dongne.example/auth" {
		t.Errorf("configuration %+v, %v", config, err)
	}
}
