package main

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
)

const (
	currency = "KRW"
	bank     = 0             // the account that every other account's opening balance came from
	opening  = 1_000_000_000 // minor units of each account: no measured transfer is refused
	hotOne   = 1             // the hot account
	amounts  = 100           // a transfer moves 1 to this
)

// accountName names account i, of which bank is the only one that may go below zero.
func accountName(i int) string {
	if i == bank {
		return "bank"
	}
	return "a" + strconv.Itoa(i)
}

// order is a transfer to make, by the accounts' numbers.
type order struct {
	key      string
	from, to int
	amount   int64
}

// appendBody appends the order as pay's POST /transfers takes it, without its key.
func (o order) appendBody(dst []byte) []byte {
	return fmt.Appendf(dst, `{"from":%q,"to":%q,"amount":{"amount":"%d","currency":"%s"}}`,
		accountName(o.from), accountName(o.to), o.amount, currency)
}

// appendItem appends the order as an item of POST /transfers:batch.
func (o order) appendItem(dst []byte) []byte {
	return fmt.Appendf(dst, `{"key":"%s","from":%q,"to":%q,"amount":{"amount":"%d","currency":"%s"}}`,
		o.key, accountName(o.from), accountName(o.to), o.amount, currency)
}

// orders makes the orders of one client.
type orders struct {
	rng      *rand.Rand
	accounts int // numbers 1 to this
	hot      bool
}

// newOrders gives a client of a run orders whose keys no other client of any run with another seed has.
func newOrders(seed uint64, client, accounts int, hot bool) *orders {
	return &orders{rand.New(rand.NewPCG(seed, uint64(client))), accounts, hot}
}

// next draws two accounts evenly, or the hot one and another in either direction. The key is 128 random bits, as UUIDs are.
func (o *orders) next() order {
	from := 1 + o.rng.IntN(o.accounts)
	to := 1 + o.rng.IntN(o.accounts-1)
	if o.hot {
		from, to = hotOne, 1+to
		if o.rng.IntN(2) == 0 {
			from, to = to, from
		}
	} else if to >= from {
		to++
	}
	key := fmt.Sprintf("%016x%016x", o.rng.Uint64(), o.rng.Uint64())
	return order{key, from, to, 1 + o.rng.Int64N(amounts)}
}

// books are a system's balances and how many transfers made them.
type books struct {
	Balances  map[string]int64 `json:"balances"` // all of them, those we own positive: their sum is 0
	Transfers int              `json:"transfers"`
}

// tally is what was acknowledged.
type tally struct {
	moved []atomic.Int64 // by account
	acked atomic.Int64   // transfers
}

func newTally(accounts int) *tally { return &tally{moved: make([]atomic.Int64, accounts+1)} }

func (t *tally) add(o order) {
	t.moved[o.from].Add(-o.amount)
	t.moved[o.to].Add(o.amount)
	t.acked.Add(1)
}

// check fails unless after is before with exactly the acknowledged transfers, no account but the bank is below zero and the
// sum of all balances is 0.
func (t *tally) check(before, after books) error {
	if got, want := after.Transfers-before.Transfers, int(t.acked.Load()); got != want {
		return fmt.Errorf("%d transfers were acknowledged, the books have %d", want, got)
	}
	if len(after.Balances) != len(t.moved) {
		return fmt.Errorf("the books have %d accounts, want %d", len(after.Balances), len(t.moved))
	}
	var sum int64
	for i := range t.moved {
		name := accountName(i)
		got, want := after.Balances[name], before.Balances[name]+t.moved[i].Load()
		if got != want {
			return fmt.Errorf("the balance of %s is %d, its acknowledged transfers make %d", name, got, want)
		}
		if got < 0 && i != bank {
			return fmt.Errorf("the balance of %s is %d", name, got)
		}
		sum += got
	}
	if sum != 0 {
		return fmt.Errorf("the sum of all balances is %d", sum)
	}
	return nil
}
