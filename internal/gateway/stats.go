package gateway

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// stats are what the status page shows of a route since the start. The zero value is ready.
type stats struct {
	requests [6]atomic.Uint64 // by the first digit of the status
	limited  atomic.Uint64    // refused by a rate
	retried  atomic.Uint64
	broken   atomic.Uint64 // refused by a breaker
	latency  [latencySteps]atomic.Uint64
}

// latencySteps are four for each doubling of microseconds: the error of a quantile is less than a fifth.
const latencySteps = 4 * 32

func latencyStep(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 4))
	octave := bits.Len64(us) - 1
	return min(4*(octave-2)+int(us>>(octave-2)&3), latencySteps-1)
}

func (s *stats) add(status int, d time.Duration) {
	s.requests[min(max(status/100, 0), 5)].Add(1)
	s.latency[latencyStep(d)].Add(1)
}

// A Snapshot is what a route has done since the start.
type Snapshot struct {
	Requests uint64  `json:"requests"`
	Errors   uint64  `json:"errors"` // answers of 500 and more
	Limited  uint64  `json:"limited"`
	Retried  uint64  `json:"retried"`
	Broken   uint64  `json:"broken"`
	MedianMS float64 `json:"median_ms"`
	P99MS    float64 `json:"p99_ms"`
}

func (s *stats) snapshot() Snapshot {
	var n Snapshot
	for class := range s.requests {
		n.Requests += s.requests[class].Load()
	}
	n.Errors = s.requests[5].Load()
	n.Limited, n.Retried, n.Broken = s.limited.Load(), s.retried.Load(), s.broken.Load()
	n.MedianMS, n.P99MS = s.quantile(0.5), s.quantile(0.99)
	return n
}

// quantile is in milliseconds.
func (s *stats) quantile(q float64) float64 {
	var counts [latencySteps]uint64
	total := uint64(0)
	for i := range counts {
		counts[i] = s.latency[i].Load()
		total += counts[i]
	}
	left := uint64(q*float64(total)) + 1
	for i, n := range counts {
		if left <= n {
			octave := i/4 + 2
			return float64(uint64(4+i%4+1)<<(octave-2)) / 1000
		}
		left -= n
	}
	return 0
}
