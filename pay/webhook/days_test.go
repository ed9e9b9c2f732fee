package webhook

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dongne/internal/sharedlog/enginetest"
	"dongne/internal/sharedlog/live"

	"github.com/google/go-cmp/cmp"
)

// always answers every event with a status.
func always(status int) func(http.ResponseWriter, *http.Request, string) {
	return func(w http.ResponseWriter, _ *http.Request, _ string) { w.WriteHeader(status) }
}

// after lets virtual time pass, and then everything that is ready happen.
func after(t *testing.T, d time.Duration) {
	pause(t.Context(), d)
	synctest.Wait()
}

// An endpoint that fails for three days is tried ten times, by the schedule, and then disabled with nothing left out: once
// enabled it gets everything, in order.
func TestRetriesOverDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, r := newOutbox(), newReceiver(always(500))
		config := Config{Engine: exclusive{enginetest.NewMemory()}, Source: source, AllowPrivate: true, Transport: inProcess{"a.example": r}}
		h := open(t, seeded(config, 1))
		e := create(t, h, "k", "http://a.example/")
		want := source.add(40, "t")
		after(t, 5*24*time.Hour)
		arrivals := r.all()
		if len(arrivals) != len(schedule)+1 {
			t.Fatalf("%d attempts, want %d", len(arrivals), len(schedule)+1)
		}
		for i, d := range schedule {
			gap := arrivals[i+1].At.Sub(arrivals[i].At)
			if low, high := d*79/100, d*121/100+leaseInterval; gap < low || gap > high {
				t.Errorf("attempt %d came %v after the one before, want %v to %v", i+2, gap, low, high)
			}
			if arrivals[i].Timestamp == arrivals[i+1].Timestamp || arrivals[i].ID != arrivals[i+1].ID {
				t.Errorf("attempts %d and %d: %+v, %+v; want the same event at another time", i, i+1, arrivals[i], arrivals[i+1])
			}
		}
		got := h.List("")[0]
		if got.Status != StatusDisabled || got.DisabledReason != "10 attempts in a row failed" || !got.NextAttemptAt.IsZero() ||
			got.LastFailure.Status != 500 || got.LastFailure.Error != "answered 500" {
			t.Errorf("after three days: %+v, %+v", got, got.LastFailure)
		}
		r.answer = nil
		if err := h.Enable(t.Context(), "ann", e.ID); err != nil {
			t.Fatal(err)
		}
		after(t, time.Minute)
		for _, problem := range broken(want, r.all()) {
			t.Error(problem)
		}
		if got := h.List("")[0]; got.Status != StatusEnabled || got.Failures != 0 || got.LastEventID != want[39] {
			t.Errorf("after Enable: %+v", got)
		}
	})
}

// The attempts survive the process: a new one does not begin to count anew, nor tries sooner.
func TestRetriesSurviveRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, r, engine := newOutbox(), newReceiver(always(503)), exclusive{enginetest.NewMemory()}
		config := seeded(Config{Engine: engine, Source: source, AllowPrivate: true, Transport: inProcess{"a.example": r}}, 2)
		h, err := Open(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		create(t, h, "k", "http://a.example/")
		source.add(1, "t")
		for range 5 * 24 {
			after(t, time.Hour)
			kill(h)
			if h, err = Open(t.Context(), config); err != nil {
				t.Fatal(err)
			}
		}
		defer h.Close()
		if n := len(r.all()); n != len(schedule)+1 {
			t.Errorf("%d attempts, want %d", n, len(schedule)+1)
		}
		if got := h.List("")[0]; got.Status != StatusDisabled {
			t.Errorf("after five days: %+v", got)
		}
	})
}

// 410 disables at once; so does an outbox that no longer holds the next event.
func TestDisabledAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, gone, fine := newOutbox(), newReceiver(always(http.StatusGone)), newReceiver(nil)
		transport := inProcess{"gone.example": gone, "fine.example": fine}
		h := open(t, seeded(Config{Engine: enginetest.NewMemory(), Source: source, AllowPrivate: true, Transport: transport}, 3))
		create(t, h, "k1", "http://gone.example/")
		create(t, h, "k2", "http://fine.example/")
		source.add(5, "t")
		after(t, 0)
		for i, want := range []string{"answered 410 Gone", ""} {
			if got := h.List("")[i]; got.DisabledReason != want {
				t.Errorf("%s is disabled for %q, want %q", got.URL, got.DisabledReason, want)
			}
		}
		source.change(func() { source.broken = true })
		after(t, time.Minute)
		source.change(func() {
			source.broken = false
			source.events = append(source.events, source.events...)
			source.trimmed = 9
		})
		after(t, time.Minute)
		if n := len(gone.all()); n != 1 {
			t.Errorf("%d attempts after 410, want 1 in all", n)
		}
		if got := h.List("")[1]; got.Status != StatusDisabled || got.Failures != 0 {
			t.Errorf("with the next event gone: %+v", got)
		}
	})
}

// An endpoint that answers nothing delays no other, costs one request under way, and is cut off after 15 s. Ending it by
// Close does not count against it.
func TestSlowEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := func(_ http.ResponseWriter, q *http.Request, _ string) { <-q.Context().Done() }
		source, slow, quick := newOutbox(), newReceiver(hung), newReceiver(nil)
		transport := inProcess{"slow.example": slow, "quick.example": quick}
		engine := enginetest.NewMemory()
		h := open(t, seeded(Config{Engine: engine, Source: source, AllowPrivate: true, Transport: transport}, 4))
		create(t, h, "k1", "http://slow.example/")
		create(t, h, "k2", "http://quick.example/")
		want := source.add(100, "t")
		after(t, 0)
		for _, problem := range broken(want, quick.all()) {
			t.Error(problem)
		}
		after(t, attemptTimeout+time.Second)
		got := h.List("")[0]
		if got.Failures != 1 || got.LastFailure.Error != "no answer within 15s" || got.LastFailure.Status != 0 {
			t.Errorf("the slow one: %+v, %+v", got, got.LastFailure)
		}
		after(t, 10*time.Second) // the second attempt is under way
		if n := len(slow.all()); n != 1 {
			t.Errorf("%d requests ended, want 1", n)
		}
		h.Close()
		again := open(t, seeded(Config{Engine: engine, Source: source, AllowPrivate: true, Transport: transport}, 5))
		if got := again.List("")[0]; got.Failures != 1 {
			t.Errorf("after Close: %+v", got)
		}
	})
}

// What is recorded costs about one slot a second, however many events there are, and nothing when there are none.
func TestRecordsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, r, engine := newOutbox(), newReceiver(nil), enginetest.NewMemory()
		config := Config{Engine: exclusive{engine}, Source: source, AllowPrivate: true, Transport: inProcess{"a.example": r}}
		h := open(t, seeded(config, 6))
		create(t, h, "k", "http://a.example/")
		after(t, time.Hour)
		if n := slots(t, engine); n != 2 { // the registration and the lease
			t.Errorf("%d slots after an idle hour, want 2", n)
		}
		for range 600 { // a minute of ten events a second
			source.add(1, "t")
			after(t, 100*time.Millisecond)
		}
		if n := slots(t, engine) - 2; n < 50 || n > 65 {
			t.Errorf("%d slots in a minute, want about 60", n)
		}
		if n := len(r.all()); n != 600 {
			t.Errorf("%d requests for 600 events", n)
		}
	})
}

// One of several processes delivers; when it ends the next takes over, at once after an orderly end.
func TestHandover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, r, engine := newOutbox(), newReceiver(nil), enginetest.NewMemory()
		config := func(seed uint64) Config {
			return seeded(Config{Engine: engine, Source: source, AllowPrivate: true, Transport: inProcess{"a.example": r}}, seed)
		}
		a := open(t, config(1))
		create(t, a, "k", "http://a.example/")
		after(t, time.Second)
		b, c := open(t, config(2)), open(t, config(3))
		leaders := func() (n int) {
			for _, h := range []*Hooks{a, b, c} {
				if h.leads() {
					n++
				}
			}
			return n
		}
		want := source.add(10, "t")
		after(t, 5*time.Second)
		if got := c.List("")[0]; !a.leads() || leaders() != 1 || got.LastEventID != want[9] {
			t.Errorf("a leads: %v, %d lead; seen from c: %+v", a.leads(), leaders(), got)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		want = append(want, source.add(10, "t")...)
		after(t, 2*pollInterval)
		if n := len(r.all()); leaders() != 1 || n != 20 {
			t.Errorf("after an orderly end: %d lead, %d requests, want 20", leaders(), n)
		}
		first, second := b, c
		if c.leads() {
			first, second = c, b
		}
		kill(first)
		want = append(want, source.add(10, "t")...)
		after(t, leaseTTL+2*pollInterval)
		if !second.leads() {
			t.Error("nobody took over")
		}
		for _, problem := range broken(want, r.all()) {
			t.Error(problem)
		}
	})
}

// A process that was cut off from the log beyond its lease goes on delivering by a clock that lags: what it then records is
// void, nothing is lost, and once it reads the log it stops.
func TestDeposedProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, r, engine := newOutbox(), newReceiver(nil), enginetest.NewMemory()
		config := func(e live.Engine, seed uint64) Config {
			return seeded(Config{Engine: e, Source: source, AllowPrivate: true, Transport: inProcess{"a.example": r}}, seed)
		}
		var link gate
		cut := engine.Another()
		cut.OnCreate, cut.OnGet = link.pass, link.pass
		start := time.Now()
		slow := config(cut, 1)
		slow.Now = func() time.Time { return start.Add(time.Since(start) / 100) }
		a := open(t, slow)
		create(t, a, "k", "http://a.example/")
		want := source.add(10, "t")
		after(t, 3*time.Second)
		release := link.close()
		b := open(t, config(engine, 2))
		after(t, 2*leaseTTL)
		want = append(want, source.add(10, "t")...)
		after(t, 5*time.Second)
		if !a.leads() || !b.leads() {
			t.Fatalf("a leads: %v, b leads: %v; want both to believe it", a.leads(), b.leads())
		}
		if n := len(r.all()); n < 30 {
			t.Errorf("%d requests, want every one of the last ten events twice", n)
		}
		release()
		after(t, time.Minute)
		if a.leads() || !b.leads() || a.lost.Load() == 0 {
			t.Errorf("after the cut: a leads: %v, b leads: %v, voided %d", a.leads(), b.leads(), a.lost.Load())
		}
		want = append(want, source.add(10, "t")...)
		after(t, time.Minute)
		for _, problem := range broken(want, r.all()) {
			t.Error(problem)
		}
		if n := len(r.all()); n > 50 {
			t.Errorf("%d requests for 30 events", n)
		}
	})
}

type transportWrapper func(http.RoundTripper) http.RoundTripper

// dice are a source of randomness for several goroutines.
type dice struct {
	mu  sync.Mutex
	rng *rand.Rand
}

func newDice(seed, stream uint64) *dice { return &dice{rng: rand.New(rand.NewPCG(seed, stream))} }

func (d *dice) roll(sides int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.IntN(sides)
}

// chaos is one random run: endpoints that fail and hang, processes that are killed and started, and a log they share, whose
// answers get lost. It returns what each endpoint should have got, and what it saw. wrap may put a mutant into the transport.
func chaos(t *testing.T, seed uint64, wrap transportWrapper) (want [2][]string, receivers [2]*receiver) {
	rng := rand.New(rand.NewPCG(seed, 7))
	source, log, transport := newOutbox(), enginetest.NewMemory(), inProcess{}
	var healed atomic.Bool
	for i := range receivers {
		trouble := newDice(seed, uint64(i))
		receivers[i] = newReceiver(func(w http.ResponseWriter, q *http.Request, _ string) {
			switch n := trouble.roll(10); {
			case healed.Load() || n < 7:
				w.WriteHeader(http.StatusNoContent)
			case n == 7:
				<-q.Context().Done() // what it says then reaches nobody
				w.WriteHeader(http.StatusBadGateway)
			default:
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
		transport[fmt.Sprint(i, ".example")] = receivers[i]
	}
	start := func(n uint64) *Hooks {
		var opened atomic.Bool // opening is the caller's to try again
		engine, trouble := log.Another(), newDice(seed, 100+n)
		lose := func(uint64) error {
			if opened.Load() && !healed.Load() && trouble.roll(8) == 0 {
				return errors.New("no answer")
			}
			return nil
		}
		engine.OnCreate, engine.OnCreated, engine.OnGet = lose, lose, lose
		config := Config{Engine: engine, Source: source, AllowPrivate: true, Transport: wrap(transport)}
		h, err := Open(t.Context(), seeded(config, seed<<8+n))
		if err != nil {
			t.Fatal(err)
		}
		opened.Store(true)
		return h
	}
	processes := []*Hooks{start(0), start(1)}
	ids := []string{
		create(t, processes[0], "k0", "http://0.example/").ID,
		create(t, processes[0], "k1", "http://1.example/", "b.*").ID,
	}
	for step := range uint64(30) {
		added := source.add(1+rng.IntN(8), []string{"a.x", "b.x"}[step%2])
		want[0] = append(want[0], added...)
		if step%2 == 1 {
			want[1] = append(want[1], added...)
		}
		after(t, time.Duration(rng.Int64N(int64(6*time.Minute))))
		if i := rng.IntN(6); i < len(processes) {
			if rng.IntN(2) == 0 {
				kill(processes[i])
			} else {
				processes[i].Close() // its last words may get lost, which the error says
			}
			processes[i] = start(2 + step)
		}
	}
	healed.Store(true)
	for i, id := range ids {
		if err := processes[i].Enable(t.Context(), "ann", id); err != nil {
			t.Error(err)
		}
	}
	after(t, 10*time.Minute)
	for _, h := range processes {
		h.Close()
	}
	return want, receivers
}

// judge returns how a random run broke the promise.
func judge(t *testing.T, seed uint64, wrap transportWrapper) (problems []string) {
	synctest.Test(t, func(t *testing.T) {
		want, receivers := chaos(t, seed, wrap)
		for i, r := range receivers {
			problems = append(problems, broken(want[i], r.all())...)
		}
	})
	return problems
}

// skipping is a mutant of the delivery: a failed event counts as delivered.
type skipping struct{ http.RoundTripper }

func (s skipping) RoundTrip(q *http.Request) (*http.Response, error) {
	response, err := s.RoundTripper.RoundTrip(q)
	if err == nil && response.StatusCode/100 == 5 {
		response.StatusCode = http.StatusOK
	}
	return response, err
}

// seedsMax bounds what DONGNE_SEEDS wants: a seed takes a tenth of a second.
const seedsMax = 500

// DONGNE_SEEDS sets how many random runs are made.
func TestPromiseHolds(t *testing.T) {
	seeds, err := strconv.ParseUint(os.Getenv("DONGNE_SEEDS"), 10, 32)
	if err != nil {
		seeds = 30
	}
	honest := func(r http.RoundTripper) http.RoundTripper { return r }
	for seed := range min(seeds, seedsMax) {
		if diff := cmp.Diff([]string(nil), judge(t, seed, honest)); diff != "" {
			t.Errorf("seed %d (-want +got):\n%s", seed, diff)
		}
	}
	for seed := range uint64(3) {
		if judge(t, seed, func(r http.RoundTripper) http.RoundTripper { return skipping{r} }) == nil {
			t.Errorf("seed %d: the mutant that skips an event on failure was not caught", seed)
		}
	}
}
