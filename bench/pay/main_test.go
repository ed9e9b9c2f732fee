package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dongne/bench/proc"
	"dongne/bench/report"
)

func TestMain(m *testing.M) {
	servePeer()
	code := m.Run()
	os.RemoveAll(programs)
	os.Exit(code)
}

// programs is the folder of what the tests have built.
var programs string

// findAll finds the systems once for all tests.
var findAll = sync.OnceValues(func() ([]system, error) {
	var err error
	if programs, err = os.MkdirTemp("", "dongne-bench-test-"); err != nil {
		return nil, err
	}
	return findSystems(context.Background(), programs)
})

var tiny = options{seconds: 0.1, warm: 0.1, rounds: 1, accounts: 20, clients: []int{1, 16, 64}, batchers: 2, items: []int{5, 50}, seed: 1,
	calm: 200 * time.Millisecond, transfers: 3000, recovered: 3000}

func TestMeasurePrintsEveryFigure(t *testing.T) {
	all, err := findAll()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := measure(t.Context(), tiny, all, t.TempDir(), &out); err != nil {
		t.Fatalf("measure: %v\n%s", err, &out)
	}
	for _, want := range []string{"hot, 64 clients ÷ procedure: ", "hot, 64 clients ÷ sets of 64: ", "uniform, 16 clients ÷ procedure: ",
		"uniform, 16 clients ÷ bbolt's Batch: ", "one client ÷ the disk's own rate: ", "hot ÷ uniform, 64 clients: ",
		"on etcd: hot, 64 clients ÷ naive CAS: ", "batches of 50 items ÷ sets of 64, single transfers: ",
		"replays per second: ", "write + fdatasync/s"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("measure printed no %q", want)
		}
	}
	for _, sys := range all {
		if sys.absent != "" && os.Getenv("CI") != "" {
			t.Errorf("%s is %s", sys.name, sys.absent)
		}
	}
	if strings.Contains(out.String(), "failed") {
		t.Errorf("a system failed:\n%s", &out)
	}
}

// memorySystem is an engine in memory as a system.
func memorySystem(t *testing.T, spoil string) system {
	return system{name: "memory", ours: true, batches: true, storms: true,
		start: func(_ context.Context, _ string, accounts int, opening int64) (*server, error) {
			m := newMemory(accounts, opening)
			m.spoil = spoil
			return memoryServer(t, m), nil
		}}
}

func TestMeasurementsCatch(t *testing.T) {
	for spoil, want := range map[string]string{
		"":              "",
		"loses":         "its acknowledged transfers make",
		"mints":         "its acknowledged transfers make",
		"hides replays": `replayed ""`,
		"pays again":    "replays had effects",
		"forgets keys":  `replayed ""`,
	} {
		t.Run(spoil, func(t *testing.T) {
			o := tiny
			o.seconds, o.clients, o.calm = 0.05, []int{1, 8}, 50*time.Millisecond
			result, err := measureSystem(t.Context(), memorySystem(t, spoil), o)
			if want == "" && (err != nil || len(result) != 7) {
				t.Errorf("measureSystem: %d figures, error %v; want 7", len(result), err)
			}
			if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("measureSystem: error %v, want one with %q", err, want)
			}
			for c, f := range result {
				if want == "" && (f.perSecond <= 0 || f.p50 <= 0 || f.p99 < f.p50) {
					t.Errorf("%+v: figures %+v are not possible", c, f)
				}
			}
		})
	}
}

func TestGoalsAreOursOverThePeers(t *testing.T) {
	rates := func(hot16, hot64, uniform1, uniform16, uniform64, batch float64) []measured {
		m := measured{}
		for c, rate := range map[cell]float64{{hotPart, 16}: hot16, {hotPart, 64}: hot64, {uniformPart, 1}: uniform1,
			{uniformPart, 16}: uniform16, {uniformPart, 64}: uniform64, {"batches of 1000", 64}: batch, {stormPart, 64}: 60_000} {
			m[c] = figures{perSecond: rate}
		}
		return []measured{m}
	}
	var out strings.Builder
	b := benchmark{Report: report.Report{Out: &out}, options: options{batchers: 64, items: []int{100, 1000}}, raw: []float64{1000}, results: map[string][]measured{
		oursName:      rates(0, 40, 500, 70, 80, 900),
		procedureName: rates(0, 2, 0, 7, 10, 0),
		combinerName:  rates(0, 10, 0, 0, 30, 100),
		boltBatchName: rates(0, 0, 0, 35, 20, 0),
		oursEtcdName:  rates(0, 330, 0, 0, 0, 0),
		casName:       rates(0, 3, 0, 0, 0, 0),
	}}
	b.noteGoals()
	b.PrintGoals()
	for _, want := range []string{"hot, 64 clients ÷ procedure: 20.00 (", "hot, 64 clients ÷ sets of 64: 4.00 (",
		"uniform, 16 clients ÷ procedure: 10.00 (", "uniform, 64 clients ÷ procedure: 8.00 (",
		"uniform, 16 clients ÷ bbolt's Batch: 2.00 (", "uniform, 64 clients ÷ bbolt's Batch: 4.00 (",
		"one client ÷ the disk's own rate: 0.50 (goal ≥ 0.70: missed)", "hot ÷ uniform, 64 clients: 0.50 (",
		"on etcd: hot, 64 clients ÷ naive CAS: 110.00 (goal ≥ 100.00: met)",
		"items ÷ sets of 64, single transfers: 30.00 (", "items ÷ the same of PostgreSQL: 9.00 (",
		"replays per second: 60000.00 (goal ≥ 30000.00: met)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the goals have no %q:\n%s", want, &out)
		}
	}
}

func TestMemoryAndRecovery(t *testing.T) {
	if _, err := findAll(); err != nil { // makes the folder
		t.Fatal(err)
	}
	program, err := proc.Build(t.Context(), programs, "dongne/pay")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := measureMemory(t.Context(), program, tiny, &out); err != nil {
		t.Fatalf("measureMemory: %v\n%s", err, &out)
	}
	for _, want := range []string{"21 accounts in ", "3,000 transfers in ", "3,000 transfers, kill -9: ready after ", "in all: PSS ",
		"stopped, with a snapshot, in "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("measureMemory printed no %q:\n%s", want, &out)
		}
	}
}

func TestFilesOfSeesEveryChange(t *testing.T) {
	dir := t.TempDir()
	list := func() string {
		t.Helper()
		text, err := filesOf(dir)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "profiles"), 0o700); err != nil {
		t.Fatal(err)
	}
	empty := list()
	write("log", "one")
	one := list()
	if err := os.Chtimes(filepath.Join(dir, "log"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	touched := list()
	write("profiles/cpu", "x")
	if one == empty || touched == one || list() != touched {
		t.Errorf("the lists are %q, %q, %q and %q", empty, one, touched, list())
	}
	if n, err := diskBytes(dir); n != 4 || err != nil {
		t.Errorf("diskBytes = %d, %v; want 4", n, err)
	}
	if !strings.Contains(one, fmt.Sprintf("%s 3 ", filepath.Join(dir, "log"))) {
		t.Errorf("the list is %q, want the name and the size", one)
	}
}
