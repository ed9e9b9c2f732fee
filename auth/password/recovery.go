package password

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// RecoveryCodes is how many codes a user gets.
const RecoveryCodes = 10

const (
	recoveryRunes    = 16 // of 5 bits: with 80 bits a plain hash cannot be searched
	recoveryGroup    = 4
	recoveryAlphabet = "0123456789abcdefghjkmnpqrstvwxyz" // Crockford's base32: no i, l, o and u
)

// NewRecoveryCodes returns RecoveryCodes codes, each of which stands once for the second factor, and the hashes to keep
// of them, in the same order. A code has 80 random bits and is written "x4k7-0m2p-9tqw-3bnd"; show it once. random nil is
// crypto/rand; the error is random's.
func NewRecoveryCodes(random io.Reader) (codes, hashes []string, err error) {
	if random == nil {
		random = rand.Reader
	}
	for range RecoveryCodes {
		var bits [recoveryRunes]byte
		if _, err := io.ReadFull(random, bits[:]); err != nil {
			return nil, nil, fmt.Errorf("password: recovery codes: %w", err)
		}
		var code strings.Builder
		for i, b := range bits {
			if i > 0 && i%recoveryGroup == 0 {
				code.WriteByte('-')
			}
			code.WriteByte(recoveryAlphabet[b%32]) // 32 divides 256: every one as likely
		}
		codes = append(codes, code.String())
		hash, _ := recoveryHash(code.String())
		hashes = append(hashes, hash)
	}
	return codes, hashes, nil
}

// VerifyRecovery says which of the hashes, by index, is that of the code. Case, spaces and dashes do not matter, and o, i
// and l are read as 0, 1 and 1. Remove the hash together with accepting the code: it is good once. It looks at all hashes
// and compares in constant time.
func VerifyRecovery(hashes []string, code string) (index int, right bool) {
	hash, ok := recoveryHash(code)
	if !ok {
		return 0, false
	}
	for i, kept := range hashes {
		if subtle.ConstantTimeCompare([]byte(kept), []byte(hash)) == 1 {
			index, right = i, true
		}
	}
	return index, right
}

// recoveryHash returns SHA-256 of a code's 16 characters in hexadecimal, if it is a code.
func recoveryHash(code string) (hash string, ok bool) {
	if len(code) > 4*recoveryRunes {
		return "", false
	}
	plain := strings.NewReplacer("-", "", " ", "", "o", "0", "i", "1", "l", "1").Replace(strings.ToLower(code))
	if len(plain) != recoveryRunes || strings.Trim(plain, recoveryAlphabet) != "" {
		return "", false
	}
	sum := sha256.Sum256([]byte(plain))
	return hex.EncodeToString(sum[:]), true
}
