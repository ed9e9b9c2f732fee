package stream

import (
	"sync"
	"sync/atomic"
	"time"
)

// run is the flusher: the goroutine that decides when, and that alone uses the window.
func (h *Hub) run() {
	period := max(h.cfg.Heartbeat/heartbeatParts, 1)
	beat := h.clock.At(h.clock.Now().Add(period))
	var last time.Time // start of the last flush
	for {
		select {
		case <-h.ctx.Done():
			h.drain()
			return
		case <-beat:
			h.heartbeat()
			beat = h.clock.At(h.clock.Now().Add(period))
		case <-h.wake:
			h.settle(last)
			last = h.clock.Now()
			h.flush()
		}
	}
}

// settle waits for the rest of the window that began at last.
func (h *Hub) settle(last time.Time) {
	over := last.Add(h.cfg.Window)
	if !h.clock.Now().Before(over) {
		return
	}
	select {
	case <-h.clock.At(over):
	case <-h.urgent:
	case <-h.ctx.Done():
	}
}

// flush writes what was published to everybody who gets it.
func (h *Hub) flush() {
	h.mu.Lock()
	h.board.take(&h.window)
	select {
	case <-h.urgent: // it meant the window just taken
	default:
	}
	h.room.Broadcast()
	h.mu.Unlock()

	h.window.plan()
	h.crew.deliver(h.window.deliveries)
	h.window.reset()
	h.count.flushes.Add(1)
}

var beatFrame = []byte(":\n\n")

// heartbeat writes a comment to the next part of the streams.
func (h *Hub) heartbeat() {
	h.mu.Lock()
	from := len(h.slots) * h.heartPart / heartbeatParts
	to := len(h.slots) * (h.heartPart + 1) / heartbeatParts
	conns := append([]*Conn(nil), h.slots[from:to]...)
	h.heartPart = (h.heartPart + 1) % heartbeatParts
	h.mu.Unlock()
	for _, c := range conns {
		if c != nil {
			c.beat()
		}
	}
}

// drain ends the hub.
func (h *Hub) drain() {
	late := h.clock.At(h.clock.Now().Add(h.cfg.Drain))
	h.mu.Lock()
	for _, c := range h.slots {
		if c != nil && !c.leaving {
			h.board.send(c, h.cfg.Last, true)
			c.leaving = true
		}
	}
	h.closing = true
	h.closeEmpty()
	h.mu.Unlock()
	h.flush()

	select {
	case <-h.empty:
	case <-late:
		h.mu.Lock()
		conns := append([]*Conn(nil), h.slots...)
		h.mu.Unlock()
		for _, c := range conns {
			if c != nil {
				c.cut()
			}
		}
		<-h.empty
	}
	h.retired.stop()
	h.crew.stop()
	if h.poll != nil {
		h.poll.stop()
	}
	<-h.retired.stopped
	close(h.done)
}

// crew is the fixed set of goroutines that share a flush; the flusher is one of them.
type crew struct {
	hub     *Hub
	own     merger // of the flusher
	jobs    chan struct{}
	workers int // beside the flusher
	running sync.WaitGroup

	deliveries []delivery // of this flush
	next       atomic.Int64
}

func (w *crew) start(h *Hub, size int) {
	w.hub = h
	w.workers = size - 1
	w.jobs = make(chan struct{})
	for range w.workers {
		go func() {
			var m merger
			for range w.jobs {
				w.share(&m)
				w.running.Done()
			}
		}()
	}
}

func (w *crew) stop() { close(w.jobs) }

// deliver returns when every delivery was written or queued: the next flush must come after this one on every stream.
func (w *crew) deliver(deliveries []delivery) {
	w.deliveries = deliveries
	w.next.Store(0)
	others := min(w.workers, (len(deliveries)-1)/deliveriesPerTurn)
	for range max(others, 0) {
		w.running.Add(1)
		w.jobs <- struct{}{}
	}
	w.share(&w.own)
	w.running.Wait()
	w.deliveries = nil
}

// share delivers turns of the list until none is left.
func (w *crew) share(m *merger) {
	var t tally
	for {
		to := int(w.next.Add(deliveriesPerTurn))
		from := to - deliveriesPerTurn
		if from >= len(w.deliveries) {
			break
		}
		turn := w.deliveries[from:min(to, len(w.deliveries))]
		for i := range turn {
			frames, events := m.render(&turn[i])
			turn[i].conn.deliver(frames, turn[i].end, &t)
			t.deliveries += int64(events)
		}
	}
	m.reset()
	t.addTo(&w.hub.count)
}

// tally counts without contention.
type tally struct{ deliveries, writes, bytes int64 }

func (t *tally) addTo(c *counters) {
	c.deliveries.Add(t.deliveries)
	c.writes.Add(t.writes)
	c.bytes.Add(t.bytes)
}

// retired holds the closed streams until the burier has told their owners. It has at most as many as there are slots,
// because a slot is free only afterwards.
type retired struct {
	mu      sync.Mutex
	ready   *sync.Cond // of mu
	conns   []*Conn    // guarded by mu
	ended   bool       // guarded by mu
	stopped chan struct{}
}

func (r *retired) add(c *Conn) {
	r.mu.Lock()
	r.conns = append(r.conns, c)
	r.mu.Unlock()
	r.ready.Signal()
}

func (r *retired) stop() {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.ready.Signal()
}

// bury calls onClose for every closed stream.
func (h *Hub) bury() {
	r := &h.retired
	defer close(r.stopped)
	for {
		r.mu.Lock()
		for len(r.conns) == 0 && !r.ended {
			r.ready.Wait()
		}
		conns := r.conns
		r.conns = nil
		r.mu.Unlock()
		if len(conns) == 0 {
			return
		}
		for _, c := range conns {
			h.expel(c)
			if c.onClose != nil {
				c.onClose(c)
			}
		}
	}
}
