package node_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"dongne/pay/ledger"
	"dongne/pay/node"

	"github.com/google/go-cmp/cmp"
)

var krw = ledger.Currency{'K', 'R', 'W'}

func config(dir string, shards int) node.Config {
	return node.Config{Name: "test", Store: "file", Dir: dir, Shards: shards, Now: time.Now, Rand: rand.New(rand.NewPCG(1, 2)),
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

func open(t *testing.T, c node.Config) *node.Node {
	t.Helper()
	n, err := node.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func shut(t *testing.T, n *node.Node) {
	t.Helper()
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// client asks one node, under keys that count.
type client struct {
	t    testing.TB
	node *node.Node
	keys int
}

func (c *client) do(q ledger.Request) node.Answer {
	c.t.Helper()
	if q.Key == (ledger.Key{}) {
		c.keys++
		q.Key = ledger.NewKey("bank", fmt.Sprint(c.keys))
	}
	q.By, q.Any = "bank", true
	answer, err := c.node.Do(c.t.Context(), q, 0)
	if err != nil {
		c.t.Fatalf("%+v: %v", q, err)
	}
	return answer
}

func (c *client) open(id string, settings ledger.Settings) {
	c.t.Helper()
	if answer := c.do(ledger.Request{Kind: ledger.OpenAccount, Account: id, Currency: krw, Settings: settings}); answer.Refused != 0 {
		c.t.Fatalf("open %q: %v", id, answer.Refused)
	}
}

func move(from, to string, amount int64) ledger.Request {
	return ledger.Request{Kind: ledger.Move, Currency: krw,
		Legs: []ledger.Leg{{Account: from, Amount: -amount}, {Account: to, Amount: amount}}}
}

func (c *client) balances(accounts ...string) map[string]string {
	c.t.Helper()
	balances := make(map[string]string)
	for _, id := range accounts {
		a, err := c.node.Account(c.t.Context(), id)
		if err != nil {
			c.t.Fatal(err)
		}
		balances[id] = a.Posted.Amount
	}
	return balances
}

// TestBetweenShards moves money among accounts of three shards by all kinds of requests, and looks at every end of it.
func TestBetweenShards(t *testing.T) {
	dir := t.TempDir()
	n := open(t, config(dir, 3))
	c := &client{t: t, node: n}
	accounts := []string{"cash", "a", "b", "c", "d", "e", "f"}
	homes := map[int]bool{}
	for _, id := range accounts {
		c.open(id, ledger.Settings{Asset: id == "cash"})
		homes[ledger.ShardOf(id, 3)] = true
	}
	if len(homes) != 3 {
		t.Fatalf("the accounts are of shards %v, want all three", homes)
	}
	for _, id := range accounts[1:] {
		if answer := c.do(move("cash", id, 1000)); answer.Refused != 0 || answer.Transfer.Status != "posted" {
			t.Fatalf("%+v", answer)
		}
	}
	split := ledger.Request{Kind: ledger.Move, Currency: krw, Legs: []ledger.Leg{{Account: "a", Amount: -100}, {Account: "b", Amount: -50},
		{Account: "c", Amount: 90}, {Account: "d", Amount: 60}}}
	if answer := c.do(split); answer.Refused != 0 {
		t.Fatalf("split: %+v", answer)
	}
	for _, payer := range accounts[1:] { // wherever the payer is, too much is refused, and stays refused
		q := move(payer, "f", 5000)
		if payer == "f" {
			q = move("f", "a", 5000)
		}
		q.Key = ledger.NewKey("bank", "too much of "+payer)
		first, again := c.do(q), c.do(q)
		if first.Refused != ledger.InsufficientFunds || !strings.Contains(first.Detail, payer) {
			t.Errorf("%s pays too much: %+v", payer, first)
		}
		if first.Replayed = true; cmp.Diff(first, again) != "" {
			t.Errorf("replay differs: %+v, %+v", first, again)
		}
	}
	for _, payee := range accounts[2:] {
		hold := move("a", payee, 30)
		hold.Kind = ledger.Hold
		id, _ := ledger.ParseTransfer(c.do(hold).Transfer.ID)
		if answer := c.do(ledger.Request{Kind: ledger.Capture, Transfer: id, Amount: 20, Legs: []ledger.Leg{{Account: payee, Amount: 15}, {Account: "nobody", Amount: 5}}}); answer.Refused != ledger.AccountUnknown {
			t.Errorf("capture for nobody: %+v", answer)
		}
		if answer := c.do(ledger.Request{Kind: ledger.Capture, Transfer: id, Amount: 20, Final: true}); answer.Refused != 0 {
			t.Errorf("capture: %+v", answer)
		}
		if answer := c.do(ledger.Request{Kind: ledger.Refund, Transfer: id, Amount: 5}); answer.Refused != 0 {
			t.Errorf("refund: %+v", answer)
		}
		got, err := n.Transfer(t.Context(), "tr_"+id.String())
		if err != nil || got.Status != "captured" || got.Captured.Amount != "20" || got.Voided.Amount != "10" || got.Refunded.Amount != "5" || got.Remaining.Amount != "0" {
			t.Errorf("hold of %s: %+v, %v", payee, got, err)
		}
	}
	want := map[string]string{"cash": "6000", "a": "825", "b": "965", "c": "1105", "d": "1075", "e": "1015", "f": "1015"}
	if diff := cmp.Diff(want, c.balances(accounts...)); diff != "" {
		t.Errorf("balances (-want +got)\n%s", diff)
	}
	shut(t, n)
	var report bytes.Buffer
	if err := node.Verify(t.Context(), config(dir, 3), &report); err != nil {
		t.Fatalf("Verify: %v\n%s", err, &report)
	}
	if !strings.HasSuffix(report.String(), "valid\n") {
		t.Errorf("Verify says\n%s", &report)
	}
}

// TestSameKeyAtOnce: of many requests under one key at once, one has the effect, and all that are answered hear the same.
func TestSameKeyAtOnce(t *testing.T) {
	for _, shards := range []int{1, 4} {
		n := open(t, config(t.TempDir(), shards))
		c := &client{t: t, node: n}
		c.open("cash", ledger.Settings{Asset: true})
		c.open("a", ledger.Settings{})
		q := move("cash", "a", 10)
		q.Key, q.By, q.Any = ledger.NewKey("bank", "once"), "bank", true
		ids := make([]string, 32)
		var group sync.WaitGroup
		for i := range ids {
			group.Go(func() {
				answer, err := n.Do(t.Context(), q, 10*time.Second)
				if err != nil || answer.Refused != 0 {
					t.Errorf("%+v, %v", answer, err)
					return
				}
				ids[i] = answer.Transfer.ID
			})
		}
		group.Wait()
		for _, id := range ids {
			if id != ids[0] {
				t.Errorf("transfers %s and %s under one key", id, ids[0])
			}
		}
		other := move("cash", "a", 11)
		other.Key = q.Key
		if answer := c.do(other); answer.Refused != ledger.KeyReused {
			t.Errorf("another request under the key: %+v", answer)
		}
		other = move("a", "cash", 10)
		other.Key = q.Key
		if answer := c.do(other); answer.Refused != ledger.KeyReused {
			t.Errorf("the way back under the key: %+v", answer)
		}
		if got := c.balances("a"); got["a"] != "10" {
			t.Errorf("a has %s, want 10", got["a"])
		}
		shut(t, n)
	}
}
