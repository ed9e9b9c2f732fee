package services

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"dongne/maelstrom/history"
	"dongne/maelstrom/services/books"
)

const (
	laterOneIn  = 4 // failed attempts after which a client does something else first
	declineIn   = 2 // attempts that were declined after which it gives a request up
	resumeOneIn = 6 // operations of which one goes on with such a request
	repeatOneIn = 15
)

// A payer asks pay to move money, with a key each, until there is a final answer.
type payer struct {
	process
	client   *client
	rand     *rand.Rand
	gap      time.Duration // mean time from one operation to the next
	patience time.Duration // least wait for an answer, before it is asked for elsewhere; requestMax at most
	market   *market
	at       int // the node, by number
	// expiryOneIn so many holds one ends by its time; 0: none does.
	expiryOneIn int
	sharded     bool
	versions    map[string]int // of accounts, as far as it has read them

	requests []*books.Request // all
	later    []*books.Request // without a final answer; others may yet do them
	reads    []books.Read
	pages    []books.Page
}

// run works until ctx ends. What is under way then is waited for, for a while.
func (p *payer) run(ctx context.Context) {
	due := p.record.now()
	for {
		due = max(due+time.Duration(p.rand.Float64()*2*float64(p.gap)), p.record.now()) // what was missed is not made up for
		if !pauseFor(ctx, due-p.record.now()) {
			return
		}
		if p.rand.IntN(wanderOneIn) == 0 {
			p.at = p.rand.IntN(len(p.client.nodes))
		}
		switch what := p.rand.IntN(100); {
		case len(p.later) > 0 && p.rand.IntN(resumeOneIn) == 0:
			p.resume(ctx)
		case len(p.requests) > 0 && p.rand.IntN(repeatOneIn) == 0:
			p.again(ctx, p.requests[p.rand.IntN(len(p.requests))], requestMax)
		case what < 16:
			p.read(ctx, p.account())
		case what < 22:
			p.page(ctx, p.account())
		default:
			if q := p.draw(what); q != nil {
				p.pursue(ctx, q)
			}
		}
	}
}

// pursue asks until there is a final answer, or it has enough of it for now.
func (p *payer) pursue(ctx context.Context, q *books.Request) {
	p.requests = append(p.requests, q)
	end, asked := p.begin(opOf(q), named(q))
	q.Asked = asked
	node, err := "", error(nil)
	for i := range attemptsMax {
		if i > 0 {
			p.at = (p.at + 1) % len(p.client.nodes)
			if !pauseFor(ctx, between(p.rand, againMin, againMax)) {
				break
			}
		}
		node = p.client.nodes[p.at]
		if err = p.try(ctx, q, node, between(p.rand, p.patience, requestMax)); err == nil {
			p.conclude(q, node, end)
			return
		}
		if q.Unsure == 0 && p.rand.IntN(declineIn) == 0 {
			end(history.Fail, node, named(q), err)
			return // for good: every node that was asked said that it was not done
		}
		if p.rand.IntN(laterOneIn) == 0 {
			break
		}
	}
	p.later = append(p.later, q)
	end(history.Info, node, named(q), err)
}

// opOf is what a request is called in the history.
func opOf(q *books.Request) string {
	if q.Path == books.AccountsPath {
		return "open"
	}
	if q.Path == books.BatchPath {
		return "batch"
	}
	for i := len(q.Path) - 1; i > 0; i-- {
		if q.Path[i] == '/' {
			return q.Path[i+1:] // capture, void, refund, claim
		}
	}
	return "transfer"
}

func named(q *books.Request) any {
	return map[string]any{"key": q.Key, "body": json.RawMessage(q.Body)}
}

// conclude notes the final answer, and tells the others what can be done with it.
func (p *payer) conclude(q *books.Request, node string, end func(history.Type, string, any, error) time.Duration) {
	answer := q.Answers[0]
	if answer.Status/100 != 2 {
		end(history.Fail, node, named(q), problem(answer.Status, answer.Body))
		return
	}
	end(history.OK, node, json.RawMessage(answer.Body), nil)
	var made struct {
		books.Transfer
		Items []struct{ Transfer books.Transfer }
	}
	if json.Unmarshal(answer.Body, &made) != nil {
		return // the checks say so
	}
	if q.Path == books.AccountsPath {
		p.market.add(made.ID)
		return
	}
	p.market.learn(made.Kind, made.ID, made.Parent)
	for _, item := range made.Items {
		p.market.learn(item.Transfer.Kind, item.Transfer.ID, item.Transfer.Parent)
	}
}

// try asks one node once; nil: its answer is final. It waits so long, even if ctx ends.
func (p *payer) try(ctx context.Context, q *books.Request, node string, wait time.Duration) error {
	a, err := p.send(ctx, q, node, wait)
	if err != nil {
		q.Unsure++
		return err
	}
	final, unsure := books.Final(a.status, a.body)
	switch {
	case final:
		return nil
	case unsure:
		q.Unsure++
	default:
		q.Declined++
	}
	if a.status == http.StatusInternalServerError {
		q.Strange = append(q.Strange, fmt.Sprintf("%s answered 500 %.200s", node, a.body))
	}
	return problem(a.status, a.body)
}

// send notes the answer if it is final.
func (p *payer) send(ctx context.Context, q *books.Request, node string, wait time.Duration) (answer, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait)
	defer cancel()
	header := map[string]string{"Idempotency-Key": q.Key}
	if q.IfMatch != "" {
		header["If-Match"] = q.IfMatch
	}
	asked := p.record.now()
	a, err := p.client.exchange(ctx, node, q.Method, q.Path, header, json.RawMessage(q.Body))
	if err != nil {
		return a, err
	}
	if final, _ := books.Final(a.status, a.body); final {
		q.Answers = append(q.Answers, books.Answer{Node: node, Asked: asked, At: p.record.now(), Status: a.status, Body: a.body, Replayed: a.replayed})
	}
	return a, nil
}

// resume goes on with a request that was left open.
func (p *payer) resume(ctx context.Context) {
	i := p.rand.IntN(len(p.later))
	if q := p.later[i]; p.once(ctx, q, between(p.rand, p.patience, requestMax)) {
		p.later = append(p.later[:i:i], p.later[i+1:]...)
	}
}

// once asks for an open request one more time; false: it stays open.
func (p *payer) once(ctx context.Context, q *books.Request, wait time.Duration) bool {
	p.at = p.rand.IntN(len(p.client.nodes))
	node := p.client.nodes[p.at]
	end, _ := p.begin("retry "+opOf(q), named(q))
	if err := p.try(ctx, q, node, wait); err != nil {
		end(history.Info, node, named(q), err)
		return false
	}
	p.conclude(q, node, end)
	return true
}

// again asks for a request that has its answer: it must be the same. It says whether there was one.
func (p *payer) again(ctx context.Context, q *books.Request, wait time.Duration) bool {
	if len(q.Answers) == 0 {
		return true
	}
	node := p.client.nodes[p.rand.IntN(len(p.client.nodes))]
	end, _ := p.begin("repeat "+opOf(q), named(q))
	before := len(q.Answers)
	a, err := p.send(ctx, q, node, wait)
	switch {
	case err != nil:
		end(history.Fail, node, named(q), err)
	case len(q.Answers) == before:
		end(history.Fail, node, named(q), problem(a.status, a.body))
	default:
		end(history.OK, node, named(q), nil)
	}
	return len(q.Answers) > before
}

// finish asks for all open requests until they are answered, or ctx ends.
func (p *payer) finish(ctx context.Context) {
	for _, q := range p.later {
		for !p.once(ctx, q, finalMax) {
			if !pauseFor(ctx, between(p.rand, againMin, againMax)) {
				q.Unsure++ // whatever was said: it should have been done by now
				break
			}
		}
	}
}

// repeat asks for many of its requests once more, each until it is answered.
func (p *payer) repeat(ctx context.Context) {
	for _, i := range p.rand.Perm(len(p.requests))[:min(len(p.requests), replaysMax)] {
		for tries := 0; tries < attemptsMax && !p.again(ctx, p.requests[i], finalMax); tries++ {
			if !pauseFor(ctx, againMin) {
				return
			}
		}
	}
}

// get reads something, and says when it was asked and answered.
func (p *payer) get(ctx context.Context, f, path string, v any) (node string, asked, answered time.Duration, ok bool) {
	node = p.client.nodes[p.at]
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestMax)
	defer cancel()
	end, asked := p.begin(f, path)
	if err := p.client.do(ctx, node, http.MethodGet, path, "", nil, v); err != nil {
		end(history.Fail, node, path, err)
		p.at = (p.at + 1) % len(p.client.nodes)
		return node, asked, 0, false
	}
	answered = p.record.now()
	end(history.OK, node, v, nil)
	return node, asked, answered, true
}

func (p *payer) read(ctx context.Context, id string) {
	var a books.Account
	if node, asked, answered, ok := p.get(ctx, "read", "/accounts/"+id, &a); ok {
		p.reads = append(p.reads, books.Read{Node: node, Asked: asked, Answered: answered, Account: a})
		p.versions[id] = a.Version
	}
}

func (p *payer) page(ctx context.Context, id string) {
	var s books.Statement
	path := "/accounts/" + id + "/entries?limit=" + strconv.Itoa(payPageSize)
	if node, asked, answered, ok := p.get(ctx, "statement", path, &s); ok {
		p.pages = append(p.pages, books.Page{Node: node, Asked: asked, Answered: answered, Statement: s})
	}
}

// A follower follows the events, from one node after the other.
type follower struct {
	process
	client *client
	rand   *rand.Rand
	market *market
	at     int
	polls  []books.Poll // without the empty ones
}

func (f *follower) run(ctx context.Context) {
	cursor := ""
	for pauseFor(ctx, between(f.rand, pollMin, pollMax)) {
		node := f.client.nodes[f.at]
		page, err := eventPage(ctx, f.client, node, cursor)
		if err != nil || f.rand.IntN(wanderOneIn) == 0 {
			f.at = f.rand.IntN(len(f.client.nodes))
		}
		if err != nil || len(page.Items) == 0 {
			continue
		}
		end, _ := f.begin("poll", cursor)
		end(history.OK, node, map[string]any{"events": len(page.Items), "next": page.Next}, nil)
		f.polls = append(f.polls, books.Poll{Node: node, Chain: f.client.user, Events: page.Items})
		cursor = page.Next
		for i := range page.Items {
			f.market.see(&page.Items[i])
		}
	}
}
