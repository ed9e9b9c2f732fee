// Package network is the simulated network between real processes: queues, latencies, partitions, and a journal of what was
// sent and received. It is pure: its driver says what time it is, and asks for what is due.
//
// It delays and drops as Jepsen's Maelstrom does (src/maelstrom/net.clj). Every receiver takes one message after the other,
// the one with the earliest deadline first, and waits for its deadline. Whether its sender is cut off is decided when the
// wait begins. So a message can be held up by the one that is being waited for, and a message that was sent during a
// partition and not looked at before it healed arrives.
package network

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"dongne/maelstrom/history"
)

// Never is a time that does not come.
const Never = time.Duration(math.MaxInt64)

// A Distribution says how latencies spread around their mean.
type Distribution string

// The distributions: always the mean; an integer in [0, 2·mean); exponential.
const (
	Constant    Distribution = "constant"
	Uniform     Distribution = "uniform"
	Exponential Distribution = "exponential"
)

// Draw returns one latency, in whole milliseconds.
func (d Distribution) Draw(mean time.Duration, r *rand.Rand) time.Duration {
	switch d {
	case Uniform:
		return time.Duration(r.Int64N(max(1, 2*mean.Milliseconds()))) * time.Millisecond
	case Exponential:
		return time.Duration(r.ExpFloat64()*float64(mean.Milliseconds())) * time.Millisecond
	}
	return mean.Truncate(time.Millisecond)
}

// A Network is safe for one goroutine at a time.
type Network struct {
	mean    time.Duration
	spread  Distribution
	rand    *rand.Rand
	next    int64
	ends    map[string]*endpoint
	blocked map[string]map[string]bool // receiver → senders it does not hear
	journal history.Journal
	lag     time.Duration
}

type endpoint struct {
	queue   queue
	current *queued       // being waited for
	ready   time.Duration // when current can be taken: not before the wait for it began
}

type queued struct {
	Message
	due time.Duration
}

// New returns a network without endpoints.
func New(mean time.Duration, spread Distribution, r *rand.Rand) *Network {
	return &Network{mean: mean, spread: spread, rand: r, ends: map[string]*endpoint{}}
}

// Open gives the endpoint a queue, empty even if it had one before.
func (n *Network) Open(name string) { n.ends[name] = &endpoint{} }

// Close forgets the endpoint.
func (n *Network) Close(name string) { delete(n.ends, name) }

// Has says whether there is such an endpoint.
func (n *Network) Has(name string) bool { return n.ends[name] != nil }

// An AddressError is a message from or to somebody who is not in the network.
type AddressError struct{ Name string }

func (e *AddressError) Error() string { return fmt.Sprintf("there is no %q in the network", e.Name) }

// Send numbers the message, returns it, and puts it on its way; Take gives it to its receiver. The error is an *AddressError.
func (n *Network) Send(now time.Duration, m Message) (Message, error) {
	to := n.ends[m.Dest]
	if to == nil {
		return m, &AddressError{m.Dest}
	}
	if n.ends[m.Src] == nil {
		return m, &AddressError{m.Src}
	}
	m.ID = n.next
	n.next++
	due := now
	if !history.IsClient(m.Src) && !history.IsClient(m.Dest) {
		due += n.spread.Draw(n.mean, n.rand)
	}
	n.note(now, &m, false)
	heap.Push(&to.queue, queued{m, due})
	return m, nil
}

// Carry numbers a message that its driver takes to its receiver itself, past the queue, and returns it.
func (n *Network) Carry(now time.Duration, m Message) Message {
	m.ID = n.next
	n.next++
	n.note(now, &m, false)
	n.note(now, &m, true)
	return m
}

// Take returns the next message for the endpoint whose time has come, if there is one.
func (n *Network) Take(now time.Duration, name string) (Message, bool) {
	e := n.ends[name]
	if e == nil {
		return Message{}, false
	}
	if n.pick(now, name, e); e.current == nil || e.current.due > now {
		return Message{}, false
	}
	m := e.current.Message
	n.lag = max(n.lag, now-e.ready)
	e.current = nil
	n.note(now, &m, true)
	return m, true
}

// pick chooses what the endpoint waits for, and drops what is blocked.
func (n *Network) pick(now time.Duration, name string, e *endpoint) {
	for e.current == nil && len(e.queue) > 0 {
		m := heap.Pop(&e.queue).(queued)
		if n.blocked[name][m.Src] {
			n.journal.Dropped++
			continue
		}
		e.current, e.ready = &m, max(now, m.due)
	}
}

// Due returns when Take must be called for the endpoint; Never if nothing is on its way.
func (n *Network) Due(now time.Duration, name string) time.Duration {
	if e := n.ends[name]; e != nil {
		if n.pick(now, name, e); e.current != nil {
			return e.current.due
		}
	}
	return Never
}

// Block sets which senders each receiver does not hear; nil heals all.
func (n *Network) Block(cut map[string][]string) {
	n.blocked = map[string]map[string]bool{}
	for receiver, senders := range cut {
		n.blocked[receiver] = map[string]bool{}
		for _, s := range senders {
			n.blocked[receiver][s] = true
		}
	}
}

// Lag returns by how much a message was taken later than it could be, at worst, since the last call.
func (n *Network) Lag() time.Duration {
	lag := n.lag
	n.lag = 0
	return lag
}

// Journal returns what was noted so far.
func (n *Network) Journal() history.Journal { return n.journal }

func (n *Network) note(now time.Duration, m *Message, received bool) {
	Note(&n.journal, now, m, received)
}

// Note enters one end of a message's way into a journal.
func Note(j *history.Journal, now time.Duration, m *Message, received bool) {
	part := &j.Servers
	if history.IsClient(m.Src) || history.IsClient(m.Dest) {
		part = &j.Clients
	}
	for _, c := range []*history.Count{&j.All, part} {
		if received {
			c.Received++
		} else {
			c.Sent++
		}
	}
	if len(j.Events) >= history.EventsMax {
		j.Truncated = true
		return
	}
	if part == &j.Clients && isInit(m.Body) {
		return
	}
	j.Events = append(j.Events, history.Event{Time: now, ID: m.ID, Received: received, Src: m.Src, Dest: m.Dest, Body: m.Body})
}

// isInit says whether a message between client and node is part of a node's start.
func isInit(body []byte) bool {
	head, _, _ := ParseBody(body)
	return head.Type == "init" || head.Type == "init_ok"
}

// queue is a container/heap: by deadline, then by id, so that messages that are due together keep their order.
type queue []queued

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].due < q[j].due || q[i].due == q[j].due && q[i].ID < q[j].ID
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(queued)) }
func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = queued{}
	*q = old[:len(old)-1]
	return last
}
