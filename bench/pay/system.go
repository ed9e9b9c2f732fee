package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"dongne/bench/load"
	"dongne/bench/proc"
)

const (
	clientsMax  = 64 // at a time, of every measurement
	dialTime    = 10 * time.Second
	postgresHow = "absent: apt-get install postgresql-15"
	etcdHow     = "absent: apt-get install etcd-server"
)

// server is a running system with its accounts.
type server struct {
	addr      string
	debug     string // address of net/http/pprof, empty: none
	processes []*proc.Process
	books     func(ctx context.Context) (books, error)
	// settle makes a peer ready for a measurement with so many clients; nil: nothing is to be done.
	settle func(ctx context.Context, clients int) error
	// effects is all that a transfer changes; nil: it cannot be told.
	effects func(ctx context.Context) (effects, error)
	// profile saves a profile of the time in which it runs; nil: none.
	profile func(ctx context.Context) error
}

// stop ends the processes, the last started first.
func (s *server) stop() {
	for i := len(s.processes) - 1; i >= 0; i-- {
		s.processes[i].Stop()
	}
}

// cpu is the time that all processes have used up.
func (s *server) cpu() (total time.Duration, err error) {
	for _, p := range s.processes {
		used, err := p.CPU()
		if err != nil {
			return 0, err
		}
		total += used
	}
	return total, nil
}

// system is something to measure.
type system struct {
	name    string
	ours    bool
	batches bool   // it has POST /transfers:batch
	storms  bool   // it is measured with replays
	absent  string // why it is not here, with the way to get it; empty: it is
	start   func(ctx context.Context, dir string, accounts int, opening int64) (*server, error)
}

// The names of the systems in the report.
const (
	procedureName  = "PostgreSQL, a procedure"
	combinerName   = "PostgreSQL, sets of 64"
	boltBatchName  = "bbolt, Batch"
	boltUpdateName = "bbolt, Update"
	casName        = "etcd, naive CAS"
	oursName       = "ours (pay), file"
	oursEtcdName   = "ours (pay), etcd"
)

// findSystems looks for what is installed. Ours is built when it is first started. The order is the one in which they are measured.
func findSystems(ctx context.Context, dir string) ([]system, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	program := sync.OnceValues(func() (string, error) { return proc.Build(ctx, dir, "dongne/pay") })
	peers := findPeers(self)
	etcd, etcdAbsent := findEtcd()
	file := system{name: oursName, ours: true, batches: true, storms: true, start: payServer(program, "")}
	shared := system{name: oursEtcdName, ours: true, batches: true, absent: etcdAbsent, start: payServer(program, etcd)}
	return []system{peers[0], file, peers[1], peers[2], peers[3], peers[4], shared}, nil
}

// findPeers returns the peers, which self serves.
func findPeers(self string) []system {
	postgres, postgresAbsent := findPostgres()
	etcd, etcdAbsent := findEtcd()
	withPostgres := func(ctx context.Context, dir string) (*proc.Process, string, error) {
		return startPostgres(ctx, postgres, dir)
	}
	withEtcd := func(ctx context.Context, dir string) (*proc.Process, string, error) { return startEtcd(ctx, etcd, dir) }
	return []system{
		{name: procedureName, absent: postgresAbsent, start: peerServer(self, "procedure", withPostgres)},
		{name: combinerName, batches: true, absent: postgresAbsent, start: peerServer(self, "combiner", withPostgres)},
		{name: boltBatchName, start: peerServer(self, "bolt-batch", nil)},
		{name: boltUpdateName, start: peerServer(self, "bolt-update", nil)},
		{name: casName, absent: etcdAbsent, start: peerServer(self, "etcd-cas", withEtcd)},
	}
}

// findPostgres looks for version 15 where Debian puts it, and then for any version in PATH.
func findPostgres() (bin, absent string) {
	bin = "/usr/lib/postgresql/15/bin"
	if _, err := os.Stat(filepath.Join(bin, "postgres")); err == nil {
		return bin, ""
	}
	program, err := exec.LookPath("postgres")
	if err != nil {
		return "", postgresHow
	}
	if program, err = filepath.EvalSymlinks(program); err != nil {
		return "", postgresHow
	}
	return filepath.Dir(program), ""
}

func findEtcd() (program, absent string) {
	program, err := exec.LookPath("etcd")
	if err != nil {
		return "", etcdHow
	}
	return program, ""
}

// peerServer starts what the engine needs and then the engine behind HTTP, in a process of its own: this program again.
func peerServer(self, engine string, need func(context.Context, string) (*proc.Process, string, error)) func(
	context.Context, string, int, int64) (*server, error) {
	return func(ctx context.Context, dir string, accounts int, opening int64) (*server, error) {
		s := &server{}
		config := peerConfig{Engine: engine, Dir: dir, Accounts: accounts, Opening: opening, Clients: clientsMax}
		if need != nil {
			process, database, err := need(ctx, dir)
			if err != nil {
				return nil, err
			}
			s.processes, config.Database = append(s.processes, process), database
		}
		var err error
		if config.Addr, err = proc.FreeAddr(); err != nil {
			s.stop()
			return nil, err
		}
		text, err := json.Marshal(config)
		if err != nil {
			s.stop()
			return nil, err
		}
		process, err := proc.Start([]string{peerEnv + "=" + string(text)}, self)
		if err != nil {
			s.stop()
			return nil, err
		}
		s.processes, s.addr = append(s.processes, process), config.Addr
		if err := process.AwaitTCP(ctx, s.addr); err != nil {
			s.stop()
			return nil, err
		}
		s.books = func(ctx context.Context) (books, error) { return peerBooks(ctx, s.addr) }
		s.settle = func(ctx context.Context, clients int) error {
			_, err := request(ctx, s.addr, "POST", fmt.Sprintf("/settle?clients=%d", clients), "", nil)
			return err
		}
		return s, nil
	}
}

func peerBooks(ctx context.Context, addr string) (books, error) {
	var kept books
	text, err := load.Get(ctx, "http://"+addr+"/books")
	if err != nil {
		return kept, err
	}
	return kept, json.Unmarshal(text, &kept)
}

// request sends one request over a connection of its own and fails unless the answer is 200 or 201.
func request(ctx context.Context, addr, method, path, headers string, body []byte) ([]byte, error) {
	conn, err := load.DialHTTP(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	status, answer, err := conn.Do(method, path, headers, body)
	if err == nil && status != http.StatusOK && status != http.StatusCreated {
		err = fmt.Errorf("%s %s: status %d: %s", method, path, status, answer)
	}
	return answer, err
}

// payServer starts our pay, on a file, or on an etcd that it starts from the program etcd. One line per request is not
// logged, as the peers do not log them either.
func payServer(build func() (string, error), etcd string) func(context.Context, string, int, int64) (*server, error) {
	return func(ctx context.Context, dir string, accounts int, opening int64) (*server, error) {
		program, err := build()
		if err != nil {
			return nil, err
		}
		s, store := &server{}, "file"
		if etcd != "" {
			process, addr, err := startEtcd(ctx, etcd, dir)
			if err != nil {
				return nil, err
			}
			s.processes, store = append(s.processes, process), "etcd://"+addr
		}
		if err := s.startPay(ctx, program, dir, store); err != nil {
			s.stop()
			return nil, err
		}
		if err := openAccounts(ctx, s.addr, accounts, opening); err != nil {
			s.stop()
			return nil, err
		}
		s.books = func(ctx context.Context) (books, error) { return payBooks(ctx, s.addr) }
		s.effects = func(ctx context.Context) (effects, error) { return payEffects(ctx, s, dir) }
		return s, nil
	}
}

// startPay starts the program on dir and waits until it is ready.
func (s *server) startPay(ctx context.Context, program, dir, store string) error {
	addrs, ports, err := proc.FreeAddrs(2)
	if err != nil {
		return err
	}
	process, err := proc.Start([]string{"HOST=127.0.0.1", "PORT=" + ports[0], "DATA_DIR=" + filepath.Join(dir, "pay"),
		"STORE=" + store, "SHARDS=1", "DEBUG_ADDR=" + addrs[1], "LOG_LEVEL=warn", "AUTH_URL=", "LOGS_URL=",
		"OTEL_EXPORTER_OTLP_ENDPOINT="}, program)
	if err != nil {
		return err
	}
	s.processes, s.addr, s.debug = append(s.processes, process), addrs[0], addrs[1]
	return process.Await(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, dialTime)
		defer cancel()
		_, err := request(ctx, s.addr, "GET", "/ready", "", nil)
		return err
	})
}

const (
	userHeader = "X-User: bench\r\nContent-Type: application/json\r\n"
	fundItems  = 500 // transfers in a batch that gives the accounts their opening balances
	pageItems  = 500 // accounts in a page
)

// keyHeader is all headers of an unsafe request with this idempotency key.
func keyHeader(key string) string { return userHeader + "Idempotency-Key: " + key + "\r\n" }

// openAccounts creates the bank, an asset of ours, and the accounts, and gives each its opening balance from the bank.
func openAccounts(ctx context.Context, addr string, accounts int, opening int64) error {
	body := fmt.Appendf(nil, `{"id":%q,"currency":%q,"kind":"asset"}`, accountName(bank), currency)
	if _, err := request(ctx, addr, "POST", "/accounts", keyHeader("open-bank"), body); err != nil {
		return err
	}
	err := parallel(ctx, addr, clientsMax, func(conn *load.HTTP, client int) error {
		for i := 1 + client; i <= accounts; i += clientsMax {
			body := fmt.Appendf(nil, `{"id":%q,"currency":%q}`, accountName(i), currency)
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
	if err != nil {
		return err
	}
	var b batcher
	for first := 1; first <= accounts; first += fundItems {
		var batch []order
		for i := first; i < min(first+fundItems, accounts+1); i++ {
			batch = append(batch, order{"fund-" + strconv.Itoa(i), bank, i, opening})
		}
		conn, err := load.DialHTTP(ctx, addr)
		if err != nil {
			return err
		}
		err = b.post(conn, "fund-"+strconv.Itoa(first), batch)
		conn.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// payBooks reads all accounts, page after page. A transfer between two accounts has two entries.
func payBooks(ctx context.Context, addr string) (books, error) {
	kept, entries := books{Balances: map[string]int64{}}, 0
	conn, err := load.DialHTTP(ctx, addr)
	if err != nil {
		return kept, err
	}
	defer conn.Close()
	path := fmt.Sprintf("/accounts?limit=%d", pageItems)
	for cursor := ""; ; {
		status, answer, err := conn.Do("GET", path+cursor, userHeader, nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("GET %s: status %d: %s", path+cursor, status, answer)
		}
		if err != nil {
			return kept, err
		}
		next, more, err := kept.addPage(answer)
		if err != nil {
			return kept, err
		}
		if entries += more; next == "" {
			kept.Transfers = entries / 2
			return kept, nil
		}
		cursor = "&cursor=" + next
	}
}

// addPage takes a page of accounts and returns the next one's cursor and how many entries the accounts have.
func (b *books) addPage(page []byte) (next string, entries int, err error) {
	var body struct {
		Items []struct {
			ID, Kind string
			Entries  json.Number
			Posted   struct{ Amount string }
		}
		Next string
	}
	if err := json.Unmarshal(page, &body); err != nil {
		return "", 0, err
	}
	for _, account := range body.Items {
		balance, err := strconv.ParseInt(account.Posted.Amount, 10, 64)
		if err != nil {
			return "", 0, fmt.Errorf("the balance of %s: %w", account.ID, err)
		}
		if account.Kind == "asset" { // whose balance grows by what is paid from it
			balance = -balance
		}
		n, err := strconv.Atoi(strings.Trim(account.Entries.String(), `"`))
		if err != nil {
			return "", 0, fmt.Errorf("the entries of %s: %w", account.ID, err)
		}
		b.Balances[account.ID] = balance
		entries += n
	}
	return body.Next, entries, nil
}
