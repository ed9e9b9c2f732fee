package node

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"dongne/pay/ledger"
	"dongne/pay/webhook"
)

// Transfer returns a transfer as it is now.
func (n *Node) Transfer(ctx context.Context, id string) (t ledger.Transfer, err error) {
	parsed, ok := ledger.ParseTransfer(id)
	if !ok || int(parsed.Shard) >= len(n.shards) {
		return t, fmt.Errorf("%w: %q", ErrTransferUnknown, id)
	}
	sh := n.shards[parsed.Shard]
	if err := sh.fresh(ctx); err != nil {
		return t, err
	}
	sh.read(func(s *ledger.State) { t, ok = s.Transfer(parsed) })
	if !ok {
		return t, fmt.Errorf("%w: %q", ErrTransferUnknown, id)
	}
	return t, nil
}

// Account returns an account as it is now.
func (n *Node) Account(ctx context.Context, id string) (a ledger.Account, err error) {
	sh := n.shards[ledger.ShardOf(id, len(n.shards))]
	if err := sh.fresh(ctx); err != nil {
		return a, err
	}
	var ok bool
	sh.read(func(s *ledger.State) { a, ok = s.Account(id) })
	if !ok {
		return a, fmt.Errorf("%w: %q", ErrAccountUnknown, id)
	}
	return a, nil
}

// Accounts returns a page of the accounts of an owner ("": all, with the system's), shard by shard in the order in which
// they were opened, and the cursor of the next page.
func (n *Node) Accounts(ctx context.Context, cursor, owner string, limit int) (found []ledger.Account, next string, err error) {
	number, after := 0, uint32(0)
	if cursor != "" {
		parts, err := numbers(cursor, 2)
		if err != nil || parts[0] >= uint32(len(n.shards)) {
			return nil, "", fmt.Errorf("%w: %q", ErrCursor, cursor)
		}
		number, after = int(parts[0]), parts[1]
	}
	for ; number < len(n.shards); number++ {
		sh := n.shards[number]
		if err := sh.fresh(ctx); err != nil {
			return nil, "", err
		}
		var page []ledger.Account
		var last uint32
		sh.read(func(s *ledger.State) { page, last = s.Accounts(after, owner, limit-len(found)) })
		found = append(found, page...)
		if last != 0 && len(found) == limit {
			return found, fmt.Sprintf("%d.%d", number, last), nil
		}
		if after = 0; len(found) == limit && number+1 < len(n.shards) {
			return found, fmt.Sprintf("%d.0", number+1), nil
		}
	}
	return found, "", nil
}

// numbers reads so many numbers with dots between.
func numbers(text string, count int) ([]uint32, error) {
	parts := strings.Split(text, ".")
	if len(parts) != count {
		return nil, fmt.Errorf("%d parts, want %d", len(parts), count)
	}
	list := make([]uint32, count)
	for i, part := range parts {
		x, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return nil, err
		}
		list[i] = uint32(x)
	}
	return list, nil
}

// Statement returns up to limit entries of an account behind a cursor, with times in [from, to) (zero: no bound), the cursor
// of the next page, and the time up to which the ledger was seen.
func (n *Node) Statement(ctx context.Context, account, cursor string, from, to time.Time, limit int) (page ledger.Statement, next, asOf string, err error) {
	var after uint32
	if cursor != "" {
		parts, err := numbers(cursor, 1)
		if err != nil {
			return page, "", "", fmt.Errorf("%w: %q", ErrCursor, cursor)
		}
		after = parts[0]
	}
	sh := n.shards[ledger.ShardOf(account, len(n.shards))]
	if err := sh.fresh(ctx); err != nil {
		return page, "", "", err
	}
	ok := false
	sh.read(func(s *ledger.State) {
		page, ok = s.Statement(account, after, nanoseconds(from), nanoseconds(to), limit)
		asOf = time.Unix(0, s.Position().Time).UTC().Format(time.RFC3339Nano)
	})
	if !ok {
		return page, "", "", fmt.Errorf("%w: %q", ErrAccountUnknown, account)
	}
	if page.Next != 0 {
		next = strconv.FormatUint(uint64(page.Next), 10)
	}
	return page, next, asOf, nil
}

func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// cloudEvent is an event in the JSON form of CloudEvents 1.0, with the extension "sequence".
type cloudEvent struct {
	SpecVersion string `json:"specversion"`
	ID          string `json:"id"`
	Source      string `json:"source"`
	Type        string `json:"type"`
	Subject     string `json:"subject"`
	Time        string `json:"time"`
	ContentType string `json:"datacontenttype"`
	Sequence    string `json:"sequence"`
	Data        any    `json:"data"`
}

func encodeEvent(shard int, e *ledger.Event) webhook.Event {
	c := cloudEvent{SpecVersion: "1.0", ID: fmt.Sprintf("%d-%d", shard, e.Number), Source: fmt.Sprintf("/pay/shards/%d", shard),
		Type: "dongne.pay." + e.Type, Subject: e.Subject, Time: time.Unix(0, e.Time).UTC().Format(time.RFC3339Nano),
		ContentType: "application/json", Sequence: strconv.FormatUint(uint64(e.Number), 10), Data: e.Transfer}
	if e.Account != nil {
		c.Data = e.Account
	}
	body, err := json.Marshal(c)
	if err != nil {
		panic("node: event does not encode: " + err.Error())
	}
	return webhook.Event{ID: c.ID, Type: c.Type, Time: time.Unix(0, e.Time), Body: body}
}

// Events implements webhook.Source: up to limit events behind a cursor ("": from the first on), by time, and the cursor
// behind them. A cursor has the number of the last event seen of each shard: "17" or "17.4".
func (n *Node) Events(after string, limit int) (events []webhook.Event, next string, err error) {
	seen, err := n.cursor(after)
	if err != nil {
		return nil, "", err
	}
	pages := make([][]ledger.Event, len(n.shards))
	for i, sh := range n.shards {
		sh.read(func(s *ledger.State) { pages[i] = s.Events(seen[i], limit) })
	}
	for len(events) < limit {
		first, ok := earliest(pages, func(e *ledger.Event) int64 { return e.Time })
		if !ok {
			break
		}
		e := &pages[first][0]
		pages[first] = pages[first][1:]
		seen[first] = e.Number
		events = append(events, encodeEvent(first, e))
	}
	return events, cursorText(seen), nil
}

// earliest returns which page's first element is the oldest; false: all are empty.
func earliest[T any](pages [][]T, at func(*T) int64) (first int, ok bool) {
	for i, page := range pages {
		if len(page) > 0 && (!ok || at(&page[0]) < at(&pages[first][0])) {
			first, ok = i, true
		}
	}
	return first, ok
}

func (n *Node) cursor(text string) ([]uint32, error) {
	if text == "" {
		return make([]uint32, len(n.shards)), nil
	}
	seen, err := numbers(text, len(n.shards))
	if err != nil {
		return nil, fmt.Errorf("%w: %q", ErrCursor, text)
	}
	if n.store.Shared() {
		return seen, nil // another process may have seen more
	}
	for i, end := range n.ends() {
		if seen[i] > end {
			return nil, fmt.Errorf("%w: %q is beyond its end", ErrCursor, text)
		}
	}
	return seen, nil
}

func cursorText(seen []uint32) string {
	parts := make([]string, len(seen))
	for i, number := range seen {
		parts[i] = strconv.FormatUint(uint64(number), 10)
	}
	return strings.Join(parts, ".")
}

func (n *Node) ends() []uint32 {
	ends := make([]uint32, len(n.shards))
	for i, sh := range n.shards {
		sh.read(func(s *ledger.State) { ends[i] = s.LastEvent() })
	}
	return ends
}

// End implements webhook.Source: the cursor behind the newest event.
func (n *Node) End() string { return cursorText(n.ends()) }

// Wait implements webhook.Source: it returns nil when there are events behind a cursor, or ctx's error.
func (n *Node) Wait(ctx context.Context, after string) error {
	seen, err := n.cursor(after)
	if err != nil {
		return err
	}
	for {
		n.mu.Lock()
		changed := n.changed
		n.mu.Unlock()
		for i, end := range n.ends() {
			if end > seen[i] {
				return nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tell wakes those who wait for events.
func (n *Node) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.changed)
	n.changed = make(chan struct{})
}
