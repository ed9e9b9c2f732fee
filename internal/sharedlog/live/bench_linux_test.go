package live_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/filelog"
	"dongne/internal/sharedlog/live"
)

const commandBytes = 256

// counter is the cheapest machine: it counts.
type counter struct {
	command  []byte
	prepared []sharedlog.Prepared[int]
	results  []int
	n        int
}

func (m *counter) Prepare(_ sharedlog.Position, requests []struct{}) []sharedlog.Prepared[int] {
	m.prepared = m.prepared[:0]
	commands := [][]byte{m.command}
	for range requests {
		m.prepared = append(m.prepared, sharedlog.Prepared[int]{Commands: commands})
	}
	return m.prepared
}

func (m *counter) Apply(b *sharedlog.Batch) []int {
	m.results = m.results[:0]
	for range b.Commands {
		m.n++
		m.results = append(m.results, m.n)
	}
	return m.results
}

func (m *counter) Abandon()                 {}
func (m *counter) Snapshot() ([]byte, bool) { return nil, false }
func (m *counter) Restore([]byte) error     { return nil }

// BenchmarkAppend measures durable appends of 256 bytes by a number of callers, and beside it, in the same run, a loop of
// pwrite and fdatasync of as many bytes as one caller's record has, and of as many as the average slot had.
//
//	go test -run '^$' -bench Append -benchtime 2s ./internal/sharedlog/live
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			dir := benchDir(b)
			engine, _, err := filelog.Open(dir, filelog.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer engine.Close()
			log, err := live.Open(b.Context(), engine, &counter{command: bytes.Repeat([]byte("x"), commandBytes)}, live.Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			var next atomic.Int64
			for range callers {
				wg.Go(func() {
					for next.Add(1) <= int64(b.N) {
						if _, err := log.Propose(context.Background(), struct{}{}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			log.Close()
			slots := engine.Tail()
			rate := float64(b.N) / b.Elapsed().Seconds()
			perSlot := float64(b.N) / float64(slots)
			raw := rawSyncs(b, dir, int(perSlot*(commandBytes+2))+96)
			b.ReportMetric(rate, "appends/s")
			b.ReportMetric(perSlot, "appends/slot")
			b.ReportMetric(raw, "raw-fdatasync/s")
			b.ReportMetric(rate/raw, "appends/fdatasync")
			b.ReportMetric(float64(slots)/b.Elapsed().Seconds()/raw, "slots/fdatasync")
		})
	}
}

// benchDir is a directory on the disk of the working directory: a temporary one may lie in memory.
func benchDir(b *testing.B) string {
	dir, err := os.MkdirTemp(".", "bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// rawSyncs returns how many sequential writes of size bytes into a zeroed file, each with an fdatasync, a second takes.
func rawSyncs(b *testing.B, dir string, size int) float64 {
	f, err := os.Create(filepath.Join(dir, "raw"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const fileBytes = 32 << 20
	if _, err := f.Write(make([]byte, fileBytes)); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	data := bytes.Repeat([]byte("y"), size)
	n, start := 0, time.Now()
	for ; time.Since(start) < time.Second; n++ {
		if _, err := f.WriteAt(data, int64(n*size)%(fileBytes-int64(size))); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
	return float64(n) / time.Since(start).Seconds()
}
