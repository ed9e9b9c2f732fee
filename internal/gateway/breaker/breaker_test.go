package breaker

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

var testSettings = Settings{
	ConsecutiveFailures: 3, ErrorPercent: 50, SamplesMin: 6, Window: time.Second,
	OpenMin: 100 * time.Millisecond, OpenMax: time.Second, ProbeMax: 2 * time.Second,
}

func seeded() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func newBreaker(t testing.TB, settings Settings) *Breaker {
	t.Helper()
	b, err := New(settings, epoch, seeded())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A subject is what the checker judges: a Breaker, or a mutant of one.
type subject interface {
	Allow(now time.Time) (Pass, time.Duration, bool)
	Done(pass Pass, outcome Outcome, now time.Time)
	State(now time.Time) State
}

// An act: time passes, then a request asks (done is -1), or the request that asked
// done passes ago is over.
type act struct {
	wait    time.Duration
	done    int
	outcome Outcome
}

var drawActs = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) act {
	unit := rapid.SampledFrom([]time.Duration{
		0, 0, time.Millisecond, 50 * time.Millisecond, 400 * time.Millisecond,
	}).Draw(t, "unit")
	return act{
		wait:    unit * time.Duration(rapid.IntRange(0, 6).Draw(t, "units")),
		done:    rapid.IntRange(-1, 3).Draw(t, "done"),
		outcome: rapid.SampledFrom([]Outcome{Cancelled, Success, Failure, Failure}).Draw(t, "outcome"),
	}
}), 0, 200)

// longActs are acts that reach far: rapid's examples are short.
func longActs(seed uint64) []act {
	rng := rand.New(rand.NewPCG(seed, 0))
	units := []time.Duration{0, 0, 0, time.Millisecond, 50 * time.Millisecond, 400 * time.Millisecond}
	acts := make([]act, 500)
	for i := range acts {
		acts[i] = act{
			wait:    units[rng.IntN(len(units))] * time.Duration(rng.IntN(7)),
			done:    rng.IntN(4) - 1,
			outcome: Outcome(rng.IntN(3)),
		}
		if rng.IntN(2) == 0 {
			acts[i].done = -1
		}
	}
	return acts
}

// A model remembers every request, and computes everything anew from that.
type model struct {
	rng            *rand.Rand
	mode           Mode
	since, until   time.Time
	probe          *request // under way
	tries          int
	requests       []*request
	over           []*request // that count in this closed period, in their order
	trips, refused uint64
}

type request struct {
	pass    Pass // as the subject gave it
	began   time.Time
	counts  bool // still: its period is not over, and it is not
	outcome Outcome
	ended   time.Time
}

// turn begins a mode; nothing that began before counts any more.
func (m *model) turn(mode Mode, at time.Time) {
	m.mode, m.since, m.probe, m.over = mode, at, nil, nil
	for _, r := range m.requests {
		r.counts = false
	}
}

func (m *model) trip(at time.Time) {
	if m.mode == Closed && at.Sub(m.since) >= testSettings.OpenMax {
		m.tries = 0
	}
	ceiling := min(testSettings.OpenMin<<m.tries, testSettings.OpenMax)
	m.tries = min(m.tries+1, 4)
	m.until = at.Add(ceiling/2 + time.Duration(m.rng.Int64N(int64(ceiling/2)+1)))
	m.trips++
	m.turn(Open, at)
}

func (m *model) pass(now time.Time) {
	if m.probe != nil && now.Sub(m.probe.began) >= testSettings.ProbeMax {
		m.trip(m.probe.began.Add(testSettings.ProbeMax))
	}
	if m.mode == Open && !now.Before(m.until) {
		m.turn(HalfOpen, m.until)
	}
}

func (m *model) ask(now time.Time) (*request, bool) {
	if m.mode == Open || m.probe != nil {
		m.refused++
		return nil, false
	}
	r := &request{began: now, counts: true}
	m.requests = append(m.requests, r)
	if m.mode == HalfOpen {
		m.probe = r
	}
	return r, true
}

func (m *model) done(r *request, outcome Outcome, now time.Time) {
	if !r.counts {
		return
	}
	r.counts, r.outcome, r.ended = false, outcome, now
	switch {
	case m.probe == r && outcome == Success:
		m.turn(Closed, now)
	case m.probe == r && outcome == Failure:
		m.trip(now)
	case m.probe == r:
		m.probe = nil
	case outcome != Cancelled:
		m.over = append(m.over, r)
		s := m.state(now)
		if s.InARow >= testSettings.ConsecutiveFailures ||
			s.Samples >= int64(testSettings.SamplesMin) && float64(s.Failures)/float64(s.Samples) >= 0.5 {
			m.trip(now)
		}
	}
}

func (m *model) state(now time.Time) State {
	s := State{Mode: m.mode, Since: m.since, Probing: m.probe != nil, Trips: m.trips, Refused: m.refused}
	if m.mode == Open {
		s.Wait = m.until.Sub(now)
	}
	step := testSettings.Window / windows
	for _, r := range m.over {
		s.InARow++
		if r.outcome == Success {
			s.InARow = 0
		}
		if now.Truncate(step).Sub(r.ended.Truncate(step)) < testSettings.Window {
			s.Samples++
			if r.outcome == Failure {
				s.Failures++
			}
		}
	}
	return s
}

// judge runs acts on a subject and on the model and returns the first difference.
func judge(b subject, acts []act) error {
	m := &model{rng: seeded(), since: epoch}
	now := epoch
	var open []*request // not yet over
	for i, a := range acts {
		now = now.Add(a.wait)
		m.pass(now)
		if a.done < 0 {
			want, wantOK := m.ask(now)
			pass, wait, ok := b.Allow(now)
			if ok != wantOK || ok != (wait <= 0) {
				return fmt.Errorf("act %d: Allow = wait %v, %v, want %v", i, wait, ok, wantOK)
			}
			if ok {
				want.pass = pass
				open = append(open, want)
			}
		} else if a.done < len(open) {
			at := len(open) - 1 - a.done
			r := open[at]
			open = append(open[:at], open[at+1:]...)
			m.done(r, a.outcome, now)
			b.Done(r.pass, a.outcome, now)
		}
		if diff := cmp.Diff(m.state(now), b.State(now)); diff != "" {
			return fmt.Errorf("act %d: State mismatch (-want +got):\n%s", i, diff)
		}
	}
	return nil
}

func TestBreakerIsTheModel(t *testing.T) {
	for seed := range uint64(200) {
		if err := judge(newBreaker(t, testSettings), longActs(seed)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		b, err := New(testSettings, epoch, seeded())
		if err != nil {
			t.Fatal(err)
		}
		if err := judge(b, drawActs.Draw(t, "acts")); err != nil {
			t.Fatal(err)
		}
	})
}

// twoProbes is a mutant that lets a second request pass beside the probe.
type twoProbes struct{ *Breaker }

func (m twoProbes) Allow(now time.Time) (Pass, time.Duration, bool) {
	pass, wait, ok := m.Breaker.Allow(now)
	if !ok && m.mode == HalfOpen {
		return Pass{m.period}, 0, true
	}
	return pass, wait, ok
}

// neverCloses is a mutant that a probe's success does not convince.
type neverCloses struct{ *Breaker }

func (m neverCloses) Done(pass Pass, outcome Outcome, now time.Time) {
	if m.State(now).Mode == HalfOpen && outcome == Success {
		outcome = Cancelled
	}
	m.Breaker.Done(pass, outcome, now)
}

// countsStale is a mutant for which a result counts whenever it began.
type countsStale struct{ *Breaker }

func (m countsStale) Done(_ Pass, outcome Outcome, now time.Time) {
	m.State(now)
	m.Breaker.Done(Pass{m.period}, outcome, now)
}

// blamesClients is a mutant for which a cancelled request has failed.
type blamesClients struct{ *Breaker }

func (m blamesClients) Done(pass Pass, outcome Outcome, now time.Time) {
	if outcome == Cancelled {
		outcome = Failure
	}
	m.Breaker.Done(pass, outcome, now)
}

// praisesClients is a mutant for which a cancelled request has succeeded.
type praisesClients struct{ *Breaker }

func (m praisesClients) Done(pass Pass, outcome Outcome, now time.Time) {
	if outcome == Cancelled {
		outcome = Success
	}
	m.Breaker.Done(pass, outcome, now)
}

// patient is a mutant that waits for a lost probe for ever.
type patient struct{ *Breaker }

func (m patient) State(now time.Time) State {
	m.probeAt = now
	return m.Breaker.State(now)
}

// steady is a mutant whose pause does not grow.
type steady struct{ *Breaker }

func (m steady) Done(pass Pass, outcome Outcome, now time.Time) {
	m.tries = 0
	m.Breaker.Done(pass, outcome, now)
}

func TestJudgeCatchesMutants(t *testing.T) {
	for name, mutate := range map[string]func(*Breaker) subject{
		"sends two probes":      func(b *Breaker) subject { return twoProbes{b} },
		"never closes":          func(b *Breaker) subject { return neverCloses{b} },
		"counts stale results":  func(b *Breaker) subject { return countsStale{b} },
		"blames the client":     func(b *Breaker) subject { return blamesClients{b} },
		"praises the client":    func(b *Breaker) subject { return praisesClients{b} },
		"waits for ever":        func(b *Breaker) subject { return patient{b} },
		"pauses for ever equal": func(b *Breaker) subject { return steady{b} },
	} {
		caught := false
		for seed := range uint64(50) {
			caught = caught || judge(mutate(newBreaker(t, testSettings)), longActs(seed)) != nil
		}
		if !caught {
			t.Errorf("the mutant that %s passes for a breaker", name)
		}
	}
}

// fail makes one request that fails, and reports whether it passed.
func fail(b *Breaker, now time.Time) bool {
	pass, _, ok := b.Allow(now)
	if ok {
		b.Done(pass, Failure, now)
	}
	return ok
}

// Pauses double to the greatest, are drawn from the upper half, differ from seed
// to seed, and start over after a good time.
func TestPauses(t *testing.T) {
	run := func(seed uint64) (pauses []time.Duration) {
		b, err := New(Settings{ConsecutiveFailures: 1}, epoch, rand.New(rand.NewPCG(seed, 0)))
		if err != nil {
			t.Fatal(err)
		}
		now := epoch
		for range 9 {
			if !fail(b, now) {
				t.Fatalf("refused at %v, when the pause is over", now)
			}
			pauses = append(pauses, b.State(now).Wait)
			now = now.Add(b.State(now).Wait)
		}
		pass, _, _ := b.Allow(now)
		b.Done(pass, Success, now)
		fail(b, now.Add(30*time.Second-1))
		pauses = append(pauses, b.State(now.Add(30*time.Second-1)).Wait)
		now = now.Add(2 * time.Minute)
		pass, _, _ = b.Allow(now)
		b.Done(pass, Success, now)
		now = now.Add(30 * time.Second)
		fail(b, now)
		return append(pauses, b.State(now).Wait)
	}
	one, two := run(1), run(2)
	for i, ceiling := range []time.Duration{500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000, 30000, 500} {
		ceiling *= time.Millisecond
		if one[i] < ceiling/2 || one[i] > ceiling {
			t.Errorf("pause %d is %v, want between %v and %v", i, one[i], ceiling/2, ceiling)
		}
		if one[i] == two[i] {
			t.Errorf("pause %d is %v with both seeds", i, one[i])
		}
	}
	if diff := cmp.Diff(one, run(1)); diff != "" {
		t.Errorf("the same seed gives other pauses:\n%s", diff)
	}
}

// An error rate trips only from SamplesMin on, and only within the window.
func TestErrorRate(t *testing.T) {
	b := newBreaker(t, Settings{})
	end := func(outcome Outcome, at time.Time) {
		pass, _, ok := b.Allow(at)
		if !ok {
			t.Fatalf("refused at %v", at)
		}
		b.Done(pass, outcome, at)
	}
	for i := range 18 { // every other one fails: 50 % of 18
		end(Success+Outcome(i%2), epoch)
	}
	later := epoch.Add(10 * time.Second) // they have left the window
	for range 2 {
		end(Success, later)
		end(Failure, later)
	}
	if got := b.State(later); got.Mode != Closed || got.Samples != 4 || got.Failures != 2 {
		t.Errorf("with 4 samples in the window: %+v", got)
	}
	for i := range 16 {
		if got := b.State(later).Mode; got != Closed {
			t.Fatalf("%v with %d samples", got, 4+i)
		}
		end(Success+Outcome(i%2), later)
	}
	if got := b.State(later).Mode; got != Open {
		t.Errorf("%v with 10 failures of 20 samples, want open", got)
	}
}

// A pass is worth something once: a cancelled probe's says nothing any more.
func TestPassIsUsedUp(t *testing.T) {
	b := newBreaker(t, Settings{ConsecutiveFailures: 1})
	fail(b, epoch)
	now := epoch.Add(b.State(epoch).Wait)
	pass, _, _ := b.Allow(now)
	for _, outcome := range []Outcome{Cancelled, Success, Failure} {
		b.Done(pass, outcome, now)
		if got := b.State(now); got.Mode != HalfOpen || got.Probing {
			t.Errorf("outcome %d: %+v, want half open without a probe", outcome, got)
		}
	}
	if _, _, ok := b.Allow(now); !ok {
		t.Error("the next request is not the probe")
	}
}

// Whatever the interleaving, one request of many passes as the probe.
func TestOneProbeOfMany(t *testing.T) {
	b := newBreaker(t, Settings{ConsecutiveFailures: 1})
	now := epoch
	for range 100 {
		fail(b, now)
		now = now.Add(b.State(now).Wait)
		var passed atomic.Int64
		var probe atomic.Pointer[Pass]
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if pass, _, ok := b.Allow(now); ok {
					passed.Add(1)
					probe.Store(&pass)
				}
			})
		}
		all.Wait()
		if passed.Load() != 1 {
			t.Fatalf("%d probes at once", passed.Load())
		}
		b.Done(*probe.Load(), Success, now)
		if got := b.State(now).Mode; got != Closed {
			t.Fatalf("%v after the probe's success", got)
		}
	}
}

func TestSettingsErrors(t *testing.T) {
	for want, s := range map[string]Settings{
		"ConsecutiveFailures is -1":            {ConsecutiveFailures: -1},
		"ErrorPercent is 101":                  {ErrorPercent: 101},
		"SamplesMin is 1000001":                {SamplesMin: countMax + 1},
		"Window is 1µs":                        {Window: time.Microsecond},
		"OpenMax is 1h0m1s":                    {OpenMax: time.Hour + time.Second},
		"OpenMin is 31s, more than OpenMax, 3": {OpenMin: 31 * time.Second},
		"ProbeMax is -1ns":                     {ProbeMax: -1},
	} {
		if _, err := New(s, epoch, seeded()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%+v): error %v, want one with %q", s, err, want)
		}
	}
}

func TestModes(t *testing.T) {
	if got := fmt.Sprint(Closed, Open, HalfOpen); got != "closed open half-open" {
		t.Errorf("the modes are %q", got)
	}
}

func TestBreakerAllocatesNothing(t *testing.T) {
	b := newBreaker(t, Settings{})
	n := 0
	if got := testing.AllocsPerRun(1000, func() {
		n++
		pass, _, _ := b.Allow(epoch)
		b.Done(pass, Outcome(n%3), epoch)
		b.State(epoch)
	}); got != 0 {
		t.Errorf("a request allocates %v times, want 0", got)
	}
}

// BenchmarkBreaker is what one request costs that succeeds, by all processors at
// once.
func BenchmarkBreaker(b *testing.B) {
	breaker := newBreaker(b, Settings{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			now := epoch.Add(time.Duration(i) * time.Microsecond)
			pass, _, _ := breaker.Allow(now)
			breaker.Done(pass, Success, now)
		}
	})
}
