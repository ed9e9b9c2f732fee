package ledger

import (
	"fmt"
	"runtime"
	"strconv"
	"testing"

	"dongne/internal/sharedlog"
)

const benchAccounts = 1 << 16

// benchState is a ledger with many accounts that may all pay.
func benchState(accounts int) (*State, []string) {
	s, ids := NewState(0, 1), make([]string, accounts)
	for i := range ids {
		ids[i] = "user:" + strconv.Itoa(i)
		s.Apply(sharedlog.Position{Slot: 1, Time: startTime}, []Request{{Kind: OpenAccount, Any: true, By: "bank",
			Account:  ids[i],
			Currency: testKRW, Settings: Settings{Overdraft: true}}})
	}
	return s, ids
}

// benchRequest is transfer i, with a key of its own.
func benchRequest(ids []string, i int, hot bool) Request {
	from, to := ids[i*7919%len(ids)], ids[(i*7919+1)%len(ids)]
	if hot {
		from, to = ids[0], ids[1+i%(len(ids)-1)]
	}
	var key Key
	for b := range 8 {
		key[b], key[15-b] = byte(i>>(8*b)), byte(i*31>>(8*b))
	}
	key[8] = 1
	return Request{Kind: Move, Key: key, Any: true, By: "bank", Currency: testKRW, Legs: []Leg{{from, -1}, {to, 1}}}
}

// BenchmarkApply is one transfer a command, with its decoding.
func BenchmarkApply(b *testing.B) {
	for _, hot := range []bool{false, true} {
		b.Run(fmt.Sprintf("hot=%v", hot), func(b *testing.B) {
			s, ids := benchState(benchAccounts)
			commands := make([][]byte, b.N)
			for i := range commands {
				commands[i] = Encode([]Request{benchRequest(ids, i, hot)})
			}
			b.ResetTimer()
			b.ReportAllocs()
			for i, command := range commands {
				requests, _ := Decode(command)
				if s.Apply(sharedlog.Position{Slot: uint64(i), Time: startTime}, requests)[0].Record == 0 {
					b.Fatal("refused")
				}
			}
		})
	}
}

// BenchmarkReplay answers a request whose key was used.
func BenchmarkReplay(b *testing.B) {
	s, ids := benchState(benchAccounts)
	q := benchRequest(ids, 0, false)
	s.Apply(sharedlog.Position{Slot: 1, Time: startTime}, []Request{q})
	b.ResetTimer()
	b.ReportAllocs()
	for b.Loop() {
		if result, known := s.Replay(&q); !known || result.Record == 0 {
			b.Fatal("not known")
		}
	}
}

// BenchmarkBatch is 1,000 transfers a command, alone or all in one chain; an op is a transfer.
func BenchmarkBatch(b *testing.B) {
	for _, linked := range []bool{false, true} {
		b.Run(fmt.Sprintf("linked=%v", linked), func(b *testing.B) {
			s, ids := benchState(benchAccounts)
			var commands [][]byte
			for i := 0; i < b.N; i += CallRequestsMax {
				requests := make([]Request, min(CallRequestsMax, b.N-i))
				for k := range requests {
					requests[k] = benchRequest(ids, i+k, false)
					requests[k].Linked = linked && k < len(requests)-1
				}
				commands = append(commands, Encode(requests))
			}
			b.ResetTimer()
			b.ReportAllocs()
			for i, command := range commands {
				requests, _ := Decode(command)
				s.Apply(sharedlog.Position{Slot: uint64(i), Time: startTime}, requests)
			}
		})
	}
}

// liveBytes is the heap in use after a collection.
func liveBytes() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

const benchTransfers = 1_000_000

// BenchmarkSnapshot is of a million transfers between a million accounts; it says what an account, and a transfer with its
// key, take in memory.
func BenchmarkSnapshot(b *testing.B) {
	start := liveBytes()
	s, ids := benchState(1_000_000)
	opened := liveBytes()
	for i := range benchTransfers {
		s.Apply(sharedlog.Position{Slot: uint64(i), Time: startTime}, []Request{benchRequest(ids, i, false)})
	}
	moved := liveBytes()
	runtime.KeepAlive(ids)
	var snapshot []byte
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			snapshot = s.Snapshot()
		}
		b.ReportMetric((opened-start)/float64(len(ids)), "B/account")
		b.ReportMetric((moved-opened)/benchTransfers, "B/transfer")
		b.ReportMetric(float64(len(snapshot)), "B/snapshot")
	})
	b.Run("restore", func(b *testing.B) {
		for b.Loop() {
			if err := NewState(0, 1).Restore(snapshot); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			if err := s.Check(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkKey says what a key takes that decided nothing else, as a UseKey does.
func BenchmarkKey(b *testing.B) {
	for b.Loop() {
		s := NewState(0, 1)
		start := liveBytes()
		for i := range benchTransfers {
			q := benchRequest([]string{"a", "b"}, i, false)
			s.Apply(sharedlog.Position{Slot: 1, Time: startTime}, []Request{{Kind: UseKey, Key: q.Key, Print: Fingerprint{1}}})
		}
		b.ReportMetric((liveBytes()-start)/benchTransfers, "B/key")
		runtime.KeepAlive(s)
	}
}
