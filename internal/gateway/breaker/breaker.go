// Package breaker keeps requests from an upstream that does not answer them
// (Michael Nygard, "Release It!", 2007). It is pure: the time is an argument, the
// jitter is drawn from a given source, and nothing runs by itself. A Breaker is
// safe for concurrent use and allocates nothing.
//
// Closed, it lets everything pass and counts what became of it. It trips when a
// number of requests in a row have failed, or when a percentage of at least so
// many within the window has. Open, it refuses everything for a pause. After that
// it is half open: the next request passes, as the probe, and no other until the
// probe is done. Its success closes the breaker with a clean slate, its failure
// opens it again, and a cancelled probe leaves the place to the next request. A
// probe of which nothing is heard for ProbeMax counts as failed, so that a lost
// one does not keep the upstream out for good.
//
// A pause is drawn between half a ceiling and the ceiling, which doubles with
// every trip from OpenMin to OpenMax, and starts over once the breaker has been
// closed for OpenMax.
//
// What became of a request counts only in the period in which it began: one that
// started before a trip says nothing about the upstream after it, neither as a
// failure nor as a success. A request that the client cancelled is neither at any
// time; had it failed before the client left, it is the caller's to say so.
package breaker

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Settings say when a Breaker trips and for how long. The zero value of a field
// means its default.
type Settings struct {
	ConsecutiveFailures int           // trip; default 5
	ErrorPercent        int           // trips if at least this part of SamplesMin or more failed; default 50
	SamplesMin          int           // default 20
	Window              time.Duration // of the samples, 1 ms to 1 h; slides in ten steps; default 10 s
	OpenMin             time.Duration // ceiling of the first pause, from 1 ms; default 500 ms
	OpenMax             time.Duration // ceiling of every later one, up to 1 h; default 30 s
	ProbeMax            time.Duration // 1 ms to 1 h; default 1 min
}

const (
	countMax = 1_000_000
	windows  = 10 // steps in which the window slides
)

// filled returns the settings with their defaults, or what is wrong with them.
func (s Settings) filled() (Settings, error) {
	for _, n := range []struct {
		name            string
		field           *int
		preset, highest int
	}{
		{"ConsecutiveFailures", &s.ConsecutiveFailures, 5, countMax},
		{"ErrorPercent", &s.ErrorPercent, 50, 100},
		{"SamplesMin", &s.SamplesMin, 20, countMax},
	} {
		if *n.field == 0 {
			*n.field = n.preset
		}
		if *n.field < 1 || *n.field > n.highest {
			return s, fmt.Errorf("breaker: %s is %d, want 1 to %d", n.name, *n.field, n.highest)
		}
	}
	for _, d := range []struct {
		name   string
		field  *time.Duration
		preset time.Duration
	}{
		{"Window", &s.Window, 10 * time.Second},
		{"OpenMin", &s.OpenMin, 500 * time.Millisecond},
		{"OpenMax", &s.OpenMax, 30 * time.Second},
		{"ProbeMax", &s.ProbeMax, time.Minute},
	} {
		if *d.field == 0 {
			*d.field = d.preset
		}
		if *d.field < time.Millisecond || *d.field > time.Hour {
			return s, fmt.Errorf("breaker: %s is %v, want 1ms to 1h", d.name, *d.field)
		}
	}
	if s.OpenMin > s.OpenMax {
		return s, fmt.Errorf("breaker: OpenMin is %v, more than OpenMax, %v", s.OpenMin, s.OpenMax)
	}
	return s, nil
}

// An Outcome is what became of a request that passed.
type Outcome uint8

// The outcomes. Which answers are a Failure, say 502, 503, 504 and a broken
// connection, is the caller's choice.
const (
	Cancelled Outcome = iota // by the client: says nothing of the upstream
	Success
	Failure
)

// A Mode is a breaker's state.
type Mode uint8

// The modes, as String and the metrics have them.
const (
	Closed Mode = iota
	Open
	HalfOpen
)

// String returns "closed", "open" or "half-open".
func (m Mode) String() string { return [...]string{"closed", "open", "half-open"}[m] }

// A Pass is the leave for one request. It must be given back to Done, once.
type Pass struct{ period uint64 }

// A Breaker stands before one upstream. Make one with New.
type Breaker struct {
	settings Settings
	start    time.Time

	mu       sync.Mutex
	rng      *rand.Rand // guarded by mu, as is everything below
	mode     Mode
	period   uint64    // counts the periods in which a Pass is worth something
	since    time.Time // of the mode
	until    time.Time // when open: the end of the pause
	probing  bool      // when half open: since probeAt
	probeAt  time.Time
	tries    int // trips since the pause started over
	inARow   int // failures
	slot     int64
	samples  [windows]int64 // by slot modulo windows
	failures [windows]int64
	trips    uint64
	refused  uint64
}

// New returns a closed Breaker that draws its jitter from rng, which nobody else
// may use. start is any time not after the first request's, of the same clock;
// times should carry Go's monotonic reading, as time.Now's do.
func New(settings Settings, start time.Time, rng *rand.Rand) (*Breaker, error) {
	settings, err := settings.filled()
	if err != nil {
		return nil, err
	}
	return &Breaker{settings: settings, start: start, since: start, rng: rng, period: 1}, nil
}

// Allow asks for a pass at now. Without one the request is refused, and wait,
// which is positive, is the time until the pause ends or, when a probe is under
// way, until it would be given up.
func (b *Breaker) Allow(now time.Time) (pass Pass, wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance(now)
	switch {
	case b.mode == Open:
		b.refused++
		return Pass{}, b.until.Sub(now), false
	case b.mode == HalfOpen && b.probing:
		b.refused++
		return Pass{}, b.probeAt.Add(b.settings.ProbeMax).Sub(now), false
	case b.mode == HalfOpen:
		b.probing, b.probeAt = true, now
	}
	return Pass{b.period}, 0, true
}

// Done says at now what became of a pass's request. It counts if the breaker has
// not tripped or closed since.
func (b *Breaker) Done(pass Pass, outcome Outcome, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance(now)
	if pass.period != b.period { // a period that is open has no passes
		return
	}
	switch {
	case b.mode == HalfOpen && outcome == Success:
		b.turn(Closed, now)
	case b.mode == HalfOpen && outcome == Failure:
		b.trip(now)
	case b.mode == HalfOpen:
		b.probing = false
		b.period++ // the pass is used up
	case outcome != Cancelled:
		b.count(outcome == Failure, now)
	}
}

// advance does what time alone does, as of when it was due: it gives up a probe,
// and ends a pause. The caller holds mu.
func (b *Breaker) advance(now time.Time) {
	if due := b.probeAt.Add(b.settings.ProbeMax); b.mode == HalfOpen && b.probing && !now.Before(due) {
		b.trip(due)
	}
	if b.mode == Open && !now.Before(b.until) {
		b.turn(HalfOpen, b.until)
	}
}

// count adds a sample, and trips if it is the one too many. The caller holds mu.
func (b *Breaker) count(failed bool, now time.Time) {
	b.slide(now)
	b.samples[b.slot%windows]++
	b.inARow++
	if failed {
		b.failures[b.slot%windows]++
	} else {
		b.inARow = 0
	}
	samples, failures := sum(b.samples), sum(b.failures)
	often := samples >= int64(b.settings.SamplesMin) && failures*100 >= samples*int64(b.settings.ErrorPercent)
	if b.inARow >= b.settings.ConsecutiveFailures || often {
		b.trip(now)
	}
}

// trip opens the breaker for a pause. The caller holds mu.
func (b *Breaker) trip(now time.Time) {
	if b.mode == Closed && now.Sub(b.since) >= b.settings.OpenMax {
		b.tries = 0
	}
	ceiling := b.settings.OpenMin
	for range b.tries {
		ceiling = min(2*ceiling, b.settings.OpenMax)
	}
	if ceiling < b.settings.OpenMax {
		b.tries++ // no further: the ceiling is reached
	}
	half := ceiling / 2
	b.until = now.Add(half + time.Duration(b.rng.Int64N(int64(ceiling-half)+1)))
	b.trips++
	b.turn(Open, now)
}

// turn begins a mode, and with it a period. The caller holds mu.
func (b *Breaker) turn(mode Mode, now time.Time) {
	b.mode, b.since = mode, now
	b.period++
	b.probing = false
	b.inARow = 0
	b.samples, b.failures = [windows]int64{}, [windows]int64{}
}

// slide forgets the steps that the window has left behind. A time before the
// current step belongs to it: callers that raced for the lock arrive out of
// order. The caller holds mu.
func (b *Breaker) slide(now time.Time) {
	slot := int64(now.Sub(b.start) / (b.settings.Window / windows))
	for i := max(b.slot+1, slot-windows+1); i <= slot; i++ {
		b.samples[i%windows], b.failures[i%windows] = 0, 0
	}
	b.slot = max(b.slot, slot)
}

func sum(slots [windows]int64) (total int64) {
	for _, n := range slots {
		total += n
	}
	return total
}

// A State is what the status page and the metrics show.
type State struct {
	Mode     Mode
	Since    time.Time     // of the mode
	Wait     time.Duration // when open: until the pause ends
	Probing  bool          // when half open: whether the probe is under way
	InARow   int           // failures, when closed
	Samples  int64         // in the window, when closed
	Failures int64         // of those
	Trips    uint64        // ever
	Refused  uint64        // requests ever
}

// State describes the breaker at now.
func (b *Breaker) State(now time.Time) State {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance(now)
	b.slide(now)
	s := State{
		Mode: b.mode, Since: b.since, Probing: b.probing, InARow: b.inARow,
		Samples: sum(b.samples), Failures: sum(b.failures), Trips: b.trips, Refused: b.refused,
	}
	if b.mode == Open {
		s.Wait = b.until.Sub(now)
	}
	return s
}
