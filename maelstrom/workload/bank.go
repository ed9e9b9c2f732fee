package workload

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
)

// The bank's accounts are named "0" to "7". They open with 10 to 80, so that some are soon empty.
const (
	BankAccounts = 8
	bankOpening  = 10 // times the account's number and one
	bankAmounts  = 20 // an amount is 1 to that
)

// BankOpening returns what every account opens with, by its number.
func BankOpening() (opening [BankAccounts]int64) {
	for i := range opening {
		opening[i] = int64(bankOpening * (i + 1))
	}
	return opening
}

// BankValue is the value of an operation of bank that moves or reserves money.
type BankValue struct {
	ID     string `json:"id"`               // an operation that is asked for again has the same
	From   string `json:"from,omitempty"`   // of transfer and hold
	To     string `json:"to,omitempty"`     // "
	Amount int64  `json:"amount,omitempty"` // "
	Hold   string `json:"hold,omitempty"`   // the id of one, of capture, void and refund
}

// How much the workload bank remembers: holds that nobody asked to end yet, holds that somebody did, few, so that several
// want the same one, and operations that may be asked for again.
const (
	bankOpen    = 32
	bankEnded   = 4
	bankRepeats = 16
)

// bank is after Jepsen's test of that name: transfers between accounts, and reads of all balances. It has holds besides,
// and asks for the same again, as a client does who had no answer: that must not be a second effect. Of 16 operations
// 5 are reads, 4 transfers, 2 holds, 2 captures, one each a void and a refund, and one is what was asked for before. Of
// the captures and voids 3 of 4 are of the oldest hold that is open, the others of one that somebody has asked to end.
type bank struct {
	count    int
	open     []string     // holds, the newest
	ended    []string     // "
	captured []string     // holds, the newest of which capture was asked
	asked    []Invocation // the newest
}

func (*bank) Setup(string) any {
	accounts := map[string]int64{}
	for i, amount := range BankOpening() {
		accounts[strconv.Itoa(i)] = amount
	}
	return map[string]any{"type": "open", "accounts": accounts}
}

func (b *bank) Next(r *rand.Rand) Invocation {
	switch kind := r.IntN(16); {
	case kind < 5:
		return Invocation{F: "read"}
	case kind < 9:
		return b.move(r, "transfer")
	case kind < 11 || len(b.open)+len(b.ended) == 0:
		inv := b.move(r, "hold")
		b.open = newest(b.open, strconv.Itoa(b.count), bankOpen)
		return inv
	case kind < 13 || kind == 14 && len(b.captured) == 0:
		hold := b.end(r)
		b.captured = newest(b.captured, hold, bankEnded)
		return b.ask("capture", BankValue{Hold: hold})
	case kind == 13:
		return b.ask("void", BankValue{Hold: b.end(r)})
	case kind == 14:
		return b.ask("refund", BankValue{Hold: b.captured[r.IntN(len(b.captured))]})
	}
	return b.asked[r.IntN(len(b.asked))]
}

// end draws a hold that is to end.
func (b *bank) end(r *rand.Rand) string {
	if len(b.open) == 0 || len(b.ended) > 0 && r.IntN(4) == 0 {
		return b.ended[r.IntN(len(b.ended))]
	}
	hold := b.open[0]
	b.open = b.open[1:]
	b.ended = newest(b.ended, hold, bankEnded)
	return hold
}

// move draws an operation with two accounts.
func (b *bank) move(r *rand.Rand, f string) Invocation {
	from, to := r.IntN(BankAccounts), r.IntN(BankAccounts-1)
	if to >= from {
		to++
	}
	return b.ask(f, BankValue{From: strconv.Itoa(from), To: strconv.Itoa(to), Amount: 1 + r.Int64N(bankAmounts)})
}

func (b *bank) ask(f string, v BankValue) Invocation {
	b.count++
	v.ID = strconv.Itoa(b.count)
	value, err := json.Marshal(v)
	if err != nil {
		panic("workload: " + err.Error()) // our own value
	}
	inv := Invocation{f, value}
	b.asked = newest(b.asked, inv, bankRepeats)
	return inv
}

// newest appends one, and forgets the first of more than that.
func newest[T any](all []T, one T, most int) []T {
	all = append(all, one)
	return all[max(0, len(all)-most):]
}

func (*bank) Final() (Invocation, bool) { return Invocation{F: "read"}, true }

func (*bank) Request(inv Invocation) any {
	if inv.F == "read" {
		return map[string]any{"type": "read"}
	}
	return json.RawMessage(fmt.Appendf(nil, `{"type":%q,%s`, inv.F, inv.Value[1:]))
}

func (*bank) Reply(f string) Shape {
	if f == "read" {
		return Shape{Type: "read_ok", Member: "balances"}
	}
	return Shape{Type: f + "_ok"}
}

func (*bank) Idempotent(f string) bool { return f == "read" }
func (*bank) Reusable() bool           { return false }
func (*bank) Refusable() bool          { return true }
