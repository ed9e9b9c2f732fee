package password

import (
	"fmt"
	"os"
	"syscall"
)

// niceness of a worker's thread. Against a thread of the default 0 it gets about a tenth of a processor: little enough
// not to be felt, and enough that a log-in ends when something else is busy for long.
const niceness = 10

func onMainThread() bool { return syscall.Gettid() == os.Getpid() }

// lowerPriority lowers the priority of the calling thread: on Linux, in spite of the constant's name, the id of a thread
// means that thread alone (setpriority(2)).
func lowerPriority() error {
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, syscall.Gettid(), niceness); err != nil {
		return fmt.Errorf("password: lower the priority of a worker: %w", err)
	}
	return nil
}
