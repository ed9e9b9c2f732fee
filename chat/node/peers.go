package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync/atomic"

	"dongne/chat/room"
	"dongne/internal/peer"
)

// MessageBytesMax bounds one message between nodes.
const MessageBytesMax = peer.MessageBytesMax

// Limits between nodes.
const (
	linkQueueMax   = 64 // messages to one node; more are dropped, and asked for again by anti-entropy
	linkPassingMax = 8  // of what is not asked for again
)

// The body of a message between nodes is its kind and its content.
const (
	kindGossip   = 'g' // a gossip.Message
	kindPassing  = 'p' // a passing, as JSON
	kindHint     = 'h' // of each shared log, how many slots the sender has: uvarints
	signatureFor = "dongne-chat-1"
)

var (
	// ErrSignature: not a message that a node of this cluster signed for this node just now.
	ErrSignature = peer.ErrSignature
	// ErrClock: the other node's clock is too far ahead.
	ErrClock = errors.New("clock ahead")
	// ErrMessage: signed, but not to be understood.
	ErrMessage = errors.New("malformed message")
)

// passing is what nodes tell each other and forget.
type passing struct {
	Typing  *typing  `json:"typing,omitempty"`
	Online  []string `json:"online,omitempty"`
	Offline []string `json:"offline,omitempty"`
	Whole   bool     `json:"whole,omitempty"` // Online is everybody, not just who came
}

type typing struct {
	Room room.ID `json:"room"`
	User string  `json:"user"`
}

// link is the way to another node.
type link struct {
	name    string
	queue   chan []byte // of gossip, which goes first
	passing chan []byte
	hint    chan struct{} // there is news in the log
	dropped atomic.Int64
	failed  atomic.Int64
}

// ParsePeers reads "n2=http://127.0.0.1:9082,n3=…", the other nodes' names and URLs.
func ParsePeers(list, self string) (map[string]string, error) { return peer.Parse(list, self) }

// cluster is the nodes as this one sees them.
func (c Config) cluster() *peer.Cluster {
	return &peer.Cluster{Purpose: signatureFor, Self: c.Name, URLs: c.Peers, Secret: c.Secret, Now: c.Now, Client: c.Client}
}

func sortedNames(peers map[string]string) []string { return slices.Sorted(maps.Keys(peers)) }

func (n *Node) startLinks(ctx context.Context) {
	for name := range n.config.Peers {
		l := &link{name: name, queue: make(chan []byte, linkQueueMax), passing: make(chan []byte, linkPassingMax), hint: make(chan struct{}, 1)}
		n.links[name] = l
		n.loop(ctx, func(ctx context.Context) { n.runLink(ctx, l) })
	}
}

func (l *link) send(to chan []byte, body []byte) {
	select {
	case to <- body:
	default:
		l.dropped.Add(1)
	}
}

func (n *Node) runLink(ctx context.Context, l *link) {
	for {
		var body []byte
		select {
		case body = <-l.queue:
		default:
			select {
			case <-ctx.Done():
				return
			case body = <-l.queue:
			case body = <-l.passing:
			case <-l.hint:
				body = n.log.hint() // as things are now: while one is on its way, all that comes is in the next
			}
		}
		if err := n.cluster.Send(ctx, l.name, body); err != nil {
			if ctx.Err() != nil {
				return
			}
			l.failed.Add(1)
			n.config.Logger.Debug("message to another node", "to", l.name, "err", err)
		}
	}
}

// Receive takes a message from another node.
func (n *Node) Receive(ctx context.Context, h http.Header, body []byte) error {
	from, err := n.cluster.Verify(h, body)
	if err != nil {
		return err
	}
	if body[0] != kindPassing {
		return n.log.receive(ctx, from, body[0], body[1:])
	}
	var p passing
	if err := json.Unmarshal(body[1:], &p); err != nil {
		return fmt.Errorf("%w: %v", ErrMessage, err)
	}
	n.passed(from, p)
	return nil
}

// wake sends to a channel that holds one, which is then full.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// tellPeers sends something that is not worth keeping to every other node.
func (n *Node) tellPeers(p passing) {
	body, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("node: a message that cannot be encoded: %v", err))
	}
	for _, l := range n.links {
		l.send(l.passing, append([]byte{kindPassing}, body...))
	}
}
