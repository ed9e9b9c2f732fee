package etcdlog_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dongne/internal/etcd"
	"dongne/internal/etcd/etcdtest"
	"dongne/internal/sharedlog/enginetest"
	"dongne/internal/sharedlog/live"
)

// BenchmarkAppend measures appends of 256 bytes through a log over one etcd server with its data on the disk of the
// working directory (a temporary one may lie in memory).
//
//	go test -run '^$' -bench Append -benchtime 3s ./internal/sharedlog/etcdlog
func BenchmarkAppend(b *testing.B) {
	dir, err := os.MkdirTemp(".", "bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	c := etcdtest.StartWith(b, etcd.Config{Nodes: 1, Dir: dir})
	runs := 0
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			runs++
			engine := open(b, c.Endpoints(), fmt.Sprint("bench/", runs), 10*time.Second)
			log, err := live.Open(b.Context(), engine, &enginetest.Journal{}, live.Options{})
			if err != nil {
				b.Fatal(err)
			}
			item := string(bytes.Repeat([]byte("x"), 256))
			var wg sync.WaitGroup
			var next atomic.Int64
			b.ResetTimer()
			for range callers {
				wg.Go(func() {
					for next.Add(1) <= int64(b.N) {
						if _, err := log.Propose(context.Background(), item); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			log.Close()
			_, slots, err := enginetest.Replay(b.Context(), engine)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			b.ReportMetric(float64(b.N)/float64(slots), "appends/slot")
		})
	}
}
