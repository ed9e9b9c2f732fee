package node

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"dongne/chat/room"
)

// ErrQuery: a part of a list that cannot be.
var ErrQuery = errors.New("query")

// Rooms lists a user's rooms, that with the newest message first, from a cursor on that was given out as next.
func (n *Node) Rooms(user, cursor string, limit int) (rooms []room.Room, next string, err error) {
	var activity, id room.ID
	if cursor != "" {
		at, of, _ := strings.Cut(cursor, ".")
		if errors.Join(activity.UnmarshalText([]byte(at)), id.UnmarshalText([]byte(of))) != nil {
			return nil, "", fmt.Errorf("%w: cursor %q was not given out as next", ErrQuery, cursor)
		}
	}
	n.mu.RLock()
	rooms, more := n.state.Rooms(user, activity, id, limit)
	if more {
		last := rooms[len(rooms)-1].ID
		next = n.state.Activity(last).String() + "." + last.String()
	}
	records := make([]record, len(rooms))
	for i, r := range rooms {
		records[i] = n.journal.of(r.Latest)
	}
	n.mu.RUnlock()
	for i := range rooms {
		if err := n.fillLast(&rooms[i], records[i]); err != nil {
			return nil, "", err
		}
	}
	return rooms, next, nil
}

// Room describes one room to one of its members.
func (n *Node) Room(id room.ID, user string) (room.Room, error) {
	n.mu.RLock()
	r, err := n.state.Room(id, user)
	last := n.journal.of(r.Latest)
	n.mu.RUnlock()
	if err != nil {
		return r, err
	}
	return r, n.fillLast(&r, last)
}

func (n *Node) fillLast(r *room.Room, last record) error {
	if r.Latest.ID == 0 {
		return nil
	}
	m, err := n.journal.message(r.ID, r.Latest, last)
	r.Last = &m
	return err
}

// History gives messages of a room, oldest first: the last ones before a message, or the first ones after one, or the
// last of all. next is what to pass in the same place to go on in that direction; empty at the end.
func (n *Node) History(id room.ID, user, before, after string, limit int) (messages []room.Message, next string, err error) {
	from, err := queryID("before", before)
	if err != nil {
		return nil, "", err
	}
	to, err := queryID("after", after)
	if err != nil {
		return nil, "", err
	}
	n.mu.RLock()
	lines, more, err := n.state.History(id, user, from, to, limit)
	records := make([]record, len(lines))
	for i, l := range lines {
		records[i] = n.journal.of(l)
	}
	n.mu.RUnlock()
	if err != nil {
		return nil, "", err
	}
	messages = make([]room.Message, len(lines))
	for i, l := range lines {
		if messages[i], err = n.journal.message(id, l, records[i]); err != nil {
			return nil, "", err
		}
	}
	switch {
	case more && to != 0:
		next = lines[len(lines)-1].ID.String()
	case more:
		next = lines[0].ID.String()
	}
	return messages, next, nil
}

func queryID(name, text string) (room.ID, error) {
	if text == "" {
		return 0, nil
	}
	id, err := room.ParseID(text)
	if err != nil {
		err = fmt.Errorf("%w: %s %q: %v", ErrQuery, name, text, err)
	}
	return id, err
}

// Message gives one message of a room.
func (n *Node) Message(id room.ID, user string, message room.ID) (room.Message, error) {
	n.mu.RLock()
	l, err := n.state.Message(id, user, message)
	r := n.journal.of(l)
	n.mu.RUnlock()
	if err != nil {
		return room.Message{}, err
	}
	return n.journal.message(id, l, r)
}

// of is where a line's content is; the zero record for the zero line.
func (j *journal) of(l room.Line) record {
	if l.ID == 0 {
		return record{}
	}
	return j.records[l.Record]
}

// message reads a line's content.
func (j *journal) message(of room.ID, l room.Line, r record) (room.Message, error) {
	if l.Deleted {
		return room.Message{ID: l.ID, Room: of, From: l.Author, At: room.Time(l.ID.UnixMilli()), Deleted: true}, nil
	}
	f, err := j.fact(r)
	if err != nil {
		return room.Message{}, err
	}
	return f.View(l.ID), nil
}

// Metrics writes what this node counts, as Prometheus text.
func (n *Node) Metrics(w io.Writer) {
	streams := n.hub.Stats()
	n.mu.RLock()
	entries, ahead, broken := len(n.journal.records), len(n.ahead), n.broken
	n.mu.RUnlock()
	var dropped, failed int64
	for _, l := range n.links {
		dropped += l.dropped.Load()
		failed += l.failed.Load()
	}
	metric := func(kind, name string, value any) {
		fmt.Fprintf(w, "# TYPE chat_%[2]s %[1]s\nchat_%[2]s %[3]v\n", kind, name, value)
	}
	metric("gauge", "log_entries", entries)
	metric("gauge", "streams", streams.Streams)
	metric("gauge", "streams_ahead", ahead)
	metric("counter", "stream_deliveries_total", streams.Deliveries)
	metric("counter", "stream_writes_total", streams.Writes)
	metric("counter", "stream_bytes_total", streams.Bytes)
	metric("counter", "streams_cut_total", streams.Slow)
	metric("counter", "peer_messages_dropped_total", dropped)
	metric("counter", "peer_messages_failed_total", failed)
	metric("counter", "peer_facts_broken_total", broken)
	n.log.metrics(metric)
}
