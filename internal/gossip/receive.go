package gossip

import (
	"slices"
	"time"
)

// Receive takes a message from a peer and returns the entries that it made acceptable: each entry once, an origin's in
// order, and none before what it depends on. The driver writes them to Storage, in this order, and says Persisted.
func (n *Node) Receive(now time.Duration, from string, m Message) []Entry {
	n.advance(now)
	p := n.byName[from]
	if p == nil || m.Sender == 0 || slices.Contains(p.retired, m.Sender) {
		n.stats.Refused++
		return nil
	}
	if p.process != m.Sender {
		n.newProcess(p, m.Sender)
	}
	p.heardAt = now
	if m.Hub {
		n.hubHeardAt = now
		n.believe(now, from)
	}
	n.learn(p, m)
	accepted := n.take(p, m)
	if p.confirmed = p.confirmed || m.Heard == n.process && (m.Vector != nil || m.HasHash && !p.answer); p.confirmed {
		n.confirm()
	}
	n.react(now, p, m)
	return accepted
}

// newProcess notes that the peer was restarted. What it had is forgotten, for it may have lost it; and so are entries
// of its log that still wait here, for if it lost them it may number others like them.
func (n *Node) newProcess(p *peer, process uint64) {
	if p.process != 0 {
		p.retired = append(p.retired, p.process)
		p.retired = p.retired[max(0, len(p.retired)-retiredMax):]
		n.held.drop(func(e Entry) bool { return e.Origin.Node == p.name })
	}
	p.process, p.have, p.confirmed = process, Vector{}, false
}

// learn notes what the peer shows.
func (n *Node) learn(p *peer, m Message) {
	n.checkOwn(m)
	if len(p.have)+len(m.Vector) > 2*originsMax {
		p.have = Vector{}
	}
	p.have.Merge(m.Vector)
	if m.HasHash {
		if m.Hash == n.have.hash() {
			p.have.Merge(n.have)
		} else {
			p.answer, p.answerWhen = true, n.acceptedCount
		}
	}
}

// checkOwn looks for a peer that knows more of our own log than we do: then our state is an old copy, restored. That
// log becomes like a foreign one, and the next Append opens another.
func (n *Node) checkOwn(m Message) {
	current, newer := false, false
	check := func(o Origin, seq uint64) {
		if o.Node == n.self && seq > n.have[o] {
			current = current || o == n.own || o == n.candidate
			newer = newer || n.newest > 0 && o.Incarnation >= n.newest
		}
	}
	for o, seq := range m.Vector {
		check(o, seq)
	}
	for _, e := range m.Entries {
		check(e.Origin, e.Seq)
	}
	if current {
		n.own, n.candidate = Origin{}, Origin{}
	}
	if current || newer && !n.rollbackKnown {
		n.stats.Rollbacks++
		n.rollbackKnown = true
	}
}

// take accepts the entries that can be accepted, and holds back the others.
func (n *Node) take(p *peer, m Message) []Entry {
	var accepted []Entry
	for _, e := range m.Entries {
		if n.acceptable(e) {
			n.accept(e, n.push(m.Relay))
			accepted = append(accepted, e)
		} else if e.Seq <= n.accepted[e.Origin] {
			n.stats.Duplicates++
		} else {
			n.hold(e, m.Relay)
		}
	}
	for _, e := range m.Entries { // a sender has what it sends
		if _, known := n.accepted[e.Origin]; known {
			p.have.raise(e.Origin, e.Seq)
		}
	}
	for progress := len(accepted) > 0; progress; {
		progress = false
		n.held.drop(func(e Entry) bool { return e.Seq <= n.accepted[e.Origin] })
		for _, h := range n.held.entries {
			if n.acceptable(h.Entry) {
				n.accept(h.Entry, n.push(h.relay))
				accepted = append(accepted, h.Entry)
				progress = true
			}
		}
	}
	return accepted
}

func (n *Node) acceptable(e Entry) bool {
	seq, known := n.accepted[e.Origin]
	return e.Seq == seq+1 && n.accepted.Covers(e.Deps) && (known || len(n.accepted) < originsMax)
}

// push says what becomes of a received entry once it is persisted.
func (n *Node) push(relay bool) pendingID {
	relay = relay && n.profile.Topology == Hub
	return pendingID{push: relay || n.profile.Topology == Tree, relay: relay}
}

// react decides what the peer is to be sent.
func (n *Node) react(now time.Duration, p *peer, m Message) {
	if m.Ask || m.Relay && !n.relays() { // a spoke waits to see what it uploaded: here no batch will show it
		p.answer, p.answersAsk, p.answerWhen = true, p.answersAsk || m.Ask, n.acceptedCount
	}
	if n.upload.seq > 0 && p.name == n.upload.hub {
		n.uploadAcknowledged(now, p.have[n.own])
	}
	if m.Vector == nil {
		return
	}
	lacking := n.settled
	if m.Ask || m.Answer {
		lacking = n.have
	}
	if !p.have.Covers(lacking) && (m.Ask || m.Answer || now >= p.repairedAt+n.profile.Settle) {
		p.repair = true
	}
	if p.pullAt == never && !n.accepted.Covers(p.have) {
		p.pullAt = now + n.profile.Pull
	}
}

// relays says whether entries to be passed on are waiting, for the disk or for the next batch.
func (n *Node) relays() bool {
	return n.relaying || slices.ContainsFunc(n.pending, func(id pendingID) bool { return id.relay })
}

// heldBack keeps entries that wait for their dependencies, oldest first.
type heldBack struct {
	entries []heldEntry
	bytes   int
}

type heldEntry struct {
	Entry
	relay bool
}

// hold keeps an entry that cannot be accepted yet. The oldest give way: whoever sent them will show them again.
func (n *Node) hold(e Entry, relay bool) {
	h := &n.held
	if slices.ContainsFunc(h.entries, func(x heldEntry) bool { return x.Origin == e.Origin && x.Seq == e.Seq }) {
		n.stats.Duplicates++
		return
	}
	if len(e.Data) > heldBytesMax || len(e.Deps) > originsMax {
		n.stats.Dropped++
		return
	}
	n.stats.Held++
	h.entries = append(h.entries, heldEntry{e, relay})
	h.bytes += len(e.Data)
	for len(h.entries) > heldEntriesMax || h.bytes > heldBytesMax {
		h.bytes -= len(h.entries[0].Data)
		h.entries = slices.Delete(h.entries, 0, 1)
		n.stats.Dropped++
	}
}

func (h *heldBack) drop(gone func(Entry) bool) {
	h.entries = slices.DeleteFunc(h.entries, func(x heldEntry) bool { return gone(x.Entry) })
	h.bytes = 0
	for _, x := range h.entries {
		h.bytes += len(x.Data)
	}
}
