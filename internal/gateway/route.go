package gateway

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"time"

	"dongne/internal/serve"
)

// A Route says how the gateway treats the requests under /<name>/.
type Route struct {
	Name string
	// Upstream is where its requests go; nil: to the service of that name.
	Upstream *url.URL
	// Fallback is where requests go while the kill switch says so; nil: nowhere, and it cannot.
	Fallback *url.URL
	// FallbackIdentity says that whoever requests go to while the switch says over may know who calls, and be given tokens and
	// cookies. A CDN may not.
	FallbackIdentity bool
	// KeepPrefix says that the upstream knows its paths with /<name>.
	KeepPrefix bool
	// Auth says whether a request needs a token that is good. A bad one is refused anyway.
	Auth    Auth
	Timeout time.Duration // from the request's last byte to the head of the answer
	BodyMax int64         // bytes
	Rates   []Rate
	Retries Retries
}

// Auth says what a route asks of the caller.
type Auth string

// Optional leaves it to the service whether it wants to know who calls; Required refuses who has no token.
const (
	Optional Auth = "optional"
	Required Auth = "required"
)

// A Rate bounds how many requests there may be of one address, of one caller, or of a route as a whole.
type Rate struct {
	By       By
	Requests int           // in Window
	Window   time.Duration //
	Burst    int           // at once; at most Requests
}

// By is whose requests a Rate counts.
type By string

// An address is one of IPv4, or the first 64 bits of one of IPv6. Who has no token has no subject, and is only counted by the
// address.
const (
	ByAddress By = "address"
	BySubject By = "subject"
	ByRoute   By = "route"
)

// Retries bound how often a request is sent again, to a service that did not take it, within the budget that all routes share.
type Retries struct {
	Attempts int   // in all, the first one included; 1: none
	BodyMax  int64 // bytes of the body that are kept for it; with a longer one a request is not sent again
}

// defaultRoute is what a configuration leaves open.
func defaultRoute() Route {
	return Route{
		Auth:    Optional,
		Timeout: answerTimeout,
		BodyMax: 1 << 20,
		Rates: []Rate{
			{By: ByAddress, Requests: 6000, Window: time.Minute, Burst: 1000},
			{By: BySubject, Requests: 3000, Window: time.Minute, Burst: 500},
		},
		Retries: Retries{Attempts: 2, BodyMax: 64 << 10},
	}
}

const (
	routesMax   = 256
	timeoutMax  = 10 * time.Minute
	attemptsMax = 5
	retryBody   = 1 << 20 // bytes, at most
	ratesMax    = 8
	rateMax     = 1_000_000
)

// The form of the configuration. What is left out is as in the defaults, and there as in defaultRoute.
type (
	configJSON struct {
		Defaults routeJSON            `json:"defaults"`
		Routes   map[string]routeJSON `json:"routes"`
	}
	routeJSON struct {
		Upstream   string       `json:"upstream"`
		Fallback   string       `json:"fallback"`
		Identity   *bool        `json:"fallback_identity"`
		KeepPrefix *bool        `json:"keep_prefix"`
		Auth       Auth         `json:"auth"`
		Timeout    duration     `json:"timeout"`
		BodyMax    *int64       `json:"body_bytes_max"`
		Rates      *[]rateJSON  `json:"rates"`
		Retries    *retriesJSON `json:"retries"`
	}
	rateJSON struct {
		By       By       `json:"by"`
		Requests int      `json:"requests"`
		Window   duration `json:"window"`
		Burst    int      `json:"burst"`
	}
	retriesJSON struct {
		Attempts int    `json:"attempts"`
		BodyMax  *int64 `json:"body_bytes_max"`
	}
)

// duration is a time.Duration in Go's notation.
type duration time.Duration

// UnmarshalText reads "1.5s".
func (t *duration) UnmarshalText(s []byte) error {
	d, err := time.ParseDuration(string(s))
	*t = duration(d)
	return err
}

// ReadRoutes returns the routes of the services and of the file at path (none if that is empty), sorted by name. The error
// names the file, the route and the field.
func ReadRoutes(path string, services []string) ([]Route, error) {
	var config configJSON
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if err := serve.Unmarshal(data, &config); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	base, err := config.Defaults.over(defaultRoute())
	if err == nil && (base.Upstream != nil || base.Fallback != nil) {
		err = fmt.Errorf("upstream and fallback belong to a route")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: defaults: %w", path, err)
	}
	routes := map[string]Route{}
	for _, name := range services {
		routes[name] = base
	}
	for _, name := range slices.Sorted(maps.Keys(config.Routes)) { // of several errors always the same
		r := config.Routes[name]
		_, known := routes[name]
		route, err := r.over(base)
		switch {
		case err != nil:
		case !validName(name):
			err = fmt.Errorf("a name has 1 to 32 of a-z, 0-9 and '-', and is none of the gateway's own paths")
		case !known && route.Upstream == nil:
			err = fmt.Errorf("upstream: there is no service of this name, so it needs one")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: routes.%s: %w", path, name, err)
		}
		routes[name] = route
	}
	if len(routes) > routesMax {
		return nil, fmt.Errorf("%s: %d routes, want at most %d", path, len(routes), routesMax)
	}
	var all []Route
	for _, name := range slices.Sorted(maps.Keys(routes)) {
		route := routes[name]
		route.Name = name
		all = append(all, route)
	}
	return all, nil
}

// ownNames are the first segments of the gateway's own paths.
var ownNames = []string{"admin", "gateway", "gossip", "login", "logout", "health", "ready", "metrics", "status", "whoami"}

func validName(name string) bool {
	for _, c := range name {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') {
			return false
		}
	}
	return 1 <= len(name) && len(name) <= 32 && !slices.Contains(ownNames, name)
}

// over returns base with what j says.
func (j routeJSON) over(base Route) (Route, error) {
	r := base
	for _, u := range []struct {
		name, text string
		to         **url.URL
	}{{"upstream", j.Upstream, &r.Upstream}, {"fallback", j.Fallback, &r.Fallback}} {
		if u.text == "" {
			continue
		}
		parsed, err := serve.ParseURL(u.text)
		if err == nil && parsed.User != nil {
			err = fmt.Errorf("%q: a user has no place in it", parsed.Redacted())
		}
		if err != nil {
			return r, fmt.Errorf("%s: %w", u.name, err)
		}
		*u.to = parsed
	}
	r.Auth = cmp.Or(j.Auth, r.Auth)
	r.Timeout = cmp.Or(time.Duration(j.Timeout), r.Timeout)
	if j.Identity != nil {
		r.FallbackIdentity = *j.Identity
	}
	if j.KeepPrefix != nil {
		r.KeepPrefix = *j.KeepPrefix
	}
	if j.BodyMax != nil {
		r.BodyMax = *j.BodyMax
	}
	if j.Retries != nil {
		r.Retries.Attempts = j.Retries.Attempts
		if j.Retries.BodyMax != nil {
			r.Retries.BodyMax = *j.Retries.BodyMax
		}
	}
	if j.Rates != nil {
		r.Rates = nil
		for _, rate := range *j.Rates {
			r.Rates = append(r.Rates, Rate{rate.By, rate.Requests, time.Duration(rate.Window), cmp.Or(rate.Burst, rate.Requests)})
		}
	}
	return r, r.check()
}

// check names the first field that cannot be.
func (r *Route) check() error {
	switch {
	case r.Auth != Optional && r.Auth != Required:
		return fmt.Errorf("auth: %q, want %s or %s", r.Auth, Optional, Required)
	case r.Timeout < time.Millisecond || r.Timeout > timeoutMax:
		return fmt.Errorf("timeout: %v, want 1ms to %v", r.Timeout, timeoutMax)
	case r.BodyMax < 0:
		return fmt.Errorf("body_bytes_max: %d, want 0 or more", r.BodyMax)
	case r.Retries.Attempts < 1 || r.Retries.Attempts > attemptsMax:
		return fmt.Errorf("retries.attempts: %d, want 1 to %d", r.Retries.Attempts, attemptsMax)
	case r.Retries.BodyMax < 0 || r.Retries.BodyMax > retryBody:
		return fmt.Errorf("retries.body_bytes_max: %d, want 0 to %d", r.Retries.BodyMax, retryBody)
	case len(r.Rates) > ratesMax:
		return fmt.Errorf("rates: %d, want at most %d", len(r.Rates), ratesMax)
	}
	for i, rate := range r.Rates {
		switch {
		case rate.By != ByAddress && rate.By != BySubject && rate.By != ByRoute:
			return fmt.Errorf("rates[%d].by: %q, want %s, %s or %s", i, rate.By, ByAddress, BySubject, ByRoute)
		case rate.Requests < 1 || rate.Requests > rateMax:
			return fmt.Errorf("rates[%d].requests: %d, want 1 to %d", i, rate.Requests, rateMax)
		case rate.Window < time.Second || rate.Window > 24*time.Hour:
			return fmt.Errorf("rates[%d].window: %v, want 1s to 24h", i, rate.Window)
		case rate.Burst < 1 || rate.Burst > rate.Requests:
			return fmt.Errorf("rates[%d].burst: %d, want 1 to %d", i, rate.Burst, rate.Requests)
		}
	}
	return nil
}
