// Package history holds what is known of a run when it is over: the operations of clients and nemesis, the messages on the
// network, and what nodes did against the protocol. Checkers and reports read it and nothing else.
package history

import (
	"encoding/json"
	"strings"
	"time"
)

// A Type says what an Op records.
type Type uint8

// An operation is invoked, and completed by one of the others: it happened; it did not happen; nobody knows.
const (
	Invoke Type = iota
	OK
	Fail
	Info
)

var typeNames = [...]string{"invoke", "ok", "fail", "info"}

func (t Type) String() string { return typeNames[t] }

// Nemesis is the process number of the nemesis. Its operations are all of type Info, an invocation and a completion each.
const Nemesis = -1

// An Op is one entry of the history, in Jepsen's shape.
type Op struct {
	Index   int
	Time    time.Duration // since the start of the run
	Type    Type
	Process int    // a client process, or Nemesis; a client's invocation and completion share it
	F       string // what is asked: "read", "broadcast", "start-partition"
	Value   json.RawMessage
	Error   Error
	// Exception is set where the client itself failed, as when a reply is none that the workload knows.
	Exception string
	Final     bool   // of the last phase, after recovery
	Node      string // that was asked; ours, upstream's histories do not say
}

// An Error says why an operation did not end well. The zero value is none.
type Error struct {
	Name string // "net-timeout", "temporarily-unavailable"; "" with Text alone
	Text string
}

// errorCodes are the codes of error bodies; those that are definite say that the operation did not happen.
var errorCodes = map[int]struct {
	name     string
	definite bool
}{
	0: {"timeout", false}, 1: {"node-not-found", true}, 10: {"not-supported", true}, 11: {"temporarily-unavailable", true},
	12: {"malformed-request", true}, 13: {"crash", false}, 14: {"abort", true}, 20: {"key-does-not-exist", true},
	21: {"key-already-exists", true}, 22: {"precondition-failed", true}, 30: {"txn-conflict", true},
}

// ErrorName returns the Name of the error with that code.
func ErrorName(code int) string {
	if known, ok := errorCodes[code]; ok {
		return known.name
	}
	return "unknown"
}

// Definite says whether the error says that the operation did not happen.
func (e Error) Definite() bool {
	for _, known := range errorCodes {
		if known.name == e.Name {
			return known.definite
		}
	}
	return false
}

// Completions returns for each index of ops the index of the operation's other half, -1 if there is none: the completion
// of an invocation, the invocation of a completion.
func Completions(ops []Op) []int {
	other := make([]int, len(ops))
	open := map[int]int{} // process → index of its open operation
	for i, op := range ops {
		other[i] = -1
		at, busy := open[op.Process]
		switch {
		case op.Process == Nemesis && !busy, op.Type == Invoke:
			open[op.Process] = i
		case busy:
			other[i], other[at] = at, i
			delete(open, op.Process)
		}
	}
	return other
}

// A Run is everything known of one run.
type Run struct {
	Workload  string
	Started   time.Time // wall clock at time 0; zero for a simulation
	Simulated bool
	Nodes     []string
	Settings  []Setting // as they were in force, for the report
	Ops       []Op
	Journal   Journal
	Findings  []Finding
	Elapsed   time.Duration // from the start of the first operation to the end of the last
}

// A Setting is one option of a run.
type Setting struct{ Name, Value string }

// A Finding is something that a node did against the protocol, or that ended it.
type Finding struct {
	Time time.Duration
	Node string
	Kind Kind
	Text string   // for people: what is wrong, where, and what to do about it
	Line string   // the offending line, cut to some 1,000 bytes; may be empty
	Tail []string // the last lines the node printed, stdout and stderr, where that helps
	More int      // so many others like it, of the same node, were not kept
}

// A Kind says what sort a Finding is of.
type Kind string

// The kinds of findings.
const (
	Exited       Kind = "exited"        // the process ended by itself
	BadLine      Kind = "bad-line"      // a line on stdout that is no message
	BadAddress   Kind = "bad-address"   // a message from somebody else, or to nobody
	BadReply     Kind = "bad-reply"     // a reply that is none of those the request allows
	LateReply    Kind = "late-reply"    // to a client that is gone: legal, upstream mutes the node for it
	NotAnswering Kind = "not-answering" // a request outside the workload was not answered: init, topology
)

// A Journal counts the messages on the network, and keeps the first.
type Journal struct {
	All, Clients, Servers Count
	Dropped               int     // by faults, between servers
	Events                []Event // the first EventsMax, without init and init_ok
	Truncated             bool    // there were more
}

// EventsMax is how many events a journal keeps.
const EventsMax = 10_000

// A Count is of messages with one sort of ends. Clients: one end at least is a client. Servers: all others.
type Count struct{ Sent, Received int }

// An Event is one end of a message's way.
type Event struct {
	Time      time.Duration
	ID        int64 // of the message: its two events share it
	Received  bool
	Src, Dest string
	Body      json.RawMessage
}

// IsClient says whether the name is a client's. As upstream, by its first letter alone.
func IsClient(name string) bool { return name != "" && name[0] == 'c' }

// A Fault is a time in which the nemesis had something broken.
type Fault struct {
	Name       string // "partition", "kill", "pause", …
	From, To   time.Duration
	Value      json.RawMessage // what the nemesis said it did
	Unfinished bool            // To is the end of the run
}

// Faults returns the nemesis' faults, in the order in which they began: from the completion of start-x, kill or pause to
// that of stop-x, start or resume.
func (r *Run) Faults() []Fault {
	other := Completions(r.Ops)
	var faults []Fault
	open := map[string]int{}
	for i, op := range r.Ops {
		if op.Process != Nemesis || other[i] < 0 || other[i] > i {
			continue // its invocation, or never completed
		}
		name, begins := faultOf(op.F)
		at, going := open[name]
		switch {
		case begins && !going:
			open[name] = len(faults)
			faults = append(faults, Fault{Name: name, From: op.Time, To: r.Elapsed, Value: op.Value, Unfinished: true})
		case !begins && going:
			faults[at].To, faults[at].Unfinished = op.Time, false
			delete(open, name)
		}
	}
	return faults
}

// faultOf returns the kind of fault that a nemesis operation begins or ends.
func faultOf(f string) (name string, begins bool) {
	switch f {
	case "kill", "pause":
		return f, true
	case "start":
		return "kill", false
	case "resume":
		return "pause", false
	}
	if name, ok := strings.CutPrefix(f, "start-"); ok {
		return name, true
	}
	return strings.TrimPrefix(f, "stop-"), false
}
