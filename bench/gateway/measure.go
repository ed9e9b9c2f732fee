package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"dongne/bench/authserver"
	"dongne/bench/load"
	"dongne/bench/proc"
)

const (
	path     = "/chat/rooms" // that is asked for; the service sees it without its first segment
	warmTime = time.Second
)

// A result is what one measurement found.
type result struct {
	wrk
	proxyCPU float64 // nanoseconds of a request, of the proxy's processes
	authCPU  float64 // of auth
	noise    float64 // cores that other programs used: wrk, the service, and what else runs
}

// cpu is what a request costs in all, in nanoseconds.
func (r result) cpu() float64 { return r.proxyCPU + r.authCPU }

// measure starts a system, checks what it lets pass, and loads it.
func measure(ctx context.Context, sys system, auth *authserver.Server, service *upstream, o options) (r result, err error) {
	dir, err := os.MkdirTemp("", "dongne-bench-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	s, err := sys.start(ctx, dir, behind{service.addr(), auth.Addr})
	if err != nil {
		logged, _ := os.ReadFile(filepath.Join(dir, "error.log"))
		return r, errors.Join(err, errors.New(string(logged)))
	}
	defer s.process.Stop()
	pair, err := auth.LogIn(ctx, 0)
	if err != nil {
		return r, err
	}
	if err := check(ctx, sys, s, pair); err != nil {
		return r, err
	}
	header := ""
	if sys.name != oursNobody {
		header = strings.TrimSpace(pair.Bearer())
	}
	url := "http://" + s.addr + path
	if _, err := runWrk(ctx, url, header, o.connections, warmTime); err != nil {
		return r, err
	}
	saved := o.saveProfile(ctx, s, sys.name)
	if r, err = loaded(ctx, s, auth, url, header, o); err != nil {
		return r, err
	}
	return r, errors.Join(<-saved, check(ctx, sys, s, pair))
}

// loaded is the measurement itself.
func loaded(ctx context.Context, s *server, auth *authserver.Server, url, header string, o options) (r result, err error) {
	proxyBefore, err1 := s.process.CPU()
	authBefore, err2 := auth.Process.CPU()
	busyBefore, err3 := proc.Busy()
	if err := errors.Join(err1, err2, err3); err != nil {
		return r, err
	}
	if r.wrk, err = runWrk(ctx, url, header, o.connections, o.duration()); err != nil {
		return r, err
	}
	proxyAfter, err1 := s.process.CPU()
	authAfter, err2 := auth.Process.CPU()
	busyAfter, err3 := proc.Busy()
	requests := float64(r.requests)
	r.proxyCPU = float64(proxyAfter-proxyBefore) / requests
	r.authCPU = float64(authAfter-authBefore) / requests
	r.noise = float64(busyAfter-busyBefore-(proxyAfter-proxyBefore)-(authAfter-authBefore)) / float64(r.took)
	return r, errors.Join(err1, err2, err3)
}

// check says whether a system does its work: it passes requests on without the prefix, lets nobody in without a token if
// it authenticates, and tells the service who it is.
func check(ctx context.Context, sys system, s *server, pair authserver.Pair) error {
	conn, err := load.DialHTTP(ctx, s.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	status, head, err := conn.Do("GET", "/chat"+echoPath, pair.Bearer(), nil)
	if err != nil || status != http.StatusOK || !strings.HasPrefix(string(head), "GET "+echoPath+" ") {
		return fmt.Errorf("a request with a token: status %d, the service got %q, %w", status, head, err)
	}
	if sys.authenticates && !strings.Contains(string(head), "X-Auth-Request-User: user") {
		return fmt.Errorf("the service is not told who calls: %q", head)
	}
	if !sys.authenticates {
		return nil
	}
	for _, headers := range []string{"", "X-Auth-Request-User: user1\r\n", "Authorization: Bearer " + pair.Access[:len(pair.Access)-4] + "AAAA\r\n"} {
		status, head, err = conn.Do("GET", "/chat"+echoPath, headers, nil)
		if err != nil {
			return err
		}
		if status != http.StatusUnauthorized {
			return fmt.Errorf("a request with %q is answered %d: %q", headers, status, head)
		}
	}
	return nil
}

// saveProfile begins to write the CPU profile of a measurement's time to the folder of profiles, if there is one and the
// system gives one.
func (o options) saveProfile(ctx context.Context, s *server, name string) <-chan error {
	saved := make(chan error, 1)
	if o.profile == "" || s.debug == "" {
		saved <- nil
		return saved
	}
	go func() {
		profile, err := load.Get(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", s.debug, max(1, int(o.seconds))))
		if err == nil {
			file := strings.NewReplacer(" ", "-", ",", "", "+", "").Replace(name) + ".pprof"
			err = os.WriteFile(filepath.Join(o.profile, file), profile, 0o600)
		}
		if err != nil {
			err = fmt.Errorf("profile: %w", err)
		}
		saved <- err
	}()
	return saved
}
