package stream

import (
	"bytes"
	"strconv"
	"strings"
	"time"
)

// AppendEvent appends one Server-Sent Event to dst and returns the longer slice. An empty id or event leaves that field
// out. Data may hold any bytes: each of its lines (ended by \n, \r\n or \r, as the HTML standard splits a stream) becomes
// a data: line of its own, so that no message can inject a field or end the event; the client sees every line end as \n.
// U+2028 and NUL are ordinary characters there. Text that is not valid UTF-8 passes unchanged and is replaced by the
// client's decoder: a caller that wants the same text everywhere replaces it first.
//
// A line end or NUL in id or event is a bug in the program, and panics: both are the program's own words.
func AppendEvent(dst []byte, id, event string, data []byte) []byte {
	dst = appendField(dst, "id: ", id)
	dst = appendField(dst, "event: ", event)
	for hasLineEnd := bytes.IndexByte(data, '\n') >= 0 || bytes.IndexByte(data, '\r') >= 0; hasLineEnd; {
		end := bytes.IndexAny(data, "\r\n")
		if end < 0 {
			break
		}
		dst = append(dst, "data: "...)
		dst = append(dst, data[:end]...)
		dst = append(dst, '\n')
		if data[end] == '\r' && end+1 < len(data) && data[end+1] == '\n' {
			end++
		}
		data = data[end+1:]
	}
	dst = append(dst, "data: "...)
	dst = append(dst, data...)
	return append(dst, "\n\n"...)
}

func appendField(dst []byte, field, value string) []byte {
	if value == "" {
		return dst
	}
	if strings.ContainsAny(value, "\r\n\x00") {
		panic("stream: line end or NUL in the value of " + strconv.Quote(field) + ": " + strconv.Quote(value))
	}
	dst = append(dst, field...)
	dst = append(dst, value...)
	return append(dst, '\n')
}

// AppendRetry appends a retry: field, which tells the client how long to wait before it connects again, in whole
// milliseconds. It dispatches no event.
func AppendRetry(dst []byte, wait time.Duration) []byte {
	dst = append(dst, "retry: "...)
	dst = strconv.AppendInt(dst, max(0, wait.Milliseconds()), 10)
	return append(dst, "\n\n"...)
}
