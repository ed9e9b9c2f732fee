package live_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/live"

	"github.com/google/go-cmp/cmp"
)

// A log that is polled has what another wrote, takes no slot for it, and waits for nothing at the end of the log.
func TestPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newShared()
		writer := open(t, e, &list{}, live.Options{})
		m := &list{}
		reader := open(t, e, m, live.Options{Pause: func(context.Context, int) { t.Error("a poll that found the end waits") }})
		for _, item := range []string{"a", "b", "c"} {
			if _, err := writer.Propose(t.Context(), item); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got := m.all(); len(got) != 0 {
			t.Errorf("before it is asked to, the log read %v", got)
		}
		reader.Poll()
		synctest.Wait()
		if diff := cmp.Diff([]string{"a", "b", "c"}, m.all()); diff != "" {
			t.Errorf("after Poll (-want +got):\n%s", diff)
		}
		reader.Poll()
		if place, err := reader.Propose(t.Context(), "d"); place != 4 || err != nil {
			t.Errorf("after Poll d is at %d, %v", place, err)
		}
		if len(e.slots) != 4 {
			t.Errorf("%d slots, want 4", len(e.slots))
		}
		reader.Close()
		reader.Poll() // does nothing
	})
}

// A poll in the midst of a create whose answer was lost finds the batch, and answers its request.
func TestPollFindsOwnBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newShared()
		down := errors.New("down")
		e.after = func(uint64) error { return down }
		paused, resume := make(chan struct{}), make(chan struct{})
		m := &list{}
		log := open(t, e, m, live.Options{Pause: func(context.Context, int) { close(paused); <-resume }})
		wait, err := log.Enqueue("a")
		if err != nil {
			t.Fatal(err)
		}
		<-paused
		log.Poll()
		close(resume)
		if place, err := wait(t.Context()); place != 1 || err != nil {
			t.Errorf("a is at %d, %v", place, err)
		}
		if got := m.all(); len(got) != 1 || len(e.slots) != 1 {
			t.Errorf("items %v in %d slots, want a in one", got, len(e.slots))
		}
	})
}

// While the engine answers nothing, only the requests of the batch under way are in doubt: of those that wait behind it, and
// of those that come while the log cannot be read, it is proven that they were not applied.
func TestOutcomeBehindAStall(t *testing.T) {
	for _, stalled := range []string{"create", "get"} {
		t.Run(stalled, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newShared()
				down := errors.New("down")
				var up atomic.Bool
				e.before = func(uint64) (bool, sharedlog.Outcome, error) { return !up.Load(), sharedlog.Unknown, down }
				log := open(t, e, &list{}, live.Options{})
				if stalled == "get" {
					e.get = func(uint64) error {
						if up.Load() {
							return nil
						}
						return down
					}
					log.Poll()
					synctest.Wait()
				}
				propose := func(item string) error {
					ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
					defer cancel()
					_, err := log.Propose(ctx, item)
					return err
				}
				first := sharedlog.Unknown
				if stalled == "get" {
					first = sharedlog.NotApplied
				}
				wantError(t, "the first", propose("a"), first, context.DeadlineExceeded)
				wantError(t, "the second", propose("b"), sharedlog.NotApplied, context.DeadlineExceeded)
				up.Store(true)
				if err := propose("c"); err != nil {
					t.Fatal(err)
				}
				for slot, data := range e.slots {
					b, err := sharedlog.DecodeBatch(data)
					if err != nil {
						t.Fatal(err)
					}
					for _, c := range b.Commands {
						if string(c.Data) == "b" {
							t.Errorf("slot %d holds b, which was not applied", slot)
						}
					}
				}
			})
		})
	}
}

// TestPollInDoubt: who polls all the time does not keep a create, of which nobody knows whether it happened, from being
// repeated.
func TestPollInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newShared()
		tries := 0
		e.before = func(uint64) (bool, sharedlog.Outcome, error) {
			tries++
			return tries < 8, sharedlog.Unknown, errors.New("no majority")
		}
		log := open(t, e, &list{}, live.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() {
			ticker := time.NewTicker(50 * time.Millisecond)
			defer ticker.Stop()
			for {
				select {
				case <-ticker.C:
					log.Poll()
				case <-ctx.Done():
					return
				}
			}
		}()
		if place, err := log.Propose(ctx, "a"); place != 1 || err != nil {
			t.Errorf("Propose: place %d, %v after %d tries", place, err, tries)
		}
		cancel()
	})
}
