package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/auth/password"
	"dongne/auth/realm"
	"dongne/internal/token"
)

// TestSignUp: whether a login was free is not told, neither by the answer nor by what is done for it; what cannot be is.
func TestSignUp(t *testing.T) {
	s := open(t, func(c *Config) {
		c.Clients = []Client{{ID: "mailer", Secret: strings.Repeat("m", 32), Scope: []string{"introspect"}}}
	})
	for i, test := range []struct {
		q    SignUp
		code string
	}{
		{SignUp{Login: "New", Password: passes, Name: "새 이웃", Email: "new+x@example.co.kr"}, ""},
		{SignUp{Login: "new", Password: other}, ""},
		{SignUp{Login: ana, Password: other}, ""},
		{SignUp{Login: "mail@example.com", Password: passes}, ""},
		{SignUp{Login: "mailer", Password: passes}, ""},
		{SignUp{Login: "a b", Password: passes}, "login-invalid"},
		{SignUp{Login: "", Password: passes}, "login-invalid"},
		{SignUp{Login: strings.Repeat("a", 65), Password: passes}, "login-invalid"},
		{SignUp{Login: "k", Password: "fourteen chars"}, password.CodeShort},
		{SignUp{Login: "k", Password: strings.Repeat("a long one ", 100)}, password.CodeLong},
		{SignUp{Login: "k", Password: strings.Repeat("x", 1<<20)}, password.CodeLong},
		{SignUp{Login: "k", Password: "passwordpassword"}, password.CodeCommon},
		{SignUp{Login: "minji", Password: "my name is minji"}, password.CodeLogin},
		{SignUp{Login: "k", Password: passes, Name: "a\nb"}, "name-invalid"},
		{SignUp{Login: "k", Password: passes, Name: strings.Repeat("n", 129)}, "name-invalid"},
		{SignUp{Login: "k", Password: passes, Email: "k"}, "email-invalid"},
		{SignUp{Login: "k", Password: passes, Email: "k@example.com, x@example.com"}, "email-invalid"},
		{SignUp{Login: "k", Password: passes, Email: "k@"}, "email-invalid"},
		{SignUp{Login: "k", Password: passes, Email: strings.Repeat("k", 60) + "@" + strings.Repeat("e", 200)}, "email-invalid"},
	} {
		before := s.slots()
		err := s.SignUp(t.Context(), test.q, at(i))
		var weak *password.Weak
		if errors.As(err, &weak); (err == nil) != (test.code == "") || weak != nil && weak.Code != test.code {
			t.Errorf("sign-up %d: %v, want %q", i, err, test.code)
		}
		if n := s.slots() - before; test.code == "" && n != 1 || test.code != "" && n != 0 {
			t.Errorf("sign-up %d wrote %d slots", i, n)
		}
	}
	if id := s.logIn("new").User; id != "new" {
		t.Errorf("new has the id %q", id)
	}
	for _, login := range []string{"mail@example.com", "mailer"} {
		if id := s.logIn(login).User; !strings.HasPrefix(id, "u_") {
			t.Errorf("%s has the id %q", login, id)
		}
	}
	if _, err := s.LogIn(t.Context(), LogIn{Login: ana, Password: other}, at(2)); !errors.Is(err, ErrCredentials) {
		t.Errorf("a sign-up changed a password: %v", err)
	}
}

// TestLogInRefused: a wrong password, an unknown login, a disabled user and what cannot be a login are one to the client and
// cost the same: one hash and one entry of the log; and what was sent is not in the audit trail.
func TestLogInRefused(t *testing.T) {
	s := open(t, nil)
	_, err := s.Do(t.Context(), &realm.SetDisabled{User: "bo", Disabled: true, By: "root"})
	wantError(t, "disable", err, nil)
	for i, q := range []LogIn{{Login: ana, Password: other}, {Login: "nobody", Password: passes}, {Login: "bo", Password: passes}, {Login: "bo", Password: other},
		{Login: ana, Password: strings.Repeat("x", 1<<20)}, {Login: ana}, {Login: passes, Password: passes}, {Login: strings.Repeat("ㅋ", 100_000), Password: passes}, {}} {
		before := s.slots()
		_, err := s.LogIn(t.Context(), q, at(100+i))
		wantError(t, fmt.Sprint("log-in ", i), err, ErrCredentials)
		if err == nil || err.Error() != ErrCredentials.Error() {
			t.Errorf("log-in %d says %v", i, err)
		}
		if n := s.slots() - before; n != 1 {
			t.Errorf("log-in %d wrote %d slots", i, n)
		}
	}
	var events []realm.Event
	s.read(func(st *realm.State) { events = st.Events(0, realm.Filter{}, 1000) })
	if len(events) < 9 {
		t.Errorf("%d events", len(events))
	}
	for _, e := range events {
		if text := fmt.Sprintf("%+v", e); strings.Contains(text, "heron") || strings.Contains(text, "magpie") || strings.Contains(text, "nobody") {
			t.Errorf("the audit trail has what was typed: %s", text)
		}
	}
}

// TestLogInTime measures, and logs, the time of log-ins of a user that there is and of one that there is not, interleaved.
// What decides it is that both do the same, which TestLogInRefused and package password's tests count. Time itself is judged
// by the fastest of each, and roughly, as others use the machine too.
func TestLogInTime(t *testing.T) {
	s := open(t, func(c *Config) { c.Hasher.Rounds = 20_000 })
	const times = 60
	known, unknown := make([]time.Duration, times), make([]time.Duration, times)
	measure := func(login string, n int) time.Duration {
		began := time.Now()
		_, err := s.LogIn(t.Context(), LogIn{Login: login, Password: other}, at(n))
		wantError(t, login, err, ErrCredentials)
		return time.Since(began)
	}
	var ratio float64
	for try := range 5 {
		for i := range times {
			s.clock.advance(time.Hour) // so that nobody has to wait
			known[i], unknown[i] = measure(ana, 1000+2*i), measure("nobody", 1001+2*i)
		}
		slices.Sort(known)
		slices.Sort(unknown)
		ratio = float64(known[0]) / float64(unknown[0])
		t.Logf("try %d, medians of %d: known %v, unknown %v, ratio %.4f; of the fastest %.4f", try, times, known[times/2], unknown[times/2],
			float64(known[times/2])/float64(unknown[times/2]), ratio)
		if 0.8 < ratio && ratio < 1.25 {
			return
		}
	}
	t.Errorf("the time of a log-in tells whether there is such a user: ratio %.4f", ratio)
}

// TestPasswordChange ends the other sessions and the tokens of the older system, needs the password, and loses to another one
// at the same time.
func TestPasswordChange(t *testing.T) {
	s := open(t, nil)
	p, elsewhere := s.logIn(ana), s.logIn(ana)
	session, _ := realm.ParseSession(p.Session)
	s.importLegacy("an old session", ana, start.Add(time.Hour))
	change := func(before, after string) error {
		return s.SetPassword(t.Context(), ana, before, after, session, at(1))
	}
	wantError(t, "with a wrong password", change(other, "six white swans rest"), ErrCredentials)
	var weak *password.Weak
	if err := change(passes, "short"); !errors.As(err, &weak) || weak.Field != "new_password" {
		t.Errorf("to a short one: %v", err)
	}
	wantError(t, "change", change(passes, other), nil)
	s.wantGood("the session that changed it", p.Access, true)
	s.wantGood("another session", elsewhere.Access, false)
	_, err := s.Refresh(t.Context(), elsewhere.Refresh, at(1))
	wantError(t, "another session's refresh", err, ErrGrant)
	_, err = s.Exchange(t.Context(), "an old session", at(1))
	wantError(t, "a token of the older system", err, ErrGrant)
	_, err = s.LogIn(t.Context(), LogIn{Login: ana, Password: passes}, at(1))
	wantError(t, "the password of before", err, ErrCredentials)
	results := make(chan error)
	for i := range 8 {
		go func() {
			results <- s.SetPassword(t.Context(), ana, other, fmt.Sprintf("%d more birds by the lake", i), session, at(1))
		}()
	}
	done := 0
	for range 8 {
		err := <-results
		var refused *Refused
		switch {
		case err == nil:
			done++
		case errors.As(err, &refused) && refused.Code == realm.Stale, errors.Is(err, ErrCredentials):
		default:
			t.Errorf("one of many changes: %v", err)
		}
	}
	if done != 1 {
		t.Errorf("%d of 8 changes from one password were done", done)
	}
}

// TestSecondFactor: enrolment, log-ins with codes and recovery codes, each once, short passwords, removal.
func TestSecondFactor(t *testing.T) {
	s := open(t, nil)
	logIn := func(code string) error {
		_, err := s.LogIn(t.Context(), LogIn{Login: ana, Password: passes, Code: code}, at(1))
		return err
	}
	_, err := s.Enrol(t.Context(), ana, other, at(1))
	wantError(t, "to enrol with a wrong password", err, ErrCredentials)
	_, err = s.Confirm(t.Context(), ana, "123456", at(1))
	wantRefused(t, "to confirm nothing", err, realm.NotPending)
	wantRefused(t, "to remove nothing", s.Unenrol(t.Context(), ana, passes, at(1)), realm.NotPending)
	_, err = s.Enrol(t.Context(), ana, passes, at(1))
	wantError(t, "enrol", err, nil)
	wantError(t, "before it is confirmed", logIn(""), nil)
	_, err = s.Confirm(t.Context(), ana, "000000", at(1))
	wantError(t, "to confirm with a wrong code", err, ErrFactor)
	secret, codes := s.enrolled(ana)

	wantError(t, "without a code", logIn(""), ErrFactorNeeded)
	wantError(t, "the code that confirmed it", logIn(s.code(secret)), ErrFactor)
	s.clock.advance(30 * time.Second)
	wantError(t, "with a code", logIn(s.code(secret)), nil)
	wantError(t, "with the same code", logIn(s.code(secret)), ErrFactor)
	wantError(t, "with a recovery code", logIn(codes[3]), nil)
	wantError(t, "with the same recovery code", logIn(codes[3]), ErrFactor)
	wantError(t, "with no code of anybody's", logIn("aaaa-bbbb"), ErrFactor)

	s.clock.advance(time.Hour)
	for _, code := range []string{s.code(secret), codes[4]} { // at the same time, each counts once
		results := make(chan error)
		for range 4 {
			go func() { results <- logIn(code) }()
		}
		done := 0
		for range 4 {
			if err := <-results; err == nil {
				done++
			} else if !errors.Is(err, ErrFactor) {
				t.Errorf("one of many log-ins with a code: %v", err)
			}
		}
		if done != 1 {
			t.Errorf("%d of 4 log-ins with one code", done)
		}
	}
	s.clock.advance(24 * time.Hour)
	wantError(t, "a short password beside it", s.SetPassword(t.Context(), ana, passes, "ten birds", realm.SessionID{}, at(1)), nil)
	wantRefused(t, "to remove it", s.Unenrol(t.Context(), ana, "ten birds", at(1)), realm.PasswordShort)
	wantError(t, "a long password again", s.SetPassword(t.Context(), ana, "ten birds", passes, realm.SessionID{}, at(1)), nil)
	wantError(t, "to remove it", s.Unenrol(t.Context(), ana, passes, at(1)), nil)
	wantError(t, "without it", logIn(""), nil)
	s.check()
}

// TestGuessing: one address that tries many users, and many addresses that try one, are slowed down; the owner gets in from
// where he has been all the while, also in the life of another process, and from elsewhere when the attack is over.
func TestGuessing(t *testing.T) {
	s := open(t, nil)
	s.logIn(ana) // from address 1
	guess := func(login string, from int) (refused bool) {
		_, err := s.LogIn(t.Context(), LogIn{Login: login, Password: other}, at(from))
		var wait *Throttled
		if errors.As(err, &wait) {
			if wait.Wait <= 0 || wait.Wait > 15*time.Minute {
				t.Fatalf("a wait of %v", wait.Wait)
			}
			return true
		}
		wantError(t, "a guess", err, ErrCredentials)
		return false
	}
	tried := 0
	for i := range 1000 {
		if !guess(fmt.Sprint("user", i), 2) {
			tried++
		}
	}
	if tried < 50 || tried > 120 {
		t.Errorf("one address tried %d users at once", tried)
	}
	tried = 0
	for i := range 1000 {
		if !guess(ana, 1000+i) {
			tried++
		}
	}
	if tried < 5 || tried > 20 {
		t.Errorf("a thousand addresses tried one user %d times at once", tried)
	}
	s.logIn(ana)
	_, err := s.LogIn(t.Context(), LogIn{Login: ana, Password: passes}, at(3))
	var wait *Throttled
	if !errors.As(err, &wait) {
		t.Errorf("from a new address in the middle of an attack: %v", err)
	}
	s.close()
	s.reopen()
	for i := range 1000 {
		guess(ana, 1000+i)
	}
	s.logIn(ana)
	s.clock.advance(15 * time.Minute)
	_, err = s.LogIn(t.Context(), LogIn{Login: ana, Password: passes}, at(3))
	wantError(t, "from a new address when it is over", err, nil)
}

// TestHangingUp: who goes away while his password is looked at has tried it.
func TestHangingUp(t *testing.T) {
	s := open(t, func(c *Config) { c.Hasher.Rounds = 2_000_000 }) // longer than the context lives
	refused := false
	for i := 0; i < 30 && !refused; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, err := s.LogIn(ctx, LogIn{Login: ana, Password: other}, at(i))
		cancel()
		var wait *Throttled
		if refused = errors.As(err, &wait); !refused && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, password.ErrBusy) {
			t.Fatalf("hung up: %v", err)
		}
	}
	if !refused {
		t.Error("whoever hangs up can try without end")
	}
}

// TestSignUpsAreSlowed: nobody signs up, or finds out who is here, without end.
func TestSignUpsAreSlowed(t *testing.T) {
	s := open(t, nil)
	var wait *Throttled
	n := 0
	for ; n < 100 && wait == nil; n++ {
		errors.As(s.SignUp(t.Context(), SignUp{Login: fmt.Sprint("n", n), Password: passes}, at(7)), &wait)
	}
	if n > 20 {
		t.Errorf("%d sign-ups at once from one address", n)
	}
}

// TestBadStart: what cannot be in the configuration stops the start and names the variable, without its secrets.
func TestBadStart(t *testing.T) {
	for name, spoil := range map[string]func(c *Config){
		"SEED":    func(c *Config) { c.Seeds[0].Password = "short" },
		"SEED: ":  func(c *Config) { c.Seeds[0].Groups = []string{"two words"} },
		"SEED: u": func(c *Config) { c.Seeds[0].Email = "nowhere" },
		"STORE":   func(c *Config) { c.Store = "paper" },
		"PEPPERS": func(c *Config) { c.Hasher.Peppers = map[string][]byte{"a": []byte("tiny secret")} },
	} {
		c := Config{Store: "file", Dir: t.TempDir(), Alg: token.ES256, Seeds: []Seed{{Login: "k", Password: passes}}, Now: time.Now, Rand: newLuck(1),
			KeyCache: time.Minute, Hasher: password.Config{Rounds: rounds}}
		spoil(&c)
		c.Logger = discard
		n, err := Open(t.Context(), c)
		if err == nil {
			n.Close()
		}
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "tiny secret") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
