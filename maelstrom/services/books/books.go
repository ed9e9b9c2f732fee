// Package books judges a run of pay: pure functions from what its clients asked and were answered to what is wrong with it.
//
// The events of the outbox are the order in which everything happened. From them alone a second, simpler ledger is kept here
// (replay.go), and everything that clients were told must agree with it: each acknowledged request stands in it once and as
// it was answered, what was refused and what nobody asked for does not; no account pays what it has not; statements,
// balances and the totals of holds are its own; a transfer between shards, each of which has an order of its own, is decided
// once and done alike in all of them (cross.go); and whoever read an account, however early, read a state that was the
// account's at some moment of the reading.
package books

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// The outcomes that pay names in its errors.
const (
	NotApplied = "not_applied"
	Unknown    = "unknown"
)

// Money is an amount of minor units.
type Money struct {
	Amount   int64  `json:"amount,string"`
	Currency string `json:"currency"`
}

// A Leg is what one account gets of a transfer; negative: what it pays.
type Leg struct {
	Account string `json:"account"`
	Amount  Money  `json:"amount"`
}

// A Transfer is what pay shows of a transfer, or of what was done with one. The totals are shown of what has any.
type Transfer struct {
	ID        string `json:"id"`
	Kind      string `json:"kind"`
	Status    string `json:"status"`
	Parent    string `json:"parent"`
	Amount    Money  `json:"amount"`
	Legs      []Leg  `json:"legs"`
	Memo      string `json:"memo"`
	Captured  *Money `json:"captured"`
	Voided    *Money `json:"voided"`
	Remaining *Money `json:"remaining"`
	Refunded  *Money `json:"refunded"`
}

// An Account is what pay shows of an account; without money in events, where it is shown as it was made.
type Account struct {
	ID        string `json:"id"`
	Currency  string `json:"currency"`
	Kind      string `json:"kind"`
	Owner     string `json:"owner"`
	Overdraft bool   `json:"overdraft"`
	Posted    *Money `json:"posted"`
	Held      *Money `json:"held"`
	Available *Money `json:"available"`
	Entries   int    `json:"entries"`
	Version   int    `json:"version"`
}

// An Entry is a line of a statement. Amount and Balance are as the account counts.
type Entry struct {
	Entry    int    `json:"entry"`
	Transfer string `json:"transfer"`
	Kind     string `json:"kind"`
	Amount   int64  `json:"amount,string"`
	Balance  int64  `json:"balance,string"`
	Memo     string `json:"memo"`
}

// A Statement is a page of an account's entries.
type Statement struct {
	Account string  `json:"account"`
	Opening int64   `json:"opening,string"`
	Closing int64   `json:"closing,string"`
	Items   []Entry `json:"items"`
	Next    string  `json:"next"`
}

// An Event is one of the outbox.
type Event struct {
	ID       string          `json:"id"`
	Source   string          `json:"source"`
	Type     string          `json:"type"`
	Subject  string          `json:"subject"`
	Sequence int64           `json:"sequence,string"`
	Data     json.RawMessage `json:"data"`
}

// Transfer is what the event is about; false if that is an account.
func (e *Event) Transfer() (t Transfer, ok bool) {
	if strings.Contains(e.Type, ".account.") {
		return t, false
	}
	ok = json.Unmarshal(e.Data, &t) == nil && t.ID != ""
	return t, ok
}

// A Problem is an error as pay answers it.
type Problem struct {
	Code      string `json:"code"`
	Status    int    `json:"status"`
	Retryable bool   `json:"retryable"`
	Outcome   string `json:"outcome"`
}

// An Answer is a final one: it says what became of a request for ever.
type Answer struct {
	Node     string
	Asked    time.Duration // when this attempt was
	At       time.Duration
	Status   int
	Body     []byte
	Replayed bool // the node says that it is the answer to an earlier attempt
}

// A Request is one that changes something, with all attempts to have it answered.
type Request struct {
	User, Key    string
	Method, Path string
	IfMatch      string        // header; the payer's account must be so
	Body         []byte        // as it was sent each time
	Asked        time.Duration // the first time
	Answers      []Answer      // in the order in which they came
	Unsure       int           // attempts after which it may have been done, or may yet be
	Declined     int           // attempts after which it was not, says the node, and was not for good
	Strange      []string      // answers that make no sense
}

// A Decision says what became of a request.
type Decision uint8

// Open: nobody knows. Never: every attempt was declined, and there will be no more.
const (
	Open Decision = iota
	Applied
	Refused
	Never
)

// Decision returns what is known.
func (r *Request) Decision() Decision {
	switch {
	case len(r.Answers) > 0 && r.Answers[0].Status/100 == 2:
		return Applied
	case len(r.Answers) > 0:
		return Refused
	case r.Unsure == 0:
		return Never
	}
	return Open
}

// Final says whether an answer is final; that to a batch is if it is of every item. unsure: the request may have been done,
// in part, or may yet be.
func Final(status int, body []byte) (final, unsure bool) {
	var p Problem
	switch {
	case status/100 == 2:
		final = complete(body)
		return final, !final
	case json.Unmarshal(body, &p) != nil:
		return false, true
	case 400 <= status && status < 500 && !p.Retryable && p.Outcome != Unknown:
		return true, false
	}
	return false, p.Outcome != NotApplied
}

// complete says whether no item of a batch, if it is one, is still open.
func complete(body []byte) bool {
	var batch struct {
		Items []struct {
			Status  int
			Problem json.RawMessage
		}
	}
	if json.Unmarshal(body, &batch) != nil {
		return true // the checks say so
	}
	for _, item := range batch.Items {
		if final, _ := Final(item.Status, item.Problem); item.Status/100 != 2 && !final {
			return false
		}
	}
	return true
}

// A Read is an account as a node told of it.
type Read struct {
	Node            string
	Asked, Answered time.Duration
	Account         Account
}

// A Page is a statement from its first entry on, as a node told of it.
type Page struct {
	Node            string
	Asked, Answered time.Duration
	Statement       Statement
}

// A Poll is a page of the events behind a cursor, in one chain of polls.
type Poll struct {
	Node   string
	Chain  string
	Events []Event
}

// A View is what one node says at the end.
type View struct {
	Node       string
	Accounts   map[string]Account
	Statements map[string][]Statement // all pages
	Events     []Event
	Transfers  map[string]Transfer
	Err        error // why not all could be fetched
}

// A History is all that was asked and answered.
type History struct {
	Requests []*Request
	Reads    []Read
	Pages    []Page
	Polls    []Poll
	Views    []View
}

const reasonsMax = 3 // examples of one check

// Some returns the first of what a check complains of, and how many more there are.
func Some(wrong []string) []string {
	if n := len(wrong) - reasonsMax; n > 0 {
		return append(wrong[:reasonsMax:reasonsMax], fmt.Sprintf("and %d more like the last", n))
	}
	return wrong
}

// equal compares JSON texts but for spaces and the order of members.
func equal(a, b []byte) bool {
	var x, y any
	if decode(a, &x) != nil || decode(b, &y) != nil {
		return bytes.Equal(a, b)
	}
	xs, _ := json.Marshal(x)
	ys, _ := json.Marshal(y)
	return bytes.Equal(xs, ys)
}

func decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return d.Decode(v)
}
