package realm

import (
	"bytes"
	"slices"
	"strconv"
	"time"
)

func (q *SignUp) apply(s *State) Result {
	if u := s.users[q.User]; u != nil {
		if u.Login == q.Login && u.Password == q.Password && u.Version == 1 {
			return Result{Code: Same, User: u.ID}
		}
		return refuse(UserExists)
	}
	code := s.newcomer(q.User, q.Login)
	if code == Done && q.Short {
		code = PasswordShort // he has no second factor yet
	}
	if code != Done {
		return refuse(code)
	}
	s.add(User{ID: q.User, Login: q.Login, Name: q.Name, Email: q.Email, Password: q.Password})
	s.event(Event{Kind: EventSignUp, User: q.User, By: q.By, Address: q.Address})
	return Result{User: q.User}
}

// newcomer says whether a user can be added.
func (s *State) newcomer(id, login string) Code {
	switch {
	case ValidUser(id) != nil || validLogin(login) != nil:
		return Invalid
	case s.byLogin[login] != nil:
		return LoginTaken
	case len(s.users) >= s.limits.users:
		return Full
	}
	return Done
}

func (s *State) add(u User) {
	u.Version, u.Created, u.Changed = 1, s.now, s.now
	kept := &user{User: u}
	s.users[u.ID], s.byLogin[u.Login] = kept, kept
}

func (q *Seed) apply(s *State) Result {
	var result Result
	for _, row := range q.Users {
		switch {
		case s.users[row.User] != nil || s.byLogin[row.Login] != nil:
			result.Kept++
		case s.newcomer(row.User, row.Login) != Done:
			result.Refused++
		default:
			s.add(User{ID: row.User, Login: row.Login, Name: row.Name, Email: row.Email, Password: row.Password,
				Groups: row.Groups})
			result.Added++
		}
	}
	if result.Added > 0 {
		s.event(Event{Kind: EventSeeded, By: q.By, Detail: strconv.Itoa(result.Added) + " users"})
	}
	return result
}

// checked says whether what a request was checked against still holds: it was not checked, or nothing changed since.
func (u *user) checked(version uint32) bool { return version == 0 || version == u.Version }

func (q *SetPassword) apply(s *State) Result {
	u := s.users[q.User]
	switch {
	case u == nil:
		return refuse(UserUnknown)
	case !u.checked(q.Checked):
		return Result{Code: Stale, User: u.ID}
	case q.Short && u.TOTP.Secret == nil:
		return Result{Code: PasswordShort, User: u.ID}
	}
	u.Password, u.Short, u.Changed = q.Password, q.Short, s.now
	u.Version++
	s.event(Event{Kind: EventPassword, User: u.ID, By: q.By, Session: q.Keep, Address: q.Address})
	return Result{User: u.ID, Ended: s.endAll(u, q.Keep, endedByPassword, q.By, q.Address)}
}

func (q *Rehash) apply(s *State) Result {
	u := s.users[q.User]
	switch {
	case u == nil:
		return refuse(UserUnknown)
	case u.Version != q.Checked:
		return Result{Code: Stale, User: u.ID}
	}
	u.Password = q.Password
	return Result{User: u.ID}
}

func (q *SetDisabled) apply(s *State) Result {
	u := s.users[q.User]
	switch {
	case u == nil:
		return refuse(UserUnknown)
	case u.Disabled == q.Disabled:
		return Result{Code: Same, User: u.ID}
	}
	u.Disabled = q.Disabled
	kind := EventEnabled
	if q.Disabled {
		kind = EventDisabled
	}
	s.event(Event{Kind: kind, User: u.ID, By: q.By, Address: q.Address})
	result := Result{User: u.ID}
	if q.Disabled {
		result.Ended = s.endAll(u, SessionID{}, endedByDisabled, q.By, q.Address)
	}
	return result
}

func (q *SetGroups) apply(s *State) Result {
	u := s.users[q.User]
	if u == nil {
		return refuse(UserUnknown)
	}
	u.Groups = q.Groups
	detail := ""
	for _, g := range q.Groups {
		if len(detail)+1+len(g) > DetailBytesMax {
			break
		}
		detail += " " + g
	}
	s.event(Event{Kind: EventGroups, User: u.ID, By: q.By, Address: q.Address, Detail: trimSpace(detail)})
	return Result{User: u.ID, Groups: u.Groups}
}

func trimSpace(text string) string {
	if text != "" {
		return text[1:]
	}
	return text
}

func (q *AddTOTP) apply(s *State) Result {
	u := s.users[q.User]
	switch {
	case u == nil:
		return refuse(UserUnknown)
	case !u.checked(q.Checked):
		return Result{Code: Stale, User: u.ID}
	case len(q.Secret) == 0:
		return refuse(Invalid)
	}
	u.TOTP.Pending = q.Secret
	s.event(Event{Kind: EventTOTPAdded, User: u.ID, By: q.By, Address: q.Address})
	return Result{User: u.ID}
}

func (q *ConfirmTOTP) apply(s *State) Result {
	u := s.users[q.User]
	switch {
	case u == nil:
		return refuse(UserUnknown)
	case u.TOTP.Pending == nil || !bytes.Equal(u.TOTP.Pending, q.Secret):
		return Result{Code: NotPending, User: u.ID}
	}
	u.TOTP = TOTP{Secret: u.TOTP.Pending, Step: q.Step}
	u.Recovery = q.Recovery
	u.Version++
	s.event(Event{Kind: EventTOTPConfirmed, User: u.ID, By: q.By, Address: q.Address})
	return Result{User: u.ID}
}

func (q *RemoveTOTP) apply(s *State) Result {
	u := s.users[q.User]
	switch {
	case u == nil:
		return refuse(UserUnknown)
	case !u.checked(q.Checked):
		return Result{Code: Stale, User: u.ID}
	case u.TOTP.Secret == nil && u.TOTP.Pending == nil:
		return Result{Code: NotPending, User: u.ID}
	case u.Short:
		return Result{Code: PasswordShort, User: u.ID}
	}
	u.TOTP, u.Recovery = TOTP{}, nil
	u.Version++
	s.event(Event{Kind: EventTOTPRemoved, User: u.ID, By: q.By, Address: q.Address})
	return Result{User: u.ID}
}

func (q *AddKey) apply(s *State) Result {
	switch {
	case q.ID == "" || q.Cache < 0 || q.Cache > (24*time.Hour).Milliseconds():
		return refuse(Invalid)
	case slices.ContainsFunc(s.keys, func(k Key) bool { return k.ID == q.ID }):
		return refuse(Same)
	case len(s.keys) >= s.limits.keys:
		return refuse(Full)
	}
	k := Key{ID: q.ID, Alg: q.Alg, Public: q.Public, Sealed: q.Sealed, Published: s.now, Signs: s.now}
	if n := len(s.keys); n > 0 {
		k.Signs = max(s.now+q.Cache, s.keys[n-1].Signs)
		s.keys[n-1].Retires = k.Signs + (AccessLife + Skew).Milliseconds()
	}
	s.keys = append(s.keys, k)
	s.event(Event{Kind: EventKeyAdded, By: q.By, Detail: q.ID})
	return Result{}
}

func (q *ImportLegacy) apply(s *State) Result {
	var result Result
	for _, row := range q.Tokens {
		l := s.legacy[row.Hash]
		switch {
		case l != nil:
			l.Revoked = l.Revoked || row.Revoked
			if s.revokedLegacy(l) || l.User == row.User {
				s.extend(l, row.Expires)
			}
			result.Kept++
		case row.Expires <= s.now:
			result.Kept++
		case s.users[row.User] == nil && !row.Revoked, len(s.legacy) >= s.limits.legacy:
			result.Refused++
		default:
			s.know(Legacy{User: row.User, Revoked: row.Revoked}, row.Hash, row.Expires)
			result.Added++
		}
	}
	s.event(Event{Kind: EventLegacyImported, By: q.By, Detail: strconv.Itoa(result.Added) + " added, " +
		strconv.Itoa(result.Kept) + " kept, " + strconv.Itoa(result.Refused) + " refused"})
	return result
}

func (s *State) know(of Legacy, hash Hash, expires int64) *legacy {
	if u := s.users[of.User]; u != nil {
		of.User = u.ID // one text for all
	}
	l := &legacy{Legacy: of, hash: hash, known: s.requests}
	s.extend(l, expires)
	s.legacy[hash] = l
	s.legacyDue.add(l)
	return l
}

// extend makes a token expire later, if it does.
func (s *State) extend(l *legacy, expires int64) {
	l.Expires = max(l.Expires, min(expires, s.now+LegacyLifeMax.Milliseconds()))
}

// forgetLegacy forgets a token that is over, and that no deadline holds any more, unless it was revoked with all of its
// user's: then it is marked, and kept as long as such.
func (s *State) forgetLegacy(l *legacy) {
	if !l.Revoked && s.revokedLegacy(l) {
		l.Revoked = true
		s.legacyDue.add(l)
		return
	}
	delete(s.legacy, l.hash)
}

// revokedLegacy says whether a token of the older system was revoked, alone or with all of its user's.
func (s *State) revokedLegacy(l *legacy) bool {
	u := s.users[l.User]
	return l.Revoked || u == nil || l.known < u.cut
}

func (q *RevokeLegacy) apply(s *State) Result {
	l := s.legacy[q.Hash]
	before := l != nil && s.revokedLegacy(l)
	switch {
	case l != nil:
		l.Revoked = true
		s.extend(l, q.Expires)
	case q.Expires <= s.now:
		return refuse(LegacyUnknown)
	case len(s.legacy) >= s.limits.legacy:
		return refuse(Full)
	default:
		l = s.know(Legacy{Revoked: true}, q.Hash, q.Expires)
	}
	if before {
		return Result{Code: Same, User: l.User}
	}
	s.event(Event{Kind: EventLegacyRevoked, User: l.User, By: q.By, Address: q.Address})
	return Result{User: l.User}
}

func (q *ExchangeLegacy) apply(s *State) Result {
	l := s.legacy[q.Hash]
	if l == nil {
		return refuse(LegacyUnknown)
	}
	code := s.exchangeable(l)
	if x := s.sessions[l.Session]; code == LegacyExchanged && x != nil && x.Ended == 0 && x.Generation == 1 {
		switch {
		case x.Current == q.Token:
			return s.about(Done, x) // the same request again
		case s.inGrace(x):
			x.Used = s.now
			return s.about(Same, x)
		}
	}
	if code == Done {
		code = s.room(&q.Opening)
	}
	if code == Done && s.sessions[q.Session] != nil {
		code = Invalid
	}
	if code != Done {
		s.event(Event{Kind: EventLegacyRefused, User: l.User, Session: l.Session, Address: q.Address, Detail: code.String()})
		return Result{Code: code, User: l.User}
	}
	l.Session, l.Exchanged = q.Session, max(1, s.now)
	result := s.open(s.users[l.User], &q.Opening, q.Sealed)
	s.event(Event{Kind: EventLegacyExchanged, User: l.User, Session: q.Session, Address: q.Address, Detail: q.Client})
	return result
}

// exchangeable says whether a token of the older system may be exchanged.
func (s *State) exchangeable(l *legacy) Code {
	switch {
	case s.revokedLegacy(l):
		return LegacyRevoked
	case s.users[l.User].Disabled:
		return UserDisabled
	case l.Exchanged != 0:
		return LegacyExchanged
	case s.now >= l.Expires:
		return LegacyExpired
	}
	return Done
}

func (q *SetStage) apply(s *State) Result {
	before, known := s.stages[q.Route]
	switch {
	case !validWord(q.Route, RouteBytesMax) || q.Stage >= stages:
		return refuse(Invalid)
	case !known && len(s.stages) >= s.limits.routes:
		return refuse(Full)
	case before == q.Stage:
		return refuse(Same)
	}
	s.stages[q.Route] = q.Stage
	if q.Stage == StageUnset {
		delete(s.stages, q.Route)
	}
	s.event(Event{Kind: EventStage, By: q.By, Detail: q.Route + ": " + before.String() + " → " + q.Stage.String()})
	return Result{}
}

func (q *Note) apply(s *State) Result {
	if !validWord(q.Kind, EventBytesMax) {
		return refuse(Invalid)
	}
	s.event(Event{Kind: q.Kind, User: q.User, By: q.By, Session: q.Session, Address: q.Address, Detail: q.Detail})
	return Result{}
}

// event appends to the audit trail.
func (s *State) event(e Event) {
	s.eventSeq++
	e.Seq, e.At = s.eventSeq, s.now
	s.events = append(s.events, e)
	if n := len(s.events) - s.limits.events; n > 0 {
		s.events = s.events[n:]
	}
}
