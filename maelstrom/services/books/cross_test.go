package books

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// homes are the shards of the accounts of these tests. Nobody opens the others.
var homes = map[string]int{"bank": 0, "a": 0, "b": 1, "c": 2}

// Shards that take no part in a transfer.
const (
	none    = 0
	unknown = 9 // that of an account that nobody opened
)

// across is a transfer whose home is the shard 0. The others prepare in order, until one of them rejects.
func (s *scribe) across(kind, parent, memo string, amount, rejects int, pairs ...any) (id, data string) {
	id = fmt.Sprint("tr_", len(s.events)+1)
	show := func(kind, status, parent string, amount int, legs string) string {
		return fmt.Sprintf(`{"id":%q,"kind":%q,"status":%q,"parent":%q,"memo":%q,"amount":{"amount":"%d","currency":"KRW"},"legs":%s}`, id, kind, status, parent, memo, amount, legs)
	}
	step := func(shard int, what, data string) {
		s.shard = shard
		s.event(what, id, data)
		s.shard = 0
	}
	step(0, settling, show(kind, "settling", parent, amount, legs(pairs...)))
	parts := map[int]string{}
	for shard := 1; shard <= 2 && shard != rejects; shard++ {
		var own []any
		received := 0
		for i := 0; i < len(pairs); i += 2 {
			if home, opened := homes[pairs[i].(string)]; opened && home == shard {
				own, received = append(own, pairs[i], pairs[i+1]), received+max(0, pairs[i+1].(int))
			}
		}
		if len(own) > 0 {
			parts[shard] = show("portion", "posted", "", received, legs(own...))
			step(shard, prepared, parts[shard])
		}
	}
	ended, how := finished, map[string]string{"transfer": "posted", "capture": "captured", "refund": "refunded", "claim": "claimed"}[kind]
	data = show(kind, "posted", parent, amount, legs(pairs...))
	if rejects != none {
		ended, how, data = dropped, "failed", strings.Replace(data, `"status":"posted"`, `"status":"failed"`, 1)
	}
	step(0, "transfer."+how, data)
	for _, shard := range sortedKeys(parts) {
		step(shard, ended, parts[shard])
	}
	return id, data
}

// sharded is a run on three shards, with one of everything between them.
func sharded() *History {
	s := &scribe{}
	s.account("bank", "asset")
	s.account("a", "liability")
	s.shard = 1
	s.account("b", "liability")
	s.shard = 2
	s.account("c", "liability")
	s.shard = 0
	s.pay("bank", "a", "m0", 1000, false)
	s.look("b")
	payment, data := s.across("transfer", "", "x1", 100, none, "a", -100, "b", 100)
	s.request(TransfersPath, payBody("a", "b", "x1", 100), 201, data)
	s.look("a")
	s.look("b")
	_, data = s.across("transfer", "", "x2", 50, none, "bank", -50, "c", 50)
	s.request(TransfersPath, payBody("bank", "c", "x2", 50), 201, data)
	s.across("transfer", "", "x3", 70, unknown, "a", -70, "nobody1", 70)
	s.refuse(TransfersPath, payBody("a", "nobody1", "x3", 70), "account-unknown")
	s.across("transfer", "", "x4", 30, 2, "b", 10, "c", 20, "a", -30)
	s.refuse(TransfersPath, `{"legs":[],"memo":"x4"}`, "account-closed")
	s.look("a")
	hold := s.pay("a", "b", "x5", 300, true)
	_, data = s.across("capture", hold, "", 120, none, "a", -120, "b", 120)
	s.request("/transfers/"+hold+"/capture", `{"amount":{"amount":"120","currency":"KRW"}}`, 201, data)
	s.look("a")
	s.across("capture", hold, "", 50, 1, "a", -50, "b", 50)
	s.refuse("/transfers/"+hold+"/capture", `{"amount":{"amount":"50","currency":"KRW"}}`, "account-closed")
	_, data = s.across("capture", hold, "", 60, none, "a", -60, "b", 60)
	s.request("/transfers/"+hold+"/capture", `{"amount":{"amount":"60","currency":"KRW"},"final":true}`, 201, data)
	_, data = s.across("refund", payment, "", 40, none, "b", -40, "a", 40)
	s.request("/transfers/"+payment+"/refund", `{"amount":{"amount":"40","currency":"KRW"}}`, 201, data)
	s.across("refund", payment, "", 60, 1, "b", -60, "a", 60)
	s.refuse("/transfers/"+payment+"/refund", `{}`, "insufficient-funds")
	claimable, data := s.made("claimable", "", "x6", 30, legs("a", -30, "@claims.KRW.0", 30))
	s.request(TransfersPath, `{"from":"a","amount":{"amount":"30","currency":"KRW"},"recipient":"x","memo":"x6"}`, 201, data)
	_, data = s.across("claim", claimable, "", 30, none, "@claims.KRW.0", -30, "c", 30)
	s.request("/transfers/"+claimable+"/claim", `{"account":"c"}`, 201, data)
	id, data := s.across("transfer", "", "x7", 5, 1, "a", -5, "b", 5)
	s.refuse(TransfersPath, payBody("a", "b", "x7", 5), "cancelled")
	s.request("/transfers/"+id+"/void", `{}`, 201, data)
	s.look("a")
	s.look("b")
	s.end()
	return &s.h
}

func TestSharded(t *testing.T) {
	h := sharded()
	if wrong := Check(h); len(wrong) > 0 {
		t.Errorf("a run in which all went well:\n%s", strings.Join(wrong, "\n"))
	}
	// As one would add it up by hand. a: 1000-100-120-60+40-30; b: 100+120+60-40; c: 50+30. What the shards note of each other:
	// 100+50+120+60-40+30 came from 0.
	got := map[string]int64{}
	for id, a := range h.Views[0].Accounts {
		got[id] = a.Posted.Amount
	}
	want := map[string]int64{"bank": 1050, "a": 730, "b": 240, "c": 80, "@claims.KRW.0": 0, "@transit.KRW.0": 320, "@transit.KRW.1": -240, "@transit.KRW.2": -80}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what is posted in the end (-want +got):\n%s", diff)
	}
	if a := h.Views[1].Accounts["a"]; a.Held.Amount != 0 {
		t.Errorf("a has %d held, want 0", a.Held.Amount)
	}
	var lines []string
	for _, page := range h.Views[0].Statements["a"] {
		for _, e := range page.Items[:min(5, len(page.Items))] {
			lines = append(lines, fmt.Sprint(e.Kind, " ", e.Amount, " ", e.Memo))
		}
	}
	first := []string{"transfer 1000 m0", "transfer -100 x1", "transfer -70 x3", "abort 70 x3", "transfer -30 x4"}
	if diff := cmp.Diff(first, lines[:5]); diff != "" {
		t.Errorf("the statement of a begins so (-want +got):\n%s", diff)
	}
	if began, aborted := Crossings(h.Views[0].Events); began != 11 || aborted != 5 {
		t.Errorf("Crossings() = %d, %d, want 11, 5", began, aborted)
	}
}

// steps does something with the first event of all nodes that is such a step of a transfer with that in it.
func (h *History) steps(kind, what string, change func(*Event) []Event) {
	for i := range h.Views {
		v := &h.Views[i]
		at := slices.IndexFunc(v.Events, func(e Event) bool {
			return kindOf(&e) == kind && strings.Contains(string(e.Data), `"`+what+`"`)
		})
		v.Events = slices.Replace(v.Events, at, at+1, change(&v.Events[at])...)
		v.renumber()
	}
}

func gone(*Event) []Event    { return nil }
func twice(e *Event) []Event { return []Event{*e, *e} }

// as makes another step of one.
func as(kind string) func(*Event) []Event {
	return func(e *Event) []Event {
		changed := *e
		changed.Type = "dongne.pay." + kind
		return []Event{changed}
	}
}

func rewritten(old, new string) func(*Event) []Event {
	return func(e *Event) []Event {
		changed := *e
		changed.Data = json.RawMessage(strings.Replace(string(e.Data), old, new, 1))
		return []Event{changed}
	}
}

// TestShardedChecks: what can go wrong between shards is found.
func TestShardedChecks(t *testing.T) {
	for _, c := range []struct {
		name   string
		check  string
		mutate func(*History)
		want   string // "": it passes
	}{
		{"a part finished twice", "ledger", func(h *History) { h.steps(finished, "x1", twice) }, "was ended twice"},
		{"a part dropped and finished", "ledger", func(h *History) {
			h.steps(dropped, "x4", func(e *Event) []Event { return append(as(finished)(e), *e) })
		}, "was ended twice"},
		{"a part prepared twice", "ledger", func(h *History) { h.steps(prepared, "x1", twice) }, "was prepared twice"},
		{"a part never finished", "ledger", func(h *History) { h.steps(finished, "x1", gone) }, "in /pay/shards/1 was never ended"},
		{"a part never dropped", "ledger", func(h *History) { h.steps(dropped, "x4", gone) }, "in /pay/shards/1 was never ended"},
		{"a part finished and never prepared", "ledger", func(h *History) { h.steps(prepared, "x1", gone) }, "was ended and never prepared"},
		{"committed without a part", "ledger", func(h *History) { h.steps(prepared, "x1", gone); h.steps(finished, "x1", gone) }, "/pay/shards/1 has no part of it"},
		{"committed at home and dropped elsewhere", "ledger", func(h *History) { h.steps(finished, "x1", as(dropped)) }, "is transfer.posted at home, and its part in /pay/shards/1 is portion.dropped"},
		{"aborted at home and finished elsewhere", "ledger", func(h *History) { h.steps(dropped, "x4", as(finished)) }, "is transfer.failed at home, and its part in /pay/shards/1 is portion.finished"},
		{"a part of another amount", "ledger", func(h *History) {
			h.steps(prepared, "x1", rewritten(`"amount":{"amount":"100","currency":"KRW"}}]`, `"amount":{"amount":"101","currency":"KRW"}}]`))
		}, "not [{b {100 KRW}}]"},
		{"a part of nothing", "ledger", func(h *History) { h.steps(settling, "x1", gone) }, "and was never begun"},
		{"never decided", "ledger", func(h *History) { h.steps(failed, "x3", gone) }, "is on its way for ever"},
		{"decided twice", "ledger", func(h *History) { h.steps(failed, "x3", twice) }, "was decided twice"},
		{"begun twice", "ledger", func(h *History) { h.steps(settling, "x1", twice) }, "was begun twice"},
		{"decided for other legs", "ledger", func(h *History) { h.steps("transfer.posted", "x1", rewritten(`"-100"`, `"-99"`)) }, "has other legs at the end"},
		{"unbalanced", "ledger", func(h *History) { h.steps(settling, "x1", rewritten(`"-100"`, `"-99"`)) }, "its legs add up to 1"},
		{"paid with money that is not there", "ledger", func(h *History) { h.steps(settling, "x1", rewritten(`"-100"`, `"-1100"`)) }, "left a with -100"},
		{"captured more than is held", "ledger", func(h *History) { h.steps(settling, "capture", rewritten(`"amount":"120"`, `"amount":"301"`)) }, "of which there is not so much"},
		{"an aborted transfer whose payer is not paid back", "balances", func(h *History) {
			h.money("a", func(a *Account) { a.Posted.Amount -= 70; a.Available.Amount -= 70 })
		}, "n1 tells of a: 660 posted"},
		{"an aborted transfer that its statement forgets", "statements", func(h *History) {
			p := h.Views[0].Statements["a"]
			at := slices.IndexFunc(p[0].Items, func(e Entry) bool { return e.Kind == "abort" })
			p[0].Items = slices.Delete(p[0].Items, at, at+1)
		}, "the statement of a has"},
		{"an aborted capture that is not held again", "balances", func(h *History) {
			h.money("a", func(a *Account) { a.Held.Amount += 50; a.Available.Amount -= 50 })
		}, "50 held"},
		{"an aborted refund that counts", "totals", func(h *History) { h.total("x1", func(t *Transfer) { t.Refunded = &Money{100, "KRW"} }) }, "100 refunded; the events make it 100 and 40"},
		{"money between shards for ever", "transit", func(h *History) {
			h.money("@transit.KRW.0", func(a *Account) { a.Posted.Amount += 70; a.Available.Amount += 70 })
		}, "70 KRW are on their way between shards for ever"},
		{"money that vanishes between shards", "conserved", func(h *History) {
			h.money("@transit.KRW.1", func(a *Account) { a.Posted.Amount -= 40; a.Available.Amount -= 40 })
		}, "add up to -40 KRW"},
		{"refused and committed", "phantoms", func(h *History) { h.steps(failed, "x3", as("transfer.posted")) }, "nobody was told that it was done"},
		{"acknowledged and aborted", "lost", func(h *History) {
			h.steps("transfer.posted", "x1", rewritten(`"status":"posted"`, `"status":"failed"`))
		}, "acknowledged as"},
		{"only begun", "lost", func(h *History) { h.steps("transfer.posted", "x1", gone) }, "was acknowledged and is lost"},
		{"taken back, and not", "cancelled", func(h *History) {
			last := h.Requests[len(h.Requests)-1]
			last.Answers[0].Body = []byte(strings.Replace(string(h.request("x1").Answers[0].Body), `"status":"posted"`, `"status":"failed"`, 1))
		}, "is taken back, which it is not"},
		{"taken back again", "replayed", func(h *History) {
			last := h.Requests[len(h.Requests)-1]
			again := last.Answers[0]
			again.Replayed = true
			last.Answers = append(last.Answers, again)
		}, ""},
		{"taken back twice", "replayed", func(h *History) {
			last := h.Requests[len(h.Requests)-1]
			last.Answers = append(last.Answers, last.Answers[0])
		}, "2 answers that are no replay"},
		{"linked across shards", "answers", func(h *History) {
			h.request("x3").Answers[0].Body = []byte(`{"code":"linked-across-shards","outcome":"not_applied"}`)
		}, ""},
		{"nobody, who was opened", "answers", func(h *History) { r := h.request("x3"); r.Body = []byte(payBody("a", "b", "x3", 70)) }, `refused as "account-unknown"`},
		{"a payee who sees nothing of what was acknowledged", "reads", func(h *History) { h.read("b", 1).Account = h.read("b", 0).Account }, "which it was at no moment"},
		{"a payee who sees what nobody asked for yet", "reads", func(h *History) { h.read("b", 0).Account = h.read("b", 1).Account }, "which it was at no moment"},
		{"shards in another order", "agreement", func(h *History) { h.Views[1].Events = sortedBySource(h.Views[1].Events) }, ""},
		{"a shard that one node knows less of", "agreement", func(h *History) { v := &h.Views[1]; v.Events = v.Events[:len(v.Events)-1] }, "tell of other events of /pay/shards/0"},
		{"a follower of another order", "polls", func(h *History) { h.Polls = []Poll{{"n1", "r0", sortedBySource(h.Views[0].Events)}} }, ""},
		{"a follower who misses one of a shard", "polls", func(h *History) {
			all := sortedBySource(h.Views[0].Events)
			at := slices.IndexFunc(all, func(e Event) bool { return e.ID == "1-2" })
			h.Polls = []Poll{{"n1", "r0", slices.Delete(all, at, at+1)}}
		}, "told r0 event 1-3 where 1-2 stands"},
		{"a gap in one shard", "sequence", func(h *History) {
			v := &h.Views[0]
			v.Events = slices.DeleteFunc(v.Events, func(e Event) bool { return e.ID == "1-2" })
		}, "event 3 of /pay/shards/1 comes after 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := sharded()
			c.mutate(h)
			judge(t, h, c.check, c.want)
		})
	}
}

func sortedBySource(events []Event) []Event {
	var sorted []Event
	for _, e := range bySource(events) {
		sorted = append(sorted, *e)
	}
	return sorted
}
