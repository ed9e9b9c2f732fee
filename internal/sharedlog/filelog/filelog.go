// Package filelog keeps a shared log in one directory: the engine of a single process.
//
// # Files
//
//	LOCK                                held with flock by the process that has the log open
//	00000000000000000001.log            a segment, named by its first slot in 20 decimal digits
//	00000000000000004711.snapshot       the state after that slot; see sharedlog.Snapshot
//	floor                               the lowest slot that is kept, once anything was trimmed
//	*.tmp                               an unfinished file, removed when the log is opened
//
// All integers are little endian; CRC-32C is the Castagnoli polynomial as in hash/crc32.
//
// A segment starts with 64 bytes:
//
//	 0  8   magic "dongneSG"
//	 8  4   version, 1
//	12  4   CRC-32C of bytes 0 to 11 and 16 to 63
//	16  16  log id, random, the same in all segments
//	32  16  segment id, random
//	48  8   first slot
//	56  8   zero
//
// Records follow, each at a multiple of 8 bytes, one per slot without gaps:
//
//	 0  4   length of the payload, at least 1
//	 4  4   CRC-32C of the segment id, bytes 0 to 3, bytes 8 to 15 and the payload
//	 8  8   slot
//	16  …   payload, then zeros up to the next multiple of 8
//
// What follows the last record is zeros, written and synced before records take their place, so that appending changes no
// metadata and one fdatasync makes a record durable. A record may share its first sector with the one before: the disk is
// trusted to keep bytes that are written again unchanged. Since the checksum covers the segment id and the slot, nothing that
// was once written elsewhere, or to a reused file, reads as a record.
//
// The floor file is 32 bytes: magic "dongneFL", version 1 (4), CRC-32C of the other bytes (4), the log id's first 8 bytes,
// the floor (8).
//
// # Opening
//
// Every record is read and verified. In the last segment, the first place that holds no valid record of the expected slot
// is the end of the log when no valid record of that or a later slot follows. Bytes there are a record whose write was cut
// short and never acknowledged: they are overwritten with zeros, and the Report says so. If a valid record does follow, or
// an earlier segment is short, the log is damaged and Open refuses it, naming file and byte. A last record that was
// acknowledged and rots cannot be told from one cut short.
//
// # Failures
//
// A write that finds no space is refused and leaves nothing behind. After any other failure of a write or a sync, what is
// on disk is unknown, and a later sync would not tell either, since the kernel may have dropped the pages: the log writes
// nothing more until it is opened anew. Reads go on.
package filelog

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"dongne/internal/sharedlog"
)

const (
	// SegmentBytes is the default size beyond which a new segment is begun.
	SegmentBytes = 32 << 20
	// RecordBytesMax is the largest payload of a slot.
	RecordBytesMax = 64 << 20
	// segmentBytesMax keeps the offsets of records within 32 bits.
	segmentBytesMax = 1 << 30
	// growBytes is how much of a segment is zeroed at a time.
	growBytes = 1 << 20
)

// Options of Open; the zero value takes the defaults.
type Options struct {
	SegmentBytes int64     // 32 MiB; at most 1 GiB
	Rand         io.Reader // of log and segment ids; crypto/rand

	files fileSystem // of the directory; tests put another in its place
	grow  int64      // growBytes; tests take less
}

// Report says what Open found.
type Report struct {
	Segments int    // files
	First    uint64 // the lowest slot kept
	Tail     uint64 // the last slot; First-1 when there is none
	Cut      Cut
}

// Cut is the end of a write that was cut short, and so never acknowledged.
type Cut struct {
	File   string
	Offset int64 // of the first byte
	Bytes  int64 // up to the last byte that was not zero; 0 when nothing was cut
}

// String returns the report as one line for a log.
func (r Report) String() string {
	s := fmt.Sprintf("slots %d to %d in %d segments", r.First, r.Tail, r.Segments)
	if r.Tail < r.First {
		s = "no slots"
	}
	if r.Cut.Bytes > 0 {
		s += fmt.Sprintf("; cut %d bytes of an unfinished write from %s at byte %d", r.Cut.Bytes, r.Cut.File, r.Cut.Offset)
	}
	return s
}

// Log is an open log. Its methods may be called by any number of goroutines; reads wait for no write. It keeps 8 bytes of
// memory per slot and one open file per segment.
type Log struct {
	files        fileSystem
	lock         io.Closer
	random       io.Reader
	segmentBytes int64
	grow         int64
	id           [16]byte

	keep     sync.Mutex // serialises snapshots and trims, and is taken before write: slots are created meanwhile
	snapshot uint64     // slot of the newest snapshot, 0 without; guarded by keep

	write  sync.Mutex
	failed error  // what ended writing; guarded by write
	buffer []byte // of the record being written; guarded by write

	read     sync.RWMutex // held for look-ups only; changes are made under write and read
	segments []*segment   // by first slot, at least one
	floor    uint64
	tail     uint64
}

// Open opens the log in dir, which is created if need be, and verifies every record. It refuses a log that another process
// has open, that is damaged (sharedlog.ErrDamaged), or that is older than its snapshot (sharedlog.ErrAhead).
func Open(dir string, options Options) (*Log, Report, error) {
	l, report, err := open(dir, options)
	if err != nil {
		return nil, Report{}, fmt.Errorf("filelog: open %s: %w", dir, err)
	}
	return l, report, nil
}

func open(dir string, options Options) (*Log, Report, error) {
	l := &Log{
		files:        options.files,
		random:       options.Rand,
		segmentBytes: cmp.Or(options.SegmentBytes, SegmentBytes),
		grow:         cmp.Or(options.grow, growBytes),
	}
	if l.segmentBytes < 0 || l.segmentBytes > segmentBytesMax {
		return nil, Report{}, fmt.Errorf("segments of %d bytes, want at most %d", l.segmentBytes, segmentBytesMax)
	}
	if l.random == nil {
		l.random = rand.Reader
	}
	if l.files == nil {
		files, err := openDir(dir)
		if err != nil {
			return nil, Report{}, err
		}
		l.files = files
	}
	lock, err := l.files.lock("LOCK")
	if err != nil {
		return nil, Report{}, err
	}
	l.lock = lock
	report, err := l.recover()
	if err != nil {
		l.Close()
		return nil, Report{}, err
	}
	return l, report, nil
}

// Exclusive returns true: the lock keeps other processes out.
func (l *Log) Exclusive() bool { return true }

// First returns the lowest slot kept: 1 unless the log was trimmed.
func (l *Log) First() uint64 {
	l.read.RLock()
	defer l.read.RUnlock()
	return l.floor
}

// Tail returns the last slot, First()-1 when there is none.
func (l *Log) Tail() uint64 {
	l.read.RLock()
	defer l.read.RUnlock()
	return l.tail
}

// Create appends a slot and makes it durable. The slot after the tail is Created; up to the tail, and below the floor, it is
// Taken; beyond, NotApplied. A full disk is NotApplied with sharedlog.ErrFull. After a failed write or sync every create
// fails with sharedlog.ErrStopped and the first failure.
func (l *Log) Create(_ context.Context, slot uint64, data []byte) (sharedlog.Outcome, error) {
	l.write.Lock()
	defer l.write.Unlock()
	switch {
	case slot <= l.tail:
		return sharedlog.Taken, nil
	case slot > l.tail+1:
		return sharedlog.NotApplied, fmt.Errorf("filelog: create slot %d: the next slot is %d", slot, l.tail+1)
	case len(data) == 0 || len(data) > RecordBytesMax:
		return sharedlog.NotApplied, fmt.Errorf("filelog: create slot %d: %d bytes, want 1 to %d", slot, len(data), RecordBytesMax)
	case l.failed != nil:
		return sharedlog.Unknown, l.failed
	}
	s, err := l.room(recordBytes(len(data)))
	if err != nil {
		return sharedlog.NotApplied, err
	}
	if outcome, err := l.append(s, slot, data); err != nil {
		return outcome, err
	}
	l.read.Lock()
	s.entries = append(s.entries, entry{offset: uint32(s.end), length: uint32(len(data))})
	l.tail = slot
	l.read.Unlock()
	s.end += recordBytes(len(data))
	return sharedlog.Created, nil
}

// room returns the segment to append size bytes to, zeroed that far. Whatever fails here, no record was touched.
func (l *Log) room(size int64) (*segment, error) {
	s := l.segments[len(l.segments)-1]
	if len(s.entries) > 0 && s.end+size > l.segmentBytes {
		next, err := l.begin(l.tail+1, size)
		if err != nil {
			return nil, l.failure("begin a segment", err)
		}
		l.read.Lock()
		l.segments = append(l.segments, next)
		l.read.Unlock()
		return next, nil
	}
	if s.end+size <= s.size {
		return s, nil
	}
	if err := s.extend(roundUp(s.end+size, l.grow)); err != nil {
		return nil, l.failure("extend "+s.name, err)
	}
	return s, nil
}

// append writes a record at the end of s and syncs it.
func (l *Log) append(s *segment, slot uint64, data []byte) (sharedlog.Outcome, error) {
	l.buffer = s.appendRecord(l.buffer[:0], slot, data)
	if n, err := s.file.WriteAt(l.buffer, s.end); err != nil {
		return l.undo(s, n, l.failure("write "+s.name, err))
	}
	if err := s.file.Sync(); err != nil {
		return sharedlog.Unknown, l.stop("sync "+s.name, err)
	}
	if cap(l.buffer) > growBytes {
		l.buffer = nil
	}
	return sharedlog.Created, nil
}

// undo overwrites with zeros the n bytes that a write left at the end of s when space ran out, which happens on disks that
// write elsewhere what was zeroed here. Even a part may be a whole record, if the rest of it is zeros.
func (l *Log) undo(s *segment, n int, cause error) (sharedlog.Outcome, error) {
	if l.failed != nil {
		return sharedlog.Unknown, cause
	}
	if n == 0 {
		return sharedlog.NotApplied, cause
	}
	if _, err := s.file.WriteAt(make([]byte, n), s.end); err != nil {
		return sharedlog.Unknown, errors.Join(cause, l.failure("undo a write of "+s.name, err))
	}
	if err := s.file.Sync(); err != nil {
		return sharedlog.Unknown, errors.Join(cause, l.stop("sync "+s.name, err))
	}
	return sharedlog.NotApplied, cause
}

// failure returns the error of an operation that found no space; any other ends all writing.
func (l *Log) failure(operation string, err error) error {
	if isFull(err) {
		return fmt.Errorf("filelog: %s: %w: %w", operation, sharedlog.ErrFull, err)
	}
	return l.stop(operation, err)
}

func (l *Log) stop(operation string, err error) error {
	if l.failed == nil {
		l.failed = fmt.Errorf("filelog: %w: %s: %w", sharedlog.ErrStopped, operation, err)
	}
	return l.failed
}

// Failed returns what ended all writing, or nil.
func (l *Log) Failed() error {
	l.write.Lock()
	defer l.write.Unlock()
	return l.failed
}

// Get returns the bytes of a slot, verified against their checksum, or an error that wraps sharedlog.ErrAbsent,
// sharedlog.ErrTrimmed or sharedlog.ErrDamaged.
func (l *Log) Get(_ context.Context, slot uint64) ([]byte, error) {
	s, e, err := l.find(slot)
	if err != nil {
		return nil, err
	}
	record := make([]byte, recordHeaderBytes+int(e.length))
	if _, err := s.file.ReadAt(record, int64(e.offset)); err != nil {
		return nil, fmt.Errorf("filelog: read slot %d: %w", slot, err)
	}
	found, payload, ok := s.parseRecord(record)
	if !ok || found != slot {
		return nil, fmt.Errorf("filelog: %w: slot %d in %s at byte %d", sharedlog.ErrDamaged, slot, s.name, e.offset)
	}
	return payload, nil
}

// ReadAt returns length bytes of a slot from offset on, with a single read: one command of a batch, say. A part has no
// checksum of its own; the whole was verified when it was written or the log was opened.
func (l *Log) ReadAt(slot uint64, offset, length int) ([]byte, error) {
	s, e, err := l.find(slot)
	if err != nil {
		return nil, err
	}
	if offset < 0 || length < 0 || offset+length < offset || offset+length > int(e.length) {
		return nil, fmt.Errorf("filelog: read slot %d: bytes %d to %d of %d", slot, offset, offset+length, e.length)
	}
	part := make([]byte, length)
	if _, err := s.file.ReadAt(part, int64(e.offset)+recordHeaderBytes+int64(offset)); err != nil {
		return nil, fmt.Errorf("filelog: read slot %d: %w", slot, err)
	}
	return part, nil
}

// find returns where a slot stands.
func (l *Log) find(slot uint64) (*segment, entry, error) {
	l.read.RLock()
	defer l.read.RUnlock()
	if slot < l.floor {
		return nil, entry{}, fmt.Errorf("filelog: slot %d: %w: the floor is %d", slot, sharedlog.ErrTrimmed, l.floor)
	}
	if slot > l.tail {
		return nil, entry{}, fmt.Errorf("filelog: slot %d: %w: the tail is %d", slot, sharedlog.ErrAbsent, l.tail)
	}
	i, found := slices.BinarySearchFunc(l.segments, slot, func(s *segment, slot uint64) int { return cmp.Compare(s.first, slot) })
	if !found {
		i--
	}
	s := l.segments[i]
	return s, s.entries[slot-s.first], nil
}

// Close releases the log. Creates that come later fail with sharedlog.ErrStopped.
func (l *Log) Close() error {
	l.keep.Lock()
	defer l.keep.Unlock()
	l.write.Lock()
	defer l.write.Unlock()
	var errs []error
	for _, s := range l.segments {
		errs = append(errs, s.file.Close())
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
		l.lock = nil
	}
	l.stop("write", sharedlog.ErrClosed)
	return errors.Join(errs...)
}
