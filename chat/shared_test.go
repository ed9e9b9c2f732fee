package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dongne/chat/node"
	"dongne/chat/room"
	"dongne/internal/etcd/etcdtest"
	"dongne/internal/serve"
	"dongne/internal/sharedlog/enginetest"

	"github.com/google/go-cmp/cmp"
)

// shelf is shared logs in memory, and each node's way to them.
type shelf struct {
	logs []*enginetest.Memory
	ways map[string]*way
}

// way is a node's way to the shared logs.
type way struct {
	cut   atomic.Bool                             // no request arrives
	deaf  atomic.Bool                             // requests arrive, no answer comes back
	tries atomic.Int64                            // creates
	hold  atomic.Pointer[chan struct{}]           // creates wait until it is closed
	set   atomic.Pointer[func() (cut, lost bool)] // says the fate of a create
}

var errCut = errors.New("the way to the shared log is cut")

// clocksOff: on shared logs a wrong clock puts nothing in the wrong order.
var clocksOff = map[string]time.Duration{"n2": -40 * time.Second, "n3": 30 * time.Second}

// onShelf brings up nodes on so many shared logs.
func onShelf(t *testing.T, shards int, names ...string) (*cluster, *shelf) {
	s := &shelf{ways: map[string]*way{}}
	for range shards {
		s.logs = append(s.logs, enginetest.NewMemory())
	}
	for _, name := range names {
		s.ways[name] = &way{}
	}
	c := newCluster(t)
	c.shared, c.off = s.open, clocksOff
	return c.start(names...), s
}

func startShared(t *testing.T, names ...string) *cluster {
	c, _ := onShelf(t, 4, names...)
	return c
}

func (s *shelf) open(name string) *node.Shared {
	shared := &node.Shared{Incarnation: 1}
	for _, log := range s.logs {
		shared.Engines = append(shared.Engines, s.ways[name].to(log))
	}
	return shared
}

func (w *way) to(log *enginetest.Memory) *enginetest.Memory {
	e := log.Another()
	var lost atomic.Bool // of the create under way; a log has one at a time
	e.OnCreate = func(uint64) error {
		w.tries.Add(1)
		lost.Store(false)
		if hold := w.hold.Load(); hold != nil {
			<-*hold
		}
		if fate := w.set.Load(); fate != nil {
			cut, lose := (*fate)()
			lost.Store(lose)
			if cut {
				return errCut
			}
		}
		return w.passes(false)
	}
	e.OnCreated = func(uint64) error {
		if lost.Load() {
			return errCut
		}
		return w.passes(true)
	}
	e.OnGet = func(uint64) error { return w.passes(true) }
	return e
}

func (w *way) passes(back bool) error {
	if w.cut.Load() || back && w.deaf.Load() {
		return errCut
	}
	return nil
}

// within waits until done says so.
func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !done(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// TestOnSharedLogs: what the API promises of a log of one's own, it promises of shared logs.
func TestOnSharedLogs(t *testing.T) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, starter)
	}{
		{"rooms", rooms}, {"messages", messages}, {"bad input", badInput}, {"a stream resumes", streamResumes},
		{"removed in mid stream", removedInMidStream}, {"restart", restart}, {"typing and presence", typingAndPresence},
		{"shutdown", shutdown}, {"removed while sending", removedWhileSending},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, startShared) })
	}
}

// orders gives the different orders in which a room's messages were seen, each by one who saw it so.
func orders(seen map[string][]string) []string {
	first := map[string]string{}
	for who, texts := range seen {
		order := strings.Join(texts, " ")
		if other, known := first[order]; !known || who < other {
			first[order] = who
		}
	}
	var who []string
	for _, name := range first {
		who = append(who, name)
	}
	slices.Sort(who)
	return who
}

// upTo reads a stream's messages up to one with that text.
func (s *sse) upTo(text string) []string {
	s.t.Helper()
	var texts []string
	for {
		m := decode[messageJSON](answer{as: as{t: s.t}, body: []byte(s.next("message").data)})
		if texts = append(texts, m.Text); m.Text == text {
			return texts
		}
	}
}

// TestOrderOfArrival: two nodes that do not hear of each other's writes show both in one order when they share a log, live
// and in history. Where each has a log of its own they stream in the order of arrival, which the same check must see.
func TestOrderOfArrival(t *testing.T) {
	for _, test := range []struct {
		name  string
		start starter
		want  int
	}{{"shared logs", startShared, 1}, {"gossip", start, 2}} {
		t.Run(test.name, func(t *testing.T) {
			c := test.start(t, "n1", "n2")
			ana1, ana2 := c.as("ana", "n1"), c.as("ana", "n2")
			at1, at2 := c.as("bo", "n1").stream(""), c.as("bo", "n2").stream("")
			at1.next("")
			at2.next("")
			id := ana1.create("group", "bo")
			at1.next("room")
			at2.next("room")
			c.link("n1", "n2", false)
			ana1.post(id, "a")
			ana2.post(id, "b")
			at1.message("a") // each node has streamed its own
			at2.message("b")
			c.link("n1", "n2", true)
			for _, at := range []*sse{at1, at2} {
				at.close()
			}
			seen := map[string][]string{}
			for name, a := range map[string]as{"n1": ana1, "n2": ana2} {
				within(t, name+" has both", func() bool { return len(a.history(id)) == 2 })
				s := c.as("bo", name).stream("-")
				first := decode[messageJSON](answer{as: a, body: []byte(s.next("message").data)})
				second := decode[messageJSON](answer{as: a, body: []byte(s.next("message").data)})
				seen["live on "+name] = []string{first.Text, second.Text}
			}
			if got := orders(seen); len(got) != test.want {
				t.Errorf("%d orders, want %d: %v", len(got), test.want, seen)
			}
		})
	}
}

const publishers, publishEach = 8, 25

// crowd has eight publishers send to one room, each message to another node and with its key until it is acknowledged.
// A stream on each node and the history of each must show one order, and every message once. disturb is called when the
// streams run, and then after every acknowledgement.
func (c *cluster) crowd(names []string, disturb func(acknowledged int)) {
	t := c.t
	var members, all []string
	for i := range publishers {
		members = append(members, fmt.Sprint("p", i))
		for k := range publishEach {
			all = append(all, fmt.Sprintf("p%d-%d", i, k))
		}
	}
	streams := map[string]*sse{}
	for _, name := range names {
		streams[name] = c.as("p0", name).stream("")
		streams[name].next("")
	}
	id := c.as("p0", names[0]).create("group", members...)
	for _, name := range names {
		streams[name].next("room")
	}
	disturb(0)
	var publishing sync.WaitGroup
	var acknowledged atomic.Int64
	for i, user := range members {
		publishing.Go(func() {
			for k := range publishEach {
				for try := i + k; !c.as(user, names[try%len(names)]).sent(id, fmt.Sprintf("%s-%d", user, k)); try++ {
				}
				disturb(int(acknowledged.Add(1)))
			}
		})
	}
	publishing.Wait()
	c.as("p0", names[0]).post(id, "end")
	seen := map[string][]string{}
	for _, name := range names {
		seen["live on "+name] = streams[name].upTo("end")
		for _, m := range settled(c.as("p1", name), id) {
			seen["history of "+name] = append(seen["history of "+name], m.Text)
		}
	}
	if got := orders(seen); len(got) != 1 {
		t.Errorf("%d orders, as seen by %v:\n%v", len(got), got, seen)
	}
	got := slices.Sorted(slices.Values(seen["history of "+names[0]]))
	if diff := cmp.Diff(slices.Sorted(slices.Values(append(all, "end"))), got); diff != "" {
		t.Errorf("messages (-acknowledged +history):\n%s", diff)
	}
}

// TestOneOrder: three nodes, whose requests and answers to the shared log are lost now and then, and the hints between two
// of them always.
func TestOneOrder(t *testing.T) {
	seed := rand.Uint64()
	if text := os.Getenv("SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", seed)
	var mu sync.Mutex
	luck := rand.New(rand.NewPCG(seed, 1))
	chance := func(percent int) bool {
		mu.Lock()
		defer mu.Unlock()
		return luck.IntN(100) < percent
	}
	names := []string{"n1", "n2", "n3"}
	c, shelf := onShelf(t, 2, names...)
	c.link("n1", "n2", false)
	c.crowd(names, func(acknowledged int) {
		for _, way := range shelf.ways {
			fate := func() (cut, lost bool) { return chance(5), chance(10) }
			if acknowledged == publishers*publishEach {
				way.set.Store(nil)
			} else if acknowledged == 0 {
				way.set.Store(&fate)
			}
		}
	})
}

// TestEtcd: the same on a real etcd, from which one node is cut off for a while.
func TestEtcd(t *testing.T) {
	cluster := etcdtest.Start(t, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	way := &relay{Listener: l, conns: map[net.Conn]struct{}{}}
	way.up.Store(true)
	t.Cleanup(func() { l.Close(); way.set(false) })
	go way.serve(func() string { return cluster.Endpoints()[0] })
	names := []string{"n1", "n2", "n3"}
	c := newCluster(t)
	c.off = clocksOff
	c.store = func(name string) string {
		if name == "n3" {
			return "etcd://" + l.Addr().String()
		}
		return "etcd://" + cluster.Endpoints()[0]
	}
	c.start(names...)
	c.crowd(names, func(acknowledged int) {
		switch acknowledged {
		case publishers * publishEach / 4:
			way.set(false)
		case publishers * publishEach / 2:
			way.set(true)
		}
	})
	if failures := metric(t, c.as("p0", "n3"), "chat_shared_log_failures_total"); failures == "0" {
		t.Error("n3 was never cut off")
	}
	other := serve.Env(vars, func(name string) string {
		return map[string]string{"STORE": c.store("n1"), "SHARDS": "5", "DATA_DIR": t.TempDir()}[name]
	})
	if err := run(t.Context(), other, io.Discard); err == nil || !strings.Contains(err.Error(), "SHARDS: 5, but this store was begun with 4") {
		t.Errorf("a process with another number of shards: %v", err)
	}
	c.stop("n2")
	c.nodes["n2"].server = httptest.NewUnstartedServer(nil)
	c.open("n2")
	page := "/rooms?limit=200"
	if one, two := c.as("p1", "n1").do("GET", page, nil), c.as("p1", "n2").do("GET", page, nil); string(one.body) != string(two.body) {
		t.Errorf("after a restart n2 says\n%s where n1 says\n%s", two.body, one.body)
	}
}

// sent sends a message under its text as the key, and says whether it was acknowledged.
func (a as) sent(id room.ID, text string) bool {
	a.t.Helper()
	got := a.do("POST", "/rooms/"+id.String()+"/messages", map[string]any{"text": text}, "Idempotency-Key", text)
	if got.status != 201 && got.status != 503 {
		a.t.Errorf("%s: %d %s", text, got.status, got.body)
	}
	return got.status == 201
}

// TestCutOff: a node that cannot reach the shared logs answers writes in time with 503 and what is known of them: the
// one under way may yet have happened, those behind it have not. It goes on serving what it has, live and in history. When
// it is back, what was unknown is settled by its key, once, on whichever node.
func TestCutOff(t *testing.T) {
	for _, test := range []struct {
		name string
		cut  func(*way) (heal func())
		want string // the history
	}{
		{"no request arrives", cutting(func(w *way) *atomic.Bool { return &w.cut }), "before meanwhile under-way end"},
		{"no answer comes back", cutting(func(w *way) *atomic.Bool { return &w.deaf }), "before under-way meanwhile end"},
		{"a request is stuck", func(w *way) (heal func()) {
			hold := make(chan struct{})
			w.hold.Store(&hold)
			return func() { w.hold.Store(nil); close(hold) }
		}, "before meanwhile under-way end"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c, shelf := onShelf(t, 1, "n1", "n2")
			ana1, bo2 := c.as("ana", "n1"), c.as("bo", "n2")
			at2 := bo2.stream("")
			at2.next("")
			id := ana1.create("group", "bo")
			before := ana1.post(id, "before")
			at2.message("before")
			position, path := at2.id, "/rooms/"+id.String()

			heal := sync.OnceFunc(test.cut(shelf.ways["n2"]))
			defer heal()
			tries := shelf.ways["n2"].tries.Load()
			var sends sync.WaitGroup
			send := func(text, outcome string) {
				sends.Go(func() {
					began := time.Now()
					got := bo2.do("POST", path+"/messages", map[string]any{"text": text}, "Idempotency-Key", text).want(503, "store-unreachable")
					if problem := decode[struct{ Outcome string }](got); problem.Outcome != outcome || got.header.Get("Retry-After") == "" {
						t.Errorf("%s: %s %v, want outcome %s", text, got.body, got.header, outcome)
					}
					if took := time.Since(began); took > 5*time.Second {
						t.Errorf("%s: answered after %v", text, took)
					}
				})
			}
			send("under-way", "unknown")
			within(t, "a create", func() bool { return shelf.ways["n2"].tries.Load() > tries })
			send("behind", "not_applied")

			if got := bo2.history(id); len(got) != 1 || got[0] != before {
				t.Errorf("history while cut off = %v", got)
			}
			if r := decode[roomJSON](bo2.do("GET", path, nil).want(200, "")); r.Unread != 1 || r.Last.Text != "before" {
				t.Errorf("room while cut off = %+v", r)
			}
			ana1.do("POST", path+"/typing", nil).want(204, "")
			at2.next("typing")
			again := bo2.stream(position)
			bo2.do("PUT", path+"/read", `{"message":"`+before.ID.String()+`"}`).want(202, "")
			meanwhile := ana1.post(id, "meanwhile")
			sends.Wait()
			heal()
			for _, s := range []*sse{at2, again} {
				if m := s.message("meanwhile"); m != meanwhile {
					t.Errorf("after the cut %+v is streamed, want %+v", m, meanwhile)
				}
			}
			first := ana1.as("bo").post(id, "under-way", "Idempotency-Key", "under-way")
			if second := bo2.post(id, "under-way", "Idempotency-Key", "under-way"); second != first {
				t.Errorf("one key makes %+v on n1 and %+v on n2", first, second)
			}
			at2.next("read")
			ana1.post(id, "end")
			at2.message("end")
			if one, two := ana1.texts(id), bo2.texts(id); one != test.want || two != test.want {
				t.Errorf("histories are\n%q and\n%q, want\n%q", one, two, test.want)
			}
		})
	}
}

func cutting(what func(*way) *atomic.Bool) func(*way) (heal func()) {
	return func(w *way) func() {
		what(w).Store(true)
		return func() { what(w).Store(false) }
	}
}

func (a as) as(user string) as { return as{t: a.t, url: a.url, user: user} }

// TestMovesToOneBehind: a reader that has seen more than the node to which it moves is told nothing twice and misses nothing.
func TestMovesToOneBehind(t *testing.T) {
	c, shelf := onShelf(t, 3, "n1", "n2")
	ana1, bo2 := c.as("ana", "n1"), c.as("bo", "n2")
	at1, at2 := c.as("bo", "n1").stream(""), bo2.stream("")
	at1.next("")
	at2.next("")
	id, other := ana1.create("group", "bo"), ana1.create("group", "bo")
	at2.next("room")
	at2.next("room")
	shelf.ways["n2"].cut.Store(true)
	ana1.post(id, "seen on n1")
	ana1.post(other, "also seen")
	at1.message("also seen")
	moved := bo2.stream(at1.id)
	ana1.post(other, "new")
	shelf.ways["n2"].cut.Store(false)
	ana1.post(id, "end")
	ana1.post(other, "end")
	got := append(moved.upTo("end"), moved.upTo("end")...)
	slices.Sort(got)
	if diff := cmp.Diff([]string{"end", "end", "new"}, got); diff != "" {
		t.Errorf("after the move (-want +told):\n%s", diff)
	}
	at2.upTo("end")
}

// TestExactAcrossNodes: what one node has answered holds on every other at once, without that it has heard of it.
func TestExactAcrossNodes(t *testing.T) {
	c := startShared(t, "n1", "n2")
	c.link("n1", "n2", false)
	ana1, bo1, bo2 := c.as("ana", "n1"), c.as("bo", "n1"), c.as("bo", "n2")
	for i := range 8 {
		user := fmt.Sprint("user", i)
		direct := ana1.create("direct", user)
		path := "/rooms/" + direct.String() + "/messages"
		c.as(user, "n2").do("PUT", "/blocks/ana", nil).want(204, "")
		ana1.do("POST", path, `{"text":"x"}`).want(403, "blocked")
		c.as(user, "n2").do("DELETE", "/blocks/ana", nil).want(204, "")
		m := ana1.post(direct, "x", "Idempotency-Key", "to-"+user)
		if again := c.as("ana", "n2").post(direct, "x", "Idempotency-Key", "to-"+user); again != m {
			t.Errorf("the same request on n2 makes %+v, want %+v", again, m)
		}
		ana1.do("POST", path, `{"text":"y"}`, "Idempotency-Key", "to-"+user).want(422, "idempotency-key-reused")

		create := map[string]any{"kind": "group", "name": user, "members": []string{"bo"}}
		made := decode[roomJSON](ana1.do("POST", "/rooms", create, "Idempotency-Key", user).want(201, ""))
		again := decode[roomJSON](c.as("ana", "n2").do("POST", "/rooms", create, "Idempotency-Key", user).want(201, ""))
		if again.ID != made.ID {
			t.Errorf("one key makes room %v on n1 and %v on n2", made.ID, again.ID)
		}
		bo2.post(made.ID, "hello")
		ana1.do("DELETE", "/rooms/"+made.ID.String()+"/members/bo", nil).want(204, "")
		bo2.do("POST", "/rooms/"+made.ID.String()+"/messages", `{"text":"x"}`).want(403, "not-a-member")
		bo1.do("GET", "/rooms/"+made.ID.String(), nil).want(403, "not-a-member")
	}
}

var traceIDs = regexp.MustCompile(`"trace_id":"[0-9a-f]*",?`)

// TestReplayEqualsLive: a node that reads the logs one after the other at its start answers as those that took their
// slots in as they came.
func TestReplayEqualsLive(t *testing.T) {
	c, _ := onShelf(t, 4, "n1", "n2")
	users := []string{"ana", "bo", "chae"}
	luck := rand.New(rand.NewPCG(4, 2))
	var ids []room.ID
	for i := range 12 {
		kind := "group"
		if i < 3 {
			kind = "direct"
		}
		ids = append(ids, c.as(users[i%3], []string{"n1", "n2"}[i%2]).create(kind, users[(i+1)%3]))
	}
	for i := range 150 {
		a, id := c.as(users[luck.IntN(3)], []string{"n1", "n2"}[luck.IntN(2)]), ids[luck.IntN(len(ids))]
		path := "/rooms/" + id.String()
		got := a.do("POST", path+"/messages", map[string]any{"text": fmt.Sprint(i)}, "Idempotency-Key", fmt.Sprint(i%100))
		if got.status != 201 {
			continue
		}
		m := decode[messageJSON](got)
		switch luck.IntN(4) {
		case 0:
			a.do("PATCH", path+"/messages/"+m.ID.String(), `{"text":"edited"}`).want(200, "")
		case 1:
			a.do("DELETE", path+"/messages/"+m.ID.String(), nil).want(204, "")
		case 2:
			a.do("PUT", path+"/read", `{"message":"`+m.ID.String()+`"}`).want(202, "")
		}
	}
	c.stop("n2") // which writes what is gathered of read positions
	c.nodes["n2"].server = httptest.NewUnstartedServer(nil)
	c.open("n2")
	say := func(name string) string {
		var b strings.Builder
		for _, user := range users {
			fmt.Fprintf(&b, "%s\n", c.as(user, name).do("GET", "/rooms", nil).want(200, "").body)
			for _, id := range ids {
				fmt.Fprintf(&b, "%s\n", c.as(user, name).do("GET", "/rooms/"+id.String()+"/messages?limit=200", nil).body)
			}
		}
		return traceIDs.ReplaceAllString(b.String(), "")
	}
	within(t, "n1 and n2 say the same", func() bool { return say("n1") == say("n2") })
	if got := say("n1"); strings.Count(got, "\n") < 39 || !strings.Contains(got, `"edited"`) || !strings.Contains(got, `"read":`) {
		t.Errorf("they say little: %s", got)
	}
}
