package node

import (
	"context"
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
	if n.reads.furthest == nil {
		n.reads.furthest = make(map[room.Position]room.ID)
	}
	key := room.Position{User: p.User, Room: p.Room}
	if _, known := n.reads.furthest[key]; !known && len(n.reads.furthest) >= readsQueueMax {
		return sharedlog.ErrBusy
	}
	n.reads.furthest[key] = max(n.reads.furthest[key], p.Message)
	return nil
}

// flushReads writes what was gathered.
func (n *Node) flushReads(ctx context.Context) {
	n.reads.mu.Lock()
	gathered := n.reads.furthest
	n.reads.furthest = nil
	n.reads.mu.Unlock()
	f := room.Fact{Kind: room.Read}
	write := func() {
		if len(f.Reads) == 0 {
			return
		}
		if _, err := n.Do(ctx, f, ""); err != nil {
			n.config.Logger.Warn("read positions lost", "count", len(f.Reads), "err", err)
		}
		f.Reads = nil
	}
	for p, message := range gathered {
		p.Message = message
		if f.Reads = append(f.Reads, p); len(f.Reads) == readsPerEntry {
			write()
		}
	}
	write()
}
