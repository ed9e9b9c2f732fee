package throttle

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// throttler is a Throttle, or one with a mistake.
type throttler interface {
	Check(user string, address netip.Addr, now time.Time) time.Duration
	Failed(user string, address netip.Addr, now time.Time) time.Duration
	Succeeded(user string, address netip.Addr, now time.Time)
	Dropped(user string, address netip.Addr, now time.Time)
}

// roll draws a number below n. Its label is for whoever reads a failure.
type roll func(label string, n int) int

// property says what is wrong with the throttlers that make returns.
type property func(make func() throttler, roll roll) error

var (
	start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

	small = Config{
		Address: Limit{Free: 8, Base: time.Second, Cap: time.Minute},
		User:    Limit{Free: 4, Base: time.Second, Cap: 40 * time.Second},
		Known:   Limit{Free: 3, Base: 2 * time.Second, Cap: 30 * time.Second},
		KeysMax: 1000,
	}
)

func newSmall() throttler { return NewWith(small) }

// four returns the nth IPv4 address, household an address of the nth /64.
func four(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

func household(n, host int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 6: byte(n >> 8), 7: byte(n), 14: byte(host >> 8), 15: byte(host)})
}

// bound fails when any stretch of time had more failures than the package promises.
func bound(failures []time.Time, l Limit) error {
	for i := range failures {
		for j := i; j < len(failures); j++ {
			dt := failures[j].Sub(failures[i])
			most := float64(l.Free) + math.Log2(float64(l.Cap)/float64(l.Base)) + 2 + 2*float64(dt)/float64(l.Cap)
			if n := float64(j - i + 1); n > most {
				return fmt.Errorf("%v failures in %v, at most %.1f", n, dt, most)
			}
		}
	}
	return nil
}

// pause is how long an attacker waits, who was told to.
func pause(roll roll, told time.Duration, l Limit) time.Duration {
	switch roll("pause", 4) {
	case 0:
		return 0
	case 1:
		return time.Duration(roll("part", 1000)) * l.Cap / 500
	default:
		return told
	}
}

// oneAddress: who tries many users from one household is slowed down, also when he logs in as himself between.
func oneAddress(make func() throttler, roll roll) error {
	t, now := make(), start
	var failures []time.Time
	for range 150 {
		user, address := fmt.Sprintf("user %d", roll("user", 200)), household(1, roll("host", 1000))
		own := roll("own", 3) == 0
		if own {
			user = "own"
		}
		wait := t.Check(user, address, now)
		switch {
		case wait > 0:
		case own && roll("log in", 2) == 0:
			t.Succeeded(user, address, now)
		default:
			wait = t.Failed(user, address, now)
			if !own {
				failures = append(failures, now)
			}
		}
		now = now.Add(pause(roll, wait, small.Address))
	}
	return bound(failures, small.Address)
}

// oneUser: who tries one user from many addresses is slowed down.
func oneUser(make func() throttler, roll roll) error {
	t, now := make(), start
	var failures []time.Time
	for range 150 {
		address := four(roll("address", 1<<20))
		wait := t.Check("owner", address, now)
		if wait == 0 {
			wait = t.Failed("owner", address, now)
			failures = append(failures, now)
		}
		now = now.Add(pause(roll, wait, small.User))
	}
	return bound(failures, small.User)
}

// acquaintance: an owner never waits where he has logged in, whatever others do elsewhere, or here with other users.
func acquaintance(make func() throttler, roll roll) error {
	t, now := make(), start
	t.Check("owner", household(1, 1), now)
	t.Succeeded("owner", household(1, 1), now)
	for range 60 {
		for range roll("attack", 20) {
			user, address := fmt.Sprintf("user %d", roll("user", 20)), household(1, roll("host", 1000))
			if roll("elsewhere", 2) == 0 {
				user, address = "owner", four(roll("address", 1000))
			}
			if t.Check(user, address, now) == 0 && roll("end", 10) > 0 {
				t.Failed(user, address, now)
			}
		}
		home := household(1, roll("host of the owner", 1000))
		if wait := t.Check("owner", home, now); wait > 0 {
			return fmt.Errorf("the owner waits %v", wait)
		}
		if roll("outcome", 2) == 0 {
			t.Succeeded("owner", home, now)
		} else {
			t.Dropped("owner", home, now)
		}
		now = now.Add(time.Duration(roll("seconds", 100)) * time.Second)
	}
	return nil
}

// capped: no wait is longer than the longest cap, and after one in silence everybody is admitted, though the clock steps.
func capped(make func() throttler, roll roll) error {
	t, now, longest := make(), start, max(small.Address.Cap, small.User.Cap, small.Known.Cap)
	for range 100 {
		user, address := fmt.Sprintf("user %d", roll("user", 3)), four(roll("address", 3))
		wait := t.Check(user, address, now)
		if wait > longest {
			return fmt.Errorf("a wait of %v", wait)
		}
		if wait == 0 {
			switch roll("end", 6) {
			case 0:
				t.Succeeded(user, address, now)
			case 1:
				t.Dropped(user, address, now)
			case 2: // never told
			default:
				t.Failed(user, address, now)
			}
		}
		switch roll("clock", 20) {
		case 0:
			now = now.Add(5 * time.Minute)
		case 1:
			now = now.Add(-5 * time.Minute)
		default:
			now = now.Add(time.Duration(roll("milliseconds", 2000)) * time.Millisecond)
		}
		if roll("silence", 10) == 0 {
			t.Check("user 0", four(0), now) // an attempt, or a refusal, after which the clock goes on as it should
			now = now.Add(max(longest, PendingMax))
			if wait := t.Check("user 0", four(0), now); wait > 0 {
				return fmt.Errorf("a wait of %v after silence", wait)
			}
			t.Dropped("user 0", four(0), now)
		}
	}
	return nil
}

// reset: after a success the user has all his free failures again.
func reset(make func() throttler, roll roll) error {
	t, now := make(), start
	for range 20 {
		for range roll("failures", 12) {
			now = now.Add(t.Check("owner", four(1), now))
			if wait := t.Check("owner", four(1), now); wait > 0 {
				t.Dropped("owner", four(1), now) // the attempt of the line above, if it was one
				continue
			}
			now = now.Add(t.Failed("owner", four(1), now))
		}
		now = now.Add(PendingMax)
		if wait := t.Check("owner", four(1), now); wait > 0 {
			return fmt.Errorf("a wait of %v, when the last one was over", wait)
		}
		t.Succeeded("owner", four(1), now)
		free := roll("free", min(small.Known.Free, small.User.Free)+1)
		for range free {
			if wait := t.Check("owner", four(1), now); wait > 0 {
				return fmt.Errorf("a wait of %v for a failure that is free", wait)
			}
			t.Failed("owner", four(1), now)
		}
		// Enough for what was left of the free ones, and no more.
		now = now.Add(time.Duration(small.Known.Free) * small.Known.Cap)
	}
	// The failures of somebody who got in count for nothing at his address.
	for n := range 10 * small.Address.Free {
		user := fmt.Sprintf("colleague %d", n)
		for range 2 {
			if wait := t.Check(user, four(2), now); wait > 0 {
				return fmt.Errorf("%s waits %v for what others mistyped", user, wait)
			}
			t.Failed(user, four(2), now)
		}
		if wait := t.Check(user, four(2), now); wait > 0 {
			return fmt.Errorf("%s waits %v after two failures", user, wait)
		}
		t.Succeeded(user, four(2), now)
	}
	return nil
}

// parallel: of attempts at the same time no more are admitted than are free, and one after that.
func parallel(make func() throttler, roll roll) error {
	t, admitted := make(), 0
	before := roll("before", small.User.Free+1)
	for n := range before {
		t.Check("owner", four(n), start)
		t.Failed("owner", four(n), start)
	}
	for n := range 100 {
		if t.Check("owner", four(1000+n), start) == 0 {
			admitted++
		}
	}
	if want := max(1, small.User.Free-before); admitted != want {
		return fmt.Errorf("%d at once after %d failures, want %d", admitted, before, want)
	}
	return nil
}

// dropped: an attempt that was dropped changes nothing.
func dropped(make func() throttler, roll roll) error {
	a, b, now := make(), make(), start
	for range 100 {
		user, address := fmt.Sprintf("user %d", roll("user", 3)), four(roll("address", 3))
		if roll("extra", 2) == 0 {
			if a.Check(user, address, now) == 0 {
				a.Dropped(user, address, now)
			}
			continue
		}
		wait := a.Check(user, address, now)
		if other := b.Check(user, address, now); wait != other {
			return fmt.Errorf("a wait of %v with dropped attempts, of %v without", wait, other)
		}
		if wait == 0 {
			if roll("success", 4) == 0 {
				a.Succeeded(user, address, now)
				b.Succeeded(user, address, now)
			} else {
				if x, y := a.Failed(user, address, now), b.Failed(user, address, now); x != y {
					return fmt.Errorf("Failed = %v with dropped attempts, %v without", x, y)
				}
			}
		}
		now = now.Add(pause(roll, wait, small.User))
	}
	return nil
}

var properties = map[string]property{
	"one address": oneAddress, "one user": oneUser, "acquaintance": acquaintance, "capped": capped, "reset": reset,
	"parallel": parallel, "dropped": dropped,
}

func TestProperties(t *testing.T) {
	for name, holds := range properties {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				roll := func(label string, n int) int { return rapid.IntRange(0, n-1).Draw(t, label) }
				if err := holds(newSmall, roll); err != nil {
					t.Fatal(err)
				}
			})
			for seed := range uint64(300) { // rapid prefers small numbers, an attacker does not
				random := rand.New(rand.NewPCG(seed, 0))
				if err := holds(newSmall, func(_ string, n int) int { return random.IntN(n) }); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		})
	}
}

// mutant is a Throttle that does something else in one place.
type mutant struct {
	*Throttle
	check     func(t *Throttle, user string, address netip.Addr, now time.Time) time.Duration
	failed    func(t *Throttle, user string, address netip.Addr, now time.Time) time.Duration
	succeeded func(t *Throttle, user string, address netip.Addr, now time.Time)
	dropped   func(t *Throttle, user string, address netip.Addr, now time.Time)
	where     func(netip.Addr) netip.Addr
	when      func(m *mutant, now time.Time) time.Time
	latest    time.Time
}

func (m *mutant) see(address netip.Addr, now time.Time) (netip.Addr, time.Time) {
	if m.where != nil {
		address = m.where(address)
	}
	if m.when != nil {
		now = m.when(m, now)
	}
	return address, now
}

func (m *mutant) Check(user string, address netip.Addr, now time.Time) time.Duration {
	address, now = m.see(address, now)
	if m.check != nil {
		return m.check(m.Throttle, user, address, now)
	}
	return m.Throttle.Check(user, address, now)
}

func (m *mutant) Failed(user string, address netip.Addr, now time.Time) time.Duration {
	address, now = m.see(address, now)
	if m.failed != nil {
		return m.failed(m.Throttle, user, address, now)
	}
	return m.Throttle.Failed(user, address, now)
}

func (m *mutant) Succeeded(user string, address netip.Addr, now time.Time) {
	address, now = m.see(address, now)
	if m.succeeded != nil {
		m.succeeded(m.Throttle, user, address, now)
		return
	}
	m.Throttle.Succeeded(user, address, now)
}

func (m *mutant) Dropped(user string, address netip.Addr, now time.Time) {
	address, now = m.see(address, now)
	if m.dropped != nil {
		m.dropped(m.Throttle, user, address, now)
		return
	}
	m.Throttle.Dropped(user, address, now)
}

// Each mistake is found by the property named.
func TestMutants(t *testing.T) {
	for name, m := range map[string]struct {
		mutant mutant
		caught string
	}{
		"a success forgives the address": {mutant{succeeded: func(t *Throttle, user string, address netip.Addr, now time.Time) {
			t.Succeeded(user, address, now)
			if b := t.addresses.find(keysOf(user, address).address); b != nil {
				b.forget()
			}
		}}, "one address"},
		"each address of a household by itself": {mutant{where: func(a netip.Addr) netip.Addr {
			sixteen := a.As16()
			copy(sixteen[:], sixteen[8:])
			return netip.AddrFrom16(sixteen)
		}}, "one address"},
		"strangers by address alone": {mutant{failed: func(t *Throttle, user string, address netip.Addr, now time.Time) time.Duration {
			wait := t.Failed(user, address, now)
			if b := t.users.find(keysOf(user, address).user); b != nil {
				b.forget()
			}
			return wait
		}}, "one user"},
		"acquaintances are strangers": {mutant{check: func(t *Throttle, user string, address netip.Addr, now time.Time) time.Duration {
			if k := keysOf(user, address).pair; t.known.find(k) != nil {
				t.known.remove(k)
			}
			return t.Check(user, address, now)
		}}, "acquaintance"},
		"a wait twice as long": {mutant{check: func(t *Throttle, user string, address netip.Addr, now time.Time) time.Duration {
			return 2 * t.Check(user, address, now)
		}}, "capped"},
		"time that only goes forward": {mutant{when: func(m *mutant, now time.Time) time.Time {
			if now.After(m.latest) {
				m.latest = now
			}
			return m.latest
		}}, "capped"},
		"a success forgets nothing": {mutant{succeeded: func(t *Throttle, user string, address netip.Addr, now time.Time) {
			t.Dropped(user, address, now)
			t.Remember(user, address, now)
		}}, "reset"},
		"what is under way does not count": {mutant{check: func(t *Throttle, user string, address netip.Addr, now time.Time) time.Duration {
			wait := t.Check(user, address, now)
			t.Dropped(user, address, now)
			return wait
		}}, "parallel"},
		"dropped is failed": {mutant{dropped: func(t *Throttle, user string, address netip.Addr, now time.Time) {
			t.Failed(user, address, now)
		}}, "dropped"},
	} {
		t.Run(name, func(t *testing.T) {
			build := func() throttler {
				c := m.mutant
				c.Throttle = NewWith(small)
				return &c
			}
			for seed := range uint64(300) {
				random := rand.New(rand.NewPCG(seed, 0))
				if properties[m.caught](build, func(_ string, n int) int { return random.IntN(n) }) != nil {
					return
				}
			}
			t.Errorf("property %q does not catch it", m.caught)
		})
	}
}

// A script of one attacker, to see the waits. At the tenth failure the first one is forgotten.
func TestWaits(t *testing.T) {
	l := Limit{Free: 2, Base: time.Second, Cap: 100 * time.Second}
	th := NewWith(Config{Address: Limit{Free: 100, Base: 1, Cap: 1}, User: l, Known: l, KeysMax: 10})
	now := start
	for n, want := range []time.Duration{0, 0, 1, 2, 4, 8, 16, 32, 64, 64, 100, 100, 100} {
		want *= time.Second
		if wait := th.Check("ann", four(n), now); wait != 0 {
			t.Fatalf("Check before failure %d = %v", n+1, wait)
		}
		if got := th.Failed("ann", four(n), now); (got - want).Abs() > 0 {
			t.Errorf("Failed, %d times = %v, want %v", n+1, got, want)
		}
		if want > 0 {
			if got := th.Check("ann", four(99), now.Add(want-1)); got != 1 {
				t.Errorf("Check a nanosecond too early = %v", got)
			}
		}
		now = now.Add(want)
	}
	now = now.Add(1000 * time.Second)
	if wait := th.Check("ann", four(1), now); wait != 0 {
		t.Errorf("Check when all is forgotten = %v", wait)
	}
	if wait := th.Failed("ann", four(1), now); wait != 0 {
		t.Errorf("Failed when all is forgotten = %v", wait)
	}
}

// An attempt whose end nobody tells counts for PendingMax.
func TestForgottenAttempt(t *testing.T) {
	th := NewWith(small)
	for n := range small.User.Free {
		if wait := th.Check("ann", four(n), start); wait != 0 {
			t.Fatalf("Check %d = %v", n, wait)
		}
	}
	if wait := th.Check("ann", four(9), start.Add(PendingMax-1)); wait != small.User.Base {
		t.Errorf("Check while they count = %v, want %v", wait, small.User.Base)
	}
	if wait := th.Check("ann", four(9), start.Add(PendingMax)); wait != 0 {
		t.Errorf("Check when they do not = %v", wait)
	}
	th.Dropped("ann", four(1), start.Add(PendingMax)) // late, and not more than there is
	th.Dropped("ann", four(1), start.Add(PendingMax))
	if n := len(th.users.index); n != 0 {
		t.Errorf("%d users are kept, want none", n)
	}
}

// After a restart nobody is an acquaintance, until he is remembered.
func TestRemember(t *testing.T) {
	th := NewWith(small)
	attack := func() {
		for n := range 50 {
			if th.Check("ann", four(n), start) == 0 {
				th.Failed("ann", four(n), start)
			}
		}
	}
	attack()
	if th.Check("ann", household(1, 1), start) == 0 {
		t.Error("a stranger is admitted under attack")
	}
	th.Remember("ann", household(1, 1), start)
	if wait := th.Check("ann", household(1, 2), start); wait != 0 {
		t.Errorf("an acquaintance waits %v", wait)
	}
	if th.Check("bob", household(1, 1), start) != 0 || th.Check("ann", household(2, 1), start) == 0 {
		t.Error("somebody else is the acquaintance, or somewhere else")
	}
}

func TestKeys(t *testing.T) {
	same := func(a, b string) bool {
		return keysOf("u", netip.MustParseAddr(a)) == keysOf("u", netip.MustParseAddr(b))
	}
	for _, pair := range [][2]string{
		{"192.0.2.1", "::ffff:192.0.2.1"}, {"2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"}, {"fe80::1%eth0", "fe80::1"},
	} {
		if !same(pair[0], pair[1]) {
			t.Errorf("%s and %s are two", pair[0], pair[1])
		}
	}
	for _, pair := range [][2]string{{"192.0.2.1", "192.0.2.2"}, {"2001:db8::1", "2001:db8:0:1::1"}, {"0.0.0.4", "::"}} {
		if same(pair[0], pair[1]) {
			t.Errorf("%s and %s are one", pair[0], pair[1])
		}
	}
	seen := map[key]string{}
	for _, user := range []string{"", "a", "b", "\x00a", "\xff"} {
		for _, address := range []netip.Addr{{}, four(1), household(1, 1), netip.MustParseAddr("::"), netip.MustParseAddr("0.0.0.0")} {
			k := keysOf(user, address)
			for key, what := range map[key]string{k.pair: fmt.Sprintf("%q at %v", user, address), k.user: fmt.Sprintf("%q", user)} {
				if other, ok := seen[key]; ok && other != what {
					t.Errorf("%s has the key of %s", what, other)
				}
				seen[key] = what
			}
		}
	}
}

func TestConfig(t *testing.T) {
	good := Default()
	for name, spoil := range map[string]func(c *Config){
		"no free":    func(c *Config) { c.Address.Free = 0 },
		"many free":  func(c *Config) { c.Address.Free = 10_001 },
		"no base":    func(c *Config) { c.User.Base = 0 },
		"a low cap":  func(c *Config) { c.Known.Cap = c.Known.Base - 1 },
		"a high cap": func(c *Config) { c.Known.Cap = 25 * time.Hour },
		"no keys":    func(c *Config) { c.KeysMax = 0 },
	} {
		c := good
		spoil(&c)
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: NewWith(%+v) does not panic", name, c)
				}
			}()
			NewWith(c)
		}()
	}
}

// overfull returns the most keys that any table had, and what the throttle weighs, after n users were tried from n
// addresses, a quarter of them with success.
func overfull(th *Throttle, n int) (most int, bytes uint64) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	now := start
	for n := range n {
		user, address := fmt.Sprintf("user %d", n), four(n)
		if th.Check(user, address, now) != 0 {
			panic("a first attempt must wait")
		}
		if n%4 == 0 {
			th.Succeeded(user, address, now)
		} else {
			th.Failed(user, address, now)
		}
		now = now.Add(time.Millisecond)
		for _, t := range []*table{&th.addresses, &th.users, &th.pairs, &th.known} {
			most = max(most, len(t.index), len(t.entries)-1)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(th)
	return most, max(after.HeapAlloc, before.HeapAlloc) - before.HeapAlloc
}

func TestBoundedMemory(t *testing.T) {
	most, bytes := overfull(New(), 1_000_000)
	t.Logf("a million users and addresses: %d keys in a table, %.1f MB", most, float64(bytes)/1e6)
	if most > KeysMax || bytes > 80e6 {
		t.Errorf("%d keys in a table, want at most %d; %d bytes, want at most 80 MB", most, KeysMax, bytes)
	}
	endless := Default()
	endless.KeysMax = 1 << 30
	if most, _ := overfull(NewWith(endless), 2*KeysMax); most <= KeysMax {
		t.Errorf("a throttle without an end is not caught: %d keys", most)
	}
}

// When all is over and forgotten, new keys make room of the old ones, and the table shrinks.
func TestTableShrinks(t *testing.T) {
	th, now := New(), start
	for n := range 1000 {
		th.Check("user", four(n), now)
		th.Failed(fmt.Sprint("user ", n), four(n), now)
	}
	now = now.Add(24 * time.Hour)
	for n := range 1100 {
		user := fmt.Sprint("new ", n)
		th.Check(user, household(n, 1), now)
		th.Failed(user, household(n, 1), now)
		now = now.Add(24 * time.Hour)
	}
	for name, table := range map[string]*table{"addresses": &th.addresses, "users": &th.users, "pairs": &th.pairs} {
		if n := len(table.index); n > 2 {
			t.Errorf("%d %s are kept, want the last ones", n, name)
		}
	}
}

func BenchmarkAttempt(b *testing.B) {
	th, now := New(), start
	for n := 0; b.Loop(); n++ {
		address := four(n & 0xffff)
		if th.Check("user", address, now) == 0 {
			th.Succeeded("user", address, now)
		}
	}
}
