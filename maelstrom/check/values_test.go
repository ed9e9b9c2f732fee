package check

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestCanonical(t *testing.T) {
	for _, c := range []struct {
		a, b  string
		equal bool
	}{
		{"1", "1", true}, {"1", "1.0", false}, {"1.0", "1e0", true}, {"10", "1e1", false}, {"-0", "0", true}, {"1", `"1"`, false},
		{"18446744073709551616", "18446744073709551617", false},
		{`"a"`, `"\u0061"`, true}, {`"a"`, `"b"`, false}, {"null", "false", false}, {`"null"`, "null", false},
		{`{"a":1,"b":[2]}`, ` {"b": [2], "a": 1}`, true}, {`{"a":1}`, `{"a":2}`, false}, {`{"a":{"b":1}}`, `{"a":{},"b":1}`, false},
		{"[1,2]", "[1, 2]", true}, {"[1,2]", "[2,1]", false}, {"[[1],2]", "[[1,2]]", false}, {`["a","b"]`, `["a,b"]`, false},
	} {
		if got := canonical([]byte(c.a)) == canonical([]byte(c.b)); got != c.equal {
			t.Errorf("%s equals %s: %v, want %v", c.a, c.b, got, c.equal)
		}
	}
}

// An index tells values apart as canonical does, small integers or not.
func TestIndex(t *testing.T) {
	var x index
	for i, value := range []string{"0", "7", "1048575", "1048576", "-1", "1.0", `"7"`, "[]"} {
		if n, isNew := x.number([]byte(value)); n != i || !isNew {
			t.Errorf("number(%s) = %d, %v, want %d, true", value, n, isNew, i)
		}
	}
	for value, want := range map[string]int{"0": 0, "-0": 0, "7": 1, "1048575": 2, "1048576": 3, "1e0": 5, `"\u0037"`: 6, "[ ]": 7} {
		if n, isNew := x.number([]byte(value)); n != want || isNew {
			t.Errorf("number(%s) = %d, %v, want %d, false", value, n, isNew, want)
		}
	}
}

func TestSplit(t *testing.T) {
	for array, want := range map[string][]string{
		"[]": nil, " [ ] ": nil, "[1]": {"1"}, " [ 1 ,\n2\t] ": {"1", "2"}, `["a,]","\"",[1,[2]],{"a":[3],"b":"}"},null]`: {`"a,]"`, `"\""`, "[1,[2]]",
			`{"a":[3],"b":"}"}`, "null"},
	} {
		var got []string
		values, ok := split(nil, []byte(array))
		for _, value := range values {
			got = append(got, string(value))
		}
		if diff := cmp.Diff(want, got); diff != "" || !ok {
			t.Errorf("split(%q) is %v, mismatch (-want +got):\n%s", array, ok, diff)
		}
	}
}

// No text but a JSON array is split.
func TestSplitTakesArraysOnly(t *testing.T) {
	texts := []string{"", " ", "null", "1", `"[]"`, "{}", "[", "]", "[1", "[1,", "[1,]", "[,]", "[,1]", "[1]]", "[1]1", "[1 2]", "[01]", "[a]", "[1}", "[{]", `["]`,
		"[1],[2]", "[]]", "[[]", "[-]", "[{},]"}
	check := func(t rapid.TB, text string) {
		var array []json.RawMessage
		err := json.Unmarshal([]byte(text), &array)
		valid := err == nil && array != nil
		if _, ok := split(nil, []byte(text)); ok != valid {
			t.Errorf("split(%q) is %v, an array: %v", text, ok, valid)
		}
	}
	for _, text := range texts {
		check(t, text)
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, rapid.StringOfN(rapid.RuneFrom([]rune("[]{},:\"\\ 012.-ntrue")), 0, 12, -1).Draw(t, "text"))
		check(t, "["+rapid.StringOfN(rapid.RuneFrom([]rune("[]{},:\"\\ 01")), 0, 8, -1).Draw(t, "inner")+"]")
	})
}

func TestCompare(t *testing.T) {
	ascending := []string{"null", "-5", "1", "1.5", "2", "9223372036854775808", "9223372036854775809"}
	for i, a := range ascending {
		for j, b := range ascending {
			x, _ := decode([]byte(a))
			y, _ := decode([]byte(b))
			if order, ok := compare(x, y); !ok || order != max(-1, min(1, i-j)) {
				t.Errorf("compare(%s, %s) = %d, %v", a, b, order, ok)
			}
		}
	}
	for _, c := range [][2]string{{"1", `"1"`}, {"true", "1"}, {"{}", "{}"}, {"[]", "{}"}, {"[1]", `["a"]`}, {`"a"`, "[]"}} {
		x, _ := decode([]byte(c[0]))
		y, _ := decode([]byte(c[1]))
		if order, ok := compare(x, y); ok {
			t.Errorf("compare(%s, %s) = %d, want none", c[0], c[1], order)
		}
	}
}

func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{3845 * time.Millisecond: "3.845 s", 20*time.Second + 400*time.Microsecond: "20 s", -3 * time.Millisecond: "-0.003 s"} {
		if got := seconds(d); got != want {
			t.Errorf("seconds(%d) = %q, want %q", d, got, want)
		}
	}
}
