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
)

// Limits of streams.
const (
	StreamsPerUserMax = 20
	streamsMax        = 50_000
	// replayRecordsMax and replayBytesMax bound what a resumed stream is sent at the start; beyond them it is told to
	// fetch everything anew.
	replayRecordsMax = 20_000
	replayBytesMax   = 4 << 20
	neighboursMax    = 500 // users whose presence a user is told
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
	// its events one by one, without those that the client saw.
	ahead gossip.Vector
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
		return err
	}
	conn.Uncork(n.opening(user, n.join(s, conn, position, from == "")))
	n.nowOnline(user)
	return nil
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
}

// join makes the stream hear what is applied from now on, and says what to send before.
func (n *Node) join(s *subscriber, conn *stream.Conn, position gossip.Vector, fresh bool) start {
	n.mu.Lock()
	defer n.mu.Unlock()
	s.conn = conn
	n.hub.Subscribe(conn, topicAll)
	from := start{position: position, now: n.position.text, tell: fresh}
	if !fresh {
		from.missed, from.reset = n.missedSince(position)
	}
	if from.reset == "" && !n.journal.have.Covers(position) {
		s.ahead = position
		n.ahead[s] = struct{}{}
		from.now = merged(n.journal.have, position).String()
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

func (n *Node) missedSince(position gossip.Vector) (missed []uint32, reset string) {
	for o, seq := range position {
		if _, peer := n.config.Peers[o.Node]; seq > n.journal.have[o] && !peer {
			return nil, "the position is of a history that this node does not have"
		}
	}
	missed, ok := n.journal.after(position, replayRecordsMax)
	if !ok {
		return nil, "the position is too old"
	}
	return missed, ""
}

// subscribe makes the stream hear all rooms of its user.
func (n *Node) subscribe(s *subscriber) {
	ids := n.state.RoomsOf(s.user)
	topics := make([]stream.Topic, len(ids))
	for i, id := range ids {
		topics[i] = topicOf(id)
	}
	n.hub.Subscribe(s.conn, topics...)
}

// opening is what a stream is sent first: when to come back, what it missed, who is there, and where it stands.
func (n *Node) opening(user string, from start) []byte {
	b := stream.AppendRetry(nil, retryMin+time.Duration(n.random()*float64(retrySpread)))
	events, ok := n.replay(user, from.missed, from.position)
	if !ok {
		from.reset = "too much was missed"
	}
	if from.reset != "" {
		data, _ := json.Marshal(map[string]string{"reason": from.reset})
		events = stream.AppendEvent(nil, "", "reset", data)
	}
	b = append(b, events...)
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, other := range n.state.Neighbours(user, neighboursMax) {
		if n.presence.online(other) {
			b = stream.AppendEvent(b, "", "presence", presenceData(other, true))
		}
	}
	if from.tell || from.reset != "" {
		b = append(b, "id: "+from.now+"\n\n"...)
	}
	return b
}

// replay gives the events of missed records as they are now; false if they are too many bytes.
func (n *Node) replay(user string, missed []uint32, position gossip.Vector) ([]byte, bool) {
	var b []byte
	position = position.Clone()
	for _, number := range missed {
		n.mu.RLock()
		r := n.journal.records[number]
		origin := n.journal.origins[r.origin].origin
		concerns := r.room == 0 || n.state.InRoom(r.room, user)
		n.mu.RUnlock()
		position[origin] = uint64(r.seq)
		f, err := n.journal.fact(r)
		if err != nil || !concerns && f.Target != user {
			continue // unreadable facts were counted when they were applied
		}
		n.mu.RLock()
		events := n.state.Replay(user, &f)
		for i, e := range events {
			b = n.appendEvent(b, &e, idOfLast(events, i, position.String()))
		}
		n.mu.RUnlock()
		if len(b) > replayBytesMax {
			return nil, false
		}
	}
	return b, true
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
func (n *Node) publish(entry *gossip.Entry, events []room.Event) {
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
		if e.Name != "" && (len(n.ahead) > 0 || n.hub.Heard(topicOf(e.Room))) {
			frame := n.appendEvent(nil, e, idOfLast(events, i, n.position.text))
			n.pending = append(n.pending, stream.Event{Topic: topicOf(e.Room), Frame: frame})
			n.publishAhead(entry, e, i == len(events)-1)
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
	n.catchUp()
}

// publishAhead sends the event to those streams that are ahead of this node, unless they saw it elsewhere.
func (n *Node) publishAhead(entry *gossip.Entry, e *room.Event, last bool) {
	for s := range n.ahead {
		if entry.Seq <= s.ahead[entry.Origin] || !n.state.InRoom(e.Room, s.user) && e.Part != s.user {
			continue
		}
		id := ""
		if last {
			id = merged(n.journal.have, s.ahead).String()
		}
		n.hub.Send(s.conn, n.appendEvent(nil, e, id))
	}
}

// catchUp moves the streams that are no longer ahead to their rooms' topics.
func (n *Node) catchUp() {
	for s := range n.ahead {
		if n.journal.have.Covers(s.ahead) {
			n.flush()
			delete(n.ahead, s)
			s.ahead = nil
			n.subscribe(s)
		}
	}
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
