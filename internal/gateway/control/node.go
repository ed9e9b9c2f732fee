package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dongne/internal/gossip"
	"dongne/internal/peer"
	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/filelog"
	"dongne/internal/sharedlog/live"
)

const (
	slotBytesMax  = 16 << 20 // more than one message and all that waited for it
	segmentBytes  = 4 << 20
	snapshotSlots = 256         // slots after which the log is snapshotted and trimmed
	judgeInterval = time.Second // between two looks at the releases
)

// Options is what a node is told at the start.
type Options struct {
	Dir    string            // of the log
	Self   string            // this gateway's name, which no other ever has
	Peers  map[string]string // the other gateways' URLs by name; see peer.Parse
	Secret []byte            // shared with them, at least 16 bytes; needed with Peers
	Routes []string          // those that may be changed, at most 1,024
	Now    func() time.Time
	Rand   *rand.Rand   // used by the node alone
	Client *http.Client // for the peers
	Logger *slog.Logger
}

// A Node is one gateway's part of the control. Its methods may be called by any number of goroutines.
type Node struct {
	options Options
	start   time.Time
	cluster *peer.Cluster
	table   atomic.Pointer[Table]
	file    *filelog.Log
	live    *live.Log[*request, answer]
	links   map[string]*link
	kick    chan struct{} // there may be something to send; holds one
	grown   chan struct{} // the log has grown enough to be snapshotted; holds one
	synced  chan struct{}
	stop    context.CancelFunc
	loops   sync.WaitGroup

	rollbacks atomic.Int64 // that this node decided on

	mu      sync.Mutex // guards what follows
	history *history
	gossip  *gossip.Node             // nil until the log has been read
	clock   Stamp                    // the highest given out or heard of
	slots   int                      // since the last snapshot
	changed chan struct{}            // closed at the next change
	shown   map[string]gossip.Vector // what peers showed, until that is here too; nil once synced is closed
}

// A request is a local change or a peer's message.
type request struct {
	Request
	route   string
	kind    Kind
	what    string
	once    bool // under one request id
	next    func(value json.RawMessage, luck uint64) (any, error)
	message *gossip.Message
	from    string
}

type answer struct {
	entry Entry
	err   error
}

// Open reads the log, or begins one, and starts to listen to the peers.
func Open(ctx context.Context, options Options) (*Node, error) {
	n := &Node{
		options: options,
		start:   options.Now(),
		links:   map[string]*link{},
		kick:    make(chan struct{}, 1),
		grown:   make(chan struct{}, 1),
		synced:  make(chan struct{}),
		history: newHistory(),
		changed: make(chan struct{}),
		shown:   map[string]gossip.Vector{},
	}
	n.cluster = &peer.Cluster{Purpose: "dongne-gateway-1", Self: options.Self, URLs: options.Peers, Secret: options.Secret,
		Now: options.Now, Client: options.Client}
	if err := n.check(); err != nil {
		return nil, err
	}
	file, report, err := filelog.Open(options.Dir, filelog.Options{SegmentBytes: segmentBytes})
	if err != nil {
		return nil, fmt.Errorf("control: open log: %w", err)
	}
	options.Logger.Info("control log opened", "found", report.String())
	n.file = file
	n.live, err = live.Open(ctx, file, machine{n}, live.Options{Now: options.Now, BatchBytesMax: slotBytesMax})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("control: read log: %w", err), file.Close())
	}
	n.begin(context.WithoutCancel(ctx))
	return n, nil
}

func (n *Node) check() error {
	if err := n.cluster.Check(); err != nil {
		return err
	}
	if len(n.options.Routes) > RoutesMax {
		return fmt.Errorf("control: %d routes, at most %d", len(n.options.Routes), RoutesMax)
	}
	for _, route := range n.options.Routes {
		if err := validName("route", route); err != nil {
			return fmt.Errorf("control: %w", err)
		}
	}
	return nil
}

// begin shows what the log said, and starts the goroutines.
func (n *Node) begin(ctx context.Context) {
	ctx, n.stop = context.WithCancel(ctx)
	random := n.options.Rand
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clock = n.history.state.Newest()
	table := &Table{}
	for _, e := range n.history.state.Entries() {
		table = table.with(e.Route, &n.history.state, n.start)
	}
	n.table.Store(table)
	n.gossip = gossip.New(gossip.Config{
		Self:        n.options.Self,
		Peers:       n.cluster.Names(),
		Incarnation: uint64(n.start.UnixMilli()),
		Restored:    n.history.have.Clone(),
		Storage:     storage{n},
		Profile:     gossip.LAN,
		Rand:        rand.New(rand.NewPCG(random.Uint64(), random.Uint64())),
	})
	n.checkSynced()
	for _, name := range n.cluster.Names() {
		l := &link{name: name, queue: make(chan []byte, linkQueueMax)}
		n.links[name] = l
		n.loop(ctx, func(ctx context.Context) { n.runLink(ctx, l) })
	}
	n.loop(ctx, n.sendLoop)
	n.loop(ctx, n.judgeLoop)
	n.loop(ctx, n.upkeepLoop)
}

func (n *Node) loop(ctx context.Context, f func(context.Context)) {
	n.loops.Go(func() { f(ctx) })
}

// Close ends the exchange with the peers and closes the log. What was acknowledged is on disk; peers that were not told
// are told after the next Open.
func (n *Node) Close() error {
	n.stop()
	n.loops.Wait()
	return errors.Join(n.live.Close(), n.file.Close())
}

// Table returns what is set now: one load of a pointer. A change that was answered is in it.
func (n *Node) Table() *Table { return n.table.Load() }

// SetSwitch throws a route's kill switch. The entry's value is the Switch as JSON. Errors wrap ErrInvalid, ErrRoute or
// ErrChanged, or are a *sharedlog.Error that says what is known of the change.
func (n *Node) SetSwitch(ctx context.Context, route string, r Request, s Switch) (Entry, error) {
	s, err := s.checked()
	if err != nil {
		return Entry{}, err
	}
	if s.At(n.options.Now()) != s.Mode {
		return Entry{}, fmt.Errorf("%w: expired at %v", ErrInvalid, s.Expires)
	}
	next := func(json.RawMessage, uint64) (any, error) { return s, nil }
	return n.change(ctx, &request{Request: r, route: route, kind: KindSwitch, what: s.what(), next: next})
}

// Step moves a route's release on. The entry's value is the Canary after it as JSON. Errors are as of SetSwitch, or
// wrap ErrStep or ErrLocked.
func (n *Node) Step(ctx context.Context, route string, r Request, s Step) (Entry, error) {
	next := func(value json.RawMessage, luck uint64) (any, error) {
		c, err := current[Canary](value)
		if err != nil {
			return nil, err
		}
		return c.Next(r.By, s, luck)
	}
	if err := s.check(); err != nil {
		return Entry{}, err
	}
	return n.change(ctx, &request{Request: r, route: route, kind: KindCanary, what: s.what(), once: true, next: next})
}

// SetStrangler sets a route's strangler, the zero Strangler to end it. The entry's value is the Strangler as JSON.
// Errors are as of SetSwitch.
func (n *Node) SetStrangler(ctx context.Context, route string, r Request, s Strangler) (Entry, error) {
	if _, err := s.checked(Strangler{}, 0); err != nil {
		return Entry{}, err
	}
	next := func(value json.RawMessage, luck uint64) (any, error) {
		old, err := current[Strangler](value)
		if err != nil {
			return nil, err
		}
		return s.checked(old, luck)
	}
	return n.change(ctx, &request{Request: r, route: route, kind: KindStrangler, what: s.what(), next: next})
}

// current reads the value that a change begins with.
func current[V any](value json.RawMessage) (v V, err error) {
	if value == nil {
		return v, nil
	}
	if err := json.Unmarshal(value, &v); err != nil {
		return v, fmt.Errorf("%w: a newer gateway has set what this one cannot read: %v", ErrStep, err)
	}
	return v, nil
}

func (n *Node) change(ctx context.Context, q *request) (Entry, error) {
	if err := q.check(); err != nil {
		return Entry{}, err
	}
	if !slices.Contains(n.options.Routes, q.route) {
		return Entry{}, fmt.Errorf("%w: %.128q", ErrRoute, q.route)
	}
	a, err := n.live.Propose(ctx, q)
	if err != nil {
		return Entry{}, err
	}
	return a.entry, a.err
}

// Audit returns the newest changes on any gateway, at most limit and at most 1,000, newest first and without values.
func (n *Node) Audit(limit int) []Entry {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.history.state.Audit(limit)
}

// Changed returns a channel that is closed at the next change, on whatever gateway. Take it before the Table.
func (n *Node) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// Synced returns a channel that is closed once this node has everything that each peer had when it was heard of first.
// A gateway with an empty disk knows of no switch before; it waits for this a while, and not for ever, as a peer may be
// away.
func (n *Node) Synced() <-chan struct{} { return n.synced }

// Outcomes returns what the sides of a route's release did lately, through this gateway. ok is false unless the route
// is at canary.
func (n *Node) Outcomes(route string) (primary, candidate Counts, ok bool) {
	r := n.Table().Route(route)
	if r.outcomes == nil {
		return primary, candidate, false
	}
	w := r.window(n.options.Now())
	return w[primarySide].counts(), w[candidateSide].counts(), true
}

// judgeLoop rolls back candidates that are worse than their primaries.
func (n *Node) judgeLoop(ctx context.Context) {
	ticker := time.NewTicker(judgeInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			n.judge(ctx)
		}
	}
}

func (n *Node) judge(ctx context.Context) {
	now := n.options.Now()
	for name, r := range n.Table().routes { // in whatever order: routes do not meet
		if r.outcomes == nil {
			continue
		}
		w := r.window(now)
		reason := r.Canary.Guard.judge(&w[primarySide], &w[candidateSide])
		if reason == "" || !slices.Contains(n.options.Routes, name) {
			continue
		}
		by := Request{By: "gateway " + n.options.Self, Expect: r.CanaryStamp}
		_, err := n.Step(ctx, name, by, Step{Do: Rollback, Reason: reason})
		if err == nil {
			n.rollbacks.Add(1)
		}
		n.options.Logger.Warn("candidate rolled back", "route", name, "candidate", r.Canary.Candidate, "reason", reason,
			"err", err)
	}
}

func (r *Route) window(now time.Time) [sides]sample {
	return r.outcomes.window(now, uint64(r.Canary.Guard.withDefaults().SamplesMin))
}

// upkeepLoop keeps the log short.
func (n *Node) upkeepLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.grown:
		}
		slot, err := n.live.Snapshot(ctx)
		if err == nil && slot > 0 {
			err = n.file.Trim(slot)
		}
		if err != nil && ctx.Err() == nil {
			n.options.Logger.Error("control snapshot", "err", err)
		}
	}
}

// Metrics writes what the node counts as Prometheus text.
func (n *Node) Metrics(w io.Writer) {
	n.mu.Lock()
	stats, kept, registers := n.gossip.Stats(), n.history.count, len(n.history.state.registers)
	n.mu.Unlock()
	var dropped, failed int64
	for _, l := range n.links {
		dropped += l.dropped.Load()
		failed += l.failed.Load()
	}
	for _, m := range []struct {
		name, kind, help string
		value            int64
	}{
		{"gateway_control_registers", "gauge", "what is set, by route and kind", int64(registers)},
		{"gateway_control_kept", "gauge", "changes of which more than the number is kept", int64(kept)},
		{"gateway_control_rollbacks_total", "counter", "releases that this gateway rolled back by itself", n.rollbacks.Load()},
		{"gateway_control_messages_dropped_total", "counter", "messages to peers for which the queue had no room", dropped},
		{"gateway_control_messages_failed_total", "counter", "messages to peers that did not arrive", failed},
		{"gateway_control_restored_total", "counter", "times that peers knew more than our disk of us", int64(stats.Rollbacks)},
	} {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n%s %d\n", m.name, m.help, m.name, m.kind, m.name, m.value)
	}
}

// elapsed is the time since the start.
func (n *Node) elapsed() time.Duration { return n.options.Now().Sub(n.start) }

// wake sends to a channel that holds one, which is then full.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Outcome says what is known of a change that failed: refusals are of what was not applied.
func Outcome(err error) sharedlog.Outcome {
	for _, refused := range []error{ErrInvalid, ErrRoute, ErrStep, ErrLocked, ErrChanged} {
		if errors.Is(err, refused) {
			return sharedlog.NotApplied
		}
	}
	return sharedlog.OutcomeOf(err)
}
