// Package workload says what clients ask of the nodes: operations, the requests that carry them, and what replies mean.
package workload

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"dongne/maelstrom/network"
)

// An Invocation is an operation that is wanted.
type Invocation struct {
	F     string
	Value json.RawMessage // nil: none
}

// A Workload makes operations and reads their replies. It is not safe for concurrent use.
type Workload interface {
	// Setup returns the request that a node is sent before the operations begin; nil: none.
	Setup(node string) any
	// Next returns the next operation.
	Next(r *rand.Rand) Invocation
	// Final returns the operation that every worker does after recovery; false: there is no such phase.
	Final() (Invocation, bool)
	// Request returns the body that asks for the operation, without msg_id.
	Request(Invocation) any
	// Reply returns the shape of the operation's reply.
	Reply(f string) Shape
	// Idempotent says whether an operation that may have happened can be taken as failed.
	Idempotent(f string) bool
	// Reusable says whether a client goes on after an operation of which it does not know whether it happened.
	Reusable() bool
	// Refusable says whether an error can say that an operation did not happen. Upstream's clients of some workloads know
	// no errors: to them an operation that is not ok may have happened, a read too.
	Refusable() bool
}

// A Shape is what a reply must look like: closed, as upstream's schemas are.
type Shape struct {
	Type   string
	Member string // that it must have besides; "": none
	Whole  bool   // the operation's value is the whole body; otherwise the member's, or the invocation's if there is none

	Array, Integer bool // what the member must be
}

// Names are the workloads that there are.
func Names() []string {
	return []string{"bank", "broadcast", "echo", "g-counter", "pn-counter", "unique-ids"}
}

// New returns a fresh workload. Topology is what the nodes of broadcast are told.
func New(name string, topology map[string][]string) (Workload, error) {
	switch name {
	case "bank":
		return &bank{}, nil
	case "broadcast":
		return &broadcast{topology: topology}, nil
	case "echo":
		return echo{}, nil
	case "g-counter", "pn-counter":
		return counter{grows: name == "g-counter"}, nil
	case "unique-ids":
		return uniqueIDs{}, nil
	}
	return nil, fmt.Errorf("no workload %q; there are %s", name, strings.Join(Names(), ", "))
}

// Read returns the operation's value from a reply that is no error. The error says how the reply differs from its shape.
func (s Shape) Read(inv Invocation, head network.Head, body json.RawMessage, members map[string]json.RawMessage) (json.RawMessage, error) {
	if head.Type != s.Type {
		return nil, fmt.Errorf("the reply to %s has type %q, it should be %q", inv.F, head.Type, s.Type)
	}
	for key := range members {
		if !slices.Contains([]string{"type", "in_reply_to", "msg_id", s.Member}, key) {
			return nil, fmt.Errorf("%s has a member %q that the protocol does not know", s.Type, key)
		}
	}
	if s.Member == "" {
		return inv.Value, nil
	}
	value, ok := members[s.Member]
	if !ok {
		return nil, fmt.Errorf("%s has no member %q", s.Type, s.Member)
	}
	if s.Array && value[0] != '[' {
		return nil, fmt.Errorf("%q of %s must be an array, not %.40s", s.Member, s.Type, value)
	}
	if s.Integer && !isInteger(value) {
		return nil, fmt.Errorf("%q of %s must be an integer, not %.40s", s.Member, s.Type, value)
	}
	if s.Whole {
		return body, nil
	}
	return value, nil
}

// isInteger says whether a JSON value is a number without fraction and exponent.
func isInteger(value json.RawMessage) bool {
	digits := bytes.TrimPrefix(value, []byte("-"))
	return len(digits) > 0 && len(bytes.Trim(digits, "0123456789")) == 0
}

type echo struct{}

func (echo) Setup(string) any { return nil }
func (echo) Next(r *rand.Rand) Invocation {
	return Invocation{"echo", fmt.Appendf(nil, `"Please echo %d"`, r.IntN(128))}
}
func (echo) Final() (Invocation, bool) { return Invocation{}, false }
func (echo) Request(inv Invocation) any {
	return map[string]any{"type": "echo", "echo": inv.Value}
}
func (echo) Reply(string) Shape     { return Shape{Type: "echo_ok", Member: "echo", Whole: true} }
func (echo) Idempotent(string) bool { return false }
func (echo) Reusable() bool         { return false }
func (echo) Refusable() bool        { return true }

type uniqueIDs struct{}

func (uniqueIDs) Setup(string) any           { return nil }
func (uniqueIDs) Next(*rand.Rand) Invocation { return Invocation{F: "generate"} }
func (uniqueIDs) Final() (Invocation, bool)  { return Invocation{}, false }
func (uniqueIDs) Request(Invocation) any     { return map[string]any{"type": "generate"} }
func (uniqueIDs) Reply(string) Shape         { return Shape{Type: "generate_ok", Member: "id"} }
func (uniqueIDs) Idempotent(string) bool     { return false }
func (uniqueIDs) Reusable() bool             { return true }
func (uniqueIDs) Refusable() bool            { return true }

type broadcast struct {
	topology map[string][]string
	next     int
}

func (b *broadcast) Setup(string) any {
	return map[string]any{"type": "topology", "topology": b.topology}
}

func (b *broadcast) Next(r *rand.Rand) Invocation {
	if r.IntN(2) == 0 {
		return Invocation{F: "read"}
	}
	b.next++
	return Invocation{"broadcast", fmt.Append(nil, b.next-1)}
}

func (b *broadcast) Final() (Invocation, bool) { return Invocation{F: "read"}, true }

func (b *broadcast) Request(inv Invocation) any {
	if inv.F == "read" {
		return map[string]any{"type": "read"}
	}
	return map[string]any{"type": "broadcast", "message": inv.Value}
}

func (b *broadcast) Reply(f string) Shape {
	if f == "read" {
		return Shape{Type: "read_ok", Member: "messages", Array: true}
	}
	return Shape{Type: f + "_ok"}
}

func (b *broadcast) Idempotent(f string) bool { return f == "read" }
func (b *broadcast) Reusable() bool           { return false }
func (b *broadcast) Refusable() bool          { return true }
