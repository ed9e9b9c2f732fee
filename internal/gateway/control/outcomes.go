package control

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	outcomeShards = 8 // so that cores seldom write to one cache line at once
	// outcomeWindow is how much of the past is judged at least, if it holds enough answers; and twice as much at most.
	outcomeWindow = 30 * time.Second
)

// Sides of a release.
const (
	primarySide = iota
	candidateSide
	sides
)

// outcomes counts what became of the requests of one release. Counters only grow, so that a request costs two atomic
// additions at most; whoever judges subtracts what stood there earlier.
type outcomes struct {
	release uint64
	shards  [outcomeShards]outcomeShard

	mu sync.Mutex
	// marks are what the counters held at two times, the older first: the window begins at the older.
	marks [2]mark
}

type outcomeShard struct {
	sides [sides]struct {
		errors  atomic.Uint64
		latency [latencyBuckets]atomic.Uint64
	}
	_ [64]byte
}

type mark struct {
	at    time.Time
	sides [sides]sample
}

func newOutcomes(release uint64, now time.Time) *outcomes {
	return &outcomes{release: release, marks: [2]mark{{at: now}, {at: now}}}
}

func (o *outcomes) add(place uint64, side int, failed bool, latency time.Duration) {
	counts := &o.shards[place%outcomeShards].sides[side]
	counts.latency[latencyBucket(latency)].Add(1)
	if failed {
		counts.errors.Add(1)
	}
}

func (o *outcomes) total() (t [sides]sample) {
	for i := range o.shards {
		for side := range t {
			counts := &o.shards[i].sides[side]
			t[side].errors += counts.errors.Load()
			for b := range counts.latency {
				t[side].latency[b] += counts.latency[b].Load()
			}
		}
	}
	return t
}

// window returns what both sides did of late. A window with too few answers to judge by goes on until it has enough.
func (o *outcomes) window(now time.Time, samplesMin uint64) [sides]sample {
	total := o.total()
	o.mu.Lock()
	defer o.mu.Unlock()
	newer := &o.marks[1]
	enough := true
	for side := range total {
		enough = enough && total[side].requests()-newer.sides[side].requests() >= samplesMin
	}
	if enough && now.Sub(newer.at) >= outcomeWindow {
		o.marks[0] = *newer
		*newer = mark{now, total}
	}
	w := total
	for side := range w {
		w[side].less(&o.marks[0].sides[side])
	}
	return w
}

// Counts is what one side of a release did lately.
type Counts struct {
	Requests uint64  `json:"requests"`
	Errors   uint64  `json:"errors"`
	Slow     float64 `json:"slow_ms"` // milliseconds; a tenth took longer, to a fifth of it
}

func (s *sample) counts() Counts {
	return Counts{s.requests(), s.errors, float64(s.quantile(guardQuantile)) / float64(time.Millisecond)}
}
