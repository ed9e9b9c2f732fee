// Package limit says which requests are too many: rate limits by key, and a
// budget for retries. It is pure: the time is an argument, a secret is given,
// and nothing is done but counting. Everything is safe for concurrent use.
//
// # The algorithm
//
// A Limiter runs the generic cell rate algorithm (ITU-T I.371, "virtual
// scheduling") for every policy and key: of each it keeps one number, the
// theoretical arrival time, which is when the key's whole allowance will be
// back. A request moves it on by the emission interval, Window/Requests, and is
// refused where that would put it further than Burst intervals ahead. So a key
// may do Burst requests at once, and in the long run Requests per Window: in any
// span of time d at most Burst + d·Requests/Window. The interval is rounded to
// the nanosecond and at least a microsecond, so a rate is wrong by at most 0.05 %.
//
// # Several policies on one request
//
// A request asks several policies in one Take (its address, its subject, its
// route). It passes if every one of them lets it, and only then costs each of
// them one; a request that one policy refuses costs none of them anything. So
// hammering against a closed door does not keep it closed, and does not use up a
// subject's allowance from an address that is over its own.
//
// # Memory
//
// All policies share one table of fixed size, 16 bytes an entry (Limiter.Bytes
// has the sum): a key has two sets of 4 entries, a cache line each, in which it
// may lie. A key whose allowance is whole again, at the latest Burst intervals
// after its last request, is worth nothing and its entry is free. If all 8 are in
// use, the entry whose allowance is the fullest in proportion to its burst goes,
// and the newcomer starts afresh. So a flood of new keys, which have used one request
// each, pushes out its own kind: a key that is refused stays refused unless 7
// others that share its sets have also used all they had, and which keys those
// are cannot be known from outside, since the place comes from a hash under the
// secret. The newcomer does not inherit what its predecessor had used, which
// would punish honest newcomers for the flood. Evicted counts the keys that were
// forgotten too early. Some are even while no more than the promised number is
// live, where 8 entries are full by chance: with a million live keys in a table
// made for a million, 0.1 % more requests passed than should.
//
// An entry knows its key by 56 bits of the hash and its place: among 1,000,000
// keys the chance that any two are taken for one is about 10⁻⁵.
//
// # Times
//
// Times should carry Go's monotonic reading, as time.Now's do: then a step of the
// wall clock changes nothing.
package limit

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// PoliciesMax is how many policies a Limiter may have.
	PoliciesMax = 256
	// AsksMax is how many policies one request may ask.
	AsksMax = 8

	// BurstMax bounds a policy's burst, and its Requests: over a second or more
	// that is one per microsecond, at which rounding costs no more than 0.05 %.
	BurstMax = 1_000_000
	// WindowMax bounds a policy's window.
	WindowMax = 24 * time.Hour

	keysMax  = 64_000_000           // a Limiter's: 1.5 GB
	depthMax = 366 * 24 * time.Hour // of a burst; far from an overflow

	shardCount    = 256 // locks
	waysPerSet    = 4   // entries of 16 bytes in a cache line of 64
	entriesPerKey = 1.5 // spare room, so that two sets of 4 are hardly ever both full
	shardBytes    = 128 // without its sets
)

// A Policy is a rate: Requests per Window for each key, of which Burst at once.
type Policy struct {
	Name     string        // of the header items: 1 to 64 of a-z, 0-9, '-', '_', '.'
	Requests int           // per Window, 1 to BurstMax
	Window   time.Duration // whole seconds, 1 s to WindowMax
	Burst    int           // 1 to BurstMax; 0 means Requests
}

// check returns what is wrong with a policy, or nil.
func (p Policy) check() error {
	switch {
	case !validName(p.Name):
		return fmt.Errorf("limit: policy name %q: want 1 to 64 of a-z, 0-9, '-', '_', '.'", p.Name)
	case p.Requests < 1 || p.Requests > BurstMax:
		return fmt.Errorf("limit: policy %s: %d requests, want 1 to %d", p.Name, p.Requests, BurstMax)
	case p.Burst < 0 || p.Burst > BurstMax:
		return fmt.Errorf("limit: policy %s: burst %d, want 0 to %d", p.Name, p.Burst, BurstMax)
	case p.Window < time.Second || p.Window > WindowMax || p.Window%time.Second != 0:
		return fmt.Errorf("limit: policy %s: window %v, want whole seconds, 1s to %v", p.Name, p.Window, WindowMax)
	case float64(p.Window)/float64(p.Requests)*float64(p.Burst) > float64(depthMax):
		return fmt.Errorf("limit: policy %s: a burst that takes more than %v to come back", p.Name, depthMax)
	}
	return nil
}

func validName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return 1 <= len(name) && len(name) <= 64
}

// A rule is a policy as the table needs it.
type rule struct {
	Policy
	interval int64  // ns between two requests at the policy's rate
	depth    int64  // ns that the burst is worth: Burst intervals
	item     string // of RateLimit-Policy
}

// A Result is what one policy says of one request.
type Result struct {
	Allowed    bool          // by this policy; the request passes if every policy says so
	Remaining  int           // requests that could follow at once
	ResetAfter time.Duration // until the whole burst is back
	RetryAfter time.Duration // until one more request could pass; 0 if one could now
}

// An Ask is one policy's question in a request: may this key do one more?
type Ask struct {
	Policy int // index into the policies given to New
	Key    Key
}

// A Limiter counts by policy and key. Make one with New.
type Limiter struct {
	rules   []rule
	secret  [2]uint64
	start   time.Time
	evicted atomic.Uint64
	shards  []shard
}

// A shard is a part of the table under one lock. It is as long as two cache
// lines, so that no two locks share one.
type shard struct {
	mu   sync.Mutex
	sets []set // guarded by mu
	_    [shardBytes - 8 - 24]byte
}

type set [waysPerSet]entry

// An entry with a full at or before now is free.
type entry struct {
	tag  uint64 // the key's hash, its low 8 bits replaced by the policy's index
	full int64  // ns after start when the whole allowance is back: GCRA's theoretical arrival time
}

// New returns a Limiter with room for keys live keys in all, over all policies
// (rounded up). The secret decides where keys lie and should be random; start is
// any time not after the first request's, of the same clock.
func New(secret [16]byte, start time.Time, keys int, policies ...Policy) (*Limiter, error) {
	if keys < 1 || keys > keysMax {
		return nil, fmt.Errorf("limit: room for %d keys, want 1 to %d", keys, keysMax)
	}
	if len(policies) > PoliciesMax {
		return nil, fmt.Errorf("limit: %d policies, want at most %d", len(policies), PoliciesMax)
	}
	l := &Limiter{secret: secretWords(secret), start: start, shards: make([]shard, shardCount)}
	var problems []error
	for _, p := range policies {
		if err := p.check(); err != nil {
			problems = append(problems, err)
			continue
		}
		if p.Burst == 0 {
			p.Burst = p.Requests
		}
		interval := (int64(p.Window) + int64(p.Requests)/2) / int64(p.Requests)
		l.rules = append(l.rules, rule{p, interval, interval * int64(p.Burst), policyItem(p)})
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	const keysPerSet = waysPerSet * shardCount / entriesPerKey
	perShard := max(2, int((float64(keys)+keysPerSet-1)/keysPerSet))
	all := make([]set, perShard*shardCount)
	for i := range l.shards {
		l.shards[i].sets = all[i*perShard : (i+1)*perShard]
	}
	return l, nil
}

// Bytes returns the size of the table in bytes; it never changes.
func (l *Limiter) Bytes() int {
	return len(l.shards) * (shardBytes + len(l.shards[0].sets)*waysPerSet*16)
}

// Evicted returns how many keys were forgotten before their allowance was whole
// again, since the table was full where they lay.
func (l *Limiter) Evicted() uint64 { return l.evicted.Load() }

// Policy returns the policy of an index, its Burst filled in.
func (l *Limiter) Policy(i int) Policy { return l.rules[i].Policy }

// Take asks one request's policies, each at most once, and reports whether all
// of them let it pass. Only then it costs each of them one. results gets one
// Result for each ask; nothing is allocated. Take panics if there are more than
// AsksMax asks, fewer results than asks, an unknown policy or one asked twice:
// these are mistakes of the program, not of the client.
func (l *Limiter) Take(now time.Time, asks []Ask, results []Result) bool {
	var places [AsksMax]place
	l.locate(asks, &places)
	results = results[:len(asks)] // panics here, if it does, and not under a lock
	at := max(0, int64(now.Sub(l.start)))

	var held [AsksMax]uint8
	locked := lockOrder(places[:len(asks)], &held)
	for _, i := range locked {
		l.shards[i].mu.Lock()
	}
	passes := true
	for i := range asks {
		p := &places[i]
		p.entry = l.shards[p.shard].find(p)
		if p.entry != nil {
			p.full = p.entry.full
		}
		p.full = max(p.full, at)
		passes = passes && p.full+p.rule.interval-at <= p.rule.depth
	}
	for i := range asks {
		p := &places[i]
		allowed := p.full+p.rule.interval-at <= p.rule.depth
		if passes {
			p.full += p.rule.interval
			l.keep(p, at)
		}
		results[i] = p.rule.result(allowed, p.full-at)
	}
	for _, i := range locked {
		l.shards[i].mu.Unlock()
	}
	return passes
}

// Take1 is Take for a request that asks one policy alone.
func (l *Limiter) Take1(now time.Time, policy int, key Key) Result {
	asks, results := [1]Ask{{policy, key}}, [1]Result{}
	l.Take(now, asks[:], results[:])
	return results[0]
}

// result describes a key whose whole allowance will be back in used.
func (r *rule) result(allowed bool, used int64) Result {
	left := max(0, r.depth-used)
	return Result{
		Allowed:    allowed,
		Remaining:  int(left / r.interval),
		ResetAfter: time.Duration(used),
		RetryAfter: time.Duration(max(0, used+r.interval-r.depth)),
	}
}

// A place is where an asked key lies, or would.
type place struct {
	rule  *rule
	tag   uint64
	full  int64  // of the key; not before now
	entry *entry // nil: it has none
	pair  [2]uint32
	shard uint8
}

// locate fills in the rule and the place of each ask.
func (l *Limiter) locate(asks []Ask, places *[AsksMax]place) {
	if len(asks) > AsksMax {
		panic("limit: one request asks more than AsksMax policies")
	}
	count := uint64(len(l.shards[0].sets))
	for i := range asks {
		a := &asks[i]
		for j := range i {
			if asks[j].Policy == a.Policy {
				panic("limit: one request asks a policy twice")
			}
		}
		h := a.Key.under(a.Policy)
		first := uint32(uint64(uint32(h)) * count >> 32)
		second := uint32((h >> 24 & (1<<32 - 1)) * count >> 32)
		if second == first {
			second = (first + 1) % uint32(count)
		}
		places[i] = place{
			rule:  &l.rules[a.Policy],
			tag:   h&^0xff | uint64(a.Policy),
			pair:  [2]uint32{first, second},
			shard: uint8(h >> 56),
		}
	}
}

// lockOrder returns the shards of places in ascending order, each once, so that
// two requests never wait for each other.
func lockOrder(places []place, held *[AsksMax]uint8) []uint8 {
	n := 0
	for i := range places {
		s, at := places[i].shard, n
		for at > 0 && held[at-1] > s {
			at--
		}
		if at > 0 && held[at-1] == s {
			continue
		}
		copy(held[at+1:n+1], held[at:n])
		held[at] = s
		n++
	}
	return held[:n]
}

// find returns the key's entry, or nil.
func (s *shard) find(p *place) *entry {
	for _, i := range p.pair {
		ways := &s.sets[i]
		for w := range ways {
			if ways[w].tag == p.tag {
				return &ways[w]
			}
		}
	}
	return nil
}

// keep writes the place's full into the key's entry, or into the one of its sets
// that is worth least.
func (l *Limiter) keep(p *place, at int64) {
	if p.entry != nil && p.entry.tag == p.tag { // and not taken since by an ask before it
		p.entry.full = p.full
		return
	}
	s := &l.shards[p.shard]
	e := l.fullest(&s.sets[p.pair[0]], &s.sets[p.pair[1]], at)
	if e.full > at {
		l.evicted.Add(1)
	}
	*e = entry{p.tag, p.full}
}

// fullest returns a free entry, of the set that has more of them, or else the
// one whose allowance is the fullest in proportion to its policy's burst.
func (l *Limiter) fullest(first, second *set, at int64) *entry {
	a, freeA := free(first, at)
	b, freeB := free(second, at)
	if freeA > 0 && freeA >= freeB {
		return a
	}
	if freeB > 0 {
		return b
	}
	least := &first[0]
	for _, ways := range [2]*set{first, second} {
		for w := range ways {
			if e := &ways[w]; l.lessUsed(e, least, at) {
				least = e
			}
		}
	}
	return least
}

// free returns a free entry of a set, if it has one, and how many.
func free(ways *set, at int64) (*entry, int) {
	var found *entry
	n := 0
	for w := range ways {
		if ways[w].full <= at {
			found = &ways[w]
			n++
		}
	}
	return found, n
}

// lessUsed compares what two entries have used, each as a part of its policy's
// depth, by the cross product.
func (l *Limiter) lessUsed(a, b *entry, at int64) bool {
	aHigh, aLow := bits.Mul64(uint64(a.full-at), uint64(l.rules[b.tag&0xff].depth))
	bHigh, bLow := bits.Mul64(uint64(b.full-at), uint64(l.rules[a.tag&0xff].depth))
	return aHigh < bHigh || aHigh == bHigh && aLow < bLow
}
