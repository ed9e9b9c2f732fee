package network

import (
	"encoding/json"
	"strings"
	"testing"

	"dongne/maelstrom/history"

	"github.com/google/go-cmp/cmp"
)

func TestParseLine(t *testing.T) {
	for line, want := range map[string]Message{
		`{"src":"n1","dest":"c2","body":{"type":"x"}}`:                            {Src: "n1", Dest: "c2", Body: json.RawMessage(`{"type":"x"}`)},
		` { "id" : 7 , "body" : { "a" : [ 1 , "}" ] } , "dest":"n2","src":"n1"} `: {Src: "n1", Dest: "n2", Body: json.RawMessage(`{ "a" : [ 1 , "}" ] }`)},
		`{"src":"n\u0031","\u0064est":"n2","body":{},"id":null}`:                  {Src: "n1", Dest: "n2", Body: json.RawMessage(`{}`)},
	} {
		got, err := ParseLine([]byte(line))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("ParseLine(%s): %v, mismatch (-want +got):\n%s", line, err, diff)
		}
	}
	for line, want := range map[string]string{
		"hello":                                 "byte 1: no JSON",
		"":                                      "no JSON",
		`{"src":"n1","dest":"n2","body":{}} {}`: "no JSON",
		`[1]`:                                   "a message is an object",
		`{"dest":"n2","body":{}}`:               `no "src"`,
		`{"src":"n1","body":{}}`:                `no "dest"`,
		`{"src":"n1","dest":"n2"}`:              `no "body"`,
		`{"src":1,"dest":"n2","body":{}}`:       `byte 7: "src" must be a string`,
		`{"src":"n1","dest":null,"body":{}}`:    `"dest" must be a string`,
		`{"src":"n1","dest":"n2","body":[]}`:    `"body" must be an object`,
		`{"src":"n1","dest":"n2","body":{},"id":"x"}`:                  `"id" must be an integer`,
		`{"src":"n1","dest":"n2","body":{},"id":1.5}`:                  `"id" must be an integer`,
		`{"src":"n1","dest":"n2","body":{},"type":"echo"}`:             `not "type"`,
		`{"src":"n1","src":"n3","dest":"n2","body":{}}`:                `"src" stands twice`,
		`{"src":"n1","dest":"n2","body":{"type":"echo"` + "\x01" + `}`: "no JSON",
	} {
		if _, err := ParseLine([]byte(line)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseLine(%s) = %v, want an error with %q", line, err, want)
		}
	}
}

// Whatever parses says the same to encoding/json.
func FuzzParseLine(f *testing.F) {
	f.Add(`{"src":"n1","dest":"c2","body":{"type":"x","a":["\"}",{"b":null}]},"id":3}`)
	f.Add(`{"src":"\u00e9\\","dest":"","body":{}}`)
	f.Fuzz(func(t *testing.T, line string) {
		m, err := ParseLine([]byte(line))
		if err != nil {
			return
		}
		var want struct {
			Src, Dest string
			Body      json.RawMessage
		}
		if err := json.Unmarshal([]byte(line), &want); err != nil || want.Src != m.Src || want.Dest != m.Dest || string(want.Body) != string(m.Body) {
			t.Errorf("ParseLine(%q) = %+v, encoding/json says %+v, %v", line, m, want, err)
		}
	})
}

func TestAppendLine(t *testing.T) {
	m := Message{ID: 3, Src: "n1", Dest: "n2", Body: json.RawMessage(`{"type":"x"}`)}
	if got, want := string(m.AppendLine(nil)), `{"id":3,"src":"n1","dest":"n2","body":{"type":"x"}}`+"\n"; got != want {
		t.Errorf("AppendLine = %s, want %s", got, want)
	}
}

func TestParseBody(t *testing.T) {
	head, members, err := ParseBody(json.RawMessage(`{"type":"read_ok","msg_id":0,"in_reply_to":4,"messages":[1]}`))
	if err != nil || head.Type != "read_ok" || head.MsgID == nil || *head.MsgID != 0 || *head.InReplyTo != 4 || string(members["messages"]) != "[1]" {
		t.Errorf("ParseBody = %+v, %s, %v", head, members, err)
	}
	for body, want := range map[string]string{
		`{"type":1}`:               `"type" must be a string, not 1`,
		`{"in_reply_to":"4"}`:      `"in_reply_to" must be an integer, not "4"`,
		`{"msg_id":1.5}`:           `"msg_id" must be an integer`,
		`{"type":"x","msg_id":{}}`: `"msg_id" must be an integer`,
	} {
		if _, _, err := ParseBody(json.RawMessage(body)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseBody(%s) = %v, want an error with %q", body, err, want)
		}
	}
}

func TestValidName(t *testing.T) {
	for name, valid := range map[string]bool{"n1": true, "10.0.0.1:80": true, "lin-kv": true, "a_b": true, "": false, "n 1": false, `n"`: false, "né": false} {
		if err := ValidName(name); (err == nil) != valid {
			t.Errorf("ValidName(%q) = %v", name, err)
		}
	}
}

func TestInspect(t *testing.T) {
	who := func(name string) Presence {
		return map[string]Presence{"n1": Present, "n2": Present, "c1": Present, "c0": Gone}[name]
	}
	for _, c := range []struct {
		line, text string
		kind       history.Kind
		compat     bool
	}{
		{line: `{"src":"n1","dest":"n2","body":{}}`},
		{line: `{"src":"n1","dest":"c1","body":{}}`},
		{line: `{"src":"n2","dest":"c1","body":{}}`, compat: true},
		{line: `{"src":"n2","dest":"c1","body":{}}`, kind: history.BadAddress, text: `n1 sent a message in the name of "n2"`},
		{line: `{"src":"n7","dest":"c1","body":{}}`, kind: history.BadAddress, text: `in the name of "n7"`, compat: true},
		{line: `{"src":"n1","dest":"n9","body":{}}`, kind: history.BadAddress, text: `n1 sent a message to "n9", which does not exist`},
		{line: `{"src":"n1","dest":"c0","body":{}}`, kind: history.LateReply, text: "had given up waiting"},
		{line: `starting up`, kind: history.BadLine, text: "belongs on stderr"},
	} {
		_, f := Inspect("n1", []byte(c.line), c.compat, who)
		switch {
		case c.kind == "" && f != nil:
			t.Errorf("Inspect(%s) finds %q", c.line, f.Text)
		case c.kind != "" && (f == nil || f.Kind != c.kind || f.Node != "n1" || f.Line != c.line || !strings.Contains(f.Text, c.text)):
			t.Errorf("Inspect(%s) finds %+v, want %s with %q", c.line, f, c.kind, c.text)
		}
	}
}
