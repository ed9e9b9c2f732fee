package cluster

import (
	"bytes"
	"time"

	"dongne/maelstrom/history"
	"dongne/maelstrom/network"
	"dongne/maelstrom/service"
)

// A pump takes an endpoint's messages from the network when their time has come.
type pump struct {
	name   string
	wake   chan struct{} // a message was sent to the endpoint, or it came up
	write  func(batch []byte)
	handle func(network.Message) // instead of write
}

func (c *cluster) newPump(name string, write func([]byte)) *pump {
	return &pump{name: name, wake: make(chan struct{}, 1), write: write}
}

func (p *pump) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (c *cluster) startPump(p *pump) {
	c.pumps.Go(func() {
		timer := time.NewTimer(time.Hour)
		defer timer.Stop()
		var batch []byte
		for {
			var due time.Duration
			if batch, due = c.take(p, batch[:0]); len(batch) > 0 {
				p.write(batch)
				continue
			}
			timer.Reset(due - c.now())
			select {
			case <-p.wake:
			case <-timer.C:
			case <-c.stop:
				return
			}
		}
	})
}

// take returns the lines that are due for an endpoint, or when the next will be.
func (c *cluster) take(p *pump, batch []byte) ([]byte, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[p.name]; n != nil && (n.proc == nil || !n.ready) {
		return batch, network.Never // messages pile up
	}
	for len(batch) < batchBytes {
		m, ok := c.Network.Take(c.now(), p.name)
		if !ok {
			break
		}
		if c.Taken != nil {
			c.Taken(&m)
		}
		if p.handle != nil {
			c.mu.Unlock()
			p.handle(m)
			c.mu.Lock()
			continue
		}
		batch = m.AppendLine(batch)
	}
	return batch, c.Network.Due(c.now(), p.name)
}

// feed writes lines to a node. One that is gone does not get them.
func (c *cluster) feed(n *node, batch []byte) {
	c.mu.Lock()
	p := n.proc
	c.mu.Unlock()
	if p != nil {
		p.stdin.Write(batch) // fails when the process ends, which is noted elsewhere
	}
}

// send hands a message to the network; one for a client is there at once.
func (c *cluster) send(m network.Message) error {
	c.mu.Lock()
	m, err := c.Network.Send(c.now(), m)
	if err != nil {
		c.mu.Unlock()
		return err
	}
	if c.Sent != nil {
		c.Sent(&m)
	}
	if !history.IsClient(m.Dest) {
		p := c.services[m.Dest]
		if n := c.nodes[m.Dest]; n != nil {
			p = n.pump
		}
		c.mu.Unlock()
		p.signal()
		return nil
	}
	m, _ = c.Network.Take(c.now(), m.Dest)
	if c.Taken != nil {
		c.Taken(&m)
	}
	to, direct := c.callers[m.Dest]
	c.mu.Unlock()
	if !direct {
		to = c.inbox
	}
	select {
	case to <- m:
	case <-c.stop:
	}
	return nil
}

// line takes one line that a node printed.
func (c *cluster) line(n *node, line []byte) {
	c.mu.Lock()
	muted := n.muted
	c.mu.Unlock()
	if muted {
		return
	}
	line = bytes.Clone(line) // the message lives on
	m, finding := network.Inspect(n.name, line, c.Compat, c.presence)
	if finding == nil {
		if err := c.send(m); err == nil {
			return
		}
		_, finding = network.Inspect(n.name, line, c.Compat, c.presence) // a client that went in between
	}
	if finding == nil {
		return
	}
	if c.Compat { // upstream reads nothing of the node any more
		c.mu.Lock()
		n.muted = true
		c.mu.Unlock()
	}
	c.find(*finding)
}

func (c *cluster) presence(name string) network.Presence {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.Network.Has(name):
		return network.Present
	case c.gone[name]:
		return network.Gone
	}
	return network.Absent
}

// serve lets a service answer.
func (c *cluster) serve(name string, s service.Service, m network.Message) {
	reply, ok := s.Handle(m.Src, m.Body)
	if !ok {
		return
	}
	c.send(network.Message{Src: name, Dest: m.Src, Body: service.Reply(m.Body, reply)}) // fails when the asker is gone
}
