package serve

import (
	"errors"
	"net/http"
	"time"
)

// A Refusal says what an error of the engine, and all that wrap it, are over HTTP: a problem of that status and code,
// with the error's text as the detail. 429 and 503 get a Retry-After of a second.
type Refusal struct {
	err    error
	status int
	code   string
}

// Refuse makes a Refusal.
func Refuse(err error, status int, code string) Refusal { return Refusal{err, status, code} }

const refusalRetry = time.Second

// refusing makes problems of the refusals that a handler returns.
func refusing(handler Handler, refusals []Refusal) Handler {
	if handler == nil || len(refusals) == 0 {
		return handler
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		err := handler(w, r)
		if err == nil {
			return nil
		}
		for _, refusal := range refusals {
			if !errors.Is(err, refusal.err) {
				continue
			}
			p := Problem(refusal.status, refusal.code, "%v", err).Because(err)
			if p.status == http.StatusTooManyRequests || p.status == http.StatusServiceUnavailable {
				p = p.RetryAfter(refusalRetry)
			}
			return p
		}
		return err
	}
}
