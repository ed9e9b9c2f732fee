package edn

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestValues(t *testing.T) {
	for _, c := range []struct {
		value     any
		edn, json string
	}{
		{nil, "nil", "null"},
		{true, "true", "true"},
		{-7, "-7", "-7"},
		{int64(1 << 60), "1152921504606846976", "1152921504606846976"},
		{0.5, "0.5", "0.5"},
		{1.0, "1.0", "1"},
		{1e300, "1e+300", "1e+300"},
		{Keyword("valid?"), ":valid?", `"valid?"`},
		{"a\"b\\c\nd\te\x01é", `"a\"b\\c\nd\te\u0001é"`, `"a\"b\\c\nd\te\u0001é"`},
		{Vector{1, "x", Keyword("k")}, `[1 "x" :k]`, `[1,"x","k"]`},
		{Set{"a", "b"}, `#{"a" "b"}`, `["a","b"]`},
		{Map{{Keyword("a"), 1}, {0.5, Map{}}, {"s", nil}}, `{:a 1, 0.5 {}, "s" nil}`, `{"a":1,"0.5":{},"s":null}`},
		{Raw(nil), "nil", "null"},
		{Raw(`{"a": [1, 2.5, null, true], "b\n:": "x,\u00e9\/"}`), `{"a" [1 2.5 nil true] "b\n:" "x,é/"}`, `{"a":[1,2.5,null,true],"b\n:":"x,\u00e9\/"}`},
	} {
		if got := strings.Join(strings.Fields(string(Append(nil, c.value))), " "); got != c.edn {
			t.Errorf("Append(%#v) = %s, want %s", c.value, got, c.edn)
		}
		got, err := json.Marshal(c.value)
		if err != nil || string(got) != c.json {
			t.Errorf("Marshal(%#v) = %s, %v, want %s", c.value, got, err, c.json)
		}
	}
	for want, f := range map[string]float64{"##NaN": math.NaN(), "##Inf": math.Inf(1), "##-Inf": math.Inf(-1)} {
		if got := string(Append(nil, f)); got != want {
			t.Errorf("Append(%v) = %s, want %s", f, got, want)
		}
	}
}

func TestIndented(t *testing.T) {
	long := Vector{}
	for range 30 {
		long = append(long, 1000)
	}
	m := Map{}.With("short", Map{}.With("a", 1)).With("long", Map{}.With("numbers", long).With("b", 2))
	numbers := strings.TrimSpace(strings.Repeat("1000 ", 30))
	want := "{:short {:a 1},\n :long {:numbers [" + numbers + "],\n        :b 2}}"
	if diff := cmp.Diff(want, string(AppendIndented(nil, m))); diff != "" {
		t.Errorf("AppendIndented mismatch (-want +got):\n%s", diff)
	}
	one := Map{}.With("element", long[:12]).With("more", long[:12])
	text := strings.TrimSpace(strings.Repeat("1000 ", 12))
	line := "{:element [" + text + "],\n   :more [" + text + "]}"
	want = "{:all [" + strings.ReplaceAll(line, "\n   ", "\n        ") + "\n       " + strings.ReplaceAll(line, "\n   ", "\n        ") + "]}"
	if diff := cmp.Diff(want, string(AppendIndented(nil, Map{}.With("all", Vector{one, one})))); diff != "" {
		t.Errorf("AppendIndented of maps in a vector mismatch (-want +got):\n%s", diff)
	}
	if m.Get("short") == nil || m.Get("none") != nil {
		t.Error("Get is wrong")
	}
}

func TestUnknownType(t *testing.T) {
	defer func() {
		if p := recover(); p != "edn: cannot write a chan int" {
			t.Errorf("panic %v", p)
		}
	}()
	Append(nil, make(chan int))
}

// What is valid JSON is written without a panic, on one line, and with as many strings.
func FuzzRaw(f *testing.F) {
	f.Add(`{"a":[1,{"b":"\"\\"}],"n":null}`)
	f.Fuzz(func(t *testing.T, text string) {
		if !json.Valid([]byte(text)) {
			return
		}
		got := string(Append(nil, Raw(text)))
		plain := strings.NewReplacer(`\\`, "", `\"`, "")
		if strings.Count(plain.Replace(got), `"`) != strings.Count(plain.Replace(text), `"`) || strings.ContainsAny(got, "\n\t") {
			t.Errorf("%s is written as %s", text, got)
		}
	})
}
