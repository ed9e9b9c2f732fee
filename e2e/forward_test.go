package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"
)

// Real proxies that ask auth, configured as the documentation of auth/forward says.

// A proxy is a program that stands in front of a service and asks auth. The file has ADDRESS, DIR and RULES to be filled in;
// the rules are the documentation's.
type proxy struct {
	name    string
	args    []string // with DIR
	file    string   // name of the configuration
	config  string
	heading string // of the rules in the documentation
	site    string // what the documentation calls the site; ""
}

var proxies = []proxy{
	{"nginx", []string{"-p", "DIR", "-c", "DIR/nginx.conf"}, "nginx.conf", `
daemon off;
master_process off;
pid DIR/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path DIR/body;
	proxy_temp_path DIR/proxy;
	fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi;
	scgi_temp_path DIR/scgi;
	server {
		listen ADDRESS reuseport;
RULES
	}
}
`, "nginx", ""},
	{"caddy", []string{"run", "--config", "DIR/Caddyfile", "--adapter", "caddyfile"}, "Caddyfile", `{
	admin off
	auto_https off
}
RULES
`, "Caddy", "example.com"},
}

// documented is an example in the documentation of auth/forward.
func documented(t *testing.T, heading string) string {
	t.Helper()
	source, err := os.ReadFile("../auth/forward/forward.go")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(source), "\n// # "+heading+"\n//\n")
	var lines []string
	for line := range strings.Lines(after) {
		rest, is := strings.CutPrefix(line, "//\t")
		if !is {
			break
		}
		lines = append(lines, rest)
	}
	if !found || len(lines) == 0 {
		t.Fatalf("auth/forward has no example under %q", heading)
	}
	return strings.Join(lines, "")
}

// reserve returns an address that is this process's until the test ends, and that others may share with SO_REUSEPORT: it is
// bound, and takes no connections.
func reserve(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", bound.(*unix.SockaddrInet4).Port)
}

// start starts the proxy in front of upstream and returns its address. What spoil says is replaced in the rules first.
func (p *proxy) start(t *testing.T, auth, upstream string, spoil ...string) string {
	t.Helper()
	dir, address := t.TempDir(), reserve(t)
	rules := strings.NewReplacer(spoil...).Replace(documented(t, p.heading))
	for old, new := range map[string]string{"127.0.0.1:8081": auth, "127.0.0.1:8082": upstream, p.site: "http://" + address} {
		if old != "" && !strings.Contains(rules, old) {
			t.Fatalf("the documented %s names no %s", p.name, old)
		}
		if old != "" {
			rules = strings.ReplaceAll(rules, old, new)
		}
	}
	fill := strings.NewReplacer("DIR", dir, "ADDRESS", address, "RULES", rules)
	if err := os.WriteFile(filepath.Join(dir, p.file), []byte(fill.Replace(p.config)), 0o600); err != nil {
		t.Fatal(err)
	}
	args := make([]string, len(p.args))
	for i, arg := range p.args {
		args[i] = fill.Replace(arg)
	}
	cmd := exec.Command(p.name, args...)
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	said := &tail{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", p.name, said)
		}
	})
	eventually(t, p.name+" listens", patience, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return address
}

// A house is the service behind a proxy: it keeps the headers of what came.
type house struct {
	*httptest.Server
	mu   sync.Mutex
	came []http.Header // guarded by mu
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.came = append(h.came, r.Header.Clone())
		io.WriteString(w, "welcome")
	}))
	t.Cleanup(h.Close)
	return h
}

// take returns what came since the last time.
func (h *house) take() []http.Header {
	h.mu.Lock()
	defer h.mu.Unlock()
	came := h.came
	h.came = nil
	return came
}

// raw sends a GET with a target and header lines just as they are, and returns the answer.
func raw(t *testing.T, address, target string, lines ...string) *http.Response {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	head := append([]string{"GET " + target + " HTTP/1.1", "Host: " + address, "Connection: close"}, lines...)
	if _, err := io.WriteString(conn, strings.Join(head, "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("GET %s: %v", target, err)
	}
	answer.Body.Close()
	return answer
}

// forged are headers that only a proxy, or auth, may write.
var forged = []string{
	"X-Auth-Request-User: admin", "X-Auth-Request-Email: admin@example.com", "X-Auth-Request-Groups: admin",
	"X-Original-URL: http://example.com/public", "X-Original-Method: OPTIONS", "X-Real-IP: 10.0.0.1",
	"X-Forwarded-Uri: /public", "X-Forwarded-Method: OPTIONS", "X-Forwarded-Host: example.com", "X-Forwarded-Proto: https",
	"X-Forwarded-For: 10.0.0.1", "X-Envoy-External-Address: 10.0.0.1",
}

// tricks are targets that two programs could read as two paths.
var tricks = []string{
	"/public/../secret", "/public/%2e%2e/secret", "/public/%2E%2E%2Fsecret", "/public%2fsecret", "/public/..;/secret", "/./secret",
	"//secret", "/public//secret", `/public\..\secret`, "/public%5csecret", "/secret%00", "/%252e%252e/secret", "/%73ecret%ff", "/a%zz",
}

// An attempt is a request, and what must come of it.
type attempt struct {
	what, target string
	lines        []string
	statuses     []int             // any of them
	identity     map[string]string // that reaches the service; nil: the request does not
}

// attempts are made with the tokens of minji, and of admin, who has no address for mail.
func attempts(minji, admin tokens) (all []attempt) {
	bearer := func(access string) string { return "Authorization: Bearer " + access }
	ok, unauthorized := []int{http.StatusOK}, []int{http.StatusUnauthorized}
	asMinji := map[string]string{"User": "minji", "Email": "minji@example.com", "Groups": "book%2Cclub,neighbours"}
	asAdmin := map[string]string{"User": "admin", "Email": "", "Groups": "admin"}
	with := func(line string, more ...string) []string { return append([]string{line}, more...) }
	all = []attempt{
		{"minji", "/rooms?limit=1", with(bearer(minji.Access)), ok, asMinji},
		{"minji, with forged headers", "/rooms?limit=1", with(bearer(minji.Access), forged...), ok, asMinji},
		{"admin", "/rooms", with(bearer(admin.Access)), ok, asAdmin},
		{"admin, with forged headers", "/rooms", with(bearer(admin.Access), forged...), ok, asAdmin},
		{"nobody", "/rooms", nil, unauthorized, nil},
		{"nobody, with forged headers", "/rooms", forged, unauthorized, nil},
		{"a token that was changed", "/rooms", with(bearer(spoilt(minji.Access))), unauthorized, nil},
		{"a refresh token", "/rooms", with(bearer(minji.Refresh)), unauthorized, nil},
		{"two tokens", "/rooms", with(bearer(minji.Access), bearer(admin.Access)), []int{400, 401, 403}, nil},
	}
	for _, target := range tricks {
		all = append(all,
			attempt{target, target, with(bearer(minji.Access)), []int{400, 403}, nil},
			attempt{target + " with forged headers", target, with(bearer(minji.Access), forged...), []int{400, 403}, nil})
	}
	return all
}

// try makes an attempt, and returns what is wrong with what came of it; "" for nothing.
func (a *attempt) try(t *testing.T, front string, home *house) string {
	t.Helper()
	answer := raw(t, front, a.target, a.lines...)
	came := home.take()
	switch {
	case !slices.Contains(a.statuses, answer.StatusCode):
		return fmt.Sprintf("%s: %s, want one of %v", a.what, answer.Status, a.statuses)
	case a.identity == nil && len(came) == 0:
		return ""
	case a.identity == nil || len(came) != 1:
		return fmt.Sprintf("%s: %d requests came through", a.what, len(came))
	}
	got := map[string]string{}
	for name := range a.identity {
		got[name] = strings.Join(came[0].Values("X-Auth-Request-"+name), " and ")
	}
	if diff := cmp.Diff(a.identity, got); diff != "" {
		return fmt.Sprintf("%s: X-Auth-Request-… mismatch (-want +got):\n%s", a.what, diff)
	}
	return ""
}

// TestProxies: behind a real proxy a service hears of whom auth knows, as auth names him, and of nobody else.
func TestProxies(t *testing.T) {
	for _, p := range proxies {
		need(t, p.name, p.name)
	}
	auth, home := startAuth(t), newHouse(t)
	minji, admin := auth.logIn(t, "minji", minjiPassword), auth.logIn(t, "admin", adminPassword)
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			front := p.start(t, auth.addr, home.Listener.Addr().String())
			for _, a := range attempts(minji, admin) {
				if wrong := a.try(t, front, home); wrong != "" {
					t.Error(wrong)
				}
			}
			if challenge := raw(t, front, "/rooms").Header.Get("WWW-Authenticate"); challenge != `Bearer realm="dongne"` {
				t.Errorf("WWW-Authenticate: %q", challenge)
			}
			again := auth.logIn(t, "minji", minjiPassword)
			bearer := "Authorization: Bearer " + again.Access
			if answer := raw(t, front, "/rooms", bearer); answer.StatusCode != http.StatusOK {
				t.Fatalf("before the log-out: %s", answer.Status)
			}
			auth.order(t, "/logout", again.Access)
			began := time.Now()
			eventually(t, "401 after the log-out", time.Second, func() bool {
				return raw(t, front, "/rooms", bearer).StatusCode == http.StatusUnauthorized
			})
			t.Logf("%s answers 401 %v after the log-out", p.name, time.Since(began).Round(time.Millisecond))
			home.take()
		})
	}
	for _, m := range []struct {
		p                *proxy
		mutant, old, new string
	}{
		{&proxies[0], "asks nobody", "auth_request /_auth;", ""},
		{&proxies[0], "leaves the header for mail", "proxy_set_header X-Auth-Request-Email $auth_email;", ""},
		{&proxies[0], "asks about another path", "$request_uri", "$uri"},
		{&proxies[0], "lets the client say the path", "proxy_set_header X-Original-URL $scheme://$host$request_uri;", ""},
		{&proxies[1], "clears the headers after it copied them", "route {", "handle {"},
		{&proxies[1], "copies no user", "copy_headers X-Auth-Request-User", "copy_headers"},
	} {
		t.Run(m.p.name+" that "+m.mutant, func(t *testing.T) {
			if !strings.Contains(documented(t, m.p.heading), m.old) {
				t.Fatalf("the documentation has no %q", m.old)
			}
			front := m.p.start(t, auth.addr, home.Listener.Addr().String(), m.old, m.new)
			caught := 0
			for _, a := range attempts(minji, admin) {
				if a.try(t, front, home) != "" {
					caught++
				}
			}
			if caught == 0 {
				t.Error("nothing is wrong with it")
			}
			t.Logf("%d attempts show it", caught)
		})
	}
}
