// Package password keeps passwords: it hashes and verifies them, says which are too weak, bounds the work that this
// costs, and holds the second factors (TOTP and recovery codes).
//
// # Hashes
//
// A password is kept as one line of text:
//
//	$dongne1$pbkdf2-sha256$i=600000$<salt>$<key>
//	$dongne1$pbkdf2-sha256$i=600000,p=<pepper id>$<salt>$<key>
//
// The key is PBKDF2-HMAC-SHA256 (RFC 8018) with i rounds over the password and 16 random bytes of salt, 32 bytes long.
// With a pepper, a secret of the service that is not in the store, PBKDF2 runs over HMAC-SHA256(pepper, password)
// instead; the id says with which pepper, so that it can be rotated: new hashes take the current one, a log-in with an
// older one succeeds and [Hasher.NeedsRehash] asks for a new hash. Salt and key are base64 of RFC 4648 §5 without
// padding. There is exactly one way to write a hash; everything else is refused.
//
// A password is the bytes that came. The standard library has no Unicode normalisation, so "é" as one code point and as
// two are different passwords; a login form sends what the keyboard makes, which on one device is always the same.
// [Check] wants valid UTF-8.
//
// # Time
//
// Every refused log-in costs the same: [Hasher.VerifyUnknown] does for a user who does not exist what [Hasher.Verify]
// does for one who does, and a hash with fewer rounds than today's is topped up to today's when the password is wrong.
package password

import (
	"cmp"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Limits and sizes.
const (
	RoundsDefault  = 600_000    // of PBKDF2, for new hashes
	RoundsMax      = 10_000_000 // more would let one hash hold a worker for seconds
	BytesMax       = 4 * RunesMax
	PepperBytesMin = 16
	PeppersMax     = 16

	saltBytes        = 16
	keyBytes         = 32
	pepperIDBytesMax = 32
	prefix           = "$dongne1$pbkdf2-sha256$"
)

var (
	// ErrTooLong: the password has more than BytesMax bytes. It was not hashed.
	ErrTooLong = fmt.Errorf("password: longer than %d bytes", BytesMax)
	// ErrHash: the stored hash is not one of this package's.
	ErrHash = errors.New("password: not a hash of this package")
	// ErrPepper: the stored hash needs a pepper that the service was not given.
	ErrPepper = errors.New("password: the hash needs a pepper that is not configured")
)

// Config is how new hashes are made.
type Config struct {
	Rounds  int               // of PBKDF2; 0: RoundsDefault. Fewer are for tests alone.
	Peppers map[string][]byte // all that stored hashes may need, by id: 1 to 32 of a-z, 0-9, '-' and '_'
	Pepper  string            // id of the one for new hashes; "": none
	Random  io.Reader         // of salts; nil: crypto/rand
}

// Hasher hashes and verifies in the caller's goroutine; see [Workers] for the bounded way. It is safe for concurrent use
// if Config.Random is.
type Hasher struct {
	rounds  int
	peppers map[string][]byte
	pepper  string
	random  io.Reader
	dummy   string // what unknown users are verified against
	derive  func(password string, salt []byte, rounds int) []byte
}

// New returns a Hasher. The error names the field of c that is wrong.
func New(c Config) (*Hasher, error) {
	h := &Hasher{rounds: cmp.Or(c.Rounds, RoundsDefault), pepper: c.Pepper, random: c.Random, derive: derive,
		peppers: map[string][]byte{}}
	if h.random == nil {
		h.random = rand.Reader
	}
	if h.rounds < 1 || h.rounds > RoundsMax {
		return nil, fmt.Errorf("password: Rounds: %d is not in 1 to %d", h.rounds, RoundsMax)
	}
	if len(c.Peppers) > PeppersMax {
		return nil, fmt.Errorf("password: Peppers: %d, at most %d", len(c.Peppers), PeppersMax)
	}
	for id, secret := range c.Peppers {
		if !validPepperID(id) || len(secret) < PepperBytesMin {
			return nil, fmt.Errorf("password: Peppers: %q: want an id of a-z, 0-9, '-' and '_', at most %d bytes, "+
				"and at least %d bytes of secret", id, pepperIDBytesMax, PepperBytesMin)
		}
		h.peppers[id] = append([]byte(nil), secret...)
	}
	if _, known := h.peppers[c.Pepper]; c.Pepper != "" && !known {
		return nil, fmt.Errorf("password: Pepper: %q is none of Peppers", c.Pepper)
	}
	dummy := hash{rounds: h.rounds, pepper: h.pepper, salt: make([]byte, saltBytes), key: make([]byte, keyBytes)}
	for _, random := range [][]byte{dummy.salt, dummy.key} { // of a key that was never derived no password is known
		if _, err := io.ReadFull(h.random, random); err != nil {
			return nil, fmt.Errorf("password: Random: %w", err)
		}
	}
	h.dummy = dummy.String()
	return h, nil
}

// Hash returns the text to keep of a password. It does not judge it: see [Check]. The error is ErrTooLong or that of
// Config.Random.
func (h *Hasher) Hash(password string) (string, error) {
	if len(password) > BytesMax {
		return "", ErrTooLong
	}
	s := hash{rounds: h.rounds, pepper: h.pepper, salt: make([]byte, saltBytes)}
	if _, err := io.ReadFull(h.random, s.salt); err != nil {
		return "", fmt.Errorf("password: salt: %w", err)
	}
	s.key = h.derive(h.peppered(password, h.pepper), s.salt, s.rounds)
	return s.String(), nil
}

// Verify says whether stored is the hash of the password. It compares in constant time, and does not return false before
// the rounds of a new hash were spent. The errors are ErrTooLong, ErrHash and ErrPepper, all before any work.
func (h *Hasher) Verify(stored, password string) (bool, error) {
	if len(password) > BytesMax {
		return false, ErrTooLong
	}
	s, ok := parse(stored)
	if !ok {
		return false, ErrHash
	}
	if _, known := h.peppers[s.pepper]; s.pepper != "" && !known {
		return false, fmt.Errorf("%w: %q", ErrPepper, s.pepper)
	}
	peppered := h.peppered(password, s.pepper)
	if subtle.ConstantTimeCompare(h.derive(peppered, s.salt, s.rounds), s.key) == 1 {
		return true, nil
	}
	if missing := h.rounds - s.rounds; missing > 0 {
		h.derive(peppered, s.salt, missing)
	}
	return false, nil
}

// VerifyUnknown does the work of Verify for a user who does not exist. No password is right. The error is ErrTooLong.
func (h *Hasher) VerifyUnknown(password string) error {
	_, err := h.Verify(h.dummy, password)
	return err
}

// NeedsRehash says whether a hash that Verify accepted was made with fewer rounds or another pepper than new ones are:
// hash the password again while it is at hand. Of what is no hash it says false; Verify reports that.
func (h *Hasher) NeedsRehash(stored string) bool {
	s, ok := parse(stored)
	return ok && (s.rounds < h.rounds || s.pepper != h.pepper)
}

// peppered is what PBKDF2 runs over.
func (h *Hasher) peppered(password, pepper string) string {
	if pepper == "" {
		return password
	}
	mac := hmac.New(sha256.New, h.peppers[pepper])
	mac.Write([]byte(password))
	return string(mac.Sum(nil))
}

func derive(password string, salt []byte, rounds int) []byte {
	key, err := pbkdf2.Key(sha256.New, password, salt, rounds, keyBytes)
	if err != nil {
		panic("password: PBKDF2 refuses its parameters: " + err.Error())
	}
	return key
}

// hash is a stored hash, taken apart.
type hash struct {
	rounds    int
	pepper    string // id; "": none
	salt, key []byte
}

func (s hash) String() string {
	parameters := "i=" + strconv.Itoa(s.rounds)
	if s.pepper != "" {
		parameters += ",p=" + s.pepper
	}
	text := base64.RawURLEncoding
	return prefix + parameters + "$" + text.EncodeToString(s.salt) + "$" + text.EncodeToString(s.key)
}

// parse is the inverse of String, and accepts nothing else.
func parse(stored string) (s hash, ok bool) {
	rest, found := strings.CutPrefix(stored, prefix)
	parts := strings.Split(rest, "$")
	if !found || len(stored) > 256 || len(parts) != 3 {
		return hash{}, false
	}
	rounds, pepper, peppered := strings.Cut(parts[0], ",p=")
	rounds, found = strings.CutPrefix(rounds, "i=")
	if !found || peppered && !validPepperID(pepper) {
		return hash{}, false
	}
	var errs [3]error
	s.pepper = pepper
	s.rounds, errs[0] = strconv.Atoi(rounds)
	s.salt, errs[1] = base64.RawURLEncoding.DecodeString(parts[1])
	s.key, errs[2] = base64.RawURLEncoding.DecodeString(parts[2])
	sized := 1 <= s.rounds && s.rounds <= RoundsMax && len(s.salt) == saltBytes && len(s.key) == keyBytes
	if errors.Join(errs[:]...) != nil || !sized {
		return hash{}, false
	}
	return s, s.String() == stored // one way to write it: no sign, no leading zero, no line break, no stray bits
}

func validPepperID(id string) bool {
	for i := range len(id) {
		if c := id[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return 1 <= len(id) && len(id) <= pepperIDBytesMax
}
