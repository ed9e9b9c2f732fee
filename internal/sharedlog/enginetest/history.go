package enginetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/live"
)

// Journal is a machine that keeps every request that is applied to it, as often as it is; the answer to a request is
// its place, from 1.
type Journal struct {
	mu    sync.Mutex
	items []string // guarded by mu
}

// Prepare implements sharedlog.Machine.
func (j *Journal) Prepare(_ sharedlog.Position, requests []string) []sharedlog.Prepared[int] {
	prepared := make([]sharedlog.Prepared[int], len(requests))
	for i, q := range requests {
		prepared[i].Commands = [][]byte{[]byte(q)}
	}
	return prepared
}

// Apply implements sharedlog.Machine.
func (j *Journal) Apply(b *sharedlog.Batch) (places []int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range b.Commands {
		j.items = append(j.items, string(c.Data))
		places = append(places, len(j.items))
	}
	return places
}

// Abandon implements sharedlog.Machine.
func (j *Journal) Abandon() {}

// Snapshot implements sharedlog.Machine.
func (j *Journal) Snapshot() ([]byte, bool) {
	state, err := json.Marshal(j.Items())
	return state, err == nil
}

// Restore implements sharedlog.Machine.
func (j *Journal) Restore(state []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return json.Unmarshal(state, &j.items)
}

// Items returns the requests in the order of the log.
func (j *Journal) Items() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.items)
}

// History is what callers of one or more logs over one engine were told. Its methods may be called by any number of
// goroutines.
type History struct {
	mu    sync.Mutex
	clock int // counts beginnings and ends; guarded by mu
	calls []*Call
}

// Call is one request, made once, and what came of it.
type Call struct {
	Item       string // unique among the calls
	Place      int    // when applied
	Outcome    sharedlog.Outcome
	Err        error
	Begin, End int // on one clock of the history; End is 0 before the answer
}

// Propose hands an item to a log and notes what came of it. Nothing may be proposed twice.
func (h *History) Propose(ctx context.Context, log *live.Log[string, int], item string) error {
	h.mu.Lock()
	h.clock++
	c := &Call{Item: item, Begin: h.clock}
	h.calls = append(h.calls, c)
	h.mu.Unlock()
	place, err := log.Propose(ctx, item)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	c.Place, c.Outcome, c.Err, c.End = place, sharedlog.OutcomeOf(err), err, h.clock
	return err
}

// Calls returns what was noted, in the order of beginning.
func (h *History) Calls() []Call {
	h.mu.Lock()
	defer h.mu.Unlock()
	calls := make([]Call, len(h.calls))
	for i, c := range h.calls {
		calls[i] = *c
	}
	return calls
}

// Count returns how many calls ended with an outcome.
func (h *History) Count(outcome sharedlog.Outcome) (n int) {
	for _, c := range h.Calls() {
		if c.End > 0 && c.Outcome == outcome {
			n++
		}
	}
	return n
}

// Check judges the calls by the items of the whole log, and returns all that is wrong: every item that was applied is
// there once, at the place that was answered; what was not applied is not there, what is unknown at most once; nothing
// else is there; and whoever was answered before another began stands before it.
func Check(calls []Call, items []string) error {
	var problems []error
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	at := map[string]int{}
	for i, item := range items {
		if before := at[item]; before > 0 {
			wrong("%q stands at %d and at %d", item, before, i+1)
		}
		at[item] = i + 1
	}
	byItem := map[string]Call{}
	for _, c := range calls {
		byItem[c.Item] = c
		switch place := at[c.Item]; {
		case c.End == 0: // not answered: anything may be true
		case c.Outcome == sharedlog.Applied && place == 0:
			wrong("%q was answered place %d and is lost", c.Item, c.Place)
		case c.Outcome == sharedlog.Applied && place != c.Place:
			wrong("%q was answered place %d and stands at %d", c.Item, c.Place, place)
		case c.Outcome == sharedlog.NotApplied && place > 0:
			wrong("%q was answered not_applied (%v) and stands at %d", c.Item, c.Err, place)
		}
	}
	latest := Call{} // to begin, of those that stand before
	for _, item := range items {
		c, ok := byItem[item]
		if !ok {
			wrong("%q stands at %d and was never proposed", item, at[item])
			continue
		}
		if c.Outcome == sharedlog.Applied && c.End > 0 && c.End < latest.Begin {
			wrong("%q stands after %q, which began after its answer", c.Item, latest.Item)
		}
		if c.Begin > latest.Begin {
			latest = c
		}
	}
	return errors.Join(problems...)
}

// Replay reads the whole log slot by slot, verifies that each follows from the one before, and returns the commands
// and the number of slots. Gets that fail for another reason than the end of the log are repeated until ctx ends.
func Replay(ctx context.Context, engine live.Engine) (items []string, tail uint64, err error) {
	var last sharedlog.Position
	var hash sharedlog.Hash
	for {
		data, err := engine.Get(ctx, last.Slot+1)
		switch {
		case errors.Is(err, sharedlog.ErrAbsent):
			return items, last.Slot, nil
		case errors.Is(err, sharedlog.ErrTrimmed), ctx.Err() != nil:
			return nil, 0, err
		case err != nil:
			continue
		}
		b, err := sharedlog.DecodeBatch(data)
		if err != nil {
			return nil, 0, fmt.Errorf("slot %d: %w", last.Slot+1, err)
		}
		if b.Slot != last.Slot+1 || b.Prev != hash || b.Time <= last.Time && last.Slot > 0 {
			return nil, 0, fmt.Errorf("slot %d does not follow from the one before", last.Slot+1)
		}
		for _, c := range b.Commands {
			items = append(items, string(c.Data))
		}
		last, hash = sharedlog.Position{Slot: b.Slot, Time: b.Time}, sharedlog.Sum(data)
	}
}
