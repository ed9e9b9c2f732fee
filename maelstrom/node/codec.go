package node

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"dongne/internal/gossip"
)

// gossipBody is a gossip.Message as JSON that people can read in a diagram of messages: vectors in their text, numbers in
// base 36, what is empty left out. An entry is its position, its dependencies and its data, which is JSON itself:
//
//	{"type":"gossip", "sender":"k3f9", "flags":["ask"], "vector":"n0.k3f9:5,n1.k3fb:3", "entries":[["n0.k3f9:5","n1.k3fb:2",17]]}
type gossipBody struct {
	Type    string              `json:"type"`
	Sender  string              `json:"sender"`
	Heard   string              `json:"heard,omitempty"`
	Flags   []string            `json:"flags,omitempty"`
	Hash    string              `json:"hash,omitempty"`
	Vector  *string             `json:"vector,omitempty"` // "": there is one, and it is empty
	Entries [][]json.RawMessage `json:"entries,omitempty"`
}

// flags names the message's booleans, in the order in which they are written.
func flags(m *gossip.Message) ([]string, []*bool) {
	return []string{"ask", "answer", "relay", "hub"}, []*bool{&m.Ask, &m.Answer, &m.Relay, &m.Hub}
}

// encodeGossip returns the body that decodeGossip reads. The entries' Data are JSON.
func encodeGossip(m gossip.Message) gossipBody {
	b := gossipBody{Type: "gossip", Sender: formatNumber(m.Sender)}
	if m.Heard > 0 {
		b.Heard = formatNumber(m.Heard)
	}
	names, set := flags(&m)
	for i, name := range names {
		if *set[i] {
			b.Flags = append(b.Flags, name)
		}
	}
	if m.HasHash {
		b.Hash = formatNumber(m.Hash)
	}
	if m.Vector != nil {
		text := m.Vector.String()
		b.Vector = &text
	}
	for _, e := range m.Entries {
		b.Entries = append(b.Entries, []json.RawMessage{quote(gossip.Vector{e.Origin: e.Seq}), quote(e.Deps), e.Data})
	}
	return b
}

// decodeGossip reads what encodeGossip writes; unknown members are ignored. The entries' Data are canonical.
func decodeGossip(data json.RawMessage) (gossip.Message, error) {
	var b gossipBody
	if err := json.Unmarshal(data, &b); err != nil {
		return gossip.Message{}, fmt.Errorf("node: gossip: %w", err)
	}
	m, err := b.message()
	if err != nil {
		return gossip.Message{}, fmt.Errorf("node: gossip: %w", err)
	}
	return m, nil
}

func (b gossipBody) message() (m gossip.Message, err error) {
	if m.Sender, err = parseNumber(b.Sender); err != nil {
		return m, fmt.Errorf("sender: %w", err)
	}
	if b.Heard != "" {
		if m.Heard, err = parseNumber(b.Heard); err != nil {
			return m, fmt.Errorf("heard: %w", err)
		}
	}
	names, set := flags(&m)
	for _, name := range b.Flags {
		i := slices.Index(names, name)
		if i < 0 {
			return m, fmt.Errorf("flag %q is unknown", name)
		}
		*set[i] = true
	}
	if m.HasHash = b.Hash != ""; m.HasHash {
		if m.Hash, err = parseNumber(b.Hash); err != nil {
			return m, fmt.Errorf("hash: %w", err)
		}
	}
	if b.Vector != nil {
		if m.Vector, err = gossip.ParseVector(*b.Vector); err != nil {
			return m, err
		}
	}
	for i, parts := range b.Entries {
		e, err := parseEntry(parts)
		if err != nil {
			return m, fmt.Errorf("entry %d: %w", i, err)
		}
		m.Entries = append(m.Entries, e)
	}
	return m, nil
}

func parseEntry(parts []json.RawMessage) (e gossip.Entry, err error) {
	if len(parts) != 3 {
		return e, fmt.Errorf("%d parts, want position, dependencies and data", len(parts))
	}
	position, err := parseVector(parts[0])
	if err != nil {
		return e, err
	}
	if len(position) != 1 {
		return e, fmt.Errorf("%d positions, want 1", len(position))
	}
	for e.Origin, e.Seq = range position {
	}
	if e.Deps, err = parseVector(parts[1]); err != nil {
		return e, err
	}
	if _, self := e.Deps[e.Origin]; self {
		return e, fmt.Errorf("%s depends on itself", e.Origin)
	}
	e.Data, err = canonical(parts[2])
	return e, err
}

// quote returns the vector's text, in which no byte needs to be escaped, as a JSON string.
func quote(v gossip.Vector) json.RawMessage { return json.RawMessage(`"` + v.String() + `"`) }

func parseVector(quoted json.RawMessage) (gossip.Vector, error) {
	var text string
	if err := json.Unmarshal(quoted, &text); err != nil {
		return nil, err
	}
	return gossip.ParseVector(text)
}

// canonical returns the value without blanks, and escaped as it will be on every further way: its length is final.
func canonical(value json.RawMessage) (json.RawMessage, error) { return json.Marshal(value) }

func formatNumber(n uint64) string { return strconv.FormatUint(n, 36) }

func parseNumber(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 36, 64)
	if err != nil {
		return 0, fmt.Errorf("%.20q is not a number in base 36", s)
	}
	return n, nil
}
