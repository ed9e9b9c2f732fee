package serve

import (
	"context"
	"errors"
	"expvar"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"
)

// Run serves a service on HOST:PORT until ctx ends, and returns when the listener is closed and every request has ended,
// so what the handlers use can be closed by a defer in the caller. PORT=0 picks a free port; the log line "listening" has
// the address. The shutdown, in this order: /ready turns 503; no new connections; the streams are told (Draining); the
// requests in flight finish, for at most 15 s. The error says what had to be cut, or why the service could not start.
func Run(ctx context.Context, getenv func(string) string, stdout io.Writer, service Service) error {
	return run(ctx, getenv, stdout, service, defaultLimits)
}

func run(ctx context.Context, getenv func(string) string, stdout io.Writer, service Service, lim limits) error {
	s, err := newServer(getenv, stdout, service, lim)
	if err != nil {
		return err
	}
	defer s.spans.close(context.Background())
	defer s.stop()
	listener, err := net.Listen("tcp", s.config.addr)
	if err != nil {
		return fmt.Errorf("HOST and PORT: %w", err)
	}
	addr := listener.Addr().String()
	if service.Listener != nil {
		if listener, err = service.Listener(listener); err != nil {
			return err
		}
	}
	closeDebug, err := s.listenDebug()
	if err != nil {
		listener.Close()
		return err
	}
	defer closeDebug()

	srv := s.httpServer()
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(listener) }()
	scheme := "http"
	if service.Secure {
		scheme = "https"
	}
	s.log.Info("listening", "addr", addr, "url", scheme+"://"+addr, "name", service.Name)
	select {
	case err = <-failed:
		err = fmt.Errorf("serve: accept: %w", err)
	case <-ctx.Done():
	}
	return errors.Join(err, s.shutdown(srv))
}

// httpServer makes the net/http server. What net/http refuses by itself, before there is a request to hand over, it
// answers in plain text or by closing the connection, and nothing can change that: 400 for a malformed request, 431 for a
// header far over the limit, silence for a header that does not come to its end in time.
func (s *Server) httpServer() *http.Server {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: s.limits.readHeader,
		ReadTimeout:       s.limits.read,
		WriteTimeout:      s.limits.write,
		IdleTimeout:       s.limits.idle,
		MaxHeaderBytes:    2 * s.limits.headerBytes, // up to here the 431 is ours, a problem like any other
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return s.cut },
	}
	unused := unusedConns{conns: map[net.Conn]struct{}{}}
	srv.ConnState = unused.note
	srv.RegisterOnShutdown(func() { // runs when the listener is closed: a stream that ends now comes back to another node
		s.drain()
		unused.close()
	})
	return srv
}

// unusedConns are the connections that have not sent a byte yet, such as those that browsers open ahead of need.
// http.Server.Shutdown would wait 5 s for each.
type unusedConns struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{} // guarded by mu
}

// note is the server's ConnState hook.
func (u *unusedConns) note(c net.Conn, state http.ConnState) {
	if state == http.StateIdle {
		return // it was active before
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if state == http.StateNew {
		u.conns[c] = struct{}{}
	} else {
		delete(u.conns, c)
	}
}

func (u *unusedConns) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for c := range u.conns {
		c.Close()
	}
}

// shutdown ends everything in order. The error says how many requests were cut.
func (s *Server) shutdown(srv *http.Server) error {
	s.stopping.Store(true)
	s.log.Info("draining", "requests", s.requests.inside(), "streams", s.streams.inside())
	if s.ends(srv, s.limits.drain) {
		s.log.Info("stopped")
		return nil
	}
	cut := s.requests.inside() + s.streams.inside() + s.shell.inside()
	s.cutAll()
	if !s.ends(srv, s.limits.cutGrace) { // handlers that heed their context answer 503
		srv.Close()
		s.ends(srv, s.limits.cutGrace)
	}
	if cut == 0 {
		s.log.Info("stopped")
		return nil // connections without a whole request
	}
	s.log.Error("stopped", "cut", cut)
	return fmt.Errorf("serve: %d requests still ran after %v and were cut", cut, s.limits.drain)
}

// ends waits until no connection is active and no handler runs, hijacked ones included; false: not within d.
func (s *Server) ends(srv *http.Server, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return srv.Shutdown(ctx) == nil && s.requests.wait(ctx) && s.streams.wait(ctx) && s.shell.wait(ctx)
}

// listenDebug serves pprof and expvar on DEBUG_ADDR, if set, on a listener of their own. The returned function ends it.
func (s *Server) listenDebug() (func(), error) {
	if s.config.debugAddr == "" {
		return func() {}, nil
	}
	listener, err := net.Listen("tcp", s.config.debugAddr)
	if err != nil {
		return nil, fmt.Errorf("DEBUG_ADDR: %w", err)
	}
	srv := &http.Server{Handler: debugHandler(), ReadHeaderTimeout: s.limits.readHeader}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(listener) // returns when closed
	}()
	s.log.Info("debug listening", "addr", listener.Addr().String())
	return func() { srv.Close(); <-done }, nil
}

// debugHandler is the surface of DEBUG_ADDR, for loopback names only, as refusal has it.
func debugHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index) // no method: go tool pprof posts to symbol
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("GET /debug/vars", expvar.Handler())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLoopbackHost(r.Host) {
			http.Error(w, "loopback names only", http.StatusMisdirectedRequest)
			return
		}
		mux.ServeHTTP(w, r)
	})
}
