package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dongne/internal/peer"
	"dongne/internal/sharedlog"
)

var (
	testRoutes = []string{"chat", "pay"}
	ana        = Request{By: "ana"}
	off        = Switch{Mode: Off}
	testSecret = []byte("a secret of the tests")
)

// cluster is some gateways in this process that reach each other through memory.
type cluster struct {
	t     *testing.T
	dirs  map[string]string
	delay time.Duration // of a message

	mu    sync.Mutex
	nodes map[string]*Node         // guarded by mu
	cut   map[[2]string]bool       // guarded by mu
	sent  map[string]int           // messages that arrived, by receiver; guarded by mu
	skew  map[string]time.Duration // of clocks
}

func newCluster(t *testing.T, names ...string) *cluster {
	c := &cluster{t: t, dirs: map[string]string{}, delay: time.Millisecond, nodes: map[string]*Node{}, cut: map[[2]string]bool{},
		sent: map[string]int{}, skew: map[string]time.Duration{}}
	for _, name := range names {
		c.dirs[name] = filepath.Join(t.TempDir(), name)
	}
	return c
}

func (c *cluster) options(name string) Options {
	peers := map[string]string{}
	for other := range c.dirs {
		if other != name {
			peers[other] = "http://" + other
		}
	}
	return Options{
		Dir: c.dirs[name], Self: name, Peers: peers, Secret: testSecret, Routes: testRoutes,
		Now:    func() time.Time { return time.Now().Add(c.skew[name]) },
		Rand:   rand.New(rand.NewPCG(1, uint64(len(name)))),
		Client: &http.Client{Transport: wire{c}},
		Logger: slog.New(slog.NewTextHandler(c.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

func (c *cluster) start(names ...string) {
	c.t.Helper()
	for _, name := range names {
		n, err := Open(c.t.Context(), c.options(name))
		if err != nil {
			c.t.Fatal(err)
		}
		c.mu.Lock()
		c.nodes[name] = n
		c.mu.Unlock()
	}
}

func (c *cluster) node(name string) *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[name]
}

func (c *cluster) stop(name string) {
	c.t.Helper()
	n := c.node(name)
	c.mu.Lock()
	delete(c.nodes, name)
	c.mu.Unlock()
	if err := n.Close(); err != nil {
		c.t.Errorf("close %s: %v", name, err)
	}
}

func (c *cluster) stopAll() {
	for name := range c.dirs {
		if c.node(name) != nil {
			c.stop(name)
		}
	}
}

// link cuts or heals both directions between two gateways.
func (c *cluster) link(a, b string, up bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut[[2]string{a, b}], c.cut[[2]string{b, a}] = !up, !up
}

// wire brings a message to a gateway of the cluster.
type wire struct{ *cluster }

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(w.delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	to := r.URL.Host
	w.mu.Lock()
	n, cut := w.nodes[to], w.cut[[2]string{r.Header.Get("X-Peer-From"), to}]
	if n != nil && !cut {
		w.sent[to]++
	}
	w.mu.Unlock()
	if n == nil || cut {
		return nil, fmt.Errorf("%s is away", to)
	}
	answer := httptest.NewRecorder()
	if err := n.Receive(r.Context(), r.Header, body); err != nil {
		http.Error(answer, err.Error(), http.StatusBadRequest)
	} else {
		answer.WriteHeader(http.StatusNoContent)
	}
	return answer.Result(), nil
}

// must fails unless a change was taken.
func must(t *testing.T) func(Entry, error) Entry {
	return func(e Entry, err error) Entry {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
}

// within waits, for that long, until ok.
func within(t *testing.T, n *Node, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(limit)
	for {
		changed := n.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

func mode(n *Node, route string) Mode { return n.Table().Route(route).Decide(time.Now(), "u").Mode }

// A switch that is thrown on one gateway acts on all of them within 10 ms; silence follows.
func TestSwitchReachesEveryGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "n1", "n2", "n3")
		c.start("n1", "n2", "n3")
		defer c.stopAll()
		for name := range c.dirs {
			<-c.node(name).Synced()
		}
		for i, from := range []string{"n1", "n2", "n3", "n1"} {
			s := []Switch{off, {Mode: On}}[i%2]
			must(t)(c.node(from).SetSwitch(t.Context(), "chat", ana, s))
			if got := mode(c.node(from), "chat"); got != s.Mode {
				t.Fatalf("%s: %s right after it was set to %s", from, got, s.Mode)
			}
			for name := range c.dirs {
				n := c.node(name)
				within(t, n, 10*time.Millisecond, fmt.Sprintf("%s on %s", s.Mode, name), func() bool { return mode(n, "chat") == s.Mode })
			}
		}
		if diff := cmp.Diff(c.node("n1").Audit(10), c.node("n3").Audit(10)); diff != "" || len(c.node("n1").Audit(10)) != 4 {
			t.Errorf("audits differ, or are not of 4 changes (-n1 +n3):\n%s", diff)
		}
		<-time.After(time.Second)
		c.mu.Lock()
		clear(c.sent)
		c.mu.Unlock()
		<-time.After(30 * time.Second)
		c.mu.Lock()
		defer c.mu.Unlock()
		if got := c.sent["n1"] + c.sent["n2"] + c.sent["n3"]; got > 3*30*7 {
			t.Errorf("%d messages in 30 s in which nothing changed, want the digests: one per node and 150 ms", got)
		}
	})
}

// Both sides of a cut take changes. Healed, the higher stamp wins everywhere, and who lost the lock is refused the next
// step.
func TestLocksOnTwoSidesOfACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "n1", "n2")
		c.start("n1", "n2")
		defer c.stopAll()
		a, b := c.node("n1"), c.node("n2")
		<-a.Synced()
		c.link("n1", "n2", false)
		must(t)(a.Step(t.Context(), "chat", ana, step(Lock)))
		<-time.After(time.Second)
		bo := Request{By: "bo"}
		must(t)(b.Step(t.Context(), "chat", bo, step(Lock)))
		must(t)(b.SetSwitch(t.Context(), "pay", bo, off))
		if mode(a, "pay") != On || a.Table().Route("chat").Canary.Holder != "ana" || b.Table().Route("chat").Canary.Holder != "bo" {
			t.Fatal("the cut is none")
		}
		c.link("n1", "n2", true)
		within(t, a, 2*time.Second, "bo's lock on n1", func() bool { return a.Table().Route("chat").Canary.Holder == "bo" && mode(a, "pay") == Off })
		if _, err := a.Step(t.Context(), "chat", ana, step(Stage)); !errors.Is(err, ErrStep) || Outcome(err) != sharedlog.NotApplied {
			t.Errorf("ana's next step: %v, want ErrStep", err)
		}
		if _, err := a.Step(t.Context(), "chat", ana, step(Lock)); !errors.Is(err, ErrLocked) {
			t.Errorf("ana's second lock: %v, want ErrLocked", err)
		}
		must(t)(a.Step(t.Context(), "chat", bo, step(Stage)))
	})
}

// A gateway whose clock is a minute behind overrides what it knows of.
func TestClockBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "n1", "n2")
		c.skew["n2"] = -time.Minute
		c.start("n1", "n2")
		defer c.stopAll()
		a, b := c.node("n1"), c.node("n2")
		must(t)(a.SetSwitch(t.Context(), "chat", ana, off))
		within(t, b, time.Second, "off on n2", func() bool { return mode(b, "chat") == Off })
		must(t)(b.SetSwitch(t.Context(), "chat", ana, Switch{Mode: On}))
		within(t, a, time.Second, "on on n1", func() bool { return mode(a, "chat") == On })
	})
}

// A gateway that lost its disk gets everything back, from peers that have forgotten most of the past; and its own
// changes of before as well.
func TestEmptyDiskIsFilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "n1", "n2")
		c.start("n1", "n2")
		defer c.stopAll()
		<-c.node("n1").Synced()
		must(t)(c.node("n2").SetSwitch(t.Context(), "pay", ana, Switch{Mode: Static, Status: 503, ContentType: "text/plain", Body: "later"}))
		for i := range 2*AuditMax + 301 {
			must(t)(c.node("n1").SetSwitch(t.Context(), "chat", ana, []Switch{off, {Mode: On}}[i%2]))
			if i%100 == 0 {
				<-time.After(time.Second) // in which n2 shows that it has this
			}
		}
		<-time.After(time.Second)
		c.stop("n2")
		if err := os.RemoveAll(c.dirs["n2"]); err != nil {
			t.Fatal(err)
		}
		c.start("n2")
		a, b := c.node("n1"), c.node("n2")
		if kept := a.history.count; kept > 2*AuditMax+compactStep {
			t.Errorf("n1 keeps %d entries, want about %d", kept, AuditMax)
		}
		<-b.Synced()
		if mode(b, "chat") != Off || mode(b, "pay") != Static {
			t.Errorf("n2: chat %s, pay %s, want off and static", mode(b, "chat"), mode(b, "pay"))
		}
		if diff := cmp.Diff(a.Audit(AuditMax), b.Audit(AuditMax)); diff != "" {
			t.Errorf("audits differ (-n1 +n2):\n%s", diff)
		}
		if first := a.file.First(); first == 1 {
			t.Error("the log of n1 was never trimmed")
		}
		must(t)(b.SetSwitch(t.Context(), "chat", ana, Switch{Mode: On}))
		within(t, a, time.Second, "on on n1", func() bool { return mode(a, "chat") == On })
	})
}

// A candidate that fails is rolled back by the gateways themselves, on all of them; one that does as well as the
// primary is not.
func TestAutomaticRollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "n1", "n2")
		c.start("n1", "n2")
		defer c.stopAll()
		a, b := c.node("n1"), c.node("n2")
		for _, s := range []Step{step(Lock), step(Stage), {Do: Weigh, Weight: 50}} {
			must(t)(a.Step(t.Context(), "chat", ana, s))
		}
		within(t, b, time.Second, "the release on n2", func() bool { return b.Table().Route("chat").Canary.Phase == Releasing })
		serve := func(fails func(Side) bool) {
			for i := range 1000 {
				d := b.Table().Route("chat").Decide(time.Now(), fmt.Sprint("u_", i))
				d.Done(fails(d.Side), time.Millisecond)
			}
		}
		serve(func(Side) bool { return true })
		<-time.After(3 * time.Second)
		if got := a.Table().Route("chat").Canary.Phase; got != Releasing {
			t.Fatalf("what fails on both sides is at %s, want canary", got)
		}
		must(t)(a.Step(t.Context(), "chat", ana, Step{Do: Weigh, Weight: 60}))
		<-time.After(time.Second)
		for range 3 {
			serve(func(side Side) bool { return side == SideCandidate })
		}
		if p, q, ok := b.Outcomes("chat"); !ok || p.Requests+q.Requests != 4000 || q.Errors != q.Requests || p.Errors >= p.Requests {
			t.Errorf("Outcomes = %+v, %+v, %v: a new weight must not begin the count anew", p, q, ok)
		}
		within(t, a, 1100*time.Millisecond, "the rollback", func() bool { return a.Table().Route("chat").Canary.Phase == Idle })
		got := a.Table().Route("chat").Canary
		if !strings.Contains(got.RolledBack, "of the candidate's") || got.Primary != "" || got.Holder != "" {
			t.Errorf("after the rollback: %+v", got)
		}
		if e := a.Audit(1)[0]; e.By != "gateway n2" || !strings.HasPrefix(e.What, "rollback: ") {
			t.Errorf("the audit's last: %+v", e)
		}
		var metrics bytes.Buffer
		b.Metrics(&metrics)
		if !strings.Contains(metrics.String(), "\ngateway_control_rollbacks_total 1\n") {
			t.Errorf("metrics:\n%s", &metrics)
		}
	})
}

// What was acknowledged is there after a restart, with the audit; a switch whose time has passed is on.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "n1")
		c.start("n1")
		n := c.node("n1")
		<-n.Synced()
		must(t)(n.SetSwitch(t.Context(), "chat", ana, Switch{Mode: Off, Expires: time.Now().Add(time.Hour)}))
		must(t)(n.SetStrangler(t.Context(), "pay", ana, Strangler{Legacy: "http://l", Weight: 20, Shadow: true}))
		first := must(t)(n.Step(t.Context(), "pay", Request{By: "ana", ID: "req-1"}, step(Lock)))
		must(t)(n.Step(t.Context(), "pay", ana, step(Stage)))
		must(t)(n.Step(t.Context(), "pay", ana, Step{Do: Weigh, Weight: 10, Guard: &Guard{SamplesMin: 7}}))
		want, audit := *n.Table().Route("pay"), n.Audit(10)
		c.stop("n1")
		c.start("n1")
		defer c.stopAll()
		n = c.node("n1")
		got := n.Table().Route("pay")
		if diff := cmp.Diff([]any{want.Canary, want.Strangler, want.CanaryStamp}, []any{got.Canary, got.Strangler, got.CanaryStamp}); diff != "" {
			t.Errorf("after a restart (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(audit, n.Audit(10)); diff != "" || audit[2].RequestID != "req-1" || audit[2].Stamp != first.Stamp {
			t.Errorf("audit after a restart (-want +got):\n%s", diff)
		}
		if got := mode(n, "chat"); got != Off {
			t.Errorf("chat is %s, want off", got)
		}
		<-time.After(time.Hour)
		if got := mode(n, "chat"); got != On {
			t.Errorf("chat is %s an hour later, want on", got)
		}
		if e := must(t)(n.Step(t.Context(), "pay", ana, step(Complete))); e.Stamp.Compare(got.CanaryStamp) <= 0 {
			t.Errorf("a change after the restart has stamp %v, before %v", e.Stamp, got.CanaryStamp)
		}
	})
}

func TestRefusals(t *testing.T) {
	c := newCluster(t, "n1")
	c.start("n1")
	defer c.stopAll()
	n := c.node("n1")
	ctx := t.Context()
	lock := must(t)(n.Step(ctx, "chat", Request{By: "ana", ID: "1"}, step(Lock)))
	again := must(t)(n.Step(ctx, "chat", Request{By: "ana", ID: "1", Expect: Stamp{1, 0, "n1"}}, step(Lock)))
	if again.Stamp != lock.Stamp {
		t.Errorf("the same request again made %v, want %v", again.Stamp, lock.Stamp)
	}
	must(t)(n.Step(ctx, "chat", Request{By: "ana", Expect: lock.Stamp}, step(Stage)))
	for name, c := range map[string]struct {
		do   func() (Entry, error)
		want error
	}{
		"another's lock":   {func() (Entry, error) { return n.Step(ctx, "chat", Request{By: "bo", ID: "1"}, step(Lock)) }, ErrLocked},
		"an illegal step":  {func() (Entry, error) { return n.Step(ctx, "chat", ana, step(Complete)) }, ErrStep},
		"an old view":      {func() (Entry, error) { return n.Step(ctx, "chat", Request{By: "ana", Expect: lock.Stamp}, step(Stage)) }, ErrChanged},
		"no such route":    {func() (Entry, error) { return n.SetSwitch(ctx, "geo", ana, off) }, ErrRoute},
		"by nobody":        {func() (Entry, error) { return n.SetSwitch(ctx, "chat", Request{}, off) }, ErrInvalid},
		"a bad request id": {func() (Entry, error) { return n.SetSwitch(ctx, "chat", Request{By: "ana", ID: "a\nb"}, off) }, ErrInvalid},
		"a bad switch":     {func() (Entry, error) { return n.SetSwitch(ctx, "chat", ana, Switch{}) }, ErrInvalid},
		"an expired switch": {func() (Entry, error) {
			return n.SetSwitch(ctx, "chat", ana, Switch{Mode: Off, Expires: time.Now().Add(-time.Second)})
		}, ErrInvalid},
		"a bad strangler": {func() (Entry, error) { return n.SetStrangler(ctx, "chat", ana, Strangler{Legacy: "x"}) }, ErrInvalid},
		"a heavy strangler": {func() (Entry, error) {
			return n.SetStrangler(ctx, "chat", ana, Strangler{Legacy: "http://l", Weight: 101})
		}, ErrInvalid},
	} {
		if e, err := c.do(); !errors.Is(err, c.want) || Outcome(err) != sharedlog.NotApplied {
			t.Errorf("%s: %+v, %v, want %v", name, e, err, c.want)
		}
	}
	if got := len(n.Audit(10)); got != 2 {
		t.Errorf("%d changes in the audit, want the 2 that were taken", got)
	}
}

// A strangler keeps its subjects on their side while its weight changes; ended and begun anew, it chooses anew.
func TestStranglerKeepsItsSalt(t *testing.T) {
	c := newCluster(t, "n1")
	c.start("n1")
	defer c.stopAll()
	n := c.node("n1")
	salt := func(s Strangler) uint64 {
		must(t)(n.SetStrangler(t.Context(), "chat", ana, s))
		return n.Table().Route("chat").Strangler.Salt
	}
	first := salt(Strangler{Legacy: "http://l", Weight: 10})
	if got := salt(Strangler{Legacy: "http://l", Weight: 20, Salt: 5}); got != first || first == 0 {
		t.Errorf("salt %d after %d", got, first)
	}
	if got := salt(Strangler{}); got != 0 || n.Table().Route("chat").Decide(time.Now(), "u").Side != SideOwn {
		t.Errorf("salt %d of no strangler", got)
	}
	if got := salt(Strangler{Legacy: "http://l", Weight: 20}); got == first || got == 0 {
		t.Errorf("salt %d of another strangler than %d", got, first)
	}
}

// Two requests in one slot decide one after the other: of many that lock at once one has the lock.
func TestOneLockOfMany(t *testing.T) {
	c := newCluster(t, "n1")
	c.start("n1")
	defer c.stopAll()
	var got, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			_, err := c.node("n1").Step(t.Context(), "chat", Request{By: fmt.Sprint("user ", i)}, step(Lock))
			switch {
			case err == nil:
				got.Add(1)
			case errors.Is(err, ErrLocked):
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	if got.Load() != 1 || refused.Load() != 49 {
		t.Errorf("%d have the lock, %d were refused it; want 1 and 49", got.Load(), refused.Load())
	}
}

// A thousand changes while readers look: each sees whole tables, and never an older one than was acknowledged before it
// looked.
func TestTogglesUnderReaders(t *testing.T) {
	c := newCluster(t, "n1")
	c.start("n1")
	defer c.stopAll()
	n := c.node("n1")
	var done atomic.Bool
	var acked atomic.Int64
	var wg sync.WaitGroup
	status := func(i int64) int { return 200 + int(i%400) }
	for range 4 {
		wg.Go(func() {
			for last := int64(-1); !done.Load(); {
				runtime.Gosched()
				before := acked.Load()
				r := n.Table().Route("chat")
				if r.SwitchStamp.IsZero() {
					continue
				}
				var i int64
				if _, err := fmt.Sscan(r.Switch.Body, &i); err != nil || r.Switch.Status != status(i) || string(r.body) != r.Switch.Body {
					t.Errorf("half of a change: %+v", r.Switch)
					return
				}
				if i < before || i < last {
					t.Errorf("reads change %d after %d, of which %d was acknowledged", i, last, before)
					return
				}
				last = i
			}
		})
	}
	for i := range int64(1000) {
		must(t)(n.SetSwitch(t.Context(), "chat", ana, Switch{Mode: Static, Status: status(i), ContentType: "text/plain", Body: fmt.Sprint(i)}))
		acked.Store(i)
	}
	done.Store(true)
	wg.Wait()
	d := n.Table().Route("chat").Decide(time.Now(), "u")
	w := httptest.NewRecorder()
	d.ServeStatic(w)
	if w.Code != status(999) || w.Body.String() != "999" || w.Header().Get("Content-Type") != "text/plain" {
		t.Errorf("the static answer: %d %q", w.Code, w.Body)
	}
}

func TestReceiveRefusesStrangers(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	c.start("n1")
	defer c.stopAll()
	n := c.node("n1")
	for name, h := range map[string]http.Header{"unsigned": {}, "signed wrongly": {"X-Peer-From": {"n2"}, "X-Peer-To": {"n1"},
		"X-Peer-Time": {fmt.Sprint(time.Now().UnixMilli())}, "X-Peer-Signature": {strings.Repeat("00", 32)}}} {
		if err := n.Receive(t.Context(), h, []byte("x")); !errors.Is(err, peer.ErrSignature) {
			t.Errorf("%s: %v, want ErrSignature", name, err)
		}
	}
	// What is signed and makes no sense is refused whole.
	var last error
	sender := peer.Cluster{Purpose: n.cluster.Purpose, Self: "n2", URLs: map[string]string{"n1": "http://n1"}, Secret: testSecret, Now: time.Now,
		Client: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			body, err := io.ReadAll(r.Body)
			if err == nil {
				last = n.Receive(r.Context(), r.Header, body)
			}
			return nil, errors.New("seen")
		})}}
	for _, body := range []string{"nonsense", "\x01\x00\x05\x00\x01\x0a\x01\x02n2\x05\x01\x00{}"} {
		sender.Send(t.Context(), "n1", []byte(body))
		if !errors.Is(last, ErrMessage) {
			t.Errorf("%q: %v, want ErrMessage", body, last)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestBadOptions(t *testing.T) {
	for want, spoil := range map[string]func(*Options){
		"NODE_ID":     func(o *Options) { o.Self = "n 1" },
		"PEER_SECRET": func(o *Options) { o.Secret = nil; o.Peers = map[string]string{"n2": "http://n2"} },
		"route":       func(o *Options) { o.Routes = []string{""} },
		"1025 routes": func(o *Options) { o.Routes = make([]string, RoutesMax+1) },
		"open log":    func(o *Options) { o.Dir = filepath.Join(o.Dir, "file", "below") },
	} {
		c := newCluster(t, "n1")
		if err := os.MkdirAll(c.dirs["n1"], 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(c.dirs["n1"], "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		o := c.options("n1")
		spoil(&o)
		if n, err := Open(context.Background(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open = %v, %v, want an error with %q", n, err, want)
		}
	}
}

// A change that the disk had no room for leaves nothing behind.
func TestAbandon(t *testing.T) {
	c := newCluster(t, "n1")
	c.start("n1")
	n := c.node("n1")
	q := &request{Request: ana, route: "chat", kind: KindSwitch, what: "off", next: func(json.RawMessage, uint64) (any, error) { return off, nil }}
	if p := (machine{n}).Prepare(sharedlog.Position{}, []*request{q, q}); len(p[0].Commands) != 1 || !p[1].Later {
		t.Errorf("Prepare = %+v, want a command, and the second request later", p)
	}
	machine{n}.Abandon()
	if mode(n, "chat") != On || len(n.Audit(10)) != 0 {
		t.Error("what was abandoned acts")
	}
	must(t)(n.SetSwitch(t.Context(), "pay", ana, off))
	c.stop("n1")
	c.start("n1")
	defer c.stopAll()
	if n = c.node("n1"); mode(n, "pay") != Off || mode(n, "chat") != On {
		t.Errorf("pay is %s, chat %s; want off, on", mode(n, "pay"), mode(n, "chat"))
	}
}

// Gateways that are cut off, restarted and changed at random agree a second after all is well again, whatever came of
// each change; and of what was acknowledged the newest of each register stands.
func TestGatewaysAgree(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) { agree(t, seed) })
	}
}

func agree(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 9))
	names := []string{"n1", "n2", "n3"}
	c := newCluster(t, names...)
	c.start(names...)
	defer c.stopAll()
	newest := map[register]Entry{}
	for range 150 {
		<-time.After(time.Duration(random.IntN(100)) * time.Millisecond)
		name := names[random.IntN(3)]
		n := c.node(name)
		var e Entry
		var err error
		route := testRoutes[random.IntN(2)]
		by := Request{By: "user " + strconv.Itoa(random.IntN(3))}
		switch random.IntN(8) {
		case 0:
			c.link(name, names[random.IntN(3)], random.IntN(2) == 0)
		case 1:
			c.stop(name)
			<-time.After(time.Millisecond) // no two processes of one node have the same incarnation
			c.start(name)
		case 2, 3, 4:
			s := step([]Action{Lock, Stage, Weigh, Complete, Unlock, Rollback}[random.IntN(6)])
			if e, err = n.Step(t.Context(), route, by, s); err != nil && !errors.Is(err, ErrStep) && !errors.Is(err, ErrLocked) {
				t.Fatalf("seed %d: %v", seed, err)
			}
		default:
			e = must(t)(n.SetSwitch(t.Context(), route, by, Switch{Mode: Static, Status: 200 + random.IntN(400), ContentType: "a"}))
		}
		if was, ok := newest[e.register()]; e.Value != nil && (!ok || was.compare(e) < 0) {
			newest[e.register()] = e
		}
	}
	for i, a := range names {
		c.link(a, names[(i+1)%3], true)
	}
	<-time.After(time.Second)
	entries := func(name string) map[register]Entry {
		n := c.node(name)
		n.mu.Lock()
		defer n.mu.Unlock()
		return maps.Clone(n.history.state.registers)
	}
	for _, name := range names {
		if diff := cmp.Diff(newest, entries(name)); diff != "" {
			t.Errorf("seed %d: %s does not have what was acknowledged (-want +got):\n%s", seed, name, diff)
		}
		if diff := cmp.Diff(c.node("n1").Audit(AuditMax), c.node(name).Audit(AuditMax)); diff != "" {
			t.Errorf("seed %d: audits differ (-n1 +%s):\n%s", seed, name, diff)
		}
		select {
		case <-c.node(name).Synced():
		default:
			t.Errorf("seed %d: %s is not synced", seed, name)
		}
	}
}
