// Package node is one auth process without its HTTP routes: the realm behind its log, passwords, tokens, and the keys that
// sign them.
//
// What decides is the realm (package realm), in the order of its log; this package brings what that may not have: clocks,
// randomness, secrets. Several processes may share the log of an etcd; none of them is special.
//
// Secrets at rest: of passwords and refresh tokens the log has hashes alone; a refresh token's successor is sealed under the
// token before it, for those ten seconds in which it may be asked for again; private keys and secrets of second factors are
// sealed under AUTH_KEY, and lie open in the log without it.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"sync"
	"time"

	"dongne/auth/password"
	"dongne/auth/realm"
	"dongne/auth/throttle"
	"dongne/internal/serve"
	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/live"
	"dongne/internal/sharedlog/store"
	"dongne/internal/token"
	"dongne/internal/verify"
)

// Config is what a node is told at the start.
type Config struct {
	Store    string // "file" or "etcd://host:port,…"
	Dir      string
	Issuer   string
	Alg      token.Alg
	Secret   []byte // that seals what must not lie open in the log; nil: it lies open
	Hasher   password.Config
	Workers  int // that hash passwords; 0: half of the processors
	Clients  []Client
	Seeds    []Seed
	KeyCache time.Duration // for which verifiers keep a key set
	Now      func() time.Time
	Rand     io.Reader
	Logger   *slog.Logger
}

// A Client is a service that has tokens of its own.
type Client struct {
	ID     string
	Secret string
	Scope  []string // that it may have
}

// A Seed is a user who is there from the start.
type Seed struct {
	Login    string   `json:"login"`
	Password string   `json:"password"`
	Name     string   `json:"name"`
	Email    string   `json:"email"`
	Groups   []string `json:"groups"`
}

// From says where a request comes from.
type From struct {
	Address netip.Addr
	Agent   string
}

const (
	slotBytesMax  = 5 << 18         // 1.25 MiB: what etcd takes in one request, with room for its own
	answerMax     = 5 * time.Second // for an answer of the log; later it is unknown
	pollEvery     = 25 * time.Millisecond
	aliveEvery    = time.Second // how often a node makes sure, for all who follow its feed, that it misses nothing
	provenMax     = 3 * aliveEvery / 2
	snapshotEvery = time.Minute
	snapshotSlots = 10_000 // written since the last snapshot
)

// Node is a running node. Its methods may be called by any number of goroutines.
type Node struct {
	config   Config
	store    *store.Store
	engine   store.Log
	log      *live.Log[*realm.Call, realm.Result]
	workers  *password.Workers
	sealer   sealer
	clients  map[string]Client
	verifier *verify.Verifier
	stop     context.CancelFunc
	loops    sync.WaitGroup
	stored   uint64 // slot of the newest snapshot; owned by its loop, and by Close after that

	mu      sync.RWMutex
	state   *realm.State  // the log's goroutine writes it, with mu held
	changed chan struct{} // closed when there are new revocations; guarded by mu

	throttleMu sync.Mutex
	throttle   *throttle.Throttle // guarded by throttleMu

	keysMu  sync.Mutex
	private map[string]*token.Private // by kid; guarded by keysMu

	feed     feed
	refusals refusals
	shadow   shadowCounts
}

// Open brings the realm up to the end of its log, makes the first key if there is none, and the users that are to be there.
func Open(ctx context.Context, config Config) (*Node, error) {
	s, err := store.Open(config.Store, config.Dir, "auth")
	if err != nil {
		return nil, fmt.Errorf("STORE: %w", err)
	}
	sealer, err := newSealer(config.Secret, config.Rand)
	if err != nil {
		return nil, err
	}
	hasher, err := password.New(config.Hasher)
	if err != nil {
		return nil, fmt.Errorf("PEPPERS: %w", err)
	}
	n := &Node{config: config, store: s, sealer: sealer, workers: password.NewWorkers(hasher, config.Workers, 0),
		clients: map[string]Client{}, state: realm.New(), changed: make(chan struct{}), private: map[string]*token.Private{},
		throttle: throttle.New(), feed: feed{alive: make(chan struct{})}}
	for _, c := range config.Clients {
		n.clients[c.ID] = c
	}
	if err := n.open(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Node) open(ctx context.Context) error {
	engine, report, err := n.store.Log(ctx, "realm")
	if err != nil {
		return fmt.Errorf("auth: open the log: %w", err)
	}
	n.engine = engine
	n.log, err = live.Open(ctx, engine, machine{n}, live.Options{Now: n.config.Now, BatchBytesMax: slotBytesMax})
	if err != nil {
		return fmt.Errorf("auth: read the log: %w", err)
	}
	n.stored = n.state.Position().Slot
	n.config.Logger.Info("log opened", "found", report, "slot", n.state.Position().Slot)
	if err := n.checkKeys(ctx); err != nil {
		return err
	}
	if err := n.seed(ctx); err != nil {
		return fmt.Errorf("SEED: %w", err)
	}
	loops, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.stop = stop
	n.prove(ctx)
	n.verifier = verify.Start(loops, source{n}, verify.Options{Audience: serve.Audience, Now: n.config.Now})
	n.loop(loops, snapshotEvery, func(ctx context.Context) { n.snapshot(ctx, snapshotSlots) })
	n.loop(loops, aliveEvery, n.prove)
	if n.store.Shared() {
		n.loop(loops, pollEvery, func(context.Context) { n.log.Poll() })
	}
	return nil
}

// Close lets what is under way finish, stores a snapshot, and closes the log.
func (n *Node) Close() error {
	n.workers.Close()
	var errs []error
	if n.stop != nil {
		n.stop()
		n.verifier.Close()
		n.loops.Wait()
		n.snapshot(context.Background(), 1)
	}
	if n.log != nil {
		errs = append(errs, n.log.Close())
	}
	if n.engine != nil {
		errs = append(errs, n.engine.Close())
	}
	return errors.Join(errs...)
}

func (n *Node) loop(ctx context.Context, every time.Duration, f func(context.Context)) {
	n.loops.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				f(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
}

// snapshot stores the state, if as many slots were written since it was stored.
func (n *Node) snapshot(ctx context.Context, slots uint64) {
	var end uint64
	n.read(func(s *realm.State) { end = s.Position().Slot })
	if end-n.stored < slots {
		return
	}
	slot, err := n.log.Snapshot(ctx)
	if err != nil {
		n.config.Logger.Warn("no snapshot", "error", err)
		return
	}
	n.stored = slot
}

// machine is the realm as the log drives it, with the lock of its readers.
type machine struct{ *Node }

func (m machine) inner() realm.Machine { return realm.Machine{State: m.state} }

// Prepare implements sharedlog.Machine.
func (m machine) Prepare(at sharedlog.Position, calls []*realm.Call) []sharedlog.Prepared[realm.Result] {
	return m.inner().Prepare(at, calls)
}

// Apply implements sharedlog.Machine.
func (m machine) Apply(b *sharedlog.Batch) []realm.Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, before, _ := m.state.Revocations(math.MaxUint64)
	results := m.inner().Apply(b)
	if _, after, _ := m.state.Revocations(math.MaxUint64); after != before {
		close(m.changed)
		m.changed = make(chan struct{})
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

// read runs f while the state stands still.
func (n *Node) read(f func(s *realm.State)) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	f(n.state)
}

// fresh makes sure that memory holds all that was acknowledged anywhere before the call.
func (n *Node) fresh(ctx context.Context) error {
	if !n.store.Shared() {
		return nil // what is acknowledged was applied here
	}
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	return n.log.Fresh(ctx)
}

// propose puts a request into the log and returns its result once it is durable.
func (n *Node) propose(ctx context.Context, q realm.Request) (realm.Result, error) {
	call, err := realm.NewCall(q)
	if err != nil {
		return realm.Result{}, serve.Problem(400, "request-invalid", "%v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	return n.log.Propose(ctx, call)
}

// do is propose for requests whose refusals are the client's to see.
func (n *Node) do(ctx context.Context, q realm.Request) (realm.Result, error) {
	result, err := n.propose(ctx, q)
	if err == nil && !result.Code.OK() {
		err = &Refused{result.Code}
	}
	return result, err
}

// Refused says that the realm did not do what was asked.
type Refused struct{ Code realm.Code }

// Error is the code.
func (e *Refused) Error() string { return e.Code.String() }

func (n *Node) random(b []byte) {
	if _, err := io.ReadFull(n.config.Rand, b); err != nil {
		panic("auth: no randomness: " + err.Error())
	}
}

// trim shortens a text that clients send as they like.
func trim(text string, bytesMax int) string {
	return strings.ToValidUTF8(text[:min(len(text), bytesMax)], "")
}

func (f From) address() string {
	if !f.Address.IsValid() {
		return ""
	}
	return f.Address.String()
}

func (f From) agent() string { return trim(f.Agent, realm.AgentBytesMax) }
