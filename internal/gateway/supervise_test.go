package gateway

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A fakeProcess ends when told to; stubborn ones ignore Terminate.
type fakeProcess struct {
	stubborn bool
	exit     error // of Terminate
	ended    chan error
	calls    *[]string
}

func (p *fakeProcess) Pid() int { return 1 }

func (p *fakeProcess) Wait() error { return <-p.ended }

func (p *fakeProcess) Terminate() error {
	*p.calls = append(*p.calls, "terminate")
	if !p.stubborn {
		p.ended <- p.exit
	}
	return nil
}

func (p *fakeProcess) Kill() error {
	*p.calls = append(*p.calls, "kill")
	p.ended <- errors.New("signal: killed")
	return nil
}

// supervised runs a supervisor in a bubble of virtual time. start makes the
// n-th process (from 0) of the service.
func supervised(t *testing.T, start func(n int, p *fakeProcess, listening func(string)) error,
	story func(b *Backend, calls *[]string, stop func() error)) {
	synctest.Test(t, func(t *testing.T) {
		var calls []string
		starts := 0
		b := NewBackend("chat", nil, nil, nil)
		s := &Supervisor{
			Backend: b,
			Backoff: NewBackoff(rand.New(rand.NewPCG(1, 2))),
			Drain:   15 * time.Second,
			Log:     slog.New(slog.DiscardHandler),
			Start: func(_ context.Context, listening func(string)) (Process, error) {
				p := &fakeProcess{ended: make(chan error, 2), calls: &calls}
				calls = append(calls, "start")
				starts++
				return p, start(starts-1, p, listening)
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		synctest.Wait()
		story(b, &calls, func() error {
			cancel()
			return <-ended
		})
	})
}

// pass lets d of the bubble's virtual time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func wantState(t *testing.T, b *Backend, want State, addr string) {
	t.Helper()
	target, state := b.Where()
	got := ""
	if target != nil {
		got = target.Host
	}
	if state != want || got != addr {
		t.Errorf("the service is %s at %q, want %s at %q", state, got, want, addr)
	}
}

func TestSuperviseCleanEnd(t *testing.T) {
	supervised(t, func(_ int, _ *fakeProcess, listening func(string)) error {
		listening("127.0.0.1:1")
		return nil
	}, func(b *Backend, calls *[]string, stop func() error) {
		wantState(t, b, Up, "127.0.0.1:1")
		if err := stop(); err != nil {
			t.Errorf("a clean end returns %v", err)
		}
		wantState(t, b, Stopped, "")
		if diff := cmp.Diff([]string{"start", "terminate"}, *calls); diff != "" {
			t.Errorf("calls mismatch (-want +got):\n%s", diff)
		}
	})
}

func TestSuperviseKillsAfterDrain(t *testing.T) {
	supervised(t, func(_ int, p *fakeProcess, _ func(string)) error {
		p.stubborn = true
		return nil
	}, func(b *Backend, calls *[]string, stop func() error) {
		wantState(t, b, Starting, "")
		asked := time.Now()
		err := stop()
		if err == nil || !strings.Contains(err.Error(), "chat: not ended within 15s") {
			t.Errorf("error of a killed service is %v", err)
		}
		if took := time.Since(asked); took != 15*time.Second {
			t.Errorf("killed after %v, want 15s", took)
		}
		if diff := cmp.Diff([]string{"start", "terminate", "kill"}, *calls); diff != "" {
			t.Errorf("calls mismatch (-want +got):\n%s", diff)
		}
	})
}

func TestSuperviseReportsABadExit(t *testing.T) {
	supervised(t, func(_ int, p *fakeProcess, _ func(string)) error {
		p.exit = errors.New("exit status 1")
		return nil
	}, func(_ *Backend, _ *[]string, stop func() error) {
		if err := stop(); err == nil || err.Error() != "chat: exit status 1" {
			t.Errorf("error is %v, want the exit status", err)
		}
	})
}

// A service that falls at once is started again with growing pauses, each with
// the next address, and forgiven after a healthy minute.
func TestSuperviseRestarts(t *testing.T) {
	var at []time.Time
	var last *fakeProcess
	supervised(t, func(n int, p *fakeProcess, listening func(string)) error {
		at = append(at, time.Now())
		last = p
		switch {
		case n < 4:
			p.ended <- errors.New("exit status 2")
		case n == 4:
			return errors.New("no such program") // counts as a run that did not last
		default:
			listening("127.0.0.1:5")
		}
		return nil
	}, func(b *Backend, _ *[]string, stop func() error) {
		wantState(t, b, Restarting, "")
		pass(time.Minute)
		wantState(t, b, Up, "127.0.0.1:5")
		if len(at) != 6 {
			t.Fatalf("%d starts, want 6", len(at))
		}
		ceiling := backoffMin
		for i := range 5 {
			if pause := at[i+1].Sub(at[i]); pause < ceiling/2 || pause > ceiling {
				t.Errorf("pause %d is %v, want between %v and %v", i, pause, ceiling/2, ceiling)
			}
			ceiling *= 2
		}
		pass(healthyMin)
		fell := time.Now()
		last.ended <- nil // an exit nobody asked for, though its code is 0
		synctest.Wait()
		wantState(t, b, Restarting, "")
		pass(backoffMin)
		if pause := at[len(at)-1].Sub(fell); len(at) != 7 || pause > backoffMin {
			t.Errorf("%d starts, the last %v after the fall; want 7 and at most %v", len(at), pause, backoffMin)
		}
		if err := stop(); err != nil {
			t.Errorf("a clean end returns %v", err)
		}
	})
}

func TestSuperviseStopsInAPause(t *testing.T) {
	supervised(t, func(_ int, p *fakeProcess, _ func(string)) error {
		p.ended <- errors.New("exit status 2")
		return nil
	}, func(b *Backend, calls *[]string, stop func() error) {
		if err := stop(); err != nil {
			t.Errorf("stopping while nothing runs returns %v", err)
		}
		wantState(t, b, Stopped, "")
		if diff := cmp.Diff([]string{"start"}, *calls); diff != "" {
			t.Errorf("calls mismatch (-want +got):\n%s", diff)
		}
	})
}

// A request under way keeps the services alive, a stream does not, and nothing
// does for ever.
func TestSuperviseWaitsForRequests(t *testing.T) {
	for _, c := range []struct {
		name     string
		answered time.Duration // how long the request takes
		want     time.Duration // from the signal to the program's end
	}{
		{"short", 3*settleTick - 1, 3 * settleTick},
		{"endless", time.Hour, settleMax},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls []string
				b := NewBackend("chat", nil, nil, nil)
				s := &Supervisor{
					Backend: b, Backoff: NewBackoff(rand.New(rand.NewPCG(1, 2))), Log: slog.New(slog.DiscardHandler), Drain: time.Second,
					Start: func(context.Context, func(string)) (Process, error) {
						return &fakeProcess{ended: make(chan error, 2), calls: &calls}, nil
					},
				}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- Supervise(ctx, []*Supervisor{s}) }()
				leave := b.enter()
				stream := b.enter()
				stream()
				stream() // the second time it counts nothing
				synctest.Wait()
				cancel()
				asked := time.Now()
				time.AfterFunc(c.answered, leave)
				if err := <-ended; err != nil {
					t.Errorf("Supervise returns %v", err)
				}
				if took := time.Since(asked); took != c.want {
					t.Errorf("ended after %v, want %v", took, c.want)
				}
				<-time.After(time.Hour) // for the timer
			})
		})
	}
}
