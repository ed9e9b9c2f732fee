package ledger

import (
	"container/heap"
	"encoding/binary"
	"math"

	"dongne/internal/sharedlog"
)

// DefaultExpiry is how long a hold or a claimable is open when its request does not say.
const DefaultExpiry = 7 * 24 * 3600 * int64(1e9) // nanoseconds

// Apply does the requests of one command at a place in the log, in order, and returns a result for each.
func (s *State) Apply(at sharedlog.Position, requests []Request) []Result {
	s.position = at
	results := make([]Result, len(requests))
	for i := 0; i < len(requests); {
		end := i + 1
		for requests[end-1].Linked && end < len(requests) {
			end++
		}
		if end == i+1 {
			results[i] = s.one(&requests[i])
		} else {
			s.chain(requests[i:end], results[i:end])
		}
		i = end
	}
	s.forget()
	return results
}

// one does a request unless its key was used.
func (s *State) one(q *Request) Result {
	if q.Key == (Key{}) {
		return s.do(q)
	}
	if result, known := s.Replay(q); known {
		return result
	}
	result := s.do(q)
	s.use(q, result)
	return result
}

// Replay returns what the request's key decided before; false if it is new.
func (s *State) Replay(q *Request) (Result, bool) {
	n, known := s.byKey[q.Key]
	if !known {
		return Result{}, false
	}
	k := s.keys.at(n)
	if k.print != q.Fingerprint() {
		return Result{Refused: KeyReused}, true
	}
	return Result{Record: k.record, Refused: k.code, Leg: k.leg, Replayed: true,
		Settling: k.record != 0 && s.records.at(k.record).fate == settling}, true
}

func (s *State) use(q *Request, result Result) {
	n := s.keys.add(used{q.Key, q.Fingerprint(), result.Record, result.Refused, result.Leg})
	s.byKey[q.Key] = n
	if result.Settling {
		s.settling[result.Record].used = n + 1
	}
}

// chain does linked requests, all or none. A key that was used fails the others: what it did cannot be undone.
func (s *State) chain(requests []Request, results []Result) {
	if s.replayChain(requests, results) {
		return
	}
	s.begin()
	failed := -1
	for i := range requests {
		q := &requests[i]
		if results[i] = s.linked(q); results[i].Refused != 0 || results[i].Replayed {
			failed = i
			break
		}
		if q.Key != (Key{}) {
			s.use(q, results[i])
		}
	}
	if failed < 0 {
		s.undo = nil
		return
	}
	s.rollback()
	for i := range requests {
		q := &requests[i]
		if result, known := s.Replay(q); known && q.Key != (Key{}) {
			results[i] = result
			continue
		}
		if i != failed {
			results[i] = Result{Refused: LinkedFailed}
		}
		if q.Key != (Key{}) {
			s.use(q, results[i])
		}
	}
}

func (s *State) replayChain(requests []Request, results []Result) bool {
	for i := range requests {
		result, known := s.Replay(&requests[i])
		if !known || !result.Replayed {
			return false
		}
		results[i] = result
	}
	return true
}

// linked does a request of a chain, which must stay within the shard.
func (s *State) linked(q *Request) Result {
	if result, known := s.Replay(q); known && q.Key != (Key{}) {
		return result
	}
	for i, leg := range q.Legs {
		if !s.here(leg.Account) {
			return Result{Refused: LinkedAcross, Leg: uint8(i)}
		}
	}
	switch q.Kind {
	case Move, Hold, Claimable:
		return s.do(q)
	}
	return Result{Refused: LegsInvalid}
}

// do works on a copy: what it fills in is not part of what was asked.
func (s *State) do(asked *Request) Result {
	request := *asked
	q := &request
	if !q.bounded() {
		return refuse(LegsInvalid)
	}
	switch q.Kind {
	case OpenAccount:
		return s.openAccount(q)
	case ChangeAccount:
		return s.changeAccount(q)
	case Move:
		return s.move(q)
	case Hold:
		return s.hold(q)
	case Claimable:
		return s.claimable(q)
	case Capture:
		return s.capture(q)
	case Void:
		return s.void(q)
	case Refund:
		return s.refund(q)
	case Claim:
		return s.claim(q)
	case Expire:
		return s.expire(q)
	case Prepare:
		return s.prepare(q)
	case Decide:
		return s.decide(q)
	case Finish:
		return s.finish(q)
	}
	return Result{} // UseKey: the key is all there is to it
}

func refuse(code Code) Result { return Result{Refused: code} }

func (s *State) openAccount(q *Request) Result {
	id := q.Account
	switch {
	case id != "" && (ValidAccount(id) != nil || !s.here(id)):
		return refuse(AccountUnknown)
	case id != "" && s.find(id) != 0:
		return refuse(AccountExists)
	case !q.Any && (q.Settings.Asset || q.Settings.Overdraft):
		return refuse(Forbidden)
	}
	rec := s.record(q, recOpened, 0)
	if id == "" {
		id = accountPrefix + s.id(rec).String()
	}
	id = string(append([]byte(nil), id...)) // not the whole command
	n := s.accounts.add(account{id: id, currency: q.Currency, flags: q.Settings.flags(), perTransfer: q.Settings.PerTransfer,
		perDay: q.Settings.PerDay, owner: s.user(q.By), record: rec, changed: rec, version: 1})
	s.byID[id] = n
	s.own(n)
	r := s.records.at(rec)
	r.account = n
	r.text = s.text(&Request{Settings: q.Settings})
	return Result{Record: rec}
}

func (s *State) changeAccount(q *Request) Result {
	n := s.find(q.Account)
	if n == 0 || s.accounts.at(n).record == 0 {
		return refuse(AccountUnknown)
	}
	a := s.accounts.at(n)
	switch {
	case !q.Any && (*s.users.at(a.owner) != q.By || q.Set != SetClosed || !q.Settings.Closed):
		return refuse(Forbidden) // its owner may close it, and no more
	case q.IfVersion != 0 && q.IfVersion != a.version:
		return refuse(PreconditionFailed)
	case q.Set&SetClosed != 0 && q.Settings.Closed && (a.posted != 0 || a.held != 0 || a.incoming != 0):
		return refuse(AccountNotEmpty)
	case q.Set&SetOverdraft != 0 && !q.Settings.Overdraft && a.available() < 0:
		return refuse(InsufficientFunds)
	}
	settings := a.settings()
	if q.Set&SetOverdraft != 0 {
		settings.Overdraft = q.Settings.Overdraft
	}
	if q.Set&SetClosed != 0 {
		settings.Closed = q.Settings.Closed
	}
	if q.Set&SetPerTransfer != 0 {
		settings.PerTransfer = q.Settings.PerTransfer
	}
	if q.Set&SetPerDay != 0 {
		settings.PerDay = q.Settings.PerDay
	}
	q.Currency = a.currency
	rec := s.record(q, recChanged, 0)
	a = s.touch(n)
	a.flags, a.perTransfer, a.perDay, a.changed = settings.flags(), settings.PerTransfer, settings.PerDay, rec
	r := s.records.at(rec)
	r.account = n
	r.text = s.text(&Request{Settings: settings})
	return Result{Record: rec}
}

func (s *State) move(q *Request) Result {
	if !legsValid(q.Legs) {
		return refuse(LegsInvalid)
	}
	if refused := s.asAsked(q); refused.Refused != 0 {
		return refused
	}
	return s.execute(q, recTransfer, 0, q.Legs, limited)
}

// asAsked makes the checks of legs that a client named.
func (s *State) asAsked(q *Request) Result {
	for i, leg := range q.Legs {
		if _, _, system := cutSystem(leg.Account); system {
			return Result{Refused: AccountUnknown, Leg: uint8(i)}
		}
		if q.IfVersion == 0 || leg.Amount >= 0 || !s.here(leg.Account) {
			continue
		}
		if n := s.find(leg.Account); n != 0 && s.accounts.at(n).version != q.IfVersion {
			return Result{Refused: PreconditionFailed, Leg: uint8(i)}
		}
	}
	return Result{}
}

func (s *State) hold(q *Request) Result {
	if !legsValid(q.Legs) || len(q.Legs) != 2 || q.Legs[0].Amount > 0 || !s.here(q.Legs[0].Account) {
		return refuse(LegsInvalid)
	}
	if refused := s.asAsked(q); refused.Refused != 0 {
		return refused
	}
	placed, refused := s.place(q, q.Legs)
	if refused.Refused == 0 {
		refused = s.payable(q, q.Legs, placed[:1], limited)
	}
	if refused.Refused != 0 {
		return refused
	}
	amount := q.Legs[1].Amount
	expires := s.expiry(q)
	rec := s.record(q, recHold, amount)
	s.records.at(rec).text = s.text(&Request{Legs: q.Legs, Memo: q.Memo, Reference: q.Reference, Expires: expires})
	a := s.touch(placed[0].account)
	a.held += reserved(a, amount)
	s.spend(placed[0].account, amount)
	s.roots[rec] = &root{status: statusHeld, amount: amount, remaining: amount, expires: expires,
		payer: a.id, payee: s.clone(q.Legs[1].Account)}
	heap.Push(&s.due, due{expires, rec})
	return Result{Record: rec}
}

// reserved is what a hold of an amount takes from what is available.
func reserved(a *account, amount int64) int64 {
	if a.asset() {
		return 0 // paying makes it grow
	}
	return amount
}

// returned is what a claimable of an amount takes from what is available, so that it can come back.
func returned(a *account, amount int64) int64 {
	if a.asset() {
		return amount // the return makes it shrink
	}
	return 0
}

func (s *State) expiry(q *Request) int64 {
	if q.Expires != 0 {
		return q.Expires
	}
	return s.position.Time + DefaultExpiry
}

// clone returns a text that does not keep a whole command in memory.
func (s *State) clone(id string) string {
	if n := s.find(id); n != 0 {
		return s.accounts.at(n).id
	}
	return string(append([]byte(nil), id...))
}

func (s *State) claimable(q *Request) Result {
	if len(q.Legs) != 1 || !s.here(q.Legs[0].Account) || q.Legs[0].Amount >= 0 || q.Legs[0].Amount < -AmountMax || q.Recipient == "" {
		return refuse(LegsInvalid)
	}
	if refused := s.asAsked(q); refused.Refused != 0 {
		return refused
	}
	amount := -q.Legs[0].Amount
	legs := []Leg{q.Legs[0], {s.accounts.at(s.system(claims, q.Currency)).id, amount}}
	expires := s.expiry(q)
	kept := *q
	kept.Expires = expires
	result := s.execute(&kept, recClaimable, 0, legs, limited)
	if result.Refused != 0 {
		return result
	}
	a := s.touch(s.find(legs[0].Account))
	a.incoming += amount
	a.held += returned(a, amount)
	s.roots[result.Record] = &root{status: statusClaimable, amount: amount, remaining: amount, expires: expires, payer: a.id}
	heap.Push(&s.due, due{expires, result.Record})
	return result
}

// place finds the legs that are accounts of this shard and can be moved to and from.
func (s *State) place(q *Request, legs []Leg) ([]placed, Result) {
	found := make([]placed, 0, len(legs))
	for i, leg := range legs {
		if !s.here(leg.Account) {
			continue
		}
		n := s.find(leg.Account)
		code := Code(0)
		switch {
		case n == 0:
			code = AccountUnknown
		case s.accounts.at(n).closed():
			code = AccountClosed
		case s.accounts.at(n).currency != q.Currency:
			code = CurrencyMismatch
		}
		if code != 0 {
			return nil, Result{Refused: code, Leg: uint8(i)}
		}
		found = append(found, placed{n, leg.Amount})
	}
	return found, Result{}
}

// Whether the limits of accounts count.
const (
	limited   = true
	unlimited = false
)

// payable says whether the accounts can take their legs: whose they are, funds, limits, range. Who pays comes first: a
// caller who has less than he wants to pay must not learn from the answer what stands in the accounts of others.
func (s *State) payable(q *Request, legs []Leg, placed []placed, limits bool) Result {
	for _, pays := range [...]bool{true, false} {
		if refused := s.takes(q, legs, placed, pays, limits); refused.Refused != 0 {
			return refused
		}
	}
	return Result{}
}

// takes is payable for the legs that pay, or for those that receive.
func (s *State) takes(q *Request, legs []Leg, placed []placed, pays, limits bool) Result {
	for _, leg := range placed {
		if leg.amount < 0 != pays {
			continue
		}
		a := s.accounts.at(leg.account)
		change := a.natural(leg.amount)
		code := Code(0)
		switch {
		case leg.amount < 0 && a.record != 0 && !q.Any && *s.users.at(a.owner) != q.By:
			code = Forbidden
		case change < 0 && !a.overdraft() && a.available()+change < 0:
			code = InsufficientFunds
		case leg.amount < 0 && limits && s.exceeds(a, -leg.amount):
			code = LimitExceeded
		case change < 0 && a.available()+change < -AmountMax, change > 0 && a.natural(a.posted)+a.incoming+change > AmountMax:
			code = BalanceOverflow
		}
		if code != 0 {
			return Result{Refused: code, Leg: uint8(indexOf(legs, a.id))}
		}
	}
	return Result{}
}

func indexOf(legs []Leg, account string) int {
	for i, leg := range legs {
		if leg.Account == account {
			return i
		}
	}
	return 0
}

const dayNanoseconds = 24 * 3600 * int64(1e9)

func (s *State) today() int32 { return int32(s.position.Time / dayNanoseconds) }

func (s *State) exceeds(a *account, amount int64) bool {
	spent := int64(0)
	if a.day == s.today() {
		spent = a.spent
	}
	return a.perTransfer > 0 && amount > a.perTransfer || a.perDay > 0 && (spent > a.perDay-amount)
}

// spend counts an amount towards the account's limit of the day.
func (s *State) spend(n uint32, amount int64) {
	a := s.accounts.at(n)
	if s.undo != nil {
		s.undo.keep(n, a)
	}
	if today := s.today(); a.day != today {
		a.day, a.spent = today, 0
	}
	if a.spent > math.MaxInt64-amount {
		a.spent = math.MaxInt64
		return
	}
	a.spent += amount
}

// execute moves money as the legs say, or begins to if not all of their accounts are of this shard.
func (s *State) execute(q *Request, kind recordKind, parent uint32, legs []Leg, limits bool) Result {
	placed, refused := s.place(q, legs)
	if refused.Refused == 0 {
		refused = s.payable(q, legs, placed, limits)
	}
	if refused.Refused != 0 {
		return refused
	}
	rec := s.record(q, kind, received(legs))
	r := s.records.at(rec)
	r.parent = parent
	kept := Request{Memo: q.Memo, Reference: q.Reference, Recipient: q.Recipient}
	if kind == recClaimable {
		kept.Expires = q.Expires
	}
	if len(placed) < len(legs) {
		kept.Legs = legs
	}
	r.text = s.text(&kept)
	if limits {
		s.spendAll(placed)
	}
	if len(placed) == len(legs) {
		s.post(rec, placed)
		return Result{Record: rec}
	}
	r.fate = settling
	s.depart(rec, q.Currency, placed)
	owned := make([]Leg, len(legs))
	for i, leg := range legs {
		owned[i] = Leg{s.clone(leg.Account), leg.Amount}
	}
	s.settling[rec] = &crossing{legs: owned, any: q.Any}
	return Result{Record: rec, Settling: true}
}

func (s *State) spendAll(legs []placed) {
	for _, leg := range legs {
		if leg.amount < 0 {
			s.spend(leg.account, -leg.amount)
		}
	}
}

func received(legs []Leg) int64 {
	sum := int64(0)
	for _, leg := range legs {
		sum += max(0, leg.Amount)
	}
	return sum
}

// text keeps what a record has no columns for; 0 if there is nothing.
func (s *State) text(q *Request) uint64 {
	bits := q.bits()
	if bits == 0 {
		return 0
	}
	const room = 2 // for the length, in two bytes always
	var scratch [512]byte
	b := q.appendRest(binary.AppendUvarint(scratch[:room], bits), bits)
	length := len(b) - room
	b[0], b[1] = byte(length)|0x80, byte(length>>7)
	return s.texts.put(b)
}
