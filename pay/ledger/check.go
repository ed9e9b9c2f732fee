package ledger

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
)

// Check verifies everything that must hold after any slot, in time linear in the state, and says what does not:
//
//   - per currency, balances add up to zero
//   - an account's postings add up to its balance, one by one, numbered without gaps; the legs of a record add up to zero
//   - holds add up to what is held; available is not negative unless overdraft is allowed
//   - captured + voided + remaining (with what moves) = authorised; refunds do not exceed what was captured, nor what each
//     receiver received
//   - every key decided something that exists
//   - every account that has an owner is among his, in order
func (s *State) Check() error {
	if err := s.checkPostings(); err != nil {
		return err
	}
	held, incoming, err := s.checkRoots()
	if err != nil {
		return err
	}
	s.addCrossings(incoming)
	sums := map[Currency]*big.Int{}
	for n := 1; n < s.accounts.n; n++ {
		a := s.accounts.at(uint32(n))
		if sums[a.currency] == nil {
			sums[a.currency] = new(big.Int)
		}
		sums[a.currency].Add(sums[a.currency], big.NewInt(a.posted))
		switch {
		case a.held != held[a.id]:
			return fmt.Errorf("ledger: account %q holds %d, its holds add up to %d", a.id, a.held, held[a.id])
		case a.incoming != incoming[a.id]:
			return fmt.Errorf("ledger: account %q expects %d, what is on its way adds up to %d", a.id, a.incoming, incoming[a.id])
		case a.available() < 0 && !a.overdraft():
			return fmt.Errorf("ledger: account %q has %d available without overdraft", a.id, a.available())
		case a.closed() && (a.posted != 0 || a.held != 0 || a.incoming != 0):
			return fmt.Errorf("ledger: account %q is closed and not empty", a.id)
		}
	}
	for c, sum := range sums {
		if sum.Sign() != 0 {
			return fmt.Errorf("ledger: the balances of %v add up to %v", c, sum)
		}
	}
	if err := s.checkOwners(); err != nil {
		return err
	}
	return s.checkKeys()
}

// checkOwners looks for accounts that are missing among their owner's, or are there without being his.
func (s *State) checkOwners() error {
	listed := 0
	for user, accounts := range s.owned {
		listed += len(accounts)
		for i, n := range accounts {
			if s.accounts.at(n).owner != user || i > 0 && accounts[i-1] >= n {
				return fmt.Errorf("ledger: account %q is listed as user %q's, or in the wrong place", s.accounts.at(n).id, *s.users.at(user))
			}
		}
	}
	for n := 1; n < s.accounts.n; n++ {
		if s.accounts.at(uint32(n)).owner != 0 {
			listed--
		}
	}
	if listed != 0 {
		return fmt.Errorf("ledger: %d accounts more are listed as users' than have an owner", listed)
	}
	return nil
}

// checkPostings adds up each account's statement and each record's legs.
func (s *State) checkPostings() error {
	balance, entries := make([]int64, s.accounts.n), make([]uint32, s.accounts.n)
	sum, legs := int64(0), uint8(0)
	for n := 1; n < s.postings.n; n++ {
		p := s.postings.at(uint32(n))
		balance[p.account] += p.amount
		entries[p.account]++
		if p.balance != balance[p.account] || p.number != entries[p.account] {
			return fmt.Errorf("ledger: entry %d of account %q says balance %d after entry %d, it is %d", entries[p.account],
				s.accounts.at(p.account).id, p.balance, p.number, balance[p.account])
		}
		sum += p.amount
		legs++
		r := s.records.at(p.record)
		if legs == r.postings {
			if sum != 0 || r.posting+uint32(r.postings) != uint32(n)+1 {
				return fmt.Errorf("ledger: the legs of record %d add up to %d", p.record, sum)
			}
			sum, legs = 0, 0
		}
	}
	if legs != 0 {
		return fmt.Errorf("ledger: %d postings at the end belong to no record", legs)
	}
	for n := range balance {
		if a := s.accounts.at(uint32(n)); a.posted != balance[n] || a.entries != entries[n] {
			return fmt.Errorf("ledger: account %q has %d after %d entries, its entries say %d after %d", a.id, a.posted,
				a.entries, balance[n], entries[n])
		}
	}
	return nil
}

// checkRoots checks what is open, and returns by account what it holds and what may come back to it.
func (s *State) checkRoots() (held, incoming map[string]int64, err error) {
	held, incoming = map[string]int64{}, map[string]int64{}
	for _, rec := range slices.Sorted(maps.Keys(s.roots)) {
		r := s.roots[rec]
		kind := s.records.at(rec).kind
		open := r.remaining + r.moving
		back, received := int64(0), int64(0)
		for _, h := range r.receivedBy {
			back, received = back+h.back, received+h.received
			if h.back < 0 || h.back > h.received {
				return nil, nil, fmt.Errorf("ledger: %q gave back %d of %d of record %d", h.account, h.back, h.received, rec)
			}
		}
		switch {
		case min(r.remaining, r.moving, r.captured, r.voided, r.refunded) < 0, r.captured+r.voided+open != r.amount:
			return nil, nil, fmt.Errorf("ledger: record %d: captured %d + voided %d + remaining %d is not %d", rec, r.captured,
				r.voided, open, r.amount)
		case r.refunded > r.captured, r.refunded != back, r.captured != received:
			return nil, nil, fmt.Errorf("ledger: record %d: %d of %d refunded, receivers gave back %d of %d", rec, r.refunded,
				r.captured, back, received)
		case (open > 0) != (r.status == statusHeld || r.status == statusClaimable):
			return nil, nil, fmt.Errorf("ledger: record %d is %s with %d open", rec, statusTexts[r.status], open)
		case kind == recHold && r.remaining > 0:
			held[r.payer] += reserved(s.accounts.at(s.find(r.payer)), r.remaining)
		case kind == recClaimable:
			incoming[r.payer] += open
			held[r.payer] += returned(s.accounts.at(s.find(r.payer)), open)
		}
	}
	return held, incoming, nil
}

// addCrossings adds what may come of transfers between shards.
func (s *State) addCrossings(incoming map[string]int64) {
	add := func(legs []Leg) {
		for _, leg := range legs {
			if s.here(leg.Account) {
				incoming[leg.Account] += abs(leg.Amount)
			}
		}
	}
	for _, c := range s.settling {
		add(c.legs)
	}
	for _, p := range s.portions {
		if p.pending {
			add(s.kept(p.record).Legs)
		}
	}
}

func (s *State) checkKeys() error {
	if len(s.byKey) != s.keys.n {
		return fmt.Errorf("ledger: %d keys are known, %d were used", len(s.byKey), s.keys.n)
	}
	for n := range s.keys.n {
		if k := s.keys.at(uint32(n)); int(k.record) >= s.records.n || k.record != 0 && k.code != 0 {
			return fmt.Errorf("ledger: key %x decided record %d and refusal %v", k.key, k.record, k.code)
		}
	}
	for rec, c := range s.settling {
		if s.records.at(rec).fate != settling || c.used != 0 && s.keys.at(c.used-1).record != rec {
			return fmt.Errorf("ledger: record %d is settling and not what its key decided", rec)
		}
	}
	return nil
}

// Transit returns the balance of this shard's transit account in each currency: over all shards they add up to zero when
// nothing is settling.
func (s *State) Transit() map[Currency]int64 {
	sums := map[Currency]int64{}
	for n := 1; n < s.accounts.n; n++ {
		a := s.accounts.at(uint32(n))
		if what, _, system := cutSystem(a.id); system && what == transit && a.posted != 0 {
			sums[a.currency] = a.posted
		}
	}
	return sums
}
