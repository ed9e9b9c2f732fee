// Dongne's gateway: one URL in front of all services.
//
// Every service that has a folder here answers under /<name>/. Where it runs
// says its variable (CHAT_URL for chat); without one the gateway builds it with
// the Go toolchain, starts it as a child process with a folder of its own under
// DATA_DIR, starts it again when it falls, and ends it when it ends itself.
//
//	PORT         8080            TCP port
//	DATA_DIR     data            every child keeps its data in a folder below, and the gateway its own
//	CHAT_URL                     base URL of a chat that runs elsewhere
//	ROUTES                       JSON file with more routes, and how requests are treated; see the README
//	ADMIN_ADDR   127.0.0.1:8079  where operators reach the admin API; 8080 has it too while it listens on loopback
//	GATEWAY_ID   g1              name of this gateway among its peers
//	PEERS                        g2=http://host:port,… gateways that share kill switches and releases
//	PEER_SECRET                  of 16 bytes or more, shared with them
//	TLS_CERT, TLS_KEY            PEM files; with them the gateway speaks TLS and HTTP/2, and reads them anew when they change
//
// and the variables that every service has; go run . -h lists them all.
package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path"
	"slices"

	"dongne/internal/gateway"
	"dongne/internal/serve"
)

const module = "dongne" // whose services are built

//go:embed openapi.yaml */openapi.yaml
var specs embed.FS

func main() {
	serve.Main("dongne: the gateway to all services; it starts those it is not told of", variables(),
		func(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
			return run(ctx, getenv, stdout, os.Stderr, os.Environ())
		})
}

// services are the names of the folders that hold a service's specification; sorted.
func services() []string {
	files, err := fs.Glob(specs, "*/openapi.yaml")
	if err != nil {
		panic("dongne: " + err.Error())
	}
	for i, file := range files {
		files[i] = path.Dir(file)
	}
	return files
}

func variables() []serve.Var {
	vars := []serve.Var{
		{Name: "PORT", Default: "8080"},
		{Name: "DATA_DIR", Default: "data", Help: "directory of the gateway's own data, below which every service that is started here has one"},
		{Name: "ROUTES", Help: "JSON file with more routes, and how requests are treated; empty: every service, with the defaults"},
		{Name: "ADMIN_ADDR", Default: "127.0.0.1:8079", Help: "host:port of the admin API; the gateway's own port has it too while it listens on loopback; off: nowhere else"},
		{Name: "GATEWAY_ID", Default: "g1", Help: "name of this gateway among its peers"},
		{Name: "PEERS", Help: "g2=http://host:port,… gateways that share kill switches and releases"},
		{Name: "PEER_SECRET", Help: "of 16 bytes or more, shared with the peers"},
		{Name: "TLS_CERT", Help: "PEM file with the certificate and what leads to its root; with TLS_KEY: TLS and HTTP/2"},
		{Name: "TLS_KEY", Help: "PEM file with the certificate's key"},
	}
	for _, name := range services() {
		vars = append(vars, serve.Var{
			Name: gateway.Variable(name),
			Help: "base URL of " + name + "; empty: it is built and started here",
		})
	}
	return vars
}

// run is the gateway. Lines for people go to stderr when everything is up;
// the children get environ, with an address and a folder of their own.
func run(ctx context.Context, getenv func(string) string, stdout, stderr io.Writer, environ []string) error {
	backends, err := locate(getenv)
	if err != nil {
		return err
	}
	root, err := specs.ReadFile("openapi.yaml")
	if err != nil {
		return err
	}
	log, err := serve.NewLogger(getenv, io.Discard) // a bad level stops the start before anything is built
	if err != nil {
		return err
	}
	absent := slices.DeleteFunc(slices.Clone(backends), located)
	dev := gateway.Development{Module: module, Dir: getenv("DATA_DIR"), Environ: environ, Issuer: issuer(getenv), Auth: find(backends, "auth"), Absent: absent,
		Stdout: stdout, Logger: func(w io.Writer) *slog.Logger { log, _ = serve.NewLogger(getenv, w); return log }}
	if err := dev.Prepare(ctx); err != nil {
		return err
	}
	defer dev.Clean()
	if ctx.Err() != nil {
		return nil // asked to end while building
	}
	service, err := gateway.Open(ctx, getenv, root, backends, dev.Own())
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- dev.Supervise(ctx) }()
	go dev.Announce(ctx, stderr, service)
	err = service.Run(ctx)
	stop()
	return errors.Join(err, <-ended)
}

// locate returns all services, those with a variable at its URL.
func locate(getenv func(string) string) ([]*gateway.Backend, error) {
	transport := serve.Transport(gateway.NewTransport())
	var backends []*gateway.Backend
	for _, name := range services() {
		target, err := serve.URL(getenv, gateway.Variable(name))
		if err != nil {
			return nil, err
		}
		spec, err := specs.ReadFile(name + "/openapi.yaml")
		if err != nil {
			return nil, err
		}
		backends = append(backends, gateway.NewBackend(name, spec, target, transport))
	}
	return backends, nil
}

func located(b *gateway.Backend) bool {
	target, _ := b.Where()
	return target != nil
}

func find(backends []*gateway.Backend, name string) *gateway.Backend {
	i := slices.IndexFunc(backends, func(b *gateway.Backend) bool { return b.Name == name })
	if i < 0 {
		panic(fmt.Sprintf("dongne: there is no %s", name))
	}
	return backends[i]
}

// issuer is auth's URL behind this gateway. On a port that is not known yet it names none, but stays the same.
func issuer(getenv func(string) string) string {
	host := getenv("HOST")
	if port := getenv("PORT"); port != "0" {
		host = net.JoinHostPort(host, port)
	}
	if getenv("TLS_CERT") != "" {
		return "https://" + host + "/auth"
	}
	return "http://" + host + "/auth"
}
