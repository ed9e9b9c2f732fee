// Package webhook sends the events of an outbox to registered endpoints, signed by Standard Webhooks 1.0.0.
//
// # What is promised
//
// Every event after an endpoint's creation, of the types that it asked for, is delivered at least once, as long as the
// endpoint is enabled. Delivered means that the endpoint answered 2xx. An event is first sent only after the one before it
// was delivered, so what an endpoint sees for the first time comes in the outbox's order; a repeated event may come at any
// time after that and carries the same webhook-id, the event's id. One endpoint has one request under way, and waits for
// no other endpoint.
//
// A failed attempt (no answer within 15 s, a redirect, any status but 2xx) is repeated over three days, with the events
// behind it waiting, and then the endpoint is disabled; 410 disables it at once. A disabled endpoint keeps its place:
// enabled again, it goes on with the event that failed. Enabling one that waits for its next attempt makes it at once.
//
// # Who delivers
//
// Several processes may share the state: registrations, places and a lease stand in a shared log of their own, whose
// entries are the JSON of command, and whose snapshots are the JSON of registry. The holder of the lease delivers. That is
// for economy alone: two holders at a time, by clocks that disagree, would only repeat deliveries. A place is recorded
// about once a second, so what was delivered in the last second before a crash is delivered again. The log holds the
// endpoints' secrets as they are, since they must sign: keep it as safe as they should be.
package webhook

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/live"
)

// Event is one event of the outbox.
type Event struct {
	ID   string    // unique, at most 64 bytes of visible ASCII without a full stop: the webhook-id
	Type string    // what filters are matched with
	Time time.Time // when it happened
	Body []byte    // the complete CloudEvents JSON; it is not changed
}

// Source is an outbox: events in an order that never changes, once a cursor was given out behind them. Its methods may be
// called by several goroutines. A cursor is valid in every process that shares the log of a Hooks.
type Source interface {
	// Events returns up to limit events after a cursor ("": from the beginning), and the cursor behind the last of them.
	// None, and the cursor unchanged or moved on, means that there are none yet. An error that wraps ErrGone means that
	// the outbox no longer holds what follows the cursor; any other is taken as passing.
	Events(after string, limit int) (events []Event, next string, err error)
	// End returns the cursor of the present end of the outbox.
	End() string
	// Wait returns when there may be events after the cursor, or ctx ends.
	Wait(ctx context.Context, after string) error
}

// What the methods of Hooks answer, besides the errors of the log: those wrap a *sharedlog.Error with its outcome.
var (
	// ErrInvalid: a field of a request is wrong; an *InvalidError says which and why.
	ErrInvalid = errors.New("webhook: invalid request")
	// ErrUnknown: the user has no such endpoint.
	ErrUnknown = errors.New("webhook: no such endpoint")
	// ErrLimit: there are too many endpoints, too many keys within a day, or too many rotations of one endpoint within a day.
	ErrLimit = errors.New("webhook: limit reached")
	// ErrKeyReused: the idempotency key was used for another request.
	ErrKeyReused = errors.New("webhook: the idempotency key was used for another request")
	// ErrGone is what a Source answers when it no longer holds what follows a cursor.
	ErrGone = errors.New("webhook: the outbox no longer holds what follows the cursor")
)

// InvalidError names a field that is wrong. It wraps ErrInvalid.
type InvalidError struct {
	Field  string // as in JSON: "url", "types[0]"; "key" and "user" for the request's
	Detail string
}

// Error returns field and detail.
func (e *InvalidError) Error() string { return "webhook: " + e.Field + ": " + e.Detail }

// Unwrap returns ErrInvalid.
func (e *InvalidError) Unwrap() error { return ErrInvalid }

// Config is what Open needs.
type Config struct {
	Engine live.Engine // of the log; the caller closes it, after the Hooks
	Source Source
	// AllowPrivate lets endpoints be at addresses that are not public, and at http:// URLs.
	AllowPrivate bool
	Name         string            // of this process, for the lease
	Now          func() time.Time  // nil: time.Now
	Rand         *mathrand.Rand    // of the retries' jitter; used by one goroutine at a time. nil: a random seed
	Secret       io.Reader         // of the endpoints' secrets; nil: crypto/rand. Safe for concurrent use
	Logger       *slog.Logger      // nil: nothing is logged
	Transport    http.RoundTripper // of the deliveries; nil: one of its own, which AllowPrivate guards
}

func (c Config) withDefaults() Config {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Secret == nil {
		c.Secret = rand.Reader
	}
	if c.Rand == nil {
		var seed [16]byte
		rand.Read(seed[:]) // never fails
		c.Rand = mathrand.New(mathrand.NewPCG(binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:])))
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Transport == nil {
		c.Transport = newTransport(c.AllowPrivate)
	}
	return c
}

// Hooks are the registered endpoints and the deliveries to them. Its methods may be called by any number of goroutines.
type Hooks struct {
	config Config
	holder string // this process and start, in the lease
	shared bool   // other processes may write to the log
	state  *state
	log    *live.Log[command, answer]
	client *http.Client
	ctx    context.Context // ends when Close begins
	cancel context.CancelFunc
	wake   chan struct{}  // holds at most one
	done   chan struct{}  // closed when run has ended
	active sync.WaitGroup // deliveries

	flushed time.Time // when progress was last written, or tried; owned by run
	polled  time.Time // when the log was last read for what others wrote; owned by run

	mu      sync.Mutex
	workers map[string]*worker       // by endpoint; guarded by mu
	ended   map[string]chan struct{} // closed when the endpoint's last goroutine has ended; guarded by mu
	epoch   uint64                   // of the lease under which the workers' progress counts; guarded by mu

	delivered, failed, lost atomic.Uint64 // attempts: 2xx; anything else; progress that another process's lease voided
}

// Open opens the log of the registrations and begins to deliver. ctx bounds the opening alone.
func Open(ctx context.Context, config Config) (*Hooks, error) {
	config = config.withDefaults()
	var start [8]byte
	if _, err := io.ReadFull(config.Secret, start[:]); err != nil {
		return nil, fmt.Errorf("webhook: open: %w", err)
	}
	exclusive, ok := config.Engine.(live.Exclusive)
	h := &Hooks{
		config:  config,
		holder:  config.Name + "/" + hex.EncodeToString(start[:]),
		shared:  !ok || !exclusive.Exclusive(),
		client:  newClient(config.Transport),
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		workers: map[string]*worker{},
		ended:   map[string]chan struct{}{},
	}
	h.state = &state{changed: h.signal}
	log, err := live.Open(ctx, config.Engine, h.state, live.Options{Now: config.Now})
	if err != nil {
		return nil, fmt.Errorf("webhook: open log: %w", err)
	}
	h.log = log
	h.ctx, h.cancel = context.WithCancel(context.Background())
	go h.run()
	return h, nil
}

// Create registers an endpoint of a user, for the events that come after it. types are event types or, with ".*" at the
// end, beginnings of them; none: all. The answer has the secret. A repeated call with the same key within a day has the
// same answer, and replayed.
func (h *Hooks) Create(ctx context.Context, user, key, url string, types []string) (e Endpoint, replayed bool, err error) {
	if err := cmp.Or(checkRequest(user, key), checkURL(url, h.config.AllowPrivate), checkTypes(types)); err != nil {
		return Endpoint{}, false, err
	}
	secret, err := NewSecret(h.config.Secret)
	if err != nil {
		return Endpoint{}, false, err
	}
	a, err := h.ask(ctx, command{
		Kind: "create", User: user, Key: key,
		URL: url, Types: slices.Clone(types), Secret: secret, Cursor: h.config.Source.End(),
	})
	if err != nil {
		return Endpoint{}, false, err
	}
	return a.endpoint.view().withSecret(a.endpoint), a.replayed, nil
}

// Rotate gives an endpoint a new secret, which the answer has. The old one signs too for another 24 hours. The answer
// tells nothing of the deliveries, so that a repeated call with the same key within a day has the same.
func (h *Hooks) Rotate(ctx context.Context, user, key, id string) (Endpoint, error) {
	if err := checkRequest(user, key); err != nil {
		return Endpoint{}, err
	}
	secret, err := NewSecret(h.config.Secret)
	if err != nil {
		return Endpoint{}, err
	}
	a, err := h.ask(ctx, command{Kind: "rotate", User: user, Key: key, ID: id, Secret: secret})
	if err != nil {
		return Endpoint{}, err
	}
	return a.endpoint.view().withSecret(a.endpoint), nil
}

// Delete ends an endpoint. An attempt under way may still reach it.
func (h *Hooks) Delete(ctx context.Context, user, id string) error {
	_, err := h.ask(ctx, command{Kind: "delete", User: user, ID: id})
	return err
}

// Enable enables an endpoint, which goes on where it was. One that is enabled and waits for its next attempt makes it now.
func (h *Hooks) Enable(ctx context.Context, user, id string) error {
	_, err := h.ask(ctx, command{Kind: "enable", User: user, ID: id})
	return err
}

// List returns the endpoints of a user, or all of them for "", the oldest first, without secrets. It answers from memory:
// what another process changed may be missing for some seconds, unless Fresh comes first.
func (h *Hooks) List(user string) []Endpoint {
	views := []Endpoint{}
	for _, e := range h.state.endpoints() {
		if user == "" || e.User == user {
			views = append(views, h.latest(e).view())
		}
	}
	return views
}

// Fresh returns when memory holds everything that was in the log when it was called.
func (h *Hooks) Fresh(ctx context.Context) error { return h.log.Fresh(ctx) }

// Close ends the deliveries under way, writes down what was delivered, hands the lease back, and closes the log. An
// attempt that it ends does not count as failed.
func (h *Hooks) Close() error {
	h.halt()
	ctx, cancel := context.WithTimeout(context.Background(), proposeTimeout)
	defer cancel()
	if err := h.flush(ctx); err != nil {
		h.config.Logger.Warn("webhook progress not written; deliveries will be repeated", "error", err)
	}
	if l := h.state.lease(); h.shared && l.Holder == h.holder {
		if _, err := h.ask(ctx, command{Kind: "release", Holder: h.holder}); err != nil {
			h.config.Logger.Warn("webhook lease not released", "error", err)
		}
	}
	return h.log.Close()
}

// halt ends all goroutines but the log's.
func (h *Hooks) halt() {
	h.cancel()
	<-h.done
	h.active.Wait()
	h.client.CloseIdleConnections()
}

// Metrics writes figures in the Prometheus text format.
func (h *Hooks) Metrics(w io.Writer) {
	enabled, disabled := 0, 0
	for _, e := range h.state.endpoints() {
		if e.Disabled == "" {
			enabled++
		} else {
			disabled++
		}
	}
	leads := 0
	if h.leads() {
		leads = 1
	}
	figure := func(name, kind, help string, samples ...any) {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
		for i := 0; i < len(samples); i += 2 {
			fmt.Fprintf(w, "%s%s %d\n", name, samples[i], samples[i+1])
		}
	}
	figure("webhook_attempts_total", "counter", "Attempts to deliver an event, by outcome.",
		`{outcome="delivered"}`, h.delivered.Load(), `{outcome="failed"}`, h.failed.Load())
	figure("webhook_endpoints", "gauge", "Registered endpoints, by status.",
		`{status="enabled"}`, enabled, `{status="disabled"}`, disabled)
	figure("webhook_leader", "gauge", "Whether this process delivers.", "", leads)
	figure("webhook_progress_voided_total", "counter", "Records of progress that came after another process took over.",
		"", h.lost.Load())
}

// ask proposes a command and returns its answer.
func (h *Hooks) ask(ctx context.Context, c command) (answer, error) {
	a, err := h.log.Propose(ctx, c)
	if err != nil {
		return answer{}, fmt.Errorf("webhook: %w", err)
	}
	return a, a.err
}

// signal makes run look at what changed.
func (h *Hooks) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// state is the registry behind a lock, for readers beside the log.
type state struct {
	changed func() // called after every slot
	mu      sync.RWMutex
	r       registry // guarded by mu; only the log's goroutine changes it
	slots   int      // applied since the last snapshot; guarded by mu
}

func (s *state) Prepare(at sharedlog.Position, requests []command) []sharedlog.Prepared[answer] {
	return s.r.Prepare(at, requests)
}

func (s *state) Apply(b *sharedlog.Batch) []answer {
	s.mu.Lock()
	answers := s.r.Apply(b)
	s.slots++
	s.mu.Unlock()
	s.changed()
	return answers
}

func (s *state) Abandon()                 { s.r.Abandon() }
func (s *state) Snapshot() ([]byte, bool) { return s.r.Snapshot() }

func (s *state) Restore(data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots = 0
	return s.r.Restore(data)
}

func (s *state) endpoints() []endpoint {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.r.Endpoints)
}

func (s *state) endpoint(id string) (endpoint, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	place, ok := s.r.find(id)
	if !ok {
		return endpoint{}, false
	}
	return s.r.Endpoints[place], true
}

func (s *state) lease() lease {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.r.Lease
}

// due says whether there are enough slots for a snapshot, and begins to count anew.
func (s *state) due(slots int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots < slots {
		return false
	}
	s.slots = 0
	return true
}
