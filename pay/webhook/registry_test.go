package webhook

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"dongne/internal/sharedlog"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// booth drives a registry as a log does: one slot per call.
type booth struct {
	t    interface{ Fatalf(string, ...any) }
	r    *registry
	slot uint64
	now  int64
	log  []*sharedlog.Batch
}

func newBooth(t interface{ Fatalf(string, ...any) }) *booth {
	return &booth{t: t, r: &registry{}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()}
}

// ask prepares commands for one slot, applies what is to be written, and returns the answers.
func (b *booth) ask(commands ...command) (answers []answer) {
	before := encode(b.t, b.r)
	at := sharedlog.Position{Slot: b.slot + 1, Time: b.now}
	prepared := b.r.Prepare(at, commands)
	if diff := cmp.Diff(before, encode(b.t, b.r)); diff != "" {
		b.t.Fatalf("Prepare changed the registry (-before +after):\n%s", diff)
	}
	batch := &sharedlog.Batch{Slot: at.Slot, Time: at.Time}
	for _, p := range prepared {
		for _, c := range p.Commands {
			batch.Commands = append(batch.Commands, sharedlog.Command{Data: c})
		}
	}
	var applied []answer
	if len(batch.Commands) > 0 {
		applied = b.r.Apply(batch)
		b.log, b.slot = append(b.log, batch), at.Slot
	}
	for _, p := range prepared {
		if p.Done {
			answers = append(answers, p.Result)
			continue
		}
		answers, applied = append(answers, applied[0]), applied[1:]
	}
	b.now++
	return answers
}

func (b *booth) one(c command) answer { return b.ask(c)[0] }

func encode(t interface{ Fatalf(string, ...any) }, r *registry) string {
	state, ok := r.Snapshot()
	if !ok {
		t.Fatalf("no snapshot")
	}
	return string(state)
}

func newEndpoint(key string) command {
	return command{Kind: "create", User: "ann", Key: key, URL: "https://a.example/", Secret: "whsec_1", Cursor: "7"}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// The first request with a key counts: an identical one has its answer again, whatever happened since; any other is refused.
func TestKeys(t *testing.T) {
	b := newBooth(t)
	first := b.one(newEndpoint("k1"))
	again := newEndpoint("k1")
	again.Secret, again.Cursor = "whsec_2", "9" // drawn anew by the caller: not part of the request
	rotation := command{Kind: "rotate", User: "ann", Key: "k2", ID: first.endpoint.ID, Secret: "whsec_3"}
	rotated := b.one(rotation)
	b.one(command{Kind: "delete", User: "ann", ID: first.endpoint.ID})
	for what, pair := range map[string][2]answer{"create": {first, b.one(again)}, "rotate": {rotated, b.one(rotation)}} {
		if !pair[1].replayed || pair[1].endpoint.ID != first.endpoint.ID || pair[1].endpoint.Secrets[0] != pair[0].endpoint.Secrets[0] {
			t.Errorf("%s again: %+v, want %+v", what, pair[1], pair[0])
		}
	}
	other := newEndpoint("k1")
	other.URL = "https://b.example/"
	wantErr(t, "another URL", b.one(other).err, ErrKeyReused)
	other = newEndpoint("k1")
	other.Types = []string{"a"}
	wantErr(t, "other types", b.one(other).err, ErrKeyReused)
	other = rotation
	other.Key = "k1"
	wantErr(t, "a rotation with the key of a create", b.one(other).err, ErrKeyReused)
	other = newEndpoint("k1")
	other.User = "bob"
	if a := b.one(other); a.err != nil || a.replayed {
		t.Errorf("another user's key: %+v", a)
	}
	// Two in one slot: the second is judged after the first.
	if both := b.ask(newEndpoint("k3"), newEndpoint("k3")); both[0].endpoint.ID != both[1].endpoint.ID || both[0].replayed || !both[1].replayed {
		t.Errorf("twice in a slot: %+v", both)
	}
	b.now += int64(KeyLifetime)
	if a := b.one(newEndpoint("k1")); a.err != nil || a.replayed || a.endpoint.ID == first.endpoint.ID {
		t.Errorf("after the key's lifetime: %+v", a)
	}
	if len(b.r.Keys) != 1 {
		t.Errorf("%d keys are kept, want 1", len(b.r.Keys))
	}
}

func TestLimits(t *testing.T) {
	b := newBooth(t)
	var ids []string
	for i := range EndpointsMax {
		ids = append(ids, b.one(newEndpoint(fmt.Sprint(i))).endpoint.ID)
	}
	if !slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) != EndpointsMax {
		t.Errorf("ids do not rise: %q", ids)
	}
	wantErr(t, "one more endpoint", b.one(newEndpoint("more")).err, ErrLimit)
	if a := b.one(newEndpoint("3")); !a.replayed {
		t.Errorf("replay at the limit: %+v", a)
	}
	for i := range SecretsMax - 1 {
		if a := b.one(command{Kind: "rotate", User: "ann", Key: fmt.Sprint("r", i), ID: ids[0], Secret: "s"}); a.err != nil {
			t.Fatal(a.err)
		}
	}
	more := command{Kind: "rotate", User: "ann", Key: "r more", ID: ids[0], Secret: "s"}
	wantErr(t, "one more rotation", b.one(more).err, ErrLimit)
	b.now += int64(RotationOverlap)
	if a := b.one(more); a.err != nil || len(a.endpoint.Secrets) != 2 {
		t.Errorf("a rotation a day later: %+v", a)
	}
	for i := len(b.r.alive(b.now)); i < KeysMax; i++ {
		b.r.Keys = append(b.r.Keys, keyed{User: "bob", Key: fmt.Sprint(i), At: b.now})
	}
	b.one(command{Kind: "delete", User: "ann", ID: ids[0]})
	wantErr(t, "one more key", b.one(newEndpoint("more")).err, ErrLimit)
}

// A user has nothing to do with another's endpoint.
func TestOwners(t *testing.T) {
	b := newBooth(t)
	id := b.one(newEndpoint("k")).endpoint.ID
	before := encode(t, b.r)
	for _, c := range []command{
		{Kind: "delete", User: "bob", ID: id}, {Kind: "enable", User: "bob", ID: id}, {Kind: "rotate", User: "bob", Key: "k", ID: id},
		{Kind: "delete", User: "ann", ID: id + "0"}, {Kind: "enable", User: "ann"}, {Kind: "rotate", User: "ann", Key: "x", ID: "wh_"},
	} {
		wantErr(t, c.Kind+" by "+c.User, b.one(c).err, ErrUnknown)
	}
	if diff := cmp.Diff(before, encode(t, b.r)); diff != "" {
		t.Errorf("the registry changed (-before +after):\n%s", diff)
	}
}

func TestRotationOverlap(t *testing.T) {
	b := newBooth(t)
	id := b.one(newEndpoint("k")).endpoint.ID
	e := b.one(command{Kind: "rotate", User: "ann", Key: "r", ID: id, Secret: "whsec_2"}).endpoint
	at := e.Secrets[1].Until - int64(RotationOverlap)
	for _, test := range []struct {
		after time.Duration
		want  []string
	}{
		{0, []string{"whsec_2", "whsec_1"}},
		{RotationOverlap - 1, []string{"whsec_2", "whsec_1"}},
		{RotationOverlap, []string{"whsec_2"}},
	} {
		if diff := cmp.Diff(test.want, e.signing(at+int64(test.after))); diff != "" {
			t.Errorf("secrets that sign %v after the rotation (-want +got):\n%s", test.after, diff)
		}
	}
}

// The lease: one holder at a time; renewals keep the epoch; a new holder voids what the one before it reports.
func TestLease(t *testing.T) {
	b := newBooth(t)
	id := b.one(newEndpoint("k")).endpoint.ID
	turn := b.r.Endpoints[0].Turn
	take := func(holder string) error {
		return b.one(command{Kind: "lease", Holder: holder, TTL: int64(time.Second)}).err
	}
	tell := func(epoch, turn uint64, cursor string) error {
		p := report{ID: id, Turn: turn, Progress: progress{Cursor: cursor}}
		return b.one(command{Kind: "progress", Epoch: epoch, Reports: []report{p}}).err
	}
	wantErr(t, "a", take("a"), nil)
	epoch := b.r.Lease.Epoch
	wantErr(t, "b while a holds", take("b"), errHeld)
	b.now += int64(time.Second) / 2
	wantErr(t, "a again", take("a"), nil)
	b.now += int64(time.Second) / 2
	wantErr(t, "b while a still holds", take("b"), errHeld)
	wantErr(t, "a reports", tell(epoch, turn, "8"), nil)
	b.now += int64(time.Second)
	wantErr(t, "a reports after its time, nobody else there", tell(epoch, turn, "9"), nil)
	wantErr(t, "b after a's time", take("b"), nil)
	wantErr(t, "a reports, deposed", tell(epoch, turn, "10"), errDeposed)
	wantErr(t, "b reports an earlier turn", tell(b.r.Lease.Epoch, turn-1, "11"), nil)
	if got := b.r.Endpoints[0].Progress.Cursor; got != "9" {
		t.Errorf("cursor %q, want 9: what came late must not count", got)
	}
	b.one(command{Kind: "release", Holder: "a"})
	wantErr(t, "a, which released what it had not", take("a"), errHeld)
	b.one(command{Kind: "release", Holder: "b"})
	wantErr(t, "a after b's release", take("a"), nil)
	if a := b.one(command{Kind: "lease", Holder: "c", TTL: 1, Take: true}); a.err != nil || b.r.Lease.Holder != "c" {
		t.Errorf("c, alone: %+v, %+v", a, b.r.Lease)
	}
}

func TestDisableEnable(t *testing.T) {
	b := newBooth(t)
	id := b.one(newEndpoint("k")).endpoint.ID
	b.one(command{Kind: "lease", Holder: "a", TTL: int64(time.Hour)})
	bad := report{ID: id, Turn: b.r.Endpoints[0].Turn, Progress: progress{Cursor: "8", Attempts: 3, Next: 5}, Disabled: "gone"}
	b.one(command{Kind: "progress", Epoch: b.r.Lease.Epoch, Reports: []report{bad}})
	if e := b.r.Endpoints[0]; e.Disabled != "gone" || e.Progress.Cursor != "8" {
		t.Errorf("after the report: %+v", e)
	}
	b.one(command{Kind: "enable", User: "ann", ID: id})
	b.one(command{Kind: "progress", Epoch: b.r.Lease.Epoch, Reports: []report{bad}}) // of the turn before
	want := endpoint{
		ID: id, User: "ann", URL: "https://a.example/", Turn: 4, Secrets: []secret{{Text: "whsec_1"}}, Progress: progress{Cursor: "8"},
	}
	if diff := cmp.Diff(want, b.r.Endpoints[0], cmpopts.IgnoreFields(endpoint{}, "Created")); diff != "" {
		t.Errorf("after Enable (-want +got):\n%s", diff)
	}
}

func TestWants(t *testing.T) {
	for _, test := range []struct {
		types []string
		event string
		want  bool
	}{
		{nil, "anything", true},
		{[]string{"a.b"}, "a.b", true},
		{[]string{"a.b"}, "a.b.c", false},
		{[]string{"a.b.*"}, "a.b.c", true},
		{[]string{"a.b.*"}, "a.b.c.d", true},
		{[]string{"a.b.*"}, "a.b", false},
		{[]string{"a.b.*"}, "a.bc.d", false},
		{[]string{"x", "a.*"}, "a.b", true},
	} {
		if got := (endpoint{Types: test.types}).wants(test.event); got != test.want {
			t.Errorf("types %q want %q: %v, want %v", test.types, test.event, got, test.want)
		}
	}
}

// An entry of a later version changes nothing and is answered with an error.
func TestUnknownEntries(t *testing.T) {
	r := &registry{}
	b := &sharedlog.Batch{Slot: 1, Time: 1, Commands: []sharedlog.Command{{Data: []byte(`{"kind":"new"}`)}, {Data: []byte("?")}}}
	for i, a := range r.Apply(b) {
		wantErr(t, fmt.Sprint("entry ", i), a.err, errBadEntry)
	}
	if got := encode(t, r); got != "{}" {
		t.Errorf("state %s, want {}", got)
	}
	if err := r.Restore([]byte("?")); err == nil {
		t.Error("Restore took what is no JSON")
	}
}

// drawCommand draws a command that may or may not make sense.
func drawCommand(t *rapid.T, r *registry) command {
	id := "wh_0"
	var turn uint64
	if len(r.Endpoints) > 0 {
		e := rapid.SampledFrom(r.Endpoints).Draw(t, "endpoint")
		id, turn = e.ID, e.Turn
	}
	c := command{
		Kind:   rapid.SampledFrom([]string{"create", "rotate", "delete", "enable", "progress", "lease", "release"}).Draw(t, "kind"),
		User:   rapid.SampledFrom([]string{"ann", "bob"}).Draw(t, "user"),
		Holder: rapid.SampledFrom([]string{"p", "q"}).Draw(t, "holder"),
		ID:     id, TTL: int64(time.Hour), Epoch: r.Lease.Epoch,
	}
	switch c.Kind {
	case "create":
		c.ID, c.URL = "", rapid.SampledFrom([]string{"https://a.example/", "https://b.example/"}).Draw(t, "url")
		fallthrough
	case "rotate":
		c.Key = rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(t, "key")
		c.Secret = rapid.StringMatching("[a-z]{4}").Draw(t, "secret")
	case "progress":
		p := progress{Cursor: rapid.StringMatching("[0-9]{2}").Draw(t, "cursor"), Attempts: rapid.IntRange(0, 3).Draw(t, "attempts")}
		if p.Attempts > 0 {
			p.LastFailure = &failure{At: 1, Error: "answered 500", Status: 500}
		} else {
			p.Done = []string{"e1", "e2"}
		}
		disabled := rapid.SampledFrom([]string{"", "", "gone"}).Draw(t, "disabled")
		c.Reports = []report{{ID: id, Turn: turn, Progress: p, Disabled: disabled}}
	}
	return c
}

// The same slots give the same state, from the start or from a snapshot of any slot.
func TestSnapshotAndTailEqualReplay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBooth(t)
		for range rapid.IntRange(1, 30).Draw(t, "slots") {
			var commands []command
			for range rapid.IntRange(1, 3).Draw(t, "commands") {
				commands = append(commands, drawCommand(t, b.r))
			}
			b.ask(commands...)
			b.now += int64(rapid.SampledFrom([]time.Duration{0, time.Hour, 25 * time.Hour}).Draw(t, "later"))
		}
		want := encode(t, b.r)
		for cut := range len(b.log) + 1 {
			r := &registry{}
			for _, batch := range b.log[:cut] {
				r.Apply(batch)
			}
			restored := &registry{}
			if err := restored.Restore([]byte(encode(t, r))); err != nil {
				t.Fatal(err)
			}
			for _, batch := range b.log[cut:] {
				restored.Apply(batch)
			}
			if diff := cmp.Diff(want, encode(t, restored)); diff != "" {
				t.Fatalf("snapshot after %d of %d slots, and the rest (-replay +snapshot):\n%s", cut, len(b.log), diff)
			}
		}
	})
}
