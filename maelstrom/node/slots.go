package node

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"dongne/internal/sharedlog"
)

const (
	// storeTimeout is how long the store may take to answer before it is asked again, at first a quarter of it.
	storeTimeout = time.Second
	// slotsAheadMax bounds how many slots a node that is behind asks for at once.
	slotsAheadMax = 128
	// triesMax bounds the tries of one operation whose answers still count.
	triesMax = 64
	// slotBytesMax bounds a batch: in base64, twice in the text of a refusal, it still fits into a line.
	slotBytesMax = 12 << 10
)

// ids numbers requests, no two alike in all starts of a node: the answer to one that a killed process made must not be
// taken for that to another's. The numbers stay below 2^53, which every JSON library reads.
type ids struct{ last int64 }

func newIDs(incarnation uint64) *ids { return &ids{int64(incarnation%(1<<32)) << 20} }

func (n *ids) next() int64 {
	n.last++
	return n.last
}

// slots keeps a shared log in a key-value store, seq-kv or lin-kv: slot 17 is the key "log/17", its value the batch in
// base64. It carries out one operation of a sharedlog.Replica at a time.
//
// A slot is created by a cas that sets a missing key, and never succeeds on one that is there: it compares with null, and
// values are strings. That is exact even over seq-kv, whose reads are stale: a request that would change the state is
// decided on the newest state, and a refusal, fresh or stale, says that the slot is there, as slots stay what they are.
// So is a read that finds one. A read that finds none proves nothing, nor does silence; then the Replica, or we, ask for
// the same again, and an answer to any of the tries is one to all. Reads need no recency of their own: what a node must
// not miss it learns by creating a slot, which is the write that moves its view of seq-kv to the newest state.
type slots struct {
	store string
	ids   *ids
	op    sharedlog.Op      // under way; OpNone: none
	wait  time.Duration     // from a try to the next
	due   time.Duration     // of the next
	asked map[int64]asking  // by msg_id: tries of op, and reads of slots behind it
	ahead map[uint64][]byte // slots that were read before their turn
	come  *came             // the result of op
	send  []Message
}

type asking struct {
	slot   uint64
	create bool
}

// came is what came of an operation: a create's outcome, or what a get found, nil for nothing.
type came struct {
	kind    sharedlog.OpKind
	outcome sharedlog.Outcome
	data    []byte
}

func newSlots(store string, ids *ids) *slots {
	return &slots{store: store, ids: ids, asked: map[int64]asking{}, ahead: map[uint64][]byte{}}
}

func (s *slots) busy() bool { return s.op.Kind != sharedlog.OpNone }

// begin begins an operation. A get asks for so many slots at once, as the ones behind it will be wanted next.
func (s *slots) begin(now time.Duration, op sharedlog.Op, count int) {
	s.op, s.wait = op, storeTimeout/4
	s.due = now + s.wait
	data, known := s.ahead[op.Slot]
	switch {
	case known && op.Kind == sharedlog.OpCreate:
		s.come = &came{outcome: sharedlog.Taken}
		return
	case known:
		s.come = &came{data: data}
		return
	case op.Kind == sharedlog.OpCreate:
		s.create()
		return
	}
	waiting := map[uint64]bool{}
	for _, a := range s.asked {
		waiting[a.slot] = true
	}
	for slot := op.Slot; slot < op.Slot+uint64(count); slot++ {
		if !waiting[slot] && s.ahead[slot] == nil {
			s.get(slot)
		}
	}
}

func (s *slots) create() {
	s.request(asking{s.op.Slot, true}, body{"type": "cas", "from": nil, "to": base64.StdEncoding.EncodeToString(s.op.Data),
		"create_if_not_exists": true})
}

func (s *slots) get(slot uint64) { s.request(asking{slot, false}, body{"type": "read"}) }

func (s *slots) request(a asking, b body) {
	id := s.ids.next()
	s.asked[id] = a
	b["msg_id"], b["key"] = id, fmt.Sprint("log/", a.slot)
	s.send = append(s.send, Message{s.store, b})
}

// expire asks again for what was not answered in time.
func (s *slots) expire(now time.Duration) {
	if !s.busy() || s.come != nil || now < s.due {
		return
	}
	if len(s.asked) >= triesMax+slotsAheadMax {
		delete(s.asked, slices.Min(slices.Collect(maps.Keys(s.asked))))
	}
	s.wait = min(2*s.wait, storeTimeout)
	s.due = now + s.wait
	if s.op.Kind == sharedlog.OpCreate {
		s.create()
	} else {
		s.get(s.op.Slot)
	}
}

// receive takes an answer of the store.
func (s *slots) receive(r reply) {
	a, known := s.asked[*r.InReplyTo]
	if !known {
		return
	}
	delete(s.asked, *r.InReplyTo)
	current := s.busy() && s.come == nil && s.op.Slot == a.slot && a.create == (s.op.Kind == sharedlog.OpCreate)
	switch {
	case r.Type == "read_ok" && !a.create:
		data := r.slot()
		if current {
			s.come = &came{data: data}
		} else if a.slot > s.op.Slot {
			s.ahead[a.slot] = data
		}
	case !current:
	case r.Type == "cas_ok":
		s.come = &came{outcome: sharedlog.Created}
	case r.Type == "error" && r.Code == codePreconditionFailed && a.create:
		s.come = &came{outcome: sharedlog.Taken}
	case r.Type == "error" && r.Code == codeKeyDoesNotExist && !a.create:
		s.come = &came{}
	}
}

// slot returns the batch of a read_ok; what is none becomes a batch that no Replica takes.
func (r reply) slot() []byte {
	var text string
	if json.Unmarshal(r.Value, &text) == nil {
		if data, err := base64.StdEncoding.DecodeString(text); err == nil {
			return data
		}
	}
	return []byte{}
}

// result returns what came of the operation, which is then over; nil: nothing yet.
func (s *slots) result() *came {
	c := s.come
	if c == nil {
		return nil
	}
	if c.kind = s.op.Kind; c.data != nil {
		delete(s.ahead, s.op.Slot)
	}
	for id, a := range s.asked {
		if a.create || a.slot <= s.op.Slot && c.outcome != sharedlog.Taken {
			delete(s.asked, id)
		}
	}
	s.come, s.op = nil, sharedlog.Op{}
	return c
}

// wake returns when expire must be called at the latest.
func (s *slots) wake() time.Duration {
	if !s.busy() {
		return math.MaxInt64
	}
	return s.due
}
