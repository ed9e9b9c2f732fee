package control

import (
	"math"
	"math/bits"
)

// spread gives a key, a subject or a client's address, its place under a salt: the same for ever, on every gateway, and
// uniform over 64 bits. It is FNV-1a, which is quick for short keys, and the finalizer of SplitMix64 (Steele et al.,
// 2014), which makes up for the high bits that FNV leaves poor. Nobody gains by finding keys of a certain place.
func spread(salt uint64, key string) uint64 {
	h := 0xcbf29ce484222325 ^ mix(salt)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 0x100000001b3
	}
	return mix(h)
}

func mix(h uint64) uint64 {
	h ^= h >> 30
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 27
	h *= 0x94d049bb133111eb
	return h ^ h>>31
}

// A share is how many of weightSteps places a weight takes.
type share uint64

func shareOf(percent float64) share { return share(math.Round(percent * weightSteps / percentMax)) }

// takes says whether a place is among the first of all, as many as the share has: whoever is stays there when it grows.
func (s share) takes(place uint64) bool {
	step, _ := bits.Mul64(place, weightSteps)
	return step < uint64(s)
}
