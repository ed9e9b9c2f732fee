package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"dongne/auth/realm"
)

// TestRefreshReplay: a retry within ten seconds gets the same successor; later, or after the successor was used, it ends the
// session, with every token of it. A token that only looks like one ends nothing.
func TestRefreshReplay(t *testing.T) {
	s := open(t, nil)
	refresh := func(token string) (Pair, error) { return s.Refresh(t.Context(), token, at(1)) }
	must := func(token string) Pair {
		t.Helper()
		p, err := refresh(token)
		if err != nil {
			t.Fatal(err)
		}
		s.wantGood("a new one", p.Access, true)
		return p
	}
	first := s.logIn(ana)
	second := must(first.Refresh)
	s.clock.advance(9 * time.Second)
	if again := must(first.Refresh); again.Refresh != second.Refresh || again.Session != second.Session {
		t.Error("a retry got another successor")
	}
	forged, _ := realm.ParseToken(second.Refresh)
	forged[len(forged)-1] ^= 1
	_, err := refresh(forged.String())
	wantError(t, "a token whose tag is wrong", err, ErrGrant)
	third := must(second.Refresh) // within the grace of the first
	_, err = refresh(first.Refresh)
	wantError(t, "a token two generations old", err, ErrGrant)
	wantRefused(t, "a token two generations old", err, realm.Reuse)
	_, err = refresh(third.Refresh)
	wantError(t, "the successor after a reuse", err, ErrGrant)
	s.wantGood("after a reuse", third.Access, false)

	late := s.logIn(ana)
	next := must(late.Refresh)
	s.clock.advance(realm.Grace)
	_, err = refresh(late.Refresh)
	wantRefused(t, "the token before, after the grace", err, realm.Reuse)
	s.wantGood("after a late retry", next.Access, false)

	idle := s.logIn(ana)
	s.clock.advance(realm.IdleLife)
	_, err = refresh(idle.Refresh)
	wantRefused(t, "a session that was idle too long", err, realm.SessionExpired)
}

const (
	racers = 32 // sessions at a time, which share the log's slots
	races  = 100
)

// race runs rounds of a race on many sessions at a time, each with luck of its own.
func race(t *testing.T, round func(ctx context.Context, luck *rand.Rand) error) {
	t.Helper()
	const seed = 1
	t.Logf("seed %d, %d rounds", seed, racers*races)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var group sync.WaitGroup
	for i := range racers {
		group.Go(func() {
			luck := rand.New(rand.NewPCG(seed, uint64(i)))
			for n := range races {
				if err := round(ctx, luck); err != nil {
					cancel(fmt.Errorf("racer %d, round %d: %w", i, n, err))
					return
				}
			}
		})
	}
	group.Wait()
	if err := context.Cause(ctx); err != nil {
		t.Fatal(err)
	}
}

// session opens one for ana without a password, past the limit of sessions for one user.
func (s *setting) session(ctx context.Context) (Pair, error) {
	var version uint32
	s.read(func(st *realm.State) {
		u, _ := st.User(ana)
		version = u.Version
	})
	open, refresh := s.opening("", nil, at(1))
	result, err := s.do(ctx, &realm.LogIn{User: ana, Checked: version, Opening: open})
	if err != nil {
		return Pair{}, err
	}
	return s.pair(result, refresh)
}

// TestRefreshRaces: of several refreshes of one token at once all get the same successor, which is good, and there is no
// other.
func TestRefreshRaces(t *testing.T) {
	s := open(t, nil)
	race(t, func(ctx context.Context, luck *rand.Rand) error {
		p, err := s.session(ctx)
		if err != nil {
			return err
		}
		pairs, errs := make([]Pair, 2+luck.IntN(3)), make([]error, 5)
		var group sync.WaitGroup
		for i := range pairs {
			group.Go(func() { pairs[i], errs[i] = s.Refresh(ctx, p.Refresh, at(1)) })
		}
		group.Wait()
		for i := range pairs {
			if errs[i] != nil || pairs[i].Refresh != pairs[0].Refresh {
				return fmt.Errorf("%d refreshes at once: %q and %q, %w", len(pairs), pairs[0].Refresh, pairs[i].Refresh, errs[i])
			}
			if _, err := s.Verify(ctx, pairs[i].Access); err != nil {
				return err
			}
		}
		next, err := s.Refresh(ctx, pairs[0].Refresh, at(1))
		if err != nil {
			return fmt.Errorf("the successor of all: %w", err)
		}
		return s.Revoke(ctx, next.Refresh, at(1))
	})
	s.check()
}

// TestRefreshRevokeRaces: a refresh and the session's end at once, in either order: what is over stays over, and no
// successor lives on.
func TestRefreshRevokeRaces(t *testing.T) {
	s := open(t, nil)
	var mu sync.Mutex
	refreshed, refused := 0, 0
	race(t, func(ctx context.Context, luck *rand.Rand) error {
		p, err := s.session(ctx)
		if err != nil {
			return err
		}
		var next Pair
		var failed, ended error
		var group sync.WaitGroup
		refresh := func() { next, failed = s.Refresh(ctx, p.Refresh, at(1)) }
		end := func() { ended = s.Revoke(ctx, p.Refresh, at(1)) }
		both := []func(){refresh, end}
		luck.Shuffle(2, func(i, j int) { both[i], both[j] = both[j], both[i] })
		group.Go(both[0])
		group.Go(both[1])
		group.Wait()
		if ended != nil || failed != nil && !errors.Is(failed, ErrGrant) {
			return fmt.Errorf("end: %w, refresh: %w", ended, failed)
		}
		mu.Lock()
		if failed == nil {
			refreshed++
		} else {
			refused++
		}
		mu.Unlock()
		for _, pair := range []Pair{p, next} {
			if pair.Access == "" {
				continue
			}
			if _, err := s.Verify(ctx, pair.Access); err == nil {
				return errors.New("an access token of a session that has ended is good")
			}
			if _, err := s.Refresh(ctx, pair.Refresh, at(1)); !errors.Is(err, ErrGrant) {
				return fmt.Errorf("a refresh token of a session that has ended: %w", err)
			}
		}
		return nil
	})
	t.Logf("%d refreshed first, %d were refused", refreshed, refused)
	if refreshed == 0 || refused == 0 {
		t.Error("only one order happened")
	}
	s.check()
}

func (s *setting) check() {
	s.t.Helper()
	s.read(func(st *realm.State) {
		if err := st.Check(); err != nil {
			s.t.Error(err)
		}
	})
}

// TestRefreshAfterRestart: what was answered counts in the next process too: tokens, reuse, and the grace.
func TestRefreshAfterRestart(t *testing.T) {
	s := open(t, nil)
	p, gone, old := s.logIn(ana), s.logIn(ana), s.logIn("bo")
	next, err := s.Refresh(t.Context(), p.Refresh, at(1))
	wantError(t, "refresh", err, nil)
	wantError(t, "revoke", s.Revoke(t.Context(), gone.Refresh, at(1)), nil)
	mid, err := s.Refresh(t.Context(), old.Refresh, at(1))
	wantError(t, "refresh", err, nil)
	_, err = s.Refresh(t.Context(), mid.Refresh, at(1))
	wantError(t, "refresh", err, nil)
	s.close()
	s.reopen()
	s.wantGood("of the process before", next.Access, true)
	s.wantGood("revoked in the process before", gone.Access, false)
	again, err := s.Refresh(t.Context(), p.Refresh, at(1))
	if err != nil || again.Refresh != next.Refresh {
		t.Errorf("a retry in the next process: %v, or another successor", err)
	}
	_, err = s.Refresh(t.Context(), old.Refresh, at(1))
	wantRefused(t, "a token two generations old", err, realm.Reuse)
}
