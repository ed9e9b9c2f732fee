package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"dongne/bench/load"
)

const stormOrders = 1000 // that are made before, and then sent again and again

// replay is a transfer that was made, ready to be sent again.
type replay struct {
	headers string
	body    []byte
	answer  []byte // the first
}

// measureStorm sends again what was answered, and fails unless every answer is the first one, marked as a replay, and
// nothing else happens: no balance, entry, record or slot of the log changes, and no byte goes to the disk.
func measureStorm(ctx context.Context, s *server, t *tally, clients int, seed uint64, d, calm time.Duration) (figures, error) {
	replays, err := makeReplays(ctx, s, t, seed)
	if err != nil {
		return figures{}, err
	}
	before, err := calmEffects(ctx, s, calm)
	if err != nil {
		return figures{}, err
	}
	next := make([]int, clients)
	f, err := drive(ctx, s, clients, d, func(conn *load.HTTP, client int) (int, error) {
		r := replays[(next[client]*clients+client)%len(replays)]
		next[client]++
		conn.Watch = "Idempotency-Replayed"
		status, answer, err := conn.Do("POST", "/transfers", r.headers, r.body)
		if err == nil && (status != http.StatusCreated || conn.Watched != "true" || !bytes.Equal(answer, r.answer)) {
			err = fmt.Errorf("a replay: status %d, replayed %q: %s, first: %s", status, conn.Watched, answer, r.answer)
		}
		return 1, err
	})
	if err != nil {
		return f, err
	}
	after, err := s.effects(ctx)
	if err == nil && after != before {
		err = fmt.Errorf("replays had effects: before %.1000v, after %.1000v", before, after)
	}
	return f, err
}

// makeReplays makes the transfers that will be sent again.
func makeReplays(ctx context.Context, s *server, t *tally, seed uint64) ([]replay, error) {
	conn, err := load.DialHTTP(ctx, s.addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	source := newOrders(seed, 0, len(t.moved)-1, false)
	replays := make([]replay, stormOrders)
	for i := range replays {
		o := source.next()
		replays[i] = replay{headers: keyHeader(o.key), body: o.appendBody(nil)}
		status, answer, err := conn.Do("POST", "/transfers", replays[i].headers, replays[i].body)
		if err == nil && status != http.StatusCreated {
			err = fmt.Errorf("a transfer: status %d: %s", status, answer)
		}
		if err != nil {
			return nil, err
		}
		replays[i].answer = bytes.Clone(answer)
		t.add(o)
	}
	return replays, nil
}

// effects is everything that a transfer changes and a replay must not.
type effects struct {
	transfers int
	balances  string
	metrics   string // records, entries, keys and slots of the log
	written   int    // bytes towards the disk
	files     string // names, sizes and times of ours
}

// payEffects reads them of our pay in dir, with a store of its own.
func payEffects(ctx context.Context, s *server, dir string) (effects, error) {
	kept, err := s.books(ctx)
	if err != nil {
		return effects{}, err
	}
	e := effects{transfers: kept.Transfers, balances: fmt.Sprint(kept.Balances)}
	counts, err := load.Metrics(ctx, s.addr, "pay_records_total", "pay_postings_total", "pay_keys_total", "pay_slots_total")
	if err != nil {
		return e, err
	}
	e.metrics = fmt.Sprint(counts)
	if e.written, err = s.processes[len(s.processes)-1].Written(); err != nil {
		return e, err
	}
	e.files, err = filesOf(filepath.Join(dir, "pay"))
	return e, err
}

const (
	calmSteps = 35 // looks in a calm time
	calmTries = 20 // times that long, at most
)

// calmEffects waits until nothing has changed for as long as calm: nothing more follows, such as a snapshot.
func calmEffects(ctx context.Context, s *server, calm time.Duration) (effects, error) {
	last, err := s.effects(ctx)
	for same, looks := 0, 0; err == nil && same < calmSteps; looks++ {
		if looks == calmSteps*calmTries {
			return last, errors.New("the books do not come to rest")
		}
		if err := load.Wait(ctx, calm/calmSteps); err != nil {
			return last, err
		}
		var e effects
		if e, err = s.effects(ctx); e != last {
			same = 0
		}
		last = e
		same++
	}
	return last, err
}

// diskBytes is what the files of a folder take up.
func diskBytes(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}

// filesOf lists the files of a folder, but for the profiles that every service keeps of itself.
func filesOf(dir string) (string, error) {
	var list strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && entry.Name() == "profiles" {
			return fs.SkipDir
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&list, path, info.Size(), info.ModTime().UnixNano())
		return nil
	})
	return list.String(), err
}
