package node

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"dongne/internal/sharedlog"
)

const (
	// forwardTimeout is how long another node may take with requests before the node proposes them itself.
	forwardTimeout = time.Second
	// suspicion is how long a node that took longer is passed over.
	suspicion = 3 * time.Second
	// patience is how many times longer than the first node one gathers that proposes beside it, as it seems from slots of
	// others in the time of company: what each writes all have to read.
	patience, company = 4, 2 * time.Second
	// behind is how many slots must have been there in succession for a node to read all that there are, a quarter as
	// many at once as it has, and not one before each try: those beyond the end are asked for in vain.
	behind = 4
	// forwardBytesMax bounds the requests of one message; forwardRequestsMax the results of its answer.
	forwardBytesMax, forwardRequestsMax = 32 << 10, 256
	// waitingMax bounds the requests that a node has not finished.
	waitingMax = 10_000
)

// replicated lets requests land in a shared log over a key-value store, and calls back with what the machine answers. It
// knows no workload. Q and R are JSON too, as they travel:
//
//	{"type":"forward", "msg_id":1, "requests":[Q …]}        {"type":"forward_ok", "in_reply_to":1, "results":[R …]}
//
// Any node could propose slots, and any may; but where all do, they are in each other's way, and read each other's slots.
// So a node hands its requests to the first node that is not known to be away, which puts all that come within a delay
// into one slot. That is for speed alone. If no answer comes in time the node proposes the requests itself, though the
// other may have done so, or may yet: a machine has to know a request that it has applied before.
type replicated[Q, R any] struct {
	id      string
	nodes   []string // in the order in which they are preferred
	delay   time.Duration
	ids     *ids
	replica *sharedlog.Replica[Q, R]
	slots   *slots
	open    int // requests that the replica has not answered
	waiting int // all that are not done

	gathered    []*pending[Q, R] // to be proposed here, together
	gatherUntil time.Duration
	outbox      []*pending[Q, R] // to be handed over
	handed      *handover[Q, R]  // what another node has; nil: nothing
	suspects    map[string]time.Duration
	send        []Message

	metUntil time.Duration // others propose too, as it seems

	taken  int // creates of slots that were there, in succession
	others int // slots of others read since something of ours landed
	before int // and so many the time before
	budget int // slots to be read before the next create
	run    int // slots read in succession, while it is not known how many there are
}

// pending is a request that is not done.
type pending[Q, R any] struct {
	q         Q
	elsewhere bool // another node may have proposed it
	done      func(R, error)
}

// handover is what another node was asked to propose.
type handover[Q, R any] struct {
	to       string
	id       int64
	due      time.Duration
	requests []*pending[Q, R]
}

// reply is what one reads of an answer, of the store or of another node.
type reply struct {
	Type      string          `json:"type"`
	MsgID     *int64          `json:"msg_id"`
	InReplyTo *int64          `json:"in_reply_to"`
	Code      int             `json:"code"`
	Value     json.RawMessage `json:"value"`
	Requests  json.RawMessage `json:"requests"`
	Results   json.RawMessage `json:"results"`
}

// newReplicated returns a node's part in the log that the store keeps.
func newReplicated[Q, R any](s Start, store string, delay time.Duration, machine sharedlog.Machine[Q, R]) *replicated[Q, R] {
	writer := sha256.Sum256(fmt.Appendf(nil, "%s %d", s.ID, s.Incarnation))
	numbers, nodes := newIDs(s.Incarnation), slices.Clone(s.Nodes)
	if !slices.Contains(nodes, s.ID) {
		nodes = append(nodes, s.ID)
	}
	return &replicated[Q, R]{id: s.ID, nodes: nodes, delay: delay, ids: numbers, slots: newSlots(store, numbers),
		replica: sharedlog.NewReplica(machine, sharedlog.Config{Writer: sharedlog.Writer(writer[:16]),
			BatchBytesMax: slotBytesMax, BatchRequestsMax: waitingMax}),
		suspects: map[string]time.Duration{}}
}

// ask lets a request land. done is called once: with an answer, or with an error that says what is known, as a
// sharedlog.Error does.
func (p *replicated[Q, R]) ask(now time.Duration, q Q, done func(R, error)) {
	if r := p.accept(q, done); r != nil && p.proposer(now) == p.id {
		p.gather(now, r)
	} else if r != nil {
		p.outbox = append(p.outbox, r)
	}
}

func (p *replicated[Q, R]) accept(q Q, done func(R, error)) *pending[Q, R] {
	if p.waiting >= waitingMax {
		var none R
		done(none, &sharedlog.Error{Outcome: sharedlog.NotApplied, Err: sharedlog.ErrBusy})
		return nil
	}
	p.waiting++
	return &pending[Q, R]{q: q, done: done}
}

func (p *replicated[Q, R]) finish(r *pending[Q, R], result R, err error) {
	p.waiting--
	if err != nil && r.elsewhere {
		err = &sharedlog.Error{Outcome: sharedlog.Unknown, Err: err}
	}
	r.done(result, err)
}

// gather keeps a request until others have come too.
func (p *replicated[Q, R]) gather(now time.Duration, r *pending[Q, R]) {
	if len(p.gathered) == 0 {
		p.gatherUntil = now + p.delay
		if p.nodes[0] != p.id && now < p.metUntil {
			p.gatherUntil += p.delay * (patience - 1)
		}
	}
	p.gathered = append(p.gathered, r)
}

// proposer is the node that proposes for this one.
func (p *replicated[Q, R]) proposer(now time.Duration) string {
	for _, name := range p.nodes {
		if name == p.id || p.suspects[name] <= now {
			return name
		}
	}
	return p.id
}

// receive takes a message; false if it is none of the log's business.
func (p *replicated[Q, R]) receive(now time.Duration, src string, data json.RawMessage) bool {
	var r reply
	switch err := json.Unmarshal(data, &r); {
	case err != nil:
		return false
	case r.Type == "forward":
		p.takeOver(now, src, r)
	case r.InReplyTo == nil:
		return false
	case src == p.slots.store:
		p.slots.receive(r)
	case p.handed != nil && p.handed.id == *r.InReplyTo && p.handed.to == src:
		p.handedBack(now, r)
	}
	return true
}

// takeOver takes what another node wants proposed. It is not handed on: the other's choice is as good as ours.
func (p *replicated[Q, R]) takeOver(now time.Duration, src string, r reply) {
	var requests []Q
	if json.Unmarshal(r.Requests, &requests) != nil || r.MsgID == nil {
		return // like one that got lost
	}
	results, left, failed := make([]R, len(requests)), len(requests), false
	for i, q := range requests {
		one := p.accept(q, func(result R, err error) {
			results[i], left, failed = result, left-1, failed || err != nil
			switch {
			case left > 0:
			case failed: // the other will see to it
				answer := refuse(codeCrash, "not all landed")
				answer["in_reply_to"] = *r.MsgID
				p.send = append(p.send, Message{src, answer})
			default:
				p.send = append(p.send, Message{src, body{"type": "forward_ok", "in_reply_to": *r.MsgID, "results": results}})
			}
		})
		if one != nil {
			p.gather(now, one)
		}
	}
}

// handedBack takes another node's answer.
func (p *replicated[Q, R]) handedBack(now time.Duration, r reply) {
	h := p.handed
	var results []R
	if r.Type != "forward_ok" || json.Unmarshal(r.Results, &results) != nil || len(results) != len(h.requests) {
		p.takeBack(now)
		return
	}
	p.handed = nil
	for i, one := range h.requests {
		p.finish(one, results[i], nil)
	}
}

// takeBack proposes here what another node should have. It may have done so.
func (p *replicated[Q, R]) takeBack(now time.Duration) {
	h := p.handed
	p.handed = nil
	p.suspects[h.to] = now + suspicion
	for _, one := range h.requests {
		one.elsewhere = true
		p.gather(now, one)
	}
	p.gatherUntil = now // they have waited long enough
}

// ready returns what is to be sent now.
func (p *replicated[Q, R]) ready(now time.Duration) []Message {
	if p.handed != nil && now >= p.handed.due {
		p.takeBack(now)
	}
	p.slots.expire(now)
	p.handOver(now)
	if len(p.gathered) > 0 && now >= p.gatherUntil {
		p.propose()
	}
	p.drive(now)
	send := slices.Concat(p.slots.send, p.send)
	p.slots.send, p.send = nil, nil
	return send
}

// handOver sends requests to the proposer, those that came while it had others together.
func (p *replicated[Q, R]) handOver(now time.Duration) {
	if len(p.outbox) == 0 || p.handed != nil {
		return
	}
	to := p.proposer(now)
	if to == p.id {
		for _, r := range p.outbox {
			p.gather(now, r)
		}
		p.outbox = nil
		return
	}
	var requests []json.RawMessage
	bytes := 0
	for _, r := range p.outbox {
		text, err := json.Marshal(r.q)
		if err != nil {
			panic("node: " + err.Error()) // a program's own request
		}
		if bytes += len(text); len(requests) == forwardRequestsMax || len(requests) > 0 && bytes > forwardBytesMax {
			break
		}
		requests = append(requests, text)
	}
	p.handed = &handover[Q, R]{to, p.ids.next(), now + forwardTimeout, p.outbox[:len(requests):len(requests)]}
	p.outbox = p.outbox[len(requests):]
	p.send = append(p.send, Message{to, body{"type": "forward", "msg_id": p.handed.id, "requests": requests}})
}

// propose asks the replica for what was gathered.
func (p *replicated[Q, R]) propose() {
	for _, r := range p.gathered {
		p.replica.Ask(r, r.q)
		p.open++
	}
	p.gathered = nil
}

// drive does what the replica wants done, as far as that goes without waiting.
func (p *replicated[Q, R]) drive(now time.Duration) {
	for p.open > 0 {
		if !p.slots.busy() && !p.begin(now) {
			return
		}
		c := p.slots.result()
		if c == nil {
			return
		}
		p.tell(now, c)
		p.answer()
	}
}

// begin begins the replica's next operation; false if there is none.
func (p *replicated[Q, R]) begin(now time.Duration) bool {
	op := p.replica.Next(int64(now))
	for op.Kind == sharedlog.OpGet && p.budget == 0 { // that nothing is there proves nothing, so it can as well be assumed
		p.replica.Absent()
		op = p.replica.Next(int64(now))
	}
	p.answer()
	if op.Kind == sharedlog.OpNone {
		return false
	}
	p.slots.begin(now, op, min(1+p.run/4, slotsAheadMax))
	return true
}

// tell tells the replica what came of an operation.
func (p *replicated[Q, R]) tell(now time.Duration, c *came) {
	switch {
	case c.outcome == sharedlog.Created:
		p.taken, p.run = 0, 0
		p.replica.Created(sharedlog.Created, nil)
	case c.kind == sharedlog.OpCreate:
		p.taken++
		if p.budget = 1; p.taken == 1 { // others write too: it will be as many as the last time
			p.budget = min(max(1, p.before), behind)
		}
		p.replica.Created(c.outcome, nil)
	case c.data == nil:
		p.budget, p.run = 0, 0
		p.replica.Absent()
	default:
		p.others++
		p.metUntil = now + company
		p.budget--
		// What is damaged stops the replica: it says so to every request.
		if p.replica.Got(c.data); p.taken >= behind {
			p.budget = math.MaxInt
			p.run++
		}
		if p.budget > 0 {
			p.replica.Catchup()
		}
	}
}

// answer calls back for the requests that ended.
func (p *replicated[Q, R]) answer() {
	answers := slices.Clone(p.replica.Answers())
	if len(answers) > 0 {
		p.before, p.others = p.others, 0
	}
	for _, a := range answers {
		p.open--
		p.finish(a.Tag.(*pending[Q, R]), a.Result, a.Err)
	}
}

// wake returns when ready must be called at the latest; negative: never.
func (p *replicated[Q, R]) wake() time.Duration {
	wake := p.slots.wake()
	if len(p.gathered) > 0 {
		wake = min(wake, p.gatherUntil)
	}
	if p.handed != nil {
		wake = min(wake, p.handed.due)
	}
	if wake == math.MaxInt64 {
		return -1
	}
	return wake
}

// refusal is the answer to a client whose request failed.
func refusal(err error) body {
	if sharedlog.OutcomeOf(err) == sharedlog.NotApplied {
		return refuse(codeUnavailable, "%v", errors.Unwrap(err))
	}
	return refuse(codeCrash, "%v", err)
}
