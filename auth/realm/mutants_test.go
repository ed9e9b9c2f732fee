package realm

import (
	"testing"

	"dongne/internal/sharedlog"
)

// after is a realm with one mistake, made after requests that were done.
func after(do func(s *State, q Request, result Result)) applier {
	return func(s *State, at sharedlog.Position, q Request) Result {
		result := s.Apply(at, q)
		do(s, q, result)
		return result
	}
}

// afterDone is one made after requests of one type that succeeded.
func afterDone[Q Request](do func(s *State, q Q, result *Result)) applier {
	return func(s *State, at sharedlog.Position, q Request) Result {
		result := s.Apply(at, q)
		if q, is := q.(Q); is && result.Code == Done {
			do(s, q, &result)
		}
		return result
	}
}

// before is one made before requests of one type.
func before[Q Request](do func(s *State, q Q)) applier {
	return func(s *State, at sharedlog.Position, q Request) Result {
		if q, is := q.(Q); is {
			s.advance(at)
			do(s, q)
		}
		return s.Apply(at, q)
	}
}

// unmade undoes what a request did, if its result says so, but answers the same.
func unmade(when func(q Request, result Result) bool) applier {
	return func(s *State, at sharedlog.Position, q Request) Result {
		whole := s.Snapshot()
		result := s.Apply(at, q)
		if when(q, result) {
			if err := s.Restore(whole); err != nil {
				panic(err)
			}
			s.advance(at)
		}
		return result
	}
}

// reopen lets a session that ended go on.
func reopen(s *State, x *session) {
	if x != nil && x.Ended != 0 {
		x.Ended = 0
		s.users[x.User].alive = append(s.users[x.User].alive, x)
		s.due.add(x)
	}
}

// mutants are mistakes that a realm might have.
func mutants() map[string]applier {
	return map[string]applier{
		"reuse does not end the family": unmade(func(_ Request, result Result) bool { return result.Code == Reuse }),
		"reuse of an old generation is merely unknown": before(func(s *State, q *Refresh) {
			if x := s.sessions[q.Session]; x != nil && q.Generation+1 < x.Generation {
				q.Generation = x.Generation + 1
			}
		}),
		"anything unknown ends the family": before(func(s *State, q *Refresh) {
			if x := s.sessions[q.Session]; x != nil && q.Token != x.Current && q.Token != x.Previous {
				q.Generation = 1
			}
		}),
		"grace without limit": func() applier {
			successors := map[Hash][]byte{}
			return before(func(s *State, q *Refresh) {
				successors[q.Next] = q.Sealed
				if x := s.sessions[q.Session]; x != nil && x.Ended == 0 && q.Token == x.Previous {
					x.Sealed, x.Rotated, x.Used = successors[x.Current], s.now, s.now
				}
			})
		}(),
		"no grace": before(func(s *State, q *Refresh) {
			if x := s.sessions[q.Session]; x != nil {
				x.Sealed = nil
			}
		}),
		"another successor": func(s *State, at sharedlog.Position, q Request) Result {
			result := s.Apply(at, q)
			if q, is := q.(*Refresh); is && result.Code == Same {
				s.sessions[q.Session].Current, result.Sealed = q.Next, q.Sealed
			}
			return result
		},
		"a sealed successor kept": after(func(s *State, _ Request, _ Result) { s.grace = nil }),
		"revocation lost when a user is disabled": afterDone(func(s *State, _ *SetDisabled, result *Result) {
			for range result.Ended {
				s.revocations[len(s.revocations)-1].ID = [16]byte{}
			}
		}),
		"disabled users keep sessions": afterDone(func(s *State, q *SetDisabled, result *Result) {
			for _, r := range s.revocations[len(s.revocations)-result.Ended:] {
				reopen(s, s.sessions[r.ID])
			}
		}),
		"disabled users log in": before(func(s *State, q *LogIn) {
			if u := s.users[q.User]; u != nil {
				u.Disabled = false
			}
		}),
		"a TOTP step counts again": before(func(s *State, q *LogIn) {
			if u := s.users[q.User]; u != nil {
				u.TOTP.Step = 0
			}
		}),
		"a confirmed step counts again": afterDone(func(s *State, q *ConfirmTOTP, _ *Result) { s.users[q.User].TOTP.Step-- }),
		"a recovery code counts again": func(s *State, at sharedlog.Position, q Request) Result {
			var codes []Hash
			if q, is := q.(*LogIn); is && s.users[q.User] != nil {
				codes = s.users[q.User].Recovery
			}
			result := s.Apply(at, q)
			if codes != nil {
				s.users[q.(*LogIn).User].Recovery = codes
			}
			return result
		},
		"no second factor": before(func(s *State, q *LogIn) {
			if u := s.users[q.User]; u != nil && q.Step == 0 && (q.Recovery == Hash{}) {
				q.Step = u.TOTP.Step + 1
			}
		}),
		"a log-in wins against a password change": before(func(s *State, q *LogIn) {
			if u := s.users[q.User]; u != nil {
				q.Checked = u.Version
			}
		}),
		"a log-in loses against a rehash": afterDone(func(s *State, q *Rehash, _ *Result) { s.users[q.User].Version++ }),
		"a legacy token exchanged twice": before(func(s *State, q *ExchangeLegacy) {
			if l := s.legacy[q.Hash]; l != nil {
				l.Exchanged, l.Session = 0, SessionID{}
			}
		}),
		"a revoked legacy token exchanged": before(func(s *State, q *ExchangeLegacy) {
			if l := s.legacy[q.Hash]; l != nil {
				l.Revoked = false
			}
		}),
		"a legacy token revived by an import": before(func(s *State, q *ImportLegacy) {
			for _, row := range q.Tokens {
				if l := s.legacy[row.Hash]; l != nil {
					l.Revoked = row.Revoked
				}
			}
		}),
		"a used legacy token forgotten": before(func(s *State, q *ImportLegacy) {
			for _, row := range q.Tokens {
				if l := s.legacy[row.Hash]; l != nil && l.Exchanged != 0 && l.Expires < s.now {
					s.legacyDue.remove(l)
					delete(s.legacy, row.Hash)
				}
			}
		}),
		"legacy tokens survive a password change": before(func(s *State, q *SetPassword) {
			for _, l := range s.legacy {
				if l.User == q.User {
					l.known = s.requests + 1
				}
			}
		}),
		"password change keeps sessions": afterDone(func(s *State, _ *SetPassword, result *Result) {
			for _, r := range s.revocations[len(s.revocations)-result.Ended:] {
				reopen(s, s.sessions[r.ID])
			}
		}),
		"password change ends the session that asks": before(func(s *State, q *SetPassword) { q.Keep = SessionID{} }),
		"a short password without a second factor":   before(func(s *State, q *SetPassword) { q.Short = false }),
		"a short password loses its second factor": before(func(s *State, q *RemoveTOTP) {
			if u := s.users[q.User]; u != nil {
				u.Short = false
			}
		}),
		"revocation forgotten too early": after(func(s *State, _ Request, _ Result) {
			for len(s.revocations) > 0 && s.revocations[0].Expires-second < s.now {
				delete(s.sessions, s.revocations[0].ID)
				delete(s.revoked, s.revocations[0].ID)
				s.revocations = s.revocations[1:]
			}
		}),
		"revocation kept shorter than its token": before(func(s *State, q *RevokeToken) {
			q.Expires = min(q.Expires, s.now+AccessLife.Milliseconds())
		}),
		"a gap in the feed": after(func(s *State, q Request, result Result) {
			if result.Code == Reuse {
				s.seq++
			}
		}),
		"anybody ends a session":        before(func(s *State, q *EndSession) { q.Any = true }),
		"an ended session is refreshed": before(func(s *State, q *Refresh) { reopen(s, s.sessions[q.Session]) }),
		"a session without an end": afterDone(func(s *State, q *Refresh, _ *Result) {
			x := s.sessions[q.Session]
			x.End += IdleLife.Milliseconds()
			x.Expires = s.now + IdleLife.Milliseconds()
		}),
		"the newest session makes room": before(func(s *State, q *LogIn) {
			if u := s.users[q.User]; u != nil && len(u.alive) >= s.limits.perUser {
				x := u.alive[len(u.alive)-1]
				x.Used = x.Rotated - 1
			}
		}),
		"a key retired too early": afterDone(func(s *State, q *AddKey, _ *Result) {
			if n := len(s.keys); n > 1 {
				s.keys[n-2].Retires -= minute
			}
		}),
		"a key that signs before it is known": before(func(s *State, q *AddKey) { q.Cache = 0 }),
		"a stage that stays": unmade(func(q Request, result Result) bool {
			q2, is := q.(*SetStage)
			return is && q2.Stage == StageLegacy && result.Code == Done
		}),
		"a note not taken": unmade(func(q Request, _ Result) bool { _, is := q.(*Note); return is }),
	}
}

// snapshotMutants are mistakes of Restore.
func snapshotMutants() map[string]func(s *State) {
	return map[string]func(s *State){
		"forgets what is sealed": func(s *State) { s.grace = nil },
		"forgets deadlines":      func(s *State) { s.due = deadlines[*session]{} },
		"forgets cuts": func(s *State) {
			for _, u := range s.users {
				u.cut = 0
			}
		},
		"forgets revoked tokens":   func(s *State) { clear(s.revoked) },
		"forgets the last number":  func(s *State) { s.eventSeq, s.events = 0, nil },
		"forgets how many came":    func(s *State) { s.requests = 0 },
		"forgets legacy deadlines": func(s *State) { s.legacyDue = deadlines[*legacy]{} },
		"forgets logins":           func(s *State) { clear(s.byLogin) },
	}
}

const mutantSeedsMax = 300

// TestMutants runs the model's histories against every mutant, which must be caught by one of the seeds.
func TestMutants(t *testing.T) {
	for name := range ordered(mutants()) {
		t.Run(name, func(t *testing.T) {
			caught(t, func(seed uint64) error { return newHistory(seededDice(seed), mutants()[name]).run(250) })
		})
	}
	for name, damage := range ordered(snapshotMutants()) {
		t.Run("snapshot "+name, func(t *testing.T) {
			caught(t, func(seed uint64) error {
				h := newHistory(seededDice(seed), rightly)
				h.restore = func(s *State, snapshot []byte) error {
					err := s.Restore(snapshot)
					damage(s)
					return err
				}
				return h.run(250)
			})
		})
	}
}

// caught runs seeds until one finds something, be it by a panic.
func caught(t *testing.T, run func(seed uint64) error) {
	t.Helper()
	for seed := range uint64(mutantSeedsMax) {
		var err error
		panicked := func() (p any) {
			defer func() { p = recover() }()
			err = run(seed)
			return nil
		}()
		if err != nil || panicked != nil {
			text := "panic"
			if err != nil {
				text = err.Error()
			}
			t.Logf("caught with seed %d: %.300s", seed, text)
			return
		}
	}
	t.Errorf("not caught by %d seeds", mutantSeedsMax)
}

// TestMutantsAreMistakes sees to it that what the mutants wrap is right otherwise: a mutant of nothing is not caught.
func TestMutantsAreMistakes(t *testing.T) {
	for name, wrap := range ordered(map[string]applier{
		"after":  after(func(*State, Request, Result) {}),
		"done":   afterDone(func(*State, *LogIn, *Result) {}),
		"before": before(func(*State, *Refresh) {}),
		"unmade": unmade(func(Request, Result) bool { return false }),
		"same":   func(s *State, at sharedlog.Position, q Request) Result { return rightly(s, at, q) },
	}) {
		if err := newHistory(seededDice(7), wrap).run(150); err != nil {
			t.Errorf("%s of nothing: %v", name, err)
		}
	}
}
