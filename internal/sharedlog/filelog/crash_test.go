package filelog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"dongne/internal/sharedlog"
)

// life is a log over a directory that loses what it may, and what must be true of it.
type life struct {
	files    *memory
	chance   *rand.Rand
	log      *Log
	slots    [][]byte // acknowledged, or found after a restart; slot 1 first
	open     []byte   // the create whose outcome is unknown
	floor    uint64   // of a trim that was acknowledged
	snapshot uint64   // that was acknowledged
	cuts     int
	grow     int64
}

// small options, so that extensions and new segments are frequent.
func (v *life) options() Options {
	return Options{SegmentBytes: 6000, grow: v.grow, files: v.files, Rand: readerOf(v.chance)}
}

type random struct{ *rand.Rand }

func readerOf(r *rand.Rand) random { return random{r} }

func (r random) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return len(p), nil
}

// start opens the log, and compares it with what must have survived.
func (v *life) start() error {
	log, report, err := Open("memory", v.options())
	if err != nil {
		return err
	}
	v.log = log
	if report.Cut.Bytes > 0 {
		v.cuts++
	}
	tail := log.Tail()
	switch n := uint64(len(v.slots)); {
	case tail < n:
		return fmt.Errorf("slot %d was acknowledged, but the tail is %d", n, tail)
	case tail > n+1, tail == n+1 && v.open == nil:
		return fmt.Errorf("the tail is %d, but no create beyond %d can have happened", tail, n)
	case tail == n+1:
		v.slots = append(v.slots, v.open)
	}
	v.open = nil
	if log.First() < v.floor || log.snapshot < v.snapshot {
		return fmt.Errorf("floor %d and snapshot %d were acknowledged, found %d and %d", v.floor, v.snapshot, log.First(), log.snapshot)
	}
	v.floor, v.snapshot = log.First(), log.snapshot
	return v.verify()
}

func (v *life) verify() error {
	for slot := v.floor; slot <= v.log.Tail(); slot++ {
		got, err := v.log.Get(context.Background(), slot)
		if err != nil || !bytes.Equal(got, v.slots[slot-1]) {
			return fmt.Errorf("slot %d holds %d bytes %.20x, want %d bytes %.20x: %v", slot, len(got), got, len(v.slots[slot-1]), v.slots[slot-1], err)
		}
	}
	if v.snapshot > 0 {
		data, err := v.log.LoadSnapshot(context.Background())
		if err != nil {
			return err
		}
		if s, err := sharedlog.DecodeSnapshot(data); err != nil || s.Slot != v.snapshot {
			return fmt.Errorf("snapshot of slot %d: %v", v.snapshot, err)
		}
	}
	return nil
}

func (v *life) payload() []byte {
	data := make([]byte, 1+v.chance.IntN(1200))
	if v.chance.IntN(3) > 0 { // else zeros: a torn record may look whole in its middle
		readerOf(v.chance).Read(data)
	}
	data[0] = 1
	return data
}

// act does one thing to the log.
func (v *life) act() error {
	slot := uint64(len(v.slots)) + 1
	switch k := v.chance.IntN(100); {
	case k < 4:
		data := (&sharedlog.Snapshot{Position: sharedlog.Position{Slot: slot - 1}, State: v.payload()}).Encode()
		if slot > 1 && v.log.SaveSnapshot(context.Background(), slot-1, data) == nil {
			v.snapshot = slot - 1
		}
	case k < 8 && v.snapshot > 0:
		if floor := 1 + v.chance.Uint64N(v.snapshot+1); v.log.Trim(floor) == nil {
			v.floor = max(v.floor, floor)
		}
	case k < 12:
		v.files.full = !v.files.full
	case k < 16 && slot > 1:
		if outcome, err := v.log.Create(context.Background(), 1+v.chance.Uint64N(slot-1), v.payload()); outcome != sharedlog.Taken || err != nil {
			return fmt.Errorf("create of a slot up to %d: %v, %v; want taken", slot-1, outcome, err)
		}
	case k < 18:
		return v.verify()
	default:
		return v.create(slot)
	}
	return nil
}

func (v *life) create(slot uint64) error {
	data := v.payload()
	switch outcome, err := v.log.Create(context.Background(), slot, data); {
	case outcome == sharedlog.Created && err == nil:
		v.slots = append(v.slots, data)
	case outcome == sharedlog.NotApplied && err != nil && (v.files.full || v.files.dead):
	case outcome == sharedlog.Unknown && v.files.full && !v.files.dead: // undoing found no space either
		v.files.full = false
		if outcome, err := v.log.Create(context.Background(), slot, data); outcome != sharedlog.Created && !v.files.dead {
			return fmt.Errorf("create of slot %d, repeated with space: %v, %v", slot, outcome, err)
		} else if v.open = data; outcome == sharedlog.Created {
			v.slots, v.open = append(v.slots, data), nil
		}
	case outcome == sharedlog.Unknown && v.files.dead:
		v.open = data
		v.files.deathAt = v.files.calls // nothing else is to be counted
	default:
		return fmt.Errorf("create of slot %d: %v, %v", slot, outcome, err)
	}
	return nil
}

// generations lives through so many deaths of the process.
func (v *life) generations(n int) error {
	for range n {
		v.files.deathAt = v.files.calls + 1 + v.chance.IntN(60)
		err := v.start()
		for err == nil && !v.files.dead {
			err = v.act()
		}
		if err != nil && !v.files.dead {
			return err
		}
		v.files.restart(v.chance.IntN(3) > 0)
	}
	return v.start()
}

func newLife(seed uint64) *life {
	return &life{files: newMemory(seed), chance: rand.New(rand.NewPCG(seed, 2)), floor: 1, grow: 2048}
}

// seeds returns how many seeds to run: DONGNE_SEEDS, or n, or n/10 with -short.
func seeds(t *testing.T, n int) uint64 {
	if s := os.Getenv("DONGNE_SEEDS"); s != "" {
		k, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("DONGNE_SEEDS: %v", err)
		}
		return k
	}
	if testing.Short() {
		n /= 10
	}
	return uint64(n)
}

// TestPowerFailures kills the process in any call, with and without the power, over and over: what was acknowledged is
// there, what was not is there at most once and whole, and the log goes on. One seed alone:
//
//	DONGNE_SEED=n go test -run TestPowerFailures ./internal/sharedlog/filelog
func TestPowerFailures(t *testing.T) {
	first, n := uint64(0), seeds(t, 200)
	if s := os.Getenv("DONGNE_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("DONGNE_SEED: %v", err)
		}
		first, n = seed, 1
	}
	slots, cuts := 0, 0
	for seed := first; seed < first+n; seed++ {
		v := newLife(seed)
		if err := v.generations(20); err != nil {
			t.Fatalf("%v\nreplay: DONGNE_SEED=%d go test -run TestPowerFailures ./internal/sharedlog/filelog", err, seed)
		}
		slots, cuts = slots+len(v.slots), cuts+v.cuts
	}
	t.Logf("%d seeds: %d slots, %d unfinished writes cut", n, slots, cuts)
	if n >= 30 && (slots == 0 || cuts == 0) {
		t.Error("the test does not meet unfinished writes")
	}
}

// A disk that lies is a mutant that the test above must catch.
func TestPowerFailuresCatches(t *testing.T) {
	for name, lie := range map[string]func(*memory){
		"sync does nothing":                 func(m *memory) { m.syncLies = true },
		"directory sync does nothing":       func(m *memory) { m.syncDirLies = true },
		"what a dead process left unsynced": func(m *memory) { m.openSyncLies = true },
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(500) {
				v := newLife(seed)
				lie(v.files)
				if err := v.generations(20); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("not caught")
		})
	}
}

// After a failed sync the log writes nothing more, though the next sync would succeed. The second half is the mutant: a
// log that syncs again and believes it loses what it acknowledged.
func TestFailedSync(t *testing.T) {
	for _, syncsAgain := range []bool{false, true} {
		lost := false
		for seed := range uint64(20) {
			v := newLife(seed)
			v.grow = 6000 // room for both slots: it is the sync of a record that fails
			if err := v.start(); err != nil {
				t.Fatal(err)
			}
			if err := v.create(1); err != nil {
				t.Fatal(err)
			}
			v.files.syncFails = true
			second := v.payload()
			outcome, err := v.log.Create(t.Context(), 2, second)
			if outcome != sharedlog.Unknown || !errors.Is(err, sharedlog.ErrStopped) || !errors.Is(err, errInput) {
				t.Fatalf("Create with a failing sync = %v, %v; want unknown, ErrStopped", outcome, err)
			}
			if syncsAgain {
				if err := v.log.segments[0].file.Sync(); err != nil {
					t.Fatal(err)
				}
				v.slots = append(v.slots, second)
			}
			switch outcome, again := v.log.Create(t.Context(), 2, second); {
			case outcome != sharedlog.Unknown || again == nil || again.Error() != err.Error():
				t.Fatalf("Create after a failed sync = %v, %v; want unknown and the first failure", outcome, again)
			}
			if got, err := v.log.Get(t.Context(), 1); err != nil || !bytes.Equal(got, v.slots[0]) {
				t.Fatalf("Get after a failed sync: %v", err)
			}
			v.open = second
			v.files.restart(true)
			if err := v.start(); err != nil {
				lost = true
			}
		}
		if lost != syncsAgain {
			t.Errorf("syncs again: %v; acknowledged slots lost: %v", syncsAgain, lost)
		}
	}
}
