package room

import (
	"cmp"
	"maps"
	"slices"
)

// UnreadMax is where counting unread messages stops.
const UnreadMax = 1_000

// unreadScanMax is how many messages are looked at for it, one's own and deleted ones included.
const unreadScanMax = 10 * UnreadMax

// Presence is told among the members of direct rooms and of groups of no more than CircleMax members; of a user in more
// than circlesMax rooms, only in some of them.
const (
	CircleMax  = 50
	circlesMax = 500
)

// Room is what the API says of a room to one of its members.
type Room struct {
	ID        ID       `json:"id"`
	Kind      RoomKind `json:"kind"`
	Name      string   `json:"name,omitempty"`
	Owner     string   `json:"owner"`
	Members   []string `json:"members"` // sorted
	CreatedAt Time     `json:"created_at"`
	Last      *Message `json:"last,omitempty"`
	Unread    int      `json:"unread"` // messages of others after Read, at most UnreadMax
	Read      ID       `json:"read,omitzero"`

	Latest Line `json:"-"` // what Last is to be read from
}

// A Line is a message as the state knows it: read Record, then Fact.View(ID), unless Deleted.
type Line struct {
	ID      ID
	Record  uint32
	Author  string
	Deleted bool
}

// Rooms lists a user's rooms, that with the newest message first, from after the place given (the activity and id of
// the last room before; zero: from the start).
func (s *State) Rooms(name string, afterActivity, afterID ID, limit int) (rooms []Room, more bool) {
	u := s.users[name]
	if u == nil {
		return nil, false
	}
	all := slices.Collect(maps.Keys(u.rooms))
	all = slices.DeleteFunc(all, func(r *room) bool {
		return r.kind == "" || afterActivity != 0 && compareActivity(r.activity(), r.id, afterActivity, afterID) <= 0
	})
	slices.SortFunc(all, func(a, b *room) int { return compareActivity(a.activity(), a.id, b.activity(), b.id) })
	for _, r := range all[:min(limit, len(all))] {
		rooms = append(rooms, s.describe(r, u))
	}
	return rooms, len(all) > limit
}

// compareActivity orders rooms: newest activity first, then by id.
func compareActivity(a, aID, b, bID ID) int {
	return cmp.Or(cmp.Compare(b, a), cmp.Compare(bID, aID))
}

// activity is the id of the newest message, or of the fact that made the room.
func (r *room) activity() ID {
	if l, ok := r.latest(); ok {
		return l.id
	}
	return r.created
}

func (r *room) latest() (line, bool) {
	for _, l := range slices.Backward(r.lines) {
		if r.visible(l.id) {
			return l, true
		}
	}
	return line{}, false
}

// Activity is where a room stands in the list of Rooms, for a cursor.
func (s *State) Activity(id ID) ID { return s.rooms[id].activity() }

// Room describes one room to one of its members.
func (s *State) Room(id ID, name string) (Room, error) {
	r, err := s.roomFor(id, name)
	if err != nil {
		return Room{}, err
	}
	return s.describe(r, s.users[name]), nil
}

func (s *State) describe(r *room, u *user) Room {
	d := Room{ID: r.id, Kind: r.kind, Name: r.name, Owner: r.owner, Members: s.members(r), CreatedAt: Time(r.created.UnixMilli()),
		Unread: s.unread(r, u), Read: r.reads[u.number]}
	if l, ok := r.latest(); ok {
		d.Latest = s.line(r, l)
	}
	return d
}

func (s *State) members(r *room) []string {
	names := make([]string, 0, r.members)
	for number, seat := range r.seats {
		if seat.on {
			names = append(names, s.names[number])
		}
	}
	slices.Sort(names)
	return names
}

func (s *State) unread(r *room, u *user) int {
	n := 0
	after, exact := r.find(r.reads[u.number])
	if exact {
		after++
	}
	for _, l := range r.lines[after:min(len(r.lines), after+unreadScanMax)] {
		if n == UnreadMax {
			break
		}
		if l.author != u.number && r.visible(l.id) && !r.deleted(l.id) {
			n++
		}
	}
	return n
}

func (s *State) line(r *room, l line) Line {
	record := l.record
	if e := r.edit(l.id); e.at != 0 {
		record = e.record
	}
	return Line{ID: l.id, Record: record, Author: s.names[l.author], Deleted: r.deleted(l.id)}
}

// History gives up to limit messages of a room, oldest first: the last ones before an id, or the first ones after one,
// or the last of all, and whether there are more in that direction.
func (s *State) History(id ID, name string, before, after ID, limit int) (lines []Line, more bool, err error) {
	r, err := s.roomFor(id, name)
	if err != nil {
		return nil, false, err
	}
	take := func(l line) bool {
		if r.visible(l.id) {
			if len(lines) == limit {
				more = true
				return false
			}
			lines = append(lines, s.line(r, l))
		}
		return true
	}
	if after != 0 {
		from, exact := r.find(after)
		if exact {
			from++
		}
		for _, l := range r.lines[from:] {
			if before != 0 && l.id >= before || !take(l) {
				break
			}
		}
		return lines, more, nil
	}
	to := len(r.lines)
	if before != 0 {
		to, _ = r.find(before)
	}
	for _, l := range slices.Backward(r.lines[:to]) {
		if !take(l) {
			break
		}
	}
	slices.Reverse(lines)
	return lines, more, nil
}

// Message gives one message, or that which stays in its place.
func (s *State) Message(id ID, name string, message ID) (Line, error) {
	r, l, err := s.ownMessage(&Fact{Room: id, By: name, Message: message})
	if err != nil {
		return Line{}, err
	}
	return s.line(r, l), nil
}

// RoomsOf are the ids of a user's rooms, sorted.
func (s *State) RoomsOf(name string) []ID {
	var ids []ID
	if u := s.users[name]; u != nil {
		for r := range u.rooms {
			ids = append(ids, r.id)
		}
	}
	slices.Sort(ids)
	return ids
}

// InRoom says whether a user is a member.
func (s *State) InRoom(id ID, name string) bool {
	r := s.rooms[id]
	return r != nil && s.seat(r, name)
}

// Circle gives the members of a room who are told of each other's presence; none in a channel or a large group.
func (s *State) Circle(id ID) []string {
	r := s.rooms[id]
	if r == nil || r.kind == Channel || r.members > CircleMax {
		return nil
	}
	return s.members(r)
}

// Neighbours are the others in a user's circles, at most limit, sorted.
func (s *State) Neighbours(name string, limit int) []string {
	ids := s.RoomsOf(name)
	seen := make(map[string]struct{})
	for _, id := range ids[:min(len(ids), circlesMax)] {
		for _, other := range s.Circle(id) {
			if other != name && len(seen) < limit {
				seen[other] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// Replay says what a stream that missed a fact must hear of it, as things are now: nothing of a message that was
// deleted since, the latest text of one that was edited since, nothing at all of a room that the user is no longer in,
// but that it is no longer in it.
func (s *State) Replay(name string, f *Fact) []Event {
	if f.Kind == Read {
		return s.replayReads(name, f)
	}
	r := s.rooms[f.Room]
	if r == nil {
		return nil
	}
	if f.Kind == Left && f.Target == name && !s.seat(r, name) {
		return []Event{{Name: "member", Room: r.id, Data: MemberEvent{r.id, name, false}, Part: name}}
	}
	if !s.seat(r, name) {
		return nil
	}
	switch f.Kind {
	case Created, Renamed:
		return []Event{{Name: "room", Room: r.id, Data: RoomEvent{r.id, r.kind, r.name}}}
	case Joined, Left:
		return []Event{{Name: "member", Room: r.id, Data: MemberEvent{r.id, f.Target, s.seat(r, f.Target)}}}
	case Posted:
		return r.replayPosted(f)
	case Edited:
		id := r.stays(f.Message)
		if r.has(id) && !r.deleted(id) && r.edit(id).at != 0 {
			return []Event{r.messageEvent("edited", id, nil)}
		}
	case Deleted:
		return []Event{r.deletedEvent(r.stays(f.Message))}
	}
	return nil
}

func (r *room) replayPosted(f *Fact) []Event {
	stays := r.stays(f.ID)
	var events []Event
	if stays == f.ID {
		for _, copied := range r.copies[stays] {
			events = append(events, r.deletedEvent(copied))
		}
		if !r.deleted(stays) {
			events = append(events, r.messageEvent("message", stays, f))
		}
		return events
	}
	// A copy: what was done to it is done to the message that stays.
	if r.deleted(stays) {
		return append(events, r.deletedEvent(stays))
	}
	if r.edit(stays).at != 0 {
		events = append(events, r.messageEvent("edited", stays, nil))
	}
	return events
}

// Correct says what a stream must hear of a fact that it has heard of elsewhere, when this node hears of it: nothing
// new, but how things are now, as this node may have told the stream otherwise before it knew. That is not enough if the
// two nodes took the user for a member at different times: see Seats.
func (s *State) Correct(name string, f *Fact) []Event {
	if f.Kind != Posted {
		return s.Replay(name, f)
	}
	r := s.rooms[f.Room]
	if r == nil || !s.seat(r, name) {
		return nil
	}
	var events []Event
	stays := r.stays(f.ID)
	for _, copied := range r.copies[stays] {
		events = append(events, r.deletedEvent(copied))
	}
	if r.deleted(stays) {
		return append(events, r.deletedEvent(stays))
	}
	if r.edit(stays).at != 0 {
		events = append(events, r.messageEvent("edited", stays, nil))
	}
	return events
}

// Seats says whether the fact is about a user's being a member.
func (f *Fact) Seats(name string) bool {
	return (f.Kind == Joined || f.Kind == Left) && f.Target == name || f.Kind == Created && slices.Contains(f.Members, name)
}

func (s *State) replayReads(name string, f *Fact) []Event {
	var events []Event
	for _, p := range f.Reads {
		if s.InRoom(p.Room, name) && s.InRoom(p.Room, p.User) {
			read := s.rooms[p.Room].reads[s.users[p.User].number]
			events = append(events, Event{Name: "read", Room: p.Room, Data: ReadEvent{p.Room, p.User, read}})
		}
	}
	return events
}
