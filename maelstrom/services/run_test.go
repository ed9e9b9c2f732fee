package services

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/maelstrom/check"
	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
	"dongne/maelstrom/services/books"

	"github.com/google/go-cmp/cmp"
)

// buildService builds a service's program.
func buildService(t *testing.T, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes")
	}
	binary := filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("go", "build", "-o", binary, "dongne/"+name).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// TestChat: real processes under all faults keep their promises; and had one of them lost one message, it would be found.
func TestChat(t *testing.T) {
	binary := buildService(t, "chat")
	dir := t.TempDir()
	r, err := perform(t.Context(), Options{TimeLimit: 4 * time.Second, Nemesis: allKinds, Interval: time.Second, Seed: 4,
		Binary: binary, Dir: dir, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	run, results := r.history(), r.results()
	t.Logf("%s", edn.AppendIndented(nil, results.Fields))
	if results.Valid != check.True || len(results.Reasons) > 0 || len(run.Findings) > 0 {
		t.Fatalf("verdict %v, vacuous: %q, reasons %q, findings %v", results.Valid, results.Vacuous, results.Reasons, run.Findings)
	}
	for i, other := range history.Completions(run.Ops) {
		if op := &run.Ops[i]; other < 0 || op.Index != i || i > 0 && op.Time < run.Ops[i-1].Time {
			t.Errorf("operation %d has no other half, or is out of order: %+v", i, *op)
		}
	}
	kinds := map[string]bool{}
	for _, f := range run.Faults() {
		if kinds[f.Name] = true; f.Unfinished {
			t.Errorf("%s since %v was never healed", f.Name, f.From)
		}
	}
	if diff := cmp.Diff(map[string]bool{partition: true, kill: true, pause: true, delay: true}, kinds); diff != "" {
		t.Errorf("kinds of faults (-want +got):\n%s", diff)
	}
	for _, node := range run.Nodes {
		log, err := os.ReadFile(filepath.Join(dir, "node-logs", node+".log"))
		if err != nil || !strings.Contains(string(log), listeningMark) || !strings.HasSuffix(string(log), "\"stopped\"}\n") {
			t.Errorf("log of %s: %v, %d bytes, or it does not say that it stopped", node, err, len(log))
		}
	}

	for _, m := range r.load.(*chat).observed.sent {
		if m.posted == sure && m.deleted == never && m.edited == never {
			h := r.load.(*chat).observed.views[0].histories
			h[m.room] = drop(m.id)(h[m.room])
			results := r.results()
			if results.Valid != check.False || !strings.Contains(results.Reasons[0], `"`+m.text+`" was acknowledged and is lost: n1`) {
				t.Errorf("n1 lost %s: verdict %v, reasons %q", m.text, results.Valid, results.Reasons)
			}
			return
		}
	}
	t.Error("no message to lose")
}

// TestOnEtcd: both services keep their promises on an etcd that is hit by all faults too, and pay's own program finds its
// books in order.
func TestOnEtcd(t *testing.T) {
	needEtcd(t)
	for _, of := range []struct {
		workload string
		shards   int
	}{{"chat", 1}, {"pay", 1}, {"pay", 3}} {
		workload := of.workload
		t.Run(fmt.Sprint(workload, of.shards), func(t *testing.T) {
			dir := t.TempDir()
			r, err := perform(t.Context(), Options{Workload: workload, Store: etcdStore, Shards: of.shards, TimeLimit: 6 * time.Second, Nemesis: allKinds, Interval: 1500 * time.Millisecond, Seed: 3,
				Concurrency: 8, Binary: buildService(t, workload), Dir: dir, Log: t.Logf})
			if err != nil {
				t.Fatal(err)
			}
			results := r.results()
			t.Logf("%s", edn.AppendIndented(nil, results.Fields))
			if results.Valid != check.True {
				t.Fatalf("verdict %v, vacuous: %q, reasons\n%s", results.Valid, results.Vacuous, strings.Join(results.Reasons, "\n"))
			}
			if p, ok := r.load.(*payments); ok && of.shards > 1 {
				if began, _ := books.Crossings(p.history.Views[0].Events); began < 20 {
					t.Errorf("%d transfers went between shards", began)
				}
			}
			if c, ok := r.load.(*chat); ok && c.count().ordered < 100 {
				t.Errorf("the order of %d messages was compared", c.count().ordered)
			}
			if log, err := os.ReadFile(filepath.Join(dir, "node-logs", "n2.log")); err != nil || strings.Contains(string(log), "verify:") != (workload == "pay") {
				t.Errorf("the log of n2 ends with %.300s, %v", log[max(0, len(log)-300):], err)
			}
		})
	}
}

// TestVerify: what a service's own program says against the data makes the run invalid.
func TestVerify(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "pay")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\necho \"$1 of $DATA_DIR: slot 7 is bad\"\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	o := Options{Workload: "pay", NodeCount: 1, Binary: binary, Dir: t.TempDir()}
	c, err := newCluster(t.Context(), &o, nil)
	defer c.close()
	if err != nil {
		t.Fatal(err)
	}
	c.nodes["n1"].env = []string{"DATA_DIR=x"}
	r := run{Options: o, record: newRecorder(), cluster: c, nemesis: &nemesis{}}
	r.load = &chat{run: &r, observed: *healthy()}
	r.verify(t.Context())
	if results := r.results(); results.Valid != check.False || !slices.Contains(results.Reasons, "pay verify, of what n1 left: exit status 1: verify of x: slot 7 is bad") {
		t.Errorf("verdict %v, reasons %q", results.Valid, results.Reasons)
	}
}

// TestNodeEnds: a node that somebody else kills is a finding, and so is one that does not start again.
func TestNodeEnds(t *testing.T) {
	binary := buildService(t, "chat")
	record := newRecorder()
	o := Options{NodeCount: 1, Binary: binary, Dir: t.TempDir()}
	c, err := newCluster(t.Context(), &o, record.finding)
	defer c.close()
	if err != nil {
		t.Fatal(err)
	}
	c.nodes["n1"].env = append(c.env("n1"), "NODE_ID=n1", "PEER_SECRET=no more than a test's")
	if err := c.start(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	n := c.nodes["n1"]
	if hit := c.pause(c.names); len(hit) != 1 || len(c.resume()) != 1 {
		t.Errorf("paused %v", hit)
	}
	n.mu.Lock()
	process, ended := n.process, n.ended
	n.mu.Unlock()
	process.Kill()
	<-ended
	if hit := c.kill(c.names); len(hit) > 0 || len(c.pause(c.names)) > 0 {
		t.Errorf("killed %v, which had ended", hit)
	}
	if len(record.findings) != 1 || record.findings[0].Kind != history.Exited || record.findings[0].Node != "n1" ||
		!strings.Contains(record.findings[0].Text, "n1 ended by itself: signal: killed") || len(record.findings[0].Tail) == 0 {
		t.Errorf("findings %+v", record.findings)
	}
	n.env = append(n.env, "PORT=none")
	nemesis := nemesis{cluster: c, record: record, log: t.Logf, faults: map[string]int{}}
	nemesis.heal(t.Context(), []string{kill})
	if len(record.findings) != 3 || !strings.Contains(record.findings[2].Text, "after it was killed: start n1: it ended before it listened") ||
		!strings.Contains(strings.Join(record.findings[1].Tail, "\n"), "PORT") {
		t.Errorf("findings of a node that cannot start %+v", record.findings)
	}
	r := run{Options: o, record: record, cluster: c, nemesis: &nemesis}
	r.load = &chat{run: &r, observed: *healthy()}
	if results := r.results(); results.Valid != check.False || !strings.Contains(results.Reasons[0], "ended by itself") {
		t.Errorf("verdict %v, reasons %q", results.Valid, results.Reasons)
	}
}

// TestVacuous: a run in which nothing happened proves nothing.
func TestVacuous(t *testing.T) {
	r := run{record: newRecorder(), cluster: &cluster{}, nemesis: &nemesis{}}
	r.load = &chat{run: &r, observed: *healthy()}
	if results := r.results(); results.Valid != check.True || results.Vacuous != "" {
		t.Errorf("without a nemesis: verdict %v, vacuous: %q", results.Valid, results.Vacuous)
	}
	hits := map[string]func(){
		partition: func() { r.cluster.stats.Refused.Add(1) },
		kill:      func() { r.cluster.killed++ },
		pause:     func() { r.cluster.paused++ },
		delay:     func() { r.cluster.stats.Held.Add(1) },
	}
	for _, kind := range allKinds {
		r.Nemesis = append(r.Nemesis, kind)
		if results := r.results(); results.Valid != check.Unknown || !strings.Contains(results.Vacuous, "no "+kind) {
			t.Errorf("no %s: verdict %v, vacuous: %q", kind, results.Valid, results.Vacuous)
		}
		hits[kind]()
		if results := r.results(); results.Valid != check.True {
			t.Errorf("%s hit: verdict %v, vacuous: %q", kind, results.Valid, results.Vacuous)
		}
	}
	for _, m := range r.load.(*chat).observed.sent {
		m.posted = min(m.posted, possible)
	}
	if results := r.results(); results.Valid != check.Unknown || results.Vacuous != "nothing was acknowledged" {
		t.Errorf("nothing acknowledged: verdict %v, vacuous: %q", results.Valid, results.Vacuous)
	}
}

func TestOptions(t *testing.T) {
	for want, o := range map[string]Options{
		"chat, pay":            {Workload: "echo"},
		"there are file, etcd": {Store: "disk"},
		"not know of each":     {Workload: "pay", Store: fileStore},
		"folder":               {},
		"17 nodes":             {Dir: "d", NodeCount: 17},
		"17 shards":            {Dir: "d", Workload: "pay", Shards: 17},
		"chat has one here":    {Dir: "d", Shards: 2},
		"-1 writers":           {Dir: "d", Concurrency: -1},
		"300 readers":          {Dir: "d", Readers: 300},
		"rate -1":              {Dir: "d", Rate: -1},
		"patience 3s":          {Dir: "d", Patience: 3 * time.Second},
		"negative":             {Dir: "d", Interval: -1},
		`nemesis "flood"`:      {Dir: "d", Nemesis: []string{"flood"}},
		"kill is named twice":  {Dir: "d", Nemesis: []string{kill, kill}},
		"but one node":         {Dir: "d", NodeCount: 1, Nemesis: []string{partition}},
		"start n1: fork/exec ": {Dir: t.TempDir(), NodeCount: 1, Binary: filepath.Join(t.TempDir(), "none")},
	} {
		if _, _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Run(%+v) = %v, want something about %q", o, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Run(ctx, Options{Dir: t.TempDir()}); !errors.Is(err, context.Canceled) {
		t.Errorf("a run that is over before it begins: %v", err)
	}
}

// TestProcess: after an operation of which nobody knows how it ended a client is another process.
func TestProcess(t *testing.T) {
	record := newRecorder()
	p := process{record: record, number: 1, step: 10}
	for _, outcome := range []history.Type{history.OK, history.Info, history.Fail} {
		end, _ := p.begin("send", "text")
		end(outcome, "n1", nil, errors.New("why"))
	}
	var got []int
	for _, op := range record.ops {
		got = append(got, op.Process)
	}
	if diff := cmp.Diff([]int{1, 1, 1, 1, 11, 11}, got); diff != "" {
		t.Errorf("processes (-want +got):\n%s", diff)
	}
	if n := record.fresh(); n != 12 {
		t.Errorf("a fresh process is %d, want 12", n)
	}
	op := record.ops[5]
	if op.Type != history.Fail || op.Node != "n1" || op.Error.Text != "why" || string(op.Value) != "null" {
		t.Errorf("the last operation is %+v", op)
	}
	if text := string(edn.Append(nil, stats(record.ops))); !strings.HasPrefix(text, "{:count 3, :ok-count 1, :fail-count 1, :info-count 1, :by-f {:send {:count 3,") {
		t.Errorf("stats are %s", text)
	}
}

func TestQuantiles(t *testing.T) {
	var times []time.Duration
	for i := range 200 {
		times = append(times, time.Duration(i)*time.Millisecond+1234*time.Nanosecond)
	}
	if got := string(edn.Append(nil, quantiles(times))); got != "{0.5 100.0, 0.95 190.0, 0.99 198.0, 1 199.0}" {
		t.Errorf("quantiles are %s", got)
	}
	if b, err := json.Marshal(quantiles(nil)); err != nil || string(b) != "{}" {
		t.Errorf("quantiles of nothing are %s, %v", b, err)
	}
}
