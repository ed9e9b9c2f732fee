package node

import (
	"encoding/json"
	"fmt"
	"time"
)

// request is what the programs read of a message's body.
type request struct {
	Type      string `json:"type"`
	MsgID     *int64 `json:"msg_id"`
	InReplyTo *int64 `json:"in_reply_to"`

	Echo     json.RawMessage     `json:"echo"`
	Message  json.RawMessage     `json:"message"`
	Topology map[string][]string `json:"topology"`
	Delta    json.RawMessage     `json:"delta"`
}

// body is that of a reply.
type body = map[string]any

// The codes of Maelstrom's errors that our programs answer with, or understand.
const (
	codeNotSupported       = 10
	codeUnavailable        = 11
	codeMalformedRequest   = 12
	codeCrash              = 13
	codeAbort              = 14
	codeKeyDoesNotExist    = 20
	codePreconditionFailed = 22
)

// parseRequest reads a body. If it is none that a program could answer, refusal says so.
func parseRequest(data json.RawMessage) (r request, refusal body) {
	if err := json.Unmarshal(data, &r); err != nil {
		return r, refuse(codeMalformedRequest, "%v", err)
	}
	return r, nil
}

func refuse(code int, format string, args ...any) body {
	return body{"type": "error", "code": code, "text": fmt.Sprintf(format, args...)}
}

func (r request) unsupported() body {
	return refuse(codeNotSupported, "message type %q is not supported", r.Type)
}

func (r request) lacks(member string) body {
	return refuse(codeMalformedRequest, "%s without %q", r.Type, member)
}

// reply returns the message that answers the request; none if there is nothing to say, or it wants no answer.
func (r request) reply(src string, b body) []Message {
	if b == nil || r.MsgID == nil || r.InReplyTo != nil {
		return nil
	}
	b["in_reply_to"] = *r.MsgID
	return []Message{{To: src, Body: b}}
}

// responder is a Program that answers each request at once, and does nothing else.
type responder struct {
	answer func(now time.Duration, r request) body
	send   []Message
}

// Receive implements Program.
func (p *responder) Receive(now time.Duration, src string, data json.RawMessage) {
	r, answer := parseRequest(data)
	if answer == nil {
		answer = p.answer(now, r)
	}
	p.send = append(p.send, r.reply(src, answer)...)
}

// Persisted implements Program.
func (p *responder) Persisted(time.Duration, int) {}

// Ready implements Program.
func (p *responder) Ready(time.Duration) Output {
	out := Output{Send: p.send}
	p.send = nil
	return out
}

// Wake implements Program.
func (p *responder) Wake() time.Duration { return -1 }

// newResponder returns a Spec's New for a program without arguments.
func newResponder(answer func(Start) func(time.Duration, request) body) func(Start) (Program, error) {
	return func(s Start) (Program, error) {
		if len(s.Args) > 0 {
			return nil, fmt.Errorf("node: unknown argument %q: there are none", s.Args[0])
		}
		return &responder{answer: answer(s)}, nil
	}
}
