package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"
)

// The harness with nodes in other languages, and its reports in a browser. These tests wait most of the time, so they do it
// together.

const examples = "../maelstrom/examples"

// A trial is one run of the harness.
type trial struct {
	name string
	bin  string
	args []string // of test
	code int
	says []string // words of its output
}

// try carries out all trials at once, as they wait most of the time, and looks at what they say. It returns the folders
// of their reports below the store, "" where there is none.
func try(t *testing.T, harness, store string, trials ...trial) (reports []string) {
	t.Helper()
	outputs := make([]string, len(trials))
	codes := make([]int, len(trials))
	var running sync.WaitGroup
	for i, tr := range trials {
		running.Go(func() {
			args := append([]string{"test", "--store", store, "--bin", tr.bin}, tr.args...)
			cmd := exec.Command(harness, args...)
			cmd.Env = append(os.Environ(), "PYTHONUNBUFFERED=") // or a node that does not flush would be right
			out, err := cmd.CombinedOutput()
			outputs[i], codes[i] = string(out), 0
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				codes[i] = exit.ExitCode()
			} else if err != nil {
				outputs[i], codes[i] = err.Error(), -1
			}
		})
	}
	running.Wait()
	for i, tr := range trials {
		t.Run(tr.name, func(t *testing.T) {
			if codes[i] != tr.code {
				t.Fatalf("exit code %d, want %d\n%s", codes[i], tr.code, outputs[i])
			}
			for _, words := range tr.says {
				if !strings.Contains(outputs[i], words) {
					t.Errorf("no %q in\n%s", words, outputs[i])
				}
			}
		})
		_, report, _ := strings.Cut(outputs[i], "Report: "+store+"/")
		report, _, _ = strings.Cut(report, "index.html\n")
		reports = append(reports, report)
	}
	return reports
}

// Nodes as a learner writes them, in two languages, are right, partitions or not.
func TestForeignNodes(t *testing.T) {
	t.Parallel()
	need(t, "python3", "python3")
	need(t, "node", "nodejs")
	harness := build(t, "./maelstrom")
	var trials []trial
	for _, language := range []string{"python/%s.py", "javascript/%s.js"} {
		bin := func(name string) string { return filepath.Join(examples, fmt.Sprintf(language, name)) }
		trials = append(trials,
			trial{bin("echo"), bin("echo"), []string{"-w", "echo", "--node-count", "2", "--time-limit", "2", "--rate", "30"}, 0, []string{"VALID"}},
			trial{bin("unique_ids"), bin("unique_ids"), []string{"-w", "unique-ids", "--node-count", "3", "--time-limit", "2", "--rate", "200",
				"--nemesis", "partition", "--availability", "total"}, 0, []string{"VALID"}},
			trial{bin("broadcast"), bin("broadcast"), []string{"-w", "broadcast", "--node-count", "5", "--time-limit", "4", "--rate", "20",
				"--nemesis", "partition", "--nemesis-interval", "2"}, 0, []string{"VALID", "start-partition"}})
	}
	counter := filepath.Join(examples, "python/g_counter.py")
	trials = append(trials, trial{counter, counter, []string{"-w", "g-counter", "--node-count", "3", "--time-limit", "4", "--rate", "50",
		"--recovery", "3", "--staleness", "0", "--nemesis", "partition", "--nemesis-interval", "2"}, 0, []string{"VALID", "start-partition"}})
	try(t, harness, t.TempDir(), trials...)
}

// altered is a copy of an example with one thing changed.
func altered(t *testing.T, name, old, new string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(examples, name))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), old) != 1 {
		t.Fatalf("%q stands %d times in %s", old, strings.Count(string(text), old), name)
	}
	path := filepath.Join(t.TempDir(), filepath.Base(name))
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), old, new, 1)), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// What they do wrong is found, and explained: which node, which line, what to do.
func TestForeignMistakes(t *testing.T) {
	t.Parallel()
	need(t, "python3", "python3")
	need(t, "node", "nodejs")
	harness := build(t, "./maelstrom")
	echo := []string{"-w", "echo", "--node-count", "2", "--time-limit", "2", "--rate", "30"}
	broadcast := []string{"-w", "broadcast", "--node-count", "3", "--time-limit", "3", "--rate", "40", "--recovery", "3"}
	cut := append(broadcast[:len(broadcast):len(broadcast)], "--nemesis", "partition", "--nemesis-interval", "10", "--nemesis-seed", "1", "--topology", "total")
	counter := []string{"-w", "g-counter", "--node-count", "3", "--time-limit", "3", "--rate", "100", "--recovery", "2"}
	py := func(old, new string) string { return altered(t, "python/echo.py", old, new) }
	try(t, harness, t.TempDir(),
		trial{"takes a refused cas for done", altered(t, "python/g_counter.py", `if answer["type"] == "cas_ok":`, `if True:`), counter, 1,
			[]string{"final read", "the sum of what was acknowledged is"}},
		trial{"prints on stdout", py(`    request = message["body"]`, `    request = message["body"]; print("got", request["type"], flush=True)`), echo, 1,
			[]string{"n0 printed a line on stdout that is no message: byte 1: no JSON", "belongs on stderr", "| got echo"}},
		trial{"JavaScript prints on stdout", altered(t, "javascript/echo.js", "  } else {", "  } else {\n    console.log(`answering ${src}`);"), echo, 1,
			[]string{"printed a line on stdout that is no message", "| answering c"}},
		trial{"does not flush", py("}), flush=True)", "}))"), echo, 255, []string{"no answer to init within 10s; does the node flush its stdout?"}},
		trial{"forgets to answer", py(`    send(message["src"], reply)`, `    if not reply.get("echo", "").endswith(tuple("13579")): send(message["src"], reply)`), echo, 1,
			[]string{`did not answer echo "Please echo `, "it timed out at"}},
		trial{"answers another request", py(`{"in_reply_to": request["msg_id"]}`, `{"in_reply_to": request["msg_id"] + (request["type"] == "echo")}`), echo, 1,
			[]string{`an answer to a request that was never made: "in_reply_to" is 2`, `n0 did not answer echo "Please echo `}},
		trial{"wrong type", py(`"echo_ok"`, `"echo"`), echo, 1, []string{`the reply to echo has type "echo", it should be "echo_ok"`}},
		trial{"extra member", py(`reply["type"] = "echo_ok"`, `reply["type"] = "echo_ok"; reply["debug"] = 1`), echo, 1,
			[]string{`echo_ok has a member "debug" that the protocol does not know`}},
		trial{"text for a number", py(`{"in_reply_to": request["msg_id"]}`, `{"in_reply_to": request["msg_id"] if request["type"] == "init" else str(request["msg_id"])}`), echo, 1,
			[]string{`"in_reply_to"`}},
		trial{"no body", py(`"dest": dest, "body": body}`, `"dest": dest, **(body if body["type"] != "init_ok" else {"body": body})}`), echo, 1,
			[]string{`a message has only "src", "dest" and "body", not `, "what you want to say belongs into the body"}},
		trial{"dies", py(`reply["echo"] = request["echo"]`, `reply["echo"] = request["ehco"]`), echo, 1,
			[]string{"ended by itself: exit status 1", "| stderr: KeyError: 'ehco'"}},
		trial{"cannot start", py("import sys", "import sys, no_such_module"), echo, 255,
			[]string{"the process ended (exit status 1) before it answered init", "No module named 'no_such_module'"}},
		trial{"no topology", altered(t, "python/broadcast.py", `return {"type": "topology_ok"}`, `print("what is that?", file=sys.stderr)`), broadcast, 255,
			[]string{`did not answer "topology" within 5s`, "stderr: what is that?"}},
		trial{"to nobody", py(`    send(message["src"], reply)`, `    send(message["src"], reply); send("n9", reply)`), echo, 1,
			[]string{`sent a message to "n9", which does not exist`}},
		trial{"text for an array", altered(t, "python/broadcast.py", `"messages": values}`, `"messages": str(values)}`), broadcast, 1,
			[]string{`"messages" of read_ok must be an array, not "[`}},
		trial{"sends once", filepath.Join(examples, "python/naive_broadcast.py"), cut, 1, []string{"final read at", "(acknowledged by"}},
		trial{"loses a value", altered(t, "javascript/broadcast.js", "values.add(v)", "v === 5 || values.add(v)"), broadcast, 1, []string{"lacks 5 (acknowledged by"}},
	)
}

// serveReports starts maelstrom serve, and returns its address.
func serveReports(t *testing.T, harness, store string) string {
	t.Helper()
	cmd := exec.Command(harness, "serve", "--port", "0", "--store", store)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_, address, _ := strings.Cut(line, "http://")
	address, _, _ = strings.Cut(address, " ")
	return "http://" + address
}

const loadedJS = `[...document.images].every((i) => i.complete && i.naturalWidth > 0) && document.images.length`

// inAllLooks saves the page light, dark and on the screen of a telephone, where nothing may stand out on the right.
func (p *tab) inAllLooks(page string) {
	p.t.Helper()
	p.save(page + "-light")
	p.prefer("dark")
	p.save(page + "-dark")
	p.do(chromedp.EmulateViewport(400, 900))
	if wide := eval[int](p, "document.documentElement.scrollWidth"); wide > 400 {
		p.t.Errorf("%s: on a screen of 400 pixels the page is %d wide", page, wide)
	}
	p.save(page + "-narrow")
	p.do(chromedp.EmulateViewport(1280, 800))
	p.prefer("light")
}

// The reports of a run that passed and of two that failed, in a browser: the verdict, the reasons, the pictures. What a
// node printed is shown as text, whatever it is.
func TestReports(t *testing.T) {
	t.Parallel()
	need(t, "python3", "python3")
	browser := newBrowser(t)
	harness := build(t, "./maelstrom")
	markup := altered(t, "python/broadcast.py", `    kind = body["type"]`,
		"    kind = body[\"type\"]\n    if kind == \"read\":\n        print('<script>document.title = \"taken\"</script>', flush=True)")
	args := func(more ...string) []string {
		return append([]string{"-w", "broadcast", "--node-count", "3", "--time-limit", "2", "--rate", "40", "--recovery", "3"}, more...)
	}
	store := t.TempDir()
	reports := try(t, harness, store,
		trial{"passes", filepath.Join(examples, "python/broadcast.py"), args("--nemesis", "partition", "--nemesis-interval", "3", "--topology", "total"), 0, nil},
		trial{"forgets", harness, args("--", "node", "mutant", "broadcast-forgetful"), 1, []string{"lacks 7 "}},
		trial{"prints markup", markup, args(), 1, nil})
	base := serveReports(t, harness, store) + "/"
	at := func(name string, i int) *tab { return newTab(t, browser, name, base+reports[i]) }

	list := newTab(t, browser, "list", base)
	list.until("all runs", `document.querySelectorAll('td.verdict').length === 3`)
	list.until("their verdicts", `document.querySelectorAll('td.verdict.pass').length === 1 && document.querySelectorAll('td.verdict.fail').length === 2`)
	list.inAllLooks("list")
	eval[bool](list, `document.querySelector('td.verdict.pass').closest('tr').querySelector('a').click(), true`)
	list.until("the report behind a run", `document.querySelector('.banner.pass')`)

	lookAtPassed(t, at("passed", 0))

	forgot := at("forgot", 1)
	forgot.until("the verdict", `document.querySelector('.banner.fail .verdict')?.textContent === 'Failed'`)
	forgot.until("the reason", `document.querySelector('.banner li').textContent.includes('lacks 7 (acknowledged by')`)
	forgot.until("its pictures", loadedJS+" === 2")
	forgot.inAllLooks("report")

	printed := at("printed", 2)
	printed.until("the reason", `document.querySelector('.banner li').textContent.includes('printed a line on stdout that is no message')`)
	printed.until("the line as text", `document.querySelector('.finding pre').textContent.includes('<script>document.title')`)
	if title := eval[string](printed, "document.title"); title != "broadcast: Failed" {
		t.Errorf("the title is %q", title)
	}
	printed.inAllLooks("report")
}

// lookAtPassed looks at the report of a run with a partition that passed.
func lookAtPassed(t *testing.T, page *tab) {
	page.until("the verdict", `document.querySelector('.banner.pass .verdict')?.textContent === 'Passed'`)
	page.until("both plots", loadedJS+" === 2")
	page.until("the diagram", `document.querySelector('object').contentDocument.querySelectorAll('g path').length > 20`)
	page.until("the shaded partition", `document.querySelector('object').contentDocument.querySelectorAll('.fault').length > 0`)
	if text := eval[string](page, "document.body.innerText"); !strings.Contains(text, "partition") || !strings.Contains(text, "stable latency") {
		t.Errorf("the page says nothing of the partition or the latencies:\n%s", text)
	}
	page.inAllLooks("report")
	eval[bool](page, `document.querySelector('a[href="timeline.html"]').click(), true`)
	page.until("the timeline", `location.pathname.endsWith('/timeline.html') && document.body.innerText.includes('nemesis')`)
	page.save("timeline")
}
