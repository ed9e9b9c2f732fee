package stream

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// patience ends a test that waits for something that does not come.
const patience = 20 * time.Second

// handClock moves when a test says so.
type handClock struct {
	mu     sync.Mutex
	armed  *sync.Cond
	now    time.Time
	timers map[chan time.Time]time.Time
}

func newHandClock() *handClock {
	k := &handClock{now: time.Unix(1e9, 0), timers: map[chan time.Time]time.Time{}}
	k.armed = sync.NewCond(&k.mu)
	return k
}

func (k *handClock) Now() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

func (k *handClock) At(t time.Time) <-chan time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := make(chan time.Time, 1)
	if t.After(k.now) {
		k.timers[c] = t
	} else {
		c <- k.now
	}
	k.armed.Broadcast()
	return c
}

// advance waits until somebody waits for a time within d, and moves the clock.
func (k *handClock) advance(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	to := k.now.Add(d)
	for {
		for c, t := range k.timers {
			if !t.After(to) {
				k.now = to
				delete(k.timers, c)
				c <- to
			}
		}
		if k.now.Equal(to) {
			return
		}
		k.armed.Wait()
	}
}

// rig is a hub behind a real server.
type rig struct {
	*testing.T
	hub    *Hub
	srv    *httptest.Server
	cancel context.CancelFunc
	opened chan *Conn
	closed chan *Conn // by onClose
	failed chan error // by Accept
}

// bothWays runs a test with the system's poller and with goroutines.
func bothWays(t *testing.T, test func(t *testing.T, cfg Config)) {
	t.Run("poller", func(t *testing.T) { test(t, Config{}) })
	t.Run("portable", func(t *testing.T) { test(t, Config{portable: true}) })
}

// newRig starts a hub, which ends with the test. With a hand clock there are no heartbeats unless cfg says so.
func newRig(t *testing.T, cfg Config) *rig {
	if cfg.clock != nil {
		cfg.Heartbeat = cmp.Or(cfg.Heartbeat, 1000*time.Hour)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &rig{T: t, hub: New(ctx, cfg), cancel: cancel,
		opened: make(chan *Conn, 100), closed: make(chan *Conn, 100), failed: make(chan error, 100)}
	r.srv = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("X-Test", "yes")
		c, err := r.hub.Accept(w, req, func(c *Conn) { r.closed <- c })
		if err != nil {
			r.failed <- err
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		r.opened <- c
	}))
	r.srv.Config.ErrorLog = log.New(io.Discard, "", 0) // it would tell of answers on hijacked connections
	r.srv.Start()
	t.Cleanup(func() {
		r.srv.Close()
		r.hub.Close()
	})
	return r
}

// reader is the client of a stream.
type reader struct {
	*rig
	net.Conn
	buf *bufio.Reader
}

// dial sends a request.
func (r *rig) dial(request string) *reader {
	r.Helper()
	nc, err := net.Dial("tcp", r.srv.Listener.Addr().String())
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(nc, request); err != nil {
		r.Fatal(err)
	}
	return &reader{r, nc, bufio.NewReader(nc)}
}

const request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

// open opens a stream that is subscribed and still corked.
func (r *rig) open(topics ...Topic) (*Conn, *reader) {
	r.Helper()
	client := r.dial(request)
	select {
	case c := <-r.opened:
		r.hub.Subscribe(c, topics...)
		return c, client
	case err := <-r.failed:
		r.Fatalf("Accept: %v", err)
	case <-time.After(patience):
		r.Fatal("Accept does not return")
	}
	return nil, nil
}

// start opens a stream, uncorks it, and reads the head.
func (r *rig) start(topics ...Topic) (*Conn, *reader) {
	r.Helper()
	c, client := r.open(topics...)
	c.Uncork(nil)
	client.head()
	return c, client
}

func (r *rig) publish(pairs ...string) {
	var events []Event
	for i := 0; i < len(pairs); i += 2 {
		events = append(events, Event{Topic(pairs[i]), data(pairs[i+1])})
	}
	r.hub.Publish(events)
}

func data(text string) []byte { return AppendEvent(nil, "", "", []byte(text)) }

// wantClosed waits for onClose of c.
func (r *rig) wantClosed(c *Conn) {
	r.Helper()
	select {
	case got := <-r.closed:
		if got != c {
			r.Fatal("onClose of another stream")
		}
	case <-time.After(patience):
		r.Fatal("onClose is not called")
	}
}

// head reads the response head.
func (c *reader) head() *http.Response {
	c.Helper()
	res, err := http.ReadResponse(c.buf, nil)
	if err != nil {
		c.Fatalf("read head: %v", err)
	}
	return res
}

// wants reads as many bytes as the texts, each an event's data, take, and compares them.
func (c *reader) wants(texts ...string) {
	c.Helper()
	var want string
	for _, t := range texts {
		want += string(data(t))
	}
	c.wantsBytes(want)
}

func (c *reader) wantsBytes(want string) {
	c.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c.buf, got)
	if err != nil {
		c.Fatalf("read %q, then %v; want %q", got[:n], err, want)
	}
	if string(got) != want {
		c.Fatalf("stream mismatch (-want +got)\n%s", gocmp.Diff(want, string(got)))
	}
}

// wantsEnd expects a clean end of the stream.
func (c *reader) wantsEnd() {
	c.Helper()
	if rest, err := io.ReadAll(c.buf); err != nil || len(rest) > 0 {
		c.Fatalf("read %q, %v; want a clean end", rest, err)
	}
}

func TestHead(t *testing.T) {
	bothWays(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		c, client := r.open()
		c.Uncork(AppendRetry(nil, time.Second))
		res := client.head()
		res.Header.Del("Date")
		want := http.Header{"Content-Type": {"text/event-stream"}, "Cache-Control": {"no-store"}, "X-Accel-Buffering": {"no"}, "X-Test": {"yes"}}
		if diff := gocmp.Diff(want, res.Header); diff != "" || res.StatusCode != 200 || !res.Close {
			t.Errorf("%s, close %v, headers (-want +got)\n%s", res.Status, res.Close, diff)
		}
		client.wantsBytes("retry: 1000\n\n")
	})
}

// TestCork: the head, first, what came since Accept, then live; a second Uncork is nothing.
func TestCork(t *testing.T) {
	bothWays(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		c, client := r.open("a")
		_, other := r.start("a")
		r.publish("a", "1", "a", "2")
		other.wants("1", "2") // so the corked stream was flushed to, too, or is about to be
		c.Uncork(data("replayed"))
		c.Uncork(data("again"))
		client.head()
		client.wants("replayed", "1", "2")
		r.publish("a", "3")
		client.wants("3")
	})
}

func TestCorkedStreamIsBounded(t *testing.T) {
	bothWays(t, func(t *testing.T, cfg Config) {
		cfg.QueueBytes = 100
		r := newRig(t, cfg)
		c, client := r.open("a")
		r.publish("a", strings.Repeat("x", 100))
		r.wantClosed(c)
		c.Uncork(data("late"))
		if n, err := io.Copy(io.Discard, client.buf); n > 0 {
			t.Errorf("read %d bytes of a stream that was cut, %v", n, err)
		}
		if s := r.hub.Stats(); s.Slow != 1 || s.Streams != 0 || s.Topics != 0 {
			t.Errorf("Stats() = %+v, want one slow stream and none open", s)
		}
	})
}

// TestReplayIsNotLag: what is given to Uncork may be longer than what a stream may lag.
func TestReplayIsNotLag(t *testing.T) {
	bothWays(t, func(t *testing.T, cfg Config) {
		cfg.QueueBytes = 1000
		r := newRig(t, cfg)
		c, client := r.open("a")
		replay := strings.Repeat("x", 16<<20) // more than the kernel takes
		c.Uncork(data(replay))
		r.publish("a", "live")
		_, other := r.start("b")
		r.publish("b", "flushed")
		other.wants("flushed")
		client.head()
		client.wants(replay, "live")
	})
}

// TestWindow: an event after a pause is flushed at once, the next ones together, each stream with one write call.
func TestWindow(t *testing.T) {
	clock := newHandClock()
	r := newRig(t, Config{clock: clock, Window: time.Second})
	_, one := r.start("a")
	_, two := r.start("a", "b")
	r.publish("a", "first")
	one.wants("first")
	two.wants("first")
	before := r.hub.Stats()
	for begin := time.Now(); before.Deliveries < 2; before = r.hub.Stats() { // counted a moment after it was read
		if time.Since(begin) > patience {
			t.Fatalf("%d deliveries were counted, want 2", before.Deliveries)
		}
		runtime.Gosched()
	}
	for range 50 {
		r.publish("a", "a")
		r.publish("b", "b")
	}
	clock.advance(time.Second)
	for range 50 {
		one.wants("a")
		two.wants("a", "b")
	}
	r.publish("a", "last")
	clock.advance(time.Second)
	one.wants("last")
	two.wants("last")
	after := r.hub.Stats() // the flush before "last" is counted
	if n := after.Flushes - before.Flushes; n < 1 || n > 3 {
		t.Errorf("%d flushes", n)
	}
	r.hub.Close()
	after = r.hub.Stats()
	if n := after.Writes - before.Writes; n != 4 {
		t.Errorf("%d write calls for two windows and two streams, want 4", n)
	}
	if n := after.Deliveries - before.Deliveries; n != 152 {
		t.Errorf("%d deliveries, want 152", n)
	}
}

// TestWindowMiddle: what a subscription that begins or ends inside a window gets.
func TestWindowMiddle(t *testing.T) {
	clock := newHandClock()
	r := newRig(t, Config{clock: clock, Window: time.Second})
	c, client := r.start("a")
	r.publish("a", "0")
	client.wants("0")
	r.publish("b", "before", "a", "1")
	r.hub.Subscribe(c, "b", "b")
	r.publish("b", "2")
	r.hub.Send(c, data("3"))
	r.hub.Unsubscribe(c, "a", "none")
	r.publish("a", "after", "b", "4")
	c.End(data("5"))
	r.publish("b", "after the end")
	r.hub.Subscribe(c, "a")
	r.hub.Send(c, data("after the end"))
	clock.advance(time.Second)
	client.wants("1", "2", "3", "4", "5")
	client.wantsEnd()
	r.wantClosed(c)
}

// TestFullWindow: a publisher that is ahead by WindowBytes is flushed without waiting for the window's end, and the
// next publisher waits for that flush, not for a reader.
func TestFullWindow(t *testing.T) {
	clock := newHandClock()
	r := newRig(t, Config{clock: clock, Window: time.Hour, WindowBytes: 10, QueueBytes: 64 << 20})
	stalled, _ := r.start("a")
	_, client := r.start("a")
	r.publish("a", "0")
	client.wants("0")
	big := strings.Repeat("x", 256<<10)
	for range 80 { // more than the kernel takes
		r.publish("a", big)
		client.wants(big)
	}
	stalled.mu.Lock()
	queued := stalled.queued
	stalled.mu.Unlock()
	if queued == 0 {
		t.Error("nothing is queued for a reader that does not read")
	}
}

// TestSlowReader: a reader that lags is cut, by itself, with a prefix of its stream, and the others notice nothing.
func TestSlowReader(t *testing.T) {
	bothWays(t, func(t *testing.T, cfg Config) {
		cfg.QueueBytes = 256 << 10
		r := newRig(t, cfg)
		slow, stalled := r.start("a")
		_, healthy := r.start("a")
		var want strings.Builder
		frame := strings.Repeat("y", 100_000)
		for i := 0; r.hub.Stats().Slow == 0; i++ {
			if i > 1000 {
				t.Fatal("100 MB for a reader that does not read, and it is not cut")
			}
			text := fmt.Sprint(i, frame)
			r.publish("a", text)
			healthy.wants(text)
			want.Write(data(text))
		}
		r.wantClosed(slow)
		got, err := io.ReadAll(stalled.buf)
		if err == nil {
			t.Error("the cut stream ends as if it were complete")
		}
		if !strings.HasPrefix(want.String(), string(got)) {
			t.Error("the cut stream is no prefix of what was published")
		}
		r.publish("a", "on")
		healthy.wants("on")
	})
}

// TestClientGoes: however a client ends, onClose is called once and its subscriptions are gone.
func TestClientGoes(t *testing.T) {
	for name, leave := range map[string]func(c *reader){
		"close":      func(c *reader) { c.Conn.Close() },
		"half-close": func(c *reader) { c.Conn.(*net.TCPConn).CloseWrite() },
		"reset": func(c *reader) {
			c.Conn.(*net.TCPConn).SetLinger(0)
			c.Conn.Close()
		},
		"too much": func(c *reader) { c.Write(make([]byte, clientBytesMax+1)) },
	} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, cfg Config) {
				r := newRig(t, cfg)
				corked, leaver := r.open("a")
				leave(leaver)
				r.wantClosed(corked)
				c, leaver := r.start("a", "b")
				_, stays := r.start("a")
				leave(leaver)
				r.wantClosed(c)
				r.publish("a", "after", "b", "nobody")
				r.hub.Send(c, data("nobody"))
				c.End(nil)
				r.hub.Subscribe(c, "c")
				r.hub.Unsubscribe(c, "a")
				stays.wants("after")
				if s := r.hub.Stats(); s.Streams != 1 || s.Topics != 1 || s.Slow != 0 {
					t.Errorf("Stats() = %+v, want one stream and one topic", s)
				}
				r.hub.Close()
				if n := len(r.closed); n != 1 {
					t.Errorf("onClose called %d times, want once, for the stream that stayed", n)
				}
			})
		})
	}
}

// TestClientTalks: a little from the client is discarded.
func TestClientTalks(t *testing.T) {
	bothWays(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		_, client := r.start("a")
		client.Write(make([]byte, clientBytesMax))
		r.publish("a", "1")
		client.wants("1")
	})
}

// TestShutdown: every stream gets what was published and the last event, corked ones as soon as they are uncorked, and
// new ones are refused.
func TestShutdown(t *testing.T) {
	bothWays(t, func(t *testing.T, cfg Config) {
		cfg.Last = AppendEvent(nil, "", "bye", nil)
		cfg.Drain = patience
		r := newRig(t, cfg)
		c, live := r.start("a")
		corked, late := r.open("a")
		ended, gone := r.open("a")
		ended.End(data("ended before"))
		r.publish("a", "1")
		r.cancel()
		live.wants("1")
		live.wantsBytes(string(cfg.Last))
		live.wantsEnd()
		r.wantClosed(c)
		r.publish("a", "nobody")
		r.hub.Send(corked, data("nobody"))
		r.dial(request)
		if err := <-r.failed; !errors.Is(err, ErrClosed) {
			t.Errorf("Accept = %v, want ErrClosed", err)
		}
		corked.Uncork(nil)
		late.head()
		late.wants("1")
		late.wantsBytes(string(cfg.Last))
		late.wantsEnd()
		r.wantClosed(corked)
		ended.Uncork(nil)
		gone.head()
		gone.wants("ended before")
		gone.wantsEnd()
		r.hub.Close()
		r.hub.Close()
		if s := r.hub.Stats(); s.Streams != 0 || s.Topics != 0 {
			t.Errorf("Stats() = %+v, want nothing open", s)
		}
	})
}

// TestShutdownIsBounded: neither a stalled reader nor a handler that never uncorks holds the end longer than Drain.
func TestShutdownIsBounded(t *testing.T) {
	for _, portable := range []bool{false, true} {
		clock := newHandClock()
		r := newRig(t, Config{clock: clock, portable: portable, Drain: time.Minute, QueueBytes: 64 << 20})
		stalled, _ := r.start("a")
		r.publish("a", strings.Repeat("z", 16<<20))
		corked, _ := r.open("a")
		r.cancel()
		clock.advance(time.Minute)
		r.hub.Close()
		if got := []*Conn{<-r.closed, <-r.closed}; !(got[0] == stalled && got[1] == corked || got[0] == corked && got[1] == stalled) {
			t.Error("onClose of other streams")
		}
	}
}

// TestShutdownDuringAccept: the hub ends between the two halves of Accept, and waits for it no longer than Drain.
func TestShutdownDuringAccept(t *testing.T) {
	clock := newHandClock()
	ctx, cancel := context.WithCancel(context.Background())
	h := New(ctx, Config{clock: clock, Heartbeat: 1000 * time.Hour})
	c := &Conn{hub: h, corked: true, onClose: func(*Conn) { t.Error("onClose of a stream that Accept refuses") }}
	c.enqueue([]byte("head"))
	if err := h.admit(c); err != nil {
		t.Fatal(err)
	}
	cancel()
	clock.advance(h.cfg.Drain)
	for closed := false; !closed; runtime.Gosched() {
		c.mu.Lock()
		closed = c.closed
		c.mu.Unlock()
	}
	near, far := net.Pipe()
	if err := c.open(near); !errors.Is(err, ErrClosed) {
		t.Errorf("open = %v, want ErrClosed", err)
	}
	h.expel(c)
	h.Close()
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection that was not taken over is open: %v", err)
	}
}

// TestOnCloseMayPublish: presence needs that. At the end of the hub it must not wait for a flush that never comes.
func TestOnCloseMayPublish(t *testing.T) {
	hub := New(context.Background(), Config{WindowBytes: 1})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		c, err := hub.Accept(w, req, func(*Conn) {
			for range 10 {
				hub.Publish([]Event{{"a", data("offline")}})
			}
		})
		if err != nil {
			t.Error(err)
			return
		}
		hub.Subscribe(c, "a")
		c.Uncork(nil)
	}))
	defer srv.Close()
	for range 3 {
		res, err := http.Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
	}
	hub.Close()
}

func TestStreamsMax(t *testing.T) {
	bothWays(t, func(t *testing.T, cfg Config) {
		cfg.StreamsMax = 2
		r := newRig(t, cfg)
		c, first := r.start("a")
		r.start("a")
		refused := r.dial(request)
		if err := <-r.failed; !errors.Is(err, ErrFull) {
			t.Fatalf("Accept = %v, want ErrFull", err)
		}
		if res := refused.head(); res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("a refused request cannot be answered: %s", res.Status)
		}
		first.Close()
		r.wantClosed(c)
		_, third := r.start("a")
		r.publish("a", "1")
		third.wants("1")
		if s := r.hub.Stats(); s.Refused != 1 || s.Accepted != 3 || s.Streams != 2 {
			t.Errorf("Stats() = %+v, want 3 accepted, 1 refused, 2 open", s)
		}
	})
}

func TestAcceptRefuses(t *testing.T) {
	r := newRig(t, Config{})
	if res := r.dial("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").head(); res.StatusCode != 503 {
		t.Errorf("answer to POST: %s", res.Status)
	}
	if err := <-r.failed; !errors.Is(err, ErrMethod) {
		t.Errorf("Accept(POST) = %v, want ErrMethod", err)
	}
	// The second request is in the same packet, so net/http has read it.
	pipelined := r.dial(request + request)
	if err := <-r.failed; !errors.Is(err, ErrPipelined) {
		t.Errorf("Accept(pipelined) = %v, want ErrPipelined", err)
	}
	if n, _ := io.Copy(io.Discard, pipelined.buf); n > 0 {
		t.Errorf("%d bytes of answer to pipelined requests, want none", n)
	}
	if _, err := r.hub.Accept(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), nil); !errors.Is(err, http.ErrNotSupported) {
		t.Errorf("Accept(not a connection) = %v, want ErrNotSupported", err)
	}
	if s := r.hub.Stats(); s.Streams != 0 {
		t.Errorf("%d streams open after refusals", s.Streams)
	}
}

// TestWrappedWriter: a shell's ResponseWriter with Unwrap is no obstacle, and neither is TLS.
func TestWrappedWriter(t *testing.T) {
	hub := New(context.Background(), Config{})
	defer hub.Close()
	type wrapper struct{ http.ResponseWriter }
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		c, err := hub.Accept(unwrapper{wrapper{w}.ResponseWriter}, req, nil)
		if err != nil {
			t.Error(err)
			return
		}
		c.Uncork(data("1"))
		c.End(data("2"))
	}))
	defer srv.Close()
	res, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); err != nil || string(got) != string(data("1"))+string(data("2")) {
		t.Errorf("read %q, %v", got, err)
	}
}

type unwrapper struct{ w http.ResponseWriter }

func (u unwrapper) Header() http.Header         { return u.w.Header() }
func (u unwrapper) Write(p []byte) (int, error) { return u.w.Write(p) }
func (u unwrapper) WriteHeader(status int)      { u.w.WriteHeader(status) }
func (u unwrapper) Unwrap() http.ResponseWriter { return u.w }

// TestHeartbeat: in each period every idle stream gets one comment, and a corked one none.
func TestHeartbeat(t *testing.T) {
	clock := newHandClock()
	r := newRig(t, Config{clock: clock, Heartbeat: heartbeatParts * time.Second})
	var clients []*reader
	for range 3 {
		_, client := r.start("a")
		clients = append(clients, client)
	}
	corked, late := r.open("a")
	for range 2 * heartbeatParts {
		clock.advance(time.Second)
	}
	clock.advance(time.Second) // returns when the beats before are written
	for _, c := range clients {
		c.wantsBytes(":\n\n:\n\n")
	}
	r.publish("a", "1")
	for _, c := range clients {
		c.wants("1")
	}
	corked.Uncork(nil)
	late.head()
	late.wants("1")
}
