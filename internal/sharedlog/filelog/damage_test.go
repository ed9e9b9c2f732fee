package filelog

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"dongne/internal/sharedlog"
)

// written returns a memory with a log of these payloads, closed, and its only segment.
func written(t *testing.T, payloads ...string) (*memory, *inode) {
	t.Helper()
	m := newMemory(1)
	log, _, err := Open("memory", Options{files: m, grow: 1024})
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range payloads {
		if outcome, err := log.Create(t.Context(), uint64(i)+1, []byte(p)); outcome != sharedlog.Created {
			t.Fatalf("Create(%d) = %v, %v", i+1, outcome, err)
		}
	}
	log.Close()
	return m, m.now[fileName(1, segmentSuffix)]
}

// reopen opens the log in m and returns what it holds.
func reopen(t *testing.T, m *memory) ([]string, Report, error) {
	t.Helper()
	log, report, err := Open("memory", Options{files: m, grow: 1024})
	if err != nil {
		return nil, Report{}, err
	}
	defer log.Close()
	var got []string
	for slot := log.First(); slot <= log.Tail(); slot++ {
		data, err := log.Get(t.Context(), slot)
		if err != nil {
			t.Fatalf("Get(%d): %v", slot, err)
		}
		got = append(got, string(data))
	}
	return got, report, nil
}

// goesOn appends a slot to the log in m and finds it again.
func goesOn(t *testing.T, m *memory, before []string) {
	t.Helper()
	log, _, err := Open("memory", Options{files: m, grow: 1024})
	if err != nil {
		t.Fatal(err)
	}
	if outcome, err := log.Create(t.Context(), uint64(len(before))+1, []byte("next")); outcome != sharedlog.Created {
		t.Fatalf("Create after recovery = %v, %v", outcome, err)
	}
	log.Close()
	after, report, err := reopen(t, m)
	if err != nil || len(after) != len(before)+1 || after[len(before)] != "next" || report.Cut.Bytes != 0 {
		t.Fatalf("after recovery and an append: %q, %v, %v", after, report, err)
	}
}

func payloads() []string {
	return []string{"one", strings.Repeat("two ", 40), "three, and a little more", strings.Repeat("\x00four", 30)}
}

// isPrefix compares what was recovered with what was written.
func isPrefix(got, want []string) bool {
	return len(got) <= len(want) && strings.Join(got, "|") == strings.Join(want[:len(got)], "|")
}

// The log is cut at every byte, by the end of the file and by zeros to it: each cut leaves a prefix, is reported, and the
// log goes on.
func TestCrashAtEveryByte(t *testing.T) {
	want := payloads()
	_, whole := written(t, want...)
	content := bytes.Clone(whole.now)
	used := len(bytes.TrimRight(content, "\x00"))
	for at := segmentHeaderBytes; at <= used; at++ {
		for _, zeros := range []bool{false, true} {
			m, f := written(t, want...)
			f.now = bytes.Clone(content[:at])
			if zeros {
				f.now = append(f.now, make([]byte, len(content)-at)...)
			}
			left := len(bytes.TrimRight(f.now, "\x00"))
			got, report, err := reopen(t, m)
			if err != nil || !isPrefix(got, want) {
				t.Fatalf("cut at byte %d (zeros: %v): %q, %v", at, zeros, got, err)
			}
			end := segmentHeaderBytes
			for _, p := range got {
				end += int(recordBytes(len(p)))
			}
			cut := Cut{}
			if left > end {
				cut = Cut{File: fileName(1, segmentSuffix), Offset: int64(end), Bytes: int64(left - end)}
			}
			if report.Cut != cut {
				t.Fatalf("cut at byte %d (zeros: %v): report %+v, want %+v", at, zeros, report.Cut, cut)
			}
			goesOn(t, m, got)
		}
	}
}

// Every bit of the file is flipped. A flip before the last record is refused with its file and place, or changes nothing
// (padding); one in the last record cuts it off, at worst; no flip ever changes what is read.
func TestFlipEveryBit(t *testing.T) {
	want := payloads()
	_, whole := written(t, want...)
	content := bytes.Clone(whole.now)
	last := segmentHeaderBytes
	for _, p := range want[:len(want)-1] {
		last += int(recordBytes(len(p)))
	}
	refused := 0
	for bit := range 8 * (last + int(recordBytes(len(want[len(want)-1]))) + 40) {
		at := bit / 8
		m, f := written(t, want...)
		f.now = bytes.Clone(content)
		f.now[at] ^= 1 << (bit % 8)
		got, report, err := reopen(t, m)
		switch {
		case err != nil:
			refused++
			if !errors.Is(err, sharedlog.ErrDamaged) || !strings.Contains(err.Error(), fileName(1, segmentSuffix)) || !strings.Contains(err.Error(), "byte") && at >= 8 {
				t.Fatalf("bit %d of byte %d: error %q does not say where", bit%8, at, err)
			}
			if at >= last {
				t.Fatalf("bit %d of byte %d, in the last record: %v", bit%8, at, err)
			}
		case !isPrefix(got, want) || len(got) < len(want)-1 || at < last && len(got) < len(want):
			t.Fatalf("bit %d of byte %d: read %q", bit%8, at, got)
		case len(got) < len(want) && report.Cut.Bytes == 0:
			t.Fatalf("bit %d of byte %d: a record is gone without a report", bit%8, at)
		}
	}
	if padding := 5 + 8; refused < 8*(last-4*padding) {
		t.Errorf("%d of %d flips before the last record refused", refused, 8*last)
	}
}

func TestDamageNamesThePlace(t *testing.T) {
	m, f := written(t, payloads()...)
	second := int64(segmentHeaderBytes) + recordBytes(len(payloads()[0]))
	third := second + recordBytes(len(payloads()[1]))
	f.now[second+20] ^= 1
	_, _, err := reopen(t, m)
	want := fmt.Sprintf("%s at byte %d holds no valid record of slot 2, but slot 3 follows at byte %d", fileName(1, segmentSuffix), second, third)
	if !errors.Is(err, sharedlog.ErrDamaged) || !strings.Contains(err.Error(), want) {
		t.Fatalf("error %v, want %q", err, want)
	}
}

// Two records change places, wherever they stand; the last two as well, which must not pass for an unfinished write.
func TestSwappedRecords(t *testing.T) {
	all := []string{"record one", "record two", "record six", "record ten"}
	size := int(recordBytes(len(all[0])))
	for a := range all {
		for b := range a {
			m, f := written(t, all...)
			left, right := f.now[segmentHeaderBytes+b*size:][:size], f.now[segmentHeaderBytes+a*size:][:size]
			keep := bytes.Clone(left)
			copy(left, right)
			copy(right, keep)
			if got, _, err := reopen(t, m); !errors.Is(err, sharedlog.ErrDamaged) {
				t.Errorf("records %d and %d swapped: %q, %v; want ErrDamaged", b+1, a+1, got, err)
			}
		}
	}
}

// A segment is begun in a file that still holds the records of another: none of them is accepted, not even those that
// stand where the next slot belongs and carry its number. The mutant gives both segments one id.
func TestStaleRecords(t *testing.T) {
	for _, sameID := range []bool{false, true} {
		m, f := written(t, "stale one", "stale two", "stale six")
		s := &segment{name: fileName(1, segmentSuffix)}
		if err := s.decodeHeader(f.now); err != nil {
			t.Fatal(err)
		}
		if !sameID {
			s.setID([16]byte{1, 2, 3})
		}
		copy(f.now, s.encodeHeader())
		got, report, err := reopen(t, m)
		if err != nil {
			t.Fatal(err)
		}
		if accepted := len(got) > 0; accepted != sameID {
			t.Errorf("same segment id %v: stale records accepted: %q", sameID, got)
		}
		if !sameID {
			if report.Cut.Offset != segmentHeaderBytes {
				t.Errorf("report %+v, want a cut at byte %d", report.Cut, segmentHeaderBytes)
			}
			goesOn(t, m, nil)
		}
	}
}

// A payload may hold a copy of the very bytes of the log: cut short, it is an unfinished write, not damage.
func TestPayloadQuotesTheLog(t *testing.T) {
	m, f := written(t, "one", "two")
	quote := string(f.now[segmentHeaderBytes:][:2*recordBytes(3)])
	log, _, err := Open("memory", Options{files: m, grow: 1024})
	if err != nil {
		t.Fatal(err)
	}
	if outcome, err := log.Create(t.Context(), 3, []byte(quote+"end")); outcome != sharedlog.Created {
		t.Fatal(outcome, err)
	}
	log.Close()
	f.now[segmentHeaderBytes+2*recordBytes(3)+recordHeaderBytes+int64(len(quote))] = 0
	got, report, err := reopen(t, m)
	if err != nil || len(got) != 2 || report.Cut.Bytes == 0 {
		t.Fatalf("%q, %v, %v; want two slots and a cut", got, report, err)
	}
}

// many writes slots until there are several segments.
func many(t *testing.T, m *memory, slots uint64) *Log {
	t.Helper()
	log, _, err := Open("memory", Options{files: m, grow: 1024, SegmentBytes: 1024})
	if err != nil {
		t.Fatal(err)
	}
	for slot := log.Tail() + 1; slot <= slots; slot++ {
		if outcome, err := log.Create(t.Context(), slot, bytes.Repeat([]byte{byte(slot)}, 200)); outcome != sharedlog.Created {
			t.Fatal(outcome, err)
		}
	}
	if len(log.segments) < 3 {
		t.Fatalf("%d segments", len(log.segments))
	}
	return log
}

// A segment that is gone, short, renamed or of another log is refused with its name.
func TestSegmentsThatDoNotFit(t *testing.T) {
	second, third := fileName(5, segmentSuffix), fileName(9, segmentSuffix)
	for name, damage := range map[string]func(*memory){
		"first is gone":   func(m *memory) { delete(m.now, fileName(1, segmentSuffix)) },
		"second is gone":  func(m *memory) { delete(m.now, second) },
		"second is short": func(m *memory) { m.now[second].now = m.now[second].now[:700] },
		"second is empty": func(m *memory) { m.now[second].now = nil },
		"renamed":         func(m *memory) { m.now[fileName(11, segmentSuffix)] = m.now[third]; delete(m.now, third) },
		"another log's": func(m *memory) {
			other := newMemory(2)
			many(t, other, 12).Close()
			m.now[third] = other.now[third]
		},
		"version": func(m *memory) {
			h := m.now[second].now
			h[8] = 2
			copy(h[12:], []byte{byte(headerSum(h[:64])), byte(headerSum(h[:64]) >> 8), byte(headerSum(h[:64]) >> 16), byte(headerSum(h[:64]) >> 24)})
		},
	} {
		m := newMemory(1)
		many(t, m, 12).Close()
		if _, _, err := reopen(t, m); err != nil {
			t.Fatalf("before the damage: %v", err)
		}
		damage(m)
		if got, _, err := reopen(t, m); err == nil || name != "version" && !errors.Is(err, sharedlog.ErrDamaged) {
			t.Errorf("%s: opened with %d slots, %v", name, len(got), err)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

// A snapshot that is newer than its log is refused, and the message names both.
func TestSnapshotAheadOfLog(t *testing.T) {
	m := newMemory(1)
	log := many(t, m, 12)
	data := (&sharedlog.Snapshot{Position: sharedlog.Position{Slot: 12}}).Encode()
	if err := log.SaveSnapshot(t.Context(), 13, data); err == nil {
		t.Error("SaveSnapshot beyond the tail succeeded")
	}
	if err := log.SaveSnapshot(t.Context(), 12, data); err != nil {
		t.Fatal(err)
	}
	log.Close()
	last := fileName(9, segmentSuffix)
	delete(m.now, last)
	_, _, err := reopen(t, m)
	if !errors.Is(err, sharedlog.ErrAhead) || !strings.Contains(err.Error(), fileName(12, snapshotSuffix)) ||
		!strings.Contains(err.Error(), fileName(5, segmentSuffix)) || !strings.Contains(err.Error(), "is 8") {
		t.Errorf("the last segment is gone: %v", err)
	}
	for name := range m.now {
		if strings.HasSuffix(name, segmentSuffix) {
			delete(m.now, name)
		}
	}
	if _, _, err := reopen(t, m); !errors.Is(err, sharedlog.ErrAhead) {
		t.Errorf("all segments are gone: %v", err)
	}
}

// Below the floor every slot is taken for ever, and segments go.
func TestTrim(t *testing.T) {
	m := newMemory(1)
	log := many(t, m, 12)
	first := m.now[fileName(1, segmentSuffix)]
	if err := log.Trim(3); err == nil {
		t.Fatal("Trim without a snapshot succeeded")
	}
	if err := log.SaveSnapshot(t.Context(), 10, (&sharedlog.Snapshot{Position: sharedlog.Position{Slot: 10}}).Encode()); err != nil {
		t.Fatal(err)
	}
	if err := log.Trim(12); err == nil {
		t.Fatal("Trim beyond the snapshot succeeded")
	}
	if err := log.Trim(10); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for slot := uint64(1); slot <= 12; slot++ {
			if outcome, err := log.Create(t.Context(), slot, []byte("again")); outcome != sharedlog.Taken {
				t.Errorf("Create(%d) = %v, %v; want taken", slot, outcome, err)
			}
			_, err := log.Get(t.Context(), slot)
			if want := slot < 10; errors.Is(err, sharedlog.ErrTrimmed) != want || !want && err != nil {
				t.Errorf("Get(%d): %v", slot, err)
			}
		}
		if len(log.segments) != 1 || log.First() != 10 {
			t.Errorf("%d segments from slot %d, want 1 from 10", len(log.segments), log.First())
		}
		log.Close()
		m.restart(true)
		m.now[fileName(1, segmentSuffix)], m.now[fileName(3, snapshotSuffix)] = first, first // removed, but not for certain
		var err error
		if log, _, err = Open("memory", Options{files: m, grow: 1024, SegmentBytes: 1024}); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := m.now[fileName(1, segmentSuffix)]; ok {
		t.Error("a segment below the floor was left")
	}
	if _, ok := m.now[fileName(3, snapshotSuffix)]; ok {
		t.Error("an old snapshot was left")
	}
	log.Close()
}

// A floor that is not what was written is refused.
func TestFloorEveryBit(t *testing.T) {
	m := newMemory(1)
	log := many(t, m, 12)
	if err := log.SaveSnapshot(t.Context(), 10, (&sharedlog.Snapshot{Position: sharedlog.Position{Slot: 10}}).Encode()); err != nil {
		t.Fatal(err)
	}
	if err := log.Trim(10); err != nil {
		t.Fatal(err)
	}
	log.Close()
	floor := m.now[floorName].now
	for bit := range len(floor) * 8 {
		floor[bit/8] ^= 1 << (bit % 8)
		if _, _, err := reopen(t, m); err == nil {
			t.Errorf("floor with bit %d flipped was believed", bit)
		}
		floor[bit/8] ^= 1 << (bit % 8)
	}
	if _, _, err := reopen(t, m); err != nil {
		t.Errorf("the floor as it was written: %v", err)
	}
}

// A failed extension or a failed new segment for want of space refuses the slot and nothing else; when syncing fails for
// any other reason nothing of the slot was written, yet writing ends.
func TestFullWhenSyncing(t *testing.T) {
	for _, segmentBytes := range []int64{1 << 20, 1024} { // extend; begin a segment
		m := newMemory(1)
		log, _, err := Open("memory", Options{files: m, grow: 1024, SegmentBytes: segmentBytes})
		if err != nil {
			t.Fatal(err)
		}
		if outcome, err := log.Create(t.Context(), 1, make([]byte, 500)); outcome != sharedlog.Created {
			t.Fatal(outcome, err)
		}
		m.fullSync = true
		if outcome, err := log.Create(t.Context(), 2, make([]byte, 600)); outcome != sharedlog.NotApplied || !errors.Is(err, sharedlog.ErrFull) {
			t.Fatalf("Create on a full disk = %v, %v", outcome, err)
		}
		m.fullSync = false
		if outcome, err := log.Create(t.Context(), 2, make([]byte, 600)); outcome != sharedlog.Created {
			t.Fatalf("Create with space again = %v, %v", outcome, err)
		}
		m.syncFails = true
		if outcome, err := log.Create(t.Context(), 3, make([]byte, 3000)); outcome != sharedlog.NotApplied || !errors.Is(err, sharedlog.ErrStopped) {
			t.Fatalf("Create with an extension that fails = %v, %v", outcome, err)
		}
		if outcome, err := log.Create(t.Context(), 3, nil); outcome == sharedlog.Created || err == nil {
			t.Fatalf("Create after a failed sync = %v, %v", outcome, err)
		}
		m.restart(true)
		if got, _, err := reopen(t, m); err != nil || len(got) != 2 {
			t.Fatalf("recovered %d slots, %v; want 2", len(got), err)
		}
	}
}
