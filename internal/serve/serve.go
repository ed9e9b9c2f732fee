// Package serve is the shell that every service has around its handlers, and no domain: configuration from the
// environment, JSON logs, traces, metrics, health, problems (RFC 9457), limits, and a shutdown that cuts nothing off.
//
// A service is one call:
//
//	func main() { serve.Main("chat: rooms and their messages", vars, run) }
//
//	func run(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
//		rooms, err := room.Open(getenv("DATA_DIR"))
//		if err != nil {
//			return err
//		}
//		defer rooms.Close() // when Run returns, no handler runs any more
//		return serve.Run(ctx, getenv, stdout, service(rooms))
//	}
//
// A test calls New in place of Run and hands the Server to httptest.NewServer, with Env over a map as its environment.
//
// The shell answers GET /health, /ready, /metrics, /openapi.yaml and /whoami by itself. With AUTH_URL it verifies the callers' bearer
// tokens in the process, with the keys and the revocations that it gets from there. Without AUTH_URL it is in open development
// mode: it listens on loopback only, believes the X-User header, and refuses requests whose Host is not a loopback name,
// so that no web page can reach it through a name of its own.
package serve

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"dongne/internal/verify"
)

// Handler answers one request or returns why it cannot: a *Error goes to the client as it is, an error from reading the
// body as 413, 408 or 400, anything else as a bare 500 and a log line. A handler that fails after the first byte of its
// answer gets the connection cut.
type Handler func(w http.ResponseWriter, r *http.Request) error

// Service is what tells one service from another.
type Service struct {
	Name    string                      // "chat"
	OpenAPI []byte                      // the contract, served as it is at GET /openapi.yaml
	Routes  map[string]Handler          // ServeMux pattern → handler: the whole surface but the shell's own routes
	Streams []string                    // those patterns whose answers are streams: no time-outs, a limit of their own
	Quiet   []string                    // those patterns whose successes are logged at debug level: machines call them all the time
	Strict  []string                    // those patterns that are refused while it is not known which tokens were revoked of late
	Metrics func(w io.Writer)           // optional: more lines in Prometheus text
	Ready   func(context.Context) error // optional: why the service is not ready yet; the text is public

	// Guard is optional: what the service has against a request before any route sees it. It may change the request.
	Guard func(w http.ResponseWriter, r *http.Request) error
	// Listener is optional: what stands between the network and net/http.
	Listener func(net.Listener) (net.Listener, error)
	Secure   bool // Listener speaks TLS
	// Verifier is optional: who verifies tokens, where AUTH_URL cannot say it.
	Verifier Verifier

	// Refusals say what the engine's own errors are over HTTP; the first that matches by errors.Is counts.
	Refusals []Refusal
}

// ShellRoutes are the patterns that every service has beside its own; sorted.
var ShellRoutes = []string{"GET /health", "GET /metrics", "GET /openapi.yaml", "GET /ready", "GET /whoami"}

// limits are the shell's limits. They are values of a Server so that tests can wait less long.
type limits struct {
	bodyBytes   int64
	headerBytes int
	uriBytes    int
	requests    int           // concurrent, streams not counted
	streams     int           // concurrent, hijacked ones while their handler runs
	readHeader  time.Duration // from the first byte to the end of the header
	read        time.Duration // from the first byte to the end of the body
	write       time.Duration // from the end of the header to the end of the answer
	idle        time.Duration // between two requests of a connection
	drain       time.Duration // from the signal until what still runs is cut
	cutGrace    time.Duration // that handlers get to return after their connections were cut
}

var defaultLimits = limits{
	bodyBytes:   1 << 20,
	headerBytes: 32 << 10,
	uriBytes:    8 << 10,
	requests:    4096,
	streams:     10_000,
	readHeader:  5 * time.Second,
	read:        30 * time.Second,
	write:       60 * time.Second, // longer than read: the 408 for a body that stalled must still go out
	idle:        120 * time.Second,
	drain:       15 * time.Second,
	cutGrace:    time.Second,
}

const (
	shellRequestsMax = 64              // concurrent requests to the shell's own routes, so that they answer under overload
	overloadRetry    = 1 * time.Second // the Retry-After of an overloaded service

	// revocationsAgeMax is how old the knowledge of revoked tokens may be for a strict route.
	revocationsAgeMax = 10 * time.Second
)

// Server is a service's complete handler, for net/http and for httptest.NewServer.
type Server struct {
	service     Service
	limits      limits
	config      config
	log         *slog.Logger
	mux         http.ServeMux
	crossOrigin http.CrossOriginProtection
	routes      []*route // sorted by pattern; unmatched last
	unmatched   *route
	verifier    Verifier  // nil: open development mode
	stop        func()    // ends the verifier of our own
	spans       *exporter // nil: off
	started     time.Time
	now         func() time.Time
	random      func() uint64

	requests, streams, shell gate

	stopping atomic.Bool     // /ready says so
	draining context.Context // ends when the streams are to end
	drain    context.CancelFunc
	cut      context.Context // ends when what still runs at the drain's end is to be cut
	cutAll   context.CancelFunc
}

// route is one pattern, its handler and its counters.
type route struct {
	pattern string
	handler Handler
	stream  bool
	quiet   bool
	strict  bool
	gate    *gate
	metrics routeMetrics
}

// New returns the complete handler of a service, which a test can hand to httptest.NewServer. Shutdown starts when ctx
// ends: /ready answers 503 and Draining's channels close. A bad variable, pattern or stream is an error.
func New(ctx context.Context, getenv func(string) string, stdout io.Writer, service Service) (*Server, error) {
	s, err := newServer(getenv, stdout, service, defaultLimits)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() {
		s.stopping.Store(true)
		s.drain()
		s.stop()
		s.spans.close(context.Background())
	})
	return s, nil
}

func newServer(getenv func(string) string, stdout io.Writer, service Service, lim limits) (*Server, error) {
	c, err := readConfig(getenv, service.Verifier == nil)
	if err != nil {
		return nil, err
	}
	log, err := NewLogger(getenv, stdout)
	if err != nil {
		return nil, err
	}
	s := &Server{
		service: service, limits: lim, config: c, log: log, verifier: service.Verifier, stop: func() {},
		now: time.Now, random: rand.Uint64,
	}
	s.started = s.now()
	s.draining, s.drain = context.WithCancel(context.Background())
	s.cut, s.cutAll = context.WithCancel(context.Background())
	s.requests.max, s.streams.max, s.shell.max = lim.requests, lim.streams, shellRequestsMax
	if err := s.addRoutes(); err != nil {
		return nil, err
	}
	if c.otlp != nil {
		s.spans = startExporter(c.otlp, service.Name)
	}
	switch {
	case s.verifier != nil:
	case c.auth != nil:
		v := verify.Start(context.Background(), verify.HTTP(c.auth, Transport(&http.Transport{})), verify.Options{Audience: Audience})
		s.verifier, s.stop = v, v.Close
	default:
		log.Warn("open development mode: every caller is believed to be who the X-User header says; loopback only")
	}
	return s, nil
}

// addRoutes fills the mux. http.ServeMux panics at a bad or conflicting pattern; that becomes an error here.
func (s *Server) addRoutes() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("serve: routes of %s: %v", s.service.Name, p)
		}
	}()
	shell := map[string]Handler{
		"GET /health": s.health, "GET /ready": s.ready, "GET /metrics": s.metrics, "GET /openapi.yaml": s.openAPI,
		"GET /whoami": s.whoami,
	}
	for pattern, handler := range shell {
		s.add(&route{pattern: pattern, handler: handler, gate: &s.shell})
	}
	for pattern, handler := range s.service.Routes {
		stream := slices.Contains(s.service.Streams, pattern)
		s.add(&route{pattern: pattern, handler: refusing(handler, s.service.Refusals), stream: stream,
			quiet: slices.Contains(s.service.Quiet, pattern), strict: slices.Contains(s.service.Strict, pattern), gate: &s.requests})
	}
	for _, pattern := range slices.Concat(s.service.Streams, s.service.Quiet, s.service.Strict) {
		if s.service.Routes[pattern] == nil {
			return fmt.Errorf("serve: %q of %s is not a route", pattern, s.service.Name)
		}
	}
	slices.SortFunc(s.routes, func(a, b *route) int { return strings.Compare(a.pattern, b.pattern) })
	s.unmatched = &route{pattern: "unmatched"}
	s.routes = append(s.routes, s.unmatched)
	return nil
}

func (s *Server) add(r *route) {
	if r.handler == nil {
		panic(fmt.Sprintf("%q has no handler", r.pattern))
	}
	s.routes = append(s.routes, r)
	s.mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) { w.(*exchange).run(r, req) })
}

// Audience is what access tokens for our services are made out to.
const Audience = "dongne"

// Draining returns a channel that closes when the service begins to shut down, and when the token of the request's Caller
// ends or is revoked. A streaming handler ends with a last event then: the shutdown waits for it. Outside of a request the
// channel is nil and never closes.
func Draining(ctx context.Context) <-chan struct{} {
	x := exchangeOf(ctx)
	switch {
	case x == nil:
		return nil
	case x.caller.Claims == nil:
		return x.server.draining.Done()
	case x.life == nil:
		ctx, cancel := context.WithCancel(x.server.draining)
		stop := x.afterToken(cancel)
		x.life = &life{ctx, func() { stop(); cancel() }}
	}
	return x.life.Done()
}

// life is the time for which a stream may last whose caller has a token.
type life struct {
	context.Context
	end func()
}

// AfterToken is Draining for streams that outlive their handler, as a hijacked connection may: f is called, in a goroutine
// of its own, when the token of the request's Caller ends or is revoked, perhaps for both, until stop is called, which does
// not wait for an f that was begun. Without a token f is never called.
func AfterToken(r *http.Request, f func()) (stop func()) {
	x := exchangeOf(r.Context())
	if x == nil || x.caller.Claims == nil {
		return func() {}
	}
	return x.afterToken(f)
}

func (x *exchange) afterToken(f func()) (stop func()) {
	claims := x.caller.Claims
	end := time.AfterFunc(claims.Expires.Sub(x.server.now()), f)
	unwatch := x.server.verifier.AfterRevoked(claims, f)
	return func() { end.Stop(); unwatch() }
}

// gate counts what is inside and lets no more than max in.
type gate struct {
	max  int
	mu   sync.Mutex
	n    int           // guarded by mu
	idle chan struct{} // guarded by mu; closed when n reaches 0; nil when nobody waits
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n >= g.max {
		return false
	}
	g.n++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n--
	if g.n == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

func (g *gate) inside() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n
}

// wait waits until the gate was empty once; it returns false when ctx ends before.
func (g *gate) wait(ctx context.Context) bool {
	g.mu.Lock()
	if g.n == 0 {
		g.mu.Unlock()
		return true
	}
	if g.idle == nil {
		g.idle = make(chan struct{})
	}
	idle := g.idle
	g.mu.Unlock()
	select {
	case <-idle:
		return true
	case <-ctx.Done():
		return false
	}
}
