package webhook

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"dongne/internal/sharedlog/live"
)

const (
	leaseTTL       = 20 * time.Second          // how long a holder that fell silent holds up the deliveries
	leaseExclusive = 10 * 365 * 24 * time.Hour // of a log that nobody else can write to: no renewals

	pollInterval   = 2 * time.Second // of a shared log
	flushInterval  = time.Second     // between two records of progress
	retryInterval  = time.Second     // after the log failed
	idleInterval   = time.Minute     // with nothing to do
	proposeTimeout = 5 * time.Second // of run's own commands
	reportsMax     = 16              // endpoints of one record of progress
	snapshotSlots  = 4096            // between two snapshots
)

// run is the one goroutine that holds the lease, starts and ends the deliveries, and records how far they are.
func (h *Hooks) run() {
	defer close(h.done)
	timer := time.NewTimer(idleInterval)
	defer timer.Stop()
	for h.ctx.Err() == nil {
		next := h.step()
		timer.Reset(max(0, next.Sub(h.config.Now())))
		select {
		case <-h.ctx.Done():
		case <-h.wake:
		case <-timer.C:
		}
	}
}

// step does what is due and returns when to come again.
func (h *Hooks) step() time.Time {
	next := h.config.Now().Add(idleInterval)
	if h.shared {
		next = h.poll()
	}
	for _, do := range []func() time.Time{h.hold, h.assign, h.record} {
		if at := do(); at.Before(next) {
			next = at
		}
	}
	h.compact()
	return next
}

// poll reads what other processes wrote.
func (h *Hooks) poll() time.Time {
	now := h.config.Now()
	if now.Sub(h.polled) >= pollInterval {
		h.polled = now
		h.log.Poll()
	}
	return h.polled.Add(pollInterval)
}

// hold takes the lease when it is free and renews it at half time, as long as there is an endpoint to deliver to.
func (h *Hooks) hold() time.Time {
	ttl := leaseTTL
	if !h.shared {
		ttl = leaseExclusive
	}
	due := func() time.Time {
		l := h.state.lease()
		until := instant(l.Until)
		switch {
		case l.Holder == h.holder:
			return until.Add(-ttl / 2)
		case h.shared:
			return until
		}
		return time.Time{} // who held it is dead: nobody else has this log open
	}
	now := h.config.Now()
	wanted := slices.ContainsFunc(h.state.endpoints(), func(e endpoint) bool { return e.Disabled == "" })
	if !wanted {
		return now.Add(idleInterval)
	}
	if at := due(); now.Before(at) {
		return at
	}
	ctx, cancel := context.WithTimeout(h.ctx, proposeTimeout)
	defer cancel()
	_, err := h.ask(ctx, command{Kind: "lease", Holder: h.holder, TTL: int64(ttl), Take: !h.shared})
	if err != nil && !errors.Is(err, errHeld) && h.ctx.Err() == nil {
		h.config.Logger.Warn("webhook lease not written", "error", err)
	}
	if again := h.config.Now().Add(retryInterval); due().Before(again) {
		return again
	}
	return due()
}

// leads says whether this process is to deliver now.
func (h *Hooks) leads() bool {
	l := h.state.lease()
	return l.Holder == h.holder && h.config.Now().UnixNano() < l.Until
}

// assign starts the deliveries that are to go on and ends those that are not, and returns when the lease ends.
func (h *Hooks) assign() time.Time {
	l, leads := h.state.lease(), h.leads()
	h.mu.Lock()
	defer h.mu.Unlock()
	registered := map[string]endpoint{}
	for _, e := range h.state.endpoints() {
		registered[e.ID] = e
	}
	for id, w := range h.workers {
		e := registered[id]
		stays := e.Disabled == "" && e.Turn == w.turn && l.Epoch == h.epoch
		if !stays || !leads {
			w.stop()
		}
		if !stays {
			delete(h.workers, id)
		}
	}
	maps.DeleteFunc(h.ended, func(id string, _ chan struct{}) bool { return registered[id].ID == "" })
	h.epoch = l.Epoch
	if !leads {
		return h.config.Now().Add(idleInterval)
	}
	for id, e := range registered {
		if e.Disabled != "" {
			continue
		}
		if h.workers[id] == nil {
			h.workers[id] = &worker{id: id, turn: e.Turn, progress: e.Progress}
		}
		h.start(h.workers[id])
	}
	return instant(l.Until)
}

// record writes down how far the deliveries are, when that changed and enough time has passed.
func (h *Hooks) record() time.Time {
	now := h.config.Now()
	dirty, urgent := h.unrecorded()
	switch {
	case !dirty:
		return now.Add(idleInterval)
	case now.Sub(h.flushed) < flushInterval && !urgent:
		return h.flushed.Add(flushInterval)
	}
	ctx, cancel := context.WithTimeout(h.ctx, proposeTimeout)
	defer cancel()
	err := h.flush(ctx)
	h.flushed = h.config.Now()
	if err != nil && h.ctx.Err() == nil {
		h.config.Logger.Warn("webhook progress not written", "error", err)
	}
	return h.flushed.Add(flushInterval)
}

// unrecorded says whether any progress is not written down yet, and whether an endpoint is to be disabled by it and was
// not tried to be.
func (h *Hooks) unrecorded() (dirty, urgent bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.workers {
		dirty = dirty || w.dirty
		urgent = urgent || w.urgent
	}
	return dirty, urgent
}

// flush writes down all progress that is not. What another process's lease has voided is given up: that process goes on
// from what was written before.
func (h *Hooks) flush(ctx context.Context) error {
	h.mu.Lock()
	epoch := h.epoch
	var reports []report
	var written []*worker
	for _, id := range slices.Sorted(maps.Keys(h.workers)) {
		if w := h.workers[id]; w.dirty {
			w.dirty, w.urgent = false, false
			reports = append(reports, report{ID: w.id, Turn: w.turn, Progress: w.progress, Disabled: w.disabled})
			written = append(written, w)
		}
	}
	h.mu.Unlock()
	for len(reports) > 0 {
		n := min(len(reports), reportsMax)
		_, err := h.ask(ctx, command{Kind: "progress", Epoch: epoch, Reports: reports[:n]})
		switch {
		case errors.Is(err, errDeposed):
			h.lost.Add(uint64(n))
		case err != nil:
			h.mu.Lock()
			for _, w := range written {
				w.dirty = true
			}
			h.mu.Unlock()
			return err
		}
		reports, written = reports[n:], written[n:]
	}
	return nil
}

// compact keeps the log short where that is ours to do: it snapshots now and then and, if nobody else reads the log,
// removes what the snapshot covers.
func (h *Hooks) compact() {
	if _, ok := h.config.Engine.(live.SnapshotStore); !ok || !h.state.due(snapshotSlots) {
		return
	}
	slot, err := h.log.Snapshot(h.ctx)
	if trimmer, ok := h.config.Engine.(interface{ Trim(slot uint64) error }); ok && err == nil && !h.shared {
		err = trimmer.Trim(slot)
	}
	if err != nil && h.ctx.Err() == nil {
		h.config.Logger.Warn("webhook log not compacted", "error", err)
	}
}
