package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func noon() time.Time { return time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC) }

// relayed returns what becomes of input, written in the given pieces.
func relayed(pieces ...string) (output string, addrs []string) {
	var out bytes.Buffer
	r := NewRelay(NewLines(&out), "chat", "INFO", noon, func(addr string) { addrs = append(addrs, addr) })
	for _, p := range pieces {
		if n, err := r.Write([]byte(p)); n != len(p) || err != nil {
			panic(fmt.Sprintf("Write(%q) = %d, %v", p, n, err))
		}
	}
	if err := r.Close(); err != nil {
		panic(err)
	}
	return out.String(), addrs
}

func TestRelay(t *testing.T) {
	const wrapped = `{"service":"chat","time":"2026-01-02T12:00:00Z","level":"INFO","msg":`
	for _, c := range []struct{ name, in, want string }{
		{"object", `{"level":"INFO","msg":"x"}` + "\n", `{"service":"chat","level":"INFO","msg":"x"}` + "\n"},
		{"empty object", "{}\n", `{"service":"chat"}` + "\n"},
		{"spaces and CR", " { \"a\": 1 } \r\n", `{"service":"chat", "a": 1 }` + "\n"},
		{"has a service", `{"service":"geo","a":1}` + "\n", `{"service":"geo","a":1}` + "\n"},
		{"nested service", `{"a":{"service":"geo"}}` + "\n", `{"service":"chat","a":{"service":"geo"}}` + "\n"},
		{"numbers stay", `{"n":12345678901234567890,"f":1.0e0}` + "\n", `{"service":"chat","n":12345678901234567890,"f":1.0e0}` + "\n"},
		{"empty lines", "\n\r\n  \n", ""},
		{"text", "panic: oh\n", wrapped + `"panic: oh"}` + "\n"},
		{"array", "[1]\n", wrapped + `"[1]"}` + "\n"},
		{"null", "null\n", wrapped + `"null"}` + "\n"},
		{"torn object", `{"a":` + "\n", wrapped + `"{\"a\":"}` + "\n"},
		{"two objects", "{}{}\n", wrapped + `"{}{}"}` + "\n"},
		{"no newline at the end", "bye", wrapped + `"bye"}` + "\n"},
		{"bad UTF-8 in JSON", "{\"a\":\"\xff\"}\n", wrapped + `"{\"a\":\"\ufffd\"}"}` + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _ := relayed(c.in)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("relay of %q mismatch (-want +got):\n%s", c.in, diff)
			}
		})
	}
}

func TestRelayTellsTheAddress(t *testing.T) {
	_, addrs := relayed(
		`{"msg":"listening","addr":"127.0.0.1:4242"}`+"\n",
		`{"msg":"not listening","addr":"127.0.0.1:1"}`+"\n",
		`{"msg":"listening","addr":7}`+"\n",
		`{"a":{"msg":"listening"},"addr":"127.0.0.1:2"}`+"\n")
	if diff := cmp.Diff([]string{"127.0.0.1:4242"}, addrs); diff != "" {
		t.Errorf("addresses mismatch (-want +got):\n%s", diff)
	}
}

// A line of any length costs lineBytesMax at most, and the line after it is whole.
func TestRelayBoundsALine(t *testing.T) {
	const extra = 1000
	long := strings.Repeat("x", lineBytesMax+extra)
	got, _ := relayed(long[:100], long[100:]+"\n"+`{"a":1}`+"\n")
	cut, next, _ := strings.Cut(got, "\n")
	var line struct {
		Msg  string `json:"msg"`
		Lost int    `json:"lost_bytes"`
	}
	if err := json.Unmarshal([]byte(cut), &line); err != nil {
		t.Fatal(err)
	}
	if len(line.Msg) != lineBytesMax || line.Lost != extra {
		t.Errorf("kept %d bytes and lost %d, want %d and %d", len(line.Msg), line.Lost, lineBytesMax, extra)
	}
	if want := `{"service":"chat","a":1}` + "\n"; next != want {
		t.Errorf("the next line is %q, want %q", next, want)
	}
}

// However the bytes are cut into writes, the same lines come out, each of them
// one JSON object with the service's name.
func TestRelayPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := strings.Join(rapid.SliceOf(rapid.OneOf(
			rapid.SampledFrom([]string{"\n", "{", `{"a":"b"}`, `{"msg":"listening","addr":"h:1"}`, "\r\n", "\xff", `"service"`}),
			rapid.String())).Draw(t, "input"), "")
		cuts := rapid.SliceOf(rapid.IntRange(0, len(in))).Draw(t, "cuts")
		var pieces []string
		rest := in
		for _, c := range cuts {
			c = min(c, len(rest))
			pieces = append(pieces, rest[:c])
			rest = rest[c:]
		}
		whole, addrs := relayed(in)
		got, gotAddrs := relayed(append(pieces, rest)...)
		if diff := cmp.Diff(whole, got); diff != "" {
			t.Fatalf("in pieces %q the output differs:\n%s", pieces, diff)
		}
		if diff := cmp.Diff(addrs, gotAddrs); diff != "" {
			t.Fatalf("in pieces %q the addresses differ:\n%s", pieces, diff)
		}
		for line := range strings.Lines(whole) {
			var object struct{ Service string }
			if err := json.Unmarshal([]byte(line), &object); err != nil || object.Service == "" {
				t.Fatalf("line %q: %v, service %q", line, err, object.Service)
			}
		}
	})
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no room") }

func TestRelayReportsAFailingOutput(t *testing.T) {
	r := NewRelay(NewLines(failing{}), "chat", "INFO", noon, nil)
	if _, err := r.Write([]byte("{}\n")); err == nil {
		t.Error("Write to a failing output succeeds")
	}
}
