package filelog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"dongne/internal/sharedlog"
)

const (
	segmentMagic       = "dongneSG"
	segmentVersion     = 1
	segmentHeaderBytes = 64
	recordHeaderBytes  = 16
	recordAlign        = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segment is one file of the log.
type segment struct {
	name    string
	file    file
	log, id [16]byte
	seed    uint32 // CRC of the id, with which every record's starts
	first   uint64 // slot
	entries []entry
	end     int64 // where the next record goes
	size    int64 // of the file, which is zeros from end on
}

// entry is where a slot's record stands.
type entry struct{ offset, length uint32 }

// recordBytes returns how much of a segment a payload takes.
func recordBytes(payload int) int64 {
	return roundUp(recordHeaderBytes+int64(payload), recordAlign)
}

// roundUp returns the least multiple of step that is at least n.
func roundUp(n, step int64) int64 { return (n + step - 1) / step * step }

// encodeHeader returns the first bytes of the segment.
func (s *segment) encodeHeader() []byte {
	h := make([]byte, segmentHeaderBytes)
	copy(h, segmentMagic)
	binary.LittleEndian.PutUint32(h[8:], segmentVersion)
	copy(h[16:], s.log[:])
	copy(h[32:], s.id[:])
	binary.LittleEndian.PutUint64(h[48:], s.first)
	binary.LittleEndian.PutUint32(h[12:], headerSum(h))
	return h
}

// headerSum returns the checksum of a header: of all but bytes 12 to 15.
func headerSum(h []byte) uint32 {
	return crc32.Update(crc32.Checksum(h[:12], castagnoli), castagnoli, h[16:])
}

// decodeHeader reads the identity of the segment from its first bytes.
func (s *segment) decodeHeader(h []byte) error {
	switch {
	case len(h) < segmentHeaderBytes || string(h[:8]) != segmentMagic:
		return fmt.Errorf("%w: %s is no segment", sharedlog.ErrDamaged, s.name)
	case binary.LittleEndian.Uint32(h[12:]) != headerSum(h[:segmentHeaderBytes]):
		return fmt.Errorf("%w: %s: checksum of the header, bytes 0 to %d", sharedlog.ErrDamaged, s.name, segmentHeaderBytes-1)
	case binary.LittleEndian.Uint32(h[8:]) != segmentVersion:
		return fmt.Errorf("%s has version %d, this program reads %d", s.name, binary.LittleEndian.Uint32(h[8:]), segmentVersion)
	}
	s.log, s.first = [16]byte(h[16:32]), binary.LittleEndian.Uint64(h[48:])
	s.setID([16]byte(h[32:48]))
	return nil
}

func (s *segment) setID(id [16]byte) {
	s.id, s.seed = id, crc32.Checksum(id[:], castagnoli)
}

// appendRecord appends the record of a slot to b.
func (s *segment) appendRecord(b []byte, slot uint64, payload []byte) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, slot)
	b = append(b, payload...)
	binary.LittleEndian.PutUint32(b[start+4:], s.recordSum(b[start:]))
	var zeros [recordAlign]byte
	return append(b, zeros[:recordBytes(len(payload))-recordHeaderBytes-int64(len(payload))]...)
}

// recordSum returns the checksum of a record without its padding.
func (s *segment) recordSum(record []byte) uint32 {
	sum := crc32.Update(s.seed, castagnoli, record[:4])
	return crc32.Update(sum, castagnoli, record[8:])
}

// parseRecord reads the record at the start of b; false when there is no valid one.
func (s *segment) parseRecord(b []byte) (slot uint64, payload []byte, ok bool) {
	if len(b) < recordHeaderBytes {
		return 0, nil, false
	}
	length := int64(binary.LittleEndian.Uint32(b))
	if length == 0 || length > RecordBytesMax || recordHeaderBytes+length > int64(len(b)) {
		return 0, nil, false
	}
	record := b[:recordHeaderBytes+length]
	if s.recordSum(record) != binary.LittleEndian.Uint32(b[4:]) {
		return 0, nil, false
	}
	return binary.LittleEndian.Uint64(b[8:]), record[recordHeaderBytes:], true
}

// scan fills the entries from the content of the file and returns an error when the first invalid place is not the end.
func (s *segment) scan(content []byte) error {
	s.end, s.size = segmentHeaderBytes, int64(len(content))
	for s.end < s.size {
		want := s.first + uint64(len(s.entries))
		slot, payload, ok := s.parseRecord(content[s.end:])
		if !ok {
			return s.nothingAfter(content, want)
		}
		if slot != want {
			return fmt.Errorf("%w: %s at byte %d holds slot %d, want %d", sharedlog.ErrDamaged, s.name, s.end, slot, want)
		}
		s.entries = append(s.entries, entry{offset: uint32(s.end), length: uint32(len(payload))})
		s.end += recordBytes(len(payload))
	}
	return nil
}

// nothingAfter returns an error when a valid record of slot want or a later one follows the end. Earlier slots do not
// count: a payload may quote them.
func (s *segment) nothingAfter(content []byte, want uint64) error {
	for at := s.end + recordAlign; at+recordHeaderBytes < s.size; at += recordAlign {
		slot := binary.LittleEndian.Uint64(content[at+8:])
		if slot < want || slot-want > uint64(s.size) {
			continue
		}
		if _, _, ok := s.parseRecord(content[at:]); ok {
			return fmt.Errorf("%w: %s at byte %d holds no valid record of slot %d, but slot %d follows at byte %d",
				sharedlog.ErrDamaged, s.name, s.end, want, slot, at)
		}
	}
	return nil
}

// cut overwrites what follows the end with zeros, if it is not zeros already, and says what it was. It does not sync.
func (s *segment) cut(content []byte) (Cut, error) {
	rest := bytes.TrimRight(content[min(s.end, s.size):], "\x00") // the last padding may be beyond the end of the file
	if len(rest) == 0 {
		return Cut{}, nil
	}
	if _, err := s.file.WriteAt(make([]byte, len(rest)), s.end); err != nil {
		return Cut{}, fmt.Errorf("cut %s at byte %d: %w", s.name, s.end, err)
	}
	return Cut{File: s.name, Offset: s.end, Bytes: int64(len(rest))}, nil
}

var zeros [growBytes]byte

// extend writes zeros up to size and syncs them.
func (s *segment) extend(size int64) error {
	for at := s.size; at < size; {
		n, err := s.file.WriteAt(zeros[:min(size-at, growBytes)], at)
		if at += int64(n); err != nil {
			s.shrink()
			return err
		}
	}
	if err := s.file.Sync(); err != nil {
		s.shrink()
		return err
	}
	s.size = size
	return nil
}

// shrink gives back the space of an extension that failed. If that fails too, zeros nobody counts on remain.
func (s *segment) shrink() { _ = s.file.Truncate(s.size) }

// content reads the whole file into buffer, or a larger one.
func (s *segment) content(buffer []byte) ([]byte, error) {
	size, err := s.file.Size()
	if err != nil {
		return nil, err
	}
	if int64(cap(buffer)) < size {
		buffer = make([]byte, size)
	}
	buffer = buffer[:size]
	if _, err := io.ReadFull(io.NewSectionReader(s.file, 0, size), buffer); err != nil {
		return nil, fmt.Errorf("read %s: %w", s.name, err)
	}
	return buffer, nil
}
