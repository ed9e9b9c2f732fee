package ledger

import (
	"testing"

	"dongne/internal/sharedlog"
	"github.com/google/go-cmp/cmp"
)

// pair is two shards with an overdraft account in each, and one that may pay 100 a day in the second.
type pair struct {
	t       *testing.T
	shards  [2]*State
	a, b, c string
	at      sharedlog.Position
}

func newPair(t *testing.T) *pair {
	p := &pair{t: t, shards: [2]*State{NewState(0, 2), NewState(1, 2)}, at: sharedlog.Position{Time: startTime}}
	for n := 'a'; p.a == "" || p.b == "" || p.c == ""; n++ {
		switch id := string(n); {
		case ShardOf(id, 2) == 0 && p.a == "":
			p.a = id
			p.do(0, Request{Kind: OpenAccount, Any: true, Account: id, Currency: testKRW, Settings: Settings{Overdraft: true}})
		case ShardOf(id, 2) == 1 && p.b == "":
			p.b = id
			p.do(1, Request{Kind: OpenAccount, Any: true, Account: id, Currency: testKRW,
				Settings: Settings{Overdraft: true, PerDay: 100}})
		case ShardOf(id, 2) == 1 && p.c == "":
			p.c = id // is not opened
		}
	}
	return p
}

func (p *pair) do(shard int, q Request) Result {
	p.t.Helper()
	p.at.Slot++
	p.at.Time += 1e9
	result := p.shards[shard].Apply(p.at, []Request{q})[0]
	if err := p.shards[shard].Check(); err != nil {
		p.t.Fatal(err)
	}
	return result
}

// begin starts a move at home and returns what the other shard is to prepare.
func (p *pair) begin(legs ...Leg) Crossing {
	p.t.Helper()
	result := p.do(0, Request{Kind: Move, Key: NewKey("u", string(rune('a'+p.at.Slot))), Any: true,
		Currency: testKRW, Legs: legs})
	crossing, open := p.shards[0].Crossing(result.Record)
	if !result.Settling || !open || len(crossing.Portions) != 1 {
		p.t.Fatalf("result %+v, crossing %+v", result, crossing)
	}
	return crossing
}

// TestLimitsElsewhere counts what is paid in another shard towards the payer's limit there.
func TestLimitsElsewhere(t *testing.T) {
	p := newPair(t)
	for i, want := range []Code{0, LimitExceeded, 0, LimitExceeded} {
		amount := []int64{60, 41, 40, 1}[i]
		crossing := p.begin(Leg{p.a, -1}, Leg{p.b, -amount}, Leg{another(p), amount + 1})
		if got := p.do(1, crossing.Portions[0]); got.Refused != want {
			t.Errorf("paying %d: %v, want %v", amount, got.Refused, want)
		}
	}
}

// another is an account of the first shard, opened when it is needed.
func another(p *pair) string {
	id := "acct_" + ID{Time: 1, Record: 1}.String()
	if p.shards[0].find(id) == 0 {
		result := p.do(0, Request{Kind: OpenAccount, Any: true, Currency: testKRW})
		id = p.shards[0].Opened(result.Record).ID
	}
	return id
}

// TestRejectionIsFinal lets a shard reject, and then removes the reason: it goes on rejecting.
func TestRejectionIsFinal(t *testing.T) {
	p := newPair(t)
	unknown := p.begin(Leg{p.a, -1}, Leg{p.c, 1})
	cancelled := p.begin(Leg{p.a, -1}, Leg{p.b, 1})
	aborted := p.begin(Leg{p.a, -1}, Leg{p.b, 1})
	cancel := cancelled.Portions[0]
	cancel.Cancel = true
	for _, test := range []struct {
		q    Request
		want Code
	}{{unknown.Portions[0], AccountUnknown}, {cancel, Cancelled}, {Request{Kind: Finish, Transfer: aborted.Transfer}, 0}} {
		if got := p.do(1, test.q); got.Refused != test.want {
			t.Fatalf("%+v: %+v, want %v", test.q, got, test.want)
		}
	}
	p.do(1, Request{Kind: OpenAccount, Any: true, Account: p.c, Currency: testKRW})
	for i, crossing := range []Crossing{unknown, cancelled, aborted} {
		want := Result{Refused: []Code{AccountUnknown, Cancelled, Cancelled}[i]}
		if diff := cmp.Diff(want, p.do(1, crossing.Portions[0])); diff != "" {
			t.Errorf("prepared after all (-want +got):\n%s", diff)
		}
	}
	prepared := p.begin(Leg{p.a, -1}, Leg{p.b, 1})
	if got := p.do(1, prepared.Portions[0]); got.Record == 0 {
		t.Fatalf("not prepared: %+v", got)
	}
	late := prepared.Portions[0]
	late.Cancel = true
	if got := p.do(1, late); got.Refused != 0 {
		t.Errorf("what was prepared is cancelled: %+v", got)
	}
	if got := p.do(1, Request{Kind: Finish, Transfer: ID{1, 0, 1}, Commit: true}); got.Refused != NotPending {
		t.Errorf("what was never prepared is finished: %+v", got)
	}
}

// TestDecideOnce lets the first decision stand, and gives a key whose transfer was aborted a refusal in any case.
func TestDecideOnce(t *testing.T) {
	p := newPair(t)
	crossing := p.begin(Leg{p.a, -5}, Leg{p.b, 5})
	p.do(0, Request{Kind: Decide, Transfer: crossing.Transfer})
	p.do(0, Request{Kind: Decide, Transfer: crossing.Transfer, Commit: true})
	if commit, decided := p.shards[0].Decided(crossing.Transfer); commit || !decided {
		t.Errorf("decided %v, %v", commit, decided)
	}
	if k := p.shards[0].keys.at(0); k.code != Cancelled || k.record != 0 {
		t.Errorf("the key decided record %d, %v", k.record, k.code)
	}
	if a, _ := p.shards[0].Account(p.a); a.Posted.Amount != "0" {
		t.Errorf("after an abort the payer has %s", a.Posted.Amount)
	}
}

// TestCheckFinds damages one thing at a time in a shard that has something of everything.
func TestCheckFinds(t *testing.T) {
	first := func(s *State, of func(rec uint32, r *root) bool) *root {
		for rec, r := range ordered(s.roots) {
			if of(rec, r) {
				return r
			}
		}
		t.Fatal("the shard has no such thing")
		return nil
	}
	held := func(rec uint32, r *root) bool { return r.status == statusHeld && r.remaining > 0 }
	received := func(rec uint32, r *root) bool { return len(r.receivedBy) > 0 && r.captured > r.refunded }
	last := func(s *State) *posting { return s.postings.at(uint32(s.postings.n - 1)) }
	for name, damage := range map[string]func(s *State){
		"a balance":           func(s *State) { s.accounts.at(1).posted++ },
		"a number of entries": func(s *State) { s.accounts.at(1).entries++ },
		"an amount":           func(s *State) { last(s).amount++ },
		"a balance in a line": func(s *State) { last(s).balance++ },
		"a number in a line":  func(s *State) { last(s).number++ },
		"a line's record":     func(s *State) { last(s).record-- },
		"a lost line":         func(s *State) { s.postings.cut(s.postings.n - 1) },
		"held":                func(s *State) { s.accounts.at(1).held++ },
		"incoming":            func(s *State) { s.accounts.at(1).incoming++ },
		"closed with money":   func(s *State) { s.accounts.at(1).flags |= Settings{Closed: true}.flags() },
		"a lost hold":         func(s *State) { first(s, held).remaining-- },
		"a hold that is over": func(s *State) { first(s, held).status = statusVoided },
		"an end that is open": func(s *State) { first(s, received).status = statusHeld },
		"authorised":          func(s *State) { first(s, held).amount++ },
		"captured twice":      func(s *State) { r := first(s, held); r.captured, r.amount = r.captured+1, r.amount+1 },
		"voided":              func(s *State) { first(s, held).voided++ },
		"moving":              func(s *State) { first(s, held).moving-- },
		"refunded":            func(s *State) { first(s, received).refunded++ },
		"given back":          func(s *State) { first(s, received).receivedBy[0].back++ },
		"refunded too much": func(s *State) {
			r := first(s, received)
			r.receivedBy[0].back, r.refunded = r.receivedBy[0].received+1, r.captured+1
		},
		"received":              func(s *State) { first(s, received).receivedBy[0].received++ },
		"a lost crossing":       func(s *State) { clear(s.settling) },
		"a crossing that ended": func(s *State) { clearFates(s) },
		"a lost portion": func(s *State) {
			for _, p := range s.portions {
				p.pending = false
			}
		},
		"a lost key":               func(s *State) { delete(s.byKey, s.keys.at(0).key) },
		"a key of no record":       func(s *State) { s.keys.at(0).record = uint32(s.records.n) },
		"a key with two decisions": func(s *State) { s.keys.at(0).record, s.keys.at(0).code = 1, Forbidden },
		"a lost owner": func(s *State) {
			for user := range s.owned {
				s.owned[user] = s.owned[user][1:]
			}
		},
		"another owner":             func(s *State) { s.accounts.at(1).owner++ },
		"owned twice":               func(s *State) { u := s.accounts.at(1).owner; s.owned[u] = append(s.owned[u], s.owned[u][0]) },
		"less than nothing":         func(s *State) { overdrawn(t, s).flags &^= Settings{Overdraft: true}.flags() },
		"a line of another account": func(s *State) { last(s).account = 1 + last(s).account%2 },
	} {
		t.Run(name, func(t *testing.T) {
			s := rich(t)
			if err := s.Check(); err != nil {
				t.Fatal(err)
			}
			damage(s)
			if err := s.Check(); err == nil {
				t.Error("Check finds nothing")
			} else {
				t.Log(err)
			}
		})
	}
}

func clearFates(s *State) {
	for rec := range s.settling {
		s.records.at(rec).fate = committed
	}
}

func overdrawn(t *testing.T, s *State) *account {
	for n := 1; n < s.accounts.n; n++ {
		if a := s.accounts.at(uint32(n)); a.overdraft() && a.available() < 0 {
			return a
		}
	}
	t.Fatal("no account is overdrawn")
	return nil
}

// rich finds a shard with all that TestCheckFinds damages.
func rich(t *testing.T) *State {
	w := newWorld(seededDice(5), rightly, 2)
	w.setUp()
	for range 20000 {
		w.step()
		for _, s := range w.shards {
			held, received, pending, over := false, false, false, false
			for _, r := range s.roots {
				held = held || r.status == statusHeld && r.remaining > 0
				received = received || len(r.receivedBy) > 0 && r.captured > r.refunded
			}
			for _, p := range s.portions {
				pending = pending || p.pending
			}
			for n := 1; n < s.accounts.n; n++ {
				a := s.accounts.at(uint32(n))
				over = over || a.overdraft() && a.available() < 0
			}
			if held && received && pending && over && len(s.settling) > 0 && s.accounts.at(1).posted != 0 {
				return s
			}
		}
	}
	t.Fatal("the seed makes too little")
	return nil
}
