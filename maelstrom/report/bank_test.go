package report

import (
	"slices"
	"testing"

	"dongne/maelstrom/check"
	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
)

// The figures of a bank's run have what was done with its money; those of other runs do not.
func TestBankFigures(t *testing.T) {
	bank := check.Results{Fields: edn.Map{}.With("workload", edn.Map{}.With("done-count", 1308).With("refused-count", 125).
		With("unknown-count", 3).With("repeat-count", 52))}
	got := figures(&history.Run{}, bank, nil)
	for _, want := range []history.Setting{{Name: "deeds, done", Value: "1,308"}, {Name: "deeds, refused", Value: "125"},
		{Name: "deeds, unknown", Value: "3"}, {Name: "deeds, repeat", Value: "52"}} {
		if !slices.Contains(got, want) {
			t.Errorf("figures %v lack %v", got, want)
		}
	}
	if others := figures(&history.Run{}, check.Results{Fields: edn.Map{}.With("workload", edn.Map{})}, nil); len(others) != 1 {
		t.Errorf("figures without a bank: %v", others)
	}
}
