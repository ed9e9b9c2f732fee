//go:build !linux

package gateway

import "syscall"

// OwnGroup can ask for no more here: only Linux ends a child with its parent.
func OwnGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
