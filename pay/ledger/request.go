package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Kind says what a request wants.
type Kind uint8

// Kinds of requests, with the fields of Request that each takes beside Key, By and Any.
const (
	OpenAccount   Kind = 1 + iota // Account ("": one is made), Currency, Settings
	ChangeAccount                 // Account, Settings, Set, IfVersion
	Move                          // Legs, Currency, Memo, Reference, IfVersion; Linked
	Hold                          // the same, two Legs: the payer's, the receiver's; Expires
	Claimable                     // the same, one Leg: the payer's; Recipient, Expires
	Capture                       // Transfer, Currency, Amount (0: what remains), Legs (who receives it; none: the hold's), Final
	Void                          // Transfer: what remains of a hold is freed, a claimable is returned
	Refund                        // Transfer, Currency, Amount (0: all), Legs (who gives back, positive; none: who received)
	Claim                         // Transfer, Account
	Expire                        // Transfer; by the service, without a key
	UseKey                        // Print: the key is used in another shard for the request of this fingerprint
	Prepare                       // Transfer, Currency, Legs (this shard's); Cancel
	Decide                        // Transfer, Commit, or Code and Leg
	Finish                        // Transfer, Commit
	kinds
)

// A Leg is what one account receives, or, when it is negative, pays.
type Leg struct {
	Account string
	Amount  int64
}

// Settings of an account.
type Settings struct {
	Asset       bool // otherwise it is a liability
	Overdraft   bool
	Closed      bool
	PerTransfer int64 // that it may pay at once; 0: no limit
	PerDay      int64 // that it may pay in a day of UTC; 0: no limit
}

// Set says which settings a ChangeAccount changes.
type Set uint8

// What can be changed.
const (
	SetOverdraft Set = 1 << iota
	SetClosed
	SetPerTransfer
	SetPerDay
)

// Request is one thing to do. The zero values of fields that its kind does not take stay out of its encoding.
type Request struct {
	Kind      Kind
	Linked    bool // all or none with the request behind it
	Any       bool // By may move what is not his
	Key       Key  // zero: none
	By        string
	Account   string
	Currency  Currency
	Settings  Settings
	Set       Set
	Legs      []Leg
	Amount    int64
	Final     bool
	Transfer  ID
	Expires   int64 // Unix nanoseconds
	Memo      string
	Reference string
	Recipient string
	IfVersion uint32 // of the account that pays or is changed; 0: any
	Print     Fingerprint
	Commit    bool
	Cancel    bool
	Code      Code
	Leg       uint8
}

// Fingerprint tells requests under one key apart. It is the first half of SHA-256 over what is asked, not by whom.
type Fingerprint [8]byte

// Bits of the first varint of a request: which fields follow, in this order.
const (
	hasKey = 1 << iota
	hasBy
	isAny
	isLinked
	hasAccount
	hasCurrency
	hasSettings
	hasLegs
	hasAmount
	isFinal
	hasTransfer
	hasExpires
	hasMemo
	hasReference
	hasRecipient
	hasIfVersion
	hasPrint
	isCommit
	isCancel
	hasCode
	bitsEnd
)

// whoBits are those that the fingerprint leaves out.
const whoBits = hasKey | hasBy | isAny

// Append appends the encoding of a request: a uvarint of bits, the key (16 bytes) and By; then the kind (a byte) and the
// other fields whose bits are set. Numbers are varints, text has its length before it.
func (q *Request) Append(b []byte) []byte {
	bits := q.bits()
	b = binary.AppendUvarint(b, bits)
	if bits&hasKey != 0 {
		b = append(b, q.Key[:]...)
	}
	if bits&hasBy != 0 {
		b = appendText(b, q.By)
	}
	return q.appendRest(b, bits)
}

func (q *Request) bits() uint64 {
	var bits uint64
	set := func(bit uint64, is bool) {
		if is {
			bits |= bit
		}
	}
	set(hasKey, q.Key != Key{})
	set(hasBy, q.By != "")
	set(isAny, q.Any)
	set(isLinked, q.Linked)
	set(hasAccount, q.Account != "")
	set(hasCurrency, q.Currency != Currency{})
	set(hasSettings, q.Settings != Settings{} || q.Set != 0)
	set(hasLegs, len(q.Legs) > 0)
	set(hasAmount, q.Amount != 0)
	set(isFinal, q.Final)
	set(hasTransfer, q.Transfer != ID{})
	set(hasExpires, q.Expires != 0)
	set(hasMemo, q.Memo != "")
	set(hasReference, q.Reference != "")
	set(hasRecipient, q.Recipient != "")
	set(hasIfVersion, q.IfVersion != 0)
	set(hasPrint, q.Print != Fingerprint{})
	set(isCommit, q.Commit)
	set(isCancel, q.Cancel)
	set(hasCode, q.Code != 0)
	return bits
}

func (q *Request) appendRest(b []byte, bits uint64) []byte {
	b = append(b, byte(q.Kind))
	if bits&hasAccount != 0 {
		b = appendText(b, q.Account)
	}
	if bits&hasCurrency != 0 {
		b = append(b, q.Currency[:]...)
	}
	if bits&hasSettings != 0 {
		b = append(b, byte(q.Set), q.Settings.flags())
		b = binary.AppendUvarint(b, uint64(q.Settings.PerTransfer))
		b = binary.AppendUvarint(b, uint64(q.Settings.PerDay))
	}
	if bits&hasLegs != 0 {
		b = appendLegs(b, q.Legs)
	}
	if bits&hasAmount != 0 {
		b = binary.AppendVarint(b, q.Amount)
	}
	if bits&hasTransfer != 0 {
		b = binary.AppendUvarint(b, uint64(q.Transfer.Time))
		b = binary.AppendUvarint(b, uint64(q.Transfer.Shard))
		b = binary.AppendUvarint(b, uint64(q.Transfer.Record))
	}
	if bits&hasExpires != 0 {
		b = binary.AppendVarint(b, q.Expires)
	}
	if bits&hasMemo != 0 {
		b = appendText(b, q.Memo)
	}
	if bits&hasReference != 0 {
		b = appendText(b, q.Reference)
	}
	if bits&hasRecipient != 0 {
		b = appendText(b, q.Recipient)
	}
	if bits&hasIfVersion != 0 {
		b = binary.AppendUvarint(b, uint64(q.IfVersion))
	}
	if bits&hasPrint != 0 {
		b = append(b, q.Print[:]...)
	}
	if bits&hasCode != 0 {
		b = append(b, byte(q.Code), q.Leg)
	}
	return b
}

// Fingerprint returns what tells q from another request under the same key.
func (q *Request) Fingerprint() Fingerprint {
	if q.Kind == UseKey {
		return q.Print
	}
	bits := q.bits() &^ whoBits
	var scratch [256]byte
	sum := sha256.Sum256(q.appendRest(binary.AppendUvarint(scratch[:0], bits), bits))
	return Fingerprint(sum[:8])
}

func (s Settings) flags() byte {
	var flags byte
	for i, is := range []bool{s.Asset, s.Overdraft, s.Closed} {
		if is {
			flags |= 1 << i
		}
	}
	return flags
}

func settingsOf(flags byte) Settings {
	return Settings{Asset: flags&1 != 0, Overdraft: flags&2 != 0, Closed: flags&4 != 0}
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

func appendLegs(b []byte, legs []Leg) []byte {
	b = binary.AppendUvarint(b, uint64(len(legs)))
	for _, leg := range legs {
		b = binary.AppendVarint(appendText(b, leg.Account), leg.Amount)
	}
	return b
}

// Encode returns the command for requests that land in one slot together: their number and each request.
func Encode(requests []Request) []byte {
	b := binary.AppendUvarint(make([]byte, 0, 32+96*len(requests)), uint64(len(requests)))
	for i := range requests {
		b = requests[i].Append(b)
	}
	return b
}

// Decode reads a command. The error says that it is none.
func Decode(command []byte) ([]Request, error) {
	r := reader{text: string(command)}
	n := r.uvarint()
	if n == 0 || n > CallRequestsMax {
		return nil, fmt.Errorf("ledger: command of %d requests", n)
	}
	requests := make([]Request, n)
	for i := range requests {
		requests[i] = r.request()
		if r.bad {
			return nil, fmt.Errorf("ledger: request %d of %d cannot be read", i, n)
		}
	}
	if r.at != len(r.text) {
		return nil, errors.New("ledger: bytes behind the last request of a command")
	}
	return requests, nil
}

// reader reads encodings. After the first thing that is not there, bad is set and zeros follow. Text aliases its own.
type reader struct {
	text string
	at   int
	bad  bool
}

func (r *reader) take(n int) string {
	if r.bad || n < 0 || n > len(r.text)-r.at {
		r.bad = true
		return ""
	}
	r.at += n
	return r.text[r.at-n : r.at]
}

func (r *reader) byte() byte {
	if s := r.take(1); s != "" {
		return s[0]
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	var x uint64
	for shift := 0; shift < 64; shift += 7 {
		c := r.byte()
		x |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return x
		}
	}
	r.bad = true
	return 0
}

func (r *reader) varint() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (r *reader) string() string { return r.take(int(min(r.uvarint(), 1<<30))) }

func (r *reader) legs() []Leg {
	n := r.uvarint()
	legs := make([]Leg, 0, min(n, LegsMax))
	for ; n > 0 && !r.bad; n-- {
		legs = append(legs, Leg{r.string(), r.varint()})
	}
	return legs
}

func (r *reader) request() Request {
	var q Request
	bits := r.uvarint()
	r.bad = r.bad || bits >= bitsEnd
	if bits&hasKey != 0 {
		copy(q.Key[:], r.take(len(q.Key)))
	}
	if bits&hasBy != 0 {
		q.By = r.string()
	}
	q.Any, q.Linked, q.Final = bits&isAny != 0, bits&isLinked != 0, bits&isFinal != 0
	q.Commit, q.Cancel = bits&isCommit != 0, bits&isCancel != 0
	q.Kind = Kind(r.byte())
	r.bad = r.bad || q.Kind == 0 || q.Kind >= kinds
	r.rest(&q, bits)
	return q
}

func (r *reader) rest(q *Request, bits uint64) {
	if bits&hasAccount != 0 {
		q.Account = r.string()
	}
	if bits&hasCurrency != 0 {
		copy(q.Currency[:], r.take(3))
	}
	if bits&hasSettings != 0 {
		q.Set = Set(r.byte())
		q.Settings = settingsOf(r.byte())
		q.Settings.PerTransfer = int64(r.uvarint())
		q.Settings.PerDay = int64(r.uvarint())
	}
	if bits&hasLegs != 0 {
		q.Legs = r.legs()
	}
	if bits&hasAmount != 0 {
		q.Amount = r.varint()
	}
	if bits&hasTransfer != 0 {
		q.Transfer = ID{int64(r.uvarint()), uint16(r.uvarint()), uint32(r.uvarint())}
	}
	if bits&hasExpires != 0 {
		q.Expires = r.varint()
	}
	if bits&hasMemo != 0 {
		q.Memo = r.string()
	}
	if bits&hasReference != 0 {
		q.Reference = r.string()
	}
	if bits&hasRecipient != 0 {
		q.Recipient = r.string()
	}
	if bits&hasIfVersion != 0 {
		q.IfVersion = uint32(r.uvarint())
	}
	if bits&hasPrint != 0 {
		copy(q.Print[:], r.take(len(q.Print)))
	}
	if bits&hasCode != 0 {
		q.Code, q.Leg = Code(r.byte()), r.byte()
	}
}

// bounded says whether a request keeps to the limits, and so fits where records keep their texts. The API refuses others.
func (q *Request) bounded() bool {
	return len(q.Legs) <= LegsMax && len(q.By) <= UserBytesMax && len(q.Recipient) <= UserBytesMax &&
		len(q.Memo) <= MemoBytesMax && len(q.Reference) <= ReferenceBytesMax &&
		!slices.ContainsFunc(q.Legs, func(leg Leg) bool { return len(leg.Account) > AccountBytesMax })
}

// legsValid says whether legs add up to zero, are at least two, none of them zero, each of another account.
func legsValid(legs []Leg) bool {
	sum := int64(0)
	for i, leg := range legs {
		next := sum + leg.Amount
		if leg.Amount == 0 || leg.Amount > AmountMax || leg.Amount < -AmountMax || next > AmountMax || next < -AmountMax {
			return false
		}
		sum = next
		if slices.ContainsFunc(legs[:i], func(other Leg) bool { return other.Account == leg.Account }) {
			return false
		}
	}
	return sum == 0 && 2 <= len(legs) && len(legs) <= LegsMax
}
