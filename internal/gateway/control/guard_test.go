package control

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// of is a sample of so many answers, so many of which failed, all but a fifth quick and that fifth slow.
func of(requests, failed int, quick, slow time.Duration) *sample {
	s := &sample{errors: uint64(failed)}
	s.latency[latencyBucket(quick)] += uint64(requests - requests/5)
	s.latency[latencyBucket(slow)] += uint64(requests / 5)
	return s
}

// misjudged runs scenarios by a judge, and says which it gets wrong.
func misjudged(judge func(g Guard, primary, candidate *sample) string) (wrong []string) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name               string
		guard              Guard
		primary, candidate *sample
		rollback           bool
	}{
		{"alike", Guard{}, of(1000, 10, 5*ms, 30*ms), of(1000, 12, 5*ms, 30*ms), false},
		{"nothing came", Guard{}, of(0, 0, 0, 0), of(0, 0, 0, 0), false},
		{"errors", Guard{}, of(1000, 0, ms, ms), of(1000, 60, ms, ms), true},
		{"all fail, at once", Guard{}, of(100, 0, ms, ms), of(100, 100, ms, ms), true},
		{"too few of the candidate's", Guard{}, of(1000, 0, ms, ms), of(99, 99, ms, ms), false},
		{"too few of the primary's", Guard{}, of(99, 0, ms, ms), of(1000, 1000, ms, ms), false},
		{"enough by its own measure", Guard{SamplesMin: 50}, of(50, 0, ms, ms), of(50, 50, ms, ms), true},
		{"what both call fails", Guard{}, of(1000, 400, ms, ms), of(1000, 400, ms, ms), false},
		{"the primary fails more", Guard{}, of(1000, 400, ms, ms), of(1000, 100, ms, ms), false},
		{"what both call is slow", Guard{}, of(1000, 0, ms, 900*ms), of(1000, 0, ms, 900*ms), false},
		{"the primary is slower", Guard{}, of(1000, 0, ms, 900*ms), of(1000, 0, ms, 90*ms), false},
		{"less than the delta", Guard{}, of(100_000, 0, ms, ms), of(100_000, 1500, ms, ms), false},
		{"a delta of its own", Guard{ErrorPoints: 1}, of(100_000, 0, ms, ms), of(100_000, 1500, ms, ms), true},
		{"by chance", Guard{}, of(100, 0, ms, ms), of(100, 4, ms, ms), false},
		{"slow", Guard{}, of(1000, 0, 5*ms, 30*ms), of(1000, 0, 5*ms, 90*ms), true},
		{"slower by little", Guard{}, of(1000, 0, ms, 2*ms), of(1000, 0, ms, 8*ms), false},
		{"slower by half, of much", Guard{}, of(1000, 0, ms, 400*ms), of(1000, 0, ms, 500*ms), false},
		{"a latency of its own", Guard{LatencyFactor: 1.1, LatencyMore: 1}, of(1000, 0, ms, 2*ms), of(1000, 0, ms, 8*ms), true},
		{"off", Guard{Off: true}, of(1000, 0, ms, ms), of(1000, 1000, ms, ms), false},
	} {
		if got := judge(c.guard, c.primary, c.candidate); (got != "") != c.rollback {
			wrong = append(wrong, fmt.Sprintf("%s: %q", c.name, got))
		}
	}
	return wrong
}

func TestJudge(t *testing.T) {
	for _, wrong := range misjudged(Guard.judge) {
		t.Error(wrong)
	}
	for name, mutant := range map[string]func(g Guard, primary, candidate *sample) string{
		"no minimum of samples": func(g Guard, primary, candidate *sample) string {
			g.SamplesMin = 1
			return g.judge(primary, candidate)
		},
		"a minimum of the candidate's samples alone": func(g Guard, primary, candidate *sample) string {
			if candidate.requests() >= uint64(g.withDefaults().SamplesMin) {
				g.SamplesMin = 1
			}
			return g.judge(primary, candidate)
		},
		"the candidate alone": func(g Guard, _, candidate *sample) string {
			return g.judge(of(1_000_000, 0, time.Millisecond, 2*time.Millisecond), candidate)
		},
		"any difference": func(g Guard, primary, candidate *sample) string {
			return g.judge(primary, candidate) + g.judge(candidate, primary)
		},
		"errors alone": func(g Guard, primary, candidate *sample) string {
			g.LatencyFactor = guardSamplesMax
			return g.judge(primary, candidate)
		},
	} {
		if len(misjudged(mutant)) == 0 {
			t.Errorf("the mutant %q was not caught", name)
		}
	}
}

func TestLatencyBuckets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(200*time.Second)).Draw(t, "latency")).Truncate(time.Microsecond)
		b := latencyBucket(d)
		if d >= latencyEnd(b) || b > 0 && d < latencyEnd(b-1) {
			t.Errorf("%v is in bucket %d, which ends at %v", d, b, latencyEnd(b))
		}
		if width := latencyEnd(b) - d; width > max(time.Microsecond, d/4+1) {
			t.Errorf("%v is in a bucket that ends %v later", d, width)
		}
	})
	if b := latencyBucket(time.Hour); b != latencyBuckets-1 {
		t.Errorf("an hour is in bucket %d, want the last, %d", b, latencyBuckets-1)
	}
	s := of(100, 0, time.Millisecond, time.Second)
	if got := s.quantile(0.9); got < time.Second || got > 1250*time.Millisecond {
		t.Errorf("quantile(0.9) = %v, want about 1 s", got)
	}
	if got := s.quantile(0.5); got < time.Millisecond || got > 1250*time.Microsecond {
		t.Errorf("quantile(0.5) = %v, want about 1 ms", got)
	}
}

// The window forgets what is old, but not while it has too little to judge by.
func TestOutcomeWindow(t *testing.T) {
	now := time.Unix(0, 0)
	o := newOutcomes(1, now)
	look := func(after time.Duration) (primary, candidate uint64) {
		now = now.Add(after)
		w := o.window(now, 10)
		return w[primarySide].requests(), w[candidateSide].requests()
	}
	add := func(n, side int) {
		for i := range n {
			o.add(uint64(i), side, i%2 == 0, time.Millisecond)
		}
	}
	add(100, primarySide)
	add(3, candidateSide)
	if p, c := look(10 * outcomeWindow); p != 100 || c != 3 {
		t.Errorf("%d and %d answers, want 100 and 3: there are too few to begin anew", p, c)
	}
	add(7, candidateSide)
	if p, c := look(outcomeWindow); p != 100 || c != 10 {
		t.Errorf("%d and %d answers, want 100 and 10", p, c)
	}
	add(20, primarySide)
	add(20, candidateSide)
	if p, c := look(outcomeWindow - 1); p != 120 || c != 30 {
		t.Errorf("%d and %d answers, want 120 and 30: the mark is younger than a window", p, c)
	}
	look(1)
	if p, c := look(0); p != 20 || c != 20 {
		t.Errorf("%d and %d answers, want 20 and 20: the rest is old", p, c)
	}
	w := o.window(now, 10)
	if got := w[candidateSide].counts(); got.Errors != 10 || got.Requests != 20 || got.Slow < 1 || got.Slow > 1.25 {
		t.Errorf("counts() = %+v, want 10 of 20 failed, slow at about 1 ms", got)
	}
}
