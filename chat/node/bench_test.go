package node

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dongne/chat/room"
)

func open(tb testing.TB, dir string) *Node {
	tb.Helper()
	n, err := Open(tb.Context(), Config{
		Name: "n1", Dir: dir, Now: time.Now, Rand: rand.New(rand.NewPCG(1, 2)), SendsPerSecond: 1_000_000,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// BenchmarkPost sends 100-byte messages, each acknowledged after its fsync, by 1, 16 and 64 callers.
func BenchmarkPost(b *testing.B) {
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(callers, "callers"), func(b *testing.B) {
			dir := b.TempDir()
			n := open(b, dir)
			a, err := n.Do(b.Context(), room.Fact{Kind: room.Created, By: "u", RoomKind: room.Group, Members: []string{"u"}}, "")
			if err != nil {
				b.Fatal(err)
			}
			text := strings.Repeat("x", 100)
			b.ReportAllocs()
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var callersDone sync.WaitGroup
			for i := range callers {
				callersDone.Go(func() {
					for k := 0; left.Add(-1) >= 0; k++ {
						f := room.Fact{Kind: room.Posted, By: "u", Room: a.ID, Text: text}
						if _, err := n.Do(context.Background(), f, fmt.Sprintf("%d-%d", i, k)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			callersDone.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acks/s")
			if err := n.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkStart writes 200,000 messages of 100 bytes once and then opens the log again and again: the time to be ready,
// the bytes of heap and disk that a message costs.
func BenchmarkStart(b *testing.B) {
	const messages = 200_000
	dir := b.TempDir()
	fill(b, dir, messages)
	before := heap()
	for b.Loop() {
		n := open(b, dir)
		b.StopTimer()
		b.ReportMetric(float64(heap()-before)/messages, "heap-B/msg")
		if err := n.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N)*messages/b.Elapsed().Seconds(), "msgs/s")
	b.ReportMetric(float64(used(b, dir))/messages, "disk-B/msg")
}

func fill(b *testing.B, dir string, messages int) {
	n := open(b, dir)
	a, err := n.Do(b.Context(), room.Fact{Kind: room.Created, By: "u", RoomKind: room.Group, Members: []string{"u"}}, "")
	if err != nil {
		b.Fatal(err)
	}
	text := strings.Repeat("x", 100)
	var callers sync.WaitGroup
	for i := range 256 {
		callers.Go(func() {
			for k := range messages / 256 {
				f := room.Fact{Kind: room.Posted, By: "u", Room: a.ID, Text: text}
				if _, err := n.Do(context.Background(), f, fmt.Sprintf("%d-%d", i, k)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	callers.Wait()
	if err := n.Close(); err != nil {
		b.Fatal(err)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// used is the size of all files, preallocated space of the last segment included.
func used(b *testing.B, dir string) (bytes int64) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Stat(path)
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return bytes
}
