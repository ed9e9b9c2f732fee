package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"dongne/bench/proc"
)

const (
	etcdOpsMax   = 100 // of a transaction; etcd takes 128
	etcdDialTime = 10 * time.Second
)

// startEtcd starts a single etcd in dir, with a sync before each acknowledgement as always, and returns its address.
func startEtcd(ctx context.Context, program, dir string) (*proc.Process, string, error) {
	addrs, _, err := proc.FreeAddrs(2)
	if err != nil {
		return nil, "", err
	}
	client, peer := "http://"+addrs[0], "http://"+addrs[1]
	process, err := proc.Start(nil, program, "--name", "one", "--data-dir", filepath.Join(dir, "etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "one="+peer, "--quota-backend-bytes", strconv.Itoa(8<<30),
		"--log-level", "error")
	if err != nil {
		return nil, "", err
	}
	if err := process.AwaitTCP(ctx, addrs[0]); err != nil {
		process.Stop()
		return nil, "", err
	}
	return process, addrs[0], nil
}

// cas is the engine that compares and swaps two accounts in one transaction of etcd, and tries again when another was
// faster. The keys are a/ACCOUNT with the balance, t/KEY and k/KEY.
type cas struct{ client *clientv3.Client }

func openCAS(ctx context.Context, c peerConfig) (engine, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{c.Database}, DialTimeout: etcdDialTime})
	if err != nil {
		return nil, err
	}
	var puts []clientv3.Op
	for i := range c.Accounts + 1 {
		balance := c.Opening
		if i == bank {
			balance = -int64(c.Accounts) * c.Opening
		}
		puts = append(puts, clientv3.OpPut("a/"+accountName(i), strconv.FormatInt(balance, 10)))
		if len(puts) == etcdOpsMax || i == c.Accounts {
			if _, err := client.Txn(ctx).Then(puts...).Commit(); err != nil {
				return nil, errors.Join(err, client.Close())
			}
			puts = puts[:0]
		}
	}
	return &cas{client}, nil
}

// pay reads both accounts and the key, and then swaps; the transaction that fails brings what it found for the next try.
func (e *cas) pay(ctx context.Context, p payment) (result, error) {
	gets := []clientv3.Op{clientv3.OpGet("a/" + p.from), clientv3.OpGet("a/" + p.to), clientv3.OpGet("k/" + p.key)}
	body := strings.Join([]string{p.from, p.to, strconv.FormatInt(p.amount, 10)}, " ")
	found, err := e.client.Txn(ctx).Then(gets...).Commit()
	for err == nil {
		from, to, key := casGot(found, 0), casGot(found, 1), casGot(found, 2)
		if key.exists {
			return casKnown(p, key.value, body)
		}
		outcome, puts, moveErr := casMove(p, body, from, to)
		if moveErr != nil {
			return result{}, moveErr
		}
		found, err = e.client.Txn(ctx).If(
			clientv3.Compare(clientv3.ModRevision("a/"+p.from), "=", from.revision),
			clientv3.Compare(clientv3.ModRevision("a/"+p.to), "=", to.revision),
			clientv3.Compare(clientv3.CreateRevision("k/"+p.key), "=", 0),
		).Then(puts...).Else(gets...).Commit()
		if err == nil && found.Succeeded {
			r := result{status: outcome}
			if outcome == posted {
				r.transfer = p.key
			}
			return r, nil
		}
	}
	return result{}, err
}

// casValue is a key's value; revision is 0 of one that does not exist.
type casValue struct {
	exists   bool
	value    string
	revision int64
}

func casGot(found *clientv3.TxnResponse, i int) casValue {
	kvs := found.Responses[i].GetResponseRange().Kvs
	if len(kvs) == 0 {
		return casValue{}
	}
	return casValue{true, string(kvs[0].Value), kvs[0].ModRevision}
}

// casKnown is the result under a known key, whose value is the status and the payment.
func casKnown(p payment, value, body string) (result, error) {
	text, known, _ := strings.Cut(value, " ")
	number, err := strconv.Atoi(text)
	if err != nil {
		return result{}, fmt.Errorf("etcd: key %s: %w", p.key, err)
	}
	if known != body {
		return result{status: reused}, nil
	}
	r := result{status: status(number), replayed: true}
	if r.status == posted {
		r.transfer = p.key
	}
	return r, nil
}

// casMove is what a transfer puts, or its refusal.
func casMove(p payment, body string, from, to casValue) (status, []clientv3.Op, error) {
	refusal := func(s status) (status, []clientv3.Op, error) {
		return s, []clientv3.Op{clientv3.OpPut("k/"+p.key, fmt.Sprintf("%d %s", s, body))}, nil
	}
	if !from.exists || !to.exists {
		return refusal(unknown)
	}
	paying, err := strconv.ParseInt(from.value, 10, 64)
	paid, err2 := strconv.ParseInt(to.value, 10, 64)
	if err := errors.Join(err, err2); err != nil {
		return 0, nil, fmt.Errorf("etcd: a balance: %w", err)
	}
	if paying < p.amount && p.from != accountName(bank) {
		return refusal(short)
	}
	return posted, []clientv3.Op{
		clientv3.OpPut("a/"+p.from, strconv.FormatInt(paying-p.amount, 10)),
		clientv3.OpPut("a/"+p.to, strconv.FormatInt(paid+p.amount, 10)),
		clientv3.OpPut("t/"+p.key, body),
		clientv3.OpPut("k/"+p.key, fmt.Sprintf("%d %s", posted, body)),
	}, nil
}

func (e *cas) books(ctx context.Context) (books, error) {
	kept := books{Balances: map[string]int64{}}
	transfers, err := e.client.Get(ctx, "t/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return kept, err
	}
	kept.Transfers = int(transfers.Count)
	accounts, err := e.client.Get(ctx, "a/", clientv3.WithPrefix())
	if err != nil {
		return kept, err
	}
	for _, kv := range accounts.Kvs {
		balance, err := strconv.ParseInt(string(kv.Value), 10, 64)
		if err != nil {
			return kept, fmt.Errorf("etcd: %s: %w", kv.Key, err)
		}
		kept.Balances[strings.TrimPrefix(string(kv.Key), "a/")] = balance
	}
	return kept, nil
}

func (e *cas) settle(context.Context, int) error { return nil }

func (e *cas) close() error { return e.client.Close() }
