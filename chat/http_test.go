package main

import (
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dongne/chat/node"
	"dongne/chat/room"
	"dongne/internal/serve"

	"github.com/google/go-cmp/cmp"
)

func TestRooms(t *testing.T) { rooms(t, start) }

func rooms(t *testing.T, start starter) {
	c := start(t, "n1")
	ana, bo, chae := c.as("ana", "n1"), c.as("bo", "n1"), c.as("chae", "n1")

	direct := ana.create("direct", "bo")
	if again := decode[roomJSON](bo.do("POST", "/rooms", map[string]any{"kind": "direct", "members": []string{"ana"}}).want(200, "")); again.ID != direct {
		t.Errorf("the direct room from the other side is %v, want %v", again.ID, direct)
	}
	group := ana.create("group", "bo")
	channel := ana.create("channel")
	ana.do("PATCH", "/rooms/"+group.String(), `{"name":"동네 장터"}`).want(200, "")
	bo.do("POST", "/rooms/"+group.String()+"/members", `{"user":"chae"}`).want(204, "")
	bo.do("POST", "/rooms/"+group.String()+"/members", `{"user":"chae"}`).want(204, "")
	chae.do("POST", "/rooms/"+channel.String()+"/members", `{"user":"chae"}`).want(204, "")
	bo.do("POST", "/rooms/"+channel.String()+"/members", `{"user":"chae"}`).want(403, "not-a-member")

	got := decode[roomJSON](chae.do("GET", "/rooms/"+group.String(), nil).want(200, ""))
	want := roomJSON{ID: group, Kind: "group", Name: "동네 장터", Members: []string{"ana", "bo", "chae"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("room mismatch (-want +got):\n%s", diff)
	}

	ana.post(direct, "hi")
	ana.post(group, "hello")
	first := decode[pageOf[roomJSON]](bo.do("GET", "/rooms?limit=1", nil).want(200, ""))
	if len(first.Items) != 1 || first.Items[0].ID != group || first.Items[0].Unread != 1 || first.Items[0].Last.Text != "hello" || first.Next == "" {
		t.Fatalf("newest room = %+v, want the group with one unread message", first)
	}
	rest := decode[pageOf[roomJSON]](bo.do("GET", "/rooms?cursor="+first.Next, nil).want(200, ""))
	if len(rest.Items) != 1 || rest.Items[0].ID != direct || rest.Next != "" {
		t.Errorf("other rooms = %+v, want the direct one", rest)
	}

	ana.do("DELETE", "/rooms/"+group.String()+"/members/bo", nil).want(204, "")
	bo.do("GET", "/rooms/"+group.String(), nil).want(403, "not-a-member")
	bo.do("GET", "/rooms/"+group.String()+"/messages", nil).want(403, "not-a-member")
	bo.do("DELETE", "/rooms/"+group.String()+"/members/bo", nil).want(204, "")
	ana.do("DELETE", "/rooms/"+direct.String()+"/members/bo", nil).want(403, "not-allowed")
	ana.do("GET", "/", nil).want(200, "")
}

func TestMessages(t *testing.T) { messages(t, start) }

func messages(t *testing.T, start starter) {
	c := start(t, "n1")
	ana, bo := c.as("ana", "n1"), c.as("bo", "n1")
	id := ana.create("group", "bo")
	path := "/rooms/" + id.String() + "/messages"

	// No text can inject a field into the stream; every text comes back as it was sent.
	texts := []string{"a\nb", "a\rb", "a\u2028b", "a\x00b", "x\ndata: {\"evil\":1}\n\nevent: bye\n\n", "동네 🏘", "<script>alert(1)</script>", strings.Repeat("가", 2730)}
	stream := bo.stream("")
	for _, text := range texts {
		m := ana.post(id, text)
		if got := stream.message(text); got != m {
			t.Errorf("streamed %+v, want %+v", got, m)
		}
	}
	for i, m := range bo.history(id) {
		if m.Text != texts[i] {
			t.Errorf("history[%d] = %q, want %q", i, m.Text, texts[i])
		}
	}

	m := ana.post(id, "first", "Idempotency-Key", "k1")
	again := ana.do("POST", path, `{ "text" : "first" }`, "Idempotency-Key", "k1").want(201, "")
	if decode[messageJSON](again) != m || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("retry: %s %v, want the first answer again", again.body, again.header)
	}
	ana.do("POST", path, `{"text":"second"}`, "Idempotency-Key", "k1").want(422, "idempotency-key-reused")
	ana.do("POST", path, `{"text":"x","attachments":[{"url":"https://img.example/1.jpg","type":"image/jpeg","size":1024}],"reply_to":"`+m.ID.String()+`"}`).want(201, "")

	edited := decode[messageJSON](ana.do("PATCH", path+"/"+m.ID.String(), `{"text":"1st"}`).want(200, ""))
	if edited.Text != "1st" || edited.ID != m.ID || edited.EditedAt == "" {
		t.Errorf("edited = %+v", edited)
	}
	if e := stream.next("edited"); !strings.Contains(e.data, `"1st"`) {
		t.Errorf("edited event = %+v", e)
	}
	ana.do("DELETE", path+"/"+m.ID.String(), nil).want(204, "")
	ana.do("DELETE", path+"/"+m.ID.String(), nil).want(204, "")
	stream.next("deleted")
	ana.do("PATCH", path+"/"+m.ID.String(), `{"text":"2nd"}`).want(404, "message-unknown")
	if strings.Contains(fmt.Sprint(bo.history(id)), "1st") {
		t.Error("a deleted message is in the history")
	}

	last := bo.history(id)
	bo.do("PUT", "/rooms/"+id.String()+"/read", `{"message":"`+last[len(last)-1].ID.String()+`"}`).want(202, "")
	stream.next("read")
	if r := decode[roomJSON](bo.do("GET", "/rooms/"+id.String(), nil).want(200, "")); r.Unread != 0 {
		t.Errorf("unread after reading all = %d", r.Unread)
	}

	older := decode[pageOf[messageJSON]](bo.do("GET", path+"?limit=3", nil).want(200, ""))
	var all []messageJSON
	for all = older.Items; older.Next != ""; all = append(older.Items, all...) {
		older = decode[pageOf[messageJSON]](bo.do("GET", path+"?limit=3&before="+older.Next, nil).want(200, ""))
	}
	if diff := cmp.Diff(last, all); diff != "" {
		t.Errorf("pages backwards mismatch (-history +pages):\n%s", diff)
	}
	newer := decode[pageOf[messageJSON]](bo.do("GET", path+"?limit=3&after="+last[0].ID.String(), nil).want(200, ""))
	if diff := cmp.Diff(last[1:4], newer.Items); diff != "" || newer.Next != last[3].ID.String() {
		t.Errorf("page forwards mismatch (-want +got):\n%s next %s", diff, newer.Next)
	}
}

func TestBadInput(t *testing.T) { badInput(t, start) }

func badInput(t *testing.T, start starter) {
	c := start(t, "n1")
	ana, bo := c.as("ana", "n1"), c.as("bo", "n1")
	id := ana.create("direct", "bo")
	path := "/rooms/" + id.String()
	bo.do("PUT", "/blocks/ana", nil).want(204, "")
	for _, test := range []struct {
		as           as
		method, path string
		body         any
		status       int
		code         string
	}{
		{c.as("", "n1"), "GET", "/rooms", nil, 401, "unauthenticated"},
		{c.as("a b", "n1"), "GET", "/rooms", nil, 400, "user-invalid"},
		{ana, "POST", "/rooms", `{"kind":"party"}`, 400, "request-invalid"},
		{ana, "POST", "/rooms", `{"kind":"group","members":["x y"]}`, 400, "request-invalid"},
		{ana, "POST", "/rooms", `{"kind":"direct","members":["bo","chae"]}`, 400, "request-invalid"},
		{ana, "GET", "/rooms/nonsense", nil, 404, "room-unknown"},
		{ana, "GET", "/rooms/0000000000001", nil, 404, "room-unknown"},
		{c.as("chae", "n1"), "GET", path, nil, 403, "not-a-member"},
		{c.as("chae", "n1"), "POST", path + "/messages", `{"text":"x"}`, 403, "not-a-member"},
		{c.as("chae", "n1"), "POST", path + "/typing", nil, 403, "not-a-member"},
		{c.as("chae", "n1"), "PUT", path + "/read", `{"message":"0000000000001"}`, 403, "not-a-member"},
		{ana, "POST", path + "/messages", `{"text":"x"}`, 403, "blocked"},
		{bo, "POST", path + "/messages", `{"text":""}`, 400, "request-invalid"},
		{bo, "POST", path + "/messages", `{"text":"` + strings.Repeat("x", room.TextBytesMax+1) + `"}`, 400, "request-invalid"},
		{bo, "POST", path + "/messages", "{\"text\":\"\xff\"}", 400, "json-encoding"},
		{bo, "POST", path + "/messages", `{"text":"x","txet":"y"}`, 400, "json-unknown-field"},
		{bo, "POST", path + "/messages", `{"text":"x","text":"y"}`, 400, "json-duplicate"},
		{bo, "POST", path + "/messages", `{"text":"x","reply_to":"0000000000001"}`, 404, "message-unknown"},
		{bo, "POST", path + "/messages", `{"attachments":[{"url":"file:///x","type":"a/b","size":1}]}`, 400, "request-invalid"},
		{bo, "PUT", path + "/read", `{"message":"0000000000001"}`, 404, "message-unknown"},
		{bo, "PATCH", path + "/messages/0000000000001", `{"text":"x"}`, 404, "message-unknown"},
		{bo, "PATCH", path, `{"name":"x"}`, 403, "not-allowed"},
		{bo, "GET", path + "/messages?before=x", nil, 400, "query-invalid"},
		{bo, "GET", "/rooms?cursor=x", nil, 400, "query-invalid"},
		{bo, "GET", "/rooms?limit=201", nil, 400, "query-invalid"},
		{bo, "GET", "/stream?last_event_id=nonsense", nil, 400, "position-invalid"},
		{bo, "GET", "/stream?last_event_id=" + strings.Repeat("x", 1<<20), nil, 414, "uri-too-long"},
		{bo, "GET", "/nowhere", nil, 404, "not-found"},
		{bo, "PUT", "/rooms", `{}`, 405, "method-not-allowed"},
		{c.as("", "n1"), "POST", "/gossip", nil, 401, "signature-invalid"},
	} {
		got := test.as.do(test.method, test.path, test.body)
		if len(test.path) > 100 {
			got.what = test.method + " " + test.path[:60] + "…"
		}
		got.want(test.status, test.code)
	}
	if a := bo.do("GET", "/stream", nil, "Last-Event-ID", strings.Repeat("x", 1<<20)); a.status != 431 {
		t.Errorf("a position of 1 MB in the header: %d, want 431", a.status)
	}
	bo.do("DELETE", "/blocks/ana", nil).want(204, "")
	ana.post(id, "friends again")
}

func TestStreamResumes(t *testing.T) { streamResumes(t, start) }

func streamResumes(t *testing.T, start starter) {
	c := start(t, "n1")
	ana, bo := c.as("ana", "n1"), c.as("bo", "n1")
	id := ana.create("group", "bo", "chae")
	other := ana.create("group", "chae")
	stream := bo.stream("")
	stream.next("") // where it stands
	ana.post(id, "one")
	stream.message("one")
	position := stream.id
	stream.close()

	ana.post(other, "not for bo")
	deleted := ana.post(id, "regretted")
	edited := ana.post(id, "typo")
	ana.do("DELETE", "/rooms/"+id.String()+"/messages/"+deleted.ID.String(), nil).want(204, "")
	ana.do("PATCH", "/rooms/"+id.String()+"/messages/"+edited.ID.String(), `{"text":"two"}`).want(200, "")
	resumed := bo.stream(position)
	ana.post(id, "three")
	var told []string
	for e := resumed.next("message", "edited", "deleted"); ; e = resumed.next("message", "edited", "deleted") {
		told = append(told, e.name+" "+e.data)
		if strings.Contains(e.data, `"three"`) {
			break
		}
	}
	all := strings.Join(told, "\n")
	if strings.Contains(all, "regretted") || strings.Contains(all, "typo") || strings.Contains(all, "not for bo") || strings.Count(all, `"one"`) != 0 {
		t.Errorf("resumed stream tells what it must not:\n%s", all)
	}
	if !strings.Contains(told[0], `"two"`) {
		t.Errorf("resumed stream begins with %s, want the message as it is now", told[0])
	}

	// Another user's position is only a place in time: it shows nothing that is not one's own.
	chae := c.as("chae", "n1").stream("")
	ana.post(other, "for chae alone")
	chae.message("for chae alone")
	ana.post(id, "for both")
	bos := bo.stream(chae.id)
	if m := bos.message("for both"); m.Room != id {
		t.Errorf("got %+v", m)
	}

	// A position of a history that this node never had.
	reset := bo.stream("n7.1:1")
	reset.next("reset")
	ana.post(id, "after the reset")
	reset.message("after the reset")
}

func TestRemovedInMidStream(t *testing.T) { removedInMidStream(t, start) }

func removedInMidStream(t *testing.T, start starter) {
	c := start(t, "n1")
	ana, bo := c.as("ana", "n1"), c.as("bo", "n1")
	id, rest := ana.create("group", "bo"), ana.create("group", "bo")
	stream := bo.stream("")
	ana.post(id, "before")
	stream.message("before")
	position := stream.id
	ana.do("DELETE", "/rooms/"+id.String()+"/members/bo", nil).want(204, "")
	ana.post(id, "secret")
	ana.do("POST", "/rooms/"+id.String()+"/typing", nil).want(204, "")
	ana.post(rest, "after")
	for _, s := range []*sse{stream, bo.stream(position)} {
		var told []string
		for e, _ := s.any(); !strings.Contains(e.data, `"after"`); e, _ = s.any() {
			told = append(told, e.name+e.data)
		}
		if all := strings.Join(told, " "); strings.Contains(all, "secret") || strings.Contains(all, "typing") || !strings.Contains(all, `"joined":false`) {
			t.Errorf("a removed member hears %s", all)
		}
	}
	ana.do("POST", "/rooms/"+id.String()+"/members", `{"user":"bo"}`).want(204, "")
	stream.next("member")
	ana.post(id, "welcome back")
	stream.message("welcome back")
}

func TestRestart(t *testing.T) { restart(t, start) }

func restart(t *testing.T, start starter) {
	c := start(t, "n1")
	ana := c.as("ana", "n1")
	id := ana.create("group", "bo")
	m := ana.post(id, "kept", "Idempotency-Key", "k")
	c.stop("n1")
	c.nodes["n1"].server = httptest.NewUnstartedServer(nil)
	c.open("n1")
	ana = c.as("ana", "n1")
	if again := ana.post(id, "kept", "Idempotency-Key", "k"); again != m {
		t.Errorf("after a restart the key makes %+v, want %+v", again, m)
	}
	ana.post(id, "more")
	if got := ana.texts(id); got != "kept more" {
		t.Errorf("history after a restart = %q", got)
	}
}

func TestLimits(t *testing.T) {
	c := start(t, "n1")
	var elapsed atomic.Int64
	c.stop("n1")
	c.now = func() time.Time {
		return time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC).Add(time.Duration(elapsed.Load()))
	}
	c.nodes["n1"].server = httptest.NewUnstartedServer(nil)
	c.open("n1")
	ana := c.as("ana", "n1")
	id := ana.create("group", "bo")
	path := "/rooms/" + id.String() + "/messages"
	for i := range 2000 { // the environment allows 1,000 a second, and twice that at once
		ana.post(id, fmt.Sprint(i))
	}
	if h := ana.do("POST", path, `{"text":"one too many"}`).want(429, "too-many-messages").header; h.Get("Retry-After") != "1" {
		t.Errorf("Retry-After = %q", h.Get("Retry-After"))
	}
	elapsed.Add(int64(time.Millisecond))
	ana.post(id, "a millisecond later")
	for range node.StreamsPerUserMax {
		ana.stream("").next("")
	}
	ana.do("GET", "/stream", nil).want(429, "too-many-streams")
}

func TestTypingAndPresence(t *testing.T) { typingAndPresence(t, start) }

func typingAndPresence(t *testing.T, start starter) {
	c := start(t, "n1", "n2")
	ana, bo := c.as("ana", "n1"), c.as("bo", "n2")
	id := ana.create("direct", "bo")
	stream := ana.stream("")
	bos := bo.stream("")
	if e := stream.next("presence"); !strings.Contains(e.data, `"bo"`) || !strings.Contains(e.data, "true") || e.id != "" {
		t.Errorf("presence = %+v, want bo online, without an id", e)
	}
	ana.post(id, "hello")
	bos.message("hello")
	bo.do("POST", "/rooms/"+id.String()+"/typing", nil).want(204, "")
	if e := stream.next("typing"); !strings.Contains(e.data, `"bo"`) || e.id != "" {
		t.Errorf("typing = %+v", e)
	}
}

func TestConfiguration(t *testing.T) {
	for _, test := range []struct{ name, value, want string }{
		{"PEERS", "n2=http://127.0.0.1:9082", "PEER_SECRET"},
		{"PEERS", "n2", "PEERS"},
		{"PEERS", "n1=http://127.0.0.1:9082", "PEERS"},
		{"PEERS", "n2=ftp://127.0.0.1", "PEERS"},
		{"SENDS_PER_SECOND", "0", "SENDS_PER_SECOND"},
		{"STORE", "etcd://nowhere", "STORE"},
		{"STORE", "files", "STORE"},
		{"SHARDS", "17", "SHARDS"},
		{"NODE_ID", "a,b", "NODE_ID"},
		{"HOST", "0.0.0.0", "HOST"},
		{"PORT", "x", "PORT"},
	} {
		dir := t.TempDir()
		getenv := serve.Env(vars, func(name string) string {
			return map[string]string{test.name: test.value, "DATA_DIR": dir}[name]
		})
		err := run(t.Context(), getenv, io.Discard)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s=%q: error %v, want one that names %s", test.name, test.value, err, test.want)
		}
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	c := start(t, "n1")
	getenv := c.env(c.nodes["n1"])
	if err := run(t.Context(), getenv, io.Discard); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second process on one folder: %v", err)
	}
}

// TestStalledReader: a client that never reads costs the others nothing and is cut off.
func TestStalledReader(t *testing.T) { stalledReader(t, start) }

func stalledReader(t *testing.T, start starter) {
	c := start(t, "n1")
	ana, bo := c.as("ana", "n1"), c.as("bo", "n1")
	id := ana.create("group", "bo", "chae")
	conn, err := net.Dial("tcp", c.nodes["n1"].server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nX-User: chae\r\n\r\n")
	reader := bo.stream("")
	text := strings.Repeat("x", room.TextBytesMax)
	for i := range 1800 { // 14 MB: more than the kernel and the queue hold
		ana.post(id, text)
		if i%100 == 99 {
			for range 100 {
				reader.next("message")
			}
		}
	}
	if got := metric(t, ana, "chat_streams_cut_total"); got != "1" {
		t.Errorf("streams cut = %s, want 1", got)
	}
}

// TestShutdown: the streams end with a last event, and resume after the restart.
func TestShutdown(t *testing.T) { shutdown(t, start) }

func shutdown(t *testing.T, start starter) {
	c := start(t, "n1")
	ana, bo := c.as("ana", "n1"), c.as("bo", "n1")
	id := ana.create("group", "bo")
	stream := bo.stream("")
	ana.post(id, "before")
	stream.message("before")
	c.stop("n1")
	stream.next("bye")
	if e, more := stream.any(); more {
		t.Errorf("after the last event comes %+v", e)
	}
	c.nodes["n1"].server = httptest.NewUnstartedServer(nil)
	c.open("n1")
	c.as("ana", "n1").post(id, "after")
	resumed := c.as("bo", "n1").stream(stream.id)
	if e := resumed.next("message"); !strings.Contains(e.data, `"after"`) {
		t.Errorf("resumed stream begins with %+v", e)
	}
}

// TestRemovedWhileSending: of messages that race with their author's removal exactly those that were answered with 201
// are in the history.
func TestRemovedWhileSending(t *testing.T) { removedWhileSending(t, start) }

func removedWhileSending(t *testing.T, start starter) {
	c := start(t, "n1")
	ana, bo := c.as("ana", "n1"), c.as("bo", "n1")
	for range 10 {
		id := ana.create("group", "bo")
		path := "/rooms/" + id.String()
		var mu sync.Mutex
		taken := map[string]bool{}
		var posts sync.WaitGroup
		for i := range 30 {
			posts.Go(func() {
				text := fmt.Sprint("m", i)
				if bo.do("POST", path+"/messages", map[string]any{"text": text}).status == 201 {
					mu.Lock()
					defer mu.Unlock()
					taken[text] = true
				}
			})
		}
		ana.do("DELETE", path+"/members/bo", nil).want(204, "")
		posts.Wait()
		kept := map[string]bool{}
		for _, m := range ana.history(id) {
			kept[m.Text] = true
		}
		if diff := cmp.Diff(taken, kept); diff != "" {
			t.Fatalf("history mismatch (-answered 201 +kept):\n%s", diff)
		}
	}
}

// TestForgedPosition: a position that is ahead in many logs of a node that exists is not believed.
func TestForgedPosition(t *testing.T) {
	c := start(t, "n1", "n2")
	var origins []string
	for i := range 100 {
		origins = append(origins, fmt.Sprintf("n2.%c%c:1", 'a'+i/26, 'a'+i%26))
	}
	c.as("ana", "n1").stream(strings.Join(origins, ",")).next("reset")
	if got := metric(t, c.as("ana", "n1"), "chat_streams_ahead"); got != "0" {
		t.Errorf("%s streams are ahead", got)
	}
}
