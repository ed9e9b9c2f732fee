package gateway

import (
	"math/rand/v2"
	"time"
)

// How long a service that ended stays away before it is started again.
const (
	backoffMin = 200 * time.Millisecond // ceiling of the first pause
	backoffMax = 30 * time.Second       // ceiling of every later one
	healthyMin = time.Minute            // a run at least this long forgives what came before
)

// Backoff says how long to wait before the next start: a ceiling that doubles
// with every start that did not last, of which at least half is waited and the
// rest drawn, so that services that fell together do not rise together. This is
// the "equal jitter" of Marc Brooker's "Exponential Backoff and Jitter" (2015).
type Backoff struct {
	rng   *rand.Rand
	tries int // starts in a row that did not last
}

// NewBackoff draws its jitter from rng.
func NewBackoff(rng *rand.Rand) *Backoff { return &Backoff{rng: rng} }

// Next returns the pause after a run that lasted ran.
func (b *Backoff) Next(ran time.Duration) time.Duration {
	if ran >= healthyMin {
		b.tries = 0
	}
	ceiling := backoffMin
	for range b.tries {
		ceiling = min(2*ceiling, backoffMax)
	}
	if ceiling < backoffMax {
		b.tries++ // no further: the ceiling is reached
	}
	half := ceiling / 2
	return half + time.Duration(b.rng.Int64N(int64(half)+1))
}
