package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestCut: both sides of a cut go on, and agree when it heals: messages are merged by id, what was deleted stays
// deleted, and a message that a client sent on both sides with one key is one.
func TestCut(t *testing.T) {
	c := start(t, "n1", "n2")
	ana1, ana2, bo2 := c.as("ana", "n1"), c.as("ana", "n2"), c.as("bo", "n2")
	at2 := bo2.stream("")
	at2.next("")
	id := ana1.create("group", "bo")
	at2.next("room")
	old := ana1.post(id, "old")
	at2.message("old")

	c.link("n1", "n2", false)
	at1 := c.as("bo", "n1").stream("")
	at1.next("")
	path := "/rooms/" + id.String() + "/messages"
	early := ana1.post(id, "early", "Idempotency-Key", "retry")
	first := ana1.post(id, "on-n1")
	ana2.post(id, "early", "Idempotency-Key", "retry") // the client moved, and does not know that n1 took it
	bo2.post(id, "on-n2")
	ana1.do("DELETE", path+"/"+old.ID.String(), nil).want(204, "")
	ana2.do("PATCH", path+"/"+old.ID.String(), `{"text":"edited elsewhere"}`).want(200, "")
	ana2.do("PATCH", path+"/"+first.ID.String(), `{"text":"x"}`).want(404, "message-unknown") // not heard of yet
	c.link("n1", "n2", true)

	at1.message("on-n2")
	at2.message("on-n1")
	for !strings.Contains(at2.next("deleted").data, old.ID.String()) {
	}
	want := "early on-n1 on-n2"
	if got := ana1.texts(id); got != want {
		t.Errorf("n1 has %q, want %q", got, want)
	}
	if got := ana2.texts(id); got != want {
		t.Errorf("n2 has %q, want %q", got, want)
	}
	if a, b := ana1.history(id), ana2.history(id); len(a) != len(b) || a[1].ID != early.ID || b[1].ID != early.ID {
		t.Errorf("histories differ, or the later copy stayed:\n%v\n%v", a, b)
	}
}

// TestRemovedBehindACut: n1 removes bo, n3 hears of it and takes a message; n2 gets the message without the removal.
// It must not show it: entries take effect in causal order.
func TestRemovedBehindACut(t *testing.T) {
	c := start(t, "n1", "n2", "n3")
	ana, bo := c.as("ana", "n1"), c.as("bo", "n2")
	at3 := c.as("ana", "n3").stream("")
	at3.next("")
	stream := bo.stream("")
	stream.next("")
	id, rest := ana.create("group", "bo"), ana.create("group", "bo")
	ana.post(rest, "before")
	stream.message("before")
	c.link("n1", "n2", false)
	ana.do("DELETE", "/rooms/"+id.String()+"/members/bo", nil).want(204, "")
	for !strings.Contains(at3.next("member").data, `"joined":false`) {
	}
	c.as("ana", "n3").post(id, "secret")
	c.as("ana", "n3").post(rest, "after")
	var told []string
	for e, ok := stream.any(); ok && !strings.Contains(e.data, `"after"`); e, ok = stream.any() {
		told = append(told, e.name+e.data)
	}
	if all := strings.Join(told, " "); strings.Contains(all, "secret") || !strings.Contains(all, `"joined":false`) {
		t.Errorf("behind the cut bo hears %s", all)
	}
	bo.do("GET", "/rooms/"+id.String()+"/messages", nil).want(403, "not-a-member")
}

// TestMoves: a reader that has seen more than the node to which it moves gets what is new there, nothing twice when the
// node catches up, and goes on from there.
func TestMoves(t *testing.T) {
	c := start(t, "n1", "n2")
	ana1, bo2 := c.as("ana", "n1"), c.as("bo", "n2")
	at2 := bo2.stream("")
	at2.next("")
	id := ana1.create("group", "bo")
	at2.next("room")
	at1 := c.as("bo", "n1").stream("")
	at1.next("")
	c.link("n1", "n2", false)
	ana1.post(id, "seen on n1")
	at1.message("seen on n1")
	at1.close()
	moved := bo2.stream(at1.id)
	bo2.post(id, "new on n2")
	moved.message("new on n2")
	position := moved.id
	again := bo2.stream(position) // and once more, still behind the cut
	c.link("n1", "n2", true)
	ana1.post(id, "end")
	for _, s := range []*sse{moved, again} {
		var texts []string
		for {
			var m messageJSON
			if err := json.Unmarshal([]byte(s.next("message").data), &m); err != nil {
				t.Fatal(err)
			}
			texts = append(texts, m.Text)
			if m.Text == "end" {
				break
			}
		}
		if got := strings.Join(texts, ", "); got != "end" {
			t.Errorf("after the move the stream tells %q, want the end alone", got)
		}
	}
}

// TestOldBackup: a node whose disk was put back to an old copy gets back from the others what it had told them, and
// numbers nothing new as it numbered what it forgot.
func TestOldBackup(t *testing.T) {
	c := start(t, "n1", "n2")
	restart := func(swap func(dir string)) {
		m := c.nodes["n2"]
		addr := m.server.Listener.Addr().String()
		c.stop("n2")
		swap(m.dir)
		l, err := net.Listen("tcp", addr) // n1 knows n2 by it
		if err != nil {
			t.Fatal(err)
		}
		m.server = httptest.NewUnstartedServer(nil)
		m.server.Listener.Close()
		m.server.Listener = l
		c.open("n2")
	}
	ana1, ana2 := c.as("ana", "n1"), c.as("ana", "n2")
	at1 := c.as("bo", "n1").stream("")
	at1.next("")
	id := ana2.create("group", "bo")
	ana2.post(id, "a")
	at1.message("a")
	backup := t.TempDir()
	restart(func(dir string) {
		if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
	})
	ana2 = c.as("ana", "n2")
	ana2.post(id, "b")
	at1.message("b")
	restart(func(dir string) {
		if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(backup))); err != nil {
			t.Fatal(err)
		}
	})
	ana2 = c.as("ana", "n2")
	at2 := c.as("bo", "n2").stream("-")
	at2.message("b")
	ana2.post(id, "c")
	at1.message("c")
	for name, a := range map[string]as{"n1": ana1, "n2": ana2} {
		if got := a.texts(id); got != "a b c" {
			t.Errorf("%s has %q, want a b c", name, got)
		}
	}
}

// TestLongNames: what one message between nodes brings fits into one slot, also where an entry's header, with names as
// orchestrators give them, is larger than its text.
func TestLongNames(t *testing.T) {
	one, two := strings.Repeat("a", 62)+"-1", strings.Repeat("a", 62)+"-2"
	c := start(t, one, two)
	ana := c.as("ana", one)
	at2 := c.as("bo", two).stream("")
	at2.next("")
	writers := []string{"bo"}
	for i := range 16 {
		writers = append(writers, fmt.Sprint("writer", i))
	}
	id := ana.create("group", writers...)
	at2.next("room")
	c.link(one, two, false)
	var posts sync.WaitGroup
	for _, writer := range writers[1:] {
		posts.Go(func() {
			for range 500 {
				c.as(writer, one).post(id, "m")
			}
		})
	}
	posts.Wait()
	c.link(one, two, true)
	for range 8000 {
		at2.next("message")
	}
}

// apart cuts, or heals, every link between n1, n2 and n3.
func (c *cluster) apart(cut bool) {
	for _, l := range [][2]string{{"n1", "n2"}, {"n1", "n3"}, {"n2", "n3"}} {
		c.link(l[0], l[1], !cut)
	}
}

// later waits until ids are greater: they are ordered by milliseconds.
func later() {
	for since := time.Now(); time.Since(since) < 5*time.Millisecond; {
	}
}

// until reads a stream up to a text, and returns all that it told.
func (s *sse) until(text string) string {
	s.t.Helper()
	var told []string
	for {
		e, ok := s.any()
		if !ok {
			s.t.Fatalf("the stream ends before %q:\n%s", text, strings.Join(told, "\n"))
		}
		told = append(told, e.name+" "+e.data)
		if strings.Contains(e.data, text) {
			return strings.Join(told, "\n")
		}
	}
}

// TestMovedOn: a reader sees something on n2, then on n1, which has not heard of it, something that contradicts it, and
// moves on to n3 before n1 could correct it. n3 knows both, and does.
func TestMovedOn(t *testing.T) {
	for _, what := range []string{"a copy", "an edit"} {
		t.Run(what, func(t *testing.T) {
			c := start(t, "n1", "n2", "n3")
			ana1, ana2, ana3 := c.as("ana", "n1"), c.as("ana", "n2"), c.as("ana", "n3")
			at1, at2, at3 := c.as("bo", "n1").stream(""), c.as("bo", "n2").stream(""), c.as("bo", "n3").stream("")
			for _, s := range []*sse{at1, at2, at3} {
				s.next("")
			}
			id := ana1.create("group", "bo")
			first := ana1.post(id, "first")
			for _, s := range []*sse{at1, at2, at3} {
				s.message("first")
			}
			c.apart(true)
			var wrong, want string
			if what == "a copy" {
				ana2.post(id, "once", "Idempotency-Key", "retry")
				at2.message("once")
				later()
				wrong = ana1.post(id, "once", "Idempotency-Key", "retry").ID.String()
				want = `"id":"` + wrong + `","stays":`
			} else {
				path := "/rooms/" + id.String() + "/messages/" + first.ID.String()
				ana1.do("PATCH", path, `{"text":"earlier"}`).want(200, "")
				later()
				ana2.do("PATCH", path, `{"text":"later"}`).want(200, "")
				at2.until("later")
				wrong, want = "earlier", `"text":"later"`
			}
			moved := c.as("bo", "n1").stream(at2.id)
			moved.until(wrong)
			position := moved.id
			moved.close()
			c.apart(false)
			ana1.post(id, "from n1")
			at3.message("from n1")
			ana2.post(id, "from n2")
			at3.message("from n2")
			ana3.post(id, "end")
			if told := c.as("bo", "n3").stream(position).until(`"end"`); !strings.Contains(told, want) {
				t.Errorf("moved on to n3 with position %s, bo is told\n%s\nand nothing with %s", position, told, want)
			}
		})
	}
}
