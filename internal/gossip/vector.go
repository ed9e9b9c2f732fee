package gossip

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A Vector is a version vector: the highest sequence number per origin up to which there are no gaps. An absent origin
// counts as 0; the nil vector is empty. (Parker et al., "Detection of Mutual Inconsistency in Distributed Systems", 1983.)
type Vector map[Origin]uint64

// Covers says whether v has everything that other has.
func (v Vector) Covers(other Vector) bool {
	for o, seq := range other {
		if v[o] < seq {
			return false
		}
	}
	return true
}

// Equal says whether both have the same.
func (v Vector) Equal(other Vector) bool { return v.Covers(other) && other.Covers(v) }

// Merge raises v to what other has. v must not be nil.
func (v Vector) Merge(other Vector) {
	for o, seq := range other {
		v.raise(o, seq)
	}
}

// Clone returns a copy, never nil.
func (v Vector) Clone() Vector {
	c := make(Vector, len(v))
	maps.Copy(c, v)
	return c
}

// Origins returns the origins in order.
func (v Vector) Origins() []Origin {
	return slices.SortedFunc(maps.Keys(v), Origin.Compare)
}

func (v Vector) raise(o Origin, seq uint64) {
	if seq > v[o] {
		v[o] = seq
	}
}

// String returns the canonical text, safe in URLs and in Server-Sent Events: "n1.k3f9a2:1f4,n2.k3f9b0:3", origins in
// order, incarnations and sequence numbers in base 36. The empty vector is "".
func (v Vector) String() string {
	var b strings.Builder
	for _, o := range v.Origins() {
		if v[o] == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(o.String())
		b.WriteByte(':')
		b.WriteString(formatNumber(v[o]))
	}
	return b.String()
}

// ParseVector reads what String writes and nothing else. Its errors name the byte at which the text goes wrong.
func ParseVector(s string) (Vector, error) {
	v := Vector{}
	if s == "" {
		return v, nil
	}
	if len(s) > textBytesMax {
		return nil, fmt.Errorf("gossip: a vector's text has at most %d bytes, not %d", textBytesMax, len(s))
	}
	var last Origin
	for at, rest, more := 0, s, true; more; {
		var part string
		part, rest, more = strings.Cut(rest, ",")
		o, seq, err := parsePair(part)
		if err == nil && len(v) > 0 && last.Compare(o) >= 0 {
			err = fmt.Errorf("%s does not come after %s", o, last)
		}
		if err == nil && len(v) == originsMax {
			err = fmt.Errorf("more than %d origins", originsMax)
		}
		if err != nil {
			return nil, fmt.Errorf("gossip: vector at byte %d: %w", at, err)
		}
		v[o], last = seq, o
		at += len(part) + 1
	}
	return v, nil
}

// parsePair reads "node.incarnation:seq".
func parsePair(s string) (Origin, uint64, error) {
	colon := strings.LastIndexByte(s, ':')
	dot := strings.LastIndexByte(s[:max(colon, 0)], '.')
	if colon < 0 || dot < 0 {
		return Origin{}, 0, fmt.Errorf("want node.incarnation:sequence")
	}
	if err := ValidName(s[:dot]); err != nil {
		return Origin{}, 0, err
	}
	incarnation, err := parseNumber(s[dot+1 : colon])
	if err != nil {
		return Origin{}, 0, err
	}
	seq, err := parseNumber(s[colon+1:])
	if err == nil && (seq == 0 || seq >= seqMax) {
		err = fmt.Errorf("sequence number %d out of range", seq)
	}
	return Origin{s[:dot], incarnation}, seq, err
}

func formatNumber(n uint64) string { return strconv.FormatUint(n, 36) }

func parseNumber(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 36, 64)
	if err != nil || formatNumber(n) != s {
		return 0, fmt.Errorf("%.20q is not a number in base 36", s)
	}
	return n, nil
}

// hash is FNV-1a over the canonical encoding: two nodes with equal hashes have the same.
func (v Vector) hash() uint64 {
	h := fnv.New64a()
	h.Write(v.AppendBinary(nil))
	return h.Sum64()
}
