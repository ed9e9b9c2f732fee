package services

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"dongne/internal/etcd"
	"dongne/internal/sim"
	"dongne/maelstrom/history"
	"dongne/maelstrom/services/relay"
)

// A storage is the etcd that the nodes of a run share: the servers e1 to e3. Each node reaches each of them through a relay
// of its own, and so do they each other.
type storage struct {
	names   []string
	servers *etcd.Cluster
	down    []bool // by server; whether it was killed
	log     io.Closer

	mu     sync.Mutex
	peers  []*peers               // guarded by mu until all are made; by server
	listen []map[etcd.Link]string // guarded by mu; by server
}

// peers is the address at which the other servers of a storage reach one: a connection says in its first request who
// opened it, and goes through the relay between the two.
type peers struct {
	sorter  *relay.Sorter
	unknown *relay.Relay // of connections that do not say it: probes of whether anybody is there
}

// startStorage makes the relays, and then starts the servers behind them.
func (c *cluster) startStorage(ctx context.Context) error {
	s := &storage{down: make([]bool, storeNodes), listen: make([]map[etcd.Link]string, storeNodes)}
	c.storage = s // whatever becomes of it, it is closed with the cluster
	for i := range storeNodes {
		s.names = append(s.names, fmt.Sprintf("e%d", i+1))
		s.listen[i] = map[etcd.Link]string{}
	}
	for i := range s.names {
		if err := c.relayServer(i); err != nil {
			return err
		}
	}
	log, err := c.logFile("etcd")
	if err != nil {
		return err
	}
	s.log = log
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	s.servers, err = etcd.Start(ctx, etcd.Config{Dir: filepath.Join(c.dir, "data"), Nodes: storeNodes, Output: newOutput(log), Advertise: s.advertise})
	return err
}

// relayServer makes the ways to one server: from each node, and from the other servers, which have one address for it.
func (c *cluster) relayServer(number int) (err error) {
	s := c.storage
	for _, from := range c.names {
		if c.links[[2]string{from, s.names[number]}], err = relay.Listen(s.dial(number, etcd.Client), &c.stats); err != nil {
			return err
		}
	}
	dial := s.dial(number, etcd.Peer)
	from := map[string]*relay.Relay{}
	for i, name := range s.names {
		if i != number {
			from[name] = relay.New(dial, &c.stats)
			c.links[[2]string{name, s.names[number]}] = from[name]
		}
	}
	p := &peers{unknown: relay.New(dial, &c.stats)}
	p.sorter, err = relay.Sort(func(head []byte) *relay.Relay { return cmp.Or(from[s.sender(head)], p.unknown) })
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.peers = append(s.peers, p)
	}
	return err
}

// dial connects to where a server listens.
func (s *storage) dial(number int, link etcd.Link) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		s.mu.Lock()
		addr := s.listen[number][link]
		s.mu.Unlock()
		if addr == "" {
			return nil, errDown
		}
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
}

// advertise notes where a server listens, and says where others find it: its peers at the sorter; nodes have their own
// relays, and whoever is not a node goes straight.
func (s *storage) advertise(number int, link etcd.Link, listen string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listen[number][link] = listen
	if link == etcd.Peer {
		return s.peers[number].sorter.Addr(), nil
	}
	return listen, nil
}

// sender is the server that a connection's first request comes from, "" if it does not say so. etcd's servers name in each
// message, but not in probes, the address at which others reach them (etcd's rafthttp, header X-PeerURLs).
func (s *storage) sender(head []byte) string {
	request, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil {
		return ""
	}
	at, err := url.Parse(request.Header.Get("X-PeerURLs"))
	if err != nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.peers, func(p *peers) bool { return p.sorter.Addr() == at.Host })
	if i < 0 {
		return ""
	}
	return s.names[i]
}

// endpoints are where a node finds the servers.
func (c *cluster) endpoints(node string) []string {
	var all []string
	for _, name := range c.storage.names {
		all = append(all, c.links[[2]string{node, name}].Addr())
	}
	return all
}

// kill returns whether there was a process.
func (s *storage) kill(number int) bool {
	if s.down[number] || s.servers.Kill(number) != nil {
		return false
	}
	s.down[number] = true
	return true
}

func (s *storage) signal(number int, signal syscall.Signal) bool {
	if signal == syscall.SIGSTOP {
		return s.servers.Pause(number) == nil
	}
	return s.servers.Resume(number) == nil
}

// launch starts the servers that were killed, and does not wait for them.
func (s *storage) launch() []string {
	launched := []string{}
	for i, name := range s.names {
		if s.down[i] && s.servers.Launch(i) == nil {
			s.down[i] = false
			launched = append(launched, name)
		}
	}
	return launched
}

// await returns when all servers answer.
func (s *storage) await(ctx context.Context, finding func(history.Finding)) {
	for i, name := range s.names {
		err := s.servers.Await(ctx, i)
		for err != nil && ctx.Err() == nil && s.servers.Restart(ctx, i) != nil { // its port was taken for a moment
		}
		if err != nil && ctx.Err() != nil {
			finding(history.Finding{Node: name, Kind: history.NotAnswering, Text: fmt.Sprintf("%s of the storage does not answer at the end: %v", name, err)})
		}
	}
}

func (s *storage) close() {
	for _, p := range s.peers {
		p.sorter.Close()
	}
	if s.servers != nil {
		s.servers.Close() // it fails only of a process that nobody can kill
	}
	if s.log != nil {
		s.log.Close()
	}
}

// cut cuts links so that nobody hears whom a partition silences. Where only one of two ever connects to the other, what the
// other says is lost: its answers.
func (c *cluster) cut(silenced sim.Cut, mode relay.Mode) {
	deaf := func(to, from string) bool { return slices.Contains(silenced[to], from) }
	for link, r := range c.links {
		from, to := link[0], link[1]
		switch {
		case deaf(to, from):
			r.Set(mode)
		case deaf(from, to) && !c.linked(to, from):
			r.Set(relay.Mute)
		}
	}
	if c.storage == nil {
		return
	}
	for i, p := range c.storage.peers {
		if len(silenced[c.storage.names[i]]) > 0 {
			p.unknown.Set(relay.Cut) // somebody who must not pass may be among them
		}
	}
}

// open ends all cuts.
func (c *cluster) open() {
	for _, r := range c.links {
		r.Set(relay.Open)
	}
	if c.storage != nil {
		for _, p := range c.storage.peers {
			p.unknown.Set(relay.Open)
		}
	}
}
