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
	positionEvery    = 15 * time.Second
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
	delete(n.presence.gone, user)
	if _, here := n.presence.here[user]; here || len(n.streams[user]) == 0 || len(n.presence.here) >= presenceUsersMax {
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
	frame := stream.AppendEvent(nil, "", "presence", presenceData(user, after))
	for _, other := range n.state.Neighbours(user, room.MembersMax) {
		for s := range n.streams[other] {
			if s.conn != nil {
				n.hub.Send(s.conn, frame)
			}
		}
	}
}

// passed takes what another node told.
func (n *Node) passed(from string, p passing) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.Typing != nil && n.state.InRoom(p.Typing.Room, p.Typing.User) {
		n.showTyping(*p.Typing)
	}
	users := n.presence.remote[from]
	if users == nil {
		users = make(map[string]time.Time)
		n.presence.remote[from] = users
	}
	until := n.config.Now().Add(presenceKept)
	for _, user := range p.Online[:min(len(p.Online), presenceUsersMax)] {
		if len(users) < presenceUsersMax {
			n.change(user, func() { users[user] = until })
		}
	}
	for _, user := range p.Offline {
		n.change(user, func() { delete(users, user) })
	}
	if p.Whole {
		for user, kept := range users {
			if kept != until {
				n.change(user, func() { delete(users, user) })
			}
		}
	}
}

// Typing shows the members of a room that a user is typing there.
func (n *Node) Typing(id room.ID, user string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := n.state.Room(id, user); err != nil {
		return err
	}
	t := typing{id, user}
	n.showTyping(t)
	n.tellPeers(passing{Typing: &t})
	return nil
}

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
	reads, second, whole := every(readsEvery), every(time.Second), every(presenceEvery)
	defer reads.Stop()
	defer second.Stop()
	defer whole.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-reads.C:
			n.flushReads(ctx)
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
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.config.Now()
	var offline []string
	for user, since := range n.presence.gone {
		if now.Sub(since) >= offlineAfter {
			delete(n.presence.gone, user)
			n.change(user, func() { delete(n.presence.here, user) })
			offline = append(offline, user)
		}
	}
	for _, users := range n.presence.remote {
		for user, until := range users {
			if now.After(until) {
				n.change(user, func() { delete(users, user) })
			}
		}
	}
	if len(offline) > 0 {
		slices.Sort(offline)
		n.tellPeers(passing{Offline: offline})
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
