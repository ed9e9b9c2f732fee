package webhook

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// schedule is how long to wait after each failed attempt in a row: the example schedule of Standard Webhooks 1.0.0, which
// spans 75 hours and 35 minutes. After one more failure the endpoint is disabled.
var schedule = [...]time.Duration{
	5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
	10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
}

// retryAfterMax is how much an endpoint may delay its next attempt.
const retryAfterMax = 24 * time.Hour

// retryDelay returns how long to wait after a number of failures in a row, from 1; false when it is time to give up.
// jitter, from [0, 1), spreads it over 0.8 to 1.2 of the schedule, so that what failed together does not come back
// together. asked is what the endpoint asked for, 0 for nothing: it may lengthen the wait, never shorten it.
func retryDelay(failures int, jitter float64, asked time.Duration) (time.Duration, bool) {
	if failures > len(schedule) {
		return 0, false
	}
	d := time.Duration(float64(schedule[failures-1]) * (0.8 + 0.4*jitter))
	return max(d, min(asked, retryAfterMax)), true
}

// givenUp is why an endpoint is disabled after too many failures.
func givenUp(failures int) string { return fmt.Sprintf("%d attempts in a row failed", failures) }

// retryAfter reads a Retry-After header, seconds or a date; 0 without a valid one.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
