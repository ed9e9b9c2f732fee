package services

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dongne/maelstrom/services/books"
)

const showMax = 30 * time.Second // until a bug has shown often enough

// against runs the clients against a fake, whose three nodes are one.
func against(t *testing.T, bug string) (*payments, error) {
	fake := newFakePay(bug)
	names := []string{"n1", "n2", "n3"}
	urls := map[string]string{}
	for i, name := range names {
		server := httptest.NewServer(fake.node(i))
		t.Cleanup(server.Close)
		urls[name] = server.URL
	}
	r := &run{Options: Options{Concurrency: 6, Readers: 3, Rate: 1200, Seed: 7, Patience: 200 * time.Millisecond, Recovery: 2 * time.Second}, record: newRecorder()}
	p := &payments{run: r, names: names, market: newMarket(), watching: func() {}}
	p.client = func(user string) *client {
		return &client{user: user, nodes: names, url: urls, http: &http.Client{Transport: &http.Transport{}}}
	}
	defer p.stop()
	p.expiryOneIn = 0 // nothing ends by its time here
	if err := p.setUp(t.Context()); err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(t.Context(), showMax)
	defer cancel()
	fake.mu.Lock()
	fake.losing, fake.enough = true, cancel
	fake.mu.Unlock()
	p.work(limited)
	p.settle(t.Context())
	p.observe(t.Context())
	return p, nil
}

// TestPayments: a pay that only loses requests and answers is found right, and each bug is found.
func TestPayments(t *testing.T) {
	var running sync.WaitGroup
	outcomes := make(chan payOutcome, 20)
	for bug, want := range map[string]string{
		"":                           "",
		"done twice":                 "done twice",
		"says not_applied":           "a node said that it was not",
		"another replay":             "and then 201",
		"half a chain":               "one of them alone was done",
		"held is available":          "less than nothing",
		"debit without credit":       "the events make it",
		"refused and done":           "",
		"acknowledged and lost":      "was acknowledged and is lost",
		"a gap in the statement":     "of the statement of",
		"captured twice":             "of which 0 remained",
		"a hold that stays":          "held",
		"refunded twice":             "that were paid",
		"events that one node skips": "stands at the end",
		"a stale node":               " at version ", // told again, or told at no moment when it was so
	} {
		running.Go(func() {
			p, err := against(t, bug)
			outcomes <- payOutcome{bug, want, p, err}
		})
	}
	running.Wait()
	close(outcomes)
	for o := range outcomes {
		t.Run(o.bug, func(t *testing.T) { o.judge(t) })
	}
}

// A payOutcome is what came of a run against a fake.
type payOutcome struct {
	bug, want string
	load      *payments
	err       error
}

func (o *payOutcome) judge(t *testing.T) {
	if o.err != nil {
		t.Fatal(o.err)
	}
	j := o.load.judge(0)
	for _, r := range o.load.history.Requests {
		if r.Decision() == books.Open {
			t.Errorf("%s is open", r)
		}
	}
	if o.bug == "" && j.acknowledged < 100 {
		t.Errorf("%d requests were acknowledged", j.acknowledged)
	}
	switch found := slices.ContainsFunc(j.wrong, func(w string) bool { return strings.Contains(w, o.want) }); {
	case o.bug == "" && len(j.wrong) > 0:
		t.Errorf("complains of\n%s", strings.Join(j.wrong, "\n"))
	case o.bug != "" && !found:
		t.Errorf("says nothing of %q, but\n%s", o.want, strings.Join(j.wrong, "\n"))
	}
}

// TestNoneLeft: nothing is on its way when every shard says so, and no other metric counts.
func TestNoneLeft(t *testing.T) {
	none := `# HELP pay_settling transfers on their way between shards
# TYPE pay_settling gauge
pay_settling{shard="0"} 0
pay_settling{shard="1"} 0
pay_unfinished{shard="0"} 0
pay_unfinished{shard="1"} 0
pay_slots_total{shard="0"} 17
`
	for _, c := range []struct {
		name, metrics string
		shards        int
		want          bool
	}{
		{"nothing", none, 2, true},
		{"settling", strings.Replace(none, `pay_settling{shard="1"} 0`, `pay_settling{shard="1"} 1`, 1), 2, false},
		{"unfinished", strings.Replace(none, `pay_unfinished{shard="0"} 0`, `pay_unfinished{shard="0"} 10`, 1), 2, false},
		{"a shard that is silent", none, 3, false},
		{"no such metrics", "", 1, false},
	} {
		if got := noneLeft(c.metrics, c.shards); got != c.want {
			t.Errorf("%s: noneLeft(…, %d) = %v, want %v", c.name, c.shards, got, c.want)
		}
	}
}

// TestSee: of the events clients note those by which a transfer between shards begins.
func TestSee(t *testing.T) {
	m := newMarket()
	if id := m.newest(); id != "" {
		t.Errorf("before any event: newest() = %q", id)
	}
	for _, kind := range []string{"transfer.settling", "portion.prepared", "transfer.posted"} {
		m.see(&books.Event{Type: "dongne.pay." + kind, Subject: "tr_" + kind})
	}
	if id := m.newest(); id != "tr_transfer.settling" {
		t.Errorf("newest() = %q", id)
	}
}
