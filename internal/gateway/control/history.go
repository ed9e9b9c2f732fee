package control

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"dongne/internal/gossip"
)

const (
	snapshotVersion = 1
	// keptMax and keptBytesMax bound what is kept for peers that are away. Beyond, overtaken entries go even if some
	// peer has not shown that it has them and what overtook them; it will be sent the latter alone.
	keptMax      = 16_384
	keptBytesMax = 64 << 20
	compactStep  = 256 // entries
	emptyPayload = 32  // bytes that an entry without data counts in a message
)

// kept is a gossip entry that is not empty, and what its data says.
type kept struct {
	gossip.Entry
	entry Entry
}

// A history is what this node has of every origin's log: how much, and of which entries more than the number. The log's
// other entries are empty, and read as such. It is gossip's storage.
type history struct {
	state  State
	have   gossip.Vector
	kept   map[gossip.Origin][]kept // by sequence number
	count  int
	bytes  int // of data
	nextAt int // count at which to compact
}

func newHistory() *history {
	return &history{have: gossip.Vector{}, kept: map[gossip.Origin][]kept{}, nextAt: compactStep}
}

// add takes in its origin's next entry. It returns what the entry says, and whether a register has its value from it
// now.
func (h *history) add(g gossip.Entry) (e Entry, current bool, err error) {
	if g.Seq != h.have[g.Origin]+1 {
		return e, false, fmt.Errorf("control: entry %d of %v after %d", g.Seq, g.Origin, h.have[g.Origin])
	}
	if len(g.Data) > 0 {
		if e, err = decodeEntry(g.Data); err != nil {
			return e, false, fmt.Errorf("control: entry %d of %v: %w", g.Seq, g.Origin, err)
		}
		current = h.keep(kept{g, e})
	}
	h.have[g.Origin] = g.Seq
	return e, current, nil
}

func (h *history) keep(k kept) (current bool) {
	k.Data = bytes.Clone(k.Data) // it is a part of a whole slot, or snapshot
	h.kept[k.Origin] = append(h.kept[k.Origin], k)
	h.count++
	h.bytes += len(k.Data)
	return h.state.Apply(k.entry)
}

// Entries implements gossip.Storage.
func (h *history) Entries(o gossip.Origin, after uint64, bytesMax int) []gossip.Entry {
	var entries []gossip.Entry
	log := h.kept[o]
	at, _ := slices.BinarySearchFunc(log, after+1, func(k kept, seq uint64) int { return cmp.Compare(k.Seq, seq) })
	for seq := after + 1; seq <= h.have[o]; seq++ {
		e := gossip.Entry{Origin: o, Seq: seq, Deps: gossip.Vector{}}
		if at < len(log) && log[at].Seq == seq {
			e = log[at].Entry
			at++
		}
		if bytesMax -= len(e.Data) + emptyPayload; bytesMax < 0 && len(entries) > 0 {
			break
		}
		entries = append(entries, e)
	}
	return entries
}

// compact forgets what nobody needs any more, once enough has come. stable says what every peer has shown that it has.
func (h *history) compact(stableNow func() gossip.Vector) {
	if h.count < h.nextAt && h.bytes < keptBytesMax {
		return
	}
	needless := h.overtaken(stableNow())
	count, size := 0, 0
	for o, log := range h.kept {
		log = slices.DeleteFunc(log, func(k kept) bool { return needless(k) && !h.state.noted(k.entry) })
		for i, k := range log {
			if k.entry.Value != nil && needless(k) {
				log[i].entry = k.entry.stripped()
				log[i].Data = log[i].entry.encode()
			}
			count++
			size += len(log[i].Data)
		}
		h.kept[o] = log
	}
	h.count, h.bytes = count, size
	h.nextAt = count + max(count, compactStep)
}

// overtaken returns what says of which entries nobody needs the value: every peer has them, and one that overtook them.
func (h *history) overtaken(stable gossip.Vector) func(kept) bool {
	if h.count > keptMax || h.bytes > keptBytesMax {
		stable = h.have
	}
	by := map[register]Entry{} // the newest that every peer has
	for o, log := range h.kept {
		for _, k := range log {
			if was, ok := by[k.entry.register()]; k.Seq <= stable[o] && k.entry.Value != nil && (!ok || was.compare(k.entry) < 0) {
				by[k.entry.register()] = k.entry
			}
		}
	}
	return func(k kept) bool {
		newer, ok := by[k.entry.register()]
		return k.Seq <= stable[k.Origin] && ok && k.entry.compare(newer) < 0
	}
}

// snapshot returns the history's bytes:
//
//	n(version 1) n(length of vector) vector n(count) { n(length) entry }
//
// n is an unsigned varint, vector and entry as package gossip writes them, entries by origin and sequence number.
func (h *history) snapshot() []byte {
	vector := h.have.AppendBinary(nil)
	b := binary.AppendUvarint(nil, snapshotVersion)
	b = append(binary.AppendUvarint(b, uint64(len(vector))), vector...)
	b = binary.AppendUvarint(b, uint64(h.count))
	for _, o := range h.have.Origins() {
		for _, k := range h.kept[o] {
			entry := k.AppendBinary(nil)
			b = append(binary.AppendUvarint(b, uint64(len(entry))), entry...)
		}
	}
	return b
}

// restoreHistory reads what snapshot wrote.
func restoreHistory(b []byte) (*history, error) {
	h := newHistory()
	r := snapshotReader{b: b}
	if version := r.number(); r.err == nil && version != snapshotVersion {
		return nil, fmt.Errorf("control: a snapshot of version %d, this program reads %d", version, snapshotVersion)
	}
	vector := r.part()
	for n := r.number(); n > 0 && r.err == nil; n-- {
		r.entry(h)
	}
	have, err := gossip.ParseBinaryVector(vector)
	if len(r.b) > 0 {
		r.err = cmp.Or(r.err, errors.New("more than there should be"))
	}
	if err := cmp.Or(r.err, err); err != nil {
		return nil, fmt.Errorf("control: bad snapshot, %d bytes before its end: %w", len(r.b), err)
	}
	for o, log := range h.kept {
		if log[len(log)-1].Seq > have[o] {
			return nil, fmt.Errorf("control: bad snapshot: entry %d of %v, of %d", log[len(log)-1].Seq, o, have[o])
		}
	}
	h.have = have
	h.nextAt = h.count + max(h.count, compactStep)
	return h, nil
}

// snapshotReader consumes b; after its first error every read returns nothing.
type snapshotReader struct {
	b   []byte
	err error
}

func (r *snapshotReader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.err = cmp.Or(r.err, errors.New("no number"))
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *snapshotReader) part() []byte {
	n := r.number()
	if r.err != nil || n > uint64(len(r.b)) {
		r.err = cmp.Or(r.err, fmt.Errorf("a part of %d bytes", n))
		return nil
	}
	part := r.b[:n:n]
	r.b = r.b[n:]
	return part
}

func (r *snapshotReader) entry(h *history) {
	g, err := gossip.ParseEntry(r.part())
	var e Entry
	if err == nil {
		e, err = decodeEntry(g.Data)
	}
	if log := h.kept[g.Origin]; err == nil && len(log) > 0 && log[len(log)-1].Seq >= g.Seq {
		err = fmt.Errorf("entry %d of %v after %d", g.Seq, g.Origin, log[len(log)-1].Seq)
	}
	if err != nil {
		r.err = cmp.Or(r.err, err)
		return
	}
	h.keep(kept{g, e})
}
