package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// The users of an authority.
const (
	adminPassword = "the keys of the house"
	minjiPassword = "by the river at seven"
	seeds         = `[{"login":"admin","password":"` + adminPassword + `","name":"","email":"","groups":["admin"]},
		{"login":"minji","password":"` + minjiPassword + `","name":"민지","email":"minji@example.com","groups":["book,club","neighbours"]}]`
)

// An authority is one auth that runs, behind an address that it knew before it had one.
type authority struct {
	*process
	issuer string
}

func startAuth(t *testing.T, env ...string) *authority {
	t.Helper()
	front := newRelay(t)
	p := start(t, build(t, "./auth"), append([]string{"DATA_DIR=" + t.TempDir(), "ISSUER=" + front.url(), "SEED=" + seeds}, env...)...)
	front.lead(p.addr)
	return &authority{p, front.url()}
}

// tokens are what auth gives at a log-in, and for a refresh token.
type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

// logIn logs a user in.
func (a *authority) logIn(t *testing.T, login, password string) tokens {
	t.Helper()
	body, err := json.Marshal(map[string]string{"login": login, "password": password, "code": ""})
	if err != nil {
		t.Fatal(err)
	}
	return a.pair(t, "/login", "application/json", string(body))
}

// refresh spends a refresh token.
func (a *authority) refresh(t *testing.T, old tokens) tokens {
	t.Helper()
	return a.pair(t, "/oauth2/token", "application/x-www-form-urlencoded",
		url.Values{"grant_type": {"refresh_token"}, "refresh_token": {old.Refresh}}.Encode())
}

func (a *authority) pair(t *testing.T, path, kind, body string) (p tokens) {
	t.Helper()
	status, answer := a.post(t, path, kind, "", body)
	if err := json.Unmarshal(answer, &p); err != nil || status != http.StatusOK || p.Access == "" || p.Refresh == "" {
		t.Fatalf("POST %s: %d, %v: %s", path, status, err, answer)
	}
	return p
}

// order asks for what is answered with success, with an access token.
func (a *authority) order(t *testing.T, path, access string) {
	t.Helper()
	if status, answer := a.post(t, path, "application/json", access, ""); status >= 300 {
		t.Fatalf("POST %s: %d: %s", path, status, answer)
	}
}

func (a *authority) post(t *testing.T, path, kind, access, body string) (status int, answer []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.issuer+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", kind)
	}
	if access != "" {
		r.Header.Set("Authorization", "Bearer "+access)
	}
	w, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	answer, err = io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.StatusCode, bytes.TrimSpace(answer)
}
