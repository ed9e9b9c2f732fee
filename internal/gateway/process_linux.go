package gateway

import "syscall"

// OwnGroup puts a child into a process group of its own, and lets it end with the thread that starts it.
func OwnGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
