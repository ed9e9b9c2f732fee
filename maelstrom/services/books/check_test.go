package books

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const step = time.Millisecond

// A scribe writes a run in which all goes well: one request after the other, each asked and answered a step apart, and two
// nodes that say the same at the end.
type scribe struct {
	h      History
	now    time.Duration
	shard  int // whose the next event is
	events []Event
}

func (s *scribe) tick() time.Duration { s.now += step; return s.now }

// event appends one, about what was made.
func (s *scribe) event(kind, subject, data string) {
	source := fmt.Sprint("/pay/shards/", s.shard)
	n := int64(len(streams(s.events)[source]) + 1)
	s.events = append(s.events, Event{ID: fmt.Sprintf("%d-%d", s.shard, n), Source: source, Type: "dongne.pay." + kind, Subject: subject, Sequence: n, Data: json.RawMessage(data)})
}

// request adds one that was answered.
func (s *scribe) request(path, body string, status int, answer string) *Request {
	r := &Request{User: "w0", Key: fmt.Sprint("k", len(s.h.Requests)), Method: "POST", Path: path, Body: []byte(body), Asked: s.tick()}
	r.Answers = []Answer{{Node: "n1", Asked: r.Asked, At: s.tick(), Status: status, Body: []byte(answer)}}
	s.h.Requests = append(s.h.Requests, r)
	return r
}

func (s *scribe) account(id, kind string) {
	data := fmt.Sprintf(`{"id":%q,"currency":"KRW","kind":%q}`, id, kind)
	s.event("account.opened", id, data)
	s.request(AccountsPath, fmt.Sprintf(`{"id":%q}`, id), 201, data)
}

// legs are pairs of accounts and amounts.
func legs(pairs ...any) string {
	var all []string
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, fmt.Sprintf(`{"account":%q,"amount":{"amount":"%d","currency":"KRW"}}`, pairs[i], pairs[i+1]))
	}
	return "[" + strings.Join(all, ",") + "]"
}

// made is a transfer as it was made.
func (s *scribe) made(kind, parent, memo string, amount int, legs string) (id, data string) {
	id = fmt.Sprint("tr_", len(s.events)+1)
	data = fmt.Sprintf(`{"id":%q,"kind":%q,"parent":%q,"memo":%q,"amount":{"amount":"%d","currency":"KRW"},"legs":%s}`, id, kind, parent, memo, amount, legs)
	s.event("transfer."+kind, id, data)
	return id, data
}

// pay transfers or, with hold, holds.
func (s *scribe) pay(from, to, memo string, amount int, hold bool) (id string) {
	kind := "transfer"
	if hold {
		kind = "hold"
	}
	id, data := s.made(kind, "", memo, amount, legs(from, -amount, to, amount))
	s.request(TransfersPath, payBody(from, to, memo, amount), 201, data)
	return id
}

func payBody(from, to, memo string, amount int) string {
	return fmt.Sprintf(`{"from":%q,"to":%q,"amount":{"amount":"%d","currency":"KRW"},"memo":%q}`, from, to, amount, memo)
}

// act does something with an earlier transfer.
func (s *scribe) act(kind, parent, body string, amount int, legs string) {
	_, data := s.made(kind, parent, "", amount, legs)
	s.request("/transfers/"+parent+"/"+kind, body, 201, data)
}

func (s *scribe) refuse(path, body, code string) {
	s.request(path, body, 409, fmt.Sprintf(`{"code":%q,"status":409,"retryable":false,"outcome":"not_applied","trace_id":"ab12"}`, code))
}

// look reads an account, and its statement.
func (s *scribe) look(id string) {
	effects, refusals, _, _ := outcomes(&s.h)
	b := play(s.events, effects, refusals).books[id]
	s.h.Reads = append(s.h.Reads, Read{Node: "n1", Asked: s.tick(), Account: b.shown(), Answered: s.tick()})
	s.h.Pages = append(s.h.Pages, Page{Node: "n1", Asked: s.tick(), Statement: b.page(), Answered: s.tick()})
}

// shown is an account as pay tells of it; its version is the number of its changes.
func (b *book) shown() Account {
	a, s := b.account, b.now()
	krw := func(amount int64) *Money { return &Money{amount, "KRW"} }
	a.Posted, a.Held, a.Available, a.Entries, a.Version = krw(s.posted), krw(s.held), krw(s.posted-s.held), s.entries, len(b.states)
	return a
}

func (b *book) page() Statement {
	return Statement{Account: b.account.ID, Closing: b.now().posted, Items: slices.Clone(b.entries)}
}

// healthy is a run with one of everything. It is written anew each time, so that tests can spoil it.
func healthy() *History {
	s := &scribe{}
	s.account("bank", "asset")
	s.account("a", "liability")
	s.account("b", "liability")
	s.look("a")
	s.pay("bank", "a", "m0", 1000, false)
	s.look("a")
	s.pay("a", "b", "m1", 100, false)
	s.look("a")
	hold := s.pay("a", "b", "m2", 300, true)
	s.look("a")
	s.act("capture", hold, `{"amount":{"amount":"120","currency":"KRW"}}`, 120, legs("a", -120, "b", 120))
	s.act("capture", hold, `{"amount":{"amount":"80","currency":"KRW"},"final":true}`, 80, legs("a", -80, "b", 80))
	s.look("b")
	s.refuse("/transfers/"+hold+"/void", `{}`, "not-pending")
	s.act("refund", hold, `{"amount":{"amount":"50","currency":"KRW"}}`, 50, legs("b", -50, "a", 50))
	s.pay("a", "b", "m3", 10, true)
	s.made("expire", "tr_10", "", 10, "[]")
	void := s.pay("a", "b", "m4", 20, true)
	s.act("void", void, `{}`, 20, "[]")
	claim, data := s.made("claimable", "", "m5", 30, legs("a", -30, "@claims.KRW.0", 30))
	s.request(TransfersPath, `{"from":"a","amount":{"amount":"30","currency":"KRW"},"recipient":"x","memo":"m5"}`, 201, data)
	s.look("a")
	s.act("claim", claim, `{"account":"b"}`, 30, legs("@claims.KRW.0", -30, "b", 30))
	s.look("a") // another version, in the same state
	_, data = s.made("claimable", "", "m6", 40, legs("a", -40, "@claims.KRW.0", 40))
	s.request(TransfersPath, `{"from":"a","amount":{"amount":"40","currency":"KRW"},"recipient":"x","memo":"m6"}`, 201, data)
	s.refuse(TransfersPath, payBody("b", "a", "m7", 5000), "insufficient-funds")
	_, one := s.made("transfer", "", "m8/0", 1, legs("a", -1, "b", 1))
	_, two := s.made("transfer", "", "m8/1", 2, legs("a", -2, "b", 2))
	s.request(BatchPath, fmt.Sprintf(`{"items":[%s,%s,%s]}`, strings.Replace(payBody("a", "b", "m8/0", 1), "{", `{"linked":true,`, 1), payBody("a", "b", "m8/1", 2), payBody("b", "a", "m8/2", 9999)), 200,
		fmt.Sprintf(`{"items":[{"status":201,"replayed":false,"transfer":%s},{"status":201,"replayed":false,"transfer":%s},{"status":409,"replayed":false,"problem":{"code":"insufficient-funds","outcome":"not_applied"}}]}`, one, two))
	s.h.Requests = append(s.h.Requests, &Request{User: "w0", Key: "declined", Method: "POST", Path: TransfersPath, Body: []byte(payBody("a", "b", "m9", 1)), Asked: s.tick(), Declined: 2})
	s.look("a")
	s.look("b")
	s.end()
	return &s.h
}

// end lets two nodes tell everything, and somebody follow the events.
func (s *scribe) end() {
	effects, refusals, _, _ := outcomes(&s.h)
	for _, node := range []string{"n1", "n2"} {
		r := play(s.events, effects, refusals)
		v := View{Node: node, Accounts: map[string]Account{}, Statements: map[string][]Statement{}, Events: slices.Clone(s.events), Transfers: map[string]Transfer{}}
		for id, b := range r.books {
			v.Accounts[id] = b.shown()
			page := b.page()
			half := len(page.Items) / 2 // in two pages
			first, second := page, page
			first.Items, second.Items = page.Items[:half:half], page.Items[half:]
			if half > 0 {
				first.Closing = page.Items[half-1].Balance
				second.Opening = first.Closing
			} else {
				first.Closing = 0
			}
			v.Statements[id] = []Statement{first, second}
		}
		for _, f := range r.facts {
			if f.transfer == nil || !f.whole() || !r.over[f.transfer.ID] {
				continue
			}
			root, t := r.roots[f.transfer.ID], *f.transfer
			krw := func(amount int64) *Money { return &Money{amount, "KRW"} }
			t.Captured, t.Refunded, t.Voided, t.Remaining = krw(root.captured), krw(root.refunded), krw(root.voided), krw(root.remaining())
			v.Transfers[t.ID] = t
		}
		s.h.Views = append(s.h.Views, v)
	}
	s.h.Polls = []Poll{{"n1", "r0", slices.Clone(s.events[:4])}, {"n2", "r0", slices.Clone(s.events[4:])}}
}

func TestHealthy(t *testing.T) {
	h := healthy()
	if wrong := Check(h); len(wrong) > 0 {
		t.Errorf("a run in which all went well:\n%s", strings.Join(wrong, "\n"))
	}
	// As one would add it up by hand: a: 1000-100-120-80+50-30-40-1-2; b: 100+120+80-50+30+1+2.
	got := map[string]int64{}
	for id, a := range h.Views[0].Accounts {
		got[id] = a.Posted.Amount
	}
	if diff := cmp.Diff(map[string]int64{"bank": 1000, "a": 677, "b": 283, "@claims.KRW.0": 40}, got); diff != "" {
		t.Errorf("what is posted in the end (-want +got):\n%s", diff)
	}
	if b := h.Views[1].Accounts["a"]; b.Held.Amount != 0 || b.Entries != 9 {
		t.Errorf("a has %d held and %d entries, want 0 and 9", b.Held.Amount, b.Entries)
	}
}

// request finds the one with a memo, or an end of its path.
func (h *History) request(what string) *Request {
	return h.Requests[slices.IndexFunc(h.Requests, func(r *Request) bool {
		return strings.Contains(string(r.Body), `"memo":"`+what+`"`) || strings.HasSuffix(r.Path, what)
	})]
}

// events replaces a text in the data of the event about a memo, or the first of a type, on all nodes.
func (h *History) events(what, old, new string) {
	for i := range h.Views {
		e := h.Views[i].event(what)
		e.Data = json.RawMessage(strings.ReplaceAll(string(e.Data), old, new))
	}
}

func (v *View) event(what string) *Event { return &v.Events[v.index(what)] }

func (v *View) index(what string) int {
	return slices.IndexFunc(v.Events, func(e Event) bool {
		return strings.Contains(string(e.Data), `"memo":"`+what+`"`) || strings.HasSuffix(e.Type, what)
	})
}

// drop takes an event out of all nodes, as if it had never been, numbers too.
func (h *History) drop(what string) {
	for i := range h.Views {
		v := &h.Views[i]
		at := v.index(what)
		v.Events = slices.Delete(v.Events, at, at+1)
		v.renumber()
	}
}

func (v *View) renumber() {
	last := map[string]int64{}
	for k := range v.Events {
		e := &v.Events[k]
		last[e.Source]++
		e.Sequence, e.ID = last[e.Source], fmt.Sprintf("%s-%d", e.Source[len("/pay/shards/"):], last[e.Source])
	}
}

// double lets something be done twice: the second time under another id.
func (h *History) double(what string) {
	for i := range h.Views {
		v := &h.Views[i]
		e := *v.event(what)
		e.Data = json.RawMessage(strings.Replace(string(e.Data), `"id":"tr_`, `"id":"tr_9`, 1))
		e.Subject = strings.Replace(e.Subject, "tr_", "tr_9", 1)
		v.Events = append(v.Events, e)
		v.renumber()
	}
}

func (h *History) read(id string, n int) *Read {
	for i := range h.Reads {
		if h.Reads[i].Account.ID == id {
			if n == 0 {
				return &h.Reads[i]
			}
			n--
		}
	}
	return nil
}

// money changes an account at the end, on all nodes.
func (h *History) money(id string, change func(*Account)) {
	for i := range h.Views {
		a := h.Views[i].Accounts[id]
		posted, held, available := *a.Posted, *a.Held, *a.Available
		a.Posted, a.Held, a.Available = &posted, &held, &available
		change(&a)
		h.Views[i].Accounts[id] = a
	}
}

func (h *History) total(what string, change func(*Transfer)) {
	for i := range h.Views {
		v := &h.Views[i]
		id := v.event(what).Subject
		t := v.Transfers[id]
		change(&t)
		v.Transfers[id] = t
	}
}

// TestChecks: each check finds its mutants of a run in which all went well, and lets pass what is no fault.
func TestChecks(t *testing.T) {
	for _, c := range []struct {
		name   string
		check  string
		mutate func(*History)
		want   string // "": it passes
	}{
		{"a node is silent", "fetched", func(h *History) { h.Views[1].Err = errors.New("refused") }, "n2 does not tell everything"},
		{"nobody was asked", "fetched", func(h *History) { h.Views = nil }, "nobody was asked"},
		{"no answer at all", "decided", func(h *History) { h.request("m9").Unsure = 1 }, "declined of w0 has no final answer after 3 attempts"},
		{"an account that nobody owns", "answers", func(h *History) { h.request("m1").Answers[0].Body = []byte(`{}`) }, "answered"},
		{"another amount", "answers", func(h *History) {
			r := h.request("m1")
			r.Answers[0].Body = []byte(strings.ReplaceAll(string(r.Answers[0].Body), `100"`, `10"`))
		}, "was made of it"},
		{"the wrong way", "answers", func(h *History) {
			r := h.request("m1")
			r.Answers[0].Body = []byte(strings.Replace(string(r.Answers[0].Body), legs("a", -100, "b", 100), legs("b", -100, "a", 100), 1))
		}, "was made of it"},
		{"another memo", "answers", func(h *History) {
			r := h.request("m1")
			r.Answers[0].Body = []byte(strings.Replace(string(r.Answers[0].Body), `m1`, `m2`, 1))
		}, `the memo "m1" became "m2"`},
		{"an item is missing", "answers", func(h *History) { h.request("m8/0").Answers[0].Body = []byte(`{"items":[]}`) }, "3 items were answered"},
		{"half of a chain", "answers", func(h *History) {
			r := h.request("m8/0")
			r.Body = []byte(strings.Replace(string(r.Body), `{"from":"a","to":"b","amount":{"amount":"2"`, `{"linked":true,"from":"a","to":"b","amount":{"amount":"2"`, 1))
		}, "item 1 is linked to the next, and one of them alone was done"},
		{"a refusal out of nothing", "answers", func(h *History) {
			h.request("m7").Answers[0].Body = []byte(`{"code":"account-unknown","outcome":"not_applied"}`)
		}, `refused as "account-unknown"`},
		{"a refusal of what crosses", "answers", func(h *History) {
			h.request("m7").Answers[0].Body = []byte(`{"code":"linked-across-shards","outcome":"not_applied"}`)
		}, "and there is one shard"},
		{"a refusal that nobody is sure of", "answers", func(h *History) {
			h.request("m7").Answers[0].Body = []byte(`{"code":"insufficient-funds","outcome":"applied"}`)
		}, `with the outcome "applied"`},
		{"a bare 500", "answers", func(h *History) { h.request("m1").Strange = []string{"n1 answered 500"} }, "n1 answered 500"},
		{"lost", "lost", func(h *History) { h.drop("m1") }, "tr_5 was acknowledged and is lost: n1"},
		{"lost on one node", "lost", func(h *History) { v := &h.Views[1]; v.Events = v.Events[:len(v.Events)-1] }, "lost: n2"},
		{"a lost account", "lost", func(h *History) { h.drop("account.opened") }, "account bank was acknowledged and is lost"},
		{"another content", "lost", func(h *History) { h.events("m1", "100", "101") }, "n1 has"},
		{"members in another order", "lost", func(h *History) { h.events("m1", `"kind":"transfer","parent":"",`, ` "parent":"","kind":"transfer",`) }, ""},
		{"a phantom", "phantoms", func(h *History) { h.request("m1").Answers, h.request("m1").Declined = nil, 1 }, "nobody was told that it was done"},
		{"done twice", "phantoms", func(h *History) { h.double("m1") }, `have the memo "m1"`},
		{"captured twice", "phantoms", func(h *History) { h.double("transfer.capture") }, "nobody was told"},
		{"refused and done alone", "phantoms", func(h *History) {
			h.double("m1")
			for i := range h.Views {
				e := &h.Views[i].Events[len(h.Views[i].Events)-1]
				e.Data = json.RawMessage(strings.Replace(string(e.Data), "m1", "m7", 1))
			}
		}, "was refused as insufficient-funds"},
		{"not applied and done", "phantoms", func(h *History) {
			h.double("m1")
			for i := range h.Views {
				e := &h.Views[i].Events[len(h.Views[i].Events)-1]
				e.Data = json.RawMessage(strings.Replace(string(e.Data), "m1", "m9", 1))
			}
		}, "a node said that it was not"},
		{"one event twice", "phantoms", func(h *History) {
			v := &h.Views[0]
			v.Events = append(v.Events, *v.event("m1"))
		}, `have the subject "tr_5"`},
		{"one transfer for two", "phantoms", func(h *History) { h.request("m1").Answers[0].Body = h.request("m2").Answers[0].Body }, "were both answered with tr_6"},
		{"a replay that differs", "replayed", func(h *History) {
			r := h.request("m1")
			a := r.Answers[0]
			a.Body, a.Replayed = []byte(strings.Replace(string(a.Body), "100", "101", 1)), true
			r.Answers = append(r.Answers, a)
		}, "and then 201"},
		{"a replay with another status", "replayed", func(h *History) {
			r := h.request("m7")
			a := r.Answers[0]
			a.Status, a.Replayed = 422, true
			r.Answers = append(r.Answers, a)
		}, "and then 422"},
		{"a refusal that is done at last", "replayed", func(h *History) {
			r := h.request("m7")
			a := h.request("m1").Answers[0]
			a.Replayed = true
			r.Answers = append(r.Answers, a)
		}, "and then 201"},
		{"two originals", "replayed", func(h *History) { r := h.request("m1"); r.Answers = append(r.Answers, r.Answers[0]) }, "2 answers that are no replay"},
		{"two originals of an item", "replayed", func(h *History) { r := h.request("m8/0"); r.Answers = append(r.Answers, r.Answers[0]) }, "2 answers that are no replay"},
		{"items done by different attempts", "replayed", func(h *History) {
			r := h.request("m8/0")
			all := strings.ReplaceAll(string(r.Answers[0].Body), `"replayed":false`, `"replayed":true`)
			first := r.Answers[0]
			first.Body = []byte(strings.Replace(all, `"replayed":true`, `"replayed":false`, 1))
			r.Answers[0].Body = []byte(strings.Replace(string(r.Answers[0].Body), `"replayed":false`, `"replayed":true`, 1))
			r.Answers = append(r.Answers, first)
		}, ""},
		{"a replay", "replayed", func(h *History) {
			for _, what := range []string{"m1", "m7", "m8/0"} {
				r := h.request(what)
				a := r.Answers[0]
				a.Replayed = true
				a.Body = []byte(strings.ReplaceAll(strings.ReplaceAll(string(a.Body), `"replayed":false`, `"replayed":true`), "ab12", "cd34"))
				r.Answers = append(r.Answers, a)
			}
		}, ""},
		{"legs that do not balance", "ledger", func(h *History) { h.events("m1", `"-100"`, `"-99"`) }, "its legs add up to 1"},
		{"a debit without a credit", "ledger", func(h *History) {
			h.events("m1", legs("a", -100, "b", 100), legs("a", -100))
		}, "its legs add up to -100"},
		{"another amount than the legs", "ledger", func(h *History) { h.events("m1", `"amount":{"amount":"100"`, `"amount":{"amount":"90"`) }, "its legs pay 100"},
		{"money that is not there", "ledger", func(h *History) { h.events("m1", "100", "1001") }, "left a with -1"},
		{"held money that is spent", "ledger", func(h *History) { h.events("m1", "100", "701") }, "of which 300 are held: less than nothing"},
		{"captured too much", "ledger", func(h *History) { h.events("transfer.capture", "120", "290") }, "of which 10 remained"},
		{"voided after it was captured", "ledger", func(h *History) { h.events("transfer.void", "tr_12", "tr_6") }, "of which 0 remained"},
		{"refunded twice", "ledger", func(h *History) { h.events("transfer.refund", "50", "201") }, "refunds 201 of tr_6: 201 of 200"},
		{"a refund of nothing", "ledger", func(h *History) { h.events("transfer.refund", "tr_6", "tr_999") }, "which nothing was paid by"},
		{"claimed twice", "ledger", func(h *History) { h.double("transfer.claim") }, "of which 0 remained"},
		{"a claim of a hold", "ledger", func(h *History) { h.events("transfer.claim", "tr_14", "tr_6") }, "which nobody can claim"},
		{"captured and no hold", "ledger", func(h *History) { h.events("transfer.capture", `"parent":"tr_6"`, `"parent":"tr_5"`) }, "which is no hold"},
		{"nonsense", "ledger", func(h *History) { h.events("m1", "transfer", "gift") }, `the kind "gift"`},
		{"no JSON", "ledger", func(h *History) { h.events("m1", "{", "[") }, "event 0-5 is"},
		{"money out of nothing", "conserved", func(h *History) { h.money("b", func(a *Account) { a.Posted.Amount++ }) }, "add up to 1 KRW"},
		{"hidden claims", "conserved", func(h *History) {
			for i := range h.Views {
				delete(h.Views[i].Accounts, "@claims.KRW.0")
			}
		}, ""},
		{"hidden claims that vanish", "conserved", func(h *History) {
			for i := range h.Views {
				delete(h.Views[i].Accounts, "@claims.KRW.0")
			}
			h.total("m6", func(t *Transfer) { t.Remaining = &Money{0, "KRW"} })
		}, "add up to -40 KRW"},
		{"a wrong balance", "balances", func(h *History) { h.money("b", func(a *Account) { a.Posted.Amount++; a.Available.Amount++ }) }, "n1 tells of b: 284 posted"},
		{"a hold for ever", "balances", func(h *History) { h.money("a", func(a *Account) { a.Held.Amount = 100; a.Available.Amount -= 100 }) }, "100 held"},
		{"holds that are available", "balances", func(h *History) { h.money("a", func(a *Account) { a.Held.Amount = 100 }) }, "of a 677 are available"},
		{"below zero", "balances", func(h *History) {
			h.money("a", func(a *Account) { a.Posted.Amount, a.Available.Amount = -1, -1 })
		}, "a has -1 available"},
		{"an account is missing", "balances", func(h *History) { delete(h.Views[1].Accounts, "b") }, "n2 does not tell of the account b"},
		{"one entry more", "balances", func(h *History) { h.money("a", func(a *Account) { a.Entries++ }) }, "10 entries"},
		{"a gap in a statement", "statements", func(h *History) {
			p := &h.Views[0].Statements["a"][1]
			p.Items = slices.Concat(p.Items[:1], p.Items[2:])
		}, "entry 7 of the statement of a, after 5 others"},
		{"a statement that does not add up", "statements", func(h *History) { h.Views[0].Statements["a"][1].Items[0].Balance++ }, "and leaves"},
		{"a page that closes otherwise", "statements", func(h *History) { h.Views[0].Statements["a"][1].Closing++ }, "closes with 678"},
		{"a page that opens otherwise", "statements", func(h *History) { h.Views[0].Statements["a"][1].Opening++ }, "opens with"},
		{"a line of another transfer", "statements", func(h *History) { h.Views[0].Statements["b"][0].Items[0].Transfer = "tr_1" }, "where the events make"},
		{"a line too few", "statements", func(h *History) {
			p := &h.Views[0].Statements["a"][1]
			last := p.Items[len(p.Items)-1]
			p.Items, p.Closing = p.Items[:len(p.Items)-1], last.Balance-last.Amount
		}, "has nothing where"},
		{"captured, voided and remaining", "totals", func(h *History) { h.total("m2", func(t *Transfer) { t.Voided = &Money{101, "KRW"} }) }, "200 were captured, 101 voided"},
		{"a hold that stays open", "totals", func(h *History) {
			h.total("m2", func(t *Transfer) { t.Voided, t.Remaining = &Money{0, "KRW"}, &Money{100, "KRW"} })
		}, "100 remain; the events make it 0"},
		{"a refund that is forgotten", "totals", func(h *History) { h.total("m2", func(t *Transfer) { t.Refunded = nil }) }, "0 refunded"},
		{"an unknown hold", "totals", func(h *History) { clear(h.Views[1].Transfers) }, "n2 does not tell of tr_"},
		{"other accounts", "agreement", func(h *History) { a := h.Views[1].Accounts["a"]; a.Version++; h.Views[1].Accounts["a"] = a }, "the account a is for n1"},
		{"other events", "agreement", func(h *History) { h.Views[1].Events[3].Type += "x" }, "from number 4 of"},
		{"fewer events", "agreement", func(h *History) { h.Views[1].Events = h.Views[1].Events[:2] }, "from number 3 of"},
		{"other statements", "agreement", func(h *History) { h.Views[1].Statements["b"][0].Items[0].Memo = "x" }, "the statement of b"},
		{"other transfers", "agreement", func(h *History) { delete(h.Views[0].Transfers, "tr_6") }, "the transfer tr_6"},
		{"a gap in the events", "sequence", func(h *History) { v := &h.Views[0]; v.Events = slices.Delete(v.Events, 4, 5) }, "event 6 of /pay/shards/0 comes after 4"},
		{"one id twice", "sequence", func(h *History) { h.Views[0].Events[4].ID = "0-4" }, "two events are 0-4"},
		{"before it was asked for", "order", func(h *History) { h.request("m0").Asked = h.request("m1").Answers[0].At + step }, "0-5 of a was acknowledged before 0-4 was asked for"},
		{"both at once", "order", func(h *History) { h.request("m0").Asked = h.request("m1").Answers[0].At }, ""},
		{"a stale read", "reads", func(h *History) { h.read("a", 2).Account = h.read("a", 1).Account }, "which it was at no moment"},
		{"a read of the future", "reads", func(h *History) { h.read("a", 1).Account = h.read("a", 2).Account }, "which it was at no moment"},
		{"a stale read that may be", "reads", func(h *History) {
			h.read("a", 2).Account, h.request("m1").Answers[0].At = h.read("a", 1).Account, h.read("a", 2).Asked
		}, ""},
		{"a read of what never was", "reads", func(h *History) {
			a := &h.read("a", 1).Account
			a.Posted, a.Available = &Money{999, "KRW"}, &Money{999, "KRW"}
		}, "999 posted"},
		{"a version that goes back", "reads", func(h *History) { h.read("a", 2).Account.Version = 1 }, "after n1 had told of version 2"},
		{"one version, two states", "reads", func(h *History) { h.read("a", 2).Account.Version = 2 }, "told of a at version 2: 1000 posted, 0 held, 1 entries, and n1: 900 posted"},
		{"two versions, one state", "reads", func(h *History) {
			r := *h.read("a", 4)
			r.Account.Version++
			r.Asked, r.Answered = r.Answered+step, r.Answered+2*step
			h.Reads = append(h.Reads, r)
		}, "which it was at no moment"},
		{"a read without money", "reads", func(h *History) { h.read("a", 1).Account.Posted = nil }, "without its money"},
		{"a read of an account that is not there", "reads", func(h *History) { h.read("a", 1).Account.ID = "z" }, "which nobody opened"},
		{"a stale statement", "pages", func(h *History) { h.Pages[2].Statement = h.Pages[1].Statement }, "told 1 entries of a, which had 2 to 2"},
		{"a statement of the future", "pages", func(h *History) { h.Pages[1].Statement = h.Pages[2].Statement }, "told 2 entries of a, which had 1 to 1"},
		{"a first page", "pages", func(h *History) {
			p := &h.Pages[2].Statement
			p.Items, p.Next, p.Closing = p.Items[:1], "more", 1000
		}, ""},
		{"an entry that changes", "pages", func(h *History) { h.Pages[2].Statement.Items[0].Memo = "x" }, "where there is at the end"},
		{"a statement that does not add up", "pages", func(h *History) { h.Pages[2].Statement.Closing++ }, "closes with"},
		{"a statement of nobody", "pages", func(h *History) { h.Pages[2].Statement.Account = "z" }, "which nobody opened"},
		{"a poll that skips", "polls", func(h *History) { h.Polls[1].Events = h.Polls[1].Events[1:] }, "told r0 event 0-6 where 0-5 stands"},
		{"a poll that repeats", "polls", func(h *History) { h.Polls = append(h.Polls, h.Polls[1]) }, "where nothing (number"},
		{"an event that changes", "polls", func(h *History) { h.Polls[0].Events[1].Subject = "x" }, "told r0 event 0-2 where 0-2 stands"},
		{"two who follow", "polls", func(h *History) {
			p := h.Polls[0]
			p.Chain = "r1"
			h.Polls = append(h.Polls, p)
		}, ""},
		{"refused without need", "refusals", func(h *History) { r := h.request("m7"); r.Body = []byte(payBody("b", "a", "m7", 100)) }, "refused for want of 100, which b had all the time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := healthy()
			c.mutate(h)
			judge(t, h, c.check, c.want)
		})
	}
}

// judge looks for what one check is to say; want "": nothing.
func judge(t *testing.T, h *History, name, want string) {
	t.Helper()
	all := checks()
	check := all[slices.IndexFunc(all, func(one check) bool { return one.name == name })]
	switch wrong := check.check(newTrial(h)); {
	case want == "" && len(wrong) > 0:
		t.Errorf("complains: %q", wrong)
	case want != "" && !slices.ContainsFunc(wrong, func(w string) bool { return strings.Contains(w, want) }):
		t.Errorf("says %q, nothing of %q", wrong, want)
	case want != "" && len(Check(h)) == 0:
		t.Error("Check does not ask this check")
	}
}

// TestFinal: what is final, and what nobody knows.
func TestFinal(t *testing.T) {
	for _, c := range []struct {
		status        int
		body          string
		final, unsure bool
	}{
		{201, ``, true, false},
		{409, `{"code":"insufficient-funds","outcome":"not_applied"}`, true, false},
		{409, `{"code":"idempotency-key-in-flight","retryable":true,"outcome":"unknown"}`, false, true},
		{503, `{"code":"outcome-unknown","retryable":true,"outcome":"unknown"}`, false, true},
		{503, `{"code":"unavailable","retryable":true,"outcome":"not_applied"}`, false, false},
		{503, `{"code":"unavailable","retryable":true}`, false, true},
		{429, `{"code":"too-many","retryable":true,"outcome":"not_applied"}`, false, false},
		{200, `{"items":[{"status":201,"transfer":{}},{"status":409,"problem":{"code":"insufficient-funds","outcome":"not_applied"}}]}`, true, false},
		{200, `{"items":[{"status":201,"transfer":{}},{"status":503,"problem":{"code":"unavailable","retryable":true,"outcome":"not_applied"}}]}`, false, true},
		{200, `{"items":[{"status":503,"problem":{"code":"outcome-unknown","retryable":true,"outcome":"unknown"}}]}`, false, true},
		{502, `<html>`, false, true},
		{500, `{"code":"internal"}`, false, true},
	} {
		if final, unsure := Final(c.status, []byte(c.body)); final != c.final || unsure != c.unsure {
			t.Errorf("Final(%d, %s) = %v, %v, want %v, %v", c.status, c.body, final, unsure, c.final, c.unsure)
		}
	}
}

func TestSome(t *testing.T) {
	if got := Some([]string{"a", "b", "c", "d", "e"}); !slices.Equal(got, []string{"a", "b", "c", "and 2 more like the last"}) {
		t.Errorf("of five reasons: %q", got)
	}
}
