package books

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A fact is an event, taken apart.
type fact struct {
	event    *Event
	effect   *effect // the acknowledged request that made it; nil: none did
	transfer *Transfer
	account  *Account
	cross    *crossing     // of which it is a step
	asked    time.Duration // when it was asked for, as far as that is known
}

// A state is an account after some fact about it.
type state struct {
	posted, held int64
	entries      int
}

// An account's book is what became of it.
type book struct {
	account Account
	facts   []int   // of replay.facts, about it, in order
	states  []state // after each of them
	entries []Entry
}

func (b *book) now() state {
	if len(b.states) == 0 {
		return state{}
	}
	return b.states[len(b.states)-1]
}

// A root is a transfer with everything that was done with it.
type root struct {
	kind     string
	payer    string // whose money a hold holds, or whoever wants a claimable claimed
	amount   int64
	captured int64
	voided   int64
	refunded int64
	moving   int64 // captured or claimed, and on its way to another shard
	asset    bool  // the payer is one: nothing is held
	ended    bool  // nothing more can be captured: what does not arrive is not held again
}

func (r *root) remaining() int64 { return r.amount - r.captured - r.voided - r.moving }

// A replay is the ledger that is kept of the events.
type replay struct {
	facts []*fact
	books map[string]*book
	roots map[string]*root // by transfer
	over  map[string]bool  // transfers with a state of their own, that pay shows totals of
	wrong []string

	crossings map[string]*crossing // by transfer
	shards    shardMap
}

// SystemPrefix is what the names of pay's own accounts begin with: they may owe, and nobody opens them.
const SystemPrefix = "@"

func (r *replay) complain(format string, args ...any) {
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

// play keeps the ledger of some events, shard by shard: each has an order of its own, and what goes on between them is
// compared afterwards.
func play(events []Event, effects []*effect, refusals []refusal) *replay {
	r := &replay{books: map[string]*book{}, roots: map[string]*root{}, over: map[string]bool{},
		crossings: map[string]*crossing{}, shards: shardsOf(events)}
	by, refused := map[string]*effect{}, map[string]*Request{}
	for _, e := range effects {
		by[e.id()] = e
	}
	for _, no := range refusals {
		refused[no.asked.Memo] = no.request
	}
	for _, e := range bySource(events) {
		f := &fact{event: e}
		if strings.Contains(e.Type, ".account.") {
			f.account = new(Account)
			if json.Unmarshal(e.Data, f.account) != nil {
				r.complain("event %s is %.200q", e.ID, e.Data)
				continue
			}
			f.effect = by["account "+f.account.ID]
		} else {
			f.transfer = new(Transfer)
			if json.Unmarshal(e.Data, f.transfer) != nil || f.transfer.ID == "" {
				r.complain("event %s is %.200q", e.ID, e.Data)
				continue
			}
			f.effect = by[f.transfer.ID]
		}
		if no := refused[f.memo()]; f.effect != nil {
			f.asked = f.effect.request.Asked
		} else if no != nil && f.memo() != "" {
			f.asked = no.Asked
		}
		r.facts = append(r.facts, f)
		r.apply(len(r.facts)-1, f)
	}
	r.crossed()
	return r
}

// bySource sorts events by their sources, and leaves those of each in order.
func bySource(events []Event) []*Event {
	all := make([]*Event, len(events))
	for i := range events {
		all[i] = &events[i]
	}
	slices.SortStableFunc(all, func(a, b *Event) int { return cmp.Compare(a.Source, b.Source) })
	return all
}

func (r *replay) apply(at int, f *fact) {
	changes := map[string]state{}
	switch {
	case f.account != nil:
		b := r.book(f.account.ID)
		b.account = *f.account
		b.note(at, b.now())
		return
	case r.crosses(f):
		r.cross(f, changes)
	default:
		r.local(f, changes)
	}
	r.settle(at, f, changes)
}

// local is a transfer within one shard.
func (r *replay) local(f *fact, changes map[string]state) {
	t := f.transfer
	switch t.Kind {
	case "hold":
		r.hold(t, changes)
		return
	case "capture", "void", "expire":
		r.end(f, changes)
	case "claim", "return":
		r.claim(t, changes)
	case "refund":
		r.refund(t)
	case "claimable":
		r.roots[t.ID], r.over[t.ID] = &root{kind: t.Kind, amount: t.Amount.Amount, payer: payer(t)}, true
	case "transfer":
		r.roots[t.ID] = &root{kind: t.Kind, amount: t.Amount.Amount, captured: t.Amount.Amount}
	default:
		r.complain("event %s is of a transfer of the kind %q", f.event.ID, t.Kind)
	}
	r.post(t, changes)
}

func (r *replay) book(id string) *book {
	b := r.books[id]
	if b == nil {
		b = &book{account: Account{ID: id, Overdraft: strings.HasPrefix(id, SystemPrefix)}}
		r.books[id] = b
	}
	return b
}

func (b *book) note(at int, s state) {
	b.facts = append(b.facts, at)
	b.states = append(b.states, s)
}

// natural is a credit as the account counts it.
func (b *book) natural(credit int64) int64 {
	if b.account.Kind == "asset" {
		return -credit
	}
	return credit
}

func (r *replay) hold(t *Transfer, changes map[string]state) {
	root := &root{kind: t.Kind, amount: t.Amount.Amount, payer: payer(t)}
	root.asset = r.book(root.payer).account.Kind == "asset"
	r.roots[t.ID], r.over[t.ID] = root, true
	r.held(root, root.amount, changes)
}

// payer is the first who pays.
func payer(t *Transfer) string {
	for _, leg := range t.Legs {
		if leg.Amount.Amount < 0 {
			return leg.Account
		}
	}
	return ""
}

// held lets a hold hold so much more, or less.
func (r *replay) held(root *root, amount int64, changes map[string]state) {
	if root.kind != "hold" || root.payer == "" {
		return
	}
	c := changes[root.payer]
	if !root.asset {
		c.held += amount
	}
	changes[root.payer] = c
}

// end takes from what remains of a hold; the end of a claimable by its time gives the money back.
func (r *replay) end(f *fact, changes map[string]state) {
	t := f.transfer
	root := r.roots[t.Parent]
	if root == nil || root.kind != "hold" && !(root.kind == "claimable" && t.Kind == "expire") {
		r.complain("%s is the %s of %q, which is no hold", t.ID, t.Kind, t.Parent)
		return
	}
	if root.remaining() <= 0 || t.Amount.Amount > root.remaining() {
		r.complain("%s is the %s of %d of %s, of which %d remained", t.ID, t.Kind, t.Amount.Amount, t.Parent, root.remaining())
	}
	if t.Kind == "capture" {
		root.captured += t.Amount.Amount
	} else {
		root.voided += t.Amount.Amount
	}
	r.held(root, -t.Amount.Amount, changes)
	root.ended = root.ended || t.Kind != "capture"
	r.rest(f, root, changes)
}

// rest voids what remains behind the last capture.
func (r *replay) rest(f *fact, root *root, changes map[string]state) {
	if rest := root.remaining(); f.transfer.Kind == "capture" && f.effect != nil && f.effect.asked.Final {
		root.ended = true
		root.voided += rest
		r.held(root, -rest, changes)
	}
}

// claim ends a claimable. That is a fact about its payer too, and makes another version of that account.
func (r *replay) claim(t *Transfer, changes map[string]state) {
	root := r.roots[t.Parent]
	if root == nil || root.kind != "claimable" {
		r.complain("%s is the %s of %q, which nobody can claim", t.ID, t.Kind, t.Parent)
		return
	}
	if t.Amount.Amount != root.remaining() {
		r.complain("%s is the %s of %d of %s, of which %d remained", t.ID, t.Kind, t.Amount.Amount, t.Parent, root.remaining())
	}
	touch(changes, root.payer)
	if t.Kind == "claim" {
		root.captured += t.Amount.Amount
	} else {
		root.voided += t.Amount.Amount
	}
}

func (r *replay) refund(t *Transfer) {
	root := r.roots[t.Parent]
	if root == nil {
		r.complain("%s is a refund of %q, which nothing was paid by", t.ID, t.Parent)
		return
	}
	r.over[t.Parent] = true
	root.refunded += t.Amount.Amount
	if root.refunded > root.captured {
		r.complain("%s refunds %d of %s: %d of %d that were paid", t.ID, t.Amount.Amount, t.Parent, root.refunded, root.captured)
	}
}

// post enters the legs, which must balance.
func (r *replay) post(t *Transfer, changes map[string]state) {
	r.balanced(t)
	for _, leg := range t.Legs {
		r.enter(t, leg.Account, t.Kind, leg.Amount.Amount, changes)
	}
}

func (r *replay) balanced(t *Transfer) {
	sum, paid := int64(0), int64(0)
	for _, leg := range t.Legs {
		sum += leg.Amount.Amount
		paid -= min(0, leg.Amount.Amount)
	}
	if sum != 0 {
		r.complain("%s does not balance: its legs add up to %d", t.ID, sum)
	}
	if len(t.Legs) > 0 && paid != t.Amount.Amount {
		r.complain("%s is of %d, its legs pay %d", t.ID, t.Amount.Amount, paid)
	}
}

// enter adds a line to an account's statement.
func (r *replay) enter(t *Transfer, account, kind string, credit int64, changes map[string]state) {
	b := r.book(account)
	amount := b.natural(credit)
	c := changes[account]
	c.posted, c.entries = c.posted+amount, c.entries+1
	changes[account] = c
	now := b.now()
	b.entries = append(b.entries, Entry{Entry: now.entries + c.entries, Transfer: t.ID, Kind: kind, Amount: amount,
		Balance: now.posted + c.posted, Memo: t.Memo})
}

// settle brings changes to the accounts, which must have had the money.
func (r *replay) settle(at int, f *fact, changes map[string]state) {
	for _, id := range sortedKeys(changes) {
		b, c := r.book(id), changes[id]
		s := b.now()
		before := s.posted - s.held
		s = state{s.posted + c.posted, s.held + c.held, s.entries + c.entries}
		b.note(at, s)
		if available := s.posted - s.held; available < 0 && available < before && !b.account.Overdraft {
			r.complain("%s left %s with %d, of which %d are held: less than nothing", f.transfer.ID, id, s.posted, s.held)
		}
		if s.held < 0 {
			r.complain("%s left %s with %d held", f.transfer.ID, id, s.held)
		}
	}
}
