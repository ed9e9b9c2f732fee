package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"dongne/internal/gateway/control"
	"dongne/internal/gateway/edge"
	"dongne/internal/gateway/shadow"
	"dongne/internal/serve"
)

const (
	dialTimeout   = 2 * time.Second
	answerTimeout = 30 * time.Second // from the request's last byte to the answer's header
	idleTimeout   = 30 * time.Second // shorter than a service's own, so that it is not the one to hang up
	idlePerHost   = 256              // connections kept for the next request
	retryAfter    = time.Second      // what a client is told while a service is away
)

// NewTransport returns the way to the services: nothing is compressed or
// followed on the client's behalf, and no proxy of the environment is used.
func NewTransport() *http.Transport {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
		ResponseHeaderTimeout: answerTimeout,
		IdleConnTimeout:       idleTimeout,
		MaxIdleConnsPerHost:   idlePerHost,
		DisableCompression:    true,
	}
}

// pass sends a request to target and its answer back as it comes. When there is none, its error is a problem: 502 (the
// service did not answer properly), 503 (the breaker is open) or 504 (it took too long).
func (l *Lane) pass(w http.ResponseWriter, r *http.Request, d control.Decision, target *url.URL, subject string, began time.Time) error {
	serve.LimitBody(r, l.BodyMax)
	leave := l.enter()
	defer leave()
	t := &try{lane: l, attempts: l.Retries.Attempts}
	from := &clientBody{ReadCloser: r.Body}
	in := r.WithContext(r.Context())
	in.Body = from
	if 0 < r.ContentLength && r.ContentLength <= l.Retries.BodyMax {
		kept, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		t.body, in.Body = kept, body(kept)
	}
	call := l.compare(in, d, t.body)
	defer call.Abandon()
	var failed error
	proxy := httputil.ReverseProxy{
		Rewrite:       func(p *httputil.ProxyRequest) { l.rewrite(p, target, subject) },
		Transport:     t,
		FlushInterval: -1,
		BufferPool:    &buffers,
		ErrorLog:      slog.NewLogLogger(serve.Logger(r.Context()).Handler(), slog.LevelWarn),
		ErrorHandler:  func(_ http.ResponseWriter, _ *http.Request, err error) { failed = err },
		ModifyResponse: func(answer *http.Response) error {
			took := l.front.Now().Sub(began)
			l.stats.add(answer.StatusCode, took)
			d.Done(t.failed || answer.StatusCode >= 500, took)
			for name := range w.Header() { // what the gateway's own shell says of every answer
				if name != "Set-Cookie" {
					answer.Header.Del(name)
				}
			}
			l.relocate(answer, target)
			call.Answer(answer)
			if !isStream(answer) {
				return nil
			}
			leave()
			return serve.Stream(r)
		},
	}
	if len(r.Header["Upgrade"]) > 0 {
		w = edge.Upgradable(w)
	}
	proxy.ServeHTTP(w, in)
	if failed == nil {
		return nil
	}
	return l.problem(failed, t, from, r, d, began)
}

// buffers are what answers are copied through.
var buffers = pooledBuffers{sync.Pool{New: func() any { return new([bufferBytes]byte) }}}

const bufferBytes = 32 << 10

type pooledBuffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (p *pooledBuffers) Get() []byte { return p.pool.Get().(*[bufferBytes]byte)[:] }

// Put implements httputil.BufferPool.
func (p *pooledBuffers) Put(b []byte) { p.pool.Put((*[bufferBytes]byte)(b)) }

// compare has the other side of a strangler answer too, if it is to.
func (l *Lane) compare(in *http.Request, d control.Decision, kept []byte) *shadow.Call {
	if !d.Shadowed {
		return nil
	}
	other := d.Shadow
	if other == nil {
		var away *serve.Error
		if other, away = l.own(); away != nil {
			return nil
		}
	}
	header := in.Header.Clone()
	return l.shadow.Begin(shadow.Request{Method: in.Method, Route: l.Name, TraceID: serve.TraceID(in.Context()), At: l.front.Now(),
		Send: func(ctx context.Context) (*http.Response, error) {
			out := in.Clone(ctx)
			out.Header, out.Body = header, body(kept)
			p := &httputil.ProxyRequest{In: in, Out: out}
			l.rewrite(p, other, "")
			out.RequestURI = ""
			return l.pool.RoundTrip(out)
		}})
}

// enter counts a request whose answer is not known to be a stream, until the
// first call of leave.
func (l *Lane) enter() (leave func()) {
	if l.Backend == nil {
		return func() {}
	}
	l.Backend.short.Add(1)
	var once sync.Once
	return func() { once.Do(func() { l.Backend.short.Add(-1) }) }
}

// problem says what a request's failure means to the client.
func (l *Lane) problem(err error, t *try, from *clientBody, r *http.Request, d control.Decision, began time.Time) error {
	var said *serve.Error
	var network net.Error
	var broken *errBroken
	known := "unknown"
	if !t.sent {
		known = "not_applied"
	}
	switch {
	case errors.As(err, &said) || r.Context().Err() != nil:
		return err // no room for a stream; or the client went, or was cut
	case from.failure() != nil:
		return from.failure() // the client's doing: too large, too slow, broken off
	case errors.As(err, &broken):
		l.stats.broken.Add(1)
		return outcome(r, known, serve.Problem(http.StatusServiceUnavailable, "circuit-open", "%s has failed too often of late", l.Name).
			RetryAfter(broken.wait).Because(err))
	}
	e := down(http.StatusBadGateway, "%s did not answer", l.Name)
	if errors.As(err, &network) && network.Timeout() {
		e = down(http.StatusGatewayTimeout, "%s did not answer in time", l.Name)
	}
	took := l.front.Now().Sub(began)
	l.stats.add(e.Status(), took)
	d.Done(true, took)
	return outcome(r, known, e.Because(err))
}

// outcome says what is known of the effect of a request that asks for one.
func outcome(r *http.Request, known string, e *serve.Error) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return e
	}
	return e.Outcome(known)
}

func down(status int, format string, args ...any) *serve.Error {
	return serve.Problem(status, "service-down", format, args...).RetryAfter(retryAfter)
}

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

func (b *clientBody) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// rewrite turns the client's request into the one that the service gets.
func (l *Lane) rewrite(p *httputil.ProxyRequest, target *url.URL, subject string) {
	if !l.KeepPrefix {
		p.Out.URL.Path = behindPrefix(p.In.URL.Path)
		p.Out.URL.RawPath = behindPrefix(p.In.URL.RawPath)
	}
	p.Out.URL.RawQuery = p.In.URL.RawQuery // the service judges a malformed one
	p.SetURL(target)
	h := p.Out.Header
	h["X-Forwarded-For"], h["X-Forwarded-Proto"] = p.In.Header["X-Forwarded-For"], p.In.Header["X-Forwarded-Proto"]
	h.Set("X-Forwarded-Host", p.In.Host)
	h.Set("X-Forwarded-Prefix", "/"+l.Name)
	if subject != "" {
		h.Set("X-Auth-Request-User", subject) // for services that verify no tokens
	}
	// The page's origin is the gateway; to the service, whose Host is its
	// own, a request of that page must not look like one from elsewhere.
	if p.In.Header.Get("Origin") == p.In.Header.Get("X-Forwarded-Proto")+"://"+p.In.Host {
		h.Set("Origin", target.Scheme+"://"+target.Host)
	}
}

// behindPrefix cuts the first segment, however it is escaped, off a path.
func behindPrefix(path string) string {
	if path == "" {
		return "" // RawPath, where it says nothing that Path does not
	}
	_, rest, _ := strings.Cut(path[1:], "/")
	return "/" + rest
}

// relocate puts the prefix in front of a redirection within the service.
func (l *Lane) relocate(answer *http.Response, target *url.URL) {
	if l.KeepPrefix {
		return
	}
	to, err := url.Parse(answer.Header.Get("Location"))
	if err != nil || to.Host != "" && to.Host != target.Host || !strings.HasPrefix(to.Path, "/") {
		return
	}
	own := strings.TrimPrefix(to.EscapedPath(), strings.TrimSuffix(target.EscapedPath(), "/"))
	moved := url.URL{RawQuery: to.RawQuery, Fragment: to.Fragment}
	answer.Header.Set("Location", "/"+l.Name+own+moved.String())
}

func isStream(answer *http.Response) bool {
	kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	return kind == "text/event-stream"
}
