package stream

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Conn is one stream.
type Conn struct {
	hub     *Hub
	sock    sock
	onClose func(*Conn)

	links   []link // guarded by hub.mu; sorted by topic name
	leaving bool   // guarded by hub.mu; its end is published
	slot    uint32 // constant
	serial  uint32 // constant; tells the users of a slot apart
	mark    uint32 // of the flusher: 1 + index of this stream's delivery, 0 for none

	mu       sync.Mutex
	corked   bool     // guarded by mu
	ending   bool     // guarded by mu; to be closed when the queue is empty
	closed   bool     // guarded by mu
	received int32    // guarded by mu; bytes from the client after its request
	queue    [][]byte // guarded by mu; what the socket has not taken
	queued   int      // guarded by mu; bytes in queue
	exempt   int      // guarded by mu; bytes at the front of queue that the lag does not count: head and replay
}

// sock is a connection that is written to without waiting.
type sock interface {
	// write takes what it can of p, and answers errAgain when that is not all; Conn.writable is called later.
	write(p []byte) (int, error)
	// close closes the connection. With reset, data on its way is dropped, too.
	close(reset bool)
}

var errAgain = errors.New("stream: the socket takes no more now")

// head is the head of the response, ended by a blank line.
func head(headers http.Header) []byte {
	headers = headers.Clone()
	for _, name := range []string{"Content-Length", "Transfer-Encoding", "Trailer"} {
		headers.Del(name)
	}
	headers.Set("Content-Type", "text/event-stream")
	headers.Set("Cache-Control", "no-store")
	headers.Set("X-Accel-Buffering", "no") // nginx passes the stream on unbuffered
	headers.Set("Connection", "close")     // the end of the connection is the end of the body
	if headers.Get("Date") == "" {
		headers.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 200 OK\r\n")
	headers.Write(&b) // replaces line ends in values; a Buffer takes everything
	b.WriteString("\r\n")
	return bytes.Clone(b.Bytes())
}

// open makes nc the connection of c. From here on c may be closed at any time.
func (c *Conn) open(nc net.Conn) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed { // the hub ended meanwhile, and waited as long as it may
		nc.Close()
		return ErrClosed
	}
	err := c.hub.attach(c, nc)
	c.closed = err != nil
	return err
}

// Uncork starts the stream: the response head, then first (retry:, the events missed), then what was published since
// Accept, then everything live. Its size is the caller's to bound: it does not count as lag. first must not change
// afterwards. A second call does nothing.
func (c *Conn) Uncork(first []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || !c.corked {
		return
	}
	c.corked = false
	if len(first) > 0 {
		c.queue = slices.Insert(c.queue, 1, first) // behind the head
		c.queued += len(first)
		c.exempt += len(first)
	}
	c.pump()
}

// End closes the stream after all that was published for it, and last, are written. last may be nil.
func (c *Conn) End(last []byte) { c.hub.send(c, last, true) }

// deliver writes or queues frames, which the conn may keep but not change.
func (c *Conn) deliver(frames []byte, end bool, t *tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.ending = c.ending || end
	if !c.corked && len(c.queue) == 0 {
		rest, err := c.write(frames, t)
		if err != nil {
			c.finish(true)
			return
		}
		frames = rest
	}
	if len(frames) > 0 {
		c.enqueue(frames)
		if c.queued-c.exempt > c.hub.cfg.QueueBytes {
			c.hub.count.slow.Add(1)
			c.finish(true)
			return
		}
	}
	c.finishIfWritten()
}

func (c *Conn) enqueue(frames []byte) {
	c.queue = append(c.queue, frames)
	c.queued += len(frames)
}

// write offers p to the socket until all is taken or it takes no more, and returns the rest.
func (c *Conn) write(p []byte, t *tally) ([]byte, error) {
	for len(p) > 0 {
		n, err := c.sock.write(p)
		if n > 0 {
			t.writes++
			t.bytes += int64(n)
		}
		p = p[n:]
		if err == errAgain {
			break
		}
		if err != nil {
			return p, err
		}
	}
	return p, nil
}

func (c *Conn) finishIfWritten() {
	if c.ending && !c.corked && len(c.queue) == 0 {
		c.finish(false)
	}
}

var pumpBuffers = sync.Pool{New: func() any { return new([pumpBytes]byte) }}

// pump writes what is queued, as far as the socket takes it. The caller holds mu.
func (c *Conn) pump() {
	if len(c.queue) > 0 {
		var t tally
		buf := pumpBuffers.Get().(*[pumpBytes]byte)
		for len(c.queue) > 0 {
			p := c.peek(buf)
			rest, err := c.write(p, &t)
			if err != nil {
				c.finish(true)
				break
			}
			c.consume(len(p) - len(rest))
			if len(rest) > 0 {
				break
			}
		}
		pumpBuffers.Put(buf)
		t.addTo(&c.hub.count)
	}
	if !c.closed {
		c.finishIfWritten()
	}
}

// peek returns the front of the queue: a large frame itself, small ones together in buf.
func (c *Conn) peek(buf *[pumpBytes]byte) []byte {
	if len(c.queue) == 1 || len(c.queue[0]) >= len(buf)/2 {
		return c.queue[0]
	}
	n := 0
	for _, frames := range c.queue {
		n += copy(buf[n:], frames)
		if n == len(buf) {
			break
		}
	}
	return buf[:n]
}

// consume drops n bytes from the front of the queue.
func (c *Conn) consume(n int) {
	c.queued -= n
	c.exempt = max(0, c.exempt-n)
	for n > 0 && n >= len(c.queue[0]) {
		n -= len(c.queue[0])
		c.queue[0] = nil
		c.queue = c.queue[1:]
	}
	if len(c.queue) == 0 {
		c.queue = nil
	} else {
		c.queue[0] = c.queue[0][n:]
	}
}

// beat writes a heartbeat, unless there is something else to read.
func (c *Conn) beat() {
	c.mu.Lock()
	idle := !c.closed && !c.corked && len(c.queue) == 0
	c.mu.Unlock()
	if idle {
		var t tally
		c.deliver(beatFrame, false, &t)
		t.addTo(&c.hub.count)
	}
}

// cut closes the stream now.
func (c *Conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.finish(true)
	}
}

// finish closes the connection. The caller holds mu, and closed is false.
func (c *Conn) finish(reset bool) {
	c.closed = true
	c.queue = nil
	if c.sock == nil {
		return // Accept has not come to open yet, and will see closed there
	}
	c.sock.close(reset)
	c.hub.retired.add(c)
}
