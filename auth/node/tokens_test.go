package node

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"dongne/auth/realm"
)

var discard = slog.New(slog.DiscardHandler)

var mailer = Client{ID: "mailer", Secret: strings.Repeat("m", 32), Scope: []string{"introspect", "mail"}}

func withMailer(c *Config) { c.Clients = []Client{mailer} }

// TestClients: a client's token has the scope that it asked for, at most its own, and no session; the refusals of strangers
// do not fill the log.
func TestClients(t *testing.T) {
	s := open(t, withMailer)
	p, err := s.ForClient(t.Context(), "mailer", mailer.Secret, "mail", at(1))
	wantError(t, "a client", err, nil)
	claims, err := s.Verify(t.Context(), p.Access)
	if err != nil || claims.Subject != "mailer" || claims.Client != "mailer" || claims.Session != "" || p.Refresh != "" || len(claims.Scope) != 1 || !claims.Has("mail") {
		t.Errorf("a client's token: %+v, %v", claims, err)
	}
	_, err = s.ForClient(t.Context(), "mailer", mailer.Secret, "mail admin", at(1))
	wantError(t, "more than its scope", err, ErrScope)
	for _, wrong := range [][2]string{{"mailer", "x"}, {"mailer", ""}, {"", ""}, {"nobody", mailer.Secret}} {
		_, err = s.ForClient(t.Context(), wrong[0], wrong[1], "", at(1))
		wantError(t, fmt.Sprint(wrong), err, ErrClient)
	}
	before := s.slots()
	for range 1000 {
		_, err = s.Client(t.Context(), "mailer", "guess", at(1))
		wantError(t, "a guess", err, ErrClient)
	}
	if n := s.slots() - before; n > refusalsNotedMax {
		t.Errorf("1000 wrong secrets wrote %d slots", n)
	}
	wantError(t, "revoke", s.Revoke(t.Context(), p.Access, at(1)), nil)
	s.wantGood("revoked", p.Access, false)
}

// TestStrangersWriteNothing: what anybody can make up does not reach the log.
func TestStrangersWriteNothing(t *testing.T) {
	s := open(t, nil)
	p := s.logIn(ana)
	wantError(t, "log out", s.Revoke(t.Context(), p.Refresh, at(1)), nil)
	before := s.slots()
	for _, text := range []string{"", "x", p.Refresh, p.Access, realm.MakeToken(realm.FamilyKey{1}, realm.SessionID{2}, 1, [16]byte{3}).String()} {
		_, err := s.Refresh(t.Context(), text, at(1))
		wantError(t, "refresh "+text, err, ErrGrant)
		_, err = s.Exchange(t.Context(), text, at(1))
		wantError(t, "exchange "+text, err, ErrGrant)
		wantError(t, "revoke "+text, s.Revoke(t.Context(), text, at(1)), nil)
		got, err := s.Introspect(t.Context(), text)
		if err != nil || got.Active {
			t.Errorf("introspect %q: %+v, %v", text, got, err)
		}
	}
	if n := s.slots() - before; n != 0 {
		t.Errorf("it wrote %d slots", n)
	}
}

// TestIntrospection of an access token and a refresh token, as long as they count.
func TestIntrospection(t *testing.T) {
	s := open(t, withMailer)
	p := s.logIn("root")
	active := func(text string) Introspection {
		t.Helper()
		i, err := s.Introspect(t.Context(), text)
		wantError(t, "introspect", err, nil)
		return i
	}
	if i := active(p.Access); !i.Active || i.Username != "root" || i.Subject != "root" || i.Type != "Bearer" || i.Scope != "admin" || i.Session != p.Session ||
		i.Expires-i.Issued != 300 || i.Issuer != s.config.Issuer || i.ID == "" {
		t.Errorf("an access token: %+v", i)
	}
	if i := active(p.Refresh); !i.Active || i.Username != "root" || i.Type != "refresh_token" || i.Session != p.Session || i.Expires-i.Issued != 30*24*3600 {
		t.Errorf("a refresh token: %+v", i)
	}
	next, err := s.Refresh(t.Context(), p.Refresh, at(1))
	wantError(t, "refresh", err, nil)
	if active(p.Refresh).Active || !active(next.Refresh).Active || !active(p.Access).Active {
		t.Error("after a refresh: want the old refresh token alone to be over")
	}
	wantError(t, "revoke an access token", s.Revoke(t.Context(), p.Access, at(1)), nil)
	if active(p.Access).Active || !active(next.Access).Active || !active(next.Refresh).Active {
		t.Error("after one access token was revoked: want it alone to be over")
	}
	s.clock.advance(realm.AccessLife)
	if active(next.Access).Active || !active(next.Refresh).Active {
		t.Error("after five minutes: want the access token alone to be over")
	}
	wantError(t, "revoke a used refresh token", s.Revoke(t.Context(), p.Refresh, at(1)), nil)
	if active(next.Refresh).Active {
		t.Error("the session goes on")
	}
}

// TestClockSteps: when the clock is set, ahead and back, tokens that are given out from then on count by it, sessions go on,
// and nothing that was revoked counts again.
func TestClockSteps(t *testing.T) {
	s := open(t, nil)
	p, other, out, one := s.logIn(ana), s.logIn("bo"), s.logIn("bo"), s.logIn("bo")
	wantError(t, "log out", s.Revoke(t.Context(), out.Refresh, at(1)), nil)
	wantError(t, "revoke an access token", s.Revoke(t.Context(), one.Access, at(1)), nil)
	step := func(by time.Duration) {
		s.clock.advance(by)
		var err error
		p, err = s.Refresh(t.Context(), p.Refresh, at(1))
		wantError(t, fmt.Sprintf("refresh after a step of %v", by), err, nil)
		s.wantGood(fmt.Sprintf("refreshed after a step of %v", by), p.Access, true)
		s.wantGood("of a session that ended", out.Access, false)
		s.wantGood("revoked", one.Access, false)
		fresh := s.logIn(ana)
		s.wantGood("after a log-in", fresh.Access, true)
		wantError(t, "revoke it", s.Revoke(t.Context(), fresh.Access, at(1)), nil)
		s.wantGood("revoked at once", fresh.Access, false)
		fresh = s.logIn(ana)
		wantError(t, "log out", s.Revoke(t.Context(), fresh.Refresh, at(1)), nil)
		s.wantGood("logged out", fresh.Access, false)
	}
	for _, by := range []time.Duration{5 * time.Minute, -5 * time.Minute, -5 * time.Minute, 5 * time.Minute} {
		step(by)
	}
	s.wantGood("of before, as the clock is what it was", other.Access, true)
	s.close()
	s.reopen()
	s.wantGood("of before, after a restart", other.Access, true)
	s.wantGood("of a session that ended, after a restart", out.Access, false)
	s.wantGood("revoked, after a restart", one.Access, false)
	step(time.Hour)
	step(-time.Hour)
}

// importLegacy makes a token of the older system known.
func (s *setting) importLegacy(text, user string, expires time.Time) {
	s.t.Helper()
	_, err := s.Do(s.t.Context(), &realm.ImportLegacy{Tokens: []realm.LegacyToken{{Hash: realm.HashOf(text), User: user, Expires: expires.UnixMilli()}}, By: "root"})
	wantError(s.t, "import", err, nil)
}

// TestExchange: a token of the older system is exchanged once, though a retry gets the same; one that was revoked never is.
func TestExchange(t *testing.T) {
	s := open(t, nil)
	const old = "0123456789abcdef"
	s.importLegacy(old, ana, start.Add(24*time.Hour))
	first, err := s.Exchange(t.Context(), old, at(1))
	wantError(t, "exchange", err, nil)
	again, err := s.Exchange(t.Context(), old, at(1))
	if err != nil || again.Refresh != first.Refresh {
		t.Errorf("a retry: %v, or another refresh token", err)
	}
	s.clock.advance(realm.Grace)
	_, err = s.Exchange(t.Context(), old, at(1))
	wantRefused(t, "again", err, realm.LegacyExchanged)
	s.wantGood("what it was exchanged for", first.Access, true)
	_, err = s.Refresh(t.Context(), first.Refresh, at(1))
	wantError(t, "refresh", err, nil)
	_, err = s.Do(t.Context(), &realm.RevokeLegacy{Hash: realm.HashOf("dead"), Expires: start.Add(48 * time.Hour).UnixMilli(), By: "root"})
	wantError(t, "revoke", err, nil)
	s.importLegacy("dead", ana, start.Add(24*time.Hour))
	_, err = s.Exchange(t.Context(), "dead", at(1))
	wantRefused(t, "one that was revoked before it was imported", err, realm.LegacyRevoked)

	s.importLegacy("raced", ana, start.Add(24*time.Hour))
	var group sync.WaitGroup
	pairs := make([]Pair, 8)
	for i := range pairs {
		group.Go(func() {
			var err error
			pairs[i], err = s.Exchange(t.Context(), "raced", at(1))
			wantError(t, "exchange at once", err, nil)
		})
	}
	group.Wait()
	for _, p := range pairs {
		if p.Refresh != pairs[0].Refresh {
			t.Error("two sessions for one token")
		}
	}
}

// TestMigration moves sessions of the older system through all stages and back: nobody has to log in again.
func TestMigration(t *testing.T) {
	count := 100_000
	if testing.Short() {
		count = 3_000
	}
	s := open(t, nil)
	began := time.Now()
	old := func(i int) string { return fmt.Sprintf("legacy-%08x", i) }
	user := func(i int) string { return fmt.Sprint("m", i/2) } // each has two
	for i := 0; i < count; i += realm.RowsMax {
		q, users := &realm.ImportLegacy{By: "root"}, &realm.Seed{By: "root"}
		for j := i; j < min(count, i+realm.RowsMax); j++ {
			users.Users = append(users.Users, realm.SeedUser{User: user(j), Login: user(j)})
			q.Tokens = append(q.Tokens, realm.LegacyToken{Hash: realm.HashOf(old(j)), User: user(j), Expires: start.Add(30 * 24 * time.Hour).UnixMilli()})
		}
		if _, err := s.Do(t.Context(), users); err != nil {
			t.Fatal(err)
		}
		result, err := s.Do(t.Context(), q)
		if err != nil || result.Added != len(q.Tokens) {
			t.Fatalf("import: %+v, %v", result, err)
		}
	}
	t.Logf("import of %d: %v", count, time.Since(began).Round(time.Millisecond))
	pairs := make([]Pair, count)
	replay := func(stage realm.Stage, step int, ask func(i int) Credentials) {
		t.Helper()
		if _, err := s.Do(t.Context(), &realm.SetStage{Route: "chat", Stage: stage, By: "root"}); err != nil {
			t.Fatal(err)
		}
		began, out := time.Now(), 0
		for i := 0; i < count; i += step {
			v, err := s.Judge(t.Context(), "chat", ask(i))
			if err != nil || v.User != user(i) {
				if out++; out < 5 {
					t.Errorf("stage %v, session %d: %+v, %v", stage, i, v, err)
				}
			}
		}
		t.Logf("stage %v: %d forced log-outs, %v each", stage, out, time.Since(began)/time.Duration(count/step))
	}
	legacy := func(i int) Credentials { return Credentials{Legacy: old(i)} }
	bearer := func(i int) Credentials { return Credentials{Bearer: old(i)} }
	both := func(i int) Credentials { return Credentials{Legacy: old(i), Bearer: pairs[i].Access} }
	half := func(i int) Credentials { // those who came back have a new token
		if i%2 == 0 {
			return both(i)
		}
		return legacy(i)
	}
	replay(realm.StageLegacy, 1, legacy)
	replay(realm.StageLegacy, 1, bearer)
	replay(realm.StageShadow, 1, legacy)
	if c := s.Shadow(); c != (ShadowCounts{OnlyLegacy: uint64(count)}) {
		t.Errorf("shadow counts %+v before anybody has a new token", c)
	}
	exchange := func(from, step int) {
		t.Helper()
		began = time.Now()
		var group sync.WaitGroup
		for w := range 64 {
			group.Go(func() {
				for i := from + w*step; i < count; i += 64 * step {
					p, err := s.Exchange(t.Context(), old(i), at(1))
					if err != nil {
						t.Errorf("exchange %d: %v", i, err)
						return
					}
					pairs[i] = p
				}
			})
		}
		group.Wait()
		t.Logf("exchange of %d: %v", count/step, time.Since(began).Round(time.Millisecond))
	}
	exchange(0, 2)
	replay(realm.StageShadow, 1, both)
	if c := s.Shadow(); c.OtherUser != 0 || c.OnlyNew != 0 || c.Same != uint64(count+1)/2 {
		t.Errorf("shadow counts %+v, want %d the same", c, (count+1)/2)
	}
	replay(realm.StageDual, 1, half)
	exchange(1, 2)
	replay(realm.StageNew, 1, both)
	replay(realm.StageDual, 1, legacy) // back, at once
	replay(realm.StageLegacy, 1, legacy)
	s.close()
	s.reopen()
	replay(realm.StageNew, 10, both)
	_, err := s.Judge(t.Context(), "chat", legacy(0))
	wantError(t, "an old token alone, at the last stage", err, ErrNobody)
	s.check()
}
