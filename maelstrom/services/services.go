// Package services puts real processes of a service to the test: real HTTP and Server-Sent-Events clients that move between
// them, a relay on every way to one of them that cuts, starves and delays, kill -9 and SIGSTOP. When all has healed it
// compares what clients were promised with what every node says.
//
// The one workload is chat. Writers post messages with a text and an idempotency key each, and try again with the same key
// on another node when they get no answer, so each text must end up in every history exactly once. They also edit, delete,
// and note what they have read. Readers follow their streams and must see the same as the histories say.
package services

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"dongne/maelstrom/check"
	"dongne/maelstrom/history"
)

// Limits of Options.
const (
	nodesMax   = 16
	clientsMax = 256 // writers and readers
	rateMax    = 10_000
)

const (
	roomsCount = 3
	setupMax   = 30 * time.Second       // until every node knows the rooms, and every reader follows a stream
	lookEvery  = 300 * time.Millisecond // more than chat gathers read positions for
)

// Options of Run. The zero value of each but Dir has a default.
type Options struct {
	Workload    string        // chat
	NodeCount   int           // 3
	TimeLimit   time.Duration // 60 s; of the load, the recovery comes after it
	Rate        float64       // 50 operations a second over all writers
	Concurrency int           // writers; twice the nodes
	Readers     int           // twice the nodes
	Nemesis     []string      // partition, kill, pause, delay
	Interval    time.Duration // 5 s; mean time between two operations of one kind of fault
	Seed        uint64
	Binary      string        // of chat; "": built with the Go toolchain, which must find this module
	Dir         string        // where nodes keep data and node-logs
	Patience    time.Duration // 100 ms; a writer waits for an answer so long at least, and 2 s at most
	Recovery    time.Duration // 30 s; until the nodes must agree once all is healed
	Log         func(format string, args ...any)
}

// Check says what is wrong with the options, but for Dir.
func (o Options) Check() error {
	o.Dir = "."
	return o.fill()
}

// fill puts in what is left out, and says what cannot be.
func (o *Options) fill() error {
	zero := func(n *int, value int) {
		if *n == 0 {
			*n = value
		}
	}
	for d, value := range map[*time.Duration]time.Duration{&o.TimeLimit: time.Minute, &o.Interval: 5 * time.Second, &o.Recovery: 30 * time.Second, &o.Patience: 100 * time.Millisecond} {
		if *d == 0 {
			*d = value
		}
	}
	zero(&o.NodeCount, 3)
	zero(&o.Concurrency, 2*o.NodeCount)
	zero(&o.Readers, 2*o.NodeCount)
	if o.Workload == "" {
		o.Workload = "chat"
	}
	if o.Rate == 0 {
		o.Rate = 50
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	return o.wrong()
}

func (o *Options) wrong() error {
	switch {
	case o.Workload != "chat":
		return fmt.Errorf("services: workload %q: there is chat alone", o.Workload)
	case o.Dir == "":
		return errors.New("services: no folder for data and logs")
	case o.NodeCount < 1 || o.NodeCount > nodesMax:
		return fmt.Errorf("services: %d nodes: 1 to %d", o.NodeCount, nodesMax)
	case o.Concurrency < 1 || o.Readers < 1 || o.Concurrency+o.Readers > clientsMax:
		return fmt.Errorf("services: %d writers and %d readers: at least one of each, at most %d together", o.Concurrency, o.Readers, clientsMax)
	case !(o.Rate > 0 && o.Rate <= rateMax):
		return fmt.Errorf("services: rate %v: above 0, at most %d", o.Rate, rateMax)
	case o.TimeLimit < 0 || o.Interval < 0 || o.Recovery < 0:
		return errors.New("services: a time is negative")
	case o.Patience < 0 || o.Patience > requestMax:
		return fmt.Errorf("services: patience %v: at most %v", o.Patience, requestMax)
	}
	for i, kind := range o.Nemesis {
		switch {
		case operations[kind][0] == "":
			return fmt.Errorf("services: nemesis %q: there are partition, kill, pause and delay", kind)
		case slices.Contains(o.Nemesis[:i], kind):
			return fmt.Errorf("services: nemesis %s is named twice", kind)
		case kind == partition && o.NodeCount < 2:
			return errors.New("services: nemesis partition: there is but one node")
		}
	}
	return nil
}

func (o *Options) settings() []history.Setting {
	return []history.Setting{
		{Name: "workload", Value: o.Workload},
		{Name: "node-count", Value: strconv.Itoa(o.NodeCount)},
		{Name: "time-limit", Value: o.TimeLimit.String()},
		{Name: "rate", Value: strconv.FormatFloat(o.Rate, 'g', -1, 64)},
		{Name: "concurrency", Value: strconv.Itoa(o.Concurrency)},
		{Name: "readers", Value: strconv.Itoa(o.Readers)},
		{Name: "nemesis", Value: strings.Join(o.Nemesis, ",")},
		{Name: "nemesis-interval", Value: o.Interval.String()},
		{Name: "patience", Value: o.Patience.String()},
		{Name: "recovery", Value: o.Recovery.String()},
		{Name: "seed", Value: strconv.FormatUint(o.Seed, 10)},
	}
}

// Run starts the nodes, lets clients and nemesis loose on them, waits until all has healed, and judges. The error says why
// there is nothing to judge.
func Run(ctx context.Context, o Options) (*history.Run, check.Results, error) {
	r, err := perform(ctx, o)
	if err != nil {
		return nil, check.Results{}, err
	}
	return r.history(), r.results(), nil
}

// A run is everything that is going on.
type run struct {
	Options
	cluster *cluster
	record  *recorder
	nemesis *nemesis
	rooms   map[string][]string // id → members, sorted
	writers []*writer
	readers []*reader

	settled  chan struct{} // closed when readers are to stay where they are
	recovery time.Duration // from the end of faults until all agreed; Recovery if they did not
	observed observed
}

// perform is Run without the judgement.
func perform(ctx context.Context, o Options) (*run, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	if o.Binary == "" {
		folder, err := os.MkdirTemp("", "chat")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(folder)
		o.Binary = filepath.Join(folder, "chat")
		o.Log("building chat")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", o.Binary, "dongne/chat").CombinedOutput(); err != nil {
			return nil, fmt.Errorf("services: go build dongne/chat, which its checkout alone can do (elsewhere name a built one): %w\n%s", err, out)
		}
	}
	r := &run{Options: o, record: newRecorder(), rooms: map[string][]string{}, settled: make(chan struct{})}
	c, err := newCluster(&r.Options, r.record.finding)
	defer c.close()
	if err != nil {
		return nil, fmt.Errorf("services: %w", err)
	}
	r.cluster = c
	r.nemesis = &nemesis{cluster: c, record: r.record, log: o.Log, faults: map[string]int{}}
	for _, name := range c.names {
		if err := c.start(ctx, name); err != nil {
			return nil, fmt.Errorf("services: %w", err)
		}
	}
	if err := r.setUp(ctx); err != nil {
		return nil, fmt.Errorf("services: set up: %w", err)
	}
	if err := r.load(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// load runs clients and nemesis, heals, and observes.
func (r *run) load(ctx context.Context) error {
	following, stop := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer r.hangUp()
	defer reading.Wait()
	defer stop()
	if err := r.follow(following, &reading); err != nil {
		return err
	}
	r.Log("%d writers and %d readers on %d nodes for %v", len(r.writers), len(r.readers), len(r.cluster.names), r.TimeLimit)
	start := r.record.now()
	steps := plan(r.Seed, r.Nemesis, r.cluster.names, r.Interval, r.TimeLimit)
	for i := range steps {
		steps[i].at += start
	}
	limited, cancel := context.WithTimeout(ctx, r.TimeLimit)
	defer cancel()
	var working sync.WaitGroup
	for _, w := range r.writers {
		working.Go(func() { w.run(limited) })
	}
	r.nemesis.run(limited, steps)
	working.Wait()
	r.nemesis.heal(ctx, r.Nemesis)
	r.Log("all healed, waiting for the nodes to agree")
	close(r.settled)
	r.settle(ctx)
	r.observe(ctx)
	return ctx.Err()
}

// hangUp ends the clients' idle connections.
func (r *run) hangUp() {
	for _, c := range r.users() {
		c.http.CloseIdleConnections()
	}
}

// follow starts the readers, and returns when each follows a stream.
func (r *run) follow(ctx context.Context, reading *sync.WaitGroup) error {
	started := make(chan struct{}, len(r.readers))
	for _, reader := range r.readers {
		reader.started = sync.OnceFunc(func() { started <- struct{}{} })
		reading.Go(func() { reader.run(ctx) })
	}
	timeout := time.NewTimer(setupMax)
	defer timeout.Stop()
	for range r.readers {
		select {
		case <-started:
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout.C:
			return fmt.Errorf("services: not every reader has a stream within %v, before any fault", setupMax)
		}
	}
	return nil
}
