package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"dongne/internal/serve"
)

// LogIn is the form of the log-in page: login, password, code (of the second factor, if any) and next, the path to go to.
// It answers with a redirection: to next with the session's cookies, or back to the page, which then says why.
func (s *Sessions) LogIn(w http.ResponseWriter, r *http.Request) error {
	serve.LimitBody(r, tokenBytesMax)
	if err := r.ParseForm(); err != nil {
		return err
	}
	next := ownPath(r.PostForm.Get("next"))
	asked := map[string]string{}
	for _, field := range []string{"login", "password", "code"} {
		asked[field] = r.PostForm.Get(field)
	}
	body, err := json.Marshal(asked)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	header := http.Header{"X-Forwarded-For": {addressOf(r)}, "User-Agent": {r.UserAgent()}}
	status, data, err := s.post(ctx, "/login", header, "application/json", string(body))
	p, refused := loggedIn(status, data, err)
	if refused == "" {
		setCookies(w, r, p)
	} else {
		next = "/?" + url.Values{"refused": {refused}, "next": {next}}.Encode()
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
	return nil
}

// loggedIn returns the pair of auth's answer to a log-in, or why there is none: the code of its problem, which the page puts
// into words.
func loggedIn(status int, data []byte, err error) (p pair, refused string) {
	var problem struct {
		Code string `json:"code"`
	}
	switch {
	case err != nil:
		return p, authAway
	case status == http.StatusOK && json.Unmarshal(data, &p) == nil && p.good():
		return p, ""
	case json.Unmarshal(data, &problem) != nil || problem.Code == "":
		return p, authAway
	case status >= 500 && problem.Code != "busy":
		return p, authAway
	}
	return p, problem.Code
}

// authAway is the code of a problem, and what the page is told, while auth does not answer.
const authAway = "auth-away"

// LogOut ends the session of the request's cookies at auth, for good, and then forgets it here.
func (s *Sessions) LogOut(w http.ResponseWriter, r *http.Request) error {
	if bearer := r.Header["Authorization"]; len(bearer) > 0 {
		ctx, cancel := context.WithTimeout(r.Context(), refreshMax)
		defer cancel()
		status, _, err := s.post(ctx, "/logout", http.Header{"Authorization": bearer}, "application/json", "")
		if err != nil || status >= 500 {
			return serve.Problem(http.StatusServiceUnavailable, authAway, "the session cannot be ended just now").
				Because(err).RetryAfter(retryAfter)
		}
	}
	w.Header().Del("Set-Cookie") // a session that was renewed on the way here
	clearCookies(w, r)
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}

// ownPath is the path to go to after a log-in, never one of another site.
func ownPath(next string) string {
	if !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n\t") {
		return "/"
	}
	return next
}
