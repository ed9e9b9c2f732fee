package ledger

import (
	"cmp"
	"slices"
)

// depart takes what is paid here out of the accounts, into transit. The accounts of all legs cannot be closed until it is
// known what becomes of them.
func (s *State) depart(rec uint32, c Currency, legs []placed) {
	for _, leg := range legs {
		s.touch(leg.account).incoming += abs(leg.amount)
	}
	s.through(rec, c, legs, -1, 1)
}

// arrive ends a part: what is received here comes out of transit, or, if it is aborted, what was paid goes back.
func (s *State) arrive(rec uint32, c Currency, legs []placed, commit bool) {
	for _, leg := range legs {
		s.touch(leg.account).incoming -= abs(leg.amount)
	}
	if commit {
		s.through(rec, c, legs, 1, 1)
	} else {
		s.through(rec, c, legs, -1, -1)
	}
}

// through posts the legs that make their accounts grow (which 1) or shrink (-1), or their opposites (sign -1), against transit.
func (s *State) through(rec uint32, c Currency, legs []placed, which, sign int64) {
	var moved []placed
	sum := int64(0)
	for _, leg := range legs {
		if a := s.accounts.at(leg.account); (a.natural(leg.amount) > 0) == (which > 0) {
			moved = append(moved, placed{leg.account, sign * leg.amount})
			sum += sign * leg.amount
		}
	}
	if len(moved) > 0 {
		s.post(rec, append(moved, placed{s.system(transit, c), -sum}))
	}
}

func abs(x int64) int64 { return max(x, -x) }

// locals are the legs of this shard. They were found before.
func (s *State) locals(legs []Leg) []placed {
	var found []placed
	for _, leg := range legs {
		if s.here(leg.Account) {
			found = append(found, placed{s.find(leg.Account), leg.Amount})
		}
	}
	return found
}

// decide ends a transfer between shards, at home.
func (s *State) decide(q *Request) Result {
	rec := s.lookup(q.Transfer)
	c := s.settling[rec]
	if c == nil {
		return Result{Record: rec}
	}
	r := s.records.at(rec)
	q.Currency = r.currency
	kind := recAborted
	if q.Commit {
		kind = recCommitted
	}
	n := s.record(q, kind, r.amount)
	s.records.at(n).parent = rec
	s.arrive(n, r.currency, s.locals(c.legs), q.Commit)
	delete(s.settling, rec)
	if q.Commit {
		r.fate = committed
	} else {
		r.fate = aborted
		if c.used != 0 {
			k := s.keys.at(c.used - 1)
			k.record, k.code, k.leg = 0, cmp.Or(q.Code, Cancelled), q.Leg
		}
	}
	if c.root != 0 {
		s.decided(c, r, q.Commit)
	}
	return Result{Record: n}
}

// decided tells the root of a capture, claim or refund how it ended.
func (s *State) decided(c *crossing, r *record, commit bool) {
	root := s.roots[c.root]
	switch {
	case r.kind == recRefund && !commit:
		root.refunded -= r.amount
		root.giveBack(c.legs, -1)
	case r.kind == recRefund:
	case !commit:
		s.reopen(c.root, root, r.amount)
	case r.kind == recClaim:
		root.moving -= r.amount
		s.claimed(root, r.amount, c.legs)
	default:
		root.moving -= r.amount
		s.captured(root, r.amount, c.legs, c.final)
	}
}

// prepare does this shard's part of another's transfer, or rejects it, for good.
func (s *State) prepare(q *Request) Result {
	p := s.portions[q.Transfer]
	if p == nil {
		p = s.accept(q)
		s.portions[q.Transfer] = p
	}
	return Result{Record: p.record, Refused: p.code, Leg: p.leg}
}

func (s *State) accept(q *Request) *portion {
	if q.Cancel {
		return &portion{code: Cancelled}
	}
	placed, refused := s.place(q, q.Legs)
	if refused.Refused == 0 {
		refused = s.payable(q, q.Legs, placed, !q.Final)
	}
	if refused.Refused != 0 {
		return &portion{code: refused.Refused, leg: refused.Leg}
	}
	rec := s.record(q, recPrepared, received(q.Legs))
	s.records.at(rec).text = s.text(&Request{Legs: q.Legs, Transfer: q.Transfer, Memo: q.Memo, Reference: q.Reference})
	if !q.Final {
		s.spendAll(placed)
	}
	s.depart(rec, q.Currency, placed)
	return &portion{record: rec, pending: true}
}

// finish ends this shard's part. An abort of what was not prepared rejects it for good.
func (s *State) finish(q *Request) Result {
	p := s.portions[q.Transfer]
	switch {
	case p == nil && q.Commit:
		return refuse(NotPending) // nobody decides so before all have prepared
	case p == nil:
		s.portions[q.Transfer] = &portion{code: Cancelled}
		return Result{}
	case !p.pending:
		return Result{}
	}
	r := s.records.at(p.record)
	q.Currency = r.currency
	kind := recDropped
	if q.Commit {
		kind = recFinished
	}
	n := s.record(q, kind, r.amount)
	s.records.at(n).parent = p.record
	s.arrive(n, r.currency, s.locals(s.kept(p.record).Legs), q.Commit)
	p.pending = false
	return Result{Record: n}
}

// Crossing is a transfer between shards that this shard, its home, has not decided.
type Crossing struct {
	Transfer ID
	Began    int64     // Unix nanoseconds
	Portions []Request // the Prepare of each other shard, in the order of shards
	Shards   []int     // whose
	Legs     [][]uint8 // which of the transfer's legs each portion has
}

// Crossing returns what is to be prepared elsewhere for a record of this shard; false if it is decided.
func (s *State) Crossing(rec uint32) (Crossing, bool) {
	c := s.settling[rec]
	if c == nil {
		return Crossing{}, false
	}
	r := s.records.at(rec)
	out := Crossing{Transfer: s.id(rec), Began: r.time}
	kept := s.kept(rec)
	for shard := range s.shards {
		q := Request{Kind: Prepare, Transfer: out.Transfer, Currency: r.currency, By: *s.users.at(r.by), Any: c.any,
			Final: r.kind != recTransfer, Memo: kept.Memo, Reference: kept.Reference}
		var which []uint8
		for i, leg := range c.legs {
			if shard != s.shard && ShardOf(leg.Account, s.shards) == shard {
				q.Legs, which = append(q.Legs, leg), append(which, uint8(i))
			}
		}
		if len(q.Legs) > 0 {
			out.Portions, out.Shards, out.Legs = append(out.Portions, q), append(out.Shards, shard), append(out.Legs, which)
		}
	}
	return out, true
}

// Settling returns the records of this shard that are not decided, and Unfinished the transfers of other shards of which
// this one has a part that is not finished; both began before a time, in Unix nanoseconds, and are sorted.
func (s *State) Settling(before int64) []uint32 {
	var found []uint32
	for rec := range s.settling {
		if s.records.at(rec).time < before {
			found = append(found, rec)
		}
	}
	slices.Sort(found)
	return found
}

// Unfinished: see Settling.
func (s *State) Unfinished(before int64) []ID {
	var found []ID
	for id, p := range s.portions {
		if p.pending && s.records.at(p.record).time < before {
			found = append(found, id)
		}
	}
	slices.SortFunc(found, compareIDs)
	return found
}

func compareIDs(a, b ID) int {
	return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.Record, b.Record))
}

// Pending says whether this shard's part in another's transfer may not be finished, as far as this state knows: it may be
// behind, and not know of the part yet.
func (s *State) Pending(id ID) bool {
	p := s.portions[id]
	return p == nil || p.pending
}

// Decided says how a transfer of this shard between shards ended; false if it has not, or there is none.
func (s *State) Decided(id ID) (commit, decided bool) {
	rec := s.lookup(id)
	if rec == 0 {
		return false, false
	}
	f := s.records.at(rec).fate
	return f == committed, f == committed || f == aborted
}

// Others returns the other shards that have a part in a transfer between shards.
func (s *State) Others(id ID) []int {
	var shards []int
	if rec := s.lookup(id); rec != 0 {
		for _, leg := range s.legs(rec) {
			if shard := ShardOf(leg.Account, s.shards); shard != s.shard && !slices.Contains(shards, shard) {
				shards = append(shards, shard)
			}
		}
	}
	slices.Sort(shards)
	return shards
}

// Home returns the shard that handles a request. Requests under a key that another shard remembers are preceded there by
// UseKey: KeyShard.
func Home(q *Request, shards int) int {
	switch {
	case q.Transfer != (ID{}):
		return int(q.Transfer.Shard) % shards
	case q.Account != "":
		return ShardOf(q.Account, shards)
	case len(q.Legs) > 0:
		for _, leg := range q.Legs {
			if leg.Amount < 0 { // who pays
				return ShardOf(leg.Account, shards)
			}
		}
		return ShardOf(q.Legs[0].Account, shards)
	}
	return q.Key.shardOf(shards)
}

// KeyShard returns the shard that remembers a request's key.
func KeyShard(q *Request, shards int) int { return q.Key.shardOf(shards) }
