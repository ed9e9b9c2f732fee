package etcdlog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"dongne/internal/etcd"
	"dongne/internal/etcd/etcdtest"
	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/enginetest"
	"dongne/internal/sharedlog/etcdlog"
	"dongne/internal/sharedlog/live"
)

const (
	patience = 90 * time.Second // of a test, for what must happen on a busy machine
	some     = 30               // acknowledgements between two faults
)

// load is callers that propose to several logs over one prefix until they are told to stop.
type load struct {
	t       *testing.T
	ctx     context.Context
	engines []*etcdlog.Log
	logs    []*live.Log[string, int]
	history enginetest.History
	stop    context.CancelFunc
	callers sync.WaitGroup
}

func startLoad(t *testing.T, c *etcd.Cluster, prefix string) *load {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	l := &load{t: t, ctx: ctx}
	for range 3 {
		e := open(t, c.Endpoints(), prefix, 0)
		log, err := live.Open(ctx, e, &enginetest.Journal{}, live.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { log.Close() })
		l.engines, l.logs = append(l.engines, e), append(l.logs, log)
	}
	running, stop := context.WithCancel(ctx)
	l.stop = stop
	for caller := range 6 {
		l.callers.Go(func() {
			for i := 0; running.Err() == nil; i++ {
				// A caller that gives up makes outcomes that are unknown.
				ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
				l.history.Propose(ctx, l.logs[(caller+i)%len(l.logs)], fmt.Sprint(caller, " ", i))
				cancel()
			}
		})
	}
	return l
}

// goesOn returns when so many more requests were acknowledged.
func (l *load) goesOn(more int) {
	l.t.Helper()
	want := l.history.Count(sharedlog.Applied) + more
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for l.history.Count(sharedlog.Applied) < want {
		select {
		case <-ticker.C:
		case <-l.ctx.Done():
			l.t.Fatalf("%d requests acknowledged, want %d", l.history.Count(sharedlog.Applied), want)
		}
	}
}

// check ends the load and judges what the callers were told by what the log holds.
func (l *load) check() {
	l.t.Helper()
	l.stop()
	l.callers.Wait()
	for i, log := range l.logs {
		if err := log.Fresh(l.ctx); err != nil {
			l.t.Errorf("log %d: a fresh read: %v", i, err)
		}
		if err := log.Close(); err != nil {
			l.t.Errorf("log %d: %v", i, err)
		}
	}
	items, tail, err := enginetest.Replay(l.ctx, l.engines[0])
	if err != nil {
		l.t.Fatal(err)
	}
	if err := enginetest.Check(l.history.Calls(), items); err != nil {
		l.t.Error(err)
	}
	l.t.Logf("%d slots, %d applied, %d unknown, %d not applied", tail, l.history.Count(sharedlog.Applied),
		l.history.Count(sharedlog.Unknown), l.history.Count(sharedlog.NotApplied))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Three real servers that are killed, paused and cut down to a minority while callers go on.
func TestFaults(t *testing.T) {
	c := etcdtest.Start(t, 3)
	t.Run("Suite", func(t *testing.T) { suite(t, c.Endpoints()) })
	t.Run("LeaderKilled", func(t *testing.T) {
		l := startLoad(t, c, "killed")
		for range 2 {
			l.goesOn(some)
			leader, err := c.Leader(l.ctx)
			must(t, err)
			must(t, c.Kill(leader))
			l.goesOn(some)
			must(t, c.Restart(l.ctx, leader))
		}
		l.goesOn(some)
		l.check()
	})
	t.Run("LeaderPaused", func(t *testing.T) {
		l := startLoad(t, c, "paused")
		l.goesOn(some)
		leader, err := c.Leader(l.ctx)
		must(t, err)
		must(t, c.Pause(leader))
		l.goesOn(some)
		must(t, c.Resume(leader))
		l.goesOn(some)
		l.check()
	})
	t.Run("QuorumLost", func(t *testing.T) { quorumLost(t, c) })
	t.Run("WriterPaused", func(t *testing.T) { writerPaused(t, c) })
}

// Without a majority a create takes no longer than its tries, and its outcome is unknown: it may be in the leader's
// log, and land once there is a majority. With nobody at all nothing is sent.
func quorumLost(t *testing.T, c *etcd.Cluster) {
	l := startLoad(t, c, "quorum")
	l.goesOn(some)
	must(t, c.Kill(0))
	must(t, c.Kill(1))
	alone := open(t, c.Endpoints(), "quorum alone", 0)
	ours := []byte("ours")
	for range 2 {
		began := time.Now()
		outcome, err := alone.Create(l.ctx, 1, ours)
		if outcome != sharedlog.Unknown || err == nil {
			t.Errorf("a create without a majority is %v, %v; want unknown", outcome, err)
		}
		if took := time.Since(began); took > 10*time.Second { // three tries of a second each, on a busy machine
			t.Errorf("a create without a majority took %v", took)
		}
		if data, err := alone.Get(l.ctx, 1); err == nil || errors.Is(err, sharedlog.ErrAbsent) {
			t.Errorf("a get without a majority is %q, %v", data, err)
		}
	}
	must(t, c.Kill(2))
	if outcome, err := alone.Create(l.ctx, 1, ours); outcome != sharedlog.NotApplied || err == nil {
		t.Errorf("a create with no server is %v, %v; want not_applied", outcome, err)
	}
	for node := range 3 {
		must(t, c.Launch(node))
	}
	for node := range 3 {
		must(t, c.Await(l.ctx, node))
	}
	l.goesOn(some)
	l.check()
	// The same create again tells what came of it; only it can have landed.
	if outcome, err := alone.Create(l.ctx, 1, ours); outcome != sharedlog.Created {
		t.Errorf("the same create with a majority is %v, %v; want created", outcome, err)
	}
}

// stall is an engine whose creates wait where they are told to: a process that is paused, or whose connection hangs.
type stall struct {
	live.Engine
	before, after chan struct{} // nil does not wait
	reached       chan struct{} // holds one when a create waits
}

func (s *stall) wait(gate chan struct{}) {
	if gate != nil {
		s.reached <- struct{}{}
		<-gate
	}
}

func (s *stall) Create(ctx context.Context, slot uint64, data []byte) (sharedlog.Outcome, error) {
	s.wait(s.before)
	o, err := s.Engine.Create(ctx, slot, data)
	s.wait(s.after)
	return o, err
}

// A writer that believes it is the only one is paused in the middle of a create, before it is sent or after it has
// landed, while another goes on and even trims the log; then it resumes. Its request is in the log once or not at all,
// as it says.
func writerPaused(t *testing.T, c *etcd.Cluster) {
	for _, where := range []string{"before", "after"} {
		for _, trims := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/trims=%v", where, trims), func(t *testing.T) {
				prefix := fmt.Sprint("writer/", where, trims)
				pauseWriter(t, open(t, c.Endpoints(), prefix, 0), open(t, c.Endpoints(), prefix, 0), where, trims)
			})
		}
	}
}

func pauseWriter(t *testing.T, mine, theirs *etcdlog.Log, where string, trims bool) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	gate := make(chan struct{}, 100)
	paused := &stall{Engine: withSnapshots{mine, &snapshots{}}, reached: make(chan struct{}, 100)}
	if where == "before" {
		paused.before = gate
	} else {
		paused.after = gate
	}
	shelf := paused.Engine.(withSnapshots).snapshots
	other, err := live.Open(ctx, withSnapshots{theirs, shelf}, &enginetest.Journal{}, live.Options{})
	must(t, err)
	defer other.Close()
	owner, err := live.Open(ctx, stalledWithSnapshots{paused, shelf}, &enginetest.Journal{}, live.Options{})
	must(t, err)
	defer owner.Close()
	var h enginetest.History
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		h.Propose(ctx, owner, "the owner's")
	}()
	<-paused.reached
	for i := range 20 {
		must(t, h.Propose(ctx, other, fmt.Sprint("other ", i)))
	}
	slot, err := other.Snapshot(ctx)
	must(t, err)
	items, tail, err := enginetest.Replay(ctx, theirs)
	must(t, err)
	if trims {
		must(t, theirs.Trim(ctx, slot+1))
	}
	close(gate)
	<-answered
	must(t, h.Propose(ctx, other, "after"))
	// Where the slots that would tell are gone, one more outcome is unknown: what follows goes on.
	if err := h.Propose(ctx, owner, "the owner's next"); err != nil && !trims {
		t.Error(err)
	}
	must(t, h.Propose(ctx, owner, "the owner's last"))
	items = append(items, tailOf(t, ctx, theirs, tail)...)
	if err := enginetest.Check(h.Calls(), items); err != nil {
		t.Error(err)
	}
	call := h.Calls()[0]
	want := sharedlog.Applied
	if trims && where == "before" {
		want = sharedlog.Unknown
	}
	if call.Outcome != want {
		t.Errorf("the paused request is %v (%v), want %v", call.Outcome, call.Err, want)
	}
}

// tailOf returns the commands of the slots after one.
func tailOf(t *testing.T, ctx context.Context, e live.Engine, slot uint64) (items []string) {
	t.Helper()
	for {
		slot++
		data, err := e.Get(ctx, slot)
		if errors.Is(err, sharedlog.ErrAbsent) {
			return items
		}
		must(t, err)
		b, err := sharedlog.DecodeBatch(data)
		must(t, err)
		for _, c := range b.Commands {
			items = append(items, string(c.Data))
		}
	}
}

// snapshots keeps the newest snapshot for all writers.
type snapshots struct {
	mu   sync.Mutex
	data []byte // guarded by mu
}

func (s *snapshots) SaveSnapshot(_ context.Context, _ uint64, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data = bytes.Clone(data)
	return nil
}

func (s *snapshots) LoadSnapshot(context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.data == nil {
		return nil, sharedlog.ErrAbsent
	}
	return s.data, nil
}

type withSnapshots struct {
	live.Engine
	*snapshots
}

type stalledWithSnapshots struct {
	*stall
	*snapshots
}

// A full etcd refuses creates, says so truthfully, and is still read.
func TestFull(t *testing.T) {
	c := etcdtest.StartWith(t, etcd.Config{Nodes: 1, QuotaBytes: 8 << 20})
	log := open(t, c.Endpoints(), "full", 10*time.Second)
	data := func(slot uint64) []byte { return bytes.Repeat([]byte{byte(slot)}, 500<<10) }
	slot := uint64(1)
	for ; ; slot++ {
		outcome, err := log.Create(t.Context(), slot, data(slot))
		if outcome == sharedlog.Created {
			continue
		}
		if outcome != sharedlog.NotApplied || !errors.Is(err, sharedlog.ErrFull) {
			t.Fatalf("slot %d: %v, %v; want created until %v", slot, outcome, err, sharedlog.ErrFull)
		}
		break
	}
	t.Logf("full at slot %d", slot)
	other := open(t, c.Endpoints(), "full", 10*time.Second)
	for s := uint64(1); s < slot; s++ {
		if got, err := other.Get(t.Context(), s); err != nil || !bytes.Equal(got, data(s)) {
			t.Errorf("slot %d: %d bytes, %v", s, len(got), err)
		}
		stranger := open(t, c.Endpoints(), "full", 10*time.Second)
		if outcome, err := stranger.Create(t.Context(), s, []byte("x")); outcome != sharedlog.Taken {
			t.Errorf("slot %d again: %v, %v; want taken", s, outcome, err)
		}
	}
	if got, err := other.Get(t.Context(), slot); !errors.Is(err, sharedlog.ErrAbsent) {
		t.Errorf("slot %d was refused: %d bytes, %v", slot, len(got), err)
	}
}

// Real etcd refuses a request beyond its limit before anything else.
func TestTooLarge(t *testing.T) {
	c := etcdtest.Start(t, 1)
	log := open(t, c.Endpoints(), "large", 10*time.Second)
	for _, size := range []int{1600 << 10, 3 << 20} { // refused by the server, and by what carries requests to it
		o, err := log.Create(t.Context(), 1, make([]byte, size))
		if o != sharedlog.NotApplied || !errors.Is(err, sharedlog.ErrTooLarge) {
			t.Errorf("%d bytes: %v, %v; want not_applied, %v", size, o, err, sharedlog.ErrTooLarge)
		}
	}
	if o, err := log.Create(t.Context(), 1, make([]byte, etcdlog.BatchBytesMax)); o != sharedlog.Created {
		t.Errorf("%d bytes: %v, %v; want created", etcdlog.BatchBytesMax, o, err)
	}
}
