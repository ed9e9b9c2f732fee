package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"dongne/bench/proc"
)

const postgresUser = "postgres" // who runs the database when this process is root, as it refuses to run as root

//go:embed postgres.sql
var postgresSchema string

// startPostgres starts a cluster of its own in dir, reached by a Unix socket in dir alone. Everything that is
// acknowledged is on disk: fsync and synchronous_commit are on. The other settings make room, so that no checkpoint falls
// into a measurement.
func startPostgres(ctx context.Context, bin, dir string) (*proc.Process, string, error) {
	credential, err := postgresCredential(dir)
	if err != nil {
		return nil, "", err
	}
	data := filepath.Join(dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", postgresUser, "--auth=trust",
		"--no-locale", "--encoding=UTF8", "--no-sync")
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	initdb.Dir = dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, "", fmt.Errorf("initdb: %w: %s", err, out)
	}
	args := []string{"-D", data, "-k", dir, "-c", "listen_addresses="}
	for _, setting := range []string{"fsync=on", "synchronous_commit=on", "full_page_writes=on", "wal_sync_method=fdatasync",
		"shared_buffers=512MB", "wal_buffers=64MB", "max_wal_size=16GB", "min_wal_size=2GB", "checkpoint_timeout=1h",
		"max_connections=100", "jit=off"} {
		args = append(args, "-c", setting)
	}
	process, err := proc.StartAs(credential, []string{"LC_ALL=C"}, filepath.Join(bin, "postgres"), args...)
	if err != nil {
		return nil, "", err
	}
	database := "host=" + dir + " user=" + postgresUser + " dbname=postgres"
	if err := process.Await(ctx, func() error { return pingPostgres(ctx, database) }); err != nil {
		process.Stop()
		return nil, "", err
	}
	return process, database, nil
}

// postgresCredential gives dir to the user that the database runs as.
func postgresCredential(dir string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup(postgresUser)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, os.Chown(dir, int(uid), int(gid))
}

func pingPostgres(ctx context.Context, database string) error {
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.Ping(ctx)
}

// procedure is the engine that calls pay once for each transfer, over a pool with a connection for each client.
type procedure struct {
	pool     *pgxpool.Pool
	database string
}

func openProcedure(ctx context.Context, c peerConfig) (engine, error) {
	pool, err := openBooks(ctx, c, c.Clients, nil)
	if err != nil {
		return nil, err
	}
	return &procedure{pool, c.Database}, nil
}

// openBooks makes the schema and the accounts and returns a pool of that many open connections.
func openBooks(ctx context.Context, c peerConfig, connections int, params map[string]string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(c.Database)
	if err != nil {
		return nil, err
	}
	config.MinConns, config.MaxConns = int32(connections), int32(connections)
	for name, value := range params {
		config.ConnConfig.RuntimeParams[name] = value
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	for _, statement := range []string{postgresSchema,
		fmt.Sprintf(`INSERT INTO accounts VALUES ('%s', %d, true)`, accountName(bank), -int64(c.Accounts)*c.Opening),
		fmt.Sprintf(`INSERT INTO accounts SELECT 'a' || i, %d, false FROM generate_series(1, %d) AS i`, c.Opening, c.Accounts),
		"VACUUM ANALYZE", "CHECKPOINT"} {
		if _, err := pool.Exec(ctx, statement); err != nil {
			pool.Close()
			return nil, fmt.Errorf("%.40s: %w", statement, err)
		}
	}
	return pool, nil
}

func (e *procedure) pay(ctx context.Context, p payment) (result, error) {
	row := e.pool.QueryRow(ctx, "SELECT status, transfer, replayed FROM pay($1, $2, $3, $4)", p.key, p.from, p.to, p.amount)
	return scanResult(row)
}

func scanResult(row pgx.Row) (result, error) {
	var r result
	var id *int64
	if err := row.Scan(&r.status, &id, &r.replayed); err != nil {
		return r, err
	}
	if id != nil {
		r.transfer = strconv.FormatInt(*id, 10)
	}
	return r, nil
}

// books uses a connection of its own: the pool's may have settings that fit nothing but payments.
func (e *procedure) books(ctx context.Context) (books, error) {
	kept := books{Balances: map[string]int64{}}
	conn, err := pgx.Connect(ctx, e.database)
	if err != nil {
		return kept, err
	}
	defer conn.Close(ctx)
	// Each transfer must have its two entries and its key: what has not, or what is too many, is not counted as one.
	const count = `SELECT count(*) FROM transfers t
		JOIN (SELECT transfer FROM entries GROUP BY 1 HAVING count(*) = 2 AND sum(amount) = 0) e ON e.transfer = t.id
		JOIN keys k ON k.transfer = t.id AND (k.payer, k.payee, k.amount, k.status) = (t.payer, t.payee, t.amount, 1)`
	if err := conn.QueryRow(ctx, count).Scan(&kept.Transfers); err != nil {
		return kept, err
	}
	var entries int
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM entries").Scan(&entries); err != nil {
		return kept, err
	}
	if entries != 2*kept.Transfers {
		return kept, fmt.Errorf("%d whole transfers, %d entries", kept.Transfers, entries)
	}
	rows, err := conn.Query(ctx, "SELECT id, balance FROM accounts")
	if err != nil {
		return kept, err
	}
	var id string
	var balance int64
	_, err = pgx.ForEachRow(rows, []any{&id, &balance}, func() error {
		kept.Balances[id] = balance
		return nil
	})
	return kept, err
}

func (e *procedure) settle(ctx context.Context, _ int) error {
	_, err := e.pool.Exec(ctx, "VACUUM ANALYZE")
	return err
}

func (e *procedure) close() error {
	e.pool.Close()
	return nil
}
