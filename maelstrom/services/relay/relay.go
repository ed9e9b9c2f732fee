// Package relay is the wire between two processes of a run: it passes TCP connections on, and cuts, starves or delays them
// when told to. Its address stays the same whatever becomes of the process behind it.
package relay

import (
	"bytes"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Mode says what becomes of connections.
type Mode uint8

const (
	Open      Mode = iota // they are passed on
	Cut                   // they are closed, and new ones as soon as they come
	Blackhole             // they stay, new ones are taken, and every byte is swallowed
	Mute                  // they are passed on, but every byte that comes back is swallowed: questions get through, no answers
)

const (
	connsMax   = 1024     // connections of one relay; more are refused
	chunkBytes = 16 << 10 // read at once
	chunksMax  = 16       // on their way in one direction of one connection
)

// Stats count what was done to connections. Relays may share them.
type Stats struct {
	Cut       atomic.Int64 // connections that were closed
	Refused   atomic.Int64 // connections that were not taken, or never passed on
	Swallowed atomic.Int64 // bytes
	Held      atomic.Int64 // bytes that were delayed
}

// A Relay passes connections on to what dial connects to.
type Relay struct {
	dial     func(context.Context) (net.Conn, error)
	stats    *Stats
	listener net.Listener // nil for New
	running  sync.WaitGroup

	mu     sync.Mutex
	mode   Mode           // guarded by mu
	delay  time.Duration  // guarded by mu
	pairs  map[*pair]bool // guarded by mu
	closed bool           // guarded by mu
}

// A pair is a connection that came in and the one it is passed on by.
type pair struct {
	ctx    context.Context // ends with the pair
	cancel context.CancelFunc
	in     net.Conn
	out    net.Conn // guarded by Relay.mu; nil before it is connected
	torn   bool     // guarded by Relay.mu once admitted: bytes were swallowed, nothing sensible can follow
	muted  bool     // guarded by Relay.mu: and so were bytes that came back, alone
}

// New returns a relay for connections that Handle is given.
func New(dial func(context.Context) (net.Conn, error), stats *Stats) *Relay {
	return &Relay{dial: dial, stats: stats, pairs: map[*pair]bool{}}
}

// Listen returns a relay that takes connections on a free port of the loopback interface.
func Listen(dial func(context.Context) (net.Conn, error), stats *Stats) (*Relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := New(dial, stats)
	r.listener = listener
	r.running.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return // closed: nothing else ends a loopback listener for good
			}
			r.running.Go(func() { r.Handle(in) })
		}
	})
	return r, nil
}

// Addr is where a relay of Listen takes connections.
func (r *Relay) Addr() string { return r.listener.Addr().String() }

// Set changes what becomes of connections. A connection of which a byte was swallowed is closed when the blackhole ends.
func (r *Relay) Set(mode Mode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mode = mode
	for p := range r.pairs {
		if mode == Cut || mode == Open && (p.torn || p.muted) {
			r.stats.Cut.Add(1)
			r.end(p)
		}
	}
}

// Delay holds every byte that comes from now on for so long, in both directions.
func (r *Relay) Delay(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delay = d
}

// Close ends everything, and returns when it has ended.
func (r *Relay) Close() {
	if r.listener != nil {
		r.listener.Close()
	}
	r.mu.Lock()
	r.closed = true
	for p := range r.pairs {
		r.end(p)
	}
	r.mu.Unlock()
	r.running.Wait()
}

// Handle passes one connection on, until either side or the relay ends it.
func (r *Relay) Handle(in net.Conn) {
	p := &pair{in: in}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	if !r.admit(p) {
		r.stats.Refused.Add(1)
		p.cancel()
		in.Close()
		return
	}
	defer r.drop(p)
	if p.torn {
		r.stats.Refused.Add(1)
		r.swallow(p)
		return
	}
	out, err := r.dial(p.ctx)
	if err != nil || !r.connected(p, out) {
		return
	}
	var back sync.WaitGroup
	back.Go(func() { r.pump(p, in, out, true) })
	r.pump(p, out, in, false)
	back.Wait()
}

func (r *Relay) admit(p *pair) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.mode == Cut || len(r.pairs) >= connsMax {
		return false
	}
	r.pairs[p] = true
	p.torn = r.mode == Blackhole // it is never connected to anything
	return true
}

func (r *Relay) swallow(p *pair) {
	b := make([]byte, chunkBytes)
	for {
		n, err := p.in.Read(b)
		r.stats.Swallowed.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// connected notes the second connection; false if the pair has ended meanwhile.
func (r *Relay) connected(p *pair, out net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.pairs[p] {
		out.Close()
		return false
	}
	p.out = out
	return true
}

func (r *Relay) drop(p *pair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end(p)
}

// end closes both connections, once. mu is held.
func (r *Relay) end(p *pair) {
	if !r.pairs[p] {
		return
	}
	delete(r.pairs, p)
	p.cancel()
	p.in.Close()
	if p.out != nil {
		p.out.Close()
	}
}

// A chunk is some bytes on their way.
type chunk struct {
	bytes []byte
	due   time.Time
}

// pump passes on what comes from one connection, each byte when it is due; back is towards who opened the pair. When there
// is no more it ends the pair.
func (r *Relay) pump(p *pair, to, from net.Conn, back bool) {
	var reading sync.WaitGroup
	defer reading.Wait()
	defer r.drop(p)
	chunks := make(chan chunk, chunksMax)
	reading.Go(func() {
		defer close(chunks)
		b := make([]byte, chunkBytes)
		for {
			n, err := from.Read(b)
			if due, pass := r.take(p, n, back); pass {
				select {
				case chunks <- chunk{bytes.Clone(b[:n]), due}:
				case <-p.ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	for c := range chunks {
		if !until(p.ctx, c.due) {
			return
		}
		if _, err := to.Write(c.bytes); err != nil {
			return
		}
	}
}

// take says when n bytes that came are due, or that they are not passed on.
func (r *Relay) take(p *pair, n int, back bool) (due time.Time, pass bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case n == 0:
		return due, false
	case back && (r.mode == Mute || p.muted):
		p.muted = true
		r.stats.Swallowed.Add(int64(n))
		return due, false
	case r.mode == Blackhole || p.torn:
		p.torn = true
		r.stats.Swallowed.Add(int64(n))
		return due, false
	case r.delay > 0:
		r.stats.Held.Add(int64(n))
	}
	return time.Now().Add(r.delay), true
}

// until waits for a time; false if ctx ends first.
func until(ctx context.Context, due time.Time) bool {
	wait := time.Until(due)
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
