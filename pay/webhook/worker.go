package webhook

import (
	"context"
	"errors"
	"slices"
	"time"
)

const (
	pageEvents    = 32          // events that a delivery takes from the source at a time
	doneMax       = pageEvents  // ids that a place remembers; what is forgotten is only delivered again
	sourceRetry   = time.Second // after the source failed
	leaseInterval = time.Second // between two looks at a lease that is not ours any more
)

// worker is the delivery to one endpoint in one turn.
type worker struct {
	id       string
	turn     uint64
	progress progress           // guarded by Hooks.mu
	disabled string             // why the endpoint is to be disabled; guarded by Hooks.mu
	dirty    bool               // progress or disabled is not written down; guarded by Hooks.mu
	urgent   bool               // and shall be at once; guarded by Hooks.mu
	cancel   context.CancelFunc // ends the goroutine; nil without one; guarded by Hooks.mu
}

// start starts the goroutine of a worker, unless it has one. It needs h.mu.
func (h *Hooks) start(w *worker) {
	if w.cancel != nil || w.disabled != "" {
		return
	}
	ctx, cancel := context.WithCancel(h.ctx)
	before, done := h.ended[w.id], make(chan struct{})
	w.cancel, h.ended[w.id] = cancel, done
	h.active.Go(func() {
		defer close(done)
		if before != nil {
			<-before // no two deliveries to one endpoint at a time
		}
		h.deliver(ctx, w)
	})
}

// stop tells the goroutine of a worker to end. It needs Hooks.mu.
func (w *worker) stop() {
	if w.cancel != nil {
		w.cancel()
		w.cancel = nil
	}
}

// deliver sends events to one endpoint until ctx ends or the endpoint is to be disabled.
func (h *Hooks) deliver(ctx context.Context, w *worker) {
	for ctx.Err() == nil {
		p, disabled := h.position(w)
		if disabled {
			return
		}
		if wait := instant(p.Next).Sub(h.config.Now()); p.Next != 0 && wait > 0 {
			pause(ctx, wait)
			continue
		}
		if !h.leads() {
			pause(ctx, leaseInterval)
			continue
		}
		if err := h.page(ctx, w, p); err != nil && ctx.Err() == nil {
			h.config.Logger.Warn("webhook source failed", "endpoint", w.id, "error", err)
			pause(ctx, sourceRetry)
		}
	}
}

// page sends the next events after a worker's position, until one is not delivered; when there are none it waits for some.
func (h *Hooks) page(ctx context.Context, w *worker, p progress) error {
	events, next, err := h.config.Source.Events(p.Cursor, pageEvents)
	if errors.Is(err, ErrGone) {
		h.update(w, func(*progress) string { return "the events that follow the last delivered one are no longer kept" })
		return nil
	}
	if err != nil {
		return err
	}
	for _, event := range events {
		if !slices.Contains(p.Done, event.ID) && !h.send(ctx, w, event) {
			return nil
		}
	}
	if next != p.Cursor {
		h.update(w, func(p *progress) string {
			p.Cursor, p.Done = next, nil
			return ""
		})
	}
	if len(events) == 0 {
		return h.config.Source.Wait(ctx, next)
	}
	return nil
}

// send sends an event once, if the endpoint wants it, and says whether the next one may follow.
func (h *Hooks) send(ctx context.Context, w *worker, event Event) bool {
	e, ok := h.state.endpoint(w.id)
	switch {
	case !ok || ctx.Err() != nil || !h.leads():
		return false
	case !e.wants(event.Type):
		return true
	}
	now := h.config.Now()
	o := h.attempt(ctx, e, event, now)
	if o.delivered() {
		h.delivered.Add(1)
		h.update(w, func(p *progress) string {
			p.Done = append(slices.Clone(p.Done[max(0, len(p.Done)+1-doneMax):]), event.ID)
			p.Attempts, p.Next = 0, 0
			p.LastEvent, p.LastSuccess = event.ID, h.config.Now().UnixNano()
			return ""
		})
		return true
	}
	if ctx.Err() != nil {
		return false // we ended it: that tells nothing of the endpoint
	}
	h.failed.Add(1)
	reason := h.fail(w, o)
	h.config.Logger.Warn("webhook attempt failed",
		"endpoint", w.id, "event", event.ID, "status", o.status, "error", o.err, "disabled", reason)
	return false
}

// fail records a failed attempt and returns why the endpoint is to be disabled, if it is.
func (h *Hooks) fail(w *worker, o outcome) (reason string) {
	h.update(w, func(p *progress) string {
		now := h.config.Now()
		p.Attempts++
		p.LastFailure = &failure{At: now.UnixNano(), Status: o.status, Error: o.explain()}
		delay, ok := retryDelay(p.Attempts, h.config.Rand.Float64(), o.retryAfter) // under h.mu: one goroutine at a time
		switch {
		case o.gone():
			reason = "answered 410 Gone"
		case !ok:
			reason = givenUp(p.Attempts)
		}
		p.Next = now.Add(delay).UnixNano()
		if reason != "" {
			p.Next = 0
		}
		return reason
	})
	return reason
}

// position returns how far a worker is, and whether its endpoint is to be disabled.
func (h *Hooks) position(w *worker) (progress, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return w.progress, w.disabled != ""
}

// update changes a worker's progress, under h.mu, and has it written down; change returns why the endpoint is to be
// disabled, if it is.
func (h *Hooks) update(w *worker, change func(*progress) (disabled string)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := !w.dirty
	w.disabled = change(&w.progress)
	w.dirty, w.urgent = true, w.disabled != ""
	if first || w.urgent {
		h.signal()
	}
}

// latest returns an endpoint with the progress that is not yet written down, if this process makes it.
func (h *Hooks) latest(e endpoint) endpoint {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.workers[e.ID]; w != nil && w.turn == e.Turn && e.Disabled == "" {
		e.Progress, e.Disabled = w.progress, w.disabled
	}
	return e
}

// pause waits for a duration, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
