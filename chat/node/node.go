// Package node is one chat process without its HTTP routes: the log and what it means (room), the streams (stream), and
// the other nodes.
//
// What the log holds are facts (room.Fact). A request is accepted against what this node knows, made durable, and only
// then answered and streamed. There are two kinds of log:
//
//   - a file of this node's own, whose entries go to the other nodes by gossip (gossiping.go): every node takes writes
//     while it is cut off, and the nodes agree when they have heard of each other;
//   - shared logs, the same for all nodes (sharded.go): a room is in one of them, the log gives its order, and every
//     node shows that one. A node that cannot reach the logs takes no writes; it goes on serving what it has.
//
// A position in the stream is a version vector over the entries: per node and start of it with gossip, per log with
// shared logs. It means the same on every node.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"dongne/chat/room"
	"dongne/chat/stream"
	"dongne/internal/gossip"
	"dongne/internal/peer"
	"dongne/internal/sharedlog"
)

// Config is what a node is told at the start.
type Config struct {
	Name           string
	Peers          map[string]string // name → URL
	Secret         []byte            // shared by all nodes
	Dir            string            // of the log, or of a copy of what the shared logs hold
	Store          string            // file, also when empty, or where the shared logs are, as package store says
	Shards         int               // how many logs are shared
	Shared         *Shared           // the shared logs themselves, in place of Store and Shards
	Now            func() time.Time
	Rand           *rand.Rand
	Client         *http.Client // for the other nodes
	Logger         *slog.Logger
	SendsPerSecond int // per user
}

// ErrTooFast: the user sends more than its share.
var ErrTooFast = errors.New("too many messages")

// ErrInFlight: another request under the same idempotency key is being written.
var ErrInFlight = errors.New("a request under this idempotency key is in flight")

// Node is a running node.
type Node struct {
	config  Config
	start   time.Time
	log     log
	hub     *stream.Hub
	limits  limiter // of messages
	typings limiter
	reads   readQueue
	cluster *peer.Cluster
	links   map[string]*link
	stop    context.CancelFunc
	loops   sync.WaitGroup
	luck    sync.Mutex // guards config.Rand

	mu       sync.RWMutex // guards what follows; the goroutines of the log alone write state, journal and position
	state    *room.State
	journal  *journal
	position position
	streams  map[string]map[*subscriber]struct{} // by user
	ahead    map[*subscriber]struct{}            // those of streams that have seen more than this node
	pending  []stream.Event                      // of the slot being applied
	presence presence
	told     string // the position that idle streams were last told
	broken   int    // facts that another program wrote and that could not be read
	serving  bool   // the log has been read, and there may be streams
}

// log is where facts are written and read, and how they come to the other nodes.
type log interface {
	// start begins to exchange with the other nodes, until ctx ends.
	start(ctx context.Context)
	// write returns once the request's fact is durable and applied, or refused.
	write(ctx context.Context, q *request) (room.Answer, error)
	// shard is the number of the log in which all about a room is; facts about rooms of different shards are written apart.
	shard(id room.ID) int
	// content reads the bytes of a record's fact. It needs no lock.
	content(r record) ([]byte, error)
	// mayLead says whether other nodes may have entries of that origin which this one has not heard of.
	mayLead(o gossip.Origin) bool
	// receive takes a message of another node that is about the log.
	receive(ctx context.Context, from string, kind byte, body []byte) error
	// hint is the message that tells another node of news in the log; nil if there is nothing to tell.
	hint() []byte
	// metrics counts what is the log's own.
	metrics(metric func(kind, name string, value any))
	close() error
}

// request is a local request or a message from another node.
type request struct {
	fact    room.Fact
	key     string
	from    string
	message *gossip.Message
	seats   []room.ID // rooms whose members the message's entries change
}

type answer struct {
	room.Answer
	err error
}

// Open reads the log, and starts to listen to the other nodes. The streams end when ctx does.
func Open(ctx context.Context, config Config) (*Node, error) {
	cluster := config.cluster()
	if err := cluster.Check(); err != nil {
		return nil, err
	}
	n := &Node{
		config:   config,
		start:    config.Now(),
		state:    room.New(),
		position: newPosition(),
		streams:  make(map[string]map[*subscriber]struct{}),
		ahead:    make(map[*subscriber]struct{}),
		cluster:  cluster,
		links:    make(map[string]*link),
	}
	n.limits.init(config.SendsPerSecond, sendsBurst)
	n.typings.init(1, typingBurst)
	n.presence.init()
	var err error
	if n.log, err = openLog(ctx, n); err != nil {
		return nil, err
	}
	n.hub = stream.New(ctx, streamConfig)
	n.mu.Lock()
	n.serving = true
	n.mu.Unlock()
	loops, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.stop = stop
	n.startLinks(loops)
	n.log.start(loops)
	n.loop(loops, n.upkeepLoop)
	n.loop(loops, n.readsLoop)
	return n, nil
}

func openLog(ctx context.Context, n *Node) (log, error) {
	shared, err := openShared(ctx, n.config)
	if err != nil {
		return nil, fmt.Errorf("chat: %w", err)
	}
	if shared != nil {
		return openShards(ctx, n, shared)
	}
	return openFile(ctx, n)
}

func (n *Node) loop(ctx context.Context, f func(context.Context)) {
	n.loops.Add(1)
	go func() {
		defer n.loops.Done()
		f(ctx)
	}()
}

// Close writes what is queued, ends the streams, and closes the log.
func (n *Node) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	n.flushReads(ctx)
	n.stop()
	n.loops.Wait()
	err := n.log.close()
	n.hub.Close()
	return err
}

// Do writes a request: it returns once the fact is durable, or refused. An error that is a *sharedlog.Error says what is
// known of the effect; one that also wraps ErrStore is passing.
func (n *Node) Do(ctx context.Context, f room.Fact, key string) (room.Answer, error) {
	if (f.Kind == room.Posted || f.Kind == room.Edited) && !n.limits.take(f.By, n.config.Now()) {
		return room.Answer{}, fmt.Errorf("%w: at most %d a second", ErrTooFast, n.config.SendsPerSecond)
	}
	if f.Kind == room.Edited { // an edit carries over all but the text
		m, err := n.Message(f.Room, f.By, f.Message)
		if err != nil {
			return room.Answer{}, err
		}
		f.ReplyTo, f.Attachments = m.ReplyTo, m.Attachments
	}
	return n.log.write(ctx, &request{fact: f, key: key})
}

// A round is the acceptance of the requests of one slot, each against what is known now. Of a room whose members one of
// them changes, the others wait for the next slot: they rest on who is a member.
type round struct {
	now      time.Time
	clock    *room.Clock
	inFlight map[uint64]struct{}  // idempotency keys
	changed  map[room.ID]struct{} // rooms
}

func newRound(now time.Time, clock *room.Clock) *round {
	return &round{now, clock, make(map[uint64]struct{}), make(map[room.ID]struct{})}
}

// accept turns a request into the fact to write; nil, and what to do instead, if there is none. mu is held for reading.
func (n *Node) accept(q *request, r *round) (*room.Fact, sharedlog.Prepared[answer]) {
	if _, wait := r.changed[q.fact.Room]; wait {
		return nil, sharedlog.Prepared[answer]{Later: true}
	}
	f := q.fact
	a, done, err := n.state.Accept(&f, q.key, r.clock.Next(r.now))
	if _, busy := r.inFlight[f.Key]; !done && busy {
		done, err = true, ErrInFlight
	}
	if done {
		return nil, sharedlog.Prepared[answer]{Done: true, Result: answer{a, err}}
	}
	if f.Key != 0 {
		r.inFlight[f.Key] = struct{}{}
	}
	if f.Kind == room.Joined || f.Kind == room.Left {
		r.changed[f.Room] = struct{}{}
	}
	return &f, sharedlog.Prepared[answer]{}
}

// A stamp is an entry's place in its origin.
type stamp struct {
	origin gossip.Origin
	seq    uint64
}

// take puts a durable fact where it belongs, and tells the streams what it changed. mu is held.
func (n *Node) take(at stamp, f *room.Fact, slot uint64, c sharedlog.Command) {
	number := n.journal.add(at, f.Room, slot, c.Offset, len(c.Data))
	n.position.advance(at.origin, at.seq)
	if events := n.state.Apply(number, f); n.serving {
		n.publish(at, f, events)
	}
}

// factOf is the fact of command i: as it was accepted, or read from its bytes.
func (n *Node) factOf(accepted []*room.Fact, i int, data []byte) *room.Fact {
	if i < len(accepted) && accepted[i] != nil {
		return accepted[i]
	}
	f, err := room.DecodeFact(data)
	if err != nil {
		n.broken++ // another node's program is at fault; its entry keeps its place
	}
	return &f
}

// elapsed is the time since the start, by a clock that does not jump.
func (n *Node) elapsed() time.Duration { return n.config.Now().Sub(n.start) }

// random is uniform in [0, 1).
func (n *Node) random() float64 {
	n.luck.Lock()
	defer n.luck.Unlock()
	return n.config.Rand.Float64()
}
