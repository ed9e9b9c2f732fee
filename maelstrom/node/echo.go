package node

import "time"

func echoSpec() Spec {
	return Spec{
		Name:     "echo",
		Help:     "answers with what it was sent",
		Requests: []string{"echo"},
		New:      newResponder(func(Start) func(time.Duration, request) body { return echo }),
	}
}

func echo(_ time.Duration, r request) body {
	switch {
	case r.Type != "echo":
		return r.unsupported()
	case r.Echo == nil:
		return r.lacks("echo")
	}
	return body{"type": "echo_ok", "echo": r.Echo}
}
