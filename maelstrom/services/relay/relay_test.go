package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A wire is a relay in a bubble, with the two ends of one connection through it.
type wire struct {
	t            *testing.T
	relay        *Relay
	stats        Stats
	servers      chan net.Conn // what the relay connected to
	dialled      atomic.Int64
	unreachable  bool
	handlesEnded chan struct{}
}

func newWire(t *testing.T) *wire {
	w := &wire{t: t, servers: make(chan net.Conn, 8), handlesEnded: make(chan struct{}, 8)}
	w.relay = New(func(context.Context) (net.Conn, error) {
		if w.dialled.Add(1); w.unreachable {
			return nil, errors.New("nobody listens")
		}
		ours, theirs := net.Pipe()
		w.servers <- theirs
		return ours, nil
	}, &w.stats)
	return w
}

// connect opens a connection to the relay.
func (w *wire) connect() net.Conn {
	ours, theirs := net.Pipe()
	go func() { w.relay.Handle(theirs); w.handlesEnded <- struct{}{} }()
	return ours
}

func (w *wire) write(c net.Conn, text string) {
	w.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		w.t.Fatalf("write %q: %v", text, err)
	}
}

func (w *wire) read(c net.Conn, want string) {
	w.t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		w.t.Fatalf("read %q, %v, want %q", b, err, want)
	}
}

func (w *wire) wantClosed(c net.Conn) {
	w.t.Helper()
	if n, err := c.Read(make([]byte, 1)); err == nil {
		w.t.Fatalf("read %d bytes from a connection that is cut", n)
	}
}

func TestPassesBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t)
		client := w.connect()
		server := <-w.servers
		w.write(client, "question")
		w.read(server, "question")
		w.write(server, "answer")
		w.read(client, "answer")
		server.Close()
		w.wantClosed(client)
		<-w.handlesEnded
	})
}

func TestUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t)
		w.unreachable = true
		w.wantClosed(w.connect())
		<-w.handlesEnded
	})
}

func TestCutAndHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t)
		client := w.connect()
		server := <-w.servers
		w.relay.Set(Cut)
		w.wantClosed(client)
		w.wantClosed(server)
		w.wantClosed(w.connect())
		if cut, refused := w.stats.Cut.Load(), w.stats.Refused.Load(); cut != 1 || refused != 1 || w.dialled.Load() != 1 {
			t.Errorf("%d cut, %d refused, %d dialled, want 1 each", cut, refused, w.dialled.Load())
		}
		w.relay.Set(Open)
		client = w.connect()
		w.write(client, "again")
		w.read(<-w.servers, "again")
		w.relay.Close()
		w.wantClosed(client)
		w.wantClosed(w.connect())
	})
}

func TestBlackhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t)
		used, idle := w.connect(), w.connect()
		servers := []net.Conn{<-w.servers, <-w.servers}
		w.relay.Set(Blackhole)
		w.write(used, "swallowed")
		late := w.connect()
		w.write(late, "too")
		synctest.Wait()
		if n := w.stats.Swallowed.Load(); n != int64(len("swallowed"+"too")) {
			t.Errorf("%d bytes were swallowed", n)
		}
		w.relay.Set(Open)
		w.wantClosed(used) // in the middle of what it said
		w.wantClosed(late)
		if cut, refused := w.stats.Cut.Load(), w.stats.Refused.Load(); cut != 2 || refused != 1 || w.dialled.Load() != 2 {
			t.Errorf("%d cut, %d refused, %d dialled, want 2, 1, 2", cut, refused, w.dialled.Load())
		}
		w.write(idle, "alive") // it lost nothing
		got := make(chan string, 2)
		for _, server := range servers {
			go func() {
				b, _ := io.ReadAll(io.LimitReader(server, int64(len("alive"))))
				got <- string(b)
			}()
		}
		if all := <-got + <-got; all != "alive" {
			t.Errorf("after the blackhole the servers read %q, want %q", all, "alive")
		}
		w.relay.Close()
	})
}

// TestMute: what is asked gets through, what is answered does not; and who got no answer is told when it is over.
func TestMute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t)
		client, idle := w.connect(), w.connect()
		server, other := <-w.servers, <-w.servers
		w.relay.Set(Mute)
		w.write(client, "question")
		got := make(chan string, 2)
		for _, s := range []net.Conn{server, other} {
			go func() {
				b := make([]byte, len("question"))
				io.ReadFull(s, b)
				if string(b) == "question" {
					s.Write([]byte("answer"))
				}
				got <- string(b)
			}()
		}
		if asked := <-got; asked != "question" {
			t.Errorf("the server was asked %q", asked)
		}
		synctest.Wait()
		if n := w.stats.Swallowed.Load(); n != int64(len("answer")) {
			t.Errorf("%d bytes were swallowed", n)
		}
		w.relay.Set(Open)
		w.wantClosed(client)
		w.write(idle, "question") // nothing was lost on it
		if asked := <-got; asked != "question" {
			t.Errorf("the other connection is worth nothing: %q", asked)
		}
		w.read(idle, "answer")
		w.relay.Close()
	})
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t)
		client := w.connect()
		server := <-w.servers
		w.relay.Delay(time.Second)
		began := time.Now()
		w.write(client, "late")
		w.read(server, "late")
		if took := time.Since(began); took != time.Second {
			t.Errorf("there after %v, want 1s", took)
		}
		w.write(client, "later")
		synctest.Wait()
		w.relay.Delay(0)
		w.write(client, ", in order")
		w.read(server, "later, in order")
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("there after %v, want 2s: bytes do not overtake each other", took)
		}
		w.write(server, "at once")
		w.read(client, "at once")
		if held := w.stats.Held.Load(); held != int64(len("late"+"later")) {
			t.Errorf("%d bytes were held", held)
		}
		w.relay.Delay(time.Hour)
		w.write(client, "never")
		synctest.Wait()
		w.relay.Set(Cut) // also while bytes are held
		<-w.handlesEnded
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("the cut took until %v", took)
		}
	})
}

// TestListen: on real sockets; the address outlives what is behind it.
func TestListen(t *testing.T) {
	var stats Stats
	targets := make(chan net.Listener, 1)
	r, err := Listen(func(ctx context.Context) (net.Conn, error) {
		target := <-targets
		return new(net.Dialer).DialContext(ctx, "tcp", target.Addr().String())
	}, &stats)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"first", "second"} {
		target, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		targets <- target
		client, err := net.Dial("tcp", r.Addr())
		if err != nil {
			t.Fatal(err)
		}
		server, err := target.Accept()
		if err != nil {
			t.Fatal(err)
		}
		w := &wire{t: t}
		w.write(client, word)
		w.read(server, word)
		target.Close()
		if word == "first" {
			server.Close()
			w.wantClosed(client)
			continue
		}
		r.Close()
		w.wantClosed(client)
		w.wantClosed(server)
	}
}
