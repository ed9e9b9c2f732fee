package stream

import (
	"net"
	"time"
)

// netSock is the portable way: a goroutine that writes and one that reads for each stream.
type netSock struct {
	net.Conn
	kick chan struct{} // the queue is not empty; closed with the connection
}

// attachNet makes nc the socket of c.
func attachNet(c *Conn, nc net.Conn) {
	nc.SetDeadline(time.Time{}) // net/http's
	s := &netSock{nc, make(chan struct{}, 1)}
	c.sock = s
	go s.readLoop(c)
	go s.writeLoop(c)
}

func (s *netSock) write([]byte) (int, error) {
	notify(s.kick)
	return 0, errAgain
}

// close ends both goroutines.
func (s *netSock) close(reset bool) {
	if tcp, ok := s.Conn.(*net.TCPConn); ok && reset {
		tcp.SetLinger(0)
	}
	close(s.kick)
	s.Conn.Close()
}

func (s *netSock) readLoop(c *Conn) {
	buf := make([]byte, 512)
	for {
		n, err := s.Read(buf)
		if !c.heard(n, err != nil) {
			return
		}
	}
}

// writeLoop writes the queue. The bytes stay queued, and so count as lag, until the kernel has them.
func (s *netSock) writeLoop(c *Conn) {
	for range s.kick {
		buf := pumpBuffers.Get().(*[pumpBytes]byte)
		for p := c.toWrite(buf); len(p) > 0; p = c.toWrite(buf) {
			c.wrote(s.Write(p))
		}
		pumpBuffers.Put(buf)
	}
}

// heard notes n bytes from the client or the end of its stream, and reports whether to go on reading.
func (c *Conn) heard(n int, end bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.received += int32(n)
	if end || c.received > clientBytesMax {
		c.finish(true)
		return false
	}
	return true
}

// toWrite returns the front of the queue, nil when there is nothing to write now.
func (c *Conn) toWrite(buf *[pumpBytes]byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.corked || len(c.queue) == 0 {
		return nil
	}
	return c.peek(buf)
}

// wrote notes that n bytes from the front of the queue are written, or that the connection is broken.
func (c *Conn) wrote(n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if err != nil {
		c.finish(true)
		return
	}
	c.consume(n)
	c.hub.count.writes.Add(1)
	c.hub.count.bytes.Add(int64(n))
	c.finishIfWritten()
}
