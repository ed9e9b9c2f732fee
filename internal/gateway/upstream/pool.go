// Package upstream sends requests to services near by. A Pool is an http.RoundTripper over HTTP/1.1 connections that it keeps:
// one request at a time on each, written and read by the goroutine that asks, where http.Transport has two goroutines a
// connection and hands every request and every answer over between them.
//
// It does what a gateway needs, and no more: no proxies, no redirections, no compression, no HTTP/2; https goes through an
// http.Transport. A kept connection that the service has closed is noticed before anything is sent on it. When one breaks
// nevertheless before the first byte of an answer, the request is sent once more, on a new connection, if that cannot do
// anything twice: it has no body and its method is safe, or it carries an Idempotency-Key and its body can be had again.
package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	dialMax      = 2 * time.Second
	idleMax      = 30 * time.Second // shorter than a service's own, so that it is not the one to hang up
	idlePerHost  = 256
	headBytesMax = 256 << 10
	headsMax     = 8        // informational answers before the real one
	inlineMax    = 64 << 10 // bytes of a body that is sent before the answer is waited for
	drainMax     = 4 << 10  // bytes of an answer that nobody wants, read so that its connection can be kept
	drainWithin  = 10 * time.Millisecond
)

// ErrNotSent wraps the errors of requests of which no byte was sent.
var ErrNotSent = errors.New("the service cannot be reached")

// Pool is an http.RoundTripper. The zero value is ready. Its methods may be called by any number of goroutines.
type Pool struct {
	// HeadTimeout bounds the time from the request's last byte to the answer's head; 0: the request's context alone does.
	HeadTimeout time.Duration
	// Dial opens a connection; nil: TCP, within 2 s.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	secure sync.Once
	tls    *http.Transport

	mu   sync.Mutex
	idle map[string][]*conn // by host:port, the last used last; guarded by mu
}

// conn is a connection to a service.
type conn struct {
	net.Conn
	pool   *Pool
	addr   string
	reused bool
	since  time.Time // when it became idle
	left   int64     // bytes that may be read until the answer's head has ended
	r      *bufio.Reader
	w      *bufio.Writer

	mu     sync.Mutex
	headed bool // the answer's head is there: no time-out of its own bounds what follows; guarded by mu
}

// wait bounds what the service may take until the next sign of it, or of the client, has come; 0: not at all.
func (c *conn) wait(ctx context.Context, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pool.HeadTimeout == 0 || c.headed {
		return
	}
	if d == 0 {
		c.SetDeadline(time.Time{})
	} else {
		c.SetDeadline(time.Now().Add(d))
	}
	if ctx.Err() != nil {
		c.SetDeadline(givenUp) // it may just have been moved again
	}
}

// giveUp ends the wait for the answer's head.
func (c *conn) giveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.headed {
		c.SetDeadline(givenUp)
	}
}

// begin and head enclose the time in which wait counts.
func (c *conn) begin(ctx context.Context) {
	c.mu.Lock()
	c.headed = false
	c.mu.Unlock()
	c.wait(ctx, c.pool.HeadTimeout)
}

func (c *conn) head(ctx context.Context) {
	c.left = math.MaxInt64
	c.wait(ctx, 0)
	c.mu.Lock()
	c.headed = true
	c.mu.Unlock()
}

// givenUp is a deadline in the past.
var givenUp = time.Unix(1, 0)

// A clientBody is a request's body on its way. While the client is waited for, the service need not answer; where the client
// does not send it to its end, there is no answer to wait for.
type clientBody struct {
	io.ReadCloser
	conn    *conn
	ctx     context.Context
	failure atomic.Pointer[error]
}

// Read reads on.
func (b *clientBody) Read(p []byte) (int, error) {
	b.conn.wait(b.ctx, 0)
	n, err := b.ReadCloser.Read(p)
	b.conn.wait(b.ctx, b.conn.pool.HeadTimeout)
	if err != nil && err != io.EOF {
		b.failure.Store(&err)
		b.conn.giveUp()
	}
	return n, err
}

// Read bounds the head of an answer.
func (c *conn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, fmt.Errorf("upstream: the head of the answer is over %d bytes", headBytesMax)
	}
	n, err := c.Conn.Read(p)
	c.left -= int64(n)
	return n, err
}

// RoundTrip implements http.RoundTripper. The answer's body must be closed.
func (p *Pool) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "https" {
		return p.overTLS().RoundTrip(r)
	}
	for {
		c, err := p.get(r.Context(), addrOf(r))
		if err != nil {
			closeBody(r)
			return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		answer, untouched, err := c.exchange(r)
		if err == nil {
			return answer, nil
		}
		c.Close()
		if !c.reused || !untouched || r.Context().Err() != nil {
			return nil, cause(r.Context(), err)
		}
		again, ok := repeat(r)
		if !ok {
			return nil, err
		}
		r = again
	}
}

// cause prefers why the request was given up to what that did to its connection.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		r.Body.Close()
	}
}

// repeat returns a request that may be sent once more, although the service may have done what it asks.
func repeat(r *http.Request) (*http.Request, bool) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete, "":
	default:
		if r.Header.Get("Idempotency-Key") == "" {
			return nil, false
		}
	}
	if r.Body == nil || r.Body == http.NoBody {
		return r, true
	}
	if r.GetBody == nil {
		return nil, false
	}
	body, err := r.GetBody()
	if err != nil {
		return nil, false
	}
	again := *r
	again.Body = body
	return &again, true
}

func addrOf(r *http.Request) string {
	if r.URL.Port() == "" {
		return net.JoinHostPort(r.URL.Hostname(), "80")
	}
	return r.URL.Host
}

func (p *Pool) overTLS() http.RoundTripper {
	p.secure.Do(func() {
		p.tls = &http.Transport{DialContext: p.Dial, ResponseHeaderTimeout: p.HeadTimeout, IdleConnTimeout: idleMax,
			MaxIdleConnsPerHost: idlePerHost, DisableCompression: true, MaxResponseHeaderBytes: headBytesMax}
	})
	return p.tls
}

// get returns a connection that was kept, or a new one.
func (p *Pool) get(ctx context.Context, addr string) (*conn, error) {
	for {
		p.mu.Lock()
		kept := p.idle[addr]
		if len(kept) == 0 {
			p.mu.Unlock()
			return p.dial(ctx, addr)
		}
		c := kept[len(kept)-1]
		kept[len(kept)-1] = nil
		p.idle[addr] = kept[:len(kept)-1]
		p.mu.Unlock()
		if time.Since(c.since) < idleMax && quiet(c.Conn) {
			c.reused = true
			return c, nil
		}
		c.Close()
	}
}

func (p *Pool) dial(ctx context.Context, addr string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialMax)
	defer cancel()
	dial := p.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	nc, err := dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, pool: p, addr: addr}
	c.r, c.w = bufio.NewReader(c), bufio.NewWriter(nc)
	return c, nil
}

// put keeps a connection whose answer was read to its end.
func (p *Pool) put(c *conn) {
	c.since = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle == nil {
		p.idle = map[string][]*conn{}
	}
	kept := p.idle[c.addr]
	if len(kept) > 0 && c.since.Sub(kept[0].since) > idleMax { // the one that has been idle longest
		kept[0].Close()
		kept = append(kept[:0], kept[1:]...)
	}
	if len(kept) >= idlePerHost {
		c.Close()
		p.idle[c.addr] = kept
		return
	}
	p.idle[c.addr] = append(kept, c)
}

// CloseIdleConnections closes the connections that wait for a request.
func (p *Pool) CloseIdleConnections() {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, kept := range idle {
		for _, c := range kept {
			c.Close()
		}
	}
	if t, ok := p.overTLS().(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// exchange sends a request and reads the head of its answer. untouched says of an error that not a byte of an answer came.
func (c *conn) exchange(r *http.Request) (answer *http.Response, untouched bool, err error) {
	// The deadline lies in the past as soon as the request is given up, until its answer's body has ended.
	stop := context.AfterFunc(r.Context(), func() { c.SetDeadline(givenUp) })
	out, from := r, (*clientBody)(nil)
	if r.Body != nil && r.Body != http.NoBody {
		from = &clientBody{ReadCloser: r.Body, conn: c, ctx: r.Context()}
		copied := *r
		copied.Body, out = from, &copied
	}
	c.begin(r.Context())
	sent, err := c.send(out)
	if err != nil && sent == nil {
		stop()
		return nil, true, err
	}
	answer, untouched, err = c.receive(r)
	if err != nil {
		stop()
		if from != nil && from.failure.Load() != nil {
			err = *from.failure.Load()
		}
		return nil, untouched, err // RoundTrip closes the connection, which ends the sending of a body
	}
	answer.Body = c.body(r, answer, stop, sent)
	return answer, false, nil
}

// closed is a channel for what has ended.
var closed = func() chan error { c := make(chan error); close(c); return c }()

// send writes a request. What it returns is closed when the body is no longer touched; it is nil when nothing can be answered.
func (c *conn) send(r *http.Request) (<-chan error, error) {
	write := func() error {
		if err := r.Write(c.w); err != nil {
			return err
		}
		return c.w.Flush()
	}
	if r.Body == nil || r.Body == http.NoBody || 0 <= r.ContentLength && r.ContentLength <= inlineMax {
		err := write()
		if err != nil && (r.Body == nil || r.Body == http.NoBody) {
			return nil, err
		}
		return closed, err // it may have answered what it would not read to the end
	}
	done := make(chan error, 1)
	go func() {
		defer close(done)
		if err := write(); err != nil {
			done <- err
		}
	}()
	return done, nil
}

// receive reads the head of the answer.
func (c *conn) receive(r *http.Request) (*http.Response, bool, error) {
	c.left = headBytesMax
	if _, err := c.r.Peek(1); err != nil {
		return nil, true, err
	}
	for range headsMax {
		answer, err := http.ReadResponse(c.r, r)
		if err != nil {
			return nil, false, err
		}
		if answer.StatusCode >= 200 || answer.StatusCode == http.StatusSwitchingProtocols {
			c.head(r.Context())
			return answer, false, nil
		}
	}
	return nil, false, fmt.Errorf("upstream: %d informational answers, and no other", headsMax)
}

// body gives an answer a body that gives its connection back.
func (c *conn) body(r *http.Request, answer *http.Response, stop func() bool, sent <-chan error) io.ReadCloser {
	if answer.StatusCode == http.StatusSwitchingProtocols {
		return &tunnel{conn: c, stop: stop}
	}
	b := &body{conn: c, inner: answer.Body, stop: stop, sent: sent, keep: !answer.Close && !r.Close}
	if answer.Body == http.NoBody {
		b.end(true)
	}
	return b
}

// A body is an answer's body. It is used by one goroutine.
type body struct {
	conn  *conn
	inner io.ReadCloser
	stop  func() bool
	sent  <-chan error
	keep  bool
	over  bool
	err   error
}

// Read reads on; at the end the connection is free.
func (b *body) Read(p []byte) (int, error) {
	if b.over {
		if b.err == nil {
			b.err = io.EOF
		}
		return 0, b.err
	}
	n, err := b.inner.Read(p)
	if err != nil {
		b.err = err
		b.end(err == io.EOF)
	}
	return n, err
}

// Buffered is how many bytes, of an answer with a length, can be read without waiting for the service.
func (b *body) Buffered() int {
	if b.over {
		return 0
	}
	return b.conn.r.Buffered()
}

// Close gives the connection back if little of the body is left, and closes it otherwise.
func (b *body) Close() error {
	if !b.over {
		b.conn.SetReadDeadline(time.Now().Add(drainWithin)) // nobody may be about to send the rest
		n, err := io.CopyN(io.Discard, b.inner, drainMax)
		b.end(err == io.EOF && n < drainMax)
		b.err = http.ErrBodyReadAfterClose
	}
	return nil
}

// end is called once, when the answer's body is whole, or given up.
func (b *body) end(whole bool) {
	b.over = true
	free := b.stop() // false: the deadline is, or will be, in the past
	select {
	case err := <-b.sent:
		free = free && err == nil
	default:
		free = false // the service did not wait for the rest of the request
	}
	if whole && free && b.keep && b.conn.r.Buffered() == 0 {
		b.conn.SetReadDeadline(time.Time{}) // of Close
		b.conn.pool.put(b.conn)
		return
	}
	b.conn.Close()
}

// A tunnel is the body of an answer that switched protocols: the connection itself.
type tunnel struct {
	*conn
	stop func() bool
}

// Read reads what is buffered first.
func (t *tunnel) Read(p []byte) (int, error) { return t.r.Read(p) }

// Close ends the connection.
func (t *tunnel) Close() error {
	t.stop()
	return t.conn.Close()
}
