//go:build unix

package upstream

import (
	"net"
	"syscall"
)

// quiet says whether a connection that waits for a request still stands, with nothing to read: a service that has closed it,
// or that speaks unasked, is not asked on it.
func quiet(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	var one [1]byte
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		_, _, failed = syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true
	})
	return err == nil && (failed == syscall.EAGAIN || failed == syscall.EWOULDBLOCK)
}
