package node

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"dongne/internal/gossip"
)

var (
	genOrigin = rapid.Custom(func(t *rapid.T) gossip.Origin {
		return gossip.Origin{Node: rapid.StringMatching(`[A-Za-z0-9_.-]{1,64}`).Draw(t, "node"), Incarnation: rapid.Uint64().Draw(t, "incarnation")}
	})
	genVector = rapid.Custom(func(t *rapid.T) gossip.Vector {
		return gossip.Vector(rapid.MapOfN(genOrigin, rapid.Uint64Range(1, 1<<63-1), 0, 5).Draw(t, "vector"))
	})
	genValue = rapid.Custom(func(t *rapid.T) any {
		return rapid.OneOf(rapid.Just[any](nil), rapid.Int().AsAny(), rapid.Float64().AsAny(), rapid.String().AsAny(),
			rapid.SliceOf(rapid.String()).AsAny(), rapid.MapOf(rapid.String(), rapid.Bool()).AsAny()).Draw(t, "value")
	})
	genEntry = rapid.Custom(func(t *rapid.T) gossip.Entry {
		e := gossip.Entry{Origin: genOrigin.Draw(t, "origin"), Seq: rapid.Uint64Range(1, 1<<63-1).Draw(t, "seq"), Deps: genVector.Draw(t, "deps")}
		delete(e.Deps, e.Origin)
		e.Data, _ = json.Marshal(genValue.Draw(t, "data"))
		return e
	})
	genMessage = rapid.Custom(func(t *rapid.T) gossip.Message {
		flag := func(name string) bool { return rapid.Bool().Draw(t, name) }
		m := gossip.Message{Sender: rapid.Uint64().Draw(t, "sender"), Heard: rapid.Uint64().Draw(t, "heard"), Ask: flag("ask"),
			Answer: flag("answer"), Relay: flag("relay"), Hub: flag("hub"), HasHash: flag("hash")}
		if m.HasHash {
			m.Hash = rapid.Uint64().Draw(t, "hash")
		}
		if flag("vector") {
			m.Vector = genVector.Draw(t, "vector")
		}
		if entries := rapid.SliceOfN(genEntry, 0, 4).Draw(t, "entries"); len(entries) > 0 {
			m.Entries = entries
		}
		return m
	})
)

func TestGossipRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := genMessage.Draw(t, "message")
		text := encode(encodeGossip(want))
		got, err := decodeGossip(json.RawMessage(text))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("decodeGossip(%s) mismatch (-want +got): %v\n%s", text, err, diff)
		}
	})
}

func TestGossipIsReadable(t *testing.T) {
	m := gossip.Message{Sender: 35, Ask: true, Vector: gossip.Vector{{Node: "n0", Incarnation: 36}: 5}, Entries: []gossip.Entry{
		{Origin: gossip.Origin{Node: "n0", Incarnation: 36}, Seq: 5, Deps: gossip.Vector{{Node: "n1", Incarnation: 1}: 2}, Data: []byte("17")}}}
	want := `{"type":"gossip","sender":"z","flags":["ask"],"vector":"n0.10:5","entries":[["n0.10:5","n1.1:2",17]]}`
	if got := strings.TrimSpace(encode(encodeGossip(m))); got != want {
		t.Errorf("encodeGossip = %s, want %s", got, want)
	}
}

// What a network in between may do to JSON, and nothing else, is undone.
func TestGossipValuesAreCanonical(t *testing.T) {
	m, err := decodeGossip(json.RawMessage(`{"sender":"1","entries":[["n0.1:1","",{"a" : "<"}]],"unknown":1}`))
	if err != nil || string(m.Entries[0].Data) != `{"a":"\u003c"}` {
		t.Errorf("decodeGossip = %s, %v", m.Entries[0].Data, err)
	}
}

func TestBadGossip(t *testing.T) {
	for text, want := range map[string]string{
		`{`:                                    "unexpected end",
		`[]`:                                   "cannot unmarshal",
		`{}`:                                   "sender: \"\" is not a number",
		`{"sender":"!"}`:                       "sender: \"!\" is not a number",
		`{"sender":1}`:                         "cannot unmarshal",
		`{"sender":"1","heard":"-1"}`:          "heard: \"-1\" is not",
		`{"sender":"1","hash":" "}`:            "hash: \" \" is not",
		`{"sender":"1","flags":["shout"]}`:     `flag "shout" is unknown`,
		`{"sender":"1","vector":"n0"}`:         "vector at byte 0",
		`{"sender":"1","entries":[[]]}`:        "entry 0: 0 parts",
		`{"sender":"1","entries":[[1,"",2]]}`:  "entry 0: json",
		`{"sender":"1","entries":[["","",2]]}`: "entry 0: 0 positions",
		`{"sender":"1","entries":[["n0.1:1,n1.1:1","",2]]}`:     "entry 0: 2 positions",
		`{"sender":"1","entries":[["n0.1:1","n0",2]]}`:          "entry 0: gossip: vector at byte 0",
		`{"sender":"1","entries":[["n0.1:1","n0.1:1",2]]}`:      "entry 0: n0.1 depends on itself",
		`{"sender":"1","entries":[["n0.1:0","",2]]}`:            "out of range",
		`{"sender":"1","entries":[null]}`:                       "entry 0: 0 parts",
		`{"sender":"1","entries":[["n0.1:1","",2,"and more"]]}`: "entry 0: 4 parts",
	} {
		if _, err := decodeGossip(json.RawMessage(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("decodeGossip(%s) = %v, want %q", text, err, want)
		}
	}
}
