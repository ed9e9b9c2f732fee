package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	settleMax  = 5 * time.Second // how long requests under way keep the services from being told to end
	settleTick = 20 * time.Millisecond
	readyTick  = 50 * time.Millisecond
)

// Supervise runs all supervisors until ctx ends, and returns when every
// program has ended; nil when all did so cleanly. The programs are told to end
// once no request is under way in the gateway but streams, which are ended by
// their services with a last event.
func Supervise(ctx context.Context, supervisors []*Supervisor) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	errs := make([]error, len(supervisors))
	var wg sync.WaitGroup
	for i, s := range supervisors {
		wg.Go(func() { errs[i] = s.Run(running) })
	}
	<-ctx.Done()
	for began := time.Now(); time.Since(began) < settleMax; {
		<-time.After(settleTick) // first of all, for what has just been accepted
		if !slices.ContainsFunc(supervisors, func(s *Supervisor) bool { return s.Backend.short.Load() > 0 }) {
			break
		}
	}
	stop()
	wg.Wait()
	return errors.Join(errs...)
}

// AwaitReady asks until ready returns nil, or returns the error of ctx when
// that ends first.
func AwaitReady(ctx context.Context, ready func(context.Context) error) error {
	for ready(ctx) != nil {
		select {
		case <-time.After(readyTick):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return ctx.Err()
}

// A Supervisor keeps one service's program running.
type Supervisor struct {
	Backend *Backend
	// Start runs the program once more and tells listening the address it serves on.
	Start   func(ctx context.Context, listening func(addr string)) (Process, error)
	Backoff *Backoff
	Drain   time.Duration // from SIGTERM to SIGKILL
	Log     *slog.Logger
}

// Run starts the program, again after a pause whenever it ended, until ctx
// ends; then it asks the program to end and kills it when Drain has passed.
// It returns nil when the program ended cleanly, and only after it has ended.
func (s *Supervisor) Run(ctx context.Context) error {
	// The kernel ties the program's life to this thread, see Exec.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		began := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			s.Backend.away(Stopped)
			if err != nil && !errors.Is(err, context.Canceled) { // of Start: it did not begin any more
				return fmt.Errorf("%s: %w", s.Backend.Name, err)
			}
			return nil
		}
		pause := s.Backoff.Next(time.Since(began))
		s.Backend.away(Restarting)
		s.Log.Error("service ended", "child", s.Backend.Name, "error", fmt.Sprint(err), "restart_in", pause.String())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			s.Backend.away(Stopped)
			return nil
		}
	}
}

// once runs the program from start to end.
func (s *Supervisor) once(ctx context.Context) error {
	process, err := s.Start(ctx, s.Backend.listening)
	if err != nil {
		return err
	}
	s.Log.Info("service started", "child", s.Backend.Name, "pid", process.Pid())
	ended := make(chan error, 1)
	go func() { ended <- process.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	if err := process.Terminate(); err != nil {
		s.Log.Warn("service not signalled", "child", s.Backend.Name, "error", err)
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(s.Drain):
	}
	if err := process.Kill(); err != nil {
		s.Log.Warn("service not killed", "child", s.Backend.Name, "error", err)
	}
	<-ended
	return fmt.Errorf("not ended within %v of SIGTERM, and killed", s.Drain)
}
