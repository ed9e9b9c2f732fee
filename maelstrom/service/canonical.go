package service

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"dongne/maelstrom/edn"
)

// canonical returns the one text of all JSON that means the same, so that text is enough to compare and to look up. raw is
// valid, and nil is null. As in Clojure, integers have any number of digits, other numbers are float64, and the two are
// never equal. What float64 cannot hold is left as it is.
func canonical(raw json.RawMessage) string {
	if raw == nil {
		return "null"
	}
	if plain(raw) {
		return string(raw)
	}
	return rewrite(raw)
}

func rewrite(raw json.RawMessage) string {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		panic("service: " + err.Error())
	}
	var text strings.Builder
	encoder := json.NewEncoder(&text) // sorts the members of objects
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(withCanonicalNumbers(value)); err != nil {
		panic("service: " + err.Error())
	}
	return strings.TrimSuffix(text.String(), "\n")
}

// plain recognises most of what is canonical already, at a glance.
func plain(raw []byte) bool {
	switch raw[0] {
	case '{', '[':
		return false
	case '"':
		return !slices.ContainsFunc(raw, func(c byte) bool { return c == '\\' || c >= utf8.RuneSelf })
	}
	return !bytes.ContainsAny(raw, ".eE") && string(raw) != "-0"
}

func withCanonicalNumbers(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for name, member := range v {
			v[name] = withCanonicalNumbers(member)
		}
	case []any:
		for i, element := range v {
			v[i] = withCanonicalNumbers(element)
		}
	case json.Number:
		return canonicalNumber(v)
	}
	return value
}

func canonicalNumber(n json.Number) json.Number {
	if n == "-0" {
		return "0"
	}
	if !strings.ContainsAny(string(n), ".eE") {
		return n
	}
	f, err := strconv.ParseFloat(string(n), 64)
	if err != nil {
		return n
	}
	if f == 0 {
		f = 0 // and not -0
	}
	return json.Number(edn.Append(nil, f))
}
