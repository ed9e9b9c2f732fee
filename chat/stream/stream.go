// Package stream serves many thousands of Server-Sent Events streams without a goroutine each.
//
// A Hub owns hijacked HTTP/1.1 connections. On Linux it keeps of each connection only its file descriptor: net/http's
// goroutine and buffers are gone, one goroutine waits for all of them in epoll, and an idle stream costs about half a
// kibibyte of heap, plus some 50 bytes for each further subscription, beside what the kernel holds for a socket.
// Elsewhere, and for connections that are not plain TCP (TLS), a stream has two goroutines instead and behaves the same.
//
// # Order
//
// A stream gets exactly the events that were published between its Subscribe and its Unsubscribe, in publish order
// across all topics, each one whole. An event id can therefore be a position in the order of publication, and a client
// that resumes from the last one that it saw has missed nothing.
//
// # Coalescing
//
// Publish only notes the frames. A flush then writes to each stream all that it got since the last one in one write
// call. The first event after a pause is flushed at once; while events keep coming, flushes start at least Config.Window
// apart, or sooner when Config.WindowBytes have gathered. All streams that got the same events share one buffer, and
// nothing is copied per stream but by the kernel.
//
// # Slow readers
//
// No write waits. What the socket does not take is queued by reference, and a stream with more than
// Config.QueueBytes queued is cut: its client comes back with Last-Event-ID. A cut may fall inside an event, which the
// client then discards, because only a blank line dispatches one.
package stream

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Config sets the limits of a Hub; a zero field takes the default that its comment names.
type Config struct {
	// StreamsMax is how many streams may be open at a time; Accept answers ErrFull above it. Default 100,000.
	StreamsMax int
	// QueueBytes is how many bytes a stream may lag behind, not counting what the kernel has taken and what the caller
	// gave to Uncork. One MiB, the default, is some 3,000 messages: minutes of a busy room on a bad mobile link. The
	// frames are shared, so a thousand streams that lag alike do not cost a thousand MiB.
	QueueBytes int
	// Window is the least time between the starts of two flushes. Default 5 ms.
	Window time.Duration
	// WindowBytes is how many bytes of frames are gathered at most: that many are flushed before Window is over, and
	// publishers wait until the flush has begun. A flush never waits for a reader. Default 128 KiB.
	WindowBytes int
	// Heartbeat is the time between two comments to the same stream, which keep proxies from closing it. Default 15 s.
	Heartbeat time.Duration
	// Last is the frame that every stream gets when the hub ends. Default none.
	Last []byte
	// Drain is how long the streams have to take what is queued, Last included, when the hub ends. Default 2 s.
	Drain time.Duration

	clock    clock // nil: the real one
	portable bool  // never use the poller
}

const (
	// heartbeatParts spreads the heartbeats: each part of the streams gets its own at another time.
	heartbeatParts = 16
	// clientBytesMax is how much a client may send after its request: an SSE client sends nothing.
	clientBytesMax = 64 << 10
	// pumpBytes is the most that is gathered from a queue of small frames into one write.
	pumpBytes = 64 << 10
	// mergedBytesMax bounds the merges of one window that a flush worker keeps for further streams with the same topics.
	mergedBytesMax = 4 << 20
	// windowMembersKept bounds the scratch memory that is kept from one flush to the next (16 bytes each).
	windowMembersKept = 1 << 20
	// deliveriesPerTurn is how many streams a flush worker takes at a time.
	deliveriesPerTurn = 32
)

// What Accept may answer. After ErrPipelined and any error that is none of these the connection is gone already and
// nothing more can be said on it; after the others an ordinary response is possible.
var (
	ErrFull      = errors.New("stream: too many streams")
	ErrClosed    = errors.New("stream: the hub is shutting down")
	ErrMethod    = errors.New("stream: only GET can be streamed")
	ErrPipelined = errors.New("stream: the client sent data after its request")
)

// Hub delivers published events to streams. All methods may be called from any goroutine.
type Hub struct {
	cfg    Config
	clock  clock
	ctx    context.Context
	cancel context.CancelFunc
	poll   *poller // nil: none on this system

	mu        sync.Mutex
	board     board      // guarded by mu
	room      *sync.Cond // of mu: the window has room, or the hub is closing
	slots     []*Conn    // guarded by mu; a Conn keeps its index
	free      []uint32   // guarded by mu; empty slots
	serials   uint32     // guarded by mu
	closing   bool       // guarded by mu; no stream and no event is added any more
	emptied   bool       // guarded by mu; empty is closed
	heartPart int        // guarded by mu; the next part of the streams to get a heartbeat

	wake   chan struct{} // the window is no longer empty
	urgent chan struct{} // the window is full
	window window        // of the flusher
	crew   crew

	retired retired
	count   counters
	empty   chan struct{} // closed when the hub is closing and has no stream left
	done    chan struct{} // closed when everything is over
}

// clock is the time as the flusher sees it.
type clock interface {
	Now() time.Time
	At(time.Time) <-chan time.Time // receives once, at that time or when it is over already
}

type realClock struct{}

func (realClock) Now() time.Time                  { return time.Now() }
func (realClock) At(t time.Time) <-chan time.Time { return time.After(time.Until(t)) }

// New starts a hub. When ctx ends, new streams are refused, every stream gets what was published before and Config.Last,
// and is closed once that is written or Config.Drain is over.
func New(ctx context.Context, cfg Config) *Hub {
	h := newHub(ctx, cfg)
	if !cfg.portable {
		h.poll = newPoller(h)
	}
	h.crew.start(h, runtime.GOMAXPROCS(0))
	go h.bury()
	go h.run()
	return h
}

// newHub returns a hub that nothing drives.
func newHub(ctx context.Context, cfg Config) *Hub {
	cfg.StreamsMax = cmp.Or(cfg.StreamsMax, 100_000)
	cfg.QueueBytes = cmp.Or(cfg.QueueBytes, 1<<20)
	cfg.Window = cmp.Or(cfg.Window, 5*time.Millisecond)
	cfg.WindowBytes = cmp.Or(cfg.WindowBytes, 128<<10)
	cfg.Heartbeat = cmp.Or(cfg.Heartbeat, 15*time.Second)
	cfg.Drain = cmp.Or(cfg.Drain, 2*time.Second)
	h := &Hub{
		cfg:    cfg,
		clock:  cfg.clock,
		board:  newBoard(),
		wake:   make(chan struct{}, 1),
		urgent: make(chan struct{}, 1),
		empty:  make(chan struct{}),
		done:   make(chan struct{}),
	}
	if h.clock == nil {
		h.clock = realClock{}
	}
	h.room = sync.NewCond(&h.mu)
	h.retired.stopped = make(chan struct{})
	h.retired.ready = sync.NewCond(&h.retired.mu)
	h.ctx, h.cancel = context.WithCancel(ctx)
	return h
}

// Close ends the hub as the end of its context does, and waits until every stream is closed and every onClose has
// returned.
func (h *Hub) Close() {
	h.cancel()
	<-h.done
}

// Accept takes over the connection of r and makes it a stream. The response head, with the headers set on w before, is
// sent by Uncork. Between Accept and Uncork the stream is corked: it can subscribe, and what is published is kept for it.
//
// onClose, if not nil, is called exactly once, after the connection is closed for whatever reason, in a goroutine of the
// hub that holds no lock; it may call any method but Close, and must return for the next one to be called.
func (h *Hub) Accept(w http.ResponseWriter, r *http.Request, onClose func(*Conn)) (*Conn, error) {
	if r.Method != http.MethodGet {
		return nil, ErrMethod
	}
	c := &Conn{hub: h, onClose: onClose, corked: true}
	c.enqueue(head(w.Header()))
	c.exempt = c.queued
	if err := h.admit(c); err != nil {
		return nil, err
	}
	nc, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		h.expel(c)
		return nil, err
	}
	if n := buffered.Reader.Buffered(); n > 0 {
		h.expel(c)
		nc.Close()
		return nil, ErrPipelined
	}
	if err := c.open(nc); err != nil {
		h.expel(c)
		return nil, err
	}
	h.count.accepted.Add(1)
	return c, nil
}

// admit gives c a slot, so that the limit holds before anything is taken over.
func (h *Hub) admit(c *Conn) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closing || h.ctx.Err() != nil {
		h.count.refused.Add(1)
		return ErrClosed
	}
	if len(h.slots)-len(h.free) >= h.cfg.StreamsMax {
		h.count.refused.Add(1)
		return ErrFull
	}
	h.serials++
	c.serial = h.serials
	if n := len(h.free); n > 0 {
		c.slot = h.free[n-1]
		h.free = h.free[:n-1]
		h.slots[c.slot] = c
	} else {
		c.slot = uint32(len(h.slots))
		h.slots = append(h.slots, c)
	}
	return nil
}

// expel takes c out of everything that mu guards.
func (h *Hub) expel(c *Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.board.unsubscribeAll(c)
	h.slots[c.slot] = nil
	h.free = append(h.free, c.slot)
	h.closeEmpty()
}

// closeEmpty tells drain when the last stream is gone. The caller holds mu.
func (h *Hub) closeEmpty() {
	if h.closing && !h.emptied && len(h.free) == len(h.slots) {
		h.emptied = true
		close(h.empty)
	}
}

// Subscribe lets c get what is published to the topics after Subscribe has returned. Topics that c has already are left
// as they are.
func (h *Hub) Subscribe(c *Conn, topics ...Topic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.slots[c.slot] != c || c.leaving {
		return
	}
	for _, t := range topics {
		h.board.subscribe(c, t)
	}
}

// Unsubscribe ends subscriptions: nothing that is published to the topics after it has returned reaches c. What was
// published before does.
func (h *Hub) Unsubscribe(c *Conn, topics ...Topic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range topics {
		h.board.unsubscribe(c, t)
	}
}

// Heard says whether the topic has a subscriber, so that no frame need be made for nobody.
func (h *Hub) Heard(t Topic) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	topic := h.board.topics[t]
	return topic != nil && len(topic.subs) > 0
}

// Publish sends each event to the subscribers of its topic, in order. It waits for no reader, only, when
// Config.WindowBytes are gathered, for the next flush to begin. After the hub has ended it does nothing. Empty frames
// are left out.
func (h *Hub) Publish(events []Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.waitForRoom() {
		return
	}
	for _, e := range events {
		h.board.publish(e.Topic, e.Frame)
	}
	h.signal()
}

// Send sends a frame to one stream, in publish order with the events of its topics.
func (h *Hub) Send(c *Conn, frame []byte) { h.send(c, frame, false) }

func (h *Hub) send(c *Conn, frame []byte, end bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.waitForRoom() || h.slots[c.slot] != c || c.leaving {
		return
	}
	h.board.send(c, frame, end)
	if end {
		h.board.unsubscribeAll(c)
		c.leaving = true
	}
	h.signal()
}

// waitForRoom waits until the window takes more, and reports false when the hub has ended.
func (h *Hub) waitForRoom() bool {
	for h.board.bytes >= h.cfg.WindowBytes && !h.closing {
		h.room.Wait()
	}
	return !h.closing
}

// signal tells the flusher of a window that is not empty.
func (h *Hub) signal() {
	if h.board.empty() {
		return
	}
	notify(h.wake)
	if h.board.bytes >= h.cfg.WindowBytes {
		notify(h.urgent)
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Stats is what the hub did so far, and holds now.
type Stats struct {
	Streams    int   // open now
	Topics     int   // with a subscriber now
	Accepted   int64 // streams
	Refused    int64 // streams, for ErrFull or ErrClosed
	Slow       int64 // streams cut because their reader lagged
	Deliveries int64 // events times streams
	Writes     int64 // write calls that took something
	Bytes      int64 // taken by the kernel
	Flushes    int64
}

type counters struct {
	accepted, refused, slow, deliveries, writes, bytes, flushes atomic.Int64
}

// Stats returns the counters.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return Stats{
		Streams:    len(h.slots) - len(h.free),
		Topics:     len(h.board.topics),
		Accepted:   h.count.accepted.Load(),
		Refused:    h.count.refused.Load(),
		Slow:       h.count.slow.Load(),
		Deliveries: h.count.deliveries.Load(),
		Writes:     h.count.writes.Load(),
		Bytes:      h.count.bytes.Load(),
		Flushes:    h.count.flushes.Load(),
	}
}
