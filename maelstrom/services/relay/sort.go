package relay

import (
	"bytes"
	"io"
	"net"
	"sync"
	"time"
)

const (
	headMax  = 8 << 10         // bytes of a connection that are looked at
	headWait = 5 * time.Second // until they must have come
)

// A Sorter is the one address of several relays: what comes first through a connection says which of them it goes by.
type Sorter struct {
	listener net.Listener
	choose   func(head []byte) *Relay
	running  sync.WaitGroup

	mu      sync.Mutex
	waiting map[net.Conn]bool // guarded by mu: connections that have said nothing yet
	relays  map[*Relay]bool   // guarded by mu: that were chosen, ever
	closed  bool              // guarded by mu
}

// Sort takes connections on a free port of the loopback interface. choose is shown the head of what an HTTP client says
// through one, up to the empty line; if a whole head does not come in time, what came. Of a connection chosen by nobody
// (nil) nothing becomes.
func Sort(choose func(head []byte) *Relay) (*Sorter, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Sorter{listener: listener, choose: choose, waiting: map[net.Conn]bool{}, relays: map[*Relay]bool{}}
	s.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			s.running.Go(func() { s.handle(conn) })
		}
	})
	return s, nil
}

// Addr is where it takes connections.
func (s *Sorter) Addr() string { return s.listener.Addr().String() }

// Close ends everything, also the relays that were chosen, and returns when it has ended.
func (s *Sorter) Close() {
	s.listener.Close()
	s.mu.Lock()
	s.closed = true
	for conn := range s.waiting {
		conn.Close()
	}
	relays := s.relays
	s.mu.Unlock()
	for r := range relays { // no more are chosen
		r.Close()
	}
	s.running.Wait()
}

func (s *Sorter) handle(conn net.Conn) {
	if !s.wait(conn) {
		conn.Close()
		return
	}
	conn.SetReadDeadline(time.Now().Add(headWait)) // it fails only of a closed one, which reading tells
	head := readHead(conn)
	conn.SetReadDeadline(time.Time{})
	r := s.chosen(conn, head)
	if r == nil {
		conn.Close()
		return
	}
	r.Handle(&begun{Conn: conn, rest: io.MultiReader(bytes.NewReader(head), conn)})
}

// wait notes a connection; false if there are too many, or the sorter is closed.
func (s *Sorter) wait(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.waiting) >= connsMax {
		return false
	}
	s.waiting[conn] = true
	return true
}

func (s *Sorter) chosen(conn net.Conn, head []byte) *Relay {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, conn)
	if s.closed {
		return nil
	}
	r := s.choose(head)
	if r != nil {
		s.relays[r] = true
	}
	return r
}

// readHead reads up to an empty line, or what comes until the connection ends or its deadline.
func readHead(conn net.Conn) []byte {
	head := make([]byte, 0, headMax)
	for len(head) < headMax {
		n, err := conn.Read(head[len(head):headMax])
		if head = head[:len(head)+n]; err != nil || bytes.Contains(head, []byte("\r\n\r\n")) {
			break
		}
	}
	return head
}

// begun is a connection of which something was read already.
type begun struct {
	net.Conn
	rest io.Reader
}

func (b *begun) Read(p []byte) (int, error) { return b.rest.Read(p) }
