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

	"dongne/internal/edge"
	"dongne/internal/gateway/control"
	"dongne/internal/gateway/shadow"
	"dongne/internal/serve"
)

const (
	dialTimeout   = 2 * time.Second
	answerTimeout = 30 * time.Second // from the request's last byte to the answer's header
	idleTimeout   = 30 * time.Second // shorter than a service's own, so that it is not the one to hang up
	idlePerHost   = 256              // connections kept for the next request
	retryAfter    = time.Second      // what a client is told while a service is away

	// streamGrace is what a stream of a service of ours has for a last event, when the gateway ends or the caller's token does:
	// longer than requests under way can keep such a service from being told to end.
	streamGrace = settleMax + 3*time.Second
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

// A passage is one request on its way through a lane.
type passage struct {
	lane     *Lane
	w        http.ResponseWriter
	r        *http.Request // the client's
	decision control.Decision
	target   *url.URL
	subject  string
	began    time.Time // when all of a kept body was there
	try      try
	call     *shadow.Call
	leave    func()
	cancel   context.CancelFunc // ends the request to the service
	failed   error
}

// pass sends a request to target and its answer back as it comes. When there is none, its error is a problem: 502 (the
// service did not answer properly), 503 (the breaker is open) or 504 (it took too long).
func (l *Lane) pass(w http.ResponseWriter, r *http.Request, d control.Decision, target *url.URL, subject string) error {
	serve.LimitBody(r, l.BodyMax)
	if d.Mode == control.Over && !l.FallbackIdentity {
		r, subject = anonymous(r), ""
	}
	p := &passage{lane: l, w: w, r: r, decision: d, target: target, subject: subject, try: try{lane: l, attempts: l.Retries.Attempts}}
	p.leave = l.enter()
	defer p.leave()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	p.cancel = cancel
	in := r.WithContext(ctx)
	if 0 < r.ContentLength && r.ContentLength <= l.Retries.BodyMax {
		kept, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		p.try.body, in.Body = kept, body(kept)
	} else {
		p.try.from = &clientBody{ReadCloser: r.Body}
		in.Body = p.try.from
	}
	p.began = l.front.Now()
	p.call = l.compare(in, d, p.try.body)
	defer p.call.Abandon()
	if len(r.Header["Upgrade"]) > 0 || p.try.body == nil && r.ContentLength != 0 {
		p.proxy(in)
	} else {
		p.failed = p.forward(in)
	}
	if p.failed == nil {
		return nil
	}
	return p.problem(p.failed)
}

// anonymous is a request without what says who sent it.
func anonymous(r *http.Request) *http.Request {
	known := r.Header
	r = r.WithContext(r.Context())
	r.Header = make(http.Header, len(known))
	for name, values := range known {
		if name != "Authorization" && name != "Cookie" {
			r.Header[name] = values
		}
	}
	return r
}

// proxy is forward for whatever comes: what switches protocols, and bodies that are read while they are sent.
func (p *passage) proxy(in *http.Request) {
	w := p.w
	proxy := httputil.ReverseProxy{
		Rewrite:        func(q *httputil.ProxyRequest) { p.lane.rewrite(q, p.target, p.subject) },
		Transport:      &p.try,
		FlushInterval:  -1,
		BufferPool:     &buffers,
		ErrorLog:       slog.NewLogLogger(serve.Logger(in.Context()).Handler(), slog.LevelWarn),
		ErrorHandler:   func(_ http.ResponseWriter, _ *http.Request, err error) { p.failed = err },
		ModifyResponse: p.answer,
	}
	if len(in.Header["Upgrade"]) > 0 {
		w = edge.Upgradable(w)
	}
	proxy.ServeHTTP(w, in)
}

// answer is told of the head of an answer before it goes to the client.
func (p *passage) answer(answer *http.Response) error {
	took := p.lane.front.Now().Sub(p.began)
	p.lane.stats.add(answer.StatusCode, took)
	p.decision.Done(p.try.failed || answer.StatusCode >= 500, took)
	for name := range p.w.Header() { // what the gateway's own shell says of every answer
		if name != "Set-Cookie" && name != "Vary" {
			answer.Header.Del(name)
		}
	}
	p.lane.relocate(answer, p.target)
	p.call.Answer(answer)
	upgraded := answer.StatusCode == http.StatusSwitchingProtocols
	if !upgraded && !isStream(answer) {
		return nil
	}
	p.leave()
	if err := serve.Stream(p.r); err != nil {
		return err
	}
	ctx := answer.Request.Context()
	go p.end(ctx, serve.Draining(p.r.Context()))
	if !upgraded {
		answer.Body = &streamBody{answer.Body, func() bool { return ctx.Err() != nil && p.r.Context().Err() == nil }}
	}
	return nil
}

// end ends a stream when draining is closed: one of a service of ours after it has had the time to do it by itself. ctx is the
// request's to the service.
func (p *passage) end(ctx context.Context, draining <-chan struct{}) {
	select {
	case <-draining:
	case <-ctx.Done():
		return
	}
	if p.lane.Backend != nil && p.lane.Backend.supervised {
		grace := time.NewTimer(streamGrace)
		defer grace.Stop()
		select {
		case <-grace.C:
		case <-ctx.Done():
		}
	}
	p.cancel()
}

// compare has the other side of a strangler answer too, if it is to.
func (l *Lane) compare(in *http.Request, d control.Decision, kept []byte) *shadow.Call {
	if !d.Shadowed || in.ContentLength != 0 && kept == nil {
		return nil
	}
	other := d.Shadow
	if other == nil {
		var away *serve.Error
		if other, away = l.own(); away != nil {
			return nil
		}
	}
	copied := in.Clone(context.WithoutCancel(in.Context()))
	return l.shadow.Begin(shadow.Request{Method: in.Method, Route: l.Name, TraceID: serve.TraceID(in.Context()), At: l.front.Now(),
		Send: func(ctx context.Context) (*http.Response, error) {
			out := copied.Clone(ctx)
			out.Body = body(kept)
			q := &httputil.ProxyRequest{In: copied, Out: out}
			l.rewrite(q, other, "")
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
	return l.Backend.enter()
}

// problem says what a request's failure means to the client.
func (p *passage) problem(err error) error {
	var said *serve.Error
	var network net.Error
	var broken *errBroken
	known := "unknown"
	if !p.try.sent {
		known = "not_applied"
	}
	switch {
	case p.try.from.failure() != nil:
		return p.try.from.failure() // the client's doing: too large, too slow, broken off; net/http has it gone then
	case errors.As(err, &said) || p.r.Context().Err() != nil:
		return err // no room for a stream; or the client went, or was cut
	case errors.As(err, &broken):
		p.lane.stats.broken.Add(1)
		return outcome(p.r, known, serve.Problem(http.StatusServiceUnavailable, "circuit-open", "%s has failed too often of late", p.lane.Name).
			RetryAfter(broken.wait).Because(err))
	}
	e := down(http.StatusBadGateway, "%s did not answer", p.lane.Name)
	if errors.As(err, &network) && network.Timeout() {
		e = down(http.StatusGatewayTimeout, "%s did not answer in time", p.lane.Name)
	}
	took := p.lane.front.Now().Sub(p.began)
	p.lane.stats.add(e.Status(), took)
	p.decision.Done(true, took)
	return outcome(p.r, known, e.Because(err))
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

// relocate makes what an answer says of the service's own paths true of the gateway: where it redirects to, and where a
// cookie of it belongs. Cookies by the names of the gateway's own are dropped.
func (l *Lane) relocate(answer *http.Response, target *url.URL) {
	l.relocateCookies(answer.Header)
	to, err := url.Parse(answer.Header.Get("Location"))
	if err != nil || to.Host != "" && to.Host != target.Host || !strings.HasPrefix(to.Path, "/") {
		return
	}
	own := strings.TrimPrefix(to.EscapedPath(), strings.TrimSuffix(target.EscapedPath(), "/"))
	if !l.KeepPrefix {
		own = "/" + l.Name + own
	}
	moved := url.URL{RawQuery: to.RawQuery, Fragment: to.Fragment}
	answer.Header.Set("Location", own+moved.String())
}

func isStream(answer *http.Response) bool {
	kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	return kind == "text/event-stream"
}

// enter counts a request whose answer is not known to be a stream, until the first call of leave.
func (b *Backend) enter() (leave func()) {
	b.short.Add(1)
	var once sync.Once
	return func() { once.Do(func() { b.short.Add(-1) }) }
}
