package books

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"time"
)

// Real time. The facts about an account are in a total order. A request that made one took effect between the moment when it
// was first asked and the first final answer, so it bounds what others may have seen: whoever asked after that answer saw
// it, and whoever was answered before it was asked did not. Reads are put between the facts, by the account's version. An
// order in which all of that holds exists exactly if these checks find nothing; that is linearizability (Herlihy and Wing,
// 1990) of each account, in the time of sorting.

// bounds says, of the facts about one account, how many certainly or possibly stood at a time. A number n stands for the
// account's state after its first n facts.
type bounds struct {
	acked    []time.Duration // sorted
	ackedMax []int           // of the acknowledgements up to there the latest fact's number
	asked    []time.Duration // by fact: when the latest of this and all earlier facts was asked
}

func newBounds(facts []*fact) *bounds {
	type acknowledgement struct {
		at time.Duration
		n  int
	}
	var acks []acknowledgement
	b := &bounds{}
	asked := time.Duration(0)
	for i, f := range facts {
		if e := f.effect; e != nil {
			acks = append(acks, acknowledgement{e.acknowledged(), i + 1})
		}
		asked = max(asked, f.asked)
		b.asked = append(b.asked, asked)
	}
	slices.SortFunc(acks, func(a, b acknowledgement) int { return cmp.Compare(a.at, b.at) })
	latest := 0
	for _, a := range acks {
		latest = max(latest, a.n)
		b.acked, b.ackedMax = append(b.acked, a.at), append(b.ackedMax, latest)
	}
	return b
}

// least is how many facts stood at a time certainly.
func (b *bounds) least(at time.Duration) int {
	i := sort.Search(len(b.acked), func(i int) bool { return b.acked[i] >= at })
	if i == 0 {
		return 0
	}
	return b.ackedMax[i-1]
}

// most is how many may have stood at a time: the next one was not asked for yet.
func (b *bounds) most(at time.Duration) int {
	return sort.Search(len(b.asked), func(i int) bool { return b.asked[i] > at })
}

func (r *replay) of(b *book) []*fact {
	facts := make([]*fact, len(b.facts))
	for i, at := range b.facts {
		facts[i] = r.facts[at]
	}
	return facts
}

// checkOrder: of two facts about an account, none was acknowledged before the one that stands before it was asked for.
func checkOrder(t *trial) (wrong []string) {
	for _, id := range sortedKeys(t.replay.books) {
		facts := t.replay.of(t.replay.books[id])
		asked, of := time.Duration(-1), (*fact)(nil)
		for _, f := range facts {
			if f.effect == nil {
				continue
			}
			if f.effect.acknowledged() < asked {
				wrong = append(wrong, fmt.Sprintf("%s of %s was acknowledged before %s was asked for, which stands before it", f.event.ID, id, of.event.ID))
			}
			if f.effect.request.Asked > asked {
				asked, of = f.effect.request.Asked, f
			}
		}
	}
	return wrong
}

// checkReads: every read of an account is of one of its states, none that was over when it was asked or had not begun when
// it was answered; and versions never go back, nor does one version have two states.
func checkReads(t *trial) (wrong []string) {
	by := map[string][]Read{}
	for _, r := range t.Reads {
		by[r.Account.ID] = append(by[r.Account.ID], r)
		wrong = append(wrong, broke(r.Node+" was asked", &r.Account)...)
	}
	for _, id := range sortedKeys(by) {
		b := t.replay.books[id]
		if b == nil {
			wrong = append(wrong, fmt.Sprintf("%s told of the account %s, which nobody opened", by[id][0].Node, id))
			continue
		}
		wrong = append(wrong, versions(by[id])...)
		wrong = append(wrong, placed(by[id], b, newBounds(t.replay.of(b)))...)
	}
	return wrong
}

// placed puts an account's reads between its facts, each as early as can be, in the order of their versions. Reads of one
// version are of one state, after the same fact.
func placed(reads []Read, b *book, limits *bounds) (wrong []string) {
	slices.SortStableFunc(reads, func(a, b Read) int { return cmp.Compare(a.Account.Version, b.Account.Version) })
	at := 0
	for len(reads) > 0 {
		n := 1
		for n < len(reads) && reads[n].Account.Version == reads[0].Account.Version {
			n++
		}
		same := reads[:n]
		reads = reads[n:]
		least, most := at+1, len(b.states)
		for i := range same {
			r := &same[i]
			if stateOf(&r.Account) != stateOf(&same[0].Account) {
				wrong = append(wrong, fmt.Sprintf("%s told of %s at version %d: %v, and %s: %v", same[0].Node, r.Account.ID, r.Account.Version,
					stateOf(&same[0].Account), r.Node, stateOf(&r.Account)))
			}
			least, most = max(least, limits.least(r.Asked)), min(most, limits.most(r.Answered))
		}
		place := least
		for place <= most && b.states[place-1] != stateOf(&same[0].Account) {
			place++
		}
		if place > most {
			wrong = append(wrong, misplaced(same, b, limits, at))
			continue
		}
		at = place
	}
	return wrong
}

// misplaced says why reads of one version have no place behind the first so many facts.
func misplaced(same []Read, b *book, limits *bounds, at int) string {
	r := &same[0]
	for i := range same { // one that has none by itself is the best example
		s := &same[i]
		most := limits.most(s.Answered)
		if least := min(most, max(0, limits.least(s.Asked)-1)); !slices.Contains(b.states[least:most], stateOf(&s.Account)) {
			r = s
		}
	}
	return fmt.Sprintf("%s told of %s at version %d: %v, which it was at no moment between %v and %v: it had %d to %d of its %d changes then, and %d at the version read before",
		r.Node, r.Account.ID, r.Account.Version, stateOf(&r.Account), r.Asked, r.Answered, limits.least(r.Asked), limits.most(r.Answered), len(b.states), at)
}

// versions: who asked after somebody had been answered was not told of an earlier version.
func versions(reads []Read) (wrong []string) {
	type moment struct {
		at     time.Duration
		answer bool
		read   *Read
	}
	var moments []moment
	for i := range reads {
		moments = append(moments, moment{reads[i].Asked, false, &reads[i]}, moment{reads[i].Answered, true, &reads[i]})
	}
	slices.SortStableFunc(moments, func(a, b moment) int {
		if c := cmp.Compare(a.at, b.at); c != 0 || a.answer == b.answer {
			return c
		} else if b.answer { // what happened at once is no order
			return -1
		}
		return 1
	})
	newest := (*Read)(nil)
	least := map[*Read]*Read{}
	for _, m := range moments {
		switch {
		case !m.answer:
			least[m.read] = newest
		case newest == nil || m.read.Account.Version > newest.Account.Version:
			newest = m.read
		}
		if before := least[m.read]; m.answer && before != nil && m.read.Account.Version < before.Account.Version {
			wrong = append(wrong, fmt.Sprintf("%s told of %s at version %d, after %s had told of version %d", m.read.Node, m.read.Account.ID,
				m.read.Account.Version, before.Node, before.Account.Version))
		}
	}
	return wrong
}

// checkPages: whoever read a statement read a beginning of that of the end, up to an entry that was the last at some moment
// of the reading.
func checkPages(t *trial) (wrong []string) {
	limits := map[string]*bounds{}
	for i := range t.Pages {
		p := &t.Pages[i]
		id := p.Statement.Account
		b := t.replay.books[id]
		if b == nil {
			wrong = append(wrong, fmt.Sprintf("%s told the statement of %s, which nobody opened", p.Node, id))
			continue
		}
		wrong = append(wrong, added(p.Node, id, &p.Statement, 0, 0)...)
		n := len(p.Statement.Items)
		if at := difference(p.Statement.Items, b.entries[:min(n, len(b.entries))]); at >= 0 {
			wrong = append(wrong, fmt.Sprintf("%s told of an entry of %s %s where there is at the end %s", p.Node, id, entryAt(p.Statement.Items, at), entryAt(b.entries, at)))
			continue
		}
		if limits[id] == nil {
			limits[id] = newBounds(t.replay.of(b))
		}
		least, most := b.entriesAt(limits[id].least(p.Asked)), b.entriesAt(limits[id].most(p.Answered))
		if n > most || n < least && p.Statement.Next == "" {
			wrong = append(wrong, fmt.Sprintf("%s told %d entries of %s, which had %d to %d between %v and %v", p.Node, n, id, least, most, p.Asked, p.Answered))
		}
	}
	return wrong
}

func (b *book) entriesAt(n int) int {
	if n == 0 {
		return 0
	}
	return b.states[n-1].entries
}

// checkRefusals: a payment that was refused for want of money would have taken the payer below zero at some moment between
// the asking and the answer. Items of a batch are not looked at: those before them may have taken the money.
func checkRefusals(t *trial) (wrong []string) {
	limits := map[string]*bounds{}
	for i := range t.refusals {
		r := &t.refusals[i]
		b := t.replay.books[r.asked.From]
		to := t.replay.books[r.asked.To]
		if r.batch || r.problem.Code != "insufficient-funds" || b == nil || to != nil && to.account.Kind == "asset" || r.request.Path != TransfersPath {
			continue // what is paid to an asset may be more than it has
		}
		if limits[r.asked.From] == nil {
			limits[r.asked.From] = newBounds(t.replay.of(b))
		}
		l := limits[r.asked.From]
		poor := false
		for n := l.least(r.request.Asked); n <= l.most(r.request.Answers[0].At); n++ {
			s := state{}
			if n > 0 {
				s = b.states[n-1]
			}
			poor = poor || s.posted-s.held < r.asked.Amount.Amount
		}
		if !poor {
			wrong = append(wrong, fmt.Sprintf("%s: refused for want of %d, which %s had all the time", r.request, r.asked.Amount.Amount, r.asked.From))
		}
	}
	return wrong
}

// TransfersPath is where transfers, holds and claimables are asked for.
const TransfersPath = "/transfers"
