package ledger

import (
	"fmt"

	"dongne/internal/sharedlog"
)

// Call is one or more requests that land in the log together.
type Call struct {
	Requests []Request
	Command  []byte // Encode(Requests)
}

// NewCall returns the call of these requests.
func NewCall(requests ...Request) *Call { return &Call{requests, Encode(requests)} }

// Machine makes a State a sharedlog.Machine.
type Machine struct{ State *State }

// Prepare implements sharedlog.Machine: it decides nothing, as only the log's order does, but that what its key has
// decided needs no slot.
func (m Machine) Prepare(_ sharedlog.Position, calls []*Call) []sharedlog.Prepared[[]Result] {
	prepared := make([]sharedlog.Prepared[[]Result], len(calls))
	for i, call := range calls {
		if len(call.Requests) == 1 {
			if result, known := m.State.Replay(&call.Requests[0]); known && call.Requests[0].Key != (Key{}) {
				prepared[i] = sharedlog.Prepared[[]Result]{Done: true, Result: []Result{result}}
				continue
			}
		}
		prepared[i].Commands = [][]byte{call.Command}
	}
	return prepared
}

// Apply implements sharedlog.Machine.
func (m Machine) Apply(b *sharedlog.Batch) [][]Result {
	results := make([][]Result, len(b.Commands))
	for i, c := range b.Commands {
		requests, err := Decode(c.Data)
		if err != nil {
			panic(fmt.Sprintf("ledger: slot %d was written by something else: %v", b.Slot, err))
		}
		results[i] = m.State.Apply(sharedlog.Position{Slot: b.Slot, Time: b.Time}, requests)
	}
	m.State.position = sharedlog.Position{Slot: b.Slot, Time: b.Time}
	return results
}

// Abandon implements sharedlog.Machine.
func (m Machine) Abandon() {}

// Snapshot implements sharedlog.Machine.
func (m Machine) Snapshot() ([]byte, bool) { return m.State.Snapshot(), true }

// Restore implements sharedlog.Machine.
func (m Machine) Restore(state []byte) error { return m.State.Restore(state) }
