package limit

import (
	"net/netip"
	"testing"
)

// The vectors of SipHash-2-4's authors: key 00…0f, message 00 01 02 … of each
// length.
func TestSipHash(t *testing.T) {
	var secret [16]byte
	message := make([]byte, 16)
	for i := range secret {
		secret[i], message[i] = byte(i), byte(i)
	}
	for length, want := range map[int]uint64{
		0: 0x726fdb47dd0e0e31, 1: 0x74f839c593dc67fd, 7: 0xab0200f58b01d137, 8: 0x93f5f5799a932462, 15: 0xa129ca6149be45e5,
	} {
		if got := sipHash(secretWords(secret), string(message[:length])); got != want {
			t.Errorf("SipHash of %d bytes is %#x, want %#x", length, got, want)
		}
	}
}

func TestAddressKey(t *testing.T) {
	l := newLimiter(t, 10)
	key := func(addr string) Key { return l.AddressKey(netip.MustParseAddr(addr)) }
	for _, same := range [][2]string{
		{"2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"},
		{"::ffff:192.0.2.1", "192.0.2.1"},
		{"fe80::1%eth0", "fe80::1"},
	} {
		if key(same[0]) != key(same[1]) {
			t.Errorf("%s and %s are two keys", same[0], same[1])
		}
	}
	others := []string{"192.0.2.1", "192.0.2.2", "2001:db8:1:2::1", "2001:db8:1:3::1", "::", "::c000:201", "0.0.0.0"}
	seen := map[Key]string{l.Key(""): "no text", l.Key("192.0.2.1"): "a text"}
	for _, addr := range others {
		if before, ok := seen[key(addr)]; ok && addr != "::c000:201" { // of ::/64, as is ::
			t.Errorf("%s and %s are one key", before, addr)
		}
		seen[key(addr)] = addr
	}
	if before, ok := seen[l.AddressKey(netip.Addr{})]; ok {
		t.Errorf("%s and no address are one key", before)
	}
}

// Another secret gives other keys, so that places cannot be learned elsewhere.
func TestKeysDependOnTheSecret(t *testing.T) {
	one, err := New([16]byte{1}, epoch, 10)
	if err != nil {
		t.Fatal(err)
	}
	two, err := New([16]byte{2}, epoch, 10)
	if err != nil {
		t.Fatal(err)
	}
	if one.Key("a") == two.Key("a") || one.AddressKey(ipv6(1)) == two.AddressKey(ipv6(1)) {
		t.Error("two secrets give one key")
	}
}
