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
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"dongne/internal/edge"
	"dongne/internal/gateway/control"
	"dongne/internal/peer"
	"dongne/internal/serve"
	"dongne/internal/verify"
)

const gossipPattern = "POST /gossip" // where package peer sends

const syncedMax = 2 * time.Second // that a gateway waits for its peers before it lets requests pass

// A Gateway is ready to run.
type Gateway struct {
	Service serve.Service

	backends []*Backend
	getenv   func(string) string
	out      io.Writer
	control  *control.Node
	front    *Front
	known    chan struct{} // closed when the control is what it was before the start
	verifier *verify.Verifier
	admin    serve.Service
	stop     context.CancelFunc
	tls      *tls.Config
}

// Open makes a gateway of its environment. root is its own specification; out is where its log goes.
func Open(ctx context.Context, getenv func(string) string, root []byte, backends []*Backend, out io.Writer) (*Gateway, error) {
	g := &Gateway{known: make(chan struct{}), backends: backends, getenv: getenv, out: out}
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
	source := verify.HTTP(&url.URL{Scheme: "http", Host: "auth"}, auth.To())
	g.verifier = verify.Start(ctx, source, verify.Options{Audience: serve.Audience})
	where := func() *url.URL { u, _ := auth.Where(); return u }
	sessions := &Sessions{Verify: g.verifier.Verify, Auth: where, Transport: auth.transport, Now: time.Now}
	go g.catchUp(ctx, getenv("PEERS") != "", logger)
	g.front, err = NewFront(ctx, FrontOptions{Routes: routes, Backends: byName, Control: g.control.Table, Known: g.known,
		Sessions: sessions, Now: time.Now})
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	if err := g.describe(root, sessions); err != nil {
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
	options := control.Options{
		Dir: filepath.Join(getenv("DATA_DIR"), "gateway"), Self: self, Peers: peers, Secret: []byte(getenv("PEER_SECRET")),
		Now: time.Now, Rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())), Client: &http.Client{Transport: NewTransport()},
		Logger: logger,
	}
	for _, r := range routes {
		options.Routes = append(options.Routes, r.Name)
	}
	return control.Open(ctx, options)
}

// catchUp lets requests pass when the peers have told what they know: a gateway that comes with an empty disk must not forget
// what is switched off. They are not waited for for ever, as they may be away.
func (g *Gateway) catchUp(ctx context.Context, peers bool, logger *slog.Logger) {
	defer close(g.known)
	if !peers {
		return
	}
	late := time.NewTimer(syncedMax)
	defer late.Stop()
	select {
	case <-g.control.Synced():
	case <-late.C:
		logger.Warn("not every peer answered; going on with what is known here", "waited", syncedMax.String())
	case <-ctx.Done():
	}
}

// describe makes the services: the gateway's own, and that of ADMIN_ADDR.
func (g *Gateway) describe(root []byte, sessions *Sessions) error {
	spec, err := MergeSpecs(root, g.backends)
	if err != nil {
		return err
	}
	admin := NewAdmin(g.front, g.control)
	operated := map[string]serve.Handler{
		"GET /{$}":     Page(),
		"GET /status":  admin.Status,
		"POST /login":  sessions.LogIn,
		"POST /logout": sessions.LogOut,
	}
	routes := maps.Clone(operated)
	routes[gossipPattern] = g.gossip
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
		Verifier: publicly{g.verifier},
		Listener: g.listener,
		Secure:   g.tls != nil,
		Metrics:  func(w io.Writer) { g.front.Metrics(w); g.control.Metrics(w) },
		Ready:    g.Ready,
	}
	g.Service.Quiet = []string{gossipPattern}
	g.admin = g.Service
	g.admin.Quiet = nil
	g.admin.Name, g.admin.Routes = "gateway-admin", operated
	return nil
}

// Ready says why requests should not come yet: the peers have not said what is set, tokens cannot be verified, or a service is
// not ready.
func (g *Gateway) Ready(ctx context.Context) error {
	select {
	case <-g.known:
	default:
		return errors.New("the other gateways have not said what is set")
	}
	return errors.Join(publicly{g.verifier}.Ready(), Ready(ctx, g.backends))
}

// publicly is a verifier whose Ready everybody may read: it names no address.
type publicly struct{ *verify.Verifier }

// Ready implements serve.Verifier.
func (p publicly) Ready() error {
	if p.Verifier.Ready() != nil {
		return errors.New("auth has not said yet how to verify tokens")
	}
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
