package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"dongne/maelstrom/cluster"
)

const (
	plainEvery = 5 * time.Second // between two lines of progress where there is no terminal
	eraseLine  = "\r\x1b[K"
)

// A console prints lines for people, and on a terminal below them one that changes: how far the run is. Everything but
// that also goes to a file.
type console struct {
	terminal bool

	mu       sync.Mutex
	out      io.Writer // guarded by mu
	log      *os.File
	buffered *bufio.Writer // of log; guarded by mu
	live     bool          // a live line stands on the terminal; guarded by mu
	next     time.Duration // of the next plain line of progress; guarded by mu
}

// newConsole prints to out and to the file. While many lines are wanted there is no live one.
func newConsole(out io.Writer, file string, many bool) (*console, error) {
	log, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	c := &console{out: out, log: log, buffered: bufio.NewWriter(log), next: plainEvery}
	if f, ok := out.(*os.File); ok && !many {
		info, err := f.Stat()
		c.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	}
	return c, nil
}

func (c *console) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.buffered.Flush(), c.log.Close())
}

// line prints a line.
func (c *console) line(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.erase()
	fmt.Fprintln(c.out, text)
	fmt.Fprintf(c.buffered, "%s\t%s\n", time.Now().Format("2006-01-02 15:04:05.000"), text)
}

// erase takes the live line away. The caller holds c.mu.
func (c *console) erase() {
	if c.live {
		io.WriteString(c.out, eraseLine)
		c.live = false
	}
}

// clear takes the live line away.
func (c *console) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.erase()
}

// progress renews the live line.
func (c *console) progress(s cluster.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.out, "%s%s", eraseLine, statusLine(s))
	c.live = true
}

// sometimes prints a line of progress now and then.
func (c *console) sometimes(s cluster.Status) {
	c.mu.Lock()
	due := s.Elapsed >= c.next
	if due {
		c.next = s.Elapsed + plainEvery
	}
	c.mu.Unlock()
	if due {
		c.line(statusLine(s))
	}
}

// statusLine fits on a line of 80 characters, as a rule.
func statusLine(s cluster.Status) string {
	return fmt.Sprintf("%6.1f s %s: %d ops, %d ok, %d failed, %d unknown; %d faults, %d lost; lag %.1f ms",
		s.Elapsed.Seconds(), s.Phase, s.Invoked, s.OK, s.Failed, s.Unsure, s.Faults, s.Dropped, float64(s.Lag.Microseconds())/1000)
}

// listen serves pages until ctx ends.
func listen(ctx context.Context, out io.Writer, host string, port int, pages http.Handler) error {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "reports at http://%s (Ctrl-C ends it)\n", l.Addr())
	server := &http.Server{Handler: pages, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	ended := context.AfterFunc(ctx, func() { server.Close() })
	defer ended()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
