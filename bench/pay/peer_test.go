package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dongne/bench/load"
)

const (
	fewAccounts  = 6
	smallOpening = 100
)

// memory is an engine in memory, and the model of all others.
type memory struct {
	mu       sync.Mutex
	balances map[string]int64   // guarded by mu
	keys     map[string]payment // guarded by mu
	results  map[string]result  // guarded by mu, by key
	count    int                // guarded by mu: transfers
	spoil    string             // what a mutant does wrong
}

func newMemory(accounts int, opening int64) *memory {
	m := &memory{balances: map[string]int64{}, keys: map[string]payment{}, results: map[string]result{}}
	m.balances[accountName(bank)] = -int64(accounts) * opening
	for i := 1; i <= accounts; i++ {
		m.balances[accountName(i)] = opening
	}
	return m
}

func (m *memory) pay(_ context.Context, p payment) (result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, ok := m.keys[p.key]; ok && m.spoil != "forgets keys" {
		if known != p {
			return result{status: reused}, nil
		}
		r := m.results[p.key]
		r.replayed = m.spoil != "hides replays"
		if m.spoil == "pays again" {
			m.balances[p.from] -= p.amount
			m.balances[p.to] += p.amount
		}
		return r, nil
	}
	r := result{status: posted}
	from, known := m.balances[p.from]
	_, alsoKnown := m.balances[p.to]
	switch {
	case !known || !alsoKnown:
		r.status = unknown
	case from < p.amount && p.from != accountName(bank) && m.spoil != "overdraws":
		r.status = short
	default:
		m.count++
		r.transfer = strconv.Itoa(m.count)
		if m.spoil != "loses" || m.count%100 != 50 {
			m.balances[p.from] -= p.amount
			m.balances[p.to] += p.amount
		}
		if m.spoil == "mints" && m.count == 50 {
			m.balances[p.to] += p.amount
		}
	}
	m.keys[p.key], m.results[p.key] = p, r
	return r, nil
}

func (m *memory) payMany(ctx context.Context, ps []payment) ([]result, error) {
	results := make([]result, len(ps))
	for i, p := range ps {
		results[i], _ = m.pay(ctx, p)
	}
	return results, nil
}

func (m *memory) books(context.Context) (books, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := books{map[string]int64{}, m.count}
	for name, balance := range m.balances {
		kept.Balances[name] = balance
	}
	return kept, nil
}

func (m *memory) settle(context.Context, int) error { return nil }
func (m *memory) close() error                      { return nil }

// memoryServer serves an engine in memory in this process.
func memoryServer(t *testing.T, m *memory) *server {
	srv := httptest.NewServer(peerHandler(m))
	t.Cleanup(srv.Close)
	addr := srv.Listener.Addr().String()
	return &server{
		addr:  addr,
		books: func(ctx context.Context) (books, error) { return peerBooks(ctx, addr) },
		effects: func(ctx context.Context) (effects, error) {
			kept, err := m.books(ctx)
			return effects{transfers: kept.Transfers, balances: fmt.Sprint(kept.Balances)}, err
		},
	}
}

// everySystem runs f beside each system, freshly started with few accounts. A peer that is not installed is a failure where
// CI is set.
func everySystem(t *testing.T, f func(t *testing.T, sys system, s *server)) {
	all, err := findAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, sys := range all {
		t.Run(sys.name, func(t *testing.T) {
			if sys.absent != "" {
				if os.Getenv("CI") != "" {
					t.Fatal(sys.absent)
				}
				t.Skip(sys.absent)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := with(ctx, sys, fewAccounts, smallOpening, func(s *server) error {
				f(t, sys, s)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// answered is an answer to a transfer, without what systems do not share.
type answered struct {
	status   int
	code     string // of a refusal
	replayed bool
}

func (r result) answered() answered {
	w := r.wire()
	return answered{w.Status, w.Code, w.Replayed}
}

// traceID is what even a replay's body has of its own.
var traceID = regexp.MustCompile(`"trace_id":"[0-9a-f]*",`)

// send makes a payment and returns its answer, and the answer's body without its trace id.
func send(conn *load.HTTP, p payment) (answered, []byte, error) {
	body := fmt.Appendf(nil, `{"from":%q,"to":%q,"amount":{"amount":"%d","currency":"%s"}}`, p.from, p.to, p.amount, currency)
	conn.Watch = "Idempotency-Replayed"
	status, text, err := conn.Do("POST", "/transfers?wait=10s", keyHeader(p.key), body)
	if err != nil {
		return answered{}, nil, err
	}
	var problem struct{ Code string }
	if err := json.Unmarshal(text, &problem); err != nil {
		return answered{}, nil, fmt.Errorf("status %d: %q: %w", status, text, err)
	}
	return answered{status, problem.Code, conn.Watched == "true"}, traceID.ReplaceAll(text, nil), nil
}

// draw makes a payment of few accounts that is often refused, or comes again, or comes again with another body.
func (s *story) draw() payment {
	if len(s.earlier) > 0 && s.rng.IntN(4) == 0 {
		p := s.earlier[s.rng.IntN(len(s.earlier))]
		if s.rng.IntN(3) == 0 {
			p.amount++
		}
		return p
	}
	s.n++
	from := 1 + s.rng.IntN(fewAccounts)
	to := 1 + (from+s.rng.IntN(fewAccounts-1))%fewAccounts
	p := payment{fmt.Sprintf("key-%d", s.n), accountName(from), accountName(to), 1 + s.rng.Int64N(smallOpening)}
	switch s.rng.IntN(20) {
	case 0:
		p.from = "nobody"
	case 1:
		p.to = "nobody"
	case 2:
		p.from = accountName(bank)
	}
	return p
}

func seeded(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func TestSystemsAsTheModel(t *testing.T) {
	everySystem(t, func(t *testing.T, sys system, s *server) {
		before, err := s.books(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := load.DialHTTP(t.Context(), s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		rng := seeded(t)
		story := story{rng: rng, model: newMemory(fewAccounts, smallOpening), conn: conn}
		t.Run("one by one", story.oneByOne)
		if sys.batches {
			t.Run("batches", story.batches)
		}
		after, err := s.books(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, want := fmt.Sprint(after.Transfers-before.Transfers, after.Balances), fmt.Sprint(story.model.count, story.model.balances)
		if got != want {
			t.Errorf("the books are %s, the model's %s", got, want)
		}
		t.Run("rush", func(t *testing.T) {
			if err := rush(t.Context(), s, rng.Uint64()); err != nil {
				t.Error(err)
			}
		})
	})
}

// story is what one client does to a system and to the model.
type story struct {
	rng     *rand.Rand
	model   *memory
	conn    *load.HTTP
	earlier []payment // with an answer of their own
	n       int       // payments so far
}

func (s *story) oneByOne(t *testing.T) {
	bodies, seen := map[string][]byte{}, map[answered]int{}
	for range 300 {
		p := s.draw()
		modelled, _ := s.model.pay(t.Context(), p)
		want := modelled.answered()
		got, body, err := send(s.conn, p)
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatalf("payment %d, %+v: answer %+v (%s), want %+v", s.n, p, got, body, want)
		}
		if first := bodies[p.key]; got.replayed && !bytes.Equal(first, body) {
			t.Fatalf("payment %d: the first answer was %s, the replay is %s", s.n, first, body)
		}
		if !got.replayed && got.status != http.StatusUnprocessableEntity {
			bodies[p.key] = body
			s.earlier = append(s.earlier, p)
		}
		seen[got]++
	}
	if len(seen) < 6 {
		t.Errorf("only these answers were seen: %v", seen)
	}
}

func (s *story) batches(t *testing.T) {
	for round := range 60 {
		var items []string
		var want []answered
		keys := map[string]bool{}
		for range 1 + s.rng.IntN(8) {
			p := s.draw()
			if keys[p.key] { // what that means within one batch is each system's own
				continue
			}
			keys[p.key] = true
			modelled, _ := s.model.pay(t.Context(), p)
			want = append(want, modelled.answered())
			if !modelled.replayed && modelled.status != reused {
				s.earlier = append(s.earlier, p)
			}
			items = append(items, fmt.Sprintf(`{"key":%q,"from":%q,"to":%q,"amount":{"amount":"%d","currency":"%s"}}`,
				p.key, p.from, p.to, p.amount, currency))
		}
		status, text, err := s.conn.Do("POST", "/transfers:batch", keyHeader(fmt.Sprintf("batch-%d", round)),
			[]byte(`{"items":[`+strings.Join(items, ",")+`]}`))
		if err != nil || status != http.StatusOK {
			t.Fatalf("batch %d: status %d: %s (%v)", round, status, text, err)
		}
		if diff := cmp.Diff(want, itemAnswers(t, text), cmp.AllowUnexported(answered{})); diff != "" {
			t.Fatalf("batch %d of %s: answers (-want +got)\n%s", round, items, diff)
		}
	}
}

// itemAnswers reads what a batch answered.
func itemAnswers(t *testing.T, text []byte) []answered {
	var body struct {
		Items []struct {
			Status   int
			Replayed bool
			Code     string // as the peers have it
			Problem  struct{ Code string }
		}
	}
	if err := json.Unmarshal(text, &body); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	var got []answered
	for _, item := range body.Items {
		got = append(got, answered{item.Status, item.Code + item.Problem.Code, item.Replayed})
	}
	return got
}

// rush has clients pay from few accounts at the same time, every payment twice, and checks the answers and the books.
func rush(ctx context.Context, s *server, seed uint64) error {
	const clients, each = 16, 60
	before, err := s.books(ctx)
	if err != nil {
		return err
	}
	var (
		mu    sync.Mutex
		first = map[string]answered{} // guarded by mu, by key
		made  = map[string]int{}      // guarded by mu: answers that were no replay
		t     = newTally(fewAccounts)
	)
	err = parallel(ctx, s.addr, clients, func(conn *load.HTTP, client int) error {
		source := newOrders(seed, client/2, fewAccounts, false) // two clients have the same orders
		for range each {
			o := source.next()
			got, body, err := send(conn, payment{o.key, accountName(o.from), accountName(o.to), o.amount})
			if err != nil {
				return err
			}
			if got.status != http.StatusCreated && got.code != "insufficient-funds" {
				return fmt.Errorf("key %s: %+v: %s", o.key, got, body)
			}
			mu.Lock()
			if !got.replayed {
				made[o.key]++
			}
			if got.status == http.StatusCreated && !got.replayed {
				t.add(o)
			}
			got.replayed = false
			other, ok := first[o.key]
			first[o.key] = got
			mu.Unlock()
			if ok && other != got {
				return fmt.Errorf("key %s: both %+v and %+v", o.key, got, other)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for key, n := range made {
		if n != 1 {
			return fmt.Errorf("key %s: %d answers are no replay", key, n)
		}
	}
	if len(first) != clients/2*each || int(t.acked.Load()) == len(first) || t.acked.Load() == 0 {
		return fmt.Errorf("%d payments, %d of them posted: want %d, some refused", len(first), t.acked.Load(), clients/2*each)
	}
	after, err := s.books(ctx)
	if err != nil {
		return err
	}
	return t.check(before, after)
}

func TestRushCatches(t *testing.T) {
	for spoil, want := range map[string]string{
		"":             "",
		"forgets keys": "and {status:",
		"overdraws":    "want 480, some refused",
		"loses":        "its acknowledged transfers make",
		"mints":        "its acknowledged transfers make",
	} {
		t.Run(spoil, func(t *testing.T) {
			m := newMemory(fewAccounts, smallOpening)
			m.spoil = spoil
			err := rush(t.Context(), memoryServer(t, m), 1)
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("rush: error %v, want %q", err, want)
			}
		})
	}
}

func TestTallyCatches(t *testing.T) {
	before := books{map[string]int64{"bank": -200, "a1": 100, "a2": 100}, 2}
	tallied := newTally(2)
	tallied.add(order{"k", 1, 2, 30})
	for want, after := range map[string]books{
		"":                                   {map[string]int64{"bank": -200, "a1": 70, "a2": 130}, 3},
		"the books have 2":                   {map[string]int64{"bank": -200, "a1": 70, "a2": 130}, 4},
		"its acknowledged transfers make 70": {map[string]int64{"bank": -200, "a1": 60, "a2": 140}, 3},
		"make -200":                          {map[string]int64{"bank": -199, "a1": 70, "a2": 130}, 3},
		"the books have 4 accounts":          {map[string]int64{"bank": -200, "a1": 70, "a2": 130, "a3": 0}, 3},
	} {
		err := tallied.check(before, after)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("check(%v): error %v, want %q", after, err, want)
		}
	}
	uneven := books{map[string]int64{"bank": -199, "a1": 100, "a2": 100}, 2}
	if err := newTally(2).check(uneven, uneven); err == nil || !strings.Contains(err.Error(), "the sum of all balances is 1") {
		t.Errorf("check of uneven books: error %v", err)
	}
	below := books{map[string]int64{"bank": -199, "a1": 200, "a2": -1}, 2}
	if err := newTally(2).check(below, below); err == nil || !strings.Contains(err.Error(), "the balance of a2 is -1") {
		t.Errorf("check of a balance below zero: error %v", err)
	}
}

func TestOrdersAreDrawnAsSaid(t *testing.T) {
	keys, hotFrom, hotTo, pairs := map[string]bool{}, 0, 0, map[[2]int]int{}
	for client := range 2 {
		hot, even := newOrders(7, client, 5, true), newOrders(8, client, 5, false)
		for range 1000 {
			for _, o := range []order{hot.next(), even.next()} {
				if o.from == o.to || min(o.from, o.to) < 1 || max(o.from, o.to) > 5 || o.amount < 1 || o.amount > amounts || keys[o.key] {
					t.Fatalf("order %+v", o)
				}
				keys[o.key] = true
				pairs[[2]int{o.from, o.to}]++
			}
		}
	}
	hot := newOrders(9, 0, 5, true)
	for range 1000 {
		switch o := hot.next(); hotOne {
		case o.from:
			hotFrom++
		case o.to:
			hotTo++
		}
	}
	if hotFrom < 400 || hotTo < 400 || hotFrom+hotTo != 1000 {
		t.Errorf("the hot account paid %d times and was paid %d times of 1000", hotFrom, hotTo)
	}
	if len(pairs) != 20 {
		t.Errorf("%d pairs of accounts were drawn, want all 20", len(pairs))
	}
}
