package report

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"dongne/maelstrom/history"
)

const (
	messagesWidth   = 1200 // pixels
	columnWidthMin  = 40   // with many endpoints the diagram is wider
	eventHeight     = 20
	messagesTop     = 50
	timeGutter      = 60
	namesEvery      = 50 // rows
	timesEvery      = 5
	labelMax        = 48 // characters
	tooltipMax      = 400
	labelCharacter  = 6 // pixels, about
	faultHeightMin  = 3
	lostFall        = 4
	faultLineHeight = 13
)

const messagesStyle = `path{fill:none;stroke-width:1.2}.node{stroke:#CCC}` +
	`text{paint-order:stroke;stroke:#fff;stroke-width:3px;stroke-linejoin:round;pointer-events:none}` +
	`.name{font-weight:600;text-anchor:middle}.time{fill:#777;font-size:10px}.why{font-weight:600;text-anchor:end}` +
	`.m path{stroke:#000;marker-end:url(#m)}` +
	`.c path{stroke:#81BFFC;marker-end:url(#c)}text.c{fill:#1D5F9E}` +
	`.e path{stroke:#FF1E90;marker-end:url(#e)}text.e{fill:#B0005C}` +
	`.lost path{stroke-dasharray:4 3;marker-end:none}.x{font:700 18px sans-serif;fill:#D0021B;text-anchor:middle}`

// services come last in the diagram.
var services = []string{"lin-kv", "seq-kv", "lww-kv", "lin-tso"}

// diagram is a Lamport diagram: a column per endpoint, a row per event.
type diagram struct {
	canvas
	events   []history.Event
	names    []string
	x        map[string]float64
	width    float64
	received map[int64]int   // message → row
	slowest  time.Duration   // of the messages received
	partial  bool            // there were more events than these
	labels   strings.Builder // drawn last, so that no line crosses them
}

func newDiagram(w *bufio.Writer, run *history.Run) *diagram {
	d := &diagram{canvas: canvas{w}, events: run.Journal.Events[:min(len(run.Journal.Events), history.EventsMax)],
		x: map[string]float64{}, received: map[int64]int{}}
	d.partial = run.Journal.Truncated || len(d.events) < len(run.Journal.Events)
	sent := map[int64]time.Duration{}
	for _, name := range run.Nodes {
		d.x[name] = 0
	}
	for row, e := range d.events {
		d.x[e.Src], d.x[e.Dest] = 0, 0
		if e.Received {
			d.received[e.ID] = row
			d.slowest = max(d.slowest, e.Time-sent[e.ID])
		} else {
			sent[e.ID] = e.Time
		}
	}
	d.names = slices.SortedFunc(maps.Keys(d.x), compareNames)
	d.width = float64(max(messagesWidth, timeGutter+columnWidthMin*len(d.names)))
	column := (d.width - timeGutter) / float64(max(1, len(d.names)))
	for i, name := range d.names {
		d.x[name] = timeGutter + column*(float64(i)+0.5)
	}
	return d
}

// compareNames orders by letters, then by number, services last.
func compareNames(a, b string) int {
	if c := cmp.Compare(slices.Index(services, a), slices.Index(services, b)); c != 0 {
		return c
	}
	aLetters, aNumber := splitName(a)
	bLetters, bNumber := splitName(b)
	return cmp.Or(cmp.Compare(aLetters, bLetters), cmp.Compare(aNumber, bNumber), cmp.Compare(a, b))
}

func splitName(name string) (letters string, number uint64) {
	letters = strings.TrimRight(name, "0123456789")
	number, _ = strconv.ParseUint(name[len(letters):], 10, 64)
	return letters, number
}

func drawMessages(w *bufio.Writer, run *history.Run) error {
	d := newDiagram(w, run)
	bottom := d.y(len(d.events))
	title := "Messages between nodes, in the order in which they were sent and received"
	d.begin(int(d.width), int(bottom)+40, title, messagesStyle)
	for _, head := range []struct{ class, colour string }{{"m", "#000"}, {"c", "#81BFFC"}, {"e", "#FF1E90"}} {
		fmt.Fprintf(w, `<marker id="%s" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">`+
			`<path d="M0 0L8 4L0 8z" style="fill:%s;stroke:none;marker-end:none"/></marker>`+"\n", head.class, head.colour)
	}
	d.bands(run)
	for _, name := range d.names {
		fmt.Fprintf(w, `<path class="node" d="M%.1f %dV%.1f"/>`+"\n", d.x[name], messagesTop-15, bottom)
	}
	for row, e := range d.events {
		if row%timesEvery == 0 {
			fmt.Fprintf(w, `<text class="time" x="4" y="%.1f">%.3f s</text>`+"\n", d.y(row)+4, e.Time.Seconds())
		}
		if !e.Received {
			d.arrow(row, e)
		}
	}
	for row := 0; row <= len(d.events); row += namesEvery {
		for _, name := range d.names {
			fmt.Fprintf(w, `<text class="name" x="%.1f" y="%.1f">%s</text>`+"\n", d.x[name], d.y(row)-20, escape(name))
		}
	}
	w.WriteString(d.labels.String())
	d.text(timeGutter, bottom+20, "start", d.notice())
	d.end()
	return nil
}

func (d *diagram) y(row int) float64 { return float64(messagesTop + eventHeight*row) }

func (d *diagram) notice() string {
	switch {
	case d.partial:
		return "These are the first " + count(len(d.events)) + " events; there were more."
	case len(d.events) == 0:
		return "No messages."
	}
	return "The end."
}

// row returns the first row that is not before the time.
func (d *diagram) row(at time.Duration) int {
	return sort.Search(len(d.events), func(i int) bool { return d.events[i].Time >= at })
}

// bands shades the rows of faults.
func (d *diagram) bands(run *history.Run) {
	above := 0.0
	for _, f := range run.Faults() {
		from, to := d.row(f.From), d.row(f.To)
		if from == len(d.events) && d.partial {
			continue // of a later part
		}
		top := d.y(from) - eventHeight/2
		d.band(0, top, d.width, max(float64(to-from)*eventHeight, faultHeightMin), f.Name)
		above = max(top, above) + faultLineHeight // of faults that begin together, one is below the other
		fmt.Fprintf(&d.labels, `<text class="why" x="%.1f" y="%.1f">%s</text>`+"\n",
			d.width-8, above, escape(f.Name+": "+describe(f, run.Nodes)))
	}
}

// arrow draws a message from where it was sent to where it was received.
func (d *diagram) arrow(row int, e history.Event) {
	kind, members := bodyOf(e)
	class, label := classOf(kind, e), labelOf(kind, members)
	if members == nil {
		label = cut(e.Body, labelMax)
	}
	x1, x2, y1 := d.x[e.Src], d.x[e.Dest], d.y(row)
	to, received := d.received[e.ID]
	// Of what was sent shortly before the diagram's end nobody can say whether it was lost.
	lost := !received && !(d.partial && e.Time+d.slowest >= d.events[len(d.events)-1].Time)
	y2 := d.y(to)
	group, fate := class, fmt.Sprintf("received %.3f s", d.events[to].Time.Seconds())
	if !received {
		group, fate = class+" lost", "never received"
		if d.partial {
			fate = "not received within this diagram"
		}
		x2, y2 = x1+(x2-x1)*0.6, y1+lostFall
	}
	tooltip := fmt.Sprintf("%s → %s, sent %.3f s, %s\n%s", e.Src, e.Dest, e.Time.Seconds(), fate, cut(e.Body, tooltipMax))
	way := fmt.Sprintf("M%.1f %.1fL%.1f %.1f", x1, y1, x2, y2)
	if e.Src == e.Dest {
		way = fmt.Sprintf("M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1f", x1, y1, x1+40, y1, x1+40, y2, x2, y2)
	}
	fmt.Fprintf(d, `<g class="%s"><title>%s</title><path d="%s"/></g>`+"\n", group, escape(tooltip), way)
	if lost {
		fmt.Fprintf(&d.labels, `<text class="x" x="%.1f" y="%.1f">×</text>`+"\n", x2, y2+6)
	}
	x, anchor := d.labelAt(x1, d.x[e.Dest] < x1, utf8.RuneCountInString(label)*labelCharacter)
	fmt.Fprintf(&d.labels, `<text class="%s" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n",
		class, x, y1-4, anchor, escape(label))
}

// labelAt puts a label beside the column, on the arrow's side, and inside the diagram. No two labels share a row.
func (d *diagram) labelAt(x float64, left bool, width int) (at float64, anchor string) {
	const gap = 6
	switch {
	case left && x-gap-float64(width) > 0:
		return x - gap, "end"
	case left:
		return 2, "start"
	case x+gap+float64(width) < d.width:
		return x + gap, "start"
	}
	return d.width - 2, "end"
}

// bodyOf returns a body's type and members, nothing if it has no type.
func bodyOf(e history.Event) (kind string, members map[string]json.RawMessage) {
	if json.Unmarshal(e.Body, &members) != nil || json.Unmarshal(members["type"], &kind) != nil {
		return "", nil
	}
	return kind, members
}

func classOf(kind string, e history.Event) string {
	switch {
	case kind == "error":
		return "e"
	case history.IsClient(e.Src) || history.IsClient(e.Dest):
		return "c"
	}
	return "m"
}

// labelOf returns a body in short: its type, and the rest without what numbers it.
func labelOf(kind string, members map[string]json.RawMessage) string {
	var text string
	if kind == "error" && json.Unmarshal(members["text"], &text) == nil {
		return cut(kind+": "+text, labelMax)
	}
	label := kind
	for _, key := range slices.Sorted(maps.Keys(members)) {
		if key != "type" && key != "msg_id" && key != "in_reply_to" {
			label += " " + key + ": " + cut(members[key], labelMax)
		}
	}
	return cut(label, labelMax)
}
