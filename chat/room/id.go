package room

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// An ID names a room, a message or any other fact, and orders them: 42 bits of milliseconds since 2020, a 10-bit
// counter and a 12-bit tag of the node, or the shard, that gave it out. It is a hybrid logical clock (Kulkarni et al., 2014): later in
// time is larger, and what a node has seen is smaller than what it gives out next. The text form is 13 characters that
// sort as the numbers do. The zero ID is none.
//
// The id of a direct room is derived from its two users instead, so that both sides of a cut make the same room; its
// top bit is set, which no clock reaches before the year 2089.
type ID uint64

const (
	idTagBits     = 12
	idCounterBits = 10
	idEpochMS     = 1_577_836_800_000 // 2020-01-01T00:00:00Z
	idTextLen     = 13
	idDirectBit   = 1 << 63

	// ClockAheadMax is how far another node's clock may run ahead of ours before its entries are refused.
	ClockAheadMax = 60 * time.Second
)

// idAlphabet is Crockford's base 32 in lower case: digits before letters, so that text sorts as numbers do.
const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

var idDigits = func() (d [256]int8) {
	for i := range d {
		d[i] = -1
	}
	for i := range len(idAlphabet) {
		d[idAlphabet[i]] = int8(i)
	}
	return d
}()

// AppendText appends the 13 characters of id.
func (id ID) AppendText(b []byte) ([]byte, error) {
	for shift := 5 * (idTextLen - 1); shift >= 0; shift -= 5 {
		b = append(b, idAlphabet[id>>shift&31])
	}
	return b, nil
}

// MarshalText gives the 13 characters of id, for JSON.
func (id ID) MarshalText() ([]byte, error) { return id.AppendText(make([]byte, 0, idTextLen)) }

// String gives the 13 characters of id.
func (id ID) String() string {
	b, _ := id.MarshalText()
	return string(b)
}

// UnmarshalText is the inverse of MarshalText; anything else is an error.
func (id *ID) UnmarshalText(b []byte) error {
	parsed, err := ParseID(string(b))
	if err != nil {
		return fmt.Errorf("%.40q: %w", b, err)
	}
	*id = parsed
	return nil
}

var errID = errors.New("an id is 13 characters of 0-9 and a-z without i, l, o, u")

// ParseID reads an id's text form.
func ParseID(s string) (ID, error) {
	if len(s) != idTextLen || idDigits[s[0]] > 15 { // 13 × 5 bits are one more than 64
		return 0, errID
	}
	var v uint64
	for i := range len(s) {
		d := idDigits[s[i]]
		if d < 0 {
			return 0, errID
		}
		v = v<<5 | uint64(d)
	}
	if v == 0 {
		return 0, errID
	}
	return ID(v), nil
}

// UnixMilli is the time in id, in milliseconds since 1970; meaningless for a direct room's id.
func (id ID) UnixMilli() int64 { return int64(id>>(idTagBits+idCounterBits)) + idEpochMS }

// Time is the time in id, in UTC.
func (id ID) Time() time.Time { return time.UnixMilli(id.UnixMilli()).UTC() }

// directID is the id of the room between two users, whoever opens it and wherever.
func directID(a, b string) ID {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s", min(a, b), max(a, b)))
	return ID(binary.BigEndian.Uint64(sum[:]) | idDirectBit)
}

// Tag is the 12 bits that tell a node's ids from those that another node gave out in the same millisecond. Two nodes
// of one cluster must not share it; the names of all are known at the start, so that is checked there.
func Tag(node string) uint16 {
	sum := sha256.Sum256([]byte(node))
	return binary.BigEndian.Uint16(sum[:]) & (1<<idTagBits - 1)
}

// Clock gives out ids, each larger than all before and than all it observed.
type Clock struct {
	tag  uint16
	last uint64 // milliseconds since 2020 and counter
}

// NewClock is a clock for the node of that name.
func NewClock(node string) *Clock { return &Clock{tag: Tag(node)} }

// NewShardClock is a clock for a shard's log: when it has observed the log's ids, the next one is larger, so the order of
// ids is that of the log. The tag is the shard's number.
func NewShardClock(shard int) *Clock { return &Clock{tag: uint16(shard)} }

// Next gives out an id at a wall clock time. A clock that stands still or goes back, or more than 1,024 ids in one
// millisecond, makes ids run ahead of the wall; they never repeat.
func (c *Clock) Next(now time.Time) ID {
	wall := uint64(max(0, now.UnixMilli()-idEpochMS)) << idCounterBits
	c.last = max(wall, c.last+1)
	return ID(c.last<<idTagBits | uint64(c.tag))
}

// Observe makes sure that the next id is larger than id.
func (c *Clock) Observe(id ID) {
	if id&idDirectBit == 0 {
		c.last = max(c.last, uint64(id>>idTagBits))
	}
}
