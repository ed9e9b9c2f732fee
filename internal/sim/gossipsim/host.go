package gossipsim

import (
	"fmt"
	"time"

	"dongne/internal/gossip"
	"dongne/internal/sim"
)

// host is the machine of one node: its process, its disk, and an application that sees what is durable.
type host struct {
	*cluster
	name   string
	number int

	core   Core
	life   uint64 // processes started so far
	up     bool
	downs  int // kills not yet followed by a start
	paused bool
	pauses int
	// waiting is what happened to a paused process.
	waiting []func()

	log     []gossip.Entry // durable, in the order of acceptance: what the application has seen
	store   *gossip.MemoryStorage
	durable gossip.Vector // of log
	seen    gossip.Vector // of log and queue

	queue   []gossip.Entry // accepted, on the way to the disk
	writing int            // so many of queue are being written
	delay   time.Duration
	full    bool

	wakeAt time.Duration // of the earliest wake-up call planned

	mayHaveLost bool           // its disk was lost or rolled back at some time
	lost        []gossip.Entry // what the last kill rolled back
	newest      uint64         // incarnation of our own logs that the process started with; 0: none
}

// loadDisk sets what is durable.
func (h *host) loadDisk(log []gossip.Entry) {
	h.log, h.store, h.durable = nil, &gossip.MemoryStorage{}, gossip.Vector{}
	for _, e := range log {
		h.write(e)
	}
}

func (h *host) write(e gossip.Entry) {
	if !h.checkWrite(h, e) {
		return // the broken core has been reported; storage would not take it
	}
	h.log = append(h.log, e)
	h.store.Append(e)
	h.durable[e.Origin] = e.Seq
}

func (h *host) start() {
	h.up = true
	h.life++
	h.seen, h.newest = h.durable.Clone(), 0
	for o := range h.durable {
		if o.Node == h.name {
			h.newest = max(h.newest, o.Incarnation)
		}
	}
	h.world.Note("start", h.name, "", nil)
	h.core = h.Options.Start(gossip.Config{Self: h.name, Peers: h.names, Incarnation: h.life * 16, Restored: h.durable,
		Storage: h.Store(h.store), Profile: h.Profile, Rand: h.world.Rand(fmt.Sprint(h.name, " ", h.life))})
	h.after()
}

func (h *host) kill(state sim.State) {
	h.world.Note("kill", h.name, state.String(), nil)
	survived := h.queue[:h.writing]
	if len(survived) > 0 {
		survived = survived[:h.disk.IntN(len(survived)+1)]
	}
	h.up, h.queue, h.writing, h.waiting, h.lost = false, nil, 0, nil, nil
	switch state {
	case sim.Kept:
		for _, e := range survived {
			h.write(e)
		}
	case sim.Lost:
		log := h.log
		h.mayHaveLost = true
		h.loadDisk(nil)
		h.forgotten(h.hosts, log)
	case sim.RolledBack:
		h.mayHaveLost = true
		left := h.disk.IntN(len(h.log) + 1)
		h.lost = h.log[left:]
		h.loadDisk(h.log[:left])
		h.forgotten(h.hosts, h.lost)
	}
}

// whenUp lets do happen now, after the pause, or never if the process is killed before.
func (h *host) whenUp(do func()) {
	switch life := h.life; {
	case !h.up:
	case h.paused:
		h.waiting = append(h.waiting, func() {
			if h.up && h.life == life {
				do()
			}
		})
	default:
		do()
	}
}

func (h *host) append() {
	id := h.newOperation(h.world.Now())
	e := h.core.Append(h.world.Now(), payload(id))
	h.world.Note("append", h.name, "", e.Data)
	h.appended(id, e, h.seen)
	h.accept(e)
	h.after()
}

func (h *host) deliver(from string, data []byte) {
	h.whenUp(func() {
		m, err := gossip.ParseMessage(data)
		if err != nil {
			h.violate("%s cannot read %s: %v", h.name, from, err)
			return
		}
		h.accept(h.core.Receive(h.world.Now(), from, m)...)
		h.after()
	})
}

func (h *host) accept(entries ...gossip.Entry) {
	for _, e := range entries {
		h.seen[e.Origin] = max(h.seen[e.Origin], e.Seq)
		h.reached(h.world.Now(), h.number, e)
	}
	h.queue = append(h.queue, entries...)
	h.startWrite()
}

// startWrite writes everything that waits, as one.
func (h *host) startWrite() {
	if h.writing > 0 || len(h.queue) == 0 {
		return
	}
	h.writing = len(h.queue)
	if h.delay == 0 && !h.full {
		h.written()
		return
	}
	life := h.life
	h.world.After(h.delay, func() {
		if h.life == life {
			h.whenUp(func() { h.written(); h.after() })
		}
	})
}

func (h *host) written() {
	if h.full {
		h.world.Note("full", h.name, "", nil)
		h.queue, h.writing = nil, 0
		h.seen = h.durable.Clone()
		h.core.Discard()
		return
	}
	count := h.writing
	for _, e := range h.queue[:count] {
		h.write(e)
	}
	h.queue, h.writing = h.queue[count:], 0
	h.core.Persisted(h.world.Now(), count)
	h.startWrite()
}

// after sends what the core has ready and plans its next wake-up call.
func (h *host) after() {
	now := h.world.Now()
	for _, e := range h.core.Ready(now) {
		h.checkSend(h, e)
		h.net.Send(h.name, e.To, e.Message.AppendBinary(nil))
	}
	h.checkBounds(h)
	wake := max(h.core.Wake(), now+time.Microsecond)
	if h.wakeAt > now && h.wakeAt <= wake {
		return
	}
	h.wakeAt = wake
	life := h.life
	h.world.At(wake, func() {
		if h.life == life && h.wakeAt == wake {
			h.wakeAt = 0
			h.whenUp(h.after)
		}
	})
}
