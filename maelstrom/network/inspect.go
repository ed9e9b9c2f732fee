package network

import (
	"bytes"
	"fmt"

	"dongne/maelstrom/history"
)

// Presence says whether somebody is in the network.
type Presence uint8

// Gone is a client that was there and gave up.
const (
	Absent Presence = iota
	Present
	Gone
)

const lineShown = 500 // bytes of an offending line

// Inspect reads a line that a node printed. If it is none that can be sent, the finding says why. With compat a node may
// speak for others, as upstream lets it.
func Inspect(node string, line []byte, compat bool, who func(name string) Presence) (Message, *history.Finding) {
	finding := func(kind history.Kind, format string, args ...any) *history.Finding {
		shown := string(bytes.ToValidUTF8(line[:min(len(line), lineShown)], []byte("\uFFFD")))
		return &history.Finding{Node: node, Kind: kind, Line: shown, Text: fmt.Sprintf(format, args...)}
	}
	m, err := ParseLine(line)
	switch {
	case err != nil:
		return m, finding(history.BadLine, "%s printed a line on stdout that is no message: %v. Only messages belong there, one JSON object "+
			"a line; what you want to read yourself belongs on stderr.", node, err)
	case m.Src != node && (!compat || who(m.Src) != Present):
		return m, finding(history.BadAddress, "%s sent a message in the name of %q: \"src\" must be its own name.", node, m.Src)
	case who(m.Dest) == Gone:
		return m, finding(history.LateReply, "%s answered client %s, which had given up waiting.", node, m.Dest)
	case who(m.Dest) == Absent:
		return m, finding(history.BadAddress, "%s sent a message to %q, which does not exist: there are the nodes, the clients that asked, and "+
			"the services lin-kv, seq-kv, lww-kv and lin-tso.", node, m.Dest)
	}
	return m, nil
}
