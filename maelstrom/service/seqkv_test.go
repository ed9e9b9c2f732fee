package service

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// explain runs the operations and looks for one order of them in which every reply is right and every client's
// operations stay in order: that of the states, as the store numbers them.
func explain(s *seqKV, operations []operation) error {
	states := []model{{}}
	for i, o := range operations {
		seen, newest := s.clients[o.src], s.newest
		got := handle(store(s.run), o.src, o.body())
		index := s.clients[o.src]
		if index < seen {
			return fmt.Errorf("operation %d: %s goes back from state %d to %d", i, o.src, seen, index)
		}
		changes := s.newest > newest
		if changes && index != s.newest {
			return fmt.Errorf("operation %d makes state %d, and %s is at %d", i, s.newest, o.src, index)
		}
		from := min(index, newest)
		after, want := o.on(states[from])
		if got != want {
			return fmt.Errorf("operation %d: Handle(%s) = %s, want %s from state %d", i, o.body(), got, want, from)
		}
		if changes {
			states = append(states, after)
		}
		if kept := len(s.versions[spellings[o.key][0]]); kept > statesMax {
			return fmt.Errorf("operation %d: %d versions of a key are kept, at most %d are needed", i, kept, statesMax)
		}
	}
	return nil
}

func TestSeqKVIsSequential(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSeqKV(seeded(rapid.Uint64().Draw(t, "seed")), false)
		if err := explain(s, genOperations.Draw(t, "operations")); err != nil {
			t.Fatal(err)
		}
	})
}

// The mutant is upstream's.
func TestExplainCatchesTheWrap(t *testing.T) {
	var operations []operation
	for i := range 300 {
		operations = append(operations, operation{src: "n0", kind: "write", key: 3, value: i % 4},
			operation{src: fmt.Sprint("late", i), kind: "read", key: 3})
	}
	if err := explain(newSeqKV(seeded(1), false), operations); err != nil {
		t.Errorf("without the wrap: %v", err)
	}
	if err := explain(newSeqKV(seeded(1), true), operations); err == nil {
		t.Error("with the wrap: every reply is explained")
	}
}

// written has had so many writes by n0 to the key x: 1, 2, 3, …
func written(r *rand.Rand, wraps bool, writes int) *seqKV {
	s := newSeqKV(r, wraps)
	for i := range writes {
		s.run("n0", request{kind: "write", key: `"x"`, value: strconv.Itoa(i + 1)})
	}
	return s
}

// value is what n1 reads: 0 if there is nothing yet.
func value(t *testing.T, s *seqKV) int {
	reply := string(s.run("n1", request{kind: "read", key: `"x"`}))
	if reply == missing {
		return 0
	}
	v, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(reply, `{"type":"read_ok","value":`), "}"))
	if err != nil {
		t.Fatalf("a read is answered %s: %v", reply, err)
	}
	return v
}

// Upstream's figures are of 1000 trials each, by running it: specification 5.3.
func TestReadsGoBackAsUpstream(t *testing.T) {
	const trials, reads, tolerance = 1000, 20, 60 // 60: a little less than 4 times the deviation of the difference
	r := seeded(1)
	for _, c := range []struct {
		writes, upstream int
	}{{31, 0}, {40, 187}, {100, 493}} {
		back := map[bool]int{}
		for _, wraps := range []bool{false, true} {
			for range trials {
				s := written(r, wraps, c.writes)
				last, went := 0, false
				for range reads {
					v := value(t, s)
					went = went || v < last
					last = v
				}
				if went {
					back[wraps]++
				}
			}
		}
		if back[false] != 0 {
			t.Errorf("after %d writes %d of %d clients went back, want none", c.writes, back[false], trials)
		}
		if got := back[true]; got < c.upstream-tolerance || got > c.upstream+tolerance || c.upstream == 0 && got != 0 {
			t.Errorf("after %d writes, with the wrap, %d of %d clients went back, want %d±%d", c.writes, got, trials, c.upstream, tolerance)
		}
	}
}

// With n writes ahead a read lands on any of n+1 states alike, so that a client catches up in 1 + 1/1 + 1/2 + … + 1/n
// reads on average: 3.93 for 10, 5.03 for 31.
func TestReadsToCatchUp(t *testing.T) {
	const trials = 2000
	r := seeded(1)
	for _, n := range []int{1, 10, 31} {
		want := 1.0
		for i := range n {
			want += 1 / float64(i+1)
		}
		reads := 0
		for range trials {
			s := written(r, false, n)
			for caughtUp := false; !caughtUp; reads++ {
				caughtUp = value(t, s) == n
				if caughtUp != (s.clients["n1"] == s.newest) {
					t.Fatalf("value and index disagree: %v, state %d of %d", caughtUp, s.clients["n1"], s.newest)
				}
			}
		}
		if got := float64(reads) / trials; got < want-0.15 || got > want+0.15 {
			t.Errorf("with %d writes ahead a client catches up in %.2f reads, want %.2f", n, got, want)
		}
	}
}

// A client that is too old for the remembered states goes on from the oldest of them, and one that writes is up to date.
func TestLateClients(t *testing.T) {
	const writes = 100
	oldest := writes
	for seed := range uint64(200) {
		s := written(seeded(seed), false, writes)
		oldest = min(oldest, value(t, s))
		s.run("n1", request{kind: "write", key: `"unique"`, value: "1"})
		if got := value(t, s); got != writes {
			t.Fatalf("seed %d: after its own write n1 reads %d, want %d", seed, got, writes)
		}
	}
	if want := writes - statesMax + 1; oldest != want {
		t.Errorf("the oldest value read is %d, want %d", oldest, want)
	}
}

// What changes nothing may be answered from an old state: so can a cas fail, and a write be lost in its equal.
func TestStaleAnswers(t *testing.T) {
	stale := func(request, want string) {
		t.Helper()
		for seed := range uint64(100) {
			s := written(seeded(seed), false, 1)
			if handle(store(s.run), "n1", request) == want && s.newest == 1 {
				return
			}
		}
		t.Errorf("Handle(%s) is never %s without a new state", request, want)
	}
	stale(read(`"x"`), missing)
	stale(cas(`"x"`, `1`, `2`), missing)
	stale(cas(`"x"`, `2`, `2`), isNot(`1 is not 2`))
	stale(cas(`"x"`, `1`, `1`), casOK)
	stale(write(`"x"`, `1`), writeOK)
}
