package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const candidateURL = "http://127.0.0.1:9001"

func step(do Action) Step {
	s := Step{Do: do}
	if do == Stage {
		s.Candidate = candidateURL
	}
	if do == Weigh {
		s.Weight = 5
	}
	return s
}

// Every step from every phase, by the holder.
func TestSteps(t *testing.T) {
	standing := map[Phase]Canary{
		Idle:      {Phase: Idle, Primary: "http://a"},
		Locked:    {Phase: Locked, Primary: "http://a", Holder: "ana"},
		Staged:    {Phase: Staged, Primary: "http://a", Holder: "ana", Candidate: "http://b", Release: 1},
		Releasing: {Phase: Releasing, Primary: "http://a", Holder: "ana", Candidate: "http://b", Release: 1, Weight: 50},
		All:       {Phase: All, Primary: "http://a", Holder: "ana", Candidate: "http://b", Release: 1, Weight: 100},
	}
	want := map[Action]map[Phase]Phase{
		Lock:     {Idle: Locked},
		Stage:    {Locked: Staged, Staged: Staged},
		Weigh:    {Staged: Releasing, Releasing: Releasing, All: Releasing},
		Complete: {Releasing: All},
		Unlock:   {Locked: Idle, Staged: Idle, All: Idle},
		Rollback: {Locked: Idle, Staged: Idle, Releasing: Idle, All: Idle},
		Reset:    {Idle: Idle},
	}
	for do, ends := range want {
		for phase, c := range standing {
			got, err := c.Next("ana", step(do), 7)
			if end, legal := ends[phase]; legal && (err != nil || got.Phase != end) {
				t.Errorf("%s from %s: %+v, %v, want %s", do, phase, got, err, end)
			} else if !legal && do == Lock && !errors.Is(err, ErrLocked) {
				t.Errorf("a second lock at %s: %v, want ErrLocked", phase, err)
			} else if !legal && do != Lock && !errors.Is(err, ErrStep) {
				t.Errorf("%s from %s: %v, want ErrStep", do, phase, err)
			}
		}
	}
	for _, do := range []Action{Stage, Weigh, Complete, Unlock} {
		for phase, c := range standing {
			if _, err := c.Next("bo", step(do), 7); !errors.Is(err, ErrStep) {
				t.Errorf("%s from %s by another: %v, want ErrStep", do, phase, err)
			}
		}
	}
}

// run takes steps by ana, each of which must be legal.
func run(t *testing.T, c Canary, steps ...Step) Canary {
	t.Helper()
	for _, s := range steps {
		var err error
		if c, err = c.Next("ana", s, 7); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestReleases(t *testing.T) {
	release := func(c Canary, to string) Canary {
		return run(t, c, step(Lock), Step{Do: Stage, Candidate: to}, step(Weigh), step(Complete), step(Unlock))
	}
	first := release(Canary{}, "http://b")
	if diff := cmp.Diff(Canary{Phase: Idle, Primary: "http://b", Released: true}, first); diff != "" {
		t.Errorf("after a release (-want +got):\n%s", diff)
	}
	second := release(first, "http://c")
	if diff := cmp.Diff(Canary{Phase: Idle, Primary: "http://c", Released: true, Previous: "http://b"}, second); diff != "" {
		t.Errorf("after two releases (-want +got):\n%s", diff)
	}
	back := run(t, second, Step{Do: Rollback, Reason: "slow"})
	if diff := cmp.Diff(Canary{Phase: Idle, Primary: "http://b", RolledBack: "slow"}, back); diff != "" {
		t.Errorf("after a rollback (-want +got):\n%s", diff)
	}
	if _, err := back.Next("ana", step(Rollback), 7); !errors.Is(err, ErrStep) {
		t.Errorf("a second rollback: %v, want ErrStep: it must not go back two releases", err)
	}
	canceled := run(t, second, step(Lock), step(Stage), step(Unlock))
	if diff := cmp.Diff(second, canceled); diff != "" {
		t.Errorf("after a release that never began (-want +got):\n%s", diff)
	}
	for _, steps := range [][]Action{{Lock}, {Lock, Stage}, {Lock, Stage, Weigh}, {Lock, Stage, Weigh, Complete}} {
		c := second
		for _, do := range steps {
			c = run(t, c, step(do))
		}
		c, err := c.Next("bo", step(Rollback), 7)
		if diff := cmp.Diff(Canary{Phase: Idle, Primary: "http://c", RolledBack: "by bo"}, c); err != nil || diff != "" {
			t.Errorf("rollback after %v by another (-want +got): %v\n%s", steps, err, diff)
		}
	}
	if got := run(t, second, step(Reset)); got != (Canary{Phase: Idle}) {
		t.Errorf("after a reset: %+v", got)
	}
}

func TestInvalidSteps(t *testing.T) {
	for _, s := range []Step{
		{}, {Do: "fly"}, {Do: Stage}, {Do: Stage, Candidate: "ftp://a"}, {Do: Stage, Candidate: "http://u:p@a"}, {Do: Stage, Candidate: "/a"},
		{Do: Stage, Candidate: "http://a?x"}, {Do: Stage, Candidate: "http://a/" + strings.Repeat("a", upstreamMax)},
		{Do: Weigh, Weight: -1}, {Do: Weigh, Weight: 100.5}, {Do: Weigh, Weight: math.NaN()},
		{Do: Weigh, Guard: &Guard{SamplesMin: -1}}, {Do: Weigh, Guard: &Guard{ErrorPoints: math.NaN()}},
		{Do: Rollback, Reason: strings.Repeat("x", reasonBytesMax+1)}, {Do: Rollback, Reason: "a\nb"},
	} {
		c := Canary{Phase: Staged, Holder: "ana"}
		if got, err := c.Next("ana", s, 1); !errors.Is(err, ErrInvalid) {
			t.Errorf("Next(%+v) = %+v, %v, want ErrInvalid", s, got, err)
		}
	}
}

// A canary's weight, over 10,000 subjects: the choice is by a hash, so the count has a binomial distribution about the
// weight, whose standard deviation is at most half a percent of all.
func TestWeightError(t *testing.T) {
	const subjects, salts = 10_000, 40
	for _, percent := range []float64{0, 0.01, 1, 5, 12.5, 50, 99, 100} {
		sum, squares, worst := 0.0, 0.0, 0.0
		for salt := range uint64(salts) {
			r := &Route{Canary: Canary{Release: salt + 1}, candidate: upstreamOf(candidateURL), toCandidate: shareOf(percent)}
			count := 0
			for i := range subjects {
				if r.Decide(time.Time{}, fmt.Sprintf("u_%d", i)).Side == SideCandidate {
					count++
				}
			}
			err := 100*float64(count)/subjects - percent
			sum, squares = sum+err, squares+err*err
			if salt < 10 {
				worst = max(worst, math.Abs(err))
			}
		}
		p := percent / 100
		deviation := 100 * math.Sqrt(p*(1-p)/subjects)
		if mean := math.Abs(sum / salts); mean > 4*deviation/math.Sqrt(salts) {
			t.Errorf("weight %v %%: off by %.3f points on average: biased", percent, mean)
		}
		if got := math.Sqrt(squares / salts); got > 1.5*deviation {
			t.Errorf("weight %v %%: standard deviation %.3f points, want %.3f", percent, got, deviation)
		}
		if worst > 1 {
			t.Errorf("weight %v %%: off by %.2f points, at most 1 is allowed", percent, worst)
		}
	}
}

// sticks says which subject left the candidate while its weight grew.
func sticks(choose func(salt uint64, percent float64, key string) bool, seed uint64) string {
	random := rand.New(rand.NewPCG(seed, 1))
	weights := []float64{0, 0.5, 1, 5, 10, 33.33, 50, 99.99, 100}
	for range 2000 {
		key, on := fmt.Sprintf("u_%d", random.Uint64()), false
		for _, w := range weights {
			now := choose(seed, w, key)
			if on && !now {
				return fmt.Sprintf("seed %d: %s left the candidate at %v %%", seed, key, w)
			}
			on = now
		}
		if !on {
			return fmt.Sprintf("seed %d: %s is not at the candidate at 100 %%", seed, key)
		}
	}
	return ""
}

func TestStickyWhileTheWeightGrows(t *testing.T) {
	right := func(salt uint64, percent float64, key string) bool { return shareOf(percent).takes(spread(salt, key)) }
	if got := sticks(right, 3); got != "" {
		t.Error(got)
	}
	dice := rand.New(rand.NewPCG(1, 1))
	for name, mutant := range map[string]func(salt uint64, percent float64, key string) bool{
		"salted by the weight": func(salt uint64, percent float64, key string) bool {
			return right(salt+uint64(percent*100), percent, key)
		},
		"by chance": func(_ uint64, percent float64, _ string) bool { return dice.Float64()*100 < percent },
	} {
		if sticks(mutant, 3) == "" {
			t.Errorf("the mutant %q was not caught", name)
		}
	}
	// Another release asks others first.
	a, b := 0, 0
	for i := range 10_000 {
		key := fmt.Sprintf("u_%d", i)
		if right(1, 10, key) {
			a++
			if right(2, 10, key) {
				b++
			}
		}
	}
	if share := float64(b) / float64(a); share < 0.05 || share > 0.15 {
		t.Errorf("of the candidate's subjects under one salt %.0f %% are under another, want 10 %%", 100*share)
	}
}

func TestSwitches(t *testing.T) {
	end := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		in, want Switch
		what     string
	}{
		{Switch{Mode: On, Expires: end, Body: "x"}, Switch{Mode: On}, "on"},
		{Switch{Mode: Off, Expires: end, Status: 4}, Switch{Mode: Off, Expires: end}, "off until 2026-01-01T00:00:00Z"},
		{Switch{Mode: Over}, Switch{Mode: Over}, "over"},
		{Switch{Mode: Over, Upstream: "http://b"}, Switch{Mode: Over, Upstream: "http://b"}, "over to http://b"},
		{Switch{Mode: Static, Status: 503, ContentType: "text/plain", Body: "later"},
			Switch{Mode: Static, Status: 503, ContentType: "text/plain", Body: "later"}, "static 503, 5 bytes of text/plain"},
	} {
		got, err := c.in.checked()
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" || got.what() != c.what {
			t.Errorf("%+v.checked() mismatch (-want +got): %v\n%s in words %q, want %q", c.in, err, diff, got.what(), c.what)
		}
	}
	for _, bad := range []Switch{
		{}, {Mode: "ON"}, {Mode: Over, Upstream: "b"}, {Mode: Static, Status: 199, ContentType: "text/plain"},
		{Mode: Static, Status: 600, ContentType: "text/plain"}, {Mode: Static, Status: 200},
		{Mode: Static, Status: 200, ContentType: "text/plain\r\nX: y"}, {Mode: Static, Status: 200, ContentType: "a", Body: "\xff"},
		{Mode: Static, Status: 200, ContentType: "a", Body: strings.Repeat("x", BodyBytesMax+1)},
		{Mode: Off, Expires: time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC)},
	} {
		if got, err := bad.checked(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.60v.checked() = %.60v, %v, want ErrInvalid", bad, got, err)
		}
	}
	s := Switch{Mode: Off, Expires: end}
	if got := []Mode{s.At(end.Add(-1)), s.At(end), s.At(end.Add(1)), Switch{}.At(end)}; !slices.Equal(got, []Mode{Off, On, On, On}) {
		t.Errorf("modes about the expiry: %v", got)
	}
}

// A route's decision follows from its three registers.
func TestDecide(t *testing.T) {
	now := time.Unix(1000, 0)
	route := func(c Canary, s Strangler, sw Switch) *Route {
		state := &State{}
		for kind, value := range map[Kind]any{KindCanary: c, KindStrangler: s, KindSwitch: sw} {
			state.Apply(Entry{Stamp: Stamp{1, 0, "n"}, Route: "r", Kind: kind, Value: encoded(value)})
		}
		return (&Table{}).with("r", state, now).Route("r")
	}
	on := Switch{Mode: On}
	at := func(phase Phase, percent float64) Canary {
		return Canary{Phase: phase, Holder: "ana", Primary: "http://p", Candidate: "http://c", Weight: percent, Release: 1}
	}
	for name, c := range map[string]struct {
		route    *Route
		mode     Mode
		side     Side
		upstream string
		shadow   string // "-": none
	}{
		"nothing":          {(&Table{}).Route("r"), On, SideOwn, "", "-"},
		"staged":           {route(at(Staged, 0), Strangler{}, on), On, SideOwn, "http://p", "-"},
		"canary at 0":      {route(at(Releasing, 0), Strangler{}, on), On, SideOwn, "http://p", "-"},
		"canary at 100":    {route(at(Releasing, 100), Strangler{}, on), On, SideCandidate, "http://c", "-"},
		"all":              {route(at(All, 100), Strangler{}, on), On, SideCandidate, "http://c", "-"},
		"off":              {route(at(All, 100), Strangler{}, Switch{Mode: Off}), Off, SideOwn, "", "-"},
		"off, expired":     {route(Canary{}, Strangler{}, Switch{Mode: Off, Expires: now}), On, SideOwn, "", "-"},
		"over":             {route(at(All, 100), Strangler{}, Switch{Mode: Over}), Over, SideFallback, "", "-"},
		"over to":          {route(Canary{}, Strangler{}, Switch{Mode: Over, Upstream: "http://f"}), Over, SideFallback, "http://f", "-"},
		"legacy":           {route(at(All, 100), Strangler{Legacy: "http://l", Salt: 1}, on), On, SideLegacy, "http://l", "-"},
		"legacy, shadowed": {route(at(All, 100), Strangler{Legacy: "http://l", Salt: 1, Shadow: true}, on), On, SideLegacy, "http://l", "http://c"},
		"new is the canary's": {route(at(All, 100), Strangler{Legacy: "http://l", Weight: 100, Salt: 1, Shadow: true}, on), On, SideCandidate,
			"http://c", "http://l"},
		"new of its own":              {route(at(All, 100), Strangler{Legacy: "http://l", New: "http://n", Weight: 100, Salt: 1}, on), On, SideNew, "http://n", "-"},
		"legacy, shadowed by the own": {route(Canary{}, Strangler{Legacy: "http://l", Salt: 1, Shadow: true}, on), On, SideLegacy, "http://l", ""},
		"a mode of a newer gateway":   {route(Canary{}, Strangler{}, Switch{Mode: "drain"}), On, SideOwn, "", "-"},
		"a phase of a newer gateway":  {route(at("paused", 100), Strangler{}, on), On, SideOwn, "", "-"},
	} {
		d := c.route.Decide(now, "u_1")
		upstream, shadow := "", "-"
		if d.Upstream != nil {
			upstream = d.Upstream.String()
		}
		if d.Shadowed {
			if shadow = ""; d.Shadow != nil {
				shadow = d.Shadow.String()
			}
		}
		if d.Mode != c.mode || d.Side != c.side || upstream != c.upstream || shadow != c.shadow {
			t.Errorf("%s: %s %q to %q, shadow %q; want %s %q to %q, shadow %q", name, d.Mode, d.Side, upstream, shadow, c.mode, c.side, c.upstream, c.shadow)
		}
	}
}

func encoded(value any) []byte {
	b, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return b
}

func TestDecideAllocatesNothing(t *testing.T) {
	r := &Route{Canary: Canary{Release: 1}, candidate: upstreamOf(candidateURL), toCandidate: shareOf(50), outcomes: newOutcomes(1, time.Time{}),
		Strangler: Strangler{Salt: 1, Shadow: true}, legacy: upstreamOf("http://l"), toNew: shareOf(50)}
	table := &Table{map[string]*Route{"r": r}}
	if got := testing.AllocsPerRun(100, func() {
		table.Route("r").Decide(time.Time{}, "u_01hzx3k5m7").Done(true, time.Millisecond)
	}); got != 0 {
		t.Errorf("%v allocations for a decision, want none", got)
	}
}

func TestWeightsRound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		percent := rapid.Float64Range(0, 100).Draw(t, "percent")
		if got := roundWeight(percent); math.Abs(got-percent) > 0.005001 || shareOf(got) != shareOf(percent) || checkWeight(got) != nil {
			t.Errorf("roundWeight(%v) = %v", percent, got)
		}
	})
	if got := formatWeight(12.5) + ", " + formatWeight(100) + ", " + formatWeight(0.011); got != "12.5 %, 100 %, 0.01 %" {
		t.Errorf("formatWeight: %s", got)
	}
}
