package report

import (
	"bufio"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"dongne/maelstrom/check"
	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
)

// What one page shows; the rest is in the files.
const (
	findingsMax = 50
	faultsMax   = 200
	linesMax    = 1000 // characters of a node's line
)

//go:embed index.html store.html style.html
var pageFiles embed.FS

var pages = template.Must(template.New("").Funcs(template.FuncMap{"seconds": seconds, "count": count}).ParseFS(pageFiles, "*.html"))

// verdict is a check.Verdict in words.
type verdict struct{ Class, Word, Sentence string }

var verdicts = map[check.Verdict]verdict{
	check.True:    {"pass", "Passed", "What the workload promises held in this run."},
	check.Unknown: {"unknown", "Unknown", "This run does not tell whether what the workload promises holds."},
	check.False:   {"fail", "Failed", "What the workload or the protocol promises did not hold."},
}

// index is what index.html shows.
type index struct {
	Run          *history.Run
	Results      check.Results
	Verdict      verdict
	When         string
	Differs      string // what the other rules would say
	Findings     []history.Finding
	MoreFindings int
	Faults       []fault
	MoreFaults   int
	Figures      []history.Setting
	Functions    []function
	Logs         []string
	Replay       string
}

type fault struct {
	history.Fault
	Colour template.CSS
	Which  string
	Lasted time.Duration
}

// function counts the operations of one f.
type function struct {
	Name                    string
	Invoked, OK, Fail, Info int
	Latencies               []string // median, 95 %, slowest, of those that were ok
}

func writeIndex(w *bufio.Writer, dir string, run *history.Run, results check.Results, o Options) error {
	logs, err := nodeLogs(dir)
	if err != nil {
		return err
	}
	functions := functions(run)
	page := index{Run: run, Results: results, Verdict: verdicts[results.Valid], When: when(run), Differs: differs(results),
		Functions: functions, Figures: figures(run, results, functions), Logs: logs, Replay: o.Replay}
	page.Findings = slices.Clone(run.Findings[:min(len(run.Findings), findingsMax)])
	page.MoreFindings = len(run.Findings) - len(page.Findings)
	for i := range page.Findings {
		f := &page.Findings[i]
		f.Text, f.Line = printable(f.Text), printable(f.Line)
		tail := make([]string, len(f.Tail))
		for i := range tail {
			tail[i] = printable(f.Tail[i])
		}
		f.Tail = tail
	}
	faults := run.Faults()
	for _, f := range faults[:min(len(faults), faultsMax)] {
		page.Faults = append(page.Faults, fault{f, template.CSS(faultColour(f.Name)), describe(f, run.Nodes), f.To - f.From})
	}
	page.MoreFaults = len(faults) - len(page.Faults)
	return pages.ExecuteTemplate(w, "index.html", page)
}

// printable is what a node printed, cut, and without what would not show.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\t' {
			return r
		}
		return unicode.ReplacementChar
	}, cut(s, linesMax))
}

func when(run *history.Run) string {
	if !run.Simulated {
		return run.Started.Format("2 January 2006, 15:04:05 -07:00")
	}
	for _, s := range run.Settings {
		if strings.TrimLeft(s.Name, "-") == "seed" {
			return "simulated, seed " + s.Value
		}
	}
	return "simulated"
}

func differs(r check.Results) string {
	switch {
	case r.Ours == r.Upstream:
		return ""
	case r.Valid == r.Ours:
		return fmt.Sprintf("Upstream Maelstrom would say %s here.", r.Upstream)
	}
	return fmt.Sprintf("That is upstream Maelstrom's verdict, which was asked for. By our own rules it is %s.", r.Ours)
}

// functions counts the clients' operations by f.
func functions(run *history.Run) []function {
	invoked := map[string]int{}
	for _, op := range run.Ops {
		if op.Process != history.Nemesis && op.Type == history.Invoke {
			invoked[op.F]++
		}
	}
	all := completed(run)
	var list []function
	for _, f := range slices.Sorted(maps.Keys(invoked)) {
		fn := function{Name: f, Invoked: invoked[f], Latencies: []string{"–", "–", "–"}}
		for _, s := range all {
			switch {
			case s.f != f:
			case s.outcome == history.Fail:
				fn.Fail = len(s.points)
			case s.outcome == history.OK:
				fn.OK = len(s.points)
				fn.Latencies = latencies(s.points, 0.5, 0.95, 1)
			}
		}
		fn.Info = fn.Invoked - fn.OK - fn.Fail // what was never completed may have happened too
		list = append(list, fn)
	}
	return list
}

func latencies(points []point, ps ...float64) []string {
	sorted := make([]time.Duration, len(points))
	for i, pt := range points {
		sorted[i] = pt.latency
	}
	slices.Sort(sorted)
	var texts []string
	for _, p := range ps {
		texts = append(texts, millis(quantile(sorted, p)))
	}
	return texts
}

// figures are the run's numbers, each with what it counts.
func figures(run *history.Run, results check.Results, functions []function) []history.Setting {
	invoked, ok := 0, 0
	for _, f := range functions {
		invoked, ok = invoked+f.Invoked, ok+f.OK
	}
	list := []history.Setting{{Name: "operations", Value: count(invoked)}}
	add := func(name, format string, args ...any) {
		list = append(list, history.Setting{Name: name, Value: fmt.Sprintf(format, args...)})
	}
	if invoked > 0 {
		add("availability", "%.2f %%", 100*float64(ok)/float64(invoked))
	}
	if run.Journal.All.Sent > 0 {
		add("messages", "%s", count(run.Journal.All.Sent))
		add("dropped by faults", "%s", count(run.Journal.Dropped))
	}
	if invoked > 0 && run.Journal.All.Sent > 0 {
		add("messages per operation", "%.2f", float64(run.Journal.All.Sent)/float64(invoked))
		add("of them between servers", "%.2f", float64(run.Journal.Servers.Sent)/float64(invoked))
	}
	workload, _ := results.Fields.Get("workload").(edn.Map)
	stable, _ := workload.Get("stable-latencies").(edn.Map)
	for _, p := range stable {
		add(fmt.Sprintf("stable latency, quantile %s", edn.Append(nil, p.Key)), "%s ms", edn.Append(nil, p.Value))
	}
	if n, is := workload.Get("read-count").(int); is { // of a counter
		add("reads", "%s", count(n))
		add("of them stale", "%v", workload.Get("stale-count"))
		add("stale by, at worst", "%v ms", workload.Get("worst-stale-ms"))
	}
	for _, name := range []string{"done", "refused", "unknown", "repeat"} { // of a bank
		if n, is := workload.Get(name + "-count").(int); is {
			add("deeds, "+name, "%s", count(n))
		}
	}
	return list
}

// nodeLogs are the names of the files in node-logs, if there are any.
func nodeLogs(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "node-logs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	slices.SortFunc(names, func(a, b string) int {
		return compareNames(strings.TrimSuffix(a, ".log"), strings.TrimSuffix(b, ".log"))
	})
	return names, nil
}
