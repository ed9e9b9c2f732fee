package api

import (
	"net/http"
	"strconv"

	"dongne/pay/ledger"
	"dongne/pay/node"
)

// keyBytesMax bounds an item's key, as the shell does the header.
const keyBytesMax = 255

// Item is one request of a batch.
type Item struct {
	Key    string `json:"key"`
	Linked bool   `json:"linked"`
	Move
}

// Batch is the body of many transfers and holds.
type Batch struct {
	Items []Item `json:"items"`
}

// Fill makes the requests of a user, each under its own key or that of the batch with its place behind, and returns them
// with their keys. The error is a problem that names the field.
func (b *Batch) Fill(key, user string, any bool) ([]ledger.Request, []string, error) {
	last := len(b.Items) - 1
	if last < 0 || last >= ledger.CallRequestsMax {
		return nil, nil, fault("request-invalid", "items", "want 1 to %d", ledger.CallRequestsMax)
	}
	if b.Items[last].Linked {
		return nil, nil, fault("request-invalid", "items["+strconv.Itoa(last)+"].linked", "the last item has none to be linked with")
	}
	requests, keys := make([]ledger.Request, len(b.Items)), make([]string, len(b.Items))
	for i := range b.Items {
		item, q, at := &b.Items[i], &requests[i], "items["+strconv.Itoa(i)+"]."
		if keys[i] = item.Key; item.Key == "" {
			keys[i] = key + "/" + strconv.Itoa(i)
		} else if !validKey(item.Key) {
			return nil, nil, fault("request-invalid", at+"key", "want 1 to %d visible ASCII characters", keyBytesMax)
		}
		*q = ledger.Request{Key: ledger.NewKey(user, keys[i]), By: user, Any: any, Linked: item.Linked}
		if err := item.Fill(q, at); err != nil {
			return nil, nil, err
		}
	}
	return requests, keys, nil
}

func validKey(key string) bool {
	for i := range len(key) {
		if key[i] < '!' || key[i] > '~' {
			return false
		}
	}
	return len(key) <= keyBytesMax
}

// Result is what came of an item.
type Result struct {
	Key      string           `json:"key"`
	Status   int              `json:"status"`
	Replayed bool             `json:"replayed"`
	Transfer *ledger.Transfer `json:"transfer,omitempty"`
	Problem  *Problem         `json:"problem,omitempty"`
}

// Results says what came of each item, and whether all were replayed. When none got an answer, the error is the first
// one's problem.
func Results(keys []string, answers []node.Answer, errs []error) (results []Result, replayed bool, err error) {
	results = make([]Result, len(keys))
	replayed, answered := true, false
	for i, a := range answers {
		r := Result{Key: keys[i], Status: http.StatusCreated, Replayed: a.Replayed, Transfer: a.Transfer}
		switch {
		case errs[i] != nil:
			r.Problem = Failed(errs[i])
		case a.Refused != 0:
			r.Problem = Refused(a.Refused, a.Detail)
		}
		if r.Problem != nil {
			r.Status, r.Transfer = r.Problem.Status, nil
		}
		answered = answered || errs[i] == nil
		replayed = replayed && a.Replayed
		results[i] = r
	}
	if !answered {
		return nil, false, results[0].Problem
	}
	return results, replayed, nil
}
