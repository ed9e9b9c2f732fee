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
	"dongne/internal/verify"
)

const (
	refreshEarly    = 20 * time.Second // before its end an access token is replaced, so that it outlives the request
	refreshMax      = 5 * time.Second  // for auth's answer
	refreshKept     = 10 * time.Second // as long as auth gives the same successor again
	refreshesKept   = 10_000           // successors that are remembered
	refreshesAtOnce = 256              // that auth is asked for
	tokenBytesMax   = 16 << 10         // of an answer of auth
)

// Sessions lets browsers log in: the token pair that auth gives is kept in cookies that no script can read, and becomes the
// bearer token of every request that has none of its own. A pair whose access token ends soon is replaced on the way,
// once for all requests that come with it at the same time.
type Sessions struct {
	Verify    func(raw string) (*token.Claims, error)
	Auth      func() *url.URL // where auth is; nil while it is nowhere
	Transport http.RoundTripper
	Now       func() time.Time

	mu        sync.Mutex
	refreshes map[refreshKey]*refresh // under way or remembered; guarded by mu
	settled   []settled               // of those the remembered ones, oldest first; guarded by mu
}

// A pair is what auth gives for a log-in or a refresh token.
type pair struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Error   string `json:"error"`
}

// good says whether it is one.
func (p pair) good() bool { return p.Access != "" && p.Refresh != "" }

type refreshKey [sha256.Size]byte // of a refresh token

type refresh struct {
	done chan struct{} // closed when the rest is known
	pair pair
	err  error
}

type settled struct {
	key refreshKey
	at  time.Time
}

// errRefused says that auth knows no such session any more.
var errRefused = errors.New("auth does not know this session")

// Bearer gives a request that has cookies and no Authorization the bearer token of its session, and takes the cookies out of
// what the services see. admit is asked before auth is, for a session that is to be renewed. The error is a problem: that of
// admit, or that auth cannot be asked just now.
func (s *Sessions) Bearer(w http.ResponseWriter, r *http.Request, admit func() error) error {
	access, refresh := takeCookies(r)
	if access == "" && refresh == "" || len(r.Header["Authorization"]) > 0 {
		return nil
	}
	w.Header().Add("Vary", "Cookie") // whoever keeps the answer must not give it to others
	claims, err := s.Verify(access)
	switch {
	case err == nil && (refresh == "" || claims.Expires.Sub(s.Now()) > refreshEarly):
		r.Header.Set("Authorization", "Bearer "+access)
		return nil
	case access != "" && errors.Is(err, verify.ErrUnavailable):
		r.Header.Set("Authorization", "Bearer "+access) // whoever wants to know the caller says that it is not known
		return nil
	case refresh == "":
		clearCookies(w, r)
		return nil
	}
	fresh, failed := s.refresh(r.Context(), refresh, admit)
	var said *serve.Error
	switch {
	case failed == nil:
		setCookies(w, r, fresh)
		r.Header.Set("Authorization", "Bearer "+fresh.Access)
	case err == nil: // the old one is good for a little
		r.Header.Set("Authorization", "Bearer "+access)
	case errors.Is(failed, errRefused):
		clearCookies(w, r)
	case errors.As(failed, &said):
		return said
	default:
		return serve.Problem(http.StatusServiceUnavailable, authAway, "the session cannot be renewed just now").
			Because(failed).RetryAfter(retryAfter)
	}
	return nil
}

// refresh has auth replace a pair. Requests that come with the same refresh token share one answer, for as long as auth
// would give the same again.
func (s *Sessions) refresh(ctx context.Context, old string, admit func() error) (pair, error) {
	key := refreshKey(sha256.Sum256([]byte(old)))
	f, err := s.join(ctx, key, old, admit)
	if err != nil {
		return pair{}, err
	}
	select {
	case <-f.done:
		return f.pair, f.err
	case <-ctx.Done():
		return pair{}, ctx.Err()
	}
}

// join returns the refresh of a token, which it begins if there is none.
func (s *Sessions) join(ctx context.Context, key refreshKey, old string, admit func() error) (*refresh, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(s.Now())
	if f := s.refreshes[key]; f != nil {
		return f, nil
	}
	if err := admit(); err != nil {
		return nil, err
	}
	if len(s.refreshes)-len(s.settled) >= refreshesAtOnce {
		return nil, fmt.Errorf("%d sessions are being renewed", refreshesAtOnce)
	}
	if s.refreshes == nil {
		s.refreshes = map[refreshKey]*refresh{}
	}
	f := &refresh{done: make(chan struct{})}
	s.refreshes[key] = f
	go s.renew(context.WithoutCancel(ctx), key, f, old) // others may wait for it when this client has gone
	return f, nil
}

// renew asks auth. What is refused is not remembered: anybody can make up tokens.
func (s *Sessions) renew(ctx context.Context, key refreshKey, f *refresh, old string) {
	ctx, cancel := context.WithTimeout(ctx, refreshMax)
	defer cancel()
	f.pair, f.err = s.ask(ctx, old)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.err != nil {
		delete(s.refreshes, key)
	} else {
		s.settled = append(s.settled, settled{key, s.Now()})
	}
	close(f.done)
}

// forget drops the answers that are no longer of use, and the oldest where there are too many. The caller holds mu.
func (s *Sessions) forget(now time.Time) {
	for len(s.settled) > 0 && (now.Sub(s.settled[0].at) > refreshKept || len(s.settled) >= refreshesKept) {
		delete(s.refreshes, s.settled[0].key)
		s.settled = s.settled[1:]
	}
}

// ask returns the pair that auth gives for a refresh token. errRefused: it gives none.
func (s *Sessions) ask(ctx context.Context, old string) (pair, error) {
	var p pair
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {old}}
	status, data, err := s.post(ctx, "/oauth2/token", http.Header{}, "application/x-www-form-urlencoded", form.Encode())
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("auth answered %d, without JSON: %w", status, err)
	}
	switch {
	case status == http.StatusBadRequest && (p.Error == "invalid_grant" || p.Error == "invalid_request"):
		return p, errRefused
	case status != http.StatusOK || !p.good():
		return p, fmt.Errorf("auth answered %d, without a token pair", status)
	}
	return p, nil
}

// post asks auth, and returns at most tokenBytesMax of what it says.
func (s *Sessions) post(ctx context.Context, path string, header http.Header, kind, body string) (status int, answer []byte, err error) {
	auth := s.Auth()
	if auth == nil {
		return 0, nil, errors.New("auth is not up")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, auth.JoinPath(path).String(), strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	r.Header = header
	r.Header.Set("Content-Type", kind)
	w, err := s.Transport.RoundTrip(r)
	if err != nil {
		return 0, nil, err
	}
	defer w.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(w.Body, tokenBytesMax))
	return w.StatusCode, answer, err
}
