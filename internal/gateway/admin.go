package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"dongne/internal/gateway/breaker"
	"dongne/internal/gateway/control"
	"dongne/internal/gateway/shadow"
	"dongne/internal/serve"
	"dongne/internal/sharedlog"
)

// AdminScope is what a token needs to operate the gateway.
const AdminScope = "admin"

// Refusals are what errors of the control are over HTTP.
var Refusals = []serve.Refusal{
	serve.Refuse(control.ErrInvalid, http.StatusBadRequest, "change-invalid"),
	serve.Refuse(control.ErrRoute, http.StatusNotFound, "route-unknown"),
	serve.Refuse(control.ErrStep, http.StatusConflict, "step-illegal"),
	serve.Refuse(control.ErrLocked, http.StatusLocked, "route-locked"),
	serve.Refuse(control.ErrChanged, http.StatusPreconditionFailed, "changed-meanwhile"),
	serve.Refuse(control.ErrMessage, http.StatusBadRequest, "gossip-malformed"),
}

// Admin is what operators see and change.
type Admin struct {
	Front   *Front
	Control *control.Node
}

// Routes are the patterns of the API, each of which wants a token of AdminScope.
func (a *Admin) Routes() map[string]serve.Handler {
	return map[string]serve.Handler{
		"GET /admin/routes":                   a.admin(a.routes),
		"PUT /admin/routes/{route}/switch":    a.admin(a.setSwitch),
		"POST /admin/routes/{route}/canary":   a.admin(a.step),
		"PUT /admin/routes/{route}/strangler": a.admin(a.setStrangler),
		"GET /admin/audit":                    a.admin(a.audit),
	}
}

// admin is the handler of what an operator does.
func (a *Admin) admin(handle func(w http.ResponseWriter, r *http.Request, by string) error) serve.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		caller, err := serve.Scope(r, AdminScope)
		if err != nil {
			return err
		}
		err = handle(w, r, caller.User)
		var log *sharedlog.Error
		if errors.As(err, &log) {
			return serve.Problem(http.StatusServiceUnavailable, "store-unavailable", "the change is not known to be on disk").
				Outcome(log.Outcome.String()).RetryAfter(time.Second).Because(err)
		}
		return err
	}
}

// request says who changes something, and on what condition: If-Match is the stamp of what the change was decided on.
func request(r *http.Request, by string) (control.Request, error) {
	q := control.Request{By: by}
	key, err := serve.IdempotencyKey(r)
	if err != nil {
		return q, err
	}
	if q.ID = key; key == "" {
		q.ID = serve.TraceID(r.Context())
	}
	if tag := r.Header.Get("If-Match"); tag != "" && tag != "*" {
		stamp, err := control.ParseStamp(strings.Trim(tag, `"`))
		if err != nil {
			return q, serve.Problem(http.StatusBadRequest, "if-match-invalid", "If-Match: %v", err)
		}
		q.Expect = stamp
	}
	return q, nil
}

func answerEntry(w http.ResponseWriter, e control.Entry, err error) error {
	if err != nil {
		return err
	}
	w.Header().Set("ETag", `"`+e.Stamp.String()+`"`)
	return serve.JSON(w, http.StatusOK, e)
}

func (a *Admin) setSwitch(w http.ResponseWriter, r *http.Request, by string) error {
	var s control.Switch
	q, err := request(r, by)
	if err == nil {
		err = serve.Decode(r, &s)
	}
	if err != nil {
		return err
	}
	if s.Mode == control.Over && s.Upstream == "" {
		if lane := a.Front.Lane(r.PathValue("route")); lane != nil && lane.Fallback == nil {
			return serve.Problem(http.StatusBadRequest, "no-fallback", "%s has no fallback; name an upstream", lane.Name)
		}
	}
	e, err := a.Control.SetSwitch(r.Context(), r.PathValue("route"), q, s)
	return answerEntry(w, e, err)
}

func (a *Admin) step(w http.ResponseWriter, r *http.Request, by string) error {
	var s control.Step
	q, err := request(r, by)
	if err == nil {
		err = serve.Decode(r, &s)
	}
	if err != nil {
		return err
	}
	e, err := a.Control.Step(r.Context(), r.PathValue("route"), q, s)
	return answerEntry(w, e, err)
}

func (a *Admin) setStrangler(w http.ResponseWriter, r *http.Request, by string) error {
	var s control.Strangler
	q, err := request(r, by)
	if err == nil {
		err = serve.Decode(r, &s)
	}
	if err != nil {
		return err
	}
	e, err := a.Control.SetStrangler(r.Context(), r.PathValue("route"), q, s)
	return answerEntry(w, e, err)
}

func (a *Admin) audit(w http.ResponseWriter, r *http.Request, _ string) error {
	limit, err := serve.Limit(r, 50, control.AuditMax)
	if err != nil {
		return err
	}
	return serve.List(w, a.Control.Audit(limit), "")
}

func (a *Admin) routes(w http.ResponseWriter, r *http.Request, _ string) error {
	return serve.List(w, a.status(true), "")
}

// status is how all routes fare, as far as this gateway knows without asking.
func (a *Admin) status(operator bool) []RouteStatus {
	all := a.Front.status(operator)
	for i := range all {
		if primary, candidate, ok := a.Control.Outcomes(all[i].Name); ok && operator {
			all[i].Sides = map[string]control.Counts{"primary": primary, "candidate": candidate}
		}
	}
	return all
}

// RouteStatus is how a route fares. Without an operator's token it is its name and whether it is up.
type RouteStatus struct {
	Name  string `json:"name"`
	Title string `json:"title,omitempty"`
	Up    bool   `json:"up"`
	Why   string `json:"why,omitempty"` // it is not

	Mode      control.Mode              `json:"mode,omitempty"` // of the switch, now
	Switch    *control.Switch           `json:"switch,omitempty"`
	Canary    *control.Canary           `json:"canary,omitempty"`
	Strangler *control.Strangler        `json:"strangler,omitempty"`
	Stats     *Snapshot                 `json:"stats,omitempty"`
	Breakers  map[string]string         `json:"breakers,omitempty"` // by upstream
	Shadow    map[string]uint64         `json:"shadow,omitempty"`   // comparisons by outcome
	Examples  []shadow.Example          `json:"examples,omitempty"`
	Stamps    map[string]string         `json:"stamps,omitempty"` // what If-Match of a change may say
	Sides     map[string]control.Counts `json:"sides,omitempty"`  // of a canary release, of late
}

// Lane returns a route; nil: there is none of this name.
func (f *Front) Lane(name string) *Lane {
	for _, l := range f.lanes {
		if l.Name == name {
			return l
		}
	}
	return nil
}

func (f *Front) status(operator bool) []RouteStatus {
	now := f.Now()
	all := make([]RouteStatus, len(f.lanes))
	for i, l := range f.lanes {
		s := RouteStatus{Name: l.Name, Up: true}
		if l.Backend != nil {
			s.Title = title(l.Backend.Spec)
			if target, state := l.Backend.Where(); target == nil {
				s.Up, s.Why = false, string(state)
			}
		}
		if operator {
			l.describe(&s, f.Control().Route(l.Name), now)
		}
		all[i] = s
	}
	return all
}

func (l *Lane) describe(s *RouteStatus, set *control.Route, now time.Time) {
	stats := l.stats.snapshot()
	s.Mode, s.Stats = set.Switch.At(now), &stats
	s.Switch, s.Canary = &set.Switch, &set.Canary
	if set.Strangler.Legacy != "" {
		s.Strangler = &set.Strangler
	}
	s.Stamps = map[string]string{"switch": set.SwitchStamp.String(), "canary": set.CanaryStamp.String(), "strangler": set.StranglerStamp.String()}
	s.Breakers = map[string]string{}
	l.mu.Lock()
	for name, b := range l.breakers {
		if state := b.State(now); state.Mode != breaker.Closed || state.Trips > 0 {
			s.Breakers[name] = state.Mode.String()
		}
	}
	l.mu.Unlock()
	for _, o := range shadow.Outcomes() {
		if n := l.shadow.Count(o); n > 0 {
			if s.Shadow == nil {
				s.Shadow = map[string]uint64{}
			}
			s.Shadow[o.String()] = n
		}
	}
	s.Examples = l.shadow.Examples()
}

// encode is JSON that always encodes.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("gateway: " + err.Error())
	}
	return b
}
