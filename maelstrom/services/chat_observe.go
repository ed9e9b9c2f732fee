package services

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"dongne/maelstrom/history"
)

func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// settle lets readers stay where they are, and waits until all nodes say the same, twice in a row, and every reader shows it.
func (r *chat) settle(ctx context.Context) (took time.Duration) {
	close(r.settled)
	began := r.record.now()
	if r.Store == etcdStore {
		r.conclude(ctx)
	}
	for agreed := 0; agreed < 2; {
		if agreed++; !r.agreed(ctx) {
			agreed = 0
		}
		took = r.record.now() - began
		if took >= r.Recovery || !pauseFor(ctx, lookEvery) {
			break
		}
	}
	return took
}

// conclude has every node write to every room once more. A log that nodes share may take what one of them tried before, and
// nobody waits for any longer, until it takes something that this node tried later.
func (r *chat) conclude(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, r.Recovery)
	defer cancel()
	w := r.writers[0] // who is in all rooms
	w.stays = true
	for w.at = range w.client.nodes {
		for _, room := range w.rooms {
			for w.send(limited, room).posted != sure && limited.Err() == nil {
			}
		}
	}
}

// agreed says whether nothing differs between nodes and readers now; in a short form of the checks: the lists of rooms, and
// the histories as the first reader, who is in all rooms, is told them.
func (r *chat) agreed(ctx context.Context) bool {
	o := observed{nodes: r.cluster.names, rooms: r.rooms}
	for _, name := range r.cluster.names {
		for i, c := range r.users() {
			v := r.view(ctx, name, c, i == 0)
			if v.err != nil {
				return false
			}
			o.views = append(o.views, v)
		}
	}
	if len(checkAgreement(&o)) > 0 {
		return false
	}
	first := o.views[0].histories
	for _, reader := range r.readers {
		v := view{user: reader.client.user, histories: map[string][]message{}}
		for id, members := range r.rooms {
			if slices.Contains(members, v.user) {
				v.histories[id] = first[id]
			}
		}
		if len(differences(reader.seen(), &v)) > 0 {
			return false
		}
	}
	return true
}

// users are all clients, readers first.
func (r *chat) users() []*client {
	var all []*client
	for _, reader := range r.readers {
		all = append(all, reader.client)
	}
	for _, w := range r.writers {
		all = append(all, w.client)
	}
	return all
}

func (r *chat) view(ctx context.Context, node string, c *client, whole bool) view {
	v := view{node: node, user: c.user}
	if v.rooms, v.err = c.rooms(ctx, node); v.err != nil || !whole {
		return v
	}
	v.histories = map[string][]message{}
	for _, l := range v.rooms {
		if v.histories[l.ID], v.err = c.history(ctx, node, l.ID); v.err != nil {
			return v
		}
	}
	return v
}

func (r *reader) seen() *seen {
	s := &seen{user: r.client.user, texts: r.picture.texts()}
	r.picture.mu.Lock()
	defer r.picture.mu.Unlock()
	s.told = slices.Clone(r.picture.told)
	s.wrong, s.resets = slices.Clone(r.picture.wrong), slices.Clone(r.picture.resets)
	return s
}

// observe fetches, on every node for every user, what it is told at the end, and gathers what the clients know.
func (r *chat) observe(ctx context.Context) {
	o := &r.observed
	o.nodes, o.rooms, o.processes, o.ordered = r.cluster.names, r.rooms, r.cluster.starts, r.Store == etcdStore
	fresh := r.record.fresh()
	for i, c := range r.users() {
		p := process{record: r.record, number: fresh + i, final: true}
		for _, name := range r.cluster.names {
			end, _ := p.begin("read", nil)
			v := r.view(ctx, name, c, i < len(r.readers))
			if o.views = append(o.views, v); v.err != nil {
				end(history.Fail, name, nil, v.err)
				continue
			}
			messages := 0
			for _, h := range v.histories {
				messages += len(h)
			}
			end(history.OK, name, map[string]int{"rooms": len(v.rooms), "messages": messages}, nil)
		}
	}
	for _, w := range r.writers {
		o.sent = append(o.sent, w.sent...)
		o.requests += w.requests.Load()
		o.bytes += w.bytes.Load()
	}
	for _, reader := range r.readers {
		o.readers = append(o.readers, *reader.seen())
	}
}
