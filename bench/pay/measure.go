package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"dongne/bench/load"
	"dongne/bench/proc"
	"dongne/bench/report"
)

// figures are what one measurement gave.
type figures struct {
	perSecond float64
	perCPU    float64 // per second of the CPU of all the server's processes
	noise     float64 // cores that other programs used
	flushes   float64 // of the disk's cache per operation, of all processes
	p50, p99  time.Duration
}

// parallel runs f for each of n clients, each with a connection of its own, and returns the first error by their order.
func parallel(ctx context.Context, addr string, n int, f func(conn *load.HTTP, client int) error) error {
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			conn, err := load.DialHTTP(ctx, addr)
			if err != nil {
				errs[i] = err
				return
			}
			defer conn.Close()
			errs[i] = f(conn, i)
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// drive has clients make one request after the other, and measures for d after a warm-up of a quarter of it. step makes
// the next request of a client and returns how many operations it was.
func drive(ctx context.Context, s *server, clients int, d time.Duration,
	step func(conn *load.HTTP, client int) (int, error)) (figures, error) {
	var (
		r    counter
		f    figures
		took = make([][]time.Duration, clients)
		done = make(chan error, 1)
	)
	go func() {
		done <- parallel(ctx, s.addr, clients, func(conn *load.HTTP, client int) error {
			defer r.end()
			for !r.stopped.Load() {
				begin := time.Now()
				n, err := step(conn, client)
				if err != nil {
					return err
				}
				took[client] = append(took[client], time.Since(begin))
				r.operations.Add(int64(n))
			}
			return nil
		})
	}()
	err := r.measure(ctx, s, d, &f)
	r.stopped.Store(true)
	if err := errors.Join(<-done, err); err != nil {
		return f, err
	}
	var all []time.Duration
	for _, t := range took {
		all = append(all, t...)
	}
	f.p50, f.p99 = report.Quantiles(all)
	return f, nil
}

// counter counts the operations of a measurement's clients.
type counter struct {
	operations atomic.Int64
	stopped    atomic.Bool
}

// end stops all clients: the first one to end has failed, or all end.
func (r *counter) end() { r.stopped.Store(true) }

// counters are what is read at the begin and at the end.
type counters struct {
	operations, flushes int
	cpu, others         time.Duration
	time                time.Time
}

func (r *counter) read(s *server) (c counters, err error) {
	c.flushes, _ = proc.Flushes(os.TempDir()) // 0 where the kernel does not count them
	if c.cpu, err = s.cpu(); err != nil {
		return c, err
	}
	c.others, err = proc.Others(c.cpu)
	c.operations, c.time = int(r.operations.Load()), time.Now()
	return c, err
}

func (r *counter) measure(ctx context.Context, s *server, d time.Duration, f *figures) error {
	if err := load.Wait(ctx, d/4); err != nil {
		return err
	}
	begin, err := r.read(s)
	if err != nil {
		return err
	}
	saved := make(chan error, 1)
	go func() {
		if s.profile == nil {
			saved <- nil
			return
		}
		saved <- s.profile(ctx)
	}()
	if err := errors.Join(load.Wait(ctx, d), <-saved); err != nil {
		return err
	}
	end, err := r.read(s)
	if err != nil {
		return err
	}
	n, seconds := float64(end.operations-begin.operations), end.time.Sub(begin.time).Seconds()
	f.perSecond = n / seconds
	f.noise = (end.others - begin.others).Seconds() / seconds
	if n > 0 {
		f.flushes = float64(end.flushes-begin.flushes) / n
	}
	if cpu := (end.cpu - begin.cpu).Seconds(); cpu > 0 {
		f.perCPU = n / cpu
	}
	return nil
}

// post makes the order and fails unless it is posted.
func post(conn *load.HTTP, o order, body []byte) error {
	status, answer, err := conn.Do("POST", "/transfers", keyHeader(o.key), o.appendBody(body[:0]))
	if err == nil && status != http.StatusCreated {
		err = fmt.Errorf("a transfer: status %d: %s", status, answer)
	}
	return err
}

// measureTransfers measures single transfers.
func measureTransfers(ctx context.Context, s *server, t *tally, clients int, hot bool, seed uint64, d time.Duration) (figures, error) {
	sources, body := make([]*orders, clients), make([][]byte, clients)
	for i := range sources {
		sources[i], body[i] = newOrders(seed, i, len(t.moved)-1, hot), make([]byte, 0, 256)
	}
	return drive(ctx, s, clients, d, func(conn *load.HTTP, client int) (int, error) {
		o := sources[client].next()
		if err := post(conn, o, body[client]); err != nil {
			return 0, err
		}
		t.add(o)
		return 1, nil
	})
}

// measureBatches measures transfers in batches of that many items.
func measureBatches(ctx context.Context, s *server, t *tally, clients, items int, seed uint64, d time.Duration) (figures, error) {
	sources, batchers := make([]*orders, clients), make([]batcher, clients)
	for i := range sources {
		sources[i] = newOrders(seed, i, len(t.moved)-1, false)
	}
	return drive(ctx, s, clients, d, func(conn *load.HTTP, client int) (int, error) {
		batch := make([]order, items)
		for i := range batch {
			batch[i] = sources[client].next()
		}
		if err := batchers[client].post(conn, batch[0].key+"-batch", batch); err != nil {
			return 0, err
		}
		for _, o := range batch {
			t.add(o)
		}
		return items, nil
	})
}

// batcher posts batches. The zero value is ready.
type batcher struct{ body []byte }

// post makes the orders and fails unless all are posted.
func (b *batcher) post(conn *load.HTTP, key string, batch []order) error {
	b.body = append(b.body[:0], `{"items":[`...)
	for i, o := range batch {
		if i > 0 {
			b.body = append(b.body, ',')
		}
		b.body = o.appendItem(b.body)
	}
	b.body = append(b.body, `]}`...)
	status, answer, err := conn.Do("POST", "/transfers:batch", keyHeader(key), b.body)
	if err != nil {
		return err
	}
	if made := bytes.Count(answer, []byte(`"status":201`)); status != http.StatusOK || made != len(batch) {
		return fmt.Errorf("a batch: status %d, %d of %d items posted: %.400s", status, made, len(batch), answer)
	}
	return nil
}
