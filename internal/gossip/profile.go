package gossip

import "time"

// A Topology says who pushes fresh entries to whom. Anti-entropy goes between all peers whatever the topology.
type Topology uint8

const (
	// Flat: an origin sends to every peer itself. One hop, N-1 messages.
	Flat Topology = iota
	// Hub: everybody sends to the hub, which sends batches to all. Two hops; few messages under load. The hub is the
	// first node by name that is not suspected of being away.
	Hub
	// Tree: everybody passes on to its neighbours, by default parent and children in a tree over the sorted names.
	Tree
)

// A Profile trades messages against latency. Zero durations mean at once; Tick must be positive.
type Profile struct {
	Topology  Topology
	Fanout    int      // Tree: children of a node; 0: 4
	Neighbors []string // Tree: neighbours, instead of those computed from the names

	Delay        time.Duration // a fresh entry waits this long for company before it is pushed (Hub: to the hub)
	HubInterval  time.Duration // Hub: least time between two batches of the hub
	Lead         time.Duration // Hub: a spoke uploads this long before the hub's next batch should reach it; 0: after Delay
	Suspicion    time.Duration // Hub: an upload not acknowledged this long moves the node to the next hub
	Tick         time.Duration // each node shows one peer what it has, this often
	Settle       time.Duration // what a peer lacks is sent again once it had this long to arrive on its way
	Pull         time.Duration // what a peer shows and we lack is asked for once it had this long to arrive on its way
	MessageBytes int           // payload bytes in one message, except that one entry always fits; 0: 256 KiB
}

// Presets. The first three are for some 25 nodes at 100 ms from each other.
var (
	// Fast pushes every entry to everybody at once.
	Fast = Profile{Topology: Flat, Tick: 2 * time.Second, Settle: 300 * time.Millisecond, Pull: 100 * time.Millisecond}
	// Balanced sends a ninth of Fast's messages for three to five times its latency.
	Balanced = Profile{Topology: Hub, HubInterval: 300 * time.Millisecond, Suspicion: 1200 * time.Millisecond,
		Tick: 2 * time.Second, Settle: 900 * time.Millisecond, Pull: 100 * time.Millisecond}
	// Frugal sends a third of Balanced's messages. Its spokes upload just in time for the hub's next batch, that is a
	// round trip and some 40 ms before they expect it: an entry waits once, at its origin, and not again at the hub.
	Frugal = Profile{Topology: Hub, HubInterval: 1150 * time.Millisecond, Lead: 240 * time.Millisecond,
		Suspicion: 2900 * time.Millisecond, Tick: 2 * time.Second, Settle: 1800 * time.Millisecond,
		Pull: 100 * time.Millisecond}
	// LAN is for a handful of nodes with milliseconds between them: at once to everybody, repaired within a second.
	LAN = Profile{Topology: Flat, Tick: 150 * time.Millisecond, Settle: 100 * time.Millisecond,
		Pull: 40 * time.Millisecond}
)
