package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"dongne/chat/room"
	"dongne/internal/serve/servetest"

	"github.com/google/go-cmp/cmp"
)

// processes are real chat processes, each behind relays of the test, whose addresses do not change when one restarts.
type processes struct {
	t      *testing.T
	relays map[[2]string]*relay // from, to; clients are "": they go straight to the node

	mu    sync.Mutex
	procs map[string]*process
}

type process struct {
	servetest.Process
	dir  string
	addr string // "" while it is down
}

// relay passes TCP connections on to a node, unless the link is cut.
type relay struct {
	net.Listener
	up    atomic.Bool
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func (r *relay) serve(target func() string) {
	for {
		in, err := r.Accept()
		if err != nil {
			return
		}
		go func() {
			defer in.Close()
			out, err := net.Dial("tcp", target())
			if err != nil || !r.keep(in, out) {
				return
			}
			defer out.Close()
			go func() { io.Copy(out, in); out.Close() }()
			io.Copy(in, out)
		}()
	}
}

// keep notes a connection's two ends; false while the link is cut.
func (r *relay) keep(ends ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range ends {
		if !r.up.Load() {
			c.Close()
		}
		r.conns[c] = struct{}{}
	}
	return r.up.Load()
}

func (r *relay) set(up bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.up.Store(up); !up {
		for c := range r.conns {
			c.Close()
		}
		clear(r.conns)
	}
}

func startProcesses(t *testing.T, names ...string) *processes {
	p := &processes{t: t, relays: map[[2]string]*relay{}, procs: map[string]*process{}}
	binary := servetest.Build(t)
	for _, name := range names {
		p.procs[name] = &process{Process: servetest.Process{Binary: binary}, dir: t.TempDir()}
	}
	for _, to := range names {
		for _, from := range names {
			if from == to {
				continue
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			r := &relay{Listener: l, conns: map[net.Conn]struct{}{}}
			r.up.Store(true)
			t.Cleanup(func() { l.Close(); r.set(false) })
			p.relays[[2]string{from, to}] = r
			go r.serve(func() string { return p.addr(to) })
		}
	}
	for _, name := range names {
		p.start(name)
	}
	return p
}

func (p *processes) addr(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.procs[name].addr
}

func (p *processes) start(name string) {
	p.t.Helper()
	var peers []string
	for link, r := range p.relays {
		if link[0] == name {
			peers = append(peers, link[1]+"=http://"+r.Addr().String())
		}
	}
	proc := p.procs[name]
	proc.Env = []string{"NODE_ID=" + name, "DATA_DIR=" + proc.dir, "PEERS=" + strings.Join(peers, ","), "PEER_SECRET=" + secret, "SENDS_PER_SECOND=100000"}
	proc.Start(p.t)
	p.mu.Lock()
	defer p.mu.Unlock()
	proc.addr = proc.Addr
}

// kill is kill -9.
func (p *processes) kill(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.procs[name].addr = ""
	p.procs[name].Kill()
}

// writer sends messages with a key each, to any node that takes them, until ctx ends; it notes what was acknowledged.
func (p *processes) writer(ctx context.Context, id room.ID, user string, names []string, acknowledged func(text string)) {
	for i, at := 0, 0; ctx.Err() == nil; i++ {
		text := fmt.Sprintf("%s-%d", user, i)
		for ctx.Err() == nil {
			if err := p.send(ctx, names[at%len(names)], id, user, text); err == nil {
				acknowledged(text)
				break
			}
			at++ // with the same key, wherever it is tried next
		}
	}
}

func (p *processes) send(ctx context.Context, name string, id room.ID, user, text string) error {
	ctx, cancel := context.WithTimeout(ctx, patience/4)
	defer cancel()
	url := "http://" + p.addr(name) + "/rooms/" + id.String() + "/messages"
	r, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(`{"text":"`+text+`"}`))
	if err != nil {
		return err
	}
	r.Header.Set("X-User", user)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Idempotency-Key", text)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if io.Copy(io.Discard, response.Body); response.StatusCode != 201 {
		return errors.New(response.Status)
	}
	return nil
}

// reader follows a user's stream, on any node that is up, until it has heard all of the last messages.
type reader struct {
	user   string
	shown  map[room.ID]string
	wrong  []string
	moves  int
	missed map[string]bool // of the last messages
}

func (p *processes) read(ctx context.Context, r *reader, names []string, at int, ready func()) {
	position := ""
	for ctx.Err() == nil && len(r.missed) > 0 {
		request, _ := http.NewRequestWithContext(ctx, "GET", "http://"+p.addr(names[at%len(names)])+"/stream", nil)
		request.Header.Set("X-User", r.user)
		request.Header.Set("Last-Event-ID", position)
		at++
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			continue
		}
		events := make(chan event)
		go readEvents(response.Body, events)
		for e := range events {
			if e.id != "" {
				position = e.id
				ready()
			}
			if r.hear(e); len(r.missed) == 0 {
				response.Body.Close()
			}
		}
		response.Body.Close()
		r.moves++
	}
}

func (r *reader) hear(e event) {
	var m messageJSON
	json.Unmarshal([]byte(e.data), &m)
	switch e.name {
	case "message":
		if _, twice := r.shown[m.ID]; twice {
			r.wrong = append(r.wrong, "shown twice: "+e.data)
		}
		r.shown[m.ID] = m.Text
		delete(r.missed, m.Text)
	case "deleted":
		delete(r.shown, m.ID)
	case "reset":
		r.wrong = append(r.wrong, "reset: "+e.data)
	}
}

// TestKilledInMidStream: three processes under load; one is killed with -9 and its clients move on, it comes back, then
// a link is cut and heals. Nothing acknowledged is lost, nothing is shown twice, and all histories are equal.
func TestKilledInMidStream(t *testing.T) {
	names := []string{"n1", "n2", "n3"}
	p := startProcesses(t, names...)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	on := func(user, name string) as { return as{t: t, url: "http://" + p.addr(name), user: user} }

	var members []string
	for i := range 6 {
		members = append(members, fmt.Sprintf("w%d", i), fmt.Sprintf("r%d", i))
	}
	watch := on("r0", "n2").stream("")
	watch3 := on("r0", "n3").stream("")
	id := on("w0", "n1").create("group", members...)
	watch.next("room")
	watch3.next("room")

	ends := map[string]bool{"end-n1": true, "end-n2": true, "end-n3": true}
	readers := make([]*reader, 6)
	var reading, started, writing sync.WaitGroup
	for i := range readers {
		r := &reader{user: fmt.Sprintf("r%d", i), shown: map[room.ID]string{}, missed: maps.Clone(ends)}
		readers[i] = r
		started.Add(1)
		ready := sync.OnceFunc(started.Done)
		reading.Go(func() { p.read(ctx, r, names, i, ready) })
	}
	started.Wait()

	var mu sync.Mutex
	acknowledged := map[string]bool{}
	progress := make(chan int, 1<<16)
	writeCtx, stop := context.WithCancel(ctx)
	for i := range 6 {
		writing.Go(func() {
			p.writer(writeCtx, id, fmt.Sprintf("w%d", i), append(slices.Clone(names[i%3:]), names[:i%3]...), func(text string) {
				mu.Lock()
				defer mu.Unlock()
				acknowledged[text] = true
				progress <- len(acknowledged)
			})
		})
	}
	until := func(n int) {
		for {
			select {
			case have := <-progress:
				if have >= n {
					return
				}
			case <-ctx.Done():
				t.Fatalf("no %d acknowledgements: %v", n, ctx.Err())
			}
		}
	}
	until(300)
	p.kill("n1")
	until(600)
	p.start("n1")
	until(900)
	p.relays[[2]string{"n2", "n3"}].set(false)
	p.relays[[2]string{"n3", "n2"}].set(false)
	p.relays[[2]string{"n1", "n3"}].set(false)
	until(1200)
	for _, r := range p.relays {
		r.set(true)
	}
	until(1500)
	stop()
	writing.Wait()
	for _, name := range names {
		on("w0", name).post(id, "end-"+name)
	}
	reading.Wait()
	for _, name := range names { // each node has everything once its stream, from the start on, has told all ends
		all := on("w1", name).stream("-")
		for missed := maps.Clone(ends); len(missed) > 0; {
			var m messageJSON
			json.Unmarshal([]byte(all.next("message").data), &m)
			delete(missed, m.Text)
		}
	}

	want := settled(on("w1", "n1"), id)
	for _, name := range names {
		if diff := cmp.Diff(want, settled(on("w1", name), id)); diff != "" {
			t.Errorf("history on n1 and %s differ (-n1 +%s):\n%s", name, name, diff)
		}
	}
	times := map[string]int{}
	for _, m := range want {
		times[m.Text]++
	}
	for text := range acknowledged {
		if times[text] != 1 {
			t.Errorf("%s was acknowledged and is %d times in the history", text, times[text])
		}
	}
	moves := 0
	for _, r := range readers {
		moves += r.moves
		for _, wrong := range r.wrong {
			t.Errorf("%s: %s", r.user, wrong)
		}
		for _, m := range want {
			if r.shown[m.ID] != m.Text {
				t.Errorf("%s shows %q in place of %s %q", r.user, r.shown[m.ID], m.ID, m.Text)
			}
			delete(r.shown, m.ID)
		}
		if len(r.shown) > 0 {
			t.Errorf("%s shows %d messages that are not in the history", r.user, len(r.shown))
		}
	}
	if moves < len(readers)/3 {
		t.Errorf("%d moves: the kill cut off nobody", moves)
	}
	t.Logf("%d acknowledged messages, %d in the history, %d moves", len(acknowledged), len(want), moves)
}

// settled is a room's whole history without what was deleted.
func settled(a as, id room.ID) []messageJSON {
	a.t.Helper()
	var all []messageJSON
	query := "?limit=200"
	for {
		page := decode[pageOf[messageJSON]](a.do("GET", "/rooms/"+id.String()+"/messages"+query, nil).want(200, ""))
		all = append(page.Items, all...)
		if page.Next == "" {
			return slices.DeleteFunc(all, func(m messageJSON) bool { return m.Deleted })
		}
		query = "?limit=200&before=" + page.Next
	}
}
