package services

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"dongne/maelstrom/history"
	"dongne/maelstrom/report"
	"dongne/maelstrom/services/relay"
)

// A nemesis carries out a plan, one step after the other, and notes what it did.
type nemesis struct {
	cluster *cluster
	record  *recorder
	log     func(format string, args ...any)
	faults  map[string]int // how many of each kind began
}

// run carries out the steps, each when its time has come, until ctx ends.
func (n *nemesis) run(ctx context.Context, steps []step) {
	for _, s := range steps {
		if !pauseFor(ctx, s.at-n.record.now()) {
			return
		}
		n.do(ctx, s)
	}
}

// heal ends faults of all these kinds, everywhere, and waits for the nodes. What is started last finds nothing cut off or
// standing still.
func (n *nemesis) heal(ctx context.Context, kinds []string) {
	for _, kind := range []string{partition, delay, pause, kill} {
		if slices.Contains(kinds, kind) {
			n.do(ctx, step{f: operations[kind][1]})
		}
	}
	n.cluster.await(ctx)
}

func (n *nemesis) do(ctx context.Context, s step) {
	n.record.add(history.Op{Process: history.Nemesis, Type: history.Info, F: s.f, Value: toJSON(s.asked())})
	done := n.carryOut(ctx, s)
	n.record.add(history.Op{Process: history.Nemesis, Type: history.Info, F: s.f, Value: toJSON(done)})
	for kind, f := range operations {
		switch s.f {
		case f[0]:
			n.faults[kind]++
			n.log("%6.1f s %s: %s", n.record.now().Seconds(), s.f, report.Describe(kind, toJSON(done), n.cluster.all()))
		case f[1]:
			n.log("%6.1f s %s", n.record.now().Seconds(), s.f)
		}
	}
}

// asked is what the invocation says: how, where the completion says whom.
func (s *step) asked() any {
	switch {
	case s.cut != nil && s.blackhole:
		return "blackhole"
	case s.cut != nil:
		return "refuse"
	case s.delay > 0:
		return s.delay.Round(time.Millisecond).String()
	case s.nodes != nil:
		return s.nodes
	}
	return nil
}

func (n *nemesis) carryOut(ctx context.Context, s step) any {
	c := n.cluster
	switch s.f {
	case "start-partition":
		mode := relay.Cut
		if s.blackhole {
			mode = relay.Blackhole
		}
		c.cut(s.cut, mode)
		return []any{"isolated", s.cut}
	case "stop-partition":
		c.open()
		return "network-healed"
	case "kill":
		return []any{"killed", c.kill(s.nodes)}
	case "start":
		return []any{"started", c.startAll(ctx)}
	case "pause":
		return []any{"paused", c.pause(s.nodes)}
	case "resume":
		return []any{"resumed", c.resume()}
	case "start-delay":
		c.delay(s.delay, func(node string) bool { return slices.Contains(s.nodes, node) })
		return []any{"delayed", s.nodes}
	case "stop-delay":
		c.delay(0, func(string) bool { return false })
		return "network-fast"
	}
	panic("services: an unknown step " + s.f)
}

func toJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic("services: " + err.Error()) // strings, numbers, and lists and maps of them only
	}
	return b
}

// pauseFor waits; false if ctx ends first.
func pauseFor(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
