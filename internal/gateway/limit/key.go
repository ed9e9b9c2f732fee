package limit

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// A Key names what is counted: an address, a subject, a route. It is a hash under
// the Limiter's secret, so it means nothing to another Limiter.
type Key uint64

// What a Key is made of; a text and an address never share a Key but by chance.
const (
	kindText uint64 = iota + 1
	kindIPv4
	kindIPv6
	kindNone
)

// Key returns the key of a text: a subject, a route, a client's id.
func (l *Limiter) Key(text string) Key {
	return Key(sipHash([2]uint64{l.secret[0], l.secret[1] ^ kindText}, text))
}

// AddressKey returns the key of a client's address: an IPv4 address is counted
// alone (also one mapped into IPv6), an IPv6 address with all of its /64, since a
// household or a server has that many addresses to itself. Zones are ignored, and
// all invalid addresses are one.
func (l *Limiter) AddressKey(addr netip.Addr) Key {
	addr = addr.Unmap()
	kind, word := kindNone, uint64(0)
	switch {
	case addr.Is4():
		four := addr.As4()
		kind, word = kindIPv4, uint64(binary.BigEndian.Uint32(four[:]))
	case addr.Is6():
		sixteen := addr.As16()
		kind, word = kindIPv6, binary.BigEndian.Uint64(sixteen[:8])
	}
	s := newSip([2]uint64{l.secret[0], l.secret[1] ^ kind})
	s.word(word)
	return Key(s.end(8 << 56))
}

// under returns the key's hash under a policy. The mixing is the finalizer of
// MurmurHash3 (Austin Appleby); it is a bijection for each policy, and the secret
// is in the key already.
func (k Key) under(policy int) uint64 {
	h := uint64(k) + uint64(policy)*0x9e3779b97f4a7c15
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// secretWords returns the two halves of SipHash's key.
func secretWords(secret [16]byte) [2]uint64 {
	return [2]uint64{binary.LittleEndian.Uint64(secret[:8]), binary.LittleEndian.Uint64(secret[8:])}
}

// sip is the state of SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast
// short-input PRF", 2012): whoever does not know the secret cannot choose keys
// that collide or that lie in one place.
type sip struct{ a, b, c, d uint64 }

func newSip(secret [2]uint64) sip {
	return sip{
		secret[0] ^ 0x736f6d6570736575, secret[1] ^ 0x646f72616e646f6d,
		secret[0] ^ 0x6c7967656e657261, secret[1] ^ 0x7465646279746573,
	}
}

func (s *sip) round() {
	s.a += s.b
	s.c += s.d
	s.b = bits.RotateLeft64(s.b, 13) ^ s.a
	s.d = bits.RotateLeft64(s.d, 16) ^ s.c
	s.a = bits.RotateLeft64(s.a, 32)
	s.c += s.b
	s.a += s.d
	s.b = bits.RotateLeft64(s.b, 17) ^ s.c
	s.d = bits.RotateLeft64(s.d, 21) ^ s.a
	s.c = bits.RotateLeft64(s.c, 32)
}

// word takes the next 8 bytes of the message, little endian.
func (s *sip) word(m uint64) {
	s.d ^= m
	s.round()
	s.round()
	s.a ^= m
}

// end takes the last word, whose top byte is the message's length, and returns
// the hash.
func (s *sip) end(last uint64) uint64 {
	s.word(last)
	s.c ^= 0xff
	for range 4 {
		s.round()
	}
	return s.a ^ s.b ^ s.c ^ s.d
}

func sipHash(secret [2]uint64, text string) uint64 {
	s := newSip(secret)
	last := uint64(len(text)) << 56
	for ; len(text) >= 8; text = text[8:] {
		s.word(uint64(text[0]) | uint64(text[1])<<8 | uint64(text[2])<<16 | uint64(text[3])<<24 |
			uint64(text[4])<<32 | uint64(text[5])<<40 | uint64(text[6])<<48 | uint64(text[7])<<56)
	}
	for i := range len(text) {
		last |= uint64(text[i]) << (8 * i)
	}
	return s.end(last)
}
