// Package node is one chat process without its HTTP routes: the durable log and what it means (room), the streams
// (stream), and the other nodes (gossip).
//
// Every entry of the log is a gossip entry whose data is a room.Fact. A request is accepted against what this node
// knows, written and fsync'd, and only then answered, streamed and sent on; an entry from another node is written and
// fsync'd before it is streamed or acknowledged. So a position in the stream, a version vector over the entries, means
// the same on every node.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"dongne/chat/room"
	"dongne/chat/stream"
	"dongne/internal/gossip"
	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/filelog"
	"dongne/internal/sharedlog/live"
)

// Config is what a node is told at the start.
type Config struct {
	Name           string
	Peers          map[string]string // name → URL
	Secret         []byte            // shared by all nodes
	Dir            string            // of the log
	Now            func() time.Time
	Rand           *rand.Rand
	Client         *http.Client // for the other nodes
	Logger         *slog.Logger
	SendsPerSecond int // per user
}

// slotBytesMax is several times what a message between nodes carries, so that what one message brings fits into a slot.
const slotBytesMax = 4 << 20

// ErrTooFast: the user sends more than its share.
var ErrTooFast = errors.New("too many messages")

// ErrInFlight: another request under the same idempotency key is being written.
var ErrInFlight = errors.New("a request under this idempotency key is in flight")

// Node is a running node.
type Node struct {
	config  Config
	start   time.Time
	file    *filelog.Log
	log     *live.Log[*request, answer]
	hub     *stream.Hub
	clock   *room.Clock  // used by the log's goroutine alone
	facts   []*room.Fact // likewise; of the prepared commands, nil for those of other nodes
	limits  limiter      // of messages
	typings limiter
	reads   readQueue
	links   map[string]*link
	kick    chan struct{} // there may be something to send
	stop    context.CancelFunc
	loops   sync.WaitGroup

	// gossipLock is taken before mu where both are.
	gossipLock sync.Mutex
	gossip     *gossip.Node // nil while the log is read at the start

	mu       sync.RWMutex // guards what follows; the log's goroutine alone writes state, journal and position
	state    *room.State
	journal  *journal
	position position
	streams  map[string]map[*subscriber]struct{} // by user
	ahead    map[*subscriber]struct{}            // those of streams that have seen more than this node
	pending  []stream.Event                      // of the slot being applied
	presence presence
	told     string // the position that idle streams were last told
	broken   int    // facts of other nodes that could not be read
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

// Open reads the log in config.Dir, and starts to listen to the other nodes. The streams end when ctx does.
func Open(ctx context.Context, config Config) (*Node, error) {
	if err := checkNames(config); err != nil {
		return nil, err
	}
	file, report, err := filelog.Open(filepath.Join(config.Dir, "log"), filelog.Options{})
	if err != nil {
		return nil, fmt.Errorf("chat: open log: %w", err)
	}
	config.Logger.Info("log opened", "found", report.String())
	n := &Node{
		config:   config,
		start:    config.Now(),
		file:     file,
		clock:    room.NewClock(config.Name),
		state:    room.New(),
		journal:  newJournal(file),
		position: newPosition(),
		streams:  make(map[string]map[*subscriber]struct{}),
		ahead:    make(map[*subscriber]struct{}),
		links:    make(map[string]*link),
		kick:     make(chan struct{}, 1),
	}
	n.limits.init(config.SendsPerSecond, sendsBurst)
	n.typings.init(1, typingBurst)
	n.presence.init()
	n.log, err = live.Open(ctx, file, machine{n}, live.Options{Now: config.Now, BatchBytesMax: slotBytesMax})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("chat: read log: %w", err), file.Close())
	}
	n.hub = stream.New(ctx, streamConfig)
	n.gossip = gossip.New(gossip.Config{
		Self:        config.Name,
		Peers:       sortedNames(config.Peers),
		Incarnation: uint64(config.Now().UnixMilli()),
		Restored:    n.journal.have.Clone(),
		Storage:     storage{n.journal, n.mu.RLocker(), func(err error) { config.Logger.Error("read for another node", "err", err) }},
		Profile:     gossip.LAN,
		Rand:        config.Rand,
	})
	loops, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.stop = stop
	n.startLinks(loops)
	n.loop(loops, n.sendLoop)
	n.loop(loops, n.upkeepLoop)
	return n, nil
}

func (n *Node) loop(ctx context.Context, f func(context.Context)) {
	n.loops.Add(1)
	go func() {
		defer n.loops.Done()
		f(ctx)
	}()
}

// checkNames makes sure that ids of different nodes differ.
func checkNames(config Config) error {
	tags := map[uint16]string{}
	for _, name := range append(sortedNames(config.Peers), config.Name) {
		if err := gossip.ValidName(name); err != nil {
			return fmt.Errorf("NODE_ID or PEERS: %w", err)
		}
		if other, taken := tags[room.Tag(name)]; taken {
			return fmt.Errorf("NODE_ID or PEERS: nodes %q and %q would give out the same ids: rename one of them", other, name)
		}
		tags[room.Tag(name)] = name
	}
	return nil
}

// Close writes what is queued, ends the streams, and closes the log.
func (n *Node) Close() error {
	n.flushReads(context.Background())
	n.stop()
	n.loops.Wait()
	err := n.log.Close()
	n.hub.Close()
	return errors.Join(err, n.file.Close())
}

// Do writes a request: it returns once the fact is fsync'd, or refused.
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
	a, err := n.log.Propose(ctx, &request{fact: f, key: key})
	if err != nil {
		return room.Answer{}, err
	}
	return a.Answer, a.err
}

// machine is what the log drives: it is Node, without showing these methods to its users.
type machine struct{ *Node }

// Prepare accepts requests, each against what is known now. Of a room whose members one of them changes, the others wait
// for the next slot: they rest on who is a member.
func (n machine) Prepare(_ sharedlog.Position, requests []*request) []sharedlog.Prepared[answer] {
	n.gossipLock.Lock()
	defer n.gossipLock.Unlock()
	n.mu.RLock()
	defer n.mu.RUnlock()
	prepared := make([]sharedlog.Prepared[answer], len(requests))
	inFlight, changed := make(map[uint64]struct{}), make(map[room.ID]struct{})
	n.facts = n.facts[:0]
	for i, q := range requests {
		if q.message != nil {
			for _, e := range n.gossip.Receive(n.elapsed(), q.from, *q.message) {
				prepared[i].Commands = append(prepared[i].Commands, e.AppendBinary(nil))
				n.facts = append(n.facts, nil)
			}
			for _, id := range q.seats {
				changed[id] = struct{}{}
			}
			prepared[i].Done = len(prepared[i].Commands) == 0
			continue
		}
		if _, wait := changed[q.fact.Room]; wait {
			prepared[i].Later = true
			continue
		}
		prepared[i] = n.accept(q, inFlight)
		if q.fact.Kind == room.Joined || q.fact.Kind == room.Left {
			changed[q.fact.Room] = struct{}{}
		}
	}
	return prepared
}

// accept turns a local request into the entry to write, or into its answer.
func (n machine) accept(q *request, inFlight map[uint64]struct{}) sharedlog.Prepared[answer] {
	f := q.fact
	a, done, err := n.state.Accept(&f, q.key, n.clock.Next(n.config.Now()))
	if _, busy := inFlight[f.Key]; !done && busy {
		done, err = true, ErrInFlight
	}
	if done {
		return sharedlog.Prepared[answer]{Done: true, Result: answer{a, err}}
	}
	if f.Key != 0 {
		inFlight[f.Key] = struct{}{}
	}
	entry := n.gossip.Append(n.elapsed(), f.Encode())
	n.facts = append(n.facts, &f)
	return sharedlog.Prepared[answer]{Commands: [][]byte{entry.AppendBinary(nil)}}
}

// Abandon forgets what was accepted: the disk was full.
func (n machine) Abandon() {
	n.gossipLock.Lock()
	defer n.gossipLock.Unlock()
	n.gossip.Discard()
	n.facts = n.facts[:0]
}

// Apply takes in a slot that is on disk, and streams what it changed.
func (n machine) Apply(b *sharedlog.Batch) []answer {
	answers := make([]answer, len(b.Commands))
	n.mu.Lock()
	for i, c := range b.Commands {
		e, err := gossip.ParseEntry(c.Data)
		if err != nil {
			panic(fmt.Sprintf("node: slot %d was written by something else: %v", b.Slot, err))
		}
		f := n.factOf(i, &e)
		number := n.journal.add(&e, f.Room, b.Slot, c.Offset, len(c.Data))
		n.position.advance(e.Origin, e.Seq)
		n.clock.Observe(f.ID)
		if events := n.state.Apply(number, f); n.gossip != nil {
			n.publish(&e, f, events)
		}
		answers[i].Answer = f.Answer()
	}
	n.flush()
	n.mu.Unlock()
	n.facts = n.facts[:0]
	if n.gossip != nil {
		n.gossipLock.Lock()
		n.gossip.Persisted(n.elapsed(), len(b.Commands))
		n.gossipLock.Unlock()
		n.wakeSender()
	}
	return answers
}

// factOf is the fact of command i: as it was accepted, or read from its entry.
func (n machine) factOf(i int, e *gossip.Entry) *room.Fact {
	if i < len(n.facts) && n.facts[i] != nil {
		return n.facts[i]
	}
	f, err := room.DecodeFact(e.Data)
	if err != nil {
		n.broken++ // another node's program is at fault; its entry keeps its place
	}
	return &f
}

// Snapshot says that this machine takes none: its log is its history, and is read at the start.
func (n machine) Snapshot() ([]byte, bool) { return nil, false }

// Restore is never called, as there are no snapshots.
func (n machine) Restore([]byte) error { return errors.New("chat: a log without snapshots has one") }

// elapsed is the time since the start, by a clock that does not jump.
func (n *Node) elapsed() time.Duration { return n.config.Now().Sub(n.start) }

// random is uniform in [0, 1).
func (n *Node) random() float64 {
	n.gossipLock.Lock() // which guards config.Rand, as gossip draws from it too
	defer n.gossipLock.Unlock()
	return n.config.Rand.Float64()
}
