package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"dongne/maelstrom/edn"
)

// WriteEDN writes history.edn: a map a line, as Jepsen does.
func WriteEDN(w io.Writer, ops []Op) error {
	out := bufio.NewWriter(w)
	var b []byte
	for i := range ops {
		b = append(edn.Append(b[:0], ops[i].EDN()), '\n')
		if _, err := out.Write(b); err != nil {
			return err
		}
	}
	return out.Flush()
}

// EDN returns the operation as Jepsen writes it.
func (op *Op) EDN() edn.Map {
	m := edn.Map{}.With("index", op.Index).With("time", int64(op.Time)).With("type", edn.Keyword(op.Type.String()))
	if op.Process == Nemesis {
		m = m.With("process", edn.Keyword("nemesis")).With("f", edn.Keyword(op.F)).With("value", nemesisValue(op.Value))
	} else {
		m = m.With("process", op.Process).With("f", edn.Keyword(op.F)).With("value", edn.Raw(op.Value))
	}
	if op.Error != (Error{}) {
		m = m.With("error", op.Error.EDN())
	}
	if op.Exception != "" {
		m = m.With("exception", op.Exception)
	}
	if op.Final {
		m = m.With("final?", true)
	}
	if op.Node != "" {
		m = m.With("node", op.Node)
	}
	return m
}

// EDN returns :name, [:name "text"], or "text".
func (e Error) EDN() any {
	switch {
	case e.Name == "":
		return e.Text
	case e.Text == "":
		return edn.Keyword(e.Name)
	}
	return edn.Vector{edn.Keyword(e.Name), e.Text}
}

// nemesisValue writes as Jepsen does what the nemesis says as JSON: ["isolated", {"n1": ["n2"]}] is
// [:isolated {"n1" #{"n2"}}], and "network-healed" :network-healed.
func nemesisValue(value json.RawMessage) any {
	var word string
	if json.Unmarshal(value, &word) == nil {
		return edn.Keyword(word)
	}
	var pair []json.RawMessage
	if json.Unmarshal(value, &pair) != nil || len(pair) != 2 || json.Unmarshal(pair[0], &word) != nil {
		return edn.Raw(value)
	}
	dec := json.NewDecoder(bytes.NewReader(pair[1]))
	if first, err := dec.Token(); err != nil || first != json.Delim('{') {
		return edn.Vector{edn.Keyword(word), edn.Raw(pair[1])}
	}
	var cut edn.Map
	for dec.More() {
		key, _ := dec.Token()
		var from []string
		if dec.Decode(&from) != nil {
			return edn.Vector{edn.Keyword(word), edn.Raw(pair[1])}
		}
		set := edn.Set{}
		for _, name := range from {
			set = append(set, name)
		}
		cut = append(cut, edn.Pair{Key: key, Value: set})
	}
	return edn.Vector{edn.Keyword(word), cut}
}

// line is an Op in history.jsonl.
type line struct {
	Index     int             `json:"index"`
	Time      time.Duration   `json:"time"` // nanoseconds
	Type      string          `json:"type"`
	Process   any             `json:"process"`
	F         string          `json:"f"`
	Value     json.RawMessage `json:"value"`
	Error     []string        `json:"error,omitempty"` // name, text
	Exception string          `json:"exception,omitempty"`
	Final     bool            `json:"final,omitempty"`
	Node      string          `json:"node,omitempty"`
}

// WriteJSON writes history.jsonl: an object a line. ReadJSON reads it.
func WriteJSON(w io.Writer, ops []Op) error {
	out := bufio.NewWriter(w)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for i := range ops {
		op := &ops[i]
		l := line{Index: op.Index, Time: op.Time, Type: op.Type.String(), Process: op.Process, F: op.F, Value: op.Value,
			Exception: op.Exception, Final: op.Final, Node: op.Node}
		if op.Process == Nemesis {
			l.Process = "nemesis"
		}
		if op.Error != (Error{}) {
			l.Error = []string{op.Error.Name, op.Error.Text}
		}
		if err := enc.Encode(l); err != nil {
			return err
		}
	}
	return out.Flush()
}

// ReadJSON reads what WriteJSON writes. Its errors name the line.
func ReadJSON(r io.Reader) ([]Op, error) {
	var ops []Op
	dec := json.NewDecoder(r)
	for n := 1; dec.More(); n++ {
		var l line
		if err := dec.Decode(&l); err != nil {
			return nil, fmt.Errorf("history: line %d: %w", n, err)
		}
		op := Op{Index: l.Index, Time: l.Time, F: l.F, Value: l.Value, Exception: l.Exception, Final: l.Final, Node: l.Node}
		switch p := l.Process.(type) {
		case float64:
			op.Process = int(p)
		case string:
			op.Process = Nemesis
		}
		known := false
		for t, name := range typeNames {
			if name == l.Type {
				op.Type, known = Type(t), true
			}
		}
		if !known {
			return nil, fmt.Errorf("history: line %d: unknown type %q", n, l.Type)
		}
		if len(l.Error) == 2 {
			op.Error = Error{l.Error[0], l.Error[1]}
		}
		ops = append(ops, op)
	}
	return ops, nil
}
