// Package verify tells a service who calls it: it verifies access tokens in the process, with the keys and the
// revocations that it keeps up to date from auth.
//
// What a Verifier promises:
//
//   - A token is accepted only if token.Verify accepts it with a key of the last key set that was fetched, and if
//     neither its session nor its id is among the revocations that arrived. Both, and the token's times, are looked
//     at on every call: a verified token is remembered to save the signature's check, and is never good past its exp.
//   - Only tokens that were good are remembered, at most Options.Tokens of them and none over 2 KiB. What is bad is
//     checked each time: there is no end of bad tokens, so to remember them would only push out the good ones.
//   - Keys are fetched at the start and then each 10 minutes, or earlier when their source says so, but not within 30
//     s. When that fails, the last ones are used for up to 24 hours. A key that is gone from a new set is gone at
//     once, with every token that it signed. A set without any key that can be used counts as a failure.
//   - A kid that is not known is fetched at once and waited for, at most 1 s, so that a new key works from its first
//     token on. A kid that was not there then is refused for 30 s without asking again. Whatever kids come, there is
//     one fetch at a time and there are 3 in a row and one each 10 s on top of the regular ones. If those are used
//     up, or auth does not answer, the error is ErrUnavailable: nothing is known against the token.
//   - A revocation counts from the moment that it arrives, and is kept until it expires and for 6 minutes after it
//     arrived, however the clock is set in between. Age is how old the knowledge is: the time since the feed last
//     said that nothing is missing. It grows while auth is away. Verify goes on then; who must not take a revoked
//     token looks at Age.
//
// Clocks: Options.Now decides about the times in tokens, in wall time. If it is ahead of auth's, tokens end early; if
// it is behind by more than Options.Skew, new tokens are refused (token.ErrNotYet), since with them revocations could
// be missed. Both heal as soon as the clock is right again. How long something lasted is measured by the monotonic
// clock.
package verify

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"dongne/internal/token"
)

const (
	tokensDefault  = 1 << 16
	cachedBytesMax = 2 << 10 // of a token that is remembered
	skewDefault    = time.Minute
	sweepEvery     = 30 * time.Second
)

// Errors of Verify beside those of token.Verify; both are wrapped with the reason.
var (
	// ErrRevoked: the token or its session was revoked.
	ErrRevoked = errors.New("verify: revoked")
	// ErrUnavailable: it cannot be decided now, since keys are missing; nothing is known against the token.
	ErrUnavailable = errors.New("verify: unavailable")
)

// Options of a Verifier.
type Options struct {
	Audience string           // which must be in a token's aud
	Skew     time.Duration    // how far ahead auth's clock may be; 0 is a minute
	Tokens   int              // how many verified tokens are remembered, rounded up to a power of two; 0 is 65,536
	Now      func() time.Time // wall time; nil is time.Now
	Rand     *rand.Rand       // for pauses; nil draws a seed
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	options Options
	source  Source
	started time.Time
	seed    maphash.Seed
	cache   *cache
	keys    *keyring
	revoked atomic.Pointer[revocations]
	watches watches

	position  uint64        // of the follower: all revocations up to this sequence number are in revoked
	complete  atomic.Int64  // when that was last all there is, in nanoseconds after started, plus 1; 0 if never
	feedError atomic.Value  // of type reason: why the feed broke last
	connects  atomic.Uint64 // of the feed

	outcomes [outcomeCount]counter
	pauses   *pauses
	stop     context.CancelFunc
	running  sync.WaitGroup
}

type reason struct{ error }

// Start returns a verifier that learns from source until ctx is done or Close is called. It does not wait for the first
// answer: see Ready.
func Start(ctx context.Context, source Source, options Options) *Verifier {
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Skew == 0 {
		options.Skew = skewDefault
	}
	if options.Tokens == 0 {
		options.Tokens = tokensDefault
	}
	if options.Rand == nil {
		options.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	ctx, stop := context.WithCancel(ctx)
	v := &Verifier{
		options: options, source: source, started: time.Now(), seed: maphash.MakeSeed(), cache: newCache(options.Tokens),
		pauses: &pauses{rng: options.Rand}, stop: stop,
	}
	v.keys = newKeyring(source, v.pauses)
	v.revoked.Store(&revocations{})
	v.running.Go(func() { v.keys.run(ctx) })
	v.running.Go(func() { v.follow(ctx) })
	v.running.Go(func() { v.sweep(ctx) })
	return v
}

// Close ends what Start began and waits for it. Verify goes on with what is known.
func (v *Verifier) Close() {
	v.stop()
	v.running.Wait()
}

// Verify returns the claims of a good token; they are shared, so read them only. The error wraps one of token.Verify's,
// ErrRevoked or ErrUnavailable. It waits, for at most 1 s, only when a key must be fetched.
func (v *Verifier) Verify(raw string) (*token.Claims, error) {
	hash := maphash.String(v.seed, raw)
	e, outcome, err := v.verify(raw, hash)
	v.outcomes[outcome].add(hash)
	if err != nil {
		return nil, err
	}
	return e.claims, nil
}

func (v *Verifier) verify(raw string, hash uint64) (*entry, outcome, error) {
	e, known := v.cache.find(hash, raw), cached
	if e != nil && !e.key.gone.Load() {
		if err := e.claims.At(v.options.Now(), v.options.Skew); err != nil {
			return nil, refused, err
		}
	} else {
		var err error
		if e, err = v.check(raw, hash); err != nil {
			if errors.Is(err, ErrUnavailable) {
				return nil, unavailable, err
			}
			return nil, refused, err
		}
		known = verified
	}
	if what := v.revoked.Load().of(e); what != "" {
		return nil, revoked, fmt.Errorf("%w: the token's %s", ErrRevoked, what)
	}
	return e, known, nil
}

// check verifies a token that is not remembered, and remembers it.
func (v *Verifier) check(raw string, hash uint64) (*entry, error) {
	r, err := v.keys.first()
	if err != nil {
		return nil, err
	}
	expect := token.Expect{Issuer: r.issuer, Audience: v.options.Audience, Skew: v.options.Skew}
	kid, err := token.Peek(raw, expect, v.options.Now())
	if err != nil {
		return nil, err
	}
	key, err := v.keys.find(kid)
	if err != nil {
		return nil, err
	}
	// The clock is asked again: the key may have taken its time.
	c, err := token.Verify(raw, func(string) *token.Key { return key.Key }, expect, v.options.Now())
	if err != nil {
		return nil, err
	}
	e := newEntry(raw, hash, c, key)
	if len(raw) <= cachedBytesMax {
		v.cache.put(e)
	}
	return e, nil
}

// Age returns how long ago the revocations were last known to be complete; math.MaxInt64 if they never were.
func (v *Verifier) Age() time.Duration {
	at := v.complete.Load()
	if at == 0 {
		return math.MaxInt64
	}
	return time.Since(v.started) - time.Duration(at-1)
}

// Ready returns nil once keys and revocations were complete for the first time, and before that what is missing. A
// service that is not ready should get no requests: Verify does what it can from the start, without the revocations if
// need be.
func (v *Verifier) Ready() error {
	if v.keys.current.Load() == nil {
		return fmt.Errorf("verify: no keys yet: %w", v.keys.failure())
	}
	if v.complete.Load() == 0 {
		why, ok := v.feedError.Load().(reason)
		if !ok {
			why.error = errors.New("no answer yet")
		}
		return fmt.Errorf("verify: no revocations yet: %w", why.error)
	}
	return nil
}

// AfterRevoked is for who serves a stream to the bearer of a verified token: once the token or its session is revoked, at
// once if it already is, f is called once, in a goroutine of its own. It is not called when the token expires. Call stop at
// the stream's end; it may be called more than once, also by f, and does not wait for an f that was begun.
func (v *Verifier) AfterRevoked(c *token.Claims, f func()) (stop func()) {
	e := newEntry("", 0, c, nil)
	w := v.watches.add(e, f)
	if v.revoked.Load().of(e) != "" { // looked up after the watch stands: nothing falls between
		v.watches.end(e.id)
	}
	return func() { v.watches.remove(e, w) }
}

// sweep forgets what is over.
func (v *Verifier) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			now := v.options.Now()
			v.cache.sweep(now)
			v.revoked.Load().sweep(now)
		}
	}
}

// pauses draws the pauses between tries that failed: the ceiling doubles from pauseMin, at least half of it is waited
// and the rest drawn ("equal jitter": Marc Brooker, "Exponential Backoff and Jitter", 2015).
type pauses struct {
	mu  sync.Mutex
	rng *rand.Rand // guarded by mu
}

const pauseMin = 100 * time.Millisecond

// after returns the pause after tries failures in a row, the first being 0; at most longest.
func (p *pauses) after(tries int, longest time.Duration) time.Duration {
	ceiling := min(pauseMin<<min(tries, 16), longest)
	return ceiling/2 + p.upTo(ceiling/2)
}

// upTo draws a duration from 0 to longest.
func (p *pauses) upTo(longest time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Duration(p.rng.Int64N(int64(longest) + 1))
}
