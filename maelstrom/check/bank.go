package check

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
	"dongne/maelstrom/workload"
)

// bankRefusal is the error that answers what cannot be done: a bank's word, as an ok is.
const bankRefusal = "precondition-failed"

// funds are what an account has, and how much of it is held.
type funds struct {
	Posted int64 `json:"posted"`
	Held   int64 `json:"held"`
}

func (f funds) available() int64 { return f.Posted - f.Held }

// balances are the funds of all accounts.
type balances [workload.BankAccounts]funds

func opening() (b balances) {
	for i, amount := range workload.BankOpening() {
		b[i].Posted = amount
	}
	return b
}

func (b balances) total() (sum int64) {
	for _, f := range b {
		sum += f.Posted
	}
	return sum
}

// bankRun is what a history says of a bank.
type bankRun struct {
	*operations
	deeds   []*deed // by the first time that each was asked for
	byID    map[string]*deed
	holds   int
	reads   []bankRead // ok, by completion
	repeats int        // deeds asked for again
}

// A deed moves or reserves money. However often it is asked for, it has one effect at most, and one outcome.
type deed struct {
	kind     string
	id       string
	from, to int // accounts; for capture, void and refund those of the hold
	amount   int64
	hold     *deed // of capture, void and refund
	number   int   // of a hold, from 0
	moves    int64 // from payer to payee, if it happens
	reserves int64 // of what the payer has

	invoked int // the first time, in the history; of those that may have been taken
	done    int // the first time that the outcome was said; -1: never
	refused bool
	oks     []int // completions
	refuses []int // "
}

// happened and unsure say what is known when all is over.
func (d *deed) happened() bool { return d.done >= 0 && !d.refused }
func (d *deed) unsure() bool   { return d.done < 0 }

// bankRead is an ok read.
type bankRead struct {
	invoked, done int
	balances
	final bool
}

// checkBank wants what Jepsen's test of a bank wants: every read shows the same total, and no account that has paid more
// than it had, with what is held counted as paid. And more: a deed has one outcome and one effect however often it is asked
// for; a hold ends once; final reads show what was acknowledged; and all operations together are strictly serializable.
func checkBank(ops *operations, j *judge) part {
	b := newBankRun(ops)
	strange := b.readAll()
	torn, negative := b.torn(), b.negative()
	wrong := [][]string{strange, torn, negative, b.endedTwice()}
	if total(wrong) == 0 { // otherwise it is known what is wrong, in clearer words
		wrong = append(wrong, b.undecided(), b.wrongFinals())
	}
	for _, reasons := range wrong {
		j.wrong(reasons...)
	}
	if total(wrong) == 0 {
		b.serializable(j)
	}
	asked := slices.ContainsFunc(ops.Ops, func(op history.Op) bool { return op.Final && op.Type == history.Invoke })
	ops.ends(j, asked)
	b.tested(j)
	return part{j.verdict(), b.fields(len(torn) + len(negative) + len(strange))} // upstream has no bank: its word is ours
}

func newBankRun(ops *operations) *bankRun {
	b := &bankRun{operations: ops, byID: map[string]*deed{}}
	for _, holds := range []bool{true, false} { // holds first: others refer to them
		for i := range ops.Ops {
			op := &ops.Ops[i]
			var v workload.BankValue
			if op.Process == history.Nemesis || op.Type != history.Invoke || op.F == "read" || (op.F == "hold") != holds ||
				json.Unmarshal(op.Value, &v) != nil { // the harness makes none such
				continue
			}
			d := b.byID[v.ID]
			if d == nil {
				d = b.newDeed(op.F, v)
				b.byID[v.ID] = d
				b.deeds = append(b.deeds, d)
			} else {
				b.repeats++
			}
			b.attempt(d, i)
		}
	}
	b.deeds = slices.DeleteFunc(b.deeds, func(d *deed) bool { return d.invoked < 0 })
	slices.SortFunc(b.deeds, func(x, y *deed) int { return cmp.Compare(x.invoked, y.invoked) })
	return b
}

func (b *bankRun) newDeed(kind string, v workload.BankValue) *deed {
	d := &deed{kind: kind, id: v.ID, from: account(v.From), to: account(v.To), amount: v.Amount, invoked: -1, done: -1}
	if h := b.byID[v.Hold]; v.Hold != "" && h != nil {
		d.hold, d.from, d.to, d.amount = h, h.from, h.to, h.amount
	}
	switch kind {
	case "transfer":
		d.moves = d.amount
	case "hold":
		d.reserves, d.number = d.amount, b.holds
		b.holds++
	case "capture":
		d.moves, d.reserves = d.amount, -d.amount
	case "void":
		d.reserves = -d.amount
	case "refund":
		d.moves = -d.amount
	}
	return d
}

// account returns the number of an account that the harness named.
func account(name string) int {
	n, _ := strconv.Atoi(name)
	return min(max(n, 0), workload.BankAccounts-1)
}

// attempt notes that a deed was asked for. An answer that says that nothing was decided makes it as if it had not been.
func (b *bankRun) attempt(d *deed, i int) {
	done := b.other[i]
	var end *history.Op
	if done >= 0 {
		end = &b.Ops[done]
	}
	says := false
	switch {
	case end == nil:
	case end.Type == history.OK:
		d.oks = append(d.oks, done)
		says = true
	case end.Error.Name == bankRefusal:
		d.refuses = append(d.refuses, done)
		says = true
	case end.Type == history.Fail:
		return
	}
	if d.invoked < 0 {
		d.invoked = i
	}
	if says && (d.done < 0 || done < d.done) {
		d.done, d.refused = done, end.Type != history.OK
	}
}

// readAll parses the reads, and says which show something else than funds of the accounts.
func (b *bankRun) readAll() (wrong []string) {
	for i := range b.Ops {
		op := &b.Ops[i]
		if op.Process == history.Nemesis || op.Type != history.OK || op.F != "read" || b.other[i] < 0 {
			continue
		}
		read := bankRead{invoked: b.other[i], done: i, final: op.Final}
		if problem := read.parse(op.Value); problem != "" {
			wrong = append(wrong, fmt.Sprintf("%s's read at %s %s: %s", b.node(i), b.at(i), problem, cut(op.Value)))
			continue
		}
		b.reads = append(b.reads, read)
	}
	return wrong
}

// parse returns what is wrong with the value of a read; "": nothing.
func (r *bankRead) parse(value json.RawMessage) string {
	var shown map[string]*funds
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.DisallowUnknownFields()
	if dec.Decode(&shown) != nil {
		return "shows no balances"
	}
	for i := range r.balances {
		f := shown[strconv.Itoa(i)]
		if f == nil {
			return fmt.Sprintf("lacks account %d", i)
		}
		r.balances[i] = *f
	}
	if len(shown) > len(r.balances) {
		return "has accounts that there are not"
	}
	return ""
}

// torn says which reads show more or less money than there is.
func (b *bankRun) torn() (wrong []string) {
	want := opening().total()
	for _, r := range b.reads {
		if sum := r.total(); sum != want {
			wrong = append(wrong, fmt.Sprintf("%s's %s at %s shows %d in all accounts, and there are %d: %s",
				b.node(r.done), r.name(), b.at(r.done), sum, want, r.balances))
		}
	}
	return wrong
}

func (r *bankRead) name() string {
	if r.final {
		return "final read"
	}
	return "read"
}

// String shows the accounts in order: what each has, and of that what is held.
func (b balances) String() string {
	text := ""
	for i, f := range b {
		text += fmt.Sprintf(" %d:%d", i, f.Posted)
		if f.Held != 0 {
			text += fmt.Sprintf("(%d held)", f.Held)
		}
	}
	return text[1:]
}

// negative says which reads show an account with less than nothing, or with a hold of less.
func (b *bankRun) negative() (wrong []string) {
	for _, r := range b.reads {
		i := slices.IndexFunc(r.balances[:], func(f funds) bool { return f.available() < 0 || f.Held < 0 })
		if i >= 0 {
			f := r.balances[i]
			wrong = append(wrong, fmt.Sprintf("%s's %s at %s shows account %d overdrawn: it has %d, of which %d are held",
				b.node(r.done), r.name(), b.at(r.done), i, f.Posted, f.Held))
		}
	}
	return wrong
}

// undecided says of which deeds it was said that they were done, and that they were refused.
func (b *bankRun) undecided() (wrong []string) {
	for _, d := range b.deeds {
		if len(d.oks) > 0 && len(d.refuses) > 0 {
			yes, no := d.oks[0], d.refuses[0]
			wrong = append(wrong, fmt.Sprintf("the %s %s was done and refused: %s said ok at %s, %s refused it at %s",
				d.kind, d.id, b.node(yes), b.at(yes), b.node(no), b.at(no)))
		}
	}
	return wrong
}

// endedTwice says which holds were captured and voided, or captured, voided or refunded twice.
func (b *bankRun) endedTwice() (wrong []string) {
	type end struct {
		hold     *deed
		refunded bool
	}
	first := map[end]*deed{}
	for _, d := range b.deeds {
		if d.hold == nil || !d.happened() {
			continue
		}
		key := end{d.hold, d.kind == "refund"}
		if before := first[key]; before != nil {
			how := func(d *deed) string {
				return fmt.Sprintf("by the %s %s, ok by %s at %s", d.kind, d.id, b.node(d.done), b.at(d.done))
			}
			wrong = append(wrong, fmt.Sprintf("the hold %s was ended twice: %s, and %s", d.hold.id, how(before), how(d)))
			continue
		}
		first[key] = d
	}
	return wrong
}

// shift is what a deed that happens adds to an account's funds.
func (d *deed) shift(account int) (posted, held int64) {
	switch account {
	case d.from:
		return -d.moves, d.reserves
	case d.to:
		return d.moves, 0
	}
	return 0, 0
}

// wrongFinals says which final reads show something else than the effects of what was acknowledged, each once, with or
// without any of those deeds of which nobody knows.
func (b *bankRun) wrongFinals() (wrong []string) {
	var posted, held [workload.BankAccounts]intervals
	for i := range posted {
		posted[i], held[i] = b.expected(i)
	}
	for _, r := range b.reads {
		if !r.final || r.total() != opening().total() { // that is said elsewhere
			continue
		}
		for i, f := range r.balances {
			has, what, want := f.Posted, "", posted[i]
			if want.has(has) {
				has, what, want = f.Held, " held", held[i]
			}
			if !want.has(has) {
				wrong = append(wrong, fmt.Sprintf("%s's final read at %s shows account %d with %d%s, and what was acknowledged makes %s",
					b.node(r.done), b.at(r.done), i, has, what, want))
				break // other accounts will be wrong too
			}
		}
	}
	return wrong
}

// expected is what an account can have when all is over.
func (b *bankRun) expected(account int) (posted, held intervals) {
	open := opening()[account]
	posted, held = intervals{{open.Posted, open.Posted}}, intervals{{open.Held, open.Held}}
	for _, d := range b.deeds {
		p, h := d.shift(account)
		switch {
		case d.happened():
			posted, held = posted.shifted(p), held.shifted(h)
		case d.unsure() && (p != 0 || h != 0):
			posted, held = posted.orShifted(p), held.orShifted(h)
		}
	}
	return posted, held
}

// shifted returns the integers that are delta more.
func (v intervals) shifted(delta int64) intervals {
	all := slices.Clone(v)
	for i := range all {
		all[i].low, all[i].high = all[i].low+delta, all[i].high+delta
	}
	return all
}

// bankDone says of all kinds of deeds that they were done if one of them was done or refused: some are so rare, or refused
// so often, that the bank is not to blame.
func bankDone(ops *operations, done map[string]bool) {
	any := false
	for i := range ops.Ops {
		op := &ops.Ops[i]
		deed := op.Process != history.Nemesis && op.F != "read"
		any = any || deed && (op.Type == history.OK || op.Error.Name == bankRefusal)
	}
	for _, f := range []string{"transfer", "hold", "capture", "void", "refund"} {
		done[f] = any
	}
}

// tested says whether there was anything to find.
func (b *bankRun) tested(j *judge) {
	switch {
	case !slices.ContainsFunc(b.deeds, (*deed).happened):
		j.nothing("no transfer or hold was acknowledged")
	case len(b.reads) == 0:
		j.nothing("no read was ok")
	}
}

// fields are as of Jepsen's checker of a bank, and some of ours.
func (b *bankRun) fields(wrong int) edn.Map {
	var done, refused, unsure, held int
	for _, d := range b.deeds {
		switch {
		case d.unsure():
			unsure++
		case d.refused:
			refused++
		default:
			done++
		}
		if d.kind == "hold" && d.happened() {
			held++
		}
	}
	return edn.Map{}.With("reads-ok", len(b.reads)).With("error-count", wrong).With("total-amount", opening().total()).
		With("done-count", done).With("refused-count", refused).With("unknown-count", unsure).With("hold-count", held).
		With("repeat-count", b.repeats)
}
