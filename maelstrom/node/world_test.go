package node

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"dongne/internal/sim"
	"dongne/maelstrom/service"
)

// scenario is one run of a program in virtual time: clients ask random nodes, then everything heals, and after recovery
// every node is asked once more.
type scenario struct {
	spec     Spec
	workload string
	args     []string
	nodes    int
	latency  time.Duration
	disk     time.Duration // that a write takes; negative: there is none
	rate     float64       // requests per second
	faults   func(r *rand.Rand, names []string) []sim.Fault
	recovery time.Duration
	topology map[string][]string
}

const (
	busy   = 10 * time.Second
	finish = time.Second // after the last requests
)

// world runs a scenario.
type world struct {
	scenario
	*sim.World
	net      *sim.Network
	clients  *rand.Rand
	names    []string
	machines map[string]*machine
	ops      []*op
	wrong    map[string]bool // slugs, as in Mutant.Rule
	sent     int             // messages between nodes while busy
}

type op struct {
	machine *machine
	life    int // of the machine when it was asked
	kind    string
	value   string // JSON
	final   bool
	reply   map[string]json.RawMessage
	sum     int           // of reply
	asked   time.Duration // when
	done    time.Duration // and when it was answered
}

// machine is a node's process and disk.
type machine struct {
	*world
	name    string
	program Program
	life    int
	up      bool
	downs   int
	disk    [][]byte // durable
	queue   [][]byte // on the way to the disk
	writing int      // so many of queue
	wakeAt  time.Duration
}

// run returns what went wrong, sorted.
func (s scenario) run(seed uint64) []string { return s.play(seed).verdict() }

func (s scenario) play(seed uint64) *world {
	w := &world{scenario: s, World: sim.New(seed, nil), machines: map[string]*machine{}, wrong: map[string]bool{}}
	w.net, w.clients = sim.NewNetwork(w.World, sim.Constant(s.latency)), w.Rand("clients")
	for i := range s.nodes {
		w.names = append(w.names, fmt.Sprintf("n%d", i))
	}
	for _, name := range w.names {
		m := &machine{world: w, name: name}
		w.machines[name] = m
		m.start()
		w.net.Listen(name, m.deliver)
	}
	for name, service := range service.All(w.Rand("services"), false) {
		w.net.Listen(name, func(from string, data []byte) { w.serve(name, service, from, data) })
	}
	if s.topology != nil {
		for _, name := range w.names {
			w.ask(&op{machine: w.machines[name], kind: "topology", value: encode(s.topology)})
		}
	}
	if s.faults != nil {
		sim.Inject(w.World, w.net, w, s.faults(w.Rand("faults"), w.names))
	}
	w.After(0, w.operate)
	w.At(busy, func() { w.sent = int(w.net.Sent) })
	w.At(busy+s.recovery, func() {
		for _, name := range w.names {
			w.ask(&op{machine: w.machines[name], kind: questions[s.workload][0], final: true, value: "-1"})
		}
	})
	w.World.Run(busy + s.recovery + finish)
	return w
}

// questions are the requests of the workloads; the first is also the last asked.
var questions = map[string][]string{"echo": {"echo"}, "unique-ids": {"generate"}, "broadcast": {"read", "broadcast"},
	"g-counter": {"read", "add"}, "pn-counter": {"read", "add"}}

func (w *world) operate() {
	if w.Now() >= busy {
		return
	}
	kinds := questions[w.workload]
	m := w.machines[w.names[w.clients.IntN(len(w.names))]]
	o := &op{machine: m, kind: kinds[w.clients.IntN(len(kinds))], value: strconv.Itoa(len(w.ops))}
	switch {
	case w.workload == "pn-counter":
		o.value = strconv.Itoa(w.clients.IntN(10) - 5)
	case o.kind == "add":
		o.value = strconv.Itoa(w.clients.IntN(5))
	}
	w.ask(o)
	w.After(time.Duration(w.clients.Float64()*2/w.rate*float64(time.Second)), w.operate)
}

func (w *world) ask(o *op) {
	if !o.machine.up {
		return
	}
	o.life, o.asked = o.machine.life, w.Now()
	w.ops = append(w.ops, o)
	member := map[string]string{"broadcast": "message", "topology": "topology", "echo": "echo", "add": "delta"}[o.kind]
	o.machine.receive("c1", fmt.Appendf(nil, `{"type":%q,"msg_id":%d,%q:%s}`, o.kind, len(w.ops), member, o.value))
}

func (m *machine) start() {
	m.life++
	m.up, m.wakeAt = true, -1
	program, err := m.spec.New(Start{ID: m.name, Nodes: m.names, Args: m.args, Incarnation: uint64(m.life), Disk: m.disk,
		Durable: m.scenario.disk >= 0, Rand: m.Rand(fmt.Sprint(m.name, m.life))})
	if err != nil {
		panic(err)
	}
	m.program = program
	m.step()
}

func (m *machine) deliver(from string, data []byte) {
	if m.up {
		m.receive(from, data)
	}
}

func (m *machine) receive(from string, data []byte) {
	m.program.Receive(m.Now(), from, data)
	m.step()
}

// step carries out what the program wants.
func (m *machine) step() {
	out := m.program.Ready(m.Now())
	for _, s := range out.Send {
		m.emit(s.To, []byte(encode(s.Body)))
	}
	for _, line := range out.Print {
		m.print(line)
	}
	if out.Exit {
		m.wrong["exited"] = true
		m.up = false
		return
	}
	m.queue = append(m.queue, out.Write...)
	if m.writing == 0 && len(m.queue) > 0 {
		m.writing = len(m.queue)
		m.later(m.Now()+m.scenario.disk, m.written)
	}
	if wake := m.program.Wake(); wake >= 0 && wake != m.wakeAt {
		m.wakeAt = max(wake, m.Now()+1)
		at := m.wakeAt
		m.later(at, func() {
			if m.wakeAt == at {
				m.step()
			}
		})
	}
}

func (w *world) serve(name string, s service.Service, from string, data []byte) {
	if reply, ok := s.Handle(from, data); ok {
		w.net.Send(name, from, service.Reply(data, reply))
	}
}

// later lets do happen unless the process is killed before.
func (m *machine) later(at time.Duration, do func()) {
	life := m.life
	m.At(at, func() {
		if m.up && m.life == life {
			do()
		}
	})
}

func (m *machine) written() {
	count := m.writing
	m.disk, m.queue, m.writing = append(m.disk, m.queue[:count]...), m.queue[count:], 0
	m.program.Persisted(m.Now(), count)
	m.step()
}

// print judges a line as the harness would.
func (m *machine) print(line string) {
	var message struct{ Src, Dest string }
	if json.Unmarshal([]byte(line), &message) != nil {
		m.wrong["bad-line"] = true
	} else if message.Src != m.name {
		m.wrong["bad-address"] = true
	}
}

func (m *machine) emit(to string, data []byte) {
	const lineMax = 48 << 10
	switch {
	case len(data) > lineMax && to[0] != 'c':
		panic(fmt.Sprintf("%d bytes to %s", len(data), to))
	case m.machines[to] != nil, slices.Contains([]string{"seq-kv", "lin-kv"}, to):
		m.net.Send(m.name, to, data)
	case to != "c1":
		m.wrong["bad-address"] = true
	default:
		var reply map[string]json.RawMessage
		var id int
		if json.Unmarshal(data, &reply) != nil || json.Unmarshal(reply["in_reply_to"], &id) != nil {
			m.wrong["bad-reply"] = true
		} else if o := m.ops[id-1]; o.machine != m || o.reply != nil {
			m.wrong["bad-reply"] = true
		} else {
			o.reply, o.done = reply, m.Now()
		}
	}
}

// Kill implements sim.Target: of the writes under way a beginning survives.
func (w *world) Kill(node string, _ sim.State) {
	m := w.machines[node]
	if m.downs++; m.downs == 1 {
		m.disk = append(m.disk, m.queue[:w.clients.IntN(m.writing+1)]...)
		m.up, m.queue, m.writing = false, nil, 0
	}
}

// Start implements sim.Target.
func (w *world) Start(node string) {
	m := w.machines[node]
	if m.downs--; m.downs == 0 {
		m.start()
	}
}

// Pause, Resume and Disk implement sim.Target; no scenario has these faults.
func (w *world) Pause(string)                     {}
func (w *world) Resume(string)                    {}
func (w *world) Disk(string, time.Duration, bool) {}

// verdict names what went wrong.
func (w *world) verdict() []string {
	members := map[string]string{"echo": "echo", "generate": "id", "read": "messages"}
	if w.workload != "broadcast" {
		members["read"] = "value"
	}
	ids, asked, known := map[string]bool{}, map[string]bool{}, map[string]bool{}
	finals, present := 0, map[string]int{} // value → final reads that have it
	for _, o := range w.ops {
		if asked[o.value] = asked[o.value] || o.kind == "broadcast"; o.reply == nil {
			w.note("unanswered", o.machine.up && o.machine.life == o.life)
			continue
		}
		want := []string{"in_reply_to", "type"}
		if member, some := members[o.kind]; some {
			want = append(want, member)
		}
		switch kind := string(o.reply["type"]); {
		case kind == `"error"`:
			w.wrong["failed"] = true
			continue
		case kind != `"`+o.kind+`_ok"` || len(o.reply) != len(want):
			w.wrong["bad-reply"] = true
		}
		switch o.kind {
		case "echo":
			w.note("wrong-echo", string(o.reply["echo"]) != o.value)
		case "generate":
			id := string(o.reply["id"])
			w.note("duplicate", ids[id])
			ids[id] = true
		case "broadcast":
			known[o.value] = true
		case "read":
			if w.workload != "broadcast" {
				break
			}
			w.read(o, asked, known, present)
			if o.final {
				finals++
			}
		}
	}
	if strings.HasSuffix(w.workload, "-counter") {
		w.sums()
	}
	for value := range known {
		w.note("lost", present[value] == 0 && finals > 0)
		w.note("missing-final", present[value] > 0 && present[value] < finals)
	}
	var all []string
	for slug := range w.wrong {
		all = append(all, slug)
	}
	slices.Sort(all)
	return all
}

// sums judges a counter's reads. What a node's g-counter has shown it may not fall below.
func (w *world) sums() {
	low, high := 0, 0 // what was added in the end, at least and at most
	for _, o := range w.ops {
		if delta, _ := strconv.Atoi(o.value); o.kind == "add" {
			if o.reply == nil {
				low, high = low+min(delta, 0), high+max(delta, 0)
			} else {
				low, high = low+delta, high+delta
			}
		}
	}
	var reads []*op
	for _, o := range w.ops {
		if o.kind != "read" || o.reply == nil {
			continue
		}
		var err error
		o.sum, err = strconv.Atoi(string(o.reply["value"]))
		w.note("bad-reply", err != nil)
		w.note("wrong-sum", o.final && (o.sum < low || o.sum > high))
		possible := 0
		for _, other := range w.ops {
			if delta, _ := strconv.Atoi(other.value); other.kind == "add" && other.asked < o.done {
				possible += max(delta, 0)
			}
		}
		w.note("impossible", o.sum > possible)
		for _, other := range reads {
			w.note("backwards", w.workload == "g-counter" && other.machine == o.machine && other.done < o.asked && other.sum > o.sum)
		}
		reads = append(reads, o)
	}
}

// read judges one read: it makes what it shows known.
func (w *world) read(o *op, asked, known map[string]bool, present map[string]int) {
	var messages []json.RawMessage
	if err := json.Unmarshal(o.reply["messages"], &messages); err != nil || messages == nil {
		w.wrong["bad-reply"] = true
	}
	seen := map[string]bool{}
	for _, raw := range messages {
		value := string(raw)
		w.note("duplicate", seen[value])
		w.note("phantom", !asked[value])
		seen[value], known[value] = true, true
		if o.final {
			present[value]++
		}
	}
}

func (w *world) note(slug string, wrong bool) {
	if wrong {
		w.wrong[slug] = true
	}
}

func encode(v any) string {
	var b strings.Builder
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		panic(err)
	}
	return b.String()
}

// A nemesis makes the faults of a scenario; the last ends with it.
func partitions(r *rand.Rand, names []string) (faults []sim.Fault) {
	for at := time.Second; at < busy; at += 3 * time.Second {
		cut := sim.Partitions[r.IntN(len(sim.Partitions))](r, names)
		faults = append(faults, sim.Fault{At: at, For: min(at+3*time.Second, busy) - at, Kind: sim.Partition, Cut: cut})
	}
	return faults
}

func kills(r *rand.Rand, names []string) (faults []sim.Fault) {
	for at := time.Second; at < busy; at += 2 * time.Second {
		killed := slices.Clone(names)
		r.Shuffle(len(killed), func(i, j int) { killed[i], killed[j] = killed[j], killed[i] })
		faults = append(faults, sim.Fault{At: at, For: time.Second, Kind: sim.Kill, Nodes: killed[:1+r.IntN(len(killed))]})
	}
	return faults
}

// deafness loses what goes to seq-kv, and what comes from it.
func deafness(*rand.Rand, []string) []sim.Fault {
	return []sim.Fault{{At: 0, For: busy, Kind: sim.Loss, Nodes: []string{"seq-kv"}, Probability: 0.1}}
}

func loss(_ *rand.Rand, names []string) []sim.Fault {
	return []sim.Fault{{At: 0, For: busy, Kind: sim.Loss, Probability: 0.1}}
}

func everything(r *rand.Rand, names []string) []sim.Fault {
	return slices.Concat(partitions(r, names), kills(r, names), loss(r, names))
}
