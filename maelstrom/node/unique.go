package node

import (
	"strconv"
	"time"
)

func uniqueSpec() Spec {
	return Spec{
		Name:     "unique-ids",
		Help:     "gives ids that no other node and no other start of this one gives, without a message",
		Requests: []string{"generate"},
		New: newResponder(func(s Start) func(time.Duration, request) body {
			return counter(s.ID + "." + strconv.FormatUint(s.Incarnation, 36) + ".")
		}),
	}
}

// counter gives ids of a prefix and a number: unique where the prefix is.
func counter(prefix string) func(time.Duration, request) body {
	last := uint64(0)
	return generator(func(time.Duration) any {
		last++
		return prefix + strconv.FormatUint(last, 10)
	})
}

func generator(next func(now time.Duration) any) func(time.Duration, request) body {
	return func(now time.Duration, r request) body {
		if r.Type != "generate" {
			return r.unsupported()
		}
		return body{"type": "generate_ok", "id": next(now)}
	}
}
