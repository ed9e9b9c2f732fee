package api

import (
	"net/http"

	"dongne/internal/serve"
)

// Reads is the handler of what a user reads.
func Reads(handle func(w http.ResponseWriter, r *http.Request, user string) error) serve.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		user, err := serve.User(r)
		if err == nil {
			err = handle(w, r, user)
		}
		return answer(err, false)
	}
}

// Writes is the handler of what a user changes. key is the Idempotency-Key, which every POST needs; "" if there is none.
// Every error says what it knows of the request's outcome.
func Writes(handle func(w http.ResponseWriter, r *http.Request, user, key string) error) serve.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		user, err := serve.User(r)
		var key string
		if err == nil {
			key, err = serve.IdempotencyKey(r)
		}
		if err == nil && key == "" && r.Method == http.MethodPost {
			err = serve.Problem(http.StatusBadRequest, "idempotency-key-missing", "every POST needs an Idempotency-Key header")
		}
		if err == nil {
			err = handle(w, r, user, key)
		}
		return answer(err, true)
	}
}

// Replayed says in the header that an answer was given before, if it was.
func Replayed(w http.ResponseWriter, was bool) {
	if was {
		w.Header().Set("Idempotency-Replayed", "true")
	}
}
