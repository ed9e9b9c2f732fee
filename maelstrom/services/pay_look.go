package services

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"dongne/maelstrom/history"
	"dongne/maelstrom/services/books"
)

// A look asks one node for all that it knows.
type look struct {
	process
	client *client
	node   string
}

// everything is the accounts, with their statements, the events, and the transfers that have totals.
func (l *look) everything(ctx context.Context, accounts []string) books.View {
	v := books.View{Node: l.node, Accounts: map[string]books.Account{}, Statements: map[string][]books.Statement{}, Transfers: map[string]books.Transfer{}}
	end, _ := l.begin("look", nil)
	if v.Events, v.Err = l.events(ctx); v.Err != nil {
		end(history.Fail, l.node, nil, v.Err)
		return v
	}
	var mu sync.Mutex // of v
	var jobs []func() error
	for _, id := range append(accounts, l.system(v.Events)...) {
		jobs = append(jobs, func() error { return l.account(ctx, &v, &mu, id) })
	}
	for _, id := range withTotals(v.Events) {
		jobs = append(jobs, func() error {
			var t books.Transfer
			err := l.get(ctx, "/transfers/"+id, &t)
			mu.Lock()
			defer mu.Unlock()
			v.Transfers[id] = t
			return err
		})
	}
	if v.Err = atOnce(finalsAtOnce, jobs); v.Err != nil {
		end(history.Fail, l.node, nil, v.Err)
		return v
	}
	end(history.OK, l.node, map[string]int{"accounts": len(v.Accounts), "events": len(v.Events), "transfers": len(v.Transfers)}, nil)
	return v
}

// atOnce does so many jobs at a time, and returns the first error.
func atOnce(n int, jobs []func() error) error {
	next := make(chan func() error)
	errs := make(chan error, len(jobs))
	var working sync.WaitGroup
	for range n {
		working.Go(func() {
			for job := range next {
				errs <- job()
			}
		})
	}
	for _, job := range jobs {
		next <- job
	}
	close(next)
	working.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// get asks again when there is no answer: nothing is cut off any more, but a node may be busy.
func (l *look) get(ctx context.Context, path string, v any) (err error) {
	for range attemptsMax {
		err = l.client.do(ctx, l.node, http.MethodGet, path, "", nil, v)
		if status, ok := err.(statusError); err == nil || ok && status.status < 500 && status.status != http.StatusTooManyRequests {
			break
		}
		if !pauseFor(ctx, againMax) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

// account fetches one, with its whole statement. Those of pay itself it need not show.
func (l *look) account(ctx context.Context, v *books.View, mu *sync.Mutex, id string) error {
	var a books.Account
	if err := l.get(ctx, "/accounts/"+url.PathEscape(id), &a); err != nil {
		var status statusError
		if strings.HasPrefix(id, books.SystemPrefix) && errors.As(err, &status) && status.status == http.StatusNotFound {
			return nil
		}
		return err
	}
	var pages []books.Statement
	for cursor := ""; len(pages) < pagesMax; {
		var page books.Statement
		if err := l.get(ctx, fmt.Sprintf("/accounts/%s/entries?limit=%d&cursor=%s", url.PathEscape(id), payPageSize, url.QueryEscape(cursor)), &page); err != nil {
			return err
		}
		pages = append(pages, page)
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	mu.Lock()
	defer mu.Unlock()
	v.Accounts[id], v.Statements[id] = a, pages
	return nil
}

// A page of events, as pay gives them.
type eventsPage struct {
	Items []books.Event
	Next  string
}

func eventPage(ctx context.Context, c *client, node, cursor string) (page eventsPage, err error) {
	err = c.do(ctx, node, http.MethodGet, fmt.Sprintf("/events?limit=%d&after=%s", payPageSize, url.QueryEscape(cursor)), "", nil, &page)
	return page, err
}

func (l *look) events(ctx context.Context) (all []books.Event, err error) {
	cursor := ""
	for range pagesMax {
		var page eventsPage
		if err := l.get(ctx, fmt.Sprintf("/events?limit=%d&after=%s", payPageSize, url.QueryEscape(cursor)), &page); err != nil {
			return nil, err
		}
		if len(page.Items) == 0 {
			return all, nil
		}
		all, cursor = append(all, page.Items...), page.Next
	}
	return nil, fmt.Errorf("GET /events on %s: more than %d pages", l.node, pagesMax)
}

// system are the accounts of pay's own that events name, or need.
func (l *look) system(events []books.Event) []string {
	found := map[string]bool{}
	for i := range events {
		t, ok := events[i].Transfer()
		if ok && events[i].Crosses() {
			found[books.TransitOf(t.Amount.Currency, events[i].Source)] = true
		}
		for _, leg := range t.Legs {
			if strings.HasPrefix(leg.Account, books.SystemPrefix) {
				found[leg.Account] = true
			}
		}
	}
	return sorted(found)
}

// withTotals are the transfers of which more can be told than what their events say.
func withTotals(events []books.Event) []string {
	found := map[string]bool{}
	for _, t := range transfersOf(events) {
		switch t.Kind {
		case "hold", "claimable":
			found[t.ID] = true
		case "refund":
			found[t.Parent] = true
		}
	}
	return sorted(found)
}

func transfersOf(events []books.Event) []books.Transfer {
	var all []books.Transfer
	for i := range events {
		if t, ok := events[i].Transfer(); ok {
			all = append(all, t)
		}
	}
	return slices.Clip(all)
}
