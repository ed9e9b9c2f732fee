// Package etcdlog keeps a shared log in etcd: the engine of several processes. It speaks to etcd's JSON gateway (etcd
// 3.4 and later) with net/http alone.
//
// # Keys
//
// Numbers have 20 decimal digits, so that keys sort like them.
//
//	<prefix>/slot/00000000000000000001     the bytes of a slot
//	<prefix>/floor/00000000000000004711    empty; the floor is the highest such number, 1 without any
//
// A slot's key is created and never changed. Two logs under one prefix are one log.
//
// # Creating
//
// A create is one transaction: if the key of the slot has no create revision and no floor key above the slot exists,
// put it; otherwise read what stands there. The floor keeps a writer that was stalled for long from creating anew a
// slot that was trimmed: trimming sets the floor first and deletes slots after.
//
// # What an answer proves
//
// etcd may take 7 s to say that it could not reach a majority, and even then apply the write later. So each try has a
// deadline of its own, about a second, the other endpoints are tried with the same create, and whatever was sent and
// not answered is Unknown. These prove more:
//
//   - The transaction's own answer, complete, with what its branch returns: Created or Taken. Our own bytes in the slot
//     are Created: an earlier try landed.
//   - A refused connection: nothing was sent. NotApplied, if no endpoint was sent anything.
//   - "request is too large": etcd says so before it proposes anything. NotApplied.
//   - "database space exceeded" proves nothing by itself: etcd says it to the very transaction that exceeds the quota,
//     which it has applied. Nor does "message larger than max", which may be about the answer. So a delete of nothing
//     is sent through the same consensus, and the slot is read at the revision of that delete or later: only its
//     absence there is NotApplied.
//
// # Reading
//
// Reads are linearizable. One request reads the slots that follow too, and keeps them: slots never change, and so a
// replica that has fallen behind catches up in few requests. That a slot is absent is never kept.
package etcdlog

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"dongne/internal/sharedlog"
)

const (
	// BatchBytesMax is the largest slot that callers should write: etcd refuses requests above 1.5 MiB unless told
	// otherwise.
	BatchBytesMax = 1 << 20

	slotBytesMax   = 4 << 20          // of a slot, whatever etcd is told
	replyBytesMax  = 16 << 20         // of an answer; slots take 4/3 of their size in it
	prefetchMax    = 64               // slots read by one request
	prefetchBytes  = 1 << 20          // of an answer, below which the next request may read twice as many slots
	trimSlots      = 1000             // deleted by one request
	timeoutDefault = time.Second      // of a try
	idleTimeout    = 90 * time.Second // after which an unused connection is closed
	endpointsMax   = 16
	prefixBytesMax = 512
)

// Config says where a log is kept.
type Config struct {
	Endpoints []string      // "host:port" of etcd's client ports, 1 to 16
	Prefix    string        // of the log's keys, without a slash at either end; at most 512 bytes
	Timeout   time.Duration // of a try at one endpoint; 0: 1 s
	// Client makes the requests; nil: one of its own without a proxy. Its transport must report dial errors as
	// net/http's does (*net.OpError), or nothing is ever proven to be unsent.
	Client *http.Client
}

// Log is a log in etcd. Its methods may be called by any number of goroutines.
type Log struct {
	endpoints []string
	prefix    string
	timeout   time.Duration
	client    *http.Client
	own       *http.Transport // nil when the client is the caller's
	first     atomic.Uint32   // index of the endpoint that answered last

	mu    sync.Mutex
	cache map[uint64][]byte // slots of one answer; guarded by mu
	batch int               // slots that the next read asks for; guarded by mu
}

// New returns the log under a prefix. It sends nothing yet.
func New(config Config) (*Log, error) {
	if n := len(config.Endpoints); n == 0 || n > endpointsMax {
		return nil, fmt.Errorf("etcdlog: %d endpoints, want 1 to %d", n, endpointsMax)
	}
	for _, e := range config.Endpoints {
		if host, port, err := net.SplitHostPort(e); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("etcdlog: endpoint %q, want host:port", e)
		}
	}
	if p := config.Prefix; p == "" || len(p) > prefixBytesMax || strings.Trim(p, "/") != p {
		return nil, fmt.Errorf("etcdlog: prefix %q, want 1 to %d bytes without a slash at either end", p, prefixBytesMax)
	}
	l := &Log{
		endpoints: config.Endpoints,
		prefix:    config.Prefix,
		timeout:   cmp.Or(config.Timeout, timeoutDefault),
		client:    config.Client,
		batch:     1,
	}
	if l.client == nil {
		l.own = &http.Transport{
			DialContext:         (&net.Dialer{Timeout: l.timeout}).DialContext,
			MaxIdleConnsPerHost: 4,
			IdleConnTimeout:     idleTimeout,
			DisableCompression:  true,
		}
		// etcd redirects nobody; what does is not etcd.
		stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		l.client = &http.Client{Transport: l.own, CheckRedirect: stay}
	}
	return l, nil
}

// Close closes the log's unused connections.
func (l *Log) Close() error {
	if l.own != nil {
		l.own.CloseIdleConnections()
	}
	return nil
}

// Create creates a slot that holds data unless it exists or lies below the floor. It takes at most the timeout for
// each endpoint; what it says is as the package comment has it. A full etcd is NotApplied with sharedlog.ErrFull, data
// beyond etcd's limit NotApplied with sharedlog.ErrTooLarge.
func (l *Log) Create(ctx context.Context, slot uint64, data []byte) (sharedlog.Outcome, error) {
	if slot == 0 || slot == math.MaxUint64 || len(data) == 0 {
		return sharedlog.NotApplied, fmt.Errorf("etcdlog: create slot %d: %d bytes", slot, len(data))
	}
	if len(data) > slotBytesMax {
		err := fmt.Errorf("etcdlog: create slot %d: %w: %d bytes", slot, sharedlog.ErrTooLarge, len(data))
		return sharedlog.NotApplied, err
	}
	stands, batch := l.cached(slot)
	if stands != nil {
		return compare(stands, data), nil
	}
	body := encode(l.createRequest(slot, data, batch))
	var errs []error
	sent := false // a try may have been, or may yet be, applied
	for _, e := range l.order() {
		outcome, err := l.tryCreate(ctx, e, body, slot, data)
		switch {
		case outcome == sharedlog.Created || outcome == sharedlog.Taken:
			l.prefer(e)
			return outcome, nil
		case outcome == sharedlog.Unknown:
			sent = true
		case !errors.Is(err, errUnsent): // a refusal that the other endpoints would give too
			if !sent {
				return sharedlog.NotApplied, fmt.Errorf("etcdlog: create slot %d: %w", slot, err)
			}
			return sharedlog.Unknown, fmt.Errorf("etcdlog: create slot %d: %w", slot, errors.Join(append(errs, err)...))
		}
		errs = append(errs, err)
	}
	outcome := sharedlog.Unknown
	if !sent {
		outcome = sharedlog.NotApplied
	}
	return outcome, fmt.Errorf("etcdlog: create slot %d: %w", slot, errors.Join(errs...))
}

// tryCreate sends a create to one endpoint; what it returns is true of this try.
func (l *Log) tryCreate(
	ctx context.Context, e string, body []byte, slot uint64, data []byte,
) (sharedlog.Outcome, error) {
	var answer txnReply
	err := l.post(ctx, e, "/v3/kv/txn", body, &answer)
	switch {
	case err == nil:
		return l.judge(e, answer, slot, data)
	case errors.Is(err, errUnsent), errors.Is(err, sharedlog.ErrTooLarge) && !errors.Is(err, errUnclear):
		return sharedlog.NotApplied, err
	case errors.Is(err, errUnclear):
		return l.settle(ctx, e, slot, data, err)
	case errors.Is(err, errReplyTooLong):
		l.shrink()
	}
	return sharedlog.Unknown, err
}

// judge says what the complete answer to a create proves. An answer whose parts contradict each other proves nothing.
func (l *Log) judge(e string, answer txnReply, slot uint64, data []byte) (sharedlog.Outcome, error) {
	if answer.Succeeded {
		if len(answer.Responses) == 1 && answer.Responses[0].Put != nil {
			return sharedlog.Created, nil
		}
		return sharedlog.Unknown, fmt.Errorf("%s: a success that put nothing", e)
	}
	if len(answer.Responses) != 2 || answer.Responses[0].Range == nil || answer.Responses[1].Range == nil {
		return sharedlog.Unknown, fmt.Errorf("%s: a failure that read nothing", e)
	}
	if stands := l.keep(slot, answer.Responses[0].Range.KVs); stands != nil {
		return compare(stands, data), nil
	}
	if l.floor(answer.Responses[1].Range.KVs) > slot {
		return sharedlog.Taken, nil
	}
	return sharedlog.Unknown, fmt.Errorf("%s: a failure without a cause", e)
}

// settle finds out what became of a create whose error says that it was decided, but not how.
func (l *Log) settle(ctx context.Context, e string, slot uint64, data []byte, cause error) (sharedlog.Outcome, error) {
	var deleted deleteReply
	if err := l.post(ctx, e, "/v3/kv/deleterange", encode(rangeRequest{Key: l.key("none", 0)}), &deleted); err != nil {
		return sharedlog.Unknown, errors.Join(cause, err)
	}
	var found rangeReply
	if err := l.post(ctx, e, "/v3/kv/range", encode(l.slotsRequest(slot, 1)), &found); err != nil {
		return sharedlog.Unknown, errors.Join(cause, err)
	}
	if stands := l.keep(slot, found.KVs); stands != nil {
		return compare(stands, data), nil
	}
	if deleted.Header.Revision == 0 || found.Header.Revision < deleted.Header.Revision {
		return sharedlog.Unknown, fmt.Errorf("%w; %s: a read older than what it follows", cause, e)
	}
	return sharedlog.NotApplied, cause
}

// compare says what a slot that holds stands means to the create of data.
func compare(stands, data []byte) sharedlog.Outcome {
	if bytes.Equal(stands, data) {
		return sharedlog.Created
	}
	return sharedlog.Taken
}

// Get returns the bytes of a slot, which the caller must not change, or an error that wraps sharedlog.ErrAbsent or
// sharedlog.ErrTrimmed. Any other error passes. It takes at most twice the timeout for each endpoint.
func (l *Log) Get(ctx context.Context, slot uint64) ([]byte, error) {
	stands, batch := l.cached(slot)
	if stands != nil {
		return stands, nil
	}
	if slot == math.MaxUint64 {
		return nil, fmt.Errorf("etcdlog: slot %d: %w", slot, sharedlog.ErrAbsent)
	}
	var found rangeReply
	err := l.ask(ctx, "/v3/kv/range", l.slotsRequest(slot, batch), &found)
	if err != nil && batch > 1 { // perhaps for the length of the answer
		l.shrink()
		err = l.ask(ctx, "/v3/kv/range", l.slotsRequest(slot, 1), &found)
	}
	if err != nil {
		return nil, fmt.Errorf("etcdlog: get slot %d: %w", slot, err)
	}
	if stands := l.keep(slot, found.KVs); stands != nil {
		return stands, nil
	}
	// The floor is set before slots below it are deleted, and so it is read after.
	found = rangeReply{}
	if err := l.ask(ctx, "/v3/kv/range", l.floorRequest(slot), &found); err != nil {
		return nil, fmt.Errorf("etcdlog: get slot %d: %w", slot, err)
	}
	if floor := l.floor(found.KVs); floor > slot {
		return nil, fmt.Errorf("etcdlog: slot %d: %w: the floor is %d", slot, sharedlog.ErrTrimmed, floor)
	}
	return nil, fmt.Errorf("etcdlog: slot %d: %w", slot, sharedlog.ErrAbsent)
}

// Trim sets the floor, unless it is higher already, and deletes the slots below it. The caller makes sure that every
// replica has a snapshot of that slot or a later one, and that the slot before the floor exists. A trim that fails may
// be repeated; a full etcd refuses it, since it cannot store the floor.
func (l *Log) Trim(ctx context.Context, floor uint64) error {
	if floor <= 1 {
		return nil
	}
	if floor == math.MaxUint64 {
		return errors.New("etcdlog: trim: no slot would be left")
	}
	l.forget()
	var answer txnReply
	if err := l.ask(ctx, "/v3/kv/txn", l.setFloorRequest(floor), &answer); err != nil {
		return fmt.Errorf("etcdlog: set the floor to %d: %w", floor, err)
	}
	for {
		var found rangeReply
		lowest := rangeRequest{Key: l.key(slotKeys, 0), End: l.key(slotKeys, floor), Limit: 1, KeysOnly: true}
		if err := l.ask(ctx, "/v3/kv/range", lowest, &found); err != nil {
			return fmt.Errorf("etcdlog: trim below slot %d: %w", floor, err)
		}
		if len(found.KVs) == 0 {
			return nil
		}
		from, ok := l.number(slotKeys, found.KVs[0].Key)
		if !ok {
			return fmt.Errorf("etcdlog: trim below slot %d: key %q is not a slot's", floor, found.KVs[0].Key)
		}
		some := rangeRequest{Key: l.key(slotKeys, from), End: l.key(slotKeys, min(from+trimSlots, floor))}
		if err := l.ask(ctx, "/v3/kv/deleterange", some, &deleteReply{}); err != nil {
			return fmt.Errorf("etcdlog: trim below slot %d: %w", floor, err)
		}
	}
}

// ask makes a request that may be repeated, at one endpoint after the other until one answers.
func (l *Log) ask(ctx context.Context, path string, request, answer any) error {
	body := encode(request)
	var errs []error
	for _, e := range l.order() {
		err := l.post(ctx, e, path, body, answer)
		if err == nil {
			l.prefer(e)
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// order returns the endpoints, the one that answered last first.
func (l *Log) order() []string {
	n := int(l.first.Load())
	return append(append(make([]string, 0, len(l.endpoints)), l.endpoints[n:]...), l.endpoints[:n]...)
}

func (l *Log) prefer(endpoint string) {
	for i, e := range l.endpoints {
		if e == endpoint {
			l.first.Store(uint32(i))
			return
		}
	}
}

// cached returns the bytes of a slot that was read before, or nil and how many slots to read.
func (l *Log) cached(slot uint64) (data []byte, batch int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cache[slot], l.batch
}

// keep replaces the cache by the slots of an answer, and returns the bytes of one of them; nil when it is not there.
func (l *Log) keep(slot uint64, found []keyValue) []byte {
	if len(found) == 0 {
		return nil
	}
	cache := make(map[uint64][]byte, len(found))
	size := 0
	for _, kv := range found {
		if n, ok := l.number(slotKeys, kv.Key); ok && len(kv.Value) > 0 {
			cache[n] = kv.Value
			size += len(kv.Value)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case size > prefetchBytes:
		l.batch = max(1, l.batch/2)
	case len(found) == l.batch:
		l.batch = min(2*l.batch, prefetchMax)
	}
	l.cache = cache
	return cache[slot]
}

func (l *Log) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cache = nil
}

// shrink makes the next read one of a single slot.
func (l *Log) shrink() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batch = 1
}

// floor returns the highest number among floor keys, 0 without any.
func (l *Log) floor(found []keyValue) (floor uint64) {
	for _, kv := range found {
		if n, ok := l.number(floorKeys, kv.Key); ok {
			floor = max(floor, n)
		}
	}
	return floor
}
