package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// probeTimeout bounds the question whether a service is ready.
const probeTimeout = time.Second

// A State says how a service fares, in a word that the start page shows.
type State string

// The states of a service. One that the gateway did not start is always Up
// here: only its answers tell.
const (
	Starting   State = "starting"   // its program runs, its address is not known yet
	Up         State = "up"         // it has an address
	Restarting State = "restarting" // its program ended and will be started again
	Stopped    State = "stopped"    // ended with the gateway
)

// A Backend is a service behind the gateway: where it is now, if anywhere.
type Backend struct {
	Name string // "chat": the first segment of its paths
	Spec []byte // its openapi.yaml

	supervised bool // it is a program that was started here
	transport  http.RoundTripper
	short      atomic.Int64 // requests under way whose answer is not a stream

	mu     sync.Mutex
	target *url.URL // guarded by mu; nil while the service has no address
	state  State    // guarded by mu
}

// NewBackend returns the service at target, or, when target is nil, one that a
// Supervisor will start. Requests to it go through transport.
func NewBackend(name string, spec []byte, target *url.URL, transport http.RoundTripper) *Backend {
	state := Up
	if target == nil {
		state = Starting
	}
	return &Backend{Name: name, Spec: spec, supervised: target == nil, transport: transport, target: target, state: state}
}

// Where returns the service's address, nil while it has none, and its state.
func (b *Backend) Where() (*url.URL, State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.target, b.state
}

func (b *Backend) move(target *url.URL, state State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.target, b.state = target, state
}

// listening notes that the service's program serves on addr ("127.0.0.1:41234").
func (b *Backend) listening(addr string) { b.move(&url.URL{Scheme: "http", Host: addr}, Up) }

// away notes that the service's program has ended.
func (b *Backend) away(state State) { b.move(nil, state) }

// away is why a service is not ready: what everybody may know, and the cause.
type away struct {
	what  string
	cause error
}

// Error is what everybody may know: no addresses.
func (a *away) Error() string { return a.what }

// Unwrap returns the cause.
func (a *away) Unwrap() error { return a.cause }

// Ready asks the service's /ready; the error says why it is not, in words that everybody may read.
func (b *Backend) Ready(ctx context.Context) error {
	target, state := b.Where()
	if target == nil {
		return fmt.Errorf("%s is %s", b.Name, state)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.JoinPath("ready").String(), nil)
	if err != nil {
		return &away{b.Name + " has no address that makes sense", err}
	}
	answer, err := b.transport.RoundTrip(req)
	if err != nil {
		return &away{b.Name + " does not answer", err}
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 4<<10)) // so that the connection can be used again
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s is not ready: %s", b.Name, answer.Status)
	}
	return nil
}

// Ready asks all services at once and returns the first reason, in their
// order, why one is not ready.
func Ready(ctx context.Context, backends []*Backend) error {
	for _, err := range probe(ctx, backends) {
		if err != nil {
			return err
		}
	}
	return nil
}

// probe returns the answer of each service's Ready.
func probe(ctx context.Context, backends []*Backend) []error {
	errs := make([]error, len(backends))
	var wg sync.WaitGroup
	for i, b := range backends {
		wg.Go(func() { errs[i] = b.Ready(ctx) })
	}
	wg.Wait()
	return errs
}
