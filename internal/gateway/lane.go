package gateway

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"dongne/internal/gateway/breaker"
	"dongne/internal/gateway/control"
	"dongne/internal/gateway/limit"
	"dongne/internal/gateway/shadow"
	"dongne/internal/gateway/upstream"
	"dongne/internal/serve"
)

const upstreamsPerRoute = 16 // that have a breaker at a time

// A Lane is one route with all that it keeps.
type Lane struct {
	Route
	Backend  *Backend // nil: the route has an upstream of its own
	front    *Front
	policies []int // of the limiter, by Rates
	pool     *upstream.Pool
	via      http.RoundTripper // pool, with the trace carried on
	stats    stats
	shadow   *shadow.Shadow

	mu       sync.Mutex
	breakers map[string]*breaker.Breaker // by upstream; guarded by mu
}

func newLane(ctx context.Context, r Route, f *Front, backend *Backend) (*Lane, error) {
	l := &Lane{Route: r, front: f, pool: &upstream.Pool{HeadTimeout: r.Timeout}, breakers: map[string]*breaker.Breaker{}}
	l.via = serve.Transport(l.pool)
	if r.Upstream == nil {
		l.Backend = backend
	}
	var err error
	l.shadow, err = shadow.New(ctx, shadow.Settings{})
	return l, err
}

func (l *Lane) close() {
	l.shadow.Close()
	l.pool.CloseIdleConnections()
}

// Handler is the handler of a route's requests.
func (l *Lane) Handler(w http.ResponseWriter, r *http.Request) error {
	select {
	case <-l.front.Known:
	case <-r.Context().Done():
		return r.Context().Err()
	}
	began := l.front.Now()
	subject, refused := l.subject(r)
	if err := l.admit(w, r, subject, began); err != nil {
		return err // before refused: who sends one bad token after the other is counted too
	}
	if refused != nil {
		return refused
	}
	key := subject
	if key == "" {
		key = addressOf(r)
	}
	d := l.front.Control().Route(l.Name).Decide(began, key)
	switch d.Mode {
	case control.Off:
		off := serve.Problem(http.StatusServiceUnavailable, "switched-off", "%s is switched off", l.Name)
		return outcome(r, "not_applied", off.RetryAfter(retryAfter))
	case control.Static:
		d.ServeStatic(w)
		return nil
	}
	target, err := l.target(d)
	if err != nil {
		return outcome(r, "not_applied", err)
	}
	return l.pass(w, r, d, target, subject)
}

// subject says who sent a request; "" is nobody. What is no token of ours passes only where auth itself reads it, as it does
// of clients and of older systems.
func (l *Lane) subject(r *http.Request) (string, error) {
	if len(r.Header["Authorization"]) == 0 && l.Auth != Required {
		return "", nil
	}
	caller, err := serve.Caller(r)
	if err != nil && l.Auth == Optional && l.Name == "auth" {
		return "", nil
	}
	return caller.User, err
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
	limited := serve.Problem(http.StatusTooManyRequests, "rate-limited", "too many requests to %s", l.Name)
	return outcome(r, "not_applied", limited.RetryAfter(worst.RetryAfter))
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

// breaker is that of an upstream.
func (l *Lane) breaker(target *url.URL) *breaker.Breaker {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.breakers[target.Host]
	if b == nil {
		l.forget()
		var err error
		b, err = breaker.New(breaker.Settings{}, l.front.Now(), rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
		if err != nil {
			panic("gateway: " + err.Error())
		}
		l.breakers[target.Host] = b
	}
	return b
}

// forget makes room for one breaker more: old upstreams, as of earlier releases, are no longer in use. One that is closed
// goes first, as it says the least; whoever is forgotten wrongly starts afresh. The caller holds mu.
func (l *Lane) forget() {
	if len(l.breakers) < upstreamsPerRoute {
		return
	}
	victim := ""
	for name, b := range l.breakers {
		if victim = name; b.State(l.front.Now()).Mode == breaker.Closed {
			break
		}
	}
	delete(l.breakers, victim)
}
