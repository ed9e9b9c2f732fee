package stream

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// sseEvent is an event as a client sees it.
type sseEvent struct{ ID, Event, Data string }

// parseSSE reads a stream as the HTML standard's "event stream interpretation" does, and returns what is dispatched. It
// fails on a field that AppendEvent and AppendRetry do not write.
func parseSSE(stream string) (events []sseEvent, comments int, err error) {
	var e sseEvent
	var data []string
	lines := strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(stream), "\n")
	for _, line := range lines[:len(lines)-1] {
		if line == "" {
			if data != nil {
				e.Data = strings.Join(data, "\n")
				events = append(events, e)
			}
			e, data = sseEvent{}, nil
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "":
			comments++
		case "id":
			e.ID = value
		case "event":
			e.Event = value
		case "data":
			data = append(data, value)
		case "retry":
		default:
			return nil, 0, fmt.Errorf("unknown field in line %q", line)
		}
	}
	return events, comments, nil
}

// checkFraming reports how what frame writes for three events in a row differs from those three events.
func checkFraming(frame func(dst []byte, id, event string, data []byte) []byte, id, event, data string) error {
	var stream []byte
	for range 3 {
		stream = frame(stream, id, event, []byte(data))
	}
	got, _, err := parseSSE(string(stream))
	if err != nil {
		return err
	}
	one := sseEvent{id, event, strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(data)}
	if diff := cmp.Diff([]sseEvent{one, one, one}, got); diff != "" {
		return fmt.Errorf("AppendEvent(%q, %q, %q) mismatch (-want +got)\n%s", id, event, data, diff)
	}
	return nil
}

var hostileData = []string{
	"", " ", "plain", " leading space", "two\nlines", "\n", "\n\n", "\r", "\r\n", "\r\n\r\n", "\n\r", "end\n", "\ndata: x",
	"x\ndata:y\n\nevent: reset\ndata: gone", "x\rid: 7\r\rdata: y", "a\u2028b\u2029c", "nul\x00byte", "\xff\xfe invalid",
	":comment", "\n:comment", "id: 1", "retry: 1",
}

func TestAppendEvent(t *testing.T) {
	for _, data := range hostileData {
		if err := checkFraming(AppendEvent, "3.14", "message", data); err != nil {
			t.Error(err)
		}
	}
	field := rapid.StringMatching(`[^\r\n\x00 ][^\r\n\x00]{0,8}`)
	pieces := rapid.OneOf(rapid.SampledFrom([]string{"\r", "\n", "data:", "id: 1", ":", " "}), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		data := strings.Join(rapid.SliceOf(pieces).Draw(t, "data"), "")
		id := rapid.OneOf(rapid.Just(""), field).Draw(t, "id")
		event := rapid.OneOf(rapid.Just(""), field).Draw(t, "event")
		if err := checkFraming(AppendEvent, id, event, data); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAppendEventBytes(t *testing.T) {
	for _, tt := range []struct{ id, event, data, want string }{
		{"", "", "", "data: \n\n"},
		{"7", "message", "hi", "id: 7\nevent: message\ndata: hi\n\n"},
		{"", "typing", "a\r\n\rb", "event: typing\ndata: a\ndata: \ndata: b\n\n"},
	} {
		got := string(AppendEvent([]byte("before"), tt.id, tt.event, []byte(tt.data)))
		if diff := cmp.Diff("before"+tt.want, got); diff != "" {
			t.Errorf("AppendEvent(%q, %q, %q) mismatch (-want +got)\n%s", tt.id, tt.event, tt.data, diff)
		}
	}
	if got := string(AppendRetry(nil, 1500*time.Millisecond)); got != "retry: 1500\n\n" {
		t.Errorf("AppendRetry(1.5 s) = %q", got)
	}
}

// TestFramingMutants: the check finds framings that let a message inject fields.
func TestFramingMutants(t *testing.T) {
	for name, frame := range map[string]func([]byte, string, string, []byte) []byte{
		"one data line": func(dst []byte, id, event string, data []byte) []byte {
			return fmt.Appendf(dst, "id: %s\nevent: %s\ndata: %s\n\n", id, event, data)
		},
		"split at LF only": func(dst []byte, id, event string, data []byte) []byte {
			text := strings.ReplaceAll(string(data), "\n", "\ndata: ")
			return fmt.Appendf(dst, "id: %s\nevent: %s\ndata: %s\n\n", id, event, text)
		},
		"no space": func(dst []byte, id, event string, data []byte) []byte {
			return []byte(strings.ReplaceAll(string(AppendEvent(dst, id, event, data)), "data: ", "data:"))
		},
	} {
		caught := false
		for _, data := range hostileData {
			caught = caught || checkFraming(frame, "1", "message", data) != nil
		}
		if !caught {
			t.Errorf("framing %q passes the check", name)
		}
	}
}

func TestAppendEventRefuses(t *testing.T) {
	for _, bad := range []string{"a\nb", "a\rb", "a\x00b", "\n"} {
		for _, ids := range [][2]string{{bad, "message"}, {"1", bad}} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("AppendEvent(%q, %q) does not panic", ids[0], ids[1])
					}
				}()
				AppendEvent(nil, ids[0], ids[1], nil)
			}()
		}
	}
}
