package limit

import (
	"container/list"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func newLimiter(t testing.TB, keys int, policies ...Policy) *Limiter {
	t.Helper()
	l, err := New([16]byte([]byte("the test's secret")[:16]), epoch, keys, policies...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A taker is what the checkers judge: a Limiter, or a mutant of one.
type taker interface {
	Take(now time.Time, asks []Ask, results []Result) bool
}

// A bucket is the exact model of one key under one policy: a token bucket that
// fills continuously. It counts in parts of a request, Requests·Window per
// request, so that nothing is ever rounded.
type bucket struct {
	level int64 // parts; a request costs Window, a nanosecond brings Requests
	at    time.Time
}

func (b *bucket) fill(p Policy, now time.Time) {
	whole := int64(p.Burst) * int64(p.Window)
	if b.at.IsZero() {
		b.level = whole
	} else {
		b.level = min(whole, b.level+int64(now.Sub(b.at))*int64(p.Requests))
	}
	b.at = now
}

// result is what the model says of a key, whose request has been paid for if it
// was allowed and everybody else agreed.
func (b *bucket) result(p Policy, allowed bool) Result {
	r := Result{Allowed: allowed, Remaining: int(b.level / int64(p.Window))}
	missing := int64(p.Burst)*int64(p.Window) - b.level
	r.ResetAfter = time.Duration(missing / int64(p.Requests))
	r.RetryAfter = time.Duration(max(0, int64(p.Window)-b.level) / int64(p.Requests))
	return r
}

// A step of a run: time passes, then one request asks.
type step struct {
	wait time.Duration
	asks []Ask
}

// judge runs steps against the exact model and returns the first difference.
// The policies' intervals must be whole nanoseconds.
func judge(subject taker, policies []Policy, steps []step) error {
	now := epoch
	model := map[Ask]*bucket{}
	for n, s := range steps {
		now = now.Add(s.wait)
		want := make([]Result, len(s.asks))
		passes := true
		for _, a := range s.asks {
			if model[a] == nil {
				model[a] = &bucket{}
			}
			model[a].fill(policies[a.Policy], now)
			passes = passes && model[a].level >= int64(policies[a.Policy].Window)
		}
		for i, a := range s.asks {
			allowed := model[a].level >= int64(policies[a.Policy].Window)
			if passes {
				model[a].level -= int64(policies[a.Policy].Window)
			}
			want[i] = model[a].result(policies[a.Policy], allowed)
		}
		got := make([]Result, len(s.asks))
		if took := subject.Take(now, s.asks, got); took != passes {
			return fmt.Errorf("step %d: Take(%v) = %v, want %v", n, s.asks, took, passes)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("step %d: Take(%v) mismatch (-want +got):\n%s", n, s.asks, diff)
		}
	}
	return nil
}

// threePolicies have intervals of 20 ms, 3 s and 1 µs.
var threePolicies = []Policy{
	{Name: "address", Requests: 50, Window: time.Second, Burst: 4},
	{Name: "subject", Requests: 20, Window: time.Minute, Burst: 2},
	{Name: "route", Requests: 1_000_000, Window: time.Second, Burst: 3},
}

var drawSteps = rapid.Custom(func(t *rapid.T) []step {
	return rapid.SliceOf(rapid.Custom(func(t *rapid.T) step {
		unit := rapid.SampledFrom([]time.Duration{
			0, 1, time.Microsecond, time.Millisecond, 20 * time.Millisecond, time.Second,
		}).Draw(t, "unit")
		s := step{wait: unit * time.Duration(rapid.IntRange(0, 10).Draw(t, "units"))}
		for policy := range threePolicies {
			if rapid.Bool().Draw(t, "asked") {
				s.asks = append(s.asks, Ask{policy, Key(rapid.Uint64Range(1, 3).Draw(t, "key"))})
			}
		}
		return s
	})).Draw(t, "steps")
})

// Decisions and figures are those of the exact model, to the nanosecond.
func TestTakeIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, err := New([16]byte{}, epoch, 1000, threePolicies...)
		if err != nil {
			t.Fatal(err)
		}
		if err := judge(l, threePolicies, drawSteps.Draw(t, "steps")); err != nil {
			t.Fatal(err)
		}
	})
}

// oneByOne is a mutant: a request that one policy refuses costs the others one.
type oneByOne struct{ *Limiter }

func (m oneByOne) Take(now time.Time, asks []Ask, results []Result) bool {
	passes := true
	for i, a := range asks {
		results[i] = m.Take1(now, a.Policy, a.Key)
		passes = passes && results[i].Allowed
	}
	return passes
}

// coarse is a mutant: it counts in whole milliseconds.
type coarse struct{ *Limiter }

func (m coarse) Take(now time.Time, asks []Ask, results []Result) bool {
	return m.Limiter.Take(now.Truncate(time.Millisecond), asks, results)
}

func TestJudgeCatchesMutants(t *testing.T) {
	for name, mutate := range map[string]func(*Limiter) taker{
		"costs one by one":       func(l *Limiter) taker { return oneByOne{l} },
		"counts in milliseconds": func(l *Limiter) taker { return coarse{l} },
	} {
		caught := false
		for seed := range 200 {
			subject := mutate(newLimiter(t, 1000, threePolicies...))
			caught = caught || judge(subject, threePolicies, drawSteps.Example(seed)) != nil
		}
		if !caught {
			t.Errorf("the mutant that %s passes for a limiter", name)
		}
	}
}

// However the interval is rounded, a key that always asks for more than it may
// passes as often as in the exact model, within 1 %.
func TestRates(t *testing.T) {
	const seed = 11
	for _, p := range []Policy{
		{Name: "tight", Requests: 7, Window: time.Minute, Burst: 1},
		{Name: "uneven", Requests: 999_983, Window: time.Second, Burst: 10},
		{Name: "steep", Requests: 666_667, Window: time.Second, Burst: 1000},
		{Name: "slow", Requests: 13, Window: 24 * time.Hour},
		{Name: "usual", Requests: 100, Window: time.Minute},
	} {
		l := newLimiter(t, 1, p)
		p = l.Policy(0)
		rng := rand.New(rand.NewPCG(seed, 0))
		now, got, want := epoch, 0, 0
		var model bucket
		for range 100_000 {
			now = now.Add(time.Duration(rng.Int64N(int64(p.Window)) / int64(p.Requests)))
			if l.Take1(now, 0, 1).Allowed {
				got++
			}
			if model.fill(p, now); model.level >= int64(p.Window) {
				model.level -= int64(p.Window)
				want++
			}
		}
		if off := float64(got)/float64(want) - 1; off < -0.01 || off > 0.01 {
			t.Errorf("policy %s, seed %d: %d passed, want %d: %+.3f %%", p.Name, seed, got, want, 100*off)
		}
	}
}

// A million live keys of two requests each: the error over all of them is below
// 1 %, in a table of a known size.
func TestMillionKeys(t *testing.T) {
	const keys = 1_000_000
	l := newLimiter(t, keys, Policy{Name: "address", Requests: 2, Window: time.Hour})
	if want := 24_035_328; l.Bytes() != want {
		t.Errorf("Bytes() = %d, want %d", l.Bytes(), want)
	}
	now := epoch
	passed := 0
	for range 3 {
		for k := range keys {
			now = now.Add(time.Microsecond)
			if l.Take1(now, 0, l.AddressKey(ipv6(k))).Allowed {
				passed++
			}
		}
	}
	t.Logf("%d of %d passed, %d evicted", passed, 2*keys, l.Evicted())
	if passed < 2*keys || passed > 2*keys*101/100 {
		t.Errorf("%d requests passed, want %d and at most 1 %% more", passed, 2*keys)
	}
}

// ipv6 returns an address of the n-th /64 of 2001:db8::/32.
func ipv6(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), 15: 1})
}

// flood limits some keys, then asks once for each of very many new keys, and
// returns how many requests of the limited keys pass in between.
func flood(subject taker, limited, newcomers int) (freed int) {
	var result [1]Result
	for k := range limited {
		for subject.Take(epoch, []Ask{{0, Key(k)}}, result[:]) {
		}
	}
	for n := range newcomers {
		subject.Take(epoch, []Ask{{0, Key(1<<32 + n)}}, result[:])
		if n%16 == 0 && subject.Take(epoch, []Ask{{0, Key(n / 16 % limited)}}, result[:]) {
			freed++
		}
	}
	return freed
}

// forgetful is a mutant: as many keys as the table has entries, of which the one
// that was used least recently goes.
type forgetful struct {
	policy Policy
	keys   map[Ask]*list.Element
	order  *list.List
	room   int
}

type remembered struct {
	ask  Ask
	left int
}

func (m *forgetful) Take(_ time.Time, asks []Ask, _ []Result) bool {
	e := m.keys[asks[0]]
	if e == nil {
		e = m.order.PushFront(&remembered{asks[0], m.policy.Burst})
		m.keys[asks[0]] = e
	}
	if m.order.Len() > m.room {
		delete(m.keys, m.order.Remove(m.order.Back()).(*remembered).ask)
	}
	r := e.Value.(*remembered)
	if r.left == 0 {
		return false
	}
	r.left--
	return true
}

// A flood of new keys, many times what the table holds, frees no limited key.
func TestFloodFreesNobody(t *testing.T) {
	policy := Policy{Name: "address", Requests: 10, Window: time.Hour, Burst: 10}
	const limited, newcomers = 2000, 300_000
	l := newLimiter(t, 20_000, policy)
	if freed := flood(l, limited, newcomers); freed > 0 {
		t.Errorf("%d requests of limited keys passed during the flood", freed)
	}
	if entries := uint64(l.Bytes() / 16); l.Evicted() < newcomers-entries-limited {
		t.Errorf("%d keys evicted: the flood of %d did not fill the table of %d", l.Evicted(), newcomers, entries)
	}
	mutant := &forgetful{policy, map[Ask]*list.Element{}, list.New(), 20_000}
	if flood(mutant, limited, newcomers) == 0 {
		t.Error("the mutant that forgets the least recent key passes")
	}
}

// The fullest is judged in proportion to the policy's burst: a flood under a
// generous policy frees nobody of a strict one, although its requests take longer
// to be forgotten.
func TestFloodOfAnotherPolicy(t *testing.T) {
	l := newLimiter(t, 5000,
		Policy{Name: "generous", Requests: 100, Window: 24 * time.Hour},
		Policy{Name: "strict", Requests: 2, Window: time.Second})
	for k := range Key(500) {
		for l.Take1(epoch, 1, k).Allowed {
		}
	}
	for k := range Key(100_000) {
		l.Take1(epoch, 0, k)
	}
	for k := range Key(500) {
		if l.Take1(epoch, 1, k).Allowed {
			t.Fatalf("key %d was freed", k)
		}
	}
	if l.Evicted() == 0 {
		t.Error("nothing was evicted: the flood was none")
	}
}

// Keys that were not seen for their burst's time make room without a loss.
func TestOldKeysMakeRoom(t *testing.T) {
	l := newLimiter(t, 1000, Policy{Name: "address", Requests: 10, Window: time.Second, Burst: 5})
	for n := range 100_000 { // 1000 within the half second in which a burst comes back
		l.Take1(epoch.Add(time.Duration(n)*500*time.Microsecond), 0, l.Key(strconv.Itoa(n)))
	}
	if l.Evicted() > 0 {
		t.Errorf("%d keys evicted by as many as there is room for", l.Evicted())
	}
}

// An ask may push out the entry that a later ask of the same request lies in;
// each of them still gets an entry of its own.
func TestAskPushesOutAsk(t *testing.T) {
	l := newLimiter(t, 1,
		Policy{Name: "four", Requests: 4, Window: time.Hour},
		Policy{Name: "three", Requests: 3, Window: time.Hour},
		Policy{Name: "one", Requests: 1, Window: time.Hour})
	if sets := len(l.shards[0].sets); sets != 2 {
		t.Fatalf("%d sets in a shard, want 2, so that all its keys share them", sets)
	}
	next := Key(0)
	inFirstShard := func(policy int) Ask {
		for next++; next.under(policy)>>56 != 0; {
			next++
		}
		return Ask{policy, next}
	}
	fullest := inFirstShard(1) // 1 of 3, after which all others have used 2 of 4
	l.Take1(epoch, 1, fullest.Key)
	for range 2*waysPerSet - 1 {
		other := inFirstShard(0)
		l.Take1(epoch, 0, other.Key)
		l.Take1(epoch, 0, other.Key)
	}
	newcomer := inFirstShard(2)
	if !l.Take(epoch, []Ask{newcomer, fullest}, make([]Result, 2)) {
		t.Fatal("the request was refused")
	}
	if l.Evicted() != 2 {
		t.Errorf("Evicted() = %d, want 2", l.Evicted())
	}
	if l.Take1(epoch, 2, newcomer.Key).Allowed {
		t.Error("the newcomer's request was not counted")
	}
	if got := l.Take1(epoch, 1, fullest.Key); got.Remaining != 0 || !got.Allowed {
		t.Errorf("the third of three requests: %+v", got)
	}
}

// Whatever the interleaving, a key gets its burst and no more, and requests that
// ask several policies in any order do not lock each other out.
func TestConcurrentTakes(t *testing.T) {
	policies := []Policy{
		{Name: "a", Requests: 1000, Window: time.Hour},
		{Name: "b", Requests: 1500, Window: time.Hour},
		{Name: "c", Requests: 5000, Window: time.Hour},
	}
	l := newLimiter(t, 100, policies...)
	var passed [4]atomic.Int64 // by key of policy 0
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(worker)))
			var results [3]Result
			for range 4000 {
				key := rng.Uint64N(4)
				asks := []Ask{{0, Key(key)}, {1, Key(key / 2)}, {2, 7}}
				rng.Shuffle(3, func(i, j int) { asks[i], asks[j] = asks[j], asks[i] })
				if l.Take(epoch, asks, results[:]) {
					passed[key].Add(1)
				}
			}
		})
	}
	all.Wait()
	got := [4]int64{passed[0].Load(), passed[1].Load(), passed[2].Load(), passed[3].Load()}
	if got[0]+got[1] != 1500 || got[2]+got[3] != 1500 || max(got[0], got[1], got[2], got[3]) > 1000 {
		t.Errorf("passed by key: %v, want 1500 of each pair and at most 1000 of each", got)
	}
}

func TestTakeAllocatesNothing(t *testing.T) {
	l := newLimiter(t, 1000, threePolicies...)
	addr, results := ipv6(1), make([]Result, 3)
	asks := make([]Ask, 3)
	n := 0
	if got := testing.AllocsPerRun(1000, func() {
		n++
		asks[0], asks[1], asks[2] = Ask{0, l.AddressKey(addr)}, Ask{1, l.Key("u_0123456789abcdefghij")}, Ask{2, Key(n)}
		l.Take(epoch, asks, results)
	}); got != 0 {
		t.Errorf("Take allocates %v times, want 0", got)
	}
}

func TestMisuse(t *testing.T) {
	l := newLimiter(t, 10, threePolicies...)
	for name, asks := range map[string][]Ask{
		"too many": make([]Ask, AsksMax+1), "twice": {{1, 1}, {1, 2}}, "unknown": {{3, 1}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			l.Take(epoch, asks, make([]Result, len(asks)))
		}()
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("too few results: no panic")
			}
		}()
		l.Take(epoch, []Ask{{0, 1}, {1, 1}}, make([]Result, 1))
	}()
	if got := l.Take1(epoch, 1, 1); got.Remaining != 1 { // which would hang if a lock were still held
		t.Errorf("after a panic: %+v, want 1 remaining of 2", got)
	}
	if got := l.Take(epoch, nil, nil); !got {
		t.Error("a request that asks no policy is refused")
	}
}

func TestPolicyErrors(t *testing.T) {
	good := Policy{Name: "x", Requests: 1, Window: time.Second}
	for want, change := range map[string]func(*Policy){
		`name ""`:             func(p *Policy) { p.Name = "" },
		`name "a\"b"`:         func(p *Policy) { p.Name = `a"b` },
		"65 bytes":            func(p *Policy) { p.Name = strings.Repeat("65 bytes", 9) },
		"0 requests":          func(p *Policy) { p.Requests = 0 },
		"1000001 requests":    func(p *Policy) { p.Requests = BurstMax + 1 },
		"burst -1":            func(p *Policy) { p.Burst = -1 },
		"burst 1000001":       func(p *Policy) { p.Burst = BurstMax + 1 },
		"window 1.5s":         func(p *Policy) { p.Window = 1500 * time.Millisecond },
		"window 0s":           func(p *Policy) { p.Window = 0 },
		"window 24h0m1s":      func(p *Policy) { p.Window = WindowMax + time.Second },
		"more than 8784h0m0s": func(p *Policy) { p.Window, p.Burst = WindowMax, BurstMax },
	} {
		p := good
		change(&p)
		_, err := New([16]byte{}, epoch, 1, p)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%+v): error %v, want one with %q", p, err, want)
		}
	}
	for _, keys := range []int{0, -1, keysMax + 1} {
		if _, err := New([16]byte{}, epoch, keys, good); err == nil {
			t.Errorf("New with room for %d keys: no error", keys)
		}
	}
	if _, err := New([16]byte{}, epoch, 1, make([]Policy, PoliciesMax+1)...); err == nil {
		t.Error("New with too many policies: no error")
	}
}
