package serve

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"
)

// exchange is one request and its answer: the ResponseWriter that handlers write to, and what the access log, the
// metrics and the trace need to know at the end. One allocation holds it all.
type exchange struct {
	http.ResponseWriter
	server  *Server
	request *http.Request
	route   *route // server.unmatched until the mux chose one
	gate    *gate  // what the exchange has entered and must leave; nil for none
	body    body
	trace   traceContext
	traceID string
	start   time.Time
	caller  Identity // as far as a handler asked for it
	life    *life    // of a stream whose caller has a token; nil otherwise

	own     bool     // a route or the shell writes; until then only the mux itself can
	refused int      // the status of the mux's own plain-text error, which is held back; 0 for none
	status  int      // 0 until the head is written
	bytes   int64    // of the answer's body
	conn    net.Conn // after Hijack

	problem *Error // what the client was told, or would have been
	stack   []byte // of a panic
	aborted bool   // the connection is to be cut: the client must not take the answer for whole
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// Unwrap lets http.ResponseController reach the connection.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// WriteHeader notes the status. What the mux itself has to say, 404 and 405 in plain text, is held back.
func (x *exchange) WriteHeader(status int) {
	if !x.own && status >= 400 {
		x.refused = status
		return
	}
	x.ResponseWriter.WriteHeader(status)                                             // first: it panics at a status that HTTP does not have
	if x.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) { // other 1xx are not the final head
		x.status = status
	}
}

// Write counts the bytes of the body.
func (x *exchange) Write(p []byte) (int, error) {
	if !x.own && x.refused != 0 {
		return len(p), nil
	}
	if x.status == 0 {
		x.status = http.StatusOK
	}
	n, err := x.ResponseWriter.Write(p)
	x.bytes += int64(n)
	return n, err
}

// FlushError sends what is buffered, and so the head.
func (x *exchange) FlushError() error {
	if x.status == 0 {
		x.status = http.StatusOK
	}
	return http.NewResponseController(x.ResponseWriter).Flush()
}

// Hijack hands the connection over. From here on the shell writes nothing, and the handler answers for the connection's
// end, at shutdown too: see Draining.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(x.ResponseWriter).Hijack()
	if err == nil {
		x.conn = conn
	}
	return conn, rw, err
}

// body is the request's body with its limit; it remembers the first error, so that problemOf can tell a client's failure
// to send from everything else that may go wrong.
type body struct {
	io.ReadCloser       // limited
	declared      int64 // Content-Length, -1 when unknown
	max           int64 // bytes
	err           error // the first but io.EOF
}

// Read refuses a body that says by its length that it is too large, before anything of it is read.
func (b *body) Read(p []byte) (int, error) {
	if b.err == nil && b.declared > b.max {
		b.err = &http.MaxBytesError{Limit: b.max}
	}
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// LimitBody sets how many bytes the body of r may have, instead of the 1 MiB that every request may. It must come before
// the first read.
func LimitBody(r *http.Request, bytesMax int64) {
	if x := exchangeOf(r.Context()); x != nil {
		x.limitBody(bytesMax)
	}
}

func (x *exchange) limitBody(bytesMax int64) {
	x.body.max = bytesMax
	// MaxBytesReader tells net/http's own ResponseWriter to close the connection behind an over-long body.
	w := x.ResponseWriter
	for u, ok := w.(interface{ Unwrap() http.ResponseWriter }); ok; u, ok = w.(interface{ Unwrap() http.ResponseWriter }) {
		w = u.Unwrap()
	}
	x.body.ReadCloser = http.MaxBytesReader(w, x.request.Body, bytesMax)
}

// Stream makes r's answer a stream: the read and write time-outs end, and it counts as one of the streams instead of one
// of the concurrent requests. The patterns in Service.Streams are streams from the start; Stream is for a handler that
// finds out later, such as a proxy. The error is a problem: too many streams.
func Stream(r *http.Request) error {
	x := exchangeOf(r.Context())
	if x == nil || x.gate == &x.server.streams {
		return nil
	}
	return x.enterStream()
}

func (x *exchange) enterStream() error {
	s := x.server
	if !s.streams.enter() {
		return Problem(http.StatusServiceUnavailable, "too-many-streams", "all %d streams are taken", s.limits.streams).RetryAfter(overloadRetry)
	}
	if x.gate != nil {
		x.gate.leave()
	}
	x.gate = &s.streams
	// Neither call fails on net/http's connections; on a test's recorder there is no time-out to lift.
	rc := http.NewResponseController(x.ResponseWriter)
	rc.SetReadDeadline(time.Time{})
	rc.SetWriteDeadline(time.Time{})
	return nil
}

// enter counts the exchange in, or refuses it.
func (x *exchange) enter() error {
	if x.route.stream {
		return x.enterStream()
	}
	if !x.route.gate.enter() {
		return Problem(http.StatusServiceUnavailable, "overloaded", "%d requests are in work already", x.route.gate.max).RetryAfter(overloadRetry)
	}
	x.gate = x.route.gate
	return nil
}

// refusal is what the shell has against a request before any route sees it; nil for nothing.
func (x *exchange) refusal(r *http.Request) error {
	s := x.server
	if len(r.RequestURI) > s.limits.uriBytes {
		return Problem(http.StatusRequestURITooLong, "uri-too-long", "the URI is over %d bytes", s.limits.uriBytes)
	}
	if headerBytes(r.Header) > s.limits.headerBytes {
		return Problem(http.StatusRequestHeaderFieldsTooLarge, "header-too-large", "the header is over %d bytes", s.limits.headerBytes)
	}
	if s.verifier == nil && !isLoopbackHost(r.Host) {
		// A page of another site that rebinds its own name to 127.0.0.1 would be same-origin with us; its Host gives it away.
		return Problem(http.StatusMisdirectedRequest, "host-not-loopback",
			"this service answers to loopback names only, such as localhost; Host is %q", r.Host)
	}
	if err := s.crossOrigin.Check(r); err != nil {
		return Problem(http.StatusForbidden, "cross-origin", "a page of another origin may not do this").Because(err)
	}
	return nil
}

// headerBytes is the size of the header as HTTP/1.1 sends it, without the request line.
func headerBytes(h http.Header) int {
	n := 0
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	return n
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{ResponseWriter: w, server: s, request: r, route: s.unmatched, start: s.now()}
	x.trace = newTrace(r.Header, s.random)
	x.traceID = hex.EncodeToString(x.trace.id[:])
	inner := r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
	if r.Body != nil && r.Body != http.NoBody {
		x.body.declared = r.ContentLength
		x.limitBody(s.limits.bodyBytes)
		inner.Body = &x.body
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	defer x.end(inner)
	if err := x.refusal(r); err != nil {
		x.fail(inner, untouched(r, err))
		return
	}
	if s.service.Guard != nil {
		if err := s.service.Guard(x, inner); err != nil {
			x.fail(inner, untouched(r, err))
			return
		}
	}
	s.mux.ServeHTTP(x, inner)
	r.Pattern = inner.Pattern // as http.ServeMux does, for whoever wraps the Server
	if !x.own && x.refused != 0 {
		x.fail(inner, untouched(r, unmatchedProblem(x.refused, r)))
	}
}

// run is the handler of one route, behind the mux.
func (x *exchange) run(route *route, r *http.Request) {
	x.route, x.own = route, true
	err := x.enter()
	if v := x.server.verifier; err == nil && route.strict && v != nil {
		if age := v.Age(); age > revocationsAgeMax {
			err = Problem(http.StatusServiceUnavailable, "revocations-unknown",
				"for %v it has not been known which tokens were revoked, and this route is careful", age.Round(time.Second)).RetryAfter(overloadRetry)
		}
	}
	if err != nil {
		x.fail(r, untouched(r, err))
		return
	}
	if err := route.handler(x, r); err != nil {
		x.fail(r, err)
	}
}

// untouched gives the error of a request that reached no handler the outcome of one that changed nothing, if it asked for a
// change at all.
func untouched(r *http.Request, err error) error {
	var e *Error
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return err
	}
	if errors.As(err, &e) {
		return e.Outcome("not_applied")
	}
	return err
}

// fail answers err, or cuts the connection when an answer had begun: half of one must not look whole.
func (x *exchange) fail(r *http.Request, err error) {
	x.own = true
	x.problem = x.problemOf(r, err)
	switch {
	case x.conn != nil: // the handler's own
	case x.status != 0:
		x.aborted = true
	default:
		x.problem.write(x, x.traceID)
	}
}

// end is the deferred last step of every exchange: a panic becomes an answer or a cut connection, and the log line, the
// metrics and the span are written whatever happened.
func (x *exchange) end(r *http.Request) {
	if p := recover(); p != nil {
		x.panicked(r, p)
	}
	x.record(r)
	if x.life != nil {
		x.life.end()
	}
	if x.gate != nil {
		x.gate.leave()
	}
	if x.aborted {
		panic(http.ErrAbortHandler) // net/http cuts the connection and says nothing
	}
}

func (x *exchange) panicked(r *http.Request, p any) {
	if p == http.ErrAbortHandler {
		x.aborted = true
	} else {
		x.stack = debug.Stack()
		x.fail(r, fmt.Errorf("panic: %v", p))
	}
	if x.conn != nil {
		x.conn.Close() // net/http leaves a hijacked connection alone
	}
}

// record writes the exchange to the metrics, the log and the trace.
func (x *exchange) record(r *http.Request) {
	if x.status == 0 && x.conn == nil && !x.aborted {
		x.status = http.StatusOK // what net/http sends for a handler that wrote nothing
	}
	s := x.server
	end := s.now()
	x.route.metrics.add(x.status, end.Sub(x.start), x.gate != &s.streams && x.conn == nil)
	if s.spans != nil && x.trace.sampled {
		s.spans.add(span{
			trace: x.trace.id, id: x.trace.span, parent: x.trace.parent, kind: spanServer,
			name: x.route.pattern, method: r.Method, route: x.route.pattern,
			status: x.status, start: x.start, end: end, failed: x.status >= 500 || x.aborted,
		})
	}
	level := slog.LevelInfo
	switch {
	case x.status >= 500 || x.stack != nil:
		level = slog.LevelError
	case x.aborted:
		level = slog.LevelWarn
	case x.route.quiet && x.problem == nil:
		level = slog.LevelDebug
	}
	if !s.log.Enabled(r.Context(), level) {
		return
	}
	s.log.LogAttrs(r.Context(), level, "request", x.attrs(r, end)...)
}

// attrs are the attributes of the access-log line.
func (x *exchange) attrs(r *http.Request, end time.Time) []slog.Attr {
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs, slog.String("method", r.Method), slog.String("route", x.route.pattern))
	if x.conn != nil {
		attrs = append(attrs, slog.Bool("hijacked", true))
	} else {
		attrs = append(attrs, slog.Int("status", x.status), slog.Int64("bytes", x.bytes))
	}
	attrs = append(attrs,
		slog.Float64("duration_ms", float64(end.Sub(x.start).Microseconds())/1000),
		slog.String("trace_id", x.traceID))
	if x.caller.User != "" {
		attrs = append(attrs, slog.String("user", x.caller.User))
	}
	if x.aborted {
		attrs = append(attrs, slog.Bool("aborted", true))
	}
	if x.problem != nil {
		attrs = append(attrs, slog.String("code", x.problem.code))
		if x.problem.cause != nil {
			attrs = append(attrs, slog.String("error", x.problem.cause.Error()))
		}
	}
	if x.stack != nil {
		attrs = append(attrs, slog.String("stack", string(x.stack)))
	}
	return attrs
}

// unmatchedProblem replaces the mux's own answer; Allow is in the header already.
func unmatchedProblem(status int, r *http.Request) *Error {
	switch status {
	case http.StatusNotFound:
		return Problem(status, codeOf(status), "there is nothing at this path")
	case http.StatusMethodNotAllowed:
		return Problem(status, codeOf(status), "%s is not possible here", r.Method)
	}
	return Problem(status, codeOf(status), "")
}
