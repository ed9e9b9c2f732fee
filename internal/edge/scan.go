package edge

import "bytes"

// state is where a connection's scanner stands.
type state uint8

const (
	atStart   state = iota // before a request's first byte
	inMethod               // in its method: what is valid of it is handed on at once
	inHead                 // behind "METHOD ": nothing is handed on before the head's end
	inBody                 // in a body of Content-Length
	atSize                 // at a chunk's size line
	inChunk                // in a chunk's data
	atDataEnd              // at the CRLF behind a chunk's data
	inTrailer              // behind the last chunk's size line, which is held back with the trailers
)

// present has a bit for each header field that may occur once.
type present uint32

const (
	hasHost present = 1 << iota
	hasLength
	hasEncoding
	hasAuthorization
	hasExpect
	hasContentRange
	hasIfMatch
	hasIfNoneMatch
	hasIfModifiedSince
	hasIfUnmodifiedSince
	hasIfRange
	hasSocketKey
)

// span is a part of the unjudged bytes; the zero value is none.
type span struct{ from, to int }

// A scanner judges one connection's stream of requests. It is pure: bytes in, how many of them may be handed on out.
//
// The method is handed on as it comes, so that net/http sees that a request has begun and starts the time limit of its
// head; every valid beginning of a method can still become a substitute head.
type scanner struct {
	headBytes, fieldsMax int

	state   state
	refused *Refusal // once set, nothing more is judged

	method    [methodBytesMax]byte
	methodLen int

	// Offsets into the bytes not handed on yet; they hold from one call to the next.
	line int // where the line being looked at begins
	seen int // up to here there is no LF behind line

	http11    bool
	websocket bool
	has       present
	fields    int
	authority span  // of an absolute-form target, without a default port
	scheme443 bool  // of an absolute-form target: its default port
	host      span  // the Host field's value
	left      int64 // of inBody and inChunk: bytes still to come; in a head: its Content-Length
}

// scan judges b, which begins with the first byte not handed on yet, and returns how many bytes may be handed on now.
// If fewer than len(b), either refused is set, or the rest needs more bytes behind it: the next call repeats it.
func (s *scanner) scan(b []byte) int {
	n := 0
	for n < len(b) && s.refused == nil {
		k := s.step(b[n:])
		if k == 0 {
			break
		}
		n += k
	}
	return n
}

// step judges one part of b: 0 means that it needs more bytes, or that refused is set.
func (s *scanner) step(b []byte) int {
	switch s.state {
	case atStart:
		*s = scanner{headBytes: s.headBytes, fieldsMax: s.fieldsMax, state: inMethod}
		return s.scanMethod(b)
	case inMethod:
		return s.scanMethod(b)
	case inHead:
		return s.scanHead(b)
	case inBody:
		return s.pass(b, atStart)
	case atSize:
		return s.scanSize(b)
	case inChunk:
		return s.pass(b, atDataEnd)
	case atDataEnd:
		return s.scanDataEnd(b)
	case inTrailer:
		return s.scanTrailer(b)
	}
	panic("edge: unknown state")
}

// refuse ends the scanning at the first byte not handed on.
func (s *scanner) refuse(r *Refusal) int {
	s.refused = r
	return 0
}

// pass hands on what belongs to the body or chunk.
func (s *scanner) pass(b []byte, then state) int {
	n := int(min(int64(len(b)), s.left))
	s.left -= int64(n)
	if s.left == 0 {
		s.state = then
	}
	return n
}

func (s *scanner) scanMethod(b []byte) int {
	for i, c := range b {
		switch {
		case c == ' ' && s.methodLen > 0:
			s.state = inHead
			if s.is("CONNECT") || s.is("TRACE") {
				s.refused = methodNotAllowed
			}
			return i + 1
		case s.methodLen == methodBytesMax || !isMethodByte(c):
			s.refused = badMethod
			return i
		}
		s.method[s.methodLen] = c
		s.methodLen++
	}
	return len(b)
}

func (s *scanner) is(method string) bool { return string(s.method[:s.methodLen]) == method }

// nextLine returns the next whole line of b, without its CRLF, and the offset behind it; 0 where b has no whole line.
func (s *scanner) nextLine(b []byte) (line []byte, end int, refused *Refusal) {
	i := bytes.IndexByte(b[s.seen:], '\n')
	if i < 0 {
		s.seen = len(b)
		return nil, 0, nil
	}
	i += s.seen
	if i == s.line || b[i-1] != '\r' {
		return nil, 0, bareLF
	}
	s.seen = i + 1
	return b[s.line : i-1], i + 1, nil
}

// scanHead judges b from the target to the empty line.
func (s *scanner) scanHead(b []byte) int {
	for {
		line, end, refused := s.nextLine(b)
		if refused != nil {
			return s.refuse(refused)
		}
		if end > s.headBytes || end == 0 && len(b) >= s.headBytes {
			return s.refuse(headTooLarge)
		}
		switch {
		case end == 0:
			return 0
		case s.line == 0:
			refused = s.requestLine(line)
		case len(line) > 0:
			refused = s.field(b, line)
		default:
			refused = s.headEnd(b)
		}
		if refused != nil {
			return s.refuse(refused)
		}
		if len(line) == 0 {
			s.line, s.seen = 0, 0
			return end
		}
		s.line = end
	}
}

// requestLine judges the target and the version.
func (s *scanner) requestLine(line []byte) *Refusal {
	space := bytes.IndexByte(line, ' ')
	if space <= 0 {
		return badRequestLine // among them HTTP/0.9, which has no version
	}
	target, version := line[:space], line[space+1:]
	if refused := s.target(target); refused != nil {
		return refused
	}
	switch string(version) {
	case "HTTP/1.1":
		s.http11 = true
		return nil
	case "HTTP/1.0":
		return nil
	}
	switch {
	case bytes.ContainsAny(version, " \t"):
		return badRequestLine
	case isVersion(version):
		return unknownVersion
	}
	return badVersion
}

// target judges a request target: origin-form, absolute-form of http and https, and for OPTIONS the asterisk.
func (s *scanner) target(target []byte) *Refusal {
	for _, c := range target {
		if c == '\t' {
			return badRequestLine
		}
		if c <= ' ' || c >= 0x7f || c == '#' {
			return badTarget
		}
	}
	path := target
	switch {
	case string(target) == "*":
		if !s.is("OPTIONS") {
			return badTarget
		}
		return nil
	case target[0] != '/':
		from := schemeLen(target)
		if from == 0 {
			return badTarget
		}
		authority := target[from:]
		if i := bytes.IndexAny(authority, "/?"); i >= 0 {
			authority = authority[:i]
		}
		if !isHost(authority) || bytes.HasPrefix(target[from+len(authority):], []byte("?")) {
			return badTarget // HAProxy takes a query without a path for a part of the authority
		}
		s.authority = span{from, from + len(authority)}
		s.scheme443 = from == len("https://")
		path = target[s.authority.to:]
	}
	if !isEscaped(path) {
		return badTarget
	}
	return nil
}

// splitField returns the name and the trimmed value of a header line.
func splitField(line []byte) (name, value []byte, refused *Refusal) {
	if line[0] == ' ' || line[0] == '\t' {
		return nil, nil, obsFold
	}
	i := 0
	for i < len(line) && isToken[line[i]] {
		i++
	}
	switch {
	case i == len(line):
		return nil, nil, badFieldName // no colon
	case i > 0 && (line[i] == ' ' || line[i] == '\t'):
		return nil, nil, spaceBeforeColon
	case i == 0 || line[i] != ':':
		return nil, nil, badFieldName
	}
	value = line[i+1:]
	if c := control(value); c == '\r' {
		return nil, nil, bareCR
	} else if c >= 0 {
		return nil, nil, badFieldValue
	}
	return line[:i], trim(value), nil
}

// field judges a header line of b.
func (s *scanner) field(b, line []byte) *Refusal {
	name, value, refused := splitField(line)
	if refused != nil {
		return refused
	}
	s.fields++
	if s.fields > s.fieldsMax {
		return tooManyFields
	}
	switch len(name) {
	case len("host"):
		if fold(name, "host") {
			at := s.line + bytes.IndexByte(line, ':') + 1
			for len(value) > 0 && b[at] == ' ' {
				at++
			}
			s.host = span{at, at + len(value)}
			return s.once(hasHost, duplicateHost, isHost(value) && !hasTab(line), badHost)
		}
	case len("content-length"):
		if fold(name, "content-length") {
			length, ok := parseLength(value)
			s.left = length
			return s.once(hasLength, duplicateLength, ok && !hasTab(line), badLength)
		}
	case len("transfer-encoding"):
		if fold(name, "transfer-encoding") {
			return s.once(hasEncoding, badEncoding, fold(value, "chunked") && !hasTab(line), badEncoding)
		}
	}
	return s.otherField(name, value)
}

// once notes a field that may occur once, and whose value is ok.
func (s *scanner) once(field present, duplicate *Refusal, ok bool, notOK *Refusal) *Refusal {
	if s.has&field != 0 {
		return duplicate
	}
	s.has |= field
	if !ok {
		return notOK
	}
	return nil
}

// otherField judges the fields that do not frame the request but are refused when ambiguous.
func (s *scanner) otherField(name, value []byte) *Refusal {
	switch len(name) {
	case len("expect"):
		if fold(name, "expect") {
			return s.once(hasExpect, duplicateField, fold(value, "100-continue"), badExpect)
		}
	case len("trailer"): // and upgrade
		switch {
		case fold(name, "trailer"):
			return announced(value)
		case fold(name, "upgrade"):
			s.websocket = s.websocket || fold(value, "websocket")
		}
	case len("if-match"): // and if-range
		switch {
		case fold(name, "if-match"):
			return s.once(hasIfMatch, duplicateField, true, nil)
		case fold(name, "if-range"):
			return s.once(hasIfRange, duplicateField, true, nil)
		}
	case len(refusedFieldLow):
		if fold(name, refusedFieldLow) {
			return reservedField
		}
	case len("authorization"): // and if-none-match, content-range
		switch {
		case fold(name, "authorization"):
			return s.once(hasAuthorization, duplicateAuth, true, nil)
		case fold(name, "if-none-match"):
			return s.once(hasIfNoneMatch, duplicateField, true, nil)
		case fold(name, "content-range"):
			return s.once(hasContentRange, duplicateField, true, nil)
		}
	case len("if-modified-since"): // and sec-websocket-key
		switch {
		case fold(name, "if-modified-since"):
			return s.once(hasIfModifiedSince, duplicateField, true, nil)
		case fold(name, "sec-websocket-key"):
			return s.once(hasSocketKey, duplicateField, len(value) > 0, badUpgrade)
		}
	case len("if-unmodified-since"):
		if fold(name, "if-unmodified-since") {
			return s.once(hasIfUnmodifiedSince, duplicateField, true, nil)
		}
	}
	return nil
}

// headEnd judges the head as a whole and finds out what follows it.
func (s *scanner) headEnd(b []byte) *Refusal {
	encoded, sized := s.has&hasEncoding != 0, s.has&hasLength != 0
	switch {
	case encoded && sized:
		return lengthAndEncoding
	case encoded && !s.http11:
		return encodingInHTTP10
	case s.http11 && s.has&hasHost == 0:
		return missingHost
	case s.authority.to > 0 && s.has&hasHost != 0 && !s.sameHost(b):
		return hostMismatch
	case !s.http11 && s.left > 0 && (s.is("GET") || s.is("HEAD") || s.is("DELETE")):
		return bodyInHTTP10
	case s.websocket && s.has&hasSocketKey == 0:
		return badUpgrade
	case encoded:
		s.state = atSize
	case s.left > 0:
		s.state = inBody
	default:
		s.state = atStart
	}
	return nil
}

// sameHost tells whether the target's authority and the Host are the same, but for case and the scheme's default port.
func (s *scanner) sameHost(b []byte) bool {
	port := ":80"
	if s.scheme443 {
		port = ":443"
	}
	authority := bytes.TrimSuffix(b[s.authority.from:s.authority.to], []byte(port))
	host := bytes.TrimSuffix(b[s.host.from:s.host.to], []byte(port))
	return bytes.EqualFold(authority, host)
}

// scanSize judges a chunk's size line, and with the last chunk everything up to the body's end.
func (s *scanner) scanSize(b []byte) int {
	line, end, refused := s.nextLine(b)
	if refused != nil {
		return s.refuse(refused)
	}
	if end > chunkLineMax || end == 0 && len(b) >= chunkLineMax {
		return s.refuse(badChunk)
	}
	if end == 0 {
		return 0
	}
	size, ok := parseChunkSize(line)
	if !ok {
		return s.refuse(badChunk)
	}
	if size > 0 {
		s.state, s.left, s.line, s.seen = inChunk, size, 0, 0
		return end
	}
	s.state, s.line = inTrailer, end
	return s.scanTrailer(b)
}

func (s *scanner) scanDataEnd(b []byte) int {
	switch {
	case b[0] != '\r', len(b) > 1 && b[1] != '\n':
		return s.refuse(badChunk)
	case len(b) == 1:
		return 0
	}
	s.state = atSize
	return 2
}

// scanTrailer judges b from the last chunk's size line to the empty line.
func (s *scanner) scanTrailer(b []byte) int {
	for {
		line, end, refused := s.nextLine(b)
		if refused != nil {
			return s.refuse(refused)
		}
		if end > trailerBytesMax || end == 0 && len(b) >= trailerBytesMax {
			return s.refuse(trailerTooLarge)
		}
		if end == 0 {
			return 0
		}
		s.line = end
		if len(line) == 0 {
			s.state = atStart
			return end
		}
		name, _, refused := splitField(line)
		if refused == nil && !mayTrail(name) {
			refused = badTrailer
		}
		if refused != nil {
			return s.refuse(refused)
		}
	}
}

// substitute appends to b what net/http gets in place of the refused bytes: in a head, the rest of one that says why;
// in a chunked body, bytes that are neither a chunk nor the CRLF behind one.
func (s *scanner) substitute(b []byte, target string) []byte {
	switch s.state {
	case inMethod:
		if s.methodLen == 0 {
			b = append(b, "GET"...)
		}
		b = append(b, ' ')
	case inHead:
	default:
		return append(b, "\x00\r\n\r\n"...)
	}
	b = append(b, target...)
	// Host: a name that the shell's guard against rebinding (serve) lets through to the handler.
	b = append(b, " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"+refusedField+": "...)
	b = append(b, s.refused.Code...)
	return append(b, "\r\n\r\n"...)
}
