package control

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// genEntry draws entries that often share a register, a stamp's time, and now and then a whole stamp.
var genEntry = rapid.Custom(func(t *rapid.T) Entry {
	e := Entry{
		Stamp: Stamp{rapid.Int64Range(1, 3).Draw(t, "wall"), rapid.Uint64Range(0, 2).Draw(t, "count"), rapid.SampledFrom([]string{"n1", "n2"}).Draw(t, "node")},
		At:    time.UnixMilli(rapid.Int64Range(0, 3).Draw(t, "at")).UTC(),
		By:    rapid.SampledFrom([]string{"ana", "bo"}).Draw(t, "by"),
		Route: rapid.SampledFrom([]string{"chat", "pay"}).Draw(t, "route"),
		Kind:  rapid.SampledFrom([]Kind{KindSwitch, KindCanary}).Draw(t, "kind"),
		What:  rapid.SampledFrom([]string{"on", "off"}).Draw(t, "what"),
	}
	if rapid.IntRange(0, 3).Draw(t, "stripped") > 0 {
		e.Value = fmt.Appendf(nil, "%d", rapid.IntRange(0, 3).Draw(t, "value"))
	}
	return e
})

// applied is what a set of entries amounts to by way of some implementation of Apply.
func applied(apply func(*State, Entry), entries []Entry) []any {
	s := &State{}
	for _, e := range entries {
		apply(s, e)
	}
	return []any{s.Entries(), s.Audit(AuditMax), s.Newest()}
}

// orderMatters looks for a set of entries and two orders of it, one with repetitions, of which apply makes two states.
func orderMatters(apply func(*State, Entry), seed uint64) string {
	for i := range uint64(200) {
		entries := rapid.SliceOfN(genEntry, 1, 12).Example(int(seed + i))
		random := rand.New(rand.NewPCG(seed, i))
		again := append(slices.Clone(entries), entries[:random.IntN(len(entries))]...)
		random.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		if diff := cmp.Diff(applied(apply, entries), applied(apply, again)); diff != "" {
			return fmt.Sprintf("seed %d: %s", seed+i, diff)
		}
	}
	return ""
}

func TestApplyInAnyOrder(t *testing.T) {
	if diff := orderMatters(func(s *State, e Entry) { s.Apply(e) }, 1); diff != "" {
		t.Errorf("another order makes another state (-one +other):\n%s", diff)
	}
	for name, mutant := range map[string]func(*State, Entry){
		"the last to come wins": func(s *State, e Entry) {
			delete(s.registers, e.register())
			s.Apply(e)
		},
		"of one stamp the first to come wins": func(s *State, e Entry) {
			if was, ok := s.registers[e.register()]; !ok || was.Stamp != e.Stamp {
				s.Apply(e)
			}
		},
		"what comes again is noted again": func(s *State, e Entry) {
			s.Apply(e)
			s.audit = append(s.audit, e.stripped())
		},
	} {
		if orderMatters(mutant, 1) == "" {
			t.Errorf("the mutant %q was not caught", name)
		}
	}
}

func TestApplyRapid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.SliceOfN(genEntry, 0, 20).Draw(t, "entries")
		other := rapid.Permutation(slices.Concat(entries, entries)).Draw(t, "other")
		apply := func(s *State, e Entry) { s.Apply(e) }
		if diff := cmp.Diff(applied(apply, entries), applied(apply, other)); diff != "" {
			t.Errorf("another order makes another state (-one +other):\n%s", diff)
		}
	})
}

func TestAuditKeepsTheNewest(t *testing.T) {
	s := &State{}
	for _, i := range rand.New(rand.NewPCG(1, 1)).Perm(2 * AuditMax) {
		s.Apply(Entry{Stamp: Stamp{int64(i + 1), 0, "n1"}, Route: "chat", Kind: KindSwitch, Value: []byte("1")})
	}
	audit := s.Audit(2 * AuditMax)
	if len(audit) != AuditMax || audit[0].Stamp.Wall != 2*AuditMax || audit[AuditMax-1].Stamp.Wall != AuditMax+1 {
		t.Errorf("Audit has %d entries from %v to %v, want the newest %d", len(audit), audit[0].Stamp, audit[len(audit)-1].Stamp, AuditMax)
	}
	if got := s.Audit(2); len(got) != 2 || got[0].Stamp.Wall != 2*AuditMax || got[0].Value != nil {
		t.Errorf("Audit(2) = %+v, want the newest two without values", got)
	}
	if got := s.Audit(-1); len(got) != 0 {
		t.Errorf("Audit(-1) = %+v", got)
	}
}

func TestStamps(t *testing.T) {
	now := time.UnixMilli(1000)
	first := Stamp{}.next(now, "n1")
	second := first.next(now.Add(-time.Hour), "n2") // a clock that is behind
	third := second.next(now.Add(time.Millisecond), "n1")
	if first != (Stamp{1000, 0, "n1"}) || second != (Stamp{1000, 1, "n2"}) || third != (Stamp{1001, 0, "n1"}) {
		t.Errorf("stamps %v, %v, %v", first, second, third)
	}
	for _, s := range []Stamp{{}, first, {1, 2, "a.b-c"}} {
		if got, err := ParseStamp(s.String()); err != nil || got != s {
			t.Errorf("ParseStamp(%q) = %v, %v", s, got, err)
		}
	}
	for _, text := range []string{"1", "1.2", "1.2.", "-1.2.n", "01.2.n", "1.+2.n", "253402300800000.0.n", "1.1099511627777.n"} {
		if got, err := ParseStamp(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseStamp(%q) = %v, %v, want ErrInvalid", text, got, err)
		}
	}
}

func TestDecodeEntry(t *testing.T) {
	e := Entry{Stamp: Stamp{5, 1, "n1"}, At: time.UnixMilli(5).UTC(), By: "ana", RequestID: "r1", Route: "chat", Kind: "of a newer gateway",
		What: "something", Value: []byte(`{"a":1}`)}
	if got, err := decodeEntry(e.encode()); err != nil || cmp.Diff(e, got) != "" {
		t.Errorf("decodeEntry mismatch (-want +got): %v\n%s", err, cmp.Diff(e, got))
	}
	for _, data := range []string{`{`, `{}`, `{"stamp":"1.0.n1","route":"chat"}`, `{"stamp":"1.0.n1","kind":"switch"}`, `{"stamp":"x","route":"chat","kind":"switch"}`} {
		if got, err := decodeEntry([]byte(data)); err == nil {
			t.Errorf("decodeEntry(%s) = %+v", data, got)
		}
	}
}
