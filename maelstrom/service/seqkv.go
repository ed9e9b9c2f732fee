package service

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
)

const statesMax = 32 // that a seqKV remembers

// A seqKV runs requests that change nothing on any remembered state that is not older than the last that the client saw,
// and all others on the newest. Each client so sees a growing prefix of one order of writes, perhaps a short one.
//
// Upstream keeps the states in a ring and wraps around it: it takes what is too old for the ring from a newer state and
// writes down the old index, so that the client's next read may go back. With wraps we do the same.
type seqKV struct {
	rand     *rand.Rand
	wraps    bool
	newest   int                  // index of the newest state; the first, 0, is empty
	clients  map[string]int       // index of the state that a client saw last
	versions map[string][]version // by key, ascending; those that no remembered state needs are dropped at the next write
}

// A version is the value of a key from one state on.
type version struct {
	since int
	value string
}

func newSeqKV(r *rand.Rand, wraps bool) *seqKV {
	return &seqKV{rand: r, wraps: wraps, clients: map[string]int{}, versions: map[string][]version{}}
}

func (s *seqKV) run(src string, q request) json.RawMessage {
	index, state := s.pick(s.clients[src])
	current := s.at(state, q.key)
	next, _, reply := q.on(current)
	if next != current {
		next, _, reply = q.on(s.at(s.newest, q.key))
		s.append(q.key, next)
		index = s.newest
	}
	s.clients[src] = index
	return reply
}

// pick chooses the state for a client that saw one before, and the index under which the client will have seen it.
func (s *seqKV) pick(seen int) (index, state int) {
	index = seen + s.rand.IntN(s.newest-seen+1)
	if s.wraps {
		return index, s.newest - (s.newest-index)%statesMax
	}
	index = max(index, s.oldest())
	return index, index
}

func (s *seqKV) oldest() int { return s.newest - statesMax + 1 }

// at returns the value of a key in a state, "" for none.
func (s *seqKV) at(state int, key string) string {
	for _, v := range slices.Backward(s.versions[key]) {
		if v.since <= state {
			return v.value
		}
	}
	return ""
}

// append makes a new state, in which the key has the value, "" for none. It may equal the state before.
func (s *seqKV) append(key, value string) {
	s.newest++
	versions := append(s.versions[key], version{s.newest, value})
	unused := 0
	for unused+1 < len(versions) && versions[unused+1].since <= s.oldest() {
		unused++
	}
	s.versions[key] = slices.Delete(versions, 0, unused)
}
