package realm

import (
	"fmt"

	"dongne/internal/sharedlog"
)

// Call is a request that is to land in the log.
type Call struct {
	Request Request
	Command []byte // Encode(Request)
}

// NewCall returns the call of a request. The error names the field that exceeds its limit.
func NewCall(q Request) (*Call, error) {
	command, err := Encode(q)
	if err != nil {
		return nil, err
	}
	return &Call{q, command}, nil
}

// Machine makes a State a sharedlog.Machine.
type Machine struct{ State *State }

// Prepare implements sharedlog.Machine: it decides nothing, as only the log's order does.
func (m Machine) Prepare(_ sharedlog.Position, calls []*Call) []sharedlog.Prepared[Result] {
	prepared := make([]sharedlog.Prepared[Result], len(calls))
	for i, call := range calls {
		prepared[i].Commands = [][]byte{call.Command}
	}
	return prepared
}

// Apply implements sharedlog.Machine.
func (m Machine) Apply(b *sharedlog.Batch) []Result {
	at := sharedlog.Position{Slot: b.Slot, Time: b.Time}
	m.State.advance(at)
	results := make([]Result, len(b.Commands))
	for i, c := range b.Commands {
		q, err := Decode(c.Data)
		if err != nil {
			panic(fmt.Sprintf("realm: slot %d was written by something else: %v", b.Slot, err))
		}
		results[i] = m.State.Apply(at, q)
	}
	return results
}

// Abandon implements sharedlog.Machine.
func (m Machine) Abandon() {}

// Snapshot implements sharedlog.Machine.
func (m Machine) Snapshot() ([]byte, bool) { return m.State.Snapshot(), true }

// Restore implements sharedlog.Machine.
func (m Machine) Restore(state []byte) error { return m.State.Restore(state) }
