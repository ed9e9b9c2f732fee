package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dongne/internal/serve"
	"dongne/internal/sharedlog"
	"dongne/pay/ledger"
	"dongne/pay/node"
	"dongne/pay/webhook"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestAmount: an amount is read if it is a decimal integer in range, in one spelling alone, and then is that number.
func TestAmount(t *testing.T) {
	spelling := regexp.MustCompile(`^("(0|-?[1-9][0-9]*)"|0|-?[1-9][0-9]*)$`)
	most := big.NewInt(ledger.AmountMax)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(
			rapid.StringMatching(`"?[-+]?[0-9]{0,20}(\.[0-9])?(e[0-9])?"?`),
			rapid.Map(rapid.Int64(), func(n int64) string { return fmt.Sprint(n) }),
			rapid.Map(rapid.Int64Range(-3, 3), func(n int64) string { return new(big.Int).Add(most, big.NewInt(n)).String() }),
		).Draw(t, "text")
		if !json.Valid([]byte(text)) {
			return // no type of ours sees it
		}
		n, whole := new(big.Int).SetString(strings.Trim(text, `"`), 10)
		wanted := spelling.MatchString(text) && whole && n.CmpAbs(most) <= 0
		var got amount
		if err := json.Unmarshal([]byte(text), &got); (err == nil) != wanted {
			t.Fatalf("amount %s: %v, want accepted %v", text, err, wanted)
		}
		if wanted && big.NewInt(int64(got)).Cmp(n) != 0 {
			t.Fatalf("amount %s is read as %d", text, got)
		}
	})
}

// fate is what a client learns of an error.
type fate struct {
	Status    int
	Code      string
	Outcome   string
	Retryable bool
}

func fateOf(t *testing.T, err error) fate {
	t.Helper()
	env := serve.Env(nil, func(string) string { return "" })
	s, fail := serve.New(t.Context(), env, io.Discard, serve.Service{Routes: map[string]serve.Handler{
		"POST /": Writes("", func(http.ResponseWriter, *http.Request, serve.Identity, string) error { return err }),
	}})
	if fail != nil {
		t.Fatal(fail)
	}
	r := httptest.NewRequest("POST", "http://127.0.0.1/", nil)
	r.Header.Set("X-User", "ana")
	r.Header.Set("Idempotency-Key", "k")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	var f fate
	if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil {
		t.Fatalf("%s: %v", w.Body, err)
	}
	if strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%v: the client reads %s", err, w.Body)
	}
	if f.Retryable != (w.Header().Get("Retry-After") != "") {
		t.Errorf("%v: retryable %v, Retry-After %q", err, f.Retryable, w.Header().Get("Retry-After"))
	}
	return f
}

// TestOutcomes: every failure says of its effect what it proves, and no more.
func TestOutcomes(t *testing.T) {
	failed := func(outcome sharedlog.Outcome, err error) error {
		return fmt.Errorf("secret: %w", &sharedlog.Error{Outcome: outcome, Err: err})
	}
	eio := errors.New("secret file: input/output error")
	for _, test := range []struct {
		err  error
		want fate
	}{
		{serve.Problem(400, "request-invalid", ""), fate{400, "request-invalid", "not_applied", false}},
		{Refused(ledger.InsufficientFunds, ""), fate{409, "insufficient-funds", "not_applied", false}},
		{node.ErrInFlight, fate{409, "idempotency-key-in-flight", "unknown", true}},
		{failed(sharedlog.Unknown, eio), fate{503, "outcome-unknown", "unknown", true}},
		{failed(sharedlog.Unknown, sharedlog.ErrStopped), fate{503, "outcome-unknown", "unknown", true}},
		{failed(sharedlog.Unknown, sharedlog.ErrFull), fate{503, "outcome-unknown", "unknown", true}},
		{failed(sharedlog.Unknown, context.DeadlineExceeded), fate{503, "outcome-unknown", "unknown", true}},
		{failed(sharedlog.Applied, eio), fate{503, "answer-lost", "applied", true}},
		{failed(sharedlog.NotApplied, sharedlog.ErrFull), fate{507, "disk-full", "not_applied", false}},
		{failed(sharedlog.NotApplied, sharedlog.ErrTooLarge), fate{413, "too-large", "not_applied", false}},
		{failed(sharedlog.NotApplied, sharedlog.ErrStopped), fate{503, "log-stopped", "not_applied", true}},
		{failed(sharedlog.NotApplied, sharedlog.ErrClosed), fate{503, "closing", "not_applied", true}},
		{failed(sharedlog.NotApplied, sharedlog.ErrBusy), fate{503, "busy", "not_applied", true}},
		{failed(sharedlog.NotApplied, context.DeadlineExceeded), fate{503, "busy", "not_applied", true}},
		{failed(sharedlog.NotApplied, eio), fate{503, "store-unreachable", "not_applied", true}},
		{&webhook.InvalidError{Field: "url", Detail: "has no host"}, fate{400, "request-invalid", "not_applied", false}},
		{webhook.ErrLimit, fate{409, "limit-reached", "not_applied", false}},
		{eio, fate{500, "internal", "unknown", false}},
	} {
		if diff := cmp.Diff(test.want, fateOf(t, test.err)); diff != "" {
			t.Errorf("%v: mismatch (-want +got):\n%s", test.err, diff)
		}
	}
}

// TestRefused: every refusal of the ledger has its status.
func TestRefused(t *testing.T) {
	want := map[string]int{
		"account-unknown": 404, "transfer-unknown": 404,
		"account-exists": 409, "account-closed": 409, "account-not-empty": 409, "insufficient-funds": 409, "limit-exceeded": 409,
		"hold-expired": 409, "not-pending": 409, "amount-exceeds": 409, "refund-legs-needed": 409, "balance-overflow": 409,
		"linked-failed": 409, "cancelled": 409,
		"precondition-failed": 412, "forbidden": 403, "currency-mismatch": 400, "legs-invalid": 400,
		"idempotency-key-reused": 422, "linked-across-shards": 422,
	}
	got := map[string]int{}
	for _, code := range ledger.Codes() {
		got[code.String()] = Refused(code, "").Status
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("statuses mismatch (-want +got):\n%s", diff)
	}
}

// TestResults: a batch of which no item got an answer is answered as a whole.
func TestResults(t *testing.T) {
	keys := []string{"a", "b"}
	unknown := &sharedlog.Error{Outcome: sharedlog.Unknown, Err: errors.New("cut")}
	_, _, err := Results(keys, make([]node.Answer, 2), []error{unknown, node.ErrInFlight})
	if f := fateOf(t, err); f.Code != "outcome-unknown" {
		t.Errorf("no item was answered: %+v", f)
	}
	made := node.Answer{Transfer: &ledger.Transfer{ID: "tr_1"}, Replayed: true}
	results, replayed, err := Results(keys, []node.Answer{made, {}}, []error{nil, unknown})
	if err != nil || replayed || results[0].Status != 201 || results[1].Status != 503 || results[1].Problem.Outcome != "unknown" || results[1].Transfer != nil {
		t.Errorf("one item was answered: %+v, %v, %v", results, replayed, err)
	}
	refused := node.Answer{Refused: ledger.NotPending, Replayed: true}
	if _, replayed, _ = Results(keys, []node.Answer{made, refused}, make([]error, 2)); !replayed {
		t.Error("two replays are not a replay")
	}
}

// outbox is a source with nothing in it.
type outbox struct{}

func (outbox) Events(after string, _ int) ([]webhook.Event, string, error) { return nil, after, nil }
func (outbox) End() string                                                 { return "7" }
func (outbox) Wait(ctx context.Context, _ string) error                    { <-ctx.Done(); return ctx.Err() }

// TestFeedInSilence: a stream without events says every 15 s that it is there.
func TestFeedInSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 46*time.Second)
		defer cancel()
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(ctx, "GET", "/events", nil)
		if err := Feed(w, r, outbox{}, "", 1200*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if want := "retry: 1200\n\nid: 7\n\n:\n\n:\n\n:\n\n"; w.Body.String() != want || !w.Flushed {
			t.Errorf("after 46 s of silence: %q, want %q", w.Body, want)
		}
	})
}

func TestWantsFeed(t *testing.T) {
	for accept, want := range map[string]bool{
		"": false, "*/*": false, "application/json": false, "text/event-stream": true, "Text/Event-Stream;q=0.9": true,
		"application/json, text/event-stream": true, "text/event-streams": false,
	} {
		if got := WantsFeed(http.Header{"Accept": {accept}}); got != want {
			t.Errorf("WantsFeed(%q) = %v", accept, got)
		}
	}
}
