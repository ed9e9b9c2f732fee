package report

import (
	"bufio"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/maelstrom/history"

	"github.com/google/go-cmp/cmp"
)

func draw(t *testing.T, run *history.Run, drawing func(*bufio.Writer, *history.Run) error) string {
	t.Helper()
	var b strings.Builder
	w := bufio.NewWriter(&b)
	if err := drawing(w, run); err != nil {
		t.Fatal(err)
	}
	w.Flush()
	return b.String()
}

// operation is an invocation and a completion, in milliseconds.
func operation(process int, f string, from, to int, outcome history.Type) []history.Op {
	invoked := history.Op{Time: time.Duration(from) * time.Millisecond, Process: process, F: f, Value: json.RawMessage(`"<script>"`), Node: "n1"}
	done := invoked
	done.Time, done.Type = time.Duration(to)*time.Millisecond, outcome
	return []history.Op{invoked, done}
}

func TestLatency(t *testing.T) {
	run := &history.Run{Elapsed: 10 * time.Second, Ops: slices.Concat(
		operation(0, "read", 0, 10, history.OK), operation(0, "read", 100, 200, history.OK), operation(0, "read", 300, 5300, history.Info),
		nemesis("kill", 5500, `["killed",["n1"]]`),
		operation(1, "add", 6000, 6001, history.Fail), operation(1, "add", 7000, 7001, history.OK), []history.Op{{Process: 1, F: "add", Time: 9 * time.Second}},
		nemesis("start", 9000, `["started",["n1"]]`))}
	all := elements(t, "latency.svg", draw(t, run, drawLatency))
	var marks []string // of colour and shape, each with its points and one in the legend
	for _, e := range slices.Concat(pick(all, "path", "points"), pick(all, "path", "dots")) {
		marks = append(marks, fmt.Sprint(e.attributes["stroke"], " ", strings.Count(e.attributes["d"], "M")))
	}
	slices.Sort(marks)
	want := []string{"#81BFFC 1", "#81BFFC 1", "#81BFFC 1", "#81BFFC 2", "#FF1E90 1", "#FF1E90 1", "#FFA400 1", "#FFA400 1"}
	if diff := cmp.Diff(want, marks); diff != "" {
		t.Errorf("points mismatch (-want +got):\n%s", diff)
	}
	if got := len(pick(all, "path", "curve")); got != 2*len(quantiles) {
		t.Errorf("%d curves, want %d: nothing was ok in the middle", got, 2*len(quantiles))
	}
	if got := pick(all, "path", "curve")[0].attributes["d"]; !regexp.MustCompile(`^M[\d.]+ [\d.]+h2$`).MatchString(got) {
		t.Errorf("the curve of one window is %q", got)
	}
	words := texts(pick(all, "text", ""))
	for _, want := range []string{"read ok", "read info", "add fail", "add ok", "kill", "ok, quantile 0.95", "1", "10000", "latency in ms (logarithmic)", "time since the start in seconds"} {
		if !slices.Contains(words, want) {
			t.Errorf("no text %q in %q", want, words)
		}
	}
	band := pick(all, "rect", "fault")[0].attributes
	if band["x"] != "424.8" || band["width"] != "229.6" || band["fill"] != "#E9A4A0" { // 64 + 656 × 0.55, 656 × 0.35
		t.Errorf("the kill's band: %v", band)
	}
}

func TestPlotsOfNothing(t *testing.T) {
	for _, drawing := range []func(*bufio.Writer, *history.Run) error{drawLatency, drawRate} {
		all := elements(t, "empty.svg", draw(t, &history.Run{}, drawing))
		if !slices.Contains(texts(pick(all, "text", "")), "No operation was completed.") {
			t.Error("an empty run's plot does not say so")
		}
	}
	all := elements(t, "zero.svg", draw(t, &history.Run{Ops: operation(0, "echo", 0, 0, history.OK)}, drawLatency))
	for _, e := range all {
		if strings.Contains(fmt.Sprint(e.attributes), "Inf") || strings.Contains(fmt.Sprint(e.attributes), "NaN") {
			t.Errorf("a latency of zero: %v", e)
		}
	}
}

func TestRate(t *testing.T) {
	run := &history.Run{Elapsed: 40 * time.Second}
	for i := range 400 { // ten a second, and twenty a second later on
		run.Ops = append(run.Ops, operation(0, "read", 50*i+25, 50*i+26, history.OK)...)
		run.Ops = append(run.Ops, operation(0, "read", 50*i+27, 50*i+28, history.OK)...)
	}
	all := elements(t, "rate.svg", draw(t, run, drawRate))
	curve := pick(all, "path", "curve")[0].attributes["d"]
	points := strings.Split(strings.TrimPrefix(curve, "M"), "L")
	if len(points) != 40 || points[0] != "72.2 34.0" || points[39] != "711.8 350.0" { // 40 a second, the top of the axis, and none
		t.Errorf("%d points, %s to %s", len(points), points[0], points[len(points)-1])
	}
}

func TestThin(t *testing.T) {
	points := make([]point, 100_000)
	for i := range points {
		points[i] = point{time.Duration(i), time.Duration(1000 + i%7)}
	}
	points[31_234].latency, points[77_777].latency = 1, 1e9
	got := thin(points, 3000)
	if len(got) > 3000 || len(got) < 2000 || !slices.Contains(got, points[31_234]) || !slices.Contains(got, points[77_777]) {
		t.Errorf("thin kept %d points, with the fastest: %v, the slowest: %v", len(got), slices.Contains(got, points[31_234]), slices.Contains(got, points[77_777]))
	}
	if got := thin(points[:3000], 3000); len(got) != 3000 {
		t.Errorf("thin of few kept %d", len(got))
	}
}

func TestSteps(t *testing.T) {
	for _, c := range []struct {
		whole float64
		parts int
		want  float64
	}{{20, 40, 0.5}, {60, 40, 2}, {10, 8, 2}, {0.8, 8, 0.1}, {1, 5, 0.2}, {8.1, 8, 2}} {
		if got := step(c.whole, c.parts); got != c.want {
			t.Errorf("step(%g, %d) = %g, want %g", c.whole, c.parts, got, c.want)
		}
	}
	if got := bucket(time.Second, 40); got != bucketMin {
		t.Errorf("bucket of a second: %s", got)
	}
	four := []time.Duration{1, 2, 3, 4}
	for p, want := range map[float64]time.Duration{0: 1, 0.5: 3, 0.95: 4, 1: 4} {
		if got := quantile(four, p); got != want {
			t.Errorf("quantile(%g) = %d, want %d", p, got, want)
		}
	}
}

func TestTimeline(t *testing.T) {
	run := &history.Run{Workload: "echo <x>", Elapsed: time.Second, Nodes: []string{"n1"}, Ops: slices.Concat(
		operation(3, "read", 0, 10, history.OK), nemesis("pause", 20, `["paused",["n1"]]`), operation(0, "add", 30, 40, history.Fail),
		nemesis("resume", 50, `["resumed",["n1"]]`), operation(3, "read", 60, 70, history.Info))}
	run.Ops[5].Error = history.Error{Name: "abort", Text: `"quoted"`}
	all := elements(t, "timeline.html", draw(t, run, writeTimeline))
	var got []string
	for _, e := range slices.Concat(pick(all, "div", "op"), pick(all, "div", "fault")) {
		got = append(got, e.attributes["class"]+" "+e.attributes["style"])
	}
	want := []string{
		"op ok left:330px;top:24px;height:32px",    // rows 0 and 1, the second process
		"op fail left:224px;top:88px;height:32px",  // rows 4 and 5, the first
		"op info left:330px;top:152px;height:32px", // row 8 to the end
		"fault top:56px;height:64px;background:#A0B1E9",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("timeline mismatch (-want +got):\n%s", diff)
	}
	op := pick(all, "div", "fail")[0]
	if want := "add by process 0 at n1\ninvoked 0.030000 s: \"<script>\"\nfail 0.040000 s, after 10.0 ms: \"<script>\"\nabort: \"quoted\""; op.attributes["title"] != want || op.text != `add "<script>"` {
		t.Errorf("tooltip %q, label %q, want tooltip %q", op.attributes["title"], op.text, want)
	}
	if got := texts(pick(all, "div", "why")); !slices.Equal(got, []string{"pause: n1"}) {
		t.Errorf("faults: %q", got)
	}
}

func TestTimelineCut(t *testing.T) {
	run := &history.Run{Workload: "echo"}
	for i := range pairsMax + 5 {
		run.Ops = append(run.Ops, operation(i%3, "echo", i, i+1, history.OK)...)
	}
	text := draw(t, run, writeTimeline)
	if got := strings.Count(text, `<div class="op `); got != pairsMax || !strings.Contains(text, "first 10,000 operations") {
		t.Errorf("%d operations shown, want %d and a notice", got, pairsMax)
	}
}
