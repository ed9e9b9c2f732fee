package password

import (
	"bufio"
	_ "embed"
	"fmt"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Lengths of a password in Unicode code points.
const (
	RunesMin             = 15 // alone
	RunesMinSecondFactor = 8  // beside a second factor
	RunesMax             = 256

	loginRunesMin = 4 // a shorter login is too likely to stand in a password by chance
)

// The codes of a [Weak].
const (
	CodeInvalid = "password-invalid" // not UTF-8
	CodeShort   = "password-short"
	CodeLong    = "password-long"
	CodeCommon  = "password-common"
	CodeLogin   = "password-has-login"
)

// Weak says why a password is not taken. Its text is for whoever chose it.
type Weak struct {
	Field  string // of the request
	Code   string // one of the Code constants
	Detail string
}

// Error is the field and the detail.
func (w *Weak) Error() string { return w.Field + ": " + w.Detail }

// Check says whether a new password may be taken: nil, or a *[Weak] that names the field. It wants valid UTF-8 of 15 to
// 256 code points, or 8 to 256 when the user has a second factor; any characters will do. Refused are
//
//   - the commonest passwords: those of the list in blocklist.txt, also with digits, spaces and punctuation before or
//     after, and runs such as 123456789012345; what is a shorter text over and over is judged as that text, once;
//   - those that contain the login, or the part of it before '@', when that has at least 4 characters, and those that
//     are a shorter login, any number of times, with nothing but digits and punctuation beside it.
//
// All comparisons ignore case. The cost is bounded: at most 1 KiB is looked at.
func Check(field, login, password string, secondFactor bool) error {
	weak := func(code, format string, args ...any) error {
		return &Weak{Field: field, Code: code, Detail: fmt.Sprintf(format, args...)}
	}
	runesMin, alone := RunesMin, " without a second factor"
	if secondFactor {
		runesMin, alone = RunesMinSecondFactor, ""
	}
	if len(password) > BytesMax {
		return weak(CodeLong, "at most %d characters", RunesMax)
	}
	if !utf8.ValidString(password) {
		return weak(CodeInvalid, "must be valid UTF-8")
	}
	switch n := utf8.RuneCountInString(password); {
	case n > RunesMax:
		return weak(CodeLong, "at most %d characters", RunesMax)
	case n < runesMin:
		return weak(CodeShort, "at least %d characters%s", runesMin, alone)
	}
	folded := fold(password)
	if common(folded, runesMin) {
		return weak(CodeCommon, "too common; a few unrelated words are easier to remember and harder to guess")
	}
	login = fold(login)
	name, _, _ := strings.Cut(login, "@")
	if hasLogin(folded, login) || hasLogin(folded, name) {
		return weak(CodeLogin, "must not contain the login")
	}
	return nil
}

// common: folded is one of the commonest, or one of them in disguise, or too short but for its repetition.
func common(folded string, runesMin int) bool {
	runes := []rune(folded)
	if n := period(runes); n <= len(runes)/2 {
		if n < runesMin {
			return true
		}
		runes = runes[:n]
	}
	once, list := string(runes), blocklist()
	return list[folded] || list[once] || list[core(once)] || run(runes)
}

// period returns the length of the shortest beginning of runes that, repeated and cut off, gives all of them.
func period(runes []rune) int {
	border := make([]int, len(runes)+1) // border[n]: the longest proper beginning of runes[:n] that also ends it
	for n, b := 1, 0; n < len(runes); n++ {
		for b > 0 && runes[n] != runes[b] {
			b = border[b]
		}
		if runes[n] == runes[b] {
			b++
		}
		border[n+1] = b
	}
	return len(runes) - border[len(runes)]
}

// run: each of runes follows the one before, all upwards or all downwards, and 0 follows 9.
func run(runes []rune) bool {
	up, down := true, true
	follows := func(a, b rune) bool { return b == a+1 || a == '9' && b == '0' }
	for i := 1; i < len(runes); i++ {
		up = up && follows(runes[i-1], runes[i])
		down = down && follows(runes[i], runes[i-1])
	}
	return up || down
}

// core is a text without the digits, spaces and punctuation around its letters.
func core(text string) string {
	return strings.TrimFunc(text, func(r rune) bool { return !unicode.IsLetter(r) })
}

// hasLogin: see Check. Both texts are folded.
func hasLogin(password, login string) bool {
	if login == "" || !strings.Contains(password, login) {
		return false
	}
	return utf8.RuneCountInString(login) >= loginRunesMin || core(strings.ReplaceAll(password, login, "")) == ""
}

// fold maps texts that differ in case alone to one text (Unicode simple folding, as strings.EqualFold).
func fold(text string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return unicode.ToLower(least)
	}, text)
}

//go:embed blocklist.txt
var blocklistText string

// blocklist returns the folded passwords of blocklist.txt, one a line; '#' begins a line of comment.
var blocklist = sync.OnceValue(func() map[string]bool {
	list := map[string]bool{}
	for lines := bufio.NewScanner(strings.NewReader(blocklistText)); lines.Scan(); {
		if line := strings.TrimSpace(lines.Text()); line != "" && !strings.HasPrefix(line, "#") {
			list[fold(line)] = true
		}
	}
	return list
})
