package verify

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dongne/internal/token"
)

func TestVerify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		es, ed := newKey(t, token.ES256, 1), newKey(t, token.EdDSA, 2)
		v := start(t, newAuth(es, ed), Options{})
		for i, p := range []*token.Private{es, ed} {
			raw := mint(t, p, i, time.Now())
			for range 3 {
				c, err := v.Verify(raw)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(claimsOf(i, time.Now()), *c); diff != "" {
					t.Errorf("Verify mismatch (-want +got):\n%s", diff)
				}
			}
		}
		if got := []uint64{v.outcomes[cached].load(), v.outcomes[verified].load()}; !cmp.Equal(got, []uint64{4, 2}) {
			t.Errorf("%d cached and verified, want 4 and 2", got)
		}
		raw := mint(t, es, 3, time.Now())
		want(t, "changed", v, raw[:len(raw)-10]+"AAAAAAAAAA", token.ErrSignature)
		want(t, "before", v, raw, nil)
		want(t, "changed, with the right one known", v, raw[:len(raw)-10]+"AAAAAAAAAA", token.ErrSignature)
		want(t, "nothing", v, "", token.ErrMalformed)
		other := claimsOf(4, time.Now())
		other.Audience = []string{"elsewhere"}
		foreign, err := es.Sign(other)
		if err != nil {
			t.Fatal(err)
		}
		want(t, "for another audience", v, foreign, token.ErrAudience)
	})
}

// A remembered token ends at its exp, to the nanosecond, and so does its place in the cache.
func TestNeverPastExp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newKey(t, token.ES256, 1)
		v := start(t, newAuth(p), Options{})
		raw := mint(t, p, 0, time.Now())
		want(t, "new", v, raw, nil)
		pass(5*time.Minute - 1)
		want(t, "1 ns before exp", v, raw, nil)
		pass(1)
		want(t, "at exp", v, raw, token.ErrExpired)
		pass(sweepEvery)
		if n := v.cache.size(); n != 0 {
			t.Errorf("%d tokens are remembered after their end", n)
		}
		want(t, "after the sweep", v, raw, token.ErrExpired)
	})
}

func TestRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newKey(t, token.ES256, 1)
		a := newAuth(p)
		v := start(t, a, Options{})
		const n = 2000 // tokens, of 1,000 sessions
		raws := make([]string, n)
		for i := range raws {
			raws[i] = mint(t, p, i, time.Now())
			want(t, "before", v, raws[i], nil)
		}
		// The first 500 sessions by themselves, and of the others the tokens with an even number.
		ends := time.Now().Add(6 * time.Minute)
		for s := range n / 2 {
			if s < 500 {
				a.revoke(SessionRevoked, fmt.Sprintf("s_%d", s), ends)
			} else {
				a.revoke(TokenRevoked, fmt.Sprintf("t_%d", 2*s), ends)
			}
		}
		synctest.Wait()
		for i, raw := range raws {
			expected := ErrRevoked
			if i >= 1000 && i%2 == 1 {
				expected = nil
			}
			want(t, fmt.Sprintf("token %d", i), v, raw, expected)
		}
		want(t, "not seen before", v, mint(t, p, 0, time.Now().Add(time.Second)), ErrRevoked)
		if got := v.revoked.Load().count.Load(); got != n/2 {
			t.Errorf("%d revocations are kept, want %d", got, n/2)
		}
		// A session's id revokes no token with that jti, nor the other way round.
		a.revoke(SessionRevoked, "t_1999", ends)
		a.revoke(TokenRevoked, "s_999", ends)
		synctest.Wait()
		want(t, "same text, other kind", v, raws[1999], nil)
		pass(6*time.Minute + sweepEvery)
		if got := v.revoked.Load().count.Load(); got != 0 {
			t.Errorf("%d revocations are kept after their end", got)
		}
	})
}

// watched is a channel that closes once what c came with is revoked.
func watched(v *Verifier, c *token.Claims) (ended <-chan struct{}, stop func()) {
	closed := make(chan struct{})
	return closed, v.AfterRevoked(c, func() { close(closed) })
}

func TestAfterRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newKey(t, token.ES256, 1)
		a := newAuth(p)
		v := start(t, a, Options{})
		ended := func(c <-chan struct{}) bool {
			select {
			case <-c:
				return true
			default:
				return false
			}
		}
		claims := func(n int) *token.Claims { c := claimsOf(n, time.Now()); return &c }
		var watches []<-chan struct{}
		var stops []func()
		for n := range 6 { // sessions 0, 0, 1, 1, 2, 2
			c, stop := watched(v, claims(n))
			watches, stops = append(watches, c), append(stops, stop)
		}
		alone := claims(6)
		alone.Session = ""
		client, stop := watched(v, alone)
		watches, stops = append(watches, client), append(stops, stop)
		stops[5]()
		ends := time.Now().Add(6 * time.Minute)
		a.revoke(SessionRevoked, "s_0", ends)
		a.revoke(TokenRevoked, "t_2", ends)
		a.revoke(SessionRevoked, "s_0", ends) // again: nothing more can happen
		a.revoke(SessionRevoked, "s_2", ends)
		synctest.Wait()
		var got []bool
		for _, w := range watches {
			got = append(got, ended(w))
		}
		if diff := cmp.Diff([]bool{true, true, true, false, true, false, false}, got); diff != "" {
			t.Errorf("ended mismatch (-want +got):\n%s", diff)
		}
		late, stop := watched(v, claims(0))
		synctest.Wait()
		if !ended(late) {
			t.Error("a watch on what is revoked already does not end")
		}
		a.revoke(TokenRevoked, "t_6", ends)
		synctest.Wait()
		if !ended(client) {
			t.Error("a watch without a session does not end")
		}
		for _, stop := range append(stops, stop, stop) {
			stop()
		}
		if v.watches.size() != 0 || len(v.watches.by) != 0 {
			t.Errorf("%d watches on %d things are left", v.watches.size(), len(v.watches.by))
		}
	})
}

func TestReadyAndAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newKey(t, token.ES256, 1)
		a := newAuth(p)
		a.away = errAway
		v := start(t, a, Options{})
		if err := v.Ready(); !errors.Is(err, errAway) {
			t.Errorf("Ready while auth is away: %v", err)
		}
		if v.Age() != math.MaxInt64 {
			t.Errorf("Age before the first answer: %v", v.Age())
		}
		before := time.Now()
		want(t, "without keys", v, mint(t, p, 0, before), ErrUnavailable)
		if waited := time.Since(before); waited != waitMax {
			t.Errorf("Verify without keys waited %v, want %v", waited, waitMax)
		}
		a.change(func() { a.away, a.silent = nil, true })
		pass(5 * time.Second)
		want(t, "with keys", v, mint(t, p, 0, time.Now()), nil)
		if err := v.Ready(); err == nil || v.Age() != math.MaxInt64 {
			t.Errorf("with a feed that was never complete: Ready %v, Age %v", err, v.Age())
		}
		a.change(func() { a.silent = false })
		pass(time.Second)
		if err := v.Ready(); err != nil || v.Age() > time.Second {
			t.Errorf("with all there: Ready %v, Age %v", err, v.Age())
		}
		asked := v.connects.Load()
		pass(time.Hour)
		if n := v.connects.Load() - asked; n != 0 {
			t.Errorf("the feed was asked for %d times more, while it was alive", n)
		}
		for name, change := range map[string]func(){
			"away":  func() { a.away = errAway },
			"hangs": func() { a.hangs = true },
		} {
			a.change(change)
			pass(time.Hour)
			if v.Age() < time.Hour || v.Age() > time.Hour+2*time.Second {
				t.Errorf("auth %s for an hour: Age %v", name, v.Age())
			}
			if err := v.Ready(); err != nil {
				t.Errorf("auth %s for an hour: Ready %v", name, err)
			}
			want(t, name, v, mint(t, p, 1, time.Now()), nil)
			a.change(func() { a.away, a.hangs = nil, false })
			pass(feedPauseMax)
			if v.Age() > feedPauseMax {
				t.Errorf("auth is back: Age %v", v.Age())
			}
		}
	})
}

// Keys serve for a day without auth, and not for longer.
func TestAuthAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newKey(t, token.ES256, 1)
		a := newAuth(p)
		v := start(t, a, Options{})
		a.change(func() { a.away = errAway })
		fetches := a.fetched()
		for range 23 {
			pass(time.Hour)
			want(t, "auth is away", v, mint(t, p, 0, time.Now()), nil)
		}
		if tries := a.fetched() - fetches; tries > 23*3600/2 {
			t.Errorf("%d fetches in 23 hours while auth was away", tries)
		}
		pass(time.Hour + time.Second)
		want(t, "after a day", v, mint(t, p, 1, time.Now()), ErrUnavailable)
		a.change(func() { a.away = nil })
		pass(keysPauseMax)
		want(t, "auth is back", v, mint(t, p, 1, time.Now()), nil)
	})
}

func TestFetchTimes(t *testing.T) {
	for _, row := range []struct{ said, least, most time.Duration }{
		{0, 9 * time.Minute, 10 * time.Minute},
		{time.Hour, 9 * time.Minute, 10 * time.Minute},
		{time.Second, 27 * time.Second, 30 * time.Second},
		{-1, 27 * time.Second, 30 * time.Second},
		{2 * time.Minute, 108 * time.Second, 2 * time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := newAuth(newKey(t, token.ES256, 1))
			a.fresh = row.said
			start(t, a, Options{})
			pass(time.Hour)
			if a.fetched() < 6 {
				t.Errorf("fresh for %v: %d fetches in an hour", row.said, a.fetched())
			}
			for i := 1; i < a.fetched(); i++ {
				if d := a.fetches[i].Sub(a.fetches[i-1]); d < row.least || d > row.most {
					t.Errorf("fresh for %v: %v between fetches, want %v to %v", row.said, d, row.least, row.most)
				}
			}
		})
	}
}

// A new key works from its first token on, whoever comes first; a key that is gone takes its tokens with it.
func TestNewAndGoneKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newKey(t, token.ES256, 1), newKey(t, token.ES256, 2)
		a := newAuth(first)
		v := start(t, a, Options{})
		old := mint(t, first, 0, time.Now())
		want(t, "first key", v, old, nil)
		a.change(func() { a.keys = token.Set{first.Key(), second.Key()} })
		var all sync.WaitGroup
		for i := range 200 {
			all.Go(func() { want(t, "second key", v, mint(t, second, i, time.Now()), nil) })
		}
		all.Wait()
		if n := a.fetched(); n != 2 {
			t.Errorf("%d fetches for a start and a new key", n)
		}
		want(t, "first key, still there", v, old, nil)
		a.change(func() { a.keys = token.Set{second.Key()} })
		pass(keysFreshMax / 2)
		want(t, "first key, gone, not noticed yet", v, mint(t, first, 1, time.Now()), nil)
		pass(keysFreshMax / 2)
		want(t, "first key, gone", v, mint(t, first, 1, time.Now()), token.ErrUnknownKey)
	})
}

// A fetch that goes on may have begun before a key was there: then it takes a second one.
func TestKeyThatJustMissedAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newKey(t, token.ES256, 1), newKey(t, token.ES256, 2)
		a := newAuth(first)
		v := start(t, a, Options{})
		a.slow = 200 * time.Millisecond
		for a.fetched() < 2 {
			pass(time.Millisecond * 50)
		}
		a.change(func() { a.keys = append(a.keys, second.Key()) })
		began := time.Now()
		want(t, "second key", v, mint(t, second, 0, began), nil)
		if d := time.Since(began); d <= a.slow || d > 2*a.slow || a.fetched() != 3 {
			t.Errorf("it took %v and %d fetches, want up to %v and 3", d, a.fetched(), 2*a.slow)
		}
		// Who asks for a key that has come meanwhile waits for nothing and costs nothing.
		paid := v.keys.paid
		f, _, err := v.keys.ask(second.Key().ID)
		if err != nil {
			t.Fatal(err)
		}
		<-f.done
		if v.keys.paid != paid || v.keys.next != nil {
			t.Error("a key that is there is asked for")
		}
	})
}

// The set changes within the life of a remembered token.
func TestGoneKeyTakesItsTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newKey(t, token.ES256, 1), newKey(t, token.ES256, 2)
		a := newAuth(first, second)
		a.fresh = time.Minute
		v := start(t, a, Options{})
		one, two := mint(t, first, 0, time.Now()), mint(t, second, 2, time.Now())
		want(t, "first", v, one, nil)
		want(t, "second", v, two, nil)
		a.change(func() { a.keys = token.Set{second.Key()} })
		pass(time.Minute)
		want(t, "first, gone", v, one, token.ErrUnknownKey)
		want(t, "second", v, two, nil)
		if got := v.outcomes[verified].load(); got != 2 {
			t.Errorf("%d signatures were checked, want 2: a key that stayed keeps its tokens", got)
		}
		a.change(func() { a.keys = nil }) // no set at all is a failure, not a new set
		pass(2 * time.Minute)
		want(t, "second, of an empty set", v, two, nil)
		// Another key under the old kid is another key.
		forged := *newKey(t, token.ES256, 3).Key()
		forged.ID = second.Key().ID
		a.change(func() { a.keys = token.Set{&forged} })
		pass(time.Minute)
		want(t, "second, replaced", v, two, token.ErrSignature)
	})
}

// stranger is a token with a kid that does not exist.
func stranger(t *testing.T, n int, now time.Time) string {
	return mint(t, newKey(t, token.EdDSA, uint64(1_000_000+n)), n, now)
}

func TestUnknownKid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuth(newKey(t, token.ES256, 1))
		v := start(t, a, Options{})
		began := time.Now()
		for range 300 { // 30 s
			want(t, "stranger", v, stranger(t, 0, began), token.ErrUnknownKey)
			pass(100 * time.Millisecond)
		}
		if n := a.fetched(); n != 2 {
			t.Errorf("%d fetches, want one at the start and one for a kid in 30 s", n)
		}
		want(t, "stranger", v, stranger(t, 0, began), token.ErrUnknownKey)
		if n := a.fetched(); n != 3 {
			t.Errorf("%d fetches, want a third after 30 s", n)
		}
		pass(5 * time.Minute)
		want(t, "expired stranger", v, stranger(t, 1, began), token.ErrExpired)
		if n := a.fetched(); n != 3 {
			t.Errorf("%d fetches: an expired token is worth none", n)
		}
	})
}

// An attacker sends another kid each 100 ms for 5 minutes. Fetches stay few, and a key that appears in between still
// works within seconds.
func TestAttackersKids(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, fresh := newKey(t, token.ES256, 1), newKey(t, token.ES256, 2)
		a := newAuth(old)
		v := start(t, a, Options{})
		began := time.Now()
		var appeared, worked time.Time
		for n := range 3000 {
			_, err := v.Verify(stranger(t, n, time.Now()))
			if !errors.Is(err, token.ErrUnknownKey) && !errors.Is(err, ErrUnavailable) {
				t.Fatalf("stranger %d: %v", n, err)
			}
			if n == 1750 {
				a.change(func() { a.keys = append(a.keys, fresh.Key()) })
				appeared = time.Now()
			}
			if !appeared.IsZero() && worked.IsZero() {
				switch _, err := v.Verify(mint(t, fresh, n, time.Now())); {
				case err == nil:
					worked = time.Now()
				case !errors.Is(err, ErrUnavailable):
					t.Fatalf("a new key under attack: %v", err)
				}
			}
			if n%250 == 0 {
				want(t, "a known key", v, mint(t, old, n, time.Now()), nil)
			}
			pass(100 * time.Millisecond)
		}
		took := time.Since(began)
		most := 2 + demandBurst + int(took/demandEvery) + int(took/(9*time.Minute))
		if a.fetched() > most {
			t.Errorf("%d fetches in %v, want at most %d", a.fetched(), took, most)
		}
		if d := worked.Sub(appeared); worked.IsZero() || d > demandEvery {
			t.Errorf("a new key worked after %v, want at most %v", d, demandEvery)
		}
		t.Logf("%d fetches in %v; a new key worked after %v", a.fetched(), took, worked.Sub(appeared))
		if n := len(v.keys.strangers); n > strangersMax {
			t.Errorf("%d strangers are remembered", n)
		}
	})
}

func TestStrangersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeyring(newAuth(), nil)
		for range 3 {
			for n := range 2 * strangersMax {
				k.remember(fmt.Sprintf("%d %v", n, time.Now()))
			}
			if len(k.strangers) != strangersMax {
				t.Errorf("%d strangers are remembered, want %d", len(k.strangers), strangersMax)
			}
			pass(strangerLasts)
		}
	})
}

// While auth hangs, a token with an unknown key waits 1 s, and not more than 256 wait.
func TestWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newKey(t, token.ES256, 1)
		a := newAuth(p)
		v := start(t, a, Options{})
		a.change(func() { a.hangs = true })
		began := time.Now()
		var mu sync.Mutex
		waited := map[time.Duration]int{}
		var all sync.WaitGroup
		for n := range waitersMax + 44 {
			raw := stranger(t, n, began)
			all.Go(func() {
				_, err := v.Verify(raw)
				if !errors.Is(err, ErrUnavailable) {
					t.Errorf("Verify = %v, want ErrUnavailable", err)
				}
				mu.Lock()
				waited[time.Since(began)]++
				mu.Unlock()
			})
		}
		want(t, "a known key meanwhile", v, mint(t, p, 0, began), nil)
		all.Wait()
		if diff := cmp.Diff(map[time.Duration]int{0: 44, waitMax: waitersMax}, waited); diff != "" {
			t.Errorf("tokens by time waited mismatch (-want +got):\n%s", diff)
		}
		a.change(func() { a.hangs = false })
		pass(keysPauseMax)
		want(t, "auth is back", v, stranger(t, 0, began), token.ErrUnknownKey)
		if v.keys.waiters != 0 {
			t.Errorf("%d waiters are left", v.keys.waiters)
		}
	})
}

// rotate lets 4 callers verify, each 30 tokens every 10 s, while keys change 20 times, each published ahead of its
// use by ahead and retired a token's life after, less early. It returns how many good tokens were refused.
func rotate(t *testing.T, ahead, early time.Duration) (failures int) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuth(newKey(t, token.ES256, 0))
		a.fresh = time.Minute
		v := start(t, a, Options{})
		var mu sync.Mutex
		signer, stop := newKey(t, token.ES256, 0), make(chan struct{})
		var all sync.WaitGroup
		for n := range 4 {
			all.Go(func() {
				rng := rand.New(rand.NewPCG(7, uint64(n)))
				var raws []string
				for {
					mu.Lock()
					p := signer
					mu.Unlock()
					raws = append(raws, mint(t, p, n, time.Now()))
					raws = raws[max(len(raws)-29, 0):] // each good for 290 s when it is used last
					for _, raw := range raws {
						if _, err := v.Verify(raw); err != nil {
							mu.Lock()
							failures++
							mu.Unlock()
						}
					}
					select {
					case <-time.After(9*time.Second + time.Duration(rng.Int64N(int64(time.Second)))):
					case <-stop:
						return
					}
				}
			})
		}
		for n := range 20 {
			old, next := a.keys[len(a.keys)-1], newKey(t, token.ES256, uint64(n+1))
			a.change(func() { a.keys = append(a.keys, next.Key()) })
			pass(ahead)
			mu.Lock()
			signer = next
			mu.Unlock()
			pass(5*time.Minute - early)
			a.change(func() { a.keys = a.keys[1:] })
			if a.keys.Find(old.ID) != nil {
				t.Errorf("the old key is still there")
			}
			pass(time.Minute)
		}
		close(stop)
		all.Wait()
	})
	return failures
}

func TestRotation(t *testing.T) {
	if n := rotate(t, time.Minute, 0); n != 0 {
		t.Errorf("%d failures with keys published one cache time ahead", n)
	}
	if n := rotate(t, 0, 0); n != 0 {
		t.Errorf("%d failures with keys used at once", n)
	}
	if n := rotate(t, time.Minute, 4*time.Minute); n == 0 {
		t.Error("no failures with keys retired before their tokens: then this test sees nothing")
	}
}

// TestHistories covers what the feed may do to the sequence.
func TestHistories(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newKey(t, token.ES256, 1)
		a := newAuth(p)
		v := start(t, a, Options{})
		raw := func(n int) string { return mint(t, p, 2*n, time.Now()) }
		ends := func() time.Time { return time.Now().Add(time.Hour) }
		for n := range 5 {
			a.revoke(SessionRevoked, fmt.Sprintf("s_%d", n), ends())
		}
		synctest.Wait()
		if v.position != 5 {
			t.Errorf("position %d, want 5", v.position)
		}
		// A broken connection: what came meanwhile is caught up, and nothing is forgotten.
		a.change(func() { a.away = errAway })
		pass(2 * time.Second)
		a.revoke(SessionRevoked, "s_5", ends())
		a.change(func() { a.away = nil })
		pass(feedPauseMax)
		for n := range 6 {
			want(t, fmt.Sprintf("session %d after the break", n), v, raw(n), ErrRevoked)
		}
		// auth comes back with an older history, and breaks off before it is told in full: nothing is forgotten.
		a.change(func() {
			a.away, a.silent = errAway, true
			a.items, a.seq = []Event{{SessionRevoked, 1, "s_9", ends()}}, 1
		})
		pass(2 * time.Second)
		age := v.Age()
		a.change(func() { a.away = nil })
		pass(3 * time.Second)
		if v.Age() < age+3*time.Second {
			t.Errorf("Age %v while the feed is not complete, after %v", v.Age(), age)
		}
		if v.position != 6 {
			t.Errorf("position %d in the middle of a reset, want still 6", v.position)
		}
		for _, n := range []int{0, 5, 9} {
			want(t, fmt.Sprintf("session %d in the middle of a reset", n), v, raw(n), ErrRevoked)
		}
		// Now in full: what it does not know is forgotten.
		a.change(func() { a.silent = false })
		pass(time.Second)
		want(t, "session 9", v, raw(9), ErrRevoked)
		want(t, "session 0, which is not of this history", v, raw(0), nil)
		if v.position != 1 || v.revoked.Load().count.Load() != 1 {
			t.Errorf("position %d with %d revocations, want 1 and 1", v.position, v.revoked.Load().count.Load())
		}
		// A feed that goes back without saying so is asked again from the start.
		a.revoke(SessionRevoked, "s_10", ends())
		a.revoke(SessionRevoked, "s_11", ends())
		synctest.Wait()
		a.change(func() { a.items, a.seq = []Event{{SessionRevoked, 1, "s_20", ends()}}, 1 })
		pass(time.Second)
		if v.position != 1 || v.Age() > time.Second {
			t.Errorf("position %d, Age %v after a feed went back", v.position, v.Age())
		}
		for _, n := range []int{9, 10, 20} { // what is not of this history ends by itself
			want(t, fmt.Sprintf("session %d after a feed went back", n), v, raw(n), ErrRevoked)
		}
	})
}

func TestTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := start(t, newAuth(newKey(t, token.ES256, 1)), Options{})
		v.Close()
		if _, err := v.take(Event{Kind: 99}, nil); err == nil {
			t.Error("an event of no kind is taken")
		}
		ends := time.Now().Add(time.Hour)
		fresh, err := v.take(Event{Kind: Reset}, nil)
		if err == nil {
			fresh, err = v.take(Event{TokenRevoked, 9, "t_0", ends}, fresh)
		}
		if err != nil || v.position != 0 {
			t.Errorf("position %d behind a Reset that is not complete, want 0: %v", v.position, err)
		}
		if _, err := v.take(Event{Kind: Alive, Seq: 9}, fresh); err != nil || v.position != 9 {
			t.Errorf("position %d after it, want 9: %v", v.position, err)
		}
		v.position = 0
		for n := range revocationsMax {
			if _, err := v.take(Event{TokenRevoked, uint64(n + 1), fmt.Sprintf("t_%d", n), ends}, nil); err != nil {
				t.Fatalf("revocation %d: %v", n, err)
			}
		}
		before := v.position
		_, err = v.take(Event{TokenRevoked, revocationsMax + 1, "one more", ends}, nil)
		if err == nil || v.position != before {
			t.Errorf("one revocation too many: %v, position %d after %d", err, v.position, before)
		}
		if _, err := v.take(Event{TokenRevoked, revocationsMax + 1, "t_0", ends}, nil); err != nil {
			t.Errorf("one that is known already: %v", err)
		}
		<-time.After(30 * time.Minute)
		if _, err := v.take(Event{TokenRevoked, 1, "t_1", ends.Add(-time.Hour)}, nil); err != nil {
			t.Errorf("one with an earlier end: %v", err)
		}
		v.revoked.Load().sweep(time.Now())
		<-time.After(7 * time.Minute)
		v.revoked.Load().sweep(time.Now())
		if n := v.revoked.Load().count.Load(); n != revocationsMax {
			t.Errorf("%d revocations are kept before their end, want %d", n, revocationsMax)
		}
		<-time.After(23 * time.Minute)
		v.revoked.Load().sweep(time.Now())
		if _, err := v.take(Event{TokenRevoked, revocationsMax + 1, "one more", ends}, nil); err != nil {
			t.Errorf("after the others ended: %v", err)
		}
	})
}

// clock is the wall time, which can be set; it has no monotonic part.
type clock struct {
	mu   sync.Mutex
	step time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Round(0).Add(c.step)
}

func (c *clock) set(step time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.step = step
}

func TestClockSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newKey(t, token.ES256, 1)
		a := newAuth(p)
		var c clock
		v := start(t, a, Options{Now: c.now})
		good, bad := mint(t, p, 0, time.Now()), mint(t, p, 2, time.Now())
		want(t, "good", v, good, nil)
		want(t, "bad", v, bad, nil)
		a.revoke(SessionRevoked, "s_1", time.Now().Add(6*time.Minute))
		pass(time.Minute)
		for _, row := range []struct {
			step time.Duration
			want error
		}{
			{0, nil}, {5 * time.Minute, token.ErrExpired}, {-5 * time.Minute, token.ErrNotYet},
			{3 * time.Minute, nil}, {-2 * time.Minute, nil}, {24 * time.Hour, token.ErrExpired}, {0, nil},
		} {
			c.set(row.step)
			pass(10 * time.Second)
			want(t, fmt.Sprintf("known token, clock at %v", row.step), v, good, row.want)
			if _, err := v.Verify(bad); err == nil {
				t.Errorf("revoked token, clock at %v: it is good", row.step)
			}
			if v.Age() > 2*time.Second {
				t.Errorf("clock at %v: Age %v", row.step, v.Age())
			}
		}
		// Sweeps in the future forget tokens, which is no harm, but not revocations.
		c.set(time.Hour)
		pass(sweepEvery)
		c.set(0)
		want(t, "good, after a sweep in the future", v, good, nil)
		want(t, "bad, after a sweep in the future", v, bad, ErrRevoked)
		c.set(-5 * time.Minute)
		want(t, "a new token", v, mint(t, p, 0, time.Now()), token.ErrNotYet)
		c.set(-time.Minute)
		want(t, "a new token, within skew", v, mint(t, p, 0, time.Now()), nil)
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newKey(t, token.ES256, 1)
		v := start(t, newAuth(p), Options{})
		v.Close()
		v.Close()
		want(t, "known key", v, mint(t, p, 0, time.Now()), nil)
		before := time.Now()
		want(t, "unknown key", v, stranger(t, 0, time.Now()), ErrUnavailable)
		if time.Since(before) != 0 {
			t.Errorf("Verify waited %v for what cannot come", time.Since(before))
		}
	})
}

// Tokens, revocations, watches and keys at once; for the race detector.
func TestConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newKey(t, token.EdDSA, 1)
		a := newAuth(p)
		v := start(t, a, Options{Tokens: 16})
		raws := make([]string, 64)
		for i := range raws {
			raws[i] = mint(t, p, i, time.Now())
		}
		var all sync.WaitGroup
		for g := range 4 {
			all.Go(func() {
				rng := rand.New(rand.NewPCG(3, uint64(g)))
				for range 500 {
					n := rng.IntN(len(raws))
					c, err := v.Verify(raws[n])
					switch {
					case err == nil && c.ID != fmt.Sprintf("t_%d", n):
						t.Errorf("token %d has the claims of %s", n, c.ID)
					case err != nil && !errors.Is(err, ErrRevoked):
						t.Errorf("token %d: %v", n, err)
					case err == nil:
						_, stop := watched(v, c)
						stop()
					}
				}
			})
		}
		for n := range 16 {
			a.revoke(SessionRevoked, fmt.Sprintf("s_%d", n), time.Now().Add(6*time.Minute))
		}
		v.Metrics(&bytes.Buffer{})
		all.Wait()
		synctest.Wait()
		for n, raw := range raws {
			expected := ErrRevoked
			if n >= 32 {
				expected = nil
			}
			want(t, fmt.Sprintf("token %d", n), v, raw, expected)
		}
	})
}

// Two tokens with one hash stay two, a full bucket gives up what expires first, and the table never grows.
func TestCache(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	make1 := func(n int, hash uint64, expires time.Duration) *entry {
		c := claimsOf(n, now)
		c.Expires = now.Add(expires)
		return newEntry(fmt.Sprintf("raw %d", n), hash, &c, nil)
	}
	c := newCache(waysMax)
	for n := range waysMax {
		c.put(make1(n, 42, time.Duration(10+n)*time.Minute))
		c.put(make1(n, 42, time.Duration(10+n)*time.Minute)) // again: in its own place
	}
	for n := range waysMax {
		if e := c.find(42, fmt.Sprintf("raw %d", n)); e == nil || e.claims.ID != fmt.Sprintf("t_%d", n) {
			t.Errorf("find(raw %d) = %v", n, e)
		}
	}
	if e := c.find(42, "raw 99"); e != nil {
		t.Errorf("find finds %v for another text with the same hash", e)
	}
	if e := c.find(43, "raw 0"); e != nil {
		t.Errorf("find finds %v under another hash", e)
	}
	c.put(make1(100, 7, time.Hour))
	if c.find(42, "raw 0") != nil || c.find(42, "raw 1") == nil || c.find(7, "raw 100") == nil {
		t.Error("a full bucket gave up another token than the one that expires first")
	}
	c.sweep(now.Add(12 * time.Minute))
	if c.find(42, "raw 2") != nil || c.find(42, "raw 3") == nil || c.size() != waysMax-2 {
		t.Errorf("sweep left %d entries, want %d", c.size(), waysMax-2)
	}
	for _, row := range [][2]int{{0, 8}, {1, 8}, {8, 8}, {9, 16}, {17, 32}, {65536, 65536}, {65537, 131072}} {
		if got := waysMax * len(newCache(row[0]).buckets); got != row[1] {
			t.Errorf("newCache(%d) has room for %d, want %d", row[0], got, row[1])
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newKey(t, token.EdDSA, 1)
		v := start(t, newAuth(p), Options{Tokens: 64})
		for n := range 1000 {
			want(t, "token", v, mint(t, p, n, time.Now()), nil)
		}
		if n := v.cache.size(); n > 64 || n < 32 {
			t.Errorf("%d tokens are remembered, want at most 64 and most of them", n)
		}
		long := claimsOf(0, time.Now())
		long.Groups = []string{strings.Repeat("g", 500), strings.Repeat("h", 500), strings.Repeat("i", 500)}
		raw, err := p.Sign(long)
		if err != nil {
			t.Fatal(err)
		}
		before := v.outcomes[verified].load()
		want(t, "long", v, raw, nil)
		want(t, "long", v, raw, nil)
		if got := v.outcomes[verified].load() - before; got != 2 {
			t.Errorf("a token of %d bytes was checked %d times of 2", len(raw), got)
		}
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newKey(t, token.ES256, 1)
		a := newAuth(p)
		a.silent = true
		v := start(t, a, Options{})
		show := func() string { var b bytes.Buffer; v.Metrics(&b); return b.String() }
		if text := show(); !strings.Contains(text, "\ntoken_revocations_age_seconds +Inf\n") {
			t.Errorf("no infinite age in\n%s", text)
		}
		a.change(func() { a.silent = false })
		raw := mint(t, p, 0, time.Now())
		want(t, "good", v, raw, nil)
		want(t, "good", v, raw, nil)
		want(t, "stranger", v, stranger(t, 0, time.Now()), token.ErrUnknownKey)
		a.revoke(SessionRevoked, "s_0", time.Now().Add(time.Minute))
		synctest.Wait()
		want(t, "revoked", v, raw, ErrRevoked)
		text := show()
		for _, line := range []string{
			`token_verifications_total{outcome="cached"} 1`, `token_verifications_total{outcome="verified"} 1`,
			`token_verifications_total{outcome="refused"} 1`, `token_verifications_total{outcome="revoked"} 1`,
			`token_verifications_total{outcome="unavailable"} 0`, `token_key_fetches_total{outcome="ok"} 2`,
			`token_key_fetches_total{outcome="failed"} 0`, `token_cache_entries 1`, `token_keys 1`, `token_keys_age_seconds 0`,
			`token_revocations 1`, `token_revocations_age_seconds 0`, `token_revocations_asks_total 1`, `token_watches 0`,
		} {
			if !strings.Contains(text, "\n"+line+"\n") {
				t.Errorf("no line %q in\n%s", line, text)
			}
		}
		form := regexp.MustCompile(`^(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{[a-z]+="[a-z]+"\})? (\d+(\.\d+)?|\+Inf))$`)
		for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
			if !form.MatchString(line) {
				t.Errorf("line %q is not of the text format", line)
			}
		}
	})
}

func TestPauses(t *testing.T) {
	p := &pauses{rng: rand.New(rand.NewPCG(1, 1))}
	for tries := range 100 {
		ceiling := 5 * time.Second
		if tries < 6 {
			ceiling = min(ceiling, pauseMin<<tries)
		}
		if d := p.after(tries, 5*time.Second); d < ceiling/2 || d > ceiling {
			t.Errorf("pause %d is %v, want %v to %v", tries, d, ceiling/2, ceiling)
		}
	}
}

// A remembered token costs no allocation.
func TestNoAllocation(t *testing.T) {
	p := newKey(t, token.ES256, 1)
	v := benchVerifier(t, p)
	raw := mint(t, p, 0, time.Now())
	v.revoked.Load().add(sessionID("other"), time.Now().Add(time.Hour)) // so that there is a set to look into
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := v.Verify(raw); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Verify of a known token makes %v allocations", n)
	}
}

// benchVerifier is a verifier on real time that is ready.
func benchVerifier(t testing.TB, p *token.Private) *Verifier {
	t.Helper()
	v := Start(t.Context(), newAuth(p), Options{Audience: "dongne"})
	t.Cleanup(v.Close)
	eventually(t, "ready", func() bool { return v.Ready() == nil })
	return v
}

// eventually polls until ok, for at most 10 s.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not %s after 10 s", what)
		}
	}
}

func benchmarkCached(b *testing.B, run func(v *Verifier, raws []string)) {
	p := newKey(b, token.ES256, 1)
	v := benchVerifier(b, p)
	raws := make([]string, 1024)
	for i := range raws {
		raws[i] = mint(b, p, i, time.Now())
		if _, err := v.Verify(raws[i]); err != nil {
			b.Fatal(err)
		}
	}
	for n := range 1000 {
		v.revoked.Load().add(sessionID(fmt.Sprintf("other %d", n)), time.Now().Add(time.Hour))
	}
	b.ReportAllocs()
	b.ResetTimer()
	run(v, raws)
}

// With 1,024 tokens in turn and 1,000 revocations.
func BenchmarkVerifyCached(b *testing.B) {
	benchmarkCached(b, func(v *Verifier, raws []string) {
		for i := 0; b.Loop(); i++ {
			if _, err := v.Verify(raws[i%len(raws)]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkVerifyCachedParallel(b *testing.B) {
	benchmarkCached(b, func(v *Verifier, raws []string) {
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				if _, err := v.Verify(raws[i%len(raws)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

// What a token costs when it is seen first.
func BenchmarkVerifyUncached(b *testing.B) {
	p := newKey(b, token.ES256, 1)
	v := benchVerifier(b, p)
	raw := mint(b, p, 0, time.Now())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.check(raw, 0); err != nil {
			b.Fatal(err)
		}
	}
}
