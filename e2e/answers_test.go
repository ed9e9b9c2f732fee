package e2e

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"dongne/internal/serve/servetest"
)

// A visitor makes requests to the whole system and holds every answer against the document that the gateway gives of it.
type visitor struct {
	t        *testing.T
	base     string
	contract *contract
	seen     map[string]int // answers by operation
}

func newVisitor(t *testing.T, base string) *visitor {
	t.Helper()
	answer, err := http.Get(base + "/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	c, err := loadContract(data)
	if err != nil {
		t.Fatal(err)
	}
	return &visitor{t, base, c, map[string]int{}}
}

// ask makes a request, with header lines, and expects a status. The body of the answer is cut after one event of a stream.
func (v *visitor) ask(want int, method, path, body string, lines ...string) (header http.Header, answer string) {
	v.t.Helper()
	e := v.exchange(method, path, body, lines)
	e.Route = method + " " + path
	v.hold(want, e)
	return e.Response.Header, e.Response.Body
}

// refused makes a request that the gateway refuses before it looks for a route, or for which there is none.
func (v *visitor) refused(want int, method, path string, lines ...string) {
	v.t.Helper()
	v.hold(want, v.exchange(method, path, "", lines))
}

func (v *visitor) hold(want int, e servetest.Exchange) {
	v.t.Helper()
	operation, err := v.contract.check(e)
	if err != nil || e.Response.Status != want {
		v.t.Errorf("%s %s %s: %d, want %d, and as documented: %v\n%s", e.Method, e.URL, e.Request.Body, e.Response.Status, want, err, e.Response.Body)
	}
	v.seen[operation]++
}

func (v *visitor) exchange(method, path, body string, lines []string) servetest.Exchange {
	v.t.Helper()
	r, err := http.NewRequestWithContext(v.t.Context(), method, v.base, strings.NewReader(body))
	if err != nil {
		v.t.Fatal(err)
	}
	target, query, _ := strings.Cut(path, "?")
	r.URL.Opaque, r.URL.RawQuery = "//"+r.URL.Host+target, query // just as it is
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	w, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		v.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer w.Body.Close()
	e := servetest.Exchange{Method: method, URL: path, Request: servetest.Message{Header: r.Header, Body: body}}
	e.Response.Status, e.Response.Header = w.StatusCode, w.Header
	var all []byte
	if e.Stream = w.Header.Get("Content-Type") == "text/event-stream"; e.Stream {
		e.Response.Truncated = true
		all = make([]byte, 64)
		_, err = io.ReadFull(w.Body, all)
	} else {
		all, err = io.ReadAll(w.Body)
	}
	if err != nil {
		v.t.Fatalf("%s %s: %v", method, path, err)
	}
	e.Response.Body = string(all)
	return e
}

// token logs in through the gateway and returns the header line of the access token.
func (v *visitor) token(login, password string) string {
	v.t.Helper()
	body, err := json.Marshal(map[string]string{"login": login, "password": password, "code": ""})
	if err != nil {
		v.t.Fatal(err)
	}
	_, answer := v.ask(http.StatusOK, "POST", "/auth/login", string(body))
	var pair tokens
	if err := json.Unmarshal([]byte(answer), &pair); err != nil {
		v.t.Fatal(err)
	}
	return "Authorization: Bearer " + pair.Access
}

// TestGatewayAnswers holds what the gateway answers to requests to its own routes, and to some of the services', against its
// document. Every operation of its own is asked for.
func TestGatewayAnswers(t *testing.T) {
	w := startWhole(t)
	v := newVisitor(t, w.base)
	admin, minji := v.token("admin", w.passwords["admin"]), v.token("minji", w.passwords["minji"])
	v.pages(w)
	v.services(minji)
	v.switches(admin, minji)
	v.releases(admin)
	for _, operation := range ownOperations(t) {
		if v.seen[operation] == 0 {
			t.Errorf("nothing asks for %s", operation)
		}
	}
	for _, operation := range slices.Sorted(maps.Keys(v.seen)) {
		t.Logf("%6d %s", v.seen[operation], operation)
	}
	w.stop(t)
}

// pages asks for what everybody may, and logs in as a browser does.
func (v *visitor) pages(w *whole) {
	v.t.Helper()
	for _, path := range []string{"/", "/status", "/health", "/ready", "/metrics", "/openapi.yaml"} {
		v.ask(http.StatusOK, "GET", path, "")
	}
	v.ask(http.StatusOK, "GET", "/status", "", "Accept: text/event-stream")
	v.ask(http.StatusUnauthorized, "GET", "/whoami", "")
	v.ask(http.StatusUnauthorized, "POST", "/gossip", "signed by nobody", "Content-Type: application/octet-stream")
	v.ask(http.StatusForbidden, "POST", "/login", "login=minji", "Content-Type: application/x-www-form-urlencoded", "Sec-Fetch-Site: cross-site")
	const form = "Content-Type: application/x-www-form-urlencoded"
	fields := url.Values{"login": {"minji"}, "password": {"not her password"}, "next": {"/chat/"}}
	header, _ := v.ask(http.StatusSeeOther, "POST", "/login", fields.Encode(), form)
	if to := header.Get("Location"); to != "/?next=%2Fchat%2F&refused=credentials-wrong" || len(header["Set-Cookie"]) > 0 {
		v.t.Errorf("a wrong password leads to %q, with cookies %q", to, header["Set-Cookie"])
	}
	fields.Set("password", w.passwords["minji"])
	header, _ = v.ask(http.StatusSeeOther, "POST", "/login", fields.Encode(), form)
	if to := header.Get("Location"); to != "/chat/" || len(header["Set-Cookie"]) != 2 {
		v.t.Errorf("a right password leads to %q, with cookies %q", to, header["Set-Cookie"])
	}
	var cookies []string
	for _, c := range header["Set-Cookie"] {
		if !strings.Contains(c, "; HttpOnly; SameSite=Lax") {
			v.t.Errorf("the cookie %q", c)
		}
		pair, _, _ := strings.Cut(c, ";")
		cookies = append(cookies, pair)
	}
	session := "Cookie: " + strings.Join(cookies, "; ")
	v.ask(http.StatusOK, "GET", "/whoami", "", session)
	v.ask(http.StatusForbidden, "POST", "/logout", "", session, "Sec-Fetch-Site: cross-site")
	v.ask(http.StatusSeeOther, "POST", "/logout", "", session)
	v.ask(http.StatusUnauthorized, "GET", "/auth/userinfo", "", session)
	for _, path := range []string{"/chat/../pay/", "/chat%2frooms", "//chat", "/chat/%00", "/chat/%252e"} {
		v.refused(http.StatusBadRequest, "GET", path)
	}
	v.refused(http.StatusNotFound, "GET", "/nothing")
	v.refused(http.StatusMethodNotAllowed, "TRACE", "/chat/")
	v.refused(http.StatusMethodNotAllowed, "DELETE", "/login")
}

// services asks the services, through the gateway.
func (v *visitor) services(minji string) {
	v.t.Helper()
	for _, path := range []string{"/auth/userinfo", "/auth/sessions", "/chat/rooms", "/pay/accounts"} {
		v.ask(http.StatusOK, "GET", path, "", minji)
		v.ask(http.StatusUnauthorized, "GET", path, "")
		v.ask(http.StatusUnauthorized, "GET", path, "", "X-User: minji")
		v.ask(http.StatusUnauthorized, "GET", path, "", spoilt(minji))
	}
	for _, path := range []string{"/auth/.well-known/jwks.json", "/auth/.well-known/openid-configuration", "/chat/", "/pay/", "/auth/"} {
		v.ask(http.StatusOK, "GET", path, "")
	}
}

// switches throws chat's kill switch in every way.
func (v *visitor) switches(admin, minji string) {
	v.t.Helper()
	v.ask(http.StatusUnauthorized, "GET", "/admin/routes", "")
	v.ask(http.StatusForbidden, "GET", "/admin/routes", "", minji)
	v.ask(http.StatusOK, "GET", "/admin/routes", "", admin)
	const path = "/admin/routes/chat/switch"
	v.ask(http.StatusForbidden, "PUT", path, `{"mode":"off"}`, minji)
	header, _ := v.ask(http.StatusOK, "PUT", path, `{"mode":"off","expires":"2100-01-01T00:00:00Z"}`, admin)
	v.ask(http.StatusServiceUnavailable, "GET", "/chat/rooms", "", minji)
	v.ask(http.StatusOK, "GET", "/status", "", admin)
	v.ask(http.StatusOK, "PUT", path, `{"mode":"on"}`, admin, "If-Match: "+header.Get("ETag"))
	v.ask(http.StatusPreconditionFailed, "PUT", path, `{"mode":"on"}`, admin, "If-Match: "+header.Get("ETag"))
	v.ask(http.StatusOK, "PUT", path, `{"mode":"static","status":200,"content_type":"application/json","body":"{\"items\":[]}"}`, admin)
	v.ask(http.StatusOK, "GET", "/chat/rooms", "", minji)
	v.ask(http.StatusOK, "PUT", path, `{"mode":"over","upstream":"`+v.base+`"}`, admin)
	v.ask(http.StatusOK, "PUT", path, `{"mode":"on"}`, admin)
	v.ask(http.StatusBadRequest, "PUT", path, `{"mode":"over"}`, admin)
	v.ask(http.StatusBadRequest, "PUT", path, `{"mode":"sideways"}`, admin)
	v.ask(http.StatusNotFound, "PUT", "/admin/routes/nothing/switch", `{"mode":"off"}`, admin)
}

// releases takes every step of a release of chat, moves pay over to itself, and looks at what was done.
func (v *visitor) releases(admin string) {
	v.t.Helper()
	const path = "/admin/routes/chat/canary"
	step := func(want int, body string) {
		v.t.Helper()
		v.ask(want, "POST", path, body, admin)
		v.ask(http.StatusOK, "GET", "/admin/routes", "", admin)
	}
	step(http.StatusConflict, `{"do":"all"}`)
	step(http.StatusOK, `{"do":"lock"}`)
	step(http.StatusLocked, `{"do":"lock"}`)
	step(http.StatusBadRequest, `{"do":"stage","candidate":"somewhere"}`)
	step(http.StatusOK, `{"do":"stage","candidate":"`+v.base+`","guard":{"samples_min":200}}`)
	step(http.StatusOK, `{"do":"canary","weight":0.5}`)
	step(http.StatusBadRequest, `{"do":"canary","weight":101}`)
	step(http.StatusOK, `{"do":"all"}`)
	step(http.StatusOK, `{"do":"unlock"}`)
	step(http.StatusOK, `{"do":"rollback","reason":"it was a trial"}`)
	step(http.StatusConflict, `{"do":"rollback"}`)
	const strangler = "/admin/routes/pay/strangler"
	v.ask(http.StatusOK, "PUT", strangler, `{"legacy":"`+v.base+`","weight":100,"shadow":true}`, admin)
	v.ask(http.StatusOK, "GET", "/admin/routes", "", admin)
	v.ask(http.StatusBadRequest, "PUT", strangler, `{"legacy":"`+v.base+`","weight":-1}`, admin)
	v.ask(http.StatusOK, "PUT", strangler, `{}`, admin)
	v.ask(http.StatusOK, "GET", "/admin/audit?limit=3", "", admin)
	v.ask(http.StatusBadRequest, "GET", "/admin/audit?limit=none", "", admin)
}
