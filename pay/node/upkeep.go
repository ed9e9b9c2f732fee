package node

import (
	"context"
	"fmt"
	"io"
	"time"

	"dongne/pay/ledger"
)

const (
	expiryEvery   = 250 * time.Millisecond
	recoveryEvery = time.Second
	recoveryAfter = 2 * time.Second // whoever began a transfer has had that long to end it
	pollEvery     = 250 * time.Millisecond
	snapshotEvery = 5 * time.Second // to see whether one is due

	expireAtOnce    = 500     // in one slot
	snapshotGrowth  = 200_000 // records since the last snapshot, at least, and a quarter of all
	snapshotAtClose = 1_000
)

// loop calls f every so often until ctx ends.
func (n *Node) loop(ctx context.Context, every time.Duration, f func(context.Context)) {
	n.loops.Add(1)
	go func() {
		defer n.loops.Done()
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				f(ctx)
			case <-ctx.Done():
				return
			}
		}
	}()
}

// expire ends holds and claimables whose time has come. Of several processes the first one does it, and the others, which
// wait for different times, usually need not.
func (n *Node) expire(ctx context.Context) {
	now := n.config.Now()
	if n.store.Shared() {
		now = now.Add(-n.jitter(2 * time.Second))
	}
	for _, sh := range n.shards {
		var due []ledger.Request
		sh.read(func(s *ledger.State) { due, _ = s.Due(now.UnixNano(), expireAtOnce) })
		if len(due) > 0 {
			n.attempt(ctx, "expire", func(ctx context.Context) error {
				_, err := sh.propose(ctx, ledger.NewCall(due...))
				return err
			})
		}
	}
}

// recover ends transfers between shards that whoever began them left.
func (n *Node) recover(ctx context.Context) {
	if len(n.shards) == 1 {
		return
	}
	before := n.config.Now().Add(-recoveryAfter - n.jitter(recoveryAfter)).UnixNano()
	for _, sh := range n.shards {
		var settling []uint32
		var unfinished []ledger.ID
		sh.read(func(s *ledger.State) { settling, unfinished = s.Settling(before), s.Unfinished(before) })
		for _, rec := range settling {
			n.attempt(ctx, "recover", func(ctx context.Context) error { return n.drive(ctx, sh, rec, false) })
		}
		for _, id := range unfinished {
			n.attempt(ctx, "recover", func(ctx context.Context) error { return n.finish(ctx, sh, id) })
		}
	}
}

// finish ends a shard's part in a transfer that its home has decided.
func (n *Node) finish(ctx context.Context, sh *shard, id ledger.ID) error {
	var commit, decided bool
	n.shards[id.Shard].read(func(s *ledger.State) { commit, decided = s.Decided(id) })
	if !decided {
		return nil
	}
	_, err := sh.one(ctx, ledger.Request{Kind: ledger.Finish, Transfer: id, Commit: commit})
	return err
}

// attempt does what will be tried again anyway.
func (n *Node) attempt(ctx context.Context, what string, f func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	if err := f(ctx); err != nil && ctx.Err() == nil {
		n.config.Logger.Warn(what, "err", err)
	}
}

// poll reads what other processes have written.
func (n *Node) poll(context.Context) {
	for _, sh := range n.shards {
		sh.log.Poll()
	}
}

func (n *Node) snapshot(ctx context.Context) { n.snapshotAll(ctx, snapshotGrowth) }

// snapshotAll stores a snapshot of every shard that has grown by so many records, and by a quarter.
func (n *Node) snapshotAll(ctx context.Context, growth int) {
	for _, sh := range n.shards {
		var records int
		sh.read(func(s *ledger.State) { _, records, _, _ = s.Counts() })
		if records-sh.snapshot < growth || growth == snapshotGrowth && records-sh.snapshot < records/4 {
			continue
		}
		began := n.config.Now()
		slot, err := sh.log.Snapshot(ctx)
		if err != nil {
			n.config.Logger.Error("snapshot", "shard", sh.number, "err", err)
			continue
		}
		sh.snapshot = records
		n.config.Logger.Info("snapshot", "shard", sh.number, "slot", slot, "records", records, "took", n.config.Now().Sub(began))
	}
}

// Metrics writes what the ledger holds as Prometheus text.
func (n *Node) Metrics(w io.Writer) {
	type row struct {
		name, kind, help string
		value            func(s *ledger.State) uint64
	}
	count := func(which int) func(s *ledger.State) uint64 {
		return func(s *ledger.State) uint64 {
			accounts, records, postings, keys := s.Counts()
			return uint64([]int{accounts, records, postings, keys}[which])
		}
	}
	for _, r := range []row{
		{"pay_accounts", "gauge", "accounts, with the system's", count(0)},
		{"pay_records_total", "counter", "records, each an event", count(1)},
		{"pay_postings_total", "counter", "entries of statements", count(2)},
		{"pay_keys_total", "counter", "idempotency keys, kept for ever", count(3)},
		{"pay_slots_total", "counter", "slots of the log", func(s *ledger.State) uint64 { return s.Position().Slot }},
		{"pay_settling", "gauge", "transfers on their way between shards", func(s *ledger.State) uint64 { return uint64(len(s.Settling(forEver))) }},
		{"pay_unfinished", "gauge", "parts of other shards' transfers that are not finished", func(s *ledger.State) uint64 { return uint64(len(s.Unfinished(forEver))) }},
	} {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", r.name, r.help, r.name, r.kind)
		for _, sh := range n.shards {
			sh.read(func(s *ledger.State) { fmt.Fprintf(w, "%s{shard=\"%d\"} %d\n", r.name, sh.number, r.value(s)) })
		}
	}
	n.hooks.Metrics(w)
}
