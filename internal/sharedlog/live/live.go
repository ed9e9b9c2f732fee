// Package live runs a sharedlog.Replica over an engine: it owns the goroutine, the clock and the contexts that the replica
// has not.
//
// Commits are grouped without a timer: while one slot is being written, requests gather; the next slot carries them all.
package live

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dongne/internal/sharedlog"
)

// Engine stores slots. Its calls end by deadlines of their own: a log that is being closed waits for the one under way.
type Engine interface {
	// Create creates a slot that holds data unless the slot exists, and says Created, Taken, NotApplied (proven, with the
	// cause) or Unknown. An error that wraps sharedlog.ErrStopped ends the log: its engine will not write again. Data
	// stays unchanged; the engine must not change it.
	Create(ctx context.Context, slot uint64, data []byte) (sharedlog.Outcome, error)
	// Get returns the bytes of a slot, or an error that wraps sharedlog.ErrAbsent, sharedlog.ErrTrimmed (below the floor)
	// or sharedlog.ErrDamaged; anything else is taken as passing. Errors name the slot.
	Get(ctx context.Context, slot uint64) ([]byte, error)
}

// Exclusive is an engine to which, when it says true, no one else can write while it is open.
type Exclusive interface{ Exclusive() bool }

// SnapshotStore is an engine that also keeps snapshots, encoded by sharedlog.Snapshot.
type SnapshotStore interface {
	// SaveSnapshot stores the snapshot of the state after slot, durably, in place of older ones.
	SaveSnapshot(ctx context.Context, slot uint64, data []byte) error
	// LoadSnapshot returns the newest snapshot, or an error that wraps sharedlog.ErrAbsent.
	LoadSnapshot(ctx context.Context) ([]byte, error)
}

// Defaults of Options.
const (
	BatchBytesMax    = 1 << 20
	BatchRequestsMax = 1024
	QueueMax         = 8192
)

// Options of Open; the zero value takes the defaults.
type Options struct {
	Now              func() time.Time // proposes the time of slots; time.Now
	Writer           sharedlog.Writer // random
	BatchBytesMax    int              // bytes of a slot; 1 MiB
	BatchRequestsMax int              // requests of a slot; 1024
	QueueMax         int              // requests that wait for a slot, beyond which they are refused; 8192
	// Pause waits before try number attempt (from 1) of an operation whose outcome was unknown, until ctx ends.
	Pause func(ctx context.Context, attempt int)
}

func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Writer == (sharedlog.Writer{}) {
		rand.Read(o.Writer[:]) // never fails
	}
	if o.Pause == nil {
		o.Pause = backOff
	}
	o.BatchBytesMax = cmp.Or(o.BatchBytesMax, BatchBytesMax)
	o.BatchRequestsMax = cmp.Or(o.BatchRequestsMax, BatchRequestsMax)
	o.QueueMax = cmp.Or(o.QueueMax, QueueMax)
	return o
}

// Log is a machine behind a log. Its methods may be called by any number of goroutines.
type Log[Q, R any] struct {
	engine    Engine
	exclusive bool
	options   Options
	replica   *sharedlog.Replica[Q, R] // owned by run
	ctx       context.Context          // ends when Close begins: no more pauses
	cancel    context.CancelFunc
	wake      chan struct{} // holds at most one
	done      chan struct{} // closed when run has ended
	tickets   sync.Pool
	doubt     bool // owned by run: what stands at the next slot may be a batch of ours

	mu      sync.Mutex
	queue   []*ticket[Q, R] // guarded by mu
	calls   []func()        // run between two operations; guarded by mu
	poll    bool            // read to the end of the log next; guarded by mu
	closing bool            // guarded by mu
}

// ticket is a request on its way.
type ticket[Q, R any] struct {
	q      Q
	fresh  bool
	state  atomic.Int32
	done   chan struct{} // holds one
	result R
	err    error
}

// States of a ticket. Whoever leaves waiting first decides: the log takes it, or its caller gives it up.
const (
	waiting = iota
	taken
	givenUp
)

// Open brings machine up to the end of the log (the newest snapshot and the slots after it, or all slots) and starts to
// serve it. ctx bounds the opening alone. The engine stays the caller's to close, after the Log.
func Open[Q, R any](ctx context.Context, engine Engine, machine sharedlog.Machine[Q, R], options Options) (*Log[Q, R], error) {
	options = options.withDefaults()
	e, ok := engine.(Exclusive)
	exclusive := ok && e.Exclusive()
	l := &Log[Q, R]{
		engine:    engine,
		exclusive: exclusive,
		options:   options,
		replica: sharedlog.NewReplica(machine, sharedlog.Config{
			Writer:           options.Writer,
			BatchBytesMax:    options.BatchBytesMax,
			BatchRequestsMax: options.BatchRequestsMax,
			Exclusive:        exclusive,
		}),
		wake: make(chan struct{}, 1),
		done: make(chan struct{}),
	}
	l.tickets.New = func() any { return &ticket[Q, R]{done: make(chan struct{}, 1)} }
	if err := l.install(ctx); err != nil {
		return nil, err
	}
	if err := l.replay(ctx); err != nil {
		return nil, fmt.Errorf("sharedlog: replay: %w", err)
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	go l.run()
	return l, nil
}

// replay applies the slots up to the end of the log. What fails in passing, at an engine that others share, is tried again
// until ctx ends: its servers may be about to elect a leader.
func (l *Log[Q, R]) replay(ctx context.Context) error {
	for attempt := 0; l.replica.Reading(); {
		op := l.replica.Next(0)
		data, err := l.engine.Get(ctx, op.Slot)
		switch {
		case errors.Is(err, sharedlog.ErrAbsent):
			l.replica.Absent()
			return nil
		case err == nil:
			attempt = 0
			if err := l.replica.Got(data); err != nil {
				return err
			}
		case l.exclusive || lasting(err) || ctx.Err() != nil:
			return err
		default:
			l.replica.Missed()
			attempt++
			l.options.Pause(ctx, attempt)
		}
	}
	return nil
}

// lasting says whether an engine's error stays.
func lasting(err error) bool {
	return errors.Is(err, sharedlog.ErrTrimmed) || errors.Is(err, sharedlog.ErrDamaged) || errors.Is(err, sharedlog.ErrStopped)
}

// Propose hands a request to the machine and returns its answer once its commands are in the log. The error is a
// *sharedlog.Error: NotApplied when the log is busy, closed, full or stopped, or ctx ended before the request's turn;
// Unknown when ctx ended, or the engine failed, after that.
func (l *Log[Q, R]) Propose(ctx context.Context, q Q) (R, error) {
	t, err := l.enqueue(q, false)
	if err != nil {
		var none R
		return none, err
	}
	return l.wait(ctx, t)
}

// Enqueue is Propose in two steps: requests take their turn in the order of the calls of Enqueue. wait may be called once.
func (l *Log[Q, R]) Enqueue(q Q) (wait func(ctx context.Context) (R, error), err error) {
	t, err := l.enqueue(q, false)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (R, error) { return l.wait(ctx, t) }, nil
}

// Fresh returns once memory holds everything that was in the log when it was called. Its errors are those of Propose, so
// it also tells whether the log has stopped.
func (l *Log[Q, R]) Fresh(ctx context.Context) error {
	var none Q
	t, err := l.enqueue(none, true)
	if err != nil {
		return err
	}
	_, err = l.wait(ctx, t)
	return err
}

// Poll makes the log read what others have written since, up to the present end, without a slot of its own. It returns at
// once: the machine's Apply sees what is found. While the engine does not answer, any number of calls are one.
func (l *Log[Q, R]) Poll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return
	}
	l.poll = true
	l.signal()
}

// Snapshot stores the machine's present state in the engine and returns its slot. Requests wait while the machine writes
// its state, not while the engine stores it.
func (l *Log[Q, R]) Snapshot(ctx context.Context) (uint64, error) {
	store, ok := l.engine.(SnapshotStore)
	if !ok {
		return 0, fmt.Errorf("sharedlog: engine %T keeps no snapshots", l.engine)
	}
	var snapshot *sharedlog.Snapshot
	taken := make(chan bool, 1)
	err := l.call(func() {
		s, ok := l.replica.Snapshot()
		snapshot = s
		taken <- ok
	})
	if err != nil {
		return 0, err
	}
	select {
	case ok := <-taken:
		if !ok {
			return 0, errors.New("sharedlog: this machine takes no snapshots")
		}
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if snapshot.Slot == 0 {
		return 0, nil
	}
	return snapshot.Slot, store.SaveSnapshot(ctx, snapshot.Slot, snapshot.Encode())
}

// Close lets the requests that wait finish, refuses new ones, and returns when the last is answered. A request whose
// outcome the engine does not know after one more try is answered Unknown. The error is what stopped the log before its
// time, if anything did. Close may be called more than once.
func (l *Log[Q, R]) Close() error {
	l.mu.Lock()
	l.closing = true
	l.mu.Unlock()
	l.cancel()
	l.signal()
	<-l.done
	return l.replica.Stopped()
}

func (l *Log[Q, R]) enqueue(q Q, fresh bool) (*ticket[Q, R], error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return nil, &sharedlog.Error{Outcome: sharedlog.NotApplied, Err: sharedlog.ErrClosed}
	}
	if len(l.queue) >= l.options.QueueMax {
		return nil, &sharedlog.Error{Outcome: sharedlog.NotApplied, Err: fmt.Errorf("%w: %d requests wait", sharedlog.ErrBusy, len(l.queue))}
	}
	t := l.tickets.Get().(*ticket[Q, R])
	t.q, t.fresh = q, fresh
	t.state.Store(waiting)
	l.queue = append(l.queue, t)
	l.signal()
	return t, nil
}

func (l *Log[Q, R]) wait(ctx context.Context, t *ticket[Q, R]) (R, error) {
	select {
	case <-t.done:
	case <-ctx.Done():
		var none R
		outcome := sharedlog.Unknown
		if t.state.CompareAndSwap(waiting, givenUp) {
			outcome = sharedlog.NotApplied
		}
		return none, &sharedlog.Error{Outcome: outcome, Err: ctx.Err()}
	}
	result, err := t.result, t.err
	var zero ticket[Q, R]
	t.q, t.result, t.err = zero.q, zero.result, nil
	l.tickets.Put(t)
	return result, err
}

func (l *Log[Q, R]) call(f func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return sharedlog.ErrClosed
	}
	l.calls = append(l.calls, f)
	l.signal()
	return nil
}

func (l *Log[Q, R]) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run performs what the replica wants until the log is closed and everything is answered.
func (l *Log[Q, R]) run() {
	defer close(l.done)
	attempt := 0 // tries in a row that told nothing
	for {
		closing := l.collect()
		op := l.replica.Next(l.options.Now().UnixNano())
		l.deliver()
		known := true
		switch op.Kind {
		case sharedlog.OpNone:
			if closing && l.drained() {
				return
			}
			<-l.wake
		case sharedlog.OpCreate:
			known = l.create(op)
		case sharedlog.OpGet:
			known = l.get(op)
		}
		if known {
			attempt = 0
		} else if attempt++; l.ctx.Err() != nil {
			l.replica.Stop(sharedlog.ErrClosed)
		} else {
			l.options.Pause(l.ctx, attempt)
		}
	}
}

// collect moves waiting requests to the replica, as many as the next slot can take, runs the calls, and says whether the
// log is closing. While the replica cannot propose yet, requests stay where they are: of one that is given up there it is
// proven that it was not applied.
func (l *Log[Q, R]) collect() (closing bool) {
	l.mu.Lock()
	if l.poll && !l.doubt { // in doubt it reads anyway, or creates again, which those who poll all the time must not keep it from
		l.replica.Catchup()
		l.poll = false
	}
	n := 0
	if l.closing || l.replica.Stopped() != nil || !l.doubt && !l.replica.Reading() {
		n = min(len(l.queue), max(0, l.options.BatchRequestsMax-l.replica.Waiting()))
	}
	for _, t := range l.queue[:n] {
		if !t.state.CompareAndSwap(waiting, taken) {
			continue
		}
		if t.fresh {
			l.replica.AskFresh(t)
		} else {
			l.replica.Ask(t, t.q)
		}
	}
	l.queue = slices.Delete(l.queue, 0, n)
	calls := l.calls
	l.calls = nil
	closing = l.closing
	l.mu.Unlock()
	for _, call := range calls {
		call()
	}
	return closing
}

func (l *Log[Q, R]) drained() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue) == 0 && len(l.calls) == 0
}

// deliver wakes the callers whose requests ended.
func (l *Log[Q, R]) deliver() {
	answers := l.replica.Answers()
	for i, a := range answers {
		t := a.Tag.(*ticket[Q, R])
		t.result, t.err = a.Result, a.Err
		t.done <- struct{}{}
		answers[i] = sharedlog.Answer[R]{}
	}
}

// create performs a create and says whether it told anything.
func (l *Log[Q, R]) create(op sharedlog.Op) bool {
	outcome, err := l.engine.Create(context.Background(), op.Slot, op.Data)
	l.replica.Created(outcome, err)
	l.doubt = l.doubt && outcome == sharedlog.NotApplied || outcome == sharedlog.Taken || outcome == sharedlog.Unknown
	if errors.Is(err, sharedlog.ErrStopped) {
		l.replica.Stop(err)
		return true
	}
	l.deliver()
	// Those just answered are about to ask again: let them, and the next slot carries them all.
	runtime.Gosched()
	return outcome != sharedlog.Unknown
}

// get performs a get and says whether it told anything.
func (l *Log[Q, R]) get(op sharedlog.Op) bool {
	data, err := l.engine.Get(context.Background(), op.Slot)
	switch {
	case err == nil:
		l.replica.Got(data) // a damaged log stops the replica, which tells every caller why
		l.doubt = false
		return true
	case errors.Is(err, sharedlog.ErrAbsent):
		l.replica.Absent()
		return !l.doubt // the end of the log, unless a create was told that there is more
	case errors.Is(err, sharedlog.ErrTrimmed):
		l.replica.Missed()
		err = l.install(context.Background())
		if err == nil {
			l.doubt = false // the fate of a batch of ours is hidden for good
			return true
		}
		l.replica.Stop(err)
	case errors.Is(err, sharedlog.ErrDamaged), errors.Is(err, sharedlog.ErrStopped):
		l.replica.Missed()
		l.replica.Stop(err)
	default:
		l.replica.Missed()
	}
	return false
}

// install restores the newest snapshot, when there is one beyond the replica's slot.
func (l *Log[Q, R]) install(ctx context.Context) error {
	store, ok := l.engine.(SnapshotStore)
	if !ok {
		return nil
	}
	data, err := store.LoadSnapshot(ctx)
	if errors.Is(err, sharedlog.ErrAbsent) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sharedlog: load snapshot: %w", err)
	}
	s, err := sharedlog.DecodeSnapshot(data)
	if err != nil {
		return fmt.Errorf("sharedlog: load snapshot: %w", err)
	}
	if s.Slot <= l.replica.Last().Slot {
		return nil
	}
	slot, err := l.engine.Get(ctx, s.Slot)
	switch {
	case err == nil && sharedlog.Sum(slot) != s.Hash:
		return fmt.Errorf("sharedlog: %w: the snapshot at slot %d was not taken from this log", sharedlog.ErrDamaged, s.Slot)
	case errors.Is(err, sharedlog.ErrAbsent) && l.exclusive: // elsewhere the read may be stale
		return fmt.Errorf("sharedlog: %w: snapshot at slot %d, which the log does not hold", sharedlog.ErrAhead, s.Slot)
	case err != nil && !errors.Is(err, sharedlog.ErrTrimmed) && !errors.Is(err, sharedlog.ErrAbsent):
		return fmt.Errorf("sharedlog: verify snapshot at slot %d: %w", s.Slot, err)
	}
	return l.replica.Install(s)
}

// backOff waits 10 ms, doubling up to 1 s.
func backOff(ctx context.Context, attempt int) {
	t := time.NewTimer(min(time.Second, 10*time.Millisecond<<min(attempt-1, 10)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
