package password

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var rfcSecret = []byte("12345678901234567890") // of RFC 4226 and RFC 6238

// RFC 4226, appendix D.
func TestHOTPVectors(t *testing.T) {
	for counter, want := range []string{"755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"} {
		if got := TOTPCode(rfcSecret, int64(counter)); got != want {
			t.Errorf("TOTPCode(%d) = %s, want %s", counter, got, want)
		}
	}
}

// RFC 6238, appendix B: 8 digits there, of which ours are the last 6.
func TestTOTPVectors(t *testing.T) {
	for seconds, want := range map[int64]string{
		59: "94287082", 1111111109: "07081804", 1111111111: "14050471", 1234567890: "89005924", 2000000000: "69279037", 20000000000: "65353130",
	} {
		step := TOTPStep(time.Unix(seconds, 0))
		if got := fmt.Sprintf("%08d", hotp(rfcSecret, step)%100_000_000); got != want {
			t.Errorf("at %d: %s, want %s", seconds, got, want)
		}
		if got := TOTPCode(rfcSecret, step); got != want[2:] {
			t.Errorf("TOTPCode at %d = %s, want %s", seconds, got, want[2:])
		}
	}
}

func TestVerifyTOTP(t *testing.T) {
	now := time.Unix(1111111109, 0)
	present := TOTPStep(now)
	for off := int64(-3); off <= 3; off++ {
		step, right := VerifyTOTP(rfcSecret, TOTPCode(rfcSecret, present+off), now)
		if want := -1 <= off && off <= 1; right != want || right && step != present+off {
			t.Errorf("VerifyTOTP of step %+d: %d, %v; want %v", off, step-present, right, want)
		}
	}
	code := TOTPCode(rfcSecret, present)
	for _, bad := range []string{"", code[1:], code + "0", " " + code, code[:3] + " " + code[3:], "+" + code[1:], "000000"} {
		if step, right := VerifyTOTP(rfcSecret, bad, now); right {
			t.Errorf("VerifyTOTP(%q) is right, step %d", bad, step)
		}
	}
	for _, early := range []time.Time{{}, time.Unix(-1, 0), time.Unix(0, 0)} {
		if step, right := VerifyTOTP(rfcSecret, "000000", early); right {
			t.Errorf("VerifyTOTP at %v: step %d", early, step)
		}
	}
}

// Nothing but the codes of three steps is right, and the step returned has that code.
func TestVerifyTOTPWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.SliceOfN(rapid.Byte(), TOTPSecretBytes, TOTPSecretBytes).Draw(t, "secret")
		now := time.Unix(rapid.Int64Range(60, 1<<40).Draw(t, "now"), 0)
		code := fmt.Sprintf("%06d", rapid.IntRange(0, 999_999).Draw(t, "code"))
		if rapid.Bool().Draw(t, "near") {
			code = TOTPCode(secret, TOTPStep(now)+rapid.Int64Range(-3, 3).Draw(t, "off"))
		}
		var want []int64
		for step := TOTPStep(now) - 1; step <= TOTPStep(now)+1; step++ {
			if TOTPCode(secret, step) == code {
				want = append(want, step)
			}
		}
		step, right := VerifyTOTP(secret, code, now)
		if right != (len(want) > 0) || right && step != slices.Max(want) {
			t.Errorf("VerifyTOTP = %d, %v; want the last of %v", step, right, want)
		}
	})
}

func TestTOTPSecret(t *testing.T) {
	secret, err := NewTOTPSecret(bytes.NewReader(rfcSecret))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", TOTPSecretText(secret)); diff != "" {
		t.Errorf("TOTPSecretText mismatch (-want +got):\n%s", diff)
	}
	if _, err := NewTOTPSecret(bytes.NewReader(rfcSecret[1:])); err == nil {
		t.Error("NewTOTPSecret of too little randomness")
	}
	a, _ := NewTOTPSecret(nil)
	if b, _ := NewTOTPSecret(nil); len(a) != TOTPSecretBytes || bytes.Equal(a, b) {
		t.Errorf("NewTOTPSecret: %x, %x", a, b)
	}
}

func TestTOTPURI(t *testing.T) {
	got := TOTPURI("dongne 동네", "minsu+a@example.com", rfcSecret)
	want := "otpauth://totp/dongne%20%EB%8F%99%EB%84%A4:minsu+a@example.com?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ" +
		"&issuer=dongne%20%EB%8F%99%EB%84%A4&algorithm=SHA1&digits=6&period=30"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("TOTPURI mismatch (-want +got):\n%s", diff)
	}
	u, err := url.Parse(TOTPURI("a:b", "c?d&issuer=x/y#z", rfcSecret))
	if err != nil {
		t.Fatal(err)
	}
	if u.Path != "/ab:c?d&issuer=x/y#z" || u.Query().Get("issuer") != "a:b" || u.Fragment != "" {
		t.Errorf("TOTPURI of odd names: path %q, query %v, fragment %q", u.Path, u.Query(), u.Fragment)
	}
}

func TestRecoveryCodes(t *testing.T) {
	codes, hashes, err := NewRecoveryCodes(seeded())
	if err != nil {
		t.Fatal(err)
	}
	if len(codes) != RecoveryCodes || len(hashes) != RecoveryCodes {
		t.Fatalf("%d codes, %d hashes", len(codes), len(hashes))
	}
	seen := map[string]bool{}
	for i, code := range codes {
		if len(code) != 19 || strings.Count(code, "-") != 3 || seen[code] {
			t.Errorf("code %q", code)
		}
		seen[code] = true
		sloppy := strings.NewReplacer("0", "O", "1", "l", "-", " ").Replace(strings.ToUpper(code))
		for _, typed := range []string{code, strings.ReplaceAll(code, "-", ""), sloppy} {
			if index, right := VerifyRecovery(hashes, typed); !right || index != i {
				t.Errorf("VerifyRecovery(%q) = %d, %v; want %d", typed, index, right, i)
			}
		}
		rest := slices.Delete(slices.Clone(hashes), i, i+1)
		if index, right := VerifyRecovery(rest, code); right {
			t.Errorf("VerifyRecovery of a used code: %d", index)
		}
	}
}

func TestRecoveryRefuses(t *testing.T) {
	codes, hashes, err := NewRecoveryCodes(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "-", codes[0][1:], codes[0] + "x", codes[0] + codes[1], hashes[0], strings.Repeat("x", 1<<20),
		"uuuu-uuuu-uuuu-uuuu", strings.Repeat("-", 60), codes[0][:15] + "ééé"} {
		if index, right := VerifyRecovery(hashes, bad); right {
			t.Errorf("VerifyRecovery(%.40q) = %d", bad, index)
		}
	}
	if _, _, err := NewRecoveryCodes(bytes.NewReader(make([]byte, 100))); err == nil {
		t.Error("NewRecoveryCodes of too little randomness")
	}
	if _, right := VerifyRecovery([]string{""}, ""); right {
		t.Error("an empty code is right")
	}
}

// Any code is of the alphabet's 32 characters, each as often as the others, and the hash is that of the plain characters.
func TestRecoveryAlphabet(t *testing.T) {
	random := make([]byte, RecoveryCodes*recoveryRunes)
	for i := range random {
		random[i] = byte(i)
	}
	codes, hashes, err := NewRecoveryCodes(bytes.NewReader(random))
	if err != nil {
		t.Fatal(err)
	}
	count := map[rune]int{}
	for _, r := range strings.ReplaceAll(strings.Join(codes, ""), "-", "") {
		count[r]++
	}
	for _, r := range recoveryAlphabet {
		if count[r] != RecoveryCodes*recoveryRunes/32 {
			t.Errorf("%c comes %d times", r, count[r])
		}
	}
	if b, err := hex.DecodeString(hashes[0]); err != nil || len(b) != 32 {
		t.Errorf("hash %q", hashes[0])
	}
}
