package node_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"dongne/pay/ledger"
	"dongne/pay/node"
)

// BenchmarkTransfer is durable transfers by so many callers at once, without HTTP: between accounts at random, and all from
// one account.
func BenchmarkTransfer(b *testing.B) {
	for _, hot := range []bool{false, true} {
		for _, callers := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("hot=%v/callers=%d", hot, callers), func(b *testing.B) { benchTransfer(b, hot, callers) })
		}
	}
}

func benchTransfer(b *testing.B, hot bool, callers int) {
	const accounts = 1000
	n, err := node.Open(b.Context(), config(b.TempDir(), 1))
	if err != nil {
		b.Fatal(err)
	}
	c := &client{t: b, node: n}
	c.open("cash", ledger.Settings{Asset: true})
	for i := range accounts {
		c.open(fmt.Sprint("a", i), ledger.Settings{Overdraft: true})
	}
	var count atomic.Int64
	b.SetParallelism(callers / 2) // of two cores
	if callers == 1 {
		b.SetParallelism(1)
	}
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := count.Add(1)
			q := move("cash", fmt.Sprint("a", i%accounts), 1)
			if !hot {
				q = move(fmt.Sprint("a", (i*7)%accounts), fmt.Sprint("a", (i*7+1)%accounts), 1)
			}
			q.Key, q.By, q.Any = ledger.NewKey("b", fmt.Sprint(i)), "b", true
			if answer, err := n.Do(b.Context(), q, 0); err != nil || answer.Refused != 0 {
				b.Errorf("%+v, %v", answer, err)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "transfers/s")
	if err := n.Close(); err != nil {
		b.Fatal(err)
	}
}
