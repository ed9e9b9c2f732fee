package main

import (
	"context"
	"fmt"
	"time"

	"dongne/bench/load"
	"dongne/bench/proc"
)

const (
	idleRoomStreams = 50  // streams in one room, each of a user of its own
	steady          = 200 // memory has settled when it changes by less than one part in so many in settleStep
	settleStep      = time.Second
	settleSteps     = 20
)

// idle is the server's memory for each idle stream, in bytes.
type idle struct {
	opened   float64 // RSS right after all were opened, with what the opening left behind
	rss, pss float64 // settled, and with a garbage-collected server after a collection
}

func idleRooms(streams int) []room {
	rooms := make([]room, (streams+idleRoomStreams-1)/idleRoomStreams)
	for i := range rooms {
		rooms[i].name = fmt.Sprintf("room%d", i)
	}
	for i := range streams { // as load.Streams spreads them
		r := &rooms[i%len(rooms)]
		r.members = append(r.members, fmt.Sprintf("u%d", i))
	}
	return rooms
}

// measureIdle opens streams that get nothing.
func measureIdle(ctx context.Context, sys system, o options) (result idle, err error) {
	err = with(ctx, sys, idleRooms(o.idle), o, func(ctx context.Context, s *server) error {
		before, err := s.settledMemory(ctx, o)
		if err != nil {
			return err
		}
		streams := s.streams
		streams.Count = o.idle
		crowd, err := load.Open(ctx, streams)
		if err != nil {
			return err
		}
		defer crowd.Close()
		opened, err := s.process.Memory()
		if err != nil {
			return err
		}
		after, err := s.settledMemory(ctx, o)
		if err != nil {
			return err
		}
		if _, err := crowd.Check(0); err != nil { // all are still open
			return err
		}
		if err := o.saveProfile(ctx, s, "idle", "allocs"); err != nil {
			return err
		}
		per := func(after, before int) float64 { return float64(after-before) / float64(o.idle) }
		result = idle{per(opened.RSS, before.RSS), per(after.RSS, before.RSS), per(after.PSS, before.PSS)}
		return nil
	})
	return result, err
}

// settledMemory has the server collect its garbage, if it can be told to, and waits until its memory stays the same: a
// Go runtime gives pages back to the system slowly.
func (s *server) settledMemory(ctx context.Context, o options) (proc.Memory, error) {
	var last proc.Memory
	for range settleSteps {
		if s.debug != "" {
			if _, err := load.Get(ctx, "http://"+s.debug+"/debug/pprof/heap?gc=1"); err != nil {
				return last, err
			}
		}
		if err := load.Wait(ctx, min(settleStep, o.duration())); err != nil {
			return last, err
		}
		m, err := s.process.Memory()
		if err != nil {
			return last, err
		}
		settled := max(m.RSS, last.RSS)-min(m.RSS, last.RSS) < m.RSS/steady
		last = m
		if settled {
			break
		}
	}
	return last, nil
}
