package node

import (
	"context"
	"sync"
	"time"

	"dongne/auth/realm"
)

// feed is what those who follow the revocations share: one proof each second, however many they are, that nothing is
// missing here.
type feed struct {
	mu     sync.Mutex
	proven time.Time     // when the newest proof was asked for; guarded by mu
	alive  chan struct{} // closed at the next; guarded by mu
}

// prove makes sure that memory holds what was acknowledged anywhere, and wakes those who follow.
func (n *Node) prove(ctx context.Context) {
	asked := n.config.Now()
	if err := n.fresh(ctx); err != nil {
		return // they learn it by the silence
	}
	n.feed.mu.Lock()
	defer n.feed.mu.Unlock()
	n.feed.proven = asked
	close(n.feed.alive)
	n.feed.alive = make(chan struct{})
}

// News is what whoever knows the revocations up to some sequence number has to learn.
type News struct {
	Items []realm.Revocation // in order; not to be changed
	Seq   uint64             // of the newest ever: the next question is after it
	Reset bool               // what was known is of no use any more: Items are all that there are
	// Complete: no revocation that was acknowledged anywhere, up to a second and a half ago, is missing.
	Complete bool
	More     <-chan struct{} // closes when there are more
	Alive    <-chan struct{} // closes when it was made sure again that nothing is missing
}

// News returns the revocations after a sequence number.
func (n *Node) News(after uint64) (news News) {
	n.feed.mu.Lock()
	age := n.config.Now().Sub(n.feed.proven)
	news.Alive, news.Complete = n.feed.alive, !n.store.Shared() || 0 <= age && age <= provenMax
	n.feed.mu.Unlock()
	n.mu.RLock()
	defer n.mu.RUnlock()
	news.Items, news.Seq, news.Reset = n.state.Revocations(after)
	news.More = n.changed
	return news
}
