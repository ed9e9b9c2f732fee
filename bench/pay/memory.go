package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"dongne/bench/load"
	"dongne/bench/proc"
	"dongne/bench/report"
)

const (
	memoryClients = 16
	memoryItems   = 1000 // of a batch
	settleSteps   = 30
	steady        = 200 // memory has settled when it changes by less than one part in so many in a seventh of a calm time
)

// measureMemory prints what an account and a transfer cost ours in memory and on disk, each with its idempotency key, and how
// long it takes to start again.
func measureMemory(ctx context.Context, program string, o options, out io.Writer) error {
	return errors.Join(
		measureBytes(ctx, program, o, out),
		measureRecovery(ctx, program, o, out),
	)
}

// holder is our pay on a folder that outlives its process.
type holder struct {
	*server
	program, dir string
	t            *tally
	calm         time.Duration
}

func hold(program string, accounts int, calm time.Duration) (*holder, error) {
	dir, err := os.MkdirTemp("", "dongne-bench-")
	h := &holder{&server{}, program, dir, newTally(accounts), calm}
	h.books = func(ctx context.Context) (books, error) { return payBooks(ctx, h.addr) }
	h.effects = func(ctx context.Context) (effects, error) { return payEffects(ctx, h.server, dir) }
	return h, err
}

// start starts pay and returns how long it took until it was ready.
func (h *holder) start(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	h.processes = nil
	err := h.startPay(ctx, h.program, h.dir, "file")
	return time.Since(began), err
}

func (h *holder) close() {
	h.stop()
	os.RemoveAll(h.dir)
}

// openOverdrafts creates accounts that need no opening balance.
func (h *holder) openOverdrafts(ctx context.Context) error {
	return parallel(ctx, h.addr, clientsMax, func(conn *load.HTTP, client int) error {
		for i := client; i < len(h.t.moved); i += clientsMax {
			body := fmt.Appendf(nil, `{"id":%q,"currency":%q,"overdraft":true}`, accountName(i), currency)
			status, answer, err := conn.Do("POST", "/accounts", keyHeader("open-"+strconv.Itoa(i)), body)
			if err == nil && status != http.StatusCreated {
				err = fmt.Errorf("open an account: status %d: %s", status, answer)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// transfer makes that many transfers in batches.
func (h *holder) transfer(ctx context.Context, transfers int, seed uint64) error {
	batches := (transfers + memoryItems - 1) / memoryItems
	return parallel(ctx, h.addr, memoryClients, func(conn *load.HTTP, client int) error {
		source, poster := newOrders(seed, client, len(h.t.moved)-1, false), batcher{}
		for b := client; b < batches; b += memoryClients {
			batch := make([]order, min(memoryItems, transfers-b*memoryItems))
			for i := range batch {
				batch[i] = source.next()
			}
			if err := poster.post(conn, batch[0].key+"-batch", batch); err != nil {
				return err
			}
			for _, o := range batch {
				h.t.add(o)
			}
		}
		return nil
	})
}

// check fails unless the books hold what was acknowledged. All may be below zero here.
func (h *holder) check(ctx context.Context) error {
	kept, err := payBooks(ctx, h.addr)
	if err != nil {
		return err
	}
	if got, want := kept.Transfers, int(h.t.acked.Load()); got != want {
		return fmt.Errorf("%d transfers were acknowledged, the books have %d", want, got)
	}
	for i := range h.t.moved {
		if got, want := kept.Balances[accountName(i)], h.t.moved[i].Load(); got != want {
			return fmt.Errorf("the balance of %s is %d, its acknowledged transfers make %d", accountName(i), got, want)
		}
	}
	return nil
}

// settled has the server collect its garbage and waits until its memory stays the same, as a Go runtime gives pages back
// slowly. live is what the last collection found alive.
func (h *holder) settled(ctx context.Context) (m proc.Memory, live float64, err error) {
	for range settleSteps {
		if _, err := load.Get(ctx, "http://"+h.debug+"/debug/pprof/heap?gc=1"); err != nil {
			return m, 0, err
		}
		if err := load.Wait(ctx, h.calm/7); err != nil {
			return m, 0, err
		}
		last := m
		if m, err = h.processes[0].Memory(); err != nil {
			return m, 0, err
		}
		if max(m.RSS, last.RSS)-min(m.RSS, last.RSS) < m.RSS/steady {
			break
		}
	}
	values, err := load.Metrics(ctx, h.addr, "go_gc_heap_live_bytes")
	return m, values[0], err
}

// stage is what the memory was when something was done.
type stage struct {
	took   time.Duration
	memory proc.Memory
	live   float64
	disk   int64 // bytes of files
}

func (h *holder) stage(ctx context.Context, do func() error) (s stage, err error) {
	began := time.Now()
	if err := do(); err != nil {
		return s, err
	}
	s.took = time.Since(began)
	if s.memory, s.live, err = h.settled(ctx); err != nil {
		return s, err
	}
	s.disk, err = diskBytes(h.dir)
	return s, err
}

func measureBytes(ctx context.Context, program string, o options, out io.Writer) error {
	h, err := hold(program, o.accounts, o.calm)
	if err != nil {
		return err
	}
	defer h.close()
	if _, err := h.start(ctx); err != nil {
		return err
	}
	empty, err := h.stage(ctx, func() error { return nil })
	if err != nil {
		return err
	}
	opened, err := h.stage(ctx, func() error { return h.openOverdrafts(ctx) })
	if err != nil {
		return err
	}
	paid, err := h.stage(ctx, func() error { return h.transfer(ctx, o.transfers, o.seed) })
	if err != nil {
		return err
	}
	printStage(out, "account", o.accounts+1, empty, opened)
	printStage(out, "transfer", o.transfers, opened, paid)
	fmt.Fprintf(out, "in all: PSS %s MiB, RSS %s MiB\n",
		report.Count(float64(paid.memory.PSS>>20)), report.Count(float64(paid.memory.RSS>>20)))
	return h.check(ctx)
}

// printStage prints what each of n things cost. Each has its idempotency key.
func printStage(out io.Writer, what string, n int, before, after stage) {
	per := func(bytes float64) string { return report.Count(bytes / float64(n)) }
	fmt.Fprintf(out, "%s %ss in %.1f s; bytes each, with its key: PSS %s, RSS %s, live heap %s, files %s\n", report.Count(float64(n)), what,
		after.took.Seconds(), per(float64(after.memory.PSS-before.memory.PSS)), per(float64(after.memory.RSS-before.memory.RSS)),
		per(after.live-before.live), per(float64(after.disk-before.disk)))
}

// measureRecovery prints how long it takes until pay is ready after kill -9, from its last snapshot and the log behind it.
func measureRecovery(ctx context.Context, program string, o options, out io.Writer) error {
	h, err := hold(program, min(o.accounts, 10_000), o.calm)
	if err != nil {
		return err
	}
	defer h.close()
	if _, err := h.start(ctx); err != nil {
		return err
	}
	if err := h.openOverdrafts(ctx); err != nil {
		return err
	}
	if err := h.transfer(ctx, o.recovered, o.seed+1); err != nil {
		return err
	}
	if _, err := calmEffects(ctx, h.server, h.calm); err != nil {
		return err
	}
	h.processes[0].Kill()
	took, err := h.start(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s transfers, kill -9: ready after %.2f s\n", report.Count(float64(o.recovered)), took.Seconds())
	if err := h.check(ctx); err != nil {
		return err
	}
	if err := h.transfer(ctx, 2*memoryItems, o.seed+2); err != nil { // so that there is something to snapshot
		return err
	}
	began := time.Now()
	h.stop()
	stopped := time.Since(began)
	if took, err = h.start(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "stopped, with a snapshot, in %.2f s; ready after %.2f s\n", stopped.Seconds(), took.Seconds())
	return h.check(ctx)
}
