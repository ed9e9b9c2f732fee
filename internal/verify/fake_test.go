package verify

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dongne/internal/token"
)

const issuer = "https://auth.example"

var errAway = errors.New("auth is away")

// auth is a source within the process that does what it is told: it can be away, hang, and forget its history.
type auth struct {
	mu      sync.Mutex
	keys    token.Set
	fresh   time.Duration
	away    error         // what every method answers
	hangs   bool          // no method answers
	fetches []time.Time   // of the keys
	items   []Event       // revocations, in order
	seq     uint64        // of the last one
	slow    time.Duration // from when the keys are looked up to when they are answered
	silent  bool          // the feed stops in the middle, before an Alive
	changed chan struct{} // closed at the next change
}

func newAuth(keys ...*token.Private) *auth {
	a := &auth{changed: make(chan struct{})}
	for _, k := range keys {
		a.keys = append(a.keys, k.Key())
	}
	return a
}

// change does something to a and wakes who follows.
func (a *auth) change(do func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	do()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *auth) revoke(kind Kind, id string, expires time.Time) {
	a.change(func() {
		a.seq++
		a.items = append(a.items, Event{Kind: kind, Seq: a.seq, ID: id, Expires: expires})
	})
}

func (a *auth) fetched() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.fetches)
}

// wait blocks while a hangs; the error is that of ctx, or what a is told to answer.
func (a *auth) wait(ctx context.Context) error {
	for {
		a.mu.Lock()
		hangs, away, changed := a.hangs, a.away, a.changed
		a.mu.Unlock()
		if !hangs {
			return away
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *auth) Metadata(ctx context.Context) (string, error) { return issuer, a.wait(ctx) }

func (a *auth) Keys(ctx context.Context) (token.Set, time.Duration, error) {
	a.mu.Lock()
	a.fetches = append(a.fetches, time.Now())
	a.mu.Unlock()
	err := a.wait(ctx)
	a.mu.Lock()
	keys, fresh, slow := slices.Clone(a.keys), a.fresh, a.slow
	a.mu.Unlock()
	if slow > 0 {
		<-time.After(slow)
	}
	return keys, fresh, err
}

func (a *auth) Follow(ctx context.Context, after uint64, on func(Event)) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for first := true; ; first = false {
		if err := a.wait(ctx); err != nil {
			return err
		}
		a.mu.Lock()
		items, seq, silent, changed := slices.Clone(a.items), a.seq, a.silent, a.changed
		a.mu.Unlock()
		if first && after > seq {
			on(Event{Kind: Reset, Seq: seq})
			after = 0
		}
		for _, e := range items {
			if e.Seq > after {
				on(e)
				after = e.Seq
			}
		}
		if !silent {
			on(Event{Kind: Alive, Seq: seq})
		}
		select {
		case <-tick.C:
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func newKey(t testing.TB, alg token.Alg, seed uint64) *token.Private {
	t.Helper()
	var s [32]byte
	binary.LittleEndian.PutUint64(s[:], seed)
	p, err := token.Generate(alg, rand.NewChaCha8(s))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// claimsOf is the n-th token's: of session n/2, good for 5 minutes from now on.
func claimsOf(n int, now time.Time) token.Claims {
	now = now.Truncate(time.Second).UTC()
	return token.Claims{
		Issuer: issuer, Audience: []string{"dongne"}, Subject: fmt.Sprintf("u_%d", n), ID: fmt.Sprintf("t_%d", n),
		Session: fmt.Sprintf("s_%d", n/2), Scope: []string{"chat"}, Issued: now, Expires: now.Add(5 * time.Minute),
	}
}

func mint(t testing.TB, p *token.Private, n int, now time.Time) string {
	t.Helper()
	raw, err := p.Sign(claimsOf(n, now))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// start starts a verifier within a bubble, waits for it, and closes it at the test's end.
func start(t *testing.T, source Source, options Options) *Verifier {
	t.Helper()
	options.Audience = "dongne"
	if options.Rand == nil {
		options.Rand = rand.New(rand.NewPCG(1, 2))
	}
	v := Start(t.Context(), source, options)
	t.Cleanup(v.Close)
	synctest.Wait()
	return v
}

// pass lets time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func want(t *testing.T, what string, v *Verifier, raw string, want error) {
	t.Helper()
	c, err := v.Verify(raw)
	if !errors.Is(err, want) || (c == nil) != (err != nil) {
		t.Errorf("%s: Verify = %v, %v; want %v", what, c, err, want)
	}
}
