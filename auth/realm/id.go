package realm

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Hash is the SHA-256 of a secret.
type Hash [sha256.Size]byte

// HashOf returns the hash of a secret as text.
func HashOf(secret string) Hash { return sha256.Sum256([]byte(secret)) }

// SessionID names a session, at random.
type SessionID [16]byte

// TokenID is the jti of an access token, at random.
type TokenID [16]byte

// FamilyKey makes the tags of a session's refresh tokens.
type FamilyKey [16]byte

const (
	sessionPrefix = "s_"
	refreshPrefix = "dr_"
)

// String returns the id as tokens and the API have it: "s_" and 22 characters of base64url.
func (id SessionID) String() string {
	return sessionPrefix + base64.RawURLEncoding.EncodeToString(id[:])
}

// String returns the jti: 22 characters of base64url.
func (id TokenID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// ParseSession reads what SessionID.String wrote; false for anything else.
func ParseSession(text string) (id SessionID, ok bool) {
	rest, ok := strings.CutPrefix(text, sessionPrefix)
	return id, ok && decodeExactly(id[:], rest)
}

// ParseTokenID reads what TokenID.String wrote; false for anything else.
func ParseTokenID(text string) (id TokenID, ok bool) { ok = decodeExactly(id[:], text); return id, ok }

// decodeExactly decodes base64url that encoding b would give again.
func decodeExactly(b []byte, text string) bool {
	if len(text) != base64.RawURLEncoding.EncodedLen(len(b)) {
		return false
	}
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(text)
	return err == nil && copy(b, decoded) == len(b) && base64.RawURLEncoding.EncodeToString(b) == text
}

// Token is a refresh token: "dr_" and the base64url of
//
//	 0 16  session
//	16  4  generation, big endian
//	20 16  random
//	36 16  tag: the first half of HMAC-SHA256, under the family's key, of "refresh" and the 36 bytes before
//
// Whoever lacks the key cannot make one whose tag is right, so a wrong tag says nothing about its session.
type Token [52]byte

const tagAt = 36

// MakeToken returns the token of a generation of a session.
func MakeToken(key FamilyKey, session SessionID, generation uint32, random [16]byte) (t Token) {
	copy(t[:], session[:])
	binary.BigEndian.PutUint32(t[16:], generation)
	copy(t[20:], random[:])
	copy(t[tagAt:], t.tag(key))
	return t
}

func (t *Token) tag(key FamilyKey) []byte {
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte("refresh")) // never fails
	mac.Write(t[:tagAt])
	return mac.Sum(nil)[:len(t)-tagAt]
}

// ParseToken reads a refresh token's text; false if it cannot be one. It proves nothing: see Genuine.
func ParseToken(text string) (t Token, ok bool) {
	rest, ok := strings.CutPrefix(text, refreshPrefix)
	return t, ok && decodeExactly(t[:], rest)
}

// Genuine says whether the tag was made with the key; in constant time.
func (t Token) Genuine(key FamilyKey) bool { return hmac.Equal(t[tagAt:], t.tag(key)) }

// Session returns the session that the token names.
func (t Token) Session() SessionID { return SessionID(t[:16]) }

// Generation returns its number in the session.
func (t Token) Generation() uint32 { return binary.BigEndian.Uint32(t[16:]) }

// Hash returns what the state keeps of it: the hash of its text.
func (t Token) Hash() Hash { return HashOf(t.String()) }

// String returns the token as clients have it.
func (t Token) String() string { return refreshPrefix + base64.RawURLEncoding.EncodeToString(t[:]) }

// NormalLogin returns a login as it is kept and looked up: lower case. The error says what is wrong with it: it has 1
// to LoginBytesMax ASCII letters, digits, and characters of ".-_+@", so that no two look alike.
func NormalLogin(login string) (string, error) {
	normal := strings.Map(func(c rune) rune {
		if 'A' <= c && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	}, login)
	if err := validLogin(normal); err != nil {
		return "", err
	}
	return normal, nil
}

func validLogin(login string) error {
	if len(login) == 0 || len(login) > LoginBytesMax {
		return fmt.Errorf("has %d characters, want 1 to %d", len(login), LoginBytesMax)
	}
	for _, c := range login {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', strings.ContainsRune(".-_+@", c):
		default:
			return fmt.Errorf("has %q; want letters a to z, digits, and any of .-_+@", c)
		}
	}
	return nil
}

// ValidUser says what is wrong with a user's id; nil: nothing. It has 1 to UserBytesMax of A-Z, a-z, 0-9, '.', '_', ':'
// and '-'.
func ValidUser(id string) error {
	if len(id) == 0 || len(id) > UserBytesMax {
		return fmt.Errorf("has %d characters, want 1 to %d", len(id), UserBytesMax)
	}
	if strings.Trim(id, ".") == "" {
		return errors.New("cannot be part of a URL")
	}
	for _, c := range []byte(id) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == ':', c == '-':
		default:
			return fmt.Errorf("has %q; want letters, digits, '.', '_', ':' and '-'", c)
		}
	}
	return nil
}

// validWord says whether a text is 1 to bytesMax of a-z, 0-9, '-', '_', '.' and '/'.
func validWord(text string, bytesMax int) bool {
	if len(text) == 0 || len(text) > bytesMax {
		return false
	}
	for _, c := range []byte(text) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("-_./", rune(c)) {
			return false
		}
	}
	return true
}
