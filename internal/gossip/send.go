package gossip

import "time"

// upload is what this node, as a spoke, gave the hub and the hub has not shown yet.
type upload struct {
	hub   string
	seq   uint64        // of own; 0: nothing outstanding
	acked uint64        // of own, by any hub
	at    time.Duration // of the last try; never: nothing outstanding
	tries int
}

// Ready returns the messages to send now, at most one per peer.
func (n *Node) Ready(now time.Duration) []Envelope {
	if len(n.peers) == 0 {
		n.forgetFresh()
		return nil
	}
	n.advance(now)
	n.tick(now)
	n.checkUpload(now)
	push, targets := n.flush(now)
	var out []Envelope
	for _, p := range n.peers {
		if m, ok := n.compose(now, p, push, targets(p)); ok {
			out = append(out, Envelope{p.name, m})
		}
	}
	return out
}

// Wake returns the time at which Ready must be called at the latest.
func (n *Node) Wake() time.Duration {
	if len(n.peers) == 0 {
		return never
	}
	wake := min(n.tickAt, n.flushDue(), n.uploadDue())
	for _, p := range n.peers {
		if p.repair || p.show || p.ask || n.answerDue(p) {
			return 0
		}
		wake = min(wake, p.pullAt)
	}
	return wake
}

// tick shows the next peer what we have, unless a hub keeps everybody informed anyway.
func (n *Node) tick(now time.Duration) {
	if now < n.tickAt {
		return
	}
	if n.tickAt > 0 {
		n.tickAt = now + n.profile.Tick
	} else { // the first, spread over the tick
		n.tickAt = now + 1 + time.Duration(n.rand.Int64N(int64(n.profile.Tick)))
	}
	if max(n.hubHeardAt, n.flushedAt) > now-n.profile.Tick {
		return
	}
	p := n.peers[n.tickOrder[0]]
	n.tickOrder = append(n.tickOrder[1:], n.tickOrder[0])
	p.show = true
	p.ask = p.ask || n.candidate != (Origin{}) && !p.confirmed
}

// hubbed says whether this node passes on everything that is fresh to everybody.
func (n *Node) hubbed() bool { return n.profile.Topology == Hub && (n.relaying || n.Hub() == n.self) }

func (n *Node) flushDue() time.Duration {
	switch {
	case n.freshAt == never:
		return never
	case n.hubbed():
		return max(n.freshAt, n.flushedAt+n.profile.HubInterval)
	case n.profile.Topology == Hub && n.profile.Lead > 0:
		return n.uploadSlot()
	default:
		return n.freshAt + n.profile.Delay
	}
}

// uploadSlot returns when a spoke's fresh entries reach the hub just in time for its next batch, going by the rhythm of
// those that came; while the hub is idle there is none, and they go as without Lead.
func (n *Node) uploadSlot() time.Duration {
	slot := n.hubHeardAt + n.profile.HubInterval - n.profile.Lead
	for range 2 {
		if n.freshAt <= slot {
			return slot
		}
		slot += n.profile.HubInterval
	}
	return n.freshAt + n.profile.Delay
}

// pushKind says what the fresh entries are sent as.
type pushKind uint8

const (
	pushNothing pushKind = iota
	pushDirect
	pushToHub
	pushAsHub
)

// flush decides whether the fresh entries go now, as what, and to whom.
func (n *Node) flush(now time.Duration) (Vector, func(*peer) pushKind) {
	if now < n.flushDue() {
		return nil, func(*peer) pushKind { return pushNothing }
	}
	fresh, hub, asHub := n.fresh, n.Hub(), n.hubbed()
	n.fresh = Vector{}
	n.forgetFresh()
	switch {
	case asHub:
		n.flushedAt = now
		n.upload = upload{at: never, acked: n.have[n.own]}
		return fresh, func(*peer) pushKind { return pushAsHub }
	case n.profile.Topology == Hub:
		if n.have[n.own] > n.upload.acked {
			n.upload.hub, n.upload.seq = hub, n.have[n.own]
			if n.upload.at == never {
				n.upload.at = now
			}
		}
		return fresh, func(p *peer) pushKind {
			if p.name == hub {
				return pushToHub
			}
			return pushNothing
		}
	default:
		return fresh, func(p *peer) pushKind {
			if n.profile.Topology == Tree && !p.neighbor {
				return pushNothing
			}
			return pushDirect
		}
	}
}

func (n *Node) forgetFresh() {
	clear(n.fresh)
	n.freshAt, n.relaying = never, false
}

// compose makes the one message that the peer gets now, if any.
func (n *Node) compose(now time.Duration, p *peer, fresh Vector, kind pushKind) (Message, bool) {
	m := Message{Sender: n.process, Heard: n.heard(p), Relay: kind == pushToHub, Hub: kind == pushAsHub}
	n.pull(now, p)
	if n.answerDue(p) {
		m.Answer, p.answer, p.answersAsk = p.answersAsk, false, false
		p.show = true
	}
	m.Ask = p.ask
	starts := Vector{}
	if kind != pushNothing {
		for o, after := range fresh {
			starts[o] = max(after, p.have[o])
		}
	}
	repair := p.repair
	if repair {
		for o := range n.have {
			starts[o] = p.have[o]
		}
		p.repairedAt = now
	}
	var more bool
	m.Entries, more = n.collect(starts)
	m.Ask = m.Ask || more
	show := p.show || m.Ask || m.Hub || m.Relay
	p.repair, p.show, p.ask = false, false, false
	if !show && len(m.Entries) == 0 {
		return m, false
	}
	if len(m.Entries) == 0 && !m.Ask && !m.Answer && !m.Hub && !m.Relay && p.have.Equal(n.have) {
		m.Hash, m.HasHash = n.have.hash(), true
	} else if show {
		m.Vector = n.have.Clone()
	}
	n.count(m, repair)
	return m, true
}

func (n *Node) count(m Message, repair bool) {
	switch {
	case len(m.Entries) == 0:
		n.stats.Digests++
	case repair:
		n.stats.Resent++
	default:
		n.stats.Pushed++
	}
}

// heard names the peer's process, as proof that what we show is younger than its start. While entries of the peer's
// logs wait here for the disk the proof would be false: we know more than we show.
func (n *Node) heard(p *peer) uint64 {
	for _, id := range n.pending {
		if id.origin.Node == p.name {
			return 0
		}
	}
	return p.process
}

func (n *Node) answerDue(p *peer) bool { return p.answer && n.persistedCount >= p.answerWhen }

// pull asks the peer for what it showed and we still lack. Only one peer at a time is asked.
func (n *Node) pull(now time.Duration, p *peer) {
	if now < p.pullAt {
		return
	}
	p.pullAt = never
	if n.accepted.Covers(p.have) {
		return
	}
	if next := n.pulledAt + n.profile.Settle; now < next {
		p.pullAt = next
		return
	}
	n.pulledAt, p.ask = now, true
}

// collect reads the entries after starts, in causal order so that the receiver can accept each as it comes: a message
// that is cut still brings it forward. more says that not all fitted.
func (n *Node) collect(starts Vector) (out []Entry, more bool) {
	if len(starts) == 0 {
		return nil, false
	}
	reach := Vector{}
	for o, after := range starts {
		if after < n.have[o] {
			reach[o] = after
		}
	}
	room, buffers := n.profile.MessageBytes, map[Origin][]Entry{}
	origins := reach.Origins()
	for progress := true; progress; {
		progress = false
		for _, o := range origins {
			for reach[o] < n.have[o] {
				if len(buffers[o]) == 0 {
					buffers[o] = n.storage.Entries(o, reach[o], max(room, 0))
				}
				if len(buffers[o]) == 0 || !reached(reach, buffers[o][0].Deps) {
					break
				}
				e := buffers[o][0]
				if room -= len(e.Data) + entryOverhead*(1+len(e.Deps)); room < 0 && len(out) > 0 {
					return out, true
				}
				out, buffers[o], reach[o], progress = append(out, e), buffers[o][1:], e.Seq, true
			}
		}
	}
	return out, false
}

// entryOverhead is what a position costs in a message, roughly.
const entryOverhead = 32

// reached says whether a receiver who stands at reach, and has all of the origins that reach does not name, has deps.
func reached(reach, deps Vector) bool {
	for o, seq := range deps {
		if at, limited := reach[o]; limited && at < seq {
			return false
		}
	}
	return true
}

// uploadDue returns when the hub has had long enough to show what it was given: one retry halfway, then it is suspected.
func (n *Node) uploadDue() time.Duration {
	if n.upload.at == never {
		return never
	}
	return n.upload.at + n.profile.Suspicion/2
}

func (n *Node) checkUpload(now time.Duration) {
	n.unsuspect(now)
	if now < n.uploadDue() {
		return
	}
	if n.upload.tries++; n.upload.tries >= 2 {
		n.suspect(now, n.byName[n.upload.hub])
	}
	n.uploadAgain(now)
}

func (n *Node) uploadAgain(now time.Duration) {
	n.fresh[n.own] = n.upload.acked
	n.freshAt = min(n.freshAt, now-max(n.profile.Delay, n.profile.HubInterval))
	n.upload.at = now
}

// suspect gives up a hub for the time being.
func (n *Node) suspect(now time.Duration, p *peer) {
	p.suspectedAt = now
	n.stats.Suspected++
	n.upload.tries = 0
}

// believe takes a batch of a hub that ranks after ours as a sign that ours is gone, unless ours was heard lately: then
// others need not find out one by one.
func (n *Node) believe(now time.Duration, acting string) {
	for _, p := range n.peers {
		if p.name < acting && p.suspectedAt == never && p.heardAt < now-n.profile.Suspicion/2 {
			n.suspect(now, p)
			if p.name == n.upload.hub && n.upload.at != never {
				n.uploadAgain(now)
			}
		}
	}
}

// unsuspect takes back those who were suspected long enough ago and have been heard since.
func (n *Node) unsuspect(now time.Duration) {
	for _, p := range n.peers {
		if p.suspectedAt != never && p.heardAt > p.suspectedAt && now >= p.suspectedAt+suspicions*n.profile.Suspicion {
			p.suspectedAt = never
		}
	}
}

// suspicions is how many times Suspicion a node stays suspected at least, so that one that we hear but that does not
// hear us is not tried again for every entry.
const suspicions = 8

func (n *Node) uploadAcknowledged(now time.Duration, seq uint64) {
	if seq <= n.upload.acked {
		return
	}
	n.upload.acked, n.upload.tries, n.upload.at = seq, 0, now
	if seq >= n.upload.seq {
		n.upload.seq, n.upload.at = 0, never
	}
}
