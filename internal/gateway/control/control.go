// Package control is what the operators of a gateway set while it runs: kill switches, canary releases and the weights
// by which an API moves from a legacy upstream to a new one. Several gateways share it; each keeps it durably and goes
// on alone when it is cut off.
//
// # Registers
//
// What is set of one kind on one route is a register. A change is an Entry that holds the register's whole new value,
// with who set it, when, and under which request. The entry with the highest Stamp wins; a stamp is a hybrid logical
// time and the node that gave it out (Kulkarni et al., "Logical Physical Clocks", 2014), so a change made in the
// knowledge of another is above it whatever the clocks say. Applying entries is commutative and idempotent: State is
// the same in whatever order they come (a last-writer-wins register map; Shapiro et al., "Conflict-free Replicated Data
// Types", 2011).
//
// # What holds when gateways cannot hear each other
//
// Every gateway takes changes while it is cut off. When the cut heals, the higher stamp wins, register by register and
// as a whole: no release is ever made of two. That has a price. Two operators may lock the same route on the two sides
// of a cut, and each goes on with its release on its side; healed, the release of the higher stamp goes on everywhere
// and the loser's next step is an ErrStep. A lock keeps out others only as far as the gateways hear each other.
// Likewise a switch thrown on one side acts on that side until the cut heals.
//
// Gateways whose clocks are more than two minutes apart refuse each other's messages, as package peer says: to each
// other they are cut off.
//
// # Where a request goes
//
// Route.Decide reads an immutable Table. The switch comes first; then the strangler chooses between the legacy upstream
// and the new one; unless that is named, the new one is what the route has otherwise, where a canary release chooses
// between primary and candidate. Both choices stick to a key, the request's subject or else its client's address, by a
// salted hash: whoever once was on the side whose weight grows stays there. The hash spreads keys, so the error of a
// weight over n keys is that of n throws of a coin: a standard deviation of at most 0.5 percentage points over 10,000.
// Keys that send more than others pull the share of requests their way.
//
// # Automatic rollback
//
// Every gateway counts what became of its own requests to a release, on either side, and compares each second (Guard).
// The one that finds the candidate worse takes the step Rollback, as an operator would, on the condition that the
// release is still the one that it judged. In phase All there is no primary left to compare with: only operators roll back
// there.
//
// # Files
//
// The directory holds a log of package filelog. Each command of a slot is a gossip.Entry whose data is an Entry as
// JSON, or nothing. Slots are snapshotted and trimmed. What is kept is the newest entry of each register, the newest
// 1,000 entries for the audit (of those that are overtaken without the value), and whatever some peer may not have yet.
// An entry of which nothing is kept stays as a number: peers that ask for it are sent an entry without data.
package control

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Errors of a change. They are wrapped with what is wrong.
var (
	// ErrInvalid: the change makes no sense, whatever stands.
	ErrInvalid = errors.New("invalid change")
	// ErrRoute: there is no such route.
	ErrRoute = errors.New("no such route")
	// ErrStep: the release is not where this step begins, or another has it.
	ErrStep = errors.New("illegal step")
	// ErrLocked: the route is locked already.
	ErrLocked = errors.New("locked")
	// ErrChanged: the register is no longer the one that the change expects.
	ErrChanged = errors.New("changed meanwhile")
	// ErrMessage: a peer's message, signed but not to be understood.
	ErrMessage = errors.New("malformed message")
)

// Limits.
const (
	BodyBytesMax   = 64 << 10 // of a static answer
	AuditMax       = 1000     // entries in the audit
	RoutesMax      = 1024     // of a gateway
	nameBytesMax   = 128      // of a route, of who changes, of a request id, of a content type
	upstreamMax    = 2048     // bytes of a URL
	reasonBytesMax = 512
	entryBytesMax  = 8 * BodyBytesMax // of an entry as JSON, which may write a byte as six
	kindBytesMax   = 32
	stampWallMax   = 253402300799999 // milliseconds: the end of the year 9999
	stampCountMax  = 1 << 40
	yearMax        = 9999
	percentMax     = 100
	weightSteps    = 10_000 // the finest weight is a hundredth of a percent
)

// A Kind says what a register sets.
type Kind string

// The kinds. Entries of other kinds, which a newer gateway may send, are kept and passed on.
const (
	KindSwitch    Kind = "switch"
	KindCanary    Kind = "canary"
	KindStrangler Kind = "strangler"
)

// A Stamp orders all changes. The zero Stamp is before every change.
type Stamp struct {
	Wall  int64  // Unix milliseconds, or those of the newest change known where these are more
	Count uint64 // of changes within Wall
	Node  string // that gave it out
}

// Compare orders stamps.
func (s Stamp) Compare(other Stamp) int {
	return cmp.Or(cmp.Compare(s.Wall, other.Wall), cmp.Compare(s.Count, other.Count), strings.Compare(s.Node, other.Node))
}

// IsZero says whether s is before every change.
func (s Stamp) IsZero() bool { return s == Stamp{} }

// String returns the stamp as "wall.count.node"; the zero Stamp is "".
func (s Stamp) String() string {
	if s.IsZero() {
		return ""
	}
	return fmt.Sprintf("%d.%d.%s", s.Wall, s.Count, s.Node)
}

// ParseStamp reads what String writes and nothing else.
func ParseStamp(text string) (Stamp, error) {
	if text == "" {
		return Stamp{}, nil
	}
	wall, rest, _ := strings.Cut(text, ".")
	count, node, _ := strings.Cut(rest, ".")
	w, err1 := strconv.ParseInt(wall, 10, 64)
	c, err2 := strconv.ParseUint(count, 10, 64)
	s := Stamp{w, c, node}
	if errors.Join(err1, err2) != nil || w < 0 || w > stampWallMax || c > stampCountMax || node == "" || s.String() != text {
		return Stamp{}, fmt.Errorf("%w: %.100q is no stamp", ErrInvalid, text)
	}
	return s, nil
}

// MarshalText is String.
func (s Stamp) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is ParseStamp.
func (s *Stamp) UnmarshalText(text []byte) (err error) {
	*s, err = ParseStamp(string(text))
	return err
}

// next returns the stamp of a change that node makes at now and that comes after s.
func (s Stamp) next(now time.Time, node string) Stamp {
	wall := min(max(now.UnixMilli(), 0), stampWallMax)
	if wall > s.Wall {
		return Stamp{wall, 0, node}
	}
	return Stamp{s.Wall, s.Count + 1, node}
}

// An Entry is one change.
type Entry struct {
	Stamp     Stamp     `json:"stamp"`
	At        time.Time `json:"at"` // by the clock of the gateway that took it
	By        string    `json:"by"`
	RequestID string    `json:"request_id,omitempty"`
	Route     string    `json:"route"`
	Kind      Kind      `json:"kind"`
	What      string    `json:"what"` // in words: "canary 5 %"
	// Value is the register's, as JSON. It is absent from entries that were overtaken and are kept for the audit alone.
	Value json.RawMessage `json:"value,omitempty"`
}

// compare orders entries by stamp. Two different entries of one stamp come from a node that lost its disk and whose
// clock went back; they are ordered by what they say, so that all nodes agree.
func (e Entry) compare(other Entry) int {
	if c := e.Stamp.Compare(other.Stamp); c != 0 {
		return c
	}
	return cmp.Or(strings.Compare(e.meta(), other.meta()), strings.Compare(string(e.Value), string(other.Value)))
}

func (e Entry) meta() string {
	at := strconv.FormatInt(e.At.UnixMilli(), 10)
	return strings.Join([]string{e.Route, string(e.Kind), e.By, e.RequestID, e.What, at}, "\x00")
}

// stripped is the entry without its value.
func (e Entry) stripped() Entry {
	e.Value = nil
	return e
}

func (e Entry) register() register { return register{e.Route, e.Kind} }

// encode returns the entry as JSON.
func (e Entry) encode() []byte {
	b, err := json.Marshal(e)
	if err != nil {
		panic(fmt.Sprintf("control: an entry that cannot be encoded: %v", err))
	}
	return b
}

// decodeEntry reads what encode writes. Fields that a newer gateway added are lost here, not where it is passed on.
func decodeEntry(data []byte) (Entry, error) {
	var e Entry
	if len(data) > entryBytesMax {
		return e, fmt.Errorf("an entry has at most %d bytes, not %d", entryBytesMax, len(data))
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return e, err
	}
	if e.Stamp.IsZero() || validName("route", e.Route) != nil || e.Kind == "" || len(e.Kind) > kindBytesMax {
		return e, fmt.Errorf("stamp %q, route %.100q, kind %.40q", e.Stamp, e.Route, e.Kind)
	}
	return e, nil
}

// A Request says who changes something, and on what condition.
type Request struct {
	By string // of the one who asks, 1 to 128 bytes
	// ID is the id of the request, for the audit. A canary step that comes again under the id of the one that stands is
	// answered with what stands, so that a retry after a lost answer is no error.
	ID string
	// Expect is the stamp of the register that the change was decided on; zero: whatever stands.
	Expect Stamp
}

func (r Request) check() error {
	if err := validName("by", r.By); err != nil {
		return err
	}
	if r.ID == "" {
		return nil
	}
	return validName("request id", r.ID)
}

// validName says whether a name has 1 to 128 bytes of valid UTF-8 without control characters.
func validName(what, name string) error {
	if name == "" || len(name) > nameBytesMax {
		return fmt.Errorf("%w: %s has 1 to %d bytes, not %d", ErrInvalid, what, nameBytesMax, len(name))
	}
	return validText(what, name, nameBytesMax)
}

func validText(what, text string, bytesMax int) error {
	if len(text) > bytesMax {
		return fmt.Errorf("%w: %s has at most %d bytes, not %d", ErrInvalid, what, bytesMax, len(text))
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%w: %s %q has bytes that are no text", ErrInvalid, what, text)
	}
	return nil
}

// parseUpstream reads an absolute URL of http or https without user, query and fragment.
func parseUpstream(what, text string) (*url.URL, error) {
	if err := validText(what, text, upstreamMax); err != nil {
		return nil, err
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" ||
		u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, fmt.Errorf("%w: %s %q is not http://host:port/path", ErrInvalid, what, text)
	}
	return u, nil
}

// checkUpstream is parseUpstream where none is allowed too: the route's own.
func checkUpstream(what, text string) error {
	if text == "" {
		return nil
	}
	_, err := parseUpstream(what, text)
	return err
}

// upstreamOf reads a URL that was checked; nil for none, and for one that a newer gateway has checked.
func upstreamOf(text string) *url.URL {
	if text == "" {
		return nil
	}
	u, err := parseUpstream("upstream", text)
	if err != nil {
		return nil
	}
	return u
}
