package ledger

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
)

// ordered ranges over a map in the order of its keys.
func ordered[K cmp.Ordered, V any](m map[K]V) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// checkDue says whether just what is open will expire, each when it should.
func checkDue(s *State) error {
	expire, _ := s.Due(math.MaxInt64, 1<<30)
	due := map[uint32]bool{}
	for _, q := range expire {
		due[q.Transfer.Record] = true
	}
	for rec, r := range ordered(s.roots) {
		if s.open(rec) != due[rec] {
			return fmt.Errorf("record %d, %s with %d remaining: due is %v", rec, statusTexts[r.status], r.remaining, due[rec])
		}
	}
	for _, d := range s.due {
		if r := s.roots[d.record]; r == nil || r.expires != d.time {
			return fmt.Errorf("record %d is due at %d, which it should not be", d.record, d.time)
		}
	}
	return nil
}
