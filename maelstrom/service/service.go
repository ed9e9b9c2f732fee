// Package service has the services that Maelstrom puts on the network beside the nodes: three key-value stores, of which
// lin-kv is linearizable, seq-kv sequentially consistent and lww-kv eventually consistent, and lin-tso, which counts.
//
// The stores take these requests; keys and values are any JSON, null included, and are equal if they mean the same:
// members of objects have no order, 1.0 is 1.00 and is not 1.
//
//	{"type":"read","key":k}                                                  read_ok with a value, error 20
//	{"type":"write","key":k,"value":v}                                       write_ok
//	{"type":"cas","key":k,"from":v,"to":w,"create_if_not_exists":true}       cas_ok, error 20, error 22
//
// The services are pure: time, network and luck are their caller's. Nothing is ever deleted, as a run is short.
package service

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"dongne/maelstrom/edn"
)

// A Service answers requests; it is pure and not safe for concurrent use.
type Service interface {
	// Handle takes a request's body from src and returns the reply's body, without in_reply_to (the caller adds it); ok is
	// false where upstream does not answer (unknown type).
	Handle(src string, body json.RawMessage) (reply json.RawMessage, ok bool)
}

// All returns the services, new, by endpoint name. With compat they do as upstream's: an unknown type has no answer, a
// missing member is null, a seq-kv client may go back in time (see seqKV), and lww-kv's replicas stay apart (see lwwKV).
func All(r *rand.Rand, compat bool) map[string]Service {
	all := make(map[string]Service)
	add := func(name string, takes map[string][]string, run func(string, request) json.RawMessage) {
		all[name] = &endpoint{name, compat, takes, run}
	}
	add("lin-kv", storeRequests, linKV{}.run)
	add("seq-kv", storeRequests, newSeqKV(r, compat).run)
	add("lww-kv", storeRequests, newLWWKV(r, compat).run)
	add("lin-tso", tsoRequests, new(linTSO).run)
	return all
}

// The members that a request must have, by type.
var (
	storeRequests = map[string][]string{"read": {"key"}, "write": {"key", "value"}, "cas": {"key", "from", "to"}}
	tsoRequests   = map[string][]string{"ts": nil}
)

// An endpoint reads requests for what is behind it.
type endpoint struct {
	name   string
	compat bool
	takes  map[string][]string
	run    func(src string, q request) json.RawMessage
}

// A request to a store. Keys and values are canonical.
type request struct {
	kind                 string
	key, value, from, to string
	create               bool // cas: a missing key is set
}

// Codes of errors, as Maelstrom numbers them.
const (
	notSupported       = 10
	malformedRequest   = 12
	keyDoesNotExist    = 20
	preconditionFailed = 22
)

func (e *endpoint) Handle(src string, body json.RawMessage) (json.RawMessage, bool) {
	q, refusal := e.parse(body)
	if refusal != nil {
		return refusal, !e.compat
	}
	return e.run(src, q), true
}

// parse returns a request, or else the error to answer.
func (e *endpoint) parse(body json.RawMessage) (q request, refusal json.RawMessage) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return q, failure(malformedRequest, "the body is not an object: %v", err)
	}
	if err := json.Unmarshal(members["type"], &q.kind); err != nil {
		return q, failure(malformedRequest, "the body has no type that is a string")
	}
	needs, known := e.takes[q.kind]
	if !known {
		return q, failure(notSupported, "%s does not support requests of type %q", e.name, q.kind)
	}
	q.create = truthy(members["create_if_not_exists"])
	for _, name := range needs {
		optional := e.compat || name == "from" && q.create // whoever creates has nothing to compare with
		if members[name] == nil && !optional {
			return q, failure(malformedRequest, "a %s needs a %q", q.kind, name)
		}
		*q.member(name) = canonical(members[name])
	}
	return q, nil
}

func (q *request) member(name string) *string {
	switch name {
	case "key":
		return &q.key
	case "value":
		return &q.value
	case "from":
		return &q.from
	case "to":
		return &q.to
	}
	panic("service: requests have no " + name)
}

// truthy is Clojure's notion of true.
func truthy(raw json.RawMessage) bool {
	return raw != nil && string(raw) != "null" && string(raw) != "false"
}

// on runs the request on the value under its key, "" if there is none. It returns whether it stored a value, and which.
func (q request) on(current string) (next string, stored bool, reply json.RawMessage) {
	switch {
	case q.kind == "write":
		return q.value, true, json.RawMessage(`{"type":"write_ok"}`)
	case q.kind == "cas" && (current == q.from || current == "" && q.create):
		return q.to, true, json.RawMessage(`{"type":"cas_ok"}`)
	case current == "":
		return "", false, failure(keyDoesNotExist, "key does not exist")
	case q.kind == "cas":
		return current, false, failure(preconditionFailed, "current value %s is not %s",
			edn.Append(nil, edn.Raw(current)), edn.Append(nil, edn.Raw(q.from)))
	}
	return current, false, json.RawMessage(`{"type":"read_ok","value":` + current + `}`)
}

func failure(code int, format string, args ...any) json.RawMessage {
	text, err := json.Marshal(fmt.Sprintf(format, args...))
	if err != nil {
		panic("service: " + err.Error())
	}
	return fmt.Appendf(nil, `{"type":"error","code":%d,"text":%s}`, code, text)
}

// A linKV is one atomic copy: canonical keys and values.
type linKV map[string]string

func (s linKV) run(_ string, q request) json.RawMessage {
	next, stored, reply := q.on(s[q.key])
	if stored {
		s[q.key] = next
	}
	return reply
}

// A linTSO is the next timestamp.
type linTSO int64

func (s *linTSO) run(string, request) json.RawMessage {
	ts := *s
	*s++
	return fmt.Appendf(nil, `{"type":"ts_ok","ts":%d}`, ts)
}
