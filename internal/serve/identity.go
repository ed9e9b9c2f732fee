package serve

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"dongne/internal/token"
	"dongne/internal/verify"
)

const (
	userBytesMax           = 64
	idempotencyKeyBytesMax = 255
)

// Verifier tells whom a bearer token speaks for. Its methods may be called by any number of goroutines.
type Verifier interface {
	// Verify returns what a token says, if it is good now. The text of the error may be public; one that wraps
	// verify.ErrUnavailable says nothing against the token.
	Verify(raw string) (*token.Claims, error)
	// AfterRevoked calls f, in a goroutine of its own, once what c came with is revoked, until stop is called.
	AfterRevoked(c *token.Claims, f func()) (stop func())
	// Age is how long ago it was certain which tokens were revoked.
	Age() time.Duration
	// Ready says why tokens cannot be verified yet; nil: they can.
	Ready() error
	// Metrics writes its metrics in Prometheus text.
	Metrics(w io.Writer)
}

// Identity is who calls.
type Identity struct {
	User   string        // the user, or of a service's own token the client: 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'
	Claims *token.Claims // nil in open development mode
}

// May says whether the caller has a right. In open development mode everybody has all.
func (i Identity) May(scope string) bool { return i.Claims == nil || i.Claims.Has(scope) }

var errUnauthenticated = Problem(http.StatusUnauthorized, "unauthenticated", "no caller; send Authorization: Bearer with an access token").
	withHeader("WWW-Authenticate", "Bearer")

// identify finds out who sent a request.
func (s *Server) identify(r *http.Request) (Identity, error) {
	if s.verifier == nil {
		user, err := openIdentity(r)
		return Identity{User: user}, err
	}
	raw, err := bearer(r.Header)
	if err != nil {
		return Identity{}, err
	}
	claims, err := s.verifier.Verify(raw)
	if errors.Is(err, verify.ErrUnavailable) {
		return Identity{}, Problem(http.StatusServiceUnavailable, "auth-away", "who calls cannot be known just now").RetryAfter(overloadRetry).Because(err)
	}
	if err == nil && !validUser(claims.Subject) {
		err = fmt.Errorf("its sub is not 1 to %d of A-Z, a-z, 0-9, '.', '_' and '-'", userBytesMax)
	}
	if err != nil {
		return Identity{}, Problem(http.StatusUnauthorized, "token-invalid", "%v", err).
			withHeader("WWW-Authenticate", `Bearer error="invalid_token"`)
	}
	return Identity{User: claims.Subject, Claims: claims}, nil
}

// bearer returns the token of a request (RFC 6750, section 2.1).
func bearer(h http.Header) (string, error) {
	values := h["Authorization"]
	if len(values) == 0 {
		return "", errUnauthenticated
	}
	const scheme = "bearer "
	if len(values) > 1 || len(values[0]) <= len(scheme) || !strings.EqualFold(values[0][:len(scheme)], scheme) {
		return "", Problem(http.StatusBadRequest, "authorization-invalid", "Authorization must come once, as Bearer with an access token").
			withHeader("WWW-Authenticate", `Bearer error="invalid_request"`)
	}
	return strings.TrimLeft(values[0][len(scheme):], " "), nil
}

// openIdentity believes the X-User header: 1 to 64 bytes of letters, digits, dot, underscore and dash.
func openIdentity(r *http.Request) (string, error) {
	values := r.Header["X-User"]
	if len(values) == 0 {
		return "", Problem(http.StatusUnauthorized, "unauthenticated", "no caller; in open development mode the X-User header names it").
			withHeader("WWW-Authenticate", "Bearer")
	}
	if len(values) > 1 || !validUser(values[0]) {
		return "", Problem(http.StatusBadRequest, "user-invalid",
			"X-User must come once, with 1 to %d of A-Z, a-z, 0-9, '.', '_' and '-'", userBytesMax)
	}
	return values[0], nil
}

func validUser(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return 1 <= len(s) && len(s) <= userBytesMax
}

// Caller returns who calls, and puts it into the request's log line. The error is a problem: 401 when there is nobody, or a
// token that is not good; 400 when it is malformed; 503 when that cannot be known just now.
func Caller(r *http.Request) (Identity, error) {
	x := exchangeOf(r.Context())
	if x == nil {
		return Identity{}, errors.New("serve: Caller: not a request of this shell")
	}
	if x.caller.User != "" {
		return x.caller, nil
	}
	caller, err := x.server.identify(r)
	if err == nil {
		x.caller = caller
	}
	return caller, err
}

// User returns the name of the Caller.
func User(r *http.Request) (string, error) {
	caller, err := Caller(r)
	return caller.User, err
}

// Scope returns the Caller if it has a right; the error is a problem: that of Caller, or 403.
func Scope(r *http.Request, scope string) (Identity, error) {
	caller, err := Caller(r)
	if err == nil && !caller.May(scope) {
		err = Problem(http.StatusForbidden, "scope-missing", "this needs a token with the scope %s", scope).
			withHeader("WWW-Authenticate", `Bearer error="insufficient_scope", scope="`+scope+`"`)
	}
	return caller, err
}

// IdempotencyKey returns the Idempotency-Key header, or "" when there is none. The error is a problem: the header comes
// more than once, or is not 1 to 255 visible ASCII characters.
func IdempotencyKey(r *http.Request) (string, error) {
	values := r.Header["Idempotency-Key"]
	if len(values) == 0 {
		return "", nil
	}
	valid := len(values) == 1 && 1 <= len(values[0]) && len(values[0]) <= idempotencyKeyBytesMax
	for i := 0; valid && i < len(values[0]); i++ {
		valid = '!' <= values[0][i] && values[0][i] <= '~'
	}
	if !valid {
		return "", Problem(http.StatusBadRequest, "idempotency-key-invalid",
			"Idempotency-Key must come once, with 1 to %d visible ASCII characters", idempotencyKeyBytesMax)
	}
	return values[0], nil
}
