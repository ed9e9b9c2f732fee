package services

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"dongne/maelstrom/services/books"
)

const (
	batchMax      = 8
	expiryLeast   = time.Second
	expiryMost    = 4 * time.Second
	matchOneIn    = 8 // payments of which one is made only if the payer's account has not changed
	excessiveIn   = 4 // batches of which one has an item that nobody can pay
	excessiveSum  = 1_000_000
	payPageSize   = 100
	splitLegsMost = 3
	nobodyOneIn   = 10 // payments between shards of which one is to an account that nobody opens
	takeBackOneIn = 2  // voids of which one is of a transfer on its way between shards
)

// A sum is money as requests have it.
func sum(amount int) map[string]string {
	return map[string]string{"amount": fmt.Sprint(amount), "currency": currency}
}

func wallet(i int) string { return fmt.Sprint("a", i) }

// open opens the accounts, and pays something in.
func (p *payer) open(ctx context.Context) error {
	accounts := []map[string]any{{"id": bank, "kind": "asset"}, {"id": hot}, {"id": overdrawer, "overdraft": true}}
	deposits := map[string]int{hot: hotBalance}
	for i := range walletsCount {
		accounts = append(accounts, map[string]any{"id": wallet(i)})
		deposits[wallet(i)] = walletBalance
	}
	var all []*books.Request
	for _, a := range accounts {
		a["currency"] = currency
		all = append(all, p.request(books.AccountsPath, a))
	}
	for _, id := range sorted(deposits) {
		all = append(all, p.request(books.TransfersPath, map[string]any{"from": bank, "to": id, "amount": sum(deposits[id]), "memo": p.memo(len(all))}))
	}
	for i, q := range all {
		q.Key = fmt.Sprintf("set-up-%d", i)
		p.pursue(ctx, q)
		p.later = nil
		for q.Decision() == books.Open || q.Decision() == books.Never {
			if !p.once(ctx, q, requestMax) && !pauseFor(ctx, againMax) {
				return fmt.Errorf("%s: %d attempts without a final answer: %w", q, q.Unsure+q.Declined, context.Cause(ctx))
			}
		}
		if q.Decision() != books.Applied {
			return fmt.Errorf("%s: %d %.200s", q, q.Answers[0].Status, q.Answers[0].Body)
		}
	}
	return nil
}

// request makes one with a key of its own.
func (p *payer) request(path string, body any) *books.Request {
	return &books.Request{User: p.client.user, Key: fmt.Sprintf("%s-%d", p.client.user, len(p.requests)), Method: http.MethodPost, Path: path, Body: toJSON(body)}
}

// memo is another for each payment of a run.
func (p *payer) memo(i int) string { return fmt.Sprintf("%s-%d/%d", p.client.user, len(p.requests), i) }

func (p *payer) amount() int { return 1 + p.rand.IntN(paymentMax) }

// account draws one, every second time the hot one.
func (p *payer) account() string {
	switch n := p.rand.IntN(2 * (walletsCount + 1)); {
	case n < walletsCount:
		return wallet(n)
	case n == walletsCount:
		return overdrawer
	}
	return hot
}

// pair draws two accounts.
func (p *payer) pair() (from, to string) {
	for from, to = p.account(), p.account(); from == to; {
		to = p.account()
	}
	return from, to
}

// draw makes the next request; nil if there is nothing to do it with.
func (p *payer) draw(what int) *books.Request {
	do := func(id, what string, body any) *books.Request {
		if id == "" {
			return nil
		}
		return p.request("/transfers/"+id+"/"+what, body)
	}
	switch {
	case what < 46:
		return p.payment()
	case what < 51:
		return p.request(books.TransfersPath, p.split())
	case what < 54:
		_, to := p.pair()
		return p.request(books.TransfersPath, map[string]any{"from": bank, "to": to, "amount": sum(p.amount()), "memo": p.memo(0)})
	case what < 67:
		return p.request(books.TransfersPath, p.hold(0))
	case what < 76:
		return do(p.market.hold(p.rand), "capture", p.capture())
	case what < 80:
		if p.sharded && p.rand.IntN(takeBackOneIn) == 0 {
			return do(p.market.newest(), "void", map[string]any{})
		}
		return do(p.market.hold(p.rand), "void", map[string]any{})
	case what < 86:
		return do(p.market.payment(p.rand), "refund", p.refund())
	case what < 90:
		from, _ := p.pair()
		return p.request(books.TransfersPath, map[string]any{"from": from, "amount": sum(p.amount()), "recipient": "somebody", "memo": p.memo(0)})
	case what < 94:
		if p.rand.IntN(3) == 0 {
			return do(p.market.claim(p.rand), "void", map[string]any{})
		}
		return do(p.market.claim(p.rand), "claim", map[string]any{"account": p.account()})
	case what < 99:
		return p.request(books.BatchPath, map[string]any{"items": p.batch()})
	}
	return p.request(books.AccountsPath, map[string]any{"id": fmt.Sprint("x", p.rand.IntN(openedMax)), "currency": currency})
}

func (p *payer) payment() *books.Request {
	from, to := p.pair()
	if p.sharded && p.rand.IntN(nobodyOneIn) == 0 {
		to = fmt.Sprint(books.NobodyPrefix, p.rand.IntN(openedMax))
	}
	q := p.request(books.TransfersPath, map[string]any{"from": from, "to": to, "amount": sum(p.amount()), "memo": p.memo(0)})
	if version, known := p.versions[from]; known && p.rand.IntN(matchOneIn) == 0 {
		q.IfMatch = fmt.Sprintf(`"v%d"`, version)
	}
	return q
}

// split pays several, and one of them is the hot account or pays.
func (p *payer) split() map[string]any {
	from, _ := p.pair()
	legs, total := []map[string]any{}, 0
	for range splitLegsMost {
		to := p.account()
		if to == from || len(legs) > 0 && legs[len(legs)-1]["account"] == to || len(legs) > 1 && legs[0]["account"] == to {
			continue
		}
		amount := p.amount()
		total += amount
		legs = append(legs, map[string]any{"account": to, "amount": sum(amount)})
	}
	if len(legs) == 0 {
		legs, total = append(legs, map[string]any{"account": bank, "amount": sum(1)}), 1
	}
	legs = append(legs, map[string]any{"account": from, "amount": sum(-total)})
	return map[string]any{"legs": legs, "memo": p.memo(0)}
}

func (p *payer) hold(i int) map[string]any {
	from, to := p.pair()
	hold := map[string]any{"from": from, "to": to, "amount": sum(p.amount()), "hold": true, "memo": p.memo(i)}
	if p.expiryOneIn > 0 && p.rand.IntN(p.expiryOneIn) == 0 {
		at := time.Now().Add(between(p.rand, expiryLeast, expiryMost))
		p.market.expires(at)
		hold["expires_at"] = at.UTC().Format(time.RFC3339Nano)
	}
	return hold
}

// capture takes all, or a part; and the rest is voided or stays.
func (p *payer) capture() map[string]any {
	if p.rand.IntN(2) == 0 {
		return map[string]any{}
	}
	c := map[string]any{"amount": sum(1 + p.rand.IntN(paymentMax/2))}
	if p.rand.IntN(2) == 0 {
		c["final"] = true
	}
	return c
}

// refund gives everything back, or a part.
func (p *payer) refund() map[string]any {
	if p.rand.IntN(2) == 0 {
		return map[string]any{}
	}
	return map[string]any{"amount": sum(1 + p.rand.IntN(paymentMax/2))}
}

// batch is of payments and holds, some of them linked.
func (p *payer) batch() []map[string]any {
	n := 2 + p.rand.IntN(batchMax-1)
	items := make([]map[string]any, n)
	for i := range items {
		from, to := p.pair()
		items[i] = map[string]any{"from": from, "to": to, "amount": sum(p.amount()), "memo": p.memo(i)}
		if p.rand.IntN(4) == 0 {
			items[i] = p.hold(i)
		}
		if i < n-1 && p.rand.IntN(3) == 0 {
			items[i]["linked"] = true
		}
	}
	if p.rand.IntN(excessiveIn) == 0 {
		items[p.rand.IntN(n)]["amount"] = sum(excessiveSum)
	}
	return items
}
