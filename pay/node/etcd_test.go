package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"dongne/internal/etcd/etcdtest"
	"dongne/internal/sharedlog"
	"dongne/pay/ledger"
	"dongne/pay/node"

	"github.com/google/go-cmp/cmp"
)

// TestSharedEtcd: three processes on one etcd, whose first server is killed on the way. Clients send every request to one
// process after the other, under its key, until it is answered: each has one effect, and all processes tell the same.
func TestSharedEtcd(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.Start(t, 3)
	nodes := make([]*node.Node, 3)
	conf := make([]node.Config, 3)
	for i := range nodes {
		conf[i] = config(t.TempDir(), 2)
		conf[i].Store = "etcd://" + strings.Join(cluster.Endpoints(), ",")
		conf[i].Rand = rand.New(rand.NewPCG(uint64(i), 1))
		nodes[i] = open(t, conf[i])
	}
	c := &client{t: t, node: nodes[0]}
	c.open("cash", ledger.Settings{Asset: true})
	const clients, requests = 6, 30
	want := map[string]int64{}
	for i := range clients {
		c.open(fmt.Sprint("a", i), ledger.Settings{})
		want[fmt.Sprint("a", i)] = 0
	}
	killed := make(chan struct{})
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			for k := range requests {
				if i == 0 && k == requests/3 {
					if err := cluster.Kill(0); err != nil {
						t.Error(err)
					}
					close(killed)
				}
				q := move("cash", fmt.Sprint("a", (i+k)%clients), int64(k+1))
				q.Key, q.By, q.Any = ledger.NewKey("bank", fmt.Sprint(i, ".", k)), "bank", true
				if err := insist(t.Context(), nodes, i+k, q); err != nil {
					t.Errorf("client %d, request %d: %v", i, k, err)
					return
				}
			}
		})
	}
	group.Wait()
	<-killed
	for i := range clients {
		for k := range requests {
			want[fmt.Sprint("a", (i+k)%clients)] += int64(k + 1)
		}
	}
	var states []string
	for i, n := range nodes {
		c.node = n
		for id, sum := range want {
			if got := c.balances(id); got[id] != fmt.Sprint(sum) {
				t.Errorf("process %d: %s has %s, want %d", i, id, got[id], sum)
			}
		}
		shut(t, n)
	}
	for i := range nodes {
		var report bytes.Buffer
		if err := node.Verify(t.Context(), conf[i], &report); err != nil {
			t.Errorf("process %d: %v", i, err)
		}
		states = append(states, report.String())
	}
	if diff := cmp.Diff(states[0], states[2]); diff != "" {
		t.Errorf("processes read different ledgers:\n%s", diff)
	}
}

// insist sends a request to every process in turn until one answers.
func insist(ctx context.Context, nodes []*node.Node, first int, q ledger.Request) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for i := first; ; i++ {
		answer, err := nodes[i%len(nodes)].Do(ctx, q, time.Second)
		switch {
		case err == nil && answer.Refused != 0:
			return fmt.Errorf("refused: %v", answer.Refused)
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return err
		}
	}
}

// TestEtcdGone: without a majority, writes end in bounded time with an unknown outcome, fresh reads with an error, and
// what was unknown is answered when the majority is back.
func TestEtcdGone(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.Start(t, 3)
	conf := config(t.TempDir(), 1)
	conf.Store = "etcd://" + strings.Join(cluster.Endpoints(), ",")
	n := open(t, conf)
	c := &client{t: t, node: n}
	c.open("cash", ledger.Settings{Asset: true})
	c.open("a", ledger.Settings{})
	for _, i := range []int{1, 2} {
		if err := cluster.Pause(i); err != nil {
			t.Fatal(err)
		}
	}
	q := move("cash", "a", 5)
	q.Key, q.By, q.Any = ledger.NewKey("bank", "in doubt"), "bank", true
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := n.Do(ctx, q, 0)
	if ctx.Err() != nil || sharedlog.OutcomeOf(err) != sharedlog.Unknown || err == nil {
		t.Errorf("Do = %v, want an unknown outcome", err)
	}
	if _, err := n.Account(ctx, "a"); err == nil || ctx.Err() != nil {
		t.Errorf("a fresh read = %v, want an error", err)
	}
	if _, _, err := n.Events("", 10); err != nil {
		t.Errorf("events of what is known: %v", err)
	}
	for _, i := range []int{1, 2} {
		if err := cluster.Resume(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := insist(t.Context(), []*node.Node{n}, 0, q); err != nil {
		t.Error(err)
	}
	if got := c.balances("a"); got["a"] != "5" {
		t.Errorf("a has %s, want 5", got["a"])
	}
	shut(t, n)
	var sharedErr *sharedlog.Error
	if _, err := n.Do(t.Context(), move("cash", "a", 1), 0); !errors.As(err, &sharedErr) || sharedErr.Outcome != sharedlog.NotApplied {
		t.Errorf("after Close: %v", err)
	}
}
