package node

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"dongne/internal/gossip"
)

const (
	// valueBytesMax bounds a broadcast value as JSON: it must fit into one line with what gossip says beside it.
	valueBytesMax = 32 << 10
	// gossipBytesMax bounds the entries of a gossip message: with its vector a line then stays below 48 KiB. The demo
	// library reads none of 64 KiB.
	gossipBytesMax = 40 << 10
	// gossip counts positionCounted bytes for a position; as text it has some positionText more than the node's name.
	positionCounted, positionText = 32, 26
	// tickMax bounds gossip's tick, so that 25 nodes agree within 5 s of the end of a partition; except that a hub's
	// batches must come within the tick, by tickMargin: then there are no other digests.
	tickMax, tickMargin = 800 * time.Millisecond, 150 * time.Millisecond
	// fastNodesMax is up to how many nodes profile auto sends everything to everybody.
	fastNodesMax = 8
	// startDelay is how long a node that hears nothing waits before it speaks: in Maelstrom a message to a node that was
	// not started yet is an offence.
	startDelay = time.Second
)

func broadcastSpec() Spec {
	return Spec{
		Name:     "broadcast",
		Help:     "spreads values with the gossip of chat: --profile auto|topology|fast|balanced|frugal|lan, --delay 100ms",
		Requests: []string{"topology", "broadcast", "read", "gossip"},
		New: func(s Start) (Program, error) {
			profile, err := broadcastProfile(s.Args, len(s.Nodes))
			if err != nil {
				return nil, err
			}
			return newBroadcast(s, profile)
		},
	}
}

// broadcast is a Program on a gossip.Node: each value is an entry of it, and a record on disk.
type broadcast struct {
	id       string
	durable  bool
	gossip   *gossip.Node
	storage  *gossip.MemoryStorage
	messages []json.RawMessage // durable, in the order in which they were accepted
	accepted []accepted        // not yet durable, in order
	writing  int               // so many of accepted were given to the disk
	send     []Message
	speaks   bool
	speaksAt time.Duration // at the latest; 0: not known yet
}

// accepted is an entry on its way to the disk, and the reply that waits for it.
type accepted struct {
	gossip.Entry
	reply []Message
}

func newBroadcast(s Start, profile gossip.Profile) (*broadcast, error) {
	b := &broadcast{id: s.ID, durable: s.Durable, storage: &gossip.MemoryStorage{}, messages: []json.RawMessage{}}
	position := positionCounted
	for _, name := range append(slices.Clone(s.Nodes), s.ID) {
		if err := gossip.ValidName(name); err != nil {
			return nil, err
		}
		position = max(position, len(name)+positionText)
	}
	profile.MessageBytes = gossipBytesMax * positionCounted / position
	restored := gossip.Vector{}
	for i, record := range s.Disk {
		e, err := gossip.ParseEntry(record)
		if err == nil && e.Seq != restored[e.Origin]+1 {
			err = fmt.Errorf("%s:%d follows %d", e.Origin, e.Seq, restored[e.Origin])
		}
		if err != nil {
			return nil, fmt.Errorf("node: record %d: %w", i, err)
		}
		restored[e.Origin] = e.Seq
		b.show(e)
	}
	b.gossip = gossip.New(gossip.Config{Self: s.ID, Peers: s.Nodes, Incarnation: s.Incarnation, Restored: restored,
		Storage: b.storage, Profile: profile, Rand: s.Rand})
	return b, nil
}

// broadcastProfile reads the arguments.
func broadcastProfile(args []string, nodes int) (gossip.Profile, error) {
	name, delay := "auto", time.Duration(-1)
	for len(args) > 0 {
		option, value, joined := strings.Cut(args[0], "=")
		if args = args[1:]; !joined && len(args) > 0 {
			value, args = args[0], args[1:]
		}
		switch option {
		case "--profile":
			name = value
		case "--delay":
			var err error
			if delay, err = time.ParseDuration(value); err != nil || delay < 0 {
				return gossip.Profile{}, fmt.Errorf("node: --delay %q: want a duration like 100ms", value)
			}
		default:
			return gossip.Profile{}, fmt.Errorf("node: unknown argument %q: want --profile or --delay", option)
		}
	}
	tree := gossip.Fast
	tree.Topology = gossip.Tree
	profiles := map[string]gossip.Profile{"auto": gossip.Fast, "topology": tree, "fast": gossip.Fast,
		"balanced": gossip.Balanced, "frugal": gossip.Frugal, "lan": gossip.LAN}
	if nodes > fastNodesMax {
		profiles["auto"] = gossip.Balanced
	}
	p, known := profiles[name]
	if !known {
		return p, fmt.Errorf("node: --profile %q: want auto, topology, fast, balanced, frugal or lan", name)
	}
	p.Tick = min(p.Tick, max(tickMax, p.HubInterval+tickMargin))
	if delay >= 0 {
		p.Delay = delay
	}
	return p, nil
}

// Receive implements Program.
func (b *broadcast) Receive(now time.Duration, src string, data json.RawMessage) {
	b.speaks = true
	r, refusal := parseRequest(data)
	if refusal == nil && r.Type == "gossip" {
		if m, err := decodeGossip(data); err == nil { // a bad one is like one that got lost
			b.accept(now, nil, b.gossip.Receive(now, src, m)...)
		}
		return
	}
	if refusal == nil && r.Type == "broadcast" {
		var value json.RawMessage
		if value, refusal = broadcastValue(r); refusal == nil {
			b.accept(now, r.reply(src, body{"type": "broadcast_ok"}), b.gossip.Append(now, value))
			return
		}
	}
	if refusal == nil {
		refusal = b.answer(r)
	}
	b.send = append(b.send, r.reply(src, refusal)...)
}

// broadcastValue returns the value as it will be passed on.
func broadcastValue(r request) (value json.RawMessage, refusal body) {
	if r.Message == nil {
		return nil, r.lacks("message")
	}
	value, err := canonical(r.Message)
	if err != nil {
		return nil, refuse(codeMalformedRequest, "message: %v", err)
	}
	if len(value) > valueBytesMax {
		return nil, refuse(codeMalformedRequest, "message of %d bytes, at most %d fit into a line", len(value), valueBytesMax)
	}
	return value, nil
}

// answer answers what needs no disk.
func (b *broadcast) answer(r request) body {
	switch r.Type {
	case "read":
		return body{"type": "read_ok", "messages": slices.Clip(b.messages)}
	case "topology":
		if r.Topology == nil {
			return r.lacks("topology")
		}
		b.gossip.SetNeighbors(r.Topology[b.id])
		return body{"type": "topology_ok"}
	}
	return r.unsupported()
}

// accept takes in entries; the reply is sent when they are durable.
func (b *broadcast) accept(now time.Duration, reply []Message, entries ...gossip.Entry) {
	for _, e := range entries {
		b.accepted = append(b.accepted, accepted{e, reply})
	}
	if !b.durable {
		b.Persisted(now, len(entries))
	}
}

// Persisted implements Program.
func (b *broadcast) Persisted(now time.Duration, count int) {
	for _, a := range b.accepted[:count] {
		b.show(a.Entry)
		b.send = append(b.send, a.reply...)
	}
	b.accepted = slices.Delete(b.accepted, 0, count)
	b.writing -= min(count, b.writing)
	b.gossip.Persisted(now, count)
}

// show makes a durable entry part of what is read, and of what gossip sends.
func (b *broadcast) show(e gossip.Entry) {
	b.storage.Append(e)
	b.messages = append(b.messages, e.Data)
}

// Ready implements Program.
func (b *broadcast) Ready(now time.Duration) Output {
	out := Output{Send: b.send}
	b.send = nil
	for _, a := range b.accepted[b.writing:] {
		out.Write = append(out.Write, a.AppendBinary(nil))
	}
	b.writing = len(b.accepted)
	if b.speaksAt == 0 {
		b.speaksAt = now + startDelay
	}
	if b.speaks = b.speaks || now >= b.speaksAt; b.speaks {
		for _, e := range b.gossip.Ready(now) {
			out.Send = append(out.Send, Message{e.To, encodeGossip(e.Message)})
		}
	}
	return out
}

// Wake implements Program.
func (b *broadcast) Wake() time.Duration {
	if !b.speaks {
		return b.speaksAt
	}
	if wake := b.gossip.Wake(); wake < math.MaxInt64 {
		return wake
	}
	return -1 // there are no peers
}
