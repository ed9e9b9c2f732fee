package shadow

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func newShadow(t testing.TB, settings Settings) *Shadow {
	t.Helper()
	s, err := New(t.Context(), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// said is a JSON answer with a status of 200.
func (s *Shadow) said(body string, header ...string) *answer {
	r := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	a := s.head(http.MethodGet, r)
	a.body = []byte(body)
	return a
}

func gzipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(text))
	w.Close()
	return b.String()
}

func TestCompareJSON(t *testing.T) {
	s := newShadow(t, Settings{Ignore: []string{"/trace_id", "/items/*/at", "/a~1b/~0"}})
	for _, c := range []struct{ first, second, where string }{
		{`{"a":1,"b":[true,null,"x"]}`, " {\"b\" : [ true, null, \"\\u0078\" ], \"a\" : 1 }\n", ""},
		{`{"n":1}`, `{"n":1.0}`, ""},
		{`{"n":1200}`, `{"n":12E+2}`, ""},
		{`{"n":-0.0}`, `{"n":0}`, ""},
		{`{"n":0.001}`, `{"n":1e-3}`, ""},
		{`{"n":9007199254740993}`, `{"n":9007199254740992}`, "/n"},
		{`{"n":1}`, `{"n":-1}`, "/n"},
		{`{"n":1}`, `{"n":10}`, "/n"},
		{`{"n":1e999999999999}`, `{"n":1e999999999998}`, "/n"},
		{`{"n":1}`, `{"n":"1"}`, "/n"},
		{`{"n":null}`, `{}`, "/n"},
		{`{"n":null}`, `{"n":false}`, "/n"},
		{`{"a":1}`, `{"a":1,"n":1}`, "/n"},
		{`{"n":{}}`, `{"n":[]}`, "/n"},
		{`{"n":""}`, `{"n":[]}`, "/n"},
		{`{"d":1,"b":1,"a":1,"c":1,"e":1,"f":1,"g":1,"h":1}`, `{}`, "/a"},
		{`{}`, `{"d":1,"b":1,"a":1,"c":1,"e":1,"f":1,"g":1,"h":1}`, "/a"},
		{`[1,2,3]`, `[1,2]`, "/2"},
		{`[1,2]`, `[1,3,2]`, "/1"},
		{`{"x/y":{"~":1}}`, `{"x/y":{"~":2}}`, "/x~1y/~0"},
		{`1`, `2`, "whole"},
		{`{}`, `[]`, "whole"},
		{`{"trace_id":"a"}`, `{"trace_id":"b"}`, ""},
		{`{"trace_id":"a"}`, `{}`, ""},
		{`{"items":[{"at":1,"id":2}]}`, `{"items":[{"at":2,"id":2}]}`, ""},
		{`{"items":[{"at":1,"id":2}]}`, `{"items":[{"at":2,"id":3}]}`, "/items/0/id"},
		{`{"items":[{"at":{"at":1}}]}`, `{"items":[{}]}`, ""},
		{`{"at":1}`, `{"at":2}`, "/at"},
		{`{"a/b":{"~":1}}`, `{"a/b":{"~":2}}`, ""},
		{`{"a":1}`, `{"a":1} `, ""},
		{`{"a":1}`, `{"a":1}{}`, "byte 7"}, // not one value: byte by byte
		{`{"a":`, `{"b":`, "byte 2"},
		{``, ``, ""},
		{``, `{}`, "byte 0"},
	} {
		outcome, where := s.compare(s.said(c.first), s.said(c.second))
		if where != c.where || (outcome == Same) != (c.where == "") {
			t.Errorf("compare(%s, %s) = %v at %q, want %q", c.first, c.second, outcome, where, c.where)
		}
	}
}

func TestCompare(t *testing.T) {
	s := newShadow(t, Settings{BodyBytesMax: 100, Headers: []string{"content-type", "ETag"}})
	failed := s.said(`{}`)
	failed.status = 500
	cut := s.said("")
	cut.cut = true
	const ct, ce = "Content-Type", "Content-Encoding"
	const text, zip, brotli, problem = "text/plain", "gzip", "br", "application/problem+json"
	for name, c := range map[string]struct {
		first, second *answer
		want          Outcome
		where         string
	}{
		"status before all": {s.said(`{}`), failed, Status, ""},
		"a field":           {s.said(`{}`, "ETag", `"1"`), s.said(`{}`, "ETag", `"2"`), Header, "Etag"},
		"a field less":      {s.said(`{}`, "ETag", `"1"`), s.said(`{}`), Header, "Etag"},
		"another field":     {s.said(`{}`, "Date", "1"), s.said(`{}`, "Date", "2"), Same, ""},
		"the kind":          {s.said(`{}`), s.said(`{}`, ct, text), Header, "Content-Type"},
		"the spelling": {
			s.said(`{}`, ct, "Application/JSON;charset=UTF-8"),
			s.said(`{ }`, ct, `application/json; charset="utf-8"`), Same, "",
		},
		"problem+json":        {s.said(`{}`, ct, problem), s.said(`{ }`, ct, problem), Same, ""},
		"text is bytes":       {s.said(`{}`, ct, text), s.said(`{ }`, ct, text), Body, "byte 1"},
		"text is shorter":     {s.said(`ab`, ct, text), s.said(`a`, ct, text), Body, "byte 1"},
		"too large":           {cut, s.said(`{}`), Uncompared, ""},
		"the other too large": {s.said(`{}`), cut, Uncompared, ""},
		"zipped":              {s.said(gzipped(`{"a":1}`), ce, zip), s.said(`{ "a":1}`), Same, ""},
		"zipped, not the same": {
			s.said(gzipped(`{"a":1}`), ce, zip), s.said(`{"a":2}`, ce, "identity"), Body, "/a",
		},
		"zipped and damaged text": {s.said(gzipped(`{`), ce, zip), s.said(`{`), Same, ""},
		"no media type at all":    {s.said(`a`, ct, "//"), s.said(`a`, ct, "/"), Header, "Content-Type"},
		"zipped badly":            {s.said(`{}`, ce, zip), s.said(`{}`), Uncompared, ""},
		"zipped and cut off":      {s.said(gzipped(`{}`)[:20], ce, zip), s.said(`{}`), Uncompared, ""},
		"a bomb":                  {s.said(gzipped(strings.Repeat(" ", 101)), ce, zip), s.said(`{}`), Uncompared, ""},
		"unknown and the same":    {s.said(`x`, ce, brotli), s.said(`x`, ce, brotli), Same, ""},
		"unknown and different":   {s.said(`x`, ce, brotli), s.said(`y`, ce, brotli), Uncompared, ""},
	} {
		if got, where := s.compare(c.first, c.second); got != c.want || where != c.where {
			t.Errorf("%s: compare = %v at %q, want %v at %q", name, got, where, c.want, c.where)
		}
	}
}

// A long path is cut, and stays text.
func TestPointerIsBounded(t *testing.T) {
	got := pointer([]string{strings.Repeat("동", 1000), "x"})
	if len(got) > whereBytesMax+len("…") || !strings.HasPrefix(got, "/동동") || strings.ToValidUTF8(got, "?") != got {
		t.Errorf("pointer = %q, of %d bytes", got, len(got))
	}
}

// value draws a JSON value whose leaves are all different numbers.
func value(rng *rand.Rand, depth int, leaf *int) any {
	switch kind := rng.IntN(3); {
	case depth == 0 || kind == 0:
		*leaf++
		return json.Number(strconv.Itoa(*leaf))
	case kind == 1:
		all := make([]any, rng.IntN(4))
		for i := range all {
			all[i] = value(rng, depth-1, leaf)
		}
		return all
	default:
		all := map[string]any{}
		for i := range rng.IntN(4) {
			all[fmt.Sprintf("m~%d/", i)] = value(rng, depth-1, leaf)
		}
		return all
	}
}

// write spells a value: members in any order, numbers and spaces in several ways,
// the leaf of one number as -1. It returns that leaf's pointer.
func write(b *strings.Builder, rng *rand.Rand, v any, path string, changed int) (where string) {
	b.WriteString([]string{"", " ", "\n"}[rng.IntN(3)])
	switch v := v.(type) {
	case []any:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			where += write(b, rng, e, path+"/"+strconv.Itoa(i), changed)
		}
		b.WriteByte(']')
	case map[string]any:
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		slices.Sort(names)
		rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		b.WriteByte('{')
		for i, name := range names {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(b, "%q:", name)
			where += write(b, rng, v[name], path+"/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(name), changed)
		}
		b.WriteByte('}')
	case json.Number:
		if string(v) == strconv.Itoa(changed) {
			b.WriteString("-1")
			return path
		}
		fmt.Fprintf(b, []string{"%s", "%s.0", "%se0", "%s0e-1"}[rng.IntN(4)], v)
	}
	return where
}

// judge says what is wrong with a comparison of a drawn value with itself in
// another spelling, and with one of its leaves changed.
func judge(difference func(one, two []byte, asJSON bool) string, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 0))
	leaves := 0
	v := value(rng, 4, &leaves)
	var one, same, other strings.Builder
	write(&one, rng, v, "", 0)
	write(&same, rng, v, "", 0)
	if got := difference([]byte(one.String()), []byte(same.String()), true); got != "" {
		return fmt.Errorf("seed %d: %q in %s and %s", seed, got, one.String(), same.String())
	}
	if leaves == 0 {
		return nil
	}
	want := write(&other, rng, v, "", 1+rng.IntN(leaves))
	if want == "" {
		want = "whole"
	}
	if got := difference([]byte(one.String()), []byte(other.String()), true); got != want {
		return fmt.Errorf("seed %d: %q in %s and %s, want %q", seed, got, one.String(), other.String(), want)
	}
	return nil
}

func TestDifference(t *testing.T) {
	s := newShadow(t, Settings{})
	rapid.Check(t, func(t *rapid.T) {
		if err := judge(s.difference, rapid.Uint64().Draw(t, "seed")); err != nil {
			t.Fatal(err)
		}
	})
}

func TestJudgeCatchesMutants(t *testing.T) {
	s := newShadow(t, Settings{})
	forgiving := newShadow(t, Settings{Ignore: []string{"/*/0", "/*/m~00~1"}})
	for name, mutant := range map[string]func(one, two []byte, asJSON bool) string{
		"compares bytes":          func(one, two []byte, _ bool) string { return s.difference(one, two, false) },
		"compares nothing":        func(_, _ []byte, _ bool) string { return "" },
		"ignores too much":        forgiving.difference,
		"does not know where":     func(one, two []byte, _ bool) string { return min(s.difference(one, two, true), "/") },
		"compares what it prints": func(one, two []byte, _ bool) string { return printed(one, two) },
	} {
		caught := false
		for seed := range uint64(500) {
			caught = caught || judge(mutant, seed) != nil
		}
		if !caught {
			t.Errorf("the mutant that %s passes", name)
		}
	}
}

// printed compares two values by their printed form, numbers as they stand.
func printed(one, two []byte) string {
	a, _ := parse(one)
	b, _ := parse(two)
	if fmt.Sprint(a) == fmt.Sprint(b) {
		return ""
	}
	return "whole"
}

// No body makes a comparison panic, and one is the same as itself.
func FuzzDifference(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":null}]}`), []byte(`{"a":[1.0,{"b":0e9}]}`))
	f.Add([]byte(`-1e-5`), []byte(`"\ud800"`))
	s, err := New(f.Context(), Settings{Ignore: []string{"/a/*/b"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		there, back := s.difference(one, two, true), s.difference(two, one, true)
		if there != back {
			t.Errorf("%q one way, %q the other", there, back)
		}
		if got := s.difference(one, slices.Clone(one), true); got != "" {
			t.Errorf("%q between a body and itself", got)
		}
	})
}
