package node

import (
	"context"
	"fmt"
	"time"

	"dongne/internal/sharedlog"
	"dongne/pay/ledger"
)

// Answer is what came of a request: a refusal, or what it made, as it was made; so the same request has the same answer
// for ever.
type Answer struct {
	Refused  ledger.Code
	Detail   string // of a refusal, for people
	Replayed bool
	Transfer *ledger.Transfer // either this
	Account  *ledger.Account  // or that
}

// Do does a request and returns its answer once it is durable. A request whose key is in flight gets ErrInFlight, or waits
// so long for the one before it. Other errors are *sharedlog.Error; an outcome that is still unknown after 5 s is Unknown.
func (n *Node) Do(ctx context.Context, q ledger.Request, wait time.Duration) (Answer, error) {
	home := n.home(&q)
	if answer, known := home.replay(&q); known {
		return answer, n.finished(ctx, answer)
	}
	if refused, err := n.admit(ctx, home, &q); err != nil || refused != 0 {
		return home.answer(&q, ledger.Result{Refused: refused}), err
	}
	done, err := n.board(ctx, q.Key, wait)
	if err != nil {
		return Answer{}, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	if q.Kind == ledger.Void {
		if answer, done, err := n.cancel(ctx, home, &q); done || err != nil {
			return answer, err
		}
	}
	if result, err := n.useKey(ctx, home, &q); err != nil || result.Refused != 0 {
		return home.answer(&q, result), err
	}
	result, err := home.one(ctx, q)
	if err != nil {
		return Answer{}, err
	}
	return n.conclude(ctx, home, &q, result)
}

func (n *Node) home(q *ledger.Request) *shard { return n.shards[ledger.Home(q, len(n.shards))] }

// replay answers a request whose key has decided, from memory.
func (sh *shard) replay(q *ledger.Request) (answer Answer, known bool) {
	if q.Key == (ledger.Key{}) {
		return Answer{}, false
	}
	sh.read(func(s *ledger.State) {
		var result ledger.Result
		if result, known = s.Replay(q); known && !result.Settling {
			answer = view(s, q, result)
		}
		known = known && !result.Settling
	})
	return answer, known
}

// board notes that a request is in flight until done is called.
func (n *Node) board(ctx context.Context, key ledger.Key, wait time.Duration) (done func(), err error) {
	if key == (ledger.Key{}) {
		return func() {}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		n.mu.Lock()
		other := n.flights[key]
		if other == nil {
			mine := make(chan struct{})
			n.flights[key] = mine
			n.mu.Unlock()
			return func() {
				n.mu.Lock()
				delete(n.flights, key)
				n.mu.Unlock()
				close(mine)
			}, nil
		}
		n.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ErrInFlight
		}
	}
}

// useKey lets the shard that remembers a request's key decide what the key is for, when it is another than the home.
func (n *Node) useKey(ctx context.Context, home *shard, q *ledger.Request) (ledger.Result, error) {
	if q.Key == (ledger.Key{}) {
		return ledger.Result{}, nil
	}
	keeper := n.shards[ledger.KeyShard(q, len(n.shards))]
	if keeper == home {
		return ledger.Result{}, nil
	}
	result, err := keeper.one(ctx, ledger.Request{Kind: ledger.UseKey, Key: q.Key, Print: q.Fingerprint()})
	return ledger.Result{Refused: result.Refused}, err
}

// conclude brings a transfer between shards to its end, and makes the answer.
func (n *Node) conclude(ctx context.Context, home *shard, q *ledger.Request, result ledger.Result) (Answer, error) {
	if result.Settling {
		if err := n.drive(ctx, home, result.Record, false); err != nil {
			return Answer{}, unknown(err)
		}
		replayed := result.Replayed
		if q.Key == (ledger.Key{}) {
			return home.answer(q, result), nil
		}
		answer, _ := home.replay(q)
		answer.Replayed = replayed
		return answer, nil
	}
	answer := home.answer(q, result)
	if result.Replayed {
		return answer, n.finished(ctx, answer)
	}
	return answer, nil
}

// unknown says of an error in the middle of a transfer that its end is not known.
func unknown(err error) error { return &sharedlog.Error{Outcome: sharedlog.Unknown, Err: err} }

func (sh *shard) answer(q *ledger.Request, result ledger.Result) (answer Answer) {
	sh.read(func(s *ledger.State) { answer = view(s, q, result) })
	return answer
}

// view makes the answer to a request.
func view(s *ledger.State, q *ledger.Request, result ledger.Result) Answer {
	answer := Answer{Refused: result.Refused, Replayed: result.Replayed}
	switch {
	case result.Refused != 0:
		answer.Detail = ledger.Explain(q, result)
	case q.Kind == ledger.OpenAccount:
		v := s.Opened(result.Record)
		answer.Account = &v
	case q.Kind == ledger.ChangeAccount:
		v, _ := s.Account(q.Account)
		answer.Account = &v
	case result.Record != 0:
		v := s.Made(result.Record)
		answer.Transfer = &v
	case q.Kind == ledger.Void: // it was cancelled between shards
		v, _ := s.Transfer(q.Transfer)
		answer.Transfer = &v
	}
	return answer
}

// drive takes the steps that a transfer between shards still needs. Whoever takes one a second time changes nothing.
// With cancel, shards that have not prepared reject.
func (n *Node) drive(ctx context.Context, home *shard, rec uint32, cancel bool) error {
	var crossing ledger.Crossing
	var open bool
	home.read(func(s *ledger.State) { crossing, open = s.Crossing(rec) })
	if !open {
		return nil
	}
	decision := ledger.Request{Kind: ledger.Decide, Transfer: crossing.Transfer, Commit: true}
	for i, prepare := range crossing.Portions {
		prepare.Cancel = cancel
		result, err := n.shards[crossing.Shards[i]].one(ctx, prepare)
		if err != nil {
			return err
		}
		if result.Refused != 0 {
			decision.Commit, decision.Code, decision.Leg = false, result.Refused, crossing.Legs[i][result.Leg]
			break
		}
	}
	if _, err := home.one(ctx, decision); err != nil {
		return err
	}
	var commit bool // as it stands: another may have decided before
	home.read(func(s *ledger.State) { commit, _ = s.Decided(crossing.Transfer) })
	for _, other := range crossing.Shards {
		if _, err := n.shards[other].one(ctx, ledger.Request{Kind: ledger.Finish, Transfer: crossing.Transfer, Commit: commit}); err != nil {
			return err
		}
	}
	return nil
}

// finished makes sure, before an answer is repeated, that the other shards have finished their parts of its transfer: whoever
// was to see to that may have died.
func (n *Node) finished(ctx context.Context, answer Answer) error {
	if answer.Transfer == nil || len(n.shards) == 1 {
		return nil
	}
	id, _ := ledger.ParseTransfer(answer.Transfer.ID)
	var others []int
	n.shards[id.Shard].read(func(s *ledger.State) { others = s.Others(id) })
	for _, other := range others {
		sh, pending := n.shards[other], false
		sh.read(func(s *ledger.State) { pending = s.Pending(id) })
		if pending {
			if err := n.finish(ctx, sh, id); err != nil {
				return unknown(err)
			}
		}
	}
	return nil
}

// cancel takes back a transfer that is on its way between shards, if no shard has prepared it yet. It says whether the
// request is done with that; its key then names it like any other.
func (n *Node) cancel(ctx context.Context, home *shard, q *ledger.Request) (answer Answer, done bool, err error) {
	var t ledger.Transfer
	var known bool
	home.read(func(s *ledger.State) { t, known = s.Transfer(q.Transfer) })
	if !known || t.Status != "settling" && t.Status != "failed" || !q.Any && t.By != q.By {
		return Answer{}, false, nil
	}
	if t.Status == "settling" {
		if err := n.drive(ctx, home, q.Transfer.Record, true); err != nil {
			return Answer{}, false, unknown(err)
		}
		home.read(func(s *ledger.State) { t, _ = s.Transfer(q.Transfer) })
	}
	if t.Status != "failed" {
		return Answer{}, false, nil
	}
	result, err := n.useKey(ctx, home, q)
	if err == nil && result.Refused == 0 && q.Key != (ledger.Key{}) {
		result, err = home.one(ctx, ledger.Request{Kind: ledger.UseKey, Key: q.Key, Print: q.Fingerprint()})
	}
	if err != nil {
		return Answer{}, false, unknown(err)
	}
	return home.answer(q, result), true, nil
}

// Batch does many requests, those of a shard in one slot, in order, and returns an answer or an error for each. The
// requests of a chain have their home where the first one has.
func (n *Node) Batch(ctx context.Context, requests []ledger.Request) ([]Answer, []error) {
	answers, errs := make([]Answer, len(requests)), make([]error, len(requests))
	groups := n.group(requests)
	if n.replayAll(requests, groups, answers) {
		for i, answer := range answers {
			errs[i] = n.finished(ctx, answer)
		}
		return answers, errs
	}
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	reused := n.useKeys(ctx, requests, groups, errs)
	for number, group := range groups {
		n.batch(ctx, n.shards[number], requests, group, reused, answers, errs)
	}
	return answers, errs
}

// group lists, by shard, the requests that go there.
func (n *Node) group(requests []ledger.Request) [][]int {
	groups := make([][]int, len(n.shards))
	home := 0
	for i := range requests {
		if i == 0 || !requests[i-1].Linked {
			home = ledger.Home(&requests[i], len(n.shards))
		}
		groups[home] = append(groups[home], i)
	}
	return groups
}

// replayAll answers a batch from memory when all of its keys have decided.
func (n *Node) replayAll(requests []ledger.Request, groups [][]int, answers []Answer) bool {
	for number, group := range groups {
		for _, i := range group {
			answer, known := n.shards[number].replay(&requests[i])
			if !known {
				return false
			}
			answers[i] = answer
		}
	}
	return true
}

// useKeys does useKey for a batch: of each shard that remembers keys for others, in one slot. It returns the requests whose
// keys name others.
func (n *Node) useKeys(ctx context.Context, requests []ledger.Request, groups [][]int, errs []error) map[int]bool {
	reused := make(map[int]bool)
	if len(n.shards) == 1 {
		return reused
	}
	at, uses := make([][]int, len(n.shards)), make([][]ledger.Request, len(n.shards))
	for home, group := range groups {
		for _, i := range group {
			if keeper := ledger.KeyShard(&requests[i], len(n.shards)); keeper != home {
				at[keeper] = append(at[keeper], i)
				uses[keeper] = append(uses[keeper], ledger.Request{Kind: ledger.UseKey, Key: requests[i].Key, Print: requests[i].Fingerprint()})
			}
		}
	}
	for keeper, uses := range uses {
		if len(uses) == 0 {
			continue
		}
		results, err := n.shards[keeper].propose(ctx, ledger.NewCall(uses...))
		for k, i := range at[keeper] {
			if errs[i] = err; err == nil && results[k].Refused != 0 {
				reused[i] = true
			}
		}
	}
	return reused
}

// batch proposes a shard's requests. A chain of which a key could not be used, or names another request, is left out.
func (n *Node) batch(ctx context.Context, home *shard, requests []ledger.Request, group []int, reused map[int]bool, answers []Answer, errs []error) {
	var at []int
	var call []ledger.Request
	for first := 0; first < len(group); {
		end := first + 1
		for requests[group[end-1]].Linked && end < len(group) {
			end++
		}
		chain := group[first:end]
		first = end
		if n.leftOut(requests, chain, reused, answers, errs) {
			continue
		}
		for _, i := range chain {
			at, call = append(at, i), append(call, requests[i])
		}
	}
	if len(call) == 0 {
		return
	}
	results, err := home.propose(ctx, ledger.NewCall(call...))
	for k, i := range at {
		if errs[i] = err; err == nil {
			answers[i], errs[i] = n.conclude(ctx, home, &requests[i], results[k])
		}
	}
}

func (n *Node) leftOut(requests []ledger.Request, chain []int, reused map[int]bool, answers []Answer, errs []error) bool {
	out := false
	for _, i := range chain {
		out = out || errs[i] != nil || reused[i]
	}
	for _, i := range chain {
		switch {
		case !out:
		case reused[i]:
			answers[i] = n.shards[0].answer(&requests[i], ledger.Result{Refused: ledger.KeyReused})
		case errs[i] == nil:
			errs[i] = &sharedlog.Error{Outcome: sharedlog.NotApplied, Err: fmt.Errorf("another request of its chain was not taken")}
		}
	}
	return out
}
