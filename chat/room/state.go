// Package room is what chat knows: rooms, who is in them, where each message lies in the log, how far everybody has
// read. It is pure: facts go in, events come out, and every order of the same facts makes the same state, so that nodes
// which were cut off from each other agree as soon as both have heard everything. Two facts about one thing are settled
// by their ids (the later one wins), but for deletions, which win for ever, and for two copies of one message, of which
// the earlier stays.
//
// Message text is not kept here. A message costs 24 bytes (its id, the hash of its request, its author and the number
// of its record in the log); the text is read from the log when somebody asks.
package room

import (
	"cmp"
	"slices"
	"time"
)

// KeyRetention is how long an idempotency key answers with what it first made.
const KeyRetention = 24 * time.Hour

// State is what a node knows. It is not safe for concurrent use: the owner locks.
type State struct {
	rooms  map[ID]*room
	users  map[string]*user
	names  []string          // by user number
	keys   map[uint64][]made // by key hash; more than one only after a cut, or a key used again
	recent []recentKey       // in order of arrival
	newest int64             // milliseconds: the latest time in any fact
}

type user struct {
	number uint32
	rooms  map[*room]struct{}
	blocks map[string]setting // by the other's name
}

type room struct {
	id      ID
	kind    RoomKind // "" until its Created fact is here
	owner   string
	name    string
	nameAt  ID
	created ID
	seats   map[uint32]setting // by user number
	members int
	lines   []line          // sorted by id
	edits   map[ID]edit     // by message
	gone    map[ID]struct{} // deleted messages
	copies  map[ID]ID       // a copy that gave way → the message that stays
	reads   map[uint32]ID   // by user number
}

// A setting is true or false as of a fact.
type setting struct {
	on bool
	at ID
}

// set reports whether the setting changed.
func (s setting) set(on bool, at ID) (setting, bool) {
	if at < s.at {
		return s, false
	}
	return setting{on, at}, s.on != on
}

type line struct {
	id     ID
	body   uint64
	author uint32
	record uint32
}

type edit struct {
	at     ID
	record uint32
}

// made is what a request under an idempotency key made: a room or a message.
type made struct {
	body uint64 // of the request
	id   ID
	at   int64 // milliseconds
}

type recentKey struct {
	key uint64
	at  int64 // milliseconds
}

// New is a state of no facts.
func New() *State {
	return &State{
		rooms: make(map[ID]*room),
		users: make(map[string]*user),
		keys:  make(map[uint64][]made),
	}
}

func (s *State) user(name string) *user {
	u := s.users[name]
	if u == nil {
		u = &user{number: uint32(len(s.names)), rooms: make(map[*room]struct{}), blocks: make(map[string]setting)}
		s.users[name] = u
		s.names = append(s.names, name)
	}
	return u
}

// room gives the room of that id, made on first mention: a message may be heard of before its room.
func (s *State) room(id ID) *room {
	r := s.rooms[id]
	if r == nil {
		r = &room{id: id, seats: make(map[uint32]setting), edits: make(map[ID]edit), gone: make(map[ID]struct{}),
			copies: make(map[ID]ID), reads: make(map[uint32]ID)}
		s.rooms[id] = r
	}
	return r
}

func (r *room) find(id ID) (int, bool) {
	if n := len(r.lines); n == 0 || r.lines[n-1].id < id {
		return n, false // the usual case: the newest message
	}
	return slices.BinarySearchFunc(r.lines, id, func(l line, id ID) int { return cmp.Compare(l.id, id) })
}

// stays follows a copy that gave way to the message that stays.
func (r *room) stays(id ID) ID {
	if to, ok := r.copies[id]; ok {
		return to
	}
	return id
}

func (r *room) visible(id ID) bool {
	_, copied := r.copies[id]
	return !copied
}

// An Event is what a fact changed, for the streams of those whom it concerns.
type Event struct {
	Name string // message, edited, deleted, read, member, room; "" has nothing to say, only Join
	Room ID     // the streams of its members hear it
	Data any    // the JSON object
	Join string // this user's streams hear the room from this event on
	Part string // this user's streams hear the room up to this event
}

// The data of events, beside Message.
type (
	// Stored is a message whose content is another record than the one at hand: read it, then Fact.View(ID).
	Stored struct {
		Record uint32
		ID     ID
	}
	DeletedEvent struct {
		Room ID `json:"room"`
		ID   ID `json:"id"`
	}
	ReadEvent struct {
		Room    ID     `json:"room"`
		User    string `json:"user"`
		Message ID     `json:"message"`
	}
	MemberEvent struct {
		Room   ID     `json:"room"`
		User   string `json:"user"`
		Joined bool   `json:"joined"`
	}
	RoomEvent struct {
		Room ID       `json:"room"`
		Kind RoomKind `json:"kind,omitempty"`
		Name string   `json:"name,omitempty"`
	}
)

// Apply takes in the fact that is record number `record` of the log and says what changed. A fact that changes nothing
// (an older setting, a deleted message's edit) makes no events.
func (s *State) Apply(record uint32, f *Fact) []Event {
	s.newest = max(s.newest, f.ID.UnixMilli())
	s.expireKeys()
	switch f.Kind {
	case Created:
		return s.applyCreated(f)
	case Renamed:
		return s.applyRenamed(f)
	case Joined, Left:
		return s.applySeat(s.room(f.Room), f.Target, f.Kind == Joined, f.ID)
	case Posted:
		return s.applyPosted(record, f)
	case Edited:
		return s.applyEdited(record, f)
	case Deleted:
		return s.applyDeleted(f)
	case Read:
		return s.applyReads(f)
	case Blocked, Unblocked:
		u := s.user(f.By)
		u.blocks[f.Target], _ = u.blocks[f.Target].set(f.Kind == Blocked, f.ID)
	}
	return nil
}

func (s *State) applyCreated(f *Fact) []Event {
	r := s.room(f.Room)
	s.remember(f)
	first := r.kind == ""
	if first || f.ID < r.created { // both sides of a cut may open one direct room
		r.kind, r.owner, r.created = f.RoomKind, f.By, f.ID
	}
	if f.ID > r.nameAt {
		r.name, r.nameAt = f.Name, f.ID
	}
	var events []Event
	for _, name := range f.Members {
		for _, e := range s.applySeat(r, name, true, f.ID) {
			if first { // the room itself is the news, not each seat
				e.Name, e.Data = "", nil
			}
			events = append(events, e)
		}
	}
	if !first {
		return events
	}
	return append(events, Event{Name: "room", Room: r.id, Data: RoomEvent{r.id, r.kind, r.name}})
}

func (s *State) applyRenamed(f *Fact) []Event {
	r := s.room(f.Room)
	if f.ID < r.nameAt {
		return nil
	}
	r.name, r.nameAt = f.Name, f.ID
	return []Event{{Name: "room", Room: r.id, Data: RoomEvent{r.id, r.kind, r.name}}}
}

func (s *State) applySeat(r *room, name string, in bool, at ID) []Event {
	u := s.user(name)
	seat, changed := r.seats[u.number].set(in, at)
	r.seats[u.number] = seat
	if !changed {
		return nil
	}
	e := Event{Name: "member", Room: r.id, Data: MemberEvent{r.id, name, in}}
	if in {
		r.members++
		u.rooms[r] = struct{}{}
		e.Join = name
	} else {
		r.members--
		delete(u.rooms, r)
		e.Part = name
	}
	return []Event{e}
}

func (s *State) applyPosted(record uint32, f *Fact) []Event {
	r := s.room(f.Room)
	i, known := r.find(f.ID)
	if known {
		return nil
	}
	author := s.user(f.By).number
	r.lines = slices.Insert(r.lines, i, line{f.ID, f.Body, author, record})
	other := s.otherCopy(r, f)
	s.remember(f)
	if other != 0 {
		return s.mergeCopies(r, f, other)
	}
	if r.deleted(f.ID) {
		return nil
	}
	return []Event{r.messageEvent("message", f.ID, f)}
}

func (r *room) deleted(id ID) bool {
	_, gone := r.gone[id]
	return gone
}

// messageEvent tells the present content of message id, whose first content is in f, if f is not nil.
func (r *room) messageEvent(name string, id ID, f *Fact) Event {
	if e, ok := r.edits[id]; ok {
		return Event{Name: name, Room: r.id, Data: Stored{e.record, id}}
	}
	return Event{Name: name, Room: r.id, Data: f.View(id)}
}

// otherCopy finds the message that the same request made elsewhere, if there is one that stays so far.
func (s *State) otherCopy(r *room, f *Fact) ID {
	if f.Body == 0 {
		return 0
	}
	near := func(id ID) bool {
		return id != f.ID && r.visible(id) && max(f.ID, id).Time().Sub(min(f.ID, id).Time()) <= KeyRetention
	}
	for _, m := range s.keys[f.Key] {
		if m.body == f.Body && near(m.id) {
			return m.id
		}
	}
	if f.ID.UnixMilli() > s.newest-KeyRetention.Milliseconds() {
		return 0 // every copy near it is among the keys
	}
	for _, l := range r.lines {
		if l.body == f.Body && near(l.id) {
			return l.id
		}
	}
	return 0
}

// mergeCopies makes the earlier of two copies stay, with the edits and the deletion of both.
func (s *State) mergeCopies(r *room, f *Fact, other ID) []Event {
	stays, gives := min(f.ID, other), max(f.ID, other)
	for copied, to := range r.copies {
		if to == gives {
			r.copies[copied] = stays
		}
	}
	r.copies[gives] = stays
	wasDeleted, wasEdited := r.deleted(other), r.edits[other]
	if r.deleted(gives) {
		r.gone[stays] = struct{}{}
	}
	if e := r.edits[gives]; e.at > r.edits[stays].at {
		r.edits[stays] = e
	}
	deleted := Event{Name: "deleted", Room: r.id, Data: DeletedEvent{r.id, other}}
	switch {
	case r.deleted(stays) && wasDeleted:
		return nil
	case r.deleted(stays):
		return []Event{deleted}
	case stays == f.ID:
		return []Event{deleted, r.messageEvent("message", stays, f)}
	case r.edits[stays] != wasEdited:
		return []Event{r.messageEvent("edited", stays, nil)}
	}
	return nil
}

func (s *State) applyEdited(record uint32, f *Fact) []Event {
	r := s.room(f.Room)
	for _, id := range []ID{f.Message, r.stays(f.Message)} {
		if f.ID > r.edits[id].at {
			r.edits[id] = edit{f.ID, record}
		}
	}
	id := r.stays(f.Message)
	if _, here := r.find(id); !here || r.deleted(id) || r.edits[id].at != f.ID {
		return nil
	}
	return []Event{{Name: "edited", Room: r.id, Data: f.View(id)}}
}

func (s *State) applyDeleted(f *Fact) []Event {
	r := s.room(f.Room)
	id := r.stays(f.Message)
	again := r.deleted(id)
	r.gone[f.Message], r.gone[id] = struct{}{}, struct{}{}
	if _, here := r.find(id); !here || again {
		return nil
	}
	return []Event{{Name: "deleted", Room: r.id, Data: DeletedEvent{r.id, id}}}
}

func (s *State) applyReads(f *Fact) []Event {
	var events []Event
	for _, p := range f.Reads {
		r, u := s.room(p.Room), s.user(p.User)
		if p.Message <= r.reads[u.number] {
			continue
		}
		r.reads[u.number] = p.Message
		events = append(events, Event{Name: "read", Room: r.id, Data: ReadEvent{r.id, p.User, p.Message}})
	}
	return events
}

// remember keeps what a request made, so that a retry gets it again.
func (s *State) remember(f *Fact) {
	if f.Key == 0 || f.ID.UnixMilli() < s.newest-2*KeyRetention.Milliseconds() {
		return
	}
	m := made{f.Body, f.ID, f.ID.UnixMilli()}
	if f.Kind == Created {
		m.id = f.Room
	}
	known := s.keys[f.Key]
	for i := range known {
		if apart := m.at - known[i].at; known[i].body == m.body && max(apart, -apart) <= KeyRetention.Milliseconds() {
			known[i].id = min(known[i].id, m.id)
			return
		}
	}
	s.keys[f.Key] = append(known, m)
	s.recent = append(s.recent, recentKey{f.Key, m.at})
}

// expireKeys forgets keys of twice their retention: a copy that was made within the retention of another, and is heard
// of late, still finds it.
func (s *State) expireKeys() {
	oldest := s.newest - 2*KeyRetention.Milliseconds()
	n := 0
	for ; n < len(s.recent) && s.recent[n].at < oldest; n++ {
		key := s.recent[n].key
		left := slices.DeleteFunc(s.keys[key], func(m made) bool { return m.at < oldest })
		if s.keys[key] = left; len(left) == 0 {
			delete(s.keys, key)
		}
	}
	s.recent = s.recent[n:]
}
