package ledger

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// full is a request with every field set.
func full() Request {
	return Request{Kind: Capture, Linked: true, Any: true, Key: NewKey("ana", "k"), By: "ana", Account: "a",
		Currency: testKRW,
		Settings: Settings{Asset: true, Overdraft: true, Closed: true, PerTransfer: 1, PerDay: math.MaxInt64},
		Set:      SetPerDay | SetClosed,
		Legs:     []Leg{{"a", math.MinInt64}, {"b", 7}}, Amount: -3, Final: true, Transfer: ID{1 << 40, 3, 1 << 31}, Expires: -1,
		Memo: "밥값", Reference: "r", Recipient: "dan", IfVersion: math.MaxUint32, Print: Fingerprint{1}, Commit: true,
		Cancel: true,
		Code:   Cancelled, Leg: 15}
}

// TestFieldsSet sees to it that full has every field, so that the tests below judge all of them.
func TestFieldsSet(t *testing.T) {
	v := reflect.ValueOf(full())
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("full() has no %s", v.Type().Field(i).Name)
		}
	}
}

// without returns full without one field.
func without(field int) Request {
	q := full()
	v := reflect.ValueOf(&q).Elem().Field(field)
	v.SetZero()
	switch reflect.TypeFor[Request]().Field(field).Name {
	case "Kind":
		q.Kind = Void
	case "Settings":
		q.Settings.Asset = false
	case "Code":
		q.Leg = 0 // they go together
	}
	return q
}

// TestEncoding reads back what it wrote, with each field missing in turn, and all.
func TestEncoding(t *testing.T) {
	requests := []Request{full(), {Kind: UseKey}}
	for field := range reflect.TypeFor[Request]().NumField() {
		requests = append(requests, without(field))
	}
	got, err := Decode(Encode(requests))
	if diff := cmp.Diff(requests, got); err != nil || diff != "" {
		t.Errorf("Decode(Encode(…)): %v, mismatch (-want +got):\n%s", err, diff)
	}
	rapid.Check(t, func(t *rapid.T) {
		legs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Leg {
			return Leg{rapid.String().Draw(t, "account"),
				rapid.Int64().Draw(t, "amount")}
		}), 1, 20)
		want := []Request{{Kind: Kind(rapid.IntRange(1, int(kinds)-1).Draw(t, "kind")), Amount: rapid.Int64().Draw(t, "amount"),
			Legs: legs.Draw(t, "legs"), Memo: rapid.String().Draw(t, "memo"), Expires: rapid.Int64().Draw(t, "expires"),
			Transfer: ID{rapid.Int64().Draw(t, "time"), rapid.Uint16().Draw(t, "shard"), rapid.Uint32().Draw(t, "record")}}}
		got, err := Decode(Encode(want))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatalf("Decode(Encode(…)): %v, mismatch (-want +got):\n%s", err, diff)
		}
	})
}

// TestFingerprint tells requests apart by every field but those that say who asks, and under which key.
func TestFingerprint(t *testing.T) {
	q := full()
	seen := map[Fingerprint]string{q.Fingerprint(): "nothing"}
	for field := range reflect.TypeFor[Request]().NumField() {
		name := reflect.TypeFor[Request]().Field(field).Name
		q := without(field)
		switch name {
		case "Key", "By", "Any":
			if seen[q.Fingerprint()] != "nothing" {
				t.Errorf("without %s the fingerprint is another", name)
			}
			continue
		}
		if before, known := seen[q.Fingerprint()]; known {
			t.Errorf("without %s the fingerprint is the one without %s", name, before)
		}
		seen[q.Fingerprint()] = name
	}
	for i, change := range []func(q *Request){
		func(q *Request) { q.Legs[0].Account = "c" }, func(q *Request) { q.Legs[1].Amount++ },
		func(q *Request) { slices.Reverse(q.Legs) },
		func(q *Request) { q.Memo, q.Reference = q.Memo+q.Reference, "" }, func(q *Request) { q.Settings.PerDay-- },
		func(q *Request) { q.Transfer.Record++ }, func(q *Request) { q.Set = SetPerDay },
		func(q *Request) { q.Settings.Overdraft = false },
	} {
		q := full()
		change(&q)
		if before, known := seen[q.Fingerprint()]; known {
			t.Errorf("change %d has the fingerprint without %s", i, before)
		}
		seen[q.Fingerprint()] = fmt.Sprint("change ", i)
	}
	use := Request{Kind: UseKey, Key: q.Key, Print: q.Fingerprint()}
	if use.Fingerprint() != q.Fingerprint() {
		t.Error("UseKey has another fingerprint than what it is for")
	}
}

// TestDecodeJunk cuts a command at every byte, and puts bytes behind it.
func TestDecodeJunk(t *testing.T) {
	command := Encode([]Request{full(), {Kind: Void, Transfer: ID{1, 0, 1}}})
	for n := range command {
		if got, err := Decode(command[:n]); err == nil {
			t.Fatalf("Decode of %d of %d bytes = %+v", n, len(command), got)
		}
	}
	many := make([]Request, CallRequestsMax+1)
	for i := range many {
		many[i].Kind = UseKey
	}
	for name, junk := range map[string][]byte{
		"bytes behind":     append(slices.Clone(command), 0),
		"no request":       {0},
		"too many":         Encode(many),
		"no kind":          Encode([]Request{{}}),
		"an unknown kind":  Encode([]Request{{Kind: kinds}}),
		"unknown bits":     {1, 0xff, 0xff, 0xff, 0x7f, byte(Move)},
		"a length of 2^63": {1, hasMemo & 0x7f, 0x20, byte(Move), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"endless number":   bytes.Repeat([]byte{0xff}, 20),
	} {
		if got, err := Decode(junk); err == nil {
			t.Errorf("Decode of %s = %+v", name, got)
		}
	}
}

// FuzzDecode never panics, and what it reads it can write and read again.
func FuzzDecode(f *testing.F) {
	f.Add(Encode([]Request{full()}))
	for _, requests := range opening() {
		f.Add(Encode(requests))
	}
	f.Fuzz(func(t *testing.T, command []byte) {
		requests, err := Decode(command)
		if err != nil {
			return
		}
		for i := range requests {
			requests[i].Fingerprint()
		}
		again, err := Decode(Encode(requests))
		if err != nil || !cmp.Equal(Encode(requests), Encode(again)) {
			t.Fatalf("read %+v, then %+v, %v", requests, again, err)
		}
	})
}

// TestIDs writes ids as text and reads them, and sorts them by time.
func TestIDs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) ID {
			return ID{rapid.Int64Range(0, 1<<47).Draw(t, label), rapid.Uint16().Draw(t, "shard"),
				rapid.Uint32Min(1).Draw(t, "record")}
		}
		a, b := draw("a"), draw("b")
		got, ok := ParseTransfer("tr_" + a.String())
		if !ok || got != a || len(a.String()) != 20 {
			t.Fatalf("ParseTransfer(%q) = %+v, %v, want %+v", a, got, ok, a)
		}
		if strings.Compare(a.String(), b.String()) != compareIDs(a, b) {
			t.Fatalf("%+v and %+v sort as %q and %q", a, b, a, b)
		}
		if n := 1 + int(a.Shard); ShardOf("acct_"+a.String(), n) != int(a.Shard) {
			t.Fatalf("ShardOf of an account made in shard %d is another", a.Shard)
		}
	})
	good := ID{startTime / 1e6, 1, 7}.String()
	for _, text := range []string{"", "tr_", good, "tr_" + good[1:], "tr_" + good + "0",
		"tr_" + strings.ToUpper(good), "TR_" + good,
		"tr_" + good[:19] + "z", "tr_" + good[:19] + "1", "tr_" + ID{1, 1, 0}.String(), "acct_" + good,
		"tr_" + good[:10] + "\n" + good[11:]} {
		if id, ok := ParseTransfer(text); ok {
			t.Errorf("ParseTransfer(%q) = %+v", text, id)
		}
	}
}

// TestShardOf spreads ids, each of which is of one shard, and system accounts are of their own.
func TestShardOf(t *testing.T) {
	var count [4]int
	for n := range 4000 {
		count[ShardOf(fmt.Sprint("user", n), 4)]++
	}
	for shard, n := range count {
		if n < 800 || n > 1200 {
			t.Errorf("shard %d of 4 has %d of 4000 accounts", shard, n)
		}
		if got := ShardOf(systemAccount(transit, testKRW, shard), 4); got != shard {
			t.Errorf("ShardOf the transit account of shard %d = %d", shard, got)
		}
	}
}

// busy returns a shard that has something of everything that a snapshot can have.
func busy(t testing.TB, seed uint64) *State {
	w := newWorld(seededDice(seed), rightly, 3)
	w.setUp()
	for range 5000 {
		w.step()
		for _, s := range w.shards {
			if len(s.settling) > 0 && len(s.portions) > 0 && len(s.roots) > 1 && s.keys.n > 9 && len(s.due) > 0 {
				return s
			}
		}
	}
	t.Fatalf("seed %d makes too little", seed)
	return nil
}

// TestRestoreTruncated cuts a snapshot at every byte: none is taken for a whole one, and the state stays as it was.
func TestRestoreTruncated(t *testing.T) {
	s := busy(t, 3)
	whole := s.Snapshot()
	fresh := NewState(s.Shard())
	empty := fresh.Snapshot()
	for n := range whole {
		if err := fresh.Restore(whole[:n]); err == nil {
			t.Fatalf("Restore took %d of %d bytes", n, len(whole))
		}
	}
	if err := fresh.Restore(append(slices.Clone(whole), 0)); err == nil {
		t.Fatal("Restore took a byte too many")
	}
	if !bytes.Equal(fresh.Snapshot(), empty) {
		t.Fatal("a snapshot that was refused changed the state")
	}
	if err := NewState(s.shard, s.shards+1).Restore(whole); err == nil {
		t.Error("Restore took a snapshot of another number of shards")
	}
	if err := fresh.Restore(whole); err != nil || !bytes.Equal(fresh.Snapshot(), whole) {
		t.Errorf("Restore of the whole: %v", err)
	}
}

// restoreMemoryMax is how many times its size a snapshot may allocate, damaged or not.
const restoreMemoryMax = 60

// restoreDamaged restores what may be damaged: no panic, and no more memory than the snapshot is worth.
func restoreDamaged(t testing.TB, shard, shards int, snapshot []byte) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s := NewState(shard, shards)
	err := s.Restore(snapshot)
	runtime.ReadMemStats(&after)
	if used, most := after.TotalAlloc-before.TotalAlloc, uint64(4<<20+restoreMemoryMax*len(snapshot)); used > most {
		t.Fatalf("Restore of %d bytes allocated %d, at most %d will do (%v)", len(snapshot), used, most, err)
	}
	if err == nil {
		s.Snapshot()
	}
}

// TestRestoreDamaged changes bytes, in counts and lengths too.
func TestRestoreDamaged(t *testing.T) {
	s := busy(t, 3)
	whole := s.Snapshot()
	for at := 0; at < len(whole); at += 1 + at%5 {
		damaged := slices.Clone(whole)
		switch at % 3 {
		case 0:
			damaged[at] ^= 0x80
		case 1:
			damaged[at] = 0xff
		default: // a count of 8 million
			copy(damaged[at:], []byte{0xff, 0xff, 0x7f, 0, 0, 0, 0, 0})
		}
		restoreDamaged(t, s.shard, s.shards, damaged)
	}
}

// FuzzRestore restores anything.
func FuzzRestore(f *testing.F) {
	for seed := range uint64(3) {
		f.Add(busy(f, seed).Snapshot())
	}
	f.Fuzz(func(t *testing.T, snapshot []byte) {
		shard := 0
		if len(snapshot) > len(snapshotMagic) {
			shard = int(snapshot[len(snapshotMagic)]) % 3
		}
		if s := NewState(shard, 3); s.Restore(snapshot) == nil {
			s.Snapshot()
		}
	})
}
