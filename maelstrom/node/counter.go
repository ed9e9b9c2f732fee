package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"dongne/internal/sharedlog"
)

const (
	// counterDelay is how long adds wait for company: they then share a slot.
	counterDelay = 30 * time.Millisecond
	// counterStaleness is how old what a read shows may be.
	counterStaleness = time.Second
	// addsMax bounds how many adds a counter remembers, the last ones, to know them again.
	addsMax = 1 << 16
)

func gCounterSpec() Spec { return counterSpec("g-counter", "counts up", true) }

func pnCounterSpec() Spec { return counterSpec("pn-counter", "counts up and down", true) }

// counterSpec describes a counter; dedups says that it knows an add that it has applied before.
func counterSpec(name, does string, dedups bool) Spec {
	return Spec{
		Name:     name,
		Help:     does + " in the shared log of pay, in seq-kv: --store seq-kv|lin-kv, --delay 30ms, --staleness 1s",
		Requests: []string{"add", "read", "forward"},
		New: func(s Start) (Program, error) {
			o, err := readCounterOptions(s.Args)
			if err != nil {
				return nil, err
			}
			sum := &sums{grows: name == "g-counter", dedups: dedups, known: map[addID]bool{}}
			return &counterProgram{options: o, log: newReplicated(s, o.store, o.delay, sum), self: fmt.Sprint(s.ID, ".", s.Incarnation),
				fresh: math.MinInt64}, nil
		},
	}
}

type counterOptions struct {
	store            string
	delay, staleness time.Duration
}

func readCounterOptions(args []string) (counterOptions, error) {
	o := counterOptions{"seq-kv", counterDelay, counterStaleness}
	for len(args) > 0 {
		option, value, joined := strings.Cut(args[0], "=")
		if args = args[1:]; !joined && len(args) > 0 {
			value, args = args[0], args[1:]
		}
		var err error
		switch option {
		case "--store":
			if o.store = value; value != "seq-kv" && value != "lin-kv" {
				return o, fmt.Errorf("node: --store %q: want seq-kv or lin-kv", value)
			}
		case "--delay":
			o.delay, err = time.ParseDuration(value)
		case "--staleness":
			o.staleness, err = time.ParseDuration(value)
		default:
			return o, fmt.Errorf("node: unknown argument %q: want --store, --delay or --staleness", option)
		}
		if err != nil || o.delay < 0 || o.staleness < 0 {
			return o, fmt.Errorf("node: %s %q: want a duration like 100ms", option, value)
		}
	}
	return o, nil
}

// counterProgram is a Program that answers an add when it stands in the log, and a read from memory, if that had everything a
// while ago, which is its staleness; else from the log.
type counterProgram struct {
	options counterOptions
	log     *replicated[counterRequest, counterResult]
	self    string
	adds    int64         // without a msg_id
	known   counterResult // of the highest slot that the node heard of
	fresh   time.Duration // known has everything that was acknowledged by then
	send    []Message
}

// counterRequest is an add, or a read. An add's client and number tell it from all others.
type counterRequest struct {
	Client string `json:"c,omitempty"`
	Number int64  `json:"n,omitempty"`
	Delta  int64  `json:"d,omitempty"`
	Read   bool   `json:"r,omitempty"`
}

// counterResult is the sum after a slot.
type counterResult struct {
	Slot    uint64 `json:"s"`
	Value   int64  `json:"v"`
	Refused bool   `json:"x,omitempty"` // the add would not fit
}

// Receive implements Program.
func (c *counterProgram) Receive(now time.Duration, src string, data json.RawMessage) {
	if c.log.receive(now, src, data) {
		return
	}
	r, refusal := parseRequest(data)
	if refusal == nil {
		refusal = c.begin(now, src, r)
	}
	c.send = append(c.send, r.reply(src, refusal)...)
}

// begin returns the answer, if there is one already.
func (c *counterProgram) begin(now time.Duration, src string, r request) body {
	var q counterRequest
	switch r.Type {
	case "read":
		if c.options.staleness > 0 && c.fresh >= now-c.options.staleness {
			return c.shown()
		}
		q.Read = true
	case "add":
		delta, refusal := addend(r)
		if refusal != nil {
			return refusal
		}
		q = counterRequest{Client: src, Delta: delta}
		if r.MsgID != nil {
			q.Number = *r.MsgID
		} else { // one like no other
			c.adds++
			q.Client = fmt.Sprint(c.self, ".", c.adds)
		}
	default:
		return r.unsupported()
	}
	c.log.ask(now, q, func(result counterResult, err error) { c.end(now, src, r, result, err) })
	return nil
}

// addend returns an add's delta.
func addend(r request) (delta int64, refusal body) {
	delta, err := strconv.ParseInt(string(r.Delta), 10, 64)
	if err != nil {
		return 0, refuse(codeMalformedRequest, "add without a \"delta\" that is an integer of 64 bits")
	}
	return delta, nil
}

// end answers a request that came at asked, and has landed or failed.
func (c *counterProgram) end(asked time.Duration, src string, r request, result counterResult, err error) {
	answer := body{"type": "add_ok"}
	switch {
	case err != nil:
		answer = refusal(err)
	case result.Refused:
		answer = refuse(codeAbort, "the sum would not be one of 64 bits, or would shrink")
	default:
		c.fresh = max(c.fresh, asked)
		if result.Slot > c.known.Slot {
			c.known = result
		}
		if r.Type == "read" {
			answer = c.shown()
		}
	}
	c.send = append(c.send, r.reply(src, answer)...)
}

func (c *counterProgram) shown() body { return body{"type": "read_ok", "value": c.known.Value} }

// Persisted implements Program.
func (c *counterProgram) Persisted(time.Duration, int) {}

// Ready implements Program.
func (c *counterProgram) Ready(now time.Duration) Output {
	send := c.log.ready(now)
	out := Output{Send: append(send, c.send...)}
	c.send = nil
	return out
}

// Wake implements Program.
func (c *counterProgram) Wake() time.Duration { return c.log.wake() }

// sums is the machine behind a counter. A command is an add as JSON.
type sums struct {
	grows, dedups bool
	sum           int64
	known         map[addID]bool // adds that were applied
	order         []addID        // of known: those that came first are forgotten first
}

// addID tells an add from all others.
type addID struct {
	client string
	number int64
}

// Prepare implements sharedlog.Machine.
func (m *sums) Prepare(at sharedlog.Position, requests []counterRequest) []sharedlog.Prepared[counterResult] {
	prepared := make([]sharedlog.Prepared[counterResult], len(requests))
	for i, q := range requests {
		if q.Read { // shows what is before the slot: all that was acknowledged when the read came
			prepared[i] = sharedlog.Prepared[counterResult]{Done: true, Result: counterResult{Slot: at.Slot - 1, Value: m.sum}}
			continue
		}
		command, err := json.Marshal(q)
		if err != nil {
			panic("node: " + err.Error())
		}
		prepared[i].Commands = [][]byte{command}
	}
	return prepared
}

// Apply implements sharedlog.Machine.
func (m *sums) Apply(b *sharedlog.Batch) []counterResult {
	results := make([]counterResult, len(b.Commands))
	for i, command := range b.Commands {
		var q counterRequest
		results[i].Refused = json.Unmarshal(command.Data, &q) != nil || !m.add(q)
	}
	for i := range results {
		results[i].Slot, results[i].Value = b.Slot, m.sum
	}
	return results
}

// add returns false for an add that cannot be.
func (m *sums) add(q counterRequest) bool {
	id := addID{q.Client, q.Number}
	if m.dedups && m.known[id] {
		return true
	}
	sum := m.sum + q.Delta
	if (sum < m.sum) != (q.Delta < 0) || m.grows && q.Delta < 0 {
		return false
	}
	m.sum, m.known[id] = sum, true
	if m.order = append(m.order, id); len(m.order) > addsMax {
		delete(m.known, m.order[0])
		m.order = m.order[1:]
	}
	return true
}

// Abandon implements sharedlog.Machine: preparing changed nothing.
func (m *sums) Abandon() {}

// Snapshot implements sharedlog.Machine: it takes none.
func (m *sums) Snapshot() ([]byte, bool) { return nil, false }

// Restore implements sharedlog.Machine.
func (m *sums) Restore([]byte) error { return errors.New("node: a counter has no snapshots") }
