package services

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"dongne/maelstrom/history"
)

const (
	// stayMax is how long a reader stays on one node at most, stayMin at least, if its stream does not break.
	stayMin = 500 * time.Millisecond
	stayMax = 5 * time.Second
	// againMin and againMax bound the wait after a failure.
	againMin = 20 * time.Millisecond
	againMax = 200 * time.Millisecond
)

// A reader follows its user's stream, on one node after the other.
type reader struct {
	process
	client  *client
	rand    *rand.Rand
	picture *picture
	settled <-chan struct{} // closed when it is to stay where it is
	started func()          // to be told once it follows a stream

	at       int    // the node, by number
	position string // the last event id; "" when everything is to be fetched
	moves    atomic.Int64
	fetches  atomic.Int64
}

var errStatus = errors.New("it does not answer in time")

// run follows streams until ctx ends.
func (r *reader) run(ctx context.Context) {
	for ctx.Err() == nil {
		end, _ := r.begin("follow", nil)
		response, cancel, err := r.connect(ctx)
		for err != nil {
			if !pauseFor(ctx, between(r.rand, againMin, againMax)) {
				end(history.Fail, r.node(), nil, err)
				return
			}
			r.move()
			response, cancel, err = r.connect(ctx)
		}
		end(history.OK, r.node(), nil, nil)
		r.listen(ctx, response, cancel)
		r.moves.Add(1)
		r.move()
	}
}

func (r *reader) node() string { return r.client.nodes[r.at] }

// move chooses another node, if there is one.
func (r *reader) move() {
	if n := len(r.client.nodes); n > 1 {
		r.at = (r.at + 1 + r.rand.IntN(n-1)) % n
	}
}

// between draws a time.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)+1))
}

// connect opens a stream where the last one ended. cancel ends it.
func (r *reader) connect(ctx context.Context) (response *http.Response, cancel context.CancelFunc, err error) {
	ctx, stop := context.WithCancelCause(ctx)
	cancel = func() { stop(nil) }
	request, err := r.client.request(ctx, r.node(), http.MethodGet, "/stream", nil)
	if err != nil {
		return nil, cancel, err
	}
	if r.position != "" {
		request.Header.Set("Last-Event-ID", r.position)
	}
	timer := time.AfterFunc(requestMax, func() { stop(errStatus) })
	response, err = r.client.http.Do(request)
	if timer.Stop(); err != nil {
		cancel()
		return nil, cancel, errors.Join(context.Cause(ctx), short(err))
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		cancel()
		return nil, cancel, statusError{status: response.StatusCode}
	}
	return response, cancel, nil
}

// listen hears a stream until it breaks or it is time to move.
func (r *reader) listen(ctx context.Context, response *http.Response, cancel context.CancelFunc) {
	defer response.Body.Close()
	defer cancel()
	timer := time.AfterFunc(between(r.rand, stayMin, stayMax), func() {
		select {
		case <-r.settled:
		default:
			cancel()
		}
	})
	defer timer.Stop()
	fetch := r.position == ""
	readEvents(response.Body, func(e event) bool {
		if e.id != "" {
			r.position = e.id
		}
		fetch = r.picture.hear(e, r.record.now()) || fetch
		if fetch && r.position != "" {
			if fetch = false; r.fetch(ctx) != nil {
				r.position = "" // anew, on another node
				return false
			}
		}
		if r.position != "" {
			r.started()
		}
		return true
	})
}

// fetch gets everything from the node of the stream: another one may know less than the stream goes on from.
func (r *reader) fetch(ctx context.Context) error {
	r.fetches.Add(1)
	end, _ := r.begin("read", nil)
	histories, err := r.lists(ctx)
	if err != nil {
		end(history.Fail, r.node(), nil, err)
		return err
	}
	r.picture.fetched(histories)
	end(history.OK, r.node(), map[string]int{"rooms": len(histories)}, nil)
	return nil
}

func (r *reader) lists(ctx context.Context) ([][]message, error) {
	rooms, err := r.client.rooms(ctx, r.node())
	if err != nil {
		return nil, err
	}
	histories := make([][]message, len(rooms))
	for i, room := range rooms {
		if histories[i], err = r.client.history(ctx, r.node(), room.ID); err != nil {
			return nil, err
		}
	}
	return histories, nil
}
