package gateway

import (
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

// Proxy passes a request under /<name>/ on to the service, without that
// prefix, and its answer back as it comes. It is a serve.Handler: when the
// service is away, its error is the problem "service-down" with 502 (it did
// not answer properly), 503 (it is being started) or 504 (it took too long).
func (b *Backend) Proxy(w http.ResponseWriter, r *http.Request) error {
	target, state := b.Where()
	if target == nil {
		return outcome(r, "not_applied", down(http.StatusServiceUnavailable, "%s is %s", b.Name, state))
	}
	leave := b.enter()
	defer leave()
	body := &clientBody{ReadCloser: r.Body}
	in := r.WithContext(r.Context())
	in.Body = body
	var failed error
	proxy := httputil.ReverseProxy{
		Rewrite:       func(p *httputil.ProxyRequest) { b.rewrite(p, target) },
		Transport:     b.transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(serve.Logger(r.Context()).Handler(), slog.LevelWarn),
		ErrorHandler:  func(_ http.ResponseWriter, _ *http.Request, err error) { failed = err },
		ModifyResponse: func(answer *http.Response) error {
			for name := range w.Header() { // what the gateway's own shell says of every answer
				answer.Header.Del(name)
			}
			b.relocate(answer, target)
			if !isStream(answer) {
				return nil
			}
			leave()
			return serve.Stream(r)
		},
	}
	proxy.ServeHTTP(w, in)
	if failed == nil {
		return nil
	}
	return b.problem(failed, body, r)
}

// enter counts a request whose answer is not known to be a stream, until the
// first call of leave.
func (b *Backend) enter() (leave func()) {
	b.short.Add(1)
	var once sync.Once
	return func() { once.Do(func() { b.short.Add(-1) }) }
}

// problem says what a request's failure means to the client.
func (b *Backend) problem(err error, body *clientBody, r *http.Request) error {
	var said *serve.Error
	var network net.Error
	switch {
	case errors.As(err, &said) || r.Context().Err() != nil:
		return err // no room for a stream; or the client went, or was cut
	case body.failure() != nil:
		return body.failure() // the client's doing: too large, too slow, broken off
	case errors.As(err, &network) && network.Timeout():
		return outcome(r, "unknown", down(http.StatusGatewayTimeout, "%s did not answer in time", b.Name).Because(err))
	default:
		return outcome(r, "unknown", down(http.StatusBadGateway, "%s did not answer", b.Name).Because(err))
	}
}

// outcome says what is known of the effect of a request that asks for one. That
// a connection was refused proves nothing: the transport may have sent the
// request on another one before.
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
func (b *Backend) rewrite(p *httputil.ProxyRequest, target *url.URL) {
	p.Out.URL.Path = behindPrefix(p.In.URL.Path)
	p.Out.URL.RawPath = behindPrefix(p.In.URL.RawPath)
	p.Out.URL.RawQuery = p.In.URL.RawQuery // the service judges a malformed one
	p.SetURL(target)
	p.SetXForwarded()
	p.Out.Header.Set("X-Forwarded-Prefix", "/"+b.Name)
	// The page's origin is the gateway; to the service, whose Host is its
	// own, a request of that page must not look like one from elsewhere.
	if p.In.Header.Get("Origin") == "http://"+p.In.Host {
		p.Out.Header.Set("Origin", target.Scheme+"://"+target.Host)
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
func (b *Backend) relocate(answer *http.Response, target *url.URL) {
	to, err := url.Parse(answer.Header.Get("Location"))
	if err != nil || to.Host != "" && to.Host != target.Host || !strings.HasPrefix(to.Path, "/") {
		return
	}
	own := strings.TrimPrefix(to.EscapedPath(), strings.TrimSuffix(target.EscapedPath(), "/"))
	moved := url.URL{RawQuery: to.RawQuery, Fragment: to.Fragment}
	answer.Header.Set("Location", "/"+b.Name+own+moved.String())
}

func isStream(answer *http.Response) bool {
	kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	return kind == "text/event-stream"
}
