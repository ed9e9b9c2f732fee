package limit

import (
	"math"
	"strconv"
	"time"
)

// The header fields of "RateLimit header fields for HTTP"
// (draft-ietf-httpapi-ratelimit-headers-11), by their names in an http.Header.
const (
	policyField     = "Ratelimit-Policy"
	limitField      = "Ratelimit"
	retryAfterField = "Retry-After"
)

// policyItem is a policy as an item of RateLimit-Policy: its quota q in requests
// and its window w in seconds. A burst other than the quota is a parameter of our
// own, under a prefix as the draft asks.
func policyItem(p Policy) string {
	item := `"` + p.Name + `";q=` + strconv.Itoa(p.Requests) + ";w=" + strconv.Itoa(int(p.Window/time.Second))
	if p.Burst != p.Requests {
		item += ";dongne-burst=" + strconv.Itoa(p.Burst)
	}
	return item
}

// SetHeader writes into an http.Header what Take found: RateLimit-Policy and
// RateLimit with one item for each ask, in their order, and, if a policy refused,
// Retry-After with the longest of their waits. Without asks it does nothing.
//
// In RateLimit, r is the number of requests that could follow at once, and t is
// the time in seconds, rounded up, for which they last at the policy's rate (so
// that no client reads more than that rate out of r and t, as the draft warns),
// or with r=0 the time until the next one could pass. So Retry-After never ends
// before a refusing policy's t.
func (l *Limiter) SetHeader(header map[string][]string, asks []Ask, results []Result) {
	if len(asks) == 0 {
		return
	}
	policies := make([]byte, 0, 64*len(asks))
	limits := make([]byte, 0, 64*len(asks))
	var wait time.Duration
	for i, a := range asks {
		rule, result := &l.rules[a.Policy], results[i]
		if i > 0 {
			policies = append(policies, ", "...)
			limits = append(limits, ", "...)
		}
		policies = append(policies, rule.item...)
		limits = rule.appendLimit(limits, result)
		if !result.Allowed {
			wait = max(wait, result.RetryAfter)
		}
	}
	header[policyField] = []string{string(policies)}
	header[limitField] = []string{string(limits)}
	if wait > 0 {
		header[retryAfterField] = []string{strconv.FormatInt(Seconds(wait), 10)}
	}
}

// appendLimit appends an item of RateLimit.
func (r *rule) appendLimit(b []byte, result Result) []byte {
	lasts := time.Duration(int64(result.Remaining) * r.interval)
	if result.Remaining == 0 {
		lasts = result.RetryAfter
	}
	b = append(append(append(b, '"'), r.Name...), '"')
	b = strconv.AppendInt(append(b, ";r="...), int64(result.Remaining), 10)
	return strconv.AppendInt(append(b, ";t="...), Seconds(lasts), 10)
}

// Tightest returns the index of the result that decides: of the refusing ones
// that with the longest wait, else the one with the fewest requests remaining. It
// is -1 without results.
func Tightest(results []Result) int {
	tightest, least := -1, math.MaxInt
	var wait time.Duration
	for i, r := range results {
		switch {
		case !r.Allowed && r.RetryAfter > wait:
			tightest, wait = i, r.RetryAfter
		case wait == 0 && r.Allowed && r.Remaining < least:
			tightest, least = i, r.Remaining
		}
	}
	return tightest
}

// Seconds returns a wait in whole seconds as header fields want it: rounded up,
// at least 1.
func Seconds(wait time.Duration) int64 {
	return max(1, int64((wait+time.Second-1)/time.Second))
}
