package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"dongne/internal/gateway/breaker"
	"dongne/internal/gateway/control"
	"dongne/internal/gateway/shadow"
	"dongne/internal/serve"
)

const (
	statusEvery  = time.Second
	statusWithin = 10 * time.Second // a write of it, or the client is taken for gone
	probeEvery   = statusEvery / 2  // that services are asked, however many look at the status
)

// RouteStatus is how a route fares. Without an operator's token it is its name and whether it is up.
type RouteStatus struct {
	Name  string `json:"name"`
	Title string `json:"title,omitempty"`
	Up    bool   `json:"up"`
	Why   string `json:"why,omitempty"` // it is not

	Mode      control.Mode              `json:"mode,omitempty"` // of the switch, now
	Switch    *control.Switch           `json:"switch,omitempty"`
	Canary    *control.Canary           `json:"canary,omitempty"`
	Strangler *control.Strangler        `json:"strangler,omitempty"`
	Stats     *Snapshot                 `json:"stats,omitempty"`
	Breakers  map[string]string         `json:"breakers,omitempty"` // by upstream: those that are not closed, or were not
	Shadow    map[string]uint64         `json:"shadow,omitempty"`   // comparisons by outcome
	Examples  []shadow.Example          `json:"examples,omitempty"`
	Stamps    map[string]string         `json:"stamps,omitempty"` // what If-Match of a change may say
	Sides     map[string]control.Counts `json:"sides,omitempty"`  // of a canary release, of late
}

// Status is GET /status: how all routes fare; everything with an operator's token, and without one no more than what is
// up. With Accept: text/event-stream it is a stream, which tells again each second and whenever an operator changes something.
func (a *Admin) Status(w http.ResponseWriter, r *http.Request) error {
	operator := false
	if len(r.Header["Authorization"]) > 0 {
		caller, err := serve.Caller(r)
		operator = err == nil && caller.May(AdminScope)
	}
	if !strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		return serve.List(w, a.status(r.Context(), operator), "")
	}
	if err := serve.Stream(r); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	rc := http.NewResponseController(w)
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	draining := serve.Draining(r.Context())
	for {
		changed := a.control.Changed()
		rc.SetWriteDeadline(time.Now().Add(statusWithin)) // an error means a connection of a test, without time-outs
		if _, err := fmt.Fprintf(w, "event: status\ndata: %s\n\n", encode(a.status(r.Context(), operator))); err != nil {
			return err
		}
		if err := rc.Flush(); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-draining:
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
}

// status is how all routes fare, with every service asked whether it is ready.
func (a *Admin) status(ctx context.Context, operator bool) []RouteStatus {
	now, table, ready := a.front.Now(), a.front.Control(), a.prober.look(ctx)
	all := make([]RouteStatus, len(a.front.lanes))
	for i, l := range a.front.lanes {
		s := RouteStatus{Name: l.Name, Up: true}
		if l.Backend != nil {
			s.Title = title(l.Backend.Spec)
		}
		if err := ready[i]; err != nil {
			s.Up, s.Why = false, err.Error()
			if cause := errors.Unwrap(err); cause != nil && operator {
				s.Why += ": " + cause.Error()
			}
		}
		if operator {
			l.describe(&s, table.Route(l.Name), now)
			if primary, candidate, ok := a.control.Outcomes(l.Name); ok {
				s.Sides = map[string]control.Counts{"primary": primary, "candidate": candidate}
			}
		}
		all[i] = s
	}
	return all
}

// describe says of a route what operators may know.
func (l *Lane) describe(s *RouteStatus, set *control.Route, now time.Time) {
	stats := l.stats.snapshot()
	s.Mode, s.Stats = set.Switch.At(now), &stats
	s.Switch, s.Canary = &set.Switch, &set.Canary
	if set.Strangler.Legacy != "" {
		s.Strangler = &set.Strangler
	}
	s.Stamps = map[string]string{"switch": set.SwitchStamp.String(), "canary": set.CanaryStamp.String(), "strangler": set.StranglerStamp.String()}
	s.Breakers = map[string]string{}
	l.mu.Lock()
	for name, b := range l.breakers {
		if state := b.State(now); state.Mode != breaker.Closed || state.Trips > 0 {
			s.Breakers[name] = state.Mode.String()
		}
	}
	l.mu.Unlock()
	for _, o := range shadow.Outcomes() {
		if n := l.shadow.Count(o); n > 0 {
			if s.Shadow == nil {
				s.Shadow = map[string]uint64{}
			}
			s.Shadow[o.String()] = n
		}
	}
	s.Examples = l.shadow.Examples()
}

// A prober asks the services of all lanes whether they are ready, seldom and for everybody who wants to know.
type prober struct {
	lanes []*Lane
	now   func() time.Time

	mu    sync.Mutex
	at    time.Time     // of the last answers; guarded by mu
	ready []error       // by lane; guarded by mu
	under chan struct{} // closed when the probe under way has ended, nil if none is; guarded by mu
}

// look returns why each lane's service is not ready; nil: it is, or the lane has none of ours.
func (p *prober) look(ctx context.Context) []error {
	p.mu.Lock()
	if p.under == nil && (p.ready == nil || p.now().Sub(p.at) >= probeEvery) {
		p.under = make(chan struct{})
		go p.probe(context.WithoutCancel(ctx), p.under)
	}
	under := p.under
	p.mu.Unlock()
	if under != nil {
		<-under // not for long: probeTimeout
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ready
}

func (p *prober) probe(ctx context.Context, under chan struct{}) {
	ready := make([]error, len(p.lanes))
	var wg sync.WaitGroup
	for i, l := range p.lanes {
		if l.Backend != nil {
			wg.Go(func() { ready[i] = l.Backend.Ready(ctx) })
		}
	}
	wg.Wait()
	p.mu.Lock()
	p.ready, p.at, p.under = ready, p.now(), nil
	p.mu.Unlock()
	close(under)
}

// encode is JSON that always encodes.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("gateway: " + err.Error())
	}
	return b
}
