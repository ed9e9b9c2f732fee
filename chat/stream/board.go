package stream

import (
	"encoding/binary"
	"slices"
	"strings"
)

// Topic names what streams subscribe to. The hub never looks inside.
type Topic string

// Event is one frame for everybody who subscribes to Topic. Frame is a complete SSE event (see AppendEvent); it is shared
// by all its streams, so it must not change after Publish.
type Event struct {
	Topic Topic
	Frame []byte
}

// board is the pure half of the hub: who subscribes to what, and what was published since the last flush (the window).
// Publishing costs the same for one subscriber as for a million: frames are appended to the topic's batch, and only
// take and plan, once per window, look at the subscribers.
//
// The result for a stream is exactly the events published between its Subscribe and its Unsubscribe, in publish order
// across all topics, wherever the windows fall: a subscription that starts or ends inside a window remembers at which
// entry of the batch.
type board struct {
	topics  map[Topic]*topic
	dirty   []*topic // topics with a batch
	directs []direct // frames for one stream
	seq     uint64   // of the last entry
	bytes   int      // of all frames in the window
}

type topic struct {
	name  Topic
	subs  []member // open: until is 0
	left  []member // unsubscribed within this window, with something still to get
	late  bool     // some member of subs has since > 0
	batch *batch   // nil: nothing in this window
}

// member is a conn's share of a topic's batch: entries[since:until], until 0 meaning all the rest.
type member struct {
	conn         *Conn
	since, until uint32
}

// link is the way back from a conn to its place in a topic.
type link struct {
	topic *topic
	at    uint32 // index in topic.subs
}

type direct struct {
	conn  *Conn
	batch *batch // of one entry, or none
	end   bool
}

// batch is what one topic got in one window.
type batch struct {
	entries []entry
	joined  []byte // all the frames, set when the window is taken
	id      uint32 // within the window, set when the window is taken
}

type entry struct {
	seq   uint64 // position among everything published
	frame []byte
}

func newBoard() board { return board{topics: map[Topic]*topic{}} }

func (b *board) empty() bool { return len(b.dirty) == 0 && len(b.directs) == 0 }

func (c *Conn) findLink(name Topic) (int, bool) {
	return slices.BinarySearchFunc(c.links, name, func(l link, name Topic) int {
		return strings.Compare(string(l.topic.name), string(name))
	})
}

func (b *board) subscribe(c *Conn, name Topic) {
	at, found := c.findLink(name)
	if found {
		return
	}
	t := b.topics[name]
	if t == nil {
		t = &topic{name: name}
		b.topics[name] = t
	}
	m := member{conn: c}
	if t.batch != nil {
		m.since = uint32(len(t.batch.entries))
		t.late = true
	}
	c.links = slices.Insert(c.links, at, link{t, uint32(len(t.subs))})
	t.subs = append(t.subs, m)
}

// unsubscribe ends a subscription. What was published before it is still delivered with the window.
func (b *board) unsubscribe(c *Conn, name Topic) {
	i, found := c.findLink(name)
	if !found {
		return
	}
	l := c.links[i]
	c.links = slices.Delete(c.links, i, i+1)
	b.remove(l)
}

// unsubscribeAll ends every subscription of c.
func (b *board) unsubscribeAll(c *Conn) {
	for _, l := range c.links {
		b.remove(l)
	}
	c.links = nil
}

func (b *board) remove(l link) {
	t := l.topic
	m := t.subs[l.at]
	if t.batch != nil && int(m.since) < len(t.batch.entries) {
		m.until = uint32(len(t.batch.entries))
		t.left = append(t.left, m)
	}
	last := len(t.subs) - 1
	if int(l.at) != last {
		t.subs[l.at] = t.subs[last]
		moved := t.subs[l.at].conn
		i, found := moved.findLink(t.name)
		if !found {
			panic("stream: subscriber of topic " + string(t.name) + " does not know it")
		}
		moved.links[i].at = l.at
	}
	t.subs[last] = member{}
	t.subs = t.subs[:last]
	if cap(t.subs) > 64 && len(t.subs) < cap(t.subs)/4 {
		t.subs = slices.Clip(slices.Clone(t.subs))
	}
	b.forget(t)
}

// forget drops a topic that nobody needs.
func (b *board) forget(t *topic) {
	if len(t.subs) == 0 && t.batch == nil {
		delete(b.topics, t.name)
	}
}

func (b *board) publish(name Topic, frame []byte) {
	t := b.topics[name]
	if t == nil || len(t.subs) == 0 || len(frame) == 0 {
		return
	}
	if t.batch == nil {
		t.batch = &batch{}
		b.dirty = append(b.dirty, t)
	}
	t.batch.entries = append(t.batch.entries, b.entry(frame))
}

// send queues a frame (nil for none) for one stream and, with end, its end after it.
func (b *board) send(c *Conn, frame []byte, end bool) {
	one := &batch{}
	if len(frame) > 0 {
		one.entries = []entry{b.entry(frame)}
	}
	b.directs = append(b.directs, direct{c, one, end})
}

func (b *board) entry(frame []byte) entry {
	b.seq++
	b.bytes += len(frame)
	return entry{b.seq, frame}
}

// window is everything published between two flushes, and then what each stream gets of it. It is reused.
type window struct {
	batches    []*batch
	members    []member // of the batches, one batch after another
	ends       []int    // ends[i] is the end of batches[i]'s members
	directs    []direct
	deliveries []delivery
	bytes      int
}

// delivery is what one stream gets in one flush: nearly always one part.
type delivery struct {
	conn *Conn
	part part
	more []part
	end  bool // close the stream when all is written
}

type part struct {
	batch    *batch
	from, to uint32
}

// take moves the board's window to w. It copies the subscriber lists (16 bytes a subscription) and leaves the rest to
// plan, because the caller holds the lock that publishers wait for.
func (b *board) take(w *window) {
	for _, t := range b.dirty {
		w.batches = append(w.batches, t.batch)
		w.members = append(append(w.members, t.subs...), t.left...)
		w.ends = append(w.ends, len(w.members))
		t.batch = nil
		t.left = nil
		if t.late {
			t.late = false
			for i := range t.subs {
				t.subs[i].since = 0
			}
		}
		b.forget(t)
	}
	w.directs = append(w.directs, b.directs...)
	w.bytes = b.bytes
	clear(b.dirty)
	clear(b.directs)
	b.dirty, b.directs, b.bytes = b.dirty[:0], b.directs[:0], 0
}

// plan turns the window into one delivery per stream.
func (w *window) plan() {
	from := 0
	for i, batch := range w.batches {
		batch.freeze(uint32(i))
		n := uint32(len(batch.entries))
		for _, m := range w.members[from:w.ends[i]] {
			if m.until == 0 {
				m.until = n
			}
			if m.since < m.until {
				w.touch(m.conn, part{batch, m.since, m.until}, false)
			}
		}
		from = w.ends[i]
	}
	for i, d := range w.directs {
		d.batch.freeze(uint32(len(w.batches) + i))
		w.touch(d.conn, part{d.batch, 0, uint32(len(d.batch.entries))}, d.end)
	}
	for i := range w.deliveries {
		w.deliveries[i].conn.mark = 0
	}
}

func (w *window) touch(c *Conn, p part, end bool) {
	if c.mark == 0 {
		w.deliveries = append(w.deliveries, delivery{conn: c, part: p, end: end})
		c.mark = uint32(len(w.deliveries))
		return
	}
	d := &w.deliveries[c.mark-1]
	d.more = append(d.more, p)
	d.end = d.end || end
}

// reset empties the window and keeps its memory, unless a burst made it much larger than usual.
func (w *window) reset() {
	if cap(w.members) > windowMembersKept {
		*w = window{}
		return
	}
	clear(w.batches)
	clear(w.members)
	clear(w.directs)
	clear(w.deliveries)
	*w = window{batches: w.batches[:0], members: w.members[:0], ends: w.ends[:0],
		directs: w.directs[:0], deliveries: w.deliveries[:0]}
}

// freeze makes the batch ready to be shared: nothing changes it from here on.
func (b *batch) freeze(id uint32) {
	b.id = id
	b.joined = join(b.entries)
}

// join concatenates the frames, or returns the one frame itself.
func join(entries []entry) []byte {
	if len(entries) == 1 {
		return entries[0].frame
	}
	size := 0
	for _, e := range entries {
		size += len(e.frame)
	}
	joined := make([]byte, 0, size)
	for _, e := range entries {
		joined = append(joined, e.frame...)
	}
	return joined
}

// bytes is the part as one piece of the batch's joined frames.
func (p part) bytes() []byte {
	if p.from == 0 && int(p.to) == len(p.batch.entries) {
		return p.batch.joined
	}
	from := 0
	for _, e := range p.batch.entries[:p.from] {
		from += len(e.frame)
	}
	to := from
	for _, e := range p.batch.entries[p.from:p.to] {
		to += len(e.frame)
	}
	return p.batch.joined[from:to:to]
}

// merger merges the parts of a delivery in publish order. Streams with the same parts share the result: a thousand
// members of the same eight rooms cost one merge per window.
type merger struct {
	merged  map[string][]byte
	bytes   int // of all values of merged
	key     []byte
	entries []entry
}

// render returns what d's stream gets, and of how many events it consists.
func (m *merger) render(d *delivery) ([]byte, int) {
	n := int(d.part.to - d.part.from)
	if len(d.more) == 0 {
		return d.part.bytes(), n
	}
	m.key = appendKey(m.key[:0], d.part)
	for _, p := range d.more {
		m.key = appendKey(m.key, p)
		n += int(p.to - p.from)
	}
	if b, ok := m.merged[string(m.key)]; ok {
		return b, n
	}
	m.entries = append(m.entries[:0], d.part.batch.entries[d.part.from:d.part.to]...)
	for _, p := range d.more {
		m.entries = append(m.entries, p.batch.entries[p.from:p.to]...)
	}
	slices.SortFunc(m.entries, func(a, b entry) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	b := join(m.entries)
	if m.bytes+len(b) > mergedBytesMax {
		m.reset()
	}
	if m.merged == nil {
		m.merged = map[string][]byte{}
	}
	m.merged[string(m.key)] = b
	m.bytes += len(b)
	return b, n
}

func appendKey(key []byte, p part) []byte {
	key = binary.LittleEndian.AppendUint32(key, p.batch.id)
	key = binary.LittleEndian.AppendUint32(key, p.from)
	return binary.LittleEndian.AppendUint32(key, p.to)
}

// reset forgets the merges: they belong to one window.
func (m *merger) reset() {
	clear(m.merged)
	m.bytes = 0
	clear(m.entries[:cap(m.entries)])
}
