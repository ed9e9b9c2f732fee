package forward

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// asking is a question before it is put into a dialect.
type asking struct {
	method, scheme, host, target, address string
}

var plain = asking{"PUT", "https", "shop.example:8443", "/rooms/%EB%8F%99?after=%2F", "192.0.2.7"}

// request puts a into a dialect.
func request(d Dialect, a asking) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://auth.test"+d.Path(), nil)
	set := func(pairs ...string) {
		for i := 0; i < len(pairs); i += 2 {
			r.Header.Set(pairs[i], pairs[i+1])
		}
	}
	switch d {
	case ExtAuthz:
		r.Method, r.Host, r.RequestURI = a.method, a.host, d.Path()+a.target
		set("X-Envoy-External-Address", a.address)
	case AuthRequest:
		set("X-Original-Method", a.method, "X-Original-URL", a.scheme+"://"+a.host+a.target, "X-Real-IP", a.address)
	default:
		set("X-Forwarded-Method", a.method, "X-Forwarded-Proto", a.scheme, "X-Forwarded-Host", a.host, "X-Forwarded-Uri", a.target,
			"X-Forwarded-For", a.address)
	}
	return r
}

// want is what Ask makes of plain.
func want(d Dialect) Question {
	q := Question{Method: "PUT", Scheme: "https", Host: "shop.example:8443", Path: "/rooms/동", RawQuery: "after=%2F",
		Address: netip.MustParseAddr("192.0.2.7"), Cookies: []*http.Cookie{}}
	if d == ExtAuthz {
		q.Scheme = ""
	}
	return q
}

var comparers = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()}

// asked asks, and fails the test on an error.
func asked(t *testing.T, d Dialect, r *http.Request) Question {
	t.Helper()
	q, err := Ask(d, r)
	if err != nil {
		t.Fatalf("Ask(%v): %v", d, err)
	}
	return q
}

// wantDenial fails unless err is a Denial of a status, and the question that came with it empty.
func wantDenial(t *testing.T, what string, q Question, err error, status int) {
	t.Helper()
	var denial *Denial
	if !errors.As(err, &denial) || denial.Status != status {
		t.Errorf("%s: %+v, %v; want a denial of %d", what, q, err, status)
	} else if diff := cmp.Diff(Question{}, q, comparers); diff != "" {
		t.Errorf("%s: a question beside an error:\n%s", what, diff)
	}
}

func TestAsk(t *testing.T) {
	for _, d := range Dialects {
		r := request(d, plain)
		r.Header.Set("Authorization", "bearer  abc-._~+/123==")
		r.Header["Cookie"] = []string{"a=1; b=2", "a=3"}
		q := want(d)
		q.Bearer = "abc-._~+/123=="
		for _, pair := range []string{"a=1", "b=2", "a=3"} {
			name, value, _ := strings.Cut(pair, "=")
			q.Cookies = append(q.Cookies, &http.Cookie{Name: name, Value: value})
		}
		if diff := cmp.Diff(q, asked(t, d, r), comparers); diff != "" {
			t.Errorf("Ask(%v) mismatch (-want +got):\n%s", d, diff)
		}
	}
}

func TestOf(t *testing.T) {
	for path, want := range map[string]string{
		"/authz/ext-authz": "ext-authz", "/authz/ext-authz/": "ext-authz", "/authz/ext-authz/a/b": "ext-authz",
		"/authz/auth-request": "auth-request", "/authz/traefik": "traefik", "/authz/caddy": "caddy",
		"/authz/ext-authzz": "", "/authz/caddy/": "", "/authz/caddy/x": "", "/authz": "", "": "", "/authz/Caddy": "",
	} {
		got := ""
		if d, ok := Of(path); ok {
			got = d.String()
		}
		if got != want {
			t.Errorf("Of(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestTargets(t *testing.T) {
	for _, c := range []struct {
		target      string
		path, query string // path "": refused with 400
	}{
		{"/", "/", ""},
		{"/?", "/", ""},
		{"/a?b=c?d", "/a", "b=c?d"},
		{"/a%20b/%ED%95%9C", "/a b/한", ""},
		{"/100%25", "/100%", ""},
		{"/a/?x=../..%2f%00", "/a/", "x=../..%2f%00"},
		{"/a%2fb", "", ""},
		{"/a%2Fb", "", ""},
		{"/a%5cb", "", ""},
		{`/a\b`, "", ""},
		{"/a/../b", "", ""},
		{"/a/%2e%2E/b", "", ""},
		{"/./a", "", ""},
		{"/a/..", "", ""},
		{"/a/..;x=1/b", "", ""},
		{"//a", "", ""},
		{"/a//b", "", ""},
		{"/a%00", "", ""},
		{"/a%0d%0ab", "", ""},
		{"/a%7f", "", ""},
		{"/a%252e", "", ""},
		{"/a%252fb", "", ""},
		{"/a%c0%af", "", ""},
		{"/a%", "", ""},
		{"/a%g0", "", ""},
		{"/a#b", "", ""},
		{"/a?b#c", "", ""},
		{"/a b", "", ""},
		{"/a?b c", "", ""},
		{"/a\x01", "", ""},
		{"/a?\x7f", "", ""},
	} {
		for _, d := range Dialects {
			a := plain
			a.target = c.target
			q, err := Ask(d, request(d, a))
			if c.path == "" {
				wantDenial(t, fmt.Sprintf("Ask(%v, %q)", d, c.target), q, err, http.StatusBadRequest)
			} else if err != nil || q.Path != c.path || q.RawQuery != c.query {
				t.Errorf("Ask(%v, %q) = %q, %q, %v; want %q, %q", d, c.target, q.Path, q.RawQuery, err, c.path, c.query)
			}
		}
	}
}

// Where a dialect has more ways to write a target than a path.
func TestOddTargets(t *testing.T) {
	for _, c := range []struct {
		d            Dialect
		target, want string
	}{
		{ExtAuthz, "", "/"}, {ExtAuthz, "?a=b", "/"}, {ExtAuthz, "z/a", ""}, {ExtAuthz, "*", ""},
		{AuthRequest, "", "/"}, {AuthRequest, "?a=b", "/"}, {AuthRequest, "*", ""},
		{Traefik, "", ""}, {Traefik, "?a", ""}, {Traefik, "*", ""}, {Traefik, "http://x/a", ""}, {Caddy, "a", ""},
	} {
		a := plain
		a.target = c.target
		q, err := Ask(c.d, request(c.d, a))
		if c.want == "" {
			wantDenial(t, fmt.Sprintf("Ask(%v, %q)", c.d, c.target), q, err, http.StatusBadRequest)
		} else if err != nil || q.Path != c.want {
			t.Errorf("Ask(%v, %q) = %q, %v; want %q", c.d, c.target, q.Path, err, c.want)
		}
	}
	for _, uri := range []string{"", "http://auth.test/authz/ext-authz/a", "/authz/caddy", "/AUTHZ/ext-authz/a"} {
		r := request(ExtAuthz, plain)
		r.RequestURI = uri
		q, err := Ask(ExtAuthz, r)
		wantDenial(t, uri, q, err, http.StatusBadRequest)
	}
	long := plain
	long.target = "/" + strings.Repeat("a", TargetBytesMax)
	for _, d := range Dialects {
		q, err := Ask(d, request(d, long))
		wantDenial(t, d.String(), q, err, http.StatusRequestURITooLong)
	}
}

func TestFields(t *testing.T) {
	for _, c := range []struct {
		what string
		set  func(a *asking)
		want func(q *Question) // nil: refused
	}{
		{"lower-case method", func(a *asking) { a.method = "get" }, nil},
		{"method with a space", func(a *asking) { a.method = "GET /" }, nil},
		{"long method", func(a *asking) { a.method = strings.Repeat("A", 33) }, nil},
		{"WebDAV", func(a *asking) { a.method = "VERSION-CONTROL" }, func(q *Question) { q.Method = "VERSION-CONTROL" }},
		{"upper-case host", func(a *asking) { a.host = "SHOP.Example" }, func(q *Question) { q.Host = "shop.example" }},
		{"IPv6 host", func(a *asking) { a.host = "[2001:db8::1]:80" }, func(q *Question) { q.Host = "[2001:db8::1]:80" }},
		{"IPv6 host without port", func(a *asking) { a.host = "[::1]" }, func(q *Question) { q.Host = "[::1]" }},
		{"zone", func(a *asking) { a.host = "[fe80::1%eth0]" }, nil},
		{"open bracket", func(a *asking) { a.host = "[::1" }, nil},
		{"no brackets", func(a *asking) { a.host = "::1" }, nil},
		{"IPv4 in brackets", func(a *asking) { a.host = "[192.0.2.1]" }, nil},
		{"no host", func(a *asking) { a.host = "" }, nil},
		{"port alone", func(a *asking) { a.host = ":80" }, nil},
		{"no port", func(a *asking) { a.host = "shop.example:" }, nil},
		{"odd port", func(a *asking) { a.host = "shop.example:8a" }, nil},
		{"long port", func(a *asking) { a.host = "shop.example:000080" }, nil},
		{"user in the host", func(a *asking) { a.host = "ann@shop.example" }, nil},
		{"two hosts", func(a *asking) { a.host = "a.example,b.example" }, nil},
		{"host not ASCII", func(a *asking) { a.host = "동네.example" }, nil},
		{"long host", func(a *asking) { a.host = strings.Repeat("a", 256) }, nil},
		{"IPv6 client", func(a *asking) { a.address = "2001:db8::7" }, func(q *Question) { q.Address = netip.MustParseAddr("2001:db8::7") }},
		{"mapped client", func(a *asking) { a.address = "::ffff:192.0.2.9" }, func(q *Question) { q.Address = netip.MustParseAddr("192.0.2.9") }},
		{"client with a port", func(a *asking) { a.address = "192.0.2.9:5000" }, func(q *Question) { q.Address = netip.MustParseAddr("192.0.2.9") }},
		{"IPv6 client with a port", func(a *asking) { a.address = "[::2]:5000" }, func(q *Question) { q.Address = netip.MustParseAddr("::2") }},
		{"client after hearsay", func(a *asking) { a.address = "10.0.0.1, 192.0.2.9" }, func(q *Question) { q.Address = netip.MustParseAddr("192.0.2.9") }},
		{"no client", func(a *asking) { a.address = "" }, nil},
		{"odd client", func(a *asking) { a.address = "unknown" }, nil},
		{"client after a comma", func(a *asking) { a.address = "192.0.2.9," }, nil},
	} {
		for _, d := range Dialects {
			a := plain
			c.set(&a)
			got, err := Ask(d, request(d, a))
			if c.want == nil {
				wantDenial(t, fmt.Sprintf("Ask(%v) with %s", d, c.what), got, err, http.StatusBadRequest)
				continue
			}
			q := want(d)
			c.want(&q)
			if diff := cmp.Diff(q, got, comparers); err != nil || diff != "" {
				t.Errorf("Ask(%v) with %s: %v, mismatch (-want +got):\n%s", d, c.what, err, diff)
			}
		}
	}
}

func TestScheme(t *testing.T) {
	for scheme, want := range map[string]string{"http": "http", "https": "https", "ws": "http", "wss": "https", "": "", "HTTP": "", "ftp": ""} {
		for _, d := range []Dialect{AuthRequest, Traefik, Caddy} {
			a := plain
			a.scheme = scheme
			q, err := Ask(d, request(d, a))
			if want == "" {
				wantDenial(t, fmt.Sprintf("Ask(%v) with scheme %q", d, scheme), q, err, http.StatusBadRequest)
			} else if err != nil || q.Scheme != want {
				t.Errorf("Ask(%v) with scheme %q = %q, %v; want %q", d, scheme, q.Scheme, err, want)
			}
		}
	}
}

// needed are the headers of each dialect that must come exactly once.
var needed = map[Dialect][]string{
	ExtAuthz:    nil,
	AuthRequest: {"X-Original-Method", "X-Original-Url"},
	Traefik:     {"X-Forwarded-Method", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Uri"},
	Caddy:       {"X-Forwarded-Method", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Uri"},
}

// addressed is the header of each dialect that has the client's address.
var addressed = map[Dialect]string{ExtAuthz: "X-Envoy-External-Address", AuthRequest: "X-Real-Ip", Traefik: "X-Forwarded-For", Caddy: "X-Forwarded-For"}

func TestMissingAndDuplicate(t *testing.T) {
	for _, d := range Dialects {
		for _, name := range needed[d] {
			for what, spoil := range map[string]func(h http.Header){
				"without": func(h http.Header) { h.Del(name) },
				"empty":   func(h http.Header) { h.Set(name, "") },
				"twice":   func(h http.Header) { h.Add(name, h.Get(name)) },
			} {
				r := request(d, plain)
				spoil(r.Header)
				q, err := Ask(d, r)
				wantDenial(t, fmt.Sprintf("Ask(%v) %s %s", d, what, name), q, err, http.StatusBadRequest)
			}
		}
		r := request(d, plain)
		r.Header.Del(addressed[d])
		if q := asked(t, d, r); q.Address.IsValid() {
			t.Errorf("Ask(%v) without an address: %v", d, q.Address)
		}
		r.Header[addressed[d]] = []string{"10.0.0.1", "192.0.2.9"}
		if q := asked(t, d, r); q.Address != netip.MustParseAddr("192.0.2.9") {
			t.Errorf("Ask(%v) with two lines of addresses: %v", d, q.Address)
		}
	}
}

func TestAuthorization(t *testing.T) {
	for _, d := range Dialects {
		for value, want := range map[string]string{
			"Bearer abc": "abc", "BEARER abc": "abc", "Bearer   abc ": "abc", "Bearer " + strings.Repeat("a", BearerBytesMax): strings.Repeat("a", BearerBytesMax),
			"Basic YTpi": "", "Digest a=b": "", "": "", "Bearerabc": "", "Negotiate": "",
		} {
			r := request(d, plain)
			r.Header.Set("Authorization", value)
			if got := asked(t, d, r).Bearer; got != want {
				t.Errorf("Ask(%v) with %.40q: %.40q, want %.40q", d, value, got, want)
			}
		}
		for _, value := range []string{"Bearer", "Bearer ", "Bearer a b", "Bearer a,b", "Bearer =", "Bearer a=b", "Bearer \"a\"", "Bearer é", "Bearer a\tb",
			"Bearer " + strings.Repeat("a", BearerBytesMax+1)} {
			r := request(d, plain)
			r.Header.Set("Authorization", value)
			q, err := Ask(d, r)
			wantDenial(t, fmt.Sprintf("Ask(%v) with %.40q", d, value), q, err, http.StatusUnauthorized)
		}
		for _, values := range [][]string{{"Bearer a", "Bearer a"}, {"Basic YTpi", "Bearer a"}, {"", ""}} {
			r := request(d, plain)
			r.Header["Authorization"] = values
			q, err := Ask(d, r)
			wantDenial(t, fmt.Sprintf("Ask(%v) with %q", d, values), q, err, http.StatusBadRequest)
		}
	}
}

// foreignHeaders are what a dialect must not read: those of the others, and whatever else proxies use.
func foreignHeaders(d Dialect) http.Header {
	h := http.Header{
		"X-Original-Uri": {"/admin"}, "X-Original-Host": {"evil.example"}, "Forwarded": {"for=203.0.113.1;host=evil.example;proto=http"},
		"X-Client-Ip": {"203.0.113.1"}, "True-Client-Ip": {"203.0.113.1"}, "X-Http-Method-Override": {"GET"}, "X-Rewrite-Url": {"/admin"},
		"X-Forwarded-User": {"root"}, "X-Auth-Request-User": {"root"}, "X-User": {"root"}, "X-Forwarded-Prefix": {"/admin"},
		"X-Forwarded-Port": {"1"}, "X-Forwarded-Server": {"evil.example"}, "X-Forwarded-Scheme": {"http"}, "X-Forwarded-Ssl": {"off"},
		"X-Envoy-Original-Path": {"/admin"}, "X-Envoy-Original-Method": {"GET"}, "X-Access-Token": {"abc"}, "Proxy-Authorization": {"Bearer abc"},
	}
	evil := asking{"DELETE", "http", "evil.example", "/admin/%2e%2e", "203.0.113.1"}
	for _, other := range Dialects {
		for name, values := range request(other, evil).Header {
			if name != addressed[d] && !slices.Contains(needed[d], name) {
				h[name] = values
			}
		}
	}
	return h
}

// foreign says which headers that are none of the dialect's change what ask makes of a request.
func foreign(d Dialect, ask func(Dialect, *http.Request) (Question, error)) (problems []string) {
	headers := foreignHeaders(d)
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		for _, values := range [][]string{headers[name], {headers[name][0], headers[name][0]}, {""}, {"\x00"}} {
			r := request(d, plain)
			r.Header[name] = values
			if q, err := ask(d, r); err != nil || !cmp.Equal(q, want(d), comparers) {
				problems = append(problems, name)
				break
			}
		}
	}
	r := request(d, plain)
	maps.Copy(r.Header, headers)
	if q, err := ask(d, r); err != nil || !cmp.Equal(q, want(d), comparers) {
		problems = append(problems, "all together")
	}
	if d != ExtAuthz { // the request itself is the proxy's, not the client's
		r := request(d, plain)
		r.Method, r.Host, r.RequestURI = "DELETE", "evil.example", "/authz/x/admin/%2e%2e?q"
		if q, err := ask(d, r); err != nil || !cmp.Equal(q, want(d), comparers) {
			problems = append(problems, "the request itself")
		}
	}
	return problems
}

func TestForeignHeadersChangeNothing(t *testing.T) {
	for _, d := range Dialects {
		if problems := foreign(d, Ask); problems != nil {
			t.Errorf("Ask(%v) reads %q", d, problems)
		}
	}
	// An Ask that takes the client's address, or the method, from wherever it finds one.
	mutant := func(d Dialect, r *http.Request) (Question, error) {
		q, err := Ask(d, r)
		if a, err := netip.ParseAddr(r.Header.Get("X-Real-IP")); err == nil {
			q.Address = a
		}
		if m := r.Header.Get("X-Forwarded-Method"); m != "" && m != "\x00" {
			q.Method = m
		}
		return q, err
	}
	for d, want := range map[Dialect][]string{
		ExtAuthz: {"X-Forwarded-Method", "X-Real-Ip", "all together"}, AuthRequest: {"X-Forwarded-Method", "all together"},
		Traefik: {"X-Real-Ip", "all together"}, Caddy: {"X-Real-Ip", "all together"},
	} {
		if diff := cmp.Diff(want, foreign(d, mutant)); diff != "" {
			t.Errorf("the mutant's %v is not caught (-want +got):\n%s", d, diff)
		}
	}
}

// Any header at all that is none of the dialect's changes nothing.
func TestAnyHeaderChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.SampledFrom(Dialects[:]).Draw(t, "dialect")
		name := http.CanonicalHeaderKey(rapid.StringMatching(`X-(Forwarded|Original|Real|Envoy|Auth-Request)-[A-Za-z-]{1,8}`).Draw(t, "name"))
		if name == addressed[d] || slices.Contains(needed[d], name) {
			return
		}
		r := request(d, plain)
		r.Header[name] = rapid.SliceOfN(rapid.String(), 1, 2).Draw(t, "values")
		q, err := Ask(d, r)
		if diff := cmp.Diff(want(d), q, comparers); err != nil || diff != "" {
			t.Errorf("Ask(%v) with %s: %v, mismatch (-want +got):\n%s", d, name, err, diff)
		}
	})
}

// FuzzAsk: no request makes Ask panic, and what it accepts keeps its promises; and all dialects make the same of it.
func FuzzAsk(f *testing.F) {
	f.Add("GET", "https", "a.example", "/a/b?c", "192.0.2.1", "Bearer abc")
	f.Add("PUT", "wss", "[::1]:80", "/%ED%95%9C?%00", "::1, 2.2.2.2:80", "Basic x")
	f.Add("X", "http", "a/..", "//%2e/?#", "", "bearer =")
	f.Fuzz(func(t *testing.T, method, scheme, host, target, address, authorization string) {
		accepted := map[Dialect]Question{}
		for _, d := range Dialects {
			r := request(d, asking{method, scheme, host, target, address})
			r.Header.Set("Authorization", authorization)
			q, err := Ask(d, r)
			var denial *Denial
			if err != nil {
				if !errors.As(err, &denial) || denial.Status < 400 || !cmp.Equal(q, Question{}, comparers) {
					t.Errorf("Ask(%v) = %+v, %v", d, q, err)
				}
				continue
			}
			accepted[d] = q
			if problem := broken(d, q); problem != "" {
				t.Errorf("Ask(%v) = %+v: %s", d, q, problem)
			}
		}
		for _, d := range Dialects[1:] {
			q, ok := accepted[d]
			if first, both := accepted[Traefik]; ok && both && !cmp.Equal(first, q, comparers) {
				t.Errorf("%v and %v make two things of it: %+v, %+v", Traefik, d, first, q)
			}
		}
	})
}

// broken says which promise a question does not keep.
func broken(d Dialect, q Question) string {
	switch {
	case !validMethod(q.Method):
		return "method"
	case q.Host == "" || q.Host != strings.ToLower(q.Host) || strings.ContainsAny(q.Host, "/?#@\\ ,"):
		return "host"
	case !strings.HasPrefix(q.Path, "/") || strings.ContainsAny(q.Path, "\\\x00\r\n\x7f") || strings.Contains(q.Path+"/", "/../") ||
		strings.Contains(q.Path+"/", "/./") || strings.Contains(q.Path, "//"):
		return "path"
	case strings.ContainsAny(q.RawQuery, "# \x00\r\n"):
		return "query"
	case (q.Scheme == "") != (d == ExtAuthz) || q.Scheme != "" && q.Scheme != "http" && q.Scheme != "https":
		return "scheme"
	case strings.ContainsAny(q.Bearer, " ,\"\r\n"):
		return "bearer"
	}
	return ""
}

func BenchmarkAsk(b *testing.B) {
	for _, d := range Dialects {
		b.Run(d.String(), func(b *testing.B) {
			r := request(d, plain)
			r.Header.Set("Authorization", "Bearer "+strings.Repeat("a", 400))
			for b.Loop() {
				if _, err := Ask(d, r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
