package gateway

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"

	"dongne/internal/serve"
)

//go:embed page.html
var pageFile embed.FS

var page = template.Must(template.ParseFS(pageFile, "page.html"))

// pagePolicy lets the start page load nothing but the style that it holds.
const pagePolicy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

// Page is the start page: every service, whether it is up, and its links. It
// asks each of backends anew and reloads itself while one is down.
func Page(backends []*Backend) serve.Handler {
	type row struct {
		Name, Title, Why string
		Up               bool
	}
	titles := make([]string, len(backends))
	for i, b := range backends {
		titles[i] = title(b.Spec)
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		rows, allUp := make([]row, len(backends)), true
		for i, err := range probe(r.Context(), backends) {
			rows[i] = row{Name: backends[i].Name, Title: titles[i], Up: err == nil}
			if err != nil {
				allUp = false
				rows[i].Why = err.Error()
			}
		}
		var body bytes.Buffer
		if err := page.Execute(&body, map[string]any{"Services": rows, "AllUp": allUp}); err != nil {
			return err
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", pagePolicy)
		w.Header().Set("Cache-Control", "no-store")
		_, err := body.WriteTo(w)
		return err
	}
}
