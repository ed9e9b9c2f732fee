package gossip

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// never is a time that does not come.
const never = time.Duration(math.MaxInt64)

// Config is what a Node starts from.
type Config struct {
	Self        string
	Peers       []string // the other nodes; Self and repetitions are ignored
	Incarnation uint64   // positive, different at every start of the process, for example milliseconds of the wall clock
	Restored    Vector   // what Storage holds from before; empty for a node without durable state
	Storage     Storage
	Profile     Profile
	Rand        *rand.Rand // spreads the ticks and the choice of peers
}

// A Node is one member of the gossip. It is not safe for concurrent use.
type Node struct {
	self    string
	process uint64
	profile Profile
	storage Storage
	rand    *rand.Rand
	peers   []*peer // sorted by name
	byName  map[string]*peer
	ranking []string // all names, sorted: the order in which they become the hub

	accepted Vector      // have, and what waits for Persisted
	have     Vector      // durable: may be sent and shown
	pending  []pendingID // accepted, not yet persisted, in order
	settling Vector      // have, at some time within the last Settle
	settled  Vector      // have, one Settle before settling
	rotateAt time.Duration
	held     heldBack

	own           Origin // what Append continues; zero: the next Append decides
	candidate     Origin // restored, to be continued when every peer has confirmed that it knows no more of it
	opened        uint64 // incarnations opened by this process
	depsSaid      Vector // what the entries of own say so far
	newest        uint64 // incarnation of ours in what was restored; 0: none
	rollbackKnown bool

	fresh      Vector        // per origin: entries after this are still to be pushed
	freshAt    time.Duration // since when there are any; never: none
	relaying   bool          // fresh has entries that a spoke gave us to pass on: we act as hub
	flushedAt  time.Duration // last batch as hub
	hubHeardAt time.Duration // last batch of a hub
	upload     upload
	tickAt     time.Duration
	tickOrder  []int // peers in the order of ticks
	pulledAt   time.Duration

	acceptedCount, persistedCount uint64 // of this process; Discard makes them equal
	stats                         Stats
}

// pendingID is an accepted entry that waits for Persisted.
type pendingID struct {
	origin Origin
	seq    uint64
	push   bool // to be pushed on
	relay  bool // on behalf of a spoke
}

// peer is what we know of another node.
type peer struct {
	name      string
	process   uint64   // the incarnation of its process, 0: not heard of
	retired   []uint64 // former processes: their late messages are refused
	have      Vector   // what it showed durable
	confirmed bool     // it answered this process since the start
	neighbor  bool     // Tree: fresh entries go there

	heardAt      time.Duration
	suspectedAt  time.Duration // never: not suspected
	repairedAt   time.Duration
	pullAt       time.Duration // when to ask for what it has and we lack; never: nothing
	answerWhen   uint64        // answer once so many of the accepted entries are persisted
	answer       bool          // it asked, or its hash was not ours
	answersAsk   bool
	repair, show bool // due at the next Ready: send what it lacks; show what we have
	ask          bool // due at the next Ready: ask
}

// Stats counts since New.
type Stats struct {
	Rollbacks  uint64 // a peer knew more of our own log than we: our state is an old copy
	Duplicates uint64 // entries received again
	Held       uint64 // entries that had to wait for their dependencies
	Dropped    uint64 // entries that had to wait and found no room, or came from too many origins
	Refused    uint64 // messages of strangers, and of former processes of a peer
	Suspected  uint64 // hubs given up
	Resent     uint64 // messages with repairs
	Digests    uint64 // messages that only show what we have
	Pushed     uint64 // messages with fresh entries
	HeldNow    int    // entries that wait now
	Origins    int    // origins known
}

// New returns a node. It panics if the configuration is impossible: that is a bug of the driver.
func New(c Config) *Node {
	if err := ValidName(c.Self); err != nil {
		panic(err.Error())
	}
	if c.Incarnation == 0 || c.Storage == nil || c.Rand == nil || c.Profile.Tick <= 0 {
		panic("gossip: a Config needs Incarnation, Storage, Rand and Profile.Tick")
	}
	n := &Node{self: c.Self, process: c.Incarnation, profile: c.Profile, storage: c.Storage, rand: c.Rand,
		byName: map[string]*peer{}, accepted: c.Restored.Clone(), have: c.Restored.Clone(), settling: Vector{},
		settled: Vector{}, depsSaid: Vector{}, fresh: Vector{}, freshAt: never,
		flushedAt: -never, hubHeardAt: -never, pulledAt: -never, upload: upload{at: never}}
	if n.profile.MessageBytes <= 0 {
		n.profile.MessageBytes = defaultMessage
	}
	n.addPeers(c.Peers)
	n.tickOrder = n.rand.Perm(len(n.peers))
	for _, o := range n.have.Origins() {
		if o.Node == n.self {
			n.candidate, n.newest = o, o.Incarnation // the highest comes last
		}
	}
	n.confirm()
	if n.candidate != (Origin{}) {
		for _, p := range n.peers {
			p.ask = true
		}
	}
	return n
}

func (n *Node) addPeers(names []string) {
	n.ranking = append(slices.Clone(names), n.self)
	slices.Sort(n.ranking)
	n.ranking = slices.Compact(n.ranking)
	self := slices.Index(n.ranking, n.self)
	fanout := n.profile.Fanout
	if fanout <= 0 {
		fanout = 4
	}
	for i, name := range n.ranking {
		if err := ValidName(name); err != nil {
			panic(err.Error())
		}
		if i == self {
			continue
		}
		p := &peer{name: name, have: Vector{}, heardAt: -never, suspectedAt: never, repairedAt: -never, pullAt: never}
		if n.profile.Neighbors != nil {
			p.neighbor = slices.Contains(n.profile.Neighbors, name)
		} else {
			p.neighbor = i > 0 && (i-1)/fanout == self || self > 0 && (self-1)/fanout == i
		}
		n.peers = append(n.peers, p)
		n.byName[name] = p
	}
}

// SetNeighbors replaces the neighbours to which a Tree passes fresh entries on. Names of strangers are ignored.
func (n *Node) SetNeighbors(names []string) {
	for _, p := range n.peers {
		p.neighbor = slices.Contains(names, p.name)
	}
}

// Append accepts an entry of our own. It is not sent before Persisted. The data must not be changed afterwards, and has
// at most DataBytesMax bytes: more is a bug of the driver, and panics.
func (n *Node) Append(now time.Duration, data []byte) Entry {
	if len(data) > DataBytesMax {
		panic(fmt.Sprintf("gossip: appending %d bytes, at most %d are allowed", len(data), DataBytesMax))
	}
	n.advance(now)
	if n.own == (Origin{}) {
		n.open()
	}
	e := Entry{Origin: n.own, Seq: n.accepted[n.own] + 1, Deps: Vector{}, Data: data}
	for o, seq := range n.accepted {
		if o != n.own && n.depsSaid[o] < seq {
			e.Deps[o] = seq
		}
	}
	n.depsSaid.Merge(e.Deps)
	n.accept(e, pendingID{push: true})
	return e
}

// open starts a new incarnation of our own log.
func (n *Node) open() {
	for n.own == (Origin{}) || n.accepted[n.own] > 0 {
		n.own = Origin{n.self, n.process + n.opened}
		n.opened++
	}
	n.candidate, n.upload = Origin{}, upload{at: never}
	clear(n.depsSaid)
}

// confirm continues the restored log once every peer has said, since the start, that it knows no more of it than we.
func (n *Node) confirm() {
	if n.candidate == (Origin{}) || n.own != (Origin{}) {
		return
	}
	for _, p := range n.peers {
		if !p.confirmed {
			return
		}
	}
	n.own, n.candidate = n.candidate, Origin{}
	n.upload = upload{at: never, acked: n.have[n.own]}
}

// Persisted says that the next count accepted entries, own and received in the order in which they were accepted, are
// in Storage for good: from now on they are sent and shown.
func (n *Node) Persisted(now time.Duration, count int) {
	n.advance(now)
	if count > len(n.pending) {
		panic(fmt.Sprintf("gossip: %d entries persisted of %d accepted", count, len(n.pending)))
	}
	for _, id := range n.pending[:count] {
		if id.push {
			if _, ok := n.fresh[id.origin]; !ok {
				n.fresh[id.origin] = n.have[id.origin]
			}
			n.freshAt = min(n.freshAt, now)
		}
		n.relaying = n.relaying || id.relay
		n.have[id.origin] = id.seq
	}
	n.pending = slices.Delete(n.pending, 0, count)
	n.persistedCount += uint64(count)
}

// Discard forgets everything accepted and not persisted, as when the disk is full: our own sequence numbers are free
// again, and what we received will be asked for again. The driver must make sure that none of it is found in Storage
// after a restart.
func (n *Node) Discard() {
	n.accepted = n.have.Clone()
	n.pending = n.pending[:0]
	n.persistedCount = n.acceptedCount
	clear(n.depsSaid)
}

// Have returns what is durable here.
func (n *Node) Have() Vector { return n.have.Clone() }

// Stable returns what every peer showed durable, and we have too.
func (n *Node) Stable() Vector {
	stable := n.have.Clone()
	for _, p := range n.peers {
		for o, seq := range stable {
			if seq = min(seq, p.have[o]); seq == 0 {
				delete(stable, o)
			} else {
				stable[o] = seq
			}
		}
	}
	return stable
}

// Stats returns the counters.
func (n *Node) Stats() Stats {
	s := n.stats
	s.HeldNow, s.Origins = len(n.held.entries), len(n.accepted)
	return s
}

// Hub returns the node that this one takes for the hub: the first by name that it does not suspect.
func (n *Node) Hub() string {
	for _, name := range n.ranking {
		if p := n.byName[name]; p == nil || p.suspectedAt == never {
			return name
		}
	}
	return n.self
}

// advance keeps the two old copies of have: what stands in settled has been here for one Settle at least.
func (n *Node) advance(now time.Duration) {
	if now < n.rotateAt {
		return
	}
	n.settled, n.settling = n.settling, n.have.Clone()
	n.rotateAt = now + n.profile.Settle
}

func (n *Node) accept(e Entry, id pendingID) {
	if e.Seq != n.accepted[e.Origin]+1 {
		panic(fmt.Sprintf("gossip: accepting %s:%d after %d", e.Origin, e.Seq, n.accepted[e.Origin]))
	}
	n.accepted[e.Origin] = e.Seq
	id.origin, id.seq = e.Origin, e.Seq
	n.pending = append(n.pending, id)
	n.acceptedCount++
}
