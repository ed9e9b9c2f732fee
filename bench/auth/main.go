// Auth measures our auth, and the verification of its tokens in other processes:
//
//   - verify: an ES256 token in this process, uncached beside what the signature alone costs, and remembered;
//   - refresh: 64 sessions, each refreshing as soon as it has its answer, over HTTP and durable;
//   - introspect: 64 clients of POST /oauth2/introspect;
//   - log-ins: what 100 parallel log-ins, whose hashes take all of a processor, do to who verifies tokens at the same time: in
//     chat, which has AUTH_URL, and in auth itself;
//   - revoke: from the request that ends a session to the moment at which a verifier in another process refuses its token.
//
// Run it in the folder bench: go run ./auth. All servers are child processes on loopback with fresh folders; per core means per
// second of user and system time of auth. Every part checks what it was answered: that each refresh gave another pair of
// which the last is good and the one before is not, that each introspection told of the right user, that nothing verified is refused.
// The exit code is not zero when anything fails.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"dongne/bench/proc"
	"dongne/bench/report"
)

// options are the flags.
type options struct {
	seconds float64
	rounds  int
	clients int
	logins  int
	ends    int
	only    string
	profile string
}

func (o options) duration() time.Duration { return time.Duration(o.seconds * float64(time.Second)) }

func (o options) wants(part string) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), part)
}

func main() {
	var o options
	flag.Float64Var(&o.seconds, "seconds", 5, "length of a measurement")
	flag.IntVar(&o.rounds, "rounds", 3, "measurements of each part")
	flag.IntVar(&o.clients, "clients", 64, "clients that refresh or introspect")
	flag.IntVar(&o.logins, "logins", 100, "parallel log-ins")
	flag.IntVar(&o.ends, "ends", 200, "sessions that are ended one by one")
	flag.StringVar(&o.only, "only", "", "some of verify,refresh,introspect,logins,revoke; empty: all")
	flag.StringVar(&o.profile, "profile", "", "folder for auth's profiles while it refreshes and introspects; empty: none")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "auth:", err)
		os.Exit(1)
	}
}

// A bench is one run.
type bench struct {
	report.Report
	options options
	dir     string
	auth    string // programs
	chat    string
}

func run(ctx context.Context, o options, out io.Writer) error {
	dir, err := os.MkdirTemp("", "dongne-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{Report: report.Report{Out: out}, options: o, dir: dir}
	if b.auth, err = proc.Build(ctx, dir, "dongne/auth"); err != nil {
		return err
	}
	if b.chat, err = proc.Build(ctx, dir, "dongne/chat"); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		run  func(context.Context)
	}{{"verify", b.verify}, {"refresh", b.refresh}, {"introspect", b.introspect}, {"logins", b.logIns}, {"revoke", b.revoke}} {
		if o.wants(part.name) && ctx.Err() == nil {
			part.run(ctx)
		}
	}
	b.PrintGoals()
	return errors.Join(b.Failed, ctx.Err())
}

// folder makes a fresh folder.
func (b *bench) folder() (string, error) { return os.MkdirTemp(b.dir, "data-") }

// title says how a part was measured.
func (b *bench) title(what string) string {
	return fmt.Sprintf("%s; median of %d × %v s (min..max)", what, b.options.rounds, b.options.seconds)
}

// debugEnv asks a server for pprof if profiles are wanted.
func (b *bench) debugEnv() (addr string, env []string, err error) {
	if b.options.profile == "" {
		return "", nil, nil
	}
	addr, err = proc.FreeAddr()
	return addr, []string{"DEBUG_ADDR=" + addr}, err
}

func (b *bench) profileFile(part string) string {
	return filepath.Join(b.options.profile, "auth-"+part+".pprof")
}
