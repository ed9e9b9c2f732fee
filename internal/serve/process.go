package serve

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// RunFunc is a program. Everything from outside is an argument, so that a test can call it: ctx ends when the program is
// to end, getenv is the environment (see Env), stdout gets the log.
type RunFunc = func(ctx context.Context, getenv func(string) string, stdout io.Writer) error

// Main is the whole of a service's main. about is one line on what the service is, for -h, which lists vars and the
// common variables. The first SIGINT or SIGTERM ends run's context; a second one ends the process at once with exit code
// 1. Otherwise the exit code is 0 when run returned nil, 1 with one line on stderr when it returned an error, 2 for
// arguments. Main also sets what a process has only once: the Go memory limit, from the cgroup's unless GOMEMLIMIT is
// set, and the profiles under DATA_DIR/profiles that are taken when CPU or memory stay high.
func Main(about string, vars []Var, run RunFunc) {
	os.Exit(runMain(os.Args[1:], os.Stdout, os.Stderr, about, vars, run))
}

func runMain(args []string, stdout, stderr io.Writer, about string, vars []Var, run RunFunc) int {
	if len(args) > 0 {
		if slices.Contains([]string{"-h", "-help", "--help"}, args[0]) {
			printHelp(stdout, about, vars)
			return 0
		}
		fmt.Fprintf(stderr, "unknown argument %q: configuration is the environment, -h lists it\n", args[0])
		return 2
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		<-signals
		cancel()
		<-signals
		fmt.Fprintln(stderr, "second signal: ended at once")
		os.Exit(1)
	}()
	if err := runProcess(ctx, Env(vars, os.Getenv), stdout, run); err != nil {
		fmt.Fprintln(stderr, strings.ReplaceAll(err.Error(), "\n", "; "))
		return 1
	}
	return 0
}

// runProcess is run with what a process has only once around it.
func runProcess(ctx context.Context, getenv func(string) string, stdout io.Writer, run RunFunc) error {
	log, err := NewLogger(getenv, stdout)
	if err != nil {
		return err
	}
	limit := readCgroup(os.DirFS("/"))
	if bytes := setMemoryLimit(limit.memory, os.Getenv("GOMEMLIMIT")); bytes > 0 {
		log.Info("memory limit", "bytes", bytes)
	}
	stop := startProfiler(filepath.Join(getenv("DATA_DIR"), "profiles"), limit, log)
	defer stop()
	return run(ctx, getenv, stdout)
}
