package node

import (
	"fmt"
	"slices"
	"strconv"
	"sync"

	"dongne/chat/room"
	"dongne/internal/gossip"
)

// A record says where one entry lies in the log: 32 bytes of memory each.
type record struct {
	slot   uint64
	room   room.ID // 0 where the fact is about more than one room, or none
	offset uint32  // of the entry's bytes in its slot
	length uint32  // bytes
	seq    uint32  // within its origin
	origin uint16  // number in journal.origins
}

// originLog lists an origin's entries: records[seq-1].
type originLog struct {
	origin  gossip.Origin
	records []uint32
}

// reader reads part of a slot; the file engine is one.
type reader interface {
	ReadAt(slot uint64, offset, length int) ([]byte, error)
}

// A journal is the index of the log, in the order in which this node took entries in: that order is causal, and each
// origin's entries are in their own order within it. Not safe for concurrent use: the owner locks; bytes of a record
// never change, so they can be read without the lock.
type journal struct {
	file    reader
	records []record
	origins []originLog
	numbers map[gossip.Origin]uint16
	have    gossip.Vector
}

func newJournal(file reader) *journal {
	return &journal{file: file, numbers: make(map[gossip.Origin]uint16), have: make(gossip.Vector)}
}

// add takes in the next entry and gives its number.
func (j *journal) add(e *gossip.Entry, of room.ID, slot uint64, offset, length int) uint32 {
	number, known := j.numbers[e.Origin]
	if !known {
		number = uint16(len(j.origins))
		j.numbers[e.Origin] = number
		j.origins = append(j.origins, originLog{origin: e.Origin})
	}
	log := &j.origins[number]
	if e.Seq != uint64(len(log.records))+1 {
		panic(fmt.Sprintf("node: entry %d of %v after %d", e.Seq, e.Origin, len(log.records)))
	}
	n := uint32(len(j.records))
	j.records = append(j.records, record{slot, of, uint32(offset), uint32(length), uint32(e.Seq), number})
	log.records = append(log.records, n)
	j.have[e.Origin] = e.Seq
	return n
}

// entry reads the bytes of a record.
func (j *journal) entry(r record) (gossip.Entry, error) {
	b, err := j.file.ReadAt(r.slot, int(r.offset), int(r.length))
	if err != nil {
		return gossip.Entry{}, fmt.Errorf("chat: read slot %d: %w", r.slot, err)
	}
	e, err := gossip.ParseEntry(b)
	if err != nil {
		return e, fmt.Errorf("chat: slot %d at byte %d: %w", r.slot, r.offset, err)
	}
	return e, nil
}

// fact reads the fact of a record.
func (j *journal) fact(r record) (room.Fact, error) {
	e, err := j.entry(r)
	if err != nil {
		return room.Fact{}, err
	}
	f, err := room.DecodeFact(e.Data)
	if err != nil {
		return f, fmt.Errorf("chat: slot %d at byte %d: %w", r.slot, r.offset, err)
	}
	return f, nil
}

// after gives the numbers of all records that a position does not cover, oldest first; ok is false if there are more
// than limit to look at.
func (j *journal) after(position gossip.Vector, limit int) (numbers []uint32, ok bool) {
	from := len(j.records)
	for _, log := range j.origins {
		if seen := position[log.origin]; seen < uint64(len(log.records)) {
			from = min(from, int(log.records[seen]))
		}
	}
	if len(j.records)-from > limit {
		return nil, false
	}
	for i, r := range j.records[from:] {
		if uint64(r.seq) > position[j.origins[r.origin].origin] {
			numbers = append(numbers, uint32(from+i))
		}
	}
	return numbers, true
}

// storage gives the gossip node the entries that are in the log.
type storage struct {
	journal *journal
	lock    sync.Locker // of the journal, for reading
	failed  func(error)
}

// Entries reads an origin's entries from after+1 on, at least one and at most bytesMax of them together.
func (s storage) Entries(o gossip.Origin, after uint64, bytesMax int) []gossip.Entry {
	var entries []gossip.Entry
	for _, r := range s.records(o, after, bytesMax) {
		e, err := s.journal.entry(r)
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

// A position is the journal's vector as the text of an event id, kept up entry by entry; it reads as gossip.Vector's
// own text does.
type position struct {
	parts []positionPart // in the order of their origins
	text  string
}

func newPosition() position { return position{text: nowhere} }

type positionPart struct {
	origin gossip.Origin
	prefix string // all but the number
	seq    uint64
}

func (p *position) advance(o gossip.Origin, seq uint64) {
	i, known := slices.BinarySearchFunc(p.parts, o, func(part positionPart, o gossip.Origin) int { return part.origin.Compare(o) })
	if !known {
		p.parts = slices.Insert(p.parts, i, positionPart{origin: o, prefix: o.String() + ":"})
	}
	p.parts[i].seq = seq
	text := make([]byte, 0, len(p.text)+32)
	for i, part := range p.parts {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(text, part.prefix...)
		text = strconv.AppendUint(text, part.seq, 36)
	}
	p.text = string(text)
}
