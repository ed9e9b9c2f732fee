package node

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dongne/auth/password"
	"dongne/auth/realm"
	"dongne/internal/token"
)

// start is the time at which the clocks of tests begin.
var start = time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)

// clock stands still unless it is told otherwise.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return start.Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

// luck is seeded randomness for many goroutines.
type luck struct {
	mu     sync.Mutex
	stream *rand.ChaCha8
}

func newLuck(seed byte) *luck { return &luck{stream: rand.NewChaCha8([32]byte{seed})} }

func (l *luck) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream.Read(p)
}

const (
	ana      = "ana"
	passes   = "five grey herons wade" // the password of everybody
	other    = "nine loud magpies sing"
	rounds   = 10 // of PBKDF2
	patience = 30 * time.Second
)

// setting is a node on a folder of its own, which can be closed and opened again.
type setting struct {
	*Node
	t      testing.TB
	clock  *clock
	config Config
}

// open brings up a node with the users ana, bo and, an administrator, root. It is closed at the test's end.
func open(t testing.TB, change func(c *Config)) *setting {
	t.Helper()
	s := &setting{t: t, clock: &clock{}}
	s.config = Config{Store: "file", Dir: t.TempDir(), Issuer: "http://auth.test", Alg: token.ES256, Hasher: password.Config{Rounds: rounds},
		Workers: 2, KeyCache: time.Minute, Now: s.clock.now, Rand: newLuck(1), Logger: slog.New(slog.DiscardHandler)}
	for _, login := range []string{ana, "bo", "root"} {
		s.config.Seeds = append(s.config.Seeds, Seed{Login: login, Password: passes, Email: login + "@example.com"})
	}
	s.config.Seeds[2].Groups = []string{"admin"}
	if change != nil {
		change(&s.config)
	}
	s.reopen()
	t.Cleanup(s.close)
	return s
}

func (s *setting) reopen() {
	s.t.Helper()
	n, err := Open(context.Background(), s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Node = n
	until(s.t, "the verifier is ready", func() bool { return n.verifier.Ready() == nil })
}

func (s *setting) close() {
	s.t.Helper()
	if s.Node == nil {
		return
	}
	if err := s.Node.Close(); err != nil {
		s.t.Errorf("close: %v", err)
	}
	s.Node = nil
}

// until waits for what comes without a signal.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline, tick := time.NewTimer(patience), time.NewTicker(time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// at is an address by its number.
func at(n int) From {
	return From{Address: netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), Agent: "test"}
}

func (s *setting) logIn(login string) Pair {
	s.t.Helper()
	p, err := s.LogIn(s.t.Context(), LogIn{Login: login, Password: passes}, at(1))
	if err != nil {
		s.t.Fatalf("log-in of %s: %v", login, err)
	}
	return p
}

// wantGood says whether an access token counts here.
func (s *setting) wantGood(what string, access string, good bool) {
	s.t.Helper()
	if _, err := s.Verify(s.t.Context(), access); (err == nil) != good {
		s.t.Errorf("%s: Verify = %v, want a good token: %v", what, err, good)
	}
}

func wantError(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) || want == nil && got != nil {
		t.Errorf("%s: error %v, want %v", what, got, want)
	}
}

func wantRefused(t testing.TB, what string, got error, want realm.Code) {
	t.Helper()
	var refused *Refused
	if !errors.As(got, &refused) || refused.Code != want {
		t.Errorf("%s: error %v, want %v", what, got, want)
	}
}

// slots is how many slots the log has.
func (s *setting) slots() (slot uint64) {
	s.read(func(st *realm.State) { slot = st.Position().Slot })
	return slot
}
