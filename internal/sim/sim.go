// Package sim runs a distributed program in virtual time: one goroutine, one heap of events ordered by (time, sequence),
// one seed from which every random choice follows, and faults as data. The same seed gives the same run, event by event,
// which the hash of its trace proves.
//
// The package knows no protocol: a driver gives every node's core its messages, timers and disk, and carries out what
// the core returns. It was learned from TigerBeetle's VOPR and FoundationDB's simulation.
package sim

import (
	"container/heap"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"time"
)

// A World is virtual time and everything that is going to happen in it.
type World struct {
	seed   uint64
	now    time.Duration
	events eventHeap
	next   uint64 // sequence of the next event
	hash   uint64
	trace  io.Writer // nil: only the hash is kept
}

type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

// New returns a world at time 0. With a trace every note is also written there as a line.
func New(seed uint64, trace io.Writer) *World {
	return &World{seed: seed, hash: fnvOffset, trace: trace}
}

// Now returns the virtual time since the start.
func (w *World) Now() time.Duration { return w.now }

// At lets do happen at the given time, now at the earliest, after everything already planned for that time.
func (w *World) At(at time.Duration, do func()) {
	heap.Push(&w.events, event{max(at, w.now), w.next, do})
	w.next++
}

// After lets do happen once d has passed.
func (w *World) After(d time.Duration, do func()) { w.At(w.now+d, do) }

// Run lets happen what is planned until the given time, that included, and stands there.
func (w *World) Run(until time.Duration) {
	for len(w.events) > 0 && w.events[0].at <= until {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	w.now = max(w.now, until)
}

// Rand returns the stream of random numbers that belongs to the label: streams do not disturb each other, so that one
// more draw in one place changes nothing elsewhere.
func (w *World) Rand(label string) *rand.Rand { return Stream(w.seed, label) }

// Stream returns the stream of random numbers of a seed that belongs to the label.
func Stream(seed uint64, label string) *rand.Rand {
	h := fnv.New64a()
	io.WriteString(h, label)
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Note adds an event to the trace: what, who, to whom, and its content.
func (w *World) Note(what, who, whom string, content []byte) {
	w.mix(uint64(w.now))
	w.mixString(what)
	w.mixString(who)
	w.mixString(whom)
	w.mix(uint64(crc32.Checksum(content, castagnoli))<<32 | uint64(len(content)))
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%12v %-9s %s %s %d %08x\n", w.now, what, who, whom, len(content), crc32.Checksum(content, castagnoli))
	}
}

// Hash stands for everything noted so far.
func (w *World) Hash() uint64 { return w.hash }

func (w *World) mix(x uint64) { w.hash = (w.hash ^ x ^ x>>32) * fnvPrime }

func (w *World) mixString(s string) {
	for i := range len(s) {
		w.mix(uint64(s[i]))
	}
	w.mix(0xff)
}

// eventHeap is a container/heap.
type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = event{}
	*h = old[:len(old)-1]
	return last
}
