package live_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/filelog"
	"dongne/internal/sharedlog/live"
)

// list is a machine that appends strings; its answer is the place in the list.
type list struct {
	mu    sync.RWMutex
	items []string
}

func (m *list) Prepare(_ sharedlog.Position, requests []string) []sharedlog.Prepared[int] {
	prepared := make([]sharedlog.Prepared[int], len(requests))
	for i, q := range requests {
		prepared[i].Commands = [][]byte{[]byte(q)}
	}
	return prepared
}

func (m *list) Apply(b *sharedlog.Batch) []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	var places []int
	for _, c := range b.Commands {
		m.items = append(m.items, string(c.Data))
		places = append(places, len(m.items))
	}
	return places
}

func (m *list) Abandon()                 {}
func (m *list) Snapshot() ([]byte, bool) { return nil, false }
func (m *list) Restore([]byte) error     { return nil }

func TestFilelogHappyPath(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		engine, report, err := filelog.Open(dir, filelog.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Log(report)
		m := &list{}
		log, err := live.Open(t.Context(), engine, m, live.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(m.items) != round*100 {
			t.Fatalf("round %d: replayed %d", round, len(m.items))
		}
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				if _, err := log.Propose(context.Background(), fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if err := log.Fresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		log.Close()
		engine.Close()
	}
}
