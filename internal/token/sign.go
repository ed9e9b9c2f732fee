package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Sign returns the token that says c. Every text of it that Verify would refuse is an error, and so is a token over 8
// KiB or one that expires before it is issued. Times become whole seconds, so as to say less than c, never more.
func (p *Private) Sign(c Claims) (string, error) {
	payload, err := c.encode()
	if err != nil {
		return "", fmt.Errorf("token: sign: %w", err)
	}
	header := fmt.Sprintf(`{"alg":"%s","kid":"%s","typ":"at+jwt"}`, p.key.Alg, p.key.ID) // the kid is base64url
	text := base64url.EncodeToString([]byte(header)) + "." + base64url.EncodeToString(payload)
	signature, err := p.sign(text)
	if err != nil {
		return "", err
	}
	token := text + "." + base64url.EncodeToString(signature)
	if len(token) > tokenBytesMax {
		return "", fmt.Errorf("token: sign: %d bytes, at most %d are allowed", len(token), tokenBytesMax)
	}
	return token, nil
}

// encode writes the claims as JSON.
func (c *Claims) encode() ([]byte, error) {
	out := struct {
		Iss    string   `json:"iss"`
		Aud    any      `json:"aud"` // a string if it is one
		Sub    string   `json:"sub"`
		Client string   `json:"client_id,omitempty"`
		Sid    string   `json:"sid,omitempty"`
		Jti    string   `json:"jti"`
		Iat    int64    `json:"iat"`
		Nbf    *int64   `json:"nbf,omitempty"`
		Exp    int64    `json:"exp"`
		Scope  string   `json:"scope,omitempty"`
		Groups []string `json:"groups,omitempty"`
	}{
		Iss: c.Issuer, Aud: c.Audience, Sub: c.Subject, Client: c.Client, Sid: c.Session, Jti: c.ID,
		Iat: c.Issued.Unix(), Exp: c.Expires.Unix(), Scope: strings.Join(c.Scope, " "), Groups: c.Groups,
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	if len(c.Audience) == 1 {
		out.Aud = c.Audience[0]
	}
	times := []int64{out.Iat, out.Exp}
	if !c.NotBefore.IsZero() {
		nbf := c.NotBefore.Add(time.Second - time.Nanosecond).Unix()
		out.Nbf = &nbf
		times = append(times, nbf)
	}
	if slices.Min(times) < 0 || slices.Max(times) > secondsMax {
		return nil, errDateRange
	}
	if out.Exp <= out.Iat {
		return nil, errors.New("exp is not after iat")
	}
	return json.Marshal(out)
}
