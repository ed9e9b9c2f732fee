package service

import (
	"bytes"
	"encoding/json"
	"fmt"

	"dongne/maelstrom/network"
)

// Reply returns a service's reply with the in_reply_to of its request, if that had a msg_id.
func Reply(request, reply json.RawMessage) json.RawMessage {
	head, _, err := network.ParseBody(request)
	if err != nil || head.MsgID == nil {
		return reply
	}
	return fmt.Appendf(bytes.Clone(reply[:len(reply)-1]), `,"in_reply_to":%d}`, *head.MsgID)
}
