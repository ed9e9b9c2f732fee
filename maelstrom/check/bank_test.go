package check

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"dongne/maelstrom/history"
	"dongne/maelstrom/workload"

	"github.com/anishathalye/porcupine"
	"pgregory.net/rapid"
)

// bankScript returns a run of a bank from lines, each of which takes 10 ms:
//
//	n1 transfer 1 0 3 5        the deed 1, from account 0 to account 3, amount 5: ok
//	n1 hold 2 0 3 5            the same of a hold
//	n1 capture 3 2             of the hold 2; void and refund too
//	n1 refuse void 4 2         refused;  also away: error 11; lose: no answer; begin, and later end
//	n1 read 0-5 3+5 1h7        what accounts have more or less than they opened with, and how much of it is held
//	final                      all that follows is of the last phase
func bankScript(text string) *history.Run {
	s := scripted{run: &history.Run{Workload: "bank"}, processes: map[string]int{}}
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		s.bankLine(strings.Fields(line))
		s.now += 10 * time.Millisecond
	}
	s.run.Elapsed = s.now
	slices.Sort(s.run.Nodes)
	return s.run
}

func (s *scripted) bankLine(words []string) {
	if words[0] == "final" {
		s.final = true
		return
	}
	who, how := words[0], "ok"
	if words = words[1:]; slices.Contains([]string{"refuse", "away", "lose", "begin", "end"}, words[0]) {
		how, words = words[0], words[1:]
	}
	f := words[0]
	asked, answered := bankValue(words), bankValue(words)
	if f == "read" {
		asked = ""
	}
	if how != "end" {
		s.op(who, history.Invoke, f, asked, "")
	}
	switch how {
	case "ok", "end":
		s.op(who, history.OK, f, answered, "")
	case "refuse":
		s.op(who, history.Fail, f, asked, "precondition-failed")
	case "away":
		s.op(who, history.Fail, f, asked, "temporarily-unavailable")
	case "lose":
		s.op(who, history.Info, f, asked, "net-timeout")
	}
}

func bankValue(words []string) string {
	v := workload.BankValue{}
	switch words[0] {
	case "read":
		b := opening()
		for _, change := range words[1:] {
			n, _ := strconv.ParseInt(strings.Trim(change[1:], "+h"), 10, 64)
			if of := &b[change[0]-'0']; change[1] == 'h' {
				of.Held += n
			} else {
				of.Posted += n
			}
		}
		return readValue(b)
	case "transfer", "hold":
		v.ID, v.From, v.To = words[1], words[2], words[3]
		v.Amount, _ = strconv.ParseInt(words[4], 10, 64)
	default:
		v.ID, v.Hold = words[1], words[2]
	}
	text, _ := json.Marshal(v)
	return string(text)
}

func readValue(b balances) string {
	all := map[string]funds{}
	for i, f := range b {
		all[strconv.Itoa(i)] = f
	}
	text, _ := json.Marshal(all)
	return string(text)
}

// Each rule has a history that breaks it, and one that differs as little as possible and is right. Accounts 0, 1, 2 … open
// with 10, 20, 30 …
func TestBankRules(t *testing.T) {
	for _, c := range []struct {
		name, bad, reason string
		want              Verdict
		good              string
	}{
		{"torn", "n1 transfer 1 0 3 5\nn1 read 0-5\nfinal\nn1 read 0-5 3+5", "n1's read at 0.011 s shows 355 in all accounts, and there are 360", False,
			"n1 transfer 1 0 3 5\nn1 read 0-5 3+5\nfinal\nn1 read 0-5 3+5"},
		{"overdrawn", "n1 hold 1 0 3 8\nn1 transfer 2 0 3 8\nfinal\nn1 read 0-8 3+8 0h8", "shows account 0 overdrawn: it has 2, of which 8 are held", False,
			"n1 hold 1 0 3 8\nn1 transfer 2 0 3 2\nfinal\nn1 read 0-2 3+2 0h8"},
		{"held less than nothing", "n1 transfer 1 0 3 1\nfinal\nn1 read 0-1 3+1 2h-1", "shows account 2 overdrawn", False, "n1 transfer 1 0 3 1\nfinal\nn1 read 0-1 3+1"},
		{"captured and voided", "n1 hold 1 0 3 8\nn1 capture 2 1\nn1 void 3 1\nfinal\nn1 read 0-8 3+8",
			"the hold 1 was ended twice: by the capture 2, ok by n1 at 0.011 s, and by the void 3, ok by n1 at 0.021 s", False,
			"n1 hold 1 0 3 8\nn1 capture 2 1\nn1 refuse void 3 1\nfinal\nn1 read 0-8 3+8"},
		{"captured twice", "n1 hold 1 0 3 5\nn1 capture 2 1\nn2 capture 3 1\nfinal\nn1 read 0-10 3+10", "the hold 1 was ended twice", False,
			"n1 hold 1 0 3 5\nn1 capture 2 1\nn2 capture 2 1\nfinal\nn1 read 0-5 3+5\nn2 read 0-5 3+5"},
		{"refunded twice", "n1 hold 1 0 3 5\nn1 capture 2 1\nn1 refund 3 1\nn2 refund 4 1\nfinal\nn1 read 0+5 3-5", "by the refund 3, ok by n1 at 0.021 s, and by the refund 4", False,
			"n1 hold 1 0 3 5\nn1 capture 2 1\nn1 refund 3 1\nn2 refuse refund 4 1\nfinal\nn1 read\nn2 read"},
		{"done and refused", "n1 transfer 1 0 3 5\nn2 refuse transfer 1 0 3 5\nfinal\nn1 read 0-5 3+5\nn2 read 0-5 3+5",
			"the transfer 1 was done and refused: n1 said ok at 0.001 s, n2 refused it at 0.011 s", False,
			"n1 transfer 1 0 3 5\nn2 away transfer 1 0 3 5\nfinal\nn1 read 0-5 3+5\nn2 read 0-5 3+5"},
		{"refused for ever", "n1 refuse transfer 1 0 3 11\nn1 transfer 2 3 0 11\nn1 transfer 1 0 3 11\nfinal\nn1 read", "was done and refused", False,
			"n1 refuse transfer 1 0 3 11\nn1 transfer 2 3 0 11\nn1 refuse transfer 1 0 3 11\nfinal\nn1 read 3-11 0+11"},
		{"done twice", "n1 transfer 1 0 3 5\nn2 transfer 1 0 3 5\nfinal\nn1 read 0-10 3+10\nn2 read 0-10 3+10",
			"n1's final read at 0.031 s shows account 0 with 0, and what was acknowledged makes 5", False,
			"n1 transfer 1 0 3 5\nn2 transfer 1 0 3 5\nfinal\nn1 read 0-5 3+5\nn2 read 0-5 3+5"},
		{"lost", "n1 transfer 1 0 3 5\nn1 transfer 2 1 3 5\nfinal\nn1 read 0-5 3+5", "shows account 1 with 20, and what was acknowledged makes 15", False,
			"n1 transfer 1 0 3 5\nn1 lose transfer 2 1 3 5\nfinal\nn1 read 0-5 3+5"},
		{"done though refused", "n1 transfer 1 0 3 5\nn1 away transfer 2 1 3 5\nfinal\nn1 read 0-5 1-5 3+10", "account 1 with 15, and what was acknowledged makes 20", False,
			"n1 transfer 1 0 3 5\nn1 lose transfer 2 1 3 5\nfinal\nn1 read 0-5 1-5 3+10"},
		{"hold lost", "n1 hold 1 0 3 5\nfinal\nn1 read", "shows account 0 with 0 held, and what was acknowledged makes 5", False, "n1 hold 1 0 3 5\nfinal\nn1 read 0h5"},
		{"unknown, later known", "n1 lose transfer 1 0 3 5\nn2 transfer 1 0 3 5\nfinal\nn1 read\nn2 read", "what was acknowledged makes 5", False,
			"n1 lose transfer 1 0 3 5\nn1/2 read 0-5 3+5\nn2 transfer 1 0 3 5\nfinal\nn1 read 0-5 3+5\nn2 read 0-5 3+5"},
		{"stale read", "n1 transfer 1 0 3 5\nn2 read\nfinal\nn1 read 0-5 3+5\nn2 read 0-5 3+5",
			"no order of all operations explains what n2 answered at 0.011 s, and all answers before: the read shows 0:10 1:20", False,
			"n1 begin transfer 1 0 3 5\nn2 read\nn1 end transfer 1 0 3 5\nfinal\nn1 read 0-5 3+5\nn2 read 0-5 3+5"},
		{"back and forth", "n1 lose transfer 1 0 3 5\nn2 read 0-5 3+5\nn2 read\nfinal\nn1 read\nn2 read", "explains what n2 answered at 0.021 s", False,
			"n1 lose transfer 1 0 3 5\nn2 read\nn2 read 0-5 3+5\nfinal\nn1/2 transfer 9 1 2 1\nn1 read 0-5 3+5 1-1 2+1\nn2 read 0-5 3+5 1-1 2+1"},
		{"refused without reason", "n1 transfer 1 0 3 5\nn1 refuse transfer 2 0 3 5\nfinal\nn1 read 0-5 3+5",
			`explains what n1 answered at 0.011 s, and all answers before: the transfer was refused, {"id":"2"`, False,
			"n1 transfer 1 0 3 5\nn1 refuse transfer 2 0 3 6\nfinal\nn1 read 0-5 3+5"},
		{"taken without funds", "n1 transfer 1 0 3 11\nn1 transfer 2 3 0 11\nfinal\nn1 read", "explains what n1 answered at 0.001 s", False,
			"n1 begin transfer 1 0 3 11\nn2 transfer 2 3 0 11\nn1 end transfer 1 0 3 11\nfinal\nn1 read\nn2 read"},
		{"captured before it was held", "n2 capture 2 1\nn1 hold 1 0 3 5\nfinal\nn1 read 0-5 3+5\nn2 read 0-5 3+5", "no order of", False,
			"n1 begin hold 1 0 3 5\nn2 capture 2 1\nn1 end hold 1 0 3 5\nfinal\nn1 read 0-5 3+5\nn2 read 0-5 3+5"},
		{"captured what was refused", "n1 refuse hold 1 0 3 50\nn1 capture 2 1\nfinal\nn1 read 0-50 3+50", "overdrawn", False,
			"n1 refuse hold 1 0 3 50\nn1 refuse capture 2 1\nn1 hold 3 0 3 1\nfinal\nn1 read 0h1"},
		{"refund refused", "n1 hold 1 3 0 5\nn1 capture 2 1\nn1 transfer 3 0 3 10\nn1 refuse refund 4 1\nfinal\nn1 read 0-5 3+5", "the refund was refused", False,
			"n1 hold 1 3 0 5\nn1 capture 2 1\nn1 transfer 3 0 3 12\nn1 refuse refund 4 1\nfinal\nn1 read 0-7 3+7"},
		{"nothing done", "n1 refuse transfer 1 0 3 50\nfinal\nn1 read", "no transfer or hold was acknowledged", Unknown, "n1 transfer 1 0 3 5\nfinal\nn1 read 0-5 3+5"},
		{"no final read", "n1 transfer 1 0 3 5\nn1 read 0-5 3+5", "there was no final read", Unknown, "n1 transfer 1 0 3 5\nfinal\nn1 read 0-5 3+5"},
		{"final read lost", "n1 transfer 1 0 3 5\nfinal\nn1 read 0-5 3+5\nn2 lose read", "what n2 has at the end is not known", Unknown,
			"n1 transfer 1 0 3 5\nfinal\nn1 read 0-5 3+5\nn2 read 0-5 3+5"},
		{"never answered", "n1 lose transfer 1 0 3 5\nn1 read\nfinal\nn1 read", "not one of 1 transfer operations was ok", False,
			"n1 lose transfer 1 0 3 5\nn1/2 refuse void 2 7\nn1/2 transfer 3 1 2 1\nfinal\nn1/2 read 1-1 2+1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantVerdict(t, bankScript(c.bad), Options{}, c.want, c.reason)
			if c.good != "" {
				wantVerdict(t, bankScript(c.good), Options{}, True, "")
			}
		})
	}
}

func TestBankReadsAreParsed(t *testing.T) {
	for value, want := range map[string]string{
		`[1]`:                         "n1's read at 0.001 s shows no balances: [1]",
		`{"0":{"posted":1,"held":0}}`: "lacks account 1",
		`{"0":{"posted":1,"helb":0}}`: "shows no balances",
		`{"0":{"posted":1.5}}`:        "shows no balances",
		`{"0":null}`:                  "lacks account 0",
		strings.Replace(readValue(opening()), `{"0"`, `{"x":{"posted":0,"held":0},"0"`, 1): "has accounts that there are not",
	} {
		run := bankScript("n1 read\nn1 transfer 1 0 3 5\nfinal\nn1 read 0-5 3+5")
		run.Ops[1].Value = json.RawMessage(value)
		wantVerdict(t, run, Options{}, False, want)
	}
}

// With too much for one search, accounts are searched for themselves, and what is wrong with one is still found.
func TestBankSearchIsBounded(t *testing.T) {
	var unknown strings.Builder // so many subsets of these may have happened
	for i := range 60 {
		fmt.Fprintf(&unknown, "n1/%d lose transfer %d %d %d %d\n", i, i, 1+i%7, 1+(i+1+i/7%6)%7, 1+i%9)
	}
	unknown.WriteString("n1/60 lose transfer 60 0 1 5\n")
	r := wantVerdict(t, bankScript(unknown.String()+"n2 transfer 61 0 2 1\nn2 read 0-6 1+5 2+1\nn2 read 0-1 2+1\nfinal\nn1 read 0-1 2+1\nn2 read 0-1 2+1"),
		Options{}, False, "no order of the operations on account 0 explains what n2 answered at")
	wantNote(t, r, "each account was searched for itself")
}

// A true bank is never found to be wrong: operations that overlap, take effect at some moment in between, and are asked for
// again; some answers get lost.
func TestTrueBanksAreValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		run := trueBank(rand.New(rand.NewPCG(seed, 1)), rapid.IntRange(1, 60).Draw(t, "operations"), rapid.IntRange(1, 6).Draw(t, "clients"))
		if r := Check(run, Options{NemesisAsked: true}); r.Ours == False {
			t.Fatalf("%q", r.Reasons)
		}
	})
}

// trueBank returns the history of a bank that decides each operation at one moment between its invocation and its end.
func trueBank(r *rand.Rand, operations, clients int) *history.Run {
	load, _ := workload.New("bank", nil)
	s := &scripted{run: &history.Run{Workload: "bank"}, processes: map[string]int{}}
	truth := newBankModel(everything, nil, operations)
	state := truth.model().Init().(bankState)
	deeds, outcomes := &bankRun{byID: map[string]*deed{}}, map[string]bool{}
	type open struct {
		who     string
		inv     workload.Invocation
		decided bool
		answer  string // of a read
		ok      bool
	}
	var busy []*open
	decide := func(o *open) {
		o.decided = true
		if o.inv.F == "read" {
			o.answer, o.ok = readValue(state.balances), true
			return
		}
		var v workload.BankValue
		json.Unmarshal(o.inv.Value, &v)
		if before, again := outcomes[v.ID]; again {
			o.ok = before
			return
		}
		d := deeds.byID[v.ID]
		state, o.ok = truth.do(state, d)
		outcomes[v.ID] = o.ok
	}
	for i := 0; i < operations || len(busy) > 0; s.now += time.Millisecond {
		switch kind := r.IntN(3); {
		case kind == 0 && i < operations && len(busy) < clients:
			o := &open{who: fmt.Sprintf("n%d/%d", r.IntN(3), i), inv: load.Next(r)}
			if o.inv.F != "read" {
				var v workload.BankValue
				json.Unmarshal(o.inv.Value, &v)
				if deeds.byID[v.ID] == nil {
					deeds.byID[v.ID] = deeds.newDeed(o.inv.F, v)
				}
			}
			busy = append(busy, o)
			s.op(o.who, history.Invoke, o.inv.F, string(o.inv.Value), "")
			i++
		case len(busy) == 0:
		case kind == 1:
			if o := busy[r.IntN(len(busy))]; !o.decided {
				decide(o)
			}
		default:
			n := r.IntN(len(busy))
			o := busy[n]
			busy = slices.Delete(busy, n, n+1)
			lost := r.IntN(8) == 0
			if !o.decided && !lost {
				decide(o)
			}
			switch {
			case lost:
				s.op(o.who, history.Info, o.inv.F, string(o.inv.Value), "net-timeout")
			case !o.ok:
				s.op(o.who, history.Fail, o.inv.F, string(o.inv.Value), "precondition-failed")
			case o.inv.F == "read":
				s.op(o.who, history.OK, o.inv.F, o.answer, "")
			default:
				s.op(o.who, history.OK, o.inv.F, string(o.inv.Value), "")
			}
		}
	}
	s.run.Elapsed = s.now
	return s.run
}

// Of small histories, right and wrong ones, the search finds what trying all orders finds.
func TestSearchAgreesWithAllOrders(t *testing.T) {
	legal, illegal := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		run := trueBank(r, 6, 3)
		for i := range run.Ops { // some read becomes wrong
			if op := &run.Ops[i]; op.F == "read" && op.Type == history.OK && r.IntN(2) == 0 {
				var b bankRead
				b.parse(op.Value)
				b.balances[r.IntN(2)].Posted++
				b.balances[r.IntN(2)].Posted--
				op.Value = json.RawMessage(readValue(b.balances))
			} else if op.Type == history.Fail && r.IntN(4) == 0 {
				op.Type, op.Error = history.OK, history.Error{}
			}
		}
		b := newBankRun(newOperations(run, Options{}))
		b.readAll()
		m := newBankModel(everything, b.entries(everything, len(run.Ops), true), b.holds)
		want := unexplained
		if anyOrder(m, m.model().Init().(bankState), m.entries) {
			want = explained
			legal++
		} else {
			illegal++
		}
		if got := b.search(everything, len(run.Ops)); got != want {
			t.Fatalf("search = %v, all orders say %v", got, want)
		}
		for i := range workload.BankAccounts {
			if want == explained && b.search(i, len(run.Ops)) != explained {
				t.Fatalf("account %d alone is not explained, and all accounts together are", i)
			}
		}
	})
	if legal == 0 || illegal == 0 {
		t.Errorf("%d legal and %d illegal histories, want some of both", legal, illegal)
	}
}

// anyOrder tries all orders of operations that keep to their times.
func anyOrder(m *bankModel, s bankState, left []porcupine.Operation) bool {
	if len(left) == 0 {
		return true
	}
	for i, one := range left {
		if slices.ContainsFunc(left, func(other porcupine.Operation) bool { return other.Return < one.Call }) {
			continue
		}
		if next, ok := m.step(s, one.Input, one.Output); ok && anyOrder(m, next, slices.Delete(slices.Clone(left), i, i+1)) {
			return true
		}
	}
	return false
}
