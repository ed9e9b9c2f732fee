// Package services puts real processes of a service to the test: real HTTP clients that move between them, a relay on every
// way to one of them that cuts, starves and delays, kill -9 and SIGSTOP. The servers of an etcd in which they keep their
// data are hit like the service's own nodes; disks are never wiped. When all has healed it compares what clients were
// promised with what every node says.
//
// What a run has in common, whatever the service, is here: processes and relays (cluster.go, storage.go), faults (plan.go,
// nemesis.go), the record, and the verdict (results.go). A service adds its clients and its checks: it is a load.
//
// chat: writers post messages with a text and an idempotency key each, and try again with the same key on another node when
// they get no answer, so each text must end up in every history exactly once. They also edit, delete, and note what they
// have read. Readers follow their streams and must see the same as the histories say; where the rooms are kept in a shared
// log, in the same order.
//
// pay: clients move money between a few accounts, one of them hot, and hold, capture, void, refund, claim, in ones and in
// batches; with several shards much of that goes between them, and some is taken back on its way. Each request is repeated
// with its key, on any node, until there is an answer that is final; some at once, some long after. What must be true of the
// answers is in package books.
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

	"dongne/internal/etcd"
	"dongne/maelstrom/check"
	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
)

// Limits of Options.
const (
	nodesMax   = 16
	clientsMax = 256 // writers and readers
	shardsMax  = 16
	rateMax    = 10_000
)

const (
	setupMax   = 30 * time.Second // until every node knows what the clients need, and every reader follows a stream
	verifyMax  = time.Minute      // for a service's own judgement of one node's data
	storeNodes = 3
)

// Where a service keeps its data.
const (
	fileStore = "file" // in files, each node its own
	etcdStore = "etcd" // in one etcd
)

// A subject is a service that can be put to the test.
type subject struct {
	stores []string // where it can keep its data; the first is the default
	load   func(*run) load
	peers  bool // whether nodes speak to each other
	shards bool // whether it can spread what it keeps over several logs here
	verify bool // whether the program, called with "verify", judges the data of a node that was stopped
}

// subjects are all that there are, by the name of the workload and of the program.
func subjects() map[string]subject {
	return map[string]subject{
		"chat": {stores: []string{fileStore, etcdStore}, load: newChat, peers: true},
		"pay":  {stores: []string{etcdStore, fileStore}, load: newPay, shards: true, verify: true},
	}
}

// A load is what is particular to one service: who uses it, and what must be true in the end.
type load interface {
	// env is what a node is told beside its address, folder and store.
	env(node string) []string
	// setUp makes the clients and what they need, before any fault; they may begin to read.
	setUp(ctx context.Context) error
	// work lets the clients at it until ctx ends, and returns when they have stopped.
	work(ctx context.Context)
	// settle waits until all nodes say the same, once all has healed; for Recovery at most. It returns how long that took.
	settle(ctx context.Context) time.Duration
	// observe fetches what every node says in the end.
	observe(ctx context.Context)
	// stop ends whatever the clients still do; also after an error.
	stop()
	// judge says what is wrong with what the clients saw. It is a pure function of it.
	judge(recovery time.Duration) judgement
}

// A judgement is what a load makes of a run.
type judgement struct {
	acknowledged int      // requests; of none of them nothing can be said
	wrong        []string // the most telling first
	fields       edn.Map  // counts, for the report
}

// Options of Run. The zero value of each but Dir has a default.
type Options struct {
	Workload    string        // chat, pay
	Store       string        // where the service keeps its data: file or etcd; chat: file, pay: etcd
	Shards      int           // 1; logs that pay spreads its accounts over
	NodeCount   int           // 3; pay on files takes 1 alone
	TimeLimit   time.Duration // 60 s; of the load, the recovery comes after it
	Rate        float64       // 50 operations a second over all writers
	Concurrency int           // writers; twice the nodes
	Readers     int           // twice the nodes
	Nemesis     []string      // partition, kill, pause, delay
	Interval    time.Duration // 5 s; mean time between two operations of one kind of fault
	Seed        uint64
	Binary      string        // of the service; "": built with the Go toolchain, which must find this module
	Dir         string        // where nodes keep data and node-logs
	Patience    time.Duration // 100 ms; a writer waits for an answer so long at least, and 2 s at most
	Recovery    time.Duration // 30 s; until the nodes must agree once all is healed
	Log         func(format string, args ...any)
}

// Check says what is wrong with the options, but for Dir, and puts in what is left out.
func (o *Options) Check() error {
	dir := o.Dir
	o.Dir = "."
	err := o.fill()
	o.Dir = dir
	return err
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
	if o.Workload == "" {
		o.Workload = "chat"
	}
	if s, known := subjects()[o.Workload]; known && o.Store == "" {
		o.Store = s.stores[0]
	}
	zero(&o.Shards, 1)
	zero(&o.NodeCount, 3)
	zero(&o.Concurrency, 2*o.NodeCount)
	zero(&o.Readers, 2*o.NodeCount)
	if o.Rate == 0 {
		o.Rate = 50
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	return o.wrong()
}

func (o *Options) wrong() error {
	s, known := subjects()[o.Workload]
	switch {
	case !known:
		return fmt.Errorf("services: workload %q: there are %s", o.Workload, strings.Join(sorted(subjects()), ", "))
	case !slices.Contains(s.stores, o.Store):
		return fmt.Errorf("services: store %q: there are %s", o.Store, strings.Join(s.stores, ", "))
	case o.Workload == "pay" && o.Store == fileStore && o.NodeCount > 1:
		return fmt.Errorf("services: pay on files: %d nodes, but they would not know of each other: name the store etcd, or 1 node", o.NodeCount)
	case o.Shards < 1 || o.Shards > shardsMax:
		return fmt.Errorf("services: %d shards: 1 to %d", o.Shards, shardsMax)
	case o.Shards > 1 && !s.shards:
		return fmt.Errorf("services: %d shards: %s has one here", o.Shards, o.Workload)
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
		case kind == partition && o.NodeCount < 2 && o.Store == fileStore:
			return errors.New("services: nemesis partition: there is but one node")
		}
	}
	return nil
}

func (o *Options) settings() []history.Setting {
	return []history.Setting{
		{Name: "workload", Value: o.Workload},
		{Name: "store", Value: o.Store},
		{Name: "shards", Value: strconv.Itoa(o.Shards)},
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
	load    load

	recovery time.Duration // from the end of faults until all agreed; Recovery if they did not
	verified []string      // what the service's own program says against the data that is left
}

// perform is Run without the judgement.
func perform(ctx context.Context, o Options) (*run, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	if o.Store == etcdStore {
		if _, err := etcd.Find(); err != nil {
			return nil, fmt.Errorf("services: %w", err)
		}
	}
	if o.Binary == "" {
		folder, err := os.MkdirTemp("", o.Workload)
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(folder)
		o.Binary = filepath.Join(folder, o.Workload)
		program := "dongne/" + o.Workload
		o.Log("building %s", o.Workload)
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", o.Binary, program).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("services: go build %s, which its checkout alone can do (elsewhere name a built one): %w\n%s", program, err, out)
		}
	}
	r := &run{Options: o, record: newRecorder()}
	c, err := newCluster(ctx, &r.Options, r.record.finding)
	defer c.close()
	if err != nil {
		return nil, fmt.Errorf("services: %w", err)
	}
	r.cluster = c
	r.nemesis = &nemesis{cluster: c, record: r.record, log: o.Log, faults: map[string]int{}}
	r.load = subjects()[o.Workload].load(r)
	for _, name := range c.names {
		c.nodes[name].env = append(c.env(name), r.load.env(name)...)
		if err := c.start(ctx, name); err != nil {
			return nil, fmt.Errorf("services: %w", err)
		}
	}
	if err := r.perform(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// perform runs clients and nemesis, heals, observes, and lets the nodes' data be verified once they have stopped.
func (r *run) perform(ctx context.Context) error {
	defer r.load.stop()
	if err := r.load.setUp(ctx); err != nil {
		return fmt.Errorf("services: set up: %w", err)
	}
	r.Log("%d clients on %d nodes for %v", r.Concurrency, len(r.cluster.names), r.TimeLimit)
	start := r.record.now()
	steps := plan(r.Seed, r.Nemesis, r.cluster.groups(), r.cluster.linked, r.Interval, r.TimeLimit)
	for i := range steps {
		steps[i].at += start
	}
	limited, cancel := context.WithTimeout(ctx, r.TimeLimit)
	defer cancel()
	var working sync.WaitGroup
	working.Go(func() { r.load.work(limited) })
	r.nemesis.run(limited, steps)
	working.Wait()
	r.nemesis.heal(ctx, r.Nemesis)
	r.Log("all healed, waiting for the nodes to agree")
	r.recovery = r.load.settle(ctx)
	r.Log("after %v", r.recovery.Round(time.Millisecond))
	r.load.observe(ctx)
	r.load.stop()
	if r.cluster.stop(); subjects()[r.Workload].verify && ctx.Err() == nil {
		r.verify(ctx)
	}
	return ctx.Err()
}

// verify lets the service's own program judge what each node left.
func (r *run) verify(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, verifyMax*time.Duration(len(r.cluster.names)))
	defer cancel()
	for _, name := range r.cluster.names {
		n := r.cluster.nodes[name]
		cmd := exec.CommandContext(ctx, n.binary, "verify")
		cmd.Env = n.env
		out, err := cmd.CombinedOutput()
		fmt.Fprintf(n.out, "verify:\n%s", out)
		if n.out.Close(); err != nil {
			r.verified = append(r.verified, fmt.Sprintf("%s verify, of what %s left: %v: %s", r.Workload, name, err, tail(out, tailLineMax)))
		}
	}
}

// tail is the end of a text.
func tail(b []byte, most int) string {
	return strings.TrimSpace(string(b[max(0, len(b)-most):]))
}
