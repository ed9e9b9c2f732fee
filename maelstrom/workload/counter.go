package workload

import (
	"fmt"
	"math/rand/v2"
)

// counter is the workload pn-counter, or g-counter if it only grows. Each operation is an add or a read, as likely; a
// delta is one of -5 to 4, and an operation that a g-counter cannot have is drawn anew.
type counter struct{ grows bool }

func (counter) Setup(string) any { return nil }

func (c counter) Next(r *rand.Rand) Invocation {
	for {
		if r.IntN(2) == 0 {
			return Invocation{F: "read"}
		}
		if delta := r.IntN(10) - 5; delta >= 0 || !c.grows {
			return Invocation{"add", fmt.Append(nil, delta)}
		}
	}
}

func (counter) Final() (Invocation, bool) { return Invocation{F: "read"}, true }

func (counter) Request(inv Invocation) any {
	if inv.F == "read" {
		return map[string]any{"type": "read"}
	}
	return map[string]any{"type": "add", "delta": inv.Value}
}

func (counter) Reply(f string) Shape {
	if f == "read" {
		return Shape{Type: "read_ok", Member: "value", Integer: true}
	}
	return Shape{Type: f + "_ok"}
}

func (counter) Idempotent(string) bool { return false }
func (counter) Reusable() bool         { return false }
func (counter) Refusable() bool        { return false }
