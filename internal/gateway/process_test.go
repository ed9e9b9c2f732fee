package gateway

import (
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// childProgram builds the program under testdata/child.
func childProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "child")
	if out, err := exec.Command("go", "build", "-o", path, "./testdata/child").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// lineWriter hands every line that is written to it to the test.
type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

// started runs the program in the given mode and waits until it listens.
func started(t *testing.T, path, mode string) (Process, lineWriter) {
	t.Helper()
	lines := make(lineWriter, 100)
	out := NewLines(lines)
	listening := make(chan string, 2)
	tell := func(addr string) { listening <- addr }
	p, err := Exec(path, []string{"MODE=" + mode, "PORT=7"},
		NewRelay(out, "child", "INFO", noon, tell), NewRelay(out, "child", "ERROR", noon, nil))
	if err != nil {
		t.Fatal(err)
	}
	if addr := <-listening; addr != "127.0.0.1:7" {
		t.Errorf("it listens on %s", addr)
	}
	if line := <-lines; !strings.HasPrefix(line, `{"service":"child","msg":"listening"`) {
		t.Errorf("its first line is %q", line)
	}
	return p, lines
}

func TestProcess(t *testing.T) {
	path := childProgram(t)
	t.Run("polite", func(t *testing.T) {
		p, lines := started(t, path, "polite")
		if group, err := syscall.Getpgid(p.Pid()); group != p.Pid() || err != nil {
			t.Errorf("process %d is of group %d (%v), want one of its own", p.Pid(), group, err)
		}
		if err := p.Terminate(); err != nil {
			t.Error(err)
		}
		if err := p.Wait(); err != nil {
			t.Errorf("a clean end is %v", err)
		}
		const want = `{"service":"child","time":"2026-01-02T12:00:00Z","level":"ERROR","msg":"bye"}` + "\n"
		if line := <-lines; line != want { // a last line without an end, to stderr
			t.Errorf("its last line is %q, want %q", line, want)
		}
	})
	for _, mode := range []string{"stubborn", "parent"} {
		t.Run(mode, func(t *testing.T) {
			p, lines := started(t, path, mode)
			if mode == "parent" {
				<-lines // its child listens too
			}
			if err := p.Terminate(); err != nil {
				t.Error(err)
			}
			if line := <-lines; !strings.Contains(line, `"msg":"no"`) {
				t.Errorf("its answer to SIGTERM is %q", line)
			}
			if err := p.Kill(); err != nil {
				t.Error(err)
			}
			// With exec.ErrWaitDelay somebody else would still hold the output.
			var exit *exec.ExitError
			if err := p.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Errorf("it ended with %v, want a SIGKILL of the whole group", err)
			}
		})
	}
}

func TestExecWithoutProgram(t *testing.T) {
	out := NewLines(io.Discard)
	if _, err := Exec(filepath.Join(t.TempDir(), "none"), nil, NewRelay(out, "x", "", noon, nil), NewRelay(out, "x", "", noon, nil)); err == nil {
		t.Error("a program that is not there starts")
	}
}

// Without a toolchain or the source, the error names what to set.
func TestBuildNamesTheVariable(t *testing.T) {
	check := func(t *testing.T, module string) {
		t.Helper()
		err := Build(t.Context(), module, t.TempDir(), []string{"chat", "geo"})
		if err == nil || !strings.HasPrefix(err.Error(), "CHAT_URL, GEO_URL: not set") {
			t.Errorf("error is %v, want one that begins with the variables", err)
		}
	}
	t.Run("no source", func(t *testing.T) {
		t.Chdir(t.TempDir())
		check(t, "dongne")
	})
	t.Run("no toolchain", func(t *testing.T) {
		t.Setenv("PATH", "")
		check(t, "dongne")
	})
}
