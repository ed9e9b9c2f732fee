package api

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"dongne/auth/node"
	"dongne/auth/realm"
	"dongne/internal/serve"
	"dongne/internal/token"
)

// The bodies of answers.
type (
	// User is what a user, or an administrator, is told of him.
	User struct {
		ID           string   `json:"sub"`
		Login        string   `json:"preferred_username"`
		Name         string   `json:"name,omitempty"`
		Email        string   `json:"email,omitempty"`
		Groups       []string `json:"groups"`
		SecondFactor bool     `json:"second_factor"`
		Recovery     int      `json:"recovery_codes_left"`
		Disabled     bool     `json:"disabled"`
		Created      string   `json:"created_at"`
		LoggedIn     string   `json:"logged_in_at,omitempty"`
	}
	// Session is what a user is told of one of his sessions.
	Session struct {
		ID      string `json:"id"`
		Agent   string `json:"user_agent"`
		Address string `json:"address"`
		Created string `json:"created_at"`
		Used    string `json:"used_at"`
		Expires string `json:"expires_at"`
		Current bool   `json:"current"`
	}
	// Revocation is an item of GET /revocations.
	Revocation struct {
		Seq     uint64 `json:"seq"`
		Kind    string `json:"kind"`
		ID      string `json:"id"`
		Expires string `json:"expires_at"`
	}
	// Event is an item of GET /events.
	Event struct {
		Seq     uint64 `json:"seq"`
		At      string `json:"at"`
		Kind    string `json:"kind"`
		User    string `json:"user,omitempty"`
		By      string `json:"by,omitempty"`
		Session string `json:"session,omitempty"`
		Address string `json:"address,omitempty"`
		Detail  string `json:"detail,omitempty"`
	}
)

// at is a time of the realm, RFC 3339; "" for never.
func at(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

// UserOf tells of a user.
func UserOf(u realm.User) User {
	return User{u.ID, u.Login, u.Name, u.Email, append([]string{}, u.Groups...), u.TOTP.Secret != nil, len(u.Recovery), u.Disabled, at(u.Created), at(u.LoggedIn)}
}

// SessionsOf tells of sessions; current is that of the request.
func SessionsOf(sessions []realm.Session, current string) []Session {
	all := make([]Session, len(sessions))
	for i, x := range sessions {
		id := x.ID.String()
		all[i] = Session{id, x.Agent, x.Address, at(x.Created), at(x.Used), at(x.Expires), id == current}
	}
	return all
}

// RevocationsOf tells of revocations.
func RevocationsOf(items []realm.Revocation) []Revocation {
	all := make([]Revocation, len(items))
	for i, x := range items {
		all[i] = Revocation{x.Seq, x.Kind.String(), x.Text(), at(x.Expires)}
	}
	return all
}

// EventsOf tells of the audit trail.
func EventsOf(events []realm.Event) []Event {
	all := make([]Event, len(events))
	for i, e := range events {
		session := ""
		if e.Session != (realm.SessionID{}) {
			session = e.Session.String()
		}
		all[i] = Event{e.Seq, at(e.At), e.Kind, e.User, e.By, session, e.Address, e.Detail}
	}
	return all
}

// Keys is GET /.well-known/jwks.json.
func Keys(n *node.Node, cache time.Duration) serve.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		set, err := n.Keys()
		if err != nil {
			return err
		}
		body, err := set.Encode()
		if err != nil {
			return err
		}
		w.Header().Set("Cache-Control", "public, max-age="+seconds(cache))
		return serve.JSON(w, http.StatusOK, json.RawMessage(body))
	}
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

// Metadata is the document of RFC 8414, which OpenID Connect Discovery reads too. The issuer is the base of all URLs.
func Metadata(issuer string, alg token.Alg) serve.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Cache-Control", "public, max-age=300")
		return serve.JSON(w, http.StatusOK, map[string]any{
			"issuer":                                issuer,
			"jwks_uri":                              issuer + "/.well-known/jwks.json",
			"token_endpoint":                        issuer + "/oauth2/token",
			"revocation_endpoint":                   issuer + "/oauth2/revoke",
			"introspection_endpoint":                issuer + "/oauth2/introspect",
			"userinfo_endpoint":                     issuer + "/userinfo",
			"grant_types_supported":                 []string{"refresh_token", "client_credentials", exchangeGrant},
			"response_types_supported":              []string{},
			"subject_types_supported":               []string{"public"},
			"id_token_signing_alg_values_supported": []string{string(alg)},
			"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post", "none"},
			"scopes_supported":                      []string{"admin", IntrospectScope, "pay:write"},
		})
	}
}
