package api

import (
	"errors"
	"net/http"

	"dongne/auth/forward"
	"dongne/auth/node"
	"dongne/internal/serve"
)

// Forward answers proxies that ask whether a request may pass, in the dialect of its path. The older system's token is
// looked for in the cookie of that name.
func Forward(n *node.Node, legacyCookie string) serve.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		dialect, ok := forward.Of(r.URL.Path)
		if !ok {
			return serve.Problem(http.StatusNotFound, "dialect-unknown", "there is no such dialect")
		}
		question, err := forward.Ask(dialect, r)
		var denial *forward.Denial
		if err == nil {
			denial, err = decide(w, r, n, legacyCookie, question)
		}
		if err != nil && !errors.As(err, &denial) {
			return err
		}
		if denial == nil {
			w.WriteHeader(http.StatusOK)
			return nil
		}
		w.WriteHeader(forward.Deny(dialect, w.Header(), denial))
		return nil
	}
}

// decide answers a question with a yes in the header, or a denial.
func decide(w http.ResponseWriter, r *http.Request, n *node.Node, legacyCookie string, q forward.Question) (*forward.Denial, error) {
	c := node.Credentials{Bearer: q.Bearer}
	for _, cookie := range q.Cookies {
		if cookie.Name == legacyCookie {
			c.Legacy = cookie.Value
		}
	}
	verdict, err := n.Judge(r.Context(), node.RouteOf(q.Path), c)
	if err == nil {
		err = forward.Allow(w.Header(), verdict.User, verdict.Email, verdict.Groups)
	}
	switch {
	case err == nil:
		return nil, nil
	case errors.Is(err, forward.ErrIdentity):
		return &forward.Denial{Status: http.StatusForbidden, Detail: "this user's groups fit no header"}, nil
	case !errors.Is(err, node.ErrNobody):
		return nil, err
	case q.Bearer != "":
		return &forward.Denial{Status: http.StatusUnauthorized, Code: forward.InvalidToken, Detail: "the token is not good here"}, nil
	}
	return forward.NoCredentials(), nil
}
