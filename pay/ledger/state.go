package ledger

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"
	"strings"

	"dongne/internal/sharedlog"
)

// State is the ledger of one shard after some slot. One goroutine changes it; reads may be concurrent with each other.
type State struct {
	shard, shards int
	position      sharedlog.Position

	accounts column[account] // index 0 is unused
	byID     map[string]uint32
	users    column[string] // index 0: nobody
	byUser   map[string]uint32
	owned    map[uint32][]uint32 // user → his accounts, sorted
	records  column[record]      // record n is at index n; 0 is unused
	postings column[posting]     // index 0 is unused
	texts    blobs
	keys     column[used]
	byKey    map[Key]uint32      // index in keys
	marks    map[uint32][]uint32 // account → its postings 64, 128, …; see entry

	roots    map[uint32]*root // by record: what is, or may become, open of a transfer
	settling map[uint32]*crossing
	portions map[ID]*portion // of other shards' transfers
	due      dueHeap         // of what is open, and of what was ended since

	undo *undo // while a chain is applied
}

type account struct {
	id          string
	posted      int64 // credits minus debits
	held        int64 // by holds, never negative
	incoming    int64 // that may yet come: legs on their way between shards, claimables that may return
	perTransfer int64
	perDay      int64
	spent       int64 // paid on day
	day         int32 // of UTC since 1970
	owner       uint32
	record      uint32 // that opened it; 0: a system account
	changed     uint32 // record that changed its settings last
	last        uint32 // posting
	entries     uint32 // postings
	version     uint32 // changes of any kind
	currency    Currency
	flags       byte // of Settings
}

func (a *account) settings() Settings {
	s := settingsOf(a.flags)
	s.PerTransfer, s.PerDay = a.perTransfer, a.perDay
	return s
}

func (a *account) asset() bool     { return a.flags&1 != 0 }
func (a *account) overdraft() bool { return a.flags&2 != 0 }
func (a *account) closed() bool    { return a.flags&4 != 0 }

// natural is a credit as the account counts it.
func (a *account) natural(credit int64) int64 {
	if a.asset() {
		return -credit
	}
	return credit
}

// available is what the account may still pay.
func (a *account) available() int64 { return a.natural(a.posted) - a.held }

// record is one thing that happened.
type record struct {
	time     int64
	amount   int64
	text     uint64 // extra, if any
	parent   uint32
	posting  uint32 // the first; they follow each other
	by       uint32
	account  uint32 // of a record about an account
	currency Currency
	postings uint8
	kind     recordKind
	fate     fate
}

// fate is what became of a record between shards.
type fate uint8

const (
	local fate = iota // it was none
	settling
	committed
	aborted
)

type recordKind uint8

const (
	recOpened recordKind = 1 + iota
	recChanged
	recTransfer
	recHold
	recClaimable
	recCapture
	recVoid
	recRefund
	recClaim
	recReturn    // of a claimable, by its payer
	recExpired   // of a hold
	recReturned  // of a claimable that expired
	recCommitted // of a transfer between shards, at home
	recAborted
	recPrepared // of another shard's transfer
	recFinished
	recDropped
	recKinds
)

// posting is an entry of an account's statement.
type posting struct {
	amount  int64 // a credit is positive
	balance int64 // after it
	account uint32
	before  uint32 // the account's posting before this one
	number  uint32 // in the account's statement, from 1
	record  uint32
}

// used is a key and what it decided.
type used struct {
	key    Key
	print  Fingerprint
	record uint32
	code   Code
	leg    uint8
}

// root is what is open of a transfer, and who received it. It exists for holds and claimables, and for other transfers
// once something is refunded.
type root struct {
	status     status
	over       status // how it ended, or will when nothing moves any more; statusPosted: it did not
	amount     int64  // authorised, kept or transferred
	remaining  int64
	moving     int64 // captures and claims on their way between shards
	captured   int64
	voided     int64
	refunded   int64 // with what is on its way
	expires    int64
	payer      string
	payee      string // of a hold
	receivedBy []share
}

type status uint8

const (
	statusPosted status = iota
	statusHeld
	statusCaptured
	statusVoided
	statusExpired
	statusClaimable
	statusClaimed
	statusReturned
	statuses
)

// share is what one account received of a transfer, and gave back.
type share struct {
	account  string
	received int64
	back     int64
}

// crossing is a transfer between shards, at home, until it is decided.
type crossing struct {
	legs  []Leg
	used  uint32 // its key, plus one; 0: none
	root  uint32 // record of what is captured, claimed or refunded; 0: none
	any   bool   // its request may move what is not the caller's
	final bool   // a capture that, if it is committed, voids what then remains
}

// portion is this shard's part in another shard's transfer.
type portion struct {
	record  uint32 // prepared; 0: rejected
	code    Code   // of the rejection
	leg     uint8
	pending bool // not finished
}

// NewState returns the empty ledger of one of so many shards.
func NewState(shard, shards int) *State {
	if shards < 1 || shards > 1<<12 || shard < 0 || shard >= shards {
		panic(fmt.Sprintf("ledger: shard %d of %d", shard, shards))
	}
	s := &State{shard: shard, shards: shards, byID: map[string]uint32{}, byUser: map[string]uint32{},
		owned: map[uint32][]uint32{}, byKey: map[Key]uint32{}, marks: map[uint32][]uint32{}, roots: map[uint32]*root{},
		settling: map[uint32]*crossing{}, portions: map[ID]*portion{}}
	s.accounts.add(account{})
	s.users.add("")
	s.records.add(record{})
	s.postings.add(posting{})
	return s
}

// Position returns the place in the log of the last slot applied.
func (s *State) Position() sharedlog.Position { return s.position }

// Shard returns the number of this shard and how many there are.
func (s *State) Shard() (shard, shards int) { return s.shard, s.shards }

// Counts returns how many accounts, records, postings and keys there are.
func (s *State) Counts() (accounts, records, postings, keys int) {
	return s.accounts.n - 1, s.records.n - 1, s.postings.n - 1, s.keys.n
}

func (s *State) here(account string) bool {
	return s.shards == 1 || ShardOf(account, s.shards) == s.shard
}

// find returns the index of an account of this shard; 0 if there is none.
func (s *State) find(id string) uint32 { return s.byID[id] }

func (s *State) user(name string) uint32 {
	if name == "" {
		return 0
	}
	n, known := s.byUser[name]
	if !known {
		name = strings.Clone(name)
		n = s.users.add(name)
		s.byUser[name] = n
	}
	return n
}

// own notes whose an account is that was just added; one of the system is nobody's.
func (s *State) own(n uint32) {
	if owner := s.accounts.at(n).owner; owner != 0 {
		s.owned[owner] = append(s.owned[owner], n)
	}
}

// system returns a system account, which is made when it is needed.
func (s *State) system(what string, c Currency) uint32 {
	id := systemAccount(what, c, s.shard)
	n, known := s.byID[id]
	if !known {
		n = s.accounts.add(account{id: id, currency: c, flags: Settings{Overdraft: true}.flags()})
		s.byID[id] = n
	}
	return n
}

// id is the record's, in public.
func (s *State) id(n uint32) ID {
	return ID{Time: s.records.at(n).time / 1e6, Shard: uint16(s.shard), Record: n}
}

// lookup returns the record that an id names, or 0.
func (s *State) lookup(id ID) uint32 {
	if int(id.Shard) != s.shard || id.Record == 0 || int(id.Record) >= s.records.n || s.id(id.Record) != id {
		return 0
	}
	return id.Record
}

// touch returns an account that is about to change.
func (s *State) touch(n uint32) *account {
	a := s.accounts.at(n)
	if s.undo != nil {
		s.undo.keep(n, a)
	}
	a.version++
	return a
}

// record appends one.
func (s *State) record(q *Request, kind recordKind, amount int64) uint32 {
	return s.records.add(record{time: s.position.Time, kind: kind, amount: amount, currency: q.Currency, by: s.user(q.By)})
}

// post appends a posting for each leg to the record, which must be the newest with postings.
func (s *State) post(rec uint32, legs []placed) {
	r := s.records.at(rec)
	if r.postings == 0 {
		r.posting = uint32(s.postings.n)
	}
	for _, leg := range legs {
		a := s.touch(leg.account)
		a.posted += leg.amount
		a.entries++
		n := s.postings.add(posting{amount: leg.amount, balance: a.posted, account: leg.account, before: a.last,
			number: a.entries, record: rec})
		a.last = n
		if a.entries%markEvery == 0 {
			s.marks[leg.account] = append(s.marks[leg.account], n)
		}
		r.postings++
	}
}

// markEvery so many entries of an account one is remembered, by which the others are found.
const markEvery = 64

// entry returns the posting of an account's entry.
func (s *State) entry(account, number uint32) *posting {
	n := s.accounts.at(account).last
	if k := int((number + markEvery - 1) / markEvery); k > 0 && k <= len(s.marks[account]) {
		n = s.marks[account][k-1]
	}
	p := s.postings.at(n)
	for p.number != number {
		p = s.postings.at(p.before)
	}
	return p
}

// placed is a leg of an account of this shard.
type placed struct {
	account uint32
	amount  int64
}

// undo is how to take a chain back.
type undo struct {
	accounts                map[uint32]account
	records, postings, keys int
}

func (u *undo) keep(n uint32, a *account) {
	if _, kept := u.accounts[n]; !kept {
		u.accounts[n] = *a
	}
}

func (s *State) begin() {
	s.undo = &undo{accounts: map[uint32]account{}, records: s.records.n, postings: s.postings.n, keys: s.keys.n}
}

// rollback takes back everything since begin. What may stay, as nothing refers to it: text, users and system accounts.
func (s *State) rollback() {
	u := s.undo
	s.undo = nil
	for n := u.records; n < s.records.n; n++ {
		delete(s.roots, uint32(n))
	}
	s.due = slices.DeleteFunc(s.due, func(d due) bool { return int(d.record) >= u.records })
	heap.Init(&s.due)
	for n, before := range u.accounts {
		*s.accounts.at(n) = before
		if keep := int(before.entries / markEvery); keep < len(s.marks[n]) {
			s.marks[n] = s.marks[n][:keep]
		}
	}
	for n := u.keys; n < s.keys.n; n++ {
		delete(s.byKey, s.keys.at(uint32(n)).key)
	}
	s.records.cut(u.records)
	s.postings.cut(u.postings)
	s.keys.cut(u.keys)
}

// due is when something expires.
type due struct {
	time   int64
	record uint32
}

type dueHeap []due

func (h dueHeap) Len() int { return len(h) }
func (h dueHeap) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[i].time, h[j].time), cmp.Compare(h[i].record, h[j].record)) < 0
}
func (h dueHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push is heap's.
func (h *dueHeap) Push(x any) { *h = append(*h, x.(due)) }

// Pop is heap's.
func (h *dueHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

// Due returns up to limit requests to expire what is due at a time, in Unix nanoseconds, and when something is due next; 0:
// nothing waits. They may be proposed any number of times.
func (s *State) Due(now int64, limit int) (expire []Request, next int64) {
	var walk func(i int)
	walk = func(i int) { // of a heap, what lies below is due later
		if i >= len(s.due) || s.due[i].time > now || len(expire) == limit {
			return
		}
		if s.open(s.due[i].record) {
			expire = append(expire, Request{Kind: Expire, Transfer: s.id(s.due[i].record)})
		}
		walk(2*i + 1)
		walk(2*i + 2)
	}
	walk(0)
	if len(s.due) > 0 {
		next = s.due[0].time
	}
	return expire, next
}

// forget drops what is first in the heap and was ended otherwise.
func (s *State) forget() {
	for len(s.due) > 0 && !s.open(s.due[0].record) {
		heap.Pop(&s.due)
	}
}

func (s *State) open(rec uint32) bool {
	r := s.roots[rec]
	return r != nil && (r.status == statusHeld || r.status == statusClaimable) && r.remaining > 0
}
