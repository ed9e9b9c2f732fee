package node

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"dongne/internal/sharedlog"
	"dongne/pay/ledger"
)

// The bank's mutants are a bank with another machine, or one that speaks otherwise with its store.
func bankMutants() []Mutant {
	mutant := func(name, wrong, nemesis, rule string, spec Spec) Mutant {
		return Mutant{name, "bank", wrong, nemesis, rule, spec, bankSpec()}
	}
	asks := func(calls func(*bank, bankRequest) []ledger.Request) Spec {
		return newBankSpec(func(Start) bankMachine { return &otherwise{newBank(), calls} })
	}
	return []Mutant{
		mutant("bank-debit-first", "writes debits down, and credits with the next entry of its log", "kill", "torn",
			newBankSpec(func(Start) bankMachine { return &debiting{bank: newBank()} })),
		mutant("bank-spends-holds", "lets an account pay what is held of it", "", "overdrawn", asks(spendHolds)),
		mutant("bank-captures-voided", "captures a hold that was voided, too", "", "ended-twice", asks(captureVoided)),
		mutant("bank-refunds-twice", "refunds what it has refunded", "", "ended-twice", asks(refundAgain)),
		mutant("bank-keyless", "takes what is asked for again for something new", "", "wrong-effect",
			newBankSpec(func(s Start) bankMachine { return &otherwise{newBank(), keyless(s)} })),
		mutant("bank-reads-and-writes", "looks whether a slot is free and then writes it, without a cas", "partition", "wrong-effect",
			wrap(bankSpec(), func(p Program, _ Start) Program { return &casless{Program: p, open: map[int64]*overwriting{}} })),
		mutant("bank-old-reads", "shows while it is busy what there was an entry of its log ago", "", "no-order",
			newBankSpec(func(Start) bankMachine { return &remembering{bank: newBank()} })),
	}
}

// otherwise is a bank that asks the ledger for something else than it should.
type otherwise struct {
	*bank
	calls func(*bank, bankRequest) []ledger.Request
}

// Prepare implements sharedlog.Machine.
func (m *otherwise) Prepare(at sharedlog.Position, requests []bankRequest) []bankPrepared {
	return m.prepare(at, requests, func(q bankRequest) []ledger.Request { return m.calls(m.bank, q) })
}

// undecided returns a request's call, and whether its key is new.
func (m *bank) undecided(q bankRequest) (call []ledger.Request, is bool) {
	call = m.calls(q)
	_, known := m.State.Replay(&call[0])
	return call, !known
}

// parties returns who pays a hold, and who gets it; "" if there is no such hold.
func (m *bank) parties(hold string) (t ledger.Transfer, from, to string) {
	t, known := m.State.Transfer(m.holds[hold])
	if !known {
		return t, "", ""
	}
	return t, t.Legs[0].Account, t.Legs[1].Account
}

// spendHolds lets the ledger overdraw accounts, and looks itself whether there is enough; what is held is overlooked.
func spendHolds(m *bank, q bankRequest) []ledger.Request {
	call, isNew := m.undecided(q)
	if q.Kind == "open" {
		for i := range call {
			call[i].Settings.Overdraft = call[i].Kind == ledger.OpenAccount
		}
		return call
	}
	payer, amount := q.From, q.Amount
	if q.Kind == "refund" {
		t, _, to := m.parties(q.Hold)
		payer = to
		fmt.Sscan(t.Amount.Amount, &amount)
	}
	if has, some := m.balances()[payer]; isNew && some && has[0] < amount {
		call[0].Kind, call[0].Transfer = ledger.Void, ledger.ID{} // which there is not: it is refused
	}
	return call
}

// captureVoided moves the money of a hold that was voided.
func captureVoided(m *bank, q bankRequest) []ledger.Request {
	call, isNew := m.undecided(q)
	if t, from, to := m.parties(q.Hold); isNew && q.Kind == "capture" && t.Status == "voided" {
		return m.insteadOf(call, from, to, t)
	}
	return call
}

// refundAgain moves back the money of a hold that was refunded.
func refundAgain(m *bank, q bankRequest) []ledger.Request {
	call, isNew := m.undecided(q)
	t, from, to := m.parties(q.Hold)
	if isNew && q.Kind == "refund" && t.Status == "captured" && t.Refunded.Amount == t.Amount.Amount {
		return m.insteadOf(call, to, from, t)
	}
	return call
}

// insteadOf returns a transfer of a hold's amount, under the key of another call.
func (m *bank) insteadOf(call []ledger.Request, from, to string, hold ledger.Transfer) []ledger.Request {
	var amount int64
	fmt.Sscan(hold.Amount.Amount, &amount)
	other := m.calls(bankRequest{Kind: "transfer", From: from, To: to, Amount: amount})
	other[0].Key = call[0].Key
	return other
}

// keyless gives every call a key of its own.
func keyless(s Start) func(*bank, bankRequest) []ledger.Request {
	count := 0
	return func(m *bank, q bankRequest) []ledger.Request {
		call := m.calls(q)
		if q.Kind != "open" {
			count++
			call[0].Key = ledger.NewKey("keyless", fmt.Sprint(s.ID, s.Incarnation, count))
		}
		return call
	}
}

// debiting writes only the debit of a transfer: the credit is owed, and written with what comes next. Until then its reads
// show it as if it were there. A crash in between leaves nobody who knows of it.
type debiting struct {
	*bank
	owed     []ledger.Request // credits
	debits   []ledger.Request // that were prepared
	credits  []ledger.Request // of these
	settling int              // so many of owed were prepared
}

const bankLimbo = "bank:limbo" // has what was debited

func (m *debiting) halves(q bankRequest) (debit, credit ledger.Request) {
	debit, credit = m.calls(q)[0], m.calls(q)[0]
	debit.Legs[1].Account, credit.Legs[0].Account = bankLimbo, bankLimbo
	credit.Key = ledger.NewKey("credit", q.ID)
	return debit, credit
}

// Prepare implements sharedlog.Machine.
func (m *debiting) Prepare(at sharedlog.Position, requests []bankRequest) []bankPrepared {
	m.Abandon()
	prepared := m.prepare(at, requests, func(q bankRequest) []ledger.Request {
		switch q.Kind {
		case "open":
			accounts := maps.Clone(q.Accounts)
			accounts[bankLimbo] = 0
			return opened(accounts)
		case "transfer":
			debit, credit := m.halves(q)
			m.debits, m.credits = append(m.debits, debit), append(m.credits, credit)
			return []ledger.Request{debit}
		}
		return m.calls(q)
	})
	for i := range prepared {
		p := &prepared[i]
		if p.Result.Balances != nil {
			m.pretend(p.Result.Balances)
		}
		if len(p.Commands) > 0 && m.settling < len(m.owed) {
			m.settling = len(m.owed)
			p.Commands = append([][]byte{ledger.Encode(m.owed)}, p.Commands...)
		}
	}
	return prepared
}

// pretend shows credits that are owed.
func (m *debiting) pretend(all map[string][2]int64) {
	delete(all, bankLimbo)
	for _, credit := range m.owed {
		leg := credit.Legs[1]
		all[leg.Account] = [2]int64{all[leg.Account][0] + leg.Amount, all[leg.Account][1]}
	}
}

// Apply implements sharedlog.Machine.
func (m *debiting) Apply(b *sharedlog.Batch) []bankResult {
	results := m.bank.Apply(b)
	m.owed = slices.Clone(m.owed[m.settling:])
	for i := range m.debits {
		if result, known := m.State.Replay(&m.debits[i]); known && result.Refused == 0 {
			m.owe(m.credits[i])
		}
	}
	m.Abandon()
	return results
}

// owe remembers a credit once.
func (m *debiting) owe(credit ledger.Request) {
	_, paid := m.State.Replay(&credit)
	if !paid && !slices.ContainsFunc(m.owed, func(o ledger.Request) bool { return o.Key == credit.Key }) {
		m.owed = append(m.owed, credit)
	}
}

// Abandon implements sharedlog.Machine.
func (m *debiting) Abandon() { m.debits, m.credits, m.settling = nil, nil, 0 }

// remembering shows what there was before the last entry, if that is not old.
type remembering struct {
	*bank
	before, now map[string][2]int64
	at          int64 // of the last entry
}

const rememberingFor = int64(time.Second)

// Prepare implements sharedlog.Machine.
func (m *remembering) Prepare(at sharedlog.Position, requests []bankRequest) []bankPrepared {
	prepared := m.bank.Prepare(at, requests)
	for i := range prepared {
		if shown := &prepared[i].Result.Balances; *shown != nil && len(m.before) > 0 && at.Time < m.at+rememberingFor {
			*shown = m.before
		}
	}
	return prepared
}

// Apply implements sharedlog.Machine.
func (m *remembering) Apply(b *sharedlog.Batch) []bankResult {
	results := m.bank.Apply(b)
	m.before, m.now, m.at = m.now, m.balances(), b.Time
	return results
}

// casless lets a program that creates slots by cas read them first, and if there is nothing write them.
type casless struct {
	Program
	open map[int64]*overwriting // by msg_id
	send []Message
}

type overwriting struct {
	store      string
	key, value any
}

// Ready implements Program.
func (p *casless) Ready(now time.Duration) Output {
	out := p.Program.Ready(now)
	for i, m := range out.Send {
		if b, is := m.Body.(body); is && b["type"] == "cas" {
			p.open[b["msg_id"].(int64)] = &overwriting{m.To, b["key"], b["to"]}
			out.Send[i].Body = body{"type": "read", "msg_id": b["msg_id"], "key": b["key"]}
		}
	}
	out.Send, p.send = append(out.Send, p.send...), nil
	return out
}

// Receive implements Program.
func (p *casless) Receive(now time.Duration, src string, data json.RawMessage) {
	var r reply
	if json.Unmarshal(data, &r) != nil || r.InReplyTo == nil || p.open[*r.InReplyTo] == nil {
		p.Program.Receive(now, src, data)
		return
	}
	id := *r.InReplyTo
	switch o := p.open[id]; {
	case src != o.store:
		p.Program.Receive(now, src, data)
	case r.Type == "write_ok":
		p.Program.Receive(now, src, fmt.Appendf(nil, `{"type":"cas_ok","in_reply_to":%d}`, id))
	case r.Type == "read_ok":
		p.Program.Receive(now, src, fmt.Appendf(nil, `{"type":"error","code":%d,"in_reply_to":%d}`, codePreconditionFailed, id))
	case r.Code == codeKeyDoesNotExist:
		p.send = append(p.send, Message{o.store, body{"type": "write", "msg_id": id, "key": o.key, "value": o.value}})
	}
}
