package stream

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The benchmarks' clients live in a process of their own, so that only the server's side is measured: the test binary
// run again with clientEnv set.
const clientEnv = "STREAM_TEST_CLIENT"

func TestMain(m *testing.M) {
	if args := os.Getenv(clientEnv); args != "" {
		addr, streams, _ := strings.Cut(args, " ")
		n, _ := strconv.Atoi(streams)
		if err := client(addr, n); err != nil {
			fmt.Fprintln(os.Stderr, "client:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// client opens n streams, reads their response heads, says so by one 8-byte number (0) on stdout, and then counts the
// line ends that it reads: each new total follows as 8 bytes, at most one a millisecond. It ends with its stdin.
func client(addr string, n int) error {
	epoll, err := syscall.EpollCreate1(0)
	if err != nil {
		return err
	}
	for range n {
		fd, err := openStream(addr)
		if err != nil {
			return err
		}
		event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
		if err := syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
			return err
		}
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	report := func(total int) { os.Stdout.Write(binary.LittleEndian.AppendUint64(nil, uint64(total))) }
	report(0)
	events, buf := make([]syscall.EpollEvent, 256), make([]byte, 256<<10)
	total, said, at := 0, 0, time.Now()
	for {
		k, _ := syscall.EpollWait(epoll, events, 1)
		for _, e := range events[:max(k, 0)] {
			got, _ := syscall.Read(int(e.Fd), buf)
			if got <= 0 {
				return fmt.Errorf("stream %d ended", e.Fd)
			}
			total += bytes.Count(buf[:got], []byte{'\n'})
		}
		if now := time.Now(); total > said && (k <= 0 || now.Sub(at) >= time.Millisecond) {
			report(total)
			said, at = total, now
		}
	}
}

// openStream returns the descriptor of a stream whose response head is read.
func openStream(addr string) (int, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	one := make([]byte, 1)
	for end := 0; end < 4; {
		if _, err := io.ReadFull(nc, one); err != nil {
			return 0, err
		}
		if one[0] == "\r\n"[end%2] {
			end++
		} else {
			end = 0
		}
	}
	f, err := nc.(*net.TCPConn).File()
	if err != nil {
		return 0, err
	}
	return syscall.Dup(int(f.Fd()))
}

// crowd is a client process seen from here.
type crowd struct {
	cmd   *exec.Cmd
	stdin io.Closer
	mu    sync.Mutex
	grown *sync.Cond
	lines int   // guarded by mu
	err   error // guarded by mu
}

func startCrowd(b testing.TB, addr string, n int) *crowd {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", clientEnv, addr, n))
	cmd.Stderr = os.Stderr
	stdin, _ := cmd.StdinPipe()
	stdout, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	w := &crowd{cmd: cmd, stdin: stdin}
	w.grown = sync.NewCond(&w.mu)
	totals := bufio.NewReader(stdout)
	var total [8]byte
	if _, err := io.ReadFull(totals, total[:]); err != nil {
		b.Fatalf("client process: %v", err)
	}
	go func() {
		for {
			_, err := io.ReadFull(totals, total[:])
			w.mu.Lock()
			w.err = err
			w.lines = int(binary.LittleEndian.Uint64(total[:]))
			w.mu.Unlock()
			w.grown.Broadcast()
			if err != nil {
				return
			}
		}
	}()
	return w
}

// wait returns when the crowd has read so many lines.
func (w *crowd) wait(lines int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.lines < lines && w.err == nil {
		w.grown.Wait()
	}
	return w.err
}

func (w *crowd) stop() {
	w.stdin.Close()
	w.cmd.Wait()
}

const (
	benchPublishers = 8
	benchStreams    = 1000
	linesPerEvent   = 4
)

// benchFrame is an event of 200 bytes and linesPerEvent lines.
var benchFrame = AppendEvent(nil, "0123456789", "message", bytes.Repeat([]byte{'x'}, 200-15-15-8))

// fanOut publishes for about d from eight goroutines, which together are at most ahead events further than what is read,
// and returns deliveries per second.
func fanOut(b *testing.B, w *crowd, d time.Duration, ahead int, publish func(publisher int)) float64 {
	b.Helper()
	var mu sync.Mutex
	published := 0
	begin := time.Now()
	var publishers sync.WaitGroup
	for i := range benchPublishers {
		publishers.Go(func() {
			for time.Since(begin) < d {
				mu.Lock()
				published++
				read := published - ahead
				mu.Unlock()
				if err := w.wait(read * benchStreams * linesPerEvent); err != nil {
					b.Error(err)
					return
				}
				publish(i)
			}
		})
	}
	publishers.Wait()
	if err := w.wait(published * benchStreams * linesPerEvent); err != nil {
		b.Error(err)
	}
	return float64(published*benchStreams) / time.Since(begin).Seconds()
}

// BenchmarkFanOut measures deliveries per second: eight publishers, 1,000 streams that get everything, frames of 200
// bytes, in one topic and in a topic for each publisher, beside the usual way. Then with publishers that each wait until
// all have read their event before they publish the next, so that windows hold little.
func BenchmarkFanOut(b *testing.B) {
	const d = 3 * time.Second
	const many = 1000
	one := func(int) Topic { return "room" }
	each := func(publisher int) Topic { return Topic(strconv.Itoa(publisher)) }
	for b.Loop() {
		hub, naive := benchHub(b, d, many, one), benchNaive(b, d, many)
		b.ReportMetric(hub, "deliveries/s")
		b.ReportMetric(benchHub(b, d, many, each), "deliveries-8-topics/s")
		b.ReportMetric(naive, "deliveries-naive/s")
		b.ReportMetric(hub/naive, "times-naive")
		b.ReportMetric(benchHub(b, d, benchPublishers, one), "deliveries-waiting/s")
		b.ReportMetric(benchNaive(b, d, benchPublishers), "deliveries-naive-waiting/s")
	}
}

func benchHub(b *testing.B, d time.Duration, ahead int, topic func(publisher int) Topic) float64 {
	h := New(context.Background(), Config{})
	defer h.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := h.Accept(w, r, nil)
		if err != nil {
			b.Error(err)
			return
		}
		for i := range benchPublishers {
			h.Subscribe(c, topic(i))
		}
		c.Uncork(nil)
	}))
	defer srv.Close()
	w := startCrowd(b, srv.Listener.Addr().String(), benchStreams)
	defer w.stop()
	before, busy := h.Stats(), cpu()
	rate := fanOut(b, w, d, ahead, func(i int) { h.Publish([]Event{{topic(i), benchFrame}}) })
	after := h.Stats()
	if after.Slow > 0 {
		b.Errorf("%d streams cut", after.Slow)
	}
	deliveries := after.Deliveries - before.Deliveries
	writes := after.Writes - before.Writes
	b.Logf("at most %d ahead: %.0f deliveries/s, %.4f writes per delivery, %d flushes, %v of CPU per write", ahead, rate,
		float64(writes)/float64(deliveries), after.Flushes-before.Flushes, (cpu()-busy)/time.Duration(writes))
	return rate
}

// benchNaive is the usual way: net/http's goroutine per stream, a channel, a Flush per message.
func benchNaive(b *testing.B, d time.Duration, ahead int) float64 {
	var mu sync.Mutex
	var streams []chan []byte
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		frames := make(chan []byte, 256)
		mu.Lock()
		streams = append(streams, frames)
		mu.Unlock()
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Transfer-Encoding", "identity") // no chunks: the client counts lines
		flusher := w.(http.Flusher)
		flusher.Flush()
		for f := range frames {
			w.Write(f)
			flusher.Flush()
		}
	}))
	defer srv.Close()
	w := startCrowd(b, srv.Listener.Addr().String(), benchStreams)
	rate := fanOut(b, w, d, ahead, func(int) {
		mu.Lock()
		defer mu.Unlock()
		for _, s := range streams {
			s <- benchFrame
		}
	})
	w.stop()
	for _, s := range streams {
		close(s)
	}
	b.Logf("at most %d ahead: %.0f deliveries/s the usual way", ahead, rate)
	return rate
}

// cpu is the processor time that this process has used.
func cpu() time.Duration {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkIdle measures what an idle stream costs the server: heap and stacks as the runtime sees them, and resident
// memory as the kernel does, after 5,000 streams were opened, with one topic each and with fifty of 5,000.
func BenchmarkIdle(b *testing.B) {
	for b.Loop() {
		inUse, rss := benchIdle(b, 1)
		b.ReportMetric(inUse/1024, "heap+stack-KiB/stream")
		b.ReportMetric(rss/1024, "rss-KiB/stream")
		inUse, rss = benchIdle(b, 50)
		b.ReportMetric(inUse/1024, "heap+stack-KiB/stream-50-topics")
		b.ReportMetric(rss/1024, "rss-KiB/stream-50-topics")
	}
}

// benchIdle returns bytes per stream.
func benchIdle(b *testing.B, topics int) (inUse, rss float64) {
	const streams = 5000
	h := New(context.Background(), Config{})
	defer h.Close()
	var opened atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := h.Accept(w, r, nil)
		if err != nil {
			b.Error(err)
			return
		}
		var mine []Topic
		for i := range topics {
			mine = append(mine, Topic(fmt.Sprintf("room-%015d", (int(opened.Add(1))*7+i)%streams)))
		}
		h.Subscribe(c, mine...)
		c.Uncork(nil)
	}))
	defer srv.Close()
	inUseBefore, rssBefore := memory()
	w := startCrowd(b, srv.Listener.Addr().String(), streams)
	defer w.stop()
	inUseAfter, rssAfter := memory()
	if n := h.Stats().Streams; n != streams {
		b.Fatalf("%d streams open, want %d", n, streams)
	}
	return float64(inUseAfter-inUseBefore) / streams, float64(rssAfter-rssBefore) / streams
}

// memory returns the bytes of heap and stack spans in use, and the resident set.
func memory() (inUse, rss int) {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	statm, _ := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(statm))
	pages, _ := strconv.Atoi(fields[1])
	return int(m.HeapInuse + m.StackInuse + m.MSpanInuse + m.GCSys), pages * os.Getpagesize()
}
