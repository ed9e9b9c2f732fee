package filelog

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
)

const sectorBytes = 512

var (
	errDead  = errors.New("the process is dead")
	errInput = errors.New("input/output error")
)

// memory is a directory that remembers what was not synced, so that it can lose it: after a power failure any set of the
// 512-byte sectors written since the last sync is there, a few of them in part, and any number of the last changes of
// names is not.
type memory struct {
	chance  *rand.Rand
	now     map[string]*inode             // names as the process sees them
	durable map[string]*inode             // names that survive for certain
	names   []func(dir map[string]*inode) // changes since, in order
	locked  bool

	calls   int // calls so far
	deathAt int // the call at which the process dies, in its midst; 0: never
	dead    bool
	written bool // since the start of the process

	full         bool // no space: most writes stop in the middle
	fullSync     bool // the lack of space shows when syncing
	syncFails    bool // the next sync fails, and drops what it should have written
	syncLies     bool // a mutant: sync does nothing
	syncDirLies  bool // a mutant: syncDir does nothing
	openSyncLies bool // a mutant: sync does nothing before the first write
}

// inode is a file: what is certain to survive, what the process sees, and the changes that lie between.
type inode struct {
	durable, now []byte
	changes      []change
}

// change is a write at an offset, or, without data, a truncation to it.
type change struct {
	at   int64
	data []byte
}

func (c change) apply(content []byte) []byte {
	if c.data == nil {
		return append(content[:min(len(content), int(c.at))], make([]byte, max(0, int(c.at)-len(content)))...)
	}
	if end := int(c.at) + len(c.data); end > len(content) {
		content = append(content, make([]byte, end-len(content))...)
	}
	copy(content[c.at:], c.data)
	return content
}

func newMemory(seed uint64) *memory {
	return &memory{chance: rand.New(rand.NewPCG(seed, 1)), now: map[string]*inode{}, durable: map[string]*inode{}}
}

// call counts a call; true when the process dies in it.
func (m *memory) call() bool {
	m.calls++
	if m.calls == m.deathAt {
		m.dead = true
	}
	return m.dead
}

// restart begins a new process: after the death of the old one alone, or after a power failure.
func (m *memory) restart(power bool) {
	if power {
		m.lose()
	}
	m.locked, m.dead, m.deathAt, m.written = false, false, 0, false
	m.full, m.fullSync, m.syncFails = false, false, false
}

// lose makes of everything that was not synced what a power failure may leave of it.
func (m *memory) lose() {
	for _, change := range m.names[:m.chance.IntN(len(m.names)+1)] {
		change(m.durable)
	}
	m.names = nil
	for _, name := range slices.Sorted(maps.Keys(m.durable)) {
		f := m.durable[name]
		odds := m.chance.Float64()
		for _, c := range f.changes {
			for _, sector := range c.sectors() {
				if m.chance.Float64() >= odds {
					continue
				}
				if sector.data != nil && m.chance.IntN(10) == 0 {
					sector.data = sector.data[:1+m.chance.IntN(len(sector.data))]
				}
				f.durable = sector.apply(f.durable)
			}
		}
		f.changes = nil
		f.now = bytes.Clone(f.durable)
	}
	m.now = maps.Clone(m.durable)
}

// sectors splits a write at the borders of sectors.
func (c change) sectors() []change {
	if c.data == nil {
		return []change{c}
	}
	var sectors []change
	for at, data := c.at, c.data; len(data) > 0; {
		n := min(int64(len(data)), sectorBytes-at%sectorBytes)
		sectors = append(sectors, change{at, data[:n]})
		at, data = at+n, data[n:]
	}
	return sectors
}

func (m *memory) open(name string, create bool) (file, error) {
	if m.call() {
		return nil, errDead
	}
	f, ok := m.now[name]
	switch {
	case !ok && !create:
		return nil, fs.ErrNotExist
	case !ok && m.full && m.chance.IntN(2) == 0:
		return nil, syscall.ENOSPC
	case !ok:
		f = &inode{}
		m.change(func(dir map[string]*inode) { dir[name] = f })
	case create:
		f.change(change{})
	}
	return &memoryFile{m, f}, nil
}

func (m *memory) change(c func(map[string]*inode)) {
	c(m.now)
	m.names = append(m.names, c)
}

func (m *memory) rename(from, to string) error {
	if m.call() {
		return errDead
	}
	if m.full && m.chance.IntN(2) == 0 {
		return syscall.ENOSPC
	}
	m.change(func(dir map[string]*inode) {
		if f, ok := dir[from]; ok {
			dir[to] = f
			delete(dir, from)
		}
	})
	return nil
}

func (m *memory) remove(name string) error {
	if m.call() {
		return errDead
	}
	m.change(func(dir map[string]*inode) { delete(dir, name) })
	return nil
}

func (m *memory) list() ([]string, error) { return slices.Sorted(maps.Keys(m.now)), nil }

func (m *memory) syncDir() error {
	if m.call() {
		return errDead
	}
	if !m.syncDirLies {
		m.durable, m.names = maps.Clone(m.now), nil
	}
	return nil
}

func (m *memory) lock(string) (io.Closer, error) {
	if m.locked {
		return nil, errors.New("another process has it open")
	}
	m.locked = true
	return unlock{m}, nil
}

type unlock struct{ m *memory }

func (u unlock) Close() error { u.m.locked = false; return nil }

func (f *inode) change(c change) {
	f.now = c.apply(f.now)
	f.changes = append(f.changes, c)
}

type memoryFile struct {
	m *memory
	f *inode
}

func (f *memoryFile) ReadAt(p []byte, at int64) (int, error) {
	return bytes.NewReader(f.f.now).ReadAt(p, at)
}

func (f *memoryFile) WriteAt(p []byte, at int64) (int, error) {
	if f.m.dead {
		return 0, errDead
	}
	n, err := len(p), error(nil)
	switch {
	case f.m.call():
		n, err = f.m.chance.IntN(len(p)+1), errDead
	case f.m.full && f.m.chance.IntN(4) > 0:
		n, err = f.m.chance.IntN(len(p)), syscall.ENOSPC
	}
	f.m.written = true
	if n > 0 {
		f.f.change(change{at, bytes.Clone(p[:n])})
	}
	return n, err
}

func (f *memoryFile) Truncate(size int64) error {
	if f.m.call() {
		return errDead
	}
	f.f.change(change{at: size})
	return nil
}

func (f *memoryFile) Sync() error {
	if f.m.call() {
		return errDead
	}
	if f.m.fullSync {
		return syscall.ENOSPC
	}
	if f.m.syncFails { // as Linux does: the pages are clean afterwards, whatever became of them
		f.m.syncFails = false
		f.f.changes = nil
		return errInput
	}
	if f.m.syncLies || f.m.openSyncLies && !f.m.written {
		return nil
	}
	for _, c := range f.f.changes {
		f.f.durable = c.apply(f.f.durable)
	}
	f.f.changes = nil
	return nil
}

func (f *memoryFile) Size() (int64, error) { return int64(len(f.f.now)), nil }
func (f *memoryFile) Close() error         { return nil }
