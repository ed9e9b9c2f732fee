package gateway

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"dongne/internal/gateway/breaker"
	"dongne/internal/gateway/upstream"
)

// try is one request on its way to one upstream, as its transport sees it: with a breaker before it, and again if that
// cannot do anything twice.
type try struct {
	lane     *Lane
	from     *clientBody // what is read of the client on the way; nil if that is over
	body     []byte      // kept so that it can be sent again; nil: it cannot
	attempts int
	failed   bool // by the upstream's fault
	sent     bool // it may have reached some upstream
}

// errBroken says that the breaker lets nothing pass.
type errBroken struct{ wait time.Duration }

// Error says for how long.
func (e *errBroken) Error() string { return "the circuit breaker is open for " + e.wait.String() }

// RoundTrip implements http.RoundTripper. A request that may not be sent again gets the answer, or the error, that it has.
func (t *try) RoundTrip(r *http.Request) (*http.Response, error) {
	now, budget := t.lane.front.Now, t.lane.front.budget
	b := t.lane.breaker(r.URL)
	budget.Request(now())
	pass, wait, ok := b.Allow(now())
	if !ok {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, &errBroken{wait}
	}
	for i := 1; ; i++ {
		answer, err := t.lane.via.RoundTrip(r)
		result := t.judge(r, answer, err)
		b.Done(pass, result, now())
		t.failed, t.sent = result == breaker.Failure, t.sent || !errors.Is(err, upstream.ErrNotSent)
		if !t.failed || i >= t.attempts || !t.again(r, answer, err) || !budget.Retry(now()) {
			return answer, err
		}
		if pass, _, ok = b.Allow(now()); !ok {
			return answer, err
		}
		if answer != nil {
			answer.Body.Close()
		}
		t.lane.stats.retried.Add(1)
		if t.body != nil {
			again := *r
			again.Body, r = body(t.body), &again
		}
	}
}

func body(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }

// judge says what an attempt tells of its upstream: nothing, if the client went, or did not send its body to the end.
func (t *try) judge(r *http.Request, answer *http.Response, err error) breaker.Outcome {
	switch {
	case err != nil && (r.Context().Err() != nil || t.from.failure() != nil):
		return breaker.Cancelled
	case err != nil:
		return breaker.Failure
	case answer.StatusCode == http.StatusBadGateway, answer.StatusCode == http.StatusServiceUnavailable, answer.StatusCode == http.StatusGatewayTimeout:
		return breaker.Failure
	}
	return breaker.Success
}

// again says whether a request whose attempt failed may be sent once more: nothing of it was sent, or it is one that may be
// done twice, and the failure may pass.
func (t *try) again(r *http.Request, answer *http.Response, err error) bool {
	if r.ContentLength != 0 && t.body == nil {
		return false
	}
	if errors.Is(err, upstream.ErrNotSent) {
		return true
	}
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return false // it has had its time
	}
	if answer != nil && answer.StatusCode == http.StatusGatewayTimeout {
		return false
	}
	return slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete}, r.Method) ||
		r.Header.Get("Idempotency-Key") != ""
}
