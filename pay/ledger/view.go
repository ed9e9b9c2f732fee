package ledger

import (
	"encoding/binary"
	"slices"
	"sort"
	"strconv"
	"time"
)

// Money is an amount as the API shows it.
type Money struct {
	Amount   string `json:"amount"`
	Currency string `json:"currency"`
}

func money(amount int64, c Currency) Money { return Money{strconv.FormatInt(amount, 10), c.String()} }

// LegView is a leg as the API shows it.
type LegView struct {
	Account string `json:"account"`
	Amount  Money  `json:"amount"`
}

// Transfer is a transfer, or what was done with one, as the API shows it.
type Transfer struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"`
	Status    string    `json:"status"`
	Parent    string    `json:"parent,omitempty"`
	Amount    Money     `json:"amount"`
	Legs      []LegView `json:"legs"`
	Recipient string    `json:"recipient,omitempty"`
	Memo      string    `json:"memo,omitempty"`
	Reference string    `json:"reference,omitempty"`
	By        string    `json:"by,omitempty"`
	CreatedAt string    `json:"created_at"`
	ExpiresAt string    `json:"expires_at,omitempty"`
	Captured  *Money    `json:"captured,omitempty"`
	Voided    *Money    `json:"voided,omitempty"`
	Remaining *Money    `json:"remaining,omitempty"`
	Refunded  *Money    `json:"refunded,omitempty"`
}

// Limits of an account as the API shows them.
type Limits struct {
	PerTransfer string `json:"per_transfer,omitempty"`
	PerDay      string `json:"per_day,omitempty"`
}

// AccountMade is an account as an event shows it: with the settings that it was given, which are as they were then.
type AccountMade struct {
	ID        string `json:"id"`
	Currency  string `json:"currency"`
	Kind      string `json:"kind"`
	Owner     string `json:"owner,omitempty"`
	Overdraft bool   `json:"overdraft"`
	Closed    bool   `json:"closed"`
	Limits    Limits `json:"limits"`
	CreatedAt string `json:"created_at,omitempty"`
}

// Account is an account as the API shows it.
type Account struct {
	AccountMade
	Posted    Money  `json:"posted"`
	Held      Money  `json:"held"`
	Available Money  `json:"available"`
	Entries   uint32 `json:"entries"`
	Version   uint32 `json:"version"`
}

// Entry is a line of a statement. Amount and Balance are as the account counts: positive when it grows.
type Entry struct {
	Entry     uint32 `json:"entry"`
	Transfer  string `json:"transfer"`
	Kind      string `json:"kind"`
	Amount    string `json:"amount"`
	Balance   string `json:"balance"`
	Time      string `json:"time"`
	Memo      string `json:"memo,omitempty"`
	Reference string `json:"reference,omitempty"`
}

// Statement is a page of an account's entries, oldest first. Opening and the items' amounts add up to Closing.
type Statement struct {
	Opening, Closing string
	Items            []Entry
	Next             uint32 // entry to go on behind; 0: the page is the last
}

// Event is what the outbox has of one record: event n of a shard is about its record n.
type Event struct {
	Number   uint32
	Type     string // behind "dongne.pay."
	Subject  string
	Time     int64        // Unix nanoseconds
	Transfer *Transfer    // either this
	Account  *AccountMade // or that
}

// timeText is RFC 3339 in UTC with nanoseconds as far as needed.
func timeText(nanoseconds int64) string {
	return time.Unix(0, nanoseconds).UTC().Format(time.RFC3339Nano)
}

var kindTexts = [recKinds]string{recOpened: "opened", recChanged: "changed", recTransfer: "transfer", recHold: "hold",
	recClaimable: "claimable", recCapture: "capture", recVoid: "void", recRefund: "refund", recClaim: "claim",
	recReturn: "return", recExpired: "expire", recReturned: "expire", recCommitted: "commit", recAborted: "abort",
	recPrepared: "portion", recFinished: "portion", recDropped: "portion"}

var eventTexts = [recKinds]string{recOpened: "account.opened", recChanged: "account.changed", recTransfer: "transfer.posted",
	recHold: "transfer.held", recClaimable: "transfer.claimable", recCapture: "transfer.captured",
	recVoid: "transfer.voided", recRefund: "transfer.refunded", recClaim: "transfer.claimed",
	recReturn: "transfer.returned", recExpired: "transfer.expired", recReturned: "transfer.expired",
	recAborted: "transfer.failed", recPrepared: "portion.prepared", recFinished: "portion.finished",
	recDropped: "portion.dropped"}

// EventTypes lists what Event.Type can be.
func EventTypes() []string {
	types := []string{"transfer.settling"}
	for _, t := range eventTexts {
		if t != "" && types[len(types)-1] != t {
			types = append(types, t)
		}
	}
	sort.Strings(types)
	return types
}

var statusTexts = [statuses]string{"posted", "held", "captured", "voided", "expired", "claimable", "claimed", "returned"}

// kept reads back what text stored.
func (s *State) kept(rec uint32) Request {
	var q Request
	if ref := s.records.at(rec).text; ref != 0 {
		b := s.texts.from(ref)
		length, n := binary.Uvarint(b)
		r := reader{text: string(b[n : n+int(length)])}
		bits := r.uvarint()
		r.byte() // no kind
		r.rest(&q, bits)
	}
	return q
}

// legs returns the legs of a transfer.
func (s *State) legs(rec uint32) []Leg {
	if q := s.kept(rec); len(q.Legs) > 0 {
		return q.Legs
	}
	r := s.records.at(rec)
	legs := make([]Leg, 0, r.postings)
	for n := r.posting; n < r.posting+uint32(r.postings); n++ {
		p := s.postings.at(n)
		legs = append(legs, Leg{s.accounts.at(p.account).id, p.amount})
	}
	return legs
}

// Made returns a transfer as it was made, which never changes: the answer to its request.
func (s *State) Made(rec uint32) Transfer {
	r := s.records.at(rec)
	kept := s.kept(rec)
	legs := kept.Legs
	if len(legs) == 0 && r.postings > 0 {
		legs = s.legs(rec)
	}
	t := Transfer{ID: transferPrefix + s.id(rec).String(), Kind: kindTexts[r.kind], Status: "posted",
		Amount: money(r.amount, r.currency), Legs: make([]LegView, len(legs)), Recipient: kept.Recipient, Memo: kept.Memo,
		Reference: kept.Reference, By: *s.users.at(r.by), CreatedAt: timeText(r.time)}
	for i, leg := range legs {
		t.Legs[i] = LegView{leg.Account, money(leg.Amount, r.currency)}
	}
	if r.parent != 0 {
		t.Parent = transferPrefix + s.id(r.parent).String()
	}
	switch r.kind {
	case recHold:
		t.Status = "held"
	case recClaimable:
		t.Status = "claimable"
	}
	if kept.Expires != 0 {
		t.ExpiresAt = timeText(kept.Expires)
	}
	return t
}

// Transfer returns a transfer as it is now; false if the id names none of this shard.
func (s *State) Transfer(id ID) (Transfer, bool) {
	q := Request{Transfer: id}
	rec, root, refused := s.target(&q)
	if refused != 0 {
		return Transfer{}, false
	}
	t := s.Made(rec)
	switch s.records.at(rec).fate {
	case settling:
		t.Status = "settling"
	case aborted:
		t.Status = "failed"
	}
	if root == nil {
		return t, true
	}
	show := func(amount int64) *Money { m := money(amount, q.Currency); return &m }
	t.Status = statusTexts[root.status]
	t.Captured, t.Refunded = show(root.captured), show(root.refunded)
	if root.expires != 0 {
		t.Voided, t.Remaining = show(root.voided), show(root.remaining+root.moving)
	}
	return t, true
}

// Account returns an account as it is now; false if this shard has none of that id.
func (s *State) Account(id string) (Account, bool) {
	n := s.find(id)
	if n == 0 {
		return Account{}, false
	}
	a := s.accounts.at(n)
	return Account{s.account(a, a.settings()), money(a.natural(a.posted), a.currency), money(a.held, a.currency),
		money(a.available(), a.currency), a.entries, a.version}, true
}

func (s *State) account(a *account, settings Settings) AccountMade {
	v := AccountMade{ID: a.id, Currency: a.currency.String(), Kind: "liability", Owner: *s.users.at(a.owner),
		Overdraft: settings.Overdraft, Closed: settings.Closed}
	if settings.Asset {
		v.Kind = "asset"
	}
	if settings.PerTransfer > 0 {
		v.Limits.PerTransfer = strconv.FormatInt(settings.PerTransfer, 10)
	}
	if settings.PerDay > 0 {
		v.Limits.PerDay = strconv.FormatInt(settings.PerDay, 10)
	}
	if a.record != 0 {
		v.CreatedAt = timeText(s.records.at(a.record).time)
	}
	return v
}

// Opened returns an account as it was opened, which is the answer to its request: without money, at version 1.
func (s *State) Opened(rec uint32) Account {
	made := s.changed(rec)
	zero := Money{"0", made.Currency}
	return Account{AccountMade: made, Posted: zero, Held: zero, Available: zero, Version: 1}
}

// changed returns an account with the settings that a record gave it.
func (s *State) changed(rec uint32) AccountMade {
	return s.account(s.accounts.at(s.records.at(rec).account), s.kept(rec).Settings)
}

// Owner returns who owns an account, "" for a system account; false if this shard has none of that id.
func (s *State) Owner(id string) (string, bool) {
	n := s.find(id)
	if n == 0 {
		return "", false
	}
	return *s.users.at(s.accounts.at(n).owner), true
}

// Accounts returns the accounts behind the one with a number, in the order of their opening, with their numbers; owner ""
// is everybody, the system accounts too.
func (s *State) Accounts(after uint32, owner string, limit int) (found []Account, last uint32) {
	if owner != "" {
		return s.ownedBy(s.byUser[owner], after, limit)
	}
	for last = after; int(last)+1 < s.accounts.n && len(found) < limit; {
		last++
		v, _ := s.Account(s.accounts.at(last).id)
		found = append(found, v)
	}
	if int(last)+1 >= s.accounts.n {
		last = 0
	}
	return found, last
}

func (s *State) ownedBy(user, after uint32, limit int) (found []Account, last uint32) {
	mine := s.owned[user]
	first, _ := slices.BinarySearch(mine, after+1)
	mine = mine[first:]
	for _, n := range mine[:min(limit, len(mine))] {
		v, _ := s.Account(s.accounts.at(n).id)
		found = append(found, v)
		last = n
	}
	if len(found) == len(mine) {
		last = 0
	}
	return found, last
}

// Statement returns up to limit entries of an account, behind the entry with a number and with times in [from, to), Unix
// nanoseconds; to 0 is no end. False if there is no such account.
func (s *State) Statement(id string, after uint32, from, to int64, limit int) (Statement, bool) {
	n := s.find(id)
	if n == 0 {
		return Statement{}, false
	}
	a := s.accounts.at(n)
	count := int(a.entries)
	at := func(number int) int64 { return s.records.at(s.entry(n, uint32(number)).record).time }
	first := max(int(after), sort.Search(count, func(i int) bool { return at(i+1) >= from })) + 1
	end := count + 1
	if to != 0 {
		end = sort.Search(count, func(i int) bool { return at(i+1) >= to }) + 1
	}
	end = max(first, end)
	page := Statement{}
	if first+limit < end {
		end = first + limit
		page.Next = uint32(end - 1)
	}
	balance := func(number int) string {
		if number < 1 || count == 0 {
			return "0"
		}
		return strconv.FormatInt(a.natural(s.entry(n, uint32(min(number, count))).balance), 10)
	}
	page.Opening, page.Closing = balance(first-1), balance(end-1)
	if first < end {
		page.Items = s.entries(n, uint32(first), uint32(end-1))
	}
	return page, true
}

// entries returns those from first to last.
func (s *State) entries(n, first, last uint32) []Entry {
	a := s.accounts.at(n)
	items := make([]Entry, last-first+1)
	p := s.entry(n, last)
	for i := len(items) - 1; i >= 0; i-- {
		r := s.records.at(p.record)
		of := p.record
		switch r.kind {
		case recCommitted, recAborted, recFinished, recDropped:
			of = r.parent
		}
		kept := s.kept(of)
		id := s.id(of)
		if s.records.at(of).kind == recPrepared {
			id = kept.Transfer
		}
		items[i] = Entry{Entry: p.number, Transfer: transferPrefix + id.String(), Kind: kindTexts[r.kind],
			Amount: strconv.FormatInt(a.natural(p.amount), 10), Balance: strconv.FormatInt(a.natural(p.balance), 10),
			Time: timeText(r.time), Memo: kept.Memo, Reference: kept.Reference}
		p = s.postings.at(p.before)
	}
	return items
}

// Events returns up to limit events behind the one with a number.
func (s *State) Events(after uint32, limit int) []Event {
	var events []Event
	for n := after + 1; int(n) < s.records.n && len(events) < limit; n++ {
		events = append(events, s.event(n))
	}
	return events
}

// Event returns the event with a number that exists.
func (s *State) Event(number uint32) Event { return s.event(number) }

// LastEvent returns the number of the newest event; 0: there is none.
func (s *State) LastEvent() uint32 { return uint32(s.records.n - 1) }

func (s *State) event(n uint32) Event {
	r := s.records.at(n)
	e := Event{Number: n, Type: eventTexts[r.kind], Time: r.time}
	switch r.kind {
	case recOpened, recChanged:
		v := s.changed(n)
		e.Account, e.Subject = &v, v.ID
		return e
	case recCommitted: // the transfer is now what its record began
		e.Type = eventTexts[s.records.at(r.parent).kind]
		n = r.parent
	case recAborted:
		n = r.parent
	case recFinished, recDropped:
		n = r.parent
	default:
		if r.fate != local {
			e.Type = "transfer.settling"
		}
	}
	t := s.Made(n)
	switch r.kind {
	case recAborted:
		t.Status = "failed"
	case recPrepared, recFinished, recDropped:
		t.ID = transferPrefix + s.kept(n).Transfer.String()
	}
	if e.Type == "transfer.settling" {
		t.Status = "settling"
	}
	e.Transfer, e.Subject = &t, t.ID
	return e
}
