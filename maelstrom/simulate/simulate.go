// Package simulate runs an interpreter in virtual time: the built-in node programs, the services, the clients and the
// nemesis in one goroutine over internal/sim, from one seed. The same seed gives the same history.
package simulate

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"dongne/internal/sim"
	"dongne/maelstrom/history"
	"dongne/maelstrom/interpreter"
	"dongne/maelstrom/network"
	"dongne/maelstrom/node"
	"dongne/maelstrom/service"
)

// Kinds are the faults that a simulation knows.
func Kinds() []string {
	return []string{"partition", "one-way", "kill", "pause", "loss", "duplicate", "reorder", "slow", "slow-disk", "stall", "lost-reply"}
}

// Config is what a run needs.
type Config struct {
	Seed        uint64
	Spec        node.Spec
	Args        []string // of every node
	Nodes       []string
	Services    map[string]service.Service
	Latency     sim.Latency   // between nodes and services; clients have none
	Disk        time.Duration // of a write
	Interpreter interpreter.Config
}

// A world is one run.
type world struct {
	Config
	sim      *sim.World
	net      *sim.Network
	play     *interpreter.Interpreter
	hosts    map[string]*host
	clients  map[string]bool // endpoint → it is open; false: it is gone
	journal  history.Journal
	next     int64                 // id of the next message
	weather  map[string]*sim.Fault // going on, by kind
	luck     *rand.Rand
	stalled  bool     // the services answer when that is over
	stalls   []func() // what they were asked meanwhile
	deaf     float64  // the probability that the reply of a service is lost: what was asked has happened
	findings []history.Finding
	wakeAt   time.Duration
	ended    time.Duration
	err      error
}

// slice is how far a run goes before it is asked whether it is over, in virtual time.
const slice = 50 * time.Millisecond

// Run carries out a run, and returns what was recorded and the hash of all that happened. The error says why there is
// nothing to be judged.
func Run(c Config) (*history.Run, uint64, error) {
	w := &world{Config: c, sim: sim.New(c.Seed, nil), hosts: map[string]*host{}, clients: map[string]bool{},
		weather: map[string]*sim.Fault{}, wakeAt: -1}
	w.net, w.luck = sim.NewNetwork(w.sim, c.Latency), w.sim.Rand("weather")
	for _, name := range c.Nodes {
		h := &host{world: w, name: name, disk: w.sim.Rand("disk " + name)}
		w.hosts[name] = h
		w.net.Listen(name, h.hear)
		h.start()
	}
	for name, s := range c.Services {
		w.net.Listen(name, func(from string, data []byte) { w.serve(name, s, from, data) })
	}
	w.play = interpreter.New(c.Interpreter)
	w.play.Start(0)
	w.step()
	for !w.play.Done() && w.err == nil {
		w.sim.Run(w.sim.Now() + slice)
	}
	if w.err == nil {
		w.err = w.play.Err()
	}
	return w.result(), w.sim.Hash(), w.err
}

func (w *world) result() *history.Run {
	r := &history.Run{Simulated: true, Nodes: w.Nodes, Journal: w.journal}
	var origin time.Duration
	r.Ops, r.Findings, origin = w.play.History()
	r.Elapsed = w.ended - origin
	r.Journal.Dropped = int(w.net.Dropped)
	for i := range r.Journal.Events {
		r.Journal.Events[i].Time -= origin
	}
	for _, f := range w.findings {
		f.Time -= origin
		r.Findings = append(r.Findings, f)
	}
	return r
}

// step does what the interpreter wants now, and plans when it is asked again.
func (w *world) step() {
	now := w.sim.Now()
	for actions := w.play.Step(now); len(actions) > 0; actions = w.play.Step(now) {
		for _, a := range actions {
			w.act(a)
		}
	}
	if w.play.Done() {
		if w.ended == 0 {
			w.ended = now
		}
		return
	}
	if wake := w.play.Wake(); wake < network.Never && (w.wakeAt <= now || wake < w.wakeAt) {
		w.wakeAt = wake
		w.sim.At(wake, func() {
			if w.wakeAt == wake {
				w.wakeAt = -1
				w.step()
			}
		})
	}
}

func (w *world) act(a interpreter.Action) {
	switch {
	case a.Open != "":
		w.clients[a.Open] = true
	case a.Close != "":
		w.clients[a.Close] = false
	case a.Send != nil:
		h, m := w.hosts[a.Send.Dest], *a.Send
		w.number(&m)
		w.sim.At(w.sim.Now(), func() {
			h.whenUp(func() { h.receive(m) })
		})
	case a.Fault != nil:
		w.sim.Note("fault", a.Fault.F, "", a.Fault.Value)
		w.strike(a.Fault)
		w.play.FaultDone(w.sim.Now(), a.Fault)
	}
}

// number gives a message its id, and notes that it was sent.
func (w *world) number(m *network.Message) {
	m.ID = w.next
	w.next++
	network.Note(&w.journal, w.sim.Now(), m, false)
}

// send takes a node's message.
func (w *world) send(from *host, m network.Message) {
	w.number(&m)
	if !history.IsClient(m.Dest) {
		w.net.Send(m.Src, m.Dest, append(binary.BigEndian.AppendUint64(nil, uint64(m.ID)), m.Body...))
		return
	}
	w.sim.At(w.sim.Now(), func() {
		if w.clients[m.Dest] {
			network.Note(&w.journal, w.sim.Now(), &m, true)
			w.play.Receive(w.sim.Now(), m)
			w.step()
		}
	})
}

// arrived reads what the network brought, and notes it.
func (w *world) arrived(from, to string, data []byte) network.Message {
	m := network.Message{ID: int64(binary.BigEndian.Uint64(data)), Src: from, Dest: to, Body: data[8:]}
	network.Note(&w.journal, w.sim.Now(), &m, true)
	return m
}

func (w *world) serve(name string, s service.Service, from string, data []byte) {
	m := w.arrived(from, name, data)
	if w.stalled {
		w.stalls = append(w.stalls, func() { w.reply(name, s, m) })
		return
	}
	w.reply(name, s, m)
}

func (w *world) reply(name string, s service.Service, m network.Message) {
	reply, ok := s.Handle(m.Src, m.Body)
	if !ok {
		return
	}
	r := network.Message{Src: name, Dest: m.Src, Body: service.Reply(m.Body, reply)}
	w.number(&r)
	if w.deaf > 0 && w.luck.Float64() < w.deaf {
		w.net.Dropped++
		w.sim.Note("drop", r.Src, r.Dest, nil)
		return
	}
	w.net.Send(r.Src, r.Dest, append(binary.BigEndian.AppendUint64(nil, uint64(r.ID)), r.Body...))
}

func (w *world) presence(name string) network.Presence {
	open, client := w.clients[name]
	switch {
	case open || w.hosts[name] != nil || w.Services[name] != nil:
		return network.Present
	case client:
		return network.Gone
	}
	return network.Absent
}

// strike carries out a fault.
func (w *world) strike(f *interpreter.Fault) {
	switch f.F {
	case "kill":
		for _, name := range f.Nodes {
			w.hosts[name].kill()
		}
	case "start":
		for _, name := range w.Nodes {
			w.hosts[name].restart()
		}
	case "pause":
		for _, name := range f.Nodes {
			w.hosts[name].paused = true
		}
	case "resume":
		for _, name := range w.Nodes {
			w.hosts[name].resume()
		}
	case "start-slow-disk", "stop-slow-disk":
		delay := time.Duration(1+w.luck.IntN(200)) * time.Millisecond
		for _, h := range w.hosts {
			if h.delay = w.Disk; f.Begin {
				h.delay = delay
			}
		}
	case "start-stall":
		w.stalled = true
	case "stop-stall":
		w.stalled = false
		waiting := w.stalls
		w.stalls = nil
		for _, do := range waiting {
			do()
		}
	case "start-lost-reply":
		w.deaf = 0.05 + 0.5*w.luck.Float64()
	case "stop-lost-reply":
		w.deaf = 0
	default:
		w.change(f)
	}
}

// change begins or ends a fault of the network. Of each kind one is going on at most.
func (w *world) change(f *interpreter.Fault) {
	if old := w.weather[f.Kind]; old != nil {
		w.net.End(old)
		delete(w.weather, f.Kind)
	}
	if !f.Begin {
		return
	}
	fault := &sim.Fault{Probability: 0.05 + 0.5*w.luck.Float64()}
	switch f.Kind {
	case "partition":
		fault.Kind, fault.Cut = sim.Partition, f.Cut
	case "one-way":
		fault.Kind, fault.Cut = sim.Partition, sim.CutOneWay(w.luck, w.Nodes)
	case "loss":
		fault.Kind = sim.Loss
	case "duplicate":
		fault.Kind = sim.Duplication
	case "reorder":
		fault.Kind, fault.Delay = sim.Reordering, time.Duration(1+w.luck.IntN(500))*time.Millisecond
	case "slow":
		fault.Kind, fault.Delay = sim.Slowness, time.Duration(1+w.luck.IntN(500))*time.Millisecond
	default:
		panic(fmt.Sprintf("simulate: unknown fault %q", f.Kind))
	}
	w.weather[f.Kind] = fault
	w.net.Begin(fault)
}

// A host is the machine of one node: its process, its disk, and whether it runs.
type host struct {
	*world
	name   string
	disk   *rand.Rand
	life   uint64
	core   node.Program // nil while it is down
	paused bool
	// waiting is what happened to a paused process.
	waiting []func()

	records [][]byte // on disk
	queue   [][]byte // to be written
	writing int      // so many of queue are on their way
	delay   time.Duration
	wakeAt  time.Duration
}

func (h *host) start() {
	h.life++
	h.delay, h.wakeAt, h.paused = h.Disk, -1, false
	core, err := h.Spec.New(node.Start{ID: h.name, Nodes: h.Nodes, Args: h.Args, Incarnation: h.life * 1000, Disk: h.records,
		Durable: true, Rand: h.sim.Rand(fmt.Sprint(h.name, " ", h.life))})
	if err != nil {
		h.err = fmt.Errorf("%s does not start: %w", h.name, err)
		return
	}
	h.core = core
	h.after()
}

func (h *host) restart() {
	if h.core == nil {
		h.start()
	}
}

// kill leaves on the disk what was written, and of what was being written a beginning.
func (h *host) kill() {
	if h.core == nil {
		return
	}
	if h.writing > 0 {
		h.records = append(h.records, h.queue[:h.disk.IntN(h.writing+1)]...)
	}
	h.core, h.queue, h.writing, h.waiting = nil, nil, 0, nil
}

func (h *host) resume() {
	h.paused = false
	waiting := h.waiting
	h.waiting = nil
	for _, do := range waiting {
		do()
	}
}

// whenUp lets do happen now, after the pause, or never if the process is killed before.
func (h *host) whenUp(do func()) {
	switch life := h.life; {
	case h.core == nil:
	case h.paused:
		h.waiting = append(h.waiting, func() {
			if h.core != nil && h.life == life {
				do()
			}
		})
	default:
		do()
	}
}

func (h *host) hear(from string, data []byte) {
	h.whenUp(func() { h.take(h.arrived(from, h.name, data)) })
}

func (h *host) receive(m network.Message) {
	network.Note(&h.journal, h.sim.Now(), &m, true)
	h.take(m)
}

func (h *host) take(m network.Message) {
	h.core.Receive(h.sim.Now(), m.Src, m.Body)
	h.after()
}

// after does what the program wants, and plans its next wake-up call.
func (h *host) after() {
	now := h.sim.Now()
	for h.core != nil {
		out := h.core.Ready(now)
		if len(out.Write)+len(out.Send)+len(out.Print) == 0 && !out.Exit {
			break
		}
		h.do(out)
	}
	if h.core == nil {
		return
	}
	wake := h.core.Wake()
	if wake < 0 || wake == network.Never {
		return
	}
	if wake = max(wake, now+time.Microsecond); h.wakeAt > now && h.wakeAt <= wake {
		return
	}
	h.wakeAt = wake
	life := h.life
	h.sim.At(wake, func() {
		if h.life == life && h.wakeAt == wake {
			h.wakeAt = -1
			h.whenUp(h.after)
		}
	})
}

func (h *host) do(out node.Output) {
	for _, m := range out.Send {
		body, err := json.Marshal(m.Body)
		if err != nil {
			panic("simulate: " + err.Error()) // a program's own body
		}
		h.sendOrFind(network.Message{Src: h.name, Dest: m.To, Body: body})
	}
	for _, line := range out.Print {
		m, finding := network.Inspect(h.name, []byte(line), false, h.presence)
		if finding == nil {
			h.send(h, m)
		} else {
			h.find(finding)
		}
	}
	if h.queue = append(h.queue, out.Write...); out.Exit {
		h.kill()
		h.find(&history.Finding{Node: h.name, Kind: history.Exited, Text: fmt.Sprintf(
			"%s ended by itself. A node must run until it is killed.", h.name)})
		return
	}
	h.startWrite()
}

func (h *host) sendOrFind(m network.Message) {
	if h.presence(m.Dest) == network.Present {
		h.send(h, m)
		return
	}
	_, finding := network.Inspect(h.name, m.AppendLine(nil), false, h.presence)
	h.find(finding)
}

func (w *world) find(f *history.Finding) {
	f.Time = w.sim.Now()
	w.findings = append(w.findings, *f)
}

// startWrite writes everything that waits, as one.
func (h *host) startWrite() {
	if h.writing > 0 || len(h.queue) == 0 {
		return
	}
	h.writing = len(h.queue)
	life := h.life
	h.sim.After(h.delay, func() {
		if h.life == life {
			h.whenUp(h.written)
		}
	})
}

func (h *host) written() {
	count := h.writing
	h.records = append(h.records, h.queue[:count]...)
	h.queue, h.writing = h.queue[count:], 0
	h.core.Persisted(h.sim.Now(), count)
	h.startWrite()
	h.after()
}
