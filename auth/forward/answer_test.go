package forward

import (
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestAllow(t *testing.T) {
	for _, c := range []struct {
		user, email string
		groups      []string
		want        [3]string
	}{
		{"u_1", "ann@example.com", []string{"admin", "staff"}, [3]string{"u_1", "ann@example.com", "admin,staff"}},
		{"u_1", "", nil, [3]string{"u_1", "", ""}},
		{"김", "a b@example.com", []string{"a,b", "100%", "동네"}, [3]string{"%EA%B9%80", "a%20b@example.com", "a%2Cb,100%25,%EB%8F%99%EB%84%A4"}},
		{"a\r\nX-Evil: 1", "\x00\x7f\xff", []string{""}, [3]string{"a%0D%0AX-Evil:%201", "%00%7F%FF", ""}},
	} {
		h := http.Header{HeaderUser: {"root", "root"}, HeaderEmail: {"root"}, HeaderGroups: {"root"}}
		if err := Allow(h, c.user, c.email, c.groups); err != nil {
			t.Errorf("Allow(%q): %v", c.user, err)
		}
		want := http.Header{HeaderUser: {c.want[0]}, HeaderEmail: {c.want[1]}, HeaderGroups: {c.want[2]}, "Cache-Control": {"no-store"}}
		if diff := cmp.Diff(want, h); diff != "" {
			t.Errorf("Allow(%q) mismatch (-want +got):\n%s", c.user, diff)
		}
	}
}

func TestAllowRefuses(t *testing.T) {
	long := strings.Repeat("a", IdentityBytesMax+1)
	for what, args := range map[string][3]string{
		"no user": {"", "a@example.com", "g"}, "a long user": {long, "", ""}, "a long email": {"u", long, ""}, "long groups": {"u", "", long},
	} {
		h := http.Header{}
		if err := Allow(h, args[0], args[1], []string{args[2]}); !errors.Is(err, ErrIdentity) || len(h) != 0 {
			t.Errorf("Allow of %s: %v, %v", what, err, h)
		}
	}
}

// unsafe says what is wrong with an identity's headers: a byte that is not visible ASCII, or another identity than that
// which went in.
func unsafe(write func(h http.Header, user, email string, groups []string) error, user, email string, groups []string) string {
	h := http.Header{}
	if err := write(h, user, email, groups); err != nil {
		return ""
	}
	for name, values := range h {
		if strings.ContainsFunc(strings.Join(values, ""), func(r rune) bool { return r < '!' || r > '~' }) || len(values) != 1 {
			return name
		}
	}
	var back []string
	for _, text := range append([]string{h.Get(HeaderUser), h.Get(HeaderEmail)}, strings.Split(h.Get(HeaderGroups), ",")...) {
		plain, err := url.PathUnescape(text)
		if err != nil {
			return text
		}
		back = append(back, plain)
	}
	if len(groups) == 0 {
		groups = []string{""}
	}
	return cmp.Diff(append([]string{user, email}, groups...), back)
}

func TestIdentityIsSafeAndWhole(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
	rapid.Check(t, func(t *rapid.T) {
		user, email, groups := text.Draw(t, "user"), text.Draw(t, "email"), rapid.SliceOfN(text, 0, 4).Draw(t, "groups")
		if problem := unsafe(Allow, user, email, groups); problem != "" {
			t.Errorf("Allow(%q, %q, %q): %s", user, email, groups, problem)
		}
	})
	mutant := func(h http.Header, user, email string, groups []string) error { // encodes no commas
		err := Allow(h, user, email, groups)
		h.Set(HeaderGroups, strings.ReplaceAll(h.Get(HeaderGroups), "%2C", ","))
		return err
	}
	if unsafe(mutant, "u", "", []string{"a,admin"}) == "" {
		t.Error("a group that becomes two is not caught")
	}
}

func TestDeny(t *testing.T) {
	insufficient := &Denial{Status: 403, Code: InsufficientScope, Detail: "this needs more", Scope: "admin"}
	for _, c := range []struct {
		denial    *Denial
		status    int    // but of nginx
		nginx     int    // and to nginx
		header    string // X-Auth-Request-Status to nginx
		challenge string
	}{
		{NoCredentials(), 401, 401, "", `Bearer realm="dongne"`},
		{&Denial{Status: 401, Code: InvalidToken, Detail: "expired"}, 401, 401, "", `Bearer realm="dongne", error="invalid_token", error_description="expired"`},
		{&Denial{Status: 401, Code: InvalidToken, Detail: "a \"b\" \\ c\r\nd 동"}, 401, 401, "", `Bearer realm="dongne", error="invalid_token", error_description="a 'b' ? c??d ?"`},
		{insufficient, 403, 403, "", `Bearer realm="dongne", error="insufficient_scope", error_description="this needs more", scope="admin"`},
		{&Denial{Status: 403, Detail: "disabled"}, 403, 403, "", ""},
		{malformed("the host"), 400, 403, "400", `Bearer realm="dongne", error="invalid_request", error_description="the host is malformed"`},
		{&Denial{Status: 429, Detail: "slow down"}, 429, 403, "429", ""},
		{&Denial{Status: 503, Detail: "later"}, 503, 403, "503", ""},
		{&Denial{Status: 200}, 403, 403, "", ""},
		{&Denial{}, 403, 403, "", ""},
	} {
		for _, d := range Dialects {
			want, status := http.Header{"Cache-Control": {"no-store"}}, c.status
			if c.challenge != "" {
				want.Set("WWW-Authenticate", c.challenge)
			}
			if d == AuthRequest {
				if status = c.nginx; c.header != "" {
					want.Set(HeaderStatus, c.header)
				}
			}
			h := http.Header{HeaderUser: {"root"}, HeaderEmail: {"root"}, HeaderGroups: {"root"}, HeaderStatus: {"200"}}
			if got := Deny(d, h, c.denial); got != status {
				t.Errorf("Deny(%v, %+v) = %d, want %d", d, c.denial, got, status)
			}
			if diff := cmp.Diff(want, h); diff != "" {
				t.Errorf("Deny(%v, %+v) mismatch (-want +got):\n%s", d, c.denial, diff)
			}
		}
	}
}

// lets says which statuses of a denial a proxy would take for success, or nginx for a failure of ours.
func lets(deny func(Dialect, http.Header, *Denial) int) (problems []int) {
	found := map[int]bool{}
	for _, d := range Dialects {
		for status := -1; status <= 1000; status++ {
			got := deny(d, http.Header{}, &Denial{Status: status})
			if got < 400 || got > 599 || d == AuthRequest && got != 401 && got != 403 {
				found[status] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func TestDenialIsNeverSuccess(t *testing.T) {
	if problems := lets(Deny); problems != nil {
		t.Errorf("denials that a proxy takes for something else: %v", problems)
	}
	mutant := func(d Dialect, h http.Header, denial *Denial) int {
		if denial.Status == 204 || denial.Status == 503 {
			return denial.Status
		}
		return Deny(d, h, denial)
	}
	if diff := cmp.Diff([]int{204, 503}, lets(mutant)); diff != "" {
		t.Errorf("the mutant is not caught (-want +got):\n%s", diff)
	}
}
