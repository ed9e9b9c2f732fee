package ledger

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"dongne/internal/sharedlog"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// dice makes all choices of a test: drawn by rapid, which shrinks them, or from a seed.
type dice func(label string, n int) int

func rapidDice(t *rapid.T) dice {
	return func(label string, n int) int { return rapid.IntRange(0, n-1).Draw(t, label) }
}

func seededDice(seed uint64) dice {
	rng := rand.New(rand.NewPCG(seed, 4))
	return func(_ string, n int) int { return rng.IntN(n) }
}

func pick[T any](d dice, label string, from ...T) T { return from[d(label, len(from))] }

var (
	testKRW = Currency{'K', 'R', 'W'}
	testUSD = Currency{'U', 'S', 'D'}
)

const startTime = int64(1_790_000_000_000_000_000)

// applier applies a command, as State.Apply does; mutants do it otherwise.
type applier func(s *State, at sharedlog.Position, requests []Request) []Result

func rightly(s *State, at sharedlog.Position, requests []Request) []Result {
	return s.Apply(at, requests)
}

// history is a state, its model, and everything that was done.
type history struct {
	roll    dice
	apply   applier
	restore func(s *State, snapshot []byte) error
	state   *State
	twin    *State // goes on from a snapshot
	model   *model
	at      sharedlog.Position
	log     []slotOf
	past    []Request
	made    []Event // as they were right after they were made
	keys    int
}

type slotOf struct {
	at      sharedlog.Position
	command []byte
}

func newHistory(roll dice, apply applier) *history {
	return &history{roll: roll, apply: apply, restore: (*State).Restore, state: NewState(0, 1), model: newModel(),
		at: sharedlog.Position{Time: startTime}}
}

// run does so many commands of any kind, and returns the first thing that is wrong.
func (h *history) run(commands int) error {
	for _, requests := range opening() {
		if err := h.do(requests); err != nil {
			return err
		}
	}
	for range commands {
		h.at.Time += pick(h.roll, "pause", 0, 1e6, 1e9, 1e9, 1e9, 60*1e9, 60*1e9, 1800*1e9, 1800*1e9, 1800*1e9,
			7*3600*int64(1e9), dayNanoseconds)
		if err := h.do(h.command()); err != nil {
			return err
		}
		if h.roll("snapshot", 8) == 0 {
			if err := h.snapshot(); err != nil {
				return err
			}
		}
	}
	return h.end()
}

// opening is what histories begin with: accounts of all sorts, and money.
func opening() [][]Request {
	open := func(id string, owner string, c Currency, s Settings) Request {
		return Request{Kind: OpenAccount, Any: true, By: owner, Account: id, Currency: c, Settings: s}
	}
	fund := func(from, to string, amount int64, c Currency) Request {
		return Request{Kind: Move, Any: true, By: "bank", Currency: c, Legs: []Leg{{from, -amount}, {to, amount}}}
	}
	return [][]Request{{
		open("cash", "bank", testKRW, Settings{Asset: true}), open("float", "bank", testKRW, Settings{Asset: true,
			Overdraft: true}),
		open("a", "ana", testKRW, Settings{PerDay: 400}), open("b", "bo", testKRW, Settings{PerTransfer: 500, PerDay: 900}),
		open("c", "cy", testKRW, Settings{}), open("debt", "cy", testKRW, Settings{Overdraft: true}),
		open("vault", "bank", testUSD, Settings{Asset: true, PerDay: 1200}), open("d", "ana", testUSD, Settings{}),
	}, {fund("cash", "a", 1000, testKRW), fund("cash", "b", 2000, testKRW), fund("vault", "d", 1000, testUSD)}}
}

func (h *history) account() string {
	if h.roll("odd account", 40) == 0 {
		return pick(h.roll, "which", "ghost", "@claims.KRW.0", "@transit.KRW.0", "", "acct_zzz")
	}
	return pick(h.roll, "account", h.accounts()...)
}

// like returns an account that can mostly be moved to from another.
func (h *history) like(from string) string {
	a := h.model.accounts[from]
	if a == nil || h.roll("unlike", 12) == 0 {
		return h.account()
	}
	ids := slices.DeleteFunc(h.accounts(), func(id string) bool {
		b := h.model.accounts[id]
		return id == from || b.currency != a.currency || b.Closed
	})
	if len(ids) == 0 {
		return from
	}
	return pick(h.roll, "account like it", ids...)
}

func (h *history) user() string { return pick(h.roll, "user", "ana", "bo", "cy", "bank") }

func (h *history) amount() int64 {
	switch h.roll("size", 20) {
	case 0:
		return pick(h.roll, "odd amount", int64(0), -5, AmountMax, AmountMax+1, AmountMax/2, -AmountMax)
	case 1:
		return 900
	}
	return int64(1 + h.roll("amount", 150))
}

// amountFrom is mostly at random, and sometimes just what an account may pay, or one more.
func (h *history) amountFrom(account string) int64 {
	a := h.model.accounts[account]
	if a == nil || h.roll("edge", 3) > 0 {
		return h.amount()
	}
	edges := []int64{h.model.available(a)}
	if a.PerTransfer > 0 {
		edges = append(edges, a.PerTransfer)
	}
	if left := a.PerDay - a.spent[h.at.Time/dayNanoseconds]; a.PerDay > 0 && left > 0 {
		edges = append(edges, left, left)
	}
	return pick(h.roll, "which edge", edges...) + int64(h.roll("over", 2))
}

// command makes one request, or a batch with chains.
func (h *history) command() []Request {
	n := 1
	if h.roll("batch", 4) == 0 {
		n = 2 + h.roll("items", 4)
	}
	requests := make([]Request, n)
	for i := range requests {
		requests[i] = h.request(i == 0)
		if n > 1 && i < n-1 && requests[i].Key == (Key{}) {
			requests[i].Linked = h.roll("linked", 6) == 0
		}
		if n > 1 && h.roll("chained", 3) == 0 { // more chains of what chains can do
			for requests[i].Kind != Move && requests[i].Kind != Hold && requests[i].Kind != Claimable {
				requests[i] = h.fresh(i == 0)
			}
			requests[i].Linked = i < n-1
		}
	}
	return requests
}

func (h *history) request(first bool) Request {
	if len(h.past) > 0 && h.roll("again", 8) == 0 {
		q := pick(h.roll, "which request", h.past...)
		if h.roll("changed", 3) == 0 {
			q.Memo += "!"
		}
		return q
	}
	q := h.fresh(first)
	if h.roll("key", 3) > 0 && q.Kind != Expire {
		h.keys++
		q.Key = NewKey("ana", strconv.Itoa(h.keys))
		if q.IfVersion == 0 || q.IfVersion == noVersion {
			h.past = append(h.past, q)
		}
	}
	return q
}

const noVersion = 1 << 30

func (h *history) fresh(first bool) Request {
	q := Request{Any: h.roll("any", 3) > 0, By: h.user(), Currency: pick(h.roll, "currency", testKRW, testKRW,
		testKRW, testUSD)}
	switch kind := h.roll("kind", 20); {
	case kind < 6:
		h.legs(&q, first)
		return q
	case kind == 6:
		q.Kind, q.Account = OpenAccount, pick(h.roll, "id", "", "e", "f", "a", "acct_x", "?")
		q.Settings = Settings{Asset: h.roll("asset", 4) == 0, Overdraft: h.roll("overdraft", 4) == 0,
			PerDay: pick(h.roll, "per day", 0, 0, int64(300))}
	case kind == 7:
		q = Request{Kind: ChangeAccount, Any: q.Any, By: q.By, Account: h.account(), Set: Set(1 + h.roll("set", 15)),
			Settings: Settings{Overdraft: h.roll("overdraft", 2) == 0, Closed: h.roll("closed", 2) == 0,
				PerTransfer: pick(h.roll, "per transfer", 0, int64(200)), PerDay: pick(h.roll, "per day", 0, int64(700))}}
		q.IfVersion = h.version(q.Account, first)
	case kind == 8:
		if next := h.state.due; len(next) > 0 && h.roll("due", 2) == 0 {
			return Request{Kind: Expire, Transfer: h.state.id(next[0].record)}
		}
		return Request{Kind: Expire, Transfer: h.target("hold", "claimable")}
	case kind == 9:
		q = Request{Kind: UseKey, Print: Fingerprint{byte(h.roll("print", 3) + 1)}}
	default:
		q = h.act(q)
	}
	return q
}

// legs makes a Move, Hold or Claimable.
func (h *history) legs(q *Request, first bool) {
	q.Memo, q.Reference = pick(h.roll, "memo", "", "rent"), pick(h.roll, "reference", "", "r-1")
	from := h.account()
	amount := h.amountFrom(from)
	to := h.like(from)
	if a := h.model.accounts[from]; a != nil && h.roll("odd currency", 20) > 0 {
		q.Currency = a.currency
	}
	if a := h.model.accounts[from]; a != nil && h.roll("owner", 2) == 0 {
		q.By = a.owner
	}
	q.Legs = []Leg{{from, -amount}, {to, amount}}
	q.IfVersion = h.version(from, first)
	q.Expires = pick(h.roll, "expires", 0, h.at.Time+3600*1e9, h.at.Time+2*dayNanoseconds)
	switch h.roll("form", 8) {
	case 0, 1:
		q.Kind = Hold
	case 2, 3:
		q.Kind, q.Legs, q.Recipient = Claimable, q.Legs[:1:1], pick(h.roll, "recipient", "bo", "dan", "dan", "")
	case 4, 5:
		q.Kind, q.Expires = Move, 0
		for range h.roll("more legs", 4) {
			id, more := h.like(from), h.amount()
			q.Legs = append(q.Legs, Leg{id, pick(h.roll, "sign", more, -more)})
		}
		sum := int64(0)
		for _, leg := range q.Legs {
			sum += leg.Amount
		}
		if q.Legs[1].Amount -= sum; h.roll("unbalanced", 20) == 0 {
			q.Legs[1].Amount++
		}
	default:
		q.Kind, q.Expires = Move, 0
	}
}

func (h *history) version(account string, first bool) uint32 {
	switch v := h.roll("version", 30); {
	case v == 0:
		return noVersion
	case v < 4 && first:
		view, _ := h.state.Account(account)
		return view.Version
	}
	return 0
}

// target returns a transfer of these kinds, or rarely something else.
func (h *history) target(kinds ...string) ID {
	var found, open []uint32
	for rec, t := range h.model.transfers {
		if slices.Contains(kinds, t.kind) {
			found = append(found, rec)
			if t.remaining > 0 {
				open = append(open, rec)
			}
		}
	}
	if len(open) > 0 && h.roll("open", 4) > 0 {
		found = open
	}
	if len(found) == 0 || h.roll("odd target", 15) == 0 {
		id := ID{Time: startTime / 1e6, Record: uint32(1 + h.roll("record", int(h.model.records)+1))}
		if h.roll("real", 2) == 0 && id.Record <= h.model.records {
			return h.state.id(id.Record)
		}
		return ID{Time: 1, Shard: uint16(h.roll("shard", 2)), Record: id.Record + 1<<20}
	}
	slices.Sort(found)
	return h.state.id(pick(h.roll, "transfer", found...))
}

// act makes what is done with a transfer.
func (h *history) act(q Request) Request {
	q = Request{Any: q.Any, By: q.By, Amount: pick(h.roll, "part", 0, h.amount(), h.amount())}
	switch h.roll("act", 9) {
	case 0, 1, 2:
		q.Kind, q.Final, q.Transfer = Capture, h.roll("final", 3) == 0, h.target("hold")
		if t := h.model.transfers[q.Transfer.Record]; t != nil && h.roll("split", 3) == 0 {
			amount := q.Amount
			if amount == 0 {
				amount = t.remaining
			}
			fee := amount / 10
			q.Legs = []Leg{{t.payee, amount - fee}, {h.like(t.payee), fee}}
		}
	case 3:
		q.Kind, q.Amount, q.Transfer = Void, 0, h.target("hold", "claimable")
	case 4, 5:
		q.Kind, q.Amount, q.Transfer = Claim, 0, h.target("claimable")
		q.Account = h.account()
		if t := h.model.transfers[q.Transfer.Record]; t != nil {
			q.Account = h.like(t.payer)
		}
		q.By = pick(h.roll, "claimer", "dan", q.By)
	default:
		q.Kind, q.Transfer = Refund, h.target("transfer", "hold", "claimable")
		if t := h.model.transfers[q.Transfer.Record]; t != nil && len(t.got) > 0 && h.roll("by legs", 2) == 0 {
			left := q.Amount
			for account, got := range ordered(t.got) {
				give := got - t.back[account]
				if q.Amount != 0 {
					give = min(give, left)
					left -= give
				}
				if give != 0 || h.roll("zero leg", 10) == 0 {
					q.Legs = append(q.Legs, Leg{account, give})
				}
			}
		}
	}
	return q
}

// do applies a command to the state and its twin, and compares everything with the model.
func (h *history) do(requests []Request) error {
	h.at.Slot++
	command := Encode(requests)
	h.log = append(h.log, slotOf{h.at, command})
	h.model.versions = map[string]uint32{}
	before := map[string]Account{}
	for id := range h.model.accounts {
		before[id], _ = h.state.Account(id)
		h.model.versions[id] = before[id].Version
	}
	decoded, err := Decode(command)
	if err != nil {
		return err
	}
	asked := slices.Clone(decoded)
	got := h.apply(h.state, h.at, decoded)
	if err := h.model.command(h.at.Time, asked, got); err != nil {
		return fmt.Errorf("slot %d: %w", h.at.Slot, err)
	}
	if h.twin != nil {
		again, _ := Decode(command)
		if diff := cmp.Diff(got, h.apply(h.twin, h.at, again)); diff != "" {
			return fmt.Errorf("slot %d: results after a snapshot differ (-went on +restored):\n%s", h.at.Slot, diff)
		}
	}
	if err := h.state.Check(); err != nil {
		return fmt.Errorf("slot %d: %w", h.at.Slot, err)
	}
	if err := checkDue(h.state); err != nil {
		return fmt.Errorf("slot %d: %w", h.at.Slot, err)
	}
	if err := h.compare(before); err != nil {
		return fmt.Errorf("slot %d: %w", h.at.Slot, err)
	}
	return nil
}

// compare compares all views with the model.
func (h *history) compare(before map[string]Account) error {
	if last := h.state.LastEvent(); last != h.model.records {
		return fmt.Errorf("%d records, want %d", last, h.model.records)
	}
	madeBefore := len(h.made)
	h.made = append(h.made, h.state.Events(uint32(len(h.made)), 1<<20)...)
	for id, a := range ordered(h.model.accounts) {
		got, ok := h.state.Account(id)
		if !ok {
			return fmt.Errorf("account %q is not there", id)
		}
		want := h.model.view(a)
		want.Version, want.CreatedAt = got.Version, got.CreatedAt
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("Account(%q) mismatch (-want +got):\n%s", id, diff)
		}
		was, old := before[id]
		moved, same := got.Version != was.Version, was
		same.Version = got.Version
		if old && (got.Version < was.Version || !moved && !cmp.Equal(same, got) || moved && len(h.made) == madeBefore) {
			return fmt.Errorf("account %q went from version %d to %d and from %+v to %+v", id, was.Version, got.Version, was, got)
		}
	}
	for rec, t := range ordered(h.model.transfers) {
		if err := h.compareTransfer(rec, t); err != nil {
			return err
		}
	}
	return h.compareStatement(pick(h.roll, "statement", h.accounts()...))
}

func (h *history) accounts() (ids []string) {
	for id := range ordered(h.model.accounts) {
		ids = append(ids, id)
	}
	return ids
}

// view is an account as the model has it.
func (m *model) view(a *modelAccount) Account {
	show := func(amount int64) Money { return money(amount, a.currency) }
	made := AccountMade{ID: a.id, Currency: a.currency.String(), Kind: "liability", Owner: a.owner, Overdraft: a.Overdraft,
		Closed: a.Closed}
	v := Account{AccountMade: made,
		Posted: show(a.naturally(a.credits)), Held: show(m.held(a)), Available: show(m.available(a)),
		Entries: uint32(len(a.lines))}
	if a.Asset {
		v.Kind = "asset"
	}
	if a.PerTransfer > 0 {
		v.Limits.PerTransfer = strconv.FormatInt(a.PerTransfer, 10)
	}
	if a.PerDay > 0 {
		v.Limits.PerDay = strconv.FormatInt(a.PerDay, 10)
	}
	return v
}

func (h *history) compareTransfer(rec uint32, t *modelTransfer) error {
	got, ok := h.state.Transfer(h.state.id(rec))
	type totals struct{ Status, Amount, Captured, Voided, Remaining, Refunded string }
	text := func(m *Money) string {
		if m == nil {
			return "0"
		}
		return m.Amount
	}
	have := totals{got.Status, got.Amount.Amount, text(got.Captured), text(got.Voided), text(got.Remaining),
		text(got.Refunded)}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	want := totals{t.status(), number(t.amount), "0", "0", "0", number(t.refunded())}
	switch {
	case t.kind == "hold" || t.kind == "claimable":
		want.Captured, want.Voided, want.Remaining = number(t.captured), number(t.voided), number(t.remaining)
	case t.refunded() > 0:
		want.Captured = number(t.captured)
	}
	if diff := cmp.Diff(want, have); !ok || diff != "" {
		return fmt.Errorf("Transfer of record %d, %v, mismatch (-want +got):\n%s", rec, ok, diff)
	}
	return nil
}

// compareStatement reads a statement page by page.
func (h *history) compareStatement(id string) error {
	a, balance, after := h.model.accounts[id], int64(0), uint32(0)
	for i := 0; ; {
		page, ok := h.state.Statement(id, after, 0, 0, 1+h.roll("page", 5))
		if !ok || page.Opening != strconv.FormatInt(balance, 10) {
			return fmt.Errorf("statement of %q behind %d opens with %q, want %d", id, after, page.Opening, balance)
		}
		for _, e := range page.Items {
			if i >= len(a.lines) {
				return fmt.Errorf("statement of %q has a line %d too many", id, i+1)
			}
			line := a.lines[i]
			i++
			balance += line.amount
			want := Entry{Entry: uint32(i), Transfer: "tr_" + h.state.id(line.record).String(), Kind: e.Kind, Time: e.Time,
				Amount: strconv.FormatInt(line.amount, 10), Balance: strconv.FormatInt(balance, 10), Memo: e.Memo,
				Reference: e.Reference}
			if diff := cmp.Diff(want, e); diff != "" {
				return fmt.Errorf("line %d of %q mismatch (-want +got):\n%s", i, id, diff)
			}
		}
		if page.Closing != strconv.FormatInt(balance, 10) || (page.Next == 0) != (i == len(a.lines)) {
			return fmt.Errorf("statement of %q closes at line %d of %d with %q, want %d", id, i, len(a.lines),
				page.Closing, balance)
		}
		if after = page.Next; after == 0 {
			return nil
		}
	}
}

// snapshot compares a restored state, and lets the twin go on from it.
func (h *history) snapshot() error {
	taken := h.state.Snapshot()
	if h.twin != nil && !bytes.Equal(taken, h.twin.Snapshot()) {
		return fmt.Errorf("slot %d: a snapshot and the commands behind it are not the state", h.at.Slot)
	}
	h.twin = NewState(0, 1)
	if err := h.restore(h.twin, taken); err != nil {
		return err
	}
	if !bytes.Equal(taken, h.twin.Snapshot()) {
		return fmt.Errorf("slot %d: a restored state has another snapshot", h.at.Slot)
	}
	if err := h.twin.Check(); err != nil {
		return fmt.Errorf("slot %d: restored: %w", h.at.Slot, err)
	}
	return sameDue(h.state, h.twin, h.at.Time+3*dayNanoseconds)
}

// sameDue compares what two states want to expire.
func sameDue(a, b *State, now int64) error {
	x, nextX := a.Due(now, 1<<20)
	y, nextY := b.Due(now, 1<<20)
	sorted := func(requests []Request) (ids []ID) {
		for _, q := range requests {
			ids = append(ids, q.Transfer)
		}
		slices.SortFunc(ids, compareIDs)
		return slices.Compact(ids)
	}
	if diff := cmp.Diff(sorted(x), sorted(y)); diff != "" || nextX != nextY {
		return fmt.Errorf("due next %d and %d; due (-went on +restored):\n%s", nextX, nextY, diff)
	}
	return nil
}

// end compares with a full replay, and what records show now with what they showed when they were made.
func (h *history) end() error {
	if err := h.snapshot(); err != nil {
		return err
	}
	full := NewState(0, 1)
	for _, slot := range h.log {
		requests, _ := Decode(slot.command)
		h.apply(full, slot.at, requests)
	}
	if !bytes.Equal(full.Snapshot(), h.state.Snapshot()) {
		return fmt.Errorf("a full replay is another state")
	}
	now := h.state.Events(0, 1<<30)
	for i, e := range now {
		if e.Number != uint32(i+1) {
			return fmt.Errorf("event %d has number %d", i+1, e.Number)
		}
	}
	if diff := cmp.Diff(h.made, now); diff != "" {
		return fmt.Errorf("events changed after they were made (-made +now):\n%s", diff)
	}
	return nil
}

// TestModel drives a state and its model through histories of any requests.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		roll := rapidDice(t)
		if err := newHistory(roll, rightly).run(roll("commands", 80)); err != nil {
			t.Fatal(err)
		}
	})
}

// TestModelSeeds is the same by seeds, and longer; it says how often each thing happened, and fails if one never did.
func TestModelSeeds(t *testing.T) {
	const seeds, commands = 60, 150
	seen := map[string]int{}
	for seed := range uint64(seeds) {
		count := func(s *State, at sharedlog.Position, requests []Request) []Result {
			results := s.Apply(at, requests)
			for i, result := range results {
				seen[fmt.Sprintf("kind %d: %v", requests[i].Kind, result.Refused)]++
				seen[result.Refused.String()]++
			}
			return results
		}
		if err := newHistory(seededDice(seed), count).run(commands); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	for _, c := range Codes() {
		if seen[c.String()] == 0 && c != LinkedAcross && c != Cancelled {
			t.Errorf("no request was refused with %v", c)
		}
	}
	for kind := OpenAccount; kind <= UseKey; kind++ {
		if seen[fmt.Sprintf("kind %d: ", kind)] == 0 {
			t.Errorf("no request of kind %d succeeded", kind)
		}
	}
	t.Log(seen)
}
