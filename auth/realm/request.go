package realm

// Request is one thing to do: a pointer to one of the types of this file. Unless a comment says otherwise, texts may be
// empty, By is who asked for it ("" for the service itself), and Address where from; both are for the audit trail.
type Request interface {
	kind() kind
	fields(c *coder)
	apply(s *State) Result
}

// SignUp makes a user. Refused: UserExists, LoginTaken, PasswordShort, Full. The same again, while it was not changed,
// is Same. Result: User.
type SignUp struct {
	User     string // his new id: see ValidUser
	Login    string // see NormalLogin
	Name     string
	Email    string
	Password string // its hash; "": he cannot log in by password
	Short    bool   // the password is too short without a second factor
	By       string
	Address  string
}

// Opening is the session that a request opens.
type Opening struct {
	Session SessionID
	Key     FamilyKey
	Token   Hash // of its first refresh token
	Client  string
	Scope   string // space-separated
	Agent   string // the user agent, for people to tell their sessions apart
	Address string
}

// LogIn opens a session for a user whose password was checked. Refused: UserUnknown, UserDisabled, Stale, FactorNeeded,
// StepUsed, RecoveryUnknown, Full; each but the first makes an event. The same again, while its session was not
// refreshed, is Same. Result: User, Session, Generation, Scope, Groups;
// Ended, of sessions that made room.
type LogIn struct {
	User     string
	Checked  uint32 // the user's Version as it was when the password was checked
	Step     uint64 // the TOTP step whose code was right; 0: none
	Recovery Hash   // of a recovery code, instead; zero: none
	Rehash   string // the password's hash, made anew; "": it stays
	Opening
}

// Refresh presents a genuine refresh token and brings a successor. Done: it was the current one, and Next is now. Same:
// it was the one before, within Grace; Sealed is the successor that was made then. Refused: Unknown, UserDisabled,
// SessionEnded, SessionExpired, Reuse. Result: User, Session, Generation, Scope, Groups; with Reuse also Ended.
type Refresh struct {
	Session    SessionID
	Generation uint32 // of the token that was presented
	Token      Hash   // of it
	Next       Hash   // of the successor, of the next generation
	Sealed     []byte // the successor, sealed under the token that was presented
	Agent      string // "": as it was
	Address    string // "": as it was
}

// EndSession ends a session: By's own, or with Any anybody's. Refused: Unknown, SessionEnded. Result: User, Session,
// Ended.
type EndSession struct {
	Session SessionID
	Any     bool
	By      string
	Address string
}

// EndSessions ends all sessions of a user but one, and revokes his tokens of the older system. Refused: UserUnknown.
// Result: User, Ended.
type EndSessions struct {
	User    string
	Keep    SessionID // zero: none
	By      string
	Address string
}

// RevokeToken revokes one access token. Whether it has expired is for who asks: by his clock, it counts still. The same
// again is Same. Refused: Full; Invalid when it expires later than TokenAheadMax.
type RevokeToken struct {
	ID      TokenID
	Expires int64 // its exp, Unix milliseconds
	User    string
	By      string
	Address string
}

// SetPassword changes a password, ends all sessions of the user but one, and revokes his tokens of the older system.
// Refused: UserUnknown, Stale, PasswordShort. Result: User, Ended.
type SetPassword struct {
	User     string
	Checked  uint32 // the user's Version as it was when the old password was checked; 0: it was not
	Password string // the hash of the new one
	Short    bool   // it is too short without a second factor
	Keep     SessionID
	By       string
	Address  string
}

// Rehash replaces a password's hash by another one of the same password. Refused: UserUnknown, Stale. Result: User.
type Rehash struct {
	User     string
	Checked  uint32 // the user's Version as it was when the password was checked
	Password string
}

// SetDisabled disables a user, which ends all his sessions and revokes his tokens of the older system, or enables him.
// As he is: Same. Refused: UserUnknown. Result: User, Ended.
type SetDisabled struct {
	User     string
	Disabled bool
	By       string
	Address  string
}

// SetGroups replaces a user's groups. They are in access tokens from the next refresh on; to take a right away at once,
// end his sessions too. Refused: UserUnknown. Result: User, Groups.
type SetGroups struct {
	User    string
	Groups  []string
	By      string
	Address string
}

// AddTOTP keeps a secret that waits to be confirmed, in place of one that did. Refused: UserUnknown, Stale. Result:
// User.
type AddTOTP struct {
	User    string
	Checked uint32 // the user's Version as it was when the password was checked; 0: it was not
	Secret  []byte // sealed; not empty
	By      string
	Address string
}

// ConfirmTOTP makes the secret that waits the user's second factor, in place of the one he had; its recovery codes too.
// Refused: UserUnknown, NotPending. Result: User.
type ConfirmTOTP struct {
	User     string
	Secret   []byte // that was checked: must be the one that waits
	Step     uint64 // whose code was right; it is used thereby
	Recovery []Hash // of the new recovery codes
	By       string
	Address  string
}

// RemoveTOTP takes the second factor away, and what waits. Refused: UserUnknown, Stale, NotPending when there is none,
// PasswordShort when the password needs it. Result: User.
type RemoveTOTP struct {
	User    string
	Checked uint32 // as in AddTOTP
	By      string
	Address string
}

// AddKey publishes a signing key. It signs after Cache, when everybody has it; the first one at once. The one before is
// published for AccessLife + Skew longer. A key that is known: Same. Refused: Full.
type AddKey struct {
	ID     string // kid
	Alg    string
	Public []byte // JWK
	Sealed []byte // the private key
	Cache  int64  // milliseconds for which verifiers keep a key set
	By     string
}

// LegacyToken is a row of ImportLegacy.
type LegacyToken struct {
	Hash    Hash
	User    string // need not exist if Revoked
	Expires int64  // Unix milliseconds
	Revoked bool
}

// ImportLegacy makes tokens of the older system known. A token that is known stays as it is, but that it may become
// revoked, or expire later, at most LegacyLifeMax ahead. Result: Added; Kept: known, or expired; Refused: of unknown
// users, or beyond LegacyMax.
type ImportLegacy struct {
	Tokens []LegacyToken // at most RowsMax
	By     string
}

// RevokeLegacy revokes a token of the older system. One that is unknown is remembered as revoked until Expires, in case
// it is imported later (so Expires must not be before the token's own); without Expires it is refused: LegacyUnknown.
// Revoked before: Same. A session that it was exchanged for stays. Refused: Full. Result: User.
type RevokeLegacy struct {
	Hash    Hash
	Expires int64 // Unix milliseconds; 0: it must be known
	By      string
	Address string
}

// ExchangeLegacy opens a session for a token of the older system, once. Done and Same are as with Refresh. Refused:
// LegacyUnknown, LegacyRevoked, LegacyExchanged, LegacyExpired, UserDisabled, Full. Result: as of LogIn; Sealed.
type ExchangeLegacy struct {
	Hash   Hash
	Sealed []byte // the session's first refresh token, sealed under the token
	Opening
}

// SetStage moves a route to a stage. Refused: Full, Invalid.
type SetStage struct {
	Route string
	Stage Stage // StageUnset: it is forgotten
	By    string
}

// Seed makes users, as far as neither their id nor their login is there. Result: Added, Kept.
type Seed struct {
	Users []SeedUser // at most RowsMax
	By    string
}

// SeedUser is a row of Seed.
type SeedUser struct {
	User     string
	Login    string
	Name     string
	Email    string
	Password string // its hash; "": he cannot log in by password
	Groups   []string
}

// Note adds an event to the audit trail that is about nothing in the state, like a log-in whose password was wrong.
type Note struct {
	Kind    string // 1 to EventBytesMax of a-z, 0-9 and "-_./"
	User    string
	By      string
	Session SessionID
	Address string
	Detail  string
}

// kind is the second byte of a command.
type kind uint8

const (
	kindSignUp kind = 1 + iota
	kindLogIn
	kindRefresh
	kindEndSession
	kindEndSessions
	kindRevokeToken
	kindSetPassword
	kindRehash
	kindSetDisabled
	kindSetGroups
	kindAddTOTP
	kindConfirmTOTP
	kindRemoveTOTP
	kindAddKey
	kindImportLegacy
	kindRevokeLegacy
	kindExchangeLegacy
	kindSetStage
	kindSeed
	kindNote
	kinds
)

// blank returns a request of a kind to read into; nil: there is no such kind.
func blank(k kind) Request {
	switch k {
	case kindSignUp:
		return &SignUp{}
	case kindLogIn:
		return &LogIn{}
	case kindRefresh:
		return &Refresh{}
	case kindEndSession:
		return &EndSession{}
	case kindEndSessions:
		return &EndSessions{}
	case kindRevokeToken:
		return &RevokeToken{}
	case kindSetPassword:
		return &SetPassword{}
	case kindRehash:
		return &Rehash{}
	case kindSetDisabled:
		return &SetDisabled{}
	case kindSetGroups:
		return &SetGroups{}
	case kindAddTOTP:
		return &AddTOTP{}
	case kindConfirmTOTP:
		return &ConfirmTOTP{}
	case kindRemoveTOTP:
		return &RemoveTOTP{}
	case kindAddKey:
		return &AddKey{}
	case kindImportLegacy:
		return &ImportLegacy{}
	case kindRevokeLegacy:
		return &RevokeLegacy{}
	case kindExchangeLegacy:
		return &ExchangeLegacy{}
	case kindSetStage:
		return &SetStage{}
	case kindSeed:
		return &Seed{}
	case kindNote:
		return &Note{}
	}
	return nil
}

func (*SignUp) kind() kind         { return kindSignUp }
func (*LogIn) kind() kind          { return kindLogIn }
func (*Refresh) kind() kind        { return kindRefresh }
func (*EndSession) kind() kind     { return kindEndSession }
func (*EndSessions) kind() kind    { return kindEndSessions }
func (*RevokeToken) kind() kind    { return kindRevokeToken }
func (*SetPassword) kind() kind    { return kindSetPassword }
func (*Rehash) kind() kind         { return kindRehash }
func (*SetDisabled) kind() kind    { return kindSetDisabled }
func (*SetGroups) kind() kind      { return kindSetGroups }
func (*AddTOTP) kind() kind        { return kindAddTOTP }
func (*ConfirmTOTP) kind() kind    { return kindConfirmTOTP }
func (*RemoveTOTP) kind() kind     { return kindRemoveTOTP }
func (*AddKey) kind() kind         { return kindAddKey }
func (*ImportLegacy) kind() kind   { return kindImportLegacy }
func (*RevokeLegacy) kind() kind   { return kindRevokeLegacy }
func (*ExchangeLegacy) kind() kind { return kindExchangeLegacy }
func (*SetStage) kind() kind       { return kindSetStage }
func (*Seed) kind() kind           { return kindSeed }
func (*Note) kind() kind           { return kindNote }
