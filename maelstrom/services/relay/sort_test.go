package relay

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
)

// TestSort: connections go by the relay that their head names, from its first byte on; a cut hits one and not the other.
func TestSort(t *testing.T) {
	var stats Stats
	relays := map[string]*Relay{}
	servers := map[string]chan net.Conn{}
	for _, name := range []string{"one", "two"} {
		servers[name] = make(chan net.Conn, 8)
		relays[name] = New(func(context.Context) (net.Conn, error) {
			ours, theirs := net.Pipe()
			servers[name] <- theirs
			return ours, nil
		}, &stats)
	}
	s, err := Sort(func(head []byte) *Relay {
		name, _, _ := strings.Cut(string(bytes.TrimPrefix(head, []byte("to "))), "\r\n")
		return relays[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t}
	say := func(parts ...string) net.Conn {
		t.Helper()
		client, err := net.Dial("tcp", s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range parts {
			w.write(client, part)
		}
		return client
	}
	one, two := say("to o", "ne\r\n\r", "\nbody"), say("to two\r\n\r\n")
	w.read(<-servers["one"], "to one\r\n\r\nbody")
	server := <-servers["two"]
	w.read(server, "to two\r\n\r\n")
	relays["one"].Set(Cut)
	w.wantClosed(one)
	w.wantClosed(say("to one\r\n\r\n"))
	go io.WriteString(server, "still here") // a pipe holds nothing
	w.read(two, "still here")
	w.wantClosed(say("to nobody\r\n\r\n"))
	silent := say("to on") // it never says the rest
	s.Close()
	w.wantClosed(silent)
	w.wantClosed(two)
}

// TestReadHead: what is not cut off after a head is read up to the most that is looked at.
func TestReadHead(t *testing.T) {
	ours, theirs := net.Pipe()
	go func() { io.WriteString(theirs, strings.Repeat("x", 2*headMax)) }()
	if head := readHead(ours); len(head) != headMax {
		t.Errorf("%d bytes of a head without an end", len(head))
	}
	ours.Close()
	theirs.Close()
}
