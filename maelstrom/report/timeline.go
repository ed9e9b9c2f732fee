package report

import (
	"bufio"
	"fmt"
	"maps"
	"slices"
	"sort"
	"time"

	"dongne/maelstrom/history"
)

const (
	pairsMax      = 10_000 // shown
	processWidth  = 106    // pixels
	entryHeight   = 16
	timelineLeft  = 64 + 160 // times, faults
	timelineTop   = 24
	timelineTimes = 5 // entries
	opLabelMax    = 60
)

const timelineHead = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Timeline: %s</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2125; --band: .55 }
@media (prefers-color-scheme: dark) { :root { --paper: #17191c; --ink: #e6e4e0; --band: .3 } }
body { margin: 1rem; background: var(--paper); color: var(--ink); font: 12px/16px system-ui, sans-serif }
h1 { font-size: 1.5rem; line-height: 1.2 }
#ops { position: relative; margin-top: 1rem }
#ops div { position: absolute; box-sizing: border-box; white-space: nowrap; overflow: hidden }
#ops .processes { position: sticky; top: 0; left: 0; z-index: 2; height: 20px; background: var(--paper); overflow: visible }
.processes b { position: absolute; width: 102px; text-align: center }
#ops .op { width: 102px; padding: 0 3px; border-radius: 2px; color: #101214; border-top: 1px solid #fff8 }
.ok { background: #6DB6FE } .info { background: #FFAA26 } .fail { background: #FEB5DA }
#ops .fault { left: 0; right: 0; opacity: var(--band) }
#ops .why { left: 70px; width: 152px; text-overflow: ellipsis; font-weight: 600 }
#ops .time { left: 0; width: 58px; text-align: right; opacity: .7 }
.key { padding: 0 .5em; border-radius: 2px; color: #101214 }
</style>
</head>
<body>
<h1>Timeline: %[1]s</h1>
<p>Left the faults, then a column per client process, a row per entry of the history; point at an operation to see all of it.
<span class="key ok">ok</span> it happened, <span class="key fail">fail</span> it did not,
<span class="key info">info</span> nobody knows: it may happen any time later. <a href="index.html">Back to the run</a></p>
`

// writeTimeline writes timeline.html.
func writeTimeline(w *bufio.Writer, run *history.Run) error {
	rows, processes := shown(run.Ops)
	fmt.Fprintf(w, timelineHead, escape(run.Workload))
	if rows < len(run.Ops) {
		fmt.Fprintf(w, "<p>These are the first %s operations; there were more.</p>\n", count(pairsMax))
	}
	fmt.Fprintf(w, `<div id="ops" style="width:%dpx;height:%dpx">`+"\n",
		timelineLeft+processWidth*len(processes), entryTop(rows+1))
	writeBands(w, run, rows)
	w.WriteString(`<div class="processes"><b style="left:70px">nemesis</b>`)
	column := map[int]int{}
	for i, process := range processes {
		column[process] = timelineLeft + processWidth*i
		fmt.Fprintf(w, `<b style="left:%dpx">%d</b>`, column[process], process)
	}
	w.WriteString("</div>\n")
	other := history.Completions(run.Ops)
	for i, op := range run.Ops[:rows] {
		if i%timelineTimes == 0 {
			fmt.Fprintf(w, `<div class="time" style="top:%dpx">%.3f s</div>`+"\n", entryTop(i), op.Time.Seconds())
		}
		if op.Process != history.Nemesis && op.Type == history.Invoke {
			writePair(w, run.Ops, i, other[i], rows, column[op.Process])
		}
	}
	w.WriteString("</div>\n</body>\n</html>\n")
	return nil
}

// shown returns how many entries fit, and the processes of their operations, sorted.
func shown(ops []history.Op) (rows int, processes []int) {
	seen := map[int]bool{}
	pairs := 0
	for i, op := range ops {
		if op.Process == history.Nemesis || op.Type != history.Invoke {
			continue
		}
		if pairs == pairsMax {
			return i, slices.Sorted(maps.Keys(seen))
		}
		pairs++
		seen[op.Process] = true
	}
	return len(ops), slices.Sorted(maps.Keys(seen))
}

func entryTop(row int) int { return timelineTop + entryHeight*row }

// writePair writes an operation, from its invocation's row to its completion's; without one, or with one that leaves it
// open what happened, to the end.
func writePair(w *bufio.Writer, ops []history.Op, at, completion, rows, left int) {
	invoked, done := &ops[at], &ops[at]
	outcome, to := history.Info, rows
	tooltip := fmt.Sprintf("%s by process %d", invoked.F, invoked.Process)
	if invoked.Node != "" {
		tooltip += " at " + invoked.Node
	}
	tooltip += fmt.Sprintf("\ninvoked %.6f s: %s", invoked.Time.Seconds(), cut(invoked.Value, tooltipMax))
	if completion < 0 {
		tooltip += "\nnever completed"
	} else {
		done = &ops[completion]
		outcome = done.Type
		tooltip += fmt.Sprintf("\n%s %.6f s, after %s: %s",
			outcome, done.Time.Seconds(), millis(done.Time-invoked.Time), cut(done.Value, tooltipMax))
		if text := errorText(done); text != "" {
			tooltip += "\n" + cut(text, tooltipMax)
		}
	}
	if outcome != history.Info {
		to = min(completion+1, rows)
	}
	label := invoked.F + " " + cut(done.Value, opLabelMax)
	if done.Value == nil {
		label = invoked.F + " " + cut(invoked.Value, opLabelMax)
	}
	fmt.Fprintf(w, `<div class="op %s" style="left:%dpx;top:%dpx;height:%dpx" title="%s">%s</div>`+"\n",
		outcome, left, entryTop(at), entryHeight*(to-at), escape(tooltip), escape(label))
}

// writeBands shades the rows between which a fault was going.
func writeBands(w *bufio.Writer, run *history.Run, rows int) {
	row := func(at time.Duration) int {
		return sort.Search(rows, func(i int) bool { return run.Ops[i].Time >= at })
	}
	for _, f := range run.Faults() {
		from, to := row(f.From), row(f.To)
		if from == rows {
			continue
		}
		fmt.Fprintf(w, `<div class="fault" style="top:%dpx;height:%dpx;background:%s"></div>`+"\n",
			entryTop(from), entryHeight*max(1, to-from), faultColour(f.Name))
		why := escape(f.Name + ": " + describe(f, run.Nodes))
		fmt.Fprintf(w, `<div class="why" style="top:%dpx" title="%s">%[2]s</div>`+"\n", entryTop(from), why)
	}
}
