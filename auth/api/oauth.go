package api

import (
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"dongne/auth/node"
	"dongne/internal/serve"
)

const formBytesMax = 64 << 10

// LegacyTokenType is the subject_token_type of a token of the older system, for which a pair is given in exchange (RFC 8693).
const LegacyTokenType = "urn:dongne:params:oauth:token-type:legacy-session"

// exchangeGrant is the grant_type of RFC 8693.
const exchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange"

// oauthError is an error of RFC 6749, section 5.2.
type oauthError struct {
	status      int
	Code        string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

// Error is the code and the description.
func (e *oauthError) Error() string { return e.Code + ": " + e.Description }

func invalid(code, description string) error {
	return &oauthError{http.StatusBadRequest, code, description}
}

// OAuth is a handler of RFC 6749's kind: it reads a form and answers JSON, its errors too.
func OAuth(handle func(r *http.Request, form url.Values) (any, error)) serve.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		form, err := readForm(r)
		var answer any
		if err == nil {
			answer, err = handle(r, form)
		}
		if errors.Is(err, node.ErrClient) {
			err = &oauthError{http.StatusUnauthorized, "invalid_client", node.ErrClient.Error()}
			w.Header().Set("WWW-Authenticate", `Basic realm="dongne"`)
		}
		if errors.Is(err, node.ErrScope) {
			err = invalid("invalid_scope", err.Error())
		}
		if errors.Is(err, node.ErrGrant) {
			err = invalid("invalid_grant", node.ErrGrant.Error())
		}
		w.Header().Set("Pragma", "no-cache") // RFC 6749, section 5.1
		var e *oauthError
		switch {
		case errors.As(err, &e):
			return serve.JSON(w, e.status, e)
		case err != nil:
			return Problem(err)
		case answer == nil:
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusOK)
			return nil
		}
		return serve.JSON(w, http.StatusOK, answer)
	}
}

// readForm reads a body of form fields, each of which may come once.
func readForm(r *http.Request) (url.Values, error) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, invalid("invalid_request", "Content-Type must be application/x-www-form-urlencoded")
	}
	serve.LimitBody(r, formBytesMax)
	if err := r.ParseForm(); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, err
		}
		return nil, invalid("invalid_request", "the body is not a form")
	}
	for name, values := range r.PostForm {
		if len(values) > 1 {
			return nil, invalid("invalid_request", "a field comes more than once: "+name)
		}
	}
	return r.PostForm, nil
}

// client returns the id and secret that a client sends: by Basic, or in the form (RFC 6749, section 2.3.1).
func client(r *http.Request, form url.Values) (id, secret string, err error) {
	user, password, basic := r.BasicAuth()
	switch {
	case basic && form.Has("client_secret"):
		return "", "", invalid("invalid_request", "the client's secret comes twice")
	case basic:
		id, err1 := url.QueryUnescape(user)
		secret, err2 := url.QueryUnescape(password)
		if err1 != nil || err2 != nil {
			return "", "", invalid("invalid_request", "the client's id or secret is not form-encoded")
		}
		return id, secret, nil
	}
	return form.Get("client_id"), form.Get("client_secret"), nil
}

// Token is POST /oauth2/token: refresh_token, client_credentials, and the exchange of an older system's token. There is no
// grant for passwords, on purpose.
func Token(n *node.Node) serve.Handler {
	return OAuth(func(r *http.Request, form url.Values) (any, error) {
		switch grant := form.Get("grant_type"); grant {
		case "refresh_token":
			if form.Get("refresh_token") == "" {
				return nil, invalid("invalid_request", "refresh_token is missing")
			}
			return n.Refresh(r.Context(), form.Get("refresh_token"), From(r))
		case "client_credentials":
			id, secret, err := client(r, form)
			if err != nil {
				return nil, err
			}
			return n.ForClient(r.Context(), id, secret, form.Get("scope"), From(r))
		case exchangeGrant:
			if form.Get("subject_token_type") != LegacyTokenType || form.Get("subject_token") == "" {
				return nil, invalid("invalid_request", "want a subject_token, of type "+LegacyTokenType)
			}
			return n.Exchange(r.Context(), form.Get("subject_token"), From(r))
		case "":
			return nil, invalid("invalid_request", "grant_type is missing")
		default:
			return nil, invalid("unsupported_grant_type", "there are refresh_token, client_credentials and "+exchangeGrant)
		}
	})
}

// Revoke is POST /oauth2/revoke (RFC 7009). Who has a token may revoke it.
func Revoke(n *node.Node) serve.Handler {
	return OAuth(func(r *http.Request, form url.Values) (any, error) {
		if form.Get("token") == "" {
			return nil, invalid("invalid_request", "token is missing")
		}
		return nil, n.Revoke(r.Context(), form.Get("token"), From(r))
	})
}

// IntrospectScope is what a token needs to introspect others, if the caller is no client.
const IntrospectScope = "introspect"

// Introspect is POST /oauth2/introspect (RFC 7662), for clients and for tokens of the scope introspect.
func Introspect(n *node.Node) serve.Handler {
	return OAuth(func(r *http.Request, form url.Values) (any, error) {
		if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
			claims, err := n.Verify(r.Context(), bearer)
			if unavailable(err) {
				return nil, err
			}
			if err != nil || !slices.Contains(claims.Scope, IntrospectScope) {
				return nil, node.ErrClient
			}
		} else {
			id, secret, err := client(r, form)
			if err == nil {
				_, err = n.Client(r.Context(), id, secret, From(r))
			}
			if err != nil {
				return nil, err
			}
		}
		if form.Get("token") == "" {
			return nil, invalid("invalid_request", "token is missing")
		}
		return n.Introspect(r.Context(), form.Get("token"))
	})
}
