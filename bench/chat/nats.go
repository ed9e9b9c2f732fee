package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"dongne/bench/load"
	"dongne/bench/proc"
)

// natsServer starts a nats-server; with jetStream it stores what is published to the first room in a file stream with
// one replica and syncs before each acknowledgement.
func natsServer(program string, jetStream bool) func(context.Context, string, []room) (*server, error) {
	return func(ctx context.Context, dir string, rooms []room) (*server, error) {
		addrs, ports, err := proc.FreeAddrs(2)
		if err != nil {
			return nil, err
		}
		config := fmt.Sprintf("listen: %q\nprof_port: %s\nping_interval: \"10m\"\n", addrs[0], ports[1])
		if jetStream {
			config += fmt.Sprintf("jetstream { store_dir: %q, sync_interval: always }\n", filepath.Join(dir, "store"))
		}
		file := filepath.Join(dir, "nats.conf")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return nil, err
		}
		process, err := proc.Start(nil, program, "-c", file)
		if err != nil {
			return nil, err
		}
		s := &server{process: process, pipelined: true, debug: "127.0.0.1:" + ports[1]}
		if err := process.AwaitTCP(ctx, addrs[0]); err != nil {
			process.Stop()
			return nil, err
		}
		s.streams = load.Streams{Addr: addrs[0], Ready: "PONG\r\n",
			Request: natsConnect + "SUB {room} 1\r\nPING\r\n"}
		for _, r := range rooms {
			s.streams.Rooms = append(s.streams.Rooms, r.name)
		}
		s.publisher = func(ctx context.Context, i int) (publisher, error) {
			conn, err := dialNATS(ctx, addrs[0])
			return &natsPublisher{conn: conn, subject: rooms[0].name}, err
		}
		if jetStream {
			if err := s.keep(ctx, addrs[0], rooms[0].name); err != nil {
				process.Stop()
				return nil, err
			}
		}
		return s, nil
	}
}

const natsConnect = "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"go\",\"version\":\"1\"}\r\n"

// keep creates the stream that stores the subject, and makes the server one that acknowledges.
func (s *server) keep(ctx context.Context, addr, subject string) error {
	conn, err := dialNATS(ctx, addr)
	if err != nil {
		return err
	}
	defer conn.close()
	order, _ := json.Marshal(map[string]any{"name": "BENCH", "subjects": []string{subject}, "storage": "file",
		"retention": "limits", "discard": "old", "num_replicas": 1, "max_consumers": -1, "max_msgs": -1, "max_bytes": -1})
	if _, err := conn.request("$JS.API.STREAM.CREATE.BENCH", order); err != nil {
		return fmt.Errorf("create a JetStream stream: %w", err)
	}
	s.pipelined = false
	s.publisher = func(ctx context.Context, i int) (publisher, error) {
		conn, err := dialNATS(ctx, addr)
		return &jetStreamPublisher{conn: conn, subject: subject}, err
	}
	s.stored = func(ctx context.Context) (int, error) {
		conn, err := dialNATS(ctx, addr)
		if err != nil {
			return 0, err
		}
		defer conn.close()
		answer, err := conn.request("$JS.API.STREAM.INFO.BENCH", nil)
		if err != nil {
			return 0, err
		}
		var info struct{ State struct{ Messages int } }
		err = json.Unmarshal(answer, &info)
		return info.State.Messages, err
	}
	return nil
}

// natsConn speaks the NATS client protocol.
type natsConn struct {
	conn  net.Conn
	r     *bufio.Reader
	stop  func() bool
	inbox string
	buf   []byte
}

const natsInbox = "_INBOX.b"

// dialNATS connects and subscribes to an inbox of its own. The connection is closed when ctx ends.
func dialNATS(ctx context.Context, addr string) (*natsConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &natsConn{conn: conn, r: bufio.NewReader(conn), stop: context.AfterFunc(ctx, func() { conn.Close() })}
	_, port, _ := net.SplitHostPort(conn.LocalAddr().String())
	c.inbox = natsInbox + port
	if _, err := fmt.Fprintf(conn, "%sSUB %s 1\r\n", natsConnect, c.inbox); err != nil {
		c.close()
		return nil, err
	}
	if err := c.ping(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// ping returns when the server has taken everything that was written before.
func (c *natsConn) ping() error {
	if _, err := c.conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	for {
		line, err := c.r.ReadString('\n')
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(line, "PONG"):
			return nil
		case strings.HasPrefix(line, "-ERR"):
			return fmt.Errorf("nats-server: %s", line)
		}
	}
}

func (c *natsConn) close() {
	c.stop()
	c.conn.Close()
}

// request publishes and waits for the answer, which is JSON: one that has an "error" is an error.
func (c *natsConn) request(subject string, body []byte) ([]byte, error) {
	c.buf = fmt.Appendf(c.buf[:0], "PUB %s %s %d\r\n%s\r\n", subject, c.inbox, len(body), body)
	if _, err := c.conn.Write(c.buf); err != nil {
		return nil, err
	}
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "PING"):
			if _, err := c.conn.Write([]byte("PONG\r\n")); err != nil {
				return nil, err
			}
		case len(fields) == 4 && fields[0] == "MSG":
			return c.message(fields[3])
		case strings.HasPrefix(line, "MSG"), strings.HasPrefix(line, "-ERR"):
			return nil, fmt.Errorf("nats-server: %s", line)
		}
	}
}

// message reads the payload of a MSG.
func (c *natsConn) message(length string) ([]byte, error) {
	n, err := strconv.Atoi(length)
	if err != nil || n < 0 {
		return nil, fmt.Errorf("nats-server: a message of %q bytes", length)
	}
	c.buf = append(c.buf[:0], make([]byte, n+2)...)
	for read := 0; read < len(c.buf); {
		k, err := c.r.Read(c.buf[read:])
		if err != nil {
			return nil, err
		}
		read += k
	}
	var answer struct{ Error any }
	if err := json.Unmarshal(c.buf[:n], &answer); err != nil || answer.Error != nil {
		return nil, fmt.Errorf("nats-server: %s", c.buf)
	}
	return c.buf[:n], nil
}

// natsPublisher pipelines: NATS core answers nothing.
type natsPublisher struct {
	conn    *natsConn
	subject string
	buf     []byte
}

func (p *natsPublisher) publish(first, n int) error {
	p.buf = p.buf[:0]
	for i := first; i < first+n; i++ {
		p.buf = fmt.Appendf(p.buf, "PUB %s %d\r\n", p.subject, load.TextBytes)
		p.buf = append(load.AppendText(p.buf, i), "\r\n"...)
	}
	_, err := p.conn.conn.Write(p.buf)
	return err
}

// close pings first: a connection that is closed while the server's own pings lie unread is reset, and what the server
// has not read of it is lost.
func (p *natsPublisher) close() {
	p.conn.ping() // a failure shows as texts that do not arrive
	p.conn.close()
}

// jetStreamPublisher waits for the acknowledgement of each text.
type jetStreamPublisher struct {
	conn    *natsConn
	subject string
	text    []byte
}

func (p *jetStreamPublisher) publish(first, n int) error {
	for i := first; i < first+n; i++ {
		p.text = load.AppendText(p.text[:0], i)
		if _, err := p.conn.request(p.subject, p.text); err != nil {
			return err
		}
	}
	return nil
}

func (p *jetStreamPublisher) close() { p.conn.close() }
