package service

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const (
	missing = `{"type":"error","code":20,"text":"key does not exist"}`
	writeOK = `{"type":"write_ok"}`
	casOK   = `{"type":"cas_ok"}`
)

func readOK(value string) string   { return `{"type":"read_ok","value":` + value + `}` }
func isNot(text string) string     { return failed(22, "current value "+text) }
func malformed(text string) string { return failed(12, text) }

func failed(code int, text string) string {
	return fmt.Sprintf(`{"type":"error","code":%d,"text":%q}`, code, text)
}

func read(key string) string { return fmt.Sprintf(`{"type":"read","key":%s}`, key) }

func write(key, value string) string {
	return fmt.Sprintf(`{"type":"write","key":%s,"value":%s}`, key, value)
}

func cas(key, from, to string) string {
	return fmt.Sprintf(`{"type":"cas","key":%s,"from":%s,"to":%s}`, key, from, to)
}

func create(key, from, to string) string {
	return strings.TrimSuffix(cas(key, from, to), "}") + `,"create_if_not_exists":true}`
}

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// handle returns the reply, "" if there is none.
func handle(s Service, src, body string) string {
	reply, ok := s.Handle(src, json.RawMessage(body))
	if !ok {
		return ""
	}
	return string(reply)
}

// store puts a store behind an endpoint.
func store(run func(string, request) json.RawMessage) Service {
	return &endpoint{"store", false, storeRequests, run}
}

func TestStores(t *testing.T) {
	services := All(seeded(1), false)
	// One client that always begins with a write sees no difference.
	for _, c := range []struct{ request, want string }{
		{read(`"x"`), missing},
		{cas(`"x"`, `1`, `2`), missing},
		{cas(`"x"`, `null`, `2`), missing},
		{write(`"x"`, `1`), writeOK},
		{read(`"x"`), readOK(`1`)},
		{cas(`"x"`, `2`, `3`), isNot(`1 is not 2`)},
		{cas(`"x"`, `1.0`, `3`), isNot(`1 is not 1.0`)},
		{cas(`"x"`, `"1"`, `3`), isNot(`1 is not "1"`)},
		{create(`"x"`, `2`, `3`), isNot(`1 is not 2`)},
		{cas(`"x"`, `1`, `3`), casOK},
		{read(`"x"`), readOK(`3`)},

		{create(`"y"`, `7`, `{"b":[1,null],"a":true}`), casOK},
		{read(`"y"`), readOK(`{"a":true,"b":[1,null]}`)},
		{cas(`"y"`, `null`, `0`), isNot(`{"a" true "b" [1 nil]} is not nil`)},
		{cas(`"y"`, ` { "a" : true , "b" : [ 1 , null ] } `, `0`), casOK},

		{`{"type":"cas","key":"z","to":1,"create_if_not_exists":true}`, casOK},
		{read(`"z"`), readOK(`1`)},
		{`{"type":"cas","key":"none","from":0,"to":1,"create_if_not_exists":false}`, missing},
		{`{"type":"cas","key":"none","from":0,"to":1,"create_if_not_exists":null}`, missing},

		{write(`"null"`, `null`), writeOK},
		{read(`"null"`), readOK(`null`)},
		{create(`"null"`, `0`, `1`), isNot(`nil is not 0`)},
		{cas(`"null"`, `null`, `1`), casOK},
		{read(`null`), missing},

		{write(`{"b":1,"a":[1e2]}`, `0`), writeOK},
		{read(`{"a":[100.0],"b":1}`), readOK(`0`)},
		{read(`{"a":[100],"b":1}`), missing},
		{write(`1`, `"one"`), writeOK},
		{read(`1`), readOK(`"one"`)},
		{read(`1.0`), missing},
		{read(`"1"`), missing},
	} {
		for _, name := range []string{"lin-kv", "seq-kv"} {
			if got := handle(services[name], "n1", c.request); got != c.want {
				t.Errorf("%s: Handle(%s) = %s, want %s", name, c.request, got, c.want)
			}
		}
	}
}

func TestTimestamps(t *testing.T) {
	tso := All(seeded(1), false)["lin-tso"]
	for i := range 3 {
		want := fmt.Sprintf(`{"type":"ts_ok","ts":%d}`, i)
		if got := handle(tso, fmt.Sprint("n", i), `{"type":"ts","msg_id":7}`); got != want {
			t.Errorf("request %d = %s, want %s", i, got, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	unsupported := func(name, kind string) string {
		return failed(10, fmt.Sprintf("%s does not support requests of type %q", name, kind))
	}
	for _, c := range []struct{ name, request, want, compat string }{
		{"lin-kv", `{"type":"ts"}`, unsupported("lin-kv", "ts"), ""},
		{"seq-kv", `{"type":"delete","key":1}`, unsupported("seq-kv", "delete"), ""},
		{"lww-kv", `{"type":"Read","key":1}`, unsupported("lww-kv", "Read"), ""},
		{"lin-tso", read(`1`), unsupported("lin-tso", "read"), ""},
		{"lin-kv", `{"key":1}`, malformed("the body has no type that is a string"), ""},
		{"lin-kv", `{"type":1}`, malformed("the body has no type that is a string"), ""},
		{"lin-kv", `{`, malformed("the body is not an object: unexpected end of JSON input"), ""},
		{"lin-kv", `null`, malformed("the body has no type that is a string"), ""},
		{"lin-kv", `{"type":"read","Key":1}`, malformed(`a read needs a "key"`), missing},
		{"lin-kv", `{"type":"write","value":1}`, malformed(`a write needs a "key"`), writeOK},
		{"seq-kv", `{"type":"write","key":1}`, malformed(`a write needs a "value"`), writeOK},
		{"lww-kv", `{"type":"cas","key":1,"to":1}`, malformed(`a cas needs a "from"`), missing},
		{"lin-kv", `{"type":"cas","key":1,"from":1}`, malformed(`a cas needs a "to"`), missing},
		{"lin-kv", `{"type":"cas","key":1,"create_if_not_exists":true}`, malformed(`a cas needs a "to"`), casOK},
	} {
		if got := handle(All(seeded(1), false)[c.name], "n1", c.request); got != c.want {
			t.Errorf("%s: Handle(%s) = %s, want %s", c.name, c.request, got, c.want)
		}
		if got := handle(All(seeded(1), true)[c.name], "n1", c.request); got != c.compat {
			t.Errorf("%s: Handle(%s) with compat = %s, want %s", c.name, c.request, got, c.compat)
		}
	}
}

func TestReply(t *testing.T) {
	for _, c := range []struct{ request, want string }{
		{`{"type":"ts","msg_id":7}`, `{"type":"ts_ok","ts":0,"in_reply_to":7}`},
		{`{"type":"ts","msg_id":0}`, `{"type":"ts_ok","ts":0,"in_reply_to":0}`},
		{`{"type":"ts"}`, `{"type":"ts_ok","ts":0}`},
	} {
		reply := json.RawMessage(`{"type":"ts_ok","ts":0}`)
		if got := string(Reply(json.RawMessage(c.request), reply)); got != c.want {
			t.Errorf("Reply(%s, %s) = %s, want %s", c.request, reply, got, c.want)
		}
	}
}

// spellings are of one JSON value a row, the canonical one first.
var spellings = [][]string{
	{`null`},
	{`0`, `-0`},
	{`0.0`, `-0.0`, `0e5`, `1e-400`},
	{`1`},
	{`1.0`, `1.00`, `10e-1`},
	{`100000000000000000000`},
	{`1e+20`, `100000000000000000000.0`, `1E20`},
	{`1e400`},
	{`true`},
	{`"true"`},
	{`"1"`, `"\u0031"`},
	{`"é<\"\\\n"`, `"\u00e9\u003c\u0022\u005c\u000a"`},
	{`[]`, `[ ]`},
	{`[1,2]`, "[\t1,\n2]"},
	{`[2,1]`},
	{`[1.0,2]`, `[1.000,2]`},
	{`{}`},
	{`{"a":{"b":1.5,"c":-0.5},"d":[{}]}`, `{ "d": [{}], "a": {"c": -5e-1, "b": 15e-1} }`, `{"a":7,"d":[{}],"\u0061":{"c":-0.5,"b":1.5}}`},
}

func TestCanonical(t *testing.T) {
	for _, row := range spellings {
		for _, text := range row {
			if got := canonical(json.RawMessage(text)); got != row[0] {
				t.Errorf("canonical(%s) = %s, want %s", text, got, row[0])
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		raw, err := json.Marshal(rapid.OneOf(rapid.String().AsAny(), rapid.Int64().AsAny(), rapid.Float64().AsAny(),
			rapid.MapOf(rapid.String(), rapid.SliceOf(rapid.Float32())).AsAny()).Draw(t, "value"))
		if err != nil {
			t.Fatal(err)
		}
		text := canonical(raw)
		if again := rewrite(json.RawMessage(text)); again != text {
			t.Errorf("canonical(%s) = %s, and that of it %s", raw, text, again)
		}
		var want, got any
		if json.Unmarshal(raw, &want) != nil || json.Unmarshal([]byte(text), &got) != nil || !cmp.Equal(want, got) {
			t.Errorf("canonical(%s) = %s, which means something else", raw, text)
		}
	})
}

// An operation is a request whose key and values are rows of spellings.
type operation struct {
	src, kind            string
	key, value, from, to int
	create               bool
}

// A model is a plain map between rows of spellings.
type model map[int]int

var genOperation = rapid.Custom(func(t *rapid.T) operation {
	value := func(name string) int { return rapid.IntRange(0, 3).Draw(t, name) }
	return operation{
		src:  rapid.SampledFrom([]string{"n0", "n1", "n2"}).Draw(t, "src"),
		kind: rapid.SampledFrom([]string{"read", "write", "cas"}).Draw(t, "kind"),
		key:  rapid.IntRange(3, 5).Draw(t, "key"), value: value("value"), from: value("from"), to: value("to"),
		create: rapid.Bool().Draw(t, "create"),
	}
})

// genOperations goes beyond what seq-kv remembers; a plain SliceOf would be of five.
var genOperations = rapid.Custom(func(t *rapid.T) []operation {
	count := rapid.SampledFrom([]int{1, 5, 20, 100, 300}).Draw(t, "count")
	return rapid.SliceOfN(genOperation, count, count).Draw(t, "operations")
})

// body takes the last spelling of everything: replies have the first.
func (o operation) body() string {
	last := func(row int) string { return spellings[row][len(spellings[row])-1] }
	return fmt.Sprintf(`{"type":%q,"key":%s,"value":%s,"from":%s,"to":%s,"create_if_not_exists":%t}`,
		o.kind, last(o.key), last(o.value), last(o.from), last(o.to), o.create)
}

// on returns what follows from the operation: the state and the reply.
func (o operation) on(before model) (after model, reply string) {
	current, ok := before[o.key]
	after = maps.Clone(before)
	switch {
	case o.kind == "write":
		after[o.key] = o.value
		return after, writeOK
	case o.kind == "cas" && (ok && current == o.from || !ok && o.create):
		after[o.key] = o.to
		return after, casOK
	case !ok:
		return after, missing
	case o.kind == "read":
		return after, readOK(spellings[current][0])
	}
	clojure := strings.NewReplacer("null", "nil")
	return after, isNot(clojure.Replace(spellings[current][0] + " is not " + spellings[o.from][0]))
}

func TestLinKVIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lin, state := All(seeded(1), false)["lin-kv"], model{}
		for _, o := range genOperations.Draw(t, "operations") {
			var want string
			state, want = o.on(state)
			if got := handle(lin, o.src, o.body()); got != want {
				t.Fatalf("Handle(%s) = %s, want %s", o.body(), got, want)
			}
		}
	})
}

func TestServicesShareNothing(t *testing.T) {
	services := All(seeded(1), false)
	if diff := cmp.Diff([]string{"lin-kv", "lin-tso", "lww-kv", "seq-kv"}, slices.Sorted(maps.Keys(services))); diff != "" {
		t.Errorf("All's names mismatch (-want +got):\n%s", diff)
	}
	handle(services["lin-kv"], "n1", write(`1`, `1`))
	for _, s := range []Service{services["seq-kv"], services["lww-kv"], All(seeded(1), false)["lin-kv"]} {
		if got := handle(s, "n1", read(`1`)); got != missing {
			t.Errorf("a read after a write elsewhere = %s, want %s", got, missing)
		}
	}
}

// Whatever a node sends, the answer is JSON, and the same store answers the next request.
func FuzzHandle(f *testing.F) {
	f.Add(`{}`)
	f.Add(`{"type":"\ud800"}`)
	f.Add(read(`{"a":[1e999,-0,"\ud800"]}`))
	f.Add(create(`"\u0000"`, `-0.0`, strings.Repeat(`[`, 100)+strings.Repeat(`]`, 100)))
	f.Fuzz(func(t *testing.T, body string) {
		for _, compat := range []bool{false, true} {
			for name, s := range All(seeded(1), compat) {
				for range 3 {
					if reply, ok := s.Handle("n1", json.RawMessage(body)); ok && !json.Valid(reply) || !ok && !compat {
						t.Errorf("%s: Handle(%s) = %s, %v", name, body, reply, ok)
					}
				}
			}
		}
	})
}

func BenchmarkHandle(b *testing.B) {
	const keys = 1000
	big := `"` + strings.Repeat("x", 10_000) + `"`
	for _, c := range []struct {
		name    string
		request func(i int) string
	}{
		{"lin-kv/read", func(i int) string { return read(fmt.Sprint(i)) }},
		{"lin-kv/write", func(i int) string { return write(fmt.Sprint(i), fmt.Sprint(i+1)) }},
		{"lin-kv/write10kB", func(i int) string { return write(fmt.Sprint(i), big) }},
		{"lin-kv/writeObject", func(i int) string { return write(fmt.Sprint(i), `{"term":7,"log":[1,2.5,"three"]}`) }},
		{"seq-kv/read", func(i int) string { return read(fmt.Sprint(i)) }},
		{"seq-kv/write", func(i int) string { return write(fmt.Sprint(i%10), fmt.Sprint(i)) }},
		{"lww-kv/read", func(i int) string { return read(fmt.Sprint(i)) }},
		{"lww-kv/write", func(i int) string { return write(fmt.Sprint(i), fmt.Sprint(i)) }},
		{"lin-tso/ts", func(int) string { return `{"type":"ts"}` }},
	} {
		b.Run(c.name, func(b *testing.B) {
			name, _, _ := strings.Cut(c.name, "/")
			s := All(seeded(1), false)[name]
			var requests []json.RawMessage
			for i := range keys {
				requests = append(requests, json.RawMessage(c.request(i)))
				handle(s, "n1", write(fmt.Sprint(i), `0`))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, ok := s.Handle("n1", requests[i%keys]); !ok {
					b.Fatal("no answer")
				}
			}
		})
	}
}
