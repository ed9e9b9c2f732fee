package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dongne/internal/serve"
	"dongne/internal/serve/servetest"
	"dongne/pay/node"
)

func TestContract(t *testing.T) {
	servetest.Routes(t, openapi, service(nil).Routes)
}

// patience is how long a test waits for what must come: a test that passes never waits that long.
const patience = 20 * time.Second

// pay is a service in this process, behind an HTTP server of its own, on a real log.
type pay struct {
	t    *testing.T
	env  map[string]string
	now  func() time.Time
	url  string
	stop func()
	keys atomic.Int64 // used so far
}

// start brings up a service, with variables as pairs; it stops when the test ends.
func start(t *testing.T, env ...string) *pay {
	t.Helper()
	p := &pay{t: t, env: map[string]string{"DATA_DIR": t.TempDir(), "WEBHOOKS_PRIVATE": "true"}, now: time.Now}
	for i := 0; i < len(env); i += 2 {
		p.env[env[i]] = env[i+1]
	}
	p.open()
	t.Cleanup(func() { p.stop() })
	return p
}

func (p *pay) lookup(name string) string { return p.env[name] }

// open starts it on the folder that it has.
func (p *pay) open() {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	getenv := serve.Env(vars, p.lookup)
	config, err := configure(getenv, io.Discard)
	if err != nil {
		p.t.Fatal(err)
	}
	config.Rand, config.Now = rand.New(rand.NewPCG(1, 2)), p.now
	config.Logger = slog.New(slog.NewTextHandler(p.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	n, err := node.Open(ctx, config)
	if err != nil {
		p.t.Fatal(err)
	}
	handler, err := serve.New(ctx, getenv, io.Discard, service(n))
	if err != nil {
		p.t.Fatal(err)
	}
	server := httptest.NewServer(servetest.Record(p.t, "pay", handler))
	p.url = server.URL
	p.stop = func() {
		cancel()
		server.Close()
		if err := n.Close(); err != nil {
			p.t.Errorf("close: %v", err)
		}
		p.stop = func() {}
	}
}

// as is a user, who says so himself or by a token.
type as struct {
	pay   *pay
	user  string
	token string
}

func (p *pay) as(user string) as { return as{pay: p, user: user} }

func (a as) identify(r *http.Request) {
	switch {
	case a.token != "":
		r.Header.Set("Authorization", "Bearer "+a.token)
	case a.user != "":
		r.Header.Set("X-User", a.user)
	}
}

type answer struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	body   string
}

// do sends a request; body is marshalled unless it is a string or nil. headers are pairs, and a value of "" means that the
// header is left out. A POST gets a key of its own unless it has one.
func (a as) do(method, path string, body any, headers ...string) answer {
	a.pay.t.Helper()
	var content io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		content = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			a.pay.t.Fatal(err)
		}
		content = bytes.NewReader(text)
	}
	r, err := http.NewRequest(method, a.pay.url+path, content)
	if err != nil {
		a.pay.t.Fatal(err)
	}
	a.identify(r)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if method == http.MethodPost {
		r.Header.Set("Idempotency-Key", fmt.Sprintf("key-%d", a.pay.keys.Add(1)))
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			r.Header.Del(headers[i])
			continue
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		a.pay.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		a.pay.t.Fatal(err)
	}
	return answer{a.pay.t, method + " " + path, response.StatusCode, response.Header, string(text)}
}

type problem struct {
	Code, Detail, Outcome string
	Retryable             bool
	TraceID               string `json:"trace_id"`
}

// want fails the test unless the status is that; a problem must have that code and, of a write, an outcome.
func (a answer) want(status int, code string) answer {
	a.t.Helper()
	var p problem
	if a.status >= 400 {
		if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.header.Get("Content-Type") != "application/problem+json" {
			a.t.Fatalf("%s: %d is no problem+json: %s", a.what, a.status, a.body)
		}
		if writes := !strings.HasPrefix(a.what, "GET"); writes != (p.Outcome != "") {
			a.t.Errorf("%s: outcome %q of %s", a.what, p.Outcome, a.body)
		}
	}
	if a.status != status || p.Code != code {
		a.t.Fatalf("%s: %d %s, want %d %s", a.what, a.status, a.body, status, code)
	}
	return a
}

func (a answer) problem() problem { return decode[problem](a) }

func decode[T any](a answer) T {
	a.t.Helper()
	var v T
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		a.t.Fatalf("%s: %v in %s", a.what, err, a.body)
	}
	return v
}

// The API's objects as a client reads them.
type (
	moneyJSON    struct{ Amount, Currency string }
	transferJSON struct {
		ID, Kind, Status, Parent string
		Amount                   moneyJSON
		Legs                     []struct {
			Account string
			Amount  moneyJSON
		}
		Recipient, Memo, Reference, By        string
		ExpiresAt                             string `json:"expires_at"`
		Captured, Voided, Remaining, Refunded *moneyJSON
	}
	accountJSON struct {
		ID, Currency, Kind, Owner string
		Overdraft, Closed         bool
		Limits                    map[string]string
		Posted, Held, Available   moneyJSON
		Entries, Version          int
	}
	entryJSON struct {
		Entry                                 int
		Transfer, Kind, Amount, Balance, Memo string
	}
	statementJSON struct {
		Account, Currency, Opening, Closing, Next string
		AsOf                                      string `json:"as_of"`
		Items                                     []entryJSON
	}
	eventJSON struct {
		ID, Source, Type, Subject, Sequence string
		Data                                map[string]any
	}
	batchJSON struct {
		Key      string
		Status   int
		Replayed bool
		Transfer *transferJSON
		Problem  *problem
	}
)

type pageOf[T any] struct {
	Items []T
	Next  string
}

// won is an amount as a request has it.
func won(amount any) map[string]any { return map[string]any{"amount": amount, "currency": "KRW"} }

type object = map[string]any

// account opens an account with so much in it.
func (a as) account(id string, amount int) {
	a.pay.t.Helper()
	a.do("POST", "/accounts", object{"id": id, "currency": "KRW"}).want(201, "")
	if amount == 0 {
		return
	}
	if a.do("GET", "/accounts/bank", nil).status == 404 {
		a.do("POST", "/accounts", object{"id": "bank", "currency": "KRW", "kind": "asset", "overdraft": true}).want(201, "")
	}
	a.transfer(object{"from": "bank", "to": id, "amount": won(amount)})
}

func (a as) transfer(body any, headers ...string) transferJSON {
	a.pay.t.Helper()
	return decode[transferJSON](a.do("POST", "/transfers", body, headers...).want(201, ""))
}

// balance is what stands in an account: posted, held, available.
func (a as) balance(id string) string {
	a.pay.t.Helper()
	v := decode[accountJSON](a.do("GET", "/accounts/"+id, nil).want(200, ""))
	return v.Posted.Amount + " " + v.Held.Amount + " " + v.Available.Amount
}

func (a as) wantBalances(want ...string) {
	a.pay.t.Helper()
	for i := 0; i < len(want); i += 2 {
		if got := a.balance(want[i]); got != want[i+1] {
			a.pay.t.Errorf("%s has %s, want %s", want[i], got, want[i+1])
		}
	}
}

// sse is an open stream.
type sse struct {
	t      *testing.T
	lines  chan string
	header http.Header
	close  func()
}

// stream opens the stream of events.
func (a as) stream(query string, headers ...string) *sse {
	a.pay.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, "GET", a.pay.url+"/events"+query, nil)
	if err != nil {
		a.pay.t.Fatal(err)
	}
	a.identify(r)
	r.Header.Set("Accept", "text/event-stream")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		a.pay.t.Fatal(err)
	}
	if response.StatusCode != 200 || response.Header.Get("Content-Type") != "text/event-stream" {
		a.pay.t.Fatalf("GET /events: %s %v", response.Status, response.Header)
	}
	s := &sse{t: a.pay.t, lines: make(chan string, 10_000), header: response.Header}
	s.close = func() { cancel(); response.Body.Close() }
	a.pay.t.Cleanup(s.close)
	go func() {
		defer close(s.lines)
		scanner := bufio.NewScanner(response.Body)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			s.lines <- scanner.Text()
		}
	}()
	return s
}

type event struct{ name, id, data string }

// next gives the next event, or one that only sets the position; false at the stream's end.
func (s *sse) next() (e event, more bool) {
	s.t.Helper()
	for {
		select {
		case line, open := <-s.lines:
			field, value, _ := strings.Cut(line, ": ")
			switch {
			case !open:
				return event{}, false
			case field == "event":
				e.name = value
			case field == "id":
				e.id = value
			case field == "data":
				e.data = value
			case line == "" && e != (event{}):
				return e, true
			}
		case <-time.After(patience):
			s.t.Fatal("nothing comes on the stream")
		}
	}
}

// event waits for an event with data and returns it with its position.
func (s *sse) event() (v eventJSON, id string) {
	s.t.Helper()
	for {
		e, more := s.next()
		if !more {
			s.t.Fatal("the stream ended")
		}
		if e.data == "" {
			continue
		}
		if err := json.Unmarshal([]byte(e.data), &v); err != nil || e.name != "" {
			s.t.Fatalf("event %+v: %v", e, err)
		}
		return v, e.id
	}
}
