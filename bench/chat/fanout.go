package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"dongne/bench/load"
	"dongne/bench/proc"
	"dongne/bench/report"
)

const (
	// ahead is how many texts all publishers together may be ahead of the slowest stream. It closes the loop: no server
	// has to drop anything, and none is idle.
	ahead = 2048
	// latencyRate is the modest rate at which latency is measured.
	latencyRate = 50 // texts per second
)

// inFlightChoices are how many texts a publisher may have in flight; each system gets what suits it best.
var inFlightChoices = []int{8, 64, 256}

// fanOut is what one measurement gave.
type fanOut struct {
	inFlight   int     // texts of each publisher
	publishes  float64 // per second
	deliveries float64 // per second
	perCPU     float64 // deliveries per second of the server's CPU
	cores      float64 // that the server used
	reader     float64 // cores that the streams' reader used
	noise      float64 // cores that other programs used
	writes     float64 // write calls per delivery; 0: the server does not say
	p50, p99   time.Duration
	checked    load.Checked
}

// fanOutRooms is one room with everybody in it.
func fanOutRooms(o options) []room {
	r := room{name: "room"}
	for i := range o.streams {
		r.members = append(r.members, fmt.Sprintf("u%d", i))
	}
	for i := range max(o.publishers, o.ackers) {
		r.members = append(r.members, fmt.Sprintf("p%d", i))
	}
	return []room{r}
}

// measureChoices measures with each number of texts in flight; the latency, which does not depend on it, only once.
func measureChoices(ctx context.Context, sys system, o options) ([]fanOut, error) {
	results := make([]fanOut, len(inFlightChoices))
	for i, n := range inFlightChoices {
		f, err := measureFanOut(ctx, sys, o, n, i == 0)
		if err != nil {
			return nil, fmt.Errorf("%d in flight: %w", n, err)
		}
		f.inFlight = n
		f.p50, f.p99 = cmp.Or(f.p50, results[0].p50), cmp.Or(f.p99, results[0].p99)
		results[i] = f
	}
	return results, nil
}

// best returns, of the rounds' results for each choice, those of the choice with the highest median.
func best(rounds [][]fanOut) (of []fanOut) {
	for choice := range inFlightChoices {
		var results []fanOut
		for _, round := range rounds {
			results = append(results, round[choice])
		}
		if report.Median(results, fanOut.rate) > report.Median(of, fanOut.rate) {
			of = results
		}
	}
	return of
}

func (f fanOut) rate() float64 { return f.deliveries }

// measureFanOut starts the system, opens the streams, and measures. It fails unless every text came once on every stream.
func measureFanOut(ctx context.Context, sys system, o options, inFlight int, latency bool) (f fanOut, err error) {
	err = with(ctx, sys, fanOutRooms(o), o, func(ctx context.Context, s *server) error {
		streams := s.streams
		streams.Count = o.streams
		crowd, err := load.Open(ctx, streams)
		if err != nil {
			return err
		}
		defer crowd.Close()
		r := &fanOutRun{server: s, crowd: crowd}
		if latency {
			if err := r.latencies(ctx, o, &f); err != nil {
				return err
			}
		}
		if err := r.throughput(ctx, o, inFlight, &f); err != nil {
			return err
		}
		f.checked, err = crowd.Check(r.next)
		return err
	})
	return f, err
}

// fanOutRun hands out the numbers of the texts.
type fanOutRun struct {
	server *server
	crowd  *load.Crowd

	mu      sync.Mutex
	next    int  // guarded by mu
	stopped bool // guarded by mu
}

// take hands out n numbers as soon as the slowest stream is near enough, and none when the run is over. Numbers that are
// handed out have to be published.
func (r *fanOutRun) take(n int) (first int, ok bool, err error) {
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return 0, false, nil
	}
	first = r.next
	r.next += n
	r.mu.Unlock()
	return first, true, r.crowd.Wait(first + n - ahead)
}

func (r *fanOutRun) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
}

// latencies measures the time from the moment at which a text is due to its arrival on the last stream, for as long as a
// measurement takes.
func (r *fanOutRun) latencies(ctx context.Context, o options, f *fanOut) error {
	p, err := r.server.publisher(ctx, 0)
	if err != nil {
		return err
	}
	defer p.close()
	if err := r.publishOne(p); err != nil { // warm-up
		return err
	}
	if err := r.crowd.Wait(r.next); err != nil {
		return err
	}
	arrived := make([]time.Time, 0, 1024) // on every stream, from text r.next on
	from := r.next
	r.crowd.Observe(func(at load.Progress) {
		for len(arrived) < at.Slowest-from {
			arrived = append(arrived, at.Time)
		}
	})
	var due []time.Time
	begin := time.Now()
	for range int(max(1, o.seconds*latencyRate)) {
		at := begin.Add(time.Duration(len(due)) * time.Second / latencyRate)
		if err := load.Wait(ctx, time.Until(at)); err != nil {
			return err
		}
		due = append(due, at)
		if err := r.publishOne(p); err != nil {
			return err
		}
	}
	if err := r.crowd.Wait(r.next); err != nil {
		return err
	}
	r.crowd.Observe(nil)
	took := make([]time.Duration, len(due))
	for i := range due {
		took[i] = arrived[i].Sub(due[i])
	}
	f.p50, f.p99 = report.Quantiles(took)
	return nil
}

func (r *fanOutRun) publishOne(p publisher) error {
	first, _, err := r.take(1)
	if err != nil {
		return err
	}
	return p.publish(first, 1)
}

// throughput publishes as fast as the streams come along: a warm-up, then the measured time.
func (r *fanOutRun) throughput(ctx context.Context, o options, inFlight int, f *fanOut) error {
	done, err := r.publishAll(ctx, o.publishers, inFlight)
	if err != nil {
		return err
	}
	measureErr := func() error {
		if err := load.Wait(ctx, o.duration()/4); err != nil {
			return err
		}
		begin, err := r.snapshot(ctx)
		if err != nil {
			return err
		}
		if err := o.profiled(ctx, r.server, "fanout"); err != nil {
			return err
		}
		end, err := r.snapshot(ctx)
		f.fill(begin, end)
		return err
	}()
	r.stop()
	return errors.Join(measureErr, <-done)
}

// publishAll starts the publishers. The channel gets their error, or nil, when all have ended.
func (r *fanOutRun) publishAll(ctx context.Context, publishers, inFlight int) (<-chan error, error) {
	connections, batch := publishers*inFlight, 1
	if r.server.pipelined {
		connections, batch = publishers, inFlight
	}
	all := make([]publisher, connections)
	for i := range all {
		p, err := r.server.publisher(ctx, i%publishers)
		if err != nil {
			return nil, err
		}
		all[i] = p
	}
	errs := make([]error, connections)
	var group sync.WaitGroup
	for i, p := range all {
		group.Go(func() {
			defer p.close()
			for {
				first, ok, err := r.take(batch)
				if err == nil && ok {
					err = p.publish(first, batch)
				}
				if err != nil {
					r.stop()
					r.crowd.Fail(err) // what is not published will not arrive
				}
				if errs[i] = err; err != nil || !ok {
					return
				}
			}
		})
	}
	done := make(chan error, 1)
	go func() {
		group.Wait()
		done <- firstError(errs)
	}()
	return done, nil
}

// firstError leaves out the rest: when one publisher fails, the others follow.
func firstError(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// snapshot is the state of all counters at a moment.
type snapshot struct {
	crowd              load.Progress
	server, reader     time.Duration // CPU
	others             time.Duration // CPU of all but these and this process
	writes, deliveries float64
}

func (r *fanOutRun) snapshot(ctx context.Context) (s snapshot, err error) {
	if r.server.writes != nil {
		if s.writes, s.deliveries, err = r.server.writes(ctx); err != nil {
			return s, err
		}
	}
	s.server, err = r.server.process.CPU()
	if err != nil {
		return s, err
	}
	s.reader = r.crowd.CPU()
	s.crowd = r.crowd.Progress()
	s.others, err = proc.Others(s.server + s.reader)
	return s, err
}

// fill sets all but the latencies. The time is the one between the crowd's own two reports.
func (f *fanOut) fill(begin, end snapshot) {
	seconds := end.crowd.Time.Sub(begin.crowd.Time).Seconds()
	if seconds <= 0 {
		return // nothing was delivered, which the check of the total reports
	}
	deliveries := float64(end.crowd.Total - begin.crowd.Total)
	f.publishes = float64(end.crowd.Slowest-begin.crowd.Slowest) / seconds
	f.deliveries = deliveries / seconds
	f.cores = (end.server - begin.server).Seconds() / seconds
	f.reader = (end.reader - begin.reader).Seconds() / seconds
	f.noise = (end.others - begin.others).Seconds() / seconds
	if f.cores > 0 {
		f.perCPU = f.deliveries / f.cores
	}
	if counted := end.deliveries - begin.deliveries; counted > 0 {
		f.writes = (end.writes - begin.writes) / counted
	}
}
