package realm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// commandVersion is the first byte of a command, the second its kind; its fields follow as its fields method lists
// them. Numbers are uvarints in the shortest form; texts and bytes have their length before them, lists their number.
// So every request has one encoding.
const commandVersion = 1

// Encode returns the command for a request. The error names the field that exceeds its limit, or is not UTF-8.
func Encode(q Request) ([]byte, error) {
	c := &coder{out: append(make([]byte, 0, 256), commandVersion, byte(q.kind()))}
	q.fields(c)
	if c.err != nil {
		return nil, c.err
	}
	return c.out, nil
}

// Decode reads a command. The error says that it is none.
func Decode(command []byte) (Request, error) {
	if len(command) < 2 || command[0] != commandVersion {
		return nil, fmt.Errorf("realm: %d bytes are no command of version %d", len(command), commandVersion)
	}
	q := blank(kind(command[1]))
	if q == nil {
		return nil, fmt.Errorf("realm: command of unknown kind %d", command[1])
	}
	c := &coder{in: command, at: 2, reading: true}
	q.fields(c)
	if err := c.end(); err != nil {
		return nil, err
	}
	return q, nil
}

// coder writes or reads fields, so that one list of them serves both ways. After the first error it does nothing; what
// was read by then is of no use.
type coder struct {
	out     []byte // what was written
	in      []byte // what is read,
	at      int    // up to here
	reading bool
	err     error
}

func (c *coder) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("realm: "+format, args...)
	}
}

// end is the error of a whole that was read.
func (c *coder) end() error {
	if c.err == nil && c.at != len(c.in) {
		c.fail("%d bytes behind the end", len(c.in)-c.at)
	}
	return c.err
}

// take returns the next n bytes of what is read, or nil.
func (c *coder) take(n uint64) []byte {
	if c.err != nil || n > uint64(len(c.in)-c.at) {
		c.fail("the bytes end at %d, within a field", c.at)
		return nil
	}
	c.at += int(n)
	return c.in[c.at-int(n) : c.at]
}

func (c *coder) uvarint() uint64 {
	if c.err != nil {
		return 0
	}
	x, n := binary.Uvarint(c.in[c.at:])
	if n <= 0 || n > 1 && c.in[c.at+n-1] == 0 {
		c.fail("no number at byte %d", c.at)
		return 0
	}
	c.at += n
	return x
}

// number codes a number. A negative one takes ten bytes.
func number[T ~uint8 | ~uint32 | ~uint64 | ~int64](c *coder, p *T) {
	if !c.reading {
		c.out = binary.AppendUvarint(c.out, uint64(*p))
		return
	}
	at, x := c.at, c.uvarint()
	if uint64(T(x)) != x {
		c.fail("the number at byte %d is too large", at)
	}
	*p = T(x)
}

func (c *coder) flag(p *bool) {
	var x uint8
	if *p {
		x = 1
	}
	number(c, &x)
	if *p = x == 1; x > 1 {
		c.fail("the flag before byte %d is %d", c.at, x)
	}
}

// fixed codes bytes of a known number.
func (c *coder) fixed(b []byte) {
	if !c.reading {
		c.out = append(c.out, b...)
		return
	}
	copy(b, c.take(uint64(len(b))))
}

// length codes how many bytes, or rows of a list, follow.
func (c *coder) length(n int, what string, most int) int {
	x := uint64(n)
	if c.reading {
		x = c.uvarint()
	}
	if x > uint64(most) {
		c.fail("%s has %d, at most %d", what, x, most)
		return 0
	}
	if !c.reading {
		c.out = binary.AppendUvarint(c.out, x)
	}
	return int(x)
}

func (c *coder) text(p *string, what string, bytesMax int) {
	n := c.length(len(*p), what, bytesMax)
	if c.reading {
		*p = string(c.take(uint64(n)))
	} else if c.err == nil {
		c.out = append(c.out, *p...)
	}
	if !utf8.ValidString(*p) {
		c.fail("%s is not UTF-8", what)
	}
}

func (c *coder) bytes(p *[]byte, what string, bytesMax int) {
	n := c.length(len(*p), what, bytesMax)
	if !c.reading {
		c.out = append(c.out, *p...)
	} else if *p = nil; n > 0 {
		*p = bytes.Clone(c.take(uint64(n)))
	}
}

// list codes the rows of a slice, each of which takes at least so many bytes: a damaged number of them does not ask for
// much more memory than there are bytes.
func list[T any](c *coder, p *[]T, what string, rowsMax, rowBytesMin int, row func(*coder, *T)) {
	n := c.length(len(*p), what, rowsMax)
	if c.reading {
		*p = nil
		if n > (len(c.in)-c.at)/rowBytesMin {
			c.fail("%s has %d, more than the bytes have", what, n)
		}
		if c.err == nil && n > 0 {
			*p = make([]T, n)
		}
	}
	for i := range *p {
		if c.err != nil {
			return
		}
		row(c, &(*p)[i])
	}
}

func (c *coder) groups(p *[]string) {
	list(c, p, "groups", GroupsMax, 1, func(c *coder, g *string) { c.text(g, "group", GroupBytesMax) })
}

func (c *coder) recovery(p *[]Hash) {
	list(c, p, "recovery codes", RecoveryMax, len(Hash{}), func(c *coder, h *Hash) { c.fixed(h[:]) })
}

func (c *coder) user(p *string)    { c.text(p, "user", UserBytesMax) }
func (c *coder) by(p *string)      { c.text(p, "by", UserBytesMax) }
func (c *coder) address(p *string) { c.text(p, "address", AddressBytesMax) }

var errNotSnapshot = errors.New("realm: not a snapshot of a realm")
