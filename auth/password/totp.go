package password

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"
)

// Parameters of TOTP (RFC 6238) that every authenticator app knows: HMAC-SHA1, 6 digits, 30 s.
const (
	TOTPPeriod      = 30 * time.Second
	TOTPDigits      = 6
	TOTPSecretBytes = 20

	totpWindow = 1 // steps before and after the present one that are accepted: clocks differ, and people type slowly
)

// NewTOTPSecret returns a secret of TOTPSecretBytes random bytes. random nil is crypto/rand; the error is random's.
func NewTOTPSecret(random io.Reader) ([]byte, error) {
	if random == nil {
		random = rand.Reader
	}
	secret := make([]byte, TOTPSecretBytes)
	if _, err := io.ReadFull(random, secret); err != nil {
		return nil, fmt.Errorf("password: TOTP secret: %w", err)
	}
	return secret, nil
}

// TOTPSecretText returns a secret as people type it: base32 without padding.
func TOTPSecretText(secret []byte) string {
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(secret)
}

// TOTPURI returns the otpauth URI that an authenticator app reads from a QR code. The issuer and the account (the
// login) are shown there.
func TOTPURI(issuer, account string, secret []byte) string {
	label := strings.ReplaceAll(issuer, ":", "") + ":" + account // the first colon divides the label
	query := fmt.Sprintf("secret=%s&issuer=%s&algorithm=SHA1&digits=%d&period=%d",
		TOTPSecretText(secret), strings.ReplaceAll(url.QueryEscape(issuer), "+", "%20"), TOTPDigits, int(TOTPPeriod.Seconds()))
	return "otpauth://totp/" + url.PathEscape(label) + "?" + query
}

// TOTPStep returns the step of 30 s in which now lies, counted from 1970.
func TOTPStep(now time.Time) int64 { return now.Unix() / int64(TOTPPeriod/time.Second) }

// TOTPCode returns the code of a step, 6 digits.
func TOTPCode(secret []byte, step int64) string {
	return fmt.Sprintf("%0*d", TOTPDigits, hotp(secret, step)%1_000_000)
}

// VerifyTOTP says whether code is the one of the present step or of one beside it, and of which: the newest, should two
// have the same code. Accept it only if step is greater than that of the last code accepted of this user; otherwise
// somebody who watched it being typed could use it once more. It compares in constant time.
func VerifyTOTP(secret []byte, code string, now time.Time) (step int64, right bool) {
	present := TOTPStep(now)
	for candidate := max(0, present-totpWindow); candidate <= present+totpWindow; candidate++ {
		if subtle.ConstantTimeCompare([]byte(TOTPCode(secret, candidate)), []byte(code)) == 1 {
			step, right = candidate, true
		}
	}
	return step, right
}

// hotp returns the 31 bits of RFC 4226, section 5.3, of which a code is the last digits.
func hotp(secret []byte, counter int64) uint32 {
	mac := hmac.New(sha1.New, secret)
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(counter)))
	sum := mac.Sum(nil)
	return binary.BigEndian.Uint32(sum[sum[len(sum)-1]&15:]) &^ (1 << 31)
}
