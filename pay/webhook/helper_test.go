package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/live"
)

// outbox is a Source in memory. A cursor is how many events lie before it.
type outbox struct {
	mu      sync.Mutex
	events  []Event
	trimmed int           // events that are no longer kept
	broken  bool          // Events fails
	grown   chan struct{} // closed and replaced when something changes
}

func newOutbox() *outbox { return &outbox{grown: make(chan struct{})} }

// add appends events of a type and returns their ids.
func (o *outbox) add(n int, eventType string) (ids []string) {
	o.change(func() {
		for range n {
			id := fmt.Sprintf("e%05d", len(o.events))
			body := fmt.Sprintf(`{"specversion":"1.0","id":%q,"type":%q}`, id, eventType)
			o.events = append(o.events, Event{ID: id, Type: eventType, Time: time.Unix(0, 0), Body: []byte(body)})
			ids = append(ids, id)
		}
	})
	return ids
}

func (o *outbox) change(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
	close(o.grown)
	o.grown = make(chan struct{})
}

func (o *outbox) Events(after string, limit int) ([]Event, string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	at, _ := strconv.Atoi(after)
	switch {
	case o.broken:
		return nil, "", errors.New("outbox broken")
	case at < o.trimmed:
		return nil, "", fmt.Errorf("outbox: %w: %s", ErrGone, after)
	}
	end := min(len(o.events), at+limit)
	return o.events[at:end], strconv.Itoa(end), nil
}

func (o *outbox) End() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strconv.Itoa(len(o.events))
}

func (o *outbox) Wait(ctx context.Context, after string) error {
	o.mu.Lock()
	at, _ := strconv.Atoi(after)
	ready, grown := len(o.events) > at, o.grown
	o.mu.Unlock()
	if ready {
		return nil
	}
	select {
	case <-grown:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// verify is a receiver's check, written from the standard's text and not with the package's code.
func verify(secret string, h http.Header, body []byte) error {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return err
	}
	var content bytes.Buffer
	fmt.Fprintf(&content, "%s.%s.%s", h.Get("webhook-id"), h.Get("webhook-timestamp"), body)
	mac := hmac.New(sha256.New, key)
	mac.Write(content.Bytes())
	want := mac.Sum(nil)
	for signature := range strings.SplitSeq(h.Get("webhook-signature"), " ") {
		version, text, _ := strings.Cut(signature, ",")
		got, err := base64.StdEncoding.DecodeString(text)
		if version == "v1" && err == nil && hmac.Equal(got, want) {
			return nil
		}
	}
	return fmt.Errorf("no signature of %q is that of %q", h.Get("webhook-signature"), content.String())
}

// arrival is one request that a receiver saw.
type arrival struct {
	ID        string
	Timestamp string
	Signature string
	Body      string
	Accepted  bool
	At        time.Time
}

// receiver is an endpoint. answer decides what it says to the event; nil: 204.
type receiver struct {
	answer func(w http.ResponseWriter, r *http.Request, id string)

	mu       sync.Mutex
	arrivals []arrival
	arrived  chan struct{} // closed and replaced at every arrival
}

func newReceiver(answer func(w http.ResponseWriter, r *http.Request, id string)) *receiver {
	return &receiver{answer: answer, arrived: make(chan struct{})}
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	a := arrival{
		ID: q.Header.Get("webhook-id"), Timestamp: q.Header.Get("webhook-timestamp"), Signature: q.Header.Get("webhook-signature"),
		Body: string(body), At: time.Now(),
	}
	recorder := httptest.NewRecorder()
	if r.answer != nil {
		r.answer(recorder, q, a.ID)
	} else {
		recorder.WriteHeader(http.StatusNoContent)
	}
	a.Accepted = recorder.Code/100 == 2
	r.mu.Lock()
	r.arrivals = append(r.arrivals, a)
	close(r.arrived)
	r.arrived = make(chan struct{})
	r.mu.Unlock()
	for name, values := range recorder.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(recorder.Code)
	_, _ = w.Write(recorder.Body.Bytes())
}

func (r *receiver) all() []arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]arrival(nil), r.arrivals...)
}

// until waits until what arrived is enough.
func (r *receiver) until(t *testing.T, enough func([]arrival) bool) []arrival {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for {
		r.mu.Lock()
		arrivals, arrived := append([]arrival(nil), r.arrivals...), r.arrived
		r.mu.Unlock()
		if enough(arrivals) {
			return arrivals
		}
		select {
		case <-arrived:
		case <-deadline.C:
			t.Fatalf("after 20 s only %v arrived", accepted(arrivals))
		}
	}
}

// untilAccepted waits until an event was accepted.
func (r *receiver) untilAccepted(t *testing.T, id string) []arrival {
	t.Helper()
	return r.until(t, func(all []arrival) bool {
		for _, a := range all {
			if a.ID == id && a.Accepted {
				return true
			}
		}
		return false
	})
}

// accepted returns the ids that were accepted, in the order of their first acceptance.
func accepted(arrivals []arrival) (ids []string) {
	seen := map[string]bool{}
	for _, a := range arrivals {
		if a.Accepted && !seen[a.ID] {
			seen[a.ID] = true
			ids = append(ids, a.ID)
		}
	}
	return ids
}

// broken says how arrivals break what the package promises: every one of these events accepted, an event first sent only
// when the one before it was accepted, and nothing else sent.
func broken(want []string, arrivals []arrival) (problems []string) {
	place := map[string]int{}
	for i, id := range want {
		place[id] = i
	}
	done := 0 // events accepted, all before it too
	for _, a := range arrivals {
		i, ok := place[a.ID]
		switch {
		case !ok:
			problems = append(problems, a.ID+" was not asked for")
		case i > done:
			problems = append(problems, fmt.Sprintf("%s was sent before %s was accepted", a.ID, want[done]))
		case i == done && a.Accepted:
			done++
		}
	}
	if done < len(want) {
		problems = append(problems, want[done]+" was never accepted")
	}
	return problems
}

// inProcess carries requests to handlers by host, without a network, so that time can be virtual.
type inProcess map[string]http.Handler

func (p inProcess) RoundTrip(q *http.Request) (*http.Response, error) {
	answered := make(chan *http.Response, 1)
	recorder := httptest.NewRecorder()
	go func() {
		p[q.URL.Host].ServeHTTP(recorder, q)
		answered <- recorder.Result()
	}()
	select {
	case response := <-answered:
		return response, nil
	case <-q.Context().Done():
		return nil, q.Context().Err()
	}
}

// gate holds up what stands in it while it is closed.
type gate struct {
	mu     sync.Mutex
	closed chan struct{} // nil: open
}

func (g *gate) pass(uint64) error {
	g.mu.Lock()
	closed := g.closed
	g.mu.Unlock()
	if closed != nil {
		<-closed
	}
	return nil
}

func (g *gate) close() (open func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	closed := make(chan struct{})
	g.closed = closed
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.closed = nil
		close(closed)
	}
}

// slots returns how many slots a log has.
func slots(t *testing.T, e live.Engine) (n int) {
	t.Helper()
	for {
		_, err := e.Get(t.Context(), uint64(n+1))
		if errors.Is(err, sharedlog.ErrAbsent) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
}

// exclusive is an engine to which nobody else writes.
type exclusive struct{ live.Engine }

func (exclusive) Exclusive() bool { return true }

// random is a reader of secrets that repeats; it is safe for concurrent use.
type random struct {
	mu sync.Mutex
	*rand.ChaCha8
}

func (r *random) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ChaCha8.Read(p)
}

// seeded fills in the randomness of a configuration.
func seeded(c Config, seed uint64) Config {
	c.Rand = rand.New(rand.NewPCG(seed, 1))
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	c.Secret = &random{ChaCha8: rand.NewChaCha8(key)}
	return c
}

func open(t *testing.T, c Config) *Hooks {
	t.Helper()
	h, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// kill ends a process without a last word.
func kill(h *Hooks) {
	h.halt()
	h.log.Close()
}

func create(t *testing.T, h *Hooks, key, url string, types ...string) Endpoint {
	t.Helper()
	e, replayed, err := h.Create(t.Context(), "ann", key, url, types)
	if err != nil || replayed {
		t.Fatalf("Create: replayed %v, %v", replayed, err)
	}
	return e
}

// eventually looks every few milliseconds until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("not within 20 s: " + what)
		}
	}
}
