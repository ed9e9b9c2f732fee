package ledger

import (
	"strings"
	"testing"

	"dongne/internal/sharedlog"
	"github.com/google/go-cmp/cmp"
)

// accountsOf returns the views of all accounts but the system's, and what they spent today.
func accountsOf(s *State) (views []Account, spent []int64) {
	for n := 1; n < s.accounts.n; n++ {
		if a := s.accounts.at(uint32(n)); a.record != 0 {
			view, _ := s.Account(a.id)
			views, spent = append(views, view), append(spent, a.spent)
		}
	}
	return views, spent
}

// TestChainLeavesNothing lets a chain fail at each of its places: accounts, records, what is open and due, and limits are as
// they were, and only its keys are used, for refusals.
func TestChainLeavesNothing(t *testing.T) {
	const length = 5
	for failing := range length {
		s := NewState(0, 1)
		at := sharedlog.Position{Slot: 1, Time: startTime}
		for _, requests := range opening() {
			s.Apply(at, requests)
		}
		var chain []Request
		for i := range length {
			q := Request{Kind: Move, Linked: i < length-1, Any: true, By: "bo", Key: NewKey("bo", string(rune('a'+i))),
				Currency: testKRW,
				Legs:     []Leg{{"b", -100}, {"c", 100}}}
			switch i {
			case 1:
				q.Kind = Hold
			case 2:
				q.Kind, q.Legs, q.Recipient = Claimable, q.Legs[:1:1], "dan"
			}
			chain = append(chain, q)
		}
		chain[failing].Legs[0].Amount, chain[failing].Linked = -501, failing < length-1 // more than its limit
		if len(chain[failing].Legs) > 1 {
			chain[failing].Legs[1].Amount = 501
		}
		views, spent := accountsOf(s)
		records, postings, due := s.records.n, s.postings.n, len(s.due)
		for i, result := range s.Apply(at, chain) {
			if want := map[bool]Code{true: LimitExceeded, false: LinkedFailed}[i == failing]; result != (Result{Refused: want}) {
				t.Errorf("failing at %d: result %d = %+v, want %v", failing, i, result, want)
			}
		}
		viewsAfter, spentAfter := accountsOf(s)
		if diff := cmp.Diff(views, viewsAfter) + cmp.Diff(spent, spentAfter); diff != "" {
			t.Errorf("failing at %d: accounts changed (-before +after):\n%s", failing, diff)
		}
		if s.records.n != records || s.postings.n != postings || len(s.due) != due || len(s.roots) != 0 {
			t.Errorf("failing at %d: %d records, %d postings, %d due, %d open are left", failing, s.records.n-records,
				s.postings.n-postings, len(s.due), len(s.roots))
		}
		for i, result := range s.Apply(at, chain) {
			if !result.Replayed || result.Refused == 0 {
				t.Errorf("failing at %d: again, result %d = %+v", failing, i, result)
			}
		}
		if err := s.Check(); err != nil {
			t.Error(err)
		}
	}
}

// TestChainAcrossShards refuses a chain that would leave its shard, and does the same moves alone.
func TestChainAcrossShards(t *testing.T) {
	w := newWorld(seededDice(1), rightly, 2)
	w.setUp()
	here, there := w.found[0][1], w.found[1][1]
	move := func(to string, linked bool) Request {
		return Request{Kind: Move, Linked: linked, Any: true, Currency: testKRW, Legs: []Leg{{w.found[0][0], -1}, {to, 1}}}
	}
	got := w.shards[0].Apply(w.shards[0].Position(), []Request{move(here, true), move(there, false), move(here,
		false), move(there, false)})
	want := []Result{{Refused: LinkedFailed}, {Refused: LinkedAcross, Leg: 1}, {Record: got[2].Record},
		{Record: got[3].Record, Settling: true}}
	if diff := cmp.Diff(want, got); diff != "" || got[2].Record == 0 {
		t.Errorf("results mismatch (-want +got):\n%s", diff)
	}
}

// TestBounds refuses what would not fit where it is kept, in whatever shard it is found.
func TestBounds(t *testing.T) {
	w := newWorld(seededDice(1), rightly, 2)
	w.setUp()
	from, to := w.found[0][0], w.found[0][1]
	for name, change := range map[string]func(q *Request){
		"memo":      func(q *Request) { q.Memo = strings.Repeat("x", MemoBytesMax+1) },
		"long memo": func(q *Request) { q.Memo = strings.Repeat("x", 1<<17) },
		"reference": func(q *Request) { q.Reference = strings.Repeat("x", ReferenceBytesMax+1) },
		"user":      func(q *Request) { q.By = strings.Repeat("x", UserBytesMax+1) },
		"recipient": func(q *Request) {
			q.Kind, q.Legs, q.Recipient = Claimable, q.Legs[:1], strings.Repeat("x", UserBytesMax+1)
		},
		"account": func(q *Request) { q.Legs[1].Account = strings.Repeat("x", 1<<15) },
	} {
		q := Request{Kind: Move, Any: true, Currency: testKRW, Legs: []Leg{{from, -1}, {to, 1}}}
		change(&q)
		if got := w.shards[0].Apply(w.shards[0].Position(), []Request{q})[0]; got != (Result{Refused: LegsInvalid}) {
			t.Errorf("too long a %s: %+v", name, got)
		}
	}
	q := Request{Kind: Move, Any: true, By: strings.Repeat("u", UserBytesMax), Currency: testKRW,
		Memo:      strings.Repeat("m", MemoBytesMax),
		Reference: strings.Repeat("r", ReferenceBytesMax), Legs: []Leg{{from, -(LegsMax - 1)}}}
	for i := range LegsMax - 1 { // the longest record there is: all in other shards
		id := strings.Repeat("x", AccountBytesMax-2)
		for n := 'a'; ; n++ {
			if id2 := id + string(rune('a'+i)) + string(n); ShardOf(id2, 2) == 1 {
				id = id2
				break
			}
		}
		q.Legs = append(q.Legs, Leg{id, 1})
	}
	result := w.shards[0].Apply(w.shards[0].Position(), []Request{q})[0]
	if !result.Settling {
		t.Fatalf("the longest transfer: %+v", result)
	}
	made := w.shards[0].Made(result.Record)
	if len(made.Legs) != LegsMax || made.Memo != q.Memo || made.Reference != q.Reference || made.By != q.By {
		t.Errorf("the longest transfer is %+v", made)
	}
}
