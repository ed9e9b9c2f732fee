package node

import (
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"dongne/internal/etcd/etcdtest"
	"dongne/pay/ledger"
)

// TestAnsweredByAnother: a process dies after it decided a transfer between shards. Another one, which has read of the
// decision and not yet of what went before in the other shard, answers the retry only when the payee has the money.
func TestAnsweredByAnother(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.Start(t, 1)
	start := func(seed uint64) *Node {
		n, err := Open(t.Context(), Config{Name: "test", Store: "etcd://" + strings.Join(cluster.Endpoints(), ","), Dir: t.TempDir(),
			Shards: 2, Now: time.Now, Rand: rand.New(rand.NewPCG(seed, 0)), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		return n
	}
	a := start(1)
	krw := ledger.Currency{'K', 'R', 'W'}
	var accounts [2]string
	for _, id := range []string{"p", "q", "r", "s", "t", "u"} {
		accounts[ledger.ShardOf(id, 2)] = id
	}
	for _, id := range accounts {
		open := ledger.Request{Kind: ledger.OpenAccount, Account: id, Currency: krw, By: "x", Any: true,
			Settings: ledger.Settings{Overdraft: true}, Key: ledger.NewKey("x", id)}
		if _, err := a.Do(t.Context(), open, 0); err != nil {
			t.Fatal(err)
		}
	}
	b := start(2)
	for _, n := range []*Node{a, b} { // as between two rounds of their loops
		n.stop()
		n.loops.Wait()
	}
	q := ledger.Request{Kind: ledger.Move, Currency: krw, By: "x", Any: true, Key: ledger.NewKey("x", "pay"),
		Legs: []ledger.Leg{{Account: accounts[0], Amount: -5}, {Account: accounts[1], Amount: 5}}}
	a.allButFinish(t, &q)
	if _, err := b.Account(t.Context(), accounts[0]); err != nil { // so that b reads of the decision
		t.Fatal(err)
	}
	answer, err := b.Do(t.Context(), q, 0)
	if err != nil || answer.Refused != 0 || !answer.Replayed {
		t.Errorf("the retry is answered with %+v, %v", answer, err)
	}
	if payee, err := b.Account(t.Context(), accounts[1]); err != nil || payee.Posted.Amount != "5" {
		t.Errorf("after the answer the payee has %s, %v; want 5", payee.Posted.Amount, err)
	}
}

// allButFinish takes all steps of a transfer between shards but the last.
func (n *Node) allButFinish(t *testing.T, q *ledger.Request) {
	t.Helper()
	home := n.home(q)
	if _, err := n.useKey(t.Context(), home, q); err != nil {
		t.Fatal(err)
	}
	result, err := home.one(t.Context(), *q)
	if err != nil || !result.Settling {
		t.Fatalf("%+v, %v", result, err)
	}
	var crossing ledger.Crossing
	home.read(func(s *ledger.State) { crossing, _ = s.Crossing(result.Record) })
	if prepared, err := n.shards[crossing.Shards[0]].one(t.Context(), crossing.Portions[0]); err != nil || prepared.Refused != 0 {
		t.Fatalf("%+v, %v", prepared, err)
	}
	if _, err := home.one(t.Context(), ledger.Request{Kind: ledger.Decide, Transfer: crossing.Transfer, Commit: true}); err != nil {
		t.Fatal(err)
	}
}
