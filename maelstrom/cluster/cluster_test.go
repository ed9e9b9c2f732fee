package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dongne/maelstrom/history"
	"dongne/maelstrom/interpreter"
	"dongne/maelstrom/network"
	"dongne/maelstrom/service"
	"dongne/maelstrom/workload"
)

// build compiles the node of testdata.
func build(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node")
	if out, err := exec.Command("go", "build", "-o", path, "./testdata/node").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// config is an echo run of two nodes that does 40 operations.
func config(t testing.TB, program, mode string) (Config, *lines) {
	t.Helper()
	load, err := workload.New("echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	log := &lines{}
	nodes := []string{"n0", "n1"}
	r := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(1, n)) }
	return Config{Program: program, Args: []string{mode}, Nodes: nodes, Dir: t.TempDir(), Log: log.add, Fault: func(time.Duration, *interpreter.Fault) {},
		Network: network.New(0, network.Constant, r(1)), Services: service.All(r(2), false),
		Interpreter: interpreter.Config{Workload: load, Nodes: nodes, Concurrency: 2, Rate: 100, TimeLimit: 400 * time.Millisecond,
			Timeout: 5 * time.Second, Interval: 100 * time.Millisecond, Rand: r(3), Faults: r(4)}}, log
}

type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, line)
}

func count(ops []history.Op, want history.Type) (n int) {
	for _, op := range ops {
		if op.Type == want && op.Process != history.Nemesis {
			n++
		}
	}
	return n
}

func TestRun(t *testing.T) {
	c, _ := config(t, build(t), "echo")
	var sent, taken, stderr lines
	c.Sent = func(m *network.Message) { sent.add(string(m.Body)) }
	c.Taken = func(m *network.Message) { taken.add(string(m.Body)) }
	c.Stderr = stderr.add
	statuses := 0
	c.Progress = func(s Status) { statuses++ }
	r, err := Run(t.Context(), c)
	if err != nil || len(r.Findings) > 0 {
		t.Fatalf("Run: %v, findings %+v", err, r.Findings)
	}
	asked := count(r.Ops, history.Invoke)
	if asked < 10 || count(r.Ops, history.OK) != asked {
		t.Errorf("%d operations, %d ok", asked, count(r.Ops, history.OK))
	}
	want := history.Count{Sent: 4 + 2*asked, Received: 4 + 2*asked} // two inits and their replies
	if r.Journal.All != want || r.Journal.Clients != want || len(sent.all) != want.Sent || len(taken.all) != want.Received {
		t.Errorf("journal %+v, told of %d sent and %d received; want %+v", r.Journal.All, len(sent.all), len(taken.all), want)
	}
	if r.Elapsed < c.Interpreter.TimeLimit || statuses == 0 || len(stderr.all) != 2 || !strings.HasPrefix(stderr.all[0], "n") {
		t.Errorf("elapsed %v, %d statuses, stderr %q", r.Elapsed, statuses, stderr.all)
	}
	for _, name := range c.Nodes {
		log, err := os.ReadFile(filepath.Join(c.Dir, "node-logs", name+".log"))
		if want := "started as " + name + "\n"; err != nil || string(log) != want {
			t.Errorf("log of %s: %q, %v, want %q", name, log, err, want)
		}
	}
}

// What nodes do wrong is found, named, and does not keep the rest of the run from going on.
func TestFindings(t *testing.T) {
	program := build(t)
	for mode, want := range map[string]struct {
		kind history.Kind
		text string
		ok   bool // operations still succeed
	}{
		"chatty":   {history.BadLine, `printed a line on stdout that is no message: byte 1: no JSON`, true},
		"impostor": {history.BadAddress, `n0 sent a message in the name of "n1"`, true}, // n1 itself is right
		"nobody":   {history.BadAddress, `sent a message to "n77", which does not exist`, true},
		"quits":    {history.Exited, "ended by itself: exit status 3", true},
	} {
		t.Run(mode, func(t *testing.T) {
			c, log := config(t, program, mode)
			c.Interpreter.Timeout = 100 * time.Millisecond
			r, err := Run(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Findings) == 0 || r.Findings[0].Kind != want.kind || !strings.Contains(r.Findings[0].Text, want.text) {
				t.Fatalf("findings %+v, want %s: %s", r.Findings, want.kind, want.text)
			}
			if len(r.Findings) > 4*findingsMax {
				t.Errorf("%d findings", len(r.Findings))
			}
			if ok := count(r.Ops, history.OK) > 2; ok != want.ok {
				t.Errorf("operations: %d ok", count(r.Ops, history.OK))
			}
			if mode == "quits" && !strings.Contains(strings.Join(r.Findings[0].Tail, "\n"), "stderr: giving up") {
				t.Errorf("tail %q does not say why", r.Findings[0].Tail)
			}
			if len(log.all) == 0 || !strings.Contains(log.all[0], want.text[:20]) {
				t.Errorf("log %q says nothing of it", log.all)
			}
		})
	}
}

// With Compat a node that prints a bad line is heard no more, as upstream does not read it any more.
func TestMuted(t *testing.T) {
	c, _ := config(t, build(t), "chatty")
	c.Compat = true
	c.Interpreter.Timeout = 100 * time.Millisecond
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if ok := count(r.Ops, history.OK); ok > 0 {
		t.Errorf("%d operations are ok, though both nodes were muted before their first answer", ok)
	}
}

// A reply to a client that has given up is noted. Upstream hears nothing of the node after it.
func TestLateReply(t *testing.T) {
	program := build(t)
	for _, compat := range []bool{false, true} {
		c, _ := config(t, program, "late")
		c.Compat = compat
		c.Interpreter.Timeout, c.Interpreter.TimeLimit = 50*time.Millisecond, time.Second
		r, err := Run(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		late := map[string]int{}
		for _, f := range r.Findings {
			if f.Kind != history.LateReply {
				t.Errorf("finding %+v", f)
			}
			late[f.Node]++
		}
		if heardOn := late["n0"] > 1 && late["n1"] > 1; len(late) != 2 || heardOn == compat {
			t.Errorf("compat %v: late replies %v", compat, late)
		}
		if count(r.Ops, history.Info) == 0 {
			t.Error("no operation timed out")
		}
	}
}

func TestDoesNotStart(t *testing.T) {
	program := build(t)
	for mode, want := range map[string][]string{
		"dies":    {"does not start: the process ended (exit status 1) before it answered init", "no configuration"},
		"refuses": {`answered init with {"code":10`},
	} {
		c, _ := config(t, program, mode)
		r, err := Run(t.Context(), c)
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %v, want one with %q", mode, err, w)
			}
		}
		if r == nil {
			t.Errorf("%s: nothing of the run is returned", mode)
		}
	}
	c, _ := config(t, filepath.Join(t.TempDir(), "nowhere"), "echo")
	if _, err := Run(t.Context(), c); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a program that does not exist: %v", err)
	}
}

func TestInterrupted(t *testing.T) {
	c, _ := config(t, build(t), "echo")
	c.Interpreter.TimeLimit = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	seen := 0
	c.Taken = func(*network.Message) {
		if seen++; seen == 20 {
			cancel()
		}
	}
	if _, err := Run(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v", err)
	}
}

// A killed node finds again what it wrote, is told init anew, and serves; a paused one goes on.
func TestKillAndPause(t *testing.T) {
	c, _ := config(t, build(t), "remember")
	c.Interpreter.Kinds, c.Interpreter.TimeLimit, c.Interpreter.Timeout = []string{"kill", "pause"}, 2*time.Second, time.Second
	r, err := Run(t.Context(), c)
	if err != nil || len(r.Findings) > 0 && r.Findings[0].Kind != history.LateReply {
		t.Fatalf("Run: %v, findings %+v", err, r.Findings)
	}
	last, kills, answers := map[string]int{}, 0, 0
	for _, op := range r.Ops {
		switch {
		case op.F == "kill" && op.Value != nil:
			kills++
		case op.Type == history.OK:
			answers++
			var body struct{ Echo string }
			if err := json.Unmarshal(op.Value, &body); err != nil {
				t.Fatal(err)
			}
			var n int
			fmt.Sscan(body.Echo, &n)
			if n <= last[op.Node] {
				t.Errorf("%s counts %d after %d: its folder was lost", op.Node, n, last[op.Node])
			}
			last[op.Node] = n
		}
	}
	if kills == 0 || answers < 10 {
		t.Errorf("%d kills, %d answers", kills, answers)
	}
}

func TestProgram(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir: "is a directory", script: "may not be executed", script + "2": "no such file"} {
		if _, err := Program(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Program(%s) = %v, want %q", filepath.Base(path), err, want)
		}
	}
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(script, link); err != nil {
		t.Fatal(err)
	}
	got, err := Program(link)
	if real, _ := filepath.EvalSymlinks(script); err != nil || got != real {
		t.Errorf("Program of a link = %s, %v, want %s", got, err, real)
	}
}

func TestLines(t *testing.T) {
	long := strings.Repeat("x", 200<<10)
	var got []string
	readLines(strings.NewReader("a\r\n\n"+long+"\nlast"), func(line []byte, whole bool) {
		if got = append(got, string(line)); whole != (len(got) < 4) {
			t.Errorf("line %d: whole %v", len(got), whole)
		}
	})
	if len(got) != 4 || got[0] != "a" || got[1] != "" || got[2] != long || got[3] != "last" {
		t.Errorf("%d lines, %.10q", len(got), got)
	}
	var kept tail
	for i := range 100 {
		kept.add(fmt.Appendf(nil, "line %d", i))
	}
	if all := kept.lines(); len(all) != tailLines || all[0] != "line 68" || all[31] != "line 99" {
		t.Errorf("the tail is %q", all)
	}
}

// BenchmarkMessages is the process network at its limit: nodes that send back what they get, as fast as they can.
func BenchmarkMessages(b *testing.B) {
	program := build(b)
	for _, nodes := range []int{2, 5} {
		b.Run(fmt.Sprintf("%dnodes", nodes), func(b *testing.B) {
			var messages int
			var elapsed time.Duration
			for b.Loop() {
				c, _ := config(b, program, "relay")
				c.Nodes = nil
				for i := range nodes {
					c.Nodes = append(c.Nodes, fmt.Sprintf("n%d", i))
				}
				c.Interpreter.Nodes, c.Interpreter.Rate, c.Interpreter.TimeLimit = c.Nodes, 0, 2*time.Second
				r, err := Run(b.Context(), c)
				if err != nil || len(r.Findings) > 0 {
					b.Fatal(err, r.Findings)
				}
				messages += r.Journal.All.Received
				elapsed += r.Elapsed
			}
			b.ReportMetric(float64(messages)/elapsed.Seconds(), "messages/s")
		})
	}
}
