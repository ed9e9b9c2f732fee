package report

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestReport(t *testing.T) {
	var out strings.Builder
	broken := errors.New("no such luck")
	r := Report{Out: &out}
	rows := []Row{{Name: "ours", Ours: true}, {Name: "peer", Absent: "absent: apt-get install peer"}, {Name: "other"}}
	measured := 0
	results, remarks := Rounds(context.Background(), &r, 3, rows, func(i int) (float64, error) {
		if rows[i].Name == "other" {
			return 0, broken
		}
		measured++
		return 1234, nil
	})
	r.Table("title", []string{"figure"}, rows, remarks, func(name string) []string { return []string{Count(results[name][0])} })
	for _, want := range []string{"title\n", "ours    1,234\n", "peer    absent: apt-get install peer\n", "other   failed: no such luck\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, &out)
		}
	}
	if measured != 3 || len(results["ours"]) != 3 {
		t.Errorf("ours was measured %d times and has %d results, want 3", measured, len(results["ours"]))
	}
	if r.Failed != nil {
		t.Errorf("a peer's failure counts as ours: %v", r.Failed)
	}
	Rounds(context.Background(), &r, 1, rows[:1], func(int) (float64, error) { return 0, broken })
	if !errors.Is(r.Failed, broken) {
		t.Errorf("Failed = %v, want %v", r.Failed, broken)
	}
}

func TestRoundsCutShort(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	rows := []Row{{Name: "first"}, {Name: "second"}}
	results, remarks := Rounds(ctx, &Report{}, 2, rows, func(i int) (float64, error) {
		cancel()
		return 1, nil
	})
	if len(results["first"]) != 1 || remarks["first"] != "" || remarks["second"] != "not measured" {
		t.Errorf("results %v, remarks %v; want one result of the first, and the second not measured", results, remarks)
	}
}

func TestGoals(t *testing.T) {
	zero := 0.0
	for _, test := range []struct {
		sign      string
		got, want float64
		text      string
	}{
		{"≥", 3.4, 3, "x: 3.40 (goal ≥ 3.00: met)"},
		{"≥", 2.9, 3, "x: 2.90 (goal ≥ 3.00: missed)"},
		{"≤", 0.2, 0.25, "x: 0.20 (goal ≤ 0.25: met)"},
		{"≤", 0.3, 0.25, "x: 0.30 (goal ≤ 0.25: missed)"},
		{"≥", 1 / zero, 3, "x: not measured (goal ≥ 3.00)"},
		{"≤", zero / zero, 3, "x: not measured (goal ≤ 3.00)"},
	} {
		var out strings.Builder
		r := Report{Out: &out}
		r.Goal("x", test.sign, test.got, test.want)
		if r.PrintGoals(); out.String() != test.text+"\n" {
			t.Errorf("Goal(%q, %v, %v) printed %q, want %q", test.sign, test.got, test.want, &out, test.text)
		}
	}
}

func TestFigures(t *testing.T) {
	for n, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -100: "-100"} {
		if got := Count(n); got != want {
			t.Errorf("Count(%v) = %q, want %q", n, got, want)
		}
	}
	figures := Pick([]float64{3, 1, 2}, func(f float64) float64 { return f })
	if got := Mid(figures); got != 2 {
		t.Errorf("Mid(%v) = %v, want 2", figures, got)
	}
	if got := Span(figures, Count); got != "(1..3)" {
		t.Errorf("Span(%v) = %q, want (1..3)", figures, got)
	}
	if got := Mid(nil); got != 0 {
		t.Errorf("Mid(nil) = %v, want 0", got)
	}
	took := make([]time.Duration, 200)
	for i := range took {
		took[i] = time.Duration(199 - i)
	}
	if p50, p99 := Quantiles(took); p50 != 100 || p99 != 198 {
		t.Errorf("Quantiles(199 to 0) = %d, %d; want 100, 198", p50, p99)
	}
}
