package throttle

import (
	"math/bits"
	"time"
)

// bucket counts the failures of one key. The zero value has none. Times are those of Throttle.at, all
// positive.
//
// The count is kept as the time at which it will be zero: a failure moves it by the limit's Cap, so that one is forgotten
// in each Cap without anybody doing anything (the virtual scheduling of a leaky bucket, ITU-T I.371).
type bucket struct {
	zero    int64 // when the last failure is forgotten
	open    int64 // when the next attempt may come
	last    int64 // when the newest pending attempt began
	pending int32 // attempts that have not ended
	keep    bool  // is not idle without failures
}

// doublings is how many failures after the free ones make a difference: the wait of the last one is the cap.
func (l Limit) doublings() int { return 1 + bits.Len64(uint64((l.Cap-1)/l.Base)) }

// delay is the wait after a failure, the nth that is not forgotten.
func (l Limit) delay(n int) time.Duration {
	switch over := n - l.Free; {
	case over <= 0:
		return 0
	case over >= l.doublings():
		return l.Cap
	default:
		return l.Base << (over - 1)
	}
}

// settle forgets what time has settled. A clock that was set back leaves nothing further off than it can be.
func (b *bucket) settle(l Limit, at int64) {
	b.zero = min(b.zero, at+int64(l.Free+l.doublings())*int64(l.Cap))
	b.open = min(b.open, at+int64(l.Cap))
	b.expire(at)
}

// expire drops pending attempts that nobody ended.
func (b *bucket) expire(at int64) {
	b.last = min(b.last, at)
	if at-b.last >= int64(PendingMax) {
		b.pending = 0
	}
}

// failures is how many are not forgotten, a part of one being one.
func (b *bucket) failures(l Limit, at int64) int {
	return int((max(b.zero-at, 0) + int64(l.Cap) - 1) / int64(l.Cap))
}

// wait says how long the next attempt must wait.
func (b *bucket) wait(l Limit, at int64) time.Duration {
	b.settle(l, at)
	if b.open > at {
		return time.Duration(b.open - at)
	}
	if b.pending > 0 && b.failures(l, at)+int(b.pending) >= l.Free {
		return l.Base
	}
	return 0
}

// begin counts a pending attempt.
func (b *bucket) begin(at int64) {
	b.expire(at)
	b.pending++
	b.last = at
}

// end uncounts one.
func (b *bucket) end(at int64) {
	b.expire(at)
	b.pending = max(0, b.pending-1)
}

// fail counts a failure.
func (b *bucket) fail(l Limit, at int64) {
	b.zero = max(b.zero, at) + int64(l.Cap)
	b.settle(l, at)
	b.open = max(b.open, at+int64(l.delay(b.failures(l, at))))
}

// takeBack takes back the failures of other, which were counted here too. Since each bucket forgets at the same pace, and
// this one had every failure of the others, it never takes back more than was counted.
func (b *bucket) takeBack(other *bucket, at int64) {
	b.zero -= max(other.zero-at, 0)
}

// forget takes all failures back.
func (b *bucket) forget() { b.zero, b.open = 0, 0 }

// idle: the bucket is as good as a new one.
func (b *bucket) idle(at int64) bool {
	b.expire(at)
	return !b.keep && b.pending == 0 && b.zero <= at && b.open <= at
}
