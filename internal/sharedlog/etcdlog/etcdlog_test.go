package etcdlog_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dongne/internal/etcd/etcdtest"
	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/enginetest"
	"dongne/internal/sharedlog/etcdlog"
	"dongne/internal/sharedlog/live"

	"github.com/google/go-cmp/cmp"
)

// open returns a log without sending anything. A timeout of 0 is the default.
func open(t testing.TB, endpoints []string, prefix string, timeout time.Duration) *etcdlog.Log {
	t.Helper()
	log, err := etcdlog.New(etcdlog.Config{Endpoints: endpoints, Prefix: prefix, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return log
}

func suite(t *testing.T, endpoints []string) {
	places := 0
	enginetest.Run(t, func(*testing.T) func(*testing.T) live.Engine {
		places++
		prefix := fmt.Sprint("suite/", places)
		return func(t *testing.T) live.Engine { return open(t, endpoints, prefix, 10*time.Second) }
	})
}

func TestSuiteOnFake(t *testing.T) { suite(t, []string{newFake().serve(t)}) }
func TestSuiteOnOne(t *testing.T)  { suite(t, etcdtest.Start(t, 1).Endpoints()) }

func TestNewRefuses(t *testing.T) {
	good := []string{"127.0.0.1:2379"}
	for _, c := range []struct {
		config etcdlog.Config
		want   string
	}{
		{etcdlog.Config{Prefix: "p"}, "0 endpoints"},
		{etcdlog.Config{Prefix: "p", Endpoints: make([]string, 17)}, "17 endpoints"},
		{etcdlog.Config{Prefix: "p", Endpoints: []string{"localhost"}}, `"localhost", want host:port`},
		{etcdlog.Config{Prefix: "p", Endpoints: []string{"http://localhost:2379"}}, "want host:port"},
		{etcdlog.Config{Endpoints: good}, `prefix ""`},
		{etcdlog.Config{Prefix: "/p", Endpoints: good}, `prefix "/p"`},
		{etcdlog.Config{Prefix: "p/", Endpoints: good}, `prefix "p/"`},
		{etcdlog.Config{Prefix: strings.Repeat("p", 513), Endpoints: good}, "prefix"},
	} {
		if _, err := etcdlog.New(c.config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New(%+v): %v, want %q", c.config, err, c.want)
		}
	}
}

// What is stored is what the package comment says.
func TestKeys(t *testing.T) {
	f := newFake()
	log := open(t, []string{f.serve(t)}, "a/b", 0)
	for slot := uint64(1); slot <= 3; slot++ {
		if o, err := log.Create(t.Context(), slot, []byte{byte(slot)}); o != sharedlog.Created {
			t.Fatal(o, err)
		}
	}
	if err := log.Trim(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if err := log.Trim(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"a/b/slot/00000000000000000003":  "\x03",
		"a/b/floor/00000000000000000003": "",
	}
	got := map[string]string{}
	for key, kv := range f.kvs {
		got[key] = string(kv.value)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("keys (-want +got)\n%s", d)
	}
}

// A trim of many slots takes several requests.
func TestTrimMany(t *testing.T) {
	f := newFake()
	log := open(t, []string{f.serve(t)}, "p", 0)
	const slots = 2500
	for slot := uint64(1); slot <= slots; slot++ {
		f.kvs[fmt.Sprintf("p/slot/%020d", slot)] = fakeKV{[]byte("x"), 1}
	}
	if err := log.Trim(t.Context(), slots); err != nil {
		t.Fatal(err)
	}
	if len(f.kvs) != 2 {
		t.Errorf("%d keys are left, want a slot and the floor", len(f.kvs))
	}
	if o, err := log.Create(t.Context(), 7, []byte("late")); o != sharedlog.Taken || err != nil {
		t.Errorf("a create below the floor is %v, %v", o, err)
	}
}

// Reading many slots in turn takes few requests; so does proposing when far behind.
func TestReadsAhead(t *testing.T) {
	f := newFake()
	endpoints := []string{f.serve(t)}
	writer := open(t, endpoints, "p", 0)
	const slots = 1000
	for slot := uint64(1); slot <= slots; slot++ {
		if o, err := writer.Create(t.Context(), slot, fmt.Append(nil, slot)); o != sharedlog.Created {
			t.Fatal(o, err)
		}
	}
	reader, late := open(t, endpoints, "p", 0), open(t, endpoints, "p", 0)
	const most = 7 + slots/64 + 3 // doubling up to 64 slots; the floor at the end
	before := f.requests
	for slot := uint64(1); slot <= slots; slot++ {
		if data, err := reader.Get(t.Context(), slot); err != nil || string(data) != fmt.Sprint(slot) {
			t.Fatalf("slot %d: %q, %v", slot, data, err)
		}
	}
	if n := f.requests - before; n > most {
		t.Errorf("reading %d slots took %d requests, want at most %d", slots, n, most)
	}
	before = f.requests
	for slot := uint64(1); slot <= slots; slot++ {
		if o, err := late.Create(t.Context(), slot, []byte("late")); o != sharedlog.Taken {
			t.Fatalf("slot %d: %v, %v", slot, o, err)
		}
		if _, err := late.Get(t.Context(), slot); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.requests - before; n > most {
		t.Errorf("catching up on %d slots took %d requests, want at most %d", slots, n, most)
	}
}

// one mistreats the first request, and those after it honestly.
func one(c crime) func(string) crime { return sequence(c) }

// sequence mistreats the first requests, and those after them honestly.
func sequence(crimes ...crime) func(string) crime {
	return func(string) crime {
		if len(crimes) == 0 {
			return honest
		}
		c := crimes[0]
		crimes = crimes[1:]
		return c
	}
}

// What a create says when its only try is mistreated, and what the slot holds in the end.
func TestOutcomes(t *testing.T) {
	const created, taken, notApplied, unknown = sharedlog.Created, sharedlog.Taken, sharedlog.NotApplied, sharedlog.Unknown
	for _, c := range []struct {
		name   string
		crimes []crime
		want   sharedlog.Outcome
		cause  string
		holds  bool // at last
	}{
		{"honest", nil, created, "", true},
		{"refuses", []crime{refuses}, unknown, `503 "etcdserver: request timed out"`, false},
		{"refusesNewly", []crime{refusesNewly}, unknown, `503 "etcdserver: request timed out"`, false},
		{"appliesLater", []crime{appliesLater}, unknown, "503", true},
		{"losesAnswer", []crime{losesAnswer}, unknown, "EOF", true},
		{"cutsAnswer", []crime{cutsAnswer}, unknown, "unexpected end of JSON input", true},
		{"hangs", []crime{hangs}, unknown, "canceled", false},
		{"hangsAndLater", []crime{hangsAndLater}, unknown, "canceled", true},
		{"doubles", []crime{doubles}, created, "", true},
		{"omitsSuccess", []crime{omitsSuccess}, unknown, "a failure that read nothing", true},
		{"sendsNothing", []crime{sendsNothing}, unknown, "a failure that read nothing", true},
		{"sendsHTML", []crime{sendsHTML}, unknown, "invalid character", false},
		{"fillsUp", []crime{fillsUp}, created, "", true},
		{"claimsFull", []crime{claimsFull}, notApplied, "database space exceeded", false},
		{"claimsFull, then hangs", []crime{claimsFull, hangs}, unknown, "database space exceeded", false},
		{"fillsUp, then reads stale", []crime{fillsUp, honest, readsStale}, unknown, "a read older", true},
		{"claimsFull, then reads stale", []crime{claimsFull, honest, readsStale}, unknown, "a read older", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake()
			f.remember()
			f.revision++ // so that a stale read shows its age
			f.hung, f.gone = make(chan struct{}, 1), make(chan struct{}, 1)
			ctx, giveUp := context.WithCancel(t.Context())
			defer giveUp()
			go func() {
				select {
				case <-f.hung:
					giveUp()
				case <-ctx.Done():
				}
			}()
			log := open(t, []string{f.serve(t)}, "p", time.Minute)
			f.behave(sequence(c.crimes...))
			got, err := log.Create(ctx, 1, []byte("data"))
			if err == nil {
				err = errors.New("")
			}
			if got != c.want || (err.Error() == "") != (c.cause == "") || !strings.Contains(err.Error(), c.cause) {
				t.Errorf("Create is %v, %v; want %v, %q", got, err, c.want, c.cause)
			}
			if want := c.want == notApplied; errors.Is(err, sharedlog.ErrFull) != want && len(c.crimes) == 1 {
				t.Errorf("error %v: full is %v", err, !want)
			}
			if slices.Contains(c.crimes, hangsAndLater) {
				<-f.gone
			}
			f.release(1)
			next := created
			if c.holds {
				next = taken
			}
			if got, err := log.Create(t.Context(), 1, []byte("other")); got != next {
				t.Errorf("the next create is %v, %v; want %v", got, err, next)
			}
		})
	}
}

// Nothing was sent where nobody listens: that alone is not applied, and the next endpoint is tried.
func TestRefusedConnections(t *testing.T) {
	closed := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	nobody := []string{closed(), closed()}
	if o, err := open(t, nobody, "p", 0).Create(t.Context(), 1, []byte("x")); o != sharedlog.NotApplied || err == nil {
		t.Errorf("nobody listens: %v, %v; want not_applied", o, err)
	}
	f := newFake()
	log := open(t, append(nobody, f.serve(t)), "p", 0)
	if o, err := log.Create(t.Context(), 1, []byte("x")); o != sharedlog.Created {
		t.Errorf("the third listens: %v, %v; want created", o, err)
	}
	// One was sent something and kept silent: what the others refuse proves nothing.
	f.behave(one(refuses))
	if o, err := log.Create(t.Context(), 2, []byte("x")); o != sharedlog.Unknown || err == nil {
		t.Errorf("one was sent something: %v, %v; want unknown", o, err)
	}
	f.behave(one(refuses))
	log = open(t, []string{f.serve(t), f.serve(t)}, "p", 0)
	f.behave(sequence(refuses, claimsFull))
	if o, err := log.Create(t.Context(), 2, []byte("x")); o != sharedlog.Unknown || !errors.Is(err, sharedlog.ErrFull) {
		t.Errorf("one was sent something, the other is full: %v, %v; want unknown", o, err)
	}
	f.behave(one(refuses))
	if o, err := log.Create(t.Context(), 2, []byte("x")); o != sharedlog.Created {
		t.Errorf("the other endpoint answers: %v, %v; want created", o, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if o, err := log.Create(ctx, 3, []byte("x")); o != sharedlog.NotApplied || !errors.Is(err, context.Canceled) {
		t.Errorf("given up before it began: %v, %v; want not_applied", o, err)
	}
	if data, err := log.Get(ctx, 3); !errors.Is(err, context.Canceled) {
		t.Errorf("Get: %q, %v; want %v", data, err, context.Canceled)
	}
}

// Our bytes in the slot are ours; sizes that etcd refuses are refused.
func TestTaken(t *testing.T) {
	f := newFake()
	endpoints := []string{f.serve(t)}
	a, b := open(t, endpoints, "p", 0), open(t, endpoints, "p", 0)
	want := func(log *etcdlog.Log, slot uint64, data string, want sharedlog.Outcome) {
		t.Helper()
		if got, err := log.Create(t.Context(), slot, []byte(data)); got != want {
			t.Errorf("Create(%d) is %v, %v; want %v", slot, got, err, want)
		}
	}
	f.behave(one(losesAnswer))
	want(a, 1, "ours", sharedlog.Unknown)
	want(a, 1, "ours", sharedlog.Created)
	want(b, 1, "theirs", sharedlog.Taken)
	want(b, 1, "ours", sharedlog.Created) // now from memory
	want(b, 0, "zero", sharedlog.NotApplied)
	want(b, 2, "", sharedlog.NotApplied)
	for _, size := range []int{2 << 20, 5 << 20} {
		o, err := a.Create(t.Context(), 2, make([]byte, size))
		if o != sharedlog.NotApplied || !errors.Is(err, sharedlog.ErrTooLarge) {
			t.Errorf("%d bytes: %v, %v; want not_applied, %v", size, o, err, sharedlog.ErrTooLarge)
		}
	}
}

// Slots that grow make an answer too long: the reader asks for fewer.
func TestLongAnswers(t *testing.T) {
	f := newFake()
	endpoints := []string{f.serve(t)}
	const small, slots = 100, 140
	for slot := uint64(1); slot <= slots; slot++ {
		data := make([]byte, 1<<20)
		if slot <= small {
			data = data[:1]
		}
		f.kvs[fmt.Sprintf("p/slot/%020d", slot)] = fakeKV{data, 1}
	}
	log := open(t, endpoints, "p", time.Minute)
	for slot := uint64(1); slot <= slots; slot++ {
		if data, err := log.Get(t.Context(), slot); err != nil {
			t.Fatalf("slot %d: %d bytes, %v", slot, len(data), err)
		}
	}
	late := open(t, endpoints, "p", time.Minute)
	unknown := 0
	for slot := uint64(1); slot <= slots; slot++ {
		o, err := late.Create(t.Context(), slot, []byte("late"))
		if o == sharedlog.Unknown {
			unknown++
			o, err = late.Create(t.Context(), slot, []byte("late"))
		}
		if o != sharedlog.Taken {
			t.Fatalf("slot %d: %v, %v", slot, o, err)
		}
	}
	if unknown > 2 {
		t.Errorf("%d creates needed another try, want few", unknown)
	}
}

// seedsMax bounds what DONGNE_SEEDS wants: a seed takes a fifth of a second.
const seedsMax = 300

// seeds returns the first seed and how many to run. DONGNE_SEED repeats one, DONGNE_SEEDS runs more.
func seeds(t *testing.T, n int) (first uint64, count int) {
	number := func(name string) (uint64, bool) {
		v, err := strconv.ParseUint(os.Getenv(name), 10, 64)
		return v, err == nil
	}
	if seed, ok := number("DONGNE_SEED"); ok {
		return seed, 1
	}
	if more, ok := number("DONGNE_SEEDS"); ok {
		n = int(min(more, seedsMax))
	}
	return rand.Uint64() >> 1, n
}

// Three logs over two gateways that mistreat every third request, in all ways at random: nothing acknowledged is lost,
// nothing doubled, nothing refused appears.
func TestHostileGateway(t *testing.T) {
	first, count := seeds(t, 8)
	for seed := first; seed < first+uint64(count); seed++ {
		if err := hostile(t, seed, func(e live.Engine) live.Engine { return e }); err != nil {
			t.Fatalf("DONGNE_SEED=%d: %v", seed, err)
		}
	}
}

// believer takes every unknown outcome for something else.
type believer struct {
	live.Engine
	belief sharedlog.Outcome
}

func (b believer) Create(ctx context.Context, slot uint64, data []byte) (sharedlog.Outcome, error) {
	o, err := b.Engine.Create(ctx, slot, data)
	if o == sharedlog.Unknown {
		return b.belief, err
	}
	return o, err
}

// An engine that claims to know is caught.
func TestHostileGatewayCatches(t *testing.T) {
	for _, belief := range []sharedlog.Outcome{sharedlog.NotApplied, sharedlog.Created} {
		t.Run(belief.String(), func(t *testing.T) {
			first, _ := seeds(t, 0)
			for seed := first; seed < first+20; seed++ {
				if hostile(t, seed, func(e live.Engine) live.Engine { return believer{e, belief} }) != nil {
					return
				}
			}
			t.Errorf("20 seeds from %d on find nothing", first)
		})
	}
}

func hostile(t *testing.T, seed uint64, mutant func(live.Engine) live.Engine) error {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f := newFake()
	endpoints := []string{f.serve(t), f.serve(t)}
	var logs []*live.Log[string, int]
	for range 3 {
		engine := mutant(open(t, endpoints, "p", 100*time.Millisecond))
		options := live.Options{Pause: func(context.Context, int) {}, BatchRequestsMax: 4}
		log, err := live.Open(ctx, engine, &enginetest.Journal{}, options)
		if err != nil {
			return err
		}
		defer log.Close()
		logs = append(logs, log)
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	f.behave(func(string) crime { // under the fake's lock
		if n := rng.IntN(5); n == 0 && len(f.later) > 0 {
			f.later[0]()
			f.later = f.later[1:]
		}
		if rng.IntN(3) > 0 {
			return honest
		}
		if c := crime(rng.IntN(int(crimes))); c != hangs && c != hangsAndLater || rng.IntN(4) == 0 {
			return c
		}
		return honest
	})
	var h enginetest.History
	var wg sync.WaitGroup
	var done atomic.Int32
	for caller := range 6 {
		wg.Go(func() {
			for i := range 15 {
				h.Propose(ctx, logs[(caller+i)%len(logs)], fmt.Sprint(caller, " ", i)) // its error is the history's
				if done.Add(1)%10 == 0 {
					f.remember()
				}
			}
		})
	}
	wg.Wait()
	f.behave(nil)
	for i, log := range logs {
		if err := log.Fresh(ctx); err != nil {
			return fmt.Errorf("log %d: %w", i, err)
		}
		if err := log.Close(); err != nil {
			return fmt.Errorf("log %d: %w", i, err)
		}
	}
	f.release(1 << 20)
	items, tail, err := enginetest.Replay(ctx, open(t, endpoints, "p", 0))
	if err != nil {
		return err
	}
	t.Logf("seed %d: %d requests, %d slots, %d applied, %d not", seed, f.requests, tail,
		h.Count(sharedlog.Applied), h.Count(sharedlog.NotApplied))
	if h.Count(sharedlog.Applied) == 0 {
		return errors.New("nothing was applied")
	}
	return enginetest.Check(h.Calls(), items)
}
