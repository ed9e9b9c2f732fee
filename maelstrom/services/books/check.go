package books

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A trial is a history with what was made of it.
type trial struct {
	*History
	effects   []*effect
	refusals  []refusal
	cancelled []cancellation
	wrong     []string // of the answers themselves
	events    []Event  // of the first node that told its own
	replay    *replay
}

func newTrial(h *History) *trial {
	t := &trial{History: h}
	t.effects, t.refusals, t.cancelled, t.wrong = outcomes(h)
	for _, v := range h.Views {
		if v.Err == nil {
			t.events = v.Events
			break
		}
	}
	t.replay = play(t.events, t.effects, t.refusals)
	return t
}

// Check returns what is wrong with a history, the most telling first.
func Check(h *History) []string {
	t := newTrial(h)
	var reasons []string
	for _, c := range checks() {
		reasons = append(reasons, Some(c.check(t))...)
	}
	return reasons
}

// A check has a name for its tests.
type check struct {
	name  string
	check func(*trial) []string
}

func checks() []check {
	return []check{
		{"fetched", checkFetched}, {"decided", checkDecided}, {"answers", checkAnswers}, {"lost", checkLost}, {"phantoms", checkPhantoms},
		{"replayed", checkReplayed}, {"ledger", checkLedger}, {"conserved", checkConserved}, {"transit", checkTransit}, {"cancelled", checkCancelled}, {"balances", checkBalances},
		{"statements", checkStatements}, {"totals", checkTotals}, {"agreement", checkAgreement}, {"sequence", checkSequence},
		{"order", checkOrder}, {"reads", checkReads}, {"pages", checkPages}, {"polls", checkPolls}, {"refusals", checkRefusals},
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// checkFetched: every node tells everything at the end.
func checkFetched(t *trial) (wrong []string) {
	for _, v := range t.Views {
		if v.Err != nil {
			wrong = append(wrong, fmt.Sprintf("%s does not tell everything at the end: %v", v.Node, v.Err))
		}
	}
	if len(t.Views) == 0 {
		wrong = append(wrong, "nobody was asked at the end")
	}
	return wrong
}

// checkDecided: every request that was not given up is answered at last.
func checkDecided(t *trial) (wrong []string) {
	for _, r := range t.Requests {
		if r.Decision() == Open {
			wrong = append(wrong, fmt.Sprintf("%s has no final answer after %d attempts, the last once all had healed", r, r.Unsure+r.Declined))
		}
	}
	return wrong
}

// checkAnswers: answers make sense, and refusals are those that requests deserve.
func checkAnswers(t *trial) []string {
	wrong := slices.Clone(t.wrong)
	for _, r := range t.refusals {
		if betweenShards[r.problem.Code] && len(t.replay.shards.named) == 1 {
			wrong = append(wrong, fmt.Sprintf("%s: refused as %q, and there is one shard", r.request, r.problem.Code))
		}
	}
	return wrong
}

// checkLost: what was acknowledged is among the events of every node, as it was answered.
func checkLost(t *trial) (wrong []string) {
	for _, v := range t.Views {
		told := map[string]json.RawMessage{}
		for _, e := range v.Events {
			switch kindOf(&e) {
			case settling, prepared, finished, dropped: // the answer comes behind them
			default:
				told[subject(&e)] = e.Data
			}
		}
		for _, e := range t.effects {
			data, known := told[e.id()]
			switch {
			case v.Err != nil:
			case !known:
				wrong = append(wrong, fmt.Sprintf("%s: %s was acknowledged and is lost: %s", e.request, e.id(), v.Node))
			case e.transfer.ID != "" && !equal(data, e.raw):
				wrong = append(wrong, fmt.Sprintf("%s: acknowledged as %s, %s has %s", e.request, e.raw, v.Node, data))
			}
		}
	}
	return wrong
}

// subject is what an event is about, as effect.id says it.
func subject(e *Event) string {
	if strings.Contains(e.Type, ".account.") {
		return "account " + e.Subject
	}
	return e.Subject
}

// checkPhantoms: each event is of one acknowledged request, or of something whose time was over; no two are of one. So
// what was refused, or declined every time, is not there, and nothing was done twice.
func checkPhantoms(t *trial) (wrong []string) {
	wrong = append(doubles(t.replay.facts, "the memo", (*fact).memo), doubles(t.replay.facts, "the subject", func(f *fact) string { return subject(f.event) })...)
	sent := t.undone()
	var explained, others []string
	for _, f := range t.replay.facts {
		if f.effect != nil || !f.whole() || f.undone() || f.transfer != nil && f.transfer.Kind == "expire" {
			continue
		}
		words := fmt.Sprintf("nobody was told that it was done, but it was: event %s, %s", f.event.ID, f.event.Data)
		if why := sent[f.memo()]; why != "" {
			explained = append(explained, words+why)
		} else {
			others = append(others, words)
		}
	}
	wrong = slices.Concat(wrong, explained, others)
	owners := map[string]*Request{}
	for _, e := range t.effects {
		if before := owners[e.id()]; before != nil {
			wrong = append(wrong, fmt.Sprintf("%s and %s were both answered with %s", before, e.request, e.id()))
		}
		owners[e.id()] = e.request
	}
	return wrong
}

// doubles says which facts are the same in something of which there is only one.
func doubles(facts []*fact, what string, of func(*fact) string) (wrong []string) {
	first := map[string]string{}
	for _, f := range facts {
		name := of(f)
		if name == "" || !f.whole() {
			continue
		}
		if before := first[name]; before != "" {
			wrong = append(wrong, fmt.Sprintf("done twice: events %s and %s have %s %q", before, f.event.ID, what, name))
		}
		first[name] = f.event.ID
	}
	return wrong
}

func (f *fact) memo() string {
	if f.transfer == nil {
		return ""
	}
	return f.transfer.Memo
}

// undone says of each memo that must not appear why.
func (t *trial) undone() map[string]string {
	why := map[string]string{}
	for _, r := range t.refusals {
		if r.asked.Memo != "" {
			why[r.asked.Memo] = fmt.Sprintf("; %s was refused as %s", r.request, r.problem.Code)
		}
	}
	for _, r := range t.Requests {
		var a asked
		if r.Decision() == Never && json.Unmarshal(r.Body, &a) == nil && a.Memo != "" {
			why[a.Memo] = fmt.Sprintf("; each time %s was tried, a node said that it was not", r)
		}
	}
	return why
}

// checkReplayed: a request has one answer, byte for byte, and at most one of them says that it is not a replay.
func checkReplayed(t *trial) (wrong []string) {
	for _, r := range t.Requests {
		first := 0
		for i, a := range r.Answers {
			if a.Status != r.Answers[first].Status || !bytes.Equal(plain(r, a.Body), plain(r, r.Answers[first].Body)) {
				wrong = append(wrong, fmt.Sprintf("%s was answered %d %s by %s, and then %d %s by %s", r, r.Answers[first].Status, r.Answers[first].Body,
					r.Answers[first].Node, a.Status, r.Answers[i].Body, a.Node))
			}
		}
		if most := originals(r); most > 1 {
			wrong = append(wrong, fmt.Sprintf("%s has %d answers that are no replay", r, most))
		}
	}
	return wrong
}

// originals is how many answers say that they are no replay; of a batch, about the same item.
func originals(r *Request) (most int) {
	count := map[int]int{} // by item
	for _, a := range r.Answers {
		var batch struct{ Items []struct{ Replayed bool } }
		if r.Path != BatchPath || json.Unmarshal(a.Body, &batch) != nil {
			batch.Items = []struct{ Replayed bool }{{a.Replayed}}
		}
		for i, item := range batch.Items {
			if !item.Replayed {
				count[i]++
				most = max(most, count[i])
			}
		}
	}
	return most
}

// plain is a body without what must differ: whether an item of a batch is a replay, and the trace of this very attempt.
func plain(r *Request, body []byte) []byte {
	if before, after, found := bytes.Cut(body, []byte(`"trace_id":"`)); found {
		_, after, _ = bytes.Cut(after, []byte(`"`))
		body = slices.Concat(before, after)
	}
	if r.Path == BatchPath {
		body = bytes.ReplaceAll(body, []byte(`"replayed":true`), []byte(`"replayed":false`))
	}
	return body
}

// checkLedger: the events make a ledger: balanced, nobody pays what he has not, nothing is captured, voided, claimed or
// refunded beyond what there is.
func checkLedger(t *trial) []string { return t.replay.wrong }

// checkConserved: what all accounts have adds up to nothing, on every node. Money kept for those who have no account yet
// counts, whether pay shows the account that keeps it or not.
func checkConserved(t *trial) (wrong []string) {
	for _, v := range t.Views {
		sum, shown := map[string]int64{}, map[string]bool{}
		for id, a := range v.Accounts {
			if a.Posted == nil {
				continue
			}
			amount := a.Posted.Amount
			if a.Kind == "asset" {
				amount = -amount
			}
			sum[a.Posted.Currency] += amount
			if strings.HasPrefix(id, SystemPrefix) && !strings.HasPrefix(id, TransitPrefix) {
				shown[a.Posted.Currency] = true
			}
		}
		for _, transfer := range v.Transfers {
			if transfer.Kind == "claimable" && transfer.Remaining != nil && !shown[transfer.Amount.Currency] {
				sum[transfer.Amount.Currency] += transfer.Remaining.Amount
			}
		}
		for _, currency := range sortedKeys(sum) {
			if v.Err == nil && sum[currency] != 0 {
				wrong = append(wrong, fmt.Sprintf("all accounts of %s add up to %d %s, not 0: %s", currency, sum[currency], currency, v.Node))
			}
		}
	}
	return wrong
}

// checkBalances: every node tells of each account what the events make of it.
func checkBalances(t *trial) (wrong []string) {
	for _, v := range t.Views {
		for _, id := range sortedKeys(t.replay.books) {
			b := t.replay.books[id]
			a, told := v.Accounts[id]
			if v.Err != nil || !told && strings.HasPrefix(id, SystemPrefix) {
				continue
			}
			if !told {
				wrong = append(wrong, fmt.Sprintf("%s does not tell of the account %s", v.Node, id))
				continue
			}
			wrong = append(wrong, broke(v.Node+" at the end", &a)...)
			if got := stateOf(&a); got != b.now() {
				wrong = append(wrong, fmt.Sprintf("%s tells of %s: %v; the events make it %v", v.Node, id, got, b.now()))
			}
		}
	}
	return wrong
}

func (s state) String() string {
	return fmt.Sprintf("%d posted, %d held, %d entries", s.posted, s.held, s.entries)
}

func stateOf(a *Account) (s state) {
	s.entries = a.Entries
	if a.Posted != nil {
		s.posted = a.Posted.Amount
	}
	if a.Held != nil {
		s.held = a.Held.Amount
	}
	return s
}

// broke says what is wrong with an account by itself.
func broke(where string, a *Account) (wrong []string) {
	switch {
	case a.Posted == nil || a.Held == nil || a.Available == nil:
		return []string{fmt.Sprintf("%s: %s is told of without its money", where, a.ID)}
	case a.Available.Amount != a.Posted.Amount-a.Held.Amount:
		wrong = append(wrong, fmt.Sprintf("%s: of %s %d are available, with %d posted and %d held", where, a.ID, a.Available.Amount, a.Posted.Amount, a.Held.Amount))
	case a.Held.Amount < 0 || a.Available.Amount < 0 && !a.Overdraft:
		wrong = append(wrong, fmt.Sprintf("%s: %s has %d available and %d held", where, a.ID, a.Available.Amount, a.Held.Amount))
	}
	return wrong
}

// checkStatements: the pages of a statement follow each other, add up, and have the entries that the events make.
func checkStatements(t *trial) (wrong []string) {
	for _, v := range t.Views {
		for _, id := range sortedKeys(v.Statements) {
			var all []Entry
			closing := int64(0)
			for _, page := range v.Statements[id] {
				wrong = append(wrong, added(v.Node, id, &page, len(all), closing)...)
				all, closing = append(all, page.Items...), page.Closing
			}
			b := t.replay.books[id]
			if b == nil {
				b = new(book)
			}
			if at := difference(all, b.entries); at >= 0 {
				wrong = append(wrong, fmt.Sprintf("%s: the statement of %s has %s where the events make %s", v.Node, id, entryAt(all, at), entryAt(b.entries, at)))
			}
		}
	}
	return wrong
}

// added says where a page does not add up, or not follow what is before it.
func added(where, id string, page *Statement, entries int, opening int64) (wrong []string) {
	balance := page.Opening
	if balance != opening {
		wrong = append(wrong, fmt.Sprintf("%s: a page of the statement of %s opens with %d, after %d", where, id, balance, opening))
	}
	for i, e := range page.Items {
		if balance += e.Amount; e.Balance != balance || e.Entry != entries+i+1 {
			wrong = append(wrong, fmt.Sprintf("%s: entry %d of the statement of %s, after %d others, is %d and leaves %d, not %d", where, e.Entry, id, entries+i, e.Amount, e.Balance, balance))
			break
		}
	}
	if balance != page.Closing {
		wrong = append(wrong, fmt.Sprintf("%s: a page of the statement of %s closes with %d, not %d", where, id, page.Closing, balance))
	}
	return wrong
}

// difference is where two lists part; -1 if nowhere.
func difference[T comparable](a, b []T) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	return -1
}

func entryAt(entries []Entry, i int) string {
	if i >= len(entries) {
		return "nothing"
	}
	return fmt.Sprintf("%+v", entries[i])
}

// checkTotals: what nodes tell of holds, claimables and what was refunded: captured, voided and remaining make the whole, and
// all is as the events make it.
func checkTotals(t *trial) (wrong []string) {
	for _, v := range t.Views {
		for _, id := range sortedKeys(t.replay.over) {
			root, told := t.replay.roots[id], v.Transfers[id]
			switch {
			case v.Err != nil:
			case told.ID == "":
				wrong = append(wrong, fmt.Sprintf("%s does not tell of %s", v.Node, id))
			case amount(told.Captured) != root.captured || amount(told.Refunded) != root.refunded:
				wrong = append(wrong, fmt.Sprintf("%s: of %s %d were captured and %d refunded; the events make it %d and %d", v.Node, id,
					amount(told.Captured), amount(told.Refunded), root.captured, root.refunded))
			case root.kind != "transfer" && amount(told.Captured)+amount(told.Voided)+amount(told.Remaining) != root.amount:
				wrong = append(wrong, fmt.Sprintf("%s: of the %d of %s %d were captured, %d voided, and %d remain", v.Node, root.amount, id,
					amount(told.Captured), amount(told.Voided), amount(told.Remaining)))
			case root.kind != "transfer" && amount(told.Remaining) != root.remaining()+root.moving:
				wrong = append(wrong, fmt.Sprintf("%s: of %s %d remain; the events make it %d", v.Node, id, amount(told.Remaining), root.remaining()+root.moving))
			}
		}
	}
	return wrong
}

func amount(m *Money) int64 {
	if m == nil {
		return 0
	}
	return m.Amount
}

// checkAgreement: all nodes say the same.
func checkAgreement(t *trial) (wrong []string) {
	first := -1
	for i := range t.Views {
		v := &t.Views[i]
		if v.Err != nil {
			continue
		}
		if first < 0 {
			first = i
			continue
		}
		of := &t.Views[first]
		wrong = append(wrong, differ(of.Node, v.Node, "the account", of.Accounts, v.Accounts)...)
		wrong = append(wrong, differ(of.Node, v.Node, "the statement of", of.Statements, v.Statements)...)
		wrong = append(wrong, differ(of.Node, v.Node, "the transfer", of.Transfers, v.Transfers)...)
		ours, theirs := streams(of.Events), streams(v.Events)
		all := maps.Clone(ours)
		maps.Copy(all, theirs)
		for _, source := range sortedKeys(all) {
			x, y := ours[source], theirs[source]
			for k := range max(len(x), len(y)) {
				if k >= len(x) || k >= len(y) || !same(x[k], y[k]) {
					wrong = append(wrong, fmt.Sprintf("%s and %s tell of other events of %s from number %d of %d and %d on", of.Node, v.Node, source, k+1, len(x), len(y)))
					break
				}
			}
		}
	}
	return wrong
}

func differ[V any](a, b, what string, x, y map[string]V) (wrong []string) {
	all := maps.Clone(x)
	maps.Copy(all, y)
	for _, id := range sortedKeys(all) {
		if !same(x[id], y[id]) {
			xs, _ := json.Marshal(x[id])
			ys, _ := json.Marshal(y[id])
			wrong = append(wrong, fmt.Sprintf("%s %s is for %s %s and for %s %s", what, id, a, xs, b, ys))
		}
	}
	return wrong
}

// checkSequence: the events of a source are numbered from 1 without a gap, and no two have the same id.
func checkSequence(t *trial) (wrong []string) {
	for _, v := range t.Views {
		last, ids := map[string]int64{}, map[string]bool{}
		for _, e := range v.Events {
			if e.Sequence != last[e.Source]+1 {
				wrong = append(wrong, fmt.Sprintf("%s: event %d of %s comes after %d", v.Node, e.Sequence, e.Source, last[e.Source]))
			}
			if ids[e.ID] {
				wrong = append(wrong, fmt.Sprintf("%s: two events are %s", v.Node, e.ID))
			}
			last[e.Source], ids[e.ID] = e.Sequence, true
		}
	}
	return wrong
}

// streams are the events of each source. Between them there is no order: a node may know of one shard more than of another.
func streams(events []Event) map[string][]Event {
	by := map[string][]Event{}
	for _, e := range events {
		by[e.Source] = append(by[e.Source], e)
	}
	return by
}

// checkPolls: whoever followed the events, from whichever node, was told each once, those of a source in order, and as they
// are at the end.
func checkPolls(t *trial) (wrong []string) {
	all := streams(t.events)
	at := map[[2]string]int{} // chain and source → events told
	for _, p := range t.Polls {
		for _, e := range p.Events {
			chain := [2]string{p.Chain, e.Source}
			k := at[chain]
			at[chain]++
			if k >= len(all[e.Source]) || !same(all[e.Source][k], e) {
				wrong = append(wrong, fmt.Sprintf("%s told %s event %s where %s stands at the end", p.Node, p.Chain, e.ID, eventAt(all[e.Source], k)))
				break
			}
		}
	}
	return wrong
}

// same compares what was decoded from JSON.
func same[V any](a, b V) bool {
	x, err := json.Marshal(a)
	y, other := json.Marshal(b)
	return err == nil && other == nil && bytes.Equal(x, y)
}

func eventAt(events []Event, i int) string {
	if i >= len(events) {
		return "nothing (number " + strconv.Itoa(i+1) + ")"
	}
	return events[i].ID
}
