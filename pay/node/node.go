// Package node is one pay process without its HTTP routes: the shards of the ledger behind their logs, transfers between
// shards, expiry, snapshots, the outbox and its webhooks.
//
// Every request is one command in the log of its shard: it is answered once the slot is durable, and what it did is decided
// by the log's order alone. Several processes may share the logs of an etcd; none of them is special.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/live"
	"dongne/internal/sharedlog/store"
	"dongne/pay/ledger"
	"dongne/pay/webhook"
)

// Config is what a node is told at the start.
type Config struct {
	Name   string // of this process, for people
	Store  string // "file" or "etcd://host:port,…"
	Dir    string
	Shards int // of a new ledger; an old one keeps its own, and refuses another number
	// WebhooksPrivate lets webhooks go to loopback and private addresses, and without TLS.
	WebhooksPrivate bool
	Now             func() time.Time
	Rand            *rand.Rand // guarded by the node once Open has returned
	Logger          *slog.Logger
}

const (
	shardsMax    = 64
	slotBytesMax = 5 << 18         // 1.25 MiB: what etcd takes in one request, with room for its own
	answerMax    = 5 * time.Second // for an answer; later it is unknown
)

// Errors of reads. Those of writes are *sharedlog.Error, with their outcome, and ErrInFlight.
var (
	ErrInFlight        = errors.New("a request under this idempotency key is in flight")
	ErrAccountUnknown  = errors.New("no such account")
	ErrTransferUnknown = errors.New("no such transfer")
	ErrCursor          = errors.New("cursor is none of this list")
)

// Node is a running node. Its methods may be called by any number of goroutines.
type Node struct {
	config Config
	store  *store.Store
	shards []*shard
	hooks  *webhook.Hooks
	hooked store.Log
	stop   context.CancelFunc
	loops  sync.WaitGroup

	mu      sync.Mutex
	flights map[ledger.Key]chan struct{} // closed when the request has ended; guarded by mu
	changed chan struct{}                // closed when a shard has new events; guarded by mu
	rand    *rand.Rand                   // guarded by mu
}

// shard is one ledger behind its log.
type shard struct {
	node   *Node
	number int
	engine store.Log
	log    *live.Log[*ledger.Call, []ledger.Result]

	mu    sync.RWMutex
	state *ledger.State // the log's goroutine writes it, with mu held

	snapshot int // records in the newest snapshot; owned by the upkeep loop
}

// Open brings the ledger up to the end of its logs, or makes a new one.
func Open(ctx context.Context, config Config) (*Node, error) {
	s, err := store.Open(config.Store, config.Dir, "pay")
	if err != nil {
		return nil, fmt.Errorf("STORE: %w", err)
	}
	if err := settleShards(ctx, s, config.Shards); err != nil {
		return nil, err
	}
	n := &Node{config: config, store: s, flights: make(map[ledger.Key]chan struct{}), changed: make(chan struct{}), rand: config.Rand}
	if err := n.open(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// settleShards makes sure that the number of shards is the one that the ledger began with.
func settleShards(ctx context.Context, s *store.Store, shards int) error {
	want := strconv.Itoa(shards)
	stands, err := s.Setting(ctx, "shards", want)
	if err != nil {
		return fmt.Errorf("pay: %w", err)
	}
	if stands != want {
		return fmt.Errorf("SHARDS: %s, but this ledger has %s shards, and that cannot change", want, stands)
	}
	return nil
}

func (n *Node) open(ctx context.Context) error {
	for i := range n.config.Shards {
		sh := &shard{node: n, number: i, state: ledger.NewState(i, n.config.Shards)}
		engine, report, err := n.store.Log(ctx, "shard-"+strconv.Itoa(i))
		if err != nil {
			return fmt.Errorf("pay: open log of shard %d: %w", i, err)
		}
		sh.engine = engine
		n.shards = append(n.shards, sh)
		sh.log, err = live.Open(ctx, engine, machine{sh}, live.Options{Now: n.config.Now, BatchBytesMax: slotBytesMax})
		if err != nil {
			return fmt.Errorf("pay: read log of shard %d: %w", i, err)
		}
		accounts, records, _, keys := sh.state.Counts()
		sh.snapshot = records
		n.config.Logger.Info("log opened", "shard", i, "found", report, "slot", sh.state.Position().Slot,
			"accounts", accounts, "records", records, "keys", keys)
	}
	if err := n.openHooks(ctx); err != nil {
		return err
	}
	loops, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.stop = stop
	n.loop(loops, expiryEvery, n.expire)
	n.loop(loops, recoveryEvery, n.recover)
	n.loop(loops, snapshotEvery, n.snapshot)
	if n.store.Shared() {
		n.loop(loops, pollEvery, n.poll)
	}
	return nil
}

func (n *Node) openHooks(ctx context.Context) error {
	engine, _, err := n.store.Log(ctx, "webhooks")
	if err != nil {
		return fmt.Errorf("pay: open log of webhooks: %w", err)
	}
	n.hooked = engine
	n.hooks, err = webhook.Open(ctx, webhook.Config{Engine: engine, Source: n, AllowPrivate: n.config.WebhooksPrivate,
		Name: n.config.Name, Now: n.config.Now, Rand: rand.New(rand.NewPCG(n.config.Rand.Uint64(), n.config.Rand.Uint64())), Logger: n.config.Logger})
	if err != nil {
		return fmt.Errorf("pay: open webhooks: %w", err)
	}
	return nil
}

// Webhooks returns the endpoints that are told of events.
func (n *Node) Webhooks() *webhook.Hooks { return n.hooks }

// Close lets what is under way finish, stores snapshots, and closes the logs.
func (n *Node) Close() error {
	var errs []error
	if n.stop != nil {
		n.stop()
		n.loops.Wait()
		n.snapshotAll(context.Background(), snapshotAtClose)
	}
	if n.hooks != nil {
		errs = append(errs, n.hooks.Close())
	}
	for _, sh := range n.shards {
		if sh.log != nil {
			errs = append(errs, sh.log.Close())
		}
		errs = append(errs, sh.engine.Close())
	}
	if n.hooked != nil {
		errs = append(errs, n.hooked.Close())
	}
	return errors.Join(errs...)
}

// machine is the ledger as the log drives it, with the lock of its readers.
type machine struct{ *shard }

func (m machine) inner() ledger.Machine { return ledger.Machine{State: m.state} }

// Prepare implements sharedlog.Machine.
func (m machine) Prepare(at sharedlog.Position, calls []*ledger.Call) []sharedlog.Prepared[[]ledger.Result] {
	return m.inner().Prepare(at, calls)
}

// Apply implements sharedlog.Machine.
func (m machine) Apply(b *sharedlog.Batch) [][]ledger.Result {
	m.mu.Lock()
	before := m.state.LastEvent()
	results := m.inner().Apply(b)
	news := m.state.LastEvent() != before
	m.mu.Unlock()
	if news {
		m.node.tell()
	}
	return results
}

// Abandon implements sharedlog.Machine.
func (m machine) Abandon() {}

// Snapshot implements sharedlog.Machine.
func (m machine) Snapshot() ([]byte, bool) { return m.inner().Snapshot() }

// Restore implements sharedlog.Machine.
func (m machine) Restore(state []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inner().Restore(state)
}

// read runs f while the shard's state stands still.
func (sh *shard) read(f func(s *ledger.State)) {
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	f(sh.state)
}

// fresh makes sure that the shard's memory holds all that was acknowledged anywhere before the call.
func (sh *shard) fresh(ctx context.Context) error {
	if !sh.node.store.Shared() {
		return nil // what is acknowledged was applied here
	}
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	return sh.log.Fresh(ctx)
}

// propose puts a call into the shard's log and returns its results.
func (sh *shard) propose(ctx context.Context, call *ledger.Call) ([]ledger.Result, error) {
	results, err := sh.log.Propose(ctx, call)
	if err != nil {
		return nil, err
	}
	return results, nil
}

// one proposes a single request.
func (sh *shard) one(ctx context.Context, q ledger.Request) (ledger.Result, error) {
	results, err := sh.propose(ctx, ledger.NewCall(q))
	if err != nil {
		return ledger.Result{}, err
	}
	return results[0], nil
}

func (n *Node) jitter(most time.Duration) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Duration(n.rand.Int64N(int64(cmp.Or(most, 1))))
}
