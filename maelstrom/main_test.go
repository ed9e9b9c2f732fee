package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// harness is the built program.
type harness struct{ path string }

func build(t *testing.T) harness {
	t.Helper()
	path := filepath.Join(t.TempDir(), "maelstrom")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return harness{path}
}

// outcome is what came of a command.
type outcome struct {
	code          int
	output, store string
	err           error // why it did not run
}

// run carries out a command in a new folder, with a new one for temporary files, which must be empty in the end.
func (h harness) run(dir string, args ...string) outcome {
	temporary := filepath.Join(dir, "tmp")
	if err := os.Mkdir(temporary, 0o755); err != nil {
		return outcome{err: err}
	}
	cmd := exec.Command(h.path, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR="+temporary)
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() >= 0 {
		err = nil
	}
	if left, _ := os.ReadDir(temporary); len(left) > 0 && err == nil {
		err = fmt.Errorf("it leaves %v", left)
	}
	return outcome{cmd.ProcessState.ExitCode(), string(out), filepath.Join(dir, "store"), err}
}

// want runs a command, expects an exit code, and looks for words in what it prints. It returns the store.
func (h harness) want(t *testing.T, code int, words []string, args ...string) string {
	t.Helper()
	o := h.run(t.TempDir(), args...)
	o.want(t, code, words, args)
	return o.store
}

func (o outcome) want(t *testing.T, code int, words, args []string) {
	t.Helper()
	if o.err != nil || o.code != code {
		t.Fatalf("%v: %v, exit code %d, want %d\n%s", args, o.err, o.code, code, o.output)
	}
	for _, word := range words {
		if !strings.Contains(o.output, word) {
			t.Errorf("%v: no %q in\n%s", args, word, o.output)
		}
	}
}

const atOnce = 8 // runs: they wait most of the time

// The built-in nodes as real processes are right, and mutants of them are not.
func TestRuns(t *testing.T) {
	t.Parallel()
	h := build(t)
	short := []string{"test", "--time-limit", "1", "--rate", "60", "--node-count", "3", "--recovery", "3"}
	mutant := func(name string) []string { return []string{"--bin", h.path, "--", "node", "mutant", name} }
	cases := []struct {
		name  string
		code  int
		words []string
		args  []string
	}{
		{"echo", exitValid, []string{"VALID", "Everything looks good!"}, []string{"-w", "echo"}},
		{"unique-ids", exitValid, []string{"VALID", "Note: the partitions dropped no message"}, []string{"--workload", "unique-ids", "--availability", "total", "--nemesis", "partition"}},
		{"broadcast", exitValid, []string{"VALID", "Waiting for recovery...", "stable-latencies", "start-partition: "},
			[]string{"-w", "broadcast", "--nemesis", "partition", "--recovery", "5"}},
		{"topology and kills", exitValid, []string{"VALID", "× kill", "kill: n"},
			[]string{"-w", "broadcast", "--topology", "line", "--nemesis", "kill", "--nemesis-interval", "0.7", "--nemesis-seed", "7", // n0, later n2
				"--time-limit", "2", "--recovery", "5"}},
		{"with --bin", exitValid, []string{"VALID"}, []string{"-w", "broadcast", "--bin", h.path, "--", "node", "broadcast", "--profile", "balanced"}},
		{"g-counter", exitValid, []string{"VALID", "start-partition: ", "final reads [", " reads stale"},
			[]string{"-w", "g-counter", "--nemesis", "partition,pause", "--nemesis-interval", "0.5", "--time-limit", "2", "--staleness", "1"}},
		{"pn-counter", exitValid, []string{"VALID", "kill: n"}, []string{"-w", "pn-counter", "--nemesis", "kill", "--nemesis-interval", "0.7",
			"--nemesis-seed", "7", "--time-limit", "2", "--", "--store", "lin-kv"}},
		{"fresh", exitValid, []string{"VALID"}, []string{"-w", "g-counter", "--staleness", "0", "--", "--staleness", "0s"}},
		{"bank", exitValid, []string{"VALID", "bank  ", " ends of holds done, ", "start-partition: ", "× pause"}, []string{"-w", "bank", "--nemesis", "partition,pause",
			"--nemesis-interval", "0.5", "--time-limit", "2"}},
		{"bank, killed", exitValid, []string{"VALID", "kill: n"}, []string{"-w", "bank", "--nemesis", "kill", "--nemesis-interval", "0.7",
			"--nemesis-seed", "7", "--time-limit", "2", "--", "--store", "lin-kv"}},
		{"two runs", exitValid, []string{"run 1 of 2", "run 2 of 2"}, []string{"-w", "echo", "--test-count", "2"}},
		{"log", exitValid, []string{`send {"id":0,"src":"c0","dest":"n0","body":{"msg_id":1,"node_id":"n0"`, `send {"id":1,"src":"n0","dest":"c0"`, `recv {"id":`},
			[]string{"-w", "echo", "--node-count", "1", "--log-net-send", "--log-net-recv"}},
		{"nothing done", exitUnknown, []string{"VACUOUS: there was no operation at all"}, []string{"-w", "echo", "--rate", "0"}},
		{"nothing cut", exitUnknown, []string{"VACUOUS: faults were wanted"}, []string{"-w", "unique-ids", "--node-count", "1", "--nemesis", "partition"}},

		{"duplicates", exitInvalid, []string{"INVALID", " copies of ", "Upstream's checkers would say true, ours say false"},
			append([]string{"-w", "broadcast"}, mutant("broadcast-twice")...)},
		{"duplicates, compat", exitValid, []string{"VALID", "Upstream's checkers would say true, ours say false"},
			append([]string{"-w", "broadcast", "--compat"}, mutant("broadcast-twice")...)},
		{"forgetful", exitInvalid, []string{"lacks 7 (acknowledged by"}, append([]string{"-w", "broadcast"}, mutant("broadcast-forgetful")...)},
		{"island", exitInvalid, []string{"final read at"}, append([]string{"-w", "broadcast"}, mutant("broadcast-island")...)},
		{"read, then write", exitInvalid, []string{"final read at", "and the sum of what was acknowledged is"},
			append([]string{"-w", "g-counter", "--rate", "200", "--concurrency", "4n"}, mutant("counter-read-then-write")...)},
		{"only up", exitInvalid, []string{"final read at"}, append([]string{"-w", "pn-counter"}, mutant("counter-only-up")...)},
		{"going back", exitInvalid, []string{"the counter went back from"}, append([]string{"-w", "g-counter", "--rate", "100"}, mutant("counter-back")...)},
		{"no keys", exitInvalid, []string{"INVALID\n  - "}, append([]string{"-w", "bank", "--rate", "300", "--concurrency", "3n"}, mutant("bank-keyless")...)},
		{"old reads", exitInvalid, []string{"no order of all operations explains what n"},
			append([]string{"-w", "bank", "--rate", "300", "--concurrency", "3n"}, mutant("bank-old-reads")...)},
		{"clock", exitInvalid, []string{" was given out "}, append([]string{"-w", "unique-ids", "--rate", "3000", "--concurrency", "8n"}, mutant("ids-clock")...)},
		{"chatty", exitInvalid, []string{`echo_ok has a member "debug" that the protocol does not know`}, append([]string{"-w", "echo"}, mutant("echo-chatty")...)},
		{"babbler", exitInvalid, []string{"printed a line on stdout that is no message: byte ", "\n    | "}, append([]string{"-w", "broadcast"}, mutant("broadcast-babbler")...)},
		{"quitter", exitInvalid, []string{"ended by itself: exit status"}, append([]string{"-w", "broadcast", "--rate", "150"}, mutant("broadcast-quitter")...)},
		{"quitter, compat", exitFailed, []string{"ended by itself: exit status"}, append([]string{"-w", "broadcast", "--rate", "150", "--compat"}, mutant("broadcast-quitter")...)},
		{"never ok", exitInvalid, []string{"\n  INVALID"}, // though it tested nothing
			[]string{"-w", "unique-ids", "--rate", "2", "--bin", h.path, "--", "node", "mutant", "echo-other"}},
		{"no node", exitFailed, []string{"does not start", "the process ended"}, []string{"-w", "echo", "--bin", h.path, "--", "nonsense"}},
	}
	outcomes := make([]outcome, len(cases))
	var running sync.WaitGroup
	turn := make(chan bool, atOnce)
	for i, c := range cases {
		dir := t.TempDir()
		running.Go(func() {
			turn <- true
			outcomes[i] = h.run(dir, append(short[:len(short):len(short)], c.args...)...)
			<-turn
		})
	}
	running.Wait()
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) { outcomes[i].want(t, c.code, c.words, c.args) })
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	h := build(t)
	for args, want := range map[string]string{
		"":                                      "usage: maelstrom COMMAND",
		"tset":                                  `there is no command "tset"`,
		"test":                                  `--workload "lin-kv" is not here yet; choose -w `,
		"test -w echo --rate x":                 "invalid value",
		"test -w echo --rate -1":                "--rate -1: not negative",
		"test -w echo --rate NaN":               "--rate NaN: not negative",
		"test -w echo --speed 1":                "flag provided but not defined: -speed",
		"test -w echo --node-count 0":           "--node-count 0: at least 1",
		"test -w echo --nodes a,a":              `"a" stands twice`,
		"test -w echo --nodes a,,b":             "a node's name is empty",
		"test -w echo --nodes c1":               `"c1" begins with c, as clients do`,
		"test -w echo --nodes-file nowhere":     "--nodes-file",
		"test -w echo --concurrency 0n":         `--concurrency "0n"`,
		"test -w echo --concurrency n":          `--concurrency "n"`,
		"test -w echo --time-limit 0":           "--time-limit 0: at least 1 second",
		"test -w echo --test-count 0":           "--test-count 0: at least 1",
		"test -w echo --latency -5":             "--latency -5: not negative",
		"test -w echo --latency-dist normal":    `--latency-dist "normal": constant, uniform or exponential`,
		"test -w echo --nemesis partition,loss": `--nemesis "loss": there are partition, kill, pause`,
		"test -w echo --nemesis-interval 0":     "--nemesis-interval 0: above 0",
		"test -w echo --topology ring":          `no topology "ring"`,
		"test -w echo --availability all":       `--availability "all": total, or a number from 0 to 1`,
		"test -w echo --recovery -1":            "--recovery -1",
		"test -w g-counter --staleness -1":      `--staleness "-1": a number of seconds`,
		"sim -w pn-counter --staleness soon":    `--staleness "soon"`,
		"test -w echo --bin nowhere":            "--bin: ",
		"sim -w broadcast --seeds 5-1":          `--seeds "5-1"`,
		"sim -w broadcast --nemesis fire":       `--nemesis "fire": there are partition, one-way`,
		"sim -w broadcast --mutant ids-clock":   `--mutant "ids-clock": none of the workload broadcast`,
		"node chess":                            `no node program "chess"`,
		"node mutant chess":                     `no node program "mutant chess"`,
		"serve --port x":                        "invalid value",
		"services -w mail":                      `workload "mail": there are chat, pay`,
		"services --nemesis flood":              `nemesis "flood"`,
		"services --time-limit 0":               "--time-limit 0: above 0",
		"services --bin nowhere":                "--bin: ",
	} {
		h.want(t, exitArguments, []string{want}, strings.Fields(args)...)
	}
	h.want(t, exitValid, []string{"-nemesis-interval SECONDS"}, "test", "-h")
	h.want(t, exitValid, []string{"usage: maelstrom COMMAND"}, "help")
	h.want(t, exitValid, []string{"broadcast-quitter"}, "node")
	h.want(t, exitValid, []string{"--no-ssh has no effect here"}, "test", "-w", "echo", "--no-ssh", "--time-limit", "1")
}

func TestSim(t *testing.T) {
	t.Parallel()
	h := build(t)
	h.want(t, exitValid, []string{"20 seeds: ", "0 invalid", "seeds a minute"}, "sim", "-w", "broadcast", "--seeds", "1-20", "--nemesis", "partition,kill,loss")
	store := h.want(t, exitInvalid, []string{"INVALID", "copies of", "replay: maelstrom sim -w broadcast --mutant broadcast-twice", "--seed 3"},
		"sim", "-w", "broadcast", "--seeds", "3-4", "--mutant", "broadcast-twice")
	h.want(t, exitValid, []string{"20 seeds: ", "0 invalid"}, "sim", "-w", "g-counter", "--seeds", "1-20", "--nemesis", "partition,kill,loss,stall,lost-reply",
		"--staleness", "1")
	h.want(t, exitInvalid, []string{"INVALID", "--mutant counter-retries", "--staleness 2"},
		"sim", "-w", "g-counter", "--seeds", "1-40", "--mutant", "counter-retries", "--nemesis", "lost-reply", "--staleness", "2")
	if runs, err := filepath.Glob(filepath.Join(store, "broadcast", "2*", "index.html")); len(runs) != 2 {
		t.Errorf("reports of failed seeds: %v, %v", runs, err)
	}
	var histories [2][]byte
	for i := range histories {
		store := h.want(t, exitValid, []string{"VALID", "simulated", "trace "}, "sim", "-w", "broadcast", "--seed", "9", "--nemesis", "partition,kill")
		var err error
		if histories[i], err = os.ReadFile(filepath.Join(store, "latest", "history.edn")); err != nil {
			t.Fatal(err)
		}
	}
	if len(histories[0]) == 0 || !bytes.Equal(histories[0], histories[1]) {
		t.Error("two runs of a seed have different histories")
	}
}

// Our chat, as processes of its own, under cut links and kills.
func TestServices(t *testing.T) {
	t.Parallel()
	h := build(t)
	chat := filepath.Join(t.TempDir(), "chat")
	if out, err := exec.Command("go", "build", "-o", chat, "dongne/chat").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	store := h.want(t, exitValid, []string{"VALID", "start-partition: n", "acknowledged", "processes-killed"},
		"services", "--bin", chat, "--time-limit", "3", "--nemesis", "partition,kill", "--nemesis-interval", "0.7", "--seed", "4")
	if text, err := os.ReadFile(filepath.Join(store, "chat", "latest", "index.html")); err != nil || !bytes.Contains(text, []byte("<title>chat: Passed</title>")) {
		t.Errorf("its report: %v, %.200s", err, text)
	}
	h.want(t, exitUnknown, []string{"VACUOUS: "}, // no kill, or not even a message
		"services", "--bin", chat, "--time-limit", "0.05", "--nemesis", "kill", "--nemesis-interval", "100")
}

// A run leaves its files, and they say what the console said.
func TestStore(t *testing.T) {
	t.Parallel()
	h := build(t)
	store := h.want(t, exitValid, nil, "test", "-w", "broadcast", "--time-limit", "1", "--rate", "50", "--recovery", "5", "--nemesis", "partition")
	for _, name := range []string{"results.edn", "results.json", "history.edn", "history.jsonl", "history.txt", "messages.svg", "latency.svg",
		"rate.svg", "timeline.html", "index.html", "jepsen.log", "node-logs/n1.log"} {
		if _, err := os.Stat(filepath.Join(store, "broadcast", "latest", name)); err != nil {
			t.Error(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(store, "latest", "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	var results struct {
		Valid bool `json:"valid?"`
		Stats struct {
			Count int `json:"count"`
		} `json:"stats"`
		Workload struct {
			Valid  bool `json:"valid?"`
			Stable int  `json:"stable-count"`
		} `json:"workload"`
	}
	if err := json.Unmarshal(text, &results); err != nil || !results.Valid || !results.Workload.Valid || results.Stats.Count < 20 || results.Workload.Stable < 5 {
		t.Errorf("results.json: %v, %+v", err, results)
	}
}

func TestServe(t *testing.T) {
	t.Parallel()
	h := build(t)
	store := h.want(t, exitValid, nil, "test", "-w", "echo", "--time-limit", "1")
	cmd := exec.CommandContext(t.Context(), h.path, "serve", "--port", "0", "--store", store)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_, address, _ := strings.Cut(line, "http://")
	address, _, _ = strings.Cut(address, " ")
	for path, want := range map[string]string{"/": "echo", "/latest/": "<title>echo: Passed</title>", "/latest/history.edn": ":f :echo"} {
		response, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s, %v, no %q in %.300s", path, response.Status, err, want, body)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("asked to end, serve ends with %v", err)
	}
}

// An interrupted run ends its nodes, and keeps what it has.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	h := build(t)
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), h.path, "test", "-w", "echo", "--log-net-recv", "--rate", "100", "--store", dir)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	// Of five clients one has then got a second answer, and so its first operation is complete.
	for answers := 0; answers < 6 && lines.Scan(); {
		if strings.Contains(lines.Text(), "recv ") && strings.Contains(lines.Text(), "echo_ok") {
			answers++
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitFailed {
		t.Errorf("interrupted, it ends with %v", err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "latest", "history.edn")); err != nil || !bytes.Contains(text, []byte(":type :ok")) {
		t.Errorf("its history: %v, %.200s", err, text)
	}
}
