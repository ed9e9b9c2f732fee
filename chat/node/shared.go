package node

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"dongne/internal/sharedlog/live"
	"dongne/internal/sharedlog/store"
)

// settingTimeout is how long a start waits for the store.
const settingTimeout = 10 * time.Second

// Shared is the logs that all nodes share.
type Shared struct {
	// Incarnation tells these logs from all others, so that no position of another store is taken for one of this.
	Incarnation uint64
	// Engines has one for each shard, in the same order on every node; a room stays in its shard, so their number never
	// changes.
	Engines []live.Engine
	// Close is called when the logs are no longer used; it may be nil.
	Close func() error
}

// openShared opens the shared logs that STORE names; nil for a log of this node's own. The first node that opens them fixes
// their number and their incarnation, its present time in milliseconds: the store's setting "shards", two numbers.
func openShared(ctx context.Context, config Config) (*Shared, error) {
	if config.Shared != nil || config.Store == "" {
		return config.Shared, nil
	}
	s, err := store.Open(config.Store, config.Dir, "chat")
	if err != nil {
		return nil, fmt.Errorf("STORE: %w", err)
	}
	if !s.Shared() {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, settingTimeout)
	defer cancel()
	mine := fmt.Sprint(config.Shards, config.Now().UnixMilli())
	stands, err := s.Setting(ctx, "shards", mine)
	if err != nil {
		return nil, fmt.Errorf("STORE: %w", err)
	}
	count, since, _ := strings.Cut(stands, " ")
	incarnation, err := strconv.ParseUint(since, 10, 64)
	switch {
	case err != nil:
		return nil, fmt.Errorf("STORE: the setting of its shards is %q, which chat did not write", stands)
	case count != strconv.Itoa(config.Shards):
		return nil, fmt.Errorf("SHARDS: %d, but this store was begun with %s, for ever", config.Shards, count)
	}
	shared := &Shared{Incarnation: incarnation}
	var logs []store.Log
	shared.Close = func() error {
		var all []error
		for _, l := range logs {
			all = append(all, l.Close())
		}
		return errors.Join(all...)
	}
	for i := range config.Shards {
		l, _, err := s.Log(ctx, fmt.Sprintf("shard-%d", i))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("STORE: %w", err), shared.Close())
		}
		logs = append(logs, l)
		shared.Engines = append(shared.Engines, l)
	}
	return shared, nil
}
