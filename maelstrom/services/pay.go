package services

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"dongne/internal/sim"
	"dongne/maelstrom/edn"
	"dongne/maelstrom/services/books"
)

const (
	currency      = "KRW"
	bank          = "bank" // an asset: what it pays comes from outside
	hot           = "hot"  // one party of half of all payments
	walletsCount  = 5
	openedMax     = 40   // accounts that clients open during the run, several clients each
	hotBalance    = 5000 // at first
	walletBalance = 1000
	paymentMax    = 300 // so payments are refused now and then
	overdrawer    = "overdrawn"
	pollMin       = 50 * time.Millisecond // between two polls of the events
	pollMax       = 400 * time.Millisecond
	finalMax      = 10 * time.Second // for one answer, once all has healed
	replaysMax    = 250              // of one client's requests that are asked once more at the end
	finalsAtOnce  = 8                // requests of one node at the end
	expiryGrace   = time.Second      // after the last hold's time was over
)

// payments is the load of pay.
type payments struct {
	*run
	client      func(user string) *client
	names       []string // of the nodes
	market      *market
	expiryOneIn int // see payer
	payers      []*payer
	followers   []*follower
	watching    context.CancelFunc
	watched     sync.WaitGroup
	history     books.History
	unsettled   int // requests that were open when all had healed
}

func newPay(r *run) load {
	p := &payments{run: r, names: r.cluster.names, market: newMarket(), expiryOneIn: 5, watching: func() {}}
	p.client = func(user string) *client { return newClient(r.cluster, user) }
	return p
}

func (p *payments) env(string) []string { return []string{fmt.Sprint("SHARDS=", p.Shards)} }

// setUp opens the accounts and pays the first money in, and lets the events be followed.
func (p *payments) setUp(ctx context.Context) error {
	limited, cancel := context.WithTimeoutCause(ctx, setupMax, fmt.Errorf("no node takes them within %v", setupMax))
	defer cancel()
	p.newClients()
	if err := p.payers[0].open(limited); err != nil {
		return fmt.Errorf("open the accounts: %w", err)
	}
	ctx, p.watching = context.WithCancel(ctx)
	for _, f := range p.followers {
		p.watched.Go(func() { f.run(ctx) })
	}
	return nil
}

func (p *payments) newClients() {
	step := p.Concurrency + p.Readers
	for i := range p.Concurrency {
		user := fmt.Sprintf("w%d", i)
		p.payers = append(p.payers, &payer{
			process: process{record: p.record, number: i, step: step}, client: p.client(user), rand: sim.Stream(p.Seed, user), at: i % len(p.names),
			patience: p.Patience, gap: time.Duration(float64(p.Concurrency) / p.Rate * float64(time.Second)), market: p.market, expiryOneIn: p.expiryOneIn, sharded: p.Shards > 1, versions: map[string]int{},
		})
	}
	for i := range p.Readers {
		user := fmt.Sprintf("r%d", i)
		p.followers = append(p.followers, &follower{
			process: process{record: p.record, number: p.Concurrency + i, step: step}, client: p.client(user), rand: sim.Stream(p.Seed, user), at: i % len(p.names), market: p.market,
		})
	}
}

func (p *payments) each(do func(*payer)) {
	var working sync.WaitGroup
	for _, w := range p.payers {
		working.Go(func() { do(w) })
	}
	working.Wait()
}

func (p *payments) work(ctx context.Context) { p.each(func(w *payer) { w.run(ctx) }) }

// settle has every request answered that is still open, and waits until all nodes tell the same of all accounts.
func (p *payments) settle(ctx context.Context) time.Duration {
	began := p.record.now()
	limited, cancel := context.WithTimeout(ctx, p.Recovery)
	defer cancel()
	for _, w := range p.payers {
		p.unsettled += len(w.later)
	}
	p.each(func(w *payer) { w.finish(limited) })
	for agreed := 0; agreed < 2 && pauseFor(limited, lookEvery); {
		if agreed++; !p.agreed(limited) || p.Shards > 1 && !p.arrived(limited) {
			agreed = 0
		}
	}
	took := p.record.now() - began
	pauseFor(ctx, time.Until(p.market.lastExpiry())+expiryGrace) // what is to expire expires before the last look
	return took
}

func (p *payments) agreed(ctx context.Context) bool {
	var first []books.Account
	for i, name := range p.names {
		all := make([]books.Account, len(p.market.opened()))
		for k, id := range p.market.opened() {
			if p.payers[0].client.do(ctx, name, "GET", "/accounts/"+id, "", nil, &all[k]) != nil {
				return false
			}
		}
		if i == 0 {
			first = all
		} else if !equalJSON(first, all) {
			return false
		}
	}
	return true
}

// onTheWay are the metrics of transfers between shards that are not at their end.
var onTheWay = []string{"pay_settling{", "pay_unfinished{"}

// arrived says whether, as far as every node knows, nothing is on its way between shards.
func (p *payments) arrived(ctx context.Context) bool {
	for _, name := range p.names {
		asking, cancel := context.WithTimeout(ctx, requestMax)
		a, err := p.payers[0].client.exchange(asking, name, http.MethodGet, "/metrics", nil, nil)
		cancel()
		if err != nil || a.status != http.StatusOK || !noneLeft(string(a.body), p.Shards) {
			return false
		}
	}
	return true
}

// noneLeft says whether metrics tell of every shard that nothing is on its way.
func noneLeft(metrics string, shards int) bool {
	told := 0
	for line := range strings.Lines(metrics) {
		if !slices.ContainsFunc(onTheWay, func(name string) bool { return strings.HasPrefix(line, name) }) {
			continue
		}
		if told++; !strings.HasSuffix(strings.TrimSpace(line), " 0") {
			return false
		}
	}
	return told == shards*len(onTheWay)
}

func equalJSON(a, b any) bool { return string(toJSON(a)) == string(toJSON(b)) }

// observe asks for many of the requests once more, and then every node for all that it knows.
func (p *payments) observe(ctx context.Context) {
	p.stop()
	p.each(func(w *payer) { w.repeat(ctx) })
	for _, w := range p.payers {
		p.history.Requests = append(p.history.Requests, w.requests...)
		p.history.Reads = append(p.history.Reads, w.reads...)
		p.history.Pages = append(p.history.Pages, w.pages...)
	}
	slices.SortStableFunc(p.history.Requests, func(a, b *books.Request) int { return cmp.Compare(a.Asked, b.Asked) })
	for _, f := range p.followers {
		p.history.Polls = append(p.history.Polls, f.polls...)
	}
	for i, name := range p.names {
		look := &look{client: p.payers[0].client, node: name, process: process{record: p.record, number: p.record.fresh() + i, final: true}}
		p.history.Views = append(p.history.Views, look.everything(ctx, p.market.opened()))
	}
}

func (p *payments) stop() {
	p.watching()
	p.watched.Wait()
	for _, w := range p.payers {
		w.client.http.CloseIdleConnections()
	}
	for _, f := range p.followers {
		f.client.http.CloseIdleConnections()
	}
}

func (p *payments) judge(recovery time.Duration) judgement {
	var count struct{ acknowledged, refused, never, open, unsure, replays int }
	var latencies []time.Duration
	by := map[string]int{}
	for _, r := range p.history.Requests {
		switch r.Decision() {
		case books.Applied:
			count.acknowledged++
			by[kindOf(r)]++
		case books.Refused:
			count.refused++
		case books.Never:
			count.never++
		case books.Open:
			count.open++
		}
		if len(r.Answers) > 0 {
			latencies = append(latencies, r.Answers[0].At-r.Asked)
			if count.replays += len(r.Answers) - 1; r.Unsure > 0 {
				count.unsure++
			}
		}
	}
	slices.Sort(latencies)
	fields := edn.Map{}.With("requests", len(p.history.Requests)).With("acknowledged", count.acknowledged).With("refused", count.refused).
		With("declined", count.never).With("unknown-then-resolved", count.unsure).With("resolved-at-the-end", p.unsettled).With("open", count.open).
		With("replays", count.replays).With("reads", len(p.history.Reads)).With("statements", len(p.history.Pages)).With("polls", len(p.history.Polls))
	for _, kind := range sorted(by) {
		fields = fields.With("acknowledged-"+kind, by[kind])
	}
	if len(p.history.Views) > 0 {
		fields = fields.With("events", len(p.history.Views[0].Events))
		if p.Shards > 1 {
			began, aborted := books.Crossings(p.history.Views[0].Events)
			fields = fields.With("between-shards", began).With("aborted", aborted)
		}
	}
	return judgement{acknowledged: count.acknowledged, wrong: books.Check(&p.history),
		fields: fields.With("recovery-ms", milliseconds(recovery)).With("ack-latencies", quantiles(latencies))}
}

// kindOf names what a request asks for.
func kindOf(r *books.Request) string {
	var made struct{ Kind, Status string }
	switch json.Unmarshal(r.Answers[0].Body, &made); {
	case r.Path == books.AccountsPath:
		return "account"
	case r.Path == books.BatchPath:
		return "batch"
	case strings.HasSuffix(r.Path, "/void") && made.Status == "failed":
		return "cancel"
	}
	return made.Kind
}
