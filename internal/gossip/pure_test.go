package gossip

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// impure returns the imports in the source that a pure core must not have.
func impure(name string, source any) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var bad []string
	for _, i := range file.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return nil, err
		}
		if allowed := []string{"cmp", "encoding/binary", "fmt", "hash/fnv", "maps", "math", "math/rand/v2", "slices",
			"strconv", "strings", "time"}; !slices.Contains(allowed, path) {
			bad = append(bad, path)
		}
	}
	return bad, nil
}

func TestPure(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no sources: %v", err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		if bad, err := impure(name, nil); err != nil || len(bad) > 0 {
			t.Errorf("%s imports %q (%v)", name, bad, err)
		}
	}
	if bad, err := impure("mutant.go", "package p\nimport (\"os\"; \"sync\"; \"fmt\")"); err != nil || len(bad) != 2 {
		t.Errorf("impure(mutant) = %q, %v, want os and sync", bad, err)
	}
}
