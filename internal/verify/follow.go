package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dongne/internal/token"
)

const (
	silenceMax   = 5 * time.Second // of the feed, which says each second that it is alive
	feedPauseMax = time.Second     // between connections
)

// Source is where a Verifier learns from; HTTP is the one over a network. Its methods end when their ctx is done. A
// Verifier calls Metadata and Keys from one goroutine and Follow from another.
type Source interface {
	// Metadata returns the issuer of the tokens.
	Metadata(ctx context.Context) (issuer string, err error)
	// Keys returns the keys that may have signed a token, and for how long they need not be asked for again; 0 if that
	// is not said.
	Keys(ctx context.Context) (keys token.Set, fresh time.Duration, err error)
	// Follow tells on all revocations with a sequence number over after, in their order, and goes on as new ones come.
	// If it cannot know that after is of this history, or has forgotten revocations that are still needed, it begins
	// with a Reset and all that there are. An Alive comes when all up to its number were told, at first and then each
	// second. Follow calls on from one goroutine at a time, and returns with an error when it cannot go on.
	Follow(ctx context.Context, after uint64, on func(Event)) error
}

// Kind is what an Event says.
type Kind uint8

// The kinds of events.
const (
	SessionRevoked Kind = iota + 1 // the session ID was revoked, with all its tokens
	TokenRevoked                   // the token whose jti is ID was revoked
	Reset                          // what follows up to the next Alive is all there is
	Alive                          // all revocations up to Seq were told
)

// Event is one message of the feed.
type Event struct {
	Kind    Kind
	Seq     uint64    // of the revocation; of Alive see there; of no meaning for a Reset
	ID      string    // of a revocation
	Expires time.Time // of a revocation: when no token that it is about can be good any more
}

// follow follows the feed until ctx is done.
func (v *Verifier) follow(ctx context.Context) {
	for tries := 0; ctx.Err() == nil; tries++ {
		alive, err := v.followOnce(ctx)
		if alive {
			tries = 0
		}
		v.feedError.Store(reason{err})
		timer := time.NewTimer(v.pauses.after(tries, feedPauseMax))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// followOnce follows the feed until it breaks, is silent for silenceMax, or says what cannot be. alive: it was of use.
func (v *Verifier) followOnce(ctx context.Context) (alive bool, err error) {
	v.connects.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(silenceMax, func() { cancel(fmt.Errorf("verify: feed: silent for %v", silenceMax)) })
	defer watchdog.Stop()
	var fresh *revocations // what came since a Reset, until it is all
	err = v.source.Follow(ctx, v.position, func(e Event) {
		if ctx.Err() != nil {
			return
		}
		watchdog.Reset(silenceMax)
		var bad error
		if fresh, bad = v.take(e, fresh); bad != nil {
			cancel(bad)
		}
		alive = alive || e.Kind == Alive
	})
	if cause := context.Cause(ctx); cause != nil {
		return alive, cause
	}
	if err == nil {
		err = errors.New("verify: feed: it ended")
	}
	return alive, err
}

// take applies one event. fresh is what came since a Reset, nil if there was none or it is complete.
func (v *Verifier) take(e Event, fresh *revocations) (*revocations, error) {
	switch e.Kind {
	case SessionRevoked:
		return fresh, v.revoke(e, sessionID(e.ID), fresh)
	case TokenRevoked:
		return fresh, v.revoke(e, tokenID(e.ID), fresh)
	case Reset:
		return &revocations{}, nil
	case Alive:
		if fresh == nil && e.Seq < v.position {
			had := v.position
			v.position = 0 // ask for everything
			return nil, fmt.Errorf("verify: feed: it is at %d and was at %d", e.Seq, had)
		}
		if fresh != nil {
			v.revoked.Store(fresh)
		}
		v.position = e.Seq
		v.complete.Store(1 + int64(time.Since(v.started)))
		return nil, nil
	}
	return fresh, fmt.Errorf("verify: feed: event of kind %d", e.Kind)
}

// revoke applies a revocation at once, also one that comes behind a Reset: only to forget has to wait for the whole.
func (v *Verifier) revoke(e Event, key any, fresh *revocations) error {
	if !v.revoked.Load().add(key, e.Expires) || fresh != nil && !fresh.add(key, e.Expires) {
		return fmt.Errorf("verify: feed: over %d revocations", revocationsMax)
	}
	v.watches.end(key)
	if fresh == nil && e.Seq > v.position {
		v.position = e.Seq
	}
	return nil
}
