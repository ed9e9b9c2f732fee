package edge

import (
	"bufio"
	"cmp"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	boxBytes       = 4 << 10                // as much as net/http reads at a time
	lingerMax      = 256                    // refused connections whose peer still has to read the answer, of a listener
	lingerTime     = 500 * time.Millisecond // as long as net/http itself does
	lingerBytesMax = 256 << 10
)

// watch is what the connections of a listener share.
type watch struct {
	Options
	boxes     sync.Pool // of *[boxBytes]byte
	lingering chan struct{}
}

func newWatch(o Options) *watch {
	o.HeadBytes = cmp.Or(o.HeadBytes, headBytesDefault)
	o.Fields = cmp.Or(o.Fields, fieldsDefault)
	o.Target = cmp.Or(o.Target, "/")
	return &watch{
		Options:   o,
		boxes:     sync.Pool{New: func() any { return new([boxBytes]byte) }},
		lingering: make(chan struct{}, lingerMax),
	}
}

func (w *watch) wrap(conn net.Conn) *Conn {
	return &Conn{Conn: conn, watch: w, scan: scanner{headBytes: w.HeadBytes, fieldsMax: w.Fields}}
}

// Listener returns inner, whose connections are all *Conn.
func Listener(inner net.Listener, o Options) net.Listener { return listener{inner, newWatch(o)} }

type listener struct {
	net.Listener
	watch *watch
}

func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.watch.wrap(conn), nil
}

// Wrap returns conn, scanned. A *tls.Conn must have done its handshake and not have chosen "h2"; net/http then sets
// Request.TLS as it does for a *tls.Conn of its own.
func Wrap(conn net.Conn, o Options) net.Conn { return newWatch(o).wrapAny(conn) }

func (w *watch) wrapAny(conn net.Conn) net.Conn {
	if secure, ok := conn.(*tls.Conn); ok {
		return &secureConn{w.wrap(conn), secure}
	}
	return w.wrap(conn)
}

// secureConn is a Conn over TLS: net/http asks a connection that is no *tls.Conn for its ConnectionState.
type secureConn struct {
	*Conn
	tls *tls.Conn
}

func (c *secureConn) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() }

// A Conn is a connection whose Read hands on only what the scanner let pass. Read must not be called by two
// goroutines at a time, and is not by net/http; everything else may.
type Conn struct {
	net.Conn
	watch *watch
	scan  scanner

	// held[given:judged] is to be handed on, held[judged:] is not judged yet. It begins in box, from the pool.
	held          []byte
	given, judged int
	box           *[boxBytes]byte
	failed        error // what came with the last bytes read, to be returned behind them
	opaque        bool

	refused atomic.Bool // for Close
	closed  atomic.Bool
}

// Read reads what may be handed on.
func (c *Conn) Read(p []byte) (int, error) {
	if c.opaque || len(p) == 0 {
		return c.Conn.Read(p)
	}
	for {
		if c.given < c.judged {
			return c.give(p), nil
		}
		if err := c.failed; err != nil {
			c.failed = nil
			return 0, err
		}
		if c.scan.refused != nil {
			return c.discard(p)
		}
		if len(c.held) > 0 {
			if err := c.readHeld(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := c.Conn.Read(p)
		if n == 0 {
			return 0, err
		}
		passed := c.scan.scan(p[:n])
		if passed == n && c.scan.refused == nil {
			return n, err
		}
		c.failed = err
		c.hold(p[passed:n])
		if passed > 0 {
			return passed, nil
		}
	}
}

// give hands on from held.
func (c *Conn) give(p []byte) int {
	n := copy(p, c.held[c.given:c.judged])
	c.given += n
	if c.given == len(c.held) {
		c.held, c.given, c.judged = nil, 0, 0
		if c.box != nil {
			c.watch.boxes.Put(c.box)
			c.box = nil
		}
	}
	return n
}

// hold keeps b, which has been scanned and not passed; after a refusal, what stands in for it.
func (c *Conn) hold(b []byte) {
	c.box = c.watch.boxes.Get().(*[boxBytes]byte)
	c.held = append(c.box[:0], b...)
	c.substitute()
}

// substitute replaces what is not judged, if it is refused.
func (c *Conn) substitute() {
	if c.scan.refused == nil {
		return
	}
	c.held = c.scan.substitute(c.held[:c.judged], c.watch.Target)
	c.judged = len(c.held)
	c.refused.Store(true)
	if c.watch.OnRefusal != nil {
		c.watch.OnRefusal(c.RemoteAddr(), c.scan.refused)
	}
}

// readHeld reads more behind what is held and not judged, and judges it. The limits of the scanner bound what is held.
func (c *Conn) readHeld() error {
	if c.given > 0 {
		c.held = append(c.held[:0], c.held[c.given:]...)
		c.given, c.judged = 0, 0
	}
	if len(c.held) == cap(c.held) {
		grown := make([]byte, len(c.held), 2*cap(c.held))
		copy(grown, c.held)
		c.held = grown
	}
	n, err := c.Conn.Read(c.held[len(c.held):cap(c.held)])
	if n == 0 {
		return err
	}
	c.failed = err
	c.held = c.held[:len(c.held)+n]
	c.judged = c.scan.scan(c.held)
	c.substitute()
	return nil
}

// discard reads on after a refusal and forgets what comes: net/http gets a byte that begins no request, for it closes
// the connection before it looks at another one.
func (c *Conn) discard(p []byte) (int, error) {
	var b [512]byte
	n, err := c.Conn.Read(b[:])
	if n == 0 {
		return 0, err
	}
	p[0] = 0
	return 1, nil
}

// CloseWrite ends the sending side; net/http calls it when it closes a connection that may still receive.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close closes the connection. When its last request was refused, the peer may still be sending it, and closing at
// once would reset the connection under the answer: then the rest is read and forgotten for a moment, in the
// background.
func (c *Conn) Close() error {
	if !c.refused.Load() || c.closed.Swap(true) {
		return c.Conn.Close()
	}
	select {
	case c.watch.lingering <- struct{}{}:
	default:
		return c.Conn.Close()
	}
	go func() {
		defer func() { <-c.watch.lingering }()
		defer c.Conn.Close()
		c.Conn.SetReadDeadline(time.Now().Add(lingerTime))
		if c.CloseWrite() == nil {
			io.CopyN(io.Discard, c.Conn, lingerBytesMax) // ends with the peer, the time or the bytes
		}
	}()
	return nil
}

var errEarly = errors.New("edge: bytes came before the protocol was switched")

// Opaque ends the scanning: from here on the bytes are not HTTP. No Read may be under way, as after a Hijack. The
// error says that bytes came already, which nobody can tell the protocol of; the connection is of no use then.
func (c *Conn) Opaque() error {
	if len(c.held) > 0 || c.scan.refused != nil || c.scan.state != atStart {
		return errEarly
	}
	c.opaque = true
	return nil
}

// Upgradable returns w, whose Hijack makes the connection opaque (see [Conn.Opaque]); connections that are no *Conn
// stay as they are. Hijack fails, and has closed the connection, when the client has sent bytes before it knew that
// the protocol is switched. A reverse proxy that passes upgrades on is to be called with it.
func Upgradable(w http.ResponseWriter) http.ResponseWriter { return upgradable{w} }

type upgradable struct{ http.ResponseWriter }

func (u upgradable) Unwrap() http.ResponseWriter { return u.ResponseWriter }

func (u upgradable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if rw.Reader.Buffered() > 0 {
		err = errEarly
	} else if scanned, ok := conn.(interface{ Opaque() error }); ok {
		err = scanned.Opaque()
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, rw, nil
}
