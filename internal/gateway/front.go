package gateway

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"dongne/internal/gateway/breaker"
	"dongne/internal/gateway/control"
	"dongne/internal/gateway/edge"
	"dongne/internal/gateway/limit"
	"dongne/internal/gateway/shadow"
	"dongne/internal/gateway/upstream"
	"dongne/internal/serve"
)

const (
	rateKeysMax       = 1_000_000 // that the limiter has room for: 24 MB
	retryPercent      = 20        // of the requests may be sent once more
	retryFloor        = 3         // a second, whatever the requests
	retryWindow       = 10 * time.Second
	upstreamsPerRoute = 16 // that have a breaker at a time
)

// A Front is the way of requests to the services: who may, how many, and where to.
type Front struct {
	Now      func() time.Time
	Control  func() *control.Table // what the operators have set
	Sessions *Sessions

	limiter *limit.Limiter
	budget  *limit.Budget
	lanes   []*Lane
}

// A Lane is one route with all that it keeps.
type Lane struct {
	Route
	Backend  *Backend // nil: the route has an upstream of its own
	front    *Front
	policies []int // of the limiter, by Rates
	pool     *upstream.Pool
	stats    stats
	shadow   *shadow.Shadow

	mu       sync.Mutex
	breakers map[string]*breaker.Breaker // by upstream; guarded by mu
}

// NewFront returns the way to routes; backends are those that have no upstream of their own, by name. ctx ends the shadow
// requests.
func NewFront(ctx context.Context, routes []Route, backends map[string]*Backend, table func() *control.Table, sessions *Sessions, now func() time.Time) (*Front, error) {
	f := &Front{Now: now, Control: table, Sessions: sessions}
	var policies []limit.Policy
	for _, r := range routes {
		lane := &Lane{Route: r, front: f, pool: &upstream.Pool{HeadTimeout: r.Timeout}, breakers: map[string]*breaker.Breaker{}}
		if r.Upstream == nil {
			lane.Backend = backends[r.Name]
		}
		for i, rate := range r.Rates {
			lane.policies = append(lane.policies, len(policies))
			policies = append(policies, limit.Policy{Name: policyName(r.Name, i, rate), Requests: rate.Requests, Window: rate.Window, Burst: rate.Burst})
		}
		var err error
		if lane.shadow, err = shadow.New(ctx, shadow.Settings{}); err != nil {
			return nil, err
		}
		f.lanes = append(f.lanes, lane)
	}
	var secret [16]byte
	for i := range secret {
		secret[i] = byte(rand.Uint32()) // of ChaCha8, seeded by the system
	}
	var err1, err2 error
	f.limiter, err1 = limit.New(secret, now(), rateKeysMax, policies...)
	f.budget, err2 = limit.NewBudget(now(), retryPercent, retryFloor, retryWindow)
	return f, errors.Join(err1, err2)
}

func policyName(route string, i int, rate Rate) string {
	name := route + "." + string(rate.By)
	if i > 0 && rate.Window != 0 {
		name += "." + rate.Window.String()
	}
	return name
}

// Lanes are all routes, in order.
func (f *Front) Lanes() []*Lane { return f.lanes }

// Close ends what the routes still do by themselves.
func (f *Front) Close() {
	for _, lane := range f.lanes {
		lane.shadow.Close()
		lane.pool.CloseIdleConnections()
	}
}

// Guard is what every request meets first: what two programs could read differently is refused, what only insiders may say is
// taken out, the client's address is settled, and the cookies of a session become its token.
func (f *Front) Guard(w http.ResponseWriter, r *http.Request) error {
	refused := edge.Refused(r)
	if refused == nil {
		_, err := edge.Path(r.Method, r.RequestURI)
		errors.As(err, &refused)
	}
	if refused != nil {
		if refused.Status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", edge.Allow)
		}
		if refused.Status == http.StatusBadRequest {
			w.Header().Set("Connection", "close")
		}
		return serve.Problem(refused.Status, refused.Code, "%s", refused.Detail)
	}
	proto := "http"
	if r.TLS != nil {
		proto = "https"
	}
	if p := r.Header["X-Forwarded-Proto"]; serve.Proxied(r) && len(p) == 1 && (p[0] == "http" || p[0] == "https") {
		proto = p[0]
	}
	address := serve.Address(r)
	edge.Strip(r.Header)
	r.Header.Set("X-Forwarded-For", address.String())
	r.Header.Set("X-Forwarded-Proto", proto)
	if f.Sessions == nil {
		return nil
	}
	return f.Sessions.Bearer(w, r)
}

// addressOf is the client's address, as Guard has settled it.
func addressOf(r *http.Request) string { return r.Header.Get("X-Forwarded-For") }

// Handler is the handler of a route's requests.
func (l *Lane) Handler(w http.ResponseWriter, r *http.Request) error {
	began := l.front.Now()
	subject := ""
	if len(r.Header["Authorization"]) > 0 || l.Auth == Required {
		caller, err := serve.Caller(r)
		if err != nil && !l.passes(r) {
			return err
		}
		subject = caller.User
	}
	if err := l.admit(w, r, subject, began); err != nil {
		return err
	}
	key := subject
	if key == "" {
		key = addressOf(r)
	}
	d := l.front.Control().Route(l.Name).Decide(began, key)
	switch d.Mode {
	case control.Off:
		return outcome(r, "not_applied", serve.Problem(http.StatusServiceUnavailable, "switched-off", "%s is switched off", l.Name).RetryAfter(retryAfter))
	case control.Static:
		d.ServeStatic(w)
		return nil
	}
	target, err := l.target(d)
	if err != nil {
		return outcome(r, "not_applied", err)
	}
	return l.pass(w, r, d, target, subject, began)
}

// passes says whether a request whose Authorization is no token of ours goes through all the same: where auth itself reads
// it, as it does of clients.
func (l *Lane) passes(r *http.Request) bool {
	return l.Auth == Optional && l.Name == "auth"
}

// admit counts the request against the rates, and refuses it when one is used up.
func (l *Lane) admit(w http.ResponseWriter, r *http.Request, subject string, now time.Time) error {
	limiter := l.front.limiter
	var asks [limit.AsksMax]limit.Ask
	var results [limit.AsksMax]limit.Result
	n := 0
	for i, rate := range l.Rates {
		ask := limit.Ask{Policy: l.policies[i]}
		switch {
		case rate.By == ByAddress:
			address, _ := netip.ParseAddr(addressOf(r))
			ask.Key = limiter.AddressKey(address)
		case rate.By == BySubject && subject == "":
			continue
		case rate.By == BySubject:
			ask.Key = limiter.Key(subject)
		default:
			ask.Key = limiter.Key(l.Name)
		}
		asks[n] = ask
		n++
	}
	if n == 0 {
		return nil
	}
	passes := limiter.Take(now, asks[:n], results[:n])
	limiter.SetHeader(w.Header(), asks[:n], results[:n])
	if passes {
		return nil
	}
	worst := results[limit.Tightest(results[:n])]
	l.stats.limited.Add(1)
	return outcome(r, "not_applied", serve.Problem(http.StatusTooManyRequests, "rate-limited", "too many requests to %s", l.Name).RetryAfter(worst.RetryAfter))
}

// target is where a decision sends a request.
func (l *Lane) target(d control.Decision) (*url.URL, *serve.Error) {
	switch {
	case d.Upstream != nil:
		return d.Upstream, nil
	case d.Mode == control.Over && l.Fallback != nil:
		return l.Fallback, nil
	case d.Mode == control.Over:
		return nil, serve.Problem(http.StatusServiceUnavailable, "no-fallback", "%s is switched over, but has no fallback", l.Name)
	}
	return l.own()
}

// own is the upstream that the route is configured with, or its service.
func (l *Lane) own() (*url.URL, *serve.Error) {
	if l.Upstream != nil {
		return l.Upstream, nil
	}
	target, state := l.Backend.Where()
	if target == nil {
		return nil, down(http.StatusServiceUnavailable, "%s is %s", l.Name, state)
	}
	return target, nil
}

// breaker is that of an upstream; of those that are no longer in use, as after a release, some are forgotten.
func (l *Lane) breaker(target *url.URL) *breaker.Breaker {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := target.Host
	b := l.breakers[name]
	if b == nil {
		for other := range l.breakers {
			if len(l.breakers) < upstreamsPerRoute {
				break
			}
			delete(l.breakers, other)
		}
		var err error
		b, err = breaker.New(breaker.Settings{}, l.front.Now(), rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
		if err != nil {
			panic("gateway: " + err.Error())
		}
		l.breakers[name] = b
	}
	return b
}

// try is one request on its way to one upstream, as its transport sees it: with a breaker before it, and again if that
// cannot do anything twice.
type try struct {
	lane     *Lane
	body     []byte // kept so that it can be sent again; nil: it cannot
	attempts int
	failed   bool // by the upstream's fault
	sent     bool // it may have reached some upstream
}

// errBroken says that the breaker lets nothing pass.
type errBroken struct{ wait time.Duration }

// Error says for how long.
func (e *errBroken) Error() string { return "the circuit breaker is open for " + e.wait.String() }

// RoundTrip implements http.RoundTripper.
func (t *try) RoundTrip(r *http.Request) (*http.Response, error) {
	b := t.lane.breaker(r.URL)
	budget := t.lane.front.budget
	budget.Request(t.lane.front.Now())
	for i := 1; ; i++ {
		pass, wait, ok := b.Allow(t.lane.front.Now())
		if !ok {
			return nil, &errBroken{wait}
		}
		answer, err := t.lane.pool.RoundTrip(r)
		result := judge(r, answer, err)
		b.Done(pass, result, t.lane.front.Now())
		t.failed, t.sent = result == breaker.Failure, t.sent || !errors.Is(err, upstream.ErrNotSent)
		if !t.failed || i >= t.attempts || !t.again(r, answer, err) || !budget.Retry(t.lane.front.Now()) {
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

func body(b []byte) io.ReadCloser { return io.NopCloser(bytesReader(b)) }

// judge says what an attempt tells of its upstream.
func judge(r *http.Request, answer *http.Response, err error) breaker.Outcome {
	switch {
	case err != nil && r.Context().Err() != nil:
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
