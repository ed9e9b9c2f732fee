package ledger

import (
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"dongne/internal/sharedlog"
)

// The form of a snapshot, integers little endian, text with its length (uvarint) before it:
//
//	"dPL1", shard (4), shards (4), slot (8), time (8)
//	then tables, each with the number of its rows (8): users, accounts, records, postings, keys; the texts as one blob
//	then what is open, sorted: roots, settling, portions
//
// Equal states have equal snapshots, so its SHA-256 is the hash of the state.
const snapshotMagic = "dPL1"

type writer struct{ b []byte }

func (w *writer) u8(x byte)       { w.b = append(w.b, x) }
func (w *writer) u32(x uint32)    { w.b = binary.LittleEndian.AppendUint32(w.b, x) }
func (w *writer) u64(x uint64)    { w.b = binary.LittleEndian.AppendUint64(w.b, x) }
func (w *writer) i64(x int64)     { w.u64(uint64(x)) }
func (w *writer) count(n int)     { w.u64(uint64(n)) }
func (w *writer) text(s string)   { w.b = appendText(w.b, s) }
func (w *writer) flag(is bool)    { w.u8(map[bool]byte{true: 1}[is]) }
func (w *writer) id(id ID)        { w.i64(id.Time); w.u32(uint32(id.Shard)); w.u32(id.Record) }
func (w *writer) legs(legs []Leg) { w.b = appendLegs(w.b, legs) }

// Snapshot returns the state's bytes.
func (s *State) Snapshot() []byte {
	w := writer{make([]byte, 0, 1<<10+s.records.n*56+s.postings.n*36+s.keys.n*36+s.accounts.n*128+int(s.texts.size))}
	w.b = append(w.b, snapshotMagic...)
	w.u32(uint32(s.shard))
	w.u32(uint32(s.shards))
	w.u64(s.position.Slot)
	w.i64(s.position.Time)
	w.tables(s)
	w.count(len(s.roots))
	for _, rec := range slices.Sorted(maps.Keys(s.roots)) {
		w.u32(rec)
		w.root(s.roots[rec])
	}
	w.count(len(s.settling))
	for _, rec := range slices.Sorted(maps.Keys(s.settling)) {
		c := s.settling[rec]
		w.u32(rec)
		w.legs(c.legs)
		w.u32(c.used)
		w.u32(c.root)
		w.flag(c.any)
		w.flag(c.final)
	}
	w.count(len(s.portions))
	for _, id := range slices.SortedFunc(maps.Keys(s.portions), compareIDs) {
		p := s.portions[id]
		w.id(id)
		w.u32(p.record)
		w.u8(byte(p.code))
		w.u8(p.leg)
		w.flag(p.pending)
	}
	return w.b
}

func (w *writer) tables(s *State) {
	w.count(s.users.n - 1)
	for n := 1; n < s.users.n; n++ {
		w.text(*s.users.at(uint32(n)))
	}
	w.count(s.accounts.n - 1)
	for n := 1; n < s.accounts.n; n++ {
		w.account(s.accounts.at(uint32(n)))
	}
	w.count(s.records.n - 1)
	for n := 1; n < s.records.n; n++ {
		w.record(s.records.at(uint32(n)))
	}
	w.count(s.postings.n - 1)
	for n := 1; n < s.postings.n; n++ {
		p := s.postings.at(uint32(n))
		w.i64(p.amount)
		w.i64(p.balance)
		w.u32(p.account)
		w.u32(p.before)
		w.u32(p.number)
		w.u32(p.record)
	}
	w.count(s.keys.n)
	for n := range s.keys.n {
		k := s.keys.at(uint32(n))
		w.b = append(append(w.b, k.key[:]...), k.print[:]...)
		w.u32(k.record)
		w.u8(byte(k.code))
		w.u8(k.leg)
	}
	w.u64(s.texts.size)
	for i, left := 0, s.texts.size; left > 0; i++ {
		n := min(left, blobChunkBytes)
		w.b = append(w.b, s.texts.chunks[i][:n]...)
		left -= n
	}
}

func (w *writer) account(a *account) {
	w.text(a.id)
	for _, x := range []int64{a.posted, a.held, a.incoming, a.perTransfer, a.perDay, a.spent} {
		w.i64(x)
	}
	for _, x := range []uint32{uint32(a.day), a.owner, a.record, a.changed, a.last, a.entries, a.version} {
		w.u32(x)
	}
	w.b = append(append(w.b, a.currency[:]...), a.flags)
}

func (w *writer) record(r *record) {
	w.i64(r.time)
	w.i64(r.amount)
	w.u64(r.text)
	w.u32(r.parent)
	w.u32(r.posting)
	w.u32(r.by)
	w.u32(r.account)
	w.b = append(append(w.b, r.currency[:]...), r.postings, byte(r.kind), byte(r.fate))
}

func (w *writer) root(r *root) {
	w.u8(byte(r.status))
	w.u8(byte(r.over))
	for _, x := range []int64{r.amount, r.remaining, r.moving, r.captured, r.voided, r.refunded, r.expires} {
		w.i64(x)
	}
	w.text(r.payer)
	w.text(r.payee)
	w.count(len(r.receivedBy))
	for _, h := range r.receivedBy {
		w.text(h.account)
		w.i64(h.received)
		w.i64(h.back)
	}
}

func (r *reader) u32() uint32 {
	if s := r.take(4); s != "" {
		return binary.LittleEndian.Uint32([]byte(s))
	}
	return 0
}

func (r *reader) u64() uint64 {
	if s := r.take(8); s != "" {
		return binary.LittleEndian.Uint64([]byte(s))
	}
	return 0
}

func (r *reader) i64() int64 { return int64(r.u64()) }

// The least bytes that rows take, so that a damaged count cannot ask for much more memory than the snapshot has.
const (
	userBytesMin     = 1
	accountBytesMin  = 81
	recordBytes      = 46
	postingBytes     = 32
	keyBytes         = 30
	rootBytesMin     = 72
	crossingBytesMin = 15
	portionBytes     = 23
	shareBytesMin    = 17
)

// count reads a number of rows, each of which takes at least so many bytes.
func (r *reader) count(rowBytes int) int {
	n := r.u64()
	if n > uint64((len(r.text)-r.at)/rowBytes) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) id() ID { return ID{r.i64(), uint16(r.u32()), r.u32()} }

// Restore replaces the state by one that Snapshot wrote, of the same shard. The error says what is wrong with it.
func (s *State) Restore(snapshot []byte) error {
	r := &reader{text: string(snapshot)}
	if r.take(len(snapshotMagic)) != snapshotMagic {
		return errors.New("ledger: not a snapshot of a ledger")
	}
	shard, shards := int(r.u32()), int(r.u32())
	if shard != s.shard || shards != s.shards {
		return fmt.Errorf("ledger: the snapshot is of shard %d of %d, this is %d of %d", shard, shards, s.shard, s.shards)
	}
	fresh := NewState(shard, shards)
	fresh.position = sharedlog.Position{Slot: r.u64(), Time: r.i64()}
	r.tables(fresh)
	for range r.count(rootBytesMin) {
		rec := r.u32()
		root := r.root()
		fresh.roots[rec] = root
		if fresh.open(rec) {
			fresh.due = append(fresh.due, due{root.expires, rec})
		}
	}
	heap.Init(&fresh.due)
	for range r.count(crossingBytesMin) {
		rec := r.u32()
		fresh.settling[rec] = &crossing{legs: r.ownLegs(), used: r.u32(), root: r.u32(), any: r.byte() != 0, final: r.byte() != 0}
	}
	for range r.count(portionBytes) {
		fresh.portions[r.id()] = &portion{record: r.u32(), code: Code(r.byte()), leg: r.byte(), pending: r.byte() != 0}
	}
	if r.bad || r.at != len(r.text) {
		return fmt.Errorf("ledger: the snapshot cannot be read at byte %d", r.at)
	}
	*s = *fresh
	return nil
}

// ownLegs reads legs that do not keep the snapshot in memory.
func (r *reader) ownLegs() []Leg {
	legs := r.legs()
	for i := range legs {
		legs[i].Account = strings.Clone(legs[i].Account)
	}
	return legs
}

func (r *reader) tables(s *State) {
	for range r.count(userBytesMin) {
		s.user(r.string())
	}
	accounts := r.count(accountBytesMin)
	s.byID = make(map[string]uint32, accounts)
	for range accounts {
		a := r.account()
		n := s.accounts.add(a)
		s.byID[a.id] = n
		s.own(n)
	}
	for range r.count(recordBytes) {
		s.records.add(r.record())
	}
	for range r.count(postingBytes) {
		p := posting{r.i64(), r.i64(), r.u32(), r.u32(), r.u32(), r.u32()}
		n := s.postings.add(p)
		if p.number%markEvery == 0 {
			s.marks[p.account] = append(s.marks[p.account], n)
		}
	}
	keys := r.count(keyBytes)
	s.byKey = make(map[Key]uint32, keys)
	for range keys {
		var k used
		copy(k.key[:], r.take(len(k.key)))
		copy(k.print[:], r.take(len(k.print)))
		k.record, k.code, k.leg = r.u32(), Code(r.byte()), r.byte()
		s.byKey[k.key] = s.keys.add(k)
	}
	s.texts.size = r.u64()
	for left := s.texts.size; left > 0 && !r.bad; {
		n := min(left, blobChunkBytes)
		chunk := make([]byte, blobChunkBytes)
		copy(chunk, r.take(int(n)))
		s.texts.chunks = append(s.texts.chunks, chunk)
		left -= n
	}
}

func (r *reader) account() account {
	a := account{id: strings.Clone(r.string())}
	a.posted, a.held, a.incoming, a.perTransfer, a.perDay, a.spent = r.i64(), r.i64(), r.i64(), r.i64(), r.i64(), r.i64()
	a.day, a.owner, a.record, a.changed = int32(r.u32()), r.u32(), r.u32(), r.u32()
	a.last, a.entries, a.version = r.u32(), r.u32(), r.u32()
	copy(a.currency[:], r.take(3))
	a.flags = r.byte()
	return a
}

func (r *reader) record() record {
	n := record{time: r.i64(), amount: r.i64(), text: r.u64(), parent: r.u32(), posting: r.u32(), by: r.u32(), account: r.u32()}
	copy(n.currency[:], r.take(3))
	n.postings, n.kind, n.fate = r.byte(), recordKind(r.byte()), fate(r.byte())
	return n
}

func (r *reader) root() *root {
	n := &root{status: status(r.byte()), over: status(r.byte()), amount: r.i64(), remaining: r.i64(), moving: r.i64(),
		captured: r.i64(), voided: r.i64(), refunded: r.i64(), expires: r.i64()}
	n.payer, n.payee = strings.Clone(r.string()), strings.Clone(r.string())
	for range r.count(shareBytesMin) {
		n.receivedBy = append(n.receivedBy, share{strings.Clone(r.string()), r.i64(), r.i64()})
	}
	return n
}
