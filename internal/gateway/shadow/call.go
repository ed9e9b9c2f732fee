package shadow

import (
	"context"
	"io"
	"mime"
	"net/http"
	"sync"
	"sync/atomic"
)

// A Call is one request that the shadow was asked too. A nil Call does nothing.
// Its methods may be called from any goroutine.
type Call struct {
	shadow    *Shadow
	request   Request
	cancel    context.CancelFunc
	primary   chan *answer // gets at most one
	once      sync.Once    // of what settles the primary's part
	abandoned atomic.Bool
}

// Answer takes the primary's answer, in a ReverseProxy's ModifyResponse or
// wherever its Body has not been read. It puts a reader in front of the Body that
// keeps a copy, up to BodyBytesMax, while the client's goroutine reads; what that
// reads, and its errors, stay the same. A stream and an upgrade are let alone.
func (c *Call) Answer(r *http.Response) {
	if c == nil {
		return
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if r.StatusCode < 200 || kind == "text/event-stream" {
		c.Abandon()
		return
	}
	a := c.shadow.head(c.request.Method, r)
	switch {
	case c.request.Method == http.MethodHead || r.Body == nil || r.Body == http.NoBody:
		c.settle(a)
	case r.ContentLength > int64(c.shadow.settings.BodyBytesMax):
		a.cut = true
		c.settle(a)
	default:
		r.Body = &tee{ReadCloser: r.Body, call: c, answer: a}
	}
}

// Abandon says that the primary has given no answer that could be compared: it
// failed, or the client went away. After a whole answer it does nothing.
func (c *Call) Abandon() {
	if c == nil {
		return
	}
	c.once.Do(func() {
		c.abandoned.Store(true)
		c.cancel()
	})
}

// settle hands the primary's answer to the worker.
func (c *Call) settle(a *answer) {
	c.once.Do(func() { c.primary <- a })
}

// wait returns the primary's answer, or nil if it does not come before ctx ends.
func (c *Call) wait(ctx context.Context) *answer {
	select {
	case a := <-c.primary:
		return a
	case <-ctx.Done():
	}
	select { // both may have been there
	case a := <-c.primary:
		return a
	default:
		return nil
	}
}

// A tee copies what is read of the primary's body.
type tee struct {
	io.ReadCloser
	call   *Call
	answer *answer // nil once it is settled
}

// Read reads on, and settles the answer at the end or at the limit.
func (t *tee) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if t.answer == nil {
		return n, err
	}
	if len(t.answer.body)+n > t.call.shadow.settings.BodyBytesMax {
		t.answer.body, t.answer.cut = nil, true
	} else {
		t.answer.body = append(t.answer.body, p[:n]...)
	}
	if t.answer.cut || err == io.EOF {
		t.call.settle(t.answer)
		t.answer = nil
	} else if err != nil {
		t.call.Abandon()
		t.answer = nil
	}
	return n, err
}

// Close before the end abandons the call.
func (t *tee) Close() error {
	t.call.Abandon()
	return t.ReadCloser.Close()
}
