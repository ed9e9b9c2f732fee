package edge

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// What Path refuses.
var (
	pathBadEscape      = bad("path-bad-escape", "the path has a '%' without two hexadecimal digits")
	pathEncodedSlash   = bad("path-encoded-slash", "the path has an encoded slash")
	pathBackslash      = bad("path-backslash", "the path has a backslash")
	pathControl        = bad("path-control", "the path has a control character")
	pathDoubleEncoding = bad("path-double-encoding", "the path is encoded twice")
	pathNotUTF8        = bad("path-not-utf8", "the path is not UTF-8")
	pathDotSegment     = bad("path-dot-segment", "the path has a segment '.' or '..'")
	pathEmptySegment   = bad("path-empty-segment", "the path has two slashes in a row")
)

// Path returns the path of a request target (Request.RequestURI), decoded once: begins with '/', or is "*" (of
// OPTIONS). Its errors are *Refusal, with a code for each thing that two programs could read as two different paths:
//
//   - path-encoded-slash, path-backslash: a slash to some, a part of a name to others; plain or encoded.
//   - path-dot-segment: some remove '.' and '..', some do not, some before decoding and some after, and some stop a
//     segment's name at ';' ("..;").
//   - path-empty-segment: nginx merges "//", ServeMux redirects, others count an empty name: a rule for /chat/admin
//     might not see /chat//admin; and a redirect to "//host" leaves the site. A slash at the end is fine.
//   - path-double-encoding: what is left after decoding would decode again ("%252e", however it is encoded).
//   - path-control: NUL and other control characters; path-not-utf8; path-bad-escape.
//   - bad-target: neither a path nor an http or https URL with one; or "*" of another method than OPTIONS.
func Path(method, target string) (string, error) {
	if target == "*" && method == "OPTIONS" {
		return "*", nil
	}
	raw, _, _ := strings.Cut(target, "?")
	if raw != "" && raw[0] != '/' {
		n := schemeLen([]byte(raw))
		if n == 0 {
			return "", badTarget
		}
		_, raw, _ = strings.Cut(raw[n:], "/")
		raw = "/" + raw
	}
	if raw == "" {
		return "", badTarget
	}
	path, refused := decode(raw)
	if refused == nil {
		refused = segments(path)
	}
	if refused != nil {
		return "", refused
	}
	return path, nil
}

// decode decodes a path once, and judges its bytes.
func decode(raw string) (string, *Refusal) {
	path := raw
	if strings.IndexByte(raw, '%') >= 0 {
		var b strings.Builder
		b.Grow(len(raw))
		for i := 0; i < len(raw); i++ {
			c := raw[i]
			if c == '%' {
				if i+2 >= len(raw) || hex(raw[i+1]) < 0 || hex(raw[i+2]) < 0 {
					return "", pathBadEscape
				}
				c = byte(hex(raw[i+1])<<4 | hex(raw[i+2]))
				i += 2
				if c == '/' {
					return "", pathEncodedSlash
				}
			}
			b.WriteByte(c)
		}
		path = b.String()
	}
	ascii := true
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c < ' ' || c == 0x7f:
			return "", pathControl
		case c == '\\':
			return "", pathBackslash
		case c == '%' && i+2 < len(path) && hex(path[i+1]) >= 0 && hex(path[i+2]) >= 0:
			return "", pathDoubleEncoding
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	if ascii {
		return path, nil
	}
	if !utf8.ValidString(path) {
		return "", pathNotUTF8
	}
	if strings.ContainsFunc(path, unicode.IsControl) {
		return "", pathControl
	}
	return path, nil
}

// segments judges the segments of a decoded path.
func segments(path string) *Refusal {
	for rest := path[1:]; ; {
		segment, after, more := strings.Cut(rest, "/")
		name, _, parameters := strings.Cut(segment, ";")
		switch {
		case name == "" && (more || parameters):
			return pathEmptySegment
		case name == "." || name == "..":
			return pathDotSegment
		}
		if !more {
			return nil
		}
		rest = after
	}
}
