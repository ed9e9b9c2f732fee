package gossip

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// The encodings, all canonical: one value, one sequence of bytes. "n" is an unsigned varint in its shortest form.
//
//	origin  = n(length of name) name n(incarnation)
//	vector  = n(count) { origin n(seq > 0) }            strictly ascending by origin
//	entry   = 1 origin n(seq > 0) vector(deps) data     data runs to the end
//	message = 1 flags n(sender) n(heard)
//	          [ hash, 8 bytes little endian ]           when flags say so
//	          [ vector ]                                when flags say so
//	          n(count) { n(length) entry }
const codecVersion = 1

// The flags of an encoded message.
const (
	flagAsk = 1 << iota
	flagAnswer
	flagRelay
	flagHub
	flagHash
	flagVector
	flagsAll = 1<<iota - 1
)

// A Message is what one node sends another.
type Message struct {
	Sender uint64 // the incarnation of the sending process
	Heard  uint64 // the receiver's process last heard from, 0: none. Proves that the vector is no older than that process
	Ask    bool   // answer with your vector, and with what mine lacks
	Answer bool   // this answers an Ask
	Relay  bool   // pass the entries on to everybody: you are my hub
	Hub    bool   // the sender passes entries on to everybody
	// Hash stands for a vector that the sender believes the receiver has too; HasHash says that it is there.
	Hash    uint64
	HasHash bool
	Vector  Vector // what the sender has durably; nil: not said
	Entries []Entry
}

// AppendBinary appends the vector's encoding to b.
func (v Vector) AppendBinary(b []byte) []byte {
	origins := v.Origins()
	origins = slices.DeleteFunc(origins, func(o Origin) bool { return v[o] == 0 })
	b = binary.AppendUvarint(b, uint64(len(origins)))
	for _, o := range origins {
		b = binary.AppendUvarint(o.appendBinary(b), v[o])
	}
	return b
}

func (o Origin) appendBinary(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(o.Node)))
	b = append(b, o.Node...)
	return binary.AppendUvarint(b, o.Incarnation)
}

// AppendBinary appends the entry's encoding to b: one record that ParseEntry reads.
func (e Entry) AppendBinary(b []byte) []byte {
	b = append(b, codecVersion)
	b = binary.AppendUvarint(e.Origin.appendBinary(b), e.Seq)
	return append(e.Deps.AppendBinary(b), e.Data...)
}

// AppendBinary appends the message's encoding to b.
func (m Message) AppendBinary(b []byte) []byte {
	b = append(b, codecVersion, m.flags())
	b = binary.AppendUvarint(b, m.Sender)
	b = binary.AppendUvarint(b, m.Heard)
	if m.HasHash {
		b = binary.LittleEndian.AppendUint64(b, m.Hash)
	}
	if m.Vector != nil {
		b = m.Vector.AppendBinary(b)
	}
	b = binary.AppendUvarint(b, uint64(len(m.Entries)))
	var scratch []byte
	for _, e := range m.Entries {
		scratch = e.AppendBinary(scratch[:0])
		b = binary.AppendUvarint(b, uint64(len(scratch)))
		b = append(b, scratch...)
	}
	return b
}

func (m Message) flags() byte {
	var flags byte
	for i, set := range []bool{m.Ask, m.Answer, m.Relay, m.Hub, m.HasHash, m.Vector != nil} {
		if set {
			flags |= 1 << i
		}
	}
	return flags
}

// ParseBinaryVector reads exactly what Vector.AppendBinary writes. Errors name the offset.
func ParseBinaryVector(b []byte) (Vector, error) {
	r := reader{b: b}
	v := r.vector()
	if err := r.end("vector"); err != nil {
		return nil, err
	}
	return v, nil
}

// ParseEntry reads exactly what Entry.AppendBinary writes; the entry's Data is part of b. Errors name the offset.
func ParseEntry(b []byte) (Entry, error) {
	r := reader{b: b}
	e := r.entry()
	if err := r.end("entry"); err != nil {
		return Entry{}, err
	}
	return e, nil
}

// ParseMessage reads exactly what Message.AppendBinary writes; the entries' Data are parts of b. It allocates no more
// than a small multiple of len(b). Errors name the offset.
func ParseMessage(b []byte) (Message, error) {
	r := reader{b: b}
	m := r.message()
	if err := r.end("message"); err != nil {
		return Message{}, err
	}
	return m, nil
}

// reader consumes b; after its first error every read returns zero.
type reader struct {
	b   []byte
	at  int
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("offset %d: %w", r.at, fmt.Errorf(format, args...))
		r.b = r.b[:r.at]
	}
}

func (r *reader) end(what string) error {
	if r.err == nil && r.at < len(r.b) {
		r.fail("%d bytes too many", len(r.b)-r.at)
	}
	if r.err != nil {
		return fmt.Errorf("gossip: bad %s: %w", what, r.err)
	}
	return nil
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)-r.at) {
		r.fail("ends %d bytes early", n-uint64(len(r.b)-r.at))
		return nil
	}
	part := r.b[r.at : r.at+int(n) : r.at+int(n)]
	r.at += int(n)
	return part
}

func (r *reader) uvarint() uint64 {
	n, size := binary.Uvarint(r.b[r.at:])
	if size <= 0 || size > 1 && r.b[r.at+size-1] == 0 {
		r.fail("no number in its shortest form")
		return 0
	}
	r.at += size
	return n
}

// count reads how many items follow, each of at least bytesMin bytes.
func (r *reader) count(bytesMin int) int {
	n := r.uvarint()
	if n > uint64((len(r.b)-r.at)/bytesMin) {
		r.fail("%d items cannot fit into %d bytes", n, len(r.b)-r.at)
		return 0
	}
	return int(n)
}

func (r *reader) version() {
	if v := r.take(1); v != nil && v[0] != codecVersion {
		r.at--
		r.fail("version %d, want %d", v[0], codecVersion)
	}
}

func (r *reader) origin() Origin {
	at := r.at
	name := string(r.take(min(r.uvarint(), nodeBytesMax+1)))
	if err := ValidName(name); err != nil && r.err == nil {
		r.at = at
		r.fail("%w", err)
	}
	return Origin{name, r.uvarint()}
}

func (r *reader) seq() uint64 {
	seq := r.uvarint()
	if (seq == 0 || seq >= seqMax) && r.err == nil {
		r.fail("sequence number %d out of range", seq)
	}
	return seq
}

func (r *reader) vector() Vector {
	n := r.count(4)
	if n > originsMax {
		r.fail("%d origins, at most %d", n, originsMax)
		return nil
	}
	v := make(Vector, n)
	var last Origin
	for i := 0; i < n && r.err == nil; i++ {
		o := r.origin()
		if i > 0 && last.Compare(o) >= 0 {
			r.fail("%s does not come after %s", o, last)
		}
		v[o], last = r.seq(), o
	}
	return v
}

func (r *reader) entry() Entry {
	if len(r.b) > entryBytesMax {
		r.fail("an entry has at most %d bytes, not %d", entryBytesMax, len(r.b))
	}
	r.version()
	e := Entry{Origin: r.origin(), Seq: r.seq(), Deps: r.vector()}
	if _, ok := e.Deps[e.Origin]; ok {
		r.fail("%s depends on itself", e.Origin)
	}
	e.Data = r.take(uint64(len(r.b) - r.at))
	return e
}

func (r *reader) message() Message {
	r.version()
	var flags byte
	if f := r.take(1); f != nil {
		if flags = f[0]; flags > flagsAll {
			r.fail("unknown flags %#x", flags)
		}
	}
	m := Message{Sender: r.uvarint(), Heard: r.uvarint(), Ask: flags&flagAsk != 0, Answer: flags&flagAnswer != 0,
		Relay: flags&flagRelay != 0, Hub: flags&flagHub != 0, HasHash: flags&flagHash != 0}
	if m.HasHash {
		if h := r.take(8); h != nil {
			m.Hash = binary.LittleEndian.Uint64(h)
		}
	}
	if flags&flagVector != 0 {
		m.Vector = r.vector()
	}
	n := r.count(7)
	for i := 0; i < n && r.err == nil; i++ {
		part := reader{b: r.take(r.uvarint())}
		at := r.at - len(part.b)
		m.Entries = append(m.Entries, part.entry())
		if part.err != nil {
			r.at = at
			r.fail("entry %d: %w", i, part.err)
		}
	}
	return m
}
