package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"dongne/chat/room"
	"dongne/internal/sharedlog"
)

// Read positions are gathered for a moment, so that scrolling through a room costs one entry and not a hundred.
const (
	readsEvery    = 200 * time.Millisecond
	readsPerEntry = 256
	readsQueueMax = 100_000 // positions
)

type readQueue struct {
	mu       sync.Mutex
	furthest map[room.Position]room.ID // by user and room
}

// Read notes that a user has read a room up to a message. It is written soon, not now: the answer promises nothing but
// that it was valid.
func (n *Node) Read(p room.Position) error {
	n.mu.RLock()
	ahead, err := n.state.CheckRead(p)
	n.mu.RUnlock()
	if err != nil || !ahead {
		return err
	}
	n.reads.mu.Lock()
	defer n.reads.mu.Unlock()
	return n.reads.gather(p)
}

// gather notes a position. mu is held.
func (r *readQueue) gather(p room.Position) error {
	if r.furthest == nil {
		r.furthest = make(map[room.Position]room.ID)
	}
	key := room.Position{User: p.User, Room: p.Room}
	if _, known := r.furthest[key]; !known && len(r.furthest) >= readsQueueMax {
		return refusal(sharedlog.ErrBusy)
	}
	r.furthest[key] = max(r.furthest[key], p.Message)
	return nil
}

// readsLoop writes what is gathered, now and then.
func (n *Node) readsLoop(ctx context.Context) {
	ticker := time.NewTicker(readsEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			n.flushReads(ctx)
		}
	}
}

// flushReads writes what was gathered.
func (n *Node) flushReads(ctx context.Context) {
	n.reads.mu.Lock()
	gathered := n.reads.furthest
	n.reads.furthest = nil
	n.reads.mu.Unlock()
	byShard := make(map[int][]room.Position)
	for p, message := range gathered {
		p.Message = message
		shard := n.log.shard(p.Room)
		byShard[shard] = append(byShard[shard], p)
	}
	var writes sync.WaitGroup
	for _, positions := range byShard {
		writes.Go(func() {
			for some := range slices.Chunk(positions, readsPerEntry) {
				n.writeReads(ctx, some)
			}
		})
	}
	writes.Wait()
}

// writeReads writes some positions. Where the log does not answer they are gathered again: to say them twice does no harm.
func (n *Node) writeReads(ctx context.Context, positions []room.Position) {
	_, err := n.Do(ctx, room.Fact{Kind: room.Read, Reads: positions}, "")
	if err == nil {
		return
	}
	if errors.Is(err, ErrStore) {
		n.reads.mu.Lock()
		defer n.reads.mu.Unlock()
		for _, p := range positions {
			if err = n.reads.gather(p); err != nil {
				break
			}
		}
	}
	if err != nil {
		n.config.Logger.Warn("read positions lost", "count", len(positions), "err", err)
	}
}
