package verify

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	revocationsMax = 1 << 18         // that are kept at a time
	keptMin        = 6 * time.Minute // the longest life of a token and the skew: no token that was good is good after that
)

// What a revocation is of, as the key in a map; of different types, so that a session and a token never meet.
type (
	sessionID string
	tokenID   string
)

// revocations is a set of them. Readers take no lock; one goroutine adds. The zero value is ready.
type revocations struct {
	ends  sync.Map // sessionID or tokenID → *ending
	count atomic.Int64
}

// ending is when a revocation may be forgotten: when the clock says so and it has been here for keptMin. The clock
// alone would forget too early when it jumps ahead and back.
type ending struct {
	expires time.Time // wall
	arrived time.Time // monotonic
}

// of says by what a token is revoked: "session", "id", or "" if it is not.
func (r *revocations) of(e *entry) string {
	if r.count.Load() == 0 {
		return ""
	}
	if e.session != nil {
		if _, ok := r.ends.Load(e.session); ok {
			return "session"
		}
	}
	if _, ok := r.ends.Load(e.id); ok {
		return "id"
	}
	return ""
}

// add notes a revocation; of two of one thing the later end counts. It returns false, and does nothing, when there is
// no room.
func (r *revocations) add(key any, expires time.Time) bool {
	old, known := r.ends.Load(key)
	if known && old.(*ending).expires.After(expires) {
		expires = old.(*ending).expires
	}
	if !known && r.count.Load() >= revocationsMax {
		return false
	}
	r.count.Add(1) // before it can be found: of looks here first
	if _, there := r.ends.Swap(key, &ending{expires, time.Now()}); there {
		r.count.Add(-1)
	}
	return true
}

// sweep forgets what is over at now, in wall time.
func (r *revocations) sweep(now time.Time) {
	r.ends.Range(func(key, value any) bool {
		e := value.(*ending)
		over := !now.Before(e.expires) && time.Since(e.arrived) >= keptMin
		if over && r.ends.CompareAndDelete(key, e) {
			r.count.Add(-1)
		}
		return true
	})
}

// watches are the streams that want to know. The zero value is ready.
type watches struct {
	mu sync.Mutex
	by map[any]map[*watch]struct{} // guarded by mu: sessionID or tokenID → who watches it
	n  int                         // guarded by mu
}

// watch is one stream's.
type watch struct {
	f     func()
	over  bool // guarded by watches.mu: f was called, or is not wanted any more
	there bool // guarded by watches.mu: it is counted
}

func keysOf(e *entry) []any {
	if e.session == nil {
		return []any{e.id}
	}
	return []any{e.session, e.id}
}

func (s *watches) add(e *entry, f func()) *watch {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &watch{f: f, there: true}
	if s.by == nil {
		s.by = map[any]map[*watch]struct{}{}
	}
	for _, key := range keysOf(e) {
		if s.by[key] == nil {
			s.by[key] = map[*watch]struct{}{}
		}
		s.by[key][w] = struct{}{}
	}
	s.n++
	return w
}

func (s *watches) remove(e *entry, w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keysOf(e) {
		delete(s.by[key], w)
		if len(s.by[key]) == 0 {
			delete(s.by, key)
		}
	}
	w.over = true
	if w.there {
		w.there = false
		s.n--
	}
}

// end tells who watches a session or a token.
func (s *watches) end(key any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.by[key] {
		if !w.over {
			w.over = true
			go w.f()
		}
	}
}

func (s *watches) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}
