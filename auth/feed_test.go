package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dongne/internal/token"
	"dongne/internal/verify"

	"github.com/google/go-cmp/cmp"
)

// verifier is what every service has: a verifier that asks over HTTP. cut, while true, keeps it from auth.
type verifier struct {
	*verify.Verifier
	cut atomic.Bool
}

// RoundTrip implements http.RoundTripper.
func (v *verifier) RoundTrip(r *http.Request) (*http.Response, error) {
	if v.cut.Load() {
		return nil, fmt.Errorf("cut off")
	}
	return http.DefaultTransport.RoundTrip(r)
}

func (a *auth) verifier() *verifier {
	a.t.Helper()
	base, err := url.Parse(a.front.URL)
	if err != nil {
		a.t.Fatal(err)
	}
	v := &verifier{}
	v.Verifier = verify.Start(a.t.Context(), verify.HTTP(base, v), verify.Options{Audience: "dongne", Now: a.now})
	a.t.Cleanup(v.Close)
	until(a.t, "a verifier is ready", func() bool { return v.Ready() == nil })
	return v
}

func (v *verifier) want(t *testing.T, what, raw string, good bool) (claims *token.Claims) {
	t.Helper()
	claims, err := v.Verify(raw)
	if (err == nil) != good {
		t.Errorf("%s: Verify = %v, want a good token: %v", what, err, good)
	}
	return claims
}

// TestRevocationIsFast: whatever ends a session is known to a verifier elsewhere within 100 ms of the request, at the 99th
// percentile. What is asserted is more, as others use the machine while tests run; what was measured is logged.
func TestRevocationIsFast(t *testing.T) {
	a := start(t)
	v := a.verifier()
	root := a.as("root")
	var took []time.Duration
	for i := range 200 {
		p := a.logIn("ana")
		ana := as{a, p.Access, "192.0.2.1"}
		claims := v.want(t, "a new token", p.Access, true)
		ended := make(chan struct{})
		stop := v.AfterRevoked(claims, sync.OnceFunc(func() { close(ended) }))
		began := time.Now()
		switch i % 4 {
		case 0:
			ana.do("POST", "/logout", nil).want(204, "")
		case 1:
			ana.do("DELETE", "/sessions", nil).want(204, "")
		case 2:
			a.nobody().do("POST", "/oauth2/revoke", url.Values{"token": {p.Access}}).want(200, "")
		case 3:
			root.do("PUT", "/users/ana/disabled", nil).want(204, "")
		}
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("a revocation does not reach a verifier")
		}
		took = append(took, time.Since(began))
		stop()
		v.want(t, "a revoked token", p.Access, false)
		if i%4 == 3 {
			root.do("DELETE", "/users/ana/disabled", nil).want(204, "")
		}
	}
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	t.Logf("from the request to the verifier: median %v, p99 %v, most %v", p50, p99, took[len(took)-1])
	if p99 > 2*time.Second {
		t.Errorf("p99 %v", p99)
	}
}

// TestRevocationAfterRestart: a verifier that was away, and an auth that was restarted, make up for it.
func TestRevocationAfterRestart(t *testing.T) {
	a := start(t)
	v := a.verifier()
	ana, bo, root := a.logIn("ana"), a.logIn("bo"), a.logIn("root")
	for _, p := range []pair{ana, bo, root} {
		v.want(t, "a new token", p.Access, true)
	}
	a.stop()
	v.cut.Store(true)
	a.open()
	as{a, ana.Access, ""}.do("POST", "/logout", nil).want(204, "")
	v.want(t, "revoked while the verifier was cut off", ana.Access, true)
	a.stop()
	v.cut.Store(false)
	a.open()
	until(t, "a revocation from before a restart comes", func() bool { _, err := v.Verify(ana.Access); return err != nil })
	as{a, bo.Access, ""}.do("POST", "/logout", nil).want(204, "")
	until(t, "one from after it comes", func() bool { _, err := v.Verify(bo.Access); return err != nil })
	v.want(t, "a session that goes on", root.Access, true)
	late := a.verifier()
	late.want(t, "revoked before this verifier was there", ana.Access, false)
	late.want(t, "a session that goes on", root.Access, true)
}

// TestFeed: the list and the stream have the same, in order, from any number on; a number that cannot be is a reset; and what
// no token can be of any more is forgotten.
func TestFeed(t *testing.T) {
	a := start(t)
	type revocation struct {
		Seq      uint64
		Kind, ID string
	}
	list := func(after string) pageOf[revocation] {
		t.Helper()
		return decode[pageOf[revocation]](a.nobody().do("GET", "/revocations"+after, nil).want(200, ""))
	}
	var want []revocation
	events := a.follow("")
	for i := range 5 {
		p := a.logIn("ana")
		as{a, p.Access, ""}.do("POST", "/logout", nil).want(204, "")
		want = append(want, revocation{uint64(i + 1), "session", p.Session})
	}
	for after := range 6 {
		got := list(fmt.Sprint("?after=", after))
		if diff := cmp.Diff(pageOf[revocation]{Items: append([]revocation{}, want[after:]...), Seq: 5}, got); diff != "" {
			t.Errorf("after %d mismatch (-want +got):\n%s", after, diff)
		}
	}
	if got := list("?after=6"); !got.Reset || len(got.Items) != 5 || got.Seq != 5 {
		t.Errorf("after a number of another history: %+v", got)
	}
	for _, r := range want {
		if e := next(t, events, "revocation"); e.id != fmt.Sprint(r.Seq) || !strings.Contains(e.data, r.ID) {
			t.Errorf("the stream has %+v, want %+v", e, r)
		}
	}
	next(t, events, "alive")
	for _, from := range []string{"?after=3", "?after=100"} {
		more := a.follow(from)
		if from == "?after=100" {
			next(t, more, "reset")
		} else if e := next(t, more, "revocation"); e.id != "4" {
			t.Errorf("a stream after 3 begins with %+v", e)
		}
		if e := next(t, more, "alive"); e.data != `{"seq":5}` {
			t.Errorf("alive says %s", e.data)
		}
	}
	a.advance(6*time.Minute + time.Second)
	a.logIn("bo") // time comes from the log
	if got := list("?after=2"); !got.Reset || len(got.Items) != 0 || got.Seq != 5 {
		t.Errorf("after they are over: %+v", got)
	}
	if got := list("?after=5"); got.Reset || got.Seq != 5 {
		t.Errorf("for who knows all: %+v", got)
	}
	a.stop()
	for range events { // it ends
	}
}

// TestRotationUnderLoad: keys change under tokens that are made and verified all the while, here and elsewhere, and no
// verification fails.
func TestRotationUnderLoad(t *testing.T) {
	a := start(t, "KEY_CACHE", "1s")
	verifiers := []*verifier{a.verifier(), a.verifier()}
	first := a.logIn("ana")
	var done atomic.Bool
	var made atomic.Int64
	kids := sync.Map{}
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for p := a.logIn("ana"); !done.Load(); made.Add(1) {
				kids.Store(strings.SplitN(p.Access, ".", 2)[0], true)
				for _, v := range verifiers {
					for _, raw := range []string{p.Access, first.Access} {
						if _, err := v.Verify(raw); err != nil {
							t.Errorf("a verification failed: %v", err)
							return
						}
					}
				}
				a := a.nobody().refresh(p.Refresh)
				if a.status != 200 {
					t.Errorf("a refresh failed: %d %s", a.status, a.body)
					return
				}
				p = decode[pair](a)
			}
		})
	}
	count := func() (n int) {
		kids.Range(func(any, any) bool { n++; return true })
		return n
	}
	root := a.as("root")
	for n := 1; n <= 3; n++ {
		until(t, "a new key signs", func() bool { return count() >= n || t.Failed() })
		if n < 3 {
			root.do("POST", "/keys/rotate", nil).want(201, "")
		}
	}
	done.Store(true)
	load.Wait()
	t.Logf("%d tokens of %d keys, each verified by %d verifiers", made.Load(), count(), len(verifiers))
}
