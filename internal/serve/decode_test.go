package serve

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

type attachment struct {
	URL  string `json:"url"`
	Size int64  `json:"size"`
}

type base struct {
	Kind string `json:"kind"`
}

type message struct {
	base
	Text   string            `json:"text"`
	Attach []attachment      `json:"attachments,omitempty"`
	Labels map[string]string `json:"labels"`
	ByName map[string]attachment
	At     *time.Time             `json:"at"`
	Raw    json.RawMessage        `json:"raw"`
	Count  uint8                  `json:"count"`
	Any    any                    `json:"any"`
	Times  map[string][]time.Time `json:"times"`
	Levels []struct {
		At level    `json:"at"`
		X  []*level `json:"x"`
	} `json:"levels"`
	Hidden  string `json:"-"`
	private string //lint:ignore U1000 encoding/json must not see it
}

// level decodes itself, and refuses what is over 9.
type level int

func (l *level) UnmarshalJSON(text []byte) error {
	var n int
	if json.Unmarshal(text, &n) != nil {
		return errors.New("want a number")
	}
	if n > 9 {
		return fmt.Errorf("%d is over 9", n)
	}
	*l = level(n)
	return nil
}

func TestDecode(t *testing.T) {
	deep := strings.Repeat("[", jsonDepthMax+1) + strings.Repeat("]", jsonDepthMax+1)
	for _, tt := range []struct{ body, code, detail string }{
		{`{"text":"a"}`, "", ""},
		{" \n{ \"text\" : \"a\" , \"kind\" : \"k\" }\t", "", ""},
		{`{"text":"\ud83d\ude00\u00e9\\ud800\"","attachments":[{"url":"u","size":1},{"size":2}],"ByName":{"a":{"size":1},"b":{}}}`, "", ""},
		{`{"labels":{"text":"x","TEXT":"y"},"raw":{"x":[1,{"y":null}]},"any":{"b":[true,-1.5e3]},"at":"2026-01-02T03:04:05Z"}`, "", ""},
		{`{"attachments":[],"labels":{},"at":null}`, "", ""},
		{"", "json-empty", "empty"},
		{" \n", "json-empty", "empty"},
		{"null", "json-type", "null"},
		{"{", "json-syntax", "byte 0"},
		{`{"text":}`, "json-syntax", "byte 8"},
		{`{"text":"a"} {}`, "json-syntax", "byte 13"},
		{`{"text":"a"},`, "json-syntax", "byte 12"},
		{"{\"text\":\"a\xff\"}", "json-encoding", "byte 10"},
		{"{\"text\":\"\u00e9\xc3\"}", "json-encoding", "byte 11"},
		{`{"text":"\ud800"}`, "json-encoding", "byte 9"},
		{`{"text":"\udc00\ud800"}`, "json-encoding", "byte 9"},
		{`{"text":"\ud800x"}`, "json-encoding", "byte 9"},
		{`{"text":"\ud800\u0041"}`, "json-encoding", "byte 9"},
		{`{"\ud800":1}`, "json-encoding", "byte 2"},
		{`{"text":"a","text":"b"}`, "json-duplicate", `"text"`},
		{`{"text":"a","te\u0078t":"b"}`, "json-duplicate", `"text"`},
		{`{"attachments":[{},{"url":"a","url":"a"}]}`, "json-duplicate", `"attachments[1].url"`},
		{`{"any":{"a":[{"b":1,"b":2}]}}`, "json-duplicate", `"any.a[0].b"`},
		{`{"raw":{"a":1,"a":2}}`, "json-duplicate", `"raw.a"`},
		{`{"labels":{"a":"1","a":"2"}}`, "json-duplicate", `"labels.a"`},
		{`{"Text":"a"}`, "json-unknown-field", `"Text"`},
		{`{"ByName":{"k":{"Size":1}}}`, "json-unknown-field", `"ByName.k.Size"`},
		{`{"Hidden":"a"}`, "json-unknown-field", `"Hidden"`},
		{`{"private":"a"}`, "json-unknown-field", `"private"`},
		{`{"base":{}}`, "json-unknown-field", `"base"`},
		{`{"attachments":[{"url":"a","x":1}]}`, "json-unknown-field", `"attachments[0].x"`},
		{`{"text":1}`, "json-type", `"text": want a string, got number`},
		{`{"count":256}`, "json-type", `"count"`},
		{`{"count":-1}`, "json-type", `"count"`},
		{`{"count":1.5}`, "json-type", `"count"`},
		{`{"attachments":{}}`, "json-type", `"attachments": want an array, got object`},
		{`{"attachments":[{"size":1},{"size":"1"}]}`, "json-type", `"attachments[1].size": want a whole number in range, got string`},
		{`{"ByName":{"k":{"size":true}}}`, "json-type", `"ByName.k.size"`},
		{`[]`, "json-type", "the body: want an object, got array"},
		{`"text"`, "json-type", "the body: want an object, got string"},
		{`{"at":"yesterday"}`, "json-value", `"at": `},
		{`{"times":{"a":["2026-01-02T03:04:05Z","yesterday"]}}`, "json-value", `"times.a[1]": `},
		{`{"levels":[{"at":1},{"at":10,"x":[2,11]}]}`, "json-value", `"levels[1].at": 10 is over 9`},
		{`{"levels":[{"at":1,"x":[{"deep":[]},11]}]}`, "json-value", `"levels[0].x[0]": want a number`},
		{`{"levels":[{"at":1,"x":[2,11]}]}`, "json-value", `"levels[0].x[1]": 11 is over 9`},
		{`{"any":` + deep + `}`, "json-depth", "64"},
		{strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000), "json-depth", "64"},
	} {
		var m message
		err := decodeJSON([]byte(tt.body), &m)
		var e *Error
		switch {
		case tt.code == "" && err != nil:
			t.Errorf("decode(%.60s) = %v, want nil", tt.body, err)
		case tt.code == "":
			var want message
			if err := json.Unmarshal([]byte(tt.body), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, m, cmp.AllowUnexported(message{}, base{})); diff != "" {
				t.Errorf("decode(%.60s) mismatch (-want +got):\n%s", tt.body, diff)
			}
		case !errors.As(err, &e) || e.Status() != 400 || e.Code() != tt.code || !strings.Contains(e.detail, tt.detail):
			t.Errorf("decode(%.60s) = %v, want 400 %s with %q", tt.body, err, tt.code, tt.detail)
		}
	}
	mustPanicAny(t, func() { decodeJSON([]byte("{}"), message{}) })
}

func mustPanicAny(t *testing.T, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	f()
}

func TestDecodeContentType(t *testing.T) {
	_, srv, _ := handler(t, defaultLimits, Service{Routes: map[string]Handler{
		"POST /": func(w http.ResponseWriter, r *http.Request) error {
			var m message
			if err := Decode(r, &m); err != nil {
				return err
			}
			return JSON(w, 200, m.Text)
		},
	}})
	for _, tt := range []struct {
		header []string
		status int
		code   string
	}{
		{[]string{"Content-Type", "application/json"}, 200, ""},
		{[]string{"Content-Type", "application/json; charset=UTF-8"}, 200, ""},
		{[]string{"Content-Type", "application/json", "Content-Encoding", "identity"}, 200, ""},
		{nil, 415, "content-type"},
		{[]string{"Content-Type", "text/plain"}, 415, "content-type"},
		{[]string{"Content-Type", "application/json; charset=euc-kr"}, 415, "content-type"},
		{[]string{"Content-Type", "application/json;;"}, 415, "content-type"},
		{[]string{"Content-Type", "application/json", "Content-Encoding", "gzip"}, 415, "content-encoding"},
	} {
		resp, body := do(t, "POST", srv.URL+"/", `{"text":"<&>"}`, tt.header...)
		if tt.status != 200 {
			wantProblem(t, resp, body, tt.status, tt.code)
		} else if resp.StatusCode != 200 || body != "\"<&>\"\n" || resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%v = %d %s %v", tt.header, resp.StatusCode, body, resp.Header)
		}
	}
}

// node is a random JSON value; objects keep their order, so that a key can be made to come twice.
type node struct {
	text   string // of a scalar
	keys   []string
	values []*node
	array  bool
}

func (n *node) render(b *bytes.Buffer) {
	open, end := "{", "}"
	switch {
	case n.text != "":
		b.WriteString(n.text)
		return
	case n.array:
		open, end = "[", "]"
	}
	b.WriteString(open)
	for i, v := range n.values {
		if i > 0 {
			b.WriteString(" ,")
		}
		if !n.array {
			key, _ := json.Marshal(n.keys[i])
			fmt.Fprintf(b, "%s\n: ", key)
		}
		v.render(b)
	}
	b.WriteString(end)
}

func drawNode(t *rapid.T, depth int, objects *[]*node) *node {
	kind := rapid.IntRange(0, 4).Draw(t, "kind")
	if depth == 0 || kind <= 1 {
		scalars := []string{"0", "-1.5e3", "true", "null", `""`, `"a\"]}\\"`, `"\ud83d\ude00{["`, `"동네"`, `"\u005c\u0022"`}
		return &node{text: rapid.SampledFrom(scalars).Draw(t, "scalar")}
	}
	n := &node{array: kind == 2}
	for range rapid.IntRange(0, 4).Draw(t, "length") {
		n.values = append(n.values, drawNode(t, depth-1, objects))
	}
	if !n.array {
		keys := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-c"\\{:é]{1,2}`), len(n.values), len(n.values), rapid.ID)
		n.keys = keys.Draw(t, "keys")
		if len(n.keys) > 0 {
			*objects = append(*objects, n)
		}
	}
	return n
}

// TestDecodeAgreesWithEncodingJSON: any value without a duplicate key decodes as encoding/json has it; one key more that
// stands in the same object already, anywhere, and it is refused.
func TestDecodeAgreesWithEncodingJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var objects []*node
		root := &node{array: true, values: []*node{drawNode(t, 5, &objects)}}
		var text bytes.Buffer
		root.render(&text)
		var want, got any
		if err := json.Unmarshal(text.Bytes(), &want); err != nil {
			t.Fatalf("the test made bad JSON: %v: %s", err, text.Bytes())
		}
		if err := decodeJSON(text.Bytes(), &got); err != nil {
			t.Fatalf("decode(%s) = %v", text.Bytes(), err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("decode(%s) mismatch (-want +got):\n%s", text.Bytes(), diff)
		}
		if len(objects) == 0 {
			return
		}
		o := objects[rapid.IntRange(0, len(objects)-1).Draw(t, "object")]
		again := rapid.IntRange(0, len(o.keys)-1).Draw(t, "key")
		at := rapid.IntRange(0, len(o.keys)).Draw(t, "at")
		o.keys = slices.Insert(o.keys, at, o.keys[again])
		o.values = slices.Insert(o.values, at, &node{text: "1"})
		text.Reset()
		root.render(&text)
		var e *Error
		if err := decodeJSON(text.Bytes(), &got); !errors.As(err, &e) || e.Code() != "json-duplicate" {
			t.Fatalf("decode(%s) = %v, want json-duplicate", text.Bytes(), err)
		}
	})
}

// FuzzDecode: whatever comes in, decodeJSON does not panic, and what it lets pass encoding/json lets pass too.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"text":"\ud800\udc00"}`, `[{"a":[1,2,{"b":null}]}]`, `"\u`, "{\"\xff\":1}", ` 1 `, `{"any":{"":{}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var m message
		var a any
		if decodeJSON(data, &m) == nil && json.Unmarshal(data, &m) != nil {
			t.Errorf("message %q passes here alone", data)
		}
		if decodeJSON(data, &a) == nil && json.Unmarshal(data, &a) != nil {
			t.Errorf("any %q passes here alone", data)
		}
	})
}
