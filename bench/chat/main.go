// Chat measures our chat beside NATS and nchan, in turn in one run, and prints the ratios:
//
//   - fan-out: 8 publishers, 1,000 streams in one room, texts of 100 bytes;
//   - idle: the server's memory for each of 10,000 streams that get nothing;
//   - durable: 64 publishers that each wait for a text to be on disk, beside the disk's own rate.
//
// Run it in the folder bench: go run ./chat. The peers are Debian's nats-server and nginx with libnginx-mod-nchan; a peer
// that is not installed is left out, and says how to install it. JetStream needs "sync_interval: always", which
// nats-server has since 2.10, so that one is built from the version that go.mod pins.
//
// All servers are child processes on loopback with fresh folders, and the same process reads the streams of each in the
// same way. The exit code is not zero when ours fails.
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

	"dongne/bench/load"
	"dongne/bench/report"
)

// options are the flags.
type options struct {
	seconds    float64
	rounds     int
	streams    int
	publishers int
	idle       int
	ackers     int
	only       string
	profile    string
}

func (o options) duration() time.Duration { return time.Duration(o.seconds * float64(time.Second)) }

func (o options) wants(part string) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), part)
}

func main() {
	load.Main()
	var o options
	flag.Float64Var(&o.seconds, "seconds", 5, "length of a measurement")
	flag.IntVar(&o.rounds, "rounds", 3, "measurements of each system")
	flag.IntVar(&o.streams, "streams", 1000, "streams of the fan-out, at most 1,900")
	flag.IntVar(&o.publishers, "publishers", 8, "publishers of the fan-out")
	flag.IntVar(&o.idle, "idle", 10_000, "idle streams; mind ulimit -n")
	flag.IntVar(&o.ackers, "ackers", 64, "publishers that wait for acknowledgements")
	flag.StringVar(&o.only, "only", "", "some of fanout,idle,durable; empty: all")
	flag.StringVar(&o.profile, "profile", "", "folder for profiles of the servers written in Go; empty: none")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

// run measures and prints. The error is about ours; what goes wrong with a peer stands in its row.
func run(ctx context.Context, o options, out io.Writer) error {
	dir, err := os.MkdirTemp("", "dongne-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	all, err := findSystems(ctx, dir)
	if err != nil {
		return err
	}
	return measure(ctx, o, all, dir, out)
}

func measure(ctx context.Context, o options, all systems, dir string, out io.Writer) error {
	b := benchmark{Report: report.Report{Out: out}, options: o, absent: all.absent}
	if o.wants("fanout") {
		b.fanOut(ctx, append([]system{all.chat, all.nchan}, all.core...))
	}
	if o.wants("idle") {
		b.idle(ctx, []system{all.chat, all.nchan, all.core[0]})
	}
	if o.wants("durable") {
		b.durable(ctx, []system{all.chat, all.jetStream}, dir)
	}
	b.PrintGoals()
	return errors.Join(b.Failed, ctx.Err())
}

// stallTime is how much longer than its measurements a system may take in all, before it is said to hang.
const stallTime = 90 * time.Second

// with runs f beside a freshly started system, which gets a folder of its own and is gone afterwards.
func with(ctx context.Context, sys system, rooms []room, o options, f func(context.Context, *server) error) error {
	dir, err := os.MkdirTemp("", "dongne-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, 4*o.duration()+stallTime)
	defer cancel()
	s, err := sys.start(ctx, dir, rooms)
	if err != nil {
		return err
	}
	s.name = sys.name
	defer s.process.Stop()
	err = f(ctx, s)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return err
}

// saveProfile writes the named profile of the server to the folder of profiles, if there is one and the server gives
// them. A profile that takes time takes as long as a measurement.
func (o options) saveProfile(ctx context.Context, s *server, part, name string) error {
	if o.profile == "" || s.debug == "" {
		return nil
	}
	profile, err := load.Get(ctx, fmt.Sprintf("http://%s/debug/pprof/%s?seconds=%d", s.debug, name, int(max(1, o.seconds))))
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	file := strings.NewReplacer(" ", "-", ",", "").Replace(part + "-" + s.name + "." + name + ".pprof")
	return os.WriteFile(filepath.Join(o.profile, file), profile, 0o600)
}

// profiled is sleep for as long as a measurement takes, and saves the server's CPU profile of that time.
func (o options) profiled(ctx context.Context, s *server, part string) error {
	saved := make(chan error, 1)
	go func() { saved <- o.saveProfile(ctx, s, part, "profile") }()
	return errors.Join(load.Wait(ctx, o.duration()), <-saved)
}
