// Package report prints what a benchmark found: systems measured in turn, tables of medians, and goals.
package report

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Row is a system in a table.
type Row struct {
	Name   string
	Ours   bool   // its failure fails the benchmark
	Absent string // why it cannot be measured, empty: it can
}

// Report collects what is found about systems and goals.
type Report struct {
	Out    io.Writer
	Failed error // of ours, joined
	goals  []string
}

// Rounds measures every row once, then all again, n times, and returns the results and remarks by the rows' names. A row
// that fails is left alone, and its remark says why.
func Rounds[R any](ctx context.Context, r *Report, n int, rows []Row, measure func(i int) (R, error)) (map[string][]R, map[string]string) {
	results, remarks := map[string][]R{}, map[string]string{}
	for range n {
		for i, row := range rows {
			if row.Absent != "" {
				remarks[row.Name] = row.Absent
			}
			if remarks[row.Name] != "" || ctx.Err() != nil {
				continue
			}
			result, err := measure(i)
			if err != nil {
				remarks[row.Name] = "failed: " + strings.ReplaceAll(err.Error(), "\n", " ")
				delete(results, row.Name)
				if row.Ours {
					r.Failed = errors.Join(r.Failed, fmt.Errorf("%s: %w", row.Name, err))
				}
				continue
			}
			results[row.Name] = append(results[row.Name], result)
		}
	}
	for _, row := range rows {
		if len(results[row.Name]) == 0 && remarks[row.Name] == "" {
			remarks[row.Name] = "not measured" // cut short
		}
	}
	return results, remarks
}

// Table prints a line of cells for each row, or the remark on it.
func (r *Report) Table(title string, columns []string, rows []Row, remarks map[string]string, cells func(name string) []string) {
	fmt.Fprintln(r.Out, title)
	w := tabwriter.NewWriter(r.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  system\t"+strings.Join(columns, "\t"))
	for _, row := range rows {
		if remark := remarks[row.Name]; remark != "" {
			fmt.Fprintf(w, "  %s\t%s\n", row.Name, remark)
		} else {
			fmt.Fprintf(w, "  %s\t%s\n", row.Name, strings.Join(cells(row.Name), "\t"))
		}
	}
	w.Flush()
	fmt.Fprintln(r.Out)
}

// Goal notes a goal; sign is ≥ or ≤. A figure that is no number, for want of a peer, is not measured.
func (r *Report) Goal(name, sign string, got, want float64) {
	verdict := "missed"
	switch {
	case !(got > 0 && got < 1e300):
		r.goals = append(r.goals, fmt.Sprintf("%s: not measured (goal %s %.2f)", name, sign, want))
		return
	case sign == "≥" && got >= want, sign == "≤" && got <= want:
		verdict = "met"
	}
	r.goals = append(r.goals, fmt.Sprintf("%s: %.2f (goal %s %.2f: %s)", name, got, sign, want, verdict))
}

// PrintGoals prints the goals in the order in which they were noted.
func (r *Report) PrintGoals() {
	for _, line := range r.goals {
		fmt.Fprintln(r.Out, line)
	}
}

// Pick returns one figure of every result, sorted.
func Pick[R any](results []R, figure func(R) float64) []float64 {
	var picked []float64
	for _, result := range results {
		picked = append(picked, figure(result))
	}
	slices.Sort(picked)
	return picked
}

// Mid is the median of sorted figures, 0 of none.
func Mid(sorted []float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)/2]
}

// Median is the median of one figure of the results, 0 of none.
func Median[R any](results []R, figure func(R) float64) float64 { return Mid(Pick(results, figure)) }

// Quantiles sorts the times that something took and returns their median and what one in a hundred exceeds; 0 of none.
func Quantiles(took []time.Duration) (p50, p99 time.Duration) {
	if len(took) == 0 {
		return 0, 0
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100]
}

// Span writes the least and the most of sorted figures.
func Span(sorted []float64, write func(float64) string) string {
	if len(sorted) == 0 {
		return ""
	}
	return "(" + write(sorted[0]) + ".." + write(sorted[len(sorted)-1]) + ")"
}

// Count writes a whole number with a comma at every thousand.
func Count(n float64) string {
	text := fmt.Sprintf("%.0f", n)
	for at := len(text) - 3; at > 0 && text[at-1] != '-'; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

// Millis writes nanoseconds as milliseconds.
func Millis(nanos float64) string {
	return fmt.Sprintf("%.2f ms", nanos/float64(time.Millisecond))
}
