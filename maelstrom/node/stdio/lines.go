package stdio

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"sync"

	maelstrom "github.com/jepsen-io/maelstrom/demo/go"
)

// sieve hands the library its messages, but to strange those of types that it does not know, at which it would end, and
// answers: it would keep those to itself, as it was not it that asked.
type sieve struct {
	in      *bufio.Reader
	known   []string
	strange func(src string, body json.RawMessage)
	rest    []byte // of a line that the library has begun to read
}

func newSieve(in io.Reader, known []string, strange func(string, json.RawMessage)) *sieve {
	return &sieve{in: bufio.NewReader(in), known: known, strange: strange}
}

// Read implements io.Reader.
func (s *sieve) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		line, err := s.in.ReadBytes('\n')
		if len(line) == 0 {
			return 0, err
		}
		if !s.take(line) {
			s.rest = line
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// take keeps the line from the library if it has to.
func (s *sieve) take(line []byte) bool {
	var message struct {
		Body struct {
			Type      string
			InReplyTo int `json:"in_reply_to"`
		}
	}
	if json.Unmarshal(line, &message) != nil || message.Body.InReplyTo == 0 && slices.Contains(s.known, message.Body.Type) {
		return false // of bad JSON the library says what is wrong
	}
	var whole maelstrom.Message
	if json.Unmarshal(line, &whole) != nil {
		return false
	}
	s.strange(whole.Src, whole.Body)
	return true
}

// lineWriter passes each line on in one write; the library writes the end of a line by itself.
type lineWriter struct {
	mu   sync.Mutex
	to   io.Writer
	line []byte // what there is of it; guarded by mu
}

// Write implements io.Writer.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.line = append(w.line, p...)
	if !bytes.HasSuffix(p, []byte("\n")) {
		return len(p), nil
	}
	_, err := w.to.Write(w.line)
	w.line = w.line[:0]
	return len(p), err
}

// print writes a line that is not the library's.
func (w *lineWriter) print(line string) error {
	_, err := w.Write([]byte(line + "\n"))
	return err
}
