package report

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/maelstrom/history"

	"github.com/google/go-cmp/cmp"
)

// way is a message from one endpoint to another: sent and received in these milliseconds; received 0: never.
type way struct {
	src, dest      string
	sent, received int
	body           string
}

func journal(ways ...way) history.Journal {
	var j history.Journal
	for id, w := range ways {
		e := history.Event{Time: time.Duration(w.sent) * time.Millisecond, ID: int64(id), Src: w.src, Dest: w.dest, Body: json.RawMessage(w.body)}
		j.Events = append(j.Events, e)
		if e.Received = w.received > 0; e.Received {
			e.Time = time.Duration(w.received) * time.Millisecond
			j.Events = append(j.Events, e)
		}
	}
	slices.SortStableFunc(j.Events, func(a, b history.Event) int { return int(a.Time - b.Time) })
	return j
}

func nemesis(f string, ms int, value string) []history.Op {
	op := history.Op{Time: time.Duration(ms) * time.Millisecond, Type: history.Info, Process: history.Nemesis, F: f, Value: json.RawMessage(value)}
	return []history.Op{op, op}
}

func texts(all []element) []string {
	var list []string
	for _, e := range all {
		list = append(list, e.text)
	}
	return list
}

func TestMessages(t *testing.T) {
	run := &history.Run{Nodes: []string{"n10", "n2"}, Elapsed: time.Second, Journal: journal(
		way{"c1", "n2", 1, 2, `{"type":"echo","msg_id":1,"echo":"hi <script>"}`},
		way{"n2", "c1", 3, 6, `{"type":"error","in_reply_to":1,"code":11,"text":"<script>busy"}`},
		way{"n2", "n10", 4, 0, `{"type":"gossip","b":[1,2],"a":{"x":1}}`},
		way{"n10", "lin-kv", 5, 7, `{"type":"read","key":"` + strings.Repeat("k", 60) + `"}`},
		way{"n2", "n2", 8, 9, `"no object"`},
	), Ops: slices.Concat(nemesis("start-partition", 3, `["isolated",{"n2":["n10"],"n10":["n2"]}]`), nemesis("kill", 3, `["killed",["n2"]]`),
		nemesis("stop-partition", 5, `"network-healed"`))}
	all := elements(t, "messages.svg", draw(t, run, drawMessages))
	for class, want := range map[string]int{"m": 3, "c": 1, "e": 1, "lost": 1} {
		if got := len(pick(all, "g", class)); got != want {
			t.Errorf("%d arrows of class %s, want %d", got, class, want)
		}
	}
	if got := len(pick(all, "text", "x")); got != 1 {
		t.Errorf("%d crosses of lost messages, want 1", got)
	}
	labels := []string{"echo echo: \"hi <script>\"", "error: <script>busy", "gossip a: {\"x\":1} b: [1,2]",
		"read key: \"" + strings.Repeat("k", 36) + "…", "\"no object\""}
	var got []string
	for _, class := range []string{"c", "e", "m"} {
		got = append(got, texts(pick(all, "text", class))...)
	}
	if diff := cmp.Diff(labels, got); diff != "" {
		t.Errorf("labels mismatch (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"c1", "n2", "n10", "lin-kv"}, texts(pick(all, "text", "name"))); diff != "" {
		t.Errorf("columns mismatch (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"partition: n2 | n10", "kill: n2"}, texts(pick(all, "text", "why"))); diff != "" {
		t.Errorf("faults' labels mismatch (-want +got):\n%s", diff)
	}
	// The partition holds the events of 3 and 4 ms, the third and fourth; the kill holds to the end.
	for i, want := range []string{"80.0 40.0 #E9DCA0", "80.0 140.0 #E9A4A0"} {
		a := pick(all, "rect", "fault")[i].attributes
		if got := a["y"] + " " + a["height"] + " " + a["fill"]; got != want || a["width"] != "1200.0" {
			t.Errorf("band %d: %q, width %s, want %q over the whole width", i, got, a["width"], want)
		}
	}
	if got := pick(all, "g", "lost"); len(got) != 1 {
		t.Fatal(got)
	}
	titles := texts(pick(all, "title", ""))
	if !slices.Contains(titles, "n2 → n10, sent 0.004 s, never received\n"+`{"type":"gossip","b":[1,2],"a":{"x":1}}`) {
		t.Errorf("no such tooltip in %q", titles)
	}
}

// An arrow goes from the row in which a message was sent to the one in which it was received.
func TestArrowRows(t *testing.T) {
	run := &history.Run{Journal: journal(way{"n1", "n2", 1, 4, "{}"}, way{"n2", "n1", 2, 3, "{}"})}
	all := elements(t, "messages.svg", draw(t, run, drawMessages))
	var got []string
	for _, e := range pick(all, "path", "") {
		if d := e.attributes["d"]; strings.Contains(d, "L") && !strings.HasSuffix(d, "z") {
			got = append(got, d)
		}
	}
	if diff := cmp.Diff([]string{"M345.0 50.0L915.0 110.0", "M915.0 70.0L345.0 90.0"}, got); diff != "" {
		t.Errorf("arrows mismatch (-want +got):\n%s", diff)
	}
}

func TestMessagesCut(t *testing.T) {
	var ways []way
	for i := range history.EventsMax {
		ways = append(ways, way{"n1", "n2", 10 * i, 10*i + 3, `{"type":"gossip","values":[` + strings.Repeat("1,", 600) + `1]}`})
	}
	ways[7].received = 0 // lost: others sent later arrived. Of the last one that is shown, nobody can say
	run := &history.Run{Journal: journal(ways...), Elapsed: time.Hour, Ops: nemesis("kill", 100_000_000, `["killed",["n1"]]`)}
	run.Journal.Truncated = true
	run.Journal.Events = run.Journal.Events[:history.EventsMax]
	text := draw(t, run, drawMessages)
	if bytesMax := 4 << 20; len(text) > bytesMax {
		t.Errorf("messages.svg has %d bytes, want at most %d", len(text), bytesMax)
	}
	all := elements(t, "messages.svg", text)
	for _, c := range []struct {
		name, class string
		want        int
	}{
		{"g", "m", history.EventsMax/2 + 1}, {"text", "x", 1}, {"rect", "fault", 0}, {"text", "name", 2 * (history.EventsMax/namesEvery + 1)},
	} {
		if got := len(pick(all, c.name, c.class)); got != c.want {
			t.Errorf("%d of %s.%s, want %d", got, c.name, c.class, c.want)
		}
	}
	if want := "These are the first 10,000 events; there were more."; !strings.Contains(text, want) {
		t.Errorf("no %q", want)
	}
}

func TestManyEndpoints(t *testing.T) {
	var ways []way
	for i := range 100 {
		ways = append(ways, way{fmt.Sprint("c", i), "n1", i, i + 1, `{"type":"read"}`})
	}
	all := elements(t, "messages.svg", draw(t, &history.Run{Journal: journal(ways...)}, drawMessages))
	if got := all[0].attributes["width"]; got != "4100" {
		t.Errorf("101 endpoints: width %s", got)
	}
}
