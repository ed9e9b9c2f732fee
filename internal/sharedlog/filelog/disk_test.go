package filelog_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/filelog"
)

func open(t *testing.T, dir string, options filelog.Options) (*filelog.Log, filelog.Report) {
	t.Helper()
	log, report, err := filelog.Open(dir, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return log, report
}

func TestOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for round := range 3 {
		log, report := open(t, dir, filelog.Options{SegmentBytes: 1 << 16})
		if want := uint64(round * 1000); log.Tail() != want || log.First() != 1 || report.Tail != want || report.Cut.Bytes != 0 {
			t.Fatalf("round %d: tail %d, report %v; want %d", round, log.Tail(), report, want)
		}
		for range 1000 {
			slot := log.Tail() + 1
			if outcome, err := log.Create(t.Context(), slot, record(slot)); outcome != sharedlog.Created {
				t.Fatal(outcome, err)
			}
		}
		if outcome, err := log.Create(t.Context(), log.Tail()+2, []byte("gap")); outcome != sharedlog.NotApplied || err == nil {
			t.Fatalf("Create beyond the next slot = %v, %v", outcome, err)
		}
		for slot := uint64(1); slot <= log.Tail(); slot++ {
			if data, err := log.Get(t.Context(), slot); err != nil || !bytes.Equal(data, record(slot)) {
				t.Fatalf("Get(%d): %v", slot, err)
			}
		}
		if _, err := log.Get(t.Context(), log.Tail()+1); !errors.Is(err, sharedlog.ErrAbsent) {
			t.Fatalf("Get beyond the tail: %v", err)
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := log.Create(t.Context(), log.Tail()+1, []byte("x")); !errors.Is(err, sharedlog.ErrClosed) {
			t.Fatalf("Create after Close: %v", err)
		}
	}
}

// record is the content of a slot, of a length and bytes that the slot determines.
func record(slot uint64) []byte {
	c := rand.New(rand.NewPCG(slot, 7))
	data := make([]byte, 8+c.IntN(700))
	for i := range data {
		data[i] = byte(c.Uint32())
	}
	binary.LittleEndian.PutUint64(data, slot)
	return data
}

func TestReadAtWhileWriting(t *testing.T) {
	log, _ := open(t, t.TempDir(), filelog.Options{SegmentBytes: 1 << 16})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for reader := range 4 {
		wg.Go(func() {
			c := rand.New(rand.NewPCG(uint64(reader), 8))
			for reads := 0; ctx.Err() == nil || reads < 100; reads++ {
				tail := log.Tail()
				if tail == 0 {
					continue
				}
				slot := 1 + c.Uint64N(tail)
				want := record(slot)
				from := c.IntN(len(want) + 1)
				length := c.IntN(len(want) - from + 1)
				got, err := log.ReadAt(slot, from, length)
				if err != nil || !bytes.Equal(got, want[from:from+length]) {
					t.Errorf("ReadAt(%d, %d, %d): %v", slot, from, length, err)
					return
				}
			}
		})
	}
	for slot := uint64(1); slot <= 500; slot++ {
		if outcome, err := log.Create(t.Context(), slot, record(slot)); outcome != sharedlog.Created {
			t.Error(outcome, err)
			break
		}
	}
	stop()
	wg.Wait()
	size := len(record(1))
	for _, bad := range [][2]int{{-1, 1}, {0, -1}, {0, size + 1}, {size, 1}, {int(^uint(0) >> 1), 1}} {
		if _, err := log.ReadAt(1, bad[0], bad[1]); err == nil {
			t.Errorf("ReadAt(1, %d, %d) of %d bytes succeeded", bad[0], bad[1], size)
		}
	}
	if _, err := log.ReadAt(501, 0, 0); !errors.Is(err, sharedlog.ErrAbsent) {
		t.Errorf("ReadAt beyond the tail: %v", err)
	}
}

const (
	writerEnv     = "DONGNE_FILELOG_WRITER"
	writerKindEnv = "DONGNE_FILELOG_WRITER_KIND"
)

// TestKilledWriter kills a process that writes, in the middle of it, again and again: what it acknowledged is there, one
// more slot at most, whole; and while it lived it kept others out. DONGNE_KILLS sets the rounds.
func TestKilledWriter(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	if s := os.Getenv("DONGNE_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("DONGNE_KILLS: %v", err)
		}
		rounds = n
	}
	slots, underWay, err := killRounds(t, rounds, "honest")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d kills, %d slots; %d times the last write was under way", rounds, slots, underWay)
}

// The mutant acknowledges slots some time before it writes them.
func TestKilledWriterCatches(t *testing.T) {
	_, _, err := killRounds(t, 10, "hasty")
	if err == nil {
		t.Fatal("not caught")
	}
	t.Log(err)
}

// killRounds kills a writer so many times and returns how many slots there are in the end, how often a create was under
// way, and the first thing wrong.
func killRounds(t *testing.T, rounds int, kind string) (slots uint64, underWay int, err error) {
	dir := t.TempDir()
	chance := rand.New(rand.NewPCG(1, 9))
	for round := range rounds {
		tail := killWriter(t, dir, kind, slots, chance.IntN(200))
		log, report := open(t, dir, writerOptions)
		if log.Tail() < tail || log.Tail() > tail+1 {
			return 0, 0, fmt.Errorf("round %d: the writer acknowledged slot %d, the tail is %d (%v)", round, tail, log.Tail(), report)
		}
		if log.Tail() > tail || report.Cut.Bytes > 0 {
			underWay++
		}
		for slot := slots + 1; slot <= log.Tail(); slot++ {
			if data, err := log.Get(t.Context(), slot); err != nil || !bytes.Equal(data, record(slot)) {
				return 0, 0, fmt.Errorf("round %d: Get(%d): %v", round, slot, err)
			}
		}
		slots = log.Tail()
		log.Close()
	}
	return slots, underWay, nil
}

var writerOptions = filelog.Options{SegmentBytes: 1 << 18}

// TestMain is the other process when it is told to be.
func TestMain(m *testing.M) {
	if dir := os.Getenv(writerEnv); dir != "" {
		writeUntilKilled(dir, os.Getenv(writerKindEnv))
	}
	os.Exit(m.Run())
}

// writeUntilKilled appends slots and prints the number of each once it is acknowledged.
func writeUntilKilled(dir, kind string) {
	log, _, err := filelog.Open(dir, writerOptions)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for slot := log.Tail() + 1; ; slot++ {
		if kind == "hasty" {
			fmt.Println(slot)
			if slot%50 > 0 {
				continue
			}
		}
		for next := log.Tail() + 1; next <= slot; next++ {
			if outcome, err := log.Create(context.Background(), next, record(next)); outcome != sharedlog.Created {
				fmt.Println(outcome, err)
				os.Exit(1)
			}
		}
		if kind != "hasty" {
			fmt.Println(slot)
		}
	}
}

// killWriter runs the other process, kills it after it acknowledged so many slots, and returns the last one.
func killWriter(t *testing.T, dir, kind string, tail uint64, acks int) uint64 {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerEnv+"="+dir, writerKindEnv+"="+kind)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for i := 0; lines.Scan(); i++ {
		slot, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil || slot != tail+1 {
			cmd.Process.Kill()
			t.Fatalf("writer said %q after slot %d", lines.Text(), tail)
		}
		tail = slot
		if i == 0 {
			if _, _, err := filelog.Open(dir, writerOptions); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", cmd.Process.Pid)) {
				t.Errorf("a second process opened the log, or was not told of process %d: %v", cmd.Process.Pid, err)
			}
		}
		if i == acks {
			cmd.Process.Kill()
		}
	}
	io.Copy(io.Discard, out)
	cmd.Wait()
	return tail
}
