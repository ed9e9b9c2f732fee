package check

import (
	"encoding/json"
	"fmt"

	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
)

// checkEcho wants every echo answered with what was sent. The value of an ok operation is the body of the reply.
// Our rules are upstream's: an echo without an answer is an error too.
func checkEcho(ops *operations, j *judge) part {
	errors := edn.Vector{}
	var wrong []string
	for i := range ops.Ops {
		sent, done := &ops.Ops[i], ops.other[i]
		if sent.Process == history.Nemesis || sent.Type != history.Invoke {
			continue
		}
		var answer json.RawMessage
		if done >= 0 {
			answer = ops.Ops[done].Value
		}
		answered := done >= 0 && ops.Ops[done].Type == history.OK
		if answered && echoed(answer, sent.Value) {
			continue
		}
		errors = append(errors, edn.Vector{"Expected a message with :echo", edn.Raw(sent.Value), "But received", edn.Raw(answer)})
		if answered {
			wrong = append(wrong, fmt.Sprintf("%s answered %s to echo %s at %s", ops.node(i), cut(echo(answer)), cut(sent.Value), ops.at(done)))
		} else {
			wrong = append(wrong, fmt.Sprintf("%s did not answer echo %s: it %s", ops.node(i), cut(sent.Value), ops.failure(done)))
		}
	}
	j.wrong(wrong...)
	return part{verdict(len(errors) == 0), edn.Map{}.With("errors", errors)}
}

func echoed(reply, sent json.RawMessage) bool {
	return canonical(echo(reply)) == canonical(sent)
}

// echo returns what a reply's body has under "echo", the whole body if there is none.
func echo(reply json.RawMessage) json.RawMessage {
	var body map[string]json.RawMessage // unlike a struct's, its keys must be exact
	if json.Unmarshal(reply, &body) != nil || body["echo"] == nil {
		return reply
	}
	return body["echo"]
}
