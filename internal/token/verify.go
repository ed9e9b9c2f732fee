package token

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// base64url refuses padding and bits that are set but not used; it skips CR and LF, so decode looks for them first.
var base64url = base64.RawURLEncoding.Strict()

// decode returns the bytes of canonical base64url without padding.
func decode(s string) ([]byte, error) {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', isDigit(c), c == '-', c == '_':
		default:
			return nil, fmt.Errorf("byte %d is not of base64url", i)
		}
	}
	out, err := base64url.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("not canonical base64url, %d bytes", len(s))
	}
	return out, nil
}

// parsed is a token that was taken apart, and of which nothing but the form is known to be right.
type parsed struct {
	alg       Alg
	kid       string
	signed    string // the bytes that the signature is for
	payload   string // JSON
	signature []byte
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

// parse takes a token apart and judges its header.
func parse(raw string) (*parsed, error) {
	if len(raw) > tokenBytesMax {
		return nil, malformed("%d bytes, at most %d are allowed", len(raw), tokenBytesMax)
	}
	first, last := strings.IndexByte(raw, '.'), strings.LastIndexByte(raw, '.')
	if n := strings.Count(raw, "."); n != 2 {
		return nil, malformed("%d parts, not 3", n+1)
	}
	header, err := decode(raw[:first])
	if err != nil {
		return nil, malformed("header: %w", err)
	}
	payload, err := decode(raw[first+1 : last])
	if err != nil {
		return nil, malformed("claims: %w", err)
	}
	signature, err := decode(raw[last+1:])
	if err != nil {
		return nil, malformed("signature: %w", err)
	}
	p := &parsed{signed: raw[:last], payload: string(payload), signature: signature}
	if err := p.readHeader(string(header)); err != nil {
		return nil, err
	}
	return p, nil
}

// headerRefused would bring their own key or change what the rest means.
var headerRefused = []string{"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip"}

var headerKnown = append([]string{"alg", "kid", "typ"}, headerRefused...)

func (p *parsed) readHeader(text string) error {
	var alg, typ, refused string
	err := scanObject(text, headerKnown, func(s *scanner, name string) (err error) {
		switch {
		case name == "alg":
			alg, err = s.str()
		case name == "kid":
			p.kid, err = s.str()
		case name == "typ":
			typ, err = s.str()
		case slices.Contains(headerRefused, name):
			refused = name
			err = s.skip()
		default:
			err = s.skip()
		}
		return err
	})
	if err != nil {
		return malformed("header: %w", err)
	}
	if refused != "" {
		return fmt.Errorf("%w: %s is not allowed", ErrHeader, refused)
	}
	if !strings.EqualFold(typ, "at+jwt") && !strings.EqualFold(typ, "application/at+jwt") {
		return fmt.Errorf("%w: typ is not at+jwt", ErrHeader)
	}
	if p.alg = Alg(alg); p.alg != ES256 && p.alg != EdDSA {
		return fmt.Errorf("%w: neither %s nor %s", ErrAlgorithm, ES256, EdDSA)
	}
	if err := checkKid(p.kid); err != nil {
		return fmt.Errorf("%w: %w", ErrHeader, err)
	}
	return nil
}

var claimsKnown = []string{"iss", "aud", "sub", "jti", "sid", "client_id", "scope", "groups", "iat", "exp", "nbf"}

// readClaims reads and checks the claims, whoever they are from and for.
func readClaims(text string) (*Claims, error) {
	c := &Claims{}
	err := scanObject(text, claimsKnown, func(s *scanner, name string) error { return s.claim(c, name) })
	switch {
	case err != nil:
	case c.Issued.IsZero():
		err = errors.New("iat is missing")
	case c.Expires.IsZero():
		err = errors.New("exp is missing")
	default:
		err = c.check()
	}
	if err != nil {
		return nil, malformed("claims: %w", err)
	}
	return c, nil
}

// claim reads the value of one claim. A claim that is there has the right type, and is not null or empty.
func (s *scanner) claim(c *Claims, name string) (err error) {
	switch name {
	case "iss":
		err = s.filled(&c.Issuer)
	case "sub":
		err = s.filled(&c.Subject)
	case "jti":
		err = s.filled(&c.ID)
	case "sid":
		err = s.filled(&c.Session)
	case "client_id":
		err = s.filled(&c.Client)
	case "aud":
		if s.peek() == '"' {
			c.Audience = make([]string, 1)
			err = s.filled(&c.Audience[0])
		} else {
			c.Audience, err = s.strs(audiencesMax)
		}
	case "groups":
		c.Groups, err = s.strs(groupsMax)
	case "scope":
		var scope string
		if err = s.filled(&scope); err == nil {
			c.Scope = strings.SplitN(scope, " ", scopesMax+1)
		}
	case "iat":
		err = s.date(&c.Issued)
	case "exp":
		err = s.date(&c.Expires)
	case "nbf":
		err = s.date(&c.NotBefore)
	default:
		return s.skip()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// filled reads a string of at least one byte.
func (s *scanner) filled(into *string) (err error) {
	*into, err = s.str()
	if err == nil && *into == "" {
		err = s.errorf("empty string before")
	}
	return err
}

func (s *scanner) date(into *time.Time) error {
	number, err := s.number()
	if err != nil {
		return err
	}
	*into, err = parseDate(number)
	return err
}

// Peek returns the kid of a token after every check of Verify but that of the signature, at the time now: so that who
// has not got this key can decide whether it is worth fetching. The claims may be anybody's. The errors are those of
// Verify.
func Peek(raw string, expect Expect, now time.Time) (kid string, err error) {
	p, err := parse(raw)
	if err != nil {
		return "", err
	}
	c, err := readClaims(p.payload)
	if err != nil {
		return "", err
	}
	if err := expect.judge(c, now); err != nil {
		return "", err
	}
	return p.kid, nil
}

// Verify returns the claims of a token that was signed with one of the keys and is as expected at the time now. keys
// returns the key with a kid, or nil. The error wraps one of the Err variables: first ErrMalformed, ErrHeader and
// ErrAlgorithm, for the form and the header; then ErrUnknownKey, ErrAlgorithm again if the key is of another, and
// ErrSignature; then, of a token that was signed, ErrMalformed, ErrIssuer, ErrAudience, ErrExpired and ErrNotYet for
// its claims.
func Verify(raw string, keys func(kid string) *Key, expect Expect, now time.Time) (*Claims, error) {
	p, err := parse(raw)
	if err != nil {
		return nil, err
	}
	key := keys(p.kid)
	switch {
	case key == nil:
		return nil, fmt.Errorf("%w %q", ErrUnknownKey, p.kid)
	case key.Alg != p.alg:
		return nil, fmt.Errorf("%w: %s under a key for %s", ErrAlgorithm, p.alg, key.Alg)
	}
	if err := key.verify(p.signed, p.signature); err != nil {
		return nil, err
	}
	c, err := readClaims(p.payload)
	if err != nil {
		return nil, err
	}
	if err := expect.judge(c, now); err != nil {
		return nil, err
	}
	return c, nil
}
