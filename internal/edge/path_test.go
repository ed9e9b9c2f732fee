package edge

import (
	"errors"
	"net/url"
	"path"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestPath(t *testing.T) {
	for _, c := range []struct{ target, want, code string }{
		{"/", "/", ""},
		{"/a/b/", "/a/b/", ""},
		{"/a?b=/../%2f", "/a", ""},
		{"/a%20b", "/a b", ""},
		{"/%EB%8F%99", "/동", ""},
		{"/동", "/동", ""},
		{"/a.b/...", "/a.b/...", ""},
		{"/.well-known/x", "/.well-known/x", ""},
		{"/100%25", "/100%", ""},
		{"/100%25-0", "/100%-0", ""},
		{"/a;b=c", "/a;b=c", ""},
		{"/a%3fb%23c", "/a?b#c", ""},
		{"http://h/a", "/a", ""},
		{"HTTPS://h", "/", ""},
		{"http://h?/a", "/", ""},

		{"", "", "bad-target"},
		{"a", "", "bad-target"},
		{"*", "", "bad-target"},
		{"?a", "", "bad-target"},
		{"h:80", "", "bad-target"},
		{"/%", "", "path-bad-escape"},
		{"/%2", "", "path-bad-escape"},
		{"/%g0", "", "path-bad-escape"},
		{"/a%2fb", "", "path-encoded-slash"},
		{"/a%2Fb", "", "path-encoded-slash"},
		{"/a\\b", "", "path-backslash"},
		{"/a%5cb", "", "path-backslash"},
		{"/a%5Cb", "", "path-backslash"},
		{"/a%00", "", "path-control"},
		{"/a%0d%0a", "", "path-control"},
		{"/a\x7f", "", "path-control"},
		{"/a%C2%85", "", "path-control"},
		{"/%252e", "", "path-double-encoding"},
		{"/%252E%252e/", "", "path-double-encoding"},
		{"/%2525", "", "path-double-encoding"},
		{"/%25%32%65", "", "path-double-encoding"},
		{"/%25%32e", "", "path-double-encoding"},
		{"/%ff", "", "path-not-utf8"},
		{"/%c0%af", "", "path-not-utf8"}, // a slash, overlong
		{"/%c0%ae%c0%ae/", "", "path-not-utf8"},
		{"/%ed%a0%80", "", "path-not-utf8"},
		{"/.", "", "path-dot-segment"},
		{"/..", "", "path-dot-segment"},
		{"/a/../b", "", "path-dot-segment"},
		{"/a/%2e%2E/b", "", "path-dot-segment"},
		{"/a/.%2e", "", "path-dot-segment"},
		{"/a/..;/b", "", "path-dot-segment"},
		{"/a/.;x=1/b", "", "path-dot-segment"},
		{"//", "", "path-empty-segment"},
		{"//h/a", "", "path-empty-segment"},
		{"/a//b", "", "path-empty-segment"},
		{"/a/;/b", "", "path-empty-segment"},
		{"http://h//a", "", "path-empty-segment"},
	} {
		got, err := Path("GET", c.target)
		var refused *Refusal
		errors.As(err, &refused)
		code := ""
		if refused != nil {
			code = refused.Code
		}
		if (refused == nil) != (err == nil) || got != c.want || code != c.code {
			t.Errorf("Path(%q) = %q, %v; want %q and code %q", c.target, got, err, c.want, c.code)
		}
		if refused != nil && refused.Status != 400 {
			t.Errorf("Path(%q): status %d, want 400", c.target, refused.Status)
		}
	}
	if got, err := Path("OPTIONS", "*"); got != "*" || err != nil {
		t.Errorf("Path(OPTIONS, *) = %q, %v; want * and no error", got, err)
	}
}

// harmless says what is wrong with an accepted path.
func harmless(target, got string) string {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return "net/url: " + err.Error()
	}
	again, err := url.PathUnescape(got)
	switch {
	case u.Path != got:
		return "net/url decodes it to " + u.Path
	case strings.TrimSuffix(path.Clean(got), "/")+"/" != strings.TrimSuffix(got, "/")+"/":
		return "it has a cleaner form: " + path.Clean(got)
	case !utf8.ValidString(got) || strings.ContainsAny(got, "\x00\\\r\n"):
		return "it has bad bytes"
	case strings.Count(target, "/") != strings.Count(got, "/"):
		return "it has other slashes"
	case err == nil && again != got:
		return "it decodes once more, to " + again
	}
	return ""
}

var pieceOfPath = []string{"/", "a", ".", "..", "%2e", "%2f", "%5c", "\\", "%25", "2e", "32", "%00", "%", ";", "%3b",
	"%eb%8f%99", "동", "%c0", "\xff", " "}

func TestPathPropertyAcceptedPathsHaveOneReading(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		target := "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieceOfPath), 0, 8).Draw(t, "pieces"), "")
		got, err := Path("GET", target)
		if err != nil {
			return
		}
		if wrong := harmless(target, got); wrong != "" {
			t.Fatalf("Path(%q) = %q: %s", target, got, wrong)
		}
	})
}

// The property catches a Path that forgets one of its rules.
func TestHarmlessCatchesMutants(t *testing.T) {
	for target, got := range map[string]string{
		"/a%2fb": "/a/b", "/%252e": "/%2e", "/a/../b": "/a/../b", "/a/%2e%2e/b": "/a/../b", "/a//b": "/a//b",
		"/a%5cb": "/a\\b", "/%00": "/\x00", "/%c0": "/\xc0", "/%61": "/%61",
	} {
		if harmless(target, got) == "" {
			t.Errorf("a Path(%q) of %q goes unnoticed", target, got)
		}
	}
}

func FuzzPath(f *testing.F) {
	for _, piece := range pieceOfPath {
		f.Add("/" + piece + "/" + piece + piece)
	}
	f.Fuzz(func(t *testing.T, target string) {
		if !strings.HasPrefix(target, "/") || strings.Contains(target, "?") {
			return
		}
		got, err := Path("GET", target)
		if err != nil {
			return
		}
		if wrong := harmless(target, got); wrong != "" {
			t.Fatalf("Path(%q) = %q: %s", target, got, wrong)
		}
	})
}

func TestPlainPathsDoNotAllocate(t *testing.T) {
	if n := testing.AllocsPerRun(1000, func() { Path("GET", "/chat/rooms/r_01J9Z0/messages?after=41") }); n > 0 {
		t.Errorf("Path allocates %v times", n)
	}
}
