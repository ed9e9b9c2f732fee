package services

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// hear lets a picture hear a stream.
func hear(p *picture, text string) (resets int) {
	readEvents(strings.NewReader(text), func(e event) bool {
		if p.hear(e, time.Second) {
			resets++
		}
		return true
	})
	return resets
}

func TestPicture(t *testing.T) {
	p := newPicture()
	p.fetched([][]message{{{ID: "1", Text: "one"}, {ID: "2", Deleted: true}}, {{ID: "3", Text: "three"}}})
	resets := hear(p, `retry: 500

id: a:1

event: presence
data: {"user":"w0","online":true}

id: a:2
data: {"id":"1","text":"one"}

id: a:3
event: message
data: {"id":"4","text":"four"}

event: edited
id: a:4
data: {"id":"3","text":"three edited"}

event: edited
data: {"id":"2","text":"of a message that is gone"}

: a comment
event: deleted
id: a:5
data: {"room":"A","id":"1"}

id: a:6
data: {"id":"5","text":"cut off"}
`)
	want := map[string]string{"3": "three edited", "4": "four"}
	if diff := cmp.Diff(want, p.texts()); diff != "" || len(p.wrong) > 0 || resets > 0 {
		t.Errorf("picture (-want +got), with complaints %q and %d resets:\n%s", p.wrong, resets, diff)
	}
	if diff := cmp.Diff(map[string]time.Duration{"one": time.Second, "four": time.Second}, p.firsts()); diff != "" {
		t.Errorf("when streams told messages (-want +got):\n%s", diff)
	}
}

// TestPictureComplains: a message that is told twice, also after its deletion; but not once more after a reset, or by a list.
func TestPictureComplains(t *testing.T) {
	p := newPicture()
	message := "data: {\"id\":\"1\",\"text\":\"one\"}\n\n"
	hear(p, message+"event: deleted\ndata: {\"id\":\"1\"}\n\n")
	if hear(p, message); len(p.wrong) != 1 || !strings.Contains(p.wrong[0], `showed 1 "one" twice`) {
		t.Errorf("told twice: %q", p.wrong)
	}
	if resets := hear(p, "event: reset\ndata: {\"reason\":\"too much was missed\"}\n\n"); resets != 1 || !cmp.Equal(p.resets, []string{"too much was missed"}) {
		t.Errorf("%d resets, for %q", resets, p.resets)
	}
	p.fetched(nil)
	if hear(p, message); len(p.wrong) != 1 {
		t.Errorf("told again after a reset: %q", p.wrong)
	}
	if hear(p, "data: {\n\n"); len(p.wrong) != 2 {
		t.Errorf("after what is no JSON: %q", p.wrong)
	}
}

// TestReadEvents: lines and fields as the standard says.
func TestReadEvents(t *testing.T) {
	var got []event
	readEvents(strings.NewReader("id:1\nevent:x\ndata:a\ndata: b\nother: c\n\n\n:\n\ndata\n\nid: 2\n\ndata: last\n\ndata: more\n\n"), func(e event) bool {
		got = append(got, e)
		return e.data != "last"
	})
	want := []event{{"1", "x", "a\nb"}, {id: "2"}, {data: "last"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(event{})); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}
