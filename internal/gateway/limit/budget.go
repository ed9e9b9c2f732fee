package limit

import (
	"fmt"
	"sync"
	"time"
)

// budgetSlots is how many steps a Budget's window slides in.
const budgetSlots = 10

// A Budget bounds retries to a part of the requests, so that a service that
// fails under its load is not given more of it ("retry budget", Google's "Site
// Reliability Engineering", chapter 21). A retry is granted only if with it there
// are in the window no more retries than the part of the requests plus the
// floor, which lets a quiet service be tried again at all. The window slides in
// ten steps: it is the current step and the nine before. It is safe for
// concurrent use and allocates nothing.
type Budget struct {
	percent int64
	floor   int64 // retries in a window whatever the requests
	start   time.Time
	step    time.Duration

	mu       sync.Mutex
	slot     int64              // guarded by mu: number of the current step since start
	requests [budgetSlots]int64 // guarded by mu: by slot modulo budgetSlots
	retries  [budgetSlots]int64 // guarded by mu
	refused  uint64             // guarded by mu
}

// NewBudget returns a budget of percent retries for a hundred requests, and
// floorPerSecond retries for each second of the window, which is 1 s to 1 h. The
// gateway's is 20 and 3 over 10 s. start is as in New.
func NewBudget(start time.Time, percent, floorPerSecond int, window time.Duration) (*Budget, error) {
	if percent < 0 || percent > 1000 {
		return nil, fmt.Errorf("limit: a retry budget of %d percent, want 0 to 1000", percent)
	}
	if floorPerSecond < 0 || floorPerSecond > BurstMax {
		return nil, fmt.Errorf("limit: a retry floor of %d per second, want 0 to %d", floorPerSecond, BurstMax)
	}
	if window < time.Second || window > time.Hour {
		return nil, fmt.Errorf("limit: a retry budget over %v, want 1s to 1h", window)
	}
	return &Budget{
		percent: int64(percent),
		floor:   int64(floorPerSecond) * int64(window) / int64(time.Second),
		start:   start,
		step:    window / budgetSlots,
	}, nil
}

// Request counts a request (its first try alone).
func (b *Budget) Request(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slide(now)
	b.requests[b.slot%budgetSlots]++
}

// Retry reports whether a request may be tried once more, and counts that.
func (b *Budget) Retry(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slide(now)
	if (sum(b.retries)+1)*100 > sum(b.requests)*b.percent+b.floor*100 {
		b.refused++
		return false
	}
	b.retries[b.slot%budgetSlots]++
	return true
}

// BudgetState is what a Budget's window holds.
type BudgetState struct {
	Requests, Retries int64  // in the window
	Refused           uint64 // retries ever
}

// State describes the window at now.
func (b *Budget) State(now time.Time) BudgetState {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slide(now)
	return BudgetState{sum(b.requests), sum(b.retries), b.refused}
}

// slide forgets the steps that the window has left behind. A time before the
// current step belongs to it: callers that raced for the lock arrive out of
// order. The caller holds mu.
func (b *Budget) slide(now time.Time) {
	slot := int64(now.Sub(b.start) / b.step)
	for i := max(b.slot+1, slot-budgetSlots+1); i <= slot; i++ {
		b.requests[i%budgetSlots], b.retries[i%budgetSlots] = 0, 0
	}
	b.slot = max(b.slot, slot)
}

func sum(slots [budgetSlots]int64) (total int64) {
	for _, n := range slots {
		total += n
	}
	return total
}
