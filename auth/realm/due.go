package realm

import "container/heap"

// timed is something that is over at a time, which may move, but never back, and that knows its place in deadlines.
type timed interface {
	over() int64
	at() *int
}

// deadlines are things by the time when they are over. Of one whose time moved on, they know an older time until it has
// come: so moving costs nothing.
type deadlines[T timed] struct{ heap dueHeap[T] }

type dueItem[T timed] struct {
	time int64
	of   T
}

func (d *deadlines[T]) add(of T) { heap.Push(&d.heap, dueItem[T]{of.over(), of}) }

// until says whether something is over at a time; pop returns it.
func (d *deadlines[T]) until(now int64) bool {
	for len(d.heap) > 0 && d.heap[0].time <= now {
		if time := d.heap[0].of.over(); time > now {
			d.heap[0].time = time
			heap.Fix(&d.heap, 0)
			continue
		}
		return true
	}
	return false
}

func (d *deadlines[T]) pop() T { return heap.Pop(&d.heap).(dueItem[T]).of }

func (d *deadlines[T]) remove(of T) { heap.Remove(&d.heap, *of.at()) }

// has says whether something is among them, at its place.
func (d *deadlines[T]) has(of T) bool {
	place := *of.at()
	return place >= 0 && place < len(d.heap) && any(d.heap[place].of) == any(of)
}

// dueHeap implements heap.Interface.
type dueHeap[T timed] []dueItem[T]

func (h dueHeap[T]) Len() int           { return len(h) }
func (h dueHeap[T]) Less(i, j int) bool { return h[i].time < h[j].time }

func (h dueHeap[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	*h[i].of.at(), *h[j].of.at() = i, j
}

func (h *dueHeap[T]) Push(x any) {
	item := x.(dueItem[T])
	*item.of.at() = len(*h)
	*h = append(*h, item)
}

func (h *dueHeap[T]) Pop() any {
	last := len(*h) - 1
	item := (*h)[last]
	*item.of.at() = -1
	(*h)[last] = dueItem[T]{}
	*h = (*h)[:last]
	return item
}

// When things are forgotten.

func (x *session) over() int64 { return x.Expires + ExpiredKept.Milliseconds() }
func (x *session) at() *int    { return &x.place }

func (l *legacy) over() int64 {
	if l.Revoked || l.Exchanged != 0 {
		return l.Expires + UsedKept.Milliseconds()
	}
	return l.Expires + ExpiredKept.Milliseconds()
}

func (l *legacy) at() *int { return &l.place }
