package webhook

import (
	"net/http"
	"testing"
	"time"
)

func TestRetryDelay(t *testing.T) {
	var least, most, middle time.Duration
	failures := 1
	for ; ; failures++ {
		low, ok := retryDelay(failures, 0, 0)
		if !ok {
			break
		}
		high, _ := retryDelay(failures, 1, 0)
		mid, _ := retryDelay(failures, 0.5, 0)
		if !(low < mid && mid < high) || mid != schedule[failures-1] {
			t.Errorf("failure %d: %v to %v around %v, want around %v", failures, low, high, mid, schedule[failures-1])
		}
		least, middle, most = least+low, middle+mid, most+high
	}
	if day := 24 * time.Hour; failures != 10 || least < 5*day/2 || middle < 3*day || most > 4*day {
		t.Errorf("%d attempts in %v to %v, on average %v; want 10 over about 3 days", failures, least, most, middle)
	}
}

// What an endpoint asks for makes its wait longer, to a bound, and never shorter.
func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		header string
		want   time.Duration // after the second failure
	}{
		{"", 5 * time.Minute},
		{"10", 5 * time.Minute},
		{"600", 10 * time.Minute},
		{"Wed, 01 Jul 2026 12:20:00 GMT", 20 * time.Minute},
		{"Wed, 01 Jul 2026 11:20:00 GMT", 5 * time.Minute},
		{"2000000000", retryAfterMax},
		{"-1", 5 * time.Minute},
		{"9999999999999999999999", 5 * time.Minute},
		{"soon", 5 * time.Minute},
	} {
		asked := retryAfter(http.Header{"Retry-After": {test.header}}, now)
		if got, _ := retryDelay(2, 0.5, asked); got != test.want {
			t.Errorf("Retry-After %q: wait %v, want %v", test.header, got, test.want)
		}
	}
}
