package room

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var users = []string{"ana", "bo", "chae"}

// world draws facts as several nodes would accept them, with ids that are unique and settings that contradict.
type world struct {
	t        *rapid.T
	clocks   []*Clock
	now      time.Time
	rooms    []ID
	messages []Fact
	facts    []Fact
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, now: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)}
	for _, name := range []string{"n1", "n2", "n3"} {
		w.clocks = append(w.clocks, NewClock(name))
	}
	return w
}

// pauses are mostly short; the long ones are of the order of KeyRetention.
var pauses = []time.Duration{0, 0, time.Millisecond, time.Millisecond, time.Second, 7 * time.Hour, 13 * time.Hour, 25 * time.Hour}

func (w *world) id() ID {
	w.now = w.now.Add(rapid.SampledFrom(pauses).Draw(w.t, "pause"))
	return w.clocks[rapid.IntRange(0, 2).Draw(w.t, "node")].Next(w.now)
}

func (w *world) user() string { return rapid.SampledFrom(users).Draw(w.t, "user") }

func (w *world) add(f Fact) {
	f.ID = w.id()
	if f.Kind == Created && f.RoomKind != Direct {
		f.Room = f.ID
	}
	w.facts = append(w.facts, f)
	if f.Kind == Posted {
		w.messages = append(w.messages, f)
	}
	if f.Kind == Created && !slices.Contains(w.rooms, f.Room) {
		w.rooms = append(w.rooms, f.Room)
	}
}

func (w *world) step() {
	kinds := []Kind{Created, Posted}
	if len(w.rooms) > 0 {
		kinds = []Kind{Created, Renamed, Joined, Left, Posted, Posted, Posted}
	}
	if len(w.messages) > 0 {
		kinds = append(kinds, Edited, Deleted, Read, Posted)
	}
	switch kind := rapid.SampledFrom(kinds).Draw(w.t, "kind"); {
	case kind == Created || len(w.rooms) == 0:
		if rapid.Bool().Draw(w.t, "direct") {
			w.add(Fact{Kind: Created, By: "ana", RoomKind: Direct, Room: directID("ana", "bo"), Members: []string{"ana", "bo"}})
		} else {
			w.add(Fact{Kind: Created, By: w.user(), RoomKind: Group, Name: "new", Members: users[:2]})
		}
	case kind == Renamed:
		w.add(Fact{Kind: Renamed, Room: rapid.SampledFrom(w.rooms).Draw(w.t, "room"), Name: fmt.Sprint(len(w.facts))})
	case kind == Joined || kind == Left:
		w.add(Fact{Kind: kind, Room: rapid.SampledFrom(w.rooms).Draw(w.t, "room"), Target: w.user()})
	case kind == Posted:
		f := Fact{Kind: Posted, Room: rapid.SampledFrom(w.rooms).Draw(w.t, "room"), By: w.user(), Text: fmt.Sprint(len(w.facts))}
		if n := rapid.IntRange(0, 3).Draw(w.t, "key"); n > 0 { // the same key is the same request
			f.Key = uint64(10*n + slices.Index(users, f.By))
			f.Body, f.Text = uint64(f.Room)+f.Key, "keyed"
		}
		w.add(f)
	default:
		m := rapid.SampledFrom(w.messages).Draw(w.t, "message")
		switch kind {
		case Edited:
			w.add(Fact{Kind: Edited, By: m.By, Room: m.Room, Message: m.ID, Text: fmt.Sprint("edit ", len(w.facts))})
		case Deleted:
			w.add(Fact{Kind: Deleted, By: m.By, Room: m.Room, Message: m.ID})
		case Read:
			w.add(Fact{Kind: Read, Reads: []Position{{User: w.user(), Room: m.Room, Message: m.ID}}})
		}
	}
}

// view is all that a user can see.
type view struct {
	Rooms    []Room
	Messages map[ID][]Message
}

func (w *world) view(s *State, user string) view {
	v := view{Messages: map[ID][]Message{}}
	v.Rooms, _ = s.Rooms(user, 0, 0, 100)
	for i := range v.Rooms {
		lines, _, err := s.History(v.Rooms[i].ID, user, 0, 0, 1000)
		if err != nil {
			w.t.Fatalf("History(%v, %q): %v", v.Rooms[i].ID, user, err)
		}
		v.Messages[v.Rooms[i].ID] = w.read(v.Rooms[i].ID, lines)
	}
	return v
}

func (w *world) read(id ID, lines []Line) []Message {
	var messages []Message
	for _, l := range lines {
		if l.Deleted {
			messages = append(messages, Message{ID: l.ID, Room: id, Deleted: true})
		} else {
			messages = append(messages, w.facts[l.Record].View(l.ID))
		}
	}
	return messages
}

func (w *world) apply(order []int) *State {
	s := New()
	for _, i := range order {
		s.Apply(uint32(i), &w.facts[i])
	}
	return s
}

// disagreement says in what two states differ, for any user.
func (w *world) disagreement(a, b *State) string {
	for _, user := range users {
		if diff := cmp.Diff(w.view(a, user), w.view(b, user)); diff != "" {
			return fmt.Sprintf("what %s sees differs (-one order +other):\n%s", user, diff)
		}
	}
	return ""
}

func (w *world) shuffled() []int {
	return rapid.Permutation(slices.Collect(indexes(len(w.facts)))).Draw(w.t, "order")
}

func indexes(n int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

// TestFactsCommute: whatever order facts come in, messages before their rooms and edits before their messages included,
// everybody sees the same.
func TestFactsCommute(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 25).Draw(t, "facts") {
			w.step()
		}
		one := w.apply(slices.Collect(indexes(len(w.facts))))
		if d := w.disagreement(one, w.apply(w.shuffled())); d != "" {
			t.Fatal(d)
		}
	})
}

// TestDisagreementIsSeen: the check above finds a node that missed a deletion, a removal or one of two copies.
func TestDisagreementIsSeen(t *testing.T) {
	clock := NewClock("n1")
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	created := Fact{Kind: Created, ID: clock.Next(now), By: "ana", RoomKind: Group, Members: users}
	created.Room = created.ID
	posted := Fact{Kind: Posted, ID: clock.Next(now), By: "ana", Room: created.ID, Text: "hi", Key: 1, Body: 2}
	for _, missed := range []Fact{
		{Kind: Deleted, ID: clock.Next(now), By: "ana", Room: created.ID, Message: posted.ID},
		{Kind: Left, ID: clock.Next(now), By: "ana", Room: created.ID, Target: "bo"},
		{Kind: Edited, ID: clock.Next(now), By: "ana", Room: created.ID, Message: posted.ID, Text: "ho"},
		{Kind: Posted, ID: clock.Next(now), By: "bo", Room: created.ID, Text: "ho"},
		{Kind: Read, ID: clock.Next(now), Reads: []Position{{"bo", created.ID, posted.ID}}},
	} {
		w := &world{facts: []Fact{created, posted, missed}}
		if w.disagreement(w.apply([]int{0, 1, 2}), w.apply([]int{0, 1})) == "" {
			t.Errorf("a node that missed %+v agrees with one that did not", missed)
		}
	}
}

// client is what a well-behaved client does with a stream.
type client struct {
	w        *world
	user     string
	messages map[ID]map[ID]Message // by room
	told     map[ID]bool           // messages that came as new
	repeated []ID                  // messages that came as new a second time
}

func newClient(w *world, user string) *client {
	return &client{w: w, user: user, messages: map[ID]map[ID]Message{}, told: map[ID]bool{}}
}

func (c *client) hear(s *State, events []Event) {
	for _, e := range events {
		if e.Name == "" || !s.InRoom(e.Room, c.user) && e.Part != c.user {
			continue
		}
		room := c.messages[e.Room]
		if stored, ok := e.Data.(Stored); ok {
			e.Data = c.w.facts[stored.Record].View(stored.ID)
		}
		switch data := e.Data.(type) {
		case Message:
			if e.Name == "message" {
				if c.told[data.ID] && !room[data.ID].Deleted {
					c.repeated = append(c.repeated, data.ID)
				}
				c.told[data.ID] = true
			}
			if room != nil && (e.Name == "message" || !room[data.ID].Deleted && room[data.ID].ID != 0) {
				room[data.ID] = data
			}
		case DeletedEvent:
			if m, known := room[data.ID]; known {
				room[data.ID] = Message{ID: m.ID, Room: e.Room, Deleted: true}
			}
		case RoomEvent:
			c.fetch(s, e.Room)
		case MemberEvent:
			if data.User == c.user && data.Joined {
				c.fetch(s, e.Room)
			} else if data.User == c.user {
				for id := range room {
					delete(c.told, id)
				}
				delete(c.messages, e.Room)
			}
		}
	}
}

func (c *client) fetch(s *State, id ID) {
	if c.messages[id] == nil {
		c.messages[id] = map[ID]Message{}
	}
	lines, _, _ := s.History(id, c.user, 0, 0, 1000)
	for _, m := range c.w.read(id, lines) {
		c.messages[id][m.ID] = m
	}
}

// wrong compares the client with the history, in which copies that gave way are left out.
func (c *client) wrong(s *State) string {
	ids := s.RoomsOf(c.user)
	if got := slices.Sorted(maps.Keys(c.messages)); !slices.Equal(got, ids) {
		return fmt.Sprintf("%s is in the rooms %v and shows %v", c.user, ids, got)
	}
	for _, id := range ids {
		lines, _, _ := s.History(id, c.user, 0, 0, 1000)
		var shown []Message
		for _, m := range slices.Sorted(maps.Keys(c.messages[id])) {
			if s.room(id).visible(m) {
				shown = append(shown, c.messages[id][m])
			} else if x := c.messages[id][m]; !x.Deleted {
				return fmt.Sprintf("%s still shows %v, a copy of %v", c.user, m, s.room(id).stays(m))
			}
		}
		deleted := func(m Message) bool { return m.Deleted } // that something was deleted before it came is no news
		if diff := cmp.Diff(slices.DeleteFunc(c.w.read(id, lines), deleted), slices.DeleteFunc(shown, deleted), cmpopts.EquateEmpty()); diff != "" {
			return fmt.Sprintf("room %v, -history +what %s shows:\n%s", id, c.user, diff)
		}
	}
	return ""
}

// TestStreamsTellHistory: a client that follows the events, in whatever order the facts came, shows what the history is.
// A second client is cut off in the middle and resumes by Replay.
func TestStreamsTellHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 25).Draw(t, "facts") {
			w.step()
		}
		order := w.shuffled()
		cut := rapid.IntRange(0, len(order)).Draw(t, "cut")
		back := rapid.IntRange(cut, len(order)).Draw(t, "back")
		s := New()
		for _, user := range users {
			s.user(user)
		}
		steady, resumed := newClient(w, "ana"), newClient(w, "ana")
		for n, i := range order {
			if n == back {
				for _, missed := range order[cut:back] {
					resumed.hear(s, s.Replay("ana", &w.facts[missed]))
				}
			}
			events := s.Apply(uint32(i), &w.facts[i])
			steady.hear(s, events)
			if n < cut || n >= back {
				resumed.hear(s, events)
			}
		}
		if back == len(order) {
			for _, missed := range order[cut:] {
				resumed.hear(s, s.Replay("ana", &w.facts[missed]))
			}
		}
		if wrong := steady.wrong(s); wrong != "" {
			t.Fatal("steady: ", wrong)
		}
		if wrong := resumed.wrong(s); wrong != "" {
			t.Fatal("resumed: ", wrong)
		}
		if len(steady.repeated) > 0 {
			t.Fatalf("shown twice: %v", steady.repeated)
		}
	})
}

// causal is an order in which nodes can hear of the facts: a room before what is in it, a message before what is done
// to it.
func (w *world) causal() []int {
	first := map[ID]int{}
	for i, f := range w.facts {
		id := f.Room
		if f.Kind == Posted {
			id = f.ID
		}
		if _, known := first[id]; !known && (f.Kind == Created || f.Kind == Posted) {
			first[id] = i
		}
	}
	done := map[int]bool{}
	ready := func(i int) bool {
		f := w.facts[i]
		needs := []ID{f.Room, f.Message}
		for _, p := range f.Reads {
			needs = append(needs, p.Message)
		}
		return !slices.ContainsFunc(needs, func(id ID) bool { n, known := first[id]; return known && n != i && !done[n] })
	}
	var order []int
	for waiting := w.shuffled(); len(waiting) > 0; {
		at := slices.IndexFunc(waiting, ready)
		order = append(order, waiting[at])
		done[waiting[at]] = true
		waiting = slices.Delete(waiting, at, at+1)
	}
	return order
}

// TestMovesTellHistory: a client that heard some facts on one node goes on with another, which has others, and then
// hears of the rest; it ends with what the history is, whatever it was told on the way by nodes that did not know all.
func TestMovesTellHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 25).Draw(t, "facts") {
			w.step()
		}
		there, here := New(), New()
		for _, user := range users {
			there.user(user)
			here.user(user)
		}
		c := newClient(w, "ana")
		heard := map[int]bool{}
		for _, i := range w.causal()[:rapid.IntRange(0, len(w.facts)).Draw(t, "heard there")] {
			c.hear(there, there.Apply(uint32(i), &w.facts[i]))
			heard[i] = true
		}
		order := w.causal()
		moves := rapid.IntRange(0, len(order)).Draw(t, "known here")
		for _, i := range order[:moves] {
			here.Apply(uint32(i), &w.facts[i])
		}
		reset := false
		for _, i := range order[:moves] {
			if !heard[i] {
				c.hear(here, here.Replay("ana", &w.facts[i]))
				reset = reset || w.facts[i].Seats("ana")
			}
		}
		for _, i := range order[moves:] {
			f := &w.facts[i]
			events := here.Apply(uint32(i), f)
			if heard[i] {
				events = here.Correct("ana", f)
			}
			reset = reset || f.Seats("ana")
			c.hear(here, events)
		}
		if reset { // the client fetches everything anew
			c = newClient(w, "ana")
			for _, id := range here.RoomsOf("ana") {
				c.fetch(here, id)
			}
		}
		if wrong := c.wrong(here); wrong != "" {
			t.Fatal(wrong)
		}
		if len(c.repeated) > 0 {
			t.Fatalf("shown twice: %v", c.repeated)
		}
	})
}

// TestClientSeesMistakes: the check above finds a lost event.
func TestClientSeesMistakes(t *testing.T) {
	clock := NewClock("n1")
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	created := Fact{Kind: Created, ID: clock.Next(now), By: "ana", RoomKind: Group, Members: users}
	created.Room = created.ID
	posted := Fact{Kind: Posted, ID: clock.Next(now), By: "bo", Room: created.ID, Text: "hi"}
	w := &world{facts: []Fact{created, posted}}
	s, c := New(), newClient(w, "ana")
	c.hear(s, s.Apply(0, &created))
	s.Apply(1, &posted)
	if c.wrong(s) == "" {
		t.Error("a client that missed a message is right")
	}
}

func TestIDs(t *testing.T) {
	now := time.Date(2026, 11, 22, 1, 2, 3, 456e6, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		a, b := ID(rapid.Uint64Min(1).Draw(t, "a")), ID(rapid.Uint64Min(1).Draw(t, "b"))
		back, err := ParseID(a.String())
		if err != nil || back != a {
			t.Fatalf("ParseID(%q) = %v, %v", a, back, err)
		}
		if (a < b) != (a.String() < b.String()) {
			t.Fatalf("%v and %v are in another order as text", a, b)
		}
	})
	for _, bad := range []string{"", "0000000000000", "g000000000000", "00000000000i1", "0000000000001x", "000000000000A", "00000000000é"} {
		if id, err := ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) = %v, want an error", bad, id)
		}
	}
	clock := NewClock("n1")
	last := ID(0)
	for i := range 5000 { // many in one millisecond, and a wall clock that goes back
		id := clock.Next(now.Add(-time.Duration(i/2500) * time.Hour))
		if id <= last {
			t.Fatalf("%v after %v", id, last)
		}
		last = id
	}
	if d := last.Time().Sub(now); d < 0 || d > 10*time.Millisecond {
		t.Errorf("the clock is %v off", d)
	}
	other := NewClock("n2")
	other.Observe(last)
	if id := other.Next(now.Add(-time.Hour)); id <= last {
		t.Errorf("Next after Observe(%v) = %v", last, id)
	}
	if directID("a", "b") != directID("b", "a") || directID("a", "b") == directID("a", "c") {
		t.Error("directID does not name a pair of users")
	}
}

func TestAccept(t *testing.T) {
	s := New()
	clock := NewClock("n1")
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	records := uint32(0)
	do := func(f Fact, key string) (Answer, error) {
		a, done, err := s.Accept(&f, key, clock.Next(now))
		if !done {
			s.Apply(records, &f)
			records++
		}
		return a, err
	}
	must := func(f Fact, key string) Answer {
		t.Helper()
		a, err := do(f, key)
		if err != nil {
			t.Fatalf("%+v: %v", f, err)
		}
		return a
	}
	group := must(Fact{Kind: Created, By: "ana", RoomKind: Group, Members: []string{"ana", "bo"}}, "g").ID
	direct := must(Fact{Kind: Created, By: "ana", RoomKind: Direct, Members: []string{"ana", "bo"}}, "").ID
	channel := must(Fact{Kind: Created, By: "ana", RoomKind: Channel, Members: []string{"ana"}}, "").ID
	hello := must(Fact{Kind: Posted, By: "ana", Room: group, Text: "hello"}, "k")
	greeting := must(Fact{Kind: Posted, By: "ana", Room: direct, Text: "hello"}, "")
	must(Fact{Kind: Blocked, By: "bo", Target: "ana"}, "")
	must(Fact{Kind: Joined, By: "chae", Room: channel, Target: "chae"}, "")

	for _, test := range []struct {
		name string
		fact Fact
		key  string
		want error
	}{
		{"unknown room", Fact{Kind: Posted, By: "ana", Room: 5, Text: "x"}, "", ErrRoomUnknown},
		{"not a member", Fact{Kind: Posted, By: "chae", Room: group, Text: "x"}, "", ErrNotMember},
		{"blank text", Fact{Kind: Posted, By: "ana", Room: group, Text: " \n"}, "", ErrInvalid},
		{"long text", Fact{Kind: Posted, By: "ana", Room: group, Text: strings.Repeat("x", TextBytesMax+1)}, "", ErrInvalid},
		{"bad UTF-8", Fact{Kind: Posted, By: "ana", Room: group, Text: "\xff"}, "", ErrInvalid},
		{"attachment", Fact{Kind: Posted, By: "ana", Room: group, Attachments: []Attachment{{"javascript:x", "a/b", 1}}}, "", ErrInvalid},
		{"reply to nothing", Fact{Kind: Posted, By: "ana", Room: group, Text: "x", ReplyTo: 7}, "", ErrMessageUnknown},
		{"blocked sender", Fact{Kind: Posted, By: "ana", Room: direct, Text: "x"}, "", ErrBlocked},
		{"reader writes in channel", Fact{Kind: Posted, By: "chae", Room: channel, Text: "x"}, "", ErrForbidden},
		{"another's message edited", Fact{Kind: Edited, By: "bo", Room: group, Message: hello.ID, Text: "x"}, "", ErrForbidden},
		{"another's message deleted", Fact{Kind: Deleted, By: "bo", Room: group, Message: hello.ID}, "", ErrForbidden},
		{"blocked sender edits", Fact{Kind: Edited, By: "ana", Room: direct, Message: greeting.ID, Text: "x"}, "", ErrBlocked},
		{"unknown message", Fact{Kind: Deleted, By: "bo", Room: group, Message: 9}, "", ErrMessageUnknown},
		{"member removes another", Fact{Kind: Left, By: "bo", Room: group, Target: "ana"}, "", ErrForbidden},
		{"third in a direct room", Fact{Kind: Joined, By: "bo", Room: direct, Target: "chae"}, "", ErrForbidden},
		{"name of a direct room", Fact{Kind: Renamed, By: "bo", Room: direct, Name: "x"}, "", ErrForbidden},
		{"key for another message", Fact{Kind: Posted, By: "ana", Room: group, Text: "other"}, "k", ErrKeyReused},
		{"key for another room", Fact{Kind: Posted, By: "ana", Room: channel, Text: "hello"}, "k", ErrKeyReused},
	} {
		before := records
		if _, err := do(test.fact, test.key); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
		if records != before {
			t.Errorf("%s: something was written", test.name)
		}
	}
	if a := must(Fact{Kind: Posted, By: "ana", Room: group, Text: "hello"}, "k"); !a.Replayed || a.ID != hello.ID {
		t.Errorf("retry = %+v, want %v again", a, hello.ID)
	}
	if a := must(Fact{Kind: Posted, By: "bo", Room: group, Text: "hello"}, "k"); a.Replayed {
		t.Error("another user's key was taken for this one's")
	}
	if a := must(Fact{Kind: Created, By: "bo", RoomKind: Direct, Members: []string{"bo", "ana"}}, ""); !a.NoChange || a.ID != direct {
		t.Errorf("direct room again = %+v, want %v unchanged", a, direct)
	}
	must(Fact{Kind: Unblocked, By: "bo", Target: "ana"}, "")
	must(Fact{Kind: Posted, By: "ana", Room: direct, Text: "x"}, "")

	now = now.Add(KeyRetention + time.Minute)
	if a := must(Fact{Kind: Posted, By: "ana", Room: group, Text: "hello"}, "k"); a.Replayed {
		t.Error("the key outlived its retention")
	}
	now = now.Add(4 * KeyRetention)
	must(Fact{Kind: Posted, By: "ana", Room: group, Text: "later"}, "")
	if len(s.keys) != 0 || len(s.recent) != 0 {
		t.Errorf("%d keys and %d recent ones are kept for ever", len(s.keys), len(s.recent))
	}
}

// TestCopies: two copies of one request, accepted on both sides of a cut, collapse into the earlier one, and what was
// done to either is done to it.
func TestCopies(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	a, b := NewClock("n1"), NewClock("n2")
	created := Fact{Kind: Created, ID: a.Next(now), By: "ana", RoomKind: Group, Members: users}
	created.Room = created.ID
	first := Fact{Kind: Posted, ID: a.Next(now.Add(time.Second)), By: "ana", Room: created.ID, Text: "x", Key: 1, Body: 1}
	second := Fact{Kind: Posted, ID: b.Next(now.Add(2 * time.Second)), By: "ana", Room: created.ID, Text: "x", Key: 1, Body: 1}
	edited := Fact{Kind: Edited, ID: b.Next(now.Add(3 * time.Second)), By: "ana", Room: created.ID, Message: second.ID, Text: "y"}
	late := now.Add(100 * KeyRetention)
	other := Fact{Kind: Posted, ID: a.Next(late), By: "bo", Room: created.ID, Text: "much later"}
	for name, order := range map[string][]int{"in time": {0, 1, 2, 3, 4}, "backwards": {0, 3, 2, 1, 4}, "heard of after months": {0, 2, 3, 4, 1}} {
		w := &world{facts: []Fact{created, first, second, edited, other}}
		s := w.apply(order)
		lines, _, err := s.History(created.ID, "bo", 0, 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		got := w.read(created.ID, lines)
		if len(got) != 2 || got[0].ID != first.ID || got[0].Text != "y" {
			t.Errorf("%s: history = %+v, want %v with the text of its copy's edit", name, got, first.ID)
		}
		if l, err := s.Message(created.ID, "bo", second.ID); err != nil || l.ID != first.ID {
			t.Errorf("%s: the copy's id gives %v, %v; want %v", name, l.ID, err, first.ID)
		}
	}
}

// TestCopiesFarApart: which copies give way does not depend on the order in which they come, though "within a day" is not
// transitive.
func TestCopiesFarApart(t *testing.T) {
	start := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	clock := NewClock("n1")
	created := Fact{Kind: Created, ID: clock.Next(start), By: "ana", RoomKind: Group, Members: users}
	created.Room = created.ID
	facts := []Fact{created}
	for _, hours := range []int{0, 23, 30, 53, 80} {
		facts = append(facts, Fact{Kind: Posted, ID: clock.Next(start.Add(time.Duration(hours) * time.Hour)), By: "ana", Room: created.ID, Text: "x", Key: 1, Body: 1})
	}
	w := &world{facts: facts}
	want := []ID{facts[1].ID, facts[3].ID, facts[5].ID} // 0 h with 23 h, 30 h with 53 h, 80 h
	for _, order := range permutations([]int{1, 2, 3, 4, 5}) {
		s := w.apply(append([]int{0}, order...))
		lines, _, err := s.History(created.ID, "bo", 0, 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		var got []ID
		for _, l := range lines {
			got = append(got, l.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("order %v: %v stay, want %v", order, got, want)
		}
	}
}

func permutations(of []int) [][]int {
	if len(of) == 0 {
		return [][]int{nil}
	}
	var all [][]int
	for i, first := range of {
		for _, rest := range permutations(slices.Delete(slices.Clone(of), i, i+1)) {
			all = append(all, append([]int{first}, rest...))
		}
	}
	return all
}

func TestUnreadAndOrder(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	clock := NewClock("n1")
	s := New()
	apply := func(f Fact) ID {
		f.ID = clock.Next(now)
		if f.Kind == Created {
			f.Room = f.ID
		}
		s.Apply(0, &f)
		return f.ID
	}
	one := apply(Fact{Kind: Created, By: "ana", RoomKind: Group, Members: users})
	two := apply(Fact{Kind: Created, By: "ana", RoomKind: Group, Members: users})
	first := apply(Fact{Kind: Posted, By: "ana", Room: one, Text: "1"})
	second := apply(Fact{Kind: Posted, By: "ana", Room: one, Text: "2"})
	apply(Fact{Kind: Posted, By: "bo", Room: one, Text: "mine"})
	unread := func(id ID) int {
		r, err := s.Room(id, "bo")
		if err != nil {
			t.Fatal(err)
		}
		return r.Unread
	}
	if n := unread(one); n != 2 {
		t.Errorf("unread = %d, want 2: one's own are not counted", n)
	}
	apply(Fact{Kind: Read, Reads: []Position{{"bo", one, first}}})
	if n := unread(one); n != 1 {
		t.Errorf("unread after reading one = %d, want 1", n)
	}
	apply(Fact{Kind: Deleted, By: "ana", Room: one, Message: second})
	if n := unread(one); n != 0 {
		t.Errorf("unread after the other was deleted = %d, want 0", n)
	}
	apply(Fact{Kind: Read, Reads: []Position{{"bo", one, 1}}})
	if r, _ := s.Room(one, "bo"); r.Read != first {
		t.Errorf("read position = %v, want %v: it never goes back", r.Read, first)
	}
	rooms, more := s.Rooms("bo", 0, 0, 1)
	if len(rooms) != 1 || rooms[0].ID != one || !more {
		t.Fatalf("Rooms = %v, %v; want %v first and more", rooms, more, one)
	}
	rooms, more = s.Rooms("bo", s.Activity(one), one, 1)
	if len(rooms) != 1 || rooms[0].ID != two || more {
		t.Errorf("Rooms after %v = %v, %v; want %v and no more", one, rooms, more, two)
	}
	for range UnreadMax + 5 {
		apply(Fact{Kind: Posted, By: "ana", Room: two, Text: "x"})
	}
	if n := unread(two); n != UnreadMax {
		t.Errorf("unread = %d, want to stop at %d", n, UnreadMax)
	}
	lines, more, _ := s.History(two, "bo", 0, 0, 10)
	older, _, _ := s.History(two, "bo", lines[0].ID, 0, 10)
	newer, _, _ := s.History(two, "bo", 0, older[len(older)-1].ID, 10)
	if !more || older[9].ID >= lines[0].ID || cmp.Diff(newer, lines) != "" {
		t.Errorf("pages do not join: %v, %v", older, lines)
	}
}
