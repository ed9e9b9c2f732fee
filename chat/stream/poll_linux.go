package stream

import (
	"fmt"
	"net"
	"syscall"
	"time"
)

// Socket options that package syscall does not name; the values are those of linux/tcp.h.
const (
	tcpUserTimeout  = 18
	tcpNotSentLowat = 25
)

// epollET is EPOLLET as an unsigned number (syscall's constant is negative).
const epollET = 1 << 31

// unsentBytesMax is how much of a stream the kernel may hold that it could not send yet (TCP_NOTSENT_LOWAT): its own
// limit, 4 MiB a connection, would dwarf Config.QueueBytes.
const unsentBytesMax = 256 << 10

// peerTimeout is how long written data may stay unacknowledged, or a peer's window closed, before the kernel gives the
// connection up (TCP_USER_TIMEOUT). Without it a phone that lost its network stays connected for a quarter of an hour.
const peerTimeout = 45 * time.Second

// poller waits for all sockets of a hub in one goroutine. It is edge-triggered: a socket is registered once, for
// everything, and never again. An EPOLLOUT edge comes only after a write that found no room.
type poller struct {
	hub         *Hub
	epoll       int
	wake, waker int // a pipe; closing waker ends run
	ended       chan struct{}
}

// wakeSlot is the slot of the wake pipe; no Conn has it.
const wakeSlot = -1

// newPoller starts a poller; nil when the system has none, and then every stream has goroutines.
func newPoller(h *Hub) *poller {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil
	}
	var pipe [2]int
	if err := syscall.Pipe2(pipe[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		syscall.Close(epoll)
		return nil
	}
	p := &poller{hub: h, epoll: epoll, wake: pipe[0], waker: pipe[1], ended: make(chan struct{})}
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: wakeSlot}
	if err := syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, p.wake, &event); err != nil {
		panic("stream: epoll refuses a pipe: " + err.Error())
	}
	go p.run()
	return p
}

// stop ends the goroutine; no stream is open any more.
func (p *poller) stop() {
	syscall.Close(p.waker)
	<-p.ended
	syscall.Close(p.wake)
	syscall.Close(p.epoll)
}

func (p *poller) run() {
	defer close(p.ended)
	events := make([]syscall.EpollEvent, 256)
	buf := make([]byte, 4096)
	for {
		n, err := syscall.EpollWait(p.epoll, events, -1)
		if err != nil && err != syscall.EINTR {
			panic("stream: epoll_wait: " + err.Error())
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd == wakeSlot {
				return
			}
			if c := p.hub.lookup(uint32(e.Fd), uint32(e.Pad)); c != nil {
				c.ready(e.Events, buf)
			}
		}
	}
}

// lookup returns the conn with that slot and serial, nil when it is closed already.
func (h *Hub) lookup(slot, serial uint32) *Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	if int(slot) < len(h.slots) {
		if c := h.slots[slot]; c != nil && c.serial == serial {
			return c
		}
	}
	return nil
}

// attach takes the descriptor out of nc and closes the rest of it. The caller holds c.mu, for which the poller waits.
func (h *Hub) attach(c *Conn, nc net.Conn) error {
	tcp, ok := nc.(*net.TCPConn)
	if !ok || h.poll == nil {
		attachNet(c, nc)
		return nil
	}
	defer tcp.Close()
	raw, err := tcp.SyscallConn()
	if err != nil {
		return fmt.Errorf("stream: take over connection: %w", err)
	}
	var fd uintptr
	var errno syscall.Errno
	// The copy shares the open file description, so it is non-blocking, too, and outlives tcp.
	err = raw.Control(func(original uintptr) {
		fd, _, errno = syscall.Syscall(syscall.SYS_FCNTL, original, syscall.F_DUPFD_CLOEXEC, 0)
	})
	if err == nil && errno != 0 {
		err = errno
	}
	if err != nil {
		return fmt.Errorf("stream: duplicate descriptor: %w", err)
	}
	s := &fdSock{fd: int(fd)}
	// Both are bounds that a kernel may lack; the stream works without.
	syscall.SetsockoptInt(s.fd, syscall.IPPROTO_TCP, tcpUserTimeout, int(peerTimeout.Milliseconds()))
	syscall.SetsockoptInt(s.fd, syscall.IPPROTO_TCP, tcpNotSentLowat, unsentBytesMax)
	event := syscall.EpollEvent{
		Events: syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | epollET,
		Fd:     int32(c.slot),
		Pad:    int32(c.serial),
	}
	if err := syscall.EpollCtl(h.poll.epoll, syscall.EPOLL_CTL_ADD, s.fd, &event); err != nil {
		s.close(true)
		return fmt.Errorf("stream: register with epoll: %w", err)
	}
	c.sock = s
	return nil
}

// ready is called with what epoll reported.
func (c *Conn) ready(events uint32, buf []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if events&(syscall.EPOLLERR|syscall.EPOLLHUP) != 0 {
		c.finish(true)
		return
	}
	if events&(syscall.EPOLLIN|syscall.EPOLLRDHUP) != 0 && !c.discard(buf) {
		c.finish(true)
		return
	}
	if events&syscall.EPOLLOUT != 0 && !c.corked {
		c.pump()
	}
}

// discard reads what the client sent, and reports whether the stream goes on: it ends with the client's side, a
// half-closed one included, because no client of an event stream closes only that.
func (c *Conn) discard(buf []byte) bool {
	for c.received <= clientBytesMax {
		n, err := syscall.Read(c.sock.(*fdSock).fd, buf)
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return true
		case err != nil || n <= 0:
			return false
		default:
			c.received += int32(n)
		}
	}
	return false
}

// fdSock is a non-blocking socket, guarded by its Conn's mu.
type fdSock struct{ fd int }

func (s *fdSock) write(p []byte) (int, error) {
	for {
		n, err := syscall.Write(s.fd, p)
		switch err {
		case nil:
			return n, nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, errAgain
		default:
			return 0, err
		}
	}
}

func (s *fdSock) close(reset bool) {
	if reset {
		syscall.SetsockoptLinger(s.fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	}
	syscall.Close(s.fd)
}
