package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"dongne/internal/serve"
	"dongne/internal/token"
)

const (
	accessCookie  = "dongne_access"
	refreshCookie = "dongne_refresh"
	hostPrefix    = "__Host-" // under TLS: the browser takes such a cookie from this very host alone, with Secure and Path=/

	refreshEarly  = 20 * time.Second // before its end an access token is replaced, so that it outlives the request
	refreshMax    = 5 * time.Second  // for auth's answer
	refreshKept   = 10 * time.Second // as long as auth gives the same successor again
	refreshesMax  = 10_000           // that are remembered or under way
	tokenBytesMax = 16 << 10         // of an answer of auth
)

// Sessions lets browsers log in: the token pair that auth gives is kept in cookies that no script can read, and becomes the
// bearer token of every request that has none of its own. A pair whose access token ends soon is replaced on the way,
// once for all requests that come with it at the same time.
type Sessions struct {
	Verify    func(raw string) (*token.Claims, error)
	Auth      func() *url.URL // where auth is; nil while it is nowhere
	Transport http.RoundTripper
	Secure    bool // the gateway is reached by TLS
	Now       func() time.Time

	mu        sync.Mutex
	refreshes map[[sha256.Size]byte]*refresh // by the refresh token; guarded by mu
}

// A pair is what auth gives for a log-in or a refresh token.
type pair struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Error   string `json:"error"`
}

type refresh struct {
	done chan struct{} // closed when the rest is known
	at   time.Time     // when it was
	pair pair
	err  error
}

// errRefused says that auth knows no such session any more.
var errRefused = errors.New("auth does not know this session")

// Bearer gives a request that has cookies and no Authorization the bearer token of its session, and takes the cookies out of
// what the services see. The error is a problem: auth cannot be asked just now.
func (s *Sessions) Bearer(w http.ResponseWriter, r *http.Request) error {
	access, refresh := s.cookies(r)
	if access == "" && refresh == "" || len(r.Header["Authorization"]) > 0 {
		return nil
	}
	now := s.Now()
	claims, err := s.Verify(access)
	if err == nil && (refresh == "" || claims.Expires.Sub(now) > refreshEarly) {
		r.Header.Set("Authorization", "Bearer "+access)
		return nil
	}
	if refresh == "" {
		return nil // over: nobody
	}
	fresh, failed := s.refresh(r.Context(), refresh)
	switch {
	case failed == nil:
		s.set(w, fresh)
		r.Header.Set("Authorization", "Bearer "+fresh.Access)
	case err == nil: // the old one is good for a little
		r.Header.Set("Authorization", "Bearer "+access)
	case errors.Is(failed, errRefused):
		s.clear(w)
	default:
		return serve.Problem(http.StatusServiceUnavailable, "auth-away", "the session cannot be renewed just now").
			Because(failed).RetryAfter(retryAfter)
	}
	return nil
}

// cookies takes the session's cookies out of the request.
func (s *Sessions) cookies(r *http.Request) (access, refresh string) {
	if !strings.Contains(r.Header.Get("Cookie"), "dongne_") {
		return "", ""
	}
	all := r.Cookies()
	r.Header.Del("Cookie")
	for _, c := range all {
		switch c.Name {
		case s.name(accessCookie):
			access = c.Value
		case s.name(refreshCookie):
			refresh = c.Value
		case accessCookie, refreshCookie, hostPrefix + accessCookie, hostPrefix + refreshCookie: // of the other scheme
		default:
			r.AddCookie(c)
		}
	}
	return access, refresh
}

func (s *Sessions) name(cookie string) string {
	if s.Secure {
		return hostPrefix + cookie
	}
	return cookie
}

func (s *Sessions) set(w http.ResponseWriter, p pair) {
	s.put(w, accessCookie, p.Access, int(refreshLife/time.Second))
	s.put(w, refreshCookie, p.Refresh, int(refreshLife/time.Second))
}

func (s *Sessions) clear(w http.ResponseWriter) {
	s.put(w, accessCookie, "", -1)
	s.put(w, refreshCookie, "", -1)
}

// refreshLife is how long browsers keep the cookies: as long as a refresh token is good.
const refreshLife = 30 * 24 * time.Hour

func (s *Sessions) put(w http.ResponseWriter, name, value string, seconds int) {
	http.SetCookie(w, &http.Cookie{Name: s.name(name), Value: value, Path: "/", MaxAge: seconds,
		HttpOnly: true, Secure: s.Secure, SameSite: http.SameSiteLaxMode})
}

// refresh has auth replace a pair. Requests that come with the same refresh token share one answer, for as long as auth
// would give the same again.
func (s *Sessions) refresh(ctx context.Context, old string) (pair, error) {
	key, now := sha256.Sum256([]byte(old)), s.Now()
	s.mu.Lock()
	f := s.refreshes[key]
	if f == nil {
		if s.refreshes == nil {
			s.refreshes = map[[sha256.Size]byte]*refresh{}
		}
		s.forget(now)
		if len(s.refreshes) >= refreshesMax {
			s.mu.Unlock()
			return pair{}, fmt.Errorf("%d sessions are being renewed", refreshesMax)
		}
		f = &refresh{done: make(chan struct{})}
		s.refreshes[key] = f
		go s.renew(context.WithoutCancel(ctx), key, f, old) // others may wait for it when this client has gone
	}
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.pair, f.err
	case <-ctx.Done():
		return pair{}, ctx.Err()
	}
}

func (s *Sessions) renew(ctx context.Context, key [sha256.Size]byte, f *refresh, old string) {
	ctx, cancel := context.WithTimeout(ctx, refreshMax)
	defer cancel()
	f.pair, f.err = s.ask(ctx, "/oauth2/token", nil, "application/x-www-form-urlencoded",
		url.Values{"grant_type": {"refresh_token"}, "refresh_token": {old}}.Encode())
	s.mu.Lock()
	defer s.mu.Unlock()
	f.at = s.Now()
	if f.err != nil && !errors.Is(f.err, errRefused) {
		delete(s.refreshes, key) // the next request asks again
	}
	close(f.done)
}

// forget drops the answers that are no longer of use. The caller holds mu.
func (s *Sessions) forget(now time.Time) {
	for key, f := range s.refreshes {
		if !f.at.IsZero() && now.Sub(f.at) > refreshKept {
			delete(s.refreshes, key)
		}
	}
}

// ask posts to auth and returns the pair that it answers with. errRefused: it answered that it gives none.
func (s *Sessions) ask(ctx context.Context, path string, header http.Header, kind, body string) (pair, error) {
	var p pair
	status, data, err := s.post(ctx, path, header, kind, body)
	if err != nil {
		return p, err
	}
	if status >= 400 && status < 500 && status != http.StatusTooManyRequests {
		return p, errRefused
	}
	if err := json.Unmarshal(data, &p); err != nil || status != http.StatusOK || p.Access == "" || p.Refresh == "" {
		return p, fmt.Errorf("auth answered %d, without a token pair: %w", status, err)
	}
	return p, nil
}

func (s *Sessions) post(ctx context.Context, path string, header http.Header, kind, body string) (status int, answer []byte, err error) {
	auth := s.Auth()
	if auth == nil {
		return 0, nil, errors.New("auth is not up")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, auth.JoinPath(path).String(), strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	for name, values := range header {
		r.Header[name] = values
	}
	r.Header.Set("Content-Type", kind)
	w, err := s.Transport.RoundTrip(r)
	if err != nil {
		return 0, nil, err
	}
	defer w.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(w.Body, tokenBytesMax))
	return w.StatusCode, answer, err
}

// LogIn is the form of the log-in page: login, password, code (of the second factor, if any) and next, the path to go to.
// It answers with a redirection: to next with the session's cookies, or back to the page, which then says why.
func (s *Sessions) LogIn(w http.ResponseWriter, r *http.Request) error {
	serve.LimitBody(r, tokenBytesMax)
	if err := r.ParseForm(); err != nil {
		return err
	}
	next := ownPath(r.PostForm.Get("next"))
	body, err := json.Marshal(map[string]string{"login": r.PostForm.Get("login"), "password": r.PostForm.Get("password"), "code": r.PostForm.Get("code")})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	status, data, err := s.post(ctx, "/login", http.Header{"X-Forwarded-For": {addressOf(r)}, "User-Agent": r.Header["User-Agent"]}, "application/json", string(body))
	var p pair
	switch {
	case err == nil && status == http.StatusOK && json.Unmarshal(data, &p) == nil && p.Access != "" && p.Refresh != "":
		s.set(w, p)
	case err == nil && status >= 400 && status < 500:
		var problem struct {
			Code string `json:"code"`
		}
		json.Unmarshal(data, &problem) // without a code the page says only that it failed
		next = "/?" + url.Values{"refused": {problem.Code}, "next": {next}}.Encode()
	default:
		next = "/?" + url.Values{"refused": {"auth-away"}, "next": {next}}.Encode()
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
	return nil
}

// LogOut ends the session of the request's cookies at auth, for good, and then forgets it here.
func (s *Sessions) LogOut(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), refreshMax)
	defer cancel()
	status, _, err := s.post(ctx, "/logout", http.Header{"Authorization": r.Header["Authorization"]}, "application/json", "")
	if err != nil || status >= 500 {
		return serve.Problem(http.StatusServiceUnavailable, "auth-away", "the session cannot be ended just now").
			Because(err).RetryAfter(retryAfter)
	}
	s.clear(w)
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
