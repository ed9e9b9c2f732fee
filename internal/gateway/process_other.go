//go:build !linux

package gateway

import "syscall"

// ownGroup can ask for no more here: only Linux ends a child with its parent.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
