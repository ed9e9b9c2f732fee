package gossip

import (
	"fmt"
	"slices"
)

// Storage gives a Node the payloads it sends. The driver writes into it what the node accepted, before Persisted.
type Storage interface {
	// Entries returns entries of o with sequence numbers after+1, after+2, …: at least one if there is any, and
	// then as many as fit bytesMax payload bytes, or fewer. None if after+1 is absent.
	Entries(o Origin, after uint64, bytesMax int) []Entry
}

// MemoryStorage is a Storage in memory. The zero value is ready.
type MemoryStorage struct {
	logs map[Origin]*memoryLog
}

type memoryLog struct {
	trimmed uint64 // entries up to here are gone
	entries []Entry
}

// Append adds an accepted entry. It panics unless the entry is its origin's next.
func (s *MemoryStorage) Append(entries ...Entry) {
	if s.logs == nil {
		s.logs = map[Origin]*memoryLog{}
	}
	for _, e := range entries {
		l := s.logs[e.Origin]
		if l == nil {
			l = &memoryLog{}
			s.logs[e.Origin] = l
		}
		if next := l.trimmed + uint64(len(l.entries)) + 1; e.Seq != next {
			panic(fmt.Sprintf("gossip: storage wants %s:%d, got :%d", e.Origin, next, e.Seq))
		}
		l.entries = append(l.entries, e)
	}
}

// Entries implements Storage.
func (s *MemoryStorage) Entries(o Origin, after uint64, bytesMax int) []Entry {
	l := s.logs[o]
	if l == nil || after < l.trimmed || after-l.trimmed >= uint64(len(l.entries)) {
		return nil
	}
	rest := l.entries[after-l.trimmed:]
	size := 0
	for i, e := range rest {
		if size += len(e.Data); size > bytesMax && i > 0 {
			return rest[:i:i]
		}
	}
	return slices.Clip(rest)
}

// Vector returns what is stored, forgotten entries included: the Restored of a Config.
func (s *MemoryStorage) Vector() Vector {
	v := Vector{}
	for o, l := range s.logs {
		v.raise(o, l.trimmed+uint64(len(l.entries)))
	}
	return v
}

// Trim forgets what stable covers. Use it with Node.Stable, and only where every peer keeps its state through a
// restart: a peer that comes back empty finds nobody who still has the trimmed entries.
func (s *MemoryStorage) Trim(stable Vector) {
	for o, l := range s.logs {
		n := min(max(stable[o], l.trimmed)-l.trimmed, uint64(len(l.entries)))
		l.entries = slices.Clone(l.entries[n:])
		l.trimmed += n
	}
}

// Len returns the number of entries in memory.
func (s *MemoryStorage) Len() int {
	n := 0
	for _, l := range s.logs {
		n += len(l.entries)
	}
	return n
}
