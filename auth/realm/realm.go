// Package realm is who may come in, as a deterministic state machine: users and their second factors, sessions with
// rotating refresh tokens, signing keys, revocations, the tokens of an older system, and the audit trail. It is pure:
// no clock, no luck, no I/O, no locks. Times come from the log; ids, keys and hashes of secrets come in requests. One
// goroutine drives it; what a view returns may be kept and read by others, as nothing in it is ever changed.
//
// # Time
//
// Every time is in Unix milliseconds. The time that decides is that of the slot, Result.At, which never goes back: where
// a clock was ahead for a moment, it stands still until the clocks have come after it. Who mints an access token for a
// request must take Result.At for its iat, or an earlier time: then a revocation, which is kept for AccessLife + Skew,
// outlives every token that it is about. A clock that was ahead by more than that, and is set back, makes the revocations
// of just before be forgotten: who has heard of them keeps them (see package verify), who starts then does not know them.
//
// # Sessions
//
// A session is a family of refresh tokens, one after the other, numbered from generation 1. The state knows the SHA-256
// of the current token and of the one before. Refresh with the current one rotates: the request brings the successor's
// hash, and the successor sealed under the token that it succeeds. Refresh with the one before, within Grace of the
// rotation, is a client that has not seen the answer: it gets the same sealed successor again. With the one before
// after that, or with any older one, it is reuse: the family ends, and is revoked. The request vouches that the token's
// tag was made with the family's key (see Token), and so that this realm made it; one of the current or the previous
// generation that was never current lost a race and was given to nobody: it is merely unknown, and ends nothing. The
// sealed successor is forgotten when Grace is over, or when it is rotated itself.
//
// A session expires IdleLife after its last rotation and SessionLife after it was opened. It ends, with a revocation,
// by EndSession, EndSessions, SetPassword, SetDisabled, reuse, and by a log-in beyond SessionsPerUserMax, for which the
// one that was used the longest ago makes room. An ended one is known as such as long as its revocation, an expired one
// for ExpiredKept.
//
// # Log-ins
//
// Whoever checks a password does so outside, against the User of some moment. LogIn carries the Version of that moment;
// a password or second factor that was changed since makes another Version, and the log-in loses (Stale). A Rehash of
// the same password does not. A TOTP step counts once, and none before it afterwards; a recovery code counts once. A
// short password is one that the policy allows beside a second factor alone: with it, the second factor stays.
//
// # Tokens of an older system
//
// ImportLegacy makes them known by their SHA-256. One can be exchanged for a session once; a retry within Grace gets
// the same sealed refresh token. One that was revoked never is, whatever is imported later. A password change,
// EndSessions and SetDisabled revoke those of the user that are known by then.
//
// # Memory
//
// Measured by BenchmarkMemory on amd64, with password hashes of 100 bytes, logins of 16 and user agents of 90: 477
// bytes per user, 482 per session, 215 per token of the older system, 218 per event. The newest EventsMax events of the
// audit trail stay in memory; the log has all.
package realm

import (
	"strconv"
	"time"

	"dongne/internal/sharedlog"
)

// Spans of time.
const (
	AccessLife  = 5 * time.Minute      // of an access token
	Skew        = time.Minute          // by which clocks of ours may differ
	Grace       = 10 * time.Second     // in which the token before the current one gets the same successor
	IdleLife    = 30 * 24 * time.Hour  // of a session without a rotation
	SessionLife = 180 * 24 * time.Hour // of a session, however often it is rotated
	ExpiredKept = 24 * time.Hour       // what has expired is known as such
	// UsedKept is how long after its expiry a token of the older system is known that was revoked or exchanged, in case it
	// is imported again with a later one.
	UsedKept = 180 * 24 * time.Hour
	// LegacyLifeMax is how far in the future such a token may expire; what is later is cut to this.
	LegacyLifeMax = 180 * 24 * time.Hour
	// TokenAheadMax is how far in the future a token may expire that RevokeToken is about.
	TokenAheadMax = time.Hour
)

// Limits of the state. A request beyond them gets Full.
const (
	UsersMax           = 5_000_000
	SessionsMax        = 20_000_000
	SessionsPerUserMax = 100 // the next one ends another
	KeysMax            = 16
	RevocationsMax     = 1_000_000 // for RevokeToken; a session's end is always revoked
	LegacyMax          = 5_000_000
	RoutesMax          = 256     // with a stage
	EventsMax          = 100_000 // in memory; older ones are dropped there
)

// Limits of requests, in bytes unless they say otherwise. Encode refuses what is beyond them.
const (
	UserBytesMax     = 64 // of a user's id
	LoginBytesMax    = 64
	NameBytesMax     = 128
	EmailBytesMax    = 254
	PasswordBytesMax = 256 // of a password's hash
	GroupBytesMax    = 64
	GroupsMax        = 32  // of a user
	SecretBytesMax   = 256 // of a sealed TOTP secret, or a sealed successor
	RecoveryMax      = 16  // codes of a user
	ClientBytesMax   = 64
	ScopeBytesMax    = 256
	AgentBytesMax    = 256
	AddressBytesMax  = 64
	KeyIDBytesMax    = 64
	AlgBytesMax      = 16
	KeyBytesMax      = 2048 // of a public key, or a sealed private one
	RouteBytesMax    = 64
	EventBytesMax    = 32  // of an event's kind
	DetailBytesMax   = 256 // of an event
	RowsMax          = 1000
)

// Code says what came of a request.
type Code uint8

// Codes. Done and Same are successes, all others refusals, which changed nothing but the audit trail; Reuse ended a
// session.
const (
	Done    Code = iota
	Same         // Refresh, ExchangeLegacy: it was done before; Result.Sealed is what came of it
	Reuse        // Refresh: an old token came back; the family has ended
	Unknown      // no such session or token, or not the caller's
	SessionExpired
	SessionEnded
	UserUnknown
	UserDisabled
	UserExists // the id is another's
	LoginTaken
	Stale           // the password or the second factor changed since they were checked
	FactorNeeded    // the user's, or one that a short password needs
	StepUsed        // this TOTP step, or a later one, was used before
	RecoveryUnknown // no such recovery code; it may have been used
	PasswordShort   // too short without a second factor
	NotPending      // no such second factor waits to be confirmed
	LegacyUnknown
	LegacyExpired
	LegacyRevoked
	LegacyExchanged
	Full    // a limit of the state is reached
	Invalid // the request cannot be meant: a bug of whoever made it
	codes
)

var codeTexts = [codes]string{"done", "same", "refresh-reuse", "unknown", "session-expired", "session-ended",
	"user-unknown", "user-disabled", "user-exists", "login-taken", "stale", "second-factor-needed", "totp-step-used",
	"recovery-code-unknown", "password-short", "not-pending", "legacy-unknown", "legacy-expired", "legacy-revoked",
	"legacy-exchanged", "full", "invalid"}

// String returns the code as the API and the audit trail have it: "second-factor-needed".
func (c Code) String() string {
	if c < codes {
		return codeTexts[c]
	}
	return "code-" + strconv.Itoa(int(c))
}

// OK says whether the request was done, now or before.
func (c Code) OK() bool { return c == Done || c == Same }

// Result is what came of a request. Beside Code and At, it has what its request's documentation says.
type Result struct {
	Code       Code
	At         int64     // time of the slot, Unix milliseconds: the iat of tokens that are made for it
	User       string    // whom it was about
	Session    SessionID // that was opened, rotated or ended
	Generation uint32    // of the session's current refresh token
	Scope      string    // of the session
	Groups     []string  // of the user; not to be changed
	Sealed     []byte    // with Same: the successor, as sealed by whoever made it; not to be changed
	Ended      int       // sessions that ended by it
	Added      int       // rows of a batch that were new,
	Kept       int       // that were there,
	Refused    int       // and that could not be taken
	Seq        uint64    // of the newest revocation after it
}

// Stage says which tokens count on a route while it moves to this realm.
type Stage uint8

// Stages, in the order of a migration; any may follow any.
const (
	StageUnset  Stage = iota // never set
	StageLegacy              // the older system decides alone
	StageShadow              // it decides; this realm's verdict is compared
	StageDual                // tokens of both count
	StageNew                 // this realm decides alone
	stages
)

var stageTexts = [stages]string{"", "legacy", "shadow", "dual", "new"}

// String returns "legacy", "shadow", "dual" or "new"; "" of one that was never set.
func (g Stage) String() string {
	if g < stages {
		return stageTexts[g]
	}
	return "stage-" + strconv.Itoa(int(g))
}

// ParseStage reads what String wrote; false for anything else, and for "".
func ParseStage(text string) (Stage, bool) {
	for g := StageLegacy; g < stages; g++ {
		if stageTexts[g] == text {
			return g, true
		}
	}
	return StageUnset, false
}

// limits are those of the state, smaller in tests.
type limits struct{ users, sessions, perUser, keys, revocations, legacy, routes, events int }

// State is a realm after some slot.
type State struct {
	position    sharedlog.Position
	now         int64  // of position, in milliseconds
	requests    uint64 // applied: says what came first within a millisecond
	users       map[string]*user
	byLogin     map[string]*user
	sessions    map[SessionID]*session // also ended ones, as long as their revocations
	due         deadlines[*session]    // each session that has not ended
	grace       []graced               // in order of time: what is sealed
	keys        []Key                  // in the order in which they sign
	revocations []Revocation           // by Seq, without gaps; what was appended never changes
	revoked     map[TokenID]bool       // those of revocations that are about a token
	seq         uint64                 // of the newest revocation ever
	legacy      map[Hash]*legacy
	legacyDue   deadlines[*legacy]
	stages      map[string]Stage
	events      []Event // by Seq, without gaps; what was appended never changes
	eventSeq    uint64
	limits      limits
}

// user is a User with what is not shown.
type user struct {
	User
	cut   uint64     // the older system's tokens that became known before this request are revoked
	alive []*session // that have not ended; in no order that counts
}

// session is a Session with its place among the deadlines.
type session struct {
	Session
	place int
}

// legacy is a token of an older system.
type legacy struct {
	Legacy
	hash  Hash
	known uint64 // the request that made it known
	place int
}

// graced is a session with a sealed successor, and when it was rotated.
type graced struct {
	session *session
	rotated int64
}

// New returns the state before slot 1.
func New() *State {
	return &State{users: map[string]*user{}, byLogin: map[string]*user{}, sessions: map[SessionID]*session{},
		revoked: map[TokenID]bool{}, legacy: map[Hash]*legacy{}, stages: map[string]Stage{},
		limits: limits{UsersMax, SessionsMax, SessionsPerUserMax, KeysMax, RevocationsMax, LegacyMax, RoutesMax, EventsMax}}
}

// Apply does a request at a place in the log. Places never go back in time.
func (s *State) Apply(at sharedlog.Position, q Request) Result {
	s.advance(at)
	s.requests++
	result := q.apply(s)
	result.At, result.Seq = s.now, s.seq
	return result
}

// advance moves to a slot, and forgets what is over by its time.
func (s *State) advance(at sharedlog.Position) {
	s.position, s.now = at, max(s.now, at.Time/int64(time.Millisecond))
	s.unseal()
	s.forgetRevocations()
	for s.due.until(s.now) {
		s.drop(s.due.pop())
	}
	for s.legacyDue.until(s.now) {
		s.forgetLegacy(s.legacyDue.pop())
	}
	for len(s.keys) > 1 && s.keys[0].Retires <= s.now {
		s.keys = s.keys[1:]
	}
}

// refuse is a refusal of what a user asked for.
func refuse(c Code) Result { return Result{Code: c} }
