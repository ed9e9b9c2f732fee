package gateway

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func routesFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "routes.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadRoutes(t *testing.T) {
	plain := defaultRoute()
	plain.Name = "chat"
	got, err := ReadRoutes("", []string{"chat"})
	if diff := cmp.Diff([]Route{plain}, got); diff != "" || err != nil {
		t.Errorf("ReadRoutes without a file: %v, mismatch (-want +got):\n%s", err, diff)
	}
	got, err = ReadRoutes(routesFile(t, `{
		"defaults": {"auth": "required", "timeout": "2s", "body_bytes_max": 10, "retries": {"attempts": 3, "body_bytes_max": 20},
			"rates": [{"by": "route", "requests": 10, "window": "1s"}]},
		"routes": {
			"chat": {},
			"images": {"upstream": "http://images.example/base/", "fallback": "https://cdn.example", "fallback_identity": true, "keep_prefix": true, "auth": "optional",
				"timeout": "1m30s", "body_bytes_max": 0, "retries": {"attempts": 1}, "rates": [
					{"by": "address", "requests": 100, "window": "1m", "burst": 7}, {"by": "subject", "requests": 5, "window": "24h"}]}}}`),
		[]string{"pay", "chat"})
	if err != nil {
		t.Fatal(err)
	}
	base := Route{Auth: Required, Timeout: 2 * time.Second, BodyMax: 10, Retries: Retries{3, 20}, Rates: []Rate{{ByRoute, 10, time.Second, 10}}}
	chat, pay := base, base
	chat.Name, pay.Name = "chat", "pay"
	want := []Route{chat, {
		Name: "images", Upstream: &url.URL{Scheme: "http", Host: "images.example", Path: "/base"}, Fallback: &url.URL{Scheme: "https", Host: "cdn.example"},
		FallbackIdentity: true, KeepPrefix: true, Auth: Optional, Timeout: 90 * time.Second, BodyMax: 0, Retries: Retries{1, 20},
		Rates: []Rate{{ByAddress, 100, time.Minute, 7}, {BySubject, 5, 24 * time.Hour, 5}},
	}, pay}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ReadRoutes mismatch (-want +got):\n%s", diff)
	}
}

// Each error names the file, the route and the field.
func TestReadRoutesRefuses(t *testing.T) {
	rate := func(fields string) string {
		return `"rates":[{"by":"route","requests":9,"window":"1s"},{` + fields + `}]`
	}
	for _, c := range []struct{ route, want string }{
		{`"upstream":"images:80"`, "upstream: "},
		{`"upstream":"http://me:secret@images"`, "upstream: "},
		{`"fallback":"ftp://images"`, "fallback: "},
		{`"auth":"perhaps"`, `auth: "perhaps"`},
		{`"timeout":"1us"`, "timeout: 1µs"},
		{`"timeout":"11m"`, "timeout: 11m0s"},
		{`"timeout":"soon"`, "timeout"},
		{`"timeout":3`, "timeout"},
		{`"body_bytes_max":-1`, "body_bytes_max: -1"},
		{`"retries":{}`, "retries.attempts: 0"},
		{`"retries":{"attempts":6}`, "retries.attempts: 6"},
		{`"retries":{"attempts":2,"body_bytes_max":1048577}`, "retries.body_bytes_max: 1048577"},
		{`"retries":{"attempts":2,"more":1}`, "more"},
		{rate(`"by":"mood","requests":1,"window":"1s"`), `rates[1].by: "mood"`},
		{rate(`"by":"route","requests":0,"window":"1s"`), "rates[1].requests: 0"},
		{rate(`"by":"route","requests":1000001,"window":"1s"`), "rates[1].requests: 1000001"},
		{rate(`"by":"route","requests":1,"window":"1ms"`), "rates[1].window: 1ms"},
		{rate(`"by":"route","requests":1,"window":"25h"`), "rates[1].window: 25h"},
		{rate(`"by":"route","requests":1,"window":"1s","burst":2`), "rates[1].burst: 2"},
		{rate(`"by":"route","requests":1,"window":"1s","burst":-2`), "rates[1].burst: -2"},
		{`"rates":[` + strings.TrimSuffix(strings.Repeat(`{"by":"route","requests":1,"window":"1s"},`, ratesMax+1), ",") + `]`, "rates: 9"},
		{`"colour":"red"`, "colour"},
		{`"Auth":"required"`, "Auth"},
		{`"auth":"required","auth":"optional"`, "auth"},
	} {
		for _, whole := range []string{`{"routes":{"chat":{` + c.route + `}}}`, `{"defaults":{` + c.route + `}}`} {
			path := routesFile(t, whole)
			_, err := ReadRoutes(path, []string{"chat"})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), path) {
				t.Errorf("ReadRoutes(%s): %v, want one that begins with the file and says %q", whole, err, c.want)
				continue
			}
			if strings.HasPrefix(whole, `{"routes"`) && !strings.Contains(err.Error(), "routes.chat") {
				t.Errorf("ReadRoutes(%s): %v does not name the route", whole, err)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("ReadRoutes(%s): %v tells a password", whole, err)
			}
		}
	}
	for text, want := range map[string]string{
		`{"routes":{"images":{}}}`:                                                      "routes.images: upstream",
		`{"routes":{"Images":{"upstream":"http://a.example"}}}`:                         "routes.Images: a name",
		`{"routes":{"admin":{"upstream":"http://a.example"}}}`:                          "routes.admin: a name",
		`{"routes":{"whoami":{"upstream":"http://a.example"}}}`:                         "routes.whoami: a name",
		`{"defaults":{"upstream":"http://a.example"}}`:                                  "defaults: upstream",
		`{"defaults":{},"paths":{}}`:                                                    "paths",
		`{"routes":{"chat":{}}} {}`:                                                     "",
		`{"routes":{` + strings.Repeat("a", 33) + `":{"upstream":"http://a.example"}}}`: "",
		``: "",
	} {
		if _, err := ReadRoutes(routesFile(t, text), []string{"chat"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ReadRoutes(%s): %v, want %q", text, err, want)
		}
	}
	if _, err := ReadRoutes(filepath.Join(t.TempDir(), "none.json"), nil); err == nil || !strings.Contains(err.Error(), "none.json") {
		t.Errorf("ReadRoutes of no file: %v", err)
	}
}

func TestPolicyNames(t *testing.T) {
	r := Route{Name: "chat", Rates: []Rate{{By: ByAddress, Window: time.Minute}, {By: BySubject, Window: time.Minute}, {By: BySubject, Window: time.Hour}}}
	for i, want := range []string{"chat.address", "chat.subject", "chat.subject.3600s"} {
		if got := policyName(r, i); got != want {
			t.Errorf("policyName(%d) = %q, want %q", i, got, want)
		}
	}
}
