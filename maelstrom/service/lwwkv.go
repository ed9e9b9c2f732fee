package service

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
)

// An lwwKV has two replicas that come together by chance: before every request one takes over what is newer in the other,
// or in itself, by Lamport clock, and then one of them answers. A write may be lost to an older one that has a greater
// timestamp. There is no create_if_not_exists.
//
// Upstream works out what a merge would give and then runs the request on the replicas as they were, so that they never
// come together. With apart we do the same.
type lwwKV struct {
	rand     *rand.Rand
	apart    bool
	replicas [2]replica
	differ   []string // all keys that may differ between replicas that merge, so that a merge looks at few
}

type replica struct {
	clock  int
	values map[string]stamped // by key
}

type stamped struct {
	ts    int
	value string
}

func newLWWKV(r *rand.Rand, apart bool) *lwwKV {
	return &lwwKV{rand: r, apart: apart, replicas: [2]replica{{values: map[string]stamped{}}, {values: map[string]stamped{}}}}
}

func (s *lwwKV) run(_ string, q request) json.RawMessage {
	if from, to := s.pick(), s.pick(); from != to {
		s.merge(from, to)
	}
	q.create = false
	on := s.pick()
	next, stored, reply := q.on(on.values[q.key].value)
	if stored {
		on.values[q.key] = stamped{on.clock, next}
		on.clock++
		if !s.apart { // else a merge finds nothing to take over
			s.differ = append(s.differ, q.key)
		}
	}
	return reply
}

func (s *lwwKV) pick() *replica { return &s.replicas[s.rand.IntN(len(s.replicas))] }

// merge brings what from has into to. Of two values with the same timestamp from's stays.
func (s *lwwKV) merge(from, to *replica) {
	to.clock = max(to.clock, from.clock)
	s.differ = slices.DeleteFunc(s.differ, func(key string) bool {
		theirs, ok := from.values[key]
		ours, both := to.values[key]
		if !ok || both && ours.ts > theirs.ts {
			return false
		}
		to.values[key] = theirs
		return true
	})
}
