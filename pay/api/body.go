// Package api is pay's HTTP interface without its routes: request bodies and what they ask of the ledger, refusals and
// failures as problems, the results of a batch, and the stream of events.
package api

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"time"
	"unicode/utf8"

	"dongne/internal/serve"
	"dongne/pay/ledger"
)

// Body is what a request's JSON asks for.
type Body interface {
	// Fill makes it a request to the ledger. The error is a problem that names the field, behind at.
	Fill(q *ledger.Request, at string) error
}

// fault is the problem of a body's field.
func fault(code, path, format string, args ...any) error {
	return serve.Problem(http.StatusBadRequest, code, "%q: %s", path, fmt.Sprintf(format, args...))
}

// Limits are an account's limits; what is absent stays as it is.
type Limits struct {
	PerTransfer limit `json:"per_transfer"`
	PerDay      limit `json:"per_day"`
}

func (l *Limits) fill(q *ledger.Request) {
	if l.PerTransfer.given {
		q.Set |= ledger.SetPerTransfer
		q.Settings.PerTransfer = int64(l.PerTransfer.most)
	}
	if l.PerDay.given {
		q.Set |= ledger.SetPerDay
		q.Settings.PerDay = int64(l.PerDay.most)
	}
}

// Open is the body that opens an account.
type Open struct {
	ID        string   `json:"id"`
	Currency  currency `json:"currency"`
	Kind      string   `json:"kind"`
	Overdraft bool     `json:"overdraft"`
	Limits    Limits   `json:"limits"`
}

// Fill implements Body.
func (b Open) Fill(q *ledger.Request, at string) error {
	q.Kind, q.Account, q.Currency = ledger.OpenAccount, b.ID, b.Currency.Currency
	b.Limits.fill(q)
	q.Set = 0 // everything is
	q.Settings.Overdraft = b.Overdraft
	switch b.Kind {
	case "asset":
		q.Settings.Asset = true
	case "", "liability":
	default:
		return fault("request-invalid", at+"kind", "want liability or asset")
	}
	if b.Currency == (currency{}) {
		return fault("request-invalid", at+"currency", "is missing")
	}
	if b.ID != "" {
		if err := ledger.ValidAccount(b.ID); err != nil {
			return fault("request-invalid", at+"id", "%v", err)
		}
	}
	return nil
}

// Change is the body that changes an account.
type Change struct {
	Closed    *bool  `json:"closed"`
	Overdraft *bool  `json:"overdraft"`
	Limits    Limits `json:"limits"`
}

// Fill implements Body.
func (b Change) Fill(q *ledger.Request, at string) error {
	q.Kind = ledger.ChangeAccount
	b.Limits.fill(q)
	if b.Closed != nil {
		q.Set |= ledger.SetClosed
		q.Settings.Closed = *b.Closed
	}
	if b.Overdraft != nil {
		q.Set |= ledger.SetOverdraft
		q.Settings.Overdraft = *b.Overdraft
	}
	if q.Set == 0 {
		return serve.Problem(http.StatusBadRequest, "request-invalid", "nothing is to change: want closed, overdraft or limits")
	}
	return nil
}

// Leg is a leg of a transfer, or a share of one.
type Leg struct {
	Account string `json:"account"`
	Amount  *money `json:"amount"`
}

// Move is the body of a transfer, a hold or a claimable transfer.
type Move struct {
	From      string     `json:"from"`
	To        string     `json:"to"`
	Amount    *money     `json:"amount"`
	Legs      []Leg      `json:"legs"`
	Recipient string     `json:"recipient"`
	Hold      bool       `json:"hold"`
	ExpiresAt *time.Time `json:"expires_at"`
	Memo      string     `json:"memo"`
	Reference string     `json:"reference"`
}

// Fill implements Body.
func (b Move) Fill(q *ledger.Request, at string) error {
	q.Kind, q.Memo, q.Reference, q.Recipient = ledger.Move, b.Memo, b.Reference, b.Recipient
	if b.ExpiresAt != nil {
		q.Expires = b.ExpiresAt.UnixNano()
	}
	err := cmp.Or(text(at+"memo", b.Memo, ledger.MemoBytesMax), text(at+"reference", b.Reference, ledger.ReferenceBytesMax))
	switch {
	case err != nil:
		return err
	case b.ExpiresAt != nil && !b.Hold && b.Recipient == "":
		return fault("request-invalid", at+"expires_at", "only a hold or a transfer to a recipient expires")
	case b.ExpiresAt != nil && (b.ExpiresAt.Year() < yearMin || b.ExpiresAt.Year() > yearMax):
		return fault("request-invalid", at+"expires_at", "want a year from %d to %d", yearMin, yearMax)
	case b.Legs != nil:
		return b.legs(q, at)
	}
	return b.pair(q, at)
}

// yearMin and yearMax keep times within what nanoseconds in 64 bits can say.
const yearMin, yearMax = 1970, 2200

func (b *Move) legs(q *ledger.Request, at string) error {
	if b.From != "" || b.To != "" || b.Amount != nil || b.Recipient != "" || b.Hold {
		return fault("request-invalid", at+"legs", "leaves no place for from, to, amount, recipient and hold")
	}
	if len(b.Legs) < 2 || len(b.Legs) > ledger.LegsMax {
		return fault("legs-invalid", at+"legs", "want 2 to %d", ledger.LegsMax)
	}
	if err := fillLegs(q, b.Legs, at, false); err != nil {
		return err
	}
	var sum int64
	for _, leg := range q.Legs {
		if sum += leg.Amount; sum > ledger.AmountMax || sum < -ledger.AmountMax {
			return fault("legs-invalid", at+"legs", "%v", errAmountRange)
		}
	}
	if sum != 0 {
		return fault("legs-invalid", at+"legs", "add up to %d, not to 0", sum)
	}
	return nil
}

// fillLegs takes over legs that are all of one currency, each of another account. Shares are of amounts above 0.
func fillLegs(q *ledger.Request, legs []Leg, at string, shares bool) error {
	if len(legs) > ledger.LegsMax {
		return fault("legs-invalid", at+"legs", "want at most %d", ledger.LegsMax)
	}
	seen := make(map[string]bool, len(legs))
	for i, leg := range legs {
		path := at + "legs[" + strconv.Itoa(i) + "]"
		if err := account(path+".account", leg.Account); err != nil {
			return err
		}
		switch {
		case leg.Amount == nil:
			return fault("request-invalid", path+".amount", "is missing")
		case leg.Amount.Currency == currency{}:
			return fault("request-invalid", path+".amount.currency", "is missing")
		case leg.Amount.Amount == 0 || shares && leg.Amount.Amount < 0:
			return fault("legs-invalid", path+".amount.amount", "want more than 0")
		case seen[leg.Account]:
			return fault("legs-invalid", path+".account", "%q is there twice", leg.Account)
		case q.Currency != ledger.Currency{} && q.Currency != leg.Amount.Currency.Currency:
			return fault("currency-mismatch", path+".amount.currency", "want %v as before", q.Currency)
		}
		seen[leg.Account] = true
		q.Currency = leg.Amount.Currency.Currency
		q.Legs = append(q.Legs, ledger.Leg{Account: leg.Account, Amount: int64(leg.Amount.Amount)})
	}
	return nil
}

// pair fills in who pays how much, and whom, if that is an account.
func (b *Move) pair(q *ledger.Request, at string) error {
	err := cmp.Or(account(at+"from", b.From), b.Amount.moved(at+"amount"))
	switch {
	case err != nil:
		return err
	case b.Recipient == "":
		err = account(at+"to", b.To)
	case b.To != "" || b.Hold:
		err = fault("request-invalid", at+"recipient", "leaves no place for to and hold")
	case !user.MatchString(b.Recipient):
		err = fault("request-invalid", at+"recipient", "is no user's id")
	}
	if err != nil {
		return err
	}
	if b.From == b.To {
		return fault("legs-invalid", at+"to", "is the account that pays")
	}
	amount := int64(b.Amount.Amount)
	q.Currency, q.Legs = b.Amount.Currency.Currency, []ledger.Leg{{Account: b.From, Amount: -amount}}
	switch {
	case b.Recipient != "":
		q.Kind = ledger.Claimable
		return nil
	case b.Hold:
		q.Kind = ledger.Hold
	}
	q.Legs = append(q.Legs, ledger.Leg{Account: b.To, Amount: amount})
	return nil
}

// user matches the id of a user, as the shell has it.
var user = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// account checks what names an account. One that cannot exist is unknown to the ledger; only its length counts here.
func account(path, id string) error {
	if id == "" {
		return fault("request-invalid", path, "is missing")
	}
	return text(path, id, ledger.AccountBytesMax)
}

func text(path, s string, bytesMax int) error {
	if len(s) > bytesMax {
		return fault("request-invalid", path, "has %d bytes (%d characters), at most %d bytes are possible",
			len(s), utf8.RuneCountInString(s), bytesMax)
	}
	return nil
}

// Capture is the body that captures a hold, or a part of it.
type Capture struct {
	Amount *money `json:"amount"`
	Legs   []Leg  `json:"legs"`
	Final  bool   `json:"final"`
}

// Fill implements Body.
func (b Capture) Fill(q *ledger.Request, at string) error {
	q.Kind, q.Final = ledger.Capture, b.Final
	return fillPart(q, b.Amount, b.Legs, at)
}

// Refund is the body that refunds a transfer or what was captured of a hold, or a part of it.
type Refund struct {
	Amount *money `json:"amount"`
	Legs   []Leg  `json:"legs"`
}

// Fill implements Body.
func (b Refund) Fill(q *ledger.Request, at string) error {
	q.Kind = ledger.Refund
	return fillPart(q, b.Amount, b.Legs, at)
}

// fillPart fills in how much, and the shares of it. Shares without an amount are the amount.
func fillPart(q *ledger.Request, amount *money, legs []Leg, at string) error {
	if amount != nil {
		if err := amount.moved(at + "amount"); err != nil {
			return err
		}
		q.Amount, q.Currency = int64(amount.Amount), amount.Currency.Currency
	}
	if err := fillLegs(q, legs, at, true); err != nil {
		return err
	}
	var sum int64
	for _, leg := range q.Legs {
		if sum += leg.Amount; sum > ledger.AmountMax {
			return fault("legs-invalid", at+"legs", "%v", errAmountRange)
		}
	}
	switch {
	case len(legs) == 0:
	case amount == nil:
		q.Amount = sum
	case sum != q.Amount:
		return fault("legs-invalid", at+"legs", "add up to %d, not to %d", sum, q.Amount)
	}
	return nil
}

// Void is the body of what frees a hold, or takes a claimable transfer back: an empty object.
type Void struct{}

// Fill implements Body.
func (Void) Fill(q *ledger.Request, _ string) error {
	q.Kind = ledger.Void
	return nil
}

// Claim is the body that claims a transfer for an account.
type Claim struct {
	Account string `json:"account"`
}

// Fill implements Body.
func (b Claim) Fill(q *ledger.Request, at string) error {
	q.Kind, q.Account = ledger.Claim, b.Account
	return account(at+"account", b.Account)
}
