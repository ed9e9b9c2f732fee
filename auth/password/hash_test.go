package password

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const cheap = 7 // rounds, where only the logic is tested

func seeded() *rand.ChaCha8 { return rand.NewChaCha8([32]byte{1}) }

func newHasher(t testing.TB, c Config) *Hasher {
	t.Helper()
	if c.Random == nil {
		c.Random = seeded()
	}
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func hashOf(t testing.TB, h *Hasher, password string) string {
	t.Helper()
	stored, err := h.Hash(password)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func wantVerdict(t *testing.T, h *Hasher, stored, password string, want bool) {
	t.Helper()
	if right, err := h.Verify(stored, password); right != want || err != nil {
		t.Errorf("Verify(%q, %q) = %v, %v; want %v", stored, password, right, err, want)
	}
}

var peppers = map[string][]byte{"2025": []byte("an old pepper of the service"), "2026": []byte("the pepper of the service")}

func TestHashAndVerify(t *testing.T) {
	for _, c := range []Config{{Rounds: cheap}, {Rounds: cheap, Peppers: peppers, Pepper: "2026"}} {
		h := newHasher(t, c)
		for _, password := range []string{"", "correct horse", "비밀번호 열다섯 글자는 되게", "\x00\xff", strings.Repeat("x", BytesMax)} {
			stored := hashOf(t, h, password)
			wantVerdict(t, h, stored, password, true)
			if len(password) < BytesMax {
				wantVerdict(t, h, stored, password+"x", false)
			}
			if again := hashOf(t, h, password); again == stored {
				t.Errorf("two hashes of %q are the same: %q", password, again)
			}
			if h.NeedsRehash(stored) {
				t.Errorf("NeedsRehash(%q) of a new hash", stored)
			}
		}
	}
}

// The test vector with the most rounds of those commonly published for PBKDF2-HMAC-SHA256 (RFC 6070's inputs).
func TestKnownKey(t *testing.T) {
	const want = "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a"
	if got := hex.EncodeToString(derive("password", []byte("salt"), 4096)); got != want {
		t.Errorf("derive: %s, want %s", got, want)
	}
}

// The text of a hash is what stores keep: it may never change.
func TestFormat(t *testing.T) {
	h := newHasher(t, Config{Rounds: 1000, Peppers: peppers, Pepper: "2026", Random: bytes.NewReader(make([]byte, 64))})
	salt, key := make([]byte, saltBytes), derive(h.peppered("pass", "2026"), make([]byte, saltBytes), 1000)
	want := "$dongne1$pbkdf2-sha256$i=1000,p=2026$" + base64.RawURLEncoding.EncodeToString(salt) + "$" + base64.RawURLEncoding.EncodeToString(key)
	if diff := cmp.Diff(want, hashOf(t, h, "pass")); diff != "" {
		t.Errorf("Hash mismatch (-want +got):\n%s", diff)
	}
	wantVerdict(t, h, "$dongne1$pbkdf2-sha256$i=2$c2FsdHNhbHRzYWx0c2FsdA$"+
		base64.RawURLEncoding.EncodeToString(derive("pass", []byte("saltsaltsaltsalt"), 2)), "pass", true)
}

func TestStrictFormat(t *testing.T) {
	h := newHasher(t, Config{Rounds: cheap, Peppers: peppers, Pepper: "2026"})
	good := hashOf(t, h, "pass")
	salt, key := good[len(prefix)+len("i=7,p=2026$"):][:22], good[len(good)-43:]
	for name, bad := range map[string]string{
		"empty":              "",
		"another version":    strings.Replace(good, "dongne1", "dongne2", 1),
		"another function":   strings.Replace(good, "sha256", "sha512", 1),
		"no rounds":          prefix + "i=$" + salt + "$" + key,
		"zero rounds":        prefix + "i=0$" + salt + "$" + key,
		"negative rounds":    prefix + "i=-7$" + salt + "$" + key,
		"signed rounds":      prefix + "i=+7$" + salt + "$" + key,
		"leading zero":       prefix + "i=07$" + salt + "$" + key,
		"too many rounds":    prefix + "i=10000001$" + salt + "$" + key,
		"far too many":       prefix + "i=99999999999999999999$" + salt + "$" + key,
		"empty pepper":       prefix + "i=7,p=$" + salt + "$" + key,
		"odd pepper":         prefix + "i=7,p=A$" + salt + "$" + key,
		"long pepper":        prefix + "i=7,p=" + strings.Repeat("a", 33) + "$" + salt + "$" + key,
		"another parameter":  prefix + "i=7,q=1$" + salt + "$" + key,
		"two peppers":        prefix + "i=7,p=2026,p=2026$" + salt + "$" + key,
		"short salt":         prefix + "i=7$" + salt[1:] + "$" + key,
		"short key":          prefix + "i=7$" + salt + "$" + key[4:],
		"line break":         prefix + "i=7$" + salt + "$" + key + "\n",
		"line break inside":  prefix + "i=7$" + salt[:4] + "\r\n" + salt[4:] + "$" + key,
		"padding":            prefix + "i=7$" + salt + "==$" + key,
		"the other alphabet": prefix + "i=7$" + salt + "$" + strings.Repeat("+", 43),
		"stray bits":         prefix + "i=7$" + salt[:21] + "B$" + key,
		"one more part":      good + "$",
		"space":              " " + good,
	} {
		if right, err := h.Verify(bad, "pass"); right || !errors.Is(err, ErrHash) {
			t.Errorf("%s: Verify(%q) = %v, %v; want ErrHash", name, bad, right, err)
		}
		if h.NeedsRehash(bad) {
			t.Errorf("%s: NeedsRehash(%q)", name, bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	h := newHasher(f, Config{Rounds: cheap, Peppers: peppers, Pepper: "2026"})
	f.Add(hashOf(f, h, "pass"))
	f.Add(h.dummy)
	f.Add(prefix + "i=7$$")
	f.Fuzz(func(t *testing.T, stored string) {
		if s, ok := parse(stored); ok && s.String() != stored {
			t.Errorf("parse(%q) accepts another way to write %q", stored, s)
		}
	})
}

// Every byte of a hash counts.
func TestFlippedBits(t *testing.T) {
	h := newHasher(t, Config{Rounds: cheap})
	good := hashOf(t, h, "pass")
	for i := range len(good) {
		for bit := range 8 {
			bad := []byte(good)
			bad[i] ^= 1 << bit
			if right, _ := h.Verify(string(bad), "pass"); right {
				t.Errorf("Verify accepts %q for %q", bad, good)
			}
		}
	}
}

func TestRotation(t *testing.T) {
	bare := newHasher(t, Config{Rounds: cheap})
	older := newHasher(t, Config{Rounds: cheap, Peppers: peppers, Pepper: "2025"})
	now := newHasher(t, Config{Rounds: cheap, Peppers: peppers, Pepper: "2026"})
	for _, stored := range []string{hashOf(t, bare, "pass"), hashOf(t, older, "pass")} {
		wantVerdict(t, now, stored, "pass", true)
		wantVerdict(t, now, stored, "word", false)
		if !now.NeedsRehash(stored) {
			t.Errorf("NeedsRehash(%q) = false", stored)
		}
	}
	if right, err := bare.Verify(hashOf(t, now, "pass"), "pass"); right || !errors.Is(err, ErrPepper) {
		t.Errorf("Verify without the pepper: %v, %v; want ErrPepper", right, err)
	}
	more := newHasher(t, Config{Rounds: cheap + 1})
	if stored := hashOf(t, bare, "pass"); !more.NeedsRehash(stored) || bare.NeedsRehash(hashOf(t, more, "pass")) {
		t.Error("NeedsRehash must ask for more rounds, and never for fewer")
	}
}

func TestConfig(t *testing.T) {
	for want, c := range map[string]Config{
		"Rounds":  {Rounds: -1},
		"Rounds:": {Rounds: RoundsMax + 1},
		"Pepper:": {Pepper: "none"},
		"Peppers": {Peppers: map[string][]byte{"a": []byte("too short")}},
		`"A"`:     {Peppers: map[string][]byte{"A": make([]byte, PepperBytesMin)}},
		"Random":  {Random: bytes.NewReader(nil)},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%+v): %v; want an error about %s", c, err, want)
		}
	}
	h := newHasher(t, Config{Rounds: cheap, Random: bytes.NewReader(make([]byte, saltBytes+keyBytes))})
	if stored, err := h.Hash("pass"); err == nil {
		t.Errorf("Hash without a salt: %q", stored)
	}
}

// spender counts the rounds that a hasher spends.
type spender struct {
	*Hasher
	rounds int
}

func newSpender(t *testing.T, c Config) *spender {
	s := &spender{Hasher: newHasher(t, c)}
	s.derive = func(password string, salt []byte, rounds int) []byte {
		s.rounds += rounds
		sum := sha256.Sum256([]byte(password + string(salt)))
		return sum[:]
	}
	return s
}

func (s *spender) spent(work func()) int {
	s.rounds = 0
	work()
	return s.rounds
}

// sameWork: every refusal costs as many rounds as a new hash. It returns what does not.
func sameWork(t *testing.T, s *spender) (problems []string) {
	old := newSpender(t, Config{Rounds: cheap})
	for name, work := range map[string]func(){
		"wrong":                   func() { s.Verify(hashOf(t, s.Hasher, "pass"), "word"); s.rounds -= s.Hasher.rounds },
		"wrong, of fewer rounds":  func() { s.Verify(hashOf(t, old.Hasher, "pass"), "word") },
		"unknown":                 func() { s.VerifyUnknown("word") },
		"right, of today's hash":  func() { s.Verify(hashOf(t, s.Hasher, "pass"), "pass"); s.rounds -= s.Hasher.rounds },
		"unknown, empty password": func() { s.VerifyUnknown("") },
	} {
		if got := s.spent(work); got != s.Hasher.rounds {
			problems = append(problems, name)
		}
	}
	return problems
}

func TestSameWork(t *testing.T) {
	if problems := sameWork(t, newSpender(t, Config{Peppers: peppers, Pepper: "2026"})); problems != nil {
		t.Errorf("another number of rounds: %q", problems)
	}
	mutant := newSpender(t, Config{})
	mutant.dummy = strings.Replace(mutant.dummy, "i=600000", "i=600001", 1)
	if problems := sameWork(t, mutant); len(problems) != 2 {
		t.Errorf("a dummy of other rounds is not caught: %q", problems)
	}
}

// A megabyte is refused before it is hashed.
func TestTooLong(t *testing.T) {
	s := newSpender(t, Config{})
	stored := hashOf(t, s.Hasher, "pass")
	for _, long := range []string{strings.Repeat("x", BytesMax+1), strings.Repeat("x", 1<<20)} {
		spent := s.spent(func() {
			if _, err := s.Hash(long); !errors.Is(err, ErrTooLong) {
				t.Errorf("Hash: %v", err)
			}
			if _, err := s.Verify(stored, long); !errors.Is(err, ErrTooLong) {
				t.Errorf("Verify: %v", err)
			}
			if err := s.VerifyUnknown(long); !errors.Is(err, ErrTooLong) {
				t.Errorf("VerifyUnknown: %v", err)
			}
		})
		if spent != 0 {
			t.Errorf("%d rounds for %d bytes", spent, len(long))
		}
	}
}

func TestNobodyHasTheDummy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, err := New(Config{Rounds: 1, Random: seeded()})
		if err != nil {
			t.Fatal(err)
		}
		if right, err := h.Verify(h.dummy, rapid.StringN(0, 64, BytesMax).Draw(t, "password")); right || err != nil {
			t.Errorf("Verify of an unknown user: %v, %v", right, err)
		}
	})
}

func BenchmarkHash(b *testing.B) {
	for name, c := range map[string]Config{"plain": {}, "peppered": {Peppers: peppers, Pepper: "2026"}} {
		b.Run(name, func(b *testing.B) {
			h := newHasher(b, c)
			for b.Loop() {
				hashOf(b, h, "a password of fair length")
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	h := newHasher(b, Config{})
	stored := hashOf(b, h, "a password of fair length")
	for name, work := range map[string]func() error{
		"right":   func() error { _, err := h.Verify(stored, "a password of fair length"); return err },
		"wrong":   func() error { _, err := h.Verify(stored, "a password of other length"); return err },
		"unknown": func() error { return h.VerifyUnknown("a password of fair length") },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := work(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
