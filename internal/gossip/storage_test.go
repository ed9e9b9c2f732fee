package gossip

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMemoryStorage(t *testing.T) {
	var s MemoryStorage
	a, b := Origin{"a", 1}, Origin{"b", 1}
	for seq := uint64(1); seq <= 4; seq++ {
		s.Append(Entry{a, seq, Vector{}, []byte("1234")})
	}
	s.Append(Entry{b, 1, Vector{}, nil})
	seqs := func(entries []Entry) (out []uint64) {
		for _, e := range entries {
			out = append(out, e.Seq)
		}
		return out
	}
	check := func(after uint64, bytesMax int, want ...uint64) {
		t.Helper()
		if diff := cmp.Diff(want, seqs(s.Entries(a, after, bytesMax))); diff != "" {
			t.Errorf("Entries(a, %d, %d) mismatch (-want +got):\n%s", after, bytesMax, diff)
		}
	}
	check(0, 100, 1, 2, 3, 4)
	check(1, 8, 2, 3)
	check(1, 7, 2)
	check(1, 0, 2)
	check(4, 100)
	check(9, 100)
	s.Trim(Vector{a: 2, b: 7})
	check(1, 100)
	check(2, 100, 3, 4)
	if diff := cmp.Diff(Vector{a: 4, b: 1}, s.Vector()); diff != "" || s.Len() != 2 {
		t.Errorf("after Trim: %d entries, Vector() mismatch (-want +got):\n%s", s.Len(), diff)
	}
	s.Trim(Vector{a: 1})
	s.Append(Entry{a, 5, Vector{}, nil})
	check(3, 100, 4, 5)
}
