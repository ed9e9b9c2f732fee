package api

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"dongne/auth/node"
	"dongne/auth/realm"
	"dongne/internal/serve"
	"dongne/internal/verify"
)

// adminScope is what an administrator's token has.
const adminScope = "admin"

// Handlers are what people, and administrators, ask of a node.
type Handlers struct{ Node *node.Node }

// SignUp is POST /signup.
func (h Handlers) SignUp(w http.ResponseWriter, r *http.Request) error {
	var body SignUp
	if err := serve.Decode(r, &body); err != nil {
		return err
	}
	if err := h.Node.SignUp(r.Context(), node.SignUp(body), From(r)); err != nil {
		return err
	}
	return serve.JSON(w, http.StatusAccepted, map[string]string{"status": "accepted"})
}

// LogIn is POST /login.
func (h Handlers) LogIn(w http.ResponseWriter, r *http.Request) error {
	var body LogIn
	if err := serve.Decode(r, &body); err != nil {
		return err
	}
	pair, err := h.Node.LogIn(r.Context(), node.LogIn(body), From(r))
	if err != nil {
		return err
	}
	return serve.JSON(w, http.StatusOK, pair)
}

// caller returns who calls, with a token that counts by all that this node knows: also after a log-out that was answered a
// moment ago.
func (h Handlers) caller(r *http.Request) (serve.Identity, error) {
	caller, err := serve.Caller(r)
	if err == nil {
		err = h.Node.Good(r.Context(), caller.Claims)
	}
	if errors.Is(err, verify.ErrRevoked) {
		err = serve.Problem(http.StatusUnauthorized, "token-invalid", "%v", verify.ErrRevoked)
	}
	return caller, err
}

// person returns the user and session of a request; a client has no session, and cannot do what people do.
func (h Handlers) person(r *http.Request) (user string, session realm.SessionID, err error) {
	caller, err := h.caller(r)
	if err != nil {
		return "", session, err
	}
	session, ok := realm.ParseSession(caller.Claims.Session)
	if !ok {
		return "", session, serve.Problem(http.StatusForbidden, "not-a-session", "this is for users who have logged in")
	}
	return caller.User, session, nil
}

// LogOut is POST /logout.
func (h Handlers) LogOut(w http.ResponseWriter, r *http.Request) error {
	user, session, err := h.person(r)
	if err == nil {
		err = h.end(r, session, user)
	}
	return noContent(w, err)
}

func address(r *http.Request) string {
	if a := serve.Address(r); a.IsValid() {
		return a.String()
	}
	return ""
}

// ChangePassword is POST /password.
func (h Handlers) ChangePassword(w http.ResponseWriter, r *http.Request) error {
	user, session, err := h.person(r)
	if err != nil {
		return err
	}
	var body Password
	if err := serve.Decode(r, &body); err != nil {
		return err
	}
	return noContent(w, h.Node.SetPassword(r.Context(), user, body.Password, body.NewPassword, session, From(r)))
}

// Sessions is GET /sessions.
func (h Handlers) Sessions(w http.ResponseWriter, r *http.Request) error {
	user, session, err := h.person(r)
	if err != nil {
		return err
	}
	sessions, err := h.Node.Sessions(r.Context(), user)
	if err != nil {
		return err
	}
	return serve.List(w, SessionsOf(sessions, session.String()), "")
}

// EndSession is DELETE /sessions/{session}.
func (h Handlers) EndSession(w http.ResponseWriter, r *http.Request) error {
	user, _, err := h.person(r)
	if err != nil {
		return err
	}
	id, ok := realm.ParseSession(r.PathValue("session"))
	if !ok {
		return serve.Problem(http.StatusNotFound, "unknown", "there is no such session")
	}
	return noContent(w, h.end(r, id, user))
}

// end ends a session of a user's. That it has ended before is what he wanted.
func (h Handlers) end(r *http.Request, id realm.SessionID, user string) error {
	_, err := h.Node.Do(r.Context(), &realm.EndSession{Session: id, By: user, Address: address(r)})
	var refused *node.Refused
	if errors.As(err, &refused) && refused.Code == realm.SessionEnded {
		return nil
	}
	return err
}

// EndSessions is DELETE /sessions.
func (h Handlers) EndSessions(w http.ResponseWriter, r *http.Request) error {
	user, _, err := h.person(r)
	if err == nil {
		_, err = h.Node.Do(r.Context(), &realm.EndSessions{User: user, By: user, Address: address(r)})
	}
	return noContent(w, err)
}

// UserInfo is GET /userinfo.
func (h Handlers) UserInfo(w http.ResponseWriter, r *http.Request) error {
	user, _, err := h.person(r)
	if err != nil {
		return err
	}
	return h.tell(w, r, user)
}

func (h Handlers) tell(w http.ResponseWriter, r *http.Request, user string) error {
	if err := h.Node.Fresh(r.Context()); err != nil {
		return err
	}
	var u realm.User
	known := false
	h.Node.Read(func(s *realm.State) { u, known = s.User(user) })
	if !known {
		return &node.Refused{Code: realm.UserUnknown}
	}
	return serve.JSON(w, http.StatusOK, UserOf(u))
}

// Enrol is POST /second-factor.
func (h Handlers) Enrol(w http.ResponseWriter, r *http.Request) error {
	user, _, err := h.person(r)
	var body Confirmation
	if err == nil {
		err = serve.Decode(r, &body)
	}
	if err != nil {
		return err
	}
	enrolment, err := h.Node.Enrol(r.Context(), user, body.Password, From(r))
	if err != nil {
		return err
	}
	return serve.JSON(w, http.StatusCreated, enrolment)
}

// Confirm is POST /second-factor/confirm.
func (h Handlers) Confirm(w http.ResponseWriter, r *http.Request) error {
	user, _, err := h.person(r)
	var body Code
	if err == nil {
		err = serve.Decode(r, &body)
	}
	if err != nil {
		return err
	}
	codes, err := h.Node.Confirm(r.Context(), user, body.Code, From(r))
	if err != nil {
		return err
	}
	return serve.JSON(w, http.StatusOK, map[string][]string{"recovery_codes": codes})
}

// Unenrol is DELETE /second-factor.
func (h Handlers) Unenrol(w http.ResponseWriter, r *http.Request) error {
	user, _, err := h.person(r)
	var body Confirmation
	if err == nil {
		err = serve.Decode(r, &body)
	}
	if err != nil {
		return err
	}
	return noContent(w, h.Node.Unenrol(r.Context(), user, body.Password, From(r)))
}

// Admin is the handler of what an administrator does.
func (h Handlers) Admin(handle func(w http.ResponseWriter, r *http.Request, by string) error) serve.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		caller, err := h.caller(r)
		if err == nil {
			_, err = serve.Scope(r, adminScope)
		}
		if err != nil {
			return err
		}
		return handle(w, r, caller.User)
	}
}

// User is GET /users/{user}.
func (h Handlers) User(w http.ResponseWriter, r *http.Request, _ string) error {
	return h.tell(w, r, r.PathValue("user"))
}

// Disable is PUT, or with false DELETE, /users/{user}/disabled.
func (h Handlers) Disable(disabled bool) func(w http.ResponseWriter, r *http.Request, by string) error {
	return func(w http.ResponseWriter, r *http.Request, by string) error {
		_, err := h.Node.Do(r.Context(), &realm.SetDisabled{User: r.PathValue("user"), Disabled: disabled, By: by, Address: address(r)})
		return noContent(w, err)
	}
}

// SetGroups is PUT /users/{user}/groups.
func (h Handlers) SetGroups(w http.ResponseWriter, r *http.Request, by string) error {
	var body Groups
	if err := serve.Decode(r, &body); err != nil {
		return err
	}
	if err := node.CheckGroups(body.Groups); err != nil {
		return err
	}
	slices.Sort(body.Groups)
	_, err := h.Node.Do(r.Context(), &realm.SetGroups{User: r.PathValue("user"), Groups: slices.Compact(body.Groups), By: by, Address: address(r)})
	return noContent(w, err)
}

// RotateKey is POST /keys/rotate.
func (h Handlers) RotateKey(w http.ResponseWriter, r *http.Request, by string) error {
	id, err := h.Node.RotateKey(r.Context(), by)
	if err != nil {
		return err
	}
	return serve.JSON(w, http.StatusCreated, map[string]string{"kid": id})
}

// Migration is GET /migrate.
func (h Handlers) Migration(w http.ResponseWriter, r *http.Request, _ string) error {
	if err := h.Node.Fresh(r.Context()); err != nil {
		return err
	}
	return serve.JSON(w, http.StatusOK, migrationOf(h.Node))
}

// SetStage is PUT /migrate/routes/{route}.
func (h Handlers) SetStage(w http.ResponseWriter, r *http.Request, by string) error {
	var body Stage
	if err := serve.Decode(r, &body); err != nil {
		return err
	}
	stage, ok := realm.ParseStage(body.Stage)
	if !ok {
		return serve.Problem(http.StatusBadRequest, "stage-unknown", "stage: %q, want legacy, shadow, dual or new", body.Stage)
	}
	_, err := h.Node.Do(r.Context(), &realm.SetStage{Route: strings.ToLower(r.PathValue("route")), Stage: stage, By: by})
	return noContent(w, err)
}

func noContent(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

// migrationOf tells of the move from the older system.
func migrationOf(n *node.Node) any {
	stages := map[string]string{}
	var legacy int
	n.Read(func(s *realm.State) {
		for _, x := range s.Stages() {
			stages[x.Route] = x.Stage.String()
		}
		legacy = s.Counts().Legacy
	})
	return struct {
		Stages map[string]string `json:"stages"`
		Tokens int               `json:"tokens"`
		Shadow node.ShadowCounts `json:"shadow"`
	}{stages, legacy, n.Shadow()}
}
