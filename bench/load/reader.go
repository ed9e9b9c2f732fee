package load

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	readerEnv    = "DONGNE_BENCH_READER" // set: this process is a crowd's reader
	readBytes    = 256 << 10
	headBytesMax = 16 << 10 // of an answer before the streams's first text
	openers      = 16       // streams that are being opened at a time
	quiet        = 100 * time.Millisecond
	sampleEvery  = 50 // one stream in so many is checked in full
)

// Streams says what a crowd opens.
type Streams struct {
	Addr  string   // host:port
	Count int      // streams
	Rooms []string // stream i is in room i modulo their number
	// Request is what each stream sends, with {stream} and {room} to be replaced by its number and its room's name.
	Request string
	// Ready is what the server sends when the stream is open, at the end of it.
	Ready string
}

func (s *Streams) request(i int) string {
	return strings.NewReplacer("{stream}", strconv.Itoa(i), "{room}", s.Rooms[i%len(s.Rooms)]).Replace(s.Request)
}

// Checked is what a crowd has read in the end.
type Checked struct {
	Total, Slowest, Fastest int // texts: of all streams, of the stream with the fewest, with the most
	Sampled                 int // streams that were checked in full
	Errors                  []string
}

// Main is the whole program when this process was started as a crowd's reader. It belongs at the start of main, and of
// TestMain.
func Main() {
	if os.Getenv(readerEnv) == "" {
		return
	}
	if err := read(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stdout, "failed", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// reader counts the texts of all streams in one thread: a single epoll and a single buffer, whatever the server is.
type reader struct {
	fds     []int
	counts  []int // by file descriptor; -1: not a stream
	samples map[int]*sample
	total   int
	slowest int
}

// read opens the streams that the first line of in describes, says "ready", and then "at <slowest> <total> <unix ns>"
// whenever the slowest stream has advanced. "check <n>" is answered when nothing has come for a while. It ends with in.
func read(in io.Reader, out io.Writer) error {
	commands := bufio.NewReader(in)
	line, err := commands.ReadBytes('\n')
	if err != nil {
		return err
	}
	var streams Streams
	if err := json.Unmarshal(line, &streams); err != nil {
		return err
	}
	r := reader{samples: map[int]*sample{}}
	if err := r.open(&streams); err != nil {
		return err
	}
	fmt.Fprintln(out, "ready")
	checks := make(chan int)
	go func() {
		defer close(checks)
		for {
			line, err := commands.ReadString('\n')
			if err != nil {
				return
			}
			n, _ := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "check ")))
			checks <- n
		}
	}()
	return r.loop(checks, out)
}

// open opens all streams.
func (r *reader) open(s *Streams) error {
	addr, err := netip.ParseAddrPort(s.Addr)
	if err != nil {
		return err
	}
	r.fds = make([]int, s.Count)
	errs := make([]error, openers)
	var group sync.WaitGroup
	for o := range openers {
		group.Go(func() {
			for i := o; i < s.Count && errs[o] == nil; i += openers {
				r.fds[i], errs[o] = openStream(addr, s.request(i), s.Ready)
			}
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r.counts = slices.Repeat([]int{-1}, slices.Max(r.fds)+1)
	for i, fd := range r.fds {
		r.counts[fd] = 0
		if i%sampleEvery == 0 {
			r.samples[fd] = &sample{}
		}
	}
	return nil
}

// openStream connects, sends the request and reads to the end of the server's readiness.
func openStream(addr netip.AddrPort, request, ready string) (int, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	if _, err := syscall.Write(fd, []byte(request)); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	var head []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(head, []byte(ready)) {
		n, err := syscall.Read(fd, buf)
		if err != nil || n <= 0 || len(head)+n > headBytesMax {
			return 0, fmt.Errorf("the stream did not open (%v): %q", err, head)
		}
		head = append(head, buf[:n]...)
	}
	if bytes.HasPrefix(head, []byte("HTTP/")) && !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) {
		return 0, fmt.Errorf("the stream was refused: %q", head)
	}
	return fd, nil
}

// loop reads until checks is closed.
func (r *reader) loop(checks <-chan int, out io.Writer) error {
	runtime.LockOSThread()
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	for _, fd := range r.fds {
		event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
		if err := syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
			return err
		}
	}
	events, buf := make([]syscall.EpollEvent, len(r.fds)), make([]byte, readBytes)
	for {
		n, err := syscall.EpollWait(epoll, events, int(quiet.Milliseconds()))
		if err != nil && err != syscall.EINTR {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			if err := r.readSome(int(e.Fd), buf); err != nil {
				return err
			}
		}
		if n > 0 {
			r.report(out)
			continue
		}
		select {
		case n, ok := <-checks:
			if !ok {
				return nil
			}
			answer, _ := json.Marshal(r.check(n))
			fmt.Fprintf(out, "checked %s\n", answer)
		default:
		}
	}
}

func (r *reader) readSome(fd int, buf []byte) error {
	n, err := syscall.Read(fd, buf)
	if err == syscall.EINTR {
		return nil
	}
	if err != nil || n <= 0 {
		return fmt.Errorf("the server ended a stream after %d texts (%v)", r.counts[fd], err)
	}
	texts := bytes.Count(buf[:n], []byte{mark})
	r.counts[fd] += texts
	r.total += texts
	if s := r.samples[fd]; s != nil {
		s.read(buf[:n])
	}
	return nil
}

func (r *reader) report(out io.Writer) {
	slowest := r.total
	for _, fd := range r.fds {
		slowest = min(slowest, r.counts[fd])
	}
	if slowest > r.slowest {
		r.slowest = slowest
		fmt.Fprintln(out, "at", slowest, r.total, time.Now().UnixNano())
	}
}

// check says what came, when texts 0 to n-1 were published to every stream.
func (r *reader) check(n int) Checked {
	c := Checked{Total: r.total, Slowest: r.total, Sampled: len(r.samples)}
	for _, fd := range r.fds {
		c.Slowest = min(c.Slowest, r.counts[fd])
		c.Fastest = max(c.Fastest, r.counts[fd])
	}
	for _, fd := range r.fds {
		if s := r.samples[fd]; s != nil {
			if err := s.finish(n); err != nil {
				c.Errors = append(c.Errors, err.Error())
			}
		}
	}
	return c
}
