package verify

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"dongne/internal/token"
)

const (
	keysFreshMin  = 30 * time.Second
	keysFreshMax  = 10 * time.Minute // also when the source does not say
	keysServeMax  = 24 * time.Hour   // since the last good fetch
	keysPauseMax  = 5 * time.Second  // between fetches that failed
	fetchMax      = 5 * time.Second
	waitMax       = time.Second // of a token for its key
	waitersMax    = 256         // tokens that wait at a time
	strangersMax  = 1024        // kids that are remembered not to exist
	strangerLasts = 30 * time.Second
	demandBurst   = 3 // fetches in a row for kids that are not known
	demandEvery   = 10 * time.Second
)

// heldKey is a key that was fetched, and whether it still is in the set.
type heldKey struct {
	*token.Key
	gone atomic.Bool
}

// ring is what one fetch brought. It does not change.
type ring struct {
	issuer  string
	keys    map[string]*heldKey
	fetched time.Time
}

// flight is one fetch.
type flight struct {
	done chan struct{} // closed at its end
	err  error         // set before that
}

func newFlight() *flight { return &flight{done: make(chan struct{})} }

// keyring keeps the keys: one goroutine fetches, tokens wait for it.
type keyring struct {
	source  Source
	pauses  *pauses
	current atomic.Pointer[ring]
	ready   chan struct{} // closed when current is there
	wake    chan struct{} // one place: next is there
	landed  *flight       // over

	mu        sync.Mutex
	flying    *flight              // guarded by mu: the fetch that goes on, or nil
	next      *flight              // guarded by mu: the one that was asked for and has not begun, or nil
	strangers map[string]time.Time // guarded by mu: kid → when a fetch came without it
	paid      time.Time            // guarded by mu: up to here fetches for unknown kids are paid
	waiters   int                  // guarded by mu
	closed    bool                 // guarded by mu: nothing will be fetched any more
	lastErr   error                // guarded by mu: of the last fetch, nil if it was good

	successes, failures atomic.Uint64 // of fetches
}

func newKeyring(source Source, p *pauses) *keyring {
	k := &keyring{
		source: source, pauses: p, ready: make(chan struct{}), wake: make(chan struct{}, 1), landed: newFlight(),
		strangers: map[string]time.Time{}, lastErr: errors.New("no answer yet"),
	}
	close(k.landed.done)
	return k
}

// run fetches until ctx is done.
func (k *keyring) run(ctx context.Context) {
	for tries := 0; ctx.Err() == nil; {
		f := k.begin()
		pause, err := k.fetch(ctx)
		if err == nil {
			k.successes.Add(1)
			tries = 0
			pause -= k.pauses.upTo(pause / 10) // never later than said
		} else {
			k.failures.Add(1)
			pause = k.pauses.after(tries, keysPauseMax)
			tries++
		}
		k.end(f, err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-k.wake:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.end(k.begin(), ctx.Err()) // for who asked in between
}

// begin turns the flight that was asked for into the one that goes on.
func (k *keyring) begin() *flight {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.flying, k.next = k.next, nil; k.flying == nil {
		k.flying = newFlight()
	}
	select {
	case <-k.wake:
	default:
	}
	return k.flying
}

func (k *keyring) end(f *flight, err error) {
	k.mu.Lock()
	k.flying, k.lastErr = nil, err
	k.mu.Unlock()
	f.err = err
	close(f.done)
}

// fetch brings a new ring and returns how long it is fresh.
func (k *keyring) fetch(ctx context.Context) (fresh time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchMax)
	defer cancel()
	old := k.current.Load()
	r := &ring{keys: map[string]*heldKey{}}
	if old != nil {
		r.issuer = old.issuer // which is for good
	} else if r.issuer, err = k.source.Metadata(ctx); err != nil {
		return 0, err
	} else if r.issuer == "" {
		return 0, errors.New("verify: the issuer is empty")
	}
	set, fresh, err := k.source.Keys(ctx)
	if err != nil {
		return 0, err
	}
	if len(set) == 0 {
		return 0, errors.New("verify: there is no key in the key set")
	}
	r.fetched = time.Now()
	k.install(r, old, set)
	if fresh == 0 {
		fresh = keysFreshMax
	}
	return min(max(fresh, keysFreshMin), keysFreshMax), nil
}

// install makes r, of the keys in set, the current ring.
func (k *keyring) install(r, old *ring, set token.Set) {
	for _, key := range set {
		h := &heldKey{Key: key}
		if old != nil && old.keys[key.ID] != nil && old.keys[key.ID].Equal(key) {
			h = old.keys[key.ID] // so that its tokens stay known
		}
		r.keys[key.ID] = h
	}
	k.current.Store(r)
	if old == nil {
		close(k.ready)
		return
	}
	for kid, h := range old.keys {
		if r.keys[kid] != h {
			h.gone.Store(true)
		}
	}
}

// failure returns what the last fetch failed of.
func (k *keyring) failure() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lastErr
}

// first returns the current ring, and waits for the first one.
func (k *keyring) first() (*ring, error) {
	if r := k.current.Load(); r != nil {
		return r, nil
	}
	leave, err := k.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	timer := time.NewTimer(waitMax)
	defer timer.Stop()
	select {
	case <-k.ready:
		return k.current.Load(), nil
	case <-timer.C:
		return nil, fmt.Errorf("%w: no keys yet: %w", ErrUnavailable, k.failure())
	}
}

// enter counts a token that waits.
func (k *keyring) enter() (leave func(), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.waiters == waitersMax {
		return nil, fmt.Errorf("%w: %d tokens wait for keys", ErrUnavailable, waitersMax)
	}
	k.waiters++
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.waiters--
	}, nil
}

// find returns the key with an id, and fetches it if need be. The error wraps token.ErrUnknownKey or ErrUnavailable.
func (k *keyring) find(kid string) (*heldKey, error) {
	r := k.current.Load()
	if age := time.Since(r.fetched); age > keysServeMax {
		return nil, fmt.Errorf("%w: the keys are %v old: %w", ErrUnavailable, age.Round(time.Second), k.failure())
	}
	if h := r.keys[kid]; h != nil {
		return h, nil
	}
	leave, err := k.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	timer := time.NewTimer(waitMax)
	defer timer.Stop()
	for {
		f, joined, err := k.ask(kid)
		if err != nil {
			return nil, err
		}
		select {
		case <-f.done:
		case <-timer.C:
			return nil, fmt.Errorf("%w: key %q: no answer in %v", ErrUnavailable, kid, waitMax)
		}
		if h := k.current.Load().keys[kid]; h != nil {
			return h, nil
		}
		if f.err != nil {
			return nil, fmt.Errorf("%w: key %q: %w", ErrUnavailable, kid, f.err)
		}
		if !joined {
			k.remember(kid)
			return nil, fmt.Errorf("%w %q", token.ErrUnknownKey, kid)
		}
	}
}

// ask returns the flight to wait for. joined: it began earlier, so it may miss a key that exists by now.
func (k *keyring) ask(kid string) (f *flight, joined bool, err error) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if at, ok := k.strangers[kid]; ok && now.Sub(at) < strangerLasts {
		return nil, false, fmt.Errorf("%w %q, nor %v ago", token.ErrUnknownKey, kid, now.Sub(at).Round(time.Second))
	}
	switch {
	case k.current.Load().keys[kid] != nil: // it came since
		return k.landed, true, nil
	case k.closed:
		return nil, false, fmt.Errorf("%w: key %q: closed", ErrUnavailable, kid)
	case k.next != nil:
		return k.next, false, nil
	case k.flying != nil:
		return k.flying, true, nil
	}
	// The generic cell rate algorithm (ITU-T I.371): each fetch pays for demandEvery, and up to demandBurst are lent.
	paid := now
	if k.paid.After(now) {
		paid = k.paid
	}
	if paid = paid.Add(demandEvery); paid.Sub(now) > demandBurst*demandEvery {
		return nil, false, fmt.Errorf("%w: key %q: keys were fetched too often", ErrUnavailable, kid)
	}
	k.paid = paid
	k.next = newFlight()
	k.wake <- struct{}{} // there is room: whoever took next also took the last one
	return k.next, false, nil
}

// remember notes a kid that a fetch came without. When there is no room it is not noted, and may cost a fetch again, of
// which there is a limit too.
func (k *keyring) remember(kid string) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.strangers) >= strangersMax {
		for old, at := range k.strangers {
			if now.Sub(at) >= strangerLasts {
				delete(k.strangers, old)
			}
		}
	}
	if len(k.strangers) < strangersMax {
		k.strangers[kid] = now
	}
}
