package simulate

import (
	"encoding/json"
	"time"

	"dongne/maelstrom/node"
)

// asker is an echo program that first writes what it was sent into lin-kv, and answers when that is done.
func asker() node.Spec {
	return node.Spec{Name: "asker", New: func(node.Start) (node.Program, error) { return &asking{waiting: map[int]node.Message{}}, nil }}
}

type asking struct {
	waiting map[int]node.Message // by msg_id of the write
	next    int
	out     node.Output
}

func (a *asking) Receive(_ time.Duration, src string, body json.RawMessage) {
	var m struct {
		Type      string
		Echo      json.RawMessage
		MsgID     int `json:"msg_id"`
		InReplyTo int `json:"in_reply_to"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		panic(err)
	}
	if m.Type == "write_ok" {
		a.out.Send = append(a.out.Send, a.waiting[m.InReplyTo])
		return
	}
	a.next++
	a.waiting[a.next] = node.Message{To: src, Body: map[string]any{"type": "echo_ok", "in_reply_to": m.MsgID, "echo": m.Echo}}
	a.out.Send = append(a.out.Send, node.Message{To: "lin-kv", Body: map[string]any{"type": "write", "msg_id": a.next, "key": "last", "value": m.Echo}})
}

func (a *asking) Persisted(time.Duration, int) {}

func (a *asking) Ready(time.Duration) node.Output {
	out := a.out
	a.out = node.Output{}
	return out
}

func (a *asking) Wake() time.Duration { return -1 }
