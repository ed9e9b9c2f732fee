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
	"sync"
	"testing"
	"time"

	"dongne/chat/node"
	"dongne/chat/room"
	"dongne/internal/serve"
	"dongne/internal/serve/servetest"
)

func TestContract(t *testing.T) {
	servetest.Routes(t, openapi, service(nil).Routes)
}

// patience is how long a test waits for what must come: a test that passes never waits that long.
const patience = 20 * time.Second

// cluster is some nodes in this process, each behind an HTTP server of its own, with links that can be cut.
type cluster struct {
	t      *testing.T
	nodes  map[string]*member
	shared func(name string) *node.Shared // nil: each node has a log of its own
	store  func(name string) string       // STORE of a node; nil: file

	mu  sync.Mutex
	cut map[[2]string]bool // from, to
	now func() time.Time
	off map[string]time.Duration // how far a node's clock is off

	auth *servetest.Auth // nil: open development mode
}

type member struct {
	name, dir string
	server    *httptest.Server
	close     func()
}

const secret = "a secret of the test's own"

// A starter brings up nodes of these names; they stop when the test ends.
type starter func(t *testing.T, names ...string) *cluster

// start gives each node a log of its own.
func start(t *testing.T, names ...string) *cluster { return newCluster(t).start(names...) }

func newCluster(t *testing.T) *cluster {
	return &cluster{t: t, nodes: map[string]*member{}, cut: map[[2]string]bool{}, now: time.Now}
}

func (c *cluster) start(names ...string) *cluster {
	t := c.t
	for _, name := range names {
		c.nodes[name] = &member{name: name, dir: t.TempDir(), server: httptest.NewUnstartedServer(nil)}
	}
	for _, name := range names {
		c.open(name)
		t.Cleanup(func() { c.stop(name) })
	}
	return c
}

func (c *cluster) env(m *member) func(string) string {
	var peers []string
	for _, other := range c.nodes {
		if other != m {
			peers = append(peers, other.name+"=http://"+other.server.Listener.Addr().String())
		}
	}
	values := map[string]string{"NODE_ID": m.name, "DATA_DIR": m.dir, "PEERS": strings.Join(peers, ","), "PEER_SECRET": secret, "SENDS_PER_SECOND": "1000"}
	if c.auth != nil {
		values["AUTH_URL"] = c.auth.URL
	}
	if c.store != nil {
		values["STORE"] = c.store(m.name)
	}
	return serve.Env(vars, func(name string) string { return values[name] })
}

func (c *cluster) open(name string) {
	c.t.Helper()
	m := c.nodes[name]
	ctx, cancel := context.WithCancel(context.Background())
	config, err := configure(c.env(m), io.Discard)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.shared != nil {
		config.Shared = c.shared(name)
	}
	config.Rand = rand.New(rand.NewPCG(1, 2))
	config.Now = func() time.Time { return c.now().Add(c.off[name]) }
	config.Logger = slog.New(slog.NewTextHandler(c.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	config.Client = &http.Client{Transport: &cutter{c, name, &http.Transport{}}}
	n, err := node.Open(ctx, config)
	if err != nil {
		c.t.Fatal(err)
	}
	handler, err := serve.New(ctx, c.env(m), io.Discard, service(n))
	if err != nil {
		c.t.Fatal(err)
	}
	m.server.Config.Handler = servetest.Record(c.t, "chat", handler)
	m.server.Start()
	m.close = func() {
		cancel()
		m.server.Close()
		if err := n.Close(); err != nil {
			c.t.Errorf("close %s: %v", name, err)
		}
		m.close = func() {}
	}
}

func (c *cluster) stop(name string) { c.nodes[name].close() }

// cutter refuses the messages of links that are cut.
type cutter struct {
	cluster *cluster
	from    string
	next    http.RoundTripper
}

func (c *cutter) RoundTrip(r *http.Request) (*http.Response, error) {
	c.cluster.mu.Lock()
	cut := c.cluster.cut[[2]string{c.from, r.Header.Get("X-Peer-To")}]
	c.cluster.mu.Unlock()
	if cut {
		return nil, fmt.Errorf("the link from %s is cut", c.from)
	}
	return c.next.RoundTrip(r)
}

// link cuts or heals both directions between two nodes.
func (c *cluster) link(a, b string, up bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut[[2]string{a, b}], c.cut[[2]string{b, a}] = !up, !up
}

// as is a user on a node, who says so himself or by a token.
type as struct {
	t     testing.TB
	url   string
	user  string
	token string
}

func (c *cluster) as(user, name string) as {
	a := as{t: c.t, url: c.nodes[name].server.URL, user: user}
	if c.auth != nil {
		a.token = c.auth.Token(user)
	}
	return a
}

func (a as) identify(r *http.Request) {
	switch {
	case a.token != "":
		r.Header.Set("Authorization", "Bearer "+a.token)
	case a.user != "":
		r.Header.Set("X-User", a.user)
	}
}

type answer struct {
	as     as
	what   string
	status int
	header http.Header
	body   []byte
}

// do sends a request; body is marshalled unless it is a string or nil. headers are pairs.
func (a as) do(method, path string, body any, headers ...string) answer {
	a.t.Helper()
	var content []byte
	switch b := body.(type) {
	case nil:
	case string:
		content = []byte(b)
	default:
		content, _ = json.Marshal(b)
	}
	r, err := http.NewRequest(method, a.url+path, bytes.NewReader(content))
	if err != nil {
		a.t.Fatal(err)
	}
	a.identify(r)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return answer{a, method + " " + path, response.StatusCode, response.Header, text}
}

// want fails the test unless the status is that; a problem must have that code.
func (a answer) want(status int, code string) answer {
	a.as.t.Helper()
	var problem struct{ Code string }
	if code != "" {
		if err := json.Unmarshal(a.body, &problem); err != nil || a.header.Get("Content-Type") != "application/problem+json" {
			a.as.t.Fatalf("%s: %d is no problem+json: %s", a.what, a.status, a.body)
		}
	}
	if a.status != status || problem.Code != code {
		a.as.t.Fatalf("%s as %s: %d %s, want %d %s", a.what, a.as.user, a.status, a.body, status, code)
	}
	return a
}

func decode[T any](a answer) T {
	a.as.t.Helper()
	var v T
	if err := json.Unmarshal(a.body, &v); err != nil {
		a.as.t.Fatalf("%s: %v in %s", a.what, err, a.body)
	}
	return v
}

type pageOf[T any] struct {
	Items []T
	Next  string
}

func (a as) create(kind string, members ...string) room.ID {
	a.t.Helper()
	return decode[roomJSON](a.do("POST", "/rooms", map[string]any{"kind": kind, "members": append([]string{}, members...)}).want(201, "")).ID
}

// The API's objects as a client reads them.
type (
	roomJSON struct {
		ID      room.ID
		Kind    string
		Name    string
		Members []string
		Unread  int
		Read    string
		Last    *messageJSON
	}
	messageJSON struct {
		ID       room.ID
		Room     room.ID
		From     string
		Text     string
		EditedAt string `json:"edited_at"`
		Deleted  bool
	}
)

func (a as) post(id room.ID, text string, headers ...string) messageJSON {
	a.t.Helper()
	return decode[messageJSON](a.do("POST", "/rooms/"+id.String()+"/messages", map[string]any{"text": text}, headers...).want(201, ""))
}

func (a as) history(id room.ID) []messageJSON {
	a.t.Helper()
	return decode[pageOf[messageJSON]](a.do("GET", "/rooms/"+id.String()+"/messages?limit=200", nil).want(200, "")).Items
}

func (a as) texts(id room.ID) string {
	a.t.Helper()
	var texts []string
	for _, m := range a.history(id) {
		if !m.Deleted {
			texts = append(texts, m.Text)
		}
	}
	return strings.Join(texts, " ")
}

// sse is an open stream.
type sse struct {
	t      testing.TB
	events chan event
	close  func()
	id     string // of the last event that next gave
}

type event struct{ name, id, data string }

// stream opens a stream from a position on.
func (a as) stream(from string) *sse {
	a.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, _ := http.NewRequestWithContext(ctx, "GET", a.url+"/stream", nil)
	a.identify(r)
	if from != "" {
		r.Header.Set("Last-Event-ID", from)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	if response.StatusCode != 200 || response.Header.Get("Content-Type") != "text/event-stream" {
		a.t.Fatalf("GET /stream: %s %v", response.Status, response.Header)
	}
	s := &sse{t: a.t, events: make(chan event, 10_000), id: from}
	s.close = func() { cancel(); response.Body.Close() }
	a.t.Cleanup(s.close)
	go readEvents(response.Body, s.events)
	return s
}

// readEvents parses Server-Sent Events as the HTML standard says; an event without data that sets the id comes as "".
func readEvents(body io.Reader, events chan<- event) {
	defer close(events)
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	var e event
	var data []string
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "":
			if e.data = strings.Join(data, "\n"); e.data != "" && e.name == "" {
				e.name = "message"
			}
			if e != (event{}) {
				events <- e
			}
			e, data = event{}, nil
		case field == "id":
			e.id = value
		case field == "event":
			e.name = value
		case field == "data":
			data = append(data, value)
		}
	}
}

// next gives the next event of one of these names, whatever comes before.
func (s *sse) next(names ...string) event {
	s.t.Helper()
	for {
		e, ok := s.any()
		if !ok {
			s.t.Fatalf("the stream ended before %v", names)
		}
		for _, name := range names {
			if e.name == name {
				return e
			}
		}
	}
}

func (s *sse) any() (event, bool) {
	s.t.Helper()
	select {
	case e, ok := <-s.events:
		if e.id != "" {
			s.id = e.id
		}
		return e, ok
	case <-time.After(patience):
		s.t.Fatal("nothing comes on the stream")
		return event{}, false
	}
}

// message waits for a message of that text.
func (s *sse) message(text string) messageJSON {
	s.t.Helper()
	for {
		var m messageJSON
		if err := json.Unmarshal([]byte(s.next("message").data), &m); err != nil {
			s.t.Fatal(err)
		}
		if m.Text == text {
			return m
		}
	}
}

// metric reads a value from /metrics.
func metric(t *testing.T, a as, name string) string {
	t.Helper()
	for line := range strings.Lines(string(a.do("GET", "/metrics", nil).want(200, "").body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("no metric %s", name)
	return ""
}
