package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/live"
	"dongne/internal/sharedlog/store"
	"dongne/pay/ledger"
)

// replayed is a shard as its log tells it, from the first slot to the last.
type replayed struct {
	state *ledger.State
	hash  sharedlog.Hash // of the state
}

// replayShards reads the logs of all shards from their beginning and hands each over once it is read. Every slot is
// checked to follow from the one before; where a snapshot stands, the state is compared with it.
func replayShards(ctx context.Context, config Config, each func(shard int, r replayed) error) error {
	s, err := store.Open(config.Store, config.Dir, "pay")
	if err != nil {
		return fmt.Errorf("STORE: %w", err)
	}
	if _, err := os.Stat(config.Dir); err != nil && !s.Shared() {
		return fmt.Errorf("DATA_DIR: there is no ledger: %w", err)
	}
	if err := settleShards(ctx, s, config.Shards); err != nil {
		return err
	}
	for i := range config.Shards {
		if err := replayShard(ctx, s, config, i, each); err != nil {
			return fmt.Errorf("pay: shard %d: %w", i, err)
		}
	}
	return nil
}

func replayShard(ctx context.Context, s *store.Store, config Config, i int, each func(int, replayed) error) error {
	engine, _, err := s.Log(ctx, "shard-"+strconv.Itoa(i))
	if err != nil {
		return err
	}
	defer engine.Close()
	kept, err := keptSnapshot(ctx, engine)
	if err != nil {
		return err
	}
	state := ledger.NewState(i, config.Shards)
	replica := sharedlog.NewReplica(ledger.Machine{State: state}, sharedlog.Config{BatchBytesMax: slotBytesMax, BatchRequestsMax: 1})
	for replica.Reading() {
		op := replica.Next(0)
		data, err := engine.Get(ctx, op.Slot)
		if errors.Is(err, sharedlog.ErrAbsent) {
			replica.Absent()
			break
		}
		if err == nil {
			err = replica.Got(data)
		}
		if err != nil {
			return err
		}
		if kept != nil && kept.Slot == op.Slot {
			if sharedlog.Sum(state.Snapshot()) != kept.StateHash() {
				return fmt.Errorf("the snapshot at slot %d is not the state that the log leads to", kept.Slot)
			}
		}
	}
	if kept != nil && kept.Slot > replica.Last().Slot {
		return fmt.Errorf("the log ends at slot %d, before its snapshot at slot %d", replica.Last().Slot, kept.Slot)
	}
	return each(i, replayed{state, sharedlog.Sum(state.Snapshot())})
}

func keptSnapshot(ctx context.Context, engine live.Engine) (*sharedlog.Snapshot, error) {
	snapshots, ok := engine.(live.SnapshotStore)
	if !ok {
		return nil, nil
	}
	data, err := snapshots.LoadSnapshot(ctx)
	if errors.Is(err, sharedlog.ErrAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return sharedlog.DecodeSnapshot(data)
}

// Verify replays the logs and checks everything that must hold: that each slot follows from the one before, every
// invariant of the ledger, every statement's sums, and that the shards' transit accounts balance. It writes a line for each
// shard, with the hash of its state, and returns what is wrong.
func Verify(ctx context.Context, config Config, w io.Writer) error {
	transit := make(map[ledger.Currency]int64)
	open := 0
	err := replayShards(ctx, config, func(i int, r replayed) error {
		if err := r.state.Check(); err != nil {
			return err
		}
		for c, sum := range r.state.Transit() {
			transit[c] += sum
		}
		open += len(r.state.Settling(forEver)) + len(r.state.Unfinished(forEver))
		accounts, records, postings, keys := r.state.Counts()
		_, err := fmt.Fprintf(w, "shard %d: %d slots, %d accounts, %d records, %d postings, %d keys; state %x\n", i,
			r.state.Position().Slot, accounts, records, postings, keys, r.hash)
		return err
	})
	if err != nil {
		return err
	}
	for c, sum := range transit {
		if sum != 0 && open == 0 {
			return fmt.Errorf("pay: %d %v went into transit between shards and did not come out", sum, c)
		}
	}
	_, err = fmt.Fprintln(w, "valid")
	return err
}

const forEver = 1<<63 - 1 // nanoseconds

// Export replays the logs and writes the journal: a CloudEvent a line, shard by shard, in the order of the log.
func Export(ctx context.Context, config Config, w io.Writer) error {
	const page = 1000
	return replayShards(ctx, config, func(i int, r replayed) error {
		out := bufio.NewWriter(w)
		for after := uint32(0); after < r.state.LastEvent(); {
			for _, e := range r.state.Events(after, page) {
				out.Write(encodeEvent(i, &e).Body)
				out.WriteByte('\n') // the first error comes with Flush
				after = e.Number
			}
		}
		return out.Flush()
	})
}
