//go:build !linux

package stream

import "net"

type poller struct{}

func newPoller(*Hub) *poller { return nil }

func (*poller) stop() {}

func (h *Hub) attach(c *Conn, nc net.Conn) error {
	attachNet(c, nc)
	return nil
}
