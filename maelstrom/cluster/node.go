package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"dongne/maelstrom/history"
	"dongne/maelstrom/interpreter"
	"dongne/maelstrom/network"
)

const initTimeout = 10 * time.Second

// node is one node through all its lives. What it holds is guarded by cluster.mu.
type node struct {
	name  string
	pump  *pump
	proc  *process // nil while it is down
	ready bool     // it has answered init: until then it hears nothing else
	muted bool
	log   *os.File
}

// startAll starts the nodes, all at once, and waits until each has answered init.
func (c *cluster) startAll(names []string) error {
	c.mu.Lock()
	for _, name := range names { // all before any: whoever is quick may send to the others
		c.Network.Open(name)
		c.nodes[name].ready, c.nodes[name].muted = false, false
	}
	c.mu.Unlock()
	var starting sync.WaitGroup
	errs := make([]error, len(names))
	for i, name := range names {
		starting.Go(func() {
			if errs[i] = c.start(c.nodes[name]); errs[i] != nil {
				errs[i] = fmt.Errorf("%s does not start: %w", name, errs[i])
			}
		})
	}
	starting.Wait()
	return errors.Join(errs...)
}

func (c *cluster) start(n *node) error {
	env, err := c.env(n)
	if err != nil {
		return err
	}
	client := fmt.Sprintf("c%d", slices.Index(c.Nodes, n.name))
	replies := make(chan network.Message, 16)
	c.mu.Lock()
	c.Network.Open(client)
	c.callers[client] = replies
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.forget(client)
		delete(c.callers, client)
	}()
	p, err := spawn(c.Program, c.Args, env, n.log, func(line []byte) { c.line(n, line) }, func(line []byte) {
		if c.Stderr != nil {
			c.Stderr(n.name + ": " + string(line))
		}
	})
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{"type": "init", "msg_id": 1, "node_id": n.name, "node_ids": c.Nodes})
	if err != nil {
		return err
	}
	c.mu.Lock()
	n.proc = p
	m := c.Network.Carry(c.now(), network.Message{Src: client, Dest: n.name, Body: body})
	for _, tell := range []func(*network.Message){c.Sent, c.Taken} {
		if tell != nil {
			tell(&m)
		}
	}
	c.mu.Unlock()
	go c.watch(n, p)
	p.stdin.Write(m.AppendLine(nil)) // fails when the process has ended, which is seen next
	if err := c.awaitInit(p, replies); err != nil {
		return err
	}
	c.mu.Lock()
	n.ready = true
	c.mu.Unlock()
	n.pump.signal()
	return nil
}

// env is the node's environment: ours, and where nodes are killed a folder of its own that outlives that. Where they are
// not, a disk would cost time and prove nothing.
func (c *cluster) env(n *node) ([]string, error) {
	if !slices.Contains(c.Interpreter.Kinds, "kill") {
		return os.Environ(), nil
	}
	folder := filepath.Join(c.dir, n.name)
	return append(os.Environ(), "MAELSTROM_NODE_DIR="+folder), os.MkdirAll(folder, 0o755)
}

// awaitInit waits for init_ok.
func (c *cluster) awaitInit(p *process, replies <-chan network.Message) error {
	late := time.After(initTimeout)
	for {
		select {
		case m := <-replies:
			head, _, err := network.ParseBody(m.Body)
			if err == nil && (head.InReplyTo == nil || *head.InReplyTo != 1) {
				continue // no answer to init
			}
			if err != nil || head.Type != "init_ok" {
				return fmt.Errorf("it answered init with %.300s, not with init_ok", m.Body)
			}
			return nil
		case <-p.ended:
			return fmt.Errorf("the process ended (%v) before it answered init\n%s", p.cmd.ProcessState, strings.Join(p.tails(), "\n"))
		case <-c.stop:
			return errors.New("the run is over")
		case <-late:
			return fmt.Errorf("no answer to init within %v; does the node flush its stdout?\n%s", initTimeout, strings.Join(p.tails(), "\n"))
		}
	}
}

// watch notes when a node ends by itself.
func (c *cluster) watch(n *node, p *process) {
	<-p.ended
	c.mu.Lock()
	if n.proc == p {
		n.proc = nil
	}
	c.mu.Unlock()
	if !p.killed.Load() {
		c.find(history.Finding{Node: n.name, Kind: history.Exited, Tail: p.tails(),
			Text: fmt.Sprintf("%s ended by itself: %v. A node must run until it is killed.", n.name, p.cmd.ProcessState)})
	}
}

// strike carries out a fault.
func (c *cluster) strike(f *interpreter.Fault) {
	switch f.F {
	case "start-partition", "stop-partition":
		c.mu.Lock()
		c.Network.Block(f.Cut)
		c.mu.Unlock()
	case "kill":
		for _, p := range c.down(f.Nodes) {
			if err := p.kill(); err != nil {
				c.Log(err.Error())
			}
		}
	case "start":
		var down []string
		c.mu.Lock()
		for _, name := range c.Nodes {
			if c.nodes[name].proc == nil {
				down = append(down, name)
			}
		}
		c.mu.Unlock()
		if err := c.startAll(down); err != nil {
			c.find(history.Finding{Kind: history.NotAnswering, Node: strings.Join(down, ","), Text: "after a kill: " + err.Error()})
		}
	case "pause":
		c.signal(f.Nodes, syscall.SIGSTOP)
	case "resume":
		c.signal(c.Nodes, syscall.SIGCONT)
	}
}

// down takes the processes away from nodes that are to be killed: nothing is written to them any more.
func (c *cluster) down(names []string) []*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*process
	for _, name := range names {
		if n := c.nodes[name]; n.proc != nil {
			n.proc.killed.Store(true)
			all = append(all, n.proc)
			n.proc = nil
		}
	}
	return all
}

func (c *cluster) signal(names []string, s syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		if p := c.nodes[name].proc; p != nil {
			p.signal(s)
		}
	}
}
