package verify

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"dongne/internal/token"
)

const waysMax = 8 // entries of a bucket; with their tags two cache lines

// entry is a verified token. It does not change.
type entry struct {
	raw    string
	hash   uint64
	claims *token.Claims
	key    *heldKey

	session, id any // what revokes it: a sessionID, or nil; and a tokenID. Boxed once, so that a look-up allocates nothing
}

// newEntry copies raw, which is usually part of a request's whole header.
func newEntry(raw string, hash uint64, c *token.Claims, key *heldKey) *entry {
	e := &entry{raw: string([]byte(raw)), hash: hash, claims: c, key: key, id: tokenID(c.ID)}
	if c.Session != "" {
		e.session = sessionID(c.Session)
	}
	return e
}

// cache remembers verified tokens in a fixed table: a token's hash picks a bucket, and in a full bucket the token
// that expires first makes room. Readers take no lock. A tag is only a hint: find compares the whole text, so neither
// a collision nor a slot in mid-change can take one token for another.
type cache struct {
	mu      sync.Mutex // for writers
	buckets []bucket
	mask    uint64
}

type bucket struct {
	tags    [waysMax]atomic.Uint64 // the hash of the entry beside
	entries [waysMax]atomic.Pointer[entry]
}

// newCache has room for at least the given number of tokens.
func newCache(tokens int) *cache {
	n := 1 << bits.Len(uint(max((tokens+waysMax-1)/waysMax, 1)-1))
	return &cache{buckets: make([]bucket, n), mask: uint64(n - 1)}
}

// find returns the entry of a token, or nil.
func (c *cache) find(hash uint64, raw string) *entry {
	b := &c.buckets[hash&c.mask]
	for i := range b.tags {
		if b.tags[i].Load() != hash {
			continue
		}
		if e := b.entries[i].Load(); e != nil && e.raw == raw {
			return e
		}
	}
	return nil
}

// put adds an entry, in place of the same token's if it is there.
func (c *cache) put(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := &c.buckets[e.hash&c.mask]
	at, soonest := 0, time.Time{}
	for i := range b.entries {
		old := b.entries[i].Load()
		if old != nil && old.raw == e.raw {
			at = i
			break
		}
		var ends time.Time // of an empty slot: long ago
		if old != nil {
			ends = old.claims.Expires
		}
		if i == 0 || ends.Before(soonest) {
			at, soonest = i, ends
		}
	}
	b.entries[at].Store(e)
	b.tags[at].Store(e.hash)
}

// sweep forgets what is expired at now.
func (c *cache) sweep(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.buckets {
		for j := range c.buckets[i].entries {
			slot := &c.buckets[i].entries[j]
			if e := slot.Load(); e != nil && !now.Before(e.claims.Expires) {
				slot.Store(nil)
			}
		}
	}
}

// size counts the entries.
func (c *cache) size() (n int) {
	for i := range c.buckets {
		for j := range c.buckets[i].entries {
			if c.buckets[i].entries[j].Load() != nil {
				n++
			}
		}
	}
	return n
}
