package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"dongne/bench/load"
	"dongne/bench/proc"
)

const nchanModule = "/usr/lib/nginx/modules/ngx_nchan_module.so" // Debian's place for it

// nchanConfig wants: module, folder, address. Messages stay in memory alone.
const nchanConfig = `load_module %[1]s;
daemon off;
user root;
worker_processes auto;
worker_rlimit_nofile 20000;
pid %[2]s/nginx.pid;
error_log %[2]s/error.log warn;
events { worker_connections 16384; }
http {
	access_log off;
	keepalive_requests 1000000000;
	client_body_temp_path %[2]s/body;
	proxy_temp_path %[2]s/proxy;
	fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi;
	scgi_temp_path %[2]s/scgi;
	nchan_shared_memory_size 512m;
	server {
		listen %[3]s backlog=4096;
		location ~ ^/pub/(\w+)$ {
			nchan_publisher http;
			nchan_channel_id $1;
			nchan_message_buffer_length 20000;
			nchan_message_timeout 5m;
		}
		location ~ ^/sub/(\w+)$ {
			nchan_subscriber eventsource;
			nchan_channel_id $1;
			nchan_subscriber_first_message oldest; # with several workers a stream is open before it is in its channel
		}
	}
}
`

func nchanServer(nginx string) func(context.Context, string, []room) (*server, error) {
	return func(ctx context.Context, dir string, rooms []room) (*server, error) {
		addr, err := proc.FreeAddr()
		if err != nil {
			return nil, err
		}
		file := filepath.Join(dir, "nginx.conf")
		config := fmt.Sprintf(nchanConfig, nchanModule, dir, addr)
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return nil, err
		}
		process, err := proc.Start(nil, nginx, "-p", dir, "-c", file, "-e", filepath.Join(dir, "error.log"))
		if err != nil {
			return nil, err
		}
		if err := process.AwaitTCP(ctx, addr); err != nil {
			process.Stop()
			log, _ := os.ReadFile(filepath.Join(dir, "error.log"))
			return nil, fmt.Errorf("%w: %s", err, log)
		}
		s := &server{process: process}
		s.streams = load.Streams{Addr: addr, Ready: "\r\n\r\n",
			Request: "GET /sub/{room} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"}
		for _, r := range rooms {
			s.streams.Rooms = append(s.streams.Rooms, r.name)
		}
		s.publisher = func(ctx context.Context, i int) (publisher, error) {
			conn, err := load.DialHTTP(ctx, addr)
			return &nchanPublisher{conn: conn, path: "/pub/" + rooms[0].name}, err
		}
		return s, nil
	}
}

type nchanPublisher struct {
	conn *load.HTTP
	path string
	text []byte
}

func (p *nchanPublisher) publish(first, n int) error {
	for i := first; i < first+n; i++ {
		p.text = load.AppendText(p.text[:0], i)
		status, answer, err := p.conn.Do("POST", p.path, "Content-Type: text/plain\r\n", p.text)
		if err != nil {
			return err
		}
		// 201: to streams that are there; 202: the streams get it in their turn.
		if status != http.StatusCreated && status != http.StatusAccepted {
			return fmt.Errorf("publish: status %d: %s", status, answer)
		}
	}
	return nil
}

func (p *nchanPublisher) close() { p.conn.Close() }
