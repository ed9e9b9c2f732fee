package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"dongne/chat/room"
	"dongne/chat/stream"
	"dongne/internal/gossip"
	"dongne/internal/sharedlog"
)

// Limits of streams.
const (
	StreamsPerUserMax = 20
	streamsMax        = 50_000
	// replayRecordsMax and replayBytesMax bound what a resumed stream is sent at the start; beyond them it is told to
	// fetch everything anew.
	replayRecordsMax = 20_000
	replayBytesMax   = 4 << 20
	// aheadOriginsMax is how many logs a position may be ahead in: each costs something with every event.
	aheadOriginsMax = 16
	neighboursMax   = 500 // users whose presence a user is told
	// retryMin and retrySpread are how long a client waits before it comes back, so that all do not at once.
	retryMin, retrySpread = 500 * time.Millisecond, 1500 * time.Millisecond
)

var (
	// ErrStreams: the user has all the streams it may have.
	ErrStreams = fmt.Errorf("at most %d streams for one user", StreamsPerUserMax)
	// ErrPosition: not a position in the stream.
	ErrPosition = errors.New("not a position in the stream")
)

var streamConfig = stream.Config{
	StreamsMax: streamsMax,
	Last:       stream.AppendEvent(nil, "", "bye", []byte(`{}`)),
}

// topicAll reaches every stream; a room's topic is its id.
const topicAll stream.Topic = "*"

func topicOf(id room.ID) stream.Topic { return stream.Topic(id.String()) }

// subscriber is one stream of a user.
type subscriber struct {
	conn *stream.Conn
	user string
	// ahead is what the client saw on another node and this node has not; nil once it has. Until then the stream gets
	// its events one by one, and of what the client saw elsewhere only what corrects what it was told here before.
	ahead gossip.Vector
	// reset: while it was ahead the two nodes did not take the user for a member of the same rooms.
	reset bool
}

// Stream serves a stream of all that concerns user, from a position on, or from now. It returns when the stream runs;
// it goes on without the caller.
func (n *Node) Stream(w http.ResponseWriter, r *http.Request, user, from string) error {
	position, err := parsePosition(from)
	if err != nil {
		return err
	}
	s := &subscriber{user: user}
	if err := n.reserve(s); err != nil {
		return err
	}
	conn, err := n.hub.Accept(w, r, func(*stream.Conn) { n.leave(s) })
	if err != nil {
		n.leave(s)
		return refused(err)
	}
	opening, err := n.opening(s, n.join(s, conn, position, from == ""))
	if err != nil { // the client comes back, and has missed nothing
		n.config.Logger.Error("read for a stream", "err", err)
		conn.End(nil)
	}
	conn.Uncork(opening)
	n.nowOnline(user)
	return nil
}

// refused says why the hub took no stream in the words of this package's users.
func refused(err error) error {
	for is, means := range map[error]error{stream.ErrFull: sharedlog.ErrBusy, stream.ErrClosed: sharedlog.ErrClosed, stream.ErrMethod: ErrQuery} {
		if errors.Is(err, is) {
			return fmt.Errorf("%w: %v", means, err)
		}
	}
	return err
}

// reserve takes one of the user's places.
func (n *Node) reserve(s *subscriber) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	mine := n.streams[s.user]
	if len(mine) >= StreamsPerUserMax {
		return ErrStreams
	}
	if mine == nil {
		mine = make(map[*subscriber]struct{})
		n.streams[s.user] = mine
	}
	mine[s] = struct{}{}
	return nil
}

func (n *Node) leave(s *subscriber) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.ahead, s)
	mine := n.streams[s.user]
	delete(mine, s)
	if len(mine) == 0 {
		delete(n.streams, s.user)
		n.presence.left(s.user, n.config.Now())
	}
}

// nowhere is the position before the first entry: an empty id would take back the client's last one.
const nowhere = "-"

func parsePosition(text string) (gossip.Vector, error) {
	position, err := gossip.ParseVector(strings.TrimPrefix(text, nowhere))
	if err != nil {
		err = fmt.Errorf("%w: %v", ErrPosition, err)
	}
	return position, err
}

// A start is where a stream begins.
type start struct {
	position gossip.Vector // what the client has
	missed   []uint32      // records that it has not
	reset    string        // why these cannot be given, or empty
	now      string        // where the stream stands after that
	tell     bool          // whether to tell the client so: it begins anew
	ahead    bool          // the client has more than this node
}

// join makes the stream hear what is applied from now on, and says what to send before.
func (n *Node) join(s *subscriber, conn *stream.Conn, position gossip.Vector, fresh bool) start {
	n.mu.Lock()
	defer n.mu.Unlock()
	from := start{position: position, now: n.position.text, tell: fresh}
	if _, here := n.streams[s.user][s]; !here {
		return from // it has ended already
	}
	s.conn = conn
	if !fresh {
		from.missed, from.reset = n.missedSince(position)
	}
	if from.reset == "" && !n.journal.have.Covers(position) {
		s.ahead, from.ahead = position, true
		n.ahead[s] = struct{}{}
		return from
	}
	n.subscribe(s)
	return from
}

func merged(a, b gossip.Vector) gossip.Vector {
	m := a.Clone()
	m.Merge(b)
	return m
}

// missedSince gives the records that a position does not cover, or why they cannot be given.
func (n *Node) missedSince(position gossip.Vector) (missed []uint32, reset string) {
	unknown := 0
	for o, seq := range position {
		if seq <= n.journal.have[o] {
			continue
		}
		if _, peer := n.config.Peers[o.Node]; !peer {
			return nil, "the position is of a history that this node does not have"
		}
		if unknown++; unknown > aheadOriginsMax {
			return nil, "the position is too far ahead of this node"
		}
	}
	missed, ok := n.journal.after(position, replayRecordsMax)
	if !ok {
		return nil, "the position is too old"
	}
	bytes := 0
	for _, number := range missed {
		bytes += int(n.journal.records[number].length)
	}
	if bytes > replayBytesMax {
		return nil, "too much was missed"
	}
	return missed, ""
}

// subscribe makes the stream hear all rooms of its user.
func (n *Node) subscribe(s *subscriber) {
	topics := []stream.Topic{topicAll}
	for _, id := range n.state.RoomsOf(s.user) {
		topics = append(topics, topicOf(id))
	}
	n.hub.Subscribe(s.conn, topics...)
}

// opening is what a stream is sent first: when to come back, what it missed, who is there, and where it stands.
func (n *Node) opening(s *subscriber, from start) ([]byte, error) {
	b := stream.AppendRetry(nil, retryMin+time.Duration(n.random()*float64(retrySpread)))
	b, rejoined, err := n.replay(b, s.user, from)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case from.reset != "":
		b = appendReset(b, from.reset, "")
	case from.ahead && rejoined && s.ahead == nil: // it has caught up meanwhile
		b = appendReset(b, otherRooms, "")
	case from.ahead && rejoined:
		s.reset = true
	}
	for _, other := range n.state.Neighbours(s.user, neighboursMax) {
		if n.presence.online(other) {
			b = stream.AppendEvent(b, "", "presence", presenceData(other, true))
		}
	}
	if from.tell || from.reset != "" {
		b = append(b, "id: "+from.now+"\n\n"...)
	}
	return b, nil
}

// otherRooms: entries that the client has seen were of rooms that the other node did not show it, or the other way round.
const otherRooms = "another node took you for a member of other rooms"

func appendReset(b []byte, reason, id string) []byte {
	data, _ := json.Marshal(map[string]string{"reason": reason})
	return stream.AppendEvent(b, id, "reset", data)
}

// replay appends the events of missed records as they are now, and says whether there are any about the user's being a
// member of a room.
func (n *Node) replay(b []byte, user string, from start) (events []byte, rejoined bool, err error) {
	position := from.position.Clone()
	for _, number := range from.missed {
		n.mu.RLock()
		r := n.journal.records[number]
		origin := n.journal.origins[r.origin].origin
		n.mu.RUnlock()
		position[origin] = uint64(r.seq)
		f, err := n.journal.fact(r)
		if errors.Is(err, room.ErrCorrupt) {
			continue // it means nothing to anybody, and was counted when it was applied
		}
		if err != nil {
			return nil, false, err
		}
		rejoined = rejoined || f.Seats(user)
		n.mu.RLock()
		events := n.state.Replay(user, &f)
		for i, e := range events {
			b = n.appendEvent(b, &e, idOfLast(events, i, position.String()))
		}
		n.mu.RUnlock()
	}
	return b, rejoined, nil
}

// idOfLast gives the id to the last event of an entry alone: a stream that is cut between two of them gets both again.
func idOfLast(events []room.Event, i int, id string) string {
	if i < len(events)-1 {
		return ""
	}
	return id
}

func (n *Node) appendEvent(b []byte, e *room.Event, id string) []byte {
	data := e.Data
	if stored, ok := data.(room.Stored); ok {
		f, err := n.journal.fact(n.journal.records[stored.Record])
		if err != nil {
			n.config.Logger.Error("read for a stream", "err", err)
			return b
		}
		data = f.View(stored.ID)
	}
	text, err := json.Marshal(data)
	if err != nil {
		panic(fmt.Sprintf("node: an event that cannot be encoded: %v", err))
	}
	name := e.Name
	if name == "message" {
		name = "" // the name of an event that has none
	}
	return stream.AppendEvent(b, id, name, text)
}

// publish hands the events of an entry that was just applied to the streams. mu is held.
func (n *Node) publish(entry *gossip.Entry, f *room.Fact, events []room.Event) {
	for i := range events {
		e := &events[i]
		if e.Join != "" {
			n.flush()
			for s := range n.streams[e.Join] {
				if s.conn != nil && s.ahead == nil {
					n.hub.Subscribe(s.conn, topicOf(e.Room))
				}
			}
		}
		if e.Name != "" && n.hub.Heard(topicOf(e.Room)) {
			frame := n.appendEvent(nil, e, idOfLast(events, i, n.position.text))
			n.pending = append(n.pending, stream.Event{Topic: topicOf(e.Room), Frame: frame})
		}
		if e.Part != "" {
			n.flush()
			for s := range n.streams[e.Part] {
				if s.conn != nil {
					n.hub.Unsubscribe(s.conn, topicOf(e.Room))
				}
			}
		}
	}
	for s := range n.ahead {
		n.publishAhead(s, entry, f, events)
	}
	for _, e := range events {
		if e.Join != "" {
			n.introduce(e.Room, e.Join)
		}
	}
}

// publishAhead sends the events to a stream that is ahead of this node, or what corrects it if it saw the entry
// elsewhere. With the last entry that it is ahead by it becomes a stream like the others.
func (n *Node) publishAhead(s *subscriber, entry *gossip.Entry, f *room.Fact, events []room.Event) {
	s.reset = s.reset || f.Seats(s.user)
	if entry.Seq <= s.ahead[entry.Origin] {
		events = n.state.Correct(s.user, f)
	}
	at := merged(n.journal.have, s.ahead).String()
	for i, e := range events {
		if e.Name != "" && (n.state.InRoom(e.Room, s.user) || e.Part == s.user) {
			n.hub.Send(s.conn, n.appendEvent(nil, &e, idOfLast(events, i, at)))
		}
	}
	if !n.journal.have.Covers(s.ahead) {
		return
	}
	n.flush()
	if s.reset {
		n.hub.Send(s.conn, appendReset(nil, otherRooms, n.position.text))
	}
	delete(n.ahead, s)
	s.ahead, s.reset = nil, false
	n.subscribe(s)
}

func (n *Node) flush() {
	if len(n.pending) > 0 {
		n.hub.Publish(n.pending)
		n.pending = nil
	}
}

// tellPosition lets idle streams know where they stand, so that they resume from near. It is an event without data,
// which sets the last event id and is otherwise ignored.
func (n *Node) tellPosition() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.told == n.position.text {
		return
	}
	n.told = n.position.text
	n.hub.Publish([]stream.Event{{Topic: topicAll, Frame: []byte("id: " + n.told + "\n\n")}})
}
