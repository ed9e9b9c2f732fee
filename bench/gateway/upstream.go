package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
)

const (
	answerBytes = 200
	echoPath    = "/echo" // is answered with the request's head
)

// upstream is the service behind every proxy, as lean as it can be: it reads a head and answers 200 bytes. It runs in this
// process, whose time nobody is charged.
type upstream struct {
	listener net.Listener
	answer   []byte
}

func startUpstream(ctx context.Context) (*upstream, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &upstream{listener: l, answer: answerOf(bytes.Repeat([]byte("x"), answerBytes))}
	context.AfterFunc(ctx, func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go u.serve(conn)
		}
	}()
	return u, nil
}

func (u *upstream) addr() string { return u.listener.Addr().String() }

func answerOf(body []byte) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// serve answers the requests of a connection; they have no bodies.
func (u *upstream) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 16<<10)
	var head []byte
	for {
		head = head[:0]
		for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			head = append(head, line...)
		}
		answer := u.answer
		if target, _, _ := strings.Cut(string(head[bytes.IndexByte(head, ' ')+1:]), " "); strings.HasSuffix(target, echoPath) {
			answer = answerOf(head)
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}
