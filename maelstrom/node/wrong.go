package node

import (
	"encoding/json"
	"iter"
	"slices"
	"time"

	"dongne/internal/gossip"
)

// The pieces of which mutants are made: wrappers of right programs, and one that is too simple.

// wrap returns the program with something around it.
func wrap(spec Spec, with func(Program, Start) Program) Spec {
	right := spec.New
	spec.New = func(s Start) (Program, error) {
		p, err := right(s)
		if err != nil {
			return nil, err
		}
		return with(p, s), nil
	}
	return spec
}

// altered changes what a program wants done.
type altered struct {
	Program
	alter func(*Output)
}

// Ready implements Program.
func (a altered) Ready(now time.Duration) Output {
	out := a.Program.Ready(now)
	a.alter(&out)
	return out
}

// replies yields the index and body of each message that is no gossip.
func replies(out Output) iter.Seq2[int, body] {
	return func(yield func(int, body) bool) {
		for i, m := range out.Send {
			if b, is := m.Body.(body); is && !yield(i, b) {
				return
			}
		}
	}
}

// onReply changes a program's replies of one type, or leaves them out where change returns false. They are counted from 1.
func onReply(spec Spec, kind string, change func(count int, reply body) bool) Spec {
	return wrap(spec, func(p Program, _ Start) Program {
		count := 0
		return altered{p, func(out *Output) {
			out.Send = slices.DeleteFunc(out.Send, func(m Message) bool {
				b, is := m.Body.(body)
				if !is || b["type"] != kind {
					return false
				}
				count++
				return !change(count, b)
			})
		}}
	})
}

// onRead changes what broadcast's reads show.
func onRead(change func([]json.RawMessage) []json.RawMessage) Spec {
	return onReply(broadcastSpec(), "read_ok", func(_ int, reply body) bool {
		reply["messages"] = change(slices.Clone(reply["messages"].([]json.RawMessage)))
		return true
	})
}

// withProfile returns broadcast with another profile, made from Fast.
func withProfile(change func(*gossip.Profile)) Spec {
	spec := broadcastSpec()
	spec.New = func(s Start) (Program, error) {
		profile := gossip.Fast
		change(&profile)
		return newBroadcast(s, profile)
	}
	return spec
}

// hasty keeps each value, or add, to itself for a while before the program gets it, but acknowledges or shows it at once.
type hasty struct {
	Program
	acknowledges, shows bool
	held                []heldRequest
	acks                []Message
}

type heldRequest struct {
	until time.Duration
	src   string
	data  json.RawMessage
	value json.RawMessage
}

const hastyDelay = time.Second

// Receive implements Program.
func (p *hasty) Receive(now time.Duration, src string, data json.RawMessage) {
	r, refusal := parseRequest(data)
	adds := r.Type == "add" && r.Delta != nil
	if refusal != nil || !adds && (r.Type != "broadcast" || r.Message == nil) {
		p.Program.Receive(now, src, data)
		return
	}
	if p.acknowledges {
		p.acks = append(p.acks, r.reply(src, body{"type": r.Type + "_ok"})...)
		data = slices.Concat(json.RawMessage(`{"type":"broadcast","message":`), r.Message, json.RawMessage(`}`))
		if adds {
			data = slices.Concat(json.RawMessage(`{"type":"add","delta":`), r.Delta, json.RawMessage(`}`))
		}
	}
	p.held = append(p.held, heldRequest{now + hastyDelay, src, slices.Clone(data), r.Message})
}

// Ready implements Program.
func (p *hasty) Ready(now time.Duration) Output {
	for len(p.held) > 0 && p.held[0].until <= now {
		p.Program.Receive(now, p.held[0].src, p.held[0].data)
		p.held = p.held[1:]
	}
	out := p.Program.Ready(now)
	for _, reply := range replies(out) {
		if messages, is := reply["messages"].([]json.RawMessage); is && p.shows {
			for _, h := range p.held {
				messages = append(messages, h.value)
			}
			reply["messages"] = messages
		}
	}
	out.Send, p.acks = append(out.Send, p.acks...), nil
	return out
}

// Wake implements Program.
func (p *hasty) Wake() time.Duration {
	wake := p.Program.Wake()
	if len(p.held) > 0 && (wake < 0 || p.held[0].until < wake) {
		return p.held[0].until
	}
	return wake
}

// lazy lets a program gossip for a moment after each value that a client brings, and at no other time.
type lazy struct {
	Program
	until time.Duration
}

const lazyMoment = 300 * time.Millisecond

// Receive implements Program.
func (p *lazy) Receive(now time.Duration, src string, data json.RawMessage) {
	if r, refusal := parseRequest(data); refusal == nil && r.Type == "broadcast" {
		p.until = now + lazyMoment
	}
	p.Program.Receive(now, src, data)
}

// Ready implements Program.
func (p *lazy) Ready(now time.Duration) Output {
	out := p.Program.Ready(now)
	if now >= p.until {
		out.Send = slices.DeleteFunc(out.Send, func(m Message) bool { _, is := m.Body.(gossipBody); return is })
	}
	return out
}

// naive is what one writes first: it tells its neighbours of each value that is new to it, so many times a second apart
// until they confirm. What it gave up telling, it never tells.
type naive struct {
	id        string
	neighbors []string
	tries     int
	known     map[string]bool // JSON
	messages  []json.RawMessage
	open      []telling
	send      []Message
	// deaf: the first value that another node tells after a silence is confirmed and forgotten.
	deaf  bool
	heard map[string]time.Duration // node → when it told something last
}

// telling is a value that a neighbour has not confirmed.
type telling struct {
	to    string
	value json.RawMessage
	left  int // tries
	next  time.Duration
}

const (
	naivePause   = time.Second // between two tries
	naiveSilence = time.Second // after which one is deaf at first
	triesEnough  = 1000        // for any run
)

func naiveSpec(tries int, deaf bool) Spec {
	return Spec{
		Requests: []string{"topology", "broadcast", "read", "tell", "told"},
		New: func(s Start) (Program, error) {
			others := slices.DeleteFunc(slices.Clone(s.Nodes), func(name string) bool { return name == s.ID })
			return &naive{id: s.ID, neighbors: others, tries: tries, known: map[string]bool{}, messages: []json.RawMessage{}, deaf: deaf,
				heard: map[string]time.Duration{}}, nil
		},
	}
}

// Receive implements Program.
func (p *naive) Receive(now time.Duration, src string, data json.RawMessage) {
	r, answer := parseRequest(data)
	if answer == nil {
		answer = p.answer(now, src, r)
	}
	p.send = append(p.send, r.reply(src, answer)...)
}

func (p *naive) answer(now time.Duration, src string, r request) body {
	switch r.Type {
	case "topology":
		p.neighbors = r.Topology[p.id]
		return body{"type": "topology_ok"}
	case "broadcast":
		p.take(now, src, r.Message)
		return body{"type": "broadcast_ok"}
	case "read":
		return body{"type": "read_ok", "messages": slices.Clip(p.messages)}
	case "tell":
		last, before := p.heard[src]
		p.heard[src] = now
		if awake := !before || now-last < naiveSilence; awake || !p.deaf {
			p.take(now, src, r.Message)
		}
		p.send = append(p.send, Message{src, body{"type": "told", "message": r.Message}})
		return nil
	case "told":
		p.open = slices.DeleteFunc(p.open, func(t telling) bool { return t.to == src && string(t.value) == string(r.Message) })
		return nil
	}
	return r.unsupported()
}

func (p *naive) take(now time.Duration, src string, value json.RawMessage) {
	if p.known[string(value)] {
		return
	}
	p.known[string(value)] = true
	p.messages = append(p.messages, value)
	for _, to := range p.neighbors {
		if to != src && p.tries > 0 {
			p.open = append(p.open, telling{to, value, p.tries, now})
		}
	}
}

// Persisted implements Program.
func (p *naive) Persisted(time.Duration, int) {}

// Ready implements Program.
func (p *naive) Ready(now time.Duration) Output {
	out := Output{Send: p.send}
	p.send = nil
	for i := range p.open {
		if t := &p.open[i]; t.next <= now {
			out.Send = append(out.Send, Message{t.to, body{"type": "tell", "message": t.value}})
			t.left, t.next = t.left-1, now+naivePause
		}
	}
	p.open = slices.DeleteFunc(p.open, func(t telling) bool { return t.left == 0 })
	return out
}

// Wake implements Program.
func (p *naive) Wake() time.Duration {
	wake := time.Duration(-1)
	for _, t := range p.open {
		if wake < 0 || t.next < wake {
			wake = t.next
		}
	}
	return wake
}
