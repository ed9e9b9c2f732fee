package services

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"dongne/internal/gateway"
	"dongne/maelstrom/history"
	"dongne/maelstrom/services/relay"
)

const (
	startMax = 30 * time.Second // until a started node listens
	stopMax  = 10 * time.Second // from SIGTERM to SIGKILL
)

// A cluster is the nodes of a run, real processes, and a relay on every way to one of them: from each other node, and
// from clients. The relays' addresses never change.
type cluster struct {
	names   []string
	nodes   map[string]*node
	links   map[[2]string]*relay.Relay // from, to
	doors   map[string]*relay.Relay    // to; what clients use
	stats   relay.Stats
	finding func(history.Finding)

	mu                     sync.Mutex
	starts, killed, paused int // guarded by mu
}

// A node is one process at a time, over one folder.
type node struct {
	name   string
	binary string
	env    []string
	out    *output

	mu      sync.Mutex
	addr    string          // guarded by mu: where the process listens; "" while it does not
	process gateway.Process // guarded by mu; nil while there is none
	ended   chan struct{}   // guarded by mu: closed when the process has ended
	ending  bool            // guarded by mu: we end it
}

// newCluster makes the relays, the folders and the log files; no process yet. close ends what it made, also after an error.
func newCluster(o *Options, finding func(history.Finding)) (c *cluster, err error) {
	c = &cluster{nodes: map[string]*node{}, links: map[[2]string]*relay.Relay{}, doors: map[string]*relay.Relay{}, finding: finding}
	for i := range o.NodeCount {
		c.names = append(c.names, fmt.Sprintf("n%d", i+1))
	}
	if err := os.MkdirAll(filepath.Join(o.Dir, "node-logs"), 0o755); err != nil {
		return c, err
	}
	if err := os.Mkdir(filepath.Join(o.Dir, "data"), 0o755); err != nil { // what another run left would be taken for its own
		return c, err
	}
	for _, to := range c.names {
		n := &node{name: to, binary: o.Binary}
		c.nodes[to] = n
		file, err := os.Create(filepath.Join(o.Dir, "node-logs", to+".log"))
		if err != nil {
			return c, err
		}
		n.out = newOutput(file)
		for _, from := range append([]string{""}, c.names...) {
			if from == to {
				continue
			}
			r, err := relay.Listen(n.dial, &c.stats)
			if err != nil {
				return c, err
			}
			if from == "" {
				c.doors[to] = r
			} else {
				c.links[[2]string{from, to}] = r
			}
		}
	}
	for _, n := range c.nodes {
		n.env = c.env(n.name, filepath.Join(o.Dir, "data", n.name), o.Seed)
	}
	return c, nil
}

// env is all that a node is told; nothing of our own environment gets in.
func (c *cluster) env(name, dir string, seed uint64) []string {
	var peers []string
	for _, to := range c.names {
		if to != name {
			peers = append(peers, to+"=http://"+c.links[[2]string{name, to}].Addr())
		}
	}
	return []string{
		"HOST=127.0.0.1", "PORT=0", "NODE_ID=" + name, "DATA_DIR=" + dir, "PEERS=" + strings.Join(peers, ","),
		fmt.Sprintf("PEER_SECRET=of this run alone %016x", seed), "SENDS_PER_SECOND=100000",
	}
}

// url is where clients find a node.
func (c *cluster) url(name string) string { return "http://" + c.doors[name].Addr() }

// down are the nodes that have no process.
func (c *cluster) down() []string {
	return slices.DeleteFunc(slices.Clone(c.names), func(name string) bool { return c.nodes[name].up() })
}

// start starts a node that is down, and returns when it listens.
func (c *cluster) start(ctx context.Context, name string) error {
	c.count(&c.starts)
	if err := c.nodes[name].start(ctx, c.finding); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	return nil
}

func (c *cluster) count(what *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*what++
}

// kill is kill -9. It returns whom it hit.
func (c *cluster) kill(names []string) []string {
	hit := []string{}
	for _, name := range names {
		if c.nodes[name].kill() {
			c.count(&c.killed)
			hit = append(hit, name)
		}
	}
	return hit
}

// pause stops processes in the middle of whatever they do; resume lets them go on. Both return whom they hit.
func (c *cluster) pause(names []string) []string {
	hit := c.signal(names, syscall.SIGSTOP)
	for range hit {
		c.count(&c.paused)
	}
	return hit
}

func (c *cluster) resume() []string { return c.signal(c.names, syscall.SIGCONT) }

func (c *cluster) signal(names []string, signal syscall.Signal) []string {
	hit := []string{}
	for _, name := range names {
		if c.nodes[name].signal(signal) {
			hit = append(hit, name)
		}
	}
	return hit
}

// delay holds every byte to and from some nodes; nobody's for no time.
func (c *cluster) delay(d time.Duration, hit func(node string) bool) {
	during := func(yes bool) time.Duration {
		if yes {
			return d
		}
		return 0
	}
	for link, r := range c.links {
		r.Delay(during(hit(link[0]) || hit(link[1])))
	}
	for to, r := range c.doors {
		r.Delay(during(hit(to)))
	}
}

// close ends the processes as an operator does, and then the relays and logs.
func (c *cluster) close() {
	var stopping sync.WaitGroup
	for _, n := range c.nodes {
		stopping.Go(func() { n.stop(c.finding) })
	}
	stopping.Wait()
	for _, r := range c.links {
		r.Close()
	}
	for _, r := range c.doors {
		r.Close()
	}
	for _, n := range c.nodes {
		if n.out != nil {
			n.out.file.(io.Closer).Close()
		}
	}
}

var errDown = errors.New("the node is down")

// dial connects to the process, wherever it listens now.
func (n *node) dial(ctx context.Context) (net.Conn, error) {
	n.mu.Lock()
	addr := n.addr
	n.mu.Unlock()
	if addr == "" {
		return nil, errDown
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

func (n *node) up() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process != nil
}

// start runs the process once more, and returns when it listens.
func (n *node) start(ctx context.Context, finding func(history.Finding)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startMax, fmt.Errorf("it does not listen within %v", startMax))
	defer cancel()
	listening := make(chan string, 1)
	n.out.expect(func(addr string) { listening <- addr })
	ended := make(chan struct{})
	begun := make(chan error, 1)
	go func() {
		defer close(ended)
		runtime.LockOSThread() // the kernel ties the process' life to this thread, see gateway.Exec
		defer runtime.UnlockOSThread()
		process, err := gateway.Exec(n.binary, n.env, n.out, n.out)
		if err == nil {
			n.began(process, ended)
		}
		if begun <- err; err == nil {
			n.end(process.Wait(), finding)
		}
	}()
	if err := <-begun; err != nil {
		return err
	}
	select {
	case addr := <-listening:
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.process != nil {
			n.addr = addr
		}
		return nil
	case <-ended:
		return errors.New("it ended before it listened")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (n *node) began(process gateway.Process, ended chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.process, n.ended, n.ending = process, ended, false
}

// end notes that the process has ended, and complains if nobody told it to.
func (n *node) end(err error, finding func(history.Finding)) {
	n.mu.Lock()
	ending := n.ending
	n.process, n.addr = nil, ""
	n.mu.Unlock()
	if ending {
		return
	}
	how := "with exit code 0"
	if err != nil {
		how = err.Error()
	}
	finding(history.Finding{Node: n.name, Kind: history.Exited, Tail: n.out.last(),
		Text: fmt.Sprintf("%s ended by itself: %s; its last lines say more", n.name, how)})
}

// kill returns when the process has ended; false if there was none.
func (n *node) kill() bool {
	process, ended := n.doom()
	if process == nil {
		return false
	}
	process.Kill() // it fails only if the process has just ended by itself
	<-ended
	return true
}

// doom marks the process as one that we end.
func (n *node) doom() (gateway.Process, chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process != nil {
		n.ending, n.addr = true, ""
	}
	return n.process, n.ended
}

func (n *node) signal(signal syscall.Signal) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process != nil && syscall.Kill(-n.process.Pid(), signal) == nil
}

// stop asks the process to end, and kills it if it does not.
func (n *node) stop(finding func(history.Finding)) {
	process, ended := n.doom()
	if process == nil {
		return
	}
	process.Terminate()
	select {
	case <-ended:
	case <-time.After(stopMax):
		process.Kill()
		<-ended
		finding(history.Finding{Node: n.name, Kind: history.NotAnswering, Tail: n.out.last(),
			Text: fmt.Sprintf("%s did not end within %v of SIGTERM, and was killed", n.name, stopMax)})
	}
}
