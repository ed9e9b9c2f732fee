package control

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// A Table is what is set on all routes at one moment. It never changes: a change makes a new one.
type Table struct {
	routes map[string]*Route
}

// unset is a route on which nothing was ever set.
var unset = Route{Switch: Switch{Mode: On}, Canary: Canary{Phase: Idle}}

// Route returns what is set on a route, never nil.
func (t *Table) Route(name string) *Route {
	if r := t.routes[name]; r != nil {
		return r
	}
	return &unset
}

// A Route is what is set on one route. Its fields are not to be changed.
type Route struct {
	Switch    Switch
	Canary    Canary
	Strangler Strangler
	// The stamps of the above, which a Request may expect; zero: never set.
	SwitchStamp, CanaryStamp, StranglerStamp Stamp

	over, primary, candidate, legacy, new *url.URL
	toCandidate, toNew                    share
	body                                  []byte
	outcomes                              *outcomes // while the release is at canary
}

// Side says which upstream a request goes to.
type Side string

// The sides.
const (
	SideOwn       Side = ""          // the primary: the one that the route is configured with, or the last candidate
	SideFallback  Side = "fallback"  // the switch sends it over
	SideCandidate Side = "candidate" // of a canary release
	SideLegacy    Side = "legacy"    // of a strangler
	SideNew       Side = "new"       // of a strangler that names its own new upstream
)

// A Decision is where one request goes. It is taken once for each request: whoever retries stays with it, so that no
// request sees both sides of a change.
type Decision struct {
	Mode Mode
	Side Side
	// Upstream is where it goes, if Mode is On or Over. Nil: to the upstream that the route is configured with; or, if
	// Mode is Over, to the fallback that it is configured with.
	Upstream *url.URL
	// Shadowed says that the request goes to Shadow as well, nil being as in Upstream.
	Shadowed bool
	Shadow   *url.URL

	route    *Route
	outcomes *outcomes
	place    uint64
}

// Decide says where a request goes. key is what it sticks to, its subject or its client's address: as long as nothing
// but a weight grows, one key stays on the side where it once was the one that grows.
func (r *Route) Decide(now time.Time, key string) Decision {
	switch mode := r.Switch.At(now); mode {
	case On:
	case Over:
		return Decision{Mode: Over, Side: SideFallback, Upstream: r.over}
	default:
		return Decision{Mode: mode, route: r}
	}
	if r.legacy == nil {
		return r.release(key)
	}
	if r.toNew.takes(spread(r.Strangler.Salt, key)) {
		d := r.onward(key)
		d.Shadowed, d.Shadow = r.Strangler.Shadow, r.legacy
		return d
	}
	d := Decision{Mode: On, Side: SideLegacy, Upstream: r.legacy}
	if r.Strangler.Shadow {
		d.Shadowed, d.Shadow = true, r.onward(key).Upstream
	}
	return d
}

// onward is where a strangler's weight goes.
func (r *Route) onward(key string) Decision {
	if r.new != nil {
		return Decision{Mode: On, Side: SideNew, Upstream: r.new}
	}
	return r.release(key)
}

// release chooses between primary and candidate.
func (r *Route) release(key string) Decision {
	d := Decision{Mode: On, Upstream: r.primary}
	if r.candidate == nil {
		return d
	}
	d.place, d.outcomes = spread(r.Canary.Release, key), r.outcomes
	if r.toCandidate.takes(d.place) {
		d.Side, d.Upstream = SideCandidate, r.candidate
	}
	return d
}

// Done counts what became of the request, by which a canary release is judged: whether it failed by the upstream's
// fault (a client that went away is none), and how long its answer took to begin. Call it once, or not at all.
func (d Decision) Done(failed bool, latency time.Duration) {
	if d.outcomes == nil {
		return
	}
	side := primarySide
	if d.Side == SideCandidate {
		side = candidateSide
	}
	d.outcomes.add(d.place, side, failed, latency)
}

// ServeStatic writes the answer of a decision whose Mode is Static.
func (d Decision) ServeStatic(w http.ResponseWriter) {
	w.Header().Set("Content-Type", d.route.Switch.ContentType)
	w.Header().Set("Cache-Control", "no-store") // it is over with the switch
	w.WriteHeader(d.route.Switch.Status)
	w.Write(d.route.body)
}

// with returns a table in which a route is as the state has it.
func (t *Table) with(name string, s *State, now time.Time) *Table {
	routes := maps.Clone(t.routes)
	if routes == nil {
		routes = make(map[string]*Route)
	}
	routes[name] = newRoute(name, s, t.routes[name], now)
	return &Table{routes}
}

// newRoute reads a route's registers. What cannot be read or makes no sense, as a newer gateway may have written it,
// counts as not set.
func newRoute(name string, s *State, before *Route, now time.Time) *Route {
	r := &Route{}
	r.Switch, r.SwitchStamp = read[Switch](s, register{name, KindSwitch})
	r.Canary, r.CanaryStamp = read[Canary](s, register{name, KindCanary})
	r.Strangler, r.StranglerStamp = read[Strangler](s, register{name, KindStrangler})
	var err error
	if r.Switch, err = r.Switch.checked(); err != nil {
		r.Switch = Switch{Mode: On}
	}
	if !slices.Contains(begins[Rollback], r.Canary.Phase) || checkWeight(r.Canary.Weight) != nil {
		r.Canary = Canary{Phase: Idle}
	}
	if r.Strangler, err = r.Strangler.checked(r.Strangler, 1); err != nil {
		r.Strangler = Strangler{}
	}
	r.over, r.body = upstreamOf(r.Switch.Upstream), []byte(r.Switch.Body)
	r.legacy, r.new, r.toNew = upstreamOf(r.Strangler.Legacy), upstreamOf(r.Strangler.New), shareOf(r.Strangler.Weight)
	r.prepareRelease(before, now)
	return r
}

func (r *Route) prepareRelease(before *Route, now time.Time) {
	r.primary = upstreamOf(r.Canary.Primary)
	if r.Canary.Phase == Releasing || r.Canary.Phase == All {
		r.candidate, r.toCandidate = upstreamOf(r.Canary.Candidate), shareOf(r.Canary.Weight)
	}
	if r.Canary.Phase != Releasing {
		return
	}
	r.outcomes = newOutcomes(r.Canary.Release, now)
	if before != nil && before.outcomes != nil && before.outcomes.release == r.Canary.Release {
		r.outcomes = before.outcomes // the weight has changed, nothing else
	}
}

// read reads a register; zero if there is none, or one that cannot be read.
func read[V any](s *State, of register) (V, Stamp) {
	var value, none V
	e, ok := s.registers[of]
	if ok && json.Unmarshal(e.Value, &value) != nil {
		value = none
	}
	return value, e.Stamp
}
