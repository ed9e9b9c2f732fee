package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"dongne/internal/serve"
	"dongne/pay/ledger"
)

// Request reads what r asks of the ledger: its path, its If-Match header and its body of the form B. key is the
// Idempotency-Key, or "". any says whether the caller may move what others own. The error is a problem.
func Request[B Body](r *http.Request, user, key string, any bool) (q ledger.Request, err error) {
	q = ledger.Request{By: user, Any: any, Account: r.PathValue("account")}
	if key != "" {
		q.Key = ledger.NewKey(user, key)
	}
	if id := r.PathValue("transfer"); id != "" {
		var ok bool
		if q.Transfer, ok = ledger.ParseTransfer(id); !ok {
			return q, serve.Problem(http.StatusNotFound, ledger.TransferUnknown.String(), "there is no transfer %q", id)
		}
	}
	if q.IfVersion, err = ifMatch(r.Header); err != nil {
		return q, err
	}
	var body B
	if err := serve.Decode(r, &body); err != nil {
		return q, err
	}
	if err := body.Fill(&q, ""); err != nil {
		return q, err
	}
	return q, conditional(&q)
}

// conditional refuses a version that is of no one account.
func conditional(q *ledger.Request) error {
	payers := 0
	switch q.Kind {
	case ledger.ChangeAccount:
		payers = 1
	case ledger.Move, ledger.Hold, ledger.Claimable:
		for _, leg := range q.Legs {
			if leg.Amount < 0 {
				payers++
			}
		}
	}
	if q.IfVersion != 0 && payers != 1 {
		return serve.Problem(http.StatusBadRequest, "if-match-invalid",
			"If-Match is for what changes an account, or takes from one account alone")
	}
	return nil
}

// ifMatch reads the header If-Match: the version that an account must have, 0 for any.
func ifMatch(h http.Header) (version uint32, err error) {
	values := h["If-Match"]
	if len(values) == 0 || len(values) == 1 && values[0] == "*" {
		return 0, nil
	}
	if len(values) == 1 {
		if version, ok := parseTag(values[0]); ok {
			return version, nil
		}
	}
	return 0, serve.Problem(http.StatusBadRequest, "if-match-invalid",
		`If-Match must come once, and be an account's ETag, such as "v7", or *`)
}

// Tag is the entity tag of an account.
func Tag(a *ledger.Account) string { return `"v` + strconv.FormatUint(uint64(a.Version), 10) + `"` }

func parseTag(text string) (version uint32, ok bool) {
	if len(text) < 4 || text[:2] != `"v` || text[2] < '1' || text[2] > '9' || text[len(text)-1] != '"' {
		return 0, false
	}
	n, err := strconv.ParseUint(text[2:len(text)-1], 10, 32)
	return uint32(n), err == nil
}

// NoneMatch says whether the header If-None-Match lists a tag, so that the client has what it stands for.
func NoneMatch(h http.Header, tag string) bool {
	for one := range strings.SplitSeq(strings.Join(h["If-None-Match"], ","), ",") {
		one = strings.TrimSpace(one)
		if one == "*" || strings.TrimPrefix(one, "W/") == tag {
			return true
		}
	}
	return false
}

const waitMax = 30 * time.Second

// Wait reads the query parameter wait: how long a request waits for an earlier one under its key; 0 when it is absent.
// The error is a problem.
func Wait(r *http.Request) (time.Duration, error) {
	if r.URL.RawQuery == "" {
		return 0, nil
	}
	text := r.URL.Query().Get("wait")
	if text == "" {
		return 0, nil
	}
	wait, err := time.ParseDuration(text)
	if err != nil || wait < 0 || wait > waitMax {
		return 0, serve.Problem(http.StatusBadRequest, "query-invalid",
			"wait: %q is not a duration of at most %v, such as 10s", text, waitMax)
	}
	return wait, nil
}

// Time reads a query parameter that is a time of RFC 3339; the zero time when it is absent. The error is a problem.
func Time(r *http.Request, name string) (time.Time, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.Year() > yearMax || t.Year() < yearMin {
		return time.Time{}, serve.Problem(http.StatusBadRequest, "query-invalid",
			"%s: %q is not a time of RFC 3339 with a year from %d to %d", name, text, yearMin, yearMax)
	}
	return t, nil
}

// Statement is a page of an account's entries.
type Statement struct {
	Account  string         `json:"account"`
	Currency string         `json:"currency"`
	AsOf     string         `json:"as_of"`
	Opening  string         `json:"opening"`
	Closing  string         `json:"closing"`
	Items    []ledger.Entry `json:"items"`
	Next     string         `json:"next,omitempty"`
}

// StatementOf makes the answer of what the node returns.
func StatementOf(a *ledger.Account, page *ledger.Statement, next, asOf string) Statement {
	return Statement{a.ID, a.Currency, asOf, page.Opening, page.Closing, append([]ledger.Entry{}, page.Items...), next}
}

// Webhook is the body that registers a webhook.
type Webhook struct {
	URL   string   `json:"url"`
	Types []string `json:"types"`
}
