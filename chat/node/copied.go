package node

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/live"
)

// slotTimeout is how long a read of a slot, of which there is no copy, may take.
const slotTimeout = 3 * time.Second

// copied is a shared log with a copy of the slots that passed through, in a file without a name: text is read from there,
// also while the log cannot be reached. The copy is gone with the process. What could not be copied is read from the log.
type copied struct {
	live.Engine
	file *os.File

	mu     sync.RWMutex
	starts []int64 // of slot i+1 in the file; noCopy where there is none
	end    int64
	failed error // the first that the file answered: nothing is copied after it
}

const noCopy = -1

func copyOf(engine live.Engine, dir string) (*copied, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(dir, "slots-*")
	if err != nil {
		return nil, err
	}
	os.Remove(file.Name()) // a system that removes no open file leaves it behind
	return &copied{Engine: engine, file: file}, nil
}

// Create is the log's, and copies what was created.
func (c *copied) Create(ctx context.Context, slot uint64, data []byte) (sharedlog.Outcome, error) {
	outcome, err := c.Engine.Create(ctx, slot, data)
	if outcome == sharedlog.Created {
		c.keep(slot, data)
	}
	return outcome, err
}

// Get is the log's, and copies what it gave.
func (c *copied) Get(ctx context.Context, slot uint64) ([]byte, error) {
	data, err := c.Engine.Get(ctx, slot)
	if err == nil {
		c.keep(slot, data)
	}
	return data, err
}

// keep is called by one goroutine, that of the log.
func (c *copied) keep(slot uint64, data []byte) {
	c.mu.RLock()
	known, at, err := uint64(len(c.starts)), c.end, c.failed
	c.mu.RUnlock()
	if slot <= known {
		return
	}
	if err == nil {
		_, err = c.file.WriteAt(data, at)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for known++; known < slot; known++ {
		c.starts = append(c.starts, noCopy)
	}
	if c.failed = err; err != nil {
		c.starts = append(c.starts, noCopy)
		return
	}
	c.starts = append(c.starts, at)
	c.end = at + int64(len(data))
}

// ReadAt reads part of a slot.
func (c *copied) ReadAt(slot uint64, offset, length int) ([]byte, error) {
	c.mu.RLock()
	start := int64(noCopy)
	if 0 < slot && slot <= uint64(len(c.starts)) {
		start = c.starts[slot-1]
	}
	c.mu.RUnlock()
	if start != noCopy {
		b := make([]byte, length)
		_, err := c.file.ReadAt(b, start+int64(offset))
		return b, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), slotTimeout)
	defer cancel()
	data, err := c.Engine.Get(ctx, slot)
	if err != nil {
		return nil, err
	}
	if len(data) < offset+length {
		return nil, fmt.Errorf("%w: slot %d has %d bytes, %d were expected", sharedlog.ErrDamaged, slot, len(data), offset+length)
	}
	return data[offset : offset+length], nil
}

// broken is why there is no copy of some slots, if so.
func (c *copied) broken() error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.failed
}
