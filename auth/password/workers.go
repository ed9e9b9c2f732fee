package password

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"sync"
)

// QueuePerWorker is how many callers may wait for each worker when [NewWorkers] is not told.
const QueuePerWorker = 32

var (
	// ErrBusy: the queue is full. Nothing was done; try again in a second.
	ErrBusy = errors.New("password: too many passwords are being hashed")
	// ErrClosed: the workers were closed before the answer was known.
	ErrClosed = errors.New("password: closed")
)

// Workers hash and verify for a bounded number of callers at a time, in order of arrival. All methods may be called
// concurrently.
//
// A hash is a tenth of a second or more of pure computing, and a hundred people who log in at once must not slow those
// who have logged in. Two things see to that.
//
// There are at most half as many workers as processors, so that Go's scheduler, which knows no priorities, always has
// the other half for the rest of the process. A worker computes without a pause and keeps its P, so never let n reach
// GOMAXPROCS: then the others would wait for the scheduler's 10 ms slices, and for the kernel's on top. On a machine
// with one processor, where the single worker would be that, call runtime.GOMAXPROCS(2) first.
//
// On Linux each worker also owns a thread of a lower priority (see [Workers.Priority]). When other threads want the
// processor on which it computes, of this process or of the gateway and the services beside it, which verify tokens,
// the kernel prefers them. The worker's P waits with it, which nobody misses: what is queued there is stolen by the Ps
// that run, and the garbage collector, for which every worker must stop, stops the others first and so frees a
// processor. The thread belongs to its worker alone and ends with it, since a process without privileges cannot raise a
// priority again; and Go starts no thread from a locked one, so that none inherits it.
type Workers struct {
	hasher   *Hasher
	jobs     chan job
	closing  chan struct{}
	close    func() // once
	running  sync.WaitGroup
	priority error // of the first worker that has none
}

// job is one password's work.
type job struct {
	ctx  context.Context
	work func(h *Hasher) (text string, right bool, err error)
	done chan<- answer // has room
}

type answer struct {
	text  string
	right bool
	err   error
}

// NewWorkers starts n workers (0: half of GOMAXPROCS, which knows the container's limit; at least one) in front of
// which queue callers may wait (0: 32 for each worker).
func NewWorkers(h *Hasher, n, queue int) *Workers {
	n = cmp.Or(max(n, 0), max(1, runtime.GOMAXPROCS(0)/2))
	w := &Workers{hasher: h, jobs: make(chan job, cmp.Or(max(queue, 0), n*QueuePerWorker)), closing: make(chan struct{})}
	w.close = sync.OnceFunc(func() { close(w.closing) })
	started := make(chan error)
	for range n {
		w.running.Go(func() { onThread(started, w.work) })
	}
	for range n {
		w.priority = cmp.Or(w.priority, <-started)
	}
	return w
}

// onThread calls f on a thread that f's goroutine owns, that ends with it, and that has a lower priority if it can be;
// what hinders it goes to started.
func onThread(started chan<- error, f func()) {
	runtime.LockOSThread() // and never unlocked
	if onMainThread() {
		// The main thread does not end with its goroutine, and its priority is what people take for that of the process.
		done := make(chan struct{})
		go func() {
			defer close(done)
			onThread(started, f)
		}()
		runtime.UnlockOSThread()
		<-done
		return
	}
	started <- lowerPriority()
	f()
}

// Priority returns nil if every worker runs at a lower priority, and otherwise why not. They work all the same.
func (w *Workers) Priority() error { return w.priority }

// Close ends the workers after what they have begun, and returns when they have ended. Who still waits gets ErrClosed.
func (w *Workers) Close() {
	w.close()
	w.running.Wait()
}

func (w *Workers) work() {
	for {
		select {
		case <-w.closing:
			return
		case j := <-w.jobs:
			if w.closed() {
				return // a select with two choices picks either
			}
			if err := j.ctx.Err(); err != nil {
				j.done <- answer{err: err} // nobody waits any more
				continue
			}
			var a answer
			a.text, a.right, a.err = j.work(w.hasher)
			j.done <- a
		}
	}
}

func (w *Workers) closed() bool {
	select {
	case <-w.closing:
		return true
	default:
		return false
	}
}

// do has a worker do the work. The error is ErrBusy, ErrClosed, ctx's, or the work's.
func (w *Workers) do(ctx context.Context, work func(h *Hasher) (string, bool, error)) (string, bool, error) {
	if w.closed() {
		return "", false, ErrClosed
	}
	done := make(chan answer, 1)
	select {
	case w.jobs <- job{ctx, work, done}:
	default:
		return "", false, ErrBusy
	}
	select {
	case a := <-done:
		return a.text, a.right, a.err
	case <-ctx.Done():
		return "", false, ctx.Err()
	case <-w.closing:
		return "", false, ErrClosed
	}
}

// Hash is [Hasher.Hash] by a worker. The error may also be ErrBusy, ErrClosed or ctx's.
func (w *Workers) Hash(ctx context.Context, password string) (stored string, err error) {
	if len(password) > BytesMax {
		return "", ErrTooLong // takes no place in the queue
	}
	stored, _, err = w.do(ctx, func(h *Hasher) (string, bool, error) {
		stored, err := h.Hash(password)
		return stored, false, err
	})
	return stored, err
}

// Verify is [Hasher.Verify] by a worker. The error may also be ErrBusy, ErrClosed or ctx's.
func (w *Workers) Verify(ctx context.Context, stored, password string) (right bool, err error) {
	if len(password) > BytesMax {
		return false, ErrTooLong
	}
	_, right, err = w.do(ctx, func(h *Hasher) (string, bool, error) {
		right, err := h.Verify(stored, password)
		return "", right, err
	})
	return right, err
}

// VerifyUnknown is [Hasher.VerifyUnknown] by a worker. The error may also be ErrBusy, ErrClosed or ctx's.
func (w *Workers) VerifyUnknown(ctx context.Context, password string) error {
	_, err := w.Verify(ctx, w.hasher.dummy, password)
	return err
}

// NeedsRehash is [Hasher.NeedsRehash].
func (w *Workers) NeedsRehash(stored string) bool { return w.hasher.NeedsRehash(stored) }
