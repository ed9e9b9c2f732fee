// Package sharedlog is a replicated log of write-once slots, as pure code: no clock, no I/O, no locks, no goroutines.
//
// A slot is created once and never changed. An engine offers create-if-absent and get on slots; a Replica drives a
// deterministic Machine through them: it says which slot to create or get next, is told what came of it, and hands back
// the answers of the requests whose commands landed. Package live runs a Replica over an engine; a simulator can run the
// same Replica in virtual time.
//
// Slots count from 1. Every slot holds one Batch, which carries who wrote it (a writer and a number unique to it), the
// hash of the slot before it, and its time; so each replica computes the same state from the same slots, notices a slot
// that does not follow from the one before it, and recognises its own batch when the answer to its create was lost.
//
// The algorithm is that of write-once registers chosen in sequence (Lamport's state machine approach; Schneider 1990;
// the shared logs of CORFU, Balakrishnan et al. 2012), with the consensus on one slot left to the engine.
package sharedlog

import "errors"

// Outcome says what is known of an operation that may have failed. The zero value, Unknown, claims nothing.
type Outcome uint8

const (
	// Unknown: it may have happened, may not have, and may still happen later.
	Unknown Outcome = iota
	// Created: the slot holds the bytes of this create.
	Created
	// Taken: the slot was created before, by this create's earlier try or by another writer, or lies below the floor.
	Taken
	// NotApplied: it did not happen and never will. Only ever said when that is proven.
	NotApplied
	// Applied: it happened.
	Applied
)

// String returns the outcome in the words of an API: "unknown", "created", "taken", "not_applied", "applied".
func (o Outcome) String() string {
	switch o {
	case Created:
		return "created"
	case Taken:
		return "taken"
	case NotApplied:
		return "not_applied"
	case Applied:
		return "applied"
	}
	return "unknown"
}

// Error is the failure of a request together with what is known of its effect: NotApplied, Applied or Unknown.
type Error struct {
	Outcome Outcome
	Err     error
}

// Error returns the outcome and the cause.
func (e *Error) Error() string { return "sharedlog: " + e.Outcome.String() + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// OutcomeOf returns what err says of its request: Applied for nil, Unknown for an error that does not say.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return Applied
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Outcome
	}
	return Unknown
}

// What engines and drivers answer. Engines wrap them with the place and the cause.
var (
	// ErrAbsent: no slot was found there. From an engine whose reads may be stale it proves nothing.
	ErrAbsent = errors.New("slot absent")
	// ErrTrimmed: the slot lies below the log's floor; only a snapshot holds its effect.
	ErrTrimmed = errors.New("slot trimmed")
	// ErrFull: the store has no space left; the same request may succeed when there is some.
	ErrFull = errors.New("no space left")
	// ErrStopped: the engine will not write again before it is opened anew.
	ErrStopped = errors.New("log stopped")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("log closed")
	// ErrBusy: the queue of waiting requests is full.
	ErrBusy = errors.New("log busy")
	// ErrTooLarge: the commands of one request exceed the limit of a batch.
	ErrTooLarge = errors.New("request too large for a batch")
	// ErrDamaged: what was read is not what was written.
	ErrDamaged = errors.New("log damaged")
	// ErrAhead: a snapshot is newer than the log beside it.
	ErrAhead = errors.New("snapshot is newer than its log")
)
