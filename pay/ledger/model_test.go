package ledger

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// model is a ledger of one shard as its rules read: maps, scans, and no columns. It says which refusals would be right, as
// several may be, and which record comes next.
type model struct {
	now       int64
	accounts  map[string]*modelAccount
	transfers map[uint32]*modelTransfer // by record
	records   uint32
	answers   map[Key]modelAnswer
	versions  map[string]uint32 // of accounts, as seen before the command
}

type modelAccount struct {
	Settings
	id       string
	currency Currency
	owner    string
	credits  int64 // minus debits
	lines    []modelLine
	spent    map[int64]int64 // by day
}

type modelLine struct {
	record uint32
	amount int64 // natural
}

type modelTransfer struct {
	kind                        string
	currency                    Currency
	legs                        []Leg
	payer, payee, recipient     string
	expires                     int64
	amount                      int64
	captured, voided, remaining int64
	over                        string
	got, back                   map[string]int64
}

type modelAnswer struct {
	q      Request
	result Result
}

func newModel() *model {
	return &model{accounts: map[string]*modelAccount{}, transfers: map[uint32]*modelTransfer{},
		answers: map[Key]modelAnswer{}}
}

func (m *model) clone() *model {
	c := *m
	c.accounts, c.transfers, c.answers = map[string]*modelAccount{}, map[uint32]*modelTransfer{}, maps.Clone(m.answers)
	for id, a := range m.accounts {
		b := *a
		b.lines, b.spent = slices.Clone(a.lines), maps.Clone(a.spent)
		c.accounts[id] = &b
	}
	for rec, t := range m.transfers {
		u := *t
		u.got, u.back = maps.Clone(t.got), maps.Clone(t.back)
		c.transfers[rec] = &u
	}
	return &c
}

// natural is a credit as the account counts it.
func (a *modelAccount) naturally(credit int64) int64 {
	if a.Asset {
		return -credit
	}
	return credit
}

func (m *model) held(a *modelAccount) (sum int64) {
	for _, t := range m.transfers {
		if t.payer == a.id && (t.kind == "hold" && !a.Asset || t.kind == "claimable" && a.Asset) {
			sum += t.remaining // of a claimable that an asset account paid: it shrinks if it returns
		}
	}
	return sum
}

// returning is what claimables may bring back.
func (m *model) returning(a *modelAccount) (sum int64) {
	for _, t := range m.transfers {
		if t.payer == a.id && t.kind == "claimable" {
			sum += t.remaining
		}
	}
	return sum
}

func (m *model) available(a *modelAccount) int64 { return a.naturally(a.credits) - m.held(a) }

func (t *modelTransfer) refunded() (sum int64) {
	for _, back := range t.back {
		sum += back
	}
	return sum
}

func (t *modelTransfer) status() string {
	switch {
	case t.kind == "hold" && t.remaining > 0:
		return "held"
	case t.kind == "claimable" && t.remaining > 0:
		return "claimable"
	case t.kind == "hold" && t.captured > 0:
		return "captured"
	case t.kind == "claimable" && t.captured > 0:
		return "claimed"
	case t.kind == "hold" || t.kind == "claimable":
		return t.over
	}
	return "posted"
}

// reasons are the refusals that would be right. None: the request must succeed.
type reasons map[Code]bool

func (r reasons) when(is bool, c Code) {
	if is {
		r[c] = true
	}
}

func sameRequest(a, b Request) bool {
	if a.Kind == UseKey || b.Kind == UseKey {
		return a.Fingerprint() == b.Fingerprint()
	}
	a.Key, a.By, a.Any, b.Key, b.By, b.Any = Key{}, "", false, Key{}, "", false
	return reflect.DeepEqual(a, b)
}

// command follows a command, and says where the results are wrong.
func (m *model) command(now int64, requests []Request, got []Result) error {
	m.now = now
	for i := 0; i < len(requests); {
		end := i + 1
		for end < len(requests) && requests[end-1].Linked {
			end++
		}
		err := error(nil)
		if end == i+1 {
			err = m.one(&requests[i], got[i])
		} else {
			err = m.chain(requests[i:end], got[i:end])
		}
		if err != nil {
			return fmt.Errorf("request %d %+v: %w", i, requests[i], err)
		}
		i = end
	}
	return nil
}

func (m *model) one(q *Request, got Result) error {
	if known, err := m.replay(q, got); known {
		return err
	}
	return m.settle(q, got, m.step(q))
}

// replay judges the answer to a key that was used.
func (m *model) replay(q *Request, got Result) (known bool, err error) {
	a, known := m.answers[q.Key]
	if !known || q.Key == (Key{}) {
		return false, nil
	}
	want := a.result
	want.Replayed = true
	if !sameRequest(a.q, *q) {
		want = Result{Refused: KeyReused}
	}
	if got != want {
		return true, fmt.Errorf("result %+v under a key that was used, want %+v", got, want)
	}
	return true, nil
}

// settle judges the answer to a new request, and keeps it for its key.
func (m *model) settle(q *Request, got Result, outcome outcome) error {
	switch {
	case len(outcome.why) > 0 && !outcome.why[got.Refused]:
		return fmt.Errorf("result %+v (%v), want a refusal of %v", got, got.Refused, slices.Sorted(maps.Keys(outcome.why)))
	case len(outcome.why) == 0 && got.Refused != 0:
		return fmt.Errorf("refused: %v, it should not be", got.Refused)
	case got.Record != outcome.record || got.Settling || got.Replayed:
		return fmt.Errorf("result %+v, want record %d", got, outcome.record)
	}
	if q.Key != (Key{}) {
		m.answers[q.Key] = modelAnswer{*q, got}
	}
	return nil
}

// outcome is what the model expects of a request: reasons to refuse it, or a record; 0: it makes none.
type outcome struct {
	why    reasons
	record uint32
}

func (m *model) chain(requests []Request, got []Result) error {
	trial, all, failed, why := m.clone(), true, -1, outcome{}
	for i := range requests {
		a, known := m.answers[requests[i].Key]
		all = all && known && sameRequest(a.q, requests[i])
	}
	for i := range requests {
		if all || failed >= 0 {
			break
		}
		q := &requests[i]
		if _, known := trial.answers[q.Key]; known {
			failed = i
			break
		}
		why = outcome{why: reasons{LegsInvalid: true}}
		if q.Kind == Move || q.Kind == Hold || q.Kind == Claimable {
			why = trial.step(q)
		}
		if len(why.why) > 0 {
			failed = i
		} else if err := trial.settle(q, got[i], why); err != nil && got[i].Refused != LinkedFailed {
			return err
		} else if q.Key != (Key{}) {
			trial.answers[q.Key] = modelAnswer{*q, got[i]}
		}
	}
	if failed < 0 && !all {
		for i := range requests {
			if got[i].Refused != 0 {
				return fmt.Errorf("a chain is refused at %d: %v, it should not be", i, got[i].Refused)
			}
		}
		*m = *trial
		return nil
	}
	for i := range requests {
		if known, err := m.replay(&requests[i], got[i]); err != nil {
			return err
		} else if known {
			continue
		}
		expected := outcome{why: reasons{LinkedFailed: true}}
		if i == failed {
			expected = why
		}
		if err := m.settle(&requests[i], got[i], expected); err != nil {
			return fmt.Errorf("in a chain that fails at %d: %w", failed, err)
		}
	}
	return nil
}

// step does a request if there is no reason against it.
func (m *model) step(q *Request) outcome {
	why := reasons{}
	var do func()
	switch q.Kind {
	case OpenAccount:
		do = m.open(q, why)
	case ChangeAccount:
		do = m.change(q, why)
	case Move:
		m.judge(q, q.Legs, true, why)
		do = func() { m.add("transfer", q, q.Legs, true) }
	case Hold:
		do = m.hold(q, why)
	case Claimable:
		do = m.claimable(q, why)
	case Capture:
		do = m.capture(q, why)
	case Void:
		do = m.void(q, why)
	case Refund:
		do = m.refund(q, why)
	case Claim:
		do = m.claim(q, why)
	case Expire:
		t := m.target(q)
		if t == nil || t.remaining == 0 || m.now < t.expires {
			return outcome{}
		}
		do = func() { m.end(t, "expired") }
	default:
		return outcome{} // UseKey
	}
	if len(why) > 0 {
		return outcome{why: why}
	}
	do()
	return outcome{record: m.records}
}

// add makes a record and moves the legs.
func (m *model) add(kind string, q *Request, legs []Leg, limited bool) *modelTransfer {
	m.records++
	t := &modelTransfer{kind: kind, currency: q.Currency, legs: legs, recipient: q.Recipient,
		got: map[string]int64{}, back: map[string]int64{}}
	payers := 0
	for _, leg := range legs {
		if leg.Amount > 0 {
			t.amount += leg.Amount
			t.got[leg.Account] = leg.Amount
		} else {
			t.payer = leg.Account
			payers++
		}
		m.pay(leg, limited)
	}
	if payers > 1 {
		t.payer = ""
	}
	t.captured = t.amount
	m.transfers[m.records] = t
	return t
}

// pay moves one leg; what belongs to no account here is a claim's.
func (m *model) pay(leg Leg, limited bool) {
	a := m.accounts[leg.Account]
	if a == nil {
		return
	}
	a.credits += leg.Amount
	a.lines = append(a.lines, modelLine{m.records, a.naturally(leg.Amount)})
	if limited && leg.Amount < 0 {
		a.spent[m.now/dayNanoseconds] -= leg.Amount
	}
}

func (m *model) open(q *Request, why reasons) func() {
	id := q.Account
	why.when(id != "" && ValidAccount(id) != nil, AccountUnknown)
	why.when(m.accounts[id] != nil, AccountExists)
	why.when(!q.Any && (q.Settings.Asset || q.Settings.Overdraft), Forbidden)
	return func() {
		m.records++
		if id == "" {
			id = "acct_" + ID{Time: m.now / 1e6, Record: m.records}.String()
		}
		m.accounts[id] = &modelAccount{Settings: q.Settings, id: id, currency: q.Currency, owner: q.By,
			spent: map[int64]int64{}}
	}
}

func (m *model) change(q *Request, why reasons) func() {
	a := m.accounts[q.Account]
	if a == nil {
		why.when(true, AccountUnknown)
		return nil
	}
	closes := q.Set&SetClosed != 0 && q.Settings.Closed
	why.when(!q.Any && (a.owner != q.By || q.Set != SetClosed || !closes), Forbidden)
	why.when(q.IfVersion != 0 && q.IfVersion != m.versions[a.id], PreconditionFailed)
	why.when(closes && (a.credits != 0 || m.held(a) != 0 || m.returning(a) != 0), AccountNotEmpty)
	why.when(q.Set&SetOverdraft != 0 && !q.Settings.Overdraft && m.available(a) < 0, InsufficientFunds)
	return func() {
		m.records++
		if q.Set&SetOverdraft != 0 {
			a.Overdraft = q.Settings.Overdraft
		}
		if q.Set&SetClosed != 0 {
			a.Closed = q.Settings.Closed
		}
		if q.Set&SetPerTransfer != 0 {
			a.PerTransfer = q.Settings.PerTransfer
		}
		if q.Set&SetPerDay != 0 {
			a.PerDay = q.Settings.PerDay
		}
	}
}

// balanced gives the reason against legs that are none.
func balanced(legs []Leg, why reasons) bool {
	sum, seen := int64(0), map[string]bool{}
	bad := len(legs) < 2 || len(legs) > 16
	for _, leg := range legs {
		bad = bad || seen[leg.Account] || leg.Amount == 0 || leg.Amount > AmountMax || leg.Amount < -AmountMax
		seen[leg.Account] = true
		if !bad {
			sum += leg.Amount
			bad = sum > AmountMax || sum < -AmountMax
		}
	}
	why.when(bad || sum != 0, LegsInvalid)
	return !bad && sum == 0
}

// judge gives the reasons against moving legs. Any of capture's payer was settled when it was held.
func (m *model) judge(q *Request, legs []Leg, limited bool, why reasons) {
	if !balanced(legs, why) {
		return
	}
	for _, leg := range legs {
		m.judgeLeg(q, leg, limited, why)
	}
}

func (m *model) judgeLeg(q *Request, leg Leg, limited bool, why reasons) {
	a := m.accounts[leg.Account]
	if a == nil {
		why.when(true, AccountUnknown)
		return
	}
	why.when(a.Closed, AccountClosed)
	why.when(a.currency != q.Currency, CurrencyMismatch)
	change := a.naturally(leg.Amount)
	why.when(change < 0 && !a.Overdraft && m.available(a)+change < 0, InsufficientFunds)
	why.when(change < 0 && m.available(a)+change < -AmountMax, BalanceOverflow)
	why.when(change > 0 && a.naturally(a.credits)+m.returning(a)+change > AmountMax, BalanceOverflow)
	if leg.Amount > 0 {
		return
	}
	why.when(!q.Any && a.owner != q.By, Forbidden)
	why.when(limited && q.IfVersion != 0 && q.IfVersion != m.versions[a.id], PreconditionFailed)
	why.when(limited && a.PerTransfer > 0 && -leg.Amount > a.PerTransfer, LimitExceeded)
	why.when(limited && a.PerDay > 0 && a.spent[m.now/dayNanoseconds]-leg.Amount > a.PerDay, LimitExceeded)
}

func (m *model) expiry(q *Request) int64 {
	if q.Expires != 0 {
		return q.Expires
	}
	return m.now + 7*dayNanoseconds
}

func (m *model) hold(q *Request, why reasons) func() {
	why.when(len(q.Legs) != 2 || q.Legs[0].Amount > 0, LegsInvalid)
	if !balanced(q.Legs, why) || len(why) > 0 {
		return nil
	}
	m.judgeLeg(q, q.Legs[0], true, why)
	payee := m.accounts[q.Legs[1].Account]
	why.when(payee == nil, AccountUnknown)
	why.when(payee != nil && payee.Closed, AccountClosed)
	why.when(payee != nil && payee.currency != q.Currency, CurrencyMismatch)
	return func() {
		t := m.add("hold", q, nil, false)
		t.payer, t.payee, t.expires, t.legs = q.Legs[0].Account, q.Legs[1].Account, m.expiry(q), q.Legs
		t.amount, t.remaining = q.Legs[1].Amount, q.Legs[1].Amount
		m.accounts[t.payer].spent[m.now/dayNanoseconds] += t.amount
	}
}

func (m *model) claimable(q *Request, why reasons) func() {
	why.when(len(q.Legs) != 1 || q.Legs[0].Amount >= 0 || q.Legs[0].Amount < -AmountMax || q.Recipient == "", LegsInvalid)
	if len(why) > 0 {
		return nil
	}
	m.judgeLeg(q, q.Legs[0], true, why)
	kept := int64(0)
	for _, t := range m.transfers {
		if t.kind == "claimable" && t.currency == q.Currency {
			kept += t.remaining
		}
	}
	why.when(kept-q.Legs[0].Amount > AmountMax, BalanceOverflow)
	return func() {
		t := m.add("claimable", q, q.Legs, true)
		t.amount, t.remaining, t.expires = -q.Legs[0].Amount, -q.Legs[0].Amount, m.expiry(q)
	}
}

// target is the transfer that a request names, if there is one.
func (m *model) target(q *Request) *modelTransfer {
	if q.Transfer.Shard != 0 || q.Transfer.Time < 0 {
		return nil
	}
	return m.transfers[q.Transfer.Record]
}

func (m *model) owned(q *Request, account string) bool {
	return q.Any || m.accounts[account] != nil && m.accounts[account].owner == q.By
}

func (m *model) capture(q *Request, why reasons) func() {
	t := m.target(q)
	if t == nil {
		why.when(true, TransferUnknown)
		return nil
	}
	if t.kind != "hold" || t.remaining == 0 {
		why.when(true, NotPending)
		return nil
	}
	why.when(m.now >= t.expires, HoldExpired)
	why.when(!m.owned(q, t.payee), Forbidden)
	amount := q.Amount
	if amount == 0 {
		amount = t.remaining
	}
	why.when(amount < 0, LegsInvalid)
	why.when(amount > t.remaining, AmountExceeds)
	legs := append([]Leg{{t.payer, -amount}}, q.Legs...)
	if len(q.Legs) == 0 {
		legs = append(legs, Leg{t.payee, amount})
	}
	for _, leg := range legs[1:] {
		why.when(leg.Amount <= 0, LegsInvalid)
	}
	if !balanced(legs, why) || len(why) > 0 {
		return nil
	}
	as := *q
	as.Any, as.Currency = true, t.currency
	t.remaining -= amount // what it pays was held for this
	m.judge(&as, legs, false, why)
	t.remaining += amount
	return func() {
		m.add("capture", &as, legs, false)
		t.remaining -= amount
		t.captured += amount
		for _, leg := range legs[1:] {
			t.got[leg.Account] += leg.Amount
		}
		if q.Final {
			t.voided += t.remaining
			t.remaining = 0
		}
	}
}

// end frees or returns what remains.
func (m *model) end(t *modelTransfer, how string) {
	m.records++
	if t.kind == "claimable" {
		m.pay(Leg{t.payer, t.remaining}, false)
	}
	m.transfers[m.records] = &modelTransfer{kind: "end", currency: t.currency, amount: t.remaining}
	t.voided += t.remaining
	t.remaining, t.over = 0, how
}

func (m *model) void(q *Request, why reasons) func() {
	t := m.target(q)
	if t == nil {
		why.when(true, TransferUnknown)
		return nil
	}
	if t.remaining == 0 {
		why.when(true, NotPending)
		return nil
	}
	if t.kind == "hold" {
		why.when(!m.owned(q, t.payee), Forbidden)
		return func() { m.end(t, "voided") }
	}
	why.when(!m.owned(q, t.payer), Forbidden)
	return func() { m.end(t, "returned") }
}

func (m *model) claim(q *Request, why reasons) func() {
	t := m.target(q)
	if t == nil {
		why.when(true, TransferUnknown)
		return nil
	}
	if t.kind != "claimable" || t.remaining == 0 {
		why.when(true, NotPending)
		return nil
	}
	why.when(m.now >= t.expires, HoldExpired)
	why.when(!q.Any && t.recipient != q.By, Forbidden)
	as, amount := *q, t.remaining
	as.Currency = t.currency
	m.judgeLeg(&as, Leg{q.Account, amount}, false, why) // its payer counts with the return until it is done
	return func() {
		m.add("claim", &as, []Leg{{q.Account, amount}}, false)
		t.remaining, t.captured = 0, amount
		t.got[q.Account] += amount
	}
}

func (m *model) refund(q *Request, why reasons) func() {
	t := m.target(q)
	if t == nil {
		why.when(true, TransferUnknown)
		return nil
	}
	left := t.captured - t.refunded()
	if t.kind != "transfer" && t.kind != "hold" && t.kind != "claimable" || left == 0 {
		why.when(true, NotPending)
		why.when(q.Amount != 0, AmountExceeds)
		return nil
	}
	amount := q.Amount
	if amount == 0 {
		amount = left
	}
	why.when(amount < 0 || amount > left, AmountExceeds)
	legs := m.refundLegs(q, t, amount, left, why)
	if len(why) > 0 {
		return nil
	}
	as := *q
	as.Currency = t.currency
	m.judge(&as, legs, false, why)
	return func() {
		m.add("refund", &as, legs, false)
		for _, leg := range legs {
			if leg.Amount < 0 {
				t.back[leg.Account] -= leg.Amount
			}
		}
	}
}

// refundLegs says who gives back what, to whom.
func (m *model) refundLegs(q *Request, t *modelTransfer, amount, left int64, why reasons) (legs []Leg) {
	for _, leg := range q.Legs {
		why.when(leg.Amount <= 0 || t.got[leg.Account] == 0, LegsInvalid)
		why.when(leg.Amount > t.got[leg.Account]-t.back[leg.Account], AmountExceeds)
		legs = append(legs, Leg{leg.Account, -leg.Amount})
	}
	receivers := slices.Sorted(maps.Keys(t.got))
	if len(q.Legs) == 0 {
		why.when(amount < left && len(receivers) > 1, RefundLegsNeeded)
		for _, account := range receivers {
			if give := min(amount, t.got[account]-t.back[account]); give > 0 {
				legs = append(legs, Leg{account, -give})
			}
		}
	}
	if t.payer == "" { // several paid: all of it goes back, by itself
		why.when(len(q.Legs) > 0 || amount < t.captured, LegsInvalid)
		for _, leg := range t.legs {
			if leg.Amount < 0 {
				legs = append(legs, Leg{leg.Account, -leg.Amount})
			}
		}
		return legs
	}
	return append(legs, Leg{t.payer, amount})
}
