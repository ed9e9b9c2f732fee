package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"dongne/internal/serve"
	"dongne/internal/sharedlog"
	"dongne/pay/ledger"
	"dongne/pay/node"
	"dongne/pay/webhook"
)

// Problem is why one request was not done, or is not known to be.
type Problem struct {
	Code      string `json:"code"`
	Title     string `json:"title"`
	Detail    string `json:"detail,omitempty"`
	Status    int    `json:"status"`
	Retryable bool   `json:"retryable"`
	Outcome   string `json:"outcome"`

	cause error // for the log
}

// retryAfter is when a client may send the same request again.
const retryAfter = time.Second

// Error says it in words, for the log.
func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// Unwrap returns the cause, or nil.
func (p *Problem) Unwrap() error { return p.cause }

// serve returns p as the answer to a request of its own; a read has no outcome.
func (p *Problem) serve(writes bool) *serve.Error {
	e := serve.Problem(p.Status, p.Code, "%s", p.Detail)
	if writes {
		e = e.Outcome(p.Outcome)
	}
	if p.Retryable {
		e = e.RetryAfter(retryAfter)
	}
	if p.cause != nil {
		e = e.Because(p.cause)
	}
	return e
}

// answer makes an error what the client may read of it. That of a write gets the outcome that it proves: what the shell and
// this package refuse was never seen by a log; a failure of the log says it itself; of all else nothing is known.
func answer(err error, writes bool) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*serve.Error](err); ok {
		if !writes {
			return e
		}
		return e.Outcome(sharedlog.NotApplied.String())
	}
	p := problemOf(err)
	switch {
	case p != nil && !writes && p.cause != nil:
		return serve.Problem(http.StatusServiceUnavailable, "store-unreachable", "what stands in the log cannot be read now").
			RetryAfter(retryAfter).Because(err)
	case p != nil:
		return p.serve(writes)
	case !writes:
		return err
	}
	return serve.Problem(http.StatusInternalServerError, "internal", "").Outcome(sharedlog.Unknown.String()).Because(err)
}

// problemOf knows the errors of the engines; nil for any other.
func problemOf(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	for _, k := range refusals {
		if errors.Is(err, k.err) {
			return problem(k.status, k.code, k.words(err), sharedlog.NotApplied)
		}
	}
	if _, ok := errors.AsType[*sharedlog.Error](err); ok || errors.Is(err, node.ErrInFlight) {
		return Failed(err)
	}
	return nil
}

// known is an error of an engine, and what it is over HTTP.
type known struct {
	err    error
	status int
	code   string
	detail string // "": the error's own words
}

func (k *known) words(err error) string {
	if invalid, ok := errors.AsType[*webhook.InvalidError](err); ok {
		return strconv.Quote(invalid.Field) + ": " + invalid.Detail
	}
	return cmp.Or(k.detail, err.Error())
}

// refusals are those of reads, and of the webhooks' registry.
var refusals = []known{
	{node.ErrAccountUnknown, http.StatusNotFound, "account-unknown", ""},
	{node.ErrTransferUnknown, http.StatusNotFound, "transfer-unknown", ""},
	{node.ErrCursor, http.StatusBadRequest, "cursor-invalid", ""},
	{webhook.ErrInvalid, http.StatusBadRequest, "request-invalid", ""},
	{webhook.ErrUnknown, http.StatusNotFound, "webhook-unknown", "the caller has no such webhook"},
	{webhook.ErrLimit, http.StatusConflict, "limit-reached", "there are too many webhooks, or too many changes of them within a day"},
	{webhook.ErrKeyReused, http.StatusUnprocessableEntity, "idempotency-key-reused", "this Idempotency-Key was used for another request"},
}

func problem(status int, code, detail string, outcome sharedlog.Outcome) *Problem {
	return &Problem{Code: code, Title: http.StatusText(status), Detail: detail, Status: status, Outcome: outcome.String()}
}

// statuses are those of refusals that are no conflict with what stands in the ledger.
var statuses = map[ledger.Code]int{
	ledger.AccountUnknown:     http.StatusNotFound,
	ledger.TransferUnknown:    http.StatusNotFound,
	ledger.CurrencyMismatch:   http.StatusBadRequest,
	ledger.LegsInvalid:        http.StatusBadRequest,
	ledger.Forbidden:          http.StatusForbidden,
	ledger.LinkedAcross:       http.StatusUnprocessableEntity,
	ledger.KeyReused:          http.StatusUnprocessableEntity,
	ledger.PreconditionFailed: http.StatusPreconditionFailed,
}

// Refused is the problem of a refusal by the ledger. detail is what the ledger says of it.
func Refused(code ledger.Code, detail string) *Problem {
	status, ok := statuses[code]
	if !ok {
		status = http.StatusConflict
	}
	return problem(status, code.String(), detail, sharedlog.NotApplied)
}

// untouched are failures of the log before it took a request.
var untouched = []known{
	{sharedlog.ErrFull, http.StatusInsufficientStorage, "disk-full", "there is no space left to write this down"},
	{sharedlog.ErrTooLarge, http.StatusRequestEntityTooLarge, "too-large", "this does not fit into one entry of the log"},
	{sharedlog.ErrStopped, http.StatusServiceUnavailable, "log-stopped", "the log takes no writes until the service is started again"},
	{sharedlog.ErrClosed, http.StatusServiceUnavailable, "closing", "the service is shutting down"},
	{sharedlog.ErrBusy, http.StatusServiceUnavailable, "busy", "too many requests wait for the log"},
}

// Failed is the problem of a request that got no answer from the ledger.
func Failed(err error) *Problem {
	p := failed(err)
	p.cause = err
	p.Retryable = p.Status == http.StatusServiceUnavailable || p.Status == http.StatusConflict
	return p
}

func failed(err error) *Problem {
	if errors.Is(err, node.ErrInFlight) {
		return problem(http.StatusConflict, "idempotency-key-in-flight",
			"the first request under this Idempotency-Key is not answered yet; ask again, or with wait", sharedlog.Unknown)
	}
	switch sharedlog.OutcomeOf(err) {
	case sharedlog.Unknown:
		return problem(http.StatusServiceUnavailable, "outcome-unknown",
			"it is not known whether this was done; send it again under the same Idempotency-Key", sharedlog.Unknown)
	case sharedlog.Applied:
		return problem(http.StatusServiceUnavailable, "answer-lost",
			"this was done, but its answer is not known; send it again under the same Idempotency-Key", sharedlog.Applied)
	}
	for _, u := range untouched {
		if errors.Is(err, u.err) {
			return problem(u.status, u.code, u.detail, sharedlog.NotApplied)
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return problem(http.StatusServiceUnavailable, "busy", "this did not get its turn in time", sharedlog.NotApplied)
	}
	return problem(http.StatusServiceUnavailable, "store-unreachable", "the log cannot be reached", sharedlog.NotApplied)
}
