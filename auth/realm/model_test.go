package realm

import (
	"fmt"
	"slices"
	"strconv"
)

// model is a realm as its documentation reads: lists that are searched, and nothing forgotten but by looking at the
// time.
type model struct {
	now      int64
	requests int
	users    []*modelUser
	sessions []*modelSession // in the order in which they were opened
	keys     []Key
	revoked  []Revocation // all there ever were
	legacy   []*modelLegacy
	stages   map[string]Stage
	events   []Event // all there ever were
}

type modelUser struct {
	User
	used []Hash   // recovery codes
	cuts []int    // requests that ended everything
	ages []uint64 // TOTP steps that were used, of the present secret
}

type modelSession struct {
	Session              // but for what the tokens say
	tokens  []modelToken // by generation
	rotated []int64      // when each became the current one
	over    *Revocation  // that ended it
	why     string       // it ended
}

type modelToken struct {
	hash   Hash
	sealed []byte
}

type modelLegacy struct {
	LegacyToken
	known   int
	session *modelSession
	at      int64
}

const (
	second = int64(1000)
	minute = 60 * second
	day    = 24 * 60 * minute
)

func newModel() *model { return &model{stages: map[string]Stage{}} }

func (m *model) user(id string) *modelUser {
	for _, u := range m.users {
		if u.ID == id {
			return u
		}
	}
	return nil
}

func (m *model) byLogin(login string) *modelUser {
	for _, u := range m.users {
		if u.Login == login {
			return u
		}
	}
	return nil
}

// known says whether the session is remembered.
func (m *model) known(x *modelSession) bool {
	if x.over != nil {
		return m.now <= x.over.Expires
	}
	return m.now < x.Expires+day
}

func (m *model) session(id SessionID) *modelSession {
	for _, x := range m.sessions {
		if x.ID == id && m.known(x) {
			return x
		}
	}
	return nil
}

// of returns what a user has that has not ended.
func (m *model) of(user string) (all []*modelSession) {
	for _, x := range m.sessions {
		if x.User == user && x.over == nil && m.known(x) {
			all = append(all, x)
		}
	}
	slices.SortStableFunc(all, func(a, b *modelSession) int {
		if a.Created != b.Created {
			return int(a.Created - b.Created)
		}
		return slices.Compare(a.ID[:], b.ID[:])
	})
	return all
}

func (x *modelSession) inGrace(now int64) bool {
	last := len(x.tokens) - 1
	return x.over == nil && len(x.tokens[last].sealed) > 0 && now < x.rotated[last]+10*second
}

// show is the session as the state should show it.
func (x *modelSession) show(now int64) Session {
	shown, last := x.Session, len(x.tokens)-1
	shown.Generation, shown.Current, shown.Rotated = uint32(len(x.tokens)), x.tokens[last].hash, x.rotated[last]
	if last > 0 {
		shown.Previous = x.tokens[last-1].hash
	}
	if x.inGrace(now) {
		shown.Sealed = x.tokens[last].sealed
	}
	return shown
}

// legacyOver says when a token of the older system is forgotten.
func (m *model) legacyOver(l *modelLegacy) int64 {
	if m.legacyRevoked(l) || l.session != nil {
		return l.Expires + 180*day
	}
	return l.Expires + day
}

func (m *model) legacyRevoked(l *modelLegacy) bool {
	u := m.user(l.User)
	return l.Revoked || u == nil || slices.ContainsFunc(u.cuts, func(cut int) bool { return cut > l.known })
}

func (m *model) token(hash Hash) *modelLegacy {
	for _, l := range m.legacy {
		if l.Hash == hash {
			return l
		}
	}
	return nil
}

func (m *model) note(kind, user, by string, session SessionID, address, detail string) {
	m.events = append(m.events, Event{uint64(len(m.events) + 1), m.now, kind, user, by, session, address, detail})
}

// follow does a request, and returns the result that is right.
func (m *model) follow(now int64, q Request) Result {
	m.now = now
	m.requests++
	m.legacy = slices.DeleteFunc(m.legacy, func(l *modelLegacy) bool { return m.legacyOver(l) <= now })
	result := m.do(q)
	result.At, result.Seq = now, uint64(len(m.revoked))
	return result
}

func (m *model) do(q Request) Result {
	switch q := q.(type) {
	case *SignUp:
		return m.signUp(q)
	case *LogIn:
		return m.logIn(q)
	case *Refresh:
		return m.refresh(q)
	case *EndSession:
		return m.endSession(q)
	case *RevokeToken:
		return m.revokeToken(q)
	case *AddKey:
		return m.addKey(q)
	case *ImportLegacy:
		return m.importLegacy(q)
	case *RevokeLegacy:
		return m.revokeLegacy(q)
	case *ExchangeLegacy:
		return m.exchangeLegacy(q)
	case *SetStage:
		before := m.stages[q.Route]
		if before == q.Stage {
			return Result{Code: Same}
		}
		m.stages[q.Route] = q.Stage
		m.note("stage-set", "", q.By, SessionID{}, "", q.Route+": "+before.String()+" → "+q.Stage.String())
		return Result{}
	case *Seed:
		return m.seed(q)
	case *Note:
		m.note(q.Kind, q.User, q.By, q.Session, q.Address, q.Detail)
		return Result{}
	}
	return m.change(q)
}

func (m *model) add(u User) {
	u.Version, u.Created, u.Changed = 1, m.now, m.now
	m.users = append(m.users, &modelUser{User: u})
}

func (m *model) signUp(q *SignUp) Result {
	if u := m.user(q.User); u != nil {
		if u.Login == q.Login && u.Password == q.Password && u.Version == 1 {
			return Result{Code: Same, User: q.User}
		}
		return Result{Code: UserExists}
	}
	if m.byLogin(q.Login) != nil {
		return Result{Code: LoginTaken}
	}
	if q.Short {
		return Result{Code: PasswordShort}
	}
	m.add(User{ID: q.User, Login: q.Login, Name: q.Name, Email: q.Email, Password: q.Password})
	m.note("sign-up", q.User, q.By, SessionID{}, q.Address, "")
	return Result{User: q.User}
}

func (m *model) seed(q *Seed) (result Result) {
	for _, row := range q.Users {
		if m.user(row.User) != nil || m.byLogin(row.Login) != nil {
			result.Kept++
			continue
		}
		m.add(User{ID: row.User, Login: row.Login, Password: row.Password, Groups: row.Groups})
		result.Added++
	}
	if result.Added > 0 {
		m.note("users-seeded", "", q.By, SessionID{}, "", fmt.Sprintf("%d users", result.Added))
	}
	return result
}

// about is a result of a session.
func (m *model) about(c Code, x *modelSession) Result {
	return Result{Code: c, User: x.User, Session: x.ID, Generation: uint32(len(x.tokens)), Scope: x.Scope,
		Groups: m.user(x.User).Groups}
}

func (m *model) logIn(q *LogIn) Result {
	u := m.user(q.User)
	if u == nil {
		return Result{Code: UserUnknown}
	}
	if x := m.session(q.Session); x != nil {
		if x.User != u.ID || x.over != nil || len(x.tokens) > 1 || x.tokens[0].hash != q.Token {
			return Result{Code: Invalid}
		}
		result := m.about(Same, x)
		result.Sealed = x.show(m.now).Sealed
		return result
	}
	code := Done
	switch {
	case u.Disabled:
		code = UserDisabled
	case u.Version != q.Checked:
		code = Stale
	case u.TOTP.Secret == nil:
	case q.Recovery != Hash{}:
		if !slices.Contains(u.Recovery, q.Recovery) || slices.Contains(u.used, q.Recovery) {
			code = RecoveryUnknown
		} else {
			u.used = append(u.used, q.Recovery)
		}
	case q.Step == 0:
		code = FactorNeeded
	case slices.ContainsFunc(u.ages, func(step uint64) bool { return step >= q.Step }):
		code = StepUsed
	default:
		u.ages = append(u.ages, q.Step)
	}
	if code != Done {
		m.note("log-in-refused", u.ID, "", SessionID{}, q.Address, code.String())
		return Result{Code: code, User: u.ID}
	}
	if q.Rehash != "" {
		u.Password = q.Rehash
	}
	u.LoggedIn = m.now
	x, ended := m.open(u, &q.Opening, nil)
	m.note("log-in", u.ID, "", q.Session, q.Address, q.Client)
	result := m.about(Done, x)
	result.Ended = ended
	return result
}

func (m *model) open(u *modelUser, o *Opening, sealed []byte) (x *modelSession, ended int) {
	if has := m.of(u.ID); len(has) >= testPerUser {
		oldest := has[0]
		for _, other := range has {
			if other.Used < oldest.Used {
				oldest = other
			}
		}
		m.end(oldest, "limit", u.ID, o.Address)
		ended = 1
	}
	x = &modelSession{Session: Session{ID: o.Session, User: u.ID, Client: o.Client, Scope: o.Scope, Agent: o.Agent,
		Address: o.Address, Key: o.Key, Created: m.now, Used: m.now, Expires: m.now + 30*day, End: m.now + 180*day},
		tokens: []modelToken{{o.Token, sealed}}, rotated: []int64{m.now}}
	m.sessions = append(m.sessions, x)
	return x, ended
}

func (m *model) end(x *modelSession, why, by, address string) {
	r := m.revoke(RevokedSession, x.ID, 0)
	x.Ended, x.over, x.why = m.now, &r, why
	m.note("session-ended", x.User, by, x.ID, address, why)
}

func (m *model) revoke(kind RevocationKind, id [16]byte, expires int64) Revocation {
	until := max(m.now+6*minute, expires+minute)
	for _, r := range m.revoked {
		until = max(until, r.Expires)
	}
	r := Revocation{uint64(len(m.revoked) + 1), kind, id, until}
	m.revoked = append(m.revoked, r)
	return r
}

func (m *model) refresh(q *Refresh) Result {
	x := m.session(q.Session)
	if x == nil {
		return Result{Code: Unknown}
	}
	refused := func(c Code) Result { return Result{Code: c, User: x.User, Session: x.ID} }
	switch {
	case m.user(x.User).Disabled:
		return refused(UserDisabled)
	case x.over != nil:
		return refused(SessionEnded)
	case m.now >= x.Expires:
		return refused(SessionExpired)
	}
	last := len(x.tokens) - 1
	which := slices.IndexFunc(x.tokens, func(token modelToken) bool { return token.hash == q.Token })
	switch {
	case which == last && q.Generation == uint32(last+1):
		x.tokens, x.rotated = append(x.tokens, modelToken{q.Next, q.Sealed}), append(x.rotated, m.now)
		x.Used, x.Expires = m.now, min(m.now+30*day, x.End)
		if q.Agent != "" {
			x.Agent = q.Agent
		}
		if q.Address != "" {
			x.Address = q.Address
		}
		return m.about(Done, x)
	case which == last-1 && last > 0 && q.Generation == uint32(last):
		if q.Next == x.tokens[last].hash {
			result := m.about(Done, x)
			result.Sealed = x.show(m.now).Sealed
			return result
		}
		if x.inGrace(m.now) {
			x.Used = m.now
			result := m.about(Same, x)
			result.Sealed = x.tokens[last].sealed
			return result
		}
	case q.Generation >= uint32(last):
		return refused(Unknown)
	}
	m.note("refresh-reuse", x.User, "", x.ID, q.Address, "generation "+strconv.Itoa(int(q.Generation)))
	m.end(x, "reuse", "", q.Address)
	result := refused(Reuse)
	result.Ended = 1
	return result
}

func (m *model) endSession(q *EndSession) Result {
	x := m.session(q.Session)
	if x == nil || x.User != q.By && !q.Any {
		return Result{Code: Unknown}
	}
	if x.over != nil {
		return Result{Code: SessionEnded, User: x.User, Session: x.ID}
	}
	why := "log-out"
	if x.User != q.By {
		why = "other"
	}
	m.end(x, why, q.By, q.Address)
	return Result{User: x.User, Session: x.ID, Ended: 1}
}

func (m *model) revokeToken(q *RevokeToken) Result {
	if q.Expires > m.now+60*minute {
		return Result{Code: Invalid}
	}
	if m.tokenRevoked(q.ID) {
		return Result{Code: Same}
	}
	m.revoke(RevokedToken, q.ID, q.Expires)
	m.note("token-revoked", q.User, q.By, SessionID{}, q.Address, q.ID.String())
	return Result{User: q.User}
}

func (m *model) tokenRevoked(id TokenID) bool {
	return slices.ContainsFunc(m.revoked, func(r Revocation) bool {
		return r.Kind == RevokedToken && r.ID == id && m.now <= r.Expires
	})
}

// change does what is about one user who must exist.
func (m *model) change(q Request) Result {
	u := m.user(userOf(q))
	if u == nil {
		return Result{Code: UserUnknown}
	}
	refused := func(c Code) Result { return Result{Code: c, User: u.ID} }
	stale := func(checked uint32) bool { return checked != 0 && checked != u.Version }
	result := Result{User: u.ID}
	switch q := q.(type) {
	case *EndSessions:
		result.Ended = m.endAll(u, q.Keep, "everywhere", q.By, q.Address)
	case *SetPassword:
		if stale(q.Checked) {
			return refused(Stale)
		}
		if q.Short && u.TOTP.Secret == nil {
			return refused(PasswordShort)
		}
		u.Password, u.Short, u.Changed, u.Version = q.Password, q.Short, m.now, u.Version+1
		m.note("password-changed", u.ID, q.By, q.Keep, q.Address, "")
		result.Ended = m.endAll(u, q.Keep, "password", q.By, q.Address)
	case *Rehash:
		if q.Checked == 0 || stale(q.Checked) {
			return refused(Stale)
		}
		u.Password = q.Password
	case *SetDisabled:
		if u.Disabled == q.Disabled {
			return refused(Same)
		}
		u.Disabled = q.Disabled
		kind := map[bool]string{true: "user-disabled", false: "user-enabled"}[q.Disabled]
		m.note(kind, u.ID, q.By, SessionID{}, q.Address, "")
		if q.Disabled {
			result.Ended = m.endAll(u, SessionID{}, "disabled", q.By, q.Address)
		}
	case *SetGroups:
		u.Groups, result.Groups = q.Groups, q.Groups
		m.note("groups-changed", u.ID, q.By, SessionID{}, q.Address, joined(q.Groups))
	case *AddTOTP, *ConfirmTOTP, *RemoveTOTP:
		return m.factor(u, q)
	}
	return result
}

func joined(groups []string) (text string) {
	for i, g := range groups {
		if i > 0 {
			text += " "
		}
		text += g
	}
	return text
}

func (m *model) factor(u *modelUser, q Request) Result {
	refused := func(c Code) Result { return Result{Code: c, User: u.ID} }
	switch q := q.(type) {
	case *AddTOTP:
		if q.Checked != 0 && q.Checked != u.Version {
			return refused(Stale)
		}
		u.TOTP.Pending = q.Secret
		m.note("totp-added", u.ID, q.By, SessionID{}, q.Address, "")
	case *ConfirmTOTP:
		if u.TOTP.Pending == nil || string(u.TOTP.Pending) != string(q.Secret) {
			return refused(NotPending)
		}
		u.TOTP, u.Recovery = TOTP{Secret: u.TOTP.Pending}, q.Recovery
		u.Version, u.used, u.ages = u.Version+1, nil, []uint64{q.Step}
		m.note("totp-confirmed", u.ID, q.By, SessionID{}, q.Address, "")
	case *RemoveTOTP:
		switch {
		case q.Checked != 0 && q.Checked != u.Version:
			return refused(Stale)
		case u.TOTP.Secret == nil && u.TOTP.Pending == nil:
			return refused(NotPending)
		case u.Short:
			return refused(PasswordShort)
		}
		u.TOTP, u.Recovery, u.used, u.ages, u.Version = TOTP{}, nil, nil, nil, u.Version+1
		m.note("totp-removed", u.ID, q.By, SessionID{}, q.Address, "")
	}
	return Result{User: u.ID}
}

// show is the user as the state should show him.
func (u *modelUser) show() User {
	shown := u.User
	shown.Recovery = nil
	for _, code := range u.Recovery {
		if !slices.Contains(u.used, code) {
			shown.Recovery = append(shown.Recovery, code)
		}
	}
	if len(u.ages) > 0 {
		shown.TOTP.Step = slices.Max(u.ages)
	}
	return shown
}

func (m *model) endAll(u *modelUser, keep SessionID, why, by, address string) (ended int) {
	u.cuts = append(u.cuts, m.requests)
	for _, x := range m.of(u.ID) {
		if x.ID != keep {
			m.end(x, why, by, address)
			ended++
		}
	}
	return ended
}

// signs is when a key begins to sign; it retires when it has a successor that has for 6 minutes.
func (m *model) published(now int64) (all []Key) {
	for i, k := range m.keys {
		if i+1 < len(m.keys) {
			k.Retires = m.keys[i+1].Signs + 6*minute
		}
		if k.Retires == 0 || now < k.Retires {
			all = append(all, k)
		}
	}
	return all
}

func (m *model) addKey(q *AddKey) Result {
	all := m.published(m.now)
	if slices.ContainsFunc(all, func(k Key) bool { return k.ID == q.ID }) {
		return Result{Code: Same}
	}
	if len(all) >= testKeys {
		return Result{Code: Full}
	}
	k := Key{ID: q.ID, Alg: q.Alg, Public: q.Public, Sealed: q.Sealed, Published: m.now, Signs: m.now}
	if len(all) > 0 {
		k.Signs = max(m.now+q.Cache, all[len(all)-1].Signs)
	}
	m.keys = append(m.keys, k)
	m.note("key-added", "", q.By, SessionID{}, "", q.ID)
	return Result{}
}

func (m *model) importLegacy(q *ImportLegacy) (result Result) {
	for _, row := range q.Tokens {
		l := m.token(row.Hash)
		if l != nil {
			l.Revoked = l.Revoked || row.Revoked
			if m.legacyRevoked(l) || l.User == row.User {
				l.Expires = max(l.Expires, min(row.Expires, m.now+180*day))
			}
			result.Kept++
			continue
		}
		if row.Expires <= m.now {
			result.Kept++
			continue
		}
		if m.user(row.User) == nil && !row.Revoked {
			result.Refused++
			continue
		}
		row.Expires = min(row.Expires, m.now+180*day)
		m.legacy = append(m.legacy, &modelLegacy{LegacyToken: row, known: m.requests})
		result.Added++
	}
	m.note("legacy-imported", "", q.By, SessionID{}, "",
		fmt.Sprintf("%d added, %d kept, %d refused", result.Added, result.Kept, result.Refused))
	return result
}

func (m *model) revokeLegacy(q *RevokeLegacy) Result {
	l := m.token(q.Hash)
	if l == nil && q.Expires <= m.now {
		return Result{Code: LegacyUnknown}
	}
	if l == nil {
		l = &modelLegacy{LegacyToken: LegacyToken{Hash: q.Hash}, known: m.requests}
		m.legacy = append(m.legacy, l)
		l.Revoked = false
	}
	before := l.User != "" && m.legacyRevoked(l) || l.Revoked
	l.Revoked, l.Expires = true, max(l.Expires, min(q.Expires, m.now+180*day))
	if before {
		return Result{Code: Same, User: l.User}
	}
	m.note("legacy-revoked", l.User, q.By, SessionID{}, q.Address, "")
	return Result{User: l.User}
}

func (m *model) exchangeLegacy(q *ExchangeLegacy) Result {
	l := m.token(q.Hash)
	if l == nil {
		return Result{Code: LegacyUnknown}
	}
	u := m.user(l.User)
	refused := func(c Code) Result {
		session := SessionID{}
		if l.session != nil {
			session = l.session.ID
		}
		m.note("legacy-refused", l.User, "", session, q.Address, c.String())
		return Result{Code: c, User: l.User}
	}
	switch {
	case m.legacyRevoked(l):
		return refused(LegacyRevoked)
	case u.Disabled:
		return refused(UserDisabled)
	case l.session != nil:
		x := l.session
		if x.over == nil && len(x.tokens) == 1 && m.known(x) && x.tokens[0].hash == q.Token {
			result := m.about(Done, x)
			result.Sealed = x.show(m.now).Sealed
			return result
		}
		if len(x.tokens) == 1 && x.inGrace(m.now) {
			x.Used = m.now
			result := m.about(Same, x)
			result.Sealed = x.tokens[0].sealed
			return result
		}
		return refused(LegacyExchanged)
	case m.now >= l.Expires:
		return refused(LegacyExpired)
	case m.session(q.Session) != nil:
		return refused(Invalid)
	}
	x, ended := m.open(u, &q.Opening, q.Sealed)
	l.session, l.at = x, m.now
	m.note("legacy-exchanged", u.ID, "", q.Session, q.Address, q.Client)
	result := m.about(Done, x)
	result.Ended = ended
	return result
}
