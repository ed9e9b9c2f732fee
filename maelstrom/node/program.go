// Package node has the built-in node programs. Each is pure, a Program: package stdio runs it as a Maelstrom node, and the
// simulator runs it in virtual time, the same lines.
package node

import (
	"encoding/json"
	"math/rand/v2"
	"time"
)

// A Program is the logic of one node, without clock, I/O and goroutines. It is not safe for concurrent use.
//
//	program.Receive(now, src, body)                  // a message came
//	out := program.Ready(now)                        // what to write to disk, and what to send
//	... write and sync out.Write, then ...
//	program.Persisted(now, len(out.Write))           // and Ready again
//	... call Ready after every input, and at program.Wake() at the latest ...
type Program interface {
	// Receive takes a message's body: an object with a "type".
	Receive(now time.Duration, src string, body json.RawMessage)
	// Persisted says that the next count records are on disk for good, in the order in which Ready returned them.
	Persisted(now time.Duration, count int)
	// Ready returns what is to be done now; each thing once.
	Ready(now time.Duration) Output
	// Wake returns when Ready must be called at the latest, if nothing else happens; negative: never.
	Wake() time.Duration
}

// Output is what a Program wants done. Its messages may be sent at once: what depends on the disk comes later.
type Output struct {
	Write [][]byte // records; none without a disk
	Send  []Message

	// Only mutants do the following.
	Print []string // lines for stdout, as they are
	Exit  bool     // the process ends by itself
}

// A Message to another node, a client or a service.
type Message struct {
	To   string
	Body any // encodes as a JSON object
}

// A Start is what a Program starts from: the init message, and the process' surroundings.
type Start struct {
	ID          string
	Nodes       []string // all, ID included
	Args        []string // after the program's name on the command line
	Incarnation uint64   // positive, greater at every start of the node
	Disk        [][]byte // the records that were written before, in order
	Durable     bool     // there is a disk: records will be there after a restart
	Rand        *rand.Rand
}

// A Spec describes a program to its drivers.
type Spec struct {
	Name     string
	Help     string   // one line
	Requests []string // the types of messages that it takes, for drivers that route by type
	New      func(Start) (Program, error)
}

// Programs returns all that are right, by name.
func Programs() []Spec {
	return []Spec{bankSpec(), broadcastSpec(), echoSpec(), gCounterSpec(), pnCounterSpec(), uniqueSpec()}
}

// Find returns the program of that name; false if there is none.
func Find(name string) (Spec, bool) {
	for _, s := range Programs() {
		if s.Name == name {
			return s, true
		}
	}
	return Spec{}, false
}
