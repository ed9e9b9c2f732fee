package control

import (
	"context"
	"fmt"
	"hash/fnv"
	"net/http"
	"sync/atomic"
	"time"

	"dongne/internal/gossip"
	"dongne/internal/peer"
)

// MessageBytesMax bounds a peer's message.
const MessageBytesMax = peer.MessageBytesMax

// linkQueueMax is how many messages wait for one peer; more are dropped, and asked for again by anti-entropy.
const linkQueueMax = 64

// link is the way to a peer.
type link struct {
	name    string
	queue   chan []byte
	dropped atomic.Int64
	failed  atomic.Int64
}

func (n *Node) runLink(ctx context.Context, l *link) {
	for {
		select {
		case <-ctx.Done():
			return
		case body := <-l.queue:
			if err := n.cluster.Send(ctx, l.name, body); err != nil && ctx.Err() == nil {
				l.failed.Add(1)
				n.options.Logger.Debug("message to another gateway", "to", l.name, "err", err)
			}
		}
	}
}

// sendLoop sends what gossip has to say, when it has.
func (n *Node) sendLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-n.kick:
		}
		n.mu.Lock()
		envelopes := n.gossip.Ready(n.elapsed())
		due := n.gossip.Wake()
		n.mu.Unlock()
		for _, e := range envelopes {
			l := n.links[e.To]
			select {
			case l.queue <- e.Message.AppendBinary(nil):
			default:
				l.dropped.Add(1)
			}
		}
		timer.Reset(max(0, due-n.elapsed()))
	}
}

// Receive takes a peer's message, the body of a POST to /gossip, and returns once what it brought is on disk and acts.
// The error wraps peer.ErrSignature or ErrMessage, or is a *sharedlog.Error.
func (n *Node) Receive(ctx context.Context, h http.Header, body []byte) error {
	from, err := n.cluster.Verify(h, body)
	if err != nil {
		return err
	}
	m, err := gossip.ParseMessage(body)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrMessage, err)
	}
	for _, e := range m.Entries {
		if len(e.Data) == 0 {
			continue
		}
		if _, err := decodeEntry(e.Data); err != nil {
			return fmt.Errorf("%w: entry %d of %v: %v", ErrMessage, e.Seq, e.Origin, err)
		}
	}
	_, err = n.live.Propose(ctx, &request{message: &m, from: from})
	wake(n.kick)
	return err
}

// note keeps what a peer shows that it has, until this node has it too. mu is held.
func (n *Node) note(from string, m *gossip.Message) {
	if n.shown == nil {
		return
	}
	switch {
	case m.Vector != nil:
		n.shown[from] = m.Vector
	case m.HasHash && m.Hash == vectorHash(n.history.have):
		n.shown[from] = gossip.Vector{}
	}
	n.checkSynced()
}

// checkSynced closes synced when every peer has shown what it has and all of it is here. mu is held.
func (n *Node) checkSynced() {
	if n.shown == nil || len(n.shown) < len(n.options.Peers) {
		return
	}
	for _, vector := range n.shown {
		if !n.history.have.Covers(vector) {
			return
		}
	}
	n.shown = nil
	close(n.synced)
}

// vectorHash is the hash by which gossip says that it has nothing new: FNV-1a of the vector's bytes.
func vectorHash(v gossip.Vector) uint64 {
	h := fnv.New64a()
	h.Write(v.AppendBinary(nil))
	return h.Sum64()
}
