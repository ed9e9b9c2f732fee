package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
)

// Verifiers that others wrote, of our access tokens: they know the issuer and nothing else.

const audience = "dongne"

// A foreigner verifies a token and returns its subject and the key that signed it.
type foreigner func(raw string) (subject, kid string, err error)

// goOIDC is github.com/coreos/go-oidc.
func goOIDC(t *testing.T, issuer, audience string) foreigner {
	t.Helper()
	provider, err := oidc.NewProvider(t.Context(), issuer)
	if err != nil {
		t.Fatalf("discovery by go-oidc: %v", err)
	}
	verifier := provider.VerifierContext(context.WithoutCancel(t.Context()), &oidc.Config{ClientID: audience})
	return func(raw string) (subject, kid string, err error) {
		token, err := verifier.Verify(t.Context(), raw)
		if err != nil {
			return "", "", err
		}
		return token.Subject, kidOf(t, raw), nil
	}
}

// kidOf reads the id of the key from a token's header.
func kidOf(t *testing.T, raw string) string {
	t.Helper()
	header, _, _ := strings.Cut(raw, ".")
	var h struct{ Kid string }
	text, err := base64.RawURLEncoding.DecodeString(header)
	if err == nil {
		err = json.Unmarshal(text, &h)
	}
	if err != nil || h.Kid == "" {
		t.Fatalf("the header %q: %v", header, err)
	}
	return h.Kid
}

// jose is npm's jose, in a process that verifies one token a line; see jose/verify.mjs. dir has it installed.
func jose(t *testing.T, dir, issuer, audience string) foreigner {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*patience)
	cmd := exec.CommandContext(ctx, "node", "verify.mjs", issuer, audience)
	cmd.Dir = dir
	said := &tail{}
	cmd.Stderr = said
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer cancel()
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("jose: %v\n%s", err, said)
		}
	})
	lines := bufio.NewReader(out)
	return func(raw string) (subject, kid string, err error) {
		fmt.Fprintln(in, raw)
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return "", "", fmt.Errorf("jose says nothing: %w\n%s", err, said)
		}
		var answer struct {
			Kid, Error string
			Claims     struct{ Sub string }
		}
		if err := json.Unmarshal(line, &answer); err != nil {
			return "", "", err
		}
		if answer.Error != "" {
			return "", "", fmt.Errorf("jose: %s", answer.Error)
		}
		return answer.Claims.Sub, answer.Kid, nil
	}
}

// installJose installs jose as jose/package-lock.json pins it, and returns the folder.
func installJose(t *testing.T) string {
	t.Helper()
	need(t, "node", "nodejs")
	need(t, "npm", "npm")
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("jose")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return dir
}

// TestForeignVerifiers: before, while and after a key is replaced, each foreign verifier takes every token, the older ones
// too, and none that was changed or is meant for others.
func TestForeignVerifiers(t *testing.T) {
	dir := installJose(t)
	for _, alg := range []string{"ES256", "EdDSA"} {
		t.Run(alg, func(t *testing.T) {
			auth := startAuth(t, "TOKEN_ALG="+alg, "KEY_CACHE=1s")
			foreigners := map[string]foreigner{"go-oidc": goOIDC(t, auth.issuer, audience), "jose": jose(t, dir, auth.issuer, audience)}
			verify := func(raw string) {
				t.Helper()
				for name, f := range foreigners {
					if subject, kid, err := f(raw); err != nil || subject != "minji" || kid != kidOf(t, raw) {
						t.Fatalf("%s: subject %q, key %q, %v; want minji, by %s", name, subject, kid, err, kidOf(t, raw))
					}
				}
			}
			first := auth.logIn(t, "minji", minjiPassword)
			verify(first.Access)
			auth.order(t, "/keys/rotate", auth.logIn(t, "admin", adminPassword).Access)
			now, rotated := first, 0
			eventually(t, "the new key signs", patience, func() bool {
				now = auth.refresh(t, now)
				verify(now.Access)
				rotated++
				return kidOf(t, now.Access) != kidOf(t, first.Access)
			})
			t.Logf("%d tokens of one session, until the new key signed", rotated)
			verify(first.Access)
			verify(now.Access)

			foreigners = map[string]foreigner{"go-oidc, new": goOIDC(t, auth.issuer, audience), "jose, new": jose(t, dir, auth.issuer, audience)}
			verify(first.Access)
			verify(now.Access)
			foreigners["go-oidc, others"], foreigners["jose, others"] = goOIDC(t, auth.issuer, "others"), jose(t, dir, auth.issuer, "others")
			for name, f := range foreigners {
				raw := now.Access
				if !strings.HasSuffix(name, "others") {
					raw = spoilt(raw)
				}
				if subject, _, err := f(raw); err == nil {
					t.Errorf("%s takes what it must not, of %q", name, subject)
				} else {
					t.Logf("%s: %v", name, err)
				}
			}
		})
	}
}

// spoilt is a token with another byte in its signature.
func spoilt(raw string) string {
	i := strings.LastIndexByte(raw, '.') + 10
	other := "A"
	if raw[i] == 'A' {
		other = "B"
	}
	return raw[:i] + other + raw[i+1:]
}
