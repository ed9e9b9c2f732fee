package serve

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestListAndLimit(t *testing.T) {
	_, srv, _ := handler(t, defaultLimits, Service{Routes: map[string]Handler{
		"GET /n": func(w http.ResponseWriter, r *http.Request) error {
			n, err := Limit(r, 20, 200)
			if err != nil {
				return err
			}
			return List(w, []int{n}, "cursor")
		},
		"GET /none": func(w http.ResponseWriter, r *http.Request) error { return List[int](w, nil, "") },
	}})
	for query, want := range map[string]int{"": 20, "?limit=1": 1, "?limit=200": 200, "?limit=": 20} {
		if _, body := do(t, "GET", srv.URL+"/n"+query, ""); body != fmt.Sprintf("{\"items\":[%d],\"next\":\"cursor\"}\n", want) {
			t.Errorf("limit of %q: %s, want %d", query, body, want)
		}
	}
	for _, query := range []string{"?limit=0", "?limit=201", "?limit=-1", "?limit=x", "?limit=1.0"} {
		resp, body := do(t, "GET", srv.URL+"/n"+query, "")
		wantProblem(t, resp, body, 400, "query-invalid")
	}
	if _, body := do(t, "GET", srv.URL+"/none", ""); body != "{\"items\":[]}\n" {
		t.Errorf("empty list = %s", body)
	}
}

func TestPage(t *testing.T) {
	const script, style = "\nlet a = 1 < 2\n", "p { color: red }"
	html := "<!doctype html><style>" + style + "</style><p>x</p><script>" + script + "</script>"
	_, srv, _ := handler(t, defaultLimits, Service{Routes: map[string]Handler{"GET /{$}": Page([]byte(html))}})
	resp, body := do(t, "GET", srv.URL+"/", "")
	if body != html || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" || len(resp.Header["X-Content-Type-Options"]) != 1 {
		t.Errorf("page = %s, %v", body, resp.Header)
	}
	policy := resp.Header.Get("Content-Security-Policy")
	for kind, text := range map[string]string{"script": script, "style": style} {
		sum := sha256.Sum256([]byte(text))
		if want := kind + "-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !strings.Contains(policy, want) {
			t.Errorf("policy %q lacks %s", policy, want)
		}
	}
	if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy = %q", policy)
	}
}

func TestRefusals(t *testing.T) {
	unknown, busy, other := errors.New("no such room"), errors.New("too fast"), errors.New("other")
	answer := func(err error) Handler { return func(http.ResponseWriter, *http.Request) error { return err } }
	_, srv, _ := handler(t, defaultLimits, Service{
		Refusals: []Refusal{Refuse(unknown, 404, "room-unknown"), Refuse(busy, 429, "too-fast")},
		Routes: map[string]Handler{
			"GET /unknown": answer(fmt.Errorf("room a: %w", unknown)), "GET /busy": answer(busy),
			"GET /other": answer(other), "GET /fine": ok,
		},
	})
	resp, body := do(t, "GET", srv.URL+"/unknown", "")
	if p := wantProblem(t, resp, body, 404, "room-unknown"); p.Detail != "room a: no such room" {
		t.Errorf("detail = %q", p.Detail)
	}
	resp, body = do(t, "GET", srv.URL+"/busy", "")
	if wantProblem(t, resp, body, 429, "too-fast"); resp.Header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After = %q, want 1", resp.Header.Get("Retry-After"))
	}
	resp, body = do(t, "GET", srv.URL+"/other", "")
	wantProblem(t, resp, body, 500, "internal")
	if resp, _ = do(t, "GET", srv.URL+"/fine", ""); resp.StatusCode != 200 {
		t.Errorf("fine = %d", resp.StatusCode)
	}
}
