package realm

import (
	"fmt"
	"slices"
)

// Check verifies what must hold after any slot, in time linear in the state, and says what does not:
//
//   - logins lead to their users; a short password has a second factor
//   - a session is of a user; as long as it has not ended it is among his and has a deadline, and he is not disabled;
//     once it has ended it is revoked, and has no deadline
//   - revocations and events are numbered without gaps; no revocation is kept shorter than one before it
//   - each key but the last retires after its successor signs
//   - sealed successors are kept within Grace
func (s *State) Check() error {
	for _, check := range []func() error{s.checkUsers, s.checkSessions, s.checkRevocations, s.checkKeys, s.checkLegacy,
		s.checkEvents} {
		if err := check(); err != nil {
			return fmt.Errorf("realm: %w", err)
		}
	}
	return nil
}

func (s *State) checkUsers() error {
	if len(s.byLogin) != len(s.users) {
		return fmt.Errorf("%d logins of %d users", len(s.byLogin), len(s.users))
	}
	alive := 0
	for id, u := range s.users {
		alive += len(u.alive)
		switch {
		case u.ID != id || s.byLogin[u.Login] != u:
			return fmt.Errorf("user %q, login %q, is not found by them", u.ID, u.Login)
		case u.Short && u.TOTP.Secret == nil:
			return fmt.Errorf("user %q has a short password and no second factor", id)
		case u.Version == 0:
			return fmt.Errorf("user %q has version 0", id)
		case u.Disabled && len(u.alive) > 0:
			return fmt.Errorf("user %q is disabled and has %d sessions", id, len(u.alive))
		case len(u.alive) > s.limits.perUser:
			return fmt.Errorf("user %q has %d sessions, at most %d", id, len(u.alive), s.limits.perUser)
		case u.cut > s.requests:
			return fmt.Errorf("user %q has a cut at request %d of %d", id, u.cut, s.requests)
		}
		for i, x := range u.alive {
			if x.User != id || x.Ended != 0 || s.sessions[x.ID] != x || slices.Contains(u.alive[:i], x) {
				return fmt.Errorf("user %q has session %v once too often", id, x.ID)
			}
		}
	}
	if alive != len(s.due.heap) {
		return fmt.Errorf("%d sessions of users, %d with a deadline", alive, len(s.due.heap))
	}
	return nil
}

func (s *State) checkSessions() error {
	alive, sealed := 0, map[*session]bool{}
	for _, g := range s.grace {
		sealed[g.session] = sealed[g.session] || g.session.Rotated == g.rotated
	}
	for id, x := range s.sessions {
		if x.Ended == 0 {
			alive++
		}
		switch {
		case x.ID != id:
			return fmt.Errorf("session %v is found as %v", x.ID, id)
		case s.users[x.User] == nil:
			return fmt.Errorf("session %v is of user %q, who does not exist", id, x.User)
		case (x.Ended == 0) != s.due.has(x):
			return fmt.Errorf("session %v ended at %d; with a deadline: %v", id, x.Ended, s.due.has(x))
		case x.Generation == 0 || x.Expires > x.End || x.Rotated < x.Created || x.Used < x.Rotated || x.Used > s.now:
			return fmt.Errorf("session %v has times that cannot be", id)
		case (x.Generation == 1) != (x.Previous == Hash{}):
			return fmt.Errorf("session %v is at generation %d, with or without a token before", id, x.Generation)
		case x.Sealed != nil && (!sealed[x] || x.Ended != 0 || !s.inGrace(x)):
			return fmt.Errorf("session %v keeps a successor too long", id)
		}
	}
	if alive != len(s.due.heap) {
		return fmt.Errorf("%d sessions that have not ended, %d of users", alive, len(s.due.heap))
	}
	return nil
}

func (s *State) checkRevocations() error {
	if uint64(len(s.revocations)) > s.seq {
		return fmt.Errorf("%d revocations up to number %d", len(s.revocations), s.seq)
	}
	ended, tokens := 0, 0
	for i, r := range s.revocations {
		switch {
		case r.Seq != s.seq-uint64(len(s.revocations)-1-i):
			return fmt.Errorf("revocation %d of %d has number %d, the newest has %d", i, len(s.revocations), r.Seq, s.seq)
		case i > 0 && r.Expires < s.revocations[i-1].Expires, r.Expires < s.now:
			return fmt.Errorf("revocation %d is kept until %d", r.Seq, r.Expires)
		case r.Kind == RevokedToken && s.revoked[r.ID]:
			tokens++
		case r.Kind == RevokedSession && s.RevokedSession(r.ID):
			ended++
		default:
			return fmt.Errorf("revocation %d is of %v, which is not revoked", r.Seq, r.Text())
		}
	}
	if tokens != len(s.revoked) || ended != len(s.sessions)-len(s.due.heap) {
		return fmt.Errorf("%d tokens and %d sessions revoked, %d and %d are to be", len(s.revoked),
			len(s.sessions)-len(s.due.heap), tokens, ended)
	}
	return nil
}

func (s *State) checkKeys() error {
	for i, k := range s.keys {
		last := i == len(s.keys)-1
		if last != (k.Retires == 0) || !last && (k.Signs > s.keys[i+1].Signs ||
			k.Retires != s.keys[i+1].Signs+(AccessLife+Skew).Milliseconds()) {
			return fmt.Errorf("key %q signs from %d and retires at %d", k.ID, k.Signs, k.Retires)
		}
	}
	return nil
}

func (s *State) checkLegacy() error {
	if len(s.legacy) != len(s.legacyDue.heap) {
		return fmt.Errorf("%d tokens of the older system, %d with a deadline", len(s.legacy), len(s.legacyDue.heap))
	}
	for hash, l := range s.legacy {
		switch {
		case l.hash != hash || !s.legacyDue.has(l):
			return fmt.Errorf("token %x of the older system is not found by its hash, or has no deadline", hash[:4])
		case s.users[l.User] == nil && !l.Revoked:
			return fmt.Errorf("token %x of the older system is of user %q, who does not exist", hash[:4], l.User)
		case (l.Exchanged != 0) != (l.Session != SessionID{}) || l.known > s.requests:
			return fmt.Errorf("token %x of the older system was exchanged at %d for %v", hash[:4], l.Exchanged, l.Session)
		}
	}
	return nil
}

func (s *State) checkEvents() error {
	n := uint64(len(s.events))
	if len(s.events) > s.limits.events || n > s.eventSeq {
		return fmt.Errorf("%d events in memory up to number %d", n, s.eventSeq)
	}
	for i, e := range s.events {
		if e.Seq != s.eventSeq-n+1+uint64(i) || i > 0 && e.At < s.events[i-1].At || e.At > s.now {
			return fmt.Errorf("event %d of %d has number %d, time %d", i, n, e.Seq, e.At)
		}
	}
	return nil
}
