package gossipsim

import (
	"flag"
	"os"
	"strconv"
	"strings"
	"testing"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run this seed alone, with its trace")
	seedsFlag = flag.Uint64("seeds", 0, "how many seeds TestSeeds runs; 0: DONGNE_SEEDS, or 1000, 100 with -race, 20 with -short")
)

func seeds() uint64 {
	if *seedsFlag > 0 {
		return *seedsFlag
	}
	if n, err := strconv.ParseUint(os.Getenv("DONGNE_SEEDS"), 10, 64); err == nil {
		return n
	}
	switch {
	case testing.Short():
		return 20
	case raceEnabled:
		return 100
	}
	return 1000
}

// TestSeeds runs each scenario twice: what must hold holds, and both runs are the same event by event.
func TestSeeds(t *testing.T) {
	first, last := uint64(1), seeds()
	if *seedFlag > 0 {
		first, last = *seedFlag, *seedFlag
	}
	for seed := first; seed <= last; seed++ {
		o := Random(seed)
		if *seedFlag > 0 {
			o.Trace = os.Stdout
			for _, f := range o.Faults {
				t.Log(f)
			}
			t.Logf("%d nodes, %+v", o.Nodes, o.Profile)
		}
		r := Run(o)
		if len(r.Violations) > 0 {
			t.Fatalf("%s\nreplay: go test ./internal/sim/... -run TestSeeds -seed=%d -v",
				strings.Join(r.Violations, "\n"), seed)
		}
		o.Trace = nil
		if again := Run(o); again.Hash != r.Hash {
			t.Fatalf("seed %d: two runs differ: %x and %x", seed, r.Hash, again.Hash)
		}
	}
}
