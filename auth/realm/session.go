package realm

import (
	"cmp"
	"math"
	"slices"
	"strconv"
)

// Why a session ended, as the detail of its event.
const (
	endedByLogOut   = "log-out"
	endedByOther    = "other"      // someone else ended it
	endedByAll      = "everywhere" // EndSessions
	endedByPassword = "password"
	endedByDisabled = "disabled"
	endedByReuse    = "reuse"
	endedByLimit    = "limit"
)

func (q *LogIn) apply(s *State) Result {
	u := s.users[q.User]
	if u == nil {
		return refuse(UserUnknown)
	}
	if x := s.sessions[q.Session]; x != nil {
		return s.opened(u, x, &q.Opening)
	}
	code := u.admits(q)
	if code == Done {
		code = s.room(&q.Opening)
	}
	if code != Done {
		s.event(Event{Kind: EventLogInRefused, User: u.ID, Address: q.Address, Detail: code.String()})
		return Result{Code: code, User: u.ID}
	}
	if u.TOTP.Secret != nil {
		u.spend(q.Step, q.Recovery)
	}
	if q.Rehash != "" {
		u.Password = q.Rehash
	}
	u.LoggedIn = s.now
	result := s.open(u, &q.Opening, nil)
	s.event(Event{Kind: EventLogIn, User: u.ID, Session: q.Session, Address: q.Address, Detail: q.Client})
	return result
}

// admits says whether what was checked, and the second factor, let the user in.
func (u *user) admits(q *LogIn) Code {
	switch {
	case u.Disabled:
		return UserDisabled
	case u.Version != q.Checked:
		return Stale
	case u.TOTP.Secret == nil:
		return Done
	case q.Recovery != Hash{} && !slices.Contains(u.Recovery, q.Recovery):
		return RecoveryUnknown
	case q.Recovery != Hash{}:
		return Done
	case q.Step == 0:
		return FactorNeeded
	case q.Step <= u.TOTP.Step:
		return StepUsed
	}
	return Done
}

// spend uses up what proved the second factor.
func (u *user) spend(step uint64, recovery Hash) {
	if recovery == (Hash{}) {
		u.TOTP.Step = step
		return
	}
	var left []Hash // what views hold stays
	for _, h := range u.Recovery {
		if h != recovery {
			left = append(left, h)
		}
	}
	u.Recovery = left
}

// room says whether one more session can be opened.
func (s *State) room(o *Opening) Code {
	switch {
	case o.Session == SessionID{} || o.Token == Hash{}:
		return Invalid
	case len(s.sessions) >= s.limits.sessions:
		return Full
	}
	return Done
}

// opened is the answer to a request that opens a session that is there: Same if the request came twice.
func (s *State) opened(u *user, x *session, o *Opening) Result {
	if x.User != u.ID || x.Ended != 0 || x.Generation != 1 || x.Current != o.Token {
		return refuse(Invalid)
	}
	return s.about(Same, x)
}

// about is a result of a session that is alive.
func (s *State) about(c Code, x *session) Result {
	return Result{Code: c, User: x.User, Session: x.ID, Generation: x.Generation, Scope: x.Scope,
		Groups: s.users[x.User].Groups, Sealed: x.Sealed}
}

// open opens a session, which has room. sealed is its first token, if its client may have to ask again.
func (s *State) open(u *user, o *Opening, sealed []byte) Result {
	ended := 0
	if len(u.alive) >= s.limits.perUser {
		oldest := slices.MinFunc(u.alive, func(a, b *session) int {
			return cmp.Or(cmp.Compare(a.Used, b.Used), compareSessions(a, b))
		})
		s.end(oldest, endedByLimit, u.ID, o.Address)
		ended = 1
	}
	x := &session{Session: Session{ID: o.Session, User: u.ID, Client: o.Client, Scope: o.Scope, Agent: o.Agent,
		Address: o.Address, Created: s.now, Used: s.now, Rotated: s.now, Expires: s.now + IdleLife.Milliseconds(),
		End: s.now + SessionLife.Milliseconds(), Generation: 1, Key: o.Key, Current: o.Token}}
	s.sessions[x.ID] = x
	u.alive = append(u.alive, x)
	s.due.add(x)
	s.seal(x, sealed)
	result := s.about(Done, x)
	result.Sealed, result.Ended = nil, ended
	return result
}

// compareSessions orders sessions by when they were opened.
func compareSessions(a, b *session) int {
	return cmp.Or(cmp.Compare(a.Created, b.Created), slices.Compare(a.ID[:], b.ID[:]))
}

// seal keeps the sealed successor of a session that was rotated now.
func (s *State) seal(x *session, sealed []byte) {
	x.Sealed = nil
	if len(sealed) > 0 {
		x.Sealed = sealed
		s.grace = append(s.grace, graced{x, s.now})
	}
}

// inGrace says whether the rotation of a session may be asked for again.
func (s *State) inGrace(x *session) bool {
	return x.Sealed != nil && s.now < x.Rotated+Grace.Milliseconds()
}

// unseal forgets the sealed successors that nobody may ask for any more.
func (s *State) unseal() {
	for len(s.grace) > 0 && s.grace[0].rotated+Grace.Milliseconds() <= s.now {
		if g := s.grace[0]; g.session.Rotated == g.rotated {
			g.session.Sealed = nil
		}
		s.grace[0] = graced{}
		s.grace = s.grace[1:]
	}
}

func (q *Refresh) apply(s *State) Result {
	x := s.sessions[q.Session]
	switch {
	case q.Generation == 0 || q.Token == Hash{} || q.Next == Hash{}:
		return refuse(Invalid)
	case x == nil:
		return refuse(Unknown)
	case s.users[x.User].Disabled:
		return Result{Code: UserDisabled, User: x.User, Session: x.ID}
	case x.Ended != 0:
		return Result{Code: SessionEnded, User: x.User, Session: x.ID}
	case s.now >= x.Expires || x.Generation == math.MaxUint32:
		return Result{Code: SessionExpired, User: x.User, Session: x.ID}
	case q.Generation == x.Generation && q.Token == x.Current:
		return s.rotate(x, q)
	case q.Generation == x.Generation-1 && q.Token == x.Previous && q.Next == x.Current:
		return s.about(Done, x) // the same request again
	case q.Generation == x.Generation-1 && q.Token == x.Previous && s.inGrace(x):
		x.Used = s.now
		return s.about(Same, x)
	case q.Generation == x.Generation-1 && q.Token == x.Previous, q.Generation < x.Generation-1:
		s.event(Event{Kind: EventReuse, User: x.User, Session: x.ID, Address: q.Address,
			Detail: "generation " + strconv.FormatUint(uint64(q.Generation), 10)})
		s.end(x, endedByReuse, "", q.Address)
		return Result{Code: Reuse, User: x.User, Session: x.ID, Ended: 1}
	}
	return Result{Code: Unknown, User: x.User, Session: x.ID}
}

// rotate makes the successor the current token.
func (s *State) rotate(x *session, q *Refresh) Result {
	x.Previous, x.Current = x.Current, q.Next
	x.Generation++
	x.Used, x.Rotated = s.now, s.now
	x.Expires = min(s.now+IdleLife.Milliseconds(), x.End)
	if q.Agent != "" {
		x.Agent = q.Agent
	}
	if q.Address != "" {
		x.Address = q.Address
	}
	s.seal(x, q.Sealed)
	result := s.about(Done, x)
	result.Sealed = nil
	return result
}

// end ends a session that has not ended, and revokes it.
func (s *State) end(x *session, why, by, address string) {
	u := s.users[x.User]
	u.alive = slices.DeleteFunc(u.alive, func(other *session) bool { return other == x })
	s.due.remove(x)
	x.Ended, x.Sealed = max(1, s.now), nil
	s.revoke(RevokedSession, x.ID, 0)
	s.event(Event{Kind: EventSessionEnded, User: x.User, By: by, Session: x.ID, Address: address, Detail: why})
}

// endAll ends the sessions of a user but one, oldest first, revokes his tokens of the older system, and returns how
// many sessions that were.
func (s *State) endAll(u *user, keep SessionID, why, by, address string) int {
	u.cut = s.requests
	ended := 0
	for _, x := range slices.SortedFunc(slices.Values(u.alive), compareSessions) {
		if x.ID != keep {
			s.end(x, why, by, address)
			ended++
		}
	}
	return ended
}

// drop forgets a session that expired long ago, and that no deadline holds any more.
func (s *State) drop(x *session) {
	u := s.users[x.User]
	u.alive = slices.DeleteFunc(u.alive, func(other *session) bool { return other == x })
	delete(s.sessions, x.ID)
}

func (q *EndSession) apply(s *State) Result {
	x := s.sessions[q.Session]
	if x == nil || x.User != q.By && !q.Any {
		return refuse(Unknown)
	}
	result := Result{Code: SessionEnded, User: x.User, Session: x.ID}
	if x.Ended == 0 {
		why := endedByLogOut
		if x.User != q.By {
			why = endedByOther
		}
		s.end(x, why, q.By, q.Address)
		result.Code, result.Ended = Done, 1
	}
	return result
}

func (q *EndSessions) apply(s *State) Result {
	u := s.users[q.User]
	if u == nil {
		return refuse(UserUnknown)
	}
	return Result{User: u.ID, Ended: s.endAll(u, q.Keep, endedByAll, q.By, q.Address)}
}

func (q *RevokeToken) apply(s *State) Result {
	switch {
	case q.Expires > s.now+TokenAheadMax.Milliseconds():
		return refuse(Invalid)
	case s.revoked[q.ID]:
		return refuse(Same)
	case len(s.revocations) >= s.limits.revocations:
		return refuse(Full)
	}
	s.revoked[q.ID] = true
	s.revoke(RevokedToken, q.ID, q.Expires)
	s.event(Event{Kind: EventTokenRevoked, User: q.User, By: q.By, Address: q.Address, Detail: q.ID.String()})
	return Result{User: q.User}
}

// revoke appends a revocation, which is kept until no token that it is about can count any more. tokenExpires is the
// latest exp of one, where it is known. Revocations are forgotten in their order, so none is kept shorter than the one
// before it.
func (s *State) revoke(kind RevocationKind, id [16]byte, tokenExpires int64) {
	expires := max(s.now+AccessLife.Milliseconds(), tokenExpires) + Skew.Milliseconds()
	if n := len(s.revocations); n > 0 {
		expires = max(expires, s.revocations[n-1].Expires)
	}
	s.seq++
	s.revocations = append(s.revocations, Revocation{s.seq, kind, id, expires})
}

// forgetRevocations forgets those that are over, and the sessions that they ended.
func (s *State) forgetRevocations() {
	for len(s.revocations) > 0 && s.revocations[0].Expires < s.now {
		if r := s.revocations[0]; r.Kind == RevokedSession {
			delete(s.sessions, r.ID)
		} else {
			delete(s.revoked, r.ID)
		}
		s.revocations = s.revocations[1:]
	}
}
