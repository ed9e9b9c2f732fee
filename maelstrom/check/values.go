package check

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// JSON values as Clojure compares them: 1 is not 1.0, and the order of an object's members does not matter.

// canonical returns the same text for equal values, and for no others. It is for comparing only.
func canonical(raw []byte) string {
	if isInteger(raw) {
		return string(raw)
	}
	value, err := decode(raw)
	if err != nil {
		return string(raw) // equal to itself at least
	}
	return string(appendCanonical(nil, value))
}

func isInteger(text []byte) bool { return len(text) > 0 && digits(text) == len(text) }

func decode(raw []byte) (value any, err error) {
	if isInteger(raw) {
		return json.Number(raw), nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	err = dec.Decode(&value)
	return value, err
}

func appendCanonical(b []byte, value any) []byte {
	switch v := value.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case string:
		return strconv.AppendQuote(b, v)
	case json.Number:
		if n, ok := integer(v); ok {
			return n.Append(b, 10)
		}
		f, _ := v.Float64()
		return strconv.AppendFloat(b, f, 'e', -1, 64) // never looks like an integer
	case []any:
		b = append(b, '[')
		for _, one := range v {
			b = append(appendCanonical(b, one), ',')
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for _, key := range slices.Sorted(maps.Keys(v)) {
			b = append(strconv.AppendQuote(b, key), ':')
			b = append(appendCanonical(b, v[key]), ',')
		}
		return append(b, '}')
	}
	panic(fmt.Sprintf("check: JSON cannot be a %T", value))
}

func integer(n json.Number) (*big.Int, bool) { return new(big.Int).SetString(string(n), 10) }

// compare orders decoded values as Clojure does. It cannot where their types differ, and objects have no order.
func compare(a, b any) (order int, ok bool) {
	switch x := a.(type) {
	case nil:
		if b == nil {
			return 0, true
		}
		return -1, true
	case bool:
		if y, ok := b.(bool); ok {
			return cmp.Compare(boolInt(x), boolInt(y)), true
		}
	case string:
		if y, ok := b.(string); ok {
			return strings.Compare(x, y), true
		}
	case json.Number:
		if y, ok := b.(json.Number); ok {
			return compareNumbers(x, y), true
		}
	case []any:
		if y, ok := b.([]any); ok {
			return compareArrays(x, y)
		}
	}
	return 1, b == nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// compareArrays puts the shorter first.
func compareArrays(a, b []any) (order int, ok bool) {
	if len(a) != len(b) {
		return cmp.Compare(len(a), len(b)), true
	}
	for i := range a {
		if order, ok := compare(a[i], b[i]); order != 0 || !ok {
			return order, ok
		}
	}
	return 0, true
}

func compareNumbers(a, b json.Number) int {
	x, errX := a.Int64()
	y, errY := b.Int64()
	if errX == nil && errY == nil {
		return cmp.Compare(x, y)
	}
	if x, ok := integer(a); ok {
		if y, ok := integer(b); ok {
			return x.Cmp(y)
		}
	}
	f, _ := a.Float64()
	g, _ := b.Float64()
	return cmp.Compare(f, g)
}

// sortByValue sorts by JSON values, and says whether they can be compared. If not, the order is as good as none.
func sortByValue[T any](all []T, value func(T) []byte) (ok bool) {
	type pair struct {
		decoded any
		of      T
	}
	pairs := make([]pair, len(all))
	for i, one := range all {
		decoded, err := decode(value(one))
		if err != nil {
			return false
		}
		pairs[i] = pair{decoded, one}
	}
	ok = true
	slices.SortStableFunc(pairs, func(a, b pair) int {
		order, comparable := compare(a.decoded, b.decoded)
		ok = ok && comparable
		return order
	})
	for i, p := range pairs {
		all[i] = p.of
	}
	return ok
}

// split returns the values of a JSON array, appended to all; false if the text is none.
func split(all [][]byte, array []byte) ([][]byte, bool) {
	rest, ok := bytes.CutPrefix(trim(array), []byte("["))
	if !ok {
		return all, false
	}
	if string(trim(rest)) == "]" {
		return all, true
	}
	for {
		end := digits(rest)
		value := rest[:end]
		if plain := end > 0 && end < len(rest) && (rest[end] == ',' || rest[end] == ']') && (end == 1 || rest[0] != '0'); !plain {
			end = valueEnd(rest)
			if value = trim(rest[:end]); !json.Valid(value) {
				return all, false
			}
		}
		all = append(all, value)
		switch rest = rest[end:]; {
		case string(rest) == "]":
			return all, true
		case len(rest) == 0 || rest[0] != ',':
			return all, false
		}
		rest = rest[1:]
	}
}

func trim(b []byte) []byte { return bytes.Trim(b, " \t\r\n") }

// digits returns how many digits the text begins with.
func digits(text []byte) int {
	for i := range len(text) {
		if c := text[i]; c < '0' || c > '9' {
			return i
		}
	}
	return len(text)
}

// valueEnd returns the index of what ends the value at the beginning of b: a comma or a bracket that is not its own.
func valueEnd(b []byte) int {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			depth++
		case depth == 0 && (c == ',' || c == ']'):
			return i
		case c == ']' || c == '}':
			depth--
		}
	}
	return len(b)
}

// An index numbers different values from 0 on.
type index struct {
	small  []int // of the integers up to smallMax: their number and 1
	others map[string]int
	count  int
}

const smallMax = 1 << 20

// number returns the value's number, and whether it is new.
func (x *index) number(value []byte) (n int, isNew bool) {
	if i, ok := smallInteger(value); ok {
		if i >= len(x.small) {
			x.small = append(x.small, make([]int, i+1-len(x.small))...)
		}
		if x.small[i] == 0 {
			x.count++
			x.small[i] = x.count
			return x.count - 1, true
		}
		return x.small[i] - 1, false
	}
	key := canonical(value)
	n, known := x.others[key]
	if known {
		return n, false
	}
	if x.others == nil {
		x.others = map[string]int{}
	}
	x.others[key] = x.count
	x.count++
	return x.count - 1, true
}

func smallInteger(value []byte) (n int, ok bool) {
	if string(value) == "-0" {
		return 0, true
	}
	if len(value) > 7 || !isInteger(value) {
		return 0, false
	}
	for _, c := range value {
		n = 10*n + int(c-'0')
	}
	return n, n < smallMax
}
