package webhook

import (
	"cmp"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"dongne/internal/sharedlog"
)

// Limits of what the log holds.
const (
	EndpointsMax = 100            // registrations of all users together
	SecretsMax   = 4              // secrets that sign for one endpoint at the same time, the newest included
	KeysMax      = 4096           // idempotency keys that are remembered
	KeyLifetime  = 24 * time.Hour // how long a key is remembered, by the log's time

	// RotationOverlap is how long a secret goes on signing after it was replaced.
	RotationOverlap = 24 * time.Hour
)

// command is one entry of the log, as JSON. Which fields it has depends on its kind:
//
//	create    user, key, url, types, secret, cursor
//	rotate    user, key, id, secret
//	delete    user, id
//	enable    user, id
//	progress  epoch, reports
//	lease     holder, ttl, take
//	release   holder
type command struct {
	Kind    string   `json:"kind"`
	User    string   `json:"user,omitempty"`
	Key     string   `json:"key,omitempty"`
	ID      string   `json:"id,omitempty"`
	URL     string   `json:"url,omitempty"`
	Types   []string `json:"types,omitempty"`
	Secret  string   `json:"secret,omitempty"`
	Cursor  string   `json:"cursor,omitempty"`
	Epoch   uint64   `json:"epoch,omitempty"`
	Reports []report `json:"reports,omitempty"`
	Holder  string   `json:"holder,omitempty"`
	TTL     int64    `json:"ttl,omitempty"`  // nanoseconds
	Take    bool     `json:"take,omitempty"` // whoever holds the lease: nobody else can be alive
}

// report is how far the deliveries to an endpoint are.
type report struct {
	ID       string   `json:"id"`
	Turn     uint64   `json:"turn"`
	Progress progress `json:"progress"`
	Disabled string   `json:"disabled,omitempty"` // why it is to be disabled; empty: it is not
}

// progress is how far the deliveries to an endpoint are. Times are Unix nanoseconds, 0 for never.
type progress struct {
	Cursor      string   `json:"cursor"`         // everything before it was delivered or is of no interest
	Done        []string `json:"done,omitempty"` // ids after the cursor that were delivered; replaced, never changed in place
	Attempts    int      `json:"attempts,omitempty"`
	Next        int64    `json:"next,omitempty"` // not before this
	LastEvent   string   `json:"last_event,omitempty"`
	LastSuccess int64    `json:"last_success,omitempty"`
	LastFailure *failure `json:"last_failure,omitempty"`
}

// failure is an attempt that failed. It is never changed.
type failure struct {
	At     int64  `json:"at"`
	Status int    `json:"status,omitempty"` // 0: there was no answer
	Error  string `json:"error"`
}

// endpoint is a registration. A copy stays true: what it points to is replaced, never changed.
type endpoint struct {
	ID       string   `json:"id"`
	User     string   `json:"user"`
	URL      string   `json:"url"`
	Types    []string `json:"types,omitempty"`
	Created  int64    `json:"created"`
	Turn     uint64   `json:"turn"` // the slot that created or last enabled it: reports of an earlier turn are void
	Secrets  []secret `json:"secrets"`
	Disabled string   `json:"disabled,omitempty"` // why; empty: enabled
	Progress progress `json:"progress"`
}

// secret signs until a time; the first of an endpoint has no end.
type secret struct {
	Text  string `json:"text"`
	Until int64  `json:"until,omitempty"`
}

// lease says who delivers.
type lease struct {
	Holder string `json:"holder,omitempty"`
	Epoch  uint64 `json:"epoch,omitempty"` // the slot in which the holder came: reports of an earlier epoch are void
	Until  int64  `json:"until,omitempty"`
}

// keyed is what the first request with a key was answered.
type keyed struct {
	User     string   `json:"user"`
	Key      string   `json:"key"`
	Kind     string   `json:"kind"`
	At       int64    `json:"at"`
	Endpoint endpoint `json:"endpoint"`
}

// answer is what became of a command.
type answer struct {
	endpoint endpoint
	replayed bool
	err      error
}

// What a command may be answered beside the errors of the package.
var (
	errDeposed  = errors.New("webhook: another process delivers now")
	errHeld     = errors.New("webhook: another process holds the lease")
	errBadEntry = errors.New("webhook: an entry of the log that this version does not know")
)

// registry is the machine behind the log: the registrations, how far each was delivered, and the lease. Its JSON is the
// snapshot.
type registry struct {
	Lease     lease      `json:"lease,omitzero"`
	Endpoints []endpoint `json:"endpoints,omitempty"` // sorted by id
	Keys      []keyed    `json:"keys,omitempty"`      // in the order of the log
}

// Prepare answers what changes nothing and writes down the rest; Apply judges it again.
func (r *registry) Prepare(at sharedlog.Position, requests []command) []sharedlog.Prepared[answer] {
	prepared := make([]sharedlog.Prepared[answer], len(requests))
	for i, c := range requests {
		a, change := r.judge(c, at, i)
		if change == nil {
			prepared[i] = sharedlog.Prepared[answer]{Done: true, Result: a}
			continue
		}
		data, err := json.Marshal(c)
		if err != nil {
			panic("webhook: a command does not encode: " + err.Error())
		}
		prepared[i].Commands = [][]byte{data}
	}
	return prepared
}

// Apply applies a slot.
func (r *registry) Apply(b *sharedlog.Batch) []answer {
	answers := make([]answer, len(b.Commands))
	for i, entry := range b.Commands {
		var c command
		if err := json.Unmarshal(entry.Data, &c); err != nil {
			answers[i].err = errBadEntry
			continue
		}
		a, change := r.judge(c, sharedlog.Position{Slot: b.Slot, Time: b.Time}, i)
		if change != nil {
			change()
		}
		answers[i] = a
	}
	return answers
}

// Abandon has nothing to undo: Prepare changes nothing.
func (r *registry) Abandon() {}

// Snapshot returns the registry as JSON.
func (r *registry) Snapshot() ([]byte, bool) {
	state, err := json.Marshal(r)
	return state, err == nil
}

// Restore reads what Snapshot returned.
func (r *registry) Restore(state []byte) error {
	var restored registry
	if err := json.Unmarshal(state, &restored); err != nil {
		return err
	}
	*r = restored
	return nil
}

// judge returns the answer of a command and what it changes; nil when it changes nothing. index is its place in the slot.
func (r *registry) judge(c command, at sharedlog.Position, index int) (answer, func()) {
	switch c.Kind {
	case "create", "rotate":
		return r.judgeKeyed(c, at, index)
	case "progress":
		return r.judgeProgress(c)
	case "lease", "release":
		return r.judgeLease(c, at)
	case "delete", "enable":
		place, ok := r.find(c.ID)
		if !ok || r.Endpoints[place].User != c.User {
			return answer{err: ErrUnknown}, nil
		}
		if c.Kind == "delete" {
			return answer{}, func() { r.Endpoints = slices.Delete(r.Endpoints, place, place+1) }
		}
		return answer{}, func() {
			e := &r.Endpoints[place]
			e.Turn, e.Disabled, e.Progress.Attempts, e.Progress.Next = at.Slot, "", 0, 0
		}
	}
	return answer{err: errBadEntry}, nil
}

// judgeKeyed judges a create or a rotate: the first one with a key counts, and an identical one has its answer again.
func (r *registry) judgeKeyed(c command, at sharedlog.Position, index int) (answer, func()) {
	alive := r.alive(at.Time)
	for _, k := range alive {
		if k.User != c.User || k.Key != c.Key {
			continue
		}
		same := k.Kind == c.Kind && k.Endpoint.ID == c.ID
		if c.Kind == "create" {
			same = k.Kind == c.Kind && k.Endpoint.URL == c.URL && slices.Equal(k.Endpoint.Types, c.Types)
		}
		if !same {
			return answer{err: ErrKeyReused}, nil
		}
		return answer{endpoint: k.Endpoint, replayed: true}, nil
	}
	if len(alive) >= KeysMax {
		return answer{err: fmt.Errorf("%w: %d keys were used within %v", ErrLimit, KeysMax, KeyLifetime)}, nil
	}
	var e endpoint
	var err error
	if c.Kind == "create" {
		e, err = r.created(c, at, index)
	} else {
		e, err = r.rotated(c, at)
	}
	if err != nil {
		return answer{err: err}, nil
	}
	first := e // what is answered, now and again: without what changes with every delivery
	first.Progress = progress{}
	return answer{endpoint: first}, func() {
		known := keyed{User: c.User, Key: c.Key, Kind: c.Kind, At: at.Time, Endpoint: first}
		r.Keys = append(slices.Clone(r.alive(at.Time)), known)
		if place, ok := r.find(e.ID); ok {
			r.Endpoints[place] = e
		} else {
			r.Endpoints = slices.Insert(r.Endpoints, place, e)
		}
	}
}

func (r *registry) created(c command, at sharedlog.Position, index int) (endpoint, error) {
	if len(r.Endpoints) >= EndpointsMax {
		return endpoint{}, fmt.Errorf("%w: there are %d endpoints", ErrLimit, EndpointsMax)
	}
	return endpoint{
		ID:       endpointID(at.Time, index),
		User:     c.User,
		URL:      c.URL,
		Types:    c.Types,
		Created:  at.Time,
		Turn:     at.Slot,
		Secrets:  []secret{{Text: c.Secret}},
		Progress: progress{Cursor: c.Cursor},
	}, nil
}

func (r *registry) rotated(c command, at sharedlog.Position) (endpoint, error) {
	place, ok := r.find(c.ID)
	if !ok || r.Endpoints[place].User != c.User {
		return endpoint{}, ErrUnknown
	}
	e := r.Endpoints[place]
	secrets := []secret{{Text: c.Secret}}
	for _, s := range e.Secrets {
		if s.Until == 0 {
			s.Until = at.Time + int64(RotationOverlap)
		}
		if s.Until > at.Time {
			secrets = append(secrets, s)
		}
	}
	if len(secrets) > SecretsMax {
		return endpoint{}, fmt.Errorf("%w: %d secrets sign for this endpoint", ErrLimit, SecretsMax)
	}
	e.Secrets = secrets
	return e, nil
}

func (r *registry) judgeProgress(c command) (answer, func()) {
	if c.Epoch != r.Lease.Epoch {
		return answer{err: errDeposed}, nil
	}
	current := slices.ContainsFunc(c.Reports, func(p report) bool { return r.reported(p) != nil })
	if !current {
		return answer{}, nil
	}
	return answer{}, func() {
		for _, p := range c.Reports {
			if e := r.reported(p); e != nil {
				e.Progress, e.Disabled = p.Progress, cmp.Or(e.Disabled, p.Disabled)
			}
		}
	}
}

// reported returns the endpoint of a report, or nil when it is gone or in another turn.
func (r *registry) reported(p report) *endpoint {
	place, ok := r.find(p.ID)
	if !ok || r.Endpoints[place].Turn != p.Turn {
		return nil
	}
	return &r.Endpoints[place]
}

func (r *registry) judgeLease(c command, at sharedlog.Position) (answer, func()) {
	mine := r.Lease.Holder == c.Holder
	switch {
	case c.Kind == "release" && mine:
		return answer{}, func() { r.Lease.Holder, r.Lease.Until = "", 0 }
	case c.Kind == "release":
		return answer{}, nil
	case mine:
		return answer{}, func() { r.Lease.Until = at.Time + c.TTL }
	case r.Lease.Until > at.Time && !c.Take:
		return answer{err: errHeld}, nil
	}
	return answer{}, func() { r.Lease = lease{Holder: c.Holder, Epoch: at.Slot, Until: at.Time + c.TTL} }
}

// alive returns the keys that are still remembered at a time.
func (r *registry) alive(now int64) []keyed {
	first := slices.IndexFunc(r.Keys, func(k keyed) bool { return k.At+int64(KeyLifetime) > now })
	if first < 0 {
		return nil
	}
	return r.Keys[first:]
}

// find returns the place of an endpoint, or where it would stand.
func (r *registry) find(id string) (int, bool) {
	return slices.BinarySearchFunc(r.Endpoints, id, func(e endpoint, id string) int { return strings.Compare(e.ID, id) })
}

const idPrefix = "wh_"

// endpointID returns an id that is unique, since no two slots have the same time, and sorts by time: 64 bits of Unix
// nanoseconds and 16 bits of the place in the slot, in base 32 with digits before letters.
func endpointID(at int64, index int) string {
	var b [10]byte
	binary.BigEndian.PutUint64(b[:], uint64(at))
	binary.BigEndian.PutUint16(b[8:], uint16(index))
	return idPrefix + strings.ToLower(base32.HexEncoding.EncodeToString(b[:]))
}

// wants says whether an endpoint asked for events of a type.
func (e endpoint) wants(eventType string) bool {
	return len(e.Types) == 0 || slices.ContainsFunc(e.Types, func(filter string) bool {
		if prefix, ok := strings.CutSuffix(filter, "*"); ok {
			return strings.HasPrefix(eventType, prefix)
		}
		return eventType == filter
	})
}

// signing returns the secrets that sign at a time, the newest first.
func (e endpoint) signing(now int64) (texts []string) {
	for _, s := range e.Secrets {
		if s.Until == 0 || s.Until > now {
			texts = append(texts, s.Text)
		}
	}
	return texts
}
