package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"dongne/chat/room"
	"dongne/internal/gossip"
	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/live"
)

const (
	// ShardsMax bounds the shared logs: a position names all of them, and may be ahead of a node in all of them.
	ShardsMax = aheadOriginsMax
	// writeTimeout is how long a request may wait for the shared log.
	writeTimeout = 3 * time.Second
	// followEvery is how often a node looks for what others wrote, should no hint have come.
	followEvery = 200 * time.Millisecond
)

// ErrStore: the shared log did not answer in time. A *sharedlog.Error beside it says what is known of the effect.
var ErrStore = errors.New("the shared log does not answer")

// sharded writes to shared logs. A command of a log is a fact; entry number n of the log is its n-th command, on every
// node, and the origin of the log's entries is its shard. The id of a fact is made of the slot's time, by a clock that has
// observed all ids before it in the log: so ids, and with them a room's history, are in the order of the log.
type sharded struct {
	*Node
	shared *Shared
	shards []*shard
	spread atomic.Uint64 // a number for what may be in any shard
	failed atomic.Int64  // writes that the logs did not answer in time
}

// shard is one log, and the machine that it drives.
type shard struct {
	*Node
	origin gossip.Origin
	engine *copied
	live   *live.Log[*request, answer]
	writer sharedlog.Writer
	clock  *room.Clock   // used by the log's goroutine alone
	facts  []*room.Fact  // likewise; of the prepared commands
	count  uint64        // likewise; commands applied
	slot   atomic.Uint64 // the last that is applied
}

// openShards reads the shared logs up to their ends.
func openShards(ctx context.Context, n *Node, shared *Shared) (log, error) {
	if count := len(shared.Engines); count < 1 || count > ShardsMax {
		return nil, fmt.Errorf("chat: %d shared logs; there are 1 to %d", count, ShardsMax)
	}
	s := &sharded{Node: n, shared: shared}
	var origins []gossip.Origin
	for i := range shared.Engines {
		origins = append(origins, gossip.Origin{Node: fmt.Sprintf("s%d", i), Incarnation: shared.Incarnation})
	}
	n.journal = newJournal(s.content, origins...)
	for i, engine := range shared.Engines {
		engine, err := copyOf(engine, n.config.Dir)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("chat: copy of shared log %d: %w", i, err), s.close())
		}
		sh := &shard{Node: n, origin: origins[i], engine: engine, clock: room.NewShardClock(i)}
		s.shards = append(s.shards, sh)
		rand.Read(sh.writer[:]) // never fails
		sh.live, err = live.Open(ctx, engine, shardMachine{sh}, live.Options{Now: n.config.Now, Writer: sh.writer})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("chat: read shared log %d: %w", i, err), s.close())
		}
		n.config.Logger.Info("shared log opened", "shard", i, "slots", sh.slot.Load(), "entries", sh.count)
	}
	return s, nil
}

func (s *sharded) start(ctx context.Context) { s.loop(ctx, s.followLoop) }

// followLoop looks for what others wrote, now and then.
func (s *sharded) followLoop(ctx context.Context) {
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	told := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for i, sh := range s.shards {
			sh.live.Poll()
			if err := sh.engine.broken(); err != nil && !told {
				told = true
				s.config.Logger.Error("no local copy of what comes: it is read from the shared log", "shard", i, "err", err)
			}
		}
	}
}

func (s *sharded) write(ctx context.Context, q *request) (room.Answer, error) {
	sh := s.shards[q.fact.Shard(q.key, s.spread.Add(1), len(s.shards))]
	bounded, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	a, err := sh.live.Propose(bounded, q)
	switch {
	case err == nil:
		return a.Answer, a.err
	case ctx.Err() != nil || lasting(err):
		return room.Answer{}, err
	}
	s.failed.Add(1)
	return room.Answer{}, fmt.Errorf("%w: %w", ErrStore, err)
}

// lasting says whether an error is about the request or this log, and not about reaching the store.
func lasting(err error) bool {
	return slices.ContainsFunc([]error{
		sharedlog.ErrFull, sharedlog.ErrBusy, sharedlog.ErrClosed, sharedlog.ErrStopped, sharedlog.ErrTooLarge,
	}, func(is error) bool { return errors.Is(err, is) })
}

func (s *sharded) shard(id room.ID) int { return id.Shard(len(s.shards)) }

func (s *sharded) content(r record) ([]byte, error) {
	b, err := s.shards[r.origin].engine.ReadAt(r.slot, int(r.offset), int(r.length))
	if err != nil {
		return nil, fmt.Errorf("chat: read slot %d of shared log %d: %w", r.slot, r.origin, err)
	}
	return b, nil
}

func (s *sharded) mayLead(o gossip.Origin) bool {
	return slices.ContainsFunc(s.shards, func(sh *shard) bool { return sh.origin == o })
}

// hint says how many slots of each log this node has.
func (s *sharded) hint() []byte {
	b := []byte{kindHint}
	for _, sh := range s.shards {
		b = binary.AppendUvarint(b, sh.slot.Load())
	}
	return b
}

// receive takes a hint: where another node has more, this one looks.
func (s *sharded) receive(_ context.Context, _ string, kind byte, body []byte) error {
	if kind != kindHint {
		return fmt.Errorf("%w: kind %q, which no node on shared logs sends", ErrMessage, kind)
	}
	slots := make([]uint64, len(s.shards))
	for i := range slots {
		slot, n := binary.Uvarint(body)
		if n <= 0 {
			return fmt.Errorf("%w: a hint about %d shared logs, of %d", ErrMessage, i, len(slots))
		}
		slots[i], body = slot, body[n:]
	}
	if len(body) > 0 {
		return fmt.Errorf("%w: a hint about more than %d shared logs", ErrMessage, len(slots))
	}
	for i, sh := range s.shards {
		if slots[i] > sh.slot.Load() {
			sh.live.Poll()
		}
	}
	return nil
}

func (s *sharded) metrics(metric func(kind, name string, value any)) {
	var slots uint64
	for _, sh := range s.shards {
		slots += sh.slot.Load()
	}
	metric("gauge", "shared_log_slots", slots)
	metric("counter", "shared_log_failures_total", s.failed.Load())
}

func (s *sharded) close() error {
	var all []error
	for _, sh := range s.shards {
		if sh.live != nil {
			// Closed before its time is a log that cannot be reached: who waited for it has been told.
			if err := sh.live.Close(); !errors.Is(err, sharedlog.ErrClosed) {
				all = append(all, err)
			}
		}
		all = append(all, sh.engine.file.Close())
	}
	if s.shared.Close != nil {
		all = append(all, s.shared.Close())
	}
	return errors.Join(all...)
}

// shardMachine is what a log drives: it is shard, without showing these methods to its users.
type shardMachine struct{ *shard }

// Prepare accepts requests, each against what stands in the log before the slot.
func (m shardMachine) Prepare(at sharedlog.Position, requests []*request) []sharedlog.Prepared[answer] {
	m.mu.RLock()
	defer m.mu.RUnlock()
	prepared := make([]sharedlog.Prepared[answer], len(requests))
	r := newRound(time.Unix(0, at.Time), m.clock)
	m.facts = m.facts[:0]
	for i, q := range requests {
		var f *room.Fact
		if f, prepared[i] = m.accept(q, r); f != nil {
			prepared[i].Commands = [][]byte{f.Encode()}
			m.facts = append(m.facts, f)
		}
	}
	return prepared
}

// Abandon forgets what was accepted: another node's slot came first, or the log did not take ours.
func (m shardMachine) Abandon() { m.facts = m.facts[:0] }

// Apply takes in a slot of this node or another.
func (m shardMachine) Apply(b *sharedlog.Batch) []answer {
	answers := make([]answer, len(b.Commands))
	m.mu.Lock()
	for i, c := range b.Commands {
		f := m.factOf(m.facts, i, c.Data)
		m.clock.Observe(f.ID)
		m.count++
		m.take(stamp{m.origin, m.count}, f, b.Slot, c)
		answers[i].Answer = f.Answer()
	}
	m.flush()
	m.mu.Unlock()
	m.facts = m.facts[:0]
	m.slot.Store(b.Slot)
	if b.Writer == m.writer && len(b.Commands) > 0 {
		for _, l := range m.links {
			wake(l.hint)
		}
	}
	return answers
}

// Snapshot says that this machine takes none: its log is its history, and is read at the start.
func (m shardMachine) Snapshot() ([]byte, bool) { return nil, false }

// Restore is never called, as there are no snapshots.
func (m shardMachine) Restore([]byte) error {
	return errors.New("chat: a log without snapshots has one")
}
