package load

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Progress is how far a crowd has come.
type Progress struct {
	Slowest int // texts that every stream has
	Total   int // texts of all streams together
	Time    time.Time
}

// Crowd is many streams, read by a process of their own: this program again.
type Crowd struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	checked chan Checked // closed with the process
	stop    func() bool

	mu       sync.Mutex
	grown    *sync.Cond     // of mu
	at       Progress       // guarded by mu
	observer func(Progress) // guarded by mu; may be nil
	err      error          // guarded by mu; why nothing more will come
}

// Open starts a crowd and returns when every stream is open. The crowd ends with ctx.
func Open(ctx context.Context, s Streams) (*Crowd, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &Crowd{cmd: exec.Command(program), checked: make(chan Checked)}
	c.grown = sync.NewCond(&c.mu)
	c.cmd.Env = append(os.Environ(), readerEnv+"=1")
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	c.stop = context.AfterFunc(ctx, func() { c.cmd.Process.Kill() })
	order, _ := json.Marshal(s)
	c.stdin.Write(append(order, '\n')) // a reader that is gone shows below
	lines := bufio.NewReader(stdout)
	first, err := lines.ReadString('\n')
	if err != nil || first != "ready\n" {
		c.stdin.Close()
		c.cmd.Wait()
		return nil, fmt.Errorf("open %d streams: %s (%v)", s.Count, strings.TrimSpace(first), err)
	}
	go c.listen(lines)
	return c, nil
}

// listen takes what the process says until it ends.
func (c *Crowd) listen(lines *bufio.Reader) {
	defer close(c.checked)
	for {
		line, err := lines.ReadString('\n')
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case err != nil:
			c.Fail(fmt.Errorf("the streams' reader is gone: %w", err))
			return
		case word == "at":
			c.advance(rest)
		case word == "checked":
			var checked Checked
			if err := json.Unmarshal([]byte(rest), &checked); err != nil {
				c.Fail(err)
				return
			}
			c.checked <- checked
		default:
			c.Fail(fmt.Errorf("read streams: %s", rest))
		}
	}
}

func (c *Crowd) advance(text string) {
	var numbers [3]int
	for i, field := range strings.Fields(text) {
		numbers[i], _ = strconv.Atoi(field) // written by reader.report
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = Progress{numbers[0], numbers[1], time.Unix(0, int64(numbers[2]))}
	if c.observer != nil {
		c.observer(c.at)
	}
	c.grown.Broadcast()
}

// Fail ends all waiting with err, now and later, unless something failed before.
func (c *Crowd) Fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	c.grown.Broadcast()
}

// Wait returns when every stream has n texts, or none will any more.
func (c *Crowd) Wait(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.at.Slowest < n && c.err == nil {
		c.grown.Wait()
	}
	return c.err
}

// Progress returns how far the crowd is.
func (c *Crowd) Progress() Progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// Observe calls f with every step from now on. f must not call the crowd.
func (c *Crowd) Observe(f func(Progress)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.observer = f
}

// Check waits until every stream has n texts and nothing more comes, and fails unless texts 0 to n-1 came on every stream
// and nothing else did. It returns what came in any case.
func (c *Crowd) Check(n int) (Checked, error) {
	if err := c.Wait(n); err != nil {
		return Checked{}, err
	}
	fmt.Fprintln(c.stdin, "check", n)
	checked, ok := <-c.checked
	switch {
	case !ok:
		return checked, c.Wait(n + 1)
	case checked.Slowest != n || checked.Fastest != n:
		return checked, fmt.Errorf("%d texts were published, and the streams got %d to %d", n, checked.Slowest, checked.Fastest)
	case len(checked.Errors) > 0:
		return checked, fmt.Errorf("%d of %d sampled streams are wrong: %s", len(checked.Errors), checked.Sampled, checked.Errors[0])
	}
	return checked, nil
}

// CPU is the time that the reader has used up.
func (c *Crowd) CPU() time.Duration {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0 // it is gone, which the next Wait says
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// Close ends the streams.
func (c *Crowd) Close() {
	c.stop()
	c.stdin.Close()
	c.cmd.Process.Kill()
	for range c.checked {
	}
	c.cmd.Wait()
}
