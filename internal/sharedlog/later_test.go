package sharedlog

import "testing"

// oneASlot is a machine whose every request rests on the one before it.
type oneASlot struct{ applied []string }

func (m *oneASlot) Prepare(_ Position, requests []string) []Prepared[string] {
	prepared := make([]Prepared[string], len(requests))
	for i, q := range requests {
		if i > 0 {
			prepared[i].Later = true
			continue
		}
		prepared[i].Commands = [][]byte{[]byte(q)}
	}
	return prepared
}

func (m *oneASlot) Apply(b *Batch) (answers []string) {
	for _, c := range b.Commands {
		m.applied = append(m.applied, string(c.Data))
		answers = append(answers, string(c.Data))
	}
	return answers
}

func (m *oneASlot) Abandon()                 {}
func (m *oneASlot) Snapshot() ([]byte, bool) { return nil, false }
func (m *oneASlot) Restore([]byte) error     { return nil }

// TestLater: a request that must wait for the next slot keeps its turn, and is answered from there.
func TestLater(t *testing.T) {
	m := &oneASlot{}
	r := NewReplica[string, string](m, Config{BatchBytesMax: 1 << 10, BatchRequestsMax: 8, Exclusive: true})
	r.Next(0)
	r.Absent() // an empty log
	want := []string{"a", "b", "c"}
	for _, q := range want {
		r.Ask(q, q)
	}
	for i, q := range want {
		op := r.Next(int64(i))
		if op.Kind != OpCreate || op.Slot != uint64(i+1) {
			t.Fatalf("operation %d = %v of slot %d, want a create of slot %d", i, op.Kind, op.Slot, i+1)
		}
		r.Created(Created, nil)
		answers := r.Answers()
		if len(answers) != 1 || answers[0].Tag != q || answers[0].Result != q || answers[0].Err != nil {
			t.Fatalf("after slot %d the answers are %+v, want %q alone", i+1, answers, q)
		}
	}
	if op := r.Next(9); op.Kind != OpNone {
		t.Errorf("then comes %v of slot %d", op.Kind, op.Slot)
	}
}
