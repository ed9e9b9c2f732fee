package main

import (
	"encoding/base32"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"dongne/auth/password"

	"github.com/google/go-cmp/cmp"
)

// TestPeople is a user's way: sign up, log in, see who one is and where one has logged in, refresh, end sessions, log out.
func TestPeople(t *testing.T) {
	a := start(t)
	nobody := a.nobody()
	first := nobody.do("POST", "/signup", object{"login": "Minji", "password": passes, "name": "민지", "email": "minji@example.com"}).want(202, "")
	again := nobody.do("POST", "/signup", object{"login": "minji", "password": other}).want(202, "")
	if first.body != again.body {
		t.Errorf("a taken login is answered %s, a free one %s", again.body, first.body)
	}
	p := decode[pair](nobody.do("POST", "/login", object{"login": "minji", "password": passes}, "User-Agent", "a browser").want(200, ""))
	if p.Type != "Bearer" || p.Expires != 300 || p.User != "minji" || p.Session == "" || p.Scope != "" {
		t.Errorf("log-in answers %+v", p)
	}
	minji := as{a, p.Access, "192.0.2.1"}
	info := decode[object](minji.do("GET", "/userinfo", nil).want(200, ""))
	delete(info, "created_at")
	delete(info, "logged_in_at")
	if diff := cmp.Diff(object{"sub": "minji", "preferred_username": "minji", "name": "민지", "email": "minji@example.com", "groups": []any{}, "second_factor": false,
		"recovery_codes_left": 0.0, "disabled": false}, info); diff != "" {
		t.Errorf("userinfo mismatch (-want +got):\n%s", diff)
	}
	elsewhere := a.logIn("minji")
	type session struct {
		ID, Address string
		Agent       string `json:"user_agent"`
		Current     bool
	}
	sessions := decode[pageOf[session]](minji.do("GET", "/sessions", nil).want(200, "")).Items
	if diff := cmp.Diff([]session{{p.Session, "192.0.2.1", "a browser", true}, {elsewhere.Session, "192.0.2.1", "Go-http-client/1.1", false}}, sessions); diff != "" {
		t.Errorf("sessions mismatch (-want +got):\n%s", diff)
	}
	minji.do("DELETE", "/sessions/"+elsewhere.Session, nil).want(204, "")
	minji.do("DELETE", "/sessions/"+elsewhere.Session, nil).want(204, "")
	minji.do("DELETE", "/sessions/s_AAAAAAAAAAAAAAAAAAAAAA", nil).want(404, "unknown")
	minji.do("DELETE", "/sessions/x", nil).want(404, "unknown")
	a.as("bo").do("DELETE", "/sessions/"+p.Session, nil).want(404, "unknown")
	as{a, elsewhere.Access, ""}.do("GET", "/userinfo", nil).want(401, "token-invalid")
	nobody.refresh(elsewhere.Refresh).want(400, "invalid_grant")

	fresh := nobody.refresh(p.Refresh).want(200, "")
	if fresh.header.Get("Cache-Control") != "no-store" {
		t.Errorf("tokens with Cache-Control %q", fresh.header.Get("Cache-Control"))
	}
	next := decode[pair](fresh)
	if retry := decode[pair](nobody.refresh(p.Refresh).want(200, "")); retry.Refresh != next.Refresh {
		t.Error("a retry got another successor")
	}
	minji.token = next.Access
	minji.do("POST", "/logout", nil).want(204, "")
	minji.do("POST", "/logout", nil).want(401, "token-invalid")
	minji.do("GET", "/userinfo", nil).want(401, "token-invalid")
	nobody.refresh(next.Refresh).want(400, "invalid_grant")

	for range 3 {
		p = a.logIn("minji")
	}
	minji.token = p.Access
	minji.do("DELETE", "/sessions", nil).want(204, "")
	nobody.refresh(p.Refresh).want(400, "invalid_grant")
	nobody.do("GET", "/userinfo", nil).want(401, "unauthenticated")
	nobody.do("GET", "/", nil).want(200, "")
}

// TestBadRequests: what cannot be read, or cannot be, is refused, whatever its size.
func TestBadRequests(t *testing.T) {
	a := start(t)
	root := a.as("root")
	for _, test := range []struct {
		method, path string
		body         any
		status       int
		code         string
	}{
		{"POST", "/signup", object{"login": "a b", "password": passes}, 400, "login-invalid"},
		{"POST", "/signup", object{"login": "minji", "password": "short"}, 400, "password-short"},
		{"POST", "/signup", object{"login": "minji", "password": strings.Repeat("x", 1<<20-100)}, 400, "password-long"},
		{"POST", "/signup", object{"login": "minji", "password": strings.Repeat("x", 1<<20)}, 413, "body-too-large"},
		{"POST", "/signup", object{"login": "minji", "password": passes, "email": "no"}, 400, "email-invalid"},
		{"POST", "/signup", object{"login": "minji", "password": passes, "admin": true}, 400, "json-unknown-field"},
		{"POST", "/login", object{"login": "ana", "password": strings.Repeat("x", 1<<20-100)}, 401, "credentials-wrong"},
		{"POST", "/login", object{"login": "ana", "password": strings.Repeat("x", 1<<20)}, 413, "body-too-large"},
		{"POST", "/login", object{"login": strings.Repeat("x", 1<<19), "password": "x"}, 401, "credentials-wrong"},
		{"POST", "/login", `{"login":"ana","password":"x","password":"y"}`, 400, "json-duplicate"},
		{"POST", "/oauth2/token", `{}`, 400, "invalid_request"},
		{"POST", "/oauth2/token", url.Values{}, 400, "invalid_request"},
		{"POST", "/oauth2/token", url.Values{"grant_type": {"password"}, "username": {"ana"}, "password": {passes}}, 400, "unsupported_grant_type"},
		{"POST", "/oauth2/token", url.Values{"grant_type": {"refresh_token"}}, 400, "invalid_request"},
		{"POST", "/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"dr_x"}}, 400, "invalid_grant"},
		{"POST", "/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"a", "b"}}, 400, "invalid_request"},
		{"POST", "/oauth2/token", url.Values{"grant_type": {strings.Repeat("x", 64<<10)}}, 413, "body-too-large"},
		{"POST", "/oauth2/revoke", url.Values{}, 400, "invalid_request"},
		{"PUT", "/users/ana/groups", object{"groups": []string{"a b"}}, 400, "groups-invalid"},
		{"PUT", "/users/nobody/groups", object{"groups": []string{"a"}}, 404, "user-unknown"},
		{"PUT", "/users/nobody/disabled", nil, 404, "user-unknown"},
		{"GET", "/users/nobody", nil, 404, "user-unknown"},
		{"GET", "/revocations?after=x", nil, 400, "query-invalid"},
		{"GET", "/revocations?after=-1", nil, 400, "query-invalid"},
		{"GET", "/events?cursor=0", nil, 400, "query-invalid"},
		{"GET", "/events?since=today", nil, 400, "query-invalid"},
		{"GET", "/events?limit=501", nil, 400, "query-invalid"},
		{"PUT", "/migrate/routes/chat", object{"stage": "later"}, 400, "stage-unknown"},
		{"PUT", "/migrate/routes/%20", object{"stage": "dual"}, 400, "invalid"},
	} {
		root.do(test.method, test.path, test.body).want(test.status, test.code)
	}
	for _, path := range []string{"/users/ana", "/events", "/migrate"} {
		a.as("ana").do("GET", path, nil).want(403, "scope-missing")
		a.nobody().do("GET", path, nil).want(401, "unauthenticated")
	}
}

// TestPasswordAndFactor over HTTP: the answers of each step.
func TestPasswordAndFactor(t *testing.T) {
	a := start(t)
	ana := a.as("ana")
	logIn := func(body object) answer { return ana.do("POST", "/login", body) }
	ana.do("POST", "/password", object{"password": other, "new_password": other}).want(401, "credentials-wrong")
	ana.do("POST", "/password", object{"password": passes, "new_password": "short"}).want(400, "password-short")
	ana.do("POST", "/password", object{"password": passes, "new_password": other}).want(204, "")
	ana.do("GET", "/userinfo", nil).want(200, "")
	logIn(object{"login": "ana", "password": passes}).want(401, "credentials-wrong")

	ana.do("POST", "/second-factor/confirm", object{"code": "000000"}).want(409, "not-pending")
	ana.do("DELETE", "/second-factor", object{"password": other}).want(409, "not-pending")
	e := decode[struct{ Secret, URI string }](ana.do("POST", "/second-factor", object{"password": other}).want(201, ""))
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(e.Secret)
	if uri, bad := url.Parse(e.URI); err != nil || bad != nil || uri.Scheme != "otpauth" || uri.Query().Get("secret") != e.Secret {
		t.Fatalf("enrolment %+v: %v", e, err)
	}
	code := func() string { return password.TOTPCode(key, password.TOTPStep(a.now())) }
	ana.do("POST", "/second-factor/confirm", object{"code": "x"}).want(401, "second-factor-wrong")
	codes := decode[map[string][]string](ana.do("POST", "/second-factor/confirm", object{"code": code()}).want(200, ""))["recovery_codes"]
	logIn(object{"login": "ana", "password": other}).want(401, "second-factor-needed")
	logIn(object{"login": "ana", "password": passes}).want(401, "credentials-wrong")
	logIn(object{"login": "ana", "password": other, "code": "123"}).want(401, "second-factor-wrong")
	a.advance(30 * time.Second)
	logIn(object{"login": "ana", "password": other, "code": code()}).want(200, "")
	logIn(object{"login": "ana", "password": other, "code": codes[0]}).want(200, "")
	logIn(object{"login": "ana", "password": other, "code": codes[0]}).want(401, "second-factor-wrong")
	if left := decode[object](ana.do("GET", "/userinfo", nil))["recovery_codes_left"]; left != float64(len(codes)-1) {
		t.Errorf("%v recovery codes left of %d", left, len(codes))
	}
	ana.do("POST", "/password", object{"password": other, "new_password": "ten birds"}).want(204, "")
	ana.do("DELETE", "/second-factor", object{"password": "ten birds"}).want(400, "password-short")
	ana.do("POST", "/password", object{"password": "ten birds", "new_password": passes}).want(204, "")
	ana.do("DELETE", "/second-factor", object{"password": passes}).want(204, "")
	logIn(object{"login": "ana", "password": passes}).want(200, "")
}

// TestThrottled: guessing is answered 429 with Retry-After, which an owner does not meet where he has been.
func TestThrottled(t *testing.T) {
	a := start(t)
	a.logIn("ana")
	var last answer
	for i := range 30 {
		guesser := as{a, "", fmt.Sprintf("198.51.100.%d", i)}
		if last = guesser.do("POST", "/login", object{"login": "ana", "password": other}); last.status == 429 {
			break
		}
	}
	last.want(429, "throttled")
	if last.header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	a.logIn("ana")
}

// TestAdministrators: groups, disabling, the audit trail, and no secrets in it or in the logs.
func TestAdministrators(t *testing.T) {
	a := start(t)
	root, p := a.as("root"), a.logIn("ana")
	root.do("PUT", "/users/ana/groups", object{"groups": []string{"z", "pay:write", "z"}}).want(204, "")
	if got := decode[object](root.do("GET", "/users/ana", nil).want(200, ""))["groups"]; !cmp.Equal(got, []any{"pay:write", "z"}) {
		t.Errorf("groups %v", got)
	}
	next := decode[pair](a.nobody().refresh(p.Refresh).want(200, ""))
	if next.Scope != "pay:write z" {
		t.Errorf("scope %q after a refresh", next.Scope)
	}
	for range 2 {
		root.do("PUT", "/users/ana/disabled", nil).want(204, "")
	}
	as{a, next.Access, ""}.do("GET", "/userinfo", nil).want(401, "token-invalid")
	a.nobody().refresh(next.Refresh).want(400, "invalid_grant")
	a.nobody().do("POST", "/login", object{"login": "ana", "password": passes}).want(401, "credentials-wrong")
	root.do("DELETE", "/users/ana/disabled", nil).want(204, "")
	ana := a.logIn("ana")
	a.nobody().do("POST", "/login", object{"login": passes, "password": other}).want(401, "credentials-wrong")

	type entry struct {
		Seq                                 int
		Kind, User, By, Address, Detail, At string
		Session                             string
	}
	var all []entry
	for cursor := ""; ; {
		list := decode[pageOf[entry]](root.do("GET", "/events?limit=3"+cursor, nil).want(200, ""))
		all = append(all, list.Items...)
		if cursor = "&cursor=" + list.Next; list.Next == "" {
			break
		}
	}
	for i, e := range all {
		if i > 0 && e.Seq != all[i-1].Seq-1 {
			t.Errorf("event %d follows event %d", e.Seq, all[i-1].Seq)
		}
	}
	ofAna := decode[pageOf[entry]](root.do("GET", "/events?user=ana&kind=user-disabled&since=2020-01-01T00:00:00Z&until=2100-01-01T00:00:00Z", nil).want(200, "")).Items
	if len(ofAna) != 1 || ofAna[0].By != "root" || ofAna[0].Address != "192.0.2.1" {
		t.Errorf("the event of disabling ana: %+v", ofAna)
	}
	a.stop()
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, hidden := range []string{"heron", "magpie", ana.Access, ana.Refresh, p.Refresh, secret} {
		if strings.Contains(string(text), hidden) || strings.Contains(a.logs.String(), hidden) {
			t.Errorf("%q is in the audit trail or in the logs", hidden)
		}
	}
	if !strings.Contains(a.logs.String(), "/login") {
		t.Error("there are no logs")
	}
}

// TestClients: client_credentials, introspection (RFC 7662) and revocation (RFC 7009).
func TestClients(t *testing.T) {
	a := start(t)
	nobody := a.nobody()
	grant := url.Values{"grant_type": {"client_credentials"}}
	withForm := url.Values{"grant_type": {"client_credentials"}, "client_id": {"mailer"}, "client_secret": {secret}, "scope": {"mail"}}
	basic := func(id, secret string) string {
		r, _ := http.NewRequest("GET", "/", nil)
		r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
		return r.Header.Get("Authorization")
	}
	token := decode[pair](nobody.do("POST", "/oauth2/token", withForm).want(200, ""))
	if token.Scope != "mail" || token.Refresh != "" || token.Session != "" {
		t.Errorf("client's token: %+v", token)
	}
	token = decode[pair](nobody.do("POST", "/oauth2/token", grant, "Authorization", basic("mailer", secret)).want(200, ""))
	if token.Scope != "introspect mail" {
		t.Errorf("client's token: %+v", token)
	}
	nobody.do("POST", "/oauth2/token", grant).want(401, "invalid_client")
	nobody.do("POST", "/oauth2/token", grant, "Authorization", basic("mailer", "x")).want(401, "invalid_client")
	nobody.do("POST", "/oauth2/token", withForm, "Authorization", basic("mailer", secret)).want(400, "invalid_request")
	withForm.Set("scope", "admin")
	nobody.do("POST", "/oauth2/token", withForm).want(400, "invalid_scope")
	client := as{a, token.Access, "192.0.2.1"}
	client.do("GET", "/sessions", nil).want(403, "not-a-session")

	p := a.logIn("root")
	introspect := func(text string) object {
		t.Helper()
		byBasic := nobody.do("POST", "/oauth2/introspect", url.Values{"token": {text}}, "Authorization", basic("mailer", secret)).want(200, "")
		byToken := client.do("POST", "/oauth2/introspect", url.Values{"token": {text}, "token_type_hint": {"access_token"}}).want(200, "")
		if byBasic.body != byToken.body {
			t.Errorf("a client is told %s, a token %s", byBasic.body, byToken.body)
		}
		return decode[object](byBasic)
	}
	if got := introspect(p.Access); got["active"] != true || got["sub"] != "root" || got["username"] != "root" || got["scope"] != "admin pay:write" || got["iss"] != a.front.URL ||
		got["exp"].(float64)-got["iat"].(float64) != 300 || got["sid"] != p.Session || got["token_type"] != "Bearer" {
		t.Errorf("introspection of an access token: %v", got)
	}
	if got := introspect(p.Refresh); got["active"] != true || got["token_type"] != "refresh_token" {
		t.Errorf("introspection of a refresh token: %v", got)
	}
	inactive := object{"active": false}
	if got := introspect("x"); !cmp.Equal(got, inactive) {
		t.Errorf("introspection of nothing: %v", got)
	}
	nobody.do("POST", "/oauth2/introspect", url.Values{"token": {p.Access}}).want(401, "invalid_client")
	as{a, p.Access, ""}.do("POST", "/oauth2/introspect", url.Values{"token": {p.Access}}).want(401, "invalid_client")
	client.do("POST", "/oauth2/introspect", url.Values{}).want(400, "invalid_request")

	nobody.do("POST", "/oauth2/revoke", url.Values{"token": {"nonsense"}}).want(200, "")
	nobody.do("POST", "/oauth2/revoke", url.Values{"token": {p.Access}, "token_type_hint": {"access_token"}}).want(200, "")
	if got := introspect(p.Access); !cmp.Equal(got, inactive) {
		t.Errorf("introspection of a revoked token: %v", got)
	}
	next := decode[pair](nobody.refresh(p.Refresh).want(200, ""))
	nobody.do("POST", "/oauth2/revoke", url.Values{"token": {next.Refresh}}).want(200, "")
	if got := introspect(next.Access); !cmp.Equal(got, inactive) {
		t.Errorf("introspection of a token of a revoked session: %v", got)
	}
	nobody.refresh(next.Refresh).want(400, "invalid_grant")
}

// TestMetadata: the documents agree with each other and with the tokens.
func TestMetadata(t *testing.T) {
	for _, alg := range []string{"ES256", "EdDSA"} {
		a := start(t, "TOKEN_ALG", alg)
		nobody := a.nobody()
		oauth, openID := nobody.do("GET", "/.well-known/oauth-authorization-server", nil).want(200, ""), nobody.do("GET", "/.well-known/openid-configuration", nil).want(200, "")
		if oauth.body != openID.body {
			t.Error("the two documents differ")
		}
		doc := decode[object](oauth)
		for _, name := range []string{"issuer", "jwks_uri", "token_endpoint", "revocation_endpoint", "introspection_endpoint", "userinfo_endpoint"} {
			if text, _ := doc[name].(string); !strings.HasPrefix(text, a.front.URL) {
				t.Errorf("%s is %v", name, doc[name])
			}
		}
		keys := nobody.do("GET", strings.TrimPrefix(doc["jwks_uri"].(string), a.front.URL), nil).want(200, "")
		if keys.header.Get("Cache-Control") != "public, max-age=60" {
			t.Errorf("keys with Cache-Control %q", keys.header.Get("Cache-Control"))
		}
		set := decode[struct{ Keys []map[string]string }](keys).Keys
		if len(set) != 1 || set[0]["alg"] != alg || set[0]["d"] != "" {
			t.Errorf("keys: %v", set)
		}
		kid := decode[map[string]string](a.as("root").do("POST", "/keys/rotate", nil).want(201, ""))["kid"]
		set = decode[struct{ Keys []map[string]string }](nobody.do("GET", "/.well-known/jwks.json", nil)).Keys
		if len(set) != 2 || set[1]["kid"] != kid {
			t.Errorf("keys after a rotation: %v", set)
		}
	}
}

// TestForward: each dialect's question with and without a token, by its own headers alone.
func TestForward(t *testing.T) {
	a := start(t)
	p := a.logIn("bo")
	for _, dialect := range []struct {
		path    string
		headers []string
	}{
		{"/authz/ext-authz/chat/rooms", nil},
		{"/authz/auth-request", []string{"X-Original-URL", "https://dongne.example/chat/rooms", "X-Original-Method", "POST"}},
		{"/authz/traefik", []string{"X-Forwarded-Method", "POST", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "dongne.example", "X-Forwarded-Uri", "/chat/rooms"}},
		{"/authz/caddy", []string{"X-Forwarded-Method", "POST", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "dongne.example", "X-Forwarded-Uri", "/chat/rooms"}},
	} {
		methods := []string{"GET"}
		if dialect.headers == nil {
			methods = []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
		}
		for _, method := range methods {
			yes := as{a, p.Access, "203.0.113.9"}.do(method, dialect.path, nil, dialect.headers...).want(200, "")
			for name, want := range map[string]string{"X-Auth-Request-User": "bo", "X-Auth-Request-Email": "bo@example.com", "X-Auth-Request-Groups": ""} {
				if got, there := yes.header[name]; !there || len(got) != 1 || got[0] != want {
					t.Errorf("%s %s: %s is %q", method, dialect.path, name, got)
				}
			}
			no := a.nobody().do(method, dialect.path, nil, dialect.headers...).want(401, "")
			bad := as{a, p.Access + "x", ""}.do(method, dialect.path, nil, dialect.headers...).want(401, "")
			if no.header.Get("X-Auth-Request-User")+bad.header.Get("X-Auth-Request-User") != "" || !strings.Contains(bad.header.Get("WWW-Authenticate"), "invalid_token") {
				t.Errorf("%s %s: a denial says %v, and %v", method, dialect.path, no.header, bad.header)
			}
		}
	}
	bo := as{a, p.Access, ""}
	bo.do("GET", "/authz/auth-request", nil, "X-Forwarded-Uri", "/chat/rooms").want(403, "") // of another dialect
	bo.do("POST", "/logout", nil).want(204, "")
	bo.do("GET", "/authz/ext-authz/rooms", nil).want(401, "")
}

// TestMigration over HTTP: import, stages, cookies, exchange, and back.
func TestMigration(t *testing.T) {
	a := start(t, "LEGACY_COOKIE", "SESSID")
	root := a.as("root")
	var rows strings.Builder
	const count = 2500
	for i := range count {
		fmt.Fprintf(&rows, `{"token":"old-%d","user":%q,"expires_at":"2099-01-01T00:00:00Z"}`+"\n", i, []string{"ana", "bo"}[i%2])
	}
	rows.WriteString("\n" + `{"token_sha256":"` + strings.Repeat("ab", 32) + `","user":"nobody","expires_at":"2099-01-01T00:00:00Z"}`)
	ndjson := []string{"Content-Type", "application/x-ndjson"}
	for i, want := range []object{{"added": count, "kept": 0, "refused": 1}, {"added": 0, "kept": count, "refused": 1}} {
		got := root.do("POST", "/migrate", rows.String(), ndjson...).want(200, "")
		if diff := cmp.Diff(fmt.Sprint(want), fmt.Sprint(decode[map[string]int](got))); diff != "" {
			t.Errorf("import %d mismatch (-want +got):\n%s", i, diff)
		}
	}
	root.do("POST", "/migrate", `{"token":"x","user":"ana"}`, ndjson...).want(400, "line-invalid")
	root.do("POST", "/migrate", strings.Repeat("x", 20_000), ndjson...).want(400, "line-invalid")
	a.as("ana").do("POST", "/migrate", "", ndjson...).want(403, "scope-missing")

	ask := func(i int) (user string) {
		answer := a.nobody().do("GET", "/authz/ext-authz/rooms", nil, "Cookie", fmt.Sprintf("SESSID=old-%d", i))
		if answer.status != 200 {
			return ""
		}
		return answer.header.Get("X-Auth-Request-User")
	}
	stage := func(stage string) {
		t.Helper()
		root.do("PUT", "/migrate/routes/rooms", object{"stage": stage}).want(204, "")
	}
	for _, s := range []string{"new", "legacy", "shadow", "dual", "new", "dual", "legacy"} {
		stage(s)
		want := map[bool]string{true: "bo", false: ""}[s != "new"]
		if got := ask(1); got != want {
			t.Errorf("stage %s: an old session is %q, want %q", s, got, want)
		}
	}
	got := decode[struct {
		Stages map[string]string
		Tokens int
		Shadow map[string]int
	}](root.do("GET", "/migrate", nil).want(200, ""))
	if got.Stages["rooms"] != "legacy" || got.Tokens != count || got.Shadow["only_legacy"] != 1 {
		t.Errorf("migration: %+v", got)
	}
	exchange := func(text string) answer {
		return a.nobody().do("POST", "/oauth2/token", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"},
			"subject_token_type": {"urn:dongne:params:oauth:token-type:legacy-session"}, "subject_token": {text}})
	}
	first := decode[pair](exchange("old-1").want(200, ""))
	if again := decode[pair](exchange("old-1").want(200, "")); again.Refresh != first.Refresh || first.User != "bo" {
		t.Errorf("exchange: %+v, then %+v", first, again)
	}
	exchange("old-none").want(400, "invalid_grant")
	a.advance(11 * time.Second)
	exchange("old-1").want(400, "invalid_grant")
	stage("new")
	as{a, first.Access, ""}.do("GET", "/authz/ext-authz/rooms", nil).want(200, "")
}

// TestRefreshRaces over HTTP: several refreshes of one token at once, and a log-out among them.
func TestRefreshRaces(t *testing.T) {
	a := start(t)
	const rounds = 200
	for round := range rounds {
		p := a.logIn("ana")
		var group sync.WaitGroup
		answers := make([]answer, 4)
		for i := range answers {
			group.Go(func() {
				if i == 3 && round%2 == 1 {
					answers[i] = as{a, p.Access, ""}.do("POST", "/logout", nil)
				} else {
					answers[i] = a.nobody().refresh(p.Refresh)
				}
			})
		}
		group.Wait()
		successor := ""
		for _, answer := range answers {
			switch {
			case answer.status == 200:
				next := decode[pair](answer)
				if successor != "" && next.Refresh != successor {
					t.Fatalf("round %d: two successors", round)
				}
				successor = next.Refresh
			case answer.status == 204, answer.status == 400 && round%2 == 1:
			default:
				t.Fatalf("round %d: %s %d %s", round, answer.what, answer.status, answer.body)
			}
		}
		if round%2 == 0 {
			a.nobody().refresh(successor).want(200, "")
		} else if successor != "" {
			a.nobody().refresh(successor).want(400, "invalid_grant")
		}
	}
}
