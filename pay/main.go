// Pay: double-entry transfers as a platform: accounts, transfers, holds, refunds, claimable transfers, statements, and an
// outbox with signed webhooks.
//
// Every request is one entry of a log, and is answered once that is durable; the books are what the log says. With
// STORE=etcd://… several processes share the logs, and any of them takes any request.
//
//	PORT              8085      port to listen on
//	DATA_DIR          data/pay  folder of the logs and snapshots
//	STORE             file      file, or etcd://host:port,host:port[/prefix]
//	SHARDS            1         how many logs the accounts are spread over, 1 to 64; fixed by the first process that uses them
//	WEBHOOKS_PRIVATE  false     whether webhooks may go to private addresses, and without TLS
//
// and what every service has. A caller sees and moves what is his own; a token with the scope pay:read shows everything, one
// with pay:write moves it, too. With the same environment, and no pay running on that folder,
//
//	go run ./pay verify    replays the logs, checks all that must hold, and prints each shard's hash; exit code 1 if not
//	go run ./pay export    writes the journal, an event a line
package main

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"dongne/internal/serve"
	"dongne/pay/api"
	"dongne/pay/ledger"
	"dongne/pay/node"
)

//go:embed openapi.yaml
var openapi []byte

//go:embed page.html
var page []byte

const (
	pageSize, pageSizeMax = 50, 500                                         // items of a list in one answer, unasked and at most
	retryMin, retrySpread = 500 * time.Millisecond, 1500 * time.Millisecond // until a stream's client comes back
)

var vars = append(serve.Common("pay", 8085),
	serve.Var{Name: "STORE", Default: "file", Help: "file, or etcd://host:port,host:port[/prefix]"},
	serve.Var{Name: "SHARDS", Default: "1", Help: "how many logs the accounts are spread over, 1 to 64; fixed by the first process"},
	serve.Var{Name: "WEBHOOKS_PRIVATE", Default: "false", Help: "whether webhooks may go to private addresses, and without TLS"},
)

func main() {
	if done, err := offline(os.Args[1:], os.Getenv, os.Stdout); done {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	serve.Main("pay: accounts, transfers, holds and refunds on a durable log\n\n"+
		"With one argument it does something else: verify checks the logs, export writes the journal.", vars, run)
}

func run(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
	config, err := configure(getenv, stdout)
	if err != nil {
		return err
	}
	n, err := node.Open(ctx, config)
	if err != nil {
		return err
	}
	return errors.Join(serve.Run(ctx, getenv, stdout, service(n)), n.Close())
}

// offline does what the only argument says, if it is one of its two.
func offline(args []string, lookup func(string) string, stdout io.Writer) (done bool, err error) {
	commands := map[string]func(context.Context, node.Config, io.Writer) error{"verify": node.Verify, "export": node.Export}
	if len(args) != 1 || commands[args[0]] == nil {
		return false, nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	config, err := configure(serve.Env(vars, lookup), io.Discard)
	if err == nil {
		err = commands[args[0]](ctx, config, stdout)
	}
	return true, err
}

func configure(getenv func(string) string, stdout io.Writer) (node.Config, error) {
	shards, err1 := serve.Int(getenv, "SHARDS", 1, 64)
	private, err2 := strconv.ParseBool(getenv("WEBHOOKS_PRIVATE"))
	if err2 != nil {
		err2 = fmt.Errorf("WEBHOOKS_PRIVATE=%q: want true or false", getenv("WEBHOOKS_PRIVATE"))
	}
	logger, err3 := serve.NewLogger(getenv, stdout)
	return node.Config{
		Name: fmt.Sprintf("pay/%d", os.Getpid()), Store: getenv("STORE"), Dir: getenv("DATA_DIR"), Shards: shards,
		WebhooksPrivate: private, Now: time.Now, Rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())), Logger: logger,
	}, cmp.Or(err1, err2, err3)
}

func service(n *node.Node) serve.Service {
	h := handlers{n}
	return serve.Service{
		Name:    "pay",
		OpenAPI: openapi,
		Metrics: n.Metrics,
		Routes: map[string]serve.Handler{
			"GET /{$}":                           serve.Page(page),
			"POST /accounts":                     change[api.Open](h),
			"GET /accounts":                      api.Reads("", h.accounts),
			"GET /accounts/{account}":            api.Reads("", h.account),
			"PATCH /accounts/{account}":          change[api.Change](h),
			"GET /accounts/{account}/entries":    api.Reads("", h.statement),
			"POST /transfers":                    change[api.Move](h),
			"POST /transfers:batch":              api.Writes("", h.batch),
			"GET /transfers/{transfer}":          api.Reads("", h.transfer),
			"POST /transfers/{transfer}/capture": change[api.Capture](h),
			"POST /transfers/{transfer}/void":    change[api.Void](h),
			"POST /transfers/{transfer}/refund":  change[api.Refund](h),
			"POST /transfers/{transfer}/claim":   change[api.Claim](h),
			"GET /events":                        api.Reads("", h.events),
			"POST /webhooks":                     api.Writes(api.Write, h.addWebhook),
			"GET /webhooks":                      api.Reads(api.Write, h.webhooks),
			"DELETE /webhooks/{webhook}":         api.Writes(api.Write, h.dropWebhook),
			"POST /webhooks/{webhook}/rotate":    api.Writes(api.Write, h.rotateWebhook),
			"POST /webhooks/{webhook}/enable":    api.Writes(api.Write, h.enableWebhook),
		},
		Strict: []string{"POST /accounts", "PATCH /accounts/{account}", "POST /transfers", "POST /transfers:batch",
			"POST /transfers/{transfer}/capture", "POST /transfers/{transfer}/void", "POST /transfers/{transfer}/refund",
			"POST /transfers/{transfer}/claim", "POST /webhooks", "DELETE /webhooks/{webhook}",
			"POST /webhooks/{webhook}/rotate", "POST /webhooks/{webhook}/enable"},
	}
}

type handlers struct{ node *node.Node }

// change makes the handler of a request to the ledger: path and body say what is asked.
func change[B api.Body](h handlers) serve.Handler {
	return api.Writes("", func(w http.ResponseWriter, r *http.Request, caller serve.Identity, key string) error {
		q, err := api.Request[B](r, caller.User, key, caller.May(api.Write))
		if err != nil {
			return err
		}
		wait, err := api.Wait(r)
		if err != nil {
			return err
		}
		answer, err := h.node.Do(r.Context(), q, wait)
		if err != nil {
			return err
		}
		api.Replayed(w, answer.Replayed)
		switch {
		case answer.Refused != 0:
			return api.Refused(answer.Refused, answer.Detail)
		case answer.Transfer != nil:
			return serve.JSON(w, http.StatusCreated, answer.Transfer)
		case q.Kind == ledger.OpenAccount:
			return serve.JSON(w, http.StatusCreated, answer.Account)
		}
		w.Header().Set("ETag", api.Tag(answer.Account))
		return serve.JSON(w, http.StatusOK, answer.Account)
	})
}

func (h handlers) batch(w http.ResponseWriter, r *http.Request, caller serve.Identity, key string) error {
	var body api.Batch
	if err := serve.Decode(r, &body); err != nil {
		return err
	}
	requests, keys, err := body.Fill(key, caller.User, caller.May(api.Write))
	if err != nil {
		return err
	}
	answers, errs := h.node.Batch(r.Context(), requests)
	results, all, err := api.Results(keys, answers, errs)
	if err != nil {
		return err
	}
	api.Replayed(w, all)
	return serve.List(w, results, "")
}

func (h handlers) accounts(w http.ResponseWriter, r *http.Request, caller serve.Identity) error {
	limit, err1 := serve.Limit(r, pageSize, pageSizeMax)
	owner, err2 := api.Owner(r, caller)
	if err := cmp.Or(err1, err2); err != nil {
		return err
	}
	found, next, err := api.View(h.node, caller).Accounts(r.Context(), r.URL.Query().Get("cursor"), owner, limit)
	if err != nil {
		return err
	}
	return serve.List(w, found, next)
}

func (h handlers) account(w http.ResponseWriter, r *http.Request, caller serve.Identity) error {
	found, err := api.View(h.node, caller).Account(r.Context(), r.PathValue("account"))
	if err != nil {
		return err
	}
	tag := api.Tag(&found)
	w.Header().Set("ETag", tag)
	if api.NoneMatch(r.Header, tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return serve.JSON(w, http.StatusOK, found)
}

func (h handlers) statement(w http.ResponseWriter, r *http.Request, caller serve.Identity) error {
	limit, err1 := serve.Limit(r, pageSize, pageSizeMax)
	from, err2 := api.Time(r, "from")
	to, err3 := api.Time(r, "to")
	if err := cmp.Or(err1, err2, err3); err != nil {
		return err
	}
	view, cursor := api.View(h.node, caller), r.URL.Query().Get("cursor")
	account, page, next, asOf, err := view.Statement(r.Context(), r.PathValue("account"), cursor, from, to, limit)
	if err != nil {
		return err
	}
	return serve.JSON(w, http.StatusOK, api.StatementOf(&account, &page, next, asOf))
}

func (h handlers) transfer(w http.ResponseWriter, r *http.Request, caller serve.Identity) error {
	found, err := api.View(h.node, caller).Transfer(r.Context(), r.PathValue("transfer"))
	if err != nil {
		return err
	}
	return serve.JSON(w, http.StatusOK, found)
}

func (h handlers) events(w http.ResponseWriter, r *http.Request, caller serve.Identity) error {
	view, query := api.View(h.node, caller), r.URL.Query()
	after := query.Get("after")
	if api.WantsFeed(r.Header) {
		after = cmp.Or(r.Header.Get("Last-Event-ID"), query.Get("last_event_id"), after)
		return api.Feed(w, r, view, after, retryMin+rand.N(retrySpread))
	}
	limit, err := serve.Limit(r, pageSize, pageSizeMax)
	if err != nil {
		return err
	}
	events, next, err := view.Events(after, limit)
	if err != nil {
		return err
	}
	return serve.List(w, api.Bodies(events), next)
}

func (h handlers) webhooks(w http.ResponseWriter, _ *http.Request, caller serve.Identity) error {
	return serve.List(w, h.node.Webhooks().List(caller.User), "")
}

func (h handlers) addWebhook(w http.ResponseWriter, r *http.Request, caller serve.Identity, key string) error {
	var body api.Webhook
	if err := serve.Decode(r, &body); err != nil {
		return err
	}
	endpoint, again, err := h.node.Webhooks().Create(r.Context(), caller.User, key, body.URL, body.Types)
	if err != nil {
		return err
	}
	api.Replayed(w, again)
	return serve.JSON(w, http.StatusCreated, endpoint)
}

func (h handlers) rotateWebhook(w http.ResponseWriter, r *http.Request, caller serve.Identity, key string) error {
	endpoint, err := h.node.Webhooks().Rotate(r.Context(), caller.User, key, r.PathValue("webhook"))
	if err != nil {
		return err
	}
	return serve.JSON(w, http.StatusOK, endpoint)
}

func (h handlers) enableWebhook(w http.ResponseWriter, r *http.Request, caller serve.Identity, _ string) error {
	return noContent(w, h.node.Webhooks().Enable(r.Context(), caller.User, r.PathValue("webhook")))
}

func (h handlers) dropWebhook(w http.ResponseWriter, r *http.Request, caller serve.Identity, _ string) error {
	return noContent(w, h.node.Webhooks().Delete(r.Context(), caller.User, r.PathValue("webhook")))
}

func noContent(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}
