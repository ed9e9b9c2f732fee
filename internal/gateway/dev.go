package gateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Login is one that the gateway makes for development.
type Login struct {
	Login    string   `json:"login"`
	Password string   `json:"password"`
	Name     string   `json:"name"`
	Groups   []string `json:"groups"`
}

// DevLogins returns the users that auth is to have in development: an administrator and two neighbours, whose passwords are
// made once and kept in dir.
func DevLogins(dir string) ([]Login, error) {
	path := filepath.Join(dir, "development-logins.json")
	data, err := os.ReadFile(path)
	if err == nil {
		var all []Login
		if err := json.Unmarshal(data, &all); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return all, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	all := []Login{
		{"admin", newPassword(), "", []string{"admin", "pay:write"}},
		{"minji", newPassword(), "민지", []string{}},
		{"junho", newPassword(), "준호", []string{}},
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(path+".new", encode(all), 0o600); err != nil { // half a file would be of no use
		return nil, err
	}
	return all, os.Rename(path+".new", path)
}

// newPassword is 80 random bits, in groups that can be typed.
func newPassword() string {
	var b [10]byte
	rand.Read(b[:]) // never fails
	text := strings.ToLower(base32.HexEncoding.EncodeToString(b[:]))
	return text[:4] + "-" + text[4:8] + "-" + text[8:12] + "-" + text[12:]
}

// Await waits until a service has an address, and returns its URL; "" when ctx ends before.
func (b *Backend) Await(ctx context.Context) string {
	for {
		if target, _ := b.Where(); target != nil {
			return target.String()
		}
		select {
		case <-time.After(readyTick):
		case <-ctx.Done():
			return ""
		}
	}
}

// A Port keeps a program on one TCP port: the one that it was given first.
type Port struct {
	mu   sync.Mutex
	port string // guarded by mu
}

// Get returns the port to listen on: "0" at first.
func (p *Port) Get() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.port == "" {
		return "0"
	}
	return p.port
}

// Set remembers the port of "host:port".
func (p *Port) Set(addr string) {
	if _, port, err := net.SplitHostPort(addr); err == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.port = port
	}
}

// To is a transport to a service wherever it is now, whatever host a request names.
func (b *Backend) To() http.RoundTripper { return to{b} }

type to struct{ backend *Backend }

// RoundTrip implements http.RoundTripper.
func (t to) RoundTrip(r *http.Request) (*http.Response, error) {
	target, state := t.backend.Where()
	if target == nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, fmt.Errorf("%s is %s", t.backend.Name, state)
	}
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.Host = target.Scheme, target.Host, ""
	out.URL.Path = strings.TrimSuffix(target.Path, "/") + r.URL.Path
	return t.backend.transport.RoundTrip(out)
}

// drainMax is a little more than a service gives itself to drain, so that one that is late can still say so.
const drainMax = 17 * time.Second

// Development is what the gateway does beside its work in development: it builds the services that it was not told of, and
// runs them.
type Development struct {
	Module  string // whose services are built
	Dir     string // of all data
	Environ []string
	Issuer  string // the URL by which clients know auth, unless Environ says
	Auth    *Backend
	Absent  []*Backend // the services to run
	Stdout  io.Writer
	Logger  func(w io.Writer) *slog.Logger

	lines       *Lines
	own         *Relay
	addr        chan string
	folder      string
	logins      []Login
	supervisors []*Supervisor
}

// Own is where the gateway's own log goes.
func (d *Development) Own() io.Writer { return d.own }

// Prepare builds the services. It may be interrupted by ctx, without an error.
func (d *Development) Prepare(ctx context.Context) (err error) {
	d.lines, d.addr = NewLines(d.Stdout), make(chan string, 1)
	d.own = NewRelay(d.lines, "gateway", "INFO", time.Now, func(a string) { d.addr <- a })
	if len(d.Absent) == 0 {
		return nil
	}
	log := d.Logger(d.own)
	if slices.Contains(d.Absent, d.Auth) {
		if d.logins, err = DevLogins(d.Dir); err != nil {
			return err
		}
	}
	if d.folder, err = os.MkdirTemp("", "dongne-"); err != nil {
		return err
	}
	var names []string
	for _, b := range d.Absent {
		names = append(names, b.Name)
		d.supervisors = append(d.supervisors, &Supervisor{
			Backend: b,
			Backoff: NewBackoff(mathrand.New(mathrand.NewPCG(mathrand.Uint64(), mathrand.Uint64()))),
			Drain:   drainMax,
			Log:     log,
			Start:   d.start(b),
		})
	}
	log.Info("building", "services", names)
	err = Build(ctx, d.Module, d.folder, names)
	if err != nil || ctx.Err() != nil {
		d.Clean()
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Clean removes what was built.
func (d *Development) Clean() {
	if d.folder != "" {
		os.RemoveAll(d.folder)
	}
}

// start returns what starts a service's program. Auth keeps its port, which the others are told, and comes before them.
func (d *Development) start(b *Backend) func(ctx context.Context, listening func(addr string)) (Process, error) {
	var port Port
	return func(ctx context.Context, listening func(addr string)) (Process, error) {
		env := append(d.Environ[:len(d.Environ):len(d.Environ)],
			"HOST=127.0.0.1", "PORT="+port.Get(), "DEBUG_ADDR=", "DATA_DIR="+filepath.Join(d.Dir, b.Name), "TRUSTED_PROXIES=127.0.0.1",
			"PEERS=", "PEER_SECRET=") // the gateway's, not the service's
		if b != d.Auth {
			url := d.Auth.Await(ctx)
			if url == "" { // never without: that would be open development mode
				return nil, ctx.Err()
			}
			env = append(env, "AUTH_URL="+url)
		} else {
			env = append(env, "AUTH_URL=", "ISSUER="+cmp.Or(value(d.Environ, "ISSUER"), d.Issuer),
				"SEED="+cmp.Or(value(d.Environ, "SEED"), string(encode(d.logins))))
		}
		return Exec(filepath.Join(d.folder, b.Name), env,
			NewRelay(d.lines, b.Name, "INFO", time.Now, func(addr string) {
				if b == d.Auth {
					port.Set(addr)
				}
				listening(addr)
			}),
			NewRelay(d.lines, b.Name, "ERROR", time.Now, nil))
	}
}

// value is that of a variable in an environment.
func value(environ []string, name string) string {
	for i := len(environ) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(environ[i], name+"="); ok {
			return v
		}
	}
	return ""
}

// Supervise runs the services until ctx ends.
func (d *Development) Supervise(ctx context.Context) error { return Supervise(ctx, d.supervisors) }

// Announce says to people where to go, and as whom, once everything is up.
func (d *Development) Announce(ctx context.Context, to io.Writer, g *Gateway) {
	select {
	case a := <-d.addr:
		if AwaitReady(ctx, g.Ready) != nil {
			return
		}
		fmt.Fprintf(to, "\ndongne is up: %s://%s (Ctrl-C ends it)\n", g.Scheme(), a)
		for _, l := range d.logins {
			fmt.Fprintf(to, "  log in as %-6s with %s\n", l.Login, l.Password)
		}
		fmt.Fprintln(to)
	case <-ctx.Done():
	}
}
