// Package api is how auth's HTTP API looks: the bodies that it reads and writes, and what its errors are over HTTP.
package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"dongne/auth/node"
	"dongne/auth/password"
	"dongne/auth/realm"
	"dongne/internal/serve"
	"dongne/internal/sharedlog"
	"dongne/internal/verify"
)

// The bodies of requests.
type (
	// SignUp is the body of POST /signup.
	SignUp struct {
		Login    string `json:"login"`
		Password string `json:"password"`
		Name     string `json:"name"`
		Email    string `json:"email"`
	}
	// LogIn is the body of POST /login.
	LogIn struct {
		Login    string `json:"login"`
		Password string `json:"password"`
		Code     string `json:"code"`
	}
	// Password is the body of POST /password.
	Password struct {
		Password    string `json:"password"`
		NewPassword string `json:"new_password"`
	}
	// Confirmation is the body of what wants the password again.
	Confirmation struct {
		Password string `json:"password"`
	}
	// Code is the body of POST /second-factor/confirm.
	Code struct {
		Code string `json:"code"`
	}
	// Groups is the body of PUT /users/{user}/groups.
	Groups struct {
		Groups []string `json:"groups"`
	}
	// Stage is the body of PUT /migrate/routes/{route}.
	Stage struct {
		Stage string `json:"stage"`
	}
)

// Handle is a handler whose errors are what Problem says.
func Handle(handle serve.Handler) serve.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		err := Problem(handle(w, r))
		var problem *serve.Error
		if errors.As(err, &problem) && problem.Status() == http.StatusUnauthorized && w.Header().Get("WWW-Authenticate") == "" {
			w.Header().Set("WWW-Authenticate", "Bearer") // RFC 9110, section 15.5.2; the shell's own says more, in its place
		}
		return err
	}
}

// From says where a request comes from.
func From(r *http.Request) node.From {
	return node.From{Address: serve.Address(r), Agent: r.UserAgent()}
}

// refused are the statuses of the realm's refusals; the others are conflicts.
var refused = map[realm.Code]int{
	realm.UserUnknown:     http.StatusNotFound,
	realm.Unknown:         http.StatusNotFound,
	realm.LegacyUnknown:   http.StatusNotFound,
	realm.SessionEnded:    http.StatusNotFound,
	realm.SessionExpired:  http.StatusNotFound,
	realm.FactorNeeded:    http.StatusUnauthorized,
	realm.StepUsed:        http.StatusUnauthorized,
	realm.RecoveryUnknown: http.StatusUnauthorized,
	realm.PasswordShort:   http.StatusBadRequest,
	realm.Invalid:         http.StatusBadRequest,
	realm.Full:            http.StatusInsufficientStorage,
}

// Problem is what an error of the node is over HTTP.
func Problem(err error) error {
	var weak *password.Weak
	var no *node.Refused
	var wait *node.Throttled
	var log *sharedlog.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &weak):
		return serve.Problem(http.StatusBadRequest, weak.Code, "%s: %s", weak.Field, weak.Detail)
	case errors.As(err, &wait):
		return serve.Problem(http.StatusTooManyRequests, "throttled", "%v", wait).RetryAfter(wait.Wait)
	case errors.Is(err, password.ErrBusy):
		return serve.Problem(http.StatusServiceUnavailable, "busy", "too many passwords are being checked").RetryAfter(time.Second)
	case errors.As(err, &log):
		return logProblem(log)
	case errors.Is(err, verify.ErrUnavailable):
		return serve.Problem(http.StatusServiceUnavailable, "keys-unavailable", "the key of this token cannot be had now").RetryAfter(time.Second)
	case errors.Is(err, node.ErrCredentials):
		return serve.Problem(http.StatusUnauthorized, "credentials-wrong", "%v", node.ErrCredentials)
	case errors.Is(err, node.ErrFactorNeeded):
		return serve.Problem(http.StatusUnauthorized, "second-factor-needed", "%v", node.ErrFactorNeeded)
	case errors.Is(err, node.ErrFactor):
		return serve.Problem(http.StatusUnauthorized, "second-factor-wrong", "%v", node.ErrFactor)
	case errors.As(err, &no):
		status := refused[no.Code]
		if status == 0 {
			status = http.StatusConflict
		}
		return serve.Problem(status, no.Code.String(), "%s", details[no.Code])
	}
	return err
}

// logProblem says what is known of a request that the log did not answer.
func logProblem(err *sharedlog.Error) error {
	status, code := http.StatusServiceUnavailable, "store-unavailable"
	if errors.Is(err, sharedlog.ErrFull) {
		status, code = http.StatusInsufficientStorage, "store-full"
	}
	detail := "the store did not answer in time"
	if errors.Is(err, context.Canceled) {
		detail = "the request was given up"
	}
	return serve.Problem(status, code, "%s", detail).Outcome(err.Outcome.String()).RetryAfter(time.Second).Because(err)
}

// unavailable says whether an error is about this service and not about what it was asked.
func unavailable(err error) bool {
	var log *sharedlog.Error
	return errors.Is(err, verify.ErrUnavailable) || errors.As(err, &log)
}

// details say the refusals that a client may meet for people.
var details = map[realm.Code]string{
	realm.UserUnknown:   "there is no such user",
	realm.Unknown:       "there is no such session",
	realm.SessionEnded:  "this session has ended",
	realm.Stale:         "the password or the second factor was changed meanwhile",
	realm.PasswordShort: "the password is too short to do without a second factor",
	realm.NotPending:    "there is no second factor to confirm, or to remove",
	realm.LegacyUnknown: "there is no such token",
	realm.Full:          "a limit of this service is reached",
	realm.Invalid:       "the request cannot be done as it is",
}
