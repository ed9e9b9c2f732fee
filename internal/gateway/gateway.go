// Package gateway is the engine of the gateway: the way of requests to the services, what operators set on it, log-ins of
// browsers, and in development the services themselves, built and run.
package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"dongne/internal/gateway/control"
	"dongne/internal/gateway/edge"
	"dongne/internal/peer"
	"dongne/internal/serve"
	"dongne/internal/verify"
)

const syncedMax = 2 * time.Second // that a gateway waits for its peers before it takes requests

// A Gateway is ready to run.
type Gateway struct {
	Service serve.Service

	getenv   func(string) string
	out      io.Writer
	control  *control.Node
	front    *Front
	verifier *verify.Verifier
	admin    serve.Service
	stop     context.CancelFunc
	tls      *tls.Config
}

// Open makes a gateway of its environment. root is its own specification; out is where its log goes.
func Open(ctx context.Context, getenv func(string) string, root []byte, backends []*Backend, out io.Writer) (*Gateway, error) {
	g := &Gateway{getenv: getenv, out: out}
	logger, err := serve.NewLogger(getenv, out)
	if err != nil {
		return nil, err
	}
	if g.tls, err = tlsConfig(getenv, logger); err != nil {
		return nil, err
	}
	names, byName := []string{}, map[string]*Backend{}
	for _, b := range backends {
		names, byName[b.Name] = append(names, b.Name), b
	}
	routes, err := ReadRoutes(getenv("ROUTES"), names)
	if err != nil {
		return nil, fmt.Errorf("ROUTES: %w", err)
	}
	if g.control, err = openControl(ctx, getenv, routes, logger); err != nil {
		return nil, err
	}
	ctx, g.stop = context.WithCancel(context.WithoutCancel(ctx))
	auth := byName["auth"]
	g.verifier = verify.Start(ctx, verify.HTTP(&url.URL{Scheme: "http", Host: "auth"}, auth.To()), verify.Options{Audience: serve.Audience})
	sessions := &Sessions{Verify: g.verifier.Verify, Auth: func() *url.URL { u, _ := auth.Where(); return u }, Transport: auth.transport,
		Secure: g.tls != nil, Now: time.Now}
	if g.front, err = NewFront(ctx, routes, byName, g.control.Table, sessions, time.Now); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	if err := g.describe(root, backends, sessions); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

func tlsConfig(getenv func(string) string, logger *slog.Logger) (*tls.Config, error) {
	cert, key := getenv("TLS_CERT"), getenv("TLS_KEY")
	if cert == "" && key == "" {
		return nil, nil
	}
	if cert == "" || key == "" {
		return nil, errors.New("TLS_CERT and TLS_KEY: one without the other")
	}
	c, err := edge.LoadCertificate(cert, key, func(err error) { logger.Error("certificate not read anew", "error", err) }, time.Now)
	if err != nil {
		return nil, fmt.Errorf("TLS_CERT and TLS_KEY: %w", err)
	}
	return &tls.Config{GetCertificate: c.Get, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}, nil
}

func openControl(ctx context.Context, getenv func(string) string, routes []Route, logger *slog.Logger) (*control.Node, error) {
	self := getenv("GATEWAY_ID")
	peers, err := peer.Parse(getenv("PEERS"), self)
	if err != nil {
		return nil, fmt.Errorf("PEERS: %w", err)
	}
	options := control.Options{Dir: filepath.Join(getenv("DATA_DIR"), "gateway"), Self: self, Peers: peers, Secret: []byte(getenv("PEER_SECRET")),
		Now: time.Now, Rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())), Client: &http.Client{Transport: NewTransport()}, Logger: logger}
	for _, r := range routes {
		options.Routes = append(options.Routes, r.Name)
	}
	n, err := control.Open(ctx, options)
	if err != nil {
		return nil, err
	}
	if len(peers) > 0 { // one that comes with an empty disk must not forget what is switched off
		select {
		case <-n.Synced():
		case <-time.After(syncedMax):
			logger.Warn("not every peer answered; going on with what is known here", "waited", syncedMax.String())
		case <-ctx.Done():
		}
	}
	return n, nil
}

// describe makes the services: the gateway's own, and that of ADMIN_ADDR.
func (g *Gateway) describe(root []byte, backends []*Backend, sessions *Sessions) error {
	spec, err := MergeSpecs(root, backends)
	if err != nil {
		return err
	}
	admin := &Admin{Front: g.front, Control: g.control}
	routes := map[string]serve.Handler{
		"GET /{$}":             Page(),
		"GET /status":          admin.Status,
		"POST /login":          sessions.LogIn,
		"POST /logout":         sessions.LogOut,
		"POST /gateway/gossip": g.gossip,
	}
	operated := map[string]serve.Handler{"GET /{$}": Page(), "GET /status": admin.Status, "POST /login": sessions.LogIn, "POST /logout": sessions.LogOut}
	for pattern, handler := range admin.Routes() {
		operated[pattern] = handler
		if serve.IsLoopback(g.getenv("HOST")) {
			routes[pattern] = handler
		}
	}
	for _, lane := range g.front.Lanes() {
		routes["/"+lane.Name+"/"] = lane.Handler
	}
	g.Service = serve.Service{
		Name:     "gateway",
		OpenAPI:  spec,
		Routes:   routes,
		Refusals: Refusals,
		Guard:    g.front.Guard,
		Verifier: g.verifier,
		Listener: g.listener,
		Secure:   g.tls != nil,
		Metrics:  func(w io.Writer) { g.front.Metrics(w); g.control.Metrics(w) },
		Ready:    func(ctx context.Context) error { return Ready(ctx, backends) },
	}
	g.admin = g.Service
	g.admin.Name, g.admin.Routes = "gateway-admin", operated
	return nil
}

// Scheme is http or https.
func (g *Gateway) Scheme() string {
	if g.tls != nil {
		return "https"
	}
	return "http"
}

// listener puts the scanner of requests, and TLS if there is any, between the network and net/http.
func (g *Gateway) listener(l net.Listener) (net.Listener, error) {
	if g.tls != nil {
		return edge.TLSListener(l, g.tls, edge.TLSOptions{}), nil
	}
	return edge.Listener(l, edge.Options{}), nil
}

// gossip is what another gateway has to say.
func (g *Gateway) gossip(w http.ResponseWriter, r *http.Request) error {
	serve.LimitBody(r, control.MessageBytesMax)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	err = g.control.Receive(r.Context(), r.Header, body)
	if errors.Is(err, peer.ErrSignature) {
		return serve.Problem(http.StatusUnauthorized, "signature-wrong", "this is for the gateway's peers")
	}
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

// Run serves until ctx ends.
func (g *Gateway) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	addr := g.getenv("ADMIN_ADDR")
	if addr == "off" {
		return errors.Join(serve.Run(ctx, g.getenv, g.out, g.Service), g.Close())
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return errors.Join(fmt.Errorf("ADMIN_ADDR=%q: want host:port, or off", addr), g.Close())
	}
	admin := func(name string) string {
		switch name {
		case "HOST":
			return host
		case "PORT":
			return port
		case "DEBUG_ADDR":
			return ""
		}
		return g.getenv(name)
	}
	ended := make(chan error, 1)
	go func() {
		err := serve.Run(ctx, admin, quietly{g.out}, g.admin)
		if err != nil {
			err = fmt.Errorf("ADMIN_ADDR: %w", err)
		}
		cancel()
		ended <- err
	}()
	err = serve.Run(ctx, g.getenv, g.out, g.Service)
	cancel()
	return errors.Join(err, <-ended, g.Close())
}

// quietly renames the line by which a service says where it listens: who waits for the gateway's waits for the other one.
type quietly struct{ io.Writer }

// Write implements io.Writer, for one line.
func (q quietly) Write(p []byte) (int, error) {
	_, err := q.Writer.Write(bytes.Replace(p, []byte(`"msg":"listening"`), []byte(`"msg":"admin listening"`), 1))
	return len(p), err
}

// Close ends what Open began.
func (g *Gateway) Close() error {
	if g.front != nil {
		g.front.Close()
	}
	if g.stop != nil {
		g.stop()
	}
	if g.verifier != nil {
		g.verifier.Close()
	}
	return g.control.Close()
}
