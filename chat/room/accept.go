package room

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

// Limits, each refused with ErrInvalid or ErrFull when exceeded.
const (
	TextBytesMax      = 8 << 10
	NameBytesMax      = 256
	MembersMax        = 2_000
	RoomsPerUserMax   = 10_000
	BlocksPerUserMax  = 10_000
	AttachmentsMax    = 10
	AttachmentURLMax  = 2 << 10 // bytes
	attachmentTypeMax = 128     // bytes
)

// Why a request is refused.
var (
	ErrInvalid        = errors.New("invalid")
	ErrRoomUnknown    = errors.New("no such room")
	ErrMessageUnknown = errors.New("no such message")
	ErrNotMember      = errors.New("not a member")
	ErrForbidden      = errors.New("not allowed")
	ErrBlocked        = errors.New("blocked by the other user")
	ErrFull           = errors.New("limit reached")
	ErrKeyReused      = errors.New("the idempotency key was used for another request")
)

// An Answer is what became of a request.
type Answer struct {
	ID       ID   // of the room or message that is meant
	Replayed bool // the idempotency key's first answer again
	NoChange bool // it was so already; nothing was written
}

// Accept decides on a request: fact holds what is asked, with By and all but ID, Key and Body; key is the caller's
// idempotency key, or empty. With done, the answer or the error is final and nothing is to be written; otherwise fact,
// completed with id, is what to write.
func (s *State) Accept(f *Fact, key string, id ID) (answer Answer, done bool, err error) {
	if key != "" {
		f.Key = keyHash(f.By, key)
		f.Body = bodyHash(f)
		if made, ok := s.madeBy(f.Key, f.Body, id.UnixMilli()); ok {
			if made.body != f.Body {
				return Answer{}, true, ErrKeyReused
			}
			return Answer{ID: made.id, Replayed: true}, true, nil
		}
	}
	f.ID = id
	unchanged, err := s.check(f)
	return Answer{ID: f.subject(), NoChange: unchanged}, err != nil || unchanged, err
}

// Answer is what the request for a fact that was written is told.
func (f *Fact) Answer() Answer { return Answer{ID: f.subject()} }

// subject is the room or message that the fact is about.
func (f *Fact) subject() ID {
	switch f.Kind {
	case Posted:
		return f.ID
	case Edited, Deleted:
		return f.Message
	}
	return f.Room
}

// madeBy gives what a request under the key made: this request, if it did, or else another. Two sides of a cut may
// have taken different requests under one key.
func (s *State) madeBy(key, body uint64, now int64) (found made, ok bool) {
	for _, m := range s.keys[key] {
		if m.within(now, KeyRetention) && (!ok || m.body == body) {
			found, ok = m, true
		}
	}
	return found, ok
}

// check says whether the fact may be, and whether it is so already. It fills in what follows from the state.
func (s *State) check(f *Fact) (unchanged bool, err error) {
	switch f.Kind {
	case Created:
		return s.checkCreated(f)
	case Renamed:
		return s.checkRenamed(f)
	case Joined:
		return s.checkJoined(f)
	case Left:
		return s.checkLeft(f)
	case Posted:
		return false, s.checkPosted(f)
	case Edited:
		return false, s.checkEdited(f)
	case Deleted:
		return s.checkDeleted(f)
	case Read:
		return s.checkReads(f)
	case Blocked, Unblocked:
		var blocks map[string]setting
		if u := s.users[f.By]; u != nil {
			blocks = u.blocks
		}
		if _, known := blocks[f.Target]; !known && len(blocks) >= BlocksPerUserMax {
			return false, fmt.Errorf("%w: %d blocked users", ErrFull, BlocksPerUserMax)
		}
		return blocks[f.Target].on == (f.Kind == Blocked), nil
	}
	panic(fmt.Sprintf("room: a request of kind %d", f.Kind))
}

func (s *State) checkCreated(f *Fact) (unchanged bool, err error) {
	if len(f.Members) > MembersMax {
		return false, fmt.Errorf("%w: members: %d, at most %d", ErrInvalid, len(f.Members), MembersMax)
	}
	for _, name := range f.Members {
		if u := s.users[name]; u != nil && len(u.rooms) >= RoomsPerUserMax {
			return false, fmt.Errorf("%w: %q is in %d rooms", ErrFull, name, RoomsPerUserMax)
		}
	}
	if err := checkName(f.Name); err != nil {
		return false, err
	}
	f.Room = f.ID
	if f.RoomKind != Direct {
		return false, nil
	}
	if len(f.Members) != 2 || f.Name != "" {
		return false, fmt.Errorf("%w: a direct room has one other member and no name", ErrInvalid)
	}
	f.Room = directID(f.Members[0], f.Members[1])
	r := s.rooms[f.Room]
	if r == nil {
		return false, nil
	}
	if s.seat(r, f.Members[0]) && s.seat(r, f.Members[1]) {
		return true, nil
	}
	return false, fmt.Errorf("%w: another direct room has this one's id", ErrForbidden)
}

// roomFor is the room of a request by one of its members.
func (s *State) roomFor(id ID, by string) (*room, error) {
	r := s.rooms[id]
	if r == nil || r.kind == "" {
		return nil, ErrRoomUnknown
	}
	if !s.seat(r, by) {
		return nil, ErrNotMember
	}
	return r, nil
}

func (s *State) seat(r *room, name string) bool {
	u := s.users[name]
	return u != nil && r.seats[u.number].on
}

func (s *State) checkRenamed(f *Fact) (unchanged bool, err error) {
	r, err := s.roomFor(f.Room, f.By)
	switch {
	case err != nil:
		return false, err
	case r.kind == Direct:
		return false, fmt.Errorf("%w: a direct room has no name", ErrForbidden)
	case r.kind == Channel && r.owner != f.By:
		return false, fmt.Errorf("%w: only the owner of a channel renames it", ErrForbidden)
	}
	return r.name == f.Name, checkName(f.Name)
}

func (s *State) checkJoined(f *Fact) (unchanged bool, err error) {
	r := s.rooms[f.Room]
	switch {
	case r == nil || r.kind == "":
		return false, ErrRoomUnknown
	case r.kind == Channel && f.Target == f.By: // anybody joins
	case !s.seat(r, f.By):
		return false, ErrNotMember
	case r.kind == Direct:
		return false, fmt.Errorf("%w: the two members of a direct room are for ever the same", ErrForbidden)
	case r.kind == Channel && r.owner != f.By:
		return false, fmt.Errorf("%w: only the owner of a channel adds others", ErrForbidden)
	}
	if s.seat(r, f.Target) {
		return true, nil
	}
	if r.members >= MembersMax {
		return false, fmt.Errorf("%w: the room has %d members", ErrFull, MembersMax)
	}
	if u := s.users[f.Target]; u != nil && len(u.rooms) >= RoomsPerUserMax {
		return false, fmt.Errorf("%w: %q is in %d rooms", ErrFull, f.Target, RoomsPerUserMax)
	}
	return false, nil
}

func (s *State) checkLeft(f *Fact) (unchanged bool, err error) {
	r, err := s.roomFor(f.Room, f.By)
	switch {
	case errors.Is(err, ErrNotMember) && f.By == f.Target:
		return true, nil // left already
	case err != nil:
		return false, err
	case r.kind == Direct:
		return false, fmt.Errorf("%w: the two members of a direct room are for ever the same", ErrForbidden)
	case f.Target != f.By && r.owner != f.By:
		return false, fmt.Errorf("%w: only the room's owner removes others", ErrForbidden)
	}
	return !s.seat(r, f.Target), nil
}

func (s *State) checkPosted(f *Fact) error {
	r, err := s.roomFor(f.Room, f.By)
	switch {
	case err != nil:
		return err
	case r.kind == Channel && r.owner != f.By:
		return fmt.Errorf("%w: only the owner writes in a channel", ErrForbidden)
	case r.kind == Direct && s.blockedBy(r, f.By):
		return ErrBlocked
	case f.ReplyTo != 0 && !r.has(f.ReplyTo):
		return fmt.Errorf("%w: reply_to %s", ErrMessageUnknown, f.ReplyTo)
	}
	return checkContent(f.Text, f.Attachments)
}

// CheckTyping says why a user may not show the others that it types, if so.
func (s *State) CheckTyping(id ID, name string) error {
	r, err := s.roomFor(id, name)
	if err == nil && r.kind == Direct && s.blockedBy(r, name) {
		err = ErrBlocked
	}
	return err
}

// has says whether the room shows a message of that id, deleted or not.
func (r *room) has(id ID) bool {
	_, here := r.find(r.stays(id))
	return here
}

func (s *State) blockedBy(r *room, sender string) bool {
	me := s.users[sender].number
	for number, seat := range r.seats {
		if number != me && seat.on && s.users[s.names[number]].blocks[sender].on {
			return true
		}
	}
	return false
}

// ownMessage is the message of an edit or deletion.
func (s *State) ownMessage(f *Fact) (*room, line, error) {
	r, err := s.roomFor(f.Room, f.By)
	if err != nil {
		return nil, line{}, err
	}
	i, here := r.find(r.stays(f.Message))
	if !here {
		return nil, line{}, fmt.Errorf("%w: %s", ErrMessageUnknown, f.Message)
	}
	return r, r.lines[i], nil
}

func (s *State) checkEdited(f *Fact) error {
	r, l, err := s.ownMessage(f)
	switch {
	case err != nil:
		return err
	case s.names[l.author] != f.By:
		return fmt.Errorf("%w: only the author edits a message", ErrForbidden)
	case r.deleted(l.id):
		return fmt.Errorf("%w: %s is deleted", ErrMessageUnknown, f.Message)
	case r.kind == Direct && s.blockedBy(r, f.By):
		return ErrBlocked
	}
	f.Message = l.id
	return checkContent(f.Text, f.Attachments)
}

func (s *State) checkDeleted(f *Fact) (unchanged bool, err error) {
	r, l, err := s.ownMessage(f)
	if err != nil {
		return false, err
	}
	if s.names[l.author] != f.By && (r.kind == Direct || r.owner != f.By) {
		return false, fmt.Errorf("%w: only the author, or the owner of the room, deletes a message", ErrForbidden)
	}
	f.Message = l.id
	return r.deleted(l.id), nil
}

// checkReads drops the positions that are not ahead, or no longer allowed.
func (s *State) checkReads(f *Fact) (unchanged bool, err error) {
	var kept []Position
	for _, p := range f.Reads {
		if ahead, err := s.CheckRead(p); err == nil && ahead {
			kept = append(kept, p)
		}
	}
	f.Reads = kept
	return len(kept) == 0, nil
}

// CheckRead says whether a read position is valid, and ahead of the one that is known.
func (s *State) CheckRead(p Position) (ahead bool, err error) {
	r, err := s.roomFor(p.Room, p.User)
	if err != nil {
		return false, err
	}
	if !r.has(p.Message) {
		return false, fmt.Errorf("%w: %s", ErrMessageUnknown, p.Message)
	}
	return p.Message > r.reads[s.users[p.User].number], nil
}

// checkContent checks a message's text and attachments.
func checkContent(text string, attachments []Attachment) error {
	switch {
	case len(text) > TextBytesMax:
		return fmt.Errorf("%w: text: %d bytes, at most %d", ErrInvalid, len(text), TextBytesMax)
	case !utf8.ValidString(text):
		return fmt.Errorf("%w: text: not UTF-8", ErrInvalid)
	case strings.TrimSpace(text) == "" && len(attachments) == 0:
		return fmt.Errorf("%w: a message has a text or an attachment", ErrInvalid)
	case len(attachments) > AttachmentsMax:
		return fmt.Errorf("%w: attachments: %d, at most %d", ErrInvalid, len(attachments), AttachmentsMax)
	}
	for i, a := range attachments {
		if err := checkAttachment(a); err != nil {
			return fmt.Errorf("%w: attachments[%d]: %v", ErrInvalid, i, err)
		}
	}
	return nil
}

func checkAttachment(a Attachment) error {
	u, err := url.Parse(a.URL)
	switch {
	case len(a.URL) > AttachmentURLMax:
		return fmt.Errorf("url: %d bytes, at most %d", len(a.URL), AttachmentURLMax)
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return errors.New("url: not an absolute http or https URL")
	case a.Type == "" || len(a.Type) > attachmentTypeMax || !strings.Contains(a.Type, "/"):
		return errors.New("type: not a media type")
	case a.Size < 0:
		return errors.New("size: negative")
	}
	return nil
}

func checkName(name string) error {
	switch {
	case len(name) > NameBytesMax:
		return fmt.Errorf("%w: name: %d bytes, at most %d", ErrInvalid, len(name), NameBytesMax)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: name: not UTF-8", ErrInvalid)
	}
	return nil
}
