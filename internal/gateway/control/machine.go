package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"dongne/internal/gossip"
	"dongne/internal/sharedlog"
)

// machine is what the log drives: it is the node, without showing these methods to its users.
type machine struct{ *Node }

// Prepare decides on changes, and takes in peers' messages.
func (m machine) Prepare(_ sharedlog.Position, requests []*request) []sharedlog.Prepared[answer] {
	m.mu.Lock()
	defer m.mu.Unlock()
	prepared := make([]sharedlog.Prepared[answer], len(requests))
	round := map[register]bool{} // what the slot changes already: who comes after it decides on what it made
	for i, q := range requests {
		if q.message != nil {
			prepared[i] = m.hear(q, round)
		} else {
			prepared[i] = m.accept(q, round)
		}
	}
	return prepared
}

func (m machine) hear(q *request, round map[register]bool) (p sharedlog.Prepared[answer]) {
	for _, e := range m.gossip.Receive(m.elapsed(), q.from, *q.message) {
		if entry, err := decodeEntry(e.Data); err == nil {
			round[entry.register()] = true
		}
		p.Commands = append(p.Commands, e.AppendBinary(nil))
	}
	m.note(q.from, q.message)
	p.Done = len(p.Commands) == 0
	return p
}

// accept turns a change into the entry to write, or says why there is none.
func (m machine) accept(q *request, round map[register]bool) (p sharedlog.Prepared[answer]) {
	of := register{q.route, q.kind}
	if round[of] {
		return sharedlog.Prepared[answer]{Later: true}
	}
	refuse := func(err error) sharedlog.Prepared[answer] {
		return sharedlog.Prepared[answer]{Done: true, Result: answer{err: err}}
	}
	stands := m.history.state.registers[of]
	if q.once && q.ID != "" && q.ID == stands.RequestID && q.By == stands.By && q.what == stands.What {
		return sharedlog.Prepared[answer]{Done: true, Result: answer{entry: stands}}
	}
	if !q.Expect.IsZero() && q.Expect != stands.Stamp {
		return refuse(fmt.Errorf("%w: %s of %s is at %v, not at %v", ErrChanged, q.kind, q.route, stands.Stamp, q.Expect))
	}
	value, err := q.next(stands.Value, m.options.Rand.Uint64())
	if err != nil {
		return refuse(err)
	}
	now := m.options.Now()
	m.clock = m.clock.next(now, m.options.Self)
	e := Entry{Stamp: m.clock, At: now.UTC().Truncate(time.Millisecond), By: q.By, RequestID: q.ID,
		Route: q.route, Kind: q.kind, What: q.what}
	if e.Value, err = json.Marshal(value); err != nil {
		panic(fmt.Sprintf("control: a value that cannot be encoded: %v", err))
	}
	round[of] = true
	entry := m.gossip.Append(m.elapsed(), e.encode())
	return sharedlog.Prepared[answer]{Commands: [][]byte{entry.AppendBinary(nil)}}
}

// Abandon forgets what was accepted: the disk was full.
func (m machine) Abandon() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gossip.Discard()
}

// Apply takes in a slot that is on disk.
func (m machine) Apply(b *sharedlog.Batch) []answer {
	m.mu.Lock()
	defer m.mu.Unlock()
	answers := make([]answer, len(b.Commands))
	routes := map[string]bool{}
	for i, c := range b.Commands {
		e, err := gossip.ParseEntry(c.Data)
		if err == nil {
			var current bool
			if answers[i].entry, current, err = m.history.add(e); current {
				routes[answers[i].entry.Route] = true
			}
		}
		if err != nil {
			panic(fmt.Sprintf("control: slot %d was written by something else: %v", b.Slot, err))
		}
	}
	if m.slots++; m.slots >= snapshotSlots {
		wake(m.grown)
	}
	if m.gossip != nil {
		m.show(routes, len(b.Commands))
	}
	return answers
}

// show lets the world know of what was applied: requests, watchers and peers.
func (m machine) show(routes map[string]bool, count int) {
	if newest := m.history.state.Newest(); m.clock.Compare(newest) < 0 {
		m.clock = newest
	}
	table := m.Table()
	for name := range routes {
		table = table.with(name, &m.history.state, m.options.Now())
	}
	m.table.Store(table)
	m.gossip.Persisted(m.elapsed(), count)
	m.history.compact(m.gossip.Stable)
	close(m.changed)
	m.changed = make(chan struct{})
	m.checkSynced()
	wake(m.kick)
}

// Snapshot implements sharedlog.Machine.
func (m machine) Snapshot() ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slots = 0
	return m.history.snapshot(), true
}

// Restore implements sharedlog.Machine. It is called before anything else is.
func (m machine) Restore(b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gossip != nil {
		return errors.New("control: a running log was replaced by a snapshot")
	}
	h, err := restoreHistory(b)
	if err == nil {
		m.history = h
	}
	return err
}

// storage is the history as gossip reads it, while the node's lock is held.
type storage struct{ *Node }

// Entries implements gossip.Storage.
func (s storage) Entries(o gossip.Origin, after uint64, bytesMax int) []gossip.Entry {
	return s.history.Entries(o, after, bytesMax)
}
