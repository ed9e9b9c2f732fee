package throttle

import "time"

// table keeps at most max buckets, and forgets the one that was touched least recently for a new one.
type table struct {
	max     int
	index   map[key]int32
	entries []entry // 0 is the ring's head: its next was touched most recently, its prev least
	free    []int32 // entries that are out of use
}

type entry struct {
	key        key
	prev, next int32
	bucket     bucket
}

// idlePerTouch is how many idle buckets at the old end a new bucket makes room of: more than one, so that a table shrinks
// after an attack.
const idlePerTouch = 2

func newTable(max int) table {
	return table{max: max, index: map[key]int32{}, entries: make([]entry, 1)}
}

// find returns the bucket of a key, or nil. It is good until the next touch.
func (t *table) find(k key) *bucket {
	if i, ok := t.index[k]; ok {
		return &t.entries[i].bucket
	}
	return nil
}

// wait is the wait of a key's bucket, if it has one.
func (t *table) wait(k key, l Limit, at int64) time.Duration {
	if b := t.find(k); b != nil {
		return b.wait(l, at)
	}
	return 0
}

// touch returns the bucket of a key, a new one if need be, as the one that was touched most recently.
func (t *table) touch(k key, at int64) *bucket {
	i, ok := t.index[k]
	if ok {
		t.unlink(i)
	} else {
		for n := 0; n < idlePerTouch && len(t.index) > 0 && t.entries[t.entries[0].prev].bucket.idle(at); n++ {
			t.remove(t.entries[t.entries[0].prev].key)
		}
		if len(t.index) >= t.max {
			t.remove(t.entries[t.entries[0].prev].key)
		}
		i = t.take()
		t.entries[i] = entry{key: k}
		t.index[k] = i
	}
	head := &t.entries[0]
	t.entries[i].prev, t.entries[i].next = 0, head.next
	t.entries[head.next].prev = i
	head.next = i
	return &t.entries[i].bucket
}

// tidy removes the bucket of a key if it is idle.
func (t *table) tidy(k key, at int64) {
	if b := t.find(k); b != nil && b.idle(at) {
		t.remove(k)
	}
}

// remove removes the bucket of a key, which it has.
func (t *table) remove(k key) {
	i := t.index[k]
	t.unlink(i)
	delete(t.index, k)
	t.free = append(t.free, i)
}

// take returns an entry that is out of use.
func (t *table) take() int32 {
	if n := len(t.free); n > 0 {
		i := t.free[n-1]
		t.free = t.free[:n-1]
		return i
	}
	t.entries = append(t.entries, entry{})
	return int32(len(t.entries) - 1)
}

func (t *table) unlink(i int32) {
	e := &t.entries[i]
	t.entries[e.prev].next, t.entries[e.next].prev = e.next, e.prev
}
