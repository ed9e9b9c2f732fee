// Package gossip spreads append-only logs between nodes that may be cut off, slow, restarted or lost.
//
// Every node appends to a log of its own, its origin, and keeps a copy of everybody's. A version vector says how much of
// each origin a node has, always without gaps. Fresh entries are pushed to peers at once or in batches; on a tick each
// node shows one peer its vector, and whoever finds that the other lacks something sends exactly that suffix. A lost
// message, a cut or a restart therefore costs nothing but time.
//
// The package is pure: it has no clock, no I/O, no goroutines and no luck of its own. A driver hands a Node the time,
// what its application appends and what the network brings, and carries out what comes back:
//
//	entry := node.Append(now, data)              // accepted, neither shown nor sent yet
//	fresh := node.Receive(now, from, message)    // accepted, each entry once, in causal order
//	... write the accepted entries to storage ...
//	node.Persisted(now, count)                   // now they may be sent and shown
//	for _, e := range node.Ready(now) { ... }    // messages to send
//	... call Ready again after any input, and at node.Wake() at the latest ...
//
// The method is that of Demers et al., "Epidemic Algorithms for Replicated Database Maintenance" (1987): rumour
// mongering for speed, anti-entropy for certainty. Causal delivery follows Ladin et al., "Providing High Availability
// Using Lazy Replication" (1992): an entry names what its origin had, and waits until the receiver has that too.
package gossip

import (
	"cmp"
	"fmt"
	"strings"
)

// DataBytesMax bounds what one Append takes, in bytes.
const DataBytesMax = 8 << 20

// Limits of what a peer may make us hold.
const (
	nodeBytesMax   = 64       // bytes of a node's name
	originsMax     = 1 << 14  // origins in one vector
	entryBytesMax  = 16 << 20 // bytes of one encoded entry
	heldEntriesMax = 512      // entries that wait for their dependencies
	heldBytesMax   = 4 << 20  // payload bytes that wait for their dependencies
	retiredMax     = 4        // former processes of one peer whose late messages we refuse
	seqMax         = 1 << 63  // sequence numbers stay below
	textBytesMax   = 2 << 20  // bytes of a vector in text
	defaultMessage = 256 << 10
)

// An Origin is one log: a node during one incarnation. A node that lost its durable state, or cannot prove that it has
// all of it, opens a new incarnation, so that no sequence number is ever used twice.
type Origin struct {
	Node        string
	Incarnation uint64
}

// String returns the origin as it stands in a vector's text, for example "n1.k3f9a2".
func (o Origin) String() string { return o.Node + "." + formatNumber(o.Incarnation) }

// Compare orders origins by node, then incarnation.
func (o Origin) Compare(other Origin) int {
	if c := strings.Compare(o.Node, other.Node); c != 0 {
		return c
	}
	return cmp.Compare(o.Incarnation, other.Incarnation)
}

// ValidName says whether name can be a node's: 1 to 64 bytes of letters, digits, '-', '_' and '.'.
func ValidName(name string) error {
	if name == "" || len(name) > nodeBytesMax {
		return fmt.Errorf("gossip: a node's name has 1 to %d bytes, not %d", nodeBytesMax, len(name))
	}
	for i := range len(name) {
		if !nameByte(name[i]) {
			return fmt.Errorf("gossip: byte %d of node name %q is none of letters, digits, '-', '_', '.'", i, name)
		}
	}
	return nil
}

func nameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.'
}

// An Entry is one record of an origin's log.
type Entry struct {
	Origin Origin
	Seq    uint64 // 1, 2, 3, … within the origin
	// Deps is what the origin had accepted of other origins when it appended, as far as its previous entry did not
	// say so already. It may say more than the difference, never less.
	Deps Vector
	Data []byte
}

// An Envelope is a message and the peer it goes to.
type Envelope struct {
	To      string
	Message Message
}
