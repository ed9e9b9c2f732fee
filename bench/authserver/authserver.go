// Package authserver runs our auth for a benchmark, with users who are there from the start.
package authserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"dongne/bench/load"
	"dongne/bench/proc"
)

const (
	adminLogin  = "admin"
	password    = "a-long-password-of-a-benchmark"
	clientID    = "bench"
	legacyLife  = time.Hour
	legacyTypes = "urn:dongne:params:oauth:token-type:legacy-session"
	exchange    = "urn:ietf:params:oauth:grant-type:token-exchange"
)

// ClientSecret is the secret of the client "bench", which may introspect.
const ClientSecret = "a-secret-of-a-client-of-a-benchmark"

// A Pair is what a log-in gives.
type Pair struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

// Bearer is the header line of a request with the access token.
func (p Pair) Bearer() string { return "Authorization: Bearer " + p.Access + "\r\n" }

// A Server is a running auth.
type Server struct {
	Process *proc.Process
	Addr    string

	users int
	admin Pair
}

// Start runs program with its data in dir, and an administrator and the users "user0", "user1" … in it. env is added to its
// environment.
func Start(ctx context.Context, program, dir string, users int, env ...string) (*Server, error) {
	addrs, ports, err := proc.FreeAddrs(1)
	if err != nil {
		return nil, err
	}
	type seed struct {
		Login    string   `json:"login"`
		Password string   `json:"password"`
		Groups   []string `json:"groups"`
	}
	seeds := []seed{{adminLogin, password, []string{"admin"}}}
	for i := range users {
		seeds = append(seeds, seed{userLogin(i), password, []string{}})
	}
	text, err := json.Marshal(seeds)
	if err != nil {
		return nil, err
	}
	env = append([]string{"HOST=127.0.0.1", "PORT=" + ports[0], "DATA_DIR=" + dir, "AUTH_URL=", "LOGS_URL=", "DEBUG_ADDR=", "LOG_LEVEL=warn", "STORE=file",
		"CLIENTS=" + clientID + ":" + ClientSecret + ":introspect", "SEED=" + string(text)}, env...)
	s := &Server{Addr: addrs[0], users: users}
	if s.Process, err = proc.Start(env, program); err != nil {
		return nil, err
	}
	err = s.Process.Await(ctx, func() error { _, err := load.Get(ctx, "http://"+s.Addr+"/ready"); return err })
	if err == nil {
		s.admin, err = s.logIn(ctx, adminLogin)
	}
	if err != nil {
		s.Process.Stop()
		return nil, err
	}
	return s, nil
}

func userLogin(i int) string { return fmt.Sprintf("user%d", i) }

// LogIn logs user number i in, which takes auth as long as a password's hash.
func (s *Server) LogIn(ctx context.Context, i int) (Pair, error) {
	return s.logIn(ctx, userLogin(i%s.users))
}

// LogInBody is the body of POST /login for user number i.
func (s *Server) LogInBody(i int) []byte {
	body, _ := json.Marshal(map[string]string{"login": userLogin(i % s.users), "password": password})
	return body
}

func (s *Server) logIn(ctx context.Context, login string) (p Pair, err error) {
	body, err := json.Marshal(map[string]string{"login": login, "password": password})
	if err != nil {
		return p, err
	}
	err = s.ask(ctx, "POST", "/login", "Content-Type: application/json\r\n", body, &p)
	return p, err
}

// Sessions returns n new sessions, spread over the users, without hashing n passwords: each for a token of an older system.
func (s *Server) Sessions(ctx context.Context, n int) ([]Pair, error) {
	ids := make([]string, s.users)
	for i := range ids {
		pair, err := s.LogIn(ctx, i)
		if err != nil {
			return nil, err
		}
		var user struct {
			ID string `json:"sub"`
		}
		if err := s.ask(ctx, "GET", "/userinfo", pair.Bearer(), nil, &user); err != nil {
			return nil, err
		}
		ids[i] = user.ID
	}
	var table bytes.Buffer
	stamp, expires := time.Now().UnixNano(), time.Now().Add(legacyLife).UTC().Format(time.RFC3339)
	token := func(i int) string { return fmt.Sprintf("legacy-%d-%d", stamp, i) }
	for i := range n {
		fmt.Fprintf(&table, "{\"token\":%q,\"user\":%q,\"expires_at\":%q}\n", token(i), ids[i%len(ids)], expires)
	}
	if err := s.ask(ctx, "POST", "/migrate", s.admin.Bearer()+"Content-Type: application/x-ndjson\r\n", table.Bytes(), nil); err != nil {
		return nil, err
	}
	pairs := make([]Pair, n)
	for i := range pairs {
		form := "grant_type=" + exchange + "&subject_token_type=" + legacyTypes + "&subject_token=" + token(i)
		if err := s.ask(ctx, "POST", "/oauth2/token", FormType, []byte(form), &pairs[i]); err != nil {
			return nil, err
		}
	}
	return pairs, nil
}

// FormType is the header line of a form.
const FormType = "Content-Type: application/x-www-form-urlencoded\r\n"

// ask sends a request over a connection of its own and reads the answer into to, unless that is nil.
func (s *Server) ask(ctx context.Context, method, path, headers string, body []byte, to any) error {
	conn, err := load.DialHTTP(ctx, s.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	status, answer, err := conn.Do(method, path, headers, body)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("auth: %s %s: status %d: %s", method, path, status, strings.TrimSpace(string(answer)))
	}
	if err != nil || to == nil {
		return err
	}
	return json.Unmarshal(answer, to)
}
