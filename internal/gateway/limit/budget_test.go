package limit

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A budgeter is what the checker judges: a Budget, or a mutant of one.
type budgeter interface {
	Request(now time.Time)
	Retry(now time.Time) bool
	State(now time.Time) BudgetState
}

const (
	testPercent = 20
	testFloor   = 1 // per second
	testWindow  = 2 * time.Second
)

func newBudget(t testing.TB) *Budget {
	t.Helper()
	b, err := NewBudget(epoch, testPercent, testFloor, testWindow)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An act at a time after the one before: a request, or the wish to retry.
type act struct {
	wait  time.Duration
	retry bool
}

var drawActs = rapid.SliceOf(rapid.Custom(func(t *rapid.T) act {
	unit := rapid.SampledFrom([]time.Duration{0, time.Millisecond, 100 * time.Millisecond, time.Second}).Draw(t, "unit")
	return act{unit * time.Duration(rapid.IntRange(0, 5).Draw(t, "units")), rapid.Bool().Draw(t, "retry")}
}))

// judgeBudget runs acts against a model that remembers every time and counts
// those of the current step and the nine before.
func judgeBudget(subject budgeter, acts []act) error {
	now := epoch
	var requests, retries []time.Time
	var refused uint64
	count := func(times []time.Time) (n int64) {
		step := testWindow / budgetSlots
		for _, at := range times {
			if now.Truncate(step).Sub(at.Truncate(step)) < testWindow {
				n++
			}
		}
		return n
	}
	for i, a := range acts {
		now = now.Add(a.wait)
		if a.retry {
			want := float64(count(retries)+1) <= float64(count(requests))*testPercent/100+testFloor*testWindow.Seconds()
			if got := subject.Retry(now); got != want {
				return fmt.Errorf("act %d: Retry = %v, want %v", i, got, want)
			}
			if want {
				retries = append(retries, now)
			} else {
				refused++
			}
		} else {
			subject.Request(now)
			requests = append(requests, now)
		}
		want := BudgetState{count(requests), count(retries), refused}
		if diff := cmp.Diff(want, subject.State(now)); diff != "" {
			return fmt.Errorf("act %d: State mismatch (-want +got):\n%s", i, diff)
		}
	}
	return nil
}

func TestBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, err := NewBudget(epoch, testPercent, testFloor, testWindow)
		if err != nil {
			t.Fatal(err)
		}
		if err := judgeBudget(b, drawActs.Draw(t, "acts")); err != nil {
			t.Fatal(err)
		}
	})
}

// everlasting is a mutant whose window never slides.
type everlasting struct{ *Budget }

func (m everlasting) Request(time.Time)           { m.Budget.Request(epoch) }
func (m everlasting) Retry(time.Time) bool        { return m.Budget.Retry(epoch) }
func (m everlasting) State(time.Time) BudgetState { return m.Budget.State(epoch) }

// amplifying is a mutant that counts a retry as a request too.
type amplifying struct{ *Budget }

func (m amplifying) Retry(now time.Time) bool {
	ok := m.Budget.Retry(now)
	m.Request(now)
	return ok
}

func TestBudgetMutants(t *testing.T) {
	for name, mutate := range map[string]func(*Budget) budgeter{
		"never slides":      func(b *Budget) budgeter { return everlasting{b} },
		"counts retries as": func(b *Budget) budgeter { return amplifying{b} },
	} {
		caught := false
		for seed := range 200 {
			caught = caught || judgeBudget(mutate(newBudget(t)), drawActs.Example(seed)) != nil
		}
		if !caught {
			t.Errorf("the mutant that %s passes for a budget", name)
		}
	}
}

// After a pause longer than the window nothing is left of it.
func TestBudgetAfterAPause(t *testing.T) {
	b := newBudget(t)
	for step := range budgetSlots {
		b.Request(epoch.Add(time.Duration(step) * testWindow / budgetSlots))
	}
	for _, pause := range []time.Duration{2 * testWindow, time.Hour} {
		if diff := cmp.Diff(BudgetState{}, b.State(epoch.Add(pause))); diff != "" {
			t.Errorf("after %v: State mismatch (-want +got):\n%s", pause, diff)
		}
	}
}

// A service that fails every request gets at most the budget on top of its load.
func TestBudgetUnderOutage(t *testing.T) {
	b, err := NewBudget(epoch, 20, 3, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	const requests = 100_000 // 1000 a second
	retries := 0
	for i := range requests {
		now := epoch.Add(time.Duration(i) * time.Millisecond)
		b.Request(now)
		for range 3 {
			if b.Retry(now) {
				retries++
			}
		}
	}
	if least, most := requests*20/100, requests*20/100+3*100+30; retries < least || retries > most {
		t.Errorf("%d retries of %d requests, want %d to %d", retries, requests, least, most)
	}
}

func TestBudgetIsConcurrent(t *testing.T) {
	b := newBudget(t)
	var retries atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 1000 {
				b.Request(epoch)
			}
		})
	}
	all.Wait()
	for range 4 {
		all.Go(func() {
			for range 1000 {
				if b.Retry(epoch) {
					retries.Add(1)
				}
			}
		})
	}
	all.Wait()
	if want := int64(4000*testPercent/100 + 2*testFloor); retries.Load() != want {
		t.Errorf("%d retries, want %d", retries.Load(), want)
	}
	if got := testing.AllocsPerRun(100, func() { b.Request(epoch); b.Retry(epoch) }); got != 0 {
		t.Errorf("a Budget allocates %v times, want 0", got)
	}
}

func TestBudgetErrors(t *testing.T) {
	for _, c := range []struct {
		percent, floor int
		window         time.Duration
	}{
		{-1, 3, time.Second}, {1001, 3, time.Second}, {20, -1, time.Second}, {20, BurstMax + 1, time.Second},
		{20, 3, 0}, {20, 3, 2 * time.Hour},
	} {
		if _, err := NewBudget(epoch, c.percent, c.floor, c.window); err == nil {
			t.Errorf("NewBudget(%+v): no error", c)
		}
	}
}
