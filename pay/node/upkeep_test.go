package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dongne/internal/sharedlog/live"
	"dongne/internal/sharedlog/store"
	"dongne/pay/ledger"
	"dongne/pay/node"
)

// began puts requests into the log of a shard and leaves them, as a process does that dies then.
func began(t *testing.T, c node.Config, shard int, requests ...ledger.Request) {
	t.Helper()
	s, err := store.Open(c.Store, c.Dir, "pay")
	if err != nil {
		t.Fatal(err)
	}
	engine, _, err := s.Log(t.Context(), fmt.Sprint("shard-", shard))
	if err != nil {
		t.Fatal(err)
	}
	log, err := live.Open(t.Context(), engine, ledger.Machine{State: ledger.NewState(shard, c.Shards)}, live.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range requests {
		if results, err := log.Propose(t.Context(), ledger.NewCall(q)); err != nil || results[0].Refused != 0 {
			t.Fatalf("%+v: %+v, %v", q, results, err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := engine.Close(); err != nil {
		t.Fatal(err)
	}
}

// until waits for an event of a type, and returns its data.
func until(t *testing.T, n *node.Node, typ string) ledger.Transfer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for cursor := ""; ; {
		events, next, err := n.Events(cursor, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Type == typ {
				var body struct{ Data ledger.Transfer }
				if err := json.Unmarshal(e.Body, &body); err != nil {
					t.Fatal(err)
				}
				return body.Data
			}
		}
		if cursor = next; n.Wait(ctx, cursor) != nil {
			t.Fatalf("no event %s within 20 s", typ)
		}
	}
}

// TestRecovery: whoever began a transfer between shards died; the next process ends it, and its key is answered as if
// nothing had happened.
func TestRecovery(t *testing.T) {
	for _, step := range []string{"began", "prepared", "decided"} {
		t.Run(step, func(t *testing.T) {
			conf := config(t.TempDir(), 2)
			q, id := left(t, conf)
			from, to := q.Legs[0].Account, q.Legs[1].Account
			if step != "began" {
				began(t, conf, ledger.ShardOf(to, 2), ledger.Request{Kind: ledger.Prepare, Transfer: id, Currency: krw, Any: true, By: "bank",
					Legs: []ledger.Leg{{Account: to, Amount: 70}}})
			}
			if step == "decided" {
				began(t, conf, ledger.ShardOf(from, 2), ledger.Request{Kind: ledger.Decide, Transfer: id, Commit: true})
			}
			conf.Now = func() time.Time { return time.Now().Add(time.Minute) }
			n := open(t, conf)
			c := &client{t: t, node: n, keys: 100}
			until(t, n, "dongne.pay.portion.finished")
			if got := c.balances(from, to); got[from] != "70" || got[to] != "70" {
				t.Errorf("balances %v, want 70 both", got)
			}
			if answer := c.do(q); !answer.Replayed || answer.Transfer.ID != "tr_"+id.String() || answer.Transfer.Status != "posted" {
				t.Errorf("the key is answered with %+v", answer)
			}
			shut(t, n)
			if err := node.Verify(t.Context(), conf, &bytes.Buffer{}); err != nil {
				t.Error(err)
			}
		})
	}
}

// left opens two accounts of different shards, and begins a transfer between them that nobody goes on with.
func left(t *testing.T, conf node.Config) (ledger.Request, ledger.ID) {
	t.Helper()
	n := open(t, conf)
	c := &client{t: t, node: n}
	from, to := "cash", "a"
	for i := 0; ledger.ShardOf(from, 2) == ledger.ShardOf(to, 2); i++ {
		to = fmt.Sprint("a", i)
	}
	c.open(from, ledger.Settings{Asset: true})
	c.open(to, ledger.Settings{})
	shut(t, n)
	q := move(from, to, 70)
	q.Key, q.By, q.Any = ledger.NewKey("bank", "left"), "bank", true
	began(t, conf, ledger.ShardOf(from, 2), q)
	return q, openRecord(t, conf)
}

// openRecord returns the id of the first transfer that the logs have between shards.
func openRecord(t *testing.T, c node.Config) ledger.ID {
	t.Helper()
	var journal bytes.Buffer
	if err := node.Export(t.Context(), c, &journal); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(journal.String()) {
		var e struct{ Type, Subject string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if id, ok := ledger.ParseTransfer(e.Subject); ok && e.Type == "dongne.pay.transfer.settling" {
			return id
		}
	}
	t.Fatalf("no transfer is settling in\n%s", &journal)
	return ledger.ID{}
}

// TestCancel: a transfer that is between shards can be voided until the other shard has prepared it.
func TestCancel(t *testing.T) {
	conf := config(t.TempDir(), 2)
	q, id := left(t, conf)
	from, to := q.Legs[0].Account, q.Legs[1].Account
	conf.Now = func() time.Time { return time.Now().Add(-time.Hour) } // nothing is old enough for recovery
	n := open(t, conf)
	c := &client{t: t, node: n, keys: 100}
	for i, key := range []string{"void", "void", "another"} {
		void := ledger.Request{Kind: ledger.Void, Transfer: id, Key: ledger.NewKey("bank", key)}
		if answer := c.do(void); answer.Refused != 0 || answer.Transfer.Status != "failed" || answer.Replayed != (i == 1) {
			t.Errorf("void %d: %+v", i, answer)
		}
	}
	reused := move(from, to, 1)
	reused.Key = ledger.NewKey("bank", "void")
	if answer := c.do(reused); answer.Refused != ledger.KeyReused {
		t.Errorf("another request under the key of the void: %+v", answer)
	}
	if answer := c.do(q); answer.Refused != ledger.Cancelled || !answer.Replayed {
		t.Errorf("the key is answered with %+v, want cancelled", answer)
	}
	if got := c.balances(from, to); got[from] != "0" || got[to] != "0" {
		t.Errorf("balances %v, want none", got)
	}
	shut(t, n)
}

// TestExpiry: holds and claimables end when their time has come, without anybody asking.
func TestExpiry(t *testing.T) {
	n := open(t, config(t.TempDir(), 1))
	c := &client{t: t, node: n}
	c.open("cash", ledger.Settings{Asset: true})
	c.open("a", ledger.Settings{})
	c.do(move("cash", "a", 100))
	soon := time.Now().Add(300 * time.Millisecond).UnixNano()
	c.do(ledger.Request{Kind: ledger.Hold, Currency: krw, Expires: soon, Legs: move("a", "cash", 60).Legs})
	until(t, n, "dongne.pay.transfer.expired")
	kept := c.do(ledger.Request{Kind: ledger.Claimable, Currency: krw, Expires: time.Now().Add(300 * time.Millisecond).UnixNano(),
		Recipient: "bob", Legs: []ledger.Leg{{Account: "a", Amount: -90}}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		end := n.End()
		got, err := n.Transfer(ctx, kept.Transfer.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got.Status == "expired" {
			break
		}
		if err := n.Wait(ctx, end); err != nil {
			t.Fatalf("it is %s for ever: %v", got.Status, err)
		}
	}
	if a, err := n.Account(ctx, "a"); err != nil || a.Posted.Amount != "100" || a.Held.Amount != "0" {
		t.Errorf("a = %+v, %v", a, err)
	}
	shut(t, n)
}

// TestSnapshot: a ledger that starts from its snapshot is the one that its whole log leads to; Verify compares them, and
// says so when they differ.
func TestSnapshot(t *testing.T) {
	conf := config(t.TempDir(), 1)
	n := open(t, conf)
	c := &client{t: t, node: n}
	c.open("cash", ledger.Settings{Asset: true})
	c.open("a", ledger.Settings{})
	var batch []ledger.Request
	for i := range 1000 {
		q := move("cash", "a", int64(i+1))
		q.Key, q.By, q.Any = ledger.NewKey("bank", fmt.Sprint("batch", i)), "bank", true
		batch = append(batch, q)
	}
	answers, errs := n.Batch(t.Context(), batch)
	for i := range batch {
		if errs[i] != nil || answers[i].Refused != 0 {
			t.Fatalf("item %d: %+v, %v", i, answers[i], errs[i])
		}
	}
	shut(t, n)
	snapshots, err := filepath.Glob(filepath.Join(conf.Dir, "shard-0", "*.snapshot"))
	if err != nil || len(snapshots) != 1 {
		t.Fatalf("snapshots %v, %v: want one", snapshots, err)
	}
	n = open(t, conf)
	c = &client{t: t, node: n, keys: 100}
	if got := c.balances("a"); got["a"] != "500500" {
		t.Errorf("a has %s", got["a"])
	}
	again, _ := n.Batch(t.Context(), batch)
	for i := range again {
		if !again[i].Replayed || again[i].Transfer.ID != answers[i].Transfer.ID {
			t.Fatalf("item %d again: %+v", i, again[i])
		}
	}
	c.do(move("cash", "a", 1))
	shut(t, n)
	if err := node.Verify(t.Context(), conf, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	other := config(t.TempDir(), 1) // another ledger, of which this snapshot is not
	n = open(t, other)
	c = &client{t: t, node: n}
	c.open("cash", ledger.Settings{Asset: true})
	c.open("a", ledger.Settings{})
	for range 5 {
		c.do(move("cash", "a", 1))
	}
	shut(t, n)
	data, err := os.ReadFile(snapshots[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other.Dir, "shard-0", filepath.Base(snapshots[0])), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := node.Verify(t.Context(), other, &bytes.Buffer{}); err == nil {
		t.Error("Verify takes another ledger's snapshot")
	}
}

// TestShardsStay: a ledger keeps its number of shards.
func TestShardsStay(t *testing.T) {
	dir := t.TempDir()
	shut(t, open(t, config(dir, 2)))
	if _, err := node.Open(t.Context(), config(dir, 3)); err == nil || !strings.Contains(err.Error(), "SHARDS") {
		t.Errorf("three shards after two: %v", err)
	}
}

// TestNoLedger: there is nothing to verify where nothing is, and nothing is made there.
func TestNoLedger(t *testing.T) {
	conf := config(filepath.Join(t.TempDir(), "elsewhere"), 1)
	if err := node.Verify(t.Context(), conf, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "no ledger") {
		t.Errorf("Verify without a ledger: %v", err)
	}
	if _, err := os.Stat(conf.Dir); err == nil {
		t.Error("Verify made a folder")
	}
}

// TestCursorBeyond: a cursor of another history is refused where no other process can have seen more.
func TestCursorBeyond(t *testing.T) {
	n := open(t, config(t.TempDir(), 2))
	for _, cursor := range []string{"7.0", "0.1", "1", "x.0", "0.0.0"} {
		if _, _, err := n.Events(cursor, 1); !errors.Is(err, node.ErrCursor) {
			t.Errorf("Events(%q): %v", cursor, err)
		}
	}
	shut(t, n)
}
