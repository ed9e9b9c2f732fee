package realm

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// benchHash makes a hash of a number.
func benchHash(what byte, n int) (h Hash) {
	h[0] = what
	binary.BigEndian.PutUint64(h[8:], uint64(n))
	return h
}

func benchUser(n int) string { return fmt.Sprintf("u_%020d", n) }

// benchState is a realm of users with a number of sessions each.
func benchState(b *testing.B, users, sessions int) *State {
	s := New()
	for n := range users {
		signUp := &SignUp{User: benchUser(n), Login: fmt.Sprintf("user%012d", n), Password: strings.Repeat("h", 100)}
		benchApply(b, s, signUp)
		for i := range sessions {
			id := benchHash(1, n*sessions+i)
			benchApply(b, s, &LogIn{User: signUp.User, Checked: 1, Opening: Opening{Session: SessionID(id[:16]), Token: id,
				Client: "web",
				Agent:  strings.Repeat("Mozilla", 13)[:90], Address: fmt.Sprintf("192.0.2.%d", i)}})
		}
	}
	return s
}

// benchApply applies a request as it comes from the log.
func benchApply(b *testing.B, s *State, q Request) {
	command, err := Encode(q)
	if err != nil {
		b.Fatal(err)
	}
	if q, err = Decode(command); err != nil {
		b.Fatal(err)
	}
	if result := s.Apply(at(0), q); result.Code != Done {
		b.Fatalf("%T: %v", q, result.Code)
	}
}

func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkMemory says what a user, a session, a token of the older system, and an event take.
func BenchmarkMemory(b *testing.B) {
	const users, sessions, tokens = 100_000, 3, 300_000
	for b.Loop() {
		before := heapBytes()
		alone := benchState(b, users, 0)
		alone.events = nil
		perUser := (heapBytes() - before) / users
		runtime.KeepAlive(alone)
		alone = nil
		before = heapBytes()
		both := benchState(b, users, sessions)
		both.events = nil
		perSession := (heapBytes() - before - users*perUser) / (users * sessions)
		before = heapBytes()
		for n := range tokens / RowsMax {
			q := &ImportLegacy{}
			for i := range RowsMax {
				q.Tokens = append(q.Tokens, LegacyToken{benchHash(2, n*RowsMax+i), benchUser(i), startTime + day, false})
			}
			benchApply(b, both, q)
		}
		perToken := (heapBytes() - before) / tokens
		before = heapBytes()
		for range EventsMax * 3 {
			benchApply(b, both, &Note{Kind: "log-in-failed", User: benchUser(1), Address: "192.0.2.1", Detail: "password"})
		}
		perEvent := (heapBytes() - before) / EventsMax
		whole := both.Snapshot()
		b.ReportMetric(float64(perUser), "B/user")
		b.ReportMetric(float64(perSession), "B/session")
		b.ReportMetric(float64(perToken), "B/legacy-token")
		b.ReportMetric(float64(perEvent), "B/event")
		b.ReportMetric(float64(len(whole))/users, "snapshot-B/user")
		runtime.KeepAlive(both)
	}
}

// BenchmarkRefresh rotates sessions, from the command on.
func BenchmarkRefresh(b *testing.B) {
	const users = 10_000
	s := benchState(b, users, 1)
	commands := make([][]byte, b.N)
	for i := range commands {
		id, generation := benchHash(1, i%users), i/users
		token := id
		if generation > 0 {
			token = benchHash(3, i-users)
		}
		q := &Refresh{Session: SessionID(id[:16]), Generation: uint32(generation + 1), Token: token, Next: benchHash(3, i),
			Sealed: make([]byte, 80), Address: "192.0.2.1"}
		commands[i], _ = Encode(q)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i, command := range commands {
		q, err := Decode(command)
		if err != nil {
			b.Fatal(err)
		}
		if result := s.Apply(at(int64(i)), q); result.Code != Done {
			b.Fatalf("refresh %d: %v", i, result.Code)
		}
	}
}

// BenchmarkLogIn opens sessions, from the command on; beyond SessionsPerUserMax each ends another.
func BenchmarkLogIn(b *testing.B) {
	const users = 10_000
	s := benchState(b, users, 0)
	commands := make([][]byte, b.N)
	for i := range commands {
		id := benchHash(1, i)
		commands[i], _ = Encode(&LogIn{User: benchUser(i % users), Checked: 1, Opening: Opening{Session: SessionID(id[:16]),
			Token: id}})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i, command := range commands {
		q, err := Decode(command)
		if err != nil {
			b.Fatal(err)
		}
		if result := s.Apply(at(int64(i)), q); result.Code != Done {
			b.Fatalf("log-in %d: %v", i, result.Code)
		}
	}
}

// BenchmarkSnapshot writes and restores 10,000 users with three sessions each.
func BenchmarkSnapshot(b *testing.B) {
	s := benchState(b, 10_000, 3)
	whole := s.Snapshot()
	b.Run("write", func(b *testing.B) {
		b.SetBytes(int64(len(whole)))
		for b.Loop() {
			s.Snapshot()
		}
	})
	b.Run("restore", func(b *testing.B) {
		b.SetBytes(int64(len(whole)))
		for b.Loop() {
			if err := New().Restore(whole); err != nil {
				b.Fatal(err)
			}
		}
	})
}
