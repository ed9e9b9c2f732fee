package gossip

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	genOrigin = rapid.Custom(func(t *rapid.T) Origin {
		return Origin{rapid.StringMatching(`[A-Za-z0-9_.-]{1,64}`).Draw(t, "node"), rapid.Uint64().Draw(t, "incarnation")}
	})
	genSeq    = rapid.Uint64Range(1, seqMax-1)
	genVector = rapid.Custom(func(t *rapid.T) Vector {
		return Vector(rapid.MapOfN(genOrigin, genSeq, 0, 6).Draw(t, "vector"))
	})
	genEntry = rapid.Custom(func(t *rapid.T) Entry {
		e := Entry{genOrigin.Draw(t, "origin"), genSeq.Draw(t, "seq"), genVector.Draw(t, "deps"),
			rapid.SliceOf(rapid.Byte()).Draw(t, "data")}
		delete(e.Deps, e.Origin)
		return e
	})
	genMessage = rapid.Custom(func(t *rapid.T) Message {
		flag := func(name string) bool { return rapid.Bool().Draw(t, name) }
		m := Message{Sender: rapid.Uint64().Draw(t, "sender"), Heard: rapid.Uint64().Draw(t, "heard"), Ask: flag("ask"),
			Answer: flag("answer"), Relay: flag("relay"), Hub: flag("hub"), HasHash: flag("hash")}
		if m.HasHash {
			m.Hash = rapid.Uint64().Draw(t, "hash")
		}
		if flag("vector") {
			m.Vector = genVector.Draw(t, "vector")
		}
		if entries := rapid.SliceOfN(genEntry, 0, 4).Draw(t, "entries"); len(entries) > 0 {
			m.Entries = entries
		}
		return m
	})
)

func TestRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := genVector.Draw(t, "v")
		if got, err := ParseVector(v.String()); err != nil || !cmp.Equal(v, got) {
			t.Errorf("ParseVector(%q) = %v, %v", v.String(), got, err)
		}
		if got, err := ParseBinaryVector(v.AppendBinary(nil)); err != nil || !cmp.Equal(v, got) {
			t.Errorf("ParseBinaryVector of %q = %v, %v", v, got, err)
		}
		e := genEntry.Draw(t, "e")
		if got, err := ParseEntry(e.AppendBinary(nil)); err != nil || cmp.Diff(e, got) != "" {
			t.Errorf("ParseEntry mismatch (-want +got): %v\n%s", err, cmp.Diff(e, got))
		}
		m := genMessage.Draw(t, "m")
		if got, err := ParseMessage(m.AppendBinary(nil)); err != nil || cmp.Diff(m, got) != "" {
			t.Errorf("ParseMessage mismatch (-want +got): %v\n%s", err, cmp.Diff(m, got))
		}
	})
}

func TestVectorText(t *testing.T) {
	v := Vector{{"n2", 35}: 3, {"n1", 36}: 1296, {"n.1-a_", 1}: 36, {"n3", 1}: 0}
	if got, want := v.String(), "n.1-a_.1:10,n1.10:100,n2.z:3"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	for text, want := range map[string]string{
		"n1":                             "byte 0: want node",
		"n1.a":                           "byte 0: want node",
		"n1:1":                           "byte 0: want node",
		"n1.a:":                          "not a number",
		"n1.:1":                          "not a number",
		".a:1":                           "1 to 64 bytes",
		strings.Repeat("n", 65) + ".a:1": "1 to 64 bytes",
		"n 1.a:1":                        "none of letters",
		"n1.A:1":                         "not a number",
		"n1.a:01":                        "not a number",
		"n1.a:+1":                        "not a number",
		"n1.a:0":                         "out of range",
		"n1.a:3w5e11264sg0g":             "out of range",
		"n1.a:3w5e11264sgsg":             "not a number",
		"n1.a:zzzzzzzzzzzzz":             "not a number",
		"n1.a:1,":                        "byte 7: want node",
		",n1.a:1":                        "byte 0: want node",
		"n2.a:1,n1.a:1":                  "byte 7: n1.a does not come after n2.a",
		"n1.a:1,n1.a:2":                  "byte 7: n1.a does not come after n1.a",
		strings.Repeat("x", 3<<20):       "at most",
	} {
		if v, err := ParseVector(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseVector(%.40q) = %v, %v, want an error with %q", text, v, err, want)
		}
	}
}

func TestVectorOrder(t *testing.T) {
	a, b := Vector{{"n1", 1}: 2, {"n2", 1}: 5}, Vector{{"n1", 1}: 3}
	if a.Covers(b) || b.Covers(a) || !a.Covers(nil) || Vector(nil).Covers(a) {
		t.Errorf("Covers is wrong for %q and %q", a, b)
	}
	merged := a.Clone()
	merged.Merge(b)
	if diff := cmp.Diff(Vector{{"n1", 1}: 3, {"n2", 1}: 5}, merged); diff != "" {
		t.Errorf("Merge mismatch (-want +got):\n%s", diff)
	}
	if !merged.Covers(a) || !merged.Covers(b) || a[Origin{"n1", 1}] != 2 {
		t.Errorf("after Merge: %q, and a is %q", merged, a)
	}
}

func TestBadMessages(t *testing.T) {
	good := Message{Sender: 1, Vector: Vector{{"n1", 1}: 1}, Entries: []Entry{{Origin{"n1", 1}, 1, Vector{}, []byte("x")}}}.AppendBinary(nil)
	for cut := range good {
		if _, err := ParseMessage(good[:cut]); err == nil || !strings.Contains(err.Error(), "offset") {
			t.Errorf("the first %d bytes of %d: error %v, want one with an offset", cut, len(good), err)
		}
	}
	huge := binary.AppendUvarint([]byte{codecVersion, flagVector, 1, 0}, 1<<60)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"version":   {[]byte{9}, "offset 0: version 9"},
		"flags":     {[]byte{codecVersion, 0xff, 1, 0, 0}, "unknown flags"},
		"tail":      {append(bytes.Clone(good), 0), "too many"},
		"long form": {[]byte{codecVersion, 0, 0x81, 0x00, 0, 0}, "offset 2: no number in its shortest form"},
		"count":     {huge, "cannot fit"},
		"itself":    {Message{Sender: 1, Entries: []Entry{{Origin{"n1", 1}, 1, Vector{{"n1", 1}: 1}, nil}}}.AppendBinary(nil), "depends on itself"},
	} {
		if _, err := ParseMessage(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

// What parses is canonical: it encodes to the same bytes.
func FuzzParseMessage(f *testing.F) {
	f.Add(Message{Sender: 7, Heard: 8, Ask: true, Hub: true, Vector: Vector{{"n1", 1}: 300, {"n2", 9}: 1},
		Entries: []Entry{{Origin{"n1", 1}, 2, Vector{{"n2", 9}: 1}, []byte("hello")}}}.AppendBinary(nil))
	f.Add(Message{Sender: 7, HasHash: true, Hash: 99}.AppendBinary(nil))
	f.Add([]byte{codecVersion, flagVector, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseMessage(data)
		if err != nil {
			if !strings.Contains(err.Error(), "offset") {
				t.Errorf("error %q names no offset", err)
			}
		} else if again := m.AppendBinary(nil); !bytes.Equal(data, again) {
			t.Errorf("%x parses and encodes to %x", data, again)
		}
	})
}

func FuzzParseVector(f *testing.F) {
	f.Add("n1.k3f9a2:1f4,n2.k3f9b0:3")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if v, err := ParseVector(text); err == nil && v.String() != text {
			t.Errorf("%q parses and prints %q", text, v)
		}
	})
}
