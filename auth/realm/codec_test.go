package realm

import (
	"bytes"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// filled fills every field of a request, or of a part of one, with something.
func filled(v reflect.Value, rng *rand.Rand) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			filled(v.Field(i), rng)
		}
	case reflect.Array:
		for i := range v.Len() {
			filled(v.Index(i), rng)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1+rng.IntN(3), 3))
		for i := range v.Len() {
			filled(v.Index(i), rng)
		}
	case reflect.String:
		v.SetString(strings.Repeat(pick(func(_ string, n int) int { return rng.IntN(n) }, "", "a", "동", "\x00", "Z9"),
			1+rng.IntN(5)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64:
		v.SetInt(rng.Int64N(math.MaxInt64) * int64(1-2*rng.IntN(2)))
	case reflect.Uint8:
		v.SetUint(1 + rng.Uint64N(math.MaxUint8))
	case reflect.Uint32:
		v.SetUint(1 + rng.Uint64N(math.MaxUint32))
	case reflect.Uint64:
		v.SetUint(max(1, rng.Uint64()))
	default:
		panic("a field of kind " + v.Kind().String())
	}
}

// full returns a request of a kind with every field set.
func full(k kind, rng *rand.Rand) Request {
	q := blank(k)
	filled(reflect.ValueOf(q).Elem(), rng)
	return q
}

// TestEncoding reads back what it wrote: of each kind the zero request, full ones, and full ones without one field.
func TestEncoding(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		for k := kind(1); k < kinds; k++ {
			requests := []Request{blank(k), full(k, rng)}
			for field := range reflect.ValueOf(blank(k)).Elem().NumField() {
				q := full(k, rng)
				reflect.ValueOf(q).Elem().Field(field).SetZero()
				requests = append(requests, q)
			}
			for _, want := range requests {
				command, err := Encode(want)
				if err != nil {
					t.Fatalf("seed %d: Encode(%T%+v): %v", seed, want, want, err)
				}
				got, err := Decode(command)
				if diff := cmp.Diff(want, got); err != nil || diff != "" {
					t.Fatalf("seed %d: Decode(Encode(…)): %v, mismatch (-want +got):\n%s", seed, err, diff)
				}
			}
		}
	}
	if blank(0) != nil || blank(kinds) != nil {
		t.Error("there is a request of no kind")
	}
}

// TestEncodeLimits takes what is at a limit, and not what is beyond.
func TestEncodeLimits(t *testing.T) {
	long := func(n int) string { return strings.Repeat("a", n) }
	for name, c := range map[string]struct {
		at, beyond Request
	}{
		"login":    {&SignUp{Login: long(LoginBytesMax)}, &SignUp{Login: long(LoginBytesMax + 1)}},
		"password": {&SetPassword{Password: long(PasswordBytesMax)}, &SetPassword{Password: long(PasswordBytesMax + 1)}},
		"agent":    {&LogIn{Opening: Opening{Agent: long(AgentBytesMax)}}, &Refresh{Agent: long(AgentBytesMax + 1)}},
		"sealed":   {&Refresh{Sealed: make([]byte, SecretBytesMax)}, &Refresh{Sealed: make([]byte, SecretBytesMax+1)}},
		"groups":   {&SetGroups{Groups: make([]string, GroupsMax)}, &SetGroups{Groups: make([]string, GroupsMax+1)}},
		"tokens": {&ImportLegacy{Tokens: make([]LegacyToken, RowsMax)},
			&ImportLegacy{Tokens: make([]LegacyToken, RowsMax+1)}},
		"detail": {&Note{Detail: long(DetailBytesMax)}, &Note{Detail: "\xff"}},
	} {
		if command, err := Encode(c.at); err != nil {
			t.Errorf("Encode of %s at its limit: %v", name, err)
		} else if _, err := Decode(command); err != nil {
			t.Errorf("Decode of %s at its limit: %v", name, err)
		}
		if _, err := Encode(c.beyond); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("Encode of %s beyond its limit: %v", name, err)
		}
	}
}

// TestDecodeJunk cuts commands at every byte, puts bytes behind them, and makes them longer than need be.
func TestDecodeJunk(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for k := kind(1); k < kinds; k++ {
		command, err := Encode(full(k, rng))
		if err != nil {
			t.Fatal(err)
		}
		for n := range command {
			if got, err := Decode(command[:n]); err == nil {
				t.Fatalf("Decode of %d of %d bytes = %+v", n, len(command), got)
			}
		}
		if got, err := Decode(append(slices.Clone(command), 0)); err == nil {
			t.Fatalf("Decode with a byte behind = %+v", got)
		}
	}
	rehash, err := Encode(&Rehash{User: "u", Checked: 1, Password: "p"})
	if err != nil {
		t.Fatal(err)
	}
	for name, junk := range map[string][]byte{
		"another version":    {2, byte(kindNote)},
		"no kind":            {1, 0},
		"an unknown kind":    {1, byte(kinds)},
		"a long number":      bytes.Replace(rehash, []byte{'u', 1}, []byte{'u', 0x81, 0}, 1),
		"a number too large": bytes.Replace(rehash, []byte{'u', 1}, []byte{'u', 0xff, 0xff, 0xff, 0xff, 0x1f}, 1),
		"not UTF-8":          bytes.Replace(rehash, []byte{'u'}, []byte{0xff}, 1),
		"a flag of 2":        append([]byte{1, byte(kindSetDisabled), 0}, 2, 0, 0),
		"a length of 2^63":   {1, byte(kindNote), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"a million rows":     {1, byte(kindImportLegacy), 0xc0, 0x84, 0x3d},
		"999 absent rows":    {1, byte(kindImportLegacy), 0xe7, 0x07},
		"endless number":     append([]byte{1, byte(kindNote)}, bytes.Repeat([]byte{0xff}, 20)...),
	} {
		if got, err := Decode(junk); err == nil {
			t.Errorf("Decode of %s = %+v", name, got)
		}
	}
}

// FuzzDecode never panics; what it reads has one encoding; and whatever it reads can be applied, to a state that is
// sound afterwards.
func FuzzDecode(f *testing.F) {
	rng := rand.New(rand.NewPCG(2, 1))
	for k := kind(1); k < kinds; k++ {
		command, err := Encode(full(k, rng))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(command)
	}
	for _, q := range raceStart() {
		command, err := Encode(q)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(command)
	}
	f.Fuzz(func(t *testing.T, command []byte) {
		q, err := Decode(command)
		if err != nil {
			return
		}
		again, err := Encode(q)
		if err != nil || !bytes.Equal(again, command) {
			t.Fatalf("read %+v, which is written %x (%v), not %x", q, again, err, command)
		}
		s := started(t)
		for range 2 {
			s.Apply(s.position, q)
			if err := s.Check(); err != nil {
				t.Fatalf("after %T%+v: %v", q, q, err)
			}
		}
		if err := New().Restore(s.Snapshot()); err != nil {
			t.Fatalf("after %T%+v: Restore: %v", q, q, err)
		}
	})
}

// started is the state at the start of races.
func started(t testing.TB) *State {
	t.Helper()
	s := New()
	for i, q := range raceStart() {
		if result := s.Apply(at(int64(i)*second), q); result.Code != Done {
			t.Fatalf("%T: %v", q, result.Code)
		}
	}
	return s
}

// busy is a state that has something of everything that a snapshot can have.
func busy(t testing.TB) *State {
	t.Helper()
	h := newHistory(seededDice(1), rightly)
	if err := h.run(60); err != nil {
		t.Fatal(err)
	}
	s := h.state
	for _, q := range []Request{
		&Seed{Users: []SeedUser{{"ana", "ana", "아나", "e@x", "p", []string{"a", "b"}}}},
		&AddTOTP{User: "ana", Secret: []byte{1}},
		&ConfirmTOTP{User: "ana", Secret: []byte{1}, Step: 5, Recovery: []Hash{{1}, {2}}},
		&LogIn{User: "ana", Checked: 2, Step: 6, Opening: opens("kept")},
		&LogIn{User: "ana", Checked: 2, Step: 7, Opening: opens("ended")},
		&Refresh{Session: opens("kept").Session, Generation: 1, Token: opens("kept").Token, Next: Hash{3}, Sealed: []byte{4}},
		&EndSession{Session: opens("ended").Session, By: "ana"}, &RevokeToken{ID: TokenID{5}, Expires: s.now + minute},
		&AddKey{ID: "k", Alg: "ES256", Public: []byte{6}, Sealed: []byte{7}}, &AddKey{ID: "l", Cache: 9},
		&ImportLegacy{Tokens: []LegacyToken{{Hash: Hash{8}, User: "ana", Expires: s.now + day}}},
		&ExchangeLegacy{Hash: Hash{8}, Sealed: []byte{9}, Opening: opens("legacy")},
		&SetStage{Route: "chat", Stage: StageDual},
	} {
		if result := s.Apply(h.at, q); result.Code != Done {
			t.Fatalf("%T%+v: %v", q, q, result.Code)
		}
	}
	s.limits.events = 30
	s.Apply(h.at, &Note{Kind: "older-ones-are-dropped"})
	return s
}

// TestRestoreDamaged cuts a snapshot at every byte and flips every bit: none is taken, and the state stays as it was.
func TestRestoreDamaged(t *testing.T) {
	whole := busy(t).Snapshot()
	fresh := newTestState()
	empty := fresh.Snapshot()
	refused := func(what string, at int, damaged []byte) {
		t.Helper()
		if err := fresh.Restore(damaged); err == nil {
			t.Fatalf("Restore took a snapshot %s %d", what, at)
		}
	}
	for n := range whole {
		refused("cut at byte", n, whole[:n])
	}
	refused("with bytes behind", 1, append(slices.Clone(whole), 0))
	for bit := range 8 * len(whole) {
		damaged := slices.Clone(whole)
		damaged[bit/8] ^= 1 << (bit % 8)
		refused("without bit", bit, damaged)
	}
	if !bytes.Equal(fresh.Snapshot(), empty) {
		t.Fatal("a snapshot that was refused changed the state")
	}
	if err := fresh.Restore(whole); err != nil || !bytes.Equal(fresh.Snapshot(), whole) {
		t.Errorf("Restore of the whole: %v", err)
	}
}

// TestRestoreForged damages bytes and makes the checksum right again: no panic, and what is taken is sound.
func TestRestoreForged(t *testing.T) {
	whole := busy(t).Snapshot()
	taken := 0
	for at := len(snapshotMagic); at < len(whole)-checksumBytes; at++ {
		for _, value := range []byte{0, 0x7f, 0xff, whole[at] + 1} {
			damaged := slices.Clone(whole)
			damaged[at] = value
			if restoreForged(t, damaged) {
				taken++
			}
		}
	}
	if taken == 0 {
		t.Error("nothing was taken: the checksum was not made right")
	}
}

func restoreForged(t testing.TB, body []byte) bool {
	t.Helper()
	body = body[:max(0, len(body)-checksumBytes)]
	s := newTestState()
	if s.Restore(sealedUp(body)) != nil {
		return false
	}
	if err := s.Check(); err != nil {
		t.Fatalf("Restore took what is not sound: %v", err)
	}
	if err := newTestState().Restore(s.Snapshot()); err != nil {
		t.Fatalf("Restore took what is not taken again: %v", err)
	}
	return true
}

// sealedUp returns a snapshot of these rows with its checksum.
func sealedUp(body []byte) []byte {
	sum := checksum(body)
	return append(slices.Clone(body), byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
}

// FuzzRestore restores anything whose checksum is right.
func FuzzRestore(f *testing.F) {
	f.Add(busy(f).Snapshot())
	f.Add(New().Snapshot())
	f.Fuzz(func(t *testing.T, snapshot []byte) { restoreForged(t, snapshot) })
}

// TestIDs writes ids and tokens as text and reads them.
func TestIDs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b [16]byte
		copy(b[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "bytes"))
		if got, ok := ParseSession(SessionID(b).String()); !ok || got != b {
			t.Fatalf("ParseSession(%v) = %v, %v", SessionID(b), got, ok)
		}
		if got, ok := ParseTokenID(TokenID(b).String()); !ok || got != b {
			t.Fatalf("ParseTokenID(%v) = %v, %v", TokenID(b), got, ok)
		}
		generation := rapid.Uint32().Draw(t, "generation")
		token := MakeToken(FamilyKey{1}, b, generation, [16]byte{3})
		got, ok := ParseToken(token.String())
		if !ok || got != token || got.Session() != b || got.Generation() != generation ||
			got.Hash() != HashOf(token.String()) {
			t.Fatalf("ParseToken(%v) = %v, %v", token, got, ok)
		}
	})
	good := SessionID{9}.String()
	for _, text := range []string{"", "s_", good[2:], good + "A", good[:23], good[:23] + "B", good[:22] + "\n" + good[23:],
		"S_" + good[2:],
		good[:22] + "=" + good[23:], good[:20] + "\r\n" + good[22:], good[:10] + "+" + good[11:]} {
		if id, ok := ParseSession(text); ok {
			t.Errorf("ParseSession(%q) = %v", text, id)
		}
	}
}

// TestTokenGenuine flips every bit of a token: its tag is then wrong; as under another key.
func TestTokenGenuine(t *testing.T) {
	token := MakeToken(FamilyKey{1}, SessionID{2}, 3, [16]byte{4})
	if !token.Genuine(FamilyKey{1}) || token.Genuine(FamilyKey{2}) {
		t.Error("a token is not genuine, or with any key")
	}
	for bit := range 8 * len(token) {
		other := token
		other[bit/8] ^= 1 << (bit % 8)
		if other.Genuine(FamilyKey{1}) {
			t.Errorf("genuine without bit %d", bit)
		}
	}
	// Made with another implementation of HMAC-SHA256.
	if want := "dr_AgAAAAAAAAAAAAAAAAAAAAAAAAMEAAAAAAAAAAAAAAAAAAAAGnccA_jOKXUOxtla89c3Rg"; token.String() != want {
		t.Errorf("token is %v, want %s", token, want)
	}
}
