// Package interpreter is the pure core of a run: it decides when which client asks which node for what and when the
// nemesis strikes, reads the replies, and keeps the history. The command "test" drives it with the wall clock and real
// processes, "sim" in virtual time.
//
// It follows Jepsen's interpreter and Maelstrom's schedule (src/maelstrom/core.clj): workers with one operation at a
// time, staggered at random over all of them; then, for workloads that want it, the nemesis heals everything, and after
// a time to recover every worker does a last operation.
package interpreter

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"dongne/maelstrom/history"
	"dongne/maelstrom/network"
	"dongne/maelstrom/workload"
)

// Config is what an Interpreter starts from.
type Config struct {
	Workload    workload.Workload
	Nodes       []string
	Concurrency int           // workers; worker i talks to node i modulo their number
	Rate        float64       // operations per second over all workers; 0: none
	TimeLimit   time.Duration // of the main phase
	Timeout     time.Duration // of a request
	Recovery    time.Duration // from the healing of everything to the last operations
	Kinds       []string      // of faults; empty: no nemesis
	Interval    time.Duration // mean time between two operations of the nemesis
	FirstClient int           // the number of the first client that is opened
	Rand        *rand.Rand    // draws operations
	Faults      *rand.Rand    // draws faults
	Compat      bool          // draw also partitions that cut nothing
}

// An Action is something to be done by the driver; exactly one member is set.
type Action struct {
	Open, Close string // a client's endpoint
	Send        *network.Message
	Fault       *Fault // carry it out, and say so with FaultDone; others may come before
	Note        string // a line for people: a new phase
}

// phase is where a run stands.
type phase uint8

const (
	setup    phase = iota // clients prepare the nodes
	main                  // operations and faults
	drain                 // of the main phase: what is outstanding ends
	healing               // the nemesis ends all faults
	recovery              // nothing but time
	final                 // last operations
	done
)

// An Interpreter is one run. It is not safe for concurrent use.
type Interpreter struct {
	Config
	phase   phase
	origin  time.Duration // when the main phase began
	next    time.Duration // of the next operation
	wake    time.Duration // end of the recovery
	nemesis *nemesis
	acting  bool    // a fault is being carried out: as in Jepsen one at a time
	waiting []Fault // others
	workers []*worker
	clients int
	ops     []history.Op
	actions []Action

	invoked   int
	completed [history.Info + 1]int // by history.Type
	err       error
	findings  []history.Finding
}

// worker is a thread of operations, with its client.
type worker struct {
	number  int
	process int
	node    string
	client  string // "" while it has none
	msgID   int64
	busy    bool
	doing   workload.Invocation
	final   bool
	due     time.Duration // the reply's
}

// New returns a run that has not begun.
func New(c Config) *Interpreter {
	p := &Interpreter{Config: c, clients: c.FirstClient}
	p.nemesis = newNemesis(c.Kinds, c.Nodes, c.Interval, c.Faults, c.Compat)
	for i := range c.Concurrency {
		p.workers = append(p.workers, &worker{number: i, process: i, node: c.Nodes[i%len(c.Nodes)]})
	}
	return p
}

// Start begins with the preparation of the nodes.
func (p *Interpreter) Start(now time.Duration) {
	for _, node := range p.Nodes {
		body := p.Workload.Setup(node)
		if body == nil {
			continue
		}
		w := &worker{number: -1, node: node}
		p.workers = append(p.workers, w)
		p.request(now, w, body)
	}
	p.settle(now)
}

// Done says that the run is over.
func (p *Interpreter) Done() bool { return p.phase == done }

// A SetupError is a node that did not take what Setup sent.
type SetupError struct{ Node, What string }

func (e *SetupError) Error() string { return e.Node + " " + e.What }

// Err is why the run could not begin: a *SetupError.
func (p *Interpreter) Err() error { return p.err }

// Step returns what is to be done now.
func (p *Interpreter) Step(now time.Duration) []Action {
	for _, w := range p.workers {
		if w.busy && w.due <= now {
			p.timeout(now, w)
		}
	}
	p.settle(now)
	actions := p.actions
	p.actions = nil
	return actions
}

// settle does what the phase wants, and moves on to the next when it is over.
func (p *Interpreter) settle(now time.Duration) {
	switch {
	case p.phase == setup && !p.anyBusy():
		p.workers = p.workers[:p.Concurrency]
		p.origin, p.next, p.phase = now, now, main
		for _, k := range p.nemesis.kinds {
			k.at = now
		}
	case p.phase == main && now >= p.origin+p.TimeLimit:
		p.phase = drain
	case p.phase == drain && !p.anyBusy() && !p.acting:
		if _, wanted := p.Workload.Final(); !wanted {
			p.finish()
			return
		}
		p.phase = healing
		for _, f := range p.nemesis.last() {
			p.strike(now, f)
		}
	case p.phase == healing && !p.acting:
		p.note("Waiting for recovery...")
		p.wake, p.phase = now+p.Recovery, recovery
	case p.phase == recovery && now >= p.wake:
		p.phase = final
		inv, _ := p.Workload.Final()
		for _, w := range p.workers {
			p.invoke(now, w, inv, true)
		}
		return
	case p.phase == final && !p.anyBusy():
		p.finish()
		return
	default:
		if p.phase == main {
			p.operate(now)
		}
		return
	}
	p.settle(now)
}

func (p *Interpreter) finish() {
	p.phase = done
	for _, w := range p.workers {
		p.closeClient(w)
	}
}

// operate invokes the operations, and strikes the blows, that are due in the main phase.
func (p *Interpreter) operate(now time.Duration) {
	for k := p.nemesis.due(); k != nil && k.at <= now && !p.acting; k = p.nemesis.due() {
		p.strike(now, p.nemesis.next(k))
	}
	for p.Rate > 0 && p.next <= now {
		free := p.free()
		if len(free) == 0 {
			p.next = now // as soon as somebody is free
			return
		}
		p.invoke(now, free[p.Rand.IntN(len(free))], p.Workload.Next(p.Rand), false)
		p.next += time.Duration(p.Rand.Float64() * 2 / p.Rate * float64(time.Second))
	}
}

// Wake returns when Step must be called at the latest.
func (p *Interpreter) Wake() time.Duration {
	wake := network.Never
	for _, w := range p.workers {
		if w.busy {
			wake = min(wake, w.due)
		}
	}
	switch p.phase {
	case main:
		wake = min(wake, p.origin+p.TimeLimit)
		if p.Rate > 0 && len(p.free()) > 0 {
			wake = min(wake, p.next)
		}
		if k := p.nemesis.due(); k != nil && !p.acting {
			wake = min(wake, k.at)
		}
	case recovery:
		wake = min(wake, p.wake)
	}
	return wake
}

func (p *Interpreter) free() []*worker {
	var free []*worker
	for _, w := range p.workers {
		if !w.busy {
			free = append(free, w)
		}
	}
	return free
}

func (p *Interpreter) anyBusy() bool { return len(p.free()) < len(p.workers) }

func (p *Interpreter) note(line string) { p.actions = append(p.actions, Action{Note: line}) }

// invoke lets a worker begin an operation.
func (p *Interpreter) invoke(now time.Duration, w *worker, inv workload.Invocation, last bool) {
	w.doing, w.final = inv, last
	p.record(now, history.Op{Type: history.Invoke, Process: w.process, F: inv.F, Value: inv.Value, Final: last, Node: w.node})
	p.request(now, w, p.Workload.Request(inv))
}

// request sends the worker's next message, from a new client if it has none.
func (p *Interpreter) request(now time.Duration, w *worker, body any) {
	if w.client == "" {
		w.client, w.msgID = fmt.Sprintf("c%d", p.clients), 0
		p.clients++
		p.actions = append(p.actions, Action{Open: w.client})
	}
	w.msgID++
	w.busy, w.due = true, now+p.Timeout
	p.actions = append(p.actions, Action{Send: &network.Message{Src: w.client, Dest: w.node, Body: withID(body, w.msgID)}})
}

// withID encodes a body with its msg_id.
func withID(body any, id int64) json.RawMessage {
	b, err := json.Marshal(body)
	if err != nil {
		panic("interpreter: " + err.Error()) // our own requests
	}
	return fmt.Appendf(b[:len(b)-1], `,"msg_id":%d}`, id)
}

func (p *Interpreter) closeClient(w *worker) {
	if w.client != "" {
		p.actions = append(p.actions, Action{Close: w.client})
		w.client = ""
	}
}

// Receive takes what a client was sent. The reply to anything but its outstanding request is discarded.
func (p *Interpreter) Receive(now time.Duration, m network.Message) {
	for _, w := range p.workers {
		if w.client != m.Dest {
			continue
		}
		head, members, err := network.ParseBody(m.Body)
		if !w.busy || head.InReplyTo == nil || *head.InReplyTo != w.msgID {
			switch {
			case err != nil || head.InReplyTo == nil:
				p.badReply(now, w, fmt.Sprintf("a message to a client that answers nothing: it has no valid \"in_reply_to\": %.200s", m.Body), m.Body)
			case *head.InReplyTo < 1 || *head.InReplyTo > w.msgID:
				p.badReply(now, w, fmt.Sprintf("an answer to a request that was never made: \"in_reply_to\" is %d, and must be the \"msg_id\" of the "+
					"request, of which the client has sent 1 to %d", *head.InReplyTo, w.msgID), m.Body)
			}
			return
		}
		p.reply(now, w, head, m.Body, members, err)
	}
}

func (p *Interpreter) reply(now time.Duration, w *worker, head network.Head, body json.RawMessage, members map[string]json.RawMessage, err error) {
	w.busy = false
	if w.number < 0 {
		p.setupReply(w, head, body)
		return
	}
	op := history.Op{Type: history.OK, Process: w.process, F: w.doing.F, Final: w.final, Node: w.node}
	if err == nil && head.Type == "error" {
		p.refusal(now, w, op, members)
		return
	}
	if err == nil {
		op.Value, err = p.Workload.Reply(op.F).Read(w.doing, head, body, members)
	}
	if err != nil {
		op.Type, op.Value, op.Exception = history.Info, w.doing.Value, err.Error()
		op.Error.Text = "indeterminate: " + err.Error()
		p.badReply(now, w, err.Error(), body)
	}
	p.complete(now, w, op)
}

func (p *Interpreter) badReply(now time.Duration, w *worker, text string, body json.RawMessage) {
	p.findings = append(p.findings, history.Finding{Time: now, Node: w.node, Kind: history.BadReply, Text: text, Line: fmt.Sprintf("%.1000s", body)})
}

func (p *Interpreter) setupReply(w *worker, head network.Head, body json.RawMessage) {
	p.closeClient(w)
	if want := setupType(p.Workload.Setup(w.node)) + "_ok"; head.Type != want {
		p.err = &SetupError{w.node, fmt.Sprintf("answered %.200s, not %s", body, want)}
		p.finish()
	}
}

func setupType(body any) string {
	b, _ := json.Marshal(body)
	head, _, _ := network.ParseBody(b)
	return head.Type
}

// refusal takes an error body.
func (p *Interpreter) refusal(now time.Duration, w *worker, op history.Op, members map[string]json.RawMessage) {
	var code int
	var text string
	if err := json.Unmarshal(members["code"], &code); err != nil {
		op.Type, op.Value, op.Exception = history.Info, w.doing.Value, "an error without an integer code"
		p.badReply(now, w, "an error body needs an integer \"code\" (specification of errors: 0 to 30, or your own from 1000)", members["code"])
		p.complete(now, w, op)
		return
	}
	json.Unmarshal(members["text"], &text) // none is well
	op.Value, op.Error = w.doing.Value, history.Error{Name: history.ErrorName(code), Text: text}
	p.unsure(now, w, op)
}

// timeout ends an operation that was not answered in time.
func (p *Interpreter) timeout(now time.Duration, w *worker) {
	w.busy = false
	if w.number < 0 {
		p.err = &SetupError{w.node, fmt.Sprintf("did not answer %q within %v", setupType(p.Workload.Setup(w.node)), p.Timeout)}
		p.finish()
		return
	}
	op := history.Op{Process: w.process, F: w.doing.F, Value: w.doing.Value, Final: w.final, Node: w.node, Error: history.Error{Name: "net-timeout"}}
	p.unsure(now, w, op)
}

// unsure completes an operation that did not end well: as failed, if it did not happen or did not change anything.
func (p *Interpreter) unsure(now time.Duration, w *worker, op history.Op) {
	op.Type = history.Info
	switch {
	case !p.Workload.Refusable():
		op.Exception = strings.TrimSuffix(op.Error.Name+": "+op.Error.Text, ": ")
	case op.Error.Definite(), p.Workload.Idempotent(op.F):
		op.Type = history.Fail
	}
	p.complete(now, w, op)
}

func (p *Interpreter) complete(now time.Duration, w *worker, op history.Op) {
	p.record(now, op)
	if op.Type != history.Info {
		return
	}
	w.process += p.Concurrency
	if !p.Workload.Reusable() {
		p.closeClient(w)
	}
}

// strike records the nemesis' invocation and lets the driver carry it out.
func (p *Interpreter) strike(now time.Duration, f Fault) {
	if p.acting {
		p.waiting = append(p.waiting, f)
		return
	}
	p.acting = true
	p.record(now, history.Op{Type: history.Info, Process: history.Nemesis, F: f.F})
	p.actions = append(p.actions, Action{Fault: &f})
}

// FaultDone says that a fault was carried out.
func (p *Interpreter) FaultDone(now time.Duration, f *Fault) {
	p.acting = false
	p.record(now, history.Op{Type: history.Info, Process: history.Nemesis, F: f.F, Value: f.Value})
	if len(p.waiting) > 0 {
		next := p.waiting[0]
		p.waiting = p.waiting[1:]
		p.strike(now, next)
	}
}

func (p *Interpreter) record(now time.Duration, op history.Op) {
	op.Index, op.Time = len(p.ops), now-p.origin
	p.ops = append(p.ops, op)
	switch {
	case op.Process == history.Nemesis:
	case op.Type == history.Invoke:
		p.invoked++
	default:
		p.completed[op.Type]++
	}
}

// Progress says how far a run is.
type Progress struct {
	Elapsed            time.Duration // of the main phase
	Invoked            int
	OK, Failed, Unsure int
	Phase              string
}

// Progress returns how far the run is.
func (p *Interpreter) Progress(now time.Duration) Progress {
	return Progress{Elapsed: max(0, now-p.origin), Invoked: p.invoked, OK: p.completed[history.OK],
		Failed: p.completed[history.Fail], Unsure: p.completed[history.Info],
		Phase: [...]string{"setup", "running", "draining", "healing", "recovering", "final reads", "done"}[p.phase]}
}

// History returns what was recorded, its times counted from the begin of the main phase at origin, and what nodes
// answered against the protocol.
func (p *Interpreter) History() (ops []history.Op, findings []history.Finding, origin time.Duration) {
	findings = slices.Clone(p.findings)
	for i := range findings {
		findings[i].Time -= p.origin
	}
	return p.ops, findings, p.origin
}
