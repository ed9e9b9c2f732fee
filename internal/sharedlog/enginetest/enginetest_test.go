package enginetest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/enginetest"
	"dongne/internal/sharedlog/live"
)

func TestMemory(t *testing.T) {
	enginetest.Run(t, func(*testing.T) func(*testing.T) live.Engine {
		m := enginetest.NewMemory()
		return func(*testing.T) live.Engine { return m.Another() }
	})
}

// every returns a hook that fails every so many times.
func every(count int64) func(uint64) error {
	var n atomic.Int64
	return func(uint64) error {
		if n.Add(1)%count == 0 {
			return errors.New("connection lost")
		}
		return nil
	}
}

func TestMemoryWithoutAnswers(t *testing.T) {
	enginetest.Run(t, func(*testing.T) func(*testing.T) live.Engine {
		m := enginetest.NewMemory()
		return func(*testing.T) live.Engine {
			e := m.Another()
			e.OnCreate, e.OnCreated = every(5), every(3)
			return e
		}
	})
}

// A mutant is an engine with a mistake, and the test of the suite that must find it.
var mutants = map[string]struct {
	test string
	make func(*enginetest.Memory) live.Engine
}{
	"overwrites":           {"SlotIsCreatedOnce", func(m *enginetest.Memory) live.Engine { return newOverwrites(m) }},
	"remembers absence":    {"AbsentSlots", func(m *enginetest.Memory) live.Engine { return &remembers{Memory: m} }},
	"everybody wins":       {"OneCreatorWins", func(m *enginetest.Memory) live.Engine { return everybodyWins{m} }},
	"cuts":                 {"BigSlots", func(m *enginetest.Memory) live.Engine { return cuts{m} }},
	"creates below floor":  {"Trimmed", func(m *enginetest.Memory) live.Engine { return noFloor{m} }},
	"old snapshots":        {"Snapshots", func(m *enginetest.Memory) live.Engine { return oldSnapshots{m} }},
	"says created for all": {"Logs", func(m *enginetest.Memory) live.Engine { return everybodyWins{m} }},
}

type overwrites struct {
	*enginetest.Memory
	own map[uint64][]byte
}

func newOverwrites(m *enginetest.Memory) overwrites { return overwrites{m, map[uint64][]byte{}} }

func (o overwrites) Create(ctx context.Context, slot uint64, data []byte) (sharedlog.Outcome, error) {
	o.own[slot] = data
	return o.Memory.Create(ctx, slot, data)
}

func (o overwrites) Get(ctx context.Context, slot uint64) ([]byte, error) {
	if data, ok := o.own[slot]; ok {
		return data, nil
	}
	return o.Memory.Get(ctx, slot)
}

type remembers struct {
	*enginetest.Memory
	absent sync.Map
}

func (r *remembers) Get(ctx context.Context, slot uint64) ([]byte, error) {
	if err, ok := r.absent.Load(slot); ok {
		return nil, err.(error)
	}
	data, err := r.Memory.Get(ctx, slot)
	if err != nil {
		r.absent.Store(slot, err)
	}
	return data, err
}

type everybodyWins struct{ *enginetest.Memory }

func (e everybodyWins) Create(ctx context.Context, slot uint64, data []byte) (sharedlog.Outcome, error) {
	e.Memory.Create(ctx, slot, data)
	return sharedlog.Created, nil
}

type cuts struct{ *enginetest.Memory }

func (c cuts) Create(ctx context.Context, slot uint64, data []byte) (sharedlog.Outcome, error) {
	return c.Memory.Create(ctx, slot, data[:min(len(data), 64<<10)])
}

type noFloor struct{ *enginetest.Memory }

func (n noFloor) Create(ctx context.Context, slot uint64, data []byte) (sharedlog.Outcome, error) {
	outcome, err := n.Memory.Create(ctx, slot, data)
	if _, get := n.Memory.Get(ctx, slot); errors.Is(get, sharedlog.ErrTrimmed) {
		return sharedlog.Created, nil
	}
	return outcome, err
}

type oldSnapshots struct{ *enginetest.Memory }

func (o oldSnapshots) SaveSnapshot(ctx context.Context, slot uint64, data []byte) error {
	if slot > 1 {
		return nil
	}
	return o.Memory.SaveSnapshot(ctx, slot, data)
}

// Each mutant fails the suite, in a process of its own, at the test that is about its mistake.
func TestMutants(t *testing.T) {
	const variable = "ENGINETEST_MUTANT"
	if name := os.Getenv(variable); name != "" {
		enginetest.Run(t, func(*testing.T) func(*testing.T) live.Engine {
			m := enginetest.NewMemory()
			return func(*testing.T) live.Engine { return mutants[name].make(m.Another()) }
		})
		return
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, mutant := range mutants {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(program, "-test.run", "^TestMutants$/^"+mutant.test+"$", "-test.timeout", "60s")
			cmd.Env = append(os.Environ(), variable+"="+name)
			out, err := cmd.CombinedOutput()
			if want := "--- FAIL: TestMutants/" + mutant.test; err == nil || !strings.Contains(string(out), want) {
				t.Errorf("the suite does not catch it: %v\n%s", err, out)
			}
		})
	}
}

// The checker accepts a right history and finds each kind of lie.
func TestCheck(t *testing.T) {
	const applied, notApplied, unknown = sharedlog.Applied, sharedlog.NotApplied, sharedlog.Unknown
	call := func(item string, o sharedlog.Outcome, place, begin, end int) enginetest.Call {
		return enginetest.Call{Item: item, Outcome: o, Place: place, Begin: begin, End: end}
	}
	calls := []enginetest.Call{
		call("a", applied, 1, 1, 2), call("b", applied, 2, 3, 7), call("c", unknown, 0, 4, 5),
		call("d", notApplied, 0, 6, 8), call("e", unknown, 0, 9, 0), call("f", applied, 3, 10, 11),
	}
	for _, items := range []string{"a b f", "a b f c", "a b f e"} {
		if err := enginetest.Check(calls, strings.Fields(items)); err != nil {
			t.Errorf("%s: %v", items, err)
		}
	}
	for _, c := range []struct{ name, items, want string }{
		{"lost", "a b", `"f" was answered place 3 and is lost`},
		{"doubled", "a b f f", `"f" stands at 3 and at 4`},
		{"unknown doubled", "a b f c c", `"c" stands at 4 and at 5`},
		{"moved", "a c b f", `"b" was answered place 2 and stands at 3`},
		{"false not_applied", "a b f d", `"d" was answered not_applied`},
		{"invented", "a b f g", `"g" stands at 4 and was never proposed`},
		{"out of real time", "b a f", `"a" stands after "b", which began after its answer`},
	} {
		if err := enginetest.Check(calls, strings.Fields(c.items)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
