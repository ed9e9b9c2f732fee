package load

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
)

const bodyBytesMax = 16 << 20 // of an answer

// HTTP is a keep-alive connection with one request in flight: HTTP/1.1 with as little client as possible, so that what
// is measured is the server.
type HTTP struct {
	conn net.Conn
	r    *bufio.Reader
	stop func() bool
	host string
	buf  []byte

	// Watch is the name of an answer's header, and Watched its value in the last answer, empty when it had none.
	Watch   string
	Watched string
}

// DialHTTP connects. The connection is closed when ctx ends.
func DialHTTP(ctx context.Context, addr string) (*HTTP, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &HTTP{conn: conn, r: bufio.NewReader(conn), stop: context.AfterFunc(ctx, func() { conn.Close() }), host: addr}, nil
}

// Close closes the connection.
func (c *HTTP) Close() {
	c.stop()
	c.conn.Close()
}

// Do sends a request and returns the answer's status and body, which is valid until the next call. Headers are whole
// lines, each ended by \r\n.
func (c *HTTP) Do(method, path, headers string, body []byte) (int, []byte, error) {
	c.buf = fmt.Appendf(c.buf[:0], "%s %s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %d\r\n\r\n%s", method, path, c.host, headers, len(body), body)
	if _, err := c.conn.Write(c.buf); err != nil {
		return 0, nil, err
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, nil, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, nil, fmt.Errorf("not an HTTP/1.1 answer: %q", line)
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return 0, nil, fmt.Errorf("not a status: %q", line)
	}
	length, err := c.head()
	if err != nil {
		return 0, nil, err
	}
	if length == chunked {
		err = c.chunks()
		return status, c.buf, err
	}
	c.buf = slices.Grow(c.buf[:0], length)[:length]
	_, err = io.ReadFull(c.r, c.buf)
	return status, c.buf, err
}

// chunks reads a body in chunks, without trailers, to its end.
func (c *HTTP) chunks() error {
	c.buf = c.buf[:0]
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, _, _ := bytes.Cut(bytes.TrimSpace(line), []byte(";"))
		n, err := strconv.ParseUint(string(size), 16, 31)
		if err != nil || len(c.buf)+int(n) > bodyBytesMax {
			return fmt.Errorf("a chunk of %q bytes", line)
		}
		at := len(c.buf)
		c.buf = append(c.buf, make([]byte, n)...)
		if _, err := io.ReadFull(c.r, c.buf[at:]); err != nil {
			return err
		}
		if line, err := c.r.ReadSlice('\n'); err != nil || len(bytes.TrimSpace(line)) > 0 {
			return fmt.Errorf("a chunk that does not end: %q (%v)", line, err)
		}
		if n == 0 {
			return nil
		}
	}
}

const chunked = -2 // in place of a body's length

// head reads to the end of the head and returns the length of the body.
func (c *HTTP) head() (int, error) {
	length := -1
	c.Watched = ""
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		switch {
		case len(name) == 0 && length == -1:
			return 0, fmt.Errorf("an answer without Content-Length")
		case len(name) == 0:
			return length, nil
		case bytes.EqualFold(name, []byte("Content-Length")):
			length, err = strconv.Atoi(string(bytes.TrimSpace(value)))
			if err != nil || length < 0 || length > bodyBytesMax {
				return 0, fmt.Errorf("a body of %q bytes", value)
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			length = chunked
		case c.Watch != "" && strings.EqualFold(string(name), c.Watch):
			c.Watched = string(bytes.TrimSpace(value))
		}
	}
}
