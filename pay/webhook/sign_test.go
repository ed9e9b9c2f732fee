package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The vector of Standard Webhooks' own libraries, computed once more with Python's hmac.
func TestSignVector(t *testing.T) {
	got, err := Sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0),
		[]byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want || err != nil {
		t.Errorf("Sign: %q, %v, want %q", got, err, want)
	}
}

// Whatever is signed is verified by whoever has one of the secrets, and by nobody when anything was changed.
func TestSignVerify(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		random := seeded(Config{}, seed).Secret
		var secrets []string
		for range 3 {
			secret, err := NewSecret(random)
			if err != nil {
				t.Fatal(err)
			}
			secrets = append(secrets, secret)
		}
		id := rapid.StringMatching(`[a-z0-9-]{1,64}`).Draw(t, "id")
		at := time.Unix(rapid.Int64Range(0, 1<<40).Draw(t, "at"), 5)
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		signed, err := signatures(secrets[:2], id, at, body)
		if err != nil {
			t.Fatal(err)
		}
		header := func(id string, at int64, signed string) http.Header {
			h := http.Header{}
			h.Set(HeaderID, id)
			h.Set(HeaderTimestamp, strconv.FormatInt(at, 10))
			h.Set(HeaderSignature, signed)
			return h
		}
		for _, secret := range secrets[:2] {
			if err := verify(secret, header(id, at.Unix(), signed), body); err != nil {
				t.Error(err)
			}
		}
		// Mutants: each must be refused.
		for what, refused := range map[string]error{
			"another secret":       verify(secrets[2], header(id, at.Unix(), signed), body),
			"another id":           verify(secrets[0], header(id+"x", at.Unix(), signed), body),
			"another time":         verify(secrets[0], header(id, at.Unix()+1, signed), body),
			"another body":         verify(secrets[0], header(id, at.Unix(), signed), append(bytes.Clone(body), 'x')),
			"a signature of body":  verify(secrets[0], header(id, at.Unix(), bodyOnly(secrets[0], body)), body),
			"no signature":         verify(secrets[0], header(id, at.Unix(), ""), body),
			"a version of its own": verify(secrets[0], header(id, at.Unix(), strings.ReplaceAll(signed, "v1,", "v2,")), body),
		} {
			if refused == nil {
				t.Errorf("%s was not noticed", what)
			}
		}
	})
}

// bodyOnly is the signature of a sender that forgets id and time.
func bodyOnly(secret string, body []byte) string {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		panic(err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func TestSignRefusesSecrets(t *testing.T) {
	encode := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for _, secret := range []string{"", "whsec_", encode(32), "whsec_" + encode(23), "whsec_" + encode(65), "whsec_%%%", "whsk_" + encode(32)} {
		if s, err := Sign(secret, "id", time.Unix(0, 0), nil); err == nil {
			t.Errorf("Sign with secret %q: %q", secret, s)
		}
	}
	for _, n := range []int{24, 64} {
		if _, err := Sign("whsec_"+encode(n), "id", time.Unix(0, 0), nil); err != nil {
			t.Errorf("Sign with %d bytes: %v", n, err)
		}
	}
	if s, err := NewSecret(strings.NewReader("too short")); err == nil {
		t.Errorf("NewSecret of 9 random bytes: %q", s)
	}
}
