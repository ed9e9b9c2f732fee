package network

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// A Message is what goes from one endpoint to another.
type Message struct {
	ID        int64 // given by the network: 0, 1, 2, …
	Src, Dest string
	Body      json.RawMessage // a JSON object
}

// AppendLine appends the line that the receiver reads, line feed included. Names need no escapes, see ValidName.
func (m *Message) AppendLine(b []byte) []byte {
	b = strconv.AppendInt(append(b, `{"id":`...), m.ID, 10)
	b = append(append(b, `,"src":"`...), m.Src...)
	b = append(append(b, `","dest":"`...), m.Dest...)
	b = append(append(b, `","body":`...), m.Body...)
	return append(b, "}\n"...)
}

// ValidName says whether an endpoint can have the name: letters, digits, and what hosts are named with.
func ValidName(name string) error {
	for i := range len(name) {
		c := name[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.' || c == ':') {
			return fmt.Errorf("byte %d of node name %q is none of letters, digits, '-', '_', '.', ':'", i, name)
		}
	}
	if name == "" {
		return errors.New("a node's name is empty")
	}
	return nil
}

// ParseLine reads a line that a node printed: an object with src, dest, body, perhaps id, and nothing else. Its error says
// what is wrong and at which byte. The body is a part of the line.
func ParseLine(line []byte) (Message, error) {
	if !json.Valid(line) {
		return Message{}, syntaxError(line)
	}
	var m Message
	seen := map[string]bool{}
	err := members(line, func(key string, value []byte, at int) error {
		if seen[key] {
			return fmt.Errorf("byte %d: %q stands twice in the message", at, key)
		}
		seen[key] = true
		switch key {
		case "src", "dest":
			var name string
			if value[0] != '"' || json.Unmarshal(value, &name) != nil {
				return fmt.Errorf("byte %d: %q must be a string, the name of a node or client, not %.40s", at, key, value)
			}
			if key == "src" {
				m.Src = name
			} else {
				m.Dest = name
			}
		case "body":
			if m.Body = value; value[0] != '{' {
				return fmt.Errorf("byte %d: \"body\" must be an object, not %.40s", at, value)
			}
		case "id":
			if _, err := strconv.ParseInt(string(value), 10, 64); err != nil && string(value) != "null" {
				return fmt.Errorf("byte %d: \"id\" must be an integer, not %.40s", at, value)
			}
		default:
			return fmt.Errorf("byte %d: a message has only \"src\", \"dest\" and \"body\", not %q: "+
				"what you want to say belongs into the body", at, key)
		}
		return nil
	})
	if err != nil {
		return m, err
	}
	for _, key := range []string{"src", "dest", "body"} {
		if !seen[key] {
			return m, fmt.Errorf("the message has no %q", key)
		}
	}
	return m, nil
}

func syntaxError(line []byte) error {
	var any any
	err := json.Unmarshal(line, &any)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("byte %d: no JSON: %w", syntax.Offset, err)
	}
	return fmt.Errorf("no JSON: %w", err)
}

// members calls f for each member of a valid object, with the offset of its value.
func members(object []byte, f func(key string, value []byte, at int) error) error {
	i := skipSpace(object, 0)
	if object[i] != '{' {
		return fmt.Errorf("byte %d: a message is an object: {\"src\": …, \"dest\": …, \"body\": {…}}", i)
	}
	for i++; ; {
		if i = skipSpace(object, i); object[i] == '}' {
			return nil
		}
		if object[i] == ',' {
			i = skipSpace(object, i+1)
		}
		end := skipValue(object, i)
		key := string(object[i+1 : end-1])
		if bytes.IndexByte(object[i:end], '\\') >= 0 {
			json.Unmarshal(object[i:end], &key)
		}
		i = skipSpace(object, skipSpace(object, end)+1) // over the colon
		end = skipValue(object, i)
		if err := f(key, object[i:end:end], i); err != nil {
			return err
		}
		i = end
	}
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// skipValue returns the index after the value that begins at i; the text is valid JSON.
func skipValue(b []byte, i int) int {
	for depth := 0; ; {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			i++
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\t', '\n', '\r':
			i++
			continue // inside an object or array
		default: // a number or a word
			for i < len(b) && bytes.IndexByte([]byte(",:]} \t\n\r"), b[i]) < 0 {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
}

// A Head is what every body has.
type Head struct {
	Type      string
	MsgID     *int64
	InReplyTo *int64
}

// ParseBody returns the body's members by name, and what is common to all.
func ParseBody(body json.RawMessage) (Head, map[string]json.RawMessage, error) {
	var head Head
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(body, &all); err != nil {
		return head, nil, err
	}
	for key, to := range map[string]any{"type": &head.Type, "msg_id": &head.MsgID, "in_reply_to": &head.InReplyTo} {
		if value, ok := all[key]; ok {
			if err := json.Unmarshal(value, to); err != nil {
				return head, all, fmt.Errorf("%q must be %s, not %.40s", key, map[bool]string{true: "a string", false: "an integer"}[key == "type"], value)
			}
		}
	}
	return head, all, nil
}
