package node

import (
	"fmt"
	"slices"
	"strconv"

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

// originLog lists an origin's entries: the number of that with sequence number seq is records[seq-1].
type originLog struct {
	origin  gossip.Origin
	records []uint32
}

// A journal is the index of the log, in the order in which this node took entries in: that order is causal, and each
// origin's entries are in their own order within it. Not safe for concurrent use: the owner locks; bytes of a record
// never change, so they can be read without the lock.
type journal struct {
	content func(record) ([]byte, error) // reads a fact's bytes
	records []record
	origins []originLog
	numbers map[gossip.Origin]uint16
	have    gossip.Vector
}

// newJournal is an empty index, in which these origins have the first numbers.
func newJournal(content func(record) ([]byte, error), origins ...gossip.Origin) *journal {
	j := &journal{content: content, numbers: make(map[gossip.Origin]uint16), have: make(gossip.Vector)}
	for _, o := range origins {
		j.number(o)
	}
	return j
}

func (j *journal) number(o gossip.Origin) uint16 {
	number, known := j.numbers[o]
	if !known {
		number = uint16(len(j.origins))
		j.numbers[o] = number
		j.origins = append(j.origins, originLog{origin: o})
	}
	return number
}

// add takes in the next entry and gives its number.
func (j *journal) add(at stamp, of room.ID, slot uint64, offset, length int) uint32 {
	number := j.number(at.origin)
	log := &j.origins[number]
	if at.seq != uint64(len(log.records))+1 {
		panic(fmt.Sprintf("node: entry %d of %v after %d", at.seq, at.origin, len(log.records)))
	}
	n := uint32(len(j.records))
	j.records = append(j.records, record{slot, of, uint32(offset), uint32(length), uint32(at.seq), number})
	log.records = append(log.records, n)
	j.have[at.origin] = at.seq
	return n
}

// fact reads the fact of a record.
func (j *journal) fact(r record) (room.Fact, error) {
	b, err := j.content(r)
	if err != nil {
		return room.Fact{}, err
	}
	f, err := room.DecodeFact(b)
	if err != nil {
		return f, fmt.Errorf("chat: slot %d at byte %d: %w", r.slot, r.offset, err)
	}
	return f, nil
}

// after gives the numbers of all records that a position does not cover, oldest first; ok is false if there are more
// than limit.
func (j *journal) after(position gossip.Vector, limit int) (numbers []uint32, ok bool) {
	count := 0
	for _, log := range j.origins {
		count += len(log.records) - int(min(position[log.origin], uint64(len(log.records))))
	}
	if count > limit {
		return nil, false
	}
	for _, log := range j.origins {
		numbers = append(numbers, log.records[min(position[log.origin], uint64(len(log.records))):]...)
	}
	slices.Sort(numbers)
	return numbers, true
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
