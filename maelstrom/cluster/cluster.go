// Package cluster runs an interpreter against real processes: it starts a node program once for each node, carries lines
// from stdout to stdin through the network, breaks what the nemesis wants broken, and notes what nodes do against the
// protocol.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"dongne/maelstrom/history"
	"dongne/maelstrom/interpreter"
	"dongne/maelstrom/network"
	"dongne/maelstrom/service"
)

const (
	findingsMax   = 10 // of one kind, of one node
	progressEvery = 200 * time.Millisecond
	batchBytes    = 256 << 10 // written to a node at once
)

// Config is what a run needs.
type Config struct {
	Program     string   // path of the node program
	Args        []string // of every node
	Nodes       []string
	Services    map[string]service.Service // endpoints beside the nodes
	Network     *network.Network
	Interpreter interpreter.Config
	Dir         string // node-logs/ is written below
	Compat      bool   // mute a node after a bad line, as upstream does

	Log         func(line string)                            // a new phase, a finding
	Fault       func(at time.Duration, f *interpreter.Fault) // one is carried out
	Progress    func(Status)                                 // nil: not wanted
	Stderr      func(line string)                            // nil: only into the files
	Sent, Taken func(*network.Message)                       // nil: not wanted
}

// A Status is how far a run is.
type Status struct {
	interpreter.Progress
	Faults  int           // begun so far
	Dropped int           // messages
	Lag     time.Duration // by which a message was delivered late, at worst, since the last status
}

// cluster is one run.
type cluster struct {
	Config
	begun time.Time
	dir   string // of the nodes' own data
	inbox chan network.Message
	stop  chan struct{}
	pumps sync.WaitGroup
	blows sync.WaitGroup // faults being carried out

	mu       sync.Mutex
	nodes    map[string]*node                // never changes after the start; the nodes do
	services map[string]*pump                // never changes
	callers  map[string]chan network.Message // clients of call; guarded by mu
	gone     map[string]bool                 // clients that were closed; guarded by mu
	findings map[findingKey]*findings        // guarded by mu
}

type findingKey struct {
	node string
	kind history.Kind
}

type findings struct {
	first []history.Finding
	more  int
}

func (c *cluster) now() time.Duration { return time.Since(c.begun) }

// Run carries out a run. The error says why there is none to be judged, as when a node does not start. What was
// recorded until then is returned too, if there is anything.
func Run(ctx context.Context, config Config) (*history.Run, error) {
	dir, err := os.MkdirTemp("", "maelstrom-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c := &cluster{Config: config, begun: time.Now(), dir: dir, inbox: make(chan network.Message, 1024),
		stop: make(chan struct{}), nodes: map[string]*node{}, services: map[string]*pump{},
		callers: map[string]chan network.Message{}, gone: map[string]bool{}, findings: map[findingKey]*findings{}}
	err = c.open()
	if err == nil {
		err = c.startAll(c.Nodes)
	}
	c.Interpreter.FirstClient = len(c.Nodes)
	p := interpreter.New(c.Interpreter)
	if err == nil {
		err = c.conduct(ctx, p)
	}
	elapsed := c.now()
	err = errors.Join(err, c.close())
	return c.result(p, elapsed), err
}

// open makes the endpoints, the files and the pumps.
func (c *cluster) open() error {
	if err := os.MkdirAll(filepath.Join(c.Dir, "node-logs"), 0o755); err != nil {
		return err
	}
	for _, name := range c.Nodes {
		log, err := os.Create(filepath.Join(c.Dir, "node-logs", name+".log"))
		if err != nil {
			return err
		}
		n := &node{name: name, log: log}
		n.pump = c.newPump(name, func(batch []byte) { c.feed(n, batch) })
		c.nodes[name] = n
	}
	for name, s := range c.Services {
		c.Network.Open(name)
		p := c.newPump(name, nil)
		p.handle = func(m network.Message) { c.serve(name, s, m) }
		c.services[name] = p
	}
	for _, p := range c.services {
		c.startPump(p)
	}
	for _, n := range c.nodes {
		c.startPump(n.pump)
	}
	return nil
}

// close ends everything, and waits for it.
func (c *cluster) close() error {
	close(c.stop)
	c.blows.Wait() // a node may be starting
	c.mu.Lock()
	var running []*process
	for _, n := range c.nodes {
		if n.proc != nil {
			running = append(running, n.proc)
			n.proc.killed.Store(true)
		}
	}
	c.mu.Unlock()
	var all error
	for _, p := range running {
		all = errors.Join(all, p.kill())
	}
	c.pumps.Wait()
	for _, n := range c.nodes {
		all = errors.Join(all, n.log.Close())
	}
	return all
}

// result puts together what was recorded.
func (c *cluster) result(p *interpreter.Interpreter, elapsed time.Duration) *history.Run {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &history.Run{Nodes: c.Nodes, Started: c.begun, Journal: c.Network.Journal()}
	var origin time.Duration
	r.Ops, r.Findings, origin = p.History()
	r.Started, r.Elapsed = c.begun.Add(origin), elapsed-origin
	for i := range r.Journal.Events {
		r.Journal.Events[i].Time -= origin
	}
	for _, f := range c.findings {
		for _, one := range f.first {
			one.Time -= origin
			r.Findings = append(r.Findings, one)
		}
		r.Findings[len(r.Findings)-1].More = f.more
	}
	slices.SortFunc(r.Findings, func(a, b history.Finding) int { return int(a.Time - b.Time) })
	return r
}

// conduct drives the interpreter until it is done.
func (c *cluster) conduct(ctx context.Context, p *interpreter.Interpreter) error {
	p.Start(c.now())
	faults := make(chan *interpreter.Fault, 1)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var status Status
	reportAt := c.now()
	for {
		for _, a := range p.Step(c.now()) {
			c.act(a, faults)
			if a.Fault == nil {
				continue
			}
			if c.Fault(p.Progress(c.now()).Elapsed, a.Fault); a.Fault.Begin {
				status.Faults++
			}
		}
		if p.Done() {
			return c.explain(p.Err())
		}
		if now := c.now(); c.Progress != nil && now >= reportAt {
			c.mu.Lock()
			status.Dropped, status.Lag = c.Network.Journal().Dropped, c.Network.Lag()
			c.mu.Unlock()
			status.Progress = p.Progress(now)
			c.Progress(status)
			reportAt = now + progressEvery
		}
		wake := p.Wake()
		if c.Progress != nil {
			wake = min(wake, reportAt)
		}
		timer.Reset(wake - c.now())
		select {
		case m := <-c.inbox:
			p.Receive(c.now(), m)
			for more := true; more; {
				select {
				case m := <-c.inbox:
					p.Receive(c.now(), m)
				default:
					more = false
				}
			}
		case f := <-faults:
			p.FaultDone(c.now(), f)
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// explain adds to the error what the node printed that did not take what it was sent.
func (c *cluster) explain(err error) error {
	setup, ok := errors.AsType[*interpreter.SetupError](err)
	if !ok {
		return err
	}
	c.mu.Lock()
	p := c.nodes[setup.Node].proc
	c.mu.Unlock()
	if p == nil {
		return err // it has ended, and that is a finding
	}
	return fmt.Errorf("%w\n%s", err, strings.Join(p.tails(), "\n"))
}

// act carries out one action; a fault says on done when it is there.
func (c *cluster) act(a interpreter.Action, done chan<- *interpreter.Fault) {
	switch {
	case a.Note != "":
		c.Log(a.Note)
	case a.Open != "":
		c.mu.Lock()
		c.Network.Open(a.Open)
		c.mu.Unlock()
	case a.Close != "":
		c.mu.Lock()
		c.forget(a.Close)
		c.mu.Unlock()
	case a.Send != nil:
		if err := c.send(*a.Send); err != nil {
			panic("cluster: " + err.Error()) // a client's request to a node
		}
	case a.Fault != nil:
		c.blows.Go(func() {
			c.strike(a.Fault)
			done <- a.Fault
		})
	}
}

// forget closes a client's endpoint. The caller holds c.mu.
func (c *cluster) forget(client string) {
	c.Network.Close(client)
	c.gone[client] = true
}

func (c *cluster) find(f history.Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.Time = c.now()
	key := findingKey{f.Node, f.Kind}
	if c.findings[key] == nil {
		c.findings[key] = &findings{}
	}
	of := c.findings[key]
	if len(of.first) == findingsMax {
		of.more++
		return
	}
	if of.first = append(of.first, f); len(of.first) == 1 {
		c.Log("! " + f.Text)
	}
}
