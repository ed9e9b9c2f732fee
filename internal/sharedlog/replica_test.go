package sharedlog_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"dongne/internal/sharedlog"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// chance is where a world's choices come from.
type chance interface{ IntN(n int) int }

// live gives a world a life: requests, retries, faults and restarts, then rest, then judgement.
func (w *world) live(c chance, steps int) error {
	ids := 0
	for range steps {
		w.now += int64(c.IntN(3)) - 1 // clocks go back, too
		i := c.IntN(len(w.nodes))
		switch k := c.IntN(100); {
		case k < 15:
			ids++
			w.ask(i, ids)
		case k < 20:
			w.ask(i, 0)
		case k < 24 && ids > 0: // a client repeats its request, perhaps elsewhere
			w.ask(i, 1+c.IntN(ids))
		case k < 26:
			w.restart(i, fate(c.IntN(int(fates))))
		case k < 27:
			w.trim(i)
		case k < 32 && len(w.late) > 0:
			w.arrive(c.IntN(len(w.late)))
		case k < 50:
			w.step(i, fate(c.IntN(int(fates))))
		default:
			w.step(i, honest)
		}
	}
	w.settle()
	return w.check()
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

func run(seed uint64, m mutant) (*world, error) {
	c := rand.New(rand.NewPCG(seed, 0))
	nodes := 1 + c.IntN(4)
	if m != none {
		nodes = 3
	}
	w := newWorld(nodes, m)
	return w, w.live(c, 100+c.IntN(400))
}

// TestSimulation drives one to four replicas over an engine that loses calls and answers, applies creates late, refuses
// some, and answers gets with old news; replicas restart, slots are trimmed. One seed alone:
//
//	DONGNE_SEED=n go test -run TestSimulation ./internal/sharedlog
func TestSimulation(t *testing.T) {
	first, n := uint64(0), seeds(t, 3000)
	if s := os.Getenv("DONGNE_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("DONGNE_SEED: %v", err)
		}
		first, n = seed, 1
	}
	var met [sharedlog.Applied + 1]int
	for seed := first; seed < first+n; seed++ {
		w, err := run(seed, none)
		if err != nil {
			t.Fatalf("%v\nreplay: DONGNE_SEED=%d go test -run TestSimulation ./internal/sharedlog", err, seed)
		}
		for _, t := range w.tries {
			met[t.outcome]++
		}
	}
	t.Logf("%d seeds: %d requests applied, %d refused, %d unknown", n, met[sharedlog.Applied], met[sharedlog.NotApplied], met[sharedlog.Unknown])
	if n >= 100 && (met[sharedlog.Applied] < int(n) || met[sharedlog.NotApplied] == 0 || met[sharedlog.Unknown] == 0) {
		t.Errorf("the simulation does not reach every outcome: %v", met)
	}
}

// The same seed gives the same history, to the byte.
func TestSimulationRepeats(t *testing.T) {
	for seed := range uint64(20) {
		a, errA := run(seed, none)
		b, errB := run(seed, none)
		if diff := cmp.Diff(a.slots, b.slots); diff != "" || errors.Join(errA, errB) != nil {
			t.Fatalf("seed %d: two runs differ: %v %v\n%s", seed, errA, errB, diff)
		}
	}
}

// Every mutant is caught within a few seeds, or the checks are worth nothing.
func TestSimulationCatches(t *testing.T) {
	for m := none + 1; m < mutants; m++ {
		t.Run(mutantNames[m], func(t *testing.T) {
			for seed := range uint64(300) {
				if err := runMutant(seed, m); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("not caught")
		})
	}
}

// runMutant runs a mutant; a panic catches it as well as an error does.
func runMutant(seed uint64, m mutant) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	_, err = run(seed, m)
	return err
}

// TestStateMachine is the simulation with choices that rapid makes, so that a failure shrinks to a short history.
func TestStateMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(rapid.IntRange(1, 3).Draw(t, "nodes"), none)
		node := rapid.IntRange(0, len(w.nodes)-1)
		anyFate := rapid.Map(rapid.IntRange(0, int(fates)-1), func(i int) fate { return fate(i) })
		ids := 0
		t.Repeat(map[string]func(*rapid.T){
			"ask":     func(t *rapid.T) { ids++; w.ask(node.Draw(t, "node"), ids) },
			"again":   func(t *rapid.T) { w.ask(node.Draw(t, "node"), rapid.IntRange(1, ids+1).Draw(t, "id")); ids++ },
			"fresh":   func(t *rapid.T) { w.ask(node.Draw(t, "node"), 0) },
			"step":    func(t *rapid.T) { w.step(node.Draw(t, "node"), anyFate.Draw(t, "fate")) },
			"work":    func(t *rapid.T) { w.step(node.Draw(t, "node"), honest) },
			"restart": func(t *rapid.T) { w.restart(node.Draw(t, "node"), anyFate.Draw(t, "fate")) },
			"trim":    func(t *rapid.T) { w.trim(node.Draw(t, "node")) },
			"arrive": func(t *rapid.T) {
				if len(w.late) > 0 {
					w.arrive(rapid.IntRange(0, len(w.late)-1).Draw(t, "late"))
				}
			},
			"": func(t *rapid.T) {
				w.now++
				if w.fault != "" {
					t.Fatal(w.fault)
				}
			},
		})
		w.settle()
		if err := w.check(); err != nil {
			t.Fatal(err)
		}
	})
}

// script feeds a single replica by hand.
func script(exclusive bool, bytesMax int) (*sharedlog.Replica[int, int], *set) {
	m := newSet()
	r := sharedlog.NewReplica(m, sharedlog.Config{Writer: sharedlog.Writer{1}, BatchBytesMax: bytesMax, BatchRequestsMax: 100, Exclusive: exclusive})
	r.Next(0)
	r.Absent()
	return r, m
}

func wantAnswer(t *testing.T, got []sharedlog.Answer[int], want ...sharedlog.Answer[int]) {
	t.Helper()
	if diff := cmp.Diff(append([]sharedlog.Answer[int]{}, want...), append([]sharedlog.Answer[int]{}, got...), cmp.Comparer(func(a, b error) bool {
		return sharedlog.OutcomeOf(a) == sharedlog.OutcomeOf(b) && (errors.Is(a, errors.Unwrap(b)) || errors.Is(b, errors.Unwrap(a)))
	})); diff != "" {
		t.Fatalf("answers mismatch (-want +got)\n%s", diff)
	}
}

func failed(tag string, o sharedlog.Outcome, err error) sharedlog.Answer[int] {
	return sharedlog.Answer[int]{Tag: tag, Err: &sharedlog.Error{Outcome: o, Err: err}}
}

// A refusal after a lost answer proves nothing: the first try may have landed.
func TestRefusalAfterUnknownIsNotBelieved(t *testing.T) {
	r, _ := script(false, 1000)
	r.Ask("a", 1)
	first := r.Next(1)
	r.Created(sharedlog.Unknown, errors.New("lost"))
	again := r.Next(2)
	if diff := cmp.Diff(first, again); diff != "" {
		t.Fatalf("the second try is not the first (-first +second)\n%s", diff)
	}
	r.Created(sharedlog.NotApplied, sharedlog.ErrFull)
	wantAnswer(t, r.Answers())
	r.Next(3)
	r.Created(sharedlog.Taken, nil)
	r.Next(4)
	if err := r.Got(first.Data); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, r.Answers(), sharedlog.Answer[int]{Tag: "a", Result: 1})
}

// A request larger than a batch is refused alone; the others share as many batches as they need.
func TestBatchBytesMax(t *testing.T) {
	r, m := script(true, 80+2*3)
	for i := range 5 {
		r.Ask(i, 100_000+3*i+1) // a length byte and three bytes of varint: one to a batch
	}
	r.Ask("small", 1)
	r.Ask("small too", 2)
	slots := 0
	for op := r.Next(1); op.Kind != sharedlog.OpNone; op = r.Next(1) {
		if len(op.Data) > 80+6 {
			t.Fatalf("slot %d has %d bytes", op.Slot, len(op.Data))
		}
		slots++
		r.Created(sharedlog.Created, nil)
	}
	if slots != 6 || len(m.ids) != 7 {
		t.Fatalf("%d slots hold %v, want 7 ids in 6", slots, m.ids)
	}
	r.Answers()
	r.Ask("too large", 99_999) // divisible by 3: two commands
	r.Ask("b", 4)
	for op := r.Next(1); op.Kind != sharedlog.OpNone; op = r.Next(1) {
		r.Created(sharedlog.Created, nil)
	}
	wantAnswer(t, r.Answers(), failed("too large", sharedlog.NotApplied, sharedlog.ErrTooLarge), sharedlog.Answer[int]{Tag: "b", Result: 8})
}

// A full disk refuses what writes, and only that.
func TestFullRefusesWritesAlone(t *testing.T) {
	r, _ := script(true, 1000)
	r.Ask("a", 1)
	r.Next(1)
	r.Created(sharedlog.Created, nil)
	wantAnswer(t, r.Answers(), sharedlog.Answer[int]{Tag: "a", Result: 1})
	r.Ask("write", 2)
	r.Ask("read", 1)
	r.AskFresh("fresh")
	r.Next(2)
	wantAnswer(t, r.Answers())
	r.Created(sharedlog.NotApplied, sharedlog.ErrFull)
	if op := r.Next(3); op.Kind != sharedlog.OpNone {
		t.Fatalf("op %v, want none", op)
	}
	wantAnswer(t, r.Answers(), failed("write", sharedlog.NotApplied, sharedlog.ErrFull),
		sharedlog.Answer[int]{Tag: "read", Result: 1}, sharedlog.Answer[int]{Tag: "fresh"})
}

// In a shared log a request without commands is answered when a slot proves that memory was up to date.
func TestDoneNeedsASlotWhenShared(t *testing.T) {
	r, _ := script(false, 1000)
	r.AskFresh("fresh")
	op := r.Next(1)
	if op.Kind != sharedlog.OpCreate {
		t.Fatalf("op %v, want a create", op)
	}
	wantAnswer(t, r.Answers())
	r.Created(sharedlog.Created, nil)
	wantAnswer(t, r.Answers(), sharedlog.Answer[int]{Tag: "fresh"})
}

// Stopping tells what is known: the batch under way is unknown, what waits was not applied.
func TestStop(t *testing.T) {
	cause := errors.New("disk died")
	r, _ := script(true, 1000)
	r.Ask("under way", 1)
	r.Next(1)
	r.Ask("waiting", 2)
	r.Created(sharedlog.Unknown, cause)
	r.Stop(cause)
	r.Ask("afterwards", 3)
	wantAnswer(t, r.Answers(), failed("under way", sharedlog.Unknown, cause),
		failed("waiting", sharedlog.NotApplied, cause), failed("afterwards", sharedlog.NotApplied, cause))
	if op := r.Next(2); op.Kind != sharedlog.OpNone {
		t.Fatalf("op %v after Stop", op)
	}
}

// A slot that does not follow from the one before it stops the replica.
func TestGotVerifies(t *testing.T) {
	good := func() *sharedlog.Batch {
		return &sharedlog.Batch{Slot: 1, Time: 5, Writer: sharedlog.Writer{9}, N: 1}
	}
	for name, change := range map[string]func(*sharedlog.Batch){
		"":      func(*sharedlog.Batch) {},
		"slot":  func(b *sharedlog.Batch) { b.Slot = 2 },
		"chain": func(b *sharedlog.Batch) { b.Prev[0] = 1 },
	} {
		r, _ := script(false, 1000)
		r.Catchup()
		r.Next(1)
		b := good()
		change(b)
		err := r.Got(b.Encode())
		if (name != "") != errors.Is(err, sharedlog.ErrDamaged) {
			t.Errorf("wrong %s: Got = %v", name, err)
		}
		if name != "" {
			continue
		}
		r.Next(1)
		if err := r.Got((&sharedlog.Batch{Slot: 2, Time: 5, Prev: sharedlog.Sum(b.Encode())}).Encode()); !errors.Is(err, sharedlog.ErrDamaged) {
			t.Errorf("time stands still: Got = %v", err)
		}
	}
}
