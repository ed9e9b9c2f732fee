package sharedlog

import (
	"errors"
	"fmt"
)

// Machine is a deterministic state machine behind a log. One goroutine drives it. Q is a request as the service has it,
// R its answer.
type Machine[Q, R any] interface {
	// Prepare turns requests into the commands of the slot that is about to be written: one Prepared per request, in
	// order. What an earlier request of the same call did may be taken as done. If any of them has a command, Apply of
	// exactly these commands or Abandon comes before the next Prepare; Abandon first when another's batch is applied.
	// The slice of requests is valid during the call; the answer stays unchanged until the next one.
	Prepare(at Position, requests []Q) []Prepared[R]
	// Apply applies a slot, ours or another's, in slot order, and returns one R per command. It must depend on the
	// batch and the state alone.
	Apply(b *Batch) []R
	// Abandon says that the last prepared commands did not land. Their requests are prepared anew or refused.
	Abandon()
	// Snapshot returns the state after the last Apply; false from a machine that takes none.
	Snapshot() ([]byte, bool)
	// Restore replaces the state by that of a snapshot.
	Restore(state []byte) error
}

// Prepared is what one request needs.
type Prepared[R any] struct {
	Commands [][]byte // the request is answered by what Apply returns for the last of them
	Done     bool     // no command is needed: a replayed idempotency key, a refusal, a read
	Result   R        // the answer when Done
	Later    bool     // it rests on what an earlier request of this call does: prepare it for the next slot; never the first
}

// Config is what a Replica is told once.
type Config struct {
	Writer Writer
	// BatchBytesMax bounds the bytes of a batch, and so the commands of one request.
	BatchBytesMax int
	// BatchRequestsMax bounds the requests of a batch.
	BatchRequestsMax int
	// Exclusive: no one else creates slots, so memory is never stale. Fresh reads, and requests that need no command,
	// then need no slot.
	Exclusive bool
}

// OpKind is what a Replica wants done.
type OpKind uint8

const (
	OpNone   OpKind = iota // nothing: wait for a request
	OpCreate               // create Slot with Data, then call Created
	OpGet                  // get Slot, then call Got
)

// Op is an operation on the engine. At most one is under way.
type Op struct {
	Kind OpKind
	Slot uint64
	Data []byte
}

// Answer ends a request. Err is nil or an *Error.
type Answer[R any] struct {
	Tag    any
	Result R
	Err    error
}

// Replica keeps a machine in step with a log and proposes batches to it. It does nothing by itself: the caller performs
// what Next returns and reports what came of it.
//
//	Ask, AskFresh           a request arrives
//	Next                    what to do on the engine now
//	Created                 what came of a create
//	Got, Absent, Missed     what came of a get
//	Answers                 requests that ended since the last call
type Replica[Q, R any] struct {
	machine  Machine[Q, R]
	config   Config
	last     Position // of the last applied slot
	hash     Hash     // of its bytes
	n        uint64   // batches prepared
	queue    []request[Q]
	proposal *proposal[Q, R]
	busy     OpKind // the operation under way
	read     bool   // the next slot exists, or may: get it before anything else
	stopped  error
	answers  []Answer[R]
}

type request[Q any] struct {
	tag   any
	q     Q
	fresh bool // only wants to know that memory is up to date
}

// proposal is a batch that is to stand at the next slot.
type proposal[Q, R any] struct {
	batch    *Batch
	data     []byte
	requests []request[Q]
	prepared []Prepared[R]
	unproven bool // a create of it may have been, or may yet be, applied
}

// NewReplica returns a replica before slot 1. Its first operations read the log up to its end.
func NewReplica[Q, R any](machine Machine[Q, R], config Config) *Replica[Q, R] {
	if config.BatchBytesMax <= batchHeaderBytes || config.BatchRequestsMax <= 0 {
		panic("sharedlog: a batch needs room")
	}
	return &Replica[Q, R]{machine: machine, config: config, read: true}
}

// Last returns the position of the last applied slot.
func (r *Replica[Q, R]) Last() Position { return r.last }

// Waiting returns how many requests are not yet part of a batch.
func (r *Replica[Q, R]) Waiting() int { return len(r.queue) }

// Reading says whether the replica is still reading what others wrote.
func (r *Replica[Q, R]) Reading() bool { return r.read }

// Ask queues a request; its answer will carry tag.
func (r *Replica[Q, R]) Ask(tag any, q Q) { r.enqueue(request[Q]{tag: tag, q: q}) }

// AskFresh queues a fresh read: once it is answered, memory holds everything that was in the log when it was asked.
func (r *Replica[Q, R]) AskFresh(tag any) { r.enqueue(request[Q]{tag: tag, fresh: true}) }

func (r *Replica[Q, R]) enqueue(q request[Q]) {
	if r.stopped != nil {
		r.fail(q, NotApplied, r.stopped)
		return
	}
	r.queue = append(r.queue, q)
}

// Answers returns the requests that ended since the last call, and forgets them. The slice is valid until the next call
// of any method.
func (r *Replica[Q, R]) Answers() []Answer[R] {
	answers := r.answers
	r.answers = r.answers[:0]
	return answers
}

// Next returns the operation to perform now; OpNone when one is under way or there is nothing to do. now is the time in
// Unix nanoseconds that a new batch proposes.
func (r *Replica[Q, R]) Next(now int64) Op {
	if r.busy != OpNone || r.stopped != nil {
		return Op{}
	}
	next := r.last.Slot + 1
	if r.read {
		r.busy = OpGet
		return Op{Kind: OpGet, Slot: next}
	}
	for r.proposal == nil && len(r.queue) > 0 {
		r.propose(Position{Slot: next, Time: max(now, r.last.Time+1)})
	}
	if r.proposal == nil {
		return Op{}
	}
	r.busy = OpCreate
	return Op{Kind: OpCreate, Slot: next, Data: r.proposal.data}
}

// propose turns the head of the queue into a proposal for a slot, or answers what needs none.
func (r *Replica[Q, R]) propose(at Position) {
	count := min(len(r.queue), r.config.BatchRequestsMax)
	for {
		requests := r.queue[:count]
		prepared := r.prepare(at, requests)
		fit, commands := r.fit(prepared)
		if fit == count {
			r.take(at, requests, prepared, commands)
			return
		}
		r.machine.Abandon()
		if fit == 0 {
			r.fail(r.queue[0], NotApplied, fmt.Errorf("%w of %d bytes", ErrTooLarge, r.config.BatchBytesMax))
			r.queue = r.queue[1:]
			return
		}
		count = fit
	}
}

// prepare asks the machine about the requests; fresh reads are none of its business.
func (r *Replica[Q, R]) prepare(at Position, requests []request[Q]) []Prepared[R] {
	asked := make([]Q, 0, len(requests))
	for _, q := range requests {
		if !q.fresh {
			asked = append(asked, q.q)
		}
	}
	var answered []Prepared[R]
	if len(asked) > 0 {
		answered = r.machine.Prepare(at, asked)
	}
	if len(answered) != len(asked) {
		panic(fmt.Sprintf("sharedlog: machine prepared %d of %d requests", len(answered), len(asked)))
	}
	if len(asked) == len(requests) {
		return answered
	}
	prepared := make([]Prepared[R], 0, len(requests))
	for _, q := range requests {
		if q.fresh {
			prepared = append(prepared, Prepared[R]{Done: true})
			continue
		}
		prepared = append(prepared, answered[0])
		answered = answered[1:]
	}
	return prepared
}

// fit returns how many of the prepared requests one batch holds, and how many commands these have.
func (r *Replica[Q, R]) fit(prepared []Prepared[R]) (requests, commands int) {
	bytes := batchHeaderBytes
	for i, p := range prepared {
		if p.Later && i > 0 {
			return i, commands
		}
		if p.Done != (len(p.Commands) == 0) {
			panic("sharedlog: a request is either done or has commands")
		}
		for _, c := range p.Commands {
			bytes += commandBytes(c)
		}
		if bytes > r.config.BatchBytesMax {
			return i, commands
		}
		commands += len(p.Commands)
	}
	return len(prepared), commands
}

// take moves prepared requests from the queue into the proposal. Where memory cannot be stale, the requests before the
// first command are answered at once: nothing they rest on is in doubt.
func (r *Replica[Q, R]) take(at Position, requests []request[Q], prepared []Prepared[R], commands int) {
	r.queue = r.queue[len(requests):]
	if r.config.Exclusive {
		for len(prepared) > 0 && prepared[0].Done {
			r.answer(requests[0], prepared[0].Result)
			requests, prepared = requests[1:], prepared[1:]
		}
		if len(prepared) == 0 {
			return
		}
	}
	r.n++
	b := &Batch{Slot: at.Slot, Time: at.Time, Writer: r.config.Writer, N: r.n, Prev: r.hash, Commands: make([]Command, 0, commands)}
	for _, p := range prepared {
		for _, c := range p.Commands {
			b.Commands = append(b.Commands, Command{Data: c})
		}
	}
	r.proposal = &proposal[Q, R]{batch: b, data: b.Encode(), requests: requests, prepared: prepared}
}

// Created says what came of the create under way. cause may be nil; it explains Unknown and NotApplied.
func (r *Replica[Q, R]) Created(outcome Outcome, cause error) {
	r.finish(OpCreate)
	p := r.proposal
	switch outcome {
	case Created:
		r.land(p.batch, p.data)
	case Taken:
		p.unproven = true // until it is read, it may be ours: an engine may have tried twice
		r.read = true
	case NotApplied:
		// This try did nothing, but an earlier one may have: then nothing is proven, and the same create is repeated.
		if !p.unproven {
			r.refuse(cause)
		}
	default:
		p.unproven = true
	}
}

// Got says what the get under way found. An error means that the log is damaged or another's; the replica has then
// stopped for good.
func (r *Replica[Q, R]) Got(data []byte) error {
	r.finish(OpGet)
	b, err := r.check(data)
	if err != nil {
		r.Stop(err)
		return err
	}
	p := r.proposal
	if p != nil && b.Writer == p.batch.Writer && b.N == p.batch.N {
		r.read = false
		r.land(p.batch, p.data)
		return nil
	}
	if p != nil { // the slot is another's, so no create of ours can ever land there
		r.machine.Abandon()
		r.queue = append(p.requests[:len(p.requests):len(p.requests)], r.queue...)
		r.proposal = nil
		r.read = false
	}
	r.apply(b, data)
	return nil
}

// Absent says that the get under way found nothing. While catching up that is the end of the log, as far as this engine
// can tell. After a create was told Taken it proves only that reads are stale: the same create is repeated.
func (r *Replica[Q, R]) Absent() {
	r.finish(OpGet)
	r.read = false
}

// Missed says that the get under way failed: it will be repeated.
func (r *Replica[Q, R]) Missed() { r.finish(OpGet) }

// Stop ends the replica for good: requests whose fate is open are answered Unknown, all others NotApplied, with cause.
func (r *Replica[Q, R]) Stop(cause error) {
	if r.stopped != nil {
		return
	}
	r.stopped = cause
	if p := r.proposal; p != nil {
		outcome := NotApplied
		if p.unproven || r.busy == OpCreate {
			outcome = Unknown
		}
		r.machine.Abandon()
		for _, q := range p.requests {
			r.fail(q, outcome, cause)
		}
		r.proposal = nil
	}
	for _, q := range r.queue {
		r.fail(q, NotApplied, cause)
	}
	r.queue = nil
}

// Stopped returns the cause given to Stop, or nil.
func (r *Replica[Q, R]) Stopped() error { return r.stopped }

// Snapshot returns the state after the last applied slot; false when the machine takes no snapshots.
func (r *Replica[Q, R]) Snapshot() (*Snapshot, bool) {
	state, ok := r.machine.Snapshot()
	return &Snapshot{Position: r.last, Hash: r.hash, State: state}, ok
}

// Install replaces the state by a snapshot of a later slot, when the slots up to it are no longer in the log. The trimmed
// slots hide the fate of a proposal: its requests are answered Unknown.
func (r *Replica[Q, R]) Install(s *Snapshot) error {
	if s.Slot <= r.last.Slot {
		return fmt.Errorf("sharedlog: snapshot at slot %d does not lead beyond slot %d", s.Slot, r.last.Slot)
	}
	if p := r.proposal; p != nil {
		r.proposal = nil
		r.machine.Abandon()
		for _, q := range p.requests {
			r.fail(q, Unknown, ErrTrimmed)
		}
	}
	if err := r.machine.Restore(s.State); err != nil {
		err = fmt.Errorf("sharedlog: restore snapshot at slot %d: %w", s.Slot, err)
		r.Stop(err)
		return err
	}
	r.last, r.hash, r.read = s.Position, s.Hash, true
	return nil
}

// Catchup makes the replica read what others wrote before it does anything else.
func (r *Replica[Q, R]) Catchup() { r.read = true }

func (r *Replica[Q, R]) finish(kind OpKind) {
	if r.busy != kind {
		panic("sharedlog: answer to an operation that is not under way")
	}
	r.busy = OpNone
}

// check decodes the bytes of the next slot and verifies that they follow the last one.
func (r *Replica[Q, R]) check(data []byte) (*Batch, error) {
	next := r.last.Slot + 1
	b, err := DecodeBatch(data)
	switch {
	case err != nil:
		return nil, fmt.Errorf("slot %d: %w", next, err)
	case b.Slot != next:
		return nil, fmt.Errorf("%w: slot %d holds the batch of slot %d", ErrDamaged, next, b.Slot)
	case b.Prev != r.hash:
		return nil, fmt.Errorf("%w: slot %d is chained to %x, but slot %d has hash %x", ErrDamaged, next, b.Prev[:8], r.last.Slot, r.hash[:8])
	case b.Time <= r.last.Time && r.last.Slot > 0:
		return nil, fmt.Errorf("%w: slot %d has time %d, not after %d", ErrDamaged, next, b.Time, r.last.Time)
	}
	return b, nil
}

// land applies our own batch and answers its requests.
func (r *Replica[Q, R]) land(b *Batch, data []byte) {
	results := r.apply(b, data)
	p := r.proposal
	r.proposal = nil
	for i, q := range p.requests {
		result := p.prepared[i].Result
		if k := len(p.prepared[i].Commands); k > 0 {
			result, results = results[k-1], results[k:]
		}
		r.answer(q, result)
	}
}

func (r *Replica[Q, R]) apply(b *Batch, data []byte) []R {
	results := r.machine.Apply(b)
	if len(results) != len(b.Commands) {
		panic(fmt.Sprintf("sharedlog: machine answered %d of %d commands", len(results), len(b.Commands)))
	}
	r.last, r.hash = Position{b.Slot, b.Time}, Sum(data)
	return results
}

// refuse ends a proposal that certainly did not land. Requests that need no command go back to the head of the queue:
// what refuses writes need not stop reads. When no request had a command the slot itself was all that was asked.
func (r *Replica[Q, R]) refuse(cause error) {
	p := r.proposal
	r.proposal = nil
	r.machine.Abandon()
	var again []request[Q]
	for i, q := range p.requests {
		if p.prepared[i].Done && len(p.batch.Commands) > 0 {
			again = append(again, q)
			continue
		}
		r.fail(q, NotApplied, cause)
	}
	r.queue = append(again, r.queue...)
}

func (r *Replica[Q, R]) answer(q request[Q], result R) {
	r.answers = append(r.answers, Answer[R]{Tag: q.tag, Result: result})
}

func (r *Replica[Q, R]) fail(q request[Q], outcome Outcome, cause error) {
	if cause == nil {
		cause = errors.New("no cause given")
	}
	r.answers = append(r.answers, Answer[R]{Tag: q.tag, Err: &Error{Outcome: outcome, Err: cause}})
}
