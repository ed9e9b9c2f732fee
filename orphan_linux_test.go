package main

import (
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// prSetChildSubreaper is PR_SET_CHILD_SUBREAPER of prctl(2): orphans below this
// process become its children, so that it can wait for their end.
const prSetChildSubreaper = 36

// A gateway that is killed cannot end its services; the kernel does.
func TestNoOrphans(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dongne")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0); errno != 0 {
		t.Fatal(errno)
	}
	defer syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 0, 0)

	p := start(t, path)
	child := p.line("gateway", "service started")
	p.url()
	if code := p.end(syscall.SIGKILL); code != -1 {
		t.Errorf("exit code %d of a killed gateway", code)
	}
	ended := make(chan error)
	go func() {
		_, err := syscall.Wait4(child.Pid, nil, 0, nil)
		ended <- err
	}()
	select {
	case err := <-ended:
		// ECHILD: a thread of the gateway outlived the one that the service was
		// tied to for long enough to collect it.
		if err != nil && (err != syscall.ECHILD || syscall.Kill(child.Pid, 0) != syscall.ESRCH) {
			t.Errorf("waiting for the service: %v", err)
		}
	case <-time.After(patience):
		syscall.Kill(child.Pid, syscall.SIGKILL)
		t.Error("the service outlives its gateway")
	}
}
