package password

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func codeOf(err error) string {
	var weak *Weak
	if errors.As(err, &weak) {
		return weak.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func TestCheck(t *testing.T) {
	const login = "minsu.kim@example.com"
	for _, c := range []struct {
		password string
		second   bool
		want     string
	}{
		{"", false, CodeShort},
		{"x9#kQv2!mZ7@wL", false, CodeShort}, // 14
		{"x9#kQv2!mZ7@wLe", false, ""},       // 15
		{"x9#kQv2", true, CodeShort},
		{"x9#kQv2!", true, ""},
		{"가나다라 산들바람 종이비행기", false, ""},                    // 15 code points, 39 bytes
		{"산들바람 종이비행기 셋", false, CodeShort},                // many bytes, 12 code points
		{"quilt " + strings.Repeat("🙂🙃", 125), false, ""}, // 256
		{"quilt  " + strings.Repeat("🙂🙃", 125), false, CodeLong},
		{strings.Repeat("x", 1<<20), false, CodeLong},
		{"river cardboard \xff window", false, CodeInvalid},
		{"aaaaaaaaaaaaaaa", false, CodeCommon},
		{"               ", false, CodeCommon},
		{"abcabcabcabcabcabc", false, CodeCommon},
		{"1234567890123456", false, CodeCommon},
		{"9876543210987654", false, CodeCommon},
		{"abcdefghijklmnopq", false, CodeCommon},
		{"ladder-quilt.ladder-quilt.", false, CodeCommon}, // 13, twice
		{"ladder-quilt.ladder-quilt.", true, ""},
		{"PasswordPassword", false, CodeCommon},
		{"password!password!", false, CodeCommon},
		{"Password123456789", false, CodeCommon},
		{"!!!!password2026!!!!", false, CodeCommon},
		{"QwertyUiopAsdfghjkl", false, CodeCommon},
		{"1q2w3e4r5t6y7u8i", false, CodeCommon},
		{"qlalfqjsgh", true, CodeCommon}, // 비밀번호 on a Latin keyboard
		{"비밀번호12345678901", false, CodeCommon},
		{"Dongne2026", true, CodeCommon},
		{"dongne123456789", false, CodeCommon},
		{"dongne 2026 river cardboard", false, ""},
		{"password river cardboard", false, ""},
		{"\u212Aim \u212Aardashian 77", false, ""},
		{"river minsu.kim cardboard", false, CodeLogin},
		{"river MINSU.KIM@example.com", false, CodeLogin},
		{"river example.com cardboard", false, ""},
		{"correct horse 7 staple", false, ""},
	} {
		if got := codeOf(Check("password", login, c.password, c.second)); got != c.want {
			t.Errorf("Check(%.40q, %v) = %q, want %q", c.password, c.second, got, c.want)
		}
	}
}

func TestCheckLogin(t *testing.T) {
	for _, c := range []struct{ login, password, want string }{
		{"kim", "kimkimkim-2026-12-31", CodeLogin},
		{"kim", "2026-12-31-KIM-12345", CodeLogin},
		{"kim", "kimono river cardboard", ""},
		{"kim", "2026-12-31-77-12345", ""},
		{"kims", "kimsono river cardboard", CodeLogin},
		{"", "river cardboard window", ""},
		{"@", "river @ cardboard window", ""},
		{"민수", "민수 민수 2026 12 31 77", CodeLogin},
		{"김민수네집", "우리 김민수네집 종이비행기 하나", CodeLogin},
	} {
		if got := codeOf(Check("password", c.login, c.password, false)); got != c.want {
			t.Errorf("Check(login %q, %q) = %q, want %q", c.login, c.password, got, c.want)
		}
	}
}

func TestWeakNamesItsField(t *testing.T) {
	if err := Check("new_password", "", "short", false); err == nil || err.Error() != "new_password: at least 15 characters without a second factor" {
		t.Errorf("Check: %v", err)
	}
	if err := Check("new_password", "", "short", true); err == nil || err.Error() != "new_password: at least 8 characters" {
		t.Errorf("Check: %v", err)
	}
}

// Whatever stands in the list is refused in any case, dressed up and repeated; and the list is as Check reads it.
func TestBlocklist(t *testing.T) {
	list := blocklist()
	if len(list) < 1000 {
		t.Fatalf("%d entries", len(list))
	}
	for entry := range list {
		if entry != fold(entry) || strings.TrimSpace(entry) != entry || !utf8.ValidString(entry) {
			t.Errorf("%q is not folded, or has space around it, or is not UTF-8", entry)
		}
		padded := entry
		if core(entry) == entry {
			padded = "7" + strings.ToUpper(entry) + "20261231!"
		}
		for _, password := range []string{strings.ToUpper(entry), strings.Repeat(entry, 15/utf8.RuneCountInString(entry)+2), padded} {
			if n := utf8.RuneCountInString(password); n < RunesMinSecondFactor || n > RunesMax {
				continue
			}
			if got := codeOf(Check("password", "", password, true)); got != CodeCommon {
				t.Errorf("Check(%q) = %q, want %q", password, got, CodeCommon)
			}
		}
	}
}

func TestPeriod(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		runes := rapid.SliceOfN(rapid.SampledFrom([]rune("ab")), 1, 24).Draw(t, "runes")
		want := 1
		for !repeats(runes, want) {
			want++
		}
		if got := period(runes); got != want {
			t.Errorf("period(%q) = %d, want %d", string(runes), got, want)
		}
	})
}

func repeats(runes []rune, unit int) bool {
	for i := unit; i < len(runes); i++ {
		if runes[i] != runes[i-unit] {
			return false
		}
	}
	return true
}

// fold puts together exactly what strings.EqualFold does, of letters that people type.
func TestFold(t *testing.T) {
	letters := rapid.SampledFrom([]rune("aAkK\u212AsSſßéÉσςΣяЯ가힣1!ıİ"))
	rapid.Check(t, func(t *rapid.T) {
		a, b := string(rapid.SliceOfN(letters, 1, 3).Draw(t, "a")), string(rapid.SliceOfN(letters, 1, 3).Draw(t, "b"))
		if strings.EqualFold(a, b) && fold(a) != fold(b) {
			t.Errorf("fold(%q) = %q, fold(%q) = %q", a, fold(a), b, fold(b))
		}
	})
}

// A passphrase of words that have nothing to do with each other is never refused, whatever the case.
func TestPassphrasesPass(t *testing.T) {
	words := rapid.SampledFrom([]string{"river", "cardboard", "window", "ladder", "종이비행기", "산들바람", "Möbel", "quilt"})
	rapid.Check(t, func(t *rapid.T) {
		phrase := strings.Join(rapid.SliceOfNDistinct(words, 4, 6, rapid.ID[string]).Draw(t, "words"), " ")
		if err := Check("password", "minsu", phrase, false); err != nil {
			t.Errorf("Check(%q): %v", phrase, err)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	for b.Loop() {
		if err := Check("password", "minsu", "river cardboard window ladder", false); err != nil {
			b.Fatal(err)
		}
	}
}
