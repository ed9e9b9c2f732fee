// Package etcd runs real etcd servers on the loopback interface, for tests and for the harness: one server or a cluster
// of three, which can be killed, restarted, paused and resumed one by one. Everything is written to disk and synced as
// in production; only the timeouts are shorter, since loopback is fast.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	heartbeatMillis = 100  // between the leader's heartbeats
	electionMillis  = 1000 // without a heartbeat, after which an election begins
	startsMax       = 5    // attempts to find free ports
	pollInterval    = 20 * time.Millisecond
	statusTimeout   = 500 * time.Millisecond // of one question to one server
	outputWait      = time.Second            // how long the output of an ended server is still read
)

// Find returns the path of the etcd program, or an error that says how to get it.
func Find() (string, error) {
	path, err := exec.LookPath("etcd")
	if err != nil {
		return "", errors.New("etcd: no program of that name is in PATH (Debian: apt-get install etcd-server)")
	}
	return path, nil
}

// Link is a way into a server.
type Link string

const (
	Client Link = "client" // from programs that store something
	Peer   Link = "peer"   // from the other servers
)

// Config says what Start starts.
type Config struct {
	Dir    string    // of the data: one directory in it per server
	Nodes  int       // 1 or 3; 0 is 1
	Output io.Writer // of the servers' own logs, in whole writes one at a time; nil discards them
	// Program is the path of etcd; empty: Find.
	Program string
	// QuotaBytes bounds the database, beyond which etcd refuses writes; 0: etcd's default of 2 GB.
	QuotaBytes int64
	// Advertise, if set, is called once per server and link before the servers start. It returns the address
	// ("host:port") at which others reach what listens on listen, a relay in front of it for instance.
	Advertise func(node int, link Link, listen string) (string, error)
}

// Cluster is a running cluster. Its nodes count from 0. Its methods may be called by any number of goroutines.
type Cluster struct {
	nodes []*node
}

// Start starts the servers and returns when there is a leader and every server answers. ctx bounds the start alone.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	if config.Nodes == 0 {
		config.Nodes = 1
	}
	if config.Nodes != 1 && config.Nodes != 3 {
		return nil, fmt.Errorf("etcd: a cluster of %d servers, want 1 or 3", config.Nodes)
	}
	if config.Program == "" {
		path, err := Find()
		if err != nil {
			return nil, err
		}
		config.Program = path
	}
	output := &shared{w: config.Output}
	var failures []error
	for attempt := range startsMax {
		c, err := start(ctx, config, attempt, output)
		if err == nil {
			return c, nil
		}
		failures = append(failures, err)
		if !errors.Is(err, errPortTaken) || config.Advertise != nil { // relays that were made are not made again
			break
		}
	}
	return nil, fmt.Errorf("etcd: start: %w", errors.Join(failures...))
}

func start(ctx context.Context, config Config, attempt int, output io.Writer) (*Cluster, error) {
	c := &Cluster{}
	for i := range config.Nodes {
		n, err := newNode(config, i, output)
		if err != nil {
			return nil, err
		}
		n.dir = filepath.Join(config.Dir, fmt.Sprintf("etcd%d.%d", i, attempt))
		c.nodes = append(c.nodes, n)
	}
	var members []string
	for _, n := range c.nodes {
		members = append(members, n.name+"=http://"+n.advertised[Peer])
	}
	for _, n := range c.nodes {
		n.args = n.arguments(strings.Join(members, ","), config.QuotaBytes)
		if err := n.run(); err != nil {
			c.Close()
			return nil, err
		}
	}
	if err := c.await(ctx, c.nodes); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func newNode(config Config, i int, output io.Writer) (*node, error) {
	n := &node{
		name:       "n" + strconv.Itoa(i),
		program:    config.Program,
		output:     output,
		client:     &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		listen:     map[Link]string{},
		advertised: map[Link]string{},
	}
	for _, link := range []Link{Client, Peer} {
		addr, err := freePort()
		if err != nil {
			return nil, err
		}
		n.listen[link], n.advertised[link] = addr, addr
		if config.Advertise == nil {
			continue
		}
		if n.advertised[link], err = config.Advertise(i, link, addr); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// freePort returns an address whose port was free a moment ago. etcd must be told the ports of all peers before any of
// them runs, so none can listen on port 0 itself; should another program take the port first, Start begins anew.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Endpoints returns the addresses ("host:port") at which clients reach the servers, in the order of the nodes.
func (c *Cluster) Endpoints() []string {
	var all []string
	for _, n := range c.nodes {
		all = append(all, n.advertised[Client])
	}
	return all
}

// Kill ends a server by SIGKILL, and returns when it is gone. Killing one that does not run is no error.
func (c *Cluster) Kill(node int) error { return c.nodes[node].kill() }

// Restart starts a server that was killed, on the same data and ports, and returns when it answers and knows a leader:
// so not before a majority of the servers run. One that runs is killed first.
func (c *Cluster) Restart(ctx context.Context, node int) error {
	for {
		if err := c.Launch(node); err != nil {
			return err
		}
		err := c.Await(ctx, node)
		if !errors.Is(err, errPortTaken) || ctx.Err() != nil { // by somebody's outgoing connection, which passes
			return err
		}
	}
}

// Launch is Restart without waiting, so that several servers can be started before the first can answer.
func (c *Cluster) Launch(node int) error {
	if err := c.nodes[node].kill(); err != nil {
		return err
	}
	return c.nodes[node].run()
}

// Await returns when a server answers and knows a leader.
func (c *Cluster) Await(ctx context.Context, node int) error {
	return c.await(ctx, c.nodes[node:node+1])
}

// Pause stops a server by SIGSTOP, and returns when it has stopped: its connections stay open and nothing answers.
func (c *Cluster) Pause(node int) error {
	n := c.nodes[node]
	if err := n.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return poll(context.Background(), func() (bool, error) { return n.stopped(), nil })
}

// Resume lets a paused server go on.
func (c *Cluster) Resume(node int) error { return c.nodes[node].signal(syscall.SIGCONT) }

// Leader returns the node that leads, as soon as there is one: of several that think so, the one of the highest term.
func (c *Cluster) Leader(ctx context.Context) (int, error) {
	leader := -1
	err := poll(ctx, func() (bool, error) {
		var term uint64
		for i, s := range c.statuses(ctx, c.nodes) {
			if s.leads() && uint64(s.Term) > term {
				leader, term = i, uint64(s.Term)
			}
		}
		return leader >= 0, nil
	})
	if err != nil {
		return 0, fmt.Errorf("etcd: no server leads: %w", err)
	}
	return leader, nil
}

// Close kills all servers and returns when they are gone.
func (c *Cluster) Close() error {
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, n.kill())
	}
	return errors.Join(errs...)
}

// await returns when all of some servers answer and know a leader, or when one of them ends.
func (c *Cluster) await(ctx context.Context, nodes []*node) error {
	err := poll(ctx, func() (bool, error) {
		for _, n := range nodes {
			if err := n.ended(); err != nil {
				return false, err
			}
		}
		return !slices.ContainsFunc(c.statuses(ctx, nodes), func(s status) bool { return s.Leader == 0 }), nil
	})
	if err != nil {
		return fmt.Errorf("etcd: %d servers are not ready: %w", len(nodes), err)
	}
	return nil
}

// statuses asks all of some servers at once; the status of one that does not answer is zero.
func (c *Cluster) statuses(ctx context.Context, nodes []*node) []status {
	all := make([]status, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { all[i] = n.status(ctx) })
	}
	wg.Wait()
	return all
}

// poll calls done until it returns true or an error, or ctx ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// shared lets several servers write to one writer.
type shared struct {
	mu sync.Mutex
	w  io.Writer // nil discards
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.w == nil {
		return len(p), nil
	}
	return s.w.Write(p)
}
