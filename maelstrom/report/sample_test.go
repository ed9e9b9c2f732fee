package report

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"dongne/maelstrom/check"
	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
)

// sampler makes a run of a broadcast that looks like a real one: clients ask five nodes, these pass values on, and the
// nemesis cuts and kills.
type sampler struct {
	run     *history.Run
	rand    *rand.Rand
	events  []history.Event
	ids     int64
	message int
	process map[int]int           // worker → process
	free    map[int]time.Duration // worker → when it is done
}

const sampleNodes = 5

func sampleRun(seed uint64, ops int) *history.Run {
	s := sampler{rand: rand.New(rand.NewPCG(seed, 1)), process: map[int]int{}, free: map[int]time.Duration{}, run: &history.Run{
		Workload: "broadcast", Started: time.Date(2026, 3, 5, 14, 3, 5, 0, time.FixedZone("", 9*3600)),
		Settings: []history.Setting{{Name: "node-count", Value: "5"}, {Name: "rate", Value: "100"}, {Name: "nemesis", Value: "partition,kill"}}}}
	for i := range sampleNodes {
		s.run.Nodes = append(s.run.Nodes, fmt.Sprint("n", i+1))
		s.process[i] = i
	}
	gap := 20 * time.Second / time.Duration(ops)
	for i := range ops {
		s.operation(time.Duration(i)*gap, i%sampleNodes)
	}
	s.fault("start-partition", 2*time.Second, `["isolated",{"n1":["n3","n4","n5"],"n2":["n3","n4","n5"],"n3":["n1","n2"],"n4":["n1","n2"],"n5":["n1","n2"]}]`)
	s.fault("stop-partition", 7*time.Second, `"network-healed"`)
	s.fault("kill", 6*time.Second, `["killed",["n4"]]`)
	s.fault("start", 9*time.Second, `["started",["n4"]]`)
	s.fault("start-partition", 12*time.Second, `["isolated",{"n1":["n2"],"n2":["n3"],"n3":["n1"]}]`)
	s.finish()
	return s.run
}

func (s *sampler) fault(f string, at time.Duration, value string) {
	for range 2 {
		s.run.Ops = append(s.run.Ops, history.Op{Time: at, Type: history.Info, Process: history.Nemesis, F: f, Value: json.RawMessage(value)})
		at += time.Millisecond
	}
}

// operation is one of a worker's: mostly ok, some refused, some never answered.
func (s *sampler) operation(at time.Duration, worker int) {
	if at < s.free[worker] {
		return
	}
	node, client := s.run.Nodes[worker], fmt.Sprint("c", worker)
	took := time.Duration(200+s.rand.ExpFloat64()*2000) * time.Microsecond
	if at > 2*time.Second && at < 7*time.Second {
		took *= 40
	}
	process := s.process[worker]
	f, value, done, outcome := "read", "null", "[1,2,3,4]", history.OK
	request, reply := `{"type":"read","msg_id":7}`, `{"type":"read_ok","messages":[1,2,3,4],"in_reply_to":7}`
	if s.rand.IntN(2) == 0 {
		s.message++
		f, value = "broadcast", fmt.Sprint(s.message)
		request, reply = fmt.Sprintf(`{"type":"broadcast","message":%d,"msg_id":7}`, s.message), `{"type":"broadcast_ok","in_reply_to":7}`
		done = value
		s.gossip(at+took/2, worker, value)
	}
	err := history.Error{}
	switch s.rand.IntN(40) {
	case 0:
		outcome, done, err = history.Fail, value, history.Error{Name: "temporarily-unavailable", Text: "no quorum <script>"}
		reply = `{"type":"error","code":11,"text":"no quorum <script>","in_reply_to":7}`
	case 1:
		outcome, done, took, err, reply = history.Info, value, 5*time.Second, history.Error{Name: "net-timeout"}, ""
		s.process[worker] += sampleNodes
	}
	s.free[worker] = at + took
	s.send(at, took/3, client, node, request, false)
	if reply != "" {
		s.send(at+took*2/3, took/3, node, client, reply, false)
	}
	s.run.Ops = append(s.run.Ops, history.Op{Time: at, Process: process, F: f, Value: json.RawMessage(value), Node: node},
		history.Op{Time: at + took, Type: outcome, Process: process, F: f, Value: json.RawMessage(done), Error: err, Node: node})
}

func (s *sampler) gossip(at time.Duration, from int, value string) {
	for to := range sampleNodes {
		if to != from {
			lost := at > 2*time.Second && at < 7*time.Second && (from < 2) != (to < 2)
			s.send(at, 100*time.Millisecond, s.run.Nodes[from], s.run.Nodes[to], `{"type":"gossip","values":[`+value+`]}`, lost)
		}
	}
}

func (s *sampler) send(at, took time.Duration, src, dest, body string, lost bool) {
	e := history.Event{Time: at, ID: s.ids, Src: src, Dest: dest, Body: json.RawMessage(body)}
	s.ids++
	s.events = append(s.events, e)
	if lost {
		s.run.Journal.Dropped++
		return
	}
	e.Time, e.Received = at+took, true
	s.events = append(s.events, e)
}

func (s *sampler) finish() {
	r := s.run
	slices.SortStableFunc(r.Ops, func(a, b history.Op) int { return int(a.Time - b.Time) })
	for i := range r.Ops {
		r.Ops[i].Index = i
	}
	r.Elapsed = r.Ops[len(r.Ops)-1].Time
	slices.SortStableFunc(s.events, func(a, b history.Event) int { return int(a.Time - b.Time) })
	for _, e := range s.events {
		c := history.Count{Sent: 1}
		if e.Received {
			c = history.Count{Received: 1}
		}
		r.Journal.All.Sent, r.Journal.All.Received = r.Journal.All.Sent+c.Sent, r.Journal.All.Received+c.Received
		if !history.IsClient(e.Src) && !history.IsClient(e.Dest) {
			r.Journal.Servers.Sent += c.Sent
		}
	}
	r.Journal.Truncated = len(s.events) > history.EventsMax
	r.Journal.Events = s.events[:min(len(s.events), history.EventsMax)]
}

var sampleFindings = []history.Finding{
	{Time: 3200 * time.Millisecond, Node: "n2", Kind: history.BadLine, Text: "n2 printed a line on stdout that is no JSON. Logs belong on stderr.",
		Line: `<script>alert("line")</script>`, Tail: []string{"starting", `<script>alert("tail")</script>` + "\x00\x1b[31m"}},
	{Time: 6 * time.Second, Node: "n4", Kind: history.LateReply, Text: "n4 answered a client that is gone."},
}

var sampleResults = check.Results{Valid: check.False, Ours: check.False, Upstream: check.True,
	Reasons: []string{"n2 printed a line that is no message.", "The value 17, acknowledged by n1 at 3.20 s, is missing in the final read of n3."},
	Fields: edn.Map{}.With("availability", edn.Map{}.With("valid?", true).With("ok-fraction", 0.975)).
		With("workload", edn.Map{}.With("valid?", true).With("stable-latencies", edn.Map{{Key: 0, Value: 0}, {Key: 0.5, Value: 120}, {Key: 1, Value: 470}})).
		With("valid?", false).With("upstream-valid?", true)}
