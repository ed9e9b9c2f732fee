package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// echo answers with the request's header as it arrives, one sorted line each, without what depends on the client.
func echo(t *testing.T) *url.URL {
	return service(t, func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"User-Agent", "Accept-Encoding", "Traceparent", "X-Forwarded-Host", "X-Forwarded-Prefix", "Content-Length"} {
			r.Header.Del(name)
		}
		r.Header.Write(w)
	})
}

// raw sends bytes as they are and returns the first answer.
func raw(t *testing.T, base, request string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(answer.Body)
	return answer, string(body)
}

// What two programs could read differently is refused, as a problem, and reaches no service.
func TestGuardRefuses(t *testing.T) {
	reached := make(chan string, 100)
	target := service(t, func(w http.ResponseWriter, r *http.Request) { reached <- r.RequestURI })
	g := open(t, setup{targets: map[string]*url.URL{"chat": target}})
	const host = "Host: localhost\r\n"
	for _, c := range []struct {
		request, code string
		status        int
	}{
		{"GET /chat/a%2Fb HTTP/1.1\r\n" + host + "\r\n", "path-encoded-slash", 400},
		{"GET /chat/%2e%2e/x HTTP/1.1\r\n" + host + "\r\n", "path-dot-segment", 400},
		{"GET /chat/../x HTTP/1.1\r\n" + host + "\r\n", "path-dot-segment", 400},
		{"GET /chat//x HTTP/1.1\r\n" + host + "\r\n", "path-empty-segment", 400},
		{"GET /chat/%00 HTTP/1.1\r\n" + host + "\r\n", "path-control", 400},
		{"GET /chat/a\\b HTTP/1.1\r\n" + host + "\r\n", "path-backslash", 400},
		{"GET /chat/%252e HTTP/1.1\r\n" + host + "\r\n", "path-double-encoding", 400},
		{"GET /chat/%zz HTTP/1.1\r\n" + host + "\r\n", "bad-target", 400},
		{"CONNECT localhost:1 HTTP/1.1\r\n" + host + "\r\n", "method-not-allowed", 405},
		{"TRACE /chat/ HTTP/1.1\r\n" + host + "\r\n", "method-not-allowed", 405},
		{"POST /chat/ HTTP/1.1\r\n" + host + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1", "length-and-encoding", 400},
		{"POST /chat/ HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n1", "duplicate-content-length", 400},
		{"POST /chat/ HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "transfer-encoding-in-http10", 400},
		{"GET /chat/ HTTP/1.1\r\n" + host + "A: b\r\n c\r\n\r\n", "obs-fold", 400},
		{"GET /chat/ HTTP/1.1\r\n" + host + "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n", "duplicate-authorization", 400},
		{"GET /chat/ HTTP/1.1\r\n" + host + "Edge-Refused: obs-fold\r\n\r\n", "reserved-field", 400},
		{"GET /chat/ HTTP/1.1\r\n" + host + "Expect: miracles\r\n\r\n", "bad-expect", 417},
		{"GET /chat/ HTTP/1.1\r\n\r\n", "missing-host", 400},
	} {
		answer, body := raw(t, g.url, c.request)
		if outcome := wantProblem(t, answer, body, c.status, c.code); strings.HasPrefix(c.request, "POST") && outcome != "not_applied" {
			t.Errorf("%q: outcome %q", c.request, outcome)
		}
		if c.status == 405 && !strings.Contains(answer.Header.Get("Allow"), "PATCH") {
			t.Errorf("%q: Allow is %q", c.request, answer.Header.Get("Allow"))
		}
		if t.Failed() {
			t.Fatalf("%q", c.request)
		}
	}
	select {
	case uri := <-reached:
		t.Errorf("a service saw %q", uri)
	default:
	}
}

// Who somebody is, and from where, only the gateway says.
func TestGuardStrips(t *testing.T) {
	g := open(t, setup{targets: map[string]*url.URL{"chat": echo(t)}})
	outside := []string{"X-User: root", "X-Auth-Request-User: root", "X-Auth-Request-Email: root@example", "X-Auth-Request-Groups: admin", "X-Forwarded-For: 6.6.6.6",
		"X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "X-Real-Ip: 6.6.6.6", "Forwarded: for=6.6.6.6", "X_user: root", "Remote-User: root",
		"X-Original-Url: /admin", "X-Http-Method-Override: DELETE", "Upgrade: h2c", "Http2-Settings: AAAA", "Connection: Upgrade, HTTP2-Settings", "Keep: this"}
	_, nobody := get(t, g.url+"/chat/", outside...)
	if diff := cmp.Diff("Keep: this\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n", nobody); diff != "" {
		t.Errorf("nobody's header mismatch (-want +got):\n%s", diff)
	}
	bearer := g.auth.bearer("minji", "admin")
	_, minji := get(t, g.url+"/chat/", append(outside, bearer)...)
	if diff := cmp.Diff(bearer+"\r\nKeep: this\r\nX-Auth-Request-User: minji\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n", minji); diff != "" {
		t.Errorf("minji's header mismatch (-want +got):\n%s", diff)
	}
}

// Who takes over while a service is away learns nothing of the callers, unless the route says that it may.
func TestOverIsAnonymous(t *testing.T) {
	elsewhere := echo(t).String()
	g := open(t, setup{targets: map[string]*url.URL{"chat": echo(t), "pay": echo(t)}, routes: `{"routes":{
		"chat":{"fallback":"` + elsewhere + `"}, "pay":{"fallback":"` + elsewhere + `","fallback_identity":true}}}`})
	bearer := g.auth.bearer("minji")
	secret := []string{bearer, "Cookie: a=b", "Keep: this"}
	known := bearer + "\r\nCookie: a=b\r\nKeep: this\r\nX-Auth-Request-User: minji\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n"
	unknown := "Keep: this\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n"
	for _, c := range []struct{ route, change, want string }{
		{"chat", `{"mode":"on"}`, known},
		{"chat", `{"mode":"over"}`, unknown},
		{"chat", `{"mode":"over","upstream":"` + elsewhere + `"}`, unknown},
		{"pay", `{"mode":"over"}`, known},
	} {
		g.operate("PUT", c.route+"/switch", c.change)
		for _, body := range []string{"", "sent as it is read"} { // the short way and the long one
			r, err := http.NewRequest("PUT", g.url+"/"+c.route+"/", io.NopCloser(strings.NewReader(body)))
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range secret {
				name, value, _ := strings.Cut(line, ": ")
				r.Header.Set(name, value)
			}
			_, got := fetch(t, r)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s %s: mismatch (-want +got):\n%s", c.route, c.change, diff)
			}
		}
	}
}

// The client is whoever the trusted proxies say, and nobody else is believed.
func TestGuardAddress(t *testing.T) {
	for _, c := range []struct{ trusted, forwarded, proto, want string }{
		{"", "6.6.6.6", "https", "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n"},
		{"10.0.0.0/8", "6.6.6.6", "https", "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n"},
		{"127.0.0.1", "6.6.6.6", "https", "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n"},
		{"127.0.0.1, 10.0.0.0/8", "6.6.6.6, 7.7.7.7, 10.1.2.3", "gopher", "X-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Proto: http\r\n"},
		{"127.0.0.1", "2001:db8::1", "http", "X-Forwarded-For: 2001:db8::1\r\nX-Forwarded-Proto: http\r\n"},
	} {
		g := open(t, setup{targets: map[string]*url.URL{"chat": echo(t)}, env: map[string]string{"TRUSTED_PROXIES": c.trusted}})
		_, got := get(t, g.url+"/chat/", "X-Forwarded-For: "+c.forwarded, "X-Forwarded-Proto: "+c.proto)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("TRUSTED_PROXIES=%q, %s: mismatch (-want +got):\n%s", c.trusted, c.forwarded, diff)
		}
		g.stop()
	}
}

// A trace goes through the gateway, in a span of its own; what is no trace begins one (W3C Trace Context).
func TestGuardTrace(t *testing.T) {
	target := service(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q %q", r.Header["Traceparent"], r.Header["Tracestate"])
	})
	g := open(t, setup{targets: map[string]*url.URL{"chat": target}})
	const id, parent = "0123456789abcdef0123456789abcdef", "0123456789abcdef"
	for _, c := range []struct {
		header []string
		goes   bool // on
		state  string
	}{
		{[]string{"Traceparent: 00-" + id + "-" + parent + "-01", "Tracestate: a=1", "Tracestate: b=2"}, true, `["a=1,b=2"]`},
		{[]string{"Traceparent: 00-" + id + "-" + parent + "-00"}, true, "[]"},
		{[]string{"Traceparent: cc-" + id + "-" + parent + "-01-more"}, true, "[]"},
		{[]string{"Traceparent: ff-" + id + "-" + parent + "-01", "Tracestate: a=1"}, false, "[]"},
		{[]string{"Traceparent: 00-" + strings.ToUpper(id) + "-" + parent + "-01"}, false, "[]"},
		{[]string{"Traceparent: 00-" + strings.Repeat("0", 32) + "-" + parent + "-01"}, false, "[]"},
		{[]string{"Traceparent: 00-" + id + "-" + strings.Repeat("0", 16) + "-01"}, false, "[]"},
		{[]string{"Traceparent: 00-" + id + "-" + parent + "-01", "Traceparent: 00-" + id + "-" + parent + "-01"}, false, "[]"},
		{[]string{"Tracestate: a=1"}, false, "[]"},
	} {
		_, got := get(t, g.url+"/chat/", c.header...)
		var seen, state string
		if _, err := fmt.Sscanf(got, "[%q] %s", &seen, &state); err != nil {
			t.Fatalf("%q: the service saw %s: %v", c.header, got, err)
		}
		if len(seen) != 55 || seen[36:52] == parent || strings.Contains(seen, id) != c.goes || state != c.state {
			t.Errorf("%q: the service saw %s; want the trace to go on: %v, and state %s", c.header, got, c.goes, c.state)
		}
	}
	// The error of a request names the trace that its log line has.
	_, body := get(t, g.url+"/none", "Traceparent: 00-"+id+"-"+parent+"-01")
	if !strings.Contains(body, `"trace_id":"`+id+`"`) {
		t.Errorf("the problem is of another trace: %s", body)
	}
}
