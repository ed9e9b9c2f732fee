package node

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dongne/auth/password"
	"dongne/auth/realm"
	"dongne/internal/token"
)

// stored is everything under a folder.
func stored(t *testing.T, dir string) (all []byte) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all = append(all, b...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// privates are the secrets of the node's own: its signing keys.
func (s *setting) privates() (secrets [][]byte) {
	s.t.Helper()
	var keys []realm.Key
	s.read(func(st *realm.State) { keys = st.Keys(s.clock.now().UnixMilli()) })
	for _, k := range keys {
		p, err := s.unsealed(k)
		if err != nil {
			s.t.Fatal(err)
		}
		der, err := p.Marshal()
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := x509.ParsePKCS8PrivateKey(der); err != nil {
			s.t.Fatalf("the test takes for a key what is none: %v", err)
		}
		secrets = append(secrets, der)
	}
	return secrets
}

// enrolled gives a user a second factor.
func (s *setting) enrolled(user string) (secret []byte, codes []string) {
	s.t.Helper()
	e, err := s.Enrol(s.t.Context(), user, passes, at(1))
	if err != nil {
		s.t.Fatal(err)
	}
	secret, err = base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ReplaceAll(e.Secret, " ", ""))
	if err != nil {
		s.t.Fatalf("secret %q: %v", e.Secret, err)
	}
	codes, err = s.Confirm(s.t.Context(), user, s.code(secret), at(1))
	if err != nil {
		s.t.Fatal(err)
	}
	return secret, codes
}

// code is what an authenticator shows now.
func (s *setting) code(secret []byte) string {
	return password.TOTPCode(secret, password.TOTPStep(s.clock.now()))
}

// header is the JOSE header of a token.
func header(t *testing.T, raw string) string {
	t.Helper()
	head, _, _ := strings.Cut(raw, ".")
	text, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestSecretsAtRest: passwords and tokens are never in the log or in a snapshot; private keys and secrets of second factors
// are not with AUTH_KEY, and are without it, which shows that the test would find them.
func TestSecretsAtRest(t *testing.T) {
	for _, key := range []string{"", "a key of thirty-two bytes or more"} {
		s := open(t, func(c *Config) {
			if key != "" {
				c.Secret = []byte(key)
			}
		})
		p := s.logIn(ana)
		next, err := s.Refresh(t.Context(), p.Refresh, at(1))
		wantError(t, "refresh", err, nil)
		totp, codes := s.enrolled("bo")
		_, err = s.RotateKey(t.Context(), "root")
		wantError(t, "rotate", err, nil)
		own := append(s.privates(), totp)
		s.close() // stores a snapshot too
		all := stored(t, s.config.Dir)
		if !bytes.Contains(all, []byte(ana)) {
			t.Fatal("the log is written in a way in which this test finds nothing")
		}
		for i, secret := range own {
			if found := bytes.Contains(all, secret); found != (key == "") {
				t.Errorf("AUTH_KEY %q: secret %d is in the log: %v", key, i, found)
			}
		}
		foreign := map[string][]byte{"password": []byte(passes), "key": []byte("a key of thirty-two bytes or more"), "recovery code": []byte(codes[0]),
			"access token": []byte(p.Access), "its signature": []byte(p.Access[strings.LastIndex(p.Access, "."):])}
		for _, text := range []string{p.Refresh, next.Refresh} {
			raw, ok := realm.ParseToken(text)
			if !ok {
				t.Fatalf("no refresh token: %q", text)
			}
			foreign["refresh token "+text[:12]], foreign["raw refresh token "+text[:12]] = []byte(text), raw[20:36]
		}
		for what, secret := range foreign {
			if bytes.Contains(all, secret) {
				t.Errorf("AUTH_KEY %q: the %s is in the log", key, what)
			}
		}
	}
}

// TestWrongKey: without the AUTH_KEY under which its keys were sealed a node does not start, and says which variable it is.
func TestWrongKey(t *testing.T) {
	right := []byte("the right key, which is long enough")
	s := open(t, func(c *Config) { c.Secret = right })
	p := s.logIn(ana)
	s.close()
	for _, wrong := range [][]byte{nil, []byte("another key, which is long enough too")} {
		c := s.config
		c.Secret = wrong
		n, err := Open(context.Background(), c)
		if err == nil {
			n.Close()
			t.Fatalf("key %q: it starts", wrong)
		}
		if !strings.Contains(err.Error(), "AUTH_KEY") || strings.Contains(err.Error(), string(right)) {
			t.Errorf("key %q: error %q, want one that names AUTH_KEY", wrong, err)
		}
	}
	s.reopen()
	s.wantGood("with the right key", p.Access, true)
}

// TestOpenKeysStay: AUTH_KEY can be set later; what lay open before still does.
func TestOpenKeysStay(t *testing.T) {
	s := open(t, nil)
	p := s.logIn(ana)
	s.close()
	s.config.Secret = []byte("a key of thirty-two bytes or more")
	s.reopen()
	s.wantGood("from before", p.Access, true)
	_, err := s.RotateKey(t.Context(), "root")
	wantError(t, "rotate", err, nil)
	s.close()
	s.config.Secret = nil
	_, err = Open(context.Background(), s.config)
	if err == nil || !strings.Contains(err.Error(), "AUTH_KEY") {
		t.Errorf("without the key again: %v, want an error that names AUTH_KEY", err)
	}
}

// TestPeppers: a log-in moves a password from an old pepper to the first one; one whose pepper is gone does not count, and
// tells nobody but the log.
func TestPeppers(t *testing.T) {
	s := open(t, nil)
	s.close()
	first := map[string][]byte{"p1": []byte("a pepper of enough bytes")}
	s.config.Hasher = password.Config{Rounds: rounds, Peppers: first, Pepper: "p1"}
	s.reopen()
	hash := func() (text string) {
		s.read(func(st *realm.State) {
			u, _ := st.User(ana)
			text = u.Password
		})
		return text
	}
	before := hash()
	s.logIn(ana)
	if after := hash(); before == after || !strings.Contains(after, "p=p1") {
		t.Errorf("a log-in left the hash as %q", after)
	}
	s.close()
	s.config.Hasher.Pepper = "p2"
	s.config.Hasher.Peppers = map[string][]byte{"p1": first["p1"], "p2": []byte("another pepper, long enough")}
	s.reopen()
	s.logIn(ana)
	if after := hash(); !strings.Contains(after, "p=p2") {
		t.Errorf("a log-in left the hash as %q", after)
	}
	s.logIn(ana)
	s.close()
	s.config.Hasher = password.Config{Rounds: rounds, Peppers: first, Pepper: "p1"}
	s.reopen()
	_, err := s.LogIn(t.Context(), LogIn{Login: ana, Password: passes}, at(1))
	wantError(t, "a log-in whose pepper is gone", err, password.ErrPepper)
	s.logIn("bo")
	s.close()
	s.config.Hasher.Peppers = map[string][]byte{"p1": []byte("short")}
	if _, err := Open(context.Background(), s.config); err == nil || !strings.Contains(err.Error(), "PEPPERS") {
		t.Errorf("a short pepper: %v, want an error that names PEPPERS", err)
	}
}

// TestKeyRotation: a new key is published before it signs, and the one before until its last token has expired.
func TestKeyRotation(t *testing.T) {
	for _, alg := range []token.Alg{token.ES256, token.EdDSA} {
		s := open(t, func(c *Config) { c.Alg = alg })
		kids := func() (ids []string) {
			set, err := s.Keys()
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range set {
				ids = append(ids, k.ID)
			}
			return ids
		}
		// signed says by the set of keys alone whose key signed.
		signed := func(p Pair) string {
			set, err := s.Keys()
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range set {
				if strings.Contains(header(t, p.Access), k.ID) {
					return k.ID
				}
			}
			t.Fatalf("no published key signed %s", header(t, p.Access))
			return ""
		}
		old := s.logIn(ana)
		first := signed(old)
		second, err := s.RotateKey(t.Context(), "root")
		if err != nil || len(kids()) != 2 {
			t.Fatalf("rotate: %v, keys %v", err, kids())
		}
		s.clock.advance(s.config.KeyCache - time.Millisecond)
		last := s.logIn(ana)
		if signed(last) != first {
			t.Error("a key signs before every verifier has it")
		}
		s.clock.advance(time.Millisecond)
		if signed(s.logIn(ana)) != second {
			t.Error("the new key does not sign after the verifiers' cache has expired")
		}
		s.clock.advance(realm.AccessLife - 2*time.Second) // tokens count in whole seconds
		s.wantGood("the last one of the old key", last.Access, true)
		s.clock.advance(realm.Skew + 2*time.Second)
		if got := kids(); len(got) != 1 || got[0] != second {
			t.Errorf("keys %v after the last token of the old one, want %s", got, second)
		}
		s.wantGood("the last one of the old key, after its time", last.Access, false)
		if signed(s.logIn(ana)) != second {
			t.Error("the new key does not sign any more")
		}
	}
}
