package serve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// childEnv makes the test binary a service: see TestMain.
const childEnv = "DONGNE_SERVE_TEST_CHILD"

// childMain is a real service's main: one route that never ends, whatever is asked of it.
func childMain() {
	Main("child: a service for tests", []Var{{"PORT", "0", ""}}, func(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
		return Run(ctx, getenv, stdout, Service{Name: "child", Routes: map[string]Handler{
			"GET /stuck": func(w http.ResponseWriter, r *http.Request) error {
				Logger(r.Context()).Info("stuck")
				select {}
			},
		}})
	})
}

// child is such a process.
type child struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr bytes.Buffer
}

func startChild(t *testing.T, args []string, environ ...string) *child {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	c := &child{cmd: exec.CommandContext(ctx, os.Args[0], args...)}
	c.cmd.Env = append(append(os.Environ(), childEnv+"=1", "DATA_DIR="+t.TempDir()), environ...)
	c.cmd.Stderr = &c.stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdout = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// await reads the log up to the line with msg.
func (c *child) await(t *testing.T, msg string) map[string]any {
	t.Helper()
	for {
		text, err := c.stdout.ReadBytes('\n')
		if err != nil {
			t.Fatalf("child ended before %q: %v; stderr %q", msg, err, c.stderr.String())
		}
		var line map[string]any
		if err := json.Unmarshal(text, &line); err != nil {
			t.Fatalf("not a JSON line: %q", text)
		}
		if line["msg"] == msg {
			return line
		}
	}
}

func (c *child) signal(t *testing.T, sig os.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// wait returns the exit code.
func (c *child) wait(t *testing.T) int {
	t.Helper()
	io.Copy(io.Discard, c.stdout)
	err := c.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return c.cmd.ProcessState.ExitCode()
}

func TestProcessEndsAtSignal(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		c := startChild(t, nil)
		url := c.await(t, "listening")["url"].(string)
		if resp, _ := do(t, "GET", url+"/health", ""); resp.StatusCode != 200 {
			t.Errorf("health = %d", resp.StatusCode)
		}
		c.signal(t, sig)
		if code := c.wait(t); code != 0 || c.stderr.Len() > 0 {
			t.Errorf("after %v: exit code %d, stderr %q; want 0 and nothing", sig, code, c.stderr.String())
		}
	}
}

func TestProcessEndsAtOnceAtSecondSignal(t *testing.T) {
	c := startChild(t, nil)
	url := c.await(t, "listening")["url"].(string)
	go http.Get(url + "/stuck") // its error is the process's end
	c.await(t, "stuck")
	c.signal(t, syscall.SIGTERM)
	c.await(t, "draining")
	second := time.Now()
	c.signal(t, syscall.SIGTERM)
	if code := c.wait(t); code != 1 || !strings.Contains(c.stderr.String(), "second signal") {
		t.Errorf("exit code %d, stderr %q; want 1 and the reason", code, c.stderr.String())
	}
	if took := time.Since(second); took > defaultLimits.drain/2 {
		t.Errorf("the second signal took %v: the drain was waited out", took)
	}
}

func TestProcessRefusesBadVariable(t *testing.T) {
	c := startChild(t, nil, "PORT=http")
	if code := c.wait(t); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if got := c.stderr.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `PORT="http"`) {
		t.Errorf("stderr = %q, want one line with PORT and its value", got)
	}
}
