package check

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"

	"github.com/google/go-cmp/cmp"
)

func text(value any) string { return string(edn.Append(nil, value)) }

func strict(r Results) edn.Map { return r.Fields.Get("strict").(edn.Map) }

// wantFields fails unless each of a part's fields is as want says, in EDN.
func wantFields(t *testing.T, part any, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for field := range want {
		got[field] = text(part.(edn.Map).Get(field))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields mismatch (-want +got):\n%s", diff)
	}
}

// What upstream's set-full says, with what it overlooks.
func TestUpstreamSetFull(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       Verdict
		fields     map[string]string
	}{
		{"stable", "n1 broadcast 2\nn1 broadcast 1\nn1 read [1,2]", True, map[string]string{"attempt-count": "2", "stable-count": "2",
			"lost-count": "0", "lost": "[]", "never-read-count": "0", "never-read": "[]", "stale-count": "0", "stale": "[]", "worst-stale": "[]",
			"stable-latencies": "{0 0, 0.5 0, 0.95 0, 0.99 0, 1 0}", "lost-latencies": "nil", "duplicated-count": "0", "duplicated": "{}"}},
		{"known by a read", "n1 begin broadcast 1\nn2 read [1]\nn2 read []", False, map[string]string{"lost": "[1]",
			"lost-latencies": "{0 0, 0.5 0, 0.95 0, 0.99 0, 1 0}", "stable-latencies": "nil"}},
		{"lost after 100 ms", "n1 broadcast 1\nwait 100\nn2 read [1]\nn2 read []\nn1 broadcast 2\nn1 read [2]", False,
			map[string]string{"lost": "[1]", "lost-count": "1", "stable-count": "1", "lost-latencies": "{0 119, 0.5 119, 0.95 119, 0.99 119, 1 119}"}},
		{"never read", "n1 broadcast 1\nn1 broadcast 2\nn1 info broadcast net-timeout 3\nn1 begin read\nn1 end read [1,2]\nn1 broadcast 4", True,
			map[string]string{"never-read": "[3 4]", "never-read-count": "2", "stable-count": "2"}},
		{"absent from a read begun before it was known", "n1 begin broadcast 1\nn2 begin read\nn1 end broadcast\nn2 end read []", Unknown,
			map[string]string{"never-read": "[1]", "lost-count": "0"}},
		{"absent from a read begun after it was known", "n1 broadcast 1\nn2 read []", False, map[string]string{"lost": "[1]"}},
		// The second read is invoked before the first one, and completed after it.
		{"last by invocation", "n1 broadcast 1\nn1 begin read\nn2 read [1]\nn1 end read []", True, map[string]string{"stable-count": "1"}},
		{"lost by invocation", "n1 broadcast 1\nn1 begin read\nn2 read []\nn1 end read [1]", False, map[string]string{"lost": "[1]"}},
		{"lost by the latest invocation", "n1 broadcast 1\nn1 begin read\nn2 begin read\nn3 read []\nn2 end read [1]\nn1 end read []", False, map[string]string{"lost": "[1]"}},
		{"stable by the latest invocation", "n1 broadcast 1\nn1 begin read\nn2 begin read\nn3 read [1]\nn2 end read []\nn1 end read [1]", True,
			map[string]string{"stable-count": "1"}},
		{"known before it was acknowledged", "n1 begin broadcast 1\nn2 read [1]\nn2 read []\nn1 end broadcast", False, map[string]string{"lost": "[1]"}},
		{"stale", "n1 broadcast 1\nn1 broadcast 2\nn2 read [1]\nwait 7\nn1 begin read\nn2 read [2,1]\nn1 end read []", True,
			map[string]string{"stale": "[1 2]", "stale-count": "2", "stable-latencies": "{0 36, 0.5 46, 0.95 46, 0.99 46, 1 46}"}},
		{"duplicates", "n1 broadcast 1\nn1 read [1,1]", True, map[string]string{"duplicated-count": "0", "duplicated": "{}"}},
		{"phantoms", "n1 broadcast 1\nn1 read [1,9]", True, map[string]string{"attempt-count": "1"}},
		{"one node only", "n1 broadcast 1\nn1 begin read\nn2 begin read\nn1 end read []\nn2 end read [1]", True, map[string]string{"lost-count": "0"}},
		{"no element", "n1 read []", Unknown, map[string]string{"attempt-count": "0", "stable-latencies": "nil"}},
		{"failed reads", "n1 broadcast 1\nn1 read [1]\nn1 fail read crash", True, map[string]string{"stable-count": "1"}},
		{"added again", "n1 broadcast 1\nn1 read []\nn1 begin broadcast 1", Unknown, map[string]string{"attempt-count": "1", "never-read": "[1]"}},
		{"several types", "n1 broadcast 1\nn1 broadcast \"a\"\nn1 read [1,\"a\"]", Unknown,
			map[string]string{"error": `"the elements are of several types, and cannot be sorted"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Check(script("broadcast", c.text), Options{Compat: true})
			// stats has a verdict of its own, so that the whole is not always the workload's.
			workload := r.Fields.Get("workload").(edn.Map)
			if got := text(workload.Get("valid?")); got != text(c.want.EDN()) {
				t.Errorf("valid? %s, want %v", got, c.want)
			}
			wantFields(t, workload, c.fields)
		})
	}
}

func TestWorstStale(t *testing.T) {
	lines := ""
	for i := range 10 {
		lines += fmt.Sprintf("n1 broadcast %d\n", i)
	}
	r := Check(script("broadcast", lines+"n2 read []\nn2 read [0,1,2,3,4,5,6,7,8,9]"), Options{})
	worst := r.Fields.Get("workload").(edn.Map).Get("worst-stale").(edn.Vector)
	var got []string
	for _, w := range worst {
		got = append(got, text(w.(edn.Map).Get("element"))+" "+text(w.(edn.Map).Get("stable-latency")))
	}
	if diff := cmp.Diff([]string{"0 99", "1 89", "2 79", "3 69", "4 59", "5 49", "6 39", "7 29"}, got); diff != "" {
		t.Errorf("worst-stale mismatch (-want +got):\n%s", diff)
	}
	wantFields(t, worst[0], map[string]string{"outcome": ":stable", "lost-latency": "nil",
		"known":       `{:index 1, :time 1000000, :type :ok, :process 0, :f :broadcast, :value 0, :node "n1"}`,
		"last-absent": `{:index 20, :time 100000000, :type :invoke, :process 1, :f :read, :value nil, :node "n2"}`})
}

// The time after which all reads have an element is a nanosecond after the last one without it began.
func TestLatencyNanosecond(t *testing.T) {
	run := script("broadcast", "n1 broadcast 1\nn2 read []\nn2 read [1]")
	for ns, want := range map[int]string{0: "9", -1: "9", -2: "8"} {
		run.Ops[2].Time = 10*time.Millisecond + time.Duration(ns)
		latencies := Check(run, Options{}).Fields.Get("workload").(edn.Map).Get("stable-latencies").(edn.Map)
		if got := text(latencies[0].Value); got != want {
			t.Errorf("with %d ns: latency %s ms, want %s", ns, got, want)
		}
	}
}

func TestQuantiles(t *testing.T) {
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = 99 - i
	}
	for want, values := range map[string][]int{
		"{0 0, 0.5 50, 0.95 95, 0.99 99, 1 99}": hundred,
		"{0 7, 0.5 7, 0.95 7, 0.99 7, 1 7}":     {7},
		"{0 1, 0.5 2, 0.95 3, 0.99 3, 1 3}":     {3, 1, 2},
		"{0 1, 0.5 3, 0.95 4, 0.99 4, 1 4}":     {4, 3, 2, 1},
	} {
		if got := text(quantiles(slices.Clone(values))); got != want {
			t.Errorf("quantiles(%v) = %s, want %s", values, got, want)
		}
	}
}

func TestUpstreamUniqueIDs(t *testing.T) {
	for name, c := range map[string]struct {
		text   string
		want   Verdict
		fields map[string]string
	}{
		"distinct": {"n1 generate 3\nn1 generate 10\nn2 generate -1\nn2 info generate crash", True, map[string]string{"attempted-count": "4",
			"acknowledged-count": "3", "duplicated-count": "0", "duplicated": "{}", "range": "[-1 10]"}},
		"duplicated": {"n1 generate \"b\"\nn1 generate \"a\"\nn1 generate \"b\"\nn1 generate \"b\"\nn1 generate \"a\"\nn1 generate \"c\"", False,
			map[string]string{"duplicated-count": "2", "duplicated": `{"a" 2, "b" 3}`, "range": `["a" "c"]`}},
		"none":           {"n1 info generate crash", True, map[string]string{"acknowledged-count": "0", "range": "[nil nil]"}},
		"mixed":          {"n1 generate 1\nn1 generate \"a\"", Unknown, map[string]string{"error": `"the ids 1 and \"a\" cannot be compared"`}},
		"objects":        {"n1 generate {}\nn1 generate {\"a\":1}", Unknown, map[string]string{"duplicated-count": "nil"}},
		"one object":     {"n1 generate {}", True, map[string]string{"range": "[{} {}]"}},
		"same object":    {"n1 generate {}\nn1 generate {}", Unknown, map[string]string{"duplicated": "nil"}},
		"arrays":         {"n1 generate [2]\nn1 generate [1,5]\nn1 generate [1]", True, map[string]string{"range": "[[1] [1 5]]"}},
		"mixed arrays":   {"n1 generate [2]\nn1 generate [\"a\"]", Unknown, map[string]string{"duplicated": "nil"}},
		"null is lowest": {"n1 generate 1\nn1 generate null\nn1 generate 2", True, map[string]string{"range": "[nil 2]"}},
		"numbers":        {"n1 generate 1.5\nn1 generate 1\nn1 generate 18446744073709551616\nn1 generate 18446744073709551617", True, map[string]string{"range": "[1 18446744073709551617]"}},
		"truths":         {"n1 generate true\nn1 generate false", True, map[string]string{"range": "[false true]"}},
	} {
		t.Run(name, func(t *testing.T) {
			workload := Check(script("unique-ids", c.text), Options{}).Fields.Get("workload").(edn.Map)
			if got := text(workload.Get("valid?")); got != text(c.want.EDN()) {
				t.Errorf("valid? %s, want %v", got, c.want)
			}
			wantFields(t, workload, c.fields)
		})
	}
}

func TestDuplicatesAreBounded(t *testing.T) {
	var lines strings.Builder
	for i := range 60 {
		for range 2 + i%2 {
			fmt.Fprintf(&lines, "n1 generate %d\n", i)
		}
	}
	duplicated := Check(script("unique-ids", lines.String()), Options{}).Fields.Get("workload").(edn.Map).Get("duplicated").(edn.Map)
	threes := 0
	for _, p := range duplicated {
		if p.Value == 3 {
			threes++
		}
	}
	if len(duplicated) != duplicatesMax || threes != 30 {
		t.Errorf("%d duplicated ids, %d of them three times, want %d and 30", len(duplicated), threes, duplicatesMax)
	}
}

func TestUpstreamEcho(t *testing.T) {
	r := Check(script("echo", "n1 begin echo \"a\"\nn1 end echo {\"type\":\"echo_ok\",\"echo\":\"b\"}\nn1 info echo net-timeout \"c\"\nn2 begin echo \"d\""), Options{})
	wantFields(t, r.Fields.Get("workload"), map[string]string{"valid?": "false",
		"errors": `[["Expected a message with :echo" "a" "But received" {"type" "echo_ok" "echo" "b"}] ` +
			`["Expected a message with :echo" "c" "But received" "c"] ["Expected a message with :echo" "d" "But received" nil]]`})
	wantFields(t, Check(script("echo", "wait 1"), Options{}).Fields.Get("workload"), map[string]string{"valid?": "true", "errors": "[]"})
}

func TestSharedParts(t *testing.T) {
	run := script("broadcast", "n1 broadcast 1\nn1 fail read net-timeout\nn1 info broadcast crash 2\nfinal\nn2 read [1]\n"+partition)
	run.Journal = history.Journal{All: history.Count{Sent: 10, Received: 8}, Clients: history.Count{Sent: 4, Received: 4}, Servers: history.Count{Sent: 6, Received: 4}}
	for i, exception := range map[int]string{5: "no such reply: {}"} {
		run.Ops[i].Exception = exception
	}
	r := Check(run, Options{})
	wantFields(t, r.Fields, map[string]string{
		"perf":         "{:latency-graph {:valid? true}, :rate-graph {:valid? true}, :valid? true}",
		"timeline":     "{:valid? true}",
		"availability": "{:valid? true, :ok-fraction 0.5}",
		"exceptions": `{:valid? true, :exceptions [{:count 1, :class "no such reply", :example {:index 5, :time 21000000, :type :info, ` +
			`:process 0, :f :broadcast, :value 2, :error :crash, :exception "no such reply: {}", :node "n1"}}]}`,
		"stats": "{:valid? true, :count 4, :ok-count 2, :fail-count 1, :info-count 1, :by-f {" +
			":broadcast {:valid? true, :count 2, :ok-count 1, :fail-count 0, :info-count 1}, " +
			":read {:valid? true, :count 2, :ok-count 1, :fail-count 1, :info-count 0}}}",
		"net": "{:all {:send-count 10, :recv-count 8, :msg-count 10, :msgs-per-op 2.5}, :clients {:send-count 4, :recv-count 4, :msg-count 4}, " +
			":servers {:send-count 6, :recv-count 4, :msg-count 6, :msgs-per-op 1.5}, :valid? true}",
	})
	var keys []string
	for _, p := range r.Fields {
		keys = append(keys, text(p.Key))
	}
	want := ":perf :timeline :exceptions :stats :availability :net :workload :valid? :strict :upstream-valid? :findings"
	if diff := cmp.Diff(want, strings.Join(keys, " ")); diff != "" {
		t.Errorf("fields mismatch (-want +got):\n%s", diff)
	}
	if _, err := json.Marshal(r.Fields); err != nil {
		t.Errorf("the results are no JSON: %v", err)
	}
	empty := Check(script("broadcast", "wait 1"), Options{Availability: 1})
	wantFields(t, empty.Fields, map[string]string{"stats": "{:valid? true, :count 0, :ok-count 0, :fail-count 0, :info-count 0, :by-f {}}",
		"availability": "{:valid? true, :ok-fraction 1.0}", "exceptions": "{:valid? true}", "upstream-valid?": ":unknown"})
}

// The whole is as bad as its worst part.
func TestUpstreamComposition(t *testing.T) {
	for _, c := range []struct {
		text    string
		options Options
		want    Verdict
	}{
		{"n1 broadcast 1\nn1 read [1]", Options{Availability: 1}, True},
		{"n1 broadcast 1\nn1 begin read", Options{Availability: 0.5}, Unknown},
		{"n1 broadcast 1\nn1 read [1]\nn1 fail read crash", Options{Availability: 0.7}, False}, // availability
		{"n1 broadcast 1\nn1 fail read crash", Options{}, False},                               // stats
		{"n1 broadcast 1\nn1 read []", Options{}, False},                                       // workload
	} {
		c.options.Compat = true
		if r := Check(script("broadcast", c.text), c.options); r.Upstream != c.want || r.Valid != c.want {
			t.Errorf("Check of %q: upstream's verdict %v, valid %v, want %v", c.text, r.Upstream, r.Valid, c.want)
		}
	}
}
