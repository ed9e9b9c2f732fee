// Package load is the client side of the benchmarks: texts that can be counted and checked, a process that reads
// thousands of streams cheaply, and publishers over HTTP.
package load

import (
	"bytes"
	"fmt"
	"strconv"
)

const (
	// TextBytes is the length of every published text.
	TextBytes = 100
	// mark ends every text and is nowhere else in what a server sends, so that counting it counts deliveries, the same
	// way for every protocol.
	mark         = '~'
	numberDigits = 10
)

// filler is the same in every text; nothing in it needs an escape in JSON.
var filler = bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog "), 3)[:TextBytes-numberDigits-1]

// AppendText appends text number n, which is TextBytes long.
func AppendText(dst []byte, n int) []byte {
	dst = fmt.Appendf(dst, "%0*d", numberDigits, n)
	dst = append(dst, filler...)
	return append(dst, mark)
}

// A sample checks one stream in full: every text must be whole, and come once.
type sample struct {
	carry []byte // the end of what was read, not yet with its mark
	seen  []bool // by number
	count int
	err   error // the first
}

// read takes what the stream sent next.
func (s *sample) read(p []byte) {
	s.carry = append(s.carry, p...)
	for {
		end := bytes.IndexByte(s.carry, mark)
		if end < 0 {
			break
		}
		s.text(s.carry[:end])
		s.carry = s.carry[end+1:]
	}
	s.carry = append([]byte(nil), s.carry...)
}

// text takes all that came since the last mark.
func (s *sample) text(p []byte) {
	p = p[max(0, len(p)-TextBytes+1):]
	digits := p[:min(len(p), numberDigits)]
	n, err := strconv.Atoi(string(digits))
	switch {
	case err != nil || n < 0 || !bytes.Equal(p[len(digits):], filler):
		s.fail("a text is damaged: %q", p)
		return
	case n < len(s.seen) && s.seen[n]:
		s.fail("text %d came twice", n)
	}
	for n >= len(s.seen) {
		s.seen = append(s.seen, false)
	}
	s.seen[n] = true
	s.count++
}

// finish reports whether texts 0 to n-1 came, each once, and nothing else.
func (s *sample) finish(n int) error {
	if s.err == nil && s.count != n {
		s.fail("%d texts came, %d were published", s.count, n)
	}
	if s.err == nil && len(s.seen) != n {
		s.fail("text %d came, only %d were published", len(s.seen)-1, n)
	}
	return s.err
}

func (s *sample) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}
