package sharedlog_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestPure refuses what a core must not have: any import that could bring a clock, I/O, luck or a lock, any goroutine, and
// any loop over a map, whose order is luck.
func TestPure(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
	if len(files) == 0 {
		t.Fatal("no files")
	}
	for _, name := range files {
		for _, complaint := range impurities(t, name, nil) {
			t.Error(complaint)
		}
	}
}

func TestPureCatches(t *testing.T) {
	for _, source := range []string{
		`package p; import "time"; var _ = time.Now`,
		`package p; import "sync"; var _ sync.Mutex`,
		`package p; import "math/rand/v2"; var _ = rand.Int`,
		`package p; func f() { go f() }`,
		`package p; var c chan int`,
	} {
		if len(impurities(t, "mutant.go", source)) == 0 {
			t.Errorf("not caught: %s", source)
		}
	}
}

func impurities(t *testing.T, name string, source any) (complaints []string) {
	allowed := []string{"crypto/sha256", "encoding/binary", "errors", "fmt"}
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, source, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range file.Imports {
		if path, _ := strconv.Unquote(spec.Path.Value); !slices.Contains(allowed, path) {
			complaints = append(complaints, name+" imports "+path)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n.(type) {
		case *ast.GoStmt, *ast.ChanType, *ast.SelectStmt, *ast.MapType:
			complaints = append(complaints, set.Position(n.Pos()).String()+": goroutine, channel or map")
		}
		return true
	})
	return complaints
}
