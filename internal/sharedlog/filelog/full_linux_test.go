package filelog_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/filelog"
)

// A disk of 3 MiB fills: the create that finds no space is refused, reads go on, and with space writes go on.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err != nil {
		t.Skipf("cannot mount a small tmpfs (%v); run as root to test a full disk for real: go test -run TestFullDisk -exec sudo ./internal/sharedlog/filelog", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, 0) })
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	log, _ := open(t, dir, filelog.Options{})
	fill := func() (refused uint64) {
		for slot := log.Tail() + 1; ; slot++ {
			switch outcome, err := log.Create(t.Context(), slot, record(slot)); {
			case outcome == sharedlog.NotApplied && errors.Is(err, sharedlog.ErrFull):
				return slot
			case outcome != sharedlog.Created:
				t.Fatalf("Create(%d) = %v, %v", slot, outcome, err)
			}
		}
	}
	first := fill()
	if data, err := log.Get(t.Context(), first-1); err != nil || !bytes.Equal(data, record(first-1)) {
		t.Fatalf("Get on a full disk: %v", err)
	}
	if second := fill(); second != first {
		t.Fatalf("slot %d created on a full disk", first)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if second := fill(); second <= first {
		t.Fatal("no slot created with space again")
	}
	tail := log.Tail()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	again, report := open(t, dir, filelog.Options{})
	if again.Tail() != tail || report.Cut.Bytes != 0 {
		t.Fatalf("%v after a full disk, want tail %d and nothing cut", report, tail)
	}
	again.Close()
}
