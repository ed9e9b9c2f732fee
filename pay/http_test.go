package main

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dongne/pay/ledger"

	"github.com/google/go-cmp/cmp"
)

// untraced is a body without what tells one request from its repetition.
func untraced(a answer) string {
	if a.status < 400 {
		return a.body
	}
	return strings.Replace(a.body, a.problem().TraceID, "", 1)
}

// TestReplay: every kind of change, sent again, has the same answer, is said to be replayed, and changes nothing more.
func TestReplay(t *testing.T) {
	p := start(t)
	ana := p.as("ana")
	ana.account("ana", 10_000)
	ana.account("bo", 0)
	hold := ana.transfer(object{"from": "ana", "to": "bo", "amount": won(1000), "hold": true}).ID
	void := ana.transfer(object{"from": "ana", "to": "bo", "amount": won(100), "hold": true}).ID
	plain := ana.transfer(object{"from": "ana", "to": "bo", "amount": won(500)}).ID
	kept := ana.transfer(object{"from": "ana", "amount": won(50), "recipient": "chae"}).ID
	for _, test := range []struct {
		path, body, same string
		status           int
		code             string
	}{
		{"/accounts", `{"id":"dan","currency":"KRW"}`, ` { "currency" : "KRW" , "id" : "dan" } `, 201, ""},
		{"/accounts", `{"currency":"USD","kind":"asset","limits":{"per_day":5}}`, `{"limits":{"per_day":"5","per_transfer":null},"kind":"asset","currency":"\u0055SD"}`, 201, ""},
		{"/accounts", `{"id":"bo","currency":"KRW"}`, `{"id":"bo","currency":"KRW"}`, 409, "account-exists"},
		{"/transfers", `{"from":"ana","to":"bo","amount":{"amount":"7","currency":"KRW"},"memo":"m"}`, `{"memo":"m","amount":{"currency":"KRW","amount":7},"to":"bo","from":"ana"}`, 201, ""},
		{"/transfers", `{"from":"bo","to":"ana","amount":{"amount":"99999","currency":"KRW"}}`, `{"from":"bo","to":"ana","amount":{"amount":99999,"currency":"KRW"}}`, 409, "insufficient-funds"},
		{"/transfers/" + hold + "/capture", `{"amount":{"amount":300,"currency":"KRW"}}`, `{"amount":{"amount":"300","currency":"KRW"}}`, 201, ""},
		{"/transfers/" + hold + "/capture", `{}`, ` {}`, 201, ""},
		{"/transfers/" + hold + "/capture", `{}`, ` {}`, 409, "not-pending"},
		{"/transfers/" + void + "/void", `{}`, `{ }`, 201, ""},
		{"/transfers/" + plain + "/refund", `{"amount":{"amount":200,"currency":"KRW"}}`, `{"amount":{"amount":200,"currency":"KRW"}}`, 201, ""},
		{"/transfers/" + plain + "/refund", `{}`, `{}`, 201, ""},
		{"/transfers/" + kept + "/claim", `{"account":"bo"}`, `{"account":"bo"}`, 201, ""},
	} {
		key := "replay " + test.path + test.body
		key = strings.Map(func(r rune) rune {
			if r <= ' ' {
				return '_'
			}
			return r
		}, key) + test.code
		first := ana.do("POST", test.path, test.body, "Idempotency-Key", key).want(test.status, test.code)
		before := ana.do("GET", "/events?limit=500", nil).want(200, "").body
		again := ana.do("POST", test.path, test.same, "Idempotency-Key", key).want(test.status, test.code)
		if diff := cmp.Diff(untraced(first), untraced(again)); diff != "" {
			t.Errorf("%s %s: replay mismatch (-first +again):\n%s", test.path, test.body, diff)
		}
		if first.header.Get("Idempotency-Replayed") != "" || again.header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("%s %s: Idempotency-Replayed %q, then %q", test.path, test.body, first.header.Get("Idempotency-Replayed"), again.header.Get("Idempotency-Replayed"))
		}
		if after := ana.do("GET", "/events?limit=500", nil).want(200, "").body; after != before {
			t.Errorf("%s %s: the replay made events", test.path, test.body)
		}
		ana.do("POST", "/accounts", `{"currency":"EUR"}`, "Idempotency-Key", key).want(422, "idempotency-key-reused")
		bo := p.as("bo").do("POST", "/accounts", `{"currency":"EUR"}`, "Idempotency-Key", key).want(201, "") // another user's key is another
		if bo.header.Get("Idempotency-Replayed") != "" {
			t.Error("another user's key is replayed")
		}
	}
}

// TestReplayAfterRestart: the answers survive the process.
func TestReplayAfterRestart(t *testing.T) {
	p := start(t)
	ana := p.as("ana")
	ana.account("ana", 1000)
	ana.account("bo", 0)
	paid := ana.do("POST", "/transfers", object{"from": "ana", "to": "bo", "amount": won(400)}, "Idempotency-Key", "paid").want(201, "")
	refused := ana.do("POST", "/transfers", object{"from": "ana", "to": "bo", "amount": won(4000)}, "Idempotency-Key", "refused").want(409, "insufficient-funds")
	ana.transfer(object{"from": "bank", "to": "ana", "amount": won(4000)}) // a refusal is final all the same
	p.stop()
	p.open()
	if again := ana.do("POST", "/transfers", object{"from": "ana", "to": "bo", "amount": won(400)}, "Idempotency-Key", "paid").want(201, ""); again.body != paid.body {
		t.Errorf("after a restart the answer is %s, want %s", again.body, paid.body)
	}
	again := ana.do("POST", "/transfers", object{"from": "ana", "to": "bo", "amount": won(4000)}, "Idempotency-Key", "refused").want(409, "insufficient-funds")
	if diff := cmp.Diff(untraced(refused), untraced(again)); diff != "" {
		t.Errorf("refusal after a restart mismatch (-first +again):\n%s", diff)
	}
	ana.wantBalances("ana", "4600 0 4600", "bo", "400 0 400")
}

// TestInFlight: while a request is under way another with its key gets 409, or waits for its answer.
func TestInFlight(t *testing.T) {
	p := start(t)
	ana := p.as("ana")
	ana.account("ana", 1000)
	ana.account("bo", 0)
	p.stop()
	var stalled atomic.Bool
	release := make(chan struct{})
	p.now = func() time.Time { // which the log asks before it writes
		if stalled.Load() {
			<-release
		}
		return time.Now()
	}
	p.open()
	stalled.Store(true)
	body := object{"from": "ana", "to": "bo", "amount": won(100)}
	answers := make(chan answer, 4)
	for range cap(answers) { // one of them is the first
		go func() { answers <- ana.do("POST", "/transfers", body, "Idempotency-Key", "k") }()
	}
	for range cap(answers) - 1 {
		refused := (<-answers).want(409, "idempotency-key-in-flight")
		if refused.header.Get("Retry-After") == "" || !refused.problem().Retryable || refused.problem().Outcome != "unknown" {
			t.Errorf("in flight: %v %s", refused.header, refused.body)
		}
	}
	ana.do("POST", "/transfers?wait=1ms", body, "Idempotency-Key", "k").want(409, "idempotency-key-in-flight")
	for range 2 {
		go func() { answers <- ana.do("POST", "/transfers?wait=30s", body, "Idempotency-Key", "k") }()
	}
	stalled.Store(false)
	close(release)
	var bodies []string
	replays := 0
	for range 3 {
		a := (<-answers).want(201, "")
		bodies = append(bodies, a.body)
		if a.header.Get("Idempotency-Replayed") == "true" {
			replays++
		}
	}
	if bodies[0] != bodies[1] || bodies[0] != bodies[2] || replays != 2 {
		t.Errorf("%d of these are replayed, want 2, all the same:\n%s", replays, strings.Join(bodies, ""))
	}
	ana.wantBalances("bo", "100 0 100")
}

// TestMoney: transfers, holds, captures with a split, voids, refunds and claims move what they say, and nothing else.
func TestMoney(t *testing.T) {
	p := start(t)
	ana := p.as("ana")
	ana.account("ana", 10_000)
	ana.account("bo", 0)
	ana.account("fee", 0)
	ana.wantBalances("bank", "10000 0 10000", "ana", "10000 0 10000")

	hold := ana.transfer(object{"from": "ana", "to": "bo", "amount": won("3000"), "hold": true, "memo": "<b>&", "reference": "r-1"})
	if hold.Kind != "hold" || hold.Status != "held" || hold.ExpiresAt == "" || hold.Memo != "<b>&" || hold.Reference != "r-1" || hold.By != "ana" {
		t.Errorf("hold = %+v", hold)
	}
	ana.wantBalances("ana", "10000 3000 7000")
	path := "/transfers/" + hold.ID
	capture := decode[transferJSON](ana.do("POST", path+"/capture", object{"legs": []object{
		{"account": "bo", "amount": won(900)}, {"account": "fee", "amount": won(100)}}}).want(201, ""))
	if capture.Parent != hold.ID || capture.Amount.Amount != "1000" || len(capture.Legs) != 3 {
		t.Errorf("capture = %+v", capture)
	}
	ana.wantBalances("ana", "9000 2000 7000", "bo", "900 0 900", "fee", "100 0 100")
	ana.do("POST", path+"/capture", object{"amount": won(2001)}).want(409, "amount-exceeds")
	ana.do("POST", path+"/capture", object{"amount": won(500), "final": true}).want(201, "")
	now := decode[transferJSON](ana.do("GET", path, nil).want(200, ""))
	if now.Status != "captured" || now.Captured.Amount != "1500" || now.Voided.Amount != "1500" || now.Remaining.Amount != "0" || now.Refunded.Amount != "0" {
		t.Errorf("hold is now %+v", now)
	}
	ana.do("POST", path+"/void", object{}).want(409, "not-pending")
	ana.do("POST", path+"/refund", object{"amount": won(10)}).want(409, "refund-legs-needed")
	ana.do("POST", path+"/refund", object{"legs": []object{{"account": "fee", "amount": won(100)}, {"account": "bo", "amount": won(400)}}}).want(201, "")
	ana.do("POST", path+"/refund", object{"amount": won(1001)}).want(409, "amount-exceeds")
	ana.wantBalances("ana", "9000 0 9000", "bo", "1000 0 1000", "fee", "0 0 0")

	three := ana.transfer(object{"legs": []object{{"account": "ana", "amount": won("-300")}, {"account": "bo", "amount": won(200)}, {"account": "fee", "amount": won(100)}}})
	ana.do("POST", "/transfers/"+three.ID+"/refund", object{}).want(201, "")
	ana.do("POST", "/transfers/"+three.ID+"/refund", object{}).want(409, "not-pending")
	ana.wantBalances("ana", "9000 0 9000", "bo", "1000 0 1000", "fee", "0 0 0")

	kept := ana.transfer(object{"from": "ana", "amount": won(50), "recipient": "chae"})
	if kept.Kind != "claimable" || kept.Status != "claimable" || kept.Recipient != "chae" {
		t.Errorf("claimable = %+v", kept)
	}
	chae := p.as("chae")
	chae.account("chae", 0)
	chae.do("POST", "/transfers/"+kept.ID+"/claim", object{"account": "chae"}).want(201, "")
	chae.do("POST", "/transfers/"+kept.ID+"/claim", object{"account": "chae"}).want(409, "not-pending")
	returned := ana.transfer(object{"from": "ana", "amount": won(60), "recipient": "dan"})
	if back := decode[transferJSON](ana.do("POST", "/transfers/"+returned.ID+"/void", object{}).want(201, "")); back.Kind != "return" {
		t.Errorf("void of a claimable = %+v, want a return", back)
	}
	voided := ana.transfer(object{"from": "ana", "to": "bo", "amount": won(70), "hold": true})
	ana.do("POST", "/transfers/"+voided.ID+"/void", object{}).want(201, "")
	ana.wantBalances("ana", "8950 0 8950", "chae", "50 0 50", "bank", "10000 0 10000")
}

// TestRefusals: every refusal that accounts and transfers can have, each with its status and without an effect.
func TestRefusals(t *testing.T) {
	clock := time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)
	p := start(t)
	p.stop()
	p.now = func() time.Time { return clock } // so that a nanosecond passes with each entry
	p.open()
	ana := p.as("ana")
	ana.account("ana", 1000)
	ana.account("bo", 0)
	ana.account("full", 0)
	ana.do("POST", "/accounts", object{"id": "mint", "currency": "KRW", "kind": "asset"}).want(201, "")
	ana.transfer(object{"from": "mint", "to": "full", "amount": won(ledger.AmountMax)})
	ana.account("shut", 0)
	ana.do("POST", "/accounts", object{"id": "dollars", "currency": "USD"}).want(201, "")
	ana.do("POST", "/accounts", object{"id": "capped", "currency": "KRW", "overdraft": true, "limits": object{"per_transfer": 100, "per_day": "150"}}).want(201, "")
	ana.do("PATCH", "/accounts/shut", `{"closed":true}`).want(200, "")
	ana.transfer(object{"from": "capped", "to": "bo", "amount": won(100)})
	paid := ana.transfer(object{"from": "ana", "to": "bo", "amount": won(10)}).ID
	hold := ana.transfer(object{"from": "ana", "to": "bo", "amount": won(10), "hold": true}).ID
	due := ana.transfer(object{"from": "ana", "to": "bo", "amount": won(10), "hold": true, "expires_at": clock.Add(200 * time.Nanosecond)}).ID
	for i := range 200 { // the clock that ends holds stands still
		ana.do("PATCH", "/accounts/capped", fmt.Sprintf(`{"limits":{"per_transfer":%d}}`, 100+i%2)).want(200, "")
	}
	ana.do("PATCH", "/accounts/capped", `{"limits":{"per_transfer":100}}`).want(200, "")
	before := ana.do("GET", "/events?limit=500", nil).body
	move := func(from, to string, amount any) object { return object{"from": from, "to": to, "amount": won(amount)} }
	for _, test := range []struct {
		method, path string
		body         any
		status       int
		code         string
	}{
		{"POST", "/accounts", object{"id": "ana", "currency": "KRW"}, 409, "account-exists"},
		{"POST", "/transfers", move("ana", "nobody", 1), 404, "account-unknown"},
		{"POST", "/transfers", move("nobody", "ana", 1), 404, "account-unknown"},
		{"POST", "/transfers", move("ana", "@claims.KRW.0", 1), 404, "account-unknown"},
		{"POST", "/transfers", move("ana", "shut", 1), 409, "account-closed"},
		{"POST", "/transfers", move("ana", "dollars", 1), 400, "currency-mismatch"},
		{"POST", "/transfers", move("ana", "bo", 981), 409, "insufficient-funds"}, // as 20 of 990 are held
		{"POST", "/transfers", move("ana", "full", 1), 409, "balance-overflow"},
		{"POST", "/transfers", move("capped", "bo", 101), 409, "limit-exceeded"},
		{"POST", "/transfers", move("capped", "bo", 51), 409, "limit-exceeded"},
		{"PATCH", "/accounts/ana", `{"closed":true}`, 409, "account-not-empty"},
		{"PATCH", "/accounts/nobody", `{"closed":true}`, 404, "account-unknown"},
		{"PATCH", "/accounts/capped", `{"overdraft":false}`, 409, "insufficient-funds"},
		{"POST", "/transfers/" + due + "/capture", object{}, 409, "hold-expired"},
		{"POST", "/transfers/" + paid + "/capture", object{}, 409, "not-pending"},
		{"POST", "/transfers/" + paid + "/void", object{}, 409, "not-pending"},
		{"POST", "/transfers/" + paid + "/claim", object{"account": "bo"}, 409, "not-pending"},
		{"POST", "/transfers/" + hold + "/refund", object{}, 409, "not-pending"},
		{"POST", "/transfers/" + hold + "/capture", object{"amount": won(11)}, 409, "amount-exceeds"},
		{"POST", "/transfers/" + hold + "/capture", object{"amount": object{"amount": 1, "currency": "USD"}}, 400, "currency-mismatch"},
		{"POST", "/transfers/" + hold + "/capture", object{"legs": []object{{"account": "shut", "amount": won(1)}}}, 409, "account-closed"},
		{"POST", "/transfers/" + paid + "/refund", object{"amount": won(11)}, 409, "amount-exceeds"},
		{"POST", "/transfers/" + paid + "/refund", object{"amount": object{"amount": 1, "currency": "USD"}}, 400, "currency-mismatch"},
		{"POST", "/transfers/" + paid + "/refund", object{"legs": []object{{"account": "ana", "amount": won(1)}}}, 400, "legs-invalid"},
		{"POST", "/transfers/tr_00000000000000000000/void", object{}, 404, "transfer-unknown"},
		{"POST", "/transfers/nonsense/void", object{}, 404, "transfer-unknown"},
		{"GET", "/transfers/nonsense", nil, 404, "transfer-unknown"},
		{"GET", "/accounts/nobody", nil, 404, "account-unknown"},
		{"GET", "/accounts/nobody/entries", nil, 404, "account-unknown"},
	} {
		a := ana.do(test.method, test.path, test.body).want(test.status, test.code)
		if test.method != "GET" && (a.problem().Outcome != "not_applied" || a.problem().Detail == "" || a.problem().Retryable) {
			t.Errorf("%s %s %v: %s", test.method, test.path, test.body, a.body)
		}
	}
	if after := ana.do("GET", "/events?limit=500", nil).body; after != before {
		t.Errorf("refusals made events: %s", after)
	}
}

// TestBadInput: what is malformed is refused with the path of its field, and leaves its key free.
func TestBadInput(t *testing.T) {
	p := start(t)
	ana := p.as("ana")
	ana.account("ana", 1000)
	ana.account("bo", 0)
	amount := func(text string) string {
		return `{"from":"ana","to":"bo","amount":{"amount":` + text + `,"currency":"KRW"}}`
	}
	type bad struct {
		path, body   string
		status       int
		code, detail string
	}
	tests := []bad{
		{"/transfers", `{"from":"ana","to":"bo"}`, 400, "request-invalid", `"amount"`},
		{"/transfers", `{"from":"ana","to":"bo","amount":{"amount":1}}`, 400, "request-invalid", `"amount.currency"`},
		{"/transfers", `{"from":"ana","to":"bo","amount":{"currency":"KRW"}}`, 400, "request-invalid", `"amount.amount"`},
		{"/transfers", `{"from":"ana","to":"bo","amount":{"amount":1,"currency":"KRX"}}`, 400, "json-value", `"amount.currency"`},
		{"/transfers", `{"from":"ana","to":"bo","amount":{"amount":1,"currency":"krw"}}`, 400, "json-value", `"amount.currency"`},
		{"/transfers", `{"from":"ana","to":"bo","amount":1}`, 400, "json-type", `"amount"`},
		{"/transfers", `{"from":"ana","from":"ana","to":"bo"}`, 400, "json-duplicate", `"from"`},
		{"/transfers", `{"from":"ana","to":"bo","amount":{"amount":1,"amount":1,"currency":"KRW"}}`, 400, "json-duplicate", `"amount.amount"`},
		{"/transfers", `{"from":"ana","too":"bo"}`, 400, "json-unknown-field", `"too"`},
		{"/transfers", `{"from":"ana"`, 400, "json-syntax", ""},
		{"/transfers", ``, 400, "json-empty", ""},
		{"/transfers", amount(`1`) + `x`, 400, "json-syntax", ""},
		{"/transfers", `{"to":"bo","amount":{"amount":1,"currency":"KRW"}}`, 400, "request-invalid", `"from"`},
		{"/transfers", `{"from":"ana","amount":{"amount":1,"currency":"KRW"}}`, 400, "request-invalid", `"to"`},
		{"/transfers", `{"from":"ana","to":"ana","amount":{"amount":1,"currency":"KRW"}}`, 400, "legs-invalid", `"to"`},
		{"/transfers", `{"from":"` + strings.Repeat("x", 65) + `","to":"bo","amount":{"amount":1,"currency":"KRW"}}`, 400, "request-invalid", `"from"`},
		{"/transfers", `{"from":"ana","to":"bo","amount":{"amount":1,"currency":"KRW"},"memo":"` + strings.Repeat("가", 86) + `"}`, 400, "request-invalid", `"memo"`},
		{"/transfers", `{"from":"ana","to":"bo","amount":{"amount":1,"currency":"KRW"},"reference":"` + strings.Repeat("x", 65) + `"}`, 400, "request-invalid", `"reference"`},
		{"/transfers", `{"from":"ana","to":"bo","amount":{"amount":1,"currency":"KRW"},"expires_at":"2027-01-01T00:00:00Z"}`, 400, "request-invalid", `"expires_at"`},
		{"/transfers", `{"from":"ana","to":"bo","hold":true,"amount":{"amount":1,"currency":"KRW"},"expires_at":"tomorrow"}`, 400, "json-value", `"expires_at"`},
		{"/transfers", `{"from":"ana","to":"bo","hold":true,"amount":{"amount":1,"currency":"KRW"},"expires_at":"9999-01-01T00:00:00Z"}`, 400, "request-invalid", `"expires_at"`},
		{"/transfers", `{"from":"ana","recipient":"a b","amount":{"amount":1,"currency":"KRW"}}`, 400, "request-invalid", `"recipient"`},
		{"/transfers", `{"from":"ana","to":"bo","recipient":"chae","amount":{"amount":1,"currency":"KRW"}}`, 400, "request-invalid", `"recipient"`},
		{"/transfers", `{"legs":[{"account":"ana","amount":{"amount":-1,"currency":"KRW"}}]}`, 400, "legs-invalid", `"legs"`},
		{"/transfers", `{"legs":[{"account":"ana","amount":{"amount":-1,"currency":"KRW"}},{"account":"bo","amount":{"amount":2,"currency":"KRW"}}]}`, 400, "legs-invalid", `"legs"`},
		{"/transfers", `{"legs":[{"account":"ana","amount":{"amount":-1,"currency":"KRW"}},{"account":"ana","amount":{"amount":1,"currency":"KRW"}}]}`, 400, "legs-invalid", `"legs[1].account"`},
		{"/transfers", `{"legs":[{"account":"ana","amount":{"amount":-1,"currency":"KRW"}},{"account":"bo","amount":{"amount":1,"currency":"USD"}}]}`, 400, "currency-mismatch", `"legs[1].amount.currency"`},
		{"/transfers", `{"legs":[{"account":"ana","amount":{"amount":-1,"currency":"KRW"}},{"account":"bo","amount":{"amount":1.0,"currency":"KRW"}}]}`, 400, "json-value", `"legs[1].amount.amount"`},
		{"/transfers", `{"legs":[{"account":"ana","amount":{"amount":0,"currency":"KRW"}},{"account":"bo","amount":{"amount":0,"currency":"KRW"}}]}`, 400, "legs-invalid", `"legs[0].amount.amount"`},
		{"/transfers", `{"from":"ana","legs":[]}`, 400, "request-invalid", `"legs"`},
		{"/accounts", `{"id":"x"}`, 400, "request-invalid", `"currency"`},
		{"/accounts", `{"id":"acct_1","currency":"KRW"}`, 400, "request-invalid", `"id"`},
		{"/accounts", `{"id":"a b","currency":"KRW"}`, 400, "request-invalid", `"id"`},
		{"/accounts", `{"id":"@a","currency":"KRW"}`, 400, "request-invalid", `"id"`},
		{"/accounts", `{"kind":"equity","currency":"KRW"}`, 400, "request-invalid", `"kind"`},
		{"/accounts", `{"currency":"XXX"}`, 400, "json-value", `"currency"`},
		{"/accounts", `{"currency":"KRW","limits":{"per_day":0}}`, 400, "json-value", `"limits.per_day"`},
		{"/accounts", `{"currency":"KRW","limits":{"per_transfer":"1e3"}}`, 400, "json-value", `"limits.per_transfer"`},
		{"/transfers/tr_00000000000000000000/capture", `{"amount":{"amount":"0","currency":"KRW"}}`, 404, "transfer-unknown", ""},
		{"/transfers:batch", `{"items":[]}`, 400, "request-invalid", `"items"`},
		{"/transfers:batch", `{"items":[` + amount("1") + `,` + amount("1.5") + `]}`, 400, "json-value", `"items[1].amount.amount"`},
		{"/transfers:batch", `{"items":[` + amount("1") + `,{"from":"ana","to":"bo"}]}`, 400, "request-invalid", `"items[1].amount"`},
		{"/transfers:batch", `{"items":[{"key":"a b"}]}`, 400, "request-invalid", `"items[0].key"`},
		{"/transfers:batch", `{"items":[{"linked":true}]}`, 400, "request-invalid", `"items[0].linked"`},
		{"/transfers:batch", `{"items":[` + strings.Repeat(amount("1")+",", 1000) + amount("1") + `]}`, 400, "request-invalid", `"items"`},
		{"/webhooks", `{"url":"ftp://example.com"}`, 400, "request-invalid", `"url"`},
		{"/webhooks", `{"url":"http://127.0.0.1/","types":["a","a"]}`, 400, "request-invalid", `"types[1]"`},
		{"/transfers?wait=1", amount("1"), 400, "query-invalid", "wait"},
		{"/transfers?wait=31s", amount("1"), 400, "query-invalid", "wait"},
	}
	for _, text := range []string{`1.0`, `1.5`, `1e3`, `-1e3`, `"1e3"`, `"1.0"`, `"01"`, `"+1"`, `"-0"`, `-0`, `""`, `" 1"`, `"1 "`, `"0x1"`, `"\u0031"`, `"1_000"`, `true`, `null`, `[]`, `{}`,
		`9223372036854775807`, `"9223372036854775808"`, `"-9223372036854775809"`, `4611686018427387904`, `100000000000000000000000`} {
		tests = append(tests, bad{"/transfers", amount(text), 400, "json-value", `"amount.amount"`})
	}
	for _, text := range []string{`0`, `"0"`, `-1`, `"-4611686018427387903"`} {
		tests = append(tests, bad{"/transfers", amount(text), 400, "request-invalid", `"amount.amount"`})
	}
	for _, test := range tests {
		a := ana.do("POST", test.path, test.body, "Idempotency-Key", "free")
		if len(test.body) > 200 {
			a.what += " " + test.body[:200]
		} else {
			a.what += " " + test.body
		}
		a.want(test.status, test.code)
		if q := a.problem(); !strings.Contains(q.Detail, test.detail) || q.Outcome != "not_applied" {
			t.Errorf("%s %.200s: %s; want detail %s", test.path, test.body, a.body, test.detail)
		}
	}
	ana.do("POST", "/transfers", amount("1"), "Idempotency-Key", "free").want(201, "")
	ana.wantBalances("ana", "999 0 999", "bo", "1 0 1")
}

// TestRequestHeaders: what the headers must and must not be.
func TestRequestHeaders(t *testing.T) {
	p := start(t)
	ana := p.as("ana")
	ana.account("ana", 1000)
	ana.account("bo", 0)
	body := object{"from": "ana", "to": "bo", "amount": won(1)}
	large := strings.Repeat(" ", 1<<20) + "{}"
	for _, test := range []struct {
		as           as
		method, path string
		body         any
		headers      []string
		status       int
		code         string
	}{
		{p.as(""), "POST", "/transfers", body, nil, 401, "unauthenticated"},
		{p.as("a b"), "POST", "/transfers", body, nil, 400, "user-invalid"},
		{p.as(""), "GET", "/accounts", nil, nil, 401, "unauthenticated"},
		{ana, "POST", "/transfers", body, []string{"Idempotency-Key", ""}, 400, "idempotency-key-missing"},
		{ana, "POST", "/webhooks/x/enable", nil, []string{"Idempotency-Key", ""}, 400, "idempotency-key-missing"},
		{ana, "POST", "/transfers", body, []string{"Idempotency-Key", "a b"}, 400, "idempotency-key-invalid"},
		{ana, "POST", "/transfers", body, []string{"Idempotency-Key", strings.Repeat("k", 256)}, 400, "idempotency-key-invalid"},
		{ana, "POST", "/transfers", body, []string{"Content-Type", "text/plain"}, 415, "content-type"},
		{ana, "POST", "/transfers", large, nil, 413, "body-too-large"},
		{ana, "POST", "/transfers", body, []string{"Origin", "https://evil.example"}, 403, "cross-origin"},
		{ana, "POST", "/transfers", body, []string{"If-Match", `"v9"`}, 412, "precondition-failed"},
		{ana, "POST", "/transfers", body, []string{"If-Match", `v1`}, 400, "if-match-invalid"},
		{ana, "POST", "/transfers", body, []string{"If-Match", `W/"v1"`}, 400, "if-match-invalid"},
		{ana, "POST", "/transfers", body, []string{"If-Match", `"v01"`}, 400, "if-match-invalid"},
		{ana, "POST", "/transfers", body, []string{"If-Match", `"v99999999999"`}, 400, "if-match-invalid"},
		{ana, "POST", "/accounts", object{"currency": "KRW"}, []string{"If-Match", `"v1"`}, 400, "if-match-invalid"},
		{ana, "PATCH", "/accounts/ana", `{"overdraft":true}`, []string{"If-Match", `"v9"`}, 412, "precondition-failed"},
		{ana, "PATCH", "/accounts/ana", `{}`, nil, 400, "request-invalid"},
		{ana, "DELETE", "/accounts/ana", nil, nil, 405, "method-not-allowed"},
		{ana, "POST", "/nowhere", nil, nil, 404, "not-found"},
		{ana, "GET", "/accounts?limit=501", nil, nil, 400, "query-invalid"},
		{ana, "GET", "/accounts?cursor=x", nil, nil, 400, "cursor-invalid"},
		{ana, "GET", "/accounts/ana/entries?cursor=x", nil, nil, 400, "cursor-invalid"},
		{ana, "GET", "/accounts/ana/entries?from=yesterday", nil, nil, 400, "query-invalid"},
		{ana, "GET", "/accounts/ana/entries?to=9999-01-01T00:00:00Z", nil, nil, 400, "query-invalid"},
		{ana, "GET", "/events?after=x", nil, nil, 400, "cursor-invalid"},
		{ana, "GET", "/events?limit=0", nil, nil, 400, "query-invalid"},
		{ana, "POST", "/webhooks/x/rotate", nil, nil, 404, "webhook-unknown"},
		{ana, "POST", "/webhooks/x/enable", nil, nil, 404, "webhook-unknown"},
		{ana, "DELETE", "/webhooks/x", nil, nil, 404, "webhook-unknown"},
	} {
		a := test.as.do(test.method, test.path, test.body, test.headers...)
		a.what += fmt.Sprintf(" %.60v", test.headers)
		a.want(test.status, test.code)
		if q := a.problem(); test.method != "GET" && q.Outcome != "not_applied" {
			t.Errorf("%s: %s", a.what, a.body)
		}
	}
	ana.wantBalances("ana", "1000 0 1000")
	ana.transfer(body, "If-Match", "*")
	v := decode[accountJSON](ana.do("GET", "/accounts/ana", nil).want(200, "")).Version
	ana.transfer(body, "If-Match", fmt.Sprintf(`"v%d"`, v))
	ana.do("POST", "/transfers", body, "If-Match", fmt.Sprintf(`"v%d"`, v)).want(412, "precondition-failed")
}

// TestEntityTags: an account's tag changes with it, and spares sending it again.
func TestEntityTags(t *testing.T) {
	p := start(t)
	ana := p.as("ana")
	ana.account("ana", 1000)
	ana.account("bo", 0)
	first := ana.do("GET", "/accounts/ana", nil).want(200, "").header.Get("ETag")
	for _, header := range []string{first, "W/" + first, `"x", ` + first, "*"} {
		if a := ana.do("GET", "/accounts/ana", nil, "If-None-Match", header).want(304, ""); a.header.Get("ETag") != first || a.body != "" {
			t.Errorf("If-None-Match %s: %v %q", header, a.header, a.body)
		}
	}
	ana.transfer(object{"from": "ana", "to": "bo", "amount": won(1), "hold": true})
	second := ana.do("GET", "/accounts/ana", nil, "If-None-Match", first).want(200, "").header.Get("ETag")
	changed := ana.do("PATCH", "/accounts/ana", `{"limits":{"per_day":5}}`, "If-Match", second, "Idempotency-Key", "p").want(200, "")
	if third := changed.header.Get("ETag"); third == second || third == first || first == second {
		t.Errorf("tags %s, %s, %s: want three", first, second, third)
	}
	if v := decode[accountJSON](changed); v.Limits["per_day"] != "5" {
		t.Errorf("changed = %+v", v)
	}
	if again := ana.do("PATCH", "/accounts/ana", `{"limits":{"per_day":"5"}}`, "If-Match", second, "Idempotency-Key", "p").want(200, ""); again.header.Get("Idempotency-Replayed") != "true" {
		t.Error("the same change under the same key is not replayed")
	}
	ana.do("PATCH", "/accounts/ana", `{"overdraft":true}`, "If-Match", second).want(412, "precondition-failed")
	free := decode[accountJSON](ana.do("PATCH", "/accounts/ana", `{"limits":{"per_day":null}}`).want(200, ""))
	if len(free.Limits) != 0 {
		t.Errorf("limits after null: %v", free.Limits)
	}
}
