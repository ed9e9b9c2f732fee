package node

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"dongne/chat/room"
	"dongne/internal/gossip"

	"pgregory.net/rapid"
)

// slots is a log in memory: one entry a slot.
type slots [][]byte

func (s slots) ReadAt(slot uint64, offset, length int) ([]byte, error) {
	if int(slot) >= len(s) {
		return nil, fmt.Errorf("no slot %d", slot)
	}
	return s[slot][offset : offset+length], nil
}

// TestJournal compares the index with a plain list of entries: what a position misses, what an origin's suffix is, and
// that the text of the position is the vector's.
func TestJournal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		origins := []gossip.Origin{{Node: "n1", Incarnation: 7}, {Node: "n1", Incarnation: 1 << 40}, {Node: "n10", Incarnation: 3}, {Node: "n-2", Incarnation: 1}}
		var file slots
		parse := func(r record) (gossip.Entry, error) {
			b, err := file.ReadAt(r.slot, int(r.offset), int(r.length))
			if err != nil {
				return gossip.Entry{}, err
			}
			return gossip.ParseEntry(b)
		}
		j := newJournal(nil)
		at := newPosition()
		var all []gossip.Entry
		for range rapid.IntRange(0, 40).Draw(t, "entries") {
			o := rapid.SampledFrom(origins).Draw(t, "origin")
			e := gossip.Entry{Origin: o, Seq: j.have[o] + 1, Deps: gossip.Vector{}, Data: fmt.Appendf(nil, "entry %d", len(all))}
			b := e.AppendBinary(nil)
			file = append(file, b)
			j.add(stamp{o, e.Seq}, 0, uint64(len(file)-1), 0, len(b))
			at.advance(e.Origin, e.Seq)
			all = append(all, e)
		}
		if want := j.have.String(); len(all) > 0 && at.text != want {
			t.Fatalf("position = %q, want %q", at.text, want)
		}
		position := gossip.Vector{}
		for _, o := range origins {
			position[o] = rapid.Uint64Range(0, 15).Draw(t, "seen") // also more than there is
		}
		var want []uint32
		for i, e := range all {
			if e.Seq > position[e.Origin] {
				want = append(want, uint32(i))
			}
		}
		if got, ok := j.after(position, len(all)); !ok || !slices.Equal(got, want) {
			t.Fatalf("after(%v) = %v, %v; want %v", position, got, ok, want)
		}
		if len(want) > 0 {
			if _, ok := j.after(position, len(want)-1); ok {
				t.Fatalf("after(%v) gives more than its limit", position)
			}
		}
		s := storage{j, &sync.Mutex{}, parse, func(err error) { t.Fatal(err) }}
		o := rapid.SampledFrom(origins).Draw(t, "asked")
		after, bytes := rapid.Uint64Range(0, 12).Draw(t, "after"), rapid.IntRange(0, 200).Draw(t, "bytes")
		size := 0
		entries := s.Entries(o, after, bytes)
		for i, e := range entries {
			size += len(file[slices.IndexFunc(all, func(x gossip.Entry) bool { return x.Origin == o && x.Seq == e.Seq })])
			if e.Origin != o || e.Seq != after+1+uint64(i) || i > 0 && size > bytes {
				t.Fatalf("Entries(%v, %d, %d)[%d] = %v:%d after %d bytes", o, after, bytes, i, e.Origin, e.Seq, size)
			}
		}
		if len(entries) == 0 && j.have[o] > after {
			t.Fatalf("Entries(%v, %d, %d) is empty; there are %d", o, after, bytes, j.have[o])
		}
	})
}

func TestLimiter(t *testing.T) {
	var l limiter
	l.init(10, sendsBurst)
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	burst := 0
	for l.take("ana", now) {
		burst++
	}
	if burst != 10*sendsBurst {
		t.Errorf("%d messages at once, want %d", burst, 10*sendsBurst)
	}
	for i := range 50 { // ten seconds of trying every 200 ms
		now = now.Add(200 * time.Millisecond)
		for n := 0; l.take("ana", now); n++ {
			if n == 2 {
				t.Fatalf("more than two messages after 200 ms, in round %d", i)
			}
		}
	}
	for i := range 3 * limiterSweepMin {
		now = now.Add(time.Second)
		l.take(fmt.Sprint("user", i), now)
	}
	if len(l.due) > limiterSweepMin {
		t.Errorf("%d users are remembered, of whom few sent lately", len(l.due))
	}
}

// TestClockAhead: an entry of a clock that is too far ahead is refused, and named.
func TestClockAhead(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	n := &gossiping{Node: &Node{config: Config{Now: func() time.Time { return now }}}}
	entry := func(ahead time.Duration) []gossip.Entry {
		f := room.Fact{Kind: room.Renamed, ID: room.NewClock("n2").Next(now.Add(ahead))}
		return []gossip.Entry{{Origin: gossip.Origin{Node: "n2", Incarnation: 1}, Seq: 1, Data: f.Encode()}}
	}
	if _, err := n.checkFacts(entry(room.ClockAheadMax)); err != nil {
		t.Errorf("a clock %v ahead: %v", room.ClockAheadMax, err)
	}
	if _, err := n.checkFacts(entry(room.ClockAheadMax + time.Second)); err == nil {
		t.Errorf("a clock more than %v ahead is believed", room.ClockAheadMax)
	}
	broken := entry(0)
	broken[0].Data[7] ^= 1
	if _, err := n.checkFacts(broken); err == nil {
		t.Error("a fact with a flipped bit is believed")
	}
}
