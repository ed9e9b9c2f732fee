package node

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPrograms(t *testing.T) {
	var names []string
	for _, s := range Programs() {
		names = append(names, s.Name)
		if s.Help == "" {
			t.Errorf("%s has no help", s.Name)
		}
	}
	if diff := cmp.Diff([]string{"bank", "broadcast", "echo", "g-counter", "pn-counter", "unique-ids"}, names); diff != "" {
		t.Errorf("Programs() mismatch (-want +got):\n%s", diff)
	}
	if s, found := Find("lin-kv"); found {
		t.Errorf("Find(lin-kv) = %+v", s)
	}
}

func start(t *testing.T, name string, s Start) Program {
	t.Helper()
	spec, found := Find(name)
	if !found {
		t.Fatalf("no program %q", name)
	}
	if s.Nodes == nil {
		s.Nodes = []string{"n0"}
	}
	s.ID, s.Incarnation, s.Rand = s.Nodes[0], max(s.Incarnation, 36), rand.New(rand.NewPCG(1, 2))
	p, err := spec.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ask sends a body from client c1 and returns what the program wants done then, as JSON.
func ask(p Program, data string) (out Output, sent []string) {
	p.Receive(0, "c1", json.RawMessage(data))
	out = p.Ready(0)
	for _, m := range out.Send {
		sent = append(sent, m.To+" "+strings.TrimSpace(encode(m.Body)))
	}
	return out, sent
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct{ program, data, want string }{
		{"echo", `{"type":"echo","msg_id":1,"echo":{"a":[1]}}`, `c1 {"echo":{"a":[1]},"in_reply_to":1,"type":"echo_ok"}`},
		{"echo", `{"type":"echo","msg_id":1,"echo":null}`, `c1 {"echo":null,"in_reply_to":1,"type":"echo_ok"}`},
		{"echo", `{"type":"echo","msg_id":1}`, `c1 {"code":12,"in_reply_to":1,"text":"echo without \"echo\"","type":"error"}`},
		{"echo", `{"type":"add","msg_id":1}`, `c1 {"code":10,"in_reply_to":1,"text":"message type \"add\" is not supported","type":"error"}`},
		{"echo", `{"type":"echo","echo":1}`, ``},                                        // wants no answer
		{"echo", `{"type":"error","msg_id":3,"in_reply_to":1,"code":10,"text":""}`, ``}, // is one
		{"echo", `[]`, ``},
		{"unique-ids", `{"type":"generate","msg_id":1}`, `c1 {"id":"n0.10.1","in_reply_to":1,"type":"generate_ok"}`},
		{"unique-ids", `{"type":"echo","msg_id":1}`, `c1 {"code":10,"in_reply_to":1,"text":"message type \"echo\" is not supported","type":"error"}`},
		{"broadcast", `{"type":"read","msg_id":1}`, `c1 {"in_reply_to":1,"messages":[],"type":"read_ok"}`},
		{"broadcast", `{"type":"broadcast","msg_id":1,"message":{"b": null}}`, `c1 {"in_reply_to":1,"type":"broadcast_ok"}`},
		{"broadcast", `{"type":"broadcast","msg_id":1}`, `c1 {"code":12,"in_reply_to":1,"text":"broadcast without \"message\"","type":"error"}`},
		{"broadcast", `{"type":"topology","msg_id":1,"topology":{}}`, `c1 {"in_reply_to":1,"type":"topology_ok"}`},
		{"broadcast", `{"type":"topology","msg_id":1}`, `c1 {"code":12,"in_reply_to":1,"text":"topology without \"topology\"","type":"error"}`},
		{"broadcast", `{"type":"add","msg_id":1}`, `c1 {"code":10,"in_reply_to":1,"text":"message type \"add\" is not supported","type":"error"}`},
		{"broadcast", `{"type":"gossip","msg_id":1}`, ``},
		{"g-counter", `{"type":"add","msg_id":1}`, `c1 {"code":12,"in_reply_to":1,"text":"add without a \"delta\" that is an integer of 64 bits","type":"error"}`},
		{"pn-counter", `{"type":"add","msg_id":1,"delta":1.5}`, `c1 {"code":12,"in_reply_to":1,"text":"add without a \"delta\" that is an integer of 64 bits","type":"error"}`},
		{"g-counter", `{"type":"echo","msg_id":1}`, `c1 {"code":10,"in_reply_to":1,"text":"message type \"echo\" is not supported","type":"error"}`},
		{"g-counter", `{"type":"forward_ok","in_reply_to":1,"results":[]}`, ``}, // to nothing
		{"g-counter", `{"type":"forward","requests":[{"r":true}]}`, ``},         // wants no answer
	} {
		if _, sent := ask(start(t, c.program, Start{}), c.data); strings.Join(sent, "\n") != c.want {
			t.Errorf("%s answers %s with %q, want %q", c.program, c.data, sent, c.want)
		}
	}
	_, sent := ask(start(t, "broadcast", Start{}), `{"type":"topology","msg_id":1,"topology":[1]}`)
	if len(sent) != 1 || !strings.Contains(sent[0], `"code":12`) {
		t.Errorf("broadcast answers a malformed topology with %q", sent)
	}
}

func TestArguments(t *testing.T) {
	for _, c := range []struct {
		program string
		args    []string
		want    string
	}{
		{"echo", []string{"--loud"}, `unknown argument "--loud"`},
		{"broadcast", []string{"--profil", "fast"}, `unknown argument "--profil"`},
		{"broadcast", []string{"--profile", "slow"}, `--profile "slow": want auto, topology`},
		{"broadcast", []string{"--profile"}, `--profile ""`},
		{"broadcast", []string{"--delay=soon"}, `--delay "soon"`},
		{"broadcast", []string{"--delay=-1s"}, `--delay "-1s"`},
		{"g-counter", []string{"--store", "lww-kv"}, `--store "lww-kv": want seq-kv or lin-kv`},
		{"g-counter", []string{"--staleness=old"}, `--staleness "old": want a duration`},
		{"pn-counter", []string{"--delay=-1s"}, `--delay "-1s": want a duration`},
		{"pn-counter", []string{"--profile", "fast"}, `unknown argument "--profile": want --store, --delay`},
	} {
		spec, _ := Find(c.program)
		if _, err := spec.New(Start{ID: "n0", Args: c.args}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: %v, want %s", c.program, c.args, err, c.want)
		}
	}
	p, err := broadcastProfile([]string{"--delay", "100ms", "--profile=topology"}, 3)
	if err != nil || p.Delay != 100*time.Millisecond || p.Topology != 2 {
		t.Errorf("profile %+v, %v", p, err)
	}
	spec, _ := Find("broadcast")
	if _, err := spec.New(Start{ID: "n0", Nodes: []string{"n 1"}}); err == nil || !strings.Contains(err.Error(), `"n 1"`) {
		t.Errorf("a node named n 1: %v", err)
	}
	if _, err := spec.New(Start{ID: "n0", Disk: [][]byte{{1}}}); err == nil || !strings.Contains(err.Error(), "record 0") {
		t.Errorf("a damaged disk: %v", err)
	}
}

// A value is acknowledged and shown when it is durable, and is there after a restart.
func TestBroadcastWaitsForTheDisk(t *testing.T) {
	p := start(t, "broadcast", Start{Durable: true})
	out, sent := ask(p, `{"type":"broadcast","msg_id":1,"message":"x"}`)
	if len(out.Write) != 1 || len(sent) > 0 {
		t.Errorf("wants %d records written and %q sent, want 1 and nothing", len(out.Write), sent)
	}
	const empty, full = `c1 {"in_reply_to":2,"messages":[],"type":"read_ok"}`, `c1 {"in_reply_to":2,"messages":["x"],"type":"read_ok"}`
	again, sent := ask(p, `{"type":"read","msg_id":2}`)
	if len(again.Write) > 0 || !slices.Equal(sent, []string{empty}) {
		t.Errorf("before the disk: writes %d records, reads %q", len(again.Write), sent)
	}
	p.Persisted(0, 1)
	want := []string{`c1 {"in_reply_to":1,"type":"broadcast_ok"}`, full}
	if _, sent := ask(p, `{"type":"read","msg_id":2}`); !slices.Equal(sent, want) {
		t.Errorf("after the disk: %q, want %q", sent, want)
	}
	p = start(t, "broadcast", Start{Durable: true, Disk: out.Write, Incarnation: 37})
	if _, sent := ask(p, `{"type":"read","msg_id":2}`); !slices.Equal(sent, []string{full}) {
		t.Errorf("after a restart: %q, want %q", sent, full)
	}
}

// A node says nothing before it hears something, or a second has gone by: others may not have been started yet.
func TestBroadcastIsQuietAtFirst(t *testing.T) {
	p := start(t, "broadcast", Start{Nodes: []string{"n0", "n1"}})
	const at = time.Minute
	if out := p.Ready(at); len(out.Send) > 0 || p.Wake() != at+startDelay {
		t.Errorf("at first: sends %v, wakes at %v", out.Send, p.Wake())
	}
	if out := p.Ready(at + startDelay); len(out.Send) != 1 {
		t.Errorf("after %v: sends %v, want a digest", startDelay, out.Send)
	}
	if p := start(t, "broadcast", Start{}); p.Wake() != 0 {
		t.Errorf("a lone node wakes at %v before its first Ready", p.Wake())
	} else if p.Ready(2 * startDelay); p.Ready(4*startDelay).Send != nil || p.Wake() >= 0 {
		t.Errorf("a lone node wakes at %v, want never", p.Wake())
	}
}

// With profile topology a value goes to the neighbours that the workload names.
func TestBroadcastFollowsTopology(t *testing.T) {
	p := start(t, "broadcast", Start{Nodes: []string{"n0", "n1", "n2", "n3"}, Args: []string{"--profile", "topology"}})
	ask(p, `{"type":"topology","msg_id":1,"topology":{"n0":["n2"],"n2":["n0"]}}`)
	out, _ := ask(p, `{"type":"broadcast","msg_id":2,"message":5}`)
	var to []string
	for _, m := range out.Send {
		if b, is := m.Body.(gossipBody); is && len(b.Entries) > 0 {
			to = append(to, m.To)
		}
	}
	if !slices.Equal(to, []string{"n2"}) {
		t.Errorf("the value went to %q, want n2", to)
	}
}

func TestProgramsAreRight(t *testing.T) {
	for _, s := range []scenario{scenarioOf("echo", "kill"), scenarioOf("unique-ids", "kill"), scenarioOf("broadcast", "")} {
		for seed := range uint64(5) {
			if wrong := s.run(seed); len(wrong) > 0 {
				t.Errorf("%s, seed %d: %q", s.workload, seed, wrong)
			}
		}
	}
}

// Everybody agrees within 5 s of the last fault, and nothing acknowledged is lost.
func TestBroadcastConverges(t *testing.T) {
	small := scenarioOf("broadcast", "")
	small.latency, small.faults = 100*time.Millisecond, everything
	large := small
	large.nodes, large.rate, large.faults = 25, 10, partitions
	for _, c := range []struct {
		scenario
		args  string
		seeds uint64
	}{
		{small, "auto", 30}, {small, "topology", 10}, {small, "balanced", 10}, {large, "auto", 2}, {large, "topology", 1},
	} {
		c.scenario.args = []string{"--profile", c.args}
		for seed := range c.seeds {
			if wrong := c.run(seed); len(wrong) > 0 {
				t.Errorf("%d nodes, profile %s, seed %d: %q", c.nodes, c.args, seed, wrong)
			}
		}
	}
}

// Without a disk a kill may lose what only its node had, but the others agree.
func TestBroadcastWithoutDisk(t *testing.T) {
	s := scenarioOf("broadcast", "kill")
	s.disk = -1
	for seed := range uint64(10) {
		if wrong := s.run(seed); len(wrong) > 0 && !slices.Equal(wrong, []string{"lost"}) {
			t.Errorf("seed %d: %q", seed, wrong)
		}
	}
}

// No line gets longer than the demo library can read, however large the values and long the names.
func TestBroadcastLinesAreBounded(t *testing.T) {
	const lineMax = 48 << 10
	for _, name := range []string{"n", strings.Repeat("n", 63)} {
		nodes := []string{name + "0", name + "1"}
		a, b := start(t, "broadcast", Start{Nodes: nodes}), start(t, "broadcast", Start{Nodes: []string{nodes[1], nodes[0]}})
		large := strings.Repeat("<", valueBytesMax/6-1)
		if _, sent := ask(a, `{"type":"broadcast","msg_id":1,"message":"`+large+`<<"}`); !strings.Contains(sent[0], "at most 32768 fit") {
			t.Errorf("a value too large is answered with %.200s", sent)
		}
		values := 0
		for size := 1; size <= len(large); size += 50 {
			ask(a, `{"type":"broadcast","message":"`+large[:size]+`"}`)
			values++
		}
		for range 300 {
			ask(a, `{"type":"broadcast","message":1}`)
			values++
		}
		for now := startDelay; now < 20*time.Second; now += 50 * time.Millisecond {
			for from, pair := range [][2]Program{{a, b}, {b, a}} {
				for _, m := range pair[0].Ready(now).Send {
					line := encode(m.Body)
					if len(line) > lineMax {
						t.Errorf("a line of %d bytes", len(line))
					}
					pair[1].Receive(now, nodes[from], json.RawMessage(line))
				}
			}
		}
		if got := len(b.(*broadcast).messages); got != values {
			t.Errorf("%d of %d values arrived", got, values)
		}
	}
}
