package ledger

import (
	"slices"
	"strings"
	"testing"

	"dongne/internal/sharedlog"
)

// mutant is a ledger with one mistake: it does something to requests before they are applied, or to the state afterwards.
type mutant struct {
	before func(q *Request)
	after  func(s *State, q *Request, result Result)
	whole  applier
}

func (m mutant) apply(s *State, at sharedlog.Position, requests []Request) []Result {
	if m.whole != nil {
		return m.whole(s, at, requests)
	}
	if m.before != nil {
		requests = slices.Clone(requests)
		for i := range requests {
			m.before(&requests[i])
		}
	}
	results := s.Apply(at, requests)
	for i := range requests {
		if m.after != nil {
			m.after(s, &requests[i], results[i])
		}
	}
	return results
}

// afterSuccess is what goes wrong when a request of this kind succeeds for the first time.
func afterSuccess(kind Kind, do func(s *State, q *Request, rec uint32)) mutant {
	return mutant{after: func(s *State, q *Request, result Result) {
		if q.Kind == kind && result.Record != 0 && !result.Replayed {
			do(s, q, result.Record)
		}
	}}
}

// forgetKeys drops the newest key if it is of a request and decided so.
func forgetKeys(s *State, q *Request) {
	if n, known := s.byKey[q.Key]; known && int(n) == s.keys.n-1 {
		delete(s.byKey, q.Key)
		s.keys.cut(s.keys.n - 1)
	}
}

// mutants are mistakes that a ledger might have.
func mutants() map[string]mutant {
	return map[string]mutant{
		"debit without credit": afterSuccess(Move, func(s *State, q *Request, rec uint32) {
			p := s.postings.at(s.records.at(rec).posting + uint32(s.records.at(rec).postings) - 1)
			s.accounts.at(p.account).posted -= p.amount
			p.balance, p.amount = p.balance-p.amount, 0
		}),
		"hold counted as available": afterSuccess(Hold, func(s *State, q *Request, rec uint32) {
			a := s.accounts.at(s.find(q.Legs[0].Account))
			a.held -= reserved(a, q.Legs[1].Amount)
		}),
		"capture and void both win": afterSuccess(Capture, func(s *State, q *Request, rec uint32) {
			root, amount := s.roots[q.Transfer.Record], s.records.at(rec).amount
			root.remaining, root.status = root.remaining+amount, statusHeld
			a := s.accounts.at(s.find(root.payer))
			a.held += reserved(a, amount)
		}),
		"refund twice": afterSuccess(Refund, func(s *State, q *Request, rec uint32) {
			root := s.roots[q.Transfer.Record]
			root.refunded = 0
			for i := range root.receivedBy {
				root.receivedBy[i].back = 0
			}
		}),
		"claimed and returned": afterSuccess(Claim, func(s *State, q *Request, rec uint32) {
			root := s.roots[q.Transfer.Record]
			root.remaining, root.captured, root.status, root.receivedBy = root.amount, 0, statusClaimable, nil
			a := s.accounts.at(s.find(root.payer))
			a.incoming += root.amount
			a.held += returned(a, root.amount)
		}),
		"a key with two effects": {after: func(s *State, q *Request, result Result) {
			if result.Record != 0 {
				forgetKeys(s, q)
			}
		}},
		"a refusal that is not final": {after: func(s *State, q *Request, result Result) {
			if result.Refused != 0 {
				forgetKeys(s, q)
			}
		}},
		"a key that answers everything": {before: func(q *Request) { q.Memo = strings.TrimSuffix(q.Memo, "!") }},
		"no owners":                     {before: func(q *Request) { q.Any = true }},
		"no versions":                   {before: func(q *Request) { q.IfVersion = 0 }},
		"chains that are none":          {before: func(q *Request) { q.Linked = false }},
		"holds that never expire": {before: func(q *Request) {
			if q.Kind == Hold {
				q.Expires = startTime * 2
			}
		}},
		"the rest of a final capture stays": {before: func(q *Request) { q.Final = false }},
		"limits forgotten": {after: func(s *State, q *Request, _ Result) {
			for n := range s.accounts.n {
				s.accounts.at(uint32(n)).spent = 0
			}
		}},
		"days that begin at noon": {whole: func(s *State, at sharedlog.Position, requests []Request) []Result {
			for n := range s.accounts.n { // the state's day, moved there and back
				if a := s.accounts.at(uint32(n)); a.spent > 0 && int64(a.day)*dayNanoseconds+dayNanoseconds/2 < at.Time {
					a.spent = 0
				}
			}
			return s.Apply(at, requests)
		}},
		"limits spent by what failed": {after: func(s *State, q *Request, result Result) {
			if result.Refused == LinkedFailed && len(q.Legs) > 0 {
				if a := s.accounts.at(s.find(q.Legs[0].Account)); a.record != 0 && a.day == s.today() {
					a.spent += max(0, -q.Legs[0].Amount)
				}
			}
		}},
		"versions that chains leave behind": {after: func(s *State, q *Request, result Result) {
			if result.Refused == LinkedFailed && len(q.Legs) > 0 {
				s.accounts.at(s.find(q.Legs[0].Account)).version++
			}
		}},
		"a version that stands still": afterSuccess(Hold, func(s *State, q *Request, rec uint32) {
			s.accounts.at(s.find(q.Legs[0].Account)).version--
		}),
		"a record nobody sees": afterSuccess(Void, func(s *State, q *Request, rec uint32) { s.records.cut(s.records.n - 1) }),
		"events that change": afterSuccess(Capture, func(s *State, q *Request, rec uint32) {
			s.records.at(q.Transfer.Record).amount -= s.records.at(rec).amount
		}),
		"a line counted twice": afterSuccess(Move, func(s *State, q *Request, rec uint32) {
			s.accounts.at(s.find(q.Legs[0].Account)).entries++
		}),
		"a closed account that is not empty": afterSuccess(Move, func(s *State, q *Request, rec uint32) {
			s.accounts.at(s.find(q.Legs[1].Account)).flags |= Settings{Closed: true}.flags()
		}),
		"asset accounts that count like others": afterSuccess(OpenAccount, func(s *State, q *Request, rec uint32) {
			s.accounts.at(s.records.at(rec).account).flags &^= Settings{Asset: true}.flags()
		}),
	}
}

// snapshotMutants are mistakes of Restore.
func snapshotMutants() map[string]func(s *State) {
	return map[string]func(s *State){
		"forgets the keys": func(s *State) { s.keys, s.byKey = column[used]{}, map[Key]uint32{} },
		"forgets what a key decided": func(s *State) {
			if s.keys.n > 0 {
				s.keys.at(0).record++
			}
		},
		"forgets what is due":  func(s *State) { s.due = nil },
		"forgets marks":        func(s *State) { s.accounts.at(1).last = 0 },
		"forgets limits spent": func(s *State) { s.accounts.at(uint32(s.accounts.n-1)).spent++ },
		"forgets users":        func(s *State) { clear(s.byUser) },
	}
}

const mutantSeedsMax = 200

// TestMutants runs the model's histories against every mutant, which must be caught by one of the seeds.
func TestMutants(t *testing.T) {
	for name, m := range ordered(mutants()) {
		t.Run(name, func(t *testing.T) {
			caught(t, func(seed uint64) error { return newHistory(seededDice(seed), m.apply).run(120) })
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
				return h.run(120)
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
			t.Logf("caught with seed %d: %.200s", seed, text)
			return
		}
	}
	t.Errorf("not caught by %d seeds", mutantSeedsMax)
}
