package servetest

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// Build builds the program whose tests run, and returns where it is.
func Build(t testing.TB) (binary string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "service")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// A Process is a built service on a free port, which a test kills and starts again. It is used by one goroutine at a time.
type Process struct {
	Binary string
	Env    []string // beside the test's own and PORT=0; the last one of a name counts
	Addr   string   // host:port of the last start

	cmd *exec.Cmd
}

// URL is where it listens, or did.
func (p *Process) URL() string { return "http://" + p.Addr }

// Start starts it and waits until it listens; it is killed at the test's end at the latest.
func (p *Process) Start(t testing.TB) {
	t.Helper()
	p.cmd = exec.Command(p.Binary)
	p.cmd.Env, p.cmd.Stderr = append(append(os.Environ(), "PORT=0"), p.Env...), os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	var line struct{ Msg, Addr string }
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" {
			p.Addr = line.Addr
			go io.Copy(io.Discard, out)
			return
		}
	}
	t.Fatal("the service ended before it listened")
}

// Kill ends it at once, as kill -9 does, and waits for that. One that does not run stays as it is.
func (p *Process) Kill() {
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Kill() // an error means that it has ended by itself
	p.cmd.Wait()
	p.cmd = nil
}

// Number reads a number from the environment: how often, or which luck. A test that uses it says so in its comment.
func Number(t testing.TB, name string, usual int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
