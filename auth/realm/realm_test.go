package realm

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"dongne/internal/sharedlog"
	"github.com/google/go-cmp/cmp"
)

// at is a place in the log so many milliseconds after startTime.
func at(ms int64) sharedlog.Position {
	return sharedlog.Position{Slot: 1, Time: (startTime + ms) * int64(time.Millisecond)}
}

// story is a state, to which things happen at times.
type story struct {
	t *testing.T
	s *State
}

// do applies a request, which must be answered by code.
func (y story) do(ms int64, q Request, want Code) Result {
	y.t.Helper()
	result := y.s.Apply(at(ms), q)
	if result.Code != want {
		y.t.Errorf("at %d ms: %T%+v: %v, want %v", ms, q, q, result.Code, want)
	}
	if err := y.s.Check(); err != nil {
		y.t.Errorf("at %d ms: after %T: %v", ms, q, err)
	}
	return result
}

func opens(name string) Opening {
	hash := HashOf(name)
	return Opening{Session: SessionID(hash[:16]), Token: hash, Client: "web", Address: "192.0.2.1"}
}

// TestRefreshGrace follows a client whose answer was lost, to the millisecond.
func TestRefreshGrace(t *testing.T) {
	present := func(generation uint32, token, next string) *Refresh {
		return &Refresh{Session: opens("one").Session, Generation: generation, Token: HashOf(token), Next: HashOf(next),
			Sealed: []byte(next)}
	}
	begin := func(t *testing.T) story {
		y := story{t, New()}
		y.do(0, &SignUp{User: "u1", Login: "ana"}, Done)
		y.do(0, &LogIn{User: "u1", Checked: 1, Opening: opens("one")}, Done)
		y.do(1000, present(1, "one", "two"), Done)
		return y
	}
	t.Run("within", func(t *testing.T) {
		y := begin(t)
		for _, next := range []string{"other", "another"} {
			if got := y.do(10_999, present(1, "one", next), Same); string(got.Sealed) != "two" || got.Generation != 2 {
				t.Errorf("the second client gets %q, generation %d", got.Sealed, got.Generation)
			}
		}
		y.do(10_999, present(2, "two", "three"), Done)
		if got := y.do(10_999, present(2, "two", "four"), Same); string(got.Sealed) != "three" {
			t.Errorf("the second client gets %q", got.Sealed)
		}
		y.do(10_999, present(1, "one", "other"), Reuse)
	})
	t.Run("after", func(t *testing.T) {
		y := begin(t)
		y.do(11_000, &Note{Kind: "tick"}, Done)
		if x, _ := y.s.Session(opens("one").Session); x.Sealed != nil {
			t.Error("the successor is kept when nobody may ask for it")
		}
		y.do(11_000, present(1, "one", "other"), Reuse)
		y.do(11_000, present(2, "two", "three"), SessionEnded)
		items, seq, reset := y.s.Revocations(0)
		if len(items) != 1 || seq != 1 || reset || items[0].Text() != opens("one").Session.String() ||
			items[0].Kind.String() != "session" {
			t.Errorf("Revocations(0) = %v, %d, %v", items, seq, reset)
		}
		if events := y.s.Events(0, Filter{Kind: EventReuse}, 9); len(events) != 1 || events[0].User != "u1" {
			t.Errorf("events of the reuse: %+v", events)
		}
	})
	t.Run("made up", func(t *testing.T) {
		y := begin(t)
		y.do(1000, present(2, "guess", "other"), Unknown)
		y.do(1000, present(1, "guess", "other"), Unknown)
		y.do(1000, present(7, "guess", "other"), Unknown)
		y.do(1000, present(0, "guess", "other"), Invalid)
		y.do(1000, present(2, "two", "three"), Done)
	})
	t.Run("the same request again", func(t *testing.T) {
		y := begin(t)
		y.do(60_000, present(1, "one", "two"), Done)
		y.do(60_000, present(2, "two", "three"), Done)
	})
}

// TestSessionExpires follows a session to its ends.
func TestSessionExpires(t *testing.T) {
	y := story{t, New()}
	refresh := func(generation int) *Refresh {
		name := func(n int) string { return "t" + strconv.Itoa(n) }
		return &Refresh{Session: opens("t1").Session, Generation: uint32(generation), Token: HashOf(name(generation)),
			Next: HashOf(name(generation + 1)), Sealed: []byte{1}}
	}
	y.do(0, &SignUp{User: "u1", Login: "ana"}, Done)
	y.do(0, &LogIn{User: "u1", Checked: 1, Opening: opens("t1")}, Done)
	y.do(0, &LogIn{User: "u1", Checked: 1, Opening: opens("idle")}, Done)
	idle := &Refresh{Session: opens("idle").Session, Generation: 1, Token: opens("idle").Token, Next: Hash{1}}
	for n := 1; n <= 6; n++ {
		if n == 2 {
			y.do(30*day, idle, SessionExpired)
			y.do(31*day-1, idle, SessionExpired)
			y.do(31*day, idle, Unknown)
		}
		y.do(int64(n)*29*day, refresh(n), Done)
	}
	if got := y.s.Sessions("u1", startTime+180*day-1); len(got) != 1 || got[0].Expires != startTime+180*day {
		t.Errorf("sessions before the end: %+v", got)
	}
	if got := y.s.Sessions("u1", startTime+180*day); got != nil {
		t.Errorf("sessions at the end: %+v", got)
	}
	y.do(180*day, refresh(7), SessionExpired)
}

// TestKeys rotates keys: published for the caches first, signing then, retired when the last token is gone.
func TestKeys(t *testing.T) {
	y := story{t, New()}
	if k, ok := y.s.Signing(startTime); ok {
		t.Errorf("Signing without keys = %+v", k)
	}
	y.do(0, &AddKey{ID: "a", Cache: 10 * minute}, Done)
	y.do(day, &AddKey{ID: "b", Cache: 10 * minute}, Done)
	y.do(day, &AddKey{ID: "b", Cache: 10 * minute}, Same)
	ids := func(ms int64) (all string) {
		for _, k := range y.s.Keys(startTime + ms) {
			all += k.ID
		}
		k, _ := y.s.Signing(startTime + ms)
		return all + ", " + k.ID + " signs"
	}
	for _, c := range []struct {
		ms   int64
		want string
	}{{-minute, "ab, a signs"}, {day, "ab, a signs"}, {day + 10*minute - 1, "ab, a signs"},
		{day + 10*minute, "ab, b signs"}, {day + 16*minute - 1, "ab, b signs"}, {day + 16*minute, "b, b signs"}} {
		if got := ids(c.ms); got != c.want {
			t.Errorf("at %d: %s, want %s", c.ms, got, c.want)
		}
	}
	y.do(day+16*minute, &Note{Kind: "tick"}, Done)
	if n := y.s.Counts().Keys; n != 1 {
		t.Errorf("%d keys are left", n)
	}
	for n := range KeysMax - 1 {
		y.do(2*day, &AddKey{ID: strconv.Itoa(n)}, Done)
	}
	y.do(2*day, &AddKey{ID: "one too many"}, Full)
	y.do(3*day, &AddKey{ID: "then"}, Done)
}

// TestLimits fills a small state.
func TestLimits(t *testing.T) {
	y := story{t, New()}
	y.s.limits = limits{users: 2, sessions: 4, perUser: 2, keys: 1, revocations: 3, legacy: 1, routes: 1, events: 5}
	y.do(0, &SignUp{User: "u1", Login: "ana"}, Done)
	y.do(0, &Seed{Users: []SeedUser{{User: "u2", Login: "bo"}, {User: "u3", Login: "cy"},
		{User: "u4", Login: "Not normal"}}}, Done)
	y.do(0, &SignUp{User: "u3", Login: "cy"}, Full)
	for n := range 3 {
		result := y.do(int64(n), &LogIn{User: "u1", Checked: 1, Opening: opens(strconv.Itoa(n))}, Done)
		if want := n / 2; result.Ended != want {
			t.Errorf("log-in %d ended %d, want %d", n, result.Ended, want)
		}
	}
	if _, known := y.s.Session(opens("0").Session); !known || !y.s.RevokedSession(opens("0").Session) {
		t.Error("the oldest session made room, and is not revoked")
	}
	y.do(3, &LogIn{User: "u2", Checked: 1, Opening: opens("3")}, Done)
	y.do(3, &LogIn{User: "u2", Checked: 1, Opening: opens("4")}, Full)
	y.do(3, &RevokeToken{ID: TokenID{1}, Expires: startTime + 1000}, Done)
	y.do(3, &RevokeToken{ID: TokenID{2}, Expires: startTime + 1000}, Done)
	y.do(3, &RevokeToken{ID: TokenID{3}, Expires: startTime + 1000}, Full)
	y.do(4, &EndSessions{User: "u1"}, Done) // never refused
	y.do(10*minute, &LogIn{User: "u2", Checked: 1, Opening: opens("4")}, Done)
	y.do(10*minute, &SetStage{Route: "chat", Stage: StageDual}, Done)
	y.do(10*minute, &SetStage{Route: "pay", Stage: StageDual}, Full)
	y.do(10*minute, &SetStage{Route: "chat", Stage: StageUnset}, Done)
	y.do(10*minute, &SetStage{Route: "pay", Stage: StageNew}, Done)
	tokens := []LegacyToken{{Hash{1}, "u1", startTime + day, false}, {Hash{2}, "u1", startTime + day, false}}
	if got := y.do(10*minute, &ImportLegacy{Tokens: tokens}, Done); got.Added != 1 || got.Refused != 1 {
		t.Errorf("import beyond the limit: %+v", got)
	}
	y.do(10*minute, &RevokeLegacy{Hash: Hash{3}, Expires: startTime + day}, Full)
	if c := y.s.Counts(); c.Events != 5 {
		t.Errorf("%d events in memory, want 5", c.Events)
	}
}

// TestInvalid refuses what cannot be meant.
func TestInvalid(t *testing.T) {
	y := story{t, started(t)}
	for _, q := range []Request{
		&SignUp{User: "", Login: "x"}, &SignUp{User: "a/b", Login: "x"}, &SignUp{User: "..", Login: "x"},
		&SignUp{User: "u9", Login: "X"}, &SignUp{User: "u9"},
		&SignUp{User: "u9", Login: "a b"}, &LogIn{User: "ana", Checked: 1},
		&LogIn{User: "ana", Checked: 1, Opening: Opening{Session: raceSession, Token: Hash{1}}}, &AddTOTP{User: "ana"},
		&AddKey{}, &AddKey{ID: "k", Cache: -1}, &AddKey{ID: "k", Cache: 25 * 60 * minute}, &SetStage{Stage: StageNew},
		&SetStage{Route: "a b", Stage: StageNew}, &SetStage{Route: "a", Stage: stages}, &Note{}, &Note{Kind: "A"},
		&Refresh{Session: raceSession, Generation: 3, Token: raceTokens[2]},
		&RevokeToken{ID: TokenID{1}, Expires: startTime + 2*60*minute},
	} {
		y.do(4*second, q, Invalid)
	}
}

// TestEventsFilter asks the audit trail.
func TestEventsFilter(t *testing.T) {
	y := story{t, New()}
	for n := range 20 {
		kind := []string{"odd", "even"}[n%2]
		y.do(int64(n), &Note{Kind: kind, User: "u" + strconv.Itoa(n%3), By: "u9", Session: SessionID{byte(n % 4)}}, Done)
	}
	seqs := func(events []Event) (all []uint64) {
		for _, e := range events {
			all = append(all, e.Seq)
		}
		return all
	}
	for _, c := range []struct {
		name      string
		got, want []uint64
	}{
		{"all", seqs(y.s.Events(0, Filter{}, 3)), []uint64{1, 2, 3}},
		{"after", seqs(y.s.Events(17, Filter{}, 9)), []uint64{18, 19, 20}},
		{"after the last", seqs(y.s.Events(20, Filter{}, 9)), nil},
		{"kind", seqs(y.s.Events(12, Filter{Kind: "odd"}, 2)), []uint64{13, 15}},
		{"user", seqs(y.s.Events(0, Filter{User: "u2"}, 9)), []uint64{3, 6, 9, 12, 15, 18}},
		{"by", seqs(y.s.Events(18, Filter{User: "u9"}, 9)), []uint64{19, 20}},
		{"session", seqs(y.s.Events(0, Filter{Session: SessionID{1}}, 9)), []uint64{2, 6, 10, 14, 18}},
		{"time", seqs(y.s.Events(0, Filter{Since: startTime + 5, Until: startTime + 8}, 9)), []uint64{6, 7, 8}},
		{"newest", seqs(y.s.EventsBefore(0, Filter{}, 2)), []uint64{20, 19}},
		{"before", seqs(y.s.EventsBefore(4, Filter{}, 9)), []uint64{3, 2, 1}},
		{"before the first", seqs(y.s.EventsBefore(1, Filter{}, 9)), nil},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}
}

// TestViewsStay keeps what views returned, while the state goes on.
func TestViewsStay(t *testing.T) {
	h := newHistory(seededDice(3), rightly)
	type view struct {
		kept, copied any
	}
	var views []view
	keep := func(kept, copied any) { views = append(views, view{kept, copied}) }
	for range 300 {
		if err := h.run(3); err != nil {
			t.Fatal(err)
		}
		items, _, _ := h.state.Revocations(0)
		keep(items, slices.Clone(items))
		for _, id := range userPool {
			if u, ok := h.state.User(id); ok {
				copied := u
				copied.Recovery, copied.Groups = slices.Clone(u.Recovery), slices.Clone(u.Groups)
				copied.TOTP.Secret, copied.TOTP.Pending = slices.Clone(u.TOTP.Secret), slices.Clone(u.TOTP.Pending)
				keep(u, copied)
			}
		}
	}
	for _, v := range views {
		if diff := cmp.Diff(v.copied, v.kept); diff != "" {
			t.Fatalf("what a view returned has changed (-was +is):\n%s", diff)
		}
	}
}

// TestTexts names every code and stage, once.
func TestTexts(t *testing.T) {
	seen := map[string]bool{}
	for c := range codes {
		text := c.String()
		if text == "" || seen[text] || strings.HasPrefix(text, "code-") {
			t.Errorf("code %d is %q", c, text)
		}
		seen[text] = true
	}
	for g := StageLegacy; g < stages; g++ {
		if got, ok := ParseStage(g.String()); !ok || got != g {
			t.Errorf("ParseStage(%q) = %v, %v", g.String(), got, ok)
		}
	}
	for _, text := range []string{"", "New", "stage-9"} {
		if got, ok := ParseStage(text); ok {
			t.Errorf("ParseStage(%q) = %v", text, got)
		}
	}
}

// TestNormalLogin folds ASCII letters, and takes nothing that looks like them.
func TestNormalLogin(t *testing.T) {
	for login, want := range map[string]string{"Ana": "ana", "a.b-c_d+e@F9": "a.b-c_d+e@f9",
		strings.Repeat("A", LoginBytesMax): strings.Repeat("a", LoginBytesMax)} {
		if got, err := NormalLogin(login); err != nil || got != want {
			t.Errorf("NormalLogin(%q) = %q, %v, want %q", login, got, err, want)
		}
	}
	for _, login := range []string{"", "a b", "\u212Ab", "аna", "a\n", "동네", strings.Repeat("a", LoginBytesMax+1)} {
		if got, err := NormalLogin(login); err == nil {
			t.Errorf("NormalLogin(%q) = %q", login, got)
		}
	}
}
