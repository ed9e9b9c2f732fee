// Dongne's gateway: one URL in front of all services.
//
// Every service that has a folder here answers under /<name>/. Where it runs
// says its variable (CHAT_URL for chat); without one the gateway builds it with
// the Go toolchain, starts it as a child process with a folder of its own under
// DATA_DIR, starts it again when it falls, and ends it when it ends itself.
//
//	PORT       8080   TCP port
//	DATA_DIR   data   every child keeps its data in a folder below
//	CHAT_URL          base URL of a chat that runs elsewhere
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
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"dongne/internal/gateway"
	"dongne/internal/serve"
)

const (
	module = "dongne" // whose services are built
	// drainMax is a little more than a service gives itself to drain, so that
	// one that is late can still say so.
	drainMax = 17 * time.Second
)

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
		{Name: "DATA_DIR", Default: "data", Help: "directory below which every service that is started here has one of its own"},
	}
	for _, name := range services() {
		vars = append(vars, serve.Var{
			Name: gateway.Variable(name),
			Help: "base URL of " + name + "; empty: it is built and started here",
		})
	}
	return vars
}

// run is the gateway. A line for people goes to stderr when everything is up;
// the children get environ, with an address and a folder of their own.
func run(ctx context.Context, getenv func(string) string, stdout, stderr io.Writer, environ []string) error {
	lines := gateway.NewLines(stdout)
	addr := make(chan string, 1)
	own := gateway.NewRelay(lines, "gateway", "INFO", time.Now, func(a string) { addr <- a })
	backends, err := locate(getenv)
	if err != nil {
		return err
	}
	service, err := describe(backends)
	if err != nil {
		return err
	}
	var supervisors []*gateway.Supervisor
	if absent := slices.DeleteFunc(slices.Clone(backends), located); len(absent) > 0 {
		folder, err := os.MkdirTemp("", "dongne-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(folder)
		supervisors, err = prepare(ctx, getenv, lines, own, folder, environ, absent)
		if ctx.Err() != nil {
			return nil // asked to end while building
		}
		if err != nil {
			return err
		}
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- gateway.Supervise(ctx, supervisors) }()
	go announce(ctx, stderr, addr, backends)
	err = serve.Run(ctx, getenv, own, service)
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

// describe is the gateway as a service: its routes and the combined specification.
func describe(backends []*gateway.Backend) (serve.Service, error) {
	root, err := specs.ReadFile("openapi.yaml")
	if err != nil {
		return serve.Service{}, err
	}
	spec, err := gateway.MergeSpecs(root, backends)
	if err != nil {
		return serve.Service{}, err
	}
	routes := map[string]serve.Handler{"GET /{$}": gateway.Page(backends)}
	for _, b := range backends {
		routes["/"+b.Name+"/"] = b.Proxy
	}
	return serve.Service{
		Name:    "gateway",
		OpenAPI: spec,
		Routes:  routes,
		Ready:   func(ctx context.Context) error { return gateway.Ready(ctx, backends) },
	}, nil
}

func located(b *gateway.Backend) bool {
	target, _ := b.Where()
	return target != nil
}

// prepare builds the services that are absent into folder and returns what will
// run them.
func prepare(ctx context.Context, getenv func(string) string, lines *gateway.Lines, own io.Writer,
	folder string, environ []string, absent []*gateway.Backend) ([]*gateway.Supervisor, error) {
	log, err := serve.NewLogger(getenv, own)
	if err != nil {
		return nil, err
	}
	var names []string
	var supervisors []*gateway.Supervisor
	for _, b := range absent {
		names = append(names, b.Name)
		env := append(environ[:len(environ):len(environ)],
			"HOST=127.0.0.1", "PORT=0", "DEBUG_ADDR=", "DATA_DIR="+filepath.Join(getenv("DATA_DIR"), b.Name))
		supervisors = append(supervisors, &gateway.Supervisor{
			Backend: b,
			Backoff: gateway.NewBackoff(rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))),
			Drain:   drainMax,
			Log:     log,
			Start: func(listening func(addr string)) (gateway.Process, error) {
				return gateway.Exec(filepath.Join(folder, b.Name), env,
					gateway.NewRelay(lines, b.Name, "INFO", time.Now, listening),
					gateway.NewRelay(lines, b.Name, "ERROR", time.Now, nil))
			},
		})
	}
	log.Info("building", "services", names)
	return supervisors, gateway.Build(ctx, module, folder, names)
}

// announce says to people where to go, once everything is up.
func announce(ctx context.Context, stderr io.Writer, addr <-chan string, backends []*gateway.Backend) {
	select {
	case a := <-addr:
		if gateway.AwaitReady(ctx, backends) == nil {
			fmt.Fprintf(stderr, "\ndongne is up: http://%s (Ctrl-C ends it)\n\n", a)
		}
	case <-ctx.Done():
	}
}
