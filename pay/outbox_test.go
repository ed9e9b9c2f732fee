package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"dongne/internal/serve"
	"dongne/pay/ledger"

	"github.com/google/go-cmp/cmp"
)

// codes are what came of the items of a batch, in short.
func codes(items []batchJSON) string {
	var all []string
	for _, r := range items {
		text := strconv.Itoa(r.Status)
		if r.Problem != nil {
			text += " " + r.Problem.Code
		}
		if r.Replayed {
			text += " again"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

func (a as) batch(items []object, headers ...string) answer {
	a.pay.t.Helper()
	return a.do("POST", "/transfers:batch", object{"items": items}, headers...).want(200, "")
}

// TestBatch: each item has its own key and result; those that are linked are done all or none.
func TestBatch(t *testing.T) {
	p := start(t)
	ana := p.as("ana")
	ana.account("ana", 1000)
	ana.account("bo", 0)
	move := func(from, to string, amount int, more ...any) object {
		item := object{"from": from, "to": to, "amount": won(amount)}
		for i := 0; i < len(more); i += 2 {
			item[more[i].(string)] = more[i+1]
		}
		return item
	}
	items := []object{
		move("ana", "bo", 100),
		move("ana", "bo", 5000),
		move("ana", "bo", 10, "linked", true), move("ana", "nobody", 1, "linked", true), move("ana", "bo", 20),
		move("ana", "bo", 30, "linked", true, "key", "mine"), move("bo", "ana", 130),
		move("ana", "bo", 40, "hold", true),
		{"from": "ana", "amount": won(5), "recipient": "chae"},
		{"legs": []object{{"account": "ana", "amount": won(-7)}, {"account": "bo", "amount": won(7)}}},
		move("ana", "bo", 30, "key", "mine"),
	}
	first := ana.batch(items, "Idempotency-Key", "b")
	results := decode[pageOf[batchJSON]](first).Items
	want := "201, 409 insufficient-funds, 409 linked-failed, 404 account-unknown, 409 linked-failed, 201, 201, 201, 201, 201, 422 idempotency-key-reused"
	if got := codes(results); got != want {
		t.Errorf("batch = %s\n  want %s", got, want)
	}
	if results[0].Key != "b/0" || results[5].Key != "mine" || results[7].Transfer.Status != "held" || results[1].Problem.Outcome != "not_applied" {
		t.Errorf("results: %s", first.body)
	}
	if first.header.Get("Idempotency-Replayed") != "" {
		t.Error("the first answer is said to be replayed")
	}
	ana.wantBalances("ana", "988 40 948", "bo", "7 0 7")

	again := ana.batch(items[:10], "Idempotency-Key", "b")
	before := decode[pageOf[batchJSON]](first).Items[:10]
	after := decode[pageOf[batchJSON]](again).Items
	for i := range after {
		if !after[i].Replayed {
			t.Errorf("item %d is not replayed", i)
		}
		after[i].Replayed = false
	}
	if diff := cmp.Diff(before, after); diff != "" || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("replayed %q, mismatch (-first +again):\n%s", again.header.Get("Idempotency-Replayed"), diff)
	}
	ana.wantBalances("ana", "988 40 948", "bo", "7 0 7")

	// Its keys are those of single requests, too.
	single := ana.do("POST", "/transfers", items[0], "Idempotency-Key", "b/0").want(201, "")
	if single.header.Get("Idempotency-Replayed") != "true" || decode[transferJSON](single).ID != results[0].Transfer.ID {
		t.Errorf("the item alone: %v %s", single.header, single.body)
	}
	ana.do("POST", "/transfers", items[1], "Idempotency-Key", "b/1").want(409, "insufficient-funds")

	many := make([]object, ledger.CallRequestsMax)
	for i := range many {
		many[i] = move("bank", "bo", 1)
	}
	if got := decode[pageOf[batchJSON]](ana.batch(many)).Items; len(got) != len(many) || strings.Count(codes(got), "201") != len(many) {
		t.Errorf("a batch of %d: %s", len(many), codes(got))
	}
	ana.wantBalances("bo", "1007 0 1007")
}

// TestShards: accounts of several logs are one ledger, but for links.
func TestShards(t *testing.T) {
	p := start(t, "SHARDS", "3")
	ana := p.as("ana")
	ana.account("ana", 1000)
	here, other := "", ""
	for i := 0; here == "" || other == ""; i++ {
		id := fmt.Sprintf("a%d", i)
		if same := ledger.ShardOf(id, 3) == ledger.ShardOf("ana", 3); same && here == "" {
			here = id
		} else if !same && other == "" {
			other = id
		} else {
			continue
		}
		ana.account(id, 100)
	}
	paid := ana.do("POST", "/transfers", object{"from": "ana", "to": other, "amount": won(300)}, "Idempotency-Key", "k").want(201, "")
	again := ana.do("POST", "/transfers", object{"from": "ana", "to": other, "amount": won(300)}, "Idempotency-Key", "k").want(201, "")
	if paid.body != again.body || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("replay of a transfer between shards:\n%s%s", paid.body, again.body)
	}
	if now := decode[transferJSON](ana.do("GET", "/transfers/"+decode[transferJSON](paid).ID, nil).want(200, "")); now.Status != "posted" {
		t.Errorf("the transfer is %+v", now)
	}
	ana.do("POST", "/transfers", object{"from": "ana", "to": other, "amount": won(701)}).want(409, "insufficient-funds")
	results := decode[pageOf[batchJSON]](ana.batch([]object{
		{"from": "ana", "to": here, "amount": won(1), "linked": true}, {"from": "ana", "to": other, "amount": won(1)},
		{"from": "ana", "to": other, "amount": won(2)},
	})).Items
	if got, want := codes(results), "409 linked-failed, 422 linked-across-shards, 201"; got != want {
		t.Errorf("batch = %s, want %s", got, want)
	}
	ana.wantBalances("ana", "698 0 698", other, "402 0 402", here, "100 0 100")

	var all []string
	for next := "/accounts?owner=ana&limit=1"; next != ""; {
		page := decode[pageOf[accountJSON]](ana.do("GET", next, nil).want(200, ""))
		for _, a := range page.Items {
			all = append(all, a.ID)
		}
		if next = page.Next; next != "" {
			next = "/accounts?owner=ana&limit=1&cursor=" + next
		}
	}
	if len(all) != 4 {
		t.Errorf("accounts of ana: %v, want 4", all)
	}
}

// TestStatement: pages re-add, number by number, and times choose among them.
func TestStatement(t *testing.T) {
	p := start(t)
	ana := p.as("ana")
	ana.account("ana", 1000)
	ana.account("bo", 0)
	for i := range 5 {
		ana.transfer(object{"from": "ana", "to": "bo", "amount": won(i + 1), "memo": fmt.Sprint(i), "reference": "r"})
	}
	whole := decode[statementJSON](ana.do("GET", "/accounts/ana/entries", nil).want(200, ""))
	if whole.Opening != "0" || whole.Closing != "985" || whole.Currency != "KRW" || whole.AsOf == "" || len(whole.Items) != 6 || whole.Next != "" {
		t.Fatalf("statement = %+v", whole)
	}
	var pages []entryJSON
	opening := "0"
	for next, more := "", true; more; more = next != "" {
		page := decode[statementJSON](ana.do("GET", "/accounts/ana/entries?limit=4&cursor="+next, nil).want(200, ""))
		if page.Opening != opening {
			t.Errorf("a page opens with %s, the one before closed with %s", page.Opening, opening)
		}
		sum, _ := strconv.Atoi(page.Opening)
		for _, e := range page.Items {
			n, _ := strconv.Atoi(e.Amount)
			if sum += n; e.Balance != strconv.Itoa(sum) {
				t.Errorf("entry %+v after %d", e, sum-n)
			}
		}
		if page.Closing != strconv.Itoa(sum) {
			t.Errorf("closing %s, want %d", page.Closing, sum)
		}
		opening, pages, next = page.Closing, append(pages, page.Items...), page.Next
	}
	for i, e := range pages {
		if e.Entry != i+1 {
			t.Errorf("entry %d has number %d", i+1, e.Entry)
		}
	}
	if diff := cmp.Diff(whole.Items, pages); diff != "" {
		t.Errorf("pages mismatch (-whole +pages):\n%s", diff)
	}
	third := decode[struct{ Items []struct{ Time string } }](ana.do("GET", "/accounts/ana/entries", nil)).Items[2].Time
	before := decode[statementJSON](ana.do("GET", "/accounts/ana/entries?to="+third, nil).want(200, ""))
	since := decode[statementJSON](ana.do("GET", "/accounts/ana/entries?from="+third, nil).want(200, ""))
	if len(before.Items) != 2 || len(since.Items) != 4 || before.Closing != since.Opening || since.Closing != whole.Closing {
		t.Errorf("before %+v\nsince %+v", before, since)
	}
}

// TestEvents: the outbox has what was done in its order, page by page, and the stream goes on where a client left it.
func TestEvents(t *testing.T) {
	p := start(t)
	ana := p.as("ana")
	live := ana.stream("")
	if e, _ := live.next(); e.id == "" || e.data != "" {
		t.Errorf("the stream begins with %+v, want where it stands", e)
	}
	ana.account("ana", 1000)
	ana.account("bo", 0)
	memo := "<script>alert(1)</script>\n\ndata: {}\r\nevent: reset\u2028\u0000"
	ana.transfer(object{"from": "ana", "to": "bo", "amount": won(1), "memo": memo})
	empty := decode[pageOf[eventJSON]](ana.do("GET", "/events?after=0&limit=1", nil).want(200, ""))
	var all []eventJSON
	after := ""
	for {
		page := decode[pageOf[eventJSON]](ana.do("GET", "/events?limit=2&after="+after, nil).want(200, ""))
		if page.Next == "" {
			t.Fatal("a page of events without next")
		}
		after = page.Next
		if len(page.Items) == 0 {
			break
		}
		all = append(all, page.Items...)
	}
	if diff := cmp.Diff(all[:1], empty.Items); diff != "" {
		t.Errorf("first event mismatch (-want +got):\n%s", diff)
	}
	var types []string
	var place string
	for i, want := range all {
		types = append(types, strings.TrimPrefix(want.Type, "dongne.pay."))
		got, id := live.event()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("streamed event %d mismatch (-page +stream):\n%s", i, diff)
		}
		if got.Sequence != strconv.Itoa(i+1) || got.Source != "/pay/shards/0" || got.ID != "0-"+got.Sequence {
			t.Errorf("event %d = %+v", i, got)
		}
		if i == 1 {
			place = id
		}
	}
	if got, want := strings.Join(types, " "), "account.opened account.opened transfer.posted account.opened transfer.posted"; got != want {
		t.Errorf("types = %s, want %s", got, want)
	}
	if got := all[4].Data["memo"]; got != memo {
		t.Errorf("memo = %q, want %q", got, memo)
	}
	live.close()
	for _, s := range []*sse{ana.stream("", "Last-Event-ID", place), ana.stream("?last_event_id=" + place), ana.stream("?after=" + place)} {
		if got, _ := s.event(); got.ID != all[2].ID {
			t.Errorf("resumed behind %s with %s, want %s", place, got.ID, all[2].ID)
		}
		s.close()
	}
	lost := ana.stream("", "Last-Event-ID", "nonsense")
	if e, _ := lost.next(); e.name != "reset" || e.id != after {
		t.Errorf("at an unknown position comes %+v, want reset and the end %s", e, after)
	}
	ana.transfer(object{"from": "ana", "to": "bo", "amount": won(2)})
	if got, _ := lost.event(); got.Sequence != "6" {
		t.Errorf("after the reset comes %+v", got)
	}
	p.stop()
	for {
		e, more := lost.next()
		if !more {
			t.Fatal("the stream ends without bye")
		}
		if e.name == "bye" {
			break
		}
	}
}

// TestWebhooks: a registered URL hears of what is done from then on.
func TestWebhooks(t *testing.T) {
	heard := make(chan eventJSON, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e eventJSON
		body, err := io.ReadAll(r.Body)
		if err = errorOf(err, json.Unmarshal(body, &e)); err != nil || r.Header.Get("webhook-id") != e.ID || r.Header.Get("webhook-signature") == "" {
			t.Errorf("delivery %s %v: %v", body, r.Header, err)
		}
		heard <- e
	}))
	defer receiver.Close()
	p := start(t)
	ana, bo := p.as("ana"), p.as("bo")
	ana.account("ana", 1000)
	body := object{"url": receiver.URL, "types": []string{"dongne.pay.transfer.*"}}
	type hook struct{ ID, URL, Secret, Status string }
	made := ana.do("POST", "/webhooks", body, "Idempotency-Key", "w").want(201, "")
	first := decode[hook](made)
	if first.Status != "enabled" || first.URL != receiver.URL || !strings.HasPrefix(first.Secret, "whsec_") {
		t.Errorf("webhook = %s", made.body)
	}
	if again := ana.do("POST", "/webhooks", body, "Idempotency-Key", "w").want(201, ""); again.body != made.body || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("again: %s", again.body)
	}
	ana.do("POST", "/webhooks", object{"url": receiver.URL}, "Idempotency-Key", "w").want(422, "idempotency-key-reused")
	ana.account("bo", 0)
	id := ana.transfer(object{"from": "ana", "to": "bo", "amount": won(5)}).ID
	if e := <-heard; e.Subject != id || e.Type != "dongne.pay.transfer.posted" {
		t.Errorf("heard of %+v, want the transfer %s", e, id)
	}
	path := "/webhooks/" + first.ID
	rotated := decode[hook](ana.do("POST", path+"/rotate", nil).want(200, ""))
	if rotated.Secret == first.Secret || rotated.Secret == "" {
		t.Errorf("rotated = %+v", rotated)
	}
	ana.do("POST", path+"/enable", nil).want(204, "")
	if list := decode[pageOf[hook]](ana.do("GET", "/webhooks", nil).want(200, "")).Items; len(list) != 1 || list[0].Secret != "" {
		t.Errorf("webhooks = %+v", list)
	}
	if list := decode[pageOf[hook]](bo.do("GET", "/webhooks", nil).want(200, "")).Items; len(list) != 0 {
		t.Errorf("another user's webhooks = %+v", list)
	}
	bo.do("DELETE", path, nil).want(404, "webhook-unknown")
	ana.do("DELETE", path, nil).want(204, "")
	ana.do("DELETE", path, nil).want(404, "webhook-unknown")
	p.stop()
	p.env["WEBHOOKS_PRIVATE"] = "false"
	p.open()
	ana.do("POST", "/webhooks", body).want(400, "request-invalid")
}

func errorOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestOffline: verify and export read what a service wrote.
func TestOffline(t *testing.T) {
	p := start(t)
	ana := p.as("ana")
	ana.account("ana", 1000)
	ana.account("bo", 0)
	ana.transfer(object{"from": "ana", "to": "bo", "amount": won(5)})
	events := decode[pageOf[json.RawMessage]](ana.do("GET", "/events?limit=500", nil).want(200, "")).Items
	if page := ana.do("GET", "/", nil).want(200, ""); !strings.Contains(page.header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("policy of the page: %v", page.header)
	}
	p.stop()
	var out bytes.Buffer
	if done, err := offline([]string{"verify"}, p.lookup, &out); !done || err != nil || !strings.Contains(out.String(), "valid") {
		t.Errorf("verify = %v, %v:\n%s", done, err, out.String())
	}
	out.Reset()
	if done, err := offline([]string{"export"}, p.lookup, &out); !done || err != nil {
		t.Errorf("export = %v, %v", done, err)
	}
	var want []string
	for _, e := range events {
		want = append(want, string(e))
	}
	if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(out.String()), "\n")); diff != "" {
		t.Errorf("journal mismatch (-events +export):\n%s", diff)
	}
	for _, args := range [][]string{nil, {"serve"}, {"verify", "now"}} {
		if done, _ := offline(args, p.lookup, &out); done {
			t.Errorf("offline(%q) is taken for a command", args)
		}
	}
	if done, err := offline([]string{"verify"}, func(name string) string { return map[string]string{"SHARDS": "x"}[name] }, &out); !done || err == nil {
		t.Errorf("verify with a bad variable = %v, %v", done, err)
	}
}

func TestConfiguration(t *testing.T) {
	for _, test := range []struct{ name, value, want string }{
		{"SHARDS", "0", "SHARDS"},
		{"SHARDS", "65", "SHARDS"},
		{"STORE", "oracle", "STORE"},
		{"WEBHOOKS_PRIVATE", "perhaps", "WEBHOOKS_PRIVATE"},
		{"HOST", "0.0.0.0", "HOST"},
		{"PORT", "x", "PORT"},
	} {
		dir := t.TempDir()
		getenv := serve.Env(vars, func(name string) string { return map[string]string{test.name: test.value, "DATA_DIR": dir}[name] })
		if err := run(t.Context(), getenv, io.Discard); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s=%q: error %v, want one that names %s", test.name, test.value, err, test.want)
		}
	}
	p := start(t, "SHARDS", "2")
	p.stop()
	p.env["SHARDS"] = "3"
	if err := run(t.Context(), serve.Env(vars, p.lookup), io.Discard); err == nil || !strings.Contains(err.Error(), "SHARDS") {
		t.Errorf("another number of shards: %v", err)
	}
}
