package limit

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkTake is the cost of one request's question, by all processors at once
// and each time of another key: one policy, and the three that the gateway asks
// of one request, the last of which has one key for all. With a million live keys
// nearly every ask waits for the memory.
func BenchmarkTake(b *testing.B) {
	for _, keys := range []int{10_000, 1_000_000} {
		for _, policies := range []int{1, 3} {
			b.Run(fmt.Sprintf("keys=%d/policies=%d", keys, policies), func(b *testing.B) { benchTake(b, keys, policies) })
		}
	}
}

func benchTake(b *testing.B, keys, policies int) {
	l := newLimiter(b, min(2, policies)*keys+1,
		Policy{Name: "address", Requests: 100, Window: time.Minute},
		Policy{Name: "subject", Requests: 100, Window: time.Minute},
		Policy{Name: "route", Requests: 100_000, Window: time.Second})
	for k := range keys {
		for p := range min(2, policies) {
			l.Take1(epoch, p, l.AddressKey(ipv6(k)))
		}
	}
	var worker atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		k := int(worker.Add(1)) << 16
		asks, results := make([]Ask, policies), make([]Result, policies)
		for i := 0; pb.Next(); i++ {
			k = (k + 0x9e3779b1) % keys
			key := l.AddressKey(ipv6(k))
			for p := range asks {
				asks[p] = Ask{p, key}
			}
			if policies > 2 {
				asks[2].Key = 1
			}
			l.Take(epoch.Add(time.Duration(i)*time.Microsecond), asks, results)
		}
	})
}

// BenchmarkFlood is the cost of a new key each time, in a full table.
func BenchmarkFlood(b *testing.B) {
	l := newLimiter(b, 1_000_000, Policy{Name: "address", Requests: 100, Window: time.Hour})
	for k := range 2_000_000 {
		l.Take1(epoch, 0, Key(k))
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		l.Take1(epoch, 0, Key(1<<32+i))
	}
}

// BenchmarkKey hashes a subject of the usual length.
func BenchmarkKey(b *testing.B) {
	l := newLimiter(b, 1)
	var last Key
	for range b.N {
		last ^= l.Key("u_0123456789abcdefghij")
	}
	if last == 1 {
		b.Log(last)
	}
}

// BenchmarkBudget is a request and the wish to retry it, by all processors at
// once.
func BenchmarkBudget(b *testing.B) {
	budget := newBudget(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			now := epoch.Add(time.Duration(i) * time.Microsecond)
			budget.Request(now)
			budget.Retry(now)
		}
	})
}
