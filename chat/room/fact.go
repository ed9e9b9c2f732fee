package room

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// Kind says what a Fact is about. Numbers are part of the stored format: they are never reused.
type Kind uint8

const (
	Created   Kind = 1  // a room, with its first members
	Renamed   Kind = 2  // a room
	Joined    Kind = 3  // Target into Room
	Left      Kind = 4  // Target out of Room, by itself or removed by By
	Posted    Kind = 5  // a message; the fact's ID is the message's
	Edited    Kind = 6  // Message has a new Text, all else carried over
	Deleted   Kind = 7  // Message, for ever
	Read      Kind = 8  // Reads: positions that moved forward
	Blocked   Kind = 9  // By no longer wants Target's direct messages
	Unblocked Kind = 10 // By wants Target's direct messages again
)

// RoomKind is direct, group or channel.
type RoomKind string

const (
	Direct  RoomKind = "direct"  // two users, for ever the same
	Group   RoomKind = "group"   // members add members
	Channel RoomKind = "channel" // anybody joins, the owner writes
)

// Attachment is something stored elsewhere that a message points to.
type Attachment struct {
	URL  string `json:"url"`
	Type string `json:"type"` // media type
	Size int64  `json:"size"` // bytes
}

// Position is how far a user has read a room.
type Position struct {
	User    string `json:"u"`
	Room    ID     `json:"r"`
	Message ID     `json:"m"`
}

// A Fact is something that was accepted on one node and becomes true on all: what the log stores and gossip carries.
// Facts commute: every order of the same facts makes the same state.
type Fact struct {
	Kind        Kind         `json:"k"`
	ID          ID           `json:"i"`
	By          string       `json:"u,omitempty"`
	Room        ID           `json:"r,omitzero"`
	RoomKind    RoomKind     `json:"rk,omitempty"`
	Name        string       `json:"n,omitempty"`
	Members     []string     `json:"mm,omitempty"`
	Target      string       `json:"t,omitempty"`
	Message     ID           `json:"m,omitzero"`
	Text        string       `json:"x,omitempty"`
	ReplyTo     ID           `json:"re,omitzero"`
	Attachments []Attachment `json:"a,omitempty"`
	Reads       []Position   `json:"rd,omitempty"`
	Key         uint64       `json:"ky,omitempty"` // of By and its idempotency key
	Body        uint64       `json:"kb,omitempty"` // of Key and the canonical request
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const crcBytes = 4

// ErrCorrupt: bytes that are no fact: a wrong checksum, or content that another program wrote.
var ErrCorrupt = errors.New("not a fact")

// Encode gives the stored form: crc32c (4 bytes, big endian) of the JSON that follows.
func (f *Fact) Encode() []byte {
	body, err := json.Marshal(f)
	if err != nil {
		panic(fmt.Sprintf("room: a fact that cannot be encoded: %v", err)) // strings, numbers and slices of them only
	}
	b := make([]byte, crcBytes, crcBytes+len(body))
	binary.BigEndian.PutUint32(b, crc32.Checksum(body, castagnoli))
	return append(b, body...)
}

// DecodeFact is the inverse of Encode.
func DecodeFact(b []byte) (Fact, error) {
	var f Fact
	if len(b) < crcBytes || binary.BigEndian.Uint32(b) != crc32.Checksum(b[crcBytes:], castagnoli) {
		return f, fmt.Errorf("%w: checksum", ErrCorrupt)
	}
	if err := json.Unmarshal(b[crcBytes:], &f); err != nil {
		return Fact{}, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	return f, nil
}

// keyHash is 64 bits of SHA-256 over a user and its idempotency key; a user can only collide with itself.
func keyHash(user, key string) uint64 {
	return hash64(fmt.Appendf(nil, "%s\x00%s", user, key))
}

// bodyHash tells a retry (equal) from another request under the same key (different): it is over all that a request says,
// each text with its length before it.
func bodyHash(f *Fact) uint64 {
	b := make([]byte, 0, 512)
	number := func(n uint64) { b = binary.AppendUvarint(b, n) }
	text := func(s string) { number(uint64(len(s))); b = append(b, s...) }
	number(f.Key)
	number(uint64(f.Kind))
	number(uint64(f.Room))
	number(uint64(f.Message))
	number(uint64(f.ReplyTo))
	for _, s := range []string{f.By, string(f.RoomKind), f.Name, f.Target, f.Text} {
		text(s)
	}
	number(uint64(len(f.Members)))
	for _, name := range f.Members {
		text(name)
	}
	for _, a := range f.Attachments {
		text(a.URL)
		text(a.Type)
		number(uint64(a.Size))
	}
	return hash64(b)
}

// hash64 is never 0, which stands for none.
func hash64(b []byte) uint64 {
	sum := sha256.Sum256(b)
	return max(1, binary.BigEndian.Uint64(sum[:]))
}

// A Message is what the API says of a message. A deleted one has neither text nor attachments.
type Message struct {
	ID          ID           `json:"id"`
	Room        ID           `json:"room"`
	From        string       `json:"from"`
	Text        string       `json:"text"`
	ReplyTo     ID           `json:"reply_to,omitzero"`
	Attachments []Attachment `json:"attachments,omitempty"`
	At          Time         `json:"at"`
	EditedAt    Time         `json:"edited_at,omitzero"`
	Deleted     bool         `json:"deleted,omitempty"`
}

// Time is in milliseconds since 1970; as JSON RFC 3339 in UTC, always with three decimals.
type Time int64

// MarshalText gives RFC 3339 with milliseconds.
func (t Time) MarshalText() ([]byte, error) {
	return time.UnixMilli(int64(t)).UTC().AppendFormat(nil, "2006-01-02T15:04:05.000Z07:00"), nil
}

// View is the content that a Posted or Edited fact gives the message id: its own, or that of a copy that stays.
func (f *Fact) View(id ID) Message {
	m := Message{ID: id, Room: f.Room, From: f.By, Text: f.Text, ReplyTo: f.ReplyTo, Attachments: f.Attachments, At: Time(id.UnixMilli())}
	if f.Kind == Edited {
		m.EditedAt = Time(f.ID.UnixMilli())
	}
	return m
}
