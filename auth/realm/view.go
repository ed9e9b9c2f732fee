package realm

import (
	"cmp"
	"slices"
	"sort"

	"dongne/internal/sharedlog"
)

// User is what is known of a user. Its slices are not to be changed.
type User struct {
	ID       string
	Login    string
	Name     string
	Email    string
	Password string // its hash; "": none
	Short    bool   // the password is too short without a second factor
	Groups   []string
	TOTP     TOTP
	Recovery []Hash // of the recovery codes that were not used
	Version  uint32 // counts, from 1, what the password and the second factor have been
	Disabled bool
	Created  int64 // Unix milliseconds, as all times
	Changed  int64 // the password
	LoggedIn int64 // last; 0: never
}

// TOTP is a user's second factor.
type TOTP struct {
	Secret  []byte // sealed; nil: he has none
	Pending []byte // sealed, waits to be confirmed; nil: none
	Step    uint64 // the last that was used
}

// Session is a family of refresh tokens.
type Session struct {
	ID         SessionID
	User       string
	Client     string
	Scope      string
	Agent      string
	Address    string
	Created    int64 // Unix milliseconds, as all times
	Used       int64 // the last log-in or refresh
	Rotated    int64 // since the current token is
	Expires    int64 // unless it is rotated
	End        int64 // whatever is done
	Ended      int64 // 0: it has not
	Generation uint32
	Key        FamilyKey
	Current    Hash
	Previous   Hash   // zero: none
	Sealed     []byte // the current token, sealed under the one before, within Grace
}

// Alive says whether the session counts at a time.
func (x *Session) Alive(now int64) bool { return x.Ended == 0 && now < x.Expires }

// Key is a signing key.
type Key struct {
	ID        string // kid
	Alg       string
	Public    []byte // JWK
	Sealed    []byte // the private key
	Published int64  // Unix milliseconds, as all times
	Signs     int64  // from when it does
	Retires   int64  // from when it is not published; 0: it has no successor
}

// RevocationKind says what a revocation is about.
type RevocationKind uint8

// Kinds of revocations.
const (
	RevokedSession RevocationKind = 1 + iota // all tokens of a session
	RevokedToken
)

// String returns "session" or "token".
func (k RevocationKind) String() string {
	if k == RevokedToken {
		return "token"
	}
	return "session"
}

// Revocation is something that verifiers must not accept, as long as a token of it may live.
type Revocation struct {
	Seq     uint64
	Kind    RevocationKind
	ID      [16]byte
	Expires int64 // Unix milliseconds: after it, it is forgotten
}

// Text returns the sid or jti that the tokens carry.
func (r Revocation) Text() string {
	if r.Kind == RevokedToken {
		return TokenID(r.ID).String()
	}
	return SessionID(r.ID).String()
}

// Legacy is a token of the older system.
type Legacy struct {
	User      string
	Expires   int64     // Unix milliseconds, as all times
	Revoked   bool      // alone, or with all of its user's
	Exchanged int64     // 0: it was not
	Session   SessionID // that it was exchanged for
}

// Position returns the place of the last slot.
func (s *State) Position() sharedlog.Position { return s.position }

// Now returns its time in Unix milliseconds.
func (s *State) Now() int64 { return s.now }

// User returns a user; false: there is none of this id.
func (s *State) User(id string) (User, bool) {
	if u := s.users[id]; u != nil {
		return u.User, true
	}
	return User{}, false
}

// UserByLogin returns the user of a normal login; false: there is none.
func (s *State) UserByLogin(login string) (User, bool) {
	if u := s.byLogin[login]; u != nil {
		return u.User, true
	}
	return User{}, false
}

// Session returns a session, alive or not; false: there is none, or it is long over.
func (s *State) Session(id SessionID) (Session, bool) {
	if x := s.sessions[id]; x != nil {
		return x.Session, true
	}
	return Session{}, false
}

// Sessions returns the sessions of a user that are alive at a time, in the order in which they were opened.
func (s *State) Sessions(user string, now int64) []Session {
	u := s.users[user]
	if u == nil {
		return nil
	}
	var all []Session
	for _, x := range slices.SortedFunc(slices.Values(u.alive), compareSessions) {
		if x.Alive(now) {
			all = append(all, x.Session)
		}
	}
	return all
}

// Keys returns the keys that are published at a time, in the order in which they sign.
func (s *State) Keys(now int64) []Key {
	var all []Key
	for _, k := range s.keys {
		if k.Retires == 0 || now < k.Retires {
			all = append(all, k)
		}
	}
	return all
}

// Signing returns the key that signs at a time; false: there are no keys. By a clock behind the log's, it may be that
// none does yet: then it is the first.
func (s *State) Signing(now int64) (Key, bool) {
	if len(s.keys) == 0 {
		return Key{}, false
	}
	signing := s.keys[0]
	for _, k := range s.keys[1:] {
		if k.Signs <= now {
			signing = k
		}
	}
	return signing, true
}

// Revocations returns the revocations after a sequence number, and the number of the newest ever. reset: what was
// between is no longer known, or never was here: then items are all that there are, and whoever asks must forget the
// others.
func (s *State) Revocations(after uint64) (items []Revocation, seq uint64, reset bool) {
	n := len(s.revocations)
	floor := s.seq - uint64(n) // the newest that was forgotten
	if after < floor || after > s.seq {
		return s.revocations[:n:n], s.seq, true
	}
	return s.revocations[after-floor : n : n], s.seq, false
}

// RevokedSession says whether a session is revoked, by what is known now.
func (s *State) RevokedSession(id SessionID) bool {
	x := s.sessions[id]
	return x != nil && x.Ended != 0
}

// RevokedToken says whether a token is revoked by its own id.
func (s *State) RevokedToken(id TokenID) bool { return s.revoked[id] }

// Legacy returns a token of the older system by its hash; false: it is unknown.
func (s *State) Legacy(hash Hash) (Legacy, bool) {
	l := s.legacy[hash]
	if l == nil {
		return Legacy{}, false
	}
	of := l.Legacy
	of.Revoked = s.revokedLegacy(l)
	return of, true
}

// Stage returns the stage of a route; StageUnset: it was never set.
func (s *State) Stage(route string) Stage { return s.stages[route] }

// RouteStage is a route with its stage.
type RouteStage struct {
	Route string
	Stage Stage
}

// Stages returns the routes whose stage was set, in order.
func (s *State) Stages() []RouteStage {
	all := make([]RouteStage, 0, len(s.stages))
	for route, stage := range s.stages {
		all = append(all, RouteStage{route, stage})
	}
	slices.SortFunc(all, func(a, b RouteStage) int { return cmp.Compare(a.Route, b.Route) })
	return all
}

// Counts says how much there is.
type Counts struct {
	Users       int
	Sessions    int // that have not ended, though they may have expired
	Ended       int // that are still known
	Keys        int
	Revocations int
	Legacy      int
	Events      int // in memory
}

// Counts returns how much there is.
func (s *State) Counts() Counts {
	alive := len(s.due.heap)
	return Counts{len(s.users), alive, len(s.sessions) - alive, len(s.keys), len(s.revocations), len(s.legacy),
		len(s.events)}
}

// Kinds of events, beside those of Note.
const (
	EventSignUp          = "sign-up"
	EventLogIn           = "log-in"
	EventLogInRefused    = "log-in-refused" // Detail: the Code
	EventReuse           = "refresh-reuse"  // Detail: which generation
	EventSessionEnded    = "session-ended"  // Detail: why
	EventTokenRevoked    = "token-revoked"  // Detail: its jti
	EventPassword        = "password-changed"
	EventDisabled        = "user-disabled"
	EventEnabled         = "user-enabled"
	EventGroups          = "groups-changed" // Detail: the groups
	EventTOTPAdded       = "totp-added"
	EventTOTPConfirmed   = "totp-confirmed"
	EventTOTPRemoved     = "totp-removed"
	EventKeyAdded        = "key-added"       // Detail: its id
	EventLegacyImported  = "legacy-imported" // Detail: how many
	EventLegacyRevoked   = "legacy-revoked"
	EventLegacyExchanged = "legacy-exchanged" // Detail: the client
	EventLegacyRefused   = "legacy-refused"   // Detail: the Code
	EventStage           = "stage-set"        // Detail: the route, from what, to what
	EventSeeded          = "users-seeded"     // Detail: how many
)

// Event is an entry of the audit trail.
type Event struct {
	Seq     uint64
	At      int64 // Unix milliseconds
	Kind    string
	User    string    // whom it is about
	By      string    // who did it; "": the user himself, or the service
	Session SessionID // zero: none
	Address string
	Detail  string
}

// Filter selects events. Its zero fields select all.
type Filter struct {
	Kind    string
	User    string // whom they are about, or who did it
	Session SessionID
	Since   int64 // Unix milliseconds
	Until   int64 // before this
}

func (f *Filter) selects(e *Event) bool {
	return (f.Kind == "" || f.Kind == e.Kind) && (f.User == "" || f.User == e.User || f.User == e.By) &&
		(f.Session == SessionID{} || f.Session == e.Session) && e.At >= f.Since && (f.Until == 0 || e.At < f.Until)
}

// Events returns up to limit events after a sequence number, oldest first. Of those before the newest EventsMax it
// knows nothing.
func (s *State) Events(after uint64, f Filter, limit int) []Event {
	var found []Event
	for i := s.eventAt(after + 1); i < len(s.events) && len(found) < limit; i++ {
		if f.selects(&s.events[i]) {
			found = append(found, s.events[i])
		}
	}
	return found
}

// EventsBefore returns up to limit events before a sequence number, newest first; 0: the newest of all.
func (s *State) EventsBefore(before uint64, f Filter, limit int) []Event {
	at := len(s.events)
	if before > 0 {
		at = s.eventAt(before)
	}
	var found []Event
	for i := at - 1; i >= 0 && len(found) < limit; i-- {
		if f.selects(&s.events[i]) {
			found = append(found, s.events[i])
		}
	}
	return found
}

// eventAt returns the index of the first event of this sequence number or a later one.
func (s *State) eventAt(seq uint64) int {
	return sort.Search(len(s.events), func(i int) bool { return s.events[i].Seq >= seq })
}
