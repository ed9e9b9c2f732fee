package edge

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"net/textproto"
)

// isToken has the bytes of a token (RFC 9110 section 5.6.2).
var isToken = func() (is [256]bool) {
	for c := '0'; c <= 'z'; c++ {
		is[c] = '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		is[c] = true
	}
	return is
}()

// isMethodByte: what nginx accepts, which is less than a token.
func isMethodByte(c byte) bool { return 'A' <= c && c <= 'Z' || c == '_' || c == '-' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// hex returns the value of a hexadecimal digit, or -1.
func hex(c byte) int {
	switch {
	case isDigit(c):
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// fold tells whether b is lower, which is of letters in lower case, digits and '-', in any case.
func fold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// trim cuts spaces and tabs off both ends.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// hasTab: nginx takes a tab beside a value for a part of it, so no field that frames a request may have one.
func hasTab(line []byte) bool { return bytes.IndexByte(line, '\t') >= 0 }

// control returns the first control byte of b other than a tab, or -1. It looks at eight bytes at a time: subtracting
// 0x20 from each byte borrows from its high bit where the byte is smaller, subtracting 1 where it is zero.
func control(b []byte) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x80 * ones
	)
	for len(b) >= 8 {
		w := binary.LittleEndian.Uint64(b)
		del := w ^ 0x7f*ones
		if ((w-0x20*ones)&^w|(del-ones)&^del)&highs != 0 {
			break // one of these eight, unless it is a tab: look closer
		}
		b = b[8:]
	}
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return int(c)
		}
	}
	return -1
}

// isVersion tells whether b has the shape of an HTTP version.
func isVersion(b []byte) bool {
	return len(b) == 8 && string(b[:5]) == "HTTP/" && isDigit(b[5]) && b[6] == '.' && isDigit(b[7])
}

// schemeLen returns the length of "http://" or "https://", in any case, at the beginning of b; 0 for neither.
func schemeLen(b []byte) int {
	for _, scheme := range [...]string{"http", "https"} {
		n := len(scheme) + len("://")
		if len(b) > n && fold(b[:len(scheme)], scheme) && string(b[len(scheme):n]) == "://" {
			return n
		}
	}
	return 0
}

// isEscaped tells whether each '%' before the query begins an escape.
func isEscaped(path []byte) bool {
	for i := 0; i < len(path) && path[i] != '?'; i++ {
		if path[i] != '%' {
			continue
		}
		if i+2 >= len(path) || hex(path[i+1]) < 0 || hex(path[i+2]) < 0 {
			return false
		}
		i += 2
	}
	return true
}

// isHost tells whether b is a host name, an IPv4 address or an IPv6 one in brackets, with a port or without. Of RFC
// 3986's reg-name it leaves out escapes and sub-delimiters, which no name in use has, and empty labels, as nginx
// does.
func isHost(b []byte) bool {
	if len(b) > 0 && b[0] == '[' {
		end := bytes.IndexByte(b, ']')
		if end < 0 || bytes.IndexByte(b[:end], '%') >= 0 {
			return false
		}
		addr, err := netip.ParseAddr(string(b[1:end]))
		return err == nil && addr.Is6() && isOptionalPort(b[end+1:])
	}
	label := 0 // bytes of the label so far
	for i, c := range b {
		switch {
		case c == ':':
			return i > 0 && isOptionalPort(b[i:])
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
		case isDigit(c), 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '-', c == '_':
			label++
		default:
			return false
		}
	}
	return len(b) > 0
}

// isOptionalPort tells whether b is nothing, or a colon and a port of at most five digits.
func isOptionalPort(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	port := 0
	for _, c := range b[1:] {
		if !isDigit(c) {
			return false
		}
		port = 10*port + int(c-'0')
		if port > 65535 {
			return false
		}
	}
	return b[0] == ':' && 2 <= len(b) && len(b) <= 6
}

// parseLength parses a Content-Length: digits alone, below 2^63.
func parseLength(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > lengthDigitsMax {
		return 0, false
	}
	for _, c := range b {
		if !isDigit(c) {
			return 0, false
		}
		n = 10*n + int64(c-'0')
		if n < 0 { // 19 digits overflow at most once, into the sign
			return 0, false
		}
	}
	return n, true
}

// parseChunkSize parses a chunk's size line without its CRLF. An extension may have anything but control bytes; white
// space before it, which RFC 9112 calls bad, is refused, as net/http does.
func parseChunkSize(line []byte) (n int64, ok bool) {
	digits := 0
	for digits < len(line) && hex(line[digits]) >= 0 {
		if digits == chunkDigitsMax {
			return 0, false
		}
		n = n<<4 | int64(hex(line[digits]))
		digits++
	}
	extension := line[digits:]
	if len(extension) > 0 && (extension[0] != ';' || control(extension) >= 0) {
		return 0, false
	}
	return n, digits > 0 && n <= chunkBytesMax
}

// announced judges the value of a Trailer field.
func announced(value []byte) *Refusal {
	for name := range bytes.SplitSeq(value, []byte(",")) {
		if name = trim(name); len(name) > 0 && !mayTrail(name) {
			return badTrailer
		}
	}
	return nil
}

// mayTrail tells whether a trailer field may have this name: not if it frames, routes, modifies or authorizes the
// request (RFC 9110 section 6.5.1), or is stripped from heads.
func mayTrail(name []byte) bool {
	key := textproto.CanonicalMIMEHeaderKey(string(name))
	switch key {
	case "Authorization", "Cache-Control", "Connection", "Content-Encoding", "Content-Length", "Content-Range",
		"Content-Type", "Cookie", "Expect", "Host", "Idempotency-Key", "Keep-Alive", "Max-Forwards", "Pragma",
		"Proxy-Authorization", "Proxy-Connection", "Range", "Set-Cookie", "Te", "Trailer", "Transfer-Encoding",
		"Upgrade", refusedField:
		return false
	}
	return !insider(key)
}
