package room

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// sharedLogs draws requests and writes the facts of those that are accepted to the logs of their shards, against what a
// node knows that applies each as it comes. The record number of a fact is its place among all.
type sharedLogs struct {
	world
	node   *State
	clocks []*Clock
	logs   [][]int // numbers of facts
}

const shardsOfTest = 3

func newSharedLogs(t *rapid.T) *sharedLogs {
	l := &sharedLogs{world: *newWorld(t), node: New(), logs: make([][]int, shardsOfTest)}
	for i := range shardsOfTest {
		l.clocks = append(l.clocks, NewShardClock(i))
	}
	return l
}

// draw draws a request: one of world's facts, as it is before it is accepted.
func (l *sharedLogs) draw() (f Fact, key string) {
	facts, messages := len(l.facts), len(l.messages)
	rooms := slices.Clone(l.rooms)
	l.step()
	f = l.facts[facts]
	l.facts, l.messages, l.rooms = l.facts[:facts], l.messages[:messages], rooms
	if f.By == "" {
		f.By = "ana"
	}
	if f.Kind == Posted || f.Kind == Created {
		if n := rapid.IntRange(0, 4).Draw(l.t, "idempotency key"); n > 0 {
			key = fmt.Sprint(n)
			if f.Kind == Posted {
				f.Text = "keyed" // the same key is mostly the same request
			}
		}
	}
	if f.Kind == Created && f.RoomKind != Direct {
		f.Room = 0
	}
	f.ID, f.Key, f.Body = 0, 0, 0
	return f, key
}

// write accepts one request at the end of its log, if it is.
func (l *sharedLogs) write() {
	f, key := l.draw()
	if rapid.IntRange(0, 9).Draw(l.t, "block") == 0 {
		f, key = Fact{Kind: rapid.SampledFrom([]Kind{Blocked, Unblocked}).Draw(l.t, "which"), By: "ana", Target: "bo"}, ""
	}
	shard := f.Shard(key, rapid.Uint64().Draw(l.t, "spread"), shardsOfTest)
	id := l.clocks[shard].Next(l.now)
	again := f
	answer, done, err := l.node.Accept(&f, key, id)
	if done || err != nil {
		return
	}
	if got := f.Shard(key, 0, shardsOfTest); f.Kind != Created && got != shard || f.Kind == Created && f.Room.Shard(shardsOfTest) != shard {
		l.t.Fatalf("%+v lies in shard %d, and belongs in %d or %d", f, shard, got, f.Room.Shard(shardsOfTest))
	}
	if log := l.logs[shard]; len(log) > 0 && l.facts[log[len(log)-1]].ID >= f.ID {
		l.t.Fatalf("id %v follows %v in shard %d", f.ID, l.facts[log[len(log)-1]].ID, shard)
	}
	number := len(l.facts)
	l.logs[shard] = append(l.logs[shard], number)
	l.facts = append(l.facts, f)
	l.node.Apply(uint32(number), &f)
	switch f.Kind {
	case Posted:
		l.messages = append(l.messages, f)
	case Created:
		if !slices.Contains(l.rooms, f.Room) {
			l.rooms = append(l.rooms, f.Room)
		}
	}
	if key == "" {
		return
	}
	if a, done, err := l.node.Accept(&again, key, l.clocks[shard].Next(l.now)); !done || err != nil || !a.Replayed || a.ID != answer.ID {
		l.t.Fatalf("the retry of %+v answers %+v, %v, %v", f, a, done, err)
	}
}

// TestInterleavings: however the slots of several logs come between each other, a node answers the same when it has the
// same of each; a room's history is in the order of its log, and nothing gives way in it: each request is there once.
func TestInterleavings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newSharedLogs(t)
		for range rapid.IntRange(0, 50).Draw(t, "requests") {
			l.write()
		}
		other := New()
		at := make([]int, shardsOfTest)
		for left := len(l.facts); left > 0; left-- {
			shard := rapid.IntRange(0, shardsOfTest-1).Draw(t, "next")
			for at[shard] == len(l.logs[shard]) {
				shard = (shard + 1) % shardsOfTest
			}
			number := l.logs[shard][at[shard]]
			at[shard]++
			other.Apply(uint32(number), &l.facts[number])
		}
		for _, user := range users {
			if diff := cmp.Diff(l.view(l.node, user), l.view(other, user)); diff != "" {
				t.Fatalf("what %s sees (-as it came +in another order):\n%s", user, diff)
			}
		}
		for _, id := range l.rooms {
			if a, b := l.node.CheckTyping(id, "bo"), other.CheckTyping(id, "bo"); fmt.Sprint(a) != fmt.Sprint(b) {
				t.Fatalf("bo in %v: %v as it came, %v in another order", id, a, b)
			}
			l.checkOrder(t, id)
		}
	})
}

// checkOrder compares a room's messages with the log of its shard.
func (l *sharedLogs) checkOrder(t *rapid.T, id ID) {
	var want, got []ID
	for _, number := range l.logs[id.Shard(shardsOfTest)] {
		if f := l.facts[number]; f.Kind == Posted && f.Room == id {
			want = append(want, f.ID)
		}
	}
	r := l.node.rooms[id]
	for _, line := range r.lines {
		if r.visible(line.id) {
			got = append(got, line.id)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("room %v (-log +history):\n%s", id, diff)
	}
}

// TestShardClock: ids of different shards differ, and name their shard.
func TestShardClock(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	seen := map[ID]bool{}
	for shard := range 16 {
		c := NewShardClock(shard)
		for range 3 {
			id := c.Next(now)
			if seen[id] || id.Shard(16) != shard {
				t.Errorf("id %v of shard %d: given out before %v, says shard %d", id, shard, seen[id], id.Shard(16))
			}
			seen[id] = true
		}
	}
}
