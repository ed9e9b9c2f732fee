package gateway

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"dongne/internal/gateway/control"
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

// Admin is what operators see and change, and what everybody sees.
type Admin struct {
	front   *Front
	control *control.Node
	prober  prober
}

// NewAdmin returns the operators' way to a front and what is set on it.
func NewAdmin(front *Front, set *control.Node) *Admin {
	return &Admin{front: front, control: set, prober: prober{lanes: front.lanes, now: front.Now}}
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
		if lane := a.front.Lane(r.PathValue("route")); lane != nil && lane.Fallback == nil {
			return serve.Problem(http.StatusBadRequest, "no-fallback", "%s has no fallback; name an upstream", lane.Name)
		}
	}
	e, err := a.control.SetSwitch(r.Context(), r.PathValue("route"), q, s)
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
	e, err := a.control.Step(r.Context(), r.PathValue("route"), q, s)
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
	e, err := a.control.SetStrangler(r.Context(), r.PathValue("route"), q, s)
	return answerEntry(w, e, err)
}

func (a *Admin) audit(w http.ResponseWriter, r *http.Request, _ string) error {
	limit, err := serve.Limit(r, 50, control.AuditMax)
	if err != nil {
		return err
	}
	return serve.List(w, a.control.Audit(limit), "")
}

func (a *Admin) routes(w http.ResponseWriter, r *http.Request, _ string) error {
	return serve.List(w, a.status(r.Context(), true), "")
}
