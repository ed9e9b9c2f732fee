package edge

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// TLSOptions are the limits of handshakes; the zero value has the defaults.
type TLSOptions struct {
	Options
	Handshakes       int           // at a time; default 1024; further connections wait to be accepted
	HandshakeTimeout time.Duration // of each; default 5 s
}

// TLSListener returns inner with TLS. Handshakes run beside each other, before Accept returns a connection. Those that
// chose HTTP/2 come as *tls.Conn, from which net/http recognises them; all others are scanned (see [Wrap]). An
// http.Server without a TLSConfig of its own serves both kinds: Serve(TLSListener(…)). Without NextProtos, config
// offers h2 and http/1.1. Close ends the handshakes under way.
func TLSListener(inner net.Listener, config *tls.Config, o TLSOptions) net.Listener {
	config = config.Clone()
	if len(config.NextProtos) == 0 {
		config.NextProtos = []string{"h2", "http/1.1"}
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &tlsListener{
		Listener: inner, config: config, watch: newWatch(o.Options),
		timeout: cmp.Or(o.HandshakeTimeout, 5*time.Second),
		slots:   make(chan struct{}, cmp.Or(o.Handshakes, 1024)),
		ready:   make(chan accepted),
		ctx:     ctx, cancel: cancel,
	}
	go l.acceptAll()
	return l
}

type tlsListener struct {
	net.Listener
	config  *tls.Config
	watch   *watch
	timeout time.Duration
	slots   chan struct{} // one for each handshake under way
	ready   chan accepted
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
}

type accepted struct {
	conn net.Conn
	err  error
}

func (l *tlsListener) Accept() (net.Conn, error) {
	select {
	case a := <-l.ready:
		return a.conn, a.err
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (l *tlsListener) Close() error {
	l.cancel()
	return l.Listener.Close()
}

// acceptAll starts a handshake for each connection, until the listener is closed. An error of Accept goes to the
// caller of ours, who decides how long to wait; the next one comes when that has been taken.
func (l *tlsListener) acceptAll() {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.ctx.Done():
			return
		}
		conn, err := l.Listener.Accept()
		if err != nil {
			<-l.slots
			if !l.offer(accepted{err: err}) {
				return
			}
			continue
		}
		go func() {
			defer func() { <-l.slots }()
			l.shake(conn)
		}()
	}
}

// offer waits until Accept takes a; false: the listener was closed.
func (l *tlsListener) offer(a accepted) bool {
	select {
	case l.ready <- a:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// shake makes a connection ready or closes it.
func (l *tlsListener) shake(conn net.Conn) {
	ctx, cancel := context.WithTimeout(l.ctx, l.timeout)
	defer cancel()
	secure := tls.Server(conn, l.config)
	if err := secure.HandshakeContext(ctx); err != nil {
		l.notTLS(err)
		conn.Close()
		return
	}
	a := accepted{conn: secure}
	if secure.ConnectionState().NegotiatedProtocol != "h2" {
		a.conn = l.watch.wrapAny(secure)
	}
	if !l.offer(a) {
		conn.Close()
	}
}

// notTLS tells a client that speaks HTTP without TLS what is wrong.
func (l *tlsListener) notTLS(err error) {
	var record tls.RecordHeaderError
	if !errors.As(err, &record) || record.Conn == nil {
		return
	}
	plain := []string{"GET /", "HEAD ", "POST ", "PUT /", "DELET", "PATCH", "OPTIO"}
	if slices.Contains(plain, string(record.RecordHeader[:])) {
		record.Conn.SetWriteDeadline(time.Now().Add(time.Second))
		io.WriteString(record.Conn, "HTTP/1.0 400 Bad Request\r\n"+
			"Content-Type: text/plain; charset=utf-8\r\n\r\nThis port speaks HTTPS only.\n")
	}
}

// checkEvery is how often a handshake looks whether the certificate's files have changed, at most.
const checkEvery = time.Second

// A Certificate is a TLS certificate and its key in PEM files that may be replaced while it is in use.
type Certificate struct {
	certFile, keyFile string
	report            func(error)
	now               func() time.Time

	current atomic.Pointer[tls.Certificate]
	checked atomic.Int64 // when, in Unix nanoseconds
	mu      sync.Mutex   // held while the files are looked at
	stamps  [2]os.FileInfo
}

// LoadCertificate reads a pair of files. The error says why it is of no use. Later problems, a broken new pair or a
// file that is gone, go to report, once for each change of the files; the old pair stays in use. now is time.Now, but
// for tests.
func LoadCertificate(certFile, keyFile string, report func(error), now func() time.Time) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, report: report, now: now}
	c.stamps = c.stat()
	c.checked.Store(now().UnixNano())
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// Get is for tls.Config.GetCertificate. At most once a second it looks whether the files have changed.
func (c *Certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	now := c.now().UnixNano()
	if now-c.checked.Load() >= int64(checkEvery) && c.mu.TryLock() {
		c.reload()
		c.checked.Store(now)
		c.mu.Unlock()
	}
	return c.current.Load(), nil
}

// reload takes a changed pair, if it is good. The files are looked at before they are read, so that what is written in
// between is found the next time.
func (c *Certificate) reload() {
	stamps := c.stat()
	if sameFile(stamps[0], c.stamps[0]) && sameFile(stamps[1], c.stamps[1]) {
		return
	}
	c.stamps = stamps
	if err := c.load(); err != nil {
		c.report(fmt.Errorf("the certificate in use stays: %w", err))
	}
}

func (c *Certificate) load() error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	c.current.Store(&pair)
	return nil
}

// stat looks at both files; nil for one that cannot be looked at.
func (c *Certificate) stat() (stamps [2]os.FileInfo) {
	for i, name := range []string{c.certFile, c.keyFile} {
		if info, err := os.Stat(name); err == nil {
			stamps[i] = info
		}
	}
	return stamps
}

func sameFile(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
