//go:build !linux

package cluster

import "syscall"

// ownGroup can ask for no more here: only Linux ends a child with its parent.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
