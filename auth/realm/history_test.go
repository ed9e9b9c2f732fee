package realm

import (
	"bytes"
	stdcmp "cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"dongne/internal/sharedlog"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// dice makes all choices of a test: drawn by rapid, which shrinks them, or from a seed.
type dice func(label string, n int) int

func rapidDice(t *rapid.T) dice {
	return func(label string, n int) int { return rapid.IntRange(0, n-1).Draw(t, label) }
}

func seededDice(seed uint64) dice {
	rng := rand.New(rand.NewPCG(seed, 5))
	return func(_ string, n int) int { return rng.IntN(n) }
}

func pick[T any](d dice, label string, from ...T) T { return from[d(label, len(from))] }

// different is cmp.Diff, but fast when there is none.
func different[T any](want, got T) string {
	if reflect.DeepEqual(want, got) {
		return ""
	}
	return cmp.Diff(want, got)
}

// ordered ranges over a map in the order of its keys.
func ordered[K stdcmp.Ordered, V any](m map[K]V) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

const startTime = int64(1_790_000_000_000) // milliseconds

// Limits of histories.
const (
	testPerUser = 4
	testKeys    = 4
)

// applier applies a request, as State.Apply does; mutants do it otherwise.
type applier func(s *State, at sharedlog.Position, q Request) Result

func rightly(s *State, at sharedlog.Position, q Request) Result { return s.Apply(at, q) }

func newTestState() *State {
	s := New()
	s.limits.perUser, s.limits.keys = testPerUser, testKeys
	return s
}

// history is a state, its model, and everything that was done.
type history struct {
	roll    dice
	apply   applier
	restore func(s *State, snapshot []byte) error
	state   *State
	twin    *State // goes on from a snapshot
	model   *model
	at      sharedlog.Position
	log     []placed
	drawn   int // ids and secrets
	old     []Request
}

type placed struct {
	at      sharedlog.Position
	command []byte
}

func newHistory(roll dice, apply applier) *history {
	return &history{roll: roll, apply: apply, restore: (*State).Restore, state: newTestState(), model: newModel(),
		at: sharedlog.Position{Time: startTime * int64(time.Millisecond)}}
}

// run does so many requests of any kind, and returns the first thing that is wrong.
func (h *history) run(requests int) error {
	for _, q := range opening {
		if err := h.step(q); err != nil {
			return err
		}
	}
	for range requests {
		h.pause()
		if err := h.step(h.request()); err != nil {
			return err
		}
		if h.roll("snapshot", 8) == 0 {
			if err := h.snapshot(); err != nil {
				return err
			}
		}
	}
	return h.replayed()
}

// opening is what histories begin with.
var opening = []Request{
	&Seed{Users: []SeedUser{{User: "u0", Login: "l0", Password: "p0"},
		{User: "u1", Login: "l1", Password: "p1", Groups: []string{"admin"}}}},
	&AddKey{ID: "k0", Alg: "ES256", Public: []byte{1}, Sealed: []byte{2}},
}

// pause lets time pass before the next request.
func (h *history) pause() {
	ms := pick(h.roll, "pause", 0, 0, 0, 1, second, second, second, 3*second, 10*second-1, 10*second, minute, 5*minute,
		6*minute, 6*minute+1, 60*minute)
	if h.roll("long pause", 12) == 0 {
		ms = pick(h.roll, "pause", day-1, day, 10*day, 30*day-1, 30*day, 180*day)
	}
	h.at.Time += ms*int64(time.Millisecond) + 1
	h.model.now = h.at.Time / int64(time.Millisecond)
}

// step does a request, and compares the state with the model.
func (h *history) step(q Request) error {
	h.at.Slot++
	command, err := Encode(q)
	if err != nil {
		return err
	}
	decoded, err := Decode(command)
	if err != nil {
		return err
	}
	h.log = append(h.log, placed{h.at, command})
	h.old = append(h.old, q)
	got := h.apply(h.state, h.at, decoded)
	want := h.model.follow(h.at.Time/int64(time.Millisecond), q)
	if diff := different(want, got); diff != "" {
		return fmt.Errorf("result of %T%+v mismatch (-want +got):\n%s", q, q, diff)
	}
	if err := h.compare(); err != nil {
		return fmt.Errorf("after %T%+v: %w", q, q, err)
	}
	if err := h.state.Check(); err != nil {
		return fmt.Errorf("after %T%+v: %w", q, q, err)
	}
	if h.twin != nil {
		h.apply(h.twin, h.at, decoded)
		if !bytes.Equal(h.twin.Snapshot(), h.state.Snapshot()) {
			return fmt.Errorf("after %T%+v: what goes on from a snapshot is otherwise", q, q)
		}
	}
	return nil
}

// compare compares all views with the model.
func (h *history) compare() error {
	m, s := h.model, h.state
	for _, u := range m.users {
		got, _ := s.UserByLogin(u.Login)
		if diff := different(u.show(), got); diff != "" {
			return fmt.Errorf("UserByLogin(%q) mismatch (-want +got):\n%s", u.Login, diff)
		}
		if err := h.compareSessions(u); err != nil {
			return err
		}
	}
	for _, x := range m.sessions {
		got, known := s.Session(x.ID)
		if known != m.known(x) {
			return fmt.Errorf("Session(%v): known is %v", x.ID, known)
		}
		if !known {
			continue
		}
		if diff := different(x.show(m.now), got); diff != "" {
			return fmt.Errorf("Session(%v) mismatch (-want +got):\n%s", x.ID, diff)
		}
	}
	later := m.now + int64(h.roll("later", 10))*minute
	if diff := different(m.published(later), s.Keys(later)); diff != "" {
		return fmt.Errorf("Keys(%d) mismatch (-want +got):\n%s", later, diff)
	}
	if got, ok := s.Signing(later); ok != (len(m.keys) > 0) || ok && got.ID != m.signing(later) {
		return fmt.Errorf("Signing(%d) = %q, %v, want %q", later, got.ID, ok, m.signing(later))
	}
	return errors.Join(h.compareRevocations(), h.compareRest())
}

func (m *model) signing(now int64) (id string) {
	for _, k := range m.keys {
		if k.Signs <= now {
			id = k.ID
		}
	}
	return id
}

func (h *history) compareSessions(u *modelUser) error {
	var want []Session
	for _, x := range h.model.of(u.ID) {
		if h.model.now < x.Expires {
			want = append(want, x.show(h.model.now))
		}
	}
	if diff := different(want, h.state.Sessions(u.ID, h.model.now)); diff != "" {
		return fmt.Errorf("Sessions(%q) mismatch (-want +got):\n%s", u.ID, diff)
	}
	return nil
}

func (h *history) compareRevocations() error {
	m, s := h.model, h.state
	var present []Revocation
	for _, r := range m.revoked {
		if m.now <= r.Expires {
			present = append(present, r)
		}
	}
	after := uint64(h.roll("after", len(m.revoked)+2))
	want, reset := present, after > uint64(len(m.revoked)) || after < uint64(len(m.revoked)-len(present))
	if !reset {
		want = m.revoked[after:]
	}
	got, seq, wasReset := s.Revocations(after)
	if !slices.Equal(got, want) || seq != uint64(len(m.revoked)) || wasReset != reset {
		return fmt.Errorf("Revocations(%d) = %v, %d, %v, want %v, %d, %v", after, got, seq, wasReset, want, len(m.revoked),
			reset)
	}
	for _, r := range m.revoked {
		if r.Kind == RevokedToken && s.RevokedToken(r.ID) != m.tokenRevoked(r.ID) {
			return fmt.Errorf("RevokedToken(%v) = %v at %d", r.Text(), s.RevokedToken(r.ID), m.now)
		}
	}
	return nil
}

func (h *history) compareRest() error {
	m, s := h.model, h.state
	for n := range legacyPool {
		got, known := s.Legacy(legacyHash(n))
		l := m.token(legacyHash(n))
		if known != (l != nil) {
			return fmt.Errorf("Legacy(%d) = %+v, %v, want %+v", n, got, known, l)
		}
		if l == nil {
			continue
		}
		want := Legacy{User: l.User, Expires: l.Expires, Revoked: m.legacyRevoked(l)}
		if l.session != nil {
			want.Session, want.Exchanged = l.session.ID, l.at
		}
		if got != want {
			return fmt.Errorf("Legacy(%d) = %+v, want %+v", n, got, want)
		}
	}
	for _, route := range routePool {
		if s.Stage(route) != m.stages[route] {
			return fmt.Errorf("Stage(%q) = %v, want %v", route, s.Stage(route), m.stages[route])
		}
	}
	after := h.roll("after", len(m.events)+1)
	if got := s.Events(uint64(after), Filter{}, len(m.events)); !slices.Equal(m.events[after:], got) {
		return fmt.Errorf("Events(%d) mismatch (-want +got):\n%s", after, cmp.Diff(m.events[after:], got))
	}
	return nil
}

// snapshot restores the state's snapshot into the twin.
func (h *history) snapshot() error {
	whole := h.state.Snapshot()
	h.twin = newTestState()
	if err := h.restore(h.twin, whole); err != nil {
		return err
	}
	if !bytes.Equal(h.twin.Snapshot(), whole) {
		return errors.New("the snapshot of what was restored is otherwise")
	}
	return nil
}

// replayed does everything again, from the commands.
func (h *history) replayed() error {
	again := newTestState()
	for _, p := range h.log {
		q, err := Decode(p.command)
		if err != nil {
			return err
		}
		h.apply(again, p.at, q)
	}
	if !bytes.Equal(again.Snapshot(), h.state.Snapshot()) {
		return errors.New("a replay ends otherwise")
	}
	return nil
}

// Pools that requests draw from.
const legacyPool = 6

var (
	userPool  = []string{"u0", "u1", "u2", "u3"}
	routePool = []string{"chat", "pay/transfers"}
)

func legacyHash(n int) Hash { return HashOf("legacy " + strconv.Itoa(n)) }

// userOf returns whom a request is about.
func userOf(q Request) string {
	switch q := q.(type) {
	case *EndSessions:
		return q.User
	case *SetPassword:
		return q.User
	case *Rehash:
		return q.User
	case *SetDisabled:
		return q.User
	case *SetGroups:
		return q.User
	case *AddTOTP:
		return q.User
	case *ConfirmTOTP:
		return q.User
	case *RemoveTOTP:
		return q.User
	}
	return ""
}

// openingOf returns the session that a request opens; nil: it opens none.
func openingOf(q Request) *Opening {
	switch q := q.(type) {
	case *LogIn:
		return &q.Opening
	case *ExchangeLegacy:
		return &q.Opening
	}
	return nil
}

// fresh returns bytes that were not drawn before.
func (h *history) fresh() (b [16]byte) {
	h.drawn++
	copy(b[:], fmt.Sprintf("%016d", h.drawn))
	return b
}

func (h *history) freshHash() Hash { b := h.fresh(); return HashOf(string(b[:])) }
func (h *history) user() string    { return pick(h.roll, "user", userPool...) }
func (h *history) rarely() bool    { return h.roll("rarely", 10) == 0 }
func (h *history) address() string { return pick(h.roll, "address", "", "192.0.2.1", "2001:db8::1") }

// checked is the version of a user's credentials that a request claims.
func (h *history) checked(user string, zero bool) uint32 {
	u := h.model.user(user)
	if u == nil || h.rarely() {
		return uint32(h.roll("version", 3))
	}
	if zero && h.roll("unchecked", 3) == 0 {
		return 0
	}
	return u.Version
}

func (h *history) opening() Opening {
	o := Opening{Session: h.fresh(), Key: h.fresh(), Token: h.freshHash(),
		Client: pick(h.roll, "client", "", "web", "app"),
		Scope:  pick(h.roll, "scope", "", "chat pay"), Agent: pick(h.roll, "agent", "", "curl"), Address: h.address()}
	if len(h.model.sessions) > 0 && h.rarely() {
		x := pick(h.roll, "session", h.model.sessions...)
		if h.model.known(x) { // ids are drawn anew, but for a request that comes again
			o.Session, o.Token = x.ID, x.tokens[0].hash
		}
	}
	return o
}

// session returns one that there was, mostly one that is alive.
func (h *history) session() *modelSession {
	var alive []*modelSession
	for _, x := range h.model.sessions {
		if x.over == nil && h.model.known(x) {
			alive = append(alive, x)
		}
	}
	switch {
	case len(h.model.sessions) == 0:
		return &modelSession{tokens: []modelToken{{hash: h.freshHash()}}}
	case len(alive) == 0 || h.roll("any", 5) == 0:
		return pick(h.roll, "session", h.model.sessions...)
	}
	return pick(h.roll, "session", alive...)
}

// request makes one of any kind.
func (h *history) request() Request {
	if len(h.old) > 0 && h.roll("again", 15) == 0 {
		q := pick(h.roll, "which", h.old...)
		if o := openingOf(q); o == nil || h.model.session(o.Session) != nil {
			return q
		}
	}
	switch n := h.roll("kind", 40); {
	case n < 12:
		return h.refresh()
	case n < 18:
		return h.logIn()
	case n < 20:
		x := h.session()
		return &EndSession{Session: x.ID, Any: h.roll("any", 2) == 0, By: pick(h.roll, "by", x.User, x.User, "u9"),
			Address: h.address()}
	case n < 22:
		id := TokenID(h.fresh())
		if len(h.model.revoked) > 0 && h.rarely() {
			id = h.model.revoked[h.roll("revoked", len(h.model.revoked))].ID
		}
		ahead := pick(h.roll, "expires", 5*minute, minute, 0, -minute, 61*minute, 10*minute)
		return &RevokeToken{ID: id, Expires: h.model.now + ahead, User: h.user(), By: "admin", Address: h.address()}
	case n < 27:
		return h.migration()
	case n < 32:
		return h.factor()
	}
	return h.change()
}

func (h *history) refresh() Request {
	x := h.session()
	last := len(x.tokens) - 1
	which := pick(h.roll, "token", last, last, last, last, last-1, last-1, last-2, 0)
	which = max(0, which)
	q := &Refresh{Session: x.ID, Generation: uint32(which + 1), Token: x.tokens[which].hash, Next: h.freshHash(),
		Agent:   pick(h.roll, "agent", "", "wget"),
		Address: h.address()}
	sealed := h.fresh()
	q.Sealed = sealed[:]
	if h.roll("not current", 12) == 0 {
		q.Token = h.freshHash()
	}
	if h.roll("other generation", 20) == 0 {
		q.Generation = uint32(1 + h.roll("generation", 4))
	}
	return q
}

func (h *history) logIn() Request {
	user := h.user()
	q := &LogIn{User: user, Checked: h.checked(user, false), Opening: h.opening(),
		Rehash: pick(h.roll, "rehash", "", "", "again")}
	u := h.model.user(user)
	if u == nil || u.TOTP.Secret == nil {
		return q
	}
	switch h.roll("factor", 4) {
	case 0:
		if len(u.Recovery) > 0 {
			q.Recovery = pick(h.roll, "recovery", u.Recovery...)
		}
	case 1:
		q.Step = slices.Max(u.ages)
	default:
		q.Step = slices.Max(u.ages) + uint64(h.roll("step", 3))
	}
	return q
}

func (h *history) migration() Request {
	n := h.roll("token", legacyPool)
	expires := h.model.now + pick(h.roll, "expires", day, day, 20*day, 20*day, -1, 400*day)
	switch h.roll("migration", 8) {
	case 0, 1:
		return &ImportLegacy{By: "admin", Tokens: []LegacyToken{{legacyHash(n), h.user(), expires, h.rarely()},
			{legacyHash((n + 1) % legacyPool), h.user(), expires, false}}}
	case 2:
		return &RevokeLegacy{Hash: legacyHash(n), Expires: pick(h.roll, "expires", 0, expires), By: "admin",
			Address: h.address()}
	case 3:
		return &SetStage{Route: pick(h.roll, "route", routePool...), Stage: Stage(h.roll("stage", int(stages))), By: "admin"}
	}
	sealed := h.fresh()
	return &ExchangeLegacy{Hash: legacyHash(n), Sealed: sealed[:], Opening: h.opening()}
}

func (h *history) factor() Request {
	user := h.user()
	u := h.model.user(user)
	switch n := h.roll("factor", 8); {
	case n == 0:
		return &RemoveTOTP{User: user, Checked: h.checked(user, true), By: user, Address: h.address()}
	case n < 4 || u == nil:
		secret := h.fresh()
		return &AddTOTP{User: user, Checked: h.checked(user, true), Secret: secret[:], By: user, Address: h.address()}
	default:
		q := &ConfirmTOTP{User: user, Secret: u.TOTP.Pending, Step: uint64(1 + h.roll("step", 5)), By: user,
			Address: h.address()}
		if h.rarely() {
			q.Secret = []byte("another")
		}
		for range h.roll("recovery", 3) {
			q.Recovery = append(q.Recovery, h.freshHash())
		}
		return q
	}
}

func (h *history) change() Request {
	user, by, address := h.user(), pick(h.roll, "by", "", "admin"), h.address()
	keep := SessionID{}
	if x := h.session(); h.roll("keep", 2) == 0 {
		keep = x.ID
	}
	password := fmt.Sprintf("p%d", h.roll("password", 100))
	switch h.roll("change", 12) {
	case 0, 1:
		return &SignUp{User: user, Login: "l" + strconv.Itoa(h.roll("login", 4)), Name: "이름", Email: "e@x",
			Password: password, Short: h.rarely(), By: by, Address: address}
	case 2:
		return &EndSessions{User: user, Keep: keep, By: by, Address: address}
	case 3, 4:
		return &SetPassword{User: user, Checked: h.checked(user, true), Password: password, Short: h.roll("short", 3) == 0,
			Keep: keep, By: by, Address: address}
	case 5:
		return &Rehash{User: user, Checked: h.checked(user, true), Password: password}
	case 6:
		return &SetDisabled{User: user, Disabled: true, By: by, Address: address}
	case 7, 8:
		return &SetDisabled{User: user, By: by, Address: address}
	case 9:
		return &SetGroups{User: user, Groups: pick(h.roll, "groups", nil, []string{"a"}, []string{"admin", "b"}), By: by,
			Address: address}
	case 10:
		return &AddKey{ID: fmt.Sprint("k", h.roll("key", 40)), Alg: "ES256", Public: []byte{1},
			Cache: pick(h.roll, "cache", 0, minute, 10*minute), By: by}
	}
	return &Note{Kind: "log-in-failed", User: user, Address: address, Detail: "비밀번호"}
}

// TestModel does what the model does, through rapid.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if err := newHistory(rapidDice(t), rightly).run(60); err != nil {
			t.Fatal(err)
		}
	})
}

// TestModelSeeds does longer histories.
func TestModelSeeds(t *testing.T) {
	for seed := range uint64(60) {
		if err := newHistory(seededDice(seed), rightly).run(400); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
