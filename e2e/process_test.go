package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything may take before a test gives up on it. It is long, as the machine may be busy: no test
// waits for it to pass.
const patience = 60 * time.Second

// build compiles a package of the root module and returns the program's path.
func build(t *testing.T, pkg string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", program, pkg)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	return program
}

// A process is a service that runs.
type process struct {
	cmd    *exec.Cmd
	addr   string // where it listens
	output *tail
	stderr *tail // of output, what is meant for people
	ended  chan error
}

// missing skips the test, or fails it in CI, as a program is not there.
func missing(t *testing.T, program, debian string) {
	t.Helper()
	text := "no " + program + " here: install it (on Debian: apt-get install " + debian + "), or put it on the PATH"
	if os.Getenv("CI") != "" {
		t.Fatal(text)
	}
	t.Skip(text)
}

// need skips the test, or fails it in CI, where a program is not there.
func need(t *testing.T, program, debian string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		missing(t, program, debian)
	}
}

// eventually waits until something is so; it looks again and again, as nothing tells when.
func eventually(t *testing.T, what string, within time.Duration, so func() bool) {
	t.Helper()
	limit, tick := time.After(within), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// start runs a program and waits until it says where it listens. It is killed when the test ends.
func start(t *testing.T, program string, env ...string) *process {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Dir = ".." // where the gateway finds what it builds
	cmd.Env = append(os.Environ(), append([]string{"HOST=127.0.0.1", "PORT=0", "ADMIN_ADDR=off", "TMPDIR=" + t.TempDir()}, env...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that its own children end with it
	p := &process{cmd: cmd, output: &tail{}, stderr: &tail{}, ended: make(chan error, 1)}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = io.MultiWriter(p.output, p.stderr)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	listening := make(chan string, 1)
	go func() {
		p.scan(stdout, listening)
		p.ended <- cmd.Wait()
	}()
	select {
	case p.addr = <-listening:
	case err := <-p.ended:
		t.Fatalf("%s ended before it listened: %v\n%s", program, err, p.output)
	case <-time.After(patience):
		t.Fatalf("%s does not listen\n%s", program, p.output)
	}
	return p
}

// scan reads the log lines and passes on where the program itself listens, not a child whose lines it relays.
func (p *process) scan(stdout io.Reader, listening chan<- string) {
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<20)
	for said := false; lines.Scan(); {
		p.output.Write(append(lines.Bytes(), '\n'))
		var line struct{ Msg, Addr, Service, From string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" && !said && isOwn(line.Service) {
			said = true
			listening <- line.Addr
		}
	}
}

// isOwn says whether a line is the program's own: the gateway names itself, as it does its children; a service does not.
func isOwn(service string) bool { return service == "" || service == "gateway" }

// stop asks the process to end, and expects that it does so cleanly.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(t); err != nil {
		t.Errorf("asked to stop, the process ended with %v\n%s", err, p.output)
	}
}

// kill ends the process as a power cut would.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
}

func (p *process) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.ended:
		return err
	case <-time.After(patience):
		t.Fatalf("the process does not end\n%s", p.output)
		return nil
	}
}

// tail keeps the end of a process's output, for the message of a test that fails.
type tail struct {
	mu    sync.Mutex
	bytes []byte // guarded by mu
}

const tailMax = 8 << 10 // bytes

func (o *tail) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bytes = append(o.bytes, b...)
	o.bytes = o.bytes[max(0, len(o.bytes)-tailMax):]
	return len(b), nil
}

func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.bytes)
}

// A relay is an address that stays while the process behind it comes and goes. Nodes need each other's address before
// any of them runs, and a page needs the same address after its node was started again; each process takes a free port
// (PORT=0), and the relay, which listens from before the first to after the last, leads there. So no port is guessed, and
// a link between two nodes can be cut.
type relay struct {
	listener net.Listener

	mu     sync.Mutex
	target string            // guarded by mu; "" refuses every connection
	open   map[net.Conn]bool // guarded by mu
}

func newRelay(t *testing.T) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: l, open: make(map[net.Conn]bool)}
	t.Cleanup(func() {
		l.Close()
		r.lead("")
	})
	go func() {
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				go r.serve(conn)
			}
		}
	}()
	return r
}

func (r *relay) url() string { return "http://" + r.listener.Addr().String() }

// lead cuts all connections and leads new ones to target, or nowhere.
func (r *relay) lead(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = target
	for conn := range r.open {
		conn.Close()
	}
	clear(r.open)
}

func (r *relay) serve(client net.Conn) {
	defer client.Close()
	server := r.dial(client)
	if server == nil {
		return
	}
	defer server.Close()
	done := make(chan struct{}, 2)
	pass := func(to, from net.Conn) {
		io.Copy(to, from)
		to.(*net.TCPConn).CloseWrite()
		done <- struct{}{}
	}
	go pass(server, client)
	go pass(client, server)
	<-done
	<-done
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, client)
	delete(r.open, server)
}

func (r *relay) dial(client net.Conn) net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.target == "" {
		return nil
	}
	server, err := net.Dial("tcp", r.target)
	if err != nil {
		return nil
	}
	r.open[client], r.open[server] = true, true
	return server
}

// A cluster is two chat nodes.
type cluster struct {
	t       *testing.T
	program string
	nodes   map[string]*node
	isCut   bool
}

type node struct {
	*process
	front *relay // for pages
	back  *relay // for the other node
	dir   string
}

const peerSecret = "a secret that both nodes know"

// startCluster starts n1 and n2.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, program: build(t, "./chat"), nodes: make(map[string]*node)}
	for _, name := range []string{"n1", "n2"} {
		c.nodes[name] = &node{front: newRelay(t), back: newRelay(t), dir: t.TempDir()}
	}
	c.start("n1")
	c.start("n2")
	return c
}

// start starts a node that does not run, on the disk that it had.
func (c *cluster) start(name string) {
	c.t.Helper()
	other := map[string]string{"n1": "n2", "n2": "n1"}[name]
	n := c.nodes[name]
	n.process = start(c.t, c.program, "NODE_ID="+name, "PEERS="+other+"="+c.nodes[other].back.url(),
		"PEER_SECRET="+peerSecret, "DATA_DIR="+n.dir, "SENDS_PER_SECOND=10000")
	n.front.lead(n.addr)
	if !c.isCut {
		n.back.lead(n.addr)
	}
}

// cut takes the link between the nodes away, in both directions; heal gives it back.
func (c *cluster) cut() {
	c.isCut = true
	for _, n := range c.nodes {
		n.back.lead("")
	}
}

func (c *cluster) heal() {
	c.isCut = false
	for _, n := range c.nodes {
		n.back.lead(n.addr)
	}
}

// url is where a node's page is.
func (c *cluster) url(name string) string { return c.nodes[name].front.url() + "/" }
