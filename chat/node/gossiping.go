package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"dongne/chat/room"
	"dongne/internal/gossip"
	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/filelog"
	"dongne/internal/sharedlog/live"
)

// slotBytesMax is several times what a message between nodes carries, so that what one message brings fits into a slot.
const slotBytesMax = 4 << 20

// gossiping is a log in a file of this node's own. Every entry is a gossip entry whose data is a fact; one from another
// node is written and fsync'd before it is streamed or acknowledged.
type gossiping struct {
	*Node
	file  *filelog.Log
	live  *live.Log[*request, answer]
	clock *room.Clock   // used by the log's goroutine alone
	facts []*room.Fact  // likewise; of the prepared commands, nil for those of other nodes
	kick  chan struct{} // there may be something to send

	// lock is taken before Node.mu where both are.
	lock   sync.Mutex
	gossip *gossip.Node // nil until start
}

// openFile reads the log in config.Dir.
func openFile(ctx context.Context, n *Node) (log, error) {
	if err := checkTags(n.config); err != nil {
		return nil, err
	}
	file, report, err := filelog.Open(filepath.Join(n.config.Dir, "log"), filelog.Options{})
	if err != nil {
		return nil, fmt.Errorf("chat: open log: %w", err)
	}
	n.config.Logger.Info("log opened", "found", report.String())
	g := &gossiping{Node: n, file: file, clock: room.NewClock(n.config.Name), kick: make(chan struct{}, 1)}
	n.journal = newJournal(g.content)
	g.live, err = live.Open(ctx, file, fileMachine{g}, live.Options{Now: n.config.Now, BatchBytesMax: slotBytesMax})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("chat: read log: %w", err), file.Close())
	}
	return g, nil
}

// checkTags makes sure that ids of different nodes differ.
func checkTags(config Config) error {
	tags := map[uint16]string{}
	for _, name := range append(sortedNames(config.Peers), config.Name) {
		if other, taken := tags[room.Tag(name)]; taken {
			return fmt.Errorf("NODE_ID or PEERS: nodes %q and %q would give out the same ids: rename one of them", other, name)
		}
		tags[room.Tag(name)] = name
	}
	return nil
}

func (g *gossiping) start(ctx context.Context) {
	failed := func(err error) { g.config.Logger.Error("read for another node", "err", err) }
	g.lock.Lock()
	g.gossip = gossip.New(gossip.Config{
		Self:        g.config.Name,
		Peers:       sortedNames(g.config.Peers),
		Incarnation: uint64(g.config.Now().UnixMilli()),
		Restored:    g.journal.have.Clone(),
		Storage:     storage{g.journal, g.mu.RLocker(), g.entry, failed},
		Profile:     gossip.LAN,
		Rand:        rand.New(rand.NewPCG(g.config.Rand.Uint64(), g.config.Rand.Uint64())),
	})
	g.lock.Unlock()
	g.loop(ctx, g.sendLoop)
}

func (g *gossiping) write(ctx context.Context, q *request) (room.Answer, error) {
	a, err := g.live.Propose(ctx, q)
	if err != nil {
		return room.Answer{}, err
	}
	return a.Answer, a.err
}

func (g *gossiping) shard(room.ID) int { return 0 }

// entry reads the bytes of a record.
func (g *gossiping) entry(r record) (gossip.Entry, error) {
	b, err := g.file.ReadAt(r.slot, int(r.offset), int(r.length))
	if err != nil {
		return gossip.Entry{}, fmt.Errorf("chat: read slot %d: %w", r.slot, err)
	}
	e, err := gossip.ParseEntry(b)
	if err != nil {
		return e, fmt.Errorf("chat: slot %d at byte %d: %w", r.slot, r.offset, err)
	}
	return e, nil
}

func (g *gossiping) content(r record) ([]byte, error) {
	e, err := g.entry(r)
	return e.Data, err
}

func (g *gossiping) mayLead(o gossip.Origin) bool {
	_, peer := g.config.Peers[o.Node]
	return peer
}

func (g *gossiping) hint() []byte { return nil }

func (g *gossiping) metrics(metric func(kind, name string, value any)) {
	g.lock.Lock()
	defer g.lock.Unlock()
	metric("counter", "gossip_rollbacks_total", g.gossip.Stats().Rollbacks)
}

func (g *gossiping) close() error { return errors.Join(g.live.Close(), g.file.Close()) }

// fileMachine is what the log drives: it is gossiping, without showing these methods to its users.
type fileMachine struct{ *gossiping }

// Prepare accepts requests, and takes in messages of other nodes.
func (m fileMachine) Prepare(_ sharedlog.Position, requests []*request) []sharedlog.Prepared[answer] {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.mu.RLock()
	defer m.mu.RUnlock()
	prepared := make([]sharedlog.Prepared[answer], len(requests))
	r := newRound(m.config.Now(), m.clock)
	m.facts = m.facts[:0]
	for i, q := range requests {
		if q.message != nil {
			for _, e := range m.gossip.Receive(m.elapsed(), q.from, *q.message) {
				prepared[i].Commands = append(prepared[i].Commands, e.AppendBinary(nil))
				m.facts = append(m.facts, nil)
			}
			for _, id := range q.seats {
				r.changed[id] = struct{}{}
			}
			prepared[i].Done = len(prepared[i].Commands) == 0
			continue
		}
		var f *room.Fact
		if f, prepared[i] = m.accept(q, r); f != nil {
			entry := m.gossip.Append(m.elapsed(), f.Encode())
			prepared[i].Commands = [][]byte{entry.AppendBinary(nil)}
			m.facts = append(m.facts, f)
		}
	}
	return prepared
}

// Abandon forgets what was accepted: the disk was full.
func (m fileMachine) Abandon() {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.gossip.Discard()
	m.facts = m.facts[:0]
}

// Apply takes in a slot that is on disk.
func (m fileMachine) Apply(b *sharedlog.Batch) []answer {
	answers := make([]answer, len(b.Commands))
	m.mu.Lock()
	for i, c := range b.Commands {
		e, err := gossip.ParseEntry(c.Data)
		if err != nil {
			panic(fmt.Sprintf("node: slot %d was written by something else: %v", b.Slot, err))
		}
		f := m.factOf(m.facts, i, e.Data)
		m.clock.Observe(f.ID)
		m.take(stamp{e.Origin, e.Seq}, f, b.Slot, c)
		answers[i].Answer = f.Answer()
	}
	m.flush()
	m.mu.Unlock()
	m.facts = m.facts[:0]
	if m.gossip != nil {
		m.lock.Lock()
		m.gossip.Persisted(m.elapsed(), len(b.Commands))
		m.lock.Unlock()
		m.wakeSender()
	}
	return answers
}

// Snapshot says that this machine takes none: its log is its history, and is read at the start.
func (m fileMachine) Snapshot() ([]byte, bool) { return nil, false }

// Restore is never called, as there are no snapshots.
func (m fileMachine) Restore([]byte) error {
	return errors.New("chat: a log without snapshots has one")
}

// receive takes what another node wrote. It returns once that is fsync'd.
func (g *gossiping) receive(ctx context.Context, from string, kind byte, body []byte) error {
	if kind != kindGossip {
		return fmt.Errorf("%w: kind %q, which no node with a log of its own sends", ErrMessage, kind)
	}
	m, err := gossip.ParseMessage(body)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrMessage, err)
	}
	seats, err := g.checkFacts(m.Entries)
	if err != nil {
		return err
	}
	_, err = g.live.Propose(ctx, &request{from: from, message: &m, seats: seats})
	g.wakeSender()
	return err
}

// checkFacts refuses what a clock that is too far ahead gave out: it would stay on top of every room. It gives the
// rooms whose members the facts change.
func (g *gossiping) checkFacts(entries []gossip.Entry) (seats []room.ID, err error) {
	limit := g.config.Now().Add(room.ClockAheadMax)
	for _, e := range entries {
		f, err := room.DecodeFact(e.Data)
		if err != nil {
			return nil, fmt.Errorf("%w: entry %d of %v: %v", ErrMessage, e.Seq, e.Origin, err)
		}
		if f.ID.Time().After(limit) {
			return nil, fmt.Errorf("%w: entry %d of %v is of %v, more than %v from now", ErrClock, e.Seq, e.Origin, f.ID.Time(), room.ClockAheadMax)
		}
		if f.Kind == room.Joined || f.Kind == room.Left {
			seats = append(seats, f.Room)
		}
	}
	return seats, nil
}

func (g *gossiping) wakeSender() { wake(g.kick) }

// sendLoop sends what gossip has to say, when it has.
func (g *gossiping) sendLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-g.kick:
		}
		g.lock.Lock()
		envelopes := g.gossip.Ready(g.elapsed())
		due := g.gossip.Wake()
		g.lock.Unlock()
		for _, e := range envelopes {
			l := g.links[e.To]
			l.send(l.queue, e.Message.AppendBinary([]byte{kindGossip}))
		}
		timer.Reset(max(0, due-g.elapsed()))
	}
}

// storage gives the gossip node the entries that are in the log.
type storage struct {
	journal *journal
	lock    sync.Locker // of the journal, for reading
	entry   func(record) (gossip.Entry, error)
	failed  func(error)
}

// Entries reads an origin's entries from after+1 on, at least one and at most bytesMax of them together.
func (s storage) Entries(o gossip.Origin, after uint64, bytesMax int) []gossip.Entry {
	var entries []gossip.Entry
	for _, r := range s.records(o, after, bytesMax) {
		e, err := s.entry(r)
		if err != nil {
			s.failed(err)
			break
		}
		entries = append(entries, e)
	}
	return entries
}

func (s storage) records(o gossip.Origin, after uint64, bytesMax int) []record {
	s.lock.Lock()
	defer s.lock.Unlock()
	number, known := s.journal.numbers[o]
	if !known {
		return nil
	}
	var records []record
	numbers := s.journal.origins[number].records
	for _, n := range numbers[min(after, uint64(len(numbers))):] {
		r := s.journal.records[n]
		bytesMax -= int(r.length)
		if bytesMax < 0 && len(records) > 0 {
			break
		}
		records = append(records, r)
	}
	return records
}
