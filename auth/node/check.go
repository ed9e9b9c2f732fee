package node

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"dongne/auth/password"
	"dongne/auth/realm"
)

// checkName says what is wrong with a user's name; it may be empty.
func checkName(name string) error {
	if len(name) > realm.NameBytesMax || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return &password.Weak{Field: "name", Code: "name-invalid",
			Detail: fmt.Sprintf("want up to %d bytes of UTF-8 without control characters", realm.NameBytesMax)}
	}
	return nil
}

// checkEmail says what is wrong with an e-mail address; it may be empty. It is for telling people apart and for headers, and
// nothing is sent to it, so it is only looked at whether it could be one: local@domain in visible ASCII, without what would
// have to be quoted.
func checkEmail(email string) error {
	local, domain, both := strings.Cut(email, "@")
	odd := func(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune(`"(),:;<>@[\]`, c) }
	const localBytesMax = 64 // RFC 5321, section 4.5.3.1.1
	switch {
	case email == "":
		return nil
	case !both, local == "", len(local) > localBytesMax, domain == "", strings.Trim(domain, ".-") != domain,
		len(email) > realm.EmailBytesMax, strings.ContainsFunc(local, odd), strings.ContainsFunc(domain, odd):
		return &password.Weak{Field: "email", Code: "email-invalid", Detail: "want an address like minji@example.com, in ASCII"}
	}
	return nil
}

// CheckGroups says what is wrong with the groups of a user. As they become the scope of tokens, each is a scope-token of
// RFC 6749, and all of them with spaces between are at most realm.ScopeBytesMax bytes.
func CheckGroups(groups []string) error {
	odd := func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '\\' }
	for _, g := range groups {
		if g == "" || len(g) > realm.GroupBytesMax || strings.ContainsFunc(g, odd) {
			return &password.Weak{Field: "groups", Code: "groups-invalid",
				Detail: fmt.Sprintf("%q: want 1 to %d visible ASCII characters without quotes and backslashes", g, realm.GroupBytesMax)}
		}
	}
	if len(groups) > realm.GroupsMax || len(strings.Join(groups, " ")) > realm.ScopeBytesMax {
		return &password.Weak{Field: "groups", Code: "groups-invalid",
			Detail: fmt.Sprintf("at most %d, and %d bytes together", realm.GroupsMax, realm.ScopeBytesMax)}
	}
	return nil
}
