package ledger

import (
	"fmt"
	"strconv"
	"testing"

	"dongne/internal/sharedlog"
	"github.com/google/go-cmp/cmp"
)

const linesOfTest = 5*markEvery + 3

// long returns a ledger in which cash paid a, and a gave back, one entry of each a minute; amounts are numbers of entries.
func long(t testing.TB) *State {
	s := NewState(0, 1)
	at := sharedlog.Position{Slot: 1, Time: startTime}
	s.Apply(at, opening()[0])
	for n := 1; n <= linesOfTest; n++ {
		at.Slot++
		at.Time += 60 * 1e9
		amount := int64(n)
		if n%3 == 0 {
			amount = -1
		}
		q := Request{Kind: Move, Any: true, Currency: testKRW, Memo: fmt.Sprint("n", n), Legs: []Leg{{"float", -amount},
			{"debt", amount}}}
		if result := s.Apply(at, []Request{q})[0]; result.Refused != 0 {
			t.Fatal(result.Refused)
		}
	}
	return s
}

// TestStatementPages reads the statement of a liability and of an asset account with pages of every size: every entry once,
// in order, with the balance, and each page adds up.
func TestStatementPages(t *testing.T) {
	s := long(t)
	for _, account := range []string{"debt", "float"} {
		for _, limit := range []int{1, 2, 63, 64, 65, 100, linesOfTest - 1, linesOfTest, linesOfTest + 1} {
			next, balance := 1, int64(0)
			for after := uint32(0); ; {
				page, ok := s.Statement(account, after, 0, 0, limit)
				if !ok || page.Opening != strconv.FormatInt(balance, 10) || len(page.Items) > limit {
					t.Fatalf("page of %d of %q behind %d: %v, %d items, opens with %s, want %d", limit, account, after, ok,
						len(page.Items), page.Opening, balance)
				}
				for _, e := range page.Items {
					amount := int64(next)
					if next%3 == 0 {
						amount = -1
					}
					balance += amount
					want := Entry{Entry: uint32(next), Transfer: e.Transfer, Kind: "transfer", Amount: strconv.FormatInt(amount, 10),
						Balance: strconv.FormatInt(balance, 10), Time: timeText(startTime + int64(next)*60*1e9),
						Memo: fmt.Sprint("n", next)}
					if diff := cmp.Diff(want, e); diff != "" {
						t.Fatalf("entry %d of %q mismatch (-want +got):\n%s", next, account, diff)
					}
					next++
				}
				if page.Closing != strconv.FormatInt(balance, 10) {
					t.Fatalf("page of %d of %q behind %d closes with %s, want %d", limit, account, after, page.Closing, balance)
				}
				if after = page.Next; after == 0 {
					break
				}
			}
			if next != linesOfTest+1 {
				t.Errorf("pages of %d of %q have %d entries, want %d", limit, account, next-1, linesOfTest)
			}
		}
	}
}

// TestStatementTimes reads ranges of times, whose ends lie on, before and behind entries.
func TestStatementTimes(t *testing.T) {
	s := long(t)
	minute := func(n int, more int64) int64 { return startTime + int64(n)*60*1e9 + more }
	for _, test := range []struct {
		from, to    int64
		after       uint32
		limit       int
		first, last int // 0: none
		next        uint32
	}{
		{from: 0, to: 0, limit: 1000, first: 1, last: linesOfTest},
		{from: minute(10, 0), to: minute(20, 0), limit: 1000, first: 10, last: 19},
		{from: minute(10, 1), to: minute(20, 1), limit: 1000, first: 11, last: 20},
		{from: minute(10, -1), to: minute(20, -1), limit: 1000, first: 10, last: 19},
		{from: minute(100, 0), limit: 5, first: 100, last: 104, next: 104},
		{from: minute(100, 0), after: 104, limit: 5, first: 105, last: 109, next: 109},
		{from: minute(100, 0), to: minute(106, 0), after: 104, limit: 5, first: 105, last: 105},
		{to: minute(1, 0), limit: 5},
		{from: minute(linesOfTest, 1), limit: 5},
		{from: minute(20, 0), to: minute(10, 0), limit: 5},
		{after: linesOfTest, limit: 5},
		{after: linesOfTest + 100, limit: 5},
	} {
		page, _ := s.Statement("debt", test.after, test.from, test.to, test.limit)
		sum := func(n int) (sum int64) {
			for i := 1; i <= n; i++ {
				if sum += int64(i); i%3 == 0 {
					sum -= int64(i) + 1
				}
			}
			return sum
		}
		first, last := 0, 0
		if n := len(page.Items); n > 0 {
			first, last = int(page.Items[0].Entry), int(page.Items[n-1].Entry)
		}
		if first != test.first || last != test.last || page.Next != test.next {
			t.Errorf("%+v: entries %d to %d, next %d", test, first, last, page.Next)
		}
		opening, closing := sum(first-1), sum(last)
		if first == 0 {
			opening, _ = strconv.ParseInt(page.Closing, 10, 64)
			closing = opening
		}
		if page.Opening != strconv.FormatInt(opening, 10) || page.Closing != strconv.FormatInt(closing, 10) {
			t.Errorf("%+v: from %s to %s, want %d to %d", test, page.Opening, page.Closing, opening, closing)
		}
	}
	if _, ok := s.Statement("ghost", 0, 0, 0, 5); ok {
		t.Error("there is a statement of no account")
	}
	if page, ok := s.Statement("a", 0, 0, 0, 5); !ok || page.Opening != "0" || page.Closing != "0" || len(page.Items) != 0 || page.Next != 0 {
		t.Errorf("the statement of an account without entries is %+v, %v", page, ok)
	}
}

// TestStatementRolledBack takes a chain back across a mark, and reads on.
func TestStatementRolledBack(t *testing.T) {
	s := long(t)
	at := s.Position()
	before := s.accounts.at(s.find("debt")).entries
	for round := range 3 {
		var chain []Request
		for range markEvery + 5 {
			chain = append(chain, Request{Kind: Move, Any: true, Linked: true, Currency: testKRW, Legs: []Leg{{"float",
				-1}, {"debt", 1}}})
		}
		chain[len(chain)-1].Legs[1].Account = "ghost"
		chain[len(chain)-1].Linked = false
		at.Slot++
		for i, result := range s.Apply(at, chain) {
			if want := map[bool]Code{true: AccountUnknown, false: LinkedFailed}[i == len(chain)-1]; result.Refused != want {
				t.Fatalf("result %d = %+v, want %v", i, result, want)
			}
		}
		s.Apply(at, chain[len(chain)-2:len(chain)-1])
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		restored := NewState(0, 1)
		if err := restored.Restore(s.Snapshot()); err != nil {
			t.Fatal(err)
		}
		for after := uint32(0); after <= before; after += 31 {
			went, _ := s.Statement("debt", after, 0, 0, 40)
			read, _ := restored.Statement("debt", after, 0, 0, 40)
			if diff := cmp.Diff(went, read); diff != "" || went.Items[0].Entry != after+1 {
				t.Fatalf("round %d: page behind %d mismatch (-went on +restored):\n%s", round, after, diff)
			}
		}
		before++
	}
}

// TestEventsPages reads the events page by page, each once.
func TestEventsPages(t *testing.T) {
	s := long(t)
	n := uint32(0)
	for {
		page := s.Events(n, 7)
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			if n++; e.Number != n || e.Type == "" || e.Subject == "" {
				t.Fatalf("event %+v, want number %d", e, n)
			}
		}
	}
	if n != s.LastEvent() || n == 0 {
		t.Errorf("%d events, the last is %d", n, s.LastEvent())
	}
}
