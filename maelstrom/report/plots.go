package report

import (
	"bufio"
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"dongne/maelstrom/history"
)

// The plots' sizes in pixels.
const (
	plotWidth, plotHeight             = 900, 400
	plotLeft, plotTop                 = 64, 34
	plotRight, plotBottom             = 720, 350
	legendLeft, legendLine, legendMax = plotRight + 16, 17, plotHeight - plotTop - 10
)

const (
	pointsMax     = 20_000 // drawn
	ratesAbout    = 40     // buckets of rate.svg
	windowsAbout  = 20     // of quantiles
	bucketMin     = 500 * time.Millisecond
	latencyMin    = 10 * time.Microsecond // what is faster, as in a simulation without latency, is drawn there
	rateTicks     = 5
	secondsTicks  = 8
	decadesMin    = 2 // of the latencies' axis
	legendNameMax = 24
)

const plotStyle = `path{fill:none}.grid{stroke:#E6E6E6}.axis{stroke:#888}.title{font-size:13px;font-weight:600}` +
	`.points{stroke-width:1.4;stroke-linecap:round}.dots{stroke-width:4;stroke-opacity:.65;stroke-linecap:round}.curve{stroke-width:1.8;stroke-linejoin:round}`

// shapes tell functions apart, by what follows the point's M: a dot, a plus, a square, a triangle, a cross, a diamond.
var shapes = []string{
	"h0", "m-3 0h6m-3-3v6", "m-2.5-2.5h5v5h-5z", "m-3 2.5h6l-3-5.5z", "m-2.5-2.5l5 5m0-5l-5 5", "m0-3.5l3 3.5l-3 3.5l-3-3.5z",
}

// dashes tell functions apart where there are lines.
var dashes = []string{"none", "6 3", "2 2", "9 2 2 2", "12 3", "1 3"}

// quantiles drawn over the windows, each in its colour.
var quantiles = []struct {
	p      float64
	colour string
}{{0.5, "#2B8A3E"}, {0.95, "#7048C6"}, {0.99, "#9C2A7A"}, {1, "#343A40"}}

type point struct{ at, latency time.Duration } // at: of the invocation

// series are the operations of one function that ended in one way, as they were completed.
type series struct {
	f       string
	outcome history.Type
	number  int // of f, among all
	points  []point
}

func (s series) name() string { return s.f + " " + s.outcome.String() }

// completed returns the clients' completed operations, ordered by function and outcome.
func completed(run *history.Run) []series {
	type key struct {
		f       string
		outcome history.Type
	}
	byKey := map[key][]point{}
	other := history.Completions(run.Ops)
	for i, op := range run.Ops {
		if op.Process == history.Nemesis || op.Type == history.Invoke || other[i] < 0 {
			continue
		}
		invoked := run.Ops[other[i]].Time
		byKey[key{op.F, op.Type}] = append(byKey[key{op.F, op.Type}], point{invoked, op.Time - invoked})
	}
	var all []series
	for k, points := range byKey {
		all = append(all, series{f: k.f, outcome: k.outcome, points: points})
	}
	slices.SortFunc(all, func(a, b series) int { return cmp.Or(cmp.Compare(a.f, b.f), cmp.Compare(a.outcome, b.outcome)) })
	for i := 1; i < len(all); i++ {
		all[i].number = all[i-1].number
		if all[i].f != all[i-1].f {
			all[i].number++
		}
	}
	return all
}

// length is how long a run was, its last entry included.
func length(run *history.Run) time.Duration {
	last := max(run.Elapsed, time.Millisecond)
	for i := range run.Ops {
		last = max(last, run.Ops[i].Time)
	}
	return last
}

// step is the least of 1, 2 and 5 times a power of ten of which at most so many are needed for the whole.
func step(whole float64, parts int) float64 {
	power := math.Pow(10, math.Floor(math.Log10(whole/float64(parts))))
	for _, times := range []float64{1, 2, 5} {
		if times*power*float64(parts) >= whole*(1-1e-9) {
			return times * power
		}
	}
	return 10 * power
}

// bucket is the width of a bucket if there are to be about so many.
func bucket(whole time.Duration, about int) time.Duration {
	return max(bucketMin, time.Duration(step(whole.Seconds(), about)*float64(time.Second)))
}

// plot is a diagram over the run's time, with a legend on the right.
type plot struct {
	canvas
	whole  time.Duration
	legend []func(x, y float64)
}

func newPlot(w *bufio.Writer, run *history.Run, title, yLabel string) *plot {
	p := &plot{canvas: canvas{w}, whole: length(run)}
	p.begin(plotWidth, plotHeight, title, plotStyle)
	fmt.Fprintf(p, `<text class="title" x="%d" y="20">%s</text>`+"\n", plotLeft, escape(title))
	shown := map[string]bool{}
	for _, f := range run.Faults() {
		from := p.x(f.From)
		p.band(from, plotTop, max(1, p.x(f.To)-from), plotBottom-plotTop, f.Name)
		if !shown[f.Name] {
			shown[f.Name] = true
			p.explain(f.Name, func(x, y float64) { p.band(x, y-5, 16, 10, f.Name) })
		}
	}
	every := step(p.whole.Seconds(), secondsTicks)
	for i := 0; float64(i)*every <= p.whole.Seconds(); i++ {
		x := plotLeft + float64(i)*every/p.whole.Seconds()*(plotRight-plotLeft)
		fmt.Fprintf(p, `<path class="grid" d="M%.1f %dV%d"/>`+"\n", x, plotTop, plotBottom)
		p.text(x, plotBottom+16, "middle", fmt.Sprintf("%g", float64(i)*every))
	}
	p.text((plotLeft+plotRight)/2, plotBottom+36, "middle", "time since the start in seconds")
	fmt.Fprintf(p, `<text transform="translate(16 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n",
		(plotTop+plotBottom)/2, escape(yLabel))
	return p
}

func (p *plot) x(at time.Duration) float64 {
	return plotLeft + min(1, at.Seconds()/p.whole.Seconds())*(plotRight-plotLeft)
}

// tick draws a line across at y, and what it stands for.
func (p *plot) tick(y float64, label string) {
	fmt.Fprintf(p, `<path class="grid" d="M%d %.1fH%d"/>`+"\n", plotLeft, y, plotRight)
	p.text(plotLeft-6, y+4, "end", label)
}

// explain puts an entry into the legend: a name, and something that draws its mark.
func (p *plot) explain(name string, mark func(x, y float64)) {
	p.legend = append(p.legend, func(x, y float64) {
		mark(x, y)
		p.text(x+24, y+4, "start", cut(name, legendNameMax))
	})
}

func (p *plot) curve(points []string, colour, dash string) {
	path := strings.Join(points, "L")
	if len(points) == 1 {
		path += "h2" // else it would not show
	}
	fmt.Fprintf(p, `<path class="curve" d="M%s" stroke="%s" stroke-dasharray="%s"/>`+"\n", path, colour, dash)
}

func (p *plot) finish() {
	fmt.Fprintf(p, `<path class="axis" d="M%d %dV%dH%d"/>`+"\n", plotLeft, plotTop, plotBottom, plotRight)
	line := min(legendLine, legendMax/float64(max(1, len(p.legend))))
	for i, entry := range p.legend {
		entry(legendLeft, plotTop+6+line*float64(i))
	}
	p.end()
}

// drawLatency draws latency.svg.
func drawLatency(w *bufio.Writer, run *history.Run) error {
	all := completed(run)
	total, drawn := 0, 0
	low, high := time.Duration(math.MaxInt64), latencyMin
	for _, s := range all {
		total += len(s.points)
		for _, pt := range s.points {
			low, high = min(low, pt.latency), max(high, pt.latency)
		}
	}
	bottom := math.Floor(math.Log10(max(min(low, high), latencyMin).Seconds() * 1000))
	top := max(math.Ceil(math.Log10(high.Seconds()*1000)), bottom+decadesMin)
	p := newPlot(w, run, "Latency of operations", "latency in ms (logarithmic)")
	y := func(latency time.Duration) float64 {
		decades := math.Log10(max(latency, latencyMin).Seconds()*1000) - bottom
		return plotBottom - decades/(top-bottom)*(plotBottom-plotTop)
	}
	for e := bottom; e <= top; e++ {
		p.tick(plotBottom-(e-bottom)/(top-bottom)*(plotBottom-plotTop), fmt.Sprintf("%g", math.Pow(10, e)))
	}
	for _, s := range all {
		drawn += p.scatter(s, y, pointsMax/len(all))
	}
	p.drawQuantiles(all, y)
	switch {
	case total == 0:
		p.text((plotLeft+plotRight)/2, (plotTop+plotBottom)/2, "middle", "No operation was completed.")
	case drawn < total:
		p.text(plotRight, 20, "end",
			fmt.Sprintf("%s of %s points drawn, the slowest and fastest among them", count(drawn), count(total)))
	}
	p.finish()
	return nil
}

// scatter draws a series' points, or so many of them, and returns how many.
func (p *plot) scatter(s series, y func(time.Duration) float64, pointsMax int) int {
	points := thin(s.points, pointsMax)
	shape := shapes[s.number%len(shapes)]
	class := "points"
	if shape == "h0" {
		class = "dots"
	}
	fmt.Fprintf(p, `<path class="%s" stroke="%s" d="`, class, outcomeColours[s.outcome])
	for _, pt := range points {
		fmt.Fprintf(p, "M%.1f %.1f%s", p.x(pt.at), y(pt.latency), shape)
	}
	p.WriteString(`"/>` + "\n")
	p.explain(s.name(), func(x, y float64) {
		fmt.Fprintf(p, `<path class="%s" stroke="%s" d="M%.1f %.1f%s"/>`, class, outcomeColours[s.outcome], x+8, y, shape)
	})
	return len(points)
}

// thin returns of every few successive points the first, the fastest and the slowest.
func thin(points []point, pointsMax int) []point {
	if len(points) <= pointsMax {
		return points
	}
	few := (3*len(points) + pointsMax - 1) / max(1, pointsMax)
	var kept []point
	for part := range slices.Chunk(points, few) {
		byLatency := func(a, b point) int { return cmp.Compare(a.latency, b.latency) }
		kept = append(kept, part[0], slices.MinFunc(part, byLatency), slices.MaxFunc(part, byLatency))
	}
	return kept
}

// drawQuantiles draws the quantiles of the operations that were ok, over windows of time.
func (p *plot) drawQuantiles(all []series, y func(time.Duration) float64) {
	width := bucket(p.whole, windowsAbout)
	windows := map[int][]time.Duration{}
	for _, s := range all {
		for _, pt := range s.points {
			if s.outcome == history.OK {
				windows[int(pt.at/width)] = append(windows[int(pt.at/width)], pt.latency)
			}
		}
	}
	for _, latencies := range windows {
		slices.Sort(latencies)
	}
	if len(windows) == 0 {
		return
	}
	numbers := slices.Sorted(maps.Keys(windows))
	for _, q := range quantiles {
		var points []string
		for at, i := range numbers {
			points = append(points, fmt.Sprintf("%.1f %.1f", p.x(middle(i, width, p.whole)), y(quantile(windows[i], q.p))))
			if at == len(numbers)-1 || numbers[at+1] != i+1 { // no line across windows without operations
				p.curve(points, q.colour, "none")
				points = nil
			}
		}
		p.explain(fmt.Sprintf("ok, quantile %g", q.p), func(x, y float64) { p.line(x, y, x+16, y, q.colour) })
	}
}

// quantile of sorted values, as Jepsen takes it.
func quantile(sorted []time.Duration, p float64) time.Duration {
	return sorted[min(len(sorted)-1, int(float64(len(sorted))*p))]
}

// middle of a bucket; the last ends with the whole.
func middle(i int, width, whole time.Duration) time.Duration {
	from := time.Duration(i) * width
	return from + min(width, max(0, whole-from))/2
}

// drawRate draws rate.svg.
func drawRate(w *bufio.Writer, run *history.Run) error {
	all := completed(run)
	p := newPlot(w, run, "Operations completed per second", "operations per second")
	width := bucket(p.whole, ratesAbout)
	buckets := int((p.whole-1)/width) + 1
	counts := make([][]int, len(all))
	most := 0
	for i, s := range all {
		counts[i] = make([]int, buckets)
		for _, pt := range s.points {
			b := min(buckets-1, int((pt.at+pt.latency)/width))
			counts[i][b]++
			most = max(most, counts[i][b])
		}
	}
	// The last bucket may be shorter, and is not divided by less: one operation in a millisecond is no rate.
	rate := func(n int) float64 { return float64(n) / width.Seconds() }
	highest := max(rate(most), 1)
	every := step(highest, rateTicks)
	top := every * math.Ceil(highest/every)
	y := func(rate float64) float64 { return plotBottom - rate/top*(plotBottom-plotTop) }
	for i := 0; float64(i)*every <= top; i++ {
		p.tick(y(float64(i)*every), fmt.Sprintf("%g", float64(i)*every))
	}
	for i, s := range all {
		points := make([]string, buckets)
		for b, n := range counts[i] {
			points[b] = fmt.Sprintf("%.1f %.1f", p.x(middle(b, width, p.whole)), y(rate(n)))
		}
		colour, dash := outcomeColours[s.outcome], dashes[s.number%len(dashes)]
		p.curve(points, colour, dash)
		p.explain(s.name(), func(x, y float64) {
			p.curve([]string{fmt.Sprintf("%.1f %.1f", x, y), fmt.Sprintf("%.1f %.1f", x+16, y)}, colour, dash)
		})
	}
	if len(all) == 0 {
		p.text((plotLeft+plotRight)/2, (plotTop+plotBottom)/2, "middle", "No operation was completed.")
	}
	p.finish()
	return nil
}
