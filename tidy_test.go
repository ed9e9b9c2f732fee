package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"
)

// The rules that the tree keeps, each a function from what it judges to what
// is wrong with it, and each with a mutant that it must catch.

const mainLinesMax = 300 // of every main.go of a service, and of the gateway's

const porcupine = "github.com/anishathalye/porcupine"

var (
	// cores are the packages without I/O, clock and luck.
	cores = []string{"auth/realm", "auth/throttle", "chat/room", "internal/gossip", "internal/sharedlog", "internal/sim", "internal/token",
		"maelstrom/check", "maelstrom/interpreter", "maelstrom/network", "maelstrom/node", "maelstrom/service", "maelstrom/simulate",
		"maelstrom/workload", "pay/ledger"}

	// lockedCores are pure but for their locks: many goroutines count in them, and what they count depends on the calls alone.
	lockedCores = []string{"internal/gateway/breaker", "internal/gateway/limit"}
	locks       = []string{"sync", "sync/atomic"}

	// pureImports is what a core may use of the standard library, and porcupine: a search whose answer, unless its caller
	// gives it a time, depends on the history alone.
	pureImports = []string{
		"bufio", "bytes", "cmp", "container/heap", "crypto", "crypto/ecdsa", "crypto/ed25519", "crypto/elliptic", "crypto/hmac",
		"crypto/sha256", "crypto/x509", "encoding", "encoding/base32",
		"encoding/base64", "encoding/binary", "encoding/hex", "encoding/json", "errors", "fmt", "hash", "hash/crc32", "hash/fnv",
		"io", "iter", "maps", "math", "math/big", "math/bits", "math/rand/v2", "net/netip", "net/url", "slices", "sort", "strconv",
		"strings", "time", "unicode", "unicode/utf16", "unicode/utf8", porcupine,
	}

	// impureNames are what a core may not mention of those; of math/rand/v2 it
	// may mention nothing but pureRand.
	impureNames = map[string][]string{
		"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTicker", "NewTimer", "Local", "LoadLocation"},
		"fmt":  {"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"},
	}
	pureRand = []string{"New", "NewPCG", "NewChaCha8", "NewZipf", "PCG", "ChaCha8", "Rand", "Source", "Zipf"}

	// directRequirements are all modules that tests and the harness may use; the services use none.
	directRequirements = []string{porcupine, "github.com/google/go-cmp", "github.com/jepsen-io/maelstrom/demo/go",
		"pgregory.net/rapid"}
)

// listed is what go list says of a package.
type listed struct {
	ImportPath, Dir  string
	Standard         bool
	Imports, GoFiles []string
}

// list returns packages and, with deps, all that they import; no tests.
func list(t *testing.T, deps bool, packages ...string) []listed {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,Standard,Imports,GoFiles", "-deps=" + strconv.FormatBool(deps)}, packages...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func report(t *testing.T, problems []string) {
	t.Helper()
	for _, p := range problems {
		t.Error(p)
	}
}

// wantCaught fails unless problems holds a word on each of wants, and no more.
func wantCaught(t *testing.T, problems []string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, want) }) {
			t.Errorf("nothing about %q in %q", want, problems)
		}
	}
	if len(problems) != len(wants) {
		t.Errorf("%d problems, want %d: %q", len(problems), len(wants), problems)
	}
}

func ours(importPath string) bool {
	return importPath == module || strings.HasPrefix(importPath, module+"/")
}

// foreign: the programs are the standard library and this module alone.
func foreign(packages []listed) (problems []string) {
	for _, p := range packages {
		if !p.Standard && !ours(p.ImportPath) {
			problems = append(problems, p.ImportPath+" is neither of the standard library nor of this module")
		}
	}
	return problems
}

func TestStandardLibraryAlone(t *testing.T) {
	programs := []string{"."}
	for _, name := range services() {
		programs = append(programs, "./"+name)
	}
	report(t, foreign(list(t, true, programs...)))
	wantCaught(t, foreign(list(t, true, "github.com/google/go-cmp/cmp/internal/value")), "go-cmp/cmp/internal/value")
}

// serviceFiles: a service is one main.go of bounded length beside its engines'
// folders, and embeds its contract.
func serviceFiles(fsys fs.FS, folder string) (problems []string) {
	files, err := fs.Glob(fsys, path.Join(folder, "*.go"))
	if err != nil {
		return []string{err.Error()}
	}
	for _, file := range files {
		if path.Base(file) != "main.go" && !strings.HasSuffix(file, "_test.go") {
			problems = append(problems, file+" stands beside main.go; an engine has a folder of its own")
		}
	}
	file := path.Join(folder, "main.go")
	text, err := fs.ReadFile(fsys, file)
	if err != nil {
		return append(problems, err.Error())
	}
	if lines := bytes.Count(text, []byte("\n")); lines > mainLinesMax {
		problems = append(problems, fmt.Sprintf("%s has %d lines; at most %d", file, lines, mainLinesMax))
	}
	if !regexp.MustCompile(`(?m)^//go:embed .*\bopenapi\.yaml`).Match(text) {
		problems = append(problems, file+" embeds no openapi.yaml")
	}
	return problems
}

func TestServiceIsOneFile(t *testing.T) {
	for _, folder := range append(services(), ".") {
		report(t, serviceFiles(os.DirFS("."), folder))
	}
	wantCaught(t, serviceFiles(fstest.MapFS{
		"bad/main.go":      {Data: []byte("// openapi.yaml is not embedded\n" + strings.Repeat("\n", mainLinesMax))},
		"bad/main_test.go": {},
		"bad/store.go":     {},
	}, "bad"), "bad/store.go", "301 lines", "embeds no openapi.yaml")
	wantCaught(t, serviceFiles(fstest.MapFS{}, "none"), "none/main.go")
}

// A program that stands on the top level and is a service has a specification;
// otherwise the gateway would not know it.
func TestServicesAreKnown(t *testing.T) {
	for _, name := range []string{"auth", "chat", "geo", "search", "pay", "logs"} {
		_, err := os.Stat(name + "/main.go")
		if known := slices.Contains(services(), name); known != (err == nil) {
			t.Errorf("%s: main.go: %v; known to the gateway: %v", name, err, known)
		}
	}
}

// impure: a core imports pure packages alone, and those that are allowed beside
// them. packages are the core and all that it imports.
func impure(packages []listed, allowed ...string) (problems []string) {
	for _, p := range packages {
		if !ours(p.ImportPath) {
			continue
		}
		for _, used := range p.Imports {
			if !ours(used) && !slices.Contains(pureImports, used) && !slices.Contains(allowed, used) {
				problems = append(problems, p.ImportPath+" imports "+used)
			}
		}
	}
	return problems
}

// impureCode: nor does it use what is not pure of them, or start a goroutine.
func impureCode(name string, source []byte) (problems []string) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, source, parser.SkipObjectResolution)
	if err != nil {
		return []string{err.Error()}
	}
	imported := map[string]string{} // name in the file → import path
	for _, spec := range file.Imports {
		importPath, _ := strconv.Unquote(spec.Path.Value)
		local := path.Base(strings.TrimSuffix(importPath, "/v2"))
		if spec.Name != nil {
			local = spec.Name.Name
		}
		imported[local] = importPath
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			problems = append(problems, files.Position(n.Pos()).String()+": a goroutine")
		case *ast.SelectorExpr:
			of, _ := n.X.(*ast.Ident)
			if of == nil {
				break
			}
			from := imported[of.Name]
			if slices.Contains(impureNames[from], n.Sel.Name) || from == "math/rand/v2" && !slices.Contains(pureRand, n.Sel.Name) {
				problems = append(problems, fmt.Sprintf("%s: %s.%s", files.Position(n.Pos()), of.Name, n.Sel.Name))
			}
		}
		return true
	})
	return problems
}

func TestCoresArePure(t *testing.T) {
	for _, core := range slices.Concat(cores, lockedCores) {
		packages := list(t, true, "./"+core)
		var allowed []string
		if slices.Contains(lockedCores, core) {
			allowed = locks
		}
		report(t, impure(packages, allowed...))
		for _, p := range packages {
			for _, file := range p.GoFiles {
				if !ours(p.ImportPath) {
					break
				}
				source, err := os.ReadFile(path.Join(p.Dir, file))
				if err != nil {
					t.Fatal(err)
				}
				report(t, impureCode(p.ImportPath+"/"+file, source))
			}
		}
	}
	wantCaught(t, impure([]listed{
		{ImportPath: "dongne/core", Imports: []string{"fmt", "dongne/below", "sync"}},
		{ImportPath: "dongne/below", Imports: []string{"os"}},
		{ImportPath: "fmt", Standard: true, Imports: []string{"os", "sync"}},
	}), "dongne/core imports sync", "dongne/below imports os")
	wantCaught(t, impure([]listed{{ImportPath: "dongne/core", Imports: []string{"sync", "os"}}}, locks...), "dongne/core imports os")
	wantCaught(t, impureCode("core.go", []byte(`package core
import ("fmt"; clock "time"; "math/rand/v2")
type Rand = rand.Rand
func f(r *rand.Rand, n interface{ Now() clock.Time }) {
	_ = n.Now().Add(clock.Second)
	_ = r.IntN(3)
	_ = rand.IntN(3)
	_ = clock.Now()
	sleep := clock.Sleep
	fmt.Println(fmt.Sprint(sleep))
	go f(r, n)
}`)), "core.go:7:6: rand.IntN", "core.go:8:6: clock.Now", "core.go:9:11: clock.Sleep", "core.go:10:2: fmt.Println", "core.go:11:2: a goroutine")
}

// requirements: go.mod requires these modules and no other directly.
func requirements(gomod string, want []string) (problems []string) {
	required := regexp.MustCompile(`(?m)^(?:require )?\s*([a-z0-9.-]+\.[a-z]+/\S+) v\S+(.*)$`)
	var got []string
	for _, m := range required.FindAllStringSubmatch(gomod, -1) {
		if strings.Contains(m[2], "// indirect") {
			continue
		}
		got = append(got, m[1])
		if !slices.Contains(want, m[1]) {
			problems = append(problems, "go.mod requires "+m[1])
		}
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			problems = append(problems, "go.mod does not require "+w)
		}
	}
	return problems
}

func TestRequirements(t *testing.T) {
	gomod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	report(t, requirements(string(gomod), directRequirements))
	wantCaught(t, requirements(`module m
require a.example/one v1.0.0
require (
	b.example/two v1.0.0
	c.example/three/v3 v3.0.0-pre+incompatible // indirect
)`, []string{"a.example/one", "d.example/four"}), "go.mod requires b.example/two", "does not require d.example/four")
}

// unwanted matches a path of somebody's machine and the host of a package
// registry; neither means anything to the next reader. It is put together so
// that it does not match itself.
var unwanted = regexp.MustCompile(`(^|[^\w.~-])/(work|root|home/[a-z]+|Users/[a-z]+|tmp)/` +
	`|proxy\.` + `golang\.org|sum\.` + `golang\.org|registry\.` + `npmjs\.org|deb\.` + `debian\.org|index\.` + `crates\.io|\bpypi\.` + `org`)

// places: no text names a machine's path or a registry's host.
func places(name string, text []byte) (problems []string) {
	if !utf8.Valid(text) {
		return nil // not a text
	}
	for i, line := range strings.Split(string(text), "\n") {
		if at := unwanted.FindString(line); at != "" {
			problems = append(problems, fmt.Sprintf("%s:%d: %q", name, i+1, at))
		}
	}
	return problems
}

func TestNoPlaces(t *testing.T) {
	tree := os.DirFS(".")
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && slices.Contains([]string{".git", "data"}, entry.Name()) {
			return fs.SkipDir
		}
		if !entry.Type().IsRegular() || name == ".git" { // of a work tree
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		report(t, places(name, text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	bad := strings.NewReplacer("@", "/", "$", ".").Replace("see @home@me@notes\nTMP=@tmp@x\nfrom proxy$golang$org\nfine: data@tmp@x https:@@a.example@work@ ~@home@me@x")
	wantCaught(t, places("notes", []byte(bad)), "notes:1", "notes:2", "notes:3")
}
