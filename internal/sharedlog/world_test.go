package sharedlog_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"dongne/internal/sharedlog"
)

// set is the machine under test: it keeps the ids it was asked for in the order in which they were applied, each once.
// Its answer is the place of an id, from 1.
type set struct {
	ids      []int
	place    map[int]int
	prepared int // commands prepared but neither applied nor abandoned
	times    []int64
}

func newSet() *set { return &set{place: map[int]int{}} }

func (m *set) Prepare(_ sharedlog.Position, requests []int) []sharedlog.Prepared[int] {
	if m.prepared != 0 {
		panic("Prepare after Prepare")
	}
	var prepared []sharedlog.Prepared[int]
	ahead := map[int]bool{}
	for _, id := range requests {
		if place, ok := m.place[id]; ok {
			prepared = append(prepared, sharedlog.Prepared[int]{Done: true, Result: place})
			continue
		}
		commands := [][]byte{binary.AppendVarint(nil, int64(id))}
		if id%3 == 0 && !ahead[id] { // a request of two commands: an answer must be that of the last
			commands = append([][]byte{binary.AppendVarint(nil, int64(-id))}, commands...)
		}
		ahead[id] = true
		m.prepared += len(commands)
		prepared = append(prepared, sharedlog.Prepared[int]{Commands: commands})
	}
	return prepared
}

func (m *set) Apply(b *sharedlog.Batch) []int {
	m.prepared = 0
	m.times = append(m.times, b.Time)
	var places []int
	for _, c := range b.Commands {
		id, n := binary.Varint(c.Data)
		if n != len(c.Data) {
			panic("not our command")
		}
		if _, ok := m.place[int(id)]; !ok {
			m.ids = append(m.ids, int(id))
			m.place[int(id)] = len(m.ids)
		}
		places = append(places, m.place[int(id)])
	}
	return places
}

func (m *set) Abandon() { m.prepared = 0 }

func (m *set) Snapshot() ([]byte, bool) {
	state, err := json.Marshal(m.ids)
	return state, err == nil
}

func (m *set) Restore(state []byte) error {
	*m = *newSet()
	if err := json.Unmarshal(state, &m.ids); err != nil {
		return err
	}
	for i, id := range m.ids {
		m.place[id] = i + 1
	}
	return nil
}

// fate is what the engine does to one operation.
type fate int

const (
	honest     fate = iota
	lostAnswer      // it happens, the answer is lost
	lostCall        // it does not happen, nobody knows
	late            // a create happens at some later time, nobody knows
	full            // a create is refused for want of space
	stale           // a get finds nothing, though there may be something
	fates
)

// mutant is something wrong on purpose, which the checks must catch.
type mutant int

const (
	none              mutant = iota
	engineOverwrites         // create replaces what stands in the slot
	engineLosesSlot          // a created slot is not there
	unknownIsCreated         // the driver takes a lost answer for success
	unknownIsRefused         // the driver takes a lost answer for a refusal
	sharedIsExclusive        // the replica believes that no one else writes
	sameWriter               // two replicas share an identity
	trimDeletes              // trimming deletes slots without a floor
	mutants
)

var mutantNames = [mutants]string{
	"none", "engine overwrites", "engine loses a slot", "unknown is created", "unknown is refused", "shared is exclusive",
	"same writer", "trim deletes",
}

// world is several replicas over one engine. Nothing in it happens by itself.
type world struct {
	mutant    mutant
	exclusive bool
	slots     map[uint64][]byte
	floor     uint64
	snapshot  *sharedlog.Snapshot
	late      []sharedlog.Op
	nodes     []*node
	now       int64
	starts    byte // writers given out
	steps     int
	tries     []*try
	fault     string // the first thing that a step found wrong
}

// node is one replica and its driver.
type node struct {
	replica *sharedlog.Replica[int, int]
	machine *set
	op      sharedlog.Op // under way
}

// try is one request, at one replica.
type try struct {
	node         *node
	id           int // 0: a fresh read
	asked, ended int // steps; ended 0 while open
	outcome      sharedlog.Outcome
	place        int
	seen         int // of a fresh read: places in memory when it was answered
}

const worldBatchRequests = 4

// newWorld has a number of replicas before slot 1. A single one has the engine for itself.
func newWorld(nodes int, m mutant) *world {
	w := &world{mutant: m, exclusive: nodes == 1 || m == sharedIsExclusive, slots: map[uint64][]byte{}, floor: 1, steps: 1}
	for range nodes {
		w.nodes = append(w.nodes, &node{})
		w.start(len(w.nodes) - 1)
	}
	return w
}

// restart kills node i, a create that was under way meeting its fate, and starts it anew.
func (w *world) restart(i int, f fate) {
	if op := w.nodes[i].op; op.Kind == sharedlog.OpCreate {
		w.create(op, f)
	}
	w.start(i)
}

// start starts node i with nothing but the log. The open requests of the one before it end unknown.
func (w *world) start(i int) {
	for _, t := range w.tries {
		if t.node == w.nodes[i] && t.ended == 0 {
			t.ended, t.outcome = w.steps, sharedlog.Unknown
		}
	}
	w.starts++
	writer := sharedlog.Writer{w.starts}
	if w.mutant == sameWriter {
		writer = sharedlog.Writer{1}
	}
	m := newSet()
	w.nodes[i] = &node{machine: m, replica: sharedlog.NewReplica(m, sharedlog.Config{
		Writer: writer, BatchBytesMax: 1 << 10, BatchRequestsMax: worldBatchRequests, Exclusive: w.exclusive,
	})}
}

func (w *world) ask(i, id int) {
	w.steps++
	t := &try{node: w.nodes[i], id: id, asked: w.steps}
	w.tries = append(w.tries, t)
	if id == 0 {
		t.node.replica.AskFresh(t)
	} else {
		t.node.replica.Ask(t, id)
	}
}

// step lets node i begin an operation, or ends the one that is under way with a fate. It says whether anything happened.
func (w *world) step(i int, f fate) bool {
	w.steps++
	n := w.nodes[i]
	if n.op.Kind == sharedlog.OpNone {
		n.op = n.replica.Next(w.now)
		w.collect(n)
		return n.op.Kind != sharedlog.OpNone
	}
	op := n.op
	n.op = sharedlog.Op{}
	if op.Kind == sharedlog.OpCreate {
		n.replica.Created(w.create(op, f))
	} else {
		w.get(n, op, f)
	}
	w.collect(n)
	return true
}

func (w *world) create(op sharedlog.Op, f fate) (sharedlog.Outcome, error) {
	lost := errors.New("connection lost")
	unknown := sharedlog.Unknown
	switch w.mutant {
	case unknownIsCreated:
		unknown = sharedlog.Created
	case unknownIsRefused:
		unknown = sharedlog.NotApplied
	}
	switch f {
	case lostAnswer:
		w.put(op)
		return unknown, lost
	case lostCall:
		return unknown, lost
	case late:
		if len(w.nodes) > 1 { // with one process, nothing is under way once it is known to have ended
			w.late = append(w.late, op)
		}
		return unknown, lost
	case full:
		return sharedlog.NotApplied, sharedlog.ErrFull
	}
	return w.put(op), nil
}

func (w *world) put(op sharedlog.Op) sharedlog.Outcome {
	_, exists := w.slots[op.Slot]
	switch {
	case w.mutant == engineOverwrites:
	case exists, op.Slot < w.floor && w.mutant != trimDeletes:
		return sharedlog.Taken
	case w.mutant == engineLosesSlot && op.Slot%5 == 0:
		return sharedlog.Created
	}
	w.slots[op.Slot] = bytes.Clone(op.Data)
	return sharedlog.Created
}

func (w *world) get(n *node, op sharedlog.Op, f fate) {
	data, ok := w.slots[op.Slot]
	switch {
	case f == lostAnswer || f == lostCall || f == late:
		n.replica.Missed()
	case f == stale && len(w.nodes) > 1, !ok && op.Slot >= w.floor: // an engine of one's own is never stale
		n.replica.Absent()
	case !ok:
		n.replica.Missed()
		if err := n.replica.Install(w.snapshot); err != nil {
			w.found("install at slot %d: %v", op.Slot, err)
		}
	default:
		if err := n.replica.Got(bytes.Clone(data)); err != nil {
			w.found("slot %d: %v", op.Slot, err)
		}
	}
}

// arrive lets a late create happen.
func (w *world) arrive(k int) {
	w.steps++
	w.put(w.late[k])
	w.late = slices.Delete(w.late, k, k+1)
}

// trim takes a snapshot of node i and removes the slots that it covers.
func (w *world) trim(i int) {
	s, ok := w.nodes[i].replica.Snapshot()
	if !ok || s.Slot < w.floor {
		return
	}
	w.snapshot, w.floor = s, s.Slot+1
	for slot := range w.slots {
		if slot < w.floor {
			delete(w.slots, slot)
		}
	}
}

func (w *world) collect(n *node) {
	for _, a := range n.replica.Answers() {
		t := a.Tag.(*try)
		if t.ended != 0 {
			w.found("request %d answered twice", t.id)
		}
		t.ended, t.outcome, t.place, t.seen = w.steps, sharedlog.OutcomeOf(a.Err), a.Result, len(n.machine.ids)
		if t.id != 0 && a.Err == nil && n.machine.place[t.id] != t.place {
			w.found("request %d answered with place %d, is at %d", t.id, t.place, n.machine.place[t.id])
		}
	}
}

func (w *world) found(format string, args ...any) {
	if w.fault == "" {
		w.fault = fmt.Sprintf(format, args...)
	}
}

// settle ends all faults and runs until nothing is left to do, which must take few steps.
func (w *world) settle() {
	for len(w.late) > 0 {
		w.arrive(0)
	}
	for i := range w.nodes {
		w.ask(i, 0)
	}
	for round := 0; ; round++ {
		busy := false
		for i := range w.nodes {
			busy = w.step(i, honest) || busy
		}
		if !busy {
			break
		}
		if round > 100*len(w.nodes)*(len(w.slots)+len(w.tries)+10) {
			w.found("does not come to rest")
			return
		}
	}
	for _, n := range w.nodes { // bring all up to the end: the last slot may be another's
		n.replica.Catchup()
	}
	for i := range w.nodes {
		for w.step(i, honest) {
		}
	}
}

// check returns the first thing wrong with the history, after settle.
func (w *world) check() error {
	if w.fault != "" {
		return errors.New(w.fault)
	}
	ids := w.nodes[0].machine.ids
	for i, n := range w.nodes {
		if !slices.Equal(n.machine.ids, ids) {
			return fmt.Errorf("node %d has %v, node 0 has %v", i, n.machine.ids, ids)
		}
		if !slices.IsSorted(n.machine.times) {
			return fmt.Errorf("node %d: time went back: %v", i, n.machine.times)
		}
	}
	return errors.Join(w.checkAnswers(ids), w.checkOrder(), w.checkChain())
}

// checkAnswers compares every answer with the log: applied is in it at that place, not_applied is not.
func (w *world) checkAnswers(ids []int) error {
	possible := map[int]bool{}
	for _, t := range w.tries {
		switch {
		case t.ended == 0:
			return fmt.Errorf("request %d was never answered", t.id)
		case t.id == 0 || t.outcome == sharedlog.NotApplied:
			continue
		case t.outcome == sharedlog.Applied && (t.place < 1 || t.place > len(ids) || ids[t.place-1] != t.id):
			return fmt.Errorf("request %d was answered with place %d of %v", t.id, t.place, ids)
		}
		possible[t.id] = true
	}
	seen := map[int]bool{}
	for _, id := range ids {
		if id < 0 {
			id = -id
		} else if seen[id] {
			return fmt.Errorf("%d is there twice: %v", id, ids)
		} else {
			seen[id] = true
		}
		if !possible[id] {
			return fmt.Errorf("%d is in the log, but every try of it was answered not_applied", id)
		}
	}
	return nil
}

// checkOrder verifies real time: what was answered before a request was asked stands before it in the log, unless that
// request repeats an earlier one, and is seen by a fresh read.
func (w *world) checkOrder() error {
	first := map[int]int{} // id to when it was first asked
	for _, t := range w.tries {
		if at, ok := first[t.id]; !ok || t.asked < at {
			first[t.id] = t.asked
		}
	}
	for _, late := range w.tries {
		if late.outcome != sharedlog.Applied {
			continue
		}
		for _, early := range w.tries {
			if early.outcome != sharedlog.Applied || early.id == 0 || early.ended >= late.asked {
				continue
			}
			if late.id == 0 && late.seen < early.place {
				return fmt.Errorf("a fresh read saw %d places, but %d was answered with place %d before", late.seen, early.id, early.place)
			}
			if late.id != 0 && early.ended < first[late.id] && late.place <= early.place {
				return fmt.Errorf("%d has place %d, but %d was answered with place %d before it was asked", late.id, late.place, early.id, early.place)
			}
		}
	}
	return nil
}

// checkChain walks the slots without a replica.
func (w *world) checkChain() error {
	batches := map[[2]any]uint64{}
	slot := w.floor
	for ; ; slot++ {
		data, ok := w.slots[slot]
		if !ok {
			break
		}
		b, err := sharedlog.DecodeBatch(data)
		if err != nil || b.Slot != slot {
			return fmt.Errorf("slot %d does not hold its batch: %v", slot, err)
		}
		if before, ok := w.slots[slot-1]; ok && sharedlog.Sum(before) != b.Prev {
			return fmt.Errorf("slot %d is not chained to the one before", slot)
		}
		key := [2]any{b.Writer, b.N}
		if other, ok := batches[key]; ok {
			return fmt.Errorf("slots %d and %d hold the same batch", other, slot)
		}
		batches[key] = slot
	}
	for s := range w.slots {
		if s < w.floor || s >= slot {
			return fmt.Errorf("slot %d stands outside of the log, %d to %d", s, w.floor, slot-1)
		}
	}
	return nil
}
