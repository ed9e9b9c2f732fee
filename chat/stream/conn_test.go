package stream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// choosySock takes of each write what its script says, and after that everything.
type choosySock struct {
	takes  []int
	stream []byte
	skip   int // a mutant's: how many bytes of each write are lost
	closed int
}

func (s *choosySock) write(p []byte) (int, error) {
	n := len(p)
	if len(s.takes) > 0 {
		n = min(n, s.takes[0])
		s.takes = s.takes[1:]
	}
	s.stream = append(s.stream, p[min(s.skip, n):n]...)
	if n < len(p) {
		return n, errAgain
	}
	return n, nil
}

func (s *choosySock) close(bool) { s.closed++ }

// connScript is what happens to a conn: sizes of deliveries, 0 for the socket becoming writable, -1 for a heartbeat,
// -2 for Uncork.
type connScript struct {
	steps []int
	takes []int
}

var connScripts = rapid.Custom(func(t *rapid.T) connScript {
	size := rapid.OneOf(rapid.IntRange(1, 50), rapid.IntRange(pumpBytes/3, pumpBytes*2))
	return connScript{
		rapid.SliceOfN(rapid.OneOf(size, rapid.IntRange(-2, 0)), 1, 30).Draw(t, "steps"),
		rapid.SliceOfN(rapid.OneOf(rapid.IntRange(0, 20), size), 0, 40).Draw(t, "takes"),
	}
})

// playConn checks that the socket gets, whatever it takes at a time, the head, what Uncork got, and all deliveries in
// order, each byte once, and then is closed once.
func playConn(s connScript, skip int) error {
	h := &Hub{cfg: Config{QueueBytes: 1 << 30}}
	h.retired.ready = sync.NewCond(&h.retired.mu)
	sock := &choosySock{takes: s.takes, skip: skip}
	c := &Conn{hub: h, sock: sock, corked: true}
	c.enqueue([]byte("head,"))
	var want, live []byte
	uncork := func(first string) {
		if c.corked {
			c.Uncork([]byte(first))
			want = append(append(want, "head,"+first...), live...)
			live = nil
		}
	}
	writable := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.corked && !c.closed {
			c.pump()
		}
	}
	rng := rand.New(rand.NewPCG(1, 1))
	var t tally
	for _, step := range s.steps {
		switch step {
		case 0:
			writable()
		case -1:
			if !c.corked && len(c.queue) == 0 {
				want = append(want, beatFrame...)
			}
			c.beat()
		case -2:
			uncork("first,")
		default:
			frames := make([]byte, step)
			for i := range frames {
				frames[i] = byte(rng.Uint32())
			}
			if live = append(live, frames...); !c.corked {
				want, live = append(want, live...), nil
			}
			c.deliver(frames, false, &t)
		}
	}
	uncork("")
	want = append(want, "end"...)
	c.deliver([]byte("end"), true, &t)
	sock.takes = nil
	writable()
	if !bytes.Equal(want, sock.stream) {
		return fmt.Errorf("the socket got %d bytes, want %d, or others", len(sock.stream), len(want))
	}
	if sock.closed != 1 || len(h.retired.conns) != 1 || c.queued != 0 {
		return fmt.Errorf("closed %d times, retired %d times, %d bytes left", sock.closed, len(h.retired.conns), c.queued)
	}
	return nil
}

func TestPartialWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if err := playConn(connScripts.Draw(t, "script"), 0); err != nil {
			t.Fatal(err)
		}
	})
}

// TestPartialWritesMutant: the check finds a socket that loses a byte.
func TestPartialWritesMutant(t *testing.T) {
	if playConn(connScript{steps: []int{5}}, 1) == nil {
		t.Error("a socket that loses bytes passes the check")
	}
}

// TestReplayGivesNoCredit: once the replay is written, a stream may lag by QueueBytes and no more.
func TestReplayGivesNoCredit(t *testing.T) {
	h := newHub(context.Background(), Config{QueueBytes: 100})
	sock := &choosySock{takes: []int{4 + 1000, 0}} // the head and the replay; then nothing
	c := &Conn{hub: h, sock: sock, corked: true}
	c.enqueue([]byte("head"))
	c.Uncork(make([]byte, 1000))
	var y tally
	c.deliver(make([]byte, 100), false, &y)
	if c.closed || c.queued != 100 {
		t.Fatalf("closed %v, %d bytes queued; want open and 100", c.closed, c.queued)
	}
	c.deliver(make([]byte, 1), false, &y)
	if !c.closed || h.Stats().Slow != 1 {
		t.Error("a stream that lags by 101 bytes of 100 is not cut")
	}
}

// TestWindowIsBounded: publishers that are faster than the flusher do not fill the memory, and go on when it is done.
func TestWindowIsBounded(t *testing.T) {
	h := newHub(context.Background(), Config{WindowBytes: 10})
	h.board.subscribe(&Conn{}, "a")
	frame := []byte("12345")
	const publishers, rounds = 3, 50
	for range publishers {
		go func() {
			for range rounds {
				h.Publish([]Event{{"a", frame}})
			}
		}()
	}
	for total := 0; total < publishers*rounds*len(frame); {
		<-h.wake
		var w window
		h.mu.Lock()
		h.board.take(&w)
		h.room.Broadcast()
		h.mu.Unlock()
		if total += w.bytes; w.bytes > 10 {
			t.Fatalf("a window of %d bytes, want at most 10", w.bytes)
		}
	}
}

// TestOrderUnderLoad: publishers, subscriptions and readers at the same time, on real sockets of which half are full. Each
// stream must be exactly what was published while it was subscribed, in that order, with nothing but whole heartbeats
// between.
func TestOrderUnderLoad(t *testing.T) {
	bothWays(t, func(t *testing.T, cfg Config) {
		cfg.QueueBytes = 1 << 30
		cfg.Heartbeat = heartbeatParts * time.Millisecond
		cfg.Window = time.Millisecond
		cfg.WindowBytes = 64 << 10
		r := newRig(t, cfg)
		const streams, topics, publishers, rounds = deliveriesPerTurn + 2, 5, 4, 300
		var conns [streams]*Conn
		var got [streams]strings.Builder
		var readers sync.WaitGroup
		published := make(chan struct{}) // half of the readers wait for it
		for i := range conns {
			c, client := r.start()
			conns[i] = c
			readers.Go(func() {
				if i%2 == 0 {
					<-published
				}
				io.Copy(&got[i], client.buf)
			})
		}

		var mu sync.Mutex // makes one order, which want follows
		var subscribed [streams][topics]bool
		var want [streams][]string
		var publishing sync.WaitGroup
		for p := range publishers {
			publishing.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(p), 7))
				for n := range rounds {
					mu.Lock()
					s, k := rng.IntN(streams), rng.IntN(topics)
					topic := Topic(strconv.Itoa(k))
					text := fmt.Sprintf("%d.%d %s", p, n, strings.Repeat("x", rng.IntN(4000)))
					switch rng.IntN(10) {
					case 0, 1, 2:
						r.hub.Subscribe(conns[s], topic)
						subscribed[s][k] = true
					case 3:
						r.hub.Unsubscribe(conns[s], topic)
						subscribed[s][k] = false
					case 4:
						r.hub.Send(conns[s], data(text))
						want[s] = append(want[s], text)
					default:
						r.hub.Publish([]Event{{topic, data(text)}})
						for i := range want {
							if subscribed[i][k] {
								want[i] = append(want[i], text)
							}
						}
					}
					mu.Unlock()
				}
			})
		}
		publishing.Wait()
		for _, c := range conns {
			c.End(nil)
		}
		queued := 0
		for _, c := range conns {
			c.mu.Lock()
			queued += c.queued
			c.mu.Unlock()
		}
		if queued == 0 && !cfg.portable { // there the kernel buffers more
			t.Error("no socket was ever full")
		}
		close(published)
		readers.Wait()
		for i := range got {
			events, _, err := parseSSE(got[i].String())
			if err != nil {
				t.Fatalf("stream %d: %v", i, err)
			}
			if len(events) != len(want[i]) {
				t.Errorf("stream %d got %d events, want %d", i, len(events), len(want[i]))
			}
			for j := range min(len(events), len(want[i])) {
				if events[j].Data != want[i][j] {
					t.Fatalf("stream %d: event %d is %.20q, want %.20q", i, j, events[j].Data, want[i][j])
				}
			}
		}
	})
}

// TestNothingPerStream: a stream has no goroutine, and its descriptor goes with it.
func TestNothingPerStream(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the portable way has goroutines for each stream")
	}
	descriptors := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	h := New(context.Background(), Config{})
	h.Close() // the runtime's own descriptors are open from here on
	r := newRig(t, Config{})
	r.start("warm up")
	before, open := runtime.NumGoroutine(), descriptors()
	const streams = 100
	conns := map[*Conn]bool{}
	for range streams {
		c, client := r.start("a")
		conns[c] = true
		defer client.Close()
	}
	// net/http's goroutines end on their own, after their handlers.
	for begin := time.Now(); runtime.NumGoroutine() >= before+streams/2; runtime.Gosched() {
		if time.Since(begin) > patience {
			t.Fatalf("%d goroutines with %d streams, %d before", runtime.NumGoroutine(), streams, before)
		}
	}
	if n := descriptors() - open; n < 2*streams {
		t.Fatalf("%d descriptors for %d streams and their clients: the count is wrong", n, streams)
	}
	for c := range conns {
		c.End(nil)
	}
	for range streams {
		if c := <-r.closed; !conns[c] {
			t.Fatal("onClose of a stream that is not open")
		} else {
			delete(conns, c)
		}
	}
	if n := descriptors() - open; n > streams+streams/2 {
		t.Errorf("%d descriptors are open after %d streams ended, the clients' %d among them", n, streams, streams)
	}
}
