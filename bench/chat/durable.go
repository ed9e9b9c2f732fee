package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"dongne/bench/load"
	"dongne/bench/proc"
	"dongne/bench/report"
)

// durable is what one measurement of acknowledgements gave.
type durable struct {
	acks     float64 // per second
	perCPU   float64 // acknowledgements per second of the server's CPU
	noise    float64 // cores that other programs used
	flushes  float64 // of the disk's cache, per acknowledgement; of all processes
	p50, p99 time.Duration
}

// measureDurable has publishers send, each one text at a time, and wait for the server to say that it is on disk. It
// fails unless the server in the end keeps exactly what it acknowledged.
func measureDurable(ctx context.Context, sys system, o options) (d durable, err error) {
	o.streams = 0
	err = with(ctx, sys, fanOutRooms(o), o, func(ctx context.Context, s *server) error {
		r := ackRun{}
		done, err := r.publishAll(ctx, s, o.ackers)
		if err != nil {
			return err
		}
		measureErr := r.measure(ctx, s, o, &d)
		r.stopped.Store(true)
		if err := errors.Join(measureErr, <-done); err != nil {
			return err
		}
		d.p50, d.p99 = report.Quantiles(r.took)
		stored, err := s.stored(ctx)
		if err == nil && stored != int(r.acked.Load()) {
			err = fmt.Errorf("%d texts were acknowledged, the server keeps %d", r.acked.Load(), stored)
		}
		return err
	})
	return d, err
}

type ackRun struct {
	next, acked atomic.Int64
	stopped     atomic.Bool

	mu   sync.Mutex
	took []time.Duration // guarded by mu
}

// publishAll starts the publishers. The channel gets their error, or nil, when all have ended.
func (r *ackRun) publishAll(ctx context.Context, s *server, publishers int) (<-chan error, error) {
	errs := make([]error, publishers)
	var group sync.WaitGroup
	for i := range publishers {
		p, err := s.publisher(ctx, i)
		if err != nil {
			return nil, err
		}
		group.Go(func() {
			defer p.close()
			errs[i] = r.publish(p)
		})
	}
	done := make(chan error, 1)
	go func() {
		group.Wait()
		done <- firstError(errs)
	}()
	return done, nil
}

func (r *ackRun) publish(p publisher) error {
	var took []time.Duration
	for !r.stopped.Load() {
		begin := time.Now()
		if err := p.publish(int(r.next.Add(1)-1), 1); err != nil {
			r.stopped.Store(true)
			return err
		}
		took = append(took, time.Since(begin))
		r.acked.Add(1)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took = append(r.took, took...)
	return nil
}

func (r *ackRun) measure(ctx context.Context, s *server, o options, d *durable) error {
	if err := load.Wait(ctx, o.duration()/4); err != nil {
		return err
	}
	type counters struct {
		acked, flushes int
		cpu, others    time.Duration
		time           time.Time
	}
	read := func() (c counters, err error) {
		c.flushes, _ = proc.Flushes(os.TempDir()) // 0 where the kernel does not count them
		if c.cpu, err = s.process.CPU(); err != nil {
			return c, err
		}
		c.others, err = proc.Others(c.cpu)
		c.acked, c.time = int(r.acked.Load()), time.Now()
		return c, err
	}
	begin, err := read()
	if err != nil {
		return err
	}
	if err := o.profiled(ctx, s, "durable"); err != nil {
		return err
	}
	end, err := read()
	if err != nil {
		return err
	}
	acks, seconds := float64(end.acked-begin.acked), end.time.Sub(begin.time).Seconds()
	d.acks = acks / seconds
	d.noise = (end.others - begin.others).Seconds() / seconds
	if acks > 0 {
		d.flushes = float64(end.flushes-begin.flushes) / acks
	}
	if cpu := (end.cpu - begin.cpu).Seconds(); cpu > 0 {
		d.perCPU = acks / cpu
	}
	return nil
}
