package ledger

import (
	"container/heap"
	"slices"
)

// target finds what a request acts on, and fills in its currency, which is what the request says if it does.
func (s *State) target(q *Request) (rec uint32, r *root, refused Code) {
	rec = s.lookup(q.Transfer)
	if rec == 0 {
		return 0, nil, TransferUnknown
	}
	switch s.records.at(rec).kind {
	case recTransfer, recHold, recClaimable, recCapture, recVoid, recRefund, recClaim, recReturn, recExpired, recReturned:
	default:
		return 0, nil, TransferUnknown
	}
	currency := s.records.at(rec).currency
	if q.Currency != (Currency{}) && q.Currency != currency {
		return 0, nil, CurrencyMismatch
	}
	q.Currency = currency
	return rec, s.roots[rec], 0
}

// owns says whether a request may act for an account. That of another shard is nobody's here.
func (s *State) owns(q *Request, account string) bool {
	n := s.find(account)
	return q.Any || n != 0 && *s.users.at(s.accounts.at(n).owner) == q.By
}

func (s *State) capture(q *Request) Result {
	rec, r, refused := s.target(q)
	switch {
	case refused != 0:
		return refuse(refused)
	case r == nil || r.status != statusHeld || r.remaining == 0:
		return refuse(NotPending)
	case s.position.Time >= r.expires:
		return refuse(HoldExpired)
	case !s.owns(q, r.payee):
		return refuse(Forbidden)
	}
	amount := q.Amount
	if amount == 0 {
		amount = r.remaining
	}
	legs := append([]Leg{{r.payer, -amount}}, q.Legs...)
	if len(q.Legs) == 0 {
		legs = append(legs, Leg{r.payee, amount})
	}
	switch {
	case amount < 0 || slices.ContainsFunc(legs[1:], func(l Leg) bool { return l.Amount <= 0 }) || !legsValid(legs):
		return refuse(LegsInvalid)
	case amount > r.remaining:
		return refuse(AmountExceeds)
	}
	if refused := s.asAsked(q); refused.Refused != 0 {
		return refused
	}
	payer := s.accounts.at(s.find(r.payer))
	held := reserved(payer, amount)
	payer.held -= held // it pays what was held for this
	allowed := *q
	allowed.Any = true
	result := s.execute(&allowed, recCapture, rec, legs, unlimited)
	if result.Refused != 0 {
		payer.held += held
		result.Leg = uint8(max(0, int(result.Leg)-1))
		return result
	}
	r.remaining -= amount
	if result.Settling {
		r.moving += amount
		c := s.settling[result.Record]
		c.root, c.final = rec, q.Final
	} else {
		s.captured(r, amount, legs, q.Final)
	}
	return result
}

// captured ends a capture that was done.
func (s *State) captured(r *root, amount int64, legs []Leg, final bool) {
	r.captured += amount
	r.receive(s, legs)
	if final {
		s.free(r, statusVoided)
	}
	r.settle()
}

// receive notes who received what.
func (r *root) receive(s *State, legs []Leg) {
	for _, leg := range legs {
		if leg.Amount < 0 {
			continue
		}
		i := slices.IndexFunc(r.receivedBy, func(h share) bool { return h.account == leg.Account })
		if i < 0 {
			i = len(r.receivedBy)
			r.receivedBy = append(r.receivedBy, share{account: s.clone(leg.Account)})
		}
		r.receivedBy[i].received += leg.Amount
	}
}

// free ends what remains of a hold.
func (s *State) free(r *root, how status) (amount int64) {
	amount = r.remaining
	a := s.touch(s.find(r.payer))
	a.held -= reserved(a, amount)
	r.voided += amount
	r.remaining = 0
	r.over = how
	return amount
}

// settle gives the root its last status when nothing is open any more.
func (r *root) settle() {
	switch {
	case r.remaining > 0 || r.moving > 0:
	case r.status == statusHeld && r.captured > 0:
		r.status = statusCaptured
	case r.status == statusHeld:
		r.status = r.over
	case r.status == statusClaimable && r.captured > 0:
		r.status = statusClaimed
	case r.status == statusClaimable:
		r.status = r.over
	}
}

func (s *State) void(q *Request) Result {
	rec, r, refused := s.target(q)
	switch {
	case refused != 0:
		return refuse(refused)
	case r == nil || !s.open(rec):
		return refuse(NotPending)
	case r.status == statusHeld && !s.owns(q, r.payee), r.status == statusClaimable && !s.owns(q, r.payer):
		return refuse(Forbidden)
	}
	if r.status == statusHeld {
		return s.release(q, rec, r, recVoid, statusVoided)
	}
	return s.giveBack(q, rec, r, recReturn, statusReturned)
}

func (s *State) expire(q *Request) Result {
	rec, r, refused := s.target(q)
	if refused != 0 || r == nil || !s.open(rec) || s.position.Time < r.expires {
		return Result{}
	}
	if r.status == statusHeld {
		return s.release(q, rec, r, recExpired, statusExpired)
	}
	return s.giveBack(q, rec, r, recReturned, statusExpired)
}

func (s *State) release(q *Request, rec uint32, r *root, kind recordKind, how status) Result {
	n := s.record(q, kind, r.remaining)
	s.records.at(n).parent = rec
	s.free(r, how)
	r.settle()
	return Result{Record: n}
}

func (s *State) giveBack(q *Request, rec uint32, r *root, kind recordKind, how status) Result {
	amount := r.remaining
	n := s.record(q, kind, amount)
	s.records.at(n).parent = rec
	payer := s.find(r.payer)
	s.cease(payer, amount)
	s.post(n, []placed{{s.system(claims, q.Currency), -amount}, {payer, amount}})
	r.remaining, r.voided, r.over = 0, r.voided+amount, how
	r.settle()
	return Result{Record: n}
}

// cease ends the claim of a payer on the return of a claimable.
func (s *State) cease(payer uint32, amount int64) {
	a := s.touch(payer)
	a.incoming -= amount
	a.held -= returned(a, amount)
}

func (s *State) claim(q *Request) Result {
	rec, r, refused := s.target(q)
	if refused != 0 {
		return refuse(refused)
	}
	_, _, system := cutSystem(q.Account)
	switch {
	case r == nil || r.status != statusClaimable || r.remaining == 0:
		return refuse(NotPending)
	case s.position.Time >= r.expires:
		return refuse(HoldExpired)
	case !q.Any && s.kept(rec).Recipient != q.By:
		return refuse(Forbidden)
	case system:
		return refuse(AccountUnknown)
	}
	amount := r.remaining
	legs := []Leg{{s.accounts.at(s.system(claims, q.Currency)).id, -amount}, {q.Account, amount}}
	result := s.execute(q, recClaim, rec, legs, unlimited)
	if result.Refused != 0 {
		result.Leg = 0
		return result
	}
	r.remaining = 0
	if result.Settling {
		r.moving = amount
		s.settling[result.Record].root = rec
	} else {
		s.claimed(r, amount, legs)
	}
	return result
}

func (s *State) claimed(r *root, amount int64, legs []Leg) {
	s.cease(s.find(r.payer), amount)
	r.captured += amount
	r.receive(s, legs)
	r.settle()
}

func (s *State) refund(q *Request) Result {
	rec, r, refused := s.target(q)
	if refused != 0 {
		return refuse(refused)
	}
	if r == nil {
		if r = s.refundable(rec); r == nil {
			return refuse(NotPending)
		}
	}
	if q.Amount < 0 || q.Amount > r.captured-r.refunded {
		return refuse(AmountExceeds)
	}
	amount := q.Amount
	if amount == 0 {
		amount = r.captured - r.refunded
	}
	if amount == 0 {
		return refuse(NotPending)
	}
	legs, code := s.refundLegs(q, rec, r, amount)
	if code != 0 {
		return refuse(code)
	}
	result := s.execute(q, recRefund, rec, legs, unlimited)
	if result.Refused != 0 {
		return result
	}
	if result.Settling {
		s.settling[result.Record].root = rec
	}
	s.roots[rec] = r
	r.refunded += amount
	r.giveBack(legs, 1)
	return result
}

// refundable makes the root of a plain transfer, of which nothing was refunded yet.
func (s *State) refundable(rec uint32) *root {
	record := s.records.at(rec)
	if record.kind != recTransfer || record.fate != local && record.fate != committed {
		return nil
	}
	r := &root{amount: record.amount, captured: record.amount}
	payers := 0
	for _, leg := range s.legs(rec) {
		if leg.Amount < 0 {
			r.payer = s.clone(leg.Account)
			payers++
		}
	}
	if payers > 1 {
		r.payer = ""
	}
	r.receive(s, s.legs(rec))
	return r
}

// refundLegs says who gives back what to whom.
func (s *State) refundLegs(q *Request, rec uint32, r *root, amount int64) ([]Leg, Code) {
	var legs []Leg
	switch {
	case len(q.Legs) > 0:
		for _, leg := range q.Legs {
			i := slices.IndexFunc(r.receivedBy, func(h share) bool { return h.account == leg.Account })
			if i < 0 || leg.Amount <= 0 {
				return nil, LegsInvalid
			}
			if leg.Amount > r.receivedBy[i].received-r.receivedBy[i].back {
				return nil, AmountExceeds
			}
			legs = append(legs, Leg{leg.Account, -leg.Amount})
		}
	case amount == r.captured-r.refunded:
		for _, h := range r.receivedBy {
			if h.received > h.back {
				legs = append(legs, Leg{h.account, h.back - h.received})
			}
		}
	case len(r.receivedBy) == 1:
		legs = append(legs, Leg{r.receivedBy[0].account, -amount})
	default:
		return nil, RefundLegsNeeded
	}
	if r.payer != "" {
		legs = append(legs, Leg{r.payer, amount})
	} else if len(q.Legs) == 0 && amount == r.captured {
		for _, leg := range s.legs(rec) { // several paid: only all of it can go back
			if leg.Amount < 0 {
				legs = append(legs, Leg{leg.Account, -leg.Amount})
			}
		}
	}
	if !legsValid(legs) {
		return nil, LegsInvalid
	}
	return legs, 0
}

// giveBack notes what receivers gave back, or with sign -1 that they did not.
func (r *root) giveBack(legs []Leg, sign int64) {
	for _, leg := range legs {
		if leg.Amount > 0 {
			continue
		}
		for i := range r.receivedBy {
			if r.receivedBy[i].account == leg.Account {
				r.receivedBy[i].back -= sign * leg.Amount
			}
		}
	}
}

// reopen lets what could not be captured or claimed be open again, unless it was ended meanwhile.
func (s *State) reopen(rec uint32, r *root, amount int64) {
	a := s.touch(s.find(r.payer))
	r.moving -= amount
	switch {
	case r.status == statusClaimable:
		r.remaining += amount
		heap.Push(&s.due, due{r.expires, rec})
	case r.over != statusPosted:
		r.voided += amount
	default:
		a.held += reserved(a, amount)
		r.remaining += amount
		heap.Push(&s.due, due{r.expires, rec})
	}
	r.settle()
}
