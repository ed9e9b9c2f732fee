package services

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"dongne/maelstrom/services/books"
)

const recentPaymentsMax = 24 // of a kind, that clients may do something with

// A market is what all clients know: the accounts, and what can still be done with earlier payments. They do it to one and
// the same now and then, all at once.
type market struct {
	mu       sync.Mutex
	accounts []string  // guarded by mu
	holds    []string  // guarded by mu: the last ones that were acknowledged
	claims   []string  // guarded by mu: claimables
	paid     []string  // guarded by mu: what can be refunded
	moving   []string  // guarded by mu: transfers between shards that were seen on their way
	expiry   time.Time // guarded by mu: of the hold that ends last by its time
}

func newMarket() *market { return &market{} }

func keepRecent(list []string, id string) []string {
	if list = append(list, id); len(list) > recentPaymentsMax {
		list = slices.Delete(list, 0, 1)
	}
	return list
}

// learn notes a transfer that was made.
func (m *market) learn(kind, id, parent string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch kind {
	case "hold":
		m.holds = keepRecent(m.holds, id)
	case "claimable":
		m.claims = keepRecent(m.claims, id)
	case "transfer":
		m.paid = keepRecent(m.paid, id)
	case "capture":
		m.paid = keepRecent(m.paid, parent)
	}
}

// see notes a transfer that is on its way between shards.
func (m *market) see(e *books.Event) {
	if !e.Settling() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moving = keepRecent(m.moving, e.Subject)
}

// newest is the transfer that was last seen on its way between shards; "" if there is none.
func (m *market) newest() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.moving) == 0 {
		return ""
	}
	return m.moving[len(m.moving)-1]
}

// add notes an account that was opened.
func (m *market) add(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.accounts = append(m.accounts, id)
}

func (m *market) opened() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.accounts)
}

// expires notes a hold's time.
func (m *market) expires(at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at.After(m.expiry) {
		m.expiry = at
	}
}

func (m *market) lastExpiry() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.expiry
}

// one draws what can be done with something: "" if there is nothing yet.
func (m *market) one(r *rand.Rand, of func(*market) []string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := of(m)
	if len(list) == 0 {
		return ""
	}
	return list[r.IntN(len(list))]
}

func (m *market) hold(r *rand.Rand) string {
	return m.one(r, func(m *market) []string { return m.holds })
}
func (m *market) claim(r *rand.Rand) string {
	return m.one(r, func(m *market) []string { return m.claims })
}
func (m *market) payment(r *rand.Rand) string {
	return m.one(r, func(m *market) []string { return m.paid })
}
