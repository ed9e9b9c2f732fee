package token

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	depthMax   = 8  // of objects and arrays in each other
	membersMax = 64 // of one object, so that the search for duplicates stays short
)

// scanner reads JSON (RFC 8259) from left to right, and refuses what the package documentation says. Its errors name
// the byte.
type scanner struct {
	text  string
	pos   int
	depth int // of the value that is being read
}

// scanObject reads text as one object and nothing else. member is called for each member, after its name (escapes
// resolved), and must read the value. A name that differs from one of known only by letters' case is an error.
func scanObject(text string, known []string, member func(s *scanner, name string) error) error {
	if !utf8.ValidString(text) {
		return errors.New("invalid UTF-8")
	}
	s := scanner{text: text}
	if err := s.object(known, func(name string) error { return member(&s, name) }); err != nil {
		return err
	}
	if s.peek(); s.pos != len(s.text) {
		return s.errorf("data after the object")
	}
	return nil
}

func (s *scanner) errorf(format string, args ...any) error {
	return fmt.Errorf(format+" at byte %d", append(args, s.pos)...)
}

// peek skips white space and returns the byte that follows, 0 at the end; a NUL is never part of JSON outside.
func (s *scanner) peek() byte {
	for ; s.pos < len(s.text); s.pos++ {
		switch c := s.text[s.pos]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// take skips white space and the byte c, which must follow.
func (s *scanner) take(c byte) error {
	if s.peek() != c {
		return s.errorf("want %q", c)
	}
	s.pos++
	return nil
}

// list reads what stands between open and end, separated by commas; item reads one.
func (s *scanner) list(open, end byte, item func() error) error {
	if err := s.take(open); err != nil {
		return err
	}
	if s.depth++; s.depth > depthMax {
		return s.errorf("over %d levels deep", depthMax)
	}
	if s.peek() != end {
		for more := true; more; {
			if err := item(); err != nil {
				return err
			}
			if more = s.peek() == ','; more {
				s.pos++
			}
		}
	}
	s.depth--
	return s.take(end)
}

func (s *scanner) object(known []string, member func(name string) error) error {
	var few [16]string
	seen := few[:0]
	return s.list('{', '}', func() error {
		name, err := s.str()
		if err != nil {
			return err
		}
		if slices.Contains(seen, name) {
			return s.errorf("member %q comes twice", name)
		}
		if len(seen) == membersMax {
			return s.errorf("over %d members", membersMax)
		}
		seen = append(seen, name)
		for _, k := range known {
			if k != name && strings.EqualFold(k, name) {
				return s.errorf("member %q stands for %q", name, k)
			}
		}
		if err := s.take(':'); err != nil {
			return err
		}
		return member(name)
	})
}

// skip reads any value.
func (s *scanner) skip() error {
	switch c := s.peek(); {
	case c == '{':
		return s.object(nil, func(string) error { return s.skip() })
	case c == '[':
		return s.list('[', ']', s.skip)
	case c == '"':
		_, err := s.str()
		return err
	case c == '-' || isDigit(c):
		_, err := s.number()
		return err
	}
	for _, word := range [...]string{"true", "false", "null"} {
		if strings.HasPrefix(s.text[s.pos:], word) {
			s.pos += len(word)
			return nil
		}
	}
	return s.errorf("want a value")
}

// strs reads an array of at most n strings.
func (s *scanner) strs(n int) ([]string, error) {
	var all []string
	err := s.list('[', ']', func() error {
		if len(all) == n {
			return s.errorf("over %d entries", n)
		}
		one, err := s.str()
		all = append(all, one)
		return err
	})
	return all, err
}

// str reads a string. One without escapes shares its bytes with the text.
func (s *scanner) str() (string, error) {
	if err := s.take('"'); err != nil {
		return "", err
	}
	start := s.pos
	for ; s.pos < len(s.text); s.pos++ {
		switch c := s.text[s.pos]; {
		case c == '"':
			s.pos++
			return s.text[start : s.pos-1], nil
		case c == '\\':
			return s.escaped([]byte(s.text[start:s.pos]))
		case c < ' ':
			return "", s.errorf("control character in a string")
		}
	}
	return "", s.errorf("string without an end")
}

// escaped reads the rest of a string from its first backslash on; before is what came before that.
func (s *scanner) escaped(before []byte) (string, error) {
	out := before
	for s.pos < len(s.text) {
		c := s.text[s.pos]
		s.pos++
		switch {
		case c == '"':
			return string(out), nil
		case c < ' ':
			return "", s.errorf("control character in a string before")
		case c != '\\':
			out = append(out, c)
			continue
		}
		r, err := s.escape()
		if err != nil {
			return "", err
		}
		out = utf8.AppendRune(out, r)
	}
	return "", s.errorf("string without an end")
}

// escape reads what follows a backslash.
func (s *scanner) escape() (rune, error) {
	if s.pos == len(s.text) {
		return 0, s.errorf("string without an end")
	}
	c := s.text[s.pos]
	if c != 'u' {
		i := strings.IndexByte(`"\/bfnrt`, c)
		if i < 0 {
			return 0, s.errorf("unknown escape")
		}
		s.pos++
		return rune("\"\\/\b\f\n\r\t"[i]), nil
	}
	r, err := s.hex4()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if !strings.HasPrefix(s.text[s.pos:], `\u`) {
		return 0, s.errorf("half of a surrogate pair before")
	}
	s.pos++
	low, err := s.hex4()
	if err != nil {
		return 0, err
	}
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		return 0, s.errorf("half of a surrogate pair before")
	}
	return r, nil
}

// hex4 reads the u at pos and its four digits.
func (s *scanner) hex4() (rune, error) {
	if len(s.text)-s.pos < 5 {
		return 0, s.errorf("string without an end")
	}
	n, err := strconv.ParseUint(s.text[s.pos+1:s.pos+5], 16, 16)
	if err != nil {
		return 0, s.errorf("want four hexadecimal digits")
	}
	s.pos += 5
	return rune(n), nil
}

// number reads a number and returns its text.
func (s *scanner) number() (string, error) {
	s.peek()
	start := s.pos
	s.one("-")
	if zero := s.one("0"); !zero && !s.digits() {
		return "", s.errorf("want a number")
	}
	if s.one(".") && !s.digits() {
		return "", s.errorf("want a digit")
	}
	if s.one("eE") {
		s.one("+-")
		if !s.digits() {
			return "", s.errorf("want a digit")
		}
	}
	return s.text[start:s.pos], nil
}

// one passes the byte at pos if it is one of set.
func (s *scanner) one(set string) bool {
	if s.pos == len(s.text) || strings.IndexByte(set, s.text[s.pos]) < 0 {
		return false
	}
	s.pos++
	return true
}

// digits passes digits, and says whether there were any.
func (s *scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.text) && isDigit(s.text[s.pos]) {
		s.pos++
	}
	return s.pos > start
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
