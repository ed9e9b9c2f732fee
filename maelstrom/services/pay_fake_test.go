package services

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"dongne/maelstrom/services/books"
)

// A fakePay is a small pay in memory, behind several addresses. It loses requests and answers, and may have a bug planted.
type fakePay struct {
	bug string

	mu        sync.Mutex
	losing    bool // requests and answers
	rand      *rand.Rand
	accounts  map[string]*books.Account
	entries   map[string][]books.Entry
	events    []books.Event
	transfers map[string]*books.Transfer
	payees    map[string]string // of holds
	keys      map[string]saved
	rare      int                      // how often the bug could have shown
	shown     int                      // how often it did; without one, how many requests were done
	enough    func()                   // called when it was enough, and after
	stale     map[string]books.Account // as they were when the clients began: soon too old for any excuse
}

type saved struct {
	status int
	body   []byte
	lost   bool // its answer
}

// A fakeRequest is the body of any request of pay.
type fakeRequest struct {
	ID, Currency, Kind, From, To, Memo, Recipient, Account string
	Overdraft, Hold, Final, Linked                         bool
	Amount                                                 *books.Money
	Legs                                                   []books.Leg
	Items                                                  []fakeRequest
}

func newFakePay(bug string) *fakePay {
	return &fakePay{bug: bug, rand: rand.New(rand.NewPCG(1, 2)), accounts: map[string]*books.Account{}, entries: map[string][]books.Entry{},
		transfers: map[string]*books.Transfer{}, payees: map[string]string{}, keys: map[string]saved{}, stale: map[string]books.Account{}, enough: func() {}}
}

// when says whether the bug is this one and shows now: every third time.
func (f *fakePay) when(bug string) bool {
	if f.bug != bug {
		return false
	}
	f.rare++
	return f.rare%3 == 0 && f.show(bug)
}

// enough is how often a bug must show, so that one of the times is certainly seen.
func enough(bug string) int {
	switch bug {
	case "says not_applied":
		return 20 // only what clients give up then is wrong
	case "half a chain":
		return 2 // rare, but seen at once
	}
	return 4
}

// show notes that the bug shows, if it is this one, which it says.
func (f *fakePay) show(bug string) bool {
	if f.bug != bug {
		return false
	}
	if f.shown++; f.shown >= enough(bug) {
		f.enough()
	}
	return true
}

// node is what listens at one of its addresses.
func (f *fakePay) node(number int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if r.Method == http.MethodGet {
			f.get(number, w, r)
			return
		}
		f.post(w, r)
	})
}

func write(w http.ResponseWriter, status int, v any) {
	w.WriteHeader(status)
	w.Write(toJSON(v))
}

func refusal(status int, code, outcome string) (int, any) {
	return status, books.Problem{Code: code, Status: status, Outcome: outcome, Retryable: status == 503}
}

// post does a request at most once, and loses some of them, before or after.
func (f *fakePay) post(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("X-User") + " " + r.Header.Get("Idempotency-Key")
	body, _ := io.ReadAll(r.Body)
	s, known := f.keys[key]
	if !known && f.losing && f.rand.IntN(10) == 0 {
		status, problem := refusal(503, "unavailable", []string{books.NotApplied, books.Unknown}[f.rand.IntN(2)])
		write(w, status, problem)
		return
	}
	again := known
	if !known || s.lost && f.losing && f.show("done twice") {
		again = false
		var q fakeRequest
		json.Unmarshal(body, &q)
		status, v := f.do(r.URL.Path, &q)
		if f.rare++; f.bug == "" && f.rare > 600 {
			f.show("")
		}
		s = saved{status: status, body: toJSON(v), lost: f.losing && f.rand.IntN(10) == 0}
		f.keys[key] = s
		if s.lost {
			outcome := books.Unknown
			if q.Memo != "" && f.show("says not_applied") { // by its memo the check knows whose event it is
				outcome = books.NotApplied
			}
			status, problem := refusal(503, "outcome-unknown", outcome)
			write(w, status, problem)
			return
		}
	}
	if again {
		w.Header().Set("Idempotency-Replayed", "true")
		s.body = bytes.ReplaceAll(s.body, []byte(`"replayed":false`), []byte(`"replayed":true`))
		if f.when("another replay") {
			s.body = append(s.body, ' ')
		}
	}
	w.WriteHeader(s.status)
	w.Write(s.body)
}

func (f *fakePay) do(path string, q *fakeRequest) (int, any) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case path == "/accounts":
		return f.open(q)
	case path == "/transfers":
		return f.move(q)
	case path == "/transfers:batch":
		return 200, map[string]any{"items": f.batch(q.Items)}
	case f.transfers[parts[1]] == nil:
		return refusal(404, "transfer-unknown", books.NotApplied)
	}
	return f.act(f.transfers[parts[1]], parts[2], q)
}

func (f *fakePay) open(q *fakeRequest) (int, any) {
	if f.accounts[q.ID] != nil {
		return refusal(409, "account-exists", books.NotApplied)
	}
	a := &books.Account{ID: q.ID, Currency: q.Currency, Kind: q.Kind, Overdraft: q.Overdraft}
	f.event("account.opened", q.ID, a)
	a.Posted, a.Held, a.Available = &books.Money{Currency: currency}, &books.Money{Currency: currency}, &books.Money{Currency: currency}
	a.Version = 1
	f.accounts[q.ID] = a
	return 201, a
}

func (f *fakePay) event(kind, subject string, v any) {
	n := int64(len(f.events) + 1)
	f.events = append(f.events, books.Event{ID: fmt.Sprint("0-", n), Source: "/pay/shards/0", Type: "dongne.pay." + kind, Subject: subject, Sequence: n, Data: toJSON(v)})
}

func (f *fakePay) batch(items []fakeRequest) []any {
	var answers []any
	for i := 0; i < len(items); {
		end := i + 1
		for items[end-1].Linked {
			end++
		}
		answers = append(answers, f.chain(items[i:end])...)
		i = end
	}
	for _, a := range answers {
		a.(map[string]any)["replayed"] = false
	}
	return answers
}

// chain does all or nothing: what it did is taken back when one item fails.
func (f *fakePay) chain(items []fakeRequest) (answers []any) {
	before := f.copy()
	failed := -1
	for i := range items {
		status, v := f.move(&items[i])
		if status != 201 {
			failed = i
			answers = append(answers, map[string]any{"status": status, "problem": v})
			break
		}
		answers = append(answers, map[string]any{"status": status, "transfer": v})
	}
	if failed < 0 || failed > 0 && f.show("half a chain") {
		for i := failed + 1; failed >= 0 && i < len(items); i++ {
			status, p := refusal(409, "linked-failed", books.NotApplied)
			answers = append(answers, map[string]any{"status": status, "problem": p})
		}
		return answers
	}
	f.restore(before)
	status, p := refusal(409, "linked-failed", books.NotApplied)
	for i := range items {
		if i != failed {
			answers = append(answers[:min(i, len(answers))], append([]any{map[string]any{"status": status, "problem": p}}, answers[min(i+1, len(answers)):]...)...)
		}
	}
	return answers
}

func (f *fakePay) copy() *fakePay {
	c := newFakePay("")
	for id, a := range f.accounts {
		b := shownAs(a)
		c.accounts[id] = &b
	}
	c.entries, c.events, c.transfers = maps.Clone(f.entries), slices.Clone(f.events), maps.Clone(f.transfers)
	return c
}

func (f *fakePay) restore(c *fakePay) {
	f.accounts, f.entries, f.events, f.transfers = c.accounts, c.entries, c.events, c.transfers
}

// change moves money of an account, as credits are positive; false if it has not got it.
func (f *fakePay) change(id string, posted, held int64) bool {
	a := f.accounts[id]
	if a == nil {
		return false
	}
	if _, kept := f.stale[id]; !kept && f.losing {
		f.stale[id] = shownAs(a)
	}
	if a.Kind == "asset" {
		posted = -posted
	}
	available := a.Posted.Amount + posted - a.Held.Amount - held
	if available < 0 && available+a.Held.Amount >= 0 && posted-held < 0 && !a.Overdraft && f.show("held is available") {
		available += a.Held.Amount
	}
	if available < 0 && posted-held < 0 && !a.Overdraft {
		return false
	}
	a.Posted.Amount += posted
	a.Held.Amount += held
	a.Available.Amount = a.Posted.Amount - a.Held.Amount
	a.Version++
	return true
}

// move is a transfer, a hold or a claimable.
func (f *fakePay) move(q *fakeRequest) (int, any) {
	t := &books.Transfer{Kind: "transfer", Memo: q.Memo, Legs: q.Legs}
	if q.Amount != nil {
		t.Amount = *q.Amount
	}
	leg := func(account string, amount int64) books.Leg {
		return books.Leg{Account: account, Amount: books.Money{Amount: amount, Currency: currency}}
	}
	switch {
	case q.Recipient != "":
		t.Kind = "claimable"
		if f.accounts["@claims.KRW.0"] == nil {
			f.accounts["@claims.KRW.0"] = &books.Account{ID: "@claims.KRW.0", Overdraft: true, Posted: &books.Money{Currency: currency}, Held: &books.Money{}, Available: &books.Money{}}
		}
		t.Legs = []books.Leg{leg(q.From, -t.Amount.Amount), leg("@claims.KRW.0", t.Amount.Amount)}
	case q.From != "":
		t.Legs = []books.Leg{leg(q.From, -t.Amount.Amount), leg(q.To, t.Amount.Amount)}
	default:
		for _, l := range q.Legs {
			t.Amount.Amount, t.Amount.Currency = t.Amount.Amount+max(0, l.Amount.Amount), currency
		}
	}
	if !q.Hold {
		return f.enter(t, nil, 0)
	}
	t.Kind = "hold"
	if !f.change(q.From, 0, t.Amount.Amount) {
		return refusal(409, "insufficient-funds", books.NotApplied)
	}
	return f.made(t)
}

// enter posts the legs, and lets a hold of the payer go.
func (f *fakePay) enter(t *books.Transfer, hold *books.Transfer, released int64) (int, any) {
	before := f.copy()
	if hold != nil {
		f.accounts[hold.Legs[0].Account].Held.Amount -= released
	}
	for i, l := range t.Legs {
		if i > 0 && f.when("debit without credit") {
			continue
		}
		if !f.change(l.Account, l.Amount.Amount, 0) {
			if f.when("refused and done") {
				continue
			}
			f.restore(before)
			return refusal(409, "insufficient-funds", books.NotApplied)
		}
	}
	if f.when("acknowledged and lost") {
		f.restore(before)
		t.ID = fmt.Sprint("tr_lost", f.rare)
		return 201, t
	}
	status, v := f.made(t)
	for _, l := range t.Legs {
		a := f.accounts[l.Account]
		amount := l.Amount.Amount
		if a.Kind == "asset" {
			amount = -amount
		}
		a.Entries++
		number := a.Entries
		if f.when("a gap in the statement") {
			number++
		}
		f.entries[l.Account] = append(f.entries[l.Account], books.Entry{Entry: number, Transfer: t.ID, Kind: t.Kind, Amount: amount, Balance: a.Posted.Amount, Memo: t.Memo})
	}
	return status, v
}

// made gives a transfer its id, and shows it as it is now.
func (f *fakePay) made(t *books.Transfer) (int, any) {
	t.ID = fmt.Sprint("tr_", len(f.events)+1)
	f.event("transfer."+t.Kind, t.ID, t)
	shown := *t
	zero := func(amount int64) *books.Money { return &books.Money{Amount: amount, Currency: currency} }
	switch t.Kind {
	case "hold", "claimable":
		t.Captured, t.Voided, t.Remaining, t.Refunded = zero(0), zero(0), zero(t.Amount.Amount), zero(0)
	case "transfer":
		t.Captured, t.Refunded = zero(t.Amount.Amount), zero(0)
	}
	f.transfers[t.ID] = t
	return 201, shown
}

func (f *fakePay) act(on *books.Transfer, what string, q *fakeRequest) (int, any) {
	pending := on.Remaining != nil && on.Remaining.Amount > 0
	t := &books.Transfer{Parent: on.ID, Amount: on.Amount}
	leg := func(l books.Leg, amount int64) books.Leg {
		return books.Leg{Account: l.Account, Amount: books.Money{Amount: amount, Currency: currency}}
	}
	if what == "refund" {
		return f.refund(on, t, q, leg)
	}
	if !pending && !(what == "capture" && on.Kind == "hold" && f.show("captured twice")) || (on.Kind == "hold") == (what == "claim") || on.Kind == "claimable" && what == "capture" {
		return refusal(409, "not-pending", books.NotApplied)
	}
	t.Amount = *on.Remaining
	if what == "capture" && q.Amount != nil {
		t.Amount = *q.Amount
	}
	if !pending {
		t.Amount.Amount = 1
	} else if t.Amount.Amount > on.Remaining.Amount {
		return refusal(409, "amount-exceeds", books.NotApplied)
	}
	amount := t.Amount.Amount
	var status int
	var v any
	switch {
	case what == "capture":
		t.Kind, t.Legs = "capture", []books.Leg{leg(on.Legs[0], -amount), leg(on.Legs[1], amount)}
		rest := int64(0)
		if q.Final {
			rest = on.Remaining.Amount - amount
		}
		if status, v = f.enter(t, on, amount+rest); status == 201 {
			*on.Captured, *on.Remaining, *on.Voided = plus(on.Captured, amount), plus(on.Remaining, -amount-rest), plus(on.Voided, rest)
		}
	case what == "claim":
		t.Kind, t.Legs = "claim", []books.Leg{leg(on.Legs[1], -amount), leg(books.Leg{Account: q.Account}, amount)}
		if status, v = f.enter(t, nil, 0); status == 201 {
			*on.Captured, *on.Remaining = plus(on.Captured, amount), plus(on.Remaining, -amount)
			f.accounts[on.Legs[0].Account].Version++ // nothing can come back to it any more
		}
	case on.Kind == "claimable":
		t.Kind, t.Legs = "return", []books.Leg{leg(on.Legs[1], -amount), leg(on.Legs[0], amount)}
		if status, v = f.enter(t, nil, 0); status == 201 {
			*on.Voided, *on.Remaining = plus(on.Voided, amount), plus(on.Remaining, -amount)
		}
	default:
		t.Kind = "void"
		if !f.when("a hold that stays") {
			f.change(on.Legs[0].Account, 0, -amount)
		}
		*on.Voided, *on.Remaining = plus(on.Voided, amount), plus(on.Remaining, -amount)
		status, v = f.made(t)
	}
	return status, v
}

func (f *fakePay) refund(on, t *books.Transfer, q *fakeRequest, leg func(books.Leg, int64) books.Leg) (int, any) {
	if on.Captured == nil || len(on.Legs) != 2 || on.Captured.Amount == 0 || on.Kind == "claimable" {
		return refusal(409, "not-pending", books.NotApplied)
	}
	left := on.Captured.Amount - on.Refunded.Amount
	if left < on.Captured.Amount && f.show("refunded twice") {
		left = on.Captured.Amount
	}
	t.Kind, t.Amount = "refund", books.Money{Amount: left, Currency: currency}
	if q.Amount != nil {
		t.Amount = *q.Amount
	}
	if t.Amount.Amount > left || left == 0 {
		return refusal(409, "amount-exceeds", books.NotApplied)
	}
	t.Legs = []books.Leg{leg(on.Legs[1], -t.Amount.Amount), leg(on.Legs[0], t.Amount.Amount)}
	status, v := f.enter(t, nil, 0)
	if status == 201 {
		*on.Refunded = plus(on.Refunded, t.Amount.Amount)
	}
	return status, v
}

func plus(m *books.Money, amount int64) books.Money {
	return books.Money{Amount: m.Amount + amount, Currency: currency}
}

func (f *fakePay) get(node int, w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	query := r.URL.Query()
	from := func(name string, count int) (int, int) {
		at, _ := strconv.Atoi(query.Get(name))
		limit, _ := strconv.Atoi(query.Get("limit"))
		return at, min(at+limit, count)
	}
	switch {
	case parts[0] == "events":
		at, end := from("after", len(f.events))
		page := map[string]any{"items": f.events[at:end], "next": fmt.Sprint(end)}
		if node == 2 && at < end && f.show("events that one node skips") {
			page["items"] = f.events[at+1 : end]
		}
		write(w, 200, page)
	case parts[0] == "transfers":
		write(w, 200, f.transfers[parts[1]])
	case f.accounts[parts[1]] == nil:
		status, p := refusal(404, "account-unknown", books.NotApplied)
		write(w, status, p)
	case len(parts) == 3:
		entries := f.entries[parts[1]]
		at, end := from("cursor", len(entries))
		s := books.Statement{Account: parts[1], Items: entries[at:end]}
		if at > 0 {
			s.Opening = entries[at-1].Balance
		}
		if s.Closing = s.Opening; end > at {
			s.Closing = entries[end-1].Balance
		}
		if end < len(entries) {
			s.Next = fmt.Sprint(end)
		}
		write(w, 200, s)
	default:
		a := *f.accounts[parts[1]]
		if old, any := f.stale[parts[1]]; any && node == 2 && f.when("a stale node") {
			a = old
		}
		write(w, 200, a)
	}
}

// shownAs is an account as it is now, whatever becomes of it.
func shownAs(a *books.Account) books.Account {
	b, posted, held, available := *a, *a.Posted, *a.Held, *a.Available
	b.Posted, b.Held, b.Available = &posted, &held, &available
	return b
}
