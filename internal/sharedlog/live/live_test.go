package live_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/filelog"
	"dongne/internal/sharedlog/live"

	"github.com/google/go-cmp/cmp"
)

// list is a machine that keeps strings, each once; its answer is the place of a string, from 1.
type list struct {
	mu     sync.RWMutex
	items  []string
	stored []place
}

// place is where the log holds a string.
type place struct {
	slot           uint64
	offset, length int
}

func (m *list) Prepare(_ sharedlog.Position, requests []string) []sharedlog.Prepared[int] {
	prepared := make([]sharedlog.Prepared[int], len(requests))
	for i, q := range requests {
		if place := slices.Index(m.items, q) + 1; place > 0 {
			prepared[i] = sharedlog.Prepared[int]{Done: true, Result: place}
		} else {
			prepared[i].Commands = [][]byte{[]byte(q)}
		}
	}
	return prepared
}

func (m *list) Apply(b *sharedlog.Batch) []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	var places []int
	for _, c := range b.Commands {
		m.stored = append(m.stored, place{b.Slot, c.Offset, len(c.Data)})
		if !slices.Contains(m.items, string(c.Data)) {
			m.items = append(m.items, string(c.Data))
		}
		places = append(places, slices.Index(m.items, string(c.Data))+1)
	}
	return places
}

func (m *list) Abandon() {}

func (m *list) Snapshot() ([]byte, bool) {
	state, err := json.Marshal(m.items)
	return state, err == nil
}

func (m *list) Restore(state []byte) error { return json.Unmarshal(state, &m.items) }

func (m *list) all() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.items)
}

// shared is an engine in memory, to which any number of logs may be open. before sees each create first and may decide it.
type shared struct {
	mu       sync.Mutex
	slots    map[uint64][]byte
	floor    uint64
	snapshot []byte
	before   func(slot uint64) (decided bool, outcome sharedlog.Outcome, err error)
	after    func(slot uint64) error // the answer of a create is lost when it returns an error
	get      func(slot uint64) error // a get fails when it returns an error
}

func newShared() *shared { return &shared{slots: map[uint64][]byte{}, floor: 1} }

func (e *shared) Create(_ context.Context, slot uint64, data []byte) (sharedlog.Outcome, error) {
	if e.before != nil {
		if decided, outcome, err := e.before(slot); decided {
			return outcome, err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.slots[slot]; ok || slot < e.floor {
		return sharedlog.Taken, nil
	}
	e.slots[slot] = bytes.Clone(data)
	if e.after != nil {
		if err := e.after(slot); err != nil {
			return sharedlog.Unknown, err
		}
	}
	return sharedlog.Created, nil
}

func (e *shared) Get(_ context.Context, slot uint64) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.get != nil {
		if err := e.get(slot); err != nil {
			return nil, err
		}
	}
	if slot < e.floor {
		return nil, sharedlog.ErrTrimmed
	}
	if data, ok := e.slots[slot]; ok {
		return data, nil
	}
	return nil, sharedlog.ErrAbsent
}

func (e *shared) SaveSnapshot(_ context.Context, slot uint64, data []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.snapshot = data
	return nil
}

func (e *shared) LoadSnapshot(context.Context) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.snapshot == nil {
		return nil, sharedlog.ErrAbsent
	}
	return e.snapshot, nil
}

// trim removes the slots below floor.
func (e *shared) trim(floor uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for ; e.floor < floor; e.floor++ {
		delete(e.slots, e.floor)
	}
}

func open(t *testing.T, e live.Engine, m sharedlog.Machine[string, int], o live.Options) *live.Log[string, int] {
	t.Helper()
	log, err := live.Open(t.Context(), e, m, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return log
}

func wantError(t *testing.T, what string, err error, outcome sharedlog.Outcome, cause error) {
	t.Helper()
	if sharedlog.OutcomeOf(err) != outcome || !errors.Is(err, cause) {
		t.Errorf("%s: error %v, want %v: %v", what, err, outcome, cause)
	}
}

// gate makes an engine wait in Create until it is opened.
func gate(e *shared) (open func()) {
	c := make(chan struct{})
	e.before = func(uint64) (bool, sharedlog.Outcome, error) { <-c; return false, 0, nil }
	return func() { close(c) }
}

// What arrives while a slot is being written shares the next one, in the order of arrival.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newShared()
		release := gate(e)
		log := open(t, e, &list{}, live.Options{})
		var waits []func(context.Context) (int, error)
		for i := range 64 {
			wait, err := log.Enqueue(fmt.Sprint(i))
			if err != nil {
				t.Fatal(err)
			}
			waits = append(waits, wait)
			if i == 0 {
				synctest.Wait() // the first is on its way alone
			}
		}
		release()
		for i, wait := range waits {
			if place, err := wait(t.Context()); place != i+1 || err != nil {
				t.Errorf("request %d: place %d, %v", i, place, err)
			}
		}
		if len(e.slots) != 2 {
			t.Errorf("%d slots, want 2", len(e.slots))
		}
	})
}

func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newShared()
		release := gate(e)
		log := open(t, e, &list{}, live.Options{QueueMax: 3})
		for i := range 5 {
			_, err := log.Enqueue(fmt.Sprint(i))
			if i < 4 && err != nil {
				t.Fatal(err)
			}
			if i == 4 {
				wantError(t, "fourth in the queue of three", err, sharedlog.NotApplied, sharedlog.ErrBusy)
			}
			synctest.Wait() // the first is under way
		}
		release()
	})
}

// Giving up before one's turn is not_applied, and nothing is applied; after it, unknown.
func TestGivingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newShared()
		release := gate(e)
		m := &list{}
		log := open(t, e, m, live.Options{})
		first, _ := log.Enqueue("first")
		synctest.Wait()
		second, _ := log.Enqueue("second")
		third, _ := log.Enqueue("third")
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := first(gone)
		wantError(t, "under way", err, sharedlog.Unknown, context.Canceled)
		_, err = second(gone)
		wantError(t, "waiting", err, sharedlog.NotApplied, context.Canceled)
		release()
		if place, err := third(t.Context()); place != 2 || err != nil {
			t.Errorf("third: place %d, %v", place, err)
		}
		if diff := cmp.Diff([]string{"first", "third"}, m.all()); diff != "" {
			t.Errorf("list mismatch (-want +got)\n%s", diff)
		}
	})
}

// Close finishes what is queued.
func TestCloseDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newShared()
		release := gate(e)
		m := &list{}
		log := open(t, e, m, live.Options{BatchRequestsMax: 3})
		var waits []func(context.Context) (int, error)
		for i := range 10 {
			wait, _ := log.Enqueue(fmt.Sprint(i))
			waits = append(waits, wait)
		}
		closed := make(chan error)
		go func() { closed <- log.Close() }()
		synctest.Wait()
		_, err := log.Propose(t.Context(), "late")
		wantError(t, "after Close", err, sharedlog.NotApplied, sharedlog.ErrClosed)
		release()
		if err := <-closed; err != nil {
			t.Error(err)
		}
		for i, wait := range waits {
			if place, err := wait(t.Context()); place != i+1 || err != nil {
				t.Errorf("request %d: place %d, %v", i, place, err)
			}
		}
	})
}

// An engine that never knows does not hold Close up, and nobody is left without an answer.
func TestCloseWithUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newShared()
		lost := errors.New("connection lost")
		e.before = func(uint64) (bool, sharedlog.Outcome, error) { return true, sharedlog.Unknown, lost }
		log := open(t, e, &list{}, live.Options{})
		first, _ := log.Enqueue("first")
		synctest.Wait()
		second, _ := log.Enqueue("second")
		start := time.Now()
		if err := log.Close(); !errors.Is(err, sharedlog.ErrClosed) {
			t.Errorf("Close: %v", err)
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("Close took %v", waited)
		}
		_, err := first(t.Context())
		wantError(t, "under way", err, sharedlog.Unknown, sharedlog.ErrClosed)
		_, err = second(t.Context())
		wantError(t, "waiting", err, sharedlog.NotApplied, sharedlog.ErrClosed)
	})
}

// An engine that stops ends the log: unknown for the slot under way, not_applied for all that follows, and the cause.
func TestEngineStops(t *testing.T) {
	for _, outcome := range []sharedlog.Outcome{sharedlog.Unknown, sharedlog.NotApplied} {
		e := newShared()
		died := fmt.Errorf("%w: disk died", sharedlog.ErrStopped)
		e.before = func(uint64) (bool, sharedlog.Outcome, error) { return true, outcome, died }
		log := open(t, e, &list{}, live.Options{})
		_, err := log.Propose(t.Context(), "a")
		wantError(t, "under way", err, outcome, died)
		_, err = log.Propose(t.Context(), "b")
		wantError(t, "afterwards", err, sharedlog.NotApplied, died)
		wantError(t, "fresh read", log.Fresh(t.Context()), sharedlog.NotApplied, died)
		if err := log.Close(); !errors.Is(err, died) {
			t.Errorf("Close: %v, want the cause", err)
		}
	}
}

func TestFull(t *testing.T) {
	e := newShared()
	full := true
	e.before = func(uint64) (bool, sharedlog.Outcome, error) { return full, sharedlog.NotApplied, sharedlog.ErrFull }
	m := &list{}
	log := open(t, e, m, live.Options{})
	_, err := log.Propose(t.Context(), "a")
	wantError(t, "full", err, sharedlog.NotApplied, sharedlog.ErrFull)
	if len(m.all()) != 0 {
		t.Errorf("applied %v", m.all())
	}
	full = false
	if place, err := log.Propose(t.Context(), "b"); place != 1 || err != nil {
		t.Errorf("with space again: %d, %v", place, err)
	}
}

// A lost answer is retried with growing pauses, at the same slot, and applies once.
func TestLostAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newShared()
		lost := errors.New("connection lost")
		tries := 0
		e.before = func(slot uint64) (bool, sharedlog.Outcome, error) {
			tries++
			return tries < 4, sharedlog.Unknown, lost
		}
		e.after = func(uint64) error { return lost }
		m := &list{}
		log := open(t, e, m, live.Options{})
		start := time.Now()
		if place, err := log.Propose(t.Context(), "a"); place != 1 || err != nil {
			t.Fatalf("Propose: %d, %v", place, err)
		}
		if waited := time.Since(start); waited != (10+20+40+80)*time.Millisecond {
			t.Errorf("waited %v", waited)
		}
		if tries != 5 || len(e.slots) != 1 {
			t.Errorf("%d tries, %d slots; want 5 and 1", tries, len(e.slots))
		}
	})
}

// A get that fails in passing is repeated; one that finds damage stops the log, and the request under way is unknown.
func TestGetFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newShared()
		lost := errors.New("connection lost")
		e.after = func(uint64) error { return lost } // so that the retry is Taken and must be read
		log := open(t, e, &list{}, live.Options{})
		gets := 0
		e.get = func(uint64) error {
			if gets++; gets < 3 {
				return lost
			}
			return nil
		}
		if place, err := log.Propose(t.Context(), "a"); place != 1 || err != nil || gets != 3 {
			t.Errorf("Propose: place %d, %v after %d gets; want 1 after 3", place, err, gets)
		}
		e.get = func(uint64) error { return sharedlog.ErrDamaged }
		_, err := log.Propose(t.Context(), "b")
		wantError(t, "slot damaged", err, sharedlog.Unknown, sharedlog.ErrDamaged)
		_, err = log.Propose(t.Context(), "c")
		wantError(t, "afterwards", err, sharedlog.NotApplied, sharedlog.ErrDamaged)
		if _, err := live.Open(t.Context(), e, &list{}, live.Options{}); !errors.Is(err, sharedlog.ErrDamaged) {
			t.Errorf("Open: %v, want ErrDamaged", err)
		}
		log.Close()
		if _, err := log.Snapshot(t.Context()); !errors.Is(err, sharedlog.ErrClosed) {
			t.Errorf("Snapshot after Close: %v", err)
		}
	})
}

// TestOpenWaits: an engine that others share may fail in passing while a log is opened; the opening goes on until its
// context ends.
func TestOpenWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newShared()
		log := open(t, e, &list{}, live.Options{})
		if _, err := log.Propose(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		electing, gets := errors.New("no leader"), 0
		e.get = func(uint64) error {
			if gets++; gets < 5 {
				return electing
			}
			return nil
		}
		m := &list{}
		open(t, e, m, live.Options{})
		if diff := cmp.Diff([]string{"a"}, m.all()); diff != "" || gets < 5 {
			t.Errorf("after %d gets the machine has (-want +got)\n%s", gets, diff)
		}
		e.get = func(uint64) error { return electing }
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := live.Open(ctx, e, &list{}, live.Options{}); !errors.Is(err, electing) || ctx.Err() == nil {
			t.Errorf("Open without a leader for ever: %v, before its context ended: %v", err, ctx.Err() == nil)
		}
	})
}

// Several logs over one engine, many callers, lost answers, callers that give up: each log ends with the same list, what
// was applied is in it, what was not applied is not.
func TestManyLogs(t *testing.T) {
	e := newShared()
	n := 0
	e.after = func(uint64) error {
		if n++; n%3 == 0 {
			return errors.New("connection lost")
		}
		return nil
	}
	pause := func(context.Context, int) {}
	var machines []*list
	var logs []*live.Log[string, int]
	for range 3 {
		machines = append(machines, &list{})
		logs = append(logs, open(t, e, machines[len(machines)-1], live.Options{Pause: pause, BatchRequestsMax: 5}))
	}
	var mu sync.Mutex
	outcomes := map[string]sharedlog.Outcome{}
	var wg sync.WaitGroup
	for caller := range 12 {
		wg.Go(func() {
			for i := range 20 {
				item := fmt.Sprint(caller, " ", i)
				ctx, cancel := context.WithCancel(context.Background())
				if i%7 == 3 {
					cancel()
				}
				_, err := logs[(caller+i)%3].Propose(ctx, item)
				cancel()
				mu.Lock()
				outcomes[item] = sharedlog.OutcomeOf(err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for i, log := range logs {
		if err := log.Fresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		for item, outcome := range outcomes {
			if outcome == sharedlog.Applied && !slices.Contains(machines[i].all(), item) {
				t.Errorf("log %d does not have %q, which was applied before a fresh read", i, item)
			}
		}
	}
	for _, log := range logs {
		log.Close()
	}
	final := &list{}
	open(t, e, final, live.Options{})
	for i, m := range machines {
		if n := min(len(m.items), len(final.items)); !slices.Equal(m.items, final.items[:n]) {
			t.Errorf("log %d differs from a replay\n%s", i, cmp.Diff(final.items, m.items))
		}
	}
	for item, outcome := range outcomes {
		if outcome == sharedlog.NotApplied && slices.Contains(final.items, item) {
			t.Errorf("%q was answered not_applied and is in the log", item)
		}
	}
}

// A snapshot and the slots after it make the same state as all slots: the hashes of the states are equal. The mutant is a
// log that lost a slot in between.
func TestSnapshotAndTailEqualReplay(t *testing.T) {
	dir := t.TempDir()
	engine, _, err := filelog.Open(dir, filelog.Options{SegmentBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	log := open(t, engine, &list{}, live.Options{})
	for i := range 100 {
		if _, err := log.Propose(t.Context(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		if i == 60 {
			if slot, err := log.Snapshot(t.Context()); slot != 61 || err != nil {
				t.Fatalf("Snapshot: slot %d, %v", slot, err)
			}
		}
	}
	log.Close()
	state := func(e live.Engine) sharedlog.Hash {
		m := &list{}
		open(t, e, m, live.Options{}).Close()
		state, _ := m.Snapshot()
		return sharedlog.Sum(state)
	}
	replay := struct{ live.Engine }{engine} // hides the snapshots
	full := state(replay)
	if state(engine) != full {
		t.Error("snapshot and tail differ from a replay of all slots")
	}
	if err := engine.Trim(62); err != nil {
		t.Fatal(err)
	}
	if state(engine) != full {
		t.Error("snapshot and trimmed log differ from a replay of all slots")
	}
	_, err = live.Open(t.Context(), replay, &list{}, live.Options{})
	if !errors.Is(err, sharedlog.ErrTrimmed) {
		t.Errorf("replay of a trimmed log without its snapshot: %v", err)
	}
	_, err = live.Open(t.Context(), skips{engine, 80}, &list{}, live.Options{})
	if !errors.Is(err, sharedlog.ErrDamaged) || !strings.Contains(err.Error(), "slot 80") {
		t.Errorf("replay of a log that lost slot 80: %v", err)
	}
}

// skips is an engine that lost a slot.
type skips struct {
	*filelog.Log
	slot uint64
}

func (s skips) Get(ctx context.Context, slot uint64) ([]byte, error) {
	if slot >= s.slot {
		slot++
	}
	return s.Log.Get(ctx, slot)
}

// A log that lags behind the floor goes on from the snapshot; a request whose fate was trimmed away is unknown.
func TestTrimmedUnderneath(t *testing.T) {
	e := newShared()
	ahead, behind := &list{}, &list{}
	slow := open(t, e, behind, live.Options{})
	fast := open(t, e, ahead, live.Options{})
	for i := range 10 {
		if _, err := fast.Propose(t.Context(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	slot, err := fast.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e.trim(slot + 1)
	_, err = slow.Propose(t.Context(), "late")
	wantError(t, "proposed below the floor", err, sharedlog.Unknown, sharedlog.ErrTrimmed)
	if place, err := slow.Propose(t.Context(), "later"); place != 11 || err != nil {
		t.Errorf("Propose after the snapshot: %d, %v", place, err)
	}
}

// A snapshot of another log, or one that the log does not reach, is refused.
func TestSnapshotThatDoesNotFit(t *testing.T) {
	engine, _, err := filelog.Open(t.TempDir(), filelog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	log := open(t, engine, &list{}, live.Options{})
	for i := range 3 {
		if _, err := log.Propose(t.Context(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	log.Close()
	foreign := &sharedlog.Snapshot{Position: sharedlog.Position{Slot: 2, Time: 1}, State: []byte("[]")}
	ahead := &sharedlog.Snapshot{Position: sharedlog.Position{Slot: 4, Time: 1}, State: []byte("[]")}
	for want, s := range map[error]*sharedlog.Snapshot{sharedlog.ErrDamaged: foreign, sharedlog.ErrAhead: ahead} {
		_, err := live.Open(t.Context(), withSnapshot{engine, s.Encode()}, &list{}, live.Options{})
		if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), fmt.Sprint("slot ", s.Slot)) {
			t.Errorf("snapshot of slot %d: %v, want %v", s.Slot, err, want)
		}
	}
}

type withSnapshot struct {
	*filelog.Log
	data []byte
}

func (w withSnapshot) LoadSnapshot(context.Context) ([]byte, error) { return w.data, nil }

// Over a file: what is proposed is there after the log is opened anew, and fresh reads cost no slot.
func TestOverFilelog(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		engine, report, err := filelog.Open(dir, filelog.Options{})
		if err != nil {
			t.Fatal(err)
		}
		m := &list{}
		log := open(t, engine, m, live.Options{})
		if len(m.items) != round*50 {
			t.Fatalf("round %d: replayed %d items from %v", round, len(m.items), report)
		}
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				if _, err := log.Propose(t.Context(), fmt.Sprint(round, " ", i)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		tail := engine.Tail()
		if err := log.Fresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if place, err := log.Propose(t.Context(), m.all()[0]); place != 1 || err != nil {
			t.Errorf("repeated request: place %d, %v", place, err)
		}
		if engine.Tail() != tail {
			t.Errorf("reads made %d slots", engine.Tail()-tail)
		}
		log.Close()
		for i, p := range m.stored { // a reader can fetch one command alone
			if data, err := engine.ReadAt(p.slot, p.offset, p.length); err != nil || string(data) != m.items[i] {
				t.Errorf("ReadAt(%+v) = %q, %v; want %q", p, data, err, m.items[i])
			}
		}
		engine.Close()
	}
}
