package etcd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"dongne/internal/gateway"
)

const (
	lastWordsMax   = 4 << 10  // bytes kept of what a server wrote last
	statusBytesMax = 64 << 10 // of the answer about a server's state
)

// errPortTaken: another program listens where a server was to.
var errPortTaken = errors.New("port taken")

// node is one server of a cluster.
type node struct {
	name, program, dir string
	listen, advertised map[Link]string // "host:port"
	args               []string
	output             io.Writer
	client             *http.Client

	mu    sync.Mutex
	child *child // nil before the first run; guarded by mu
}

// child is one run of a server.
type child struct {
	cmd  *exec.Cmd
	last *lastWords
	done chan struct{} // closed when it is gone
	err  error         // how it ended; set before done is closed
}

func (n *node) arguments(members string, quotaBytes int64) []string {
	args := []string{
		"--name", n.name,
		"--data-dir", n.dir,
		"--listen-client-urls", "http://" + n.listen[Client],
		"--advertise-client-urls", "http://" + n.advertised[Client],
		"--listen-peer-urls", "http://" + n.listen[Peer],
		"--initial-advertise-peer-urls", "http://" + n.advertised[Peer],
		"--initial-cluster", members,
		"--initial-cluster-state", "new",
		"--heartbeat-interval", strconv.Itoa(heartbeatMillis),
		"--election-timeout", strconv.Itoa(electionMillis),
		"--logger", "zap",
		"--log-level", "warn",
	}
	if quotaBytes > 0 {
		args = append(args, "--quota-backend-bytes", strconv.FormatInt(quotaBytes, 10))
	}
	return args
}

// run starts the server. It does not wait until it serves.
func (n *node) run() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := &child{cmd: exec.Command(n.program, n.args...), last: &lastWords{to: n.output}, done: make(chan struct{})}
	c.cmd.Env = []string{"PATH=/usr/bin:/bin"} // no ETCD_ variable and no proxy may interfere
	c.cmd.Stdout, c.cmd.Stderr = c.last, c.last
	c.cmd.SysProcAttr = gateway.OwnGroup()
	c.cmd.WaitDelay = outputWait
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // Linux ends the child with the thread that started it
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("etcd: start %s: %w", n.name, err)
	}
	n.child = c
	return nil
}

// ended returns why the server does not run, or nil while it does.
func (n *node) ended() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.child == nil {
		return fmt.Errorf("etcd: %s was never started", n.name)
	}
	select {
	case <-n.child.done:
	default:
		return nil
	}
	words := n.child.last.String()
	if strings.Contains(words, "address already in use") {
		return fmt.Errorf("etcd: %s: %w", n.name, errPortTaken)
	}
	return fmt.Errorf("etcd: %s ended (%v), saying last: %s", n.name, n.child.err, words)
}

func (n *node) kill() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.child == nil {
		return nil
	}
	err := n.send(syscall.SIGKILL)
	<-n.child.done
	n.child = nil
	return err
}

func (n *node) signal(s syscall.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.child == nil {
		return fmt.Errorf("etcd: %s does not run", n.name)
	}
	return n.send(s)
}

// send signals the child; one that has ended is no error. The caller holds mu.
func (n *node) send(s syscall.Signal) error {
	err := n.child.cmd.Process.Signal(s) // refuses when the process was waited for, so no other is hit
	select {
	case <-n.child.done:
		return nil
	default:
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("etcd: signal %s: %w", n.name, err)
	}
	return nil
}

// stopped says whether no thread of the server runs any more, as far as the system tells: a signal takes effect a
// moment after it was sent.
func (n *node) stopped() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.child == nil {
		return true
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", n.child.cmd.Process.Pid))
	if err != nil {
		return true
	}
	for _, path := range threads {
		stat, err := os.ReadFile(path)
		// The state follows the name, which stands in parentheses and may hold some itself.
		if i := bytes.LastIndexByte(stat, ')'); err == nil && !bytes.HasPrefix(stat[i+1:], []byte(" T")) {
			return false
		}
	}
	return true
}

// status is what a server says of itself.
type status struct {
	Header struct {
		Member number `json:"member_id"`
	} `json:"header"`
	Leader number `json:"leader"`
	Term   number `json:"raftTerm"`
}

// number is a 64-bit integer, which the gateway writes as a string.
type number uint64

func (n *number) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(string(text), 10, 64)
	*n = number(v)
	return err
}

func (s status) leads() bool { return s.Leader != 0 && s.Leader == s.Header.Member }

// status asks the server itself, not through a relay.
func (n *node) status(ctx context.Context) (s status) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	url := "http://" + n.listen[Client] + "/v3/maintenance/status"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		return status{}
	}
	answer, err := n.client.Do(r)
	if err != nil {
		return status{}
	}
	defer answer.Body.Close()
	body := json.NewDecoder(io.LimitReader(answer.Body, statusBytesMax))
	if answer.StatusCode != http.StatusOK || body.Decode(&s) != nil {
		return status{}
	}
	return s
}

// lastWords passes on what is written to it and keeps the end of it.
type lastWords struct {
	to io.Writer

	mu   sync.Mutex
	kept []byte // guarded by mu
}

func (w *lastWords) Write(p []byte) (int, error) {
	w.mu.Lock()
	w.kept = append(w.kept, p...)
	if over := len(w.kept) - lastWordsMax; over > 0 {
		w.kept = append([]byte(nil), w.kept[over:]...)
	}
	w.mu.Unlock()
	return w.to.Write(p)
}

func (w *lastWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(bytes.TrimSpace(w.kept))
}
