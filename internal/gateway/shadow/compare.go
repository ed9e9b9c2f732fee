package shadow

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

const whereBytesMax = 256 // of the path in an example

// An answer is what is compared of one.
type answer struct {
	status   int
	fields   [][]string // by Settings.Headers
	encoding string     // of the body; "" is identity
	json     bool       // the body says it is
	body     []byte
	cut      bool // there is more of the body than what may be kept, which is nothing
}

// head returns all of an answer but its body.
func (s *Shadow) head(method string, r *http.Response) *answer {
	a := &answer{status: r.StatusCode, encoding: strings.ToLower(strings.Join(r.Header.Values("Content-Encoding"), ","))}
	for _, name := range s.settings.Headers {
		values := slices.Clone(r.Header.Values(name))
		if http.CanonicalHeaderKey(name) == "Content-Type" {
			for i := range values {
				values[i] = plainType(values[i])
			}
		}
		a.fields = append(a.fields, values)
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	a.json = kind == "application/json" || strings.HasSuffix(kind, "+json")
	if a.encoding == "identity" || method == http.MethodHead {
		a.encoding = ""
	}
	return a
}

// plainType returns a media type without what means nothing: the case of its
// names, spaces and the order of its parameters.
func plainType(value string) string {
	kind, parameters, err := mime.ParseMediaType(value)
	if err != nil {
		return value
	}
	if charset, ok := parameters["charset"]; ok {
		parameters["charset"] = strings.ToLower(charset)
	}
	return mime.FormatMediaType(kind, parameters)
}

// compare returns the first difference of two answers, and where it is.
func (s *Shadow) compare(first, second *answer) (Outcome, string) {
	if first.status != second.status {
		return Status, ""
	}
	for i, name := range s.settings.Headers {
		if !slices.Equal(first.fields[i], second.fields[i]) {
			return Header, http.CanonicalHeaderKey(name)
		}
	}
	if first.cut || second.cut {
		return Uncompared, ""
	}
	if first.encoding == second.encoding && bytes.Equal(first.body, second.body) {
		return Same, ""
	}
	one, oneOK := s.decoded(first)
	two, twoOK := s.decoded(second)
	if !oneOK || !twoOK {
		return Uncompared, ""
	}
	if where := s.difference(one, two, first.json && second.json); where != "" {
		return Body, where
	}
	return Same, ""
}

// decoded returns what is in a body, or false if that cannot be told.
func (s *Shadow) decoded(a *answer) ([]byte, bool) {
	switch a.encoding {
	case "":
		return a.body, true
	case "gzip", "x-gzip":
		unzip, err := gzip.NewReader(bytes.NewReader(a.body))
		if err != nil {
			return nil, false
		}
		body, err := io.ReadAll(io.LimitReader(unzip, int64(s.settings.BodyBytesMax)+1))
		return body, err == nil && len(body) <= s.settings.BodyBytesMax
	}
	return nil, false
}

// difference returns where two bodies differ first, or "".
func (s *Shadow) difference(one, two []byte, asJSON bool) string {
	if asJSON {
		a, errA := parse(one)
		b, errB := parse(two)
		if errA == nil && errB == nil {
			return s.walk(nil, a, b)
		}
	}
	for i := range min(len(one), len(two)) {
		if one[i] != two[i] {
			return "byte " + strconv.Itoa(i)
		}
	}
	if len(one) != len(two) {
		return "byte " + strconv.Itoa(min(len(one), len(two)))
	}
	return ""
}

// parse reads one JSON value and nothing after it, its numbers as they stand.
func parse(text []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("shadow: more than one JSON value")
	}
	return v, nil
}

// walk returns the pointer of the first difference of two values that stand at
// path, members in their names' order, or "".
func (s *Shadow) walk(path []string, a, b any) string {
	if s.ignored(path) {
		return ""
	}
	switch a := a.(type) {
	case map[string]any:
		if b, ok := b.(map[string]any); ok {
			return s.walkObject(path, a, b)
		}
	case []any:
		if b, ok := b.([]any); ok {
			return s.walkArray(path, a, b)
		}
	case json.Number:
		if b, ok := b.(json.Number); ok && sameNumber(string(a), string(b)) {
			return ""
		}
	default: // a string, true, false or null, which an == of unlike types tells apart
		switch b.(type) {
		case map[string]any, []any:
		default:
			if a == b {
				return ""
			}
		}
	}
	return pointer(path)
}

func (s *Shadow) walkObject(path []string, a, b map[string]any) string {
	names := make([]string, 0, len(a))
	for name := range a {
		names = append(names, name)
	}
	for name := range b {
		if _, both := a[name]; !both {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		below := append(path, name)
		one, inA := a[name]
		two, inB := b[name]
		if inA && inB {
			if where := s.walk(below, one, two); where != "" {
				return where
			}
		} else if !s.ignored(below) {
			return pointer(below)
		}
	}
	return ""
}

func (s *Shadow) walkArray(path []string, a, b []any) string {
	for i := range max(len(a), len(b)) {
		below := append(path, strconv.Itoa(i))
		if i < len(a) && i < len(b) {
			if where := s.walk(below, a[i], b[i]); where != "" {
				return where
			}
		} else if !s.ignored(below) {
			return pointer(below)
		}
	}
	return ""
}

// ignored reports whether a pattern names just this path.
func (s *Shadow) ignored(path []string) bool {
	return slices.ContainsFunc(s.ignore, func(pattern []string) bool {
		return slices.EqualFunc(pattern, path, func(want, segment string) bool { return want == "*" || want == segment })
	})
}

// parsePointer splits a JSON pointer (RFC 6901).
func parsePointer(text string) ([]string, error) {
	if !strings.HasPrefix(text, "/") {
		return nil, fmt.Errorf("shadow: ignored path %q does not begin with /", text)
	}
	segments := strings.Split(text[1:], "/")
	for i, segment := range segments {
		segments[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(segment)
	}
	return segments, nil
}

// pointer writes a path as a JSON pointer, cut to whereBytesMax; the one of the
// whole value would be empty, and is called "whole".
func pointer(path []string) string {
	if len(path) == 0 {
		return "whole"
	}
	var b strings.Builder
	for _, segment := range path {
		b.WriteByte('/')
		b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(segment))
		if b.Len() > whereBytesMax {
			return strings.ToValidUTF8(b.String()[:whereBytesMax], "") + "…"
		}
	}
	return b.String()
}

// sameNumber compares two JSON numbers by their values, however large or exact.
func sameNumber(a, b string) bool {
	if a == b {
		return true
	}
	aNegative, aDigits, aExponent, aOK := decimal(a)
	bNegative, bDigits, bExponent, bOK := decimal(b)
	return aOK && bOK && aNegative == bNegative && aDigits == bDigits && aExponent == bExponent
}

// decimal returns a JSON number as an integer without zeros at its ends, times a
// power of ten; not ok if its exponent is beyond any use. Zero has no digits, no
// sign and no exponent.
func decimal(number string) (negative bool, digits string, exponent int, ok bool) {
	number, negative = strings.CutPrefix(number, "-")
	if at := strings.IndexAny(number, "eE"); at >= 0 {
		var err error
		if exponent, err = strconv.Atoi(number[at+1:]); err != nil || max(exponent, -exponent) > 1<<30 {
			return false, "", 0, false
		}
		number = number[:at]
	}
	whole, fraction, _ := strings.Cut(number, ".")
	digits = strings.TrimLeft(whole+fraction, "0")
	exponent -= len(fraction)
	trimmed := strings.TrimRight(digits, "0")
	exponent += len(digits) - len(trimmed)
	if trimmed == "" {
		return false, "", 0, true
	}
	return negative, trimmed, exponent, true
}
