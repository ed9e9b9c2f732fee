package report

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/maelstrom/check"
	"dongne/maelstrom/history"

	"github.com/google/go-cmp/cmp"
)

// element is one of an XML or HTML file, with its own text.
type element struct {
	name, text string
	attributes map[string]string
}

// elements reads all of a file. SVG must be well-formed; HTML is read as browsers do.
func elements(t *testing.T, file, text string) []element {
	t.Helper()
	dec := xml.NewDecoder(strings.NewReader(text))
	if strings.HasSuffix(file, ".html") {
		dec.Strict, dec.AutoClose, dec.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	}
	var all []element
	var open []int
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			e := element{name: token.Name.Local, attributes: map[string]string{}}
			for _, a := range token.Attr {
				e.attributes[a.Name.Local] = a.Value
			}
			open = append(open, len(all))
			all = append(all, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				all[open[len(open)-1]].text += string(token)
			}
		}
	}
}

// pick returns those of a class; "" is any.
func pick(all []element, name, class string) []element {
	return slices.DeleteFunc(slices.Clone(all), func(e element) bool {
		return e.name != name || class != "" && !slices.Contains(strings.Fields(e.attributes["class"]), class)
	})
}

// write writes a report and returns its files.
func write(t *testing.T, run *history.Run, results check.Results, o Options) map[string]string {
	t.Helper()
	dir := t.TempDir()
	logs := filepath.Join(dir, "node-logs")
	for _, name := range []string{"n1.log", "n10.log", "n2.log"} {
		writeFixture(t, filepath.Join(logs, name), "a line\n")
	}
	if err := Write(dir, run, results, o); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.IsDir() {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = string(text)
	}
	return files
}

func writeFixture(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestWrite(t *testing.T) {
	run := sampleRun(1, 300)
	run.Findings = sampleFindings
	files := write(t, run, sampleResults, Options{Replay: "maelstrom test --seed 1"})
	for _, name := range []string{"index.html", "timeline.html", "messages.svg", "latency.svg", "rate.svg"} {
		for _, e := range elements(t, name, files[name]) {
			if e.name == "script" {
				t.Errorf("%s has a script: %q", name, e.text)
			}
		}
		if strings.Contains(strings.ReplaceAll(files[name], "http://www.w3.org/2000/svg", ""), "://") {
			t.Errorf("%s needs something from elsewhere", name)
		}
	}
	got, err := history.ReadJSON(strings.NewReader(files["history.jsonl"]))
	if err != nil || cmp.Diff(run.Ops, got) != "" {
		t.Errorf("history.jsonl mismatch (-want +got): %v\n%s", err, cmp.Diff(run.Ops, got))
	}
	if got := strings.Count(files["history.edn"], "\n"); got != len(run.Ops) {
		t.Errorf("history.edn has %d lines, want %d", got, len(run.Ops))
	}
	var results struct {
		Valid    bool           `json:"valid?"`
		Workload map[string]any `json:"workload"`
	}
	if err := json.Unmarshal([]byte(files["results.json"]), &results); err != nil || results.Valid || results.Workload["valid?"] != true {
		t.Errorf("results.json: %v, %+v", err, results)
	}
	if want := ":stable-latencies {0 0, 0.5 120, 1 470}"; !strings.Contains(files["results.edn"], want) {
		t.Errorf("results.edn without %s:\n%s", want, files["results.edn"])
	}
}

func TestWriteText(t *testing.T) {
	run := &history.Run{Workload: "broadcast", Ops: []history.Op{
		{Process: history.Nemesis, Type: history.Info, F: "start-partition"},
		{Process: 0, F: "read", Value: json.RawMessage("null")},
		{Process: 0, Type: history.Fail, F: "read", Value: json.RawMessage("null"), Error: history.Error{Name: "abort", Text: "not\nnow"}},
	}}
	want := "nemesis \tinfo  \tstart-partition\tnull\n" +
		"0       \tinvoke\tread           \tnull\n" +
		"0       \tfail  \tread           \tnull\tabort: not now\n"
	if diff := cmp.Diff(want, write(t, run, check.Results{}, Options{})["history.txt"]); diff != "" {
		t.Errorf("history.txt mismatch (-want +got):\n%s", diff)
	}
}

func TestWriteSaysWhichFile(t *testing.T) {
	err := Write(filepath.Join(t.TempDir(), "none"), &history.Run{}, check.Results{}, Options{})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "results.edn") {
		t.Errorf("Write into no folder: %v", err)
	}
}

func TestCreate(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	now := time.Date(2026, 3, 5, 14, 3, 5, 999_600_000, time.FixedZone("", 9*3600))
	for _, c := range []struct{ workload, want string }{
		{"echo", "echo/20260305T140305.999+0900"},
		{"echo", "echo/20260305T140306.000+0900"}, // the other is taken
		{"broadcast", "broadcast/20260305T140305.999+0900"},
	} {
		dir, err := Create(store, c.workload, now)
		if want := filepath.Join(store, c.want); err != nil || dir != want {
			t.Fatalf("Create(%s) = %s, %v, want %s", c.workload, dir, err, want)
		}
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			t.Errorf("%s is no folder: %v", dir, err)
		}
		links := map[string]string{"latest": c.want, "current": c.want, c.workload + "/latest": filepath.Base(c.want)}
		for link, want := range links {
			if got, err := os.Readlink(filepath.Join(store, link)); got != want {
				t.Errorf("after %s: link %s to %s, %v, want %s", c.want, link, got, err, want)
			}
		}
	}
	if got, _ := filepath.Glob(filepath.Join(store, ".*")); len(got) > 0 {
		t.Errorf("left behind: %q", got)
	}
	for _, bad := range []string{"", ".", "..", "a/b", "/a", "latest", "current"} {
		if dir, err := Create(store, bad, now); err == nil {
			t.Errorf("Create(%q) = %s", bad, dir)
		}
	}
}

func TestDescribe(t *testing.T) {
	nodes := []string{"n1", "n2", "n3", "n10"}
	for value, want := range map[string]string{
		`["isolated",{"n2":["n1","n3","n10"],"n1":["n2"],"n3":["n2"],"n10":["n2"]}]`:            "n1, n3, n10 | n2",
		`["isolated",{"n1":["n3","n10"],"n2":["n3","n10"],"n3":["n1","n2"],"n10":["n1","n2"]}]`: "n1, n2 | n3, n10",
		`["isolated",{"n1":["n2"],"n3":["n10"]}]`:                                               "n1 does not hear n2; n3 does not hear n10",
		`["isolated",{"n1":["n2","n3","n10"]}]`:                                                 "n1 does not hear n2, n3, n10",
		`["isolated",{}]`:                                                                       "no link cut",
		`["killed",["n1","n3"]]`:                                                                "n1, n3",
		`["paused",[]]`:                                                                         "nobody",
		`["started","loss"]`:                                                                    "all nodes",
		`["odd","<b>"]`:                                                                         `["odd","<b>"]`,
		`{"a":1}`:                                                                               `{"a":1}`,
		``:                                                                                      ``,
		`["isolated",{"n1":["x"]}]`:                                                             "no link cut",
	} {
		if got := describe(history.Fault{Name: "loss", Value: json.RawMessage(value)}, nodes); got != want {
			t.Errorf("describe(%s) = %q, want %q", value, got, want)
		}
	}
}

func TestText(t *testing.T) {
	for _, c := range []struct{ in, want string }{{"", ""}, {"abcd", "abcd"}, {"abcde", "abc…"}, {"동네동네", "동네동네"}, {"동네동네동", "동네동…"}} {
		if got := cut(c.in, 4); got != c.want {
			t.Errorf("cut(%q, 4) = %q, want %q", c.in, got, c.want)
		}
		if got := cut([]byte(c.in+strings.Repeat("x", 100)), 4); len([]rune(got)) != 4 {
			t.Errorf("cut of a long text that begins with %q = %q", c.in, got)
		}
	}
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := count(n); got != want {
			t.Errorf("count(%d) = %s, want %s", n, got, want)
		}
	}
	if got := fmt.Sprintln(millis(1500*time.Microsecond), seconds(1500*time.Millisecond)); got != "1.5 ms 1.50 s\n" {
		t.Error(got)
	}
	if got, want := escape("<a b='\"'>&\x00\x1b"), "&lt;a b=&#39;&#34;&#39;&gt;&amp;\uFFFD\uFFFD"; got != want {
		t.Errorf("escape = %q, want %q", got, want)
	}
}

func BenchmarkWrite(b *testing.B) {
	run := sampleRun(1, 1000)
	for i := range 100_000 {
		run.Ops = append(run.Ops, operation(100+i%100, "read", 100_000+i, 100_100+i, history.OK)...)
	}
	slices.SortStableFunc(run.Ops, func(a, b history.Op) int { return int(a.Time - b.Time) })
	dir := b.TempDir()
	for b.Loop() {
		if err := Write(dir, run, sampleResults, Options{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(run.Ops)), "entries")
}
