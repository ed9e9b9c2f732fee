// Package edge refuses what must not get behind the gateway, before anything looks at a request: ambiguous HTTP/1
// framing, ambiguous paths, and what only an insider may say of a caller.
//
// # Framing
//
// net/http forgives: it drops a Content-Length beside a Transfer-Encoding, ignores Transfer-Encoding under HTTP/1.0,
// joins folded lines, takes a bare LF for a line end. Wherever two parsers can read one stream of bytes as different
// requests, one can be smuggled in another (RFC 9112 section 11.2), and after net/http nobody can see it any more. So
// [Listener] puts a scanner under net/http: each connection judges the bytes of HTTP/1 while net/http reads them. Of a
// head nothing but the method is handed on before the whole head is judged; of a chunked body, no size line and no
// trailer section before its end is. What is accepted is handed on unchanged, byte for byte; it is a subset of what
// net/http, nginx and HAProxy accept (but for OPTIONS *, which nginx does not know), and all three see the same requests
// in it.
//
// A violation in a head is answered in order, after the answers to the requests before it: in place of the bad head
// net/http gets a well-formed one, whose field Edge-Refused names the reason. The handler asks [Refused] first and
// answers the problem it returns; the connection ends with that answer, and no byte after the violation is looked at.
// This way a refusal has an access-log line, a trace and a count like any other answer. Writing the answer below
// net/http instead would need to know when the answers before it are complete, and feigning the end of the connection
// would cancel those still being made. The field needs no secret: the scanner refuses a request that brings its own,
// and where nothing scans (HTTP/2) whoever sends one is refused, which harms nobody else.
//
// A violation in a chunked body comes when the request is with its handler already. net/http then gets bytes that are
// no chunk, so that reading the body fails (serve answers 400 "body-unreadable") and the connection ends.
//
// Stricter than RFC 9112 demands, on purpose: an empty line before a request; lower-case methods (nginx refuses
// them); any '#' or byte over 0x7e in a target (HAProxy does); any Expect but 100-continue; a second Authorization,
// Content-Range, If-Match or the like (nginx); a body of GET, HEAD or DELETE under HTTP/1.0 (HAProxy); chunks of 2
// GiB and more. As nginx and HAProxy do, HTTP/1.0 without a Host is let through.
//
// HTTP/2 is not scanned: its framing has no such ambiguities. It is spoken over TLS alone; its preface on a connection
// without TLS is refused. An offer of h2c is ignored (Strip removes it), as RFC 9110 allows.
//
// # Upgrades
//
// A WebSocket is HTTP until it is answered 101. The handler that may switch protocols wraps its ResponseWriter with
// [Upgradable]: from the moment it hijacks, the connection's bytes are opaque. Bytes that came before that moment end
// the connection: nobody knows which protocol they were meant for.
//
// # Use
//
//	listener = edge.Listener(listener, edge.Options{})                      // or TLSListener
//	…
//	if r := edge.Refused(req); r != nil { … answer r.Status, r.Code … }     // before anything else
//	path, err := edge.Path(req.Method, req.RequestURI)
//	client := edge.Client(peer, req.Header["X-Forwarded-For"], trusted)     // before Strip
//	edge.Strip(req.Header)
//	proxy.ServeHTTP(edge.Upgradable(w), req)
//
// # The rest
//
// [Path] decodes a request's path once and refuses what two decoders could take differently; [Strip] removes what only
// proxies of ours may say; [Client] finds the client's address behind trusted proxies. All three are pure.
package edge

import (
	"net"
	"net/http"
)

// Allow is the Allow header of a 405: every method but CONNECT and TRACE.
const Allow = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

// Options are the limits of scanned connections; the zero value has the defaults.
type Options struct {
	HeadBytes int    // of a head from its target on; default 64 KiB, at most the server's MaxHeaderBytes; over it: 431
	Fields    int    // header fields of a head; default 100 (as HAProxy); more is answered 431
	Target    string // the origin-form target of the head that stands in for a refused one; default "/"

	// OnRefusal, if set, is told of each refusal with the peer's address, even where the answer cannot say it (in a
	// body). It runs within a Read of the connection, so it must be quick.
	OnRefusal func(peer net.Addr, r *Refusal)
}

const (
	headBytesDefault = 64 << 10
	fieldsDefault    = 100
	trailerBytesMax  = 2 << 10 // a last chunk with its trailers; net/http needs them within 4 KiB
	chunkLineMax     = 256     // bytes of a chunk's size, its extension and CRLF
	chunkDigitsMax   = 8
	chunkBytesMax    = 1<<31 - 1
	methodBytesMax   = 32
	lengthDigitsMax  = 19
)

// A Refusal says why a request was not accepted. It is an error. Values are shared and not to be changed.
type Refusal struct {
	Status int    // 400, but for 405, 417, 431 and 505
	Code   string // stable: "obs-fold"
	Detail string // a sentence for people
}

// Error is the refusal's detail.
func (r *Refusal) Error() string { return r.Detail }

func bad(code, detail string) *Refusal { return &Refusal{http.StatusBadRequest, code, detail} }

// What the scanner refuses.
var (
	badMethod         = bad("bad-method", "the method is not a word of A-Z, '_' and '-' of at most 32 bytes")
	methodNotAllowed  = &Refusal{405, "method-not-allowed", "CONNECT and TRACE are not served"}
	badRequestLine    = bad("bad-request-line", "the request line is not method, target and version with single spaces")
	badTarget         = bad("bad-target", "the request target is malformed")
	badVersion        = bad("bad-version", "the HTTP version is malformed")
	unknownVersion    = &Refusal{505, "unsupported-version", "only HTTP/1.0 and HTTP/1.1 are spoken here"}
	headTooLarge      = &Refusal{431, "head-too-large", "the request's head is too large"}
	tooManyFields     = &Refusal{431, "too-many-fields", "the request has too many header fields"}
	bareLF            = bad("bare-lf", "a line ends with LF instead of CRLF")
	bareCR            = bad("bare-cr", "a line has a CR before its end")
	obsFold           = bad("obs-fold", "a header line begins with white space")
	badFieldName      = bad("bad-field-name", "a header field's name is empty or not a token")
	spaceBeforeColon  = bad("space-before-colon", "a header field's name is followed by white space")
	badFieldValue     = bad("bad-field-value", "a header field's value has control bytes")
	missingHost       = bad("missing-host", "an HTTP/1.1 request has no Host")
	duplicateHost     = bad("duplicate-host", "the request has two Hosts")
	badHost           = bad("bad-host", "the Host is malformed")
	hostMismatch      = bad("host-mismatch", "the request target is of another host than the Host field")
	badLength         = bad("bad-content-length", "the Content-Length is not one decimal number below 2^63")
	duplicateLength   = bad("duplicate-content-length", "the request has two Content-Lengths")
	badEncoding       = bad("bad-transfer-encoding", "the Transfer-Encoding is not chunked, once")
	encodingInHTTP10  = bad("transfer-encoding-in-http10", "Transfer-Encoding does not exist in HTTP/1.0")
	lengthAndEncoding = bad("length-and-encoding", "the request has both a Content-Length and a Transfer-Encoding")
	bodyInHTTP10      = bad("body-in-http10", "GET, HEAD and DELETE have no body in HTTP/1.0")
	duplicateAuth     = bad("duplicate-authorization", "the request has two Authorizations")
	duplicateField    = bad("duplicate-field", "the request has a header field twice that may occur once")
	badExpect         = &Refusal{417, "bad-expect", "no expectation but 100-continue is met"}
	badTrailer        = bad("bad-trailer", "a trailer field is malformed or must not be a trailer")
	trailerTooLarge   = bad("trailer-too-large", "the trailer section is too large")
	badChunk          = bad("bad-chunk", "the body is not in the chunked coding")
	badUpgrade        = bad("bad-upgrade", "an upgrade to websocket needs one Sec-WebSocket-Key")
	reservedField     = bad("reserved-field", "the header field Edge-Refused is the gateway's own")
)

// refusals are those that can stand in a substitute head.
var refusals = [...]*Refusal{
	badMethod, methodNotAllowed, badRequestLine, badTarget, badVersion, unknownVersion, headTooLarge, tooManyFields,
	bareLF, bareCR, obsFold, badFieldName, spaceBeforeColon, badFieldValue, missingHost, duplicateHost, badHost,
	hostMismatch, badLength, duplicateLength, badEncoding, encodingInHTTP10, lengthAndEncoding, bodyInHTTP10,
	duplicateAuth, duplicateField, badExpect, badTrailer, badUpgrade, reservedField,
}

const (
	refusedField    = "Edge-Refused"
	refusedFieldLow = "edge-refused"
)

// Refused returns why the request must not be served, or nil. A handler behind [Listener] asks it before everything
// else and answers with the refusal's status; a 405 with the header [Allow]. It also refuses, of requests that no
// scanner saw (HTTP/2, tests), what the scanner would: CONNECT, TRACE, and a second Authorization.
func Refused(r *http.Request) *Refusal {
	if codes := r.Header[refusedField]; codes != nil {
		for _, refusal := range refusals {
			if refusal.Code == codes[0] {
				return refusal
			}
		}
		return reservedField
	}
	switch {
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace:
		return methodNotAllowed
	case len(r.Header["Authorization"]) > 1:
		return duplicateAuth
	}
	return nil
}
