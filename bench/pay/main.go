// Pay measures our pay beside PostgreSQL, bbolt and etcd, in turn in one run, and prints the ratios:
//
//   - transfers: 1, 16 and 64 clients that each wait for a transfer to be on disk, over HTTP, between 10,000 accounts drawn
//     evenly, and all of them from or to one hot account; beside the disk's own rate;
//   - batch: 64 clients that post batches, for the systems that take them;
//   - storm: 64 clients that send again what was answered long ago, with proof that nothing happens.
//
// Run it in the folder bench: go run ./pay. The peers are PostgreSQL by a stored procedure for each transfer and by
// statements on sets of up to 64, bbolt by Batch and by Update, and etcd by a compare-and-swap of two accounts. Each is behind
// the same small HTTP server, is durable before it answers, and gets settings in its favour; after each system's measurements
// its books must hold exactly what was acknowledged. Debian's postgresql-15 and etcd-server are left out where they are not
// installed. All servers are child processes on loopback with fresh folders.
//
//	go run ./pay -memory
//
// measures ours alone: bytes of memory for an account and a transfer, and the time to start again after kill -9. The exit
// code is not zero when ours fails.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"dongne/bench/proc"
	"dongne/bench/report"
)

// options are the flags.
type options struct {
	seconds   float64
	warm      float64
	rounds    int
	accounts  int
	clients   []int // at a time, of transfers; the most of them, of replays
	batchers  int   // clients that post batches
	items     []int // of a batch
	only      string
	systems   string
	seed      uint64
	memory    bool
	transfers int
	recovered int
	profile   string
	calm      time.Duration // without any change, after which nothing more follows from what was done
}

func (o options) duration() time.Duration { return time.Duration(o.seconds * float64(time.Second)) }

func (o options) wants(part string) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), part)
}

// wantsSystem reports whether one of the wanted words is in the name.
func (o options) wantsSystem(name string) bool {
	return slices.ContainsFunc(strings.Split(o.systems, ","), func(word string) bool { return strings.Contains(name, word) })
}

func main() {
	servePeer()
	o := options{clients: []int{1, 16, clientsMax}, batchers: clientsMax, items: []int{100, 1000}, calm: calmTime}
	flag.Float64Var(&o.seconds, "seconds", 3, "length of a measurement")
	flag.Float64Var(&o.warm, "warm", 3, "length of the load before a system's first measurement")
	flag.IntVar(&o.rounds, "rounds", 3, "measurements of each system")
	flag.IntVar(&o.accounts, "accounts", 10_000, "accounts; with -memory 1,000,000 unless given")
	flag.StringVar(&o.only, "only", "", "some of transfers,batch,storm; empty: all")
	flag.StringVar(&o.systems, "systems", "", "words, one of which a system's name must contain, such as PostgreSQL,file; empty: all")
	flag.Uint64Var(&o.seed, "seed", 0, "of the orders; 0: any")
	flag.BoolVar(&o.memory, "memory", false, "measure our memory and recovery instead")
	flag.IntVar(&o.transfers, "transfers", 10_000_000, "with -memory: transfers")
	flag.IntVar(&o.recovered, "recovered", 1_000_000, "with -memory: transfers before kill -9")
	flag.StringVar(&o.profile, "profile", "", "folder for CPU profiles of ours; empty: none")
	flag.Parse()
	if o.memory && !given("accounts") {
		o.accounts = 1_000_000
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "pay:", err)
		os.Exit(1)
	}
}

func given(name string) (found bool) {
	flag.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

// run measures and prints. The error is about ours; what goes wrong with a peer stands in its row.
func run(ctx context.Context, o options, out io.Writer) error {
	dir, err := os.MkdirTemp("", "dongne-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintf(out, "seed %d\n\n", o.seed)
	if o.memory {
		program, err := proc.Build(ctx, dir, "dongne/pay")
		if err != nil {
			return err
		}
		return measureMemory(ctx, program, o, out)
	}
	all, err := findSystems(ctx, dir)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(sys system) bool { return !o.wantsSystem(sys.name) })
	return measure(ctx, o, all, dir, out)
}

// measure measures all systems in turn, as often as there are rounds.
func measure(ctx context.Context, o options, all []system, dir string, out io.Writer) error {
	b := benchmark{Report: report.Report{Out: out}, options: o}
	for _, sys := range all {
		b.rows = append(b.rows, report.Row{Name: sys.name, Ours: sys.ours, Absent: sys.absent})
	}
	b.results, b.remarks = report.Rounds(ctx, &b.Report, o.rounds, b.rows, func(i int) (measured, error) {
		rate, err := proc.RawSyncs(ctx, dir, o.duration()/2)
		if err != nil {
			return measured{}, err
		}
		b.raw = append(b.raw, rate)
		o.seed++
		return measureSystem(ctx, all[i], o)
	})
	b.print()
	return errors.Join(b.Failed, ctx.Err())
}

// cell is one measurement of a system.
type cell struct {
	part    string
	clients int
}

// The parts of a cell.
const (
	hotPart     = "hot"
	uniformPart = "uniform"
	batchPart   = "batches of " // and the number of items
	stormPart   = "storm"
)

// measured is what one round gave of a system.
type measured map[cell]figures

const (
	stallTime = 2 * time.Minute // how much longer than its measurements a system may take in all, before it is said to hang
	cellsMax  = 16
	calmTime  = 7 * time.Second // longer than between two looks whether a snapshot is due
)

// measureSystem starts a system, loads it, measures all that is wanted, and fails unless its books hold in the end what was
// acknowledged.
func measureSystem(ctx context.Context, sys system, o options) (measured, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*cellsMax*o.duration()+stallTime)
	defer cancel()
	result := measured{}
	err := with(ctx, sys, o.accounts, opening, func(s *server) error {
		t := newTally(o.accounts)
		before, err := s.books(ctx)
		if err != nil {
			return err
		}
		warm := time.Duration(o.warm * float64(time.Second))
		if _, err := measureTransfers(ctx, s, t, clientsMax, false, o.seed, warm); err != nil {
			return fmt.Errorf("warm-up: %w", err)
		}
		for i, c := range cellsOf(sys, o) {
			if s.settle != nil {
				if err := s.settle(ctx, c.clients); err != nil {
					return fmt.Errorf("settle: %w", err)
				}
			}
			s.profile = o.profiler(s, sys, c)
			if result[c], err = measureCell(ctx, s, t, c, o.seed^uint64(i+1)<<32, o); err != nil {
				return fmt.Errorf("%s, %d clients: %w", c.part, c.clients, err)
			}
		}
		after, err := s.books(ctx)
		if err != nil {
			return err
		}
		return t.check(before, after)
	})
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return result, err
}

// cellsOf are the measurements of a system, in their order.
func cellsOf(sys system, o options) []cell {
	var cells []cell
	if o.wants("transfers") {
		for _, n := range o.clients {
			cells = append(cells, cell{uniformPart, n}, cell{hotPart, n})
		}
	}
	if o.wants("batch") && sys.batches {
		for _, items := range o.items {
			cells = append(cells, cell{fmt.Sprint(batchPart, items), o.batchers})
		}
	}
	if o.wants("storm") && sys.storms {
		cells = append(cells, cell{stormPart, slices.Max(o.clients)})
	}
	return cells
}

func measureCell(ctx context.Context, s *server, t *tally, c cell, seed uint64, o options) (figures, error) {
	d := o.duration()
	switch c.part {
	case hotPart, uniformPart:
		return measureTransfers(ctx, s, t, c.clients, c.part == hotPart, seed, d)
	case stormPart:
		return measureStorm(ctx, s, t, c.clients, seed, d, o.calm)
	}
	var items int
	if _, err := fmt.Sscanf(c.part, batchPart+"%d", &items); err != nil {
		return figures{}, err
	}
	return measureBatches(ctx, s, t, c.clients, items, seed, d)
}

// with runs f beside a freshly started system, which gets a folder of its own and is gone afterwards.
func with(ctx context.Context, sys system, accounts int, opening int64, f func(*server) error) error {
	dir, err := os.MkdirTemp("", "dongne-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := sys.start(ctx, dir, accounts, opening)
	if err != nil {
		return err
	}
	defer s.stop()
	return f(s)
}
