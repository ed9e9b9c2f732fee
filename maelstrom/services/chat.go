package services

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

const (
	roomsCount = 3
	lookEvery  = 300 * time.Millisecond // more than chat gathers read positions for
)

// A chat is the load of chat.
type chat struct {
	*run
	rooms   map[string][]string // id → members, sorted
	writers []*writer
	readers []*reader

	settled  chan struct{} // closed when readers are to stay where they are
	hangUp   func()        // ends the readers
	observed observed
}

func newChat(r *run) load {
	return &chat{run: r, rooms: map[string][]string{}, settled: make(chan struct{}), hangUp: func() {}}
}

func (r *chat) env(node string) []string {
	return []string{"NODE_ID=" + node, "PEERS=" + strings.Join(r.cluster.peers(node), ","),
		fmt.Sprintf("PEER_SECRET=of this run alone %016x", r.Seed), "SENDS_PER_SECOND=100000"}
}

// setUp opens the rooms, and lets the readers follow their streams, each of which it waits for.
func (r *chat) setUp(ctx context.Context) error {
	if err := r.openRooms(ctx); err != nil {
		return err
	}
	following, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	r.hangUp = sync.OnceFunc(func() {
		cancel()
		reading.Wait()
		for _, c := range r.users() {
			c.http.CloseIdleConnections()
		}
	})
	started := make(chan struct{}, len(r.readers))
	for _, reader := range r.readers {
		reader.started = sync.OnceFunc(func() { started <- struct{}{} })
		reading.Go(func() { reader.run(following) })
	}
	timeout := time.NewTimer(setupMax)
	defer timeout.Stop()
	for range r.readers {
		select {
		case <-started:
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout.C:
			return fmt.Errorf("not every reader has a stream within %v, before any fault", setupMax)
		}
	}
	return nil
}

func (r *chat) work(ctx context.Context) {
	var working sync.WaitGroup
	for _, w := range r.writers {
		working.Go(func() { w.run(ctx) })
	}
	working.Wait()
}

func (r *chat) stop() { r.hangUp() }

func (r *chat) judge(recovery time.Duration) judgement {
	c := r.count()
	c.recovery = recovery
	return judgement{acknowledged: c.acknowledged, wrong: checkAll(&r.observed), fields: c.fields()}
}
