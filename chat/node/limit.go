package node

import (
	"sync"
	"time"
)

// Of messages a user may send sendsBurst seconds' worth at once; of typing one a second counts, three at once.
const (
	sendsBurst  = 2
	typingBurst = 3
)

// limiter bounds how often each user does something: the generic cell rate algorithm (ITU-T I.371), which needs one
// time for each user who did it lately.
type limiter struct {
	mu       sync.Mutex
	interval time.Duration
	burst    time.Duration
	due      map[string]time.Time // when the user's bucket is empty again
	sweepAt  int                  // users
}

const limiterSweepMin = 1024

func (l *limiter) init(perSecond, burst int) {
	l.interval = time.Second / time.Duration(perSecond)
	l.burst = time.Duration(burst) * time.Second
	l.due = make(map[string]time.Time)
	l.sweepAt = limiterSweepMin
}

// take reports whether the user may now; if so, it has.
func (l *limiter) take(user string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	due := l.due[user]
	if due.Before(now) {
		due = now
	}
	if due.Sub(now) > l.burst-l.interval {
		return false
	}
	l.due[user] = due.Add(l.interval)
	if len(l.due) >= l.sweepAt {
		for user, due := range l.due {
			if due.Before(now) {
				delete(l.due, user)
			}
		}
		l.sweepAt = max(limiterSweepMin, 2*len(l.due))
	}
	return true
}
