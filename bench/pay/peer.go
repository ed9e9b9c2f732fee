package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

const (
	peerEnv      = "DONGNE_BENCH_PEER" // set: this process serves a peer, and the value is its peerConfig
	bodyBytesMax = 1 << 20
)

// peerConfig says what a peer's process serves.
type peerConfig struct {
	Engine   string
	Addr     string // to listen on, host:port
	Dir      string // of its own
	Database string // where its database is, if that is a process of its own
	Accounts int    // besides the bank
	Opening  int64  // balance of each account, from the bank
	Clients  int    // that will be there at a time, at most
}

// status is what became of a transfer: the first three are final for its key.
type status int16

const (
	posted  status = 1
	short   status = 2 // the payer's balance is too small
	unknown status = 3 // an account does not exist
	reused  status = 4 // the key belongs to another transfer
)

// payment is a transfer to make.
type payment struct {
	key, from, to string
	amount        int64
}

// result is what became of a payment. Replayed: it was an earlier one with the same key.
type result struct {
	status   status
	transfer string // id, of what was posted
	replayed bool
}

// engine keeps accounts, transfers and keys durably: when pay returns, they are on disk.
type engine interface {
	pay(ctx context.Context, p payment) (result, error)
	books(ctx context.Context) (books, error)
	// settle makes ready for a measurement with so many clients: what the manual advises to do after a bulk load, and
	// settings that fit their number. There are no payments meanwhile.
	settle(ctx context.Context, clients int) error
	close() error
}

// batchEngine pays many, in their order, in one commit.
type batchEngine interface {
	payMany(ctx context.Context, ps []payment) ([]result, error)
}

// engines are all engines that a peer's process can serve, opened and filled with accounts.
var engines = map[string]func(context.Context, peerConfig) (engine, error){
	"procedure":   openProcedure,
	"combiner":    openCombiner,
	"bolt-batch":  openBoltBatch,
	"bolt-update": openBoltUpdate,
	"etcd-cas":    openCAS,
}

// servePeer is the whole program when this process was started as a peer. It belongs at the start of main, and of TestMain.
func servePeer() {
	text := os.Getenv(peerEnv)
	if text == "" {
		return
	}
	if err := runPeer(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runPeer(text string) error {
	var config peerConfig
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	e, err := engines[config.Engine](ctx, config)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", config.Addr)
	if err != nil {
		return errors.Join(err, e.close())
	}
	srv := &http.Server{Handler: peerHandler(e)}
	context.AfterFunc(ctx, func() { srv.Close() })
	if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return errors.Join(err, e.close())
	}
	return e.close()
}

// peerHandler is HTTP around an engine and as little of it as can be: the bodies are pay's, with fewer fields in the answers.
func peerHandler(e engine) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /transfers", func(w http.ResponseWriter, r *http.Request) { servePayment(e, w, r) })
	if many, ok := e.(batchEngine); ok {
		mux.HandleFunc("POST /transfers:batch", func(w http.ResponseWriter, r *http.Request) { servePayments(many, w, r) })
	}
	mux.HandleFunc("GET /books", func(w http.ResponseWriter, r *http.Request) {
		kept, err := e.books(r.Context())
		answer(w, http.StatusOK, kept, err)
	})
	mux.HandleFunc("POST /settle", func(w http.ResponseWriter, r *http.Request) {
		clients, err := strconv.Atoi(r.FormValue("clients"))
		answer(w, http.StatusOK, struct{}{}, cmp.Or(err, e.settle(r.Context(), max(1, clients))))
	})
	return mux
}

// wirePayment is a transfer in JSON.
type wirePayment struct {
	Key    string `json:"key"`
	From   string `json:"from"`
	To     string `json:"to"`
	Amount struct {
		Amount   string `json:"amount"`
		Currency string `json:"currency"`
	} `json:"amount"`
}

func (p *wirePayment) payment(key string) (payment, error) {
	amount, err := strconv.ParseInt(p.Amount.Amount, 10, 64)
	if err != nil || amount <= 0 || p.Amount.Currency != currency || p.From == p.To || key == "" {
		return payment{}, fmt.Errorf("not a transfer with a key: %+v, key %q", *p, key)
	}
	return payment{key, p.From, p.To, amount}, nil
}

// wireResult answers a transfer in JSON.
type wireResult struct {
	Status   int           `json:"status,omitempty"` // of an item in a batch
	Replayed bool          `json:"replayed,omitempty"`
	Transfer *wireTransfer `json:"transfer,omitempty"`
	Code     string        `json:"code,omitempty"`
}

type wireTransfer struct {
	ID     string `json:"id"`
	Status string `json:"status"`
}

func (r result) wire() wireResult {
	switch r.status {
	case posted:
		return wireResult{http.StatusCreated, r.replayed, &wireTransfer{r.transfer, "posted"}, ""}
	case short:
		return wireResult{http.StatusConflict, r.replayed, nil, "insufficient-funds"}
	case unknown:
		return wireResult{http.StatusNotFound, r.replayed, nil, "account-unknown"}
	default:
		return wireResult{http.StatusUnprocessableEntity, false, nil, "idempotency-key-reused"}
	}
}

func servePayment(e engine, w http.ResponseWriter, r *http.Request) {
	var body wirePayment
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodyBytesMax)).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	p, err := body.payment(r.Header.Get("Idempotency-Key"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	done, err := e.pay(r.Context(), p)
	wire := done.wire()
	code := wire.Status
	if wire.Replayed {
		w.Header().Set("Idempotency-Replayed", "true")
	}
	if wire.Status, wire.Replayed = 0, false; wire.Transfer != nil {
		answer(w, code, wire.Transfer, err)
		return
	}
	answer(w, code, wire, err)
}

func servePayments(e batchEngine, w http.ResponseWriter, r *http.Request) {
	var body struct {
		Items []wirePayment `json:"items"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodyBytesMax)).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	payments := make([]payment, len(body.Items))
	for i := range body.Items {
		var err error
		if payments[i], err = body.Items[i].payment(body.Items[i].Key); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	results, err := e.payMany(r.Context(), payments)
	wires := make([]wireResult, len(results))
	for i, result := range results {
		wires[i] = result.wire()
	}
	answer(w, http.StatusOK, map[string]any{"items": wires}, err)
}

func answer(w http.ResponseWriter, code int, body any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	text, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(code)
	w.Write(text)
}
