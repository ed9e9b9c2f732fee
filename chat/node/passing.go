package node

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"dongne/chat/room"
	"dongne/chat/stream"
)

// Presence and typing are told once and never stored.
const (
	// offlineAfter is how long a user may be without a stream before the others are told.
	offlineAfter = 5 * time.Second
	// presenceEvery is how often a node tells the others all of its users, presenceKept how long they believe it.
	presenceEvery = 15 * time.Second
	presenceKept  = 3 * presenceEvery
	// presenceUsersMax bounds the users that one node tells of.
	presenceUsersMax = 20_000
	// presenceBatch is how many users are looked at before others have their turn.
	presenceBatch = 64
	positionEvery = 15 * time.Second
)

// presence knows on which nodes a user has streams.
type presence struct {
	here   map[string]struct{}             // announced users of this node
	gone   map[string]time.Time            // of those, who has had no stream since
	remote map[string]map[string]time.Time // node → user → believed until
}

func (p *presence) init() {
	*p = presence{make(map[string]struct{}), make(map[string]time.Time), make(map[string]map[string]time.Time)}
}

func (p *presence) online(user string) bool {
	if _, here := p.here[user]; here {
		return true
	}
	for _, users := range p.remote {
		if _, there := users[user]; there {
			return true
		}
	}
	return false
}

// left notes that the user's last stream on this node ended.
func (p *presence) left(user string, now time.Time) {
	if _, here := p.here[user]; here {
		p.gone[user] = now
	}
}

// of is whom a node told of; it may be written to.
func (p *presence) of(node string) map[string]time.Time {
	if p.remote[node] == nil {
		p.remote[node] = make(map[string]time.Time)
	}
	return p.remote[node]
}

func presenceData(user string, online bool) []byte {
	data, _ := json.Marshal(struct {
		User   string `json:"user"`
		Online bool   `json:"online"`
	}{user, online})
	return data
}

// nowOnline announces a user who has a stream on this node.
func (n *Node) nowOnline(user string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.streams[user]) == 0 {
		return // it ended already
	}
	delete(n.presence.gone, user)
	if _, here := n.presence.here[user]; here || len(n.presence.here) >= presenceUsersMax {
		return
	}
	n.change(user, func() { n.presence.here[user] = struct{}{} })
	n.tellPeers(passing{Online: []string{user}})
}

// change does something to presence and tells the user's neighbours if it shows. mu is held.
func (n *Node) change(user string, do func()) {
	before := n.presence.online(user)
	do()
	after := n.presence.online(user)
	if before == after {
		return
	}
	for _, other := range n.state.Neighbours(user, neighboursMax) {
		n.tellPresent(other, user, after)
	}
}

// tellPresent tells the streams of one user that another is online, or not. mu is held.
func (n *Node) tellPresent(to, user string, online bool) {
	if len(n.streams[to]) == 0 {
		return
	}
	frame := stream.AppendEvent(nil, "", "presence", presenceData(user, online))
	for s := range n.streams[to] {
		if s.conn != nil {
			n.hub.Send(s.conn, frame)
		}
	}
}

// introduce tells a new member of a room who is there, and the others of it. mu is held.
func (n *Node) introduce(id room.ID, user string) {
	for _, other := range n.state.Circle(id) {
		if other == user {
			continue
		}
		if n.presence.online(other) {
			n.tellPresent(user, other, true)
		}
		if n.presence.online(user) {
			n.tellPresent(other, user, true)
		}
	}
}

// each does something for each user with mu held, and lets others have it in between.
func (n *Node) each(users []string, do func(user string)) {
	for batch := range slices.Chunk(users, presenceBatch) {
		n.mu.Lock()
		for _, user := range batch {
			do(user)
		}
		n.mu.Unlock()
	}
}

// passed takes what another node told.
func (n *Node) passed(from string, p passing) {
	if t := p.Typing; t != nil {
		n.mu.RLock()
		if n.state.CheckTyping(t.Room, t.User) == nil {
			n.showTyping(*t)
		}
		n.mu.RUnlock()
	}
	until := n.config.Now().Add(presenceKept)
	n.each(p.Online[:min(len(p.Online), presenceUsersMax)], func(user string) {
		users := n.presence.of(from)
		if _, known := users[user]; known || len(users) < presenceUsersMax {
			n.change(user, func() { users[user] = until })
		}
	})
	gone := p.Offline
	if p.Whole {
		n.mu.RLock()
		for user, kept := range n.presence.remote[from] {
			if kept.Before(until) {
				gone = append(gone, user)
			}
		}
		n.mu.RUnlock()
	}
	n.each(gone, func(user string) { n.change(user, func() { delete(n.presence.remote[from], user) }) })
}

// Typing shows the members of a room that a user is typing there. More than about one a second from one user changes nothing.
func (n *Node) Typing(id room.ID, user string) error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if err := n.state.CheckTyping(id, user); err != nil {
		return err
	}
	if n.typings.take(user, n.config.Now()) {
		t := typing{id, user}
		n.showTyping(t)
		n.tellPeers(passing{Typing: &t})
	}
	return nil
}

// showTyping needs mu for reading.
func (n *Node) showTyping(t typing) {
	data, _ := json.Marshal(t)
	frame := stream.AppendEvent(nil, "", "typing", data)
	n.hub.Publish([]stream.Event{{Topic: topicOf(t.Room), Frame: frame}})
	for s := range n.ahead {
		if n.state.InRoom(t.Room, s.user) {
			n.hub.Send(s.conn, frame)
		}
	}
}

// upkeepLoop does what is due now and then.
func (n *Node) upkeepLoop(ctx context.Context) {
	every := func(d time.Duration) *time.Ticker { return time.NewTicker(d) }
	second, whole := every(time.Second), every(presenceEvery)
	defer second.Stop()
	defer whole.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-second.C:
			n.expirePresence()
		case <-whole.C:
			n.tellPresence()
			n.tellPosition()
		}
	}
}

// expirePresence lets go of who has been away for long enough.
func (n *Node) expirePresence() {
	now := n.config.Now()
	away := func(since time.Time, known bool) bool { return known && now.Sub(since) >= offlineAfter }
	var offline []string
	expired := make(map[string][]string) // by node
	n.mu.RLock()
	for user, since := range n.presence.gone {
		if away(since, true) {
			offline = append(offline, user)
		}
	}
	for node, users := range n.presence.remote {
		for user, until := range users {
			if now.After(until) {
				expired[node] = append(expired[node], user)
			}
		}
	}
	n.mu.RUnlock()
	slices.Sort(offline)
	var told []string
	n.each(offline, func(user string) {
		if since, known := n.presence.gone[user]; away(since, known) { // it may have come back
			delete(n.presence.gone, user)
			n.change(user, func() { delete(n.presence.here, user) })
			told = append(told, user)
		}
	})
	if len(told) > 0 {
		n.tellPeers(passing{Offline: told})
	}
	for node, users := range expired {
		n.each(users, func(user string) {
			if now.After(n.presence.remote[node][user]) {
				n.change(user, func() { delete(n.presence.remote[node], user) })
			}
		})
	}
}

func (n *Node) tellPresence() {
	if len(n.links) == 0 {
		return
	}
	n.mu.RLock()
	users := make([]string, 0, len(n.presence.here))
	for user := range n.presence.here {
		users = append(users, user)
	}
	n.mu.RUnlock()
	slices.Sort(users)
	n.tellPeers(passing{Online: users, Whole: true})
}
