package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dongne/internal/token"
)

// serveAuth puts a fake auth behind HTTP; instead of its own answer a path gives what swap says.
func serveAuth(t *testing.T, a *auth, swap func(path string) http.HandlerFunc) (base *url.URL) {
	t.Helper()
	answer := func(w http.ResponseWriter, v any, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_ = json.NewEncoder(w).Encode(v)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /auth/.well-known/oauth-authorization-server", func(w http.ResponseWriter, r *http.Request) {
		name, err := a.Metadata(r.Context())
		answer(w, map[string]any{"issuer": name, "token_endpoint": name + "/oauth2/token"}, err)
	})
	mux.HandleFunc("GET /auth/.well-known/jwks.json", func(w http.ResponseWriter, r *http.Request) {
		set, _, err := a.Keys(r.Context())
		text, bad := set.Encode()
		w.Header().Set("Cache-Control", "public, max-age=60")
		answer(w, json.RawMessage(text), errors.Join(err, bad))
	})
	mux.HandleFunc("GET /auth/revocations", func(w http.ResponseWriter, r *http.Request) {
		var after uint64
		if _, err := fmt.Sscan(r.FormValue("after"), &after); err != nil || r.Header.Get("Accept") != "text/event-stream" {
			http.Error(w, "bad question", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		_ = a.Follow(r.Context(), after, func(e Event) {
			_, _ = io.WriteString(w, eventText(e))
			_ = http.NewResponseController(w).Flush()
		})
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if other := swap(r.URL.Path); other != nil {
			other(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	base, err := url.Parse(server.URL + "/auth")
	if err != nil {
		t.Fatal(err)
	}
	return base
}

func eventText(e Event) string {
	switch e.Kind {
	case Reset:
		return fmt.Sprintf("event: reset\ndata: {\"seq\":%d}\n\n", e.Seq)
	case Alive:
		return fmt.Sprintf(": comment\nevent: alive\ndata: {\"seq\":%d}\n\n", e.Seq)
	}
	kind := map[Kind]string{SessionRevoked: "session", TokenRevoked: "token"}[e.Kind]
	return fmt.Sprintf("id: %d\nevent: revocation\ndata: {\"seq\":%d,\"kind\":%q,\ndata: \"id\":%q,\"expires_at\":%q}\n\n",
		e.Seq, e.Seq, kind, e.ID, e.Expires.UTC().Format(time.RFC3339Nano))
}

func straight(string) http.HandlerFunc { return nil }

// transport is one that leaves no connection behind.
func transport(t *testing.T) *http.Transport {
	tr := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func TestOverHTTP(t *testing.T) {
	first, second := newKey(t, token.ES256, 1), newKey(t, token.EdDSA, 2)
	a := newAuth(first)
	v := Start(t.Context(), HTTP(serveAuth(t, a, straight), transport(t)), Options{Audience: "dongne"})
	t.Cleanup(v.Close)
	eventually(t, "ready", func() bool { return v.Ready() == nil })
	if v.Age() > 10*time.Second {
		t.Errorf("Age %v", v.Age())
	}
	raw := mint(t, first, 0, time.Now())
	want(t, "first key", v, raw, nil)
	a.change(func() { a.keys = append(a.keys, second.Key()) })
	want(t, "second key", v, mint(t, second, 2, time.Now()), nil)

	claims := claimsOf(0, time.Now())
	ended, stop := watched(v, &claims)
	defer stop()
	a.revoke(SessionRevoked, "s_0", time.Now().Add(6*time.Minute))
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("a revocation did not arrive")
	}
	want(t, "revoked session", v, raw, ErrRevoked)
	a.revoke(TokenRevoked, "t_2", time.Now().Add(6*time.Minute))
	eventually(t, "revoked by id", func() bool {
		_, err := v.Verify(mint(t, second, 2, time.Now()))
		return errors.Is(err, ErrRevoked)
	})
	// auth restarts with an older history while the feed is down.
	connects := v.connects.Load()
	a.change(func() { a.away = errAway })
	eventually(t, "the feed broken", func() bool { return v.connects.Load() > connects })
	a.change(func() { a.away, a.items, a.seq = nil, nil, 0 })
	eventually(t, "the old history forgotten", func() bool { _, err := v.Verify(raw); return err == nil })
}

// Every way in which an answer can be wrong leaves the verifier not ready, with the reason, and able to go on.
func TestGarbage(t *testing.T) {
	text := func(status int, kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	stream := func(body string) http.HandlerFunc { return text(200, "text/event-stream", body) }
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, `{"keys":[`)
		panic(http.ErrAbortHandler)
	}
	away := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:1/elsewhere", http.StatusFound)
	}
	const metadata, jwks = "/auth/.well-known/oauth-authorization-server", "/auth/.well-known/jwks.json"
	const feed = "/auth/revocations"
	revocation := eventText(Event{SessionRevoked, 1, "x", time.Unix(1, 0)})
	kib := "data: " + strings.Repeat("x", 1<<10) + "\n"
	const private = `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`
	for _, row := range []struct {
		what, path string
		answer     http.HandlerFunc
		text       string // in the error of Ready
	}{
		{"metadata 404", metadata, http.NotFound, "status 404"},
		{"metadata HTML", metadata, text(200, "text/html", "<html>"), "invalid character"},
		{"metadata empty", metadata, text(200, "application/json", `{}`), "issuer is empty"},
		{"metadata elsewhere", metadata, away, "status 302"},
		{"keys 500", jwks, text(500, "text/plain", "no"), "status 500"},
		{"keys HTML", jwks, text(200, "text/html", "<html>"), "key set"},
		{"keys empty", jwks, text(200, "application/json", `{"keys":[]}`), "no key"},
		{"keys secret", jwks, text(200, "application/json", private), "private member"},
		{"keys endless", jwks, text(200, "application/json", strings.Repeat(" ", answerBytesMax+1)), "over 65536 bytes"},
		{"keys cut off", jwks, cut, "EOF"},
		{"keys elsewhere", jwks, away, "status 302"},
		{"feed 503", feed, text(503, "text/plain", ""), "status 503"},
		{"feed JSON", feed, text(200, "application/json", `{}`), "Content-Type"},
		{"feed ended", feed, stream(""), "it ended"},
		{"feed cut off in its first event", feed, stream("event: alive\ndata: {\"seq\":0}\n"), "it ended"},
		{"feed of another kind", feed, stream(strings.Replace(revocation, "session", "planet", 1)), `kind "planet"`},
		{"feed without a number", feed, stream("event: alive\ndata: {}\n\n"), "seq is missing"},
		{"feed with a negative number", feed, stream("event: alive\ndata: {\"seq\":-1}\n\n"), "alive"},
		{"feed of no JSON", feed, stream("event: reset\ndata: x\n\n"), "reset"},
		{"feed with a long line", feed, stream("data: " + strings.Repeat("x", eventBytesMax) + "\n\n"), "too long"},
		{"feed with a long event", feed, stream(strings.Repeat(kib, 65) + "\n"), "over 65536 bytes"},
	} {
		t.Run(row.what, func(t *testing.T) {
			t.Parallel()
			p := newKey(t, token.ES256, 1)
			var mu sync.Mutex
			broken := true
			base := serveAuth(t, newAuth(p), func(path string) http.HandlerFunc {
				mu.Lock()
				defer mu.Unlock()
				if broken && path == row.path {
					return row.answer
				}
				return nil
			})
			v := Start(t.Context(), HTTP(base, transport(t)), Options{Audience: "dongne"})
			defer v.Close()
			eventually(t, "refused", func() bool {
				err := v.Ready()
				return err != nil && strings.Contains(err.Error(), row.text)
			})
			mu.Lock()
			broken = false
			mu.Unlock()
			eventually(t, "ready", func() bool { return v.Ready() == nil })
			want(t, "good", v, mint(t, p, 0, time.Now()), nil)
		})
	}
}

// An auth that takes connections and says nothing, as when it is stopped.
func TestHangingHTTP(t *testing.T) {
	p := newKey(t, token.ES256, 1)
	a := newAuth(p)
	v := Start(t.Context(), HTTP(serveAuth(t, a, straight), transport(t)), Options{Audience: "dongne"})
	t.Cleanup(v.Close)
	eventually(t, "ready", func() bool { return v.Ready() == nil })
	a.change(func() { a.hangs = true })
	want(t, "known key", v, mint(t, p, 0, time.Now()), nil)
	began := time.Now()
	want(t, "unknown key", v, stranger(t, 0, began), ErrUnavailable)
	if d := time.Since(began); d < waitMax || d > 10*waitMax {
		t.Errorf("an unknown key waited %v, want %v", d, waitMax)
	}
	want(t, "known key", v, mint(t, p, 1, time.Now()), nil)
}

func TestReadEvents(t *testing.T) {
	for _, row := range []struct{ what, text, want string }{
		{"LF", "event: a\ndata: 1\n\n", "a=1;"},
		{"CR LF", "event: a\r\ndata: 1\r\n\r\n", "a=1;"},
		{"no space", "event:a\ndata:1\n\n", "a=1;"},
		{"two spaces", "event:a\ndata:  1\n\n", "a= 1;"},
		{"two lines", "event: a\ndata: 1\ndata: 2\n\n", "a=1\n2;"},
		{"comments, id, retry and others", ": x\nid: 7\nretry: 1\nfoo: bar\nevent: a\ndata: 1\n\n", "a=1;"},
		{"no data", "event: a\n\ndata: 1\n\n", "=1;"},
		{"names do not last", "event: a\ndata: 1\n\ndata: 2\n\n", "a=1;=2;"},
		{"the last name", "event: a\nevent: b\ndata: 1\n\n", "b=1;"},
		{"no end", "event: a\ndata: 1\n\nevent: a\ndata: 2\n", "a=1;"},
		{"field without a colon", "event: a\ndata: 1\ndata\n\n", "a=1\n;"},
	} {
		got := ""
		err := readEvents(strings.NewReader(row.text), func(name, data string) error {
			got += name + "=" + data + ";"
			return nil
		})
		if err == nil || got != row.want {
			t.Errorf("%s: readEvents = %q, %v; want %q and an error", row.what, got, err, row.want)
		}
	}
	stop := errors.New("stop")
	two := strings.NewReader("data: 1\n\ndata: 2\n\n")
	if err := readEvents(two, func(string, string) error { return stop }); err != stop {
		t.Errorf("readEvents with an error of on: %v", err)
	}
}

func TestParseEvent(t *testing.T) {
	const ends = `"expires_at":"2026-01-02T15:04:05.6Z"`
	const seoul = `"expires_at":"2026-01-03T00:04:05.6+09:00"`
	session := func(rest string) string { return `{"seq":7,"kind":"session",` + rest + `}` }
	at := time.Date(2026, 1, 2, 15, 4, 5, 600_000_000, time.UTC)
	for _, row := range []struct {
		name, data string
		want       Event
		bad        bool
	}{
		{"revocation", session(`"id":"s","expires_at":"2026-01-02T15:04:05.6Z"`), Event{SessionRevoked, 7, "s", at}, false},
		{"revocation", session(seoul + `,"id":"s","more":1`), Event{SessionRevoked, 7, "s", at}, false},
		{"revocation", `{"seq":7,"kind":"token","id":"t",` + ends + `}`, Event{TokenRevoked, 7, "t", at}, false},
		{"reset", `{"seq":0}`, Event{Kind: Reset}, false},
		{"alive", `{"seq":18446744073709551615}`, Event{Kind: Alive, Seq: 1<<64 - 1}, false},
		{"news", `anything`, Event{}, false},
		{"", `{"seq":1}`, Event{}, false},
		{"revocation", `{"kind":"session","id":"s",` + ends + `}`, Event{}, true},
		{"revocation", `{"seq":7,"id":"s",` + ends + `}`, Event{}, true},
		{"revocation", session(`"id":"",` + ends), Event{}, true},
		{"revocation", session(`"id":"` + strings.Repeat("x", idBytesMax+1) + `",` + ends), Event{}, true},
		{"revocation", session(`"id":"s"`), Event{}, true},
		{"revocation", session(`"id":"s","expires_at":"tomorrow"`), Event{}, true},
		{"alive", `{"seq":18446744073709551616}`, Event{}, true},
		{"alive", ``, Event{}, true},
	} {
		got, err := parseEvent(row.name, row.data)
		if (err != nil) != row.bad {
			t.Errorf("parseEvent(%s, %s): %v", row.name, row.data, err)
		}
		if diff := cmp.Diff(row.want, got); err == nil && diff != "" { // which compares times by Equal
			t.Errorf("parseEvent(%s, %s) mismatch (-want +got):\n%s", row.name, row.data, diff)
		}
	}
}

func TestMaxAge(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": 0, "public": 0, "max-age=60": time.Minute, "public, Max-Age=600, must-revalidate": 10 * time.Minute,
		`max-age="60"`: time.Minute, "max-age=0": keysFreshMin, "max-age=-1": 0, "max-age=x": 0, "max-age=99999999999999": 0,
		"no-store": keysFreshMin, "no-cache, max-age=600": keysFreshMin, "s-maxage=60": 0,
	} {
		if got := maxAge(http.Header{"Cache-Control": {value}}); got != want {
			t.Errorf("maxAge(%q) = %v, want %v", value, got, want)
		}
	}
}

// The caller's context ends a feed in mid-stream.
func TestFollowEnds(t *testing.T) {
	source := HTTP(serveAuth(t, newAuth(newKey(t, token.ES256, 1)), straight), transport(t))
	ctx, cancel := context.WithCancel(t.Context())
	err := source.Follow(ctx, 0, func(e Event) {
		if e.Kind == Alive {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Follow = %v, want context.Canceled", err)
	}
}
