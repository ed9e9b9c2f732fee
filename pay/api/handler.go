package api

import (
	"net/http"

	"dongne/internal/serve"
	"dongne/pay/node"
)

// Rights that a token may have as scopes. Without them a caller sees and moves what is his own; see node.View.
const (
	Read  = "pay:read"  // to see everything
	Write = "pay:write" // to move what others own, and to see everything
)

// View is what a caller may see of the ledger.
func View(n *node.Node, caller serve.Identity) node.View {
	if caller.May(Read) || caller.May(Write) {
		return n.Everything()
	}
	return n.SeenBy(caller.User)
}

// caller is who calls, if he has a right; "" is none in particular.
func caller(r *http.Request, right string) (serve.Identity, error) {
	if right == "" {
		return serve.Caller(r)
	}
	return serve.Scope(r, right)
}

// Reads is the handler of what a caller reads; right is what he needs for that, "" for nothing.
func Reads(right string, handle func(w http.ResponseWriter, r *http.Request, caller serve.Identity) error) serve.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		caller, err := caller(r, right)
		if err == nil {
			err = handle(w, r, caller)
		}
		return answer(err, false)
	}
}

// Writes is the handler of what a caller changes; right is what he needs for that, "" for nothing. key is the
// Idempotency-Key, which every POST needs; "" if there is none. Every error says what it knows of the request's outcome.
func Writes(right string, handle func(w http.ResponseWriter, r *http.Request, caller serve.Identity, key string) error) serve.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		caller, err := caller(r, right)
		var key string
		if err == nil {
			key, err = serve.IdempotencyKey(r)
		}
		if err == nil && key == "" && r.Method == http.MethodPost {
			err = serve.Problem(http.StatusBadRequest, "idempotency-key-missing", "every POST needs an Idempotency-Key header")
		}
		if err == nil {
			err = handle(w, r, caller, key)
		}
		return answer(err, true)
	}
}

// Owner reads the query parameter owner: whose accounts are listed. Who may see his own alone need not say so, and may say
// nobody else; the error is a problem.
func Owner(r *http.Request, caller serve.Identity) (string, error) {
	owner := r.URL.Query().Get("owner")
	if owner != "" && owner != caller.User && !caller.May(Write) {
		_, err := serve.Scope(r, Read)
		return owner, err
	}
	return owner, nil
}

// Replayed says in the header that an answer was given before, if it was.
func Replayed(w http.ResponseWriter, was bool) {
	if was {
		w.Header().Set("Idempotency-Replayed", "true")
	}
}
