package check

import (
	"fmt"
	"math"
	"slices"

	"dongne/maelstrom/workload"

	"github.com/anishathalye/porcupine"
)

// The search for an order of a bank's operations that explains every answer, and in which none comes before one that ended
// before it began. It is that of Wing and Gong (1993) with Lowe's memory of states that led nowhere (2017), as in
// porcupine. It is exponential in the number of operations of which nobody knows whether they happened; so it is bounded,
// by its steps and not by a clock, so that the same history has the same verdict.
//
// All accounts are searched together first. Where that is too much, each is for itself, which promises less: that every
// account is linearizable.
const (
	searchBytesMax = 256 << 20  // what a search remembers
	searchStepsMax = 20_000_000 // that it tries
)

// everything is instead of an account's number: all are searched.
const everything = -1

// found is what a search found.
type found uint8

const (
	explained found = iota
	unexplained
	tooMuch // for the bounds
)

// serializable judges whether there is an order.
func (b *bankRun) serializable(j *judge) {
	switch end := len(b.Ops); b.search(everything, end) {
	case explained:
	case unexplained:
		j.wrong(b.blame(everything))
	default:
		j.note("there was too much to be searched for one order of all operations: each account was searched for itself")
		var unclear, wrong []string
		for i := range workload.BankAccounts {
			switch b.search(i, end) {
			case unexplained:
				wrong = append(wrong, b.blame(i))
			case tooMuch:
				unclear = append(unclear, fmt.Sprintf("whether account %d is linearizable is not known: "+
					"too many orders of its operations are possible", i))
			}
		}
		j.wrong(wrong...)
		j.unclear(unclear...)
	}
}

// blame says which answer it is that no order explains: the first with which what was answered so far is inexplicable.
func (b *bankRun) blame(account int) string {
	last := firstOf(len(b.Ops), func(end int) bool { return b.search(account, end+1) == unexplained })
	where := "no order of all operations"
	if account != everything {
		where = fmt.Sprintf("no order of the operations on account %d", account)
	}
	last = min(last, len(b.Ops)-1)
	op := &b.Ops[last]
	said := "the " + op.F + " was ok"
	if op.F == "read" {
		said = "the read"
		if i := slices.IndexFunc(b.reads, func(r bankRead) bool { return r.done == last }); i >= 0 {
			said = "the read shows " + b.reads[i].balances.String()
		}
	} else if op.Error.Name != "" {
		said = "the " + op.F + " was refused"
	}
	if op.F != "read" {
		said += ", " + cut(op.Value)
	}
	return fmt.Sprintf("%s explains what %s answered at %s, and all answers before: %s", where, b.node(last), b.at(last), said)
}

// firstOf returns the least of 0 to n-1 for which is holds, which then holds for all above; n if there is none.
func firstOf(n int, is func(int) bool) int {
	low, high := 0, n
	for low < high {
		if middle := low + (high-low)/2; is(middle) {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return low
}

// search looks for an order of what was answered before the end of the history, an index.
func (b *bankRun) search(account, end int) found {
	// Deeds whose end is not known are put last first, as if they had not happened, for that is quick, and often enough.
	if result := b.order(account, end, false); result == explained {
		return explained
	}
	return b.order(account, end, true)
}

// order is one search; with unsure it also tries the deeds of which nobody knows.
func (b *bankRun) order(account, end int, unsure bool) found {
	m := newBankModel(account, b.entries(account, end, unsure), b.holds)
	result := porcupine.CheckOperations(m.model(), m.entries)
	switch {
	case m.exhausted():
		return tooMuch
	case result:
		return explained
	}
	return unexplained
}

// entries returns the deeds and reads that concern an account. Those that end later than the end are as if nobody knew.
func (b *bankRun) entries(account, end int, unsure bool) (all []porcupine.Operation) {
	for _, d := range b.deeds {
		known := d.done >= 0 && d.done < end
		switch {
		case d.invoked >= end || !d.concerns(account, known && d.refused):
		case known:
			outcome := outcomeOK
			if d.refused {
				outcome = outcomeRefused
			}
			all = append(all, entry(d, outcome, d.invoked, int64(d.done)))
		case unsure:
			all = append(all, entry(d, outcomeUnsure, d.invoked, math.MaxInt64))
		}
	}
	for i := range b.reads {
		if r := &b.reads[i]; r.done < end {
			all = append(all, entry(r, outcomeOK, r.invoked, int64(r.done)))
		}
	}
	return all
}

func entry(what any, outcome outcome, invoked int, done int64) porcupine.Operation {
	return porcupine.Operation{Input: what, Output: outcome, Call: int64(invoked), Return: done}
}

// concerns says whether a deed matters for an account. A refusal does if the account alone decided it.
func (d *deed) concerns(account int, refused bool) bool {
	switch {
	case account == everything:
		return true
	case refused:
		return account == d.from && d.kind != "refund"
	}
	return account == d.from || account == d.to
}

type outcome uint8

const (
	outcomeOK outcome = iota
	outcomeRefused
	outcomeUnsure
)

// bankModel is a bank with one operation after the other, of one account or all.
type bankModel struct {
	account int
	entries []porcupine.Operation
	holds   int
	steps   int // left
	kept    int // states that may still be kept
}

// bankState is what a bank has. The status of hold n is byte n of holds; the text is never changed.
type bankState struct {
	balances
	holds string
}

// The statuses of holds. A hold that was refused stays unknown.
const (
	holdUnknown = iota
	holdOpen
	holdCaptured
	holdOver // voided or refunded
)

func newBankModel(account int, entries []porcupine.Operation, holds int) *bankModel {
	const stateBytes = 300 // and what is around it
	return &bankModel{account: account, entries: entries, holds: holds, steps: searchStepsMax,
		kept: searchBytesMax / (len(entries)/8 + holds + stateBytes)}
}

func (m *bankModel) exhausted() bool { return m.steps < 0 || m.kept < 0 }

func (m *bankModel) model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return bankState{opening(), string(make([]byte, m.holds))} },
		Step: func(state, input, output any) (bool, any) {
			if m.steps--; m.exhausted() {
				return false, state // from here on all fails, and so it ends soon
			}
			next, ok := m.step(state.(bankState), input, output)
			if ok {
				m.kept--
			}
			return ok, next
		},
	}
}

func (m *bankModel) step(s bankState, input, output any) (next bankState, ok bool) {
	if r, isRead := input.(*bankRead); isRead {
		if m.account == everything {
			return s, s.balances == r.balances
		}
		return s, s.balances[m.account] == r.balances[m.account]
	}
	next, done := m.do(s, input.(*deed))
	switch output.(outcome) {
	case outcomeOK:
		return next, done
	case outcomeRefused:
		return s, !done
	}
	if done {
		return next, true
	}
	return s, true
}

// sees says whether the model knows the account; of others nothing is demanded.
func (m *bankModel) sees(account int) bool { return m.account == everything || m.account == account }

// pays says whether the account has so much available.
func (m *bankModel) pays(s *bankState, account int, amount int64) bool {
	return !m.sees(account) || s.balances[account].available() >= amount
}

// do returns the state after a deed; false if it must be refused. A hold's status is its payer's.
func (m *bankModel) do(s bankState, d *deed) (next bankState, done bool) {
	var before, after byte
	h := d.hold
	switch d.kind {
	case "transfer":
		done = m.pays(&s, d.from, d.amount)
	case "hold":
		h, before, after = d, holdUnknown, holdOpen
		done = m.pays(&s, d.from, d.amount)
	case "capture":
		before, after, done = holdOpen, holdCaptured, true
	case "void":
		before, after, done = holdOpen, holdOver, true
	case "refund":
		before, after = holdCaptured, holdOver
		done = m.pays(&s, d.to, d.amount)
	}
	if !done {
		return s, false
	}
	if d.kind != "transfer" && m.sees(d.from) {
		if h == nil || s.holds[h.number] != before {
			return s, false
		}
		holds := []byte(s.holds)
		holds[h.number] = after
		s.holds = string(holds)
	}
	for _, i := range [...]int{d.from, d.to} {
		if m.sees(i) {
			posted, held := d.shift(i)
			s.balances[i].Posted += posted
			s.balances[i].Held += held
		}
	}
	return s, true
}
