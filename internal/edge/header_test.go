package edge

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	outsiders = []string{"Accept", "Accept-Encoding", "Authorization", "Content-Length", "Content-Type", "Cookie", "Date",
		"Idempotency-Key", "If-Match", "Last-Event-Id", "Origin", "Referer", "Sec-Fetch-Site", "Sec-Websocket-Key",
		"Traceparent", "Tracestate", "User-Agent", "X-Requested-With", "X-Csrf-Token", "X-Request-Id", "X-Usage",
		"Remoteness"}
	insiders = []string{"X-Auth-Request-User", "X-Auth-Request-Email", "X-Auth-Request-Groups", "X-User",
		"X-User-Id", "X-Email",
		"X-Groups", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-User", "X-Forwarded-Prefix",
		"X-Forwarded-Client-Cert", "X-Forwarded", "Forwarded", "X-Real-Ip", "X-Original-Url", "X-Original-Method",
		"X-Original-Forwarded-For", "X-Envoy-External-Address", "X-Envoy-Original-Path", "True-Client-Ip", "Cf-Connecting-Ip",
		"Cf-Access-Jwt-Assertion", "Fastly-Client-Ip", "X-Client-Ip", "Client-Ip", "X-Cluster-Client-Ip", "X-Azure-Clientip",
		"X-Appengine-User-Ip", "Remote-User", "Remote-Groups", "X-Remote-User", "X-Remote-Group", "X-Webauth-User",
		"X-Goog-Authenticated-User-Email", "X-Amzn-Oidc-Identity", "X-Ms-Client-Principal-Name", "X-Ssl-Client-Verify",
		"Ssl-Client-Cert", "Tailscale-User-Login", "X-Http-Method-Override", "X-Http-Method", "X-Method-Override",
		"X-Rewrite-Url", "X-Host", "X-Scheme", "Front-End-Https", "X-Accel-Redirect", "X-Sendfile-Type", "Proxy",
		"X-Middleware-Subrequest", "X_user", "X_forwarded_for", "Content_length", "_", "Expect", "Http2-Settings",
		refusedField}
)

func TestStrip(t *testing.T) {
	h, want := http.Header{}, http.Header{}
	for _, name := range outsiders {
		h.Add(name, "1")
		want.Add(name, "1")
	}
	for _, name := range insiders {
		if http.CanonicalHeaderKey(name) != name {
			t.Fatalf("%q is not as net/http writes it", name)
		}
		h[name] = []string{"1", "2"}
	}
	if n := Strip(h); n != len(insiders) {
		t.Errorf("Strip = %d, want %d", n, len(insiders))
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(h))); diff != "" {
		t.Errorf("names after Strip mismatch (-want +got):\n%s", diff)
	}
	if n := Strip(h); n != 0 {
		t.Errorf("second Strip = %d, want 0", n)
	}
}

func TestStripLeavesTheUpgradeToWebSocketAlone(t *testing.T) {
	for _, c := range []struct {
		values []string
		want   int
	}{
		{[]string{"websocket"}, 0},
		{[]string{"WebSocket"}, 0},
		{[]string{"h2c"}, 1},
		{[]string{"websocket, h2c"}, 1},
		{[]string{"websocket", "h2c"}, 1},
		{[]string{""}, 1},
	} {
		if got := Strip(http.Header{"Upgrade": c.values}); got != c.want {
			t.Errorf("Strip(Upgrade: %q) = %d, want %d", c.values, got, c.want)
		}
	}
}

// Whatever a service could take for X-User or X-Forwarded-For goes, however it is written.
func TestStripPropertyNoSpellingGetsThrough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := []byte(rapid.SampledFrom(insiders).Draw(t, "name"))
		for i := range name {
			switch rapid.IntRange(0, 3).Draw(t, "change") {
			case 0:
				name[i] = strings.ToUpper(string(name[i]))[0]
			case 1:
				name[i] = strings.ToLower(string(name[i]))[0]
			case 2:
				if name[i] == '-' {
					name[i] = '_'
				}
			}
		}
		h := http.Header{}
		h.Add(string(name), "1")
		if Strip(h); len(h) != 0 {
			t.Fatalf("%q is left: %v", name, h)
		}
	})
}
