package services

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"dongne/internal/sim"
)

// openRooms makes the clients, and rooms that every node knows of: the first writer and the first reader are in all of them,
// the others in two of three.
func (r *chat) openRooms(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, setupMax, fmt.Errorf("not every node tells of all rooms within %v", setupMax))
	defer cancel()
	users := r.newClients()
	for i := range roomsCount {
		var members []string
		for user, number := range users {
			if number == 0 || number%roomsCount != i {
				members = append(members, user)
			}
		}
		slices.Sort(members)
		var made listing
		body := map[string]any{"kind": "group", "name": fmt.Sprintf("room %d", i), "members": members}
		owner := r.writers[0].client
		if err := owner.do(ctx, r.cluster.names[0], http.MethodPost, "/rooms", fmt.Sprint("room", i), body, &made); err != nil {
			return fmt.Errorf("open a room: %w", err)
		}
		r.rooms[made.ID] = members
	}
	for _, w := range r.writers {
		for _, id := range sorted(r.rooms) {
			if slices.Contains(r.rooms[id], w.client.user) {
				w.rooms = append(w.rooms, id)
			}
		}
	}
	for _, name := range r.cluster.names {
		for {
			known, err := r.writers[0].client.rooms(ctx, name)
			if err == nil && len(known) == roomsCount {
				break
			}
			if !pauseFor(ctx, againMax) {
				return fmt.Errorf("%s: %w", name, context.Cause(ctx))
			}
		}
	}
	return nil
}

// newClients makes writers and readers, and returns their users with a number each among their kind.
func (r *chat) newClients() map[string]int {
	users := map[string]int{}
	nodes, step := len(r.cluster.names), r.Concurrency+r.Readers
	for i := range r.Concurrency {
		user := fmt.Sprintf("w%d", i)
		users[user] = i
		r.writers = append(r.writers, &writer{
			process: process{record: r.record, number: i, step: step}, client: newClient(r.cluster, user), rand: sim.Stream(r.Seed, user), at: i % nodes,
			patience: r.Patience, gap: time.Duration(float64(r.Concurrency) / r.Rate * float64(time.Second)),
		})
	}
	for i := range r.Readers {
		user := fmt.Sprintf("r%d", i)
		users[user] = i
		r.readers = append(r.readers, &reader{
			process: process{record: r.record, number: r.Concurrency + i, step: step}, client: newClient(r.cluster, user), rand: sim.Stream(r.Seed, user), at: i % nodes,
			picture: newPicture(), settled: r.settled,
		})
	}
	return users
}
