package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"

	"dongne/bench/load"
	"dongne/bench/proc"
)

// room is what streams listen to: a room, a subject, a channel.
type room struct {
	name    string
	members []string
}

// publisher publishes texts. publish returns when the server has answered all n of them, or, where it does not answer,
// when they are written.
type publisher interface {
	publish(first, n int) error
	close()
}

// server is a running system.
type server struct {
	name    string
	process *proc.Process
	streams load.Streams // without Count
	// publisher connects publisher number i, which publishes to the first room.
	publisher func(ctx context.Context, i int) (publisher, error)
	// pipelined: a publisher has many texts in flight on its one connection. Otherwise it takes a connection for each.
	pipelined bool
	debug     string                                 // address of net/http/pprof, empty: none
	stored    func(ctx context.Context) (int, error) // texts that the server keeps; nil: it cannot say
	writes    func(ctx context.Context) (writes, deliveries float64, err error)
}

// system is something to measure.
type system struct {
	name  string
	ours  bool
	start func(ctx context.Context, dir string, rooms []room) (*server, error)
}

const natsCore = "NATS core" // how the names of its versions begin

// systems are all that can be measured here; absent says what is missing.
type systems struct {
	chat, nchan system
	core        []system // the installed nats-server and the one that go.mod pins
	jetStream   system
	absent      map[string]string // name → how to get it
}

// findSystems builds what go.mod names and looks for what is installed. Only ours must be there.
func findSystems(ctx context.Context, dir string) (systems, error) {
	s := systems{absent: map[string]string{}}
	program, err := proc.Build(ctx, dir, "dongne/chat")
	if err != nil {
		return s, err
	}
	s.chat = system{"ours (chat)", true, chatServer(program)}

	s.nchan = system{name: "nchan"}
	if nginx, version, err := proc.Installed("nginx", "-v"); err != nil {
		s.absent[s.nchan.name] = "absent: apt-get install nginx libnginx-mod-nchan"
	} else if _, err := os.Stat(nchanModule); err != nil {
		s.absent[s.nchan.name] = "absent: apt-get install libnginx-mod-nchan"
	} else {
		s.nchan = system{s.nchan.name + " on nginx " + version, false, nchanServer(nginx)}
	}

	core := system{name: natsCore}
	if nats, version, err := proc.Installed("nats-server", "-v"); err != nil {
		s.absent[core.name] = "absent: apt-get install nats-server"
	} else {
		core = system{core.name + " " + version, false, natsServer(nats, false)}
	}
	s.core = []system{core}

	s.jetStream = system{name: "JetStream, sync always"}
	if nats, err := proc.Build(ctx, dir, "github.com/nats-io/nats-server/v2"); err != nil {
		s.absent[s.jetStream.name] = fmt.Sprintf("absent: go build github.com/nats-io/nats-server/v2: %v", err)
	} else if _, version, err := proc.Installed(nats, "-v"); err != nil {
		s.absent[s.jetStream.name] = fmt.Sprintf("absent: %v", err)
	} else {
		s.core = append(s.core, system{natsCore + " " + version, false, natsServer(nats, false)})
		s.jetStream = system{s.jetStream.name + " " + version, false, natsServer(nats, true)}
	}
	return s, nil
}

// chatServer starts our chat: durable, one line per request not logged, as the peers do not log them either.
func chatServer(program string) func(context.Context, string, []room) (*server, error) {
	return func(ctx context.Context, dir string, rooms []room) (*server, error) {
		addrs, ports, err := proc.FreeAddrs(2)
		if err != nil {
			return nil, err
		}
		process, err := proc.Start([]string{"HOST=127.0.0.1", "PORT=" + ports[0], "DATA_DIR=" + dir, "DEBUG_ADDR=" + addrs[1],
			"SENDS_PER_SECOND=1000000", "LOG_LEVEL=warn", "AUTH_URL=", "PEERS=", "OTEL_EXPORTER_OTLP_ENDPOINT="}, program)
		if err != nil {
			return nil, err
		}
		s := &server{process: process, debug: addrs[1]}
		if err := process.AwaitTCP(ctx, addrs[0]); err != nil {
			process.Stop()
			return nil, err
		}
		ids, err := createRooms(ctx, addrs[0], rooms)
		if err != nil {
			process.Stop()
			return nil, err
		}
		s.streams = load.Streams{Addr: addrs[0], Rooms: ids, Ready: "\r\n\r\n",
			Request: "GET /stream HTTP/1.1\r\nHost: localhost\r\nX-User: u{stream}\r\n\r\n"}
		s.publisher = func(ctx context.Context, i int) (publisher, error) {
			conn, err := load.DialHTTP(ctx, addrs[0])
			return &chatPublisher{conn: conn, user: "p" + strconv.Itoa(i), room: ids[0]}, err
		}
		s.writes = func(ctx context.Context) (writes, deliveries float64, err error) {
			m, err := load.Metrics(ctx, addrs[0], "chat_stream_writes_total", "chat_stream_deliveries_total")
			return m[0], m[1], err
		}
		s.stored = func(ctx context.Context) (int, error) {
			m, err := load.Metrics(ctx, addrs[0], "chat_log_entries")
			return int(m[0]) - len(rooms), err
		}
		return s, nil
	}
}

// createRooms makes the rooms, of whose members the first creates it, and returns their ids.
func createRooms(ctx context.Context, addr string, rooms []room) ([]string, error) {
	conn, err := load.DialHTTP(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ids := make([]string, len(rooms))
	for i, r := range rooms {
		body, _ := json.Marshal(map[string]any{"kind": "group", "name": r.name, "members": r.members})
		status, answer, err := conn.Do("POST", "/rooms", "X-User: "+r.members[0]+"\r\nContent-Type: application/json\r\n", body)
		if err != nil {
			return nil, err
		}
		var created struct{ ID string }
		if err := json.Unmarshal(answer, &created); err != nil || status != http.StatusCreated {
			return nil, fmt.Errorf("create a room: status %d: %s", status, answer)
		}
		ids[i] = created.ID
	}
	return ids, nil
}

// chatPublisher posts messages, each with an idempotency key as every client should.
type chatPublisher struct {
	conn *load.HTTP
	user string
	room string
	body []byte
}

func (p *chatPublisher) publish(first, n int) error {
	for i := first; i < first+n; i++ {
		p.body = append(load.AppendText(append(p.body[:0], `{"text":"`...), i), `"}`...)
		headers := "X-User: " + p.user + "\r\nContent-Type: application/json\r\nIdempotency-Key: k" + strconv.Itoa(i) + "\r\n"
		status, answer, err := p.conn.Do("POST", "/rooms/"+p.room+"/messages", headers, p.body)
		if err != nil {
			return err
		}
		if status != http.StatusCreated {
			return fmt.Errorf("publish: status %d: %s", status, answer)
		}
	}
	return nil
}

func (p *chatPublisher) close() { p.conn.Close() }
