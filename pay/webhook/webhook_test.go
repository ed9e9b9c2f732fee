package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/filelog"

	"github.com/google/go-cmp/cmp"
)

func openFile(t *testing.T, dir string) *filelog.Log {
	t.Helper()
	engine, _, err := filelog.Open(dir, filelog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Close() })
	return engine
}

// The whole way over a real network: only what came after the registration, in order, each event once, signed with the
// secret that Create showed.
func TestDelivery(t *testing.T) {
	source := newOutbox()
	source.add(3, "pay.transfer.created")
	h := open(t, Config{Engine: openFile(t, t.TempDir()), Source: source, AllowPrivate: true, Name: "p"})
	r := newReceiver(nil)
	server := httptest.NewServer(r)
	defer server.Close()
	e := create(t, h, "k1", server.URL, "pay.transfer.*")
	var want []string
	for range 40 { // more than one page, most of it of no interest
		want = append(want, source.add(1, "pay.transfer.created")...)
		source.add(1, "pay.account.created")
	}
	arrivals := r.untilAccepted(t, want[len(want)-1])
	for _, problem := range broken(want, arrivals) {
		t.Error(problem)
	}
	if len(arrivals) != len(want) {
		t.Errorf("%d requests for %d events", len(arrivals), len(want))
	}
	for _, a := range arrivals {
		header := http.Header{"Webhook-Id": {a.ID}, "Webhook-Timestamp": {a.Timestamp}, "Webhook-Signature": {a.Signature}}
		if err := verify(e.Secret, header, []byte(a.Body)); err != nil {
			t.Error(err)
		}
		if !strings.Contains(a.Body, a.ID) {
			t.Errorf("event %s has body %s", a.ID, a.Body)
		}
	}
	eventually(t, "the list says so", func() bool { return h.List("ann")[0].LastEventID == want[len(want)-1] })
	got := h.List("ann")[0]
	if got.LastSuccessAt.IsZero() || got.Status != StatusEnabled || got.LastFailure != nil || got.Secret != "" {
		t.Errorf("listed as %+v", got)
	}
	var metrics bytes.Buffer
	h.Metrics(&metrics)
	for _, line := range []string{
		`webhook_attempts_total{outcome="delivered"} 40`, `webhook_endpoints{status="enabled"} 1`, "webhook_leader 1",
	} {
		if !strings.Contains(metrics.String(), "\n"+line+"\n") {
			t.Errorf("metrics lack %q:\n%s", line, metrics.String())
		}
	}
}

// During a rotation both secrets verify.
func TestRotate(t *testing.T) {
	source := newOutbox()
	h := open(t, Config{Engine: openFile(t, t.TempDir()), Source: source, AllowPrivate: true})
	r := newReceiver(nil)
	server := httptest.NewServer(r)
	defer server.Close()
	first := create(t, h, "k1", server.URL)
	second, err := h.Rotate(t.Context(), "ann", "k2", first.ID)
	if err != nil || second.Secret == first.Secret || second.ID != first.ID || second.OldSecretUntil.IsZero() {
		t.Fatalf("Rotate: %+v, %v", second, err)
	}
	again, err := h.Rotate(t.Context(), "ann", "k2", first.ID)
	if diff := cmp.Diff(second, again); diff != "" || err != nil {
		t.Errorf("Rotate again: %v (-first +again):\n%s", err, diff)
	}
	id := source.add(1, "t")[0]
	a := r.untilAccepted(t, id)[0]
	header := http.Header{"Webhook-Id": {a.ID}, "Webhook-Timestamp": {a.Timestamp}, "Webhook-Signature": {a.Signature}}
	for _, secret := range []string{first.Secret, second.Secret} {
		if err := verify(secret, header, []byte(a.Body)); err != nil {
			t.Error(err)
		}
	}
}

func TestRequests(t *testing.T) {
	h := open(t, Config{Engine: openFile(t, t.TempDir()), Source: newOutbox()})
	e := create(t, h, "k1", "https://a.example/", "a.*")
	again, replayed, err := h.Create(t.Context(), "ann", "k1", "https://a.example/", []string{"a.*"})
	if diff := cmp.Diff(e, again); diff != "" || !replayed || err != nil {
		t.Errorf("Create again: replayed %v, %v (-first +again):\n%s", replayed, err, diff)
	}
	_, _, err = h.Create(t.Context(), "ann", "k1", "https://b.example/", nil)
	wantErr(t, "another request with the key", err, ErrKeyReused)
	for field, request := range map[string][]string{
		"user": {"", "k", "https://a.example/"}, "key": {"ann", "", "https://a.example/"}, "url": {"ann", "k", "http://a.example/"},
		"types[1]": {"ann", "k", "https://a.example/", "ok", "*"},
	} {
		_, _, err := h.Create(t.Context(), request[0], request[1], request[2], request[3:])
		var invalid *InvalidError
		if !errors.As(err, &invalid) || invalid.Field != field {
			t.Errorf("Create(%q): %v, want %s to be invalid", request, err, field)
		}
	}
	_, err = h.Rotate(t.Context(), "ann", "", e.ID)
	wantErr(t, "Rotate without a key", err, ErrInvalid)
	_, err = h.Rotate(t.Context(), "bob", "k", e.ID)
	wantErr(t, "Rotate by bob", err, ErrUnknown)
	wantErr(t, "Enable by bob", h.Enable(t.Context(), "bob", e.ID), ErrUnknown)
	wantErr(t, "Delete by bob", h.Delete(t.Context(), "bob", e.ID), ErrUnknown)
	if n := len(h.List("bob")); n != 0 {
		t.Errorf("bob has %d endpoints", n)
	}
	e.Secret = ""
	if diff := cmp.Diff([]Endpoint{e}, h.List("")); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	text, err := json.Marshal(e)
	want := fmt.Sprintf(`{"id":%q,"user":"ann","url":"https://a.example/","types":["a.*"],"created_at":%q,"status":"enabled"}`,
		e.ID, e.CreatedAt.Format(time.RFC3339Nano))
	if string(text) != want || err != nil {
		t.Errorf("JSON %s, %v, want %s", text, err, want)
	}
	wantErr(t, "Delete", h.Delete(t.Context(), "ann", e.ID), nil)
	wantErr(t, "Delete again", h.Delete(t.Context(), "ann", e.ID), ErrUnknown)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = h.Create(ctx, "ann", "k9", "https://a.example/", nil)
	if sharedlog.OutcomeOf(err) == sharedlog.Applied || !errors.Is(err, context.Canceled) {
		t.Errorf("Create, given up: %v, outcome %v", err, sharedlog.OutcomeOf(err))
	}
}

// A process that ends, in whatever way, is followed by one that goes on from what was recorded: nothing is left out, and
// after an orderly end nothing is sent twice.
func TestReopen(t *testing.T) {
	for _, orderly := range []bool{true, false} {
		t.Run(fmt.Sprintf("orderly=%v", orderly), func(t *testing.T) {
			dir, source, r := t.TempDir(), newOutbox(), newReceiver(nil)
			server := httptest.NewServer(r)
			defer server.Close()
			var want []string
			for round := range 6 {
				engine := openFile(t, dir)
				h, err := Open(t.Context(), Config{Engine: engine, Source: source, AllowPrivate: true, Name: "p"})
				if err != nil {
					t.Fatal(err)
				}
				if round == 0 {
					create(t, h, "k", server.URL)
				}
				ids := source.add(50, "t")
				want = append(want, ids...)
				r.untilAccepted(t, ids[20]) // in the midst of a page
				if orderly {
					err = h.Close()
				} else {
					kill(h)
				}
				if err := errors.Join(err, engine.Close()); err != nil {
					t.Fatal(err)
				}
			}
			open(t, Config{Engine: openFile(t, dir), Source: source, AllowPrivate: true, Name: "p"})
			arrivals := r.untilAccepted(t, want[len(want)-1])
			for _, problem := range broken(want, arrivals) {
				t.Error(problem)
			}
			// A request that Close cut off may have arrived; one per round.
			if twice := len(arrivals) - len(want); orderly && twice > 6 {
				t.Errorf("%d of %d events were sent twice", twice, len(want))
			}
		})
	}
}

// What may not be reached is not reached, even when it was registered while it was allowed.
func TestPrivateAddressesAreRefused(t *testing.T) {
	dir, source, r := t.TempDir(), newOutbox(), newReceiver(nil)
	server := httptest.NewServer(r)
	defer server.Close()
	engine := openFile(t, dir)
	h, err := Open(t.Context(), Config{Engine: engine, Source: source, AllowPrivate: true})
	if err != nil {
		t.Fatal(err)
	}
	port := server.URL[strings.LastIndex(server.URL, ":"):]
	create(t, h, "k1", server.URL)
	create(t, h, "k2", "https://localhost"+port)
	if err := errors.Join(h.Close(), engine.Close()); err != nil {
		t.Fatal(err)
	}
	source.add(1, "t")
	h = open(t, Config{Engine: openFile(t, dir), Source: source})
	eventually(t, "both failed", func() bool {
		return !slices.ContainsFunc(h.List(""), func(e Endpoint) bool { return e.LastFailure == nil })
	})
	for i, want := range []string{"the URL must begin with https://", "the address is not public"} {
		if got := h.List("")[i]; got.LastFailure.Error != want || got.NextAttemptAt.IsZero() {
			t.Errorf("endpoint %s: %+v, want %q", got.URL, got.LastFailure, want)
		}
	}
	if n := len(r.all()); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

// The log stays short: after thousands of records it holds a snapshot and what follows, and reopens to the same.
func TestCompact(t *testing.T) {
	dir, source := t.TempDir(), newOutbox()
	engine, _, err := filelog.Open(dir, filelog.Options{SegmentBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	h, err := Open(t.Context(), Config{Engine: engine, Source: source})
	if err != nil {
		t.Fatal(err)
	}
	e := create(t, h, "k", "https://a.example/")
	h.state.mu.Lock()
	h.state.slots = snapshotSlots
	h.state.mu.Unlock()
	wantErr(t, "Enable", h.Enable(t.Context(), "ann", e.ID), nil)
	eventually(t, "slots are trimmed", func() bool { return engine.First() > 1 })
	want := h.List("")
	if err := errors.Join(h.Close(), engine.Close()); err != nil {
		t.Fatal(err)
	}
	h = open(t, Config{Engine: openFile(t, dir), Source: source})
	if diff := cmp.Diff(want, h.List("")); diff != "" {
		t.Errorf("List after a trim and a reopening (-want +got):\n%s", diff)
	}
}
