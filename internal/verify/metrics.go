package verify

import (
	"fmt"
	"io"
	"math"
	"sync/atomic"
	"time"
)

// outcome is what became of a call of Verify.
type outcome uint8

const (
	cached outcome = iota
	verified
	refused
	revoked
	unavailable
	outcomeCount
)

var outcomeNames = [outcomeCount]string{"cached", "verified", "refused", "revoked", "unavailable"}

// counter counts in several places, so that processors do not wait for each other.
type counter [8]struct {
	n atomic.Uint64
	_ [56]byte // a cache line is 64 bytes
}

// add counts one; spread picks the place.
func (c *counter) add(spread uint64) { c[spread%uint64(len(c))].n.Add(1) }

func (c *counter) load() (sum uint64) {
	for i := range c {
		sum += c[i].n.Load()
	}
	return sum
}

// Metrics writes the verifier's figures in the Prometheus text format, version 0.0.4.
func (v *Verifier) Metrics(w io.Writer) {
	const total = "token_verifications_total"
	head(w, total, "counter", "Tokens that were to be verified, by outcome.")
	for i, name := range outcomeNames {
		fmt.Fprintf(w, "%s{outcome=%q} %d\n", total, name, v.outcomes[i].load())
	}
	keys, keysAge := 0, math.Inf(1)
	if r := v.keys.current.Load(); r != nil {
		keys, keysAge = len(r.keys), time.Since(r.fetched).Seconds()
	}
	age := math.Inf(1)
	if v.complete.Load() != 0 {
		age = v.Age().Seconds()
	}
	const fetches = "token_key_fetches_total"
	head(w, fetches, "counter", "Fetches of the key set, by outcome.")
	fmt.Fprintf(w, "%s{outcome=\"ok\"} %d\n", fetches, v.keys.successes.Load())
	fmt.Fprintf(w, "%s{outcome=\"failed\"} %d\n", fetches, v.keys.failures.Load())
	for _, m := range []struct {
		name, kind, help string
		value            any
	}{
		{"token_cache_entries", "gauge", "Verified tokens that are remembered.", v.cache.size()},
		{"token_keys", "gauge", "Keys in the key set.", keys},
		{"token_keys_age_seconds", "gauge", "Time since the key set was fetched.", keysAge},
		{"token_revocations", "gauge", "Revocations that are kept.", v.revoked.Load().count.Load()},
		{"token_revocations_age_seconds", "gauge", "Time since the revocations were known to be complete.", age},
		{"token_revocations_asks_total", "counter", "Times that the feed was asked for.", v.connects.Load()},
		{"token_watches", "gauge", "Streams that wait for a revocation.", v.watches.size()},
	} {
		head(w, m.name, m.kind, m.help)
		if f, ok := m.value.(float64); ok && math.IsInf(f, 1) {
			m.value = "+Inf"
		}
		fmt.Fprintf(w, "%s %v\n", m.name, m.value)
	}
}

func head(w io.Writer, name, kind, help string) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}
