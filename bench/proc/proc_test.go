package proc

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestProcessGroupIsMeasuredAndEnds(t *testing.T) {
	// A shell and a child of it that ignores SIGTERM.
	p, err := Start(nil, "sh", "-c", `trap "" TERM; sleep 600 & i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done >&2; wait`)
	if err != nil {
		t.Fatal(err)
	}
	notYet := errors.New("not yet")
	err = p.Await(t.Context(), func() error {
		if cpu, err := p.CPU(); err != nil || cpu == 0 || !strings.Contains(p.output.String(), "done") {
			return errors.Join(notYet, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := p.Memory()
	if err != nil || m.PSS <= 0 || m.RSS < m.PSS {
		t.Errorf("Memory() = %+v, %v; want RSS ≥ PSS > 0", m, err)
	}
	if !p.alive() {
		t.Error("no process of the group runs before Stop")
	}
	syscall.Kill(p.cmd.Process.Pid, syscall.SIGKILL) // its child is left
	p.Stop()
	if p.alive() {
		t.Error("a process of the group still runs after Stop")
	}
}

func TestAwaitSaysWhyAProcessEnded(t *testing.T) {
	p, err := Start([]string{"WORD=sorry"}, "sh", "-c", "echo $WORD; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	err = p.Await(t.Context(), func() error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "exit status 3: sorry") {
		t.Errorf("Await: error %v, want one with the exit status and the output", err)
	}
	if _, err := p.CPU(); err == nil {
		t.Error("CPU() of a process that has ended: no error")
	}
}

func TestFlushesCountsSync(t *testing.T) {
	dir := t.TempDir()
	before, err := Flushes(dir)
	if err != nil {
		t.Skip(err) // a file system without a disk of its own
	}
	f, err := os.Create(dir + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	after, err := Flushes(dir)
	if err != nil || after <= before {
		t.Errorf("Flushes after a sync = %d, %v; want more than %d", after, err, before)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var out tail
	out.Write([]byte(strings.Repeat("a", outputKept)))
	out.Write([]byte("end"))
	if got := out.String(); len(got) != outputKept || !strings.HasSuffix(got, "aend") {
		t.Errorf("kept %d bytes ending in %q, want %d ending in \"aend\"", len(got), got[len(got)-4:], outputKept)
	}
}
