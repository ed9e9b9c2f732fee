// Package enginetest tests engines of shared logs: one suite that every engine passes, a machine and a checker for
// tests of logs under faults, and an engine in memory.
package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/live"

	"github.com/google/go-cmp/cmp"
)

const (
	creators    = 8   // that race for a slot
	raceSlots   = 10  // they race for
	modelSteps  = 300 // of the comparison with a map
	callers     = 8   // of the logs
	callsEach   = 25
	triesMax    = 20 // of an operation whose outcome is unknown
	patienceMax = time.Minute
)

// Trimmer is an engine that can forget slots. floor is the lowest slot that is kept.
type Trimmer interface {
	Trim(ctx context.Context, floor uint64) error
}

// Run runs the suite. fresh returns how to open one new, empty log; each call of that opens the same log once more. An
// Exclusive engine is closed (io.Closer) before its log is opened again; all are closed when the test ends.
func Run(t *testing.T, fresh func(t *testing.T) (open func(t *testing.T) live.Engine)) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *place)
	}{
		{"SlotIsCreatedOnce", testSlotIsCreatedOnce},
		{"AbsentSlots", testAbsentSlots},
		{"OneCreatorWins", testOneCreatorWins},
		{"BigSlots", testBigSlots},
		{"LikeAMap", testLikeAMap},
		{"Trimmed", testTrimmed},
		{"Snapshots", testSnapshots},
		{"Logs", testLogs},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &place{opener: fresh(t)}
			t.Cleanup(func() { p.close(t) })
			test.run(t, p)
		})
	}
}

// place is where a log is.
type place struct {
	opener func(*testing.T) live.Engine
	open   []live.Engine
}

// engine opens the log once more, or returns the only engine that may be open.
func (p *place) engine(t *testing.T) live.Engine {
	t.Helper()
	if len(p.open) > 0 && exclusive(p.open[0]) {
		return p.open[0]
	}
	p.open = append(p.open, p.opener(t))
	return p.open[len(p.open)-1]
}

// reopened closes everything and opens the log anew.
func (p *place) reopened(t *testing.T) live.Engine {
	t.Helper()
	p.close(t)
	return p.engine(t)
}

func (p *place) close(t *testing.T) {
	t.Helper()
	for _, e := range p.open {
		if c, ok := e.(io.Closer); ok {
			if err := c.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
	}
	p.open = nil
}

func exclusive(e live.Engine) bool {
	x, ok := e.(live.Exclusive)
	return ok && x.Exclusive()
}

// create creates a slot, repeating what is unknown, as a log would.
func create(t *testing.T, e live.Engine, slot uint64, data []byte) sharedlog.Outcome {
	t.Helper()
	before := sharedlog.Sum(data)
	for range triesMax {
		outcome, err := e.Create(t.Context(), slot, data)
		if sharedlog.Sum(data) != before {
			t.Fatalf("Create(%d) changed its argument", slot)
		}
		if outcome != sharedlog.Unknown {
			return outcome
		}
		t.Logf("Create(%d): unknown: %v", slot, err)
	}
	t.Fatalf("Create(%d): the outcome of %d tries is unknown", slot, triesMax)
	return 0
}

func wantCreate(t *testing.T, e live.Engine, slot uint64, data []byte, want sharedlog.Outcome) {
	t.Helper()
	if got := create(t, e, slot, data); got != want {
		t.Errorf("Create(%d) is %v, want %v", slot, got, want)
	}
}

func wantGet(t *testing.T, e live.Engine, slot uint64, want []byte) {
	t.Helper()
	if got, err := e.Get(t.Context(), slot); err != nil || !bytes.Equal(got, want) {
		t.Errorf("Get(%d) is %d bytes, %v; want %d bytes (-want +got)\n%s",
			slot, len(got), err, len(want), cmp.Diff(head(want), head(got)))
	}
}

func head(data []byte) string { return string(data[:min(len(data), 100)]) }

func wantNone(t *testing.T, e live.Engine, slot uint64, want error) {
	t.Helper()
	data, err := e.Get(t.Context(), slot)
	if !errors.Is(err, want) {
		t.Errorf("Get(%d) is %q, %v; want %v", slot, head(data), err, want)
	} else if !strings.Contains(err.Error(), strconv.FormatUint(slot, 10)) {
		t.Errorf("Get(%d): error %q does not name the slot", slot, err)
	}
}

// A slot keeps what it was created with, whoever creates it again, and when opened anew.
func testSlotIsCreatedOnce(t *testing.T, p *place) {
	a, b := p.engine(t), p.engine(t)
	first := []byte("first \x00\xff")
	wantCreate(t, a, 1, first, sharedlog.Created)
	wantGet(t, a, 1, first)
	wantGet(t, b, 1, first)
	wantCreate(t, a, 1, []byte("second"), sharedlog.Taken)
	wantCreate(t, b, 1, []byte("third"), sharedlog.Taken)
	// The same bytes are the same create once more: it may be known again.
	if got := create(t, b, 1, first); got != sharedlog.Taken && got != sharedlog.Created {
		t.Errorf("the same create again is %v, want taken or created", got)
	}
	wantCreate(t, b, 2, []byte("next"), sharedlog.Created)
	wantGet(t, a, 1, first)
	wantGet(t, b, 1, first)
	c := p.reopened(t)
	wantGet(t, c, 1, first)
	wantGet(t, c, 2, []byte("next"))
	wantCreate(t, c, 2, []byte("other"), sharedlog.Taken)
	wantCreate(t, c, 3, []byte("third"), sharedlog.Created)
}

// What was absent a moment ago is seen once it is there.
func testAbsentSlots(t *testing.T, p *place) {
	a, b := p.engine(t), p.engine(t)
	for slot := uint64(1); slot < 5; slot++ {
		wantNone(t, a, slot, sharedlog.ErrAbsent)
		wantNone(t, b, slot, sharedlog.ErrAbsent)
		wantNone(t, b, slot+100, sharedlog.ErrAbsent)
		data := fmt.Append(nil, "slot ", slot)
		wantCreate(t, a, slot, data, sharedlog.Created)
		wantGet(t, b, slot, data)
	}
}

func testOneCreatorWins(t *testing.T, p *place) {
	var engines []live.Engine
	for range creators {
		engines = append(engines, p.engine(t))
	}
	for slot := uint64(1); slot <= raceSlots; slot++ {
		outcomes := make([]sharedlog.Outcome, creators)
		begin := make(chan struct{})
		var wg sync.WaitGroup
		for i, e := range engines {
			wg.Go(func() {
				<-begin
				for range triesMax {
					if outcomes[i], _ = e.Create(t.Context(), slot, fmt.Append(nil, "creator ", i)); outcomes[i] != sharedlog.Unknown {
						return
					}
				}
			})
		}
		close(begin)
		wg.Wait()
		winner := slices.Index(outcomes, sharedlog.Created)
		taken := 0
		for _, o := range outcomes {
			if o == sharedlog.Taken {
				taken++
			}
		}
		if winner < 0 || taken != creators-1 {
			t.Fatalf("slot %d: outcomes %v, want one created, all others taken", slot, outcomes)
		}
		for _, e := range engines {
			wantGet(t, e, slot, fmt.Append(nil, "creator ", winner))
		}
	}
}

func testBigSlots(t *testing.T, p *place) {
	e := p.engine(t)
	rng := rand.New(rand.NewPCG(1, 1))
	var all [][]byte
	for i, size := range []int{1, 1 << 10, 64<<10 + 1, live.BatchBytesMax, 7, live.BatchBytesMax - 1} {
		data := make([]byte, size)
		for j := range data {
			data[j] = byte(rng.Uint32())
		}
		all = append(all, data)
		wantCreate(t, e, uint64(i+1), data, sharedlog.Created)
	}
	for range 2 {
		for i, data := range all {
			wantGet(t, e, uint64(i+1), data)
		}
		e = p.reopened(t)
	}
}

// Random creates and gets, from several engines, answer as a map would. DONGNE_SEED repeats a run.
func testLikeAMap(t *testing.T, p *place) {
	seed := rand.Uint64()
	if s := os.Getenv("DONGNE_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("DONGNE_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	engines := []live.Engine{p.engine(t), p.engine(t), p.engine(t)}
	model := map[uint64][]byte{}
	for step := range modelSteps {
		e := engines[rng.IntN(len(engines))]
		slot := uint64(1 + rng.IntN(len(model)+1)) // up to the first that is absent
		if rng.IntN(8) == 0 {
			slot = uint64(len(model)) + 1
		}
		stands, exists := model[slot]
		switch {
		case rng.IntN(2) == 0 && exists:
			wantGet(t, e, slot, stands)
		case rng.IntN(2) == 0 && !exists:
			wantNone(t, e, slot, sharedlog.ErrAbsent)
		case exists:
			wantCreate(t, e, slot, fmt.Append(nil, "again ", step), sharedlog.Taken)
		default:
			model[slot] = fmt.Append(nil, "step ", step)
			wantCreate(t, e, slot, model[slot], sharedlog.Created)
		}
		if t.Failed() {
			return
		}
	}
}

// A slot below the floor is never created again.
func testTrimmed(t *testing.T, p *place) {
	a, b := p.engine(t), p.engine(t)
	trimmer, ok := a.(Trimmer)
	if !ok {
		t.Log("this engine cannot be trimmed")
		return
	}
	const tail, floor = 10, 6
	for slot := uint64(1); slot <= tail; slot++ {
		wantCreate(t, a, slot, fmt.Append(nil, slot), sharedlog.Created)
	}
	wantGet(t, b, 2, []byte("2"))
	if s, ok := a.(live.SnapshotStore); ok {
		if err := s.SaveSnapshot(t.Context(), floor-1, snapshot(floor-1, []byte("state"))); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []uint64{floor, floor, 2, 0} { // it never moves down
		if err := trimmer.Trim(t.Context(), f); err != nil {
			t.Fatalf("Trim(%d): %v", f, err)
		}
	}
	check := func(e live.Engine) {
		t.Helper()
		for slot := uint64(1); slot < floor; slot++ {
			wantCreate(t, e, slot, []byte("late"), sharedlog.Taken)
			wantNone(t, e, slot, sharedlog.ErrTrimmed)
		}
		for slot := uint64(floor); slot <= tail; slot++ {
			wantGet(t, e, slot, fmt.Append(nil, slot))
			wantCreate(t, e, slot, []byte("late"), sharedlog.Taken)
		}
	}
	check(a)
	c := p.reopened(t)
	check(c)
	wantNone(t, c, tail+1, sharedlog.ErrAbsent)
	wantCreate(t, c, tail+1, []byte("next"), sharedlog.Created)
}

func snapshot(slot uint64, state []byte) []byte {
	s := sharedlog.Snapshot{Position: sharedlog.Position{Slot: slot, Time: 1}, State: state}
	return s.Encode()
}

// The newest snapshot is the one that is loaded, also when opened anew.
func testSnapshots(t *testing.T, p *place) {
	e := p.engine(t)
	store, ok := e.(live.SnapshotStore)
	if !ok {
		t.Log("this engine keeps no snapshots")
		return
	}
	if _, err := store.LoadSnapshot(t.Context()); !errors.Is(err, sharedlog.ErrAbsent) {
		t.Errorf("LoadSnapshot of a new log: %v, want %v", err, sharedlog.ErrAbsent)
	}
	for slot := uint64(1); slot <= 3; slot++ {
		wantCreate(t, e, slot, fmt.Append(nil, slot), sharedlog.Created)
	}
	for i, size := range []int{3 << 20, 10} {
		data := snapshot(uint64(i+1), bytes.Repeat([]byte{byte(i)}, size))
		if err := store.SaveSnapshot(t.Context(), uint64(i+1), data); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got, err := store.LoadSnapshot(t.Context()); err != nil || !bytes.Equal(got, data) {
				t.Errorf("LoadSnapshot is %d bytes, %v; want what was saved, %d bytes", len(got), err, len(data))
			}
			store = p.reopened(t).(live.SnapshotStore)
		}
	}
}

// Logs over the engine, in the hands of many callers, lose and double nothing and agree on one order, also when opened
// anew from a snapshot or from all slots.
func testLogs(t *testing.T, p *place) {
	ctx, cancel := context.WithTimeout(t.Context(), patienceMax)
	defer cancel()
	var engines []live.Engine
	var logs []*live.Log[string, int]
	var journals []*Journal
	for range 3 {
		e := p.engine(t)
		if len(engines) > 0 && exclusive(e) {
			break
		}
		j := &Journal{}
		log, err := live.Open(ctx, e, j, live.Options{BatchRequestsMax: 5})
		if err != nil {
			t.Fatal(err)
		}
		engines, logs, journals = append(engines, e), append(logs, log), append(journals, j)
	}
	var h History
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range callsEach {
				if err := h.Propose(ctx, logs[(caller+i)%len(logs)], fmt.Sprint(caller, " ", i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i, log := range logs {
		if err := log.Fresh(ctx); err != nil {
			t.Fatal(err)
		}
		if got, want := len(journals[i].Items()), callers*callsEach; got != want {
			t.Errorf("log %d has %d items after a fresh read, want %d", i, got, want)
		}
	}
	if _, ok := engines[0].(live.SnapshotStore); ok {
		if _, err := logs[0].Snapshot(ctx); err != nil {
			t.Fatal(err)
		}
		if err := h.Propose(ctx, logs[0], "after the snapshot"); err != nil {
			t.Fatal(err)
		}
	}
	for _, log := range logs {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	}
	e := p.reopened(t)
	items, _, err := Replay(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(h.Calls(), items); err != nil {
		t.Error(err)
	}
	j := &Journal{}
	log, err := live.Open(ctx, e, j, live.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
	for i, j := range append(journals, j) {
		if got := j.Items(); !slices.Equal(got, items[:len(got)]) {
			t.Errorf("log %d differs from the slots (-slots +log)\n%s", i, cmp.Diff(items, got))
		}
	}
	if got := len(j.Items()); got != len(items) {
		t.Errorf("the log opened anew has %d items, want %d", got, len(items))
	}
}
