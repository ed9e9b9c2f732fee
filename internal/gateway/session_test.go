package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const form = "Content-Type: application/x-www-form-urlencoded"

// logIn logs minji in and returns the Cookie line of her browser.
func logIn(t *testing.T, g *gate) string {
	t.Helper()
	answer, body := call(t, "POST", g.url+"/login", "login=minji&password=right", form)
	if answer.StatusCode != http.StatusSeeOther {
		t.Fatalf("log-in: %d %s", answer.StatusCode, body)
	}
	return cookieLine(answer)
}

// cookieLine is what a browser sends after an answer.
func cookieLine(answer *http.Response) string {
	var pairs []string
	for _, c := range answer.Cookies() {
		if c.MaxAge >= 0 {
			pairs = append(pairs, c.Name+"="+c.Value)
		}
	}
	return "Cookie: " + strings.Join(pairs, "; ")
}

// cleared says whether an answer has the browser forget the session.
func cleared(answer *http.Response) bool {
	gone := 0
	for _, c := range answer.Cookies() {
		if c.MaxAge < 0 && c.Value == "" && ownCookie(c.Name) {
			gone++
		}
	}
	return gone == 2
}

// No script can read the cookies, no other site send them unsafely, and under TLS, its own or a proxy's, nothing without it.
func TestLogInCookies(t *testing.T) {
	behind := map[string]string{"TRUSTED_PROXIES": "127.0.0.1"}
	for _, c := range []struct {
		name, proto, prefix string
		secure              bool
	}{{"plain", "http", "", false}, {"TLS in front", "https", "__Host-", true}} {
		g := open(t, setup{env: behind})
		answer, _ := call(t, "POST", g.url+"/login", "login=minji&password=right&next=%2Fchat%2F%3Fa%3Db", form, "X-Forwarded-Proto: "+c.proto)
		if answer.StatusCode != http.StatusSeeOther || answer.Header.Get("Location") != "/chat/?a=b" || answer.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: log-in answers %d %v", c.name, answer.StatusCode, answer.Header)
		}
		var got []http.Cookie
		for _, k := range answer.Cookies() {
			if len(k.Value) < 4 {
				t.Errorf("%s: cookie %v", c.name, k)
			}
			got = append(got, http.Cookie{Name: k.Name, Path: k.Path, MaxAge: k.MaxAge, HttpOnly: k.HttpOnly, Secure: k.Secure, SameSite: k.SameSite, Domain: k.Domain})
		}
		base := http.Cookie{Path: "/", MaxAge: 30 * 24 * 3600, HttpOnly: true, Secure: c.secure, SameSite: http.SameSiteLaxMode}
		access, refresh := base, base
		access.Name, refresh.Name = c.prefix+"dongne_access", c.prefix+"dongne_refresh"
		if diff := cmp.Diff([]http.Cookie{access, refresh}, got); diff != "" {
			t.Errorf("%s: cookies mismatch (-want +got):\n%s", c.name, diff)
		}
		g.auth.mu.Lock()
		if g.auth.body != `{"code":"","login":"minji","password":"right"}` || g.auth.last.Get("X-Forwarded-For") != "127.0.0.1" || g.auth.last.Get("Cookie") != "" {
			t.Errorf("%s: auth was asked %s %v", c.name, g.auth.body, g.auth.last)
		}
		g.auth.mu.Unlock()
		g.stop()
	}
}

func TestLogInRefused(t *testing.T) {
	g := open(t, setup{})
	for _, c := range []struct {
		body, want string
		status     int // auth's; 0: what is right
	}{
		{"login=minji&password=wrong&next=/chat/", "/?next=%2Fchat%2F&refused=credentials-wrong", 0},
		{"login=minji&password=right", "/?next=%2F&refused=auth-away", 502},
		{"login=minji&password=right", "/?next=%2F&refused=status-429", 429},
	} {
		g.auth.set(func() { g.auth.answers["/login"] = c.status })
		answer, _ := call(t, "POST", g.url+"/login", c.body, form)
		if answer.StatusCode != http.StatusSeeOther || answer.Header.Get("Location") != c.want || len(answer.Cookies()) > 0 {
			t.Errorf("%s, auth %d: %d %v", c.body, c.status, answer.StatusCode, answer.Header)
		}
	}
	answer, body := call(t, "POST", g.url+"/login", "login="+strings.Repeat("a", tokenBytesMax), form)
	wantProblem(t, answer, body, http.StatusRequestEntityTooLarge, "body-too-large")
}

// Whatever next says, the log-in leads to this site alone.
func TestOwnPath(t *testing.T) {
	for next, want := range map[string]string{
		"/chat/?a=b#c": "/chat/?a=b#c", "": "/", "chat": "/", "https://evil.example/": "/", "//evil.example": "/", "/\\evil.example": "/",
		"/\t/evil.example": "/", "\\/evil.example": "/", "/a\r\nSet-Cookie: x": "/", "javascript:alert(1)": "/", "/": "/",
	} {
		if got := ownPath(next); got != want {
			t.Errorf("ownPath(%q) = %q, want %q", next, got, want)
		}
	}
}

// A page of another origin can neither log anybody in nor out.
func TestSessionCrossOrigin(t *testing.T) {
	g := open(t, setup{})
	cookie := logIn(t, g)
	for _, path := range []string{"/login", "/logout"} {
		for _, header := range []string{"Origin: https://evil.example", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Origin: null"} {
			asked := g.auth.count(path)
			answer, body := call(t, "POST", g.url+path, "login=minji&password=right", form, cookie, header)
			wantProblem(t, answer, body, http.StatusForbidden, "cross-origin")
			if g.auth.count(path) != asked || len(answer.Cookies()) > 0 {
				t.Errorf("%s with %s reached auth, or set cookies: %v", path, header, answer.Header)
			}
		}
	}
	answer, _ := call(t, "POST", g.url+"/logout", "", cookie, "Origin: "+g.url)
	if answer.StatusCode != http.StatusSeeOther || answer.Header.Get("Location") != "/" || !cleared(answer) || g.auth.count("/logout") != 1 {
		t.Errorf("log-out: %d %v", answer.StatusCode, answer.Header)
	}
}

// The session's cookies become a token, and no service sees them; those of others stay as they are.
func TestCookiesBecomeToken(t *testing.T) {
	g := open(t, setup{targets: map[string]*url.URL{"chat": echo(t)}})
	cookie := logIn(t, g)
	access := strings.TrimPrefix(strings.Split(cookie, "; ")[0], "Cookie: dongne_access=")
	insider := "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n"
	for _, c := range []struct {
		header []string
		want   string
	}{
		{[]string{cookie}, "Authorization: Bearer " + access + "\r\nX-Auth-Request-User: minji\r\n" + insider},
		{[]string{cookie + `; theme="dark"; odd=a,b c`, "Cookie: x=y"},
			"Authorization: Bearer " + access + "\r\nCookie: theme=\"dark\"; odd=a,b c\r\nCookie: x=y\r\nX-Auth-Request-User: minji\r\n" + insider},
		{[]string{"Cookie: x=y", cookie}, "Authorization: Bearer " + access + "\r\nCookie: x=y\r\nX-Auth-Request-User: minji\r\n" + insider},
		{[]string{"Cookie: __Host-dongne_access=" + access + "; a=b"}, "Cookie: a=b\r\n" + insider}, // of another scheme
		{[]string{"Cookie: dongne_theme=dark"}, "Cookie: dongne_theme=dark\r\n" + insider},
	} {
		answer, got := get(t, g.url+"/chat/", c.header...)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q: mismatch (-want +got):\n%s", c.header, diff)
		}
		if strings.Contains(got, "Authorization") != (answer.Header.Get("Vary") == "Cookie") {
			t.Errorf("%q: Vary is %q", c.header, answer.Header.Get("Vary"))
		}
	}
	// A token of the request's own comes first, and cookies go all the same.
	bearer := g.auth.bearer("junho")
	if _, got := get(t, g.url+"/chat/", cookie, bearer); !strings.HasPrefix(got, bearer+"\r\nX-Auth-Request-User: junho\r\n") {
		t.Errorf("with both: %s", got)
	}
}

// A pair that ends soon is replaced once, however many requests come with it.
func TestRefreshOnce(t *testing.T) {
	g := open(t, setup{targets: map[string]*url.URL{"chat": echo(t)}})
	g.auth.set(func() { g.auth.life = refreshEarly - 5*time.Second })
	cookie := logIn(t, g)
	gate := make(chan struct{})
	g.auth.set(func() { g.auth.life, g.auth.gate = time.Hour, gate })
	const parallel = 50
	var all [parallel]string
	var wg sync.WaitGroup
	for i := range parallel {
		wg.Go(func() {
			answer, got := get(t, g.url+"/chat/", cookie)
			if !strings.Contains(got, "X-Auth-Request-User: minji") || answer.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%d %s", answer.StatusCode, got)
			}
			all[i] = cookieLine(answer)
		})
	}
	soon(t, "auth is asked", func() bool { return g.auth.count("/oauth2/token") > 0 })
	close(gate)
	wg.Wait()
	for _, other := range all {
		if other != all[0] || other == cookie || other == "Cookie: " {
			t.Fatalf("new cookies %q, others %q, before %q", all[0], other, cookie)
		}
	}
	if n := g.auth.count("/oauth2/token"); n != 1 {
		t.Errorf("auth was asked %d times, want once", n)
	}
	if answer, _ := get(t, g.url+"/chat/", all[0]); len(answer.Cookies()) > 0 || g.auth.count("/oauth2/token") != 1 {
		t.Errorf("the new pair is replaced too: %v", answer.Cookies())
	}
}

// What auth knows no more is forgotten; what it cannot say just now is not.
func TestRefreshRefused(t *testing.T) {
	g := open(t, setup{targets: map[string]*url.URL{"chat": echo(t)}})
	dead := "Cookie: dongne_access=" + g.auth.mint("minji", -time.Minute) + "; dongne_refresh=dr_dead"
	for range 2 { // what is refused is not remembered
		answer, got := get(t, g.url+"/chat/", dead)
		if strings.Contains(got, "Authorization") || answer.StatusCode != http.StatusOK || !cleared(answer) {
			t.Errorf("a session that is over: %d %v %s", answer.StatusCode, answer.Header, got)
		}
	}
	if answer, _ := get(t, g.url+"/chat/", "Cookie: dongne_access=nonsense"); !cleared(answer) {
		t.Errorf("nonsense is kept: %v", answer.Header)
	}
	// A token that is good for a little goes on while auth is away, and nothing is forgotten.
	ending := "Cookie: dongne_access=" + g.auth.mint("minji", refreshEarly-5*time.Second) + "; dongne_refresh=dr_unknown"
	over := "Cookie: dongne_refresh=dr_unknown"
	for _, status := range []int{500, 503, 404, 429} {
		g.auth.set(func() { g.auth.answers["/oauth2/token"] = status })
		answer, got := get(t, g.url+"/chat/", ending)
		if !strings.Contains(got, "X-Auth-Request-User: minji") || len(answer.Cookies()) > 0 {
			t.Errorf("auth %d, good for a little: %d %v %s", status, answer.StatusCode, answer.Header, got)
		}
		answer, body := call(t, "POST", g.url+"/chat/", "{}", over)
		if outcome := wantProblem(t, answer, body, http.StatusServiceUnavailable, "auth-away"); outcome != "not_applied" || len(answer.Cookies()) > 0 {
			t.Errorf("auth %d, over: outcome %q, %v", status, outcome, answer.Cookies())
		}
		for _, path := range []string{"/", "/status", "/health", "/openapi.yaml"} {
			if answer, _ := get(t, g.url+path, over); answer.StatusCode != http.StatusOK {
				t.Errorf("auth %d: GET %s: %d", status, path, answer.StatusCode)
			}
		}
	}
	answer, body := call(t, "POST", g.url+"/logout", "", over)
	wantProblem(t, answer, body, http.StatusServiceUnavailable, "auth-away")
}

// Who makes tokens up is stopped before auth is, and keeps nobody else out.
func TestRefreshFlood(t *testing.T) {
	g := open(t, setup{targets: map[string]*url.URL{"chat": echo(t)}, env: map[string]string{"TRUSTED_PROXIES": "127.0.0.1"}})
	began, refused := time.Now(), 0
	for i := range renewals.Burst + 50 {
		answer, body := get(t, g.url+"/chat/", fmt.Sprintf("Cookie: dongne_refresh=dr_made_up_%d", i), "X-Forwarded-For: 2001:db8::1")
		if answer.StatusCode == http.StatusTooManyRequests {
			wantProblem(t, answer, body, http.StatusTooManyRequests, "rate-limited")
			refused++
		}
	}
	allowed := renewals.Burst + 1 + int(time.Since(began)*time.Duration(renewals.Requests)/renewals.Window)
	if n := g.auth.count("/oauth2/token"); n+refused != renewals.Burst+50 || n < renewals.Burst || n > allowed {
		t.Errorf("auth was asked %d times, and %d were refused; want %d to %d", n, refused, renewals.Burst, allowed)
	}
	g.auth.set(func() { g.auth.life = refreshEarly / 2 })
	cookie := logIn(t, g)
	g.auth.set(func() { g.auth.life = time.Hour })
	if answer, _ := get(t, g.url+"/chat/", cookie, "X-Forwarded-For: 2001:db8:0:1::1"); len(answer.Cookies()) != 2 {
		t.Errorf("somebody else's session is not renewed: %d %v", answer.StatusCode, answer.Header)
	}
	s := g.front.Sessions
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.refreshes) != 1 || len(s.settled) != 1 {
		t.Errorf("%d refreshes are remembered, %d settled, want one", len(s.refreshes), len(s.settled))
	}
}

// The memory of refreshes is bounded by time and number.
func TestRefreshForgets(t *testing.T) {
	now := time.Unix(1000, 0)
	s := &Sessions{refreshes: map[refreshKey]*refresh{}}
	for i := range refreshesKept + 5 {
		key := refreshKey{byte(i), byte(i >> 8)}
		s.refreshes[key] = &refresh{}
		s.settled = append(s.settled, settled{key, now.Add(time.Duration(i) * time.Millisecond)})
	}
	s.forget(now)
	if len(s.settled) != refreshesKept-1 || len(s.refreshes) != refreshesKept-1 {
		t.Errorf("%d and %d are kept, want under %d", len(s.settled), len(s.refreshes), refreshesKept)
	}
	s.forget(now.Add(refreshKept + time.Second))
	if first := s.settled[0].at; first != now.Add(time.Second) || len(s.refreshes) != len(s.settled) {
		t.Errorf("the oldest is of %v", first)
	}
	s.forget(now.Add(time.Hour))
	if len(s.refreshes)+len(s.settled) != 0 {
		t.Errorf("%d are left", len(s.refreshes))
	}
}

// A service can neither set the gateway's cookies nor those of its neighbours.
func TestUpstreamCookies(t *testing.T) {
	target := service(t, func(w http.ResponseWriter, r *http.Request) {
		for _, c := range []string{"dongne_access=evil; Path=/", "__Host-dongne_refresh=evil", "a=b; path=/rooms; Secure", "c=d", "e=f; Path=/; HttpOnly", "__Host-g=h; Path=/"} {
			w.Header().Add("Set-Cookie", c)
		}
	})
	g := open(t, setup{targets: map[string]*url.URL{"chat": target}, routes: `{"routes":{"raw":{"upstream":"` + target.String() + `","keep_prefix":true}}}`})
	answer, _ := get(t, g.url+"/chat/")
	if diff := cmp.Diff([]string{"a=b; path=/chat/rooms; Secure", "c=d", "e=f; Path=/chat/; HttpOnly", "__Host-g=h; Path=/"}, answer.Header["Set-Cookie"]); diff != "" {
		t.Errorf("Set-Cookie mismatch (-want +got):\n%s", diff)
	}
	answer, _ = get(t, g.url+"/raw/")
	if diff := cmp.Diff([]string{"a=b; path=/rooms; Secure", "c=d", "e=f; Path=/; HttpOnly", "__Host-g=h; Path=/"}, answer.Header["Set-Cookie"]); diff != "" {
		t.Errorf("Set-Cookie mismatch (-want +got):\n%s", diff)
	}
}

// A cache in front may give an answer that was made for a session's cookies to nobody else, whatever else it varies by.
func TestVary(t *testing.T) {
	target := service(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Vary", "Accept-Language") })
	g := open(t, setup{targets: map[string]*url.URL{"chat": target}})
	answer, _ := get(t, g.url+"/chat/", logIn(t, g))
	if diff := cmp.Diff([]string{"Cookie", "Accept-Language"}, answer.Header["Vary"]); diff != "" {
		t.Errorf("Vary mismatch (-want +got):\n%s", diff)
	}
}

// Whose session ends elsewhere is out, at the gateway too.
func TestRevoked(t *testing.T) {
	g := open(t, setup{targets: map[string]*url.URL{"chat": echo(t)}, routes: `{"defaults":{"auth":"required"}}`})
	bearer := g.auth.bearer("minji")
	if answer, body := get(t, g.url+"/chat/", bearer); answer.StatusCode != http.StatusOK {
		t.Fatalf("before: %d %s", answer.StatusCode, body)
	}
	g.auth.set(func() { g.auth.revoked = append(g.auth.revoked, "s_minji") })
	soon(t, "the token is refused", func() bool {
		answer, _ := get(t, g.url+"/chat/", bearer)
		return answer.StatusCode == http.StatusUnauthorized
	})
	answer, body := get(t, g.url+"/chat/")
	wantProblem(t, answer, body, http.StatusUnauthorized, "unauthenticated")
	if answer, body := get(t, g.url+"/chat/", g.auth.bearer("junho")); answer.StatusCode != http.StatusOK {
		t.Errorf("somebody else: %d %s", answer.StatusCode, body)
	}
	var me struct{ User string }
	_, body = get(t, g.url+"/whoami", g.auth.bearer("junho"))
	if json.Unmarshal([]byte(body), &me) != nil || me.User != "junho" {
		t.Errorf("whoami: %s", body)
	}
}
