package serve

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonDepthMax bounds the nesting of arrays and objects in a request.
const jsonDepthMax = 64

// JSON answers status with v as JSON. Nothing is written when v does not encode, so the handler can return the error.
func JSON(w http.ResponseWriter, status int, v any) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // the type is application/json and nosniff is set: <, > and & need no disguise
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("serve: encode answer: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(buf.Len()))
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
	_, err := w.Write(buf.Bytes())
	return err
}

// Decode reads a request's whole body, which must be exactly one JSON value that fits v, into v (a pointer). It is
// strict where encoding/json is lenient: a key that is unknown or written in another case, a key that comes twice (at any
// depth), invalid UTF-8, a lone surrogate escape, nesting over 64 levels, null for the whole and data after the value are
// all errors. Every error is a problem: 400 that names the field or the byte offset, 408, 413, or 415 for a content type
// other than application/json.
func Decode(r *http.Request, v any) error {
	if err := checkJSONType(r.Header); err != nil {
		return err
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return bodyProblem(err)
	}
	return decodeJSON(data, v)
}

// Unmarshal is Decode for a JSON value that is no request's body, such as a file of settings.
func Unmarshal(data []byte, v any) error { return decodeJSON(data, v) }

func checkJSONType(h http.Header) error {
	ct := h.Get("Content-Type")
	media, params, err := mime.ParseMediaType(ct)
	charset, hasCharset := params["charset"]
	if err != nil || media != "application/json" || hasCharset && !strings.EqualFold(charset, "utf-8") {
		return Problem(http.StatusUnsupportedMediaType, "content-type", "Content-Type is %q; want application/json", ct)
	}
	if ce := h.Get("Content-Encoding"); ce != "" && ce != "identity" {
		return Problem(http.StatusUnsupportedMediaType, "content-encoding", "Content-Encoding %q is not understood", ce).
			withHeader("Accept-Encoding", "identity")
	}
	return nil
}

// decodeJSON is Decode for bytes.
func decodeJSON(data []byte, v any) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return Problem(http.StatusBadRequest, "json-empty", "the body is empty; want JSON")
	}
	if i := invalidUTF8(data); i >= 0 {
		return Problem(http.StatusBadRequest, "json-encoding", "invalid UTF-8 at byte %d", i)
	}
	if !json.Valid(data) {
		return syntaxProblem(data)
	}
	target := reflect.TypeOf(v)
	if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
		return Problem(http.StatusBadRequest, "json-type", "the body is null")
	}
	walk := jsonWalk{data: data}
	if err := walk.value(target, nil, 0); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields() // the walk found them already, but for rare kinds of embedding
	err := dec.Decode(v)
	var invalid *json.InvalidUnmarshalError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid):
		panic("serve: Decode: " + err.Error())
	}
	// encoding/json does not say in which element of an array, and nothing at all where a type decodes itself.
	blame := jsonWalk{data: data, tries: true}
	if found := blame.value(target, nil, 0); found != nil {
		return found
	}
	return valueProblem("", err)
}

// syntaxProblem says where text ceases to be JSON.
func syntaxProblem(data []byte) error {
	var whole json.RawMessage
	err := json.Unmarshal(data, &whole)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return Problem(http.StatusBadRequest, "json-syntax", "%v, at byte %d", err, max(syntax.Offset-1, 0))
	}
	return Problem(http.StatusBadRequest, "json-syntax", "%v", err)
}

// valueProblem is the problem of a value that does not fit its Go type; path says where it is.
func valueProblem(path string, err error) *Error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return Problem(http.StatusBadRequest, "json-type", "%s: want %s, got %s", fieldName(path), kindName(wrong.Type), wrong.Value)
	}
	return Problem(http.StatusBadRequest, "json-value", "%s: %v", fieldName(path), err) // of an UnmarshalJSON or UnmarshalText
}

// invalidUTF8 returns the offset of the first byte that is not part of valid UTF-8, or -1.
func invalidUTF8(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	for i := 0; ; {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size <= 1 {
			return i
		}
		i += size
	}
}

func fieldName(path string) string {
	if path == "" {
		return "the body"
	}
	return strconv.Quote(path)
}

// kindName says a Go type in the words of JSON.
func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number in range"
	}
	return "another type"
}

// jsonWalk goes through a syntactically valid JSON text beside the Go type that it is for, and finds what encoding/json
// would let pass. It needs no error handling for syntax: that was checked before.
type jsonWalk struct {
	data  []byte
	pos   int
	tries bool // decode each value by itself, to find the one that does not fit its type
}

// next skips white space and the given byte, if it is there, and returns the byte that follows.
func (j *jsonWalk) next(skip byte) byte {
	for {
		switch c := j.data[j.pos]; c {
		case ' ', '\t', '\r', '\n':
			j.pos++
		default:
			if c != skip {
				return c
			}
			j.pos++
			skip = 0
		}
	}
}

// place is where a value is, for messages: a key of what is at up, or an index if there is no key. nil is the whole.
type place struct {
	up    *place
	key   string
	index int
}

func (p *place) String() string {
	if p == nil {
		return ""
	}
	up := p.up.String()
	switch {
	case p.key == "" && p.index >= 0:
		return up + "[" + strconv.Itoa(p.index) + "]"
	case up == "":
		return p.key
	}
	return up + "." + p.key
}

// value checks the value at pos, of type t; nil when nothing is known about it.
func (j *jsonWalk) value(t reflect.Type, at *place, depth int) error {
	if depth > jsonDepthMax {
		return Problem(http.StatusBadRequest, "json-depth", "nested over %d levels at byte %d", jsonDepthMax, j.pos)
	}
	first := j.next(0)
	start := j.pos
	if err := j.inner(first, jsonTypeOf(t), at, depth); err != nil {
		return err
	}
	if j.tries && t != nil { // what is inside fits
		if err := json.Unmarshal(j.data[start:j.pos], reflect.New(t).Interface()); err != nil {
			return valueProblem(at.String(), err)
		}
	}
	return nil
}

// inner goes through the value at pos, which begins with first.
func (j *jsonWalk) inner(first byte, t *jsonType, at *place, depth int) error {
	switch first {
	case '{':
		return j.object(t, at, depth)
	case '[':
		return j.array(t, at, depth)
	case '"':
		_, _, err := j.str()
		return err
	}
	for ; j.pos < len(j.data); j.pos++ {
		switch j.data[j.pos] {
		case ' ', '\t', '\r', '\n', ',', ']', '}':
			return nil
		}
	}
	return nil
}

func (j *jsonWalk) array(t *jsonType, at *place, depth int) error {
	var elem reflect.Type
	if t.fields == nil && !t.keyed {
		elem = t.elem
	}
	here := place{up: at}
	for c := j.next('['); c != ']'; c = j.next(',') {
		if err := j.value(elem, &here, depth+1); err != nil {
			return err
		}
		here.index++
	}
	j.pos++
	return nil
}

func (j *jsonWalk) object(t *jsonType, at *place, depth int) error {
	elem := t.elem
	if !t.keyed {
		elem = nil
	}
	seen, here := keySet{}, place{up: at, index: -1}
	for c := j.next('{'); c != '}'; c = j.next(',') {
		raw, escaped, err := j.str()
		if err != nil {
			return err
		}
		if f := t.fields[string(raw[1:len(raw)-1])]; f != nil && !escaped {
			here.key, elem = f.name, f.of
		} else if here.key = unquote(raw, escaped); t.fields != nil {
			if f = t.fields[here.key]; f == nil {
				return Problem(http.StatusBadRequest, "json-unknown-field", "%q is not a known field", here.String())
			}
			elem = f.of
		}
		if !seen.add(here.key) {
			return Problem(http.StatusBadRequest, "json-duplicate", "%q comes twice", here.String())
		}
		j.next(':')
		if err := j.value(elem, &here, depth+1); err != nil {
			return err
		}
	}
	j.pos++
	return nil
}

// keySet has an object's keys; few need no map.
type keySet struct {
	few  [8]string
	n    int
	many map[string]bool
}

// add returns false if the key is there.
func (s *keySet) add(key string) bool {
	if s.many[key] || slices.Contains(s.few[:s.n], key) {
		return false
	}
	switch {
	case s.n < len(s.few):
		s.few[s.n] = key
		s.n++
	case s.many == nil:
		s.many = map[string]bool{key: true}
	default:
		s.many[key] = true
	}
	return true
}

// str passes the string at pos, returns it with its quotes, and refuses an escape that is half of a surrogate pair:
// encoding/json would turn it into U+FFFD, so two different texts would become one.
func (j *jsonWalk) str() (raw []byte, escaped bool, err error) {
	start := j.pos
	for j.pos++; j.data[j.pos] != '"'; j.pos++ {
		if j.data[j.pos] != '\\' {
			continue
		}
		escaped = true
		j.pos++
		if j.data[j.pos] != 'u' {
			continue
		}
		r := j.hex4()
		if !utf16.IsSurrogate(r) {
			continue
		}
		at, low := j.pos-5, rune(0)
		if bytes.HasPrefix(j.data[j.pos+1:], []byte(`\u`)) {
			j.pos += 2
			low = j.hex4()
		}
		if utf16.DecodeRune(r, low) == utf8.RuneError {
			return nil, false, Problem(http.StatusBadRequest, "json-encoding", "half of a surrogate pair at byte %d", at)
		}
	}
	j.pos++
	return j.data[start:j.pos], escaped, nil
}

func unquote(raw []byte, escaped bool) string {
	if !escaped {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		panic("serve: string of valid JSON does not decode: " + err.Error())
	}
	return s
}

// hex4 reads the four digits behind the u at pos and leaves pos at the last of them.
func (j *jsonWalk) hex4() rune {
	n, _ := strconv.ParseUint(string(j.data[j.pos+1:j.pos+5]), 16, 16) // digits, by the syntax check
	j.pos += 4
	return rune(n)
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	jsonTypes       sync.Map // reflect.Type → *jsonType; bounded by the program's types
	anyJSON         = &jsonType{}
)

// jsonType is what is known of a value before it is read. The zero value is nothing.
type jsonType struct {
	fields map[string]*jsonField // of a struct; nil: any key will do
	elem   reflect.Type          // of a map, a slice or an array
	keyed  bool                  // it is a map
}

type jsonField struct {
	name string
	of   reflect.Type
}

func jsonTypeOf(t reflect.Type) *jsonType {
	if t == nil {
		return anyJSON
	}
	if known, ok := jsonTypes.Load(t); ok {
		return known.(*jsonType)
	}
	known := &jsonType{}
	if inner := knownType(t); inner != nil {
		switch inner.Kind() {
		case reflect.Struct:
			known.fields = jsonFields(inner)
		case reflect.Map:
			known.elem, known.keyed = inner.Elem(), true
		case reflect.Slice, reflect.Array:
			known.elem = inner.Elem()
		}
	}
	jsonTypes.Store(t, known)
	return known
}

// knownType strips pointers from t; a type that decodes itself is not known.
func knownType(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || reflect.PointerTo(t).Implements(jsonUnmarshaler) || reflect.PointerTo(t).Implements(textUnmarshaler) {
		return nil
	}
	return t
}

// jsonFields returns the keys that encoding/json fills in a struct, with their types.
func jsonFields(t reflect.Type) map[string]*jsonField {
	m := map[string]*jsonField{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		promotes := f.Anonymous && name == "" && knownType(f.Type) != nil && knownType(f.Type).Kind() == reflect.Struct
		if promotes || !f.IsExported() || f.Tag.Get("json") == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		m[name] = &jsonField{name, f.Type}
	}
	return m
}
