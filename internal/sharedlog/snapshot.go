package sharedlog

import (
	"encoding/binary"
	"fmt"
)

// Snapshot is a machine's state after a slot. The state and the slots after it equal a replay of all slots.
//
// Its bytes, integers little endian:
//
//	 0  4   magic "dSS1"; the digit is the version
//	 4  4   zero
//	 8  8   slot
//	16  8   time of the slot, Unix nanoseconds
//	24  32  SHA-256 of the slot's bytes, to which the next slot is chained
//	56  32  SHA-256 of the state
//	88  32  SHA-256 of bytes 0 to 87
//	120 …   the state
type Snapshot struct {
	Position
	Hash  Hash   // of the slot's bytes
	State []byte // as the machine wrote it
}

const (
	snapshotMagic       = "dSS1"
	snapshotHeaderBytes = 120
)

// Encode returns the bytes of s.
func (s *Snapshot) Encode() []byte {
	data := make([]byte, snapshotHeaderBytes, snapshotHeaderBytes+len(s.State))
	copy(data, snapshotMagic)
	binary.LittleEndian.PutUint64(data[8:], s.Slot)
	binary.LittleEndian.PutUint64(data[16:], uint64(s.Time))
	copy(data[24:], s.Hash[:])
	state := s.StateHash()
	copy(data[56:], state[:])
	header := Sum(data[:88])
	copy(data[88:], header[:])
	return append(data, s.State...)
}

// StateHash returns the hash of the state: equal for equal states, so two replicas can be compared by it.
func (s *Snapshot) StateHash() Hash { return Sum(s.State) }

// DecodeSnapshot reads a snapshot, whose State aliases data. An error wraps ErrDamaged.
func DecodeSnapshot(data []byte) (*Snapshot, error) {
	if len(data) < snapshotHeaderBytes || string(data[:4]) != snapshotMagic || Sum(data[:88]) != Hash(data[88:120]) {
		return nil, fmt.Errorf("%w: no snapshot header in %d bytes", ErrDamaged, len(data))
	}
	s := &Snapshot{
		Position: Position{
			Slot: binary.LittleEndian.Uint64(data[8:]),
			Time: int64(binary.LittleEndian.Uint64(data[16:])),
		},
		Hash:  Hash(data[24:56]),
		State: data[snapshotHeaderBytes:],
	}
	if s.StateHash() != Hash(data[56:88]) {
		return nil, fmt.Errorf("%w: state of the snapshot at slot %d does not match its hash", ErrDamaged, s.Slot)
	}
	return s, nil
}
