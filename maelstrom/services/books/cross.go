package books

import (
	"fmt"
	"slices"
	"strings"
)

// Types of events about transfers between shards, behind "dongne.pay.".
const (
	settling = "transfer.settling"
	failed   = "transfer.failed"
	prepared = "portion.prepared"
	finished = "portion.finished"
	dropped  = "portion.dropped"
)

// TransitPrefix is what the names of those accounts begin with in which shards note what is on its way between them.
const TransitPrefix = SystemPrefix + "transit."

// A crossing is a transfer between shards. At home, where it was asked for, it is begun and then committed or aborted;
// every other shard of its accounts has a part, which it prepares, or refuses, and ends as the home decides.
type crossing struct {
	home           string // source
	began, decided *fact
	commit         bool
	parts          map[string]*part // by source
}

// A part is what one shard does of another's transfer.
type part struct {
	prepared, ended *fact
	commit          bool
}

// kindOf is an event's type without what all have in common.
func kindOf(e *Event) string { return strings.TrimPrefix(e.Type, "dongne.pay.") }

// Settling says that the event is the beginning of a transfer between shards.
func (e *Event) Settling() bool { return kindOf(e) == settling }

// Crosses says that the event is a step of a transfer between shards, of those that go through transit.
func (e *Event) Crosses() bool {
	switch kindOf(e) {
	case settling, failed, prepared, finished, dropped:
		return true
	}
	return false
}

// Crossings counts the transfers between shards, and those of them that were aborted.
func Crossings(events []Event) (began, aborted int) {
	for i := range events {
		switch kindOf(&events[i]) {
		case settling:
			began++
		case failed:
			aborted++
		}
	}
	return began, aborted
}

// crosses says whether a fact is a step of a transfer between shards.
func (r *replay) crosses(f *fact) bool {
	if f.event.Crosses() {
		return true
	}
	c := r.crossings[f.transfer.ID]
	return c != nil && c.home == f.event.Source
}

// whole says that a fact is a transfer of its own, be it only begun, and not what became of one.
func (f *fact) whole() bool {
	return f.cross == nil || f == f.cross.began
}

// undone says that a fact is a step of a transfer between shards that was aborted.
func (f *fact) undone() bool {
	return f.cross != nil && f.cross.decided != nil && !f.cross.commit
}

func (r *replay) crossing(id string) *crossing {
	c := r.crossings[id]
	if c == nil {
		c = &crossing{parts: map[string]*part{}}
		r.crossings[id] = c
	}
	return c
}

// cross applies one step.
func (r *replay) cross(f *fact, changes map[string]state) {
	f.cross = r.crossing(f.transfer.ID)
	switch kind := kindOf(f.event); kind {
	case settling:
		r.begin(f, changes)
	case prepared, finished, dropped:
		r.portion(f, kind, changes)
	default:
		r.decide(f, kind != failed, changes)
	}
}

// begin takes what is paid at home out of the accounts.
func (r *replay) begin(f *fact, changes map[string]state) {
	t, c := f.transfer, f.cross
	if c.began != nil {
		r.complain("%s was begun twice: events %s and %s", t.ID, c.began.event.ID, f.event.ID)
		return
	}
	c.home, c.began = f.event.Source, f
	r.balanced(t)
	root := r.roots[t.Parent]
	switch t.Kind {
	case "transfer":
	case "refund":
		r.refund(t)
	case "capture", "claim":
		if root == nil || (t.Kind == "capture") != (root.kind == "hold") || root.remaining() < max(1, t.Amount.Amount) {
			r.complain("%s began as the %s of %d of %q, of which there is not so much", t.ID, t.Kind, t.Amount.Amount, t.Parent)
			return
		}
		root.moving += t.Amount.Amount
		r.held(root, -t.Amount.Amount, changes)
	default:
		r.complain("event %s is of a transfer of the kind %q between shards", f.event.ID, t.Kind)
	}
	r.through(f, t.Kind, pays, 1, changes)
}

// decide ends a transfer at home.
func (r *replay) decide(f *fact, commit bool, changes map[string]state) {
	t, c := f.transfer, f.cross
	switch {
	case c.began == nil || c.home != f.event.Source:
		r.complain("%s was decided where it never began: event %s", t.ID, f.event.ID)
		return
	case c.decided != nil:
		r.complain("%s was decided twice: events %s and %s", t.ID, c.decided.event.ID, f.event.ID)
		return
	case !slices.Equal(t.Legs, c.began.transfer.Legs):
		r.complain("%s has other legs at the end than at the beginning: event %s", t.ID, f.event.ID)
	}
	c.decided, c.commit = f, commit
	r.conclude(f, commit, changes)
	r.arrive(f, commit, changes)
}

// conclude tells what a transfer between shards acted on how it ended.
func (r *replay) conclude(f *fact, commit bool, changes map[string]state) {
	t := f.transfer
	of := r.roots[t.Parent]
	switch {
	case t.Kind == "transfer" && commit:
		r.roots[t.ID] = &root{kind: t.Kind, amount: t.Amount.Amount, captured: t.Amount.Amount}
	case t.Kind == "transfer" || of == nil:
	case t.Kind == "refund":
		if !commit {
			of.refunded -= t.Amount.Amount
		}
	case commit:
		of.moving -= t.Amount.Amount
		of.captured += t.Amount.Amount
		r.rest(f, of, changes)
	case of.ended: // meanwhile
		of.moving -= t.Amount.Amount
		of.voided += t.Amount.Amount
		r.held(of, 0, changes)
	default:
		of.moving -= t.Amount.Amount
		r.held(of, t.Amount.Amount, changes)
	}
	if of != nil && t.Kind == "claim" { // makes another version of that account
		touch(changes, of.payer)
	}
}

// portion is a step of a shard that is not the transfer's home.
func (r *replay) portion(f *fact, kind string, changes map[string]state) {
	t := f.transfer
	p := f.cross.parts[f.event.Source]
	switch {
	case kind == prepared && p != nil:
		r.complain("%s was prepared twice: events %s and %s", t.ID, p.prepared.event.ID, f.event.ID)
	case kind == prepared:
		f.cross.parts[f.event.Source] = &part{prepared: f}
		r.through(f, "portion", pays, 1, changes)
	case p == nil:
		r.complain("a part of %s was ended and never prepared: event %s", t.ID, f.event.ID)
	case p.ended != nil:
		r.complain("a part of %s was ended twice: events %s and %s", t.ID, p.ended.event.ID, f.event.ID)
	default:
		p.ended, p.commit = f, kind == finished
		r.arrive(f, p.commit, changes)
	}
}

// arrive ends what a shard does of a transfer: it is received, or what was paid comes back.
func (r *replay) arrive(f *fact, commit bool, changes map[string]state) {
	kind := "portion"
	if f == f.cross.decided {
		kind = map[bool]string{true: "commit", false: "abort"}[commit]
	}
	if commit {
		r.through(f, kind, !pays, 1, changes)
	} else {
		r.through(f, kind, pays, -1, changes)
	}
}

// touch notes a change of an account, whatever it is.
func touch(changes map[string]state, account string) {
	c := changes[account]
	changes[account] = c
}

const pays = true // of a leg by which its account has less

// through enters those legs of the shard that pay, or the others, or with the sign -1 their opposites; transit has the
// balance. All accounts of the shard are changed, if only in what they may expect.
func (r *replay) through(f *fact, kind string, which bool, sign int64, changes map[string]state) {
	sum := int64(0)
	for _, leg := range f.transfer.Legs {
		if r.shards.of(leg.Account) != f.event.Source {
			continue
		}
		b := r.book(leg.Account)
		touch(changes, leg.Account)
		if (b.natural(leg.Amount.Amount) < 0) == which {
			r.enter(f.transfer, leg.Account, kind, sign*leg.Amount.Amount, changes)
			sum += sign * leg.Amount.Amount
		}
	}
	if sum != 0 {
		r.enter(f.transfer, r.shards.transit(f), kind, -sum, changes)
	}
}

// crossed says what is wrong with the transfers between shards as wholes: each is decided, and all of its shards have done
// what their part is, once.
func (r *replay) crossed() {
	for _, id := range sortedKeys(r.crossings) {
		c := r.crossings[id]
		switch {
		case c.began == nil:
			r.complain("%s has parts in %q, and was never begun", id, sortedKeys(c.parts))
			continue
		case c.decided == nil:
			r.complain("%s is on its way for ever: nobody decided what event %s began", id, c.began.event.ID)
		}
		expected := r.shards.legs(c.began.transfer)
		for _, source := range sortedKeys(expected) {
			if p := c.parts[source]; source != c.home && p == nil && c.commit {
				r.complain("%s is committed, and %s has no part of it", id, source)
			}
		}
		for _, source := range sortedKeys(c.parts) {
			p := c.parts[source]
			switch legs := p.prepared.transfer.Legs; {
			case source == c.home || !slices.Equal(legs, expected[source]):
				r.complain("the part of %s in %s is %v, not %v", id, source, legs, expected[source])
			case p.ended == nil:
				r.complain("the part of %s in %s was never ended: event %s", id, source, p.prepared.event.ID)
			case c.decided != nil && p.commit != c.commit:
				r.complain("%s is %s at home, and its part in %s is %s", id, kindOf(c.decided.event), source, kindOf(p.ended.event))
			}
		}
	}
}

// A shardMap says which source the events about an account are of.
type shardMap struct {
	opened map[string]string // by account
	named  map[string]string // by the number behind the names of pay's own accounts
}

func shardsOf(events []Event) shardMap {
	s := shardMap{opened: map[string]string{}, named: map[string]string{}}
	for i := range events {
		e := &events[i]
		s.named[e.Source[strings.LastIndexByte(e.Source, '/')+1:]] = e.Source
		if strings.Contains(e.Type, ".account.") {
			s.opened[e.Subject] = e.Source
		}
	}
	return s
}

// of is "" for an account that nobody opened.
func (s *shardMap) of(account string) string {
	if strings.HasPrefix(account, SystemPrefix) {
		return s.named[account[strings.LastIndexByte(account, '.')+1:]]
	}
	return s.opened[account]
}

// transit is the account of what is on its way from or to the shard of a fact.
func (s *shardMap) transit(f *fact) string {
	return TransitOf(f.transfer.Amount.Currency, f.event.Source)
}

// TransitOf is the account of what is on its way from or to a shard, which is named by its source.
func TransitOf(currency, source string) string {
	return TransitPrefix + currency + "." + source[strings.LastIndexByte(source, '/')+1:]
}

// legs are those of each shard, in order.
func (s *shardMap) legs(t *Transfer) map[string][]Leg {
	legs := map[string][]Leg{}
	for _, leg := range t.Legs {
		if source := s.of(leg.Account); source != "" {
			legs[source] = append(legs[source], leg)
		}
	}
	return legs
}

// checkTransit: at the end nothing is on its way: what has left some shards has come to others.
func checkTransit(t *trial) (wrong []string) {
	for _, v := range t.Views {
		sum := map[string]int64{}
		for id, a := range v.Accounts {
			if strings.HasPrefix(id, TransitPrefix) && a.Posted != nil {
				sum[a.Posted.Currency] += a.Posted.Amount
			}
		}
		for _, currency := range sortedKeys(sum) {
			if v.Err == nil && sum[currency] != 0 {
				wrong = append(wrong, fmt.Sprintf("%s: %d %s are on their way between shards for ever", v.Node, sum[currency], currency))
			}
		}
	}
	return wrong
}

// A cancellation is a request that took back a transfer between shards before all shards had prepared it.
type cancellation struct {
	request  *Request
	transfer Transfer
}

// checkCancelled: what clients were told is taken back is.
func checkCancelled(t *trial) (wrong []string) {
	for _, c := range t.cancelled {
		if crossing := t.replay.crossings[c.transfer.ID]; crossing == nil || crossing.decided == nil || crossing.commit {
			wrong = append(wrong, fmt.Sprintf("%s: told that %s is taken back, which it is not", c.request, c.transfer.ID))
		}
	}
	return wrong
}
