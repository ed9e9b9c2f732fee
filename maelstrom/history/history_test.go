package history

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var ops = []Op{
	{Index: 0, Time: 0, Type: Info, Process: Nemesis, F: "start-partition", Value: json.RawMessage(`"majority"`)},
	{Index: 1, Time: 1, Type: Invoke, Process: 0, F: "broadcast", Value: json.RawMessage("5"), Node: "n0"},
	{Index: 2, Time: 2, Type: Info, Process: Nemesis, F: "start-partition", Value: json.RawMessage(`["isolated",{"n1":["n2","n3"],"n2":[]}]`)},
	{Index: 3, Time: 3, Type: Invoke, Process: 1, F: "read", Node: "n1"},
	{Index: 4, Time: 4, Type: Info, Process: 0, F: "broadcast", Value: json.RawMessage("5"), Error: Error{Name: "net-timeout"}, Node: "n0"},
	{Index: 5, Time: 5, Type: OK, Process: 1, F: "read", Value: json.RawMessage(`["a",{"k":null}]`), Final: true, Node: "n1"},
	{Index: 6, Time: 6, Type: Info, Process: Nemesis, F: "stop-partition"},
	{Index: 7, Time: 7, Type: Invoke, Process: 1, F: "broadcast", Value: json.RawMessage("6"), Node: "n1"},
	{Index: 8, Time: 8, Type: Info, Process: Nemesis, F: "stop-partition", Value: json.RawMessage(`"network-healed"`)},
	{Index: 9, Time: 9, Type: Fail, Process: 1, F: "broadcast", Value: json.RawMessage("6"), Error: Error{Name: "abort", Text: `no "luck"`}, Node: "n1"},
	{Index: 10, Time: 10, Type: Info, Process: Nemesis, F: "kill"},
	{Index: 11, Time: 11, Type: Info, Process: Nemesis, F: "kill", Value: json.RawMessage(`["killed",["n1"]]`)},
	{Index: 12, Time: 12, Type: Invoke, Process: 3, F: "read", Node: "n0"},
	{Index: 13, Time: 13, Type: Info, Process: 3, F: "read", Error: Error{Text: "indeterminate: x"}, Exception: "x", Node: "n0"},
}

func TestEDN(t *testing.T) {
	want := `{:index 0, :time 0, :type :info, :process :nemesis, :f :start-partition, :value :majority}
{:index 1, :time 1, :type :invoke, :process 0, :f :broadcast, :value 5, :node "n0"}
{:index 2, :time 2, :type :info, :process :nemesis, :f :start-partition, :value [:isolated {"n1" #{"n2" "n3"}, "n2" #{}}]}
{:index 3, :time 3, :type :invoke, :process 1, :f :read, :value nil, :node "n1"}
{:index 4, :time 4, :type :info, :process 0, :f :broadcast, :value 5, :error :net-timeout, :node "n0"}
{:index 5, :time 5, :type :ok, :process 1, :f :read, :value ["a" {"k" nil}], :final? true, :node "n1"}
{:index 6, :time 6, :type :info, :process :nemesis, :f :stop-partition, :value nil}
{:index 7, :time 7, :type :invoke, :process 1, :f :broadcast, :value 6, :node "n1"}
{:index 8, :time 8, :type :info, :process :nemesis, :f :stop-partition, :value :network-healed}
{:index 9, :time 9, :type :fail, :process 1, :f :broadcast, :value 6, :error [:abort "no \"luck\""], :node "n1"}
{:index 10, :time 10, :type :info, :process :nemesis, :f :kill, :value nil}
{:index 11, :time 11, :type :info, :process :nemesis, :f :kill, :value [:killed ["n1"]]}
{:index 12, :time 12, :type :invoke, :process 3, :f :read, :value nil, :node "n0"}
{:index 13, :time 13, :type :info, :process 3, :f :read, :value nil, :error "indeterminate: x", :exception "x", :node "n0"}
`
	var out bytes.Buffer
	if err := WriteEDN(&out, ops); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("WriteEDN mismatch (-want +got):\n%s", diff)
	}
}

func TestJSONRoundTrip(t *testing.T) {
	var out bytes.Buffer
	if err := WriteJSON(&out, ops); err != nil {
		t.Fatal(err)
	}
	got, err := ReadJSON(&out)
	null := cmp.Transformer("null", func(v json.RawMessage) string { return strings.TrimPrefix(string(v), "null") })
	if diff := cmp.Diff(ops, got, null); err != nil || diff != "" {
		t.Errorf("ReadJSON of WriteJSON: %v, mismatch (-want +got):\n%s", err, diff)
	}
	for text, want := range map[string]string{
		`{"type":"ok"}` + "\n{": "line 2",
		`{"type":"maybe"}`:      `line 1: unknown type "maybe"`,
	} {
		if _, err := ReadJSON(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ReadJSON(%s) = %v, want an error with %q", text, err, want)
		}
	}
}

func TestCompletions(t *testing.T) {
	want := []int{2, 4, 0, 5, 1, 3, 8, 9, 6, 7, 11, 10, 13, 12}
	if diff := cmp.Diff(want, Completions(ops)); diff != "" {
		t.Errorf("Completions mismatch (-want +got):\n%s", diff)
	}
}

func TestFaults(t *testing.T) {
	r := &Run{Ops: ops, Elapsed: 20 * time.Nanosecond}
	want := []Fault{
		{Name: "partition", From: 2, To: 8, Value: ops[2].Value},
		{Name: "kill", From: 11, To: 20, Value: ops[11].Value, Unfinished: true},
	}
	if diff := cmp.Diff(want, r.Faults()); diff != "" {
		t.Errorf("Faults mismatch (-want +got):\n%s", diff)
	}
	for f, want := range map[string]Fault{"start-one-way": {Name: "one-way"}, "stop-one-way": {Name: "one-way", Unfinished: true},
		"pause": {Name: "pause"}, "resume": {Name: "pause", Unfinished: true}, "start": {Name: "kill", Unfinished: true}} {
		if name, begins := faultOf(f); name != want.Name || begins == want.Unfinished {
			t.Errorf("faultOf(%s) = %s, %v", f, name, begins)
		}
	}
}
