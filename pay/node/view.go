package node

import (
	"context"
	"fmt"
	"time"

	"dongne/internal/sharedlog"
	"dongne/pay/ledger"
	"dongne/pay/webhook"
)

// View is the ledger as one caller may see it: all of it, or what is a user's business. Of that
//
//   - accounts are those that he owns
//   - transfers are those that he asked for, that are kept for him, or that move something in an account of his; and what
//     was done with such a transfer
//   - events are those about these accounts and transfers
//
// and everything else is as if it were not there. What stays visible is how much happens: ids and cursors count on.
type View struct {
	node *Node
	all  bool
	user string
}

// Everything returns the view of whoever may see all.
func (n *Node) Everything() View { return View{node: n, all: true} }

// SeenBy returns the view of a user.
func (n *Node) SeenBy(user string) View { return View{node: n, user: user} }

// Account returns an account as it is now.
func (v View) Account(ctx context.Context, id string) (ledger.Account, error) {
	a, err := v.node.Account(ctx, id)
	if err == nil && !v.all && a.Owner != v.user {
		return ledger.Account{}, fmt.Errorf("%w: %q", ErrAccountUnknown, id)
	}
	return a, err
}

// Accounts returns a page of the accounts of an owner, as Node.Accounts does; a user sees his own, whatever owner is.
func (v View) Accounts(ctx context.Context, cursor, owner string, limit int) (found []ledger.Account, next string, err error) {
	if !v.all {
		owner = v.user
	}
	return v.node.Accounts(ctx, cursor, owner, limit)
}

// Statement returns a page of an account's entries, as Node.Statement does, and the account.
func (v View) Statement(ctx context.Context, id, cursor string, from, to time.Time, limit int) (
	account ledger.Account, page ledger.Statement, next, asOf string, err error) {
	if account, err = v.Account(ctx, id); err == nil {
		page, next, asOf, err = v.node.Statement(ctx, id, cursor, from, to, limit)
	}
	return account, page, next, asOf, err
}

// Transfer returns a transfer as it is now.
func (v View) Transfer(ctx context.Context, id string) (ledger.Transfer, error) {
	t, err := v.node.Transfer(ctx, id)
	if err != nil || v.all {
		return t, err
	}
	parsed, _ := ledger.ParseTransfer(id)
	yes, err := v.node.concerns(ctx, parsed, v.user)
	if err == nil && !yes {
		err = fmt.Errorf("%w: %q", ErrTransferUnknown, id)
	}
	if err != nil {
		return ledger.Transfer{}, err
	}
	return t, nil
}

// concerns says whether a transfer is a user's business. The transfer's shard is fresh.
func (n *Node) concerns(ctx context.Context, id ledger.ID, user string) (yes bool, err error) {
	if int(id.Shard) >= len(n.shards) {
		return false, nil
	}
	var elsewhere []string
	n.shards[id.Shard].read(func(s *ledger.State) {
		if event := s.Find(id); event != 0 {
			yes, elsewhere = s.Concerns(event, user)
		}
	})
	if yes {
		return true, nil
	}
	owners := owners{node: n}
	return owners.any(ctx, elsewhere, user)
}

// owners looks up who owns accounts. A shard that does not know an account is brought up to date first, once.
type owners struct {
	node  *Node
	fresh map[int]bool
}

// any says whether a user owns one of the accounts.
func (o *owners) any(ctx context.Context, accounts []string, user string) (bool, error) {
	for _, id := range accounts {
		owner, err := o.of(ctx, id)
		if err != nil {
			return false, err
		}
		if owner == user && user != "" {
			return true, nil
		}
	}
	return false, nil
}

// of returns who owns an account, "" when nobody does.
func (o *owners) of(ctx context.Context, id string) (owner string, err error) {
	number := ledger.ShardOf(id, len(o.node.shards))
	sh := o.node.shards[number]
	for {
		known := false
		sh.read(func(s *ledger.State) { owner, known = s.Owner(id) })
		if known || o.fresh[number] {
			return owner, nil
		}
		if err := sh.fresh(ctx); err != nil {
			return "", err
		}
		if o.fresh == nil {
			o.fresh = map[int]bool{}
		}
		o.fresh[number] = true
	}
}

// scanMax is how many events one page of a user's looks through at most.
const scanMax = 1000

// seenEvent is what a page needs to know of an event before it is shown.
type seenEvent struct {
	number    uint32
	time      int64
	yes       bool
	elsewhere []string
}

// Events implements webhook.Source as Node.Events does. A page of a user's may be shorter than limit, even empty, before the
// end: it looks through a bounded number of events; its cursor has moved on.
func (v View) Events(after string, limit int) (events []webhook.Event, next string, err error) {
	if v.all {
		return v.node.Events(after, limit)
	}
	seen, err := v.node.cursor(after)
	if err != nil {
		return nil, "", err
	}
	pages := make([][]seenEvent, len(seen))
	for i, sh := range v.node.shards {
		sh.read(func(s *ledger.State) { pages[i] = scan(s, seen[i], v.user) })
	}
	owners := owners{node: v.node}
	for scanned := 0; scanned < scanMax && len(events) < limit; scanned++ {
		first, ok := earliest(pages, func(e *seenEvent) int64 { return e.time })
		if !ok {
			break
		}
		e := &pages[first][0]
		if !e.yes && len(e.elsewhere) > 0 {
			if e.yes, err = owners.any(context.Background(), e.elsewhere, v.user); err != nil { // it has a limit of its own
				return nil, "", err
			}
		}
		pages[first] = pages[first][1:]
		seen[first] = e.number
		if e.yes {
			v.node.shards[first].read(func(s *ledger.State) {
				shown := s.Event(e.number)
				events = append(events, encodeEvent(first, &shown))
			})
		}
	}
	return events, cursorText(seen), nil
}

func scan(s *ledger.State, after uint32, user string) (page []seenEvent) {
	for n := uint64(after) + 1; n <= uint64(s.LastEvent()) && len(page) < scanMax; n++ {
		e := seenEvent{number: uint32(n), time: s.EventTime(uint32(n))}
		e.yes, e.elsewhere = s.Concerns(uint32(n), user)
		page = append(page, e)
	}
	return page
}

// End implements webhook.Source.
func (v View) End() string { return v.node.End() }

// Wait implements webhook.Source: what it waits for may be none of the user's business.
func (v View) Wait(ctx context.Context, after string) error { return v.node.Wait(ctx, after) }

// admit judges what only the whole ledger can of a request that may not move what is not the caller's. What he cannot see
// is refused as if it were not there: the ledger's own refusals would tell him how much is left of it. And it is on this
// side that a hold's receiver is known for who he is, when his account is of another shard than the hold.
func (n *Node) admit(ctx context.Context, home *shard, q *ledger.Request) (refused ledger.Code, err error) {
	changes, acts := q.Kind == ledger.ChangeAccount, q.Transfer != ledger.ID{}
	if q.Any || !changes && !acts {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	if err := home.fresh(ctx); err != nil {
		return 0, untouched(err)
	}
	if changes {
		owner := ""
		home.read(func(s *ledger.State) { owner, _ = s.Owner(q.Account) })
		if owner != q.By {
			return ledger.AccountUnknown, nil
		}
		return 0, nil
	}
	yes, err := n.concerns(ctx, q.Transfer, q.By)
	switch {
	case err != nil:
		return 0, untouched(err)
	case !yes:
		return ledger.TransferUnknown, nil
	case q.Kind == ledger.Capture || q.Kind == ledger.Void:
		payee := ""
		home.read(func(s *ledger.State) { payee = s.Payee(q.Transfer) })
		if payee == "" || ledger.ShardOf(payee, len(n.shards)) == home.number {
			return 0, nil
		}
		owners := owners{node: n}
		if q.Any, err = owners.any(ctx, []string{payee}, q.By); err != nil { // of either it lifts this check alone
			return 0, untouched(err)
		}
	}
	return 0, nil
}

// untouched says of an error before the log saw the request that nothing was done.
func untouched(err error) error { return &sharedlog.Error{Outcome: sharedlog.NotApplied, Err: err} }
