package limit

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSetHeader(t *testing.T) {
	l := newLimiter(t, 100,
		Policy{Name: "default", Requests: 100, Window: time.Minute},
		Policy{Name: "login", Requests: 10, Window: time.Hour, Burst: 3},
		Policy{Name: "route", Requests: 50, Window: time.Second})
	asks := []Ask{{0, 1}, {1, 2}}
	results := make([]Result, 2)
	wants := []http.Header{
		{"Ratelimit": {`"default";r=99;t=60, "login";r=2;t=720`}},
		{"Ratelimit": {`"default";r=98;t=59, "login";r=1;t=360`}},
		{"Ratelimit": {`"default";r=97;t=59, "login";r=0;t=360`}},
		{"Ratelimit": {`"default";r=97;t=59, "login";r=0;t=360`}, "Retry-After": {"360"}},
	}
	for i, want := range wants {
		want["Ratelimit-Policy"] = []string{`"default";q=100;w=60, "login";q=10;w=3600;dongne-burst=3`}
		l.Take(epoch, asks, results)
		got := http.Header{}
		l.SetHeader(got, asks, results)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("request %d: SetHeader mismatch (-want +got):\n%s", i, diff)
		}
	}
	got := http.Header{}
	l.SetHeader(got, nil, nil)
	if len(got) > 0 {
		t.Errorf("SetHeader without asks: %v", got)
	}
}

// Retry-After is the longest wait of those that refuse, not of those that let pass.
func TestRetryAfterIsTheLongest(t *testing.T) {
	l := newLimiter(t, 100,
		Policy{Name: "short", Requests: 1, Window: 10 * time.Second},
		Policy{Name: "long", Requests: 1, Window: time.Minute},
		Policy{Name: "free", Requests: 1, Window: time.Hour, Burst: 2})
	asks := []Ask{{0, 1}, {1, 1}, {2, 1}}
	results := make([]Result, 3)
	l.Take(epoch, asks, results)
	l.Take(epoch.Add(100*time.Millisecond), asks, results)
	got := http.Header{}
	l.SetHeader(got, asks, results)
	want := `"short";r=0;t=10, "long";r=0;t=60, "free";r=1;t=3600`
	if got.Get("RateLimit") != want || got.Get("Retry-After") != "60" {
		t.Errorf("RateLimit %q, Retry-After %q, want %q and 60", got.Get("RateLimit"), got.Get("Retry-After"), want)
	}
	if got := Tightest(results); got != 1 {
		t.Errorf("Tightest = %d, want 1", got)
	}
}

func TestTightest(t *testing.T) {
	pass := func(n int) Result { return Result{Allowed: true, Remaining: n} }
	fail := func(d time.Duration) Result { return Result{RetryAfter: d} }
	for _, c := range []struct {
		results []Result
		want    int
	}{
		{nil, -1},
		{[]Result{pass(5), pass(3), pass(4)}, 1},
		{[]Result{pass(0), fail(1), pass(0)}, 1},
		{[]Result{fail(2), pass(0), fail(3), fail(1)}, 2},
	} {
		if got := Tightest(c.results); got != c.want {
			t.Errorf("Tightest(%+v) = %d, want %d", c.results, got, c.want)
		}
	}
}

func TestSeconds(t *testing.T) {
	for wait, want := range map[time.Duration]int64{
		-1: 1, 0: 1, 1: 1, time.Second: 1, time.Second + 1: 2, time.Hour: 3600,
	} {
		if got := Seconds(wait); got != want {
			t.Errorf("Seconds(%v) = %d, want %d", wait, got, want)
		}
	}
}
