package ledger_test

import (
	"testing"

	"dongne/internal/sharedlog"
	"dongne/pay/ledger"
)

// book drives one shard by hand: every call is a slot, a second after the one before.
type book struct {
	t     testing.TB
	state *ledger.State
	slot  uint64
}

var krw = ledger.Currency{'K', 'R', 'W'}

func newBook(t testing.TB) *book { return &book{t: t, state: ledger.NewState(0, 1)} }

// do applies requests as one command, and checks the state.
func (b *book) do(requests ...ledger.Request) []ledger.Result {
	b.t.Helper()
	b.slot++
	decoded, err := ledger.Decode(ledger.Encode(requests))
	if err != nil {
		b.t.Fatal(err)
	}
	results := b.state.Apply(sharedlog.Position{Slot: b.slot, Time: int64(b.slot) * 1e9}, decoded)
	if err := b.state.Check(); err != nil {
		b.t.Fatalf("after slot %d: %v", b.slot, err)
	}
	return results
}

// must applies one request that is to succeed, and returns its record's id.
func (b *book) must(q ledger.Request) ledger.ID {
	b.t.Helper()
	result := b.do(q)[0]
	if result.Refused != 0 {
		b.t.Fatalf("%+v is refused: %v", q, result.Refused)
	}
	id, ok := ledger.ParseTransfer(b.state.Made(result.Record).ID)
	if !ok {
		b.t.Fatalf("record %d has no id", result.Record)
	}
	return id
}

func (b *book) refused(code ledger.Code, q ledger.Request) {
	b.t.Helper()
	if result := b.do(q)[0]; result.Refused != code {
		b.t.Fatalf("%+v: result %+v, want %v", q, result, code)
	}
}

func (b *book) open(id string, settings ledger.Settings) {
	b.t.Helper()
	if result := b.do(ledger.Request{Kind: ledger.OpenAccount, Any: true, By: "bank", Account: id, Currency: krw,
		Settings: settings})[0]; result.Refused != 0 {
		b.t.Fatalf("open %q: %v", id, result.Refused)
	}
}

func move(from, to string, amount int64) ledger.Request {
	return ledger.Request{Kind: ledger.Move, Any: true, By: "bank", Currency: krw,
		Legs: []ledger.Leg{{Account: from, Amount: -amount}, {Account: to, Amount: amount}}}
}

func TestHoldCaptureRefund(t *testing.T) {
	b := newBook(t)
	b.open("cash", ledger.Settings{Asset: true})
	b.open("buyer", ledger.Settings{})
	b.open("seller", ledger.Settings{})
	b.open("fee", ledger.Settings{})
	b.must(move("cash", "buyer", 1000))
	hold := move("buyer", "seller", 700)
	hold.Kind = ledger.Hold
	id := b.must(hold)
	b.refused(ledger.InsufficientFunds, move("buyer", "seller", 400))
	b.must(ledger.Request{Kind: ledger.Capture, Any: true, Transfer: id, Amount: 500,
		Legs: []ledger.Leg{{Account: "seller", Amount: 450}, {Account: "fee", Amount: 50}}})
	b.refused(ledger.AmountExceeds, ledger.Request{Kind: ledger.Capture, Any: true, Transfer: id, Amount: 201})
	b.must(ledger.Request{Kind: ledger.Void, Any: true, Transfer: id})
	b.refused(ledger.NotPending, ledger.Request{Kind: ledger.Capture, Any: true, Transfer: id})
	b.refused(ledger.RefundLegsNeeded, ledger.Request{Kind: ledger.Refund, Any: true, Transfer: id, Amount: 100})
	b.must(ledger.Request{Kind: ledger.Refund, Any: true, Transfer: id, Amount: 100,
		Legs: []ledger.Leg{{Account: "seller", Amount: 100}}})
	b.must(ledger.Request{Kind: ledger.Refund, Any: true, Transfer: id})
	b.refused(ledger.NotPending, ledger.Request{Kind: ledger.Refund, Any: true, Transfer: id})
	got, _ := b.state.Transfer(id)
	if got.Status != "captured" || got.Captured.Amount != "500" || got.Voided.Amount != "200" || got.Refunded.Amount != "500" || got.Remaining.Amount != "0" {
		t.Errorf("hold = %+v", got)
	}
	for account, want := range map[string]string{"cash": "1000", "buyer": "1000", "seller": "0", "fee": "0"} {
		if a, _ := b.state.Account(account); a.Posted.Amount != want || a.Held.Amount != "0" {
			t.Errorf("%s has %s, holds %s; want %s", account, a.Posted.Amount, a.Held.Amount, want)
		}
	}
}
