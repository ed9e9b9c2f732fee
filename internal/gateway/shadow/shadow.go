// Package shadow compares the answers of two upstreams while only one of them
// counts: a monolith and the service that is to take an API over from it. The
// primary answers the client, as ever; a copy of the request goes to the shadow,
// whose answer is compared and thrown away.
//
// It can neither delay nor fail the real request. Begin, Answer and the reading of
// the primary's answer never wait for the shadow: a shadow request needs one of a
// bounded number of workers, and where none is free it is dropped and counted. A
// worker is held until the shadow has answered and the primary's answer has been
// read, Timeout at most. It keeps up to BodyBytesMax of each of the two bodies,
// and while it compares them what is in them, so a Shadow's memory is bounded by
// Workers.
//
// Only safe methods are shadowed (GET, HEAD, OPTIONS), or requests that the caller
// marks since it knows that the shadow's effects do no harm.
//
// # What is compared
//
// The status; then the chosen header fields; then the bodies: as values if both
// say they are JSON and are (numbers by their exact value, objects without their
// order, ignored paths left out), else byte by byte. A gzipped body is compared by
// what is in it. Bodies that are too large, cut off, a stream, or encoded
// otherwise and differently are not compared: the status and the header still
// are, and if those are the same the outcome is Uncompared.
//
// # What is kept
//
// Counters by outcome, and of the last mismatches an Example each: where the
// first difference is, never what stood there. A path in a JSON body is made of
// its member names; where those are themselves private, ignore or do not shadow
// such an answer.
package shadow

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Settings say how much is shadowed and what is compared. The zero value of a
// field means its default.
type Settings struct {
	Workers      int           // shadow requests at once, at most; default 32, up to 1024
	BodyBytesMax int           // of a body that is compared; default 1 MiB, up to 64 MiB
	Timeout      time.Duration // of everything that one shadow request does; default 10 s, up to 10 min
	ExamplesMax  int           // kept; default 20, up to 1000
	Headers      []string      // fields compared; nil: Content-Type and Location
	Ignore       []string      // JSON pointers (RFC 6901) to what is not compared; a segment * is any one
}

const (
	workersMax  = 1024
	bodyMax     = 64 << 20
	timeoutMax  = 10 * time.Minute
	examplesMax = 1000
	pathsMax    = 100 // ignored, and header fields
)

// filled returns the settings with their defaults, or what is wrong with them.
func (s Settings) filled() (Settings, error) {
	for _, n := range []struct {
		name            string
		field           *int
		preset, highest int
	}{
		{"Workers", &s.Workers, 32, workersMax},
		{"BodyBytesMax", &s.BodyBytesMax, 1 << 20, bodyMax},
		{"ExamplesMax", &s.ExamplesMax, 20, examplesMax},
	} {
		if *n.field == 0 {
			*n.field = n.preset
		}
		if *n.field < 1 || *n.field > n.highest {
			return s, fmt.Errorf("shadow: %s is %d, want 1 to %d", n.name, *n.field, n.highest)
		}
	}
	if s.Timeout == 0 {
		s.Timeout = 10 * time.Second
	}
	if s.Timeout < time.Millisecond || s.Timeout > timeoutMax {
		return s, fmt.Errorf("shadow: Timeout is %v, want 1ms to %v", s.Timeout, timeoutMax)
	}
	if s.Headers == nil {
		s.Headers = []string{"Content-Type", "Location"}
	}
	if len(s.Headers) > pathsMax || len(s.Ignore) > pathsMax {
		return s, fmt.Errorf("shadow: %d header fields and %d ignored paths, want at most %d each",
			len(s.Headers), len(s.Ignore), pathsMax)
	}
	return s, nil
}

// An Outcome is what became of one shadow request.
type Outcome uint8

// The outcomes. Status, Header and Body are mismatches, by the first difference.
const (
	Same       Outcome = iota
	Status             // the statuses differ
	Header             // a compared header field differs
	Body               // the bodies differ
	Failed             // the shadow gave no answer, or not in time
	Uncompared         // nothing differs, but the bodies could not be compared; or the primary gave no answer
	Dropped            // no worker was free: the shadow was not asked
	outcomes
)

// String returns the outcome's name, as metrics have it.
func (o Outcome) String() string {
	return [...]string{"same", "status", "header", "body", "failed", "uncompared", "dropped"}[o]
}

// Outcomes are all outcomes, in order.
func Outcomes() []Outcome { return []Outcome{Same, Status, Header, Body, Failed, Uncompared, Dropped} }

// An Example is a mismatch, without anything of what the two answered.
type Example struct {
	At            time.Time `json:"at"`
	Method        string    `json:"method"`
	Route         string    `json:"route"`
	TraceID       string    `json:"trace_id,omitempty"`
	Outcome       string    `json:"outcome"`
	PrimaryStatus int       `json:"primary_status"`
	ShadowStatus  int       `json:"shadow_status"`

	// Where is the first difference: a header field's name; or of a body the
	// JSON pointer, "whole" if it is the value itself, or "byte 17".
	Where string `json:"where,omitempty"`
}

// A Shadow shadows one route. Make one with New, end it with Close.
type Shadow struct {
	settings Settings
	ignore   [][]string
	ctx      context.Context
	cancel   context.CancelFunc
	closing  sync.Once
	slots    chan struct{} // holds one value for each busy worker
	counts   [outcomes]atomic.Uint64

	mu       sync.Mutex
	examples []Example // guarded by mu: oldest first, at most ExamplesMax
}

// New returns a Shadow whose requests also end with ctx.
func New(ctx context.Context, settings Settings) (*Shadow, error) {
	settings, err := settings.filled()
	if err != nil {
		return nil, err
	}
	s := &Shadow{settings: settings, slots: make(chan struct{}, settings.Workers)}
	for _, path := range settings.Ignore {
		segments, err := parsePointer(path)
		if err != nil {
			return nil, err
		}
		s.ignore = append(s.ignore, segments)
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s, nil
}

// Close ends all shadow requests under way and waits for them; none begins any
// more.
func (s *Shadow) Close() {
	s.closing.Do(func() {
		s.cancel()
		for range cap(s.slots) {
			s.slots <- struct{}{}
		}
		for range cap(s.slots) {
			<-s.slots
		}
	})
}

// Count returns how often an outcome was.
func (s *Shadow) Count(o Outcome) uint64 { return s.counts[o].Load() }

// Running returns how many workers are busy.
func (s *Shadow) Running() int { return len(s.slots) }

// Examples returns the last mismatches, newest first.
func (s *Shadow) Examples() []Example {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(s.examples)
	slices.Reverse(all)
	return all
}

// A Request is what Begin is told of a request.
type Request struct {
	Method  string
	Route   string    // its name or pattern, for the examples; not the path, which may hold what is private
	TraceID string    // for the examples; may be empty
	At      time.Time // for the examples
	Marked  bool      // may be shadowed whatever its method

	// Send sends the copy to the shadow and returns its answer. It runs in a
	// goroutine of its own while the real request goes on, so it must use
	// nothing of that: a header and, if there is one, a body of its own. The
	// context ends by the Timeout at the latest.
	Send func(ctx context.Context) (*http.Response, error)
}

// Begin asks the shadow, if the request may be shadowed and a worker is free. It
// never waits. The Call it returns may be nil, whose methods do nothing; else
// Answer or Abandon must follow, and to call Abandon at the end in any case is
// right.
func (s *Shadow) Begin(r Request) *Call {
	if !r.Marked && r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodOptions {
		return nil
	}
	select {
	case s.slots <- struct{}{}:
	default:
		s.counts[Dropped].Add(1)
		return nil
	}
	if s.ctx.Err() != nil { // asked with the slot in hand, for which Close waits
		<-s.slots
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.settings.Timeout)
	c := &Call{shadow: s, request: r, cancel: cancel, primary: make(chan *answer, 1)}
	go s.work(ctx, c)
	return c
}

// work asks the shadow, waits for what the primary said, and compares.
func (s *Shadow) work(ctx context.Context, c *Call) {
	defer func() { <-s.slots }()
	defer c.cancel()
	second, err := s.fetch(ctx, c.request)
	var first *answer
	if err == nil {
		first = c.wait(ctx)
	}
	outcome, where := Uncompared, ""
	switch {
	case c.abandoned.Load():
	case err != nil:
		outcome = Failed
	case first != nil:
		outcome, where = s.compare(first, second)
	}
	if outcome == Status || outcome == Header || outcome == Body {
		s.keep(Example{
			At: c.request.At, Method: c.request.Method, Route: c.request.Route, TraceID: c.request.TraceID,
			Outcome: outcome.String(), PrimaryStatus: first.status, ShadowStatus: second.status, Where: where,
		})
	}
	s.counts[outcome].Add(1)
}

// fetch gets the shadow's answer. A Send that panics has failed: the real
// request, which is another goroutine's, must not end with it.
func (s *Shadow) fetch(ctx context.Context, r Request) (a *answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("shadow: panic: %v", p)
		}
	}()
	answered, err := r.Send(ctx)
	if err != nil {
		return nil, err
	}
	defer answered.Body.Close()
	a = s.head(r.Method, answered)
	if a.body, err = io.ReadAll(io.LimitReader(answered.Body, int64(s.settings.BodyBytesMax)+1)); err != nil {
		return nil, err
	}
	if len(a.body) > s.settings.BodyBytesMax {
		a.body, a.cut = nil, true
	}
	return a, nil
}

// keep adds an example, and lets the oldest go.
func (s *Shadow) keep(e Example) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.examples) == s.settings.ExamplesMax {
		s.examples = slices.Delete(s.examples, 0, 1)
	}
	s.examples = append(s.examples, e)
}
