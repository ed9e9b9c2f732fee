package services

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// healthy is a run of two nodes in which all went well: m0 to m2 were acknowledged, m1 edited, m2 deleted; nobody knows
// of m3, which is there, and m4, which is not; m5 was refused.
func healthy() *observed {
	o := &observed{nodes: []string{"n1", "n2"}, rooms: map[string][]string{"A": {"r0", "w0"}, "B": {"r0", "w1"}}, requests: 10, bytes: 100, processes: 2}
	send := func(room, by, text string, posted outcome) *sent {
		m := &sent{text: text, room: room, by: by, posted: posted}
		o.sent = append(o.sent, m)
		return m
	}
	send("A", "w0", "m0", sure)
	m1, m2 := send("A", "w0", "m1", sure), send("A", "w0", "m2", sure)
	m1.edits, m1.edited, m2.deleted = []string{"m1 edit 1", "m1 edit 2"}, sure, sure
	send("B", "w1", "m3", possible)
	send("B", "w1", "m4", possible)
	send("B", "w1", "m5", never)
	for _, node := range o.nodes {
		histories := map[string][]message{
			"A": {{ID: "1", Room: "A", From: "w0", Text: "m0"}, {ID: "3", Room: "A", From: "w0", Text: "m1 edit 1"}, {ID: "5", Room: "A", From: "w0", Deleted: true}},
			"B": {{ID: "4", Room: "B", From: "w1", Text: "m3"}},
		}
		rooms := []listing{{ID: "B", Members: []string{"r0", "w1"}, Unread: 1}, {ID: "A", Members: []string{"r0", "w0"}, Unread: 1, Read: "2"}}
		o.views = append(o.views, view{node: node, user: "r0", rooms: rooms, histories: histories},
			view{node: node, user: "w0", rooms: []listing{{ID: "A", Members: []string{"r0", "w0"}}}})
	}
	told := [][]message{{{ID: "1", Room: "A", Text: "m0"}, {ID: "4", Room: "B", Text: "m3"}, {ID: "3", Room: "A", Text: "m1"}}, {{ID: "1", Room: "A", Text: "m0"}, {ID: "5", Room: "A", Text: "m2"}}}
	o.readers = []seen{{user: "r0", texts: map[string]string{"1": "m0", "3": "m1 edit 1", "4": "m3"}, told: told}}
	o.ordered = true
	return o
}

// each changes a room's history on every node, and what the reader saw of it stays.
func (o *observed) each(room string, change func([]message) []message) {
	for i := range o.views {
		if h := o.views[i].histories; h != nil {
			h[room] = change(h[room])
		}
	}
}

func (o *observed) find(text string) *sent {
	return o.sent[slices.IndexFunc(o.sent, func(m *sent) bool { return m.text == text })]
}

func drop(id string) func([]message) []message {
	return func(h []message) []message {
		return slices.DeleteFunc(h, func(m message) bool { return m.ID == id })
	}
}

func TestHealthy(t *testing.T) {
	if wrong := checkAll(healthy()); len(wrong) > 0 {
		t.Errorf("a run in which all went well: %q", wrong)
	}
}

// TestChecks: each check finds its mutant of a run in which all went well, and lets pass what is no fault.
func TestChecks(t *testing.T) {
	for _, c := range []struct {
		name   string
		check  func(*observed) []string
		mutate func(*observed)
		want   string // "": it passes
	}{
		{"a node is silent", checkFetched, func(o *observed) { o.views[2].err = errors.New("refused") }, "n2 does not tell r0"},
		{"lost on one node", checkLost, func(o *observed) { o.views[2].histories["A"] = drop("1")(o.views[2].histories["A"]) }, `"m0" was acknowledged and is lost: n2`},
		{"lost although edited", checkLost, func(o *observed) { o.each("A", drop("3")) }, `"m1" was acknowledged and is lost`},
		{"never acknowledged and missing", checkLost, func(o *observed) { o.each("B", drop("4")) }, ""},
		{"missing and perhaps deleted", checkLost, func(o *observed) { o.find("m0").deleted = possible; o.each("A", drop("1")) }, ""},
		{"twice", checkLost, func(o *observed) {
			o.each("B", func(h []message) []message { return append(h, message{ID: "6", Room: "B", From: "w1", Text: "m3"}) })
		}, `"m3" is shown 2 times`},
		{"twice, once edited", checkLost, func(o *observed) {
			o.each("A", func(h []message) []message { return append(h, message{ID: "6", Room: "A", From: "w0", Text: "m1"}) })
		}, `"m1" is shown 2 times`},
		{"a phantom", checkPhantoms, func(o *observed) { o.views[0].histories["B"][0].Text = "m9" }, `nobody sent "m9" as w1: n1`},
		{"refused and there", checkPhantoms, func(o *observed) { o.views[0].histories["B"][0].Text = "m5" }, `nobody sent "m5"`},
		{"another author", checkPhantoms, func(o *observed) { o.views[0].histories["A"][0].From = "w1" }, `nobody sent "m0" as w1`},
		{"another room", checkPhantoms, func(o *observed) { o.views[0].histories["A"][0].Room = "B" }, "is in another"},
		{"an edit that was refused", checkPhantoms, func(o *observed) { o.find("m1").edits = o.find("m1").edits[1:] }, `nobody sent "m1 edit 1"`},
		{"a deletion nobody asked for", checkPhantoms, func(o *observed) { o.find("m2").deleted = never }, "-1 more messages of w0"},
		{"deleted without a trace", checkPhantoms, func(o *observed) { o.each("A", drop("5")) }, "1 more messages of w0"},
		{"a deletion that perhaps did not happen", checkPhantoms, func(o *observed) { o.find("m0").deleted = possible }, ""},
		{"deleted and there", checkChanged, func(o *observed) { o.find("m0").deleted = sure }, `"m0" was deleted and is shown`},
		{"perhaps deleted and there", checkChanged, func(o *observed) { o.find("m0").deleted = possible }, ""},
		{"a lost edit", checkChanged, func(o *observed) { o.views[0].histories["A"][1].Text = "m1" }, `the edit of "m1" was acknowledged and is lost`},
		{"another of several edits", checkChanged, func(o *observed) { o.views[0].histories["A"][1].Text = "m1 edit 2" }, ""},
		{"an edit that perhaps did not happen", checkChanged, func(o *observed) { o.find("m1").edited = possible; o.views[0].histories["A"][1].Text = "m1" }, ""},
		{"shown twice", checkStreams, func(o *observed) { o.readers[0].wrong = []string{"a stream showed 1 twice"} }, "to r0 a stream showed 1 twice"},
		{"the other way round", checkOrder, func(o *observed) { slices.Reverse(o.readers[0].told[0]) }, `a stream told r0 3 "m1" before 1 "m0"`},
		{"the other way round after everything was fetched", checkOrder, func(o *observed) { slices.Reverse(o.readers[0].told[1]) }, `5 "m2" before 1 "m0"`},
		{"in the order of arrival, where nobody promises more", checkOrder, func(o *observed) {
			slices.Reverse(o.readers[0].told[0])
			o.ordered = false
		}, ""},
		{"a history in another order", checkOrder, func(o *observed) {
			h := o.views[2].histories["A"]
			h[0], h[1] = h[1], h[0]
		}, "the history of n2 has them the other way round"},
		{"never shown", checkPictures, func(o *observed) { delete(o.readers[0].texts, "4") }, `no stream showed 4 "m3"`},
		{"shown for ever", checkPictures, func(o *observed) { o.readers[0].texts["5"] = "m2" }, `still shows 5 "m2", which is deleted`},
		{"a copy that stays on the screen", checkPictures, func(o *observed) { o.readers[0].texts["6"] = "m3" }, `shows 6 "m3", which is in no history`},
		{"an edit not shown", checkPictures, func(o *observed) { o.readers[0].texts["3"] = "m1" }, `shows "m1" in place of 3`},
		{"histories differ", checkAgreement, func(o *observed) { o.views[2].histories["B"][0].At = "later" }, "histories differ"},
		{"one history is longer", checkAgreement, func(o *observed) { o.views[2].histories["B"] = nil }, "1 and 0 messages"},
		{"out of order", checkAgreement, func(o *observed) {
			o.each("A", func(h []message) []message { slices.Reverse(h); return h })
		}, "5 stands before 3"},
		{"read positions differ", checkAgreement, func(o *observed) { o.views[3].rooms[0].Read = "1" }, "n2 tells w0 of other rooms"},
		{"unread", checkUnread, func(o *observed) { o.views[2].rooms[1].Unread = 2 }, "n2 tells r0 of 2 unread messages"},
		{"own messages unread", checkUnread, func(o *observed) { o.views[1].rooms[0].Unread = 2 }, "n1 tells w0 of 2 unread messages"},
		{"a room is missing", checkUnread, func(o *observed) { o.views[1].rooms = nil }, "n1 does not tell w0 of room A"},
		{"a member is missing", checkUnread, func(o *observed) { o.views[0].rooms[0].Members = []string{"r0"} }, "has the members [r0]"},
		{"more unread than are counted", checkUnread, func(o *observed) {
			o.each("B", func([]message) (h []message) {
				for i := range 2 * unreadMax {
					h = append(h, message{ID: fmt.Sprintf("%09d", i), Room: "B", From: "w1"})
				}
				return h
			})
			o.views[0].rooms[0].Unread, o.views[2].rooms[0].Unread = unreadMax, unreadMax
		}, ""},
		{"a reset out of nothing", checkResets, func(o *observed) { o.readers[0].resets = []string{"the position is too old"} }, "was reset without need"},
		{"an unknown reason", checkResets, func(o *observed) { o.readers[0].resets, o.requests = []string{"hm"}, 1_000_000 }, "was reset without need"},
		{"a long run", checkResets, func(o *observed) {
			o.readers[0].resets, o.requests = []string{"the position is too old", "too much was missed"}, 20_001
		}, ""},
		{"many starts", checkResets, func(o *observed) {
			o.readers[0].resets, o.processes = []string{"the position is too far ahead of this node"}, 17
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := healthy()
			c.mutate(o)
			switch wrong := c.check(o); {
			case c.want == "" && len(wrong) > 0:
				t.Errorf("complains: %q", wrong)
			case c.want != "" && !slices.ContainsFunc(wrong, func(w string) bool { return strings.Contains(w, c.want) }):
				t.Errorf("says %q, nothing of %q", wrong, c.want)
			case c.want != "" && len(checkAll(o)) == 0:
				t.Error("checkAll does not ask this check")
			}
		})
	}
}

// TestReasonsAreBounded: the first of many complaints, and how many more there are.
func TestReasonsAreBounded(t *testing.T) {
	o := healthy()
	for range 10 {
		o.readers[0].wrong = append(o.readers[0].wrong, "a stream told nonsense")
	}
	wrong := checkAll(o)
	if len(wrong) != 4 || wrong[3] != "and 7 more like the last" {
		t.Errorf("10 complaints make %q", wrong)
	}
}
