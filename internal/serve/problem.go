package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Error is an error whose every word the client may read: a problem of RFC 9457. Any other error that a handler returns
// becomes a bare 500 and goes to the log alone. Values are immutable: the methods that change one return a copy, so a
// package variable may be shared.
type Error struct {
	status     int
	code       string
	detail     string
	retryable  bool
	outcome    string        // what is known of the request's effect; "" where nobody asks
	retryAfter time.Duration // 0: no Retry-After header
	header     [2]string     // one header that the status needs, such as Allow; empty for none
	cause      error         // for the log, never for the client
}

// Problem returns an error that answers status with application/problem+json. code is stable and names the kind of
// problem ("room-unknown"); clients branch on it. The formatted text becomes the detail, read by people. 408, 425, 429,
// 502, 503 and 504 are retryable from the start, everything else is not.
func Problem(status int, code, format string, args ...any) *Error {
	e := &Error{status: status, code: code, detail: fmt.Sprintf(format, args...)}
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		e.retryable = true
	}
	return e
}

// Retryable returns e, marked as one that the same request may overcome when sent again.
func (e *Error) Retryable() *Error {
	c := *e
	c.retryable = true
	return &c
}

// Outcome returns e with what is known of the effect of the request that failed: "not_applied", "applied" or "unknown".
func (e *Error) Outcome(outcome string) *Error {
	c := *e
	c.outcome = outcome
	return &c
}

// RetryAfter returns e, retryable, with a Retry-After header of d rounded up to whole seconds, at least one.
func (e *Error) RetryAfter(d time.Duration) *Error {
	c := *e.Retryable()
	c.retryAfter = max(d, time.Second)
	return &c
}

// Because returns e with a cause for the log; the client never sees it. errors.Is and errors.As see it.
func (e *Error) Because(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// withHeader returns e with one response header of its own.
func (e *Error) withHeader(name, value string) *Error {
	c := *e
	c.header = [2]string{name, value}
	return &c
}

// Error is the form for logs.
func (e *Error) Error() string {
	s := fmt.Sprintf("%d %s: %s", e.status, e.code, e.detail)
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

// Unwrap returns the cause, or nil.
func (e *Error) Unwrap() error { return e.cause }

// Status is the HTTP status that e answers with.
func (e *Error) Status() int { return e.status }

// Code is the stable name of the kind of problem.
func (e *Error) Code() string { return e.code }

// problemType makes the type URI of a code. It is a tag URI (RFC 4151), which RFC 9457 section 3.1.1 recommends where the
// URI is not meant to be fetched.
func problemType(code string) string { return "tag:dongne,2026:" + code }

// problemJSON is the body of every error answer.
type problemJSON struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail,omitempty"`
	Code      string `json:"code"`
	TraceID   string `json:"trace_id,omitempty"`
	Retryable bool   `json:"retryable"`
	Outcome   string `json:"outcome,omitempty"`
}

// statusClientGone is nginx's number for a client that closed the connection before the answer. It is for logs and
// metrics: nobody is there to read it.
const statusClientGone = 499

// codeOf names a status that has no kind of its own: 404 is "not-found".
func codeOf(status int) string {
	text := http.StatusText(status)
	if text == "" {
		return "status-" + strconv.Itoa(status)
	}
	return strings.ReplaceAll(strings.ToLower(text), " ", "-")
}

// write sends e, unless bytes of another answer went out already (the caller checks that).
func (e *Error) write(w http.ResponseWriter, traceID string) {
	title := http.StatusText(e.status)
	if title == "" {
		title = e.code
	}
	body, err := json.Marshal(problemJSON{problemType(e.code), title, e.status, e.detail, e.code, traceID, e.retryable, e.outcome})
	if err != nil {
		panic("serve: problem does not encode: " + err.Error())
	}
	h := w.Header()
	for _, ofAnotherBody := range []string{"Content-Encoding", "Etag", "Last-Modified"} {
		h.Del(ofAnotherBody)
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	if e.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
	if e.header[0] != "" {
		h.Set(e.header[0], e.header[1])
	}
	w.WriteHeader(e.status)
	w.Write(body) // an error here means that the client has gone; the access log has the request anyway
}

// errInternal is the answer to everything unexpected. It has no detail on purpose.
var errInternal = &Error{status: http.StatusInternalServerError, code: "internal"}

// problemOf turns any error of a handler into what the client may read. What the request's body did comes before what the
// handler made of it: a handler that passes a read error on, wrapped or not, gets 413, 408 or 400 without knowing them.
func (x *exchange) problemOf(r *http.Request, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	if cause := x.body.err; cause != nil && errors.Is(err, cause) {
		return bodyProblem(cause)
	}
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		if x.server.cut.Err() != nil {
			return Problem(http.StatusServiceUnavailable, "cut", "the service is shutting down").Because(err)
		}
		return Problem(statusClientGone, "client-gone", "the client closed the connection").Because(err)
	}
	return errInternal.Because(err)
}

// bodyProblem maps an error from reading a request's body.
func bodyProblem(err error) *Error {
	var tooLarge *http.MaxBytesError
	var netErr net.Error
	switch {
	case errors.As(err, &tooLarge):
		return Problem(http.StatusRequestEntityTooLarge, "body-too-large", "the body is over %d bytes", tooLarge.Limit).Because(err)
	case errors.As(err, &netErr) && netErr.Timeout():
		return Problem(http.StatusRequestTimeout, "body-timeout", "the body did not arrive in time").
			withHeader("Connection", "close").Because(err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return Problem(http.StatusBadRequest, "body-incomplete", "the body ends before its declared end").Because(err)
	}
	return Problem(http.StatusBadRequest, "body-unreadable", "the body cannot be read").Because(err)
}
