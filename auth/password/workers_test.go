package password

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// gated is a hasher whose derivations begin and end when the test says so.
type gated struct {
	*Hasher
	entered, leave  chan struct{}
	inside, highest atomic.Int32
	calls           atomic.Int32
}

func newGated(t *testing.T) *gated {
	g := &gated{Hasher: newHasher(t, Config{Rounds: 1}), entered: make(chan struct{}, 1000), leave: make(chan struct{}, 1000)}
	real := g.derive
	g.derive = func(password string, salt []byte, rounds int) []byte {
		g.calls.Add(1)
		now := g.inside.Add(1)
		defer g.inside.Add(-1)
		for highest := g.highest.Load(); now > highest && !g.highest.CompareAndSwap(highest, now); {
			highest = g.highest.Load()
		}
		g.entered <- struct{}{}
		<-g.leave
		return real(password, salt, rounds)
	}
	return g
}

func newWorkers(t *testing.T, h *Hasher, n, queue int) *Workers {
	w := NewWorkers(h, n, queue)
	t.Cleanup(w.Close)
	return w
}

// eventually polls until what holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline, tick := time.After(10*time.Second), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func TestWorkers(t *testing.T) {
	h := newHasher(t, Config{Rounds: cheap})
	w := newWorkers(t, h, 2, 0)
	stored, err := w.Hash(t.Context(), "pass")
	if err != nil {
		t.Fatal(err)
	}
	for password, want := range map[string]bool{"pass": true, "word": false} {
		if right, err := w.Verify(t.Context(), stored, password); right != want || err != nil {
			t.Errorf("Verify(%q) = %v, %v; want %v", password, right, err, want)
		}
	}
	if err := w.VerifyUnknown(t.Context(), "pass"); err != nil {
		t.Errorf("VerifyUnknown: %v", err)
	}
	if _, err := w.Verify(t.Context(), "none", "pass"); !errors.Is(err, ErrHash) {
		t.Errorf("Verify of no hash: %v", err)
	}
	if w.NeedsRehash(stored) {
		t.Error("NeedsRehash of a new hash")
	}
}

func TestFullQueue(t *testing.T) {
	g := newGated(t)
	w := newWorkers(t, g.Hasher, 1, 2)
	results := make(chan error, 3)
	for range 3 {
		go func() { results <- w.VerifyUnknown(t.Context(), "pass") }()
	}
	<-g.entered
	eventually(t, "two wait", func() bool { return len(w.jobs) == 2 })
	if err := w.VerifyUnknown(t.Context(), "pass"); !errors.Is(err, ErrBusy) {
		t.Errorf("with a full queue: %v", err)
	}
	if _, err := w.Hash(t.Context(), "pass"); !errors.Is(err, ErrBusy) {
		t.Errorf("Hash with a full queue: %v", err)
	}
	for range 3 {
		g.leave <- struct{}{}
		if err := <-results; err != nil {
			t.Errorf("who waited: %v", err)
		}
	}
	g.leave <- struct{}{}
	if err := w.VerifyUnknown(t.Context(), "pass"); err != nil {
		t.Errorf("after the queue was full: %v", err)
	}
}

// What is too long is refused at once, when every worker is busy and the queue is full too.
func TestTooLongTakesNoPlace(t *testing.T) {
	g := newGated(t)
	w := newWorkers(t, g.Hasher, 1, 1)
	for range 2 {
		go w.VerifyUnknown(t.Context(), "pass")
	}
	<-g.entered
	eventually(t, "one waits", func() bool { return len(w.jobs) == 1 })
	long := strings.Repeat("x", 1<<20)
	if _, err := w.Hash(t.Context(), long); !errors.Is(err, ErrTooLong) {
		t.Errorf("Hash: %v", err)
	}
	if _, err := w.Verify(t.Context(), "", long); !errors.Is(err, ErrTooLong) {
		t.Errorf("Verify: %v", err)
	}
	if err := w.VerifyUnknown(t.Context(), long); !errors.Is(err, ErrTooLong) {
		t.Errorf("VerifyUnknown: %v", err)
	}
	g.leave <- struct{}{}
	g.leave <- struct{}{}
	<-g.entered
}

func TestBoundedAtATime(t *testing.T) {
	g := newGated(t)
	w := newWorkers(t, g.Hasher, 3, 100)
	results := make(chan error)
	for range 20 {
		go func() { results <- w.VerifyUnknown(t.Context(), "pass") }()
	}
	for range 3 {
		<-g.entered
	}
	eventually(t, "the others wait", func() bool { return len(w.jobs) == 17 })
	for range 20 {
		g.leave <- struct{}{}
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if highest := g.highest.Load(); highest != 3 {
		t.Errorf("%d at a time, want 3", highest)
	}
}

// Who stops waiting is answered at once; work that nobody waits for is not begun.
func TestCancelled(t *testing.T) {
	g := newGated(t)
	w := newWorkers(t, g.Hasher, 1, 10)
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error)
	for range 3 { // one begun, two waiting
		go func() { results <- w.VerifyUnknown(ctx, "pass") }()
	}
	<-g.entered
	eventually(t, "two wait", func() bool { return len(w.jobs) == 2 })
	cancel()
	for range 3 {
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	}
	g.leave <- struct{}{}
	g.leave <- struct{}{}
	if err := w.VerifyUnknown(t.Context(), "pass"); err != nil {
		t.Errorf("after: %v", err)
	}
	if calls := g.calls.Load(); calls != 2 {
		t.Errorf("%d passwords were hashed, want 2", calls)
	}
}

func TestClose(t *testing.T) {
	g := newGated(t)
	w := NewWorkers(g.Hasher, 1, 10)
	results := make(chan error)
	for range 3 {
		go func() { results <- w.VerifyUnknown(t.Context(), "pass") }()
	}
	<-g.entered
	eventually(t, "two wait", func() bool { return len(w.jobs) == 2 })
	closed := make(chan struct{})
	go func() {
		w.Close()
		close(closed)
	}()
	for range 3 {
		if err := <-results; !errors.Is(err, ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	}
	select {
	case <-closed:
		t.Error("Close returned before the work had ended")
	default:
	}
	g.leave <- struct{}{}
	<-closed
	w.Close()
	if _, err := w.Hash(t.Context(), "pass"); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if calls := g.calls.Load(); calls != 1 {
		t.Errorf("%d passwords were hashed, want 1", calls)
	}
}

func BenchmarkWorkers(b *testing.B) {
	w := NewWorkers(newHasher(b, Config{Rounds: 1}), 0, 0)
	b.Cleanup(w.Close)
	for b.Loop() {
		if err := w.VerifyUnknown(b.Context(), "pass"); err != nil {
			b.Fatal(err)
		}
	}
}
