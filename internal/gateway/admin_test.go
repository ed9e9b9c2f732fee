package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dongne/internal/gateway/control"
)

const asJSON = "Content-Type: application/json"

// operate does what an operator does and returns the entry; the answer must be 200.
func (g *gate) operate(method, path, body string, header ...string) control.Entry {
	g.t.Helper()
	answer, text := call(g.t, method, g.url+"/admin/routes/"+path, body, append(header, asJSON, g.auth.bearer("ana", AdminScope))...)
	var e control.Entry
	if err := json.Unmarshal([]byte(text), &e); err != nil || answer.StatusCode != http.StatusOK || answer.Header.Get("ETag") != `"`+e.Stamp.String()+`"` {
		g.t.Fatalf("%s %s %s: %d %v %s, %v", method, path, body, answer.StatusCode, answer.Header, text, err)
	}
	return e
}

// stamps returns what If-Match may say of a route.
func (g *gate) stamps(route string) map[string]string {
	g.t.Helper()
	for _, s := range g.status() {
		if s.Name == route {
			return s.Stamps
		}
	}
	g.t.Fatalf("no route %s", route)
	return nil
}

func (g *gate) status() []RouteStatus {
	g.t.Helper()
	var list struct{ Items []RouteStatus }
	_, text := get(g.t, g.url+"/admin/routes", g.auth.bearer("ana", AdminScope))
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		g.t.Fatalf("%s: %v", text, err)
	}
	return list.Items
}

// Who operates needs the scope, whatever the way.
func TestAdminScope(t *testing.T) {
	g := open(t, setup{targets: map[string]*url.URL{"chat": text(t, "")}, env: map[string]string{"ADMIN_ADDR": "127.0.0.1:0"}})
	for _, base := range []string{g.url, g.admin} {
		for path, method := range map[string]string{"/admin/routes": "GET", "/admin/routes/chat/switch": "PUT", "/admin/routes/chat/canary": "POST",
			"/admin/routes/chat/strangler": "PUT", "/admin/audit": "GET"} {
			answer, body := call(t, method, base+path, "{}", asJSON)
			wantProblem(t, answer, body, http.StatusUnauthorized, "unauthenticated")
			answer, body = call(t, method, base+path, "{}", asJSON, g.auth.bearer("minji", "chat", "administrator"))
			wantProblem(t, answer, body, http.StatusForbidden, "scope-missing")
			answer, body = call(t, method, base+path, "{}", asJSON, g.auth.bearer("ana", AdminScope), "Origin: https://evil.example")
			if method != "GET" {
				wantProblem(t, answer, body, http.StatusForbidden, "cross-origin")
			}
		}
		if answer, body := get(t, base+"/admin/routes", g.auth.bearer("ana", AdminScope)); answer.StatusCode != http.StatusOK {
			t.Errorf("with the scope: %d %s", answer.StatusCode, body)
		}
	}
	if answer, _ := get(t, g.admin+"/chat/"); answer.StatusCode != http.StatusNotFound {
		t.Errorf("ADMIN_ADDR has services too: %d", answer.StatusCode)
	}
}

// A gateway that others than this machine reach has its admin API on ADMIN_ADDR alone.
func TestAdminNotOutside(t *testing.T) {
	g := open(t, setup{env: map[string]string{"HOST": "0.0.0.0", "ADMIN_ADDR": "127.0.0.1:0"}})
	outside := strings.Replace(strings.Replace(g.url, "0.0.0.0", "127.0.0.1", 1), "[::]", "127.0.0.1", 1)
	answer, body := get(t, outside+"/admin/routes", g.auth.bearer("ana", AdminScope))
	wantProblem(t, answer, body, http.StatusNotFound, "not-found")
	if answer, body := get(t, g.admin+"/admin/routes", g.auth.bearer("ana", AdminScope)); answer.StatusCode != http.StatusOK {
		t.Errorf("on ADMIN_ADDR: %d %s", answer.StatusCode, body)
	}
}

// What cannot be done has its status, and changes nothing.
func TestAdminRefuses(t *testing.T) {
	g := open(t, setup{targets: map[string]*url.URL{"chat": text(t, "")}})
	bearer, junho := g.auth.bearer("ana", AdminScope), g.auth.bearer("junho", AdminScope)
	g.operate("PUT", "chat/switch", `{"mode":"on"}`)
	old := g.stamps("chat")["switch"]
	g.operate("PUT", "chat/switch", `{"mode":"off"}`, "If-Match: "+`"`+old+`"`)
	g.operate("POST", "chat/canary", `{"do":"lock"}`)
	for _, c := range []struct {
		method, path, body string
		header             []string
		status             int
		code               string
	}{
		{"PUT", "chat/switch", `{"mode":"on"}`, []string{bearer, `If-Match: "` + old + `"`}, 412, "changed-meanwhile"},
		{"PUT", "chat/switch", `{"mode":"on"}`, []string{bearer, `If-Match: "nonsense"`}, 400, "if-match-invalid"},
		{"PUT", "chat/switch", `{"mode":"sideways"}`, []string{bearer}, 400, "change-invalid"},
		{"PUT", "chat/switch", `{"mode":"static","status":99}`, []string{bearer}, 400, "change-invalid"},
		{"PUT", "chat/switch", `{"mode":"off","expires":"2020-01-01T00:00:00Z"}`, []string{bearer}, 400, "change-invalid"},
		{"PUT", "chat/switch", `{"mode":"over"}`, []string{bearer}, 400, "no-fallback"},
		{"PUT", "chat/switch", `{"mode":"off","more":1}`, []string{bearer}, 400, ""},
		{"PUT", "none/switch", `{"mode":"off"}`, []string{bearer}, 404, "route-unknown"},
		{"POST", "chat/canary", `{"do":"lock"}`, []string{junho}, 423, "route-locked"},
		{"POST", "chat/canary", `{"do":"canary","weight":5}`, []string{bearer}, 409, "step-illegal"},
		{"POST", "chat/canary", `{"do":"stage","candidate":"http://a.example"}`, []string{junho}, 409, "step-illegal"},
		{"POST", "chat/canary", `{"do":"stage","candidate":"a.example"}`, []string{bearer}, 400, "change-invalid"},
		{"POST", "chat/canary", `{"do":"dance"}`, []string{bearer}, 400, "change-invalid"},
		{"PUT", "chat/strangler", `{"legacy":"http://a.example","weight":101}`, []string{bearer}, 400, "change-invalid"},
	} {
		answer, body := call(t, c.method, g.url+"/admin/routes/"+c.path, c.body, append(c.header, asJSON)...)
		if c.code == "" {
			if answer.StatusCode != c.status {
				t.Errorf("%s %s: %d %s, want %d", c.path, c.body, answer.StatusCode, body, c.status)
			}
			continue
		}
		wantProblem(t, answer, body, c.status, c.code)
	}
	if got := g.front.Control().Route("chat"); got.Switch.Mode != control.Off || got.Canary.Phase != control.Locked || got.Canary.Holder != "ana" {
		t.Errorf("a refusal has changed the route: %+v", got)
	}
	// Who did what, newest first.
	var audit struct{ Items []control.Entry }
	_, body := get(t, g.url+"/admin/audit?limit=2", bearer)
	if err := json.Unmarshal([]byte(body), &audit); err != nil || len(audit.Items) != 2 {
		t.Fatalf("audit: %s, %v", body, err)
	}
	for i, want := range []string{"lock", "off"} {
		if e := audit.Items[i]; e.By != "ana" || e.Route != "chat" || e.What != want || e.RequestID == "" || time.Since(e.At) > time.Hour || e.Value != nil {
			t.Errorf("audit %d: %+v, want %s by ana", i, e, want)
		}
	}
}

func TestSwitchModes(t *testing.T) {
	over := text(t, "over")
	fallback := text(t, "fallback")
	g := open(t, setup{targets: map[string]*url.URL{"chat": text(t, "service")},
		routes: `{"routes":{"images":{"upstream":"` + text(t, "images").String() + `","fallback":"` + fallback.String() + `"}}}`})
	g.operate("PUT", "chat/switch", `{"mode":"off"}`)
	answer, body := call(t, "POST", g.url+"/chat/", "{}")
	if outcome := wantProblem(t, answer, body, http.StatusServiceUnavailable, "switched-off"); outcome != "not_applied" || answer.Header.Get("Retry-After") == "" {
		t.Errorf("off: outcome %q, %v", outcome, answer.Header)
	}
	g.operate("PUT", "chat/switch", `{"mode":"static","status":451,"content_type":"text/html; charset=utf-8","body":"<p>gone</p>"}`)
	for _, method := range []string{"GET", "HEAD", "POST"} {
		want := "<p>gone</p>"
		if method == "HEAD" {
			want = ""
		}
		answer, body = call(t, method, g.url+"/chat/", "")
		if answer.StatusCode != 451 || body != want || answer.Header.Get("Content-Type") != "text/html; charset=utf-8" || answer.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("static, %s: %d %v %q", method, answer.StatusCode, answer.Header, body)
		}
	}
	g.operate("PUT", "chat/switch", `{"mode":"over","upstream":"`+over.String()+`"}`)
	if _, body := get(t, g.url+"/chat/"); body != "over" {
		t.Errorf("over: %s", body)
	}
	g.operate("PUT", "images/switch", `{"mode":"over"}`)
	if _, body := get(t, g.url+"/images/"); body != "fallback" {
		t.Errorf("over to the fallback: %s", body)
	}
	// It ends by itself.
	g.operate("PUT", "chat/switch", fmt.Sprintf(`{"mode":"off","expires":%q}`, time.Now().Add(300*time.Millisecond).UTC().Format(time.RFC3339Nano)))
	soon(t, "the switch has expired", func() bool { _, body := get(t, g.url+"/chat/"); return body == "service" })
}

// load has some clients send requests to url until stop, which says how many. Each request is done by a function, which is told
// of the client and has to call send once.
func load(t *testing.T, url string, clients int, request func(client int, send func(header ...string) (*http.Response, string))) (stop func() int) {
	t.Helper()
	var sent atomic.Int64
	ended := make(chan struct{})
	var wg sync.WaitGroup
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	send := func(header ...string) (*http.Response, string) {
		r, err := http.NewRequest("GET", url, nil)
		if err != nil {
			panic(err)
		}
		for _, line := range header {
			name, value, _ := strings.Cut(line, ": ")
			r.Header.Set(name, value)
		}
		answer, err := transport.RoundTrip(r)
		if err != nil {
			t.Errorf("under load: %v", err)
			return &http.Response{}, ""
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Errorf("under load: %v", err)
		}
		sent.Add(1)
		return answer, string(body)
	}
	for c := range clients {
		wg.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
					request(c, send)
				}
			}
		})
	}
	stopped := sync.OnceFunc(func() { close(ended); wg.Wait(); transport.CloseIdleConnections() })
	t.Cleanup(stopped)
	return func() int { stopped(); return int(sent.Load()) }
}

// A switch acts on the next request, and under load nobody sees anything but one of its two sides.
func TestSwitchUnderLoad(t *testing.T) {
	const toggles = 1000
	g := open(t, setup{targets: map[string]*url.URL{"chat": text(t, "service")}, routes: `{"defaults":{"rates":[]}}`})
	var on, off atomic.Int64
	stop := load(t, g.url+"/chat/", 4, func(_ int, send func(...string) (*http.Response, string)) {
		switch answer, body := send(); {
		case answer.StatusCode == http.StatusOK && body == "service":
			on.Add(1)
		case answer.StatusCode == http.StatusServiceUnavailable && strings.Contains(body, `"code":"switched-off"`):
			off.Add(1)
		default:
			t.Errorf("%d %s", answer.StatusCode, body)
		}
	})
	request := control.Request{By: "ana"}
	for i := range toggles {
		mode, status := control.Off, http.StatusServiceUnavailable
		if i%2 == 1 {
			mode, status = control.On, http.StatusOK
		}
		if _, err := g.control.SetSwitch(t.Context(), "chat", request, control.Switch{Mode: mode}); err != nil {
			t.Fatal(err)
		}
		if answer, body := get(t, g.url+"/chat/"); answer.StatusCode != status {
			t.Fatalf("toggle %d to %s: the next request gets %d %s", i, mode, answer.StatusCode, body)
		}
	}
	if n := stop(); on.Load() == 0 || off.Load() == 0 {
		t.Errorf("of %d requests %d saw it on and %d off", n, on.Load(), off.Load())
	}
}

// sides are where callers were served in one phase of a release.
type sides struct {
	mu  sync.Mutex
	of  map[int]string // guarded by mu
	now int            // the phase, odd while a step is under way; guarded by mu
}

// phase returns the present one.
func (s *sides) phase() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// note says that a caller who asked in a phase was served by a side, and returns the other one if that was different before.
func (s *sides) note(phase, caller int, side string) (mixed string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if phase != s.now || phase%2 == 1 {
		return ""
	}
	if before, ok := s.of[caller]; ok && before != side {
		return before
	}
	s.of[caller] = side
	return ""
}

// next is the next phase; it returns where everybody was in the one before.
func (s *sides) next() map[int]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.of
	s.now, s.of = s.now+1, map[int]string{}
	return before
}

// The checker of TestCanaryUnderLoad sees who is mixed, and accuses nobody who asked while a step was taken.
func TestSides(t *testing.T) {
	s := sides{of: map[int]string{}}
	s.note(0, 1, "primary")
	if other := s.note(0, 1, "candidate"); other != "primary" {
		t.Errorf("a caller on both sides is noted as %q", other)
	}
	s.next()
	if other := s.note(0, 1, "candidate") + s.note(1, 1, "primary") + s.note(1, 1, "candidate"); other != "" {
		t.Errorf("while a step is taken: %q", other)
	}
}

// A release goes through every step under load, and is rolled back from every one: nobody fails, and between two steps each
// caller stays on one side, and on the candidate as long as its weight grows.
func TestCanaryUnderLoad(t *testing.T) {
	candidate := text(t, "candidate")
	g := open(t, setup{targets: map[string]*url.URL{"chat": text(t, "primary")}, routes: `{"defaults":{"rates":[]}}`})
	const callers = 24
	seen := sides{of: map[int]string{}}
	var headers [callers]string
	for c := range callers {
		headers[c] = g.auth.bearer(fmt.Sprint("u", c))
	}
	stop := load(t, g.url+"/chat/", callers, func(c int, send func(...string) (*http.Response, string)) {
		phase := seen.phase()
		answer, side := send(headers[c])
		if answer.StatusCode != http.StatusOK || side != "primary" && side != "candidate" {
			t.Errorf("caller %d: %d %s", c, answer.StatusCode, side)
		}
		if other := seen.note(phase, c, side); other != "" {
			t.Errorf("caller %d is on %s, and was on %s since the same step", c, side, other)
		}
	})
	// step takes one, waits until everybody was served since, and returns who is on the candidate.
	step := func(body string) (onCandidate map[int]bool) {
		seen.next()
		g.operate("POST", "chat/canary", body)
		seen.next()
		soon(t, "everybody is served", func() bool { seen.mu.Lock(); defer seen.mu.Unlock(); return len(seen.of) == callers })
		onCandidate = map[int]bool{}
		seen.mu.Lock()
		defer seen.mu.Unlock()
		for c, side := range seen.of {
			if side == "candidate" {
				onCandidate[c] = true
			}
		}
		return onCandidate
	}
	steps := []struct {
		body        string
		least, most int // on the candidate
	}{
		{`{"do":"lock"}`, 0, 0},
		{`{"do":"stage","candidate":"` + candidate.String() + `","guard":{"off":true}}`, 0, 0},
		{`{"do":"canary","weight":10}`, 0, callers / 2},
		{`{"do":"canary","weight":50}`, 3, callers - 3},
		{`{"do":"all"}`, callers, callers},
		{`{"do":"unlock"}`, callers, callers},
	}
	for last := range steps {
		before := map[int]bool{}
		for _, s := range steps[:last+1] {
			after := step(s.body)
			if n := len(after); n < s.least || n > s.most {
				t.Errorf("after %s %d of %d are on the candidate, want %d to %d", s.body, n, callers, s.least, s.most)
			}
			for c := range before {
				if !after[c] {
					t.Errorf("caller %d left the candidate at %s", c, s.body)
				}
			}
			before = after
		}
		if after := step(`{"do":"rollback"}`); len(after) > 0 {
			t.Errorf("after the rollback from %s %d are on the candidate", steps[last].body, len(after))
		}
	}
	t.Logf("%d requests", stop())
}

// A candidate that fails is rolled back by the gateway itself, which says why.
func TestCanaryRollsBack(t *testing.T) {
	bad := service(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	g := open(t, setup{targets: map[string]*url.URL{"chat": text(t, "primary")}, routes: `{"defaults":{"rates":[]}}`})
	g.operate("POST", "chat/canary", `{"do":"lock"}`)
	g.operate("POST", "chat/canary", `{"do":"stage","candidate":"`+bad.String()+`","guard":{"samples_min":20}}`)
	g.operate("POST", "chat/canary", `{"do":"canary","weight":50}`)
	i := 0
	soon(t, "the release is rolled back", func() bool {
		i++
		get(t, g.url+"/chat/", g.auth.bearer(fmt.Sprint("u", i)))
		return g.front.Control().Route("chat").Canary.Phase == control.Idle
	})
	c := g.front.Control().Route("chat").Canary
	if !strings.Contains(c.RolledBack, "of the candidate's") || c.Holder != "" {
		t.Errorf("rolled back: %+v", c)
	}
	var audit struct{ Items []control.Entry }
	_, body := get(t, g.url+"/admin/audit?limit=1", g.auth.bearer("ana", AdminScope))
	if json.Unmarshal([]byte(body), &audit); len(audit.Items) != 1 || audit.Items[0].By != "gateway g1" {
		t.Errorf("audit: %s", body)
	}
	if answer, body := get(t, g.url+"/chat/"); body != "primary" {
		t.Errorf("afterwards: %d %s", answer.StatusCode, body)
	}
}

// A gateway that starts again is where it was, with everything that was set.
func TestRestartInCanary(t *testing.T) {
	dir, auth := t.TempDir(), newFakeAuth(t)
	primary, candidate := text(t, "primary"), text(t, "candidate")
	s := setup{auth: auth, targets: map[string]*url.URL{"chat": primary, "geo": primary}, env: map[string]string{"DATA_DIR": dir}}
	g := open(t, s)
	g.operate("POST", "chat/canary", `{"do":"lock"}`)
	g.operate("POST", "chat/canary", `{"do":"stage","candidate":"`+candidate.String()+`"}`)
	g.operate("POST", "chat/canary", `{"do":"canary","weight":50}`)
	g.operate("PUT", "geo/switch", `{"mode":"off"}`)
	served := func(g *gate) (all []string) {
		for i := range 50 {
			_, side := get(t, g.url+"/chat/", auth.bearer(fmt.Sprint("u", i)))
			all = append(all, side)
		}
		return all
	}
	before := served(g)
	g.stop()
	g = open(t, s)
	if diff := cmp.Diff(before, served(g)); diff != "" {
		t.Errorf("sides before and after mismatch (-before +after):\n%s", diff)
	}
	if answer, _ := get(t, g.url+"/geo/"); answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("the switch is forgotten: %d", answer.StatusCode)
	}
	g.operate("POST", "chat/canary", `{"do":"all"}`)
	g.operate("POST", "chat/canary", `{"do":"unlock"}`)
	for i, side := range served(g) {
		if side != "candidate" {
			t.Errorf("u%d is on %s after the release", i, side)
		}
	}
}

// A monolith is moved over by weight while the other side's answers are compared, and back at once.
func TestStrangler(t *testing.T) {
	var shadowed atomic.Int64
	answer := func(name, body string) *url.URL {
		return service(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/ready" {
				return
			}
			if r.Header.Get("X-Forwarded-Prefix") != "/chat" {
				t.Errorf("%s got %v", name, r.Header)
			}
			shadowed.Add(1)
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, body, r.URL.Path, r.Method)
		})
	}
	legacy := answer("legacy", `{"path":%q,"method":%q}`)
	g := open(t, setup{targets: map[string]*url.URL{"chat": answer("new", `{"method":%[2]q,"path":%[1]q,"new":1}`)}, routes: `{"defaults":{"rates":[]}}`})
	set := func(weight int, shadow bool) {
		g.operate("PUT", "chat/strangler", fmt.Sprintf(`{"legacy":%q,"weight":%d,"shadow":%v}`, legacy, weight, shadow))
	}
	share := func() (moved int) {
		for i := range 100 {
			answer, body := get(t, g.url+"/chat/rooms", "X-Forwarded-For: ignored", g.auth.bearer(fmt.Sprint("u", i)))
			if answer.StatusCode != http.StatusOK {
				t.Errorf("%d %s", answer.StatusCode, body)
			}
			if strings.Contains(body, "new") {
				moved++
			}
		}
		return moved
	}
	set(0, false)
	if n := share(); n != 0 || shadowed.Load() != 100 {
		t.Errorf("with weight 0 %d of 100 are moved, and %d requests came", n, shadowed.Load())
	}
	set(0, true)
	if n := share(); n != 0 {
		t.Errorf("shadows were returned: %d", n)
	}
	soon(t, "all were compared", func() bool {
		s := g.status()[1]
		total := uint64(0)
		for _, n := range s.Shadow {
			total += n
		}
		return total == 100 && s.Shadow["body"]+s.Shadow["dropped"] == 100
	})
	s := g.status()[1]
	if s.Shadow["body"] < 50 || len(s.Examples) == 0 || s.Examples[0].Where != "/new" || s.Examples[0].TraceID == "" {
		t.Errorf("the status says %v, %+v", s.Shadow, s.Examples)
	}
	if _, text := get(t, g.url+"/metrics"); !strings.Contains(text, fmt.Sprintf("gateway_shadow_mismatches_total{route=\"chat\"} %d\n", s.Shadow["body"])) {
		t.Errorf("the metrics do not count %d mismatches:\n%s", s.Shadow["body"], text)
	}
	// What asks for a change is never sent twice.
	before := shadowed.Load()
	call(t, "POST", g.url+"/chat/rooms", "{}")
	soon(t, "the POST came", func() bool { return shadowed.Load() > before })
	set(30, false)
	if n := share(); n < 15 || n > 45 {
		t.Errorf("with weight 30 %d of 100 are moved", n)
	}
	if got := shadowed.Load() - before; got != 101 {
		t.Errorf("%d requests came of 101", got)
	}
	set(100, false)
	if n := share(); n != 100 {
		t.Errorf("with weight 100 %d of 100 are moved", n)
	}
	set(0, false)
	if n := share(); n != 0 {
		t.Errorf("back: %d of 100 are moved", n)
	}
}

// What is set on one gateway acts on the other, within moments, and on one that comes later before it takes requests.
func TestPeers(t *testing.T) {
	auth := newFakeAuth(t)
	target := text(t, "service")
	s := func(name string, peers ...string) setup {
		return setup{auth: auth, targets: map[string]*url.URL{"chat": target},
			env: map[string]string{"GATEWAY_ID": name, "PEERS": strings.Join(peers, ","), "PEER_SECRET": "sixteen bytes or more", "PORT": freePort(t, name)}}
	}
	one, two := s("g1", "g2=http://127.0.0.1:"+freePort(t, "g2")), s("g2", "g1=http://127.0.0.1:"+freePort(t, "g1"))
	a := open(t, one)
	if answer, _ := get(t, a.url+"/ready"); answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("ready before the other has said what is set: %d", answer.StatusCode)
	}
	if answer, body := get(t, a.url+"/chat/"); body != "service" { // waits for a while, and goes on
		t.Errorf("while the other is away: %d %s", answer.StatusCode, body)
	}
	b := open(t, two)
	for i, mode := range []string{"off", "on", "off"} {
		set, other := a, b
		if i%2 == 1 {
			set, other = b, a
		}
		set.operate("PUT", "chat/switch", `{"mode":"`+mode+`"}`)
		want := map[string]int{"off": 503, "on": 200}[mode]
		began := time.Now()
		soon(t, "the switch acts on the other gateway", func() bool { answer, _ := get(t, other.url+"/chat/"); return answer.StatusCode == want })
		t.Logf("%s acts on the other gateway after %v", mode, time.Since(began).Round(time.Microsecond))
	}
	b.stop()
	two.env["DATA_DIR"] = t.TempDir() // it comes with an empty disk
	b = open(t, two)
	if answer, _ := get(t, b.url+"/chat/"); answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one with an empty disk forgets what is switched off: %d", answer.StatusCode)
	}
	answer, body := call(t, "POST", b.url+"/gossip", "made up", "X-Peer-From: g1")
	wantProblem(t, answer, body, http.StatusUnauthorized, "signature-wrong")
}
