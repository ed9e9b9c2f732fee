package services

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"dongne/maelstrom/history"
)

const (
	attemptsMax = 64 // of one operation, over all nodes
	wanderOneIn = 50 // operations after which a writer goes to another node without need
	sendsPer100 = 88 // of a hundred operations; the others are the following, and read positions
	editsPer100 = 4
	recentMax   = 16 // messages of a writer that it may still change
	dropsPer100 = 3  // deletions
)

// An outcome says how sure it is that something happened.
type outcome uint8

const (
	never    outcome = iota // it did not, and will not
	possible                // nobody knows
	sure
)

// A sent message, and what was done to it.
type sent struct {
	text, room, by string
	id             string // as it was acknowledged; a copy with another id may stay in its place
	posted         outcome
	asked          time.Duration
	acknowledged   time.Duration
	edits          []string // the texts that edits may have given it, oldest first
	edited         outcome  // by one of them at least
	deleted        outcome
}

// A writer posts messages with a key each, until some node takes them, and sometimes does something to an earlier one.
type writer struct {
	process
	client *client
	rand   *rand.Rand
	gap    time.Duration // mean time from one operation to the next
	// patience is how soon it may give up on a node and ask another one, while the first is still at it; requestMax at the
	// latest.
	patience time.Duration
	rooms    []string
	at       int     // the node, by number
	stays    bool    // it does not go to another node when this one takes nothing
	sent     []*sent // to be read when run has returned

	requests atomic.Int64 // each may have made an entry of some log
	bytes    atomic.Int64 // of their texts
	retries  atomic.Int64
	marks    atomic.Int64
}

// run writes until ctx ends. A request that is under way then is waited for.
func (w *writer) run(ctx context.Context) {
	due := w.record.now()
	for {
		due = max(due+time.Duration(w.rand.Float64()*2*float64(w.gap)), w.record.now()) // what was missed is not made up for
		if !pauseFor(ctx, due-w.record.now()) {
			return
		}
		if w.rand.IntN(wanderOneIn) == 0 {
			w.at = w.rand.IntN(len(w.client.nodes))
		}
		what := w.rand.IntN(100)
		switch m := w.known(); {
		case what < sendsPer100 || m == nil:
			w.send(ctx, w.rooms[w.rand.IntN(len(w.rooms))])
		case what < sendsPer100+editsPer100:
			w.edit(ctx, m)
		case what < sendsPer100+editsPer100+dropsPer100:
			w.drop(ctx, m)
		default:
			w.mark(ctx, m)
		}
	}
}

// known draws one of its last messages, so that what is done to it may cross a fault; nil if it meets none that is
// acknowledged.
func (w *writer) known() *sent {
	recent := w.sent[max(0, len(w.sent)-recentMax):]
	if len(recent) == 0 {
		return nil
	}
	m := recent[w.rand.IntN(len(recent))]
	if m.posted != sure {
		return nil
	}
	return m
}

func (w *writer) send(ctx context.Context, room string) *sent {
	m := &sent{text: fmt.Sprintf("%s-%d", w.client.user, len(w.sent)), room: room, by: w.client.user}
	w.sent = append(w.sent, m)
	var made message
	m.posted, m.asked, m.acknowledged = w.attempt(ctx, "send", m.text, func(node string) error {
		return w.do(ctx, node, http.MethodPost, "/rooms/"+m.room+"/messages", m.text, map[string]string{"text": m.text}, &made)
	})
	m.id = made.ID
	return m
}

func (w *writer) edit(ctx context.Context, m *sent) {
	if m.deleted != never {
		return
	}
	text := fmt.Sprintf("%s edit %d", m.text, len(m.edits)+1)
	edited, _, _ := w.attempt(ctx, "edit", text, func(node string) error {
		return w.do(ctx, node, http.MethodPatch, w.path(m), "", map[string]string{"text": text}, nil)
	})
	if edited != never {
		m.edits, m.edited = append(m.edits, text), max(m.edited, edited)
	}
}

func (w *writer) drop(ctx context.Context, m *sent) {
	if m.deleted != never {
		return
	}
	m.deleted, _, _ = w.attempt(ctx, "delete", m.text, func(node string) error {
		return w.do(ctx, node, http.MethodDelete, w.path(m), "", nil, nil)
	})
}

// mark says that the writer has read a room up to one of its own messages.
func (w *writer) mark(ctx context.Context, m *sent) {
	w.marks.Add(1)
	w.attempt(ctx, "mark", m.text, func(node string) error {
		return w.do(ctx, node, http.MethodPut, "/rooms/"+m.room+"/read", "", map[string]string{"message": m.id}, nil)
	})
}

// do sends a request and waits for its answer even if ctx ends meanwhile, but not for long.
func (w *writer) do(ctx context.Context, node, method, path, key string, body, v any) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), between(w.rand, w.patience, requestMax))
	defer cancel()
	return w.client.do(ctx, node, method, path, key, body, v)
}

func (w *writer) path(m *sent) string { return "/rooms/" + m.room + "/messages/" + m.id }

// attempt tries an operation on one node after the other until one takes it or ctx ends, and says how sure it is that it
// took effect, and when it was asked and answered.
func (w *writer) attempt(ctx context.Context, f string, value any, do func(node string) error) (o outcome, asked, answered time.Duration) {
	end, asked := w.begin(f, value)
	node, err := "", error(nil)
	for i := range attemptsMax {
		if i > 0 {
			w.retries.Add(1)
			if !w.stays {
				w.at = (w.at + 1) % len(w.client.nodes)
			}
			if !pauseFor(ctx, between(w.rand, againMin, againMax)) {
				break
			}
		}
		node = w.client.nodes[w.at]
		w.requests.Add(1)
		w.bytes.Add(int64(len(fmt.Sprint(value))))
		if err = do(node); err == nil {
			return sure, asked, end(history.OK, node, value, nil)
		}
		if !refused(err) {
			o = possible
		}
	}
	if o == possible {
		return o, asked, end(history.Info, node, value, err)
	}
	return never, asked, end(history.Fail, node, value, err)
}
