package realm

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"dongne/internal/sharedlog"
)

// race is two nodes over one log, and a few clients that do something about one session of one user at once: slots that
// are contended, creates whose answer is lost, nodes that die between the commit and the reply.
type race struct {
	rng   *rand.Rand
	apply applier
	slots map[uint64][]byte
	nodes [2]*sharedlog.Replica[*Call, Result]
	apps  [2]*raceMachine
	alive int           // nodes that were started
	now   time.Duration // since startTime
	ops   []*raceOp
	step  int
}

// raceOp is a request of a client.
type raceOp struct {
	q           Request
	from        int // step before which it is not asked
	node        int // that was asked last
	asked, done int // steps
	lost        bool
	result      Result
}

// raceMachine applies as mutants do.
type raceMachine struct {
	Machine
	apply applier
}

func (m *raceMachine) Apply(b *sharedlog.Batch) []Result {
	results := make([]Result, len(b.Commands))
	for i, c := range b.Commands {
		q, err := Decode(c.Data)
		if err != nil {
			panic(err)
		}
		results[i] = m.apply(m.State, sharedlog.Position{Slot: b.Slot, Time: b.Time}, q)
	}
	return results
}

var (
	raceSession = SessionID{1}
	raceTokens  = []Hash{HashOf("t1"), HashOf("t2"), HashOf("t3")} // of generations 1 to 3; the last is current
)

// raceStart is the log before the race: a user, a session at generation 3.
func raceStart() []Request {
	return []Request{
		&SignUp{User: "ana", Login: "ana", Password: "p1"},
		&LogIn{User: "ana", Checked: 1, Opening: Opening{Session: raceSession, Token: raceTokens[0]}},
		&Refresh{Session: raceSession, Generation: 1, Token: raceTokens[0], Next: raceTokens[1], Sealed: raceTokens[1][:]},
		&Refresh{Session: raceSession, Generation: 2, Token: raceTokens[1], Next: raceTokens[2], Sealed: raceTokens[2][:]},
	}
}

func newRace(seed uint64, apply applier) *race {
	r := &race{rng: rand.New(rand.NewPCG(seed, 6)), apply: apply, slots: map[uint64][]byte{}}
	var prev sharedlog.Hash
	for i, q := range raceStart() {
		command, err := Encode(q)
		if err != nil {
			panic(err)
		}
		b := sharedlog.Batch{Slot: uint64(i + 1), Time: r.clock(), Prev: prev, Commands: []sharedlog.Command{{Data: command}}}
		r.slots[b.Slot] = b.Encode()
		prev = sharedlog.Sum(r.slots[b.Slot])
		r.now += time.Second
	}
	for node := range r.nodes {
		r.start(node)
	}
	r.now += pick(r.roll, "pause", 0, 5*time.Second, 30*time.Second)
	for n := range 2 + r.rng.IntN(4) {
		r.ops = append(r.ops, &raceOp{q: r.request(n), from: r.rng.IntN(12)})
	}
	return r
}

func (r *race) roll(_ string, n int) int { return r.rng.IntN(n) }

func (r *race) clock() int64 { return startTime*int64(time.Millisecond) + int64(r.now) }

func (r *race) start(node int) {
	r.alive++
	r.apps[node] = &raceMachine{Machine{New()}, r.apply}
	r.nodes[node] = sharedlog.NewReplica[*Call, Result](r.apps[node],
		sharedlog.Config{Writer: sharedlog.Writer{byte(r.alive)}, BatchBytesMax: 1 << 16, BatchRequestsMax: 3})
}

func (r *race) request(n int) Request {
	mark := strconv.Itoa(n)
	keep := pick(r.roll, "keep", SessionID{}, raceSession)
	switch r.rng.IntN(12) {
	case 0:
		return marked(&EndSession{Session: raceSession, By: "ana"}, mark)
	case 1:
		return marked(&EndSessions{User: "ana", Keep: keep}, mark)
	case 2:
		return marked(&SetPassword{User: "ana", Checked: 1, Password: "p2", Keep: keep}, mark)
	case 3:
		return marked(&SetDisabled{User: "ana", Disabled: true}, mark)
	case 4:
		return marked(&LogIn{User: "ana", Checked: 1}, mark)
	}
	which := pick(r.roll, "token", 2, 2, 2, 2, 2, 2, 1, 0)
	return marked(&Refresh{Session: raceSession, Generation: uint32(which + 1), Token: raceTokens[which]}, mark)
}

// marked returns the request as one of a client's tries: with an address, a successor, a session of its own.
func marked(q Request, mark string) Request {
	switch q := q.(type) {
	case *EndSession:
		other := *q
		other.Address = mark
		return &other
	case *EndSessions:
		other := *q
		other.Address = mark
		return &other
	case *SetPassword:
		other := *q
		other.Address = mark
		return &other
	case *SetDisabled:
		other := *q
		other.Address = mark
		return &other
	case *LogIn:
		other := *q
		other.Token = HashOf(mark)
		other.Session = SessionID(other.Token[:16])
		return &other
	case *Refresh:
		other := *q
		other.Next = HashOf(mark)
		other.Sealed = bytes.Clone(other.Next[:])
		return &other
	}
	panic("a race has no such request")
}

const raceStepsMax = 2000

// run lets everything happen, in some order, until all clients have their answer.
func (r *race) run() error {
	pace := pick(r.roll, "pace", time.Millisecond, 100*time.Millisecond, 3*time.Second)
	open := len(r.ops)
	for r.step = 1; open > 0; r.step++ {
		if r.step > raceStepsMax {
			return errors.New("no end")
		}
		r.now += time.Duration(r.rng.Int64N(int64(pace)))
		for _, op := range r.ops {
			if op.asked == 0 && r.step >= op.from {
				op.asked = r.step
				r.ask(op)
			}
		}
		node := r.rng.IntN(len(r.nodes))
		if r.rng.IntN(40) == 0 {
			r.kill(node)
		}
		if err := r.turn(node); err != nil {
			return err
		}
		if r.rng.IntN(30) == 0 {
			r.kill(node) // before it replies
		}
		for _, a := range r.nodes[node].Answers() {
			if a.Err != nil {
				return a.Err
			}
			op := a.Tag.(*raceOp)
			op.result, op.done = a.Result, r.step
			open--
		}
	}
	return r.judge()
}

func (r *race) ask(op *raceOp) {
	op.node = r.rng.IntN(len(r.nodes))
	call, err := NewCall(op.q)
	if err != nil {
		panic(err)
	}
	r.nodes[op.node].Ask(op, call)
}

// kill ends a node, and starts it anew. Its clients do not know what became of their requests; they ask again,
// anywhere, with the token that they have.
func (r *race) kill(node int) {
	r.start(node)
	for i, op := range r.ops {
		if op.asked == 0 || op.done != 0 || op.node != node {
			continue
		}
		again := *op
		op.lost, op.done = true, r.step
		again.q = marked(op.q, fmt.Sprint(i, ", again at ", r.step))
		again.asked, again.lost = r.step, false
		r.ops[i] = &again
		r.ops = append(r.ops, op)
		r.ask(&again)
	}
}

// turn performs the next operation of a node.
func (r *race) turn(node int) error {
	replica := r.nodes[node]
	switch op := replica.Next(r.clock()); op.Kind {
	case sharedlog.OpGet:
		if data, there := r.slots[op.Slot]; there {
			return replica.Got(data)
		}
		replica.Absent()
	case sharedlog.OpCreate:
		_, taken := r.slots[op.Slot]
		how := r.rng.IntN(8)
		if !taken && how != 1 {
			r.slots[op.Slot] = op.Data
		}
		switch {
		case how <= 1: // the answer was lost, or the request
			replica.Created(sharedlog.Unknown, nil)
		case taken:
			replica.Created(sharedlog.Taken, nil)
		default:
			replica.Created(sharedlog.Created, nil)
		}
	}
	return nil
}

// family is what a sequence of requests should do to the session, in the plainest words.
type family struct {
	tokens          []Hash
	rotated         int64
	ended, disabled bool
	passwords       int // that were set
}

// do says what comes of a request at a time, and which successor its client gets.
func (f *family) do(q Request, at int64) (Code, Hash) {
	last := len(f.tokens) - 1
	switch q := q.(type) {
	case *Refresh:
		which := slices.Index(f.tokens, q.Token)
		switch {
		case f.disabled:
			return UserDisabled, Hash{}
		case f.ended:
			return SessionEnded, Hash{}
		case which == last:
			f.tokens, f.rotated = append(slices.Clone(f.tokens), q.Next), at
			return Done, q.Next
		case which == last-1 && at < f.rotated+10*second:
			return Same, f.tokens[last]
		}
		f.ended = true
		return Reuse, Hash{}
	case *EndSession:
		if f.ended {
			return SessionEnded, Hash{}
		}
		f.ended = true
	case *EndSessions:
		f.ended = f.ended || q.Keep != raceSession
	case *SetPassword:
		if f.passwords > 0 {
			return Stale, Hash{}
		}
		f.passwords++
		f.ended = f.ended || q.Keep != raceSession
	case *SetDisabled:
		if f.disabled {
			return Same, Hash{}
		}
		f.disabled, f.ended = true, true
	case *LogIn:
		switch {
		case f.disabled:
			return UserDisabled, Hash{}
		case f.passwords > 0:
			return Stale, Hash{}
		}
	}
	return Done, Hash{}
}

// judge looks for an order of what happened that explains all answers: of the log's times, and in which nothing comes
// before what was answered before it was asked.
func (r *race) judge() error {
	var happened []*raceOp
	times := r.times()
	for _, op := range r.ops {
		at, logged := times[keyOf(op.q)]
		switch {
		case op.lost && !logged:
			continue // it never was
		case op.lost:
			op.result.At = at
		}
		happened = append(happened, op)
	}
	start := family{tokens: raceTokens, rotated: startTime + 3*second}
	if !explains(start, happened) {
		text := ""
		for _, op := range happened {
			text += fmt.Sprintf("\n  steps %d to %d, at %d, lost %v: %T%+v: %v", op.asked, op.done, op.result.At-startTime,
				op.lost, op.q, op.q, op.result)
		}
		return fmt.Errorf("no order explains%s", text)
	}
	return r.agree()
}

// keyOf tells requests apart.
func keyOf(q Request) string {
	command, err := Encode(q)
	if err != nil {
		panic(err)
	}
	return string(command)
}

// times is when each request of the log was done first, in milliseconds.
func (r *race) times() map[string]int64 {
	times := map[string]int64{}
	for slot := uint64(1); r.slots[slot] != nil; slot++ {
		b, err := sharedlog.DecodeBatch(r.slots[slot])
		if err != nil {
			panic(err)
		}
		for _, c := range b.Commands {
			if _, known := times[string(c.Data)]; !known {
				times[string(c.Data)] = b.Time / int64(time.Millisecond)
			}
		}
	}
	return times
}

// explains says whether some order of what is left explains all answers.
func explains(f family, left []*raceOp) bool {
	if len(left) == 0 {
		return true
	}
	for i, op := range left {
		rest := slices.Concat(left[:i], left[i+1:])
		if slices.ContainsFunc(rest, func(other *raceOp) bool {
			return other.result.At < op.result.At || !other.lost && other.done < op.asked
		}) {
			continue
		}
		next := f
		code, successor := next.do(op.q, op.result.At)
		if !op.lost && (code != op.result.Code || !gives(op, successor)) {
			continue
		}
		if explains(next, rest) {
			return true
		}
	}
	return false
}

// gives says whether the client of a refresh gets this successor.
func gives(op *raceOp, successor Hash) bool {
	q, is := op.q.(*Refresh)
	switch {
	case !is:
		return true
	case op.result.Code == Done:
		return q.Next == successor
	case op.result.Code == Same:
		return bytes.Equal(op.result.Sealed, successor[:])
	}
	return true
}

// agree reads the log to its end on both nodes, which must be equal then, and sound.
func (r *race) agree() error {
	var whole [2][]byte
	for node := range r.nodes {
		r.start(node)
		for slot := uint64(1); r.slots[slot] != nil; slot++ {
			b, err := sharedlog.DecodeBatch(r.slots[slot])
			if err != nil {
				return err
			}
			r.apps[node].Apply(b)
		}
		whole[node] = r.apps[node].State.Snapshot()
		if err := r.apps[node].State.Check(); err != nil {
			return err
		}
	}
	if !bytes.Equal(whole[0], whole[1]) {
		return errors.New("the nodes disagree")
	}
	return nil
}

const raceSeeds = 10_000

// TestRaces runs 10,000 interleavings of two to five clients; each has an order that explains it.
func TestRaces(t *testing.T) {
	codes := map[Code]int{}
	lost := 0
	for seed := range uint64(raceSeeds) {
		r := newRace(seed, rightly)
		if err := r.run(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, op := range r.ops {
			if op.lost {
				lost++
				continue
			}
			codes[op.result.Code]++
		}
	}
	for _, code := range []Code{Done, Same, Reuse, SessionEnded, UserDisabled, Stale} {
		if codes[code] < raceSeeds/50 {
			t.Errorf("%d of %d seeds' answers are %v: too few to mean much", codes[code], raceSeeds, code)
		}
	}
	if lost < raceSeeds/50 {
		t.Errorf("%d answers were lost with their node", lost)
	}
	t.Logf("answers: %v; %d lost", codes, lost)
}

// TestRacesMutants sees to it that races find mistakes.
func TestRacesMutants(t *testing.T) {
	for _, name := range []string{"reuse does not end the family", "grace without limit", "no grace", "another successor",
		"disabled users log in", "a log-in wins against a password change", "an ended session is refreshed",
		"password change keeps sessions", "disabled users keep sessions"} {
		t.Run(name, func(t *testing.T) {
			caught(t, func(seed uint64) error { return newRace(seed, mutants()[name]).run() })
		})
	}
}
