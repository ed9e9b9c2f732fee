// Auth: central authentication in front of every service: users and their passwords, sessions with rotating refresh tokens,
// access tokens that every service verifies by itself, revocations that reach it at once, and forward authentication for
// proxies that verify nothing.
//
//	PORT           8081       port to listen on
//	DATA_DIR       data/auth  folder of the log and its snapshots
//	STORE          file       file, or etcd://host:port,host:port[/prefix]
//	ISSUER                    the URL by which clients know this service; http://127.0.0.1:PORT if empty
//	TOKEN_ALG      ES256      what signs access tokens: ES256 or EdDSA
//	AUTH_KEY                  a secret of 32 bytes or more that seals private keys in the log; empty: they lie open there
//	PEPPERS                   id:secret,… that passwords are hashed with, the first of them from now on
//	CLIENTS                   id:secret:scope scope,… of services that have tokens of their own
//	SEED                      JSON: [{"login","password","name","email","groups"}], users who are there from the start
//	LEGACY_COOKIE  session    cookie in which the older system keeps its token
//	KEY_CACHE      1m         for which verifiers keep the set of keys; a new key signs after it
//
// and what every service has.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"time"

	"dongne/auth/api"
	"dongne/auth/node"
	"dongne/auth/password"
	"dongne/auth/realm"
	"dongne/internal/serve"
	"dongne/internal/token"
)

//go:embed openapi.yaml
var openapi []byte

//go:embed page.html
var page []byte

const secretBytesMin = 32 // of AUTH_KEY, and of a client's

var vars = append(serve.Common("auth", 8081),
	serve.Var{Name: "STORE", Default: "file", Help: "file, or etcd://host:port,host:port[/prefix]"},
	serve.Var{Name: "ISSUER", Help: "the URL by which clients know this service; empty: http://127.0.0.1:PORT"},
	serve.Var{Name: "TOKEN_ALG", Default: "ES256", Help: "what signs access tokens: ES256 or EdDSA"},
	serve.Var{Name: "AUTH_KEY", Help: "a secret of 32 bytes or more that seals private keys in the log; empty: they lie open there"},
	serve.Var{Name: "PEPPERS", Help: "id:secret,… that passwords are hashed with, the first of them from now on"},
	serve.Var{Name: "CLIENTS", Help: "id:secret:scope scope,… of services that have tokens of their own"},
	serve.Var{Name: "SEED", Help: `users who are there from the start: [{"login","password","name","email","groups"}]`},
	serve.Var{Name: "LEGACY_COOKIE", Default: "session", Help: "cookie in which the older system keeps its token"},
	serve.Var{Name: "KEY_CACHE", Default: "1m", Help: "for which verifiers keep the set of keys; a new key signs after it"},
)

func main() { serve.Main("auth: log-ins, tokens, and who may come in", vars, run) }

func run(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
	if runtime.GOMAXPROCS(0) == 1 {
		runtime.GOMAXPROCS(2) // or nobody is answered while a password is hashed: see password.Workers
	}
	config, err := configure(getenv, stdout)
	if err != nil {
		return err
	}
	n, err := node.Open(ctx, config)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // asked to end while it hashed the passwords of SEED
	}
	if err != nil {
		return err
	}
	return errors.Join(serve.Run(ctx, getenv, stdout, service(n, config, getenv("LEGACY_COOKIE"))), n.Close())
}

func configure(getenv func(string) string, stdout io.Writer) (c node.Config, err error) {
	c = node.Config{Store: getenv("STORE"), Dir: getenv("DATA_DIR"), Alg: token.Alg(getenv("TOKEN_ALG")), Now: time.Now, Rand: rand.Reader,
		Issuer: strings.TrimSuffix(cmp.Or(getenv("ISSUER"), "http://127.0.0.1:"+getenv("PORT")), "/")}
	if u, err := url.Parse(c.Issuer); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return c, fmt.Errorf("ISSUER=%q: want an http or https URL without query and fragment", c.Issuer)
	}
	if c.Alg != token.ES256 && c.Alg != token.EdDSA {
		return c, fmt.Errorf("TOKEN_ALG=%q: want ES256 or EdDSA", c.Alg)
	}
	if secret := getenv("AUTH_KEY"); secret != "" {
		if len(secret) < secretBytesMin {
			return c, fmt.Errorf("AUTH_KEY: it has %d bytes, want %d or more", len(secret), secretBytesMin)
		}
		c.Secret = []byte(secret)
	}
	var err1, err2, err3 error
	c.Clients, err1 = clients(getenv("CLIENTS"))
	c.Hasher, err2 = peppers(getenv("PEPPERS"))
	if text := getenv("SEED"); text != "" {
		if err := serve.Unmarshal([]byte(text), &c.Seeds); err != nil {
			err3 = fmt.Errorf("SEED: %w", err)
		}
	}
	var err4, err5 error
	c.KeyCache, err4 = serve.Duration(getenv, "KEY_CACHE", time.Second, time.Hour)
	c.Logger, err5 = serve.NewLogger(getenv, stdout)
	return c, cmp.Or(err1, err2, err3, err4, err5)
}

// clients reads CLIENTS. The errors do not repeat secrets.
func clients(text string) (all []node.Client, err error) {
	for i, item := range strings.Split(text, ",") {
		if text == "" {
			return nil, nil
		}
		parts := strings.SplitN(item, ":", 3)
		if len(parts) != 3 || realm.ValidUser(parts[0]) != nil || len(parts[1]) < secretBytesMin {
			return nil, fmt.Errorf("CLIENTS: item %d is not id:secret:scope scope, with a secret of %d bytes or more", i+1, secretBytesMin)
		}
		if slices.ContainsFunc(all, func(c node.Client) bool { return c.ID == parts[0] }) {
			return nil, fmt.Errorf("CLIENTS: item %d has the id of another", i+1)
		}
		if err := node.CheckGroups(strings.Fields(parts[2])); err != nil {
			return nil, fmt.Errorf("CLIENTS: item %d: %w", i+1, err)
		}
		all = append(all, node.Client{ID: parts[0], Secret: parts[1], Scope: strings.Fields(parts[2])})
	}
	return all, nil
}

func peppers(text string) (c password.Config, err error) {
	for i, item := range strings.Split(text, ",") {
		if text == "" {
			return c, nil
		}
		id, secret, ok := strings.Cut(item, ":")
		if !ok {
			return c, fmt.Errorf("PEPPERS: item %d is not id:secret", i+1)
		}
		if c.Peppers == nil {
			c.Peppers = map[string][]byte{}
		}
		if c.Peppers[id] != nil {
			return c, fmt.Errorf("PEPPERS: item %d has the id of another", i+1)
		}
		c.Peppers[id], c.Pepper = []byte(secret), cmp.Or(c.Pepper, id)
	}
	return c, nil
}

func service(n *node.Node, config node.Config, legacyCookie string) serve.Service {
	h := api.Handlers{Node: n}
	forward := api.Forward(n, legacyCookie)
	routes := map[string]serve.Handler{
		"GET /{$}":                                    serve.Page(page),
		"POST /signup":                                h.SignUp,
		"POST /login":                                 h.LogIn,
		"POST /logout":                                h.LogOut,
		"POST /password":                              h.ChangePassword,
		"GET /sessions":                               h.Sessions,
		"DELETE /sessions":                            h.EndSessions,
		"DELETE /sessions/{session}":                  h.EndSession,
		"GET /userinfo":                               h.UserInfo,
		"POST /second-factor":                         h.Enrol,
		"POST /second-factor/confirm":                 h.Confirm,
		"DELETE /second-factor":                       h.Unenrol,
		"POST /oauth2/token":                          api.Token(n),
		"POST /oauth2/revoke":                         api.Revoke(n),
		"POST /oauth2/introspect":                     api.Introspect(n),
		"GET /.well-known/jwks.json":                  api.Keys(n, config.KeyCache),
		"GET /.well-known/openid-configuration":       api.Metadata(config.Issuer, config.Alg),
		"GET /.well-known/oauth-authorization-server": api.Metadata(config.Issuer, config.Alg),
		"GET /revocations":                            api.Revocations(n),
		"/authz/ext-authz/{path...}":                  forward,
		"/authz/auth-request":                         forward,
		"/authz/traefik":                              forward,
		"/authz/caddy":                                forward,
		"GET /users/{user}":                           h.Admin(h.User),
		"PUT /users/{user}/disabled":                  h.Admin(h.Disable(true)),
		"DELETE /users/{user}/disabled":               h.Admin(h.Disable(false)),
		"PUT /users/{user}/groups":                    h.Admin(h.SetGroups),
		"POST /keys/rotate":                           h.Admin(h.RotateKey),
		"GET /events":                                 h.Admin(h.Events),
		"POST /migrate":                               h.Admin(h.Migrate),
		"GET /migrate":                                h.Admin(h.Migration),
		"PUT /migrate/routes/{route}":                 h.Admin(h.SetStage),
	}
	for pattern, handler := range routes {
		routes[pattern] = api.Handle(handler)
	}
	return serve.Service{Name: "auth", OpenAPI: openapi, Routes: routes, Verifier: n.Verifier(), Metrics: n.Metrics,
		Quiet: []string{"/authz/ext-authz/{path...}", "/authz/auth-request", "/authz/traefik", "/authz/caddy"}}
}
