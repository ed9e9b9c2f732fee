package gateway

import (
	"io"
	"net/http"
	"sync"
)

// A clientBody is a request's body that remembers why it could not be read to
// its end, which is no fault of the service. The transport may read it from
// another goroutine; once it is closed, nobody touches the request any more.
type clientBody struct {
	io.ReadCloser

	mu     sync.Mutex
	closed bool  // guarded by mu
	failed error // guarded by mu
}

// Read reads on, until the body is closed.
func (b *clientBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.failed = err
	}
	return n, err
}

// Close waits for a Read under way.
func (b *clientBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return b.ReadCloser.Close()
}

// failure is why the body could not be read; nil: nothing is known against it, or there is none.
func (b *clientBody) failure() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// buffers are what answers are copied through.
var buffers = pooledBuffers{sync.Pool{New: func() any { return new([bufferBytes]byte) }}}

const bufferBytes = 32 << 10

type pooledBuffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (p *pooledBuffers) Get() []byte { return p.pool.Get().(*[bufferBytes]byte)[:] }

// Put implements httputil.BufferPool.
func (p *pooledBuffers) Put(b []byte) { p.pool.Put((*[bufferBytes]byte)(b)) }

// A streamBody is an answer that may last for ever. Where the gateway ends it, it ends well for the client, who comes again.
type streamBody struct {
	io.ReadCloser
	ended func() bool // by the gateway
}

// Read reads on.
func (b *streamBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && b.ended() {
		err = io.EOF
	}
	return n, err
}
