package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/internal/serve/servetest"

	"github.com/google/go-cmp/cmp"
)

// guarded is a service that takes tokens.
type guarded struct {
	*pay
	auth *servetest.Auth
}

func startGuarded(t *testing.T, env ...string) *guarded {
	t.Helper()
	auth := servetest.NewAuth(t)
	p := start(t, append(env, "AUTH_URL", auth.URL)...)
	servetest.AwaitReady(t, p.url)
	return &guarded{p, auth}
}

// as is a user with a token.
func (g *guarded) as(user string, scopes ...string) as {
	return as{pay: g.pay, user: user, token: g.auth.Token(user, scopes...)}
}

// fund opens an account of a user with so much in it.
func (g *guarded) fund(owner as, id string, amount int) {
	g.t.Helper()
	owner.do("POST", "/accounts", object{"id": id, "currency": "KRW"}).want(201, "")
	bank := g.as("bank", "pay:write")
	if bank.do("GET", "/accounts/vault", nil).status == 404 {
		bank.do("POST", "/accounts", object{"id": "vault", "currency": "KRW", "kind": "asset", "overdraft": true}).want(201, "")
	}
	if amount > 0 {
		bank.transfer(object{"from": "vault", "to": id, "amount": won(amount)})
	}
}

// TestStrictRoutes: whatever changes something is refused while it is not known which tokens were revoked.
func TestStrictRoutes(t *testing.T) {
	s := service(nil)
	var changes []string
	for pattern := range maps.Keys(s.Routes) {
		if !strings.HasPrefix(pattern, "GET ") {
			changes = append(changes, pattern)
		}
	}
	slices.Sort(changes)
	if diff := cmp.Diff(changes, slices.Sorted(slices.Values(s.Strict))); diff != "" {
		t.Errorf("strict routes mismatch (-changes +strict):\n%s", diff)
	}
}

// TestWhoMayMove: a user moves what he owns, and a token with pay:write what anybody owns. What is not a user's business is
// not there for him, and no refusal tells him what stands in it.
func TestWhoMayMove(t *testing.T) {
	p := startGuarded(t)
	ana, bo, eve, bank, auditor := p.as("ana"), p.as("bo"), p.as("eve"), p.as("bank", "pay:write"), p.as("audit", "pay:read")
	p.fund(ana, "ana", 1000)
	p.fund(bo, "bo", 100)
	p.fund(eve, "eve", 10)
	hold := ana.transfer(object{"from": "ana", "to": "bo", "amount": won(100), "hold": true}).ID
	kept := ana.transfer(object{"from": "ana", "amount": won(50), "recipient": "bo"}).ID
	paid := ana.transfer(object{"from": "ana", "to": "bo", "amount": won(40)}).ID
	const most = "4611686018427387903"
	probe := func(amount string) object {
		return object{"legs": []object{{"account": "ana", "amount": won(amount)}, {"account": "eve", "amount": won("-" + amount)}}}
	}
	for _, test := range []struct {
		as           as
		method, path string
		body         any
		status       int
		code         string
	}{
		{ana, "POST", "/accounts", object{"currency": "KRW", "kind": "asset"}, 403, "forbidden"},
		{ana, "POST", "/accounts", object{"currency": "KRW", "overdraft": true}, 403, "forbidden"},
		{auditor, "POST", "/accounts", object{"currency": "KRW", "kind": "asset"}, 403, "forbidden"},
		{eve, "POST", "/transfers", object{"from": "ana", "to": "eve", "amount": won(1)}, 403, "forbidden"},
		{eve, "POST", "/transfers", object{"from": "vault", "to": "eve", "amount": won(1)}, 403, "forbidden"},
		{auditor, "POST", "/transfers", object{"from": "ana", "to": "eve", "amount": won(1)}, 403, "forbidden"},
		{eve, "POST", "/transfers", object{"from": "ana", "to": "eve", "amount": won(1), "hold": true}, 403, "forbidden"},
		{eve, "POST", "/transfers", object{"from": "ana", "amount": won(1), "recipient": "eve"}, 403, "forbidden"},
		{eve, "POST", "/transfers", object{"legs": []object{{"account": "eve", "amount": won(2)}, {"account": "ana", "amount": won(-2)}}}, 403, "forbidden"},
		{eve, "POST", "/transfers", probe(most), 409, "insufficient-funds"}, // and not what ana has
		{eve, "PATCH", "/accounts/ana", `{"closed":true}`, 404, "account-unknown"},
		{eve, "PATCH", "/accounts/nobody", `{"closed":true}`, 404, "account-unknown"},
		{ana, "PATCH", "/accounts/ana", `{"overdraft":true}`, 403, "forbidden"},
		{ana, "PATCH", "/accounts/ana", `{"limits":{"per_day":1}}`, 403, "forbidden"},
		{ana, "PATCH", "/accounts/ana", `{"closed":true}`, 409, "account-not-empty"},
		{ana, "POST", "/transfers/" + hold + "/capture", object{}, 403, "forbidden"}, // it is bo's to take
		{ana, "POST", "/transfers/" + hold + "/void", object{}, 403, "forbidden"},
		{eve, "POST", "/transfers/" + hold + "/capture", object{}, 404, "transfer-unknown"},
		{eve, "POST", "/transfers/" + hold + "/void", object{}, 404, "transfer-unknown"},
		{eve, "POST", "/transfers/" + paid + "/refund", object{"amount": won(41)}, 404, "transfer-unknown"},
		{eve, "POST", "/transfers/" + paid + "/refund", object{"amount": won(40)}, 404, "transfer-unknown"},
		{auditor, "POST", "/transfers/" + paid + "/refund", object{}, 404, "transfer-unknown"},
		{ana, "POST", "/transfers/" + paid + "/refund", object{}, 403, "forbidden"},
		{eve, "POST", "/transfers/" + kept + "/claim", object{"account": "eve"}, 404, "transfer-unknown"},
		{ana, "POST", "/transfers/" + kept + "/claim", object{"account": "ana"}, 403, "forbidden"},
		{bo, "POST", "/transfers/" + kept + "/void", object{}, 403, "forbidden"},
		{ana, "POST", "/webhooks", object{"url": "http://127.0.0.1:1/"}, 403, "scope-missing"},
		{auditor, "POST", "/webhooks", object{"url": "http://127.0.0.1:1/"}, 403, "scope-missing"},
		{ana, "POST", "/webhooks/x/enable", nil, 403, "scope-missing"},
		{ana, "POST", "/webhooks/x/rotate", nil, 403, "scope-missing"},
		{ana, "DELETE", "/webhooks/x", nil, 403, "scope-missing"},
		{p.pay.as("ana"), "POST", "/transfers", object{"from": "ana", "to": "bo", "amount": won(1)}, 401, "unauthenticated"},
		{as{pay: p.pay, token: ana.token + "x"}, "POST", "/accounts", object{"currency": "KRW"}, 401, "token-invalid"},

		{ana, "GET", "/accounts/bo", nil, 404, "account-unknown"},
		{ana, "GET", "/accounts/nobody", nil, 404, "account-unknown"},
		{ana, "GET", "/accounts/@claims.KRW.0", nil, 404, "account-unknown"},
		{ana, "GET", "/accounts/bo/entries", nil, 404, "account-unknown"},
		{ana, "GET", "/accounts?owner=bo", nil, 403, "scope-missing"},
		{eve, "GET", "/transfers/" + hold, nil, 404, "transfer-unknown"},
		{eve, "GET", "/transfers/" + kept, nil, 404, "transfer-unknown"},
		{ana, "GET", "/webhooks", nil, 403, "scope-missing"},
		{auditor, "GET", "/webhooks", nil, 403, "scope-missing"},
		{p.pay.as("ana"), "GET", "/accounts/ana", nil, 401, "unauthenticated"},
		{p.pay.as("ana"), "GET", "/events", nil, 401, "unauthenticated"},
	} {
		a := test.as.do(test.method, test.path, test.body)
		a.what += fmt.Sprintf(" %v as %s", test.body, test.as.user)
		a.want(test.status, test.code)
		if test.method != "GET" && a.problem().Outcome != "not_applied" {
			t.Errorf("%s: %s", a.what, a.body)
		}
	}
	bank.wantBalances("ana", "910 100 810", "bo", "140 0 140", "eve", "10 0 10")

	// What they may.
	for _, one := range []as{ana, bo, bank, auditor} {
		one.do("GET", "/transfers/"+hold, nil).want(200, "")
		one.do("GET", "/transfers/"+kept, nil).want(200, "") // bo, since it is kept for him
	}
	auditor.do("GET", "/accounts/ana/entries", nil).want(200, "")
	bo.do("POST", "/transfers/"+hold+"/capture", object{"amount": won(30)}).want(201, "")
	void := decode[transferJSON](bo.do("POST", "/transfers/"+hold+"/void", object{}).want(201, "")).ID
	ana.do("GET", "/transfers/"+void, nil).want(200, "") // as it is about her hold, though no leg is hers
	eve.do("GET", "/transfers/"+void, nil).want(404, "transfer-unknown")
	bo.do("POST", "/transfers/"+paid+"/refund", object{"amount": won(5)}).want(201, "")
	bank.do("POST", "/transfers/"+paid+"/refund", object{}).want(201, "")
	bo.do("POST", "/transfers/"+kept+"/claim", object{"account": "bo"}).want(201, "")
	bank.transfer(object{"from": "ana", "to": "eve", "amount": won(1)})
	bank.do("PATCH", "/accounts/ana", `{"limits":{"per_day":"100000"}}`).want(200, "")
	bank.do("POST", "/webhooks", object{"url": p.url + "/nowhere", "types": []string{"none"}}).want(201, "")
	bank.wantBalances("ana", "919 0 919", "bo", "180 0 180", "eve", "11 0 11")
	eve.transfer(object{"from": "eve", "to": "ana", "amount": won(11)})
	eve.do("PATCH", "/accounts/eve", `{"closed":true}`).want(200, "") // its owner may, when it is empty
}

// TestBatchOfAUser: each item is judged as if it came alone.
func TestBatchOfAUser(t *testing.T) {
	p := startGuarded(t)
	ana, bo := p.as("ana"), p.as("bo")
	p.fund(ana, "ana", 1000)
	p.fund(bo, "bo", 0)
	items := []object{
		{"from": "ana", "to": "bo", "amount": won(10)}, {"from": "bo", "to": "ana", "amount": won(1)},
		{"from": "ana", "to": "bo", "amount": won(5), "linked": true}, {"from": "vault", "to": "ana", "amount": won(5)},
	}
	got := codes(decode[pageOf[batchJSON]](ana.batch(items)).Items)
	if want := "201, 403 forbidden, 409 linked-failed, 403 forbidden"; got != want {
		t.Errorf("a user's batch = %s, want %s", got, want)
	}
	if got := codes(decode[pageOf[batchJSON]](p.as("bank", "pay:write").batch(items)).Items); got != "201, 201, 201, 201" {
		t.Errorf("the same with pay:write = %s", got)
	}
}

// TestHoldBetweenShards: who is to receive a hold takes it, also when his account is of another shard than the payer's.
func TestHoldBetweenShards(t *testing.T) {
	p := startGuarded(t, "SHARDS", "3")
	ana, bo, eve := p.as("ana"), p.as("bo"), p.as("eve")
	accounts := []string{"a", "b", "c", "d", "e", "f"}
	p.fund(ana, "from", 1000)
	for _, id := range accounts {
		p.fund(bo, id, 0)
		for range 2 {
			hold := ana.transfer(object{"from": "from", "to": id, "amount": won(10), "hold": true}).ID
			for _, path := range []string{"/capture", "/void"} {
				eve.do("POST", "/transfers/"+hold+path, object{}).want(404, "transfer-unknown")
				ana.do("POST", "/transfers/"+hold+path, object{}).want(403, "forbidden")
			}
			bo.do("GET", "/transfers/"+hold, nil).want(200, "")
			bo.do("POST", "/transfers/"+hold+"/capture", object{"amount": won(4)}).want(201, "")
			bo.do("POST", "/transfers/"+hold+"/void", object{}).want(201, "")
		}
		bo.wantBalances(id, "8 0 8")
	}
}

// TestOwnAccounts: the list of accounts has the caller's own, page by page; with pay:read everybody's.
func TestOwnAccounts(t *testing.T) {
	p := startGuarded(t, "SHARDS", "3")
	want := map[string][]string{}
	for i := range 40 {
		user := []string{"ana", "bo"}[i%2]
		id := fmt.Sprintf("%s-%d", user, i)
		p.as(user).do("POST", "/accounts", object{"id": id, "currency": "KRW"}).want(201, "")
		want[user] = append(want[user], id)
	}
	list := func(who as, query string, limit int) (ids []string) {
		for cursor := ""; ; {
			page := decode[pageOf[accountJSON]](who.do("GET", fmt.Sprintf("/accounts?limit=%d&cursor=%s%s", limit, cursor, query), nil).want(200, ""))
			for _, a := range page.Items {
				ids = append(ids, a.ID)
			}
			if cursor = page.Next; cursor == "" {
				slices.Sort(ids)
				return ids
			}
		}
	}
	all := slices.Sorted(slices.Values(slices.Concat(want["ana"], want["bo"])))
	slices.Sort(want["ana"])
	for _, limit := range []int{1, 3, 20, 500} {
		for _, test := range []struct {
			as    as
			query string
			want  []string
		}{
			{p.as("ana"), "", want["ana"]}, {p.as("ana"), "&owner=ana", want["ana"]}, {p.as("eve"), "", nil},
			{p.as("audit", "pay:read"), "", all}, {p.as("bank", "pay:write"), "&owner=ana", want["ana"]},
		} {
			if diff := cmp.Diff(test.want, list(test.as, test.query, limit)); diff != "" {
				t.Errorf("accounts of %s%s by %d mismatch (-want +got):\n%s", test.as.user, test.query, limit, diff)
			}
		}
	}
	p.stop()
	p.open()
	servetest.AwaitReady(t, p.url)
	if diff := cmp.Diff(want["ana"], list(p.as("ana"), "", 7)); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
}

// concern says by the rule alone whether an event is a user's business.
func concern(e map[string]any, user string, owner map[string]string, before map[string]bool) bool {
	data := e["data"].(map[string]any)
	legs, transfer := data["legs"].([]any)
	if !transfer {
		return data["owner"] == user
	}
	if data["by"] == user || data["recipient"] == user || before[fmt.Sprint(data["parent"])] {
		return true
	}
	return slices.ContainsFunc(legs, func(leg any) bool { return owner[fmt.Sprint(leg.(map[string]any)["account"])] == user })
}

// TestEventsOfAUser: whatever happens, a user's events are those of the whole outbox that are his business, in its order,
// however they are asked for.
func TestEventsOfAUser(t *testing.T) {
	for _, shards := range []string{"1", "3"} {
		t.Run(shards, func(t *testing.T) {
			const seed = 7
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 0))
			p := startGuarded(t, "SHARDS", shards)
			users, owner := []string{"ana", "bo", "chae", "dan"}, map[string]string{"vault": "bank"}
			streams := map[string]*sse{}
			for _, user := range users {
				streams[user] = p.as(user).stream("")
				for i := range 2 {
					id := fmt.Sprintf("%s-%d", user, i)
					owner[id] = user
					p.fund(p.as(user), id, 10_000)
				}
			}
			traffic(p, rng, slices.Sorted(maps.Keys(owner)), users)
			whole, end := drainEvents(p.as("audit", "pay:read"), 500)
			for _, user := range append(users, "eve", "bank") {
				var want []string
				mine := map[string]bool{}
				for _, e := range whole {
					if concern(e, user, owner, mine) {
						want = append(want, fmt.Sprint(e["id"]))
						mine[fmt.Sprint(e["subject"])] = true
					}
				}
				if user == "eve" != (len(want) == 0) || len(want) == len(whole) {
					t.Fatalf("%s has %d events of %d: this tests nothing", user, len(want), len(whole))
				}
				for _, limit := range []int{1, 7, 500} {
					got, last := drainEvents(p.as(user), limit)
					if diff := cmp.Diff(want, ids(got)); diff != "" || last != end {
						t.Errorf("events of %s by %d end at %s, want %s, mismatch (-want +got):\n%s", user, limit, last, end, diff)
					}
				}
				if streams[user] != nil {
					streamed(t, p.as(user), streams[user], want)
				}
			}
		})
	}
}

// streamed compares a stream from the beginning with what is wanted, and one that resumes in its middle.
func streamed(t *testing.T, who as, s *sse, want []string) {
	t.Helper()
	for i, id := range want {
		e, position := s.event()
		if e.ID != id {
			t.Fatalf("event %d on %s's stream is %s, want %s", i, who.user, e.ID, id)
		}
		if i == len(want)/2 && i+1 < len(want) {
			again := who.stream("", "Last-Event-ID", position)
			if e, _ := again.event(); e.ID != want[i+1] {
				t.Errorf("%s's stream behind %s goes on with %s, want %s", who.user, position, e.ID, want[i+1])
			}
			again.close()
		}
	}
}

// traffic moves money to and fro, in every way that there is.
func traffic(p *guarded, rng *rand.Rand, accounts, users []string) {
	bank := p.as("bank", "pay:write")
	var made []string
	bank.do("PATCH", "/accounts/"+accounts[0], `{"limits":{"per_day":"1000000"}}`).want(200, "")
	for range 150 {
		from, to := accounts[rng.IntN(len(accounts))], accounts[rng.IntN(len(accounts))]
		body := object{"from": from, "to": to, "amount": won(1 + rng.IntN(50))}
		path := "/transfers"
		switch kind := rng.IntN(8); {
		case kind == 0:
			body["hold"] = true
		case kind == 1:
			delete(body, "to")
			body["recipient"] = users[rng.IntN(len(users))]
		case kind == 2:
			body = object{"legs": []object{{"account": from, "amount": won(-5)}, {"account": to, "amount": won(3)}, {"account": "vault", "amount": won(2)}}}
		case kind > 4 && len(made) > 0:
			path += "/" + made[rng.IntN(len(made))] + []string{"/capture", "/void", "/refund", "/claim"}[rng.IntN(4)]
			if body = (object{}); strings.HasSuffix(path, "claim") {
				body["account"] = to
			}
		}
		who := bank
		if rng.IntN(2) == 0 {
			who = p.as(users[rng.IntN(len(users))])
		}
		if a := who.do("POST", path, body); a.status == 201 && path == "/transfers" { // a refusal makes no event
			made = append(made, decode[transferJSON](a).ID)
		}
	}
}

// drainEvents reads page after page until they stand still, and says where.
func drainEvents(who as, limit int) (events []map[string]any, end string) {
	who.pay.t.Helper()
	for after := ""; ; {
		page := decode[pageOf[map[string]any]](who.do("GET", fmt.Sprintf("/events?limit=%d&after=%s", limit, after), nil).want(200, ""))
		events = append(events, page.Items...)
		if page.Next == after {
			return events, after
		}
		after = page.Next
	}
}

func ids(events []map[string]any) (all []string) {
	for _, e := range events {
		all = append(all, fmt.Sprint(e["id"]))
	}
	return all
}

// TestMuchElse: where much happens that is none of a user's business, pages are empty and move on, and a stream comes through.
func TestMuchElse(t *testing.T) {
	p := startGuarded(t)
	ana, eve := p.as("ana"), p.as("eve")
	p.fund(ana, "ana", 10_000)
	for range 3 {
		var items []object
		for range 900 {
			items = append(items, object{"from": "ana", "to": "vault", "amount": won(1)})
		}
		ana.batch(items)
	}
	p.fund(eve, "eve", 0)
	after, pages := "", 0
	for {
		page := decode[pageOf[eventJSON]](eve.do("GET", "/events?limit=1&after="+after, nil).want(200, ""))
		pages++
		if len(page.Items) > 0 {
			if page.Items[0].Subject != "eve" {
				t.Errorf("eve is told of %+v", page.Items[0])
			}
			break
		}
		if page.Next == after || pages > 20 {
			t.Fatalf("page %d is empty and stands at %q", pages, page.Next)
		}
		after = page.Next
	}
	if pages < 3 {
		t.Errorf("found after %d pages: this tests nothing", pages)
	}
	if e, _ := eve.stream("?after=0").event(); e.Subject != "eve" {
		t.Errorf("eve's stream begins with %+v", e)
	}
}

// TestStreamOfARevokedSession: it ends with a last event; with a new token the client resumes behind what it has seen.
func TestStreamOfARevokedSession(t *testing.T) {
	p := startGuarded(t)
	ana := p.as("ana")
	p.fund(ana, "ana", 10)
	s := ana.stream("?after=0")
	_, position := s.event()
	revoked := time.Now()
	p.auth.Revoke(servetest.SessionOf("ana"))
	for {
		e, more := s.next()
		if !more {
			t.Fatal("the stream ends without a last event")
		}
		if e.name == "bye" {
			break
		}
	}
	t.Logf("%v from the revocation to the last event", time.Since(revoked))
	if _, more := s.next(); more {
		t.Error("something comes behind the last event")
	}
	ana.do("GET", "/accounts/ana", nil).want(401, "token-invalid")
	fresh := p.as("ana2")
	fresh.do("GET", "/accounts/ana", nil).want(404, "account-unknown")
	again := p.as("bank", "pay:write").stream("", "Last-Event-ID", position)
	e, _ := again.event()
	if text, err := json.Marshal(e.Data); err != nil || !strings.Contains(string(text), "vault") {
		t.Errorf("behind %s comes %s, %v", position, text, err)
	}
}
