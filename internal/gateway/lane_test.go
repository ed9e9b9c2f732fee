package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dongne/internal/gateway/breaker"
)

// Each rate counts its own: addresses (64 bits of IPv6), callers, and the route as a whole.
func TestRates(t *testing.T) {
	reached := atomic.Int64{}
	target := service(t, func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		w.Header().Set("Ratelimit", "a service's own")
	})
	one := func(by string) string { return `{"rates":[{"by":"` + by + `","requests":60,"window":"1h","burst":2}]` }
	g := open(t, setup{targets: map[string]*url.URL{"address": target, "subject": target, "route": target}, env: map[string]string{"TRUSTED_PROXIES": "127.0.0.1"},
		routes: `{"routes":{"address":` + one("address") + `},"subject":` + one("subject") + `},"route":` + one("route") + `}}}`})
	minji, junho := g.auth.bearer("minji"), g.auth.bearer("junho")
	for _, c := range []struct{ route, header, same, other string }{
		{"address", "X-Forwarded-For: 9.9.9.9", "X-Forwarded-For: 9.9.9.9", "X-Forwarded-For: 9.9.9.8"},
		{"address", "X-Forwarded-For: 2001:db8::1", "X-Forwarded-For: 2001:db8::ffff:1", "X-Forwarded-For: 2001:db8:0:1::1"},
		{"subject", minji, minji, junho},
		{"subject", g.auth.bearer("sora"), g.auth.bearer("sora"), "No: token"}, // who is nobody is not counted here
		{"route", minji, "X-Forwarded-For: 9.9.9.1", ""},
	} {
		u := g.url + "/" + c.route + "/"
		for i := range 2 {
			answer, body := get(t, u, c.header)
			if answer.StatusCode != http.StatusOK || answer.Header.Get("Ratelimit") != `"`+c.route+`.`+c.route+`";r=`+strconv.Itoa(1-i)+`;t=60` ||
				answer.Header.Get("Ratelimit-Policy") != `"`+c.route+`.`+c.route+`";q=60;w=3600;dongne-burst=2` {
				t.Errorf("%s %d: %d %v %s", c.header, i, answer.StatusCode, answer.Header, body)
			}
		}
		before := reached.Load()
		answer, body := call(t, "POST", u, "{}", c.same)
		outcome := wantProblem(t, answer, body, http.StatusTooManyRequests, "rate-limited")
		wait, err := strconv.Atoi(answer.Header.Get("Retry-After"))
		if outcome != "not_applied" || err != nil || wait < 50 || wait > 60 || reached.Load() != before {
			t.Errorf("%s: outcome %q, Retry-After %d, %v; the service was reached %d times more", c.header, outcome, wait, err, reached.Load()-before)
		}
		if c.other != "" {
			if answer, body := get(t, u, c.other); answer.StatusCode != http.StatusOK {
				t.Errorf("%s, beside %s: %d %s", c.other, c.header, answer.StatusCode, body)
			}
		}
	}
	// Bad tokens count by the address.
	for i, want := range []int{401, 401, 429} {
		if answer, body := get(t, g.url+"/address/", "Authorization: Bearer nonsense", "X-Forwarded-For: 8.8.8.8"); answer.StatusCode != want {
			t.Errorf("bad token %d: %d %s, want %d", i, answer.StatusCode, body, want)
		}
	}
	if n := g.front.Lane("address").stats.limited.Load(); n != 3 {
		t.Errorf("%d were counted as limited, want 3", n)
	}
}

// steps is a service that does one thing after the other: a status, or 0 to hang up after it has read the request.
type steps struct {
	url    *url.URL
	mu     sync.Mutex
	do     []int
	bodies []string // that came
}

func newSteps(t *testing.T) *steps {
	s := &steps{}
	s.url = service(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.bodies = append(s.bodies, string(body))
		status := http.StatusOK
		if len(s.do) > 0 {
			status, s.do = s.do[0], s.do[1:]
		}
		s.mu.Unlock()
		if status == 0 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(status)
		io.WriteString(w, "answer "+strconv.Itoa(status))
	})
	return s
}

func (s *steps) next(do ...int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.do, s.bodies = do, nil
}

func (s *steps) came() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.bodies...)
}

// Only what may be done twice is sent twice, with the same body; the last answer is the client's.
func TestRetries(t *testing.T) {
	s := newSteps(t)
	g := open(t, setup{targets: map[string]*url.URL{"chat": s.url, "once": s.url}, routes: `{"routes":{
		"chat":{"retries":{"attempts":3,"body_bytes_max":10}},"once":{"retries":{"attempts":1}}}}`})
	key := "Idempotency-Key: k"
	for _, c := range []struct {
		name, method, path, body string
		header                   string
		do                       []int
		sent, status             int
		want                     string // of the answer; an outcome where it is a problem
	}{
		{"GET over a 503", "GET", "/chat/", "", "", []int{503}, 2, 200, "answer 200"},
		{"GET over a broken connection", "GET", "/chat/", "", "", []int{0}, 2, 200, "answer 200"},
		{"GET to the end", "GET", "/chat/", "", "", []int{503, 502, 503}, 3, 503, "answer 503"},
		{"GET of another error", "GET", "/chat/", "", "", []int{500}, 1, 500, "answer 500"},
		{"GET that took too long there", "GET", "/chat/", "", "", []int{504}, 1, 504, "answer 504"},
		{"PUT", "PUT", "/chat/", "body", "", []int{503}, 2, 200, "answer 200"},
		{"DELETE", "DELETE", "/chat/", "", "", []int{0}, 2, 200, "answer 200"},
		{"POST with a key", "POST", "/chat/", "body", key, []int{0, 503}, 3, 200, "answer 200"},
		{"POST", "POST", "/chat/", "body", "", []int{503}, 1, 503, "answer 503"},
		{"POST that broke", "POST", "/chat/", "body", "", []int{0}, 1, 502, "unknown"},
		{"PATCH", "PATCH", "/chat/", "body", "", []int{503}, 1, 503, "answer 503"},
		{"a body too long to be kept", "PUT", "/chat/", "eleven bytes", "", []int{503}, 1, 503, "answer 503"},
		{"one attempt", "GET", "/once/", "", "", []int{503}, 1, 503, "answer 503"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.next(c.do...)
			answer, body := call(t, c.method, g.url+c.path, c.body, c.header)
			if answer.StatusCode != c.status || !strings.Contains(body, c.want) {
				t.Errorf("%d %s, want %d %s", answer.StatusCode, body, c.status, c.want)
			}
			came := s.came()
			if len(came) != c.sent {
				t.Errorf("it was sent %d times, want %d", len(came), c.sent)
			}
			for _, got := range came {
				if got != c.body {
					t.Errorf("a body of %q came, want %q", got, c.body)
				}
			}
			s.next()
			get(t, g.url+c.path) // the breaker shall not have its say here
		})
	}
}

// Retries are a part of the requests and no more, so that a service that falls is not pushed.
func TestRetryBudget(t *testing.T) {
	s := newSteps(t)
	g := open(t, setup{targets: map[string]*url.URL{"chat": s.url}, routes: `{"defaults":{"rates":[]}}`})
	const requests = 400
	var failing []int
	for range requests {
		failing = append(failing, 503, 200, 200) // never so many in a row, or of so many, that the breaker trips
	}
	s.next(failing...)
	for range requests {
		get(t, g.url+"/chat/")
	}
	retried := g.front.Lane("chat").stats.retried.Load()
	most := uint64(requests*retryPercent/100 + retryFloor*int(retryWindow/time.Second))
	if retried < most/2 || retried > most {
		t.Errorf("%d of %d were sent again, want %d to %d", retried, requests, most/2, most)
	}
	if refused := g.front.budget.State(time.Now()).Refused; refused == 0 {
		t.Error("the budget refused nothing")
	}
}

// A client that goes away is no failure of the service, and nothing is sent again for it.
func TestRetryCancelled(t *testing.T) {
	arrived := make(chan bool, 100)
	target := service(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- true
		<-r.Context().Done()
	})
	g := open(t, setup{targets: map[string]*url.URL{"chat": target}})
	for range 8 { // more than trips a breaker
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-arrived; cancel() }()
		r, err := http.NewRequestWithContext(ctx, "GET", g.url+"/chat/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := http.DefaultTransport.RoundTrip(r); !errors.Is(err, context.Canceled) {
			t.Fatalf("the client's error is %v", err)
		}
	}
	lane := g.front.Lane("chat")
	soon(t, "all have left", func() bool { return g.backends["chat"].short.Load() == 0 })
	if state := lane.breaker(target).State(time.Now()); state.InARow != 0 || state.Trips != 0 || lane.stats.retried.Load() != 0 {
		t.Errorf("the breaker counts %+v, %d were sent again", state, lane.stats.retried.Load())
	}
}

// A client that does not send its body to the end is no failure of the service either, and waits for nothing.
func TestBodyBroken(t *testing.T) {
	target := service(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	g := open(t, setup{targets: map[string]*url.URL{"chat": target}, routes: `{"defaults":{"retries":{"attempts":2,"body_bytes_max":0},"body_bytes_max":10,"rates":[]}}`})
	for range 8 {
		r, err := http.NewRequestWithContext(t.Context(), "POST", g.url+"/chat/", io.MultiReader(strings.NewReader("longer than it may be")))
		if err != nil {
			t.Fatal(err)
		}
		answer, body := fetch(t, r)
		wantProblem(t, answer, body, http.StatusRequestEntityTooLarge, "body-too-large")
	}
	for range 8 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "POST /chat/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf")
		conn.Close()
	}
	soon(t, "all have left", func() bool { return g.backends["chat"].short.Load() == 0 })
	if state := g.front.Lane("chat").breaker(target).State(time.Now()); state.InARow != 0 || state.Trips != 0 {
		t.Errorf("the breaker counts %+v", state)
	}
	if answer, body := call(t, "POST", g.url+"/chat/", "short"); answer.StatusCode != http.StatusOK {
		t.Errorf("afterwards: %d %s", answer.StatusCode, body)
	}
}

// A service that fails again and again is left alone, asked by one request, and taken back.
func TestBreaker(t *testing.T) {
	var failing atomic.Bool
	var inside, most, reached atomic.Int64
	release := make(chan struct{}, 100)
	target := service(t, func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		n := inside.Add(1)
		defer inside.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		if r.URL.Path == "/slow" {
			<-release
		}
		if failing.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	g := open(t, setup{targets: map[string]*url.URL{"chat": target, "pay": text(t, "pay")}, routes: `{"defaults":{"retries":{"attempts":1},"rates":[]}}`})
	failing.Store(true)
	for i := range 5 {
		if answer, body := get(t, g.url+"/chat/"); answer.StatusCode != http.StatusServiceUnavailable || body != "" {
			t.Fatalf("failure %d: %d %s", i, answer.StatusCode, body)
		}
	}
	before := reached.Load()
	answer, body := call(t, "POST", g.url+"/chat/", "{}")
	if outcome := wantProblem(t, answer, body, http.StatusServiceUnavailable, "circuit-open"); outcome != "not_applied" || answer.Header.Get("Retry-After") != "1" {
		t.Errorf("outcome %q, Retry-After %q", outcome, answer.Header.Get("Retry-After"))
	}
	if reached.Load() != before {
		t.Error("an open breaker let something pass")
	}
	if answer, body := get(t, g.url+"/pay/"); body != "pay" {
		t.Errorf("another route: %d %s", answer.StatusCode, body)
	}
	// The probe that holds keeps everybody else out; its success lets all in.
	failing.Store(false)
	most.Store(0)
	probe := make(chan int, 1)
	soon(t, "a probe is let in", func() bool {
		if len(probe) == 0 && inside.Load() == 0 {
			go func() {
				answer, err := http.Get(g.url + "/chat/slow")
				if err == nil {
					answer.Body.Close()
					if answer.StatusCode == http.StatusOK {
						probe <- answer.StatusCode
					}
				}
			}()
		}
		return inside.Load() == 1
	})
	for range 10 {
		answer, body := get(t, g.url+"/chat/")
		wantProblem(t, answer, body, http.StatusServiceUnavailable, "circuit-open")
	}
	if most.Load() != 1 {
		t.Errorf("%d were inside at once while it was half open", most.Load())
	}
	for range cap(release) {
		release <- struct{}{}
	}
	<-probe
	if answer, body := get(t, g.url+"/chat/"); answer.StatusCode != http.StatusOK {
		t.Errorf("after the probe: %d %s", answer.StatusCode, body)
	}
	if n := g.front.Lane("chat").stats.broken.Load(); n < 11 {
		t.Errorf("%d were counted as refused by the breaker", n)
	}
}

// Of many upstreams the breakers that say something are kept.
func TestBreakersForgotten(t *testing.T) {
	g := open(t, setup{targets: map[string]*url.URL{"chat": text(t, "")}})
	lane := g.front.Lane("chat")
	at := func(i int) *url.URL { return &url.URL{Scheme: "http", Host: "127.0.0.1:" + strconv.Itoa(10_000+i)} }
	tripped := lane.breaker(at(0))
	for range 5 {
		pass, _, _ := tripped.Allow(time.Now())
		tripped.Done(pass, breaker.Failure, time.Now())
	}
	for i := range 100 {
		lane.breaker(at(1 + i))
	}
	if len(lane.breakers) != upstreamsPerRoute || lane.breaker(at(0)) != tripped {
		t.Errorf("%d breakers, the open one is kept: %v", len(lane.breakers), lane.breaker(at(0)) == tripped)
	}
}

// A route whose upstream never listens says that nothing was done; one of its own is redirected under its prefix.
func TestNotSent(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	g := open(t, setup{routes: `{"routes":{"gone":{"upstream":"` + closed.URL + `"}}}`})
	answer, body := call(t, "POST", g.url+"/gone/", "{}")
	if outcome := wantProblem(t, answer, body, http.StatusBadGateway, "service-down"); outcome != "not_applied" {
		t.Errorf("outcome %q", outcome)
	}
}

// Tokens that cannot be checked are not taken for bad ones.
func TestAuthAway(t *testing.T) {
	auth := newFakeAuth(t)
	away := service(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	good := auth.bearer("minji")
	auth.url = away
	g := open(t, setup{auth: auth, targets: map[string]*url.URL{"chat": text(t, "hello")}})
	answer, body := get(t, g.url+"/chat/", good)
	wantProblem(t, answer, body, http.StatusServiceUnavailable, "auth-away")
	if answer, body := get(t, g.url+"/chat/"); body != "hello" {
		t.Errorf("nobody: %d %s", answer.StatusCode, body)
	}
	answer, body = get(t, g.url+"/ready")
	wantProblem(t, answer, body, http.StatusServiceUnavailable, "starting")
	if strings.Contains(body, away.Host) {
		t.Errorf("/ready tells an address: %s", body)
	}
	var listed struct{ Items []RouteStatus }
	_, body = get(t, g.url+"/status")
	if err := json.Unmarshal([]byte(body), &listed); err != nil || len(listed.Items) != 2 || listed.Items[0].Up || !listed.Items[1].Up {
		t.Errorf("/status: %s, %v", body, err)
	}
}
