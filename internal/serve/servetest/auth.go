package servetest

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"dongne/internal/serve"
	"dongne/internal/token"
)

// Auth is an auth service for tests, over HTTP at URL, which is to be a service's AUTH_URL: it signs tokens, shows its key,
// and tells what it revoked. It ends with the test.
type Auth struct {
	URL string

	t    testing.TB
	key  *token.Private
	gone chan struct{} // closed at the end

	mu      sync.Mutex
	tokens  int           // signed so far; guarded by mu
	revoked []string      // ids of sessions, in order; guarded by mu
	more    chan struct{} // closed with the next of them; guarded by mu
}

// NewAuth starts one.
func NewAuth(t testing.TB) *Auth {
	t.Helper()
	key, err := token.Generate(token.ES256, rand.NewChaCha8([32]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := token.Set{key.Key()}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	a := &Auth{t: t, key: key, gone: make(chan struct{}), more: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q}`, a.URL)
	})
	mux.HandleFunc("GET /.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request) { w.Write(keys) })
	mux.HandleFunc("GET /revocations", a.feed)
	mux.HandleFunc("GET /ready", func(http.ResponseWriter, *http.Request) {})
	server := httptest.NewUnstartedServer(mux)
	a.URL = "http://" + server.Listener.Addr().String() // before anybody can ask
	server.Start()
	t.Cleanup(func() { close(a.gone); server.Close() })
	return a
}

// Sign returns a token that says c. What c leaves out is as in Token.
func (a *Auth) Sign(c token.Claims) string {
	a.t.Helper()
	a.mu.Lock()
	a.tokens++
	c.Issuer, c.Audience, c.ID = a.URL, []string{serve.Audience}, fmt.Sprintf("jti-%d", a.tokens)
	a.mu.Unlock()
	now := time.Now()
	if c.Issued.IsZero() {
		c.Issued = now.Add(-time.Second)
	}
	if c.Expires.IsZero() {
		c.Expires = now.Add(5 * time.Minute)
	}
	raw, err := a.key.Sign(c)
	if err != nil {
		a.t.Fatal(err)
	}
	return raw
}

// Token returns a token of a user, good for 5 minutes, with the session SessionOf(user).
func (a *Auth) Token(user string, scopes ...string) string {
	a.t.Helper()
	return a.Sign(token.Claims{Subject: user, Session: SessionOf(user), Scope: scopes})
}

// SessionOf is the session that a user's tokens come with.
func SessionOf(user string) string { return "s_" + user }

// Revoke revokes a session.
func (a *Auth) Revoke(session string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked = append(a.revoked, session)
	close(a.more)
	a.more = make(chan struct{})
}

// feed tells everything from the start: a verifier does not mind to hear it again.
func (a *Auth) feed(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	alive := time.NewTicker(time.Second)
	defer alive.Stop()
	for told := 0; ; {
		a.mu.Lock()
		revoked, more := a.revoked, a.more
		a.mu.Unlock()
		for ; told < len(revoked); told++ {
			fmt.Fprintf(w, "event: revocation\ndata: {\"seq\":%d,\"kind\":\"session\",\"id\":%q,\"expires_at\":%q}\n\n",
				told+1, revoked[told], time.Now().Add(6*time.Minute).UTC().Format(time.RFC3339))
		}
		fmt.Fprintf(w, "event: alive\ndata: {\"seq\":%d}\n\n", told)
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-more:
		case <-alive.C:
		case <-r.Context().Done():
			return
		case <-a.gone:
			return
		}
	}
}

// AwaitReady waits until a service at url has what it needs to verify tokens.
func AwaitReady(t testing.TB, url string) {
	t.Helper()
	const patience = 20 * time.Second
	late, tick := time.After(patience), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for {
		answer, err := http.Get(url + "/ready")
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%s/ready: %v, %v", url, answer, err)
		}
	}
}
