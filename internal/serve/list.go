package serve

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// List answers 200 with a page of a list: {"items": […], "next": "…"}. next is left out when it is empty, at the end.
func List[T any](w http.ResponseWriter, items []T, next string) error {
	return JSON(w, http.StatusOK, struct {
		Items []T    `json:"items"`
		Next  string `json:"next,omitempty"`
	}{append([]T{}, items...), next})
}

// Limit reads the query parameter limit, the number of items that a page may have: from 1 to most, usual when absent.
// The error is a problem.
func Limit(r *http.Request, usual, most int) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return usual, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > most {
		return 0, Problem(http.StatusBadRequest, "query-invalid", "limit: %q is not a number from 1 to %d", text, most)
	}
	return limit, nil
}

var inlineParts = regexp.MustCompile(`(?s)<(script|style)>(.*?)</(?:script|style)>`)

// Page is the handler of a service's own embedded page. The page's inline scripts and styles are allowed by their hashes;
// it may fetch from the service, and nothing else: an injected script does not run.
func Page(html []byte) Handler { return PageWith(html, "form-action 'none'") }

// PageWith is Page with another rule for forms: "form-action 'self'" lets them post to the service.
func PageWith(html []byte, forms string) Handler {
	sources := map[string][]string{"script": nil, "style": nil}
	for _, part := range inlineParts.FindAllSubmatch(html, -1) {
		sum := sha256.Sum256(part[2])
		kind := string(part[1])
		sources[kind] = append(sources[kind], "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	}
	policy := "default-src 'none'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; " + forms
	for _, kind := range []string{"script", "style"} {
		if len(sources[kind]) > 0 {
			policy += "; " + kind + "-src " + strings.Join(sources[kind], " ")
		}
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, err := w.Write(html)
		return err
	}
}
