// Package token signs and verifies access tokens: JSON Web Tokens (RFC 7519) in compact serialization (RFC 7515) with
// the profile of RFC 9068, and the public keys for them, alone (RFC 7517, 7638, 8037) or as a set. It has no clock,
// no network and no luck: times, keys and randomness are arguments, and signing is deterministic (RFC 6979, RFC
// 8032).
//
// A token is what auth signs and nobody else writes, so Verify takes one form of it and refuses every other:
//
//   - exactly three parts of unpadded base64url, at most 8 KiB together, with nothing outside the alphabet (not even
//     the CR and LF that encoding/base64 skips) and no bits set that a part does not need;
//   - JSON objects in valid UTF-8 at most 8 levels deep, without a member that comes twice (at any depth), a known
//     member in other letters ("Exp", or "k" as the Kelvin sign), an escape that JSON does not have, half of a
//     surrogate pair, or data behind the end;
//   - alg ES256 or EdDSA, and exactly that of the key with this kid: so no "none" in any spelling, and no HMAC under
//     a public key;
//   - typ at+jwt or application/at+jwt in any case; a kid of 1 to 64 visible ASCII characters; no jwk, jku, x5u, x5c,
//     crit, b64 or zip; members of the header that are not known do no harm and are skipped;
//   - iss, sub, jti, aud, exp and iat present; known texts of 1 to 512 bytes without control characters; times exact,
//     see below.
//
// Times are whole or broken numbers of seconds since 1970, with or without an exponent, from 0 to the end of the year
// 9999, and are compared exactly: one that lies between two nanoseconds becomes the later, which no clock of whole
// nanoseconds can tell apart. A token is good from iat and from nbf, less Expect.Skew, until just before exp. Skew
// does not extend exp: a client whose token ends too early gets a new one, but a token that ends too late may outlive
// what is known about its revocation.
//
// An ES256 signature (r, s) is as good as (r, n-s), so one token has two texts, and who has one can make the other.
// That is harmless as long as nothing is decided by a token's text: it is revoked by its session or its id (jti).
package token

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of what Verify takes and Sign makes.
const (
	tokenBytesMax = 8 << 10
	claimBytesMax = 512 // of each text among the claims
	kidBytesMax   = 64
	audiencesMax  = 16
	scopesMax     = 64
	groupsMax     = 64
)

// What is wrong with a token. The errors of Verify and Peek wrap one of them and say more; none has the token's text
// in it.
var (
	ErrMalformed  = errors.New("token: malformed")
	ErrHeader     = errors.New("token: header refused")
	ErrAlgorithm  = errors.New("token: wrong algorithm")
	ErrUnknownKey = errors.New("token: unknown key")
	ErrSignature  = errors.New("token: wrong signature")
	ErrExpired    = errors.New("token: expired")
	ErrNotYet     = errors.New("token: not valid yet")
	ErrIssuer     = errors.New("token: wrong issuer")
	ErrAudience   = errors.New("token: wrong audience")
)

// Alg is how a key signs, as JWS says it.
type Alg string

// The algorithms.
const (
	ES256 Alg = "ES256" // ECDSA on P-256 with SHA-256
	EdDSA Alg = "EdDSA" // Ed25519
)

// Claims is what a token says. What Verify returned is shared when a cache is involved: read it only.
type Claims struct {
	Issuer   string   // iss
	Audience []string // aud, in the token's order; at least one
	Subject  string   // sub: the user or, of client credentials, the client
	ID       string   // jti
	Session  string   // sid; "" if there is none
	Client   string   // client_id; "" if there is none
	Scope    []string // scope, without the spaces between
	Groups   []string // groups

	Issued    time.Time // iat; Sign rounds it down to a second
	Expires   time.Time // exp; Sign rounds it down to a second
	NotBefore time.Time // nbf; zero if there is none; Sign rounds it up to a second
}

// Has says whether scope is one of the token's.
func (c *Claims) Has(scope string) bool { return slices.Contains(c.Scope, scope) }

// Expect is what a verifier takes.
type Expect struct {
	Issuer   string        // iss must be this; an empty one matches nothing
	Audience string        // aud must have this; an empty one matches nothing
	Skew     time.Duration // how far in the future iat and nbf may lie: the issuer's clock may be ahead of ours
}

// judge compares claims with what is expected at the time now.
func (e Expect) judge(c *Claims, now time.Time) error {
	switch {
	case e.Issuer == "" || c.Issuer != e.Issuer:
		return fmt.Errorf("%w: iss is %q, not %q", ErrIssuer, c.Issuer, e.Issuer)
	case e.Audience == "" || !slices.Contains(c.Audience, e.Audience):
		return fmt.Errorf("%w: aud is %q, without %q", ErrAudience, c.Audience, e.Audience)
	}
	return c.At(now, e.Skew)
}

// At says whether the token is good at the time now, as far as times are concerned: nil, ErrExpired or ErrNotYet.
// skew is that of Expect.
func (c *Claims) At(now time.Time, skew time.Duration) error {
	ahead := now.Add(skew)
	switch {
	case !now.Before(c.Expires):
		return fmt.Errorf("%w: since %v", ErrExpired, now.Sub(c.Expires))
	case ahead.Before(c.Issued):
		return fmt.Errorf("%w: iat is %v in the future", ErrNotYet, c.Issued.Sub(now))
	case ahead.Before(c.NotBefore):
		return fmt.Errorf("%w: nbf is %v in the future", ErrNotYet, c.NotBefore.Sub(now))
	}
	return nil
}

// check returns what is wrong with claims apart from anybody's expectations.
func (c *Claims) check() error {
	texts := []struct {
		name, value string
		optional    bool
	}{
		{"iss", c.Issuer, false}, {"sub", c.Subject, false}, {"jti", c.ID, false},
		{"sid", c.Session, true}, {"client_id", c.Client, true},
	}
	for _, t := range texts {
		if t.value == "" && t.optional {
			continue
		}
		if err := checkText(t.name, t.value); err != nil {
			return err
		}
	}
	if len(c.Audience) == 0 {
		return errors.New("aud is missing")
	}
	for _, list := range []struct {
		name   string
		values []string
		max    int
		check  func(name, value string) error
	}{
		{"aud", c.Audience, audiencesMax, checkText},
		{"scope", c.Scope, scopesMax, checkScope},
		{"groups", c.Groups, groupsMax, checkText},
	} {
		if len(list.values) > list.max {
			return fmt.Errorf("%s has %d entries, at most %d are allowed", list.name, len(list.values), list.max)
		}
		for _, v := range list.values {
			if err := list.check(list.name, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkText takes 1 to claimBytesMax bytes of UTF-8 without control characters: such a text goes into headers and log
// lines.
func checkText(name, s string) error {
	if s == "" || len(s) > claimBytesMax {
		return fmt.Errorf("%s has %d bytes; 1 to %d are allowed", name, len(s), claimBytesMax)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || 0x7f <= r && r < 0xa0 }) {
		return fmt.Errorf("%s has a control character or invalid UTF-8", name)
	}
	return nil
}

// checkScope takes a scope-token of RFC 6749, appendix A.4.
func checkScope(name, s string) error {
	bad := func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }
	if s == "" || len(s) > claimBytesMax || strings.ContainsFunc(s, bad) {
		return fmt.Errorf("%s has an entry that is not 1 to %d visible ASCII characters without quote and backslash",
			name, claimBytesMax)
	}
	return nil
}

// checkKid takes 1 to kidBytesMax visible ASCII characters.
func checkKid(kid string) error {
	if kid == "" || len(kid) > kidBytesMax || strings.ContainsFunc(kid, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("kid is not 1 to %d visible ASCII characters", kidBytesMax)
	}
	return nil
}
