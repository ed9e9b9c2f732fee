package password

import (
	"os"
	"strconv"
	"syscall"
	"testing"
)

// loweredThreads returns how many threads of this process have a worker's priority.
func loweredThreads(t *testing.T) (n int) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		// The system call returns 20 - niceness, so that it is positive. A thread that has just ended is none.
		if priority, err := syscall.Getpriority(syscall.PRIO_PROCESS, id); err == nil && priority == 20-niceness {
			n++
		}
	}
	return n
}

// The threads of the workers, and no other, have a lower priority, also when the runtime makes new threads while they
// work; and none outlives them.
func TestThreadsOfWorkers(t *testing.T) {
	before := loweredThreads(t) // a test that came before may still be losing its own
	g := newGated(t)
	w := NewWorkers(g.Hasher, 3, 0)
	if err := w.Priority(); err != nil {
		t.Fatalf("Priority: %v", err)
	}
	for range 3 {
		go w.VerifyUnknown(t.Context(), "pass")
	}
	for range 3 {
		<-g.entered
	}
	eventually(t, "earlier threads have ended", func() bool { return before == 0 || loweredThreads(t) <= 3 })
	release := blockThreads(t, 20)
	if n := loweredThreads(t); n != 3 {
		t.Errorf("%d threads have a lower priority, want 3", n)
	}
	release()
	for range 3 {
		g.leave <- struct{}{}
	}
	w.Close()
	eventually(t, "the threads have ended", func() bool { return loweredThreads(t) == 0 })
}

// blockThreads has n threads wait in a system call, so that the runtime needs new ones.
func blockThreads(t *testing.T, n int) (release func()) {
	t.Helper()
	var pipe [2]int
	if err := syscall.Pipe(pipe[:]); err != nil {
		t.Fatal(err)
	}
	entering, left := make(chan struct{}), make(chan struct{})
	for range n {
		go func() {
			entering <- struct{}{}
			syscall.Read(pipe[0], make([]byte, 1))
			left <- struct{}{}
		}()
	}
	for range n {
		<-entering
	}
	return func() {
		syscall.Write(pipe[1], make([]byte, n))
		for range n {
			<-left
		}
		syscall.Close(pipe[0])
		syscall.Close(pipe[1])
	}
}

// The checker sees a thread that has the priority and is no worker's.
func TestThreadsOfWorkersMutant(t *testing.T) {
	eventually(t, "no threads", func() bool { return loweredThreads(t) == 0 })
	started, end, ended := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		onThread(started, func() { <-end })
		close(ended)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if n := loweredThreads(t); n != 1 {
		t.Errorf("%d threads have a lower priority, want 1", n)
	}
	close(end)
	<-ended
	eventually(t, "the thread has ended", func() bool { return loweredThreads(t) == 0 })
}
