package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"strconv"
	"time"

	bolt "go.etcd.io/bbolt"
)

const boltDelay = time.Millisecond // that a batch waits for as many payments as there are clients, at most

var errBoltTable = errors.New("bbolt: a table of the file is damaged")

// boltBooks is the engine on bbolt, an embedded B+ tree: accounts by name, transfers by number, keys with their results.
type boltBooks struct {
	db     *bolt.DB
	update func(func(*bolt.Tx) error) error // db.Update or db.Batch
}

// openBoltBatch combines concurrent payments in a commit, by bbolt's own Batch.
func openBoltBatch(_ context.Context, c peerConfig) (engine, error) {
	e, err := openBolt(c)
	if err != nil {
		return nil, err
	}
	e.db.MaxBatchSize, e.db.MaxBatchDelay = c.Clients, boltDelay
	e.update = e.db.Batch
	return e, nil
}

// openBoltUpdate commits every payment by itself.
func openBoltUpdate(_ context.Context, c peerConfig) (engine, error) {
	e, err := openBolt(c)
	if err != nil {
		return nil, err
	}
	e.update = e.db.Update
	return e, nil
}

// openBolt creates the tables and the accounts. Each commit is synced, the free list is not written, as bbolt advises
// for speed.
func openBolt(c peerConfig) (*boltBooks, error) {
	db, err := bolt.Open(filepath.Join(c.Dir, "books"), 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
		InitialMmapSize: 1 << 30})
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range []string{"accounts", "transfers", "keys"} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		accounts := tx.Bucket([]byte("accounts"))
		for i := range c.Accounts + 1 {
			balance := c.Opening
			if i == bank {
				balance = -int64(c.Accounts) * c.Opening
			}
			if err := accounts.Put([]byte(accountName(i)), boltNumber(balance)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &boltBooks{db: db}, nil
}

func boltNumber(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// boltPayment is a payment without its key, as transfers and keys keep it.
func boltPayment(p payment) []byte {
	b := boltNumber(p.amount)
	b = append(b, byte(len(p.from)))
	b = append(b, p.from...)
	return append(b, p.to...)
}

func (e *boltBooks) pay(_ context.Context, p payment) (result, error) {
	var r result
	err := e.update(func(tx *bolt.Tx) (err error) { // Batch may call it more than once
		r, err = boltPay(tx, p)
		return err
	})
	return r, err
}

// boltPay pays p or finds it paid. A key's value is the status, the transfer's number and the payment.
func boltPay(tx *bolt.Tx, p payment) (result, error) {
	keys, body := tx.Bucket([]byte("keys")), boltPayment(p)
	if known := keys.Get([]byte(p.key)); known != nil {
		if len(known) < 9 {
			return result{}, errBoltTable
		}
		if !bytes.Equal(known[9:], body) {
			return result{status: reused}, nil
		}
		return boltResult(known, true), nil
	}
	value := append([]byte{byte(posted), 0, 0, 0, 0, 0, 0, 0, 0}, body...)
	outcome, err := boltMove(tx.Bucket([]byte("accounts")), p)
	if err != nil {
		return result{}, err
	}
	if value[0] = byte(outcome); outcome == posted {
		transfers := tx.Bucket([]byte("transfers"))
		transfers.FillPercent = 1 // they come in order
		id, err := transfers.NextSequence()
		if err != nil {
			return result{}, err
		}
		binary.BigEndian.PutUint64(value[1:], id)
		if err := transfers.Put(value[1:9], body); err != nil {
			return result{}, err
		}
	}
	if err := keys.Put([]byte(p.key), value); err != nil {
		return result{}, err
	}
	return boltResult(value, false), nil
}

// boltMove changes the two balances, or says why not.
func boltMove(accounts *bolt.Bucket, p payment) (status, error) {
	from, to := accounts.Get([]byte(p.from)), accounts.Get([]byte(p.to))
	if from == nil || to == nil {
		return unknown, nil
	}
	if len(from) != 8 || len(to) != 8 {
		return 0, errBoltTable
	}
	paying, paid := int64(binary.BigEndian.Uint64(from))-p.amount, int64(binary.BigEndian.Uint64(to))+p.amount
	if paying < 0 && p.from != accountName(bank) {
		return short, nil
	}
	return posted, errors.Join(accounts.Put([]byte(p.from), boltNumber(paying)), accounts.Put([]byte(p.to), boltNumber(paid)))
}

func boltResult(value []byte, replayed bool) result {
	r := result{status: status(value[0]), replayed: replayed}
	if r.status == posted {
		r.transfer = strconv.FormatUint(binary.BigEndian.Uint64(value[1:]), 10)
	}
	return r
}

func (e *boltBooks) books(context.Context) (books, error) {
	kept := books{Balances: map[string]int64{}}
	err := e.db.View(func(tx *bolt.Tx) error {
		kept.Transfers = tx.Bucket([]byte("transfers")).Stats().KeyN
		return tx.Bucket([]byte("accounts")).ForEach(func(name, balance []byte) error {
			if len(balance) != 8 {
				return errBoltTable
			}
			kept.Balances[string(name)] = int64(binary.BigEndian.Uint64(balance))
			return nil
		})
	})
	return kept, err
}

// settle makes a batch full with a payment of each client, as no more can come.
func (e *boltBooks) settle(_ context.Context, clients int) error {
	e.db.MaxBatchSize = clients
	return nil
}

func (e *boltBooks) close() error { return e.db.Close() }
