package ledger

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"testing"

	"dongne/internal/sharedlog"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// world is several shards, their logs, and drivers that take requests through them, step by step, in any order, each of
// which may vanish at any point. What was sent once may arrive again at any time.
type world struct {
	roll    dice
	apply   applier
	shards  []*State
	logs    [][]slotOf
	time    int64
	drivers []*driver
	late    []message
	asked   []*asking
	found   [][]string // accounts by shard
}

type message struct {
	shard int
	q     Request
}

// asking is a client's request and the first final answer that anybody got to it.
type asking struct {
	q     Request
	home  int
	final *Result
}

// driver takes one request, or what a crash left of it, to its end.
type driver struct {
	of       *asking // nil: it recovers
	next     func() bool
	home     int
	record   uint32
	cancel   bool
	crossing Crossing
	part     int
	decision Request
	commit   bool
}

func newWorld(roll dice, apply applier, shards int) *world {
	w := &world{roll: roll, apply: apply, time: startTime, logs: make([][]slotOf, shards), found: make([][]string, shards)}
	for shard := range shards {
		w.shards = append(w.shards, NewState(shard, shards))
	}
	return w
}

// wrong is what the test found, on its way out of a step.
type wrong struct{ error }

func wrongf(format string, args ...any) wrong { return wrong{fmt.Errorf(format, args...)} }

// send applies a request at a shard as a slot of its own.
func (w *world) send(shard int, q Request) Result {
	if w.roll("comes again", 4) == 0 {
		w.late = append(w.late, message{shard, q})
	}
	return w.slot(shard, q)
}

func (w *world) slot(shard int, q Request) Result {
	w.time += pick(w.roll, "pause", 1e3, 1e6, 1e9, 60*int64(1e9))
	at := sharedlog.Position{Slot: uint64(len(w.logs[shard]) + 1), Time: w.time}
	command := Encode([]Request{q})
	w.logs[shard] = append(w.logs[shard], slotOf{at, command})
	requests, err := Decode(command)
	if err != nil {
		panic(wrongf("%w", err))
	}
	result := w.apply(w.shards[shard], at, requests)[0]
	if err := w.shards[shard].Check(); err != nil {
		panic(wrongf("shard %d, slot %d, %+v: %w", shard, at.Slot, q, err))
	}
	if err := checkDue(w.shards[shard]); err != nil {
		panic(wrongf("shard %d, slot %d, %+v: %w", shard, at.Slot, q, err))
	}
	return result
}

// setUp opens accounts in every shard and brings money into them.
func (w *world) setUp() {
	for n := 0; slices.ContainsFunc(w.found, func(ids []string) bool { return len(ids) < 4 }); n++ {
		id := "a" + strconv.Itoa(n)
		shard := ShardOf(id, len(w.shards))
		kind := len(w.found[shard])
		if kind == 4 {
			continue
		}
		c, settings := testKRW, Settings{}
		switch kind {
		case 0:
			settings = Settings{Asset: true}
		case 1:
			settings = Settings{Overdraft: w.roll("overdraft", 3) > 0}
		case 3:
			c = pick(w.roll, "currency", testKRW, testKRW, testUSD)
		}
		w.found[shard] = append(w.found[shard], id)
		w.slot(shard, Request{Kind: OpenAccount, Any: true, By: pick(w.roll, "owner", "ana", "bo"), Account: id,
			Currency: c, Settings: settings})
		if kind == 1 || kind == 2 {
			q := Request{Kind: Move, Any: true, By: "bank", Key: NewKey("bank", id), Currency: testKRW,
				Legs: []Leg{{w.found[shard][0], -500}, {id, 500}}}
			a := &asking{q: q, home: shard}
			w.asked = append(w.asked, a)
			for w.start(a); !w.drivers[0].next(); {
			}
			w.drivers = nil
		}
	}
}

func (w *world) account() string {
	if w.roll("unknown", 30) == 0 {
		return "ghost" + strconv.Itoa(w.roll("ghost", 4))
	}
	return pick(w.roll, "account", w.found[w.roll("shard", len(w.shards))]...)
}

// request makes what a client may ask.
func (w *world) request() Request {
	q := Request{Key: NewKey("c", strconv.Itoa(len(w.asked))), Any: w.roll("any", 3) > 0, By: pick(w.roll, "by",
		"ana", "bo"), Currency: testKRW}
	amount := int64(1 + w.roll("amount", 120))
	from, to := w.account(), w.account()
	if w.roll("huge", 25) == 0 {
		from, amount, q.Any = w.found[w.roll("shard", len(w.shards))][1], AmountMax-100, true
	}
	q.Legs = []Leg{{from, -amount}, {to, amount}}
	kind := w.roll("kind", 17)
	if w.moves() && w.roll("end it", 4) == 0 {
		kind = 6 // what moves may fail, and then comes back to something that was ended
	}
	switch kind {
	case 0, 1:
		q.Kind = Hold
		q.Expires = pick(w.roll, "expires", 0, w.time+100*int64(1e9))
	case 2:
		q.Kind, q.Legs, q.Recipient = Claimable, q.Legs[:1:1], q.By
		q.Expires = pick(w.roll, "expires", 0, w.time+100*int64(1e9))
	case 3, 4, 5:
		q = Request{Kind: Capture, Key: q.Key, Any: true, By: q.By, Final: w.roll("final", 3) == 0, Transfer: w.target(recHold)}
		if r := w.shards[int(q.Transfer.Shard)].roots[q.Transfer.Record]; r != nil && r.remaining > 0 && w.roll("part", 4) > 0 {
			q.Amount = 1 + int64(w.roll("of what remains", int(min(r.remaining, 150))))
		}
		if q.Amount > 1 && w.roll("split", 2) == 0 {
			q.Legs = []Leg{{w.account(), q.Amount - 1}, {pick(w.roll, "fee", to, "ghost1", "ghost2"), 1}}
		}
	case 6, 11:
		q = Request{Kind: Void, Key: q.Key, Any: true, By: q.By, Transfer: w.target(recHold, recClaimable)}
	case 7:
		q = Request{Kind: Claim, Key: q.Key, Any: q.Any, By: q.By, Account: to, Transfer: w.target(recClaimable)}
	case 8, 9:
		q = Request{Kind: Refund, Key: q.Key, Any: q.Any, By: q.By, Amount: pick(w.roll, "part", 0, amount),
			Transfer: w.target(recTransfer, recHold, recClaimable)}
	case 10:
		q = Request{Kind: ChangeAccount, Key: q.Key, Any: true, By: q.By, Account: to, Set: SetClosed,
			Settings: Settings{Closed: w.roll("closed", 3) > 0}}
	default:
		q.Kind = Move
		if third := w.account(); w.roll("three", 4) > 0 {
			q.Legs = append(q.Legs, Leg{third, 5})
			q.Legs[w.roll("side", 2)].Amount -= 5
		}
	}
	return q
}

// moves says whether a capture is on its way between shards, and more of its hold is open.
func (w *world) moves() bool {
	return slices.ContainsFunc(w.shards, func(s *State) bool {
		for _, r := range s.roots {
			if r.moving > 0 && r.remaining > 0 {
				return true
			}
		}
		return false
	})
}

func (w *world) target(kinds ...recordKind) ID {
	var ids, moving []ID
	for _, s := range w.shards {
		for n := uint32(1); int(n) < s.records.n; n++ {
			if slices.Contains(kinds, s.records.at(n).kind) {
				ids = append(ids, s.id(n))
				if r := s.roots[n]; r != nil && r.moving > 0 {
					moving = append(moving, s.id(n))
				}
			}
		}
	}
	if len(moving) > 0 && w.roll("moving", 3) > 0 {
		ids = moving
	}
	if len(ids) == 0 {
		return ID{Time: 1, Record: 1}
	}
	return pick(w.roll, "target", ids...)
}

// ask starts a driver for a new request, or for one that was asked before.
func (w *world) ask() {
	if len(w.asked) > 0 && w.roll("retry", 3) == 0 {
		a := pick(w.roll, "which", w.asked...)
		if w.roll("reuse", 8) == 0 { // its key for something else: only what comes first has an effect
			q := a.q
			q.Memo += "!"
			a = &asking{q: q, home: a.home}
			w.asked = append(w.asked, a)
		}
		w.start(a)
		return
	}
	q := w.request()
	a := &asking{q: q, home: Home(&q, len(w.shards))}
	w.asked = append(w.asked, a)
	w.start(a)
}

func (w *world) start(a *asking) {
	d := &driver{of: a, home: a.home}
	d.next = func() bool { return w.useKey(d) }
	w.drivers = append(w.drivers, d)
}

func (w *world) useKey(d *driver) bool {
	if keeper := KeyShard(&d.of.q, len(w.shards)); keeper != d.home {
		if w.send(keeper, Request{Kind: UseKey, Key: d.of.q.Key, Print: d.of.q.Fingerprint()}).Refused != 0 {
			return true
		}
	}
	d.next = func() bool { return w.atHome(d) }
	return false
}

func (w *world) atHome(d *driver) bool {
	result := w.send(d.home, d.of.q)
	if !result.Settling {
		w.answered(d.of, result)
		return true
	}
	d.record = result.Record
	return w.resume(d)
}

// resume begins with what is left of a transfer between shards.
func (w *world) resume(d *driver) bool {
	crossing, open := w.shards[d.home].Crossing(d.record)
	d.crossing = crossing
	d.next = func() bool { return w.prepare(d) }
	return !open
}

func (w *world) prepare(d *driver) bool {
	if d.part == len(d.crossing.Portions) {
		d.decision = Request{Kind: Decide, Transfer: d.crossing.Transfer, Commit: true}
		d.next = func() bool { return w.decide(d) }
		return false
	}
	q := d.crossing.Portions[d.part]
	q.Cancel = d.cancel
	result := w.send(d.crossing.Shards[d.part], q)
	if d.part++; result.Refused != 0 {
		d.decision = Request{Kind: Decide, Transfer: d.crossing.Transfer, Code: result.Refused,
			Leg: d.crossing.Legs[d.part-1][result.Leg]}
		d.next = func() bool { return w.decide(d) }
	}
	return false
}

func (w *world) decide(d *driver) bool {
	w.send(d.home, d.decision)
	commit, decided := w.shards[d.home].Decided(d.crossing.Transfer)
	if !decided {
		panic(wrongf("not decided after Decide"))
	}
	d.commit, d.part = commit, 0
	if d.of != nil {
		result, _ := w.shards[d.home].Replay(&d.of.q)
		w.answered(d.of, result)
	}
	d.next = func() bool { return w.finish(d) }
	return false
}

func (w *world) finish(d *driver) bool {
	others := w.shards[d.home].Others(d.crossing.Transfer)
	if !slices.Equal(others, d.crossing.Shards) {
		panic(wrongf("others %v of a crossing to %v", others, d.crossing.Shards))
	}
	w.send(others[d.part], Request{Kind: Finish, Transfer: d.crossing.Transfer, Commit: d.commit})
	d.part++
	return d.part == len(others)
}

// answered notes a final answer, which must never be another later.
func (w *world) answered(a *asking, result Result) {
	result.Replayed = false
	if a.final != nil && *a.final != result {
		panic(wrongf("%+v was answered with %+v and then with %+v", a.q, *a.final, result))
	}
	a.final = &result
}

// recover starts drivers for what nobody drives any more, as far as that can be known: it is known to be old.
func (w *world) recover() {
	for home, s := range w.shards {
		for _, rec := range s.Settling(w.time + 1) {
			w.take(&driver{home: home, record: rec, cancel: w.roll("cancel", 3) == 0})
		}
		for _, id := range s.Unfinished(w.time + 1) {
			if commit, decided := w.shards[id.Shard].Decided(id); decided {
				w.send(home, Request{Kind: Finish, Transfer: id, Commit: commit})
			}
		}
		expire, _ := s.Due(w.time, 100)
		for _, q := range expire {
			w.send(home, q)
		}
	}
}

func (w *world) take(d *driver) {
	if !w.resume(d) {
		w.drivers = append(w.drivers, d)
	}
}

// step does one thing anywhere.
func (w *world) step() {
	switch r := w.roll("step", 20); {
	case r < 4:
		w.ask()
	case r == 4 && len(w.late) > 0:
		m := pick(w.roll, "again", w.late...)
		w.slot(m.shard, m.q)
	case r == 5:
		w.recover()
	case r == 6:
		w.restart(w.roll("restart", len(w.shards)))
	case len(w.drivers) > 0:
		i := w.roll("driver", len(w.drivers))
		if w.drivers[i].next() || w.roll("crash", 12) == 0 {
			w.drivers = slices.Delete(w.drivers, i, i+1)
		}
	}
}

// restart replaces a shard by what its snapshot says.
func (w *world) restart(shard int) {
	taken := w.shards[shard].Snapshot()
	s := NewState(shard, len(w.shards))
	if err := s.Restore(taken); err != nil {
		panic(wrongf("%w", err))
	}
	if !bytes.Equal(s.Snapshot(), taken) {
		panic(wrongf("a restored shard has another snapshot"))
	}
	for _, rec := range w.shards[shard].Settling(math.MaxInt64) {
		went, _ := w.shards[shard].Crossing(rec)
		read, _ := s.Crossing(rec)
		if diff := cmp.Diff(went, read); diff != "" {
			panic(wrongf("a crossing is another in a restored shard (-was +restored):\n%s", diff))
		}
	}
	w.shards[shard] = s
}

// run does so many steps, lets everything end, and judges. What goes wrong on the way panics.
func (w *world) run(steps int) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case wrong:
			err = p
		default:
			panic(p)
		}
	}()
	w.setUp()
	for range steps {
		w.step()
	}
	for w.drivers = nil; ; {
		w.recover()
		for _, d := range w.drivers {
			for !d.next() {
			}
		}
		if len(w.drivers) == 0 {
			break
		}
		w.drivers = nil
	}
	w.recover() // what was unfinished and nothing else
	for _, m := range w.late {
		w.slot(m.shard, m.q)
	}
	return w.judge()
}

func (w *world) judge() error {
	transit := map[Currency]int64{}
	for shard, s := range w.shards {
		if n, m := len(s.Settling(w.time+1)), len(s.Unfinished(w.time+1)); n+m > 0 {
			// A late Home request may have begun one more transfer, if it was never asked before: no.
			return fmt.Errorf("shard %d is settling %d and has %d unfinished at the end", shard, n, m)
		}
		for c, sum := range s.Transit() {
			transit[c] += sum
		}
		full := NewState(shard, len(w.shards))
		for _, slot := range w.logs[shard] {
			requests, _ := Decode(slot.command)
			w.apply(full, slot.at, requests)
		}
		if !bytes.Equal(full.Snapshot(), s.Snapshot()) {
			return fmt.Errorf("a full replay of shard %d is another state", shard)
		}
	}
	for c, sum := range transit {
		if sum != 0 {
			return fmt.Errorf("%d %v are in transit and nobody settles", sum, c)
		}
	}
	for _, judge := range []func() error{w.judgeParts, w.judgeRoots, w.judgeBooks, w.judgeStatements} {
		if err := judge(); err != nil {
			return err
		}
	}
	return nil
}

// judgeParts says whether every transfer between shards ended the same everywhere, once.
func (w *world) judgeParts() error {
	for _, s := range w.shards {
		for n := uint32(1); int(n) < s.records.n; n++ {
			f := s.records.at(n).fate
			if f == local {
				continue
			}
			for _, shard := range s.Others(s.id(n)) {
				prepared, finished, dropped := w.shards[shard].partOf(s.id(n))
				ok := prepared == 1 && finished == 1 && dropped == 0
				if f == aborted {
					ok = prepared <= 1 && finished == 0 && dropped == prepared
				}
				if !ok {
					return fmt.Errorf("transfer %v has fate %d at home; shard %d prepared %d, finished %d, dropped %d", s.id(n),
						f, shard, prepared, finished, dropped)
				}
			}
		}
	}
	return nil
}

// partOf counts the records of this shard's part in a transfer.
func (s *State) partOf(id ID) (prepared, finished, dropped int) {
	for n := uint32(1); int(n) < s.records.n; n++ {
		of := n
		if k := s.records.at(n).kind; k == recFinished || k == recDropped {
			of = s.records.at(n).parent
		}
		if s.records.at(of).kind != recPrepared || s.kept(of).Transfer != id {
			continue
		}
		switch s.records.at(n).kind {
		case recPrepared:
			prepared++
		case recFinished:
			finished++
		case recDropped:
			dropped++
		}
	}
	return prepared, finished, dropped
}

// judgeRoots adds up what was done with each hold, claimable and refunded transfer, from the records.
func (w *world) judgeRoots() error {
	final := map[ID]bool{}
	for _, a := range w.asked {
		if result, _ := w.shards[a.home].Replay(&a.q); result.Record != 0 && a.q.Final {
			final[w.shards[a.home].id(result.Record)] = true
		}
	}
	for _, s := range w.shards {
		type sums struct {
			captured, refunded int64
			ended              bool
		}
		done := map[uint32]*sums{}
		for n := uint32(1); int(n) < s.records.n; n++ {
			r := s.records.at(n)
			if r.parent == 0 || r.fate == aborted {
				continue
			}
			if done[r.parent] == nil {
				done[r.parent] = &sums{}
			}
			d := done[r.parent]
			switch r.kind {
			case recCapture, recClaim:
				d.captured += r.amount
				d.ended = d.ended || final[s.id(n)]
			case recRefund:
				d.refunded += r.amount
			case recVoid, recExpired, recReturn, recReturned:
				d.ended = true
			}
		}
		for rec, root := range ordered(s.roots) {
			d := done[rec]
			if d == nil {
				d = &sums{}
			}
			if s.records.at(rec).kind == recTransfer {
				d.captured = root.amount
			}
			remaining := root.amount - d.captured
			if d.ended {
				remaining = 0
			}
			got := [4]int64{root.captured, root.refunded, root.remaining, root.moving}
			if want := [4]int64{d.captured, d.refunded, remaining, 0}; got != want {
				return fmt.Errorf("record %v: captured, refunded, remaining, moving are %d, its records say %d (ended %v)",
					s.id(rec), got, want, d.ended)
			}
		}
	}
	return nil
}

// judgeBooks adds up, account by account, what the requests that succeeded moved, in one book for all shards.
func (w *world) judgeBooks() error {
	books, done := map[string]int64{}, map[ID]bool{}
	add := func(legs []LegView) {
		for _, leg := range legs {
			n, _ := strconv.ParseInt(leg.Amount.Amount, 10, 64)
			books[leg.Account] += n
		}
	}
	for _, a := range w.asked {
		s := w.shards[a.home]
		result, known := s.Replay(&a.q)
		if a.final != nil {
			result.Replayed = false
			if diff := cmp.Diff(*a.final, result); !known || diff != "" {
				return fmt.Errorf("%+v: the answer changed (-first +now):\n%s", a.q, diff)
			}
		}
		id := ID{Shard: uint16(a.home), Record: result.Record}
		if done[id] { // the same was asked twice
			continue
		}
		done[id] = true
		if result.Record == 0 || a.q.Kind == Hold || a.q.Kind == Void || a.q.Kind == ChangeAccount {
			continue
		}
		made := s.Made(result.Record)
		add(made.Legs)
		if err := w.allowed(a, made); err != nil {
			return err
		}
	}
	for _, s := range w.shards {
		for n := uint32(1); int(n) < s.records.n; n++ {
			if k := s.records.at(n).kind; k == recReturn || k == recReturned {
				add(s.Made(n).Legs)
			}
		}
		for n := 1; n < s.accounts.n; n++ {
			a := s.accounts.at(uint32(n))
			if what, _, _ := cutSystem(a.id); what != transit && (a.posted != books[a.id] || a.incoming != 0 && what == claims) {
				return fmt.Errorf("account %q has %d, what succeeded adds up to %d", a.id, a.posted, books[a.id])
			}
		}
	}
	return nil
}

// judgeStatements says whether every entry is of a transfer that the account has a leg in, wherever its home is.
func (w *world) judgeStatements() error {
	for _, s := range w.shards {
		for n := 1; n < s.accounts.n; n++ {
			id := s.accounts.at(uint32(n)).id
			if what, _, _ := cutSystem(id); what == transit {
				continue
			}
			page, _ := s.Statement(id, 0, 0, 0, math.MaxInt32)
			for _, e := range page.Items {
				transfer, _ := ParseTransfer(e.Transfer)
				made, ok := w.shards[transfer.Shard].Transfer(transfer)
				if !ok || !slices.ContainsFunc(made.Legs, func(leg LegView) bool { return leg.Account == id }) {
					return fmt.Errorf("entry %+v of %q is of %+v, %v", e, id, made, ok)
				}
			}
		}
	}
	return nil
}

// allowed says whether what a request did was asked for, and its caller's to do.
func (w *world) allowed(a *asking, made Transfer) error {
	sum := int64(0)
	for i, leg := range made.Legs {
		n, _ := strconv.ParseInt(leg.Amount.Amount, 10, 64)
		sum += n
		if a.q.Kind == Move && (a.q.Legs[i] != Leg{leg.Account, n}) {
			return fmt.Errorf("%+v moved %+v", a.q, made.Legs)
		}
		owner, known := w.shards[ShardOf(leg.Account, len(w.shards))].Owner(leg.Account)
		if !known || (a.q.Kind == Move || a.q.Kind == Refund) && n < 0 && !a.q.Any && owner != a.q.By {
			return fmt.Errorf("%+v of %q moved %d of account %q, known %v, of %q", a.q, a.q.By, n, leg.Account, known, owner)
		}
	}
	if sum != 0 {
		return fmt.Errorf("%+v moved legs that add up to %d", a.q, sum)
	}
	return nil
}

// TestShards takes random requests through two to four shards.
func TestShards(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		roll := rapidDice(t)
		if err := newWorld(roll, rightly, 2+roll("shards", 3)).run(roll("steps", 150)); err != nil {
			t.Fatal(err)
		}
	})
}

// TestShardsSeeds is the same by seeds, and longer; everything that can come of a transfer between shards must happen.
func TestShardsSeeds(t *testing.T) {
	seen := map[string]int{}
	count := func(s *State, at sharedlog.Position, requests []Request) []Result {
		results := s.Apply(at, requests)
		seen[fmt.Sprintf("kind %d", requests[0].Kind)]++
		seen[fmt.Sprintf("kind %d: %v", requests[0].Kind, results[0].Refused)]++
		if r := decidedNow(s, &requests[0], results[0]); r != nil {
			seen[fmt.Sprintf("decided %v %v", kindTexts[r.kind], requests[0].Commit)]++
			if r.kind == recCapture && s.roots[r.parent].over != statusPosted {
				seen[fmt.Sprintf("decided capture of what was ended %v", requests[0].Commit)]++
			}
		}
		return results
	}
	for seed := range uint64(100) {
		if err := newWorld(seededDice(seed), count, 2+int(seed%3)).run(400); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	for _, want := range []string{"decided transfer true", "decided transfer false", "decided capture true",
		"decided capture false",
		"decided claim true", "decided claim false", "decided refund true", "decided refund false",
		"decided capture of what was ended true", "decided capture of what was ended false",
		"kind 12: account-unknown", "kind 12: account-closed", "kind 12: currency-mismatch", "kind 12: insufficient-funds",
		"kind 12: balance-overflow", "kind 12: cancelled", "kind 12: forbidden", "kind 11: idempotency-key-reused"} {
		if seen[want] == 0 {
			t.Errorf("never seen: %s", want)
		}
	}
	t.Log(seen)
}

// decidedNow returns the record of a transfer between shards that a request has just decided, or nil.
func decidedNow(s *State, q *Request, result Result) *record {
	if q.Kind == Decide && result.Record != 0 {
		switch r := s.records.at(result.Record); r.kind {
		case recCommitted, recAborted:
			return s.records.at(r.parent)
		}
	}
	return nil
}

// afterAbort is what goes wrong when a transfer of this kind is aborted; root is of what it acted on.
func afterAbort(kind recordKind, do func(s *State, q *Request, r *record, root *root)) mutant {
	return mutant{after: func(s *State, q *Request, result Result) {
		if r := decidedNow(s, q, result); r != nil && !q.Commit && r.kind == kind {
			do(s, q, r, s.roots[r.parent])
		}
	}}
}

// shardMutants are mistakes of transfers between shards.
func shardMutants() map[string]mutant {
	return map[string]mutant{
		"commits what was rejected": {before: func(q *Request) { q.Commit = q.Commit || q.Kind == Decide }},
		"finishes what was aborted": {before: func(q *Request) { q.Commit = q.Commit || q.Kind == Finish }},
		"drops what was committed":  {before: func(q *Request) { q.Commit = q.Commit && q.Kind != Finish }},
		"prepares for anybody":      {before: func(q *Request) { q.Any = q.Any || q.Kind == Prepare }},
		"prepares again": {after: func(s *State, q *Request, _ Result) {
			if q.Kind == Finish {
				delete(s.portions, q.Transfer)
			}
		}},
		"cancels what was prepared": {after: func(s *State, q *Request, result Result) {
			if p := s.portions[q.Transfer]; q.Kind == Prepare && q.Cancel && p != nil && p.pending {
				*p = portion{code: Cancelled}
			}
		}},
		"a key that says it succeeded": afterAbort(recTransfer, func(s *State, q *Request, r *record, _ *root) {
			for n := range s.keys.n {
				if k := s.keys.at(uint32(n)); k.code == q.Code && k.record == 0 {
					k.code, k.record = 0, q.Transfer.Record
				}
			}
		}),
		"reopens what was ended": afterAbort(recCapture, func(s *State, q *Request, r *record, root *root) {
			if root.over != statusPosted && root.remaining == 0 {
				root.voided, root.remaining, root.status = root.voided-r.amount, r.amount, statusHeld
				a := s.accounts.at(s.find(root.payer))
				a.held += reserved(a, r.amount)
			}
		}),
		"does not reopen": afterAbort(recCapture, func(s *State, q *Request, r *record, root *root) {
			if root.remaining > 0 {
				s.free(root, statusVoided)
				root.settle()
			}
		}),
		"a final capture that failed is final": {after: func(s *State, q *Request, result Result) {
			if r := s.roots[q.Transfer.Record]; q.Kind == Capture && q.Final && result.Settling && !result.Replayed && r != nil {
				s.free(r, statusVoided)
			}
		}},
		"refunds that failed count": afterAbort(recRefund, func(s *State, q *Request, r *record, root *root) {
			if len(root.receivedBy) == 1 {
				root.refunded, root.receivedBy[0].back = root.refunded+r.amount, root.receivedBy[0].back+r.amount
			}
		}),
	}
}

// TestShardMutants runs worlds against every mutant, which must be caught by one of the seeds.
func TestShardMutants(t *testing.T) {
	for name, m := range ordered(shardMutants()) {
		t.Run(name, func(t *testing.T) {
			caught(t, func(seed uint64) error { return newWorld(seededDice(seed), m.apply, 2+int(seed%3)).run(400) })
		})
	}
}
