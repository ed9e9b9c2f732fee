package enginetest

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"dongne/internal/sharedlog"
)

// Memory is an engine in memory, for tests. Any number of logs may be open on one, or on several that share their
// slots.
//
// The hooks, if set, are called once per operation without a lock held: they may wait, to stall or delay what they
// stand in. They are set before the engine is used.
type Memory struct {
	// OnCreate is called before a create has its effect. After an error it has none, and its outcome is Unknown.
	OnCreate func(slot uint64) error
	// OnCreated is called after a create had its effect. After an error its answer is lost: the outcome is Unknown.
	OnCreated func(slot uint64) error
	// OnGet is called before a get, which fails with its error.
	OnGet func(slot uint64) error

	slots *slots
}

type slots struct {
	mu       sync.Mutex
	data     map[uint64][]byte // guarded by mu
	floor    uint64            // guarded by mu
	snapshot []byte            // guarded by mu
}

// NewMemory returns an empty log.
func NewMemory() *Memory { return &Memory{slots: &slots{data: map[uint64][]byte{}, floor: 1}} }

// Another returns an engine of the same log, with hooks of its own.
func (m *Memory) Another() *Memory { return &Memory{slots: m.slots} }

// Create implements live.Engine.
func (m *Memory) Create(_ context.Context, slot uint64, data []byte) (sharedlog.Outcome, error) {
	if err := call(m.OnCreate, slot); err != nil {
		return sharedlog.Unknown, err
	}
	outcome := m.slots.create(slot, data)
	if err := call(m.OnCreated, slot); err != nil {
		return sharedlog.Unknown, err
	}
	return outcome, nil
}

func (s *slots) create(slot uint64, data []byte) sharedlog.Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stands, ok := s.data[slot]; ok && bytes.Equal(stands, data) {
		return sharedlog.Created // by an earlier try, whose answer was lost
	} else if ok || slot < s.floor {
		return sharedlog.Taken
	}
	s.data[slot] = bytes.Clone(data)
	return sharedlog.Created
}

// Get implements live.Engine.
func (m *Memory) Get(_ context.Context, slot uint64) ([]byte, error) {
	if err := call(m.OnGet, slot); err != nil {
		return nil, err
	}
	m.slots.mu.Lock()
	defer m.slots.mu.Unlock()
	if data, ok := m.slots.data[slot]; ok {
		return data, nil
	}
	if slot < m.slots.floor {
		return nil, fmt.Errorf("memory: slot %d: %w", slot, sharedlog.ErrTrimmed)
	}
	return nil, fmt.Errorf("memory: slot %d: %w", slot, sharedlog.ErrAbsent)
}

// Trim moves the floor up and removes the slots below it.
func (m *Memory) Trim(_ context.Context, floor uint64) error {
	m.slots.mu.Lock()
	defer m.slots.mu.Unlock()
	for ; m.slots.floor < floor; m.slots.floor++ {
		delete(m.slots.data, m.slots.floor)
	}
	return nil
}

// SaveSnapshot implements live.SnapshotStore.
func (m *Memory) SaveSnapshot(_ context.Context, _ uint64, data []byte) error {
	m.slots.mu.Lock()
	defer m.slots.mu.Unlock()
	m.slots.snapshot = bytes.Clone(data)
	return nil
}

// LoadSnapshot implements live.SnapshotStore.
func (m *Memory) LoadSnapshot(context.Context) ([]byte, error) {
	m.slots.mu.Lock()
	defer m.slots.mu.Unlock()
	if m.slots.snapshot == nil {
		return nil, fmt.Errorf("memory: %w: no snapshot", sharedlog.ErrAbsent)
	}
	return m.slots.snapshot, nil
}

func call(hook func(uint64) error, slot uint64) error {
	if hook == nil {
		return nil
	}
	return hook(slot)
}
