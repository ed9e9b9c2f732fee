package etcdlog_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fake is the part of etcd's gateway that a log uses, in memory: keys with their create revisions, transactions,
// ranges. It writes its answers as etcd does: what is zero, false or empty is left out. hostile, if set, decides how
// each request is mistreated.
type fake struct {
	mu       sync.Mutex
	revision int64
	kvs      map[string]fakeKV
	full     bool               // writes are refused for want of space
	old      *fake              // an earlier state, which stale reads see
	later    []func()           // what a delayed request will do
	hostile  func(string) crime // of the path of a request; guarded by mu
	requests int
	hung     chan struct{} // told of each request that hangs, if set
	gone     chan struct{} // told of each request that hung and has ended, if set
}

type fakeKV struct {
	value   []byte
	created int64
}

// crime is a way to mistreat a request.
type crime int

const (
	honest        crime = iota
	refuses             // 503 with the body of etcd 3.4; nothing happens
	refusesNewly        // 503 with the body of newer versions; nothing happens
	appliesLater        // 503, and it happens later
	losesAnswer         // it happens, then the connection ends
	cutsAnswer          // it happens, then half of the body arrives as if it were all
	hangsAndLater       // no answer until the client is gone, then it happens
	hangs               // no answer until the client is gone; nothing happens
	doubles             // it happens twice; the second answer counts
	omitsSuccess        // it happens; the answer does not say succeeded
	sendsNothing        // it happens; the answer is {}
	sendsHTML           // a proxy's page instead of an answer; nothing happens
	readsStale          // a read sees an earlier state
	fillsUp             // it happens, and the answer is that there is no space, as etcd does once
	claimsFull          // nothing happens, for want of space
	crimes
)

func newFake() *fake { return &fake{revision: 1, kvs: map[string]fakeKV{}} }

// serve returns the address of another server of the same state.
func (f *fake) serve(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// behave sets what decides about crimes; nil is honest.
func (f *fake) behave(hostile func(string) crime) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hostile = hostile
}

// release lets up to n delayed requests happen.
func (f *fake) release(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ; n > 0 && len(f.later) > 0; n-- {
		f.later[0]()
		f.later = f.later[1:]
	}
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client is gone, and so is its request
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests++
	c := honest
	if f.hostile != nil {
		c = f.hostile(r.URL.Path)
	}
	do := func() (int, string) { return f.do(r.URL.Path, body) }
	const old503 = `{"error":"etcdserver: request timed out","message":"etcdserver: request timed out","code":14}`
	const new503 = `{"code":14,"message":"etcdserver: request timed out","details":[]}`
	status, answer := http.StatusServiceUnavailable, old503
	switch c {
	case refuses:
	case refusesNewly:
		answer = new503
	case appliesLater:
		f.later = append(f.later, func() { do() })
	case hangs, hangsAndLater:
		f.mu.Unlock()
		tell(f.hung)
		<-r.Context().Done()
		f.mu.Lock()
		if c == hangsAndLater {
			do()
		}
		tell(f.gone)
		return
	case losesAnswer:
		do()
		panic(http.ErrAbortHandler)
	case cutsAnswer:
		status, answer = do()
		answer = answer[:len(answer)/2]
	case doubles:
		do()
		status, answer = do()
	case omitsSuccess:
		status, answer = do()
		answer = strings.Replace(answer, `"succeeded":true,`, "", 1)
	case sendsNothing:
		do()
		status, answer = http.StatusOK, "{}"
	case sendsHTML:
		status, answer = http.StatusOK, "<html>Bad gateway</html>"
	case readsStale:
		if f.old != nil && r.URL.Path == "/v3/kv/range" {
			status, answer = f.old.do(r.URL.Path, body)
		} else {
			status, answer = do()
		}
	case fillsUp:
		do()
		status, answer = noSpace()
	case claimsFull:
		f.full = true
		status, answer = do()
		f.full = false
	default:
		status, answer = do()
	}
	w.WriteHeader(status)
	io.WriteString(w, answer)
}

func tell(c chan struct{}) {
	if c != nil {
		c <- struct{}{}
	}
}

func noSpace() (int, string) {
	const message = "etcdserver: mvcc: database space exceeded"
	return http.StatusTooManyRequests, fmt.Sprintf(`{"error":%q,"message":%q,"code":8}`, message, message)
}

// remember keeps the present state for stale reads.
func (f *fake) remember() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.old = &fake{revision: f.revision, kvs: maps.Clone(f.kvs)}
}

// fakeRange is a range or delete request, or a comparison with the create revision 0, all of which have a key and an
// end.
type fakeRange struct {
	Key      []byte
	End      []byte `json:"range_end"`
	Limit    int    `json:",string"`
	Order    string `json:"sort_order"`
	KeysOnly bool   `json:"keys_only"`
	Target   string
	Result   string
	Revision string `json:"create_revision"`
}

type fakeOp struct {
	Put *struct {
		Key, Value []byte
	} `json:"request_put"`
	Range  *fakeRange `json:"request_range"`
	Delete *fakeRange `json:"request_delete_range"`
}

// do performs a request and returns the status and body of its answer.
func (f *fake) do(path string, body []byte) (int, string) {
	bad := func(message string) (int, string) {
		return http.StatusBadRequest, fmt.Sprintf(`{"error":%q,"message":%q,"code":3}`, message, message)
	}
	if len(body) > 2<<20 {
		return bad("etcdserver: request is too large")
	}
	var r fakeRange
	var txn struct {
		Compare          []fakeRange
		Success, Failure []fakeOp
	}
	var err error
	if path == "/v3/kv/txn" {
		err = json.Unmarshal(body, &txn)
	} else {
		err = json.Unmarshal(body, &r)
	}
	if err != nil {
		return bad(err.Error())
	}
	switch path {
	case "/v3/kv/range":
		return http.StatusOK, f.find(r)
	case "/v3/kv/deleterange":
		return http.StatusOK, f.delete(r, f.revision+1)
	case "/v3/kv/txn":
	default:
		return http.StatusNotFound, "Not Found"
	}
	if f.full {
		return noSpace()
	}
	ops, succeeded := txn.Success, `"succeeded":true,`
	for _, c := range txn.Compare {
		if c.Target != "CREATE" || c.Result != "EQUAL" || c.Revision != "0" {
			return bad("the fake knows no such comparison")
		}
		if len(f.keys(c)) > 0 {
			ops, succeeded = txn.Failure, ""
		}
	}
	var answers []string
	next := f.revision + 1
	for _, op := range ops {
		switch {
		case op.Put != nil:
			f.kvs[string(op.Put.Key)] = fakeKV{op.Put.Value, next}
			f.revision = next
			answers = append(answers, fmt.Sprintf(`{"response_put":%s}`, f.header()))
		case op.Range != nil:
			answers = append(answers, fmt.Sprintf(`{"response_range":%s}`, f.find(*op.Range)))
		case op.Delete != nil:
			answers = append(answers, fmt.Sprintf(`{"response_delete_range":%s}`, f.delete(*op.Delete, next)))
		}
	}
	const answer = `{"header":{"revision":"%d"},%s"responses":[%s]}`
	return http.StatusOK, fmt.Sprintf(answer, f.revision, succeeded, strings.Join(answers, ","))
}

func (f *fake) header() string { return fmt.Sprintf(`{"header":{"revision":"%d"}}`, f.revision) }

// keys returns the keys of a range, sorted.
func (f *fake) keys(r fakeRange) (keys []string) {
	for key := range f.kvs {
		if key == string(r.Key) || len(r.End) > 0 && key >= string(r.Key) && key < string(r.End) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	if r.Order == "DESCEND" {
		slices.Reverse(keys)
	}
	return keys
}

func (f *fake) find(r fakeRange) string {
	keys := f.keys(r)
	count := len(keys)
	if r.Limit > 0 {
		keys = keys[:min(len(keys), r.Limit)]
	}
	type found struct {
		Key     []byte `json:"key"`
		Created int64  `json:"create_revision,string"`
		Value   []byte `json:"value,omitempty"`
	}
	var all []found
	for _, key := range keys {
		kv := found{[]byte(key), f.kvs[key].created, f.kvs[key].value}
		if r.KeysOnly {
			kv.Value = nil
		}
		all = append(all, kv)
	}
	if count == 0 {
		return f.header()
	}
	kvs, err := json.Marshal(all)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"header":{"revision":"%d"},"kvs":%s,"count":"%d"}`, f.revision, kvs, count)
}

func (f *fake) delete(r fakeRange, revision int64) string {
	for _, key := range f.keys(r) {
		delete(f.kvs, key)
		f.revision = revision
	}
	return f.header()
}
