package node

import (
	"encoding/json"
	"strconv"
	"time"
)

// casCounter is what one writes first over a store: the sum is one key. An add reads it and tries to set what it then must
// be, again and again until nobody was faster; a read first writes something new, as over seq-kv only that makes it see
// what the others have written. It is right: a cas that is not answered is given up, with the client's add, because
// nobody knows whether it happened. The mistakes are what makes mutants of it.
type casCounter struct {
	mistakes
	id    string
	ids   *ids
	tasks []*casTask // one after the other
	asked int64      // msg_id of the request that the first one waits for
	due   time.Duration
	send  []Message
}

type mistakes struct {
	writes  bool // sets the sum without comparing
	retries bool // does an add again whose cas was not answered
	stale   bool // reads what seq-kv happens to show
	grows   bool // acknowledges negative adds without a change
	narrow  bool // keeps narrowBits bits of the sum
}

// narrowBits is few, as a run of the workload does not add up to more than 32 bits.
const narrowBits = 6

// casTask is a client's request.
type casTask struct {
	src   string
	r     request
	delta int64
	step  casStep
	sum   int64 // that was read
}

type casStep uint8

const (
	stepMark casStep = iota // of a read: write something new
	stepShow                // and then read
	stepRead                // of an add: read
	stepSet                 // and then set
)

func casCounterSpec(m mistakes) Spec {
	return Spec{Requests: []string{"add", "read"}, New: func(s Start) (Program, error) {
		return &casCounter{mistakes: m, id: s.ID, ids: newIDs(s.Incarnation)}, nil
	}}
}

// Receive implements Program.
func (p *casCounter) Receive(now time.Duration, src string, data json.RawMessage) {
	var answer reply
	if json.Unmarshal(data, &answer) == nil && answer.InReplyTo != nil {
		if len(p.tasks) > 0 && *answer.InReplyTo == p.asked {
			p.next(now, answer)
		}
		return
	}
	r, refusal := parseRequest(data)
	t := &casTask{src: src, r: r}
	switch {
	case refusal != nil:
	case r.Type == "read" && p.stale:
		t.step = stepShow
	case r.Type == "read":
	case r.Type == "add":
		t.step = stepRead
		if t.delta, refusal = addend(r); refusal == nil && p.grows && t.delta < 0 {
			refusal = body{"type": "add_ok"}
		}
	default:
		refusal = r.unsupported()
	}
	if refusal != nil {
		p.send = append(p.send, r.reply(src, refusal)...)
		return
	}
	if p.tasks = append(p.tasks, t); len(p.tasks) == 1 {
		p.ask(now)
	}
}

// ask asks the store for what the first task needs.
func (p *casCounter) ask(now time.Duration) {
	if len(p.tasks) == 0 {
		return
	}
	t := p.tasks[0]
	p.asked, p.due = p.ids.next(), now+storeTimeout
	b := body{"type": "read", "key": "sum", "msg_id": p.asked}
	sum := t.sum + t.delta
	if p.narrow {
		sum = sum << (64 - narrowBits) >> (64 - narrowBits)
	}
	switch {
	case t.step == stepMark:
		b["type"], b["key"], b["value"] = "write", "mark/"+p.id, p.asked
	case t.step == stepSet && p.writes:
		b["type"], b["value"] = "write", sum
	case t.step == stepSet:
		b["type"], b["from"], b["to"], b["create_if_not_exists"] = "cas", t.sum, sum, true
	}
	p.send = append(p.send, Message{"seq-kv", b})
}

// next goes on with the store's answer.
func (p *casCounter) next(now time.Duration, answer reply) {
	t := p.tasks[0]
	t.sum, _ = strconv.ParseInt(string(answer.Value), 10, 64) // 0 while there is none
	switch {
	case t.step == stepShow:
		p.end(body{"type": "read_ok", "value": t.sum})
	case t.step == stepSet && answer.Type != "error":
		p.end(body{"type": "add_ok"})
	case t.step == stepSet: // somebody was faster
		t.step = stepRead
	default:
		t.step++
	}
	p.ask(now)
}

// end ends the first task.
func (p *casCounter) end(answer body) {
	p.send = append(p.send, p.tasks[0].r.reply(p.tasks[0].src, answer)...)
	p.tasks = p.tasks[1:]
}

// Persisted implements Program.
func (p *casCounter) Persisted(time.Duration, int) {}

// Ready implements Program.
func (p *casCounter) Ready(now time.Duration) Output {
	if len(p.tasks) > 0 && now >= p.due {
		switch t := p.tasks[0]; {
		case t.step != stepSet:
		case p.retries:
			t.step = stepRead
		default:
			p.end(nil)
		}
		p.ask(now)
	}
	out := Output{Send: p.send}
	p.send = nil
	return out
}

// Wake implements Program.
func (p *casCounter) Wake() time.Duration {
	if len(p.tasks) == 0 {
		return -1
	}
	return p.due
}
