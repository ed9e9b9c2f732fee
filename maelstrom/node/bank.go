package node

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"dongne/internal/sharedlog"
	"dongne/pay/ledger"
)

const (
	// bankDelay is how long requests wait for company: they then share a slot.
	bankDelay = 20 * time.Millisecond
	// bankAccountsMax bounds the accounts, as a read shows all of them.
	bankAccountsMax = 100
	// bankHoldsMax bounds the holds that a bank knows by the names that clients gave them.
	bankHoldsMax = 1 << 16
	// bankIDBytesMax bounds those names, and the ids of all that clients ask for.
	bankIDBytesMax = ledger.ReferenceBytesMax
)

// bankCash is the account that pays what the others open with.
const bankCash = "bank:cash"

func bankSpec() Spec { return newBankSpec(func(Start) bankMachine { return newBank() }) }

// bankMachine is a *bank, or a mutant of it.
type bankMachine = sharedlog.Machine[bankRequest, bankResult]

type bankPrepared = sharedlog.Prepared[bankResult]

// bankCalls says what the ledger is asked for when a client asks for something.
type bankCalls = func(bankRequest) []ledger.Request

func newBankSpec(machine func(Start) bankMachine) Spec {
	return Spec{
		Name:     "bank",
		Help:     "keeps accounts with the ledger and the shared log of pay, in seq-kv: --store seq-kv|lin-kv, --delay 20ms",
		Requests: []string{"open", "transfer", "hold", "capture", "void", "refund", "read", "forward"},
		New: func(s Start) (Program, error) {
			store, delay, err := readBankOptions(s.Args)
			if err != nil {
				return nil, err
			}
			return &bankProgram{log: newReplicated(s, store, delay, machine(s))}, nil
		},
	}
}

func readBankOptions(args []string) (store string, delay time.Duration, err error) {
	store, delay = "seq-kv", bankDelay
	for len(args) > 0 {
		option, value, joined := strings.Cut(args[0], "=")
		if args = args[1:]; !joined && len(args) > 0 {
			value, args = args[0], args[1:]
		}
		switch option {
		case "--store":
			if store = value; value != "seq-kv" && value != "lin-kv" {
				return "", 0, fmt.Errorf("node: --store %q: want seq-kv or lin-kv", value)
			}
		case "--delay":
			if delay, err = time.ParseDuration(value); err != nil || delay < 0 {
				return "", 0, fmt.Errorf("node: --delay %q: want a duration like 20ms", value)
			}
		default:
			return "", 0, fmt.Errorf("node: unknown argument %q: want --store or --delay", option)
		}
	}
	return store, delay, nil
}

// bankProgram is a Program that answers when what was asked for stands in the log. So it does with reads: they are fresh.
type bankProgram struct {
	log  *replicated[bankRequest, bankResult]
	send []Message
}

// bankRequest is what a client asks for, as it travels between nodes.
type bankRequest struct {
	Kind     string           `json:"k"`           // the type of the client's request
	ID       string           `json:"i,omitempty"` // the same: the same effect, and no second one
	From     string           `json:"f,omitempty"`
	To       string           `json:"t,omitempty"`
	Amount   int64            `json:"n,omitempty"`
	Hold     string           `json:"h,omitempty"` // the ID of one
	Accounts map[string]int64 `json:"a,omitempty"` // of open: what each has
}

// bankResult is a refusal, or, for a read, what every account has and how much of that is held.
type bankResult struct {
	Refused  string              `json:"x,omitempty"`
	Balances map[string][2]int64 `json:"b,omitempty"`
}

// Receive implements Program.
func (p *bankProgram) Receive(now time.Duration, src string, data json.RawMessage) {
	if p.log.receive(now, src, data) {
		return
	}
	r, answer := parseRequest(data)
	if answer == nil {
		answer = p.begin(now, src, r, data)
	}
	p.send = append(p.send, r.reply(src, answer)...)
}

// begin returns the answer, if there is one already.
func (p *bankProgram) begin(now time.Duration, src string, r request, data json.RawMessage) body {
	q, problem := readBankRequest(r.Type, data)
	switch {
	case q.Kind == "":
		return r.unsupported()
	case problem != "":
		return refuse(codeMalformedRequest, "%s: %s", r.Type, problem)
	}
	p.log.ask(now, q, func(result bankResult, err error) {
		answer := body{"type": r.Type + "_ok"}
		switch {
		case err != nil:
			answer = refusal(err)
		case result.Refused != "":
			answer = refuse(codePreconditionFailed, "%s", result.Refused)
		case r.Type == "read":
			answer["balances"] = shownBalances(result.Balances)
		}
		p.send = append(p.send, r.reply(src, answer)...)
	})
	return nil
}

func shownBalances(all map[string][2]int64) map[string]body {
	shown := make(map[string]body, len(all))
	for name, of := range all {
		shown[name] = body{"posted": of[0], "held": of[1]}
	}
	return shown
}

// readBankRequest reads a client's request, and says what is wrong with it; its Kind is "" for an unknown type.
func readBankRequest(kind string, data json.RawMessage) (q bankRequest, problem string) {
	var asked struct {
		ID, From, To, Hold string
		Amount             int64
		Accounts           map[string]int64
	}
	if err := json.Unmarshal(data, &asked); err != nil {
		problem = err.Error()
	}
	q = bankRequest{Kind: kind}
	switch kind {
	case "read":
		return q, ""
	case "open":
		q.Accounts = asked.Accounts
		return q, cmp.Or(problem, wrongAccounts(q.Accounts))
	case "transfer", "hold":
		q.From, q.To, q.Amount = asked.From, asked.To, asked.Amount
		if q.From == q.To || wrongAccount(q.From) || wrongAccount(q.To) || q.Amount <= 0 {
			problem = cmp.Or(problem, `want two accounts as "from" and "to", and an "amount" above 0`)
		}
	case "capture", "void", "refund":
		if q.Hold = asked.Hold; q.Hold == "" {
			problem = cmp.Or(problem, `want the id of a "hold"`)
		}
	default:
		return bankRequest{}, ""
	}
	if q.ID = asked.ID; q.ID == "" || len(q.ID) > bankIDBytesMax {
		problem = cmp.Or(problem, fmt.Sprintf(`want an "id" of 1 to %d bytes`, bankIDBytesMax))
	}
	return q, problem
}

func wrongAccounts(accounts map[string]int64) string {
	if len(accounts) == 0 || len(accounts) > bankAccountsMax {
		return fmt.Sprintf(`want 1 to %d "accounts"`, bankAccountsMax)
	}
	for _, name := range slices.Sorted(maps.Keys(accounts)) {
		if wrongAccount(name) || accounts[name] < 0 {
			return fmt.Sprintf("the account %.80q cannot be opened with %d", name, accounts[name])
		}
	}
	return ""
}

// wrongAccount says that no account of a client can have that name.
func wrongAccount(name string) bool { return ledger.ValidAccount(name) != nil || name == bankCash }

// Persisted implements Program.
func (p *bankProgram) Persisted(time.Duration, int) {}

// Ready implements Program.
func (p *bankProgram) Ready(now time.Duration) Output {
	send := p.log.ready(now)
	out := Output{Send: append(send, p.send...)}
	p.send = nil
	return out
}

// Wake implements Program.
func (p *bankProgram) Wake() time.Duration { return p.log.wake() }

// bank is the machine behind a bank: pay's own, whose commands are those that pay would write. It adds the names of holds:
// a client knows a hold by the id with which it asked for it, the ledger by a number of its own.
type bank struct {
	ledger.Machine
	holds map[string]ledger.ID
	named []string // holds, those that came first are forgotten first
}

func newBank() *bank {
	return &bank{Machine: ledger.Machine{State: ledger.NewState(0, 1)}, holds: map[string]ledger.ID{}}
}

var bankCurrency = ledger.Currency{'K', 'R', 'W'}

// calls returns the ledger's requests for a client's.
func (m *bank) calls(q bankRequest) []ledger.Request {
	one := ledger.Request{Any: true, By: "bank", Currency: bankCurrency, Key: ledger.NewKey("deed", q.ID)}
	switch q.Kind {
	case "open":
		return opened(q.Accounts)
	case "transfer", "hold":
		one.Kind = ledger.Move
		one.Legs = []ledger.Leg{{Account: q.From, Amount: -q.Amount}, {Account: q.To, Amount: q.Amount}}
		if q.Kind == "hold" {
			one.Kind, one.Reference = ledger.Hold, q.ID
		}
	case "capture":
		one.Kind, one.Transfer = ledger.Capture, m.holds[q.Hold]
	case "void":
		one.Kind, one.Transfer = ledger.Void, m.holds[q.Hold]
	case "refund":
		one.Kind, one.Transfer = ledger.Refund, m.holds[q.Hold]
	}
	return []ledger.Request{one}
}

// opened returns what opens accounts; where they are, it changes nothing.
func opened(accounts map[string]int64) []ledger.Request {
	open := ledger.Request{Kind: ledger.OpenAccount, Any: true, By: "bank", Currency: bankCurrency}
	open.Account, open.Key, open.Settings.Asset = bankCash, ledger.NewKey("open", bankCash), true
	all := []ledger.Request{open}
	for _, name := range slices.Sorted(maps.Keys(accounts)) {
		open.Account, open.Key, open.Settings.Asset = name, ledger.NewKey("open", name), false
		if all = append(all, open); accounts[name] > 0 {
			legs := []ledger.Leg{{Account: bankCash, Amount: -accounts[name]}, {Account: name, Amount: accounts[name]}}
			all = append(all, ledger.Request{Kind: ledger.Move, Any: true, By: "bank", Currency: bankCurrency,
				Key: ledger.NewKey("fund", name), Legs: legs})
		}
	}
	return all
}

// Prepare implements sharedlog.Machine. A read shows what was before the slot: all that was acknowledged when it came.
func (m *bank) Prepare(at sharedlog.Position, requests []bankRequest) []bankPrepared {
	return m.prepare(at, requests, m.calls)
}

// prepare is Prepare, where calls says what the ledger is asked for.
func (m *bank) prepare(at sharedlog.Position, requests []bankRequest, calls bankCalls) []bankPrepared {
	prepared := make([]bankPrepared, len(requests))
	holds := map[string]bool{} // of this call
	for i, q := range requests {
		if holds[q.ID] = holds[q.ID] || q.Kind == "hold"; holds[q.Hold] {
			prepared[i].Later = true // what the hold's number is, is not known yet
			continue
		}
		prepared[i] = m.one(at, q, calls)
	}
	return prepared
}

func (m *bank) one(at sharedlog.Position, q bankRequest, calls bankCalls) bankPrepared {
	if q.Kind == "read" {
		return bankPrepared{Done: true, Result: bankResult{Balances: m.balances()}}
	}
	call := ledger.NewCall(calls(q)...)
	p := m.Machine.Prepare(at, []*ledger.Call{call})[0]
	if p.Done {
		return bankPrepared{Done: true, Result: resultOf(call.Requests, p.Result)}
	}
	return bankPrepared{Commands: p.Commands}
}

// Apply implements sharedlog.Machine.
func (m *bank) Apply(b *sharedlog.Batch) []bankResult {
	results := make([]bankResult, len(b.Commands))
	for i, came := range m.Machine.Apply(b) {
		requests, err := ledger.Decode(b.Commands[i].Data)
		if err != nil {
			panic("node: " + err.Error()) // the ledger took it
		}
		for k := range requests {
			m.name(&requests[k], came[k])
		}
		results[i] = resultOf(requests, came)
	}
	return results
}

// name remembers a hold by its client's name.
func (m *bank) name(q *ledger.Request, result ledger.Result) {
	if q.Kind != ledger.Hold || result.Refused != 0 || result.Replayed {
		return
	}
	id, ok := ledger.ParseTransfer(m.State.Made(result.Record).ID)
	if !ok {
		panic("node: the ledger made an id that it cannot read")
	}
	m.holds[q.Reference] = id
	if m.named = append(m.named, q.Reference); len(m.named) > bankHoldsMax {
		delete(m.holds, m.named[0])
		m.named = m.named[1:]
	}
}

func resultOf(requests []ledger.Request, results []ledger.Result) bankResult {
	for i, result := range results {
		if result.Refused != 0 {
			return bankResult{Refused: ledger.Explain(&requests[i], result)}
		}
	}
	return bankResult{}
}

// balances returns what every account that was opened has, and what of that is held.
func (m *bank) balances() map[string][2]int64 {
	all := map[string][2]int64{}
	accounts, _ := m.State.Accounts(0, "", bankAccountsMax+1)
	for _, a := range accounts {
		if a.ID == bankCash {
			continue
		}
		posted, err := strconv.ParseInt(a.Posted.Amount, 10, 64)
		held, err2 := strconv.ParseInt(a.Held.Amount, 10, 64)
		if err != nil || err2 != nil {
			panic("node: the ledger shows amounts that are none")
		}
		all[a.ID] = [2]int64{posted, held}
	}
	return all
}

// Snapshot implements sharedlog.Machine: a bank's log is read whole.
func (m *bank) Snapshot() ([]byte, bool) { return nil, false }
