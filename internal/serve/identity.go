package serve

import (
	"errors"
	"net/http"
)

const (
	userBytesMax           = 64
	idempotencyKeyBytesMax = 255
)

// identifier finds out who calls. It is the one place where the verification of bearer tokens goes; today there is only
// openIdentity. Its error is a problem.
type identifier func(r *http.Request) (user string, err error)

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

// User returns the caller, and puts it into the request's log line. The error is a problem: 401 when there is none, 400
// when it is malformed.
func User(r *http.Request) (string, error) {
	x := exchangeOf(r.Context())
	if x == nil {
		return "", errors.New("serve: User: not a request of this shell")
	}
	if x.user != "" {
		return x.user, nil
	}
	user, err := x.server.identify(r)
	if err == nil {
		x.user = user
	}
	return user, err
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
