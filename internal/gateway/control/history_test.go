package control

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dongne/internal/gossip"
)

// writer makes entries of some nodes, each of which knows what all have written.
type writer struct {
	random *rand.Rand
	clock  Stamp
	have   gossip.Vector
}

func newWriter(seed uint64) *writer {
	return &writer{random: rand.New(rand.NewPCG(seed, 2)), have: gossip.Vector{}}
}

func (w *writer) write(routes int) gossip.Entry {
	node := []string{"n1", "n2", "n3"}[w.random.IntN(3)]
	w.clock = Stamp{w.clock.Wall + 1, 0, node}
	o := gossip.Origin{Node: node, Incarnation: 1}
	w.have[o]++
	e := Entry{Stamp: w.clock, By: "ana", Route: fmt.Sprintf("r%d", w.random.IntN(routes)), Kind: KindSwitch, What: "x",
		Value: encoded(w.random.IntN(1000))}
	return gossip.Entry{Origin: o, Seq: w.have[o], Deps: gossip.Vector{}, Data: e.encode()}
}

func add(t *testing.T, h *history, e gossip.Entry) {
	t.Helper()
	if _, _, err := h.add(e); err != nil {
		t.Fatal(err)
	}
}

// catchUp gives to what from has and it lacks.
func catchUp(t *testing.T, from, to *history) {
	t.Helper()
	for _, o := range from.have.Origins() {
		for to.have[o] < from.have[o] {
			entries := from.Entries(o, to.have[o], 1000)
			if len(entries) == 0 {
				t.Fatalf("no entries of %v after %d, of %d", o, to.have[o], from.have[o])
			}
			for _, e := range entries {
				add(t, to, e)
			}
		}
	}
}

func states(h *history) []any { return []any{h.state.Entries(), h.state.Audit(AuditMax), h.have} }

// A history that forgets keeps little, and a node that comes with an empty disk makes the same of it as one that has
// seen all.
func TestHistoryForgets(t *testing.T) {
	const count, routes = 20_000, 10
	all, short, w := newHistory(), newHistory(), newWriter(1)
	for range count {
		e := w.write(routes)
		add(t, all, e)
		add(t, short, e)
		short.compact(short.have.Clone)
	}
	if short.count > 2*(AuditMax+routes) || short.count < AuditMax {
		t.Errorf("%d entries are kept, want about %d", short.count, AuditMax)
	}
	fresh := newHistory()
	catchUp(t, short, fresh)
	if diff := cmp.Diff(states(all), states(fresh)); diff != "" {
		t.Errorf("a fresh node makes something else of it (-all +fresh):\n%s", diff)
	}
	again, err := restoreHistory(short.snapshot())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(states(all), states(again)); diff != "" {
		t.Errorf("a snapshot makes something else of it (-all +snapshot):\n%s", diff)
	}
	if !bytes.Equal(short.snapshot(), again.snapshot()) {
		t.Error("the snapshot of a restored history differs")
	}
}

// diverges lets two nodes forget while a third is away; then the disk of the one that wrote last is lost, so that
// only what the others have is left. It says in what the survivors differ.
func diverges(t *testing.T, compact func(h *history, stable gossip.Vector)) string {
	w := newWriter(2)
	writer, away := newHistory(), newHistory()
	for range 40 {
		e := w.write(2)
		add(t, writer, e)
		add(t, away, e)
	}
	stable := away.have.Clone()
	for range 3 * compactStep {
		add(t, writer, w.write(2))
		compact(writer, stable)
	}
	// A third node was told of all but the last entries when the writer was lost.
	third := newHistory()
	for _, o := range writer.have.Origins() {
		for _, e := range writer.Entries(o, 0, 1<<30) {
			if e.Seq <= away.have[o] {
				add(t, third, e)
			}
		}
	}
	catchUp(t, away, third)
	catchUp(t, third, away)
	return cmp.Diff(third.state.Entries(), away.state.Entries())
}

func TestNothingIsForgottenThatSomebodyNeeds(t *testing.T) {
	if diff := diverges(t, func(h *history, stable gossip.Vector) { h.compact(func() gossip.Vector { return stable }) }); diff != "" {
		t.Errorf("nodes that have the same entries differ:\n%s", diff)
	}
	forgetful := func(h *history, _ gossip.Vector) { h.compact(h.have.Clone) } // as if all peers had all
	if diverges(t, forgetful) == "" {
		t.Error("the mutant that asks no peer was not caught")
	}
}

func TestHistoryIsBoundedWhileAPeerIsAway(t *testing.T) {
	h, w := newHistory(), newWriter(3)
	none := func() gossip.Vector { return gossip.Vector{} }
	most := 0
	for range 3 * keptMax {
		add(t, h, w.write(5))
		h.compact(none)
		most = max(most, h.count)
	}
	if most > 2*keptMax+compactStep {
		t.Errorf("%d entries were kept for a peer that is away, want about %d at most", most, keptMax)
	}
}

func TestBadSnapshots(t *testing.T) {
	h, w := newHistory(), newWriter(4)
	for range 5 {
		add(t, h, w.write(2))
	}
	good := h.snapshot()
	for cut := range good {
		if _, err := restoreHistory(good[:cut]); err == nil {
			t.Errorf("the first %d bytes of %d are taken for a snapshot", cut, len(good))
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if got, err := restoreHistory(bad); err == nil && bytes.Equal(got.snapshot(), good) {
			t.Errorf("byte %d does not matter", i)
		}
	}
	if _, err := restoreHistory(append(bytes.Clone(good), 0)); err == nil {
		t.Error("a byte too many is taken")
	}
	if _, _, err := h.add(gossip.Entry{Origin: gossip.Origin{Node: "n9", Incarnation: 1}, Seq: 2}); err == nil {
		t.Error("an entry out of turn is taken")
	}
}
