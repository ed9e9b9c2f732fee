package filelog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"dongne/internal/sharedlog"
)

const (
	segmentSuffix  = ".log"
	snapshotSuffix = ".snapshot"
	temporary      = ".tmp"
	floorName      = "floor"
	floorMagic     = "dongneFL"
	floorBytes     = 32
)

// recover reads the directory into l.
func (l *Log) recover() (Report, error) {
	names, err := l.files.list()
	if err != nil {
		return Report{}, err
	}
	for _, name := range names {
		if strings.HasSuffix(name, temporary) {
			if err := l.files.remove(name); err != nil {
				return Report{}, err
			}
		}
	}
	snapshots := slots(names, snapshotSuffix)
	if len(snapshots) > 0 {
		l.snapshot = snapshots[len(snapshots)-1]
	}
	cut, err := l.load(slots(names, segmentSuffix))
	if err != nil {
		return Report{}, err
	}
	if l.snapshot > l.tail {
		return Report{}, fmt.Errorf("%w: %s is of slot %d, but the last slot in %s is %d",
			sharedlog.ErrAhead, fileName(l.snapshot, snapshotSuffix), l.snapshot, l.segments[len(l.segments)-1].name, l.tail)
	}
	for _, slot := range snapshots {
		if slot < l.snapshot {
			if err := l.files.remove(fileName(slot, snapshotSuffix)); err != nil {
				return Report{}, err
			}
		}
	}
	return Report{Segments: len(l.segments), First: l.floor, Tail: l.tail, Cut: cut}, nil
}

// slots returns the slots in the names with a suffix, ascending.
func slots(names []string, suffix string) []uint64 {
	var found []uint64
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, suffix)
		if slot, err := strconv.ParseUint(digits, 10, 64); ok && err == nil && fileName(slot, suffix) == name {
			found = append(found, slot)
		}
	}
	slices.Sort(found)
	return found
}

func fileName(slot uint64, suffix string) string { return fmt.Sprintf("%020d%s", slot, suffix) }

// load opens the segments with these first slots and verifies that together they hold every slot from the floor on.
func (l *Log) load(firsts []uint64) (cut Cut, err error) {
	floorID, err := l.loadFloor()
	if err != nil {
		return Cut{}, err
	}
	if len(firsts) == 0 {
		return Cut{}, l.create()
	}
	for len(firsts) > 1 && firsts[1] <= l.floor { // wholly below the floor: a trim did not get as far
		if err := l.files.remove(fileName(firsts[0], segmentSuffix)); err != nil {
			return Cut{}, err
		}
		firsts = firsts[1:]
	}
	var content []byte
	for i, first := range firsts {
		if content, err = l.loadSegment(first, content); err != nil {
			return Cut{}, err
		}
		s := l.segments[i]
		if floorID != 0 && floorID != binary.LittleEndian.Uint64(l.id[:]) {
			return Cut{}, fmt.Errorf("%w: %s is of another log than %s", sharedlog.ErrDamaged, floorName, s.name)
		}
		if i+1 < len(firsts) && l.tail+1 != firsts[i+1] {
			return Cut{}, fmt.Errorf("%w: %s at byte %d holds no valid record of slot %d, but %s follows",
				sharedlog.ErrDamaged, s.name, s.end, l.tail+1, fileName(firsts[i+1], segmentSuffix))
		}
	}
	if l.floor < l.segments[0].first || l.floor > l.tail+1 {
		return Cut{}, fmt.Errorf("%w: slots %d to %d are kept, but the floor is %d", sharedlog.ErrDamaged, l.segments[0].first, l.tail, l.floor)
	}
	last := l.segments[len(l.segments)-1]
	if cut, err = last.cut(content); err != nil {
		return Cut{}, err
	}
	// A record or a name that the process before wrote and did not live to sync may so far stand in memory only.
	if err := errors.Join(last.file.Sync(), l.files.syncDir()); err != nil {
		return Cut{}, fmt.Errorf("sync %s: %w", last.name, err)
	}
	return cut, nil
}

// loadSegment opens and verifies the segment with this first slot, and returns its content, in buffer if it fits.
func (l *Log) loadSegment(first uint64, buffer []byte) ([]byte, error) {
	s := &segment{name: fileName(first, segmentSuffix)}
	f, err := l.files.open(s.name, false)
	if err != nil {
		return nil, err
	}
	s.file = f
	l.segments = append(l.segments, s)
	content, err := s.content(buffer)
	if err != nil {
		return nil, err
	}
	if err := s.decodeHeader(content); err != nil {
		return nil, err
	}
	if len(l.segments) == 1 {
		l.id = s.log
	}
	if s.first != first || s.log != l.id {
		return nil, fmt.Errorf("%w: %s is a segment of another log or slot", sharedlog.ErrDamaged, s.name)
	}
	if err := s.scan(content); err != nil {
		return nil, err
	}
	l.tail = s.first + uint64(len(s.entries)) - 1
	return content, nil
}

// create begins a log in an empty directory.
func (l *Log) create() error {
	if l.floor > 1 || l.snapshot > 0 {
		return fmt.Errorf("%w: no segments, but the floor is %d and the newest snapshot is of slot %d", sharedlog.ErrAhead, l.floor, l.snapshot)
	}
	if _, err := io.ReadFull(l.random, l.id[:]); err != nil {
		return err
	}
	s, err := l.begin(1, 0)
	if err != nil {
		return err
	}
	l.segments = []*segment{s}
	return nil
}

// begin creates a segment with room for size bytes of records, durably.
func (l *Log) begin(first uint64, size int64) (*segment, error) {
	s := &segment{name: fileName(first, segmentSuffix), log: l.id, first: first, end: segmentHeaderBytes}
	var id [16]byte
	if _, err := io.ReadFull(l.random, id[:]); err != nil {
		return nil, err
	}
	s.setID(id)
	file, err := l.replace(s.name, func(f file) error {
		if _, err := f.WriteAt(s.encodeHeader(), 0); err != nil {
			return err
		}
		s.file, s.size = f, segmentHeaderBytes
		return s.extend(roundUp(segmentHeaderBytes+max(size, 1), l.grow))
	})
	if err != nil {
		return nil, err
	}
	s.file = file
	return s, nil
}

// replace writes a file under a temporary name, gives it its name when it is durable, and makes that durable. write syncs.
func (l *Log) replace(name string, write func(file) error) (file, error) {
	f, err := l.files.open(name+temporary, true)
	if err != nil {
		return nil, err
	}
	if err := write(f); err != nil {
		return nil, errors.Join(err, f.Close(), l.files.remove(name+temporary))
	}
	if err := l.files.rename(name+temporary, name); err != nil {
		return nil, errors.Join(err, f.Close(), l.files.remove(name+temporary))
	}
	if err := l.files.syncDir(); err != nil {
		// Not wrapped: even for want of space this is not a clean refusal, since the new name may last.
		return nil, errors.Join(fmt.Errorf("sync directory: %v", err), f.Close())
	}
	return f, nil
}

// replaceContent is replace for content that fits in memory.
func (l *Log) replaceContent(name string, content []byte) error {
	f, err := l.replace(name, func(f file) error {
		if _, err := f.WriteAt(content, 0); err != nil {
			return err
		}
		return f.Sync()
	})
	if err != nil {
		return err
	}
	return f.Close()
}

// loadFloor reads the floor, 1 without a file, and the log id's first bytes beside it.
func (l *Log) loadFloor() (id uint64, err error) {
	content, err := l.readFile(floorName)
	if errors.Is(err, fs.ErrNotExist) {
		l.floor = 1
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(content) != floorBytes || string(content[:8]) != floorMagic || headerSum(content) != binary.LittleEndian.Uint32(content[12:]) {
		return 0, fmt.Errorf("%w: %s", sharedlog.ErrDamaged, floorName)
	}
	if version := binary.LittleEndian.Uint32(content[8:]); version != segmentVersion {
		return 0, fmt.Errorf("%s has version %d, this program reads %d", floorName, version, segmentVersion)
	}
	l.floor = binary.LittleEndian.Uint64(content[24:])
	return binary.LittleEndian.Uint64(content[16:]), nil
}

func (l *Log) readFile(name string) ([]byte, error) {
	f, err := l.files.open(name, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return (&segment{name: name, file: f}).content(nil)
}

// Trim moves the floor up to a slot, durably, and deletes the segments wholly below it. No slot below the floor is ever
// created again. The slots must be covered by a snapshot.
func (l *Log) Trim(slot uint64) error {
	l.keep.Lock()
	defer l.keep.Unlock()
	if slot <= l.First() {
		return nil
	}
	if slot > l.snapshot+1 {
		return fmt.Errorf("filelog: trim below slot %d: the newest snapshot is of slot %d", slot, l.snapshot)
	}
	if err := l.Failed(); err != nil {
		return err
	}
	if err := l.replaceContent(floorName, l.encodeFloor(slot)); err != nil {
		return fmt.Errorf("filelog: trim: %w", err)
	}
	for _, s := range l.raise(slot) {
		if err := errors.Join(s.file.Close(), l.files.remove(s.name)); err != nil {
			return fmt.Errorf("filelog: trim: %w", err)
		}
	}
	return nil
}

func (l *Log) encodeFloor(slot uint64) []byte {
	content := make([]byte, floorBytes)
	copy(content, floorMagic)
	binary.LittleEndian.PutUint32(content[8:], segmentVersion)
	copy(content[16:24], l.id[:8])
	binary.LittleEndian.PutUint64(content[24:], slot)
	binary.LittleEndian.PutUint32(content[12:], headerSum(content))
	return content
}

// raise sets the floor and returns the segments wholly below it, which are no longer the log's. The last one stays.
func (l *Log) raise(floor uint64) (gone []*segment) {
	l.write.Lock()
	defer l.write.Unlock()
	l.read.Lock()
	defer l.read.Unlock()
	keep := 0
	for keep+1 < len(l.segments) && l.segments[keep+1].first <= floor {
		keep++
	}
	gone, l.segments = l.segments[:keep], slices.Clone(l.segments[keep:])
	l.floor = floor
	return gone
}

// SaveSnapshot stores the state after a slot of this log, durably, and deletes older snapshots. Slots can be created
// meanwhile.
func (l *Log) SaveSnapshot(_ context.Context, slot uint64, data []byte) error {
	l.keep.Lock()
	defer l.keep.Unlock()
	if tail := l.Tail(); slot == 0 || slot > tail || slot < l.snapshot {
		return fmt.Errorf("filelog: save a snapshot of slot %d: the tail is %d, the newest snapshot of %d", slot, tail, l.snapshot)
	}
	if err := l.Failed(); err != nil {
		return err
	}
	if err := l.replaceContent(fileName(slot, snapshotSuffix), data); err != nil {
		if isFull(err) {
			err = fmt.Errorf("%w: %w", sharedlog.ErrFull, err)
		}
		return fmt.Errorf("filelog: save a snapshot of slot %d: %w", slot, err)
	}
	old := l.snapshot
	l.snapshot = slot
	if old > 0 && old < slot {
		if err := l.files.remove(fileName(old, snapshotSuffix)); err != nil {
			return fmt.Errorf("filelog: remove the snapshot of slot %d: %w", old, err)
		}
	}
	return nil
}

// LoadSnapshot returns the newest snapshot, or an error that wraps sharedlog.ErrAbsent.
func (l *Log) LoadSnapshot(context.Context) ([]byte, error) {
	l.keep.Lock()
	defer l.keep.Unlock()
	if l.snapshot == 0 {
		return nil, fmt.Errorf("filelog: %w: no snapshot", sharedlog.ErrAbsent)
	}
	data, err := l.readFile(fileName(l.snapshot, snapshotSuffix))
	if err != nil {
		return nil, fmt.Errorf("filelog: read snapshot: %w", err)
	}
	return data, nil
}
