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
	// reviveEvery is the wait before a node is started once more that ended before it listened, as a supervisor has it.
	reviveEvery = 300 * time.Millisecond
)

// A cluster is the nodes of a run, real processes, and a relay on every way to one of them: from each other node, and
// from clients. The relays' addresses never change. With a storage the servers of that belong to it.
type cluster struct {
	names   []string
	nodes   map[string]*node
	links   map[[2]string]*relay.Relay // from, to
	doors   map[string]*relay.Relay    // to; what clients use
	storage *storage                   // nil: each node has its own files
	dir     string
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
	revival *revival        // guarded by mu; nil while nobody tries to start it again
}

// A revival starts a node again and again until it listens.
type revival struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended
}

// newCluster makes the relays, the folders and the log files, and starts the storage; no process of the service yet. close
// ends what it made, also after an error.
func newCluster(ctx context.Context, o *Options, finding func(history.Finding)) (c *cluster, err error) {
	c = &cluster{nodes: map[string]*node{}, links: map[[2]string]*relay.Relay{}, doors: map[string]*relay.Relay{}, dir: o.Dir, finding: finding}
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
		if err := c.add(to, o.Binary, subjects()[o.Workload].peers); err != nil {
			return c, err
		}
	}
	if o.Store == etcdStore {
		err = c.startStorage(ctx)
	}
	return c, err
}

// add makes what a node has for all its life.
func (c *cluster) add(name, binary string, peers bool) error {
	n := &node{name: name, binary: binary}
	c.nodes[name] = n
	file, err := c.logFile(name)
	if err != nil {
		return err
	}
	n.out = newOutput(file)
	if c.doors[name], err = relay.Listen(n.dial, &c.stats); err != nil {
		return err
	}
	for _, from := range c.names {
		if from == name || !peers {
			continue
		}
		if c.links[[2]string{from, name}], err = relay.Listen(n.dial, &c.stats); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) logFile(name string) (*os.File, error) {
	return os.Create(filepath.Join(c.dir, "node-logs", name+".log"))
}

// env is what every service is told; nothing of our own environment gets in.
func (c *cluster) env(name string) []string {
	env := []string{"HOST=127.0.0.1", "PORT=0", "DATA_DIR=" + filepath.Join(c.dir, "data", name)}
	if c.storage != nil {
		env = append(env, "STORE=etcd://"+strings.Join(c.endpoints(name), ","))
	}
	return env
}

// peers are the other nodes and where a node finds them, "n2=http://127.0.0.1:1234".
func (c *cluster) peers(name string) []string {
	var peers []string
	for _, to := range c.names {
		if to != name {
			peers = append(peers, to+"=http://"+c.links[[2]string{name, to}].Addr())
		}
	}
	return peers
}

// groups are the nodes that the nemesis hits: those of the service, and those of its storage.
func (c *cluster) groups() [][]string {
	if c.storage == nil {
		return [][]string{c.names}
	}
	return [][]string{c.names, c.storage.names}
}

// all are the nodes of all groups.
func (c *cluster) all() []string { return slices.Concat(c.groups()...) }

// linked says whether one node ever connects to another.
func (c *cluster) linked(from, to string) bool { return c.links[[2]string{from, to}] != nil }

// url is where clients find a node.
func (c *cluster) url(name string) string { return "http://" + c.doors[name].Addr() }

// down are the nodes that have no process, and are not being started.
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

// startAll starts all that is down, and returns whom: the storage's servers first. On a storage it does not wait for them:
// what they wait for may be cut off. What has begun to start goes on when ctx ends, as it is needed then.
func (c *cluster) startAll(ctx context.Context) []string {
	ctx = context.WithoutCancel(ctx)
	if c.storage == nil {
		return c.hit(c.down(), new(int), func(name string) bool {
			err := c.start(ctx, name)
			if err != nil {
				c.finding(history.Finding{Node: name, Kind: history.Exited, Text: "after it was killed: " + err.Error(), Tail: c.nodes[name].out.last()})
			}
			return err == nil
		})
	}
	started := c.storage.launch()
	return append(started, c.hit(c.down(), new(int), func(name string) bool {
		c.nodes[name].revive(ctx, c.finding, func() { c.count(&c.starts) })
		return true
	})...)
}

// await returns when everything listens that was started; it complains of what does not in time.
func (c *cluster) await(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	if c.storage != nil {
		c.storage.await(ctx, c.finding)
	}
	for _, name := range c.names {
		n := c.nodes[name]
		for n.up() && !n.listens() && pauseFor(ctx, againMin) {
		}
		if n.up() && !n.listens() {
			c.finding(history.Finding{Node: name, Kind: history.Exited, Tail: n.out.last(),
				Text: fmt.Sprintf("%s does not listen within %v of the end of all faults; its last lines say more", name, startMax)})
		}
	}
}

func (c *cluster) count(what *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*what++
}

// kill is kill -9. It returns whom it hit.
func (c *cluster) kill(names []string) []string {
	return c.hit(names, &c.killed, func(name string) bool {
		if server, of := c.server(name); of {
			return c.storage.kill(server)
		}
		return c.nodes[name].kill()
	})
}

// pause stops processes in the middle of whatever they do; resume lets them go on. Both return whom they hit.
func (c *cluster) pause(names []string) []string {
	return c.hit(names, &c.paused, c.signal(syscall.SIGSTOP))
}

func (c *cluster) resume() []string { return c.hit(c.all(), new(int), c.signal(syscall.SIGCONT)) }

func (c *cluster) signal(signal syscall.Signal) func(name string) bool {
	return func(name string) bool {
		if server, of := c.server(name); of {
			return c.storage.signal(server, signal)
		}
		return c.nodes[name].signal(signal)
	}
}

// hit does something to some nodes, and counts and returns those that it hit.
func (c *cluster) hit(names []string, counter *int, do func(name string) bool) []string {
	hit := []string{}
	for _, name := range names {
		if do(name) {
			c.count(counter)
			hit = append(hit, name)
		}
	}
	return hit
}

// server is the number of a server of the storage; false for another node.
func (c *cluster) server(name string) (number int, of bool) {
	if c.storage == nil {
		return 0, false
	}
	number = slices.Index(c.storage.names, name)
	return number, number >= 0
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

// stop ends the service's processes as an operator does.
func (c *cluster) stop() {
	var stopping sync.WaitGroup
	for _, n := range c.nodes {
		stopping.Go(func() { n.stop(c.finding) })
	}
	stopping.Wait()
}

// close ends the processes, and then the relays and logs.
func (c *cluster) close() {
	c.stop()
	if c.storage != nil {
		c.storage.close()
	}
	for _, r := range c.links {
		if r != nil { // it could not be made
			r.Close()
		}
	}
	for _, r := range c.doors {
		if r != nil {
			r.Close()
		}
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
	return n.process != nil || n.revival != nil
}

func (n *node) listens() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addr != ""
}

// revive starts a node that is down until it listens, is killed, or ctx ends: while its storage does not answer, a process
// may well end by itself, and somebody starts it again. attempt is told of each.
func (n *node) revive(ctx context.Context, finding func(history.Finding), attempt func()) {
	ctx, cancel := context.WithCancel(ctx)
	r := &revival{cancel, make(chan struct{})}
	n.mu.Lock()
	n.revival = r
	n.mu.Unlock()
	go func() {
		defer close(r.done)
		defer cancel()
		for {
			attempt()
			if n.start(ctx, finding) == nil || ctx.Err() != nil {
				break
			}
			n.finish()
			if !pauseFor(ctx, reviveEvery) {
				break
			}
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.revival = nil
	}()
}

// leave ends a revival.
func (n *node) leave() {
	n.mu.Lock()
	r := n.revival
	n.mu.Unlock()
	if r != nil {
		r.cancel()
		<-r.done
	}
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
	ending := n.ending || n.revival != nil && n.addr == ""
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
	n.leave()
	return n.finish()
}

// finish kills what process there is.
func (n *node) finish() bool {
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
	n.leave()
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
