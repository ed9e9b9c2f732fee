package serve

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"net/http"
	"strings"
	"time"
)

// traceContext is a place in a distributed trace, as W3C Trace Context (level 1) has it: what came in, and this service's span.
type traceContext struct {
	id      [16]byte
	span    [8]byte // this service's span, the parent of whatever it calls
	parent  [8]byte // the caller's span; zero: this service began the trace
	sampled bool
	state   string // tracestate, passed on as it came; "" when absent, invalid or too long
}

// tracestateBytesMax is what the specification asks every participant to carry, and so what we carry.
const tracestateBytesMax = 512

// newTrace continues the trace in h, or begins one when h has no traceparent, an invalid one, or more than one.
func newTrace(h http.Header, random func() uint64) traceContext {
	var t traceContext
	values := h["Traceparent"]
	if len(values) != 1 || !t.parse(values[0]) {
		t = traceContext{sampled: true}
		for t.id == ([16]byte{}) {
			binary.BigEndian.PutUint64(t.id[:8], random())
			binary.BigEndian.PutUint64(t.id[8:], random())
		}
	} else if state := strings.Join(h["Tracestate"], ","); len(state) <= tracestateBytesMax {
		t.state = state
	}
	t.span = newSpanID(random)
	return t
}

func newSpanID(random func() uint64) (id [8]byte) {
	for id == ([8]byte{}) {
		binary.BigEndian.PutUint64(id[:], random())
	}
	return id
}

// parse reads version-traceid-parentid-flags in lower-case hex. A version above 00 may have more fields behind a dash;
// version ff and all-zero ids are invalid.
func (t *traceContext) parse(s string) bool {
	const length = 55 // 2 + 1 + 32 + 1 + 16 + 1 + 2
	if len(s) < length || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return false
	}
	var version, flags [1]byte
	if !lowerHex(version[:], s[:2]) || !lowerHex(t.id[:], s[3:35]) || !lowerHex(t.parent[:], s[36:52]) || !lowerHex(flags[:], s[53:55]) {
		return false
	}
	if version[0] == 0xff || version[0] == 0 && len(s) != length || len(s) > length && s[length] != '-' {
		return false
	}
	t.sampled = flags[0]&1 == 1
	return t.id != [16]byte{} && t.parent != [8]byte{}
}

// lowerHex decodes src into dst; an upper-case digit is an error, as the specification wants it.
func lowerHex(dst []byte, src string) bool {
	for i := 0; i < len(src); i++ {
		if 'A' <= src[i] && src[i] <= 'F' {
			return false
		}
	}
	_, err := hex.Decode(dst, []byte(src))
	return err == nil
}

// traceparent is the header for a call whose client span is span.
func (t *traceContext) traceparent(span [8]byte) string {
	flags := byte('0')
	if t.sampled {
		flags = '1'
	}
	b := make([]byte, 0, 55)
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, t.id[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, span[:])
	return string(append(b, '-', '0', flags))
}

// TraceID returns the trace id of the request that ctx belongs to, as 32 hex digits, or "" outside of one.
func TraceID(ctx context.Context) string {
	if x := exchangeOf(ctx); x != nil {
		return x.traceID
	}
	return ""
}

// Transport returns a RoundTripper that carries the trace of the request's context on: it sets traceparent and
// tracestate, and records a client span. A request outside of any trace passes as it is. next nil means
// http.DefaultTransport.
func Transport(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return transport{next}
}

type transport struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper. The span ends when the answer's head is there: its body belongs to the caller.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	x := exchangeOf(r.Context())
	if x == nil {
		return t.next.RoundTrip(r)
	}
	s := x.server
	id, start := newSpanID(s.random), s.now()
	out := *r // a RoundTripper must not change its request
	out.Header = maps.Clone(r.Header)
	if out.Header == nil {
		out.Header = http.Header{}
	}
	out.Header["Traceparent"] = []string{x.trace.traceparent(id)}
	delete(out.Header, "Tracestate")
	if x.trace.state != "" {
		out.Header["Tracestate"] = []string{x.trace.state}
	}
	resp, err := t.next.RoundTrip(&out)
	if s.spans != nil && x.trace.sampled {
		span := span{
			trace: x.trace.id, id: id, parent: x.trace.span, kind: spanClient,
			name: r.Method, method: r.Method, peer: r.URL.Host, start: start, end: s.now(), failed: err != nil,
		}
		if resp != nil {
			span.status = resp.StatusCode
			span.failed = resp.StatusCode >= 400
		}
		s.spans.add(span)
	}
	return resp, err
}

// span is one finished piece of work, as OpenTelemetry has it.
type span struct {
	trace      [16]byte
	id, parent [8]byte // parent zero: a root
	kind       int     // spanServer or spanClient
	name       string
	method     string
	route      string // server spans only
	peer       string // client spans only: host:port
	status     int    // 0: none
	start, end time.Time
	failed     bool
}

// The span kinds of OpenTelemetry's protocol.
const (
	spanServer = 2
	spanClient = 3
)
