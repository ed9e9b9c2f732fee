package gateway

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestBackoffCeilings(t *testing.T) {
	b := NewBackoff(rand.New(rand.NewPCG(1, 2)))
	for i, ceiling := range []time.Duration{200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000} {
		ceiling *= time.Millisecond
		if got := b.Next(0); got < ceiling/2 || got > ceiling {
			t.Errorf("pause %d is %v, want between %v and %v", i, got, ceiling/2, ceiling)
		}
	}
	if got := b.Next(healthyMin - 1); got < backoffMax/2 {
		t.Errorf("the pause after a run just under %v is %v: forgiven too early", healthyMin, got)
	}
	if got := b.Next(healthyMin); got > backoffMin {
		t.Errorf("the pause after a healthy run is %v, want at most %v", got, backoffMin)
	}
}

// Two services that fall together do not come back in step, and one seed gives
// one sequence.
func TestBackoffJitter(t *testing.T) {
	pauses := func(seed uint64) []time.Duration {
		b := NewBackoff(rand.New(rand.NewPCG(seed, 0)))
		all := make([]time.Duration, 8)
		for i := range all {
			all[i] = b.Next(0)
		}
		return all
	}
	if diff := cmp.Diff(pauses(1), pauses(1)); diff != "" {
		t.Errorf("the same seed gives other pauses:\n%s", diff)
	}
	one, two := pauses(1), pauses(2)
	for i := range one {
		if one[i] == two[i] {
			t.Errorf("pause %d is %v with both seeds", i, one[i])
		}
	}
}

// Whatever the runs before, a pause is never shorter than half the first
// ceiling and never longer than the last.
func TestBackoffBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := NewBackoff(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)))
		for _, ran := range rapid.SliceOf(rapid.Int64Range(0, int64(2*healthyMin))).Draw(t, "runs") {
			if got := b.Next(time.Duration(ran)); got < backoffMin/2 || got > backoffMax {
				t.Fatalf("Next(%v) = %v", time.Duration(ran), got)
			}
		}
	})
}
