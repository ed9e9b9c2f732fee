package main

import (
	"context"
	"errors"
	"net"
)

const (
	combinedMax = 64   // transfers in a commit, but for a batch, which is one commit
	queueMax    = 1024 // calls that wait to be combined
)

// combiner is the engine that gathers what comes while a commit is under way and applies it in the next, in sets.
type combiner struct {
	procedure
	calls chan *call
	stop  context.CancelFunc
	ended chan struct{} // closed when the loop has ended
}

// call is payments that wait for their commit.
type call struct {
	payments []payment
	results  []result
	err      error
	done     chan struct{} // closed with the results or the error
}

func openCombiner(ctx context.Context, c peerConfig) (engine, error) {
	// The planner takes an unnested array for 100 rows and would scan all accounts for them.
	pool, err := openBooks(ctx, c, 2, map[string]string{"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_seqscan": "off"})
	if err != nil {
		return nil, err
	}
	looping, stop := context.WithCancel(context.Background())
	e := &combiner{procedure{pool, c.Database}, make(chan *call, queueMax), stop, make(chan struct{})}
	go e.loop(looping)
	return e, nil
}

// loop commits one gathering after the other: a second one at a time would wait for the first one's rows.
func (e *combiner) loop(ctx context.Context) {
	defer close(e.ended)
	var next *call // that had no room
	for ctx.Err() == nil {
		first := next
		if next = nil; first == nil {
			select {
			case first = <-e.calls:
			case <-ctx.Done():
				return
			}
		}
		var gathered []*call
		gathered, next = e.gather(first)
		e.commit(ctx, gathered)
	}
}

// gather takes first and what else is there for one commit, and the call that had no room any more, if there was one.
func (e *combiner) gather(first *call) (gathered []*call, next *call) {
	gathered = []*call{first}
	for n := len(first.payments); n < combinedMax; {
		select {
		case c := <-e.calls:
			if n += len(c.payments); n > combinedMax {
				return gathered, c
			}
			gathered = append(gathered, c)
		default:
			return gathered, nil
		}
	}
	return gathered, nil
}

// commit pays all calls' payments and answers them. It is not bound to any caller's context: the others wait for it too.
func (e *combiner) commit(ctx context.Context, gathered []*call) {
	var all []payment
	for _, c := range gathered {
		all = append(all, c.payments...)
	}
	results, err := e.payTogether(ctx, all)
	for _, c := range gathered {
		if c.err = err; err == nil {
			c.results, results = results[:len(c.payments)], results[len(c.payments):]
		}
		close(c.done)
	}
}

func (e *combiner) payTogether(ctx context.Context, ps []payment) ([]result, error) {
	keys, from, to, amounts := make([]string, len(ps)), make([]string, len(ps)), make([]string, len(ps)), make([]int64, len(ps))
	for i, p := range ps {
		keys[i], from[i], to[i], amounts[i] = p.key, p.from, p.to, p.amount
	}
	rows, err := e.pool.Query(ctx, "SELECT status, transfer, replayed FROM pay_many($1, $2, $3, $4)", keys, from, to, amounts)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	results := make([]result, 0, len(ps))
	for rows.Next() {
		r, err := scanResult(rows)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if len(results) != len(ps) {
		return nil, errors.New("the database answered another number of transfers")
	}
	return results, nil
}

func (e *combiner) pay(ctx context.Context, p payment) (result, error) {
	results, err := e.payMany(ctx, []payment{p})
	if err != nil {
		return result{}, err
	}
	return results[0], nil
}

func (e *combiner) payMany(ctx context.Context, ps []payment) ([]result, error) {
	c := &call{payments: ps, done: make(chan struct{})}
	select {
	case e.calls <- c:
	case <-e.ended:
		return nil, net.ErrClosed
	}
	select {
	case <-c.done:
		return c.results, c.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-e.ended:
		return nil, net.ErrClosed
	}
}

func (e *combiner) close() error {
	e.stop()
	<-e.ended
	return e.procedure.close()
}
