package control

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"time"
)

// Defaults of a Guard.
const (
	guardSamplesMin    = 100
	guardErrorPoints   = 2
	guardLatencyFactor = 1.5
	guardLatencyMore   = 20 // milliseconds
)

const (
	guardSamplesMax = 1_000_000
	// guardDeviations is how unlikely a difference of error rates must be before it counts: three standard deviations
	// of what chance makes. It is looked at every second, so chance gets many tries.
	guardDeviations = 3
	guardQuantile   = 0.9 // of the latencies that are compared
)

// A Guard says when a candidate is so much worse than the primary that the release is rolled back. Zero fields take the
// defaults.
type Guard struct {
	Off        bool `json:"off,omitempty"`         // never
	SamplesMin int  `json:"samples_min,omitempty"` // answers of either side before anything is said; 100
	// ErrorPoints is how many percentage points more of the candidate's requests may fail than of the primary's; 2.
	ErrorPoints float64 `json:"error_points,omitempty"`
	// The candidate's slowest tenth may take LatencyFactor times (1.5) as long as the primary's, and LatencyMore
	// milliseconds (20) longer, whichever is more.
	LatencyFactor float64 `json:"latency_factor,omitempty"`
	LatencyMore   float64 `json:"latency_more_ms,omitempty"`
}

func (g Guard) check() error {
	for name, v := range map[string]float64{"samples_min": float64(g.SamplesMin), "error_points": g.ErrorPoints,
		"latency_factor": g.LatencyFactor, "latency_more_ms": g.LatencyMore} {
		if !(v >= 0 && v <= guardSamplesMax) { // also of NaN
			return fmt.Errorf("%w: guard: %s %v is not from 0 to %d", ErrInvalid, name, v, guardSamplesMax)
		}
	}
	return nil
}

func (g Guard) withDefaults() Guard {
	g.SamplesMin = cmp.Or(g.SamplesMin, guardSamplesMin)
	g.ErrorPoints = cmp.Or(g.ErrorPoints, guardErrorPoints)
	g.LatencyFactor = cmp.Or(g.LatencyFactor, guardLatencyFactor)
	g.LatencyMore = cmp.Or(g.LatencyMore, guardLatencyMore)
	return g
}

// judge returns why the candidate is to be rolled back; "": it is not.
func (g Guard) judge(primary, candidate *sample) string {
	g = g.withDefaults()
	p, c := primary.requests(), candidate.requests()
	if g.Off || min(p, c) < uint64(g.SamplesMin) {
		return ""
	}
	np, nc := float64(p), float64(c)
	rateP, rateC := float64(primary.errors)/np, float64(candidate.errors)/nc
	pooled := float64(primary.errors+candidate.errors) / (np + nc)
	chance := math.Sqrt(pooled * (1 - pooled) * (1/np + 1/nc)) // standard deviation of the difference, were both alike
	if more := rateC - rateP; more > g.ErrorPoints/100 && more > guardDeviations*chance {
		return fmt.Sprintf("%.1f %% of the candidate's %d requests failed, %.1f %% of the primary's %d",
			100*rateC, c, 100*rateP, p)
	}
	slowP, slowC := primary.quantile(guardQuantile), candidate.quantile(guardQuantile)
	limit := max(float64(slowP)*g.LatencyFactor, float64(slowP)+g.LatencyMore*float64(time.Millisecond))
	if float64(slowC) > limit {
		return fmt.Sprintf("a tenth of the candidate's %d requests took more than %v, of the primary's %d more than %v",
			c, slowC, p, slowP)
	}
	return ""
}

// Latencies are counted in buckets: four to each doubling of microseconds, from 1 µs to some 4 minutes.
const (
	latencyParts   = 4
	latencyOctaves = 27
	latencyBuckets = latencyParts * latencyOctaves
)

// latencyBucket returns the bucket of a latency.
func latencyBucket(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 0))
	if us < latencyParts {
		return int(us)
	}
	octave := bits.Len64(us) - 1 // at least 2
	part := us >> (octave - 2) & (latencyParts - 1)
	return min((octave-1)*latencyParts+int(part), latencyBuckets-1)
}

// latencyEnd returns the least latency above a bucket.
func latencyEnd(bucket int) time.Duration {
	bucket++
	if bucket < latencyParts {
		return time.Duration(bucket) * time.Microsecond
	}
	octave, part := bucket/latencyParts+1, bucket%latencyParts
	return time.Duration(latencyParts+part) << (octave - 2) * time.Microsecond
}

// A sample is what one side did in some time.
type sample struct {
	errors  uint64
	latency [latencyBuckets]uint64
}

func (s *sample) requests() (n uint64) {
	for _, count := range s.latency {
		n += count
	}
	return n
}

// quantile returns a latency that so much of the sample stayed below, to a fifth of it.
func (s *sample) quantile(q float64) time.Duration {
	left := uint64(math.Ceil(q * float64(s.requests())))
	for bucket, count := range s.latency {
		if left <= count && count > 0 {
			return latencyEnd(bucket)
		}
		left -= min(left, count)
	}
	return 0
}

// less takes away what was counted before.
func (s *sample) less(before *sample) {
	s.errors -= before.errors
	for i := range s.latency {
		s.latency[i] -= before.latency[i]
	}
}
