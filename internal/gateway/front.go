package gateway

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"time"

	"dongne/internal/edge"
	"dongne/internal/gateway/control"
	"dongne/internal/gateway/limit"
	"dongne/internal/serve"
)

const (
	rateKeysMax  = 1_000_000 // that the limiter has room for: 24 MB
	retryPercent = 20        // of the requests may be sent once more
	retryFloor   = 3         // a second, whatever the requests
	retryWindow  = 10 * time.Second
)

// renewals bound how many sessions the clients at one address may have renewed: who asks for more is guessing, or many
// thousands of people.
var renewals = limit.Policy{Name: "session.address", Requests: 600, Window: time.Minute, Burst: 200}

// renewalPolicy is the place of renewals among the limiter's policies.
const renewalPolicy = 0

// FrontOptions are what a Front is made of.
type FrontOptions struct {
	Routes   []Route
	Backends map[string]*Backend   // of the routes that have no upstream of their own, by name
	Control  func() *control.Table // what the operators have set
	Known    <-chan struct{}       // closed when Control is what it was before the start: until then requests wait
	Sessions *Sessions
	Now      func() time.Time
}

// A Front is the way of requests to the services: who may, how many, and where to.
type Front struct {
	FrontOptions
	limiter *limit.Limiter
	budget  *limit.Budget
	lanes   []*Lane
}

// NewFront returns the way to routes. ctx ends the shadow requests.
func NewFront(ctx context.Context, options FrontOptions) (*Front, error) {
	f := &Front{FrontOptions: options}
	policies := []limit.Policy{renewals}
	for _, r := range options.Routes {
		lane, err := newLane(ctx, r, f, options.Backends[r.Name])
		if err != nil {
			return nil, err
		}
		for i, rate := range r.Rates {
			lane.policies = append(lane.policies, len(policies))
			policies = append(policies, limit.Policy{Name: policyName(r, i), Requests: rate.Requests, Window: rate.Window, Burst: rate.Burst})
		}
		f.lanes = append(f.lanes, lane)
	}
	if len(policies) > limit.PoliciesMax {
		return nil, fmt.Errorf("ROUTES: %d rates on all routes, want at most %d", len(policies)-1, limit.PoliciesMax-1)
	}
	var secret [16]byte
	for i := range secret {
		secret[i] = byte(rand.Uint32()) // of ChaCha8, seeded by the system
	}
	var err1, err2 error
	f.limiter, err1 = limit.New(secret, options.Now(), rateKeysMax, policies...)
	f.budget, err2 = limit.NewBudget(options.Now(), retryPercent, retryFloor, retryWindow)
	return f, errors.Join(err1, err2)
}

// policyName is how RateLimit-Policy names the i-th rate of a route: chat.subject, and with the window too if it is not
// the first of that kind.
func policyName(r Route, i int) string {
	name := r.Name + "." + string(r.Rates[i].By)
	for _, before := range r.Rates[:i] {
		if before.By == r.Rates[i].By {
			return fmt.Sprintf("%s.%ds", name, r.Rates[i].Window/time.Second)
		}
	}
	return name
}

// Lanes are all routes, in order.
func (f *Front) Lanes() []*Lane { return f.lanes }

// Lane returns a route; nil: there is none of this name.
func (f *Front) Lane(name string) *Lane {
	for _, l := range f.lanes {
		if l.Name == name {
			return l
		}
	}
	return nil
}

// Close ends what the routes still do by themselves.
func (f *Front) Close() {
	for _, lane := range f.lanes {
		lane.close()
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
	address, proto := serve.Address(r), protoOf(r)
	edge.Strip(r.Header)
	r.Header.Set("X-Forwarded-For", address.String())
	r.Header.Set("X-Forwarded-Proto", proto)
	switch r.URL.Path {
	case "/", "/login", "/gossip", "/health", "/ready", "/metrics", "/openapi.yaml":
		return nil // it does not matter who asks, and must not matter that auth is away
	}
	err := f.Sessions.Bearer(w, r, func() error { return f.admitRenewal(r) })
	if r.URL.Path == "/status" {
		return nil // whoever cannot be known just now is shown what everybody is
	}
	return err
}

// protoOf is the scheme by which the client came: the connection's, or what one of TRUSTED_PROXIES says.
func protoOf(r *http.Request) string {
	if p := r.Header["X-Forwarded-Proto"]; serve.Proxied(r) && len(p) == 1 && (p[0] == "http" || p[0] == "https") {
		return p[0]
	}
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

// addressOf is the client's address, and secure whether it came by https, as Guard has settled both.
func addressOf(r *http.Request) string { return r.Header.Get("X-Forwarded-For") }

func secure(r *http.Request) bool { return r.Header.Get("X-Forwarded-Proto") == "https" }

// admitRenewal counts a session that is to be renewed, and refuses it when its address has had too many.
func (f *Front) admitRenewal(r *http.Request) error {
	address, _ := netip.ParseAddr(addressOf(r))
	result := f.limiter.Take1(f.Now(), renewalPolicy, f.limiter.AddressKey(address))
	if result.Allowed {
		return nil
	}
	return serve.Problem(http.StatusTooManyRequests, "rate-limited", "too many sessions are renewed from this address").
		RetryAfter(result.RetryAfter)
}
