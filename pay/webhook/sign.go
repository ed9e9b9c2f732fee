package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// The headers of a delivery.
const (
	HeaderID        = "webhook-id"        // the event's id: the same in every attempt
	HeaderTimestamp = "webhook-timestamp" // of the attempt, Unix seconds
	HeaderSignature = "webhook-signature" // "v1,<base64>", several with a space between them
)

const (
	secretPrefix   = "whsec_"
	secretBytes    = 32
	secretBytesMin = 24
	secretBytesMax = 64
)

// NewSecret reads 32 random bytes and returns them as a secret: "whsec_" and base64.
func NewSecret(random io.Reader) (string, error) {
	var b [secretBytes]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("webhook: new secret: %w", err)
	}
	return secretPrefix + base64.StdEncoding.EncodeToString(b[:]), nil
}

// Sign returns the signature of one attempt with one secret, "v1,<base64>": HMAC-SHA256 over id, time in Unix seconds and
// body with full stops between them, as Standard Webhooks 1.0.0 says. The id must have no full stop. It refuses a secret
// that is not "whsec_" and the base64 of 24 to 64 bytes.
func Sign(secret, id string, at time.Time, body []byte) (string, error) {
	text, ok := strings.CutPrefix(secret, secretPrefix)
	key, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(key) < secretBytesMin || len(key) > secretBytesMax {
		return "", fmt.Errorf("webhook: a secret is %q and the base64 of %d to %d bytes",
			secretPrefix, secretBytesMin, secretBytesMax)
	}
	mac := hmac.New(sha256.New, key)
	io.WriteString(mac, id+"."+strconv.FormatInt(at.Unix(), 10)+".") // a hash takes everything
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}

// signatures returns the header's value for one attempt: a signature with every secret.
func signatures(secrets []string, id string, at time.Time, body []byte) (string, error) {
	var all []string
	for _, secret := range secrets {
		one, err := Sign(secret, id, at, body)
		if err != nil {
			return "", err
		}
		all = append(all, one)
	}
	return strings.Join(all, " "), nil
}
