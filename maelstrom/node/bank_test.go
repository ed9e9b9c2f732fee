package node

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/maelstrom/service"

	"github.com/google/go-cmp/cmp"
)

// branches are the nodes of a bank, and seq-kv, without a network: every message is there at once.
type branches struct {
	t        testing.TB
	spec     Spec
	alone    bool // no node knows of another
	kv       service.Service
	names    []string
	programs map[string]Program
	life     uint64
	now      time.Duration
	asked    int
	replies  map[int]string
}

func newBranches(t testing.TB, spec Spec, seed uint64) *branches {
	b := &branches{t: t, spec: spec, names: []string{"n0", "n1", "n2"}, programs: map[string]Program{}, replies: map[int]string{},
		kv: service.All(rand.New(rand.NewPCG(seed, 1)), false)["seq-kv"]}
	for _, name := range b.names {
		b.start(name)
	}
	return b
}

// start starts a node, again if it runs.
func (b *branches) start(name string) {
	b.t.Helper()
	nodes := b.names
	if b.alone {
		nodes = []string{name}
	}
	b.life++
	p, err := b.spec.New(Start{ID: name, Nodes: nodes, Incarnation: b.life})
	if err != nil {
		b.t.Fatal(err)
	}
	b.programs[name] = p
}

// say hands a client's request to a node, and returns by what number its reply is known.
func (b *branches) say(name, request string) int {
	b.asked++
	b.programs[name].Receive(b.now, "c1", json.RawMessage(strings.Replace(request, "{", fmt.Sprintf(`{"msg_id":%d,`, b.asked), 1)))
	return b.asked
}

// settle lets happen what is to happen until all is answered, within 10 s.
func (b *branches) settle() {
	for end := b.now + 10*time.Second; b.now < end && len(b.replies) < b.asked; {
		busy := false
		for _, name := range b.names {
			out := b.programs[name].Ready(b.now)
			for _, m := range out.Send {
				busy = true
				b.deliver(name, m)
			}
		}
		if busy {
			continue
		}
		next := end
		for _, p := range b.programs {
			if wake := p.Wake(); wake >= 0 {
				next = min(next, wake)
			}
		}
		b.now = max(next, b.now+time.Millisecond)
	}
}

func (b *branches) deliver(from string, m Message) {
	data := json.RawMessage(encode(m.Body))
	switch {
	case m.To == "seq-kv":
		if reply, ok := b.kv.Handle(from, data); ok {
			b.programs[from].Receive(b.now, m.To, service.Reply(data, reply))
		}
	case b.programs[m.To] != nil:
		b.programs[m.To].Receive(b.now, from, data)
	default:
		var reply map[string]json.RawMessage
		var id int
		if json.Unmarshal(data, &reply) != nil || json.Unmarshal(reply["in_reply_to"], &id) != nil {
			b.t.Fatalf("%s replies %s", from, data)
		}
		b.replies[id] = shortly(reply)
	}
}

// shortly tells a reply: "ok", "refused", an error's code, or what a read shows.
func shortly(reply map[string]json.RawMessage) string {
	var balances map[string]struct{ Posted, Held int64 }
	switch kind := strings.Trim(string(reply["type"]), `"`); {
	case kind == "error" && string(reply["code"]) == "22":
		return "refused"
	case kind == "error":
		return "error " + string(reply["code"])
	case kind != "read_ok":
		return "ok"
	case json.Unmarshal(reply["balances"], &balances) != nil:
		return string(reply["balances"])
	}
	var all []string
	for name, of := range balances {
		all = append(all, strings.TrimSuffix(fmt.Sprint(name, ":", of.Posted, "-", of.Held), "-0"))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

const openAB = `{"type":"open","accounts":{"a":10,"b":20}}`

// play plays lines "node request", and returns how each was answered. "node restart" kills a node and starts it, and a
// line that ends with "&" is asked together with the next.
func (b *branches) play(lines ...string) (answers []string) {
	var ids []int
	for _, line := range lines {
		request, together := strings.CutSuffix(line, " &")
		name, request, _ := strings.Cut(request, " ")
		if request == "restart" {
			b.start(name)
			continue
		}
		if ids = append(ids, b.say(name, request)); !together {
			b.settle()
		}
	}
	for _, id := range ids {
		answers = append(answers, b.replies[id])
	}
	return answers
}

const (
	transfer1  = `{"type":"transfer","id":"1","from":"a","to":"b","amount":6}`
	transfer2  = `{"type":"transfer","id":"2","from":"b","to":"a","amount":6}`
	hold3      = `{"type":"hold","id":"3","from":"a","to":"b","amount":8}`
	capture4   = `{"type":"capture","id":"4","hold":"3"}`
	void5      = `{"type":"void","id":"5","hold":"3"}`
	refund6    = `{"type":"refund","id":"6","hold":"3"}`
	refund7    = `{"type":"refund","id":"7","hold":"3"}`
	transfer8  = `{"type":"transfer","id":"8","from":"a","to":"b","amount":5}`
	readAll    = `{"type":"read"}`
	openedTail = "a:10 b:20"
)

func TestBank(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []string
		want  []string
	}{
		{"open", []string{"n0 " + openAB, "n1 " + openAB, "n2 " + readAll, `n1 {"type":"open","accounts":{"a":11}}`},
			[]string{"ok", "ok", openedTail, "refused"}},
		{"transfer", []string{"n0 " + openAB, "n0 " + transfer1, "n1 " + transfer1, "n2 " + readAll, "n2 " + transfer8, "n1 " + readAll},
			[]string{"ok", "ok", "ok", "a:4 b:26", "refused", "a:4 b:26"}},
		{"refused for ever", []string{"n0 " + openAB, "n0 " + transfer1, "n1 " + transfer8, "n0 " + transfer2, "n0 " + transfer8, "n2 " + readAll},
			[]string{"ok", "ok", "refused", "ok", "refused", openedTail}},
		{"together", []string{"n0 " + openAB, "n0 " + transfer1 + " &", "n1 " + transfer1 + " &", "n2 " + transfer1, "n2 " + readAll},
			[]string{"ok", "ok", "ok", "ok", "a:4 b:26"}},
		{"capture", []string{"n0 " + openAB, "n1 " + hold3, "n2 " + transfer8, "n0 " + readAll, "n2 " + capture4, "n0 " + void5, "n1 " + capture4, "n0 " + readAll},
			[]string{"ok", "ok", "refused", "a:10-8 b:20", "ok", "refused", "ok", "a:2 b:28"}},
		{"hold and capture together", []string{"n0 " + openAB, "n0 " + hold3 + " &", "n0 " + capture4, "n0 " + readAll}, []string{"ok", "ok", "ok", "a:2 b:28"}},
		{"void", []string{"n0 " + openAB, "n1 " + hold3, "n2 " + void5, "n0 " + capture4, "n0 " + refund6, "n1 " + readAll},
			[]string{"ok", "ok", "ok", "refused", "refused", openedTail}},
		{"refund", []string{"n0 " + openAB, "n1 " + hold3, "n2 " + capture4, "n0 " + refund6, "n0 " + refund7, "n0 " + refund6, "n1 " + readAll},
			[]string{"ok", "ok", "ok", "ok", "refused", "ok", openedTail}},
		{"no such hold", []string{"n0 " + openAB, "n0 " + capture4, "n0 " + hold3, "n0 " + capture4, "n0 " + readAll},
			[]string{"ok", "refused", "ok", "refused", "a:10-8 b:20"}},
		{"restart", []string{"n0 " + openAB, "n0 " + transfer1, "n0 " + hold3, "n0 restart", "n0 " + transfer1, "n0 " + readAll, "n1 restart", "n1 " + readAll},
			[]string{"ok", "ok", "refused", "ok", "a:4 b:26", "a:4 b:26"}},
		{"malformed", []string{"n0 " + openAB, `n0 {"type":"transfer","id":"1","from":"a","to":"a","amount":1}`, `n0 {"type":"transfer","id":"1","from":"a","to":"b","amount":0}`,
			`n0 {"type":"transfer","id":"1","from":"a","to":"b","amount":1.5}`, `n0 {"type":"transfer","from":"a","to":"b","amount":1}`,
			`n0 {"type":"void","id":"9"}`, `n0 {"type":"open"}`, `n0 {"type":"open","accounts":{"a":-1}}`, `n0 {"type":"open","accounts":{"@x":1}}`,
			`n0 {"type":"close","id":"1"}`, fmt.Sprintf(`n0 {"type":"void","id":"%065d","hold":"3"}`, 0)},
			[]string{"ok", "error 12", "error 12", "error 12", "error 12", "error 12", "error 12", "error 12", "error 12", "error 10", "error 12"}},
		{"unknown account", []string{"n0 " + openAB, `n0 {"type":"transfer","id":"1","from":"a","to":"x","amount":1}`, `n0 {"type":"transfer","id":"2","from":"bank:cash","to":"a","amount":1}`},
			[]string{"ok", "refused", "error 12"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, newBranches(t, bankSpec(), 1).play(c.lines...)); diff != "" {
				t.Errorf("answers mismatch (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBankArguments(t *testing.T) {
	for args, want := range map[string]string{"": "", "--store lin-kv --delay=5ms": "", "--store lww-kv": "want seq-kv or lin-kv", "--delay x": "want a duration",
		"--delay -1s": "want a duration", "--stale": "unknown argument"} {
		_, err := bankSpec().New(Start{ID: "n0", Nodes: []string{"n0"}, Args: strings.Fields(args)})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("New(%q) fails with %v, want %q", args, err, want)
		}
	}
}

// Each mutant of the bank answers as it says it does, where its twin does right.
func TestBankMutantsAreWrong(t *testing.T) {
	scripts := map[string]struct {
		lines        []string
		right, wrong string // the last answer
		alone        bool
	}{
		"bank-debit-first":      {[]string{"n0 " + openAB, "n0 " + transfer1, "n0 restart", "n0 " + readAll}, "a:4 b:26", "a:4 b:20", false},
		"bank-spends-holds":     {[]string{"n0 " + openAB, "n0 " + hold3, "n0 " + transfer8, "n0 " + readAll}, "a:10-8 b:20", "a:5-8 b:25", false},
		"bank-captures-voided":  {[]string{"n0 " + openAB, "n0 " + hold3, "n0 " + void5, "n0 " + capture4, "n0 " + readAll}, openedTail, "a:2 b:28", false},
		"bank-refunds-twice":    {[]string{"n0 " + openAB, "n0 " + hold3, "n0 " + capture4, "n0 " + refund6, "n0 " + refund7, "n0 " + readAll}, openedTail, "a:18 b:12", false},
		"bank-keyless":          {[]string{"n0 " + openAB, "n0 " + transfer2, "n1 " + transfer2, "n0 " + readAll}, "a:16 b:14", "a:22 b:8", false},
		"bank-old-reads":        {[]string{"n0 " + openAB, "n0 " + transfer1, "n0 " + readAll}, "a:4 b:26", openedTail, false},
		"bank-reads-and-writes": {[]string{"n0 " + openAB, "n0 " + transfer1, "n1 " + transfer2, "n2 " + readAll}, openedTail, "", true},
	}
	for _, m := range bankMutants() {
		s, some := scripts[m.Name]
		if !some {
			t.Errorf("%s: no script", m.Name)
			continue
		}
		wrong := false
		for seed := uint64(1); seed <= 20 && !wrong; seed++ { // what seq-kv shows is luck
			last := func(spec Spec) string {
				b := newBranches(t, spec, seed)
				b.alone = s.alone
				for _, name := range b.names {
					b.start(name)
				}
				answers := b.play(s.lines...)
				return answers[len(answers)-1]
			}
			if right := last(m.Twin); right != s.right {
				t.Fatalf("%s, seed %d: its twin answers %q, want %q", m.Name, seed, right, s.right)
			}
			got := last(m.Spec)
			wrong = got == s.wrong || s.wrong == "" && got != s.right
			if !wrong && got != s.right {
				t.Errorf("%s, seed %d: answers %q, want %q", m.Name, seed, got, s.wrong)
			}
		}
		if !wrong {
			t.Errorf("%s: is not wrong", m.Name)
		}
	}
}
