// Package room is what chat knows: rooms, who is in them, where each message lies in the log, how far everybody has
// read. It is pure: facts go in, events come out, and every order of the same facts makes the same state, so that nodes
// which were cut off from each other agree as soon as both have heard everything. Two facts about one thing are settled
// by their ids (the later one wins), but for deletions, which win for ever, and for copies of one message, of which
// the earliest stays.
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

// keysKept is how long keys are kept: a copy within KeyRetention of another, which may be within KeyRetention of the one
// that is remembered for both, and itself that old when it comes, finds it.
const keysKept = 3 * KeyRetention

// State is what a node knows. It is not safe for concurrent use: the owner locks.
type State struct {
	rooms  map[ID]*room
	users  map[string]*user
	names  []string          // by user number
	keys   map[uint64][]made // by key hash; more than one only after a cut, in two shards, or of a key used again
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
	edits   map[ID]edit     // by the message that the latest Edited fact names
	gone    map[ID]struct{} // messages that Deleted facts name
	copyOf  map[ID]ID       // a copy that gave way → the message that stays
	copies  map[ID][]ID     // a message that stays → its copies that gave way, sorted
	reads   map[uint32]ID   // by user number
}

// A setting is true or false as of a fact.
type setting struct {
	on     bool
	at     ID
	record uint32 // of that fact
}

// set reports whether the setting changed.
func (s setting) set(on bool, at ID, record uint32) (setting, bool) {
	if at < s.at {
		return s, false
	}
	return setting{on, at, record}, s.on != on
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
			copyOf: make(map[ID]ID), copies: make(map[ID][]ID), reads: make(map[uint32]ID)}
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
	if to, ok := r.copyOf[id]; ok {
		return to
	}
	return id
}

func (r *room) visible(id ID) bool {
	_, copied := r.copyOf[id]
	return !copied
}

// deleted says whether the message that stays, or one of its copies, was deleted.
func (r *room) deleted(id ID) bool {
	if _, gone := r.gone[id]; gone {
		return true
	}
	return slices.ContainsFunc(r.copies[id], func(copied ID) bool { _, gone := r.gone[copied]; return gone })
}

// edit is the latest edit of the message that stays, or of one of its copies; the zero edit for none.
func (r *room) edit(id ID) edit {
	latest := r.edits[id]
	for _, copied := range r.copies[id] {
		if e := r.edits[copied]; e.at > latest.at {
			latest = e
		}
	}
	return latest
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
		Room  ID `json:"room"`
		ID    ID `json:"id"`
		Stays ID `json:"stays,omitzero"` // the message in whose place it was a copy
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
		return s.applyCreated(record, f)
	case Renamed:
		return s.applyRenamed(f)
	case Joined, Left:
		return s.applySeat(s.room(f.Room), f.Target, f.Kind == Joined, f.ID, record)
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
		u.blocks[f.Target], _ = u.blocks[f.Target].set(f.Kind == Blocked, f.ID, record)
	}
	return nil
}

func (s *State) applyCreated(record uint32, f *Fact) []Event {
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
		for _, e := range s.applySeat(r, name, true, f.ID, record) {
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

func (s *State) applySeat(r *room, name string, in bool, at ID, record uint32) []Event {
	u := s.user(name)
	seat, changed := r.seats[u.number].set(in, at, record)
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
	mayHaveCopies := s.mayHaveCopies(f)
	s.remember(f)
	if mayHaveCopies {
		if ids := r.copiesAround(i); len(ids) > 1 {
			return r.regroup(ids, f)
		}
	}
	if r.deleted(f.ID) {
		return nil
	}
	return []Event{r.messageEvent("message", f.ID, f)}
}

// messageEvent tells the present content of message id, whose first content is in f, if f is not nil.
func (r *room) messageEvent(name string, id ID, f *Fact) Event {
	if e := r.edit(id); e.at != 0 {
		return Event{Name: name, Room: r.id, Data: Stored{e.record, id}}
	}
	if f == nil || f.ID != id {
		i, _ := r.find(id)
		return Event{Name: name, Room: r.id, Data: Stored{r.lines[i].record, id}}
	}
	return Event{Name: name, Room: r.id, Data: f.View(id)}
}

func (r *room) deletedEvent(id ID) Event {
	return Event{Name: "deleted", Room: r.id, Data: DeletedEvent{r.id, id, r.copyOf[id]}}
}

// mayHaveCopies says whether the same request may have made a message within KeyRetention of this one. The keys of
// keysKept know of all that are younger; what comes later than that has to be looked for.
func (s *State) mayHaveCopies(f *Fact) bool {
	if f.Body == 0 {
		return false
	}
	if f.ID.UnixMilli() < s.newest-KeyRetention.Milliseconds() {
		return true
	}
	return slices.ContainsFunc(s.keys[f.Key], func(m made) bool {
		return m.body == f.Body && m.within(f.ID.UnixMilli(), 2*KeyRetention)
	})
}

// copiesAround gives the ids of the lines that the same request made as lines[i], it included, in order, as far as they
// follow each other within KeyRetention: no message beyond such a gap has a say in which of them stay.
func (r *room) copiesAround(i int) []ID {
	body, ids := r.lines[i].body, []ID{r.lines[i].id}
	far := func(a, b ID) bool { return b.UnixMilli()-a.UnixMilli() > KeyRetention.Milliseconds() }
	for k := i - 1; k >= 0 && !far(r.lines[k].id, ids[0]); k-- {
		if r.lines[k].body == body {
			ids = slices.Insert(ids, 0, r.lines[k].id)
		}
	}
	for k := i + 1; k < len(r.lines) && !far(ids[len(ids)-1], r.lines[k].id); k++ {
		if r.lines[k].body == body {
			ids = append(ids, r.lines[k].id)
		}
	}
	return ids
}

// shown is what a client shows of a message.
type shown struct {
	hidden bool // it is a copy that gave way, or deleted
	edit   ID
}

func (r *room) shown(id ID) shown {
	return shown{!r.visible(id) || r.deleted(id), r.edit(id).at}
}

// regroup decides anew which of some copies of one request stay, after that in f came: the first does, the others
// within KeyRetention of it give way, the next one after that begins another group. It is the same in whatever order the
// copies came. What was done to a copy is done to the message that stays.
func (r *room) regroup(ids []ID, f *Fact) []Event {
	before := make([]shown, len(ids))
	for i, id := range ids {
		before[i] = r.shown(id)
		if before[i].hidden = before[i].hidden || id == f.ID; id == f.ID {
			before[i].edit = 0
		}
	}
	for _, id := range ids {
		delete(r.copyOf, id)
		delete(r.copies, id)
	}
	first := ids[0]
	for _, id := range ids[1:] {
		if id.UnixMilli()-first.UnixMilli() > KeyRetention.Milliseconds() {
			first = id
			continue
		}
		r.copyOf[id] = first
		r.copies[first] = append(r.copies[first], id)
	}
	var events []Event
	for i, id := range ids { // what gives way first: a message that comes is told once only
		if now := r.shown(id); !before[i].hidden && now.hidden {
			events = append(events, r.deletedEvent(id))
		}
	}
	for i, id := range ids {
		switch now := r.shown(id); {
		case now.hidden:
		case before[i].hidden:
			events = append(events, r.messageEvent("message", id, f))
		case before[i].edit != now.edit:
			events = append(events, r.messageEvent("edited", id, f))
		}
	}
	return events
}

func (s *State) applyEdited(record uint32, f *Fact) []Event {
	r := s.room(f.Room)
	if f.ID <= r.edits[f.Message].at {
		return nil
	}
	r.edits[f.Message] = edit{f.ID, record}
	id := r.stays(f.Message)
	if _, here := r.find(id); !here || r.deleted(id) || r.edit(id).at != f.ID {
		return nil
	}
	return []Event{{Name: "edited", Room: r.id, Data: f.View(id)}}
}

func (s *State) applyDeleted(f *Fact) []Event {
	r := s.room(f.Room)
	id := r.stays(f.Message)
	again := r.deleted(id)
	r.gone[f.Message] = struct{}{}
	if _, here := r.find(id); !here || again {
		return nil
	}
	return []Event{r.deletedEvent(id)}
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
	m := made{f.Body, f.subject(), f.ID.UnixMilli()}
	if f.Key == 0 || m.at < s.newest-keysKept.Milliseconds() {
		return
	}
	known := s.keys[f.Key]
	for i := range known {
		if known[i].body == m.body && known[i].within(m.at, KeyRetention) {
			known[i].id = min(known[i].id, m.id)
			return
		}
	}
	s.keys[f.Key] = append(known, m)
	s.recent = append(s.recent, recentKey{f.Key, m.at})
}

// within says whether it was made within d of a time, in milliseconds.
func (m made) within(at int64, d time.Duration) bool {
	return max(m.at-at, at-m.at) <= d.Milliseconds()
}

// expireKeys forgets what is older than keysKept.
func (s *State) expireKeys() {
	oldest := s.newest - keysKept.Milliseconds()
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
