package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"dongne/bench/load"
	"dongne/bench/proc"
)

// behind is what stands behind every proxy.
type behind struct {
	upstream, auth string // host:port
}

// system is a proxy to measure. start runs it in dir, where it writes its access log.
type system struct {
	name          string
	ours          bool
	authenticates bool
	askAuth       bool // it asks auth for every request
	start         func(ctx context.Context, dir string, b behind) (*server, error)
}

// server is a running proxy.
type server struct {
	addr    string
	process *proc.Process
	debug   string // address of net/http/pprof; empty: none
}

// systems are all that can be measured here, ours first.
type systems struct {
	all    []system
	absent map[string]string // name → how to get it
	auth   string            // its program
}

const (
	ours       = "ours"
	nginxBare  = "nginx, bare"
	nginxAuth  = "nginx + auth_request"
	caddyBare  = "caddy, bare"
	caddyAuth  = "caddy + forward_auth"
	oursNobody = "ours, without a token"
	stock      = "httputil.ReverseProxy, bare"
)

// findSystems builds ours and looks for what is installed: wrk and ours must be there.
func findSystems(ctx context.Context, dir string) (systems, error) {
	s := systems{absent: map[string]string{}}
	if _, err := exec.LookPath("wrk"); err != nil {
		return s, fmt.Errorf("apt-get install wrk: %w", err)
	}
	gateway, err := proc.Build(ctx, dir, "dongne")
	if err != nil {
		return s, err
	}
	if s.auth, err = proc.Build(ctx, dir, "dongne/auth"); err != nil {
		return s, err
	}
	s.all = []system{
		{name: ours, ours: true, authenticates: true, start: startOurs(gateway, "required")},
		{name: oursNobody, ours: true, start: startOurs(gateway, "optional")},
		{name: stock, start: startStock},
		{name: nginxBare, start: startNginx(false)},
		{name: nginxAuth, authenticates: true, askAuth: true, start: startNginx(true)},
		{name: caddyBare, start: startCaddy(false)},
		{name: caddyAuth, authenticates: true, askAuth: true, start: startCaddy(true)},
	}
	for _, name := range []string{"nginx", "caddy"} {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		for _, sys := range s.all {
			if strings.HasPrefix(sys.name, name) {
				s.absent[sys.name] = "absent: apt-get install " + name
			}
		}
	}
	return s, nil
}

// logging runs a program whose standard output is a file, as an access log is.
func logging(env []string, file, program string, args ...string) (*proc.Process, error) {
	return proc.Start(env, "sh", append([]string{"-c", `log=$1; shift; exec "$@" >>"$log"`, "sh", file, program}, args...)...)
}

// startOurs starts the gateway as it comes, but for the rates, which count every request and are never reached; who says
// whether the route needs a token.
func startOurs(program, who string) func(context.Context, string, behind) (*server, error) {
	return func(ctx context.Context, dir string, b behind) (*server, error) {
		addrs, ports, err := proc.FreeAddrs(2)
		if err != nil {
			return nil, err
		}
		rates := []map[string]any{
			{"by": "address", "requests": 1_000_000, "window": "1s"},
			{"by": "subject", "requests": 1_000_000, "window": "1s"},
		}
		config, err := json.Marshal(map[string]any{"defaults": map[string]any{"rates": rates, "auth": who}})
		if err != nil {
			return nil, err
		}
		routes := filepath.Join(dir, "routes.json")
		if err := os.WriteFile(routes, config, 0o600); err != nil {
			return nil, err
		}
		env := []string{"HOST=127.0.0.1", "PORT=" + ports[0], "DEBUG_ADDR=" + addrs[1], "ADMIN_ADDR=off", "LOG_LEVEL=info", "LOGS_URL=", "PEERS=",
			"OTEL_EXPORTER_OTLP_ENDPOINT=", "TLS_CERT=", "TLS_KEY=", "DATA_DIR=" + dir, "ROUTES=" + routes, "AUTH_URL=http://" + b.auth}
		for _, name := range []string{"CHAT", "GEO", "SEARCH", "PAY", "LOGS"} {
			env = append(env, name+"_URL=http://"+b.upstream)
		}
		p, err := logging(env, filepath.Join(dir, "access.log"), program)
		if err != nil {
			return nil, err
		}
		s := &server{addr: addrs[0], process: p, debug: addrs[1]}
		err = p.Await(ctx, func() error { _, err := load.Get(ctx, "http://"+s.addr+"/ready"); return err })
		return s, stopOn(err, p)
	}
}

// stopOn stops p if there is an error, and returns it.
func stopOn(err error, p *proc.Process) error {
	if err != nil {
		p.Stop()
	}
	return err
}

// nginxConfig wants: folder, address, upstream, auth, and the line that asks auth. It is what auth/forward documents, with
// connections that are kept, and what a gateway says to its services.
const nginxConfig = `daemon off;
user root;
worker_processes auto;
worker_rlimit_nofile 20000;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log warn;
events { worker_connections 4096; }
http {
	access_log %[1]s/access.log combined;
	keepalive_requests 1000000000;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	upstream service { server %[3]s; keepalive 256; keepalive_requests 1000000000; }
	upstream auth { server %[4]s; keepalive 256; keepalive_requests 1000000000; }
	server {
		listen %[2]s backlog=4096;
		location /chat/ {
			%[5]s
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $host;
			proxy_set_header X-Forwarded-For $remote_addr;
			proxy_set_header X-Forwarded-Proto $scheme;
			proxy_pass http://service/;
		}
		location = /_auth {
			internal;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_pass http://auth/authz/auth-request;
			proxy_pass_request_body off;
			proxy_set_header Content-Length "";
			proxy_set_header X-Original-Method $request_method;
			proxy_set_header X-Original-URL $scheme://$host$request_uri;
			proxy_set_header X-Real-IP $remote_addr;
		}
	}
}
`

const nginxAsks = `auth_request /_auth;
			auth_request_set $auth_user $upstream_http_x_auth_request_user;
			proxy_set_header X-Auth-Request-User $auth_user;`

func startNginx(asks bool) func(context.Context, string, behind) (*server, error) {
	return func(ctx context.Context, dir string, b behind) (*server, error) {
		addr, err := proc.FreeAddr()
		if err != nil {
			return nil, err
		}
		ask := ""
		if asks {
			ask = nginxAsks
		}
		file := filepath.Join(dir, "nginx.conf")
		if err := os.WriteFile(file, fmt.Appendf(nil, nginxConfig, dir, addr, b.upstream, b.auth, ask), 0o600); err != nil {
			return nil, err
		}
		p, err := proc.Start(nil, "nginx", "-p", dir, "-c", file, "-e", filepath.Join(dir, "error.log"))
		if err != nil {
			return nil, err
		}
		return &server{addr: addr, process: p}, stopOn(p.AwaitTCP(ctx, addr), p)
	}
}

// caddyConfig wants: address, folder, the lines that ask auth, upstream.
const caddyConfig = `{
	admin off
	auto_https off
}
http://%[1]s {
	log {
		output file %[2]s/access.log {
			roll_disabled
		}
	}
	route /chat/* {
%[3]s		uri strip_prefix /chat
		reverse_proxy %[4]s {
			transport http {
				keepalive_idle_conns_per_host 256
			}
		}
	}
}
`

// caddyAsks wants: auth.
const caddyAsks = `		request_header -X-Auth-Request-*
		forward_auth %s {
			uri /authz/caddy
			copy_headers X-Auth-Request-User X-Auth-Request-Email X-Auth-Request-Groups
			transport http {
				keepalive_idle_conns_per_host 256
			}
		}
`

func startCaddy(asks bool) func(context.Context, string, behind) (*server, error) {
	return func(ctx context.Context, dir string, b behind) (*server, error) {
		addr, err := proc.FreeAddr()
		if err != nil {
			return nil, err
		}
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		ask := ""
		if asks {
			ask = fmt.Sprintf(caddyAsks, b.auth)
		}
		file := filepath.Join(dir, "Caddyfile")
		config := fmt.Appendf(nil, caddyConfig, "127.0.0.1:"+port, dir, ask, b.upstream)
		if err := os.WriteFile(file, config, 0o600); err != nil {
			return nil, err
		}
		home := []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
		p, err := proc.Start(home, "caddy", "run", "--config", file, "--adapter", "caddyfile")
		if err != nil {
			return nil, err
		}
		return &server{addr: addr, process: p}, stopOn(p.AwaitTCP(ctx, addr), p)
	}
}
