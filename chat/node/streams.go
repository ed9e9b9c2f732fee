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
	"dongne/internal/serve"
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
	// unwatch ends the wait for the end of the caller's token; nil before it has begun.
	unwatch func()
	// ahead is what the client saw on another node and this node has not; nil once it has. Until then the stream gets
	// its events one by one, and of what the client saw elsewhere only what corrects what it was told here before.
	ahead gossip.Vector
	// reset: while it was ahead the two nodes did not take the user for a member of the same rooms.
	reset bool
}

// Stream serves a stream of all that concerns user, from a position on, or from now. It returns when the stream runs;
// it goes on without the caller.
func (n *Node) Stream(w http.ResponseWriter, r *http.Request, user, from string) error {
	at, err := parsePlace(from)
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
	n.endWithToken(r, s, conn)
	opening, err := n.opening(s, n.join(s, conn, at, from == ""))
	if err != nil { // the client comes back, and has missed nothing
		n.config.Logger.Error("read for a stream", "err", err)
		conn.End(nil)
	}
	conn.Uncork(opening)
	n.nowOnline(user)
	return nil
}

// endWithToken ends a stream when the token of its caller ends or is revoked. The client comes back with another, or is
// told that it may not.
func (n *Node) endWithToken(r *http.Request, s *subscriber, conn *stream.Conn) {
	unwatch := serve.AfterToken(r, func() { conn.End(streamConfig.Last) })
	n.mu.Lock()
	_, here := n.streams[s.user][s]
	if here {
		s.unwatch = unwatch
	}
	n.mu.Unlock()
	if !here { // it has ended already
		unwatch()
	}
}

// refused says why the hub took no stream in the words of this package's users.
func refused(err error) error {
	for is, means := range map[error]error{
		stream.ErrFull: refusal(sharedlog.ErrBusy), stream.ErrClosed: refusal(sharedlog.ErrClosed), stream.ErrMethod: ErrQuery,
	} {
		if errors.Is(err, is) {
			return fmt.Errorf("%w: %v", means, err)
		}
	}
	return err
}

// refusal is a failure of the log before anything was done.
func refusal(err error) error {
	return &sharedlog.Error{Outcome: sharedlog.NotApplied, Err: err}
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
	if s.unwatch != nil {
		s.unwatch()
	}
	delete(n.ahead, s)
	mine := n.streams[s.user]
	delete(mine, s)
	if len(mine) == 0 {
		delete(n.streams, s.user)
		n.presence.left(s.user, n.config.Now())
	}
}

// A place is where a stream stands; its text is the id of an event:
//
//	place = vector [ "!" vector [ "!" ] ]
//
// The first vector is what the client has been told of. While that is more than the node knew that told it last, the
// second one names, per origin, the first entry that the node had not heard of: what it told meanwhile may contradict that
// entry and those after it, so that whoever serves the client next corrects it. The last mark says that correcting is not
// enough: the client is to fetch everything anew.
type place struct {
	seen   gossip.Vector
	unsure gossip.Vector
	reset  bool
}

const (
	// nowhere is the place before the first entry: an empty id would take back the client's last one.
	nowhere = "-"
	mark    = "!"
)

func (p place) String() string {
	switch {
	case p.reset:
		return p.seen.String() + mark + p.unsure.String() + mark
	case len(p.unsure) > 0:
		return p.seen.String() + mark + p.unsure.String()
	}
	return p.seen.String()
}

func parsePlace(text string) (p place, err error) {
	seen, rest, _ := strings.Cut(strings.TrimPrefix(text, nowhere), mark)
	rest, p.reset = strings.CutSuffix(rest, mark)
	if p.seen, err = gossip.ParseVector(seen); err == nil {
		p.unsure, err = gossip.ParseVector(rest)
	}
	if err != nil {
		err = fmt.Errorf("%w: %v", ErrPosition, err)
	}
	return p, err
}

// sure is what the client was told of and need not be corrected about.
func (p place) sure() gossip.Vector {
	v := p.seen.Clone()
	for o, from := range p.unsure {
		v[o] = min(v[o], from-1)
	}
	return v
}

// A start is where a stream begins.
type start struct {
	place            // of the client; unsure is what this node does not know either
	missed  []uint32 // records that it has not, or is to be corrected about
	refusal string   // why these cannot be given, or empty
	now     string   // where the stream stands after that
	tell    bool     // whether to tell the client so: it begins anew, or was unsure
	ahead   bool     // the client has more than this node
}

// join makes the stream hear what is applied from now on, and says what to send before.
func (n *Node) join(s *subscriber, conn *stream.Conn, at place, fresh bool) start {
	n.mu.Lock()
	defer n.mu.Unlock()
	from := start{place: at, now: n.position.text, tell: fresh || len(at.unsure) > 0}
	if _, here := n.streams[s.user][s]; !here {
		return from // it has ended already
	}
	s.conn = conn
	if !fresh {
		from.missed, from.refusal = n.missedSince(at)
	}
	if from.unsure = n.unknown(at.seen); from.refusal == "" && len(from.unsure) > 0 {
		s.ahead, from.ahead = at.seen, true
		n.ahead[s] = struct{}{}
		return from
	}
	n.subscribe(s)
	return from
}

// unknown names the first entry of each origin that a vector has and this node has not.
func (n *Node) unknown(seen gossip.Vector) gossip.Vector {
	unknown := gossip.Vector{}
	for o, seq := range seen {
		if seq > n.journal.have[o] {
			unknown[o] = n.journal.have[o] + 1
		}
	}
	return unknown
}

func merged(a, b gossip.Vector) gossip.Vector {
	m := a.Clone()
	m.Merge(b)
	return m
}

// missedSince gives the records that the client was not told of or is to be corrected about, or why they cannot be given.
func (n *Node) missedSince(at place) (missed []uint32, refusal string) {
	if at.reset {
		return nil, otherRooms
	}
	unknown := 0
	for o, seq := range at.seen {
		if seq <= n.journal.have[o] {
			continue
		}
		if !n.log.mayLead(o) {
			return nil, "the position is of a history that this node does not have"
		}
		if unknown++; unknown > aheadOriginsMax {
			return nil, "the position is too far ahead of this node"
		}
	}
	missed, ok := n.journal.after(at.sure(), replayRecordsMax)
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
	case from.refusal != "":
		b = appendReset(b, from.refusal, "")
	case rejoined && s.ahead == nil: // it was never ahead, or has caught up meanwhile
		b = appendReset(b, otherRooms, "")
	case rejoined:
		s.reset = true
	}
	for _, other := range n.state.Neighbours(s.user, neighboursMax) {
		if n.presence.online(other) {
			b = stream.AppendEvent(b, "", "presence", presenceData(other, true))
		}
	}
	if from.tell && !from.ahead || from.refusal != "" {
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

// replay appends the events of missed records as they are now, and of those about which the client is to be corrected. It
// says whether what it saw elsewhere may have been of other rooms than what it sees here.
func (n *Node) replay(b []byte, user string, from start) (events []byte, rejoined bool, err error) {
	at := place{seen: from.seen.Clone(), unsure: from.unsure}
	for _, number := range from.missed {
		n.mu.RLock()
		r := n.journal.records[number]
		origin := n.journal.origins[r.origin].origin
		n.mu.RUnlock()
		told := uint64(r.seq) <= from.seen[origin]
		if !told {
			at.seen[origin] = uint64(r.seq)
		}
		f, err := n.journal.fact(r)
		if errors.Is(err, room.ErrCorrupt) {
			continue // it means nothing to anybody, and was counted when it was applied
		}
		if err != nil {
			return nil, false, err
		}
		rejoined = rejoined || (told || from.ahead) && f.Seats(user)
		at.reset = rejoined
		b = n.appendReplay(b, user, &f, told, at.String())
	}
	return b, rejoined, nil
}

// appendReplay appends what a stream must hear of one fact; of one that it was told of, only what corrects it.
func (n *Node) appendReplay(b []byte, user string, f *room.Fact, told bool, id string) []byte {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if told {
		for _, e := range n.state.Correct(user, f) {
			b = n.appendEvent(b, &e, "")
		}
		return b
	}
	events := n.state.Replay(user, f)
	for i, e := range events {
		b = n.appendEvent(b, &e, idOfLast(events, i, id))
	}
	return b
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
func (n *Node) publish(at stamp, f *room.Fact, events []room.Event) {
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
		n.publishAhead(s, at, f, events)
	}
	for _, e := range events {
		if e.Join != "" {
			n.introduce(e.Room, e.Join)
		}
	}
}

// publishAhead sends the events to a stream that is ahead of this node, or what corrects it if it saw the entry
// elsewhere. With the last entry that it is ahead by it becomes a stream like the others.
func (n *Node) publishAhead(s *subscriber, by stamp, f *room.Fact, events []room.Event) {
	s.reset = s.reset || f.Seats(s.user)
	if by.seq <= s.ahead[by.origin] {
		events = n.state.Correct(s.user, f)
	}
	at := place{merged(n.journal.have, s.ahead), n.unknown(s.ahead), s.reset}.String()
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
