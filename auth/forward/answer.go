package forward

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
)

// The headers of an answer.
const (
	HeaderUser   = "X-Auth-Request-User"
	HeaderEmail  = "X-Auth-Request-Email"
	HeaderGroups = "X-Auth-Request-Groups"
	HeaderStatus = "X-Auth-Request-Status" // of a denial to nginx: the status that it does not know
)

// IdentityBytesMax bounds each header of an answer, encoded: proxies take a few KiB of headers and no more.
const IdentityBytesMax = 2 << 10

// ErrIdentity: there is no user, or a header would be too long. Deny the request: a part of an identity is another one.
var ErrIdentity = errors.New("forward: an identity that fits no header")

// The error codes of RFC 6750 section 3.1.
const (
	InvalidRequest    = "invalid_request"
	InvalidToken      = "invalid_token"
	InsufficientScope = "insufficient_scope"
)

// Denial is why a request may not pass. As an error its text is the detail.
type Denial struct {
	Status int    // what the client should see: 401 without valid credentials, 403 with those of somebody else, 429, 503 …
	Code   string // one of RFC 6750, or ""; a request without any credentials has none
	Detail string // a sentence for people
	Scope  string // that would be needed, with InsufficientScope
}

// Error is the detail.
func (d *Denial) Error() string { return "forward: " + d.Detail }

// NoCredentials is the Denial of a request without any.
func NoCredentials() *Denial {
	return &Denial{Status: http.StatusUnauthorized, Detail: "no credentials"}
}

// Allow writes the headers of a success; the answer's status is 200. All three are always written, if empty, so that
// a proxy has something to replace a client's by. They have visible ASCII alone: every other byte, and '%', is encoded as
// in a URL ("%EA%B9%80"), and in Groups, which are joined by commas, a comma too. The error is ErrIdentity; nothing is
// written then.
func Allow(h http.Header, user, email string, groups []string) error {
	encoded := make([]string, len(groups))
	for i, group := range groups {
		encoded[i] = encode(group, ",")
	}
	user, email, joined := encode(user, ""), encode(email, ""), strings.Join(encoded, ",")
	if user == "" || max(len(user), len(email), len(joined)) > IdentityBytesMax {
		return ErrIdentity
	}
	h[HeaderUser], h[HeaderEmail], h[HeaderGroups] = []string{user}, []string{email}, []string{joined}
	h.Set("Cache-Control", "no-store")
	return nil
}

// encode percent-encodes what is not visible ASCII, '%', and the bytes of also.
func encode(text, also string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; '!' <= c && c <= '~' && c != '%' && strings.IndexByte(also, c) < 0 {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// Deny writes the headers of a denial and returns the answer's status: that of the Denial, except that nginx gets 403 for
// what is neither 401 nor 403. A status below 400 is a mistake of the caller's and becomes 403. Add Retry-After where it
// applies.
func Deny(d Dialect, h http.Header, denial *Denial) (status int) {
	for _, name := range []string{HeaderUser, HeaderEmail, HeaderGroups, HeaderStatus} {
		h.Del(name)
	}
	h.Set("Cache-Control", "no-store")
	status = denial.Status
	if status < 400 || status > 599 {
		status = http.StatusForbidden
	}
	if status == http.StatusUnauthorized || denial.Code != "" {
		h.Set("WWW-Authenticate", challenge(denial))
	}
	if d == AuthRequest && status != http.StatusUnauthorized && status != http.StatusForbidden {
		h.Set(HeaderStatus, strconv.Itoa(status))
		return http.StatusForbidden
	}
	return status
}

// challenge is the WWW-Authenticate of RFC 6750 section 3.
func challenge(denial *Denial) string {
	var b strings.Builder
	b.WriteString(`Bearer realm="dongne"`)
	for _, parameter := range [][2]string{
		{"error", denial.Code}, {"error_description", denial.Detail}, {"scope", denial.Scope},
	} {
		if denial.Code != "" && parameter[1] != "" { // who brought no credentials is told nothing more
			b.WriteString(", " + parameter[0] + `="` + quotable(parameter[1]) + `"`)
		}
	}
	return b.String()
}

// quotable replaces what RFC 6750 does not allow in a parameter.
func quotable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"':
			return '\''
		case r == '\\' || r < ' ' || r > '~':
			return '?'
		}
		return r
	}, text)
}
