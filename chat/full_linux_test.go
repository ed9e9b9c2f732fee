package main

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestFullDisk: on a disk without space a message is refused with 507 and nothing of it stays; with space again, writing
// goes on where it was.
func TestFullDisk(t *testing.T) {
	c := start(t, "n1")
	c.stop("n1")
	m := c.nodes["n1"]
	m.dir = t.TempDir()
	if err := syscall.Mount("tmpfs", m.dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("mounting a small tmpfs: %v (run the test as root)", err)
	}
	t.Cleanup(func() {
		c.stop("n1")
		if err := syscall.Unmount(m.dir, 0); err != nil {
			t.Error(err)
		}
	})
	filler := filepath.Join(m.dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	m.server = httptest.NewUnstartedServer(nil)
	c.open("n1")
	ana := c.as("ana", "n1")
	id := ana.create("group", "bo")
	path := "/rooms/" + id.String() + "/messages"
	kept := 0
	var full answer
	for ; full.status == 0; kept++ {
		body := map[string]any{"text": fmt.Sprint(kept, " ", strings.Repeat("x", 8000))}
		if a := ana.do("POST", path, body, "Idempotency-Key", fmt.Sprint(kept)); a.status != 201 {
			full = a
			break
		}
	}
	full.want(507, "disk-full")
	ana.do("GET", path, nil).want(200, "")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	again := ana.do("POST", path, map[string]any{"text": fmt.Sprint(kept, " ", strings.Repeat("x", 8000))}, "Idempotency-Key", fmt.Sprint(kept)).want(201, "")
	if again.header.Get("Idempotency-Replayed") != "" {
		t.Error("the refused message was there all the same")
	}
	for i, m := range settled(ana, id) {
		if !strings.HasPrefix(m.Text, fmt.Sprint(i, " ")) {
			t.Fatalf("history[%d] = %.20q…", i, m.Text)
		}
	}
	if n := len(settled(ana, id)); n != kept+1 {
		t.Errorf("%d messages in the history, want %d", n, kept+1)
	}
}
