// Package ledger is double-entry bookkeeping as a deterministic state machine: accounts, transfers of two or more legs,
// holds, claimable transfers, refunds, idempotency keys, and transfers between shards. It is pure: no clock, no I/O, no
// locks. The same State runs behind pay's file and etcd engines and in the harness' bank node.
//
// # Money
//
// An amount is a whole number of a currency's minor units in an int64. A leg is an amount that one account pays (negative,
// a debit) or receives (positive, a credit); the legs of a transfer add up to zero, so the balances of a currency always
// do. A liability account (a wallet: what we owe) shows credits minus debits, an asset account (a bank account of ours)
// debits minus credits; neither may go below zero, counting what is held, unless it allows overdraft.
//
// # Records
//
// Every accepted request appends one record, numbered from 1 without gaps; records never change. Transfer ids and events
// are made of their numbers. A capture, refund, claim, void, return or expiry is a record of its own whose parent is the
// hold, claimable or transfer that it acts on; what is still open of a parent is kept beside it.
//
// # Keys
//
// A key names a request. The first request under it decides for ever: the same request again gets the same answer, also
// when that was a refusal; another one gets KeyReused.
//
// # Shards
//
// Accounts belong to shards by their ids; each shard has a State and a log of its own. A transfer whose accounts are of
// several shards goes in steps, each one entry of one log, each balanced in its own shard by that shard's transit account:
//
//	home    Move, Capture, Refund, Claim: what is paid here goes into transit; the record is settling
//	others  Prepare: what is paid there goes into transit; or the shard rejects, for good
//	home    Decide: commit if nobody rejected: what is received here comes out of transit; or abort: paid back
//	others  Finish: the same there
//
// Steps may be repeated, by anybody, at any time; each has an effect once. Cancel is a Prepare that rejects, unless the
// shard has prepared already. It is two-phase commit (Gray 1978), whose coordinator is a log and so does not get lost.
package ledger

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
)

// Limits of requests.
const (
	AccountBytesMax   = 64  // of an account's id
	UserBytesMax      = 64  // of By and Recipient
	MemoBytesMax      = 256 // of a memo
	ReferenceBytesMax = 64
	LegsMax           = 16 // of a transfer
	CallRequestsMax   = 1000
	AmountMax         = 1<<62 - 1 // of a balance, either way: the sum of two fits an int64
)

// Key names a request: the same key is never two effects.
type Key [16]byte

// NewKey makes the key of a user's Idempotency-Key: the first half of SHA-256 over both.
func NewKey(user, key string) Key {
	sum := sha256.Sum256([]byte(strconv.Itoa(len(user)) + ":" + user + key))
	return Key(sum[:16])
}

// shardOf says which of n shards remembers the key.
func (k Key) shardOf(n int) int { return int(binary.LittleEndian.Uint64(k[:]) % uint64(n)) }

// ID names a record: its shard, its number there, and its time, by which ids sort as text.
type ID struct {
	Time   int64 // Unix milliseconds
	Shard  uint16
	Record uint32
}

// Prefixes of ids as text.
const (
	transferPrefix = "tr_"
	accountPrefix  = "acct_"
	systemPrefix   = "@"
)

var idEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// String returns the 20 characters that stand behind an id's prefix.
func (id ID) String() string {
	var b [12]byte
	binary.BigEndian.PutUint64(b[:8], uint64(id.Time)<<16|uint64(id.Shard))
	binary.BigEndian.PutUint32(b[8:], id.Record)
	return strings.ToLower(idEncoding.EncodeToString(b[:]))
}

// parseID reads what String wrote; false for anything else.
func parseID(text string) (ID, bool) {
	var b [12]byte
	if len(text) != 20 || strings.ToLower(text) != text {
		return ID{}, false
	}
	if n, err := idEncoding.Decode(b[:], []byte(strings.ToUpper(text))); err != nil || n != len(b) {
		return ID{}, false
	}
	high := binary.BigEndian.Uint64(b[:8])
	id := ID{Time: int64(high >> 16), Shard: uint16(high), Record: binary.BigEndian.Uint32(b[8:])}
	return id, id.String() == text && id.Record > 0
}

// ParseTransfer reads a transfer's id ("tr_…"); false for anything else.
func ParseTransfer(text string) (ID, bool) {
	rest, ok := strings.CutPrefix(text, transferPrefix)
	if !ok {
		return ID{}, false
	}
	return parseID(rest)
}

// ShardOf says which of n shards an account belongs to: the one in its id if the ledger made the id, otherwise by a hash.
func ShardOf(account string, n int) int {
	if rest, ok := strings.CutPrefix(account, accountPrefix); ok {
		if id, ok := parseID(rest); ok {
			return int(id.Shard) % n
		}
	}
	if _, shard, ok := cutSystem(account); ok {
		return shard % n
	}
	h := fnv.New64a()
	h.Write([]byte(account)) // never fails
	x := h.Sum64()
	x = (x ^ x>>33) * 0xff51afd7ed558ccd // FNV alone leaves short ids that differ in a letter together
	return int((x ^ x>>33) % uint64(n))
}

// The system accounts of a shard hold what is between accounts.
const (
	transit = "transit" // on its way between shards
	claims  = "claims"  // kept for recipients without an account
)

// systemAccount names one: "@transit.KRW.0".
func systemAccount(what string, c Currency, shard int) string {
	return systemPrefix + what + "." + c.String() + "." + strconv.Itoa(shard)
}

func cutSystem(account string) (what string, shard int, ok bool) {
	rest, ok := strings.CutPrefix(account, systemPrefix)
	if !ok {
		return "", 0, false
	}
	parts := strings.Split(rest, ".")
	if len(parts) != 3 {
		return "", 0, false
	}
	shard, err := strconv.Atoi(parts[2])
	return parts[0], shard, err == nil && shard >= 0 && strconv.Itoa(shard) == parts[2]
}

// ValidAccount says what is wrong with an account's id that a client chose; nil: nothing. It has 1 to 64 of A-Z, a-z, 0-9,
// '.', '_', ':' and '-', and does not look like one that the ledger makes.
func ValidAccount(id string) error {
	if len(id) == 0 || len(id) > AccountBytesMax {
		return fmt.Errorf("has %d characters, want 1 to %d", len(id), AccountBytesMax)
	}
	if strings.HasPrefix(id, accountPrefix) {
		return fmt.Errorf("begins with %q, which is reserved for ids that are made here", accountPrefix)
	}
	if strings.Trim(id, ".") == "" {
		return fmt.Errorf("is %q, which cannot be part of a URL", id)
	}
	for _, c := range []byte(id) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == ':', c == '-':
		default:
			return fmt.Errorf("has %q; want letters, digits, '.', '_', ':' and '-'", c)
		}
	}
	return nil
}

// Code says why a request was refused; 0: it was not.
type Code uint8

// Refusals. They are final for the key of their request.
const (
	AccountUnknown Code = 1 + iota
	AccountExists
	AccountClosed
	AccountNotEmpty // it has a balance, or money on its way
	TransferUnknown
	CurrencyMismatch
	LegsInvalid
	Forbidden         // not the caller's to move
	InsufficientFunds // available would go below zero
	LimitExceeded
	HoldExpired
	NotPending    // captured, voided, expired, claimed or returned before; or nothing that this can be done to
	AmountExceeds // more than remains, or more than was captured
	RefundLegsNeeded
	BalanceOverflow
	LinkedFailed // another request of its chain was refused
	LinkedAcross // a chain's requests must all be of one shard
	PreconditionFailed
	KeyReused // the key names another request; not final, as it is about the key itself
	Cancelled
	codes
)

var codeTexts = [codes]string{"", "account-unknown", "account-exists", "account-closed", "account-not-empty",
	"transfer-unknown", "currency-mismatch", "legs-invalid", "forbidden", "insufficient-funds", "limit-exceeded",
	"hold-expired", "not-pending", "amount-exceeds", "refund-legs-needed", "balance-overflow", "linked-failed",
	"linked-across-shards", "precondition-failed", "idempotency-key-reused", "cancelled"}

// String returns the code as the API has it: "insufficient-funds".
func (c Code) String() string {
	if c < codes {
		return codeTexts[c]
	}
	return "code-" + strconv.Itoa(int(c))
}

// Codes lists all refusals.
func Codes() []Code {
	all := make([]Code, 0, codes-1)
	for c := Code(1); c < codes; c++ {
		all = append(all, c)
	}
	return all
}

// Result is what came of a request.
type Result struct {
	Record   uint32 // that it made; 0: none
	Refused  Code
	Leg      uint8 // that was refused, or account, from 0, where one is at fault
	Replayed bool  // it was done before, under the same key
	Settling bool  // the record is on its way between shards
}

// Explain says a refusal in words, which depend on the request and the result alone.
func Explain(q *Request, result Result) string {
	account := q.Account
	if int(result.Leg) < len(q.Legs) {
		account = q.Legs[result.Leg].Account
	}
	transfer := transferPrefix + q.Transfer.String()
	if q.Transfer == (ID{}) {
		transfer = "the transfer"
	}
	switch result.Refused {
	case AccountUnknown:
		return fmt.Sprintf("there is no account %q", account)
	case AccountExists:
		return fmt.Sprintf("account %q exists", account)
	case AccountClosed:
		return fmt.Sprintf("account %q is closed", account)
	case AccountNotEmpty:
		return fmt.Sprintf("account %q has a balance, a hold, or money on its way", account)
	case TransferUnknown:
		return fmt.Sprintf("there is no transfer %s", transfer)
	case CurrencyMismatch:
		if account == "" {
			return transfer + " is in another currency"
		}
		return fmt.Sprintf("account %q is in another currency", account)
	case LegsInvalid:
		return "the legs do not add up, or name an account twice or one that has no part in this"
	case Forbidden:
		return "this is not the caller's to do"
	case InsufficientFunds:
		return fmt.Sprintf("account %q has less available than this takes", account)
	case LimitExceeded:
		return fmt.Sprintf("this exceeds a limit of account %q", account)
	case HoldExpired:
		return transfer + " has expired"
	case NotPending:
		return transfer + " has nothing open that this could be done to"
	case AmountExceeds:
		return "the amount is more than what is left of " + transfer
	case RefundLegsNeeded:
		return fmt.Sprintf("several accounts received %s: legs must say who gives back how much", transfer)
	case BalanceOverflow:
		return fmt.Sprintf("account %q cannot hold so much", account)
	case LinkedFailed:
		return "another request that it is linked with was refused"
	case LinkedAcross:
		return fmt.Sprintf("linked requests must be of accounts of one shard, and %q is of another", account)
	case PreconditionFailed:
		return "the account has changed since the version of If-Match"
	case KeyReused:
		return "this Idempotency-Key was used for another request"
	case Cancelled:
		return "it was cancelled before it was done"
	}
	return ""
}
