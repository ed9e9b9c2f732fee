package books

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// An effect is one transfer or account that an acknowledged request made.
type effect struct {
	request  *Request
	item     int // of a batch
	raw      json.RawMessage
	transfer Transfer // or
	account  Account
	asked    asked
}

// asked is what a request, or an item of a batch, asks for, as far as it matters here.
type asked struct {
	From   string `json:"from"`
	To     string `json:"to"`
	Amount Money  `json:"amount"`
	Hold   bool   `json:"hold"`
	Legs   []Leg  `json:"legs"`
	Memo   string `json:"memo"`
	Final  bool   `json:"final"`
	Linked bool   `json:"linked"`
}

// A refusal is of a request, or of an item of a batch.
type refusal struct {
	request *Request
	asked   asked
	problem Problem
	batch   bool
}

// id is the transfer's or the account's.
func (e *effect) id() string {
	if e.transfer.ID != "" {
		return e.transfer.ID
	}
	return "account " + e.account.ID
}

func (e *effect) acknowledged() time.Duration { return e.request.Answers[0].At }

// outcomes takes the first answers apart. wrong says what in them makes no sense.
func outcomes(h *History) (effects []*effect, refusals []refusal, cancelled []cancellation, wrong []string) {
	for _, r := range h.Requests {
		for _, strange := range r.Strange {
			wrong = append(wrong, fmt.Sprintf("%s: %s", r, strange))
		}
		var a asked
		json.Unmarshal(r.Body, &a) // ours
		switch r.Decision() {
		case Applied:
			if t, back := takesBack(r); back {
				cancelled = append(cancelled, cancellation{r, t})
				continue
			}
			made, refused, bad := applied(r, a)
			effects, refusals, wrong = append(effects, made...), append(refusals, refused...), append(wrong, bad...)
		case Refused:
			var p Problem
			json.Unmarshal(r.Answers[0].Body, &p) // Final has seen that it is one
			refusals = append(refusals, refusal{request: r, asked: a, problem: p})
			wrong = append(wrong, unexpected(r, a, p)...)
		}
	}
	return effects, refusals, cancelled, wrong
}

// takesBack says whether a request was answered with the transfer between shards that it took back.
func takesBack(r *Request) (t Transfer, back bool) {
	back = strings.HasSuffix(r.Path, "/void") && json.Unmarshal(r.Answers[0].Body, &t) == nil && t.Status == "failed"
	return t, back
}

// String names a request in reasons.
func (r *Request) String() string {
	return fmt.Sprintf("%s %s %s of %s", r.Method, r.Path, r.Key, r.User)
}

func applied(r *Request, a asked) (effects []*effect, refusals []refusal, wrong []string) {
	body := r.Answers[0].Body
	if r.Path != BatchPath {
		e := &effect{request: r, raw: body, asked: a}
		return []*effect{e}, nil, e.parse()
	}
	var sent struct{ Items []asked }
	var got struct {
		Items []struct {
			Status   int
			Transfer json.RawMessage
			Problem  Problem
		}
	}
	json.Unmarshal(r.Body, &sent) // ours
	if err := json.Unmarshal(body, &got); err != nil || len(got.Items) != len(sent.Items) {
		return nil, nil, []string{fmt.Sprintf("%s: %d items were answered by %.200q", r, len(sent.Items), body)}
	}
	for i, item := range got.Items {
		if item.Status/100 == 2 {
			e := &effect{request: r, item: i, raw: item.Transfer, asked: sent.Items[i]}
			effects, wrong = append(effects, e), append(wrong, e.parse()...)
			continue
		}
		refusals = append(refusals, refusal{request: r, asked: sent.Items[i], problem: item.Problem, batch: true})
		wrong = append(wrong, unexpected(r, sent.Items[i], item.Problem)...)
	}
	return effects, refusals, append(wrong, unlinked(r, sent.Items, func(i int) bool { return got.Items[i].Status/100 == 2 })...)
}

// unlinked: of linked items all are done or none.
func unlinked(r *Request, items []asked, done func(i int) bool) (wrong []string) {
	for i := range items[:max(0, len(items)-1)] {
		if items[i].Linked && done(i) != done(i+1) {
			wrong = append(wrong, fmt.Sprintf("%s: item %d is linked to the next, and one of them alone was done", r, i))
		}
	}
	return wrong
}

// parse reads what was made, and compares it with what was asked.
func (e *effect) parse() (wrong []string) {
	var err error
	if e.request.Path == AccountsPath {
		err = json.Unmarshal(e.raw, &e.account)
	} else {
		err = json.Unmarshal(e.raw, &e.transfer)
	}
	switch t := &e.transfer; {
	case err != nil || t.ID == "" && e.account.ID == "":
		return []string{fmt.Sprintf("%s: answered %.200q", e.request, e.raw)}
	case t.ID == "":
		return nil
	case t.Memo != e.asked.Memo:
		return []string{fmt.Sprintf("%s: the memo %q became %q", e.request, e.asked.Memo, t.Memo)}
	case e.asked.From != "" && e.asked.To != "" && (t.Amount != e.asked.Amount || !moves(t.Legs, e.asked.From, e.asked.To, t.Amount.Amount)):
		return []string{fmt.Sprintf("%s: %s was made of it", e.request, e.raw)}
	}
	return nil
}

func moves(legs []Leg, from, to string, amount int64) bool {
	sum := map[string]int64{}
	for _, l := range legs {
		sum[l.Account] += l.Amount.Amount
	}
	return len(legs) == 2 && sum[from] == -amount && sum[to] == amount
}

// expected are the codes of refusals that sensible requests may meet.
var expected = map[string]bool{
	"account-exists": true, "account-closed": true, "insufficient-funds": true, "limit-exceeded": true, "hold-expired": true, "not-pending": true,
	"amount-exceeds": true, "linked-failed": true, "precondition-failed": true, "refund-legs-needed": true,
}

// betweenShards are those that only transfers between shards may meet.
var betweenShards = map[string]bool{"linked-across-shards": true, "cancelled": true}

// NobodyPrefix is what the names of accounts begin with that nobody opens.
const NobodyPrefix = "nobody"

func unexpected(r *Request, a asked, p Problem) (wrong []string) {
	if !expected[p.Code] && !betweenShards[p.Code] && !(p.Code == "account-unknown" && strings.HasPrefix(a.To, NobodyPrefix)) {
		wrong = append(wrong, fmt.Sprintf("%s: refused as %q, which nothing in it deserves", r, p.Code))
	}
	if p.Outcome != NotApplied {
		wrong = append(wrong, fmt.Sprintf("%s: refused as %s, for good, with the outcome %q", r, p.Code, p.Outcome))
	}
	return wrong
}

// Paths of pay that need a name here.
const (
	AccountsPath = "/accounts"
	BatchPath    = "/transfers:batch"
)
