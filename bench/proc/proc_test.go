package proc

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
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

func TestDescendantsWithGroupsOfTheirOwnAreMeasured(t *testing.T) {
	file := t.TempDir() + "/written"
	p, err := Start([]string{"FILE=" + file}, "sh", "-c",
		`setsid sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; head -c 1000000 /dev/zero >$FILE.part; mv $FILE.part $FILE; sleep 600' & wait`)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	if err := p.Await(t.Context(), func() error { _, err := os.Stat(file); return err }); err != nil {
		t.Fatal(err)
	}
	if cpu, err := p.CPU(); err != nil || cpu < 2*time.Second/clockTicks {
		t.Errorf("CPU() = %v, %v; want the grandchild's time, at least 20 ms", cpu, err)
	}
	found := 0
	p.each(func(string, []string) error { found++; return nil })
	if found != 3 {
		t.Errorf("%d processes were found, want the shell, its child and the sleep", found)
	}
	for _, pid := range grandchildren(p) {
		syscall.Kill(pid, syscall.SIGKILL) // Stop reaches only the group
	}
}

// grandchildren are the processes of p that are not in its group.
func grandchildren(p *Process) (pids []int) {
	p.each(func(dir string, fields []string) error {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && fields[2] != strconv.Itoa(p.cmd.Process.Pid) {
			pids = append(pids, pid)
		}
		return err
	})
	return pids
}

func TestWrittenCountsWhatIsWritten(t *testing.T) {
	dir := t.TempDir()
	p, err := Start([]string{"DIR=" + dir}, "sh", "-c", // a shell of its own writes with a builtin
		`x=$(printf %065536d 0); printf %s "$x" >$DIR/a; echo >$DIR/one; while [ ! -e $DIR/go ]; do sleep 0.01; done; `+
			`printf %s "$x" >$DIR/b; echo >$DIR/two; sleep 600`)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	written := func(mark string) int {
		if err := p.Await(t.Context(), func() error { _, err := os.Stat(dir + "/" + mark); return err }); err != nil {
			t.Fatal(err)
		}
		n, err := p.Written()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := written("one")
	if err := os.WriteFile(dir+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if after := written("two"); after-before < 65536 && after != 0 { // 0: a file system without a disk of its own
		t.Errorf("Written() grew by %d bytes, want at least 65,536", after-before)
	}
}

func TestRawSyncs(t *testing.T) {
	rate, err := RawSyncs(t.Context(), t.TempDir(), 20*time.Millisecond)
	if err != nil || rate <= 0 {
		t.Errorf("RawSyncs() = %v, %v; want more than 0 per second", rate, err)
	}
}

func TestInstalledFindsTheVersion(t *testing.T) {
	path, version, err := Installed("go", "version")
	if err != nil || path == "" || !strings.HasPrefix("go"+version, runtime.Version()) {
		t.Errorf("Installed(go) = %q, %q, %v; want %s", path, version, err, runtime.Version())
	}
	if _, _, err := Installed("no-such-program", "-v"); err == nil {
		t.Error("Installed(no-such-program): no error")
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
