// Package edn writes extensible data notation (github.com/edn-format/edn) and, of the same values, JSON.
//
// The values are nil, bool, string, int, int64, float64, Keyword, Map, Vector, Set, and Raw, which is JSON and is written
// as the EDN that means the same.
package edn

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

type (
	// A Keyword is written with a colon, and as a plain string in JSON.
	Keyword string
	// A Map keeps the order of its pairs. In JSON its keys are strings.
	Map []Pair
	// A Pair is one entry of a Map.
	Pair struct{ Key, Value any }
	// A Vector is a sequence.
	Vector []any
	// A Set holds values that differ; it is an array in JSON.
	Set []any
	// Raw is JSON text, and must be valid. nil is null.
	Raw []byte
)

// Get returns the value under the keyword, nil if there is none.
func (m Map) Get(key string) any {
	for _, p := range m {
		if p.Key == Keyword(key) {
			return p.Value
		}
	}
	return nil
}

// With returns the map with one more pair under a keyword.
func (m Map) With(key string, value any) Map { return append(m, Pair{Keyword(key), value}) }

// Append appends the value in EDN, on one line. It panics on a type that the package does not know.
func Append(b []byte, value any) []byte { return appendEDN(b, value, -1) }

// AppendIndented appends the value in EDN: maps that do not fit on a line have one pair a line, sequences of maps one map.
func AppendIndented(b []byte, value any) []byte { return appendEDN(b, value, 0) }

const lineMax = 100 // characters of a map on one line

// appendEDN indents by so many characters; -1: everything on one line.
func appendEDN(b []byte, value any, indent int) []byte {
	switch v := value.(type) {
	case nil:
		return append(b, "nil"...)
	case bool:
		return strconv.AppendBool(b, v)
	case string:
		return appendString(b, v)
	case int:
		return strconv.AppendInt(b, int64(v), 10)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case float64:
		return appendFloat(b, v)
	case Keyword:
		return append(append(b, ':'), v...)
	case Map:
		return appendMap(b, v, indent)
	case Vector:
		return appendAll(b, "[", v, ']', indent)
	case Set:
		return appendAll(b, "#{", v, '}', indent)
	case Raw:
		return appendRaw(b, v)
	}
	panic(fmt.Sprintf("edn: cannot write a %T", value))
}

// appendFloat keeps a point or an exponent, so that a reader sees a float.
func appendFloat(b []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(b, "##NaN"...)
	case math.IsInf(f, 1):
		return append(b, "##Inf"...)
	case math.IsInf(f, -1):
		return append(b, "##-Inf"...)
	}
	at := len(b)
	b = strconv.AppendFloat(b, f, 'g', -1, 64)
	for _, c := range b[at:] {
		if c == '.' || c == 'e' {
			return b
		}
	}
	return append(b, ".0"...)
}

func appendMap(b []byte, m Map, indent int) []byte {
	line := appendPairs(nil, m, -1, ", ")
	if indent < 0 || len(line)+indent < lineMax {
		return append(b, line...)
	}
	return appendPairs(b, m, indent+1, ",\n"+strings.Repeat(" ", indent+1))
}

func appendPairs(b []byte, m Map, indent int, separator string) []byte {
	b = append(b, '{')
	for i, p := range m {
		if i > 0 {
			b = append(b, separator...)
		}
		at := len(b)
		b = append(appendEDN(b, p.Key, -1), ' ')
		inner := indent
		if indent >= 0 {
			inner += len(b) - at
		}
		b = appendEDN(b, p.Value, inner)
	}
	return append(b, '}')
}

// appendAll puts maps that do not fit on a line below each other; anything else stays on one.
func appendAll(b []byte, open string, all []any, end byte, indent int) []byte {
	line := append(appendItems(append([]byte(nil), open...), all, -1, " "), end)
	maps := slices.ContainsFunc(all, func(v any) bool { _, is := v.(Map); return is })
	if indent < 0 || !maps || len(line)+indent < lineMax {
		return append(b, line...)
	}
	indent += len(open)
	return append(appendItems(append(b, open...), all, indent, "\n"+strings.Repeat(" ", indent)), end)
}

func appendItems(b []byte, all []any, indent int, separator string) []byte {
	for i, v := range all {
		if i > 0 {
			b = append(b, separator...)
		}
		b = appendEDN(b, v, indent)
	}
	return b
}

// appendString writes what both EDN and Clojure's reader take.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch r {
		case '"', '\\':
			b = append(b, '\\', byte(r))
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			if r < ' ' || r == 0x7f {
				b = fmt.Appendf(b, `\u%04x`, r)
			} else {
				b = utf8.AppendRune(b, r)
			}
		}
	}
	return append(b, '"')
}

// appendRaw rewrites JSON: white space and commas become one space, colons go, null is nil, strings are escaped anew.
func appendRaw(b []byte, raw []byte) []byte {
	if raw == nil {
		return append(b, "nil"...)
	}
	for i := 0; i < len(raw); {
		switch c := raw[i]; c {
		case '"':
			end := stringEnd(raw, i)
			var s string
			if err := json.Unmarshal(raw[i:end], &s); err != nil {
				panic("edn: " + err.Error())
			}
			b = appendString(b, s)
			i = end
			continue
		case ' ', '\t', '\r', '\n':
		case ',', ':':
			b = append(b, ' ')
		case 'n':
			b = append(b, "nil"...)
			i += len("null")
			continue
		default:
			b = append(b, c)
		}
		i++
	}
	return b
}

// stringEnd returns the index after the string that begins at i.
func stringEnd(raw []byte, i int) int {
	for i++; raw[i] != '"'; i++ {
		if raw[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// MarshalJSON writes an object, keys in order.
func (m Map) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, p := range m {
		if i > 0 {
			b = append(b, ',')
		}
		key, err := json.Marshal(keyText(p.Key))
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(p.Value)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, key...), ':'), value...)
	}
	return append(b, '}'), nil
}

func keyText(key any) string {
	switch k := key.(type) {
	case string:
		return k
	case Keyword:
		return string(k)
	}
	return string(Append(nil, key))
}

// MarshalJSON returns the text itself.
func (r Raw) MarshalJSON() ([]byte, error) {
	if r == nil {
		return []byte("null"), nil
	}
	return r, nil
}
