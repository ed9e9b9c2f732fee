package sharedlog

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Hash is the SHA-256 of a slot's bytes. The zero Hash stands before slot 1.
type Hash [sha256.Size]byte

// Writer identifies one start of one process. Two processes, or two starts of one, never share a Writer.
type Writer [16]byte

// Position is a place in the log: a slot and its time in Unix nanoseconds: fine enough that a slot's time, which is above
// that of the slot before, keeps to the clock however fast slots follow each other.
type Position struct {
	Slot uint64
	Time int64
}

// Command is one command of a batch.
type Command struct {
	Data   []byte // aliases the slot's bytes, which never change
	Offset int    // of Data in the slot's bytes, so that a reader can fetch it alone
}

// Batch is the content of one slot.
//
// Its bytes, integers little endian:
//
//	 0  4   magic "dSL1"; the digit is the version
//	 4  4   number of commands
//	 8  8   slot
//	16  8   time, Unix nanoseconds, above that of the slot before
//	24  16  writer
//	40  8   n, the writer's own count of batches
//	48  32  SHA-256 of the bytes of the slot before; zeros in slot 1
//	80  …   each command: its length (uvarint, in the shortest form) and its bytes
type Batch struct {
	Slot     uint64
	Time     int64
	Writer   Writer
	N        uint64
	Prev     Hash
	Commands []Command
}

const (
	batchMagic       = "dSL1"
	batchHeaderBytes = 80
)

// Sum returns the hash of a slot's bytes, which the next slot carries as Prev.
func Sum(data []byte) Hash { return sha256.Sum256(data) }

// Encode returns the bytes of b and points the commands of b into them.
func (b *Batch) Encode() []byte {
	size := batchHeaderBytes
	for _, c := range b.Commands {
		size += commandBytes(c.Data)
	}
	data := make([]byte, batchHeaderBytes, size)
	copy(data, batchMagic)
	binary.LittleEndian.PutUint32(data[4:], uint32(len(b.Commands)))
	binary.LittleEndian.PutUint64(data[8:], b.Slot)
	binary.LittleEndian.PutUint64(data[16:], uint64(b.Time))
	copy(data[24:40], b.Writer[:])
	binary.LittleEndian.PutUint64(data[40:], b.N)
	copy(data[48:80], b.Prev[:])
	for i, c := range b.Commands {
		data = binary.AppendUvarint(data, uint64(len(c.Data)))
		offset := len(data)
		data = append(data, c.Data...)
		b.Commands[i] = Command{Data: data[offset:len(data):len(data)], Offset: offset}
	}
	return data
}

// DecodeBatch reads the bytes of a slot. The commands alias data. Every batch has exactly one encoding; anything else is
// an error that wraps ErrDamaged and names the byte.
func DecodeBatch(data []byte) (*Batch, error) {
	if len(data) < batchHeaderBytes || string(data[:4]) != batchMagic {
		return nil, fmt.Errorf("%w: no batch header in %d bytes", ErrDamaged, len(data))
	}
	b := &Batch{
		Slot:   binary.LittleEndian.Uint64(data[8:]),
		Time:   int64(binary.LittleEndian.Uint64(data[16:])),
		Writer: Writer(data[24:40]),
		N:      binary.LittleEndian.Uint64(data[40:]),
		Prev:   Hash(data[48:80]),
	}
	count := int(binary.LittleEndian.Uint32(data[4:]))
	if count > len(data)-batchHeaderBytes { // a command takes at least its length byte
		return nil, fmt.Errorf("%w: %d commands in %d bytes", ErrDamaged, count, len(data))
	}
	if count > 0 {
		b.Commands = make([]Command, count)
	}
	at := batchHeaderBytes
	for i := range b.Commands {
		length, n := binary.Uvarint(data[at:])
		if n <= 0 || n != uvarintBytes(length) || length > uint64(len(data)-at-n) {
			return nil, fmt.Errorf("%w: length of command %d at byte %d", ErrDamaged, i, at)
		}
		at += n
		end := at + int(length)
		b.Commands[i] = Command{Data: data[at:end:end], Offset: at}
		at = end
	}
	if at != len(data) {
		return nil, fmt.Errorf("%w: %d bytes after the last command", ErrDamaged, len(data)-at)
	}
	return b, nil
}

// commandBytes returns how much of a batch a command takes.
func commandBytes(data []byte) int { return uvarintBytes(uint64(len(data))) + len(data) }

func uvarintBytes(x uint64) int {
	n := 1
	for ; x >= 0x80; x >>= 7 {
		n++
	}
	return n
}
