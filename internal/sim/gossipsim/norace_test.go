//go:build !race

package gossipsim

const raceEnabled = false
